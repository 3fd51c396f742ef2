"""A program is killed; another one fetches its jobs from the nodes."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy import config
from dispy.errors import UsageError

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import Node, Place, Program, below, wait_for
from .recovering import (
    CANCELLED,
    RECOVER,
    RUNNING,
    TERMINATED,
    Dying,
    QuickNode,
    StartDying,
    dying_programs,
    journals,
    spooled,
    wait_journal,
)


@pytest.fixture
def start_dying(run_program: RunProgram, place: Place, start_node: StartNode) -> Iterator[StartDying]:
    """Starts programs that will die; asks for ``start_node`` so that nodes end after them."""
    with dying_programs(run_program, place) as start:
        yield start


@pytest.fixture(autouse=True)
def _no_own_node() -> None:
    config.LocalNode = False


@pytest.fixture(autouse=True)
def _nothing_stays(place: Place) -> Iterator[None]:
    """No journal is left when a test is over, but those that it expects."""
    yield
    assert journals(place) == []


ONE_JOB = """
cluster = dispy.JobCluster(run)
while not cluster.status().nodes:
    time.sleep(0.005)
for line in open('orders'):
    job = cluster.submit(f'{os.getcwd()}/dead-{os.getpid()}')
    while job.status != job.Running:
        time.sleep(0.005)
    os.kill(os.getpid(), 9)
