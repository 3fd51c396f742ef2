"""The file of a program that is the computation of a cluster."""

from __future__ import annotations

import os
import shutil
import stat

from dispy.errors import UsageError

_INTERPRETED = (".py", ".java")
"""Endings of programs that an interpreter runs: their files need no executable bit."""


def find_program(path: str) -> str:
    """Find a program that nodes are to run. Returns the path of its file, which may be relative.

    Args:
        path: Path of a file, or the name of a program in ``PATH``.

    Raises:
        UsageError: There is no such program, or it cannot be run.
    """
    found = path if os.path.exists(path) or os.sep in path else shutil.which(path) or path
    try:
        mode = os.stat(found).st_mode
    except (FileNotFoundError, ValueError):  # ValueError: a text that cannot be a path
        raise UsageError(
            f"program {path!r} is neither a file here nor a program in PATH",
            hint="give its path, relative to the current directory or absolute",
        ) from None
    except OSError as error:
        raise UsageError(f"program {path!r} cannot be read: {error}") from error
    if not stat.S_ISREG(mode):
        raise UsageError(
            f"program {path!r} is not an ordinary file", hint="give the path of the program itself"
        )
    if not mode & 0o111 and not path.lower().endswith(_INTERPRETED):
        raise UsageError(f"program {path!r} has no executable bit", hint=f"chmod +x {path}")
    return found
