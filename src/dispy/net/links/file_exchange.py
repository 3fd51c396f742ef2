"""Payloads that two processes of one machine and user give each other by name: files in memory, without a copy.

Each side has a directory on the memory file system, with a pool of files (``system.shared_memory``) and the
subdirectory ``GIVEN``. A side gives a payload by linking its file there, under a number; the other takes it over.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sized
from contextlib import suppress
from typing import Any

from dispy.system.directories import GIVEN, shared_place
from dispy.system.shared_memory import SharedPool


class FileExchange:
    """The exchange of payloads with one peer.

    Args:
        pool: Our files; None: payloads are not exchanged.
        here: Path of our directory; empty: we have none.
        theirs: Name of the peer's directory; empty: it has none.
    """

    def __init__(self, pool: SharedPool | None = None, here: str = "", theirs: str = "") -> None:
        self._pool = pool
        self._here = here
        self._there = shared_place(theirs) if pool is not None and theirs and here else ""
        self._numbers = itertools.count(int.from_bytes(os.urandom(5)) << 20)
        """Numbers of the files that we give: none is like one of another peer of theirs."""

    @property
    def is_possible(self) -> bool:
        """True if both sides see the directory of the other, as far as we know."""
        return bool(self._there)

    def give(self, payload: Any) -> int:
        """Link a payload's file into the peer's directory; returns its number, or 0: it has to be sent."""
        if not self._there or self._pool is None:
            return 0
        number = next(self._numbers)
        return number if self._pool.link(payload, f"{self._there}/{GIVEN}/{number}") else 0

    def take(self, number: int) -> Sized | None:
        """Returns the payload that the peer has given by this number; None if it is not there, or without memory."""
        if self._pool is None:
            return None
        path = f"{self._here}/{GIVEN}/{number}"
        try:
            return self._pool.adopt(path, "", is_lent=True)
        except (OSError, MemoryError):
            return None
        finally:
            with suppress(OSError):
                os.unlink(path)
