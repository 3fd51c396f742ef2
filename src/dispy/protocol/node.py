"""The conversation between a scheduler and a node.

The scheduler dials (for now), both prove that they know the secret (``handshake``), and the
scheduler introduces itself with ``Attach``. The node answers ``Welcome``. After that each side
speaks when it has something to say; everything on the path of a job is a list of jobs.

Job numbers are unique for the life of a client (``Attach.client``); an attempt is one run of a
job. A pair of both is never reused, so a late message can always be told from a current one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from dispy.protocol import limits
from dispy.protocol.files import MODE_BITS, Digest, FileEntry, FilePath, Size

Name = Annotated[str, Meta(max_length=limits.NAME_MAX)]
Reason = Annotated[str, Meta(max_length=limits.REASON_MAX)]
Inline = Annotated[bytes, Meta(max_length=limits.INLINE_MAX)]
Captured = Annotated[bytes, Meta(max_length=limits.INLINE_MAX)]
Glimpse = Annotated[bytes, Meta(max_length=limits.PRINTED_MAX)]
Count = Annotated[int, Meta(ge=0, le=1 << 31)]
Number = Annotated[int, Meta(ge=0, le=1 << 62)]
WallTime = Annotated[float, Meta(ge=0, le=1e11)]
"""Seconds since the epoch: neither negative, infinite nor NaN, which arithmetic does not survive."""
Percent = Annotated[float, Meta(ge=0, le=100)]
Identity = Annotated[bytes, Meta(min_length=16, max_length=16)]
Files = Annotated[list[FileEntry], Meta(max_length=limits.FILES_MAX)]

# What a job's attempt ended as. The values are those of ``DispyJob``'s final statuses.
CANCELLED = 8
TERMINATED = 9
ABANDONED = 10
FINISHED = 11


class Job(Struct, array_like=True, gc=False):
    """One attempt of a job, with its arguments.

    ``payload`` is the pickled call, unread by whoever passes it on. Where it is large it is empty
    here and ``stream`` names where it lies: a stream of the connection, or a segment of the node;
    ``given`` a file that a client of the node's machine has linked into its directory.
    """

    number: Number
    attempt: Count
    payload: Inline
    stream: Number = 0
    given: Number = 0


class Attempt(Struct, array_like=True, gc=False, frozen=True):
    """Names one attempt of a job."""

    number: Number
    attempt: Count


class Ended(Struct, array_like=True, gc=False):
    """How an attempt ended.

    ``payload`` is the pickled value of a job that is FINISHED, and the pickled exception (or
    nothing) of one that is not; ``stream`` as in ``Job``. ``start`` and ``end`` are seconds since
    the epoch by the node's clock. ``reason`` is a traceback or a sentence, for all but FINISHED.
    ``output`` is what the job printed (stdout, stderr), or None for an attempt that never ran.
    """

    number: Number
    attempt: Count
    status: Annotated[int, Meta(ge=CANCELLED, le=FINISHED)]
    start: WallTime
    end: WallTime
    payload: Inline
    stream: Number = 0
    reason: Reason = ""
    stdout: Captured = b""
    stderr: Captured = b""
    output_stream: Number = 0
    stdout_size: Number = 0
    ran: bool = True
    segment: Number = 0
    """The value lies in this file of the node, for a client that shares its memory."""
    died: bool = False
    """The job's process died, and nobody had asked for that, or its result is lost: it is run again if it may."""
    job_id: Inline = b""
    """The pickled id of a job whose id is not its number: who recovers its result does not know it otherwise."""
    checksum: Annotated[int, Meta(ge=0, lt=1 << 32)] = 0
    """CRC-32 of the two streams, one after the other, where they were on a disk meanwhile; 0 otherwise."""


class Started(Struct, array_like=True, gc=False):
    """An attempt that a worker is running; told only for those that run longer than a tick."""

    number: Number
    attempt: Count
    start: WallTime


