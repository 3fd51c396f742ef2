"""Lines for the administrator of a node, at INFO: who comes and goes, with what, and why the node ends.

Life cycles only, never once per job. Names that programs give are cut and escaped. Programs that come and go all the
time are counted after so many lines a minute.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from msgspec import Struct

from dispy.core.execution.ids import ClientId
from dispy.core.execution.state import UNLIMITED, Computation
from dispy.errors import SilenceError
from dispy.protocol import node
from dispy.system.escaping import line
from dispy.system.log_writer import LogLimit, local_time
from dispy.system.wording import brief, counted

if TYPE_CHECKING:
    from dispy.net.connection import Connection
    from dispy.node.state import Loaded, NodeState

logger = logging.getLogger("dispy.node")

LINES_MAX = 100
"""Lines a minute about programs and computations: a program that makes a cluster a second fills no disk."""

EVERY_S = 60.0
"""Seconds after which lines are counted anew, and after which a node that is drained says again what it waits for."""

PROGRAMS_MAX = 5
"""Programs that a line names."""

MORE = "comings and goings of programs and computations"


class Guest(Struct):
    """A client as its lines in the log have shown it.

    Attributes:
        name: As others see it.
        lost_at: When its connection was lost; 0.0: it stands.
        is_dead: It was said that it is taken for dead.
        finished: Jobs of computations that have left, which succeeded.
        failed: The others that ran.
    """

    name: str
    lost_at: float = 0.0
    is_dead: bool = False
    finished: int = 0
    failed: int = 0


class Reports:
    """The state of the log of one node: its guests, and how many lines there were.

    Args:
        service: The node.
    """

    def __init__(self, service: NodeState) -> None:
        self.guests: dict[ClientId, Guest] = {}
        self.limit = LogLimit(EVERY_S, LINES_MAX, logger.info, service._loop.call_later)
        self.drain_said_at = 0.0
        """When it was last said what the node waits for."""
        self._count = 0

    def say(self, text: str) -> None:
        """Log a line, or count it."""
        self._count += 1
        self.limit.line(MORE, str(self._count), "%s", text)


def on_attached(service: NodeState, connection: Connection, message: node.Attach) -> None:
    """A client has come, or is back."""
    reports = service._reports
    client = ClientId(message.client)
    name = brief(service._machine.state.clients[client].name)
    guest = reports.guests.get(client)
    if guest is not None and guest.lost_at:
        reports.say(f"{name} is back after {service._clock.monotonic() - guest.lost_at:.1f} s")
        guest.lost_at, guest.is_dead = 0.0, False
    elif guest is None:
        reports.guests[client] = Guest(name)
        origin = f" of {brief(message.origin)}" if message.origin else ""
        proof = "its secret" + (" and its certificate" if connection.has_certificate else "")
        over = " over TLS" if connection.is_encrypted else ""
        reports.say(f"{name}{origin} has come from {connection.peer_address}, admitted by {proof}{over}")


def on_lost(service: NodeState, client: ClientId, error: Exception | None) -> None:
    """The connection to a client is gone. One that has said that it goes for good is not known any more."""
    guest = service._reports.guests.get(client)
    known = service._machine.state.clients.get(client)
    if guest is None or known is None:
        return
    guest.lost_at = service._clock.monotonic()
    why = f": {line(str(error))}" if isinstance(error, SilenceError) else ""
    here = [c for c in service._machine.state.computations.values() if c.client is known]
    open_count = sum(len(c.open) for c in here)
    if not open_count and not known.batches:
        service._reports.say(f"{guest.name} has lost its connection{why}; no job of it is here")
        return
    jobs = counted(open_count, "job", zero="no")
    results = counted(sum(len(batch.ended) for batch in known.batches), "result", zero="no")
    lease_s = service.settings.lease_s
    until = "" if math.isinf(lease_s) else f" until {local_time(lease_s)}"
    service._reports.say(
        f"{guest.name} has lost its connection{why}; {jobs} of it still here, {results} kept for it or for "
        f"dispy.recover_jobs(){until}"
    )


def on_said(service: NodeState, client: ClientId, message: node.ToNode) -> None:
    """A client goes for good, or somebody fetches what a dead one has left. Before the core is told."""
    guest = service._reports.guests.get(client)
    if guest is None:
        return
    if type(message) is node.Recover:
        service._reports.say(f"what {guest.name} has left here is fetched by dispy.recover_jobs()")
    elif type(message) is node.Detach:
        state = service._machine.state
        for computation in [c for c in state.computations.values() if c.client.id == client]:
            _account(guest, computation)
        del service._reports.guests[client]
        service._reports.say(f"{guest.name} has left for good: {_done(guest.finished, guest.failed)}")


def on_pulse(service: NodeState) -> None:
    """Look who is dead by now, or forgotten; and say what is waited for where the node is drained."""
    reports, state = service._reports, service._machine.state
    for client, guest in list(reports.guests.items()):
        known = state.clients.get(client)
        if known is None:
            del reports.guests[client]
            reports.say(f"{guest.name} has not come back in time: what it had here is dropped")
        elif known.is_dead and not guest.is_dead:
            guest.is_dead = True
            kept = "on disk" if service._spool is not None else "in memory"
            reports.say(
                f"{guest.name} is taken for dead: its share of CPUs is the others', its results are kept {kept}"
            )
    if state.is_draining and service._clock.monotonic() - reports.drain_said_at >= EVERY_S:
        say_waits(service)


def on_loaded(service: NodeState, loaded: Loaded) -> None:
    """A computation can take jobs."""
    computation = service._machine.state.computations.get(loaded.key)
    if computation is None:
        return
    took_s = service._clock.monotonic() - loaded.since
    spec, client = computation.spec, computation.client
    facts = [f"is ready after {took_s:.2f} s"]
    if spec.exclusive:
        facts.append("wants this node for itself")
    if spec.setup_per_worker:
        facts.append("calls setup in each worker")
    if client.cpus_max < UNLIMITED:
        facts.append(f"its program wants {counted(client.cpus_max, 'CPU', zero='no')} at most")
    service._reports.say(f"{_name(computation)} {', '.join(facts)}; host {loaded.host.process.pid}")


def on_left(service: NodeState, loaded: Loaded) -> None:
    """A computation has left, with its host."""
    computation = loaded.computation
    if computation is None:
        return
    loaded.computation = None
    guest = service._reports.guests.get(loaded.client)
    if guest is not None:
        _account(guest, computation)
    keeps = computation.spec.keep and not service.settings.force_cleanup
    kept = f"; its files stay in {line(str(loaded.work))}" if keeps else ""
    done = _done(computation.finished, computation.sampled - computation.finished)
    service._reports.say(f"{_name(computation)} has left: {done}{kept}")


def on_failed(service: NodeState, computation: Computation, reason: str) -> None:
    """A computation cannot run here. No message of a user's exception is shown; its program is told all of it."""
    what, _, why = reason.partition("\n")[0].partition(": ")
    kind = why.partition(": ")[0]
    told = f"{brief(what)}: {brief(kind)}" if kind else brief(what, 200)
    service._reports.say(f"{_name(computation)} cannot run here: {told}; its program is told all of it")


