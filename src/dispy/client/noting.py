"""What journals are told of a cluster, so that somebody finds its jobs should the program die."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dispy import config
from dispy.client import journal_files
from dispy.client.journal import Journal, Options

if TYPE_CHECKING:
    from dispy.client.state import ClusterState


def open_journal(cluster: ClusterState, recover_file: str | os.PathLike[str] | None) -> Journal:
    """A new journal of a cluster, with all its jobs.

    Raises:
        UsageError: ``recover_file`` exists, or cannot be made.
    """
    service, post = cluster._engine.service, cluster._engine.post
    given = None if recover_file is None else Path(recover_file).absolute()
    path = given or journal_files.new_path(service.identity, is_full=True)
    journal = Journal(path, journal_files.create, post, is_full=True, wait=True)
    journal.begin(service.identity, service.name)
    note_computation(cluster, journal)
    return journal


def note_computation(cluster: ClusterState, journal: Journal) -> None:
    """Have a journal know what it takes to find the jobs of a cluster, and to run them."""
    tls = cluster._tls

    def shown(file: str | None) -> str:
        return os.path.abspath(file) if file else ""

    options = Options(
        cluster._secret.fingerprint(),
        secret_file=shown(cluster._secret_file),
        certfile=shown(tls.certfile),
        keyfile=shown(tls.keyfile),
        cafile=shown(tls.cafile),
        tls=tls.wanted,
        isolate=cluster._isolate,
        program=cluster._computation.is_program,
        setup_per=cluster._setup_per,
        setup_timeout=cluster._setup_timeout,
        reentrant=cluster._reentrant,
        exclusive=cluster._exclusive,
        pulse_s=cluster._pulse_s,
        nodes=[
            (a.host, a.port or (0 if a.ip_addr is None else config.node_port()), a.cpus)
            for a in cluster._allocations
        ],
        dest_path=cluster._dest_path,
        keeps_files=cluster._keeps_files,
        files=cluster._files,
        sources=cluster._shipped.known(),
    )
    journal.add_computation(cluster._number, cluster.name, options, cluster._computation.code)
