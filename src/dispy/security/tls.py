"""TLS 1.3 for links over TCP: which certificate is shown, and which one is trusted.

There are three ways:

- With a secret alone, the listener makes a certificate for this run, and TLS does not check it. The handshake that
  follows proves the secret *over this session* (the ``Channel``), so a man in the middle, who has two sessions, is
  found out.
- With ``certfile``, both sides have the same certificate, and the dialer trusts no other (pinning).
- With ``cafile``, both sides show certificates signed by that authority, and the dialer checks the listener's name.
"""

from __future__ import annotations

import hashlib
import logging
import os
import ssl
import tempfile
import threading

from msgspec import Struct

from dispy.errors import AuthenticationError, DispyError, InternalError, RemoteProtocolError, UsageError
from dispy.system.addresses import is_loopback
from dispy.system.directories import temporary_directory

logger = logging.getLogger("dispy.net")

Fingerprint = bytes
"""SHA-256 of a certificate (DER): 32 bytes."""

Channel = bytes
"""Fingerprint of the listener's certificate, and ``Cipher.session``: 80 bytes. Both sides bind their proofs of the
secret to it, so the proof fails if a man in the middle ends TLS on both sides, with whatever certificate."""


class Tls(Struct, frozen=True):
    """Settings of the user for TLS.

    Attributes:
        certfile: Path of the PEM file with our certificate, and its key unless ``keyfile`` is given; None: none.
        keyfile: Path of the PEM file with the key of the certificate; None: it is in ``certfile``.
        cafile: Path of the PEM file with the authority that must have signed the peer's certificate; None: no
            authority is asked.
        wanted: True: all links are encrypted. False: none is. None: all over TCP are; a node on loopback makes its
            certificate when the first one comes.
    """

    certfile: str | None = None
    keyfile: str | None = None
    cafile: str | None = None
    wanted: bool | None = None

    @property
    def is_used(self) -> bool:
        """True if links over TCP are encrypted (see ``wanted``)."""
        return self.wanted is not False

    @property
    def is_asked_for(self) -> bool:
        """True if the user has asked for TLS on all links: then a node has no Unix socket, which would go without."""
        return bool(self.wanted or self.certfile)

    @property
    def checks_listener(self) -> bool:
        """True if a dialer asks the listener for a certificate that we trust, before it proves the secret to it."""
        return bool(self.certfile)


def check(tls: Tls) -> Tls:
    """Check settings as a whole, and read their files, so that errors come at the start; returns the settings.

    Raises:
        UsageError: Settings contradict each other, or a file is missing, unreadable, or not what it should be.
    """
    if tls.keyfile and not tls.certfile:
        raise UsageError("keyfile is given without certfile", hint="give both")
    if tls.cafile and not tls.certfile:
        raise UsageError(
            "cafile is given without certfile",
            hint="'dispy cert new node NAME' and 'dispy cert new client NAME' make certificates for both sides",
        )
    if tls.certfile and tls.wanted is False:
        raise UsageError("certfile is given, and TLS is turned off", hint="leave one of them out")
    if tls.certfile:
        context = _context(ssl.PROTOCOL_TLS_CLIENT)
        _load(context, tls)
        if tls.cafile:
            _believe(context, tls.cafile)
    return tls


class ListenerTls(Struct, frozen=True):
    """TLS of a listener, made once for all its connections.

    Attributes:
        context: OpenSSL's settings, with our certificate and its key.
        fingerprint: Fingerprint of our certificate.
    """

    context: ssl.SSLContext
    fingerprint: Fingerprint

    def cipher(self) -> Cipher:
        """Returns the TLS of a new connection, whose peer begins the handshake."""
        return Cipher(self.context, None)

    def channel_of(self, cipher: Cipher) -> Channel:
        """Returns the channel of a connection, on the listener's side, once the handshake of TLS has ended."""
        return self.fingerprint + cipher.session()


