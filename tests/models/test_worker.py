"""The model of a worker against a real one: the same records, signals and orders, and the same packets, slot, output.

A script is a list of commands, those of a node (``offer``, ``cut``, ``interrupt`` …) and those of the running job
(``end``, ``print``, ``value`` …). A command that cannot be given when its turn comes is left out, so that scripts
can be drawn at random. Behind each command both sides come to rest: in a job that waits for orders, in a value that
waits for its acknowledgement, without a record, or dead.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import Phase as Stage
from hypothesis import given, settings
from hypothesis import strategies as st

from dispy import payload
from dispy.protocol import worker as protocol
from dispy.protocol.node import FINISHED, TERMINATED, Ended, Job
from dispy.protocol.worker import LAST_OF_RECORD, RETIRING, Record, SentAcknowledged, WorkerExited, claim
from tests.integration.helpers import wait_for
from tests.models.real import SOON_S, Gate, RealHost, make_job, real_host, receive
from tests.models.worker import CANCELLED_REASON, Channels, Phase, Ran, Worker

encode = msgspec.msgpack.Encoder().encode


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    """Where all jobs of these tests wait for orders."""
    gate = Gate(f"dispy-models-{os.getpid()}")
    yield gate
    gate.close()


@pytest.fixture(scope="module")
def host(gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHost]:
    """A host whose workers are compared."""
    with real_host(tmp_path_factory.mktemp("host"), make_job(f"dispy-models-{os.getpid()}")) as host:
        host.load()
        assert host.heard() == protocol.Loaded()
        yield host


class Pair:
    """A model and a real worker that are told the same.

    Attributes:
        is_over: True once both are dead, and have been compared for the last time.
    """

    def __init__(self, host: RealHost, gate: Gate) -> None:
        self.is_over = False
        self._host = host
        self._gate = gate
        self._handle = host.start_worker()
        self._channels = Channels()
        self._model = Worker(self._channels)
        self._packets: list[Any] = []
        self._clock = 0.0
        self._records = 0
        self._jobs = 0
        self._is_deaf = False
        # Nothing is compared of the first job: it sets the worker's clock while that is looked at.
        self._offer(1, live=False)
        self._settle()
        self._gate.order("return", 1)
        self._end(FINISHED, payload.dump(bytes(1)))
        self._settle()
        self._receive()
        self._packets.clear()

    def do(self, command: str) -> bool:
        """Give a command to both, and compare; False if it cannot be given now."""
        name, *words = command.split()
        is_done = False
        if not self.is_over and getattr(self, f"_on_{name}")(*words) is not False:
            is_done = True
            self._settle()
            self._compare()
        return is_done

    def close(self) -> None:
        """End both."""
        if not self.is_over:
            self._gate.close_job()
            self._host.process.tell(protocol.Kill(self._handle.id))
            assert self._host.heard() == WorkerExited(self._handle.id, -signal.SIGKILL)
            self._host.process.forget(self._handle)
            self._gate.forget_others()

    # Commands of the node.

    def _on_offer(self, count: str, live: str = "") -> bool:
        """Send a record of so many jobs; 0: one that only wakes the worker."""
        if len(self._channels.records) > 1 or self._model.is_closed:
            return False
        self._offer(int(count), live=bool(live))
        return True

    def _offer(self, count: int, live: bool) -> None:
        self._records += 1
        jobs = []
        for _ in range(count):
            self._jobs += 1
            jobs.append(Job(self._jobs, self._jobs % 3, bytes(payload.dump_call((), {}))))
        record = Record(self._records, jobs, live)
        self._handle.jobs.send(encode(record))
        self._channels.records.append(record)

    def _on_cut(self, index: str) -> bool:
        """Set the limit to a job of the present record; ``other``: to one of a record that is over."""
        self._set(protocol.SLOT_LIMIT, index)
        return True

    def _on_interrupt(self, index: str) -> bool:
        """Cancel a job of the present record (``this``: the one that runs), by word and signal."""
        self._set(protocol.SLOT_INTERRUPT, index)
        self._signal(signal.SIGINT)
        is_raised = self._model.interrupt()
        if is_raised and self._is_deaf:
            assert self._gate.answer() == ("interrupted", None)
        elif is_raised:
            self._end(TERMINATED, reason=CANCELLED_REASON)
        self._catch_up()
        return True

    def _on_unbuffer(self, index: str) -> bool:
        """Have a job of the present record print past the buffer."""
        self._set(protocol.SLOT_UNBUFFER, index)
        self._signal(signal.SIGURG)
        self._model.unbuffer()
        self._catch_up()
        return True

    def _on_recall(self) -> bool:
        """Take back what the worker has not taken; while it waits for records, it may be about to."""
        if self._model.phase not in (Phase.RUNNING, Phase.SENDING):
            return False
        assert self._handle.untaken() == self._channels.untaken()
        return True

    def _on_drop(self) -> bool:
        """Have it let go of objects."""
        if self._model.is_closed:
            return False
        self._handle.drop_objects()
        self._channels.words[protocol.SLOT_DROPS] += 1
        self._channels.records.append(Record(0, []))
        return True

    def _on_close(self) -> bool:
        """Close the socket of records."""
        self._model.is_closed = True
        self._handle.jobs.close()
        self._handle.jobs_copy.close()
        return True

    def _on_ack(self, kind: str) -> bool:
        """Acknowledge the value that the job waits for, or another one, or say that it was not delivered."""
        if self._model.phase is not Phase.SENDING:
            return False
        job = self._model.job
        serial = self._model.serial + (kind == "other")
        answer = SentAcknowledged(job.number, job.attempt, serial, kind != "lost")
        self._handle.replies.send(encode(answer))
        if self._model.acknowledge(answer):
            assert self._gate.answer() == ("value", -1 if kind == "lost" else 0)
        return True

    def _set(self, word: int, index: str) -> None:
        record = self._model.record.record if self._model.record is not None else self._records
        at = max(0, self._model.executed - 1) if index == "this" else int(index) if index != "other" else 0
        position = claim(record - (index == "other"), at)
        self._handle.words[word] = self._channels.words[word] = position

    def _signal(self, number: int) -> None:
        os.kill(self._handle.pid, number)

    def _catch_up(self) -> None:
        """Wait until the running job has seen the signal, if it has gone on."""
        if self._model.phase is Phase.RUNNING:
            self._order("nothing")

    # Commands of the job.

    def _order(self, order: str, value: Any = None) -> bool:
        if self._model.phase is not Phase.RUNNING:
            return False
        self._gate.order(order, value)
        assert self._gate.answer() == (order, None)
        return True

    def _spend(self, milliseconds: str) -> bool:
        self._clock += int(milliseconds) / 1000
        return self._order("spend", int(milliseconds) / 1000)

    def _on_end(self, milliseconds: str = "0", size: str = "1", leaves: str = "") -> bool:
        """The job returns so many bytes after so many milliseconds; ``leaves``: a thread of it goes on."""
        if self._model.phase is not Phase.RUNNING:
            return False
        self._spend(milliseconds)
        if leaves:
            self._order("leave")
        self._gate.order("return", int(size))
        self._end(FINISHED, bytes(payload.dump(bytes(int(size)))), leaves=bool(leaves))
        return True

    def _on_raise(self) -> bool:
        """The job raises an exception."""
        if self._model.phase is not Phase.RUNNING:
            return False
        self._gate.order("raise")
        self._end(TERMINATED, reason="any")
        return True

    def _on_die(self) -> bool:
        """The job's process dies."""
        if self._model.phase is not Phase.RUNNING:
            return False
        self._gate.order("die")
        self._model.die()
        return True

    def _on_deaf(self) -> bool:
        """From now on the job catches KeyboardInterrupt."""
        self._is_deaf |= self._order("deaf")
        return self._is_deaf

    def _on_print(self, text: str) -> bool:
        """The job prints something."""
        if not self._order("print", text):
            return False
        self._model.print(text.encode())
        return True

    def _on_value(self, timeout_s: str = "30") -> bool:
        """The job sends a provisional result; with a short timeout it waits in vain."""
        if self._model.phase is not Phase.RUNNING:
            return False
        self._gate.order("value", (b"v", False, float(timeout_s)))
        self._packets.append(self._model.send_value(bytes(payload.dump(b"v"))))
        if float(timeout_s) < 1:
            assert self._gate.answer() == ("value", -1)
            self._model.acknowledge(None)
        return True

    def _end(self, status: int, data: bytes = b"", reason: str = "", leaves: bool = False) -> None:
        self._model.end_job(self._clock, status, data, 0, reason, leaves)
        self._is_deaf = False

    # Comparing.

    def _settle(self) -> None:
        """Let both go on to where they need an order."""
        phase = self._model.phase
        while self._model.can_step():
            packet = self._model.step(self._clock, 0.0)
            if packet is not None:
                self._packets.append(packet)
            if self._model.phase is Phase.RUNNING and phase is not Phase.RUNNING:
                self._gate.accept()
            phase = self._model.phase

    def _receive(self) -> list[Any]:
        """All that the real worker has sent by now."""
        found: list[Any] = []
        while len(found) < len(self._packets):
            packet = receive(self._handle)
            assert packet, f"{self._packets[len(found)]} is not sent"
            found.append(unpack(packet))
        extra = receive(self._handle, 0.0)
        return [*found, unpack(extra)] if extra else found

    def _compare(self) -> None:
        is_dead = self._model.phase is Phase.GONE
        if is_dead:
            code = self._model.exit_code
            code = -signal.SIGSEGV if code is None else code
            assert self._host.heard() == WorkerExited(self._handle.id, code)
        expected, self._packets = [comparable(packet) for packet in self._packets], self._packets
        assert [comparable(packet) for packet in self._receive()] == expected
        self._packets = []
        self._compare_slot()
        if is_dead:
            left = self._handle.committed()
            waiting = self._channels.unsent()
            assert (comparable(unpack(bytes(left))) if left else None) == (waiting and comparable(waiting))
            self.is_over = True
            self._gate.close_job()
            self._host.process.forget(self._handle)
        elif self._model.phase is Phase.RUNNING:
            assert os.fstat(self._handle.output[0]).st_size == len(self._channels.printed)

    def _compare_slot(self) -> None:
        """The slot has the same words, as soon as the worker has come to rest."""
        words = (protocol.SLOT_CLAIM, protocol.SLOT_INTERRUPT, protocol.SLOT_COUNT)
        expected = [self._channels.words[word] for word in words]
        wait_for(
            lambda: [self._handle.words[word] for word in words],
            lambda seen: seen == expected,
            what=f"the slot has {expected}",
            deadline_s=SOON_S,
        )


