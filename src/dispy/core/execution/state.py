"""The state of a node's execution core, the events it is told and the actions it asks for."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import NamedTuple, NewType

from msgspec import Struct

from dispy.core.run_times import RunTimes
from dispy.protocol.files import FileEntry
from dispy.protocol.node import (
    Compute,
    Ended,
    FilePart,
    FromNode,
    HeldJobs,
    Job,
    JobsEnded,
    JobsPrinted,
    ToNode,
)
from dispy.protocol.worker import Record, SentAcknowledged

ClientId = NewType("ClientId", bytes)
Key = tuple[ClientId, int]
"""A computation: its client, and its number there."""
WorkerId = NewType("WorkerId", int)
Seconds = float

# Events.


class ClientAttached(Struct):
    """A client has (re)connected; it has all batches of results up to ``received``."""

    client: ClientId
    name: str
    received: int


class ClientSilent(Struct):
    """The connection to a client is gone; it may come back. It was last heard ``since_s`` seconds ago."""

    client: ClientId
    since_s: Seconds = 0.0


class FromClient(Struct):
    """A client said something."""

    client: ClientId
    message: ToNode


class HostReady(Struct):
    """A computation is loaded; ``warning`` says what of it is not as in the program, if anything."""

    key: Key
    warning: str = ""


class FilesReady(Struct):
    """The files of a computation lie where they belong."""

    key: Key
    life: int


class FilesFailed(Struct):
    """They will not, and why."""

    key: Key
    life: int
    reason: str


class JobFilesReady(Struct):
    """The files of a job are here; with a reason they are not, and will not be."""

    key: Key
    number: int
    attempt: int
    reason: str = ""


class Ran(Struct):
    """A worker reports results: ``executed`` jobs of ``record`` so far."""

    worker: WorkerId
    record: int
    executed: int
    is_last: bool
    is_retiring: bool
    ended: list[Ended]


class ValueSent(Struct):
    """A running job sent a provisional result."""

    worker: WorkerId
    number: int
    attempt: int
    serial: int
    payload: bytes
    stream: int
    file: FilePart | None = None


class Recalled(Struct):
    """Answer to ``Recall``: these records had not been taken and are ours again."""

    worker: WorkerId
    records: list[int]


class WorkerExited(Struct):
    """A worker is gone, its last results have been told; ``untaken`` records were still unread."""

    worker: WorkerId
    reason: str
    position: int
    start: float
    end: float
    untaken: list[int]


class HostFailed(Struct):
    """A computation could not be loaded, or its host has died; ``exits``: the ends of its workers.

    ``has_died``: by itself, or it could not be started; another one may do better.
    """

    key: Key
    reason: str
    exits: list[WorkerExited] = []
    has_died: bool = False


class JobRefused(Struct):
    """A job that arrived cannot be held here."""

    key: Key
    number: int
    attempt: int
    reason: str


class ShortOfRoom(Struct):
    """Large data of a computation finds no room here for now, or does again.

    Attributes:
        key: The computation.
        reason: What is full; empty if there is room.
        returned: A job that arrived with such data (number and attempt), and waits where it came from.
    """

    key: Key
    reason: str
    returned: tuple[int, int] | None = None


class Tick(Struct):
    """Time passes. ``positions``: where each busy worker is, and since when (epoch)."""

    positions: dict[WorkerId, tuple[int, float]]


class Flush(Struct):
    """Answer to ``FlushSoon``, a moment later."""


class WorkerDying(Struct):
    """A worker is dead, at ``position``; what its job printed can still be read. ``WorkerExited`` follows."""

    worker: WorkerId
    position: int


class Glimpse(Struct):
    """New output of the job at ``position`` of a worker: where it lies in all that the job printed, and what."""

    worker: WorkerId
    position: int
    stdout_at: int
    stdout: bytes
    stderr_at: int
    stderr: bytes


class Looked(Struct):
    """Answer to ``Look``; workers that have moved on are missing."""

    key: Key
    glimpses: list[Glimpse]


class Stored(Struct):
    """These batches of results of a client are on disk, whole."""

    client: ClientId
    batches: list[int]


class Restored(Struct):
    """What an earlier incarnation of the node kept for a client has been found on disk.

    ``batches`` name the results; what those are is on disk. ``next_batch`` was to be the number of the next
    one. ``lost`` were open when the node ended; with ``has_gaps`` that is not known. ``before`` are the
    incarnations.
    """

    client: ClientId
    name: str
    batches: list[JobsEnded]
    next_batch: int
    lost: list[HeldJobs]
    before: list[bytes]
    has_gaps: bool = False


class Stopping(Struct):
    """The node ends, its workers have ended: what clients have not got is all that there will be.

    Those who are ``gone`` have said farewell.
    """

    gone: list[ClientId] = []


class CpusChanged(Struct):
    """The node offers another number of CPUs."""

    cpus: int


class Drain(Struct):
    """The node is to take no new jobs, and to leave when it has none; answered by ``Drained``."""


Event = (
    ClientAttached
    | ClientSilent
    | FromClient
    | HostReady
    | HostFailed
    | FilesReady
    | FilesFailed
    | JobFilesReady
    | Ran
    | ValueSent
    | Recalled
    | JobRefused
    | ShortOfRoom
    | WorkerExited
    | Tick
    | Flush
    | WorkerDying
    | Looked
    | Stored
    | Restored
    | Stopping
    | CpusChanged
    | Drain
)

# Actions.


class Tell(Struct):
    """Send a message to a client, if it is connected."""

    client: ClientId
    message: FromNode


class StartHost(Struct):
    """Load a computation in a host, after a while; answered by ``HostReady`` or ``HostFailed``."""

    key: Key
    compute: Compute
    delay_s: Seconds = 0.0


class StageFiles(Struct):
    """Get the files of a computation and put them into its working directory; answered by ``FilesReady`` or
    ``FilesFailed``, unless ``StopHost`` ends that."""

    key: Key
    compute: Compute


class StageJob(Struct):
    """Get the files of a job, so that they can be put there when it starts; answered by ``JobFilesReady``."""

    key: Key
    number: int
    attempt: int
    files: list[FileEntry]


class UnstageJobs(Struct):
    """Give up the files of jobs that have left before these were here; not answered."""

    key: Key
    numbers: list[int]


class StopHost(Struct):
    """End a host and all its workers, or what was to be there before it starts; not answered."""

    key: Key


class ForkWorker(Struct):
    """Start a worker. Records may be offered to it at once."""

    key: Key
    worker: WorkerId


class Offer(Struct):
    """Put a record where its worker finds it."""

    worker: WorkerId
    record: Record


class Recall(Struct):
    """Take back what a worker has not taken yet; answered by ``Recalled``."""

    worker: WorkerId


class Cut(Struct):
    """Let a worker stop before ``position``."""

    worker: WorkerId
    position: int


class InterruptWorker(Struct):
    """Raise KeyboardInterrupt in the job at ``position``, and in no other."""

    worker: WorkerId
    position: int


class KillWorker(Struct):
    """End a worker with all it started; ``WorkerExited`` follows."""

    worker: WorkerId


class Pass(Struct):
    """Tell a worker that its provisional result has arrived."""

    worker: WorkerId
    message: SentAcknowledged


class FlushSoon(Struct):
    """Come back with ``Flush`` after so many seconds: results are waiting for company."""

    after: Seconds


class Place(Struct):
    """A job whose output is wanted, and up to where it was told."""

    worker: WorkerId
    position: int
    stdout_at: int
    stderr_at: int


class Look(Struct):
    """Read what these jobs have printed, not more than ``size_max`` bytes of all; answered by ``Looked``."""

    key: Key
    places: list[Place]
    size_max: int


class Unbuffer(Struct):
    """Have the job at ``position``, and no other, print without a buffer from now on."""

    worker: WorkerId
    position: int


class Store(Struct):
    """Write a batch of results of a client that is away to disk; answered by ``Stored``, if that succeeds."""

    client: ClientId
    name: str
    batch: JobsEnded


class NoteOpen(Struct):
    """Write down what of a client that is away has not ended; ``next_batch``: number of its next batch."""

    client: ClientId
    name: str
    open: list[HeldJobs]
    next_batch: int


class DropNote(Struct):
    """What was noted of a client as open is not true any more."""

    client: ClientId


class TellStored(Struct):
    """Send a batch that is on disk, if its client is connected."""

    client: ClientId
    batch: JobsEnded


class Erase(Struct):
    """These batches on disk are not needed any more; of a client that is ``gone``, nothing is."""

    client: ClientId
    batches: list[int]
    gone: bool = False


class Drained(Struct):
    """Nothing is left to be waited for: the node can leave."""


class Release(Struct):
    """These segments of a computation are not needed any more."""

    key: Key
    segments: list[int]


Action = (
    Store
    | NoteOpen
    | DropNote
    | TellStored
    | Erase
    | Release
    | FlushSoon
    | Tell
    | StartHost
    | StageFiles
    | StageJob
    | UnstageJobs
    | StopHost
    | ForkWorker
    | Offer
    | Recall
    | Cut
    | InterruptWorker
    | KillWorker
    | Pass
    | Look
    | Unbuffer
    | Drained
)
Outbox = list[Action]

# State.

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
