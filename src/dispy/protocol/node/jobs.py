"""Messages about jobs: their attempts, results, provisional results, output."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from dispy.protocol import limits
from dispy.protocol.files import MODE_BITS, FilePath, Size
from dispy.protocol.node.fields import Captured, Count, Files, Glimpse, Inline, Number, Reason, WallTime

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


class WatchJobs(Struct, array_like=True, tag=14):
    """Tell what these jobs print while they run, from the beginning, also if that was told before; or cease to."""

    computation: Number
    numbers: Annotated[list[Number], Meta(max_length=limits.BATCH_MAX)]
    is_wanted: bool = True


class AcknowledgePrinted(Struct, array_like=True, tag=15):
    """The oldest ``JobsPrinted`` of this computation has arrived; the next one may come."""

    computation: Number


class ListJobs(Struct, array_like=True, tag=30):
    """Which jobs of a computation run there? Answered by ``JobsListed`` with the same ``serial``."""

    computation: Number
    serial: Number


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


class JobsPrinted(Struct, array_like=True, tag=44):
    """What running jobs print; one at a time, until ``AcknowledgePrinted``."""

    computation: Number
    printed: Annotated[list[Printed], Meta(max_length=limits.BATCH_MAX)]


class JobsListed(Struct, array_like=True, tag=60):
    """The attempts of a computation that workers are at."""

    computation: Number
    serial: Number
    attempts: Annotated[list[Attempt], Meta(max_length=limits.OPEN_JOBS_MAX)]
