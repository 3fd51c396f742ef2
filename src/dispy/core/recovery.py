"""What became of the jobs of a dead program: puts together what its nodes still know.

A *peer* is a node that is asked, by whatever name the caller has for it. A *place* is an incarnation of a
node that the dead program used. One is the other, as a rule; but a node that was started anew speaks for the
incarnations before it whose results it found on disk, and of some nobody can say anything any more.

Nothing is acknowledged before the end: a recovery that dies as well has changed nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from msgspec import Struct

from dispy.protocol.limits import BATCH_MAX
from dispy.protocol.node import (
    ABANDONED,
    Attempt,
    CancelJobs,
    Detach,
    Ended,
    Held,
    JobsEnded,
    JobsReturned,
    JobsStarted,
    Recover,
    Started,
    ToNode,
    Welcome,
)

Peer = str
Key = tuple[int, int]
"""A job: its computation and its number."""


class PlaceStatus(Enum):
    """What is known of an incarnation that the program used."""

    SOUGHT = "sought"
    HELD = "held"
    """A peer speaks for it, and has told all that it has."""
    RESTORED = "restored"
    """It has ended; a peer has told all that was on its disk."""
    GONE = "gone"
    """It has ended or forgotten us, and nobody knows what it had."""
    SILENT = "silent"
    """It does not answer; perhaps it will another time."""


class Place(Struct):
    """An incarnation that the program used."""

    status: PlaceStatus = PlaceStatus.SOUGHT
    reason: str = ""


class Result(Struct):
    """How a job ended, and where."""

    ended: Ended
    ip_addr: str


class Answer(Struct):
    """What a peer said."""

    places: list[bytes]
    is_restored: dict[bytes, bool]
    has_told: bool = False
    has_gaps: bool = False
    open: dict[Key, int] = {}
    """Attempts that have not ended."""
    awaited: set[int] = set()
    """Batches that it has, and that have not arrived."""
    arrived: set[int] = set()


class Recovery:
    """One client identity of a dead program.

    Args:
        computations: Their numbers.
        incarnations: The nodes that it used.
        given_up: Nodes that it had told its jobs to be lost on: what they say comes too late.
        jobs_below: Jobs with this number and greater ones are nobody's: they are not waited for.
    """

    def __init__(
        self,
        computations: Iterable[int],
        incarnations: Iterable[bytes],
        given_up: Iterable[bytes] = (),
        jobs_below: int = 1 << 62,
    ) -> None:
        self.computations = list(computations)
        self.places = {incarnation: Place() for incarnation in incarnations}
        self._given_up = set(given_up)
        self._jobs_below = jobs_below
        self._answers: dict[Peer, Answer] = {}
        self.results: dict[Key, Result] = {}
        self.started: dict[Key, tuple[Started, str]] = {}
        """Jobs that are running, and where."""
        self.returned: dict[Key, str] = {}
        """Jobs that were never started, and why."""
        self.lost: dict[Key, str] = {}
        """Jobs that were open when their node ended, and why they have no result."""

    # What peers say.

    def on_welcome(self, peer: Peer, message: Welcome) -> list[ToNode]:
        """A peer has introduced itself; returns what to say to it."""
        speaks_for = [message.node, *message.before]
        self._answers.pop(peer, None)
        if not message.known or message.node in self._given_up:
            place = self.places.get(message.node)
            if place is not None:
                self._settle(
                    message.node, PlaceStatus.GONE, f"node {message.name} has given up what it kept for us"
                )
            return [Detach()]
        self._answers[peer] = Answer(
            speaks_for, {incarnation: incarnation != message.node for incarnation in speaks_for}
        )
        return [Recover(self.computations)]

    def on_held(self, peer: Peer, message: Held) -> None:
        """A peer says what it has."""
        answer = self._answers.get(peer)
        if answer is None:
            return
        answer.has_told = True
        answer.has_gaps = message.has_gaps
        answer.open = {
            (jobs.computation, attempt.number): attempt.attempt
            for jobs in message.open
            for attempt in jobs.attempts
            if attempt.number < self._jobs_below
        }
        answer.awaited = set(message.batches) - answer.arrived
        for jobs in message.lost:
            for attempt in jobs.attempts if jobs.computation in self.computations else ():
                if attempt.number < self._jobs_below:
                    self.lost[jobs.computation, attempt.number] = "its node ended before the job did"
        self._look(answer)

    def on_ended(self, peer: Peer, message: JobsEnded, ip_addr: str) -> None:
        """Jobs have ended on a peer, now or long ago."""
        answer = self._answers.get(peer)
        if answer is None or message.computation not in self.computations:
            return
        answer.arrived.add(message.batch)
        answer.awaited.discard(message.batch)
        for ended in message.ended:
            if ended.number >= self._jobs_below:
                continue
            key = (message.computation, ended.number)
            before = self.results.get(key)
            if before is None or before.ended.attempt < ended.attempt:
                self.results[key] = Result(ended, ip_addr)
            if answer.open.get(key) == ended.attempt:
                del answer.open[key]
            self.started.pop(key, None)
        self._look(answer)

    def on_started(self, peer: Peer, message: JobsStarted, ip_addr: str) -> None:
        """Jobs are running on a peer."""
        for started in message.started:
            self.started[message.computation, started.number] = (started, ip_addr)

    def on_returned(self, peer: Peer, message: JobsReturned) -> None:
        """A peer cannot run jobs that it had; they were never started."""
        answer = self._answers.get(peer)
        for attempt in message.attempts if answer is not None else ():
            if (
                answer is not None
                and answer.open.get((message.computation, attempt.number)) == attempt.attempt
            ):
                del answer.open[message.computation, attempt.number]

    def on_broken(self, peer: Peer) -> None:
        """The connection to a peer is gone; it is asked again."""
        answer = self._answers.pop(peer, None)
        if answer is None:
            return
        for incarnation in answer.places:
            if incarnation in self.places:
                self.places[incarnation] = Place()

    def _look(self, answer: Answer) -> None:
        """A peer that has told all settles what it speaks for."""
        if answer.has_told and not answer.awaited:
            for incarnation, is_restored in answer.is_restored.items():
                status = PlaceStatus.RESTORED if is_restored else PlaceStatus.HELD
                if is_restored and answer.has_gaps:
                    self._settle(
                        incarnation, PlaceStatus.GONE, "a node ended before it could note what it had"
                    )
                else:
                    self._settle(incarnation, status, "")

    def _settle(self, incarnation: bytes, status: PlaceStatus, reason: str) -> None:
        if incarnation in self.places:
            self.places[incarnation] = Place(status, reason)

    # What the caller finds out.

    def disown(self, incarnations: Iterable[bytes]) -> None:
        """What these have comes too late: the program had told its jobs there to be lost."""
        self._given_up.update(incarnations)

    def give_up(self, incarnation: bytes, status: PlaceStatus, reason: str) -> None:
        """Nobody speaks for an incarnation: for ever (``GONE``), or for now (``SILENT``)."""
        if self.places[incarnation].status in (PlaceStatus.SOUGHT, PlaceStatus.SILENT):
            self._settle(incarnation, status, reason)

    def sought(self) -> list[bytes]:
        """Incarnations that nobody has spoken for yet."""
        return [
            incarnation
            for incarnation, place in self.places.items()
            if place.status in (PlaceStatus.SOUGHT, PlaceStatus.SILENT)
        ]

    # Where it stands.

    def is_told(self) -> bool:
        """Whether all that can be known now is known, but for jobs that have not ended."""
        return all(place.status is not PlaceStatus.SOUGHT for place in self.places.values()) and all(
            answer.has_told and not answer.awaited for answer in self._answers.values()
        )

    def is_over(self) -> bool:
        """Whether there is nothing to wait for."""
        return self.is_told() and not any(answer.open for answer in self._answers.values())

    def is_whole(self) -> bool:
        """Whether nothing more can ever be known: all that nodes keep may be dropped."""
        return self.is_over() and all(p.status is not PlaceStatus.SILENT for p in self.places.values())

    def is_certain(self) -> bool:
        """Whether every job that a node ever had has been told of: any other was never started."""
        return self.is_told() and all(
            place.status in (PlaceStatus.HELD, PlaceStatus.RESTORED) for place in self.places.values()
        )

    def open_jobs(self) -> set[Key]:
        """Jobs that have not ended."""
        return {key for answer in self._answers.values() for key in answer.open}

    def doubts(self) -> list[str]:
        """Why it is not certain what became of jobs."""
        return [
            place.reason
            for place in self.places.values()
            if place.status in (PlaceStatus.GONE, PlaceStatus.SILENT)
        ]

    def final_results(self) -> dict[Key, Result]:
        """How jobs have ended that are not run again: one whose process has died may have been started anew."""
        again: dict[Key, int] = {}
        for answer in self._answers.values():
            for key, attempt in answer.open.items():
                again[key] = max(attempt, again.get(key, 0))
        return {key: one for key, one in self.results.items() if one.ended.attempt >= again.get(key, 0)}

    def cancels(self) -> list[tuple[Peer, CancelJobs]]:
        """What ends the jobs that are open."""
        messages = []
        for peer, answer in self._answers.items():
            for number in self.computations:
                attempts = [Attempt(n, attempt) for (c, n), attempt in answer.open.items() if c == number]
                for start in range(0, len(attempts), BATCH_MAX):
                    messages.append((peer, CancelJobs(number, attempts[start : start + BATCH_MAX])))
        return messages

    def has_answer(self, peer: Peer) -> bool:
        """Whether a peer keeps something for us."""
        return peer in self._answers


class Fate(Struct):
    """What became of a job.

    ``status`` is None for one that has not ended; ``is_unstarted`` tells that it never ran and may be run.
    """

    status: int | None
    reason: str = ""
    is_unstarted: bool = False


class Judge:
    """Says what became of jobs that have no result anywhere, of which the program noted that they were submitted.

    Args:
        recovery: What nodes said, until now.
        sent_max: No job with a higher number was ever sent to a node; None: nothing is known of that.
        has_gaps: The program could not note all results that it was told: nodes may have forgotten these.
        is_reentrant: Jobs may be run again.
        is_last_word: Nodes that do not answer now are not asked another time.
    """

    def __init__(
        self,
        recovery: Recovery,
        *,
        sent_max: int | None,
        has_gaps: bool = False,
        is_reentrant: bool,
        is_last_word: bool,
    ) -> None:
        self._recovery = recovery
        self._sent_max = sent_max
        self._is_reentrant = is_reentrant
        self._open = recovery.open_jobs()
        self._is_certain = recovery.is_certain() and not has_gaps
        self._is_told = recovery.is_told()
        doubts = recovery.doubts()
        if has_gaps:
            doubts.append("the program could not write to its journal any more")
        self._doubts = "; ".join(doubts) or "not all nodes have answered"
        self._is_final = is_last_word or all(
            place.status not in (PlaceStatus.SOUGHT, PlaceStatus.SILENT)
            for place in recovery.places.values()
        )

    def fate(self, key: Key) -> Fate:
        """What became of a job."""
        if key in self._open:
            return Fate(None)
        reason = self._recovery.lost.get(key)
        if reason is not None:
            return Fate(None, reason, is_unstarted=True) if self._is_reentrant else Fate(ABANDONED, reason)
        if self._is_certain or (self._sent_max is not None and key[1] > self._sent_max):
            return Fate(None, is_unstarted=True)
        if self._is_reentrant and self._is_told:
            return Fate(None, self._doubts, is_unstarted=True)
        if self._is_final:
            return Fate(ABANDONED, f"it may have been started: {self._doubts}")
        return Fate(None, self._doubts)
