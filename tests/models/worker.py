"""A worker as its node and its host see it: which record it takes, which job it runs, what it sends and leaves.

A pure machine: no clock, no process, no user code. The caller moves it with ``step``, decides how the running job
ends (``end_job``), and passes on the packets that come back. It stands for ``dispy.worker.loop`` and
``dispy.worker.arena``; ``tests/models/test_worker.py`` plays the same to both.

Phase | Its next step | Phase then
--- | --- | ---
SETTING_UP | none: the caller ends it with ``set_up`` | WAITING, or GONE with exit code 78
WAITING | takes the oldest record from its socket (rules 1, 2) | BETWEEN; GONE with exit code 0 if that is closed
BETWEEN | writes the position of the next job to its slot; without one ends the record (rule 6) | CLAIMED
CLAIMED | reads the limit (rule 3); ends the record if it is reached (rule 6) | STARTED
STARTED | has its arguments (rule 4); the caller may end the job instead, if there are none | RUNNING or KEPT
RUNNING | none: the caller ends the job, interrupts it, has it send a value | KEPT, SENDING
SENDING | none: the job waits for the acknowledgement of its value | RUNNING
KEPT | the result is in the arena; packets leave by rule 5 | BETWEEN
GONE | none | GONE

1. If ``SLOT_DROPS`` has changed, the worker lets go of shared objects before the next record: the model of all, the
   real one of those whose files are gone. An empty record does nothing else.
2. A record says whether its jobs print past the buffer; SIGURG for the present position says so to the record's end.
3. Claim first, limit second: a node that has set a limit and then reads a claim below it knows that the job at the
   limit will not be started here. A limit in another record means nothing.
4. A job whose position is in ``SLOT_INTERRUPT`` when it would begin is cancelled without having run. Later SIGINT
   raises KeyboardInterrupt in it, once for each time that the node writes the position; at any other position, and
   between jobs, the signal does nothing.
5. Results leave in one packet when they are more than ``ARENA_FLUSH`` bytes or older than ``FLUSH_AFTER_S``; the last
   of a record may be ``LAST_AFTER_S`` old.
6. The end of a record is always told, with all results that are left. Then the worker is WAITING; but if its last job
   has left a thread or process behind, it says that it retires, and is GONE with exit code 0.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import NamedTuple

import msgspec

from dispy.protocol import worker as protocol
from dispy.protocol.node import FINISHED, TERMINATED, Ended, Job
from dispy.protocol.worker import ProvisionalValue, Record, SentAcknowledged, claim

FLUSH_AFTER_S = 0.002
LAST_AFTER_S = 0.01
SETUP_FAILED = 78
"""Exit code of a worker whose ``setup`` has failed."""

CANCELLED_REASON = "cancelled"

_encode = msgspec.msgpack.Encoder().encode


class Ran(NamedTuple):
    """A packet of results, with the fields of ``core.execution.Ran`` behind the worker's number."""

    record: int
    executed: int
    is_last: bool
    is_retiring: bool
    ended: list[Ended]


class Channels:
    """Memory and sockets between a node and one worker, which outlive the worker.

    Attributes:
        words: The words of its slot, by ``SLOT_…``; but for ``SLOT_START``, a float: ``start``.
        start: When the running job began (seconds of the node's wall clock).
        records: Records that the node has sent and the worker has not taken.
        arena: Results that no packet has carried.
        printed: Output of the running job that the node can see.
    """

    def __init__(self) -> None:
        self.words = [0] * protocol.SLOT_WORDS
        self.start = 0.0
        self.records: deque[Record] = deque()
        self.arena: list[Ended] = []
        self.printed = b""

    def untaken(self) -> list[int]:
        """Take back all records that the worker has not taken; returns their numbers."""
        numbers = [record.record for record in self.records if record.jobs]
        self.records.clear()
        return numbers

    def unsent(self) -> Ran | None:
        """Results in the arena, which the node reads if the worker is dead or busy for long; None: there are none."""
        return Ran(0, 0, False, False, list(self.arena)) if self.arena else None


