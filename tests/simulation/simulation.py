"""One run: a world from a seed, a time of faults, a time of peace, and what must hold in and after both."""

from __future__ import annotations

import gc
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dispy.core.scheduling.explain import why_full, why_open
from dispy.core.scheduling.lines.accounts import room
from dispy.core.scheduling.lines.waiting import has_turn
from dispy.core.scheduling.state import Computation
from dispy.settings import POLICIES, PULSE_S, SILENT_PULSES, UserSettings
from dispy.system.process_identity import user_and_host
from dispy.system.watchdog import STALL_S

from . import checks, recovered
from .computer import Computer
from .contents import Catalogue
from .disk import Disk, watching
from .faults import Faults
from .jobs import Account, Task
from .journals import Shelf
from .kept import Kept
from .network import Network
from .program import Program
from .recovery import Estate
from .shared_scheduler import SharedScheduler
from .workload import Habits, Workload
from .world import Failure, World

STEPS = 4000
"""Steps of a run until its faults cease, unless it is told otherwise."""

ACTIVE_S = 60.0
"""Virtual time until they cease at the latest."""

SETTLE_S = 60.0
"""When faults have ceased, a job ends within this time and twice that of the longest one, until none is left."""

RELEASED_S = 15.0
"""When all jobs have ended, within this time nobody remembers anything of them."""

SLICE_S = 0.5
"""How often it is asked whether all is done."""

STUCK_S = 4.0
"""A job that could run is not left waiting for longer while a CPU that it may use is idle and nothing is wrong."""

SILENCE_S = PULSE_S * SILENT_PULSES
"""After so long without a word a client counts as gone, unless nodes are told otherwise."""

RESUME_S = 120.0
"""In peace what never started is run, and what runs ends, within this time."""

RECOVERED_S = 600.0
"""All that a dead program has left is recovered or given up within this time."""

MEMORY = Path("/dev/shm")

LINKS = {
    "reset": 4.0,
    "half open": 2.0,
    "black hole": 1.0,
    "partition": 2.0,
    "one way": 1.0,
    "slow path": 1.0,
    "loss": 2.0,
}
DEATHS = {
    "node killed": 3.0,
    "node stopped": 1.0,
    "power": 1.0,
    "host killed": 2.0,
    "worker killed": 4.0,
    "reset": 1.0,
}
STANDSTILLS = {
    "node stands still": 3.0,
    "program stands still": 3.0,
    "host stands still": 1.0,
    "worker stands still": 2.0,
    "slow node": 2.0,
    "reset": 2.0,
}
SHORTAGES = {
    "loads fail": 1.0,
    "setups hang": 1.0,
    "forks fail": 2.0,
    "memory full": 2.0,
    "cpus": 3.0,
    "clock jumps": 1.0,
    "host killed": 1.0,
    "worker killed": 1.0,
}
RECOVERIES = {
    "program crashes": 4.0,
    "recovery killed": 4.0,
    "node killed": 2.0,
    "node stopped": 1.0,
    "power": 1.0,
    "disk full": 1.0,
    "disk damaged": 0.5,
    "host killed": 0.5,
    "worker killed": 0.5,
    "reset": 2.0,
    "half open": 0.5,
    "partition": 1.0,
    "node stands still": 1.0,
    "program stands still": 1.0,
    "memory full": 0.3,
}
FILES = {
    "file changes": 1.0,
    "file unreadable": 1.0,
    "store full": 1.0,
    "store trimmed": 3.0,
    "file received by another": 2.0,
    "slow disk": 2.0,
    "reset": 3.0,
    "half open": 1.0,
    "partition": 1.0,
    "node killed": 1.0,
    "power": 0.5,
    "node stopped": 0.5,
    "host killed": 1.0,
    "worker killed": 1.0,
    "node stands still": 0.5,
    "program stands still": 0.5,
    "program crashes": 0.1,
    "memory full": 0.3,
    "forks fail": 0.3,
    "cpus": 1.0,
}
CRASHES = {"program crashes": 1.0, "reset": 2.0, "node killed": 1.0, "partition": 1.0}

