"""Actions that the execution core asks its shell for."""

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
