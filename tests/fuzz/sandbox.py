"""A view of the file system of this process's own, in which nothing but a fuzzer's place can be written.

A hostile job puts links to ``/`` where a node removes trees. A node that follows one would remove the machine. So
the process leaves the mount namespace of the machine before it starts any node: everything is read-only then,
``/dev/shm`` is a new one, and only the place is as before.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_LEFT_ALONE = ("/proc", "/dev/pts")
"""Mount points that stay as they are: nothing of them can be removed."""


def enter(place: Path) -> str:
    """Move this process, and all that it starts from now on, into a mount namespace of its own. Call before threads.

    Args:
        place: The only directory that stays writable, beside a new ``/dev/shm``.

    Returns:
        Empty if that was done; else the reason why not, and nothing has changed for others.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
        encoded = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
        if libc.mount(*encoded, ctypes.c_ulong(flags), None) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"mount {target}: {os.strerror(error)}")

    if libc.unshare(_CLONE_NEWNS) != 0:
        return f"no mount namespace can be made: {os.strerror(ctypes.get_errno())}"
    try:
        mount(None, "/", None, _MS_REC | _MS_PRIVATE)
        mount(str(place), str(place), None, _MS_BIND)
        mount("tmpfs", "/dev/shm", "tmpfs", 0)
        os.chmod("/dev/shm", 0o1777)
        for point in _mount_points():
            if point not in (str(place), "/dev/shm") and not point.startswith(_LEFT_ALONE):
                mount(None, point, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)
        if os.access("/", os.W_OK) or not os.access(place, os.W_OK):
            return "the file system cannot be made read-only"
    except OSError as error:
        return str(error)
    return ""


def _mount_points() -> list[str]:
    """Mount points of this process, each once, as the kernel lists them."""
    found: dict[str, None] = {}
    with open("/proc/self/mountinfo") as file:
        for line in file:
            found[line.split()[4].encode().decode("unicode_escape")] = None
    return list(found)
