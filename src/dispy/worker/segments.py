"""Segments as a worker sees them: files of the node, in memory or on disk, with payloads too large for a packet.

How an array gets into shared memory and out of it:

- *arguments*: the node, or a client on the same machine, has written the segment. ``take`` maps it; ``payload.load``
  makes arrays that lie in the map, without a copy. ``let_go`` unmaps it after the job;
- *a result*: ``payload.dump`` leaves the array's memory where it is, beside the pickle (``payload.Parts``). ``put``
  writes both to a new segment, which is the only copy in this process. The name of the segment goes to the node in
  the packet of the result;
- *an object that was put* (``cluster.put``): each worker maps its segment read-only and unpickles it once
  (``load_object``), so that all workers of a node share the memory of its arrays.

Segments lie on the memory file system while there is room, and on disk otherwise (``system.free_space.Room``).
"""

from __future__ import annotations

import logging
import mmap
import os
import time
from contextlib import suppress
from typing import Any

from dispy import payload
from dispy.protocol import worker as protocol
from dispy.protocol.node import Job, Segment, Where
from dispy.system.free_space import NoRoomError, Room, find, fits_in_memory, write_new
from dispy.system.shared_memory import claim_file, free_file

logger = logging.getLogger("dispy.worker")

ROOM_S = 60.0
"""Longest wait of a result for room that other payloads hold (seconds); then the job fails. Meanwhile its worker does
nothing else."""

_PAUSE_S = 0.05
"""First pause before a result for which there was no room is tried again (seconds), doubled each time up to
``_PAUSE_MAX_S``."""
_PAUSE_MAX_S = 0.8
"""Longest pause before a result for which there was no room is tried again (seconds)."""
_SAY_AT_S = 0.4
"""Pause (seconds) before which a warning is logged: once for each result, as pauses are doubled from ``_PAUSE_S``."""

# Bound here, as jobs may replace them in the module.
_monotonic = time.monotonic
_sleep = time.sleep
_POPULATED = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
"""Flags of a shared map whose pages are all there at once: a page fault for each would take longer."""


