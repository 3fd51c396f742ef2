"""The sockets for beacons: on each interface one that sends, and sockets at one port for all of them.

On each interface a program sends from a socket of its own, to which nodes answer. Beside that it listens at the port
of clients for what nodes say unasked, and nodes listen at the port of nodes. Several programs, and several nodes, of
one machine listen at these ports at once (SO_REUSEADDR), as each gets what goes to all.

Everything runs on the loop. A network that refuses a datagram costs that datagram: the search goes on elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from dispy import config
from dispy.net.beacons.interfaces import Interface, interfaces
from dispy.net.beacons.network_changes import NetworkChanges
from dispy.protocol import beacon
from dispy.system.clock import Clock

logger = logging.getLogger("dispy.net")

LOOK_S = 15.0
"""Longest interval (seconds) of looking at the interfaces. Usually the kernel tells when something has changed."""

READ_MAX = 2000
"""Datagrams that are read in a second from one socket; the rest is dropped."""

Take = Callable[[bytes, tuple[str, int], int], None]
"""Called with a datagram, IP address and port of its source, and the zone of an IPv6 address that needs one."""


class Network(Protocol):
    """The networks of this machine, as both sides use them: ``Sockets``, or a played one."""

    def places(self) -> list[tuple[Interface, int]]:
        """Returns the interfaces at which something can be sent, and the UDP port from which it is sent there."""
        ...

    def send(self, each: Interface, data: bytes, port: int) -> None:
        """Send a datagram to a port of all machines of an interface."""
        ...

    def answer(self, source: tuple[str, int], zone: int, host: str, make: Callable[[str], bytes]) -> None:
        """Send a datagram to one address and port.

        Args:
            source: Address and port.
            zone: Number of the interface, for an IPv6 address that needs it.
            host: Address to send from; empty: the one that leads there.
            make: Called with the address that it is sent from; returns the datagram.
        """
        ...

    def close(self) -> None:
        """Close all sockets."""
        ...


class NewNetwork(Protocol):
    """Makes a network; the arguments are those of ``Sockets``."""

    def __call__(
        self,
        port: int,
        take: Take,
        clock: Clock,
        *,
        reads_senders: bool,
        on_change: Callable[[], None],
        uses_multicast: bool,
        only: str = "",
    ) -> Network:
        """Returns the network."""
        ...


class _Receiver:
    """A UDP socket that is read on the loop, ``READ_MAX`` datagrams a second."""

    def __init__(self, made: socket.socket, take: Take, clock: Clock) -> None:
        made.setblocking(False)
        self.socket = made
        self._take = take
        self._clock = clock
        self._second = 0
        self._read = 0
        self._pause: asyncio.TimerHandle | None = None
        """Timer that goes on reading; None while the socket is read."""
        asyncio.get_running_loop().add_reader(made.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        for _ in range(64):  # then others have their turn
            second = int(self._clock.monotonic())
            if second != self._second:
                self._second, self._read = second, 0
            if self._read >= READ_MAX:
                loop = asyncio.get_running_loop()
                loop.remove_reader(self.socket.fileno())
                self._pause = loop.call_later(1.0, self._resume)
                return
            try:
                data, source = self.socket.recvfrom(beacon.SIZE + 1)
            except BlockingIOError:
                return
            except OSError:  # a router has refused a datagram of ours
                continue
            self._read += 1
            self._take(data, (source[0].partition("%")[0], source[1]), source[3] if len(source) > 2 else 0)

    def _resume(self) -> None:
        self._pause = None
        asyncio.get_running_loop().add_reader(self.socket.fileno(), self._on_readable)

    def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        else:
            asyncio.get_running_loop().remove_reader(self.socket.fileno())
        self.socket.close()


class Sockets:
    """The interfaces of this machine, with a sending socket on each, and the sockets at a port for all of them.

    Args:
        port: UDP port to listen at.
        take: Called with each datagram.
        clock: Source of the time.
        reads_senders: True: answers come to the sending sockets.
        on_change: Called when another interface is there.
        uses_multicast: As of ``interfaces``.
        only: IP address; only its interface is used. Empty: all are.
    """

    def __init__(
        self,
        port: int,
        take: Take,
        clock: Clock,
        *,
        reads_senders: bool,
        on_change: Callable[[], None],
        uses_multicast: bool,
        only: str = "",
    ) -> None:
        self._port = port
        self._take = take
        self._clock = clock
        self._reads_senders = reads_senders
        self._on_change = on_change
        self._uses_multicast = uses_multicast
        self._only = only
        self._found: list[Interface] = []
        self._senders: dict[Interface, socket.socket] = {}
        """Sending sockets by interface."""
        self._receivers: list[_Receiver] = []
        self._listening: list[_Receiver] = []
        self._warned: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._changes = NetworkChanges(self._look)
        self._look(is_first=True)

    def _look(self, *, is_first: bool = False) -> None:
        """Use the interfaces that are there now; again after ``LOOK_S``."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)
        try:
            found = interfaces(uses_multicast=self._uses_multicast)
        except OSError as error:
            logger.debug("the interfaces of this machine cannot be read: %s", error)
            return
        if self._only:
            found = [each for each in found if each.address == self._only]
        if found == self._found:
            return
        is_more = not set(found) <= set(self._found)
        self._found = found
        self._open()
        if is_more and not is_first:
            self._on_change()

    def _open(self) -> None:
        """Open the sockets of all interfaces anew."""
        self._close_sockets()
        for each in list(self._found):
            try:
                made = _sender(each)
            except OSError as error:
                logger.debug("no beacons are sent at %s (%s): %s", each.address, each.name, error)
                self._found = [other for other in self._found if other != each]  # it may just be coming up
                continue
            self._senders[each] = made
            if self._reads_senders:
                self._receivers.append(_Receiver(made, self._take, self._clock))
        for family in (socket.AF_INET, socket.AF_INET6):
            here = [each for each in self._found if each.family == family]
            if not here:
                continue
            try:
                made = _listener(family, self._port, here)
            except OSError as error:
                self._warn(
                    str(family), f"UDP port {self._port} cannot be used, so others are found later: {error}"
                )
                continue
            self._listening.append(_Receiver(made, self._take, self._clock))

    def _warn(self, about: str, text: str) -> None:
        """Log a warning, once about each thing."""
        if about not in self._warned:
            self._warned.add(about)
            logger.warning("%s", text)

    def places(self) -> list[tuple[Interface, int]]:
        return [(each, made.getsockname()[1]) for each, made in self._senders.items()]

    def send(self, each: Interface, data: bytes, port: int) -> None:
        made = self._senders.get(each)
        if made is None:
            return
        where = (each.group, port, 0, each.index) if each.family == socket.AF_INET6 else (each.group, port)
        try:
            made.sendto(data, where)
        except OSError as error:
            logger.debug("a beacon to %s port %d was not sent: %s", each.group, port, error)

    def answer(self, source: tuple[str, int], zone: int, host: str, make: Callable[[str], bytes]) -> None:
        family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as made, suppress(OSError):
            made.setblocking(False)
            if host and (":" in host) == (":" in source[0]):
                made.bind((host, 0))
            made.connect((*source, 0, zone) if family == socket.AF_INET6 else source)
            made.send(make(made.getsockname()[0].partition("%")[0]))

    def _close_sockets(self) -> None:
        for receiver in (*self._receivers, *self._listening):
            receiver.close()
        if not self._reads_senders:
            for made in self._senders.values():
                made.close()
        self._senders, self._receivers, self._listening = {}, [], []

    def close(self) -> None:
        self._changes.close()
        if self._timer is not None:
            self._timer.cancel()
        self._close_sockets()


def _sender(each: Interface) -> socket.socket:
    """Returns a socket that sends to all machines of an interface, from our address there."""
    made = socket.socket(each.family, socket.SOCK_DGRAM)
    try:
        if each.family == socket.AF_INET:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(each.address))
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            made.bind((each.address, 0))
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, each.index)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
            made.bind((each.address, 0, 0, each.zone))
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def _listener(family: socket.AddressFamily, port: int, here: list[Interface]) -> socket.socket:
    """Returns a socket that gets what is sent to all machines, at a port, on some interfaces of one family."""
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET:
            made.bind(("", port))
            group = socket.inet_aton(config.IPv4MulticastGroup)
            for each in here:
                with suppress(OSError):  # joined already, by another address of the interface
                    member = group + socket.inet_aton(each.address)
                    made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind(("::", port))
            group = socket.inet_pton(family, config.IPv6MulticastGroup)
            for each in here:
                with suppress(OSError):
                    member = group + struct.pack("@I", each.index)
                    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
    except BaseException:
        made.close()
        raise
    return made
