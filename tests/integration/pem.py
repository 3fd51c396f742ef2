"""Certificates for tests: good ones of each kind, and some that nobody should believe."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dispy.security.certificates import Kind, new_ca, new_leaf


class Pair(NamedTuple):
    """Files of a certificate and of its key."""

    certfile: str
    keyfile: str


def self_signed(directory: Path, name: str) -> Pair:
    """What 'openssl req -x509' makes of an RSA key: no names to be checked, no purposes."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    pair = Pair(str(directory / f"{name}.pem"), str(directory / f"{name}-key.pem"))
    Path(pair.certfile).write_bytes(certificate.public_bytes(pem))
    Path(pair.keyfile).write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pair


def for_both_ends(authority: Path, directory: Path) -> Pair:
    """What older versions made for a node: a certificate that serves a listener as well as a dialer."""
    issuer_key = serialization.load_pem_private_key((authority / "ca-key.pem").read_bytes(), None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate((authority / "ca.pem").read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .sign(issuer_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    pair = Pair(str(directory / "old-node.pem"), str(directory / "old-node-key.pem"))
    Path(pair.certfile).write_bytes(certificate.public_bytes(pem))
    Path(pair.keyfile).write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pair


class Files:
    """Certificates of all kinds; ``ours`` and ``theirs`` are two authorities.

    Attributes:
        pairs: Certificates by the names that the tests have for them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ours, self.theirs = root / "ours", root / "theirs"
        past = datetime.now(UTC) - timedelta(days=10)
        for directory in (self.ours, self.theirs):
            new_ca(directory, f"CA {directory.name}", 30, now=past)

        def leaf(
            directory: Path, kind: Kind, *names: str, days: int = 20, now: datetime | None = None
        ) -> Pair:
            certificate, key = new_leaf(directory, kind, list(names), days, now=now)
            return Pair(str(certificate), str(key))

        self.pairs = {
            "node": leaf(self.ours, "node", "127.0.0.1", "localhost"),
            "client": leaf(self.ours, "client", "laptop"),
            "old node": for_both_ends(self.ours, root),
            "node of theirs": leaf(self.theirs, "node", "127.0.0.1"),
            "client of theirs": leaf(self.theirs, "client", "laptop"),
            "node elsewhere": leaf(self.ours, "node", "192.0.2.7", "node.example"),
            "expired node": leaf(self.ours, "node", "127.0.0.2", "127.0.0.1", days=5, now=past),
            "expired client": leaf(self.ours, "client", "old laptop", days=5, now=past),
            "self-signed": self_signed(root, "self-signed"),
            "another": self_signed(root, "another"),
        }

    def parameters(self, name: str, ca: str = "") -> dict[str, str]:
        """Parameters of a cluster that has the certificate of this name and believes this authority."""
        pair = self.pairs[name]
        believed = {"cafile": str(self.root / ca / "ca.pem")} if ca else {}
        return {"certfile": pair.certfile, "keyfile": pair.keyfile, **believed}


def options(parameters: dict[str, Any]) -> list[str]:
    """The same as options of ``dispynode``."""
    flags = {True: "--tls", False: "--no_tls"}
    return [flags.get(value) or f"--{name}={value}" for name, value in parameters.items()]
