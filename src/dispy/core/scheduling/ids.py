"""Identifiers of clients and nodes in the scheduling core, and its unit of time."""

from __future__ import annotations

from typing import NewType

from dispy.protocol.views import NodeId

__all__ = ["ClientId", "NodeId", "Seconds"]

ClientId = NewType("ClientId", int)
"""Number of a client that opens computations. The shell chooses it, and finds it in actions for that client."""
Seconds = float
"""A time in seconds of the shell's monotonic clock, or a duration in seconds."""
