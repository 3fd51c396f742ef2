"""Batches: numbered messages that the sender keeps until the receiver has them, over connections that break.

Theory of operation. ``Sent`` is the sender's end, ``Arrived`` the receiver's. Neither sends anything: the caller
does, and tells them. A node sends results to a scheduler this way.

The sender numbers its batches from 1, keeps each, and sends it over the connection that stands, if any. Whatever was
under way on a connection that breaks is lost. On the next one both sides compare:

    receiver → sender   Attach       ``Arrived.attach``: all batches up to this number may be forgotten
    sender → receiver   Welcome      ``Sent.last``, and the numbers of the batches kept (``Sent.numbers_after``)
    sender → receiver   batches      all that are kept, oldest first, then new ones
    receiver → sender   Acknowledge  ``Arrived.due``: all batches up to this number may be forgotten

A batch at the sender:

    state       event                                                      next
    none        ``add``                                                    kept
    kept        ``acknowledge`` or ``resume`` of its number or a later one forgotten
    kept        ``discard``: it is not wanted any more                     forgotten

A batch at the receiver:

    state       event                                                      next
    expected    ``arrive``                                                 arrived
    expected    ``compare`` does not list it                               never comes
    arrived     ``release`` of its number or a later one                   released
    released    ``tell`` or ``attach``: the sender is told                 acknowledged

The rules:

1. *Numbers have no holes.* A batch that is not wanted any more while it is under way is sent empty, under its number;
   otherwise nothing behind it could be acknowledged.
2. *One number stands for all before it*, and batches overtake each other: one with a large payload, which travels
   beside the messages as a stream, arrives later than its number says. So the receiver counts only the unbroken run
   from 1 (``Arrived.received``) and keeps the numbers that came ahead of it.
3. *A batch that the sender does not keep never comes.* ``Welcome`` lists the batches that will be sent again; every
   other number up to the last is a gap, over which the run goes on.
4. *Arrived is not released.* A receiver that writes results to a journal releases them when they are on disk; only
   released batches are acknowledged, since the sender forgets them.
5. *Exactly once.* A batch that was acknowledged too late is sent again. The receiver knows it by its number
   (``Arrived.has``) and drops it.
6. *Numbers mean something only between two.* If another incarnation of the sender answers, with what it found on disk
   of the one before, its numbers above those that it was told in ``Attach`` may stand for other batches. The receiver
   begins anew there (``Arrived.compare``); whatever had arrived beyond may come once more, under any number, and its
   content has to tell (jobs: number and attempt). The new incarnation makes no batch before it has heard ``Attach``:
   it may not know how far the old one has counted (``Sent.resume``). A sender that does not know the receiver counts
   from 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar


class Numbered(Protocol):
    """A batch: a message with a number.

    Attributes:
        batch: Number of the batch, from 1; ``Sent.add`` sets it.
    """

    batch: int


B = TypeVar("B", bound=Numbered)


class Sent(Generic[B]):
    """The sender's end: numbers batches, and keeps them until they are acknowledged.

    Args:
        kept: Batches that an earlier incarnation of the sender has left, oldest first.
        last: Number of the last batch that was ever made; at least that of the last one kept.

    Attributes:
        kept: Batches that are not acknowledged, oldest first. Read only.
        last: Number of the last batch that was ever made; 0: none.
    """

    __slots__ = ("kept", "last")

    def __init__(self, kept: Iterable[B] = (), last: int = 0) -> None:
        self.kept: deque[B] = deque(kept)
        self.last = last

    def add(self, batch: B) -> None:
        """Give a batch the next number and keep it. Send it now, if a connection stands."""
        self.last += 1
        batch.batch = self.last
        self.kept.append(batch)

    def numbers_after(self, received: int) -> list[int]:
        """Returns the numbers of the batches that will be sent again to a receiver that names ``received`` in
        ``Attach``."""
        return [batch.batch for batch in self.kept if batch.batch > received]

    def acknowledge(self, received: int) -> list[B]:
        """Forget all batches up to number ``received``; returns them, for the caller to free what they hold."""
        dropped = []
        kept = self.kept
        while kept and kept[0].batch <= received:
            dropped.append(kept.popleft())
        return dropped

    def resume(self, received: int) -> list[B]:
        """A new connection stands, on which the receiver has named ``received``. Send all of ``kept`` again.

        The receiver may have seen numbers that were lost here with an earlier incarnation: they are not used again.

        Returns:
            The batches that are forgotten, as by ``acknowledge``.
        """
        self.last = max(self.last, received)
        return self.acknowledge(received)

    def discard(self, is_unwanted: Callable[[B], bool]) -> list[B]:
        """Forget batches that are not wanted any more, acknowledged or not; returns them, oldest first.

        Only where the receiver does not wait for them: it is told by the next ``Welcome`` that they never come.
        """
        dropped = [batch for batch in self.kept if is_unwanted(batch)]
        if dropped:
            self.kept = deque(batch for batch in self.kept if not is_unwanted(batch))
        return dropped


class Arrived:
    """The receiver's end: which batches have arrived, which never will, and what may be acknowledged.

    Invariants: ``told`` <= ``released`` <= ``received`` < every number in ``ahead`` and in the gaps.

    Args:
        told: Number up to which the sender has been told to forget its batches.

    Attributes:
        received: All batches up to this number have arrived, or never will. 0: none.
        released: All batches up to this number may be acknowledged.
        told: Number that the sender was told last, in ``Attach`` or an acknowledgement.
        ahead: Numbers above ``received`` that have arrived.
    """

    __slots__ = ("_gaps", "_is_settled", "ahead", "received", "released", "told")

    def __init__(self, told: int = 0) -> None:
        self.received = self.released = self.told = told
        self.ahead: set[int] = set()
        self._gaps: dict[int, int] = {}
        """Ranges of numbers above ``received`` that never come: last number of each range, by its first."""
        self._is_settled = False
        """True between ``compare`` and the next ``attach``: it is known that the numbers here are those of the sender
        on the present connection. Before that nothing may be acknowledged on it."""

    def attach(self) -> int:
        """A new connection stands: returns the number to name in ``Attach``. ``compare`` must follow before anything
        else is done on this connection."""
        self._is_settled = False
        self.told = self.released
        return self.told

    def compare(self, last: int, kept: Iterable[int], *, is_known: bool, is_same: bool) -> Arrived:
        """Compare with what the sender has said in its ``Welcome`` on the present connection.

        Args:
            last: Number of the last batch that the sender has ever made.
            kept: Numbers of the batches that it will send again. Every other one up to ``last`` that has not arrived
                is a gap.
            is_known: True if the sender knows the receiver; False: it counts from 1.
            is_same: True if this is the incarnation of the sender that the numbers here are of.

        Returns:
            The object to go on with, in place of this one: itself, or a new one if the numbers here mean nothing any
            more. Only calls to ``release`` may still come for the old one; they have no effect.
        """
        found = self if is_known and is_same else Arrived(self.told if is_known else 0)
        found._expect(last, kept)
        return found

    def _expect(self, last: int, kept: Iterable[int]) -> None:
        self._is_settled = True
        self._gaps.clear()
        before = self.received
        for number in sorted({*kept, *self.ahead, last + 1}):
            if number > before + 1:
                self._gaps[before + 1] = number - 1
            before = max(before, number)
        self._advance()

    def has(self, number: int) -> bool:
        """True if a batch has arrived before, or never comes: drop it."""
        return number <= self.received or number in self.ahead

    def arrive(self, number: int) -> None:
        """Note that a batch has arrived, whole. Call ``has`` first, to know whether it is a new one."""
        if number > self.received:
            self.ahead.add(number)
            self._advance()

    def _advance(self) -> None:
        """Lengthen the unbroken run by what has arrived ahead of it, and by gaps that it has reached."""
        while True:
            following = self.received + 1
            if following in self.ahead:
                self.ahead.remove(following)
                self.received = following
            elif following in self._gaps:
                self.received = self._gaps.pop(following)
            else:
                return

    def release(self, number: int) -> None:
        """Nothing here depends any more on the sender's copies of the batches up to ``number``."""
        self.released = max(self.released, min(number, self.received))

    def due(self) -> int:
        """Returns the number to acknowledge now; 0: the sender has been told all. Call ``tell`` once it is sent."""
        return self.released if self._is_settled and self.released > self.told else 0

    def tell(self, number: int) -> None:
        """Note that the sender was told ``number`` in an acknowledgement; 0, which ``due`` may return, is fine."""
        self.told = max(self.told, number)
