"""Jobs that fail: the status, the reason, the slot that is free again, and nobody else touched."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import signal
import sys
import threading
import time
from typing import Any

import pytest

import dispy
from dispy.errors import JobError, RemoteTraceback

from .conftest import MakeCluster, StartNode

TERMINATED, FINISHED = dispy.DispyJob.Terminated, dispy.DispyJob.Finished


def works(what: str, *args: Any) -> Any:
    """A job that fails in the way that is asked for; 'value' gives its argument back."""
    if what == "value":
        return args[0]
    if what == "exception":
        print("before")
        return deeper(*args)
    if what == "exit":
        sys.exit(*args)
    if what == "_exit":
        os._exit(*args)
    if what == "signal":
        os.kill(os.getpid(), args[0])
        time.sleep(60)
    if what == "segfault":
        ctypes.string_at(0)
    if what == "memory":
        return bytearray(1 << 62)
    if what == "stack":
        return works(what)
    if what == "lock":
        return {"inner": threading.Lock()}
    if what == "pid":
        return os.getpid()
    if what == "raise":
        raise args[0]
    raise AssertionError(what)


def deeper(n: int) -> float:
    return 1 / n


def check_slots_are_free(cluster: dispy.JobCluster) -> None:
    """Both CPUs of a node run jobs, at the same time, and each its own."""

    jobs = [cluster.submit("value", n) for n in range(50)]
    for n, job in enumerate(jobs):
        assert job.wait(5), f"job {n} of 50 does not run: {cluster.status()}"
        assert (job.result, job.exception, job.stdout, job.stderr) == (n, None, "", "")
    assert cluster.status().jobs_pending == 0
    assert all(node.busy == 0 for node in cluster.status().nodes)


@pytest.mark.usefixtures("a_node")
def test_exception(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(works)
    job = cluster.submit("exception", 0)
    assert job() is None
    assert job.status == TERMINATED
    assert job.exception.startswith("Traceback (most recent call last):\n"), job.exception
    assert job.exception.rstrip().endswith("ZeroDivisionError: division by zero")
    assert "in works" in job.exception
    assert "in deeper" in job.exception
    assert "dispy/worker" not in job.exception, "our own frames are shown"
    assert job.stdout == "before\n"
    assert isinstance(job.error, ZeroDivisionError)
    assert isinstance(job.error.__cause__, RemoteTraceback)
    assert job.error.__cause__.text == job.exception
    assert job.start_time <= job.end_time
    assert job.ip_addr == "127.0.0.1"
    with pytest.raises(ZeroDivisionError):
        raise job.error
    check_slots_are_free(cluster)


@pytest.mark.usefixtures("a_node")
def test_exception_with_a_cause(make_cluster: MakeCluster) -> None:
    def compute() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    job = make_cluster(compute).submit()
    job()
    assert "KeyError: 'first'" in job.exception
    assert "The above exception was the direct cause" in job.exception
    assert repr(job.error) == "ValueError('second')"


class Unfriendly(Exception):
    """Takes other arguments than it keeps."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")
        self.a = a


@pytest.mark.usefixtures("a_node")
def test_exception_with_arguments_of_its_own(make_cluster: MakeCluster) -> None:
    def compute() -> None:
        raise Unfriendly(1, 2)

    job = make_cluster(compute).submit()
    job()
    assert isinstance(job.error, Unfriendly)
    assert (job.error.args, job.error.a) == (("1 and 2",), 1)


@pytest.mark.usefixtures("a_node")
def test_exception_that_cannot_be_rebuilt(make_cluster: MakeCluster) -> None:
    def compute() -> None:
        error = Unfriendly(1, 2)
        error.held = threading.Lock()  # type: ignore[attr-defined]
        raise error

    job = make_cluster(compute).submit()
    job()
    assert job.exception.rstrip().endswith("Unfriendly: 1 and 2")
    assert isinstance(job.error, JobError)
    assert "Unfriendly: 1 and 2" in str(job.error)


