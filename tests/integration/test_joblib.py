"""joblib over a cluster: scikit-learn's numbers, arrays that are put, ends of all kinds. See also ``…_standard``."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy.client.session import objects
from dispy.errors import UsageError

from .conftest import RunProgram, StartNode
from .helpers import Node, Place, wait_for

joblib = pytest.importorskip("joblib", reason="joblib is not installed: pip install joblib")
numpy = pytest.importorskip("numpy")

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(autouse=True)
def _backend(a_node: Node) -> Iterator[None]:
    """The backend is registered; what it has put is let go of afterwards."""
    dispy.register_joblib()
    yield
    gc.collect()


def square(x: int) -> int:
    return x * x


def total(values: Any, number: int) -> float:
    return float(values.sum()) + number


def where() -> int:
    return os.getpid()


# Results.


def test_one_line_is_changed() -> None:
    """Calls are made in other processes; ``n_jobs`` may be left out; the cluster stays from one to the next."""
    with joblib.parallel_config(backend="dispy"):
        assert joblib.effective_n_jobs(-1) == 2
        first, second = (
            set(joblib.Parallel()(joblib.delayed(where)() for _ in range(50))) for _ in range(2)
        )
        assert joblib.Parallel(n_jobs=-1)(joblib.delayed(square)(x) for x in range(300)) == [
            x * x for x in range(300)
        ]
    assert os.getpid() not in first | second
    assert first & second


@pytest.mark.parametrize("kind", ["grid", "forest", "cross", "permutation"])
def test_the_numbers_of_scikit_learn(kind: str) -> None:
    """As one after another."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install scikit-learn")
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.inspection import permutation_importance
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, cross_val_score

    x, y = make_classification(300, 8, random_state=0)

    def work(jobs: int) -> Any:
        if kind == "grid":
            found = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0, 10.0]}, cv=3, n_jobs=jobs).fit(x, y)
            return found.best_params_, found.cv_results_["mean_test_score"].tolist()
        if kind == "forest":
            forest = RandomForestClassifier(12, random_state=1, n_jobs=jobs).fit(x, y)
            return forest.predict_proba(x).tolist()
        if kind == "cross":
            return cross_val_score(LogisticRegression(), x, y, cv=4, n_jobs=jobs).tolist()
        model = LogisticRegression().fit(x, y)
        return permutation_importance(model, x, y, random_state=2, n_jobs=jobs).importances.tolist()

    expected = work(1)
    with joblib.parallel_config(backend="dispy", n_jobs=2):
        assert work(2) == expected


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_two_generators_at_once(return_as: str) -> None:
    """Of one block: the end of one does not end the other."""
    with joblib.parallel_config(backend="dispy", n_jobs=2):
        first = joblib.Parallel(return_as=return_as)(joblib.delayed(square)(x) for x in range(40))
        second = joblib.Parallel(return_as=return_as)(joblib.delayed(square)(x) for x in range(40))
        assert sorted(second) == sorted(first) == [x * x for x in range(40)]


def test_no_more_run_than_n_jobs(start_node: StartNode, tmp_path: Path) -> None:
    """Although there are more CPUs, and more batches to send."""
    start_node("--cpus", "2")
    marks = tmp_path / "marks"
    marks.mkdir()

    def marked(number: int) -> int:
        mark = marks / f"{number}"
        mark.touch()
        time.sleep(0.01)
        there = len(list(marks.iterdir()))
        mark.unlink()
        return there

    with joblib.parallel_config(backend="dispy"):
        wait_for(lambda: joblib.effective_n_jobs(-1) == 4, what="four CPUs")
        calls = [joblib.delayed(marked)(number) for number in range(40)]
        assert max(joblib.Parallel(n_jobs=2, pre_dispatch="all", batch_size=1)(calls)) == 2
        assert max(joblib.Parallel(n_jobs=-1, pre_dispatch="all", batch_size=1)(calls)) > 2


# Arguments.


