"""A listener on loopback: who knows the secret comes in beside others who flood it, whatever they say."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

import msgspec
import pytest
import uvloop

from dispy.net.admission import SILENT_MAX, TOKENS_MAX
from dispy.net.connection import Connection
from dispy.net.listener import Listener
from dispy.protocol import frames, limits
from dispy.protocol.connection.stranger import HANDSHAKE_S
from dispy.protocol.handshake import MAGIC, REFUSAL, Hello
from dispy.protocol.node import from_node_decoder, to_node_decoder
from dispy.security.keys import alone
from dispy.security.tls import Tls, dialer_tls, listener_tls

KEY = alone(bytes(32))
FLOOD, HONEST = "127.0.0.2", "127.0.0.1"

PROMPT_S = 1.5
"""A handshake takes milliseconds; on a busy machine the loop may stand still meanwhile. Deadlines are 5 s."""


def framed(body: bytes) -> bytes:
    return frames.header(frames.CONTROL, len(body)) + body


HELLO = framed(msgspec.msgpack.encode(Hello(MAGIC, [limits.VERSION], "client", bytes(32))))
REFUSED = framed(REFUSAL)


def client_hello() -> bytes:
    """How a client of TLS begins."""
    cipher = dialer_tls(Tls(wanted=True)).cipher("node")
    cipher.feed(b"")
    return cipher.pending()


class Side:
    """Whom a connection tells."""

    def __init__(self) -> None:
        self.is_ready: asyncio.Future[Exception | bool | None] = asyncio.get_running_loop().create_future()

    def on_ready(self, connection: Connection) -> None:
        self.is_ready.set_result(True)

    def on_message(self, connection: Connection, message: Any) -> None:
        """Nothing is said here."""

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        if not self.is_ready.done():
            self.is_ready.set_result(error)


class Door:
    """A listener, and those who come to it."""

    def __init__(self, tls: bool, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._loop = asyncio.get_running_loop()
        encrypts = listener_tls(Tls(wanted=True)) if tls else None
        self._dials = dialer_tls(Tls(wanted=True)) if tls else None
        self.listener = Listener(
            lambda on_settled: Connection(
                Side(), to_node_decoder, KEY, "node", "client",
                is_dialer=False, tls=encrypts, on_settled=on_settled,
            ),
            tls=tls,
        )  # fmt: skip
        self.address = self.listener.listen("127.0.0.1", 0)

    def connect(self, source: str, said: bytes = b"") -> socket.socket:
        """A stranger, who says something at once."""
        link = self._stack.enter_context(socket.create_connection(self.address, source_address=(source, 0)))
        link.sendall(said)
        link.setblocking(False)
        return link

    async def prove(self, source: str) -> float:
        """Prove the secret; returns seconds from connect to proof."""
        side = Side()
        start = self._loop.time()
        make = partial(
            Connection, side, from_node_decoder, KEY, "client", "node",
            is_dialer=True, tls=self._dials, peer_name="127.0.0.1",
        )  # fmt: skip
        transport, _ = await self._loop.create_connection(make, *self.address, local_addr=(source, 0))
        assert await side.is_ready is True
        transport.close()
        return self._loop.time() - start

    async def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something holds."""
        deadline = self._loop.time() + HANDSHAKE_S + 2
        while not condition():
            assert self._loop.time() < deadline, what
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def opened(tls: bool = False) -> AsyncIterator[Door]:
    with contextlib.ExitStack() as stack:
        door = Door(tls, stack)
        try:
            yield door
        finally:
            door.listener.close()
            await asyncio.sleep(0)


def play(story: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story)


def said_to(link: socket.socket) -> bytes | None:
    """What a stranger was told; None if the connection was reset."""
    try:
        return link.recv(65536)
    except BlockingIOError:
        return b""
    except ConnectionResetError:
        return None


def is_at_end(link: socket.socket) -> bool:
    """Whether the listener has closed a connection; reads what it has said."""
    try:
        while link.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate is in a file for a moment; not in everybody's directory."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("source", [HONEST, FLOOD], ids=["another address", "the same address"])
