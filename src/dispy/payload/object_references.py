"""References to objects that were put, as they go into pickles and come out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Reference:
    """Stands for an object that was put, by its number; in a job there is the object in its place."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        used.append((threading.get_ident(), self))
        return stored, (self._number,)


def stored(number: int) -> Any:
    """What a reference is unpickled to."""
    return find_object(number)


def _find_nothing(number: int) -> Any:
    raise LookupError(f"object {number} is not here: references are for the arguments of jobs")


find_object: Callable[[int], Any] = _find_nothing
"""Finds what was put under a number, for whom is set here: a worker gets the object, a client its reference."""

reference_type: type[Reference] = Reference
"""The class of references here."""

used: list[tuple[int, Reference]] = []
"""References that were pickled and not yet asked for by ``take_used``, with the thread that did so."""


def has_used() -> bool:
    """Whether some thread has pickled references."""
    return bool(used)


def take_used() -> list[Any]:
    """The references that this thread has pickled since the last call."""
    this = threading.get_ident()
    if len(used) == 1 and used[0][0] == this:
        # Nobody else takes what is ours.
        return [used.pop(0)[1]]
    taken = [entry for entry in list(used) if entry[0] == this]
    for entry in taken:
        used.remove(entry)
    return [reference for _, reference in taken]