"""


def kill_with_one_job(program: Program, place: Place) -> None:
    """Let a program submit a job once its journal is written, and die when that runs; the job goes on after that."""
    wait_journal(place, program)
    with open(place.root / "orders", "w") as orders:
        orders.write("go\n")
    assert program.wait() == -signal.SIGKILL, program.stderr
    (place.root / f"dead-{program.pid}").touch()


@pytest.fixture(autouse=True)
def _orders(place: Place) -> None:
    os.mkfifo(place.root / "orders")


# What is fetched.


@pytest.mark.parametrize("size", [0, 200_000], ids=["small", "large"])
def test_each_job_that_nodes_have_comes_once(
    start_dying: StartDying, start_node: StartNode, size: int
) -> None:
    """Done and not told, running, queued on the node: all of them, with all that they are."""
    for name in ("one", "two"):
        start_node("--cpus", "2", "--name", name)
    dying = start_dying(40, size=size, wait_nodes=2, free=3)
    dying.wait_started(4)
    dying.kill()
    dying.release()
    jobs = dispy.recover_jobs()
    names = [dying.check(job, size) for job in jobs]
    assert len(set(names)) == len(names)
    assert set(names) == set(dying.started()) - told_before(dying, names)
    # The ids are those that the program's jobs had, which count from 1.
    assert [job.id for job in jobs] == [name + 1 for name in names]
    assert {job.result[0] for job in jobs if job.result} >= {
        n for n in dying.started() if n >= 3 and n % 5 != 4
    }


def told_before(dying: Dying, names: list[int]) -> set[int]:
    """Jobs whose end the program may have heard of: those that did not wait."""
    return {name for name in dying.started() if name not in names and (name < 3 or name % 5 == 4)}


def test_ids_that_were_given_come_back(start_dying: StartDying, start_node: StartNode) -> None:
    start_node("--cpus", "2")
    dying = start_dying(8, ids=True)
    dying.wait_started(2)
    dying.kill()
    dying.release()
    jobs = dispy.recover_jobs()
    assert jobs
    assert [job.id for job in jobs] == [f"id {dying.check(job)}" for job in jobs]


def test_results_of_before_the_death_wait_on_the_node(start_dying: StartDying, place: Place) -> None:
    """Jobs end after the program, and long before the recovery: their results are on disk then."""
    with quick_node(place) as node:
        dying = start_dying(10, size=300_000)
        dying.wait_started(2)
        dying.kill()
        dying.release()
        wait_for(lambda: spooled(place), what="results are on disk")
        jobs = dispy.recover_jobs()
        assert sorted(dying.check(job, 300_000) for job in jobs) == dying.started()
        wait_for(
            lambda: below(place.state, "dispy/spool/*/*.*s"),
            lambda left: not left,
            what="the spool is empty",
        )
        assert node.process.poll() is None


def quick_node(place: Place, **settings: Any) -> Any:
    from contextlib import contextmanager

    @contextmanager
    def run() -> Iterator[Node]:
        node = QuickNode(place, **{"cpus": 2, **settings}).wait_listens()
        try:
            yield node
            assert node.stop() == 0, node.stderr
            assert "Traceback" not in node.stderr
        finally:
            node.end()

    return run()


# Time.


def test_what_has_not_ended_in_time_can_be_fetched_later(
    start_dying: StartDying, start_node: StartNode, place: Place
) -> None:
    start_node("--cpus", "2")
    dying = start_dying(2)
    dying.wait_started(2)
    dying.kill()
    dying.release(0)
    (path,) = [path for path in journals(place) if path.suffix == ".journal"]
    jobs = wait_for(
        lambda: dispy.recover_jobs(timeout=0.3),
        lambda jobs: [job.status for job in jobs] == [dispy.DispyJob.Finished, RUNNING],
        what="one has ended, one runs",
    )
    assert dying.check(jobs[0]) == 0
    assert not jobs[1].finish.is_set()
    assert jobs[1].ip_addr == "127.0.0.1"
    assert jobs[1].result is None
    with pytest.raises(UsageError, match="call recover_jobs again"):
        jobs[1]()
    assert path.exists()
    dying.release(1)
    again = dispy.recover_jobs(str(path))
    assert [dying.check(job) for job in again] == [0, 1]
    assert not path.exists()


def test_what_has_not_ended_in_time_can_be_killed(start_dying: StartDying, start_node: StartNode) -> None:
    """Running jobs and queued ones; and nothing of it is on the node afterwards."""
    node = start_node("--cpus", "2")
    dying = start_dying(6)
    dying.wait_started(2)
    dying.kill()
    dying.release(0)
    # In this time the node has to answer, and the first job to end.
    jobs = dispy.recover_jobs(timeout=1, terminate_pending=True)
    assert dying.check(jobs[0]) == 0
    assert {job.status for job in jobs[1:]} <= {CANCELLED, TERMINATED}
    assert all(job.finish.is_set() and job.exception for job in jobs[1:])
    assert len(jobs) >= 2
    wait_for(lambda: node.descendants(), lambda left: len(left) <= 1, what="only a spare process is left")
    dying.release()
    assert dispy.recover_jobs() == []


def test_a_recovery_that_is_killed_can_be_run_again(
    start_dying: StartDying, start_node: StartNode, run_program: RunProgram
) -> None:
    start_node("--cpus", "2")
    dying = start_dying(6, size=100_000)
    dying.wait_started(2)
    dying.kill()
    for _ in range(2):
        recovery = run_program(RECOVER, "{}", name="recover.py")
        recovery.wait_line("^recovering$")
        dying.release(0)
        recovery.send(signal.SIGKILL)
        recovery.wait()
    dying.release()
    jobs = dispy.recover_jobs()
    assert sorted(dying.check(job, 100_000) for job in jobs) == dying.started()


def test_a_recovery_that_cannot_load_results_changes_nothing(
    start_node: StartNode, run_program: RunProgram, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """A result cannot be rebuilt here: it stays where it is."""
    start_node("--cpus", "1")
    program = run_program(
        "import os, time, dispy\n"
        "dispy.config.LocalNode = False\n"
        "def run(dead):\n"
        "    import os, time\n"
        "    class Picky:\n"
        "        def __reduce__(self):\n"
        f"            return os.path.getsize, ({str(place.root / 'needed')!r},)\n"
        "    while not os.path.exists(dead): time.sleep(0.005)\n"
        "    return Picky()\n" + ONE_JOB
    )
    kill_with_one_job(program, place)
    (job,) = dispy.recover_jobs()
    assert "nothing was removed" in caplog.text
    assert job.status == dispy.DispyJob.Finished
    with pytest.raises(FileNotFoundError):
        job.result
    assert journals(place)
    (place.root / "needed").write_text("12345")
    (job,) = dispy.recover_jobs()
    assert job.result == 5


# Journals.


def test_no_journal(
    place: Place, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert dispy.recover_jobs() == []
    assert "no journal of a program that died" in caplog.text
    assert dispy.recover_jobs(place.root / "none") == []
    assert f"there is no journal {place.root / 'none'}" in caplog.text


def test_what_a_journal_holds(start_dying: StartDying, start_node: StartNode, place: Place) -> None:
    """Little, nobody else's to read, and no secret."""
    node = start_node("--cpus", "1", "--name", "the node")
    dying = start_dying(3)
    path = wait_journal(place, dying.program)
    files = {file.name: file.read_bytes() for file in journals(place)}
    assert any(b"the node" in data for data in files.values())
    for file in journals(place):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    text = place.secret_file.read_text().strip()
    secrets = [
        text.encode(),
        text.removeprefix("dispy1-").encode(),
        bytes.fromhex(text.removeprefix("dispy1-")),
    ]
    assert not any(secret in data for secret in secrets for data in files.values())
    assert not any(b"runs-" in data for data in files.values()), "code is none of its business"
    dying.kill()
    assert path.stat().st_size < 8192
    dying.release()
    dispy.recover_jobs()
    assert node.process.poll() is None