class DialerTls(Struct, frozen=True):
    """TLS of a dialer, made once for all its connections.

    Attributes:
        context: OpenSSL's settings, with our certificate if there is one; checks the listener's only with ``cafile``.
        pinned: Fingerprint of the only certificate that is trusted, that of ``certfile``; another one raises
            ``AuthenticationError``. Empty: any that the context lets pass.
    """

    context: ssl.SSLContext
    pinned: Fingerprint

    def cipher(self, name: str) -> Cipher:
        """Returns the TLS of a new connection to a listener: with ``cafile`` its certificate must be for ``name``."""
        return Cipher(self.context, name)

    def channel_of(self, cipher: Cipher) -> Channel:
        """Returns the channel of a connection, on the dialer's side, once the handshake of TLS has ended.

        Raises:
            AuthenticationError: The listener has not shown the pinned certificate.
        """
        fingerprint = hashlib.sha256(cipher.certificate()).digest()
        if self.pinned and fingerprint != self.pinned:
            raise AuthenticationError(
                "the peer's certificate is not the one in certfile",
                hint="copy one certificate and key to all sides, or use cafile",
            )
        return fingerprint + cipher.session()


class TlsError(RemoteProtocolError):
    """TLS of a connection cannot go on: bytes were changed on their way, or the peer does not speak TLS, or ends it.

    The text is meant for a peer that has proved itself; ``explain`` says more of others.

    Args:
        cause: OpenSSL's error.
    """

    def __init__(self, cause: ssl.SSLError) -> None:
        self.cause = cause
        super().__init__(
            "the peer ended the connection"
            if isinstance(cause, ssl.SSLZeroReturnError)
            else f"what came was changed on its way: {cause.reason or cause}"
        )


class Cipher:
    """TLS of one connection, apart from its socket: bytes in, bytes out.

    Any thread may call the methods. Whoever encrypts must send the bytes in the order in which they were encrypted.

    The TLS of asyncio is not used, since a job may be sent from any thread (``Connection.try_send_now``), and since a
    stranger's connection must cost little. A connection that is cut looks like one that was closed. That is safe, as
    frames have their lengths: an incomplete one is never taken for a whole one.

    Args:
        context: OpenSSL's settings of our side.
        name: Name or address of the listener, if we dial; None if we listen.

    Attributes:
        is_established: True once the handshake has succeeded on our side: bytes can be encrypted and read.
    """

    __slots__ = ("_in", "_lock", "_object", "_out", "is_established")

    def __init__(self, context: ssl.SSLContext, name: str | None) -> None:
        self._in = ssl.MemoryBIO()
        """Encrypted bytes from the socket that OpenSSL has not read yet."""
        self._out = ssl.MemoryBIO()
        """Encrypted bytes from OpenSSL that the caller has not taken for the socket yet."""
        self._lock = threading.Lock()
        """Guards ``_object`` and ``_out``: OpenSSL lets other threads run while it encrypts or decrypts."""
        self._object = context.wrap_bio(self._in, self._out, server_side=name is None, server_hostname=name)
        self.is_established = False

    def feed(self, data: memoryview | bytes) -> None:
        """Take in bytes from the socket, and continue the handshake as far as possible.

        The caller must send the bytes of ``pending`` then, also after an error.

        Raises:
            TlsError: The handshake failed. ``pending`` returns the alert for the peer.
        """
        self._in.write(data)
        if not self.is_established:
            try:
                with self._lock:
                    self._object.do_handshake()
                self.is_established = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                raise TlsError(error) from error

    def read_into(self, buffer: memoryview) -> int:
        """Decrypt bytes that were fed, into a buffer; returns the number of bytes.

        0 if there are none now, the handshake has not ended, or the peer has ended TLS.

        Raises:
            TlsError: Bytes were changed on the way.
        """
        if not self.is_established:
            return 0
        try:
            with self._lock:
                return self._object.read(len(buffer), buffer)  # type: ignore[return-value]  # the count, with a buffer
        except ssl.SSLWantReadError:
            return 0
        except ssl.SSLError as error:
            raise TlsError(error) from error

    @property
    def has_certificate(self) -> bool:
        """True if the peer has shown a certificate that we have checked against the authority (``cafile``)."""
        return bool(self._object.getpeercert())

    @property
    def has_more(self) -> bool:
        """True if ``read_into`` may return bytes. Asking takes a tenth of the time of trying to read."""
        return bool(self._in.pending or self._object.pending())

    @property
    def has_pending(self) -> bool:
        """True if ``pending`` has bytes to send."""
        return bool(self._out.pending)

    def encrypt(self, data: bytes | memoryview) -> bytes:
        """Encrypt bytes; returns pending bytes and those for ``data``, to be sent in this order.

        Raises:
            TlsError: The handshake has not ended (``is_established``), or the peer has ended TLS.
        """
        try:
            with self._lock:
                self._object.write(data)
                return self._out.read()
        except ssl.SSLError as error:
            raise TlsError(error) from error

    def pending(self) -> bytes:
        """Returns, once, bytes of TLS itself that must be sent: of the handshake, or an alert. Empty if none wait."""
        with self._lock:
            return self._out.read()

    def certificate(self) -> bytes:
        """Returns the certificate of the peer (DER); empty if it has shown none."""
        return self._object.getpeercert(binary_form=True) or b""

    def session(self) -> bytes:
        """Returns 48 bytes that both ends of this session of TLS have, and no other session: the client's Finished.

        They are "tls-unique" as Python has it in TLS 1.3: the Finished of the client, which is an HMAC over the whole
        handshake under a key that comes from this session's own key exchange (RFC 8446, 4.4.4). Somebody in the
        middle has two sessions with different keys and so two different values, even if he has the key of the
        listener's certificate. RFC 9266 leaves "tls-unique" undefined in TLS 1.3 for two reasons, neither of which
        holds here: which Finished is the first depends on resumption, and there is none (``num_tickets`` is 0); and
        after the handshake further messages may authenticate a client, which nobody asks for. "tls-exporter", which
        it defines instead, is to replace this when all Pythons that dispy runs on have it; both ends must change at
        once, with another version of the protocol.

        Raises:
            InternalError: The handshake has not ended, so that there would be nothing to bind a proof to.
        """
        session = self._object.get_channel_binding("tls-unique")
        if not session:
            raise InternalError("TLS has no session to bind a proof to")
        return session


