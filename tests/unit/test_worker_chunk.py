"""A chunk in its worker."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dispy import payload
from dispy.worker.chunk import Chunk


def never() -> bool:
    return False


def test_runs_all_items() -> None:
    chunk = Chunk(list(range(1000)), False, 10.0)
    assert chunk.run(lambda item: item + 1, never)
    assert chunk.results == list(range(1, 1001))
    chunk = Chunk([(1, 2), (3, 4)], True, 10.0)
    assert chunk.run(lambda left, right: left * right, never)
    assert chunk.results == [2, 12]


@pytest.mark.parametrize("error", [ValueError, StopIteration, KeyboardInterrupt])
def test_keeps_results_before_a_failure(error: type[BaseException]) -> None:
    def fail(item: int) -> int:
        if item == 77:
            raise error
        return item

    chunk = Chunk(list(range(100)), False, 10.0)
    with pytest.raises(error):
        chunk.run(fail, never)
    assert chunk.results == list(range(77))


def test_stops_when_it_takes_long_or_is_cancelled() -> None:
    chunk = Chunk(list(range(1000)), False, 0.0)
    assert not chunk.run(lambda item: item, never)
    assert chunk.results == [0]
    assert Chunk([1], False, 0.0).run(lambda item: item, never)
    chunk = Chunk(list(range(1000)), False, 10.0)
    assert not chunk.run(lambda item: item, lambda: len(chunk.results) > 100)
    assert 100 < len(chunk.results) < 140


def test_is_cut_at_what_cannot_be_sent() -> None:
    lock = threading.Lock()
    chunk = Chunk([1, 2, lock, 4], False, 10.0)
    chunk.run(lambda item: item, never)
    assert chunk.cut_at_unsendable() is lock
    assert chunk.results == [1, 2]


def test_payloads_of_chunks() -> None:
    items: list[Any] = [1, "two", (3,), None]
    data = payload.dump_chunk(items, False, 0.5)
    assert payload.load_call(data) == (items, False, None, 0.5)
    assert len(payload.load_call(data)) == payload.CHUNK_PARTS
    assert payload.load_items(data) == items
    assert payload.load_failure(payload.dump_failure([1], b"error")) == ([1], b"error")
    assert payload.load_failure(payload.dump(ValueError("x"))) is None
    assert payload.find_unsendable(items, 0) is None
    found = payload.find_unsendable([1, threading.Lock()], 10)
    assert found is not None
    assert found[0] == 1
    assert "item 11 " in str(found[1])