def test_a_journal_goes_with_the_last_cluster(
    make_own_cluster: MakeCluster, start_node: StartNode, place: Place
) -> None:
    start_node()
    first, second = make_own_cluster(abs), make_own_cluster(abs)
    assert (first.submit(-1)(), second.submit(-2)()) == (1, 2)
    found = wait_for(lambda: journals(place), what="there is a journal")
    assert len([path for path in found if path.suffix == ".journal"]) == 1
    first.close()
    assert second.submit(-3)() == 3
    assert journals(place)
    second.close()
    wait_for(lambda: journals(place), lambda left: not left, what="the journal is removed")
    third = make_own_cluster(abs)
    assert third.submit(-4)() == 4
    wait_for(lambda: journals(place), what="there is another one")
    third.shutdown()
    assert journals(place) == []


def test_a_program_that_ends_leaves_no_journal(
    run_program: RunProgram, start_node: StartNode, place: Place
) -> None:
    start_node()
    program = run_program(
        "import dispy, os\n"
        "cluster = dispy.JobCluster(abs)\n"
        "jobs = [cluster.submit(-n) for n in range(100)]\n"
        "if os.fork() == 0:\n"
        "    raise SystemExit  # of a fork it is none\n"
        "os.wait()\n"
        "print(sum(job() for job in jobs))\n"
    )
    assert program.wait() == 0, program.stderr
    assert program.stdout == "4950\n"


