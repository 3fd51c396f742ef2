"""A file that another node receives is copied while it comes, and only what was found to be right is used."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dispy.files.checkout import put_files
from dispy.files.copy_in_progress import Following
from dispy.files.store import FOLLOWED_MIN, Store, filesystem
from dispy.files.stores import Stores
from dispy.files.untrusted_directory import COPY_MAX
from dispy.protocol.files import FileEntry
from dispy.protocol.limits import SMALL_FILE_MAX
from tests.trees import open_tree


def put_into(
    store: Store, entries: list[FileEntry], work: Path, *more: Any, **named: Any
) -> dict[bytes, int]:
    """Put files into a directory, given its path."""
    with open_tree(work) as tree:
        return put_files(store, entries, tree, *more, **named)


SIZE = 2 << 20
HALF = SIZE // 2


def bytes_read() -> int:
    """By this process, copies within the kernel included."""
    with open("/proc/self/io") as file:
        return int(file.readline().split()[1])


class Pair:
    """Two nodes with one store, and a file that the first receives: half of it has come."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.content = os.urandom(SIZE)
        self.entry = FileEntry("a/b", hashlib.sha256(self.content).digest(), SIZE, 0o640, 10**18)
        self.stores = [Store(base / "store" / "owner") for _ in range(2)]
        for name in ("first", "second"):
            (base / name).mkdir()
        self.part = self.stores[0].begin(self.entry.digest, SIZE)
        self.part.write(0, self.content[:HALF])
        self.copy = Following(self.part.path, lambda: open_tree(base / "second"))
        self.read = 0
        """Bytes that were read or copied when it was put where the second one's job finds it."""

    def complete(self) -> Path:
        """The rest comes, and the first node puts the file where its job finds it."""
        self.part.write(HALF, self.content[HALF:])
        assert self.part.finish()
        assert put_into(self.stores[0], [self.entry], self.base / "first") == {}
        return self.base / "first" / "a" / "b"

    def put(self) -> Path:
        """The second node does."""
        begun: dict[bytes, Following | None] = {self.entry.digest: self.copy}
        before = bytes_read()
        assert put_into(self.stores[1], [self.entry], self.base / "second", begun=begun) == {}
        self.read = bytes_read() - before
        assert not begun
        path = self.base / "second" / "a" / "b"
        assert path.read_bytes() == self.content
        status = path.stat()
        assert (status.st_mode & 0o777, status.st_mtime_ns, status.st_nlink) == (0o640, 10**18, 1)
        assert os.listdir(path.parent) == ["b"]
        return path

    def made(self) -> tuple[int, int]:
        """The copy: inode and size."""
        status = os.fstat(self.copy._made)
        return status.st_ino, status.st_size


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def wanted() -> bool:
    return True


def alter(path: Path, place: int = SIZE - 100) -> Callable[[], None]:
    """A job writes to what it was lent; returns what undoes that."""
    before = path.read_bytes()[place : place + 4]

    def write(data: bytes) -> None:
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(data)
        os.utime(path, ns=(10**18, 10**18))

    write(b"else")
    return lambda: write(before)


def test_only_the_end_is_left_to_be_copied(pair: Pair) -> None:
    pair.copy.advance(wanted)
    inode, size = pair.made()
    assert size == HALF
    first = pair.complete()
    second = pair.put()
    assert second.stat().st_ino == inode
    if filesystem(pair.base) == "ext4":
        assert HALF <= pair.read < SIZE
    second.write_bytes(b"changed")
    assert first.read_bytes() == pair.content


def test_it_is_closed_once_it_is_used(pair: Pair) -> None:
    before = len(os.listdir("/proc/self/fd"))
    pair.copy.advance(wanted)
    pair.complete()
    pair.put()
    # Those of the copy, of its directory, of the part twice.
    assert len(os.listdir("/proc/self/fd")) == before - 4
    pair.copy.close()
    pair.copy.advance(wanted)


def test_what_is_copied_after_it_is_whole_does_not_count(pair: Pair) -> None:
    """A job may have written to it by then, and undone that since."""
    pair.copy.advance(wanted)
    undo = alter(pair.complete())
    pair.copy.advance(wanted)
    assert pair.made()[1] == HALF
    undo()
    pair.put()


def test_what_is_copied_while_it_becomes_whole_does_not_count(pair: Pair) -> None:
    undos: list[Callable[[], None]] = []

    def is_wanted() -> bool:
        """Asked before bytes are copied: of the file, not of the part, though it was one when we looked."""
        if not undos:
            undos.append(alter(pair.complete(), 100))
        return True

    pair.copy.advance(is_wanted)
    assert pair.made()[1] == HALF
    undos[0]()
    pair.put()


