"""The journal of a program that has died: opened, locked, and put together for a recovery.

A journal may have had several programs, one after another: the one that made it, and those that resumed its jobs and
died as well. Each is a *session*, with an identity, nodes and computations of its own. A job has the same number in
all sessions. ``journal.reader`` reads the rows; here the secrets of the nodes are found, and each session gets its
``core.recovery.Recovery``, which knows which nodes may have jobs.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dispy import payload
from dispy.client.logger import notice
from dispy.core.recovery import PlaceStatus, Recovery, Result
from dispy.errors import DispyError, UsageError
from dispy.journal import files, reader
from dispy.journal.files import BusyError, EmptyError
from dispy.journal.mark import Marked
from dispy.journal.reader import Submitted
from dispy.journal.rows import GIVEN_UP, PRIVATE, SCHEDULER, USED, NodeRow, Options
from dispy.journal.thread import JournalThread
from dispy.journal.writer import Journal
from dispy.protocol.limits import CHUNK_NUMBERS_FROM
from dispy.security import secrets
from dispy.security.secrets import Secret
from dispy.security.tls import Tls
from dispy.system import current_directory

if TYPE_CHECKING:
    # Imported where it is used: it takes some 10 ms, which are those of the journal's thread.
    import sqlite3

    from dispy.client.job import DispyJob

logger = logging.getLogger("dispy.client")


class PastSession:
    """A program that had the journal: the one that died, or one that resumed its jobs and died as well.

    Attributes:
        number: Number of the session in its journal, from 1, in the order in which the programs had the journal.
        identity: Identity under which nodes know the program: 16 bytes. A recovery introduces itself by it.
        program: Name of the program, with its process id: for messages, and for the logs of nodes that are asked.
        boot: Identity of the boot of the machine in which the program began; empty if that is not known. The mark
            counts only if the machine was not booted since.
        nodes: Rows of the nodes that the program used, in any order. Lost and private nodes are among them, but only
            nodes whose ``state`` is ``USED``, and schedulers, are asked.
        computations: Name of the cluster and options of each computation that had not ended, by its number.
        recovery: Collects what the nodes answer about the jobs of this session, and tells what is still missing.
        marked: Contents of the session's mark: the highest job that was sent, and whether results may be missing in
            the journal. None if there is no mark to be trusted: then only the nodes tell which jobs were started.
        keys: Secret and the options of one computation that used it, by the secret's fingerprint: nodes are dialed
            with both. Empty until ``open_journal`` or ``open_all`` has filled it.
    """

    def __init__(self, number: int, identity: bytes, program: str, boot: str) -> None:
        self.number = number
        self.identity = identity
        self.program = program
        self.boot = boot
        self.nodes: list[NodeRow] = []
        self.computations: dict[int, tuple[str, Options]] = {}
        self.recovery: Recovery
        self.marked: Marked | None = None
        self.keys: dict[str, tuple[Secret, Options]] = {}


class Dead:
    """The journal of a dead program, and its contents.

    Args:
        journal: The journal, open and locked. This object closes it.
        noted: When its program wrote there last (seconds since the epoch); 0: that is not known. ``close`` gives the
            file this time again.

    Attributes:
        journal: As the parameter.
        noted: As the parameter.
        is_done: True if all jobs were fetched, so that ``close`` removes the journal. The recovery sets it.
        sessions: The programs that had the journal, the first one first; at least one.
        submitted: Rows of the jobs that were submitted (call, time), by number of the job. Empty for a short journal,
            as are ``told`` and ``session_of``.
        told: End of each job whose end is in the journal, and IP address of its node, by number of the job. The
            programs were told these results, so they count more than the answers of nodes.
        session_of: Number of the session in which a job went on last, by number of the job. Has only jobs that were
            resumed; all others belong to the first session.
        code: Pickled code of the last computation, for nodes that run its jobs; empty for a short journal.
        name: Name of the cluster of the last computation.
        is_reentrant: True if a job that was started may be run again; always False for a short journal.
        is_program: True if jobs run a program and not a function, so that results are bytes; always False for a
            short journal.
        is_plain: True if no byte of a node may run code here: only plain data is read. True if a cluster of the
            journal said so; ``recover_jobs`` can set it.
        jobs: Jobs of this journal, rebuilt, by name (``rebuilt_jobs.Name``); ``make_jobs`` sets them.

    Raises:
        DispyError: The journal is damaged.
    """

    def __init__(self, journal: Journal, noted: float = 0.0) -> None:
        self.journal = journal
        self.noted = noted
        self.is_done = False
        self.sessions: list[PastSession] = []
        self.submitted: dict[int, Submitted] = {}
        self.told: dict[int, Result] = {}
        self.session_of: dict[int, int] = {}
        self.code = b""
        self.name = ""
        self.is_reentrant = False
        self.is_program = False
        self.is_plain = False
        self.jobs: dict[tuple[int, int], DispyJob] = {}
        journal.thread.ask(self._read)

    def _read(self, db: sqlite3.Connection) -> None:
        """Fill the attributes from the rows of the journal. Called once, on the journal's thread.

        Errors of SQLite and of decoding say that the journal is damaged; ``JournalThread.ask`` makes them
        ``DispyError``.
        """
        for found in reader.sessions(db):
            session = PastSession(found.number, found.identity, found.program, found.boot)
            self.sessions.append(session)
            session.nodes = reader.nodes(db, found.number)
            for computation in reader.computations(db, found.number):
                session.computations[computation.number] = (computation.name, computation.options)
                self.code, self.name = computation.code or self.code, computation.name
                self.is_plain = self.is_plain or computation.options.results == "plain"
            used = [row.incarnation for row in session.nodes if row.state in (USED, SCHEDULER)]
            lost = [row.incarnation for row in session.nodes if row.state == GIVEN_UP]
            private = [row for row in session.nodes if row.state == PRIVATE]
            session.recovery = Recovery(
                session.computations, used + [row.incarnation for row in private], lost, CHUNK_NUMBERS_FROM
            )
            for row in private:
                reason = "the program's own node ended with the program"
                session.recovery.give_up(row.incarnation, PlaceStatus.GONE, reason)
            session.marked = self.journal.marked(found.number, found.boot)
        if self.journal.is_full:
            self._read_jobs(db)

    def _read_jobs(self, db: sqlite3.Connection) -> None:
        """Fill the attributes that only a full journal has: ``submitted``, ``told``, ``session_of``, ``is_reentrant``
        and ``is_program``. ``_read`` calls this, on the journal's thread."""
        self.submitted = reader.submitted_jobs(db)
        for ip_addr, ended in reader.ended_jobs(db, payload.blocks.take):
            self.told[ended.number] = Result(ended, ip_addr)
        self.session_of = reader.resumed_jobs(db)
        options = [given for session in self.sessions for _, given in session.computations.values()]
        self.is_reentrant = any(given.reentrant for given in options)
        self.is_program = any(given.program for given in options)

    def close(self) -> None:
        """Close the journal, and with it give up the lock. If all jobs were fetched (``is_done``), remove the file.

        Otherwise note in it that it was asked for now: the next recovery tries other programs first. The file's time
        of last change stays, since it tells when the dead program wrote last.
        """
        if not self.is_done:
            with contextlib.suppress(DispyError):
                self.journal.thread.ask(files.note_asked)
        self.journal.close(remove=self.is_done)
        if not self.is_done and self.noted:
            with contextlib.suppress(OSError):
                os.utime(self.journal.path, (self.noted, self.noted))

    def session(self, number: int) -> PastSession:
        """Return the session in which a job went on last, by number of the job: its nodes can tell of the job.

        That is the first session for a job that was never resumed, or is not in the journal.
        """
        wanted = self.session_of.get(number, self.sessions[0].number)
        return next(session for session in self.sessions if session.number == wanted)

    def last_options(self) -> tuple[Secret, Options]:
        """Return secret and options of the last computation that was noted, to resume jobs by them.

        A program may have been killed after it had begun a session, and before it noted its computation: such a
        session has no jobs. Call this after ``open_journal`` or ``open_all``, which fill ``PastSession.keys``.
        """
        return next(found for session in reversed(self.sessions) for found in session.keys.values())

    def last_scheduler(self) -> NodeRow | None:
        """Return the shared scheduler that has the jobs, to resume others there; None if the program used nodes."""
        rows = [row for session in self.sessions for row in session.nodes if row.state == SCHEDULER]
        return rows[-1] if rows else None

    def arguments(self, number: int) -> Any:
        """Return the pickled call of a submitted job, by number of the job, as bytes or, if it is large, memoryview.

        Raises:
            DispyError: The journal is damaged.
        """
        job = self.submitted[number]
        return self.read_part(job.part) if job.part else job.data

    def read_part(self, part: int) -> memoryview:
        """Return the bytes of a large pickled call or object, by the number of its rows in the table ``part``.

        Blocks the caller until the journal's thread has read the rows from disk.

        Raises:
            DispyError: The journal is damaged.
        """
        return self.journal.thread.ask(partial(reader.read_part, part=part, take=payload.blocks.take))