class Printed(Struct, array_like=True, gc=False):
    """What a running attempt has printed since it was last asked: bytes, and where in its output they lie.

    ``begins``: the first of this attempt since somebody asked; it is told even if there is nothing yet.
    """

    number: Number
    attempt: Count
    begins: bool
    stdout_at: Number
    stdout: Glimpse
    stderr_at: Number
    stderr: Glimpse


# Scheduler to node.


class Attach(Struct, array_like=True, tag=1):
    """Who is speaking: sent once per connection, first.

    ``client`` stays the same over all connections of one scheduler. ``received`` is the number of
    the last batch of results that it has; the node sends again what came after.
    """

    client: Identity
    name: Name
    received: Number = 0
    origin: Name = ""
    """User and machine of the program, as it says itself: "alice@ws7". For logs."""


class Reconcile(Struct, array_like=True, tag=2):
    """All attempts that the scheduler believes to be on the node: sent after ``Welcome``.

    The node ends what is not in it and answers with what it does not know.
    ``computations``: of those that are to be there the number and the life (see ``Compute``).
    """

    attempts: Annotated[list[Attempt], Meta(max_length=limits.OPEN_JOBS_MAX)]
    computations: Annotated[dict[Number, Number], Meta(max_length=limits.BATCH_MAX)]


class Compute(Struct, array_like=True, tag=3):
    """A computation to be held ready on the node. ``code`` is opaque to it (see ``Job.payload``).

    An ``exclusive`` one keeps all others off the node from now until it is closed or its client is dead.
    """

    computation: Number
    name: Name
    code: Inline
    stream: Number = 0
    isolate: bool = False
    grace_s: Annotated[float, Meta(ge=0, le=86400)] = 5.0
    dest_path: Name = ""
    live: bool = False
    """What its running jobs print is to be told, of all of them."""
    exclusive: bool = False
    life: Number = 0
    """Which stay on the node this is, from 0: one that was closed and opened again has another. The node may have
    heard of neither, if its connection broke, and must not take what it has for what is meant."""
    message_timeout_s: Annotated[float, Meta(ge=0, le=1e6)] = 10.0
    """How long jobs wait by default for the client to have what they send."""
    setup_per_worker: bool = False
    setup_timeout_s: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    """0: it may take as long as it takes."""
    files: Files = []
    """What is to lie in its working directory before anything of it runs; the node asks for what it does not have."""
    keep: bool = False
    """The working directory stays when the computation is closed."""


class JobFiles(Struct, array_like=True):
    """What is to lie in the working directory while a job runs, and at no other time."""

    number: Number
    files: Files


class RunJobs(Struct, array_like=True, tag=4):
    """Jobs for the node, in the order in which they are to be started.

    ``watched``: numbers of those whose output is wanted while they run (``WatchJobs``).
    """

    computation: Number
    jobs: Annotated[list[Job], Meta(max_length=limits.BATCH_MAX)]
    watched: Annotated[list[Number], Meta(max_length=limits.BATCH_MAX)] = []
    files: Annotated[list[JobFiles], Meta(max_length=limits.BATCH_MAX)] = []
    """Of those that bring some."""


class CancelJobs(Struct, array_like=True, tag=5):
    """End these attempts: those not started at once, the others by interrupt, then by force."""

    computation: Number
    attempts: Annotated[list[Attempt], Meta(max_length=limits.BATCH_MAX)]


class TakeBack(Struct, array_like=True, tag=6):
    """Give back up to ``count`` jobs that have not started.

    Answered by ``JobsReturned`` at once, and again for those that have to be recalled from workers first.
    """

    computation: Number
    count: Count


class CloseComputation(Struct, array_like=True, tag=7):
    """Forget a computation; its unfinished jobs are ended."""

    computation: Number


class Acknowledge(Struct, array_like=True, tag=8):
    """All batches of results up to this one have arrived; the node may forget them."""

    batch: Number


class AcknowledgeProvisional(Struct, array_like=True, tag=9):
    """A provisional result, or a part of a file, has arrived; the job that sent it goes on.

    Not ``delivered``: with a reason it will never be, without it may be sent again.
    """

    computation: Number
    number: Number
    attempt: Count
    serial: Count
    delivered: bool = True
    reason: Reason = ""


