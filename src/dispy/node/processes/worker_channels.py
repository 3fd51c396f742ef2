"""The node's ends of one worker: its sockets, its slot in shared memory, its output files."""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack, suppress

import msgspec

from dispy.core.execution.ids import WorkerId
from dispy.node.machine.live_output import output_file
from dispy.protocol import worker as protocol

_encode = msgspec.msgpack.encode

PACKETS_BUFFER = 2 * 1024 * 1024
"""Socket buffers of the jobs and replies channels (bytes): some packets of the largest size. The
kernel gives what ``net.core.wmem_max`` allows."""


class WorkerHandle:
    """The daemon's ends of a worker: its channels, its slot, and the files that are its stdout and stderr."""

    __slots__ = (
        "_arena", "_starts", "failure", "id", "is_set_up", "jobs", "jobs_copy", "last_position", "output", "pid",
        "replies", "slot", "their_replies", "words",
    )  # fmt: skip

    def __init__(self, worker: WorkerId, slot: int, memory: memoryview) -> None:
        self.id = worker
        self.slot = slot
        self.pid = 0
        self.last_position = 0
        """Where it was at the last tick."""
        self.is_set_up = False
        """It has called ``setup``, where that is called in each worker."""
        self.failure = ""
        """Why it has failed, in setup or by an error of ours: what is said of it when it has ended."""
        start = slot * protocol.SLOT_SIZE
        head = memory[start : start + protocol.SLOT_HEADER]
        head[:] = bytes(protocol.SLOT_HEADER)
        self.words = head.cast("q")
        self._starts = head.cast("d")
        self._arena = memory[start + protocol.SLOT_HEADER : start + protocol.SLOT_SIZE]
        with ExitStack() as made:
            self.replies, self.their_replies = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            made.callback(self.their_replies.close)
            made.callback(self.replies.close)
            self.their_replies.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PACKETS_BUFFER)
            self.replies.setblocking(False)
            self.jobs, self.jobs_copy = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            made.callback(self.jobs.close)
            made.callback(self.jobs_copy.close)
            self.jobs.setblocking(False)
            self.jobs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PACKETS_BUFFER)
            stdout = output_file("stdout")
            made.callback(os.close, stdout)
            self.output = stdout, output_file("stderr")
            made.pop_all()

    def started(self) -> float:
        """When its job started (seconds since the epoch); now, if the job has written nonsense there."""
        start = self._starts[protocol.SLOT_START]
        now = time.time()
        return start if 0 <= start <= now else now

    def untaken(self) -> list[int]:
        """Take back all records that the worker has not taken; returns their numbers."""
        numbers: list[int] = []
        while True:
            try:
                packet = self.jobs_copy.recv(protocol.PACKET_MAX, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return numbers
            if not packet:
                return numbers
            record = protocol.record_decoder.decode(packet)
            if record.jobs:
                numbers.append(record.record)

    def drop_objects(self) -> None:
        """Have the worker let go of objects that are not there any more: with its next record, or this empty one."""
        self.words[protocol.SLOT_DROPS] += 1
        with suppress(OSError):  # full: there are others for it to take
            self.jobs.send(_encode(protocol.Record(0, [])), socket.MSG_DONTWAIT)

    def committed(self) -> memoryview:
        """A packet of the results that a dead worker had finished and not sent; empty if there are none."""
        count = self.words[protocol.SLOT_COUNT]
        end = self.words[protocol.SLOT_COMMITTED]
        if not 0 < count < 65536 or not protocol.ARENA_HEAD < end <= protocol.ARENA_SIZE:
            return memoryview(b"")
        packet = bytearray(self._arena[:end])
        protocol.pack_ran(packet, 0, 0, 0, 0, count)
        return memoryview(packet)

    def close(self) -> None:
        """Release the channels and files."""
        self.jobs.close()
        self.jobs_copy.close()
        self.replies.close()
        for file in self.output:
            os.close(file)
