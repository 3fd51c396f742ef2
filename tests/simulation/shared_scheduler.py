"""A shared scheduler: the shipped hub of ``dispyscheduler``, in a process that is played."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from dispy.client.backend.scheduler_link import Address
from dispy.core import scheduling as core
from dispy.core.scheduling.ids import ClientId
from dispy.net.connection import Connection
from dispy.net.stream_sinks import PoolSink
from dispy.protocol import shared
from dispy.scheduler.daemon.hub import Hub
from dispy.scheduler.daemon.node_search import NodeAccess
from dispy.security.tls import Tls
from dispy.settings import UserSettings

from . import checks
from .computer import PORT, SECRET, Computer, Listener
from .jobs import Account, Tenants
from .loop import Loop
from .show import show_event
from .world import Party, World

if TYPE_CHECKING:
    from .network import Network

HOST = "10.0.2.1"


class SharedScheduler:
    """A machine with a shared scheduler, which is started anew after it was killed.

    Args:
        world: Where it is.
        network: What it is connected to.
        ledger: Where its accounts go, by identity.
        computers: The nodes that it was started with.
        lease_s: For so long it keeps what belongs to programs that are away.
        policy: Whose jobs are next.
        users: Weights and limits.

    Attributes:
        hub: The scheduler; None: none runs.
        identity: How nodes know the one that runs, or ran last.
        accounts_by_identity: Accounts of programs, by how they name themselves.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        ledger: dict[bytes, Account],
        computers: list[Computer],
        lease_s: float,
        policy: str,
        users: dict[str, UserSettings],
    ) -> None:
        self.world = world
        self.name = "scheduler"
        self.host = HOST
        self.machine = network.machine(HOST)
        self.address = Address(HOST, PORT, SECRET.keys)
        self.party: Party | None = None
        self.hub: Hub | None = None
        self.identity = b""
        self.lease_s = lease_s
        self.accounts_by_identity: dict[bytes, Account] = {}
        self._tenants: Tenants
        self._network = network
        self._ledger = ledger
        self._computers = computers
        self._how = policy, users
        self._starts = 0

    @property
    def is_strict(self) -> bool:
        """Whether an exclusive cluster waits until those before it are closed."""
        return self._how[0] == "exclusive"

    # As of owners of schedulers.

    def account_of(self, client: ClientId) -> Account:
        """The account of a program, by its number here."""
        assert self.hub is not None
        return self.accounts_by_identity[self.hub.programs[client].identity]

    def of(self, computation: int) -> tuple[Account, int]:
        """The account that a computation is in, as nodes number it, and its number there."""
        return self._tenants.of(computation)

    def accounts(self) -> list[Account]:
        """Those of all programs."""
        return list(self.accounts_by_identity.values())

    def show(self, event: core.Event, actions: list[core.Action]) -> None:
        """Tell who reads the trace."""
        self.world.note(self.name, show_event(event, actions))

    def client_of(self, identity: bytes) -> ClientId | None:
        """The number of a program; None if there is no scheduler, or it does not know the program."""
        programs = self.hub.programs.values() if self.hub is not None else ()
        return next((each.client for each in programs if each.identity == identity), None)

    # Its life.

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.hub is not None:
            return
        self._starts += 1
        self.machine.is_up = True
        world = self.world
        self.party = world.party(f"{self.name}.{self._starts}")
        self.identity = world.random.randbytes(16)
        self._tenants = Tenants(world, self.party.name)
        self._ledger[self.identity] = self._tenants
        world.note(self.party.name, f"starts as {self.identity[:3].hex()}")
        nodes = [(computer.host, PORT) for computer in self._computers]
        access = NodeAccess(SECRET, Tls(wanted=False), nodes, PORT, False)
        policy, users = self._how
        loop = Loop(world, self.party, self._network, self.host)
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(loop)
        try:
            hub = self.hub = Hub(
                self.identity,
                self.name,
                access,
                lease_s=self.lease_s,
                policy=policy,
                users=users,
                clock=world,
            )
            self._note_computations(hub)
            checks.watch_scheduler(self, hub.service.machine)
            Listener(self._new_connection, self).listen(self.host, PORT)  # type: ignore[arg-type]
            hub.begin()
        finally:
            asyncio._set_running_loop(before)

    def _note_computations(self, hub: Hub) -> None:
        """Note whose each computation is before it is seen."""
        decide = hub.service.machine.handle
        by_wire = self._tenants.by_wire

        def handle(event: core.Event, now: float) -> list[core.Action]:
            if type(event) is core.AddComputation:
                wire = event.compute.computation
                if wire in by_wire:
                    self.world.fail(f"two computations have the number {wire} on nodes")
                by_wire[wire] = self.account_of(event.client), event.computation
            return decide(event, now)

        hub.service.machine.handle = handle  # type: ignore[method-assign]

    def _new_connection(self, on_settled: Callable[[Connection], None]) -> Connection:
        assert self.hub is not None
        return Connection(
            self.hub,
            shared.to_scheduler_decoder,
            SECRET.keys,
            "scheduler",
            "client",
            is_dialer=False,
            on_settled=on_settled,
            make_sink=PoolSink,
            clock=self.world,
            farewell=lambda error: shared.Leaving(str(error)),
        )

    def kill(self, how: str) -> None:
        """SIGKILL, or no power; nodes and programs are told, or not."""
        if self.party is None or self.hub is None:
            return
        self.party.kill()
        self.machine.listener = None
        self._network.drop(self.party, how)
        if how == "silent":
            self.machine.is_up = False
        self.hub = self.party = None
        for account in self.accounts():
            account.has_losses = account.has_lost_scheduler = True

    def leave(self) -> None:
        """SIGTERM: it ends in good order."""
        hub, party = self.hub, self.party
        if hub is not None and party is not None:
            self.world.soon(party, hub.close, "the scheduler ends")
            self.world.after(0.05, self.world.nature, self.kill, "end")

    # What it keeps.

    def holds(self) -> str:
        """What it keeps of programs that have left."""
        hub = self.hub
        if hub is None:
            return ""
        state = hub.service.state
        held = [
            ("programs", len(hub.programs)),
            ("computations", len(state.computations)),
            ("programs in the core", len(state.lines.programs)),
            ("placements", sum(len(known.placements) for known in state.nodes.values())),
            ("jobs in the accounts of nodes", sum(known.assigned for known in state.nodes.values())),
            (
                "payloads on their way",
                sum(len(link.large_arguments.under_way()) for link in hub.service.links.by_node.values()),
            ),
        ]
        return ", ".join(f"{count} {what}" for what, count in held if count)
