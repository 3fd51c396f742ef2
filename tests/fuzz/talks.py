"""Conversations with a connection by a peer that says what it likes, with TLS or without.

The connection is the pure machine, driven as its shell drives it: there is no socket, loop or clock.
"""

from __future__ import annotations

import hashlib
import hmac
from contextlib import suppress
from functools import cache
from typing import Any

from msgspec.msgpack import Decoder

from dispy.net.stream_sinks import PoolSink
from dispy.protocol import frames, limits, node
from dispy.protocol.connection.faults import is_of_peer
from dispy.protocol.connection.machine import ConnectionMachine
from dispy.protocol.connection.states import HANDLED, PROVEN
from dispy.protocol.handshake import MAGIC, Challenge, Hello, Proof
from dispy.protocol.streams import MemorySink, MemorySource
from dispy.security.keys import alone
from dispy.security.tls import Cipher, DialerTls, ListenerTls, Tls, TlsError, dialer_tls, listener_tls

from .mutations import HEADER, Mutator, encode

KEY = hashlib.sha256(b"the secret").digest()
OTHER_KEY = hashlib.sha256(b"another secret").digest()

STRANGER_BUFFER_MAX = 4 * limits.KIB
"""Bytes that a connection may take in one go before the proof."""

PROVED_BUFFER_MAX = limits.CONTROL_FRAME_MAX + limits.MIB
"""The same afterwards: the largest frame, and room to read ahead."""

OTHER = {"client": "node", "node": "client"}
"""The role that a peer must have, by ours."""


class Fault(Exception):
    """Something that must not happen, whatever a stranger says."""


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


