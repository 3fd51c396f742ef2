"""How two peers prove to each other that they know the same secret, before anything else is said.

Four small frames; D dials, L listens:

    D → L   Hello      versions D speaks, D's role, a fresh nonce
    L → D   Challenge  the version chosen, a fresh nonce
    D → L   Proof      HMAC-SHA-256(key, "dialer"   | transcript | L's role | channel)
    L → D   Proof      HMAC-SHA-256(key, "listener" | transcript | L's role | channel)

The transcript is the bytes of Hello and Challenge, so versions, both nonces and D's role are bound;
L's role is what L is and what D expects, and is never said. The two labels differ, so no proof can
be sent back to its maker; the dialer proves first, so a stranger gets no proof out of a listener.
``channel`` is the SHA-256 of the certificate under TLS and empty without. Whatever goes wrong, the
listener says one constant refusal.
"""

from __future__ import annotations

import hmac
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from dispy.errors import AuthenticationError, RemoteProtocolError, VersionError
from dispy.protocol import limits
from dispy.protocol.frames import first_message, guess_protocol

MAGIC = "dispy"
NONCE_SIZE = 32

Nonce = Annotated[bytes, Meta(min_length=NONCE_SIZE, max_length=NONCE_SIZE)]
Role = Annotated[str, Meta(max_length=16)]


class Hello(Struct, array_like=True, tag=1):
    """The dialer's opening."""

    magic: Annotated[str, Meta(max_length=8)]
    versions: Annotated[list[Annotated[int, Meta(ge=0, le=65535)]], Meta(max_length=16)]
    role: Role
    nonce: Nonce


class Challenge(Struct, array_like=True, tag=2):
    """The listener's answer."""

    version: Annotated[int, Meta(ge=0, le=65535)]
    nonce: Nonce


class Proof(Struct, array_like=True, tag=3):
    """Shows knowledge of the secret."""

    mac: Annotated[bytes, Meta(min_length=32, max_length=32)]


class Refused(Struct, array_like=True, tag=4):
    """The one thing a stranger is told. It is public anyway which versions a listener speaks and whether with TLS."""

    versions: Annotated[list[Annotated[int, Meta(ge=0, le=65535)]], Meta(max_length=16)]
    tls: bool = False


_Message = Hello | Challenge | Proof | Refused
_decoder: msgspec.msgpack.Decoder[_Message] = msgspec.msgpack.Decoder(_Message)
_encode = msgspec.msgpack.Encoder().encode

REFUSAL = _encode(Refused([limits.VERSION]))
TLS_REFUSAL = _encode(Refused([limits.VERSION], tls=True))
"""For those who speak without TLS to a listener that wants it."""


def _begins_tls(first: bytes) -> bool:
    """Whether it is a record of TLS with the start of a ClientHello of less than 64 KiB."""
    length = int.from_bytes(first[3:5]) if len(first) >= 5 else 1
    return (
        b"\x16\x03".startswith(first[:2])
        and first[5:6] in (b"", b"\x01")
        # A record may hold a single byte.
        and (length < 2 or first[6:7] in (b"", b"\0"))
    )


def find_fault(first: bytes, *, tls: bool) -> tuple[str, bytes] | None:
    """Tell from the first bytes that a listener hears whether they are a stranger's for sure.

    Most strangers are found out by this, for the price of reading a few bytes; it lets pass whatever
    a ``Handshake`` might accept.

    Args:
        first: At least one byte.
        tls: Whether the listener speaks TLS only.

    Returns:
        What is wrong, for the log, and the message that the stranger is told, if any; None for who may be a peer.
    """
    said = guess_protocol(first)
    if tls:
        if _begins_tls(first):
            return None
        # Who speaks TLS, after a fashion, does not understand our words.
        return ("broken TLS", b"") if said == "TLS" else (f"{said} instead of TLS", TLS_REFUSAL)
    try:
        body = first_message(first, limits.HANDSHAKE_FRAME_MAX)
        if body is not None and not isinstance(_decode(body), Hello):
            raise RemoteProtocolError("no Hello")
    except RemoteProtocolError as error:
        return f"{said} before the proof: {error}", REFUSAL
    return None


