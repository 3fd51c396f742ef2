"""A chunk in its worker."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dispy import payload
from dispy.errors import PicklingError
from dispy.worker.map_chunk import Chunk

PLAIN = (False, False, None, 1)
STARRED = (True, False, None, 1)
KEPT = (False, True, None, 1)


def never() -> bool:
    return False


def test_runs_all_items() -> None:
    chunk = Chunk(list(range(1000)), PLAIN, 10.0, 0)
    assert chunk.run(lambda item: item + 1, never)
    assert chunk.results == list(range(1, 1001))
    chunk = Chunk([(1, 2), (3, 4)], STARRED, 10.0, 0)
    assert chunk.run(lambda left, right: left * right, never)
    assert chunk.results == [2, 12]


@pytest.mark.parametrize("error", [ValueError, StopIteration, KeyboardInterrupt])
def test_keeps_results_before_a_failure(error: type[BaseException]) -> None:
    def fail(item: int) -> int:
        if item == 77:
            raise error
        return item

    chunk = Chunk(list(range(100)), PLAIN, 10.0, 0)
    with pytest.raises(error):
        chunk.run(fail, never)
    assert chunk.results == list(range(77))


def test_stops_when_it_takes_long_or_is_cancelled() -> None:
    chunk = Chunk(list(range(1000)), PLAIN, 0.0, 0)
    assert not chunk.run(lambda item: item, never)
    assert chunk.results == [0]
    assert Chunk([1], PLAIN, 0.0, 0).run(lambda item: item, never)
    chunk = Chunk(list(range(1000)), PLAIN, 10.0, 0)
    assert not chunk.run(lambda item: item, lambda: len(chunk.results) > 100)
    assert 100 < len(chunk.results) < 140


def test_is_cut_at_what_cannot_be_sent() -> None:
    lock = threading.Lock()
    chunk = Chunk([1, 2, lock, 4], PLAIN, 10.0, 0)
    chunk.run(lambda item: item, never)
    assert chunk.cut_at_unsendable() is lock
    assert chunk.results == [1, 2]


def test_constants_go_to_every_call() -> None:
    chunk = Chunk([1, 2], (False, False, {"by": 10}, 1), 10.0, 0)
    assert chunk.run(lambda item, by: item * by, never)
    assert chunk.results == [10, 20]


@pytest.mark.parametrize("error", [ValueError, StopIteration, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_errors_stay_in_their_places(error: type[BaseException]) -> None:
    def fail(item: int) -> int:
        if item % 10 == 7:
            raise error("this one")
        return item

    chunk = Chunk(list(range(100)), KEPT, 10.0, 0)
    assert chunk.run(fail, never)
    assert [item for item in chunk.results if type(item) is int] == [n for n in range(100) if n % 10 != 7]
    failed = chunk.results[37]
    assert type(failed) is payload.ItemFailed
    assert (failed.item, "worker/map_chunk.py" in failed.text) == ("37", False)
    assert "in fail" in failed.text
    raised = payload.load_exception(failed.error, failed.text)
    assert (type(raised), str(raised)) == (error, "this one")


def test_an_interrupt_of_the_program_is_no_items_error() -> None:
    def fail(item: int) -> int:
        raise KeyboardInterrupt

    chunk = Chunk([1, 2], KEPT, 10.0, 0)
    with pytest.raises(KeyboardInterrupt):
        chunk.run(fail, lambda: True)
    assert chunk.results == []


def test_errors_that_cannot_be_pickled_and_items_that_cannot_be_shown() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise OSError("no")

    class Odd(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(one, two)
            self.held = threading.Lock()

    def fail(item: Any) -> None:
        raise Odd(1, 2)

    chunk = Chunk([Shy()], KEPT, 10.0, 0)
    assert chunk.run(fail, never)
    assert chunk.results[0].error == b""
    assert "Odd: (1, 2)" in chunk.results[0].text
    assert "Shy" in chunk.results[0].item


@pytest.mark.parametrize("is_whole", [True, False])
def test_results_that_cannot_be_sent_are_errors_in_their_places(is_whole: bool) -> None:
    lock = threading.Lock()
    chunk = Chunk([1, lock, 3, lock, 5], KEPT, 10.0, 0)
    chunk.run(lambda item: item, (lambda: False) if is_whole else lambda: len(chunk.results) > 1)
    chunk.cut_at_unsendable()
    kinds = [type(result) for result in chunk.results]
    expected = [int, payload.ItemFailed, int, payload.ItemFailed, int]
    assert kinds == (expected if is_whole else [*expected[: len(kinds) - 1], payload.Rest])
    results, _ = payload.load_failure(payload.dump_failure(chunk.results, b"")) or ([], b"")
    error = payload.load_exception(results[1].error, "")
    assert type(error) is PicklingError
    assert "result (of type _thread.lock)" in str(error)


def test_payloads_of_chunks() -> None:
    items: list[Any] = [1, "two", (3,), None]
    data = payload.dump_chunk(items, PLAIN, 0.5, 7)
    assert payload.load_call(data) == (items, PLAIN, None, (0.5, 7))
    assert len(payload.load_call(data)) == payload.CHUNK_PARTS
    assert payload.load_items(data) == items
    assert payload.load_failure(payload.dump_failure([1], b"error")) == ([1], b"error")
    assert payload.load_failure(payload.dump(ValueError("x"))) is None
    assert payload.find_unsendable(items, 0) is None
    found = payload.find_unsendable([1, threading.Lock()], 10)
    assert found is not None
    assert found[0] == 1
    assert "item 11 " in str(found[1])
