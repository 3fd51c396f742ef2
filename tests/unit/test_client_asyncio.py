"""Signals, iterators and waits for coroutines, without a cluster: nothing is lost, nobody is left behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

import dispy
from dispy.client.in_asyncio.awaiting import complete
from dispy.client.in_asyncio.entry import ClusterInLoop
from dispy.client.in_asyncio.iterator import LoopIterator
from dispy.client.in_asyncio.signal import LoopSignal
from dispy.client.in_asyncio.submission import submit_in_turn
from dispy.client.in_asyncio.threads import in_thread
from dispy.client.job import FINISHED, TERMINATED, DispyJob
from dispy.errors import JobError, UsageError
from dispy.system import process_identity

Loop = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Loop:
    """Makes loops, asyncio's own and uvloop's."""
    made: Loop = request.param
    return made


def run(main: Any, loop: Loop) -> Any:
    """``asyncio.run`` in a loop of a kind."""
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main)


class Session:
    """A cluster as a job sees it: notes which jobs are cancelled."""

    def __init__(self) -> None:
        self.pid = process_identity.pid
        self.is_closed = False
        self.cancelled: list[DispyJob] = []
        self.tally = SimpleNamespace(hear=id)
        self.shipped = SimpleNamespace(base=None)
        self.options = SimpleNamespace(files=[])

    def cancel(self, job: DispyJob) -> int:
        self.cancelled.append(job)
        return 0


def new_job(session: Any = None) -> DispyJob:
    return DispyJob(1, 1, session or Session())


def end(job: DispyJob, value: Any = None, reason: str = "") -> None:
    """Have a job end, as the engine does."""
    job.result = value
    job.status = TERMINATED if reason else FINISHED
    job.exception = reason or None
    job._finish()


async def settled(condition: Callable[[], object]) -> None:
    """Let other tasks go on until a condition holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


# Signals.


def test_a_signal_is_never_lost(loop: Loop) -> None:
    signal = LoopSignal()
    news: list[int] = []

    def tell() -> None:
        for n in range(5_000):
            news.append(n)
            signal.wake()

    async def main() -> None:
        threads = [threading.Thread(target=tell) for _ in range(2)]
        for thread in threads:
            thread.start()
        seen = 0
        while seen < 10_000:
            at = seen
            assert await signal.wait(lambda: len(news) > at, time.monotonic() + 20)  # noqa: B023  # called at once
            seen = len(news)

    run(main(), loop)


def test_a_signal_without_news_is_late(loop: Loop) -> None:
    signal = LoopSignal()

    async def main() -> tuple[bool, bool, float]:
        begun = time.monotonic()
        over = await signal.wait(lambda: False, begun - 1)
        asyncio.get_running_loop().call_later(0.005, signal.wake)  # for nothing: the wait goes on
        late = await signal.wait(lambda: False, begun + 0.03)
        return over, late, time.monotonic() - begun

    over, late, seconds = run(main(), loop)
    assert not over
    assert not late
    assert seconds >= 0.03


def test_a_signal_to_a_closed_loop_is_dropped() -> None:
    signal = LoopSignal()
    gone = asyncio.new_event_loop()
    waiting = gone.create_task(signal.wait(lambda: False, None))
    gone.call_soon(gone.stop)
    gone.run_forever()
    gone.close()
    signal.wake()
    assert asyncio.run(signal.wait(lambda: True, None))
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]  # it was never to end


# Iterators.


class Source:
    """Steps that a test brings one by one."""

    def __init__(self) -> None:
        self.signal = LoopSignal()
        self.ready: list[Iterable[Any] | BaseException] = []
        self.is_closed = False

    def steps(self) -> Generator[Iterable[Any] | None, None, None]:
        try:
            while True:
                if not self.ready:
                    yield None
                    continue
                first = self.ready.pop(0)
                if isinstance(first, BaseException):
                    raise first
                if not first:
                    return
                yield first
        finally:
            self.is_closed = True

    def bring(self, *steps: Iterable[Any] | BaseException) -> None:
        self.ready += steps
        self.signal.wake()

    def iterate(self, until: float | None = None) -> LoopIterator[Any]:
        return LoopIterator(
            self.steps(), self.signal, self.ready.__len__, until, lambda: TimeoutError("too late")
        )


def test_items_come_in_order_and_then_the_end(loop: Loop) -> None:
    source = Source()

    async def main() -> list[Any]:
        asyncio.get_running_loop().call_later(0.005, source.bring, [3], [])
        source.bring([1, 2])
        return [item async for item in source.iterate()]

    assert run(main(), loop) == [1, 2, 3]
    assert source.is_closed