def _decode(body: bytes) -> _Message:
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError("the peer does not speak dispy's protocol") from error


class Handshake:
    """One side of the handshake: messages in, messages out, ``done`` at the end.

    Args:
        key: The shared secret (32 bytes).
        role: What we are: "client", "node", …
        peer_role: What the peer must be.
        nonce: 32 fresh random bytes.
        is_dialer: Which side we are.
        channel: Identifies the encrypted channel; equal on both sides if nobody is in between.
    """

    def __init__(
        self, key: bytes, role: str, peer_role: str, nonce: bytes, *, is_dialer: bool, channel: bytes = b""
    ) -> None:
        self._key = key
        self._role = role
        self._peer_role = peer_role
        self._nonce = nonce
        self._is_dialer = is_dialer
        self._channel = channel
        self._transcript = b""
        self._expects: type[Hello | Challenge | Proof] = Challenge if is_dialer else Hello
        self.done = False

    def start(self) -> bytes | None:
        """The first message to send, if we are the one to begin."""
        if not self._is_dialer:
            return None
        hello = _encode(Hello(MAGIC, [limits.VERSION], self._role, self._nonce))
        self._transcript = hello
        return hello

    def receive(self, body: memoryview | bytes) -> bytes | None:
        """Handle one message; returns the answer to send, if there is one.

        Raises:
            AuthenticationError: The peer does not know the secret, or refused our proof.
            VersionError: No version in common.
            RemoteProtocolError: Not a dispy peer, or a message out of turn.
        """
        body = bytes(body)
        message = _decode(body)
        if isinstance(message, Refused) and self._is_dialer:
            raise self._refusal(message)
        if self.done or type(message) is not self._expects:
            raise RemoteProtocolError(f"{type(message).__name__} out of turn")
        if isinstance(message, Hello):
            return self._on_hello(message, body)
        if isinstance(message, Challenge):
            return self._on_challenge(message, body)
        assert isinstance(message, Proof)
        return self._on_proof(message)

    def _on_hello(self, hello: Hello, body: bytes) -> bytes:
        if hello.magic != MAGIC:
            raise RemoteProtocolError("the peer does not speak dispy's protocol")
        if limits.VERSION not in hello.versions:
            raise VersionError(
                f"the peer speaks versions {hello.versions}, we speak {limits.VERSION}",
                hint="install the same dispy on both sides",
            )
        if hello.role != self._peer_role:
            raise AuthenticationError(f"the peer is a {hello.role!r}, not a {self._peer_role}")
        challenge = _encode(Challenge(limits.VERSION, self._nonce))
        self._transcript = body + challenge
        self._expects = Proof
        return challenge

    def _on_challenge(self, challenge: Challenge, body: bytes) -> bytes:
        if challenge.version != limits.VERSION:
            raise VersionError(f"the peer chose version {challenge.version}, we speak {limits.VERSION}")
        self._transcript += body
        self._expects = Proof
        return _encode(Proof(self._mac(b"dialer")))

    def _on_proof(self, proof: Proof) -> bytes | None:
        if not hmac.compare_digest(proof.mac, self._mac(b"listener" if self._is_dialer else b"dialer")):
            raise AuthenticationError(
                "the peer does not know our secret", hint="give both sides the same secret"
            )
        self.done = True
        return None if self._is_dialer else _encode(Proof(self._mac(b"listener")))

    def _mac(self, label: bytes) -> bytes:
        listener_role = self._peer_role if self._is_dialer else self._role
        parts = (label, self._transcript, listener_role.encode(), self._channel)
        text = b"".join([len(part).to_bytes(4, "big") + part for part in parts])
        return hmac.digest(self._key, text, "sha256")

    def _refusal(self, refused: Refused) -> AuthenticationError | VersionError:
        if limits.VERSION not in refused.versions:
            return VersionError(
                f"the peer speaks versions {refused.versions}, we speak {limits.VERSION}",
                hint="install the same dispy on both sides",
            )
        if refused.tls and not self._channel:
            return AuthenticationError("the peer speaks TLS only", hint="give tls=True")
        return AuthenticationError("the peer refused our secret", hint="give both sides the same secret")
