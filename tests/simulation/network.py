"""The network: connections as TCP makes them, between machines that may not reach each other.

A connection is a pair of *ends*, each the transport of its party's protocol and what the kernel keeps for it.
Bytes arrive in their order, late, and cut anywhere. A *path* is one direction between two machines: while it
is cut, what is sent waits and is sent again later; what refuses or resets is lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from dispy.net.links.link import Link

from .air import Air
from .world import Party, World

PIECE_MAX = 1 << 20
"""Bytes that arrive at once at most: who gets more hears of it while it comes."""

SYN_AGAIN_S = (1.0, 3.0, 7.0)
"""When the kernel tries again to make a connection that nobody answers, counted from the first time."""

AGAIN_S = 0.2
"""After so long it sends again what nobody has acknowledged; then after twice that, and so on."""

LATE_S = 0.5
"""What takes longer was lost on the way."""

AGAIN_MAX = 10
"""So often."""


class Path:
    """One direction between two machines."""

    __slots__ = (
        "_last",
        "delay_s",
        "is_cut",
        "jitter",
        "loss",
        "lost",
        "overtaken",
        "per_byte_s",
        "sent",
        "splits",
        "stalled",
    )  # fmt: skip

    def __init__(self, delay_s: float, jitter: float, per_byte_s: float, splits: float) -> None:
        self.delay_s = delay_s
        self.jitter = jitter
        self.per_byte_s = per_byte_s
        self.splits = splits
        """Share of writes that arrive in pieces."""
        self.loss = 0.0
        """Share of packets that are lost: they, and what was sent behind them, arrive when they were sent again."""
        self.lost = 0
        """How many there were."""
        self.sent = 0
        """Packets that were sent, data or not."""
        self.overtaken = 0
        """Those of which one arrives earlier that was sent later, on another connection."""
        self._last = 0.0
        self.is_cut = False
        self.stalled: deque[tuple[End, Callable[..., None], bytes]] = deque()
        """What waits for the path to be whole again."""

    def count(self, arrival: float) -> None:
        """A packet is sent, and will arrive then."""
        self.sent += 1
        if arrival < self._last:
            self.overtaken += 1
        self._last = max(self._last, arrival)


class _NoSocket:
    """No descriptor that threads could write to beside the loop."""

    def fileno(self) -> int:
        return -1


_NO_SOCKET = _NoSocket()


class Machine:
    """A computer: an address, and who listens there."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.is_up = True
        self.listener: tuple[Party, Callable[[End], None]] | None = None
        """The process that accepts, and how it does."""


