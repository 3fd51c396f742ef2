"""A peer before its proof: how much it may send, and what is said of it when it fails.

A connection has a ``Stranger`` from its start to the proof, and forgets it then.
"""

from __future__ import annotations

from dispy.errors import RemoteProtocolError
from dispy.protocol import frames, limits
from dispy.protocol.frames import guess_protocol
from dispy.protocol.handshake import SAME_SECRET, Handshake, how_to_use_tls
from dispy.security.keys import Keys
from dispy.security.tls import Channel

HANDSHAKE_S = 5.0
"""Seconds that are allowed from connect (dialer) or accept (listener) to proof; then the connection is refused.
Generous on a loaded machine, short for a stranger."""

BYTES_MAX = 64 * limits.KIB
"""Bytes that a peer may send before TLS stands: enough for a chain of certificates. From then to its proof it may
send ``BUFFER`` bytes more. Without TLS this is the limit up to the proof. Beyond it the connection is refused."""

BUFFER = 4 * limits.KIB
"""Encrypted bytes read at once before the proof: size of the buffer that a stranger costs."""


class Stranger:
    """The peer of one connection, until it has proved that it knows the secret.

    Args:
        keys: Our keys.
        role: Our role ("client", "node"), whoever dialed.
        peer_role: The role that the peer must have.
        is_dialer: True if we made the connection, whatever our role.
    """

    __slots__ = (
        "_bytes_max",
        "_first",
        "_is_dialer",
        "_keys",
        "_peer_role",
        "_role",
        "handshake",
        "nonce",
        "now",
    )

    def __init__(self, keys: Keys, role: str, peer_role: str, *, is_dialer: bool) -> None:
        self._keys = keys
        self._role = role
        self._peer_role = peer_role
        self._is_dialer = is_dialer
        self.nonce = b""
        """Our nonce (32 fresh random bytes); empty before the connection has begun."""
        self.now = 0.0
        """Time at which it began (seconds since the epoch)."""
        self._first = b""
        """The peer's first bytes, up to 16, to name its protocol in an error if it does not speak dispy's. With TLS
        they are the first encrypted bytes; once TLS stands, the first decrypted ones."""
        self._bytes_max = BYTES_MAX
        """Bytes that may have arrived in all; the peer is refused for more."""
        self.handshake: Handshake | None = None
        """The handshake of dispy (not of TLS) while it runs; None before, and when the peer was refused."""

    def is_too_much(self, received: int) -> bool:
        """True if ``received`` bytes in all are more than a stranger may send: refuse it."""
        return received > self._bytes_max

    def note_first(self, data: memoryview) -> None:
        """Keep the first bytes of what has arrived, if they are the first."""
        if not self._first:
            self._first = bytes(data[: frames.HEADER_SIZE])

    def on_tls(self, received: int) -> None:
        """Note that TLS stands, after ``received`` bytes in all: what comes next is the first that the peer says."""
        self._first = b""
        self._bytes_max = received + BUFFER

    def begin_proof(self, channel: Channel, advice: str = SAME_SECRET) -> bytes | None:
        """Begin the handshake of dispy.

        Args:
            channel: Bytes that no other connection has (``Handshake``).
            advice: What the user should do if the proof fails.

        Returns:
            The message to send first, encoded; None for a listener, which waits for the dialer's.

        Raises:
            AuthenticationError: Our own key cannot be used, as it has expired, say.
        """
        self.handshake = Handshake(
            self._keys,
            self._role,
            self._peer_role,
            self.nonce,
            is_dialer=self._is_dialer,
            now=self.now,
            channel=channel,
            advice=advice,
        )
        return self.handshake.start()

    def explain(self, error: Exception) -> Exception:
        """Returns the error to end the connection with: if the peer broke the protocol, one that names the protocol
        which it speaks; else ``error`` itself."""
        if not isinstance(error, RemoteProtocolError):
            return error
        said = guess_protocol(self._first)
        if not self._is_dialer:
            return RemoteProtocolError(f"{said} before the proof: {error}")
        hint = how_to_use_tls(self._role) if said == "TLS" else "check its address and port"
        return RemoteProtocolError(
            f"what answers there speaks {said} and is no {self._peer_role} of dispy", hint=hint
        )

    def explain_end(self) -> Exception | None:
        """Returns an error with the protocol of a peer that we dialed and that hung up, if its first bytes show
        another one than dispy's: the user has probably given a wrong port. None: nothing is known."""
        if not self._is_dialer or not self._first:
            return None
        if guess_protocol(self._first) in ("dispy's protocol", "another protocol"):
            return None
        return self.explain(RemoteProtocolError("it ended"))