class Phase(Enum):
    """Where a worker is; the module's table says what follows."""

    SETTING_UP = "in setup"
    WAITING = "waiting for a record"
    BETWEEN = "between two jobs"
    CLAIMED = "claim written, limit not yet read"
    STARTED = "start written, arguments not yet loaded"
    RUNNING = "in the job"
    SENDING = "in the job, which waits for the acknowledgement of a value"
    KEPT = "result in the arena, not yet looked whether to send it"
    GONE = "dead"


_BY_ITSELF = frozenset({Phase.BETWEEN, Phase.CLAIMED, Phase.STARTED, Phase.KEPT})


class Worker:
    """A worker process.

    Args:
        channels: What it shares with its node.
        setup_per_worker: True if it calls ``setup`` first.

    Attributes:
        exit_code: Why it is GONE: 0, ``SETUP_FAILED``; None if it lives or was killed.
        record: The record that it runs; None between two.
        executed: Jobs of it that were begun, or could not be.
        ended: The last result, as it stands in the arena or in a packet.
        serial: Number of the last value that the job has sent.
        objects: Shared objects that it has mapped.
        is_closed: True once the node has closed its end of the socket.
        is_live: True if output is not buffered.
        buffered: Output of the running job that the node cannot see.
    """

    def __init__(self, channels: Channels, setup_per_worker: bool = False) -> None:
        self.channels = channels
        self.phase = Phase.SETTING_UP if setup_per_worker else Phase.WAITING
        self.exit_code: int | None = None
        self.record: Record | None = None
        self.executed = 0
        self.ended: Ended | None = None
        self.objects: set[int] = set()
        self.is_closed = False
        self.is_live = False
        self.buffered = b""
        self.serial = 0
        self._drops = 0
        self._size = protocol.ARENA_HEAD
        self._began = 0.0
        self._flushed = 0.0
        self._is_retiring = False

    # What happens by itself.

    def can_step(self) -> bool:
        """True if ``step`` does something."""
        if self.phase is Phase.WAITING:
            return bool(self.channels.records) or self.is_closed
        return self.phase in _BY_ITSELF

    def step(self, clock: float, wall: float) -> Ran | None:
        """Do the next thing; returns the packet that is sent with it.

        Args:
            clock: The present, on a clock that nobody sets (seconds).
            wall: The present, on the wall clock (seconds).
        """
        words = self.channels.words
        match self.phase:
            case Phase.WAITING:
                self._take(clock)
            case Phase.BETWEEN:
                assert self.record is not None
                if self._is_retiring or self.executed == len(self.record.jobs):
                    return self._end_record(clock)
                words[protocol.SLOT_CLAIM] = claim(self.record.record, self.executed)
                self.phase = Phase.CLAIMED
            case Phase.CLAIMED:
                assert self.record is not None
                first, limit = claim(self.record.record, 0), words[protocol.SLOT_LIMIT]
                if first <= limit <= words[protocol.SLOT_CLAIM]:
                    return self._end_record(clock)
                self.executed += 1
                self.serial = 0
                self._began, self.channels.start = clock, wall
                self.phase = Phase.STARTED
            case Phase.STARTED:
                self.phase = Phase.RUNNING
                if self.interrupt():
                    self.end_job(clock, TERMINATED, reason=CANCELLED_REASON)
            case Phase.KEPT:
                return self._flush_if_due(clock)
        return None

    def _take(self, clock: float) -> None:
        if not self.channels.records:
            self._leave(0)
            return
        record = self.channels.records.popleft()
        drops = self.channels.words[protocol.SLOT_DROPS]
        if drops != self._drops:
            self._drops = drops
            self.objects.clear()
        if record.jobs:
            self.record = record
            self.executed = 0
            self.is_live = record.live
            self._flushed = clock
            self.phase = Phase.BETWEEN

    def _flush_if_due(self, clock: float) -> Ran | None:
        assert self.record is not None
        self.phase = Phase.BETWEEN
        age = clock - self._flushed
        if self.executed == len(self.record.jobs) and age <= LAST_AFTER_S:
            return None
        return self._flush(clock) if self._size > protocol.ARENA_FLUSH or age > FLUSH_AFTER_S else None

    def _end_record(self, clock: float) -> Ran:
        packet = self._flush(clock, is_last=True)
        self.record = None
        self.phase = Phase.WAITING
        if self._is_retiring:
            self._leave(0)
        return packet

    def _flush(self, clock: float, is_last: bool = False) -> Ran:
        assert self.record is not None
        ended, self.channels.arena = self.channels.arena, []
        self.channels.words[protocol.SLOT_COUNT] = 0
        self._size = protocol.ARENA_HEAD
        self._flushed = clock
        return Ran(self.record.record, self.executed, is_last, is_last and self._is_retiring, ended)

    def _leave(self, code: int) -> None:
        self.phase = Phase.GONE
        self.exit_code = code

    # What its job does.

    @property
    def job(self) -> Job:
        """The job that has been begun last."""
        assert self.record is not None
        return self.record.jobs[self.executed - 1]

    def end_job(
        self,
        clock: float,
        status: int = FINISHED,
        payload: bytes = b"",
        stream: int = 0,
        reason: str = "",
        leaves: bool = False,
    ) -> Ended:
        """End the job; the result is in the arena from now on. ``leaves``: a thread or process of it lives on."""
        assert self.phase in (Phase.STARTED, Phase.RUNNING, Phase.SENDING)
        channels, job = self.channels, self.job
        end = channels.start + (clock - self._began)
        ended = Ended(
            job.number, job.attempt, status, channels.start, end, payload, stream,
            stdout=channels.printed + self.buffered, reason=reason,
        )  # fmt: skip
        channels.printed = self.buffered = b""
        channels.arena.append(ended)
        channels.words[protocol.SLOT_COUNT] += 1
        self._size += len(_encode(ended))
        self._is_retiring = leaves
        self.ended = ended
        self.phase = Phase.KEPT
        return ended

    def print(self, text: bytes) -> None:
        """The job prints something."""
        if self.is_live:
            self.channels.printed += text
        else:
            self.buffered += text

    def send_value(self, payload: bytes, stream: int = 0) -> ProvisionalValue:
        """The job sends a provisional result, and waits for its acknowledgement."""
        self.serial += 1
        self.phase = Phase.SENDING
        return ProvisionalValue(self.job.number, self.job.attempt, self.serial, payload, stream)

    def acknowledge(self, answer: SentAcknowledged | None) -> bool:
        """An acknowledgement has come, or its time is over (None); True if the job goes on because of it."""
        if self.phase is not Phase.SENDING:
            return False
        awaited = (self.job.number, self.job.attempt, self.serial)
        if answer is not None and (answer.number, answer.attempt, answer.serial) != awaited:
            return False
        self.phase = Phase.RUNNING
        return True

    # What its host and its node do.

    def set_up(self, reason: str) -> bytes:
        """End ``setup``, which has failed if there is a reason; returns the packet that tells it."""
        self.phase = Phase.WAITING
        if reason:
            self._leave(SETUP_FAILED)
        return protocol.pack_set_up(reason)

    def interrupt(self) -> bool:
        """SIGINT: True if KeyboardInterrupt is raised in the job. The caller decides what the job does about it."""
        words = self.channels.words
        is_meant = words[protocol.SLOT_INTERRUPT] == words[protocol.SLOT_CLAIM]
        if not is_meant or self.phase not in (Phase.RUNNING, Phase.SENDING):
            return False
        words[protocol.SLOT_INTERRUPT] = 0
        self.phase = Phase.RUNNING
        return True

    def unbuffer(self) -> None:
        """SIGURG: if it is for the present position, what is buffered is printed, and what follows at once."""
        words = self.channels.words
        if words[protocol.SLOT_UNBUFFER] == words[protocol.SLOT_CLAIM]:
            self.is_live = True
            self.channels.printed += self.buffered
            self.buffered = b""

    def die(self) -> None:
        """SIGKILL, or any other end where it is."""
        self.phase = Phase.GONE
