"""Makes certificates for TLS: one for a single run of a listener, or a CA and certificates signed by it.

All are X.509 v3 with ECDSA keys on P-256, signed with SHA-256, and fit for ``VERIFY_X509_STRICT``, which Python
sets by default since 3.13. ``cryptography`` is imported where it is used: that takes 50 ms, and most programs
never need it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dispy.errors import UsageError
from dispy.security.new_files import NewFile, write_new
from dispy.system.wording import counted

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

Kind = Literal["node", "client"]
"""Kinds of certificates: a node's serves the end that listens, a client's the end that dials; neither both."""

CA_DAYS = 3650
"""Days for which a CA is valid by default: ten years. When they are over, all its certificates have ended, too."""

LEAF_DAYS = 730
"""Days for which certificates of nodes and clients are valid by default. Two years are long enough not to end in the
middle of somebody's work, and short enough to be renewed at all."""

DAYS_MAX = 36_500
"""Largest number of days for which a certificate may be valid; more are refused. A hundred years keep every date
within what X.509 and ``datetime`` can say."""

NAMES_MAX = 100
"""Largest number of names in a node's certificate; more are refused. With the longest names that is 25 kB, well
within the 100 kB that OpenSSL takes from a peer."""

_CA, _CA_KEY = "ca.pem", "ca-key.pem"
"""Names of the files of a CA in its directory: certificate and key."""
_EPHEMERAL_DAYS = 3650
"""Days for which the certificate of a single run is valid: longer than any run, as it is not renewed."""

_BACKDATED = timedelta(days=1)
"""Certificates are valid from this time before they are made: machines whose clock is late by less accept them."""

_COMMON_NAME_MAX = 64
"""Bytes of the longest common name (RFC 5280, ub-common-name). Of CAs and clients longer ones are refused, a node's
first name is cut to as many characters."""

_DNS_NAME_MAX = 253
"""Characters of the longest host name; longer names are refused."""

_DNS_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
"""Pattern of a label (part between dots) of a host name: RFC 1123, and underscores, as container networks have."""

_STEM_MAX = 200
"""Characters of a name that go into a file's name, which may have 255 with prefix and ending; the rest is cut."""

_PEM_MAX = 1 << 16
"""Bytes that are read of a PEM file, a hundred times what is needed; the rest of a larger file is ignored."""

_MAKE_CA = "make a CA: 'dispy cert new ca', with --dir DIR if not in the usual directory"


def ephemeral() -> tuple[bytes, bytes]:
    """Make a self-signed certificate for one run of a listener. It proves only that its owner has the key.

    Returns:
        The certificate and its key (PKCS8, not encrypted), both PEM.
    """
    from cryptography import x509

    key = _new_key()
    now = _present()
    certificate = _sign(
        _Request("dispy", key, now - _BACKDATED, now + timedelta(days=_EPHEMERAL_DAYS)),
        [(x509.BasicConstraints(ca=False, path_length=None), True), (_key_usage(), True)],
        issuer=None,
        issuer_key=key,
    )
    return _pem(certificate), _key_pem(key)


def new_ca(directory: Path, name: str, days: int, *, now: datetime | None = None) -> list[Path]:
    """Make a CA: ``ca.pem``, which is public, and ``ca-key.pem``, which must stay secret.

    Args:
        directory: Directory for the files; made (0700) if it is missing.
        name: Name of the CA for people; need not be unique.
        days: Days that the CA is valid, and with it all certificates that it signs.
        now: The present; None: by the clock.

    Returns:
        Paths of the certificate and of the key.

    Raises:
        UsageError: Name or number of days cannot be used; the files exist; the directory is open to others or cannot
            be written to.
    """
    from cryptography import x509

    _check_label(name, "the name of a CA")
    _check_days(days)
    _make_directory(directory)
    key = _new_key()
    now = _present(now)
    certificate = _sign(
        _Request(name, key, now - _BACKDATED, now + timedelta(days=days)),
        [
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (_key_usage(signs_certificates=True), True),
        ],
        issuer=None,
        issuer_key=key,
    )
    return write_new(
        [
            NewFile(directory / _CA, _pem(certificate), 0o644),
            NewFile(directory / _CA_KEY, _key_pem(key), 0o600),
        ],
        hint="go on with it: 'dispy cert new node' and 'dispy cert new client'; or make another elsewhere: --dir",
    )


