"""Proofs that the content of a file in the store was hashed and found right, so that it is not hashed again.

There are three proofs, from the cheapest to the most lasting:

- In memory: what ``fstat`` said when this process found it right (``seen``).
- A *mark*: an extended attribute of the file, for other nodes and later ones. Only files that were never lent to a
  job have it, since a job could keep the time of writing that it is made of.
- A *note*: a file beside a file that was lent to a job of our own account. It holds the time of change of the inode,
  which a job that writes to the file cannot keep. A write through a page that is mapped and was written to before
  changes no time at all: so nobody has the file open for writing when the proof is made (``is_open_for_writing``).

Marks and notes name the boot of the machine: what was not on disk when the machine stopped is not there in the next
one. So no ``fsync`` is needed.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import signal
import time

from dispy.system.processes import boot_id

_MARK = "user.dispy.seen"
"""Name of the extended attribute that holds the mark of a file: boot, inode, size (bytes) and time of writing
(ns)."""


def seen(status: os.stat_result) -> tuple[int, int, int, int]:
    """Returns inode, size (bytes), time of writing and time of change (ns since the epoch) of a file.

    The tuple changes when the file is written to, when a link to it is made (lent), and when one is removed.
    """
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def mark(descriptor: int) -> None:
    """Mark a file as verified, where the file system has extended attributes. Its content must have been hashed."""
    with contextlib.suppress(OSError):
        os.setxattr(descriptor, _MARK, _mark_of(os.fstat(descriptor)))


def unmark(descriptor: int) -> None:
    """Remove the mark of a file that is lent to a job that can write to it: without a note, other nodes hash it."""
    with contextlib.suppress(OSError):
        os.removexattr(descriptor, _MARK)


def has_mark(descriptor: int, status: os.stat_result) -> bool:
    """True if a node has verified this file during this boot, and it was not written to since."""
    try:
        return os.getxattr(descriptor, _MARK) == _mark_of(status)
    except OSError:
        return False


def is_open_for_writing(descriptor: int) -> bool:
    """True if a process has a file open for writing, also if that is only a mapping left of it, or if nobody can
    tell.

    The kernel tells by a lease to read (fcntl(2), F_SETLEASE), which it refuses then. The lease is given back at
    once. If somebody opens the file in between, the signal is one that is ignored by default.

    Args:
        descriptor: The file, ours, open for reading only.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False


def _mark_of(status: os.stat_result) -> bytes:
    """Returns the mark of a file with this status, as text: boot, inode, size (bytes), time of writing (ns)."""
    return f"{_boot()} {(status.st_ino, status.st_size, status.st_mtime_ns)}".encode()


def note_of(status: os.stat_result) -> bytes:
    """Returns the content of the note beside a lent file with this status: boot and tuple of ``seen``, as text.

    The note has the time of change, which a job that writes to the file cannot keep, unlike the time of writing. So
    if the note is still equal to ``note_of`` the file's present status, no job has written to the file.
    """
    return f"{_boot()} {seen(status)}".encode()


@functools.cache
def _boot() -> str:
    """Returns the id of this boot of the machine.

    If the kernel has none, the id stands for this process alone, so that no mark or note of another process counts.
    """
    return boot_id() or f"{os.getpid()}-{time.time_ns()}"
