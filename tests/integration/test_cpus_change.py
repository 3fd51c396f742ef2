"""CPUs of a node that change while it works: at its terminal, and by a program for itself."""

from __future__ import annotations

import os
import pty
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy import DispyNode
from dispy.errors import UsageError
from dispy.node.machine.cpus import usable_cpus
from dispy.system.wording import counted

from . import jobs
from .conftest import MakeCluster, StartNode
from .helpers import PYTHON, Node, wait_for

RUNNING = dispy.DispyJob.Running

MOST = usable_cpus()
ALL = counted(MOST, "CPU")

needs_two = pytest.mark.skipif(MOST < 2, reason="one CPU only")

TAKE_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)
"""Makes standard input the terminal that the process is controlled by, as in a terminal window."""


@pytest.fixture(autouse=True)
def _no_own_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispy.config, "LocalNode", False)


class Terminal:
    """A node in the foreground of a terminal."""

    def __init__(self, start_node: StartNode, *arguments: str, **options: Any) -> None:
        self.ours, theirs = pty.openpty()
        attributes = termios.tcgetattr(theirs)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(theirs, termios.TCSANOW, attributes)
        python = [sys.executable, "-c", TAKE_TERMINAL, *PYTHON]
        self.node: Node = start_node(*arguments, stdin=theirs, python=python, **options)
        os.close(theirs)
        self._answers = 0

    def type(self, line: str) -> str:
        """Type a line; returns what the node answers to it."""
        before = len(self.node.stdout)
        os.write(self.ours, line.encode() + b"\n")
        return wait_for(
            lambda: self.node.stdout[before:],
            lambda said: said.endswith("\n"),
            what=f"an answer to {line!r}",
        ).strip()

    def close(self) -> None:
        os.close(self.ours)


@pytest.fixture
def terminal(start_node: StartNode) -> Iterator[Any]:
    """Starts a node at a terminal."""
    opened: list[Terminal] = []

    def start(*arguments: str, **options: Any) -> Terminal:
        opened.append(Terminal(start_node, *arguments, **options))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def count_running(submitted: list[dispy.DispyJob]) -> int:
    return [job.status for job in submitted].count(RUNNING)


def start_waiting(cluster: dispy.JobCluster, gates: list[Path], running: int) -> list[dispy.DispyJob]:
    """Submit a job for each gate; wait until so many run."""
    submitted = [cluster.submit(str(gate)) for gate in gates]
    wait_for(lambda: count_running(submitted), lambda count: count == running, what=f"{running} jobs run")
    return submitted


@pytest.fixture
def gates(gate: Path) -> Iterator[list[Path]]:
    """Files that let one job each end."""
    found = [gate.with_name(f"gate{number}") for number in range(6)]
    yield found
    for path in found:
        path.touch()


@needs_two
def test_cpus_at_the_terminal(make_cluster: MakeCluster, terminal: Any, gates: list[Path]) -> None:
    """Fewer than run: those go on, and nothing starts until there are fewer; then more again."""
    told: list[tuple[int, int]] = []

    def note(status: int, node: DispyNode | None, job: Any) -> None:
        if status == DispyNode.AvailInfo and node is not None:
            told.append((node.cpus, node.avail_cpus))

    console = terminal("--cpus", "2")
    cluster = make_cluster(jobs.until, cluster_status=note)
    submitted = start_waiting(cluster, gates[:5], 2)
    assert console.type("cpus 1") == f"1 of {ALL} offered"
    wait_for(lambda: told, lambda seen: (1, 1) in seen, what="cluster_status is told")
    gates[0].touch()
    assert submitted[0].wait(5)
    # A second job with nothing to do could start now; it is told as running after two ticks at most.
    status = cluster.status().nodes[0]
    assert (status.cpus, status.avail_cpus) == (1, 1)
    assert submitted[1].status == RUNNING
    gates[1].touch()
    assert submitted[1].wait(5)
    wait_for(lambda: count_running(submitted), lambda count: count == 1, what="one job runs")
    starts = sorted(job.start_time for job in submitted if job.status == RUNNING)
    assert starts[0] >= submitted[1].end_time, "a job started though two ran on one CPU"
    assert console.type("cpus 2") == f"2 of {ALL} offered"
    wait_for(lambda: count_running(submitted), lambda count: count == 2, what="two jobs run")


def test_no_cpus(make_cluster: MakeCluster, terminal: Any, gates: list[Path]) -> None:
    """A node without CPUs takes nothing; who waits is told. A cluster that finds it so uses it later."""
    console = terminal("--cpus", "1", "--name", "one")
    cluster = make_cluster(jobs.until)
    submitted = start_waiting(cluster, gates[:3], 1)
    assert console.type("cpus 0") == f"0 of {ALL} offered"
    wait_for(
        lambda: cluster.why(submitted[2]),
        lambda why: why == "it waits: node one: it offers no CPUs now",
        what="the reason is told",
    )
    later = make_cluster(jobs.name_and)
    job = later.submit()
    wait_for(
        lambda: later.why(job), lambda why: "one: it offers no CPUs now" in why, what="the reason is told"
    )
    for gate in gates:
        gate.touch()
    assert submitted[0].wait(5)
    assert not submitted[1].finish.is_set()
    console.type("cpus 1")
    assert cluster.wait(5)
    assert job()[0] == "one"


