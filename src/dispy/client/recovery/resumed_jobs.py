"""Jobs of a dead program that were never started are run by this program.

The jobs keep their numbers, and the journal gets a new session: should this program die as well, the next recovery
knows under which identity nodes have them. The notes come first, then the jobs are submitted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec

from dispy import payload
from dispy.client.backend.backend import Access, Backend
from dispy.client.backend.scheduler_link import Address
from dispy.client.code.computation import noted_computation
from dispy.client.code.shipped_files import Shipped
from dispy.client.engine.engine import Engine
from dispy.client.job import DispyJob
from dispy.client.recovery.dead_program import Dead
from dispy.client.recovery.journaling import note_computation
from dispy.client.recovery.rebuilt_jobs import unstarted
from dispy.client.session import shutdown
from dispy.client.session.cancellation import cancel_all
from dispy.client.session.completion import give_up_jobs
from dispy.client.session.startup import Callbacks, choose_nodes, make_session, open_session
from dispy.client.session.state import Options as ClusterOptions
from dispy.client.session.state import Session
from dispy.client.session.submission import adopt
from dispy.journal import reader
from dispy.journal.rows import NodeRow
from dispy.net.discovery import SCHEDULERS, Lookout
from dispy.protocol.node import Job, PutObject
from dispy.security.tls import Tls, dialer_tls
from dispy.settings import PULSE_S
from dispy.system import current_directory
from dispy.system.addresses import is_loopback
from dispy.system.wording import counted

logger = logging.getLogger("dispy.client")


Put = list[tuple[int, memoryview]]
"""Objects that jobs may refer to (made by ``cluster.put``): pairs of the object's number and its pickled bytes, by
number upwards. Nodes get the objects before the jobs."""


class Resumed:
    """Runs jobs of a dead program that were never started, with an engine and an identity of its own.

    Nodes or scheduler, secret, TLS and options are those that the dead program's last session noted. The caller ends
    it by ``finish`` or ``leave``.

    Args:
        one: The journal, a full one, into which the notes about these jobs go.

    Attributes:
        dead: The journal.
        resumed_jobs: The jobs that are run, by number upwards within each old session. ``resume_unstarted`` sets them
            before it calls ``run``.
    """

    def __init__(self, one: Dead) -> None:
        self.dead = one
        self.resumed_jobs: list[DispyJob] = []
        self._engine = Engine()
        """An engine of its own: nodes know it under another identity, and ``leave`` can stop it alone."""
        self._is_left = False
        """True once the engine was stopped by ``finish`` or ``leave``: there is nothing to stop any more."""
        self._session = session = _make_session(one, self._engine)
        session.journal = one.journal
        begin_session(one, self._engine.post, session.backend.identity, session.backend.name)
        note_computation(session, one.journal)
        open_session(session, False, self._engine.add)

    def run(self, put: Put, messages: list[Job]) -> None:
        """Submit ``resumed_jobs``, under the numbers that they had. Does not wait for their ends (``has_ended``).

        Args:
            put: Objects that the jobs refer to.
            messages: The jobs for the scheduler, in the order of ``resumed_jobs``.
        """
        adopt(self._session, self.resumed_jobs)
        self._engine.call(self._submit_resumed, put, messages)

    def _submit_resumed(self, put: Put, messages: list[Job]) -> None:
        """Give the scheduler the objects, then the jobs. On the loop of the engine."""
        session = self._session
        for number, data in put:
            session.backend.put(PutObject(session.number, number, data))  # type: ignore[arg-type]
        session.backend.submit(session.number, messages)

    def has_ended(self) -> bool:
        """True if all resumed jobs have ended."""
        return not self._session.jobs

    def kill(self) -> None:
        """Cancel the jobs that have not ended: nodes kill those that run. Does not wait (``has_ended``).

        The caller calls ``give_up`` for those that have not ended in time.
        """
        self._engine.call(cancel_all, self._session)

    def give_up(self) -> None:
        """End the jobs that have not ended as ``Abandoned``, without waiting for their nodes."""
        if self._session.jobs:
            self._engine.call(give_up_jobs, self._session)

    def finish(self) -> None:
        """Close the cluster, all of whose jobs have ended, and stop its engine: nothing stays on nodes.

        The journal stays open; the recovery closes it.
        """
        self._session.journal = None  # removed by the recovery, which opened it
        self._session.tally.hear_all()  # the jobs are returned: their failures are not told at the end of the program
        shutdown.close(self._session, None, terminate=False)
        self._is_left = True
        self._engine.stop()

    def leave(self) -> None:
        """Stop the engine as if this program died: jobs that have not ended stay on nodes for another recovery.

        Does nothing after ``finish``.
        """
        if not self._is_left:
            self._is_left = True
            self._engine.leave()


def _make_session(one: Dead, engine: Engine) -> Session:
    """Returns the session that runs jobs of a dead program: its choices are those that the journal has."""
    secret, noted = one.last_options()
    nodes = [(host, port or None, cpus) for host, port, cpus in noted.nodes]
    tls = Tls(noted.certfile or None, noted.keyfile or None, noted.cafile or None, noted.tls)
    scheduler = one.last_scheduler()
    chosen = choose_nodes(nodes, secret.text(), None, tls, is_shared=scheduler is not None)
    backend: Backend = engine.backend
    if scheduler is not None:
        backend = engine.call(engine.schedulers.at, _address(scheduler, chosen.access))
    options = ClusterOptions(
        access=chosen.access,
        secret_file=noted.secret_file or None,
        owner=chosen.owner,
        computation=noted_computation(one.name, one.code, is_program=one.is_program),
        files=noted.files,
        seed=0,
        seeding=payload.Seeding(0, 1, False),
        dest_path=noted.dest_path,
        keeps_files=noted.keeps_files,
        isolate=noted.isolate,
        setup_per=noted.setup_per,
        setup_timeout=noted.setup_timeout,
        exclusive=noted.exclusive,
        is_plain=one.is_plain,
        reentrant=noted.reentrant,
        pulse_s=PULSE_S if noted.pulse_s is None else noted.pulse_s,
        queued_max=sys.maxsize,
    )
    shipped = Shipped(current_directory.directory())
    held = shipped.restore(noted.sources)
    return make_session(
        options,
        chosen.wishes,
        shipped,
        held,
        engine,
        backend,
        engine.new_number(),
        None,
        Callbacks(),
    )


def _address(scheduler: NodeRow, access: Access) -> Address:
    """Returns where the dead program's shared scheduler is: as it is listed on this machine, or as noted."""
    host, port, has_tls, socket = scheduler.host, scheduler.port, scheduler.tls, ""
    if is_loopback(host):
        for listing in Lookout(SCHEDULERS).with_secret(scheduler.fingerprint)[:1]:
            host, port, has_tls, socket = listing.host, listing.port, listing.tls, listing.socket_here()
    return Address(host, port, access.secret.keys, dialer_tls(access.tls) if has_tls else None, socket)


