"""What a scheduler tells its program: the protocol of listeners."""

from __future__ import annotations

from typing import Protocol

from dispy.core import scheduling as core
from dispy.protocol import node
from dispy.scheduler.link import NodeInfo, Target


class Listener(Protocol):
    """Who is told what happens: the client library, or a daemon's side towards its clients."""

    def on_node_known(self, found: NodeInfo) -> None:
        """A node has introduced itself; allocate it to the computations that may use it."""

    def on_node_gone(self, found: NodeInfo, reason: str) -> None:
        """A node is lost."""

    def on_unreachable(self, target: Target, error: Exception) -> None:
        """A node that was to be reached did not answer, or refused us."""

    def on_ended(self, action: core.TellEnded, found: NodeInfo) -> None:
        """Jobs have reached their final status on a node."""

    def on_ended_here(self, action: core.TellEndedHere) -> None:
        """Jobs have reached their final status with us."""

    def on_started(self, action: core.TellStarted, found: NodeInfo) -> None:
        """Jobs are running."""

    def on_requeued(self, action: core.TellRequeued) -> None:
        """Jobs wait again."""

    def on_value(self, action: core.TellValue, found: NodeInfo) -> None:
        """A job sent a provisional result."""

    def on_printed(self, action: core.TellPrinted) -> None:
        """Running jobs have printed something."""

    def on_usable(self, action: core.TellNode, found: NodeInfo) -> None:
        """A node became usable for a computation, or ceased to be."""

    def on_vacated(self, action: core.TellVacated, found: NodeInfo) -> None:
        """A computation has left a node that it is to come back to: allocate it, or take the node away from it."""

    def on_credit(self, action: core.TellCredit, found: NodeInfo) -> None:
        """A node takes more or fewer jobs of a computation than before, for another reason than before."""

    def on_files_needed(self, message: node.NeedFiles, found: NodeInfo) -> None:
        """A node wants pieces of files; ``SchedulerService.send_pieces`` sends them."""

    def on_files(self, action: core.TellFiles) -> None:
        """Files have been put somewhere, or cannot be."""

    def on_cpus(self, found: NodeInfo) -> None:
        """A node may offer another number of CPUs than before."""

    def on_available(self, found: NodeInfo) -> None:
        """A node says what it has to spare."""

    def on_jobs_listed(self, found: NodeInfo, message: node.JobsListed) -> None:
        """A node answers what ``ask_jobs`` has asked."""