def test_what_can_be_typed(terminal: Any, make_cluster: MakeCluster) -> None:
    console = terminal("--cpus", "1")
    assert console.type("cpus").startswith(f"1 of {ALL} offered; 'cpus N' offers N")
    assert console.type("cpus all") == f"{MOST} of {ALL} offered"
    for wrong in (str(MOST + 1), str(-MOST), "many", "1.5"):
        assert "give a number from" in console.type(f"cpus {wrong}")
    assert console.type("help").startswith("commands: ")
    assert console.type("") == f"CPUs: {MOST} offered, 0 in use"
    cluster = make_cluster(jobs.name_and)
    cluster.submit()()
    wait_for(
        lambda: console.type(""),
        lambda said: f"({os.getpid()}): 0 in use, jobs here: 0 of name_and" in said,
        what="who uses the node",
    )


def test_daemon_reads_no_terminal(terminal: Any, make_cluster: MakeCluster) -> None:
    console = terminal("--cpus", "1", "--daemon")
    os.write(console.ours, b"cpus 0\n")
    assert make_cluster(jobs.name_and).submit()()
    assert console.node.stdout.count("\n") == 1


# A program for itself.


@needs_two
def test_set_node_cpus(make_cluster: MakeCluster, start_node: StartNode, gates: list[Path]) -> None:
    """For all clusters of the program, below what runs too; more than the node has is what it has."""
    node = start_node("--cpus", "2", "--name", "one")
    cluster, second = make_cluster(jobs.until), make_cluster(jobs.until)
    submitted = start_waiting(cluster, gates[:3], 2)
    wait_for(second.status, lambda status: status.nodes, what="the other cluster has the node")
    assert cluster.set_node_cpus("one", 1) == 1
    assert [each.status().nodes[0].cpus for each in (cluster, second)] == [1, 1]
    assert cluster.status().nodes[0].avail_cpus == 2
    waiting = second.submit(str(gates[5]))
    gates[0].touch()
    gates[1].touch()
    assert submitted[0].wait(5)
    assert submitted[1].wait(5)
    everything = [*submitted, waiting]
    wait_for(lambda: count_running(everything), lambda count: count == 1, what="one job runs")
    last = max(job.end_time for job in submitted[:2])
    assert all(job.start_time >= last for job in everything if job.status == RUNNING)
    wait_for(
        lambda: cluster.status().nodes[0].reason,
        lambda reason: reason == "set_node_cpus allows 1 of its CPUs",
        what="the reason is told",
    )
    assert cluster.set_node_cpus(node.host, 99) == 2
    wait_for(lambda: count_running(everything), lambda count: count == 2, what="two jobs run")
    assert cluster.set_node_cpus(cluster.status().nodes[0], -1) == 1
    assert cluster.set_node_cpus("one", -5) == 1, "changed though that leaves nothing"
    assert cluster.set_node_cpus("nowhere", 1) == -1
    with pytest.raises(UsageError, match="a number of CPUs"):
        cluster.set_node_cpus("one", "2")  # type: ignore[arg-type]


def test_set_node_cpus_to_none(make_cluster: MakeCluster, start_node: StartNode) -> None:
    """Other programs are not concerned by it; the node's own offer is the bound."""
    start_node("--cpus", "1", "--name", "one")
    cluster = make_cluster(jobs.name_and)
    cluster.submit()()
    assert cluster.set_node_cpus("one", 0) == 0
    job = cluster.submit()
    wait_for(
        lambda: cluster.why(job),
        lambda why: why == "it waits: node one: set_node_cpus allows none of its CPUs",
        what="the reason is told",
    )
    assert cluster.set_node_cpus("one", 1) == 1
    assert job.wait(5)


@needs_two
def test_other_cpus_are_no_reason_to_use_a_closed_node_again(
    make_cluster: MakeCluster, terminal: Any
) -> None:
    """Nor is ``allocate`` asked about it; a cluster that uses the node is asked once."""
    asked: list[tuple[str, int]] = []

    class Asked(dispy.NodeAllocate):
        def allocate(self, cluster: Any, ip_addr: str, name: str, cpus: int, *rest: Any) -> int:
            asked.append((self.label, cpus))
            return cpus

        label = ""

    console = terminal("--cpus", "2")
    one, other = Asked("*"), Asked("*")
    one.label, other.label = "one", "other"
    cluster, left = make_cluster(jobs.name_and, [one]), make_cluster(jobs.name_and, [other])
    for each in (cluster, left):
        assert each.submit()()
    assert left.close_node("127.0.0.1") == 0
    asked.clear()
    console.type("cpus 1")
    wait_for(lambda: asked, bool, what="allocate is asked")
    wait_for(lambda: cluster.status().nodes[0].cpus, lambda cpus: cpus == 1, what="one CPU")
    assert asked == [("one", 1)]
    assert [node.cpus for node in left.status().nodes] == [0]
