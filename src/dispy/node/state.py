"""What a node holds: connections, processes, directories, timers.

The other modules of its service are functions on it: ``clients`` takes in what clients say and ``telling`` answers,
``computations`` starts and ends hosts, ``workers`` gives jobs to workers, ``filing`` puts files where those find
them. What happens they tell the core by ``_handle``, which has done what the core decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import select
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import Struct

from dispy.core import execution as core
from dispy.core.execution import Machine
from dispy.core.execution.dispatch import workers_max
from dispy.core.execution.ids import ClientId, Key, WorkerId
from dispy.node.machine.live_output import read_printed
from dispy.node.processes.hosts import HostProcess, WorkerHandle
from dispy.node.reporting import Reports
from dispy.protocol import node
from dispy.protocol.worker import PACKET_MAX
from dispy.settings import NodeSettings
from dispy.system.clock import Clock
from dispy.system.processes import children, kill_strays, reap
from dispy.system.watchdog import Stall

if TYPE_CHECKING:
    from dispy.files.fetching.stager import Stager
    from dispy.files.fetching.wanted_files import Stage
    from dispy.files.store import Store
    from dispy.net.connection import Connection
    from dispy.net.discovery import Entry
    from dispy.node.machine.accounts import Account
    from dispy.node.payloads.segments import Segments
    from dispy.node.processes.python_path import SearchPath
    from dispy.node.results.spool import Spool
    from dispy.node.staging.job_files import Brought
    from dispy.node.staging.workspace import WorkSpace
    from dispy.protocol.frames import Group
    from dispy.security.secrets import Secret
    from dispy.security.tls import ListenerTls

logger = logging.getLogger("dispy.node")


class Loaded:
    """A computation's host and places."""

    __slots__ = (
        "brought", "client", "computation", "failure", "host", "is_loaded", "is_shared", "key", "limit_s", "objects",
        "per_worker", "requests", "segments", "sending", "since", "stages", "values", "was_set_up", "work",
    )  # fmt: skip

    def __init__(
        self, key: Key, host: HostProcess, work: Path, segments: Path, compute: node.Compute
    ) -> None:
        self.key = key
        self.computation: core.Computation | None = None
        """The computation of the core; kept until the log has said that it has left."""
        self.since = 0.0
        """When its host was told to load it (monotonic)."""
        self.per_worker = compute.setup_per_worker
        self.limit_s = compute.setup_timeout_s
        self.is_loaded = False
        self.was_set_up = False
        """Some worker has called ``setup`` with success."""
        self.failure = ""
        """Why the computation is to be given up when its host, which was killed for that, is dead."""
        self.client = key[0]
        self.host = host
        self.work = work
        self.segments = segments
        self.objects: set[int] = set()
        """Numbers of what was put there."""
        self.sending: list[tuple[Connection, Group, node.JobsEnded]] = []
        """Results that may still be on their way as streams."""
        self.values: dict[tuple[int, int, int], int] = {}
        """Segments with provisional results that have been told, by number, attempt and serial."""
        self.is_shared = False
        """The client was told of results by the names of their files."""
        self.brought: Brought | None = None
        """Files that its jobs bring."""
        self.stages: dict[int, Stage] = {}
        """Files on their way for jobs that wait for them, by the job's number, and for requests, by less than 0."""
        self.requests: set[int] = set()
        """Those that are being done."""


class Prepared(Struct):
    """A working directory whose computation has no host yet."""

    work: Path
    stage: Stage


class NodeParts(Struct, frozen=True):
    """What a node is made of before its loop runs.

    Attributes:
        secret: Shared with clients.
        tls: For its listener; None: without.
        account: Whom jobs run as; None: as the node.
        cpus: Jobs that may run at once.
        cpus_present: What could be offered at most.
        spare: A host that is starting already.
        incarnation: 16 bytes that name this run of the node.
        segments: Its place for large payloads, and what marks its processes.
        spool: Where results go on disk whose clients are away; None: nowhere.
        workspace: Its place for working directories.
        store: Where it keeps files that were sent to it.
        clock: What it goes by.
        read_available: Says what the machine has to spare; None: nobody does.
        found: Children of this process that were there before it was a node: they are nobody's strays.
        say: Takes what hosts print, in lines.
    """

    secret: Secret
    tls: ListenerTls | None
    account: Account | None
    cpus: int
    cpus_present: int
    spare: HostProcess
    incarnation: bytes
    segments: Segments
    spool: Path | None
    workspace: WorkSpace
    store: Store
    clock: Clock = time
    read_available: Callable[[], node.Available] | None = None
    found: frozenset[int] = frozenset()
    say: Callable[[str], object] = print


