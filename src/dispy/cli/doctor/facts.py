"""Facts about a machine that decide whether it can work with others: measured here, and by a job on each node."""

from __future__ import annotations

import platform
import resource
import shutil
import socket
import tempfile
import time
from typing import Any

MEMORY = "/dev/shm"


def machine_facts() -> dict[str, Any]:
    """Returns facts about the machine, and the process limits, of whoever calls this.

    Returns:
        ``time`` (seconds since the epoch), ``python`` and ``dispy`` (versions), ``host`` (its name), ``files_max``
        (descriptors of a process), ``processes_max`` (of the user; -1: no limit), ``memory_size`` (bytes of the
        memory file system; 0: there is none), ``disks`` (free bytes by directory).
    """
    from dispy import __version__
    from dispy.system.directories import state_directory

    disks = {}
    for directory in (tempfile.gettempdir(), _text_or_none(state_directory)):
        if directory is not None:
            try:
                disks[directory] = shutil.disk_usage(directory).free
            except OSError:
                continue
    try:
        memory = shutil.disk_usage(MEMORY).total
    except OSError:
        memory = 0
    return {
        "time": time.time(),
        "python": platform.python_version(),
        "dispy": __version__,
        "host": socket.gethostname(),
        "files_max": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "processes_max": resource.getrlimit(resource.RLIMIT_NPROC)[0],
        "memory_size": memory,
        "disks": disks,
    }


def _text_or_none(directory: Any) -> str | None:
    """Returns the path that a function returns, as text; None if it raises an error, which others report."""
    from dispy.errors import DispyError

    try:
        return str(directory())
    except (DispyError, OSError):
        return None
