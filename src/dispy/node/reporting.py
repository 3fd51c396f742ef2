"""Reports for a node's administrator: log lines at INFO on who comes and goes, with what, and why the node ends.

There are lines for life cycles only, never one per job. Names that programs give are cut and escaped, so they cannot
forge lines. Above a number of lines a minute, comings and goings are only counted (``guests``). An exception in one
of these functions costs its line, and nothing else.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from dispy.core.execution.ids import ClientId
from dispy.core.execution.state import UNLIMITED, Computation
from dispy.errors import SilenceError
from dispy.node.guard import harmless
from dispy.node.guests import Guest
from dispy.protocol import node
from dispy.system.escaping import line
from dispy.system.log_writer import local_time
from dispy.system.wording import brief, counted, facts, named

if TYPE_CHECKING:
    from dispy.net.connection import Connection
    from dispy.node.state import Loaded, NodeState

logger = logging.getLogger("dispy.node")

WAITS_S = 60.0
"""Seconds between two log lines on what a node that is being drained still waits for."""

PROGRAMS_MAX = 5
"""Largest number of programs, and of computations of each, that one log line names. Further programs are counted;
further computations of a named program are left out, but their jobs are in the program's number."""


@harmless
def on_attached(service: NodeState, connection: Connection, message: node.Attach) -> None:
    """Log that a client has come, or is back. Call after the core was told ``ClientAttached``."""
    reports = service.reports
    client = ClientId(message.client)
    name = brief(service.machine.state.clients[client].name)
    guest = reports.guests.get(client)
    if guest is not None and guest.lost_at:
        reports.say(f"{name} is back after {service.clock.monotonic() - guest.lost_at:.1f} s")
        guest.lost_at, guest.is_dead = 0.0, False
    elif guest is None:
        reports.guests[client] = Guest(name)
        origin = f" of {brief(message.origin)}" if message.origin else ""
        cipher = connection.cipher
        by = "its secret" if connection.peer is None else f"the key of {connection.peer}"
        proof = by + (" and its certificate" if cipher and cipher.has_certificate else "")
        over = " over TLS" if cipher else ""
        reports.say(f"{name}{origin} has come from {connection.peer_address}, admitted by {proof}{over}")


@harmless
def on_lost(service: NodeState, client: ClientId, error: Exception | None) -> None:
    """Log that the connection to a client is lost, and how many of its jobs and results are kept here, until when.

    A client that has left for good is no guest any more: nothing is logged.

    Args:
        service: The node.
        client: The client.
        error: Why the connection ended; the line has the reason only if the client was silent.
    """
    guest = service.reports.guests.get(client)
    known = service.machine.state.clients.get(client)
    if guest is None or known is None:
        return
    guest.lost_at = service.clock.monotonic()
    why = f": {line(str(error))}" if isinstance(error, SilenceError) else ""
    here = [c for c in service.machine.state.computations.values() if c.client is known]
    open_count = sum(len(c.open) for c in here)
    if not open_count and not known.sent.kept:
        service.reports.say(f"{guest.name} has lost its connection{why}; no job of it is here")
        return
    jobs = counted(open_count, "job", zero="no")
    results = counted(sum(len(batch.ended) for batch in known.sent.kept), "result", zero="no")
    lease_s = service.settings.lease_s
    until = "" if math.isinf(lease_s) else f" until {local_time(lease_s)}"
    service.reports.say(
        f"{guest.name} has lost its connection{why}; {jobs} of it still here, {results} kept for it or for "
        f"dispy.recover_jobs(){until}"
    )


@harmless
def on_said(service: NodeState, client: ClientId, message: node.ToNode) -> None:
    """Log that a client leaves for good, or that ``dispy.recover_jobs`` fetches results of a dead program.

    All other messages are ignored.

    Call before the core is told, as the core then forgets the client's computations, whose jobs are counted here.
    """
    guest = service.reports.guests.get(client)
    if guest is None:
        return
    if type(message) is node.Recover:
        service.reports.say(f"what {guest.name} has left here is fetched by dispy.recover_jobs()")
    elif type(message) is node.Detach:
        state = service.machine.state
        for computation in [c for c in state.computations.values() if c.client.id == client]:
            _account(guest, computation)
        del service.reports.guests[client]
        service.reports.say(f"{guest.name} has left for good: {_done(guest.finished, guest.failed)}")


