"""``JobCluster``: a computation with its nodes and jobs, as programs use it."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

from dispy import config, payload
from dispy.client.arguments import (
    check_dest_path,
    check_each,
    check_import,
    check_setup,
    check_threads,
    check_timeout,
    deadline,
    describe,
    reentrant_or_not,
    renamed,
    warn,
)
from dispy.client.code.computation import Computation
from dispy.client.engine import node_discovery
from dispy.client.engine.engine import Engine, engine, stop_engine
from dispy.client.job import CANCELLED, STATUS_NAMES, DispyJob
from dispy.client.logger import set_level
from dispy.client.map.chunks import Chunk
from dispy.client.map.entry import Maps
from dispy.client.nodes import DispyNode, NodeNames, parse_nodes
from dispy.client.recovery import journaling
from dispy.client.session import callbacks, completion, explain
from dispy.client.session import sent as data
from dispy.client.session import shutdown as closing
from dispy.client.session import status_table as status_module
from dispy.client.session import submission as submitting
from dispy.client.session.callbacks import Waited
from dispy.client.session.failures import Tally
from dispy.client.session.files import Held, Shipped, is_file_item
from dispy.client.session.live_output import Watching
from dispy.client.session.objects import Ref
from dispy.client.session.received_files import note_root
from dispy.client.steering import node_views
from dispy.client.steering.allocation import check_reach
from dispy.client.tracebacks import brief, briefly
from dispy.errors import PicklingError, UsageError
from dispy.journal.writer import Journal
from dispy.protocol.files import FileEntry
from dispy.security import secrets
from dispy.security.tls import Tls, check
from dispy.settings import PULSE_S
from dispy.system import current_directory, process_identity
from dispy.system.addresses import is_loopback

logger = logging.getLogger("dispy.client")


class ClusterStatus(NamedTuple):
    """What ``status()`` returns.

    Attributes:
        nodes: The nodes of the cluster.
        jobs_pending: Jobs that have not ended. Of a ``map``, its chunks that have not ended.
    """

    nodes: list[DispyNode]
    jobs_pending: int


class JobCluster(Maps):
    """Run a function on all CPUs that can be found.

    Args:
        computation: Any function; a bound method takes its object along. Or the path of a program, or its name in
            ``PATH``: it is sent to the nodes, and started for each job with the arguments as texts; the result is its
            exit code, its output is bytes.
        nodes: Hosts, addresses, patterns of addresses of this machine, ``(host, port, cpus)`` tuples,
            dictionaries or ``NodeAllocate`` objects; by default every node of this user on this machine, and a node
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
        cluster_status: Called with (status, node, job) at every event; with ``DispyNode.Closed`` for each node when
            it is not used any more, the latest when the cluster is closed.
        host: Accepted; clients listen nowhere.
        dest_path: Name of the working directory on the nodes, also ``a/b``, below one for the address of this
            client; clusters that give the same share it. By default each has its own.
        dispy_port: Base port; nodes listen on the next one.
        loglevel: Level of dispy's logger; below WARNING its lines are shown on stderr, unless the program has
            handlers. None: as it is; warnings are shown.
        ext_host: Accepted; nodes do not call back, so no gateway has to let them through.
        port: Old name of ``dispy_port``.
        node_port: Old way to assign ``dispy.config.NodePort``, where nodes listen that are given without a port.
        callback: Old name of ``job_status``.
        ip_addr: Old name of ``host``.
        ext_ip_addr: Old name of ``ext_host``.
        ipv4_udp_multicast: Refused, since nodes of other machines are not found yet: name them in ``nodes``.
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
        seed: Number from 0 that ``dispy_job_seed()`` in jobs depends on, beside the job's place among those of the
            cluster; random if not given, and then to be read from ``JobCluster.seed``.
        reseed: Random generators that many workers have a copy of are given a stream of their own in each. False:
            they are left alone, and jobs of different workers draw the same numbers.

    Raises:
        UsageError: A parameter that cannot be used, and why.
        PicklingError: The computation cannot be sent; says which part of it.
    """

    @briefly
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
        loglevel: int | None = None,
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
        seed: int | None = None,
        reseed: bool = True,
    ) -> None:
        check_threads()
        super().__init__()
        check_import()
        note_root()
        dispy_port = renamed(dispy_port, port, "port", "dispy_port")
        host = renamed(host, ip_addr, "ip_addr", "host")
        ext_host = renamed(ext_host, ext_ip_addr, "ext_ip_addr", "ext_host")
        job_status = renamed(job_status, callback, "callback", "job_status")
        check_each(
            ipv4_udp_multicast=ipv4_udp_multicast, recover_file=recover_file, secret_file=secret_file,
            certfile=certfile, keyfile=keyfile, cafile=cafile, ping_interval=ping_interval,
            poll_interval=poll_interval, pulse_interval=pulse_interval, host=host, ext_host=ext_host,
            dispy_port=dispy_port, node_port=node_port, isolate=isolate, exclusive=exclusive, durable=durable,
            tls=tls, loglevel=loglevel, secret=secret, max_queued=max_queued, job_status=job_status,
            cluster_status=cluster_status, job_output=job_output, seed=seed, reseed=reseed,
        )  # fmt: skip
        if node_port is not None:
            warn("node_port is now called dispy.config.NodePort", DeprecationWarning)
        self._reentrant = reentrant_or_not(reentrant)
        config.message_timeout_s()
        config.node_port()

        self._allocations = parse_nodes(nodes)
        self._wants_private = all(allocation.host == "*" for allocation in self._allocations)
        self._secret_file = current_directory.own_file(secret_file, "secret_file")
        self._secret = secrets.choose(secret, self._secret_file)
        payload.hide(
            secret or os.environ.get(secrets.VARIABLE, "")
        )  # if it stands in the script, whose text is sent
        files = [
            current_directory.own_file(path, name)
            for name, path in (("certfile", certfile), ("keyfile", keyfile), ("cafile", cafile))
        ]
        self._tls = check(Tls(files[0], files[1], files[2], tls))
        check_reach(self, self._allocations)
        self._dest_path = check_dest_path(dest_path)
        self._keeps_files = cleanup is False or cleanup is None
        self.seed = payload.random_generators.new_seed() if seed is None else seed
        self._seeding = payload.Seeding(self.seed, submitting.next_number(), reseed)
        self._computation = self._make_computation(
            computation,
            depends,
            setup,
            cleanup if callable(cleanup) else None if cleanup in (True, False) else cleanup,
        )
        self._shipped = Shipped(current_directory.directory())
        self._files, self._held_files = self._take_files(depends)
        for allocation in self._allocations:
            self._code_for(allocation)  # what cannot be sent is refused here, and not when a node is found
        check_setup(setup_per, setup_timeout, isolate)
        self._isolate = isolate
        self._setup_per = setup_per
        self._setup_timeout = setup_timeout
        self._exclusive = exclusive
        self._pulse_s = PULSE_S if pulse_interval is None else pulse_interval
        self._queued_max = sys.maxsize if max_queued is None else max_queued
        self.name = self._computation.name
        self._tally = Tally(self.name)
        self.job_status = job_status
        self.cluster_status = cluster_status
        self.start_time = time.time()

        if dispy_port is not None:
            config.DispyPort = dispy_port
        if node_port is not None:
            config.NodePort = node_port
        self._engine = self._find_engine()
        self._watching = Watching(job_output, self._engine.callbacks, self._gives_bytes)
        self._number = self._engine.new_computation()
        if durable or recover_file is not None:
            self._journal = self._open_journal(recover_file)
        self._submit = submitting.choose_way(
            is_bounded=max_queued is not None, has_journal=self._journal is not None
        )
        set_level(loglevel)
        self._is_closed = False
        if config.SharedMemory and any(
            a.ip_addr is None or is_loopback(a.ip_addr) for a in self._allocations
        ):
            self._engine.share_memory()
        node_discovery.prepare(self._engine, self)
        # Callbacks use the name that the cluster is given when this has returned, and nodes may be quicker than that
        # on a machine that does much else.
        with self._engine.callbacks.held():
            self._engine.call(self._engine.add, self)

    # How a cluster is made; ``Resumed`` makes it of a journal.

    def _make_computation(self, computation: Any, depends: Any, setup: Any, cleanup: Any) -> Computation:
        return Computation(computation, depends, setup, cleanup, self._seeding)

    def _take_files(self, depends: Any) -> tuple[list[FileEntry], list[Held]]:
        items = list(filter(is_file_item, depends or ()))
        return self._shipped.take(
            items, program=self._computation.program, extensions=self._computation.extensions
        )

    def _find_engine(self) -> Engine:
        return engine()

    def _open_journal(self, recover_file: str | os.PathLike[str] | None) -> Journal:
        return journaling.open_journal(self, recover_file)

    @property
    def job_output(self) -> Callable[[DispyJob, str, str], object] | None:
        """Called with what running jobs print; given when the cluster is made, as its nodes are told then."""
        return self._watching.callback

    # Submitting.

    def submit(self, /, *args: Any, **kwargs: Any) -> DispyJob:
        """Run the computation once with these arguments, which are taken as they are now.

        ``dispy_job_depends`` is no argument, but a list of files, modules, functions and classes that only this job
        finds.

        Returns:
            The job; calling it waits for its result.

        Raises:
            PicklingError: An argument cannot be sent; says which, and what in it.
            UsageError: The cluster is closed, or belongs to a parent process.
        """
        try:
            return self._submit(self, next(DispyJob.id_iter), None, args, kwargs)
        except UsageError as error:
            raise brief(error) from error.__cause__

    def submit_job_id(self, job_id: Any, /, *args: Any, **kwargs: Any) -> DispyJob:
        """``submit`` with the job's id given; None for an automatic one."""
        try:
            return self._submit(
                self, next(DispyJob.id_iter) if job_id is None else job_id, None, args, kwargs
            )
        except UsageError as error:
            raise brief(error) from error.__cause__

    def submit_node(self, node: Any, /, *args: Any, **kwargs: Any) -> DispyJob | None:
        """``submit`` to one node and no other; None, with a warning, if it is not in use by this cluster.

        Args:
            node: ``DispyNode``, address or host name.
        """
        return self.submit_job_id_node(None, node, *args, **kwargs)

    @briefly
    def submit_job_id_node(self, job_id: Any, node: Any, /, *args: Any, **kwargs: Any) -> DispyJob | None:
        """``submit_node`` with the job's id given."""
        self._check_open()
        names = NodeNames(node, self._engine)
        found = self._engine.call(self._find_open, names)
        if found is None:
            logger.warning("submit_node: node %s is not in use by cluster %s", names.text, self.name)
            return None
        return self._submit(self, next(DispyJob.id_iter) if job_id is None else job_id, found, args, kwargs)

    # Data that many jobs read, and files.

    @briefly
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
        return data.put(self, value)

    @briefly
    def send_file(self, path: Any, node: Any = None, relay: bool = False) -> int:
        """Put a file into the working directory of this cluster on a node, or on all its nodes; waits for that.

        It lands where it would with ``depends``, whole or not at all, and jobs that start after this find it. A node
        that ends and comes back, or is set up again, has it again before anything runs there; nodes that are found
        later do not get it.

        Args:
            path: Of a file or directory; a module likewise.
            node: ``DispyNode``, address or host name; None: all nodes that are in use now.
            relay: Accepted; files go the way that everything goes.

        Returns:
            0 if it is there; -1, with a warning that says why, if it is not, or no such node is in use.

        Raises:
            UsageError: There is no such file, it cannot be sent, or the cluster is closed.
        """
        return data.send_file(self, path, node)

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
        if self._is_closed or self._pid != process_identity.pid:
            self._check_open()
        if not isinstance(job, DispyJob):
            return completion.cancel_several(self, job)
        number = job._number
        if self._jobs.get(number) is not job:
            return -1
        with self._status_guard:
            if job._status < CANCELLED:
                job._status = CANCELLED
        self._cancels.append(number)
        if not self._has_posted_cancels:
            completion.post_cancels(self)
        return 0

    @briefly
    def wait(self, timeout: float | None = None) -> bool:
        """Wait for all submitted jobs and their callbacks; False if that takes longer than ``timeout`` seconds.

        In a callback, for jobs only. Jobs that callbacks submit are waited for, too. False also if a callback is
        given up that waits for a lock, with a warning: see ``close``.
        """
        if self._pid != process_identity.pid:
            self._check_open()
        return callbacks.wait_all(self, deadline(timeout)) is Waited.CALLED

    def __call__(self) -> bool:
        """Wait for all submitted jobs and their callbacks."""
        return self.wait()

    # Looking.

    def status(self) -> ClusterStatus:
        """The nodes as they are now, and the number of jobs that have not ended."""
        nodes = self._engine.call(self._refresh_nodes) if not self._is_closed else node_views.last(self)
        return ClusterStatus(nodes, len(self._jobs))

    def print_status(self, wall_time: float | None = None) -> None:
        """Print a table of the nodes, how many jobs failed and why the first did, and times in all.

        Args:
            wall_time: Seconds to compare the jobs' time with; since the cluster began by default.
        """
        check_timeout(wall_time, "wall_time")
        if wall_time is None:
            wall_time = (self.end_time or time.time()) - self.start_time
        nodes, pending = self.status()
        status_module.print_table(self._tally, nodes, pending, self.cpu_time, wall_time)

    def stats(self, wall_time: float | None = None) -> None:
        """Old name of ``print_status``."""
        warnings.warn("stats is now called print_status", DeprecationWarning, stacklevel=2)
        self.print_status(wall_time)

    def why(self, job: DispyJob) -> str:
        """Say in words where a job is, and why it has not ended: for whom it waits, and where."""
        if not isinstance(job, DispyJob):
            raise UsageError(f"why takes a job, not {describe(job)}", hint=completion.JOBS_ARE)
        if job._is_final:
            return f"it has ended: {STATUS_NAMES[job._status]}"
        self._check_open()
        return self._engine.call(explain.why, self, job)

    # Ending.

    @briefly
    def close(self, timeout: float | None = None, terminate: bool = False) -> bool | None:
        """Wait for all jobs and their callbacks, also for jobs that callbacks submit; then release the nodes.

        Callbacks are waited for as long as they take; in a callback, not at all. One that has waited for the same
        lock or event for ten seconds is given up with a warning if no other thread of the program is at work, for a
        minute otherwise: it may want what is held by the thread that waits here. It goes on when it can, and so do
        those after it: at the end of the program they are waited for again.

        Args:
            timeout: Seconds to wait for jobs and callbacks; None waits as long as they take.
            terminate: Cancel jobs that have not ended after ``timeout`` (at once if that is None). Callbacks are
                waited for all the same; they cannot submit jobs any more.

        Returns:
            True when closed; False if jobs or callbacks are left after ``timeout``, and nothing has changed;
            None if it was closed before.
        """
        return closing.close(self, timeout, terminate)

    def _is_unheard(self) -> bool:
        """Whether results can be fetched that nobody in this program will see, once it has failed."""
        if callbacks.has_callbacks(self):
            return False
        if self._journal is not None:
            return True
        has_jobs = any(type(job) is not Chunk for job in list(self._jobs.values()))
        return has_jobs and self._number in self._engine.noted

    def shutdown(self) -> None:
        """Close, and end dispy's background thread once no other cluster of the program is open.

        All callbacks have been called then, also those of other clusters; they are waited for as by ``close``.
        """
        self.close()
        if self._pid == process_identity.pid and not self._engine.clusters:
            self._engine.callbacks.wait_called(None, "shutdown")
            stop_engine()

    def __enter__(self) -> JobCluster:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; after an exception cancel what has not ended, and let the exception pass.

        A full journal stays then, so that what was computed can be had. After Ctrl-C callbacks have two seconds.
        """
        self._keeps_journal = kind is not None
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            closing.close(self, None, terminate=True, is_interrupted=True)
        else:
            self.close(terminate=kind is not None)

    def __reduce__(self) -> NoReturn:
        raise PicklingError(
            f"cluster {self.name} cannot be sent to a node: it stays in the process that has made it",
            hint="have the job return what is to be submitted, or make a cluster in the job",
        )

    def __repr__(self) -> str:
        done = sum([node.jobs_done for node in node_views.last(self)])
        closed = ", closed" if self._is_closed else ""
        return f"<JobCluster {self.name}: pending={len(self._jobs)}, done={done}{closed}>"
