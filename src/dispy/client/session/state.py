"""The record of one cluster: what its program has chosen, its jobs, its nodes.

Theory of operation. ``ClusterState`` is the lowest base class of ``JobCluster``. Features are not methods but
functions on this record, in the modules beside this one: jobs leave by ``submission`` and ``inbox`` and end by
``completion`` or ``cancellation``; ``objects`` and ``files`` send what several jobs read; ``explain`` says why jobs
wait; ``shutdown`` closes the cluster. Nodes are chosen in ``client.cluster_nodes`` and ``client.engine``.

Threads of the program call the public methods. These change only what a lock of this record guards (``_idle``,
``_room``, ``_status_guard``), or put an entry into a queue for the engine's loop (``_inbox``, ``_cancels``,
``_dropped``). Everything else is changed on the loop only.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dispy import config
from dispy.client.session.files import Sent, listed
from dispy.errors import UsageError
from dispy.protocol.node import Compute
from dispy.scheduler.link import Target
from dispy.security.tls import DialerTls, Tls, dialer_tls
from dispy.system import process_identity
from dispy.system.watchdog import STALL_S, Stall

if TYPE_CHECKING:
    from dispy.client.code.computation import Computation
    from dispy.client.engine.engine import Engine
    from dispy.client.job import DispyJob
    from dispy.client.map.chunks import Mapping
    from dispy.client.nodes import DispyNode, NodeAllocate
    from dispy.client.session.failures import Tally
    from dispy.client.session.files import Held, Sending, Shipped
    from dispy.client.session.live_output import Watching
    from dispy.client.session.objects import Ref
    from dispy.core.scheduling.ids import NodeId
    from dispy.journal.writer import Journal
    from dispy.payload import Seeding
    from dispy.protocol.files import FileEntry
    from dispy.protocol.node import Job
    from dispy.security.secrets import Secret


class ClusterState:
    """A cluster, as the modules of the client see it."""

    # What its program has chosen; ``JobCluster.__init__`` sets it.

    name: str
    """Name of the computation, in messages and on nodes."""
    job_status: Callable[[DispyJob], object] | None
    """The user's callback for provisional results and ends of jobs; None: none."""
    cluster_status: Callable[[int, DispyNode | None, DispyJob | None], object] | None
    """The user's callback for every event of jobs and nodes; None: none."""
    start_time: float
    """When the cluster was made (seconds since the epoch)."""
    _allocations: list[NodeAllocate]
    """Elements of ``nodes``, in the order in which ``allocate`` of each is asked."""
    _wants_private: bool
    """True if the cluster may use a node that the program starts for itself."""
    _secret: Secret
    _secret_file: str | None
    """Path of the file that the secret was read from; None if it came otherwise."""
    _tls: Tls
    _dest_path: str
    """Name of the working directory on nodes; empty: each cluster has its own."""
    _keeps_files: bool
    """True if nodes leave the working directory as it is when the cluster leaves them."""
    _computation: Computation
    seed: int
    """Number that the random numbers of jobs depend on, as given or as chosen at random."""
    _seeding: Seeding
    _shipped: Shipped
    _files: list[FileEntry]
    """Files that every node gets."""
    _held_files: list[Held]
    """Holders of the contents of all nodes' files, so that nodes may ask for them until the cluster is gone."""
    _isolate: bool
    """True if each job runs in a fresh process."""
    _setup_per: str
    """Where ``setup`` runs: once per ``"node"``, or once per ``"worker"``."""
    _setup_timeout: float | None
    """Seconds that ``setup`` may take on a node; None: no limit."""
    _exclusive: bool
    """True if nodes run jobs of no other cluster while this one is on them."""
    _reentrant: bool
    """True if jobs may run again elsewhere when their node is lost."""
    _pulse_s: float
    """Longest interval between two heartbeats of a node (seconds). The engine uses the smallest of all clusters."""
    _queued_max: int
    """Jobs that may be unfinished before ``submit`` waits for room; ``sys.maxsize``: no limit."""
    _tally: Tally
    """Counts of how jobs have ended."""

    # What works for it.

    _engine: Engine
    _number: int
    """Number of its computation, unique among those of the engine."""
    _watching: Watching
    """Live output of its jobs, on the way to the callback and to followers."""
    _submit: Callable[..., DispyJob]
    """The function that a job is submitted by: see ``submission.choose_way``."""

    # Its life.

    end_time: float | None
    """When the last unfinished job ended (seconds since the epoch); None before the first end."""
    cpu_time: float
    """Sum of the run times of all ended jobs (seconds)."""
    _pid: int
    """Process that made the cluster. In a fork of it the cluster must not be used."""
    _is_closed: bool
    """True before the cluster has been opened, and once it is closed."""
    _is_ending: bool
    """True once ``close`` ends the jobs that are left: their failures are wanted, and not reported."""
    _dialer_tls: DialerTls | None
    """TLS settings for links to nodes; None until the first link needs them."""
    _journal: Journal | None
    """Journal with all jobs and results (``durable``); None: only the program's journal knows the cluster."""
    _keeps_journal: bool
    """True if the journal's file stays when the cluster closes, as its ``with`` block has failed."""

    # Jobs on their way out.

    _inbox: deque[Job]
    """Submitted jobs on their way to the loop, in the order of submission."""
    _is_posted: bool
    """True while a call of ``take_inbox`` is posted to the loop: one serves all jobs of the inbox."""
    _cancels: deque[int]
    """Numbers of cancelled jobs on their way to the loop."""
    _has_posted_cancels: bool
    """True while a call that takes ``_cancels`` is posted to the loop."""
    _dropped: deque[int]
    """Numbers of references (``Ref``) that are gone, on their way to the loop."""
    _held: dict[int, list[Ref | Held]]
    """References in the arguments of unfinished jobs, and the files of such jobs, by the job's number."""
    _sending: dict[tuple[NodeId, int], Sending]
    """Calls of ``send_file`` that wait for a node, by node and number of the request."""
    _sent: Sent
    _requests: itertools.count[int]
    """Numbers of the requests of ``send_file``, from 1."""

    # Jobs that have not ended.

    _jobs: dict[int, DispyJob]
    """Unfinished jobs and chunks of maps, by number."""
    _map_numbers: itertools.count[int]
    _maps: set[Mapping]
    """Calls of ``map`` that are running."""
    _status_guard: threading.RLock
    """Held to set the status of jobs, as any thread may cancel them. Reentrant: signal handlers cancel, too."""
    _loading: dict[int, int]
    """Number of provisional results handed to the loader, by the job's number. A job in here has its end loaded
    there, too, so that its end comes after them."""
    _ended: set[int]
    """Numbers of jobs that have ended and whose results are being loaded: too late to cancel."""

    # Threads that wait.

    _idle: threading.Condition
    """Notified when the last unfinished job has ended, and at each end while a thread waits for room."""
    _room: threading.RLock
    """With ``max_queued``: held by the one thread that waits for room, until its job is in ``_jobs``."""
    _room_waiters: int
    """Threads in ``_idle.wait`` for room."""
    _ends: int
    """Number of events in which jobs have ended; several at once count as one. Changed with ``_idle`` held."""
    _closers: int
    """Threads in ``close``. While there are any, ``submit`` raises instead of waiting for room."""

    # Nodes.

    _dispy_nodes: dict[NodeId, DispyNode]
    """Nodes in use, as they are shown to the program."""
    _past_nodes: list[DispyNode]
    """Nodes that were in use, and show what they did; one that comes back is taken from here."""
    _set_aside: dict[NodeId, str]
    """Nodes that the program does not want any more, and the method that it called for that."""
    _setup_args: dict[NodeId, tuple[Any, ...]]
    """Arguments given to ``resetup_node``, in place of those of the element of ``nodes``."""
    _offers: dict[NodeId, int]
    """CPUs that each node offered when ``allocate`` was last asked about it."""
    _unreachable: dict[Target, str]
    """Why each address cannot be reached, as text with the address; removed when its node becomes usable."""
    _warned: set[str]
    """Warnings of nodes that were logged: each text is logged once, however many nodes send it."""
    _failures: dict[str, str]
    """Why each node that was found is not used, by the node's name."""

    # Words about jobs that wait.

    _waiting_since: float | None
    """When jobs began to wait with no node that takes them (monotonic seconds); None if none wait so."""
    _stall: Stall
    _has_warned: str
    """Reason in the last warning about waiting jobs; empty after none. The same reason is not logged twice."""
    _listed: str
    """Last logged list of this machine's nodes, so that only changes are logged."""

    def __init__(self) -> None:
        self.end_time = None
        self.cpu_time = 0.0
        self._pid = process_identity.pid
        self._is_closed = True
        self._is_ending = False
        self._dialer_tls = None
        self._journal = None
        self._keeps_journal = False

        self._inbox = deque()
        self._is_posted = False
        self._cancels = deque()
        self._has_posted_cancels = False
        self._dropped = deque()
        self._held = {}
        self._sending = {}
        self._sent = Sent()
        self._requests = itertools.count(1)

        self._jobs = {}
        self._map_numbers = itertools.count(1)
        self._maps = set()
        self._status_guard = threading.RLock()
        self._loading = {}
        self._ended = set()

        self._idle = threading.Condition()
        self._room = threading.RLock()
        self._room_waiters = 0
        self._ends = 0
        self._closers = 0

        self._dispy_nodes = {}
        self._past_nodes = []
        self._set_aside = {}
        self._setup_args = {}
        self._offers = {}
        self._unreachable = {}
        self._warned = set()
        self._failures = {}

        self._waiting_since = None
        self._stall = Stall(STALL_S)
        self._has_warned = ""
        self._listed = ""

    def _check_open(self) -> None:
        """Check that the cluster can be used.

        Raises:
            UsageError: The cluster was made in another process, or is closed.
        """
        if self._pid != process_identity.pid:
            raise UsageError(
                f"cluster {self.name} was created in another process ({self._pid}) and cannot be used in its fork",
                hint="create a cluster in the process that uses it",
            )
        if self._is_closed:
            raise UsageError(f"cluster {self.name} is closed", hint="create a new one")

    @property
    def _gives_bytes(self) -> bool:
        """True if the output of jobs is bytes, as that of a program; False if it is text."""
        return self._computation.is_program

    def _cpus(self) -> int:
        """Number of CPUs that can be used now, over all nodes."""
        return sum([node.cpus for node in list(self._dispy_nodes.values())])

    # What is told to the program.

    def _tell(self, status: int, node: DispyNode | None, job: DispyJob | None) -> None:
        """Queue a call of ``cluster_status``, if there is one; on any thread."""
        if self.cluster_status is not None:
            self._engine.callbacks.call(self.cluster_status, [(status, node, job)])

    def _tell_maps(self) -> None:
        """Tell running maps that there are more or fewer CPUs."""
        for running in list(self._maps):
            running.on_nodes()

    # What nodes are told.

    def _target(self, host: str, port: int, name: str, uses_tls: bool | None = None) -> Target:
        """Returns where to reach a node: address, key and, if the link is encrypted, TLS settings.

        Args:
            host: Address of the node.
            port: Port of the node.
            name: Name that the user gave the node: its certificate must be for this name.
            uses_tls: True if the node, on this machine, says that it uses TLS; None: decide by the address.
        """
        if self._tls.is_used(host) if uses_tls is None else uses_tls:
            if self._dialer_tls is None:
                self._dialer_tls = dialer_tls(self._tls)
            return Target(host, port, self._secret.key, name, self._dialer_tls)
        return Target(host, port, self._secret.key)

    def _compute(self) -> Compute:
        """Returns the message that has a node load the computation."""
        return Compute(
            self._number,
            self.name[:200],
            self._computation.code,
            0,
            self._isolate and not self._computation.is_program,  # it is a process of its own in any case
            float(config.CancelGrace),
            self._dest_path,
            exclusive=self._exclusive,
            live=self._watching.callback is not None,
            message_timeout_s=config.message_timeout_s(),
            setup_per_worker=self._setup_per == "worker",
            setup_timeout_s=self._setup_timeout or 0.0,
            files=self._files,
            keep=self._keeps_files,
        )

    def _code_for(self, allocation: NodeAllocate, setup_args: tuple[Any, ...] | None = None) -> bytes:
        """Returns the code for the nodes of an allocation whose ``setup`` has arguments; empty: as for all nodes.

        Args:
            allocation: An element of ``nodes``.
            setup_args: Arguments of ``setup``, in place of those of the element; None: those.

        Raises:
            PicklingError: One of the arguments cannot be sent.
        """
        arguments = allocation.setup_args if setup_args is None else setup_args
        return self._computation.code_with(arguments) if arguments else b""

    def _files_for(self, depends: list[Any]) -> list[FileEntry]:
        """Returns all files for a node that gets some of its own. Reads these files, which may take a while.

        Args:
            depends: Paths and modules for that node; they replace files of all nodes that have their paths.

        Raises:
            UsageError: One of them cannot be sent, or they are too many.
        """
        own, held = self._shipped.take(depends, self._files)
        self._held_files += held
        paths = {entry.path for entry in own}
        return listed([entry for entry in self._files if entry.path not in paths] + own)

    def _with_sent(self, target: Target, files: list[FileEntry] | None) -> list[FileEntry] | None:
        """Returns a node's files together with those that ``send_file`` has put there.

        Args:
            target: Where the node is reached.
            files: The node's own list; None: it has only the files of all nodes.

        Returns:
            The list; ``files`` itself if ``send_file`` has put nothing there.
        """
        known = self._files if files is None else files
        every = self._sent.with_files(target, known)
        return files if every is known else listed(every)
