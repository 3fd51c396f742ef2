"""Faults of the node's own program: one that came for a computation or a client ends that, and nothing else."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import MakeCluster, RunProgram
from .helpers import Node, Place, wait_for

REPORT = "please report this"

PROGRAM = """
import os, sys, time
import dispy
from dispy import config

config.SharedMemory = False
way, data = sys.argv[1], bytes(1 << 20)

def hurt(way, data):
    if way == "dies":
        os.kill(os.getppid(), 9)
    if way == "prints":
        print("news", flush=True)
        time.sleep(1)
    while way == "goes on":
        try:
            time.sleep(0.05)
        except KeyboardInterrupt:
            pass
    while way == "stays":
        time.sleep(0.05)
    return data

def fine():
    return "fine"

def setup():
    print("set up", flush=True)
    return 0

with open("file", "w") as file:
    file.write(os.urandom(50_000).hex())  # large enough to arrive in pieces
options = {"job_output": lambda *_: None} if way == "prints" else {}
cluster = dispy.JobCluster(hurt, setup=setup, depends=["file"], **options)
beside = dispy.JobCluster(fine)
print("beside", beside.submit()(), flush=True)
with open("of a job", "w") as file:
    file.write("content")
jobs = [cluster.submit(way, data, **({"dispy_job_depends": ["of a job"]} if n == 1 else {})) for n in range(3)]
if way in ("goes on", "stays"):
    while jobs[0].status != dispy.DispyJob.Running:
        time.sleep(0.01)
    print("runs", flush=True)
if way == "goes on":
    cluster.cancel(jobs[0])
for job in jobs:
    if not job.wait(12):
        print("hangs", job, flush=True)
    print("job", job.status == dispy.DispyJob.Finished, repr(job.exception)[-200:], flush=True)
cluster.close(terminate=True)
print("beside", beside.submit().get(12) if len(sys.argv) > 2 else "not asked", flush=True)
beside.close(terminate=True)
"""


@pytest.fixture
def start_faulty(place: Place) -> Iterator[Callable[[str], Node]]:
    """Starts a node that has a fault in one place, for the computation ``hurt``."""
    made: list[Node] = []

    def start(where: str) -> Node:
        script = Path(__file__).with_name("faulty_node.py")
        command = [sys.executable, "-P", str(script), where]
        node = Node(place, "--listen_port", "0", "--cpus", "2", command=command)
        made.append(node)
        return node.wait_listens()

    yield start
    for node in made:
        node.end()


@pytest.mark.parametrize(
    ("where", "way"),
    [
        ("StartHost", ""),
        ("ForkWorker", ""),
        ("Offer", ""),
        ("StageFiles", ""),
        ("StageJob", ""),
        ("Release", ""),
        ("message of a host", ""),
        ("output of a host", ""),
        ("reply of a worker", ""),
        ("timer", "goes on"),
        ("live output", "prints"),
        ("message about a computation", ""),
        ("message that opens a computation", ""),
        ("looking for files", ""),
        ("after looking for files", ""),
        ("opening a part", ""),
        ("clearing away", ""),
    ],
)
def test_a_fault_for_a_computation_ends_that_computation(
    start_faulty: Callable[[str], Node],
    make_cluster: MakeCluster,
    run_program: RunProgram,
    where: str,
    way: str,
) -> None:
    """Its jobs end with the reason; another cluster of the same program goes on, as do other programs."""
    node = start_faulty(where)
    other = make_cluster(os.getpid)
    assert isinstance(other.submit()(), int)
    program = run_program(PROGRAM, way, "again")
    assert program.wait(25) == 0, program.stderr
    lines = program.stdout.splitlines()
    assert "hangs" not in program.stdout
    assert lines[0] == lines[-1] == "beside fine", (program.stdout, program.stderr)
    ends = [line for line in lines if line.startswith("job ")]
    assert len(ends) == 3, program.stdout
    fault = "has a fault: RuntimeError: a fault for hurt"
    if where == "clearing away":
        assert all(line.startswith("job True") for line in ends)
    else:
        said = [line for line in ends if fault in line]
        assert said or where in ("Release", "StageJob", "live output", "timer"), program.stdout
        rest = [line for line in ends if line not in said]
        assert all(
            "job True" in line or "died" in line or "ended" in line or "ancelled" in line for line in rest
        )
    assert node.process.poll() is None
    # The node may clear away after the program has ended: a scheduler between them still holds the computation.
    wait_for(lambda: node.stderr, lambda text: REPORT in text, what="the report of the fault")
    assert isinstance(other.submit()(), int)
    assert node.stop() == 0


@pytest.mark.parametrize(
    ("where", "way"),
    [
        ("burial", "dies"),
        ("what a client is told", ""),
        ("stream to a client", ""),
        ("message of a client", ""),
        ("writing a part", ""),
    ],
)
def test_a_fault_for_a_client_ends_its_connection(
    start_faulty: Callable[[str], Node],
    make_cluster: MakeCluster,
    run_program: RunProgram,
    where: str,
    way: str,
) -> None:
    """Its jobs end with a reason, none hangs; other programs go on."""
    node = start_faulty(where)
    other = make_cluster(os.getpid)
    assert isinstance(other.submit()(), int)
    program = run_program(PROGRAM, way)
    assert program.wait(25) == 0, (program.stdout, program.stderr)
    assert "hangs" not in program.stdout
    ends = [line for line in program.stdout.splitlines() if line.startswith("job ")]
    assert len(ends) == 3
    assert all("job False" in line and "fault" in line for line in ends), (program.stdout, program.stderr)
    assert node.process.poll() is None
    assert REPORT in node.stderr
    assert isinstance(other.submit()(), int)
    assert node.stop() == 0


def test_a_fault_when_a_connection_ends_drops_what_the_client_has_here(
    start_faulty: Callable[[str], Node], make_cluster: MakeCluster, run_program: RunProgram
) -> None:
    """Its jobs are ended: nobody could come back for them, and their CPUs are the others'."""
    node = start_faulty("end of a connection")
    program = run_program(PROGRAM, "stays")
    program.wait_line("runs")
    workers = len(node.descendants())
    program.send(signal.SIGKILL)
    node.wait_line(REPORT, stream="stderr")
    wait_for(lambda: len(node.descendants()), lambda count: count < workers, what="its host has ended")
    assert isinstance(make_cluster(os.getpid).submit()(), int)
    assert node.stop() == 0


@pytest.mark.parametrize("where", ["pulse", "log"])
def test_a_fault_for_nobody_ends_nothing(
    start_faulty: Callable[[str], Node], run_program: RunProgram, where: str
) -> None:
    """One that comes back each second is logged once a minute."""
    node = start_faulty(where)
    program = run_program(PROGRAM, "prints", "again")
    assert program.wait(25) == 0, program.stderr
    assert program.stdout.count("job True") == 3, program.stdout
    node.wait_line(REPORT, stream="stderr")
    assert node.process.poll() is None
    assert where != "pulse" or node.stderr.count(REPORT) == 1
    assert node.stop() == 0
