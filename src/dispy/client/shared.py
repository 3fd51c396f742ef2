"""Public names of dispy 4 that are not available yet. Using one raises an error that says what to do instead."""

from __future__ import annotations

from typing import Any

from dispy.not_yet import NAMES, not_yet


class SharedJobCluster:
    """A cluster at a scheduler that many programs share. Not available yet: making one raises ``NotYetError``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise not_yet("SharedJobCluster", NAMES["SharedJobCluster"])
