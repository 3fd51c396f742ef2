"""Lists the files below a directory of the program's machine, and says where a path lands on a node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dispy.errors import UsageError
from dispy.system import current_directory

_SKIPPED = ("__pycache__",)
"""Names of directories that are not sent: Python makes the compiled code in them anew."""
_SKIPPED_ENDINGS = (".pyc", ".pyo")
"""Endings of the names of files with compiled Python, which are not sent."""


def place_of(path: str, base: Path | None) -> str:
    """Returns the path at which a file or directory lands in a working directory; empty for ``base`` itself.

    Args:
        path: Path of a file or directory, absolute or relative to the current directory.
        base: Directory. Paths below it keep their place relative to it; all others land at the top, by their last
            name. None: all paths do.

    Raises:
        UsageError: The path is relative, and the current directory was removed.
    """
    absolute = os.path.abspath(current_directory.absolute(path, "file"))
    if base is None:
        return os.path.basename(absolute)
    # Compare paths as they are named, and then with links resolved: a working directory may be reached by a link.
    for ours, theirs in ((str(base), absolute), (os.path.realpath(base), _real(absolute))):
        if theirs == ours:
            return ""
        if theirs.startswith(ours.rstrip("/") + "/"):
            return theirs[len(ours.rstrip("/")) + 1 :]
    return os.path.basename(absolute)


def _real(path: str) -> str:
    """Returns a path with links in its directories resolved, but not its last name.

    So a link is placed where it lies itself, not where it leads.
    """
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def walk(top: str, *, follows_links: bool = False) -> Iterator[tuple[str, str]]:
    """Yields each file below a directory as two paths: one to open it by, and one relative to the directory.

    Names within one directory are in alphabetical order. Compiled Python is left out: nodes make it anew.

    Args:
        top: The directory.
        follows_links: Yield files that links lead to, wherever they are: some installers make packages of links. Each
            directory that a link leads to is entered once.

    Raises:
        UsageError: A directory cannot be read; or links are not followed, and one leads to a directory or out of
            ``top``.
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
                names.remove(name)  # entered already: the walk would have no end
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
    """True if a path ends as a file with compiled Python does (".pyc"), which is not sent: nodes make it anew."""
    return path.endswith(_SKIPPED_ENDINGS)


def _refuse(error: OSError) -> None:
    """Raise UsageError for an unreadable directory; called by ``os.walk``, which would leave it out silently."""
    raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error
