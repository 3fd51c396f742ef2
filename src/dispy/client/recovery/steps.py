"""The steps of a recovery: nodes are asked, jobs run out or are run, what is known is judged, noted, and released.

Theory of operation. ``recovering`` is a generator: it yields a ``Wait`` where it has to wait for nodes, and its
driver sends whether that came in time. So the same steps run on real nodes (``client.recover``) and in a simulation.

| step    | waits until                              | at most                 | then                            |
|---------|------------------------------------------|-------------------------|---------------------------------|
| ask     | nodes have told what they have           | ``timeout``             | jobs never started are run      |
| run out | all jobs have ended, here and on nodes   | ``timeout``             | if late: give up silent nodes   |
| kill    | nodes have told what they have           | ANSWER_S                | cancel jobs, give up the silent |
|         | all jobs have ended, here and on nodes   | grace period + KILL_S   | give up jobs that are run here  |
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
from dispy.client.recovery.dead_program import Dead, PastSession
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
"""Seconds that nodes have to say that they have forgotten the jobs. After that a warning is logged, and the recovery
ends as usual: nodes that did not hear forget the jobs when their lease ends."""

ANSWER_S = 1.0
"""Seconds that nodes have at least to answer before their jobs are given up unasked: they would run on."""

NOTE_SIZE = 100
"""Bytes that ``_batches`` counts for each result beside its value: roughly the size of its other fields on disk."""

KILL_S = 3.0
"""Seconds that nodes have to kill jobs, beyond the grace period ``config.CancelGrace``. Jobs that run here and have
not ended then are ended as ``Abandoned``, those of nodes are returned as ``Cancelled``."""


class Wait(NamedTuple):
    """A wait that a step asks its driver for: until a condition holds or a time is over.

    Attributes:
        is_done: Returns True if the condition holds, by the answers of nodes so far. Called on the loop on which
            nodes are asked.
        until: When the wait ends in any case (monotonic seconds); None: never. The step is sent False then.
    """

    is_done: Callable[[], bool]
    until: float | None


Steps = Generator[Wait, bool, T]
"""Steps of a recovery: a generator that yields waits, is sent True if the condition held in time and False if not,
and returns a value."""


class Nodes(Protocol):
    """The nodes that are asked: ``Net``, or those of a simulation.

    Attributes:
        asking: Questions to the nodes, one element for each dead program. Use them only by ``call``.
    """

    asking: list[Asking]

    def call(self, function: Callable[[], T]) -> T:
        """Call a function on the loop on which nodes are asked, wait for it, and return its result."""
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
        found: The journals, locked; the caller closes them afterwards.
        net: The nodes of all their sessions.
        make_resumed: Makes the cluster that runs the jobs of a journal that were never started.
        timeout: Seconds to wait for jobs to end; None: no limit. Without ``terminate_pending``, jobs that have not
            ended by then are returned as they are, and nodes and journals keep everything.
        terminate_pending: True to kill the jobs that have not ended by then, and to give up silent nodes.
        resume: True to run jobs that were never started.
        clock: The clock by which all waits are measured.

    Returns:
        All jobs, in the order of their numbers.

    Raises:
        DispyError: A journal is damaged or cannot be written to, a cluster cannot be made, or a node's certificate
            file cannot be used. Journals stay, and the recovery can be run again.
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
    """State of one recovery, and its steps.

    Attributes:
        found: The journals.
        net: The nodes of all their sessions.
        sessions: All sessions of the journals.
        resumed: Clusters that run jobs which were never started; empty without ``resume``. ``recovering`` sets it.
        is_whole: True if all nodes had told everything when ``is_over`` was last called, so that they may forget it.
            A connection that breaks after that changes nothing.
    """

    def __init__(self, found: list[Dead], net: Nodes) -> None:
        self.found = found
        self.net = net
        self.sessions = [session for one in found for session in one.sessions]
        self.resumed: list[Resuming] = []
        self.is_whole = False

    def is_told(self) -> bool:
        """True if every node has told which jobs and results it has, or is given up: then jobs may be resumed."""
        return all(session.recovery.is_told() for session in self.sessions)

    def is_over(self) -> bool:
        """True if no job is left to wait for, on nodes that answer or among resumed ones. Sets ``is_whole``."""
        self.is_whole = all(session.recovery.is_whole() for session in self.sessions)
        return all(session.recovery.is_over() for session in self.sessions) and all(
            cluster.has_ended() for cluster in self.resumed
        )

    def end_late(self, terminate: bool, clock: Clock) -> Steps[None]:
        """Give up silent nodes, as the time is over. With ``terminate``, kill the jobs that have not ended, too.

        Killed jobs have ``config.CancelGrace`` + ``KILL_S`` to end; jobs that run here are given up after that.
        """
        if terminate:
            yield Wait(self.is_told, clock.monotonic() + ANSWER_S)
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
        """Note the ends of jobs in full journals, then have nodes forget the jobs.

        Args:
            jobs: All jobs of all journals.
            terminate: True to forget jobs that were never started, too. Otherwise their journal is kept.
            clock: The clock for the wait.

        Returns:
            Journals that may be removed; the others have jobs that were never started, which the user is told.
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
        """Note the ends of jobs so far in full journals, and warn of what is missing. Nodes keep everything.

        Called instead of ``release`` if the recovery is not whole: another one goes on from here.
        """
        for one in self.found:
            _note_ended(one, self.net.call(partial(by_address, one, jobs, is_whole=False)))
        _say_what_is_missing(self.found, self.sessions)


