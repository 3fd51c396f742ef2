"""How a cluster starts: its nodes and secret are chosen, ports are set, and a private node is started if needed.

Steps of ``JobCluster.__init__``, on the program's thread, in the order of this module. ``shutdown`` is the other end.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dispy import config, payload
from dispy.client.allocation.node_choice import check_reach
from dispy.client.engine import node_discovery
from dispy.client.nodes import parse_nodes
from dispy.security import secrets
from dispy.security.owner_key import owner_key
from dispy.security.tls import Tls, check
from dispy.system import current_directory
from dispy.system.addresses import is_loopback

if TYPE_CHECKING:
    from dispy.client.cluster_nodes import Steering
    from dispy.client.session.state import ClusterState


def choose_nodes(cluster: ClusterState, nodes: Any, secret: str, secret_file: Any, tls: Tls) -> None:
    """Check the nodes that a cluster may use, the secret and the certificates for links to them, and store all three.

    Args:
        cluster: The cluster; ``_allocations``, ``_wants_private``, ``_secret``, ``_secret_file``, ``_owner``,
            ``_tls`` are set.
        nodes: The program's ``nodes``, in any form; None: all nodes of this machine.
        secret: The secret as a text; empty for that of the file, of ``DISPY_SECRET`` or of this user.
        secret_file: Path of the file with the secret; None: no file.
        tls: Files of certificates, by the paths that the program gives, and which links it wants encrypted.

    Raises:
        UsageError: No node can be used; a file is missing or not what it should be; or nodes of other machines are
            named, and there is only the secret of this user. Or an option in ``config`` has a value that it cannot
            have.
    """
    config.message_timeout_s()
    config.node_port()
    cluster._allocations = parse_nodes(nodes)
    cluster._wants_private = all(allocation.host == "*" for allocation in cluster._allocations)
    cluster._secret_file = current_directory.own_file(secret_file, "secret_file")
    cluster._secret = secrets.choose(secret, cluster._secret_file)
    cluster._owner = owner_key()
    # The text of the script is sent to nodes, and the secret may stand in it.
    payload.hide(secret or os.environ.get(secrets.VARIABLE, ""))
    files = [
        current_directory.own_file(path, name)
        for name, path in (("certfile", tls.certfile), ("keyfile", tls.keyfile), ("cafile", tls.cafile))
    ]
    cluster._tls = check(Tls(files[0], files[1], files[2], tls.wanted))
    check_reach(cluster, cluster._allocations)


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


def prepare(cluster: Steering) -> None:
    """Prepare the engine for the nodes of a new cluster, before the scheduler learns of the cluster.

    Large payloads go to shared memory from now on if nodes of this machine may be used. The list of this machine's
    nodes is read, a private node is started if none is listed, and patterns that match no node are warned of. Waits
    for the file server that has the list, if there is one.

    Raises:
        NoNodesError: The private node cannot be started.
    """
    allocations = cluster._allocations
    if config.SharedMemory and any(a.ip_addr is None or is_loopback(a.ip_addr) for a in allocations):
        cluster._engine.share_memory()
    node_discovery.prepare(cluster._engine, cluster)
