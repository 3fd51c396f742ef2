"""Files below a directory, and where a path lands on a node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dispy.errors import UsageError
from dispy.system import current_directory

_SKIPPED = ("__pycache__",)
_SKIPPED_ENDINGS = (".pyc", ".pyo")


def place_of(path: str, base: Path | None) -> str:
    """Where a file or directory lands: below ``base`` as it lies there, else by its last name."""
    absolute = os.path.abspath(current_directory.absolute(path, "file"))
    if base is None:
        return os.path.basename(absolute)
    # Both as they are named and as they are: a working directory may be reached by a link.
    for ours, theirs in ((str(base), absolute), (os.path.realpath(base), _real(absolute))):
        if theirs == ours:
            return ""
        if theirs.startswith(ours.rstrip("/") + "/"):
            return theirs[len(ours.rstrip("/")) + 1 :]
    return os.path.basename(absolute)


def _real(path: str) -> str:
    """A path whose directories are no links; what it names itself may be one."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def walk(top: str, *, follows_links: bool = False) -> Iterator[tuple[str, str]]:
    """The files below a directory, with their paths relative to it. Compiled Python is left out: it is made anew.

    Args:
        top: The directory.
        follows_links: Take what links lead to, wherever that is. Some installers make packages of links.

    Raises:
        UsageError: A link that leads out of it, or to a directory, and links are not followed.
    """
    real = os.path.realpath(top)
    seen = {real}
    for directory, names, files in os.walk(top, onerror=_refuse, followlinks=follows_links):
        names[:] = sorted(name for name in names if name not in _SKIPPED)
        for name in list(names):
            if not os.path.islink(f"{directory}/{name}"):
                continue
            if not follows_links:
                raise UsageError(
                    f"{directory}/{name} is a link to a directory",
                    hint="list the files themselves, or replace the link",
                )
            place = os.path.realpath(f"{directory}/{name}")
            if place in seen or real.startswith(place + os.sep):
                names.remove(name)  # or there would be no end
            seen.add(place)
        for name in sorted(files):
            path = f"{directory}/{name}"
            if is_compiled_python(name):
                continue
            if os.path.islink(path) and not follows_links:
                if not os.path.realpath(path).startswith(real + os.sep):
                    raise UsageError(
                        f"{path} is a link that leads out of {top}",
                        hint="list the file itself, or replace the link",
                    )
            yield path, os.path.relpath(path, top)


def is_compiled_python(path: str) -> bool:
    """Whether a file is made anew where it is needed."""
    return path.endswith(_SKIPPED_ENDINGS)


def _refuse(error: OSError) -> None:
    raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error