def _can_load_all(jobs: list[DispyJob]) -> bool:
    """Unpickle the results of all jobs; True if that succeeds.

    If some cannot be rebuilt here (a class cannot be imported, say), logs an error with the first reason. Then
    nothing may be released: the user can recover again where they can be rebuilt.
    """
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
    """Note the ends of jobs in a journal; returns when that is on disk.

    If the disk is full the journal has logged that, and this returns without an error: the notes are missing then.

    Args:
        one: The journal.
        ended_by_address: Lists of ends, by IP address of the node; the address may be empty (``by_address``).
    """
    for ip_addr, all_ended in ended_by_address.items():
        for ended in _batches(all_ended):
            one.journal.ended(ip_addr, ended)
            one.journal.thread.wait_for_room()
    if ended_by_address:
        with contextlib.suppress(DispyError):
            one.journal.thread.ask(lambda _: None)


def _batches(all_ended: list[Ended]) -> Iterator[list[Ended]]:
    """Yield ends of jobs in batches of about 1 MiB, in the order given: after each the caller waits for the journal.

    The result that makes a batch reach 1 MiB is its last one, however large.
    """
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
    """Note in a full journal how all its jobs ended. Called before nodes forget the jobs: after that only the journal
    knows, should this program be killed.

    Args:
        one: The journal; a short one gets no note.
        jobs: Rebuilt jobs of this journal and of others, without those that were resumed.

    Returns:
        Jobs of this journal that have not ended, that is, were never started.
    """
    _note_ended(one, by_address(one, jobs, is_whole=True))
    own = {id(job) for job in one.jobs.values()}
    left = [job for job in jobs if id(job) in own and job.number in one.submitted]
    return [job for job in left if not job._is_final]  # pyright: ignore[reportPrivateUsage]  # not for programs


def _keep(one: Dead, left: list[DispyJob]) -> None:
    """Prepare a journal with jobs that were never started for a later recovery, and tell the user how to run them.

    Removes the nodes from the journal: they are about to forget the program. ``left`` are the jobs never started.
    """
    # Without nodes to ask, a later recovery takes every job that has not ended for one that was never started.
    one.journal.thread.ask(lambda db: db.execute("DELETE FROM node"))
    notice(
        f"{counted(len(left), 'job was', 'jobs were')} never started: recover_jobs({str(one.journal.path)!r}, "
        "resume=True) runs what is left; terminate_pending=True forgets it"
    )


def _are_released(net: Nodes) -> bool:
    """True if all nodes that knew the dead programs have said that they keep nothing of them any more."""
    return all(asking.is_released() for asking in net.asking)


def _say_what_is_missing(found: list[Dead], sessions: list[PastSession]) -> None:
    """Log a warning with the nodes that have not answered, the number of jobs that have not ended, and what to do."""
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
