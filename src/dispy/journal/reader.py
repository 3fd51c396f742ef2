"""Rows of a dead program's journal, read and checked.

All functions are called with the connection, on the thread that has it (``JournalThread.ask``). Each may raise
``sqlite3.Error`` or ``msgspec.DecodeError`` if the journal is damaged. Nothing is decided here, and no payload is
unpickled: ``client.recovery`` puts the rows together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from dispy.journal.rows import SCHEDULER, USED, NodeRow, Options
from dispy.protocol.node import Ended

if TYPE_CHECKING:
    # Imported where it is used: it takes some 10 ms, which are those of the journal's thread.
    import sqlite3


class SessionRow(NamedTuple):
    """A program that had the journal: the one that died, or one that resumed its jobs and died as well."""

    number: int
    """Number of the session, from 1, in the order in which the programs had the journal."""
    identity: bytes
    """Identity under which nodes know the program: 16 bytes. A recovery introduces itself by it."""
    program: str
    """Name of the program, with its process id."""
    boot: str
    """Identity of the boot of the machine in which the program began; empty if that is not known. The session's mark
    counts only if the machine was not booted since."""


class ComputationRow(NamedTuple):
    """A computation of a session that had not ended when the program died."""

    number: int
    """Number of the computation, by which nodes know it; unique in its session."""
    name: str
    """Name of the cluster."""
    options: Options
    """Options of the cluster: how its nodes are reached, and how its jobs run."""
    code: bytes | None
    """Pickled code, for nodes that run the jobs; None in a short journal."""


class Summary(NamedTuple):
    """Contents of a journal that are shown in a list of dead programs."""

    program: str
    """Name of the last program that had the journal, with its process id."""
    started: float
    """When the first program made the journal (seconds since the epoch)."""
    clusters: list[str]
    """Names of the clusters that had not ended, each once, in the order of their computations' numbers."""
    nodes: list[tuple[str, str, int, str]]
    """Nodes in the state ``USED``, and schedulers, which may have jobs: of each its own name, host, TCP port, and
    fingerprint of the secret. A node that several sessions used is listed for each of them."""
    jobs: int | None
    """Number of jobs that were submitted; None for a short journal, which does not have them."""


class Submitted(msgspec.Struct):
    """A job that was submitted: a row of a full journal, by which the job can be run again."""

    data: bytes
    """Pickled call; empty if it is too large for the row and lies in rows of the table ``part``."""
    part: int
    """Number of the rows in ``part`` that have the pickled call, for ``read_part``; 0: the call is ``data``."""
    time: float
    """When the job was submitted (seconds since the epoch)."""
    is_pinned: bool
    """True if the job was for one node and no other, or brought files: then it is not resumed."""


class _EndedRow(msgspec.Struct, array_like=True):
    """End of a job in a row of ``ended``: as ``protocol.node.Ended``, whose fields and order it has, without limits
    of sizes. A program may have been told a larger payload or reason than a message may have. ``stream`` is the
    number of the part that has a large payload; 0: the payload is here."""

    number: int
    attempt: int
    status: int
    start: float
    end: float
    payload: bytes
    stream: int = 0
    reason: str = ""
    stdout: bytes = b""
    stderr: bytes = b""
    output_stream: int = 0
    stdout_size: int = 0
    ran: bool = True
    segment: int = 0
    died: bool = False
    job_id: bytes = b""
    checksum: int = 0


class _JobRow(msgspec.Struct, array_like=True):
    """Job in a row of ``submitted``: as ``protocol.node.Job``, whose first fields it has, without limits of sizes.

    ``part`` is the number of the part that has a large payload; None (0 in older rows): the payload is here.
    """

    number: int
    attempt: int
    payload: bytes
    part: int | None = None


_ended_rows = msgspec.msgpack.Decoder(list[_EndedRow])
"""Decodes the column ``jobs`` of the table ``ended``: how the jobs of one batch ended."""
_job_rows = msgspec.msgpack.Decoder(list[_JobRow])
"""Decodes the column ``jobs`` of the table ``submitted``: the jobs of one batch."""
_numbers_of = msgspec.msgpack.Decoder(list[int])
"""Decodes the column ``jobs`` of the table ``resumed``: numbers of the jobs that a session resumed."""
_options_of = msgspec.msgpack.Decoder(Options)
"""Decodes the column ``options`` of the table ``computation``."""


def sessions(db: sqlite3.Connection) -> Iterator[SessionRow]:
    """Yield the programs that had the journal, the first one first."""
    for row in db.execute("SELECT id, identity, program, boot FROM session"):
        yield SessionRow(*msgspec.convert(row, tuple[int, bytes, str, str]))


def nodes(db: sqlite3.Connection, session: int) -> list[NodeRow]:
    """Return the nodes of one session (by its number), unordered, also lost and private ones (``NodeRow.state``)."""
    rows = db.execute(
        "SELECT incarnation, host, port, name, label, tls, fingerprint, state FROM node WHERE session = ?",
        (session,),
    )
    fields = NodeRow.__struct_fields__
    return [
        # SQLite has no truth values.
        msgspec.convert(dict(zip(fields, row, strict=True)), NodeRow, strict=False)
        for row in rows
    ]


