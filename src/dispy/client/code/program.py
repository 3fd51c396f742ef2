"""The program that a path as computation stands for."""

from __future__ import annotations

import os
import shutil
import stat

from dispy.errors import UsageError

_INTERPRETED = (".py", ".java")
"""What ends so is started by something else, and needs no executable bit."""


def find_program(path: str) -> str:
    """Find a program that nodes are to run; returns the path of its file.

    Args:
        path: A file, or the name of a program in ``PATH``.

    Raises:
        UsageError: There is none, or it cannot be run.
    """
    found = path if os.path.exists(path) or os.sep in path else shutil.which(path) or path
    try:
        mode = os.stat(found).st_mode
    except (FileNotFoundError, ValueError):  # or no path at all
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