def test_exceptions_of_all_kinds_end_the_job_only(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster(works)
    first = cluster.submit("pid")()
    for kind in (BaseException, GeneratorExit, KeyboardInterrupt, StopIteration, ExceptionGroup):
        error = kind("text", [ValueError(1)]) if kind is ExceptionGroup else kind("text")
        job = cluster.submit("raise", error)
        assert job() is None
        assert job.status == TERMINATED
        assert job.exception.startswith(("Traceback", "  + Exception Group Traceback")), job.exception
        assert type(job.error) is kind
        assert cluster.submit("pid")() == first, f"the worker was lost after {kind.__name__}"


@pytest.mark.usefixtures("a_node")
def test_very_long_exception(make_cluster: MakeCluster) -> None:
    job = make_cluster(works).submit("raise", ValueError("x" * 1_000_000))
    job()
    assert job.status == TERMINATED
    assert job.exception.startswith("Traceback")
    assert len(job.exception) < 200_000
    assert "cut" in job.exception


def test_exception_with_the_name_of_a_file_that_is_not_utf_8(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    """No message can hold half of a character: it is shown as an escape, and costs no worker."""
    start_node("--cpus", "1")
    cluster = make_cluster(works)
    first = cluster.submit("pid")()
    name = os.fsdecode(b"part-\xff.dat")
    for error in (ValueError(name), ValueError(name * 10_000)):
        job = cluster.submit("raise", error)
        job()
        assert "ValueError: part-\\udcff.dat" in job.exception, job.exception
        assert len(job.exception) < 200_000
        assert cluster.submit("pid")() == first
    assert str(cluster.submit("value", ValueError(name))()) == name


@pytest.mark.usefixtures("a_node")
def test_unpicklable_result(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(works)
    job = cluster.submit("lock")
    assert job() is None
    assert job.status == TERMINATED
    assert job.exception.startswith("Traceback"), job.exception
    assert re.search("(?i)lock", job.exception)
    assert "result" in job.exception, "it does not say that it is the result that cannot be sent"
    check_slots_are_free(cluster)


class ComesBackBad:
    """Can be pickled, and not be unpickled but in the process that made it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __reduce__(self) -> Any:
        return only_in, (self.pid,)


def only_in(pid: int) -> str:
    if os.getpid() != pid:
        raise RuntimeError("cannot be rebuilt")
    return "fine"


@pytest.mark.usefixtures("a_node")
def test_argument_that_does_not_unpickle(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(works)
    job = cluster.submit("value", ComesBackBad(os.getpid()))
    assert job() is None
    assert job.status == TERMINATED
    assert "RuntimeError: cannot be rebuilt" in job.exception
    assert "argument" in job.exception, "it does not say that it is the arguments that cannot be rebuilt"
    check_slots_are_free(cluster)


@pytest.mark.usefixtures("a_node")
def test_result_that_does_not_unpickle(make_cluster: MakeCluster) -> None:
    def compute() -> Any:
        return ComesBackBad(os.getpid())

    cluster = make_cluster(compute)
    job = cluster.submit()
    assert job() is None
    assert job.status == TERMINATED
    assert "cannot be rebuilt" in job.exception


ENDS: list[tuple[str, list[Any], str]] = [
    ("exit", [3], r"SystemExit: 3|exit code 3"),
    ("exit", ["bad luck"], r"bad luck"),
    ("exit", [], r"SystemExit|exit code 0"),
    ("_exit", [0], r"exit code 0"),
    ("_exit", [7], r"exit code 7"),
    ("signal", [signal.SIGKILL], r"signal 9 \(SIGKILL\)"),
    ("signal", [signal.SIGTERM], r"signal 15 \(SIGTERM\)"),
    ("signal", [signal.SIGABRT], r"signal 6 \(SIGABRT\)"),
    ("segfault", [], r"signal 11 \(SIGSEGV\)"),
    ("memory", [], r"MemoryError"),
    ("stack", [], r"RecursionError"),
]


@pytest.mark.usefixtures("a_node")
def test_process_ends(make_cluster: MakeCluster) -> None:
    """Noticed at once, with the reason, and of no concern to the jobs before and behind it."""
    cluster = make_cluster(works)
    assert cluster.submit("value", 1)() == 1
    for what, args, reason in ENDS:
        others = [cluster.submit("value", n) for n in range(20)]
        job = cluster.submit(what, *args)
        others += [cluster.submit("value", n) for n in range(20, 40)]
        started = time.monotonic()
        assert job.wait(8), f"{what} {args}: its end is not noticed"
        assert time.monotonic() - started < 4, f"{what} {args}: its end is not noticed at once"
        assert job.status == TERMINATED
        assert re.search(reason, job.exception), job.exception
        assert isinstance(job.error, BaseException)
        assert job.start_time is not None
        assert job.start_time <= job.end_time
        assert [(other(), other.exception) for other in others] == [(n, None) for n in range(40)]
    check_slots_are_free(cluster)


@pytest.mark.usefixtures("a_node")
def test_many_deaths(make_cluster: MakeCluster) -> None:
    """Only those that die are lost, however close others are."""
    cluster = make_cluster(works)
    jobs = [cluster.submit("_exit", 1) if n % 10 == 5 else cluster.submit("value", n) for n in range(200)]
    for n, job in enumerate(jobs):
        assert job.wait(10), f"job {n} does not end"
        assert (job.status, job.result) == ((TERMINATED, None) if n % 10 == 5 else (FINISHED, n)), (
            job.exception
        )
    check_slots_are_free(cluster)


@pytest.mark.usefixtures("a_node")
def test_limits_that_a_job_sets_do_not_hit_others(make_cluster: MakeCluster) -> None:
    """They cannot be put back by every user, so the process is not used again."""

    def compute(n: int) -> int:
        import resource

        if n == 0:
            resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))
            return len(bytearray(1 << 30))
        with mmap.mmap(-1, 1 << 29) as memory:
            return len(memory) >> 29

    cluster = make_cluster(compute)
    failed = [cluster.submit(0) for _ in range(2)]
    assert [job() for job in failed] == [None, None]
    assert all("MemoryError" in job.exception for job in failed)
    later = [cluster.submit(1) for _ in range(4)]
    assert [job() for job in later] == [1] * 4, later[0].exception