def test_an_error_comes_behind_the_items_before_it(loop: Loop) -> None:
    source = Source()
    source.bring([1], KeyError("x"))
    seen: list[Any] = []

    async def main() -> None:
        items = source.iterate()

        async def take() -> None:
            async for item in items:
                seen.append(item)

        with pytest.raises(KeyError):
            await take()
        assert [item async for item in items] == []

    run(main(), loop)
    assert seen == [1]


def test_an_item_that_is_late(loop: Loop) -> None:
    source = Source()
    source.bring([1])

    async def main() -> None:
        items = source.iterate(time.monotonic() + 0.02)
        assert await anext(items) == 1
        with pytest.raises(TimeoutError, match="too late"):
            await anext(items)
        assert source.is_closed

    run(main(), loop)


def test_a_task_that_is_cancelled_loses_no_item(loop: Loop) -> None:
    source = Source()

    async def main() -> None:
        items = source.iterate()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    await anext(items)
        source.bring(["kept"], [])
        assert [item async for item in items] == ["kept"]

    run(main(), loop)


def test_two_tasks_for_one_iterator_are_refused(loop: Loop) -> None:
    source = Source()

    async def main() -> None:
        items = source.iterate()
        first = asyncio.ensure_future(anext(items))
        await settled(lambda: source.signal._waiter)
        with pytest.raises(UsageError, match="another task waits for the next item"):
            await anext(items)
        source.bring([1])
        assert await first == 1

    run(main(), loop)


def test_leaving_the_loop_closes_at_once(loop: Loop) -> None:
    source = Source()
    source.bring([1, 2, 3])

    async def main() -> None:
        async for item in source.iterate():
            assert item == 1
            break
        assert source.is_closed, "not at some later turn of the event loop"

    run(main(), loop)


def test_closing_ends_the_task_that_waits(loop: Loop) -> None:
    source = Source()

    async def main() -> None:
        items = source.iterate()

        async def take() -> list[Any]:
            return [item async for item in items]

        taking = asyncio.ensure_future(take())
        await settled(lambda: source.signal._waiter)
        await items.aclose()
        assert await asyncio.wait_for(taking, 5) == []
        assert source.is_closed
        await items.aclose()

    run(main(), loop)


# Jobs as they end.


def test_jobs_in_the_order_of_their_ends(loop: Loop) -> None:
    jobs = [new_job() for _ in range(5)]
    end(jobs[3])

    async def main() -> None:
        seen = dispy.aas_completed([*jobs, jobs[0]])
        assert await anext(seen) is jobs[3]
        threading.Timer(0.01, lambda: [end(jobs[n]) for n in (4, 0)]).start()
        assert [await anext(seen), await anext(seen)] == [jobs[4], jobs[0]]
        await seen.aclose()
        assert [job._waiter for job in jobs] == [None] * 5
        end(jobs[1])
        end(jobs[2])
        assert [job async for job in dispy.aas_completed(iter(jobs))] == jobs
        assert [job async for job in dispy.aas_completed([])] == []

    run(main(), loop)


def test_jobs_that_do_not_end_in_time(loop: Loop) -> None:
    jobs = [new_job(), new_job()]

    async def main() -> None:
        with pytest.raises(TimeoutError, match="2 jobs have not ended in time"):
            await anext(dispy.aas_completed(jobs, timeout=0.01))

    run(main(), loop)
    assert [job._waiter for job in jobs] == [None, None]