@harmless
def on_pulse(service: NodeState) -> None:
    """Log which clients are taken for dead or forgotten by now, and what a drained node waits for. Call it each
    second."""
    reports, state = service.reports, service.machine.state
    for client, guest in list(reports.guests.items()):
        known = state.clients.get(client)
        if known is None:
            del reports.guests[client]
            reports.say(f"{guest.name} has not come back in time: what it had here is dropped")
        elif known.is_dead and not guest.is_dead:
            guest.is_dead = True
            kept = "on disk" if service.spool is not None else "in memory"
            reports.say(
                f"{guest.name} is taken for dead: its share of CPUs is the others', its results are kept {kept}"
            )
    if state.is_draining and service.clock.monotonic() - reports.drain_said_at >= WAITS_S:
        say_waits(service)


@harmless
def on_loaded(service: NodeState, loaded: Loaded) -> None:
    """Log that a computation can take jobs, how long its start took, and its options that concern the node: exclusive
    use, setup in each worker, a limit of CPUs."""
    computation = service.machine.state.computations.get(loaded.key)
    if computation is None:
        return
    took_s = service.clock.monotonic() - loaded.since
    spec, client = computation.spec, computation.client
    facts = [f"is ready after {took_s:.2f} s"]
    if spec.exclusive:
        facts.append("wants this node for itself")
    if spec.setup_per_worker:
        facts.append("calls setup in each worker")
    if client.cpus_max < UNLIMITED:
        facts.append(f"its program wants {counted(client.cpus_max, 'CPU', zero='no')} at most")
    service.reports.say(f"{_name(computation)} {', '.join(facts)}; host {loaded.host.process.pid}")


@harmless
def on_left(service: NodeState, loaded: Loaded) -> None:
    """Log, once, that a computation has left this node, and how many of its jobs ran.

    Its numbers of jobs are added to those of its client, and ``loaded.computation`` becomes None.
    """
    computation = loaded.computation
    if computation is None:
        return
    loaded.computation = None
    guest = service.reports.guests.get(loaded.client)
    if guest is not None:
        _account(guest, computation)
    keeps = computation.spec.keep and not service.settings.force_cleanup
    kept = f"; its files stay in {line(str(loaded.work))}" if keeps else ""
    done = _done(computation.finished, computation.sampled - computation.finished)
    service.reports.say(f"{_name(computation)} has left: {done}{kept}")


@harmless
def on_failed(service: NodeState, computation: Computation, reason: str) -> None:
    """Log that a computation cannot run here.

    Of ``reason`` only the first line up to the exception's type is logged: an exception's message may have a user's
    data. The computation's program is told all of it.
    """
    what, _, why = reason.partition("\n")[0].partition(": ")
    kind = why.partition(": ")[0]
    told = f"{brief(what)}: {brief(kind)}" if kind else brief(what, 200)
    service.reports.say(f"{_name(computation)} cannot run here: {told}; its program is told all of it")


def _name(computation: Computation) -> str:
    """Returns a computation's name and its client's, cut and escaped: subject of a log line."""
    return f"computation {brief(computation.spec.name)} of {brief(computation.client.name)}"


def _account(guest: Guest, computation: Computation) -> None:
    """Add the finished and failed jobs of a computation that leaves to those of its client.

    The sums (``Guest``) are logged when the client leaves.
    """
    guest.finished += computation.finished
    guest.failed += computation.sampled - computation.finished


def _done(finished: int, failed: int) -> str:
    """Returns words for the log: how many jobs returned a value (``finished``), and how many ran and ended by an
    exception, a cancel or the death of their process (``failed``)."""
    return f"{counted(finished, 'job', zero='no')} finished, {failed or 'none'} failed or cancelled while running"


# How the node ends.


@harmless
def say_stops(service: NodeState, why: str) -> None:
    """Log why the node ends now (``why``: such as "SIGTERM"), and which jobs end with it."""
    work = describe_work(service)
    if not work:
        logger.info("%s: the node ends; nothing runs here", why)
    elif service.settings.owner or service.machine.state.is_draining:
        logger.info("%s: the node ends, and with it %s", why, work)
    else:
        logger.info("%s: the node ends, and with it %s. SIGUSR1 would let them end first", why, work)


