"""Large payloads of a worker: arguments, results and what was put, in files on the node's memory file system."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from typing import Any

from dispy import payload
from dispy.buffers import claim_file, free_file
from dispy.protocol import worker as protocol
from dispy.protocol.node import Job

_NEW = os.O_CREAT | os.O_EXCL
_POPULATED = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)


class Segments:
    """Files on the node's tmpfs that hold payloads too large for a packet.

    Args:
        directory: The node's directory for them, readable by nobody else.
        free: Where files lie that can be used again; empty for none.
    """

    def __init__(self, directory: str, free: str) -> None:
        self._directory = directory
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
        path = f"{self._directory}/{name}"
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            mapped = mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE if is_given else _POPULATED)
        finally:
            os.close(descriptor)
        self._taken = (path, mapped, is_given)
        return memoryview(mapped)

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
                    os.rename(path, f"{self._directory}/{protocol.kept_name(self._pid, self._next)}")
                else:
                    os.unlink(path)
        else:
            free_file("" if is_given else self._free, path, size)

    def leave_there(self) -> None:
        """Another process takes the arguments."""
        self._taken = None

    def remove(self, job: Job) -> None:
        """Remove the arguments of a job whose process has died."""
        if job.stream:
            with suppress(OSError):
                os.unlink(f"{self._directory}/{job.stream}")

    def skip(self) -> None:
        """Do not use names that a process that was forked from here uses."""
        self._next += 1 << 16

    def load_object(self, number: int) -> Any:
        """What was put under this number: mapped and unpickled once, for all jobs of this process.

        Arrays in it lie where all workers of the node see them, so nobody can write to them.
        """
        if number not in self._objects:
            descriptor = os.open(self._object_path(number), os.O_RDONLY | os.O_CLOEXEC)
            try:
                mapped = mmap.mmap(descriptor, 0, flags=_POPULATED, prot=mmap.PROT_READ)
            finally:
                os.close(descriptor)
            self._objects[number] = payload.load(memoryview(mapped))
        return self._objects[number]

    def drop_objects(self) -> None:
        """Let go of those that nobody needs any more."""
        for number in list(self._objects):
            if not os.path.lexists(self._object_path(number)):
                del self._objects[number]

    def _object_path(self, number: int) -> str:
        return f"{self._directory}/{protocol.object_name(number)}"

    def put(self, data: payload.Buffer | payload.Parts) -> int:
        """Write a result for the daemon; returns the name that finds it.

        Raises:
            OSError: There is no room.
        """
        pieces: list[payload.Buffer] = data.pieces if isinstance(data, payload.Parts) else [data]
        size = sum(map(len, pieces))
        while True:
            self._next += 1
            name = protocol.result_name(self._pid, self._next)
            path = f"{self._directory}/{name}"
            if not os.path.lexists(path):
                break
        is_used_again = claim_file(self._free, size, path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | (0 if is_used_again else _NEW), 0o600)
        try:
            _write_all(descriptor, pieces)
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(descriptor)
        return name


def _write_all(descriptor: int, pieces: list[payload.Buffer]) -> None:
    """Written and not mapped: the first touch of a page costs more than copying into it."""
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[os.write(descriptor, view) :]