SCHEDULER = {
    "scheduler killed": 1.0,
    "scheduler stands still": 2.0,
    "program stands still": 1.0,
    "program crashes": 0.5,
    "node stands still": 1.0,
    "node killed": 1.0,
    "node stopped": 0.5,
    "host killed": 0.5,
    "worker killed": 1.0,
    "cpus": 1.0,
    **LINKS,
}
TENANTS = {
    "program crashes": 1.0,
    "reset": 1.0,
    "worker killed": 1.0,
    "cpus": 2.0,
    "program stands still": 1.0,
}

SHARED_CLIMATES: list[tuple[str, dict[str, float]]] = [
    ("scheduler", SCHEDULER),
    ("scheduler", SCHEDULER),
    ("tenants", TENANTS),
]
"""Those of worlds in which programs have a shared scheduler: each ``SHARED_EVERY``-th world."""

SEEKING = {
    "beacons repeated": 3.0,
    "air bad": 2.0,
    "node killed": 3.0,
    "node stopped": 1.0,
    "power": 2.0,
    "node stands still": 1.0,
    "program stands still": 1.0,
    **LINKS,
}
SEEKING_CLIMATES: list[tuple[str, dict[str, float]]] = [("seeking", SEEKING)]
"""That of worlds in which programs look for nodes by beacons: each ``SEEKING_EVERY``-th world."""

SEEKING_EVERY = 16

SHARED_EVERY = 8

CLIMATES: list[tuple[str, dict[str, float]]] = [
    ("calm", {}),
    ("links", LINKS),
    ("links", LINKS),
    ("deaths", DEATHS),
    ("deaths", DEATHS),
    ("standstills", STANDSTILLS),
    ("shortages", SHORTAGES),
    ("crashes", CRASHES),
    ("everything", {**CRASHES, **SHORTAGES, **STANDSTILLS, **DEATHS, **LINKS}),
    ("everything", {**CRASHES, **SHORTAGES, **STANDSTILLS, **DEATHS, **LINKS}),
    ("recoveries", RECOVERIES),
    ("recoveries", RECOVERIES),
    ("files", FILES),
    ("files", FILES),
]

FILED_SHARE = 0.25
"""Worlds of other climates in which computations have files, but for those in which what is left is recovered."""


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        seed: Its seed.
        climate: What went wrong in it.
        steps: Things that happened.
        virtual_s: How long it was.
        jobs: How many were accepted.
        runs: How often workers began one.
        statuses: How many ended how.
        faults: How many there were of each kind.
        packets: What the network did to how many of them.
        recovered: What became of programs that died and had journals, counted.
        digest: Two runs of equal digests are the same run.
        failure: What must not have happened; None: all is well.
    """

    seed: int
    climate: str
    steps: int = 0
    virtual_s: float = 0.0
    jobs: int = 0
    runs: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    packets: dict[str, int] = field(default_factory=dict)
    recovered: dict[str, int] = field(default_factory=dict)
    digest: int = 0
    failure: str | None = None


class _Errors(logging.Handler):
    """What services log as an error is one: something was caught that nobody expected."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.DEBUG)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        # While there are faults, work stands still for good reasons, and nodes do well to say so.
        is_stall = text.startswith(("nothing has moved", "nothing of cluster"))
        is_excused = is_stall and self._world.now < self._world.peace_at + 2 * STALL_S
        if self._world.has_damage:
            is_excused |= "is damaged, what it held is lost" in text or "on disk cannot be read" in text
        if record.levelno >= logging.ERROR and self._world.failure is None and not is_excused:
            if record.exc_info and record.exc_info[1] is not None:
                text += f": {record.exc_info[1]!r}"
                if self._world.is_traced:
                    text += "\n" + logging.Formatter().formatException(record.exc_info)
            self._world.failure = Failure(f"at {self._world.now:.6f} s: {text}")
            self._world.note("FAILURE", text)
        elif self._world.is_traced:
            self._world.note("log", text)


