"""Nodes for a shared scheduler: those listed on its machine, those of its networks that answer beacons, those that it
was told of, and those that programs name.

All of them are dialed with the scheduler's own secret for nodes. An address that a program names is dialed as long as
one of its clusters is open; a node that is there once is offered to all clusters of all programs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import cached_property

from msgspec import Struct

from dispy import config
from dispy.core.scheduling.ids import ClientId
from dispy.net.beacons.seekers import Seekers
from dispy.net.dialing import Target
from dispy.net.discovery import Listing, Lookout
from dispy.protocol.beacon import Beacon
from dispy.protocol.shared import Wish
from dispy.scheduler.daemon.programs import Program
from dispy.scheduler.service import SchedulerService
from dispy.security import reach
from dispy.security.secrets import Secret
from dispy.security.tls import DialerTls, Tls, dialer_tls
from dispy.system.addresses import is_loopback

logger = logging.getLogger("dispy.scheduler")

DISCOVER_S = 0.2
"""Interval (seconds) of reading this machine's list of nodes, and of dialing."""

RETRY_S = 2.0
"""Least seconds between two dials of the same address."""

DIALS_MAX = 64
"""Addresses that are dialed at once because one program names them: each takes a descriptor, and those are few."""

TRIED_MAX = 10_000
"""Addresses whose last dial is remembered before those are forgotten that may be dialed again."""


class NodeAccess(Struct, dict=True):
    """How nodes are dialed.

    Attributes:
        secret: Secret shared with the nodes.
        tls: Certificates and key, and which links are to be encrypted.
        nodes: Addresses and ports that the scheduler was started with.
        node_port: Port of nodes that are named without one.
        lists_nodes: True if the nodes of this machine and of its networks are used.
        client_port: UDP port at which nodes of other machines say that they are there.
        uses_multicast: True: those are sought by IPv4 multicast; False: by broadcast.
    """

    secret: Secret
    tls: Tls
    nodes: list[tuple[str, int]]
    node_port: int
    lists_nodes: bool
    client_port: int = config.DispyPort
    uses_multicast: bool = False

    @cached_property
    def dialer(self) -> DialerTls:
        """TLS of links to nodes, made for the first of them."""
        return dialer_tls(self.tls)

    def target(self, host: str, port: int, name: str, listing: Listing | None = None) -> Target:
        """Returns how to dial a node: as it is listed, or at an address."""
        socket = "" if listing is None else listing.socket_here()
        if self.tls.is_used if listing is None else listing.tls:
            return Target(host, port, self.secret.keys, name, lambda: self.dialer, socket)
        return Target(host, port, self.secret.keys, socket=socket)


