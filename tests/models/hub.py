"""The hub of a shared scheduler with a node and programs, in one thread and without sockets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from dispy.core import scheduling as core
from dispy.core.scheduling.ids import ClientId, NodeId
from dispy.errors import RemoteProtocolError
from dispy.protocol import shared
from dispy.protocol.node import ComputationReady, Compute, Credit, Job
from dispy.protocol.views import NodeInfo
from dispy.scheduler.daemon import commands
from dispy.scheduler.daemon.hub import Hub
from dispy.scheduler.daemon.node_search import NodeAccess
from dispy.scheduler.daemon.programs import Program
from dispy.security import key_text, secrets
from dispy.security.tls import Tls

SECRET = secrets.choose(key_text.generate())
NODE = NodeId(b"n" * 16)
GONE = NodeId(b"g" * 16)


def new_hub() -> Hub:
    """A hub without nodes and programs."""
    return Hub(b"s" * 16, "s", NodeAccess(SECRET, Tls(), [], 9701, False))


def add_node(hub: Hub) -> None:
    """A node that is there, and takes everything."""
    info = NodeInfo(NODE, "n", "127.0.0.1", 9, 2, "")
    link = SimpleNamespace(info=info, link=SimpleNamespace(connection=None, traffic=lambda: (0, 0)))
    hub.service.links.by_node[NODE] = link  # type: ignore[assignment]
    hub.service.handle(core.NodeUp(NODE, "n", 2, False))


def add_program(hub: Hub, identity: bytes) -> Program:
    return hub._add(shared.Attach(identity, "p", "user", ""))


def load(hub: Hub) -> None:
    """The node has loaded what it was told to, and gives credit."""
    for wire in list(hub.service.state.nodes[NODE].placements):
        life = hub.service.state.nodes[NODE].placements[wire].compute.life
        hub.service.handle(core.FromNodeEvent(NODE, ComputationReady(wire, life)))
        hub.service.handle(core.FromNodeEvent(NODE, Credit(wire, 2, 4)))


class FakeConnection:
    """A connection that keeps what is sent."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.is_ready = True
        self.peer_address = "127.0.0.1"
        self.peer = None
        self.unsent = 0
        self.aborted: Exception | None = None

    def send(self, message: Any) -> None:
        self.said.append(message)

    def count_unsent(self) -> int:
        return self.unsent

    def set_pulse(self, pulse_s: float) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None:
        self.is_ready = False

    def abort(self, error: Exception) -> None:
        self.aborted = error

    def take_stream(self, number: int) -> Any:
        raise RemoteProtocolError(f"a message refers to stream {number}, which is not complete")


class Stage:
    """A hub with a node, a victim that has jobs there, and a hostile program."""

    def __init__(self) -> None:
        self.hub = new_hub()
        add_node(self.hub)
        self.hostile, self.victim = FakeConnection(), FakeConnection()
        self.batch = 0
        self.say(shared.Attach(b"v" * 16, "victim", "alice", ""), self.victim)
        open_cluster(self.hub, self.program(b"v" * 16))
        self.say(shared.Attach(b"h" * 16, "hostile", "mallory", ""))

    def program(self, identity: bytes) -> Program:
        return self.hub._by_identity[identity]

    def say(self, message: Any, connection: FakeConnection | None = None) -> None:
        """One of them says something; the next number is set."""
        if hasattr(message, "batch") and not message.batch:
            self.batch += 1
            message.batch = self.batch
        self.hub.on_message(connection or self.hostile, message)  # type: ignore[arg-type]

    def check(self, *, is_out: bool) -> None:
        """The victim is unharmed; the hostile one is thrown out, and told, or not."""
        assert self.program(b"v" * 16).clusters[1].open.keys() == {1, 2, 3}
        assert self.hub.service.state.computations[ClientId(1), 1].open == 3
        assert (b"h" * 16 not in self.hub._by_identity) is is_out
        if is_out:
            assert type(self.hostile.said[-1]) is shared.Leaving
            assert ClientId(2) not in self.hub.service.state.lines.programs
            assert all(client == 1 for client, _ in self.hub.service.state.computations)


def open_cluster(hub: Hub, program: Program) -> None:
    """Open cluster 1 with three jobs, of which the node has two at once."""
    commands.perform(hub, program, shared.OpenCluster(0, 1, Compute(1, "f", b"code"), False, []))
    commands.perform(hub, program, shared.Allocate(0, 1, NODE, 2))
    load(hub)
    commands.perform(hub, program, shared.Submit(0, 1, [Job(n, 0, b"a") for n in (1, 2, 3)]))
