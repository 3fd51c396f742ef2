"""Jobs draw different random numbers, wherever their generators come from; and the same ones again when asked to."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from .conftest import MakeCluster, RunProgram, StartNode

RNG = numpy.random.default_rng(1)
OLD = numpy.random.RandomState(1)
PLAIN = random.Random(1)

COUNT = 24


class Model:
    """A class that draws."""

    shared = random.Random(1)

    def __init__(self) -> None:
        self.rng = numpy.random.default_rng(1)

    def run(self, n: int) -> float:
        return float(self.rng.random())


MODEL = Model()
MANY = {"all": [numpy.random.default_rng(1)]}


def of_closure() -> Callable[[int], float]:
    hidden = numpy.random.default_rng(1)
    return lambda _: float(hidden.random())


def prepare() -> None:
    global MADE
    import numpy

    MADE = numpy.random.default_rng(1)


def of_setup(n: int) -> float:
    return float(MADE.random())  # type: ignore[name-defined]


def of_default(n: int, rng: Any = numpy.random.default_rng(1)) -> float:  # noqa: B008
    return float(rng.random())


def of_many(n: int) -> tuple[float, ...]:
    import numpy

    return (
        RNG.random(), OLD.normal(), PLAIN.random(), MODEL.rng.random(), Model.shared.random(),
        MANY["all"][0].random(), random.random(), numpy.random.rand(),
    )  # fmt: skip


WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "globals, attributes and containers": (of_many, {}),
    "closure": (of_closure(), {}),
    "default": (of_default, {}),
    "setup": (of_setup, {"setup": prepare}),
    "setup in each worker": (of_setup, {"setup": prepare, "setup_per": "worker"}),
    "attribute of a method's object": (MODEL.run, {}),
}


@pytest.mark.parametrize("isolate", [False, True], ids=["shared", "isolated"])
def test_no_two_jobs_draw_the_same(make_cluster: MakeCluster, start_node: StartNode, isolate: bool) -> None:
    start_node("--cpus", "2")
    for way, (function, options) in WAYS.items():
        if isolate and "setup_per" in options:
            continue  # is refused
        cluster = make_cluster(function, isolate=isolate, **options)
        results = [job() for job in [cluster.submit(n) for n in range(COUNT)]]
        cluster.close()
        assert None not in results, way
        columns = list(zip(*results, strict=True)) if function is of_many else [results]
        assert [len(set(column)) for column in columns] == [COUNT] * len(columns), way


def of_put(held: Any, n: int) -> float:
    return float(held["rng"].random())


@pytest.mark.parametrize("isolate", [False, True], ids=["shared", "isolated"])
def test_nor_with_an_object_that_was_put(
    make_cluster: MakeCluster, start_node: StartNode, isolate: bool, caplog: pytest.LogCaptureFixture
) -> None:
    start_node("--cpus", "2")
    cluster = make_cluster(of_put, isolate=isolate)
    held = cluster.put({"rng": numpy.random.default_rng(1)})
    results = {job() for job in [cluster.submit(held, n) for n in range(COUNT)]}
    assert len(results) == COUNT
    assert (
        "workers have a copy of random generators each, with a stream of its own: rng of a dict"
        in caplog.text
    )


def test_an_argument_is_used_as_it_is(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "2")
    cluster = make_cluster(lambda rng: float(rng.random()))
    expected = numpy.random.default_rng(7).random()
    assert [cluster.submit(numpy.random.default_rng(7))() for _ in range(3)] == [expected] * 3


def test_said_once_by_name(
    make_cluster: MakeCluster, start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "first", "second":
        start_node("--cpus", "1", "--name", name)
    cluster = make_cluster(of_many)
    jobs = [cluster.submit(n) for n in range(COUNT)]
    assert all(job() for job in jobs)
    said = [record.getMessage() for record in caplog.records if "random generators" in record.getMessage()]
    assert len(said) == 1
    for name in "RNG", "OLD", "PLAIN", "MODEL.rng", "MANY.all[0]":
        assert name in said[0] or "more" in said[0]
    assert "a stream of their own in each worker" in said[0]


def test_left_alone_if_asked_to(
    make_cluster: MakeCluster, start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    start_node("--cpus", "2")
    cluster = make_cluster(of_default, reseed=False, isolate=True)
    assert {job() for job in [cluster.submit(n) for n in range(5)]} == {
        float(numpy.random.default_rng(1).random())
    }
    assert "random generators" not in caplog.text


def seeds(n: int) -> tuple[int, float]:
    import numpy

    from dispy import job

    seed = dispy_job_seed()
    assert seed == dispy_job_seed() == job.job_seed()
    return seed, float(numpy.random.default_rng(seed).random())


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_seed_for_each_job_that_is_the_same_again(
    make_cluster: MakeCluster, start_node: StartNode, cpus: int
) -> None:
    start_node("--cpus", str(cpus))
    runs = []
    for _ in range(2):
        cluster = make_cluster(seeds, seed=42)
        runs.append([job() for job in [cluster.submit(n) for n in range(COUNT)]])
        cluster.close()
    assert runs[0] == runs[1]
    assert len({seed for seed, _ in runs[0]}) == COUNT
    other = make_cluster(seeds)
    assert isinstance(other.seed, int)
    assert other.submit(1)() not in runs[0]
    again = [make_cluster(seeds, seed=other.seed).submit(1)() for _ in range(2)]
    assert again[0] == again[1]


def test_isolated_jobs_draw_the_same_again(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "2")
    runs = []
    for _ in range(2):
        cluster = make_cluster(of_many, seed=42, isolate=True)
        runs.append([job() for job in [cluster.submit(n) for n in range(5)]])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 5


def test_items_of_a_map_have_seeds_of_their_own(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "2")
    runs = []
    for _ in range(2):
        cluster = make_cluster(seeds, seed=42)
        runs.append([list(cluster.map(range(500))), list(cluster.map(range(50), return_exceptions=True))])
    assert runs[0] == runs[1], "however items were packed"
    first, second = runs[0]
    assert len({seed for seed, _ in first + second}) == 550


def ask() -> None:
    dispy_job_seed()


def test_no_seed_outside_of_jobs(
    make_cluster: MakeCluster, start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster(lambda: 1, setup=ask)
    job = cluster.submit()
    assert job() is None
    assert "dispy_job_seed() is for jobs, and none is running here" in (job.exception or "")


@pytest.mark.parametrize("seed", [-1, True, "42", 1.5])
def test_seeds_that_cannot_be(make_cluster: MakeCluster, seed: Any) -> None:
    with pytest.raises(Exception, match="seed must be a number from 0"):
        make_cluster(seeds, seed=seed)


def test_a_module_of_the_users(run_program: RunProgram, start_node: StartNode, tmp_path: Path) -> None:
    start_node("--cpus", "2")
    (tmp_path / "drawing.py").write_text(
        "import numpy, random\nRNG = numpy.random.default_rng(5)\nPLAIN = random.Random(5)\n"
        "def draw(n):\n    return float(RNG.random()), PLAIN.random()\n"
    )
    program = run_program(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
        "import dispy, drawing\nfor isolate in False, True:\n"
        "    with dispy.JobCluster(drawing.draw, isolate=isolate) as cluster:\n"
        "        results = [job() for job in [cluster.submit(n) for n in range(20)]]\n"
        "        print([len(set(column)) for column in zip(*results)])\n"
    )
    assert program.wait(30) == 0, program.stderr
    assert program.stdout == "[20, 20]\n[20, 20]\n"
    assert "PLAIN (a global of drawing), RNG (a global of drawing)" in program.stderr


def test_a_module_that_jobs_import(run_program: RunProgram, start_node: StartNode, tmp_path: Path) -> None:
    """Generators with a fixed seed that are made while a job imports a module of the user's."""
    start_node("--cpus", "2")
    (tmp_path / "below.py").write_text("import random\nRNG = random.Random(5)\n")
    (tmp_path / "drawing.py").write_text(
        "import numpy\nfrom below import RNG as PLAIN\nRNG = numpy.random.default_rng(5)\n"
        "class Model:\n    rng = numpy.random.RandomState(5)\n"
    )
    program = run_program(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
        "import dispy\ndef draw(n):\n    import drawing\n"
        "    return float(drawing.RNG.random()), drawing.PLAIN.random(), drawing.Model.rng.rand()\n"
        "seeded = {'isolate': True, 'seed': 7}\n"
        "for options in {}, seeded, seeded, {'isolate': True, 'reseed': False}:\n"
        "    with dispy.JobCluster(draw, **options) as cluster:\n"
        "        results = [job.get() for job in [cluster.submit(n) for n in range(20)]]\n"
        "        print([len(set(column)) for column in zip(*results)], sum(sum(results, ())))\n"
    )
    assert program.wait(30) == 0, program.stderr
    plain, first, again, alone = program.stdout.splitlines()
    assert plain.startswith("[20, 20, 20]")
    assert first.startswith("[20, 20, 20]")
    assert first == again
    assert alone.startswith("[1, 1, 1]")