class NodeState:
    """The shared state of a node's service; ``NodeService`` is one of these.

    Args:
        settings: Checked.
        parts: What it is made of.
    """

    _perform_by_type: ClassVar[dict[type[core.Action], Callable[[Any, Any], None]]]
    """What is done for each kind of action, with the service and the action."""
    _stager: Stager
    _search_path: SearchPath
    _spool: Spool | None

    def __init__(self, settings: NodeSettings, parts: NodeParts) -> None:
        self.settings = settings
        self.cpus = parts.cpus
        self.cpus_most = max(parts.cpus, parts.cpus_present)
        """What ``set_cpus`` may offer: hosts have places for workers of so many."""
        self.name = settings.name or platform.node() or "localhost"
        self.incarnation = parts.incarnation
        self.address: tuple[str, int] = (settings.host, 0)
        self.failed = False
        """Whether it stopped because of a fault of ours."""
        self._secret = parts.secret
        self._tls = parts.tls
        self._account = parts.account
        self._clock = parts.clock
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._entry: Entry | None = None
        self._reports = Reports(self)
        self._tracer: Callable[[Connection], Callable[[str, Any], None]] | None = None
        """Gives each connection its ``trace``, with ``-d``."""

        # The core.
        self._machine = Machine(parts.cpus, settings.lease_s, settings.silence_s)
        self._events: deque[core.Event] = deque()
        """What it was not told yet."""
        self._is_handling = False
        self._looks: list[core.Look] = []
        """Output that it wants to see."""

        # Time.
        self._tick: asyncio.TimerHandle | None = None
        self._pulse: asyncio.TimerHandle | None = None
        self._pulses = 0
        self._idle_pulses = 0
        self._stall = Stall(settings.stall_s)

        # Clients.
        self._clients: dict[ClientId, Connection] = {}
        self._connections: dict[Connection, ClientId | None] = {}
        self._sharing: set[ClientId] = set()
        """Clients that see our directory on the memory file system."""
        self._gone: set[ClientId] = set()
        """Clients that said farewell while we stop."""
        self._read_available = parts.read_available
        self._say = parts.say
        self._told_available: dict[Connection, float] = {}
        """When clients were told last what there is to spare."""

        # Computations.
        self._prepared: dict[Key, Prepared] = {}
        self._loaded: dict[Key, Loaded] = {}
        self._leaving: dict[Key, Loaded] = {}
        """Those whose hosts are ending."""
        self._dropping: set[Key] = set()
        """Those into whose directory a thread still puts files, though they have left."""
        self._waiting: dict[Key, core.StartHost | core.StageFiles] = {}
        """Those that came back and wait for that: ``cleanup`` of one stay is over before the next begins."""
        self._spare: HostProcess | None = parts.spare
        self._ending: list[HostProcess] = []
        self._found = set(parts.found)
        """Children that were there before, such as what an entry script has started that has become a node."""
        self._short: dict[Key, int] = {}
        """Bytes of large data of a computation for which there is no room yet."""
        self._short_said = -1e9
        """When that was said last."""
        self._workspace = parts.workspace
        self._segments = parts.segments

        # Workers.
        self._owners: dict[WorkerId, tuple[Loaded, WorkerHandle]] = {}
        self._bringing: dict[WorkerId, Brought] = {}
        """Workers whose job brings files, or brought some."""
        self._packet = bytearray(PACKET_MAX)
        self._packet_view = memoryview(self._packet)

    def _handle(self, event: core.Event) -> None:
        """Tell the core something and do what it decides; what comes of that is told when all of it is done."""
        self._events.append(event)
        if self._is_handling:
            return
        self._is_handling = True
        perform = self._perform_by_type
        try:
            while self._events:
                for action in self._machine.handle(self._events.popleft(), self._clock.monotonic()):
                    perform[type(action)](self, action)
        except Exception:
            # What was decided and what was done differ now. Clients that are told that we are gone are
            # better off than those of a node that only seems to work.
            logger.exception("this node has a fault and stops; please report it")
            self.failed = True
            self._events.clear()
            self._stopped.set()
        finally:
            self._is_handling = False

    def _handle_and_look(self, event: core.Event) -> None:
        """Handle an event; when all is done that it brings, read the output that the core wants to see."""
        self._handle(event)
        while self._looks:
            action = self._looks.pop()
            workers = []
            for place in action.places:
                owner = self._owners.get(place.worker)
                if owner is not None:
                    workers.append((place, owner[1].words, owner[1].output))
            self._handle(core.Looked(action.key, read_printed(workers, action.size_max)))

    def _post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have a function called on the loop; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)

    # What touches the machine below, and is played in simulations.

    def _new_host(self) -> HostProcess:
        return HostProcess(workers_max(self.cpus_most), str(self._segments.root), self._account)

    def _kill_strays(self, keep: set[int]) -> None:
        with self._search_path.starting:
            kill_strays(keep | self._found | self._search_path.asked)

    def _bury_others(self, own: set[int]) -> None:
        """Reap children that are not of the node: those found, and, as the first process of a container, orphans."""
        if self._found or os.getpid() == 1:
            with self._search_path.starting:
                for pid in children(os.getpid()):
                    if pid not in own and pid not in self._search_path.asked and reap(pid):
                        self._found.discard(pid)

    def _has_reply(self, handle: WorkerHandle) -> bool:
        poller = select.poll()
        poller.register(handle.replies, select.POLLIN)
        return any(event & select.POLLIN for _, event in poller.poll(0))
