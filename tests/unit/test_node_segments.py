"""Segments and work directories: private, readable as written, gone with their node."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispy.errors import StateDirectoryError
from dispy.node.segments import Segments, WorkSpace


@pytest.fixture
def segments(tmp_path: Path) -> Iterator[Segments]:
    """Those of a node whose name no other has."""
    opened = Segments(f"test-{os.getpid()}-{tmp_path.name}")
    yield opened
    opened.close()


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
    with segments.map(directory, put(segments, directory, data)) as content:
        assert content == data


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
    segments.remove(directory, name)
    segments.remove(directory, name)
    assert list(directory.iterdir()) == []


def test_a_mapped_segment_stays_readable_when_it_is_removed(segments: Segments) -> None:
    directory = segments.open("computation")
    name = put(segments, directory, b"content")
    with segments.map(directory, name) as content:
        segments.remove(directory, name)
        assert content == b"content"


def test_dropping_a_computation_leaves_the_others(segments: Segments) -> None:
    one, other = segments.open("one"), segments.open("other")
    put(segments, one, b"x")
    name = put(segments, other, b"y")
    segments.drop(one)
    assert not one.exists()
    with segments.map(other, name) as content:
        assert content == b"y"


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
