"""The shell of a connection, over real sockets: who is told what, timers, threads, and a node that dials."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from dispy.errors import AuthenticationError, DispyError, InternalError, RemoteProtocolError, SilenceError
from dispy.net.connection import Connection
from dispy.net.connection_timer import ConnectionTimer
from dispy.net.listener import Listener
from dispy.net.stream_sinks import PoolSink
from dispy.protocol import limits, node
from dispy.protocol.connection.machine import ConnectionMachine
from dispy.protocol.connection.stranger import HANDSHAKE_S
from dispy.protocol.streams import MemorySource
from dispy.security.certificates import new_ca, new_leaf
from dispy.security.keys import Keys, alone
from dispy.security.tls import Tls, dialer_tls, listener_tls

KEY = alone(bytes(range(32)))

DIRECTIONS = [("client", "node"), ("node", "client")]
"""Role of the dialer, role of the listener."""

LANGUAGE: dict[str, Any] = {"client": node.from_node_decoder, "node": node.to_node_decoder}
SAYS = {"client": node.Acknowledge(7), "node": node.ComputationReady(7)}


class Side:
    """The owner of one end, and whom a listener would have told that it is settled."""

    def __init__(self) -> None:
        self.connection: Connection
        self.told: list[str] = []
        """Names of what it was told, in order."""
        self.messages: list[Any] = []
        self.payloads = 0
        """Payloads of jobs that have arrived."""
        self.error: Exception | None = None
        self.changed = asyncio.Event()
        self.on_message_raises: Exception | None = None

    def _note(self, what: str) -> None:
        self.told.append(what)
        self.changed.set()

    def on_ready(self, connection: Connection) -> None:
        self._note("ready")

    def on_message(self, connection: Connection, message: Any) -> None:
        if self.on_message_raises is not None:
            raise self.on_message_raises
        for job in getattr(message, "jobs", ()):
            if type(job.where) is node.Streamed:
                connection.take_stream(job.where.stream)
                self.payloads += 1
        self.messages.append(message)
        self.changed.set()

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        self.error = error
        self._note("closed")

    def on_settled(self, connection: Connection) -> None:
        self._note("settled")

    async def wait_for(self, condition: Callable[[], bool], what: str = "") -> None:
        """Wait until something holds."""
        try:
            async with asyncio.timeout(20):
                while not condition():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            raise AssertionError(
                f"{what}: {self.told}, {len(self.messages)} messages, {self.error!r}"
            ) from None

    async def wait_told(self, what: str) -> None:
        """Wait until it was told something."""
        await self.wait_for(lambda: what in self.told, what)

    def make(self, role: str, peer_role: str, *, key: Keys = KEY, **options: Any) -> Connection:
        """Make its connection, on the loop."""
        options.setdefault("on_settled", self.on_settled)
        self.connection = Connection(
            self, LANGUAGE[role], key, role, peer_role, make_sink=PoolSink, **options
        )
        return self.connection


@contextlib.asynccontextmanager
async def joined(
    direction: tuple[str, str] = ("client", "node"), **listens: Any
) -> AsyncIterator[tuple[Side, Side]]:
    """The dialer's and the listener's side, over a socketpair, when both have proved the secret."""
    loop = asyncio.get_running_loop()
    dialer, listener = Side(), Side()
    one, other = socket.socketpair()
    with one, other:
        await loop.create_connection(
            lambda: listener.make(direction[1], direction[0], is_dialer=False, **listens),
            sock=other.dup(),
        )
        await loop.create_connection(
            lambda: dialer.make(direction[0], direction[1], is_dialer=True), sock=one.dup()
        )
        other.close()
        one.close()
        try:
            for side in (dialer, listener):
                await side.wait_told("ready")
            yield dialer, listener
        finally:
            for side in (dialer, listener):
                side.connection.abort(ConnectionError("the test is over"))
                await side.wait_told("closed")


def play(story: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story)


# Who is told what.


@pytest.mark.parametrize("who", ["dialer", "listener"])
@pytest.mark.parametrize("how", ["close", "abort", "refuse", "fault"])
def test_each_side_is_told_once_that_it_is_over(who: str, how: str) -> None:
    async def story() -> None:
        async with joined() as sides:
            side = sides[who == "listener"]
            if how == "close":
                side.connection.close()
            elif how == "abort":
                side.connection.abort(ConnectionError("enough"))
            elif how == "refuse":
                side.connection.refuse(RemoteProtocolError("enough"))
            else:
                side.connection.fail(InternalError("enough"))
            for each in sides:
                await each.wait_told("closed")
            assert (str(side.error) == "enough") == (how != "close")
        for each in sides:
            assert each.told == ["settled", "ready", "closed"]
            assert not each.connection.is_ready

    play(story())


def test_a_connection_without_proof_is_settled_when_it_is_gone() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        side = Side()
        one, other = socket.socketpair()
        with one:
            await loop.create_connection(lambda: side.make("node", "client", is_dialer=False), sock=other)
        await side.wait_told("closed")
        assert side.told == ["settled", "closed"]
        assert side.error is None

    play(story())


@pytest.mark.parametrize("error", [RemoteProtocolError("nonsense"), ZeroDivisionError("a fault")])
def test_what_an_owner_raises_ends_the_connection(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with joined(farewell=lambda error: node.Leaving(str(error))) as (dialer, listener):
            listener.on_message_raises = error
            dialer.connection.send(node.Acknowledge(1))
            dialer.connection.send(node.Acknowledge(2))
            await listener.wait_told("closed")
            await dialer.wait_told("closed")
            if isinstance(error, DispyError):
                assert listener.error is error
                assert dialer.messages == []
            else:
                assert isinstance(listener.error, InternalError)
                assert "a fault" in dialer.messages[0].reason

    play(story())
    assert ("please report this" in caplog.text) == (not isinstance(error, DispyError))


def test_a_connection_that_is_refused_before_it_is_made_ends_at_once() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        side = Side()
        side.make("client", "node", is_dialer=True)
        side.connection.refuse(ConnectionError("not wanted any more"))
        one, other = socket.socketpair()
        with one:
            await loop.create_connection(lambda: side.connection, sock=other)
            await side.wait_told("closed")
            one.settimeout(10)
            assert one.recv(1000) == b""

    play(story())


# Timers.


class Timers:
    """Timers that run when they are told."""

    def __init__(self) -> None:
        self.due: list[tuple[float, Callable[[], None]]] = []
        """Delays and callbacks of those that run."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any:
        entry = (delay_s, callback)
        self.due.append(entry)

        class Handle:
            @staticmethod
            def cancel() -> None:
                timers.due.remove(entry)

        timers = self
        return Handle

    def fire(self) -> float:
        """Run the only one; returns its delay."""
        ((delay_s, callback),) = self.due
        self.due.clear()
        callback()
        return delay_s


