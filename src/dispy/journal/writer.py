"""The journal of a living program: a successor finds the program's jobs by it, should the program die.

A journal is an SQLite file. A *short* journal says which nodes the program uses, under which identity, and for which
computations: a few hundred bytes, written when that changes. A *full* journal is of one cluster. In addition it has
the code of the computation, the jobs that were submitted, and how they ended: a row for each batch of them.

Theory of operation. A thread of the journal's own writes everything; other threads put entries into its queue. The
thread gathers entries for ``GATHER_S`` and writes them in one transaction. ``after_note`` is for what must not happen
before notes are on disk: a node may forget a result, or gets its first jobs. When a transaction fails the journal is
broken: nothing is written from then on, callbacks are called all the same, and the mark says that results may be
missing (``journal.mark``).

The thread holds SQLite's exclusive lock for as long as the program lives: the lock tells a living program's journal
from a dead one's. The connection lives in a local variable of the thread and nowhere else: a fork of the program has
no such thread, so it never closes the connection, which would undo what is being written.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
import queue
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from dispy.errors import DispyError, UsageError
from dispy.journal.files import mark_path, remove
from dispy.journal.mark import Mark, Marked, read_mark
from dispy.journal.rows import GIVEN_UP, NodeRow, Options
from dispy.protocol.limits import CHUNK_NUMBERS_FROM, INLINE_MAX, MIB
from dispy.protocol.node import Ended, Job
from dispy.system.memory import pool
from dispy.system.processes import boot_id

if TYPE_CHECKING:
    # Imported where it is used: it takes some 10 ms, which are those of the journal's thread.
    import sqlite3

logger = logging.getLogger("dispy.client")

UNWRITTEN_MAX = 64 * MIB
"""Back-pressure: bytes of payloads that may wait in a journal's queue. Beyond that ``submit`` waits for the disk."""

GATHER_S = 0.01
"""Seconds that a full journal gathers entries for one transaction, as each rewrites whole pages of the file."""

PART_MAX = 64 * MIB
"""Bytes of a payload in one row of ``part``: a larger one takes several rows. SQLite allows 1,000,000,000 bytes."""

_encode = msgspec.msgpack.Encoder().encode

T = TypeVar("T")

Write = Callable[["sqlite3.Connection"], object]
"""Function that writes one entry, by the connection, in the transaction that is open. On the journal's thread."""

Entry = tuple[Write | None, int, Callable[[], None] | None]
"""Entry of the queue: its writer (None: nothing to write), the bytes of payloads in it, and a callback (or None) for
the engine's loop, called once the entry and all before it are on disk, or never will be (the journal is broken)."""


