"""Files of journals: made, locked, opened again, found, removed.

A journal has a directory and a name by default (``new_path``), or a path that the user gave. The files ``NAME-wal``,
``NAME-shm`` and ``NAME-journal`` beside it are SQLite's; ``NAME-sentN`` is the mark of session N.

A living program holds SQLite's exclusive lock on its journal, so a lock that can be had is the sign of a dead
program. The kernel drops the lock however the program ends, also when it is killed.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dispy.errors import DispyError, StateDirectoryError, UsageError
from dispy.journal.schema import APPLICATION, VERSION, make_tables
from dispy.system.directories import private_directory, state_directory

if TYPE_CHECKING:
    # Imported where it is used: it takes some 10 ms, which are those of the journal's thread.
    import sqlite3

logger = logging.getLogger("dispy.client")

NEW_S = 60.0
"""Seconds since the last change of an empty journal after which ``remove_empty`` removes it. A younger one may be of
a program that is just making it."""

OLD_S = 30 * 86400.0
"""Seconds since its last note after which a dead program's short journal is removed (``remove_old``), unless a
recovery asked for it in that time. Its jobs cannot be found any more. By default nodes keep results for an hour."""


class BusyError(UsageError):
    """Raised for a journal that a living program or another recovery has locked."""


class EmptyError(UsageError):
    """Raised for a journal without content: its program died when it began, or has made it just now."""


def journals_directory() -> Path:
    """Return the usual directory of journals, for those that were not given a path; make it (0700) if it is missing.

    Raises:
        StateDirectoryError: The user's state directory cannot be used.
    """
    return private_directory(state_directory() / "journals")


def mark_path(path: Path, session: int) -> Path:
    """Return the path of the mark (``journal.mark``) of one session of a journal. Nothing is made."""
    return path.with_name(f"{path.name}-sent{session}")


def create(path: Path, *, is_full: bool = True) -> sqlite3.Connection:
    """Make a journal, locked, with empty tables. Each later transaction waits until it is on the disk itself.

    Args:
        path: Path of the file, which must not exist.
        is_full: True to make the tables for jobs, results and objects, too.

    Returns:
        The connection, for the thread that calls this.

    Raises:
        UsageError: There is a file at this path, or none can be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise _describe_existing(path) from None
    except OSError as error:
        raise UsageError(
            f"journal {path} cannot be made: {error.strerror}", hint="give a path that you can write to"
        ) from error
    os.close(descriptor)
    db = _connect(path)
    try:
        # Without syncs: there is nothing yet that could be lost.
        db.execute("PRAGMA synchronous = OFF")
        # Large pages save half of the time that batches take.
        db.execute(f"PRAGMA page_size = {16384 if is_full else 512}")
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("PRAGMA journal_mode = WAL")
        make_tables(db, is_full=is_full)
        # Each transaction to the disk itself: nodes forget what is written here, and a machine may lose its power.
        db.execute("PRAGMA synchronous = FULL")
    except BaseException:
        db.close()
        remove(path)
        raise
    return db


def create_short(path: Path) -> sqlite3.Connection:
    """Make a short journal as ``create`` does, and its directory if that is missing.

    Old short journals of dead programs are removed from the directory first.

    Raises:
        UsageError: As ``create``.
        StateDirectoryError: The directory cannot be used.
    """
    private_directory(path.parent)
    remove_old(path.parent)
    return create(path, is_full=False)


def take_over(path: Path) -> sqlite3.Connection:
    """Open the journal of a program that has died, and lock it.

    Returns:
        The connection, for the thread that calls this. Closing it gives up the lock.

    Raises:
        BusyError: The program lives, or another recovery has the journal. Does not wait for the lock.
        EmptyError: No program has written who it is: there is nothing to recover.
        UsageError: The file is no journal, is another user's, or cannot be read.
    """
    import sqlite3

    try:
        status = os.stat(path)
    except OSError as error:
        raise UsageError(f"journal {path} cannot be read: {error.strerror}") from error
    if status.st_uid != os.getuid():
        raise UsageError(f"journal {path} is another user's")
    db = _connect(path)
    try:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if tables and db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
            raise UsageError(f"{path} is no journal of dispy")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise UsageError(f"journal {path} is of a newer dispy ({version})", hint="use that one")
        db.execute("PRAGMA synchronous = FULL")
        # A write takes the lock, which stays ours until the connection is closed (``locking_mode``).
        db.execute("BEGIN IMMEDIATE")
        if "session" not in tables or not db.execute("UPDATE session SET boot = boot").rowcount:
            raise EmptyError(f"{path} is no journal of dispy: it is empty")
        db.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        db.close()
        if _is_locked(error):
            raise BusyError(
                f"journal {path} is in use: its program runs, or a recovery of it does",
                hint="wait for its end, or end it",
            ) from error
        raise UsageError(f"{path} is no journal of dispy: {error}") from error
    except BaseException:
        db.close()
        raise
    return db


@contextlib.contextmanager
def looked_at(path: Path) -> Iterator[tuple[sqlite3.Connection, float]]:
    """Open the journal of a dead program, locked during the block. The file keeps its time of last change.

    Errors of reading in the block become ``UsageError``.

    Yields:
        The connection, and when the program wrote there last (seconds since the epoch).

    Raises:
        BusyError: The program lives, or another recovery has the journal.
        UsageError: The file is no journal, or damaged.
    """
    import sqlite3

    with unaged(path) as died:
        db = take_over(path)
        try:
            yield db, died
        except (sqlite3.Error, ValueError, TypeError, IndexError) as error:
            raise UsageError(f"journal {path} is damaged: {error}") from error
        finally:
            db.close()


