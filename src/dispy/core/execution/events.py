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
    """A client has connected, or connected again; it has all batches of results up to number ``received``."""

    client: ClientId
    name: str
    received: int


class ClientSilent(Struct):
    """The connection to a client broke; it was last heard ``since_s`` seconds ago. Its jobs go on."""

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
    """Answer to ``StageFiles``: the files of a computation are in its working directory.

    ``life`` is its generation (``Compute.life``): an answer about an earlier one is ignored.
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
    """Answer to ``StageJob``: the files of a job are here, so that it may start.

    With a ``reason`` (in words) they are not, and will not be: the job ends as ``TERMINATED``.
    """

    key: Key
    number: int
    attempt: int
    reason: str = ""


class Ran(Struct):
    """A worker reports results.

    Attributes:
        worker: The worker.
        record: Number of the record that it runs; 0 if the results were read while a long job of it runs.
        executed: Number of jobs of the record that it has run so far; if ``is_last`` the others were cut off, and
            are queued again.
        is_last: True if it has finished with the record, and can have another one.
        is_retiring: True if the worker ends now by itself: it gets no further record.
        ended: The results, oldest first, which may include some that it reported before.
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
        worker: Worker that runs the job.
        number: Number of the job.
        attempt: Its attempt, from 0.
        serial: Number of the value within the attempt, from 1; the acknowledgement repeats it.
        payload: Pickled value, or bytes of the part; empty if it is large.
        stream: Number of the segment with a large value; 0: none.
        file: Which part of which file ``payload`` is; None: it is a value.
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
    """A worker process has ended; all its results were reported before.

    Attributes:
        worker: The worker.
        reason: How it ended, in words; the reason of the job that it ran.
        position: Position of the job that it was at, or had run last; 0: it had begun none.
        start: Start of that job (seconds since the epoch).
        end: End of the worker (seconds since the epoch).
        untaken: Numbers of the records that it had not taken. Not used: ``position`` tells what was begun.
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
        key: The computation.
        reason: What happened, in words.
        exits: The ends of all its workers; no event ``WorkerExited`` comes for them.
        has_died: True if the host died by itself or could not be started: it is restarted, up to three times in a
            row. False if the computation could not be loaded: it is given up.
    """

    key: Key
    reason: str
    exits: list[WorkerExited] = []
    has_died: bool = False


class JobRefused(Struct):
    """A job that arrived cannot be held here, as its arguments cannot be stored. It ends with the ``reason``."""

    key: Key
    number: int
    attempt: int
    reason: str


class ShortOfRoom(Struct):
    """Large data of a computation finds no room on this node for now, or finds room again.

    Without room the computation has no credit, so that its scheduler sends no jobs.

    Attributes:
        key: The computation.
        reason: What is full, in words; empty if there is room.
        returned: Number and attempt of a job that arrived with such data and goes back to its scheduler; None: none.
    """

    key: Key
    reason: str
    returned: tuple[int, int] | None = None


class Tick(Struct):
    """The clock has advanced: sent every 10 ms while workers are busy, otherwise once a second.

    Attributes:
        positions: Position of each worker and start of the job there (seconds since the epoch), by worker.
    """

    positions: dict[WorkerId, tuple[int, float]]


class Flush(Struct):
    """Answer to ``FlushSoon``, after its delay: results that wait for others are sent now."""


class WorkerDying(Struct):
    """A worker is dead; the output of the job at ``position`` can still be read by a ``Look`` that is done at once.

    ``WorkerExited`` follows.
    """

    worker: WorkerId
    position: int


class Glimpse(Struct):
    """New output of the job at ``position`` of a worker: bytes, and their offsets in all that the job printed."""

    worker: WorkerId
    position: int
    stdout_at: int
    stdout: bytes
    stderr_at: int
    stderr: bytes


class Looked(Struct):
    """Answer to ``Look``: what jobs of a computation have printed. Workers at another job by now are missing."""

    key: Key
    glimpses: list[Glimpse]


class Stored(Struct):
    """Answer to ``Store``: numbers of batches of results of a client that are on disk, whole and synced.

    Their values can be deleted from memory. Batches that are not kept any more are erased from disk.
    """

    client: ClientId
    batches: list[int]


class Restored(Struct):
    """Results that an earlier incarnation of the node kept for a client were found on disk.

    Attributes:
        client: The client.
        name: Its name, for texts that people read.
        batches: Its batches of results, oldest first, without the values, which are on disk.
        next_batch: Number that its next batch was to have.
        lost: Jobs that were open when the node ended, and are lost with it, by computation.
        before: Identities of the earlier incarnations (16 bytes each) that kept something for the client.
        has_gaps: True if the node ended before it could write down which jobs were open, so that others may be lost.
    """

    client: ClientId
    name: str
    batches: list[JobsEnded]
    next_batch: int
    lost: list[HeldJobs]
    before: list[bytes]
    has_gaps: bool = False


class Stopping(Struct):
    """The node stops and its workers have ended: there will be no more results than those not acknowledged.

    Attributes:
        gone: Clients that have left for good while the node stopped: they are forgotten, and nothing is stored for
            them.
    """

    gone: list[ClientId] = []


class CpusChanged(Struct):
    """The node offers another number of CPUs from now on. Jobs that run go on; more than 0 CPUs end draining."""

    cpus: int


class Drain(Struct):
    """The node is to take no new jobs, and to leave when it has none: ``Drained`` says when."""


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
