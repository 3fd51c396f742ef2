"""Parts of ``dispy.Executor`` without a cluster: the limit on CPUs, ends of jobs, futures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace
from typing import Any

import pytest

from dispy import payload
from dispy.client.job import CANCELLED, FINISHED, TERMINATED, DispyJob
from dispy.client.jobs.state import JobState
from dispy.errors import JobError, LostError, PicklingError, RemoteTraceback, UnpicklingError
from dispy.integrations import outcomes
from dispy.integrations.futures import JobFuture
from dispy.integrations.node_limits import CpuLimit
from dispy.system import process_identity


def test_a_limit_over_several_nodes() -> None:
    limit = CpuLimit(5)
    there = {b"a", b"b", b"c"}
    assert [limit.give(node, 2, there) for node in (b"a", b"b", b"c")] == [2, 2, 1]
    assert limit.give(b"d", 1, there | {b"d"}) == 0
    assert limit.give(b"a", 1, there) == 1, "it is asked again, and offers less"
    assert limit.give(b"d", 4, there | {b"d"}) == 1
    assert limit.give(b"c", 4, {b"c", b"d"}) == 4, "two nodes are gone"


class Owner:
    """An executor whose thread of callbacks is played."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.broken: BaseException | None = None
        self.cancelled: list[JobState] = []

    def cancel_job(self, job: JobState) -> bool:
        self.cancelled.append(job)
        return True

    def kill_job(self, job: JobState) -> bool:
        self.cancelled.append(job)
        return True

    def call_back(self, job: JobState, function: Callable[[], None]) -> None:
        self.calls.append(function)

    def is_calling_back(self, job: JobState) -> bool:
        return False

    def outcome(self, job: JobState) -> tuple[Any, BaseException | None]:
        assert isinstance(job, DispyJob)
        result, error = outcomes.of_job(job)
        return result, self.broken or error


def new_job() -> DispyJob:
    """A job of a cluster of this process."""
    return DispyJob(1, _session=SimpleNamespace(pid=process_identity.pid))


def end(job: DispyJob, status: int, reason: str = "", error: bytes = b"", value: Any = None) -> None:
    job.result = value
    job._exception, job._error, job._status = reason or None, error, status
    job._finish()


def test_a_result_costs_no_lock() -> None:
    future: JobFuture[int] = JobFuture(job := new_job(), Owner())
    assert not future.done()
    end(job, FINISHED, value=3)
    assert future.done()
    assert future.result() == 3
    assert "_condition" not in vars(future)


def test_callbacks_run_on_their_thread() -> None:
    """The engine's thread, which ends jobs, only queues them."""
    owner = Owner()
    future: JobFuture[int] = JobFuture(job := new_job(), owner)
    told: list[Any] = []
    future.add_done_callback(told.append)
    end(job, FINISHED, value=3)
    assert told == []
    (settle,) = owner.calls
    settle()
    assert told == [future]
    assert future.result(0) == 3
    assert futures.wait([future]).done == {future}


def test_a_future_that_ends_while_it_is_cancelled() -> None:
    owner = Owner()
    future: JobFuture[int] = JobFuture(job := new_job(), owner)
    told: list[Any] = []
    future.add_done_callback(told.append)
    assert future.cancel()
    assert future.cancel()
    end(job, CANCELLED)
    for call in owner.calls:
        call()
    assert told == [future]
    assert owner.cancelled == [job]
    with pytest.raises(futures.CancelledError):
        future.result()


def test_calls_of_a_broken_executor() -> None:
    owner = Owner()
    owner.broken = BrokenProcessPool("the initializer has failed")
    future: JobFuture[int] = JobFuture(job := new_job(), owner)
    end(job, CANCELLED)
    with pytest.raises(BrokenProcessPool, match="initializer"):
        future.result()
    assert not future.cancel()


@pytest.mark.parametrize(
    ("reason", "error", "expected"),
    [
        ("the job's process was killed by signal 9", None, outcomes.WorkerDied),
        ("Traceback (most recent call last):\nX: y", None, JobError),
        ("Traceback (most recent call last):\nKeyError: 'a'", KeyError("a"), KeyError),
        ("Traceback (most recent call last):\nSystemExit: 3", SystemExit(3), SystemExit),
        ("Traceback (most recent call last):\n…", UnpicklingError("no module x"), outcomes.WorkerDied),
        ("Traceback (most recent call last):\n…", PicklingError("a lock"), outcomes.SendingError),
        ("cancelled", None, futures.CancelledError),
    ],
)
def test_ends(reason: str, error: BaseException | None, expected: type[BaseException]) -> None:
    job = DispyJob(1)
    end(job, TERMINATED, reason, payload.dump_exception(error) if error is not None else b"")
    result, raised = outcomes.of_job(job)
    assert result is None
    assert type(raised) is expected
    if reason.startswith("Traceback"):
        assert type(raised.__cause__).__name__ == "_RemoteTraceback"
        assert reason in str(raised.__cause__)


def test_errors_of_maps() -> None:
    assert type(outcomes.as_raised(LostError("items 0 to 3"))) is outcomes.WorkerDied
    wrapped = JobError("item 0 of the map failed: SystemExit: 3")
    wrapped.raised = sys.exc_info()[1] or SystemExit(3)
    wrapped.raised.__cause__ = RemoteTraceback("there")
    raised = outcomes.as_raised(wrapped)
    assert type(raised) is SystemExit
    assert "there" in str(raised.__cause__)