class End:
    """One end of a connection."""

    __slots__ = (
        "_arrival", "_buffer", "_buffered", "_early", "_high", "_in_flight", "_is_closing", "_is_paused", "_network",
        "_world", "is_deaf", "is_gone", "machine", "party", "path", "peer", "protocol",
    )  # fmt: skip

    def __init__(self, network: Network, party: Party, machine: Machine, path: Path) -> None:
        self._network = network
        self._world = network.world
        self.party = party
        self.machine = machine
        self.path = path
        self.protocol: Any = None
        self.peer: End
        self.is_gone = False
        """Its process has been told, or is no more."""
        self.is_deaf = False
        """What it says vanishes, as where a router has forgotten the connection."""
        self._is_closing = False
        self._is_paused = False
        self._arrival = 0.0
        """When what was sent last arrives."""
        self._in_flight = 0
        self._early: list[bytes] = []
        """What has arrived before the process had it."""
        self._buffer: deque[bytes] = deque()
        self._buffered = 0
        self._high = network.write_high

    # A transport, as protocols want it.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of asyncio's transports."""
        if name == "peername":
            return (self.peer.machine.host, 51348)
        return _NO_SOCKET if name == "socket" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The world has smaller ones, so that they are met."""

    def get_write_buffer_size(self) -> int:
        """Bytes that the kernel has not taken."""
        return self._buffered

    def is_closing(self) -> bool:
        """As of asyncio's transports."""
        return self._is_closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, or keep what the kernel does not take."""
        if self._is_closing or self.is_gone:
            return
        if self._buffer or self._in_flight > self._network.window:
            self._buffer.append(bytes(data))
            self._buffered += len(data)
            if self._buffered > self._high and not self._is_paused:
                self._is_paused = True
                self.protocol.pause_writing()
            return
        self._transmit(bytes(data))

    def writelines(self, parts: list[bytes | bytearray | memoryview]) -> None:
        """Send all of these at once."""
        self.write(b"".join(parts))

    def close(self) -> None:
        """End after what was written."""
        if not self._is_closing and not self.is_gone:
            self._is_closing = True
            if not self._buffer:
                self._finish()

    def abort(self) -> None:
        """End now."""
        if self.is_gone:
            return
        self._is_closing = True
        self._buffer.clear()
        self._buffered = 0
        self._world.soon(self.party, self._lost, None)
        self._say(End._on_reset)

    def _finish(self) -> None:
        self._world.soon(self.party, self._lost, None)
        self._say(End._on_end)

    @property
    def is_late(self) -> bool:
        """What it has sent was lost, and is sent again only after a while: nothing gets past that."""
        return self._arrival > self._world.now + LATE_S

    # The wire.

    def begin(self, protocol: Any) -> None:
        """A process has it now."""
        self.protocol = protocol
        protocol.connection_made(self)
        if self.is_gone:
            # It went while nobody had it.
            self._world.soon(self.party, protocol.connection_lost, ConnectionResetError("reset by peer"))
        early, self._early = self._early, []
        for data in early:
            self._arrive(data)

    def _transmit(self, data: bytes) -> None:
        self._in_flight += len(data)
        for start in range(0, len(data) - PIECE_MAX, PIECE_MAX):
            self._carry(End._arrive, data[start : start + PIECE_MAX])
        data = data[(len(data) - 1) // PIECE_MAX * PIECE_MAX :]
        if len(data) > 1 and self._world.chance() < self.path.splits:
            chance = self._world.chance
            cuts = sorted({1 + int(chance() * (len(data) - 1)) for _ in range(1 + int(chance() * 3))})
            start = 0
            for cut in [*cuts, len(data)]:
                if cut > start:
                    self._carry(End._arrive, data[start:cut])
                    start = cut
        else:
            self._carry(End._arrive, data)

    def _say(self, what: Callable[[End, bytes], None]) -> None:
        """Send a packet without data behind all that was sent."""
        self._carry(what, b"")

    def _carry(self, what: Callable[[End, bytes], None], data: bytes) -> None:
        path = self.path
        if self.is_deaf:
            return
        if path.is_cut:
            # What resets is sent once.
            if what is not End._on_reset:
                path.stalled.append((self, what, data))
            return
        self.send_on(what, data, 0.0)

    def send_on(self, what: Callable[[End, bytes], None], data: bytes, late_s: float) -> None:
        """Let something arrive at the other end, after all that was sent before."""
        world, path = self._world, self.path
        if path.loss:
            again_s = AGAIN_S
            while again_s < 4.0 and world.chance() < path.loss:
                path.lost += 1
                late_s += again_s
                again_s *= 2.0
        time = world.now + late_s + path.delay_s * (1.0 + path.jitter * world.chance())
        if time < self._arrival:
            time = self._arrival
        time += len(data) * path.per_byte_s
        self._arrival = time
        path.count(time)
        peer = self.peer
        # What the kernel does needs no process that runs.
        world.arrive(time, peer.party if not peer.is_gone else world.nature, what, peer, data)

    def _arrive(self, data: bytes) -> None:
        if self.is_gone or self._is_closing:
            self._refuse(0)
            return
        sender = self.peer
        protocol = self.protocol
        if type(protocol) is _Unaccepted:
            self._early.append(data)
            return
        if protocol.is_ready:
            self._world.saw(len(data))
            # A process that recovers asks nodes over connections of their own, and each is watched for itself.
            if type(protocol.owner) is Link:
                self.party.heard[sender.machine.host] = self.party.awake(), self.party.stops
        view = memoryview(data)
        while len(view):
            room = protocol.get_buffer(len(view))
            count = min(len(room), len(view))
            room[:count] = view[:count]
            protocol.buffer_updated(count)
            view = view[count:]
            if self.is_gone or self._is_closing:
                break
        if not sender.is_gone:
            sender._acknowledged(len(data))

    def _acknowledged(self, count: int) -> None:
        """The other side has taken bytes: more can leave."""
        self._in_flight -= count
        while self._buffer and self._in_flight <= self._network.window:
            data = self._buffer.popleft()
            self._buffered -= len(data)
            self._transmit(data)
        if self._is_paused and self._buffered * 4 <= self._high and not self._is_closing:
            self._is_paused = False
            self._world.soon(self.party, self._resume)
        if self._is_closing and not self._buffer and not self.is_gone:
            self._finish()

    def _resume(self) -> None:
        if not self.is_gone and not self._is_paused:
            self.protocol.resume_writing()

    def _refuse(self, tries: int) -> None:
        """Nobody here knows this connection: whoever says something is told so, when the machine is up."""
        if self.peer.is_gone or self.peer.is_deaf:
            return
        if self.machine.is_up:
            self._say(End._on_reset)
        elif tries < AGAIN_MAX:
            self._world.after(AGAIN_S * 2.0**tries, self._world.nature, self._refuse, tries + 1)

    def _on_end(self, _: bytes = b"") -> None:
        if self.is_gone or self._is_closing:
            return
        if not self.protocol.eof_received():
            self.close()

    def _on_reset(self, _: bytes = b"") -> None:
        self.reset()

    def reset(self) -> None:
        """It is told that the connection is gone."""
        self._lost(ConnectionResetError("connection reset by peer"))

    def _lost(self, error: Exception | None) -> None:
        if self.is_gone:
            return
        self.is_gone = self._is_closing = True
        self._buffer.clear()
        self._network.forget(self)
        self.protocol.connection_lost(error)

    def vanish(self, how: str) -> None:
        """Its process is no more; the kernel tells the other side, unless the machine is gone, too.

        Args:
            how: "end", "reset" or "silent".
        """
        if self.is_gone:
            return
        self.is_gone = True
        self._buffer.clear()
        self._network.forget(self)
        if how != "silent":
            self._say(End._on_end if how == "end" else End._on_reset)


class Network:
    """All machines and what is between them.

    Args:
        world: Where it is.
        delay_s: Makes the delay of a path (seconds).
    """

    def __init__(self, world: World, delay_s: Callable[[], float]) -> None:
        self.world = world
        self.window = 256 * 1024
        """Bytes of one direction of a connection that are under way before the sender has to wait."""
        self.write_high = 64 * 1024
        """Bytes that wait before a protocol is told to pause."""
        self.per_byte_s = 1e-9
        self.splits = 0.02
        self.machines: dict[str, Machine] = {}
        self.paths: dict[tuple[str, str], Path] = {}
        self.air = Air(self)
        self._delay_s = delay_s
        self._ends: dict[End, None] = {}

    def machine(self, host: str) -> Machine:
        """The machine at an address."""
        found = self.machines.get(host)
        if found is None:
            found = self.machines[host] = Machine(host)
        return found

    def path(self, source: str, target: str) -> Path:
        """One direction between two machines."""
        found = self.paths.get((source, target))
        if found is None:
            # Both directions are alike.
            back = self.paths.get((target, source))
            delay_s = back.delay_s if back is not None else self._delay_s()
            found = self.paths[source, target] = Path(delay_s, 0.5, self.per_byte_s, self.splits)
        return found

    def ends(self) -> list[End]:
        """Those of all connections that stand as far as one side knows."""
        return list(self._ends)

    def forget(self, end: End) -> None:
        """An end is no more."""
        self._ends.pop(end, None)

    # Making connections.

    def dial(self, party: Party, source: str, target: str, made: asyncio.Future[End]) -> None:
        """Connect to whoever listens on a machine; the future gets the end, or ``ConnectionRefusedError``."""
        self._send_syn(party, source, target, made, self.world.now, 0)

    def _send_syn(
        self,
        party: Party,
        source: str,
        target: str,
        made: asyncio.Future[End],
        since: float,
        tries: int,
    ) -> None:
        if made.done() or party.is_dead:
            return
        out = self.path(source, target)
        world = self.world
        if out.is_cut or not self.machine(target).is_up:
            if tries < len(SYN_AGAIN_S):
                again = since + SYN_AGAIN_S[tries]
                world.at(again, world.nature, self._send_syn, party, source, target, made, since, tries + 1)
            return
        delay_s = out.delay_s * (1.0 + out.jitter * world.chance())
        world.after(delay_s, world.nature, self._on_syn, party, source, target, made, since, tries)

    def _on_syn(
        self,
        party: Party,
        source: str,
        target: str,
        made: asyncio.Future[End],
        since: float,
        tries: int,
    ) -> None:
        if party.is_dead:
            return
        machine = self.machine(target)
        world = self.world
        back = self.path(target, source)
        if not machine.is_up or back.is_cut:
            self._again(party, source, target, made, since, tries)
            return
        delay_s = back.delay_s * (1.0 + back.jitter * world.chance())
        listener = machine.listener
        if listener is None:
            error = ConnectionRefusedError(111, "Connection refused")
            world.arrive(world.now + delay_s, party, self._refused, made, error)
            return
        ours = End(self, party, self.machine(source), self.path(source, target))
        theirs = End(self, listener[0], machine, back)
        ours.peer, theirs.peer = theirs, ours
        # The kernel accepts; the process hears of it when it can.
        theirs.protocol = _Unaccepted()
        ours.protocol = theirs.protocol
        self._ends[ours] = self._ends[theirs] = None
        theirs._arrival = world.now + delay_s
        world.arrive(world.now + delay_s, party, self._connected, made, ours)
        world.arrive(world.now, listener[0], listener[1], theirs)

    def _again(
        self,
        party: Party,
        source: str,
        target: str,
        made: asyncio.Future[End],
        since: float,
        tries: int,
    ) -> None:
        if tries < len(SYN_AGAIN_S):
            again = max(self.world.now, since + SYN_AGAIN_S[tries])
            nature = self.world.nature
            self.world.at(again, nature, self._send_syn, party, source, target, made, since, tries + 1)

    @staticmethod
    def _refused(made: asyncio.Future[End], error: OSError) -> None:
        if not made.done():
            made.set_exception(error)

    def _connected(self, made: asyncio.Future[End], end: End) -> None:
        if made.done():
            # Nobody wants it any more.
            end.vanish("reset")
        elif end.is_gone:
            made.set_exception(ConnectionResetError("connection reset by peer"))
        else:
            made.set_result(end)

    # What happens to processes and machines.

    def drop(self, party: Party, how: str) -> None:
        """A process is no more: its connections go as ``End.vanish`` says."""
        for end in [end for end in self._ends if end.party is party]:
            end.vanish(how)

    # What happens to the network.

    def cut(self, source: str, target: str) -> None:
        """Nothing passes in this direction."""
        self.path(source, target).is_cut = True

    def mend(self, source: str, target: str) -> None:
        """It passes again; what waited is sent again after a while."""
        path = self.path(source, target)
        if not path.is_cut:
            return
        path.is_cut = False
        late_s = 1.5 * self.world.chance()
        stalled, path.stalled = path.stalled, deque()
        for end, what, data in stalled:
            if not (end.is_gone and end.machine.is_up is False):
                end.send_on(what, data, late_s)


class _Unaccepted:
    """The protocol of an end that no process has taken: what happens to it is not noticed."""

    is_ready = False

    def connection_lost(self, error: Exception | None) -> None:
        pass

    def eof_received(self) -> bool:
        return False

    def resume_writing(self) -> None:
        pass
