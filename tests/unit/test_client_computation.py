"""Computations and dependencies: what is shipped, and what is refused with a way out."""

from __future__ import annotations

import functools
import math
import types
from pathlib import Path
from typing import Any

import pytest

from dispy.client.code.computation import Computation, check_depends
from dispy.errors import UsageError
from dispy.payload import load_code


class Thing:
    def method(self, x: int = 0) -> int:
        return x

    @classmethod
    def of_class(cls, x: int = 0) -> int:
        return x


def function(x: int = 0) -> int:
    return x


@pytest.mark.parametrize("depends", [None, [], ()])
def test_no_dependencies(depends: Any) -> None:
    assert check_depends(depends) == []


def test_functions_and_classes_stay_what_they_are_in_their_order() -> None:
    assert check_depends([Thing, function, len]) == [Thing, function, len]


def test_an_object_stands_for_its_class() -> None:
    assert check_depends([Thing()]) == [Thing]


def test_a_method_stands_for_its_function() -> None:
    assert check_depends([Thing().method]) == [Thing.method]


def test_a_partial_stands_for_its_function() -> None:
    assert check_depends([functools.partial(function, 1)]) == [function]


@pytest.mark.parametrize("depends", ["file.py", b"file", 7, {function}, function, iter([function])])
def test_dependencies_must_be_a_list(depends: Any) -> None:
    with pytest.raises(UsageError, match="depends must be a list"):
        check_depends(depends)


@pytest.mark.parametrize("item", ["data.csv", b"data.csv", Path("data.csv"), math])
def test_files_travel_beside_the_code(item: Any) -> None:
    assert check_depends([item, function]) == [function]


@pytest.mark.parametrize("item", [7, None, [], {}, 1.5])
def test_plain_values_cannot_be_dependencies(item: Any) -> None:
    with pytest.raises(UsageError, match="not a function, class or object"):
        check_depends([item])


def test_a_computation_has_the_name_of_its_function() -> None:
    assert Computation(function, []).name == "function"
    assert Computation(functools.partial(function, 1), []).name == "partial"


@pytest.mark.parametrize("path", ["/bin/sh", Path("/bin/sh"), "sh"])
def test_a_path_is_a_program(path: Any) -> None:
    computation = Computation(path, [])
    assert computation.name == str(path)
    assert computation.is_program
    assert load_code(computation.code).function.name == "sh"
    assert computation.arguments((1, "a", b"b", Path("/c"), None), {"x": 1}) == (
        "1",
        "a",
        "b",
        "/c",
        "None",
    )


def test_a_program_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "large").chmod(0o700)
    computation = Computation(tmp_path / "large", [])
    assert computation.program == str(tmp_path / "large")
    assert len(computation.code) < 1000


@pytest.mark.parametrize("computation", [None, 7, [function], types.SimpleNamespace()])
def test_what_cannot_be_called_is_no_computation(computation: Any) -> None:
    with pytest.raises(UsageError, match="must be a function"):
        Computation(computation, [])


def test_dependencies_are_shipped_with_the_function() -> None:
    code = load_code(Computation(lambda: None, [function, Thing]).code)
    assert {"function", "Thing"} <= set(code.namespace)


def test_a_bound_method_is_shipped_with_the_class_of_its_object() -> None:
    computation = Computation(Thing().method, [])
    assert "Thing" in load_code(computation.code).namespace


def test_the_object_of_a_bound_method_goes_first_unless_the_caller_gives_one() -> None:
    bound, other = Thing(), Thing()
    computation = Computation(bound.method, [])
    assert computation.arguments((5,), {}) == (bound, 5)
    assert computation.arguments((other, 5), {}) == (other, 5)
    assert computation.arguments((), {"x": 5}) == (bound,)


def test_an_object_that_does_not_fit_as_the_first_argument_is_an_ordinary_one() -> None:
    class Comparer:
        def same(self, other: Any) -> bool:
            return self is other

    bound, other = Comparer(), Comparer()
    assert Computation(bound.same, []).arguments((other,), {}) == (bound, other)


def test_the_class_of_a_class_method_goes_first() -> None:
    assert Computation(Thing.of_class, []).arguments((5,), {}) == (Thing, 5)
