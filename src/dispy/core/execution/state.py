"""The state of a node's execution core: clients, their computations, workers."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import NamedTuple

from dispy.core.execution.ids import ClientId, Key, Seconds, WorkerId
from dispy.core.run_times import RunTimes
from dispy.protocol.node import (
    Compute,
    Ended,
    HeldJobs,
    Job,
    JobsEnded,
    JobsPrinted,
)
from dispy.protocol.worker import Record

UNTOLD = (-1, -1, "")
"""Credit of a computation whose client has not been told any: differs from every grant, zero included."""

RECORD_US = 4000
"""Known-short jobs put together into one record (microseconds): what one of them waits behind the
others, and forty times what a packet costs in all."""

UNLIMITED = 1 << 31
"""CPUs that a client may use where it has set no limit of its own."""


class Status(Enum):
    """Where a computation is in its life on this node."""

    LOADING = "loading"
    READY = "ready"


class Client:
    """A scheduler that uses this node, over all its connections."""

    __slots__ = (
        "active_at", "batches", "before", "busy", "cpus_max", "has_gaps", "id", "is_connected", "is_dead",
        "is_recovering", "level", "lost", "name", "next_batch", "silent_since", "stored", "vtime", "was_away",
    )  # fmt: skip

    def __init__(self, client: ClientId, name: str) -> None:
        self.id = client
        self.name = name
        self.is_connected = True
        self.silent_since: Seconds = 0.0
        self.is_dead = False
        """Silent for longer than the limit: it has no share any more, and its results go to disk. It may
        still come back."""
        self.cpus_max = UNLIMITED
        """Jobs that it wants to have run at once."""
        self.busy = 0
        """CPUs in use for it."""
        self.vtime = 0.0
        """CPU seconds had, all its computations together (virtual time of a fair queue)."""
        self.level = 0.0
        """Where a computation starts that comes to those of this client."""
        self.active_at: Seconds = -1e9
        """When it was last seen with jobs here."""
        self.next_batch = 1
        self.batches: deque[JobsEnded] = deque()
        """Results not yet acknowledged, oldest first. Those on disk name the attempts, and no more."""
        self.stored: set[int] = set()
        """Batches that are on disk."""
        self.was_away = False
        """What was open when it went is on disk."""
        self.is_recovering = False
        """Who speaks for it now fetches what a dead program left."""
        self.lost: list[HeldJobs] = []
        """What was open when an earlier incarnation of the node ended."""
        self.has_gaps = False
        """Whether that is not known."""
        self.before: list[bytes] = []
        """Incarnations whose results for it are here."""


class Grant(NamedTuple):
    """What a computation can count on here.

    Attributes:
        slots: Its jobs that would start at once.
        share: Its jobs that should be here to make use of its share: those above ``slots`` wait for others' jobs.
        reason: Why that is less than the node has; empty if it is not.
    """

    slots: int
    share: int
    reason: str


class Computation:
    """A computation on this node and its jobs."""

    __slots__ = (
        "busy", "cancelling", "client", "crashes", "credit", "filed", "finished", "grant", "idle", "is_held_off",
        "key", "open", "ready", "runtimes", "sampled", "sending", "shortage", "single", "spec",
        "staging", "status", "stillborn", "unseen", "untold", "vtime", "watched", "workers",
    )  # fmt: skip

    def __init__(self, key: Key, client: Client, spec: Compute) -> None:
        self.key = key
        self.client = client
        self.spec = spec
        self.status = Status.LOADING
        self.ready: deque[Job] = deque()
        self.open: dict[int, Job] = {}
        """All jobs that have not ended, by number."""
        self.workers: dict[WorkerId, Worker] = {}
        self.idle: dict[WorkerId, Worker] = {}
        """Those without a record."""
        self.single: dict[WorkerId, Worker] = {}
        """Those with one record, that is with nothing after what they run now."""
        self.cancelling: set[tuple[int, int]] = set()
        """Attempts in records that nobody wants any more (number, attempt): cancelled, or obsolete
        and then not open."""
        self.sending: dict[tuple[int, int], tuple[Worker, int]] = {}
        """Who waits for the acknowledgement of which provisional result, by number and attempt."""
        self.untold: list[Ended] = []
        """Results that wait for company; at most two milliseconds, and only while many more are to come."""
        self.runtimes = RunTimes()
        self.sampled = 0
        """Results so far; plans for short jobs grow with the evidence for them."""
        self.finished = 0
        """Number of jobs that returned a value."""
        self.busy = 0
        """CPUs in use for it."""
        self.is_held_off = False
        """Another computation uses the node exclusively, or is about to."""
        self.shortage = ""
        """Why its large data finds no room; empty if it does."""
        self.grant = Grant(0, 0, "")
        """What it can count on."""
        self.credit = UNTOLD
        """Slots, backlog and reason as told."""
        self.crashes = 0
        """Deaths of its host since a job last ended."""
        self.stillborn = 0
        """Workers that ended before they began a job, since a job last ended."""
        self.vtime = 0.0
        """CPU seconds had, level with the others of its client."""
        self.staging: dict[int, Job] = {}
        """Jobs whose files are not here yet, by number."""
        self.filed: set[int] = set()
        """Numbers of jobs that bring files; they are alone in their records. Some may have ended."""
        self.watched: set[int] = set()
        """Numbers of jobs whose output is wanted while they run. Some may have ended."""
        self.unseen: deque[JobsPrinted] = deque()
        """Such output not yet acknowledged, oldest first."""


class Worker:
    """A process that runs jobs of one computation."""

    __slots__ = (
        "computation",
        "cut",
        "deadline",
        "id",
        "interrupted",
        "is_killed",
        "kept",
        "moved",
        "owed",
        "position",
        "records",
        "seen",
        "seen_at",
        "since",
        "told",
        "unbuffered",
    )

    def __init__(self, worker: WorkerId, computation: Computation) -> None:
        self.id = worker
        self.computation = computation
        self.records: deque[Record] = deque()
        """The record it runs and at most one more."""
        self.position = 0
        """Where it was at the last tick."""
        self.moved: Seconds = 0.0
        """When it was first seen there."""
        self.since: Seconds = 0.0
        """Until when the CPU that it uses has been accounted for."""
        self.told = 0
        """Position of the last job told as started."""
        self.cut = 0
        """Position before which it will stop, 0: none."""
        self.interrupted = 0
        """Position of the job that was interrupted, 0: none."""
        self.kept = 0
        """Record that could not be recalled, because the worker has it, 0: none."""
        self.owed = 0
        """Jobs that the scheduler wants back of those that are being recalled."""
        self.deadline: Seconds = 0.0
        """When an interrupted job is killed."""
        self.is_killed = False
        self.seen_at = 0
        """Position of the job whose output was told last, 0: none."""
        self.seen = (0, 0)
        """How much of its stdout and stderr was told (bytes)."""
        self.unbuffered = 0
        """Position of the last job that was made to print without a buffer."""


class State:
    """Everything a node knows about its work."""

    def __init__(self, cpus: int, lease_s: Seconds, silence_s: Seconds) -> None:
        self.cpus = cpus
        self.is_draining = False
        """No new job is taken, and the node leaves when it has none."""
        self.lease_s = lease_s
        self.silence_s = silence_s
        self.clients: dict[ClientId, Client] = {}
        self.computations: dict[Key, Computation] = {}
        self.workers: dict[WorkerId, Worker] = {}
        self.busy = 0
        """Workers with at least one record: never more than ``cpus``, unless those were lowered."""
        self.level = 0.0
        """Where a client starts that comes to the others: what the last one served had had."""
        self.exclusive: list[Computation] = []
        """Those that want the node for themselves, in the order in which they came; the first has its turn."""
        self.has_node = False
        """Whether the first of them has it: what others ran has ended."""
        self.is_restricted = False
        """Whether there is a computation that may not start any job now."""
        self.share_at: Seconds = -1e9
        """When shares were last looked at."""
        self.watched: dict[Key, Computation] = {}
        """Those of whose jobs some are watched, or all."""
        self.look_at: Seconds = 0.0
        """When to look at those again."""
        self.is_flushing = False
        """Whether a ``Flush`` is on its way."""
        self.next_worker = 1
        self.next_record = 1