class Payload(MemorySource):
    """A payload that the connection sends; says how often it was let go."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.closed = 0

    def close(self) -> None:
        """It is not wanted any more."""
        self.closed += 1


class Talk:
    """One conversation.

    Args:
        mutator: Decides how bytes are split.
        make: Makes the machine of the connection.
        nonce: The connection's.
        role: The connection's, whoever dials.
        is_dialer: Whether the connection dials.
        tls: What the connection encrypts with; None: nothing.
        is_peer_encrypting: Whether we do the same; else we say plain bytes, whatever it expects.
    """

    def __init__(
        self,
        mutator: Mutator,
        make: type[ConnectionMachine],
        nonce: bytes,
        role: str,
        *,
        is_dialer: bool,
        tls: ListenerTls | DialerTls | None = None,
        is_peer_encrypting: bool = False,
    ) -> None:
        self._mutator = mutator
        self.is_dialer = is_dialer
        self.role, self.peer_role = role, OTHER[role]
        self.said: list[bytes] = []
        """What it was told, in order; what was encrypted, in plain."""
        self.nonce = nonce
        self.written: list[bytes] = []
        """What it has said, as on the wire."""
        self.is_proven = False
        """It takes its peer for one that knows the secret."""
        self.payloads: list[Payload] = []
        """What it was given to send as streams."""
        self.is_encrypting = is_peer_encrypting
        """Whether we speak TLS."""
        self.channel = b""
        """What proofs of this connection are bound to."""
        self._cipher: Cipher | None = None
        self._decrypted = b""
        self._read_parts = 0
        self._now = 0.0
        decoder: Decoder[Any] = node.from_node_decoder if role == "client" else node.to_node_decoder
        self.machine = make(
            decoder,
            alone(KEY),
            role,
            self.peer_role,
            is_dialer=is_dialer,
            tls=tls,
            peer_name="peer",
            make_sink=PoolSink if role == "client" else MemorySink,
        )
        self.machine.start(nonce, 0.0)
        self.send_all()
        if is_peer_encrypting:
            self._cipher = listening().cipher() if is_dialer else dialing().cipher("peer")
            self._establish(self._cipher)
            encrypts = dialing() if not is_dialer else listening()
            self.channel = encrypts.channel_of(self._cipher)

    @property
    def is_over(self) -> bool:
        """The connection does not listen any more."""
        return self.machine.is_over

    def _establish(self, cipher: Cipher) -> None:
        """Do what TLS has to do on both sides."""
        if not self.is_dialer:
            cipher.feed(b"")
        for _ in range(4):
            with suppress(TlsError):
                self.give(cipher.pending())
                self.hear()
        if not cipher.is_established:
            raise Fault(f"no TLS: {self.machine.error!r}")

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
        machine = self.machine
        step = self._mutator.step(len(data))
        at = 0
        while at < len(data) and not machine.is_over:
            buffer = machine.writable()
            size = len(buffer)
            if not 0 < size <= (PROVED_BUFFER_MAX if machine.is_ready else STRANGER_BUFFER_MAX):
                raise Fault(f"a buffer of {size} bytes, proved: {machine.is_ready}")
            part = data[at : at + min(step, size)]
            buffer[: len(part)] = part
            self._receive(len(part))
            at += len(part)
        self.send_all()

    def _receive(self, count: int) -> None:
        machine = self.machine
        self._now += 0.001
        try:
            machine.received(count)
            while (event := machine.next_event(self._now)) is not None:
                if event is HANDLED:
                    continue
                if event is PROVEN:
                    if self.is_proven:
                        raise Fault("proved twice")
                    self.is_proven = True
                else:
                    self._take(event)
        except Exception as error:
            if not is_of_peer(error):
                raise
            machine.refuse(error)

    def _take(self, message: Any) -> None:
        """Take the streams that a message refers to, as nodes and links do."""
        if not self.is_proven or not self.machine.is_ready:
            raise Fault(f"{message!r} before the proof, or after the end")
        places = [job.where for job in getattr(message, "jobs", ())]
        for part in (message, *places, *getattr(message, "ended", ())):
            stream = getattr(part, "stream", 0)
            if stream:
                self.machine.incoming.take(stream)

    def send_all(self) -> None:
        """The connection says what it has to say; nothing holds it up."""
        machine = self.machine
        self.written.append(machine.data_to_send())
        while parts := machine.next_chunk(self._now):
            self.written += map(bytes, parts)

    def send_large(self, data: bytes) -> None:
        """Have the connection send a payload."""
        large = node.Provisional(1, 7, 1, 1, b"", 0)
        self.payloads.append(Payload(data))
        self.machine.send_streamed([(large, "stream", self.payloads[-1])], large)

    def hear(self) -> bytes:
        """All that the connection has said so far, in plain."""
        cipher = self._cipher
        if cipher is None:
            return b"".join(self.written)
        for part in self.written[self._read_parts :]:
            cipher.feed(part)
        self._read_parts = len(self.written)
        buffer = memoryview(bytearray(4 * limits.KIB))
        while size := cipher.read_into(buffer):
            self._decrypted += buffer[:size]
        return self._decrypted

    def say_late(self, data: bytes) -> None:
        """Bytes that were under way when the connection was refused: they change nothing."""
        before = b"".join(self.written)
        if self._cipher is not None:
            data = self._cipher.encrypt(data)
        buffer = self.machine.writable()[: len(data)]
        buffer[:] = data[: len(buffer)]
        self._receive(len(buffer))
        self.send_all()
        if b"".join(self.written) != before or self.machine.is_ready:
            raise Fault("a refused connection goes on")

    def end(self) -> None:
        """The connection is lost: it lets everything go, and has nothing more to say."""
        machine = self.machine
        machine.closed()
        self.send_all()
        if machine.is_ready or not machine.is_over or machine.next_event(self._now) is not None:
            raise Fault("a lost connection goes on")
        if any(payload.closed != 1 for payload in self.payloads):
            raise Fault(f"payloads were let go {[payload.closed for payload in self.payloads]} times")

    def first_body(self) -> bytes:
        """The body of the first frame that the connection was told."""
        data = b"".join(self.said)
        return data[frames.HEADER_SIZE : frames.HEADER_SIZE + int.from_bytes(data[8 : frames.HEADER_SIZE])]

    def hello(self) -> bytes:
        """What the connection says first if it dials."""
        return encode(Hello(MAGIC, [limits.VERSION], self.role, self.nonce))

    def challenge(self) -> bytes:
        """What the connection answers to a right Hello if it listens."""
        return encode(Challenge(limits.VERSION, self.nonce))

    def peer_opening(self) -> bytes:
        """An honest first frame of its peer."""
        nonce = bytes(32)
        return framed(
            encode(
                Challenge(limits.VERSION, nonce)
                if self.is_dialer
                else Hello(MAGIC, [limits.VERSION], self.peer_role, nonce)
            )
        )

    def _mac(self, key: bytes, *, of_dialer: bool, channel: bytes) -> bytes:
        """What proves knowledge of ``key``, by the words of the protocol's description."""
        transcript = (
            self.hello() + self.first_body() if self.is_dialer else self.first_body() + self.challenge()
        )
        listener_role = self.peer_role if self.is_dialer else self.role
        parts = (b"dialer" if of_dialer else b"listener", transcript, listener_role.encode(), channel)
        return hmac.digest(key, b"".join(len(part).to_bytes(4, "big") + part for part in parts), "sha256")

    def peer_mac(self, key: bytes = KEY, channel: bytes | None = None) -> bytes:
        """What the connection has to be told, after what it was told first."""
        bound = self.channel if channel is None else channel
        return self._mac(key, of_dialer=not self.is_dialer, channel=bound)

    def own_proof(self) -> bytes:
        """What the connection says to prove itself."""
        return encode(Proof(self._mac(KEY, of_dialer=self.is_dialer, channel=self.channel)))