def test_a_silent_crowd_delays_nobody(tls: bool, source: str) -> None:
    """Six hundred are there before; none of them is told anything, so that no honest one takes it for a refusal."""

    async def story() -> None:
        async with opened(tls) as door:
            crowd = [door.connect(FLOOD) for _ in range(600)]
            assert await door.prove(source) < PROMPT_S
            # One gave way to the honest one, if it came from their address.
            left = SILENT_MAX - (source == FLOOD)
            await door.wait_for(lambda: door.listener.half_open == left, "the oldest have given way")
            told = [said_to(link) for link in crowd]
            assert told == [None] * (600 - left) + [b""] * left

    play(story())


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_crowd_that_begins_the_proof_delays_no_other_address(tls: bool) -> None:
    """Its address has a bucket: the others of the crowd wait, and cost no key exchange."""

    async def story() -> None:
        async with opened(tls) as door:
            crowd = [door.connect(FLOOD, client_hello() if tls else HELLO) for _ in range(300)]
            assert await door.prove(HONEST) < PROMPT_S
            answers: list[bytes] = []

            def are_answered() -> bool:
                answers.extend(answer for link in crowd if (answer := said_to(link)))
                return len(answers) >= TOKENS_MAX

            await door.wait_for(are_answered, "a bucket is used up")
            assert len(answers) < TOKENS_MAX + 40, "and is refilled slowly"

    play(story())


def test_a_crowd_with_the_secret_is_served_in_turn() -> None:
    """All at once from one address, several times as many as a bucket has tokens: nobody has to come again."""

    async def story() -> None:
        async with opened() as door:
            took = await asyncio.gather(*(door.prove(HONEST) for _ in range(3 * TOKENS_MAX)))
            assert max(took) < HANDSHAKE_S
            assert not door.listener.half_open

    play(story())


def test_whoever_waits_for_a_token_gets_it_in_time() -> None:
    async def story() -> None:
        async with opened() as door:
            crowd = [door.connect(FLOOD, HELLO) for _ in range(TOKENS_MAX + 10)]
            for link in crowd[:TOKENS_MAX]:
                link.close()
            last = crowd[-1]
            await door.wait_for(lambda: bool(said_to(last)), "it is answered, after others of its address")

    play(story())


def test_garbage_is_refused_beside_everything() -> None:
    async def story() -> None:
        async with opened() as door:
            for _ in range(2 * TOKENS_MAX):
                door.connect(FLOOD, HELLO)
            stranger = door.connect(FLOOD, framed(b"\x91\x01"))
            await door.wait_for(lambda: said_to(stranger) == REFUSED, "it is refused")

    play(story())


def test_one_line_for_each_address_and_the_sum(caplog: pytest.LogCaptureFixture) -> None:
    """Ten addresses are named; that there were more, and how many connections of theirs, is told."""
    each = 2 * SILENT_MAX // 16

    async def story() -> None:
        async with opened() as door:
            others = [f"127.0.1.{low}" for low in range(16)]
            crowd = [door.connect(FLOOD) for _ in range(SILENT_MAX + 30)]
            strangers = [door.connect(source, b"no dispy") for source in others for _ in range(each)]
            await door.wait_for(
                lambda: sum(map(is_at_end, crowd + strangers)) == 30 + 16 * each, "are closed"
            )

    play(story())
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1 + 10 + 2
    assert (
        lines[0] == f"refused a connection from {FLOOD}: too many connections that do not prove themselves"
    )
    assert (
        len({text for text in lines[1:11] if text.startswith("refused a connection from 127.0.1.")}) == 10
    )
    assert lines[11:] == [
        "connections closed to make room for others, before they had said enough:"
        " 29 more within 60 s, without a line each",
        "connections refused that do not speak the protocol of dispy:"
        f" {16 * each - 10} more within 60 s, without a line each, {6 * each} of them of others than those named",
    ]


def test_a_closed_listener_leaves_nothing() -> None:
    """Also of those who wait for their turn, and of those who have just got it."""

    async def story() -> None:
        async with opened() as door:
            crowd = [door.connect(FLOOD, HELLO) for _ in range(3 * TOKENS_MAX)]
            crowd += [door.connect(FLOOD) for _ in range(10)]
            await door.wait_for(lambda: door.listener.half_open > TOKENS_MAX, "many are in")
            door.listener.close()
            assert not door.listener.half_open
            await door.wait_for(lambda: all(map(is_at_end, crowd)), "all are closed")

    play(story())
