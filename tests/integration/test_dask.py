"""Graphs of Dask over ``dispy.Executor``: equal to those that Dask computes itself, with its errors and callbacks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

import dispy

from .helpers import Node

dask = pytest.importorskip("dask", reason="Dask is not installed: pip install 'dask[array,bag,dataframe]'")


@pytest.fixture
def pool(a_node: Node) -> Iterator[dispy.Executor]:
    """An executor that is shut down after the test."""
    with dispy.Executor() as executor:
        yield executor
        executor.shutdown(cancel_futures=True)


def test_it_knows_how_many_cpus_there_are(pool: dispy.Executor) -> None:
    """Dask asks once, at the beginning, and keeps no more tasks on their way than that."""
    assert pool._max_workers == 2


def _array() -> Any:
    array = pytest.importorskip("dask.array")
    values = array.random.default_rng(1).random((200, 200), chunks=(50, 50))
    return (values @ values + values.T).sum(axis=0)


def _bag() -> Any:
    bag = pytest.importorskip("dask.bag")
    numbers = bag.from_sequence(range(1000), npartitions=7)
    return numbers.map(lambda x: x * 2).filter(lambda x: x % 3 == 0).frequencies()


def _delayed() -> Any:
    steps = [dask.delayed(lambda x: x + 1)(number) for number in range(20)]
    return dask.delayed(sum)(steps)


def _frame() -> Any:
    frame = pytest.importorskip("dask.dataframe")
    pandas = pytest.importorskip("pandas")
    plain = pandas.DataFrame({"a": range(1000), "group": [number % 7 for number in range(1000)]})
    return frame.from_pandas(plain, npartitions=5).groupby("group").a.mean()


@pytest.mark.parametrize("make", [_array, _bag, _delayed, _frame])
def test_the_same_as_by_dask_itself(pool: dispy.Executor, make: Any) -> None:
    """Array, bag, delayed functions, frame."""
    graph = make()
    expected = graph.compute(scheduler="sync")
    found = graph.compute(scheduler=pool)
    assert type(found) is type(expected)
    assert list(found) == list(expected) if hasattr(found, "__iter__") else found == expected


def test_tasks_run_on_nodes(pool: dispy.Executor) -> None:
    """By the default scheduler of a block, too; lambdas, closures and functions of the script travel."""
    offset = 10

    def shifted(x: int) -> tuple[int, int]:
        return x + offset, os.getpid()

    with dask.config.set(scheduler=pool):
        found = dask.compute([dask.delayed(shifted)(number) for number in range(30)])[0]
    assert [value for value, _ in found] == list(range(10, 40))
    assert os.getpid() not in {pid for _, pid in found}


def test_errors(pool: dispy.Executor) -> None:
    """That of the task, with its line on the node; other graphs go on."""

    def fails(x: int) -> float:
        return 1 / x

    with pytest.raises(ZeroDivisionError) as caught:
        dask.compute(dask.delayed(fails)(0), scheduler=pool)
    assert "return 1 / x" in str(caught.value.__cause__)
    assert dask.compute(dask.delayed(fails)(2), scheduler=pool) == (0.5,)


def test_callbacks(pool: dispy.Executor, capsys: pytest.CaptureFixture[str]) -> None:
    """A progress bar, and one's own for each task."""
    from dask.callbacks import Callback
    from dask.diagnostics import ProgressBar

    ended: list[Any] = []
    graph = [dask.delayed(abs)(number) for number in range(9)]
    with ProgressBar(), Callback(posttask=lambda key, *_: ended.append(key)):
        dask.compute(graph, scheduler=pool)
    assert len(ended) >= 9
    assert "100% Completed" in capsys.readouterr().out