def test_what_a_job_has_changed_is_not_copied(pair: Pair) -> None:
    """It is not in the store any more."""
    pair.copy.advance(wanted)
    alter(pair.complete())
    begun: dict[bytes, Following | None] = {pair.entry.digest: pair.copy}
    missing = put_into(pair.stores[1], [pair.entry], pair.base / "second", begun=begun)
    assert missing == {pair.entry.digest: SIZE}
    assert not (pair.base / "second" / "a").exists()


def test_what_changes_while_the_rest_is_copied_is_not_used(
    pair: Pair, at_second_look: Callable[[Callable[[], object]], Any]
) -> None:
    pair.copy.advance(wanted)
    path = pair.complete()
    begun: dict[bytes, Following | None] = {pair.entry.digest: pair.copy}
    is_wanted = at_second_look(lambda: alter(path))
    missing = put_into(pair.stores[1], [pair.entry], pair.base / "second", is_wanted, begun)
    assert missing == {pair.entry.digest: SIZE}
    assert not (pair.base / "second" / "a" / "b").exists()
    assert is_wanted.looks >= 2


def test_a_part_that_was_begun_anew_is_another(pair: Pair) -> None:
    """The copy of the one before is of no use: that was something else."""
    pair.copy.advance(wanted)
    inode, _ = pair.made()
    pair.part.abandon()
    pair.part = pair.stores[0].begin(pair.entry.digest, SIZE)
    pair.part.write(0, pair.content[:HALF])
    pair.copy.advance(wanted)
    assert pair.made()[1] == HALF
    pair.complete()
    assert pair.put().stat().st_ino != inode


def test_who_is_not_wanted_stops(pair: Pair) -> None:
    with pytest.raises(OSError, match="not wanted"):
        pair.copy.advance(lambda: False)
    pair.copy.close()
    pair.part.close()
    assert HALF <= COPY_MAX


def test_nothing_is_left_of_it(pair: Pair) -> None:
    """Not even when it was killed: until it is put somewhere it has no name."""
    pair.copy.advance(wanted)
    assert os.listdir(pair.base / "second") == []
    pair.copy.close()
    pair.part.close()


def test_it_is_not_made_where_a_copy_is_not_needed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store" / "owner")
    digest = hashlib.sha256(b"").digest()
    part = store.begin(digest, FOLLOWED_MIN)
    entry = FileEntry("b", digest, FOLLOWED_MIN, 0o644, 10**18)
    small = FileEntry("b", digest, FOLLOWED_MIN - 1, 0o644, 10**18)
    copy = store.follow(entry, lambda: open_tree(tmp_path))
    if filesystem(tmp_path) in ("btrfs", "xfs"):
        assert copy is None
    else:
        assert copy is not None
        copy.close()
    assert store.follow(small, lambda: open_tree(tmp_path)) is None
    part.abandon()
    before = len(os.listdir("/proc/self/fd"))
    assert store.follow(entry, lambda: open_tree(tmp_path)) is None
    assert len(os.listdir("/proc/self/fd")) == before


# What spares the second node the hashing.


def test_what_was_lent_is_not_hashed_by_others(pair: Pair) -> None:
    """As long as it is what it was then."""
    if filesystem(pair.base) != "ext4":
        pytest.skip("files are lent on ext4 only")
    pair.copy.close()
    path = pair.complete()
    before = bytes_read()
    assert Store(pair.base / "store" / "owner").has(pair.entry.digest, SIZE)
    assert bytes_read() - before < SIZE
    os.utime(path, ns=(10**18, 10**18))
    before = bytes_read()
    assert Store(pair.base / "store" / "owner").has(pair.entry.digest, SIZE)
    assert bytes_read() - before >= SIZE


def test_a_note_goes_with_its_file(pair: Pair) -> None:
    pair.copy.close()
    pair.complete()
    assert len(list((pair.base / "store").glob("owner/??/*"))) == 1 + (filesystem(pair.base) == "ext4")
    Stores(pair.base / "store", 4096, b"key").trim()
    assert os.listdir(pair.base / "store") == ["lock"]


# Hashed beside.


@pytest.mark.parametrize("size", [SMALL_FILE_MAX + 1, 3 << 20])
def test_what_is_hashed_beside_is_the_same(tmp_path: Path, size: int) -> None:
    """Every byte of it, in their order."""
    content = os.urandom(size)
    digest = hashlib.sha256(content).digest()
    store = Store(tmp_path / "store" / "owner")
    with ThreadPoolExecutor(2) as hashers:
        for wrong in (content[:-1] + bytes([content[-1] ^ 1]), content[size // 2 :] + content[: size // 2]):
            part = store.begin(digest, size)
            part.write(0, wrong, hashers)
            assert not part.finish()
            assert not store.has(digest, size)
        part = store.begin(digest, size)
        for start in range(0, size, 3 << 19):
            part.write(start, content[start : start + (3 << 19)], hashers)
        assert part.finish()
    assert store.has(digest, size)
