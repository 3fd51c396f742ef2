"""Why jobs wait, in words: as the answer of ``JobCluster.why``, and as warnings in the log."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING

from dispy.client.arguments import describe
from dispy.client.job import STATUS_NAMES, DispyJob
from dispy.client.nodes import covers_beyond, covers_loopback, say_blind
from dispy.client.session.cancellation import JOBS_ARE, unfinished
from dispy.client.session.inbox import take_inbox
from dispy.client.shown.overview import IDLE_S
from dispy.errors import UsageError
from dispy.net.discovery import where_looked
from dispy.protocol.views import PlacementStatus
from dispy.security.reach import may_announce
from dispy.system.addresses import own
from dispy.system.wording import counted

if TYPE_CHECKING:
    from dispy.client.session.state import Session
    from dispy.protocol.views import NodeInfo

logger = logging.getLogger("dispy.client")

ANSWER_S = 5.0
"""Seconds that ``why`` waits for a scheduler elsewhere."""

WARN_S = 5.0
"""Seconds that jobs wait without any node in use before a warning says why. They go on waiting."""

HELD_S = 1.0
"""Seconds that jobs wait while nodes are in use but none takes a job before a warning repeats the reasons that the
nodes give, as that other programs use their CPUs. The jobs go on waiting."""


def why(session: Session, job: DispyJob) -> str:
    """Returns where a job is and what it waits for, in words: the work of ``JobCluster.why``. On any thread.

    Raises:
        UsageError: The argument is no job of this cluster, or the cluster is closed.
    """
    if not isinstance(job, DispyJob):
        raise UsageError(f"why takes a job, not {describe(job)}", hint=JOBS_ARE)
    ended = _ended(job)
    if ended:
        return ended
    session.check_open()
    try:
        answer = session.engine.call(_ask_why, session, job)
        where, silent = answer.result(ANSWER_S)
        reason = "; ".join([where or session.engine.call(_why_no_node, session), *silent])
    except TimeoutError:
        reason = f"its scheduler has not answered for {ANSWER_S:g} s"
    except UsageError:
        if not _ended(job):
            raise
        reason = ""
    return _ended(job) or reason  # it may have ended meanwhile


def _ended(job: DispyJob) -> str:
    """Returns, in words, how a job has ended; empty while it has not."""
    # ``status`` would count as a look at a failure.
    is_final = job._is_final  # pyright: ignore[reportPrivateUsage]
    return f"it has ended: {STATUS_NAMES[job.status]}" if is_final else ""


def _ask_why(session: Session, job: DispyJob) -> Future[tuple[str, list[str]]]:
    """Ask the backend where an unfinished job is and what it waits for (``Views.ask_why``); on the loop.

    Raises:
        UsageError: The job is not an unfinished one of this cluster.
    """
    if unfinished(session, job) is None:
        raise UsageError(
            f"{job!r} is not a job of cluster {session.name}",
            hint="ask the cluster that it was submitted to",
        )
    take_inbox(session)
    return session.views.ask_why(session.number, job.number)


def check_waiting(session: Session) -> None:
    """Log why jobs of a cluster wait without a node that takes them, or stand still. Called each 0.2 s, on the loop.

    Waiting is a warning, once for each kind of reason. Standing still (nothing moves that could, for
    ``watchdog.STALL_S`` seconds) is an error; it is logged once, too.
    """
    waiting = session.waiting
    stalled = waiting.stall.look(
        session.views.stalled(session.number) if session.jobs else "", session.engine.clock.monotonic()
    )
    if stalled:
        logger.error(
            "nothing of cluster %s has moved for %g s: %s", session.name, waiting.stall.limit_s, stalled
        )
    held = _why_held(session) if session.jobs and session.dispy_nodes else ""
    if not session.jobs or (session.dispy_nodes and not held):
        waiting.clear()
        return
    if waiting.is_due(held or "no node", HELD_S if held else WARN_S, session.engine.clock.monotonic()):
        reason = held or _why_loading(session)
        logger.warning("%s", f"{_waiting(session)}: {reason}" if reason else _why_no_node(session))


def why_idle(session: Session) -> str:
    """Returns, in words, why no job of a cluster runs; empty if one does, if none waits, or if none has waited for
    ``IDLE_S`` seconds. On the loop."""
    since = session.waiting.since
    if not session.jobs or since is None or session.engine.clock.monotonic() - since < IDLE_S:
        return ""
    held = _why_held(session) if session.dispy_nodes else _why_loading(session)
    if held:
        return f"{_waiting(session)}: {held}"
    return "" if session.dispy_nodes else _why_no_node(session)


def _waiting(session: Session) -> str:
    """Returns the number of unfinished jobs for a message, as "3 jobs of cluster f wait"."""
    of = f"of cluster {session.name}"
    return counted(len(session.jobs), f"job {of} waits", f"jobs {of} wait")


def _why_held(session: Session) -> str:
    """Returns, in words, the reason that each node in use gives for taking no job now, as "node a: …; node b: …".

    Empty if a node takes or runs jobs, or gives no reason: no warning is due then.
    """
    views = session.views.view(session.number)
    reasons = []
    for node, shown in session.dispy_nodes.items():
        view = views.get(node)
        if view is None or view.slots or view.started or not view.shortage:
            return ""
        reasons.append(f"node {shown.name}: {view.shortage}")
    return "; ".join(reasons)


def why_unused(session: Session, info: NodeInfo) -> str:
    """Returns, in words for the log, why a cluster does not use a node that is connected."""
    if not info.cpus:
        return info.shortage or "it offers no CPUs now"
    said = session.set_aside.get(info.node)
    return (
        f"{said.method} was called for it"
        if said
        else session.faults.failures.get(info.name, "nothing in nodes= wants it")
    )


def _why_loading(session: Session) -> str:
    """Returns, in words, how far each node is that loads the computation: "node a: …; node b: …".

    Empty if no node is loading it.
    """
    views = session.views.view(session.number)
    return "; ".join(
        f"node {info.name}: {views[info.node].progress or 'it is loading the computation, or runs its setup'}"
        for info in session.views.nodes(session.number)
        if info.node in views and views[info.node].status is PlacementStatus.LOADING
    )


def _why_no_node(session: Session) -> str:
    """Returns sentences for the user: jobs wait, no node can be used, why each known one cannot, and what to do."""
    known = session.views.nodes(session.number)
    shortages = {info.name: info.shortage or "it offers no CPUs now" for info in known if not info.cpus}
    tried = sorted(session.faults.unreachable.values())
    # Shortages come last: that ``allocate`` returned 0 for a node without CPUs is no reason of its own.
    tried += [f"{name}: {why}" for name, why in {**session.faults.failures, **shortages}.items()]
    tried += [
        f"{info.name}: {session.set_aside[info.node].method} was called for it, and allocate_node uses it again"
        for info in known
        if info.node in session.set_aside
    ]
    wanted = ", ".join(allocation.host for allocation in session.wishes.allocations)
    said = f"{_waiting(session)}: no node of nodes={wanted} can be used."
    if tried:
        said += f" Tried: {'; '.join(tried)}."
    return " ".join([said, *_advice(session, known)])


def _advice(session: Session, known: list[NodeInfo]) -> list[str]:
    """Returns sentences that tell the user how to get a node; empty if connected nodes leave nothing to advise.

    Args:
        session: Cluster without a node in use.
        known: Connected nodes with the cluster's secret.
    """
    if session.options.access.is_shared:
        return [] if known else ["The scheduler has no node: start 'dispynode' where it finds it."]
    found = []
    items = session.wishes.allocations
    for item in items:
        if item.ip_addr is None and not covers_loopback(item):
            if may_announce(session.options.access.secret) and covers_beyond(item):
                continue  # nodes with such an address are sought
            if not any(item.matches(address) for info in known for address in info.addresses()):
                found.append(f"{say_blind(item.host, any(map(item.matches, own())))}.")
    if known:
        return found
    if any(covers_loopback(item) for item in items):
        same, others = session.views.count_listed(session.number)
        if not same:
            but = f" ({others} with another secret)" if others else ""
            found.append(
                f"No dispynode of this machine with this secret is listed in {where_looked()}{but}."
            )
        found.append("Start 'dispynode' on this machine, with the same secret.")
    elif any(map(covers_beyond, items)) and may_announce(session.options.access.secret):
        found.append(
            "Nodes of other machines are sought on this machine's networks: start 'dispynode --host 0.0.0.0' there, "
            "with the same secret file, or name them: nodes=['ADDRESS']."
        )
    elif any(item.ip_addr is not None for item in items):
        addresses = {item.ip_addr for item in items if item.ip_addr is not None}
        host = addresses.pop() if len(addresses) == 1 else "ADDRESS"
        found.append(f"Start 'dispynode --host {host}' there, with the same secret.")
    return found
