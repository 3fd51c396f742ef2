"""Errors of sending name what is at fault; errors of jobs come home with their traceback."""

from __future__ import annotations

import functools
import pickle
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from dispy import payload
from dispy.errors import JobError, PicklingError, RemoteTraceback, UsageError

if TYPE_CHECKING:
    from conftest import Elsewhere

LOCK = threading.Lock()
TABLE = {"entry": LOCK}


class Holder:
    def __init__(self, thing: Any) -> None:
        self.thing = thing


class Moody:
    def __reduce__(self) -> Any:
        raise ValueError("not today")


class OwnError(Exception):
    pass


class Richer(Exception):
    """Keeps more than its arguments."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.place = "there"


class CannotBeRebuilt(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("one argument")


def uses_global() -> Any:
    return LOCK


def uses_helper() -> Any:
    return uses_global()


def uses_table() -> Any:
    return TABLE


def fault_of_call(*args: Any, job_id: Any = None, **kwargs: Any) -> str:
    with pytest.raises(PicklingError) as caught:
        payload.dump_call(args, kwargs, job_id)
    return str(caught.value)


def fault_of_code(function: Callable[..., Any], *depends: Any) -> str:
    with pytest.raises(PicklingError) as caught:
        payload.dump_code(function, depends)
    return str(caught.value)


def test_the_argument_at_fault_is_named_by_its_position() -> None:
    text = fault_of_call(1, "two", LOCK)
    assert "argument 3 (of type _thread.lock)" in text
    assert "argument 1" not in text


def test_the_argument_at_fault_is_named_by_its_keyword() -> None:
    assert "argument 'guard' (of type _thread.lock)" in fault_of_call(1, other=2, guard=LOCK)


def test_the_job_id_at_fault_is_named() -> None:
    assert "the job's id (of type _thread.lock)" in fault_of_call(1, job_id=LOCK)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ([1, LOCK], "item 1 of argument 1"),
        ((LOCK,), "item 0 of argument 1"),
        ({"key": LOCK}, "item 'key' of argument 1"),
        ({LOCK: 1}, "of argument 1"),
        (Holder(LOCK), "attribute 'thing' of argument 1"),
        ([{"a": Holder((0, LOCK))}], "item 1 of attribute 'thing' of item 'a' of item 0 of argument 1"),
        (Holder(LOCK).thing.acquire, "argument 1"),
    ],
    ids=["list", "tuple", "value", "key", "attribute", "deep", "method"],
)
def test_the_part_of_an_argument_at_fault_is_named(value: Any, where: str) -> None:
    text = fault_of_call(value)
    assert where in text
    assert "lock" in text


def test_the_reason_is_told_that_an_object_gives_itself() -> None:
    assert "not today" in fault_of_call(Moody())


def test_a_call_at_fault_is_the_callers_to_correct_and_says_how() -> None:
    with pytest.raises(UsageError, match="create the object in the job") as caught:
        payload.dump_call((LOCK,), {})
    assert caught.value.__cause__ is not None


def test_a_list_that_is_nested_too_deeply_is_named() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    try:
        assert "argument 2" in fault_of_call(1, value)
    finally:
        while value:  # taken apart by hand: the interpreter would recurse
            value = value[0]


def test_arguments_that_refer_to_themselves_are_searched_to_the_end() -> None:
    value: list[Any] = []
    value.append(value)
    value.append(LOCK)
    assert "item 1 of argument 1" in fault_of_call(value)


def test_the_global_at_fault_is_named() -> None:
    text = fault_of_code(uses_global)
    assert "computation 'uses_global' cannot be sent" in text
    assert "global 'LOCK' that function 'uses_global' uses (of type _thread.lock)" in text


def test_the_global_of_a_helper_at_fault_is_named() -> None:
    text = fault_of_code(uses_helper)
    assert "global 'LOCK' that global 'uses_global'" in text
    assert "function 'uses_helper'" in text


def test_the_part_of_a_global_at_fault_is_named() -> None:
    assert "item 'entry' of global 'TABLE'" in fault_of_code(uses_table)


def test_the_closure_variable_at_fault_is_named() -> None:
    guard = threading.Lock()

    def compute() -> Any:
        return guard

    assert "variable 'guard' that function" in fault_of_code(compute)


def test_the_default_at_fault_is_named() -> None:
    def compute(guard: Any = LOCK) -> Any:
        return guard

    assert "a default of function" in fault_of_code(compute)


def test_the_keyword_default_at_fault_is_named() -> None:
    def compute(*, guard: Any = LOCK) -> Any:
        return guard

    assert "a default of function" in fault_of_code(compute)


def test_the_decorated_function_at_fault_is_searched() -> None:
    @functools.wraps(uses_global)
    def compute() -> Any:
        return uses_global()

    assert "global 'LOCK'" in fault_of_code(compute)


def test_the_dependency_at_fault_is_named() -> None:
    assert "function 'uses_global'" in fault_of_code(len, uses_global)


def test_the_class_attribute_at_fault_is_named() -> None:
    class Guarded:
        guard = LOCK

    assert "attribute 'guard' of class" in fault_of_code(len, Guarded)


def fail(error: BaseException) -> None:
    raise error


def raised(error: BaseException) -> BaseException:
    """The error with a traceback and a context, as a job raises it."""
    try:
        try:
            raise KeyError("context")
        except KeyError:
            fail(error)
    except BaseException as caught:
        return caught
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    "error",
    [ValueError("bad", 3), KeyError("x"), OSError(2, "no", "file"), OwnError("own"), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_comes_back_as_what_it_was(error: BaseException) -> None:
    data = payload.dump_exception(raised(error))
    back = payload.load_exception(data, "text")
    assert type(back) is type(error)
    assert back is not None
    assert (back.args, str(back)) == (error.args, str(error))


def test_an_exception_keeps_its_attributes() -> None:
    back = payload.load_exception(payload.dump_exception(raised(Richer("x"))), "")
    assert isinstance(back, Richer)
    assert back.place == "there"


def test_an_exception_from_elsewhere_is_of_the_class_it_is_here(elsewhere: Elsewhere) -> None:
    def compute() -> None:
        raise OwnError("from there")

    (result,) = elsewhere.run(compute, ())
    back = payload.load_exception(result.data, "")
    assert type(back) is OwnError
    assert back.args == ("from there",)


def test_the_cause_of_an_exception_is_its_traceback_from_there() -> None:
    back = payload.load_exception(payload.dump_exception(ValueError("x")), "Traceback: line 7")
    assert back is not None
    assert isinstance(back.__cause__, RemoteTraceback)
    assert isinstance(back.__cause__, JobError)
    assert back.__cause__.text == "Traceback: line 7"
    assert "Traceback: line 7" in str(back.__cause__)


def test_a_remote_traceback_can_be_pickled_again() -> None:
    again = pickle.loads(pickle.dumps(RemoteTraceback("line 7")))
    assert (again.text, str(again)) == ("line 7", str(RemoteTraceback("line 7")))


def test_a_dispy_error_can_be_pickled_with_its_hint() -> None:
    again = pickle.loads(pickle.dumps(UsageError("wrong", hint="do it right")))
    assert (str(again), again.hint) == ("wrong; do it right", "do it right")


@pytest.mark.parametrize(
    "error",
    [ValueError(threading.Lock()), ValueError(Moody())],
    ids=["lock", "reduce"],
)
def test_an_exception_that_cannot_travel_is_left_out(error: Exception) -> None:
    assert payload.dump_exception(raised(error)) == b""


def test_an_exception_with_arguments_of_its_own_comes_back_as_it_was() -> None:
    """Its class takes others than it hands to ``Exception``, so that it cannot be made again by these."""
    error = CannotBeRebuilt(1, 2)
    error.place = "there"  # type: ignore[attr-defined]
    back = payload.load_exception(payload.dump_exception(raised(error)), "text")
    assert type(back) is CannotBeRebuilt
    assert (back.args, back.place) == (("one argument",), "there")  # type: ignore[attr-defined]


def test_an_exception_that_refers_to_what_cannot_travel_travels_without() -> None:
    error = raised(ValueError("x"))
    error.__cause__ = OSError(threading.Lock())
    assert payload.dump_exception(error) != b""


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", pickle.dumps(7), pickle.dumps(ValueError("x"))[:-4], pickle.dumps(ValueError)],
    ids=["empty", "garbage", "no exception", "truncated", "class"],
)
def test_an_exception_that_cannot_be_had_is_none(data: bytes) -> None:
    assert payload.load_exception(data, "text") is None
