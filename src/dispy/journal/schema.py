"""Tables of a journal, which is an SQLite file, and the numbers by which a file is known as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Imported where it is used: it takes some 10 ms, which are those of the journal's thread.
    import sqlite3

APPLICATION = 0x64697370  # "disp"
"""``application_id`` of a journal's database. A file with another one is refused: it is no journal of dispy."""

VERSION = 1
"""``user_version`` of the database: a journal with a higher one was written by a newer dispy, and is refused."""

# A row of ``session`` for each program that had the journal: the one that died, and those that resumed its jobs.
_SHORT_SCHEMA = """
CREATE TABLE session (id INTEGER PRIMARY KEY, identity BLOB, program TEXT, started REAL, boot TEXT);
CREATE TABLE node (session INTEGER, incarnation BLOB, host TEXT, port INTEGER, name TEXT, label TEXT, tls INTEGER,
    fingerprint TEXT, state INTEGER, PRIMARY KEY (session, incarnation)) WITHOUT ROWID;
CREATE TABLE computation (session INTEGER, number INTEGER, name TEXT, options BLOB, code BLOB,
    PRIMARY KEY (session, number)) WITHOUT ROWID;
"""

# A full journal is of one computation, which has a number in each session. A job has the same number in all sessions.
# ``jobs`` are MessagePack arrays: of jobs in ``submitted``, of results in ``ended``, of numbers in ``resumed``.
# A payload that is too large for a row lies in ``part``, in several rows in the order of ``place``.
_FULL_SCHEMA = """
CREATE TABLE submitted (id INTEGER PRIMARY KEY, time REAL, pinned INTEGER, jobs BLOB);
CREATE TABLE ended (id INTEGER PRIMARY KEY, ip TEXT, jobs BLOB);
CREATE TABLE resumed (session INTEGER PRIMARY KEY, jobs BLOB);
CREATE TABLE object (number INTEGER PRIMARY KEY, part INTEGER);
CREATE TABLE part (id INTEGER, place INTEGER, data BLOB, PRIMARY KEY (id, place)) WITHOUT ROWID;
"""


def make_tables(db: sqlite3.Connection, *, is_full: bool) -> None:
    """Make the tables of a journal in an empty database, in one transaction.

    Args:
        db: The database.
        is_full: True to make the tables for jobs, results and objects, too.
    """
    db.executescript(f"BEGIN; {_SHORT_SCHEMA} {_FULL_SCHEMA if is_full else ''} COMMIT;")
