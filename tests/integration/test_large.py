"""Large data on a slow line: what is small passes it, what is cancelled is not sent, nobody holds it twice."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any

import numpy
import psutil
import pytest

import dispy
from dispy import config
from dispy.system.directories import FREE

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import Place, memory_of, wait_for
from .proxy import At, Direction, Piece, Proxy, Slow, proxy, reset

MIB = 1024 * 1024

PASSED_S = 0.2
"""Small jobs and cancels pass large data within this time."""


Between = Callable[..., Proxy]


@pytest.fixture
def between() -> Iterator[Between]:
    """Starts proxies. Is asked for before ``make_cluster``, so that they end after the clusters."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(proxy(*args, **kwargs))


@pytest.fixture(autouse=True)
def _by_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "SharedMemory", False)


def back(data: Any) -> Any:
    return data


def spans(cluster: dispy.JobCluster, is_over: Callable[[], bool]) -> list[float]:
    """How long each of several small jobs took, one after another (seconds, sorted)."""
    took = []
    while not is_over():
        start = time.monotonic()
        assert cluster.submit("small")() == "small"
        took.append(time.monotonic() - start)
    return sorted(took)


def cancels(cluster: dispy.JobCluster, is_over: Callable[[], bool]) -> list[float]:
    """How long it took each of several running jobs to end when it was cancelled (seconds, sorted)."""
    took = []
    while not is_over():
        job = cluster.submit(600)
        wait_for(partial(getattr, job, "status"), partial(eq, job.Running), what="it runs")
        start = time.monotonic()
        cluster.cancel(job)
        assert job.wait(5)
        took.append(time.monotonic() - start)
    return sorted(took)


def quantile(took: list[float], share: float) -> float:
    return took[int(len(took) * share)]


