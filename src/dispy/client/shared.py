"""``SharedJobCluster``: a cluster at a scheduler that many programs share. All but its making is ``JobCluster``'s."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from dispy.client.arguments import check_each, renamed
from dispy.client.cluster import JobCluster
from dispy.client.job import DispyJob
from dispy.client.jobs.type_parameters import P, R
from dispy.client.nodes import DispyNode
from dispy.client.session.startup import Scheduler
from dispy.client.tracebacks import briefly


class SharedJobCluster(JobCluster[P, R]):
    """Run a function on all CPUs of a shared scheduler (``dispyscheduler``).

    A program may have several of them, and clusters of its own beside them. Nodes are the scheduler's: it finds and
    dials them, with its own secret for nodes. What is not listed here is as in ``JobCluster``.

    Args:
        computation: A function, or the path of a program.
        nodes: Which nodes of the scheduler are used; those that are named by address it looks for, too.
        depends: What jobs need on the nodes.
        job_status: Called with a job at each provisional result and at its end.
        cluster_status: Called with (status, node, job) at every event.
        host: Accepted without effect: clients listen nowhere.
        dispy_port: Base port (9700 if not given); the scheduler is expected at the second after it.
        client_port: Accepted without effect: clients listen nowhere.
        scheduler_host: Host name or address of the scheduler; None: the one of this user on this machine.
        ext_host: Accepted without effect.
        ip_addr: Old name of ``host``.
        ext_ip_addr: Old name of ``ext_host``.
        loglevel: As in ``JobCluster``.
        callback: Old name of ``job_status``.
        setup: Called once on each node before any job there.
        cleanup: Called when the cluster leaves a node.
        dest_path: Name of the working directory on the nodes.
        poll_interval: Accepted without effect.
        reentrant: True if jobs may run again when their node is lost or their process dies.
        exclusive: Keep all other computations off the nodes, one node after the other.
        secret: Secret shared with the scheduler (``--cluster_secret`` there), or a key made of it for a user
            (``dispy secret derive user``); by default the user's own.
        keyfile: Key of ``certfile``.
        certfile: Certificate shown to the scheduler (PEM).
        recover_file: File for a journal of all jobs and results, for ``recover_jobs``; must not exist. None: no file.
        scheduler_port: Port of the scheduler for programs; by default the second after ``dispy_port``.
        scheduler_node: Old name of ``scheduler_host``.
        port: Old name of ``client_port``.
        pulse_interval: Accepted without effect: the scheduler's own holds.
        secret_file: File with the secret, instead of ``secret``.
        cafile: Authority that must have signed the scheduler's certificate.
        tls: False: the link to the scheduler is not encrypted.
        durable: True: keep that journal in the user's state directory if ``recover_file`` does not say where.
        options: What else ``JobCluster`` takes: ``isolate``, ``max_queued``, ``job_output``, ``setup_per``,
            ``setup_timeout``, ``seed``, ``reseed``, ``results``.

    Raises:
        UsageError: A parameter cannot be used; says which and why.
        NoSchedulerError: No scheduler answers there, or it does not let the program in.
        PicklingError: The computation cannot be sent.
    """

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
        client_port: int | None = None,
        scheduler_host: str | None = None,
        ext_host: str | list[str] | None = None,
        ip_addr: str | list[str] | None = None,
        ext_ip_addr: str | list[str] | None = None,
        loglevel: int | None = None,
        callback: Callable[[DispyJob[R]], object] | None = None,
        setup: Any = None,
        cleanup: Any = True,
        dest_path: str | None = None,
        poll_interval: float | None = None,
        reentrant: bool = False,
        exclusive: bool = False,
        secret: str = "",
        keyfile: str | None = None,
        certfile: str | None = None,
        recover_file: str | os.PathLike[str] | None = None,
        *,
        scheduler_port: int | None = None,
        scheduler_node: str | None = None,
        port: int | None = None,
        pulse_interval: float | None = None,
        secret_file: str | None = None,
        cafile: str | None = None,
        tls: bool | None = None,
        durable: bool = False,
        **options: Any,
    ) -> None:
        scheduler_host = renamed(scheduler_host, scheduler_node, "scheduler_node", "scheduler_host")
        renamed(client_port, port, "port", "client_port")
        check_each(
            pulse_interval=pulse_interval,
            scheduler_host=scheduler_host or "",
            scheduler_port=scheduler_port,
        )
        self._scheduler = Scheduler(scheduler_host or None, scheduler_port)
        super().__init__(
            computation, nodes, depends, job_status, cluster_status, host, dispy_port, ext_host, ip_addr,
            ext_ip_addr, False, dest_path, loglevel, callback, setup, cleanup, None, None, poll_interval,
            reentrant, secret, keyfile, certfile, recover_file, exclusive=exclusive, secret_file=secret_file,
            cafile=cafile, tls=tls, durable=durable, **options,
        )  # fmt: skip
