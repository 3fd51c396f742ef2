"""State of a node's service: connections, processes, directories, timers.

The service's behaviour is in functions on this state. ``clients`` takes in messages of clients and
``results.delivery`` sends the answers; ``processes.computations`` starts and ends hosts, ``processes.workers`` gives
jobs to workers; ``staging.working_directories`` puts files where jobs find them. Each of them tells the execution
core what has happened by ``handle``, which also performs what the core decides. All of this runs on the event loop's
thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import select
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from msgspec import Struct

from dispy.core import execution as core
from dispy.core.execution import Machine
from dispy.core.execution.dispatch import workers_max
from dispy.core.execution.ids import ClientId, Key, WorkerId
from dispy.net.beacons.network import NewNetwork, Sockets
from dispy.net.links.streams_under_way import StreamsUnderWay
from dispy.node import guard
from dispy.node.guard import Owner
from dispy.node.guests import Reports
from dispy.node.machine.accounts import AccountTurns
from dispy.node.machine.live_output import read_printed
from dispy.node.processes.file_helpers import FileHelpers, attempt
from dispy.node.processes.hosts import HostProcess
from dispy.node.processes.spared import Spared
from dispy.node.processes.strays import Strays
from dispy.node.processes.worker_channels import WorkerHandle
from dispy.protocol import node
from dispy.protocol.worker import PACKET_MAX
from dispy.settings import NodeSettings
from dispy.system.clock import Clock
from dispy.system.wording import say_fault

if TYPE_CHECKING:
    from dispy.files.fetching.stager import Stager
    from dispy.files.fetching.wanted_files import Stage
    from dispy.files.stores import Stores
    from dispy.net.connection import Connection
    from dispy.node.entrance import Entrance
    from dispy.node.machine.accounts import Account
    from dispy.node.payloads.segments import Segments
    from dispy.node.results.spool import Spool
    from dispy.node.staging.job_files import Brought
    from dispy.node.staging.workspace import WorkSpace
    from dispy.security.secrets import Secret
    from dispy.security.tls import ListenerTls

logger = logging.getLogger("dispy.node")


class Loaded:
    """A computation on this node: its host process, its directories, and what is on its way for it.

    The host may be dead (``host.is_dead``): directories stay while the core may have another host started.

    Args:
        key: Client, and number of the computation at that client.
        host: Process that loads its code and forks its workers.
        work: Working directory of its jobs.
        segments: Directory of its large payloads (arguments, results, objects): that in memory if there are two.
        compute: Message of the client that has opened the computation.
    """

    __slots__ = (
        "brought", "client", "computation", "failure", "has_fault", "host", "is_loaded", "is_shared", "key",
        "limit_s", "objects", "owner", "per_worker", "requests", "segments", "sending", "since", "stages", "values",
        "was_set_up", "work",
    )  # fmt: skip

    def __init__(
        self, key: Key, host: HostProcess, work: Path, segments: Path, compute: node.Compute
    ) -> None:
        self.key = key
        self.computation: core.Computation | None = None
        """The core's computation; None once the log has said that the computation has left or cannot run, so that it
        does not say so twice."""
        self.since = 0.0
        """Time at which the host was told to load the computation (monotonic, seconds); for the log."""
        self.per_worker = compute.setup_per_worker
        """True if ``setup`` is called in each worker, not in the host."""
        self.limit_s = compute.setup_timeout_s
        """Seconds that ``setup`` may take; 0: no limit. A host or worker that takes longer is killed
        ``workers.SETUP_GRACE_S`` later."""
        self.is_loaded = False
        """True once the host has loaded the code and, unless ``per_worker``, called ``setup``."""
        self.was_set_up = False
        """True once a worker has called ``setup`` with success: a later failure ends only that worker, not the
        computation."""
        self.failure = ""
        """Reason for which the node has killed the host: ``setup`` has failed or took too long. Then the death of the
        host gives the computation up; if it is empty, the core is told that another host may do better."""
        self.has_fault = False
        """True once a fault of the node's own program has given the computation up. A second one ends its client."""
        self.client = key[0]
        self.owner = compute.owner
        """Owner of the files of the computation and its jobs (``Compute.owner``)."""
        self.host = host
        self.work = work
        self.segments = segments
        self.objects: set[int] = set()
        """Numbers of the objects that the client has put here (``PutObject``). Once there are
        ``limits.OBJECTS_MAX``, another one is refused."""
        self.sending: StreamsUnderWay[tuple[int, int], node.JobsEnded] = StreamsUnderWay()
        """Large results that may still be on their way to the client, by job number and attempt. If the client
        cancels the job or closes the computation, they are stopped."""
        self.values: dict[tuple[int, int, int], int] = {}
        """Number of the segment of each large provisional result that the client has not acknowledged; the key is
        number, attempt and serial of the result. The segment is removed with its entry."""
        self.is_shared = False
        """True once the client, which runs on this machine, was told of a result by the name of its segment. Large
        segments are then not used again: the client may have mapped them."""
        self.brought: Brought | None = None
        """Places and removes the files that single jobs bring; None until a job brings any."""
        self.stages: dict[int, Stage] = {}
        """Fetches of files from clients that are under way. Key: number of the job that waits for the files, or the
        negative number of a request (``PlaceFiles``). They are given up when the computation leaves."""
        self.requests: set[int] = set()
        """Numbers of the requests to place files (``PlaceFiles``) that are not answered yet. A request that comes
        again meanwhile is ignored."""


