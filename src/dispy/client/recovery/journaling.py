"""Notes in journals about clusters and their nodes, so that a recovery finds the jobs should the program die.

A cluster with ``durable`` or ``recover_file`` has a full journal of its own, with all its jobs. All other clusters of
a program share a short one, the program's journal: it is made when such a cluster uses its first node, and removed
when the last of them has ended.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dispy import config, payload
from dispy.client.logger import notice
from dispy.errors import DispyError
from dispy.journal import files as journal_files
from dispy.journal.rows import PRIVATE, USED, NodeRow, Options
from dispy.journal.writer import Journal
from dispy.security.secrets import Secret
from dispy.system import current_directory

if TYPE_CHECKING:
    from dispy.client.engine.engine import Engine
    from dispy.client.session.state import ClusterState
    from dispy.protocol.views import NodeInfo
    from dispy.scheduler.link import Target

logger = logging.getLogger("dispy.client")


def open_journal(cluster: ClusterState, recover_file: str | os.PathLike[str] | None) -> Journal:
    """Make the full journal of a cluster, and note the program and the cluster in it. Waits until the file is open.

    Args:
        cluster: The cluster.
        recover_file: Path of the journal; None: a new one in the usual directory.

    Returns:
        The journal, locked while this program lives. The caller ends it with the cluster.

    Raises:
        UsageError: ``recover_file`` exists, or cannot be made.
        StateDirectoryError: The user's state directory cannot be used.
    """
    service, post = cluster._engine.service, cluster._engine.post
    given = None
    if recover_file is not None:
        given = Path(
            current_directory.absolute(
                current_directory.expanded(recover_file, "recover_file"), "recover_file"
            )
        )
    path = given or journal_files.new_path(service.identity, is_full=True)
    journal = Journal(path, journal_files.create, post, is_full=True, wait=True, repack=repack)
    journal.begin(service.identity, service.name)
    note_computation(cluster, journal)
    return journal


def note_computation(cluster: ClusterState, journal: Journal) -> None:
    """Note a cluster in a journal, with all that a recovery needs to find its jobs on nodes, and to run them.

    To find jobs: fingerprint of the secret, TLS files. To run them: nodes, files, code (full journals only), options.
    Called when a cluster gets a full journal, takes over a dead program's, or uses its first node without a full one.
    Does not wait for the disk.
    """
    tls = cluster._tls
    options = Options(
        cluster._secret.fingerprint(),
        secret_file=cluster._secret_file or "",
        certfile=tls.certfile or "",
        keyfile=tls.keyfile or "",
        cafile=tls.cafile or "",
        tls=tls.wanted,
        isolate=cluster._isolate,
        results="plain" if cluster._is_plain else "any",
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


# The program's journal: for clusters that have none of their own.


def note_node(engine: Engine, cluster: ClusterState, info: NodeInfo, is_private: bool) -> None:
    """Note that a cluster uses a node, so that a recovery asks it. Called before the node gets the computation.

    The note goes into the cluster's full journal. Without one it goes into the program's short journal, which is
    made for the first such note; if that fails, or ``config.Journal`` is off, nothing is noted. Does not wait for
    the disk. On the loop.

    Args:
        engine: Engine of the program.
        cluster: Cluster that uses the node.
        info: The node.
        is_private: True if the node was started by this program for itself: only full journals note it then.
    """
    if cluster._journal is not None:
        cluster._journal.add_node(_node_row(info, engine.service.target_of(info.node), is_private))
        return
    # A private node ends with the program: a recovery would find nothing there.
    if is_private or engine._has_no_journal or not config.Journal:
        return
    if engine._journal is None:
        engine._journal = _new_journal(engine)
        if engine._journal is None:
            engine._has_no_journal = True
            return
    if cluster._number not in engine.noted:
        engine.noted.add(cluster._number)
        note_computation(cluster, engine._journal)
    engine._journal.add_node(_node_row(info, engine.service.target_of(info.node), is_private))


def repack(data: Any) -> memoryview | None:
    """Pickle a result again that was unpickled already (``data`` is a ``payload.Ready``), and return the bytes.

    None if ``data`` is still pickled: the journal copies these bytes itself. The journal calls this for results of
    ``INLINE_MAX`` bytes or more, before callbacks may change the value.
    """
    if type(data) is payload.Ready:
        return memoryview(payload.whole(payload.dump(data.value)))
    return None


def _new_journal(engine: Engine) -> Journal | None:
    """Make the program's short journal, and return it; None, with a warning, if the state directory cannot be used.

    The caller stores it. Does not wait: the file is opened on the journal's thread. An error there is only logged;
    the program goes on, and ``recover_jobs`` will not find its jobs.
    """
    try:
        path = journal_files.new_path(engine.service.identity, is_full=False)
    except DispyError as error:
        logger.warning("should this program die, recover_jobs will not find its jobs: %s", error)
        return None
    journal = Journal(
        path, journal_files.create_short, engine.post, is_full=False, wait=False, repack=repack
    )
    journal.begin(engine.service.identity, engine.service.name)
    return journal


def leave_results(engine: Engine) -> bool:
    """Keep the results of jobs for a recovery, as the program has failed and will not see them.

    Called at the program's end. Waits, without limit, until the jobs have ended of clusters whose results no callback
    takes. Results of clusters without a full journal stay on the nodes, since they are not acknowledged any more;
    journals stay on disk. The user is told the call that fetches the results.

    Returns:
        True if results are kept: the caller then leaves nodes and journals as they are.
    """
    left = [cluster for cluster in engine.clusters.values() if cluster._is_unheard()]
    engine._is_holding = any(cluster._journal is None for cluster in left)
    if engine._is_holding:
        engine.call(setattr, engine.service, "after_note", _never)
    for cluster in left:
        cluster.wait()
        engine.call(engine.clusters.pop, cluster._number)
        where = repr(str(cluster._journal.path)) if cluster._journal is not None else ""
        notice(
            f"the program has failed; what jobs of cluster {cluster.name} return is kept for it: "
            f"dispy.recover_jobs({where}) fetches it"
        )
        if cluster._journal is not None:
            cluster._journal.end(remove=False)
            engine._ended_journals.append(cluster._journal)
    return bool(left)


def forget_noted(engine: Engine, cluster: ClusterState) -> None:
    """Note in the program's short journal that a cluster has ended. On the loop.

    With the end of the last cluster in it the short journal is removed, as nothing is left to recover. Nothing is
    noted if the cluster is not in it. When no cluster with a full journal is left, results are acknowledged to nodes
    at once again, without waiting for a disk.
    """
    engine.service.on_send.pop(cluster._number, None)
    if not engine._is_holding and not any(other._journal is not None for other in engine.clusters.values()):
        engine.service.after_note = None
    if engine._journal is not None and cluster._number in engine.noted:
        engine.noted.discard(cluster._number)
        if engine.noted:
            engine._journal.drop_computation(cluster._number)
        else:
            engine._journal.end(remove=True)
            engine._ended_journals.append(engine._journal)
            engine._journal = None


def after_note(engine: Engine, told: Callable[[], None]) -> None:
    """Call ``told`` on the loop once the results that came until now are on disk in all open full journals.

    At once if no cluster has a full journal. The scheduler passes a ``told`` that acknowledges these results; nodes
    forget them then. Called on the loop.
    """
    for cluster in engine.clusters.values():
        if cluster._journal is not None:
            told = partial(cluster._journal.after_note, told)
    told()


def _never(told: Callable[[], None]) -> None:
    """Replace ``SchedulerService.after_note`` once the program has failed: ``told`` is never called.

    ``told`` would acknowledge results. Without it nodes keep these results for a recovery.
    """


def _node_row(info: NodeInfo, target: Target, is_private: bool) -> NodeRow:
    """Return the row of a node for a journal: address, names, secret's fingerprint, and the state PRIVATE or USED."""
    return NodeRow(
        info.node,
        target.host,
        target.port,
        target.name,
        info.name,
        target.tls is not None,
        Secret(target.key, is_own=False).fingerprint(),
        PRIVATE if is_private else USED,
    )
