"""Segments and work directories: private, readable as written, gone with their node."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import dumps
from types import SimpleNamespace

import pytest

from dispy.node.machine.accounts import Account
from dispy.node.payloads.segments import Segments
from dispy.node.staging.workspace import WorkSpace
from dispy.protocol import limits
from dispy.protocol import worker as protocol
from dispy.protocol.node import PutObject, Segment
from dispy.system import directories
from dispy.system.directories import GIVEN, GIVEN_BITS, given_prefix
from dispy.system.free_space import Room
from dispy.worker.segments import Segments as WorkerSegments


@pytest.fixture
def segments(tmp_path: Path) -> Iterator[Segments]:
    """Those of a node whose name no other has."""
    opened = Segments(f"test-{os.getpid()}-{tmp_path.name}")
    yield opened
    opened.directories.close()


def content(segments: Segments, directory: Path, name: int) -> bytes:
    """What a segment holds, in two parts."""
    outgoing = segments.outgoing(directory, name)
    half = outgoing.size // 2
    data = outgoing.read(0, half) + outgoing.read(half, outgoing.size - half)
    outgoing.close()
    return data


def put(segments: Segments, directory: Path, data: bytes) -> int:
    """Let a payload arrive in two parts."""
    incoming = segments.incoming(len(data))
    half = len(data) // 2
    for part in (data[:half], data[half:]):
        incoming.write(memoryview(part))
    return segments.adopt(directory, incoming)


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000], ids=["empty", "small", "large"])
def test_a_segment_is_read_as_it_was_written(segments: Segments, data: bytes) -> None:
    directory = segments.directories.open("computation")
    assert content(segments, directory, put(segments, directory, data)) == data


def test_segments_have_names_of_their_own(segments: Segments) -> None:
    one, other = segments.directories.open("one"), segments.directories.open("other")
    names = [put(segments, directory, b"x") for directory in (one, one, other)]
    assert len(set(names)) == 3
    assert 0 not in names  # which means: none


def test_segments_can_be_read_by_this_user_only(segments: Segments) -> None:
    directory = segments.directories.open("computation")
    name = put(segments, directory, b"x")
    assert stat.S_IMODE(segments.directories.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / str(name)).stat().st_mode) == 0o600


def test_a_removed_segment_is_gone_and_may_be_removed_again(segments: Segments) -> None:
    directory = segments.directories.open("computation")
    name = put(segments, directory, b"x")
    segments.remove(directory, name, was_shared=False)
    segments.remove(directory, name, was_shared=False)
    assert list(directory.iterdir()) == []


def test_what_was_cut_off_of_a_segment_reads_as_zeros(segments: Segments) -> None:
    directory = segments.directories.open("computation")
    name = put(segments, directory, b"content")
    outgoing = segments.outgoing(directory, name)
    os.truncate(directory / str(name), 3)
    assert outgoing.read(0, 7) == b"con\0\0\0\0"
    assert outgoing.read(4, 3) == b"\0\0\0"
    outgoing.close()


def test_only_plain_files_are_sent(segments: Segments, tmp_path: Path) -> None:
    directory = segments.directories.open("computation")
    secret = tmp_path / "secret"
    secret.write_bytes(b"not theirs")
    (directory / "1").symlink_to(secret)
    os.mkfifo(directory / "2")
    (directory / "3").mkdir()
    os.link(secret, tmp_path / "other")
    before = set(os.listdir("/proc/self/fd"))
    for name in (1, 2, 3, 4):
        with pytest.raises(OSError):
            segments.outgoing(directory, name)
    assert set(os.listdir("/proc/self/fd")) == before


LARGE = 65 * 1024 * 1024


def test_what_is_used_again_is_received_in_place(segments: Segments) -> None:
    directory = segments.directories.open("computation")
    first = put(segments, directory, b"x" * 100_000)
    assert segments.incoming(5).room(5) is None, "of a new file"
    segments.remove(directory, first, was_shared=False)
    incoming = segments.incoming(90_000)
    room = incoming.room(40_000)
    assert room is not None
    room[:] = b"y" * 40_000
    incoming.write(memoryview(b"z" * 50_000))
    assert (
        content(segments, directory, segments.adopt(directory, incoming)) == b"y" * 40_000 + b"z" * 50_000
    )


def test_a_large_segment_is_gone_soon_after_it_was_removed(segments: Segments) -> None:
    """A thread removes it, and must not be in the way of another that removes all."""
    directory, other = segments.directories.open("computation"), segments.directories.open("other")
    segments.free = ""
    for place in (directory, other):
        with open(place / "7", "wb") as file:
            file.truncate(LARGE)
    segments.remove(directory, 7, was_shared=False)
    segments.directories.drop(other)
    assert not other.exists()
    segments.directories.close()
    assert not segments.directories.root.exists()


def test_files_that_are_kept_can_be_given_back(segments: Segments) -> None:
    directory = segments.directories.open("computation")
    name = put(segments, directory, b"x" * 100_000)
    segments.remove(directory, name, was_shared=False)
    assert len(os.listdir(segments.free)) == 1
    segments.trim()
    deadline = time.monotonic() + 5
    while os.listdir(segments.free) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert os.listdir(segments.free) == []


def test_an_empty_payload_takes_no_file_that_is_kept(segments: Segments) -> None:
    """Nothing can be mapped of it; a program may send it as a stream all the same."""
    directory = segments.directories.open("computation")
    segments.remove(directory, put(segments, directory, b"x" * 1000), was_shared=False)
    assert len(os.listdir(segments.free)) == 1
    segments.put_object(directory, PutObject(1, 1, b"", 1), segments.incoming(0))
    assert (directory / protocol.object_name(1)).read_bytes() == b""
    assert len(os.listdir(segments.free)) == 1


def test_what_a_client_had_given_and_not_told_is_removed(segments: Segments) -> None:
    ours, others = given_prefix(b"abcd"), given_prefix(b"wxyz")
    for prefix in (ours, others):
        for number in (1, 2):
            (segments.directories.root / GIVEN / str((prefix << GIVEN_BITS) + number)).write_bytes(b"x")
    segments.drop_given(ours)
    left = [(others << GIVEN_BITS) + number for number in (1, 2)]
    assert sorted(map(int, os.listdir(segments.directories.root / GIVEN))) == left
    segments.remove_given(left[0])
    segments.remove_given(left[0])
    assert os.listdir(segments.directories.root / GIVEN) == [str(left[1])]


def test_of_the_dead_only_results_are_kept(segments: Segments) -> None:
    directory = segments.directories.open("computation")
    dead = subprocess.Popen(["true"])
    dead.wait()
    told, untold, living = (
        protocol.result_name(pid, number)
        for pid, number in ((dead.pid, 1), (dead.pid, 2), (os.getpid(), 1))
    )
    argument = put(segments, directory, b"x")
    kept, gone = protocol.kept_name(os.getpid(), 5), protocol.kept_name(dead.pid, 5)
    for name in (told, untold, living, kept, gone, protocol.object_name(3), "code"):
        (directory / str(name)).write_bytes(b"x")
    segments.collect(directory, {told})
    wanted = {str(told), str(living), str(argument), kept, protocol.object_name(3), "code"}
    assert set(os.listdir(directory)) == wanted


def test_names_that_jobs_have_made_up_keep_nothing_of_the_dead(segments: Segments) -> None:
    directory = segments.directories.open("computation")
    dead = subprocess.Popen(["true"])
    dead.wait()
    made_up = {"kept-x", "kept-", "kept--1", "kept-1", "kept-²-1", "kept-1-x", "9" * 250, "٣"}
    gone = protocol.kept_name(dead.pid, 5)
    for name in (*made_up, gone):
        (directory / name).write_bytes(b"x")
    segments.collect(directory, set())
    assert gone not in os.listdir(directory)
    assert made_up - {"9" * 250} <= set(os.listdir(directory))


def test_dropping_a_computation_leaves_the_others(segments: Segments) -> None:
    one, other = segments.directories.open("one"), segments.directories.open("other")
    put(segments, one, b"x")
    name = put(segments, other, b"y")
    segments.directories.drop(one)
    assert not one.exists()
    assert content(segments, other, name) == b"y"


def test_closing_leaves_nothing(tmp_path: Path) -> None:
    opened = Segments(f"test-{os.getpid()}-{tmp_path.name}")
    put(opened, opened.directories.open("computation"), b"x")
    opened.directories.close()
    assert not opened.directories.root.exists()


def test_a_named_directory_that_is_left_after_the_node_has_closed_stays_if_it_is_to(tmp_path: Path) -> None:
    """Nobody takes it for one of those that go with their computation."""
    space = WorkSpace(str(tmp_path), "node")
    directory = space.open_named("127.0.0.1", "kept", is_kept=True)
    (directory / "file").write_text("x")
    private = space.open("computation")
    space.close()
    space.leave(directory)
    space.leave(private)
    assert (directory / "file").read_text() == "x"


def test_a_named_directory_is_as_deep_as_can_be_removed(tmp_path: Path) -> None:
    space = WorkSpace(str(tmp_path), "node")
    directory = space.open_named("127.0.0.1", "/".join("d" * (limits.DEPTH_MAX - 1)), is_kept=False)
    space.leave(directory)
    assert not directory.exists()
    with pytest.raises(ValueError, match=f"{limits.DEPTH_MAX} are allowed"):
        space.open_named("127.0.0.1", "/".join("d" * limits.DEPTH_MAX), is_kept=False)
    space.close()


def test_work_directories_are_private_and_gone_when_the_node_closes(tmp_path: Path) -> None:
    space = WorkSpace(str(tmp_path), "node")
    directory = space.open("computation")
    (directory / "file").write_text("x")
    assert tmp_path in directory.parents
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    space.close()
    assert not directory.exists()


def test_what_a_dead_node_left_is_removed_by_the_next(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from dispy.node.staging.workspace import WorkSpace\n"
        "space = WorkSpace(sys.argv[1], 'dead')\n"
        "(space.open('computation') / 'file').write_text('x')\n"
        "print(space.root)\n"
        "sys.stdout.flush()\n"
        "os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        check=True,
        timeout=60,
        text=True,
    )
    left = Path(done.stdout.strip())
    assert left.is_dir()
    space = WorkSpace(str(tmp_path), "next")
    assert not left.exists()
    space.close()


def test_what_a_living_node_has_is_left_alone(tmp_path: Path) -> None:
    first = WorkSpace(str(tmp_path), "first")
    directory = first.open("computation")
    second = WorkSpace(str(tmp_path), "second")
    assert directory.is_dir()
    second.close()
    assert directory.is_dir()
    first.close()


def test_a_directory_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    space = WorkSpace(str(tmp_path), "node")
    space.close()
    usual = space.root.parent
    usual.chmod(0o777)
    other = WorkSpace(str(tmp_path), "node")
    assert other.root.parent.parent == usual.parent
    assert other.root.parent != usual
    assert not any(usual.iterdir())
    other.close()


def test_what_a_dead_node_has_left_may_go_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another node that starts was faster."""
    left = tmp_path / f"dispy-node-{os.getuid()}" / "dead"
    left.mkdir(parents=True)
    left.parent.chmod(0o700)
    scandir = os.scandir

    def remove_before(path: str | os.PathLike[str]) -> object:
        if path in (left, str(left)):
            left.rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", remove_before)
    WorkSpace(str(tmp_path), "new").close()
    assert not left.exists()


