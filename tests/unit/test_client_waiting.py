"""Who waits for a job, how often they are told, and what is left of them."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from dispy.client.in_asyncio import awaiting
from dispy.client.job import FINISHED, TERMINATED, DispyJob
from dispy.client.waiting import Watch, as_completed, wait
from dispy.client.wakeup import Signal
from dispy.system import process_identity

HERE: Any = SimpleNamespace(pid=process_identity.pid)
"""A session of this process: its jobs may be waited for."""


def end(job: DispyJob, status: int = FINISHED) -> None:
    """What the engine does with a job that has ended."""
    job.status = status
    job._is_final = True
    if job._waiter is not None:
        job._wake()


def test_each_who_waits_is_told_once() -> None:
    job = DispyJob(1, _session=HERE)
    watches = [Watch(Signal()) for _ in range(3)]
    event = job.finish
    for watch in watches:
        job._add_waiter(watch)
    assert job.finish is event
    job._drop_waiter(watches[1])
    end(job)
    job._wake()
    assert [len(watch.ended) for watch in watches] == [1, 0, 1]
    assert event.is_set()
    assert job._waiter is event
    late = Watch(Signal())
    job._add_waiter(late)
    assert len(late.ended) == 1
    assert DispyJob(2, _is_final=True).finish.is_set()


def test_a_lock_and_others() -> None:
    job = DispyJob(1, _session=HERE)
    assert not job.wait(0)
    assert not job.wait(0)
    watch = Watch(Signal())
    job._add_waiter(watch)
    thread = threading.Thread(target=job.wait)
    thread.start()
    end(job)
    thread.join()
    assert list(watch.ended) == [job]


def test_nothing_keeps_a_job_that_has_ended() -> None:
    watch = Watch(Signal())
    job = DispyJob(1, _session=HERE)
    job._add_waiter(watch)
    kept = weakref.ref(_Holder(watch))
    end(job)
    assert job._waiter is None
    gc.collect()
    assert kept() is None


class _Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


def test_order_of_completion() -> None:
    jobs = [DispyJob(n, _session=HERE) for n in range(5)]
    end(jobs[3])
    seen = as_completed(jobs)
    assert next(seen) is jobs[3]
    threading.Timer(0.01, lambda: [end(jobs[n]) for n in (4, 0)]).start()
    assert [next(seen), next(seen)] == [jobs[4], jobs[0]]
    seen.close()  # type: ignore[attr-defined]
    assert [job._waiter for job in jobs] == [None] * 5


@pytest.mark.parametrize(
    ("return_when", "done"),
    [("FIRST_COMPLETED", [2]), ("FIRST_EXCEPTION", [2, 0]), ("ALL_COMPLETED", [2, 0])],
)
def test_wait_returns_when(return_when: str, done: list[int]) -> None:
    jobs = [DispyJob(n, _session=HERE) for n in range(3)]
    end(jobs[2])
    if return_when != "FIRST_COMPLETED":
        end(jobs[0], TERMINATED)
    both = wait(iter(jobs), 0.01, return_when)
    assert both.done == {jobs[n] for n in done}
    assert both.not_done == set(jobs) - both.done


def test_a_signal_is_never_lost() -> None:
    signal = Signal()
    news: list[int] = []
    seen = [0]

    def tell() -> None:
        for n in range(20_000):
            news.append(n)
            signal.wake()

    threads = [threading.Thread(target=tell) for _ in range(2)]
    for thread in threads:
        thread.start()
    while seen[0] < 40_000:
        assert signal.wait(lambda: len(news) > seen[0], None)
        seen[0] = len(news)
    for thread in threads:
        thread.join()
    assert not signal.wait(lambda: False, 0)


def test_one_wake_up_for_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [DispyJob(n, _session=HERE) for n in range(100)]
    sent = []
    send = awaiting._LoopPost.send

    def count(post: Any) -> None:
        sent.append(post)
        send(post)

    monkeypatch.setattr(awaiting._LoopPost, "send", count)

    async def run() -> list[Any]:
        loop = asyncio.get_running_loop()
        # On the loop, so that nothing is completed in between.
        loop.call_later(0.01, lambda: [end(job) for job in jobs])
        return await asyncio.gather(*jobs)

    assert asyncio.run(run()) == [None] * 100
    assert len(sent) == 1


def test_loops_that_are_gone_are_forgotten() -> None:
    async def run(job: DispyJob) -> None:
        asyncio.get_running_loop().call_soon(end, job)
        await job

    for n in range(5):
        asyncio.run(run(DispyJob(n, _session=HERE)))
    assert len([loop for loop in awaiting._posts if loop.is_closed()]) <= 1
