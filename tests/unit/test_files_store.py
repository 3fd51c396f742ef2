"""The store lends files to jobs, and notices what these do to them."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dispy.files.checkout import put_files
from dispy.files.store import Store, filesystem
from dispy.files.untrusted_directory import CHUNK
from dispy.protocol.files import FileEntry
from dispy.protocol.limits import SMALL_FILE_MAX
from tests.trees import open_tree


def put_into(
    store: Store, entries: list[FileEntry], work: Path, *more: Any, **named: Any
) -> dict[bytes, int]:
    """Put files into a directory, given its path."""
    with open_tree(work) as tree:
        return put_files(store, entries, tree, *more, **named)


SIZES = [100, SMALL_FILE_MAX + 1, 3 * CHUNK]

AtSecondLook = Callable[[Callable[[], object]], Any]


class Place:
    """A store with one file, and working directories."""

    def __init__(self, base: Path, size: int) -> None:
        self.base = base
        self.content = os.urandom(size)
        self.entry = FileEntry("a/b", hashlib.sha256(self.content).digest(), size, 0o640, 10**18)
        self.store = Store(base / "store")
        self.receive()

    def receive(self) -> None:
        """It comes from a client."""
        if len(self.content) <= SMALL_FILE_MAX:
            assert self.store.add(self.entry.digest, self.content)
            return
        part = self.store.begin(self.entry.digest, self.entry.size)
        part.write(0, self.content)
        assert part.finish()

    def put(
        self, work: str, is_wanted: Callable[[], bool] = lambda: True, store: Store | None = None
    ) -> Path | None:
        """Put it into a working directory; None if it is not in the store."""
        directory = self.base / work
        directory.mkdir(exist_ok=True)
        path = directory / "a" / "b"
        if put_into(store or self.store, [self.entry], directory, is_wanted):
            assert not path.exists()
            return None
        assert path.read_bytes() == self.content
        assert os.listdir(path.parent) == ["b"]
        status = path.stat()
        assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o640, 10**18)
        return path


@pytest.fixture(params=SIZES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if filesystem(tmp_path) != "ext4":
        pytest.skip("files are lent on ext4 only")
    return Place(tmp_path, request.param)


def put(place: Place, work: str, *args: Any, **kwargs: Any) -> Path:
    path = place.put(work, *args, **kwargs)
    assert path is not None
    return path


def test_a_file_is_lent_to_one_at_a_time(place: Place) -> None:
    first = put(place, "first")
    second = put(place, "second")
    assert [path.stat().st_nlink for path in (first, second)] == [2, 1]
    second.write_bytes(b"changed")
    assert first.read_bytes() == place.content
    first.unlink()
    third = put(place, "third", store=Store(place.base / "store"))
    assert third.stat().st_nlink == 2


def append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def overwrite(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"else")


def overwrite_mapped(path: Path) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        assert view[0:4]  # mapped for reading first
        view[0:4] = b"else"


def overwrite_secretly(path: Path) -> None:
    overwrite(path)
    os.utime(path, ns=(10**18, 10**18))


def shorten(path: Path) -> None:
    os.truncate(path, 10)


@pytest.mark.parametrize("is_returned", [False, True])
@pytest.mark.parametrize("change", [append, overwrite, overwrite_mapped, overwrite_secretly, shorten])
def test_what_a_job_changes_is_dropped(
    place: Place, change: Callable[[Path], None], is_returned: bool
) -> None:
    """For the one who lent it as for other nodes; and the job keeps what it has."""
    path = put(place, "first")
    change(path)
    changed = path.read_bytes()
    assert changed != place.content
    if is_returned:
        path.unlink()
    other = Store(place.base / "store")
    assert place.put("second", store=other) is None
    assert place.put("third") is None
    place.receive()
    assert put(place, "third").stat().st_nlink == 2
    assert is_returned or path.read_bytes() == changed


@pytest.mark.parametrize("change", [overwrite, shorten])
def test_what_changes_while_it_is_copied_is_not_used(
    place: Place, at_second_look: AtSecondLook, change: Callable[[Path], None]
) -> None:
    path = put(place, "first")
    is_wanted = at_second_look(lambda: change(path))
    assert place.put("second", is_wanted) is None
    assert is_wanted.looks >= 2


def test_what_may_be_written_to_at_any_time_is_not_used_itself(
    place: Place, at_second_look: AtSecondLook
) -> None:
    """A page that is mapped for writing takes a second write without any time: what was looked through is a copy."""
    path = put(place, "first")
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[0] = view[0]

        def write() -> None:
            view[0] ^= 255

        second = put(place, "second", at_second_look(write))
        assert second.stat().st_nlink == 1


def test_a_file_that_nobody_may_read_is_not_lent(place: Place) -> None:
    place.entry = FileEntry("a/b", place.entry.digest, place.entry.size, 0o200, 10**18)
    directory = place.base / "work"
    directory.mkdir()
    assert put_into(place.store, [place.entry], directory) == {}
    assert (directory / "a" / "b").stat().st_nlink == 1


def test_what_a_job_has_kept_mapped_is_not_used_itself(place: Place) -> None:
    """Its name is gone, and a second write to a page that is mapped changes no time: nobody would see it."""
    path = put(place, "first")
    with open(path, "r+b") as file:
        view = mmap.mmap(file.fileno(), 0)
    view[0] = view[0]
    path.unlink()
    other = Store(place.base / "store")
    for store, name in ((place.store, "second"), (other, "third")):
        assert put(place, name, store=store).stat().st_nlink == 1
    view[0] ^= 255
    for name in ("second", "third"):
        assert (place.base / name / "a" / "b").read_bytes() == place.content
    for store, name in ((place.store, "fourth"), (other, "fifth")):
        assert place.put(name, store=store) is None
    view.close()


def test_what_a_job_no_longer_has_open_is_lent_again(place: Place) -> None:
    path = put(place, "first")
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[0] = view[0]
    path.unlink()
    assert put(place, "second").stat().st_nlink == 2


def test_another_mode_is_not_given_to_the_file_in_the_store(place: Place) -> None:
    """It is put there anew: the other name of the file would have that mode, too."""
    path = put(place, "first")
    (inside,) = [found for found in (place.base / "store").glob("??/*") if len(found.name) == 64]
    assert os.path.samefile(path, inside)
    entry = FileEntry("a/b", place.entry.digest, place.entry.size, 0o777, 10**18)
    assert put_into(place.store, [entry], place.base / "first") == {}
    assert not os.path.samefile(path, inside)
    assert [found.stat().st_mode & 0o777 for found in (path, inside)] == [0o777, 0o640]
    # Of a file that has no other name the mode is corrected.
    inode = path.stat().st_ino
    path.chmod(0o700)
    assert put_into(place.store, [entry], place.base / "first") == {}
    assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (inode, 0o777)
