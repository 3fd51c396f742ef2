"""Names of clients and nodes in the scheduling core."""

from __future__ import annotations

from typing import NewType

ClientId = NewType("ClientId", int)
NodeId = NewType("NodeId", bytes)
Seconds = float
