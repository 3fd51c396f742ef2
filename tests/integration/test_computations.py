"""What can be computed: every kind of callable, its dependencies, its arguments and its results."""

from __future__ import annotations

import functools
import math
import operator
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

import dispy
from dispy.errors import PicklingError, UsageError

from .conftest import MakeCluster

FACTOR = 10
TABLE = {"a": 1}


def times(n: int) -> int:
    return n * FACTOR + TABLE["a"]


def recursive(n: int) -> int:
    return 1 if n <= 1 else n * recursive(n - 1)


def announced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return ["before", function(*args), "after"]

    return wrapper


@announced
def decorated(n: int) -> int:
    return n + 1


@functools.lru_cache
def cached(n: int) -> int:
    return n * 2


class Counter:
    """Has state, methods of all kinds, and can be called."""

    step = 3

    def __init__(self, start: int) -> None:
        self.start = start

    def add(self, n: int) -> int:
        return self.start + n * self.step

    def __call__(self, n: int) -> int:
        return self.start - n

    @classmethod
    def of_class(cls, n: int) -> int:
        return cls.step + n

    @staticmethod
    def of_nothing(n: int) -> int:
        return n + 5

    def __eq__(self, other: object) -> bool:
        return type(other) is Counter and other.start == self.start

    __hash__ = None


def nested(offset: int) -> Callable[[int], int]:
    def inner(n: int) -> int:
        return n + offset

    return inner


def late_closure() -> Callable[[int], int]:
    def first(n: int) -> int:
        return second(n) + 1

    def second(n: int) -> int:
        return n * 100

    return first


