"""Identifiers of clients and nodes in the scheduling core, and its unit of time."""

from __future__ import annotations

from typing import NewType

from dispy.protocol.views import NodeId

__all__ = ["EMBEDDED", "ClientId", "Key", "NodeId", "Seconds"]

ClientId = NewType("ClientId", int)
"""Number of a client that opens computations. The shell chooses it, and finds it in actions for that client."""
EMBEDDED = ClientId(0)
"""The only client of a scheduler that is part of a program: the program itself."""
Key = tuple[ClientId, int]
"""Name of a computation: its client, then its number at that client. Nodes know it by another number
(``Computation.wire``)."""
Seconds = float
"""A time in seconds of the shell's monotonic clock, or a duration in seconds."""
