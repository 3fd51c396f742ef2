"""A module of the user's own with a class, beside the script ``code_jobs.py``."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class ModulePoint:
    """A small value."""

    x: int
    y: float
    name: str = "point"
