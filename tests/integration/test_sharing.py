"""Several programs on one node: shares, stopped and killed ones, and what they are told of each other."""

from __future__ import annotations

import itertools
import json
import signal
import statistics
import subprocess
from pathlib import Path
from typing import Any

import pytest

import dispy

from . import jobs
from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import Place, Program, wait_for

FINISHED = dispy.DispyJob.Finished

PARTS = 15
"""Of the time in which two programs share a node, each is looked at by itself."""

OTHER = """
import json, sys
import dispy
from tests.integration import jobs

dispy.config.LocalNode = False
options = json.loads(sys.argv[1])
cluster = dispy.JobCluster(jobs.name_and, exclusive=options.get("exclusive", False))
submitted = [cluster.submit(None, options["seconds"]) for _ in range(options["jobs"])]
submitted[0]()
print("first", flush=True)
cluster.wait()
print("times", json.dumps([(job.start_time, job.end_time) for job in submitted]), flush=True)
sys.stdin.readline()
cluster.close()
"""


@pytest.fixture(autouse=True)
def _no_own_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispy.config, "LocalNode", False)


@pytest.fixture
def other(run_program: RunProgram, place: Place) -> Any:
    """Starts another program with a cluster of its own."""
    root = Path(__file__).parents[2]
    started: list[Program] = []

    def start(name: str = "other.py", **options: Any) -> Program:
        environment = dict(place.environment)
        environment["PYTHONPATH"] = f"{environment.get('PYTHONPATH', '')}:{root}"
        program = run_program(OTHER, json.dumps(options), name=name, env=environment, stdin=subprocess.PIPE)
        started.append(program)
        return program

    yield start
    for program in started:
        if program.process.stdin is not None:
            program.process.stdin.close()


def times(program: Program) -> list[tuple[float, float]]:
    """When the jobs of another program ran, once all have ended."""
    found: list[tuple[float, float]] = json.loads(program.wait_line(r"^times (.*)$", deadline_s=20)[1])
    return found


def end(program: Program) -> None:
    """Have another program close its cluster and end."""
    assert program.process.stdin is not None
    program.process.stdin.close()
    assert program.wait() == 0, program.stderr


def seconds_within(spans: list[tuple[float, float]], begin: float, until: float) -> float:
    """How much of some runs lies between two times."""
    return sum(max(0.0, min(end, until) - max(start, begin)) for start, end in spans)


def test_two_programs_have_halves(make_cluster: MakeCluster, start_node: StartNode, other: Any) -> None:
    """The second has its part from its first job on, whatever is queued before."""
    start_node("--cpus", "2")
    cluster = make_cluster(jobs.name_and)
    mine = [cluster.submit(None, 0.01) for _ in range(2000)]
    mine[0]()
    program = other(jobs=60, seconds=0.01)
    theirs = times(program)
    begin, until = min(start for start, _ in theirs), max(end for _, end in theirs)
    ours = [(job.start_time, job.end_time) for job in mine if job.status == FINISHED]
    assert len(ours) < len(mine), "the comparison needs more jobs"
    # Who stands still for a moment, as on a busy machine, has none in that, and the other more.
    shares = []
    for part in range(PARTS):
        span = (begin + (until - begin) * part / PARTS, begin + (until - begin) * (part + 1) / PARTS)
        had = seconds_within(ours, *span)
        shares.append(had / max(1e-9, had + seconds_within(theirs, *span)))
    assert 0.4 < statistics.median(shares) < 0.6, shares
    cluster.cancel(mine)
    end(program)


def test_long_jobs_of_one_leave_the_other_its_cpu(
    make_cluster: MakeCluster, start_node: StartNode, other: Any, gate: Path
) -> None:
    """Each job of the other program frees a CPU for a moment; the sleepers here do not take it."""
    start_node("--cpus", "2")
    cluster = make_cluster(jobs.until)
    sleeping = [cluster.submit(str(gate))]
    wait_for(lambda: sleeping[0].status == dispy.DispyJob.Running, what="the first sleeps")
    program = other(jobs=80, seconds=0.003)
    program.wait_line("^first")
    sleeping += [cluster.submit(str(gate)) for _ in range(3)]
    assert len(times(program)) == 80, "the other program was kept from the node"
    gate.touch()
    assert cluster.wait(5)
    end(program)


def test_stopped_program_blocks_nobody(
    make_cluster: MakeCluster, start_node: StartNode, other: Any
) -> None:
    """Its jobs that are at the node come to their ends, with results that nobody takes."""
    start_node("--cpus", "1")
    program = other(jobs=200, seconds=0.005)
    program.wait_line("^first")
    program.send(signal.SIGSTOP)
    try:
        cluster = make_cluster(jobs.name_and)
        mine = [cluster.submit(None, 0.001) for _ in range(50)]
        assert cluster.wait(10), cluster.why(mine[-1])
    finally:
        program.send(signal.SIGCONT)
    program.wait_line("^times", deadline_s=20)
    end(program)


def test_share_of_a_killed_program_is_free(
    make_cluster: MakeCluster, tuned_node: Any, other: Any, gate: Path
) -> None:
    """What it had given to the node runs on CPUs that nobody else wants; none of it is lost."""
    tuned_node(silence_s=0.5, cpus=1)
    program = other(jobs=400, seconds=0.02)
    program.wait_line("^first")
    program.send(signal.SIGKILL)
    program.wait()
    cluster = make_cluster(jobs.name_and)
    mine = [cluster.submit(None, 0.01) for _ in range(150)]
    assert cluster.wait(10)
    # From half a second after its death on, one follows the other here: nothing of the dead comes between.
    late = mine[-40:]
    gaps = [after.start_time - before.end_time for before, after in itertools.pairwise(late)]
    # With its share it would be in nearly all of them; a busy machine is in some.
    assert sum(gap > 0.015 for gap in gaps) < len(gaps) // 2, gaps


def test_exclusive_program_that_is_killed_keeps_nobody_off(
    make_cluster: MakeCluster, tuned_node: Any, other: Any
) -> None:
    tuned_node(silence_s=0.5, cpus=1)
    program = other(name="greedy.py", jobs=1, seconds=0, exclusive=True)
    program.wait_line("^first")
    cluster = make_cluster(jobs.name_and)
    job = cluster.submit()
    wait_for(lambda: cluster.why(job), lambda why: "used exclusively by" in why, what="the reason is told")
    assert "greedy.py" in cluster.why(job)
    program.send(signal.SIGKILL)
    assert job.wait(5)
    program.wait()
    assert cluster.status().nodes[0].reason == ""
