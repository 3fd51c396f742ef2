"""Streams of one connection: who goes first, what passes them, how they are given up."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from dispy.errors import InternalError
from dispy.net.connection import Connection
from dispy.net.stream_sinks import PoolSink
from dispy.protocol import limits, node
from dispy.protocol.streams import MemorySink, MemorySource
from dispy.security.keys import alone
from dispy.security.tls import Tls, dialer_tls, listener_tls

KEY = alone(bytes(32))


class Side:
    """One end: what it was told."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.closed = asyncio.Event()
        self.changed = asyncio.Event()
        self.messages: list[Any] = []
        self.error: Exception | None = None

    def on_ready(self, connection: Connection) -> None:
        self.ready.set()

    def on_message(self, connection: Connection, message: Any) -> None:
        self.messages.append(message)
        self.changed.set()

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        self.error = error
        self.closed.set()

    async def wait_messages(self, count: int) -> list[Any]:
        async with asyncio.timeout(10):
            while len(self.messages) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.messages


class Counted(MemorySource):
    """Tells how much was read of it, and that it is closed."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.taken = 0
        self.is_closed = False

    def read(self, start: int, size: int) -> memoryview:
        assert start == self.taken, "not in order"
        self.taken += size
        return super().read(start, size)

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


Test = Callable[[Connection, Side, Connection, Side], Coroutine[Any, Any, None]]


def connected(test: Test, tls: bool = False, make_sink: Callable[[int], Any] = PoolSink) -> None:
    """Run a test with both ends of a connection: the client's, and the node's."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = Side(), Side()
        made: list[Connection] = []

        def listening() -> Connection:
            made.append(
                Connection(
                    theirs, node.to_node_decoder, KEY, "node", "client", is_dialer=False,
                    tls=listener_tls(Tls(wanted=True)) if tls else None, make_sink=make_sink,
                    farewell=lambda error: node.Leaving(str(error)),
                )
            )  # fmt: skip
            return made[0]

        server = await loop.create_server(listening, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport, connection = await loop.create_connection(
            lambda: Connection(
                ours, node.from_node_decoder, KEY, "client", "node", is_dialer=True,
                tls=dialer_tls(Tls(wanted=True)) if tls else None, peer_name="127.0.0.1",
            ),
            "127.0.0.1", port,
        )  # fmt: skip
        try:
            await asyncio.wait_for(asyncio.gather(ours.ready.wait(), theirs.ready.wait()), 5)
            await test(connection, ours, made[0], theirs)
        finally:
            transport.abort()
            server.close()
            await asyncio.wait_for(asyncio.gather(ours.closed.wait(), theirs.closed.wait()), 5)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def job(number: int) -> node.Job:
    return node.Job(number, 0, b"", node.Streamed(0))


def send(connection: Connection, number: int, source: MemorySource) -> Any:
    bare = job(number)
    return connection.send_streamed([(bare.where, "stream", source)], node.RunJobs(1, [bare]))


def content(connection: Connection, message: node.RunJobs) -> bytes:
    where = message.jobs[0].where
    assert type(where) is node.Streamed
    return bytes(connection.take_stream(where.stream).data)


def pattern(size: int, seed: int) -> bytes:
    return (bytes(range(seed, 251)) * (size // (251 - seed) + 1))[:size]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("make_sink", [PoolSink, MemorySink])
def test_what_arrives_is_what_was_sent(tls: bool, make_sink: Callable[[int], Any]) -> None:
    sizes = [65_536, 3 * limits.MIB + 17, 100_000, 20 * limits.MIB, 0]
    data = [pattern(size, seed) for seed, size in enumerate(sizes)]

    async def test(client: Connection, ours: Side, served: Connection, theirs: Side) -> None:
        for number, item in enumerate(data):
            send(client, number, MemorySource(item))
            client.send(node.CloseComputation(number))
        messages = await theirs.wait_messages(2 * len(data))
        runs = [message for message in messages if isinstance(message, node.RunJobs)]
        assert {message.jobs[0].number: content(served, message) for message in runs} == dict(
            enumerate(data)
        )

    connected(test, tls, make_sink)


def test_messages_and_small_streams_pass_large_ones_which_go_on() -> None:
    sizes = [48, 20, 1]
    sources = [Counted(bytes(size * limits.MIB)) for size in sizes]
    seen: list[int] = []

    class Small(Counted):
        def close(self) -> None:
            super().close()
            seen.append(sources[0].taken // limits.MIB)

    sources[1:] = [Small(bytes(size * limits.MIB)) for size in sizes[1:]]

    async def test(client: Connection, ours: Side, served: Connection, theirs: Side) -> None:
        for number, source in enumerate(sources):
            send(client, number, source)
        client.send(node.CloseComputation(7))
        messages = await theirs.wait_messages(4)
        assert isinstance(messages[0], node.CloseComputation)
        assert [message.jobs[0].number for message in messages[1:]] == [2, 1, 0]
        # Of the largest as much has gone by then as of the others.
        assert 0 <= seen[0] <= 2
        assert 17 <= seen[1] <= 25

    connected(test)


def test_what_is_given_up_does_not_arrive_and_costs_no_more() -> None:
    sources = [Counted(bytes(100 * limits.MIB)), Counted(b"x" * 100_000)]
    discarded: list[int] = []

    class Sink(PoolSink):
        def discard(self) -> None:
            discarded.append(1)

    async def test(client: Connection, ours: Side, served: Connection, theirs: Side) -> None:
        group = send(client, 1, sources[0])
        client.flush()
        await asyncio.sleep(0)
        assert client.give_up(group)
        other = send(client, 2, sources[1])
        (message,) = await theirs.wait_messages(1)
        assert content(served, message) == b"x" * 100_000
        assert sources[0].is_closed
        assert sources[0].taken < limits.STREAM_WINDOW
        assert discarded == [1] if sources[0].taken else not discarded
        assert not client.give_up(other), "it was sent"

    connected(test, make_sink=Sink)


def test_what_is_given_up_of_several_is_given_up_of_all() -> None:
    sources = [Counted(bytes(100 * limits.MIB)), Counted(b"x" * 100_000)]

    async def test(client: Connection, ours: Side, served: Connection, theirs: Side) -> None:
        result = node.Ended(1, 0, node.FINISHED, 1.0, 1.0, b"")
        parts: list[Any] = [(result, "stream", sources[0]), (result, "output_stream", sources[1])]
        group = served.send_streamed(parts, node.JobsEnded(1, 1, [result]))
        served.flush()
        while not sources[1].is_closed:
            await asyncio.sleep(0)
        assert served.give_up(group)
        served.send(node.ComputationReady(1))
        (message,) = await ours.wait_messages(1)
        assert isinstance(message, node.ComputationReady)
        with pytest.raises(Exception, match="not complete"):
            client.take_stream(result.output_stream)

    connected(test)


def test_a_connection_that_ends_lets_go_of_what_it_was_sending() -> None:
    source = Counted(bytes(100 * limits.MIB))

    async def test(client: Connection, ours: Side, served: Connection, theirs: Side) -> None:
        group = send(client, 1, source)
        client.flush()
        served.abort(ConnectionError("test"))
        async with asyncio.timeout(5):
            while not source.is_closed:
                await asyncio.sleep(0.001)
        assert not client.give_up(group)

    connected(test)


def too_large() -> node.RunJobs:
    payload = bytes(limits.INLINE_MAX - 1)
    return node.RunJobs(1, [node.Job(number, 0, payload) for number in range(130)])


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_message_that_is_too_large_ends_the_connection_at_its_sender(is_streamed: bool) -> None:
    """The peer would refuse it, and not know what it was. What was said before arrives."""

    async def test(connection: Connection, ours: Side, peer: Connection, theirs: Side) -> None:
        message = too_large()
        assert not connection.try_send_now([message])
        connection.send(node.Acknowledge(1))
        source = Counted(bytes(100))
        if is_streamed:
            group = connection.send_streamed([(node.Streamed(0), "stream", source)], message)
            assert source.is_closed
            assert not connection.give_up(group)
        else:
            connection.send(message)
        connection.send(message)
        async with asyncio.timeout(10):
            await ours.closed.wait()
            await theirs.closed.wait()
        assert isinstance(ours.error, InternalError)
        assert re.match(r"a RunJobs of 8\d{6} bytes was to be sent", str(ours.error))
        assert theirs.messages == [node.Acknowledge(1)]

    connected(test)


def test_a_peer_is_told_why_a_connection_ends_that_cannot_go_on() -> None:
    async def test(connection: Connection, ours: Side, peer: Connection, theirs: Side) -> None:
        ended = [node.Ended(1, 0, node.FINISHED, 1.0, 2.0, bytes(limits.INLINE_MAX - 1))] * 130
        peer.send(node.JobsEnded(1, 1, ended))
        (said,) = await ours.wait_messages(1)
        assert isinstance(said, node.Leaving)
        assert "a JobsEnded of 8" in said.reason
        async with asyncio.timeout(10):
            await theirs.closed.wait()
        assert isinstance(theirs.error, InternalError)

    connected(test)
