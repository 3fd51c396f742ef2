"""Pool of anonymous memory for large payloads, used again: the first touch of a page costs ten times a copy into it.

A buffer goes out as a memoryview and comes back by itself: it is free again when nothing refers to its memory any
more, arrays that were built on it included. Files that processes share are in ``system.shared_memory``.
"""

from __future__ import annotations

import mmap
import threading
from contextlib import suppress
from itertools import islice

KEPT_MAX = 1024 * 1024 * 1024
"""Bytes of buffers that a pool remembers, in use or free: memory that a program has used at one time stays with it. A
buffer of more than half of that is not remembered. When there are more bytes, the buffers not looked at for longest
are forgotten, and freed after use."""

STEP = 64 * 1024
"""Sizes of buffers are multiples of this (bytes). A payload takes a free buffer of up to twice its size plus this."""

PROBES = 8
"""Number of buffers of fitting size that are looked at for a free one, beginning with those not looked at for
longest, which are free sooner. If none is free, a new one is made."""

_ANONYMOUS = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)
"""Flags of a map that is no file's, and that forked processes get a copy of."""

_HUGE_MIN = 2 * 1024 * 1024
"""Bytes of a buffer from which the kernel is asked to use huge pages: giving back 2 GiB of small pages takes 0.3 s,
during which no thread runs."""

_COPY_STEP = 256 * 1024
"""Bytes that ``copy`` copies at once, during which no other thread of this process runs."""


def copy(source: bytes | bytearray | memoryview, target: memoryview) -> None:
    """Copy into a buffer of the same length, in steps between which other threads can run.

    A plain copy holds the interpreter lock to its end: a GiB into fresh memory takes a second or more.
    """
    if len(source) <= _COPY_STEP:
        target[:] = source
        return
    view = memoryview(source)
    for start in range(0, len(view), _COPY_STEP):
        target[start : start + _COPY_STEP] = view[start : start + _COPY_STEP]


class Pool:
    """Buffers of this process that are used again. Any thread may call the methods.

    Args:
        kept_max: Bytes of buffers that are remembered, in use or free.
    """

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self._kept_max = kept_max
        self._kept: list[mmap.mmap] = []
        """Buffers that are remembered, in use or free; those not looked at for longest come first."""
        self._kept_bytes = 0
        """Bytes of all buffers in ``_kept``."""
        self._lock = threading.Lock()
        """Held while ``_kept`` is searched or changed."""

    def take(self, size: int) -> memoryview:
        """Returns a writable buffer of ``size`` bytes with arbitrary content.

        Raises:
            MemoryError: There is not enough memory.
        """
        with self._lock:
            found = self._find(size)
            if found is None:
                found = self._make(size)
            # Make the view under the lock: it marks the buffer as used before another thread can look.
            return memoryview(found)[:size]

    def _find(self, size: int) -> mmap.mmap | None:
        """Returns a free buffer of ``size`` bytes to twice as many plus ``STEP``; None if none of ``PROBES`` is free.

        Buffers that were looked at move to the end of ``_kept``. The caller holds the lock.
        """
        fitting = (one for one in self._kept if size <= len(one) <= 2 * size + STEP)
        for candidate in list(islice(fitting, PROBES)):
            self._kept.remove(candidate)
            self._kept.append(candidate)
            if is_free(candidate):
                return candidate
        return None

    def _make(self, size: int) -> mmap.mmap:
        """Returns a new buffer of at least ``size`` bytes.

        The pool remembers it (``_kept``) unless it has more than half of ``kept_max`` bytes. The caller holds
        the lock.

        Raises:
            MemoryError: There is not enough memory.
        """
        length = max(STEP, -(-size // STEP) * STEP)
        try:
            made = mmap.mmap(-1, length, flags=_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"no {size} bytes of memory: {error.strerror}") from error
        if length >= _HUGE_MIN and hasattr(mmap, "MADV_HUGEPAGE"):
            # Giving back 2 GiB of small pages takes 0.3 s, during which no thread runs.
            with suppress(OSError):
                made.madvise(mmap.MADV_HUGEPAGE)
        if length <= self._kept_max // 2:
            self._kept.append(made)
            self._kept_bytes += length
            self._forget()
        return made

    def _forget(self) -> None:
        """Forget buffers, those not looked at for longest first, until ``kept_max`` bytes are left.

        Buffers in use live as long as something refers to them, and are freed then.
        """
        while self._kept_bytes > self._kept_max:
            self._kept_bytes -= len(self._kept.pop(0))


def is_free(candidate: mmap.mmap) -> bool:
    """True if nothing refers to the memory of a map (no view, no array), so that it can be used again."""
    try:
        candidate.resize(len(candidate))  # refused while anything refers to it
    except BufferError:
        return False
    return True


pool = Pool()
"""The pool of this process, from which all its parts take buffers for large payloads."""
