"""A program with a full journal is killed; another one gets all its jobs, and runs those that never were."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import dispy
from dispy import config
from dispy.client.session import failures
from dispy.errors import UsageError

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import Place, wait_for
from .recovering import (
    ABANDONED,
    CANCELLED,
    CREATED,
    FINISHED,
    RECOVER,
    RUNNING,
    TERMINATED,
    Dying,
    StartDying,
    dying_programs,
    journals,
    rows,
)


@pytest.fixture
def start_dying(run_program: RunProgram, place: Place, start_node: StartNode) -> Iterator[StartDying]:
    """Starts programs that will die; asks for ``start_node`` so that nodes end after them."""
    with dying_programs(run_program, place) as start:
        yield start


@pytest.fixture
def path(place: Place) -> Path:
    """Where the journal is to be."""
    return place.root / "jobs.journal"


@pytest.fixture(autouse=True)
def _no_own_node() -> None:
    config.LocalNode = False


@pytest.fixture(autouse=True)
def _nothing_stays(place: Place, path: Path) -> Iterator[None]:
    """No journal is left when a test is over."""
    yield
    assert journals(place) == []
    assert sorted(path.parent.glob(f"{path.name}*")) == []


def check_all(dying: Dying, jobs: list[dispy.DispyJob], size: int = 0) -> None:
    """All jobs are there, in order, have ended, and ran once."""
    assert [job.id for job in jobs] == list(range(1, dying.count + 1))
    assert [dying.check(job, size) for job in jobs] == list(range(dying.count))


# What comes back.


@pytest.mark.parametrize("size", [0, 3_000_000], ids=["small", "large"])
def test_every_job_that_was_submitted_comes_back(
    start_dying: StartDying, start_node: StartNode, place: Place, size: int
) -> None:
    """Told, done and not told, running, queued on a node, and never started: those are as they were."""
    for name in ("one", "two"):
        start_node("--cpus", "1", "--name", name)
    dying = start_dying(200, size=size, free=20, wait_nodes=2, durable=True)
    dying.wait_started(list(range(20)))
    dying.wait_started(22)
    dying.kill()
    dying.release()
    jobs = dispy.recover_jobs()
    assert [job.id for job in jobs] == list(range(1, 201))
    unstarted = [job for job in jobs if job.status == CREATED]
    ended = [dying.check(job, size) for job in jobs if job.status != CREATED]
    assert ended == dying.started()
    assert 22 <= len(ended) < 200
    assert len(ended) + len(unstarted) == 200
    for job in unstarted:
        assert (job.result, job.exception, job.ip_addr) == (None, None, None)
        assert not job.finish.is_set()
        assert job.submit_time > 0
    # Nobody holds anything any more, but the journal: it may be asked again, also with no node there.
    again = dispy.recover_jobs()
    assert [(job.id, job.status, job.result) for job in again] == [
        (job.id, job.status, job.result) for job in jobs
    ]
    assert dying.started() == ended
    check_all(dying, dispy.recover_jobs(resume=True), size)
    assert dispy.recover_jobs() == []


SECOND = (
    "second = dispy.JobCluster(run, durable=True); more = [second.submit(directory, n) for n in range(10, 20)]; "
    "second.status(); second._session.journal.thread.ask(lambda db: None); print('second', flush=True)"
)


def test_all_clusters_of_a_program_come_back_together(
    start_dying: StartDying, start_node: StartNode
) -> None:
    """Each from a journal, though their nodes know them as one client. None has a say about the others' jobs."""
    start_node("--cpus", "2")
    dying = start_dying(10, free=19, durable=True)
    dying.order(SECOND)
    dying.program.wait_line("^second$")
    dying.count = 20
    dying.wait_started(20)
    dying.kill()
    dying.release()
    check_all(dying, dispy.recover_jobs(timeout=5))


