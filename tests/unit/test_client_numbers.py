"""Each cluster numbers its jobs for itself, without gaps; ids and seeds keep their promises."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from dispy import payload
from dispy.client.job import CANCELLED, CREATED, FINISHED, RUNNING, DispyJob
from dispy.client.job_numbers import Numbers
from dispy.client.map.entry import ClusterMaps
from dispy.client.session import cancellation, completion, objects
from dispy.client.session.state import Session
from dispy.errors import PicklingError, UsageError
from dispy.protocol.limits import CHUNK_NUMBERS_FROM
from dispy.protocol.node import Ended, Provisional, Started
from dispy.worker.results import ids_of
from tests.played_backend import PlayedBackend, played


def double(n: int) -> int:
    return 2 * n


def submit(session: Session, *args: Any, job_id: Any = None) -> DispyJob:
    return session.submit(session, next(DispyJob.id_iter) if job_id is None else job_id, None, args, {})


def turn(session: Session) -> None:
    threads: Any = session.engine
    threads.turn()


@pytest.fixture
def two() -> tuple[Session, Session, PlayedBackend]:
    """Two clusters of one program, with a node."""
    first, backend = played(double)
    second, _ = played(double, beside=first)
    backend.node_comes("one", cpus=4)
    return first, second, backend


def test_clusters_number_their_jobs_for_themselves(two: tuple[Session, Session, PlayedBackend]) -> None:
    first, second, backend = two
    jobs = [submit(session, n) for n, session in enumerate([first, second, second, first, second])]
    assert [job.number for job in jobs] == [1, 1, 2, 2, 3]
    assert len({job.id for job in jobs}) == 5, "ids are unique in the program"
    turn(first)
    for session in (second, first):
        backend.run(session, double)
    assert [job() for job in jobs] == [0, 2, 4, 6, 8]


def test_an_id_that_is_not_the_number_travels(two: tuple[Session, Session, PlayedBackend]) -> None:
    """The worker tells it with the result, for a program that recovers it; a number needs no words."""
    first, second, backend = two
    submit(first, 1, job_id=1)
    other = submit(second, 1, job_id=2)
    turn(first)
    plain, given = (payload.load_call(backend.waiting[n][0].payload) for n in (1, 2))
    assert len(plain) == 1
    assert given[2] == other.id == 2
    for value in (2, -(1 << 80), True, "x"):
        assert payload.load(ids_of(((1,), {}, value), 1)[1]) == value
    assert ids_of(((1,), {}, 1 << 9000), 1) == (1 << 9000, b""), "too large to travel twice"


def test_a_job_that_cannot_be_sent_leaves_no_gap(two: tuple[Session, Session, PlayedBackend]) -> None:
    session, other, _ = two
    alien = objects.put(other, 5)
    assert submit(session, 1).number == 1
    for _ in range(3):
        with pytest.raises(PicklingError):
            submit(session, threading.Lock())
        with pytest.raises(UsageError):
            submit(session, alien)
    assert [submit(session, n).number for n in range(3)] == [2, 3, 4]
    assert session.held == {}


def test_numbers_given_back_go_to_one_job_each() -> None:
    """Threads take, and give back, as they like: at the end there are no gaps and no number was given twice."""
    numbers = Numbers()
    kept: list[int] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(2000):
            number = numbers.take() if numbers.returned else next(numbers.jobs)
            if chance.random() < 0.3:
                numbers.returned.append(number)
            else:
                kept.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(kept + numbers.returned) == list(range(1, next(numbers.jobs)))
    assert len(numbers.returned) < 100


def test_chunks_of_maps_have_numbers_of_their_own(two: tuple[Session, Session, PlayedBackend]) -> None:
    first, second, _ = two
    running = []
    for session in (first, second):
        maps = ClusterMaps()
        maps._session = session
        running.append(maps.map(range(3), chunksize=1))
    found = [
        [number for number in session.jobs if number >= CHUNK_NUMBERS_FROM] for session in (first, second)
    ]
    assert found == [[CHUNK_NUMBERS_FROM + n for n in range(len(found[0]))]] * 2
    assert found[0]
    assert [submit(session, 1).number for session in (first, second)] == [1, 1]
    for each in running:
        each.close()  # type: ignore[attr-defined]


def test_news_reach_the_cluster_that_they_are_about(two: tuple[Session, Session, PlayedBackend]) -> None:
    first, second, backend = two
    info = next(iter(backend.known.values()))
    a, b = submit(first, 1), submit(second, 2)
    assert a.number == b.number
    turn(first)
    backend.news.on_started(2, [Started(b.number, 0, 5.0)], info)
    assert (a.status, b.status) == (CREATED, RUNNING)
    value = Provisional(2, b.number, 0, 1, completion.payload.dump(7))
    backend.news.on_value(2, value, info)
    turn(first)
    assert (a.result, b.result) == (None, 7)
    assert cancellation.cancel(second, a) != 0, "no job of this cluster"
    assert cancellation.cancel(first, a) == 0
    turn(first)
    assert (a.status, b.result) == (CANCELLED, 7)
    end = Ended(b.number, 0, FINISHED, 1.0, 2.0, completion.payload.dump(8))
    backend.news.on_ended(2, [end], info)
    turn(second)
    assert b.status == FINISHED
    assert b() == 8
    backend.news.on_ended(1, [end], info)
    assert a.status == CANCELLED