def warn_if_open(tls: Tls, address: str) -> None:
    """Log a warning if the user has turned TLS off and links to or from ``address`` leave this machine.

    ``address`` is the IP address to listen on or to connect to. Nodes and clusters call this at every start.
    """
    if not is_loopback(address) and not tls.is_used:
        logger.warning(
            "links to %s are not encrypted (tls=False): who can listen in sees all code, data and results",
            address,
        )


def listener_tls(tls: Tls) -> ListenerTls:
    """Returns the TLS of a listener, by the user's settings. Makes a certificate for this run if none was given.

    Raises:
        UsageError: A file cannot be used.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    # No peer resumes a session, since links live long; and each ticket would be work for a stranger's connection.
    context.num_tickets = 0
    if tls.certfile:
        fingerprint = _load(context, tls)
        if tls.cafile:
            _believe(context, tls.cafile)
    else:
        fingerprint = _load_ephemeral(context)
    return ListenerTls(context, fingerprint)


def dialer_tls(tls: Tls) -> DialerTls:
    """Returns the TLS of a dialer, by the user's settings.

    Raises:
        UsageError: A file cannot be used.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    pinned = b""
    if tls.certfile:
        pinned = _load(context, tls)
        if tls.cafile:
            _believe(context, tls.cafile)
            context.check_hostname = True
            pinned = b""
    return DialerTls(context, pinned)


_DISBELIEF = ("certificate", "unknown ca")
"""Words of OpenSSL's errors, in lower case, by which an alert is known as a peer's refusal of our certificate."""


