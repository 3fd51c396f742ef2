"""Signals that whoever starts us has blocked or ignores: nodes, hosts and jobs begin without any of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import dispy

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import PYTHON, STOP_S, wait_for

NAMES = [
    "SIGCHLD", "SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGURG", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGRTMIN", "all",
]  # fmt: skip

TURN = """
import signal
import sys


def turn(how, name):
    if name == 'all':
        numbers = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    else:
        numbers = [getattr(signal, name)]
    if how == 'blocked':
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    else:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)


turn(*sys.argv[1:3])
"""

PROGRAM = (
    TURN
    + """
import time

import dispy


def work(what):
    import os, signal, subprocess, time
    if what == 'die':
        os._exit(3)
    if what == 'wait':
        try:
            dispy_provisional_result('runs')
            time.sleep(600)
        except KeyboardInterrupt:
            return 'best'
    status = subprocess.run(['cat', '/proc/self/status'], capture_output=True, text=True, check=True).stdout
    masks = [line.split() for line in status.splitlines() if line.startswith(('SigBlk:', 'SigIgn:'))]
    blocked = [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])]
    ignored = [int(number) for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN]
    return {name: int(mask, 16) for name, mask in masks}, blocked, sorted(ignored)


if __name__ == '__main__':
    for isolate in (False, True):
        with dispy.JobCluster(work, isolate=isolate) as cluster:
            died, looked, waited = [cluster.submit(what) for what in ('die', 'look', 'wait')]
            assert died.wait(5), cluster.why(died)
            print(died.status == dispy.DispyJob.Terminated, 'exit code 3' in died.exception)
            print(looked(), looked.exception)
            while waited.status != dispy.DispyJob.ProvisionalResult:
                time.sleep(0.005)
            start = time.monotonic()
            cluster.cancel(waited)
            assert waited.wait(5)
            assert time.monotonic() - start < 1
            print(waited.result)
    print('ends', flush=True)
"""
)

PYTHONS = sorted(int(number) for number in (signal.SIGPIPE, signal.SIGXFSZ))
"""Ignored by Python itself; what is started by ``subprocess`` has them back."""

SEEN = f"""\
True True
({{'SigBlk:': 0, 'SigIgn:': 0}}, [], {PYTHONS}) None
best
"""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["blocked", "ignored"])
def test_what_a_program_does_with_signals_is_its_own(run_program: RunProgram, how: str, name: str) -> None:
    """Deaths are noticed, jobs can be cancelled and see nothing of it, and the program's node ends with it."""
    program = run_program(PROGRAM, how, name)
    program.wait_line("^ends$")
    started = time.monotonic()
    assert program.wait(5) == 0, program.stderr
    assert time.monotonic() - started < 2
    assert program.stdout == SEEN * 2 + "ends\n", program.stderr


def test_a_program_that_waits_for_signals_in_a_thread(run_program: RunProgram) -> None:
    source = """
import signal
import threading

import dispy

SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}

if __name__ == '__main__':
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    asked = threading.Event()
    waits = threading.Thread(target=lambda: (signal.sigwait({signal.SIGTERM}), asked.set()))
    waits.start()
    with dispy.JobCluster(abs) as cluster:
        print(cluster.submit(-1)(), flush=True)
        asked.wait()
    print('ends in order')
"""
    program = run_program(source)
    program.wait_line("^1$")
    program.send(signal.SIGTERM)
    assert program.wait(3) == 0, program.stderr
    assert program.stdout.splitlines() == ["1", "ends in order"]


def test_a_node_that_has_hardly_begun_ends_at_once(run_program: RunProgram) -> None:
    """SIGTERM is ignored in it, until it has handlers of its own: it is sent again."""
    program = run_program(
        """
import signal
import time

import dispy

if __name__ == '__main__':
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    dispy.JobCluster(abs)
    start = time.monotonic()
    from dispy.client.engine.engine import stop_engine
    stop_engine()
    print(time.monotonic() - start < 3)
"""
    )
    assert program.wait(10) == 0, program.stderr
    assert program.stdout == "True\n"


START = TURN + "import os\nos.execv(sys.argv[3], sys.argv[3:])\n"


def start_turned(start_node: StartNode, how: str, name: str) -> Any:
    command = [*PYTHON, "-c", START, how, name, *PYTHON, "-W", "error", "-m", "dispy.cli.node"]
    return start_node(command=command)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("name", ["SIGCHLD", "SIGINT", "SIGTERM", "all"])
@pytest.mark.parametrize("how", ["blocked", "ignored"])
def test_a_node_ends_by_signals_whoever_started_it(
    start_node: StartNode, make_cluster: MakeCluster, how: str, name: str, number: int
) -> None:
    node = start_turned(start_node, how, name)

    def die() -> None:
        os._exit(3)

    died = make_cluster(die).submit()
    assert died.wait(5)
    assert died.exception is not None
    assert "exit code 3" in died.exception
    node.send(number)
    assert node.wait(STOP_S) == 0


