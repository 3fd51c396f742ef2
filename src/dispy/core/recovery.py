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
| any               | as above, for an earlier incarnation that left gaps      | GONE             |
| any               | the node does not know the program any more, or the      | GONE             |
|                   | program had declared its jobs lost (``given_up``)        |                  |
| SOUGHT, SILENT    | ``give_up`` by the caller                                | GONE or SILENT   |
| any               | the connection of the peer that speaks for it breaks     | SOUGHT           |

``Judge`` then says for each job without a result whether it is still open, may be run, or is given up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from msgspec import Struct

from dispy.protocol.batches import Arrived
from dispy.protocol.history import History
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
"""Name that the caller of ``Recovery`` gives to a node that it asks ("host:port"); it is only compared here."""
Key = tuple[int, int]
"""Name of a job: the number of its computation, then the job's own number."""


class PlaceStatus(Enum):
    """Status of a place, that is, of an incarnation of a node that the dead program used."""

    SOUGHT = "sought"
    """No peer has told all about the incarnation yet: the recovery waits for that, until the caller gives up."""
    HELD = "held"
    """The incarnation still runs, and has told all jobs and results that it has of the program."""
    RESTORED = "restored"
    """The incarnation has ended; a later one of the same node has told all jobs and results that were on disk."""
    GONE = "gone"
    """The incarnation has ended or has forgotten the program: which jobs it had is not known, and never will be."""
    SILENT = "silent"
    """The incarnation does not answer: it is not waited for, but its jobs stay in doubt, as a later recovery may
    reach it."""


class Place(Struct):
    """Status of an incarnation of a node that the program used.

    ``reason`` says in words why the place is GONE or SILENT, for texts that the user reads; else it is empty.
    """

    status: PlaceStatus = PlaceStatus.SOUGHT
    reason: str = ""


class Result(Struct):
    """Result of a job that has ended, as its node told it (``ended``), and that node's IP address."""

    ended: Ended
    ip_addr: str


class Answer(Struct):
    """Jobs and results of the dead program that a peer has, as far as told over the present connection to it. A new
    ``Answer`` is begun at each connection."""

    places: list[bytes]
    """Incarnations that the peer speaks for: its own first, then earlier ones whose results it has taken over."""
    is_restored: dict[bytes, bool]
    """By incarnation in ``places``: True if the peer found its results on disk (RESTORED); False for the peer's own
    (HELD)."""
    has_told: bool = False
    """True once ``Held`` has arrived: ``open`` and ``awaited`` are complete."""
    has_gaps: bool = False
    """True if an earlier incarnation ended before it could write down which jobs were open: all in ``places`` but the
    peer's own become GONE."""
    open: dict[Key, int] = {}
    """Attempt (from 0) of each job that has not ended on the peer, by job; its result may still come. Empty before
    ``Held``."""
    awaited: set[int] = set()
    """Numbers of batches of results that ``Held`` has announced and that have not arrived yet."""


_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")
_M = TypeVar("_M", bound=Struct)


def _noted(
    handler: Callable[Concatenate[Recovery, Peer, _M, _Arguments], _Answer],
) -> Callable[Concatenate[Recovery, Peer, _M, _Arguments], _Answer]:
    """Make a method that handles a message of a peer note the message, and name it if handling it fails
    (``InternalError``)."""

    @wraps(handler)
    def call(
        recovery: Recovery,
        peer: Peer,
        message: _M,
        /,
        *arguments: _Arguments.args,
        **options: _Arguments.kwargs,
    ) -> _Answer:
        recovery.history.notes.append((type(message), peer, None))
        try:
            return handler(recovery, peer, message, *arguments, **options)
        except Exception as error:
            raise recovery.history.fault(message) from error

    return call


