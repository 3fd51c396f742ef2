"""The states of a connection, and what it signals to its owner besides messages."""

from __future__ import annotations

import enum
from typing import Final


class State(enum.Enum):
    """State of a connection; the table is in ``machine``."""

    TLS = enum.auto()
    PROOF = enum.auto()
    READY = enum.auto()
    ENDED = enum.auto()


class Signal(enum.Enum):
    """Events that are no message of the peer."""

    PROVEN = enum.auto()
    """Both sides have proved themselves, and messages can be sent. Comes once, before all messages."""
    HANDLED = enum.auto()
    """A frame was handled that is for the machine alone. Others may have come behind it."""


PROVEN: Final = Signal.PROVEN
HANDLED: Final = Signal.HANDLED
