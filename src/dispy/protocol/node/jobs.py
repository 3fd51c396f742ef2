"""Messages about jobs: attempts, results and their acknowledgement, provisional results, live output."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from dispy.protocol import limits
from dispy.protocol.files import MODE_BITS, FilePath, Size
from dispy.protocol.node.fields import Captured, Count, Files, Glimpse, Inline, Number, Reason, WallTime

# Final statuses of an attempt. The values are those of ``DispyJob``'s final statuses.
CANCELLED = 8
TERMINATED = 9
ABANDONED = 10
FINISHED = 11


class Streamed(Struct, array_like=True, gc=False, tag=1):
    """Place of a large call in a ``RunJobs``: a stream of the connection, by its number."""

    stream: Number


class Given(Struct, array_like=True, gc=False, tag=2):
    """Place of a large call in a ``RunJobs``: a file that a client on the node's machine has linked into the node's
    directory, by its number."""

    file: Number


class Segment(Struct, array_like=True, gc=False, tag=3):
    """Place of a large call on a node and in a worker's ``Record``: a file of the node, by its number. A client
    that sends one is refused.

    ``is_given`` is True if the file is a client's (``Given``): what a job writes to it must not reach the client.
    """

    number: Number
    is_given: bool = False


Where = Streamed | Given | Segment
"""Place of a large call."""


class Job(Struct, array_like=True, gc=False):
    """One attempt of a job, with its arguments: an element of ``RunJobs``, and of a worker's ``Record``. ``attempt``
    counts the job's runs from 0.

    ``payload`` is the pickled call; neither scheduler nor node unpickles it. A large call (from ``INLINE_MAX`` bytes
    on) is elsewhere, and ``payload`` is empty: ``where`` says where; None: it is in ``payload``. A job with a small
    call costs one byte for it on the wire.
    """

    number: Number
    attempt: Count
    payload: Inline
    where: Where | None = None


class Attempt(Struct, array_like=True, gc=False, frozen=True):
    """The name of one attempt of a job: the job's number, and how many times it was tried before."""

    number: Number
    attempt: Count


