"""A link over real sockets: which side dials, breaks and pauses; and streams under way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dispy.errors import RemoteProtocolError
from dispy.net.connection import Connection
from dispy.net.dialing import Target
from dispy.net.links.link import Link, Patience, Roles
from dispy.net.links.streams_under_way import ENTRIES_MIN, StreamsUnderWay
from dispy.protocol import node
from dispy.security.keys import alone

KEY = alone(bytes(range(32)))
CLIENT = Roles("client", "node", node.from_node_decoder)


class Owner:
    """The owner of a link: knows its peer from the first message on."""

    def __init__(self, *, patience: Patience = Patience(), target: Target | None = None) -> None:  # noqa: B008
        self.link = Link(self, CLIENT, time, target, patience=patience)
        self.told: list[str] = []
        self.error: Exception | None = None

    def on_up(self, connection: Connection) -> None:
        self.told.append("up")

    def on_message(self, connection: Connection, message: Any) -> None:
        self.link.is_known = True
        self.told.append(type(message).__name__)

    def on_broken(self) -> None:
        self.told.append("broken")

    def on_failed(self, error: Exception) -> None:
        self.error = error
        self.told.append("failed")

    def on_slow(self) -> None:
        self.told.append("slow")


class Node:
    """A node, which says one thing on each connection."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []

    def on_ready(self, connection: Connection) -> None:
        self.connections.append(connection)
        connection.send(node.ComputationReady(1))

    def on_message(self, connection: Connection, message: Any) -> None:
        pass

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        pass


class Door:
    """The owner of dialed-in connections until it is known whose they are: then the link has them."""

    def __init__(self, link: Link) -> None:
        self.link = link

    def on_ready(self, connection: Connection) -> None:
        self.link.accept(connection)

    def on_message(self, connection: Connection, message: Any) -> None:
        raise AssertionError

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        raise AssertionError


async def listen(owner: Any, role: str, peer_role: str, decoder: Any, port: int = 0) -> asyncio.Server:
    """A server of one role on loopback, whose connections belong to ``owner``."""
    return await asyncio.get_running_loop().create_server(
        lambda: Connection(owner, decoder, KEY, role, peer_role, is_dialer=False), "127.0.0.1", port
    )


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(10.0):
        while not is_so():
            await asyncio.sleep(0.005)


def gone() -> ConnectionError:
    return ConnectionError("the test ends it")


def test_a_dialed_peer_is_dialed_again_and_lost_when_nothing_listens() -> None:
    async def story() -> None:
        peer = Node()
        server = await listen(peer, "node", "client", node.to_node_decoder)
        owner = Owner(target=Target("127.0.0.1", port_of(server), KEY))
        owner.link.dial()
        await until(lambda: len(owner.told) == 2)
        first = owner.link.traffic()
        peer.connections[0].abort(gone())
        await until(lambda: len(owner.told) == 5)
        assert owner.link.traffic() > first, "traffic of earlier connections counts"
        server.close()
        peer.connections[1].abort(gone())
        await until(lambda: owner.told[-1] == "failed")
        assert owner.told == [
            "up",
            "ComputationReady",
            "broken",
            "up",
            "ComputationReady",
            "broken",
            "failed",
        ]
        assert isinstance(owner.error, ConnectionRefusedError)
        assert owner.link.is_closed

    asyncio.run(story())


def test_a_peer_that_never_said_who_it_is_is_given_up_at_the_first_break() -> None:
    async def story() -> None:
        peer = Node()
        server = await listen(peer, "node", "client", node.to_node_decoder)
        owner = Owner(target=Target("127.0.0.1", port_of(server), KEY))
        owner.link.dial()
        await until(lambda: "ComputationReady" in owner.told)
        owner.link.is_known = False
        peer.connections[0].abort(gone())
        await until(lambda: owner.told[-1] == "failed")
        assert isinstance(owner.error, RemoteProtocolError)
        assert "check that it is a node's address and port" in str(owner.error)
        server.close()

    asyncio.run(story())


