"""The seam: what a cluster asks of its scheduler (``Backend``), and what it is told (``Listener``).

Everything above the seam belongs to a program: jobs, callbacks, maps, output, files, the choice of nodes. Below it
is a scheduler: in the program's own process (``embedded``), or elsewhere. Above it nothing imports a scheduler or its
core; clusters go by views, which are fed from below, and ask what only explains.

A cluster is named by its number, from 1, unique at its backend; jobs by numbers of their own. Nodes are named by
``NodeId``. All methods are called on the engine's loop, if nothing else is said, and none waits.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from dispy.client.nodes import NodeAllocate
    from dispy.journal.writer import Journal
    from dispy.protocol.files import FileEntry
    from dispy.protocol.node import (
        AcknowledgeProvisional,
        Compute,
        Ended,
        FilePiece,
        FileUnreadable,
        Job,
        NeedFiles,
        PlaceFiles,
        Printed,
        Provisional,
        PutObject,
        Started,
    )
    from dispy.protocol.views import NodeId, NodeInfo, PlacementView
    from dispy.security.secrets import Secret
    from dispy.security.tls import Tls


class Access(Struct, frozen=True):
    """How nodes are dialed for a cluster.

    Attributes:
        secret: Secret shared with the nodes. A node with another secret is never used.
        tls: Certificates and key, and which links are to be encrypted.
        is_shared: True if these are for the link to a shared scheduler, which dials the nodes as it was told to.
    """

    secret: Secret
    tls: Tls
    is_shared: bool = False


class Wishes(Struct):
    """Nodes that a cluster may use, as far as they have to be looked for.

    Attributes:
        allocations: Elements of ``nodes``, the most specific first.
        wants_private: True if the cluster may use a node that the program starts for itself.
        uses_multicast: True: nodes of other machines are sought by IPv4 multicast; False: by broadcast.
    """

    allocations: list[NodeAllocate]
    wants_private: bool
    uses_multicast: bool = False


class ClusterSpec(Struct):
    """A cluster, as its backend is told of it when it is opened.

    Attributes:
        name: Name of the cluster, for logs.
        compute: Message that has a node load the computation; ``compute.computation`` is the number of the cluster.
        is_reentrant: True if jobs run again elsewhere when their node is lost.
        pulse_s: Heartbeat interval of nodes that the cluster wants (seconds).
        access: How its nodes are dialed.
        wishes: Which nodes are looked for. The cluster changes it, and calls ``discover``.
        journal: Full journal of the cluster, in which its nodes are noted; None: it has none.
        note: Writes the description of the cluster into a journal that the backend has made.
    """

    name: str
    compute: Compute
    is_reentrant: bool
    pulse_s: float
    access: Access
    wishes: Wishes
    journal: Journal | None
    note: Callable[[Journal], None]


class Views(Protocol):
    """Nodes and jobs of clusters, to be read: views are fed from below, and questions only explain."""

    def nodes(self, number: int) -> list[NodeInfo]:
        """Returns the nodes that are known and that a cluster may use by its secret, with byte counts of now."""
        ...

    def view(self, number: int) -> dict[NodeId, PlacementView]:
        """Returns a cluster's computation on each node that has it, with counts of now; empty if it is closed."""
        ...

    def running(self, number: int, node: NodeId) -> list[int]:
        """Returns the numbers of the jobs that run on a node, as the node has reported them."""
        ...

    def ask_running(self, number: int, node: NodeId) -> Future[list[int]]:
        """Ask a node itself which jobs of a cluster run there.

        Raises:
            SilenceError: The connection to the node is broken.
        """
        ...

    def ask_why(self, number: int, job: int) -> Future[tuple[str, list[str]]]:
        """Ask where an open job is and what it waits for, and which nodes of its cluster are silent, in words.

        The first text is empty if the cluster has no node for the job.
        """
        ...

    def stalled(self, number: int) -> str:
        """Returns, in words, which jobs stand still though a node could run them; empty: none."""
        ...

    def count_listed(self, number: int) -> tuple[int, int]:
        """Returns how many nodes of this machine are listed with a cluster's secret, and how many with another."""
        ...