def open_journal(recover_file: str | os.PathLike[str], given: dict[str, Any]) -> list[Dead]:
    """Open the journal of a dead program at a path.

    Args:
        recover_file: Path of the journal; "~" and a relative path are allowed.
        given: The arguments ``secret`` and ``secret_file`` of ``recover_jobs``, by name; empty or None: not given.

    Returns:
        One journal, locked: the caller closes it. An empty list, with a message to the user, if there is no file.

    Raises:
        UsageError: The file is no journal or in use, or its secret is not found.
    """
    if not isinstance(recover_file, (str, os.PathLike)):
        raise UsageError(f"recover_file must be a path, not {type(recover_file).__name__}")
    path = Path(
        current_directory.absolute(current_directory.expanded(recover_file, "recover_file"), "recover_file")
    )
    if not path.exists():
        notice(f"there is no journal {path}: nothing to recover")
        return []
    return _prepared([_open_dead(path)], given)


def open_all(paths: Iterable[Path], given: dict[str, Any]) -> list[Dead]:
    """Open the journals of one dead program.

    Args:
        paths: Paths of the journals.
        given: The arguments ``secret`` and ``secret_file`` of ``recover_jobs``, by name; empty or None: not given.

    Returns:
        The journals, locked, in the order of the paths: the caller closes them. Journals that are in use or empty are
        left out; others that cannot be read are left out and logged.

    Raises:
        UsageError: The secret of one of them is not found.
    """
    found: list[Dead] = []
    for path in paths:
        try:
            found.append(_open_dead(path))
        except (BusyError, EmptyError):
            continue
        except UsageError as error:
            logger.warning("%s", error)
    return _prepared(found, given)