class Written:
    """A sender that notes what it is asked to do."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def abort(self) -> None:
        self.asked.append("abort")

    def flush_soon(self) -> None:
        self.asked.append("flush")

    flush_guarded = flush_soon


@pytest.fixture
def timed() -> tuple[ConnectionTimer, ConnectionMachine, Timers, Written]:
    """The timer of a dialer's connection, and what it works on."""
    machine = ConnectionMachine(node.from_node_decoder, KEY, "client", "node", is_dialer=True)
    timers, sender = Timers(), Written()
    machine.start(bytes(32), 0.0)
    machine.data_to_send()
    written: Any = sender
    return ConnectionTimer(machine, written, timers.call_later), machine, timers, sender


Timed = tuple[ConnectionTimer, ConnectionMachine, Timers, Written]


def test_a_dialer_waits_so_long_for_a_proof(timed: Timed) -> None:
    timer, machine, timers, sender = timed
    timer.expect_proof()
    assert timers.fire() == HANDSHAKE_S
    assert str(machine.error) == "no proof within 5 s"
    assert sender.asked == ["flush"]
    timer.close()


@pytest.mark.parametrize("how", ["stop", "close"])
def test_a_timer_that_is_stopped_is_not_due(timed: Timed, how: str) -> None:
    timer, _, timers, _ = timed
    timer.expect_proof()
    getattr(timer, how)()
    assert timers.due == []
    timer.set_pulse(1.0)
    assert len(timers.due) == (how == "stop"), "after the end none begins"
    timer.set_pulse(2.0)
    timer.close()
    assert timers.due == []