class NodeSearch:
    """The search for nodes.

    Args:
        service: The scheduler, which dials.
        access: How nodes are dialed.
        programs: Programs by number; shared with the hub, which changes it.
        on_unreachable: Called with an address that must not be dialed, and the reason.
    """

    def __init__(
        self,
        service: SchedulerService,
        access: NodeAccess,
        programs: dict[ClientId, Program],
        on_unreachable: Callable[[Target, Exception], None],
    ) -> None:
        self._service = service
        self._access = access
        self._programs = programs
        self._on_unreachable = on_unreachable
        self._lookout = Lookout()
        self._listed: list[Listing] = []
        self._tried: dict[Target, float] = {}
        """Time of the last dial (monotonic seconds), by address."""
        self._task: asyncio.Task[None] | None = None
        self._seekers: Seekers | None = None
        """Search for nodes of other machines; None: none are wanted, or the secret must not be on the air."""

    def begin(self) -> None:
        """Look for nodes from now on."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        access = self._access
        if access.lists_nodes and reach.may_announce(access.secret):
            self._seekers = Seekers(
                self._service.links.identity, (access.client_port, access.node_port), self._on_found,
                self._service.clock, uses_multicast=access.uses_multicast,
            )  # fmt: skip
            self._seekers.seek(access.secret.keys.masters())

    def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
        if self._seekers is not None:
            self._seekers.close()

    def _on_found(self, _key: bytes, found: Beacon, zone: int) -> None:
        """Dial a node that has said where it is."""
        host = f"{found.address}%{zone}" if zone else found.address
        self._reach(self._access.target(host, found.port, host))

    async def _run(self) -> None:
        fingerprint = self._access.secret.fingerprint()
        while True:
            if self._access.lists_nodes:
                # The list may be on a file server that does not answer.
                self._listed = await asyncio.to_thread(self._lookout.with_secret, fingerprint)
            self._look_for_all()
            await asyncio.sleep(DISCOVER_S)

    def _look_for_all(self) -> None:
        for target in self._of_all():
            self._reach(target)
        for program in self._programs.values():
            self.look(program)
        if len(self._tried) > TRIED_MAX:
            since = self._service.clock.monotonic() - RETRY_S
            self._tried = {target: at for target, at in self._tried.items() if at > since}

    def look(self, program: Program, first: list[Wish] | None = None) -> None:
        """Dial the nodes that a program names by address and that are not linked.

        ``DIALS_MAX`` at once, and of those that fail each in its turn: the next is the one dialed longest ago. Of
        equal ones those of ``first`` come first.
        """
        links = self._service.links.by_target
        named = self._named(program)
        left = DIALS_MAX - sum([links[target].info is None for target in named if target in links])
        if left > 0:
            wanted = dict.fromkeys([*filter(named.__contains__, map(self._target, first or ())), *named])
            apart = [target for target in wanted if target is not None and target not in links]
            for target in sorted(apart, key=lambda each: self._tried.get(each, 0.0))[:left]:
                self._reach(target)

    def discover(self, program: Program, now: list[Wish]) -> None:
        """Dial what a program may use, also where that failed less than ``RETRY_S`` ago; first those of ``now``."""
        self._seek_again()
        for target in [*self._named(program), *self._of_all()]:
            if target is not None and target not in self._service.links.by_target:
                self._tried.pop(target, None)
        self.look(program, now)

    def _named(self, program: Program) -> dict[Target | None, None]:
        """Returns how to dial the nodes that a program names by address."""
        wishes = [wish for cluster in program.clusters.values() for wish in cluster.wishes]
        return dict.fromkeys(target for wish in wishes if (target := self._target(wish)) is not None)

    def _of_all(self) -> list[Target]:
        """Returns how to dial the nodes that the scheduler was started with, and those of this machine."""
        access = self._access
        listed = [access.target(each.host, each.port, each.host, each) for each in self._listed]
        return listed + [access.target(host, port, host) for host, port in access.nodes]

    def _target(self, wish: Wish) -> Target | None:
        """Returns how to dial a node that a program names by address; None for a pattern, and for listed nodes."""
        if not wish.ip_addr:
            return None
        if is_loopback(wish.ip_addr) and not wish.port and self._listed:
            return None
        return self._access.target(wish.ip_addr, wish.port or self._access.node_port, wish.host)

    def _reach(self, target: Target) -> None:
        if target in self._service.links.by_target:
            return
        now = self._service.clock.monotonic()
        if now - self._tried.get(target, -RETRY_S) < RETRY_S:
            return
        self._tried[target] = now
        checks = target.tls is not None and self._access.tls.checks_listener
        if not target.socket:
            fault = reach.dial_fault(self._access.secret, target.host, checks_listener=checks)
            if fault is not None:
                self._on_unreachable(target, fault)
                return
        self._service.links.reach(target)

    def forget(self, target: Target) -> None:
        """Dial an address again at the next look, as its node is lost, and seek it on the network."""
        self._tried.pop(target, None)
        self._seek_again()

    def _seek_again(self) -> None:
        """Seek nodes on the network at once."""
        if self._seekers is not None:
            self._seekers.seek(self._access.secret.keys.masters())

    def interested(self, target: Target) -> list[tuple[Program, list[int]]]:
        """Returns the programs with clusters that name an address, and the numbers of these."""
        found = []
        for program in self._programs.values():
            numbers = [
                cluster.number
                for cluster in program.clusters.values()
                if any(self._target(wish) == target for wish in cluster.wishes)
            ]
            if numbers:
                found.append((program, numbers))
        return found
