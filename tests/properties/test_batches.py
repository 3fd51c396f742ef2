"""Batches between two that are cut off from each other, overtake each other, and begin anew: none is lost or doubled.

``Sent`` and ``Arrived`` are the real ones; the two programs around them, the connection and the journal are the
simplest that keep to ``protocol.batches``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from dispy.protocol.batches import Arrived, Sent


class Batch(Struct, eq=False):
    """A batch; ``content`` is unique, whatever number it gets."""

    batch: int
    content: int
    is_large: bool


class Welcome(Struct):
    """The sender's answer to ``Attach``."""

    incarnation: int
    is_known: bool
    last: int
    kept: list[int]


class Line:
    """A connection: messages in order each way, and payloads that may arrive in any order."""

    def __init__(self, received: int) -> None:
        self.up: deque[int] = deque([received])
        """Numbers up to which batches may be forgotten: the first one is said by ``Attach``."""
        self.is_attached = False
        """Whether the sender has heard of the receiver."""
        self.down: deque[Welcome | Batch] = deque()
        self.streams: list[Batch] = []
        """Large batches, each of which goes behind the messages when its payload has left."""
        self.small_max = 0
        """Highest number of a small batch that has arrived."""


class Exchange:
    """Two programs, one connection at a time, and an account of every batch."""

    def __init__(self) -> None:
        self.line: Line | None = None
        self.sent: Sent[Batch] = Sent()
        self.incarnation = 1
        self.is_known = False
        """Whether the sender knows the receiver."""
        self.has_met = False
        """Whether this incarnation of the sender has work of the receiver: without that it makes no batch. One that
        knows the receiver has it once it hears of him; another gets it from a receiver that heard its ``Welcome``."""
        self.arrived = Arrived()
        self.heard_of = 0
        """The incarnation whose numbers ``arrived`` has; 0: of none yet."""
        self.unnoted: deque[tuple[Arrived, int]] = deque()
        """What the journal will have written soon."""
        self.made = 0
        self.lost: set[int] = set()
        """Contents that died with their sender, or were not wanted any more."""
        self.delivered: dict[int, int] = {}
        """By content: how often it came."""
        self.noted: set[int] = set()
        """Contents that the receiver does not need from the sender again."""
        self.content_by_number: dict[int, int] = {}
        """Of the batches that have arrived under the present numbers."""

    # The sender.

    def send(self, is_large: bool) -> None:
        """A batch is made, and leaves if somebody is there."""
        if self.has_met:
            self.made += 1
            batch = Batch(0, self.made, is_large)
            self.sent.add(batch)
            self._leave(batch)

    def _leave(self, batch: Batch) -> None:
        if self.line is not None and self.line.is_attached:
            (self.line.streams if batch.is_large else self.line.down).append(batch)

    def _finish_stream(self, line: Line, index: int) -> None:
        """The last of a payload has left: its message follows."""
        line.down.append(line.streams.pop(index % len(line.streams)))

    def _deliver_up(self, line: Line) -> None:
        """The sender hears something."""
        received = line.up.popleft()
        if line.is_attached:
            self._forgotten(self.sent.acknowledge(received))
            return
        line.is_attached = True
        self.has_met = self.is_known
        if not self.is_known:
            line.down.append(Welcome(self.incarnation, False, 0, []))
            self.is_known = True
            return
        kept = self.sent.numbers_after(received)
        line.down.append(Welcome(self.incarnation, True, self.sent.last, kept))
        self._forgotten(self.sent.resume(received))
        for batch in self.sent.kept:
            self._leave(batch)

    def _forgotten(self, dropped: list[Batch]) -> None:
        assert {batch.content for batch in dropped} <= self.noted, "what the receiver needs is forgotten"

    # The receiver.

    def _deliver_down(self, line: Line) -> None:
        """The receiver hears something."""
        message = line.down.popleft()
        if isinstance(message, Welcome):
            self._compare(message)
            return
        before = self.content_by_number.get(message.batch)
        if self.arrived.has(message.batch):
            assert message.content == before, "a new batch is taken for an old one"
            return
        assert message.content != before, "a batch is delivered twice"
        if not message.is_large:
            assert message.batch > line.small_max, "small batches are out of order"
            line.small_max = message.batch
        self.content_by_number[message.batch] = message.content
        self.delivered[message.content] = self.delivered.get(message.content, 0) + 1
        self.arrived.arrive(message.batch)
        self.unnoted.append((self.arrived, self.arrived.received))

    def _compare(self, message: Welcome) -> None:
        is_same = self.heard_of in (0, message.incarnation)
        before = self.arrived
        self.arrived = before.compare(
            message.last, message.kept, is_known=message.is_known, is_same=is_same
        )
        self.heard_of = message.incarnation
        self.has_met = True
        if not (message.is_known and is_same):
            self.content_by_number.clear()

    def _note(self) -> None:
        """The journal has written something, maybe of numbers that mean nothing any more."""
        arrived, received = self.unnoted.popleft()
        arrived.release(received)
        if arrived is self.arrived:
            self.noted.update(
                content for number, content in self.content_by_number.items() if number <= received
            )

    def _acknowledge(self, line: Line) -> None:
        """The receiver says what it has."""
        number = self.arrived.due()
        line.up.append(number)
        self.arrived.tell(number)
        assert not self.arrived.due()

    def step(self, index: int) -> bool:
        """Something happens that is not a fault; False if nothing can."""
        line = self.line
        if line is None:
            self.line = Line(self.arrived.attach())
            return True
        steps: list[Callable[[], None]] = [
            *([lambda: self._deliver_up(line)] if line.up else []),
            *([lambda: self._deliver_down(line)] if line.down else []),
            *([lambda: self._finish_stream(line, index)] if line.streams else []),
            *([self._note] if self.unnoted else []),
            *([lambda: self._acknowledge(line)] if self.arrived.due() else []),
        ]
        if steps:
            steps[index % len(steps)]()
        return bool(steps)

    # Faults.

    def break_off(self) -> None:
        """The connection is gone, with all that was under way."""
        self.line = None

    def restart(self, which: int) -> None:
        """The sender dies; the next incarnation finds some of its batches on disk, and may have lost count."""
        self.break_off()
        kept = [batch for place, batch in enumerate(self.sent.kept) if which >> place % 2 & 1]
        self.lost.update(batch.content for batch in self.sent.kept if batch not in kept)
        last = kept[-1].batch if kept else 0
        self.is_known = self.is_known and which > 0
        self.sent = Sent(kept, self.sent.last if which & 4 else last) if self.is_known else Sent()
        self.has_met = False
        self.incarnation += 1

    def forget(self) -> None:
        """The receiver's lease ends: the sender drops all that it has of it."""
        self.break_off()
        self.lost.update(batch.content for batch in self.sent.kept)
        self.sent = Sent()
        self.is_known = self.has_met = False

    def discard(self, index: int) -> None:
        """A batch is not wanted any more, while nobody waits for it."""
        if self.line is None and self.sent.kept:
            chosen = self.sent.kept[index % len(self.sent.kept)]
            assert self.sent.discard(lambda batch: batch is chosen) == [chosen]
            self.lost.add(chosen.content)

    # What must hold.

    def check(self) -> None:
        """At any time."""
        arrived = self.arrived
        assert arrived.told <= arrived.released <= arrived.received
        assert all(number > arrived.received + 1 for number in arrived.ahead)
        numbers = [batch.batch for batch in self.sent.kept]
        assert numbers == sorted(set(numbers))
        assert not numbers or numbers[-1] <= self.sent.last

    def check_end(self) -> None:
        """When the faults have ended: all has arrived, once, and nothing is kept."""
        while self.step(0):
            self.check()
        missing = set(range(1, self.made + 1)) - self.delivered.keys() - self.lost
        assert not missing, f"{missing} never arrive"
        assert not self.sent.kept, "acknowledged batches are kept"
        assert self.arrived.received >= self.sent.last
        assert not self.arrived.ahead
        if self.incarnation == 1:
            assert set(self.delivered.values()) <= {1}, "a batch is delivered twice"


