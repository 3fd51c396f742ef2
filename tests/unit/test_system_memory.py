"""Memory that is used again: never while anybody can see it."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from dispy.system.memory import Pool
from dispy.system.shared_memory import (
    ADOPTED_MIN,
    SHARED_FILES_MAX,
    SHARED_MIN,
    SharedPool,
    claim_file,
    free_file,
)

MIB = 1024 * 1024


def address(view: memoryview) -> int:
    """Which memory it is."""
    return id(view.obj)


def test_a_buffer_is_used_again_when_nothing_refers_to_it() -> None:
    pool = Pool()
    first = pool.take(MIB)
    where = address(first)
    part = first[10:20]
    del first
    assert address(pool.take(MIB)) != where, "a part of it is still in use"
    del part
    assert where in {address(view) for view in [pool.take(MIB), pool.take(MIB)]}


def test_buffers_in_use_are_all_different() -> None:
    pool = Pool()
    views = [pool.take(MIB) for _ in range(5)]
    for number, view in enumerate(views):
        view[:] = bytes([number]) * MIB
    assert [view[0] for view in views] == list(range(5))
    assert [view[-1] for view in views] == list(range(5))


def test_a_large_buffer_is_not_wasted_on_a_small_payload() -> None:
    pool = Pool()
    where = address(pool.take(100 * MIB))
    assert address(pool.take(MIB)) != where


def test_no_more_is_remembered_than_allowed() -> None:
    pool = Pool(kept_max=3 * MIB)
    before = [view.obj for view in [pool.take(MIB) for _ in range(10)]]
    again = [view.obj for view in [pool.take(MIB) for _ in range(10)]]
    assert sum(any(one is other for other in before) for one in again) == 3


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[SharedPool]:
    directory = tmp_path / "pool"
    directory.mkdir()
    opened = SharedPool(str(directory))
    yield opened
    opened.close()


def test_what_is_written_is_in_the_file_that_is_linked(shared: SharedPool, tmp_path: Path) -> None:
    view = shared.take(MIB)
    view[:] = b"a" * MIB
    assert shared.link(view, str(tmp_path / "given"))
    assert (tmp_path / "given").read_bytes() == b"a" * MIB


def test_a_file_that_somebody_else_has_is_not_written_again(shared: SharedPool, tmp_path: Path) -> None:
    given = tmp_path / "given"
    view = shared.take(MIB)
    where = address(view)
    view[:] = b"a" * MIB
    shared.link(view, str(given))
    del view
    other = shared.take(MIB)
    assert address(other) != where
    given.unlink()
    del other
    assert where in {address(view) for view in [shared.take(MIB), shared.take(MIB)]}


def test_only_files_of_the_pool_can_be_linked(shared: SharedPool, tmp_path: Path) -> None:
    small = shared.take(SHARED_MIN - 1)
    assert not shared.link(small, str(tmp_path / "given"))
    assert not shared.link(memoryview(b"abc"), str(tmp_path / "given"))
    assert not shared.link(shared.take(MIB), str(tmp_path / "no such directory" / "given"))


@pytest.mark.parametrize("size", [100, MIB, 3 * MIB])
def test_what_is_adopted_is_ours_and_its_writer_gets_a_file_back(
    shared: SharedPool, tmp_path: Path, size: int
) -> None:
    free = tmp_path / "free"
    free.mkdir()
    shared.take(size)[:] = bytes(size)  # free at once
    for letter in b"ab":
        (tmp_path / "result").write_bytes(bytes([letter]) * size)
        view = shared.adopt(str(tmp_path / "result"), str(free))
        assert view == bytes([letter]) * size
        view[0] = 0  # writable
        # It may be asked for again, until it is acknowledged.
        assert (tmp_path / "result").read_bytes() == bytes([letter]) * size
        (tmp_path / "result").unlink()
    assert (len(list(free.iterdir())) >= 1) == (size >= ADOPTED_MIN)


@pytest.mark.parametrize("has_owner", [True, False])
def test_a_lent_file_goes_back_to_its_owner(shared: SharedPool, tmp_path: Path, has_owner: bool) -> None:
    """Once nothing here refers to it, and not before. If its owner has gone it is ours."""
    (tmp_path / "owner").mkdir()
    owner = SharedPool(str(tmp_path / "owner"))
    view = owner.take(4 * MIB)
    where, given = address(view), tmp_path / "given"
    assert owner.link(view, str(given))
    seen = shared.adopt(str(given), "", is_lent=True)
    given.unlink()
    del view
    shared.give_back()
    others = [owner.take(4 * MIB) for _ in range(3)]
    assert where not in map(address, others), "it is still read"
    others.clear()
    if not has_owner:
        owner.close()
    del seen
    shared.give_back()
    assert len(list((tmp_path / "pool").iterdir())) == (not has_owner)
    if has_owner:
        assert where in [address(view) for view in [owner.take(4 * MIB) for _ in range(4)]]
        owner.close()


def test_what_is_adopted_twice_is_not_there(shared: SharedPool, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        shared.adopt(str(tmp_path / "result"), "")


def test_a_pool_does_not_take_all_descriptors(shared: SharedPool, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    views = [shared.take(SHARED_MIN) for _ in range(SHARED_FILES_MAX + 20)]
    (tmp_path / "result").write_bytes(b"x" * SHARED_MIN)
    views.append(shared.adopt(str(tmp_path / "result"), ""))
    assert views[-1] == b"x" * SHARED_MIN
    assert len(os.listdir("/proc/self/fd")) - before <= SHARED_FILES_MAX
    views.clear()
    shared.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_after_a_fork_neither_side_writes_what_the_other_sees(shared: SharedPool, tmp_path: Path) -> None:
    view = shared.take(MIB)
    view[:] = b"a" * MIB
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert not shared.link(view, str(tmp_path / "given"))
    shared.take(MIB)[:] = b"b" * MIB
    assert view == b"a" * MIB
    assert len(list((tmp_path / "pool").iterdir())) == 1


def test_files_are_claimed_once_and_cut_to_size(tmp_path: Path) -> None:
    free = tmp_path / "free"
    free.mkdir()
    (tmp_path / "used").write_bytes(b"x" * 150_000)
    free_file(str(free), str(tmp_path / "used"), 150_000)
    assert not claim_file(str(free), 200_000, str(tmp_path / "new")), "too small"
    assert not claim_file(str(free), 1000, str(tmp_path / "new")), "too large"
    assert claim_file(str(free), 140_000, str(tmp_path / "new"))
    assert (tmp_path / "new").stat().st_size == 140_000
    assert not claim_file(str(free), 140_000, str(tmp_path / "newer"))
    assert not claim_file("", 140_000, str(tmp_path / "newer"))


def test_a_file_that_is_gone_already_is_no_fault(tmp_path: Path) -> None:
    free_file(str(tmp_path), str(tmp_path / "gone"), 1)
    assert list(tmp_path.iterdir()) == []


def test_a_small_file_system_is_not_filled_with_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An eighth of it is left to others; what nobody uses makes room first."""
    (tmp_path / "pool").mkdir()
    root, statvfs = str(tmp_path), os.statvfs

    def seen(path: str) -> object:
        files = [file.stat() for file in tmp_path.rglob("*") if file.is_file()]
        used = sum({file.st_ino: file.st_size for file in files}.values())
        if not path.startswith(root):
            return statvfs(path)
        return SimpleNamespace(f_blocks=16, f_frsize=MIB, f_bavail=16 - used / MIB)

    monkeypatch.setattr(os, "statvfs", seen)
    shared = SharedPool(str(tmp_path / "pool"))
    held = shared.take(6 * MIB)
    shared.take(7 * MIB)  # free at once
    assert shared.link(held, str(tmp_path / "one"))
    large = shared.take(8 * MIB)
    assert shared.link(large, str(tmp_path / "two"))
    assert len(list((tmp_path / "pool").iterdir())) == 2
    other = shared.take(MIB)  # there is no room for it: in memory of our own
    assert not shared.link(other, str(tmp_path / "three"))
    shared.close()
    free = tmp_path / "free"
    free.mkdir()
    for number in range(6):
        (tmp_path / str(number)).write_bytes(bytes(MIB))
        free_file(str(free), str(tmp_path / str(number)), MIB)
    assert len(list(free.iterdir())) == 4


@pytest.mark.parametrize(("allowed", "files"), [(100, 25), (256, 64)])
def test_where_few_descriptors_are_allowed_a_quarter_is_used(
    tmp_path: Path, allowed: int, files: int
) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, before[1]))
    try:
        shared = SharedPool(str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    views = [shared.take(SHARED_MIN) for _ in range(files + 5)]
    assert len(list(tmp_path.iterdir())) == files
    views.clear()
    shared.close()


def test_what_cannot_be_linked_is_copied(shared: SharedPool, tmp_path: Path) -> None:
    """The file system may have no number left for another file."""
    (tmp_path / "result").write_bytes(b"x" * ADOPTED_MIN)
    (tmp_path / "pool").rename(tmp_path / "elsewhere")
    (tmp_path / "pool").write_text("not a directory")
    assert shared.adopt(str(tmp_path / "result"), "") == b"x" * ADOPTED_MIN
    (tmp_path / "pool").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "pool")
