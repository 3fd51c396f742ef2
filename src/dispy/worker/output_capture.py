"""Capture of a job's output at the level of file descriptors.

Descriptors 1 and 2 are memory files opened for append, so output of C code and of child processes arrives too. The
positions of the files tell whether there is anything to read: a job that prints nothing costs two ``lseek``. A job
that prints without end does not fill memory, as the host removes the middle of what it has printed (``trim``).

The files are the node's, so that it can read what a running job has printed. While it does, ``sys.stdout`` must not
keep anything in its buffer: ``Capture.set_live``.
"""

from __future__ import annotations

import ctypes
import fcntl
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dispy.protocol.output import join_cut

_FALLOC_PUNCH = 0x03  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
"""Mode of ``fallocate`` that frees the memory of a part of a file, which then reads as zeros; the size stays."""
_PAGE = 4096
"""Bytes of a page: ``trim`` frees whole pages."""
_SAID_MAX = 16 * 1024
"""Bytes of output that ``overheard`` keeps and prints, from the end; what was printed before is dropped."""

_library = ctypes.CDLL(None) if sys.platform == "linux" else None
"""C library of this process; None on other systems than Linux, where long output is not trimmed while a job runs."""


def new_streams() -> tuple[io.TextIOWrapper, io.TextIOWrapper]:
    """Returns Python streams over descriptors 1 and 2, to become ``sys.stdout`` (with a buffer) and ``sys.stderr``.

    The stream over 2 has no buffer: a line without its end would otherwise lie there until the next job.
    """
    out = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(1, "w", closefd=False), 64 * 1024),
        encoding="utf-8",
        errors="backslashreplace",
    )
    err = io.TextIOWrapper(
        io.FileIO(2, "w", closefd=False),  # as with ``python -u``
        encoding="utf-8",
        errors="backslashreplace",
        write_through=True,
    )
    return out, err


@contextmanager
def overheard(said: list[str]) -> Iterator[None]:
    """Append the output of the block to ``said`` as one text, its last 16 KiB; print that on stdout afterwards.

    So the error of a failed ``setup`` can say what it has printed.
    Output of both streams is overheard at the level of descriptors, so that of C code is there, too.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    file = os.memfd_create("said", os.MFD_CLOEXEC) if hasattr(os, "memfd_create") else os.dup(1)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, number in zip(before, (1, 2), strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        size = os.fstat(file).st_size
        data = os.pread(file, _SAID_MAX, max(0, size - _SAID_MAX)) if size else b""
        os.close(file)
        said.append(data.decode("utf-8", "backslashreplace"))
        os.write(1, data)


class Capture:
    """Descriptors 1 and 2, and ``sys.stdout`` and ``sys.stderr`` over them, for the jobs of a worker.

    Args:
        stdout: Memory file that becomes descriptor 1.
        stderr: Memory file that becomes descriptor 2.
        size_max: Bytes that are kept of each stream of one job; the middle of longer output is cut.
        streams: Streams of ``new_streams``, with nothing in their buffers. Made in the host they cost a worker
            0.2 ms less.

    Attributes:
        is_live: True if output of Python code is in the file at once, past the buffer of ``sys.stdout``: the node
            reads it while the job runs.
        out: Python stream over descriptor 1. ``sys.stdout``, unless a job has replaced that.
        err: Python stream over descriptor 2, the same for ``sys.stderr``.
    """

    def __init__(
        self, stdout: int, stderr: int, size_max: int, streams: tuple[io.TextIOWrapper, io.TextIOWrapper]
    ) -> None:
        self._files = (stdout, stderr)
        """Descriptors of the memory files with a job's output (stdout, stderr), which the node reads as well."""
        self._size_max = size_max
        self.is_live = False
        self._redirect()
        sys.stdout, sys.stderr = self.out, self.err = streams

    def restore(self) -> None:
        """Make descriptors 1 and 2 and the Python streams what they were at the start, whatever a job did to them."""
        self._redirect()
        sys.stdout, sys.stderr = self.out, self.err = new_streams()
        if self.is_live:
            self.is_live = False
            self.set_live(True)

    @contextmanager
    def one_process_at_a_time(self) -> Iterator[None]:
        """Hold a lock in the block, for which other processes of the job wait before they send values or files.

        The lock is one on the file of the job's output: the kernel releases it if its holder dies.
        """
        file = self._files[0]
        fcntl.lockf(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN)

    def set_live(self, is_live: bool) -> None:
        """Have Python code print past the buffer of ``sys.stdout``, or through it as usual.

        The stream stays the same object, since the job may hold it elsewhere. Safe to call in a signal handler: if
        the stream is in the midst of a write, or the job has closed it, nothing changes.
        """
        # RuntimeError: the stream is in the midst of a write. The others: the job has closed or detached the stream.
        with suppress(RuntimeError, ValueError, AttributeError, OSError):
            buffer: Any = self.out.buffer
            self.out.flush()
            if is_live:
                buffer.write = buffer.raw.write
                buffer.flush()  # what another thread has written in between
            else:
                vars(buffer).pop("write", None)
            self.out.reconfigure(write_through=is_live)
            self.is_live = is_live

    def _redirect(self) -> None:
        """Make descriptors 1 and 2 the memory files."""
        for source, target in zip(self._files, (1, 2), strict=True):
            os.dup2(source, target)

    def take(self) -> tuple[bytes, bytes]:
        """Returns bytes printed on descriptors 1 and 2 since the last call; the files are empty afterwards.

        Of each, at most ``size_max`` bytes, and a mark where the middle was cut.
        """
        try:
            self.out.flush()
        except (ValueError, OSError):  # the job closed it, or what is below it
            self.restore()
        stdout, stderr = self._files
        first = self._read(stdout) if os.lseek(stdout, 0, os.SEEK_CUR) else b""
        return first, self._read(stderr) if os.lseek(stderr, 0, os.SEEK_CUR) else b""

    def _read(self, descriptor: int) -> bytes:
        """Returns what was printed to a file, its middle cut beyond ``size_max`` bytes, and empties the file."""
        size = os.fstat(descriptor).st_size
        limit = self._size_max
        if size <= limit:
            data = os.pread(descriptor, size, 0)
        else:
            half = limit // 2
            data = join_cut(
                os.pread(descriptor, half, 0), size - 2 * half, os.pread(descriptor, half, size - half)
            )
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return data


def trim(descriptor: int, size_max: int) -> None:
    """Free the middle of a file of output, which ``Capture`` would cut anyway, while the job still prints. Called by
    the host.

    Args:
        descriptor: Memory file.
        size_max: Bytes that stay at its beginning, and as many at its end; ``Capture`` reads half of each.
    """
    size = os.fstat(descriptor).st_size
    start = -(-size_max // _PAGE) * _PAGE
    end = (size - size_max) // _PAGE * _PAGE
    if end > start and _library is not None:
        _library.fallocate(descriptor, _FALLOC_PUNCH, ctypes.c_long(start), ctypes.c_long(end - start))


def unbuffer_c_streams() -> None:
    """Have C code print straight to the descriptors: output in its buffers would appear as that of a later job."""
    if _library is None:
        return
    unbuffered = 2  # _IONBF
    for name in ("stdout", "stderr"):
        stream = ctypes.c_void_p.in_dll(_library, name)
        _library.setvbuf(stream, None, unbuffered, ctypes.c_size_t(0))
