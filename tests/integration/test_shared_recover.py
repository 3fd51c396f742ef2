"""A program of a shared scheduler is killed; another one fetches its jobs from the scheduler."""

from __future__ import annotations

import shlex
import signal
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dispy
from dispy import config
from dispy.errors import UsageError

from .conftest import RunProgram, StartNode
from .helpers import Node, Place, Program, Scheduler, wait_for
from .recovering import (
    ABANDONED,
    CREATED,
    FINISHED,
    RECOVER,
    RUNNING,
    TERMINATED,
    StartDying,
    dying_programs,
    journals,
    wait_journal,
)
from .schedulers import Schedulers


@pytest.fixture
def start_dying(
    run_program: RunProgram, place: Place, schedulers: Schedulers, start_node: StartNode
) -> Iterator[StartDying]:
    """Starts programs that will die; asks for ``schedulers`` and ``start_node`` so that these end after them."""
    with dying_programs(run_program, place) as start:
        yield start


@pytest.fixture(autouse=True)
def _nothing_stays(place: Place) -> Iterator[None]:
    """No journal is left when a test is over."""
    config.LocalNode = False
    yield
    assert journals(place) == []


class QuickScheduler(Scheduler):
    """A ``dispyscheduler`` with settings that have no option: a lease of less than a minute, a constant."""

    def __init__(self, place: Place, lease_s: float, setting: str = "") -> None:
        code = (
            "from dispy.scheduler.daemon import absence, process; from dispy.settings import SchedulerSettings; "
            f"{setting}\n"
            f"raise SystemExit(process.run(SchedulerSettings(lease_s={lease_s}, listen_port=0)))"
        )
        command = f"exec {shlex.quote(sys.executable)} -W error -c {shlex.quote(code)} < /dev/null"
        Program.__init__(self, ["sh", "-c", command], place)
        self.host, self.port = "", 0


def wait_forgotten(scheduler: Scheduler) -> None:
    """Wait until a scheduler has forgotten a program."""
    wait_for(
        lambda: scheduler.stderr, lambda text: "is gone: it has no cluster" in text, what="it is forgotten"
    )


@pytest.mark.parametrize("size", [0, 200_000], ids=["small", "large"])
def test_all_jobs_come_once(
    start_dying: StartDying, start_node: StartNode, schedulers: Schedulers, size: int
) -> None:
    """Running, and waiting at the scheduler: all of them; then the scheduler forgets the program."""
    start_node("--cpus", "2")
    scheduler = schedulers.start()
    dying = start_dying(40, shared=True, size=size)
    dying.wait_started(2)
    dying.kill()
    (program,) = dispy.recoverable()
    assert str(program.nodes[0]).endswith(f"(127.0.0.1:{scheduler.port})")
    dying.release()
    jobs = dispy.recover_jobs()
    assert [dying.check(job, size) for job in jobs] == list(range(40))
    assert [job.id for job in jobs] == list(range(1, 41))
    wait_forgotten(scheduler)
    assert dispy.recover_jobs() == []


def test_a_full_journal_has_what_was_told_too(
    start_dying: StartDying, start_node: StartNode, schedulers: Schedulers
) -> None:
    start_node("--cpus", "2")
    schedulers.start()
    dying = start_dying(40, shared=True, durable=True, free=10, size=200_000)
    dying.wait_started(list(range(11)))
    dying.kill()
    dying.release()
    jobs = dispy.recover_jobs(resume=True)
    assert [dying.check(job, 200_000) for job in jobs] == list(range(40))


def test_what_a_time_limit_leaves(
    start_dying: StartDying, start_node: StartNode, schedulers: Schedulers, place: Place
) -> None:
    """Jobs that run and wait are shown as that; the next recovery gets all."""
    start_node("--cpus", "2")
    schedulers.start()
    dying = start_dying(6, shared=True)
    dying.wait_started(2)
    dying.kill()
    jobs = dispy.recover_jobs(timeout=2)
    assert sorted(job.status for job in jobs) == sorted([RUNNING] * 2 + [CREATED] * 4)
    assert all(job.start_time and job.ip_addr == "127.0.0.1" for job in jobs if job.status == RUNNING)
    dying.release()
    assert [dying.check(job) for job in dispy.recover_jobs()] == list(range(6))


