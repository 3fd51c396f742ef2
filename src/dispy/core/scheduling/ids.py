"""Identifiers of clients and nodes in the scheduling core, and its unit of time."""

from __future__ import annotations

from typing import NewType

ClientId = NewType("ClientId", int)
"""A client of this scheduler. The shell chooses the number."""
NodeId = NewType("NodeId", bytes)
"""An incarnation of a node: a node that is started anew has another one."""
Seconds = float
"""Seconds of a monotonic clock, or a duration in seconds."""
