"""The observer of a scheduler: the object that is told what happens to nodes, jobs and files. The engine is one."""

from __future__ import annotations

from typing import Protocol

from dispy.core import scheduling as core
from dispy.net.dialing import Target
from dispy.protocol import node
from dispy.protocol.views import NodeInfo


class Observer(Protocol):
    """The object that is told what happens: the client library's engine.

    All methods are called on the scheduler's loop, and must not block. ``found`` is the node that the news is about.
    An ``action`` is the core's: it names client, computation and jobs by number (``core.scheduling.actions``).
    Messages of nodes name a computation by its number at its client, too.
    """

    def on_node_known(self, found: NodeInfo) -> None:
        """A node has introduced itself, or was found at another address, too (``found.aliases``).

        The observer allocates it to the computations that may use it; until then no job is sent there.
        """

    def on_node_gone(self, found: NodeInfo, reason: str) -> None:
        """A node is lost, or has left; ``reason`` is a sentence for the user. ``found`` is not used any more.

        What becomes of its jobs was told before (``on_requeued``, ``on_ended_here``).
        """

    def on_unreachable(self, target: Target, error: Exception) -> None:
        """No node has introduced itself at an address: none answered for ``net.links.link.SLOW_S`` (the link goes on
        trying), it cannot be reached, or it refused us (the link is given up). ``error`` says which."""

    def on_ended(self, action: core.TellEnded, found: NodeInfo) -> None:
        """Jobs have reached their final status on a node; ``action.ended`` has their results. Once per job."""

    def on_ended_here(self, action: core.TellEndedHere) -> None:
        """Jobs have reached their final status in this program, without a result of a node: they were cancelled or
        given up; ``action.reason`` says why. Once per job."""

    def on_started(self, action: core.TellStarted, found: NodeInfo) -> None:
        """Jobs are running on a node. Most jobs that run for less than 10 ms are never reported here."""

    def on_requeued(self, action: core.TellRequeued) -> None:
        """Jobs wait in the queue again, for any node: their node was lost or gave them back."""

    def on_value(self, action: core.TellValue, found: NodeInfo) -> None:
        """A job has sent a provisional result, or a part of a file, and waits until the observer gives the core
        ``AnswerValue``."""

    def on_printed(self, action: core.TellPrinted) -> None:
        """Running jobs that are watched have printed something. The node sends more when the observer has given the
        core ``AnswerPrinted``."""

    def on_usable(self, action: core.TellNode, found: NodeInfo) -> None:
        """A node has become usable for a computation, or is not usable any more (``action.is_usable``).

        The observer updates its list of the cluster's nodes; ``action.reason`` is a warning, or says why not.
        """

    def on_vacated(self, action: core.TellVacated, found: NodeInfo) -> None:
        """A computation has left a node that it may return to, as asked (``Vacate.returns``). The observer allocates
        CPUs there anew, or gives the node up for this computation; until then jobs for this node alone wait."""

    def on_placement(self, action: core.TellPlacement, found: NodeInfo) -> None:
        """Something has changed about a computation on a node (``action.view``): its status, CPUs, slots, reasons, or
        the connection. The observer shows it, and chooses nodes by it."""

    def on_files_needed(self, client: core.ClientId, message: node.NeedFiles, found: NodeInfo) -> None:
        """A node asks for pieces of files of a client. The observer answers with ``SchedulerService.send_pieces``."""

    def on_files(self, action: core.TellFiles) -> None:
        """Files are in place in a computation's working directory on a node, or cannot be put there
        (``action.reason``)."""

    def on_cpus(self, found: NodeInfo) -> None:
        """A node may offer another number of CPUs than before (``found.cpus``). The observer decides anew how many of
        them each cluster uses."""

    def on_available(self, found: NodeInfo) -> None:
        """A node has reported its free resources (``found.available``)."""

    def on_jobs_listed(self, found: NodeInfo, message: node.JobsListed) -> None:
        """A node has answered ``SchedulerService.ask_jobs``; ``message.serial`` is that of the question."""
