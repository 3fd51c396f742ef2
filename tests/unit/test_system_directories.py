"""The user's own directories: private, and not used where somebody else could have put them."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dispy.errors import StateDirectoryError
from dispy.system import directories
from dispy.system.directories import (
    GIVEN,
    find_own,
    memory_directory,
    own_directory,
    own_directory_for,
    private_directory,
    runtime_path,
    shared_memory,
    shared_with,
    state_directory,
    temporary_directory,
    write_private,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_missing_directory_is_made_for_this_user_alone(tmp_path: Path) -> None:
    path = private_directory(tmp_path / "above" / "own")
    assert path.is_dir()
    assert mode(path) == 0o700


def test_a_private_directory_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert mode(private_directory(tmp_path / "own")) == 0o700
    finally:
        os.umask(before)


def test_a_private_directory_that_exists_is_kept(tmp_path: Path) -> None:
    path = private_directory(tmp_path / "own")
    (path / "file").write_text("x")
    assert private_directory(path) == path
    assert (path / "file").read_text() == "x"


@pytest.mark.parametrize("bits", [0o755, 0o750, 0o770, 0o701, 0o777])
def test_a_directory_open_to_others_is_refused_and_not_repaired(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "own"
    path.mkdir()
    path.chmod(bits)
    with pytest.raises(StateDirectoryError, match="chmod 700"):
        private_directory(path)
    assert mode(path) == bits


def test_a_link_to_a_private_directory_is_refused(tmp_path: Path) -> None:
    target = private_directory(tmp_path / "target")
    (tmp_path / "own").symlink_to(target)
    with pytest.raises(StateDirectoryError):
        private_directory(tmp_path / "own")


def test_a_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StateDirectoryError):
        private_directory(tmp_path / "own")
    assert not (tmp_path / "nowhere").exists()


def test_a_file_in_the_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("x")
    with pytest.raises(StateDirectoryError):
        private_directory(tmp_path / "own")


def test_a_directory_below_a_file_cannot_be_made_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StateDirectoryError, match="XDG_STATE_HOME"):
        private_directory(tmp_path / "file" / "own")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    path = private_directory(tmp_path / "own")
    os.chown(path, 12345, 12345)
    with pytest.raises(StateDirectoryError):
        private_directory(path)


def test_state_lies_where_the_environment_says(home: Path) -> None:
    assert state_directory() == home / "state" / "dispy"
    assert mode(home / "state" / "dispy") == 0o700


def test_state_lies_in_the_home_directory_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_directory() == tmp_path / ".local" / "state" / "dispy"


def test_what_runs_lies_where_the_environment_says(home: Path) -> None:
    (home / "run").mkdir(mode=0o700, exist_ok=True)
    assert runtime_path() == home / "run" / "dispy"


@pytest.mark.parametrize("base", [None, "/there/is/no/such/directory"])
def test_what_runs_lies_in_the_temporary_directory_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str | None
) -> None:
    if base is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", base)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert runtime_path() == tmp_path / f"dispy-{os.getuid()}"


def test_a_private_file_can_be_read_by_this_user_only(tmp_path: Path) -> None:
    write_private(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert mode(tmp_path / "file") == 0o600


def test_a_private_file_replaces_one_that_others_could_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o644)
    write_private(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert mode(tmp_path / "file") == 0o600


def test_a_private_file_that_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="file"):
        write_private(tmp_path / "file", b"content")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


# Containers.


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No home, nothing to write to but what a test makes; returns where."""
    for name in ("HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(directories, "_home", lambda: None)
    monkeypatch.setattr(directories, "MEMORY", tmp_path / "shm")
    monkeypatch.setattr(directories, "_said", set())
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "tmp"), os.getcwd()])
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return tmp_path


def test_the_current_directory_is_not_for_temporary_files(bare: Path) -> None:
    with pytest.raises(StateDirectoryError) as caught:
        temporary_directory()
    for text in (
        "tried /tmp, /var/tmp, /usr/tmp",
        str(bare / "shm"),
        "set TMPDIR",
        "docker run --tmpfs /tmp",
    ):
        assert text in str(caught.value)
    assert list((bare / "here").iterdir()) == []


def test_without_a_temporary_directory_memory_will_do(bare: Path, caplog: pytest.LogCaptureFixture) -> None:
    (bare / "shm").mkdir()
    for _ in range(3):
        assert temporary_directory() == bare / "shm"
    assert caplog.text.count(f"files go to {bare / 'shm'}") == 1
    assert "set TMPDIR" in caplog.text


