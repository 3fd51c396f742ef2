"""Conversations with a connection by a peer that says what it likes, with TLS or without."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from contextlib import suppress
from functools import cache
from typing import Any

from msgspec.msgpack import Decoder

from dispy.net.connection import Connection
from dispy.net.stream_sinks import PoolSink
from dispy.protocol import frames, limits, node
from dispy.protocol.handshake import MAGIC, Challenge, Hello, Proof
from dispy.protocol.streams import MemorySink
from dispy.security.tls import Cipher, DialerTls, ListenerTls, Tls, dialer_tls, listener_tls

from .fakes import FakeLoop, FakeOwner, FakeTransport, Fault
from .mutations import HEADER, Mutator, encode

KEY = hashlib.sha256(b"the secret").digest()
OTHER_KEY = hashlib.sha256(b"another secret").digest()

STRANGER_BUFFER_MAX = 4 * limits.KIB
"""Bytes that a connection may take in one go before the proof."""

PROVED_BUFFER_MAX = limits.CONTROL_FRAME_MAX + limits.MIB
"""The same afterwards: the largest frame, and room to read ahead."""


@cache
def listening() -> ListenerTls:
    """A listener's TLS, made once."""
    return listener_tls(Tls(wanted=True))


@cache
def dialing() -> DialerTls:
    """A dialer's TLS that takes any certificate."""
    return dialer_tls(Tls(wanted=True))


def warm_up() -> None:
    """Make now what is made once: certificates take their time."""
    listening()
    dialing()


def framed(body: bytes) -> bytes:
    """A body in an honest control frame."""
    return HEADER.pack(frames.CONTROL, b"\0\0\0", 0, len(body)) + body


def mac_of(key: bytes, label: bytes, transcript: bytes, channel: bytes) -> bytes:
    """What proves knowledge of ``key``, by the words of the protocol's description."""
    text = b"".join(len(part).to_bytes(4, "big") + part for part in (label, transcript, b"node", channel))
    return hmac.digest(key, text, "sha256")


