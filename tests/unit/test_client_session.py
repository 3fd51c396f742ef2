"""What a cluster does with its jobs and nodes, over a backend that has no scheduler."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dispy.client.allocation import node_choice, node_orders, node_views
from dispy.client.job import ABANDONED, CANCELLED, CREATED, FINISHED, RUNNING, TERMINATED, DispyJob
from dispy.client.map.entry import ClusterMaps
from dispy.client.nodes import DispyNode, NodeAllocate
from dispy.client.session import (
    callbacks,
    cancellation,
    completion,
    explain,
    objects,
    shutdown,
    submission,
)
from dispy.client.session.state import Session
from dispy.errors import UsageError
from dispy.protocol.node import Ended, Provisional, Started
from tests.played_backend import PlayedBackend, played


def double(n: int) -> int:
    if n < 0:
        raise ValueError(n)
    return 2 * n


def submit(session: Session, *args: Any, job_id: Any = None) -> DispyJob:
    return session.submit(session, job_id, None, args, {})


def turn(session: Session) -> None:
    threads: Any = session.engine
    threads.turn()


def test_jobs_go_in_one_batch_and_end() -> None:
    session, backend = played(double)
    info = backend.node_comes("one", cpus=2)
    jobs = [submit(session, n, job_id=n) for n in range(3)]
    assert [job.status for job in jobs] == [CREATED] * 3
    assert len(session.engine.queue) == 1, "one wake-up for all"  # type: ignore[attr-defined]
    turn(session)
    assert [what for what in backend.done if what[0] == "submit"] == [
        ("submit", [job.number for job in jobs], None)
    ]
    backend.news.on_started(1, [Started(jobs[0].number, 0, 5.0)], info)
    assert (jobs[0].status, jobs[0].ip_addr, jobs[0].start_time) == (RUNNING, info.ip_addr, 5.0)
    backend.news.on_requeued(1, [jobs[0].number])
    assert (jobs[0].status, jobs[0].ip_addr) == (CREATED, None)
    backend.run(session, double)
    assert [job() for job in jobs] == [0, 2, 4]
    assert [job.status for job in jobs] == [FINISHED] * 3
    assert jobs[0].stdout == "said\n"
    assert (session.jobs, session.tally.ended, session.tally.failed) == ({}, 3, 0)
    (shown,) = node_views.current(session)
    assert (shown.name, shown.jobs_done, shown.cpus) == ("one", 3, 2)


def test_a_value_that_is_loaded_when_its_job_ends_is_not_told_after_the_end() -> None:
    told: list[tuple[int, Any]] = []
    session, backend = played(double, job_status=lambda job: told.append((job.status, job.result)))
    info = backend.node_comes("one")
    job = submit(session, 4)
    turn(session)
    backend.news.on_value(1, Provisional(1, job.number, 0, 1, completion.payload.dump(7)), info)
    backend.news.on_ended_here(1, [job.number], CANCELLED, "cancelled")
    turn(session)
    assert told == [(CANCELLED, None)]
    assert session.loading == {}


def test_a_failure_says_why_and_is_counted() -> None:
    session, backend = played(double)
    backend.node_comes("one")
    job = submit(session, -1)
    turn(session)
    backend.run(session, double)
    turn(session)  # an exception is loaded on the thread for that
    assert (job.status, job.exception, job.result) == (TERMINATED, "ValueError: -1", None)
    assert isinstance(job.error, ValueError)
    assert (session.tally.failed, session.tally.unheard()) == (1, [])
    (shown,) = node_views.current(session)
    assert shown.jobs_failed == 1


def test_callbacks_come_in_the_order_of_events() -> None:
    told: list[tuple[Any, ...]] = []
    session, backend = played(
        double,
        job_status=lambda job: told.append((job.status, job.result)),
        cluster_status=lambda status, node, job: told.append((status, node and node.name, job and job.id)),
    )
    info = backend.node_comes("one")
    job = submit(session, 4, job_id="a")
    turn(session)
    value = Provisional(1, job.number, 0, 1, completion.payload.dump(7))
    backend.news.on_value(1, value, info)
    turn(session)
    backend.run(session, double)
    turn(session)
    assert told == [
        (DispyNode.Initialized, "one", None),
        (CREATED, None, "a"),
        (7, 7),
        (7, "one", "a"),
        (FINISHED, 8),
        (FINISHED, "one", "a"),
    ]


def test_a_cancelled_job_ends_whatever_comes_first() -> None:
    session, backend = played(double)
    info = backend.node_comes("one")
    waiting, late = submit(session, 1), submit(session, 2)
    turn(session)
    assert cancellation.cancel(session, [waiting]) == 0
    assert waiting.status == CANCELLED
    assert not waiting.finish.is_set(), "its end has not come"
    turn(session)
    assert waiting.finish.is_set()
    assert cancellation.cancel(session, waiting) == -1
    assert cancellation.cancel(session, late) == 0
    ended = Ended(late.number, 0, FINISHED, 1.0, 2.0, completion.payload.dump(4))
    backend.news.on_ended(1, [ended], info)  # the result was on its way
    turn(session)
    assert (late.status, late.result) == (FINISHED, 4)
    assert [what for what in backend.done if what[0] == "cancel"] == [("cancel", [waiting.number])]


def test_cancels_follow_the_jobs_that_they_are_about() -> None:
    session, backend = played(double)
    job = submit(session, 1)
    cancellation.cancel(session, job)
    turn(session)
    assert [what[0] for what in backend.done if what[0] in ("submit", "cancel")] == ["submit", "cancel"]


def test_a_pinned_job_does_not_pass_earlier_ones() -> None:
    session, backend = played(double)
    info = backend.node_comes("one")
    first = submit(session, 1)
    pinned = session.submit(session, 2, info.node, (2,), {})
    turn(session)
    assert [what[1:] for what in backend.done if what[0] == "submit"] == [
        ([first.number], None),
        ([pinned.number], info.node),
    ]


def test_ends_of_jobs_that_nobody_knows_are_dropped() -> None:
    session, backend = played(double)
    info = backend.node_comes("one")
    ended = Ended(77, 0, FINISHED, 1.0, 2.0, b"")
    backend.news.on_ended(1, [ended], info)
    backend.news.on_ended(2, [ended], info)
    assert session.tally.ended == 0


def test_a_map_sends_chunks_and_keeps_order() -> None:
    session, backend = played(double)
    backend.node_comes("one", cpus=2)

    class Program(ClusterMaps):
        _session = session

    results = Program().map(range(40))
    seen = []
    while len(seen) < 40:
        turn(session)
        if backend.waiting[1]:
            _run_chunks(session, backend)
        seen.append(next(results))
    assert seen == [2 * n for n in range(40)]
    results.close()  # type: ignore[attr-defined]
    assert (session.maps, session.jobs) == (set(), {})


def _run_chunks(session: Session, backend: PlayedBackend) -> None:
    """Have all chunks run that were sent."""
    jobs, backend.waiting[1] = backend.waiting[1], []
    ended = []
    for job in jobs:
        items = completion.payload.load_items(job.payload)
        data = completion.payload.dump([double(n) for n in items])
        ended.append(Ended(job.number, 0, FINISHED, 1.0, 1.01, data))
    backend.news.on_ended(session.number, ended, next(iter(backend.known.values())))


class Choosing(NodeAllocate):
    """An element of ``nodes`` of the user's own."""

    def __init__(self, answers: list[Any]) -> None:
        super().__init__("*")
        self.answers = answers
        self.asked: list[tuple[Any, ...]] = []

    def allocate(self, cluster: Any, ip_addr: str, name: str, cpus: int, *_: Any) -> Any:
        self.asked.append((cluster, name, cpus))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_allocate_of_the_user_is_not_called_on_the_loop() -> None:
    choosing = Choosing([2])
    session, backend = played(double, [choosing])
    backend.node_comes("one", cpus=4)
    assert choosing.asked == [], "it waits for its thread"
    turn(session)
    assert choosing.asked == [("the cluster", "one", 4)]
    assert ("allocate", b"one", 2) in backend.done