class Backend(Protocol):
    """A scheduler, as clusters use it."""

    @property
    def identity(self) -> bytes:
        """16 bytes that name the program to nodes, or to a shared scheduler."""
        ...

    name: str
    """Name of the program, as nodes show it."""
    noted: set[int]
    """Numbers of clusters without a journal of their own whose results a recovery would find if they are kept."""

    @property
    def views(self) -> Views:
        """Nodes and jobs, to be read."""
        ...

    # Clusters.

    def prepare(self, access: Access, wishes: Wishes, journal: Journal | None) -> None:
        """Get ready for a new cluster: read what nodes there are, start one if there is none. On a program's thread.

        May wait for a disk or a file server.

        Args:
            access: How nodes are dialed, or the scheduler.
            wishes: Nodes that may be used.
            journal: Full journal of the cluster; None: it has none.

        Raises:
            NoNodesError: No node is there, and none can be started.
        """
        ...

    def warn_blind(self, access: Access, nodes: list[NodeAllocate]) -> None:
        """Warn of patterns that match no known node, as they may never get one. On a program's thread."""
        ...

    def open(self, spec: ClusterSpec) -> None:
        """Open a cluster: known nodes are offered to it (``Listener.on_offer``), others are looked for."""
        ...

    def close(self, number: int) -> None:
        """Close a cluster: nodes drop its jobs, code, objects and files. The listener is told nothing more of it."""
        ...

    # Jobs.

    def submit(
        self, number: int, jobs: list[Job], node: NodeId | None = None, files: list[FileEntry] | None = None
    ) -> None:
        """Take jobs, oldest first. ``node``: the only node that may run them. ``files``: those of a single job."""
        ...

    def try_submit(self, number: int, job: Job) -> bool:
        """Send a job to a node this moment, if that is possible without waiting. On any thread.

        Returns:
            False, and nothing is done, if it is not: the caller submits the job on the loop.
        """
        ...

    def cancel(self, number: int, jobs: list[int]) -> None:
        """Cancel jobs by number; none of them may have ended."""
        ...

    def watch(self, number: int, jobs: list[int], is_wanted: bool) -> None:
        """Have the output of running jobs told while they print, from the first byte on; or no more."""
        ...

    def answer(self, node: NodeId, message: AcknowledgeProvisional) -> None:
        """Acknowledge or refuse a provisional result or a part of a file, for which its job waits."""
        ...

    def answer_printed(self, number: int, node: NodeId, serial: int) -> None:
        """Acknowledge what jobs on a node have printed: the node reads more then."""
        ...

    # Objects and files.

    def put(self, message: PutObject) -> None:
        """Send an object to all nodes of a cluster, before any job that is submitted later."""
        ...

    def drop(self, number: int, objects: list[int]) -> None:
        """Have nodes free objects, by number, to which no job refers."""
        ...

    def place_files(self, node: NodeId, message: PlaceFiles) -> None:
        """Put files into the working directory of a cluster on a node; ``Listener.on_files`` gets the answer."""
        ...

    def send_files(
        self, node: NodeId, number: int, pieces: list[FilePiece], unreadable: list[FileUnreadable]
    ) -> None:
        """Answer a node that has asked for pieces of files: with pieces, and with refusals of files."""
        ...

    # Nodes.

    def discover(self, number: int, nodes: list[NodeAllocate]) -> None:
        """Look for the nodes that a cluster may use now, first those of ``nodes`` that are named by address."""
        ...

    def allocate(
        self,
        number: int,
        node: NodeId,
        cpus: int,
        *,
        code: bytes = b"",
        files: list[FileEntry] | None = None,
        is_draining: bool = False,
    ) -> None:
        """Use a node for a cluster, change the number of CPUs, or take the node away (0).

        Args:
            number: The cluster.
            node: The node.
            cpus: CPUs of the node that the cluster may use; 0: none.
            code: Code for this node alone; empty: that of the cluster.
            files: Files that this node gets with the computation; None: those of the cluster.
            is_draining: True with 0 CPUs: jobs that run there go on, and the computation stays loaded.
        """
        ...

    def vacate(self, number: int, node: NodeId, *, terminate: bool = False, returns: bool = False) -> None:
        """Have a cluster leave a node once its jobs there have ended.

        Args:
            number: The cluster.
            node: The node.
            terminate: True: jobs that run there are cancelled.
            returns: True: the cluster comes back, and the node is offered to it again.
        """
        ...

    def limit(self, node: NodeId, cpus: int) -> None:
        """Limit the CPUs of a node that all clusters of this program use together."""
        ...

    # Results of a program that fails.

    def keep_results(self) -> None:
        """Acknowledge no more results: nodes keep them for a recovery."""
        ...