@contextmanager
def playing(host: RealHost, gate: Gate) -> Iterator[Pair]:
    """A pair that is ended afterwards."""
    pair = Pair(host, gate)
    try:
        yield pair
    finally:
        pair.close()


def unpack(packet: bytes) -> Any:
    """A packet of a worker as the model has it."""
    if packet[0] == protocol.PROVISIONAL:
        return protocol.provisional_decoder.decode(packet[1:])
    flags, executed, record, ended = protocol.unpack_ran(memoryview(packet))
    return Ran(record, executed, bool(flags & LAST_OF_RECORD), bool(flags & RETIRING), ended)


def comparable(packet: Any) -> Any:
    """A packet without what only a real one has: times of the day, texts of exceptions, pickled exceptions."""
    return (
        packet._replace(ended=[reduced(ended) for ended in packet.ended]) if type(packet) is Ran else packet
    )


def reduced(ended: Ended) -> tuple[Any, ...]:
    is_own = ended.status == FINISHED or ended.reason == CANCELLED_REASON
    what = (ended.payload, ended.reason) if is_own else bool(ended.reason)
    seconds = round(ended.end - ended.start, 6)
    return ended.number, ended.attempt, ended.status, seconds, what, ended.stdout, ended.ran, ended.died


SCRIPTS = {
    "results leave together": ["offer 3", "end", "end", "end"],
    "old ones leave at once": ["offer 3", "end 1", "end 2", "end"],
    "the last ones wait longer": ["offer 2", "end 1", "end 8", "offer 1", "end 11"],
    "many bytes leave at once": ["offer 4", "end 0 50000", "end 0 50000", "end 0 1", "end 0 60000"],
    "a record behind another": ["offer 2", "offer 1", "end", "end", "end"],
    "jobs that fail": ["offer 2", "raise", "end"],
    "a limit ahead": ["offer 4", "cut 2", "end", "end", "offer 1", "end"],
    "a limit that is passed": ["offer 4", "end", "end", "cut 1", "end"],
    "a limit in another record": ["offer 1", "end", "offer 2", "cut other", "end", "end"],
    "a cancelled job": ["offer 3", "end", "interrupt this", "end"],
    "one that has not begun": ["offer 3", "interrupt 2", "end", "end"],
    "one that has ended": ["offer 3", "end", "interrupt 0", "end", "end"],
    "one that is deaf": ["offer 2", "deaf", "interrupt this", "interrupt this", "end", "interrupt this"],
    "a signal without a job": ["interrupt this", "offer 1", "end", "interrupt this", "offer 1", "end"],
    "records that are taken back": ["offer 2", "offer 1", "recall", "end", "end", "offer 1", "end"],
    "an empty record": ["offer 0", "drop", "offer 1", "drop", "offer 1", "end", "end"],
    "a job that leaves a thread": ["offer 3", "offer 1", "end", "end 0 1 leaves"],
    "a process that dies": ["offer 3", "offer 1", "end", "die"],
    "a node that closes": ["offer 2", "end", "close", "end"],
    "a node that closes while nothing runs": ["offer 1", "end", "close"],
    "output": ["offer 2", "print a", "unbuffer this", "print b", "end", "print c", "end", "offer 1", "print d"],
    "live output": ["offer 2 live", "print a", "unbuffer 1", "end", "print b", "end"],
    "values": ["offer 2", "value", "ack other", "ack it", "value", "ack lost", "end", "value", "ack it", "end"],
    "a value for which nobody waits": ["offer 1", "value 0.001", "value", "interrupt this"],
    "a cancel while a value waits": ["offer 2", "deaf", "value", "interrupt this", "end", "value", "interrupt this"],
}  # fmt: skip


@pytest.mark.parametrize("what", SCRIPTS)
def test_a_worker_does_as_its_model(host: RealHost, gate: Gate, what: str) -> None:
    with playing(host, gate) as pair:
        assert all(pair.do(command) for command in SCRIPTS[what])


COMMANDS = sorted({command for script in SCRIPTS.values() for command in script})


# What is not as expected takes SOON_S to see: scripts are short enough to read without being shortened.
@settings(max_examples=40, phases=[Stage.generate])
@given(
    commands=st.lists(
        st.one_of(
            st.sampled_from([command for command in COMMANDS if not command.startswith(("die", "close"))]),
            st.sampled_from(COMMANDS),
            st.sampled_from(["offer 3", "end", "end 1"]),
        ),
        min_size=5,
        max_size=30,
    )
)
def test_a_worker_does_as_its_model_whatever_comes(host: RealHost, gate: Gate, commands: list[str]) -> None:
    with playing(host, gate) as pair:
        for command in commands:
            pair.do(command)
