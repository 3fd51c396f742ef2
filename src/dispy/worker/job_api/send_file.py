"""Files that a job sends to its client, part by part: each part is acknowledged before the next one is read."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable

from dispy.protocol import limits
from dispy.protocol.files import MODE_BITS, check_path
from dispy.protocol.node import FilePart
from dispy.protocol.worker import SentAcknowledged

_PAUSE_S = 0.05
"""Pause before a part that has not arrived is sent again (seconds), doubled each time up to ``_PAUSE_MAX_S``. The
client's connection may be broken meanwhile, and come back."""
_PAUSE_MAX_S = 0.5
"""Longest pause before a part of a file is sent again (seconds)."""

# Bound here, as jobs may replace them in the module.
_monotonic = time.monotonic
_sleep = time.sleep

SendPart = Callable[[memoryview, FilePart, float | None], SentAcknowledged | None]
"""Function that sends one part of a file and waits for its acknowledgement. Arguments: content; file and position;
longest wait in seconds (None: for ever). Returns the acknowledgement, None if none has come in that time."""


def send_file(
    path: str, directory: str, transfer: int, send_part: SendPart, timeout: float | None, size_max: int
) -> str:
    """Send a file; returns why it has not arrived, empty if it has.

    Args:
        path: Path of the file. Below ``directory`` the file keeps its place there; otherwise only its name goes
            along.
        directory: The working directory of the computation.
        transfer: Number that tells this file from others of the job.
        send_part: Function that sends one part to the program and returns its acknowledgement: whether the program
            has written it, or why not.
        timeout: Time without an acknowledgement after which the file is given up (seconds); None: never.
        size_max: Largest size of the file (bytes); 0: any size.
    """
    try:
        name = name_for(path, directory)
        check_path(name)
        # A pipe would block, and a device is no file.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        return str(error)
    try:
        return _send(descriptor, name, transfer, send_part, timeout, size_max)
    except OSError as error:
        return str(error)
    finally:
        os.close(descriptor)


def name_for(path: str, directory: str) -> str:
    """Returns the name of a file at the client: its path below the working directory; for a file elsewhere, its name
    without directories."""
    path = os.path.abspath(path)
    # Links on the way do not count, the file's own name does.
    given = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    base = os.path.realpath(directory) + os.sep
    return given[len(base) :] if given.startswith(base) else os.path.basename(given)


def _send(
    descriptor: int, name: str, transfer: int, send_part: SendPart, timeout: float | None, size_max: int
) -> str:
    """Send an open file in parts of ``FILE_PART`` bytes, one part at least; returns why it has not arrived, or "".

    Raises:
        OSError: The file is not an ordinary one, has more than ``PAYLOAD_MAX`` bytes, or cannot be read.
    """
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        raise OSError(errno.EINVAL, "not an ordinary file", name)
    size = before.st_size
    if size_max and size > size_max:
        return f"it has {size} bytes, and this node sends files of up to {size_max} (dispynode --max_file_size)"
    if size > limits.PAYLOAD_MAX:
        raise OSError(errno.EFBIG, f"more than {limits.PAYLOAD_MAX} bytes", name)
    buffer = memoryview(bytearray(min(size, limits.FILE_PART)))
    offset = 0
    while True:
        wanted = min(limits.FILE_PART, size - offset)
        data = buffer[:wanted]
        is_short = os.preadv(descriptor, [data], offset) != wanted if wanted else False
        now = os.fstat(descriptor)
        if is_short or (now.st_size, now.st_mtime_ns) != (size, before.st_mtime_ns):
            # What has been sent is dropped when the job ends, and is not to be seen before.
            return "it was changed while it was sent"
        mode = before.st_mode & MODE_BITS
        times = max(0, before.st_atime_ns), max(0, before.st_mtime_ns)
        part = FilePart(transfer, name, size, mode, *times, offset)
        reason = _deliver(data, part, send_part, timeout)
        if reason:
            return reason
        offset += wanted
        if offset == size:
            return ""


def _deliver(data: memoryview, part: FilePart, send_part: SendPart, timeout: float | None) -> str:
    """Send a part again and again until it has arrived, or ``timeout`` seconds are over. Sending twice does no harm.

    Returns:
        Why the part has not arrived: the client has refused it, or the time is over; empty if it has arrived.
    """
    deadline = None if timeout is None else _monotonic() + timeout
    pause = _PAUSE_S
    while True:
        left = None if deadline is None else max(0.0, deadline - _monotonic())
        answer = send_part(data, part, left)
        if answer is not None and answer.delivered:
            return ""
        if answer is not None and answer.reason:
            return answer.reason
        if deadline is not None and _monotonic() + pause > deadline:
            return f"its client does not take it: nothing of it has arrived for {timeout:g} s"
        _sleep(pause)
        pause = min(2 * pause, _PAUSE_MAX_S)