# On disk, where memory has no room.


@pytest.fixture
def small(
    segments: Segments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int | None], None]]:
    """Lets the memory file system take so many bytes more in each file; None: as many as there are."""
    space = WorkSpace(str(tmp_path), f"test-{os.getpid()}")
    segments.directories.use_disk(space)
    statvfs, write, root = os.statvfs, os.write, str(segments.directories.root)
    left: list[int | None] = [None]

    def written(descriptor: int, data: bytes | memoryview) -> int:
        limit = left[0]
        if limit is not None and os.readlink(f"/proc/self/fd/{descriptor}").startswith(root):
            limit -= os.fstat(descriptor).st_size
            if limit <= 0:
                raise OSError(errno.ENOSPC, "full")
            data = memoryview(data)[:limit]
        return write(descriptor, data)

    def seen(path: str) -> object:
        found = statvfs(path)
        if left[0] != 0 or not path.startswith(root):
            return found
        return SimpleNamespace(f_blocks=found.f_blocks, f_frsize=found.f_frsize, f_bavail=0)

    monkeypatch.setattr(os, "write", written)
    monkeypatch.setattr(os, "statvfs", seen)
    yield lambda size: left.__setitem__(0, size)
    space.close()


@pytest.mark.parametrize("limit", [0, 1, 40_000, 50_000, 99_999], ids=str)
@pytest.mark.parametrize("seen", [True, False], ids=["seen before", "found out"])
def test_a_payload_for_which_memory_has_no_room_goes_to_disk(
    segments: Segments, small: Callable[[int | None], None], limit: int, seen: bool
) -> None:
    """Also in the middle of it; the node, workers and the spool find it there, and it is removed with the others."""
    directory = segments.directories.open("computation")
    small(0 if seen else max(1, limit))
    data = os.urandom(100_000)
    name = put(segments, directory, data)
    small(None)
    disk = Path(segments.directories.disk_path(directory))
    assert (disk / str(name)).exists()
    assert not (directory / str(name)).exists()
    assert not segments.is_shared(directory, name)
    assert content(segments, directory, name) == data
    assert list(directory.iterdir()) == []
    assert [
        path for path in segments.directories.root.iterdir() if path.is_file() and path.name != "lock"
    ] == []
    segments.remove(directory, name, was_shared=False)
    assert list(disk.iterdir()) == []
    assert os.listdir(segments.free) == []
    put(segments, directory, data)
    segments.directories.drop(directory)
    assert not disk.exists()
    assert not directory.exists()


