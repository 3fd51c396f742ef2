"""What a program leaves behind that has died, and those who recover it: one after the other, until it is done.

Played is what ``client.recover.recover_jobs`` does once it has the journals: the real steps, on a process of
their own, with nodes asked over the network. What they say of each job is compared with what happened to it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

from dispy.client.job import DispyJob
from dispy.client.recovery.dead_program import Dead, PastSession
from dispy.client.recovery.node_queries import LOOK_S, Asking, by_program
from dispy.client.recovery.resumed_jobs import Put, begin_session
from dispy.client.recovery.steps import Wait, recovering
from dispy.client.session import shutdown
from dispy.client.session.cancellation import cancel_all
from dispy.client.session.completion import give_up_jobs
from dispy.journal.rows import GIVEN_UP
from dispy.protocol.node import Job

from . import recovered
from .computer import SECRET, Computer
from .jobs import Account
from .journals import Journal, Volume
from .loop import Loop
from .program import Program
from .world import Party, World

T = TypeVar("T")

POLL_S = 0.05
"""How often it is looked whether what is waited for is so."""


class Asked(Asking):
    """The nodes of one program; what is cancelled there is known to the account of its jobs."""

    def __init__(self, sessions: list[PastSession], world: World, account: Account) -> None:
        super().__init__(sessions, lambda _: (), world)
        self._account = account

    def cancel_open(self) -> None:
        """As of the real one."""
        for session in self.sessions:
            for key in session.recovery.open_jobs():
                entry = self._account.entries[key]
                entry.is_cancelled = entry.is_ended_by_us = True
        super().cancel_open()


class Nodes:
    """Those that are asked, as ``client.recovery.node_queries.Net`` but for the thread."""

    def __init__(
        self, world: World, party: Party, sessions: list[PastSession], ledger: dict[bytes, Account]
    ) -> None:
        self.asking: list[Asking] = [
            Asked(group, world, ledger[group[0].identity]) for group in by_program(sessions)
        ]
        self._world = world
        self._party = party
        self._started = world.now
        self.is_over = False

    def call(self, function: Callable[[], T]) -> T:
        """Call a function; who asks is on the same loop."""
        return function()

    def look(self) -> None:
        """Dial, and dial again."""
        if not self.is_over:
            for asking in self.asking:
                asking.look(self._world.now - self._started)
            self._world.after(LOOK_S, self._party, self.look)

    def close(self) -> None:
        """No more is wanted."""
        self.is_over = True
        for asking in self.asking:
            asking.close()


class Resumed:
    """Runs jobs of a dead program that never started: ``recovery.resumed_jobs.Resumed`` around a played program."""

    def __init__(self, recovery: Recovery, one: Dead) -> None:
        estate = recovery.estate
        self.dead = one
        self.resumed_jobs: list[DispyJob] = []
        self._estate = estate
        self._recovery = recovery
        self._is_left = False
        self.program = program = Program(
            estate.world, estate.network, estate.ledger, len(estate.programs) + 1, estate.computers,
            party=recovery.party, host=estate.program.host,
        )  # fmt: skip
        estate.programs.append(program)
        estate.accounts.append(program.account)
        _, options = one.last_options()
        hosts = {host for host, _, _ in options.nodes}
        journal = one.journal
        assert isinstance(journal, Journal)
        begin_session(one, journal.thread._post_soon, program.identity, program.name)
        self._cluster = program.open_cluster(
            options.reentrant,
            [computer for computer in estate.computers if computer.host in hosts],
            0.5,
            len(one.code),
            is_live=False,
            is_exclusive=options.exclusive,
            journal=journal,
        )
        program.account.origins[self._cluster.number] = recovered.origin_of(one)

    def run(self, put: Put, messages: list[Job]) -> None:
        """As of the real one."""
        plain = [Job(job.number, job.attempt, bytes(job.payload)) for job in messages]
        self._estate.world.note(self.program.name, f"resumes jobs {[job.number for job in plain]}")
        self._estate.resumed += len(plain)
        keys = [(recovered.origin_of(self.dead), job.number) for job in plain]
        self._recovery.resumed_now.update(keys)
        was = [self._estate.program.account.entries[key] for key in keys]
        self.program.resume(self._cluster, put, self.resumed_jobs, plain, was)

    def has_ended(self) -> bool:
        """As of the real one."""
        return not self._cluster.session.jobs

    def kill(self) -> None:
        """As of the real one."""
        cancel_all(self._cluster.session)

    def give_up(self) -> None:
        """As of the real one."""
        for entry in list(self.program.account.open[self._cluster.number].values()):
            self.program.account.give_up(entry)
        give_up_jobs(self._cluster.session)

    def finish(self) -> None:
        """As of the real one."""
        session = self._cluster.session
        session.journal = None
        session.tally.hear_all()
        shutdown.close(session, None, terminate=False)
        self._is_left = True
        self.program.has_left = True
        self.program.engine.stop()

    def leave(self) -> None:
        """As of the real one."""
        if not self._is_left and self.program.is_alive:
            self._is_left = True
            self.program.engine.leave()


class Recovery:
    """A process that recovers.

    Args:
        estate: What.
        volumes: Which journals.
        timeout, terminate_pending, resume: As of ``recover_jobs``.
    """

    def __init__(
        self, estate: Estate, volumes: list[Volume], timeout: float, terminate_pending: bool, resume: bool
    ) -> None:
        self.estate = estate
        self.is_terminating = terminate_pending
        self.is_resuming = resume
        self.timeout = timeout
        self.is_last = False
        """It gives up whatever is left, in peace."""
        self.deaths = estate.deaths()
        """How many there had been when it began."""
        self.resumed_now: set[tuple[int, int]] = set()
        """Jobs that it has resumed, by the computation of the dead program and number."""
        self.jobs: list[DispyJob] | None = None
        """What it has returned."""
        world = self._world = estate.world
        estate.tries += 1
        self.party = world.party(f"recovery{estate.program.party.index}.{estate.tries}")
        world.note(
            self.party.name,
            f"recovers {estate.program.name} from {[volume.name for volume in volumes]}"
            f"{', resumes' if resume else ''}{', terminates' if terminate_pending else ''}, {timeout:g} s",
        )
        self._arguments = timeout, terminate_pending, resume
        self._volumes = volumes
        self.found: list[Dead] = []
        self._is_begun = False
        self._steps: Generator[Wait, bool, list[DispyJob]]
        self._wait: Wait
        Loop(world, self.party, estate.network, estate.program.host)
        world.soon(self.party, self._begin)

    def _begin(self) -> None:
        timeout, terminate_pending, resume = self._arguments
        for volume in self._volumes:
            one = Dead(Journal(self.estate.program.shelf, volume, self.party))  # type: ignore[arg-type]
            for session in one.sessions:
                for _, options in session.computations.values():
                    session.keys[options.fingerprint] = SECRET, options
                rows = [row for row in session.nodes if row.state == GIVEN_UP]
                self.estate.given_up.update(row.incarnation for row in rows)
            self.found.append(one)
        resume = resume and any(one.journal.is_full for one in self.found)
        self.nodes = Nodes(
            self._world,
            self.party,
            [session for one in self.found for session in one.sessions],
            self.estate.ledger,
        )
        self.nodes.look()
        self._is_begun = True
        self._steps = recovering(
            self.found, self.nodes, self._make_resumed, timeout, terminate_pending, resume, self._world
        )
        self.estate.graveyard.append(self._steps)
        self._go_on(None)

    def _make_resumed(self, one: Dead) -> Resumed:
        return Resumed(self, one)

    def _go_on(self, answer: bool | None) -> None:
        try:
            self._wait = next(self._steps) if answer is None else self._steps.send(answer)
        except StopIteration as end:
            self._finish(end.value)
        else:
            self._poll()

    def _poll(self) -> None:
        wait = self._wait
        is_so = wait.is_done()
        if is_so or (wait.until is not None and self._world.now >= wait.until):
            self._world.soon(self.party, self._go_on, is_so)
        else:
            self._world.after(POLL_S, self.party, self._poll)

    def _finish(self, jobs: list[DispyJob]) -> None:
        self.nodes.close()
        self._world.note(
            self.party.name,
            f"returns {[(job.number, job.status, job.exception and job.exception[:40]) for job in jobs[:40]]}"
            f"{', and is done' if all(one.is_done for one in self.found) else ''}",
        )
        self.jobs = jobs
        self.estate.returned += len(jobs)
        recovered.check(self, jobs)
        for one in self.found:
            one.journal.close(remove=one.is_done)
        self._world.after(1e-3, self.party, self._exit)

    def _exit(self) -> None:
        self.party.kill()
        self.estate.network.drop(self.party, "end")
        self.estate.on_over(self)

    def kill(self, how: str) -> None:
        """It is gone in the middle of anything."""
        self._world.note(self.party.name, f"is killed ({how})")
        if self._is_begun and any(asking.is_releasing for asking in self.nodes.asking):
            self.estate.short_released.update(
                one.journal.path for one in self.found if not one.journal.is_full
            )
        self.party.kill()
        self.estate.network.drop(self.party, how)
        assert self.estate.program.shelf is not None
        self.estate.program.shelf.crash(how)
        self.estate.on_over(self)


class Estate:
    """What a dead program has left.

    Args:
        program: The program.
        programs: All there are; those that resume its jobs are added.
        ledger: The accounts of all.
    """

    def __init__(self, program: Program, programs: list[Program], ledger: dict[bytes, Account]) -> None:
        self.program = program
        self.world = program.world
        self.network = program.network
        self.computers: list[Computer] = program.computers
        self.programs = programs
        self.ledger = ledger
        self.accounts = [program.account]
        """Its own, and those of programs that resumed its jobs."""
        self.recovery: Recovery | None = None
        """Who is at it."""
        self.last: Recovery | None = None
        """Who was."""
        self.tries = 0
        self.given_up: set[bytes] = set()
        """Nodes that the program, or one that resumed its jobs, had given up, as its journals said some time."""
        self.short_released: set[Path] = set()
        """Short journals. Nodes were told to forget what they had, by somebody who died before he returned it."""
        self.returned = 0
        """Jobs that were returned."""
        self.resumed = 0
        """Jobs that were resumed."""
        self.graveyard: list[object] = []
        """Steps of those who were killed: they would end in good order if nobody held them."""
        self.next: Callable[[], object] | None = None
        """Is called when nobody is at it any more."""
        program.world.at_end.append(self.graveyard.clear)

    def deaths(self) -> int:
        """How often something was lost that nodes had, and may have told a recovery: in memory, or on a disk."""
        return sum(computer.deaths for computer in self.computers)

    def volumes(self) -> list[Volume]:
        """Journals that are left. Empty ones are removed, as they are after a while."""
        shelf = self.program.shelf
        assert shelf is not None
        for volume in list(shelf.volumes.values()):
            if volume.owner is None and volume.is_empty():
                shelf.remove(volume)
        return list(shelf.volumes.values())

    def begin(self, timeout: float, terminate_pending: bool, resume: bool, is_single: bool) -> bool:
        """Have somebody recover it; False if there is nothing left, or somebody is at it."""
        volumes = self.volumes()
        if not volumes or self.recovery is not None:
            return False
        machine = self.network.machine(self.program.host)
        machine.is_up = True
        if is_single:
            volumes = [volumes[int(len(volumes) * self.world.chance())]]
        self.recovery = Recovery(self, volumes, timeout, terminate_pending, resume)
        return True

    def on_over(self, recovery: Recovery) -> None:
        """A recovery has ended, or was killed."""
        self.recovery, self.last = None, recovery
        if self.next is not None:
            self.next()
