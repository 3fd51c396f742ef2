"""What a computation finds where it runs: shared globals, dependencies, helpers, standard modules."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dispy import payload

if TYPE_CHECKING:
    from conftest import Elsewhere

FACTOR = 3


def triple(x: int) -> int:
    return FACTOR * x


def set_shared(value: int) -> int:
    global shared
    shared = value
    return value


def get_shared() -> int:
    return shared  # type: ignore[name-defined]


def set_and_get(value: int) -> int:
    set_shared(value)  # listed as a dependency
    return get_shared()


def use_by_name(name: str) -> Any:
    return globals()[name]


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


def test_a_function_and_its_dependencies_share_their_globals(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(set_and_get, 7, depends=[set_shared, get_shared]) == 7


def test_a_dependency_is_found_by_its_name(elsewhere: Elsewhere) -> None:
    found = elsewhere.call(
        lambda: sorted({"triple", "Derived"} & set(globals())), depends=[triple, Derived]
    )
    assert found == ["Derived", "triple"]


def test_a_computation_is_found_by_its_own_name(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(use_by_name, "use_by_name").__name__ == "use_by_name"


def other_module(name: str, source: str) -> types.ModuleType:
    """A module of the user's own, beside the program."""
    module = types.ModuleType(name)
    module.__file__ = f"/home/user/{name}.py"
    exec(source, vars(module))
    return module


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module beside the program, which no node has."""
    module = other_module(
        "user_helpers_of_a_test",
        "STEP = 100\n"
        "COUNT = 0\n"
        "def step(x):\n    return x + STEP\n"
        "def count():\n    global COUNT\n    COUNT += 1\n    return COUNT\n"
        "def get_count():\n    return COUNT\n"
        "class Thing:\n    size = STEP\n",
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_helpers_of_other_modules_of_the_user_go_by_value(
    elsewhere: Elsewhere, helpers: types.ModuleType
) -> None:
    step = helpers.step

    def compute(x: int) -> int:
        return step(x)  # type: ignore[no-any-return]

    assert elsewhere.call(compute, 1) == 101


def test_helpers_of_one_module_share_its_globals(elsewhere: Elsewhere, helpers: types.ModuleType) -> None:
    count, get_count = helpers.count, helpers.get_count

    def compute() -> tuple[int, int]:
        return count(), get_count()

    assert elsewhere.run(compute, (), ()) == [(1, 1), (2, 2)]


def test_helpers_of_another_module_keep_their_own_globals(
    elsewhere: Elsewhere, helpers: types.ModuleType
) -> None:
    step = helpers.step

    def compute() -> tuple[int, bool]:
        globals()["STEP"] = 5
        return step(0), "COUNT" in globals()

    assert elsewhere.call(compute) == (100, False)


def test_dependencies_of_another_module_are_found_and_keep_their_own_globals(
    elsewhere: Elsewhere, helpers: types.ModuleType
) -> None:
    def compute() -> int:
        globals()["STEP"] = 5
        return step(0)  # type: ignore[name-defined,no-any-return]

    assert elsewhere.call(compute, depends=[helpers.step]) == 100


def test_a_module_of_the_user_that_is_used_goes_by_value(
    elsewhere: Elsewhere, helpers: types.ModuleType
) -> None:
    def compute(x: int) -> Any:
        return helpers.step(x), helpers.Thing.size

    assert elsewhere.call(compute, 1) == (101, 100)


def test_the_module_of_a_function_is_there_with_what_is_used_of_it(elsewhere: Elsewhere) -> None:
    def compute() -> tuple[bool, bool]:
        there = vars(sys.modules[__name__])
        return there is globals(), "Callable2" in there

    assert elsewhere.call(compute) == (True, False)


def names_modules() -> Any:
    def inner() -> Any:
        return os.getpid(), hashlib.md5, time.time  # type: ignore[name-defined]

    return inner, struct.calcsize("i")  # type: ignore[name-defined]


def test_standard_modules_that_code_names_are_told() -> None:
    code = payload.load_code(payload.dump_code(names_modules, []).data)
    assert code.modules == ["hashlib", "os", "struct", "time"]


def test_standard_modules_that_helpers_and_dependencies_name_are_told() -> None:
    def helper() -> str:
        return platform.node()  # type: ignore[name-defined,no-any-return]

    def depended() -> str:
        return socket.gethostname()  # type: ignore[name-defined,no-any-return]

    class Named:
        def method(self) -> str:
            return glob.glob("*")  # type: ignore[name-defined,no-any-return]

    def compute() -> str:
        return helper()

    code = payload.load_code(payload.dump_code(compute, [depended, Named]).data)
    assert code.modules == ["glob", "platform", "socket"]


def test_modules_that_code_does_not_name_are_not_told() -> None:
    assert payload.load_code(payload.dump_code(lambda x: x, []).data).modules == []


def test_a_module_of_the_list_can_be_used_without_import(elsewhere: Elsewhere) -> None:
    def compute(path: str) -> str:
        return shutil.which(path) or "none"  # type: ignore[name-defined]

    assert elsewhere.call(compute, "/there/is/no/such/program") == "none"


def test_every_module_of_the_list_exists() -> None:
    assert [name for name in payload.STANDARD_MODULES if name not in sys.stdlib_module_names] == []


def test_dependencies_may_be_any_iterable() -> None:
    code = payload.load_code(payload.dump_code(use_by_name, iter([triple])).data)
    assert "triple" in code.namespace


def test_code_is_sent_as_it_is_when_it_is_dumped(elsewhere: Elsewhere, tmp_path: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", "LIMIT": 1}
    exec("def compute():\n    return LIMIT\n", namespace)
    before = elsewhere.call(namespace["compute"])
    namespace["LIMIT"] = 2
    assert (before, elsewhere.call(namespace["compute"])) == (1, 2)
