"""Identifiers of clients, computations and workers on a node, and the unit of time."""

from __future__ import annotations

from typing import NewType

ClientId = NewType("ClientId", bytes)
"""Identity of a scheduler, the same over all its connections (16 bytes)."""
Key = tuple[ClientId, int]
"""Name of a computation on a node: the identity of its client, then its number at that client."""
WorkerId = NewType("WorkerId", int)
"""Number of a worker process, from 1. Numbers are never used again while the node lives."""
Seconds = float
"""A time in seconds of the shell's monotonic clock, or a duration in seconds."""