@pytest.mark.parametrize(
    ("given", "said"),
    [(5, "aas_completed takes several jobs, not 5"), ([5], "aas_completed takes jobs, not 5")],
)
def test_what_are_no_jobs(given: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        dispy.aas_completed(given)
    with pytest.raises(UsageError, match="into a list"):
        dispy.aas_completed(new_job())  # type: ignore[arg-type]


def test_many_loops_wait_for_the_same_jobs() -> None:
    jobs = [new_job() for _ in range(200)]
    seen: list[int] = []
    begun = threading.Barrier(5)

    async def main() -> None:
        ended = dispy.aas_completed(jobs, timeout=20)
        first = asyncio.ensure_future(anext(ended))
        await settled(lambda: ended._signal._waiter)
        await asyncio.to_thread(begun.wait)
        seen.append(len([await first, *[job async for job in ended]]))

    threads = [
        threading.Thread(target=run, args=(main(), kind))
        for kind in (asyncio.new_event_loop, uvloop.new_event_loop) * 2
    ]
    for thread in threads:
        thread.start()
    begun.wait()
    for job in jobs:
        end(job)
    for thread in threads:
        thread.join()
    assert seen == [200] * 4
    assert {job._waiter for job in jobs} == {None}


# One job.


def test_get_in_a_coroutine(loop: Loop) -> None:
    job, failed = new_job(), new_job()

    async def main() -> None:
        now = asyncio.get_running_loop()
        now.call_soon(end, job, 5)
        assert await job.aget() == 5
        assert await job.aget(0) == 5
        now.call_soon(end, failed, None, "the node was lost")
        with pytest.raises(JobError, match="the node was lost"):
            await failed.aget(10)

    run(main(), loop)


@pytest.mark.parametrize("cancels", [False, True])
def test_a_wait_that_is_given_up(loop: Loop, cancels: bool) -> None:
    session = Session()
    job = new_job(session)

    async def main() -> None:
        with pytest.raises(TimeoutError, match=r"job 1 has not ended after 0\.01 s"):
            await job.aget(0.01, cancel=cancels)
        assert session.cancelled == [job] * cancels
        for way in (asyncio.timeout(0.01), asyncio.timeout(0)):
            with pytest.raises(TimeoutError):
                async with way:
                    await job.aget(cancel=cancels)
        waiting = asyncio.ensure_future(job.aget(60, cancel=cancels))
        await settled(lambda: job._waiter)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert job._waiter is None

    run(main(), loop)
    assert session.cancelled == [job] * (4 * cancels)


def test_an_ended_job_is_not_cancelled(loop: Loop) -> None:
    session = Session()
    job = new_job(session)
    end(job, None, "the node was lost")

    async def main() -> None:
        with pytest.raises(JobError):
            await job.aget(cancel=True)

    run(main(), loop)
    assert session.cancelled == []


def test_a_coroutine_that_is_closed_cancels_if_asked() -> None:
    session = Session()
    waiting = asyncio.new_event_loop()
    task = waiting.create_task(new_job(session).aget(cancel=True))
    waiting.call_soon(waiting.stop)
    waiting.run_forever()
    waiting.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it was never to end
    task.get_coro().close()  # type: ignore[union-attr]
    assert len(session.cancelled) == 1


@pytest.mark.parametrize("timeout", ["5", float("nan")])
def test_a_time_that_is_none(timeout: Any) -> None:
    with pytest.raises(UsageError, match="timeout"):
        asyncio.run(new_job().aget(timeout))


def test_a_job_that_nobody_tells_the_end_of() -> None:
    with pytest.raises(UsageError, match="call recover_jobs again"):
        asyncio.run(DispyJob(1).aget())


# Threads.


def test_what_blocks_runs_on_a_thread_of_its_own(loop: Loop) -> None:
    async def main() -> None:
        assert await in_thread("dispy close", lambda: threading.current_thread().name) == "dispy close"
        with pytest.raises(KeyError):
            await in_thread("dispy close", {}.__getitem__, "x")
        gate = threading.Event()
        waiting = asyncio.ensure_future(in_thread("dispy close", gate.wait))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.set()

    run(main(), loop)


# Calls that wait for their turn.


def test_no_thread_for_calls_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them fails, and none waits for ever."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    session: Any = SimpleNamespace(check_open=lambda: None, waiting_calls=None)

    async def main() -> None:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await submit_in_turn(session, (), {})
        assert not session.waiting_calls

    monkeypatch.setattr(threading.Thread, "start", refuse)
    asyncio.run(main())


def test_a_call_does_not_overtake_those_that_wait(loop: Loop) -> None:
    """Although there is room at this moment."""
    queued: list[Any] = []

    class Waiting:
        def add(self, call: Any) -> None:
            queued.append(call.arguments)
            call.job = new_job()
            complete(call.future)

    def submit(*_job: Any) -> Any:
        raise AssertionError("submitted before its turn")

    cluster: ClusterInLoop[..., Any] = ClusterInLoop()
    session: Any = SimpleNamespace(
        waiting_calls=Waiting(), check_open=lambda: None, submit=submit, journal=None, room=threading.RLock(),
        full="", jobs={}, options=SimpleNamespace(queued_max=1),
    )  # fmt: skip
    cluster._session = session

    assert run(cluster.asubmit(1, n=2), loop).number == 1
    assert queued == [((1,), {"n": 2})]
