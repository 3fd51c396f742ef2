"""The handshake: two peers prove to each other that they know the same secret, before any other message.

Who dials and who is what are independent: a client may dial a node, or a node a client. Both sides must agree on both
roles, and each checks them.

Four small frames. D is the dialer, L the listener:

    D → L   Hello      versions D speaks, D's role, a fresh nonce, identity of D's key
    L → D   Challenge  the version chosen, a fresh nonce, identities of L's keys
    D → L   Proof      HMAC-SHA-256(key, "dialer"   | transcript | L's role | channel)
    L → D   Proof      HMAC-SHA-256(key, "listener" | transcript | L's role | channel)

The key is the one that both have in common (``security.keys``). Who has a master secret says no identity: it proves
the master itself, or makes the peer's derived key from the identity that the peer says.

Why each part is there:

- The transcript is the bytes of Hello and Challenge. It binds versions, both nonces and D's role into the proof.
- L's role ("node", …) is what L is and what D expects. It is never sent: a listener of another role fails the proof.
  So no side is talked into another role than its own, nor a connection of one direction passed off as the other.
- The two labels differ, so no proof can be sent back to its maker (reflection attack).
- The dialer proves first, so a stranger gets no proof out of a listener.
- ``channel`` is what no other connection has: under TLS the listener's certificate and this session, on plain
  loopback both ends' addresses and ports. Somebody in between has two connections, and fails.
- On any fault the listener sends one constant refusal, so a stranger learns nothing about the reason. Identities
  count only after the proof: one that is unknown, revoked, expired or of a wrong role gets the same challenge, the
  same number of HMACs and the same refusal as any other. The reason is in the listener's log.

States of ``Handshake`` (any other message ends it with ``RemoteProtocolError``):

    side       waits for    answers       then
    dialer     Challenge    Proof         waits for Proof
    dialer     Proof        nothing       done
    listener   Hello        Challenge     waits for Proof
    listener   Proof        Proof         done
"""

from __future__ import annotations

import hmac
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from dispy.errors import AuthenticationError, RemoteProtocolError, VersionError
from dispy.protocol import limits
from dispy.protocol.frames import first_message, guess_protocol
from dispy.security import identities, keys
from dispy.security.identities import Identity, another_key
from dispy.security.key_text import DERIVED_MAX
from dispy.security.keys import Keys

MAGIC = "dispy"  # first field of Hello: tells dispy's peers from other programs that speak msgpack
NONCE_SIZE = 32  # bytes

SAME_SECRET = "give both sides the same secret"
"""Usual advice to the user where a proof fails."""


def how_to_use_tls(role: str) -> str:
    """Returns the advice for the user of a dialer in this role, where the peer speaks TLS and we do not."""
    return "start this node without --no_tls" if role == "node" else "give tls=True"


_WHERE_KEYS_ARE_MADE = "'dispy secret derive' makes a new key, where the secret is that it was derived from"


Nonce = Annotated[bytes, Meta(min_length=NONCE_SIZE, max_length=NONCE_SIZE)]
Role = Annotated[str, Meta(max_length=16)]
Said = Annotated[str, Meta(max_length=identities.TEXT_MAX)]


class Hello(Struct, array_like=True, tag=1):
    """The dialer's first message. ``versions`` are the protocol versions that it speaks (``limits.VERSION``).

    ``role`` is the dialer's ("client"); the listener refuses another than it expects. ``nonce``: 32 fresh random
    bytes. ``identity``: what the dialer's derived key opens; empty: the dialer has a master.
    """

    magic: Annotated[str, Meta(max_length=8)]
    versions: Annotated[list[Annotated[int, Meta(ge=0, le=65535)]], Meta(max_length=16)]
    role: Role
    nonce: Nonce
    identity: Said = ""


class Challenge(Struct, array_like=True, tag=2):
    """The listener's answer to ``Hello``. ``version`` is the one that it has chosen among the dialer's.

    ``nonce``: 32 fresh random bytes of the listener. ``identities``: what the listener's derived keys open; empty:
    the listener has a master.
    """

    version: Annotated[int, Meta(ge=0, le=65535)]
    nonce: Nonce
    identities: Annotated[list[Said], Meta(max_length=DERIVED_MAX)] = []


class Proof(Struct, array_like=True, tag=3):
    """The proof that its sender knows the secret: an HMAC-SHA-256 over the handshake so far, 32 bytes."""

    mac: Annotated[bytes, Meta(min_length=32, max_length=32)]


class Refused(Struct, array_like=True, tag=4):
    """The only answer that a stranger gets: the listener refuses the connection, for a reason that it does not tell.

    ``versions`` are those that the listener speaks, ``tls`` is True if it speaks TLS only: so an honest dialer can
    tell its user what to change. Both are public: any connection shows them.
    """

    versions: Annotated[list[Annotated[int, Meta(ge=0, le=65535)]], Meta(max_length=16)]
    tls: bool = False


