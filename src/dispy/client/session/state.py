"""The record of one cluster: the choices of its program, its unfinished jobs, its nodes.

Theory of operation. ``JobCluster`` has a ``Session``, and so has a recovery that runs jobs of a dead program.
Features are not methods but functions on this record, in the modules beside this one: jobs leave by ``submission``
and ``inbox`` and end by ``completion`` or ``cancellation``; ``objects`` and ``files`` send what several jobs read;
``explain`` says why jobs wait; ``shutdown`` closes the cluster. Nodes are chosen in ``client.allocation``. All of
them reach nodes and jobs by ``backend`` alone.

Threads of the program call the public methods. These change what a lock of this record guards (``idle``, ``room``,
``status_guard``), put an entry into a queue for the engine's loop (``inbox``, ``cancels``, ``dropped``) and set
the flag that says so, or add a job to ``jobs`` and ``held``. The thread in ``close`` sets the flags about the
cluster's end. The loader's thread ends jobs, too. Everything else is changed on the loop only.

Each attribute is assigned in two modules at most; ``tests/unit/test_session_fields.py`` has the list.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from msgspec import Struct

from dispy import config
from dispy.client.allocation.node_faults import NodeFaults
from dispy.client.backend.backend import Access, ClusterSpec, Wishes
from dispy.client.code.shipped_files import Sent
from dispy.client.job_numbers import Numbers
from dispy.client.session.failures import Tally
from dispy.errors import UsageError
from dispy.protocol.node import Compute
from dispy.system import process_identity
from dispy.system.watchdog import STALL_S, Stall

if TYPE_CHECKING:
    from dispy.client.backend.backend import Backend, Views
    from dispy.client.code.computation import Computation
    from dispy.client.code.shipped_files import Held, Shipped
    from dispy.client.engine.threads import Threads
    from dispy.client.job import DispyJob
    from dispy.client.map.chunk_job import Chunk
    from dispy.client.map.running_map import RunningMap
    from dispy.client.nodes import DispyNode
    from dispy.client.session.live_output import Watching
    from dispy.client.shown.overview import Display
    from dispy.journal.writer import Journal
    from dispy.payload import Seeding
    from dispy.protocol.files import FileEntry
    from dispy.protocol.node import Job
    from dispy.protocol.views import NodeId, NodeInfo


class Options(Struct, frozen=True):
    """Choices of a cluster's program, which stay as they are.

    Attributes:
        access: Secret shared with the nodes, and certificates.
        secret_file: Absolute path of the program's ``secret_file``, for a recovery; None if none was given.
        owner: Owner key of this user: nodes use files again that they have of this owner.
        computation: The pickled function or program that each job runs, with the code in ``depends``, ``setup`` and
            ``cleanup``.
        files: Descriptions of the files that each node gets before it runs code, sorted by path.
        seed: Number that ``dispy_job_seed()`` in jobs depends on: as given, or below 2**48 and chosen at random.
        seeding: ``seed``, number of the first job, from which jobs are counted for their seeds, and whether random
            generators copied into jobs get streams of their own.
        dest_path: Name of the working directory on nodes, shared with clusters that give this name; empty: one of
            its own.
        keeps_files: True if nodes keep the files in the working directory when the cluster leaves.
        isolate: True if each job runs in a fresh process; False: workers run one job after another.
        setup_per: Where ``setup`` runs: ``"node"``: once on each node. ``"worker"``: once in each process that runs
            jobs.
        setup_timeout: Seconds that ``setup`` may take on a node; a node where it takes longer is not used. None: no
            limit.
        exclusive: True if nodes run jobs of no other cluster while this one is on them: jobs of the others wait.
        is_plain: True if nothing that comes from nodes may run code here (``results="plain"``).
        reentrant: True if jobs run again elsewhere when their node is lost; False: they end as ``Abandoned``.
        pulse_s: Heartbeat interval of nodes that this cluster wants (seconds). The smallest of all clusters counts.
        queued_max: Number of unfinished jobs at which ``submit`` waits until one ends; ``sys.maxsize``: no limit.
    """

    access: Access
    secret_file: str | None
    owner: bytes
    computation: Computation
    files: list[FileEntry]
    seed: int
    seeding: Seeding
    dest_path: str
    keeps_files: bool
    isolate: bool
    setup_per: str
    setup_timeout: float | None
    exclusive: bool
    is_plain: bool
    reentrant: bool
    pulse_s: float
    queued_max: int


class SetAside(NamedTuple):
    """Record of a node that the program has given up.

    Attributes:
        method: Name of the method that was called: ``"deallocate_node"`` or ``"close_node"``.
        info: The node as it was known then, by which ``allocate_node`` finds it while it is away; None: unknown.
    """

    method: str
    info: NodeInfo | None


class Waiting:
    """Record of the jobs of one cluster that wait: since when, and which warnings the log has about them."""

    def __init__(self) -> None:
        self.since: float | None = None
        """Time since which jobs wait and no node takes them (monotonic seconds); None if no job waits like that."""
        self.warned = ""
        """Reason in the last warning about waiting jobs: ``"no node"``, or what the nodes said; empty before a
        warning, and once no job waits like that. The same reason is not logged again until then."""
        self.stall = Stall(STALL_S)
        """Watchdog that reports, once, that nothing of the cluster has moved for ``watchdog.STALL_S`` (10 s)."""

    def clear(self) -> None:
        """No job waits any more."""
        self.since = None
        self.warned = ""

    def is_due(self, reason: str, limit_s: float, now: float) -> bool:
        """Note that jobs wait for a reason. True if that is to be said now: they have waited for ``limit_s`` seconds,
        and that reason was not said."""
        if self.since is None:
            self.since = now
        if self.warned == reason or now - self.since <= limit_s:
            return False
        self.warned = reason
        return True


class WaitingCalls(Protocol):
    """Calls of ``asubmit`` that wait for room, as their session sees them. False if there are none."""

    def add(self, call: Any) -> None:
        """Queue a call."""


class Session:
    """All data of one cluster: the choices of its program, its unfinished jobs, its nodes, and who waits for it.

    Args:
        options: Choices of the program.
        wishes: Nodes that may be used.
        shipped: Index of the files whose bytes nodes may ask for, with those of the computation.
        held_files: Holders of the files that nodes get with the computation.
        engine: The threads that serve the cluster.
        backend: Its scheduler.
        number: Number of the cluster at its backend.
        cluster: The object that the program has of this cluster, and that ``allocate`` gets.
    """

    options: Options
    """Choices of the program, which stay as they are."""
    name: str
    """Name of the computation (of the function, or the path of the program), shown in messages and on nodes."""
    job_status: Callable[[DispyJob], object] | None = None
    """The user's callback, called with the job at each provisional result and at its end; None: there is none."""
    has_done_callbacks: bool = False
    """True once a function was to be called at the end of a job (``add_done_callback``, futures)."""
    cluster_status: Callable[[int, DispyNode | None, DispyJob | None], object] | None = None
    """The user's callback for each change of a job or node, called with the new status, and with the node and the job
    that it is about (None: none). None: there is no callback."""
    wishes: Wishes
    """Nodes that may be used. Elements of ``nodes``, the most specific first: the first whose ``allocate`` returns
    CPUs gets the node."""
    computation: Computation
    """``Options.computation``, which each job reads."""
    shipped: Shipped
    """Index, by digest, of the files whose bytes nodes may ask for now."""
    held_files: list[Held]
    """Holders of the files that nodes get with the computation. Kept so that nodes may ask for the bytes as long as
    the cluster exists, also after a restart."""
    tally: Tally
    """Numbers of jobs that have ended, failed and were cancelled, and reasons of failures, for the final report."""

    # What works for it.

    engine: Threads
    """Background threads that serve this cluster, and usually all clusters of the process."""
    backend: Backend
    """The scheduler."""
    views: Views
    """Nodes and jobs of the scheduler, to be read: ``backend.views``."""
    number: int
    """Number of the cluster in all messages: from 1, unique at its backend."""
    watching: Watching
    """Distributor of the live output of jobs, to ``job_output`` and to threads that follow a job."""
    submit: Callable[..., DispyJob]
    """Function that submits a job, chosen by ``submission.choose_way``; ``close`` replaces it by one that refuses."""

    # Its life.

    start_time: float
    """Time when the cluster was made (seconds since the epoch). ``print_status`` counts wall time from it."""
    end_time: float | None = None
    """Time when jobs last ended and none was left (seconds since the epoch); None before that. ``print_status``
    counts wall time up to it; if it is None, up to now."""
    cpu_time: float = 0.0
    """Sum of the run times of all ended jobs (seconds)."""
    pid: int
    """PID of the process that made the cluster. In a fork of it ``submit``, ``wait`` … raise ``UsageError``."""
    is_closed: bool = True
    """True before the cluster has been opened, and once it is closed: ``submit`` raises ``UsageError`` then."""
    is_ending: bool = False
    """True once ``close`` cancels the jobs that are left. Their failures are wanted: counted, but not reported."""
    journal: Journal | None = None
    """Journal with all jobs and results (``durable``); None: only the program's journal knows the cluster."""
    keeps_journal: bool = False
    """True if the journal's file stays when the cluster closes, for ``recover_jobs``, as its ``with`` block has
    raised; False: the file is removed."""

    # Jobs on their way out.

    inbox: deque[Job]
    """Messages of submitted jobs that the loop has not taken yet, in the order of submission. Any thread appends."""
    is_posted: bool = False
    """True while a call of ``take_inbox`` is posted to the loop. Do not post another: one serves all jobs."""
    cancels: deque[int]
    """Numbers of jobs that the program has cancelled and the loop has not, in the order of the calls."""
    cancel: Callable[[Any], int]
    """Function that cancels a job of this cluster, set by ``startup``; jobs call it for their futures."""
    has_posted_cancels: bool = False
    """True while a call that takes ``cancels`` is posted to the loop. Do not post another: one serves all."""
    objects: set[int]
    """Numbers of objects that were put and not freed."""
    dropped: deque[int]
    """Numbers of put objects whose ``Ref`` is gone; the loop has the nodes free them."""
    held: dict[int, list[object]]
    """References in the arguments of unfinished jobs, and holders of these jobs' files, by the job's number. Kept
    here only so that nodes do not free the objects, and may ask for the files, before the job has ended."""
    sent: Sent
    """Files of ``send_file``, on their way to nodes and there; a node that is restarted or set up again gets them
    again."""

    # Jobs that have not ended.

    jobs: dict[int, DispyJob | Chunk]
    """Unfinished jobs and chunks of maps, by number, in the order of submission. A job leaves when it has ended."""
    numbers: Numbers
    """Source of the numbers of jobs and chunks. Numbers of other clusters are the same ones."""
    map_numbers: itertools.count[int]
    """Source of numbers for calls of ``map``, from 1. Seeds of items depend on them: each map draws other numbers."""
    maps: set[RunningMap]
    """Calls of ``map`` that are running. Each is woken when the cluster has more or fewer CPUs (``tell_maps``)."""
    displays: set[Display]
    """Displays of the cluster in notebooks, which end with it. Threads of the program add them."""
    status_guard: threading.RLock
    """Held to set the status of jobs, as any thread may cancel them. Reentrant: signal handlers cancel, too."""
    loading: dict[int, int]
    """Number of provisional results handed to the loader's thread, by the job's number, until a node reports the
    job's end. That goes to this thread, too, so that its callbacks come after those of the provisional results."""
    ended: set[int]
    """Numbers of jobs whose end has come and whose result the loader's thread is unpickling: too late to cancel."""

    # Threads that wait.

    idle: threading.Condition
    """Notified when no job is unfinished any more, when fewer than ``queued_max`` are and a thread waits for that,
    and when ``close`` begins. Guards ``ends``, ``room_waiters``, ``cpu_time``, and jobs and times of nodes."""
    room: threading.RLock
    """With ``max_queued``: held by a thread from its wait for fewer jobs until its job is in ``jobs``. Otherwise
    several threads that waited could submit at once, and exceed the limit."""
    full: str = ""
    """Reason, in words, for which ``submit`` waits although fewer jobs than ``queued_max`` are unfinished: the shared
    scheduler is full. Empty: it does not."""
    room_waiters: int = 0
    """Number of threads that wait until fewer than ``queued_max`` jobs are unfinished: 0 or 1. While it is 0, an end
    of a job notifies ``idle`` only if it was the last one."""
    ends: int = 0
    """Number of events in which jobs have ended; several jobs in one count once. ``wait`` compares two values to see
    whether more jobs have ended while it waited for callbacks."""
    waiting_calls: WaitingCalls | None = None
    """Calls of ``asubmit`` that wait for room; None: none has waited yet."""
    closers: int = 0
    """Number of threads in ``close``. While there are any, a ``submit`` that would wait for ``max_queued`` raises."""

    # Nodes.

    dispy_nodes: dict[NodeId, DispyNode]
    """Nodes in use, as the program is shown them (``DispyNode``), by the node's identity, in the order in which their
    use began."""
    past_nodes: list[DispyNode]
    """``DispyNode`` objects of nodes that are not in use any more, with their counts of jobs and times, in the order
    in which they were left. The object of a node that comes back moves to ``dispy_nodes``: its counts go on."""
    set_aside: dict[NodeId, SetAside]
    """Nodes that the program has given up, by the node's identity, also while they are away. They are not used again
    before ``allocate_node`` names them or ``resetup_node`` is called for them."""
    setup_args: dict[NodeId, tuple[Any, ...]]
    """Arguments for ``setup`` that ``resetup_node`` was given, by the node's identity. They replace those of the
    element of ``nodes`` until the next ``resetup_node``."""
    late_nodes: dict[NodeId, Callable[[], None]]
    """Nodes of another version of Python that are used when the jobs have ended that were submitted before they came:
    functions to be called on the loop after an end of jobs, by the node's identity."""
    offers: dict[NodeId, int]
    """Number of CPUs that a node offered when ``allocate`` was last asked about it, by the node's identity. When the
    node offers another number ``allocate`` is asked again."""
    on_unusable: Callable[[str], object] | None = None
    """Called on the callbacks' thread with the reason why a node cannot be used; None: nobody is to be called."""
    faults: NodeFaults
    """Errors and reasons why nodes are not used, for ``why`` and warnings."""
    waiting: Waiting
    """Record of jobs that wait, and of warnings about them (``explain.check_waiting``)."""

    def __init__(
        self,
        options: Options,
        wishes: Wishes,
        shipped: Shipped,
        held_files: list[Held],
        engine: Threads,
        backend: Backend,
        number: int,
        cluster: Any,
    ) -> None:
        self.options = options
        self.wishes = wishes
        self.shipped = shipped
        self.held_files = held_files
        self.engine = engine
        self.backend = backend
        self.views = backend.views
        self.number = number
        self.cluster = cluster
        self.computation = options.computation
        self.name = options.computation.name
        self.tally = Tally(self.name)
        self.pid = process_identity.pid

        self.inbox = deque()
        self.cancels = deque()
        self.objects = set()
        self.dropped = deque()
        self.held = {}
        self.sent = Sent()

        self.jobs = {}
        self.numbers = Numbers()
        self.map_numbers = itertools.count(1)
        self.maps = set()
        self.displays = set()
        self.status_guard = threading.RLock()
        self.loading = {}
        self.ended = set()

        self.idle = engine.new_condition()
        self.room = threading.RLock()

        self.dispy_nodes = {}
        self.past_nodes = []
        self.set_aside = {}
        self.late_nodes = {}
        self.setup_args = {}
        self.offers = {}
        self.faults = NodeFaults()
        self.waiting = Waiting()

    def check_open(self) -> None:
        """Check that the cluster can be used.

        Raises:
            UsageError: The cluster was made in another process, or is closed.
        """
        if self.pid != process_identity.pid:
            raise UsageError(
                f"cluster {self.name} was created in another process ({self.pid}) and cannot be used in its fork",
                hint="create a cluster in the process that uses it",
            )
        if self.is_closed:
            raise UsageError(f"cluster {self.name} is closed", hint="create a new one")

    @property
    def gives_bytes(self) -> bool:
        """True if ``stdout`` and ``stderr`` of jobs are shown as bytes, as they run a program; False: as text."""
        return self.computation.is_program

    def cpus(self) -> int:
        """Returns the number of CPUs that the cluster may use now, over all nodes; 0 without a node.

        ``map`` keeps more chunks on their way if there are more CPUs.
        """
        return sum([node.cpus for node in list(self.dispy_nodes.values())])

    def known_nodes(self) -> list[NodeInfo]:
        """Returns the nodes that are connected and have the cluster's secret. On any thread of the program."""
        return self.engine.call(self.views.nodes, self.number)

    # What is told to the program.

    def tell(self, status: int, node: DispyNode | None, job: DispyJob | None) -> None:
        """Queue a call of ``cluster_status`` with these arguments for the callbacks' thread. On any thread.

        Does nothing if the program has given no ``cluster_status``. ``node`` and ``job``: those that the event is
        about; None if there is none.
        """
        if self.cluster_status is not None:
            self.engine.callbacks.call(self.cluster_status, [(status, node, job)])

    def tell_maps(self) -> None:
        """Wake the running maps, as there are more or fewer CPUs: they adapt the number of chunks on their way."""
        for running in list(self.maps):
            running.on_nodes()

    # What the backend is told.

    def spec(self, note: Callable[[Journal], None]) -> ClusterSpec:
        """Returns what the backend is told of the cluster when it is opened.

        ``note``: writes the description of the cluster into a journal that the backend has made.
        """
        options = self.options
        return ClusterSpec(
            self.name,
            self.compute(),
            options.reentrant,
            options.pulse_s,
            options.access,
            self.wishes,
            self.journal,
            note,
        )

    def compute(self) -> Compute:
        """Returns the message that has a node load the computation: its code, files and settings.

        The scheduler keeps it for all nodes, and replaces code or files where a node gets its own.
        """
        options = self.options
        return Compute(
            self.number,
            self.name[:200],
            self.computation.code,
            0,
            options.isolate and not self.computation.is_program,  # it is a process of its own in any case
            float(config.CancelGrace),
            options.dest_path,
            exclusive=options.exclusive,
            live=self.watching.callback is not None,
            message_timeout_s=config.message_timeout_s(),
            setup_per_worker=options.setup_per == "worker",
            setup_timeout_s=options.setup_timeout or 0.0,
            files=options.files,
            keep=options.keeps_files,
            owner=options.owner,
        )

    def code_for(self, setup_args: tuple[Any, ...], python: str = "") -> bytes:
        """Returns the pickled computation for a node that gets its own; empty: the node gets the common one.

        Args:
            setup_args: Arguments of ``setup`` there; empty: there are none.
            python: Minor version of Python there, such as "3.12"; empty: that of the program.

        Raises:
            PicklingError: One of the arguments cannot be sent.
        """
        return self.computation.code_for(python, setup_args)
