"""How a cluster starts: its nodes and secret are chosen, its session is made, and given to the engine.

Steps of ``JobCluster.__init__``, on the program's thread, in the order of this module. ``shutdown`` is the other end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from dispy import config, payload
from dispy.client.allocation.node_choice import check_reach
from dispy.client.backend.backend import Access, Wishes
from dispy.client.backend.open_clusters import reach_fault
from dispy.client.backend.scheduler_link import Address
from dispy.client.nodes import parse_nodes
from dispy.client.session import cancellation, submission
from dispy.client.session.live_output import Watching
from dispy.client.session.state import Session
from dispy.net.discovery import SCHEDULERS, Lookout
from dispy.security import reach, secrets
from dispy.security.owner_key import owner_key
from dispy.security.tls import Tls, check, dialer_tls, warn_if_open
from dispy.system import current_directory
from dispy.system.addresses import is_loopback, resolve

if TYPE_CHECKING:
    from dispy.client.backend.backend import Backend
    from dispy.client.code.shipped_files import Held, Shipped
    from dispy.client.engine.threads import Threads
    from dispy.client.job import DispyJob
    from dispy.client.nodes import DispyNode
    from dispy.client.session.state import Options


class Chosen(NamedTuple):
    """Choices of a program about its nodes, checked.

    Attributes:
        wishes: Nodes that may be used.
        access: How they are dialed.
        secret_file: Absolute path of the program's ``secret_file``; None if none was given.
        owner: Owner key of this user.
    """

    wishes: Wishes
    access: Access
    secret_file: str | None
    owner: bytes


class Callbacks(NamedTuple):
    """The user's functions that are called with news; None: there is none. See ``JobCluster``."""

    job_status: Callable[[DispyJob], object] | None = None
    cluster_status: Callable[[int, DispyNode | None, DispyJob | None], object] | None = None
    job_output: Callable[[DispyJob, str, str], object] | None = None


class Scheduler(NamedTuple):
    """A shared scheduler, as a program names it.

    Attributes:
        host: Host name or address; None: the one of this user on this machine.
        port: Port for programs; None: the usual one.
    """

    host: str | None
    port: int | None


def choose_nodes(
    nodes: Any,
    secret: str,
    secret_file: Any,
    tls: Tls,
    *,
    is_shared: bool = False,
    uses_multicast: bool = False,
) -> Chosen:
    """Check the nodes that a cluster may use, the secret, and the certificates for links to them.

    Args:
        nodes: The program's ``nodes``, in any form; None: all nodes of this machine.
        secret: The secret as a text; empty for that of the file, of ``DISPY_SECRET`` or of this user.
        secret_file: Path of the file with the secret; None: no file.
        tls: Files of certificates, by the paths that the program gives, and which links it wants encrypted.
        is_shared: True if secret and certificates are for a shared scheduler, which dials the nodes with its own.
        uses_multicast: As of ``Wishes``.

    Raises:
        UsageError: No node can be used; a file is missing or not what it should be; or nodes of other machines are
            named, and there is only the secret of this user. Or a derived key has expired, or opens nothing here. Or
            an option in ``config`` has a value that it cannot have.
    """
    config.message_timeout_s()
    config.node_port()
    allocations = parse_nodes(nodes)
    wants_private = not is_shared and all(allocation.host == "*" for allocation in allocations)
    wishes = Wishes(allocations, wants_private, bool(uses_multicast))
    path = current_directory.own_file(secret_file, "secret_file")
    key = secrets.choose(secret, path)
    if fault := reach.use_fault(key, "client", "scheduler" if is_shared else "node", time.time()):
        raise fault
    owner = owner_key()
    # The text of the script is sent to nodes, and the secret may stand in it.
    payload.hide(secret or os.environ.get(secrets.VARIABLE, ""))
    files = [
        current_directory.own_file(file, name)
        for name, file in (("certfile", tls.certfile), ("keyfile", tls.keyfile), ("cafile", tls.cafile))
    ]
    access = Access(key, check(Tls(files[0], files[1], files[2], tls.wanted)), is_shared)
    check_reach(access, allocations)
    return Chosen(wishes, access, path, owner)


