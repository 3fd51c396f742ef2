"""Paths relative to the current directory or to a home directory. The current directory may have been removed.

So the current directory is looked at only for paths that are relative to it.
"""

from __future__ import annotations

import os
from pathlib import Path

from dispy.errors import UsageError


def directory() -> Path | None:
    """Returns the current directory; None if it was removed."""
    try:
        return Path.cwd()
    except OSError:
        return None


def absolute(path: str | os.PathLike[str], what: str = "path") -> str:
    """Returns a path made absolute. It is not simplified, so links on the way are followed as before.

    Args:
        path: A path relative to the current directory, or an absolute one.
        what: The noun for the path in the error, such as "file".

    Raises:
        UsageError: The path is relative, and the current directory was removed.
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
    """Returns a path with the home directory in place of ``~`` or ``~NAME`` at its beginning.

    Args:
        path: A path as a user wrote it.
        what: The noun for the path in the error, such as "file".

    Raises:
        UsageError: The home directory is not known.
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
    """Returns the absolute path of a file that a user has named; None if the user has named none.

    Args:
        path: An absolute path, or one relative to the current directory or by ``~`` to a home directory; empty or
            None: none.
        what: The noun for the path in the error, such as "file".

    Raises:
        UsageError: The home directory is not known, or the current directory was removed.
    """
    return absolute(expanded(path, what), what) if path else None
