"""How programs reach a node: the sockets that it listens on, and its entry in this machine's list of nodes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from dispy.errors import StateDirectoryError
from dispy.net import connection, unix_sockets
from dispy.net.beacons.here import Here
from dispy.net.beacons.network import NewNetwork
from dispy.net.connection import Connection
from dispy.net.discovery import Entry, Listing
from dispy.net.late_tls import TlsAtFirst
from dispy.net.listener import Listener
from dispy.net.loopback import namespace
from dispy.net.unix_listener import UnixListener
from dispy.node.listening import listen
from dispy.protocol import node, streams
from dispy.protocol.node import to_node_decoder
from dispy.security.reach import may_announce
from dispy.security.secrets import Secret
from dispy.security.tls import ListenerTls
from dispy.settings import NodeSettings
from dispy.system.addresses import is_loopback, local
from dispy.system.clock import Clock
from dispy.system.liveness import this_process

logger = logging.getLogger("dispy.node")

KEEP_PULSES = 60
"""Pulses (1 s each) between checks that the node's entry in the list of this machine's nodes is there. An entry that
was removed is written again, since programs would not find the node."""


class Entrance:
    """The entrance of one node. Call ``listen``, then ``enter_list``.

    Args:
        owner: Object that is told what happens to connections.
        settings: Settings of the node: address, and if it is private.
        name: Name of the node.
        incarnation: 16 bytes that name this run of the node.
        secret: Secret shared with clients.
        tls: As of ``NodeParts``.
        has_socket: As of ``NodeParts``.
        make_sink: As of ``Connection``.
        clock: Source of the time.
        new_network: Makes the sockets for beacons.

    Attributes:
        address: Address and port that the node listens on; port 0 until it does.
        tracer: Makes the function that logs the messages of a connection; None without ``-d``.
    """

    def __init__(
        self,
        owner: connection.Owner,
        settings: NodeSettings,
        name: str,
        incarnation: bytes,
        secret: Secret,
        tls: Callable[[], ListenerTls] | None,
        *,
        has_socket: bool,
        make_sink: Callable[[int], streams.Sink],
        clock: Clock,
        new_network: NewNetwork,
    ) -> None:
        self.address = (settings.host, 0)
        self.tracer: Callable[[Connection], Callable[[str, Any], None]] | None = None
        self._owner = owner
        self._settings = settings
        self._name = name
        self._incarnation = incarnation
        self._secret = secret
        self._tls = TlsAtFirst(tls)
        self._has_socket = has_socket
        self._make_sink = make_sink
        self._clock = clock
        self._listener = Listener(self._new_connection, tls=self.uses_tls, prepare=self._tls.prepare)
        self._unix_listener: UnixListener | None = None
        """Listener for programs of our user on this machine; None: they come by TCP."""
        self._entry: Entry | None = None
        """Entry in this machine's list of nodes, by which programs find the node; None: not listed (private, drained,
        or no directory can be written to)."""
        self._new_network = new_network
        self._here: Here | None = None
        """Beacons, by which programs of other machines find the node; None: it sends none."""
        self._pulses = 0
        """Calls of ``keep_listed``; every ``KEEP_PULSES``-th checks the entry in the list of nodes."""

    @property
    def uses_tls(self) -> bool:
        """True if connections over TCP are encrypted."""
        return self._tls.is_used

    @property
    def socket_path(self) -> str:
        """Path of the Unix socket for programs of our user on this machine; empty if there is none."""
        return "" if self._unix_listener is None else str(self._unix_listener.path)

    def renew(self, secret: Secret) -> None:
        """Use another secret for connections to come."""
        self._secret = secret

    def listen(self) -> None:
        """Listen on the address of the settings, and on a Unix socket.

        Raises:
            OSError: The address cannot be used. ``listen`` may be called again.
        """
        self.address = listen(self._listener, self._settings)
        self._open_socket()

    def _open_socket(self) -> None:
        """Listen on a Unix socket, too. If there can be none a warning says what programs use instead.

        Sockets of dead nodes are removed, on a thread.
        """
        if not self._has_socket:
            return
        make = partial(self._new_connection, is_unix=True)
        try:
            self._unix_listener = UnixListener(make, *self.address)
        except StateDirectoryError as error:
            logger.warning(
                "programs of this machine come by TCP, as this node can have no socket: %s", error
            )
            return
        threading.Thread(target=unix_sockets.tidy, name="dispy tidies sockets", daemon=True).start()

    def enter_list(self, cpus: int) -> None:
        """Enter the node into the list of this machine's nodes, or update its entry; a private node is not listed.

        If the list cannot be written to, a warning says that programs have to name this node to find it.

        Args:
            cpus: Number of CPUs that the node offers.
        """
        self._announce()
        if self._entry is not None:
            self._entry.update(self._listing(cpus))
            return
        if self._settings.owner:
            return
        try:
            self._entry = Entry(self._listing(cpus))
        except StateDirectoryError as error:
            host, port = self.address
            logger.warning(
                "%s; programs find it if they name it: nodes=[(%r, %d)]", error, local(host), port
            )
            return
        threading.Thread(target=self._entry.tidy, name="dispy tidies", daemon=True).start()

    def _announce(self) -> None:
        """Have programs of other machines find the node, if they can reach it, and the secret is a random one."""
        if self._here is not None or is_loopback(self.address[0]) or not may_announce(self._secret):
            return
        base = self._settings.dispy_port
        self._here = Here(
            self._secret.keys.masters(), self._incarnation, self.address, (base, base + 1), self._clock,
            uses_multicast=self._settings.ipv4_udp_multicast, new_network=self._new_network,
        )  # fmt: skip

    def leave_list(self) -> None:
        """Leave the list of nodes, and send no beacons. Programs that know the node can still come."""
        if self._here is not None:
            self._here.close()
            self._here = None
        if self._entry is not None:
            self._entry.close()
            self._entry = None

    def keep_listed(self) -> None:
        """Check the entry in the list of nodes, each ``KEEP_PULSES``. Called once a second."""
        self._pulses += 1
        if self._entry is not None and self._pulses % KEEP_PULSES == 0:
            threading.Thread(target=self._entry.keep, name="dispy is listed", daemon=True).start()

    def close(self) -> None:
        """Leave the list, and listen no more. Connections that have proved themselves stay."""
        self.leave_list()
        if self._unix_listener is not None:
            self._unix_listener.close()
        self._listener.close()

    def _listing(self, cpus: int) -> Listing:
        """Returns the node's entry in the list of nodes: what programs on this machine need to reach it."""
        host, port = self.address
        return Listing(
            self._incarnation.hex(),
            local(host),
            port,
            self.uses_tls,
            self._name,
            cpus,
            this_process(),
            self._secret.fingerprint(),
            is_everywhere=local(host) != host,
            socket=self.socket_path,
            namespace=namespace(),
        )

    def _new_connection(
        self, on_settled: Callable[[Connection], None], is_unix: bool = False
    ) -> Connection:
        """Returns the ``Connection`` for a socket that a listener has accepted.

        Args:
            on_settled: Function of the listener that the connection calls once: when the peer has proved the secret,
                or the connection is gone. Until then the listener counts the connection as half open.
            is_unix: True for the Unix socket, over which there is no TLS.
        """
        made = Connection(
            self._owner,
            to_node_decoder,
            self._secret.keys,
            "node",
            "client",
            is_dialer=False,
            tls=None if is_unix else self._tls.made,
            on_settled=on_settled,
            make_sink=self._make_sink,
            clock=self._clock,
            farewell=lambda error: node.Leaving(str(error)),
        )
        if self.tracer is not None:
            made.trace = self.tracer(made)
        return made
