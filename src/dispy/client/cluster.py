"""``JobCluster``: a computation with its nodes and jobs."""

from __future__ import annotations

import concurrent.futures
import itertools
import logging
import os
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

from dispy import config, payload
from dispy.client import journal, journal_files, mapping, this
from dispy.client import status as status_module
from dispy.client.arriving import note_root
from dispy.client.callbacks import check_callback
from dispy.client.checking import (
    check_flag,
    check_flags,
    check_hosts,
    check_interval,
    check_paths,
    check_port,
    check_text,
    check_timeout,
    describe,
)
from dispy.client.computation import Computation, check_job_depends, check_setup
from dispy.client.engine import HELD_S, WARN_S, Engine, engine, stop_engine
from dispy.client.files import Held, Shipped, is_file_item
from dispy.client.job import (
    ABANDONED,
    CANCELLED,
    CREATED,
    FINISHED,
    PROVISIONAL_RESULT,
    RUNNING,
    STATUS_NAMES,
    TERMINATED,
    DispyJob,
)
from dispy.client.journal import Journal
from dispy.client.log import notice
from dispy.client.mapping import Chunk, Mapping
from dispy.client.nodes import DispyNode, NodeAllocate, parse_nodes
from dispy.client.output import Follower, Watching
from dispy.client.refs import Ref, check_used
from dispy.client.steering import NodeNames, Steering
from dispy.core.scheduling import state as core
from dispy.core.scheduling.explain import find_stall, why_open
from dispy.core.scheduling.state import NodeId
from dispy.errors import NotYetError, PicklingError, UsageError
from dispy.net import secrets
from dispy.net.addresses import is_loopback
from dispy.net.tls import DialerTls, Tls, check, dialer_tls, warn_if_open
from dispy.protocol.files import FileEntry, check_path
from dispy.protocol.limits import OBJECTS_MAX
from dispy.protocol.node import (
    Compute,
    Ended,
    Job,
    PlaceFiles,
    Printed,
    Provisional,
    PutObject,
    Started,
)
from dispy.scheduler.service import NodeInfo, Target
from dispy.settings import PULSE_MIN_S, PULSE_S
from dispy.stall import STALL_S, Stall

logger = logging.getLogger("dispy.client")

_numbers = itertools.count(1)
"""Numbers of jobs: unique in the process, never reused, and usually the job's id, too."""

_chunk_numbers = itertools.count(mapping.NUMBERS_FROM)

JOBS_ARE = "jobs are what submit returns"

CLOSE_S = 2.0
"""What an orderly end may take beyond waiting for jobs."""


class ClusterStatus(NamedTuple):
    """What ``status()`` returns.

    Attributes:
        nodes: The nodes of the cluster.
        jobs_pending: Jobs that have not ended. Of a ``map``, its chunks that have not ended.
    """

    nodes: list[DispyNode]
    jobs_pending: int


