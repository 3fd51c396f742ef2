"""The owner key: one for all programs of a user, and nobody else knows it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from dispy.security import owner_key as module
from dispy.security.owner_key import SIZE, owner_key

STARTERS = 8


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Each test is a program of its own."""
    module._key_of_this_program.cache_clear()
    yield
    module._key_of_this_program.cache_clear()


@pytest.fixture
def path(home: Path) -> Path:
    return home / "state" / "dispy" / "owner"


def test_the_key_is_made_once_and_stays(path: Path) -> None:
    key = owner_key()
    assert len(key) == SIZE
    assert path.read_bytes() == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["owner"]
    assert owner_key() == key


def test_another_state_directory_is_another_owner(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = owner_key()
    monkeypatch.setenv("XDG_STATE_HOME", str(path.parent / "other"))
    assert owner_key() != key


def test_threads_that_start_at_once_get_one_key(path: Path) -> None:
    barrier = Barrier(STARTERS)

    def start(_: int) -> bytes:
        barrier.wait()
        return owner_key()

    with ThreadPoolExecutor(STARTERS) as pool:
        keys = set(pool.map(start, range(STARTERS)))
    assert keys == {path.read_bytes()}
    assert os.listdir(path.parent) == ["owner"]


def test_programs_that_start_at_once_get_one_key(path: Path) -> None:
    script = (
        "import sys; from dispy.security.owner_key import owner_key; sys.stdout.write(owner_key().hex())"
    )
    programs = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert {program.communicate()[0] for program in programs} == {path.read_bytes().hex()}


def make_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.chmod(0o640),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(bytes(SIZE + 1)),
        lambda path: path.parent.chmod(0o755),
        make_link,
        make_pipe,
    ],
)
def test_what_cannot_be_trusted_is_not_used(
    path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None]
) -> None:
    """The program goes on with a key of its own, and says once why files are sent again."""
    before = owner_key()
    spoil(path)
    key = owner_key()
    assert len(key) == SIZE
    assert key != before
    assert owner_key() == key
    (message,) = caplog.messages
    assert str(path.parent) in message
    assert "do not use files again" in message
    assert key.hex() not in message