def _prepared(found: list[Dead], given: dict[str, Any]) -> list[Dead]:
    """Fill ``PastSession.keys`` of all journals, and return the journals. If one secret is not found, close them all.

    Raises:
        UsageError: A secret is not found.
    """
    try:
        for one in found:
            _prepare(one, given)
    except BaseException:
        for one in found:
            one.close()
        raise
    return found


def _open_dead(path: Path) -> Dead:
    """Open, lock and read a journal, and return its contents; the caller closes it.

    The file's time of last change stays: it tells when the dead program wrote last.

    Raises:
        BusyError: The program lives, or another recovery has the journal.
        EmptyError: The journal is empty.
        UsageError: The file is missing, no journal, another user's, or damaged.
    """
    with files.unaged(path) as noted:
        return _take_over(path, noted)


def _take_over(path: Path, noted: float) -> Dead:
    """Open, lock and read a journal for ``_open_dead``, which restores the file's time of last change.

    Raises the errors of ``_open_dead``.

    ``noted`` is when the program wrote to the journal last (seconds since the epoch); it becomes ``Dead.noted``. A
    journal that is damaged is closed again before the error goes to the caller.
    """

    def call(function: Callable[[], object]) -> None:
        """Stand in for the loop of an engine: call a callback of the journal at once, on the journal's thread."""
        function()

    thread = JournalThread(path, files.take_over, call)
    journal = Journal(thread, is_full=False, wait=True, repack=payload.repack)
    try:
        return Dead(journal, noted)
    except BaseException:
        journal.close(remove=False)
        raise


def _prepare(one: Dead, given: dict[str, Any]) -> None:
    """Fill ``PastSession.keys`` of one journal: one secret for each fingerprint that its computations name.

    Raises:
        UsageError: A secret is not found.
    """
    for session in one.sessions:
        for name, options in session.computations.values():
            if options.fingerprint not in session.keys:
                session.keys[options.fingerprint] = (_find_secret(name, options, given), options)


def _find_secret(name: str, options: Options, given: dict[str, Any]) -> Secret:
    """Return the secret with the fingerprint that a cluster noted: its nodes accept no other.

    One is tried: the secret that the user gives, else the file that the cluster used, else the default secret
    (``DISPY_SECRET``, or the user's own).

    Args:
        name: Name of the cluster, for the error.
        options: Options that the cluster noted: fingerprint and path of the secret's file are used.
        given: The arguments ``secret`` and ``secret_file`` of ``recover_jobs``, by name; empty or None: not given.

    Raises:
        UsageError: That secret has another fingerprint, or cannot be read.
    """
    tried = [given] if given["secret"] or given["secret_file"] else []
    if not tried and options.secret_file:
        tried.append({"secret_file": options.secret_file})
    if not tried:
        tried.append({})
    reason = "that is another one"
    for arguments in tried:
        try:
            chosen = secrets.choose(**arguments)
        except DispyError as error:
            reason = str(error)
            continue
        if chosen.fingerprint() == options.fingerprint:
            return chosen
    raise UsageError(
        f"cluster {name} used a secret with the fingerprint {options.fingerprint}, and {reason}",
        hint="give it: recover_jobs(..., secret_file=PATH)",
    )


def noted_tls(options: Options) -> Tls:
    """Return the TLS settings of a computation, as the program that died had given them."""
    return Tls(options.certfile or None, options.keyfile or None, options.cafile or None, options.tls)