class ShareMemory(Struct, array_like=True, tag=11):
    """The client sees the node's directory on the memory file system: large results may stay there."""


class PutObject(Struct, array_like=True, tag=12):
    """Data that many jobs of a computation read; answered by ``ObjectStored``. As in ``Job``."""

    computation: Number
    number: Number
    payload: Inline
    stream: Number = 0
    given: Number = 0


class DropObjects(Struct, array_like=True, tag=13):
    """No job needs these any more."""

    computation: Number
    numbers: Annotated[list[Number], Meta(max_length=limits.OBJECTS_MAX)]


class WatchJobs(Struct, array_like=True, tag=14):
    """Tell what these jobs print while they run, from the beginning, also if that was told before; or cease to."""

    computation: Number
    numbers: Annotated[list[Number], Meta(max_length=limits.BATCH_MAX)]
    is_wanted: bool = True


class AcknowledgePrinted(Struct, array_like=True, tag=15):
    """The oldest ``JobsPrinted`` of this computation has arrived; the next one may come."""

    computation: Number


class FilePiece(Struct, array_like=True, gc=False):
    """A piece of a file, as it was asked for. ``data`` is empty where ``stream`` has it."""

    digest: Digest
    offset: Size
    data: Inline
    stream: Number = 0


class FileData(Struct, array_like=True, tag=70):
    """Answer to ``NeedFiles``, or to some of it."""

    computation: Number
    pieces: Annotated[list[FilePiece], Meta(max_length=limits.PIECES_MAX)]


class FileUnreadable(Struct, array_like=True, tag=71):
    """A file that was asked for cannot be sent, and why: what needs it fails."""

    computation: Number
    digest: Digest
    reason: Reason


class PlaceFiles(Struct, array_like=True, tag=72):
    """Put files into the working directory of a computation now; answered by ``FilesPlaced``.

    Sent again after a reconnect if there was no answer: files that are there already are left alone.
    """

    computation: Number
    request: Number
    files: Files


class Recover(Struct, array_like=True, tag=20):
    """What of these computations is there? Said after ``Welcome``, in place of ``Reconcile``, by who fetches
    what a dead scheduler had there, in its name; answered by ``Held``.

    From then on, ``CloseComputation`` drops results that were not acknowledged, too.
    """

    computations: Annotated[list[Number], Meta(max_length=limits.BATCH_MAX)]


class Detach(Struct, array_like=True, tag=10):
    """The scheduler goes and will not come back: the node forgets it and all it gave."""


class SetPulse(Struct, array_like=True, tag=17):
    """Give a sign of life, and expect one, at least so often on this connection (seconds)."""

    pulse_s: Annotated[float, Meta(ge=0.01, le=3600)]


class LimitCpus(Struct, array_like=True, tag=16):
    """Run at most so many jobs of this scheduler at once. What runs above that goes on.

    Holds until the next one, over all connections; the node's own offer is the bound in any case.
    """

    cpus: Count


class ListJobs(Struct, array_like=True, tag=30):
    """Which jobs of a computation run there? Answered by ``JobsListed`` with the same ``serial``."""

    computation: Number
    serial: Number


# Node to scheduler.


class Available(Struct, array_like=True, tag=61):
    """What the node has to spare: told in ``Welcome``, and from time to time."""

    cpu: Percent
    """Idle CPU."""
    memory: Number
    """Bytes that programs can have without swapping."""
    disk: Number
    """Bytes where working directories are."""
    swap: Percent
    """Free swap."""


