"""Files on a memory file system that processes of one machine share, used again instead of made anew.

There are two mechanisms:

- *Free files* lie in a directory, each named by its size and a number. Any process takes one (``claim_file``) by
  renaming it, which one process alone can do, and gives it back (``free_file``) in the same way.
- ``SharedPool`` holds files that this process has mapped. A program and the nodes of its machine exchange payloads as
  hard links to such files, without a copy. A file is free again when nothing here refers to its memory and no other
  process has a link to it. It holds one descriptor as long as it is mapped.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
import threading
from collections import deque
from collections.abc import Callable, Sized
from contextlib import suppress
from itertools import islice

from dispy.system.free_space import fits_in_memory, kept_max
from dispy.system.memory import KEPT_MAX, PROBES, STEP, is_free, pool

_STALL_MAX = 64 * 1024 * 1024
"""Largest map whose pages are all mapped at once (bytes): that takes 10 ms, during which no other thread runs. Pages
of larger maps are mapped at their first use."""

_POPULATED = getattr(mmap, "MAP_SHARED", 0) | getattr(mmap, "MAP_POPULATE", 0)
"""Flags of a shared map whose pages are all mapped at once."""

FREE_FILES_MAX = 64
"""Number of free files that a directory keeps for ``claim_file``; further files are removed."""

FREE_BYTES_MAX = 512 * 1024 * 1024
"""Bytes of free files that a directory keeps, or a quarter of its file system if that is less; further files are
removed."""

SHARED_MIN = 256 * 1024
"""Bytes of a payload from which a pool puts it into a file, as file and map cost less than a copy; smaller ones go to
ordinary memory."""

ADOPTED_MIN = 2 * 1024 * 1024
"""Bytes of a payload from which a file of another process is mapped. A smaller one is copied: that costs less than
its page faults."""

SHARED_FILES_MAX = 200
"""Largest number of files of a pool. Each takes a descriptor while it is mapped; where a program may have fewer than
800, a quarter of them. At the limit, free files are removed; if all are in use, payloads go to ordinary memory."""


LENT_LOOKS = 32
"""Number of lent files that are looked at for one payload: as many as are mostly under way."""


def map_shared(descriptor: int, size: int) -> mmap.mmap:
    """Map a file: all pages at once, or, of more than 64 MiB, each at its first use.

    Raises:
        OSError: There is no memory for it.
    """
    return mmap.mmap(descriptor, size, flags=_POPULATED if size <= _STALL_MAX else mmap.MAP_SHARED)


def claim_file(free: str, size: int, path: str) -> bool:
    """Take the smallest free file that fits: rename it, and cut it to ``size`` bytes. Returns False if there is none.

    Args:
        free: Directory of free files; empty if there is none.
        size: Bytes wanted. Files of up to twice as many, plus ``STEP``, fit; none for 0, which cannot be mapped.
        path: New path of the file, on the same file system.

    Raises:
        OSError: The directory cannot be read, or the file cannot be renamed or cut.
    """
    if not free or not size:
        return False
    names = os.listdir(free)
    # Mostly all files have one size: sorting them costs more than listing them.
    alike = f"{size}-"
    found = [(size, name) for name in names if name.startswith(alike)]
    for length, name in found or sorted(_with_lengths(names)):
        if size <= length <= 2 * size + STEP:
            try:
                os.rename(f"{free}/{name}", path)
            except FileNotFoundError:
                continue  # another process was faster
            if length != size:
                os.truncate(path, size)
            return True
    return False


def free_file(free: str, path: str, size: int) -> None:
    """Keep a file for ``claim_file``, or remove it if the directory has enough (``FREE_FILES_MAX``,
    ``FREE_BYTES_MAX``) or the file cannot be moved there. Raises no OSError: the file may be gone already.

    Args:
        free: Directory of free files; empty: remove the file.
        path: Path of the file, on the same file system.
        size: Bytes of the file.
    """
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
    """Returns size (bytes) and name of each free file, in the order given.

    Names without a size in front, which a job may have put there, are left out.
    """
    return [(int(length), name) for name in names if (length := name.partition("-")[0]).isdecimal()]


def _files_max(wanted: int) -> int:
    """Returns the largest number of files of a pool here: a quarter of the descriptors, at most ``wanted``."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if allowed == resource.RLIM_INFINITY else min(wanted, allowed // 4)


