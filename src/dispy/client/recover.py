"""``recover_jobs``: the jobs of a program that has died, from its journal and its nodes.

The nodes are dialed in the dead program's name. Each tells what it has, sends the results that are ready, and later
those of jobs that end; ``core.recovery`` puts that together. Which steps are taken, and why a recovery can be killed
at any point and run again, is in ``client.recovery.steps``.
"""

from __future__ import annotations

import logging
import os
from typing import Any, NamedTuple, TypeVar

from dispy.client.arguments import check_flag, check_path, check_results, check_threads, check_timeout
from dispy.client.job import DispyJob
from dispy.client.logger import notice
from dispy.client.recovery.dead_program import Dead, open_all, open_journal
from dispy.client.recovery.dead_programs import DeadProgram, in_turn, listed, recoverable
from dispy.client.recovery.node_queries import Net
from dispy.client.recovery.resumed_jobs import Resumed
from dispy.client.recovery.steps import Steps, recovering
from dispy.client.tracebacks import briefly
from dispy.errors import DispyError, UsageError
from dispy.system import current_directory

logger = logging.getLogger("dispy.client")

T = TypeVar("T")


@briefly
def recover_jobs(
    recover_file: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    terminate_pending: bool = False,
    *,
    resume: bool = False,
    secret: str = "",
    secret_file: str | None = None,
    results: str | None = None,
) -> list[DispyJob]:
    """Fetch the jobs of a program that died: all that nodes have, and with a full journal all that it submitted.

    Waits for jobs that still run or are queued on nodes. When all is here, nodes forget it and the journal is
    removed. If something is missing, because ``timeout`` is over or a node does not answer, everything stays where it
    is: another call returns it again, with the rest.

    Args:
        recover_file: The ``recover_file`` of the cluster; by default, the journals of the program that died last. If
            no job can be had of them, the program before it is taken, and so on; ``recoverable`` lists them.
        timeout: Seconds to wait for jobs to end; None: no limit. Jobs that have not ended then are returned as they
            are, ``Running`` or ``Created``.
        terminate_pending: Kill the jobs that have not ended after ``timeout``, and do not wait for nodes that do not
            answer then: nothing is left behind.
        resume: Run jobs that were never started, on nodes as the cluster used them (full journal only).
        secret: Secret shared with the nodes, if the dead program was given one.
        secret_file: File with the secret; by default the file that the dead program used.
        results: "plain": nothing that nodes have, or that the journal has from them, can run code here; a result that
            is not plain data ends its job with an error. "any": results may be any objects. None: as the dead
            program's clusters said; one with "plain" counts for all.

    Returns:
        New jobs, in the order in which they were submitted, with the ids that the old ones had as far as is known.
        Jobs that were never started are ``Created``. Empty, with a message, where there is no journal.

    Raises:
        UsageError: The file is no journal or in use, or the secret is another one.
    """
    check_threads()
    timeout = check_timeout(timeout)
    check_path("recover_file", recover_file)
    check_path("secret_file", secret_file)
    check_flag("terminate_pending", terminate_pending)
    check_flag("resume", resume)
    if results is not None:
        check_results("results", results)
    given = {"secret": secret, "secret_file": current_directory.own_file(secret_file, "secret_file")}
    how = How(timeout, terminate_pending, resume)
    if recover_file is not None:
        return _recover(open_journal(recover_file, given), how, results)
    return _recover_next(given, how, results)


class How(NamedTuple):
    """The choices of ``recover_jobs``, in the order of the parameters of ``recovery.steps.recovering``.

    Attributes:
        timeout: Seconds to wait for jobs to end; None: no limit.
        terminate_pending: True to kill the jobs that have not ended after ``timeout``, and to give up silent nodes.
        resume: True to run jobs that were never started; a full journal is needed for that.
    """

    timeout: float | None
    terminate_pending: bool
    resume: bool


def _recover_next(given: dict[str, Any], how: How, results: str | None) -> list[DispyJob]:
    """Recover the jobs of one dead program: the first that has some, in the order of ``dead_programs.in_turn``.

    With ``terminate_pending`` only the program that began last is tried: jobs of others are never killed.

    Args:
        given: Arguments of ``recover_jobs`` about the secret: ``secret`` and ``secret_file``.
        how: The other choices of the caller.
        results: As in ``recover_jobs``.

    Returns:
        Jobs in the order of submission; empty, with a message, if no program has any.

    Raises:
        DispyError: No program has jobs to return, and the last one tried failed for this reason.
    """
    programs = recoverable()
    if not programs:
        notice("no journal of a program that died: nothing to recover")
        return []
    turn = in_turn([one for one in programs if one.jobs is not None or not how.resume])
    if how.terminate_pending or not turn:
        # Only jobs of the program that ``recoverable`` lists first are given up, never those of the next one, even if
        # that program has none left.
        turn = programs[:1]
    others = list(programs)
    problem: DispyError | None = None
    jobs: list[DispyJob] = []
    for program in turn:
        if len(programs) > 1:
            notice(f"recovering {program}")
        try:
            jobs = _recover(open_all(program.paths, given), how, results)
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
    """Tell the user, if ``programs`` is not empty, that these dead programs may have jobs, too: a call for each."""
    if programs:
        have = "program has" if len(programs) == 1 else "programs have"
        notice(
            f"{len(programs)} more {have} died and may have jobs to recover, a call each:{listed(programs)}"
        )


def _recover(found: list[Dead], how: How, results: str | None) -> list[DispyJob]:
    """Recover the jobs of the open journals of one dead program, and close the journals.

    ``results`` as in ``recover_jobs``.

    Returns:
        Jobs in the order of submission; empty if there are no journals, or no jobs are left.

    Raises:
        UsageError: ``resume`` is wanted, and no journal is full.
    """
    if not found:
        return []
    is_plain = any(one.is_plain for one in found) if results is None else results == "plain"
    for one in found:
        one.is_plain = is_plain
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
            reasons = dict.fromkeys(
                doubt for one in found for session in one.sessions for doubt in session.recovery.doubts()
            )
            why = f" ({'; '.join(reasons)})" if reasons else ""
            notice(f"no jobs are left of {found[0].sessions[-1].program}: its journal is removed{why}")
        return jobs
    finally:
        for one in found:
            one.close()


def _follow(steps: Steps[T], net: Net) -> T:
    """Drive the generator of a recovery (``recovery.steps``) to its end, and return its value: the jobs.

    The generator yields a condition and a time (``steps.Wait``). ``net`` waits until the condition holds or the time
    is over; the generator is sent True if the condition held in time.
    """
    try:
        wait = next(steps)
        while True:
            wait = steps.send(net.wait(wait.is_done, wait.until))
    except StopIteration as end:
        found: T = end.value
        return found
    finally:
        steps.close()