class Prepared(Struct):
    """A computation without a host: its files are on their way, or are in place and its host is about to start.

    Attributes:
        work: Working directory of the computation.
        stage: Fetch of the files into that directory; given up if the computation leaves before.
    """

    work: Path
    stage: Stage


class NodeParts(Struct, frozen=True):
    """Parts of a node that are made before its event loop runs.

    Attributes:
        secret: Secret shared with clients.
        tls: Makes the TLS of TCP connections, on a thread when the first one comes; None: they are not encrypted.
        accounts: Accounts that jobs run as; none: that of the node.
        cpus: Number of CPUs offered at first: jobs that may run at once.
        cpus_present: Number of CPUs that can be offered at most.
        spare: Host that is starting already, for the first computation.
        incarnation: 16 bytes that name this run of the node.
        segments: Directories for large payloads. The path of the first one marks all processes of the node.
        spool: Directory on disk for results of clients that are away; None: such results stay in memory.
        workspace: Directory that has the working directories of computations.
        stores: Files that clients sent to nodes of this user, kept to be used again, by owner.
        clock: Source of the time.
        read_available: Returns free CPU, memory, disk and swap of the machine; None: clients are not told.
        spared: Pids of processes that the node starts for itself.
        helpers: Processes that work with files as ``accounts``; None: there are no accounts.
        found: Pids of children that this process had before it became a node. They are never killed as strays.
        say: Prints a text (whole lines) that hosts, or code that they load, have printed.
        has_socket: True if the node listens on a Unix socket, too, for programs of its user on this machine.
        new_network: Makes the sockets for beacons.
    """

    secret: Secret
    tls: Callable[[], ListenerTls] | None
    accounts: tuple[Account, ...]
    cpus: int
    cpus_present: int
    spare: HostProcess
    incarnation: bytes
    segments: Segments
    spool: Path | None
    workspace: WorkSpace
    stores: Stores
    spared: Spared = msgspec.field(default_factory=Spared)
    helpers: FileHelpers | None = None
    clock: Clock = time
    read_available: Callable[[], node.Available] | None = None
    found: frozenset[int] = frozenset()
    say: Callable[[str], object] = print
    has_socket: bool = False
    new_network: NewNetwork = Sockets


