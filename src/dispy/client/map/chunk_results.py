"""The results of ended chunks: values, exceptions of items, and why a chunk failed as a whole.

A chunk fails as a whole if its process dies, its node is lost, its items cannot be rebuilt on the node, or its
results cannot be rebuilt here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dispy import payload
from dispy.client.map.chunk_job import Chunk
from dispy.client.session.missing_files import advice_in, explain
from dispy.errors import JobError, LostError
from dispy.system.wording import counted, of_error, short_repr

if TYPE_CHECKING:
    from dispy.client.session.state import Session


class Settled(NamedTuple):
    """Outcome of a failed chunk in a map with ``return_exceptions``.

    Attributes:
        results: Results of the first items, in order; ``payload.ItemFailed`` or an exception for each that failed.
            The map sends the items behind these anew.
        is_whole: True if the chunk failed as a whole: the map makes smaller chunks from now on, which lose less.
    """

    results: list[Any]
    is_whole: bool


def settle(chunk: Chunk, name: str, is_reentrant: bool) -> Settled:
    """Returns what becomes of the items of a failed chunk, in a map with ``return_exceptions``.

    Items behind ``results`` were not run, or may be run again: the caller sends them anew.

    Args:
        chunk: The chunk.
        name: Name of the cluster, for the texts of errors.
        is_reentrant: True if items may be run again whose process has died. False: they all fail, since it is not
            known which of them were run.
    """
    try:
        failure = payload.load_failure(chunk.value) if chunk.value else None
    except Exception as error:
        return Settled(
            failed_whole(chunk, name, f"the results cannot be rebuilt here: {of_error(error)}"), True
        )
    if failure is None:
        was_run = not chunk.value  # a value is the error for which the node could not rebuild the items
        if chunk.count > 1 and (is_reentrant or not was_run):
            return Settled([], True)
        reason = chunk.exception or "no reason given"
        if chunk.count > 1:
            reason += (
                f"; these {counted(chunk.count, 'item')} were run in one process, and nobody knows how far it got: "
                "with Session(reentrant=True) they are run again, in smaller and smaller lots"
            )
        return Settled(failed_whole(chunk, name, reason), True)
    results, data = failure
    if results and type(results[-1]) is payload.Rest:
        results.pop()
    elif len(results) < chunk.count:
        item = shown_item(chunk, len(results))
        results.append(payload.ItemFailed(data, chunk.exception or "", item))
    return Settled(results, False)


def with_errors(chunk: Chunk, results: list[Any], session: Session) -> list[Any]:
    """Returns results of a chunk as the program gets them: with an exception in the place of each ``ItemFailed``.

    Args:
        chunk: The chunk.
        results: Its results, in the order of the items.
        session: Cluster of the map.
    """
    return [
        item_error(session, chunk.first + place, result.error, result.text, result.item)
        if type(result) is payload.ItemFailed
        else result
        for place, result in enumerate(results)
    ]


def item_error(
    session: Session, number: int, data: bytes | payload.PlainOnly, text: str, item: str
) -> Exception:
    """Returns the exception of an item, with the remote traceback as cause and a note that names the item.

    A ``JobError`` takes the place of an exception that cannot be rebuilt here, or that would end this program
    (``sys.exit`` in an item).

    Args:
        session: Cluster of the map.
        number: Number of the item in the map, from 0.
        data: The pickled exception; empty if it could not be pickled.
        text: The remote traceback.
        item: The item as ``repr`` shows it, shortened.
    """
    text = explain(text, session.shipped.base, session.options.files, None)
    raised = payload.load_exception(data, text) if data else None
    if not isinstance(raised, Exception):
        message = f"item {number} of the map failed: {text if raised is None else of_error(raised)}"
        error = JobError(message)
        error.raised = raised
        error.__cause__ = raised.__cause__ if raised is not None else None
        raised = error
    elif advice_in(text):
        raised.add_note(advice_in(text))
    raised.add_note(f"item {number} of the map of {session.name}: {item}")
    return raised


def shown_item(chunk: Chunk, place: int) -> str:
    """Returns the shortened ``repr`` of an item, for the note of its exception.

    If the items cannot be unpickled here, the text gives the size of the whole chunk (bytes) instead. ``place`` is
    the item's index in the chunk, from 0.
    """
    try:
        return short_repr(payload.load_items(chunk.items)[place])
    except Exception:  # the items cannot be rebuilt: this may be why the chunk failed
        return f"<not shown: {counted(len(chunk.items), 'byte')}>"


def chunk_error(chunk: Chunk, name: str, reason: str) -> LostError:
    """Returns a new ``LostError`` for a chunk that failed as a whole; its text names the items by number.

    Args:
        chunk: The chunk.
        name: Name of the cluster.
        reason: Why it failed: a sentence or a traceback.
    """
    last = chunk.first + chunk.count - 1
    which = f"item {last}" if chunk.count == 1 else f"items {chunk.first} to {last}"
    error = LostError(f"{which} of the map of {name}: {reason}")
    if chunk.count == 1:
        error.add_note(f"item {last} of the map: {shown_item(chunk, 0)}")
    return error


def failed_whole(chunk: Chunk, name: str, reason: str) -> list[Any]:
    """Returns a list with one ``chunk_error`` for each item of a chunk, as the results of its items.

    Each is an object of its own, as raising an exception changes that.
    """
    return [chunk_error(chunk, name, reason) for _ in range(chunk.count)]
