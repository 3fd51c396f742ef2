"""Several programs have died: what cannot be had of one does not keep the others from being recovered."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dispy
from dispy import config
from dispy.errors import UsageError

from .conftest import RunProgram, StartNode
from .helpers import Node, Place, below, wait_for
from .recovering import CREATED, RUNNING, journals, wait_journal

SOURCE = """
import os, sys, time, dispy
dispy.config.LocalNode = False
name, gate, port, options = sys.argv[1], sys.argv[2], int(sys.argv[3]), eval(sys.argv[4])
def run(name, gate):
    import os, time
    while not os.path.exists(gate): time.sleep(0.005)
    return name
cluster = dispy.JobCluster(run, nodes=[('127.0.0.1', port)], **options)
job = cluster.submit(name, gate)
while job.status != job.Running:
    time.sleep(0.005)
print('running', flush=True)
time.sleep(60)
"""

Kill = Callable[..., None]


@pytest.fixture(autouse=True)
def _no_own_node() -> None:
    config.LocalNode = False


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


@pytest.fixture
def kill_program(run_program: RunProgram, place: Place) -> Iterator[Kill]:
    """Runs a program with a job on a node, and kills it when that runs."""

    def kill(name: str, node: Node, *, ends: bool = True, **options: object) -> None:
        gate = place.root / f"gate-{name}"
        program = run_program(SOURCE, name, str(gate), str(node.port), repr(options))
        program.wait_line("^running$")
        if "durable" not in options:
            wait_journal(place, program)
        program.send(signal.SIGKILL)
        assert program.wait() == -signal.SIGKILL
        if ends:
            gate.touch()

    yield kill
    for name in ("trifle", "important", "long", "first", "second"):
        (place.root / f"gate-{name}").touch()


def kill_node(node: Node, place: Place) -> None:
    """It is gone with all that it had."""
    place.is_swept = True
    node.send(signal.SIGKILL)
    node.wait()
    for path in below(place.state, "dispy/spool/*/*"):
        path.unlink()


def results(jobs: list[dispy.DispyJob]) -> list[str]:
    return [job.result for job in jobs]


def test_one_whose_node_is_gone_does_not_stand_before_others(
    start_node: StartNode, kill_program: Kill, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """The trifle was the last one to die, and its node died as well. It can still be given up by its path."""
    good, bad = (start_node("--cpus", "1", "--name", name) for name in ("good", "bad"))
    kill_program("important", good)
    kill_program("trifle", bad)
    kill_node(bad, place)
    trifle, important = dispy.recoverable()
    assert [node.label for node in trifle.nodes] == ["bad"]
    assert results(dispy.recover_jobs()) == ["important"]
    assert f"1 more program has died and may have jobs to recover, a call each:\n  {trifle}" in caplog.text
    assert not important.paths[0].exists()
    # What is left is asked, as a call for it.
    assert dispy.recover_jobs(timeout=0.5) == []
    path = str(trifle.paths[0])
    assert (
        f"bad (127.0.0.1:{bad.port}) has not answered; call dispy.recover_jobs({path!r}) again"
        in caplog.text
    )
    (left,) = dispy.recoverable()
    assert left.paths == trifle.paths
    assert left.noted == pytest.approx(trifle.noted, abs=1e-3)
    assert left.asked > 0
    assert dispy.recover_jobs(path, timeout=0, terminate_pending=True) == []
    assert dispy.recoverable() == []
    assert journals(place) == []


def test_one_whose_node_is_silent_does_not_stand_before_others(
    start_node: StartNode, kill_program: Kill
) -> None:
    """Its machine takes connections, and that is all."""
    good, bad = (start_node("--cpus", "1", "--name", name) for name in ("good", "bad"))
    kill_program("important", good)
    kill_program("trifle", bad)
    bad.send(signal.SIGSTOP)
    try:
        assert results(dispy.recover_jobs(timeout=3)) == ["important"]
    finally:
        bad.send(signal.SIGCONT)
    assert results(dispy.recover_jobs()) == ["trifle"]


def test_jobs_that_run_for_long_are_not_returned_each_time(
    start_node: StartNode, kill_program: Kill, caplog: pytest.LogCaptureFixture
) -> None:
    """The next call takes another program; when there is none it is asked again."""
    node = start_node("--cpus", "2")
    kill_program("important", node)
    kill_program("long", node, ends=False)
    assert [job.status for job in dispy.recover_jobs(timeout=2)] == [RUNNING]
    assert "1 job has not ended" in caplog.text
    assert results(dispy.recover_jobs()) == ["important"]
    assert [job.status for job in dispy.recover_jobs(timeout=2)] == [RUNNING]
    assert len(dispy.recover_jobs(timeout=1, terminate_pending=True)) == 1


def test_jobs_that_never_started_are_kept_and_do_not_stand_before_others(
    start_node: StartNode, kill_program: Kill, run_program: RunProgram, place: Place
) -> None:
    """A full journal stays until they are run or given up."""
    node = start_node("--cpus", "1")
    kill_program("important", node)
    program = run_program(
        "import dispy, os\n"
        "dispy.config.LocalNode = False\n"
        "cluster = dispy.JobCluster(abs, nodes=[('127.0.0.1', 9)], durable=True)\n"
        "jobs = [cluster.submit(-n) for n in range(3)]\n"
        "cluster.status()  # the jobs have left the inbox\n"
        "cluster._session.journal.thread.ask(lambda db: None)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    program.wait()
    found = dispy.recoverable()
    assert [each.jobs for each in found] == [3, None]
    assert [job.status for job in dispy.recover_jobs()] == [CREATED] * 3
    assert results(dispy.recover_jobs()) == ["important"]
    assert [job.status for job in dispy.recover_jobs()] == [CREATED] * 3
    assert [each.jobs for each in dispy.recoverable()] == [3]
    assert len(dispy.recover_jobs(found[0].paths[0], terminate_pending=True)) == 3
    assert dispy.recoverable() == []


def test_nothing_of_another_program_is_given_up(
    start_node: StartNode, kill_program: Kill, place: Place
) -> None:
    """``terminate_pending`` concerns the one that began last, as it is said, and no further one."""
    good, bad = (start_node("--cpus", "1", "--name", name) for name in ("good", "bad"))
    kill_program("long", good, ends=False)
    kill_program("trifle", bad)
    kill_node(bad, place)
    assert dispy.recover_jobs(timeout=0, terminate_pending=True) == []
    assert [each.nodes[0].label for each in dispy.recoverable()] == ["good"]
    (place.root / "gate-long").touch()
    assert results(dispy.recover_jobs()) == ["long"]


def test_a_secret_that_is_not_known_does_not_stand_before_others(
    start_node: StartNode, kill_program: Kill, caplog: pytest.LogCaptureFixture
) -> None:
    typed = start_node("--cpus", "1", "--secret", "typed")
    plain = start_node("--cpus", "1")
    kill_program("important", plain)
    kill_program("trifle", typed, secret="typed")
    assert results(dispy.recover_jobs()) == ["important"]
    assert "used a secret with the fingerprint" in caplog.text
    with pytest.raises(UsageError, match="used a secret with the fingerprint"):
        dispy.recover_jobs()
    assert results(dispy.recover_jobs(secret="typed")) == ["trifle"]


def test_what_nodes_have_forgotten_is_passed_over(
    start_node: StartNode, kill_program: Kill, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """The node was started anew without what it had: nobody will ever have it, so its journal goes."""
    good, bad = (start_node("--cpus", "1", "--name", name) for name in ("good", "bad"))
    kill_program("important", good)
    kill_program("trifle", bad)
    kill_node(bad, place)
    start_node("--cpus", "1", "--name", "bad", port=str(bad.port))
    assert results(dispy.recover_jobs()) == ["important"]
    assert "no jobs are left of program.py (" in caplog.text
    assert dispy.recoverable() == []


def test_resuming_takes_a_program_with_a_full_journal(start_node: StartNode, kill_program: Kill) -> None:
    node = start_node("--cpus", "2")
    kill_program("important", node, durable=True)
    kill_program("trifle", node)
    assert results(dispy.recover_jobs(resume=True)) == ["important"]
    with pytest.raises(UsageError, match="only a full journal has jobs to resume"):
        dispy.recover_jobs(resume=True)
    assert results(dispy.recover_jobs()) == ["trifle"]


def test_programs_that_live_are_not_listed(
    start_node: StartNode, kill_program: Kill, run_program: RunProgram, place: Place
) -> None:
    node = start_node("--cpus", "2")
    kill_program("first", node)
    program = run_program(SOURCE, "second", str(place.root / "gate-second"), str(node.port), "{}")
    program.wait_line("^running$")
    wait_journal(place, program)
    (first,) = dispy.recoverable()
    shown = subprocess.run(
        [sys.executable, "-m", "dispy.cli.main", "recoverable"],
        env=place.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout == f"{first}\n"
    assert results(dispy.recover_jobs()) == ["first"]
    shown = subprocess.run(
        [sys.executable, "-m", "dispy.cli.main", "recoverable"],
        env=place.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (shown.stdout, shown.stderr) == ("", "no program has died and left jobs\n")
    program.send(signal.SIGKILL)
    program.wait()
    (place.root / "gate-second").touch()
    assert results(dispy.recover_jobs()) == ["second"]


def test_a_recovery_that_is_under_way_is_not_disturbed(
    start_node: StartNode, kill_program: Kill, run_program: RunProgram, place: Place
) -> None:
    """Another one takes another program."""
    node = start_node("--cpus", "2")
    kill_program("first", node)
    kill_program("second", node, ends=False)
    recovery = run_program(
        "import dispy, sys\n"
        "dispy.config.LocalNode = False\n"
        "print([job.result for job in dispy.recover_jobs()], flush=True)\n"
    )
    recovery.wait_line(r"recovering .*", stream="stderr")
    # The line comes before the journal is locked.
    wait_for(dispy.recoverable, lambda left: len(left) == 1, what="only the first is left")
    assert results(dispy.recover_jobs()) == ["first"]
    (place.root / "gate-second").touch()
    recovery.wait_line(r"^\['second'\]$")
    assert recovery.wait() == 0, recovery.stderr


def test_a_journal_that_cannot_be_written_to(
    start_node: StartNode, kill_program: Kill, place: Place
) -> None:
    """It cannot be locked, so nothing is done with it; others are recovered."""
    node = start_node("--cpus", "2")
    kill_program("first", node)
    kill_program("second", node)
    path = dispy.recoverable()[0].paths[0]
    broken = path.read_bytes()
    path.write_bytes(broken[:16] + bytes(len(broken) - 16))
    assert results(dispy.recover_jobs()) == ["first"]
    path.write_bytes(broken)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert results(dispy.recover_jobs()) == ["second"]
    assert Path(path).exists() is False
    assert os.listdir(path.parent) == []