class Resuming(Protocol):
    """The interface of ``Resumed`` that a recovery uses. In simulations another class has it, without real nodes."""

    dead: Dead
    """The journal that has the jobs."""
    resumed_jobs: list[DispyJob]
    """The jobs that the cluster runs; ``resume_unstarted`` sets them before it calls ``run``."""

    def run(self, put: Put, messages: list[Job]) -> None: ...
    def has_ended(self) -> bool: ...
    def kill(self) -> None: ...
    def give_up(self) -> None: ...
    def finish(self) -> None: ...
    def leave(self) -> None: ...


def begin_session(
    one: Dead, post: Callable[[Callable[[], object]], object], identity: bytes, program: str
) -> None:
    """Begin a session in the journal of a dead program, whose jobs this program resumes.

    All later notes go to this session: should this program die, too, a recovery asks nodes under both identities.

    Args:
        one: The journal.
        post: Has the function that it is given called on the engine's loop. The journal calls its callbacks by it.
        identity: Identity under which nodes know this program: 16 bytes.
        program: Name of this program, with its process id.
    """
    one.journal.session = max(session.number for session in one.sessions) + 1
    one.journal.thread.redirect(post)
    one.journal.begin(identity, program)


def _take_jobs(one: Dead, jobs: list[DispyJob]) -> tuple[Put, list[Job]]:
    """Note in a journal that jobs belong to this program's session now. Returns when that is on disk.

    Call it after ``begin_session`` and before the jobs are submitted, so that a later recovery asks the nodes of this
    session for them.

    Args:
        one: The journal, a full one.
        jobs: Jobs of this journal that may be run (``unstarted``). Their ``exception``, if it has a reason why they
            were not run, becomes None.

    Returns:
        The objects that the jobs may refer to, and the jobs for the scheduler in the order of ``jobs``. All payloads
        are in memory.

    Raises:
        DispyError: The journal is damaged, or cannot be written to.
    """
    journal, session = one.journal, one.journal.session
    numbers = msgspec.msgpack.encode([job.number for job in jobs])
    put = [(number, one.read_part(part)) for number, part in journal.thread.ask(reader.objects)]
    messages = [Job(job.number, 0, one.arguments(job.number)) for job in jobs]
    # From here on the jobs are ours: a recovery of this program looks for them on the nodes of our session.
    journal.thread.ask(lambda db: db.execute("INSERT INTO resumed VALUES (?, ?)", (session, numbers)))
    for job in jobs:
        job.exception = None  # why it was not run
    return put, messages


def resume_unstarted(
    call: Callable[[Callable[[], list[DispyJob]]], list[DispyJob]],
    found: list[Dead],
    make: Callable[[Dead], Resuming],
) -> list[Resuming]:
    """Submit the jobs that were never started to new clusters, one for each journal that has such jobs.

    Jobs that are for one node, or brought files of their own, are left out with a warning: the journal has noted
    neither which node nor which files. They are returned to the user as ``Created``.

    Args:
        call: Calls a function on the loop on which nodes are asked, and returns its result.
        found: The journals. Short ones have no jobs to run.
        make: Makes the cluster that runs the jobs of one journal.

    Returns:
        The clusters, whose jobs run; the caller waits for them, and ends the clusters.

    Raises:
        DispyError: A journal is damaged or cannot be written to, or a cluster cannot be made.
    """
    made = []
    for one in found:
        jobs = call(partial(unstarted, one)) if one.journal.is_full else []
        pinned = [job for job in jobs if one.submitted[job.number].is_pinned]
        if pinned:
            logger.warning(
                "%s for one node and no other, or brought files; that is not resumed",
                counted(len(pinned), "job was", "jobs were"),
            )
        jobs = [job for job in jobs if not one.submitted[job.number].is_pinned]
        if jobs:
            session = make(one)
            made.append(session)
            session.resumed_jobs = jobs
            session.run(*_take_jobs(one, jobs))
    return made