@pytest.mark.parametrize("name", ["XDG_RUNTIME_DIR", "XDG_STATE_HOME"])
def test_without_a_temporary_directory_another_of_the_user_comes_first(
    bare: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for directory in ("shm", "other"):
        (bare / directory).mkdir()
    monkeypatch.setenv(name, str(bare / "other"))
    assert temporary_directory() == bare / "other"


def test_a_temporary_directory_that_a_program_has_chosen_is_taken(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(bare / "here"))
    assert temporary_directory() == bare / "here"


def test_where_there_is_no_home_state_is_temporary_and_that_is_said(
    bare: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (bare / "shm").mkdir()
    (bare / "file").write_text("x")
    caplog.set_level(logging.INFO)
    for home in (None, bare / "file"):
        monkeypatch.setattr(directories, "_home", lambda home=home: home)
        assert state_directory() == bare / "shm" / f"dispy-state-{os.getuid()}"
        assert mode(state_directory()) == 0o700
    assert caplog.text.count("set XDG_STATE_HOME") == 2
    assert "there is no home directory" in caplog.text
    assert "Not a directory" in caplog.text


def test_state_that_others_could_have_written_is_refused_and_not_put_elsewhere(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bare / "shm").mkdir()
    state = bare / "home" / ".local" / "state" / "dispy"
    state.mkdir(parents=True, mode=0o777)
    state.chmod(0o777)
    monkeypatch.setattr(directories, "_home", lambda: bare / "home")
    with pytest.raises(StateDirectoryError, match="chmod 700"):
        state_directory()


def test_a_home_that_is_no_absolute_path_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "relative")
    assert directories._home() is None


def test_where_there_is_no_memory_file_system_large_data_is_on_disk(
    tmp_path: Path, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert shared_memory() is None
    assert memory_directory() == tmp_path / f"dispy-memory-{os.getuid()}"
    (bare / "shm").write_text("not a directory")
    assert shared_memory() is None
    (bare / "shm").unlink()
    (bare / "shm").mkdir()
    assert shared_memory() == memory_directory() == bare / "shm" / f"dispy-{os.getuid()}"


def _file(path: Path) -> None:
    path.write_text("")


def _open_to_all(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def _link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir(mode=0o700)
    path.symlink_to("elsewhere")


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("plant", [_file, _open_to_all, _link, _dangling, os.mkfifo])
@pytest.mark.parametrize("mode_", [0o700, 0o711])
def test_what_is_planted_costs_a_warning_and_another_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, plant: Callable[[Path], None], mode_: int
) -> None:
    """A place that nobody could know, and that the next one who looks finds again."""
    path = tmp_path / "dispy-1"
    plant(path)
    before = path.lstat()
    assert find_own(path, mode_) == path
    other = own_directory(path, mode_)
    assert other.parent == tmp_path
    assert other.name.startswith("dispy-1~")
    assert mode(other) == mode_
    assert own_directory(path, mode_) == find_own(path, mode_) == other
    assert caplog.text.count(f"{path} is not a directory of this user alone") == 1
    assert path.lstat() == before
    assert not list((tmp_path / "elsewhere").glob("*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make directories of others")
def test_what_others_have_made_with_such_a_name_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "dispy-1"
    for name in ("dispy-1", "dispy-1~a", "dispy-1~b"):
        (tmp_path / name).mkdir(mode=0o700)
        os.chown(tmp_path / name, 65534, -1)
    (tmp_path / "dispy-1~c").mkdir()
    (tmp_path / "dispy-1~c").chmod(0o777)
    (tmp_path / "dispy-1~d").symlink_to(tmp_path)
    other = own_directory(path)
    assert other.name not in {f"dispy-1~{letter}" for letter in "abcd"}
    assert (other.stat().st_uid, mode(other)) == (os.getuid(), 0o700)


def test_a_usual_place_that_is_ours_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert own_directory(tmp_path / "own") == find_own(tmp_path / "own") == tmp_path / "own"
    (tmp_path / "own~x").mkdir(mode=0o700)
    assert own_directory(tmp_path / "own") == tmp_path / "own"
    assert own_directory_for(tmp_path / "own~x", "account") == tmp_path / "own-account"
    assert mode(tmp_path / "own-account") == 0o711
    assert not caplog.text


def test_where_none_can_be_made_beside_a_plant_it_is_said(tmp_path: Path) -> None:
    """Not even by root: the directory around it is gone when one is to be made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirectoryError, match="none can be made beside it"):
        own_directory(tmp_path / "file" / "own")


def test_programs_find_the_memory_of_a_node_in_any_place_of_its_user(bare: Path) -> None:
    (bare / "shm").mkdir()
    usual = bare / "shm" / f"dispy-{os.getuid()}"
    usual.write_text("planted")
    base = shared_memory()
    assert base is not None
    assert base != usual
    assert shared_with(b"node") == ""
    (base / b"node".hex() / GIVEN).mkdir(mode=0o700, parents=True)
    assert shared_with(b"node") == str(base / b"node".hex())
    usual.unlink()
    assert shared_memory() == usual
    assert shared_with(b"node") == str(base / b"node".hex())