class Segments:
    """Files that hold payloads too large for a packet.

    Args:
        room: The computation's directories for segments on this node, which other users cannot read.
        free: Directory on the memory file system with files of earlier payloads, which are used again in place of
            new files: the memory of their pages is there already. Empty if there is none.
    """

    def __init__(self, room: Room, free: str) -> None:
        self._room = room
        self._free = free
        self._pid = os.getpid()
        """Pid of this worker, part of the names of its segments: the node removes those of a dead worker by it."""
        self._next = 0
        """Number of the last segment that this process has named: no name is used twice."""
        self._taken: tuple[str, mmap.mmap, bool] | None = None
        """Segment of the running job's arguments: path, map, and True if it is a client's; None if there is none."""
        self._objects: dict[int, Any] = {}
        """Objects (``cluster.put``) that jobs have used here, unpickled, by their number: later jobs get the same
        ones."""

    def take(self, where: Where) -> memoryview:
        """Map the arguments of a job, which may write to them; call ``let_go`` or ``leave_there`` next.

        Args:
            where: The segment with them; no other place reaches a worker.

        Raises:
            OSError: The segment cannot be opened or mapped.
        """
        assert type(where) is Segment
        is_given = where.is_given
        path, descriptor = self._open(str(where.number), os.O_RDWR)
        # Writes to a shared map of a file on disk would go to disk, or kill this process (SIGBUS) if the disk is
        # full.
        is_private = is_given or self._is_on_disk(path)
        try:
            mapped = mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE if is_private else _POPULATED)
        finally:
            os.close(descriptor)
        self._taken = (path, mapped, is_given)
        return memoryview(mapped)

    def _open(self, name: str, how: int) -> tuple[str, int]:
        """Open a segment, in memory or else on disk; returns its path and a descriptor, which the caller closes.

        Args:
            name: Name of the file.
            how: Flags of ``os.open``.

        Raises:
            OSError: The file is in neither directory, or cannot be opened.
        """
        room = self._room
        path = f"{room.memory or room.disk}/{name}"
        try:
            return path, os.open(path, how | os.O_CLOEXEC)
        except FileNotFoundError:
            path = find(room, name)
            return path, os.open(path, how | os.O_CLOEXEC)

    def _is_on_disk(self, path: str) -> bool:
        """True if a path of a segment is in the directory on disk, not in the one in memory."""
        return os.path.dirname(path) == self._room.disk

    def let_go(self, is_ending: bool) -> None:
        """Unmap the arguments of a job that has ended, so that the file can be used again.

        If the job has kept an array in it, the map stays as long as the array, and the file is removed; a client's
        file is renamed (``protocol.worker.kept_name``) unless this process ends, so that the client does not use it
        again.

        Args:
            is_ending: True if this process ends with the job.
        """
        if self._taken is None:
            return
        (path, mapped, is_given), self._taken = self._taken, None
        size = len(mapped)
        try:
            mapped.close()
        except BufferError:
            # Something still refers to the map: the memory lives as long as that, and the name of the file goes. A
            # client's file keeps a name while this process lives, since the link tells the client not to use it
            # again.
            with suppress(OSError):
                if is_given and not is_ending:
                    self._next += 1
                    kept = protocol.kept_name(self._pid, self._next)
                    os.rename(path, f"{os.path.dirname(path)}/{kept}")
                else:
                    os.unlink(path)
        else:
            free_file("" if is_given or self._is_on_disk(path) else self._free, path, size)

    def leave_there(self) -> None:
        """Forget the arguments of a job that another process runs: that process takes them."""
        self._taken = None

    def remove(self, job: Job) -> None:
        """Remove the segment with the arguments of a job, if it has one, when the process of the job has died and
        cannot."""
        if type(job.where) is Segment:
            with suppress(OSError):
                os.unlink(find(self._room, str(job.where.number)))

    def skip(self) -> None:
        """Skip 65,536 numbers of segments, which the process of one job that was just forked from here may use: so
        that this process and that one do not give two files the same name."""
        self._next += 1 << 16

    def load_object(self, number: int) -> Any:
        """Returns the object that was put under a number: mapped and unpickled once, for all jobs of this process.

        Arrays in it lie in memory that all workers of the node share, so they are read-only.

        Raises:
            OSError: The segment of the object cannot be opened or mapped.
        """
        if number not in self._objects:
            _, descriptor = self._open(protocol.object_name(number), os.O_RDONLY)
            try:
                mapped = mmap.mmap(descriptor, 0, flags=_POPULATED, prot=mmap.PROT_READ)
            finally:
                os.close(descriptor)
            self._objects[number] = payload.load(memoryview(mapped))
        return self._objects[number]

    def drop_objects(self) -> None:
        """Forget the objects whose segments the node has removed, as their client does not need them any more."""
        for number in list(self._objects):
            if not os.path.lexists(find(self._room, protocol.object_name(number))):
                del self._objects[number]

    def put(self, data: payload.Buffer | payload.Parts, wait_s: float = ROOM_S) -> int:
        """Write a result (or output, a provisional value, a part of a file) to a segment of its own; returns the
        segment's name, a number with which the node finds it.

        Args:
            data: A pickle, a pickle with arrays beside it, or other bytes.
            wait_s: Longest wait for room that other payloads hold (seconds).

        Raises:
            NoRoomError: There is no room, and waiting does not help or has taken ``wait_s``.
            OSError: The segment cannot be written for another reason.
        """
        deadline = _monotonic() + wait_s
        pause = _PAUSE_S
        while True:
            try:
                return self._put(data)
            except NoRoomError as error:
                if not error.is_passing or _monotonic() + pause > deadline:
                    raise
                if pause == _SAY_AT_S:
                    logger.warning("a result waits for up to %.0f s: %s", wait_s, error)
            _sleep(pause)
            pause = min(2 * pause, _PAUSE_MAX_S)

    def _put(self, data: payload.Buffer | payload.Parts) -> int:
        """Try once to write the data of ``put``: into a free file that can be used again, or else a new one, in
        memory or on disk.

        Returns the segment's name. Raises NoRoomError if neither memory nor disk has room.
        """
        pieces: list[payload.Buffer] = data.pieces if isinstance(data, payload.Parts) else [data]
        size = sum(map(len, pieces))
        room = self._room
        while True:
            self._next += 1
            name = protocol.result_name(self._pid, self._next)
            if not os.path.lexists(find(room, str(name))):
                break
        if self._free and claim_file(self._free, size, f"{room.memory}/{name}"):
            _write_into(f"{room.memory}/{name}", pieces)
            return name
        if self._free and room.disk and not fits_in_memory(room.memory, size):
            self._forget_free()
        write_new(room, str(name), size, lambda descriptor: _write_all(descriptor, pieces))
        return name

    def _forget_free(self) -> None:
        """Remove all files of earlier payloads in the directory ``free``, when a result fits into none of them and
        finds no room in memory beside them."""
        for name in os.listdir(self._free):
            with suppress(OSError):
                os.unlink(f"{self._free}/{name}")


def _write_into(path: str, pieces: list[payload.Buffer]) -> None:
    """Write pieces in order to a file whose memory is allocated already, so that the write does not run out of room.

    If the write fails, the file is removed, and the error passes through.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        _write_all(descriptor, pieces)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, pieces: list[payload.Buffer]) -> None:
    """Write pieces to a file in order; not through a map, as the first touch of a page costs more than the copy."""
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[os.write(descriptor, view) :]
