"""A ``dispynode`` that was started at a terminal: what is typed there, and what becomes of it when that is closed."""

from __future__ import annotations

import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import dispy
from dispy.node.machine.cpus import usable_cpus

from . import jobs
from .conftest import MakeCluster
from .helpers import STOP_S, Place, is_alive, wait_for, wait_gone

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")

MOST = usable_cpus()


class Shell:
    """An interactive bash with a terminal of its own, as in a terminal window or by ssh."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c",
             "import fcntl, os, termios\n"
             "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
             "os.execvp('bash', ['bash', '--norc', '--noprofile', '-i'])"],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, cwd=place.root,
            env={**place.environment, "PS1": "$ ", "HISTFILE": "", "TERM": "dumb"},
        )  # fmt: skip
        os.close(theirs)
        os.set_blocking(self.ours, False)
        self._text = ""

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self.ours, text.encode() + b"\n")

    def said(self) -> str:
        """All that the terminal shows."""
        while True:
            try:
                self._text += os.read(self.ours, 65536).decode()
            except OSError:
                return self._text.replace("\r\n", "\n")

    def wait_said(self, what: str) -> None:
        """Wait until the terminal shows something."""
        wait_for(self.said, lambda said: what in said, what=f"the terminal shows {what!r}")

    def start(self, command: str) -> int:
        """Start a node with a command in which N stands for it; returns its pid."""
        node = shlex.join([sys.executable, "-m", "dispy.cli.node", "--listen_port", "0", "--cpus", "1"])
        self.type(command.replace("N", node))
        return wait_for(self.nodes, what="a node")[0]

    def forget(self) -> None:
        """Begin anew with what the terminal shows."""
        self.said()
        self._text = ""

    def nodes(self) -> list[int]:
        """Pids of the nodes here."""
        found = []
        for pid in self.place.processes():
            with suppress(psutil.Error):
                command = psutil.Process(pid).cmdline()
                if "dispy.cli.node" in command and Path(command[0]).name.startswith("python"):
                    found.append(pid)
        return found

    def hang_up(self) -> None:
        """Close the terminal, as its window is closed or its connection breaks."""
        if self.ours >= 0:
            self.said()
            os.close(self.ours)
            self.ours = -1

    def end(self) -> None:
        """Be rid of it."""
        self.hang_up()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def shell(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.setattr(dispy.config, "LocalNode", False)
    opened = Shell(place)
    yield opened
    opened.end()


LASTING = [
    "nohup N &",
    "nohup N",
    "nohup N > log 2>&1 &",
    "nohup N < /dev/null > /dev/null 2>&1 &",
    "nohup N --daemon &",
    "N --daemon &",
    "N --daemon",
    "setsid N &",
    "setsid nohup N &",
    "nohup setsid N > log &",
    "(trap '' HUP; N) &",
    "(trap '' HUP; exec N < /dev/null)",
    "N & disown -h",
]
"""Ways to start a node that is to outlive the terminal."""


@pytest.mark.parametrize("command", LASTING)
def test_nodes_that_outlive_their_terminal(
    shell: Shell, make_cluster: MakeCluster, gate: Path, command: str
) -> None:
    """Also the host and the worker: the job that ran goes on, and so does what comes later."""
    node = shell.start(command)
    cluster = make_cluster(jobs.until)
    job = cluster.submit(str(gate))
    wait_for(lambda: job.status, lambda status: status == dispy.DispyJob.Running, what="the job runs")
    shell.hang_up()
    wait_gone([shell.process.pid], what="the shell is gone")
    later = cluster.submit(str(gate))
    gate.touch()
    assert job.wait(5), cluster.why(job)
    assert later.wait(5), cluster.why(later)
    assert (job.status, later.status) == (dispy.DispyJob.Finished,) * 2, (job.exception, later.exception)
    assert make_cluster(jobs.name_and).submit(1)()[1] == 1
    assert is_alive(node)
    os.kill(node, signal.SIGTERM)
    wait_gone([node], deadline_s=STOP_S + 1)


@pytest.mark.parametrize(
    "command", ["N", "N &", "bash -c 'N; true'", "N 2>&1 | cat", "N < /dev/null", "N > log"]
)
def test_nodes_that_end_with_their_terminal(
    shell: Shell, make_cluster: MakeCluster, gate: Path, command: str
) -> None:
    """In order: its jobs are told, its processes and files are gone."""
    node = shell.start(command)
    cluster = make_cluster(jobs.until)
    job = cluster.submit(str(gate))
    wait_for(lambda: job.status, lambda status: status == dispy.DispyJob.Running, what="the job runs")
    shell.hang_up()
    wait_gone([node], deadline_s=STOP_S + 1)
    assert job.wait(5)
    assert job.status == dispy.DispyJob.Abandoned
    assert job.exception is not None
    assert "dispynode was stopped" in job.exception


# What is typed.


def test_the_greeting_says_that_something_can_be_typed(shell: Shell) -> None:
    shell.start("N")
    shell.wait_said(" CPU, TLS\ntype 'help' to see what can be typed here\n")
    shell.type("help")
    for word in ("status", "cpus N", "stop", "start", "exit", "quit"):
        shell.wait_said(word)
    shell.type("quit")
    wait_gone(shell.nodes())


@pytest.mark.parametrize("command", ["N --daemon", "N < /dev/null"])
def test_no_word_of_commands_where_none_is_read(shell: Shell, command: str) -> None:
    node = shell.start(command)
    shell.wait_said("listens on")
    os.kill(node, signal.SIGTERM)
    shell.type("echo has ended")
    shell.wait_said("\nhas ended")
    assert "type 'help'" not in shell.said()


def test_quit_and_exit_of_an_idle_node(shell: Shell) -> None:
    for word in ("quit", "exit", "QUIT"):
        node = shell.start("N; echo code $?")
        shell.wait_said("type 'help'")
        shell.type(word)
        wait_gone([node], deadline_s=STOP_S + 1)
        shell.wait_said("dispynode ends now: no job runs here\n")
        shell.wait_said(f"'{word.lower()}' at the terminal: the node ends; nothing runs here")
        shell.wait_said("\ncode 0\n")
        shell.forget()


def test_quit_ends_running_jobs(shell: Shell, make_cluster: MakeCluster, gate: Path) -> None:
    node = shell.start("N")
    job = make_cluster(jobs.until).submit(str(gate))
    wait_for(lambda: job.status, lambda status: status == dispy.DispyJob.Running, what="the job runs")
    shell.type("quit")
    shell.wait_said("dispynode ends now: 1 job runs here")
    wait_gone([node], deadline_s=STOP_S + 1)
    assert job.wait(5)
    assert job.status == dispy.DispyJob.Abandoned


def test_exit_waits_for_running_jobs(shell: Shell, make_cluster: MakeCluster, gate: Path) -> None:
    """What has not begun goes back to its program."""
    node = shell.start("N")
    cluster = make_cluster(jobs.until)
    running, waiting = cluster.submit(str(gate)), cluster.submit(str(gate))
    wait_for(lambda: running.status, lambda status: status == dispy.DispyJob.Running, what="the job runs")
    shell.type("exit")
    shell.wait_said("no new jobs begin; dispynode ends when none runs: 1 job runs here; 'quit' ends it now")
    shell.type("")
    shell.wait_said("CPUs: none offered, as the node is drained, 1 in use")
    assert is_alive(node)
    gate.touch()
    assert running.wait(5)
    assert running.status == dispy.DispyJob.Finished
    wait_gone([node], deadline_s=STOP_S + 1)
    assert waiting.status == dispy.DispyJob.Created


@pytest.mark.parametrize("second", ["exit", "quit", "\x03"])
def test_exit_need_not_be_waited_for(
    shell: Shell, make_cluster: MakeCluster, gate: Path, second: str
) -> None:
    node = shell.start("N")
    job = make_cluster(jobs.until).submit(str(gate))
    wait_for(lambda: job.status, lambda status: status == dispy.DispyJob.Running, what="the job runs")
    shell.type("exit")
    shell.wait_said("no new jobs begin")
    shell.type(second)
    wait_gone([node], deadline_s=STOP_S + 1)
    assert job.wait(5)


@pytest.mark.parametrize("first", ["exit", "stop", "cpus 0"])
@pytest.mark.parametrize("second", ["start", "cpus 1"])
def test_start_after_stop(
    shell: Shell, make_cluster: MakeCluster, gate: Path, first: str, second: str
) -> None:
    node = shell.start("N")
    cluster = make_cluster(jobs.until)
    job, later = cluster.submit(str(gate)), cluster.submit(str(gate))
    wait_for(lambda: job.status, lambda status: status == dispy.DispyJob.Running, what="the job runs")
    shell.type(first)
    shell.wait_said(
        {"exit": "dispynode ends when", "stop": "'start' offers 1 CPU again"}.get(first, "0 of ")
    )
    shell.type(second)
    shell.wait_said(f"1 of {MOST} CPUs offered")
    gate.touch()
    assert later.wait(5)
    assert later.status == dispy.DispyJob.Finished
    assert is_alive(node)
    shell.type("quit")
    wait_gone([node])


def test_other_things_that_are_typed(shell: Shell) -> None:
    node = shell.start("N")
    shell.wait_said("type 'help'")
    for typed, said in [
        ("status", "CPUs: 1 offered, 0 in use\n"),
        ("release", "there is nothing to release: any number of programs use this node"),
        ("Cpus", f"1 of {MOST} CPUs offered; 'cpus N' offers N, from"),
        ("start", f"1 of {MOST} CPUs offered"),
        ("stop now", "'stop now' is no command here; type 'help'"),
        ("x\ty", "is no command here"),
        ("\x04", "dispynode goes on; type 'exit' to end when no job runs"),
    ]:
        shell.forget()
        if typed == "\x04":
            os.write(shell.ours, b"\x04\x04\x04")
        else:
            shell.type(typed)
        shell.wait_said(said)
    shell.forget()
    shell.type("status")
    shell.wait_said("CPUs: 1 offered")
    shell.type("quit")
    wait_gone([node])
