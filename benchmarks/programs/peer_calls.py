"""Functions that ``peers`` has every library call. They are imported where they run."""

from __future__ import annotations

import time
from typing import Any


def noop(value: int) -> int:
    """Nothing."""
    return value


def pause(seconds: float) -> None:
    """Hold a process for some time without using its CPU, so that other load of the machine matters less."""
    time.sleep(seconds)


def total(array: Any) -> float:
    """Sum of a large array: little work, much to bring."""
    return float(array[::4096].sum())
