"""The last events of a state machine, kept for the moment in which the machine finds its own state impossible.

A machine notes each event as it begins with it: its type, whom it is about, and the time. When handling an event
fails, ``History.fault`` makes the ``InternalError`` that names this event and those before it.

Events themselves are not kept: they hold arguments and results, and 64 batches of 8 MiB would stay in memory for
nothing. A type, a name and a time cost one tuple and one append per event, which is a batch of jobs on the path of a
job. All words are made when there is a fault.
"""

from __future__ import annotations

from collections import deque
from itertools import groupby
from typing import Any

from msgspec import Struct

from dispy.errors import InternalError
from dispy.protocol.describe import describe

EVENTS_MAX = 64
"""Events of which a machine remembers type, subject and time."""

EVENT_MAX = 500
"""Characters of the description of the event that a machine has failed at; the rest is replaced by "…"."""

SUBJECT_MAX = 40
"""Characters of the text that says whom an earlier event was about."""

Note = tuple[type[Any] | str, Any, float | None]
"""An event that has come: its type, or its name if it has none; whom it is about (the identity of a node or client, a
number, a name; None: not noted); and the time (seconds, on the machine's clock; None: not noted)."""


class History:
    """The last ``EVENTS_MAX`` events of one machine.

    Args:
        machine: What the machine is, in words, with its article: "the scheduling core".

    Attributes:
        notes: What was noted of the events, oldest first. The machine appends to it before it handles an event.
    """

    __slots__ = ("_machine", "notes")

    def __init__(self, machine: str) -> None:
        self._machine = machine
        self.notes: deque[Note] = deque(maxlen=EVENTS_MAX)

    def fault(self, event: Struct | str, now: float | None = None) -> InternalError:
        """Returns the error that says at which event the machine has failed, and what came before: raise it ``from``
        the exception.

        Args:
            event: The event that was handled, or words for it.
            now: Its time (seconds, on the machine's clock); None: the machine knows no time.
        """
        return InternalError(
            f"{self._machine} has failed at {_described(event)}",
            hint="this is a fault of dispy: please report it",
            events=self.lines(now),
        )

    def lines(self, now: float | None = None) -> tuple[str, ...]:
        """Returns a line for each event that was noted, oldest first: seconds before ``now``, type, subject.

        Equal ones in a row are one line, with the time of the last.
        """
        # A copy: other threads may add to the history of a connection.
        runs = [list(run) for _, run in groupby(self.notes.copy(), lambda note: note[:2])]
        return tuple([_line(run[-1], len(run), now) for run in runs])


def subject_of(event: Struct) -> Any:
    """Returns whom an event is about: the value of its first field if that is a name or a number, else None. For
    machines that are not on the path of a job."""
    fields = type(event).__struct_fields__
    subject = getattr(event, fields[0]) if fields else None
    return subject if isinstance(subject, (bytes, int, str)) else None


def _line(note: Note, count: int, now: float | None) -> str:
    kind, subject, at = note
    words = [kind if isinstance(kind, str) else kind.__name__]
    if at is not None and now is not None:
        words.insert(0, f"{at - now:+.3f} s")
    if subject is not None:
        words.append(_subject(subject)[:SUBJECT_MAX])
    if count > 1:
        words.append(f"({count} times)")
    return " ".join(words)


def _subject(subject: Any) -> str:
    """Returns words for whom an event was about: the first bytes of an identity, a number, or a name."""
    return subject[:4].hex() if isinstance(subject, bytes) else str(subject)


def _described(event: Struct | str) -> str:
    """Returns one line that names an event, with sizes in place of all that users have made."""
    try:
        text = event if isinstance(event, str) else describe(event)
    except Exception:  # what is in the event may be what has made the machine fail
        text = type(event).__name__
    return text if len(text) <= EVENT_MAX else text[: EVENT_MAX - 1] + "…"