class NodeState:
    """State that the modules of a node's service share; ``NodeService`` adds what only the service itself uses.

    Args:
        settings: Checked settings.
        parts: Parts made before the loop runs.
    """

    perform_by_type: ClassVar[dict[type[core.Action], Callable[[Any, Any], None]]]
    """Functions that perform the core's actions, by the type of the action; called with service and action."""
    stores: Stores
    """Files that clients sent to nodes of this user, kept to be used again, by owner."""
    stager: Stager
    """Fetches files from clients, and puts them into the store and the working directories."""
    spool: Spool | None
    """Results of clients that are away, on disk; None: such results stay in memory, and end with the node."""

    entrance: Entrance
    """The sockets that the node listens on, and its entry in the list of nodes."""

    cpus_most: int
    """Largest number of CPUs that ``set_cpus`` may offer. Each host has slots for the workers of as many CPUs
    (``workers_max``)."""
    failed: bool
    """True if the node stops because of an error of its own. Its exit code is 70 then."""
    stopped: asyncio.Event
    """Set when the node is to stop: ``run`` ends everything, and no host is started any more."""
    reports: Reports
    """Clients as the log has shown them, and the number of lines logged in this minute."""

    # The execution core.
    _events: deque[core.Event]
    """Events for the core that came while ``handle`` ran, oldest first; told when its actions are performed."""
    _is_handling: bool
    """True while ``handle`` runs: events from within it wait in ``_events``."""
    looks: list[core.Look]
    """Actions of the core that ask for output of running jobs. ``handle_and_look`` performs them after all
    others, and removes them: reading files delays nothing else."""

    faults: dict[str, float]
    """Time at which the log last said each fault of this program (monotonic, seconds), by what failed and where."""

    # Clients.
    given_up: dict[ClientId, str]
    """Clients that a fault of this program has ended, with the reason, by which their computations are refused."""
    clients: dict[ClientId, Connection]
    """The newest connection of each client that is connected, by the client's identity."""
    connections: dict[Connection, ClientId | None]
    """Identity of the client of each connection that has proved the secret. It is None until the client says who it
    is (``Attach``), and once a newer connection of this client has replaced the connection."""
    sharing: set[ClientId]
    """Clients on this machine that can read the node's directory on the memory file system: a large result is told to
    them by the name of its segment, and not sent."""
    gone: set[ClientId]
    """Clients that have left for good (``Detach``) while the node stops: none of their results goes to disk."""
    told_available: dict[Connection, float]
    """Time at which each client was last told what the machine has to spare (monotonic, seconds), by connection. The
    next message is sent ``delivery.AVAILABLE_S`` later, or a heartbeat interval later if the client has set one."""

    # Computations, by key (client and number). ``loaded`` and ``leaving`` are mutually exclusive.
    prepared: dict[Key, Prepared]
    """Computations without a host, by key (client and number): their files are on their way, or in place while the
    host is about to start."""
    loaded: dict[Key, Loaded]
    """Computations, by key, that have a host, or may get another one as theirs is dead. Arguments, objects and files
    for a computation that is not here are dropped, and its jobs go back to the client."""
    leaving: dict[Key, Loaded]
    """Computations, by key, whose hosts were told to end, until these have ended. The working directory stays
    until then, as ``cleanup`` may use it."""
    dropping: set[Key]
    """Keys of computations that have left, while a thread may still put files into their working directory. The
    directory is removed when no thread does."""
    waiting: dict[Key, core.StartHost | core.StageFiles]
    """Last ``StartHost`` or ``StageFiles`` for each computation, by key, that was opened again while in ``leaving``
    or ``dropping``. The action is performed when the key has left these tables: ``cleanup`` of one generation ends
    before the next one begins."""
    hosts_started: int
    """Number of host processes that were started so far, the first spare one included."""
    spare: HostProcess | None
    """Host that is started ahead, for the next computation. None: the next one waits for a new host's imports."""
    ending: list[HostProcess]
    """Hosts that were told to end, and may live: they are not killed as strays."""
    short: dict[Key, int]
    """Bytes of the largest payload that found no room, by computation. Such a computation gets no jobs until there is
    room for as many bytes (``room_shortage``)."""
    short_said: float
    """Time at which the log last said that large data finds no room (monotonic, seconds). The next such line comes
    ``room_shortage.SAY_S`` later or after that."""

    # Workers.
    tick: asyncio.TimerHandle | None
    """Timer of the next ``workers._on_tick``, which tells the core the workers' positions; None while no job runs."""
    owners: dict[WorkerId, tuple[Loaded, WorkerHandle]]
    """The computation and the channels of each worker that lives, by the worker's number. Actions for a worker that
    is not here have no effect."""
    bringing: dict[WorkerId, Brought]
    """For each worker, by number, that was given a job which brings files, until that job ends: the object that puts
    such files into the working directory, and removes them at the job's end."""
    packet: bytearray
    """Buffer of ``PACKET_MAX`` bytes into which each packet of a worker is read: it overwrites the one before.
    ``packet_view`` is a view of it."""

    def __init__(self, settings: NodeSettings, parts: NodeParts) -> None:
        self.settings = settings
        self.cpus = parts.cpus
        """Number of CPUs that the node offers: jobs of all clients that may run at once. While the node is drained it
        offers none, and this is the number from before."""
        self.cpus_most = max(parts.cpus, parts.cpus_present)
        self.name = settings.name or platform.node() or "localhost"
        """Name of the node, which clients, logs and errors show."""
        self.incarnation = parts.incarnation
        self.failed = False
        self.accounts = AccountTurns(parts.accounts)
        """Account of each owner of files (``Compute.owner``; empty: the client itself), which his jobs run as."""
        self.strays = Strays(parts.spared, parts.found)
        """Finds and kills the processes that jobs have left."""
        self.helpers = parts.helpers
        """Processes that work with files as the accounts of jobs; None: there are no accounts."""
        self.clock = parts.clock
        self.loop = asyncio.get_running_loop()
        self.stopped = asyncio.Event()
        self.reports = Reports(self.loop.call_later)
        self.read_available = parts.read_available
        self.say = parts.say

        self.machine = Machine(parts.cpus, settings.lease_s, settings.silence_s, settings.idle_s)
        """The execution core: it gets events and returns actions, and does nothing by itself. Its ``state`` is only
        read here."""
        self._events = deque()
        self._is_handling = False
        self.looks = []
        self.faults = {}
        self.given_up = {}

        self.clients = {}
        self.connections = {}
        self.sharing = set()
        self.gone = set()
        self.told_available = {}

        self.prepared = {}
        self.loaded = {}
        self.leaving = {}
        self.dropping = set()
        self.waiting = {}
        self.opened: dict[Key, Path | Exception] = {}
        """Working directory that a thread has opened for a computation, or its error, while the action that has
        waited for it is performed."""
        self.spare = parts.spare
        self.hosts_started = 1
        self.ending = []
        self.short = {}
        self.short_said = -1e9
        self.workspace = parts.workspace
        self.stores = parts.stores
        self.segments = parts.segments

        self.tick = None
        self.owners = {}
        self.bringing = {}
        self.packet = bytearray(PACKET_MAX)
        self.packet_view = memoryview(self.packet)

    def handle(self, event: core.Event) -> None:
        """Tell the core an event, and perform the actions that it decides. Call it on the loop only.

        Events that these actions cause wait until all actions are performed, and are told then. An exception is a
        fault of this program. One of an action for a computation or a client ends that, with the reason, and all
        others go on (``containment``); after one of the core the node stops.
        """
        self._events.append(event)
        if self._is_handling:
            return
        self._is_handling = True
        perform = self.perform_by_type
        try:
            while self._events:
                for action in self.machine.handle(self._events.popleft(), self.clock.monotonic()):
                    try:
                        perform[type(action)](self, action)
                    except Exception as error:
                        if not self._contain_action(action, error):
                            raise
        except Exception as error:
            # The core's state and the machine differ from now on. A client that is told that its node is gone is
            # better off than a client of a node that only seems to work.
            self._stop_faulty(error)
        finally:
            self._is_handling = False

    def _stop_faulty(self, error: Exception) -> None:
        """Stop the node because of a fault that nothing less can end."""
        say_fault(
            logger,
            "this node has a fault and stops: programs count it as gone, so that its jobs run again elsewhere or end "
            "as Abandoned; start dispynode again, and please report this",
            error=error,
        )
        self.failed = True
        self._events.clear()
        self.stopped.set()

    def _contain_action(self, action: core.Action, error: Exception) -> bool:
        """End the computation or the client for which an action failed. False if the action is for neither."""
        raise NotImplementedError

    def contain(self, owner: Owner, error: Exception) -> None:
        """End the computation or the client for which something failed, with the reason; None: log it only."""
        raise NotImplementedError

    def handle_and_look(self, event: core.Event) -> None:
        """Handle an event and all that it causes; then read the output of running jobs that the core has asked for.

        The output goes to the core as the event ``Looked``, for clients that watch these jobs.
        """
        self.handle(event)
        while self.looks:
            action = self.looks.pop()
            guard.run(self, action.key, self._look_at, action)

    def _look_at(self, action: core.Look) -> None:
        """Read the output of running jobs of one computation, and tell the core (``Looked``)."""
        workers = []
        for place in action.places:
            owner = self.owners.get(place.worker)
            if owner is not None:
                workers.append((place, owner[1].words, owner[1].output))
        self.handle(core.Looked(action.key, read_printed(workers, action.size_max)))

    def with_files(
        self, account: Account | None, work: Callable[[], Any], then: Callable[[Any], None]
    ) -> None:
        """Have something done with files of jobs, and call ``then`` on the loop with its result, or its exception.

        Files of this user are worked with at once; those of an account by a thread that asks the account's helper,
        in the order of the calls.
        """
        if account is not None and self.helpers is not None:
            self.helpers.run(work, then, self._post)
        else:
            then(attempt(work))

    def perform(self, action: core.Action) -> None:
        """Perform an action that has waited."""
        self.perform_by_type[type(action)](self, action)

    def _post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have a function called on the loop, from any thread; not at all if the loop has ended."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(guard.run, self, None, function, *arguments)

    # The following methods touch the operating system; the simulation replaces them.

    def new_host(self, account: Account | None) -> HostProcess:
        """Start a host process without a computation, with slots for the workers of ``cpus_most`` CPUs.

        Raises:
            OSError: There is no process, descriptor or memory to be had.
        """
        is_private = bool(self.settings.owner)
        return HostProcess(
            workers_max(self.cpus_most), str(self.segments.directories.root), account, is_private
        )

    def has_reply(self, handle: WorkerHandle) -> bool:
        """True if a packet of the worker waits to be read, or its socket is closed. Asked before each read when the
        packets of a dead worker are taken in: False ends that."""
        poller = select.poll()
        poller.register(handle.replies, select.POLLIN)
        return any(event & select.POLLIN for _, event in poller.poll(0))
