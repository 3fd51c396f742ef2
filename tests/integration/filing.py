"""Files for tests of files: made, listed, looked for where nodes keep them."""

from __future__ import annotations

import os
from pathlib import Path

from dispy.node.staging.working_directories import name_of_owner
from dispy.security.owner_key import owner_key

from .helpers import Place, below


def write(base: Path, *paths: str) -> list[str]:
    """Make files that hold their own paths."""
    for path in paths:
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_text(path)
    return list(paths)


def listing() -> list[tuple[str, str]]:
    """All files in the working directory, with what is in them."""
    found = []
    for directory, _, names in os.walk("."):
        for name in names:
            if name.startswith(".dispy-"):
                continue  # what lay there before a job brought another
            path = os.path.normpath(os.path.join(directory, name))
            with open(path, encoding="latin-1") as file:
                found.append((path, file.read()))
    return sorted(found)


def fill(path: Path, size: int) -> bytes:
    """Make a file of chance bytes; returns them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = os.urandom(size)
    path.write_bytes(data)
    return data


def stored(place: Place) -> list[Path]:
    """Files in the stores of a place's nodes, whole or not."""
    return below(place.state / "dispy" / "store", "*/??/*")


def named(place: Place) -> Path:
    """Below this are working directories that have names, by their owner."""
    return place.temporary / f"dispy-files-{os.getuid()}" / name_of_owner(owner_key(), "")