def test_jobs_that_were_never_started_are_run(
    start_dying: StartDying, start_node: StartNode, path: Path
) -> None:
    """At once, beside those that nodes still have."""
    start_node("--cpus", "2")
    dying = start_dying(60, recover_file=str(path), ids=True, free=10)
    dying.wait_started(12)
    dying.kill()
    dying.release()
    jobs = dispy.recover_jobs(path, resume=True)
    assert not [tally.name for tally in failures._closed if tally.unheard()], "whoever recovers has them"
    assert [job.id for job in jobs] == [f"id {n}" for n in range(60)]
    assert [dying.check(job) for job in jobs] == list(range(60))
    assert any(job.status == TERMINATED for job in jobs), "some have failed when they were run"


def test_unstarted_jobs_can_be_given_up(start_dying: StartDying, start_node: StartNode, path: Path) -> None:
    """And running ones with them: nothing is left."""
    node = start_node("--cpus", "1")
    dying = start_dying(30, recover_file=str(path), free=5)
    dying.wait_started(6)
    dying.kill()
    # In this time the node has to answer.
    jobs = dispy.recover_jobs(path, timeout=0.8, terminate_pending=True)
    started = dying.started()
    assert len(jobs) == 30
    assert [dying.check(job) for job in jobs[:5]] == list(range(5))
    assert {job.status for job in jobs[5 : len(started)]} <= {CANCELLED, TERMINATED}
    # One may have been killed before it could leave a trace.
    assert {job.status for job in jobs[len(started) :]} <= {CANCELLED, TERMINATED, CREATED}
    wait_for(node.descendants, lambda left: len(left) <= 1, what="only a spare process is left")
    assert dying.started() == started
    assert dispy.recover_jobs(path) == []


def test_what_has_not_ended_in_time_is_as_it_is(
    start_dying: StartDying, start_node: StartNode, path: Path
) -> None:
    start_node("--cpus", "1")
    dying = start_dying(30, recover_file=str(path), free=3)
    dying.wait_started(4)
    dying.kill()
    jobs = wait_for(
        lambda: dispy.recover_jobs(path, timeout=0.3),
        lambda jobs: jobs[3].status == RUNNING,
        what="the node has answered",
    )
    assert [dying.check(job) for job in jobs[:3]] == [0, 1, 2]
    assert {job.status for job in jobs[4:]} == {CREATED}
    dying.release()
    check_all(dying, dispy.recover_jobs(path, resume=True))


def test_large_arguments_and_what_was_put_are_there_again(
    start_node: StartNode, run_program: RunProgram, place: Place, path: Path, gate: Path
) -> None:
    """What never started runs with the same data; what was for one node and no other is not run elsewhere."""
    start_node("--cpus", "1")
    program = run_program(
        "import os, sys, time, dispy\n"
        "dispy.config.LocalNode = False\n"
        "def run(number, large, table, gate):\n"
        "    import os, time\n"
        "    while not os.path.exists(gate): time.sleep(0.005)\n"
        "    return number, len(large), large[number], table[number]\n"
        "cluster = dispy.JobCluster(run, durable=True, recover_file='jobs.journal')\n"
        "while not cluster.status().nodes: time.sleep(0.005)\n"
        "table = cluster.put({n: f'entry {n}' for n in range(50)})\n"
        "first = cluster.submit(0, b'x', table, sys.argv[1])\n"
        "while first.status != first.Running: time.sleep(0.005)\n"
        "jobs = [cluster.submit(n, bytes([n]) * 2_000_000, table, sys.argv[1]) for n in range(1, 20)]\n"
        "pinned = cluster.submit_node(cluster.status().nodes[0].ip_addr, 1, b'xx', table, sys.argv[1])\n"
        "cluster.status()\n"
        "cluster._session.journal.thread.ask(lambda db: None)\n"
        "print('written', flush=True)\n"
        "time.sleep(60)\n",
        str(gate),
    )
    program.wait_line("^written$")
    program.send(signal.SIGKILL)
    program.wait()
    gate.touch()
    jobs = dispy.recover_jobs(path, resume=True)
    assert [job.result for job in jobs[:20]] == [
        (n, 2_000_000 if n else 1, n if n else ord("x"), f"entry {n}") for n in range(20)
    ]
    assert len(jobs) == 21
    if jobs[20].status == CREATED:
        # It may have been on the node already.
        dispy.recover_jobs(path, timeout=0, terminate_pending=True)


