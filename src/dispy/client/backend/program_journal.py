"""The journal of a program's nodes: for clusters that have no journal of their own.

The journal is made when such a cluster uses its first node, and removed when the last of them has ended. Should the
program die, a recovery asks the nodes in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from dispy import config, payload
from dispy.errors import DispyError
from dispy.journal import files as journal_files
from dispy.journal.rows import PRIVATE, USED, NodeRow
from dispy.journal.thread import JournalThread
from dispy.journal.writer import Journal

if TYPE_CHECKING:
    from dispy.client.backend.open_clusters import OpenCluster
    from dispy.net.dialing import Target
    from dispy.protocol.views import NodeId, NodeInfo
    from dispy.scheduler.service import SchedulerService

logger = logging.getLogger("dispy.client")


class ProgramJournal:
    """Notes about the nodes of a program's clusters: in their own journals, or in the program's. On the loop.

    Args:
        service: The scheduler. Results are acknowledged only when they are on disk in all full journals.
        opened: Open clusters by number; shared with the backend, which changes it.
        make: Makes the program's journal; None if there is to be none, or it cannot be made.

    Attributes:
        noted: Numbers of the clusters that are in the program's journal.
    """

    def __init__(
        self,
        service: SchedulerService,
        opened: dict[int, OpenCluster],
        make: Callable[[], Journal | None],
    ) -> None:
        self._service = service
        self._opened = opened
        self._make = make
        self._journal: Journal | None = None
        """The program's journal; None while no cluster needs it."""
        self._has_failed = False
        """True if it could not be made; not tried again: only clusters with their own are recovered."""
        self._is_holding = False
        """True if the program has failed and acknowledges no more results: nodes keep them for a recovery."""
        self._ended: list[Journal] = []
        """Journals that were told to end and may still write to disk; ``close`` waits for their threads."""
        self.noted: set[int] = set()

    def begin(self, cluster: OpenCluster) -> None:
        """Have a cluster's full journal, if it has one, note which jobs leave; results wait for it from now on."""
        journal = cluster.spec.journal
        if journal is not None:
            assert journal.mark is not None
            self._service.on_send[cluster.number] = journal.mark.note
            self._service.links.after_note = self._after_note

    def statistics(self) -> dict[str, int]:
        """Returns the numbers of all journals of open clusters together, and of the program's (``Journal``)."""
        own = [cluster.spec.journal for cluster in self._opened.values()]
        found = [journal.thread.statistics() for journal in [*own, self._journal] if journal is not None]
        return {name: sum([each[name] for each in found]) for name in (found[0] if found else ())}

    def note_node(self, cluster: OpenCluster, info: NodeInfo, *, is_private: bool) -> None:
        """Note that a cluster uses a node, so that a recovery asks it. Called before the node gets the computation.

        The note goes into the cluster's full journal. Without one it goes into the program's journal, which is made
        for the first such note; if there is none, nothing is noted. Does not wait for the
        disk.

        Args:
            cluster: Cluster that uses the node.
            info: The node.
            is_private: True if the node was started by this program for itself: only full journals note it then.
        """
        journal = cluster.spec.journal
        if journal is not None:
            journal.add_node(_node_row(info, self._service.links.target_of(info.node), is_private))
            return
        # A private node ends with the program: a recovery would find nothing there.
        if is_private or self._has_failed:
            return
        if self._journal is None:
            self._journal = self._make()
            if self._journal is None:
                self._has_failed = True
                return
        if cluster.number not in self.noted:
            self.noted.add(cluster.number)
            cluster.spec.note(self._journal)
        self._journal.add_node(_node_row(info, self._service.links.target_of(info.node), is_private))

    def drop_node(self, node: NodeId) -> None:
        """Note the loss of a node in all journals: a recovery ignores its late results."""
        if self._journal is not None:
            self._journal.drop_node(node)
        for cluster in self._opened.values():
            if cluster.spec.journal is not None:
                cluster.spec.journal.drop_node(node)

    def forget(self, cluster: OpenCluster) -> None:
        """Note that a cluster has ended, which is not among the open ones any more.

        With the end of the last cluster in it the program's journal is removed, as nothing is left to recover. When
        no cluster with a full journal is left, results are acknowledged to nodes at once again.
        """
        self._service.on_send.pop(cluster.number, None)
        if not self._is_holding and not any(other.spec.journal for other in self._opened.values()):
            self._service.links.after_note = None
        if self._journal is not None and cluster.number in self.noted:
            self.noted.discard(cluster.number)
            if self.noted:
                self._journal.drop_computation(cluster.number)
            else:
                self._journal.end(remove=True)
                self._ended.append(self._journal)
                self._journal = None

    def hold(self) -> None:
        """Acknowledge no more results, as the program has failed: nodes keep them for a recovery."""
        self._is_holding = True
        self._service.links.after_note = never

    def close(self, *, is_leaving: bool) -> None:
        """End the program's journal; its file stays if ``is_leaving``. Waits for the disk. On any thread."""
        if self._journal is not None:
            self._journal.close(remove=not is_leaving)
        for journal in self._ended:
            journal.close(remove=True)

    def _after_note(self, told: Callable[[], None]) -> None:
        """Call ``told`` once the results that came until now are on disk in all open full journals.

        At once if no cluster has a full journal. The scheduler passes a ``told`` that acknowledges these results;
        nodes forget them then.
        """
        for cluster in self._opened.values():
            if cluster.spec.journal is not None:
                told = partial(cluster.spec.journal.thread.after_note, told)
        told()


def make_journal(identity: bytes, name: str, post: Callable[..., None]) -> Journal | None:
    """Make a program's journal, and return it; None if ``config.Journal`` is off, or, with a warning, if the state
    directory cannot be used.

    Does not wait: the file is opened on the journal's thread. An error there is only logged; the program goes on,
    and ``recover_jobs`` will not find its jobs.

    Args:
        identity: Identity under which nodes, or a shared scheduler, know the program: 16 bytes.
        name: Name of the program, with its process id.
        post: Has a function called on the loop; on any thread.
    """
    if not config.Journal:
        return None
    try:
        path = journal_files.new_path(identity, is_full=False)
    except DispyError as error:
        logger.warning("should this program die, recover_jobs will not find its jobs: %s", error)
        return None
    thread = JournalThread(path, journal_files.create_short, post)
    journal = Journal(thread, is_full=False, wait=False, repack=payload.repack)
    journal.begin(identity, name)
    return journal


def never(told: Callable[[], None]) -> None:
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
        target.keys.fingerprint,
        PRIVATE if is_private else USED,
    )
