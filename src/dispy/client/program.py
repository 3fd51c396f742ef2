"""The program that a path as computation stands for."""

from __future__ import annotations

import os
import shutil

from dispy import config
from dispy.errors import UsageError
from dispy.worker.program import Program

_INTERPRETED = (".py", ".java")
"""What ends so is started by something else, and needs no executable bit."""


def find_program(path: str) -> Program:
    """Read a program that nodes are to run.

    Args:
        path: A file, or the name of a program in ``PATH``.

    Raises:
        UsageError: There is none, or it cannot be run.
    """
    found = path if os.path.exists(path) or os.sep in path else shutil.which(path) or path
    try:
        with open(found, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            content = file.read()
    except FileNotFoundError:
        raise UsageError(
            f"program {path!r} is neither a file here nor a program in PATH",
            hint="give its path, relative to the current directory or absolute",
        ) from None
    except OSError as error:
        raise UsageError(f"program {path!r} cannot be read: {error}") from error
    if not mode & 0o111 and not path.lower().endswith(_INTERPRETED):
        raise UsageError(f"program {path!r} has no executable bit", hint=f"chmod +x {path}")
    if config.MaxFileSize and len(content) > config.MaxFileSize:
        raise UsageError(
            f"program {path!r} has {len(content)} bytes, and dispy.config.MaxFileSize is {config.MaxFileSize}"
        )
    return Program(os.path.basename(found), content, mode, config.Java)