@pytest.mark.parametrize("size", [100, 500_000, 5_000_000])
def test_results_that_are_nothing_but_bytes(
    start_node: StartNode, run_program: RunProgram, path: Path, size: int
) -> None:
    """They come without a pickle around them, and are told again as they were."""
    start_node("--cpus", "1")
    program = run_program(
        "import os, sys, dispy\n"
        "dispy.config.LocalNode = False\n"
        "cluster = dispy.JobCluster(bytes, recover_file='jobs.journal')\n"
        "assert len(cluster.submit(int(sys.argv[1]))()) == int(sys.argv[1])\n"
        "cluster._session.journal.thread.ask(lambda db: None)\n"
        "os.kill(os.getpid(), 9)\n",
        str(size),
    )
    assert program.wait() == -signal.SIGKILL, program.stderr
    (job,) = dispy.recover_jobs(path)
    assert job.result == bytes(size)


# Recoveries that die.


def test_a_recovery_that_runs_jobs_can_be_killed_and_run_again(
    start_dying: StartDying, start_node: StartNode, run_program: RunProgram, path: Path
) -> None:
    """What the first one has had run is not run again."""
    start_node("--cpus", "2")
    dying = start_dying(60, recover_file=str(path), free=10)
    dying.wait_started(12)
    dying.kill()
    order = list(range(60))
    for count in (20, 40):
        recovery = run_program(
            RECOVER, repr({"recover_file": str(path), "resume": True}), name="recover.py"
        )
        dying.release(*order[:count])
        dying.wait_started(count)
        recovery.send(signal.SIGKILL)
        recovery.wait()
    dying.release()
    check_all(dying, dispy.recover_jobs(path, resume=True))


DIE_RELEASED = """
import os
import dispy.client.recovery.steps as steps
are_released = steps._are_released
steps._are_released = lambda net: are_released(net) and os._exit(7)
"""


def test_a_recovery_that_dies_when_nodes_have_forgotten_it_all(
    start_dying: StartDying, start_node: StartNode, run_program: RunProgram, path: Path
) -> None:
    """Its journal has what was on the nodes."""
    start_node("--cpus", "2")
    dying = start_dying(20, recover_file=str(path), free=20, size=100_000)
    dying.wait_started(20)
    dying.kill()
    options = {"recover_file": str(path), "resume": True}
    recovery = run_program(DIE_RELEASED + RECOVER, repr(options), name="recover.py")
    assert recovery.wait() == 7, recovery.stderr
    check_all(dying, dispy.recover_jobs(path), 100_000)


def test_nodes_that_die_after_what_they_had_was_returned(
    start_dying: StartDying, start_node: StartNode, place: Place, path: Path
) -> None:
    """In part: the journal has that, and says so once more."""
    node = start_node("--cpus", "2")
    dying = start_dying(9, recover_file=str(path), free=8)
    dying.wait_started(9)
    dying.kill()
    jobs = wait_for(
        lambda: dispy.recover_jobs(path, timeout=0.3),
        lambda jobs: jobs[8].status == RUNNING,
        what="the node has answered",
    )
    assert [dying.check(job) for job in jobs[:8]] == list(range(8))
    place.is_swept = True
    node.send(signal.SIGKILL)
    node.wait()
    shutil.rmtree(place.state / "dispy" / "spool", ignore_errors=True)
    jobs = dispy.recover_jobs(path, timeout=0.5, terminate_pending=True)
    assert [dying.check(job) for job in jobs[:8]] == list(range(8))
    assert jobs[8].status == ABANDONED