def with_defaults(a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> tuple[Any, ...]:
    return a, b, rest, c, more


async def not_called() -> None: ...


KINDS: dict[str, Callable[..., Any]] = {
    "function": times,
    "recursive function": recursive,
    "lambda": lambda n: n - 1,
    "closure": nested(7),
    "closure that refers to a later one": late_closure(),
    "cached": cached,
    "bound method": Counter(1).add,
    "class method": Counter.of_class,
    "static method": Counter.of_nothing,
    "callable object": Counter(1),
    "partial": functools.partial(operator.pow, 2),
    "partial of a function here": functools.partial(with_defaults, b=1),
    "builtin": abs,
    "function in C": math.factorial,
    "method of a builtin object": "abcde".__getitem__,
    "class": Counter,
    "itemgetter": operator.methodcaller("bit_length"),
}


@pytest.mark.usefixtures("a_node")
def test_kinds_of_callables(make_cluster: MakeCluster) -> None:
    jobs = {kind: make_cluster(computation).submit(4) for kind, computation in KINDS.items()}
    for kind, job in jobs.items():
        result = job()
        assert job.exception is None, f"{kind}: {job.exception}"
        assert result == KINDS[kind](4), kind


@pytest.mark.usefixtures("a_node")
def test_decorated_function(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(decorated)
    assert cluster.submit(1)() == ["before", 2, "after"]
    assert cluster.name == "decorated"


@pytest.mark.usefixtures("a_node")
def test_method_with_the_object_given_first(make_cluster: MakeCluster) -> None:
    """As every program for the original had to; without it the bound object is meant."""
    cluster = make_cluster(Counter(1).add)
    assert cluster.submit(Counter(100), 2)() == 106
    assert cluster.submit(2)() == 7
    assert cluster.submit(n=2)() == 7


@pytest.mark.usefixtures("a_node")
def test_method_that_changes_its_object_changes_a_copy(make_cluster: MakeCluster) -> None:
    class Box:
        def __init__(self) -> None:
            self.values: list[int] = []

        def put(self, value: int) -> list[int]:
            self.values.append(value)
            return self.values

    box = Box()
    cluster = make_cluster(box.put)
    assert [cluster.submit(n)() for n in range(3)] == [[0], [1], [2]]
    assert box.values == []


@pytest.mark.usefixtures("a_node")
def test_all_forms_of_arguments(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(with_defaults)
    assert cluster.submit(1)() == (1, 2, (), 3, {})
    assert cluster.submit(1, 5, 6, 7, c=8, d=9)() == (1, 5, (6, 7), 8, {"d": 9})
    assert cluster.submit(b=1, a=2)() == (2, 1, (), 3, {})


@pytest.mark.usefixtures("a_node")
def test_keywords_named_like_our_own_parameters(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(lambda **names: names)
    names = {"self": 1, "job_id": 2, "node": 3, "args": 4, "kwargs": 5}
    assert cluster.submit(**{name: value for name, value in names.items() if name != "self"})() == {
        name: value for name, value in names.items() if name != "self"
    }
    assert cluster.submit_job_id("x", job_id=2, node=3)() == {"job_id": 2, "node": 3}


# Dependencies.


def helper(n: int) -> int:
    return n + FACTOR


class Base:
    def hello(self) -> str:
        return f"hello from {type(self).__name__}"


class Derived(Base):
    pass


@pytest.mark.usefixtures("a_node")
def test_depends_are_found_by_name(make_cluster: MakeCluster) -> None:
    def by_name(n: int) -> tuple[int, str, int]:
        names = globals()
        return names["helper"](n), names["Derived"]().hello(), names["Counter"](1).add(1)

    cluster = make_cluster(by_name, depends=[helper, Derived, Counter(5)])
    job = cluster.submit(1)
    assert job() == (11, "hello from Derived", 4), job.exception


@pytest.mark.usefixtures("a_node")
def test_functions_share_one_namespace(make_cluster: MakeCluster) -> None:
    """What a dependency makes global the computation sees, and the other way round."""

    def sets() -> None:
        global shared_value
        shared_value = 17

    def reads() -> int:
        sets()
        return shared_value

    assert make_cluster(reads, depends=[sets]).submit()() == 17


@pytest.mark.parametrize(
    ("depends", "error"),
    [
        ("text", UsageError),
        ([7], UsageError),
        (helper, UsageError),
    ],
)
def test_depends_that_cannot_be(place: Any, depends: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="depends"):
        dispy.JobCluster(times, depends=depends)


# What cannot be sent.


def uses_a_lock() -> Any:
    return LOCK


LOCK = threading.Lock()


def test_global_that_cannot_be_sent_is_named(place: Any) -> None:
    with pytest.raises(PicklingError, match=r"uses_a_lock.*global 'LOCK'"):
        dispy.JobCluster(uses_a_lock)


def test_closure_variable_that_cannot_be_sent_is_named(place: Any) -> None:
    opened = threading.Lock()
    with pytest.raises(PicklingError, match="variable 'opened'"):
        dispy.JobCluster(lambda: opened)


def test_object_of_a_method_that_cannot_be_sent_is_named(make_cluster: MakeCluster) -> None:
    class Holder:
        def __init__(self) -> None:
            self.link = socket.socket()

        def run(self) -> int:
            return 1

    holder = Holder()
    with pytest.raises(PicklingError, match="link"):
        make_cluster(holder.run).submit()
    holder.link.close()


@pytest.mark.usefixtures("a_node")
def test_argument_that_cannot_be_sent_is_named(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(with_defaults)
    with pytest.raises(PicklingError, match=r"item 'inner' of item 1 of argument 2"):
        cluster.submit(1, [0, {"inner": threading.Lock()}])
    with pytest.raises(PicklingError, match="argument 'c'"):
        cluster.submit(1, c=threading.Lock())
    with pytest.raises(PicklingError, match="attribute 'start' of argument 1"):
        cluster.submit(Counter(threading.Lock()))
    with pytest.raises(PicklingError, match=r"\bid\b"):
        cluster.submit_job_id(threading.Lock(), 1)
    assert cluster.status().jobs_pending == 0
    assert cluster.submit(1)() == (1, 2, (), 3, {})


def test_argument_that_is_nested_too_deeply(make_cluster: MakeCluster) -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(PicklingError, match="deep"):
        make_cluster(len).submit(value)
    while value:
        value = value.pop()


@pytest.mark.parametrize("computation", [None, 7, [], "program"])
def test_what_is_no_computation(place: Any, computation: Any) -> None:
    with pytest.raises(UsageError, match=r"computation|program"):
        dispy.JobCluster(computation)
