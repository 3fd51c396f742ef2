"""``recover_jobs``: the jobs of a program that has died, from its journal and its nodes.

The nodes are dialed in the dead program's name. Each says what it has, sends what has ended, and later what ends;
``core.recovery`` puts that together. Nothing is acknowledged, closed or removed before all is here and can be
used: until then a recovery that is killed, or cannot load a result, has changed nothing and can be run again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from dispy import config
from dispy.client.arguments import check_flag, check_path, check_threads, check_timeout
from dispy.client.job import DispyJob
from dispy.client.logger import notice
from dispy.client.recovery.dead_program import Dead, Session, open_all, open_journal
from dispy.client.recovery.dead_programs import DeadProgram, in_turn, listed, recoverable
from dispy.client.recovery.node_queries import Asking, Net
from dispy.client.recovery.rebuilt_jobs import by_address, load, make_jobs, why_not
from dispy.client.recovery.resumed_jobs import Resumed, Resuming, resume_unstarted
from dispy.client.tracebacks import briefly
from dispy.core.recovery import PlaceStatus
from dispy.errors import DispyError, UsageError
from dispy.protocol.limits import MIB
from dispy.protocol.node import Ended
from dispy.system import current_directory
from dispy.system.clock import Clock
from dispy.system.wording import counted

logger = logging.getLogger("dispy.client")

T = TypeVar("T")

RELEASE_S = 3.0
"""Time for nodes to say that they have let go."""

NOTE_SIZE = 100
"""Bytes that a result takes in a journal beside its value, about."""

KILL_S = 3.0
"""What killing jobs may take beyond the grace period."""


@briefly
def recover_jobs(
    recover_file: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    terminate_pending: bool = False,
    *,
    resume: bool = False,
    secret: str = "",
    secret_file: str | None = None,
) -> list[DispyJob]:
    """Fetch the jobs of a program that died: all that its nodes have, and with a full journal all that it submitted.

    Waits for those that still run or are queued on nodes. When all is here, nodes forget it and the journal is
    removed. What is not complete, by ``timeout`` or since a node does not answer, stays where it is: another
    call returns it again, with the rest.

    Args:
        recover_file: What the cluster was given as such; by default, what the program that died last has left. If
            nothing of that can be had, the one before it is taken, and so on; ``recoverable`` lists them.
        timeout: Seconds to wait for jobs to end; None waits for all. Those that have not ended are returned as they
            are, ``Running`` or ``Created``.
        terminate_pending: Kill what has not ended after ``timeout``, and do not wait for nodes that do not answer
            then: nothing is left behind.
        resume: Run jobs that were never started, on nodes as the cluster used them (full journal only).
        secret: Shared with the nodes, if the program was given one.
        secret_file: Likewise; by default the file that the program used.

    Returns:
        New jobs, in the order in which they were submitted, with the ids that the old ones had as far as is known.
        Those that were never started are ``Created``. Empty, with a message, where there is no journal.

    Raises:
        UsageError: The file is no journal or in use, or the secret is another one.
    """
    check_threads()
    timeout = check_timeout(timeout)
    check_path("recover_file", recover_file)
    check_path("secret_file", secret_file)
    check_flag("terminate_pending", terminate_pending)
    check_flag("resume", resume)
    given = {"secret": secret, "secret_file": current_directory.own_file(secret_file, "secret_file")}
    how = How(timeout, terminate_pending, resume)
    if recover_file is not None:
        return _recover(open_journal(recover_file, given), how)
    return _recover_next(given, how)


class How(NamedTuple):
    """How jobs are recovered: parameters of ``recover_jobs``."""

    timeout: float | None
    terminate_pending: bool
    resume: bool


def _recover_next(given: dict[str, Any], how: How) -> list[DispyJob]:
    """The jobs of the first program in turn that has some."""
    programs = recoverable()
    if not programs:
        notice("no journal of a program that died: nothing to recover")
        return []
    turn = in_turn([one for one in programs if one.jobs is not None or not how.resume])
    if how.terminate_pending or not turn:
        # What is given up is said beforehand: no other program's jobs are, whatever is left of these.
        turn = programs[:1]
    others = list(programs)
    problem: DispyError | None = None
    jobs: list[DispyJob] = []
    for program in turn:
        if len(programs) > 1:
            notice(f"recovering {program}")
        try:
            jobs = _recover(open_all(program.paths, given), how)
            others.remove(program)
        except DispyError as error:
            problem = error
            if len(turn) > 1:
                logger.warning("%s", error)
        if jobs:
            break
    _say_who_is_left(others)
    if problem is not None and not jobs:
        raise problem
    return jobs


def _say_who_is_left(programs: list[DeadProgram]) -> None:
    if programs:
        have = "program has" if len(programs) == 1 else "programs have"
        notice(
            f"{len(programs)} more {have} died and may have jobs to recover, a call each:{listed(programs)}"
        )


def _recover(found: list[Dead], how: How) -> list[DispyJob]:
    """The jobs of journals, which are closed then."""
    if not found:
        return []
    try:
        if how.resume and not any(one.journal.is_full for one in found):
            raise UsageError(
                "only a full journal has jobs to resume",
                hint="create the cluster with durable=True, or with recover_file=PATH",
            )
        net = Net([session for one in found for session in one.sessions])
        try:
            jobs = _follow(recovering(found, net, Resumed, *how), net)
        finally:
            net.stop()
        if not jobs and all(one.is_done for one in found):
            notice(f"no jobs are left of {found[0].sessions[-1].program}: its journal is removed")
        return jobs
    finally:
        for one in found:
            one.close()


class Wait(NamedTuple):
    """Something to wait for: whether it is so, by what nodes say; and until when at most (monotonic seconds)."""

    is_done: Callable[[], bool]
    until: float | None


class Nodes(Protocol):
    """Those that are asked: ``Net``."""

    asking: list[Asking]

    def call(self, function: Callable[[], T]) -> T: ...


def _follow(steps: Generator[Wait, bool, T], net: Net) -> T:
    """Go through steps, and wait as they want between them."""
    try:
        wait = next(steps)
        while True:
            wait = steps.send(net.wait(wait.is_done, wait.until))
    except StopIteration as end:
        found: T = end.value
        return found
    finally:
        steps.close()


def recovering(
    found: list[Dead],
    net: Nodes,
    make_resumed: Callable[[Dead], Resuming],
    timeout: float | None,
    terminate_pending: bool,
    resume: bool,
    clock: Clock = time,
) -> Generator[Wait, bool, list[DispyJob]]:
    """``recover_jobs`` with the journals at hand: yields what it waits for, and is sent whether that came in time.

    Args:
        found: The journals.
        net: The nodes of all their sessions.
        make_resumed: Makes what runs jobs that were never started.
        timeout, terminate_pending, resume: As of ``recover_jobs``.
        clock: What it goes by.
    """
    until = None if timeout is None else clock.monotonic() + timeout
    sessions = [session for one in found for session in one.sessions]
    resumed: list[Resuming] = []
    kept: list[Dead] = []
    """Journals of which jobs were never started, and may be."""
    is_released = is_whole = False
    try:

        def is_told() -> bool:
            return all(session.recovery.is_told() for session in sessions)

        def is_over() -> bool:
            nonlocal is_whole
            # Looked at together: a link that breaks after that takes nothing back.
            is_whole = all(session.recovery.is_whole() for session in sessions)
            return all(session.recovery.is_over() for session in sessions) and all(
                cluster.has_ended() for cluster in resumed
            )

        if resume:
            yield Wait(is_told, until)
            resumed = resume_unstarted(net.call, found, make_resumed)
        is_in_time = yield Wait(is_over, until)
        if not is_in_time:
            for asking in net.asking:
                net.call(asking.give_up_silent)
            if terminate_pending:
                for asking in net.asking:
                    net.call(asking.cancel_open)
                for cluster in resumed:
                    cluster.kill()
                yield Wait(is_over, clock.monotonic() + config.CancelGrace + KILL_S)
                for cluster in resumed:
                    cluster.give_up()
        is_whole = terminate_pending or (is_in_time and is_whole)
        jobs = net.call(lambda: make_jobs(found, resumed, is_whole))
        unreadable = [job for job in jobs if not load(job)]
        if unreadable:
            is_whole = False
            logger.error(
                "results of %s cannot be rebuilt here, that of job %r because of: %s; nothing was removed: "
                "call recover_jobs again where that can be imported",
                counted(len(unreadable), "job"),
                unreadable[0].id,
                why_not(unreadable[0]),
            )
        if is_whole:
            for cluster in resumed:
                cluster.finish()
            # Whoever runs them has noted how they ended.
            run = {id(job) for cluster in resumed for job in cluster.resumed_jobs}
            others = [job for job in jobs if id(job) not in run]
            unstarted = {id(one): _note_whole(one, others) for one in found}
            if not terminate_pending:
                kept = [one for one in found if unstarted[id(one)]]
                for one in kept:
                    _keep(one, unstarted[id(one)])
            for asking in net.asking:
                net.call(asking.release)
            if not (yield Wait(lambda: _are_released(net), clock.monotonic() + RELEASE_S)):
                logger.warning(
                    "not all nodes have said that they have let go; they will when their lease ends"
                )
            is_released = True
        else:
            for one in found:
                _note_ended(one, net.call(partial(by_address, one, jobs, is_whole=False)))
            _say_what_is_missing(found, sessions)
    finally:
        for cluster in resumed:
            cluster.leave()
    for one in found:
        one.is_done = is_released and one not in kept
    return jobs


def _note_ended(one: Dead, ended_by_address: dict[str, list[Ended]]) -> None:
    """Have a journal know how jobs ended; returns when that is on disk. One whose disk is full has said so."""
    for ip_addr, all_ended in ended_by_address.items():
        for ended in _batches(all_ended):
            one.journal.ended(ip_addr, ended)
            one.journal.wait_for_room()
    if ended_by_address:
        with contextlib.suppress(DispyError):
            one.journal.ask(lambda _: None)


def _batches(all_ended: list[Ended]) -> Iterator[list[Ended]]:
    """Of a MiB or so, or one larger result."""
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
    """Have a full journal know all that became of its jobs: nodes are about to forget it, and we may be killed.

    Returns:
        Jobs that were never started.
    """
    _note_ended(one, by_address(one, jobs, is_whole=True))
    return [job for job in jobs if job._number in one.submitted and not job._is_final]


def _keep(one: Dead, left: list[DispyJob]) -> None:
    """A journal stays, of which jobs may still be run."""
    # Where nobody has to be asked, what has not ended was never started.
    one.journal.ask(lambda db: db.execute("DELETE FROM node"))
    notice(
        f"{counted(len(left), 'job was', 'jobs were')} never started: recover_jobs({str(one.journal.path)!r}, "
        "resume=True) runs what is left; terminate_pending=True forgets it"
    )


def _are_released(net: Nodes) -> bool:
    return all(asking.is_released() for asking in net.asking)


def _say_what_is_missing(found: list[Dead], sessions: list[Session]) -> None:
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