def test_two_recoveries_at_a_time(
    start_dying: StartDying, start_node: StartNode, run_program: RunProgram, path: Path
) -> None:
    """The second one is told that there is a first one, and nothing comes twice."""
    start_node("--cpus", "1")
    dying = start_dying(20, recover_file=str(path), free=5)
    dying.wait_started(6)
    dying.kill()
    first = run_program(RECOVER, repr({"recover_file": str(path), "resume": True}), name="recover.py")
    wait_for(
        lambda: (path.with_name(f"{path.name}-sent2").exists(), first.stdout, first.stderr),
        lambda seen: seen[0],
        what="the first has it",
    )
    with pytest.raises(UsageError, match="is in use: its program runs, or a recovery of it does"):
        dispy.recover_jobs(path)
    dying.release()
    first.wait_line(r"^recovered \[")
    assert first.wait() == 0, first.stderr
    assert all(len(dying.runs(name)) == 1 for name in range(20))
    assert first.stdout.count(f", {FINISHED}, ") == 16


# Nodes that die as well.


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_nodes_die_as_well(
    start_dying: StartDying,
    start_node: StartNode,
    place: Place,
    path: Path,
    caplog: pytest.LogCaptureFixture,
    reentrant: bool,
) -> None:
    """All at once, as when the power fails: nobody knows what ran. That runs again only if it may."""
    nodes = [start_node("--cpus", "1", "--name", name) for name in ("one", "two")]
    dying = start_dying(40, recover_file=str(path), free=10, wait_nodes=2, reentrant=reentrant)
    dying.wait_started(12)
    dying.order(
        "[job() for job in jobs[:10]]; cluster._session.journal.thread.ask(lambda db: None); "
        "print('told', flush=True)"
    )
    dying.program.wait_line("^told$")
    place.is_swept = True
    # Stopped first: a node that sees the program die may still write what it runs to its disk.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in (*nodes, dying.program):
            process.send(number)
    for process in (*nodes, dying.program):
        process.wait()
    started = dying.started()
    start_node("--cpus", "2", "--name", "new")
    dying.release()
    jobs = dispy.recover_jobs(path, resume=True)
    assert [job.id for job in jobs] == list(range(1, 41))
    assert [dying.check(job) for job in jobs[:10]] == list(range(10)), "these were told before"
    for name, job in enumerate(jobs[10:], 10):
        runs = len(dying.runs(name))
        if name not in started:
            assert runs <= 1
        elif name % 5 == 4:
            # It does not wait: where one came first, its end may have been told before.
            assert 1 <= runs <= 1 + reentrant
        elif reentrant:
            assert runs == 2
        else:
            assert runs == 1, "it was run again, which it must not be"
            assert job.status in (CREATED, ABANDONED)
            assert "does not answer" in job.exception
    if reentrant:
        assert {job.status for job in jobs} == {FINISHED, TERMINATED}
    assert "does not answer" in caplog.text, "the journal is kept: they may come back"
    again = dispy.recover_jobs(path, timeout=0, terminate_pending=True)
    assert [job.status for job in again if job.status != ABANDONED] == [
        job.status for job in jobs if job.status in (FINISHED, TERMINATED)
    ]


# Journals.


def test_a_journal_of_jobs_is_private_and_holds_no_secret(
    start_dying: StartDying, start_node: StartNode, place: Place, path: Path
) -> None:
    start_node("--cpus", "1")
    dying = start_dying(10, recover_file=str(path), free=10)
    dying.order("[job() for job in jobs]; print('told', flush=True)")
    dying.program.wait_line("^told$")
    dying.kill()
    found = sorted(path.parent.glob(f"{path.name}*"))
    assert len(found) >= 2
    text = place.secret_file.read_text().strip().removeprefix("dispy1-")
    for file in found:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        data = file.read_bytes()
        assert text.encode() not in data
        assert bytes.fromhex(text) not in data
    check_all(dying, dispy.recover_jobs(path))