def explain(failed: TlsError, role: str, *, is_dialer: bool) -> DispyError:
    """Returns an error that explains to the user on our side why TLS with a peer that has not proved itself failed.

    Args:
        failed: Error of the ``Cipher``.
        role: Our role ("client", "node"): the advice differs.
        is_dialer: True if we have dialed.
    """
    error = failed.cause
    if isinstance(error, ssl.SSLZeroReturnError):
        return failed
    ours, theirs = ("node", "client") if role == "node" else ("client", "node")
    reason = (error.reason or "").replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        return AuthenticationError(
            f"the peer's certificate is not believed: {error.verify_message}",
            hint=f"make one with 'dispy cert new {theirs} NAME'"
            + (f", NAME being how the {theirs} is addressed here" if is_dialer else ""),
        )
    if "did not return a certificate" in reason:
        return AuthenticationError(
            "the peer showed no certificate", hint=f"make one for it with 'dispy cert new {theirs} NAME'"
        )
    if "alert" in reason and any(word in reason for word in _DISBELIEF):
        return AuthenticationError(
            f"the peer does not believe our certificate ({reason})",
            hint=f"make one with 'dispy cert new {ours} NAME' and the authority that the peer believes",
        )
    if "wrong version number" in reason or "record layer failure" in reason or "packet length" in reason:
        advice = "; a node that was started with --no_tls is reached with tls=False"
        return AuthenticationError(
            "the peer does not speak TLS",
            hint="check the port" + (advice if is_dialer and theirs == "node" else ""),
        )
    return AuthenticationError(f"TLS with the peer failed: {reason or error}", hint="check the port")


def _context(protocol: ssl._SSLMethod) -> ssl.SSLContext:  # pyright: ignore[reportPrivateUsage]  # no public name
    """Returns OpenSSL's settings for TLS 1.3 or later, for a listener or a dialer; a peer with less is refused."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _load(context: ssl.SSLContext, tls: Tls) -> Fingerprint:
    """Load our certificate and key (``certfile`` must be given) into a context; returns its fingerprint.

    Raises:
        UsageError: The files cannot be read, are no PEM files or no pair, or the key is encrypted.
    """
    assert tls.certfile is not None
    try:
        with open(tls.certfile, encoding="ascii") as file:
            text = file.read()
        # An encrypted key would make OpenSSL ask for a password at the terminal, where no user may be.
        context.load_cert_chain(tls.certfile, tls.keyfile, password=_no_password)
        return hashlib.sha256(_first_certificate(text)).digest()
    except (OSError, ValueError) as error:
        what = tls.certfile if tls.keyfile is None else f"{tls.certfile} with {tls.keyfile}"
        raise UsageError(
            f"certificate {what} cannot be used: {getattr(error, 'strerror', None) or error}",
            hint="both are PEM files, the key not encrypted; see 'dispy cert new --help'",
        ) from error


def _no_password() -> str:
    """Raise ``ValueError``, as OpenSSL asks for a password: it does so only if the key is encrypted."""
    raise ValueError("the key is encrypted")


def _first_certificate(text: str) -> bytes:
    """Returns the first certificate (DER) of a PEM text; raises ``ValueError`` if there is none."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    start = text.index(begin)
    return ssl.PEM_cert_to_DER_cert(text[start : text.index(end, start) + len(end)])


def _believe(context: ssl.SSLContext, cafile: str) -> None:
    """Make a context trust certificates of an authority alone, and require one of the peer in each handshake.

    ``cafile`` is the path of the authority's certificate (PEM). A handshake fails without one that it signed.

    Raises:
        UsageError: The file cannot be used.
    """
    try:
        context.load_verify_locations(cafile)
    except OSError as error:
        raise UsageError(
            f"cafile {cafile} cannot be used: {error.strerror or error}",
            hint="it is made by 'dispy cert new ca'",
        ) from error
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT


def _load_ephemeral(context: ssl.SSLContext) -> Fingerprint:
    """Make a certificate for this run of a listener, load it into a context, and return its fingerprint."""
    from dispy.security.certificates import ephemeral

    certificate, key = ephemeral()
    # OpenSSL reads files only. Key and certificate are on disk for this moment, for this user alone.
    descriptor, path = tempfile.mkstemp(prefix="dispy-", dir=temporary_directory())
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(certificate + key)
        context.load_cert_chain(path)
    finally:
        os.unlink(path)
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.decode())).digest()