class Welcome(Struct, array_like=True, tag=32):
    """Who answers. ``node`` is new with every start of the node: its incarnation.

    ``known`` tells that this incarnation knows the client already, so that both sides reconcile. Results that
    it keeps for the client are sent right after this: those batches of ``kept``, of which ``last`` batches
    were ever made. ``before`` names incarnations whose results it has taken over, from their spool: whatever
    else they had is gone with them.
    """

    node: Identity
    name: Name
    cpus: Count
    platform: Name
    known: bool = False
    last: Number = 0
    kept: Annotated[list[Number], Meta(max_length=limits.OPEN_JOBS_MAX)] = []
    before: Annotated[list[Identity], Meta(max_length=limits.BATCH_MAX)] = []
    available: Available | None = None


class ComputationReady(Struct, array_like=True, tag=33):
    """The computation is loaded; credit follows. ``life`` as in its ``Compute``.

    ``warning`` says what of the code is not there as in the program.
    """

    computation: Number
    life: Number = 0
    warning: Reason = ""


class ComputationFailed(Struct, array_like=True, tag=34):
    """The computation cannot be used on this node, and why. ``JobsReturned`` follows with what had not started."""

    computation: Number
    reason: Reason
    life: Number = 0


class Credit(Struct, array_like=True, tag=35):
    """How many unfinished jobs of a computation the node takes from now on.

    ``slots`` start at once, ``backlog`` may wait there. May fall below what the node has. ``reason`` says in
    words why the slots are fewer than the node's CPUs, if they are.
    """

    computation: Number
    slots: Count
    backlog: Count
    reason: Reason = ""


class JobsStarted(Struct, array_like=True, tag=36):
    """Attempts that have been running for a tick."""

    computation: Number
    started: Annotated[list[Started], Meta(max_length=limits.BATCH_MAX)]


class JobsEnded(Struct, array_like=True, tag=37):
    """Attempts that ended. Kept by the node until ``Acknowledge`` names ``batch`` or a later one."""

    batch: Number
    computation: Number
    ended: Annotated[list[Ended], Meta(max_length=limits.BATCH_MAX)]


class JobsReturned(Struct, array_like=True, tag=38):
    """Attempts that were not started and will not be."""

    computation: Number
    attempts: Annotated[list[Attempt], Meta(max_length=limits.BATCH_MAX)]
    reason: Reason = ""


class FilePart(Struct, array_like=True, gc=False):
    """What a part of a file is of that a running job sends.

    ``transfer`` tells the files of an attempt apart. All parts but the last have ``FILE_PART`` bytes; with the last,
    ``size`` is reached, and the file appears at the client with these permission bits and times (since the epoch).
    """

    transfer: Number
    path: FilePath
    size: Size
    mode: Annotated[int, Meta(ge=0, le=MODE_BITS)]
    atime_ns: Number
    mtime_ns: Number
    offset: Size


class Provisional(Struct, array_like=True, tag=39):
    """A value that a running job sent; ``serial`` counts from 1 in each attempt, ``segment`` is as in ``Ended``.

    Or, with ``file``, a part of a file, which is acknowledged when it has been written.
    """

    computation: Number
    number: Number
    attempt: Count
    serial: Count
    payload: Inline
    stream: Number = 0
    segment: Number = 0
    file: FilePart | None = None


class Reconciled(Struct, array_like=True, tag=40):
    """What the node does not have of what ``Reconcile`` named: to be sent again."""

    attempts: Annotated[list[Attempt], Meta(max_length=limits.OPEN_JOBS_MAX)]
    computations: Annotated[list[Number], Meta(max_length=limits.BATCH_MAX)]


class JobsPrinted(Struct, array_like=True, tag=44):
    """What running jobs print; one at a time, until ``AcknowledgePrinted``."""

    computation: Number
    printed: Annotated[list[Printed], Meta(max_length=limits.BATCH_MAX)]


class Leaving(Struct, array_like=True, tag=41):
    """The node stops now. Jobs it did not report have been killed."""

    reason: Reason = ""


class ObjectStored(Struct, array_like=True, tag=43):
    """Jobs that start from now on find this object; with a reason they do not.

    ``again``: there may be room for it when the node gives credit again; else they never will.
    """

    computation: Number
    number: Number
    reason: Reason = ""
    again: bool = False


