"""Functions that go into calls as stand-ins: how they are pickled, found again, loaded anew after changes."""

from __future__ import annotations

import operator
from typing import Any

import pytest

from dispy import payload
from dispy.payload import object_references, sent_functions
from dispy.payload.by_value import scopes
from dispy.payload.values import STACK_GLOBAL


def sent(function: Any) -> payload.SentFunction:
    dumped = payload.dump_function(function, payload.NOTHING)
    assert dumped is not None
    return payload.SentFunction(dumped[0])


def called(*args: Any, **kwargs: Any) -> Any:
    """What the computation of an executor returns for such a call."""
    call = payload.load_call(payload.dump_call(args, kwargs))
    return payload.CALL(*call[0], **call[1])


def test_installed_functions_go_by_name() -> None:
    """Their pickle is short, and a worker finds the very function."""
    for function in (pow, operator.add):
        data = sent(function).data
        assert len(data) < 100
        assert sent_functions.load_function(data) is function


def test_a_call_with_a_function() -> None:
    step = 5
    assert called(sent(lambda x, y: x * y + step), 2, y=3) == 11
    assert called(sent(pow), 2, 3) == 8
    assert called(sent(lambda: step)) == 5


def test_functions_among_other_arguments() -> None:
    """One that is not the first, and several."""
    assert called(operator.call, sent(pow), 2, 3) == 8
    assert called(sent(operator.call), sent(pow), 2, 3) == 8


def test_code_of_arguments_still_goes_along() -> None:
    """The byte that names code may stand in the bytes of a function; one more of it is an argument's."""
    function = sent(lambda inner, x: inner(x))
    assert function.marks == function.data.count(STACK_GLOBAL)
    assert called(function, lambda x: x + 1, 4) == 5


def test_a_function_that_was_put(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call has its number, and the reference counts as used."""
    reference = object_references.Reference(7)
    stored = payload.load(payload.dump_object(sent(pow)))
    monkeypatch.setattr(object_references, "find_object", {7: stored}.__getitem__)
    data = payload.dump_call((payload.SentFunction(b"", reference), 2, 5), {})
    assert payload.take_used() == [reference]
    call = payload.load_call(data)
    assert payload.CALL(*call[0], **call[1]) == 32


def test_a_chunk_of_a_map_with_a_function() -> None:
    data = payload.dump_chunk([1, 2], (False, False, None, 1), 0.1, 3, payload.NOTHING, sent(pow))
    items, way, nothing, (long_s, first, function) = payload.load_call(data)
    assert (items, way, nothing, long_s, first) == ([1, 2], (False, False, None, 1), None, 0.1, 3)
    assert function is pow


def test_it_is_loaded_once_until_something_changes() -> None:
    data = sent(lambda: 1).data
    function = sent_functions.load_function(data)
    assert sent_functions.load_function(data) is function
    scopes.note_change(lambda: None)
    assert sent_functions.load_function(data) is not function
    scopes.changes.clear()


def test_no_reference_to_a_put_object_is_kept() -> None:
    """A function whose closure holds one is an argument like others, which keeps the object on nodes."""
    reference = object_references.Reference(7)
    assert payload.dump_function(lambda: reference, payload.NOTHING) is None


class Holder:
    factor = 1


def test_the_watch_sees_what_a_pickle_depends_on() -> None:
    """The closure, and attributes of a class that the function holds, which is pickled by itself."""
    holder, step = Holder, 1

    def function() -> int:
        return holder.factor * step

    import cloudpickle

    import tests.unit.test_payload_functions as here

    cloudpickle.register_pickle_by_value(here)
    try:
        dumped = payload.dump_function(function, payload.NOTHING)
        assert dumped is not None
        watch = dumped[1]
        assert watch.is_same()
        Holder.factor = 2
        assert not watch.is_same()
        Holder.factor = 1
        assert watch.is_same()
        step = 2
        assert not watch.is_same()
    finally:
        cloudpickle.unregister_pickle_by_value(here)
    assert payload.dump_function(pow, payload.NOTHING)[1].is_empty()  # type: ignore[index]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(pow, True), (lambda: 1, True), ([].append, False), (int, False), (Holder(), False)],
)
def test_what_is_watched(value: Any, expected: bool) -> None:
    assert payload.is_watchable(value) is expected