@harmless
def say_waits(service: NodeState) -> None:
    """Log what a node that is being drained waits for: jobs, and clients that have results here to fetch."""
    state, now = service.machine.state, service.clock.monotonic()
    service.reports.drain_said_at = now
    waits = [describe_work(service)] if any(c.open for c in state.computations.values()) else []
    longest_s = max(
        (now - worker.moved for worker in state.workers.values() if worker.records), default=0.0
    )
    if longest_s >= 1:
        waits[-1] += f", the longest of them for {longest_s:.0f} s"
    for client in state.clients.values():
        if client.is_dead or not (client.sent.kept or not client.is_connected):
            continue
        if not client.is_connected:
            waits.append(f"{brief(client.name)} to come back, or to be taken for dead")
        else:
            results = sum(len(batch.ended) for batch in client.sent.kept)
            waits.append(f"{brief(client.name)} to fetch {counted(results, 'result', zero='no')}")
    logger.info("the node is being drained, and waits for %s", "; for ".join(waits) or "nothing any more")


def usage(service: NodeState) -> str:
    """Returns a text on who uses this node: a line on its CPUs, then a line for each client with its jobs.

    The text is for 'status' at the terminal, and for the log on SIGUSR2.
    """
    state = service.machine.state
    offered = "none offered, as the node is drained" if state.is_draining else f"{service.cpus} offered"
    said = [f"CPUs: {offered}, {state.busy} in use"]
    for client in state.clients.values():
        its = [c for c in state.computations.values() if c.client is client]
        jobs = sum(len(c.open) for c in its)
        names = ", ".join(line(c.spec.name) + (" (exclusive)" if c.spec.exclusive else "") for c in its)
        where = "" if client.is_connected else ", gone"
        its_jobs = f"jobs here: {jobs} of {names or 'nothing'}"
        said.append(f"  {client.name}{where}: {client.busy} in use, {its_jobs}")
    return "\n".join(said)


def statistics(service: NodeState) -> dict[str, int]:
    """Returns numbers of clients, computations, jobs and workers of now, with those of the node's parts, whose names
    begin with the part's: ``stager_``, ``segments_``, ``spool_``."""
    state = service.machine.state
    links = [connection.statistics() for connection in service.connections]
    found = {
        "cpus": service.cpus,
        "cpus_busy": state.busy,
        "clients": len(state.clients),
        "connections": len(links),
        "computations": len(state.computations),
        "jobs_open": sum([len(computation.open) for computation in state.computations.values()]),
        "workers": len(state.workers),
        "hosts_started": service.hosts_started,
        "batches_kept": sum([len(client.sent.kept) for client in state.clients.values()]),
        "bytes_sent": sum([link["bytes_sent"] for link in links]),
        "bytes_received": sum([link["bytes_received"] for link in links]),
    }
    found |= named("stager", service.stager.statistics())
    found |= named("segments", service.segments.statistics())
    return found | named("spool", service.spool.statistics() if service.spool is not None else {})


def say_usage(service: NodeState, why: str) -> None:
    """Log who uses this node, and its ``statistics``, or that it is ending; ``why``: cause, for the log."""
    if service.stopped.is_set():
        logger.info("%s: the node is ending", why)
        return
    for text in [*usage(service).splitlines(), f"statistics: {facts(statistics(service))}"]:
        logger.info("%s: %s", why, text.strip())


def describe_work(service: NodeState) -> str:
    """Returns words for the log on how many jobs are here, running or waiting, of which programs; empty if none are.

    At most ``PROGRAMS_MAX`` programs are named, the others are counted.
    """
    state = service.machine.state
    by_client: dict[ClientId, list[Computation]] = {}
    for computation in state.computations.values():
        if computation.open:
            by_client.setdefault(computation.client.id, []).append(computation)
    if not by_client:
        return ""
    total = sum(len(c.open) for its in by_client.values() for c in its)
    shown = []
    for client, its in list(by_client.items())[:PROGRAMS_MAX]:
        names = ", ".join([brief(c.spec.name) for c in its[:PROGRAMS_MAX]])
        jobs = sum(len(c.open) for c in its)
        shown.append(f"{jobs} of {names} of {brief(state.clients[client].name)}")
    if len(by_client) > len(shown):
        shown.append(f"and {counted(len(by_client) - len(shown), 'program', zero='no')} more")
    running = min(state.busy, total)
    whose = f"{counted(total, 'job', zero='no')} of {counted(len(by_client), 'program', zero='no')}"
    return f"{whose} ({running} running, {total - running} waiting): {'; '.join(shown)}"
