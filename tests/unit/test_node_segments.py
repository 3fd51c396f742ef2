"""Segments and work directories: private, readable as written, gone with their node."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dispy.errors import StateDirectoryError
from dispy.net.directories import GIVEN, GIVEN_BITS, given_prefix
from dispy.node.segments import Segments, WorkSpace
from dispy.protocol import worker as protocol


@pytest.fixture
def segments(tmp_path: Path) -> Iterator[Segments]:
    """Those of a node whose name no other has."""
    opened = Segments(f"test-{os.getpid()}-{tmp_path.name}")
    yield opened
    opened.close()


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
    directory = segments.open("computation")
    assert content(segments, directory, put(segments, directory, data)) == data


def test_segments_have_names_of_their_own(segments: Segments) -> None:
    one, other = segments.open("one"), segments.open("other")
    names = [put(segments, directory, b"x") for directory in (one, one, other)]
    assert len(set(names)) == 3
    assert 0 not in names  # which means: none


def test_segments_can_be_read_by_this_user_only(segments: Segments) -> None:
    directory = segments.open("computation")
    name = put(segments, directory, b"x")
    assert stat.S_IMODE(segments.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / str(name)).stat().st_mode) == 0o600


def test_a_removed_segment_is_gone_and_may_be_removed_again(segments: Segments) -> None:
    directory = segments.open("computation")
    name = put(segments, directory, b"x")
    segments.remove(directory, name, was_shared=False)
    segments.remove(directory, name, was_shared=False)
    assert list(directory.iterdir()) == []


def test_what_was_cut_off_of_a_segment_reads_as_zeros(segments: Segments) -> None:
    directory = segments.open("computation")
    name = put(segments, directory, b"content")
    outgoing = segments.outgoing(directory, name)
    os.truncate(directory / str(name), 3)
    assert outgoing.read(0, 7) == b"con\0\0\0\0"
    assert outgoing.read(4, 3) == b"\0\0\0"
    outgoing.close()


def test_only_plain_files_are_sent(segments: Segments, tmp_path: Path) -> None:
    directory = segments.open("computation")
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
    directory = segments.open("computation")
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
    directory, other = segments.open("computation"), segments.open("other")
    segments.free = ""
    for place in (directory, other):
        with open(place / "7", "wb") as file:
            file.truncate(LARGE)
    segments.remove(directory, 7, was_shared=False)
    segments.drop(other)
    assert not other.exists()
    segments.close()
    assert not segments.root.exists()


def test_files_that_are_kept_can_be_given_back(segments: Segments) -> None:
    directory = segments.open("computation")
    name = put(segments, directory, b"x" * 100_000)
    segments.remove(directory, name, was_shared=False)
    assert len(os.listdir(segments.free)) == 1
    segments.trim()
    deadline = time.monotonic() + 5
    while os.listdir(segments.free) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert os.listdir(segments.free) == []


def test_what_a_client_had_given_and_not_told_is_removed(segments: Segments) -> None:
    ours, others = given_prefix(b"abcd"), given_prefix(b"wxyz")
    for prefix in (ours, others):
        for number in (1, 2):
            (segments.root / GIVEN / str((prefix << GIVEN_BITS) + number)).write_bytes(b"x")
    segments.drop_given(ours)
    left = [(others << GIVEN_BITS) + number for number in (1, 2)]
    assert sorted(map(int, os.listdir(segments.root / GIVEN))) == left
    segments.remove_given(left[0])
    segments.remove_given(left[0])
    assert os.listdir(segments.root / GIVEN) == [str(left[1])]


def test_of_the_dead_only_results_are_kept(segments: Segments) -> None:
    directory = segments.open("computation")
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


def test_dropping_a_computation_leaves_the_others(segments: Segments) -> None:
    one, other = segments.open("one"), segments.open("other")
    put(segments, one, b"x")
    name = put(segments, other, b"y")
    segments.drop(one)
    assert not one.exists()
    assert content(segments, other, name) == b"y"


def test_closing_leaves_nothing(tmp_path: Path) -> None:
    opened = Segments(f"test-{os.getpid()}-{tmp_path.name}")
    put(opened, opened.open("computation"), b"x")
    opened.close()
    assert not opened.root.exists()


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
        "from dispy.node.segments import WorkSpace\n"
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


def test_what_a_dead_node_left_may_be_removed_by_another_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that start at once look at the same."""
    WorkSpace(str(tmp_path), "node").close()
    left = tmp_path / f"dispy-node-{os.getuid()}" / "dead"
    left.mkdir()

    def removes(look: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def looking(path: Any) -> Any:
            if path == left and left.exists():
                left.rmdir()
            return look(path)

        return looking

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, removes(getattr(os, name)))
    WorkSpace(str(tmp_path), "next").close()
    assert not left.exists()


def test_what_a_living_node_has_is_left_alone(tmp_path: Path) -> None:
    first = WorkSpace(str(tmp_path), "first")
    directory = first.open("computation")
    second = WorkSpace(str(tmp_path), "second")
    assert directory.is_dir()
    second.close()
    assert directory.is_dir()
    first.close()


def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    space = WorkSpace(str(tmp_path), "node")
    space.close()
    space.root.parent.chmod(0o777)
    with pytest.raises(StateDirectoryError):
        WorkSpace(str(tmp_path), "node")
