"""Programs and recoveries dial no address where whoever answers could guess their secret."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest

from dispy.client.backend.backend import Access, ClusterSpec, Wishes
from dispy.client.backend.local_nodes import Listed
from dispy.client.backend.node_discovery import Discovery
from dispy.client.backend.open_clusters import OpenCluster
from dispy.client.recovery.dead_program import PastSession
from dispy.client.recovery.node_queries import SILENT_S, Asking
from dispy.core.recovery import PlaceStatus
from dispy.journal.rows import NodeRow, Options
from dispy.net.dialing import Target
from dispy.protocol.node import Compute
from dispy.security import key_text, secrets
from dispy.security.secrets import Secret
from dispy.security.tls import Tls, dialer_tls

TYPED = secrets.choose("correct horse battery staple orbit")
RANDOM = secrets.choose(key_text.generate())
ELSEWHERE = "192.0.2.1"


class Service:
    """A scheduler as ``node_discovery`` sees it, that notes what is dialed."""

    def __init__(self) -> None:
        self.dialed: list[str] = []
        self.refused: list[str] = []
        self.by_target: dict[Target, Any] = {}
        self.links = self
        self.identity = b"p" * 16

    def reach(self, target: Target) -> None:
        self.dialed.append(target.host)

    def on_unreachable(self, target: Target, error: Exception) -> None:
        """Note what is refused, which the search for nodes tells."""
        self.refused.append(f"{target.host}: {error}")

    def reach_now(self, access: Access, target: Target) -> None:
        """Have an address dialed for a cluster."""
        service: Any = self
        discovery = Discovery(
            service,
            {},
            lambda *_: None,
            lambda *_: None,
            self.on_unreachable,
            Listed(lambda *_: None),
            time,
        )
        discovery.reach_now(OpenCluster(spec(access)), target)


def spec(access: Access) -> ClusterSpec:
    """A cluster with a secret and certificates."""
    wishes = Wishes([], wants_private=False)
    return ClusterSpec("f", Compute(1, "f", b""), False, 1.0, access, wishes, None, lambda _: None)


@pytest.mark.parametrize(
    ("secret", "host", "tls", "is_dialed"),
    [
        (TYPED, ELSEWHERE, None, False),
        (TYPED, ELSEWHERE, Tls(), False),
        (TYPED, ELSEWHERE, Tls("certificate.pem"), True),
        (TYPED, "127.0.0.1", None, True),
        (RANDOM, ELSEWHERE, Tls(), True),
    ],
)
def test_each_dial_of_a_cluster_is_looked_at(
    secret: Secret, host: str, tls: Tls | None, is_dialed: bool
) -> None:
    """Also of nodes that no ``nodes`` names: those that the list of this machine has under another address."""
    service = Service()
    make = None if tls is None else partial(dialer_tls, tls)
    service.reach_now(Access(secret, tls or Tls()), Target(host, 9701, secret.keys, tls=make))
    assert service.dialed == [host] * is_dialed
    assert len(service.refused) == (not is_dialed)
    assert all(f"{host} is beyond loopback, and the secret was typed" in text for text in service.refused)


def test_a_socket_is_dialed_whatever_the_secret() -> None:
    """Nobody but this user can have made it."""
    service = Service()
    service.reach_now(Access(TYPED, Tls()), Target(ELSEWHERE, 9701, TYPED.keys, socket="/path"))
    assert service.dialed == [ELSEWHERE]
    assert service.refused == []


class Recovery:
    """A recovery with one node, that notes why the node was given up."""

    def __init__(self, incarnation: bytes) -> None:
        self.places = {incarnation: None}
        self.reasons: list[str] = []

    def sought(self) -> Iterable[bytes]:
        return [] if self.reasons else list(self.places)

    def give_up(self, incarnation: bytes, status: PlaceStatus, reason: str) -> None:
        assert status is PlaceStatus.SILENT
        self.reasons.append(reason)

    def has_answer(self, peer: str) -> bool:
        return False


def asked(secret: Secret, host: str, port: int) -> tuple[Asking, Recovery]:
    """The questions of a recovery to one node, which the dead program had reached by the secret over TLS alone."""
    session = PastSession(1, bytes(16), "study.py (1)", "")
    row = NodeRow(bytes(16), host, port, host, "far away", tls=True, fingerprint=secret.fingerprint())
    recovery: Any = Recovery(row.incarnation)
    session.nodes, session.recovery = [row], recovery
    session.keys = {row.fingerprint: (secret, Options(fingerprint=row.fingerprint))}
    return Asking([session], lambda _: []), recovery


def test_a_recovery_gives_a_node_up_where_the_secret_could_be_guessed() -> None:
    """Without a loop: a dial would fail at once."""
    asking, recovery = asked(TYPED, ELSEWHERE, 9701)
    for elapsed_s in (0.0, SILENT_S + 1):
        asking.look(elapsed_s)
    (reason,) = recovery.reasons
    assert reason.startswith(
        f"node far away ({ELSEWHERE}:9701) does not answer: {ELSEWHERE} is beyond loopback"
    )
    assert "'dispy cert new " in reason


def test_a_recovery_dials_nodes_of_this_machine_with_any_secret() -> None:
    async def look(port: int) -> None:
        asking, _ = asked(TYPED, "127.0.0.1", port)
        asking.look(0.0)
        async with asyncio.timeout(8):
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
        accepted.close()
        asking.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        asyncio.run(look(listener.getsockname()[1]))
