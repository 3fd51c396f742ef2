"""Beacons: on which interfaces they are sent, and who answers."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import NamedTuple

from dispy import config
from dispy.cli.doctor.findings import Finding, bad, note, ok
from dispy.net.beacons.interfaces import interfaces
from dispy.net.beacons.seekers import Seekers
from dispy.protocol.beacon import Beacon
from dispy.security.reach import may_announce
from dispy.security.secrets import Secret

LISTEN_S = 1.5
"""Seconds for which answers are awaited: beacons are sent three times in the first of them."""


class Heard(NamedTuple):
    """Nodes that have answered, and what is to be said of it."""

    nodes: list[tuple[str, int]]
    findings: list[Finding]


def listen(secret: Secret, *, uses_multicast: bool) -> Heard:
    """Seek nodes on the networks of this machine, and wait for answers."""
    if not may_announce(secret):
        why = "kept silent (DISPY_BEACONS=off)"
        if secret.is_own or secret.is_typed or secret.keys.identity is not None:
            why = "this user's own" if secret.is_own else "typed" if secret.is_typed else "a derived key"
        return Heard(
            [],
            [
                note(
                    f"nodes of other machines are not sought, as the secret is {why}",
                    "name them: 'dispy doctor HOST'; or use a secret of 'dispy secret new' on all machines",
                )
            ],
        )
    here = interfaces(uses_multicast=uses_multicast)
    if not here:
        return Heard(
            [],
            [
                bad(
                    "there is no network with broadcast beyond loopback: no node of another machine is found",
                    "see 'ip address'; name nodes: 'dispy doctor HOST'",
                )
            ],
        )
    heard = asyncio.run(_listen(secret.keys.masters(), uses_multicast))
    way = "multicast" if uses_multicast else "broadcast"
    found = [ok(f"beacons are sent at {each.address} ({each.name}) to {each.group}") for each in here]
    nodes = sorted({(beacon.address, beacon.port) for beacon in heard})
    if nodes:
        found.append(ok(f"nodes that answer: {', '.join(f'{host}:{port}' for host, port in nodes)}"))
    else:
        found.append(
            note(
                f"no node answers by {way}",
                f"start 'dispynode --host 0.0.0.0 --secret_file FILE' there; open UDP {config.node_port()} there and "
                f"UDP {config.client_port()} here; clocks must agree to an hour; or name it: 'dispy doctor HOST'",
            )
        )
    return Heard(nodes, found)


async def _listen(keys: list[bytes], uses_multicast: bool) -> list[Beacon]:
    heard: list[Beacon] = []
    seekers = Seekers(
        secrets.token_bytes(16), (config.client_port(), config.node_port()),
        lambda _key, found, _zone: heard.append(found), time, uses_multicast=uses_multicast,
    )  # fmt: skip
    seekers.seek(keys)
    await asyncio.sleep(LISTEN_S)
    seekers.close()
    return heard
