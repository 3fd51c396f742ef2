"""Arguments of jobs and items of a ``map``: pickled by the client, unpickled by the worker. Every job passes here.

A call is a tuple, whose length tells its kind:

Parts | Kind
--- | ---
``(args,)``, ``(args, kwargs)``, ``(args, kwargs, job_id)`` | arguments, and the id that the program gave the job
``(items, way, None, (long_s, first))`` | a chunk of a ``map`` (``CHUNK_PARTS``)
``(items, way, None, (long_s, first, function))`` | one of an executor's ``map``, for a function that is sent along
``(args, kwargs, job_id, None, function)`` | arguments of a function, which is the fifth part: its bytes
``(args, kwargs, job_id, None, numbers)`` | arguments; ``numbers``, by place in ``args``: of objects that were put, or
 | bytes of functions
seven parts | a call that brings code (``job_code``)
"""

from __future__ import annotations

import pickle
import threading
from typing import Any

from dispy.errors import NotPlainError, PicklingError
from dispy.payload import object_references
from dispy.payload.blocks import OUT_OF_BAND, PROTOCOL, Buffer, Collector, Parts, Ready, out_of_band, whole
from dispy.payload.job_code import with_code
from dispy.payload.known_parts import Known
from dispy.payload.object_references import take_used, used
from dispy.payload.plain.decoder import Maker, load_plain
from dispy.payload.sent_functions import SentFunction, function_of
from dispy.payload.unsendable import blame, find_culprit
from dispy.payload.values import STACK_GLOBAL, PlainOnly, dump, dump_with_code, load, names_local

_dumps = pickle.dumps
"""``pickle.dumps``, bound once, as every job needs it."""


def dump_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], job_id: Any = None, known: Known | None = None
) -> Buffer:
    """Returns the payload of a job: its arguments as they are now, and its id if that is not its number.

    Take the references among them from ``take_used`` afterwards, and keep them until the job has ended.

    Args:
        args: Positional arguments of the job.
        kwargs: Keyword arguments of the job.
        job_id: Id of the job, if that is not its number; else None.
        known: Parts of the program that nodes have; None for nothing.

    Raises:
        PicklingError: The text names the argument, and the part of it that cannot be sent.
    """
    if used:
        take_used()  # references that were pickled for something else, or for a job that could not be sent
    stand_ins = 0
    marks = 0
    reference_type = object_references.reference_type
    for value in args:
        kind = type(value)
        if kind is bytes and len(value) >= OUT_OF_BAND:
            args = tuple([out_of_band(value) for value in args])
            break
        if kind is reference_type or kind is SentFunction:
            stand_ins += 1
    call: tuple[Any, ...] = (args,)
    if stand_ins:
        first = args[0]
        if type(first) is SentFunction:
            marks = first.marks
        if stand_ins == 1 and type(first) is SentFunction and first.reference is None:
            call = (args[1:], kwargs, job_id, None, first.data)
        else:
            call = _without_stand_ins(args, kwargs, job_id)
    elif kwargs or job_id is not None:
        call = (args, kwargs) if job_id is None else (args, kwargs, job_id)
    try:
        # The common case without another call: it is on the path of every job.
        buffers = Collector()
        data = _dumps(call, PROTOCOL, buffer_callback=buffers.take)
        if marks and data.count(STACK_GLOBAL) == marks:
            return whole(Parts(data, buffers) if buffers else data)  # all of them are bytes of the function
        if STACK_GLOBAL not in data or not names_local(data, known):
            return whole(Parts(data, buffers) if buffers else data)
    except Exception:
        pass
    try:
        return whole(dump_with_code(call, known))
    except Exception as error:
        raise blame(args, kwargs, job_id, error) from error


def _without_stand_ins(args: tuple[Any, ...], kwargs: dict[str, Any], job_id: Any) -> tuple[Any, ...]:
    """Returns the call ``(args, kwargs, job_id, None, numbers)``: None in place of each stand-in among ``args``.

    ``numbers``, by index of the stand-in in ``args``: number of an object that was put, or bytes of a function. A
    reference takes 1 us this way, and 5 us pickled. References are added to ``used``, as if they had been pickled. A
    function alone is not for this: see ``dump_call``.
    """
    this = threading.get_ident()
    numbers: dict[int, int | bytes] = {}
    bare = list(args)
    for place, value in enumerate(args):
        if type(value) is object_references.reference_type:
            used.append((this, value))
            numbers[place] = value.number
            bare[place] = None
        elif type(value) is SentFunction:
            bare[place] = None
            if value.reference is None:
                numbers[place] = value.data
            else:
                used.append((this, value.reference))
                numbers[place] = value.reference.number
    return tuple(bare), kwargs, job_id, None, numbers


