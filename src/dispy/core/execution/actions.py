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
    """Fetch the files that a job brings from its client, to be put into the working directory when the job starts.

    Answered by ``JobFilesReady``, unless ``UnstageJobs`` or ``StopHost`` comes first.
    """

    key: Key
    number: int
    attempt: int
    files: list[FileEntry]


class UnstageJobs(Struct):
    """Stop fetching the files of jobs (by number) that were cancelled, ended or given back before their files
    arrived; not answered."""

    key: Key
    numbers: list[int]


class StopHost(Struct):
    """End the host of a computation and all its workers, or stop fetching its files; not answered.

    The core has forgotten the computation or gives back its jobs: results of jobs that still run are dropped.
    """

    key: Key


class ForkWorker(Struct):
    """Have the host of a computation fork a worker. Records may be offered to the worker before it has started.

    If the fork fails, ``WorkerExited`` follows.
    """

    key: Key
    worker: WorkerId


class Offer(Struct):
    """Send a record to a worker, which takes the record and runs its jobs when it has finished the record before."""

    worker: WorkerId
    record: Record


class Recall(Struct):
    """Take back the records that a worker has not taken yet, so that their jobs can run elsewhere.

    Answered by ``Recalled``. Records that the worker has taken stay with it.
    """

    worker: WorkerId


class Cut(Struct):
    """Have a worker end its record before the job at ``position``; if it is past that job, before its next job.

    Not answered. The jobs that were cut off go back to the queue, one tick later or when ``Ran`` ends the record.
    """

    worker: WorkerId
    position: int


class InterruptWorker(Struct):
    """Raise ``KeyboardInterrupt`` in the cancelled job at ``position`` of a worker, and in no other job.

    The job's end is reported by ``Ran``. If it goes on, ``KillWorker`` follows after the grace time
    (``Compute.grace_s``).
    """

    worker: WorkerId
    position: int


class KillWorker(Struct):
    """Kill a worker, whose cancelled job has ignored the interrupt, and all processes that the worker started.

    ``WorkerExited`` follows.
    """

    worker: WorkerId


class EndWorker(Struct):
    """Have a worker end that has no record and is not needed; if it has called ``setup``, it calls ``cleanup`` first.

    ``WorkerExited`` follows.
    """

    worker: WorkerId


class Pass(Struct):
    """Tell a worker that a provisional result of its job has arrived at the client, or was not delivered.

    The job waits for this in ``dispy_provisional_result`` (returns 0, or -1 if not delivered) or
    ``dispy_send_file``, which sends a part of a file again unless the client has refused it.
    """

    worker: WorkerId
    message: SentAcknowledged


class FlushSoon(Struct):
    """Send the event ``Flush`` to the core after ``after`` seconds: results wait until then, so that several share
    one message to a client."""

    after: Seconds


class Place(Struct):
    """Where ``Look`` reads the new output of a running job: the job's worker and position, and the byte offsets in
    its stdout and stderr from which on the client was not told the output yet."""

    worker: WorkerId
    position: int
    stdout_at: int
    stderr_at: int


class Look(Struct):
    """Read what running jobs of a computation have printed since the offsets in ``places``; answered by ``Looked``.

    At most ``size_max`` bytes are read, of all jobs together. Further output is read by a later ``Look``, or its
    oldest bytes are skipped if a job prints faster than they are read.
    """

    key: Key
    places: list[Place]
    size_max: int


class Unbuffer(Struct):
    """Have the job at ``position`` of a worker, and no other, print without Python's buffer, so that a client that
    watches the job sees its output at once."""

    worker: WorkerId
    position: int


class Store(Struct):
    """Write a batch of results to disk, as the client that they are for (of this ``name``) is dead or the node stops.

    Answered by ``Stored`` once the batch is on disk. While it cannot be written the results stay in memory.
    """

    client: ClientId
    name: str
    batch: JobsEnded


class NoteOpen(Struct):
    """Write to disk which jobs of a client would be lost with this node, in place of an earlier list.

    The next incarnation of the node reads it, to tell the client which jobs were lost.

    Attributes:
        client: Identity of the client.
        name: Name of the client, for texts that people read.
        open: The list, an item for the attempts of one computation: jobs that have not ended, jobs whose results are
            not on disk, and jobs that were lost with an earlier incarnation.
        next_batch: Number of the client's next batch of results, with which the next incarnation goes on counting.
    """

    client: ClientId
    name: str
    open: list[HeldJobs]
    next_batch: int


class DropNote(Struct):
    """Delete the list of open jobs that ``NoteOpen`` has written to disk for a client, if there is one.

    The client is back, so its jobs go on changing. If the node died now, the next incarnation would read the old list
    and tell the client that jobs were lost which have ended.
    """

    client: ClientId


class TellStored(Struct):
    """Read a batch of results from disk and send it to its client; dropped if the client is not connected.

    ``batch`` has the numbers, attempts, status and times of its jobs, but not the values, which are on disk.
    """

    client: ClientId
    batch: JobsEnded


class Erase(Struct):
    """Delete batches of results of a client from disk, by number: the client has them, or has left for good.

    ``gone`` True: the client is forgotten; delete all its batches, and the list that ``NoteOpen`` wrote.
    """

    client: ClientId
    batches: list[int]
    gone: bool = False


class Drained(Struct):
    """End the node process, as draining is done: no job is open and no living client waits for a result. May be
    issued at more than one event."""


class Release(Struct):
    """Delete segments (files in which large arguments or results of jobs lie on this node) of a computation, by
    number: no worker and no client will read them any more."""

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
    | EndWorker
    | Pass
    | Look
    | Unbuffer
    | Drained
)
Outbox = list[Action]
"""Actions in the order in which the shell does them; handlers append to it."""
