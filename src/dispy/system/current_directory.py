"""The current directory of a program, which may be gone: looked at only for what is relative to it."""

from __future__ import annotations

import os
from pathlib import Path

from dispy.errors import UsageError


def directory() -> Path | None:
    """The current directory; None if it was removed."""
    try:
        return Path.cwd()
    except OSError:
        return None


def absolute(path: str | os.PathLike[str], what: str = "path") -> str:
    """A path that means the same wherever one is; not simplified, so links on the way are followed as they were.

    Args:
        path: Relative to the current directory, or absolute already.
        what: What the path is of, for the error.

    Raises:
        UsageError: It is relative, and the current directory was removed.
    """
    text = os.fspath(path)
    if os.path.isabs(text):
        return text
    try:
        return os.path.join(os.getcwd(), text)
    except OSError as error:
        raise UsageError(
            f"{what} {text!r} is relative to the current directory, and that was removed",
            hint="give an absolute path, or go to a directory that is there with os.chdir",
        ) from error


def expanded(path: str | os.PathLike[str], what: str = "path") -> str:
    """A path with the home directory for ``~`` or ``~NAME`` at its beginning.

    Args:
        path: As somebody wrote it.
        what: What the path is of, for the error.

    Raises:
        UsageError: There is no such directory.
    """
    text = os.fspath(path)
    if not text.startswith("~"):
        return text
    found = os.path.expanduser(text)
    if found.startswith("~"):
        raise UsageError(
            f"{what} {text!r}: the home directory {text.partition('/')[0]!r} is not known here",
            hint=f"give the whole path, or './{text}' for a file of that name",
        )
    return found


def own_file(path: str | os.PathLike[str] | None, what: str) -> str | None:
    """A file of the user's, by a path that means the same wherever one is; None if none is given.

    Args:
        path: Relative to the current directory, or to a home directory by ``~``; empty or None: none.
        what: What the path is of, for the error.

    Raises:
        UsageError: There is no such home directory, or the current one was removed.
    """
    return absolute(expanded(path, what), what) if path else None
