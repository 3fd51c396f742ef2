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