@contextlib.contextmanager
def unaged(path: Path) -> Iterator[float]:
    """Restore the age of a journal (its time of last change) at the end of the block, which may open the journal.

    Opening changes the file, and the user is told by its age when the program wrote last.

    Yields:
        When the program wrote there last (seconds since the epoch); 0 if there is no such file.
    """
    times = []
    for each in (path, path.with_name(f"{path.name}-wal")):
        with contextlib.suppress(OSError):
            times.append(each.stat().st_mtime_ns)
    last = max(times, default=0)
    try:
        yield last / 1e9
    finally:
        with contextlib.suppress(OSError):
            os.utime(path, ns=(last, last))


def last_asked(db: sqlite3.Connection) -> float:
    """Return when a recovery took the journal last and could not fetch all (seconds since the epoch); 0: never.

    ``note_asked`` has stored this time in the journal.
    """
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'asked'").fetchone():
        return 0.0
    return float(db.execute("SELECT max(time) FROM asked").fetchone()[0] or 0)


def note_asked(db: sqlite3.Connection) -> None:
    """Store that a recovery took the journal now and could not fetch all: the next one tries other programs first."""
    db.execute("CREATE TABLE IF NOT EXISTS asked (time REAL)")
    db.execute("DELETE FROM asked")
    db.execute("INSERT INTO asked VALUES (?)", (time.time(),))


def _is_locked(error: sqlite3.Error) -> bool:
    """True if an error of SQLite says that another process has the lock: a living program, or a recovery."""
    import sqlite3

    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _connect(path: Path) -> sqlite3.Connection:
    """Open a database, and return the connection. It keeps the lock from its first write until it is closed.

    A lock that another process has is not waited for: SQLite's error comes at once (see ``_is_locked``).
    """
    import sqlite3

    db = sqlite3.connect(path, isolation_level=None, timeout=0)
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    return db


def _describe_existing(path: Path) -> UsageError:
    """Return the error for a new journal at a path where a file is: in use, of a dead program, or no journal."""
    try:
        take_over(path).close()
    except BusyError:
        return UsageError(
            f"journal {path} is in use by a program that runs", hint="give each cluster a file of its own"
        )
    except UsageError as error:
        return UsageError(f"{path} exists, and is not overwritten ({error})", hint="give another name")
    return UsageError(
        f"{path} is the journal of a program that died",
        hint=f"fetch its jobs with dispy.recover_jobs({str(path)!r}), or remove the file",
    )


def remove(path: Path) -> None:
    """Remove a journal with its marks and SQLite's files: its jobs cannot be recovered after that. Ignores errors."""
    with contextlib.suppress(OSError):
        marks = [each for each in path.parent.iterdir() if each.name.startswith(f"{path.name}-sent")]
        for each in [
            path,
            *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal")),
            *marks,
        ]:
            each.unlink(missing_ok=True)


def remove_old(directory: Path) -> None:
    """Remove short journals whose last note is older than ``OLD_S`` and that no recovery asked for in that time.

    Nodes have nothing left of their jobs. Journals of living programs are locked, and stay. A warning names the
    programs whose journals were removed. A journal that cannot be read stays.
    """
    removed = []
    for path in sorted(directory.glob(f"*{SHORT}")):
        with contextlib.suppress(OSError, DispyError):
            old = time.time() - OLD_S
            if path.stat().st_mtime < old:
                with looked_at(path) as (db, _):  # raises BusyError if the program lives
                    programs = [str(name) for (name,) in db.execute("SELECT program FROM session")]
                    is_old = last_asked(db) < old
                if is_old:
                    remove(path)
                    removed += programs
    if removed:
        logger.warning(
            "recover_jobs cannot find the jobs any more of programs that have died, and that nobody asked for in %d "
            "days: %s",
            OLD_S // 86400, ", ".join(removed),
        )  # fmt: skip


def remove_empty(path: Path) -> None:
    """Remove a journal that is known to be empty, unless it is younger than ``NEW_S``: it may be in use soon."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > NEW_S:
            remove(path)


SHORT = ".journal"
"""Suffix of short journals in the usual directory: ``remove_old`` removes only these."""
FULL = ".full"
"""Suffix of full journals in the usual directory: these stay until their jobs are fetched."""

_made = itertools.count(1)
"""Counts the journals of this process from 1. ``new_path`` ends a file's name with the next number, so that no two
journals have one name."""


def new_path(identity: bytes, *, is_full: bool) -> Path:
    """Return a path for a new journal in the usual directory: ``DATE-TIME-IDENTITY-N`` and suffix; sorts by time.

    No file is made.

    Args:
        identity: Identity of the program; its first 6 bytes are in the name, in hexadecimal (see ``program_of``).
        is_full: True for the suffix ``FULL``, False for ``SHORT``.

    Raises:
        StateDirectoryError: The user's state directory cannot be used.
    """
    now = time.time()
    # To the microsecond: programs that begin in the same second have an order, too.
    began = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}{int(now % 1 * 1e6):06}"
    name = f"{began}-{identity.hex()[:12]}-{next(_made)}"
    return journals_directory() / f"{name}{FULL if is_full else SHORT}"


def program_of(path: Path) -> str:
    """Return the part of a journal's name that is the same in all journals of one program: 12 hexadecimal digits.

    The path must be of the form of ``new_path``. By this part the journals of a program are recovered together.
    """
    return path.name.split("-")[2]


def left_behind() -> Iterator[Path]:
    """Yield the journals in the usual directory, newest first; journals of living programs are among them.

    Yields none if the user's state directory cannot be used.
    """
    try:
        directory = journals_directory()
    except StateDirectoryError:
        return
    yield from sorted(
        (
            path
            for path in directory.iterdir()
            if path.suffix in (SHORT, FULL) and path.name.count("-") == 3
        ),
        reverse=True,
    )
