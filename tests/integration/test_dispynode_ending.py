"""How a ``dispynode`` ends: by signals, with its terminal, by force."""

from __future__ import annotations

import getpass
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dispy

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import STOP_S, Node, Place, describe, wait_for, wait_gone

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def stubborn() -> None:
    """A job that ends only by force, with a child and a grandchild that do so, too."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    inner = "trap '' INT TERM HUP; setsid sleep 600 & while :; do sleep 600; done"
    subprocess.Popen(["sh", "-c", inner])
    subprocess.Popen(["sleep", "600"], env={}, start_new_session=True)
    dispy_provisional_result(os.getpid())
    while True:
        time.sleep(600)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_signal_ends_an_idle_node(start_node: StartNode, number: int) -> None:
    node = start_node()
    wait_for(node.descendants, what="a spare host")
    below = node.descendants()
    started = time.monotonic()
    node.send(number)
    assert node.wait(STOP_S) == 0
    wait_gone(below, deadline_s=2)
    assert time.monotonic() - started < STOP_S
    assert node.complaints == ""


def test_a_node_has_closed_all_that_it_opened(tuned_node: StartNode, make_cluster: MakeCluster) -> None:
    """Of what is still open an interpreter warns as it is taken apart, which ``dispynode`` leaves out."""
    node = tuned_node()
    assert make_cluster(abs).submit(-1)() == 1
    assert node.stop() == 0
    assert node.complaints == ""


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_signal_ends_a_busy_node(
    start_node: StartNode, make_cluster: MakeCluster, place: Place, number: int
) -> None:
    node = start_node()
    cluster = make_cluster(stubborn)
    jobs = [cluster.submit() for _ in range(4)]
    wait_for(
        lambda: [job.result for job in jobs],
        lambda seen: sum(map(bool, seen)) == node.cpus,
        what="jobs run",
    )
    # Of each job its worker, a shell with two children, and a sleeping process; and the host.
    wait_for(
        lambda: [describe(pid) for pid in node.descendants()],
        lambda seen: len(seen) > node.cpus * 5,
        what="all that jobs have started is there",
    )
    below = node.descendants()
    started = time.monotonic()
    node.send(number)
    assert node.wait(STOP_S + 0.5) == 0
    wait_gone(below, what="all that ran on the node is gone", deadline_s=2)
    assert time.monotonic() - started < STOP_S + 0.5
    for job in jobs[: node.cpus]:
        assert job.wait(5), "the job of a stopped node does not end"
        assert job.status == dispy.DispyJob.Abandoned
        assert job.exception


def test_second_signal_does_no_harm(start_node: StartNode, make_cluster: MakeCluster) -> None:
    node = start_node()
    cluster = make_cluster(stubborn)
    job = cluster.submit()
    wait_for(lambda: job.result, what="the job runs")
    below = node.descendants()
    for number in SIGNALS:
        node.send(number)
    assert node.wait(STOP_S + 0.5) == 0
    wait_gone(below, deadline_s=2)
    assert "Traceback" not in node.stderr


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        *enumerate([signal.SIGTERM, signal.SIGHUP] * 3),
        (0, signal.SIGINT),
        (3, signal.SIGINT),
        (4, signal.SIGINT),
    ],
)
def test_signal_while_starting(place: Place, number: int, moment: int) -> None:
    """At six moments from the first instruction to the line that says where it listens.

    Without an option for warnings: with one a Python that is interrupted in its first milliseconds goes on.
    """
    node = Node(place, "--listen_port", "0", warnings="")
    try:
        if moment == 1:
            wait_for(lambda: os.path.exists(f"/proc/{node.pid}/exe"), what="it exists")
        elif moment == 2:
            wait_for(lambda: "cli" in Path(f"/proc/{node.pid}/cmdline").read_text(), what="it is executed")
        elif moment == 3:
            wait_for(node.descendants, what="its first child")
        elif moment == 4:
            wait_for(place.incarnations, what="its directory")
        elif moment == 5:
            node.wait_listens()
        below = node.descendants()
        started = time.monotonic()
        node.send(number)
        # It takes down what it has made by then, and makes some of it first: an interpreter, and a host.
        code = node.wait(STOP_S + 2)
        assert code in (0, 1, 130, -number), (code, node.stderr)
        assert time.monotonic() - started < STOP_S + 2
        wait_gone(below, deadline_s=2)
        assert moment < 5 or node.complaints == ""
        wait_for(
            lambda: (place.processes(), place.files()), lambda left: left == ([], []), what="nothing left"
        )
    finally:
        node.end()


def in_terminal(place: Place, *arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a node with a terminal of its own, as a shell would; returns it and the terminal's other end."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c",
         "import fcntl, os, sys, termios\n"
         "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
         "os.execv(sys.executable, [sys.executable, '-m', 'dispy.cli.node', *sys.argv[1:]])",
         "--listen_port", "0", *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=place.environment,
    )  # fmt: skip
    os.close(theirs)
    text = b""
    while b"listens on" not in text or not text.endswith(b"\n"):
        text += os.read(ours, 4096)
    return process, ours


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
def test_closing_its_terminal_ends_it(place: Place, make_cluster: MakeCluster, is_busy: bool) -> None:
    process, terminal = in_terminal(place)
    try:
        if is_busy:
            cluster = make_cluster(stubborn)
            job = cluster.submit()
            wait_for(lambda: job.result, what="the job runs")
        before = place.processes()
        os.close(terminal)
        process.wait(STOP_S + 0.5)
        wait_gone(before, deadline_s=2)
    finally:
        process.kill()
        process.wait()


def test_interrupt_at_its_terminal_ends_it(place: Place) -> None:
    process, terminal = in_terminal(place)
    try:
        before = place.processes()
        os.write(terminal, b"\x03")
        assert process.wait(STOP_S) == 0
        wait_gone(before, deadline_s=2)
    finally:
        os.close(terminal)
        process.kill()
        process.wait()


def test_daemon_survives_the_end_of_its_terminal(place: Place, make_cluster: MakeCluster) -> None:
    process, terminal = in_terminal(place, "--daemon", "--name", "lasting")
    try:
        os.close(terminal)
        process.send_signal(signal.SIGHUP)
        cluster = make_cluster(lambda: dispy_node_name)
        job = cluster.submit()
        assert job() == "lasting", job.exception
        assert process.poll() is None
        process.terminate()
        assert process.wait(STOP_S) == 0
    finally:
        process.kill()
        process.wait()


def test_what_a_killed_node_left_is_removed_by_the_next_one_and_its_client(
    start_node: StartNode, make_cluster: MakeCluster, place: Place
) -> None:
    node = start_node()
    below = wait_for(node.descendants, what="a spare host")
    node.send(signal.SIGKILL)
    node.wait()
    wait_gone(below)
    assert place.files(), "a killed node cannot clean up, or this test looks in the wrong place"
    next_node = start_node()
    assert make_cluster(lambda: 1).submit()() == 1
    next_node.stop()
    wait_for(place.files, lambda left: not left, what="nothing is left")


def test_listing_is_private_and_says_who(start_node: StartNode, place: Place) -> None:
    start_node("--name", "x")
    (path,) = (place.state / "dispy" / "nodes").glob("*/*.json")
    assert path.owner() == getpass.getuser()
    for directory in (path.parent, path.parent.parent, path.parent.parent.parent):
        assert directory.stat().st_mode & 0o077 == 0
    assert path.stat().st_mode & 0o077 == 0


def test_node_goes_on_without_anybody_reading_its_output(run_program: RunProgram, place: Place) -> None:
    """``dispynode | head -1``: what it logs afterwards does not end it."""
    command = f"exec {sys.executable} -m dispy.cli.node --listen_port 0 2>&1"
    process = subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, env=place.environment)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        for n in range(2):
            program = run_program(
                "import dispy\nprint(dispy.JobCluster(lambda: dispynode_logger.warning('x')).submit().wait(5))\n",
                name=f"p{n}.py",
            )
            assert program.wait() == 0
            assert program.stdout.strip() == "True"
        assert process.poll() is None
        assert len(place.incarnations()) == 1
    finally:
        process.terminate()
        process.wait(STOP_S + 1)
