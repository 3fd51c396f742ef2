"""Jobs of a dead program that were never started are run."""

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
from dispy.client.recovery.dead_program import Dead, read_part
from dispy.client.recovery.journaling import note_computation
from dispy.client.recovery.rebuilt_jobs import unstarted
from dispy.client.session.completion import cancel_all, give_up_jobs
from dispy.client.session.files import Held
from dispy.core import scheduling as core
from dispy.journal.writer import Journal
from dispy.protocol.files import FileEntry
from dispy.protocol.node import Job, PutObject
from dispy.system.wording import counted

logger = logging.getLogger("dispy.client")


Put = list[tuple[int, memoryview]]
"""Objects that jobs read, by number."""


class Resumed(JobCluster):
    """Runs jobs of a dead program that were never started, under an identity and with nodes of its own."""

    def __init__(self, one: Dead) -> None:
        # What is here before the base class is: it asks for it.
        self.dead = one
        self.resumed_jobs: list[DispyJob] = []
        self._is_left = False
        key, options = one.last_options()
        super().__init__(
            None,
            nodes=[(host, port or None, cpus) for host, port, cpus in options.nodes],
            reentrant=options.reentrant,
            isolate=options.isolate,
            setup_per=options.setup_per,
            setup_timeout=options.setup_timeout,
            exclusive=options.exclusive,
            dest_path=options.dest_path or None,
            cleanup=not options.keeps_files,
            pulse_interval=options.pulse_s,
            secret=f"dispy1-{key.hex()}",
            certfile=options.certfile or None,
            keyfile=options.keyfile or None,
            cafile=options.cafile or None,
            tls=options.tls,
            recover_file=one.journal.path,
        )

    def _make_computation(self, computation: Any, depends: Any, setup: Any, cleanup: Any) -> Computation:
        made = Computation.__new__(Computation)
        made.name = self.dead.name
        made.code = self.dead.code
        made.known = payload.NOTHING
        made.extensions = []
        made.method = None
        made.is_program = self.dead.is_program
        made.adapts = False  # of what was submitted that has been done
        return made

    def _take_files(self, depends: Any) -> tuple[list[FileEntry], list[Held]]:
        _, options = self.dead.last_options()
        return options.files, self._shipped.restore(options.sources)

    def _find_engine(self) -> Engine:
        return Engine()

    def _open_journal(self, recover_file: Any) -> Journal:
        journal = self.dead.journal
        begin_session(
            self.dead, self._engine.post, self._engine.service.identity, self._engine.service.name
        )
        note_computation(self, journal)
        return journal

    def run(self, put: Put, messages: list[Job]) -> None:
        """Run ``resumed_jobs``, under the numbers that they had."""
        for job in self.resumed_jobs:
            job._cluster = self
            self._jobs[job._number] = job
        self._engine.call(self._submit_resumed, put, messages)

    def _submit_resumed(self, put: Put, messages: list[Job]) -> None:
        service = self._engine.service
        for number, data in put:
            service.handle(core.PutObject(PutObject(self._number, number, data)))  # type: ignore[arg-type]
        service.submit(core.SubmitJobs(self._number, messages))
        service.schedule_tick()

    def has_ended(self) -> bool:
        """Whether all of them have."""
        return not self._jobs

    def kill(self) -> None:
        """Have ended what has not; ``give_up`` ends what goes on all the same."""
        self._engine.call(cancel_all, self)

    def give_up(self) -> None:
        """What has not ended is ended here."""
        if self._jobs:
            self._engine.call(give_up_jobs, self)

    def finish(self) -> None:
        """All has ended: close it, and leave nothing behind."""
        self._journal = None  # which is removed by whoever opened it
        self._tally.hear_all()  # its jobs are returned
        self.close()
        self._is_left = True
        self._engine.stop()

    def leave(self) -> None:
        """Go; what has not ended is left to the nodes, and to another recovery."""
        if not self._is_left:
            self._is_left = True
            self._engine.leave()


class Resuming(Protocol):
    """What runs them: ``Resumed``."""

    dead: Dead
    resumed_jobs: list[DispyJob]

    def run(self, put: Put, messages: list[Job]) -> None: ...
    def has_ended(self) -> bool: ...
    def kill(self) -> None: ...
    def give_up(self) -> None: ...
    def finish(self) -> None: ...
    def leave(self) -> None: ...


def begin_session(
    one: Dead, post: Callable[[Callable[[], object]], object], identity: bytes, program: str
) -> None:
    """A program goes on with the journal of another."""
    one.journal.session = max(session.number for session in one.sessions) + 1
    one.journal.redirect(post)
    one.journal.begin(identity, program)


def _take_jobs(one: Dead, jobs: list[DispyJob]) -> tuple[Put, list[Job]]:
    """Have a journal know that jobs are run by the program that has it now; returns what was put, and the jobs."""
    journal, session = one.journal, one.journal.session
    numbers = msgspec.msgpack.encode([job._number for job in jobs])
    objects = journal.ask(lambda db: db.execute("SELECT number, part FROM object").fetchall())
    put = [(number, journal.ask(partial(read_part, part=part))) for number, part in objects]
    messages = [Job(job._number, 0, one.arguments(job._number)) for job in jobs]
    # From here on they are ours: whoever recovers us looks for them where we had them.
    journal.ask(lambda db: db.execute("INSERT INTO resumed VALUES (?, ?)", (session, numbers)))
    for job in jobs:
        job._exception = None  # why it was not run
    return put, messages


def resume_unstarted(
    call: Callable[[Callable[[], list[DispyJob]]], list[DispyJob]],
    found: list[Dead],
    make: Callable[[Dead], Resuming],
) -> list[Resuming]:
    """Run what was never started.

    Args:
        call: Calls a function where nodes are asked.
        found: All journals.
        make: Makes what runs the jobs of one.
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
