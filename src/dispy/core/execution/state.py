"""The state of a node's execution core: clients, their computations, and the workers of these.

A job that has not ended is in ``Computation.open``, and in exactly one other place: in ``ready``, in ``staging``, or
in one record of one worker. A worker without a record is in ``Computation.idle`` unless it is being killed, one with
one record in ``single``; none has more than two.
"""

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
"""Value of ``Computation.credit`` before the client was told any: differs from every credit, zero included."""

RECORD_US = 4000
"""Expected run time of the jobs put together into one record (microseconds), if they are known to be short: the time
that one of them may wait behind the others, and forty times what a packet costs in all."""

UNLIMITED = 1 << 31
"""Value of ``Client.cpus_max`` if the client has set no limit."""


class Status(Enum):
    """Status of a computation on this node. The table of its changes is in ``computations``."""

    LOADING = "loading"
    """The files are fetched, or the host is started or started again: no worker starts."""
    READY = "ready"
    """The host has loaded the computation: workers run its jobs."""


class Client:
    """A scheduler that uses this node, over all its connections. The table of its states is in ``clients``."""

    __slots__ = (
        "active_at", "batches", "before", "busy", "cpus_max", "has_gaps", "id", "is_connected", "is_dead",
        "is_recovering", "level", "lost", "name", "next_batch", "silent_since", "stored", "vtime", "was_away",
    )  # fmt: skip

    def __init__(self, client: ClientId, name: str) -> None:
        self.id = client
        self.name = name
        self.is_connected = True
        """True while a connection to the client stands."""
        self.silent_since: Seconds = 0.0
        """Time when the client was last heard (seconds, monotonic); only valid while it is not connected."""
        self.is_dead = False
        """True if the client has been silent for longer than ``State.silence_s``: it has no share any more, and its
        results go to disk. It may still come back."""
        self.cpus_max = UNLIMITED
        """Largest number of jobs that the client wants to run here at once."""
        self.busy = 0
        """CPUs in use for the client: workers of its computations with at least one record."""
        self.vtime = 0.0
        """Virtual time of the client in the fair queue: CPU seconds of all its computations together."""
        self.level = 0.0
        """Virtual time at which a computation of this client starts that had no jobs before."""
        self.active_at: Seconds = -1e9
        """Time when the client was last seen with jobs here (seconds, monotonic)."""
        self.next_batch = 1
        """Number of the next batch of results."""
        self.batches: deque[JobsEnded] = deque()
        """Results not yet acknowledged, oldest first. Batches on disk name the attempts here, without the values."""
        self.stored: set[int] = set()
        """Numbers of batches in ``batches`` that are on disk."""
        self.was_away = False
        """True if the list of jobs that were open when the client went away may be on disk."""
        self.is_recovering = False
        """True if the connection is that of a recovery, which fetches the results of the client, a dead program."""
        self.lost: list[HeldJobs] = []
        """Jobs that were open when an earlier incarnation of the node ended, and ended with it."""
        self.has_gaps = False
        """True if that incarnation did not write down what was open, so that ``lost`` is not complete."""
        self.before: list[bytes] = []
        """Earlier incarnations of the node whose results for the client are here."""


class Grant(NamedTuple):
    """Fair share of a computation on this node, from which its credit is made.

    Attributes:
        slots: Number of its jobs that would start at once.
        share: Number of its jobs that should be here to use its share: those above ``slots`` wait for jobs of others.
        reason: Reason why that is less than the node has, in words; empty if it is not.
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
        """Jobs that wait for a CPU, in the order in which they are to start."""
        self.open: dict[int, Job] = {}
        """All jobs that have not ended, by number."""
        self.workers: dict[WorkerId, Worker] = {}
        """All workers of the computation, also those that are being killed."""
        self.idle: dict[WorkerId, Worker] = {}
        """Workers without a record that are not being killed."""
        self.single: dict[WorkerId, Worker] = {}
        """Workers with exactly one record, so that nothing follows the job that they run now."""
        self.cancelling: set[tuple[int, int]] = set()
        """Attempts (number, attempt) in records that are not wanted any more: cancelled by the client and still open,
        or obsolete and no longer open. A subset of the attempts in records."""
        self.sending: dict[tuple[int, int], tuple[Worker, int]] = {}
        """Provisional results without acknowledgement, for which a job waits: worker and serial number, by number and
        attempt of the job. Each attempt has at most one."""
        self.untold: list[Ended] = []
        """Results that wait to be sent together with others, at most ``workers.LONG_WAIT_S``; see ``workers``."""
        self.runtimes = RunTimes()
        """Run times of its jobs."""
        self.sampled = 0
        """Number of results so far. Records and backlog of short jobs grow with this evidence."""
        self.finished = 0
        """Number of jobs that returned a value."""
        self.busy = 0
        """CPUs in use for the computation: its workers with at least one record."""
        self.is_held_off = False
        """True if no job may start: another computation has or awaits the node exclusively, or the node
        drains and its client is not dead."""
        self.shortage = ""
        """Reason why large data of the computation finds no room, in words; empty if it does."""
        self.grant = Grant(0, 0, "")
        """Fair share of the computation as of the last ``share_out``."""
        self.credit = UNTOLD
        """Slots, backlog and reason as the client was last told, or ``UNTOLD``."""
        self.crashes = 0
        """Deaths of its host in a row. Reset when a job ends."""
        self.stillborn = 0
        """Workers in a row that ended before they began a job. Reset when a job ends."""
        self.vtime = 0.0
        """Virtual time in the fair queue of its client: CPU seconds, level with the client's other computations."""
        self.staging: dict[int, Job] = {}
        """Jobs that wait for their files, by number."""
        self.filed: set[int] = set()
        """Numbers of jobs that bring files; each is alone in its record. Some may have ended."""
        self.watched: set[int] = set()
        """Numbers of jobs whose output is wanted while they run. Some may have ended."""
        self.unseen: deque[JobsPrinted] = deque()
        """Messages with output of watched jobs that are not acknowledged, oldest first."""