class Ended(Struct, array_like=True, gc=False):
    """How an attempt ended: an element of ``JobsEnded``.

    ``payload`` is the pickled value if ``status`` is FINISHED, else the pickled exception, or empty. Large, it is
    stream ``stream`` of the connection instead (0: it is not). ``start`` and ``end`` are seconds since the epoch by
    the node's clock. ``reason`` is a traceback or a sentence if ``status`` is not FINISHED. ``stdout`` and ``stderr``
    are the job's output; large output is one stream (``output_stream``, 0: none) whose first ``stdout_size`` bytes
    are stdout. ``ran`` is False if the attempt never started. In a worker's packet to its node, ``stream`` and
    ``output_stream`` are numbers of segments (files of the node) instead.
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
    """Number of the node's file with the value, for a client that shares the node's memory (``ShareMemory``): the
    client takes the file over. 0: the value is in ``payload`` or ``stream``."""
    died: bool = False
    """True if the job's process died without being told to, or its result is lost. The job runs again if its cluster
    allows that (``reentrant``)."""
    job_id: Inline = b""
    """The pickled id of a job whose id is not its number; empty if it is. A program that recovers the result has no
    other way to know the id."""
    checksum: Annotated[int, Meta(ge=0, lt=1 << 32)] = 0
    """CRC-32 of the two streams, payload first, if they have been on the node's disk; 0 if not. The client counts a
    result with another checksum as lost."""


class Started(Struct, array_like=True, gc=False):
    """An attempt that a worker is running, since ``start`` (seconds since the epoch by the node's clock)."""

    number: Number
    attempt: Count
    start: WallTime


class Printed(Struct, array_like=True, gc=False):
    """New output of a running attempt: an element of ``JobsPrinted``.

    ``stdout`` and ``stderr`` are the new bytes; ``stdout_at`` and ``stderr_at`` their positions (bytes) in all that
    the attempt has printed there. A position behind the end of the bytes told before means that some were skipped.
    ``begins`` is True in the first message about this attempt since the client began to watch it. That message is
    sent even if nothing was printed yet.
    """

    number: Number
    attempt: Count
    begins: bool
    stdout_at: Number
    stdout: Glimpse
    stderr_at: Number
    stderr: Glimpse


class JobFiles(Struct, array_like=True):
    """Files that must be in the working directory while job ``number`` runs, and are removed after it."""

    number: Number
    files: Files


class RunJobs(Struct, array_like=True, tag=4):
    """Jobs for the node, in the order in which they must start. Jobs that are there already are ignored.

    ``watched``: numbers of the jobs whose output the client wants while they run (see ``WatchJobs``).
    """

    computation: Number
    jobs: Annotated[list[Job], Meta(max_length=limits.BATCH_MAX)]
    watched: Annotated[list[Number], Meta(max_length=limits.BATCH_MAX)] = []
    files: Annotated[list[JobFiles], Meta(max_length=limits.BATCH_MAX)] = []
    """Files of the jobs that bring files; jobs without files are not in this list. A job starts when its files are in
    place: the node asks for those that it lacks (``NeedFiles``)."""


class CancelJobs(Struct, array_like=True, tag=5):
    """End these attempts: waiting ones at once, running ones by SIGINT and, after ``Compute.grace_s``, by force.

    The end of each is reported by ``JobsEnded``.
    """

    computation: Number
    attempts: Annotated[list[Attempt], Meta(max_length=limits.BATCH_MAX)]


class TakeBack(Struct, array_like=True, tag=6):
    """Give back up to ``count`` jobs that have not started, for another node that is idle (work stealing).

    At most ``BATCH_MAX`` are given back at once. The node answers with ``JobsReturned`` at once, and once more for
    jobs that it must recall from workers first.
    """

    computation: Number
    count: Count


class Acknowledge(Struct, array_like=True, tag=8):
    """All batches of results up to number ``batch`` have arrived: the node forgets them, and deletes them on disk."""

    batch: Number


class AcknowledgeProvisional(Struct, array_like=True, tag=9):
    """The answer to the ``Provisional`` of this attempt with this ``serial``; the job that waits for it goes on.

    ``delivered`` True: the client has the value, or the part of a file. False: with a ``reason`` the client will
    never take it; without one the job may send it again.
    """

    computation: Number
    number: Number
    attempt: Count
    serial: Count
    delivered: bool = True
    reason: Reason = ""


class WatchJobs(Struct, array_like=True, tag=14):
    """Send the output of these jobs (numbers) while they run (``JobsPrinted``), or stop it (``is_wanted`` False).

    Sending begins with the first byte of each job's output, even if that was sent before.
    """

    computation: Number
    numbers: Annotated[list[Number], Meta(max_length=limits.BATCH_MAX)]
    is_wanted: bool = True


class AcknowledgePrinted(Struct, array_like=True, tag=15):
    """The oldest unacknowledged ``JobsPrinted`` of this computation has arrived: the node may look for more output.

    A client that reads slowly acknowledges late, and so gets less (back-pressure).
    """

    computation: Number


class ListJobs(Struct, array_like=True, tag=30):
    """The question which jobs of a computation run on the node. ``JobsListed`` answers with the same ``serial``,
    which the client chooses to tell answers apart. Asked when a user lists the jobs on a node."""

    computation: Number
    serial: Number


class JobsStarted(Struct, array_like=True, tag=36):
    """Attempts that run, for the client's information: each was running at two looks of the node, 10 ms apart. Most
    shorter attempts are never reported."""

    computation: Number
    started: Annotated[list[Started], Meta(max_length=limits.BATCH_MAX)]


class JobsEnded(Struct, array_like=True, tag=37):
    """Attempts that ended. The node keeps the batch until ``Acknowledge`` names its number or a later one.

    Batches are numbered from 1 for each client, across all its computations.
    """

    batch: Number
    computation: Number
    ended: Annotated[list[Ended], Meta(max_length=limits.BATCH_MAX)]
    used_us: Number = 0
    """Time for which jobs of the computation have used CPUs of the node since the batch before this one told it
    (microseconds, summed over CPUs), as the node has seen itself: jobs that still run are in it."""


class JobsReturned(Struct, array_like=True, tag=38):
    """Attempts that have not started here and will not; the scheduler places them anew.

    ``reason`` says why the node refused them (it does not know the computation, or that failed); empty if they were
    taken back, or there is no room for them now.
    """

    computation: Number
    attempts: Annotated[list[Attempt], Meta(max_length=limits.BATCH_MAX)]
    reason: Reason = ""


class FilePart(Struct, array_like=True, gc=False):
    """One part of a file that a running job sends: which file, and from which ``offset`` on (bytes).

    ``transfer`` tells the files of an attempt apart. ``size`` is that of the whole file (bytes). All parts but the
    last have ``limits.FILE_PART`` bytes. With the last part ``size`` bytes are reached, and the file appears at the
    client, at ``path``, with these permission bits and times (nanoseconds since the epoch).
    """

    transfer: Number
    path: FilePath
    size: Size
    mode: Annotated[int, Meta(ge=0, le=MODE_BITS)]
    atime_ns: Number
    mtime_ns: Number
    offset: Size


class Provisional(Struct, array_like=True, tag=39):
    """A value that a running job sent, or, with ``file``, a part of a file. The job waits for the acknowledgement.

    ``AcknowledgeProvisional`` answers, with the same ``serial``, which counts from 1 in each attempt. ``payload`` is
    the pickled value or the part's bytes. It is empty if these are ``INLINE_MAX`` bytes or more: they are stream
    ``stream`` of the connection then, or the node's file ``segment``, if the client shares the node's memory. A part
    of a file is acknowledged when the client has written it.
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
    """New output of running jobs that the client watches. The node looks for more of this computation only after
    ``AcknowledgePrinted``."""

    computation: Number
    printed: Annotated[list[Printed], Meta(max_length=limits.BATCH_MAX)]


class JobsListed(Struct, array_like=True, tag=60):
    """The attempts of a computation that workers run now: answer to the ``ListJobs`` with the same ``serial``."""

    computation: Number
    serial: Number
    attempts: Annotated[list[Attempt], Meta(max_length=limits.OPEN_JOBS_MAX)]