class Talk:
    """One conversation.

    Args:
        mutator: Decides how bytes are split.
        loop: The connection's.
        make: Makes the connection.
        is_dialer: Whether the connection dials.
        tls: What the connection encrypts with; None: nothing.
        is_peer_encrypting: Whether we do the same; else we say plain bytes, whatever it expects.
    """

    def __init__(
        self,
        mutator: Mutator,
        loop: FakeLoop,
        make: type[Connection],
        *,
        is_dialer: bool,
        tls: ListenerTls | DialerTls | None = None,
        is_peer_encrypting: bool = False,
    ) -> None:
        self._mutator = mutator
        self._loop = loop
        self.is_dialer = is_dialer
        self.owner = FakeOwner()
        self.transport = FakeTransport()
        self.said: list[bytes] = []
        """What it was told, in order; what was encrypted, in plain."""
        self.nonce = b""
        """The connection's."""
        self.is_encrypting = is_peer_encrypting
        """Whether we speak TLS."""
        self.channel = b""
        """What proofs of this connection are bound to."""
        self._cipher: Cipher | None = None
        self._decrypted = b""
        self._read_parts = 0
        role, peer_role = ("client", "node") if is_dialer else ("node", "client")
        decoder: Decoder[Any] = node.from_node_decoder if is_dialer else node.to_node_decoder
        self.connection = make(
            self.owner,
            decoder,
            KEY,
            role,
            peer_role,
            is_dialer=is_dialer,
            tls=tls,
            peer_name="node",
            on_settled=self.owner.on_settled,
            make_sink=PoolSink if is_dialer else MemorySink,
        )
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]  # as much of one as is needed
        loop.turn()
        if is_peer_encrypting:
            self._cipher = listening().cipher() if is_dialer else dialing().cipher("node")
            self._establish(self._cipher)
            encrypts = dialing() if not is_dialer else listening()
            self.channel = encrypts.channel_of(self._cipher)

    def _establish(self, cipher: Cipher) -> None:
        """Do what TLS has to do on both sides."""
        if not self.is_dialer:
            cipher.feed(b"")
        for _ in range(4):
            with suppress(ssl.SSLError):
                self.give(cipher.pending())
                self.hear()
        if not cipher.is_established:
            raise Fault(f"no TLS: {self.connection.error!r}")

    def say(self, data: bytes, *, is_damaged: bool = False) -> None:
        """Tell the connection something, in pieces, until it does not listen any more.

        Args:
            data: In plain.
            is_damaged: Some bytes on the wire are changed.
        """
        self.said.append(data)
        if self._cipher is not None:
            data = self._cipher.encrypt(data) if data else b""
        self.give(self._mutator.damage(data) if is_damaged else data)

    def give(self, data: bytes) -> None:
        """Bytes arrive."""
        connection, transport = self.connection, self.transport
        step = self._mutator.step(len(data))
        at = 0
        while at < len(data) and not transport.is_closed:
            buffer = connection.get_buffer(-1)
            size = len(buffer)
            if not 0 < size <= (PROVED_BUFFER_MAX if connection.is_ready else STRANGER_BUFFER_MAX):
                raise Fault(f"a buffer of {size} bytes, proved: {connection.is_ready}")
            part = data[at : at + min(step, size)]
            buffer[: len(part)] = part
            connection.buffer_updated(len(part))
            at += len(part)
        self._loop.turn()

    def hear(self) -> bytes:
        """All that the connection has said so far, in plain."""
        cipher = self._cipher
        if cipher is None:
            return self.transport.written
        parts = self.transport.parts
        for part in parts[self._read_parts :]:
            cipher.feed(bytes(part))
        self._read_parts = len(parts)
        buffer = memoryview(bytearray(4 * limits.KIB))
        while size := cipher.read_into(buffer):
            self._decrypted += buffer[:size]
        return self._decrypted

    def say_late(self, data: bytes) -> None:
        """Bytes that were under way when the connection was refused: they change nothing."""
        before = self.transport.written
        if self._cipher is not None:
            data = self._cipher.encrypt(data)
        buffer = self.connection.get_buffer(-1)[: len(data)]
        buffer[:] = data[: len(buffer)]
        self.connection.buffer_updated(len(buffer))
        self._loop.turn()
        if self.transport.written != before or self.connection.is_ready:
            raise Fault("a refused connection goes on")

    def end(self) -> None:
        """The connection is lost: it lets everything go, and tells so once."""
        self.connection.eof_received()
        self.connection.connection_lost(None)
        self._loop.turn()
        owner = self.owner
        if owner.closed != 1 or owner.settled != 1:
            raise Fault(f"told {owner.closed} times that it is closed, {owner.settled} that it is settled")
        if not all(timer.is_cancelled for timer in self._loop.timers):
            raise Fault("a timer of a lost connection runs on")

    def first_body(self) -> bytes:
        """The body of the first frame that the connection was told."""
        data = b"".join(self.said)
        return data[frames.HEADER_SIZE : frames.HEADER_SIZE + int.from_bytes(data[8 : frames.HEADER_SIZE])]

    def hello(self) -> bytes:
        """What a dialer says first."""
        return encode(Hello(MAGIC, [limits.VERSION], "client", self.nonce))

    def challenge(self) -> bytes:
        """What a listener answers to a right Hello."""
        return encode(Challenge(limits.VERSION, self.nonce))

    def _transcript(self) -> bytes:
        return self.hello() + self.first_body() if self.is_dialer else self.first_body() + self.challenge()

    def peer_mac(self, key: bytes = KEY, channel: bytes | None = None) -> bytes:
        """What the connection has to be told, after what it was told first."""
        label = b"listener" if self.is_dialer else b"dialer"
        return mac_of(key, label, self._transcript(), self.channel if channel is None else channel)

    def own_proof(self) -> bytes:
        """What the connection says to prove itself."""
        label = b"dialer" if self.is_dialer else b"listener"
        return encode(Proof(mac_of(KEY, label, self._transcript(), self.channel)))
