"""Actions of the execution core, which its shell carries out.

In all of them ``client`` is the identity of a client, ``key`` names a computation, and ``worker`` is the number of a
worker. A *record* is a batch of jobs for a worker. A *position* names one job in one record, as one number
(``protocol.worker.claim``), so that an action that comes late does not hit the next job.
"""

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
    """Send a message to a client. Dropped if the client is not connected.

    After a reconnect the core sends again what the client needs: results, output, running jobs and credit.
    """

    client: ClientId
    message: FromNode


class StartHost(Struct):
    """Load a computation in a new host process, ``delay_s`` seconds from now (above 0 only after a crash).

    Answered by ``HostReady`` or ``HostFailed``, unless ``StopHost`` comes first.
    """

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
    """Stop fetching the files of jobs (by number) that have left before their files arrived; not answered."""

    key: Key
    numbers: list[int]


class StopHost(Struct):
    """End the host of a computation and all its workers, or stop fetching its files; not answered.

    The core has forgotten the computation or gives back its jobs: no result of those that run is told.
    """

    key: Key


class ForkWorker(Struct):
    """Have the host of a computation fork a worker. Records may be offered to it at once.

    If that fails, ``WorkerExited`` follows.
    """

    key: Key
    worker: WorkerId


class Offer(Struct):
    """Send a record to a worker, which takes it when it has finished the one before."""

    worker: WorkerId
    record: Record


class Recall(Struct):
    """Take back the records that a worker has not taken yet, so that their jobs can run elsewhere.

    Answered by ``Recalled``. Records that the worker has taken stay with it.
    """

    worker: WorkerId


class Cut(Struct):
    """Have a worker end its record before the job at ``position``; if it is past that, before its next job.

    Not answered. The core queues the jobs that were cut off again, one tick later or when ``Ran`` ends the record.
    """

    worker: WorkerId
    position: int


class InterruptWorker(Struct):
    """Raise ``KeyboardInterrupt`` in the cancelled job at ``position`` of a worker, and in no other job.

    Its end is reported by ``Ran``. If it goes on, ``KillWorker`` follows after the grace time (``Compute.grace_s``).
    """

    worker: WorkerId
    position: int


class KillWorker(Struct):
    """Kill a worker, whose cancelled job has ignored the interrupt, and all processes that it started.

    ``WorkerExited`` follows.
    """

    worker: WorkerId


class Pass(Struct):
    """Tell a worker that a provisional result of its job has arrived at the client, or was not delivered.

    The job waits for this and goes on; if it was not delivered, the call in the job says so.
    """

    worker: WorkerId
    message: SentAcknowledged


class FlushSoon(Struct):
    """Send the event ``Flush`` after ``after`` seconds: results wait to be sent together with others."""

    after: Seconds


class Place(Struct):
    """Where to read the new output of a job: its worker and position, and the bytes of its stdout and stderr that the
    client was told already."""

    worker: WorkerId
    position: int
    stdout_at: int
    stderr_at: int


class Look(Struct):
    """Read what jobs of a computation have newly printed; answered by ``Looked``.

    At most ``size_max`` bytes are read, of all jobs together; the rest is read by a later ``Look``, or skipped if a
    job prints faster than that.
    """

    key: Key
    places: list[Place]
    size_max: int


class Unbuffer(Struct):
    """Have the job at ``position`` of a worker, and no other, print without a buffer, as a client watches it."""

    worker: WorkerId
    position: int


class Store(Struct):
    """Write a batch of results to disk, as its client (of this ``name``) is away or the node stops.

    Answered by ``Stored`` once it is on disk. While it cannot be written the results stay in memory.
    """

    client: ClientId
    name: str
    batch: JobsEnded


class NoteOpen(Struct):
    """Write to disk which jobs of a client would be lost with this node, in place of an earlier list.

    The next incarnation of the node reads it, to tell the client which jobs were lost.

    Attributes:
        client: The client.
        name: Its name.
        open: Attempts by computation: jobs that have not ended, jobs whose results are not on disk, and jobs that
            were lost with an earlier incarnation.
        next_batch: Number of its next batch of results, with which the next incarnation goes on.
    """

    client: ClientId
    name: str
    open: list[HeldJobs]
    next_batch: int


class DropNote(Struct):
    """Delete the list of open jobs that ``NoteOpen`` has written for a client.

    The client is back, so its jobs change: the next incarnation would call jobs lost that have ended.
    """

    client: ClientId


class TellStored(Struct):
    """Read a batch of results from disk and send it, if its client is connected.

    ``batch`` has the names, status and times of its jobs, but not the values, which are on disk.
    """

    client: ClientId
    batch: JobsEnded


class Erase(Struct):
    """Delete batches of results of a client from disk, by number: the client has them.

    ``gone`` True: the client is forgotten; delete all its batches, and the list that ``NoteOpen`` wrote.
    """

    client: ClientId
    batches: list[int]
    gone: bool = False


class Drained(Struct):
    """End the node, as draining is done: no job runs and no living client waits for a result."""


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
