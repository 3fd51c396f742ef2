"""Hosts and workers that fail where no job runs: their program is told what was raised there."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

import dispy
from dispy.system.processes import is_ending

from .conftest import MakeCluster, RunProgram
from .helpers import Place, wait_for


def one() -> int:
    return 1


def removes_directory() -> None:
    shutil.rmtree(os.getcwd())


def breaks_collector() -> None:
    gc.freeze = None  # type: ignore[assignment]


def takes_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1, 1))


def takes_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def closes_all() -> None:
    os.closerange(3, 256)


def exits() -> None:
    os._exit(3)


def aborts() -> None:
    os.abort()


def crashes() -> None:
    ctypes.string_at(0)


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


BROKEN_SETUPS: dict[str, tuple[Callable[[], None], str, str]] = {
    "directory": (removes_directory, "FileNotFoundError: [Errno 2]", "FileNotFoundError: [Errno 2]"),
    "collector": (breaks_collector, "TypeError: 'NoneType' object is not callable", ""),
    "memory": (takes_memory, "emory", "emory"),  # by Python or by the system
    "descriptors": (takes_descriptors, "[Errno 24] Too many open files", "[Errno 24] Too many open files"),
    "closed": (closes_all, "closed its connection to the node, and was ended", "ended with exit code 70"),
    "exit": (exits, "ended with exit code 3, while it loaded", "ended with exit code 3"),
    "abort": (aborts, "ended with signal 6 (SIGABRT), while it loaded", "signal 6 (SIGABRT)"),
    "crash": (crashes, "ended with signal 11 (SIGSEGV), while it loaded", "signal 11 (SIGSEGV)"),
    "kill": (is_killed, "ended with signal 9 (SIGKILL), while it loaded", "signal 9 (SIGKILL)"),
}


@pytest.mark.parametrize("per", ["node", "worker"])
@pytest.mark.parametrize("name", BROKEN_SETUPS)
def test_what_setup_breaks_is_named(make_cluster: MakeCluster, name: str, per: str) -> None:
    setup, *expected = BROKEN_SETUPS[name]
    job = make_cluster(one, setup=setup, setup_per=per).submit()
    said = expected[per == "worker"]
    if not said:
        assert job.get(20) == 1
        return
    assert job.wait(20)
    assert job.status == dispy.DispyJob.Terminated
    if name == "closed":  # whether the node or the host notices it first
        assert said in job.exception or "ended with exit code 70" in job.exception
        return
    assert said in job.exception, job.exception
    if name in ("directory", "memory", "descriptors"):
        assert said in repr(job), "in a line, too"
    assert (said == "signal 9 (SIGKILL)") == (name == "kill" and per == "worker") or "KILL" not in said


DYING = """
import os, sys
import dispy

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fragile

def compute():
    return fragile.value

cluster = dispy.JobCluster(compute)
job = cluster.submit()
job.wait(20)
print(job.exception)
"""

FRAGILE = """
import os
value = 1
if "DISPY_NODE" in os.environ:  # in a host
    %s
"""


@pytest.mark.parametrize(
    ("dies", "expected"),
    [
        ("os.write(2, b'one\\n' * 99 + b'terminate called\\n'); os.abort()", "terminate called"),
        ("os.write(2, b'no end of line'); os._exit(4)", "no end of line"),
    ],
    ids=["abort", "exit"],
)
def test_a_module_that_ends_its_host(
    run_program: RunProgram, place: Place, dies: str, expected: str
) -> None:
    (place.root / "programs").mkdir()
    (place.root / "programs" / "fragile.py").write_text(FRAGILE % dies)
    program = run_program(DYING)
    assert program.wait(25) == 0, program.stderr
    assert expected in program.stdout, program.stdout
    assert program.stdout.count("one") < 20, "some lines"


def test_a_host_that_cannot_even_import_what_it_needs(run_program: RunProgram, place: Place) -> None:
    """A module of the user's has the name of one that we need, and hosts find it first."""
    (place.root / "shadows").mkdir()
    (place.root / "shadows" / "resource.py").write_text(
        "import sys\nif sys.argv[0] == '-c':\n    raise ImportError('shadowed')\n"
        "RLIM_INFINITY = -1\nRLIMIT_NOFILE = RLIMIT_CORE = RLIMIT_NPROC = RLIMIT_AS = 7\n"
        "getrlimit = setrlimit = lambda *args: (64, 64)\n"
    )
    program = run_program(
        "import dispy\ndef f(): pass\nc = dispy.JobCluster(f)\njob = c.submit()\njob.wait(20)\n"
        "print(job.exception)\n",
        env=place.environment | {"PYTHONPATH": str(place.root / "shadows")},
    )
    assert program.wait(25) == 0, program.stderr
    assert "ImportError: shadowed" in program.stdout, program.stdout
    assert "SIGKILL" not in program.stdout


def test_a_job_that_breaks_its_worker(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(breaks_worker)
    job = cluster.submit()
    assert job.wait(20)
    assert "by an error outside of the job" in job.exception
    assert "a broken clock" in job.exception
    assert "a broken clock" in repr(job)


def breaks_worker() -> None:
    import dispy.worker.loop

    def clock() -> float:
        raise RuntimeError("a broken clock")

    dispy.worker.loop._clock = clock


def test_whether_a_process_is_ending() -> None:
    assert not is_ending(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", ""])
    wait_for(lambda: is_ending(child.pid), what="it has ended, and nobody has waited for it")
    child.wait()
    assert is_ending(child.pid)