def test_signs_of_life_are_looked_for_twice_per_interval_until_the_peer_is_given_up(timed: Timed) -> None:
    timer, machine, timers, sender = timed
    timer.set_pulse(3.0)
    assert [timers.fire() for _ in range(9)] == [1.5] * 9
    assert sender.asked == ["abort"]
    assert isinstance(machine.error, SilenceError)
    assert timers.due == []
    timer.close()


# Threads, and many payloads.


def test_messages_of_threads_and_of_the_loop_arrive_whole_and_in_the_order_of_each() -> None:
    threads, count = 4, 400

    async def story() -> None:
        async with joined() as (dialer, listener):
            loop = asyncio.get_running_loop()

            def send(thread: int) -> None:
                for number in range(count):
                    message = node.ListJobs(thread, number)
                    if not dialer.connection.try_send_now([message]):
                        # What the loop sends for a thread comes before the thread's next one.
                        done = threading.Event()
                        loop.call_soon_threadsafe(
                            lambda m=message, d=done: (dialer.connection.send(m), d.set())
                        )
                        assert done.wait(20)

            runs = [asyncio.to_thread(send, thread) for thread in range(threads)]
            await asyncio.gather(*runs)
            await listener.wait_for(lambda: len(listener.messages) == threads * count)
        for thread in range(threads):
            found = [message.serial for message in listener.messages if message.computation == thread]
            assert found == list(range(count))

    play(story())


@pytest.mark.parametrize("direction", DIRECTIONS, ids=[" dials ".join(each) for each in DIRECTIONS])
def test_no_number_of_payloads_ends_a_connection(direction: tuple[str, str]) -> None:
    """As of a node with very many CPUs whose jobs all have large arguments. 4,097 at once ended it before."""
    count = limits.STREAMS_MAX + 1_000

    async def story() -> None:
        async with joined(direction) as sides:
            sender, receiver = sides if direction[0] == "client" else reversed(sides)
            for number in range(count):
                where = node.Streamed(0)
                job = node.Job(number, 0, b"", where)
                source = MemorySource(b"argument")
                sender.connection.send_streamed([(where, "stream", source)], node.RunJobs(1, [job]))
            assert sender.connection.is_sending
            await receiver.wait_for(lambda: receiver.payloads == count)
            assert not sender.connection.is_sending
            # The same connection goes on.
            sender.connection.send(node.Acknowledge(1))
            await receiver.wait_for(lambda: receiver.messages[-1] == node.Acknowledge(1))
            assert "closed" not in sender.told + receiver.told

    play(story())


# A node that dials, and a client that listens.


def authority(directory: Path) -> dict[str, Tls]:
    """TLS of a node and of a client with certificates of one authority."""
    (ca, _), made = new_ca(directory, "ca", 30), {}
    for kind, names in (("node", ["127.0.0.1"]), ("client", ["somebody"])):
        certificate, key = new_leaf(directory, kind, names, 30)  # type: ignore[arg-type]
        made[kind] = Tls(certfile=str(certificate), keyfile=str(key), cafile=str(ca), wanted=True)
    return made


def secured(way: str, directory: Path) -> dict[str, Tls | None]:
    """TLS of each role for a way to be secured."""
    if way == "pinned":
        new_ca(directory, "ca", 30)
        certificate, key = new_leaf(directory, "node", ["127.0.0.1"], 30)
        return dict.fromkeys(LANGUAGE, Tls(certfile=str(certificate), keyfile=str(key), wanted=True))
    return dict.fromkeys(LANGUAGE, Tls(wanted=True) if way == "a secret alone" else None)


