"""Recovery of the jobs of a dead program: collects what its nodes still know, and judges what became of each job.

A *peer* is a node that is asked, by the name that the caller has for it. A *place* is an incarnation of a node that
the dead program used. As a rule each peer is one place. But a node that was started anew speaks for the earlier
incarnations whose results it found on disk, too, and for some places no peer can say anything any more.

Theory of operation. The caller connects to each node with the identity of the dead program and calls ``on_welcome``,
which returns what to send: ``Recover``, or ``Detach`` if the node has nothing. The node answers ``Held``, with the
jobs that are open there, those that were lost, and the numbers of batches of results, which arrive as ``JobsEnded``.
No result is acknowledged before the end: if the recovery dies as well, it has changed nothing.

| status of a place | event                                                    | next             |
|-------------------|----------------------------------------------------------|------------------|
| any               | a peer speaks for it, has told all, batches have arrived | HELD or RESTORED |
| any               | the same, but an earlier incarnation had gaps            | GONE             |
| any               | the node does not know the program any more, or was      | GONE             |
|                   | given up by it                                           |                  |
| SOUGHT, SILENT    | ``give_up`` by the caller                                | GONE or SILENT   |
| any               | the connection of the peer that speaks for it breaks     | SOUGHT           |

``Judge`` then says for each job without a result whether it is still open, may be run, or is given up.
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
"""The caller's name for a node that is asked."""
Key = tuple[int, int]
"""A job: number of its computation, and its own number."""


class PlaceStatus(Enum):
    """Knowledge about an incarnation that the program used."""

    SOUGHT = "sought"
    """No peer has spoken for the incarnation yet; its answer is awaited."""
    HELD = "held"
    """The incarnation itself has told all that it has."""
    RESTORED = "restored"
    """The incarnation has ended; a later one has told all that was on its disk."""
    GONE = "gone"
    """The incarnation has ended or has forgotten the program: what it had is not known, and never will be."""
    SILENT = "silent"
    """The incarnation does not answer; a later recovery may reach it."""


class Place(Struct):
    """Status of an incarnation that the program used; ``reason`` says in words why it is GONE or SILENT."""

    status: PlaceStatus = PlaceStatus.SOUGHT
    reason: str = ""


class Result(Struct):
    """End of a job, and the address of the node that told it."""

    ended: Ended
    ip_addr: str


class Answer(Struct):
    """Answer of a peer, as far as it has arrived."""

    places: list[bytes]
    """Incarnations that the peer speaks for: its own first."""
    is_restored: dict[bytes, bool]
    """True for incarnations whose results the peer found on disk, False for its own."""
    has_told: bool = False
    """True once ``Held`` has arrived."""
    has_gaps: bool = False
    """True if an earlier incarnation did not write down all that was open when it ended."""
    open: dict[Key, int] = {}
    """Attempt of each job that has not ended there, by job."""
    awaited: set[int] = set()
    """Numbers of batches of results that the peer has and that have not arrived."""
    arrived: set[int] = set()
    """Numbers of batches of results that have arrived."""


