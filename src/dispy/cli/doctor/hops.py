"""The way to a node, step by step: name, connection, TLS, proof, one job. The first step that fails is named."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from typing import Any

from dispy.cli.doctor.facts import machine_facts
from dispy.cli.doctor.findings import Finding, bad, note, ok
from dispy.cli.doctor.machine_checks import check_machine
from dispy.client.backend.backend import Access
from dispy.client.cluster import JobCluster
from dispy.errors import AuthenticationError, DispyError, UsageError, VersionError
from dispy.net.connection import Connection
from dispy.net.dialing import Target
from dispy.net.links.link import Link
from dispy.scheduler.node_link import ROLES
from dispy.security import reach
from dispy.security.tls import dialer_tls
from dispy.system.addresses import is_loopback, resolve

ANSWER_S = 3.0
"""Seconds to wait for an answer to a connection: a kernel answers at once, from anywhere within a second."""

JOB_S = 15.0
"""Seconds that one small job may take on a node."""


def check_node(
    host: str, port: int, access: Access, parameters: dict[str, Any], here: dict[str, Any]
) -> list[Finding]:
    """Follow the way to a node.

    Args:
        host: Name or address.
        port: TCP port.
        access: Secret and certificates.
        parameters: The same as parameters of ``JobCluster``.
        here: Facts about this machine.
    """
    try:
        address = resolve(host)
    except UsageError as error:
        return [bad(str(error).partition(";")[0], f"check the spelling of {host}, or give its address")]
    found = []
    if is_loopback(address) and not is_loopback(host) and host != "localhost":
        found.append(
            bad(
                f"{host} is {address} here, which is this machine itself",
                "mend its line in /etc/hosts, or give its address on the network",
            )
        )
    elif address != host:
        found.append(ok(f"{host} is {address}"))
    if fault := _connect_fault(address, port):
        return [*found, fault]
    found.append(ok(f"port {port} answers"))
    checks = access.tls.is_used and access.tls.checks_listener
    if refused := reach.dial_fault(access.secret, address, checks_listener=checks):
        return [*found, bad(str(refused).partition(";")[0], refused.hint or "")]
    if fault := asyncio.run(_prove(address, port, host, access)):
        return [*found, fault]
    how = "TLS, " if access.tls.is_used else "without TLS, "
    found.append(ok(f"{how}both sides have proved the secret"))
    return [*found, *_run_job(address, port, parameters, here)]


def _connect_fault(address: str, port: int) -> Finding | None:
    """Returns why no TCP connection can be made; None: it can."""
    where = f"{address} port {port}"
    try:
        socket.create_connection((address, port), ANSWER_S).close()
    except TimeoutError:
        return bad(
            f"{where} does not answer: the machine is off, or a firewall drops what comes",
            f"ping {address}; open TCP port {port} there, and on firewalls between",
        )
    except ConnectionRefusedError:
        return bad(
            f"nothing listens at {where}",
            f"start 'dispynode --host 0.0.0.0 --secret_file FILE' there, or open TCP port {port} in its firewall",
        )
    except OSError as error:
        fix = "check cables, routes and the address" if error.errno in _NO_WAY else "see the error"
        return bad(f"{where} cannot be reached: {error.strerror or error}", fix)
    return None


_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)


class _Dialer:
    """Owner of one link that is made to see whether it can be."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def _settle(self, outcome: Exception | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def on_up(self, connection: Connection) -> None:
        """Both sides have proved themselves."""
        self._settle(None)

    def on_message(self, connection: Connection, message: Any) -> None:
        """Nothing is asked, so nothing is said."""

    def on_broken(self) -> None:
        """The connection has ended."""

    def on_failed(self, error: Exception) -> None:
        """The node cannot be reached, or does not believe us."""
        self._settle(error)

    def on_slow(self) -> None:
        """The node is slow to answer: ``_prove`` waits on."""


async def _prove(address: str, port: int, host: str, access: Access) -> Finding | None:
    """Dial a node and prove the secret; returns why that fails, None: it does not."""
    tls = (lambda: dialer_tls(access.tls)) if access.tls.is_used else None
    dialer = _Dialer()
    link = Link(dialer, ROLES, time, Target(address, port, access.secret.keys, host, tls))
    link.dial()
    try:
        error = await asyncio.wait_for(dialer.outcome, 2 * ANSWER_S)
    except TimeoutError:
        return bad(
            f"{address} port {port} takes connections and says nothing",
            "another program may listen there: look with 'ss -ltnp'; or give the node's port",
        )
    finally:
        link.close()
        await asyncio.sleep(0)
    if error is None:
        return None
    text = str(error).partition("; ")[0]
    if isinstance(error, AuthenticationError):
        if "TLS" in text:
            advice = error.hint or "give both sides the same --tls or --no_tls"
            return bad(
                f"TLS on one side only, or another program: {text}",
                f"{advice}; look there with 'ss -ltnp', who has port {port}",
            )
        return bad(
            f"another secret there, or another program: {text}",
            "compare 'dispy secret show --secret_file FILE' on both machines: the fingerprints must be equal",
        )
    if isinstance(error, VersionError):
        return bad(text, error.hint or "install the same dispy on both sides")
    hint = error.hint if isinstance(error, DispyError) else None
    return bad(
        f"what listens at {address} port {port} is another program, or no dispynode with this secret: {text}",
        hint or f"look there with 'ss -ltnp', who has port {port}",
    )


def _run_job(address: str, port: int, parameters: dict[str, Any], here: dict[str, Any]) -> list[Finding]:
    """Run one job on a node, and judge what it says of its machine."""
    before_s = time.time()
    try:
        cluster = JobCluster(machine_facts, nodes=[(address, port)], **parameters)
    except DispyError as error:
        return [bad(f"no cluster can be made: {error}", error.hint or "")]
    try:
        job = cluster.submit()
        if not job.wait(JOB_S):
            return [
                bad(f"a job does not end in {JOB_S:g} s: {cluster.why(job)}", "see the log of the node")
            ]
        took_s = time.time() - before_s
        if job.exception:
            last = job.exception.strip().splitlines()[-1]
            return [bad(f"a job fails there: {last}", "see the log of the node")]
        facts = job.result
    finally:
        cluster.close(timeout=JOB_S, terminate=True)
    found = [ok(f"a job ran there in {took_s:.2f} s")]
    if took_s > 5:
        found.append(note(f"that took {took_s:.0f} s", "see its load with 'uptime'"))
    now = here | {"time": (before_s + took_s / 2)}
    return [*found, *check_machine(facts, now, took_s)]
