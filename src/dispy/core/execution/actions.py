"""Actions of the execution core, which its shell carries out."""

from __future__ import annotations

from msgspec import Struct

from dispy.core.execution.ids import ClientId, Key, Seconds, WorkerId
from dispy.protocol.files import FileEntry
from dispy.protocol.node import (
    Compute,
    FromNode,
    HeldJobs,
    JobsEnded,
)
from dispy.protocol.worker import Record, SentAcknowledged


class Tell(Struct):
    """Send a message to a client, if it is connected."""

    client: ClientId
    message: FromNode


class StartHost(Struct):
    """Load a computation in a new host, after ``delay_s``; answered by ``HostReady`` or ``HostFailed``."""

    key: Key
    compute: Compute
    delay_s: Seconds = 0.0


class StageFiles(Struct):
    """Fetch the files of a computation into its working directory; answered by ``FilesReady`` or ``FilesFailed``,
    unless ``StopHost`` comes first."""

    key: Key
    compute: Compute


class StageJob(Struct):
    """Fetch the files of a job, to be put in place when it starts; answered by ``JobFilesReady``."""

    key: Key
    number: int
    attempt: int
    files: list[FileEntry]


class UnstageJobs(Struct):
    """Stop fetching the files of jobs that have left before their files arrived; not answered."""

    key: Key
    numbers: list[int]


class StopHost(Struct):
    """End a host and all its workers, or stop fetching its files; not answered."""

    key: Key


class ForkWorker(Struct):
    """Have the host fork a worker. Records may be offered to it at once."""

    key: Key
    worker: WorkerId


class Offer(Struct):
    """Send a record to a worker, which takes it when it has finished the one before."""

    worker: WorkerId
    record: Record


class Recall(Struct):
    """Take back the records that a worker has not taken yet; answered by ``Recalled``."""

    worker: WorkerId


class Cut(Struct):
    """Have a worker stop before ``position``, unless it is past it."""

    worker: WorkerId
    position: int


class InterruptWorker(Struct):
    """Raise ``KeyboardInterrupt`` in the job at ``position`` of a worker, and in no other."""

    worker: WorkerId
    position: int


class KillWorker(Struct):
    """Kill a worker and all processes that it started; ``WorkerExited`` follows."""

    worker: WorkerId


class Pass(Struct):
    """Tell a worker that a provisional result of its job has arrived, or was not delivered: the job goes on."""

    worker: WorkerId
    message: SentAcknowledged


class FlushSoon(Struct):
    """Send the event ``Flush`` after ``after`` seconds: results wait to be sent together with others."""

    after: Seconds


class Place(Struct):
    """A job whose output is wanted, and the bytes of its stdout and stderr that were told already."""

    worker: WorkerId
    position: int
    stdout_at: int
    stderr_at: int


class Look(Struct):
    """Read the new output of jobs, at most ``size_max`` bytes of all together; answered by ``Looked``."""

    key: Key
    places: list[Place]
    size_max: int


class Unbuffer(Struct):
    """Have the job at ``position`` of a worker, and no other, print without a buffer from now on."""

    worker: WorkerId
    position: int


class Store(Struct):
    """Write a batch of results of a client that is away to disk; answered by ``Stored`` if that succeeds."""

    client: ClientId
    name: str
    batch: JobsEnded


class NoteOpen(Struct):
    """Write the list of open jobs of a client that is away to disk. ``next_batch``: number of its next batch."""

    client: ClientId
    name: str
    open: list[HeldJobs]
    next_batch: int


class DropNote(Struct):
    """Delete the list that ``NoteOpen`` has written for a client: it is not true any more."""

    client: ClientId


class TellStored(Struct):
    """Send a batch of results that is on disk, if its client is connected."""

    client: ClientId
    batch: JobsEnded


class Erase(Struct):
    """Delete batches of a client from disk, by number; with ``gone`` all that is there of the client."""

    client: ClientId
    batches: list[int]
    gone: bool = False


class Drained(Struct):
    """Draining is done: the node has nothing that anyone waits for, and can leave."""


class Release(Struct):
    """Delete segments (files with large arguments or results) of a computation, by number."""

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
"""Actions in the order in which the shell does them; handlers append to it."""