@pytest.mark.parametrize("where", ["state", "path"])
def test_a_cluster_that_ends_leaves_no_journal(
    make_own_cluster: MakeCluster, start_node: StartNode, place: Place, path: Path, where: str
) -> None:
    start_node()
    cluster = make_own_cluster(abs, **({"durable": True} if where == "state" else {"recover_file": path}))
    jobs = [cluster.submit(-n) for n in range(100)]
    assert [job() for job in jobs] == list(range(100))
    assert journals(place) if where == "state" else path.exists()
    cluster.close()
    assert journals(place) == []
    assert not path.exists()


def test_a_program_that_fails_leaves_its_jobs_to_be_fetched(
    start_node: StartNode, run_program: RunProgram, path: Path
) -> None:
    """An exception ends it, not a signal: what its jobs return is in the journal."""
    start_node("--cpus", "2")
    program = run_program(
        "import dispy, os\n"
        "dispy.config.LocalNode = False\n"
        "cluster = dispy.JobCluster(abs, recover_file='jobs.journal')\n"
        "jobs = [cluster.submit(-n) for n in range(50)]\n"
        "if os.fork() == 0:\n"
        "    raise SystemExit  # of a fork it is none\n"
        "os.wait()\n"
        "jobs[3]()\n"
        "raise LookupError('on purpose')\n"
    )
    assert program.wait() == 1
    assert "LookupError: on purpose" in program.stderr
    assert f"dispy.recover_jobs('{path}')" in program.stderr
    assert [job.result for job in dispy.recover_jobs(path)] == list(range(50))


