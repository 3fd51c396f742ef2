"""What a killed worker, host, node or program had on the memory file system: gone, while the others go on."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from dispy.system.directories import GIVEN, memory_directory

from .conftest import RunProgram, StartNode
from .helpers import Node, Place, Program, in_use, opened, wait_for, wait_gone

PROGRAM = """
import os, sys, time
import numpy
import dispy, dispy.config

def back(data, seconds):
    time.sleep(seconds)
    dispy_provisional_result(data[::2].copy())
    return data

dispy.config.SharedMemory = sys.argv[1] == "shared"
dispy.config.LocalNode = False
cluster = dispy.JobCluster(back, reentrant=True)
data = [numpy.full(size // 8, size, dtype=float) for size in (100_000, 1_000_000, 6_000_000)]
jobs, count = [], 0
while not os.path.exists(sys.argv[2]):
    while len(jobs) < 5:
        count += 1
        jobs.append((data[count % 3], cluster.submit(data[count % 3], count % 5 / 1000)))
    sent, job = jobs.pop(0)
    result = job()
    if job.status == job.Finished:
        assert numpy.array_equal(result, sent)
        print("done", flush=True)
    del job, result
for _, job in jobs:
    job()
jobs.clear()
del job
print("idle", flush=True)
while not os.path.exists(sys.argv[2] + ".end"):
    time.sleep(0.005)
cluster.shutdown()
"""


class Running:
    """A program with large data under way in both directions, all the time."""

    def __init__(self, run_program: RunProgram, place: Place, how: str) -> None:
        self._gate = place.root / f"gate-{random.randrange(1 << 30)}"
        self.program: Program = run_program(PROGRAM, how, str(self._gate))
        self.wait_goes_on()

    def wait_goes_on(self, count: int = 4) -> None:
        """Wait until some more jobs have ended."""
        before = self.program.stdout.count("done")
        wait_for(
            lambda: (self.program.stdout.count("done"), self.program.process.poll(), self.program.stderr),
            lambda seen: seen[0] >= before + count,
            what="jobs end",
            deadline_s=20,
        )

    def directory(self) -> Path | None:
        """Its own on the memory file system, if it has one."""
        for target in opened(self.program.pid):
            if target.startswith(f"{memory_directory()}/client-"):
                return Path(target).parent
        return None

    def wait_idle(self) -> None:
        """Wait until all its jobs have ended; it keeps its cluster."""
        self._gate.touch()
        self.program.wait_line("^idle$")

    def end(self) -> None:
        """Let it end."""
        self._gate.touch()
        Path(f"{self._gate}.end").touch()
        assert self.program.wait() == 0, self.program.stderr


@pytest.fixture(params=["shared", "streamed"])
def how(request: pytest.FixtureRequest) -> str:
    """How large data travels."""
    return str(request.param)


def nodes_of(place: Place) -> list[Path]:
    """Directories of all nodes that ever ran."""
    return [memory_directory() / name for name in place.incarnations()]


def wait_unused(directory: Path) -> None:
    wait_for(lambda: in_use(directory), lambda left: not left, what="nothing is left of what had died")


def workers(node: Node) -> list[psutil.Process]:
    """Those that run jobs now."""
    found = []
    for host in psutil.Process(node.pid).children():
        with suppress(psutil.Error):
            found += host.children()
    return found


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_killed_workers_and_hosts_leave_nothing(
    start_node: StartNode, run_program: RunProgram, place: Place, how: str
) -> None:
    """At moments that are drawn, in the middle of arguments, results and provisional results."""
    node = start_node("--cpus", "2")
    running = Running(run_program, place, how)
    (directory,) = nodes_of(place)
    chance = random.Random(f"workers {how}")
    for kills in range(6):
        time.sleep(chance.random() / 50)  # no wait for anything: that is the moment
        victims = workers(node)
        if kills == 3 and victims:
            with suppress(psutil.NoSuchProcess):  # one that was killed before, and is gone by now
                kill(victims[0].ppid())
        else:
            for victim in victims[:1]:
                kill(victim.pid)
        running.wait_goes_on(2)
    running.wait_idle()
    wait_unused(directory)
    running.end()
    wait_unused(directory)


def test_a_killed_program_leaves_nothing_but_results(
    start_node: StartNode, run_program: RunProgram, place: Place, how: str
) -> None:
    """Its jobs run to their end, and their results are kept for a while. Others work meanwhile."""
    start_node("--cpus", "2")
    (directory,) = nodes_of(place)
    other = Running(run_program, place, how)
    running = Running(run_program, place, how)
    own = running.directory()
    assert (own is not None) == (how == "shared")
    running.program.process.kill()
    assert running.program.wait() == -signal.SIGKILL
    if own is not None:
        wait_for(own.exists, lambda exists: not exists, what="the program's directory is gone")
    other.wait_goes_on()
    other.wait_idle()
    other.end()
    # A result has one name, and its job has let go of its arguments.
    wait_for(
        lambda: [name for name in in_use(directory) if f"/{GIVEN}/" in name or is_argument(name)],
        lambda left: not left,
        what="no arguments of the dead program are left",
    )


def is_argument(name: str) -> bool:
    """Whether the node or a client has made a file, and no worker."""
    return int(Path(name).name) < 1 << 40


def test_a_killed_node_leaves_nothing_to_its_clients(
    start_node: StartNode, run_program: RunProgram, place: Place, how: str
) -> None:
    """They go on with another. Who shares memory sweeps it; else the next who starts does."""
    first = start_node("--cpus", "2")
    running = Running(run_program, place, how)
    (directory,) = nodes_of(place)
    second = start_node("--cpus", "1")
    running.wait_goes_on()
    below = first.descendants()
    place.is_swept = True
    first.process.kill()
    first.wait()
    running.wait_goes_on()
    wait_gone(below)
    if how == "streamed":
        start_node()
    wait_for(directory.exists, lambda exists: not exists, what="the dead node's directory is gone")
    running.wait_goes_on()
    running.wait_idle()
    running.end()
    assert second.process.poll() is None
    for path in nodes_of(place):
        wait_unused(path)
