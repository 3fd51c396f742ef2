"""Tells whether a process still lives that has noted its PID and start time, as ``/proc`` has them.

A PID alone may belong to another process by now. PID and start time are valid in one PID namespace only: for a
process in another container the answer is None, not known."""

from __future__ import annotations

import os
from typing import Annotated

import msgspec
from msgspec import Meta

from dispy.system.processes import boot_id


class Process(msgspec.Struct, frozen=True):
    """A process, by properties that no other process of this boot of the machine shares.

    Attributes:
        pid: PID of the process.
        started: Start of the process (clock ticks after boot, which no change of the wall clock moves). It tells the
            process from a later one with the same PID.
        namespace: Names of the boot, the PID and the time namespace in which ``pid`` and ``started`` are valid.
            Empty: they are not known, and others cannot tell whether the process lives.
    """

    pid: Annotated[int, Meta(gt=0)]
    started: int = 0
    namespace: str = ""


def this_process() -> Process:
    """Returns the calling process, to be noted in a file by which others can tell whether it lives.

    Where ``/proc`` does not show the start time, others cannot tell (``is_alive`` returns None).
    """
    pid = os.getpid()
    started = _started(pid)
    return Process(pid) if started is None else Process(pid, started, _namespace())


def is_alive(process: Process) -> bool | None:
    """True if a process lives, False if it has ended or is a zombie.

    None if that cannot be seen from here: the caller must not take the process for dead.
    """
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
    """Returns the names of our boot and our PID and time namespaces, within which PID and start time are valid.

    Empty if they are not known, or ``/proc`` is that of another PID namespace.
    """
    boot = boot_id()
    try:
        if not boot or os.readlink("/proc/self") != str(os.getpid()):
            return ""  # /proc is that of another PID namespace, and numbers processes differently
        names = [boot, os.readlink("/proc/self/ns/pid")]
        if os.path.lexists("/proc/self/ns/time"):
            names.append(os.readlink("/proc/self/ns/time"))
        return " ".join(names)
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Returns when a process was started (clock ticks after boot); 0 for a zombie.

    None if ``/proc`` does not show the process, since it has ended or is hidden.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name of the program, in brackets, may hold any characters.
            fields = file.read().rpartition(b")")[2].split()
        return 0 if fields[0] in b"ZXx" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None