class SharedPool:
    """Buffers in files, which nodes of this machine take by a link, not a copy. Any thread may call the methods.

    Args:
        directory: Directory of this process alone, on a memory file system.
        read: Called with a descriptor to read a payload that is to be copied; returns None if it can do no better
            than the pool, which then copies it into a buffer.
        adopted_min: Bytes of a payload from which a file of another process is mapped; a smaller one is copied.
        files_max: Largest number of files; fewer where descriptors are few (``SHARED_FILES_MAX``).
    """

    def __init__(
        self,
        directory: str,
        read: Callable[[int], Sized | None] = lambda _: None,
        *,
        adopted_min: int = ADOPTED_MIN,
        files_max: int = SHARED_FILES_MAX,
    ) -> None:
        self._directory = directory
        self._read = read
        self._adopted_min = adopted_min
        self._files: dict[int, SharedFile] = {}
        """Files of the pool, in use or free, by the ``id`` of their map: a view of the map leads to it. Those not
        looked at for longest come first."""
        self._next = 0
        """Number that the last file was named by; the next file gets the number after it."""
        self._kept_max = kept_max(directory, KEPT_MAX)
        """Bytes of files, in use or free, beyond which free ones are removed before another file is added."""
        self._files_max = _files_max(files_max)
        """Number of files at which no other is added (``SHARED_FILES_MAX``, or less where descriptors are few)."""
        self._lent: deque[SharedFile] = deque()
        """Files that their owners use again once our names for them are gone, oldest first."""
        self._lock = threading.Lock()
        """Held while ``_files`` is searched or changed. ``link`` does not hold it: its caller refers to the buffer,
        so the file cannot be removed meanwhile."""
        os.register_at_fork(after_in_parent=self._forget, after_in_child=self._forget)

    def take(self, size: int) -> memoryview:
        """Returns a writable buffer of ``size`` bytes with arbitrary content.

        The buffer is ordinary memory below ``SHARED_MIN`` bytes, and if no file can be had. Then ``link`` returns
        False, and the payload is copied to nodes.

        Raises:
            MemoryError: There is not enough memory.
            OSError: A free file was removed by others, or cannot be mapped again.
        """
        if size < SHARED_MIN:
            return pool.take(size)
        with self._lock:
            self._give_back()
            found = self._find(size)
            if found is None:
                try:
                    found = self._make(size)
                except OSError:  # too many files, or a full file system: ordinary memory may have room
                    return pool.take(size)
            elif found.is_private:
                # Its last user may have written to pages of the map, which are not in the file.
                found.close()
                found = self._map(found.path, found.length, is_private=False)
            return memoryview(found.mapped)[:size]

    def link(self, view: memoryview, path: str) -> bool:
        """Link the file behind a buffer to a path; returns False if the buffer has no file here, or linking fails."""
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

    def adopt(self, path: str, free: str, *, is_lent: bool = False) -> Sized:
        """Take over a file that another process wrote: map it, or copy it if it is small or there is no room.

        In exchange, the process that wrote the file gets a free file of this pool, if there is one. The map is
        private: writing to the memory does not change the file. The file keeps its name, by which it may be asked for
        again; the process that wrote it removes that name when it has served.

        Args:
            path: Path of the file.
            free: Directory in which the writer of the file finds free files; empty: it wants none.
            is_lent: True if the file stays one of its owner's pool, who uses it again once it has no other name: it
                is given up here as soon as nothing refers to its memory, at the next call of a method.

        Returns:
            A memoryview, or what ``read`` has made of the file.

        Raises:
            OSError: The file is not there, or cannot be mapped.
        """
        size = os.stat(path).st_size
        if size < self._adopted_min:
            return self._copy_of(path, size)
        with self._lock:
            self._give_back()
            if not self._has_room():
                return self._copy_of(path, size)
            own = self._new_path()
            try:
                os.link(path, own)
            except FileNotFoundError:
                raise
            except OSError:  # the file system has no inode left: on tmpfs each link takes one
                return self._copy_of(path, size)
            spare = self._find(size) if free else None
            if spare is not None:
                self._files.pop(id(spare.mapped), None)
                spare.close()
                free_file(free, spare.path, spare.length)
            adopted = self._map(own, size, is_private=True)
            if is_lent:
                self._lent.append(adopted)
            return memoryview(adopted.mapped)

    def _copy_of(self, path: str, size: int) -> Sized:
        """Returns a copy of a file of ``size`` bytes: what ``read`` makes of it, or a buffer of ordinary memory.

        Raises:
            OSError: The file is not there, or shorter than ``size``.
        """
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
        """Returns a free file of ``size`` bytes to twice as many plus ``STEP``; None if there is none.

        One that is mapped privately is taken out of ``_files``: the caller must map it anew, or give it away.
        """
        fitting = (file for file in self._files.values() if size <= file.length <= 2 * size + STEP)
        for file in list(islice(fitting, PROBES)):
            del self._files[id(file.mapped)]
            is_found = is_free(file.mapped) and os.stat(file.path).st_nlink == 1
            if not (is_found and file.is_private):
                self._files[id(file.mapped)] = file
            if is_found:
                return file
        return None

    def _give_back(self) -> None:
        """Give up lent files whose memory nothing here refers to any more. One that nobody else has a name for stays,
        as another file of this pool."""
        for _ in range(min(len(self._lent), LENT_LOOKS)):
            file = self._lent.popleft()
            if file.mapped.closed or self._files.get(id(file.mapped)) is not file:
                continue
            if not is_free(file.mapped):
                self._lent.append(file)
            elif os.stat(file.path).st_nlink > 1:
                self._drop(file)

    def give_back(self) -> None:
        """Give up lent files that are not used any more: their owners wait for them. Call it now and then."""
        with self._lock:
            self._give_back()

    def _has_room(self) -> bool:
        """True if the pool may have another file.

        If ``_kept_max`` bytes or ``_files_max`` files are reached, all free files are removed before; then only the
        number of files that are in use decides.
        """
        held = sum(file.length for file in self._files.values())
        if held <= self._kept_max and len(self._files) < self._files_max:
            return True
        self._drop_free()
        return len(self._files) < self._files_max

    def _drop_free(self) -> None:
        """Remove all files of the pool whose memory nothing in this process refers to."""
        for file in list(self._files.values()):
            if is_free(file.mapped):
                self._drop(file)

    def _drop(self, file: SharedFile) -> None:
        """Remove a free file from the pool and from the file system. Links of other processes to it stay."""
        del self._files[id(file.mapped)]
        file.close()
        with suppress(OSError):
            os.unlink(file.path)

    def statistics(self) -> dict[str, int]:
        """Returns numbers of files and bytes in them, and how many of these are free."""
        with self._lock:
            files = list(self._files.values())
            free = [file.length for file in files if is_free(file.mapped)]
        return {
            "files": len(files),
            "files_free": len(free),
            "bytes": sum([file.length for file in files]),
            "bytes_free": sum(free),
            "bytes_max": self._kept_max,
        }

    def trim(self) -> None:
        """Remove free files, so that others can use their memory. Called when the program has dropped an object that
        it had put (``cluster.put``), which may have been large."""
        with self._lock:
            self._drop_free()

    def close(self) -> None:
        """Remove free files, and forget the others: their memory lives as long as something refers to it."""
        with self._lock:
            self._drop_free()
            self._forget()

    def _make(self, size: int) -> SharedFile:
        """Returns a new file of ``size`` bytes, whose memory is allocated.

        Raises:
            OSError: All files of the pool are in use, or the file system would be too full.
        """
        if not self._has_room():
            raise OSError(errno.EMFILE, "enough files are in use")
        if not fits_in_memory(self._directory, size):
            self._drop_free()
            if not fits_in_memory(self._directory, size):
                raise OSError(errno.ENOSPC, "others are left some room")
        path = self._new_path()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Allocate now: on a full file system, a write to a missing page would kill us in the middle of a copy.
            os.posix_fallocate(descriptor, 0, size)
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(descriptor)
        return self._map(path, size, is_private=False)

    def _map(self, path: str, length: int, is_private: bool) -> SharedFile:
        """Map a file of ``length`` bytes, add it to the pool and return it.

        With ``is_private`` writing to the map does not change the file: it is another process's payload.

        Raises:
            OSError: The file cannot be opened or mapped.
        """
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
        """Returns a path in the directory of the pool that none of its files has had, for a new file."""
        self._next += 1
        return f"{self._directory}/{self._next}"

    def _forget(self) -> None:
        """Forget all files and remove their names; called by ``close``, and in both processes after a fork.

        After a fork two processes see the memory of the files, so it is not used again. Buffers in use stay valid.
        """
        for file in self._files.values():
            with suppress(OSError):
                os.unlink(file.path)
        self._files = {}
        self._lent.clear()


class SharedFile:
    """A mapped file of a pool.

    Args:
        path: Path of the file.
        length: Bytes of the file and of its map.
        mapped: The map.
        is_private: True if writing to the map does not change the file.
    """

    __slots__ = ("is_private", "length", "mapped", "path")

    def __init__(self, path: str, length: int, mapped: mmap.mmap, is_private: bool) -> None:
        self.path = path
        self.length = length
        self.mapped = mapped
        self.is_private = is_private

    def close(self) -> None:
        """Unmap the file. Nothing may refer to its memory."""
        self.mapped.close()