_Message = Hello | Challenge | Proof | Refused
_decoder: msgspec.msgpack.Decoder[_Message] = msgspec.msgpack.Decoder(_Message)
_encode = msgspec.msgpack.Encoder().encode

REFUSAL = _encode(Refused([limits.VERSION]))
"""Encoded answer of a listener to a dialer without a valid proof, whatever the fault."""
TLS_REFUSAL = _encode(Refused([limits.VERSION], tls=True))
"""Encoded answer of a listener that speaks TLS only to a dialer that speaks without."""


def _begins_tls(first: bytes) -> bool:
    """True if a connection's first bytes (at least one) can begin a TLS record with a ClientHello of less than
    64 KiB: the dialer may be a peer that speaks TLS."""
    length = int.from_bytes(first[3:5]) if len(first) >= 5 else 1
    return (
        b"\x16\x03".startswith(first[:2])
        and first[5:6] in (b"", b"\x01")
        # A TLS record may hold a single byte of the ClientHello.
        and (length < 2 or first[6:7] in (b"", b"\0"))
    )


def find_fault(first: bytes, *, tls: bool) -> tuple[str, bytes] | None:
    """Find out from the first bytes of a connection whether the dialer cannot be a peer.

    This finds most strangers for the price of reading a few bytes. Bytes that a ``Handshake`` might accept pass.

    Args:
        first: The first bytes, at least one.
        tls: True if the listener speaks TLS only.

    Returns:
        The fault, for the log, and the encoded message to send to the stranger (empty: send nothing); None if it may
        be a peer.
    """
    said = guess_protocol(first)
    if tls:
        if _begins_tls(first):
            return None
        # A dialer with broken TLS would not understand our message.
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
    """One side of the handshake: messages in, messages out. ``done`` becomes True when the peer has proved itself.

    Send what ``start`` returns, then what ``receive`` returns for each message of the peer. When an error is raised
    the connection must end.

    Args:
        ours: Our keys.
        role: Our role: "client", "node", …; whoever dials.
        peer_role: The role that the peer must have.
        nonce: 32 fresh random bytes. A reused nonce would let an old proof be replayed.
        is_dialer: True if we made the connection.
        now: The present (seconds since the epoch): derived keys may have expired.
        channel: Bytes that name this connection (``security.tls.Channel``, ``net.loopback.plain_channel``). Equal on
            both sides unless there is a man in the middle; then the proof fails.
        advice: What the user should do if the proof fails.

    Attributes:
        done: True once the peer has proved itself.
        peer: Identity of the peer's derived key, to be believed once ``done``; None: it has a master.
        used: Identity of our own derived key, of those that we have; None: we have a master.
    """

    def __init__(
        self,
        ours: Keys,
        role: str,
        peer_role: str,
        nonce: bytes,
        *,
        is_dialer: bool,
        now: float,
        channel: bytes = b"",
        advice: str = SAME_SECRET,
    ) -> None:
        self._keys = ours
        self._role = role
        self._peer_role = peer_role
        self._nonce = nonce
        self._is_dialer = is_dialer
        self._now = now
        self._channel = channel
        self._advice = advice
        self._transcript = b""  # bytes of Hello, then of Hello and Challenge: what the proofs are made over
        self._expects: type[Hello | Challenge | Proof] = Challenge if is_dialer else Hello
        first = ours.in_use(now)
        self._key = first.key
        """Key with which we prove ourselves; of a listener the one that its peer has proved, once it has."""
        self.used = first.identity
        self.peer: Identity | None = None
        self._claim = ""
        """Identity that a dialer says, whatever it is worth."""
        self.done = False

    @property
    def first_to_expire(self) -> Identity | None:
        """Identity of that of both sides' derived keys which expires first; None: none does."""
        ends = [each for each in (self.used, self.peer) if each is not None and each.until is not None]
        return min(ends, key=lambda each: each.until or 0, default=None)

    def start(self) -> bytes | None:
        """Returns the encoded ``Hello`` to send first; None for the listener, which waits for the dialer's.

        Raises:
            AuthenticationError: All our keys have expired, or open nothing here: it is no use to dial.
        """
        if not self._is_dialer:
            return None
        if self.used is not None and (fault := self._fault_of_ours(self.used)):
            raise AuthenticationError(f"our own key cannot be used: {fault}", hint=another_key(self.used))
        said = "" if self.used is None else self.used.text()
        hello = _encode(Hello(MAGIC, [limits.VERSION], self._role, self._nonce, said))
        self._transcript = hello
        return hello

    def receive(self, body: memoryview | bytes) -> bytes | None:
        """Handle one encoded message of the peer; returns the encoded answer to send, None if there is none.

        Raises:
            AuthenticationError: The peer does not know the secret, has another role, a derived key that opens nothing
                here, or refused our proof.
            VersionError: The two sides have no version in common.
            RemoteProtocolError: The peer does not speak dispy's protocol, or sent a message out of turn.
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
        if not self._is_dialer:
            return self._on_dialers_proof(message)
        self._on_listeners_proof(message)
        return None

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
        self._claim = hello.identity
        challenge = _encode(Challenge(limits.VERSION, self._nonce, self._keys.said()))
        self._transcript = body + challenge
        self._expects = Proof
        return challenge

    def _on_challenge(self, challenge: Challenge, body: bytes) -> bytes:
        if challenge.version != limits.VERSION:
            raise VersionError(f"the peer chose version {challenge.version}, we speak {limits.VERSION}")
        if challenge.identities:
            self.peer, self._key = self._choose(challenge.identities)
        self._transcript += body
        self._expects = Proof
        return _encode(Proof(self._mac(b"dialer", self._key)))

    def _choose(self, said: list[str]) -> tuple[Identity, bytes]:
        """Returns the identity of a listener that we can use, and the key in common with its holder.

        Raises:
            AuthenticationError: There is none, or all have expired, are revoked, or are no key of such a peer.
        """
        fault = ""
        for text in said:
            identity = identities.parse(text)
            key = None if identity is None else self._keys.shared_with(identity)
            if identity is None or key is None:
                continue
            # A node that this program has started has the program's own key.
            why = "" if identity == self.used else self._fault_of_peer(identity)
            if not why:
                return identity, key
            fault = fault or why
        if fault:
            raise AuthenticationError(f"the peer is refused: {fault}", hint=_WHERE_KEYS_ARE_MADE)
        name = identities.parse(said[0]) or "that is not understood"
        if self.used is not None:
            raise AuthenticationError(
                f"our key, {self.used}, and the peer's, {name}, have nothing in common",
                hint="one of the two sides needs the secret that keys are derived from",
            )
        raise AuthenticationError(
            f"the peer has a key, {name}, that was not derived from our secret", hint=self._advice
        )

    def _on_dialers_proof(self, proof: Proof) -> bytes:
        """Check the proof of a dialer. All that may be wrong with it costs the same, up to the refusal."""
        claimed = identities.parse(self._claim)
        if not self._claim:
            tried = [(line.key, line.identity) for line in self._keys.lines]
        else:
            shared = None if claimed is None else self._keys.shared_with(claimed)
            # Without a key in common another one takes the time that it would take, and the proof fails.
            key = shared or keys.derive(self._keys.first.key, self._claim)
            tried = [(key, None if self.used is None else claimed)]
            if shared is None:
                claimed = None
        found = None
        for key, ours in tried:
            if hmac.compare_digest(proof.mac, self._mac(b"dialer", key)) and found is None:
                found = key, ours
        if found is None or (self._claim and claimed is None):
            raise AuthenticationError("the peer does not know our secret", hint=self._advice)
        self._key, self.used = found
        if claimed is not None and (fault := self._fault_of_peer(claimed)):
            raise AuthenticationError(f"the peer is refused: {fault}", hint=_WHERE_KEYS_ARE_MADE)
        if self.used is not None and claimed is None and (fault := self._fault_of_ours(self.used)):
            raise AuthenticationError(f"our own key cannot be used: {fault}", hint=another_key(self.used))
        self.peer = claimed
        self.done = True
        return _encode(Proof(self._mac(b"listener", self._key)))

    def _on_listeners_proof(self, proof: Proof) -> None:
        if not hmac.compare_digest(proof.mac, self._mac(b"listener", self._key)):
            raise AuthenticationError("the peer does not know our secret", hint=self._advice)
        self.done = True

    def _fault_of_peer(self, identity: Identity) -> str:
        return keys.fault_of(identity, self._now, self._keys, self._peer_role, self._role)

    def _fault_of_ours(self, identity: Identity) -> str:
        return keys.fault_of(identity, self._now, self._keys, self._role, self._peer_role)

    def _mac(self, label: bytes, key: bytes) -> bytes:
        listener_role = self._peer_role if self._is_dialer else self._role
        parts = (label, self._transcript, listener_role.encode(), self._channel)
        text = b"".join([len(part).to_bytes(4, "big") + part for part in parts])
        return hmac.digest(key, text, "sha256")

    def _refusal(self, refused: Refused) -> AuthenticationError | VersionError:
        if limits.VERSION not in refused.versions:
            return VersionError(
                f"the peer speaks versions {refused.versions}, we speak {limits.VERSION}",
                hint="install the same dispy on both sides",
            )
        if refused.tls:
            return AuthenticationError("the peer speaks TLS only", hint=how_to_use_tls(self._role))
        if self.used is not None:
            return AuthenticationError(
                f"the peer refused our secret, which is the key of {self.used}",
                hint="it may have been revoked, or have expired by the peer's clock, or the peer has another secret: "
                "its log has the reason",
            )
        return AuthenticationError("the peer refused our secret", hint=self._advice)
