"""Names of clients, computations and workers on a node."""

from __future__ import annotations

from typing import NewType

ClientId = NewType("ClientId", bytes)
Key = tuple[ClientId, int]
"""A computation: its client, and its number there."""
WorkerId = NewType("WorkerId", int)
Seconds = float
