"""The listener of a scheduler: the object that is told what happens to nodes, jobs and files."""

from __future__ import annotations

from typing import Protocol

from dispy.core import scheduling as core
from dispy.protocol import node
from dispy.scheduler.link import NodeInfo, Target


class Listener(Protocol):
    """The object that is told what happens: the client library's engine.

    All methods are called on the scheduler's loop; they must not block. ``found`` is the node that the news is about.
    """

    def on_node_known(self, found: NodeInfo) -> None:
        """A node has introduced itself. The listener allocates it to the computations that may use it."""

    def on_node_gone(self, found: NodeInfo, reason: str) -> None:
        """A node is lost, or has left; ``reason`` is a sentence for the user. Its jobs were told of before."""

    def on_unreachable(self, target: Target, error: Exception) -> None:
        """A node did not answer for ``link.SLOW_S`` (the link goes on), cannot be reached, or refused us."""

    def on_ended(self, action: core.TellEnded, found: NodeInfo) -> None:
        """Jobs have reached their final status on a node."""

    def on_ended_here(self, action: core.TellEndedHere) -> None:
        """Jobs have reached their final status in this program, without a result of a node."""

    def on_started(self, action: core.TellStarted, found: NodeInfo) -> None:
        """Jobs are running on a node."""

    def on_requeued(self, action: core.TellRequeued) -> None:
        """Jobs wait in the queue again: their node was lost or gave them back."""

    def on_value(self, action: core.TellValue, found: NodeInfo) -> None:
        """A job has sent a provisional result, or a part of a file."""

    def on_printed(self, action: core.TellPrinted) -> None:
        """Running jobs have printed something."""

    def on_usable(self, action: core.TellNode, found: NodeInfo) -> None:
        """A node has become usable for a computation, or is not usable any more."""

    def on_vacated(self, action: core.TellVacated, found: NodeInfo) -> None:
        """A computation has left a node that it may return to. The listener allocates it anew, or drops the node."""

    def on_credit(self, action: core.TellCredit, found: NodeInfo) -> None:
        """A node's credit for a computation has a new reason (``Credit.reason``)."""

    def on_files_needed(self, message: node.NeedFiles, found: NodeInfo) -> None:
        """A node asks for pieces of files. The listener answers with ``SchedulerService.send_pieces``."""

    def on_files(self, action: core.TellFiles) -> None:
        """Files are in place in a working directory, or cannot be put there."""

    def on_cpus(self, found: NodeInfo) -> None:
        """A node may offer another number of CPUs than before (``found.cpus``)."""

    def on_available(self, found: NodeInfo) -> None:
        """A node has reported its free resources (``found.available``)."""

    def on_jobs_listed(self, found: NodeInfo, message: node.JobsListed) -> None:
        """A node has answered ``SchedulerService.ask_jobs``."""
