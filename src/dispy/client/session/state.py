"""What is known of a cluster: what its program has chosen, its jobs, its nodes.

``JobCluster`` is one of these. What happens to it is in the modules beside this one, as functions on it: jobs go
out by ``submission`` and end by ``ending``, ``data`` goes beside them, nodes are chosen by ``steering``, ``noting``
tells journals, and ``reasons`` says why something waits.

Threads of the program call the public methods; those change what is guarded here, or put it into a queue for the
engine's loop. Everything else belongs to the loop.
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

    # What its program has chosen; ``JobCluster`` sets it.

    name: str
    job_status: Callable[[DispyJob], object] | None
    cluster_status: Callable[[int, DispyNode | None, DispyJob | None], object] | None
    start_time: float
    _allocations: list[NodeAllocate]
    """Elements of ``nodes``, in the order in which they are asked."""
    _wants_private: bool
    """It may use a node of the program's own."""
    _secret: Secret
    _secret_file: str | None
    _tls: Tls
    _dest_path: str
    _keeps_files: bool
    _computation: Computation
    seed: int
    _seeding: Seeding
    _shipped: Shipped
    _files: list[FileEntry]
    """What every node gets."""
    _held_files: list[Held]
    """What has to be held for that."""
    _isolate: bool
    _setup_per: str
    _setup_timeout: float | None
    _exclusive: bool
    _reentrant: bool
    _pulse_s: float
    _queued_max: int
    _tally: Tally
    """How its jobs have ended."""

    # What works for it.

    _engine: Engine
    _number: int
    """Of its computation."""
    _watching: Watching
    _submit: Callable[..., DispyJob]
    """The way of a job: one of ``submission``."""

    def __init__(self) -> None:
        self.end_time: float | None = None
        self.cpu_time = 0.0
        self._pid = process_identity.pid
        self._is_closed = True
        self._is_ending = False
        """Jobs that have not ended are being ended by ``close``."""
        self._dialer_tls: DialerTls | None = None
        self._journal: Journal | None = None
        """With all jobs; None: only that of the program knows us."""
        self._keeps_journal = False

        # Jobs on their way out.
        self._inbox: deque[Job] = deque()
        """Submitted jobs on their way to the loop."""
        self._is_posted = False
        self._cancels: deque[int] = deque()
        """Cancelled jobs on their way to the loop."""
        self._has_posted_cancels = False
        self._dropped: deque[int] = deque()
        """Numbers of references that are gone, on their way to the loop."""
        self._held: dict[int, list[Ref | Held]] = {}
        """References in the arguments of jobs that have not ended, and their files, by the job's number."""
        self._sending: dict[tuple[NodeId, int], Sending] = {}
        """Who waits for files to be put on a node, by request."""
        self._sent = Sent()
        self._requests = itertools.count(1)

        # Jobs that have not ended.
        self._jobs: dict[int, DispyJob] = {}
        """By number."""
        self._map_numbers = itertools.count(1)
        self._maps: set[Mapping] = set()
        """Running ones."""
        self._status_guard = threading.RLock()  # signal handlers of the user may cancel, too
        """Held to set the status of jobs: they are cancelled on any thread."""
        self._loading: dict[int, int] = {}
        """Number of values of a job that are being loaded, so that they stay in order."""
        self._ended: set[int] = set()
        """Jobs that have ended and whose results are being loaded."""

        # Who waits.
        self._idle = threading.Condition()
        """Notified when the last open job has ended, and when one has while somebody waits for room."""
        self._room = threading.RLock()
        """With ``max_queued``: held by the one thread that waits for room, until its job is in ``_jobs``."""
        self._room_waiters = 0
        self._ends = 0
        """How often jobs have ended; several at once count as one. With ``_idle``."""
        self._closers = 0
        """Threads in ``close``: nobody waits for room any more."""

        # Nodes.
        self._dispy_nodes: dict[NodeId, DispyNode] = {}
        self._past_nodes: list[DispyNode] = []
        self._set_aside: dict[NodeId, str] = {}
        """Nodes that the program does not want to use any more, and what it has called for that."""
        self._setup_args: dict[NodeId, tuple[Any, ...]] = {}
        """What ``resetup_node`` was given, instead of those of the element of ``nodes``."""
        self._offers: dict[NodeId, int] = {}
        """CPUs that a node offered when ``allocate`` was asked about it."""
        self._unreachable: dict[Target, str] = {}
        self._warned: set[str] = set()
        """Warnings of nodes that were passed on: each is said once, however many nodes give it."""
        self._failures: dict[str, str] = {}

        # What is said of jobs that wait.
        self._waiting_since: float | None = None
        self._stall = Stall(STALL_S)
        self._has_warned = ""
        """Why jobs wait, as was said in a warning."""
        self._listed = ""
        """Which nodes of this machine were found, as was logged."""

    def _check_open(self) -> None:
        if self._pid != process_identity.pid:
            raise UsageError(
                f"cluster {self.name} was created in another process ({self._pid}) and cannot be used in its fork",
                hint="create a cluster in the process that uses it",
            )
        if self._is_closed:
            raise UsageError(f"cluster {self.name} is closed", hint="create a new one")

    @property
    def _gives_bytes(self) -> bool:
        """Whether what jobs print is bytes, and not text."""
        return self._computation.is_program

    def _cpus(self) -> int:
        """CPUs that can be used now."""
        return sum([node.cpus for node in list(self._dispy_nodes.values())])

    # What is told to the program.

    def _tell(self, status: int, node: DispyNode | None, job: DispyJob | None) -> None:
        if self.cluster_status is not None:
            self._engine.callbacks.call(self.cluster_status, [(status, node, job)])

    def _tell_maps(self) -> None:
        """There are more or fewer CPUs."""
        for running in list(self._maps):
            running.on_nodes()

    # What nodes are told.

    def _target(self, host: str, port: int, name: str, uses_tls: bool | None = None) -> Target:
        """Where to reach a node, and how.

        Args:
            host: Its address.
            port: Its port.
            name: How the user calls it: what its certificate must be for.
            uses_tls: What it says itself, on this machine; None: what is to be expected of its address.
        """
        if self._tls.is_used(host) if uses_tls is None else uses_tls:
            if self._dialer_tls is None:
                self._dialer_tls = dialer_tls(self._tls)
            return Target(host, port, self._secret.key, name, self._dialer_tls)
        return Target(host, port, self._secret.key)

    def _compute(self) -> Compute:
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
        """What its nodes are sent instead of the code of all; empty unless their setup has arguments.

        ``setup_args``: in place of those of the element of ``nodes``.
        """
        arguments = allocation.setup_args if setup_args is None else setup_args
        return self._computation.code_with(arguments) if arguments else b""

    def _files_for(self, depends: list[Any]) -> list[FileEntry]:
        """All files of a node that has some of its own. Reads them."""
        own, held = self._shipped.take(depends, self._files)
        self._held_files += held
        paths = {entry.path for entry in own}
        return listed([entry for entry in self._files if entry.path not in paths] + own)

    def _with_sent(self, target: Target, files: list[FileEntry] | None) -> list[FileEntry] | None:
        """The files of a node with those that ``send_file`` has put there; None: it has but those of all nodes."""
        known = self._files if files is None else files
        every = self._sent.with_files(target, known)
        return files if every is known else listed(every)