def new_leaf(
    directory: Path, kind: Kind, names: list[str], days: int, *, now: datetime | None = None
) -> list[Path]:
    """Make a certificate for a node or a client, signed by the CA of a directory.

    A node's is no client's: who takes a machine over must not come to the others as a client with its certificate.

    Args:
        directory: Directory with the files of ``new_ca``; the new files go there, too.
        kind: Kind of the certificate.
        names: For a node: all host names and addresses by which it is reached. For a client: one label. The first
            name is part of the names of the files.
        days: Days that the certificate is valid; not longer than the CA.
        now: The present; None: by the clock.

    Returns:
        Paths of the certificate and of the key.

    Raises:
        UsageError: A name or the number of days cannot be used; there is no usable CA; the files exist; the
            directory is open to others or cannot be written to.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose

    common_name, alternatives = _node_names(names) if kind == "node" else _client_names(names)
    _check_days(days)
    now = _present(now)
    ca, ca_key = _load_ca(directory)
    not_before, not_after = _validity(ca, days, now)
    purpose = Purpose.SERVER_AUTH if kind == "node" else Purpose.CLIENT_AUTH
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(), True),
        (x509.ExtendedKeyUsage([purpose]), False),
    ]
    if alternatives:
        extensions.append((x509.SubjectAlternativeName(alternatives), False))
    key = _new_key()
    certificate = _sign(
        _Request(common_name, key, not_before, not_after), extensions, issuer=ca, issuer_key=ca_key
    )
    stem = f"{kind}-{_file_stem(names[0])}"
    return write_new(
        [
            NewFile(directory / f"{stem}.pem", _pem(certificate), 0o644),
            NewFile(directory / f"{stem}-key.pem", _key_pem(key), 0o600),
        ],
        hint="use what is there, or move it away",
    )


# Certificates.


@dataclass(frozen=True, slots=True)
class _Request:
    """Content of a certificate to be made: name and key of its subject, and first and last second of its validity."""

    common_name: str
    key: EllipticCurvePrivateKey
    not_before: datetime
    not_after: datetime


def _sign(
    request: _Request,
    extensions: list[tuple[x509.ExtensionType, bool]],
    *,
    issuer: x509.Certificate | None,
    issuer_key: EllipticCurvePrivateKey,
) -> x509.Certificate:
    """Make and sign a certificate, and return it.

    Args:
        request: Name, key and dates of the subject.
        extensions: Extensions, each with True if it is critical; the key identifiers are added here.
        issuer: Certificate of the CA; None: the certificate is self-signed.
        issuer_key: Key of the CA, which signs; for a self-signed one the subject's.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, request.common_name)])
    public_key = request.key.public_key()
    # Every certificate has a key identifier: without it OpenSSL takes a leaf named like its CA for self-signed.
    identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(request.not_before)
        .not_valid_after(request.not_after)
        .add_extension(identifier, critical=False)
    )
    if issuer:
        issuer_identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_identifier)
        builder = builder.add_extension(authority, critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def _key_usage(*, signs_certificates: bool = False) -> x509.KeyUsage:
    """Returns the extension that limits a key to one use: signing certificates (a CA's), or handshakes of TLS."""
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization as forms

    return key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())


def _present(now: datetime | None = None) -> datetime:
    """Returns a time (None: now, in UTC) in whole seconds, as certificates have it."""
    return (now or datetime.now(UTC)).replace(microsecond=0)