async def dialed(direction: tuple[str, str], by_role: dict[str, Tls | None], key: Keys = KEY) -> list[Side]:
    """Have a dialer connect to a real listener on loopback; returns both sides when they are settled."""
    loop = asyncio.get_running_loop()
    role, peer_role = direction
    dialer, accepted = Side(), Side()
    theirs, ours = by_role[peer_role], by_role[role]
    encrypts = listener_tls(theirs) if theirs is not None else None

    def make(on_settled: Callable[[Connection], None]) -> Connection:
        def settled(connection: Connection) -> None:
            on_settled(connection)
            accepted.on_settled(connection)

        return accepted.make(peer_role, role, is_dialer=False, tls=encrypts, on_settled=settled)

    listener = Listener(make, tls=encrypts is not None)
    try:
        address = listener.listen("127.0.0.1", 0)
        await loop.create_connection(
            lambda: dialer.make(
                role, peer_role, is_dialer=True, key=key, peer_name="127.0.0.1",
                tls=dialer_tls(ours) if ours is not None else None,
            ),
            *address,
        )  # fmt: skip
        await dialer.wait_told("settled")
        await accepted.wait_told("settled")
        assert listener.half_open == 0
    finally:
        listener.close()
    return [dialer, accepted]


async def end(sides: list[Side]) -> None:
    for side in sides:
        side.connection.close()
        await side.wait_told("closed")


WAYS = ["no TLS on loopback", "a secret alone", "pinned"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("direction", DIRECTIONS, ids=[" dials ".join(each) for each in DIRECTIONS])
def test_either_role_may_dial_and_both_prove_the_secret(
    direction: tuple[str, str], way: str, tmp_path: Path
) -> None:
    by_role = secured(way, tmp_path / "ca")

    async def story() -> None:
        sides = await dialed(direction, by_role)
        for side, role in zip(sides, direction, strict=True):
            await side.wait_told("ready")
            assert (side.connection.cipher is not None) == (by_role[role] is not None)
            side.connection.send(SAYS[role])
        for side, role in zip(sides, reversed(direction), strict=True):
            await side.wait_for(lambda side=side: bool(side.messages))
            assert side.messages == [SAYS[role]]
        await end(sides)

    play(story())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("direction", DIRECTIONS, ids=[" dials ".join(each) for each in DIRECTIONS])
def test_with_another_secret_neither_role_gets_in(
    direction: tuple[str, str], way: str, tmp_path: Path
) -> None:
    by_role = secured(way, tmp_path / "ca")

    async def story() -> None:
        sides = await dialed(direction, by_role, key=alone(bytes(32)))
        for side in sides:
            await side.wait_told("closed")
            assert "ready" not in side.told
            assert isinstance(side.error, AuthenticationError)

    play(story())


@pytest.mark.parametrize("direction", DIRECTIONS, ids=[" dials ".join(each) for each in DIRECTIONS])
def test_an_authority_says_who_may_dial(direction: tuple[str, str], tmp_path: Path) -> None:
    """Its certificates are for one end of TLS: a node's for a listener, a client's for a dialer.

    A node that dialed would need a certificate for that. Until there is one, it is refused on both sides.
    """
    by_role: dict[str, Tls | None] = dict(authority(tmp_path / "ca"))

    async def story() -> None:
        sides = await dialed(direction, by_role)
        if direction[0] == "client":
            for side in sides:
                await side.wait_told("ready")
                assert side.connection.cipher is not None
                assert side.connection.cipher.has_certificate
            await end(sides)
        else:
            for side in sides:
                await side.wait_told("closed")
                assert "ready" not in side.told
                assert isinstance(side.error, (AuthenticationError, RemoteProtocolError)), side.error

    play(story())