def _with_objects(call: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns ``(args, kwargs, job_id)`` of a call of ``_without_stand_ins``, with what these stood for in ``args``.

    What ``find_object`` raises, as when an object is not on this node, passes through.
    """
    args, kwargs, job_id, _, numbers = call
    if type(numbers) is bytes:
        return (function_of(numbers), *args), kwargs, job_id
    full = list(args)
    for place, number in numbers.items():
        full[place] = _find(number)
    return tuple(full), kwargs, job_id


def _find(number: int | bytes) -> Any:
    """Returns what a stand-in in a call is for: the object that was put; or a function, by its bytes or put."""
    if type(number) is bytes:
        return function_of(number)
    found = object_references.find_object(number)  # type: ignore[arg-type]
    return function_of(found) if type(found) is SentFunction else found


CHUNK_PARTS = 4
"""Length of the tuple of a chunk, by which ``load_call`` and workers tell it from other calls.

The tuple of plain arguments is shorter, that of arguments with references one longer.
"""


Way = tuple[bool, bool, Any, int]
"""How the function is called with the items of a chunk: True if each item is a tuple of arguments; True if errors of
items stay in their places, and the other items are run; keyword arguments that all calls have (a dictionary, or a
reference to one); the number of the map in its cluster, from 1."""


def dump_chunk(
    items: list[Any],
    way: Way,
    long_s: float,
    first: int,
    known: Known | None = None,
    function: SentFunction | None = None,
) -> Buffer:
    """Returns the payload of a chunk of a ``map``: an object that items share is pickled once, and stays shared.

    Take the references among the items from ``take_used`` afterwards, and keep them until the chunk has ended.

    Args:
        items: Arguments of the calls, in order.
        way: How the function is called with the items.
        long_s: Running time of the chunk after which the worker stops before the next item (seconds; infinite for
            never). The client sends the items that are left in other chunks.
        first: Number of the first item in the map, from 0.
        known: Parts of the program that nodes have; None for nothing.
        function: Function that is called with the items; None for that of the computation.

    Raises:
        Exception: One of the items cannot be pickled; see ``find_unsendable``.
    """
    take_used()
    if function is None:
        return whole(dump((items, way, None, (long_s, first)), known))
    sent: int | bytes = function.data
    if function.reference is not None:
        used.append((threading.get_ident(), function.reference))
        sent = function.reference.number
    return whole(dump((items, way, None, (long_s, first, sent)), known))


class ItemFailed:
    """Stand-in for the result of an item that failed, among the results of its chunk.

    Attributes:
        error: Exception of the item, pickled by ``dump_exception``; empty if it cannot be sent.
        text: Text of the traceback on the node.
        item: The item, as a short text for messages.
    """

    __slots__ = ("error", "item", "text")

    def __init__(self, error: bytes | PlainOnly, text: str, item: str) -> None:
        self.error = error
        self.text = text
        self.item = item

    def __reduce__(self) -> tuple[type[ItemFailed], tuple[bytes | PlainOnly, str, str]]:
        return ItemFailed, (self.error, self.text, self.item)


class Rest:
    """Mark at the end of the list of results of a chunk that stopped early: items without a result were not run.

    The client removes the mark and sends these items in other chunks. Without the mark, an item that lacks a result
    is taken for one that failed.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[type[Rest], tuple[()]]:
        return Rest, ()


def _make_failed(arguments: tuple[Any, ...], state: Any) -> ItemFailed:
    """Returns the stand-in for an item that failed, of a node that is not trusted with code."""
    error, text, item = arguments
    if state is not None or (type(error), type(text), type(item)) != (bytes, str, str):
        raise TypeError("no proper report of an item that failed")
    return ItemFailed(PlainOnly(error) if error else b"", text, item)


def _make_rest(arguments: tuple[Any, ...], state: Any) -> Rest:
    """Returns the mark of items that were not run, of a node that is not trusted with code."""
    return Rest(*arguments)


_MAKERS: dict[str, Maker] = {
    f"{ItemFailed.__module__}.{ItemFailed.__name__}": _make_failed,
    f"{Rest.__module__}.{Rest.__name__}": _make_rest,
}
"""Makers of what stands among the results of a chunk besides values."""


def load_results(payload: Buffer | Ready) -> list[Any]:
    """Returns the results of a chunk, in the order of its items: values, ``ItemFailed``, and a ``Rest`` at the end.

    Raises:
        NotPlainError: The payload is a ``PlainOnly``, and something in it is not plain.
        Exception: It cannot be unpickled.
    """
    results: list[Any]
    if not isinstance(payload, PlainOnly):
        results = load(payload)
        return results
    data = payload.value
    results = data.read() if isinstance(data, Ready) else load_plain(data, _MAKERS)
    if type(results) is not list:
        raise NotPlainError(f"an object of {type(results).__name__} in the place of the results of a map")
    return results


def find_unsendable(items: list[Any], first: int) -> tuple[int, PicklingError] | None:
    """Returns the first item that cannot be pickled, and the error that says why; None if all can be.

    Call this when ``dump_chunk`` has failed: the client then names the item.

    Args:
        items: The items of a chunk.
        first: Number of the first of them in the ``map``.

    Returns:
        Index of the item in ``items`` (from 0), and the error, whose text has the item's number in the map.
    """
    for place, item in enumerate(items):
        culprit = find_culprit(item, f"item {first + place}")
        if culprit:
            hint = "map over plain data, or create the object in the function"
            return place, PicklingError(f"an item of a map cannot be sent: {culprit}", hint=hint)
    return None


def load_items(payload: Buffer) -> list[Any]:
    """Returns the items in a payload of ``dump_chunk``, in order: for the client, which keeps only the payload."""
    items: list[Any] = load(payload)[0]
    return items


def dump_failure(results: list[Any], error: bytes) -> bytes:
    """Returns what a worker reports of a chunk that ended at an item that failed, for ``load_failure``.

    The results before that item are kept; the client need not run these items again.

    Args:
        results: Results of the items before the one that failed, in order.
        error: Exception of that item, pickled by ``dump_exception``; empty if it cannot be pickled.

    Raises:
        Exception: One of the results cannot be pickled.
    """
    return pickle.dumps((bytes(whole(dump(results))), error), PROTOCOL)


def load_failure(payload: Buffer | Ready) -> tuple[list[Any], bytes | PlainOnly] | None:
    """Returns the results before the item that failed, and its pickled exception (empty if it could not be pickled).

    None if the chunk failed as a whole, so that no item's results are known. The exception in a ``PlainOnly`` is one.

    Raises:
        NotPlainError: The payload is a ``PlainOnly``, and a result is not plain.
        Exception: The results cannot be unpickled.
    """
    if not isinstance(payload, PlainOnly):
        failure = load(payload)
        return (load(failure[0]), failure[1]) if type(failure) is tuple else None
    try:
        failure = load(payload)
    except NotPlainError:
        return None  # an exception of the whole chunk
    if type(failure) is not tuple:
        return None
    if [type(part) for part in failure] != [bytes, bytes]:
        raise NotPlainError("a report of a failed map that nobody knows")
    results, error = failure
    return load_results(PlainOnly(results)), PlainOnly(error) if error else b""


def load_call(payload: Buffer) -> tuple[Any, ...]:
    """Unpickle a call: ``(args,)``, ``(args, kwargs)`` or ``(args, kwargs, job_id)``; or a chunk (4 parts).

    Any other kind of call is returned as ``(args, kwargs, job_id)``: objects that were put have taken the places of
    references, code that the call brings is defined. Arrays lie in the memory of the payload.

    Raises:
        Apart: The call brings code, and this process is not for one job alone. Nothing of the call is loaded then.
        Exception: The call cannot be unpickled.
    """
    call: tuple[Any, ...] = load(payload)
    if len(call) < CHUNK_PARTS:
        return call
    if len(call) == CHUNK_PARTS:
        if len(call[3]) > 2:
            long_s, first, sent = call[3]
            return *call[:3], (long_s, first, _find(sent))
        return call
    return _with_objects(call) if len(call) == CHUNK_PARTS + 1 else with_code(call)
