"""Public names whose time has not come: they say so instead of failing in odd ways."""

from __future__ import annotations

from typing import Any

from dispy.not_yet import NAMES, not_yet


class SharedJobCluster:
    """A cluster at a scheduler that many programs share. Not available yet."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise not_yet("SharedJobCluster", NAMES["SharedJobCluster"])
