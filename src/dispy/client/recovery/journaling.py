"""Journals of clusters: made and described while the program lives, left for a recovery when it fails.

A cluster with ``durable`` or ``recover_file`` has a full journal of its own, with all its jobs. Nodes of all other
clusters of a program are noted in a short one (``backend.program_journal``).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dispy import config, payload
from dispy.client.logger import notice
from dispy.client.map.chunk_job import Chunk
from dispy.client.session import callbacks
from dispy.journal import files as journal_files
from dispy.journal.rows import Options
from dispy.journal.thread import JournalThread
from dispy.journal.writer import Journal
from dispy.system import current_directory

if TYPE_CHECKING:
    from dispy.client.session.state import Session


def open_journal(session: Session, recover_file: str | os.PathLike[str] | None) -> Journal:
    """Make the full journal of a cluster, and note the program and the cluster in it. Waits until the file is open.

    Args:
        session: The cluster.
        recover_file: Path of the journal; None: a new one in the usual directory.

    Returns:
        The journal, locked while this program lives. The caller ends it with the cluster.

    Raises:
        UsageError: ``recover_file`` exists, or cannot be made.
        StateDirectoryError: The user's state directory cannot be used.
    """
    given = None
    if recover_file is not None:
        given = Path(
            current_directory.absolute(
                current_directory.expanded(recover_file, "recover_file"), "recover_file"
            )
        )
    path = given or journal_files.new_path(session.backend.identity, is_full=True)
    thread = JournalThread(path, journal_files.create, session.engine.post)
    journal = Journal(thread, is_full=True, wait=True, repack=payload.repack)
    journal.begin(session.backend.identity, session.backend.name)
    note_computation(session, journal)
    return journal


def note_computation(session: Session, journal: Journal) -> None:
    """Note a cluster in a journal, with all that a recovery needs to find its jobs on nodes, and to run them.

    To find jobs: fingerprint of the secret, TLS files. To run them: nodes, files, code (full journals only), options.
    Called when a cluster gets a full journal, takes over a dead program's, or uses its first node without a full one.
    Does not wait for the disk.
    """
    chosen = session.options
    tls = chosen.access.tls
    options = Options(
        chosen.access.secret.fingerprint(),
        secret_file=chosen.secret_file or "",
        certfile=tls.certfile or "",
        keyfile=tls.keyfile or "",
        cafile=tls.cafile or "",
        tls=tls.wanted,
        isolate=chosen.isolate,
        results="plain" if chosen.is_plain else "any",
        program=chosen.computation.is_program,
        setup_per=chosen.setup_per,
        setup_timeout=chosen.setup_timeout,
        reentrant=chosen.reentrant,
        exclusive=chosen.exclusive,
        pulse_s=chosen.pulse_s,
        nodes=[
            (a.host, a.port or (0 if a.ip_addr is None else config.node_port()), a.cpus)
            for a in session.wishes.allocations
        ],
        dest_path=chosen.dest_path,
        keeps_files=chosen.keeps_files,
        files=chosen.files,
        sources=session.shipped.known(),
    )
    journal.add_computation(session.number, session.name, options, chosen.computation.noted())


def leave_results(sessions: dict[int, Session], call: Callable[..., object]) -> bool:
    """Keep the results of jobs for a recovery, as the program has failed and will not see them.

    Called at the program's end. Waits, without limit, until the jobs have ended of clusters whose results no callback
    takes. Results of clusters without a full journal stay on nodes, or at the shared scheduler, since they are not
    acknowledged any more; journals stay on disk. The user is told the call that fetches the results.

    Args:
        sessions: Open clusters by number; those whose results are kept are removed.
        call: Calls a function on the loop, and waits for it.

    Returns:
        True if results are kept: the caller then leaves nodes and journals as they are.
    """
    left = [session for session in sessions.values() if _is_unheard(session)]
    for backend in {id(one.backend): one.backend for one in left if one.journal is None}.values():
        call(backend.keep_results)
    for session in left:
        callbacks.wait_all(session, None)
        call(sessions.pop, session.number)
        where = repr(str(session.journal.path)) if session.journal is not None else ""
        notice(
            f"the program has failed; what jobs of cluster {session.name} return is kept for it: "
            f"dispy.recover_jobs({where}) fetches it"
        )
        if session.journal is not None:
            session.journal.close(remove=False)
    return bool(left)


def _is_unheard(session: Session) -> bool:
    """True if a failed program keeps results for ``recover_jobs``: a journal has them, no callback takes them."""
    if callbacks.has_callbacks(session):
        return False
    has_jobs = any(type(job) is not Chunk for job in list(session.jobs.values()))
    return session.journal is not None or (has_jobs and session.number in session.backend.noted)
