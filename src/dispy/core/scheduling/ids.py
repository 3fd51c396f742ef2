"""Identifiers of clients and nodes in the scheduling core, and its unit of time."""

from __future__ import annotations

from typing import NewType

ClientId = NewType("ClientId", int)
"""Number of a client that opens computations. The shell chooses it, and finds it in actions for that client."""
NodeId = NewType("NodeId", bytes)
"""Random identity of one run of a node (16 bytes). A node that is started anew has another one, and none of the
jobs."""
Seconds = float
"""A time in seconds of the shell's monotonic clock, or a duration in seconds."""