class JobCluster(Steering):
    """Run a function on all CPUs that can be found.

    Args:
        computation: Any function; a bound method takes its object along. Or the path of a program, or its name in
            ``PATH``: it is sent to the nodes, and started for each job with the arguments as texts; the result is its
            exit code, its output is bytes.
        nodes: Hosts, addresses, patterns, ``(host, port, cpus)`` tuples, dictionaries or
            ``NodeAllocate`` objects; by default every node of this user on this machine, and a node
            of the program's own where there is none.
        depends: What jobs need on the nodes: functions and classes, which the computation finds by name; paths of
            files and directories, which lie in its working directory as they lie below the current one here, or
            by their last names; modules, of which the whole package can be imported there. A function called
            ``init_depends`` is called on each node before the others are defined: it may import modules, and
            define names with ``global``.
        setup: Called once on each node before any job there, with the ``setup_args`` of the ``NodeAllocate`` that the
            node is used for, in the working directory. Jobs see the globals that it sets, and share the memory of
            what it has loaded. A node where it raises, or returns anything but 0, 1, 2 or None, is not used.
        cleanup: Called likewise after all jobs, when the cluster leaves the node; then files are removed. True: only
            that. False: the working directory stays as it is; with ``dest_path`` the next cluster finds it.
        job_status: Called with a job at each provisional result and at its end.
        cluster_status: Called with (status, node, job) at every event.
        host: Accepted; clients listen nowhere.
        dest_path: Name of the working directory on the nodes, also ``a/b``, below one for the address of this
            client; clusters that give the same share it. By default each has its own.
        dispy_port: Base port; nodes listen on the next one.
        loglevel: Level of dispy's logger.
        ext_host: Accepted; nodes do not call back, so no gateway has to let them through.
        port: Old name of ``dispy_port``.
        node_port: Old way to assign ``dispy.config.NodePort``, where nodes listen that are given without a port.
        callback: Old name of ``job_status``.
        ip_addr: Old name of ``host``.
        ext_ip_addr: Old name of ``ext_host``.
        ping_interval: Accepted; nodes are looked for all the time.
        pulse_interval: Nodes give a sign of life at least so often (0.1 to 1000 seconds; 1 if not given): one that
            says nothing for five times so long is dead. The smallest of all clusters of the program is for all.
        poll_interval: Accepted; results come over the client's own connection.
        reentrant: Jobs may run again elsewhere if their node is lost.
        secret: Shared with the nodes; by default the user's own, or ``DISPY_SECRET``.
        isolate: Run each job in a fresh process.
        keyfile: Key of ``certfile``, if that is in a file of its own.
        certfile: Certificate that nodes must show, too (PEM); with ``cafile``, ours.
        secret_file: File with the secret, instead of ``secret``.
        cafile: Authority that must have signed the nodes' certificates (PEM), for the names used in ``nodes``.
        tls: Encrypt links; by default those to other machines, and all with ``certfile``.
        exclusive: Keep all others off the nodes, from when the cluster comes to them until it closes. On each node it
            starts when the jobs that run there have ended; several such clusters have their turns there in the
            order in which they came. Those kept waiting are told by whom.
        max_queued: ``submit`` waits while so many jobs have not ended, so that a producer cannot run away
            from the nodes. Callbacks are not made to wait: they would stop each other.
        recover_file: Where to keep a journal of all jobs and results, for ``recover_jobs``; must not exist.
        durable: Keep such a journal, in the user's state directory if ``recover_file`` does not say where.
        setup_per: "node": setup runs once on each node, and jobs' processes are forked from that process. "worker":
            in each of those, for libraries that do not survive a fork; so does cleanup, and threads and processes
            that setup has made stay.
        setup_timeout: Seconds that setup may take; a node where it takes longer is not used, and all that it has
            started there is killed. None: as long as it takes.
        job_output: Called with (job, stream, text) while jobs run, some tenths of a second after they print, and
            before ``job_status`` with the rest; ``stream`` is "stdout" or "stderr". See ``DispyJob.output``.

    The other parameters are not available yet and are refused.

    Raises:
        UsageError: A parameter that cannot be used, and why.
        PicklingError: The computation cannot be sent; says which part of it.
    """

    def __init__(
        self,
        computation: Any,
        nodes: Any = None,
        depends: Any = (),
        job_status: Callable[[DispyJob], object] | None = None,
        cluster_status: Callable[[int, DispyNode | None, DispyJob | None], object] | None = None,
        host: str | list[str] | None = None,
        dispy_port: int | None = None,
        ext_host: str | list[str] | None = None,
        ip_addr: str | list[str] | None = None,
        ext_ip_addr: str | list[str] | None = None,
        ipv4_udp_multicast: bool = False,
        dest_path: str | None = None,
        loglevel: int = logging.INFO,
        callback: Callable[[DispyJob], object] | None = None,
        setup: Any = None,
        cleanup: Any = True,
        ping_interval: float | None = None,
        pulse_interval: float | None = None,
        poll_interval: float | None = None,
        reentrant: bool = False,
        secret: str = "",
        keyfile: str | None = None,
        certfile: str | None = None,
        recover_file: str | os.PathLike[str] | None = None,
        *,
        isolate: bool = False,
        secret_file: str | None = None,
        cafile: str | None = None,
        tls: bool | None = None,
        max_queued: int | None = None,
        exclusive: bool = False,
        job_output: Callable[[DispyJob, str, str], object] | None = None,
        durable: bool = False,
        port: int | None = None,
        node_port: int | None = None,
        setup_per: str = "node",
        setup_timeout: float | None = None,
    ) -> None:
        self._is_closed = True
        dispy_port = _renamed(dispy_port, port, "port", "dispy_port")
        note_root()
        host = _renamed(host, ip_addr, "ip_addr", "host")
        ext_host = _renamed(ext_host, ext_ip_addr, "ext_ip_addr", "ext_host")
        job_status = _renamed(job_status, callback, "callback", "job_status")
        _refuse_not_yet(
            ipv4_udp_multicast=ipv4_udp_multicast,
        )  # fmt: skip
        check_paths(
            recover_file=recover_file,
            secret_file=secret_file,
            certfile=certfile,
            keyfile=keyfile,
            cafile=cafile,
        )
        check_interval("ping_interval", ping_interval, 1)
        check_interval("poll_interval", poll_interval, 5)
        check_interval("pulse_interval", pulse_interval, PULSE_MIN_S)
        check_hosts("host", host)
        check_hosts("ext_host", ext_host)
        check_port("dispy_port", dispy_port)
        check_port("node_port", node_port)
        if node_port is not None:
            warnings.warn("node_port is now called dispy.config.NodePort", DeprecationWarning, stacklevel=2)
        check_flags(
            isolate=isolate, exclusive=exclusive, durable=durable, tls=False if tls is None else tls
        )
        if isinstance(loglevel, bool) or not isinstance(loglevel, int):
            raise UsageError(
                f"loglevel must be a number, not {describe(loglevel)}", hint="dispy.logger.DEBUG"
            )
        if not isinstance(reentrant, bool):
            warnings.warn(f"reentrant={reentrant!r} is neither True nor False; False is used", stacklevel=2)
            reentrant = False
        check_text("secret", secret, "the text that nodes were given with --secret")
        if max_queued is not None and (
            isinstance(max_queued, bool) or not isinstance(max_queued, int) or max_queued < 1
        ):
            raise UsageError(
                f"max_queued must be a number of jobs from 1, not {describe(max_queued)}",
                hint="leave it out for no bound",
            )
        config.message_timeout_s()
        config.node_port()
        check_callback(job_status, "job_status", ("job",))
        check_callback(cluster_status, "cluster_status", ("status", "node", "job"))
        check_callback(job_output, "job_output", ("job", "stream", "text"))
        self._allocations: list[NodeAllocate] = parse_nodes(nodes)
        self._wants_private = all(allocation.host == "*" for allocation in self._allocations)
        self._secret = secrets.choose(secret, secret_file)
        self._tls = check(Tls(certfile, keyfile, cafile, tls))
        self._dialer_tls: DialerTls | None = None
        for allocation in self._allocations:
            if allocation.ip_addr is not None:
                secrets.require_given(self._secret, allocation.ip_addr)
                warn_if_open(self._tls, allocation.ip_addr)
        self._secret_file = secret_file
        self._dest_path = _check_dest_path(dest_path)
        self._keeps_files = cleanup is False or cleanup is None
        self._computation = self._make_computation(
            computation,
            depends,
            setup,
            cleanup if callable(cleanup) else None if cleanup in (True, False) else cleanup,
        )
        self._shipped = Shipped(Path.cwd())
        self._files, self._held_files = self._take_files(depends)
        """What every node gets, and what has to be held for that."""
        for allocation in self._allocations:
            self._code_for(allocation)  # what cannot be sent is refused here, and not when a node is found
        self._isolate = bool(isolate)
        check_setup(setup_per, setup_timeout, self._isolate)
        self._setup_per = setup_per
        self._setup_timeout = setup_timeout
        self._exclusive = bool(exclusive)
        self._reentrant = reentrant
        self._pulse_s: float = PULSE_S if pulse_interval is None else pulse_interval
        self.name: str = self._computation.name
        self.job_status = job_status
        self.cluster_status = cluster_status
        self.start_time = time.time()
        self.end_time: float | None = None
        self.cpu_time = 0.0
        self._pid = this.pid
        self._jobs: dict[int, DispyJob] = {}
        """Jobs that have not ended, by number."""
        self._inbox: deque[Job] = deque()
        """Submitted jobs on their way to the loop."""
        self._is_posted = False
        self._held: dict[int, list[Ref | Held]] = {}
        """References in the arguments of jobs that have not ended, and their files, by the job's number."""
        self._sending: dict[tuple[NodeId, int], concurrent.futures.Future[str]] = {}
        """Who waits for files to be put on a node, by request."""
        self._requests = itertools.count(1)
        self._dropped: deque[int] = deque()
        """Numbers of references that are gone, on their way to the loop."""
        self._dispy_nodes: dict[NodeId, DispyNode] = {}
        self._past_nodes: list[DispyNode] = []
        self._begin_steering()
        self._idle = threading.Condition()
        """Notified when the last open job has ended, and when one has while somebody waits for room."""
        self._queued_max = sys.maxsize if max_queued is None else max_queued
        self._submit = self._submit_at_once if max_queued is None else self._submit_bounded
        self._room = threading.RLock()
        """With ``max_queued``: held by the one thread that waits for room, until its job is in ``_jobs``."""
        self._room_waiters = 0
        self._closers = 0
        """Threads in ``close``: nobody waits for room any more."""
        self._is_ending = False
        """Jobs that have not ended are being ended by ``close``."""
        self._maps: set[Mapping] = set()
        """Running ones."""
        self._unreachable: dict[Target, str] = {}
        self._failures: dict[str, str] = {}
        self._waiting_since: float | None = None
        self._stall = Stall(STALL_S)
        self._has_warned = ""
        """Why jobs wait, as was said in a warning."""
        self._loading: dict[int, int] = {}
        """Number of values of a job that are being loaded, so that they stay in order."""
        self._ended: set[int] = set()
        """Jobs that have ended and whose results are being loaded."""
        self._status_guard = threading.RLock()  # signal handlers of the user may cancel, too
        """Held to set the status of jobs: they are cancelled on any thread."""
        self._cancels: deque[int] = deque()
        """Cancelled jobs on their way to the loop."""
        self._has_posted_cancels = False
        if dispy_port is not None:
            config.DispyPort = dispy_port
        if node_port is not None:
            config.NodePort = node_port
        self._engine: Engine = self._find_engine()
        self._watching = Watching(job_output, self._engine.callbacks, self._gives_bytes)
        self._number = self._engine.new_computation()
        self._journal: Journal | None = None
        """With all jobs; None: only that of the program knows us."""
        self._keeps_journal = False
        if durable or recover_file is not None:
            self._journal = self._open_journal(recover_file)
            self._submit_unnoted, self._submit = self._submit, self._submit_noted
        logging.getLogger("dispy").setLevel(loglevel)
        self._is_closed = False
        if config.SharedMemory and any(
            a.ip_addr is None or is_loopback(a.ip_addr) for a in self._allocations
        ):
            self._engine.share_memory()
        if self._wants_private and config.LocalNode:
            self._engine.start_private_node(self._secret)
        self._engine.call(self._engine.add, self)

    def _make_computation(self, computation: Any, depends: Any, setup: Any, cleanup: Any) -> Computation:
        return Computation(computation, depends, setup, cleanup)

    def _take_files(self, depends: Any) -> tuple[list[FileEntry], list[Held]]:
        return self._shipped.take(filter(is_file_item, depends or ()))

    def _find_engine(self) -> Engine:
        return engine()

    def _open_journal(self, recover_file: str | os.PathLike[str] | None) -> Journal:
        identity = self._engine.service.identity
        given = None if recover_file is None else Path(recover_file).absolute()
        path = given or journal_files.new_path(identity, is_full=True)
        opened = Journal(path, journal_files.create, self._engine.post, is_full=True, wait=True)
        opened.begin(identity, self._engine.service.name)
        self._note_computation(opened)
        return opened

    def _note_computation(self, where: Journal) -> None:
        """Have a journal know what it takes to find the jobs of this cluster, and to run them."""
        tls = self._tls

        def shown(file: str | None) -> str:
            return os.path.abspath(file) if file else ""

        options = journal.Options(
            self._secret.fingerprint(),
            secret_file=shown(self._secret_file),
            certfile=shown(tls.certfile),
            keyfile=shown(tls.keyfile),
            cafile=shown(tls.cafile),
            tls=tls.wanted,
            isolate=self._isolate,
            program=self._computation.is_program,
            setup_per=self._setup_per,
            setup_timeout=self._setup_timeout,
            reentrant=self._reentrant,
            exclusive=self._exclusive,
            pulse_s=self._pulse_s,
            nodes=[
                (a.host, a.port or (0 if a.ip_addr is None else config.node_port()), a.cpus)
                for a in self._allocations
            ],
            dest_path=self._dest_path,
            keeps_files=self._keeps_files,
            files=self._files,
            sources=self._shipped.known(),
        )
        where.add_computation(self._number, self.name, options, self._computation.code)

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
            live=self.job_output is not None,
            message_timeout_s=config.message_timeout_s(),
            setup_per_worker=self._setup_per == "worker",
            setup_timeout_s=self._setup_timeout or 0.0,
            files=self._files,
            keep=self._keeps_files,
        )

    def _files_for(self, depends: list[Any]) -> list[FileEntry]:
        """All files of a node that has some of its own. Reads them."""
        own, held = self._shipped.take(depends, self._files)
        self._held_files += held
        paths = {entry.path for entry in own}
        return [entry for entry in self._files if entry.path not in paths] + own

    @property
    def _gives_bytes(self) -> bool:
        """Whether what jobs print is bytes, and not text."""
        return self._computation.is_program

    @property
    def job_output(self) -> Callable[[DispyJob, str, str], object] | None:
        """Called with what running jobs print; given when the cluster is made, as its nodes are told then."""
        return self._watching.callback

    # Submitting.

    def submit(self, *args: Any, **kwargs: Any) -> DispyJob:
        """Run the computation once with these arguments, which are taken as they are now.

        ``dispy_job_depends``, a list of functions and classes, is no argument: the job finds them by name, and no
        other does; it runs in a process of its own for that.

        Returns:
            The job; calling it waits for its result.

        Raises:
            PicklingError: An argument cannot be sent; says which, and what in it.
            UsageError: The cluster is closed, or belongs to a parent process.
        """
        return self._submit(next(DispyJob.id_iter), None, args, kwargs)

    def submit_job_id(self, job_id: Any, /, *args: Any, **kwargs: Any) -> DispyJob:
        """``submit`` with the job's id given; None for an automatic one."""
        return self._submit(next(DispyJob.id_iter) if job_id is None else job_id, None, args, kwargs)

    def submit_node(self, node: Any, /, *args: Any, **kwargs: Any) -> DispyJob | None:
        """``submit`` to one node and no other; None, with a warning, if it is not in use by this cluster.

        Args:
            node: ``DispyNode``, address or host name.
        """
        return self.submit_job_id_node(None, node, *args, **kwargs)

    def submit_job_id_node(self, job_id: Any, node: Any, /, *args: Any, **kwargs: Any) -> DispyJob | None:
        """``submit_node`` with the job's id given."""
        self._check_open()
        names = NodeNames(node)
        found = self._engine.call(self._find_open, names)
        if found is None:
            logger.warning("submit_node: node %s is not in use by cluster %s", names.text, self.name)
            return None
        return self._submit(next(DispyJob.id_iter) if job_id is None else job_id, found, args, kwargs)

    def _submit_at_once(
        self, job_id: Any, node: NodeId | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> DispyJob:
        """The path of every job in the caller's thread: pickle, note, and wake the loop if it sleeps."""
        if self._is_closed or self._pid != this.pid:
            self._check_open()
        number = next(_numbers)
        code: list[Any] = []
        files: list[FileEntry] = []
        held: list[Held] = []
        if kwargs and "dispy_job_depends" in kwargs:
            depends = kwargs.pop("dispy_job_depends")
            code = check_job_depends(depends, self._computation)
            files, held = self._shipped.take(filter(is_file_item, depends or ()))
        if self._computation.adapts:
            args = self._computation.arguments(args, kwargs)
        given_id = None if job_id == number and type(job_id) is int else job_id
        if code:
            data = payload.dump_call_with(code, args, kwargs, given_id)
        else:
            data = payload.dump_call(args, kwargs, given_id)
        # A large payload is a view of memory; it goes out as a stream and is never encoded.
        message = Job(number, 0, data)  # type: ignore[arg-type]
        job = DispyJob(job_id, number, self, time.time())
        if payload.has_used():
            self._hold(number)
        self._jobs[number] = job
        if self.cluster_status is not None:
            self._engine.callbacks.call(self.cluster_status, [(CREATED, None, job)])
        if files:
            self._held[number] = [*self._held.get(number, ()), *held]
            self._engine.post(self._submit_filed, node, message, files)
            return job
        if node is not None:
            self._engine.post(self._submit_pinned, node, message)
            return job
        if (
            len(self._jobs) == 1
            and not self._is_posted
            and self._journal is None
            and self._engine.service.try_submit(self._number, message)
        ):
            return job
        self._inbox.append(message)
        if not self._is_posted:
            self._is_posted = True
            self._engine.post(self._take_inbox)
        return job

    def _submit_bounded(
        self, job_id: Any, node: NodeId | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> DispyJob:
        """The same with ``max_queued``: not before there is room."""
        if self._engine.is_current():
            return self._submit_at_once(job_id, node, args, kwargs)
        is_full = len(self._jobs) >= self._queued_max
        with self._room:
            if is_full or len(self._jobs) >= self._queued_max:
                self._wait_for_room()
            return self._submit_at_once(job_id, node, args, kwargs)

    def _submit_noted(
        self, job_id: Any, node: NodeId | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> DispyJob:
        """The same with a full journal: not while it has too much to write."""
        if self._journal is not None and self._journal.is_behind and not self._engine.is_current():
            self._journal.wait_for_room()
        return self._submit_unnoted(job_id, node, args, kwargs)

    def _wait_for_room(self) -> None:
        with self._idle:
            self._room_waiters += 1
            try:
                while True:
                    self._check_open()
                    if self._closers:
                        raise UsageError(
                            f"cluster {self.name} is being closed; submit waited for room",
                            hint="close it after the last submit",
                        )
                    if len(self._jobs) < self._queued_max:
                        return
                    self._idle.wait()
            finally:
                self._room_waiters -= 1

    # Data that many jobs read.

    def put(self, value: Any) -> Ref:
        """Send an object to the nodes once, for many jobs to read.

        The reference that is returned stands for it, as an argument or inside one, also of ``map`` and of
        other objects that are put: jobs get the object as it is now. It travels once to each node, is
        unpickled once by each worker, and arrays in it are mapped by all workers of a node together,
        so they are read-only. Nothing should change the rest of it either: the jobs of a worker
        share it. It is freed everywhere when the last reference to it is gone.

        Raises:
            PicklingError: The object cannot be sent; says what in it.
            UsageError: The cluster is closed, or has put too much.
        """
        self._check_open()
        data = payload.dump_object(value)
        ref = Ref(self, len(data), check_used(self))
        message = PutObject(self._number, ref._number, data)  # type: ignore[arg-type]  # as in _submit
        self._engine.call(self._put, message)
        return ref

    def _put(self, message: PutObject) -> None:
        self._take_inbox()
        self._drop_refs()
        known = self._engine.service.state.computations[self._number].objects
        if len(known) >= OBJECTS_MAX:
            raise UsageError(
                f"{OBJECTS_MAX} objects are put into cluster {self.name}",
                hint="let go of references, or put fewer and larger objects",
            )
        if self._journal is not None:
            self._journal.put_object(message.number, message.payload)
        self._engine.service.handle(core.PutObject(message))

    def _hold(self, number: int) -> None:
        """A job was pickled with references in it: they live until it has ended."""
        used = check_used(self)
        if used:
            self._held[number] = list(used)

    def _drop_later(self, number: int) -> None:
        """A reference is gone; on any thread, and in the middle of anything."""
        if self._pid == this.pid:
            self._dropped.append(number)
            self._engine.post(self._drop_refs)

    def _drop_refs(self) -> None:
        numbers = [self._dropped.popleft() for _ in range(len(self._dropped))]
        if numbers and not self._is_closed:
            if self._journal is not None:
                self._journal.drop_objects(numbers)
            self._engine.service.handle(core.DropObjects(self._number, numbers))
            if self._engine.service.memory is not None:
                self._engine.service.memory.trim()

    def send_file(self, path: Any, node: Any = None, relay: bool = False) -> int:
        """Put a file into the working directory of this cluster on a node, or on all its nodes; waits for that.

        It lands where it would with ``depends``, whole or not at all, and jobs that start after this find it.
        Nodes that are found later do not get it.

        Args:
            path: Of a file or directory; a module likewise.
            node: ``DispyNode``, address or host name; None: all nodes that are in use now.
            relay: Accepted; files go the way that everything goes.

        Returns:
            0 if it is there; -1, with a warning that says why, if it is not, or no such node is in use.

        Raises:
            UsageError: There is no such file, it cannot be sent, or the cluster is closed.
        """
        self._check_open()
        if not is_file_item(path):
            raise UsageError(f"send_file takes the path of a file, not {path!r}")
        # Held until all have it.
        entries, held = self._shipped.take([path])
        names = None if node is None else NodeNames(node)
        waiting = self._engine.call(self._send_files, names, entries)
        if not waiting:
            which = "no node" if node is None else f"node {node!r}"
            logger.warning("%s is in use by cluster %s; %s is not sent", which, self.name, path)
        reasons = [self._wait_sent(future) for future in waiting]
        for reason in filter(None, reasons):
            logger.warning("cluster %s cannot send %s: %s", self.name, path, reason)
        del held
        return 0 if waiting and not any(reasons) else -1

    def _wait_sent(self, future: concurrent.futures.Future[str]) -> str:
        while True:
            try:
                return future.result(1.0)
            except TimeoutError:
                if self._is_closed or self._engine._is_stopped:
                    return "the cluster was closed"

    def _send_files(
        self, names: NodeNames | None, entries: list[FileEntry]
    ) -> list[concurrent.futures.Future[str]]:
        placements = self._engine.service.state.computations[self._number].placements
        if names is None:
            nodes = [found for found, placement in placements.items() if placement.is_open()]
        else:
            one = self._find_open(names)
            nodes = [one] if one is not None else []
        futures = []
        for found in nodes:
            request = next(self._requests)
            future: concurrent.futures.Future[str] = concurrent.futures.Future()
            self._sending[found, request] = future
            futures.append(future)
            message = PlaceFiles(self._number, request, entries)
            self._engine.service.handle(core.SendFiles(found, message))
        return futures

    def _on_files(self, action: core.TellFiles) -> None:
        """Files are on a node, or cannot be put there."""
        future = self._sending.pop((action.node, action.request), None)
        if future is not None:
            future.set_result(action.reason)

    # Maps.

    def map(self, *iterables: Iterable[Any], timeout: float | None = None) -> Iterator[Any]:
        """Run the computation on each item; results come in the order of the items.

        Several iterables give one argument each, and the shortest ends it, as with ``zip``. They may be
        endless: they are read as results are taken, a bounded number of items ahead. Items travel in
        chunks of about 20 ms of work by the run times measured so far. Within a chunk arguments that
        are one object stay one object, and worker state (directory, environment) is restored after the
        chunk. What items print is written to this program's ``sys.stdout`` and ``sys.stderr`` when
        their results come. ``dispy_job_id`` is None. There are no jobs to look at and no callbacks:
        ``jobs_done`` of nodes counts items, ``jobs_pending`` chunks.

        An item that fails raises here what it raised there, with a note that names the item, after the
        results of those before it; the others are cancelled. So they are when the iterator is closed or
        dropped: leaving the loop is enough.

        Args:
            iterables: Arguments.
            timeout: Seconds for all results, from this call.

        Raises:
            TimeoutError: From the iterator: the next result has not come in time.
            JobError: Likewise: a chunk ended without saying why; or an exception cannot be rebuilt here.
            UsageError: The cluster is closed, or was closed meanwhile.
        """
        return mapping.start(self, iterables, timeout)

    def _cpus(self) -> int:
        """CPUs that can be used now."""
        return sum([node.cpus for node in list(self._dispy_nodes.values())])

    def _submit_chunk(self, chunk: Chunk, data: payload.Buffer) -> None:
        if self._is_closed or self._pid != this.pid:
            self._check_open()
        number = chunk._number = next(_chunk_numbers)
        if payload.has_used():
            self._hold(number)
        self._jobs[number] = chunk
        self._inbox.append(Job(number, 0, data))  # type: ignore[arg-type]  # as in _submit
        if not self._is_posted:
            self._is_posted = True
            self._engine.post(self._take_inbox)

    def _end_map(self, ended: Mapping, numbers: list[int]) -> None:
        """Cancel the chunks of a map that are left. Does not wait, on any thread."""
        self._maps.discard(ended)
        if numbers:
            self._engine.post(self._cancel_open, numbers)

    def _take_inbox(self) -> None:
        self._is_posted = False
        inbox = self._inbox
        popleft = inbox.popleft
        jobs = [popleft() for _ in range(len(inbox))]
        if jobs:
            if self._journal is not None:
                self._journal.submitted(jobs)
            self._engine.service.submit(core.SubmitJobs(self._number, jobs))
            self._engine.service.schedule_tick()

    def _submit_filed(self, node: NodeId | None, job: Job, files: list[FileEntry]) -> None:
        self._take_inbox()
        if self._journal is not None:
            # Whoever resumes jobs does not have their files: like those for one node they are not.
            self._journal.submitted([job], is_pinned=True)
        self._engine.service.handle(core.SubmitJobs(self._number, [job], node, {job.number: files}))
        self._engine.service.schedule_tick()

    def _submit_pinned(self, node: NodeId, job: Job) -> None:
        if self._journal is not None:
            self._journal.submitted([job], is_pinned=True)
        self._engine.service.handle(core.SubmitJobs(self._number, [job], node))

    def _check_open(self) -> None:
        if self._pid != this.pid:
            raise UsageError(
                f"cluster {self.name} was created in another process ({self._pid}) and cannot be used in its fork",
                hint="create a cluster in the process that uses it",
            )
        if self._is_closed:
            raise UsageError(f"cluster {self.name} is closed", hint="create a new one")

    # Cancelling and waiting.

    def cancel(self, job: DispyJob | Iterable[DispyJob]) -> int:
        """End a job: at once if it waits, by KeyboardInterrupt in it if it runs.

        A job may catch that and return its best value. One that goes on is killed after
        ``config.CancelGrace`` seconds. Does not wait: ``status`` is ``Cancelled`` at once, ``finish`` is
        set when the job has ended.

        Args:
            job: One, or several.

        Returns:
            0 if the job is (being) cancelled, -1 if it had ended or is not one of this cluster. For several:
            0 if all are.
        """
        if self._is_closed or self._pid != this.pid:
            self._check_open()
        if not isinstance(job, DispyJob):
            return self._cancel_several(job)
        number = job._number
        if self._jobs.get(number) is not job:
            return -1
        with self._status_guard:
            if job.status < CANCELLED:
                job.status = CANCELLED
        self._cancels.append(number)
        if not self._has_posted_cancels:
            self._post_cancels()
        return 0

    def _cancel_several(self, jobs: Iterable[DispyJob]) -> int:
        if not isinstance(jobs, Iterable) or isinstance(jobs, (str, bytes)):
            raise UsageError(f"cancel takes a job, or several, not {describe(jobs)}", hint=JOBS_ARE)
        several = list(jobs)
        for job in several:
            if not isinstance(job, DispyJob):
                raise UsageError(f"cancel takes jobs, not {describe(job)}", hint=JOBS_ARE)
        is_open = self._jobs.get
        left = [job for job in several if is_open(job._number) is job]
        with self._status_guard:
            for job in left:
                if job.status < CANCELLED:
                    job.status = CANCELLED
        self._cancels.extend([job._number for job in left])
        self._post_cancels()
        return 0 if len(left) == len(several) else -1

    def _post_cancels(self) -> None:
        if not self._has_posted_cancels:
            self._has_posted_cancels = True
            self._engine.post(self._take_cancels)

    def _take_cancels(self) -> None:
        """Cancel what has been asked for since the last time: the path of a million jobs."""
        self._has_posted_cancels = False
        popleft = self._cancels.popleft
        self._cancel_open([popleft() for _ in range(len(self._cancels))])

    def _cancel_open(self, numbers: Iterable[int]) -> None:
        """Cancel those of these jobs that have not ended; on the loop."""
        self._take_inbox()
        jobs, ended = self._jobs, self._ended
        left = [number for number in numbers if number in jobs and number not in ended]
        if left:
            self._engine.service.handle(core.CancelJobs(self._number, left))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for all submitted jobs; False if some have not ended after ``timeout`` seconds."""
        if self._pid != this.pid:
            self._check_open()
        check_timeout(timeout)
        with self._idle:
            return self._idle.wait_for(lambda: not self._jobs, timeout)

    def __call__(self) -> bool:
        """Wait for all submitted jobs."""
        return self.wait()

    # Looking.

    def status(self) -> ClusterStatus:
        """The nodes as they are now, and the number of jobs that have not ended."""
        nodes = self._engine.call(self._refresh_nodes) if not self._is_closed else self._last_nodes()
        return ClusterStatus(nodes, len(self._jobs))

    def print_status(self, wall_time: float | None = None) -> None:
        """Print a table of the nodes, and times in all.

        Args:
            wall_time: Seconds to compare the jobs' time with; since the cluster began by default.
        """
        check_timeout(wall_time, "wall_time")
        if wall_time is None:
            wall_time = (self.end_time or time.time()) - self.start_time
        nodes, pending = self.status()
        status_module.print_table(self.name, nodes, pending, self.cpu_time, wall_time)

    def stats(self, wall_time: float | None = None) -> None:
        """Old name of ``print_status``."""
        warnings.warn("stats is now called print_status", DeprecationWarning, stacklevel=2)
        self.print_status(wall_time)

    def why(self, job: DispyJob) -> str:
        """Say in words where a job is, and why it has not ended: for whom it waits, and where."""
        if not isinstance(job, DispyJob):
            raise UsageError(f"why takes a job, not {describe(job)}", hint=JOBS_ARE)
        if job._is_final:
            return f"it has ended: {STATUS_NAMES[job.status]}"
        self._check_open()
        return self._engine.call(self._why, job)

    def _why(self, job: DispyJob) -> str:
        if self._jobs.get(job._number) is not job:
            raise UsageError(
                f"{job!r} is not a job of cluster {self.name}",
                hint="ask the cluster that it was submitted to",
            )
        self._take_inbox()
        computation = self._engine.service.state.computations[self._number]
        words = [why_open(computation, job._number) or self._why_no_node()]
        for info in self._engine.service.nodes():
            silent_s = self._engine.service.silent_s(info.node)
            if info.node in computation.placements and silent_s > 2 * self._engine.service.pulse_s:
                words.append(f"node {info.name} has said nothing for {silent_s:g} s")
        return "; ".join(words)

    # Ending.

    def close(self, timeout: float | None = None, terminate: bool = False) -> bool | None:
        """Wait for all jobs, then release the nodes.

        Callbacks have been called by then for all that has happened; two seconds at most are waited for that.

        Args:
            timeout: Seconds to wait for jobs; None waits as long as they take.
            terminate: Cancel jobs that have not ended after ``timeout`` (at once if that is None).

        Returns:
            True when closed; False if jobs are left after ``timeout``, and nothing has changed;
            None if it was closed before.
        """
        if self._is_closed:
            return None
        if self._pid != this.pid:
            self._check_open()
        check_timeout(timeout)
        check_flag("terminate", terminate)
        with self._idle:
            self._closers += 1
            self._idle.notify_all()
        try:
            if not (terminate and timeout is None) and not self.wait(timeout) and not terminate:
                return False
            if self._jobs:
                self._is_ending = True
                self._end_jobs()
            is_closed = self._finish_close()
            if self._has_callbacks():
                # Who looks at what they have gathered finds all of it.
                self._engine.callbacks.drain(CLOSE_S)
            return is_closed
        finally:
            self._closers -= 1

    def _end_jobs(self) -> None:
        """Cancel all that is open; what does not end in the grace period is ended here."""
        self._engine.call(lambda: self._cancel_open(list(self._jobs)))
        if not self.wait(float(config.CancelGrace) + CLOSE_S):
            self._engine.call(self._give_up_jobs)

    def _give_up_jobs(self) -> None:
        self._on_ended_here(list(self._jobs), ABANDONED, "the cluster was closed")

    def _finish_close(self) -> bool:
        self._engine.call(self._refresh_nodes)
        self._is_closed = True
        self.end_time = self.end_time or time.time()
        self._engine.call(self._engine.remove, self)
        self._tell_maps()
        if self._journal is not None:
            self._journal.close(remove=not self._keeps_journal)
            if self._keeps_journal:
                notice(
                    f"dispy.recover_jobs({str(self._journal.path)!r}) returns the jobs of cluster {self.name}"
                )
        return True

    def _is_unheard(self) -> bool:
        """Whether results can be fetched that nobody in this program will see, once it has failed."""
        if self._has_callbacks():
            return False
        if self._journal is not None:
            return True
        has_jobs = any(type(job) is not Chunk for job in list(self._jobs.values()))
        return has_jobs and self._number in self._engine.noted

    def _has_callbacks(self) -> bool:
        return not (self.job_status is None and self.cluster_status is None and self.job_output is None)

    def _close_at_exit(self, is_interrupted: bool) -> None:
        if is_interrupted:
            self._is_ending = True
            self._engine.call(self._give_up_jobs)
            self._finish_close()
        else:
            self.close()

    def shutdown(self) -> None:
        """Close, and end dispy's background thread once no other cluster of the program is open."""
        self.close()
        self._engine.callbacks.drain(CLOSE_S)
        if self._pid == this.pid and not self._engine.clusters:
            stop_engine()

    def __enter__(self) -> JobCluster:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; after an exception cancel what has not ended, and let the exception pass.

        A full journal stays then, so that what was computed can be had.
        """
        self._keeps_journal = kind is not None
        self.close(terminate=kind is not None)

    def __reduce__(self) -> NoReturn:
        raise PicklingError(
            f"cluster {self.name} cannot be sent to a node: it stays in the process that has made it",
            hint="have the job return what is to be submitted, or make a cluster in the job",
        )

    def __repr__(self) -> str:
        return f"<JobCluster {self.name} jobs={len(self._jobs)}{' closed' if self._is_closed else ''}>"

    # What the engine tells; on its loop.

    def _code_for(self, allocation: NodeAllocate, setup_args: tuple[Any, ...] | None = None) -> bytes:
        """What its nodes are sent instead of the code of all; empty unless their setup has arguments.

        ``setup_args``: in place of those of the element of ``nodes``.
        """
        arguments = allocation.setup_args if setup_args is None else setup_args
        return self._computation.code_with(arguments) if arguments else b""

    def _tell(self, status: int, node: DispyNode | None, job: DispyJob | None) -> None:
        if self.cluster_status is not None:
            self._engine.callbacks.call(self.cluster_status, [(status, node, job)])

    def _tell_maps(self) -> None:
        for running in list(self._maps):
            running.on_nodes()

    def _on_started(self, started: list[Started], info: NodeInfo) -> None:
        shown = self._dispy_nodes.get(info.node)
        told = []
        for item in started:
            job = self._jobs.get(item.number)
            if job is None:
                continue
            job.ip_addr = info.ip_addr
            job.start_time = item.start
            with self._status_guard:
                is_news = job.status == CREATED
                if is_news:
                    job.status = RUNNING
            if is_news and type(job) is not Chunk:
                told.append((RUNNING, shown, job))
        if self.cluster_status is not None and told:
            self._engine.callbacks.call(self.cluster_status, told)

    def _on_requeued(self, numbers: list[int]) -> None:
        for number in numbers:
            job = self._jobs.get(number)
            if job is not None:
                with self._status_guard:
                    if job.status < CANCELLED:
                        job.status = CREATED
                job.ip_addr = job.start_time = None

    def _watch(self, job: DispyJob, follower: Follower) -> None:
        """Somebody wants to see what a job prints."""
        if self._jobs.get(job._number) is job:
            self._watching.add(job._number, follower)
            self._engine.service.handle(core.WatchJobs(self._number, [job._number]))

    def _unwatch(self, job: DispyJob, follower: Follower) -> None:
        if self._watching.drop(job._number, follower):
            self._engine.service.handle(core.WatchJobs(self._number, [job._number], False))

    def _on_printed(self, printed: list[Printed]) -> None:
        self._watching.on_printed(self._jobs, printed)

    def _on_value(self, value: Provisional, info: NodeInfo) -> None:
        job = self._jobs.get(value.number)
        if value.file is not None:
            self._engine.take_part(self, value, info.node)
            return
        if job is None or type(job) is Chunk:
            return
        self._loading[value.number] = self._loading.get(value.number, 0) + 1
        self._engine.loader.call(self._load_value, [(job, value.payload, info)])

    def _load_value(self, job: DispyJob, data: bytes, info: NodeInfo) -> None:
        """A provisional value: a snapshot of the job goes to the callbacks. On the loader's thread."""
        result = payload.load(data)
        job.ip_addr = info.ip_addr
        with self._status_guard:
            if job.status < CANCELLED:
                job.status = PROVISIONAL_RESULT
        job.result = result
        shot = job._snapshot()
        shot.status = PROVISIONAL_RESULT
        if self.job_status is not None:
            self._engine.callbacks.call(self.job_status, [(shot,)])
        self._tell(PROVISIONAL_RESULT, self._dispy_nodes.get(info.node), shot)

    def _on_ended(self, ended: list[Ended], info: NodeInfo) -> None:
        """Jobs have ended: fill them in, wake those who wait, queue callbacks. On the path of every job."""
        jobs = self._jobs
        if self._watching.is_active:
            self._watching.on_ended(jobs, ended)
        ip_addr = info.ip_addr
        done = []
        chunks: list[tuple[Chunk, Ended]] = []
        seconds = 0.0
        with self._status_guard:
            for item in ended:
                job = jobs.get(item.number)
                if job is None:
                    continue
                if type(job) is Chunk:
                    chunks.append((job, item))
                    continue
                if item.number in self._loading or not payload.is_plain(item.payload):
                    self._loading.pop(item.number, None)
                    self._ended.add(item.number)
                    self._engine.loader.call(self._load_ended, [(job, item, info)])
                    continue
                seconds += item.end - item.start
                if item.status == FINISHED:
                    job.ip_addr = ip_addr
                    job.start_time = item.start
                    job.end_time = item.end
                    job._stdout = item.stdout
                    job._stderr = item.stderr
                    job._value = item.payload
                    job._is_encoded = True
                    job.status = FINISHED
                else:
                    self._fill(job, item, ip_addr)
                done.append(job)
        if chunks:
            self._finish_chunks(chunks, info)
        if done or not chunks:
            self._finish(done, seconds, info)

    def _on_ended_here(self, numbers: Collection[int], status: int, reason: str) -> None:
        """Jobs have ended with no node: were cancelled, abandoned, given up."""
        if self._watching.is_active:
            ends = [Ended(n, 0, status, 0.0, 0.0, b"", reason=reason, ran=False) for n in numbers]
            self._watching.on_ended(self._jobs, ends)
        held = self._held
        for number in numbers if held else ():
            held.pop(number, None)
        pop = self._jobs.pop
        done = []
        chunks: list[tuple[Chunk, Ended]] = []
        waited_for = []
        with self._status_guard:
            for number in numbers:
                job = pop(number, None)
                if job is None:
                    continue
                if type(job) is Chunk:
                    ended = Ended(number, 0, status, 0.0, 0.0, b"", reason=reason, ran=False)
                    chunks.append((job, ended))
                    continue
                job.status = status
                job._value = None
                job._is_encoded = False
                job.exception = reason
                job._error = b""
                job._is_final = True
                if job._waiter is not None:
                    waited_for.append(job)
                done.append(job)
        for job in waited_for:
            job._wake()
        calls = sum([chunk.end(ended) for chunk, ended in chunks])
        self._count(calls + len(done), 0.0, None)
        self._call_back(done, None)

    def _finish_chunks(self, chunks: list[tuple[Chunk, Ended]], info: NodeInfo) -> None:
        """Chunks of maps have ended. What they brought is unpickled by the thread that takes it."""
        calls = 0
        seconds = 0.0
        for chunk, item in chunks:
            del self._jobs[item.number]
            self._held.pop(item.number, None)
            calls += chunk.end(item)
            seconds += item.end - item.start
        self._count(calls, seconds, info)

    def _load_ended(self, job: DispyJob, item: Ended, info: NodeInfo) -> None:
        """The end of a job whose result needs the user's code to be rebuilt. On the loader's thread."""
        value: Any = None
        if item.status == FINISHED:
            try:
                value = payload.load(item.payload)
            except BaseException as error:
                item.status = TERMINATED
                item.reason = f"the job's result cannot be rebuilt here: {type(error).__name__}: {error}"
                item.payload = b""
        with self._status_guard:
            self._ended.discard(item.number)
            if self._jobs.get(item.number) is not job:
                return  # given up meanwhile
            self._fill(job, item, info.ip_addr)
            if item.status == FINISHED:
                job.result = value
            self._finish([job], item.end - item.start, info)

    def _fill(self, job: DispyJob, item: Ended, ip_addr: str) -> None:
        if item.ran:
            job.ip_addr = ip_addr
            job.start_time = item.start
            job.end_time = item.end
        job.status = item.status
        if item.status == FINISHED:
            job._stdout = item.stdout
            job._stderr = item.stderr
            return
        job.result = None
        job.exception = item.reason or None
        job._error = item.payload
        if item.ran and item.reason != "cancelled":
            job._stdout = item.stdout
            job._stderr = item.stderr

    def _finish(self, done: list[DispyJob], seconds: float, info: NodeInfo) -> None:
        jobs = self._jobs
        for job in done:
            del jobs[job._number]
            job._is_final = True
            if job._waiter is not None:
                job._wake()
        if self._held:
            for job in done:
                self._held.pop(job._number, None)
        self._call_back(done, self._count(len(done), seconds, info))

    def _call_back(self, done: list[DispyJob], shown: DispyNode | None) -> None:
        """Have the user's callbacks called for jobs that have ended."""
        if self.cluster_status is not None:
            calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
            for job in done:
                if self.job_status is not None and job.status != ABANDONED:
                    calls.append((self.job_status, (job,)))
                calls.append((self.cluster_status, (job.status, shown, job)))
            self._engine.callbacks.call_each(calls)
        elif self.job_status is not None:
            self._engine.callbacks.call(
                self.job_status, [(job,) for job in done if job.status != ABANDONED]
            )

    def _count(self, calls: int, seconds: float, info: NodeInfo | None) -> DispyNode | None:
        """Calls have ended, and took so long together. Returns the node of ``info`` as it is shown."""
        shown = self._dispy_nodes.get(info.node) if info is not None else None
        with self._idle:
            self.cpu_time += seconds
            if shown is not None:
                shown.jobs_done += calls
                shown.cpu_time += seconds
                shown._touch()
            if not self._jobs:
                self.end_time = time.time()
                self._idle.notify_all()
            elif self._room_waiters and len(self._jobs) < self._queued_max:
                self._idle.notify_all()
        return shown

    def _check_waiting(self) -> None:
        """Jobs that wait without any node that takes them, or stand still, are not left without a word."""
        stalled = self._stall.look(self._find_stall() if self._jobs else "", time.monotonic())
        if stalled:
            logger.error("nothing of cluster %s has moved for %g s: %s", self.name, STALL_S, stalled)
        held = self._why_held() if self._jobs and self._dispy_nodes else ""
        if not self._jobs or (self._dispy_nodes and not held):
            self._waiting_since = None
            self._has_warned = ""
            return
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        kind = held or "no node"
        if self._has_warned != kind and now - self._waiting_since > (HELD_S if held else WARN_S):
            self._has_warned = kind
            waiting = f"{len(self._jobs)} jobs of cluster {self.name} wait: {held}"
            logger.warning("%s", waiting if held else self._why_no_node())

    def _find_stall(self) -> str:
        service = self._engine.service
        # What is large is on its way for a while.
        if any(service.is_sending(node) for node in self._dispy_nodes):
            return ""
        return find_stall(service.state.computations[self._number], service.state.computations.values())

    def _why_held(self) -> str:
        """Why no node takes any job now; empty if one does, or is at some."""
        computation = self._engine.service.state.computations[self._number]
        reasons = []
        for node in self._dispy_nodes:
            placement = computation.placements.get(node)
            if placement is None or placement.granted[0] or placement.started or not placement.shortage:
                return ""
            reasons.append(f"node {placement.node.name}: {placement.shortage}")
        return "; ".join(reasons)

    def _why_no_node(self) -> str:
        tried = sorted(self._unreachable.values()) + [
            f"{name}: {why}" for name, why in self._failures.items()
        ]
        tried += [
            f"{info.name}: it offers no CPUs now" for info in self._engine.service.nodes() if not info.cpus
        ]
        wanted = ", ".join(allocation.host for allocation in self._allocations)
        return (
            f"{len(self._jobs)} jobs of cluster {self.name} wait: no node of nodes={wanted} can be used. "
            + (f"Tried: {'; '.join(tried)}. " if tried else "")
            + "Start 'dispynode' on this machine, with the same secret."
        )


def _renamed(value: Any, old: Any, old_name: str, name: str) -> Any:
    """The value of a parameter that may have been given by its old name."""
    if old is None:
        return value
    warnings.warn(f"{old_name} is now called {name}", DeprecationWarning, stacklevel=3)
    return old if value is None else value


_INSTEAD = {
    "ipv4_udp_multicast": "nodes of this machine are found without it; leave it out",
}


def _check_dest_path(dest_path: Any) -> str:
    """A name for a directory on the nodes, below that of this client; empty for one of its own.

    Raises:
        UsageError: It is none, or leads elsewhere.
    """
    if dest_path is None:
        return ""
    if not isinstance(dest_path, (str, os.PathLike)) or isinstance(os.fspath(dest_path), bytes):
        raise UsageError(f"dest_path must be a text, not {dest_path!r}")
    text = str(os.fspath(dest_path))
    if text.startswith("/"):
        warnings.warn(
            f"dest_path {text!r} is below the directory of this client on the nodes all the same",
            stacklevel=3,
        )
    parts = [part for part in text.split("/") if part not in ("", ".")]
    try:
        check_path("/".join(parts))
    except ValueError as error:
        raise UsageError(f"dest_path cannot be used: {error}", hint="dest_path='project/data'") from None
    return "/".join(parts)


def _refuse_not_yet(**given: Any) -> None:
    for name, value in given.items():
        if value is not None and not (value is False and name == "ipv4_udp_multicast"):
            raise NotYetError(f"{name}={value!r} is not available yet", hint=_INSTEAD[name])
