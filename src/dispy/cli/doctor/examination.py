"""The examination: this machine, its networks, then the way to each node."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from typing import Any

import click

from dispy import config
from dispy.cli.doctor import air
from dispy.cli.doctor.facts import machine_facts
from dispy.cli.doctor.findings import Finding, Verdict, bad, note, ok, shown
from dispy.cli.doctor.hops import check_node
from dispy.cli.doctor.machine_checks import check_machine
from dispy.client.backend.backend import Access
from dispy.net.discovery import Lookout
from dispy.net.port_holders import holder
from dispy.security import secrets
from dispy.security.secrets import Secret
from dispy.security.tls import Tls, check
from dispy.system.addresses import is_loopback, own, resolve


def examine(
    hosts: tuple[str, ...], secret: str, secret_file: str | None, tls: Tls, *, uses_multicast: bool
) -> bool:
    """Examine all, and print what is found; True if nothing is bad.

    Args:
        hosts: Nodes besides those that answer beacons: HOST or HOST:PORT.
        secret: Secret shared with nodes; empty: that of the file, of DISPY_SECRET, or this user's own.
        secret_file: Path of the file with the secret; None: no file.
        tls: Certificates, and which links are to be encrypted.
        uses_multicast: True: nodes are sought by multicast; False: by broadcast.

    Raises:
        UsageError: The secret or a certificate cannot be used.
    """
    chosen = secrets.choose(secret, secret_file)
    access = Access(chosen, check(tls))
    files = {
        "secret_file": secret_file,
        "certfile": tls.certfile,
        "keyfile": tls.keyfile,
        "cafile": tls.cafile,
    }
    parameters: dict[str, Any] = {"secret": secret, "tls": tls.wanted}
    parameters |= {name: path for name, path in files.items() if path}
    config.LocalNode = False
    here = machine_facts()
    is_well = _show(f"this machine ({here['host']})", [*_about_here(chosen), *check_machine(here)])
    heard = air.listen(chosen, uses_multicast=uses_multicast)
    is_well &= _show("its networks", heard.findings)
    nodes = [_parse(text) for text in hosts]
    if not nodes:
        nodes = [(each.host, each.port) for each in Lookout().with_secret(chosen.fingerprint())]
    for host, port in dict.fromkeys(nodes + heard.nodes):
        is_well &= _show(f"{host} port {port}", check_node(host, port, access, parameters, here))
    return is_well


def _show(title: str, findings: list[Finding]) -> bool:
    """Print findings below a title; True if none is bad."""
    with suppress(OSError):
        click.echo(f"{title}\n{shown(findings)}")
    return all(found.verdict is not Verdict.BAD for found in findings)


def _parse(text: str) -> tuple[str, int]:
    """Returns host and port of HOST or HOST:PORT; IPv6 addresses with a port in brackets."""
    host, colon, number = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")) or not number.isdigit():
        host, number = text, str(config.node_port())
    return host.strip("[]"), int(number)


def _about_here(secret: Secret) -> list[Finding]:
    """Returns what is to be said of the secret, the names and the port of this machine."""
    kind = "this user's own" if secret.is_own else "typed" if secret.is_typed else "a random one"
    found = [ok(f"the secret is {kind}, with fingerprint {secret.fingerprint()}")]
    if secret.weakness:
        found.append(note(f"it can be guessed: {secret.weakness}", "use one of 'dispy secret new'"))
    name = socket.gethostname()
    others = [address for address in own() if not is_loopback(address)]
    with suppress(Exception):
        address = resolve(name)
        if is_loopback(address) and others:
            found.append(
                note(
                    f"the name of this machine, {name}, is {address} here, which others cannot dial",
                    f"give dispynode an address: --host {others[0]}, or --host 0.0.0.0 for all",
                )
            )
    found.append(ok(f"addresses: {', '.join(others)}") if others else note("no address beyond loopback"))
    return [*found, _port(config.node_port())]


def _port(port: int) -> Finding:
    """Returns what is to be said of the port of nodes on this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind(("0.0.0.0", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return note(f"port {port} cannot be used here: {error.strerror}")
            who = holder("0.0.0.0", port)
            if who.startswith("your dispynode"):
                return ok(f"port {port} is that of {who}")
            return bad(
                f"port {port}, where nodes are expected, is in use here by {who}",
                "end that, or start dispynode with --dispy_port N, and give programs dispy_port=N",
            )
    return ok(f"port {port} is free for a dispynode here")
