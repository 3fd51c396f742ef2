"""The journal of a living program: a successor finds the program's jobs by it, should the program die.

A journal is an SQLite file. A *short* journal says which nodes the program uses, under which identity, and for which
computations: a few hundred bytes, written when that changes. A *full* journal is of one cluster. In addition it has
the code of the computation, the jobs that were submitted, and how they ended: a row for each batch of them.

This module has the rows. A thread of the journal's own writes them (``journal.thread``). When that fails the mark
says that results may be missing (``journal.mark``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from dispy.journal.files import mark_path
from dispy.journal.mark import Mark, Marked, read_mark
from dispy.journal.rows import GIVEN_UP, NodeRow, Options
from dispy.journal.thread import GATHER_S, JournalThread
from dispy.protocol.limits import CHUNK_NUMBERS_FROM, INLINE_MAX, MIB
from dispy.protocol.node import Ended, Job
from dispy.system.memory import pool
from dispy.system.processes import boot_id

if TYPE_CHECKING:
    # Imported where it is used: it takes some 10 ms, which are those of the journal's thread.
    import sqlite3

logger = logging.getLogger("dispy.client")

PART_MAX = 64 * MIB
"""Bytes of a payload in one row of ``part``: a larger one takes several rows. SQLite allows 1,000,000,000 bytes."""

_encode = msgspec.msgpack.Encoder().encode


class Journal:
    """A journal that this process has locked. Usable on any thread.

    Args:
        thread: The thread that writes the file; started here.
        is_full: True for a journal with jobs and results; the opened file overrides that.
        wait: True: wait until the file is open, and raise the error if it cannot be. False: do not wait; an error is
            logged, and nothing is ever written.
        repack: Pickles a large result again that was unpickled already, and returns its bytes; None: still pickled.

    Attributes:
        thread: The thread, by which callers ask, and wait for the disk.
        path: Path of the file.
        is_full: True if the journal has jobs and results.
        session: Number of the session of this program, from 1; a program that resumes jobs has a higher one.
        mark: The mark of this session; None before ``begin``, and for a short journal.

    Raises:
        DispyError: The file cannot be opened, and ``wait`` is True.
    """

    def __init__(
        self,
        thread: JournalThread,
        *,
        is_full: bool,
        wait: bool,
        repack: Callable[[Any], memoryview | None] = lambda _: None,
    ) -> None:
        self.thread = thread
        self.path = thread.path
        self.is_full = is_full
        self.session = 1
        self.mark: Mark | None = None
        self._repack = repack
        self._parts = 0
        """Highest number of a part in the file; 0: none. Only for the journal's thread."""
        thread.start(self._look, self._note_broken, wait=wait)

    def begin(self, identity: bytes, program: str) -> None:
        """Note that a program begins to use the journal; if it is full, also make its mark (``journal.mark``).

        Args:
            identity: Identity under which nodes know the program.
            program: Name of the program, with its process id.
        """
        if self.is_full:
            self.mark = self._make_mark()
        row = (self.session, identity, program, time.time(), self._boot_id())
        self.thread.put(lambda db: db.execute("INSERT INTO session VALUES (?, ?, ?, ?, ?)", row))

    def marked(self, session: int, boot: str) -> Marked | None:
        """Return the mark of an earlier session; None if it is missing or cannot be trusted.

        Args:
            session: Number of the session.
            boot: Identity of the machine's boot in which the session began; empty: not known. No mark outlives that.
        """
        if not boot or boot != self._boot_id():
            return None
        try:
            return read_mark(mark_path(self.path, session).read_bytes())
        except OSError:
            return None

    def _make_mark(self) -> Mark:
        return Mark(mark_path(self.path, self.session))

    def _boot_id(self) -> str:
        return boot_id()

    # Notes, on any thread. None waits for the disk.

    def add_computation(self, number: int, name: str, options: Options, code: bytes) -> None:
        """Note that a cluster begins. The code goes into a full journal only.

        Args:
            number: Number of the computation in this session; a row with the same number is replaced.
            name: Name of the cluster.
            options: Options by which a successor reaches the nodes and runs the jobs.
            code: Pickled code for the nodes.
        """
        row = (self.session, number, name, _encode(options), code if self.is_full else None)
        self.thread.put(
            lambda db: db.execute("INSERT OR REPLACE INTO computation VALUES (?, ?, ?, ?, ?)", row)
        )

    def drop_computation(self, number: int) -> None:
        """Note that a cluster has ended, by number of its computation: no successor looks for its jobs."""
        key = (self.session, number)
        self.thread.put(
            lambda db: db.execute("DELETE FROM computation WHERE session = ? AND number = ?", key)
        )

    def add_node(self, node: NodeRow) -> None:
        """Note that a node is used, and in which state it is. Replaces what was noted of it before."""
        row = (
            self.session, node.incarnation, node.host, node.port, node.name, node.label, node.tls, node.fingerprint,
            node.state,
        )  # fmt: skip
        self.thread.put(
            lambda db: db.execute("INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        )

    def drop_node(self, incarnation: bytes) -> None:
        """Note that a node is lost, by its incarnation: its jobs were told as lost, so no successor takes results."""
        key = (GIVEN_UP, self.session, incarnation)
        self.thread.put(
            lambda db: db.execute("UPDATE node SET state = ? WHERE session = ? AND incarnation = ?", key)
        )

    def rename(self, identity: bytes) -> None:
        """Note that the program goes on under another identity (16 bytes): all before that was told as lost."""
        row = (identity, self.session)
        self.thread.put(lambda db: db.execute("UPDATE session SET identity = ? WHERE id = ?", row))

    def submitted(self, jobs: list[Job], is_pinned: bool = False) -> None:
        """Note that jobs were submitted. Chunks of maps among them are not written.

        Args:
            jobs: The jobs, at least one.
            is_pinned: True if they are for one node and no other, or bring files: they are not resumed.
        """
        sizes = [len(job.payload) for job in jobs]
        is_plain = max(sizes) < INLINE_MAX and max([job.number for job in jobs]) < CHUNK_NUMBERS_FROM
        now = time.time()

        def write(db: sqlite3.Connection) -> None:
            # As a rule all jobs are written as they are: a call for each would double the time.
            rows = (
                jobs
                if is_plain
                else [self._job_row(db, job) for job in jobs if job.number < CHUNK_NUMBERS_FROM]
            )
            if rows:
                row = (now, is_pinned, _encode(rows))
                db.execute("INSERT INTO submitted (time, pinned, jobs) VALUES (?, ?, ?)", row)

        self.thread.put(write, sum(sizes))

    def ended(self, ip_addr: str, ended: list[Ended]) -> None:
        """Note how jobs (at least one) have ended; chunks of maps among them are not written.

        Payloads are encoded or copied before this returns: callbacks that are called next may change the values.
        ``ip_addr`` is the node's IP address; empty if the jobs did not end on a node.
        """
        rows = ended
        if max([item.number for item in ended]) >= CHUNK_NUMBERS_FROM:
            rows = [item for item in ended if item.number < CHUNK_NUMBERS_FROM]
            if not rows:
                return
        large = {}
        if max([len(item.payload) for item in rows]) >= INLINE_MAX:
            rows = rows.copy()
            large = {
                place: self._repack(item.payload) or _copy(item.payload)
                for place, item in enumerate(rows)
                if len(item.payload) >= INLINE_MAX
            }
        for place in large:
            rows[place] = msgspec.structs.replace(rows[place], payload=b"")
        encoded = b"" if large else _encode(rows)

        def write(db: sqlite3.Connection) -> None:
            for place, data in large.items():
                rows[place].stream = self._add_part(db, data)
            db.execute("INSERT INTO ended (ip, jobs) VALUES (?, ?)", (ip_addr, encoded or _encode(rows)))

        self.thread.put(write, len(encoded) + sum([len(data) for data in large.values()]))

    def ended_here(self, numbers: list[int], status: int, reason: str) -> None:
        """Note that jobs, by number, have ended which did not run, or of which no node can say how they ended.

        All these jobs get the same ``status`` and ``reason`` (a sentence for the user).
        """
        self.ended(
            "", [Ended(number, 0, status, 0.0, 0.0, b"", reason=reason, ran=False) for number in numbers]
        )

    def put_object(self, number: int, data: bytes | memoryview) -> None:
        """Note an object that jobs may refer to, by its number and bytes: a successor sends it before the jobs."""

        def write(db: sqlite3.Connection) -> None:
            part = self._add_part(db, data)
            db.execute("INSERT INTO object VALUES (?, ?)", (number, part))

        self.thread.put(write, len(data))

    def drop_objects(self, numbers: list[int]) -> None:
        """Remove objects, by number, from the file. Called once no job that has not ended refers to them."""

        def write(db: sqlite3.Connection) -> None:
            for number in numbers:
                db.execute(
                    "DELETE FROM part WHERE id = (SELECT part FROM object WHERE number = ?)", (number,)
                )
                db.execute("DELETE FROM object WHERE number = ?", (number,))

        self.thread.put(write)

    def close(self, *, remove: bool) -> None:
        """Write the notes that wait, close the file, and wait for that.

        Args:
            remove: True if nothing is left to be recovered: the file and its marks are removed.
        """
        self.end(remove=remove)
        self.thread.join()

    def end(self, *, remove: bool) -> None:
        """Have the journal closed as ``close`` does, without waiting for it. Does nothing in a fork, or if closed."""
        if self.thread.end(remove=remove) and self.mark is not None:
            self.mark.close()

    # On the journal's thread.

    def _look(self, db: sqlite3.Connection) -> None:
        """Set ``is_full`` and ``_parts`` from the tables of the file just opened, which may be a dead program's."""
        self.is_full = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'part'").fetchone() is not None
        if self.is_full:
            self.thread.gather_s = GATHER_S
            self._parts = db.execute("SELECT coalesce(max(id), 0) FROM part").fetchone()[0]

    def _note_broken(self) -> None:
        """Note in the mark that nothing is written any more."""
        if self.mark is not None:
            self.mark.note_broken()

    def _job_row(self, db: sqlite3.Connection, job: Job) -> Job | list[object]:
        """Return a job as its row has it: a large payload is written as a part, whose number stands for ``where``."""
        if len(job.payload) < INLINE_MAX:
            return job
        return [job.number, job.attempt, b"", self._add_part(db, job.payload)]

    def _add_part(self, db: sqlite3.Connection, data: Any) -> int:
        """Write a large payload (bytes-like) into rows of its own; returns the new number of its part."""
        self._parts += 1
        view = memoryview(data)
        for place, start in enumerate(range(0, len(view), PART_MAX) if len(view) else [0]):
            db.execute(
                "INSERT INTO part VALUES (?, ?, ?)", (self._parts, place, view[start : start + PART_MAX])
            )
        return self._parts


def _copy(data: Any) -> memoryview:
    """Return a copy of a large payload as it is now, in pool memory: the original may be changed or reused."""
    block = pool.take(len(data))
    block[:] = data
    return block