def test_an_allocate_that_fails_leaves_the_node_alone(caplog: pytest.LogCaptureFixture) -> None:
    choosing = Choosing([ValueError("no idea"), 0, 1])
    session, backend = played(double, [choosing])
    info = backend.node_comes("one")
    turn(session)
    job = submit(session, 1)
    turn(session)
    assert "one: allocate failed: ValueError: no idea" in explain.why(session, job)
    node_choice.allocate_more(session, [])
    turn(session)
    assert "allocate returned 0" in explain.why(session, job)
    node_orders.allocate(session, choosing)
    turn(session)
    assert ("allocate", info.node, 1) in backend.done
    assert session.faults.failures == {}


def test_a_node_that_was_given_up_stays_so_until_it_is_named() -> None:
    session, backend = played(double)
    info = backend.node_comes("one")
    assert node_orders.close(session, "one", False) == 0
    assert ("vacate", 1, info.node, False) in backend.done
    backend.done.clear()
    backend.news.on_offer(1, info)
    turn(session)
    assert not [what for what in backend.done if what[0] == "allocate"]
    assert node_orders.allocate(session, info.ip_addr) == 0
    turn(session)
    assert ("allocate", info.node, 1) in backend.done
    assert node_orders.deallocate(session, "another") == -1


def test_why_of_a_job_that_ends_while_it_is_asked_for() -> None:
    session, backend = played(double)
    backend.node_comes("one")
    job, stranger = submit(session, 1), submit(played(double)[0], 2)
    turn(session)
    ask = session.engine.call

    def ends_first(function: Any, *args: Any) -> Any:
        backend.run(session, double)
        turn(session)
        return ask(function, *args)

    session.engine.call = ends_first  # type: ignore[method-assign]
    assert explain.why(session, job) == "it has ended: Finished"
    session.engine.call = ask  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="is not a job of cluster"):
        explain.why(session, stranger)


