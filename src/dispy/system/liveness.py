"""Whether a process still lives that wrote down who it is: by its PID and start time, as ``/proc`` has them.

A PID alone may be another process's by now. Both count in one PID namespace only: for a process in another container
the answer is that we do not know.
"""

from __future__ import annotations

import os
from typing import Annotated

import msgspec
from msgspec import Meta

from dispy.system.processes import boot_id


class Process(msgspec.Struct, frozen=True):
    """A process, by what no other process of this boot of the machine has."""

    pid: Annotated[int, Meta(gt=0)]
    started: int = 0
    """Clock ticks from boot to its start. No change of the wall clock moves it."""
    namespace: str = ""
    """Boot, and namespace of PIDs, in which the two count. Empty: nobody can tell whether the process lives."""


def this_process() -> Process:
    """The one that asks."""
    pid = os.getpid()
    started = _started(pid)
    return Process(pid) if started is None else Process(pid, started, _namespace())


def is_alive(process: Process) -> bool | None:
    """Whether a process lives; None if that cannot be seen from here."""
    if not process.namespace or process.namespace != _namespace():
        return None
    try:
        os.kill(process.pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    started = _started(process.pid)
    # Where /proc is mounted with hidepid, it does not show a process that is not dumpable, such as a node.
    return None if started is None else started == process.started


def _namespace() -> str:
    boot = boot_id()
    try:
        if not boot or os.readlink("/proc/self") != str(os.getpid()):
            return ""  # /proc is that of another PID namespace, and counts otherwise than we do
        names = [boot, os.readlink("/proc/self/ns/pid")]
        if os.path.lexists("/proc/self/ns/time"):
            names.append(os.readlink("/proc/self/ns/time"))
        return " ".join(names)
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When a process was started (ticks); 0 for one that is dead and not waited for; None if that is hidden."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in brackets, may hold anything.
            fields = file.read().rpartition(b")")[2].split()
        return 0 if fields[0] in b"ZXx" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None
