"""Events of the execution core: messages of clients, hosts and workers, answers to actions, and the clock.

In all of them ``client`` is the identity of a client, ``key`` names a computation, and ``worker`` is the number of a
worker. A *record* is a batch of jobs for a worker. A *position* names one job in one record, as one number
(``protocol.worker.claim``). Unless said otherwise, events about clients, computations or workers that are not known
any more are ignored.
"""

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
    """A client has connected, or connected again; it has all batches of results up to number ``received``, and is
    sent the later ones again."""

    client: ClientId
    name: str
    received: int


class ClientSilent(Struct):
    """The connection to a client broke; the client was last heard ``since_s`` seconds ago, from where its silence
    limit and lease count. Its jobs go on."""

    client: ClientId
    since_s: Seconds = 0.0


class FromClient(Struct):
    """A message of a client about its jobs, computations or itself. Ignored if the client is not attached."""

    client: ClientId
    message: ToNode


class HostReady(Struct):
    """Answer to ``StartHost``: the computation is loaded, and workers can be forked.

    ``warning`` says in words which parts of the code differ here from the program's; empty if there are none.
    """

    key: Key
    warning: str = ""


class FilesReady(Struct):
    """Answer to ``StageFiles``: the files of a computation are in its working directory, so its host can be started.

    ``life`` is the computation's generation (``Compute.life``): an answer about an earlier generation is ignored.
    """

    key: Key
    life: int


class FilesFailed(Struct):
    """Answer to ``StageFiles``: the files of a computation (of generation ``life``) cannot be fetched or put in
    place.

    ``reason`` says why in words; the computation is given up.
    """

    key: Key
    life: int
    reason: str


class JobFilesReady(Struct):
    """Answer to ``StageJob``: the files of a job are on this node, so that the job may start.

    With a ``reason`` (in words) the files cannot be had, and the job ends as ``TERMINATED``.
    """

    key: Key
    number: int
    attempt: int
    reason: str = ""


class Ran(Struct):
    """A worker reports results of jobs that it has run.

    Attributes:
        worker: Number of the worker.
        record: Number of the record that the worker runs; 0 if the results were read while a long job runs.
        executed: Number of jobs of the record that the worker has run so far, from the first one on; if ``is_last``
            the jobs behind them were cut off, and are queued again.
        is_last: True if the worker has finished with the record, and can have another one.
        is_retiring: True if the worker ends now by itself: it gets no further record.
        ended: Results of jobs, oldest first; some may have been reported before, and are ignored then.
    """

    worker: WorkerId
    record: int
    executed: int
    is_last: bool
    is_retiring: bool
    ended: list[Ended]


class ValueSent(Struct):
    """A running job sent a provisional result, or a part of a ``file``, and waits for ``Pass``.

    Attributes:
        worker: Number of the worker that runs the job.
        number: Number of the job.
        attempt: Attempt of the job, from 0.
        serial: Number of the value or part within the attempt; the acknowledgement repeats it, so that a late one
            about an earlier value is told apart.
        payload: Pickled value, or the bytes of a part of a file; empty if these are in a segment.
        stream: Number of the segment (file on this node) with a large value or part; 0: it is in ``payload``.
        file: Which part of which file is sent; None: a provisional result is sent.
    """

    worker: WorkerId
    number: int
    attempt: int
    serial: int
    payload: bytes
    stream: int
    file: FilePart | None = None


class Recalled(Struct):
    """Answer to ``Recall``: numbers of the records that the worker had not taken, and will not run.

    Records that are not named were taken, so they stay with the worker.
    """

    worker: WorkerId
    records: list[int]


class WorkerExited(Struct):
    """A worker process has ended, or could not be forked; the results of jobs that it finished were reported before.

    Attributes:
        worker: Number of the worker.
        reason: How the worker ended, in words; told as the reason for which the job that it ran has ended.
        position: Position of the job that the worker was at, or had run last; 0: it had begun no job.
        start: Start of the job at ``position`` (seconds since the epoch).
        end: End of the worker (seconds since the epoch).
        untaken: Numbers of the records that the worker had not taken. Not used: ``position`` tells which jobs it had
            begun.
    """

    worker: WorkerId
    reason: str
    position: int
    start: float
    end: float
    untaken: list[int]


