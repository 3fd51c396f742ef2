"""Channels of one worker, at the node's end: its sockets, its slot in shared memory, its output files.

The *jobs* socket carries records to the worker. The node keeps a copy of the reading end, so the kernel decides,
atomically, whether the worker took a record or the node took it back. The *replies* socket carries results to the
node, and acknowledgements of provisional results back. ``protocol.worker`` has the format of packets and of the slot.
"""

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
"""Size of the send buffers of the jobs and replies sockets (bytes): some packets of the largest size. The kernel
grants at most ``net.core.wmem_max``. A worker waits while its buffer is full; the node, whose two records always fit,
kills a worker to which it cannot send."""


class WorkerHandle:
    """The node's ends of a worker.

    Args:
        worker: Number of the worker.
        slot: Index of its slot, an area of memory shared with the worker. It is cleared here.
        memory: All slots of its host.

    Attributes:
        id: Number of the worker.
        slot: Index of its slot.
        pid: Pid of the worker; 0 until the host has told it. Only a hint: a job can have the host tell any number.
        words: The eight words of its slot as integers, by index ``SLOT_…``. The worker and its jobs can write them,
            too, so their values need not make sense.
        replies: Socket for its packets of results; acknowledgements of provisional results go back.
        their_replies: The worker's end of ``replies``. Close it when the host has it.
        jobs: Socket for its records of jobs.
        jobs_copy: The worker's end of ``jobs``, which the host gets a copy of. The node reads from it to take records
            back.
        output: Descriptors of the memory files that are its stdout and stderr.

    Raises:
        OSError: There is no descriptor or memory to be had. Nothing stays open then.
    """

    __slots__ = (
        "_arena", "_starts", "failure", "id", "is_set_up", "jobs", "jobs_copy", "last_position", "output", "pid",
        "replies", "slot", "their_replies", "words",
    )  # fmt: skip

    def __init__(self, worker: WorkerId, slot: int, memory: memoryview) -> None:
        self.id = worker
        self.slot = slot
        self.pid = 0
        self.last_position = 0
        """Position of the worker at the last tick: one number for its record and job (``SLOT_CLAIM``). If it has not
        changed at the next tick, a long job runs, and results of the jobs before that are read from the arena."""
        self.is_set_up = False
        """True once the worker's call of ``setup`` has ended or failed, if each worker calls it. A worker that is
        late with it is killed."""
        self.failure = ""
        """Reason for the worker's end in its own words, if it failed in ``setup`` or by an error of dispy; else
        empty. The core is told it in place of the exit code."""
        start = slot * protocol.SLOT_SIZE
        head = memory[start : start + protocol.SLOT_HEADER]
        head[:] = bytes(protocol.SLOT_HEADER)
        self.words = head.cast("q")
        self._starts = head.cast("d")
        """The words of the slot as floats. Only ``SLOT_START`` is one: the start of the worker's current job (seconds
        since the epoch)."""
        self._arena = memory[start + protocol.SLOT_HEADER : start + protocol.SLOT_SIZE]
        """Part of the slot in which the worker keeps each result until a packet has carried it."""
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
        """Returns the start of the worker's current job (seconds since the epoch); now if a job has put nonsense
        there."""
        start = self._starts[protocol.SLOT_START]
        now = time.time()
        return start if 0 <= start <= now else now

    def untaken(self) -> list[int]:
        """Take back all records of jobs that the worker has not taken; returns their numbers, oldest first.

        The worker will not run these jobs: the caller has them queued again.
        """
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
        """Have the worker unmap objects that were removed from its computation, before its next record.

        An empty record wakes a worker that waits for jobs, so that it does so at once.
        """
        self.words[protocol.SLOT_DROPS] += 1
        with suppress(OSError):  # the buffer is full: other records will wake it
            self.jobs.send(_encode(protocol.Record(0, [])), socket.MSG_DONTWAIT)

    def committed(self) -> memoryview:
        """Returns a packet with the results in the arena, which no packet has carried yet; empty if there are none.

        Used for a worker that is dead, or busy with a long job. A job may have put nonsense there: decode with care.
        """
        count = self.words[protocol.SLOT_COUNT]
        end = self.words[protocol.SLOT_COMMITTED]
        if not 0 < count < 65536 or not protocol.ARENA_HEAD < end <= protocol.ARENA_SIZE:
            return memoryview(b"")
        packet = bytearray(self._arena[:end])
        protocol.pack_ran(packet, 0, 0, 0, 0, count)
        return memoryview(packet)

    def end(self) -> None:
        """Tell the worker to end when it has run all records that it was sent: shut down the socket for them."""
        with suppress(OSError):
            self.jobs.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the node's ends of the sockets, and the output files; the worker must not be used any more."""
        self.jobs.close()
        self.jobs_copy.close()
        self.replies.close()
        for file in self.output:
            os.close(file)
