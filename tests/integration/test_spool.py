"""A node keeps results on disk for clients that are gone, over its own end, as far as quota and disk allow."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import dispy
from dispy import config

from .conftest import RunProgram, StartNode
from .helpers import Node, Place, below, wait_for, wait_gone
from .recovering import (
    ABANDONED,
    CREATED,
    FINISHED,
    TERMINATED,
    Dying,
    QuickNode,
    StartDying,
    dying_programs,
    journals,
    noted,
    spooled,
)


@pytest.fixture
def start_dying(run_program: RunProgram, place: Place) -> Iterator[StartDying]:
    """Starts programs that will die."""
    with dying_programs(run_program, place) as start:
        yield start


@pytest.fixture
def start_quick(place: Place) -> Iterator[Callable[..., QuickNode]]:
    """Starts nodes that take clients for gone soon; each ends in order, if it has not been killed."""
    made: list[QuickNode] = []

    def start(**settings: Any) -> QuickNode:
        node = QuickNode(place, **{"cpus": 1, "name": "quick", **settings})
        made.append(node)
        node.wait_listens()
        return node

    yield start
    for node in made:
        try:
            if node.process.poll() is None:
                assert node.stop() == 0, node.stderr
            assert "Traceback" not in node.stderr
        finally:
            node.end()


StartQuick = Callable[..., QuickNode]


def kill(place: Place, node: Node) -> None:
    """The node dies, and what it leaves is swept by the next one."""
    place.is_swept = True
    node.send(signal.SIGKILL)
    node.wait()


@pytest.fixture(autouse=True)
def _no_own_node() -> None:
    config.LocalNode = False


@pytest.fixture(autouse=True)
def _nothing_stays(place: Place, start_quick: StartQuick) -> Iterator[None]:
    """No journal and no result is left when a test is over."""
    yield
    assert journals(place) == []
    wait_for(
        lambda: below(place.state, "dispy/spool/*/*.[rod]*"),
        lambda left: not left,
        what="nothing is left on disk",
    )


# Over the end of the node.


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
@pytest.mark.parametrize("size", [0, 300_000], ids=["small", "large"])
def test_results_outlive_their_node(
    start_dying: StartDying, start_quick: StartQuick, place: Place, how: signal.Signals, size: int
) -> None:
    """What had ended comes back, with all that belongs to it; of what had not, the reason is told."""
    node = start_quick(cpus=2)
    dying = start_dying(20, size=size, durable=True, free=1)
    dying.wait_started([0, 1, 2])
    dying.kill()
    dying.release(2)
    wait_for(lambda: _results_of(place), lambda numbers: 3 in numbers, what="its result is on disk")
    for file in [*spooled(place), *noted(place)]:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    place.is_swept = True
    left = node.descendants()
    node.send(how)
    node.wait()
    # Until then a worker may begin another job.
    wait_gone(left)
    started = dying.started()
    start_quick()
    jobs = dispy.recover_jobs()
    assert [job.id for job in jobs] == list(range(1, 21))
    assert [dying.check(jobs[name], size) for name in (0, 2)] == [0, 2]
    assert jobs[1].status in (ABANDONED, TERMINATED), "killed with its node, or stopped by it"
    assert jobs[1].exception
    assert {job.status for job in jobs[3:]} <= {ABANDONED, TERMINATED, CREATED}
    assert all(job.status != CREATED for job in jobs if job.id - 1 in started)
    assert dying.started() == started
    dispy.recover_jobs(timeout=0, terminate_pending=True)


def test_results_outlive_several_nodes(
    start_dying: StartDying, start_quick: StartQuick, place: Place
) -> None:
    """Each takes over what those before it had; nothing is taken over that has another name, port and secret."""
    node = start_quick()
    dying = start_dying(4, size=100_000)
    held = _end_alone(dying, place)
    other = start_quick(name="other", secret="another")
    before = spooled(place)
    for _ in range(3):
        kill(place, node)
        node = start_quick()
    assert spooled(place) == before
    jobs = dispy.recover_jobs()
    assert [dying.check(job, 100_000) for job in jobs] == held
    assert other.process.poll() is None


def test_results_that_came_after_the_client_had_gone_are_there(
    start_dying: StartDying, start_quick: StartQuick, place: Place
) -> None:
    """Jobs go on; the node is killed when the last one has ended and is on disk."""
    node = start_quick(cpus=2)
    dying = start_dying(4, size=200_000)
    held = _end_alone(dying, place)
    kill(place, node)
    start_quick()
    jobs = dispy.recover_jobs()
    assert [dying.check(job, 200_000) for job in jobs] == held


def _end_alone(dying: Dying, place: Place) -> list[int]:
    """A program dies, then its jobs end; returns those that its node had, when the results of all are on disk."""
    from dispy.node.results.spool_files import read_note

    dying.wait_started(1)
    dying.kill()
    (path,) = wait_for(lambda: noted(place), what="what is open is noted")
    held = {attempt.number for jobs in read_note(path).open for attempt in jobs.attempts}
    assert held
    assert spooled(place) == []
    dying.release()
    wait_for(
        lambda: _results_of(place), lambda numbers: numbers == held, what=f"results of {held} are on disk"
    )
    return [number - 1 for number in sorted(held)]


def _results_of(place: Place) -> set[int]:
    """Numbers of the jobs whose results are on disk."""
    from dispy.node.results.spool_files import read_header

    numbers = set()
    for path in spooled(place):
        with open(path, "rb") as file:
            header, _ = read_header(file.fileno())
        numbers |= {ended.number for batch in header.batches for ended in batch.ended}
    return numbers


PULSE_S = 0.4
"""Of a program that stands still: after five of them its node takes it for gone."""


def _stand_still(
    dying: Dying, node: QuickNode, start_quick: StartQuick, place: Place, meanwhile: Callable[[], object]
) -> None:
    """A program stands still while its first job ends and its node is killed, and goes on when there is the next."""
    dying.wait_started([0])
    dying.program.send(signal.SIGSTOP)
    try:
        wait_for(lambda: noted(place), what="the client is away")
        dying.release(0)
        wait_for(lambda: spooled(place), what="a result is on disk")
        kill(place, node)
        meanwhile()
        start_quick(listen_port=node.port)
    finally:
        dying.program.send(signal.SIGCONT)


def test_a_client_that_stood_still_has_its_results_from_the_next_node(
    start_dying: StartDying, start_quick: StartQuick, place: Place
) -> None:
    """It was away for longer than the limit, and its node was killed meanwhile: what had ended is not lost."""
    node = start_quick()
    dying = start_dying(3, size=100_000, pulse_interval=PULSE_S)
    _stand_still(dying, node, start_quick, place, lambda: None)
    dying.order("print('first', jobs[0]()[0], jobs[0].status == jobs[0].Finished, flush=True)")
    dying.program.wait_line("^first 0 True$", deadline_s=15)
    dying.release()
    dying.order(
        "print('ended', [job() and job.status for job in jobs] and True, flush=True); cluster.close()"
    )
    dying.program.wait_line("^ended True$", deadline_s=15)
    wait_for(lambda: journals(place), lambda left: not left, what="the journal is removed")
    assert all(len(dying.runs(name)) <= 1 for name in range(3))


def test_a_node_that_is_killed_before_it_wrote_anything(
    start_dying: StartDying, start_node: StartNode, place: Place
) -> None:
    """Nobody knows what ran there: what had been sent is not run again."""
    node = start_node("--cpus", "1", "--name", "node")
    dying = start_dying(20, durable=True)
    dying.wait_started(1)
    dying.kill()
    kill(place, node)
    start_node("--cpus", "1", "--name", "node", port=str(node.port))
    dying.release()
    jobs = dispy.recover_jobs(resume=True)
    assert [job.id for job in jobs] == list(range(1, 21))
    assert jobs[0].status == ABANDONED
    assert "was started anew, and has nothing of what it had" in jobs[0].exception
    sent = [job for job in jobs if job.status == ABANDONED]
    assert [dying.check(job) for job in jobs[len(sent) :]] == list(range(len(sent), 20))
    assert dying.started() == [0, *range(len(sent), 20)]


@pytest.mark.parametrize("part", ["results", "open"])
def test_a_damaged_file_is_no_reason_to_run_jobs_twice(
    start_dying: StartDying, start_quick: StartQuick, place: Place, part: str
) -> None:
    """What it held is lost, and said to be; nobody takes it for what never started."""
    node = start_quick()
    dying = start_dying(8, durable=True, free=1)
    dying.wait_started([0, 1])
    # It gives the node more when it knows how long its jobs take.
    dying.order("while 'it is on node quick' not in cluster.why(jobs[2]): time.sleep(0.005)")
    dying.order("print('given', flush=True)")
    dying.program.wait_line("^given$")
    dying.kill()
    dying.release(1)
    wait_for(
        lambda: _results_of(place),
        lambda numbers: 2 in numbers and noted(place),
        what="a result is on disk",
    )
    dying.wait_started([0, 1, 2])
    kill(place, node)
    paths = spooled(place) if part == "results" else noted(place)
    for path in paths:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    node = start_quick()
    for path in paths:
        node.wait_line(f"{path} is damaged", stream="stderr")
    kill(place, node)
    start_quick()
    dying.release()
    jobs = dispy.recover_jobs(resume=True)
    assert [job.id for job in jobs] == list(range(1, 9))
    assert all(len(dying.runs(name)) <= 1 for name in range(8))
    assert jobs[1].status == (ABANDONED if part == "results" else FINISHED)
    assert jobs[2].status == ABANDONED


def _damage_values(place: Place) -> None:
    """Change a byte in the middle of all large values on disk."""
    for path in spooled(place):
        data = bytearray(path.read_bytes())
        place_in = data.find(b"y" * 1000)
        if place_in < 0:
            continue  # small results have files of their own, if they came later
        data[place_in + 500] ^= 1
        path.write_bytes(data)


def test_a_large_result_that_was_damaged_on_disk_is_not_told(
    start_dying: StartDying, start_quick: StartQuick, place: Place
) -> None:
    """Whatever the file system says: a value that is not what the job returned is lost, with a reason."""
    node = start_quick(cpus=2)
    dying = start_dying(2, size=200_000)
    dying.wait_started([0, 1])
    dying.kill()
    dying.release()
    wait_for(lambda: _results_of(place), lambda numbers: numbers == {1, 2}, what="all is on disk")
    kill(place, node)
    _damage_values(place)
    start_quick()
    jobs = dispy.recover_jobs()
    assert [job.status for job in jobs] == [TERMINATED, FINISHED]
    assert jobs[0].exception == "the job's result was lost: it was damaged on its node's disk"
    assert jobs[0].result is None
    assert dying.check(jobs[1]) == 1


def test_a_large_result_that_was_damaged_while_its_client_stood_still(
    start_dying: StartDying, start_quick: StartQuick, place: Place
) -> None:
    node = start_quick()
    dying = start_dying(1, size=200_000, pulse_interval=PULSE_S)
    _stand_still(dying, node, start_quick, place, lambda: _damage_values(place))
    dying.order("jobs[0].wait(); print(jobs[0].status, jobs[0].result, jobs[0].exception, flush=True)")
    lost = "the job's result was lost: it was damaged on its node's disk"
    dying.program.wait_line(f"^{TERMINATED} None {lost}$", deadline_s=15)
    dying.order("cluster.close()")
    wait_for(lambda: journals(place), lambda left: not left, what="the journal is removed")


# Where there is no room.


def test_what_is_beyond_the_quota_stays_in_memory(
    start_dying: StartDying, start_quick: StartQuick, place: Place
) -> None:
    """It is said, and it is there as long as the node is."""
    node = start_quick(cpus=2, spool_max=200_000)
    dying = start_dying(2, size=300_000)
    dying.wait_started(2)
    dying.kill()
    dying.release()
    found = node.wait_line(
        r"stay in memory, and end with this node: (\S+) cannot be\s+written to: 200000 bytes are allowed",
        stream="stderr",
    )
    assert found[1] == str(place.state / "dispy" / "spool")
    assert sum(path.stat().st_size for path in spooled(place)) <= 200_000
    jobs = dispy.recover_jobs()
    assert [dying.check(job, 300_000) for job in jobs] == dying.started()
    assert node.stderr.count("stay in memory") == 1


def test_no_quota_means_no_files(start_dying: StartDying, start_quick: StartQuick, place: Place) -> None:
    node = start_quick(spool_max=0)
    dying = start_dying(3)
    dying.wait_started(1)
    dying.kill()
    dying.release()
    jobs = dispy.recover_jobs()
    assert [dying.check(job) for job in jobs] == dying.started()
    assert not (place.state / "dispy" / "spool").exists()
    assert node.process.poll() is None


FULL = """
mount -t tmpfs -o size=256k,mode=700 full "$1" || exit 99
shift
exec "$@"
"""


@contextmanager
def node_on_small_disk(place: Place) -> Iterator[Node]:
    """A node whose spool is on a file system of 256 KiB of its own."""
    import msgspec

    settings = place.root / "settings.json"
    settings.write_bytes(
        msgspec.json.encode({"listen_port": 0, "silence_s": 0.1, "cpus": 2, "name": "small"})
    )
    spool = place.state / "dispy" / "spool"
    for directory in (spool.parent, spool):
        directory.mkdir(mode=0o700)
    inner = f"exec {shlex.quote(sys.executable)} -W error -m dispy.node < {shlex.quote(str(settings))}"
    node = Node.__new__(Node)
    from .helpers import Program

    Program.__init__(
        node, ["unshare", "--mount", "sh", "-c", FULL, "sh", str(spool), "sh", "-c", inner], place
    )
    try:
        wait_for(
            lambda: node.process.poll() is not None or "listens" in node.stdout, what="it listens or ends"
        )
        if node.process.poll() is not None and (node.wait() == 99 or "unshare" in node.stderr):
            pytest.skip("nothing can be mounted here")
        yield node.wait_listens()
        assert node.stop() == 0, node.stderr
        assert "Traceback" not in node.stderr
    finally:
        node.end()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
def test_a_full_disk(start_dying: StartDying, place: Place) -> None:
    """What does not fit stays in memory, which is said; nothing of it is lost while the node runs."""
    with node_on_small_disk(place) as node:
        dying = start_dying(2, size=300_000)
        dying.wait_started(2)
        dying.kill()
        dying.release()
        node.wait_line(r"stay in memory.*No space left on device", stream="stderr")
        jobs = dispy.recover_jobs()
        assert [dying.check(job, 300_000) for job in jobs] == dying.started()


# Its end.


def test_a_recovered_node_keeps_nothing(
    start_dying: StartDying, start_quick: StartQuick, place: Place
) -> None:
    """Its rooms on disk go with it, too."""
    node = start_quick()
    dying = start_dying(3, size=100_000)
    dying.wait_started(1)
    dying.kill()
    dying.release()
    wait_for(lambda: spooled(place), what="results are on disk")
    assert dispy.recover_jobs()
    wait_for(lambda: spooled(place) + noted(place), lambda left: not left, what="it is erased")
    assert node.stop() == 0
    assert list((place.state / "dispy" / "spool").iterdir()) == []


def test_a_client_that_ends_well_leaves_nothing_on_disk(
    start_quick: StartQuick, place: Place, run_program: RunProgram
) -> None:
    """Nor is anything ever written for it, also if it does nothing for longer than the limit."""
    node = start_quick()
    program = run_program(
        "import dispy\n"
        "dispy.config.LocalNode = False\n"
        "cluster = dispy.JobCluster(abs)\n"
        "print(sum(cluster.submit(-n)() for n in range(100)))\n"
        "cluster.close()\n"
    )
    assert program.wait() == 0, program.stderr
    assert program.stdout == "4950\n"
    assert node.stop() == 0
    assert not (place.state / "dispy" / "spool").exists()


def test_the_quota_and_the_lease_are_options(start_node: StartNode, place: Place) -> None:
    for arguments, problem in (
        (["--spool_max", "many"], "'many' is no size"),
        (["--zombie_interval", "0.5"], "is not a number of minutes from 1, or 0"),
    ):
        node = start_node(*arguments, wait=False)
        assert node.wait() == 2
        assert problem in node.stderr
    for arguments in (
        ["--spool_max", "10m", "--zombie_interval", "0"],
        ["--zombie-interval=1", "--spool-max=0"],
    ):
        assert start_node(*arguments, "--cpus", "1").cpus == 1