class HostFailed(Struct):
    """A computation could not be loaded, or its host has died with all its workers.

    Attributes:
        key: Name of the computation.
        reason: What happened, in words; told to the client if the computation is given up.
        exits: Ends of the host's workers, one item each; no event ``WorkerExited`` comes for them besides.
        has_died: True if the host died by itself or could not be started: it is restarted, up to three times in a
            row. False if the computation could not be loaded: it is given up.
    """

    key: Key
    reason: str
    exits: list[WorkerExited] = []
    has_died: bool = False


class JobRefused(Struct):
    """A job came to this node, but its large arguments have not arrived or cannot be stored here, now or later. The
    job ends as ``TERMINATED`` with the ``reason`` (in words)."""

    key: Key
    number: int
    attempt: int
    reason: str


class ShortOfRoom(Struct):
    """Large data of a computation finds no room on this node for now, or finds room again.

    Without room the computation has no credit, so that its scheduler sends no jobs.

    Attributes:
        key: Name of the computation.
        reason: What is full, in words; empty if there is room again.
        returned: Number and attempt of a job that arrived with large arguments and found no room for them: it goes
            back to its scheduler. None: no job goes back.
    """

    key: Key
    reason: str
    returned: tuple[int, int] | None = None


class Tick(Struct):
    """The clock has advanced: sent every 10 ms while workers are busy, otherwise once a second.

    Attributes:
        positions: By number of the worker, for all with a record: the position of the job that it is at or had last
            (0: no job yet), and the start of that job (seconds since the epoch).
    """

    positions: dict[WorkerId, tuple[int, float]]


class Flush(Struct):
    """Answer to ``FlushSoon``, after its delay: results that wait to share a message with others are sent now."""


class WorkerDying(Struct):
    """A worker is dead; the last output of the job at ``position`` can still be read, by a ``Look`` among the actions
    that answer this event.

    ``WorkerExited`` or ``HostFailed`` follows, and the output is gone then.
    """

    worker: WorkerId
    position: int


class Glimpse(Struct):
    """New bytes of stdout and stderr of the job at ``position`` of a worker, with their byte offsets (``…_at``) in
    all that the job has printed there. An offset above the one asked for (``Place``): bytes were skipped."""

    worker: WorkerId
    position: int
    stdout_at: int
    stdout: bytes
    stderr_at: int
    stderr: bytes


class Looked(Struct):
    """Answer to ``Look``: what running jobs of a computation have newly printed, in the order of ``Look.places``.
    Jobs that have ended meanwhile are missing, as their results bring their output."""

    key: Key
    glimpses: list[Glimpse]


class Stored(Struct):
    """Answer to ``Store``: numbers of batches of results of a client that are on disk, whole and synced.

    The core deletes the values of these results from memory. Batches that the client has acknowledged meanwhile are
    erased from disk again.
    """

    client: ClientId
    batches: list[int]


class Restored(Struct):
    """Results that an earlier incarnation of the node kept for a client were found on disk.

    Attributes:
        client: Identity of the client.
        name: Name of the client, for texts that people read.
        batches: Batches of results of the client, oldest first, without the values, which are on disk.
        next_batch: Number for the client's next batch of results.
        lost: Attempts that were open when the earlier incarnation ended, and are lost with it; an item for those of
            one computation.
        before: Identities of the earlier incarnations (16 bytes each) that kept something for the client.
        has_gaps: True if the earlier incarnation ended before it could write down which jobs were open: jobs that are
            not in ``lost`` may be lost, too.
    """

    client: ClientId
    name: str
    batches: list[JobsEnded]
    next_batch: int
    lost: list[HeldJobs]
    before: list[bytes]
    has_gaps: bool = False


class Stopping(Struct):
    """The node stops and its workers have ended: no further result comes, so what is unacknowledged goes to disk.

    Attributes:
        gone: Identities of clients that have left for good while the node stopped: they are forgotten, and nothing is
            stored for them.
    """

    gone: list[ClientId] = []


class CpusChanged(Struct):
    """The node offers another number of CPUs from now on. Jobs that run go on; more than 0 CPUs end draining."""

    cpus: int


class Drain(Struct):
    """The node is to take no new jobs, and to end when it has no job left: the core issues ``Drained`` then."""


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
