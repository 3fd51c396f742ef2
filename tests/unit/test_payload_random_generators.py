"""Random generators are found wherever they hide, named, and given other streams in place."""

from __future__ import annotations

import gc
import pickle
import random
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest

from dispy.payload import random_generators
from dispy.payload.random_generators import Shared, describe, found, held_by, reseed, seed_of

NAME = "dispy_test_generators_of_a_user"


class Sub(random.Random):
    """A class of the user's."""


class Own(random.Random):
    """A generator with an algorithm and a state of its own."""

    state = 5

    def random(self) -> float:
        self.state = self.state * 48271 % 2147483647
        return self.state / 2147483647

    def seed(self, a: Any = None, version: int = 2) -> None:
        self.state = hash(a) % 2147483646 + 1

    def getstate(self) -> Any:
        raise NotImplementedError


class Holder:
    """Anything with an attribute."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Slotted:
    """Anything with a slot."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def close_over(value: Any) -> Callable[[], Any]:
    def inner() -> Any:
        return value

    return inner


def with_default(value: Any) -> Callable[[], Any]:
    def function(given: Any = value) -> Any:
        return given

    return function


def with_named_default(value: Any) -> Callable[[], Any]:
    def function(*, given: Any = value) -> Any:
        return given

    return function


MAKERS: dict[str, Callable[[], Any]] = {
    "default_rng": lambda: numpy.random.default_rng(1),
    "mt19937": lambda: numpy.random.Generator(numpy.random.MT19937(1)),
    "philox": lambda: numpy.random.Generator(numpy.random.Philox(1)),
    "sfc64": lambda: numpy.random.Generator(numpy.random.SFC64(1)),
    "dxsm": lambda: numpy.random.Generator(numpy.random.PCG64DXSM(1)),
    "RandomState": lambda: numpy.random.RandomState(1),
    "RandomState of another": lambda: numpy.random.RandomState(numpy.random.PCG64(1)),
    "random.Random": lambda: random.Random(1),
    "subclass": lambda: Sub(1),
    "own algorithm": lambda: Own(1),
}


def draw(generator: Any) -> float:
    return float(generator.random())


@pytest.mark.parametrize("kind", MAKERS)
def test_each_kind_is_found_and_has_another_stream_for_each_key(kind: str) -> None:
    generator = MAKERS[kind]()
    before = pickle.dumps(generator) if kind != "own algorithm" else b""
    drawn = {draw(generator)}
    for number in range(3):
        ours = held_by([generator])
        assert ours
        assert {id(item) for item in ours} <= {id(item) for item in found()}
        reseed(ours, b"key %d" % number)
        drawn.add(draw(generator))
    assert len(drawn) == 4
    if before:
        values = set()
        for _ in range(2):
            again = pickle.loads(before)
            reseed(held_by([again]), b"key")
            values.add(draw(again))
        assert len(values) == 1, "the same state and key give the same stream"


HIDING: dict[str, tuple[Callable[[Any], Any], str]] = {
    "global": (lambda value: value, "it"),
    "list": (lambda value: [[value]], "it[0][0]"),
    "dict": (lambda value: {"key": value}, "it.key"),
    "tuple": (lambda value: (1, value), "it[1]"),
    "attribute": (Holder, "it.value"),
    "slot": (Slotted, "it"),
    "attribute of an attribute": (lambda value: Holder(Holder(value)), "it.value.value"),
    "closure": (close_over, "value of close_over.<locals>.inner"),
    "default": (with_default, "given of with_default.<locals>.function"),
    "named default": (with_named_default, "given of with_named_default.<locals>.function"),
    "class attribute": (lambda value: type("Model", (), {"rng": value}), "rng of Model"),
}


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    """A module of the user's."""
    made = types.ModuleType(NAME)
    sys.modules[NAME] = made
    yield made
    del sys.modules[NAME]


@pytest.mark.parametrize("hiding", HIDING)
@pytest.mark.parametrize("kind", ["default_rng", "RandomState", "random.Random"])
def test_named_wherever_it_is(module: types.ModuleType, kind: str, hiding: str) -> None:
    generator = MAKERS[kind]()
    wrap, path = HIDING[hiding]
    vars(module)["it"] = wrap(generator)
    ours = held_by([generator])
    expected = path if " of " in path else f"{path} (a global of {NAME})"
    assert describe(ours) == expected


def in_array(value: Any) -> Any:
    array = numpy.empty((2, 2), object)
    array[1, 1] = value
    return array


ARRAYS: dict[str, Callable[[Any], Any]] = {
    "array": in_array,
    "array of arrays": lambda value: in_array(in_array(value)),
    "array of records": lambda value: numpy.array([(1, value)], [("n", int), ("rng", object)]),
    "part of an array": lambda value: in_array(value)[1:, ::-1],
    "array of an object": lambda value: Holder({"a": in_array(value)}),
}


def test_found_in_dictionaries_that_are_not_tracked() -> None:
    value = {"a": {"b": (in_array(random.Random(1)), 1)}}
    gc.collect()
    assert held_by(value)


