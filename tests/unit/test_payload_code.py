"""Functions that are sent: every kind of them runs elsewhere as it would have run here."""

from __future__ import annotations

import functools
import json
import math
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from dispy import payload
from dispy.errors import PicklingError

if TYPE_CHECKING:
    from conftest import Elsewhere

FACTOR = 3
CALLS: list[int] = []


def triple(x: int) -> int:
    return FACTOR * x


def triple_by_helper(x: int) -> int:
    return triple(x)


def factorial(n: int) -> int:
    return 1 if n < 2 else n * factorial(n - 1)


@functools.cache
def fibonacci(n: int) -> int:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def is_even(n: int) -> bool:
    return n == 0 or is_odd(n - 1)


def is_odd(n: int) -> bool:
    return n != 0 and is_even(n - 1)


def with_defaults(a: int, b: int = 2, *rest: int, c: int = FACTOR, **more: int) -> tuple[Any, ...]:
    return a, b, rest, c, more


def doubled(function: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(function)
    def wrapper(*args: int) -> int:
        return 2 * function(*args)

    return wrapper


@doubled
def twice_triple(x: int) -> int:
    return FACTOR * x


def remember(x: int) -> list[int]:
    CALLS.append(x)
    return list(CALLS)


class Base:
    def value(self) -> int:
        return FACTOR


class Derived(Base):
    def value(self) -> int:
        return super().value() + 1


def use_class() -> int:
    return Derived().value()


class Callable2:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        return self.factor * x

    def method(self, x: int) -> int:
        return self.factor * x + 1

    @classmethod
    def of_class(cls, x: int) -> str:
        return f"{cls.__name__} {x}"

    @staticmethod
    def static(x: int) -> int:
        return x + FACTOR


def numbers(n: int) -> Iterator[int]:
    yield from range(n)


def total(n: int) -> int:
    return sum(numbers(n))


def test_a_module_level_function(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(triple, 5) == 15


def test_a_nested_function(elsewhere: Elsewhere) -> None:
    def nested(x: int) -> int:
        def inner(y: int) -> int:
            return y + 1

        return inner(x)

    assert elsewhere.call(nested, 1) == 2


def test_a_lambda(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(lambda x: x * FACTOR, 2) == 6


def test_a_closure_with_the_value_that_it_has_when_sent(elsewhere: Elsewhere) -> None:
    offset = 10

    def add(x: int) -> int:
        return x + offset

    offset = 20
    assert elsewhere.call(add, 1) == 21


def test_a_closure_that_keeps_state_between_jobs_of_a_worker(elsewhere: Elsewhere) -> None:
    count = 0

    def increment() -> int:
        nonlocal count
        count += 1
        return count

    assert elsewhere.run(increment, (), ()) == [1, 2]
    assert count == 0


def test_a_decorated_function(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(twice_triple, 5) == 30


def test_a_cached_function(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(fibonacci, 60) == 1548008755920


def test_a_function_that_uses_a_cached_one(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(lambda n: fibonacci(n), 60) == 1548008755920


def test_a_recursive_function(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(factorial, 10) == 3628800


def test_a_nested_recursive_function(elsewhere: Elsewhere) -> None:
    def count_down(n: int) -> int:
        return n if n < 1 else count_down(n - 1)

    assert elsewhere.call(count_down, 10) == 0


def test_mutually_recursive_functions(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(is_even, 10) is True


def test_a_function_with_all_kinds_of_defaults(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(with_defaults, 1) == (1, 2, (), 3, {})


def test_a_function_that_uses_a_helper_of_its_module(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(triple_by_helper, 2) == 6


def test_a_function_that_uses_a_generator(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(total, 5) == 10


def test_a_function_that_uses_classes_of_its_module(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(use_class) == 4


def test_a_partial(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(functools.partial(with_defaults, 1, c=9), 5) == (1, 5, (), 9, {})


def test_an_object_that_can_be_called(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(Callable2(4), 3) == 12


def test_a_bound_method_with_its_object(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(Callable2(4).method, 3) == 13


def test_a_class_method_and_a_static_method(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(Callable2.of_class, 1) == "Callable2 1"
    assert elsewhere.call(Callable2.static, 1) == 4


def test_a_function_of_the_standard_library_goes_by_name(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(os.path.basename, "/a/b") == "b"
    assert len(payload.dump_code(os.path.basename, []).data) < 250


def test_a_builtin_function(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(len, [1, 2, 3]) == 3


def test_globals_live_on_between_jobs_of_a_worker_and_not_here(elsewhere: Elsewhere) -> None:
    assert elsewhere.run(remember, (1,), (2,)) == [[1], [1, 2]]
    assert CALLS == []


class Thing:
    """Of the tests: it travels by value."""

    def value(self) -> int:
        return 1


def test_code_of_another_version_of_python_is_refused() -> None:
    """Its bytecode would crash the worker. What both sides import runs with any version."""
    for function in (triple, Thing, functools.partial(triple, 2), lambda: json.dumps(triple)):
        code = payload.with_setup_args(payload.dump_code(function, []).data, (1,))
        *parts, version, modules = pickle.loads(code)
        assert version == sys.version_info[:2]
        payload.load_code(code)
        with pytest.raises(PicklingError, match=r"runs on Python 3\.99.*start dispynode with Python 3\.99"):
            payload.load_code(pickle.dumps((*parts, (3, 99), modules)))
    for installed in (json.dumps, functools.partial(math.pow, 2), len):
        *_, version, _modules = pickle.loads(payload.dump_code(installed, []).data)
        assert version == ()