def test_jobs_are_given_up(start_dying: StartDying, start_node: StartNode, schedulers: Schedulers) -> None:
    start_node("--cpus", "2")
    scheduler = schedulers.start()
    dying = start_dying(6, shared=True)
    dying.wait_started(2)
    dying.kill()
    jobs = dispy.recover_jobs(timeout=0, terminate_pending=True)
    assert {job.status for job in jobs} <= {dispy.DispyJob.Cancelled, dispy.DispyJob.Terminated}
    wait_forgotten(scheduler)


def test_a_recovery_that_is_killed(
    start_dying: StartDying, start_node: StartNode, schedulers: Schedulers, run_program: RunProgram
) -> None:
    """Another one gets all, also what the first one had."""
    start_node("--cpus", "2")
    scheduler = schedulers.start()
    dying = start_dying(20, shared=True, size=200_000)
    dying.wait_started(2)
    dying.kill()
    first = run_program(RECOVER, "{}")
    wait_for(lambda: scheduler.stderr, lambda text: "is recovered by" in text, what="it is recovered")
    dying.release(*range(8))
    dying.wait_started(9)
    first.send(signal.SIGKILL)
    first.wait()
    assert "recovered [" not in first.stdout
    dying.release()
    assert [dying.check(job, 200_000) for job in dispy.recover_jobs()] == list(range(20))
    wait_forgotten(scheduler)


def test_two_programs_with_equal_numbers(
    run_program: RunProgram, start_node: StartNode, schedulers: Schedulers, place: Place, gate: Path
) -> None:
    """Each recovery gets the jobs of one program: numbers of jobs and clusters are equal, names are not."""
    start_node("--cpus", "1")
    schedulers.start()
    source = (
        "import os, sys, time, dispy\n"
        "def say(name, number, gate):\n"
        "    while not os.path.exists(gate): time.sleep(0.01)\n"
        "    return name, number\n"
        "cluster = dispy.SharedJobCluster(say)\n"
        "jobs = [cluster.submit(sys.argv[1], n, sys.argv[2]) for n in range(10)]\n"
        "cluster.why(jobs[-1])\n"  # the scheduler answers when it has all that was sent before
        "print('submitted', flush=True)\n"
        "time.sleep(60)\n"
    )
    programs = [run_program(source, name, str(gate)) for name in ("one", "two")]
    for program in programs:
        program.wait_line("^submitted$")
        wait_journal(place, program)
        program.send(signal.SIGKILL)
        program.wait()
    gate.touch()
    found = [[job.result for job in dispy.recover_jobs()] for _ in programs]
    assert sorted(found) == [[(name, n) for n in range(10)] for name in ("one", "two")]


def test_a_lease_that_is_over(
    place: Place, start_node: StartNode, start_dying: StartDying, run_program: RunProgram
) -> None:
    """Nothing is left, and the recovery says why."""
    start_node("--cpus", "1")
    scheduler = QuickScheduler(place, 0.2).wait_listens()
    try:
        dying = start_dying(4, shared=True)
        dying.kill()
        wait_for(lambda: scheduler.stderr, lambda text: "its lease is over" in text, what="it is forgotten")
        recovery = run_program(RECOVER, "{}")
        assert recovery.wait() == 0, recovery.stderr
        assert recovery.stdout.splitlines()[-1] == "recovered []"
        assert "no jobs are left of" in recovery.stderr
        assert "(--zombie_interval)" in recovery.stderr
    finally:
        scheduler.stop()
        scheduler.end()


def test_a_lease_that_is_over_and_a_full_journal(
    place: Place, start_node: StartNode, start_dying: StartDying
) -> None:
    """Jobs that the scheduler had may have run: they are not run again."""
    start_node("--cpus", "1")
    scheduler = QuickScheduler(place, 0.2).wait_listens()
    try:
        dying = start_dying(4, shared=True, durable=True, free=1)
        dying.order(
            "jobs[0].wait(); cluster._session.journal.thread.ask(lambda db: None); print('noted', flush=True)"
        )
        dying.program.wait_line("^noted$")
        dying.kill()
        wait_for(lambda: scheduler.stderr, lambda text: "its lease is over" in text, what="it is forgotten")
        first, *others = dispy.recover_jobs(resume=True)
        assert first.status == FINISHED
        assert [job.status for job in others] == [ABANDONED] * 3
        assert "has nothing of it" in (others[0].exception or "")
    finally:
        scheduler.stop()
        scheduler.end()