def test_payloads_that_arrive_at_once_do_not_take_each_other_the_room(
    segments: Segments, small: Callable[[int | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that have arrived count by themselves, those that are to come are reckoned with."""
    found = SimpleNamespace(f_blocks=1000, f_frsize=1000, f_bavail=1000)
    statvfs = os.statvfs
    root = str(segments.directories.root)
    monkeypatch.setattr(os, "statvfs", lambda path: found if path.startswith(root) else statvfs(path))
    directory = segments.directories.open("computation")
    arriving = [segments.incoming(300_000) for _ in range(4)]
    assert [one.directory == root for one in arriving] == [True, True, False, False]
    arriving[0].discard()
    later = segments.incoming(300_000)
    assert later.directory == root
    for one in [*arriving[1:], later]:
        for _ in range(3):
            one.write(memoryview(bytes(100_000)))
        assert content(segments, directory, segments.adopt(directory, one)) == bytes(300_000)


def test_what_is_put_goes_to_disk_and_is_found_and_dropped_there(
    segments: Segments, small: Callable[[int | None], None]
) -> None:
    directory = segments.directories.open("computation")
    disk = Path(segments.directories.disk_path(directory))
    small(0)
    incoming = segments.incoming(5)
    incoming.write(memoryview(b"large"))
    segments.put_object(directory, PutObject(1, 7, b""), incoming)
    segments.put_object(directory, PutObject(1, 8, b"small"), None)
    code = segments.put_code(directory, b"code")
    assert sorted(os.listdir(disk)) == ["code", "object-7", "object-8"]
    assert code.read_bytes() == b"code"
    for number in (7, 8, 9):
        segments.drop_object(directory, number)
    small(None)
    assert os.listdir(disk) == ["code"]
    assert segments.put_code(directory, b"new") == directory / "code"
    assert os.listdir(disk) == []


def test_workers_read_and_write_on_disk(segments: Segments, small: Callable[[int | None], None]) -> None:
    """What a job writes to its arguments does not go to the file: a full disk would end its process."""
    directory = segments.directories.open("computation")
    disk = Path(segments.directories.disk_path(directory))
    worker = WorkerSegments(Room(str(directory), str(disk)), segments.free)
    small(0)
    name = put(segments, directory, b"arguments")
    segments.put_object(directory, PutObject(1, 7, dumps("an object")), None)
    taken = worker.take(Segment(name))
    assert taken == b"arguments"
    taken[:3] = b"new"
    assert (disk / str(name)).read_bytes() == b"arguments"
    assert worker.load_object(7) == "an object"
    worker.drop_objects()
    assert worker.load_object(7) == "an object"
    result = worker.put(b"result")
    del taken
    worker.let_go(is_ending=False)
    segments.drop_object(directory, 7)
    worker.drop_objects()
    with pytest.raises(FileNotFoundError):
        worker.load_object(7)
    small(None)
    assert content(segments, directory, result) == b"result"
    assert os.listdir(disk) == [str(result)]
    assert os.listdir(segments.free) == []
    other = worker.put(b"other")
    assert segments.is_shared(directory, other)


def test_arguments_on_disk_that_a_job_keeps_stay(
    segments: Segments, small: Callable[[int | None], None]
) -> None:
    directory = segments.directories.open("computation")
    disk = Path(segments.directories.disk_path(directory))
    worker = WorkerSegments(Room(str(directory), str(disk)), segments.free)
    small(0)
    taken = worker.take(Segment(put(segments, directory, b"arguments")))
    worker.let_go(is_ending=False)
    assert taken == b"arguments"
    assert os.listdir(disk) == []


def test_what_the_dead_leave_on_disk_is_removed(
    segments: Segments, small: Callable[[int | None], None]
) -> None:
    directory = segments.directories.open("computation")
    disk = Path(segments.directories.disk_path(directory))
    dead = subprocess.Popen(["true"])
    dead.wait()
    held, left = (protocol.result_name(dead.pid, number) for number in (1, 2))
    for name in (held, left):
        (disk / str(name)).write_bytes(b"x")
    segments.collect(directory, {held})
    assert os.listdir(disk) == [str(held)]


def test_without_a_memory_file_system_all_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "MEMORY", tmp_path / "none")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    segments = Segments("test")
    space = WorkSpace(str(tmp_path), "test")
    segments.directories.use_disk(space)
    directory = segments.directories.open("computation")
    assert tmp_path in directory.parents
    assert segments.directories.disk_path(directory) == str(directory)
    name = put(segments, directory, b"content")
    assert content(segments, directory, name) == b"content"
    assert not segments.is_shared(directory, name)
    worker = WorkerSegments(Room("", str(directory)), segments.free)
    taken = worker.take(Segment(name))
    taken[:3] = b"new"
    assert (directory / str(name)).read_bytes() == b"content"
    assert content(segments, directory, worker.put(b"result")) == b"result"
    del taken
    worker.let_go(is_ending=False)
    segments.directories.close()
    space.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("kind", ["sparse", "whole"])
def test_a_file_of_another_account_must_have_what_it_pretends_to(
    segments: Segments, small: Callable[[int | None], None], kind: str
) -> None:
    """On disk, too."""
    directory = segments.directories.open("computation")
    path = Path(segments.directories.disk_path(directory), "5")
    path.write_bytes(bytes(100_000))
    if kind == "sparse":
        os.truncate(path, 1 << 40)
    account = Account("test", os.getuid(), os.getgid(), (), "/", "/bin/sh")
    for where, held in segments.directories._held._held.items():
        segments.directories._held._held[where] = held._replace(account=account)
    if kind == "sparse":
        with pytest.raises(OSError, match="holes"):
            segments.outgoing(directory, 5)
    else:
        assert content(segments, directory, 5) == bytes(100_000)
    for where, held in segments.directories._held._held.items():
        segments.directories._held._held[where] = held._replace(account=None)
