"""References to objects that were put: numbers in pickles, the objects themselves in jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Reference:
    """Stand-in for an object that was put, by its number; where a job gets a reference, it finds the object."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        used.append((threading.get_ident(), self))
        return stored, (self._number,)


def stored(number: int) -> Any:
    """Returns the value that a reference is unpickled to; pickles call it."""
    return find_object(number)


def _find_nothing(number: int) -> Any:
    raise LookupError(f"object {number} is not here: references are for the arguments of jobs")


find_object: Callable[[int], Any] = _find_nothing
"""Returns the value for a number: in a worker the object that was put, in a client a reference to it."""

reference_type: type[Reference] = Reference
"""Class of references in this program; the client sets its own."""

used: list[tuple[int, Reference]] = []
"""References that were pickled and that ``take_used`` has not returned yet, with the thread that pickled them."""


def has_used() -> bool:
    """True if any thread has pickled references that ``take_used`` has not returned yet."""
    return bool(used)


def take_used() -> list[Any]:
    """Returns the references that this thread has pickled since its last call."""
    this = threading.get_ident()
    if len(used) == 1 and used[0][0] == this:
        # No other thread removes an entry of this thread.
        return [used.pop(0)[1]]
    taken = [entry for entry in list(used) if entry[0] == this]
    for entry in taken:
        used.remove(entry)
    return [reference for _, reference in taken]