WITH_FILES = """
import sys, dispy

def read(data, number):
    return len(open('all.bin', 'rb').read()), open(f'{number}.txt').read(), len(data)

cluster = dispy.SharedJobCluster(read, depends=['all.bin', 'empty.txt'], reentrant=True)
data = cluster.put(bytes(300_000))
jobs = [cluster.submit(data, n, dispy_job_depends=[f'{n}.txt']) for n in range(3)]
print('submitted', flush=True)
import time; time.sleep(60)
"""


def test_files_outlive_the_program_on_a_node_that_comes_later(
    run_program: RunProgram, start_node: StartNode, schedulers: Schedulers, place: Place, tmp_path: Path
) -> None:
    """Files of the cluster and of jobs, and an object; no node was there while the program lived."""
    scheduler = schedulers.start()
    directory = tmp_path / "own"
    directory.mkdir()
    (directory / "all.bin").write_bytes(b"x" * 3_500_000)
    (directory / "empty.txt").touch()
    for n in range(3):
        (directory / f"{n}.txt").write_text(f"of job {n}")
    program = run_program(WITH_FILES, cwd=directory)
    program.wait_line("^submitted$")
    stores = place.state / "dispy" / "scheduler-files"
    kept = wait_for(
        lambda: [path for path in stores.glob("*/program-1/*/*") if path.suffix != ".part"],
        lambda found: len(found) == 5,
        what="the scheduler has the files",
    )
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)
    assert all(path.stat().st_mode & 0o077 == 0 for path in stores.iterdir())
    wait_journal(place, program)
    program.send(signal.SIGKILL)
    program.wait()
    for path in directory.iterdir():
        path.unlink()
    wait_for(lambda: scheduler.stderr, lambda text: "is away" in text, what="it is away")
    start_node("--cpus", "2")
    jobs = dispy.recover_jobs()
    assert [job.result for job in jobs] == [(3_500_000, f"of job {n}", 300_000) for n in range(3)]
    wait_for(lambda: list(stores.glob("*/program-1")), lambda left: not left, what="its files are removed")


def test_files_that_the_scheduler_has_not(
    run_program: RunProgram, start_node: StartNode, place: Place, tmp_path: Path
) -> None:
    """A recovery reads those of the cluster; jobs with files of their own end, and say why."""
    setting = "from dispy.scheduler.daemon import files; files.PROGRAM_MAX = -1"
    scheduler = QuickScheduler(place, 60, setting).wait_listens()
    try:
        directory = tmp_path / "own"
        directory.mkdir()
        (directory / "all.bin").write_bytes(b"x" * 300_000)
        (directory / "empty.txt").touch()
        for n in range(3):
            (directory / f"{n}.txt").write_text(f"of job {n}")
        program = run_program(WITH_FILES, cwd=directory)
        program.wait_line("^submitted$")
        wait_journal(place, program)
        program.send(signal.SIGKILL)
        program.wait()
        wait_for(lambda: scheduler.stderr, lambda text: "is away" in text, what="it is away")
        start_node("--cpus", "2")
        wait_for(
            lambda: scheduler.stderr, lambda text: "is there, with 2 CPUs" in text, what="a node is there"
        )
        jobs = dispy.recover_jobs()
        assert [job.status for job in jobs] == [TERMINATED] * 3
        assert all("its scheduler has not got the file" in (job.exception or "") for job in jobs)
    finally:
        scheduler.stop()
        scheduler.end()


def test_results_that_are_kept_are_bounded(
    place: Place, start_node: StartNode, start_dying: StartDying
) -> None:
    """Beyond the bound jobs wait; they go on when a recovery is there."""
    start_node("--cpus", "1")
    scheduler = QuickScheduler(place, 60, "absence.KEPT_MAX = 3").wait_listens()
    try:
        dying = start_dying(30, shared=True)
        dying.wait_started(1)
        dying.kill()
        wait_for(lambda: scheduler.stderr, lambda text: "is away" in text, what="it is away")
        dying.release(*range(30))
        wait_for(lambda: scheduler.stderr, lambda text: "its jobs wait" in text, what="its jobs wait")
        scheduler.send(signal.SIGUSR2)
        wait_for(lambda: scheduler.stderr, lambda text: "jobs held" in text, what="status says it")
        assert [dying.check(job) for job in dispy.recover_jobs()] == list(range(30))
    finally:
        scheduler.stop()
        scheduler.end()