@pytest.mark.parametrize("look", [spans, cancels], ids=["small jobs", "cancels"])
def test_what_is_small_passes_what_is_large(
    start_node: StartNode,
    between: Between,
    make_cluster: MakeCluster,
    look: Callable[[dispy.JobCluster, Callable[[], bool]], list[float]],
) -> None:
    """48 MiB each way at 30 MB/s; without pace there is half a second of them in buffers."""
    serving = start_node("--cpus", "2")
    passing = between(serving.port, lambda _: Slow(30e6))
    nodes = [("127.0.0.1", passing.port)]
    large = make_cluster(back, nodes=nodes)
    small = make_cluster(back if look is spans else time.sleep, nodes=nodes)
    data = numpy.arange(6 * MIB // 8)
    large.submit(1)()
    small.submit(0)()
    seen = []
    # Other tests and programs run on this machine, too, for a while: then it is looked at again.
    for _ in range(3):
        count = iter(range(10))
        alone = look(small, lambda: next(count, None) is None)  # noqa: B023
        jobs = [large.submit(data) for _ in range(8)]
        beside = look(small, jobs[-1].finish.is_set)
        for job in jobs:
            assert numpy.array_equal(job(), data)
        limit = PASSED_S + quantile(alone, 0.9)
        if quantile(beside, 0.9) < limit and quantile(beside, 0.5) < 0.7 * limit:
            return
        seen.append(([f"{1e3 * each:.0f}" for each in beside], limit))
    pytest.fail(f"they took (ms) {seen}")


def test_the_result_of_a_small_job_does_not_wait_for_a_large_one_of_the_same_cluster(
    start_node: StartNode, between: Between, make_cluster: MakeCluster
) -> None:
    serving = start_node("--cpus", "2")
    passing = between(serving.port, lambda _: Slow(20e6))

    def zeros(size: int) -> bytes:
        return bytes(size)

    cluster = make_cluster(zeros, nodes=[("127.0.0.1", passing.port)])
    cluster.submit(1)()
    jobs = [cluster.submit(20_000_000), *(cluster.submit(5) for _ in range(20))]
    for job in jobs[1:]:
        assert job() == bytes(5)
    assert not jobs[0].finish.is_set()
    assert jobs[0]() == bytes(20_000_000)


class Counts(Slow):
    """A slow line that counts."""

    passed = 0

    def __call__(self, direction: Direction, before: int, data: bytes) -> list[Piece]:
        self.passed += len(data)
        return list(super().__call__(direction, before, data))


def test_a_job_whose_arguments_are_on_their_way_is_cancelled_at_once(
    start_node: StartNode, between: Between, make_cluster: MakeCluster, place: Place
) -> None:
    """The cancel overtakes the arguments. They are not sent any more, and the job never runs."""
    serving = start_node("--cpus", "2")
    line = Counts(10e6)
    passing = between(serving.port, lambda _: line)
    marks = place.root / "marks"
    marks.mkdir()

    def mark(name: str, data: bytes) -> str:
        Path(name).touch()
        return name

    cluster = make_cluster(mark, nodes=[("127.0.0.1", passing.port)])
    cluster.submit(str(marks / "warm"), b"")()
    size = 20_000_000
    jobs = [cluster.submit(str(marks / str(number)), bytes(size)) for number in range(2)]
    wait_for(lambda: line.passed, lambda passed: passed > 500_000, what="arguments are on their way")
    start = time.monotonic()
    for job in jobs:
        cluster.cancel(job)
        assert job.wait(1)
        assert job.status == job.Cancelled
    assert time.monotonic() - start < 0.5
    # The line is free for others, and both CPUs are.
    later = [cluster.submit(str(marks / "later"), bytes(100_000)) for _ in range(2)]
    for job in later:
        assert job.wait(5)
    assert line.passed < size / 2
    assert sorted(os.listdir(marks)) == ["later", "warm"]


def test_a_cluster_that_closes_does_not_send_what_nobody_wants(
    start_node: StartNode, between: Between, make_cluster: MakeCluster
) -> None:
    """In both directions: the link is free for the next cluster, and nobody waits for a result."""
    serving = start_node("--cpus", "2")
    line = Counts(5e6)
    passing = between(serving.port, lambda _: line)
    nodes = [("127.0.0.1", passing.port)]
    size = 20_000_000

    def zeros(size: int, data: bytes) -> bytes:
        return bytes(size)

    cluster = make_cluster(zeros, nodes=nodes)
    other = make_cluster(zeros, nodes=nodes)
    cluster.submit(1, b"")()
    cluster.submit(size, b"")
    cluster.submit(1, bytes(size))
    wait_for(lambda: line.passed, lambda passed: passed > 1_000_000, what="both are on their way")
    start = time.monotonic()
    cluster.close(terminate=True)
    assert time.monotonic() - start < 2
    assert other.submit(100_000, bytes(100_000))() == bytes(100_000)
    assert line.passed < size


def test_a_line_that_breaks_in_the_middle_of_large_data(
    start_node: StartNode, between: Between, make_cluster: MakeCluster, place: Place
) -> None:
    """All is sent again, arguments and results, whole; nothing is left of what had come."""
    serving = start_node("--cpus", "2")
    faults = [At("to node", 5_000_000, reset), At("to client", 5_000_000, reset)]
    passing = between(serving.port, lambda number: faults[number] if number < 2 else Slow(1e9))
    cluster = make_cluster(back, nodes=[("127.0.0.1", passing.port)], reentrant=True)
    data = [numpy.full(MIB // 2, number) for number in range(4)]
    jobs = [cluster.submit(each) for each in data]
    for each, job in zip(data, jobs, strict=True):
        result = job()
        assert job.status == job.Finished, job.exception
        assert numpy.array_equal(result, each)
    assert [fault.has_happened for fault in faults] == [True, True]
    assert passing.connections == 3
    directory = memory_of(place)
    wait_for(lambda: held(directory)[1], lambda files: not files, what="no arguments and results are left")


def held(directory: Path) -> tuple[int, list[str]]:
    """Bytes that a node's files take, and those of them that are not just kept to be used again."""
    seen = [files_below(directory) for _ in range(2)]
    # What is there before the second look begins is in both, under whatever name.
    files = {inode: seen[1][inode] for inode in seen[0].keys() & seen[1].keys()}
    sizes = {inode: min(each[inode][0] for each in seen) for inode in files}
    return sum(sizes.values()), [
        path for inode, (_, path) in files.items() if sizes[inode] and Path(path).parent.name != FREE
    ]


def files_below(directory: Path) -> dict[int, tuple[int, str]]:
    """Bytes that files take, and their paths, by number. Others make, rename and remove them meanwhile."""
    found = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            path = f"{parent}/{name}"
            with suppress(FileNotFoundError):
                status = os.stat(path)
                found[status.st_ino] = status.st_blocks * 512, path
    return found


PROGRAM = """
import sys
import numpy
import dispy, dispy.config

def back(data):
    return data

def peak():
    with open("/proc/self/status") as file:
        return [int(line.split()[1]) for line in file if line.startswith(("VmHWM:", "VmRSS:"))]

dispy.config.SharedMemory = False
cluster = dispy.JobCluster(back, nodes=[("127.0.0.1", int(sys.argv[1]))])
cluster.submit(1)()
data = numpy.ones(int(sys.argv[2]) // 8)
before = peak()[1]
for _ in range(int(sys.argv[3])):
    # Held by us: the arguments, and their copy; and the result.
    result = cluster.submit(data)()
    assert result.nbytes == data.nbytes and result[-1] == 1 and result.flags.writeable
    del result
print("grown", peak()[0] - before)
cluster.shutdown()
"""


def test_nobody_holds_large_data_twice(
    start_node: StartNode, run_program: RunProgram, place: Place
) -> None:
    """In flight are the arguments and the result. Each side holds those once, and chunks of them."""
    size = 32 * MIB
    serving = start_node("--cpus", "2")
    node = psutil.Process(serving.pid)
    before = node.memory_info().rss
    program = run_program(PROGRAM, str(serving.port), str(size), "3")
    directory = memory_of(place)
    files = own = 0
    while program.process.poll() is None:
        files = max(files, held(directory)[0])
        memory = node.memory_info()
        own = max(own, memory.rss - before - memory.shared)
        time.sleep(0.002)
    assert program.wait() == 0, program.stderr
    grown = int(program.wait_line(r"^grown (\d+)")[1]) * 1024
    slack = size // 2
    assert grown < 2 * size + slack, f"the client: {grown / MIB:.0f} MiB"
    # A file of the job before may wait to be used again, until its result is known to have arrived.
    assert files + own < 3 * size + slack, f"the node: {files / MIB:.0f} + {own / MIB:.0f} MiB"
