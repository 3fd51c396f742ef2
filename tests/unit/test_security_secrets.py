"""The secret: there is always one, only its user can read it, and several programs agree on it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from dispy.errors import StateDirectoryError, UsageError
from dispy.security import key_text, secrets
from dispy.security.keys import SIZE

STARTERS = 8


def secret_path(home: Path) -> Path:
    return home / "state" / "dispy" / "secret"


def put_own(home: Path, text: bytes, mode: int = 0o600) -> Path:
    """Put a secret of the user's own where it belongs."""
    secrets.own()
    path = secret_path(home)
    path.write_bytes(text)
    path.chmod(mode)
    return path


def test_the_users_own_secret_is_made_on_first_use(home: Path) -> None:
    secret = secrets.choose()
    assert secret.is_own
    assert len(secret.key) == SIZE
    assert stat.S_IMODE(secret_path(home).stat().st_mode) == 0o600


def test_the_users_own_secret_stays_the_same(home: Path) -> None:
    assert secrets.own() == secrets.own()


def test_another_user_has_another_secret(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = secrets.own()
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "other"))
    assert secrets.own().key != first.key


def test_nothing_but_the_secret_is_left_in_the_directory(home: Path) -> None:
    secrets.own()
    assert os.listdir(secret_path(home).parent) == ["secret"]


def test_threads_that_start_at_once_get_one_secret(home: Path) -> None:
    barrier = Barrier(STARTERS)

    def start() -> bytes:
        barrier.wait()
        return secrets.own().key

    with ThreadPoolExecutor(STARTERS) as pool:
        keys = {future.result() for future in [pool.submit(start) for _ in range(STARTERS)]}
    assert len(keys) == 1
    assert os.listdir(secret_path(home).parent) == ["secret"]


def test_processes_that_start_at_once_get_one_secret(home: Path) -> None:
    program = "from dispy.security import key_text, secrets; input(); print(secrets.own().fingerprint())"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert set(outputs) == {secrets.own().fingerprint() + "\n"}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_an_own_secret_that_others_can_reach_is_refused(home: Path, mode: int) -> None:
    put_own(home, key_text.generate().encode(), mode)
    with pytest.raises(StateDirectoryError, match="remove it"):
        secrets.own()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_an_own_secret_of_another_user_is_refused(home: Path) -> None:
    os.chown(put_own(home, key_text.generate().encode()), 12345, 12345)
    with pytest.raises(StateDirectoryError):
        secrets.own()


def test_an_own_secret_that_is_a_link_is_refused(home: Path) -> None:
    path = put_own(home, b"")
    (home / "elsewhere").write_text(key_text.generate())
    (home / "elsewhere").chmod(0o600)
    path.unlink()
    path.symlink_to(home / "elsewhere")
    with pytest.raises(StateDirectoryError):
        secrets.own()


@pytest.mark.parametrize("text", [b"", b"\n", b"\xff\xfe\n"], ids=["empty", "blank", "binary"])
def test_an_own_secret_that_is_none_is_refused(home: Path, text: bytes) -> None:
    put_own(home, text)
    with pytest.raises(StateDirectoryError):
        secrets.own()


def test_a_given_secret_is_not_the_users_own(home: Path) -> None:
    assert not secrets.choose("typed").is_own
    assert not secret_path(home).exists()


def test_a_given_secret_comes_before_that_of_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(secrets.VARIABLE, "of the environment")
    assert secrets.choose().key == key_text.stretch("of the environment")
    assert secrets.choose("given").key == key_text.stretch("given")


def test_a_secret_may_lie_in_a_file(home: Path) -> None:
    path = home / "file"
    path.write_text("  of the file\n")
    path.chmod(0o600)
    assert secrets.choose(secret_file=str(path)).key == key_text.stretch("of the file")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_secret_file_that_others_can_read_is_refused(home: Path, mode: int) -> None:
    path = home / "file"
    path.write_text("secret")
    path.chmod(mode)
    with pytest.raises(UsageError, match="chmod 600"):
        secrets.choose(secret_file=str(path))


@pytest.mark.parametrize("text", [b"", b" \n", b"\xff\xfe"], ids=["empty", "blank", "binary"])
def test_a_secret_file_without_a_secret_is_refused(home: Path, text: bytes) -> None:
    path = home / "file"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="secret file"):
        secrets.choose(secret_file=str(path))


def test_a_missing_secret_file_is_told(home: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        secrets.choose(secret_file=str(home / "missing"))


def test_a_secret_and_a_file_together_are_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="one of them"):
        secrets.choose("secret", str(home / "file"))


def test_a_generated_secret_is_its_own_key() -> None:
    text = key_text.generate()
    assert key_text.stretch(text).hex() in text


def test_generated_secrets_differ() -> None:
    assert key_text.generate() != key_text.generate()


def test_a_typed_secret_is_stretched_to_a_key_that_does_not_show_it() -> None:
    key = key_text.stretch("pass")
    assert len(key) == SIZE
    assert b"pass" not in key
    assert key_text.stretch("pass") == key != key_text.stretch("Pass")


@pytest.mark.parametrize("text", ["dispy1-", "dispy1-zz", "dispy1-" + "ab" * 31, "dispy1-" + "ab" * 33])
def test_what_only_looks_like_a_generated_secret_counts_as_typed(text: str) -> None:
    assert len(key_text.stretch(text)) == SIZE


def test_a_fingerprint_tells_equal_secrets_and_does_not_show_the_key() -> None:
    one, other = secrets.choose("one"), secrets.choose("other")
    assert one.fingerprint() == secrets.choose("one").fingerprint() != other.fingerprint()
    assert one.fingerprint() not in one.key.hex()