def computations(db: sqlite3.Connection, session: int) -> Iterator[ComputationRow]:
    """Yield the computations of one session (by its number) that had not ended, in the order of their numbers."""
    rows = db.execute("SELECT number, name, options, code FROM computation WHERE session = ?", (session,))
    for row in rows:
        number, name, options, code = msgspec.convert(row, tuple[int, str, bytes, bytes | None])
        yield ComputationRow(number, name, _options_of.decode(options), code)


def submitted_jobs(db: sqlite3.Connection) -> dict[int, Submitted]:
    """Return the jobs that were submitted, by number. Full journals only."""
    found = {}
    for row in db.execute("SELECT time, pinned, jobs FROM submitted ORDER BY id"):
        submitted, pinned, jobs = msgspec.convert(row, tuple[float, int, bytes])
        for job in _job_rows.decode(jobs):
            found[job.number] = Submitted(job.payload, job.part or 0, submitted, bool(pinned))
    return found


def ended_jobs(db: sqlite3.Connection, take: Callable[[int], memoryview]) -> Iterator[tuple[str, Ended]]:
    """Yield how jobs ended, in the order in which the program was told. Full journals only.

    Args:
        db: The database.
        take: Returns a buffer of a given number of bytes; large payloads are read into it.

    Yields:
        The IP address of the node (empty if the job did not end on one), and the end with its whole payload.
    """
    for each in db.execute("SELECT ip, jobs FROM ended ORDER BY id"):
        ip_addr, ended = msgspec.convert(each, tuple[str, bytes])
        for row in _ended_rows.decode(ended):
            fields = {name: getattr(row, name) for name in row.__struct_fields__}
            if row.stream:
                fields["payload"] = read_part(db, row.stream, take)
                fields["stream"] = 0
            yield ip_addr, Ended(**fields)


def resumed_jobs(db: sqlite3.Connection) -> dict[int, int]:
    """Return the number of the session in which a job went on last, by number of the job. Full journals only.

    Jobs that were never resumed are not in it: they belong to the first session.
    """
    found = {}
    for each in db.execute("SELECT session, jobs FROM resumed ORDER BY session"):
        session, numbers = msgspec.convert(each, tuple[int, bytes])
        for number in _numbers_of.decode(numbers):
            found[number] = session
    return found


def objects(db: sqlite3.Connection) -> list[tuple[int, int]]:
    """Return the objects that jobs may refer to: of each its number, and the number of the part with its bytes.

    The pairs are in the order of the objects' numbers. Full journals only.
    """
    return db.execute("SELECT number, part FROM object").fetchall()


def summary(db: sqlite3.Connection) -> Summary:
    """Return what ``recoverable`` shows of a dead program: names, times, nodes, clusters, and the number of jobs.

    No job is decoded, so large journals cost little.

    Raises:
        sqlite3.Error, ValueError, TypeError, IndexError: The journal is damaged.
    """
    sessions = db.execute("SELECT program, started FROM session ORDER BY id").fetchall()
    nodes = db.execute(
        "SELECT label, host, port, fingerprint FROM node WHERE state IN (?, ?)", (USED, SCHEDULER)
    ).fetchall()
    clusters = db.execute("SELECT DISTINCT name FROM computation ORDER BY number").fetchall()
    return Summary(
        str(sessions[-1][0]),
        float(sessions[0][1]),
        [str(name) for (name,) in clusters],
        [(str(label), str(host), int(port), str(print_)) for label, host, port, print_ in nodes],
        _count(db),
    )


def _count(db: sqlite3.Connection) -> int | None:
    """Return the number of jobs that were submitted; None for a short journal, a kind that has no rows of jobs."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    if "submitted" not in tables:
        return None
    # Without decoding all: the head of a MessagePack array has the number of its elements.
    return sum(_length(head) for (head,) in db.execute("SELECT substr(jobs, 1, 5) FROM submitted"))


def _length(head: Any) -> int:
    """Return the number of elements of a MessagePack array, by its first 5 bytes; 0 if these are of no array."""
    data = bytes(head)
    if data[:1] == b"\xdc":
        return int.from_bytes(data[1:3], "big")
    if data[:1] == b"\xdd":
        return int.from_bytes(data[1:5], "big")
    return data[0] & 0x0F if data and data[0] & 0xF0 == 0x90 else 0


def read_part(db: sqlite3.Connection, part: int, take: Callable[[int], memoryview]) -> memoryview:
    """Return the bytes of a large payload, put together from its rows in ``part``; empty if there are none.

    Args:
        db: The database.
        part: Number of the part.
        take: Returns a buffer of a given number of bytes, which is filled and returned.
    """
    rows = db.execute("SELECT data FROM part WHERE id = ? ORDER BY place", (part,)).fetchall()
    block = take(sum(len(row[0]) for row in rows))
    position = 0
    for (data,) in rows:
        block[position : position + len(data)] = data
        position += len(data)
    return block