class Call:
    """An object that is called."""

    def __init__(self) -> None:
        self.rng = random.Random(1)

    def __call__(self, n: int) -> float:
        return self.rng.random()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (Call(), "rng of a Call"),
        (functools.partial(of_default, rng=numpy.random.default_rng(1)), "rng of a partial"),
    ],
)
def test_a_computation_that_is_an_object(
    make_cluster: MakeCluster,
    start_node: StartNode,
    caplog: pytest.LogCaptureFixture,
    function: Any,
    name: str,
) -> None:
    start_node("--cpus", "2")
    cluster = make_cluster(function)
    assert len({job.get() for job in [cluster.submit(n) for n in range(COUNT)]}) == COUNT
    assert f"in each worker: {name}" in caplog.text


def run(function: Callable[[int], float], n: int) -> float:
    return function(n)


def of_a_global(n: int) -> float:
    return float(RNG.random()) + PLAIN.random()


@pytest.mark.parametrize("isolate", [False, True], ids=["shared", "isolated"])
def test_globals_of_a_function_that_is_an_argument(
    make_cluster: MakeCluster, start_node: StartNode, isolate: bool
) -> None:
    start_node("--cpus", "2")
    drawn = []
    for _ in range(2):
        cluster = make_cluster(run, isolate=isolate, seed=42)
        results = [job.get() for job in [cluster.submit(of_a_global, n) for n in range(COUNT)]]
        results += cluster.map([of_a_global] * COUNT, range(COUNT))
        cluster.close()
        assert len(set(results)) == 2 * COUNT
        drawn.append(results[:COUNT])
    assert (drawn[0] == drawn[1]) is isolate


def test_isolated_jobs_and_maps_draw_different_numbers(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    start_node("--cpus", "2")
    cluster = make_cluster(of_many, isolate=True, seed=42)
    results = [job.get() for job in [cluster.submit(n) for n in range(COUNT)]]
    for _ in range(2):
        results += cluster.map(range(COUNT), chunksize=1)
    assert [len(set(column)) for column in zip(*results, strict=True)] == [3 * COUNT] * 8