class Journal:
    """A journal that this process has locked. Usable on any thread.

    Args:
        path: Path of the file.
        open_: Opens and locks the file, on the journal's thread (see ``journal.files``).
        post: Has a function called on the engine's loop.
        is_full: True for a journal with jobs and results; the opened file overrides that.
        wait: True: wait until the file is open, and raise the error if it cannot be. False: do not wait; an error is
            logged, and nothing is ever written.
        repack: Pickles a large result again that was unpickled already, and returns its bytes; None: still pickled.

    Attributes:
        path: Path of the file.
        is_full: True if the journal has jobs and results.
        session: Number of the session of this program, from 1; a program that resumes jobs has a higher one.
        mark: The mark of this session; None before ``begin``, and for a short journal.
        is_behind: True if more than ``UNWRITTEN_MAX`` bytes wait to be written: call ``wait_for_room`` before adding.

    Raises:
        DispyError: The file cannot be opened, and ``wait`` is True.
    """

    def __init__(
        self,
        path: Path,
        open_: Callable[[Path], sqlite3.Connection],
        post: Callable[[Callable[[], object]], object],
        *,
        is_full: bool,
        wait: bool,
        repack: Callable[[Any], memoryview | None] = lambda _: None,
    ) -> None:
        self.path = path
        self.is_full = is_full
        self.session = 1
        self.mark: Mark | None = None
        self._post = post
        self._repack = repack
        self._queue: queue.SimpleQueue[Entry] = queue.SimpleQueue()
        self._pid = os.getpid()
        """Pid of the process that made this: a fork of it has no thread that writes, so it drops all notes."""
        self._is_broken = False
        """True if opening or a transaction failed: notes are dropped from then on, and no caller waits for disks."""
        self._is_closed = False
        """True if the last entry (one of ``ENDS``) is in the queue; later notes are dropped."""
        self.is_behind = False
        self._unwritten = 0
        """Bytes of payloads in the queue: notes that are not on disk yet."""
        self._room = threading.Condition()
        """Notified when fewer bytes wait to be written; guards ``_unwritten`` and ``is_behind``."""
        self._parts = 0
        """Highest number of a part in the file; 0: none. Only for the journal's thread."""
        self._answers: list[Callable[[], None]] = []
        """Calls that hand results of ``ask`` to the callers, made after the commit. For the journal's thread."""
        self._start(open_, wait)

    def _start(self, open_: Callable[[Path], sqlite3.Connection], wait: bool) -> None:
        """Start the journal's thread. With ``wait``, wait until the file is open, and raise why it cannot be."""
        started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=self._run, args=(open_, started, wait), name="dispy journal", daemon=True
        )
        self._thread.start()
        if wait:
            try:
                started.result()
            except BaseException:
                self._queue.put((_close, 0, None))
                self._thread.join()
                raise

    def redirect(self, post: Callable[[Callable[[], object]], object]) -> None:
        """Have callbacks of ``after_note`` called by ``post``, on the loop of another engine, from now on."""
        self._post = post

    def begin(self, identity: bytes, program: str) -> None:
        """Note that a program begins to use the journal; if it is full, also make its mark (``journal.mark``).

        Args:
            identity: Identity under which nodes know the program.
            program: Name of the program, with its process id.
        """
        if self.is_full:
            self.mark = self._make_mark()
        row = (self.session, identity, program, time.time(), self._boot_id())
        self._put(lambda db: db.execute("INSERT INTO session VALUES (?, ?, ?, ?, ?)", row))

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
        self._put(lambda db: db.execute("INSERT OR REPLACE INTO computation VALUES (?, ?, ?, ?, ?)", row))

    def drop_computation(self, number: int) -> None:
        """Note that a cluster has ended, by number of its computation: no successor looks for its jobs."""
        key = (self.session, number)
        self._put(lambda db: db.execute("DELETE FROM computation WHERE session = ? AND number = ?", key))

    def add_node(self, node: NodeRow) -> None:
        """Note that a node is used, and in which state it is. Replaces what was noted of it before."""
        row = (
            self.session, node.incarnation, node.host, node.port, node.name, node.label, node.tls, node.fingerprint,
            node.state,
        )  # fmt: skip
        self._put(
            lambda db: db.execute("INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        )

    def drop_node(self, incarnation: bytes) -> None:
        """Note that a node is lost, by its incarnation: its jobs were told as lost, so no successor takes results."""
        key = (GIVEN_UP, self.session, incarnation)
        self._put(
            lambda db: db.execute("UPDATE node SET state = ? WHERE session = ? AND incarnation = ?", key)
        )

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

        self._put(write, sum(sizes))

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

        self._put(write, len(encoded) + sum([len(data) for data in large.values()]))

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

        self._put(write, len(data))

    def drop_objects(self, numbers: list[int]) -> None:
        """Remove objects, by number, from the file. Called once no job that has not ended refers to them."""

        def write(db: sqlite3.Connection) -> None:
            for number in numbers:
                db.execute(
                    "DELETE FROM part WHERE id = (SELECT part FROM object WHERE number = ?)", (number,)
                )
                db.execute("DELETE FROM object WHERE number = ?", (number,))

        self._put(write)

    def after_note(self, told: Callable[[], None]) -> None:
        """Have ``told`` called on the engine's loop once all notes until now are on disk, or it is broken."""
        if self._is_broken or self._is_closed:
            self._post(told)
        else:
            self._queue.put((None, 0, told))

    def wait_for_room(self) -> None:
        """Block the caller until at most ``UNWRITTEN_MAX`` bytes wait to be written, or the journal is broken."""
        with self._room:
            self._room.wait_for(lambda: self._unwritten <= UNWRITTEN_MAX or self._is_broken)

    def ask(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Call a function with the connection, on the journal's thread, in a transaction. Waits for it.

        Returns:
            The result of the function, once the transaction is on disk. Never returns after ``end`` or in a fork.

        Raises:
            DispyError: The journal is damaged, or cannot be written to; it is broken from now on.
        """
        import sqlite3

        answer: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run(db: sqlite3.Connection) -> None:
            try:
                result = function(db)
                self._answers.append(lambda: answer.set_result(result))
            except BaseException as error:
                answer.set_exception(error)
                raise _AskerKnowsError from error

        self._put(run)
        while True:
            try:
                return answer.result(0.2)
            except TimeoutError:
                if self._is_broken and not answer.done():
                    raise UsageError(f"journal {self.path} cannot be written to") from None
            except (sqlite3.Error, msgspec.DecodeError, struct.error) as error:
                raise UsageError(f"journal {self.path} is damaged, or its disk is full: {error}") from error

    def close(self, *, remove: bool) -> None:
        """Write the notes that wait, close the file, and wait for that.

        Args:
            remove: True if nothing is left to be recovered: the file and its marks are removed.
        """
        self.end(remove=remove)
        if self._pid == os.getpid():
            self._thread.join()

    def end(self, *, remove: bool) -> None:
        """Have the journal closed as ``close`` does, without waiting for it. Does nothing in a fork, or if closed."""
        if self._pid == os.getpid() and not self._is_closed:
            self._is_closed = True
            if self.mark is not None:
                self.mark.close()
            self._queue.put((_remove if remove else _close, 0, None))

    def _put(self, write: Write, size: int = 0) -> None:
        """Queue an entry with ``size`` bytes of payloads. Dropped if the journal is broken, closed or a parent's."""
        if self._is_broken or self._is_closed or self._pid != os.getpid():
            return
        if size:
            with self._room:
                self._unwritten += size
                self.is_behind = self._unwritten > UNWRITTEN_MAX
        self._queue.put((write, size, None))

    # Rows; on the journal's thread.

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

    # The thread.

    def _run(
        self,
        open_: Callable[[Path], sqlite3.Connection],
        started: concurrent.futures.Future[None],
        wait: bool,
    ) -> None:
        """Open the file (``started`` gets the outcome), and write entries until the last one: the thread's body."""
        import sqlite3

        try:
            db = open_(self.path)
            self._look(db)
        except (OSError, sqlite3.Error, DispyError) as error:
            self._is_broken = True
            known = error if isinstance(error, DispyError) else UsageError(f"journal {self.path}: {error}")
            started.set_exception(known)
            if not wait:
                logger.warning("should this program die, recover_jobs will not find its jobs: %s", error)
            self._drain()
            return
        started.set_result(None)
        end = None
        while end is None:
            entries = [self._queue.get()]
            if self.is_full and entries[-1][0] not in ENDS:
                time.sleep(GATHER_S)
            while entries[-1][0] not in ENDS and not self._queue.empty():
                entries.append(self._queue.get())
            if entries[-1][0] in ENDS:
                end = entries.pop()[0]
            self._write(db, entries)
        db.close()
        if end is _remove:
            remove(self.path)

    def _look(self, db: sqlite3.Connection) -> None:
        """Set ``is_full`` and ``_parts`` from the tables of the file just opened, which may be a dead program's."""
        self.is_full = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'part'").fetchone() is not None
        if self.is_full:
            self._parts = db.execute("SELECT coalesce(max(id), 0) FROM part").fetchone()[0]

    def _write(self, db: sqlite3.Connection, entries: list[Entry]) -> None:
        """Write entries in one transaction, then tell those that wait. After an error the journal is broken."""
        try:
            if not self._is_broken and entries:
                db.execute("BEGIN IMMEDIATE")
                for write, _, _ in entries:
                    if write is not None:
                        write(db)
                db.execute("COMMIT")
                for tell in self._answers:
                    tell()
        except Exception as error:
            self._is_broken = True
            if self.mark is not None and not self._is_closed:
                self.mark.note_broken()
            with contextlib.suppress(Exception):
                db.execute("ROLLBACK")
            if not isinstance(error, _AskerKnowsError):
                text = "journal %s cannot be written to any more: %s; should this program die, later jobs are lost"
                logger.error(text, self.path, error)
        self._answers.clear()
        self._tell(entries)

    def _tell(self, entries: list[Entry]) -> None:
        """Wake threads that wait for room, post callbacks of entries (written or dropped), and empty ``entries``."""
        size = sum([own for _, own, _ in entries])
        if size:
            with self._room:
                self._unwritten -= size
                self.is_behind = self._unwritten > UNWRITTEN_MAX
                self._room.notify_all()
        told = [after for _, _, after in entries if after is not None]
        entries.clear()
        if told:
            self._post(lambda: [each() for each in told])

    def statistics(self) -> dict[str, int]:
        """Returns numbers of entries, and bytes of payloads in them, that are not on disk yet. On any thread."""
        return {"entries_waiting": self._queue.qsize(), "bytes_waiting": self._unwritten}

    def _drain(self) -> None:
        """Drop all entries and tell those that wait for them, until the last entry: the file could not be opened."""
        while True:
            entry = self._queue.get()
            if entry[0] in ENDS:
                return
            self._tell([entry])


class _AskerKnowsError(Exception):
    """Raised in the thread when a function of ``ask`` has failed: the asker gets the error, so it is not logged."""


def _close(db: sqlite3.Connection) -> None:
    """Stand in the queue for the end of the thread: it writes the entries before this, then closes the file."""


def _remove(db: sqlite3.Connection) -> None:
    """Stand in the queue for the end of the thread, as ``_close``, and for removing the file and its marks."""


REMOVE = _remove
ENDS = (_close, _remove)
"""Writers of the last entry of the queue, by identity; they are never called."""


def _copy(data: Any) -> memoryview:
    """Return a copy of a large payload as it is now, in pool memory: the original may be changed or reused."""
    block = pool.take(len(data))
    block[:] = data
    return block