class HeldJobs(Struct, array_like=True):
    """Some attempts of a computation."""

    computation: Number
    attempts: Annotated[list[Attempt], Meta(max_length=limits.OPEN_JOBS_MAX)]


class Held(Struct, array_like=True, tag=52):
    """What is there for a client that recovers: results follow for those that are open, or have been sent as
    ``batches``. ``lost`` were open when an earlier incarnation of the node ended; they ended with it. With
    ``has_gaps`` it was not written down what was, and others may have been lost.
    """

    open: Annotated[list[HeldJobs], Meta(max_length=limits.BATCH_MAX)]
    batches: Annotated[list[Number], Meta(max_length=limits.OPEN_JOBS_MAX)]
    lost: Annotated[list[HeldJobs], Meta(max_length=limits.BATCH_MAX)]
    has_gaps: bool = False


class JobsListed(Struct, array_like=True, tag=60):
    """The attempts of a computation that workers are at."""

    computation: Number
    serial: Number
    attempts: Annotated[list[Attempt], Meta(max_length=limits.OPEN_JOBS_MAX)]


class Piece(Struct, array_like=True, gc=False):
    """Bytes of a file that are wanted."""

    digest: Digest
    offset: Size
    size: Annotated[int, Meta(ge=0, le=limits.PIECE_MAX)]


class NeedFiles(Struct, array_like=True, tag=80):
    """Pieces of files of a computation or its jobs that the node does not have.

    It asks for no more than it can put away, and again for what has not come when its connection broke; so the
    client remembers nothing.
    """

    computation: Number
    pieces: Annotated[list[Piece], Meta(max_length=limits.PIECES_MAX)]


class FilesProgress(Struct, array_like=True, tag=81):
    """How much of what a computation, or a job of it, waits for has come: files and bytes, of so many.

    0 of 0: nothing is on its way any more.
    """

    computation: Number
    files: Count
    files_max: Count
    size: Size
    size_max: Size


class FilesPlaced(Struct, array_like=True, tag=82):
    """What ``PlaceFiles`` has asked for is done; with a reason it is not, and will not be."""

    computation: Number
    request: Number
    reason: Reason = ""


class NodeCpus(Struct, array_like=True, tag=42):
    """The node offers another number of CPUs from now on; ``reason`` says why these are 0, if somebody wants that."""

    cpus: Count
    reason: Reason = ""


DRAINING = "it is being drained: it takes no new jobs, and leaves when those that run have ended"
"""The reason that a node gives while it is drained."""


ToNode = (
    Attach
    | Reconcile
    | Compute
    | RunJobs
    | CancelJobs
    | TakeBack
    | CloseComputation
    | Acknowledge
    | AcknowledgeProvisional
    | Detach
    | ShareMemory
    | PutObject
    | DropObjects
    | WatchJobs
    | AcknowledgePrinted
    | Recover
    | LimitCpus
    | SetPulse
    | ListJobs
    | FileData
    | FileUnreadable
    | PlaceFiles
)
FromNode = (
    Welcome
    | ComputationReady
    | ComputationFailed
    | Credit
    | JobsStarted
    | JobsEnded
    | JobsReturned
    | Provisional
    | Reconciled
    | Leaving
    | NodeCpus
    | ObjectStored
    | JobsPrinted
    | Held
    | JobsListed
    | Available
    | NeedFiles
    | FilesProgress
    | FilesPlaced
)

if TYPE_CHECKING:
    to_node_decoder: msgspec.msgpack.Decoder[ToNode]
    from_node_decoder: msgspec.msgpack.Decoder[FromNode]

_DECODED = {"to_node_decoder": ToNode, "from_node_decoder": FromNode}


def __getattr__(name: str) -> Any:
    # Made when first asked for: each takes 2.5 ms, a node and a program need one of them, and what runs jobs none.
    # They ask while they are loaded, since nothing is to be compiled on behalf of strangers.
    if name not in _DECODED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    decoder: Any = msgspec.msgpack.Decoder(_DECODED[name])
    globals()[name] = decoder
    return decoder
