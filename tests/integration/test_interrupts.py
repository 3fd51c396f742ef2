"""Ctrl-C, sudden deaths and forks of a program: it ends as usual, and nothing is left."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from .conftest import RunProgram, StartNode
from .helpers import Place, wait_gone
from .test_program import CANONICAL, check_canonical

LONG = """
import time

import dispy

dispy.config.CancelGrace = 0.5


def compute(n):
    import signal, subprocess, time
    child = subprocess.Popen(['sleep', '600'])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        dispy_provisional_result(child.pid)
        time.sleep(600)


def on_status(status, node, job):
    if status == dispy.DispyJob.ProvisionalResult:
        print('runs', job.result, flush=True)


if __name__ == '__main__':
    cluster = dispy.JobCluster(compute, cluster_status=on_status)
    jobs = [cluster.submit(n) for n in range(5)]
    BODY
"""

BODIES = {
    "a job's result": "jobs[0]()",
    "wait of a job": "jobs[0].wait()",
    "wait of the cluster": "cluster.wait()",
    "a context manager": "with cluster: time.sleep(600)",
    "sleeping": "time.sleep(600)",
    # Called before what waits for the jobs: it was registered later. By print it could be amid another thread's line.
    "the exit": r"import atexit, os; atexit.register(os.write, 1, b'ends\n')",
}


@pytest.mark.parametrize("waits_in", BODIES)
def test_interrupt_ends_the_program_and_all_it_started(
    run_program: RunProgram, place: Place, waits_in: str
) -> None:
    program = run_program(LONG.replace("BODY", BODIES[waits_in]))
    program.wait_line(r"^runs \d+$")
    if waits_in == "the exit":
        program.wait_line("^ends$")
    before = place.processes()
    assert len(before) > 3, "node, host, worker and the job's child"
    started = time.monotonic()
    program.interrupt_group()
    code = program.wait(3)
    assert code in (1, 130, -signal.SIGINT) or waits_in == "the exit", (code, program.stderr)
    if waits_in != "the exit":
        assert "KeyboardInterrupt" in program.stderr, program.stderr
        assert "in <module>" in program.stderr, f"not raised in the main thread: {program.stderr}"
    else:
        assert "5 are cancelled" in program.stderr
    wait_gone(before, what="everything that the program started is gone", deadline_s=3)
    assert time.monotonic() - started < 4


def test_interrupt_can_be_caught_and_jobs_go_on(run_program: RunProgram, gate: Path) -> None:
    """Ctrl-C at the terminal is the program's: its own node does not see it."""
    source = """
import sys
import time

import dispy


def compute(gate):
    import os, time
    while not os.path.exists(gate):
        time.sleep(0.005)
    return 'ended'


if __name__ == '__main__':
    cluster = dispy.JobCluster(compute)
    jobs = [cluster.submit(sys.argv[1]) for _ in range(2)]
    while any(job.status != dispy.DispyJob.Running for job in jobs):
        time.sleep(0.01)
    try:
        print('waits', flush=True)
        cluster.wait()
    except KeyboardInterrupt:
        print('caught', flush=True)
    print(*[job() for job in jobs])
"""
    program = run_program(source, str(gate))
    program.wait_line("^waits$")
    program.interrupt_group()
    program.wait_line("^caught$")
    gate.touch()
    assert program.wait(15) == 0, program.stderr
    assert program.stdout.splitlines() == ["waits", "caught", "ended ended"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_killed_client_takes_its_node_with_it(run_program: RunProgram, place: Place, number: int) -> None:
    program = run_program(LONG.replace("BODY", "cluster.wait()"))
    program.wait_line(r"^runs \d+$")
    before = place.processes()
    program.send(number)
    assert program.wait(3) == -number
    wait_gone(before, what="the node of the killed program and all below it are gone", deadline_s=5)


def test_killed_client_leaves_a_shared_node_to_others(
    run_program: RunProgram, start_node: StartNode, place: Place
) -> None:
    """What a dead client left does not keep the next one from its share."""
    node = start_node("--cpus", "1")
    program = run_program("""
import time

import dispy

if __name__ == '__main__':
    cluster = dispy.JobCluster(lambda: time.sleep(0.05))
    jobs = [cluster.submit() for _ in range(2000)]
    jobs[0]()
    print('runs', flush=True)
    cluster.wait()
""")
    program.wait_line("^runs$")
    program.send(signal.SIGKILL)
    program.wait(3)
    nodes, _ = check_canonical(run_program(CANONICAL % "", name="next.py"))
    assert nodes == {node.name}
    assert len(place.incarnations()) == 1
    assert node.process.poll() is None


FORKED = """
import multiprocessing, os, sys, warnings

import dispy
from dispy.errors import UsageError

warnings.simplefilter('ignore', DeprecationWarning)  # of os.fork in a process with threads


def compute(n, gate=''):
    import os, time
    while gate and not os.path.exists(gate):
        time.sleep(0.005)
    return n + 1


def refuses(what, *args):
    try:
        result = what(*args)
    except UsageError as error:
        assert str(PARENT) in str(error), error
        return True
    print('no error but', result, what, flush=True)
    return False


def child(cluster, job):
    attempts = [
        (cluster.submit, 1), (cluster.submit_job_id, 1, 1), (cluster.cancel, job), (cluster.wait,),
        (cluster.status,), (cluster.close,), (cluster.discover_nodes, ['*']), (cluster.node_jobs, '127.0.0.1'),
        (cluster.print_status,), (cluster.shutdown,), (job.wait,), (job,),
    ]
    return all([refuses(*attempt) for attempt in attempts])


def in_pool(cluster, job):
    sys.exit(0 if child(cluster, job) else 1)


if __name__ == '__main__':
    PARENT = os.getpid()
    cluster = dispy.JobCluster(compute)
    job = cluster.submit(0.5, sys.argv[2])
    if sys.argv[1] == 'multiprocessing':
        process = multiprocessing.get_context('fork').Process(target=in_pool, args=(cluster, job))
        process.start()
        process.join()
        code = process.exitcode
    else:
        pid = os.fork()
        if pid == 0:
            good = child(cluster, job)
            if sys.argv[1] == 'fork and exit':
                sys.exit(0 if good else 1)
            other = dispy.JobCluster(compute)
            good = good and other.submit(0)() == 1
            other.shutdown()
            os._exit(0 if good else 1)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    open(sys.argv[2], 'w').close()
    print('child', code, 'parent', job(), cluster.submit(0)(), flush=True)
"""


@pytest.mark.parametrize("way", ["multiprocessing", "fork", "fork and exit"])
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_cluster_in_a_forked_child_refuses_at_once(run_program: RunProgram, gate: Path, way: str) -> None:
    program = run_program(FORKED, way, str(gate))
    assert program.wait(15) == 0, program.stderr
    assert program.stdout.splitlines() == ["child 0 parent 1.5 1"], program.stderr
