"""The steps of a recovery: nodes are asked, jobs run out or are run, what is known is judged, noted, and released.

Theory of operation. ``recovering`` is a generator: it yields a ``Wait`` where it has to wait for nodes, and its
driver sends whether that came in time. So the same steps run on real nodes (``client.recover``) and in a simulation.

| step    | waits until                              | at most                 | then                            |
|---------|------------------------------------------|-------------------------|---------------------------------|
| ask     | nodes have told what they have           | ``timeout``             | jobs never started are run      |
| run out | all jobs have ended, here and on nodes   | ``timeout``             | if late: give up silent nodes   |
| kill    | all jobs have ended, here and on nodes   | grace period + KILL_S   | give up jobs that are run here  |
| judge   | -                                        | -                       | jobs are made, results loaded   |
| note    | -                                        | -                       | full journals know their ends   |
| release | nodes have said that they forgot them    | RELEASE_S               | journals may be removed         |

``ask`` happens with ``resume`` only; ``kill`` with ``terminate_pending`` only, if time was up. ``release`` happens
only if the recovery is whole: all nodes have answered, all jobs have ended (or ``terminate_pending`` gives up those
that have not), and all results can be loaded.

Crash safety: nothing is acknowledged, closed or removed before ``release``, and full journals are on disk before
nodes forget. A recovery that is killed at any point, or cannot load a result, can be run again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from dispy import config
from dispy.client.job import DispyJob
from dispy.client.logger import notice
from dispy.client.recovery.dead_program import Dead, Session
from dispy.client.recovery.node_queries import Asking
from dispy.client.recovery.rebuilt_jobs import by_address, load, make_jobs, why_not
from dispy.client.recovery.resumed_jobs import Resuming, resume_unstarted
from dispy.core.recovery import PlaceStatus
from dispy.errors import DispyError
from dispy.protocol.limits import MIB
from dispy.protocol.node import Ended
from dispy.system.clock import Clock
from dispy.system.wording import counted

logger = logging.getLogger("dispy.client")

T = TypeVar("T")

RELEASE_S = 3.0
"""Time for nodes to say that they have forgotten the jobs (seconds); otherwise they do when their lease ends."""

NOTE_SIZE = 100
"""Size of a result in a journal beside its value, about (bytes)."""

KILL_S = 3.0
"""Time to kill jobs beyond the grace period ``config.CancelGrace`` (seconds)."""


class Wait(NamedTuple):
    """A condition to wait for.

    Attributes:
        is_done: True if the condition holds, by what nodes have said. Called where nodes are asked.
        until: When the wait ends in any case (monotonic seconds); None: never.
    """

    is_done: Callable[[], bool]
    until: float | None


Steps = Generator[Wait, bool, T]
"""Steps that yield what they wait for, are sent whether that came in time, and return a value."""


class Nodes(Protocol):
    """The nodes that are asked: ``Net``, or those of a simulation.

    Attributes:
        asking: One per secret and certificates: the conversations with the nodes that have these.
    """

    asking: list[Asking]

    def call(self, function: Callable[[], T]) -> T:
        """Call a function where nodes are asked, and return its result."""
        ...


def recovering(
    found: list[Dead],
    net: Nodes,
    make_resumed: Callable[[Dead], Resuming],
    timeout: float | None,
    terminate_pending: bool,
    resume: bool,
    clock: Clock = time,
) -> Steps[list[DispyJob]]:
    """Recover the jobs of open journals; sets ``is_done`` of those journals that may be removed.

    Args:
        found: The journals.
        net: The nodes of all their sessions.
        make_resumed: Makes the cluster that runs the jobs of a journal that were never started.
        timeout: Seconds to wait for jobs to end; None: no limit.
        terminate_pending: True to kill the jobs that have not ended by then, and to give up silent nodes.
        resume: True to run jobs that were never started.
        clock: The clock for all waits.

    Returns:
        All jobs, in the order of their numbers.
    """
    until = None if timeout is None else clock.monotonic() + timeout
    work = _Recovery(found, net)
    done: list[Dead] = []
    try:
        if resume:
            yield Wait(work.is_told, until)
            work.resumed = resume_unstarted(net.call, found, make_resumed)
        is_in_time = yield Wait(work.is_over, until)
        if not is_in_time:
            yield from work.end_late(terminate_pending, clock)
        is_whole = terminate_pending or (is_in_time and work.is_whole)
        jobs = net.call(lambda: make_jobs(found, work.resumed, is_whole))
        if _can_load_all(jobs) and is_whole:
            done = yield from work.release(jobs, terminate_pending, clock)
        else:
            work.note_part(jobs)
    finally:
        for cluster in work.resumed:
            cluster.leave()
    for one in found:
        one.is_done = one in done
    return jobs


class _Recovery:
    """The state of one recovery.

    Attributes:
        found: The journals.
        net: The nodes of all their sessions.
        sessions: All sessions of the journals.
        resumed: Clusters that run jobs which were never started.
        is_whole: True if nothing more could be learnt when ``is_over`` was last called. A link that breaks after that
            takes nothing back.
    """

    def __init__(self, found: list[Dead], net: Nodes) -> None:
        self.found = found
        self.net = net
        self.sessions = [session for one in found for session in one.sessions]
        self.resumed: list[Resuming] = []
        self.is_whole = False

    def is_told(self) -> bool:
        """True if every node has told what it has, or is given up."""
        return all(session.recovery.is_told() for session in self.sessions)

    def is_over(self) -> bool:
        """True if no job is left to wait for, neither on nodes nor of those that are run here; sets ``is_whole``."""
        self.is_whole = all(session.recovery.is_whole() for session in self.sessions)
        return all(session.recovery.is_over() for session in self.sessions) and all(
            cluster.has_ended() for cluster in self.resumed
        )

    def end_late(self, terminate: bool, clock: Clock) -> Steps[None]:
        """Time is up: give up silent nodes and, with ``terminate``, kill the jobs that have not ended."""
        for asking in self.net.asking:
            self.net.call(asking.give_up_silent)
        if terminate:
            for asking in self.net.asking:
                self.net.call(asking.cancel_open)
            for cluster in self.resumed:
                cluster.kill()
            yield Wait(self.is_over, clock.monotonic() + config.CancelGrace + KILL_S)
            for cluster in self.resumed:
                cluster.give_up()

    def release(self, jobs: list[DispyJob], terminate: bool, clock: Clock) -> Steps[list[Dead]]:
        """Have journals know how jobs ended, then have nodes forget them.

        Args:
            jobs: All jobs.
            terminate: True to forget jobs that were never started, too. Otherwise their journal is kept.
            clock: The clock for the wait.

        Returns:
            Journals that may be removed.
        """
        for cluster in self.resumed:
            cluster.finish()
        # The clusters that ran them have noted how they ended.
        run = {id(job) for cluster in self.resumed for job in cluster.resumed_jobs}
        others = [job for job in jobs if id(job) not in run]
        unstarted = {id(one): _note_whole(one, others) for one in self.found}
        kept: list[Dead] = []
        if not terminate:
            kept = [one for one in self.found if unstarted[id(one)]]
            for one in kept:
                _keep(one, unstarted[id(one)])
        for asking in self.net.asking:
            self.net.call(asking.release)
        if not (yield Wait(lambda: _are_released(self.net), clock.monotonic() + RELEASE_S)):
            logger.warning("not all nodes have said that they have let go; they will when their lease ends")
        return [one for one in self.found if one not in kept]

    def note_part(self, jobs: list[DispyJob]) -> None:
        """Have full journals know how jobs ended so far, and warn of what is missing. Nodes keep everything."""
        for one in self.found:
            _note_ended(one, self.net.call(partial(by_address, one, jobs, is_whole=False)))
        _say_what_is_missing(self.found, self.sessions)


def _can_load_all(jobs: list[DispyJob]) -> bool:
    """Load all results. Returns False, and logs an error with the first reason, if some cannot be rebuilt here."""
    unreadable = [job for job in jobs if not load(job)]
    if unreadable:
        logger.error(
            "results of %s cannot be rebuilt here, that of job %r because of: %s; nothing was removed: "
            "call recover_jobs again where that can be imported",
            counted(len(unreadable), "job"),
            unreadable[0].id,
            why_not(unreadable[0]),
        )
    return not unreadable


def _note_ended(one: Dead, ended_by_address: dict[str, list[Ended]]) -> None:
    """Have a journal know how jobs ended; returns when that is on disk. A journal whose disk is full has said so."""
    for ip_addr, all_ended in ended_by_address.items():
        for ended in _batches(all_ended):
            one.journal.ended(ip_addr, ended)
            one.journal.wait_for_room()
    if ended_by_address:
        with contextlib.suppress(DispyError):
            one.journal.ask(lambda _: None)


def _batches(all_ended: list[Ended]) -> Iterator[list[Ended]]:
    """Cut results into batches of about a MiB; a larger result ends its batch."""
    batch: list[Ended] = []
    size = 0
    for ended in all_ended:
        batch.append(ended)
        size += len(ended.payload) + NOTE_SIZE
        if size >= MIB:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _note_whole(one: Dead, jobs: list[DispyJob]) -> list[DispyJob]:
    """Have a full journal know how all its jobs ended: nodes are about to forget it, and this program may be killed.

    Returns:
        Jobs that were never started.
    """
    _note_ended(one, by_address(one, jobs, is_whole=True))
    return [job for job in jobs if job._number in one.submitted and not job._is_final]


def _keep(one: Dead, left: list[DispyJob]) -> None:
    """Keep a journal of which jobs were never started, and say how to run them."""
    # Without nodes to ask, a later recovery takes every job that has not ended for one that was never started.
    one.journal.ask(lambda db: db.execute("DELETE FROM node"))
    notice(
        f"{counted(len(left), 'job was', 'jobs were')} never started: recover_jobs({str(one.journal.path)!r}, "
        "resume=True) runs what is left; terminate_pending=True forgets it"
    )


def _are_released(net: Nodes) -> bool:
    """True if all nodes have said that they have forgotten the jobs."""
    return all(asking.is_released() for asking in net.asking)


def _say_what_is_missing(found: list[Dead], sessions: list[Session]) -> None:
    """Warn of nodes that have not answered and of jobs that have not ended."""
    missing = [
        place.reason
        for session in sessions
        for place in session.recovery.places.values()
        if place.status is PlaceStatus.SILENT
    ]
    still = sum(len(session.recovery.open_jobs()) for session in sessions)
    if still:
        missing.append(f"{counted(still, 'job has', 'jobs have')} not ended")
    if missing:
        logger.warning(
            "not all is recovered of %s: %s; call %s again later, or with terminate_pending=True to give that up",
            sessions[-1].program,
            "; ".join(missing),
            " and ".join(f"dispy.recover_jobs({str(one.journal.path)!r})" for one in found),
        )