class Listener(Protocol):
    """A program, as its backend tells it what happens. All methods are called on the engine's loop."""

    def on_closed(self, number: int) -> None:
        """A cluster is closed: nothing more is told of it."""

    def on_window(self, number: int, reason: str) -> None:
        """A cluster is to submit no more, for a reason in words; empty: it may again."""

    def on_forgotten(self, number: int, reason: str) -> None:
        """The scheduler has lost all jobs of a cluster: they have ended. The cluster goes on with new ones."""

    def on_offer(self, number: int, found: NodeInfo) -> None:
        """A cluster may use a node. It answers by ``Backend.allocate``, now or later, or not at all."""

    def on_usable(self, number: int, found: NodeInfo, is_usable: bool, reason: str) -> None:
        """A node became usable for a cluster, or is not usable any more."""

    def on_changed(self, number: int, found: NodeInfo) -> None:
        """The view of a cluster on a node has changed."""

    def on_cpus(self, number: int, found: NodeInfo) -> None:
        """A node may offer another number of CPUs than before: the cluster decides anew how many it uses."""

    def on_available(self, found: NodeInfo) -> None:
        """A node has said which of its resources are free."""

    def on_node_gone(self, found: NodeInfo, reason: str) -> None:
        """A node is lost, or has left. What becomes of its jobs was told before."""

    def on_unreachable(self, numbers: list[int], address: str, reason: str, is_refusal: bool) -> None:
        """No node was reached at an address, which these clusters may use.

        Args:
            numbers: The clusters.
            address: Host and port.
            reason: Why not, in words.
            is_refusal: True if something answers there and refuses us.
        """

    def on_started(self, number: int, started: list[Started], found: NodeInfo) -> None:
        """Jobs run on a node."""

    def on_requeued(self, number: int, jobs: list[int]) -> None:
        """Jobs, by number, wait for a node again."""

    def on_ended(self, number: int, ended: list[Ended], found: NodeInfo) -> None:
        """Jobs have ended on a node. Once for each job."""

    def on_ended_here(self, number: int, jobs: list[int], status: int, reason: str) -> None:
        """Jobs, by number, have ended without the word of a node. Once for each job."""

    def on_value(self, number: int, value: Provisional, found: NodeInfo) -> None:
        """A job has sent a provisional result, or a part of a file; it waits for ``Backend.answer``."""

    def on_printed(self, number: int, printed: list[Printed], node: NodeId, serial: int) -> None:
        """Running jobs on a node that are watched have printed something; ``Backend.answer_printed`` takes it."""

    def on_files(self, number: int, node: NodeId, request: int, reason: str) -> None:
        """Files of ``Backend.place_files`` are there; or they are not, and ``reason`` says why."""

    def on_files_needed(self, number: int, message: NeedFiles, node: NodeId) -> None:
        """A node asks for pieces of files; ``Backend.send_files`` answers."""
