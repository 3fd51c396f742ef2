"""``done``, ``add_done_callback`` and ``as_future`` of jobs, with a played thread of callbacks."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable
from concurrent import futures
from types import SimpleNamespace
from typing import Any

import pytest

from dispy import payload
from dispy.client.engine.callback_thread import Caller
from dispy.client.job import ABANDONED, CANCELLED, CREATED, FINISHED, RUNNING, TERMINATED, DispyJob
from dispy.errors import JobError, RemoteTraceback, UsageError
from dispy.system import process_identity

_numbers = itertools.count(1)


class Cluster:
    """A cluster as its jobs see it: callbacks run when the test says so, unless a thread does that."""

    def __init__(self, cpus: int = 1, caller: Caller | None = None) -> None:
        self.pid = process_identity.pid
        self.is_closed = False
        self.has_done_callbacks = False
        self.jobs: dict[int, DispyJob] = {}
        self.cancelled: list[DispyJob] = []
        self.calls: list[Callable[[], object]] = []
        self.engine = SimpleNamespace(callbacks=caller or self)
        self.tally = SimpleNamespace(hear=id)
        self.shipped = SimpleNamespace(base=None)
        self.options = SimpleNamespace(files=[])
        self._cpus = cpus

    def cpus(self) -> int:
        return self._cpus

    def job(self) -> DispyJob:
        number = next(_numbers)
        job = self.jobs[number] = DispyJob(number, number, self)
        return job

    def cancel(self, job: DispyJob) -> int:
        if job.number not in self.jobs:
            return -1
        self.cancelled.append(job)
        job._cancel()
        return 0

    def end(
        self,
        job: DispyJob,
        value: Any = None,
        *,
        status: int = FINISHED,
        reason: str = "",
        error: Any = None,
    ) -> None:
        """Have a job end, as the engine does."""
        del self.jobs[job.number]
        job._status, job._exception, job.result = status, reason or None, value
        job._error = payload.dump_exception(error) if error is not None else None
        job._finish()

    # The thread of callbacks.

    def call(self, function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> None:
        self.calls += [lambda given=given: function(*given) for given in arguments]  # type: ignore[misc]

    def is_current(self) -> bool:
        return False

    def play(self) -> None:
        while self.calls:
            self.calls.pop(0)()


# Callbacks.


def test_a_callback_is_called_once_at_the_end() -> None:
    cluster = Cluster()
    job = cluster.job()
    told: list[Any] = []
    job.add_done_callback(lambda ended: told.append(("first", ended)))
    job.add_done_callback(lambda ended: told.append(("second", ended)))
    assert not job.done()
    assert cluster.has_done_callbacks
    cluster.end(job, 3)
    assert job.done()
    assert told == [], "the engine's thread calls nothing of the user's"
    cluster.play()
    assert told == [("first", job), ("second", job)]
    job._wake()
    cluster.play()
    assert len(told) == 2
    assert job._waiter is None


def test_the_callback_of_an_ended_job_is_called_here_and_now(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    job = cluster.job()
    cluster.end(job, 3)
    told: list[Any] = []
    job.add_done_callback(lambda ended: told.append((ended, threading.current_thread())))
    assert told == [(job, threading.current_thread())]
    recovered = DispyJob(9, _is_final=True)
    recovered.add_done_callback(told.append)
    assert told[1:] == [recovered]
    with caplog.at_level(logging.ERROR):
        job.add_done_callback(lambda ended: ended.no_such_name)
    assert "has no attribute 'no_such_name'" in caplog.text


def test_callbacks_that_fail_are_logged_and_stop_no_other(caplog: pytest.LogCaptureFixture) -> None:
    caller = Caller("dispy callbacks")
    cluster = Cluster(caller=caller)
    job = cluster.job()
    told: list[Any] = []
    job.add_done_callback(lambda _: {}["lost"])
    job.add_done_callback(lambda _: told.append(threading.current_thread().name))
    cluster.end(job)
    assert caller.drain(10)
    caller.stop()
    assert told == ["dispy callbacks"]
    assert "KeyError: 'lost'" in caplog.text


def test_each_of_many_threads_that_add_a_callback_while_the_job_ends_is_called_once() -> None:
    caller = Caller("dispy callbacks")
    cluster = Cluster(caller=caller)
    for _ in range(200):
        job = cluster.job()
        told: list[Any] = []
        begun = threading.Barrier(4)

        def add(job: DispyJob = job, told: list[Any] = told, begun: threading.Barrier = begun) -> None:
            begun.wait()
            job.add_done_callback(told.append)

        threads = [threading.Thread(target=add) for _ in range(3)]
        for thread in threads:
            thread.start()
        begun.wait()
        cluster.end(job)
        for thread in threads:
            thread.join()
        assert caller.drain(10)
        assert told == [job] * 3
    caller.stop()


def test_what_cannot_be_a_callback() -> None:
    with pytest.raises(UsageError, match="add_done_callback takes a function, not 5"):
        Cluster().job().add_done_callback(5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="call recover_jobs again"):
        DispyJob(1).add_done_callback(print)


# Futures.


def test_a_future_of_a_result() -> None:
    cluster = Cluster()
    job = cluster.job()
    future = job.as_future()
    assert isinstance(future, futures.Future)
    assert not future.done()
    with pytest.raises(TimeoutError):
        future.result(0)
    told: list[Any] = []
    whole = job.as_future()
    whole.add_done_callback(told.append)
    cluster.end(job, 3)
    assert future.result() == 3
    assert future.exception() is None
    cluster.play()
    assert told == [whole]
    assert whole.result(0) == 3
    assert futures.wait([future, whole]).done == {future, whole}
    assert set(futures.as_completed([future, whole])) == {future, whole}


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ({"status": TERMINATED, "reason": "Traceback …", "error": KeyError("a")}, KeyError),
        ({"status": TERMINATED, "reason": "Traceback …", "error": SystemExit(3)}, JobError),
        ({"status": TERMINATED, "reason": "killed by signal 9"}, JobError),
        ({"status": ABANDONED, "reason": "the node was lost"}, JobError),
        ({"status": CANCELLED, "reason": "cancelled"}, futures.CancelledError),
        ({"status": TERMINATED, "reason": "cancelled"}, futures.CancelledError),
    ],
)
def test_a_future_of_a_job_that_failed(
    end: dict[str, Any], expected: type[BaseException], is_whole: bool
) -> None:
    cluster = Cluster()
    job = cluster.job()
    future = job.as_future()
    if is_whole:
        future.add_done_callback(id)
    cluster.end(job, **end)
    cluster.play()
    with pytest.raises(expected) as raised:
        future.result(0)
    assert type(raised.value) is expected
    assert future.cancelled() is (expected is futures.CancelledError)
    if "error" in end:
        cause: Any = raised.value.__cause__
        text = cause if expected is KeyError else cause.__cause__
        assert isinstance(text, RemoteTraceback)
    if expected is not futures.CancelledError:
        assert type(future.exception()) is expected


def test_cancel_of_a_job_that_waits() -> None:
    cluster = Cluster(cpus=1)
    begun, next_one, waiting = [cluster.job() for _ in range(3)]
    begun._status = RUNNING
    assert begun.as_future().running()
    for job in (begun, next_one):
        assert not job.as_future().cancel(), "it has begun, or may have"
    future = waiting.as_future()
    told: list[Any] = []
    future.add_done_callback(told.append)
    assert future.cancel()
    assert future.cancel()
    assert told == [future]
    assert cluster.cancelled == [waiting]
    cluster.end(waiting, status=CANCELLED, reason="cancelled")
    cluster.play()
    assert told == [future]
    assert future.cancelled()
    assert waiting.as_future().cancelled()


def test_without_a_cpu_all_can_be_cancelled() -> None:
    cluster = Cluster(cpus=0)
    assert cluster.job().as_future().cancel()


def test_kill_of_a_job_that_runs() -> None:
    cluster = Cluster()
    job = cluster.job()
    job._status = RUNNING
    future = job.as_future()
    assert future.kill()
    assert cluster.cancelled == [job]
    assert not future.done(), "it is cancelled when the job has ended"
    cluster.end(job, status=TERMINATED, reason="cancelled")
    assert future.cancelled()
    assert not future.kill()


@pytest.mark.parametrize("state", ["ended", "closed", "recovered"])
def test_what_cannot_be_cancelled_any_more(state: str) -> None:
    cluster = Cluster()
    cluster.job()
    cluster.job()
    job = cluster.job()
    if state == "ended":
        cluster.end(job, 3)
    elif state == "closed":
        cluster.is_closed = True
    else:
        job = DispyJob(1, _is_final=True, _status=FINISHED)
    future = job.as_future()
    assert not future.cancel()
    assert not future.kill()
    assert cluster.cancelled == []


def test_a_recovered_job_that_has_ended() -> None:
    job: DispyJob[int] = DispyJob(1, _is_final=True, _status=FINISHED, _value=4)
    assert job.as_future().result() == 4
    assert asyncio.run(as_awaited(job)) == 4
    unfinished = DispyJob(2, _status=CREATED)
    assert not unfinished.done()
    with pytest.raises(UsageError, match="call recover_jobs again"):
        unfinished.as_future().result()
    with pytest.raises(UsageError, match="call recover_jobs again"):
        unfinished.as_future().add_done_callback(id)


async def as_awaited(job: DispyJob) -> Any:
    return await asyncio.wrap_future(job.as_future())


def test_a_future_in_asyncio() -> None:
    caller = Caller("dispy callbacks")
    cluster = Cluster(caller=caller)
    jobs = [cluster.job() for _ in range(4)]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.005, cluster.end, jobs[0], 1)
        assert await as_awaited(jobs[0]) == 1
        loop.call_later(0.005, lambda: cluster.end(jobs[1], status=CANCELLED, reason="cancelled"))
        with pytest.raises(asyncio.CancelledError):
            await as_awaited(jobs[1])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(as_awaited(jobs[2]), 0.01)

    asyncio.run(main())
    assert cluster.cancelled == [], "one of the two that may have begun"
    assert caller.drain(10)
    caller.stop()


def test_a_callback_can_wait_for_a_future() -> None:
    """The future is told on the thread of callbacks, behind the function that waits for it."""
    caller = Caller("dispy callbacks")
    cluster = Cluster(caller=caller)
    first, second, third = [cluster.job() for _ in range(3)]
    waited = [second.as_future(), third.as_future()]
    told: list[Any] = []
    for future in waited:
        future.add_done_callback(lambda future: told.append(future))

    def wait(_: DispyJob) -> None:
        told.append(waited[0].result(10))
        told.append(type(waited[1].exception(10)))
        told.append(_raised(TimeoutError, late.result, 0))

    late = cluster.job().as_future()
    late.add_done_callback(id)
    first.add_done_callback(wait)
    cluster.end(first)
    cluster.end(second, 7)
    cluster.end(third, status=TERMINATED, reason="killed by signal 9")
    assert caller.drain(10)
    caller.stop()
    assert [told.count(one) for one in (7, JobError, True, *waited)] == [1] * 5


def _raised(kind: type[BaseException], function: Callable[..., object], *args: Any) -> bool:
    try:
        function(*args)
    except kind:
        return True
    return False