class Worker:
    """A process that runs jobs of one computation. The table of its records is in ``workers``.

    A *position* is a job in a record, as one number that grows over the life of the worker
    (``protocol.worker.claim``); 0: no job yet.
    """

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
        """The record that the worker runs, and at most one more. The worker uses a CPU while there is one."""
        self.position = 0
        """Position of the worker at the last tick."""
        self.moved: Seconds = 0.0
        """Time when the worker was first seen at this position, or was given a record when it had none."""
        self.since: Seconds = 0.0
        """Time up to which the CPU that the worker uses has been charged to its computation."""
        self.told = 0
        """Position of the last job that was told as started, 0: none, or tell it again."""
        self.cut = 0
        """Position before which the worker will stop, 0: none."""
        self.interrupted = 0
        """Position of the job that was interrupted, 0: none."""
        self.kept = 0
        """Number of the record that could not be recalled because the worker has taken it, 0: none."""
        self.owed = 0
        """Number of jobs that the scheduler wants back when the record behind the running one has been recalled."""
        self.deadline: Seconds = 0.0
        """Time after which the worker of an interrupted job is killed (seconds, monotonic)."""
        self.is_killed = False
        """True if the worker is being killed or retires by itself: it gets no further record."""
        self.seen_at = 0
        """Position of the job whose output was told last, 0: none."""
        self.seen = (0, 0)
        """Bytes of the stdout and of the stderr of that job that were told."""
        self.unbuffered = 0
        """Position of the last job that was made to print without a buffer, 0: none."""


class State:
    """All that a node knows of its work."""

    def __init__(self, cpus: int, lease_s: Seconds, silence_s: Seconds) -> None:
        self.cpus = cpus
        """Number of CPUs that the node offers now."""
        self.is_draining = False
        """True if the node takes no new jobs, and leaves when it has none."""
        self.lease_s = lease_s
        """Time that jobs and results of a silent client are kept (seconds)."""
        self.silence_s = silence_s
        """Time after which a silent client counts as dead (seconds)."""
        self.clients: dict[ClientId, Client] = {}
        """Clients of which the node has something, connected or not."""
        self.computations: dict[Key, Computation] = {}
        """Computations that were not closed or given up. The client of each is in ``clients``."""
        self.workers: dict[WorkerId, Worker] = {}
        """The workers of all computations."""
        self.busy = 0
        """Number of workers with at least one record. Exceeds ``cpus`` only after these were lowered."""
        self.level = 0.0
        """Virtual time at which a client starts that had no jobs before: that of the client served last."""
        self.exclusive: list[Computation] = []
        """Computations that want the node exclusively, in the order in which they came; the first has its turn."""
        self.has_node = False
        """True if the first of ``exclusive`` has the node: the jobs that others ran have ended. Then no other
        computation is busy."""
        self.is_restricted = False
        """True if there may be a computation that may not start any job now; set by ``restrict``."""
        self.share_at: Seconds = -1e9
        """Time when ``share_out`` was last done (seconds, monotonic)."""
        self.watched: dict[Key, Computation] = {}
        """Computations with watched jobs, or whose jobs are all watched."""
        self.look_at: Seconds = 0.0
        """Time of the next look at their output (seconds, monotonic)."""
        self.is_flushing = False
        """True if a ``Flush`` is on its way."""
        self.next_worker = 1
        """Number of the next worker."""
        self.next_record = 1
        """Number of the next record."""
