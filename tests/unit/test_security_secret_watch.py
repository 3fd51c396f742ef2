"""A secret file that changes while a daemon runs: what is good counts, what is not changes nothing."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from dispy.errors import UsageError
from dispy.security import key_text, new_files, secrets
from dispy.security.secret_watch import SecretWatch
from dispy.security.secrets import Secret


class Stage:
    """A file with a secret, and its watch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = key_text.generate()
        self.put(self.text)
        self.fault: UsageError | None = None
        self.watch = SecretWatch(
            str(path), secrets.choose(secret_file=str(path)), lambda _: self.fault, lambda _: None
        )

    def put(self, text: str, mode: int = 0o600) -> None:
        self.path.write_text(text)
        self.path.chmod(mode)

    def look(self) -> Secret | None:
        return self.watch.look(str(self.path))


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "secret")


def test_a_file_that_is_the_same_is_no_news(stage: Stage) -> None:
    assert stage.look() is None
    os.utime(stage.path)
    assert stage.look() is None


def test_revoked_keys_and_new_lines_are_news(stage: Stage) -> None:
    other = key_text.generate()
    stage.put(f"{other}\n{stage.text}\nrevoked user alice\n")
    found = stage.look()
    assert found is not None
    assert len(found.keys.lines) == 2
    assert len(found.keys.revoked) == 1
    assert stage.look() is None


def test_a_file_that_was_replaced_is_read(stage: Stage) -> None:
    stage.look()
    new_files.replace(stage.path, f"{stage.text}\nrevoked node n7\n".encode())
    assert stage.look() is not None


@pytest.mark.parametrize("way", ["gone", "empty", "open to others", "damaged", "not allowed here"])
def test_what_is_wrong_is_told_once_and_what_is_right_again_counts(
    stage: Stage, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage.look()
    good = f"{stage.text}\nrevoked user alice\n"
    match way:
        case "gone":
            stage.path.unlink()
        case "empty":
            stage.put("")
        case "open to others":
            stage.put(good, 0o644)
        case "damaged":
            stage.put(f"{stage.text}\nrevoked everybody")
        case _:
            stage.fault = UsageError("not here")
            stage.put(good)
    with caplog.at_level(logging.WARNING, "dispy"):
        assert stage.look() is None
        assert stage.look() is None
    assert len(caplog.messages) == 1
    assert "the secret stays what it was" in caplog.messages[0]
    stage.fault = None
    if stage.path.exists():
        stage.path.unlink()
    stage.put(good + "\n")
    assert stage.look() is not None


def test_replacing_a_file_keeps_mode_and_what_links_to_it(tmp_path: Path) -> None:
    path, link = tmp_path / "secret", tmp_path / "link"
    path.write_text("before")
    path.chmod(0o640)
    link.symlink_to(path)
    new_files.replace(link, b"after")
    assert link.is_symlink()
    assert path.read_text() == "after"
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link", "secret"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_replacing_a_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("before")
    os.chown(path, 12345, 12346)
    new_files.replace(path, b"after")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)


def test_a_file_that_cannot_be_replaced_says_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        new_files.replace(tmp_path / "none", b"")
    assert os.listdir(tmp_path) == []
