"""The record of one cluster: the choices of its program, its unfinished jobs, its nodes.

Theory of operation. ``ClusterState`` is the lowest base class of ``JobCluster``. Features are not methods but
functions on this record, in the modules beside this one: jobs leave by ``submission`` and ``inbox`` and end by
``completion`` or ``cancellation``; ``objects`` and ``files`` send what several jobs read; ``explain`` says why jobs
wait; ``shutdown`` closes the cluster. Nodes are chosen in ``client.cluster_nodes`` and ``client.engine``.

Threads of the program call the public methods. These change what a lock of this record guards (``_idle``, ``_room``,
``_status_guard``), put an entry into a queue for the engine's loop (``_inbox``, ``_cancels``, ``_dropped``) and set
the flag that says so, or add a job to ``_jobs`` and ``_held``. The thread in ``close`` sets the flags about the
cluster's end. The loader's thread ends jobs, too. Everything else is changed on the loop only.
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
    from dispy.net.discovery import Listing
    from dispy.payload import Seeding
    from dispy.protocol.files import FileEntry
    from dispy.protocol.node import Job
    from dispy.security.secrets import Secret


class ClusterState:
    """All data of one cluster: the choices of its program, its unfinished jobs, its nodes, and who waits for it.

    ``JobCluster`` adds the public methods; the modules beside this one read and change the attributes.
    """

    # What its program has chosen; ``JobCluster.__init__`` sets it.

    name: str
    """Name of the computation (of the function, or the path of the program), shown in messages and on nodes."""
    job_status: Callable[[DispyJob], object] | None
    """The user's callback, called with the job at each provisional result and at its end; None: there is none."""
    cluster_status: Callable[[int, DispyNode | None, DispyJob | None], object] | None
    """The user's callback for each change of a job or node, called with the new status, and with the node and the job
    that it is about (None: none). None: there is no callback."""
    start_time: float
    """Time when the cluster was made (seconds since the epoch). ``print_status`` counts wall time from it."""
    _allocations: list[NodeAllocate]
    """Elements of ``nodes``, the most specific first: the first whose ``allocate`` returns CPUs gets the node."""
    _wants_private: bool
    """True if the cluster may use a private node, one that the program starts: all of ``nodes`` are ``"*"``."""
    _owner: bytes
    """Owner key of this user: nodes use files again that they have of this owner."""
    _secret: Secret
    """Secret shared with the nodes. A node with another secret is never used."""
    _secret_file: str | None
    """Absolute path of the program's ``secret_file``, noted in journals for a recovery; None if none was given."""
    _tls: Tls
    """Absolute paths of certificates and key for TLS, and which links are to be encrypted."""
    _dest_path: str
    """Name of the working directory on nodes, shared with clusters that give this name; empty: one of its own."""
    _keeps_files: bool
    """True if nodes keep the files in the working directory when the cluster leaves; False: they remove them."""
    _computation: Computation
    """The pickled function or program that each job runs, with the code in ``depends``, ``setup`` and ``cleanup``."""
    seed: int
    """Number that ``dispy_job_seed()`` in jobs depends on: as given, or below 2**48 and chosen at random."""
    _seeding: Seeding
    """``seed``, number of the first job, from which jobs are counted for their seeds, and whether random generators
    copied into jobs get streams of their own."""
    _shipped: Shipped
    """Index, by digest, of the files whose bytes nodes may ask for now."""
    _files: list[FileEntry]
    """Descriptions of the files that each node gets before it runs code, sorted by path: those in ``depends``, and
    the program to run."""
    _held_files: list[Held]
    """Holders of the files that nodes get with the computation. Kept so that nodes may ask for the bytes as long as
    the cluster exists, also after a restart."""
    _isolate: bool
    """True if each job runs in a fresh process; False: workers run one job after another."""
    _setup_per: str
    """Where ``setup`` runs: ``"node"``: once on each node. ``"worker"``: once in each process that runs jobs."""
    _setup_timeout: float | None
    """Seconds that ``setup`` may take on a node; a node where it takes longer is not used. None: no limit."""
    _exclusive: bool
    """True if nodes run jobs of no other cluster while this one is on them: jobs of the others wait."""
    _is_plain: bool
    """True if nothing that comes from nodes may run code here: only plain data is read (``results="plain"``)."""
    _reentrant: bool
    """True if jobs run again elsewhere when their node is lost; False: they end as ``Abandoned``."""
    _pulse_s: float
    """Heartbeat interval of nodes that this cluster wants (seconds). The engine uses the smallest of all clusters; a
    node that is silent for five intervals is lost."""
    _queued_max: int
    """Number of unfinished jobs at which ``submit`` waits until one ends; ``sys.maxsize``: no limit."""
    _tally: Tally
    """Numbers of jobs that have ended, failed and were cancelled, and reasons of failures, for the final report."""

    # What works for it.

    _engine: Engine
    """Background thread with the scheduler that serves this cluster, and usually all clusters of the process."""
    _number: int
    """Number of the cluster's computation in all messages: from 1, unique among those of the engine."""
    _watching: Watching
    """Distributor of the live output of jobs, to ``job_output`` and to threads that follow a job."""
    _submit: Callable[..., DispyJob]
    """Function that submits a job, chosen by ``submission.choose_way``; ``close`` replaces it by one that refuses."""

    # Its life.

    end_time: float | None
    """Time when jobs last ended and none was left (seconds since the epoch); None before that. ``print_status``
    counts wall time up to it; if it is None, up to now."""
    cpu_time: float
    """Sum of the run times of all ended jobs (seconds)."""
    _pid: int
    """PID of the process that made the cluster. In a fork of it ``submit``, ``wait`` … raise ``UsageError``."""
    _is_closed: bool
    """True before the cluster has been opened, and once it is closed: ``submit`` raises ``UsageError`` then."""
    _is_ending: bool
    """True once ``close`` cancels the jobs that are left. Their failures are wanted: counted, but not reported."""
    _dialer_tls: DialerTls | None
    """TLS context for encrypted links to nodes, made from ``_tls``; None until the first such link is dialed."""
    _journal: Journal | None
    """Journal with all jobs and results (``durable``); None: only the program's journal knows the cluster."""
    _keeps_journal: bool
    """True if the journal's file stays when the cluster closes, for ``recover_jobs``, as its ``with`` block has
    raised; False: the file is removed."""

    # Jobs on their way out.

    _inbox: deque[Job]
    """Messages of submitted jobs that the loop has not taken yet, in the order of submission. Any thread appends."""
    _is_posted: bool
    """True while a call of ``take_inbox`` is posted to the loop. Do not post another: one serves all jobs."""
    _cancels: deque[int]
    """Numbers of jobs that the program has cancelled and the loop has not, in the order of the calls."""
    _has_posted_cancels: bool
    """True while a call that takes ``_cancels`` is posted to the loop. Do not post another: one serves all."""
    _dropped: deque[int]
    """Numbers of put objects whose ``Ref`` is gone; the loop has the nodes free them."""
    _held: dict[int, list[Ref | Held]]
    """References in the arguments of unfinished jobs, and holders of these jobs' files, by the job's number. Kept
    here only so that nodes do not free the objects, and may ask for the files, before the job has ended."""
    _sending: dict[tuple[NodeId, int], Sending]
    """Files of ``send_file`` that a node has not acknowledged yet, by the node's identity and the request's number:
    the answer wakes the thread that waits in ``send_file``."""
    _sent: Sent
    """Files that ``send_file`` has put on nodes; a node that is restarted or set up again gets them again."""
    _requests: itertools.count[int]
    """Source of numbers for the requests of ``send_file`` to nodes, from 1; each answer repeats its number."""

    # Jobs that have not ended.

    _jobs: dict[int, DispyJob]
    """Unfinished jobs and chunks of maps, by number, in the order of submission. A job leaves when it has ended."""
    _map_numbers: itertools.count[int]
    """Source of numbers for calls of ``map``, from 1. Seeds of items depend on them: each map draws other numbers."""
    _maps: set[Mapping]
    """Calls of ``map`` that are running. Each is woken when the cluster has more or fewer CPUs (``_tell_maps``)."""
    _status_guard: threading.RLock
    """Held to set the status of jobs, as any thread may cancel them. Reentrant: signal handlers cancel, too."""
    _loading: dict[int, int]
    """Number of provisional results handed to the loader's thread, by the job's number, until a node reports the
    job's end. That goes to this thread, too, so that its callbacks come after those of the provisional results."""
    _ended: set[int]
    """Numbers of jobs whose end has come and whose result the loader's thread is unpickling: too late to cancel."""

    # Threads that wait.

    _idle: threading.Condition
    """Notified when no job is unfinished any more, when fewer than ``_queued_max`` are and a thread waits for that,
    and when ``close`` begins. Guards ``_ends``, ``_room_waiters``, ``cpu_time``, and jobs and times of nodes."""
    _room: threading.RLock
    """With ``max_queued``: held by a thread from its wait for fewer jobs until its job is in ``_jobs``. Otherwise
    several threads that waited could submit at once, and exceed the limit."""
    _room_waiters: int
    """Number of threads that wait until fewer than ``_queued_max`` jobs are unfinished: 0 or 1. While it is 0, an end
    of a job notifies ``_idle`` only if it was the last one."""
    _ends: int
    """Number of events in which jobs have ended; several jobs in one count once. ``wait`` compares two values to see
    whether more jobs have ended while it waited for callbacks."""
    _closers: int
    """Number of threads in ``close``. While there are any, a ``submit`` that would wait for ``max_queued`` raises."""

    # Nodes.

    _dispy_nodes: dict[NodeId, DispyNode]
    """Nodes in use, as the program is shown them (``DispyNode``), by the node's identity, in the order in which their
    use began."""
    _past_nodes: list[DispyNode]
    """``DispyNode`` objects of nodes that are not in use any more, with their counts of jobs and times, in the order
    in which they were left. The object of a node that comes back moves to ``_dispy_nodes``: its counts go on."""
    _set_aside: dict[NodeId, str]
    """Name of the method (``"deallocate_node"`` or ``"close_node"``) by which the program has given a node up, by the
    node's identity. Such a node is not used again before ``allocate_node`` or ``resetup_node``."""
    _setup_args: dict[NodeId, tuple[Any, ...]]
    """Arguments for ``setup`` that ``resetup_node`` was given, by the node's identity. They replace those of the
    element of ``nodes`` until the next ``resetup_node``."""
    _offers: dict[NodeId, int]
    """Number of CPUs that a node offered when ``allocate`` was last asked about it, by the node's identity. When the
    node offers another number ``allocate`` is asked again."""
    _unreachable: dict[Target, str]
    """Last error of each address that could not be reached, by address, as text with host and port, for ``why`` and
    warnings. The entry goes when the node there becomes usable."""
    _warned: set[str]
    """Texts of warnings from nodes that were logged: each text is logged once, however many nodes send it."""
    _failures: dict[str, str]
    """Reasons why nodes that were found are not used, by the node's name, for ``why`` and warnings. The entry goes
    when the node becomes usable."""

    # Words about jobs that wait.

    _waiting_since: float | None
    """Time since which jobs wait and no node takes them (monotonic seconds); None if no job waits like that.
    ``explain.check_waiting`` warns 5 s later if no node is in use, 1 s later if all refuse jobs."""
    _stall: Stall
    """Watchdog that reports, once, that nothing of the cluster has moved for ``watchdog.STALL_S`` (10 s)."""
    _has_warned: str
    """Reason in the last warning about waiting jobs: ``"no node"``, or what the nodes said; empty before a warning,
    and once no job waits like that. The same reason is not logged again until then."""
    _listed: str
    """Last logged line (``debug``) about the nodes of this machine that were found, so that only changes are logged;
    empty before the first."""

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
        """True if ``stdout`` and ``stderr`` of jobs are shown as bytes, as they run a program; False: as text."""
        return self._computation.is_program

    def _cpus(self) -> int:
        """Returns the number of CPUs that the cluster may use now, over all nodes; 0 without a node.

        ``map`` keeps more chunks on their way if there are more CPUs.
        """
        return sum([node.cpus for node in list(self._dispy_nodes.values())])

    # What is told to the program.

    def _tell(self, status: int, node: DispyNode | None, job: DispyJob | None) -> None:
        """Queue a call of ``cluster_status`` with these arguments for the callbacks' thread. On any thread.

        Does nothing if the program has given no ``cluster_status``. ``node`` and ``job``: those that the event is
        about; None if there is none.
        """
        if self.cluster_status is not None:
            self._engine.callbacks.call(self.cluster_status, [(status, node, job)])

    def _tell_maps(self) -> None:
        """Wake the running maps, as there are more or fewer CPUs: they adapt the number of chunks on their way."""
        for running in list(self._maps):
            running.on_nodes()

    # What nodes are told.

    def _target(self, host: str, port: int, name: str, listing: Listing | None = None) -> Target:
        """Returns how to dial a node: Unix socket or address, key of the secret and, unless it is off, TLS.

        Args:
            host: Address of the node.
            port: Port of the node.
            name: Name that the user gave the node: its certificate must be for this name.
            listing: What the node says of itself, if it is in the list of this machine's nodes: whether it speaks
                TLS, and its Unix socket. None: it is dialed as the user has given it, and ``_tls`` decides about TLS.
        """
        socket = "" if listing is None else listing.socket_here()
        if self._tls.is_used if listing is None else listing.tls:
            return Target(host, port, self._secret.key, name, self._make_tls, socket)
        return Target(host, port, self._secret.key, socket=socket)

    def _make_tls(self) -> DialerTls:
        """Returns the TLS of links to nodes, made from ``_tls`` for the first of them."""
        if self._dialer_tls is None:
            self._dialer_tls = dialer_tls(self._tls)
        return self._dialer_tls

    def _compute(self) -> Compute:
        """Returns the message that has a node load the computation: its code, files and settings.

        The scheduler keeps it for all nodes, and replaces code or files where a node gets its own.
        """
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
            owner=self._owner,
        )

    def _code_for(self, allocation: NodeAllocate, setup_args: tuple[Any, ...] | None = None) -> bytes:
        """Returns the pickled computation with arguments of ``setup``, for the nodes of one element of ``nodes``.

        Empty if ``setup`` has no arguments there: such nodes get the cluster's common code.

        Args:
            allocation: An element of ``nodes``.
            setup_args: Arguments of ``setup``, in place of those of the element; None: those of the element.

        Raises:
            PicklingError: One of the arguments cannot be sent.
        """
        arguments = allocation.setup_args if setup_args is None else setup_args
        return self._computation.code_with(arguments) if arguments else b""

    def _files_for(self, depends: list[Any]) -> list[FileEntry]:
        """Returns descriptions of all files for a node that gets files of its own, besides the common ones.

        Reads and hashes the node's own files, which may take a while: not on the loop. Their holders are kept until
        the cluster is gone. A common file with the path and content of an own one is listed once.

        Args:
            depends: Paths and modules for that node.

        Raises:
            UsageError: One of them cannot be sent or has the path of a common file with another content; or there
                are too many for a message.
        """
        own, held = self._shipped.take(depends, self._files)
        self._held_files += held
        paths = {entry.path for entry in own}
        return listed([entry for entry in self._files if entry.path not in paths] + own)

    def _with_sent(self, target: Target, files: list[FileEntry] | None) -> list[FileEntry] | None:
        """Returns descriptions of a node's files and those of ``send_file``: a node that comes back gets all again.

        Args:
            target: Where the node is reached.
            files: Descriptions of the files for this node; None: the node gets the common files (``_files``).

        Returns:
            Descriptions of all these files; where paths are equal the file of ``send_file`` is taken. ``files``
            itself, or None, if ``send_file`` has put nothing there.

        Raises:
            UsageError: Together there are too many files for a message.
        """
        known = self._files if files is None else files
        every = self._sent.with_files(target, known)
        return files if every is known else listed(every)
