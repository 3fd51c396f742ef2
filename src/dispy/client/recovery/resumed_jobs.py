"""Jobs of a dead program that were never started are run by this program.

The jobs keep their numbers, and the journal gets a new session: should this program die as well, the next recovery
knows under which identity nodes have them. The notes come first, then the jobs are submitted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import msgspec

from dispy import payload
from dispy.client.cluster import JobCluster
from dispy.client.code.computation import Computation
from dispy.client.engine.engine import Engine
from dispy.client.job import DispyJob
from dispy.client.recovery.dead_program import Dead
from dispy.client.recovery.journaling import note_computation
from dispy.client.recovery.rebuilt_jobs import unstarted
from dispy.client.session.cancellation import cancel_all
from dispy.client.session.completion import give_up_jobs
from dispy.client.session.files import Held
from dispy.core import scheduling as core
from dispy.journal import reader
from dispy.journal.writer import Journal
from dispy.protocol.files import FileEntry
from dispy.protocol.node import Job, PutObject
from dispy.system.wording import counted

logger = logging.getLogger("dispy.client")


Put = list[tuple[int, memoryview]]
"""Objects that jobs may refer to (made by ``cluster.put``): pairs of the object's number and its pickled bytes, by
number upwards. Nodes get the objects before the jobs."""


class Resumed(JobCluster):
    """Cluster that runs jobs of a dead program that were never started, with an engine and an identity of its own.

    Nodes, secret, TLS and options are those that the dead program's last session noted. The caller ends the cluster
    by ``finish`` or ``leave``.

    Args:
        one: The journal, a full one; this cluster writes its notes into it.

    Attributes:
        dead: The journal.
        resumed_jobs: The jobs that this cluster runs, by number upwards within each old session. ``resume_unstarted``
            sets them before it calls ``run``.
    """

    def __init__(self, one: Dead) -> None:
        # Before the base class begins, which calls methods that need these.
        self.dead = one
        self.resumed_jobs: list[DispyJob] = []
        self._is_left = False
        """True once the engine was stopped by ``finish`` or ``leave``: there is nothing to stop any more."""
        secret, options = one.last_options()
        super().__init__(
            None,
            nodes=[(host, port or None, cpus) for host, port, cpus in options.nodes],
            reentrant=options.reentrant,
            isolate=options.isolate,
            results="plain" if one.is_plain else "any",
            setup_per=options.setup_per,
            setup_timeout=options.setup_timeout,
            exclusive=options.exclusive,
            dest_path=options.dest_path or None,
            cleanup=not options.keeps_files,
            pulse_interval=options.pulse_s,
            secret=secret.text(),
            certfile=options.certfile or None,
            keyfile=options.keyfile or None,
            cafile=options.cafile or None,
            tls=options.tls,
            recover_file=one.journal.path,
        )

    def _make_computation(self, computation: Any, depends: Any, setup: Any, cleanup: Any) -> Computation:
        """Return the computation that the journal has: its code is sent to nodes as it is, and never loaded here.

        ``JobCluster`` calls this when it is made; the arguments, of a computation given by a user, are ignored.
        """
        made = Computation.__new__(Computation)
        made.name = self.dead.name
        made.code = self.dead.code
        made.known = payload.NOTHING
        made.extensions = []
        made.method = None
        made.is_program = self.dead.is_program
        made.adapts = False  # calls were adapted when they were submitted
        return made

    def _take_files(self, depends: Any) -> tuple[list[FileEntry], list[Held]]:
        """Return the files that the journal names, and the holders that read them from disk here when nodes ask."""
        _, options = self.dead.last_options()
        return options.files, self._shipped.restore(options.sources)

    def _find_engine(self) -> Engine:
        """Return a new engine: nodes know it under an identity of its own, and ``leave`` can stop it alone."""
        return Engine()

    def _open_journal(self, recover_file: Any) -> Journal:
        """Note a new session and this cluster in the dead program's journal, which is open already, and return it."""
        journal = self.dead.journal
        begin_session(
            self.dead, self._engine.post, self._engine.service.identity, self._engine.service.name
        )
        note_computation(self, journal)
        return journal

    def run(self, put: Put, messages: list[Job]) -> None:
        """Submit ``resumed_jobs``, under the numbers that they had. Does not wait for their ends (``has_ended``).

        Args:
            put: Objects that the jobs refer to.
            messages: The jobs for the scheduler, in the order of ``resumed_jobs``.
        """
        for job in self.resumed_jobs:
            job._cluster = self
            self._jobs[job._number] = job
        self._engine.call(self._submit_resumed, put, messages)

    def _submit_resumed(self, put: Put, messages: list[Job]) -> None:
        """Give the scheduler the objects, then the jobs. On the loop of the engine."""
        service = self._engine.service
        for number, data in put:
            service.handle(core.PutObject(core.EMBEDDED, PutObject(self._number, number, data)))  # type: ignore[arg-type]
        service.submit(core.SubmitJobs(core.EMBEDDED, self._number, messages))
        service.schedule_tick()

    def has_ended(self) -> bool:
        """True if all resumed jobs have ended."""
        return not self._jobs

    def kill(self) -> None:
        """Cancel the jobs that have not ended: nodes kill those that run. Does not wait (``has_ended``).

        The caller calls ``give_up`` for those that have not ended in time.
        """
        self._engine.call(cancel_all, self)

    def give_up(self) -> None:
        """End the jobs that have not ended as ``Abandoned``, without waiting for their nodes."""
        if self._jobs:
            self._engine.call(give_up_jobs, self)

    def finish(self) -> None:
        """Close the cluster, all of whose jobs have ended, and stop its engine: nothing stays on nodes.

        The journal stays open; the recovery closes it.
        """
        self._journal = None  # removed by the recovery, which opened it
        self._tally.hear_all()  # the jobs are returned: their failures are not told at the end of the program
        self.close()
        self._is_left = True
        self._engine.stop()

    def leave(self) -> None:
        """Stop the engine as if this program died: jobs that have not ended stay on nodes for another recovery.

        Does nothing after ``finish``.
        """
        if not self._is_left:
            self._is_left = True
            self._engine.leave()


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
    one.journal.redirect(post)
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
    numbers = msgspec.msgpack.encode([job._number for job in jobs])
    put = [(number, one.read_part(part)) for number, part in journal.ask(reader.objects)]
    messages = [Job(job._number, 0, one.arguments(job._number)) for job in jobs]
    # From here on the jobs are ours: a recovery of this program looks for them on the nodes of our session.
    journal.ask(lambda db: db.execute("INSERT INTO resumed VALUES (?, ?)", (session, numbers)))
    for job in jobs:
        job._exception = None  # why it was not run
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
        pinned = [job for job in jobs if one.submitted[job._number].is_pinned]
        if pinned:
            logger.warning(
                "%s for one node and no other, or brought files; that is not resumed",
                counted(len(pinned), "job was", "jobs were"),
            )
        jobs = [job for job in jobs if not one.submitted[job._number].is_pinned]
        if jobs:
            cluster = make(one)
            made.append(cluster)
            cluster.resumed_jobs = jobs
            cluster.run(*_take_jobs(one, jobs))
    return made
