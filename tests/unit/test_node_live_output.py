"""What a node reads of what running jobs print: of the right job, in equal shares, nothing that is not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from dispy.core.execution.actions import Place
from dispy.core.execution.events import Glimpse
from dispy.core.execution.ids import WorkerId
from dispy.node.machine.live_output import output_file, read_next, read_printed
from dispy.protocol.limits import OUTPUT_MAX
from dispy.protocol.worker import SLOT_CLAIM, SLOT_WORDS, claim

AT = claim(3, 0)
MakeFile = Callable[[bytes], int]
Found = tuple[Place, memoryview, tuple[int, int]]


@pytest.fixture
def make_file() -> Iterator[MakeFile]:
    """Makes what a job has printed."""
    made: list[int] = []

    def make(text: bytes) -> int:
        made.append(output_file("test"))
        os.write(made[-1], text)
        return made[-1]

    yield make
    for file in made:
        os.close(file)


@pytest.fixture
def worker(make_file: MakeFile) -> Callable[..., Found]:
    """A worker whose job has printed something."""

    def found(
        number: int, stdout: bytes, stderr: bytes = b"", told: tuple[int, int] = (0, 0), is_at: int = AT
    ) -> Found:
        words = memoryview(bytearray(8 * SLOT_WORDS)).cast("q")
        words[SLOT_CLAIM] = is_at
        return Place(WorkerId(number), AT, *told), words, (make_file(stdout), make_file(stderr))

    return found


def test_whoever_writes_writes_at_the_end(make_file: MakeFile) -> None:
    file = make_file(b"one")
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, b"two")
    assert os.pread(file, 10, 0) == b"onetwo"


def test_what_is_new_is_read(worker: Callable[..., Found]) -> None:
    assert read_printed([worker(7, b"out", b"error", (1, 5))], 100) == [
        Glimpse(WorkerId(7), AT, 1, b"ut", 5, b"")
    ]


def test_output_of_another_job_is_not_taken_for_its_own(worker: Callable[..., Found]) -> None:
    assert read_printed([worker(7, b"of the next job", is_at=claim(3, 1))], 100) == []


def test_each_stream_with_news_has_an_equal_share(worker: Callable[..., Found]) -> None:
    """A small one does not have to wait for a large one; the message has room for all of them."""
    workers = [worker(1, b"a" * 1000, b"b" * 15), worker(2, b"c" * 15, b"old", (0, 3)), worker(3, b"")]
    glimpses = read_printed(workers, 30)
    assert [(g.stdout_at, g.stdout, g.stderr) for g in glimpses] == [
        (990, b"a" * 10, b"b" * 10),
        (0, b"c" * 10, b""),
        (0, b"", b""),
    ]


def test_a_file_that_pretends_to_be_large(worker: Callable[..., Found]) -> None:
    """What a job can make of it is bounded, and can be told."""
    found = worker(1, b"text")
    os.ftruncate(found[2][0], (1 << 63) - 1)
    (glimpse,) = read_printed([found], 1000)
    assert glimpse.stdout_at + len(glimpse.stdout) == 1 << 62
    os.ftruncate(found[2][0], 0)
    found = (Place(WorkerId(1), AT, 4, 0), *found[1:])
    assert read_printed([found], 1000) == [Glimpse(WorkerId(1), AT, 4, b"", 0, b"")]


def test_what_may_have_been_given_back_is_not_read(make_file: MakeFile) -> None:
    """The job has printed much since we looked: memory in the middle may be gone, and be only zeros."""
    file = make_file(b"x" * (2 * OUTPUT_MAX + 100))
    size = 2 * OUTPUT_MAX - 10
    assert read_next(file, size - 20, size, 20) == (size - 20, b"x" * 20)
    os.write(file, b"y" * OUTPUT_MAX)
    assert read_next(file, size - 20, size, 20) == (size - 20, b"")
    assert read_next(file, OUTPUT_MAX - 20, OUTPUT_MAX, 20) == (OUTPUT_MAX - 20, b"x" * 20)