class Recovery:
    """Recovery of the jobs that one session of a dead program has on nodes.

    Args:
        computations: Numbers of the computations of the session; messages about others are ignored.
        incarnations: Incarnations of nodes that the session used; each becomes a place, SOUGHT at first.
        given_up: Incarnations whose jobs the program had declared lost: a node that still runs as one of these is
            told to forget the program (``Detach``), and its results are not taken.
        jobs_below: Jobs with this number or a greater one are ignored: no program can take their results (chunks of
            a ``map``).

    Attributes:
        computations: List of the numbers given as ``computations``.
        places: Status of each incarnation that the session used, by incarnation.
        results: Result of the latest attempt that has ended, by job. Jobs without a result are missing.
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
        self.history = History("the recovery")
        """The last messages of peers, for the error if one cannot be handled."""
        self.results: dict[Key, Result] = {}
        self.started: dict[Key, tuple[Started, str]] = {}
        """By job that a node has reported as running: its attempt and start, and the node's IP address. The caller
        shows these jobs as running. A job that ends is taken out."""
        self.lost: dict[Key, str] = {}
        """Jobs that were open when their node ended: by job, the words in which the user is told that. ``Judge`` has
        them run again if they are reentrant, and abandons them otherwise."""

    # Messages and connections of peers.

    @_noted
    def on_welcome(self, peer: Peer, message: Welcome) -> list[ToNode]:
        """A peer has introduced itself (``Welcome``); returns the messages that the caller must send to the peer.

        ``Recover`` asks which jobs and results the peer has. ``Detach`` goes to a peer that does not know the program
        or whose incarnation was given up: it forgets all that it has of the program, and its place is GONE.
        """
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

    @_noted
    def on_held(self, peer: Peer, message: Held, arrived: Arrived) -> None:
        """Take in which jobs are open on a peer or lost with it, and which batches of results it sends (``Held``).

        Ignored if the peer was not asked (``on_welcome``).

        Args:
            peer: The peer.
            message: Its answer.
            arrived: Batches of the peer that have arrived before this, on this connection or an earlier one; the
                others are awaited.
        """
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
        answer.awaited = {batch for batch in message.batches if not arrived.has(batch)}
        for jobs in message.lost:
            for attempt in jobs.attempts if jobs.computation in self.computations else ():
                if attempt.number < self._jobs_below:
                    self.lost[jobs.computation, attempt.number] = "its node ended before the job did"
        self._look(answer)

    @_noted
    def on_ended(self, peer: Peer, message: JobsEnded, ip_addr: str) -> None:
        """Take in a batch of results of a peer at an IP address. Of several attempts of a job the latest counts.

        Ignored if the peer was not asked, or the computation is not one of this recovery.
        """
        answer = self._answers.get(peer)
        if answer is None or message.computation not in self.computations:
            return
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

    @_noted
    def on_started(self, peer: Peer, message: JobsStarted, ip_addr: str) -> None:
        """Note in ``started`` jobs that a peer at an IP address reports as running, for the caller to show them."""
        for started in message.started:
            self.started[message.computation, started.number] = (started, ip_addr)

    @_noted
    def on_returned(self, peer: Peer, message: JobsReturned) -> None:
        """A peer gives back jobs that it cannot run: they were never started, and are no longer open there.

        ``Judge`` says what becomes of them. Attempts that are not open at this peer are ignored.
        """
        answer = self._answers.get(peer)
        for attempt in message.attempts if answer is not None else ():
            if (
                answer is not None
                and answer.open.get((message.computation, attempt.number)) == attempt.attempt
            ):
                del answer.open[message.computation, attempt.number]

    def on_broken(self, peer: Peer) -> None:
        """Forget which jobs a peer has, as its connection broke: its places are SOUGHT until a peer tells all again.

        Results that have arrived are kept. The caller connects again, or gives the places up.
        """
        self.history.notes.append(("broken", peer, None))
        answer = self._answers.pop(peer, None)
        if answer is None:
            return
        for incarnation in answer.places:
            if incarnation in self.places:
                self.places[incarnation] = Place()

    def _look(self, answer: Answer) -> None:
        """Once a peer has told all, set its places: its own to HELD, earlier ones to RESTORED, or GONE with gaps.

        "All" is ``Held`` and all batches of results that it announces; before that nothing changes.
        """
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
        """Set status and reason (in words, for the user) of an incarnation's place; ignored if the program did not
        use that incarnation."""
        if incarnation in self.places:
            self.places[incarnation] = Place(status, reason)

    # Findings of the caller.

    def disown(self, incarnations: Iterable[bytes]) -> None:
        """Add incarnations whose jobs the program had declared lost: ``on_welcome`` has them forget the program.

        Called with the incarnations of all sessions of the program's identity, since a node that forgets it forgets
        the jobs of all these sessions together.
        """
        self._given_up.update(incarnations)

    def give_up(self, incarnation: bytes, status: PlaceStatus, reason: str) -> None:
        """Stop waiting for an incarnation about which no peer has told all: for ever (GONE), or for now (SILENT).

        Ignored if it is HELD, RESTORED or GONE. ``reason`` says in words, for the user, how the caller knows. If a
        peer tells all about the incarnation later, what the peer tells counts.
        """
        if self.places[incarnation].status in (PlaceStatus.SOUGHT, PlaceStatus.SILENT):
            self._settle(incarnation, status, reason)

    def sought(self) -> list[bytes]:
        """Returns the incarnations about which no peer has told all (SOUGHT, SILENT): the caller may give them up."""
        return [
            incarnation
            for incarnation, place in self.places.items()
            if place.status in (PlaceStatus.SOUGHT, PlaceStatus.SILENT)
        ]

    # Progress of the recovery.

    def is_told(self) -> bool:
        """True if no answer of a node is awaited: no place is SOUGHT, and all announced results have arrived.

        Only results of jobs that still run are missing then. Jobs that were never started may be run from now on.
        """
        return all(place.status is not PlaceStatus.SOUGHT for place in self.places.values()) and all(
            answer.has_told and not answer.awaited for answer in self._answers.values()
        )

    def is_over(self) -> bool:
        """True if no answer of a node is awaited (``is_told``) and no job is open on a node: the wait can end."""
        return self.is_told() and not any(answer.open for answer in self._answers.values())

    def is_whole(self) -> bool:
        """True if the wait is over and no place is SILENT: a later recovery would learn nothing more.

        Only then may nodes drop all that they keep for the program.
        """
        return self.is_over() and all(p.status is not PlaceStatus.SILENT for p in self.places.values())

    def is_certain(self) -> bool:
        """True if every place is HELD or RESTORED and no answer is awaited: all jobs that nodes ever had are told.

        A job that no node has told of was never started, and may be run even if it is not reentrant.
        """
        return self.is_told() and all(
            place.status in (PlaceStatus.HELD, PlaceStatus.RESTORED) for place in self.places.values()
        )

    def open_jobs(self) -> set[Key]:
        """Returns the jobs (computation, number) that nodes have and that have not ended there.

        Their results can still come, so the caller waits for these jobs, or cancels them (``cancels``).
        """
        return {key for answer in self._answers.values() for key in answer.open}

    def doubts(self) -> list[str]:
        """Returns the reason, in words, of each place that is GONE or SILENT: some jobs there may have been started.

        Empty if there is no such place. The reasons go into the texts that the user reads about these jobs.
        """
        return [
            place.reason
            for place in self.places.values()
            if place.status in (PlaceStatus.GONE, PlaceStatus.SILENT)
        ]

    def final_results(self) -> dict[Key, Result]:
        """Returns the results that are final, by job: those of which no later attempt is open on a node.

        A job whose process died may have been started anew by its scheduler; then the later attempt counts.
        """
        again: dict[Key, int] = {}
        for answer in self._answers.values():
            for key, attempt in answer.open.items():
                again[key] = max(attempt, again.get(key, 0))
        return {key: one for key, one in self.results.items() if one.ended.attempt >= again.get(key, 0)}

    def cancels(self) -> list[tuple[Peer, CancelJobs]]:
        """Returns pairs of a peer and a message for the caller to send to it; together they cancel all open jobs.

        Each message has at most ``BATCH_MAX`` jobs. The jobs stay open until their ends arrive (``on_ended``).
        """
        messages = []
        for peer, answer in self._answers.items():
            for number in self.computations:
                attempts = [Attempt(n, attempt) for (c, n), attempt in answer.open.items() if c == number]
                for start in range(0, len(attempts), BATCH_MAX):
                    messages.append((peer, CancelJobs(number, attempts[start : start + BATCH_MAX])))
        return messages

    def has_answer(self, peer: Peer) -> bool:
        """True if a peer knows the program and the connection to it stands: the peer may keep jobs or results.

        Once the recovery is whole (``is_whole``), the caller has such peers delete them.
        """
        return peer in self._answers


class Fate(Struct):
    """Finding of ``Judge`` about a job that has no result: it is open, may be run again, or ends for good.

    Attributes:
        status: Final status (``ABANDONED``); None for a job that is open, or may be run.
        reason: Reason for the status, or why it is not certain whether the job was started, in words; empty if there
            is none.
        is_unstarted: True if the job may be run by this program: it never ran, or is reentrant and may run twice.
    """

    status: int | None
    reason: str = ""
    is_unstarted: bool = False


class Judge:
    """Decides the fate of jobs that the program noted as submitted and that have no result anywhere.

    Most of what nodes have told is read when a ``Judge`` is made: make a new one when more has arrived.

    Args:
        recovery: Answers of the nodes.
        sent_max: Greatest number of a job that was ever sent to a node: greater ones never started. None: not known,
            so that any job may have been started.
        has_gaps: True if the program could not write all results to its journal: nodes may have forgotten these, so
            a job that no node names may have run all the same.
        is_reentrant: True if jobs may be run again after they were started.
        is_last_word: True if nodes that do not answer now are not asked another time: a job that may have been
            started on them is abandoned. False: it stays open for a later recovery.
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
        """Returns the fate of a job that has no result: the first row that holds for it decides.

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