def test_a_patient_link_dials_with_growing_pauses_until_its_peer_is_back() -> None:
    async def story() -> None:
        peer = Node()
        server = await listen(peer, "node", "client", node.to_node_decoder)
        port = port_of(server)
        owner = Owner(target=Target("127.0.0.1", port, KEY), patience=Patience(None, 0.4))
        owner.link.dial()
        await until(lambda: len(owner.told) == 2)
        server.close()
        peer.connections[0].abort(gone())
        pauses = set()
        async with asyncio.timeout(10.0):
            while 0.4 not in pauses:
                pauses.add(owner.link._pause_s)
                await asyncio.sleep(0.005)
        assert sorted(pauses - {0.0}) == [0.1, 0.2, 0.4]
        server = await listen(peer, "node", "client", node.to_node_decoder, port)
        await until(lambda: len(owner.told) == 5)
        assert owner.told == ["up", "ComputationReady", "broken", "up", "ComputationReady"]
        assert owner.link._pause_s == 0.0
        owner.link.close()
        server.close()

    asyncio.run(story())


def test_a_peer_may_dial_whatever_its_role() -> None:
    """Its next connection replaces one that is broken for it alone; without one it is lost after a while."""

    async def story() -> None:
        owner = Owner(patience=Patience(1))
        server = await listen(Door(owner.link), "client", "node", node.from_node_decoder)
        peer = Node()

        async def dial() -> None:
            await asyncio.get_running_loop().create_connection(
                lambda: Connection(peer, node.to_node_decoder, KEY, "node", "client", is_dialer=True),
                "127.0.0.1",
                port_of(server),
            )

        await dial()
        await until(lambda: len(owner.told) == 2)
        before = owner.link.connection
        await dial()
        await until(lambda: len(owner.told) == 4)
        assert before is not None
        assert not before.is_ready
        assert owner.told == ["up", "ComputationReady"] * 2, "that was no break"
        owner.link.set_pulse(0.1)
        peer.connections[1].abort(gone())
        await until(lambda: owner.told[-1] == "failed")
        assert owner.told[-2:] == ["broken", "failed"]
        assert "does not answer any more" in str(owner.error)
        server.close()

    asyncio.run(story())


# Streams under way.


class Group:
    """A group of streams, and how often somebody asked whether it is over."""

    asked = 0

    def __init__(self) -> None:
        self.is_gone = False

    def is_over(self) -> bool:
        Group.asked += 1
        return self.is_gone


def wires(groups: list[Group]) -> Any:
    """A connection whose groups are appended to a list."""

    def send(*_: Any) -> Group:
        groups.append(Group())
        return groups[-1]

    return SimpleNamespace(send_streamed=send, give_up=lambda group: not group.is_gone)


@pytest.mark.parametrize("count", [1_000, 8_000])
def test_each_of_many_messages_that_wait_is_looked_at_twice_at_most(count: int) -> None:
    Group.asked = 0
    groups: list[Group] = []
    under_way: StreamsUnderWay[int, str] = StreamsUnderWay()
    connection = wires(groups)
    for number in range(count):
        under_way.send(connection, number, [], f"message {number}")
    assert Group.asked <= 2 * count
    assert len(under_way.under_way()) == count


def test_messages_that_have_left_are_forgotten() -> None:
    groups: list[Group] = []
    under_way: StreamsUnderWay[int, str] = StreamsUnderWay()
    connection = wires(groups)
    for number in range(10 * ENTRIES_MIN):
        under_way.send(connection, number, [], f"message {number}")
        groups[-1].is_gone = number > 0
    assert len(under_way._by_key) <= ENTRIES_MIN
    assert under_way.under_way() == [0]
    assert under_way.give_up(0) == "message 0"
    assert under_way.give_up(0) is None
    assert under_way.give_up(10 * ENTRIES_MIN - 1) is None, "it has left"


def test_all_that_are_meant_are_given_up() -> None:
    under_way: StreamsUnderWay[int, str] = StreamsUnderWay()
    connection = wires([])
    for number in range(4):
        under_way.send(connection, number, [], f"message {number}")
    assert under_way.give_up_all(lambda number: number % 2 == 0) == ["message 0", "message 2"]
    assert under_way.give_up_all() == ["message 1", "message 3"]
    assert not under_way
