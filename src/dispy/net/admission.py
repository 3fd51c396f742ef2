"""Fair shares of a listener among those who have not proved the secret yet: whose turn it is, and who gives way.

Decisions only: no socket and no clock. ``net.listener`` does what they say.

A *dialer* is one IPv4 address, one IPv6 /64 (whoever has one address of a /64 mostly has them all), or all that come
over a local socket. The stages of a half-open connection, and what bounds each of them:

    stage      meaning                                    bound
    silent     the dialer has said nothing                ``SILENT_MAX`` for each dialer: one more ends its oldest
    waiting    the first bytes are right, none is read    a turn for each dialer, and a token of the dialer's bucket
    busy       TLS and proof are under way                the tokens that were taken; one of all in ``BUSY_SHARE``

Busy connections cost CPU time, the others hardly any. So the rate is limited where a connection becomes busy: a
dialer's bucket has ``TOKENS_MAX`` tokens, and gets ``TOKENS_PER_S`` back each second. **A proof gives its token
back.** So a crowd of programs with the secret, or one that reconnects, never runs out of tokens; failed attempts do.

All stages together have room for ``HALF_OPEN_MAX``. When it is used up, the oldest silent or waiting connection
of the dialer with most of them gives way (longest queue drop: Suter et al. 1999, "Buffer management schemes for
supporting TCP in gigabit routers with per-flow queueing"). A dialer that floods pushes out its own connections
first. Busy connections give way to busy ones only, the oldest first, and take half of the room at most: otherwise
whoever stops in the middle of many handshakes would leave no room to come to a turn. If there are more dialers than
room, each with one connection, the oldest connection gives way: it has had the time of some hundred arrivals, and a
handshake takes milliseconds.

Old connections give way, not new ones. An honest program speaks at once, so it has left the silent stage before a
silent flood from its own address pushes it out.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

HALF_OPEN_MAX = 512
"""Most half-open connections of a listener: about 10 MB with sockets and buffers. A handshake lasts milliseconds, so
an honest crowd of thousands per second stays below this limit."""

BUSY_SHARE = 2
"""Busy connections take one in so many places at most; one more ends the oldest."""

SILENT_MAX = 128
"""Most silent connections of one dialer. Many programs can be behind one router, but rarely more than 128 of them are
between connect and their first byte."""

TOKENS_MAX = 64
"""Tokens of a full bucket: handshakes of one dialer that may be under way at once, or fail in a row. Each costs up to
1.6 ms of CPU time, with TLS, so that a burst takes a tenth of a second."""

TOKENS_PER_S = 20.0
"""Failed handshakes in a second that one dialer may go on with: 3 % of a CPU, with TLS."""

KNOWN_PER_S = 200.0
"""Failed handshakes in a second for a dialer that has proved the secret within ``KNOWN_S``: programs with a wrong
secret, or somebody who floods, may share an address with one that was here before and comes back."""
KNOWN_S = 600.0
"""Time (seconds) for which a proof of one connection raises the rate of all that come from its address."""

REMEMBERED_MAX = 4096
"""Most dialers without a connection whose bucket is remembered, and most whose proof is: about 1 MB. The one
that left first is forgotten first; its next connection finds a full bucket."""

LOCAL = ""
"""Name of the dialer for connections without an address: those of a local socket, which only this user can open.
It needs no tokens."""

Conn = TypeVar("Conn", bound=Hashable)
Value = TypeVar("Value")


def dialer_of(address: str) -> str:
    """Name of the dialer that an address belongs to.

    Args:
        address: IP address as ``accept`` gives it, perhaps with a zone ("fe80::1%eth0"); empty for a local socket.

    Returns:
        The address itself for IPv4, also where it is mapped into IPv6; the network for IPv6 ("2001:db8::/64"), with
        its zone ("fe80::/64%eth0").
    """
    if ":" not in address:
        return address
    text, _, zone = address.partition("%")
    parsed = ipaddress.IPv6Address(text)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    network = ipaddress.IPv6Address(parsed.packed[:8] + bytes(8))
    return f"{network}/64%{zone}" if zone else f"{network}/64"


class _Dialer(Generic[Conn]):
    """One dialer with its half-open connections and its bucket."""

    __slots__ = ("busy", "filled_at", "name", "silent", "tokens", "waiting")

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.silent: OrderedDict[Conn, None] = OrderedDict()
        """Silent connections, oldest first (an ordered set: the values are None)."""
        self.waiting: OrderedDict[Conn, None] = OrderedDict()
        """Waiting connections, in the order in which they get their turn."""
        self.busy = 0
        """Number of busy connections."""
        self.tokens = float(TOKENS_MAX)
        self.filled_at = now
        """Time up to which ``tokens`` has been refilled (seconds)."""

    @property
    def idle(self) -> int:
        """Number of silent and waiting connections."""
        return len(self.silent) + len(self.waiting)


class Admission(Generic[Conn]):
    """The half-open connections of a listener, by dialer.

    A connection is whatever the caller takes for one; it must be hashable. Times are seconds of one
    monotonic clock, given with each call.
    """

    def __init__(self) -> None:
        self._dialer_by_connection: dict[Conn, _Dialer[Conn]] = {}
        self._dialers: dict[str, _Dialer[Conn]] = {}
        """Dialers that have a half-open connection, by name."""
        self._spent: OrderedDict[str, _Dialer[Conn]] = OrderedDict()
        """Dialers without a half-open connection whose bucket was not full when the last one ended, first gone
        first."""
        self._proved_at: OrderedDict[str, float] = OrderedDict()
        """Time of the last proof (seconds) by name of the dialer, oldest first."""
        self._busy: OrderedDict[Conn, None] = OrderedDict()
        """Busy connections of all dialers, in the order in which they became busy."""
        self._levels: list[OrderedDict[_Dialer[Conn], None]] = [
            OrderedDict() for _ in range(HALF_OPEN_MAX + 1)
        ]
        """Dialers by their number of idle connections (the index), each level in the order of coming to it. Level 0
        stays empty. So the dialer with most is found without looking at all."""
        self.room = HALF_OPEN_MAX
        """Most half-open connections; the caller lowers it while it lacks descriptors."""
        self._top = 0
        """Index of a level above which all are empty."""
        self._ready: OrderedDict[_Dialer[Conn], None] = OrderedDict()
        """Dialers with waiting connections that may have a token, in the order of their turns."""
        self._dry: OrderedDict[_Dialer[Conn], None] = OrderedDict()
        """Dialers with waiting connections that had no token when it was their turn."""

    def __len__(self) -> int:
        return len(self._dialer_by_connection)

    def connections(self) -> list[Conn]:
        """Returns all half-open connections, in the order of their arrival."""
        return list(self._dialer_by_connection)

    def __contains__(self, connection: object) -> bool:
        return connection in self._dialer_by_connection

    @property
    def has_turns(self) -> bool:
        """True if ``take`` may give a connection now."""
        return bool(self._ready)

    @property
    def has_dry(self) -> bool:
        """True if connections wait for a token: ``refill``, then ``take``, must be called from time to time."""
        return bool(self._dry)

    def arrive(self, connection: Conn, address: str, now: float) -> Conn | None:
        """Take in a new connection, as silent.

        Args:
            connection: The connection.
            address: IP address of the dialer; empty for a local socket.
            now: The present (seconds).

        Returns:
            The connection that gives way, which the caller must close; None: there was room.
        """
        name = dialer_of(address)
        gone: Conn | None = None
        dialer = self._dialers.get(name)
        if dialer is not None and len(dialer.silent) >= SILENT_MAX:
            gone = next(iter(dialer.silent))
            self.leave(gone, now)
        elif len(self._dialer_by_connection) >= self.room:
            gone = self.give_way(now)
        dialer = self._dialer(name, now)
        self._dialer_by_connection[connection] = dialer
        dialer.silent[connection] = None
        self._rank(dialer, dialer.idle - 1)
        return gone

    def ask(self, connection: Conn) -> None:
        """Have a silent connection wait for its turn, as its first bytes are right."""
        dialer = self._dialer_by_connection[connection]
        del dialer.silent[connection]
        dialer.waiting[connection] = None
        if dialer not in self._dry:
            self._ready[dialer] = None

    def take(self, now: float) -> tuple[Conn, Conn | None] | None:
        """Let a waiting connection have its turn. Dialers have turns one after the other; each turn takes a token.

        Returns:
            The connection, which is busy from now on, and the busy one that gives way to it (None: there was room),
            which the caller must close. None: nobody has a turn now.
        """
        while self._ready:
            dialer, _ = self._ready.popitem(last=False)
            if not self._spend(dialer, now):
                self._dry[dialer] = None
                continue
            connection, _ = dialer.waiting.popitem(last=False)
            self._rank(dialer, dialer.idle + 1)
            if dialer.waiting:
                self._ready[dialer] = None
            dialer.busy += 1
            gone: Conn | None = None
            if len(self._busy) >= max(1, self.room // BUSY_SHARE):
                gone = next(iter(self._busy))
                self.leave(gone, now)
            self._busy[connection] = None
            return connection, gone
        return None

    def refill(self) -> None:
        """Let dialers that had no token try again; otherwise only a proof of one of their own gives them a turn."""
        self._ready.update(self._dry)
        self._dry.clear()

    def leave(self, connection: Conn, now: float, *, proved: bool = False) -> None:
        """Take out a connection that has proved the secret, or is closed. One that is not here is passed over.

        Args:
            connection: The connection, in any stage.
            now: The present (seconds).
            proved: True if it has proved the secret: its token goes back, and the dialer is known from now on.
        """
        dialer = self._dialer_by_connection.pop(connection, None)
        if dialer is None:
            return
        if connection in self._busy:
            del self._busy[connection]
            dialer.busy -= 1
        else:
            del (dialer.silent if connection in dialer.silent else dialer.waiting)[connection]
            self._rank(dialer, dialer.idle + 1)
        if proved:
            self._refill(dialer, now)
            dialer.tokens = min(TOKENS_MAX, dialer.tokens + 1)
            _remember(self._proved_at, dialer.name, now)
            if dialer in self._dry:
                del self._dry[dialer]
                self._ready[dialer] = None
        if not dialer.waiting:
            for turns in (self._ready, self._dry):
                if dialer in turns:
                    del turns[dialer]
        if not dialer.busy and not dialer.idle:
            del self._dialers[dialer.name]
            self._refill(dialer, now)
            if dialer.tokens < TOKENS_MAX:
                _remember(self._spent, dialer.name, dialer)

    def give_way(self, now: float) -> Conn | None:
        """Take out the connection that is worth least, which the caller must close.

        Returns:
            The oldest silent connection, else the first waiting one, of the dialer with most of both; else the oldest
            busy one. None: there is none.
        """
        while self._top and not self._levels[self._top]:
            self._top -= 1
        if self._top:
            dialer = next(iter(self._levels[self._top]))
            connection = next(iter(dialer.silent or dialer.waiting))
        elif self._busy:
            connection = next(iter(self._busy))
        else:
            return None
        self.leave(connection, now)
        return connection

    def _dialer(self, name: str, now: float) -> _Dialer[Conn]:
        dialer = self._dialers.get(name)
        if dialer is None:
            dialer = self._spent.pop(name) if name in self._spent else _Dialer(name, now)
            self._dialers[name] = dialer
        return dialer

    def _rank(self, dialer: _Dialer[Conn], before: int) -> None:
        """Put a dialer into the level of its number of idle connections, out of that of the number before."""
        if before:
            del self._levels[before][dialer]
        if idle := dialer.idle:
            self._levels[idle][dialer] = None
            self._top = max(self._top, idle)

    def _refill(self, dialer: _Dialer[Conn], now: float) -> None:
        is_known = now - self._proved_at.get(dialer.name, -math.inf) < KNOWN_S
        rate = KNOWN_PER_S if is_known else TOKENS_PER_S
        dialer.tokens = min(TOKENS_MAX, dialer.tokens + (now - dialer.filled_at) * rate)
        dialer.filled_at = now

    def _spend(self, dialer: _Dialer[Conn], now: float) -> bool:
        """Take a token of a dialer's bucket; False if there is none."""
        if dialer.name == LOCAL:
            return True
        self._refill(dialer, now)
        if dialer.tokens < 1:
            return False
        dialer.tokens -= 1
        return True


def _remember(table: OrderedDict[str, Value], name: str, value: Value) -> None:
    """Note a value as the latest of a table, which forgets its earliest beyond ``REMEMBERED_MAX``."""
    table[name] = value
    table.move_to_end(name)
    if len(table) > REMEMBERED_MAX:
        table.popitem(last=False)
