"""Memory for large payloads, used again: the first touch of a page costs ten times what copying into it does.

A buffer goes out as a memoryview and comes back by itself: it is free again when nothing refers to it any
more, an array that was built on it included.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
import threading
from collections.abc import Callable, Sized
from contextlib import suppress
from itertools import islice

from dispy.system.free_space import fits_in_memory, kept_max

KEPT_MAX = 1024 * 1024 * 1024
"""Bytes of buffers that are remembered; larger ones, and more of them, are like any memory. They hold on to
what a program has used at one time, so not more than that."""

_STEP = 64 * 1024
_PROBES = 8
"""Buffers that are looked at, those first that were not for longest: what is older is free sooner."""

_ANONYMOUS = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)

_HUGE_MIN = 2 * 1024 * 1024
"""Bytes from which huge pages can serve."""

_STALL_MAX = 64 * 1024 * 1024
"""Bytes that may be mapped page by page in one go, in which nothing else is done: 10 ms."""

_COPY_STEP = 256 * 1024

_POPULATED = getattr(mmap, "MAP_SHARED", 0) | getattr(mmap, "MAP_POPULATE", 0)


def copy(source: bytes | bytearray | memoryview, target: memoryview) -> None:
    """Copy into a buffer of the same length, letting other threads run every now and then.

    A plain copy holds the interpreter to its end, and a GiB of fresh memory takes a second or more.
    """
    if len(source) <= _COPY_STEP:
        target[:] = source
        return
    view = memoryview(source)
    for start in range(0, len(view), _COPY_STEP):
        target[start : start + _COPY_STEP] = view[start : start + _COPY_STEP]


def map_shared(descriptor: int, size: int) -> mmap.mmap:
    """Map a file, its pages at once unless there are too many to wait for them.

    Raises:
        OSError: There is no memory for it.
    """
    return mmap.mmap(descriptor, size, flags=_POPULATED if size <= _STALL_MAX else mmap.MAP_SHARED)


class Pool:
    """Buffers of this process, from any thread."""

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self._kept_max = kept_max
        self._kept: list[mmap.mmap] = []
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> memoryview:
        """A writable buffer of ``size`` bytes with anything in it.

        Raises:
            MemoryError: There is not so much.
        """
        with self._lock:
            found = self._find(size)
            if found is None:
                found = self._make(size)
            # The view counts as use before anybody else can look.
            return memoryview(found)[:size]

    def _find(self, size: int) -> mmap.mmap | None:
        """A free one that fits and is not wasted on it."""
        fitting = (one for one in self._kept if size <= len(one) <= 2 * size + _STEP)
        for candidate in list(islice(fitting, _PROBES)):
            self._kept.remove(candidate)
            self._kept.append(candidate)
            if _is_free(candidate):
                return candidate
        return None

    def _make(self, size: int) -> mmap.mmap:
        length = max(_STEP, -(-size // _STEP) * _STEP)
        try:
            made = mmap.mmap(-1, length, flags=_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"no {size} bytes of memory: {error.strerror}") from error
        if length >= _HUGE_MIN and hasattr(mmap, "MADV_HUGEPAGE"):
            # To give back 2 GiB of small pages takes 0.3 s, in which no thread runs.
            with suppress(OSError):
                made.madvise(mmap.MADV_HUGEPAGE)
        if length <= self._kept_max // 2:
            self._kept.append(made)
            self._kept_bytes += length
            self._forget()
        return made

    def _forget(self) -> None:
        """Let go of the oldest: those in use live until they are not, and are then like any memory."""
        while self._kept_bytes > self._kept_max:
            self._kept_bytes -= len(self._kept.pop(0))


def _is_free(candidate: mmap.mmap) -> bool:
    try:
        candidate.resize(len(candidate))  # refused while anything refers to it
    except BufferError:
        return False
    return True


pool = Pool()
"""The one of this process."""


# The same for files on a memory file system: a directory holds those that nobody uses, named by size and a number.

FREE_FILES_MAX = 64
FREE_BYTES_MAX = 512 * 1024 * 1024
"""Files and bytes that a directory keeps, if its file system is not small; what comes on top is removed."""


def claim_file(free: str, size: int, path: str) -> bool:
    """Take the smallest free file that fits, under a new name and cut to size; False if there is none.

    Args:
        free: The directory; empty for none.
        size: Bytes wanted.
        path: What it is to be called, on the same file system.

    Raises:
        OSError: It cannot be cut to size.
    """
    if not free:
        return False
    names = os.listdir(free)
    # Mostly all are alike: to sort them costs more than to list them.
    alike = f"{size}-"
    found = [(size, name) for name in names if name.startswith(alike)]
    for length, name in found or sorted(_with_lengths(names)):
        if size <= length <= 2 * size + _STEP:
            try:
                os.rename(f"{free}/{name}", path)
            except FileNotFoundError:
                continue  # somebody else was faster
            if length != size:
                os.truncate(path, size)
            return True
    return False


def free_file(free: str, path: str, size: int) -> None:
    """Keep a file for ``claim_file``, or remove it; one that is gone already is fine."""
    try:
        kept = _with_lengths(os.listdir(free)) if free else []
        if (
            free
            and len(kept) < FREE_FILES_MAX
            and sum(length for length, _ in kept) + size <= kept_max(free, FREE_BYTES_MAX)
        ):
            os.rename(path, f"{free}/{size}-{os.path.basename(path)}")
        else:
            os.unlink(path)
    except OSError:
        with suppress(OSError):
            os.unlink(path)


def _with_lengths(names: list[str]) -> list[tuple[int, str]]:
    """Of free files; what else a job may have put there is none."""
    return [(int(length), name) for name in names if (length := name.partition("-")[0]).isdecimal()]


# And for a program and the nodes of its machine: what one wrote the other maps.


SHARED_MIN = 256 * 1024
"""Bytes from which a file and its map cost less than a copy."""

ADOPTED_MIN = 2 * 1024 * 1024
"""Bytes from which what another process wrote is mapped; a copy of less costs less than its page faults."""

SHARED_FILES_MAX = 200
"""Files of a pool: each takes a descriptor as long as something refers to it, and a program may have 1024. Where it
may have fewer, a quarter of these."""


def _files_max() -> int:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return SHARED_FILES_MAX if allowed == resource.RLIM_INFINITY else min(SHARED_FILES_MAX, allowed // 4)


class SharedPool:
    """Buffers in files, so that nodes of this machine can take them by name instead of by a copy.

    A file serves again when nothing of ours refers to its memory and nobody else has a link to it.

    Args:
        directory: Ours alone, on a memory file system.
        read: Told to read what is to be copied; returns None if it can do no better than us.
    """

    def __init__(self, directory: str, read: Callable[[int], Sized | None] = lambda _: None) -> None:
        self._directory = directory
        self._read = read
        self._files: dict[int, SharedFile] = {}
        """By the id of the map that is handed out."""
        self._next = 0
        self._kept_max = kept_max(directory, KEPT_MAX)
        self._files_max = _files_max()
        self._lock = threading.Lock()
        os.register_at_fork(after_in_parent=self._forget, after_in_child=self._forget)

    def take(self, size: int) -> memoryview:
        """A writable buffer of ``size`` bytes with anything in it; of ordinary memory if a file is not worth it.

        Raises:
            MemoryError: There is not so much.
        """
        if size < SHARED_MIN:
            return pool.take(size)
        with self._lock:
            found = self._find(size)
            if found is None:
                try:
                    found = self._make(size)
                except OSError:  # too many, or full: our own memory may have room
                    return pool.take(size)
            elif found.is_private:
                # What its last user wrote is his, and the file is not what he saw.
                found.close()
                found = self._map(found.path, found.length, is_private=False)
            return memoryview(found.mapped)[:size]

    def link(self, view: memoryview, path: str) -> bool:
        """Give the file behind a buffer another name; False if it is not one of ours, or that cannot be."""
        if not isinstance(view, memoryview):
            return False
        file = self._files.get(id(view.obj))
        if file is None or file.mapped is not view.obj:
            return False
        try:
            os.link(file.path, path)
        except OSError:
            return False
        return True

    def adopt(self, path: str, free: str) -> Sized:
        """Take over what somebody else wrote: its file, for which he gets one that we do not need, or a copy.

        Writing to the memory does not change the file. It keeps its name, by which it may be asked for again:
        whoever wrote it removes that one when it has served.

        Args:
            path: The file.
            free: Where its writer finds files to use again.

        Returns:
            A memoryview, or what ``read`` has made of it.

        Raises:
            OSError: It is not there.
        """
        size = os.stat(path).st_size
        if size < ADOPTED_MIN:
            return self._copy_of(path, size)
        with self._lock:
            if not self._has_room():
                return self._copy_of(path, size)
            own = self._new_path()
            try:
                os.link(path, own)
            except FileNotFoundError:
                raise
            except OSError:  # the file system has no number left for it
                return self._copy_of(path, size)
            spare = self._find(size)
            if spare is not None:
                self._files.pop(id(spare.mapped), None)
                spare.close()
                free_file(free, spare.path, spare.length)
            return memoryview(self._map(own, size, is_private=True).mapped)

    def _copy_of(self, path: str, size: int) -> Sized:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            copied = self._read(descriptor)
            if copied is None:
                copied = buffer = pool.take(size)
                position = 0
                while position < size:
                    count = os.preadv(descriptor, [buffer[position:]], position)
                    if not count:
                        raise OSError(errno.EIO, "shorter than it was")
                    position += count
        finally:
            os.close(descriptor)
        return copied

    def _find(self, size: int) -> SharedFile | None:
        """A free one that fits; one that is mapped for ourselves alone is not in the list any more."""
        fitting = (file for file in self._files.values() if size <= file.length <= 2 * size + _STEP)
        for file in list(islice(fitting, _PROBES)):
            del self._files[id(file.mapped)]
            is_found = _is_free(file.mapped) and os.stat(file.path).st_nlink == 1
            if not (is_found and file.is_private):
                self._files[id(file.mapped)] = file
            if is_found:
                return file
        return None

    def _has_room(self) -> bool:
        """Whether there may be another file; gives free ones back while there is more than enough."""
        held = sum(file.length for file in self._files.values())
        if held <= self._kept_max and len(self._files) < self._files_max:
            return True
        self._drop_free()
        return len(self._files) < self._files_max

    def _drop_free(self) -> None:
        for file in list(self._files.values()):
            if _is_free(file.mapped):
                self._drop(file)

    def _drop(self, file: SharedFile) -> None:
        del self._files[id(file.mapped)]
        file.close()
        with suppress(OSError):
            os.unlink(file.path)

    def trim(self) -> None:
        """Give back what is free: something large has gone that may not come again."""
        with self._lock:
            self._drop_free()

    def close(self) -> None:
        """Give back what is free, and let go of the rest."""
        with self._lock:
            self._drop_free()
            self._forget()

    def _make(self, size: int) -> SharedFile:
        if not self._has_room():
            raise OSError(errno.EMFILE, "enough files are in use")
        if not fits_in_memory(self._directory, size):
            self._drop_free()
            if not fits_in_memory(self._directory, size):
                raise OSError(errno.ENOSPC, "others are left some room")
        path = self._new_path()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Now, or a full file system would end us in the middle of a copy.
            os.posix_fallocate(descriptor, 0, size)
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(descriptor)
        return self._map(path, size, is_private=False)

    def _map(self, path: str, length: int, is_private: bool) -> SharedFile:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if is_private:
                mapped = mmap.mmap(descriptor, length, flags=mmap.MAP_PRIVATE)
            else:
                mapped = map_shared(descriptor, length)
        finally:
            os.close(descriptor)
        file = self._files[id(mapped)] = SharedFile(path, length, mapped, is_private)
        return file

    def _new_path(self) -> str:
        self._next += 1
        return f"{self._directory}/{self._next}"

    def _forget(self) -> None:
        """After a fork two processes see the same memory: no file of it is ever written again."""
        for file in self._files.values():
            with suppress(OSError):
                os.unlink(file.path)
        self._files = {}


class SharedFile:
    """One file of a pool."""

    __slots__ = ("is_private", "length", "mapped", "path")

    def __init__(self, path: str, length: int, mapped: mmap.mmap, is_private: bool) -> None:
        self.path = path
        self.length = length
        self.mapped = mapped
        self.is_private = is_private

    def close(self) -> None:
        """Unmap it."""
        self.mapped.close()
