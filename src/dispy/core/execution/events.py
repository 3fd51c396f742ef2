"""Events that the execution core is told: what clients, hosts, workers, the disk and the clock say."""

from __future__ import annotations

from msgspec import Struct

from dispy.core.execution.ids import ClientId, Key, Seconds, WorkerId
from dispy.protocol.node import (
    Ended,
    FilePart,
    HeldJobs,
    JobsEnded,
    ToNode,
)


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
