"""The thread of a journal: writes entries to the file in transactions, and tells who waits for that.

Theory of operation. The thread writes everything; other threads put entries into its queue. It gathers entries for
``GATHER_S`` and writes them in one transaction. ``after_note`` is for what must not happen before notes are on disk:
a node may forget a result, or gets its first jobs. When a transaction fails the journal is broken: nothing is written
from then on, and callbacks are called all the same.

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
from typing import TYPE_CHECKING, TypeVar

import msgspec

from dispy.errors import DispyError, UsageError
from dispy.journal.files import remove
from dispy.protocol.limits import MIB

if TYPE_CHECKING:
    # Imported where it is used: it takes some 10 ms, which are those of the journal's thread.
    import sqlite3

logger = logging.getLogger("dispy.client")

UNWRITTEN_MAX = 64 * MIB
"""Back-pressure: bytes of payloads that may wait in a journal's queue. Beyond that ``submit`` waits for the disk."""

GATHER_S = 0.01
"""Seconds that a full journal gathers entries for one transaction, as each rewrites whole pages of the file."""

T = TypeVar("T")

Write = Callable[["sqlite3.Connection"], object]
"""Function that writes one entry, by the connection, in the transaction that is open. On the journal's thread."""

Entry = tuple[Write | None, int, Callable[[], None] | None]
"""Entry of the queue: its writer (None: nothing to write), the bytes of payloads in it, and a callback (or None) for
the engine's loop, called once the entry and all before it are on disk, or never will be (the journal is broken)."""


class JournalThread:
    """The thread that writes one journal. Usable on any thread, once ``start`` was called.

    Args:
        path: Path of the file.
        open_: Opens and locks the file, on the journal's thread (see ``journal.files``).
        post: Has a function called on the engine's loop.

    Attributes:
        path: Path of the file.
        gather_s: Seconds for which entries are gathered. Set by ``look`` of ``start``.
        is_behind: True if more than ``UNWRITTEN_MAX`` bytes wait to be written: call ``wait_for_room`` before adding.
    """

    def __init__(
        self,
        path: Path,
        open_: Callable[[Path], sqlite3.Connection],
        post: Callable[[Callable[[], object]], object],
    ) -> None:
        self.path = path
        self.gather_s = 0.0
        self._open = open_
        self._post = post
        self._look: Callable[[sqlite3.Connection], None]
        """Reads what the journal has to know of the file just opened, on the thread."""
        self._on_broken: Callable[[], None]
        """Called on the thread when a transaction has failed."""
        self._queue: queue.SimpleQueue[Entry] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
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
        self._answers: list[Callable[[], None]] = []
        """Calls that hand results of ``ask`` to the callers, made after the commit. For the journal's thread."""

    def statistics(self) -> dict[str, int]:
        """Returns numbers of entries, and bytes of payloads in them, that are not on disk yet. On any thread."""
        return {"entries_waiting": self._queue.qsize(), "bytes_waiting": self._unwritten}

    def start(
        self,
        look: Callable[[sqlite3.Connection], None],
        on_broken: Callable[[], None],
        *,
        wait: bool,
    ) -> None:
        """Start the thread. With ``wait``, wait until the file is open, and raise why it cannot be.

        Args:
            look: Reads what the journal has to know of the file just opened, on the thread.
            on_broken: Called on the thread when a transaction has failed.
            wait: False: do not wait; an error is logged, and nothing is ever written.

        Raises:
            DispyError: The file cannot be opened, and ``wait`` is True.
        """
        self._look, self._on_broken = look, on_broken
        started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=self._run, args=(started, wait), name="dispy journal", daemon=True
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

    def put(self, write: Write, size: int = 0) -> None:
        """Queue an entry with ``size`` bytes of payloads. Dropped if the journal is broken, closed or a parent's."""
        if self._is_broken or self._is_closed or self._pid != os.getpid():
            return
        if size:
            with self._room:
                self._unwritten += size
                self.is_behind = self._unwritten > UNWRITTEN_MAX
        self._queue.put((write, size, None))

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

        self.put(run)
        while True:
            try:
                return answer.result(0.2)
            except TimeoutError:
                if self._is_broken and not answer.done():
                    raise UsageError(f"journal {self.path} cannot be written to") from None
            except (sqlite3.Error, msgspec.DecodeError, struct.error) as error:
                raise UsageError(f"journal {self.path} is damaged, or its disk is full: {error}") from error

    def end(self, *, remove: bool) -> bool:
        """Have the file closed when the notes that wait are written, without waiting for that.

        Args:
            remove: True if nothing is left to be recovered: the file and its marks are removed.

        Returns:
            False, and nothing is done, in a fork, or if that was said before.
        """
        if self._pid != os.getpid() or self._is_closed:
            return False
        self._is_closed = True
        self._queue.put((_remove if remove else _close, 0, None))
        return True

    def join(self) -> None:
        """Wait until the file is closed, after ``end``. Returns at once in a fork."""
        if self._pid == os.getpid() and self._thread is not None:
            self._thread.join()

    @property
    def is_over(self) -> bool:
        """True once the file is closed, after ``end``."""
        return self._thread is not None and not self._thread.is_alive()

    # The thread.

    def _run(self, started: concurrent.futures.Future[None], wait: bool) -> None:
        """Open the file (``started`` gets the outcome), and write entries until the last one: the thread's body."""
        import sqlite3

        try:
            db = self._open(self.path)
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
            if self.gather_s and entries[-1][0] not in ENDS:
                time.sleep(self.gather_s)
            while entries[-1][0] not in ENDS and not self._queue.empty():
                entries.append(self._queue.get())
            if entries[-1][0] in ENDS:
                end = entries.pop()[0]
            self._write(db, entries)
        db.close()
        if end is _remove:
            remove(self.path)

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
            if not self._is_closed:
                self._on_broken()
            with contextlib.suppress(Exception):
                db.execute("ROLLBACK")
            if not isinstance(error, _AskerKnowsError):
                logger.error(
                    "journal %s cannot be written to any more: %s; should this program die, jobs from now on are "
                    "lost",
                    self.path,
                    error,
                )
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