def play(program: bytes, *, restarts: bool) -> None:
    """Do what each byte says: the low half chooses what, the high half which."""
    exchange = Exchange()
    for byte in program:
        what, which = byte % 16, byte // 16
        if what < 4:
            exchange.send(is_large=what > 1)
        elif what == 15:
            exchange.break_off()
        elif what == 14 and restarts:
            exchange.restart(which)
        elif what == 13 and restarts and which < 4:
            exchange.forget()
        elif what == 12:
            exchange.discard(which)
        else:
            exchange.step(which)
        exchange.check()
    exchange.check_end()


PROGRAMS = st.binary(max_size=300)
MANY = settings(max_examples=settings().max_examples * 10)


@MANY
@given(PROGRAMS)
@example(bytes([4, 4, 4, 0x20, 0, 0x14, 0x24, 4, 15, 4, 4, 4, 4]))
def test_each_batch_arrives_once_and_is_forgotten_then(program: bytes) -> None:
    play(program, restarts=False)


@MANY
@given(PROGRAMS)
@example(
    bytes([4, 4, 4, 0, 4, 4, 4, 0x8E, 4, 4, 4, 0])
)  # it has lost count, and may not use a number again
def test_a_batch_that_its_sender_has_kept_over_its_death_arrives(program: bytes) -> None:
    play(program, restarts=True)


@pytest.mark.parametrize("restarts", [False, True])
def test_programs_do_something(restarts: bool) -> None:
    """A model in which nothing arrives proves nothing."""
    exchange = Exchange()
    for _ in range(3):
        exchange.step(0)
    for what in (True, False, False):
        exchange.send(what)
    if restarts:
        exchange.restart(15)
    exchange.check_end()
    assert exchange.delivered == {1: 1, 2: 1, 3: 1}