class Recovery:
    """Recovery of one client identity of a dead program.

    Args:
        computations: Numbers of its computations.
        incarnations: Incarnations of nodes that it used.
        given_up: Incarnations whose jobs the program had declared lost: what they say comes too late.
        jobs_below: Jobs with this number or a greater one are ignored: no program can take their results (chunks of
            a ``map``).

    Attributes:
        computations: As above.
        places: Status of each incarnation that the program used.
        results: Ends of jobs that have arrived: of each job that of the latest attempt.
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
        """Jobs that are running, with the address of their node. A job that ends is taken out."""
        self.lost: dict[Key, str] = {}
        """Jobs that were open when their node ended, and why they have no result, in words."""

    # Messages and connections of peers.

    def on_welcome(self, peer: Peer, message: Welcome) -> list[ToNode]:
        """A peer has introduced itself; returns the messages to send to it: ``Recover``, or ``Detach``."""
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
        """A peer says what it has for the program. Results that it announces may arrive before or after this."""
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
        """A batch of results of a peer: jobs that have ended now or long ago."""
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
        """A peer reports jobs as running."""
        for started in message.started:
            self.started[message.computation, started.number] = (started, ip_addr)

    def on_returned(self, peer: Peer, message: JobsReturned) -> None:
        """A peer gives back jobs that it cannot run: they were never started and are not awaited any more."""
        answer = self._answers.get(peer)
        for attempt in message.attempts if answer is not None else ():
            if (
                answer is not None
                and answer.open.get((message.computation, attempt.number)) == attempt.attempt
            ):
                del answer.open[message.computation, attempt.number]

    def on_broken(self, peer: Peer) -> None:
        """The connection to a peer broke: forget its answer, as it is asked again."""
        answer = self._answers.pop(peer, None)
        if answer is None:
            return
        for incarnation in answer.places:
            if incarnation in self.places:
                self.places[incarnation] = Place()

    def _look(self, answer: Answer) -> None:
        """Settle the places that a peer speaks for, once it has told all and its batches have arrived."""
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
        """Set the status of an incarnation, if the program used it."""
        if incarnation in self.places:
            self.places[incarnation] = Place(status, reason)

    # Findings of the caller.

    def disown(self, incarnations: Iterable[bytes]) -> None:
        """Ignore incarnations whose jobs the program had declared lost: what they say comes too late."""
        self._given_up.update(incarnations)

    def give_up(self, incarnation: bytes, status: PlaceStatus, reason: str) -> None:
        """No peer speaks for an incarnation: never will (GONE), or does not now (SILENT). Ignored if one does."""
        if self.places[incarnation].status in (PlaceStatus.SOUGHT, PlaceStatus.SILENT):
            self._settle(incarnation, status, reason)

    def sought(self) -> list[bytes]:
        """Returns the incarnations that no peer has spoken for yet: SOUGHT or SILENT."""
        return [
            incarnation
            for incarnation, place in self.places.items()
            if place.status in (PlaceStatus.SOUGHT, PlaceStatus.SILENT)
        ]

    # Progress of the recovery.

    def is_told(self) -> bool:
        """True if all that can be known now is known, except for the ends of open jobs."""
        return all(place.status is not PlaceStatus.SOUGHT for place in self.places.values()) and all(
            answer.has_told and not answer.awaited for answer in self._answers.values()
        )

    def is_over(self) -> bool:
        """True if all that can be known now is known and no job is open: there is nothing to wait for."""
        return self.is_told() and not any(answer.open for answer in self._answers.values())

    def is_whole(self) -> bool:
        """True if nothing more can ever be known, so that nodes may drop all that they keep for the program."""
        return self.is_over() and all(p.status is not PlaceStatus.SILENT for p in self.places.values())

    def is_certain(self) -> bool:
        """True if nodes have told of every job that they ever had: any other job was never started."""
        return self.is_told() and all(
            place.status in (PlaceStatus.HELD, PlaceStatus.RESTORED) for place in self.places.values()
        )

    def open_jobs(self) -> set[Key]:
        """Returns the jobs that have not ended on their nodes."""
        return {key for answer in self._answers.values() for key in answer.open}

    def doubts(self) -> list[str]:
        """Returns the reasons, in words, why the fate of some jobs is not certain; empty if it is."""
        return [
            place.reason
            for place in self.places.values()
            if place.status in (PlaceStatus.GONE, PlaceStatus.SILENT)
        ]

    def final_results(self) -> dict[Key, Result]:
        """Returns the ends of jobs that do not run again: after its process died, a job may be started anew."""
        again: dict[Key, int] = {}
        for answer in self._answers.values():
            for key, attempt in answer.open.items():
                again[key] = max(attempt, again.get(key, 0))
        return {key: one for key, one in self.results.items() if one.ended.attempt >= again.get(key, 0)}

    def cancels(self) -> list[tuple[Peer, CancelJobs]]:
        """Returns messages that cancel all open jobs, with the peer that each is for."""
        messages = []
        for peer, answer in self._answers.items():
            for number in self.computations:
                attempts = [Attempt(n, attempt) for (c, n), attempt in answer.open.items() if c == number]
                for start in range(0, len(attempts), BATCH_MAX):
                    messages.append((peer, CancelJobs(number, attempts[start : start + BATCH_MAX])))
        return messages

    def has_answer(self, peer: Peer) -> bool:
        """True if a peer knows the program, so that it may keep something for it."""
        return peer in self._answers


class Fate(Struct):
    """Fate of a job.

    Attributes:
        status: Final status; None for a job that has not ended.
        reason: Reason for the status, or for a doubt, in words.
        is_unstarted: True if the job may be run: it never ran, or may run twice.
    """

    status: int | None
    reason: str = ""
    is_unstarted: bool = False


class Judge:
    """Decides the fate of jobs that the program noted as submitted and that have no result anywhere.

    Takes what is known when it is made; make another one when more has arrived.

    Args:
        recovery: Answers of the nodes.
        sent_max: Greatest number of a job that was ever sent to a node; None: not known.
        has_gaps: True if the program could not write all results to its journal: nodes may have forgotten these.
        is_reentrant: True if jobs may be run again after they were started.
        is_last_word: True if nodes that do not answer now are not asked another time.
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
        """Returns the fate of a job that has no result.

        | the job                                           | reentrant                | not reentrant              |
        |---------------------------------------------------|--------------------------|----------------------------|
        | is open on a node                                 | open                     | open                       |
        | was open when its node ended                      | may be run               | ABANDONED                  |
        | was never sent, or every place has told all       | may be run               | may be run                 |
        | none of these; all that can be known now is known | may be run               | see the last two rows      |
        | none of these; no node is asked another time      | ABANDONED                | ABANDONED                  |
        | none of these; a node may answer later            | open, with the doubts    | open, with the doubts      |
        """
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
