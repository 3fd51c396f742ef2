"""Messages of a running job to its client: provisional results and parts of files, one at a time, acknowledged.

A value goes from the worker to the node, and from there to the client; the acknowledgement comes back on the replies
socket. An acknowledgement names the job, the attempt and the value's serial number, so that a late one is not taken
for that of another value.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from typing import Any

import msgspec

from dispy import payload
from dispy.protocol import limits
from dispy.protocol import worker as protocol
from dispy.protocol.node import FilePart, Job
from dispy.system.free_space import NoRoomError
from dispy.worker.job_api.send_file import SendPart, send_file
from dispy.worker.output_capture import Capture
from dispy.worker.replies import send_whole
from dispy.worker.segments import Segments

_ANSWER_MAX = 8192
"""Largest acknowledgement that is read (bytes). None is longer, as its reason has no more than 1,000 characters."""

_encode = msgspec.msgpack.Encoder().encode


class ProvisionalValues:
    """Sends values and files of the running job, one at a time, whichever of its threads and processes calls.

    Args:
        replies: Socket to the node: values go out, acknowledgements come in.
        segments: Takes values too large for a packet (from ``INLINE_MAX`` bytes on).
        capture: The job's output, whose lock keeps out other processes of the job.

    Attributes:
        serial: Number of the last value that the job has sent; the worker sets it to 0 before each job. The
            acknowledgement names it, so that a late one is not taken for that of the next value.
    """

    def __init__(self, replies: socket.socket, segments: Segments, capture: Capture) -> None:
        self._replies = replies
        self._segments = segments
        self._capture = capture
        self.serial = 0
        self._transfers = 0
        """Number of the last file that was sent from here: the client tells the parts of two files apart by it."""
        self._lock = threading.Lock()
        """Held while a value waits for its acknowledgement: one at a time, from any thread of the job."""

    def renumber(self) -> None:
        """Take other numbers, in a process that the job has forked: it may still send values and files.

        The numbers (of 31 bits) differ from those of other processes of the job: a late answer to one of them must
        not pass for an answer to this one, and files must not be mixed up. The lock is made anew, as a thread that
        this process does not have may hold it.
        """
        self.serial = self._transfers = (os.getpid() % 1000 + 1) << 20
        self._lock = threading.Lock()

    def send_result(self, job: Job, result: Any, timeout: float | None) -> int:
        """Send a provisional result and wait for its acknowledgement; see ``Worker.provisional_result``.

        Returns:
            0 if the client has the value; -1 if no acknowledgement came within ``timeout`` seconds, or one came that
            says that the client does not get the value.

        Raises:
            NoRoomError: The value is too large for this node's file systems.
        """
        answer = self._send(job, payload.dump(result), None, timeout)
        return 0 if answer is not None and answer.delivered else -1

    def send_file(self, job: Job, path: Any, directory: str, timeout: float | None, size_max: int) -> str:
        """Send a file and wait until the client has it whole; see ``Worker.send_file``.

        Returns:
            Why the client does not have the file; empty if it has.
        """
        self._transfers += 1
        send_part: SendPart = lambda data, part, left: self._send(job, data, part, left)  # noqa: E731
        return send_file(os.fsdecode(path), directory, self._transfers, send_part, timeout, size_max)

    def _send(
        self,
        job: Job,
        data: payload.Buffer | payload.Parts,
        part: FilePart | None,
        timeout: float | None,
    ) -> protocol.SentAcknowledged | None:
        """Send one value and wait for its acknowledgement; other threads and processes of the job wait until then.

        Args:
            job: The running job.
            data: The value, pickled, or content of a file.
            part: File and position that the content belongs to; None for a provisional result.
            timeout: Longest wait for room, and again for the acknowledgement (seconds); None: for ever.

        Returns:
            The acknowledgement; None if there was none, or no room for the value, in that time.

        Raises:
            NoRoomError: The value is too large for this node's file systems.
        """
        with self._lock, self._capture.one_process_at_a_time():
            self.serial += 1
            value = protocol.ProvisionalValue(job.number, job.attempt, self.serial, b"", 0, part)
            if not isinstance(data, payload.Parts) and len(data) < limits.INLINE_MAX:
                value.payload = bytes(data)
            else:
                try:
                    value.stream = self._segments.put(data, float("inf") if timeout is None else timeout)
                except NoRoomError as error:
                    if error.is_passing:
                        return None
                    raise
            send_whole(self._replies, bytes((protocol.PROVISIONAL,)) + _encode(value))
            return self._wait_acknowledged(value, timeout)

    def _wait_acknowledged(
        self, value: protocol.ProvisionalValue, timeout: float | None
    ) -> protocol.SentAcknowledged | None:
        """Wait for the acknowledgement of a value; None after ``timeout`` seconds, or if the node is gone.

        Late acknowledgements of other values are dropped.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        poller = select.poll()
        poller.register(self._replies, select.POLLIN)
        while True:
            left_ms = None if deadline is None else max(0, int((deadline - time.monotonic()) * 1000))
            if not poller.poll(left_ms):
                return None
            packet = self._replies.recv(_ANSWER_MAX)
            if not packet:
                return None
            answer = protocol.acknowledged_decoder.decode(packet)
            if (answer.number, answer.attempt, answer.serial) == (
                value.number,
                value.attempt,
                value.serial,
            ):
                return answer
