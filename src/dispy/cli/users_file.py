"""Users of a shared scheduler, in a TOML file: what part each gets, and how much at most.

A table for each user, by login name: ``[alice]``, with ``weight`` (1 if not given), ``cpus_max`` and ``queued_max``.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from dispy.errors import UsageError
from dispy.settings import UserSettings


def load(path: str) -> dict[str, UserSettings]:
    """Read the users of a file, by login name.

    Raises:
        UsageError: The file cannot be read, or has a value that it cannot have; says which.
    """
    try:
        text = Path(path).read_text()
        return msgspec.convert(tomllib.loads(text), dict[str, UserSettings])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(
            f"--users {path}: {error}", hint="a table for each user: [alice], weight = 2, cpus_max = 8"
        ) from error
