"""References to objects that were put: numbers in pickles, the objects themselves in jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Reference:
    """Stand-in for an object that was put, by its number; a job that gets a reference as argument gets the object.

    Args:
        number: Number of the object, unique in the program. Pickles hold this number alone.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        used.append((threading.get_ident(), self))
        return stored, (self.number,)


def stored(number: int) -> Any:
    """Returns the value that the reference of a number is unpickled to (``find_object``); pickles call this function.

    What ``find_object`` raises passes through.
    """
    return find_object(number)


def _find_nothing(number: int) -> Any:
    """Raise LookupError: this process is neither a worker nor a client, and has no objects."""
    raise LookupError(f"object {number} is not here: references are for the arguments of jobs")


find_object: Callable[[int], Any] = _find_nothing
"""Returns the value for a number: in a worker the object that was put, in a client a reference to it.

``worker.loop`` and ``client.session.objects`` set it; before that, it raises LookupError.
"""


def is_nowhere() -> bool:
    """True if this process is neither a worker nor a client yet: ``find_object`` finds nothing."""
    return find_object is _find_nothing


reference_type: type[Reference] = Reference
"""Class of references in this program: ``calls`` knows references among arguments by it. The client sets its ``Ref``.

Values of subclasses are pickled instead, which takes longer.
"""

used: list[tuple[int, Reference]] = []
"""References that were pickled and that ``take_used`` has not returned yet, in the order of pickling.

Each is behind the identifier of the thread that pickled it (``threading.get_ident``).
"""


def has_used() -> bool:
    """True if any thread has pickled references that ``take_used`` has not returned yet: a quick look per job."""
    return bool(used)


def take_used() -> list[Any]:
    """Returns the references that this thread has pickled since its last call, in that order, and forgets them.

    Call this after pickling, and keep the references as long as the pickle is in use: an object is freed on nodes
    when no reference to it is left. Call it before pickling, too: it drops references of a pickle that failed.
    """
    this = threading.get_ident()
    if len(used) == 1 and used[0][0] == this:
        # No other thread removes an entry of this thread.
        return [used.pop(0)[1]]
    taken = [entry for entry in list(used) if entry[0] == this]
    for entry in taken:
        used.remove(entry)
    return [reference for _, reference in taken]