def test_a_node_that_was_given_up_is_named_while_it_offers_no_cpus() -> None:
    session, backend = played(double)
    info = backend.node_comes("one", cpus=2)
    assert node_orders.deallocate(session, "one") == 0
    info.cpus = 0
    assert node_orders.allocate(session, "10.0.0.7") == 0
    info.cpus = 2
    backend.news.on_cpus(1, info)
    assert backend.done[-1] == ("discover", 1, []), "another node was named"
    info.cpus = 0
    assert node_orders.allocate(session, info.ip_addr) == 0
    info.cpus = 2
    backend.news.on_cpus(1, info)
    assert backend.done[-1] == ("allocate", info.node, 2)


def test_a_node_that_was_given_up_is_named_while_it_is_away() -> None:
    session, backend = played(double)
    info = backend.node_comes("one")
    assert node_orders.close(session, "one", False) == 0
    del backend.known[info.node], backend.used[1, info.node]
    backend.done.clear()
    assert node_orders.allocate(session, info.ip_addr) == 0
    backend.known[info.node] = info
    backend.news.on_offer(1, info)
    assert ("allocate", info.node, 1) in backend.done


def test_objects_are_freed_when_nobody_has_them() -> None:
    session, backend = played(double)
    backend.node_comes("one")
    ref = objects.put(session, [1, 2])
    number = ref.number
    job = submit(session, ref)
    del ref
    turn(session)
    assert not [what for what in backend.done if what[0] == "drop"], "a job needs it"
    backend.cancel(1, [job.number])
    turn(session)
    assert ("drop", 1, [number]) in backend.done
    assert session.objects == set()


def test_a_reference_of_another_cluster_is_refused() -> None:
    session, _ = played(double)
    other, _ = played(double)
    ref = objects.put(other, 1)
    with pytest.raises(UsageError, match="cannot be used in cluster double"):
        submit(session, ref)


def test_close_ends_what_is_left_and_refuses_more() -> None:
    session, backend = played(double)
    backend.node_comes("one")
    job = submit(session, 1)
    turn(session)
    assert shutdown.close(session, None, terminate=True) is True
    assert (job.status, job.exception) == (CANCELLED, "cancelled")
    with pytest.raises(UsageError, match="is closed"):
        submit(session, 2)
    assert shutdown.close(session, None, terminate=False) is None
    assert callbacks.wait_jobs(session, None)


def test_jobs_that_no_node_reports_are_given_up() -> None:
    session, _ = played(double)
    job = submit(session, 1)
    turn(session)
    completion.give_up_jobs(session)
    assert (job.status, job.exception) == (ABANDONED, "the cluster was closed")


def test_submit_waits_while_the_scheduler_is_full(caplog: pytest.LogCaptureFixture) -> None:
    session, backend = played(double)
    session.submit = submission.choose_way(True, False)
    backend.news.on_window(1, "scheduler s is full: 9 jobs wait")
    assert caplog.messages == ["submit of cluster double waits: scheduler s is full: 9 jobs wait"]
    made: list[DispyJob] = []
    thread = threading.Thread(target=lambda: made.append(submit(session, 1)))
    thread.start()
    while not session.room_waiters:
        thread.join(0.001)
    assert not made
    backend.news.on_window(1, "")
    thread.join(5)
    assert len(made) == 1
