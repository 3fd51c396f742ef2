"""Large payloads of a worker: arguments, results and what was put, in files of the node in memory or on disk."""

from __future__ import annotations

import logging
import mmap
import os
import time
from contextlib import suppress
from typing import Any

from dispy import payload
from dispy.protocol import worker as protocol
from dispy.protocol.node import Job
from dispy.system.free_space import NoRoomError, Room, find, fits_in_memory, write_new
from dispy.system.shared_memory import claim_file, free_file

logger = logging.getLogger("dispy.worker")

ROOM_S = 60.0
"""How long a result waits for room that others hold (seconds). Meanwhile its worker does nothing else."""

_PAUSE_S = 0.05
_PAUSE_MAX_S = 0.8
_SAY_AT_S = 0.4

# Bound here, as jobs may replace them in the module.
_monotonic = time.monotonic
_sleep = time.sleep
_POPULATED = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)


class Segments:
    """Files that hold payloads too large for a packet.

    Args:
        room: The node's directories for them, readable by nobody else.
        free: Where files lie that can be used again, on the memory file system; empty for none.
    """

    def __init__(self, room: Room, free: str) -> None:
        self._room = room
        self._free = free
        self._pid = os.getpid()
        self._next = 0
        self._taken: tuple[str, mmap.mmap, bool] | None = None
        self._objects: dict[int, Any] = {}
        """What was put and used by a job, by number."""

    def take(self, name: int, is_given: bool) -> memoryview:
        """Map the arguments of a job, which may write to them.

        Args:
            name: Of the segment.
            is_given: It is a client's: what the job writes must not reach it.
        """
        path, descriptor = self._open(str(name), os.O_RDWR)
        # What is written to a map of a file on disk would go there, or end us if that is full.
        is_private = is_given or self._is_on_disk(path)
        try:
            mapped = mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE if is_private else _POPULATED)
        finally:
            os.close(descriptor)
        self._taken = (path, mapped, is_given)
        return memoryview(mapped)

    def _open(self, name: str, how: int) -> tuple[str, int]:
        """Open a file that is in one of the two directories."""
        room = self._room
        path = f"{room.memory or room.disk}/{name}"
        try:
            return path, os.open(path, how | os.O_CLOEXEC)
        except FileNotFoundError:
            path = find(room, name)
            return path, os.open(path, how | os.O_CLOEXEC)

    def _is_on_disk(self, path: str) -> bool:
        return os.path.dirname(path) == self._room.disk

    def let_go(self, is_ending: bool) -> None:
        """The job is done with its arguments: the file can be used again, unless the job has kept some of it.

        Args:
            is_ending: So is this process.
        """
        if self._taken is None:
            return
        (path, mapped, is_given), self._taken = self._taken, None
        size = len(mapped)
        try:
            mapped.close()
        except BufferError:
            # Something still refers to it. The memory lives as long as that, and its name goes; but a
            # client's stays as long as this process, since the link tells him not to use the file again.
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
        """Another process takes the arguments."""
        self._taken = None

    def remove(self, job: Job) -> None:
        """Remove the arguments of a job whose process has died."""
        if job.stream:
            with suppress(OSError):
                os.unlink(find(self._room, str(job.stream)))

    def skip(self) -> None:
        """Do not use names that a process that was forked from here uses."""
        self._next += 1 << 16

    def load_object(self, number: int) -> Any:
        """What was put under this number: mapped and unpickled once, for all jobs of this process.

        Arrays in it lie where all workers of the node see them, so nobody can write to them.
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
        """Let go of those that nobody needs any more."""
        for number in list(self._objects):
            if not os.path.lexists(find(self._room, protocol.object_name(number))):
                del self._objects[number]

    def put(self, data: payload.Buffer | payload.Parts, wait_s: float = ROOM_S) -> int:
        """Write a result for the daemon; returns the name that finds it.

        Args:
            data: The result.
            wait_s: How long it may wait for room that others hold (seconds).

        Raises:
            NoRoomError: There is no room.
            OSError: It cannot be written for another reason.
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
        """Make room: files that are kept to be used again are of no use to what is larger."""
        for name in os.listdir(self._free):
            with suppress(OSError):
                os.unlink(f"{self._free}/{name}")


def _write_into(path: str, pieces: list[payload.Buffer]) -> None:
    """Write to a file that has its pages: they cannot run out."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        _write_all(descriptor, pieces)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, pieces: list[payload.Buffer]) -> None:
    """Written and not mapped: the first touch of a page costs more than copying into it."""
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[os.write(descriptor, view) :]
