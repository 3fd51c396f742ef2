"""``JobCluster``: a computation with its nodes and jobs, as programs use it.

The methods are called on threads of the program. Each is a line or two around a function of ``client.session`` or
``client.allocation``, which gets the session of the cluster: a cluster has a session, and nothing else.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, NoReturn, Self

from dispy import payload
from dispy.client.allocation import node_views
from dispy.client.arguments import (
    check_dest_path,
    check_each,
    check_place,
    check_setup,
    check_timeout,
    deadline,
    reentrant_or_not,
    renamed,
    warn,
)
from dispy.client.cluster_jobs import ClusterJobs
from dispy.client.cluster_nodes import ClusterNodes
from dispy.client.code.computation import Computation
from dispy.client.code.shipped_files import Shipped
from dispy.client.engine.callback_thread import Waited
from dispy.client.engine.engine import engine, stop_unused_engine
from dispy.client.in_asyncio.entry import ClusterInLoop
from dispy.client.job import DispyJob
from dispy.client.job_numbers import FIRST
from dispy.client.jobs.type_parameters import P, R
from dispy.client.logger import set_level
from dispy.client.map.entry import ClusterMaps
from dispy.client.nodes import DispyNode, NodeList
from dispy.client.recovery import journaling
from dispy.client.session import (
    callbacks,
    cancellation,
    explain,
    files,
    objects,
    shutdown,
    startup,
    status_table,
)
from dispy.client.session.objects import Ref
from dispy.client.session.received_files import note_root
from dispy.client.session.state import Options
from dispy.client.shown.cluster_looks import ClusterLooks
from dispy.client.shown.cluster_status import ClusterStatus as ClusterStatus
from dispy.client.tracebacks import briefly
from dispy.errors import PicklingError
from dispy.files.manifest import is_file_item
from dispy.security.tls import Tls
from dispy.settings import PULSE_S
from dispy.system import current_directory

logger = logging.getLogger("dispy.client")


class JobCluster(ClusterJobs[P, R], ClusterMaps[R], ClusterNodes[R], ClusterInLoop[P, R], ClusterLooks):
    """Run a function on all CPUs that can be found.

    For type checkers a ``JobCluster[P, R]`` runs a function of parameters ``P`` and result ``R``, as they find it in
    ``computation``; one that runs a program is a ``JobCluster[..., Any]``.

    Args:
        computation: Any function; a bound method takes its object along. Or the path of a program, or its name in
            ``PATH``: it is sent to the nodes, and started for each job with the arguments as texts; the result is its
            exit code, its output is bytes.
        nodes: Hosts, addresses, patterns of addresses of this machine, ``(host, port, cpus)`` tuples,
            dictionaries or ``NodeAllocate`` objects; by default every node of this user on this machine, and a node
            of the program's own where there is none.
        depends: What jobs need on the nodes: functions and classes, which the computation finds by name; paths of
            files and directories, which get the place in its working directory that they have below the current one
            here, or their last names; modules, of which the whole package can be imported there. A function called
            ``init_depends`` is called on each node before the others are defined: it may import modules, and
            define names with ``global``.
        setup: Called once on each node before any job there, with the ``setup_args`` of the ``NodeAllocate`` that the
            node is used for, in the working directory. Jobs see the globals that it sets, and share the memory of
            what it has loaded. A node where it raises, or returns anything but 0, 1, 2 or None, is not used.
        cleanup: Called like ``setup``, after all jobs, when the cluster leaves the node; then files are removed.
            True: files are only removed. False: the directory stays; by ``dest_path`` the next cluster finds it.
        job_status: Called with a job at each provisional result and at its end.
        cluster_status: Called with (status, node, job) at every event; with ``DispyNode.Closed`` for each node when
            it is not used any more, at the latest when the cluster is closed.
        host: Accepted without effect: clients listen nowhere.
        dest_path: Name of the working directory on the nodes, also ``a/b``, below one of this user, by his owner key;
            clusters with the same name share it. By default each cluster has its own.
        dispy_port: Base port (9700 if not given); nodes listen on the next one. Assigned for the whole program.
        loglevel: Level of dispy's logger; below WARNING its lines are shown on stderr, unless the program has
            handlers. None: the level stays as it is; warnings are shown.
        ext_host: Accepted without effect: nodes do not call back, so no gateway has to let them through.
        port: Old name of ``dispy_port``.
        node_port: Old way to assign ``dispy.config.NodePort``, the port of nodes that are given without one.
        callback: Old name of ``job_status``.
        ip_addr: Old name of ``host``.
        ext_ip_addr: Old name of ``ext_host``.
        ipv4_udp_multicast: True: nodes of other machines are sought by multicast (``config.IPv4MulticastGroup``).
        ping_interval: Accepted without effect: nodes are looked for all the time.
        pulse_interval: Heartbeat of nodes: the longest time between two signs of life (0.1 to 1000 seconds; 1 if not
            given). A node that is silent for five such times is dead. The smallest interval of all clusters of the
            program holds for all of them.
        poll_interval: Accepted without effect: results come over the client's connection as they are ready.
        reentrant: True if jobs may run again when their node is lost or their process dies; False: they fail then.
        secret: Secret shared with the nodes; by default the user's own, or ``DISPY_SECRET``.
        isolate: Run each job in a fresh process.
        keyfile: Key of ``certfile`` (PEM); None: it is in ``certfile``.
        certfile: Our certificate (PEM). Without ``cafile`` nodes must show the same one.
        secret_file: File with the secret, instead of ``secret``.
        cafile: Authority that must have signed the nodes' certificates (PEM), for the names used in ``nodes``.
        tls: False: links over TCP are not encrypted; True or None: they are. Those over Unix sockets never are.
        exclusive: Keep all other computations off the nodes, from when the cluster comes to them until it closes. On
            each node it starts when the jobs that run there have ended; several such clusters have their turns there
            in the order in which they came. Clusters that are kept waiting are told for whom.
        max_queued: Back-pressure: ``submit`` waits while this number of jobs have not ended, so that a producer
            cannot run away from the nodes. Callbacks are not made to wait: they would stop each other.
        recover_file: File for a journal of all jobs and results, for ``recover_jobs``; must not exist. None: no file.
        durable: True: keep that journal in the user's state directory if ``recover_file`` does not say where.
        setup_per: "node": setup runs once on each node, and the processes of jobs are forked from its process.
            "worker": setup runs in each of those processes, for libraries that do not survive a fork; so does
            cleanup, and threads and processes that setup has started stay.
        setup_timeout: Seconds that setup may take; a node where it takes longer is not used, and all that it has
            started there is killed. None: no limit.
        job_output: Called with (job, stream, text) while jobs run, some tenths of a second after they print, and
            before ``job_status`` with the rest; ``stream`` is "stdout" or "stderr". See ``DispyJob.output``.
        seed: Number from 0 that ``dispy_job_seed()`` depends on, beside the job's place in the cluster; else random.
        reseed: True to give random generators that many workers have a copy of a stream of their own in each
            worker. False: generators are left alone, and jobs of different workers draw the same numbers.
        results: "plain": nothing that comes from nodes can run code here, and no files of jobs are taken; a result
            that is not plain data ends its job with an error. "any": results may be any objects.

    Raises:
        UsageError: A parameter cannot be used; says which and why.
        PicklingError: The computation cannot be sent; says which part of it.
    """

    _scheduler: startup.Scheduler | None = None
    """Shared scheduler of the cluster; None: it has one in this process."""

    @briefly
    def __init__(
        self,
        computation: Callable[P, R] | str | os.PathLike[str],
        nodes: Any = None,
        depends: Any = (),
        job_status: Callable[[DispyJob[R]], object] | None = None,
        cluster_status: Callable[[int, DispyNode | None, DispyJob[R] | None], object] | None = None,
        host: str | list[str] | None = None,
        dispy_port: int | None = None,
        ext_host: str | list[str] | None = None,
        ip_addr: str | list[str] | None = None,
        ext_ip_addr: str | list[str] | None = None,
        ipv4_udp_multicast: bool = False,
        dest_path: str | None = None,
        loglevel: int | None = None,
        callback: Callable[[DispyJob[R]], object] | None = None,
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
        job_output: Callable[[DispyJob[R], str, str], object] | None = None,
        durable: bool = False,
        port: int | None = None,
        node_port: int | None = None,
        setup_per: str = "node",
        setup_timeout: float | None = None,
        seed: int | None = None,
        reseed: bool = True,
        results: str = "any",
    ) -> None:
        check_place()
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
            cluster_status=cluster_status, job_output=job_output, seed=seed, reseed=reseed, results=results,
        )  # fmt: skip
        renamed(None, node_port, "node_port", "dispy.config.NodePort")
        is_reentrant = reentrant_or_not(reentrant)
        shared = self._scheduler
        chosen = startup.choose_nodes(
            nodes, secret, secret_file, Tls(certfile, keyfile, cafile, tls),
            is_shared=shared is not None, uses_multicast=ipv4_udp_multicast,
        )  # fmt: skip
        dest_path = check_dest_path(dest_path)
        seed = payload.random_generators.new_seed() if seed is None else seed
        seeding = payload.Seeding(seed, FIRST, reseed)
        made = Computation(computation, depends, setup, startup.own_cleanup(cleanup), seeding)
        shipped = Shipped(current_directory.directory())
        own = list(filter(is_file_item, depends or ()))
        entries, held = shipped.take(own, program=made.program, extensions=made.extensions)
        check_setup(setup_per, setup_timeout, isolate)
        options = Options(
            access=chosen.access, secret_file=chosen.secret_file, owner=chosen.owner, computation=made,
            files=entries, seed=seed, seeding=seeding, dest_path=dest_path,
            keeps_files=cleanup is False or cleanup is None, isolate=isolate, setup_per=setup_per,
            setup_timeout=setup_timeout, exclusive=exclusive, is_plain=results == "plain",
            reentrant=is_reentrant, pulse_s=PULSE_S if pulse_interval is None else pulse_interval,
            queued_max=sys.maxsize if max_queued is None else max_queued,
        )  # fmt: skip
        startup.set_ports(dispy_port, node_port)
        running = engine()
        backend = (
            running.backend
            if shared is None
            else running.call(running.schedulers.at, startup.find_scheduler(shared, chosen.access))
        )
        self._session = session = startup.make_session(
            options, chosen.wishes, shipped, held, running, backend, running.new_number(), self,
            startup.Callbacks(job_status, cluster_status, job_output),
        )  # fmt: skip
        if durable or recover_file is not None:
            session.journal = journaling.open_journal(session, recover_file)
        set_level(loglevel)
        try:
            startup.open_session(session, max_queued is not None or shared is not None, running.add)
        except BaseException:
            if session.journal is not None:
                session.journal.close(remove=True)
            raise

    # What a program may read, and the callbacks, which it may replace.

    @property
    def name(self) -> str:
        """Name of the computation (of the function, or the path of the program)."""
        return self._session.name

    @property
    def job_status(self) -> Callable[[DispyJob[R]], object] | None:
        """Callback for each provisional result and each end of a job; None: none."""
        return self._session.job_status

    @job_status.setter
    def job_status(self, value: Callable[[DispyJob[R]], object] | None) -> None:
        self._session.job_status = value

    @property
    def cluster_status(self) -> Callable[[int, DispyNode | None, DispyJob[R] | None], object] | None:
        """Callback for each change of a job or node; None: none."""
        return self._session.cluster_status

    @cluster_status.setter
    def cluster_status(
        self, value: Callable[[int, DispyNode | None, DispyJob[R] | None], object] | None
    ) -> None:
        self._session.cluster_status = value

    @property
    def job_output(self) -> Callable[[DispyJob[R], str, str], object] | None:
        """Callback for what running jobs print; None: none. Read-only, as nodes are told of it when they begin."""
        return self._session.watching.callback

    @property
    def seed(self) -> int:
        """Number that ``dispy_job_seed()`` in jobs depends on: as given, or chosen at random."""
        return self._session.options.seed

    @property
    def start_time(self) -> float:
        """Time when the cluster was made (seconds since the epoch)."""
        return self._session.start_time

    @property
    def end_time(self) -> float | None:
        """Time when jobs last ended and none was left (seconds since the epoch); None before that."""
        return self._session.end_time

    @property
    def cpu_time(self) -> float:
        """Sum of the run times of all ended jobs (seconds)."""
        return self._session.cpu_time

    # Data that many jobs read, and files.

    @briefly
    def put(self, value: Any) -> Ref:
        """Send an object to the nodes once, for many jobs to read.

        The reference that is returned stands for the object, as an argument or inside one, also of ``map`` and of
        other objects that are put: jobs get the object as it is now. The object travels once to each node and is
        unpickled once by each worker. Arrays in it are mapped by all workers of a node together, so they are
        read-only; jobs should not change the rest either, as all jobs of a worker share it. The object is freed
        everywhere when the last reference to it is gone.

        Raises:
            PicklingError: The object cannot be sent; says what in it.
            UsageError: The cluster is closed, or has 4096 objects that were put and not freed.
        """
        return objects.put(self._session, value)

    @briefly
    def send_file(self, path: Any, node: Any = None, relay: bool = False) -> int:
        """Put a file into the working directory of this cluster on a node, or on all its nodes; waits for that.

        The file lands where it would with ``depends``, whole or not at all, and jobs that start after this find it. A
        node that ends and comes back, or is set up again, gets it again before anything runs there; nodes that are
        found later do not get it.

        Args:
            path: Path of a file or directory, or a module.
            node: ``DispyNode``, address or host name; None: all nodes that are in use now.
            relay: Accepted without effect: files go over the connection to the node, like all else.

        Returns:
            0 if all these nodes have the file; -1, with a warning that says why, if one has not, or none is in use.

        Raises:
            UsageError: There is no such file, it cannot be sent, or the cluster is closed.
        """
        return files.send_file(self._session, path, node)

    # Cancelling and waiting.

    def cancel(self, job: DispyJob | Iterable[DispyJob]) -> int:
        """End a job: at once if it waits, by KeyboardInterrupt in it if it runs.

        A job may catch that and return its best value. A job that goes on is killed after ``config.CancelGrace``
        seconds. Does not wait: ``status`` is ``Cancelled`` at once, ``finish`` is set when the job has ended.

        Args:
            job: A job, or several.

        Returns:
            0 if the job is (being) cancelled; -1 if it had ended or is not one of this cluster. For several jobs: 0
            if all of them are cancelled.
        """
        return cancellation.cancel(self._session, job)

    @briefly
    def wait(self, timeout: float | None = None) -> bool:
        """Wait for all submitted jobs and their callbacks; False if that takes longer than ``timeout`` seconds.

        Called in a callback, it waits for jobs only. Jobs that callbacks submit are waited for, too. False also if a
        callback is given up that waits for a lock, with a warning: see ``close``.
        """
        return callbacks.wait_all(self._session, deadline(timeout)) is Waited.CALLED

    def __call__(self) -> bool:
        """Wait for all submitted jobs and their callbacks: ``wait`` without a timeout."""
        return self.wait()

    # Looking.

    def status(self) -> ClusterStatus:
        """Returns the nodes as they are now, and the number of jobs that have not ended."""
        return ClusterStatus(NodeList(node_views.current(self._session)), len(self._session.jobs))

    def print_status(self, wall_time: float | None = None) -> None:
        """Print a table of the nodes, the number of failed jobs and why the first failed, and total times.

        Args:
            wall_time: Seconds to compare the jobs' time with; None for the time since the cluster began.
        """
        status_table.print_session(self._session, check_timeout(wall_time, "wall_time"))

    def stats(self, wall_time: float | None = None) -> None:
        """Old name of ``print_status``."""
        warn("stats is now called print_status", DeprecationWarning)
        self.print_status(wall_time)

    def why(self, job: DispyJob) -> str:
        """Returns a sentence: where a job is, and why it has not ended (what it waits for, and on which node)."""
        return explain.why(self._session, job)

    # Ending.

    @briefly
    def close(self, timeout: float | None = None, terminate: bool = False) -> bool | None:
        """Wait for all jobs and their callbacks, also for jobs that callbacks submit; then release the nodes.

        Callbacks are waited for without limit; in a callback, not at all. A callback that stands at the same lock or
        event for ten seconds is given up with a warning, as the thread that waits here may hold that lock; if other
        threads of the program are at work, after a minute. It goes on when it can, and so do the callbacks after it:
        at the end of the program they are waited for again.

        Args:
            timeout: Seconds to wait for jobs and callbacks; None: no limit.
            terminate: Cancel jobs that have not ended after ``timeout`` (at once if that is None). Callbacks are
                waited for all the same; they cannot submit jobs any more.

        Returns:
            True when closed; False if jobs or callbacks are left after ``timeout``, and nothing has changed;
            None if the cluster was closed before.
        """
        return shutdown.close(self._session, timeout, terminate)

    def shutdown(self) -> None:
        """Close, and end dispy's background thread once no other cluster of the program is open.

        Then all callbacks have been called, also those of other clusters; they are waited for as by ``close``.
        """
        self.close()
        stop_unused_engine()

    def __enter__(self) -> Self:
        self._session.check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the cluster; after an exception cancel the jobs that have not ended, and let the exception pass.

        After an exception a full journal stays, so that the results can be recovered. After Ctrl-C callbacks are
        waited for two seconds.
        """
        shutdown.leave_block(self._session, kind)

    def __reduce__(self) -> NoReturn:
        raise PicklingError(
            f"cluster {self.name} cannot be sent to a node: it stays in the process that has made it",
            hint="have the job return what is to be submitted, or make a cluster in the job",
        )