def _name(computation: Computation) -> str:
    return f"computation {brief(computation.spec.name)} of {brief(computation.client.name)}"


def _account(guest: Guest, computation: Computation) -> None:
    guest.finished += computation.finished
    guest.failed += computation.sampled - computation.finished


def _done(finished: int, failed: int) -> str:
    return f"{counted(finished, 'job', zero='no')} finished, {failed or 'none'} failed or cancelled while running"


# How the node ends.


def say_stops(service: NodeState, why: str) -> None:
    """Say why the node ends, and what with it."""
    work = describe_work(service)
    if not work:
        logger.info("%s: the node ends; nothing runs here", why)
    elif service.settings.owner or service._machine.state.is_draining:
        logger.info("%s: the node ends, and with it %s", why, work)
    else:
        logger.info("%s: the node ends, and with it %s. SIGUSR1 would let them end first", why, work)


def say_waits(service: NodeState) -> None:
    """Say what a node waits for that is drained."""
    state, now = service._machine.state, service._clock.monotonic()
    service._reports.drain_said_at = now
    waits = [describe_work(service)] if any(c.open for c in state.computations.values()) else []
    longest_s = max(
        (now - worker.moved for worker in state.workers.values() if worker.records), default=0.0
    )
    if longest_s >= 1:
        waits[-1] += f", the longest of them for {longest_s:.0f} s"
    for client in state.clients.values():
        if client.is_dead or not (client.batches or not client.is_connected):
            continue
        if not client.is_connected:
            waits.append(f"{brief(client.name)} to come back, or to be taken for dead")
        else:
            results = sum(len(batch.ended) for batch in client.batches)
            waits.append(f"{brief(client.name)} to fetch {counted(results, 'result', zero='no')}")
    logger.info("the node is being drained, and waits for %s", "; for ".join(waits) or "nothing any more")


def describe_work(service: NodeState) -> str:
    """How many jobs of whom are here; empty if there are none."""
    state = service._machine.state
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