def test_an_exception_in_a_with_statement_keeps_the_journal(
    make_cluster: MakeCluster, start_node: StartNode, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was computed until then can be had."""
    caplog.set_level("INFO")
    start_node("--cpus", "1")
    with suppress(LookupError), dispy.JobCluster(abs, recover_file=path) as cluster:
        assert cluster.submit(-5)() == 5
        raise LookupError
    assert f"dispy.recover_jobs('{path}')" in caplog.text
    (job,) = dispy.recover_jobs(path)
    assert job.result == 5


def test_a_journal_is_not_overwritten(
    start_dying: StartDying,
    start_node: StartNode,
    place: Place,
    path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither another file, nor one in use, nor that of a program that died, nor is one made where none can be."""
    other = place.root / "letters"
    other.write_text("dear")
    with pytest.raises(UsageError, match="exists, and is not overwritten"):
        dispy.JobCluster(abs, recover_file=other)
    assert other.read_text() == "dear"
    with pytest.raises(UsageError, match="cannot be made: No such file"):
        dispy.JobCluster(abs, recover_file=place.root / "none" / "journal")
    with pytest.raises(UsageError, match="recover_file must be a path, not 3"):
        dispy.JobCluster(abs, recover_file=3)  # type: ignore[arg-type]
    start_node("--cpus", "1")
    dying = start_dying(2, recover_file=str(path), free=2)
    with pytest.raises(UsageError, match="is in use by a program that runs"):
        dispy.JobCluster(abs, recover_file=path)
    dying.order("[job() for job in jobs]; print('told', flush=True)")
    dying.program.wait_line("^told$")
    dying.kill()
    with pytest.raises(UsageError, match="is the journal of a program that died") as caught:
        dispy.JobCluster(abs, recover_file=path)
    assert f"dispy.recover_jobs({str(path)!r})" in str(caught.value)
    check_all(dying, dispy.recover_jobs(path))


@pytest.fixture
def ended(start_dying: StartDying, start_node: StartNode, path: Path) -> Dying:
    """A program that died when all its jobs had ended."""
    start_node("--cpus", "1")
    dying = start_dying(100, recover_file=str(path), free=100)
    dying.order(
        "[job() for job in jobs]; cluster._session.journal.thread.ask(lambda db: None); print('told', flush=True)"
    )
    dying.program.wait_line("^told$")
    dying.kill()
    # All of it into one file.
    rows(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    return dying


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _blot(data: bytes) -> bytes:
    return data[:16384] + b"\x55" * (len(data) - 16384)


def _swap_rows(data: bytes) -> bytes:
    """Sound as a database, and not what was written."""
    return data.replace(b"printed by", b"\xc1\xc1\xc1\xc1\xc1\xc1\xc1\xc1\xc1\xc1")


@pytest.mark.parametrize("damage", [_cut, _blot], ids=["cut", "blot"])
def test_a_damaged_journal_is_refused_and_left_as_it_is(
    ended: Dying, path: Path, damage: Callable[[bytes], bytes]
) -> None:
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.raises(UsageError, match=r"is damaged|is no journal of dispy"):
        dispy.recover_jobs(path, timeout=0)
    assert path.read_bytes()[16384:] == damage(whole)[16384:]
    path.write_bytes(whole)
    check_all(ended, dispy.recover_jobs(path))


def test_a_journal_with_rows_of_something_else_is_refused(ended: Dying, path: Path) -> None:
    for statement in (
        "UPDATE submitted SET jobs = X'C1'",
        "UPDATE ended SET jobs = X'93'",
        "UPDATE computation SET options = X'00'",
        "UPDATE session SET identity = 5",
        "UPDATE node SET host = NULL",
        "DROP TABLE node",
    ):
        whole = path.read_bytes()
        db = sqlite3.connect(path)
        db.execute(statement)
        db.commit()
        db.close()
        with pytest.raises(UsageError, match=r"is damaged|is no journal of dispy"):
            dispy.recover_jobs(path, timeout=0)
        path.write_bytes(whole)
    check_all(ended, dispy.recover_jobs(path))


def test_another_database_is_refused(place: Place) -> None:
    other = place.root / "other.db"
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE session (id)")
    db.commit()
    db.close()
    before = other.read_bytes()
    with pytest.raises(UsageError, match="is no journal of dispy"):
        dispy.recover_jobs(other)
    assert other.read_bytes() == before


def test_a_journal_of_a_newer_version_is_refused(ended: Dying, path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(UsageError, match="is of a newer dispy"):
        dispy.recover_jobs(path)
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 1")
    db.close()
    check_all(ended, dispy.recover_jobs(path))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_journal_of_another_user_is_refused(ended: Dying, path: Path) -> None:
    os.chown(path, 12345, 12345)
    with pytest.raises(UsageError, match="is another user's"):
        dispy.recover_jobs(path)
    os.chown(path, 0, 0)
    check_all(ended, dispy.recover_jobs(path))


def test_a_journal_on_a_full_disk(start_node: StartNode, run_program: RunProgram, path: Path) -> None:
    """It is said, once; the program goes on; what was written before can be had."""
    start_node("--cpus", "1")
    program = run_program(
        "import dispy, os, resource, time\n"
        "dispy.config.LocalNode = False\n"
        "cluster = dispy.JobCluster(len, recover_file='jobs.journal')\n"
        "assert cluster.submit('abc')() == 3\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))\n"
        "jobs = [cluster.submit(os.urandom(50_000)) for n in range(60)]\n"
        "print([job() for job in jobs] == [50_000] * 60, flush=True)\n"
        "time.sleep(60)\n"
    )
    program.wait_line("^True$", deadline_s=15)
    program.wait_line("cannot be written to any more", stream="stderr")
    program.send(signal.SIGKILL)
    program.wait()
    assert program.stderr.count("cannot be written to any more") == 1
    jobs = dispy.recover_jobs(path, timeout=2, terminate_pending=True)
    # All had been told, and the nodes have forgotten them: those that the journal does not have must not run again.
    for job in jobs:
        if job.status == dispy.DispyJob.Finished:
            assert job.result == (3 if job is jobs[0] else 50_000)
        else:
            assert job.status == dispy.DispyJob.Abandoned, job.status
            assert "could not write to its journal" in job.exception