def test_another_identity_gets_nothing(
    start_dying: StartDying, start_node: StartNode, schedulers: Schedulers, place: Place
) -> None:
    """Whoever has the secret, and not the identity of the program in its journal, is not told of its jobs."""
    start_node("--cpus", "1")
    schedulers.start()
    dying = start_dying(3, shared=True)
    dying.wait_started(1)
    dying.kill()
    (program,) = dispy.recoverable()
    stranger = place.root / "stranger.journal"
    db = sqlite3.connect(program.paths[0])
    db.execute("VACUUM INTO ?", (str(stranger),))
    db.close()
    stranger.chmod(0o600)
    db = sqlite3.connect(stranger)
    db.execute("UPDATE session SET identity = ?", (b"another identity",))
    db.commit()
    db.close()
    assert dispy.recover_jobs(stranger) == []
    dying.release()
    assert [dying.check(job) for job in dispy.recover_jobs()] == list(range(3))


def test_a_living_program_is_left_alone(
    start_dying: StartDying, start_node: StartNode, schedulers: Schedulers, place: Place
) -> None:
    start_node("--cpus", "1")
    schedulers.start()
    dying = start_dying(3, shared=True)
    with pytest.raises(UsageError, match="in use"):
        dispy.recover_jobs(wait_journal(place, dying.program))
    assert dispy.recoverable() == []
    dying.kill()
    dying.release()
    assert len(dispy.recover_jobs()) == 3


def test_a_program_that_ends_in_order_leaves_no_journal(
    run_program: RunProgram, start_node: StartNode, schedulers: Schedulers, place: Place
) -> None:
    start_node("--cpus", "1")
    schedulers.start()
    program = run_program(
        "import dispy\n"
        "with dispy.SharedJobCluster(abs) as one, dispy.SharedJobCluster(abs, recover_file='full') as two:\n"
        "    print(one.submit(-1)(), two.submit(-2)())\n"
    )
    assert program.wait() == 0, program.stderr
    assert program.stdout == "1 2\n"
    assert not (place.root / "full").exists()


def test_a_program_that_fails_keeps_its_results(
    run_program: RunProgram, start_node: StartNode, schedulers: Schedulers
) -> None:
    """An exception that nobody caught: the program waits for its jobs, and their results are kept for a recovery."""
    start_node("--cpus", "1")
    schedulers.start()
    program = run_program(
        "import time, dispy\n"
        "cluster = dispy.SharedJobCluster(time.sleep)\n"
        "cluster.submit(0.3)\n"
        "raise ValueError('of the program')\n"
    )
    assert program.wait() == 1
    assert "dispy.recover_jobs() fetches it" in program.stderr
    (job,) = dispy.recover_jobs()
    assert job.status == FINISHED


def test_a_scheduler_that_is_killed_and_a_program_after_it(
    place: Place, start_node: StartNode, run_program: RunProgram, gate: Path
) -> None:
    """Jobs that were lost with the first scheduler were told as that; the second one has the others."""
    node: Node = start_node("--cpus", "2")  # the job of the first scheduler goes on
    scheduler = Scheduler(place, "--listen_port", "0").wait_listens()
    program = run_program(
        "import os, sys, time, dispy\n"
        "def until(gate):\n"
        "    while not os.path.exists(gate): time.sleep(0.01)\n"
        "    return gate\n"
        "cluster = dispy.SharedJobCluster(until, scheduler_host='127.0.0.1', scheduler_port=int(sys.argv[2]),"
        " recover_file='full')\n"
        "job = cluster.submit(sys.argv[1])\n"
        "while job.status != job.Running: time.sleep(0.01)\n"
        "print('running', flush=True)\n"
        "job.wait()\n"
        "job = cluster.submit(sys.argv[1])\n"
        "while job.status != job.Running: time.sleep(0.01)\n"
        "print('running again', flush=True)\n"
        "time.sleep(60)\n",
        str(gate), str(scheduler.port),
    )  # fmt: skip
    program.wait_line("^running$")
    scheduler.send(signal.SIGKILL)
    scheduler.wait()
    again = Scheduler(place, "--listen_port", str(scheduler.port)).wait_listens()
    try:
        program.wait_line("^running again$")
        program.send(signal.SIGKILL)
        program.wait()
        gate.touch()
        first, second = dispy.recover_jobs(place.root / "full")
        assert (first.status, second.status) == (ABANDONED, FINISHED)
        assert second.result == str(gate)
        assert node.process.poll() is None
    finally:
        again.stop()
        again.end()
        scheduler.end()