def look_at_signals() -> tuple[list[int], list[int]]:
    return (
        [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        sorted(int(n) for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN),
    )


@pytest.mark.parametrize("way", ["nohup", "ignored", "daemon"])
def test_a_node_outlives_its_terminal_where_that_is_wanted(
    start_node: StartNode, make_cluster: MakeCluster, way: str
) -> None:
    """Jobs see nothing of that."""
    if way == "nohup":
        node = start_node(command=["nohup", *PYTHON, "-m", "dispy.cli.node"], stdin=subprocess.DEVNULL)
    elif way == "ignored":
        node = start_turned(start_node, way, "SIGHUP")
    else:
        node = start_node("--daemon")
    node.send(signal.SIGHUP)
    cluster = make_cluster(look_at_signals)
    assert cluster.submit()() == ([], PYTHONS)
    assert node.stop() == 0


def test_a_node_with_a_blocked_hangup_ends_by_it(start_node: StartNode) -> None:
    node = start_turned(start_node, "blocked", "SIGHUP")
    node.send(signal.SIGHUP)
    assert node.wait(STOP_S) == 0


def spoil_signals(way: str, path: str) -> None:
    ours = {signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGURG, signal.SIGHUP}
    subprocess.Popen(["cp", "/proc/self/status", path]).wait()
    if way == "blocked":
        signal.pthread_sigmask(signal.SIG_BLOCK, ours)
    elif way == "ignored":
        for number in ours:
            signal.signal(number, signal.SIG_IGN)
    elif way == "default":
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
    else:
        signal.set_wakeup_fd(-1)


def work(what: str) -> Any:
    if what == "die":
        os._exit(3)
    if what == "look":
        return look_at_signals()
    try:
        dispy_provisional_result("runs")
        time.sleep(600)
    except KeyboardInterrupt:
        return "best"


@pytest.mark.parametrize("per", ["node", "worker"])
@pytest.mark.parametrize("way", ["blocked", "ignored", "default", "unheard"])
def test_setup_does_not_take_signals_from_us(
    make_cluster: MakeCluster, start_node: StartNode, tmp_path: Path, way: str, per: str
) -> None:
    """A library that it uses may: an event loop that looks after its own child processes, say."""
    start_node("--cpus", "1")
    path = tmp_path / "status"
    nodes = [dispy.NodeAllocate("*", setup_args=(way, str(path)))]
    cluster = make_cluster(work, nodes=nodes, setup=spoil_signals, setup_per=per, depends=[look_at_signals])
    died, looked = cluster.submit("die"), cluster.submit("look")
    assert died.wait(5), cluster.why(died)
    assert "exit code 3" in (died.exception or "")
    assert looked() == ([], PYTHONS)
    waits = cluster.submit("wait")
    wait_for(
        lambda: waits.status, lambda status: status == dispy.DispyJob.ProvisionalResult, what="it runs"
    )
    started = time.monotonic()
    cluster.cancel(waits)
    assert waits() == "best"
    assert time.monotonic() - started < 1
    masks = [
        line.split() for line in path.read_text().splitlines() if line.startswith(("SigBlk", "SigIgn"))
    ]
    assert masks == [["SigBlk:", "0" * 16], ["SigIgn:", "0" * 16]]


def read_for_ever(what: str) -> str:
    if what == "restart":
        signal.siginterrupt(signal.SIGINT, False)
        return what
    ours, _ = os.pipe()
    try:
        dispy_provisional_result("runs")
        os.read(ours, 1)
    except KeyboardInterrupt:
        return "best"
    return "read"


def test_a_job_is_interrupted_in_calls_that_one_before_had_restarted(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster(read_for_ever)
    assert cluster.submit("restart")() == "restart"
    waits = cluster.submit("read")
    wait_for(
        lambda: waits.status, lambda status: status == dispy.DispyJob.ProvisionalResult, what="it runs"
    )
    cluster.cancel(waits)
    assert waits() == "best"


def lose_one() -> str:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    dispy_provisional_result("runs")
    signal.sigwait([signal.SIGINT])
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        time.sleep(600)
    except KeyboardInterrupt:
        return "best"
    return "slept"


@pytest.mark.parametrize("isolate", [False, True])
def test_an_interrupt_that_is_lost_is_repeated(make_cluster: MakeCluster, isolate: bool) -> None:
    """Python loses one that comes just before a system call."""
    cluster = make_cluster(lose_one, isolate=isolate)
    job = cluster.submit()
    wait_for(lambda: job.status, lambda status: status == dispy.DispyJob.ProvisionalResult, what="it runs")
    cluster.cancel(job)
    assert job() == "best", job.exception