def test_a_program_with_a_node_of_its_own_writes_none(run_program: RunProgram, place: Place) -> None:
    """That node ends with it: there would be nothing to recover."""
    program = run_program(
        "import dispy, os, time\n"
        "cluster = dispy.JobCluster(time.sleep)\n"
        "cluster.submit(0)()\n"
        "job = cluster.submit(60)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    program.wait()
    assert journals(place) == []
    assert dispy.recover_jobs() == []


def test_journals_can_be_turned_off(
    make_cluster: MakeCluster, start_node: StartNode, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "Journal", False)
    start_node()
    assert make_cluster(abs).submit(-1)() == 1
    assert not (place.state / "dispy" / "journals").exists()


def test_the_journal_of_a_program_that_lives_is_left_alone(
    start_dying: StartDying, start_node: StartNode, place: Place, make_cluster: MakeCluster
) -> None:
    """Nor is that of this program taken."""
    start_node("--cpus", "2")
    dying = start_dying(2)
    dying.wait_started(2)
    own = make_cluster(abs)
    path = wait_journal(place, dying.program)
    assert dispy.recover_jobs() == []
    with pytest.raises(UsageError, match="in use: its program runs"):
        dispy.recover_jobs(path)
    dying.release()
    dying.order("print('all', [job() and job.result[0] for job in jobs], flush=True)")
    dying.program.wait_line(r"^all \[0, 1\]$")
    dying.order("cluster.shutdown(); print('closed', flush=True)")
    dying.program.wait_line("^closed$")
    assert own.submit(-5)() == 5


def test_programs_are_recovered_one_by_one_the_last_one_first(
    start_node: StartNode,
    run_program: RunProgram,
    place: Place,
    caplog: pytest.LogCaptureFixture,
    gate: Path,
) -> None:
    """Two clusters of a program count as one."""
    caplog.set_level("INFO")
    start_node("--cpus", "2")
    for name in ("first", "second"):
        program = run_program(
            "import os, sys, time, dispy\n"
            "dispy.config.LocalNode = False\n"
            "def run(name, gate):\n"
            "    import os, time\n"
            "    while not os.path.exists(gate): time.sleep(0.005)\n"
            "    return name\n"
            "clusters = [dispy.JobCluster(run), dispy.JobCluster(run)]\n"
            "jobs = [cluster.submit(f'{sys.argv[1]} {n}', sys.argv[2]) for n, cluster in enumerate(clusters)]\n"
            "while any(job.status != job.Running for job in jobs):\n"
            "    time.sleep(0.005)\n"
            "print('running', flush=True)\n"
            "time.sleep(60)\n",
            name,
            f"{gate}-{name}",
        )
        program.wait_line("^running$")
        wait_journal(place, program)
        program.send(signal.SIGKILL)
        program.wait()
        Path(f"{gate}-{name}").touch()
    # Of two clusters, the one whose job began first comes first.
    assert {job.result for job in dispy.recover_jobs()} == {"second 0", "second 1"}
    assert "1 more program has died and may have jobs to recover, a call each:" in caplog.text
    assert {job.result for job in dispy.recover_jobs()} == {"first 0", "first 1"}
    assert dispy.recover_jobs() == []


def test_another_secret_is_said_to_be_another(
    start_node: StartNode, run_program: RunProgram, place: Place
) -> None:
    """The file is found again by itself, and what was typed has to be typed again."""
    file = place.root / "secret"
    file.touch(0o600)
    file.write_text("of the file")
    start_node("--secret_file", str(file), "--name", "file")
    start_node("--secret", "typed", "--name", "typed")
    source = (
        "import os, time, dispy\n"
        "dispy.config.LocalNode = False\n"
        "def run(dead):\n"
        "    import os, time\n"
        "    while not os.path.exists(dead): time.sleep(0.005)\n"
        "    return dispy_node_name\n"
    ) + ONE_JOB
    kill_with_one_job(run_program(source.replace("(run)", "(run, secret_file='secret')")), place)
    (job,) = dispy.recover_jobs()
    assert job.result == "file"
    kill_with_one_job(run_program(source.replace("(run)", "(run, secret='typed')")), place)
    with pytest.raises(UsageError, match=r"used a secret with the fingerprint .*that is another one"):
        dispy.recover_jobs()
    (job,) = dispy.recover_jobs(secret="typed")
    assert job.result == "typed"


@pytest.mark.parametrize("content", [b"", b"not a journal at all" * 100], ids=["empty", "text"])
def test_what_is_no_journal_is_refused(place: Place, content: bytes) -> None:
    path = place.root / "something"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is no journal of dispy"):
        dispy.recover_jobs(path)
    assert path.read_bytes() == content
    with pytest.raises(UsageError, match="recover_file must be a path"):
        dispy.recover_jobs(3)  # type: ignore[arg-type]


# Nodes.


def has_ended(jobs: list[dispy.DispyJob]) -> bool:
    """Whether a job came in time, and had ended."""
    return bool(jobs) and jobs[0].finish.is_set()


def test_a_node_that_does_not_answer_is_asked_another_time(
    start_dying: StartDying, start_node: StartNode, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """What the other has is returned meanwhile, and again with the rest."""
    nodes = {name: start_node("--cpus", "1", "--name", name) for name in ("one", "two")}
    dying = start_dying(2, wait_nodes=2)
    dying.wait_started(2)
    dying.kill()
    (where,) = dying.runs(1)
    silent = nodes[where]
    silent.send(signal.SIGSTOP)
    try:
        dying.release()
        jobs = wait_for(lambda: dispy.recover_jobs(timeout=0.5), has_ended, what="the other has answered")
        assert [dying.check(job) for job in jobs] == [0]
        assert f"node {where} (127.0.0.1:{silent.port}) has not answered" in caplog.text
    finally:
        silent.send(signal.SIGCONT)
    assert [dying.check(job) for job in dispy.recover_jobs()] == [0, 1]


def test_a_node_that_is_gone_for_good_can_be_given_up(
    start_dying: StartDying, start_node: StartNode, place: Place
) -> None:
    nodes = {name: start_node("--cpus", "1", "--name", name) for name in ("one", "two")}
    dying = start_dying(2, wait_nodes=2)
    dying.wait_started(2)
    dying.kill()
    lost = nodes[dying.runs(1)[0]]
    place.is_swept = True
    lost.send(signal.SIGKILL)
    lost.wait()
    dying.release()
    jobs = wait_for(lambda: dispy.recover_jobs(timeout=0.5), has_ended, what="the other has answered")
    assert [dying.check(job) for job in jobs] == [0]
    assert journals(place)
    assert [dying.check(job) for job in dispy.recover_jobs(timeout=1, terminate_pending=True)] == [0]


def test_the_end_of_the_lease(start_dying: StartDying, place: Place) -> None:
    """Nobody comes: the node forgets it all, processes and files."""
    with quick_node(place, lease_s=0.5, cpus=1) as node:
        dying = start_dying(3, size=300_000)
        dying.wait_started(1)
        assert len(node.descendants()) >= 2
        dying.kill()
        # The note is there for a moment; the directory that is made for it stays.
        wait_for(lambda: below(place.state, "dispy/spool/*"), what="it is noted what is open")
        wait_for(node.descendants, lambda left: len(left) <= 1, what="its processes are gone")
        wait_for(
            lambda: below(place.state, "dispy/spool/*/*.open") + spooled(place),
            lambda left: not left,
            what="its files are gone",
        )
        assert dispy.recover_jobs() == []


def test_a_map_is_not_waited_for(start_node: StartNode, run_program: RunProgram, place: Place) -> None:
    """Its chunks are nobody's jobs: they are let go of."""
    node = start_node("--cpus", "1")
    program = run_program(
        "import os, time, dispy\n"
        "dispy.config.LocalNode = False\n"
        "cluster = dispy.JobCluster(time.sleep)\n"
        "results = cluster.map([0, 600, 600])\n"
        "next(results)\n"
        "time.sleep(60)\n"
    )
    wait_journal(place, program)
    program.send(signal.SIGKILL)
    program.wait()
    start = time.monotonic()
    assert dispy.recover_jobs() == []
    assert time.monotonic() - start < 5
    wait_for(node.descendants, lambda left: len(left) <= 1, what="its processes are gone")