@pytest.mark.parametrize("hiding", ARRAYS)
@pytest.mark.parametrize("kind", ["default_rng", "RandomState", "random.Random"])
def test_found_in_arrays_too(kind: str, hiding: str, caplog: pytest.LogCaptureFixture) -> None:
    value = ARRAYS[hiding](MAKERS[kind]())
    assert held_by(value)
    random_generators.shared(value, "jobs")
    assert "a stream of its own: in a " in caplog.text


def test_found_in_pandas_objects() -> None:
    pandas = pytest.importorskip("pandas")
    assert held_by(pandas.Series([random.Random(1)], dtype=object))
    assert held_by(pandas.DataFrame({"rng": [random.Random(1)]}))


def test_a_generator_that_is_the_value_itself(caplog: pytest.LogCaptureFixture) -> None:
    random_generators.shared(numpy.random.default_rng(1), "jobs")
    assert "a stream of its own: a Generator" in caplog.text


def test_found_in_functions_and_classes_of_one_module(module: types.ModuleType) -> None:
    code = (
        "import random\nclass Model:\n    rng = random.Random(1)\n"
        "def draw(rng=random.Random(2)): ...\ndef other(rng=random.Random(3)): ...\nother.__module__ = 'other'\n"
    )
    exec(code, vars(module))
    assert len(held_by(vars(module), NAME)) == 2
    assert held_by(vars(module)) == []


def test_what_belongs_to_a_thread_has_a_plain_name(module: types.ModuleType) -> None:
    local = threading.local()
    local.rng = random.Random(1)
    vars(module)["local"] = local
    assert describe([local.rng]) == f"local.rng (a global of {NAME})"


def test_generators_of_libraries_are_not_named() -> None:
    code = (
        "import numpy.random\nfrom dispy.payload.random_generators import describe, held_by\n"
        "print(repr(describe(held_by([numpy.random.mtrand._rand]))))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    assert said == "''\n"


def test_those_that_libraries_share_are_left_to_others() -> None:
    ids = {id(item) for item in found()}
    assert id(random._inst) not in ids  # type: ignore[attr-defined]
    assert id(numpy.random.mtrand._rand._bit_generator) not in ids


def test_more_than_a_few_are_counted(module: types.ModuleType) -> None:
    made = [random.Random(number) for number in range(8)]
    vars(module).update({f"rng{number}": item for number, item in enumerate(made)})
    assert describe(made).endswith(", 3 more")


def test_a_number_that_is_kept_for_the_next_call_is_forgotten() -> None:
    generator = numpy.random.RandomState(1)
    generator.normal()  # makes two
    drawn = set()
    for number in range(2):
        reseed(held_by([generator]), b"%d" % number)
        drawn.add(generator.normal())
        generator.normal()
    assert len(drawn) == 2


def test_what_is_spawned_differs_too() -> None:
    spawned = set()
    for key in (b"1", b"2"):
        generator = numpy.random.default_rng(1)
        reseed(held_by([generator]), key)
        spawned.add(generator.spawn(1)[0].random())
    assert len(spawned) == 2


def test_generators_that_share_a_source_still_do() -> None:
    source = numpy.random.PCG64(1)
    first, second = numpy.random.Generator(source), numpy.random.Generator(source)
    reseed(held_by([first, second]), b"key")
    assert first.random() != second.random()
    assert first.bit_generator is second.bit_generator


def test_equal_generators_stay_equal() -> None:
    first, second = numpy.random.default_rng(1), numpy.random.default_rng(1)
    reseed(held_by([first, second]), b"key")
    assert first.random() == second.random()


def test_the_systems_own_is_left_alone() -> None:
    assert held_by([random.SystemRandom()]) == []


def test_a_shared_value_has_another_stream_wherever_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = iter(range(10))
    monkeypatch.setattr(random_generators, "key_here", lambda: b"%d" % next(keys))
    value = {"rng": numpy.random.default_rng(1), "data": [1, 2]}
    data = pickle.dumps(Shared(value))
    first, second = pickle.loads(data), pickle.loads(data)
    assert first["data"] == [1, 2]
    assert first["rng"].random() != second["rng"].random()
    assert value["rng"].random() == numpy.random.default_rng(1).random()


def test_values_without_generators_are_not_wrapped() -> None:
    value = {"data": list(range(10))}
    assert random_generators.shared(value, "jobs") is value


def test_seeds_of_jobs() -> None:
    seeds = [seed_of(42, index) for index in range(200_000)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 32 for seed in seeds)
    assert seeds[0] == seed_of(42, 0)
    assert not set(seeds[:1000]) & {seed_of(43, index) for index in range(1000)}
    assert not set(seeds[:1000]) & {seed_of(42, index, 1) for index in range(1000)}
    for library in (numpy.random.RandomState, numpy.random.default_rng, random.Random):
        library(seeds[0])


def test_seeds_of_clusters_differ() -> None:
    assert len({random_generators.new_seed() for _ in range(100)}) == 100
