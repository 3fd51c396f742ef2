"""Identifiers of clients, computations and workers on a node, and the unit of time."""

from __future__ import annotations

from typing import NewType

ClientId = NewType("ClientId", bytes)
"""Identity of a scheduler, the same over all its connections (16 bytes)."""
Key = tuple[ClientId, int]
"""A computation: its client, and its number at that client."""
WorkerId = NewType("WorkerId", int)
"""A worker process. Numbers are never used again while the node lives."""
Seconds = float
"""Seconds of a monotonic clock, or a duration in seconds."""
