"""Why jobs wait, in words: as the answer of ``JobCluster.why``, and as warnings in the log."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from dispy.client.engine.local_nodes import covers_loopback
from dispy.client.nodes import say_blind
from dispy.client.session.inbox import take_inbox
from dispy.core.scheduling.explain import find_stall, why_full, why_open
from dispy.core.scheduling.ids import EMBEDDED
from dispy.errors import UsageError
from dispy.net.discovery import where_looked
from dispy.protocol.views import PlacementStatus as Status
from dispy.system.addresses import own
from dispy.system.escaping import line
from dispy.system.wording import counted

if TYPE_CHECKING:
    from dispy.client.cluster_nodes import Steering
    from dispy.client.job import DispyJob
    from dispy.client.session.state import ClusterState
    from dispy.net.discovery import Listing
    from dispy.protocol.views import NodeInfo

logger = logging.getLogger("dispy.client")

WARN_S = 5.0
"""Seconds that jobs wait without any node in use before a warning says why. They go on waiting."""

HELD_S = 1.0
"""Seconds that jobs wait while nodes are in use but none takes a job before a warning repeats the reasons that the
nodes give, as that other programs use their CPUs. The jobs go on waiting."""


def why(cluster: ClusterState, job: DispyJob) -> str:
    """Returns where an unfinished job is and what it waits for, in words; on the loop.

    Nodes of the cluster that have been silent for more than two heartbeat intervals are named, too.

    Raises:
        UsageError: The job is not an unfinished one of this cluster.
    """
    if cluster._jobs.get(job._number) is not job:
        raise UsageError(
            f"{job!r} is not a job of cluster {cluster.name}",
            hint="ask the cluster that it was submitted to",
        )
    take_inbox(cluster)
    computation = cluster._engine.service.state.computations[EMBEDDED, cluster._number]
    words = [why_open(computation, job._number) or _why_no_node(cluster)]
    for info in cluster._engine.service.nodes():
        silent_s = cluster._engine.service.silent_s(info.node)
        if info.node in computation.placements and silent_s > 2 * cluster._engine.service.pulse_s:
            words.append(f"node {info.name} has said nothing for {silent_s:g} s")
    return "; ".join(words)


def check_waiting(cluster: ClusterState) -> None:
    """Log why jobs of a cluster wait without a node that takes them, or stand still. Called each 0.2 s, on the loop.

    Waiting is a warning, once for each kind of reason. Standing still (nothing moves that could, for
    ``watchdog.STALL_S`` seconds) is an error; it is logged once, too.
    """
    stalled = cluster._stall.look(_find_stall(cluster) if cluster._jobs else "", time.monotonic())
    if stalled:
        logger.error(
            "nothing of cluster %s has moved for %g s: %s", cluster.name, cluster._stall.limit_s, stalled
        )
    held = _why_held(cluster) if cluster._jobs and cluster._dispy_nodes else ""
    if not cluster._jobs or (cluster._dispy_nodes and not held):
        cluster._waiting_since = None
        cluster._has_warned = ""
        return
    now = time.monotonic()
    if cluster._waiting_since is None:
        cluster._waiting_since = now
    kind = held or "no node"
    if cluster._has_warned != kind and now - cluster._waiting_since > (HELD_S if held else WARN_S):
        cluster._has_warned = kind
        reason = held or _why_loading(cluster)
        waiting = f"{_waiting(cluster)}: {reason}"
        logger.warning("%s", waiting if reason else _why_no_node(cluster))


def _waiting(cluster: ClusterState) -> str:
    """Returns the number of unfinished jobs for a message, as "3 jobs of cluster f wait"."""
    of = f"of cluster {cluster.name}"
    return counted(len(cluster._jobs), f"job {of} waits", f"jobs {of} wait")


def _find_stall(cluster: ClusterState) -> str:
    """Returns, in words, which jobs of a cluster stand still though a node could run them; empty if none do.

    The words change when one of these jobs moves: equal words at two calls mean a standstill in between. Empty, too,
    while a large payload is on its way to a node of the cluster.
    """
    service = cluster._engine.service
    # A large payload is on its way for a while: that is no standstill.
    if any(service.is_sending(node) for node in cluster._dispy_nodes):
        return ""
    return find_stall(
        service.state.computations[EMBEDDED, cluster._number], service.state.computations.values()
    )


def _why_held(cluster: ClusterState) -> str:
    """Returns, in words, the reason that each node in use gives for taking no job now, as "node a: …; node b: …".

    Empty if a node takes or runs jobs, or gives no reason: no warning is due then.
    """
    computation = cluster._engine.service.state.computations[EMBEDDED, cluster._number]
    reasons = []
    for node in cluster._dispy_nodes:
        placement = computation.placements.get(node)
        if placement is None or placement.granted[0] or placement.started or not placement.shortage:
            return ""
        reasons.append(f"node {placement.node.name}: {placement.shortage}")
    return "; ".join(reasons)


def note_listed(cluster: Steering, listed: list[Listing]) -> None:
    """Log (``debug``) which nodes of this machine a cluster has found, and which it looks for, if that has changed.

    Args:
        cluster: Cluster that looks for nodes.
        listed: Listed nodes of this machine with the cluster's secret.
    """
    found = ", ".join(sorted(f"{item.name} at {item.host}:{item.port}" for item in listed)) or "none"
    wanted = ", ".join(f"{a.host}:{a.port}" if a.port else a.host for a in cluster._allocations)
    text = (
        f"cluster {cluster.name} looks for nodes={wanted}; nodes of this machine with its secret: {found}"
    )
    if cluster._listed != text:
        cluster._listed = text
        logger.debug("%s", line(text))


def why_unused(cluster: Steering, info: NodeInfo) -> str:
    """Returns, in words for the log, why a cluster does not use a node that is connected."""
    if cluster._engine.service.target_of(info.node).key != cluster._secret.key:
        return "it has another secret"
    if not info.cpus:
        return info.shortage or "it offers no CPUs now"
    said = cluster._set_aside.get(info.node)
    return (
        f"{said} was called for it"
        if said
        else cluster._failures.get(info.name, "nothing in nodes= wants it")
    )


def _why_loading(cluster: ClusterState) -> str:
    """Returns, in words, how far each node is that loads the computation: "node a: …; node b: …".

    Empty if no node is loading it.
    """
    placements = cluster._engine.service.state.computations[EMBEDDED, cluster._number].placements.values()
    return "; ".join(
        f"node {placement.node.name}: {why_full(placement)}"
        for placement in placements
        if placement.status is Status.LOADING
    )


def _why_no_node(cluster: ClusterState) -> str:
    """Returns sentences for the user: jobs wait, no node can be used, why each known one cannot, and what to do."""
    shortages = {
        info.name: info.shortage or "it offers no CPUs now"
        for info in cluster._engine.service.nodes()
        if not info.cpus
    }
    tried = sorted(cluster._unreachable.values())
    # Shortages come last: that ``allocate`` returned 0 for a node without CPUs is no reason of its own.
    tried += [f"{name}: {why}" for name, why in {**cluster._failures, **shortages}.items()]
    service = cluster._engine.service
    known = [info for info in service.nodes() if service.target_of(info.node).key == cluster._secret.key]
    tried += [
        f"{info.name}: {cluster._set_aside[info.node]} was called for it, and allocate_node uses it again"
        for info in known
        if info.node in cluster._set_aside
    ]
    wanted = ", ".join(allocation.host for allocation in cluster._allocations)
    said = f"{_waiting(cluster)}: no node of nodes={wanted} can be used."
    if tried:
        said += f" Tried: {'; '.join(tried)}."
    return " ".join([said, *_advice(cluster, known)])


def _advice(cluster: ClusterState, known: list[NodeInfo]) -> list[str]:
    """Returns sentences that tell the user how to get a node; empty if connected nodes leave nothing to advise.

    Args:
        cluster: Cluster without a node in use.
        known: Connected nodes with the cluster's secret.
    """
    found = []
    items = cluster._allocations
    for item in items:
        if item.ip_addr is None and not covers_loopback(item):
            if not any(item.matches(address) for info in known for address in info.addresses()):
                found.append(f"{say_blind(item.host, any(map(item.matches, own())))}.")
    if known:
        return found
    if any(covers_loopback(item) for item in items):
        listed = cluster._engine.listed
        if not listed.of(cluster._secret.fingerprint()):
            others = listed.count_others(cluster._secret.fingerprint())
            but = f" ({others} with another secret)" if others else ""
            found.append(
                f"No dispynode of this machine with this secret is listed in {where_looked()}{but}."
            )
        found.append("Start 'dispynode' on this machine, with the same secret.")
    elif any(item.ip_addr is not None for item in items):
        addresses = {item.ip_addr for item in items if item.ip_addr is not None}
        host = addresses.pop() if len(addresses) == 1 else "ADDRESS"
        found.append(f"Start 'dispynode --host {host}' there, with the same secret.")
    return found