def find_scheduler(wanted: Scheduler, access: Access) -> Address:
    """Returns where a shared scheduler is, and how it is dialed. On the program's thread: may wait for a file server.

    Without a host and port it is the one of this user on this machine, as it has listed itself, else loopback.

    Raises:
        UsageError: The host cannot be resolved, or must not be dialed with the secret.
    """
    listed = []
    if wanted.port is None and (wanted.host is None or is_loopback(resolve(wanted.host))):
        listed = Lookout(SCHEDULERS).with_secret(access.secret.fingerprint())
    if listed:
        found = listed[0]
        tls = dialer_tls(access.tls) if found.tls else None
        return Address(found.host, found.port, access.secret.keys, tls, found.socket_here())
    host = resolve(wanted.host or "127.0.0.1")
    if fault := reach_fault(access, host, is_encrypted=access.tls.is_used):
        raise fault
    warn_if_open(access.tls, host)
    port = wanted.port or config.DispyPort + 2
    return Address(host, port, access.secret.keys, dialer_tls(access.tls) if access.tls.is_used else None)


def own_cleanup(cleanup: Any) -> Callable[..., Any] | None:
    """Returns the function that the program gave as ``cleanup``; None if it gave True, False or None instead.

    Any other value is returned as it is: ``Computation`` refuses it with a ``UsageError``.
    """
    if callable(cleanup):
        return cleanup  # type: ignore[no-any-return]
    return None if cleanup in (True, False) else cleanup


def set_ports(dispy_port: int | None, node_port: int | None) -> None:
    """Store the ports that a cluster was given in ``config``, for the whole program; None leaves a port as it is.

    Nodes given without a port are dialed at ``node_port`` if it is set, else at ``dispy_port`` + 1.
    """
    if dispy_port is not None:
        config.DispyPort = dispy_port
    if node_port is not None:
        config.NodePort = node_port


def make_session(
    options: Options,
    wishes: Wishes,
    shipped: Shipped,
    held_files: list[Held],
    threads: Threads,
    backend: Backend,
    number: int,
    cluster: Any,
    callbacks: Callbacks,
) -> Session:
    """Make the session of a cluster, which is not open yet.

    Args:
        options: Choices of the program.
        wishes: Nodes that may be used.
        shipped: Index of the files whose bytes nodes may ask for.
        held_files: Holders of the files that nodes get with the computation.
        threads: The threads of the engine.
        backend: The scheduler.
        number: Number of the cluster at the backend.
        cluster: The object that the program has of the cluster.
        callbacks: Functions of the user.

    Raises:
        PicklingError: Arguments of ``setup`` for one of the nodes cannot be sent.
    """
    session = Session(options, wishes, shipped, held_files, threads, backend, number, cluster)
    session.cancel = partial(cancellation.cancel, session)
    for allocation in wishes.allocations:
        session.code_for(
            tuple(allocation.setup_args or ())
        )  # arguments of setup that cannot be sent are refused here
    session.job_status, session.cluster_status = callbacks.job_status, callbacks.cluster_status
    session.start_time = time.time()

    def ask(job: int, is_wanted: bool) -> None:
        backend.watch(number, [job], is_wanted)

    is_program = options.computation.is_program
    session.watching = Watching(callbacks.job_output, threads, session.jobs, ask, is_program)
    return session


def open_session(session: Session, is_bounded: bool, add: Callable[[Session], None]) -> None:
    """Open the session of a new cluster: from now on it takes jobs, and nodes are looked for.

    Large payloads go to shared memory from then on if nodes of this machine may be used; a private node is started
    if none is listed, and patterns that match no node are warned of. Waits for the file server that has the list of
    nodes, if there is one.

    Args:
        session: The session; its journal, if it is to have one, is there already.
        is_bounded: True with ``max_queued``.
        add: Opens the cluster at its engine, on the loop.

    Raises:
        NoNodesError: The private node cannot be started.
    """
    session.submit = submission.choose_way(is_bounded, session.journal is not None)
    session.is_closed = False
    session.backend.prepare(session.options.access, session.wishes, session.journal)
    # Nodes may be quicker than this: no callback runs before the program has assigned the new cluster to a name.
    with session.engine.callbacks.held():
        session.engine.call(add, session)