def _validity(ca: x509.Certificate, days: int, now: datetime) -> tuple[datetime, datetime]:
    """Returns the first and the last second in which a leaf is valid, never outside the life of its CA.

    A leaf for as many days as the CA has left ends with the CA, although the CA was made some seconds before.

    Raises:
        UsageError: The CA has expired, or ends before the leaf would.
    """
    end = ca.not_valid_after_utc
    if end <= now:
        raise UsageError(
            f"the CA has expired on {end:%Y-%m-%d}",
            hint="make another in another directory: 'dispy cert new ca --dir DIR'",
        )
    left = -((now - end) // timedelta(days=1))
    if days > left:
        raise UsageError(
            f"{counted(days, 'day is', 'days are')} longer than the CA is valid, which is until {end:%Y-%m-%d}",
            hint=f"give at most {left}, or make another CA in another directory: 'dispy cert new ca --dir DIR'",
        )
    return max(now - _BACKDATED, ca.not_valid_before_utc), min(now + timedelta(days=days), end)


# The CA of a directory.


def _make_directory(directory: Path) -> None:
    """Make a directory (0700) with its parents if missing; ``UsageError`` if that fails or others can write to it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"directory {directory} cannot be made: {error.strerror}", hint="give another: --dir"
        ) from error
    _check_directory(directory)


def _check_directory(directory: Path) -> None:
    """Refuse a directory that other users can write to: they could exchange the files in it.

    Raises:
        UsageError: The directory belongs to another user, or others can write to it.
    """
    status = directory.stat()
    if status.st_uid != os.getuid():
        raise UsageError(f"directory {directory} belongs to somebody else", hint="give another: --dir")
    if status.st_mode & 0o022:
        raise UsageError(
            f"files in {directory} can be exchanged by others", hint=f"run 'chmod go-w {directory}'"
        )


def _load_ca(directory: Path) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    """Returns certificate and key of the CA of a directory.

    Raises:
        UsageError: There is no CA; its files are open to others, cannot be read, or are not a CA made by dispy.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    if not directory.is_dir():
        raise UsageError(f"there is no CA in {directory}", hint=_MAKE_CA)
    _check_directory(directory)
    path, key_path = directory / _CA, directory / _CA_KEY
    _check_key_file(key_path)
    key_data, ca_data = _read(key_path), _read(path)
    try:
        key = serialization.load_pem_private_key(key_data, password=None)
        ca = x509.load_pem_x509_certificate(ca_data)
        ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        is_ca = ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        is_pair = ca.public_key() == key.public_key()
    except TypeError as error:
        raise UsageError(
            f"{key_path} is encrypted", hint=f"decrypt it: 'openssl pkcs8 -in {key_path}'"
        ) from error
    except (
        ValueError,
        UnsupportedAlgorithm,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.InvalidVersion,
    ) as error:
        raise UsageError(f"{path} and {key_path} are not both whole: {error}", hint=_MAKE_CA) from error
    if not (is_ca and is_pair and isinstance(key, EllipticCurvePrivateKey)):
        raise UsageError(f"{path} and {key_path} are not a CA that dispy has made", hint=_MAKE_CA)
    return ca, key


def _check_key_file(path: Path) -> None:
    """Refuse a CA's key that other users may have seen. They cannot exchange it later: the directory is ours alone.

    Raises:
        UsageError: The file is missing, is a link, belongs to another user, or can be read by others.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise UsageError(
            f"there is no {path}", hint=f"do it where the CA was made, or {_MAKE_CA}"
        ) from None
    if stat.S_ISLNK(status.st_mode):
        raise UsageError(f"{path} is a link", hint=f"put the key itself there and run 'chmod 600 {path}'")
    if status.st_uid != os.getuid():
        raise UsageError(
            f"{path} belongs to somebody else",
            hint=f"if it is yours, 'chown' it and run 'chmod 600 {path}'",
        )
    if status.st_mode & 0o077:
        raise UsageError(f"{path} can be read by others", hint=f"run 'chmod 600 {path}'")


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():  # a named pipe would stop us for ever
            raise UsageError(f"there is no file {path}", hint=_MAKE_CA)
        with path.open("rb") as file:
            return file.read(_PEM_MAX)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


# Names.


def _check_days(days: int) -> None:
    if not 1 <= days <= DAYS_MAX:
        raise UsageError(f"a certificate cannot be valid for {days} days", hint=f"give 1 to {DAYS_MAX}")


def _check_name(name: str) -> None:
    if not name.strip():
        raise UsageError(
            "a name is empty", hint="give the host names and addresses of the node, or a label"
        )
    if not name.isprintable():
        raise UsageError(f"name {name!r} has characters that cannot be printed", hint="leave them out")
    if len(name) > _DNS_NAME_MAX:
        raise UsageError(f"a name has {len(name)} characters", hint=f"give at most {_DNS_NAME_MAX}")
    if "*" in name:
        raise UsageError(f"name {name!r} stands for more than one", hint="give each name by itself")


def _check_label(name: str, what: str) -> None:
    _check_name(name)
    if len(name.encode()) > _COMMON_NAME_MAX:
        raise UsageError(f"{what} has more than {_COMMON_NAME_MAX} bytes", hint="give a shorter one")


def _node_names(names: list[str]) -> tuple[str, list[x509.GeneralName]]:
    """Returns a node's common name, and all its names and addresses, each once; ``UsageError`` if one is unfit."""
    if not names:
        raise UsageError(
            "a node's certificate needs a name",
            hint="give the host names and addresses that reach the node",
        )
    if len(names) > NAMES_MAX:
        raise UsageError(f"{len(names)} names in one certificate", hint=f"give at most {NAMES_MAX}")
    alternatives = [_general_name(name) for name in dict.fromkeys(names)]
    # May be cut: peers do not look at the common name when there are alternative names.
    return str(alternatives[0].value)[:_COMMON_NAME_MAX], alternatives


def _general_name(name: str) -> x509.GeneralName:
    """Returns a host name or IP address as a certificate has it; others raise ``UsageError``."""
    from cryptography import x509

    _check_name(name)
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        dns_name = _dns_name(name)
        if dns_name is None:
            raise UsageError(
                f"{name!r} is neither a host name nor an address",
                hint="give them as clients write them in nodes=",
            ) from None
        return x509.DNSName(dns_name)
    if address.is_unspecified or "%" in name:
        raise UsageError(
            f"nobody reaches a node at {name!r}", hint="give an address that clients connect to"
        )
    return x509.IPAddress(address)


def _client_names(names: list[str]) -> tuple[str, list[x509.GeneralName]]:
    """Returns a client's common name (its label), and a list of it as a host name; empty if it cannot be one."""
    from cryptography import x509

    if len(names) != 1:
        raise UsageError(
            f"a client's certificate has one name, not {len(names)}", hint="make one for each client"
        )
    _check_label(names[0], "the name of a client")
    dns_name = _dns_name(names[0])
    return names[0], [] if dns_name is None else [x509.DNSName(dns_name)]


def _dns_name(name: str) -> str | None:
    """Returns a host name in ASCII, as Python's ``ssl`` looks for it; None if it cannot be a host name."""
    try:
        ascii_name = name.encode("idna").decode("ascii")
    except UnicodeError:  # also empty and overlong labels
        return None
    labels = ascii_name.split(".")
    # A number as the last label: a mistyped IPv4 address (RFC 1123, section 2.1).
    if (
        len(ascii_name) > _DNS_NAME_MAX
        or labels[-1].isdigit()
        or not all(map(_DNS_LABEL.fullmatch, labels))
    ):
        return None
    return ascii_name


def _file_stem(name: str) -> str:
    """Returns a name as part of a file's name: ASCII without separators or a dot in front, cut to ``_STEM_MAX``."""
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:_STEM_MAX]
    return "_" + stem[1:] if stem.startswith(".") else stem
