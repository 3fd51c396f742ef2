"""Faults that end a connection: those of the peer, who has broken a rule, and our own."""

from __future__ import annotations

from typing import Any

import msgspec

from dispy.errors import DispyError, InternalError
from dispy.protocol import limits

_OF_PEER = (DispyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Exceptions by which something that a peer has said ends its connection."""


def is_of_peer(error: Exception) -> bool:
    """True if an exception says that the peer has broken a rule; False: it is a fault of ours, to be reported.

    A message of an unknown type, or with a field out of its bounds, is refused while it is decoded
    (``msgspec.DecodeError``): so no handler of messages has a case for it.
    """
    return isinstance(error, _OF_PEER) and not isinstance(error, InternalError)


def too_large(message: Any, size: int) -> InternalError:
    """Returns the error for a message of ours that is longer (bytes) than peers accept."""
    what = f"a {type(message).__name__} of {size} bytes was to be sent"
    hint = "this is a fault of dispy: please report it"
    return InternalError(f"{what}; {limits.CONTROL_FRAME_MAX} are allowed", hint=hint)
