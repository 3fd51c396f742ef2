"""Jobs that several test modules use."""

from __future__ import annotations

import os
import time
from typing import Any


def name_and(value: Any = None, seconds: float = 0) -> tuple[str, Any]:
    """Where it ran, and what it was given."""
    time.sleep(seconds)
    return dispy_node_name, value


def until(path: str) -> str:
    """Runs until a file exists."""
    while not os.path.exists(path):
        time.sleep(0.005)
    return dispy_node_name
