"""The commands that a reader types, as files in a directory: what an installation puts on ``PATH``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

MODULES = {
    "dispy": "dispy.cli.main",
    "dispynode": "dispy.cli.node",
    "dispyscheduler": "dispy.cli.scheduler",
}


def commands_on_path(root: Path) -> str:
    """Make ``python`` and the commands of dispy, for the interpreter of the tests; returns a ``PATH`` with them.

    Args:
        root: Directory of the test; they are in ``bin`` below it.
    """
    directory = root / "bin"
    directory.mkdir(exist_ok=True)
    for name, module in [*MODULES.items(), ("python", "")]:
        words = f"-m {module} " if module else ""
        write_command(directory / name, f'exec "{sys.executable}" {words}"$@"\n')
    return f"{directory}{os.pathsep}{os.environ['PATH']}"


def write_command(path: Path, script: str) -> None:
    """Makes a command of a shell script."""
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)