@contextmanager
def _listening(world: World) -> Iterator[None]:
    """What our services log belongs to the world."""
    logger = logging.getLogger("dispy")
    handler = _Errors(world)
    before = (logger.handlers[:], logger.propagate, logger.level)
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO if world.is_traced else logging.ERROR)
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before[0], before[1]
        logger.setLevel(before[2])


class Simulation:
    """A cluster and everybody in it.

    Args:
        seed: All chance comes from it.
        steps: Steps until its faults cease.
        trace: Takes a line for everything worth telling.
        climate: The only one there is; empty: the seed chooses.
    """

    def __init__(
        self, seed: int, steps: int = STEPS, trace: Callable[[str], None] | None = None, climate: str = ""
    ) -> None:
        world = self.world = World(seed, trace)
        random = world.random
        is_shared = climate in dict(SHARED_CLIMATES) or (not climate and seed % SHARED_EVERY == 3)
        self._seeks = climate == "seeking" or (not climate and seed % SEEKING_EVERY == 5)
        climates = SHARED_CLIMATES if is_shared else SEEKING_CLIMATES if self._seeks else CLIMATES
        self.climate, weights = random.choice([one for one in climates if climate in ("", one[0])])
        self.outcome = Outcome(seed, self.climate)
        self.has_estates = "recovery killed" in weights
        """Programs have journals, and what they leave behind is recovered."""
        # Between two crashes there is less going on.
        self._steps = 3 * steps if self.has_estates else steps
        delay_s = 20e-6 * 1000 ** random.random()
        network = self.network = Network(world, lambda: delay_s * (0.5 + random.random()))
        network.window = random.choice([16, 64, 256]) * 1024
        network.write_high = random.choice([4, 64, 256]) * 1024
        network.per_byte_s = random.choice([1e-9, 1e-8, 2e-7])
        network.splits = random.choice([0.0, 0.02, 0.3])
        self.ledger: dict[bytes, Account] = {}
        lease_s = random.choice([8.0, 20.0, 60.0])
        silence_s = SILENCE_S
        self._root: Path | None = None
        if self.has_estates:
            lease_s = random.choice([20.0, 100.0, 100.0])
            silence_s = random.choice([0.5, 2.0, SILENCE_S])
        has_files = "file changes" in weights or (not self.has_estates and random.random() < FILED_SHARE)
        self._catalogue = Catalogue(random) if has_files else None
        if self.has_estates or has_files:
            self._root = Path(
                tempfile.mkdtemp(prefix="dispy-simulation-", dir=MEMORY if MEMORY.is_dir() else None)
            )
            world.at_end.append(self._remove_disks)
        self.computers = [
            Computer(
                world, network, self.ledger, number, random.choice([1, 1, 2, 3, 4]), lease_s, silence_s,
                self._new_disk(number),
            )
            for number in range(1, 2 + int(random.random() * 4))
        ]  # fmt: skip
        self.programs: list[Program] = []
        self.estates: list[Estate] = []
        self.workloads: list[Workload] = []
        for computer in self.computers:
            computer.load_s = 0.001 * 200 ** random.random()
            if has_files:
                self._give_store(computer)
            world.after(0.5 * random.random() ** 3, world.nature, computer.start)
        self.scheduler: SharedScheduler | None = None
        if is_shared:
            self._add_scheduler()
        for _ in range(random.choice([2, 4, 10] if self.climate == "tenants" else [1, 1, 2, 3])):
            world.after(0.5 * random.random() ** 3, world.nature, self._add_program, True)
        pause_s = (0.3 if self.has_estates else 0.05) * 60 ** random.random()
        self.faults = Faults(
            world,
            network,
            self.computers,
            self.programs,
            self.estates,
            weights,
            pause_s,
            # Who recovers waits for ten seconds before he goes without a node.
            random.choice([3.0, 30.0, 100.0] if self.has_estates else [0.3, 3.0, 30.0]),
            self.scheduler,
        )
        self._is_trying = False
        """A program that comes in peace has not opened its cluster yet."""
        self._idle_since: dict[tuple[int, int], float] = {}
        self._missing_since: dict[tuple[str, int, object], float] = {}

    def _add_scheduler(self) -> None:
        """Programs have a shared scheduler, with some order and some limits."""
        world, random = self.world, self.world.random
        user = user_and_host()[:200].partition("@")[0]
        users = {
            user: UserSettings(
                cpus_max=random.choice([None, 1, 2, 3]), queued_max=random.choice([None, 50])
            )
        }
        self.scheduler = SharedScheduler(
            world, self.network, self.ledger, self.computers, random.choice([4.0, 20.0, 60.0]),
            random.choice(POLICIES), users if random.random() < 0.3 else {},
        )  # fmt: skip
        world.after(0.2 * random.random() ** 3, world.nature, self.scheduler.start)

    def _give_store(self, computer: Computer) -> None:
        """A computer has files, some from earlier days; perhaps less room than it would need."""
        world, random, catalogue = self.world, self.world.random, self._catalogue
        assert catalogue is not None
        assert self._root is not None
        computer.root = self._root / computer.name
        size = catalogue.size()
        size_max = random.choice([size, size, size // 3, 0])
        computer.kept = Kept(world, size_max)
        for digest in catalogue.some(random.choice([0.0, 0.3, 0.9])):
            computer.kept.put(digest)
        computer.put_s = 0.0001 * 5000 ** random.random()
        # What is put away is removed before it is used.
        world.has_disk_trouble |= size_max < size

    def _new_disk(self, number: int) -> Disk | None:
        if not self.has_estates or self._root is None:
            return None
        random = self.world.random
        write_s = 0.001 * 1000 ** random.random()
        return Disk(self._root / f"node{number}", write_s, random.choice([20_000, 1 << 30, 1 << 30]))

    def _remove_disks(self) -> None:
        assert self._root is not None
        shutil.rmtree(self._root)

    def _add_program(self, is_busy: bool) -> Program:
        number = len(self.programs) + 1
        shelf = None
        if self.has_estates:
            shelf = Shelf(self.world, f"program{number}", 0.001 * 1000 ** self.world.random.random())
        program = Program(
            self.world, self.network, self.ledger, number, self.computers, shelf, scheduler=self.scheduler
        )
        program.seeks = self._seeks
        program.on_crash = self._on_crash
        self.programs.append(program)
        # One that comes late finds peace.
        if is_busy and self.faults.is_on:
            habits = Habits(self.world.random)
            habits.catalogue = self._catalogue
            program.read_s = 0.0001 * 1000 ** self.world.random.random()
            if self.has_estates:
                habits.durable_share = self.world.random.choice([0.0, 0.5, 1.0, 1.0])
                habits.pause_s = max(habits.pause_s, 0.1)
            self.workloads.append(Workload(program, habits))
        return program

    # What dead programs leave.

    def _on_crash(self, program: Program, how: str) -> None:
        if program.shelf is None:
            return
        estate = Estate(program, self.programs, self.ledger)
        self.estates.append(estate)
        estate.next = lambda: self._recover_some_time(estate)
        self._recover_some_time(estate)
        if self.world.chance() < 0.5:
            self.world.after(3.0 * self.world.chance(), self.world.nature, self._add_program, True)

    def _recover_some_time(self, estate: Estate) -> None:
        delay_s = 0.01 * 1500 ** self.world.chance()
        self.world.after(delay_s, self.world.nature, self._recover, estate)

    def _recover(self, estate: Estate) -> None:
        random = self.world.random
        if self.faults.is_on:
            estate.begin(
                random.choice([0.5, 3.0, 10.0, 30.0]),
                terminate_pending=random.random() < 0.15,
                resume=random.random() < 0.4,
                is_single=random.random() < 0.3,
            )

    def _recover_all(self) -> None:
        """In peace all that is left is fetched, then what never started is run, and at last given up what goes on."""
        world = self.world
        for estate in self.estates:
            stages = [False] * int(world.chance() * 2) + [True]
            estate.next = partial(self._recover_more, estate, stages)
            if estate.recovery is None:
                self._recover_more(estate, stages)
        deadline = world.now + RECOVERED_S
        while any(estate.recovery is not None or estate.volumes() for estate in self.estates):
            if world.now > deadline:
                left = [e.program.name for e in self.estates if e.recovery is not None or e.volumes()]
                world.fail(f"after {RECOVERED_S:g} s of peace not all is recovered of {left}")
            world.run(world.now + SLICE_S)
        deadline = world.now + RELEASED_S
        while (kept := self._find_unrecovered()) is not None:
            if world.now > deadline:
                world.fail(f"{RELEASED_S:g} s after all is recovered {kept}")
            world.run(world.now + SLICE_S)

    def _recover_more(self, estate: Estate, stages: list[bool]) -> None:
        world = self.world
        last = estate.last
        if last is not None and last.is_resuming and last.timeout == RESUME_S:
            unended = recovered.find_unended(last)
            if unended:
                world.fail(
                    f"{last.party.name}: jobs {unended} have not ended after {RESUME_S:g} s of peace"
                )
        if stages:
            world.soon(
                world.nature,
                lambda resume: estate.begin(
                    RESUME_S, terminate_pending=False, resume=resume, is_single=False
                ),
                stages.pop(0),
            )
        elif last is not None and last.is_terminating and last.is_last:
            if estate.volumes():
                world.fail(f"journals {[v.name for v in estate.volumes()]} are left after all was given up")
        elif estate.volumes():
            world.soon(world.nature, self._give_up, estate)

    @staticmethod
    def _give_up(estate: Estate) -> None:
        estate.begin(1.0, terminate_pending=True, resume=False, is_single=False)
        if estate.recovery is not None:
            estate.recovery.is_last = True

    def _find_unrecovered(self) -> str | None:
        """What nodes keep of dead programs whose journals are gone."""
        for estate in self.estates:
            last = estate.last
            for one in last.found if last is not None and last.is_last else ():
                for session in one.sessions:
                    for computer in self.computers:
                        kept = recovered.find_kept(computer, session, estate.given_up)
                        if kept is not None:
                            return f"{computer.name} keeps {kept} of {estate.program.name}"
        return None

    def run(self) -> Outcome:
        """Play it to its end; what fails is in the outcome."""
        outcome = self.outcome
        world = self.world
        with _listening(world), watching([c.disk for c in self.computers if c.disk is not None]):
            try:
                self._live()
                self._make_peace()
                self._recover_all()
                self._settle()
                self._release()
                self._part()
                self._check_ends()
            except Failure as failure:
                outcome.failure = str(failure)
            except Exception as error:
                if world.failure is None and not world.is_traced:
                    outcome.failure = f"at {world.now:.6f} s: {type(error).__name__}: {error}"
                elif world.failure is None:
                    raise
                else:
                    outcome.failure = str(world.failure)
            finally:
                world.end()
        outcome.steps = world.steps
        outcome.virtual_s = world.now
        outcome.digest = world.digest
        outcome.faults = self.faults.counts
        if self.has_estates:
            outcome.faults["journal tail lost"] = sum(
                p.shelf.lost for p in self.programs if p.shelf is not None
            )
            outcome.recovered = {
                "programs recovered": len(self.estates),
                "recoveries": sum(estate.tries for estate in self.estates),
                "jobs returned": sum(estate.returned for estate in self.estates),
                "jobs resumed": sum(estate.resumed for estate in self.estates),
                "results taken over from disk": sum(
                    c.disk.taken_over for c in self.computers if c.disk is not None
                ),
            }
        paths = self.network.paths.values()
        outcome.packets = {
            "sent": sum(path.sent for path in paths),
            "lost": sum(path.lost for path in paths),
            "overtaken on another connection": sum(path.overtaken for path in paths),
        }
        for account in self.ledger.values():
            outcome.jobs += len(account.entries)
            outcome.runs += account.runs
            for status, count in account.statuses.items():
                outcome.statuses[status] = outcome.statuses.get(status, 0) + count
        return outcome

    # Its parts.

    def _live(self) -> None:
        world = self.world
        while world.steps < self._steps and world.now < ACTIVE_S:
            world.run(world.now + SLICE_S, self._steps)
            self._look_for_stuck()

    def _make_peace(self) -> None:
        """Faults cease, nobody brings new work, and every cluster may use all its nodes."""
        world = self.world
        world.note("peace", "faults cease")
        world.peace_at = world.now
        self.faults.stop()
        for workload in self.workloads:
            workload.stop()
        if any(not program.is_alive for program in self.programs):
            # Somebody has died: another one finds the nodes in order.
            program = self._add_program(False)
            self._is_trying = True
            world.soon(program.party, self._try_all, program)
        for program in self.programs:
            if program.is_alive:
                world.soon(program.party, self._use_all, program)

    def _try_all(self, program: Program) -> None:
        if not program.can_open():
            self.world.after(0.2, program.party, self._try_all, program)
            return
        self._is_trying = False
        cluster = program.open_cluster(False, program.computers, 0.5, 100, is_live=False)
        program.submit(cluster, [Task(1000) for _ in range(40)])

    @staticmethod
    def _use_all(program: Program) -> None:
        program.lift_limits()
        for cluster in list(program.clusters.values()):
            for computer in cluster.computers:
                program.allocate(cluster, computer, None, is_draining=False)
            is_strict = program.scheduler is not None and program.scheduler.is_strict
            if cluster.is_exclusive or is_strict:
                # Until then nobody else has its turn.
                program.close(cluster, terminate=False)

    def _settle(self) -> None:
        """Everything ends."""
        world = self.world
        world.run(world.now + 0.1)
        deadline = world.now + SETTLE_S
        while self._is_trying:
            if world.now > deadline:
                world.fail(f"in {SETTLE_S:g} s of peace nobody can open a cluster")
            world.run(world.now + SLICE_S)
        alive = [program for program in self.programs if program.is_alive]
        ended, since = -1, world.now
        while any(program.open_jobs() for program in alive):
            before, ended = ended, sum(sum(program.account.statuses.values()) for program in alive)
            if ended != before:
                since = world.now
            longest_s = max(program.longest_us() for program in alive) * 1e-6
            # What belongs to a program that has died goes on, and keeps exclusive clusters waiting, or is one.
            kept_s = self.scheduler.lease_s if self.scheduler is not None else 0.0
            if world.now > since + SETTLE_S + 2.0 * longest_s + kept_s:
                left = {p.name: p.open_jobs() for p in alive if p.open_jobs()}
                world.fail(f"jobs do not end: {world.now - since:g} s after the last one there are {left}")
            world.run(world.now + SLICE_S)
            self._look_for_stuck()

    def _release(self) -> None:
        """Jobs that have ended are forgotten, though their clusters are still open."""
        world = self.world
        deadline = world.now + RELEASED_S
        while (kept := self._find_kept()) is not None:
            if world.now > deadline:
                world.fail(f"{RELEASED_S:g} s after the last job has ended {kept}")
            world.run(world.now + SLICE_S)

    def _find_kept(self) -> str | None:
        """What is still kept of jobs that have ended."""
        for program in self.programs:
            if program.is_alive:
                kept = checks.find_kept_by_program(program)
                if kept is not None:
                    return f"{program.name} keeps {kept}"
        for computer in self.computers:
            if computer.service is not None:
                for program in self.programs:
                    kept = checks.find_kept_by_node(computer, program) if program.is_alive else None
                    if kept is not None:
                        return f"{computer.name} keeps {kept} of {program.name}"
        return None

    def _part(self) -> None:
        """Clusters are closed, programs exit, leases run out."""
        world = self.world
        for program in self.programs:
            if program.is_alive:
                program.is_leaving = True
                for cluster in list(program.clusters.values()):
                    world.soon(program.party, program.close, cluster, False)
        world.run(world.now + 1.0)
        for program in self.programs:
            if program.is_alive:
                world.soon(program.party, program.leave)
        if self.scheduler is not None:
            deadline = world.now + self.scheduler.lease_s + SILENCE_S + 5.0
            while self.scheduler.holds():
                if world.now > deadline:
                    world.fail(f"the scheduler holds on to what nobody wants: {self.scheduler.holds()}")
                world.run(world.now + 1.0)
            self.scheduler.leave()
        lease_s = max(computer.lease_s for computer in self.computers)
        deadline = world.now + lease_s + 20.0
        while any(self._holds(computer) for computer in self.computers):
            if world.now > deadline:
                held = {c.name: self._holds(c) for c in self.computers if self._holds(c)}
                world.fail(f"nodes hold on to what nobody wants: {held}")
            world.run(world.now + 2.0)

    @staticmethod
    def _holds(computer: Computer) -> str:
        """What a node holds of anybody."""
        service = computer.service
        if service is None:
            return ""
        state = service.machine.state
        held = [
            ("clients", len(state.clients)),
            ("computations", len(state.computations)),
            ("workers", len(state.workers)),
            ("busy CPUs", state.busy),
            ("connections", len(service.connections)),
            ("hosts", len(service.loaded) + len(service.ending)),
            ("owners of workers", len(service.owners)),
            ("host processes", sum(host is not service.spare for host in computer.hosts)),
            ("directories", len(computer.files.contents)),
            ("payloads on their way", computer.files.arriving),
            ("working directories", len(computer.work.wanted) if computer.work is not None else 0),
            ("files that it receives", len(computer.kept.holders)),
            *service.stager.held(),
            ("files in its spool", len(computer.disk.files()) if computer.disk is not None else 0),
        ]
        return ", ".join(f"{count} {what}" for what, count in held if count)

    def _check_ends(self) -> None:
        """Nothing is left of anything."""
        for program in self.programs:
            if program.scheduler is not None or program.service is None:
                continue
            state = program.service.state
            if program.has_left and state.computations:
                self.world.fail(f"{program.name}: closed computations are not forgotten")
            if program.has_left and any(known.placements for known in state.nodes.values()):
                self.world.fail(f"{program.name}: placements of closed computations are not forgotten")

    # Nothing waits while it could run.

    def _look_for_stuck(self) -> None:
        """A job that waits, and an idle CPU that it may use, both for long and without any fault in between."""
        world = self.world
        waiting: dict[tuple[int, int], float] = {}
        for program in self.programs:
            if not program.party.is_running:
                continue
            for number in list(program.clusters):
                waits = self._waits(program, number)
                if waits and self._has_idle(program, number):
                    key = (program.party.index, number)
                    started = program.account.last_start.get(number, 0.0)
                    waiting[key] = max(self._idle_since.get(key, world.now), started)
                    if world.now - waiting[key] > STUCK_S:
                        world.fail(
                            f"{program.name}: jobs {waits[:5]} of computation {number} wait for "
                            f"{STUCK_S:g} s while a CPU is idle"
                        )
        self._idle_since = waiting
        self._look_for_unexplained()
        for computer in self.computers:
            unwanted = computer.service.find_unwanted() if computer.service is not None else None
            if unwanted is not None:
                world.fail(f"{computer.name}: {unwanted}")

    def _look_for_unexplained(self) -> None:
        """A job that waits for something that nobody names."""
        world = self.world
        since: dict[tuple[str, int, object], float] = {}
        for program in self.programs:
            if not program.party.is_running:
                continue
            for number, jobs in program.account.open.items():
                service, computation = program.service, program.computation(number)
                if service is None or computation is None:
                    continue
                known = program.open_at_scheduler(number)
                for job in [job for job in list(jobs)[:3] if known is None or job in known]:
                    why = why_open(computation, job)
                    if (
                        not why and computation.placements and job not in computation.pinned
                    ) or ": ;" in f"{why};":
                        world.fail(f"{program.name}: job {job} waits and nothing is said of why: {why!r}")
                for placement in computation.placements.values():
                    # While a connection is broken it is that which is said.
                    is_unsaid = placement.progress is None and placement.node.is_connected
                    if is_unsaid and self._misses(program, computation.wire, placement.node.id):
                        # A way on which nothing comes from the node is only known to be broken after a while.
                        node_link = service.links.by_node[placement.node.id]
                        key = (program.name, number, node_link.link.connection)
                        since[key] = self._missing_since.get(key, world.now)
                        if world.now - since[key] > STUCK_S and self._is_in_order(program):
                            world.fail(
                                f"{program.name}: computation {number} waits for files at node "
                                f"{placement.node.name}, and {why_full(placement)!r} is said"
                            )
        self._missing_since = since

    def _misses(self, program: Program, wire: int, node: bytes) -> bool:
        """Whether a node waits for files of a computation or its jobs."""
        for computer in self.computers:
            service = computer.service
            if service is not None and service.incarnation == node:
                return service.stager.misses(program.seen_as, wire)
        return False

    def _waits(self, program: Program, number: int) -> list[int]:
        """Jobs of a computation that wait and could run on any of its nodes."""
        entries = program.account.open.get(number, {})
        return [
            entry.number
            for entry in entries.values()
            # A job with files may wait for those of another, and keeps its CPU meanwhile.
            if entry.pinned is None
            and not entry.files
            and entry.attempt not in entry.starts
            and not entry.is_cancelled
        ]

    def _has_idle(self, program: Program, number: int) -> bool:
        """Whether a node has an idle CPU for a computation, and everything between them is in order."""
        service, computation = program.service, program.computation(number)
        if service is None or computation is None:
            return False
        links = service.links
        if any(links.is_sending(node) for node in links.by_node):
            # Large arguments take their time on a slow line.
            return False
        if service.state.lines.exclusive and not has_turn(service.state.lines, computation):
            return False
        if computation.tenant is not None and computation.tenant.cpus_max is not None:
            return False  # it may have all that it may
        return self._is_in_order(program) and self._has_idle_node(computation)

    def _is_in_order(self, program: Program) -> bool:
        """Whether nothing is wrong with any node, or any way there."""
        if self.scheduler is not None:
            party = self.scheduler.party
            if party is None or not party.is_running or program.client is None:
                return False
        for computer in self.computers:
            service = computer.service
            if service is None or computer.party is None or not computer.party.is_running:
                return False
            if (
                computer.slowness > 1.0
                or computer.loads_fail
                or computer.forks_fail
                or computer.files.is_full
                or computer.setups_hang
                or computer.delay > 1.0
            ):
                return False
            if any(not host.party.is_running for host in computer.hosts):
                return False
        if any(path.is_cut or path.loss or path.delay_s > 0.1 for path in self.network.paths.values()):
            return False
        return not any(end.is_deaf or end.is_late for end in self.network.ends())

    def _has_idle_node(self, computation: Computation) -> bool:
        for placement in computation.placements.values():
            computer = next(
                (
                    c
                    for c in self.computers
                    if c.service is not None and c.service.incarnation == placement.node.id
                ),
                None,
            )
            if computer is None or computer.service is None or room(placement) <= 0:
                continue
            state = computer.service.machine.state
            if (
                placement.status.value == "ready"
                and placement.node.is_connected
                and state.busy < state.cpus
            ):
                return True
        return False


def run_seed(
    seed: int, steps: int = STEPS, trace: Callable[[str], None] | None = None, climate: str = ""
) -> Outcome:
    """Play the world of a seed."""
    return Simulation(seed, steps, trace, climate).run()


def run_batch(batch: tuple[int, int, int, float | None, str]) -> list[Outcome]:
    """Play some worlds one after another."""
    first, count, steps, deadline, climate = batch
    outcomes = []
    for seed in range(first, first + count):
        if deadline is not None and time.monotonic() > deadline:
            break
        # Worlds are full of cycles; one collection after each is cheaper than many in it.
        gc.disable()
        outcomes.append(run_seed(seed, steps, climate=climate))
        gc.enable()
        gc.collect()
    return outcomes