def test_a_large_array_is_put_once_and_changes_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it comes again in one call of ``Parallel``; the next call sends it as it is then."""
    puts: list[Any] = []
    put = objects.put
    monkeypatch.setattr(objects, "put", lambda *args: puts.append(args[1]) or put(*args))
    values = numpy.ones(300_000)
    with joblib.parallel_config(backend="dispy", n_jobs=2):
        for factor in (1, 2, 3):
            values[:] = factor
            found = joblib.Parallel(batch_size=1)(joblib.delayed(total)(values, n) for n in range(12))
            assert found == [factor * 300_000 + n for n in range(12)]
            assert len(puts) == factor
        own = (joblib.delayed(total)(numpy.full(300_000, n), n) for n in range(6))
        assert joblib.Parallel(batch_size=1)(own) == [n * 300_001 for n in range(6)]
        assert len(puts) == 3, "arrays that come once are not put"
        joblib.Parallel(max_nbytes=None)(joblib.delayed(total)(values, n) for n in range(6))
        assert len(puts) == 3


# Threads of libraries, and what begins workers.


def test_threads_of_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """One, unless the program says otherwise: by a parameter, or by its environment."""
    pools = pytest.importorskip("threadpoolctl")

    def threads() -> set[int]:
        import numpy  # noqa: F401

        return {pool["num_threads"] for pool in pools.threadpool_info()}

    def found(**parameters: Any) -> set[int]:
        with joblib.parallel_config(backend="dispy", n_jobs=2, **parameters):
            return set().union(*joblib.Parallel()(joblib.delayed(threads)() for _ in range(2)))

    assert found() == {1}
    assert found(inner_max_num_threads=2) == {2}
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    assert found() == {2}


def test_an_initializer() -> None:
    """Of the block, or of one ``Parallel``; the variables for threads are there beside it."""

    def begin(value: str) -> None:
        os.environ["BEGUN"] = value

    def look() -> tuple[str | None, str | None]:
        return os.environ.get("BEGUN"), os.environ.get("OMP_NUM_THREADS")

    with joblib.parallel_config(backend="dispy", n_jobs=2, initializer=begin, initargs=("block",)):
        assert set(joblib.Parallel()(joblib.delayed(look)() for _ in range(9))) == {("block", "1")}
    calls = [joblib.delayed(look)() for _ in range(9)]
    parallel = joblib.Parallel(n_jobs=2, backend="dispy", initializer=begin, initargs=("one",))
    assert set(parallel(calls)) == {("one", "1")}


def test_nested_calls_are_sequential() -> None:
    """In the worker, whatever they ask for."""

    def outer(backend: str | None) -> set[int]:
        return set(joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(where)() for _ in range(4)))

    with joblib.parallel_config(backend="dispy", n_jobs=2):
        for inner in joblib.Parallel()(joblib.delayed(outer)(name) for name in (None, "dispy")):
            assert len(inner) == 1
            assert os.getpid() not in inner


# Ends.


def test_errors(a_node: Node) -> None:
    """That of a call, with its traceback; what cannot be sent; the cluster is there for the next one."""

    def fails(x: int) -> float:
        return 1 / x

    with joblib.parallel_config(backend="dispy", n_jobs=2):
        with pytest.raises(ZeroDivisionError) as caught:
            joblib.Parallel()(joblib.delayed(fails)(x) for x in (1, 0, 2))
        assert "return 1 / x" in str(caught.value.__cause__)
        with pytest.raises(dispy.DispyError, match="lock"):
            joblib.Parallel()(joblib.delayed(square)(threading.Lock()) for _ in range(3))
        with pytest.raises(multiprocessing.TimeoutError):
            joblib.Parallel(timeout=0.1)(joblib.delayed(time.sleep)(20) for _ in range(3))
        assert joblib.Parallel()(joblib.delayed(square)(x) for x in (1, 2)) == [1, 4]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"max_workers": 2}, "n_jobs"),
        ({"nodes": 7}, "nodes"),
        ({"setup": square, "inner_max_num_threads": 2}, "OMP_NUM_THREADS"),
    ],
)
def test_what_cannot_be(parameters: dict[str, Any], text: str) -> None:
    with (
        pytest.raises(UsageError, match=text),
        joblib.parallel_config(backend="dispy", n_jobs=2, **parameters),
    ):
        joblib.Parallel()(joblib.delayed(square)(x) for x in range(2))


def test_a_node_is_killed_in_the_middle(place: Place, start_node: StartNode) -> None:
    """All results are there if calls may run again: those of the dead node run on the other."""
    place.is_swept = True
    nodes = [start_node("--cpus", "2") for _ in range(2)]
    places = [("127.0.0.1", node.port) for node in nodes]
    done = 0
    results = []
    with joblib.parallel_config(
        backend="dispy", n_jobs=4, nodes=places, reentrant=True, pulse_interval=0.2
    ):
        parallel = joblib.Parallel(return_as="generator", batch_size=1)
        for result in parallel(joblib.delayed(slow_square)(x) for x in range(60)):
            results.append(result)
            done += 1
            if done == 5:
                nodes[0].process.kill()
    assert results == [x * x for x in range(60)]


def slow_square(x: int) -> int:
    time.sleep(0.02)
    return x * x


INTERRUPTED = """
import joblib, os, signal, threading, time, dispy

def interrupt():
    while not os.path.exists({begun!r}):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

def slow(x, path):
    open(path, "a").close()
    time.sleep(30)

dispy.register_joblib()
threading.Thread(target=interrupt).start()
with joblib.parallel_config(backend="dispy", n_jobs=2):
    try:
        joblib.Parallel()(joblib.delayed(slow)(x, {begun!r}) for x in range(9))
    except KeyboardInterrupt:
        print("interrupted")
    print(joblib.Parallel()(joblib.delayed(abs)(x) for x in (-1, -2)))
"""


def test_ctrl_c_in_the_middle(run_program: RunProgram, tmp_path: Path) -> None:
    """Ends what runs, and the cluster takes other calls at once."""
    program = run_program(INTERRUPTED.format(begun=str(tmp_path / "begun")))
    assert program.wait(15) == 0, program.stderr
    assert program.stdout.split("\n")[:2] == ["interrupted", "[1, 2]"]


def test_nothing_is_left(a_node: Node) -> None:
    """When the block is left, the cluster is closed: no process of it stays on the node."""
    with joblib.parallel_config(backend="dispy", n_jobs=2):
        pids = set(joblib.Parallel()(joblib.delayed(where)() for _ in range(20)))
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), what="the workers are gone")
