"""Certificates: Python's TLS believes those it should and no others; keys are this user's alone."""

from __future__ import annotations

import os
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dispy.errors import UsageError
from dispy.security import certificates
from dispy.security.certificates import (
    CA_DAYS,
    DAYS_MAX,
    NAMES_MAX,
    ephemeral,
    new_ca,
    new_leaf,
)
from dispy.security.new_files import NewFile, write_new

STARTERS = 8
DAY = timedelta(days=1)
NAMES = [
    "Node-1.Example",
    "localhost",
    "under_score",
    "bücher.example",
    "192.0.2.7",
    "127.0.0.1",
    "::1",
    "2001:DB8::7",
]


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a CA."""
    directory = tmp_path_factory.mktemp("ca") / "made"
    new_ca(directory, "dispy CA", CA_DAYS)
    return directory


@pytest.fixture(scope="module")
def node(ca: Path) -> list[Path]:
    """Certificate and key of a node with many names."""
    return new_leaf(ca, "node", NAMES, 30)


@pytest.fixture(scope="module")
def client(ca: Path) -> list[Path]:
    """Certificate and key of a client whose label could be a host's name."""
    return new_leaf(ca, "client", ["client-1.example"], 30)


def context(protocol: Any, files: list[Path], believed: Path) -> ssl.SSLContext:
    """As strict as Python 3.13 makes it by default, and both sides have to show certificates."""
    made = ssl.SSLContext(protocol)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    made.load_verify_locations(believed / "ca.pem")
    made.load_cert_chain(*files)
    return made


def handshake(
    listens: ssl.SSLContext, dials: ssl.SSLContext, name: str
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Connect two sides in memory, until both have seen and believed the other's certificate.

    Returns:
        The listener's and the dialer's side.

    Raises:
        ssl.SSLError: One of them did not.
    """
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    listener = listens.wrap_bio(up, down, server_side=True)
    dialer = dials.wrap_bio(down, up, server_hostname=name)
    waiting = [dialer, listener]
    for _ in range(10):
        for side in list(waiting):
            with ignored_want_read():
                side.do_handshake()
                waiting.remove(side)
        if not waiting:
            return listener, dialer
    raise AssertionError("the handshake does not end")


@contextmanager
def ignored_want_read() -> Iterator[None]:
    try:
        yield
    except ssl.SSLWantReadError:
        pass


def connect(
    node: list[Path], client: list[Path], believed: Path, name: str, *, believed_by_node: Path | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    listens = context(ssl.PROTOCOL_TLS_SERVER, node, believed_by_node or believed)
    dials = context(ssl.PROTOCOL_TLS_CLIENT, client, believed)
    assert dials.check_hostname
    return handshake(listens, dials, name)


def parsed(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def snapshot(directory: Path) -> dict[str, bytes]:
    """Names and content of all files, hidden ones too."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


# What TLS believes.


@pytest.mark.parametrize("name", NAMES)
def test_a_node_is_believed_under_each_of_its_names(
    ca: Path, node: list[Path], client: list[Path], name: str
) -> None:
    listener, dialer = connect(node, client, ca, name)
    assert listener.version() == dialer.version() == "TLSv1.3"


@pytest.mark.parametrize(
    "name", ["node-1.example", "NODE-1.EXAMPLE", "2001:db8:0::7", "xn--bcher-kva.example"]
)
def test_a_name_may_be_written_in_other_ways(
    ca: Path, node: list[Path], client: list[Path], name: str
) -> None:
    connect(node, client, ca, name)


@pytest.mark.parametrize(
    "name",
    [
        "node-2.example",
        "example",
        "sub.node-1.example",
        "node-1.example.org",
        "node-1",
        "xlocalhost",
        "192.0.2.8",
        "127.0.0.2",
        "::2",
        "client-1.example",
    ],
)
def test_a_node_is_not_believed_under_another_name(
    ca: Path, node: list[Path], client: list[Path], name: str
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        connect(node, client, ca, name)


def test_a_client_is_believed_and_known_by_its_label(ca: Path, node: list[Path]) -> None:
    label = "Büro 3 / links"
    listener, _ = connect(node, new_leaf(ca, "client", [label], 30), ca, "localhost")
    shown = listener.getpeercert()
    assert shown is not None
    assert shown["subject"] == ((("commonName", label),),)
    assert "subjectAltName" not in shown


def test_a_client_cannot_pass_for_a_node(ca: Path, client: list[Path]) -> None:
    """Not even under its own name: only its purpose keeps it from that."""
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        connect(client, client, ca, "client-1.example")


def test_a_node_cannot_pass_for_a_client(ca: Path, node: list[Path]) -> None:
    """Who takes one node over does not come to the others with its certificate."""
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        connect(node, node, ca, "localhost")


def test_a_node_of_another_ca_is_not_believed(tmp_path: Path, ca: Path, client: list[Path]) -> None:
    """Although both are called the same."""
    new_ca(tmp_path / "other", "dispy CA", 30)
    stranger = new_leaf(tmp_path / "other", "node", ["localhost"], 10)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        connect(stranger, client, ca, "localhost")


def test_a_client_of_another_ca_is_not_believed(tmp_path: Path, ca: Path, node: list[Path]) -> None:
    new_ca(tmp_path / "other", "dispy CA", 30)
    stranger = new_leaf(tmp_path / "other", "client", ["client-1.example"], 10)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        connect(node, stranger, ca, "localhost")


def test_a_key_that_is_no_cas_signs_nothing(
    tmp_path: Path, ca: Path, node: list[Path], client: list[Path]
) -> None:
    """Who steals a node's key cannot make certificates that are believed."""
    key = serialization.load_pem_private_key(node[1].read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    forged = signed(issuer=parsed(node[0]), issuer_key=key, name="victim.example")
    path = tmp_path / "forged.pem"
    path.write_bytes(forged.public_bytes(serialization.Encoding.PEM) + node[0].read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError):
        connect([path, node[1]], client, ca, "victim.example")


def test_an_expired_node_is_not_believed(tmp_path: Path, ca: Path) -> None:
    ago = datetime.now(UTC) - 400 * DAY
    new_ca(tmp_path, "old", 1000, now=ago)
    expired = new_leaf(tmp_path, "node", ["localhost"], 365, now=ago)
    valid = new_leaf(tmp_path, "client", ["c"], 30)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        connect(expired, valid, tmp_path, "localhost")


def test_an_expired_client_is_not_believed(tmp_path: Path) -> None:
    ago = datetime.now(UTC) - 400 * DAY
    new_ca(tmp_path, "old", 1000, now=ago)
    expired = new_leaf(tmp_path, "client", ["c"], 365, now=ago)
    valid = new_leaf(tmp_path, "node", ["localhost"], 30)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        connect(valid, expired, tmp_path, "localhost")


def test_nothing_of_an_expired_ca_is_believed(tmp_path: Path) -> None:
    ago = datetime.now(UTC) - 400 * DAY
    new_ca(tmp_path, "old", 365, now=ago)
    files = new_leaf(tmp_path, "node", ["localhost"], 365, now=ago)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        connect(files, files, tmp_path, "localhost")


def test_machines_whose_clocks_are_behind_believe_new_certificates(ca: Path, node: list[Path]) -> None:
    begin = datetime.now(UTC) - timedelta(hours=12)
    assert parsed(ca / "ca.pem").not_valid_before_utc < begin
    assert parsed(node[0]).not_valid_before_utc < begin


def test_a_leaf_that_is_called_like_its_ca_is_no_ca(tmp_path: Path) -> None:
    """OpenSSL must not take it for self-signed."""
    new_ca(tmp_path, "localhost", 30)
    files = new_leaf(tmp_path, "node", ["localhost"], 10)
    connect(files, new_leaf(tmp_path, "client", ["localhost"], 10), tmp_path, "localhost")


def test_a_node_with_the_longest_names_and_most_of_them(ca: Path, client: list[Path]) -> None:
    longest = ".".join(["x" * 63, "y" * 63, "z" * 63, "w" * 61])
    assert len(longest) == 253
    names = [longest, *(f"{number:03}{longest[3:]}" for number in range(NAMES_MAX - 1))]
    files = new_leaf(ca, "node", names, 30)
    connect(files, client, ca, longest)
    connect(files, client, ca, names[-1])


# What is in them.


def extension(certificate: x509.Certificate, kind: Any) -> tuple[Any, bool]:
    found = certificate.extensions.get_extension_for_class(kind)
    return found.value, found.critical


def test_a_ca_signs_certificates_but_no_other_cas(ca: Path) -> None:
    certificate = parsed(ca / "ca.pem")
    assert extension(certificate, x509.BasicConstraints) == (
        x509.BasicConstraints(ca=True, path_length=0),
        True,
    )
    usage, critical = extension(certificate, x509.KeyUsage)
    assert critical
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    identifier, _ = extension(certificate, x509.SubjectKeyIdentifier)
    assert identifier == x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "purposes"),
    [
        ("node", [ExtendedKeyUsageOID.SERVER_AUTH]),
        ("client", [ExtendedKeyUsageOID.CLIENT_AUTH]),
    ],
)
def test_a_leaf_signs_connections_only(
    ca: Path, node: list[Path], client: list[Path], kind: str, purposes: list[x509.ObjectIdentifier]
) -> None:
    certificate = parsed({"node": node, "client": client}[kind][0])
    assert certificate.version == x509.Version.v3
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    constraints, _ = extension(certificate, x509.BasicConstraints)
    assert not constraints.ca
    usage, _ = extension(certificate, x509.KeyUsage)
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (False, False, True)
    assert list(extension(certificate, x509.ExtendedKeyUsage)[0]) == purposes
    authority, _ = extension(certificate, x509.AuthorityKeyIdentifier)
    assert authority.key_identifier == extension(parsed(ca / "ca.pem"), x509.SubjectKeyIdentifier)[0].digest
    certificate.verify_directly_issued_by(parsed(ca / "ca.pem"))


def test_names_are_told_apart_from_addresses_and_told_once(ca: Path) -> None:
    files = new_leaf(ca, "node", ["once.example", "192.0.2.1", "::1", "once.example"], 30)
    names, _ = extension(parsed(files[0]), x509.SubjectAlternativeName)
    assert list(names) == [
        x509.DNSName("once.example"),
        x509.IPAddress(ip_address("192.0.2.1")),
        x509.IPAddress(ip_address("::1")),
    ]


def test_a_clients_label_that_can_be_a_hosts_name_is_one(client: list[Path]) -> None:
    names, _ = extension(parsed(client[0]), x509.SubjectAlternativeName)
    assert list(names) == [x509.DNSName("client-1.example")]


def test_serial_numbers_and_keys_are_never_the_same(tmp_path: Path) -> None:
    new_ca(tmp_path, "CA", 30)
    made = [tmp_path / "ca.pem", *(new_leaf(tmp_path, "client", [label], 10)[0] for label in "abc")]
    found = [parsed(path) for path in made]
    assert len({certificate.serial_number for certificate in found}) == len(found)
    assert len(
        {extension(certificate, x509.SubjectKeyIdentifier)[0].digest for certificate in found}
    ) == len(found)


# For one run.


def test_an_ephemeral_certificate_serves_tls(tmp_path: Path) -> None:
    certificate, key = ephemeral()
    path = tmp_path / "both.pem"
    path.write_bytes(certificate + key)
    listens = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listens.load_cert_chain(path)
    dials = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    dials.minimum_version = ssl.TLSVersion.TLSv1_3
    dials.check_hostname = False
    dials.verify_mode = ssl.CERT_NONE
    _, dialer = handshake(listens, dials, "whatever")
    assert dialer.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(certificate.decode())


def test_an_ephemeral_certificate_says_nothing_about_the_machine() -> None:
    certificate = x509.load_pem_x509_certificate(ephemeral()[0])
    assert certificate.subject == certificate.issuer
    assert certificate.subject.rfc4514_string() == "CN=dispy"
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_an_ephemeral_certificate_is_valid_for_years_and_where_clocks_are_behind() -> None:
    certificate = x509.load_pem_x509_certificate(ephemeral()[0])
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc < now - timedelta(hours=23)
    assert certificate.not_valid_after_utc > now + 3649 * DAY


def test_ephemeral_certificates_differ() -> None:
    one, other = ephemeral(), ephemeral()
    assert one[1] != other[1]
    assert (
        x509.load_pem_x509_certificate(one[0]).serial_number
        != x509.load_pem_x509_certificate(other[0]).serial_number
    )


def test_the_library_is_not_loaded_before_it_is_needed() -> None:
    program = "import sys, dispy.security.certificates; print(any('cryptography' in name for name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False\n"


# Files.


def test_files_are_named_after_what_they_are(tmp_path: Path) -> None:
    directory = tmp_path / "above" / "own"
    made = [
        *new_ca(directory, "CA", 30),
        *new_leaf(directory, "node", ["n.example", "192.0.2.1"], 10),
        *new_leaf(directory, "client", ["me"], 10),
    ]
    assert [path.relative_to(directory).as_posix() for path in made] == [
        "ca.pem", "ca-key.pem", "node-n.example.pem", "node-n.example-key.pem", "client-me.pem", "client-me-key.pem",
    ]  # fmt: skip
    assert set(snapshot(directory)) == {path.name for path in made}
    assert mode(directory) == 0o700


@pytest.mark.parametrize(
    ("kind", "name", "stem"),
    [
        ("node", "2001:db8::7", "node-2001_db8__7"),
        ("node", "bücher.example", "node-b_cher.example"),
        ("client", "../../etc/x", "client-_._.._etc_x"),
        ("client", "/etc/x", "client-_etc_x"),
        ("client", "..", "client-_."),
        ("client", ".", "client-_"),
        ("client", ".hidden", "client-_hidden"),
        ("client", "a b'\"\\$;", "client-a_b_____"),
        ("client", "機械", "client-__"),
        ("client", "-key", "client--key"),
    ],
)
def test_a_name_cannot_lead_out_of_the_directory(
    tmp_path: Path, kind: certificates.Kind, name: str, stem: str
) -> None:
    directory = tmp_path / "own"
    new_ca(directory, "CA", 30)
    made = new_leaf(directory, kind, [name], 10)
    assert made == [directory / f"{stem}.pem", directory / f"{stem}-key.pem"]
    assert set(snapshot(directory)) == {"ca.pem", "ca-key.pem", f"{stem}.pem", f"{stem}-key.pem"}
    assert list(tmp_path.iterdir()) == [directory]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_this_user_can_read_keys_at_any_moment(tmp_path: Path, umask: int) -> None:
    """Looks at all files after each single call that is made meanwhile."""
    directory = tmp_path / "own"
    faults = set()

    def look(frame: Any, event: str, argument: Any) -> None:
        for path in directory.iterdir() if directory.exists() else ():
            data = path.read_bytes()
            if b"PRIVATE" in data and mode(path) != 0o600:
                faults.add(f"{path.name} has mode {mode(path):o}")
            if path.suffix == ".pem" and not data.endswith((b"CERTIFICATE-----\n", b"PRIVATE KEY-----\n")):
                faults.add(f"{path.name} is not whole")

    new_ca(tmp_path / "warm", "everything is imported", 30)
    before = os.umask(umask)
    sys.setprofile(look)
    try:
        made = [*new_ca(directory, "CA", 30), *new_leaf(directory, "node", ["n"], 10)]
    finally:
        sys.setprofile(None)
        os.umask(before)
    assert not faults
    assert [mode(path) for path in made] == [0o644, 0o600, 0o644, 0o600]
    assert mode(directory) == 0o700


def test_a_ca_is_not_overwritten(tmp_path: Path) -> None:
    new_ca(tmp_path, "CA", 30)
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match=r"ca\.pem exists already; .*dispy cert new node"):
        new_ca(tmp_path, "CA", 30)
    assert snapshot(tmp_path) == before


def test_a_leaf_is_not_overwritten(tmp_path: Path) -> None:
    new_ca(tmp_path, "CA", 30)
    new_leaf(tmp_path, "node", ["n"], 10)
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match=r"node-n\.pem exists already; .*move it away"):
        new_leaf(tmp_path, "node", ["n", "m"], 10)
    assert snapshot(tmp_path) == before
    new_leaf(tmp_path, "client", ["n"], 10)


@pytest.mark.parametrize("name", ["ca.pem", "ca-key.pem"])
def test_half_a_pair_is_neither_overwritten_nor_made_whole(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        new_ca(tmp_path, "CA", 30)
    assert snapshot(tmp_path) == {name: b"precious"}


@pytest.mark.parametrize("name", ["ca.pem", "ca-key.pem"])
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "own"
    directory.mkdir(mode=0o700)
    (directory / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="exists already"):
        new_ca(directory, "CA", 30)
    assert os.listdir(directory) == [name]
    assert not (tmp_path / "elsewhere").exists()


def test_of_several_that_start_at_once_one_makes_a_whole_pair(tmp_path: Path) -> None:
    barrier = Barrier(STARTERS)

    def start() -> bool:
        barrier.wait()
        try:
            new_ca(tmp_path, "CA", 30)
        except UsageError:
            return False
        return True

    with ThreadPoolExecutor(STARTERS) as pool:
        won = [future.result() for future in [pool.submit(start) for _ in range(STARTERS)]]
    assert won.count(True) == 1
    assert set(snapshot(tmp_path)) == {"ca.pem", "ca-key.pem"}
    node, client = new_leaf(tmp_path, "node", ["localhost"], 10), new_leaf(tmp_path, "client", ["c"], 10)
    connect(node, client, tmp_path, "localhost")


def test_if_the_second_file_cannot_be_put_in_place_the_first_goes_too(tmp_path: Path) -> None:
    files = [NewFile(tmp_path / "first", b"1", 0o600), NewFile(tmp_path / ("x" * 300), b"2", 0o600)]
    with pytest.raises(UsageError, match="cannot be written: File name too long"):
        write_new(files, hint="")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"cannot be made: .*; give another"):
        new_ca(tmp_path / "file" / "own", "CA", 30)
    with pytest.raises(UsageError, match=r"cannot be made: .*; give another"):
        new_ca(tmp_path / "file", "CA", 30)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        write_new([NewFile(tmp_path / "missing" / "file", b"", 0o600)], hint="")


@pytest.mark.parametrize("bits", [0o770, 0o702, 0o777, 0o1777])
def test_a_directory_in_which_others_can_exchange_files_is_refused(tmp_path: Path, bits: int) -> None:
    directory = tmp_path / "own"
    new_ca(directory, "CA", 30)
    directory.chmod(bits)
    with pytest.raises(UsageError, match="chmod go-w"):
        new_leaf(directory, "node", ["n"], 10)
    with pytest.raises(UsageError, match="chmod go-w"):
        new_ca(directory, "CA", 30)
    assert set(snapshot(directory)) == {"ca.pem", "ca-key.pem"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "own"
    new_ca(directory, "CA", 30)
    os.chown(directory, 12345, 12345)
    with pytest.raises(UsageError, match="somebody else"):
        new_leaf(directory, "node", ["n"], 10)


# The CA's key.


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """Directory of a CA of this test alone."""
    new_ca(tmp_path, "CA", 30)
    return tmp_path


def refused(directory: Path, message: str) -> None:
    """Nothing can be made with this CA, and nothing is left of the attempt."""
    before = sorted(os.listdir(directory))
    with pytest.raises(UsageError, match=message):
        new_leaf(directory, "node", ["localhost"], 10)
    assert sorted(os.listdir(directory)) == before


@pytest.mark.parametrize("bits", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_reach_is_refused(fresh: Path, bits: int) -> None:
    (fresh / "ca-key.pem").chmod(bits)
    refused(fresh, "read by others; run 'chmod 600 ")
    (fresh / "ca-key.pem").chmod(0o600)
    new_leaf(fresh, "node", ["localhost"], 10)


def test_a_key_that_is_a_link_is_refused(fresh: Path) -> None:
    (fresh / "ca-key.pem").rename(fresh / "real.pem")
    (fresh / "ca-key.pem").symlink_to(fresh / "real.pem")
    refused(fresh, "is a link; .*chmod 600 ")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused(fresh: Path) -> None:
    os.chown(fresh / "ca-key.pem", 12345, 12345)
    refused(fresh, "somebody else; .*chmod 600 ")


def test_a_key_that_is_a_pipe_does_not_stop_us(fresh: Path) -> None:
    (fresh / "ca-key.pem").unlink()
    os.mkfifo(fresh / "ca-key.pem", 0o600)
    refused(fresh, "there is no file .*ca-key")


def test_without_a_ca_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match="make a CA: 'dispy cert new ca'"):
            new_leaf(directory, "node", ["localhost"], 10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ca.pem", "ca-key.pem"])
def test_half_a_ca_is_refused(fresh: Path, name: str) -> None:
    (fresh / name).unlink()
    refused(fresh, f"there is no .*{name}; .*dispy cert new ca")


@pytest.mark.parametrize("name", ["ca.pem", "ca-key.pem"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:60] + b"!" + data[61:],
        lambda _: bytes(range(256)),
        lambda _: b"\n" * 10_000_000,
        lambda data: data.replace(b"-----BEGIN", b"-----BEGUN"),
        lambda _: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        lambda _: b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ],
    ids=["empty", "cut", "changed", "binary", "endless", "no PEM", "no certificate", "no key"],
)
def test_what_is_no_ca_is_refused(fresh: Path, name: str, spoil: Any) -> None:
    path = fresh / name
    path.write_bytes(spoil(path.read_bytes()))
    refused(fresh, "ca-key.pem are not .*; make a CA")


def test_each_cut_of_a_cas_files_is_refused_in_words(fresh: Path) -> None:
    for path in (fresh / "ca.pem", fresh / "ca-key.pem"):
        whole = path.read_bytes()
        for size in range(0, len(whole) - 2, 7):
            path.write_bytes(whole[:size])
            refused(fresh, "ca-key.pem are not ")
        path.write_bytes(whole)
    new_leaf(fresh, "node", ["localhost"], 10)


def test_a_key_of_another_ca_is_refused(tmp_path: Path, fresh: Path) -> None:
    new_ca(tmp_path / "other", "CA", 30)
    (tmp_path / "other" / "ca-key.pem").replace(fresh / "ca-key.pem")
    refused(fresh, "are not a CA that dispy has made")


def test_a_leaf_in_the_place_of_a_ca_is_refused(fresh: Path) -> None:
    certificate, key = new_leaf(fresh, "node", ["n"], 10)
    certificate.replace(fresh / "ca.pem")
    key.replace(fresh / "ca-key.pem")
    refused(fresh, "are not a CA that dispy has made")


def test_an_encrypted_key_is_refused(fresh: Path) -> None:
    path = fresh / "ca-key.pem"
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    locked = serialization.BestAvailableEncryption(b"word")
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    )
    refused(fresh, "is encrypted; decrypt it")


@pytest.mark.parametrize("has_extensions", [True, False])
def test_a_ca_that_dispy_has_not_made_is_refused(fresh: Path, has_extensions: bool) -> None:
    key = rsa.generate_private_key(65537, 2048)
    certificate = signed(issuer=None, issuer_key=key, name="CA", is_ca=has_extensions)
    (fresh / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    (fresh / "ca-key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    refused(fresh, "are not ")


def signed(
    issuer: x509.Certificate | None, issuer_key: Any, name: str, *, is_ca: bool = False
) -> x509.Certificate:
    """A certificate that dispy would not make, for the issuer's own key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(issuer_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    if is_ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        identifier = x509.SubjectKeyIdentifier.from_public_key(issuer_key.public_key())
        builder = builder.add_extension(identifier, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


# Names and days.

BAD_NAMES = ["", " ", "a\nb", "a\0b", "\x1b[31m", "a\u202eb", "half\udcff", "x" * 254, "*", "*.example"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused(fresh: Path, name: str) -> None:
    before = snapshot(fresh)
    for names in ([name], ["good", name]):
        with pytest.raises(UsageError, match=r"name.*; "):
            new_leaf(fresh, "node", names, 10)
    with pytest.raises(UsageError, match=r"name.*; "):
        new_leaf(fresh, "client", [name], 10)
    with pytest.raises(UsageError, match=r"name.*; "):
        new_ca(fresh / "other", name, 10)
    assert snapshot(fresh) == before
    assert not (fresh / "other").exists()


@pytest.mark.parametrize(
    "name",
    [
        "a b", "a..b", ".a", "a.", "-a", "a-", "a/b", "node:51347", "[::1]", "192.0.2.1:80", "192.0.2.0/24",
        "300.1.1.1", "10.1", "1", "x" * 64, "ü" * 63, "a@b", "fe80::1%eth0", "0.0.0.0", "::", "http://node", " node",
        "(none)",
    ],
)  # fmt: skip
def test_what_no_client_can_reach_is_no_name_of_a_node(fresh: Path, name: str) -> None:
    before = snapshot(fresh)
    with pytest.raises(UsageError, match=r"neither a host name nor an address|nobody reaches"):
        new_leaf(fresh, "node", ["good", name], 10)
    assert snapshot(fresh) == before


def test_a_node_needs_a_name_and_not_too_many(fresh: Path) -> None:
    with pytest.raises(UsageError, match="needs a name"):
        new_leaf(fresh, "node", [], 10)
    with pytest.raises(UsageError, match=f"give at most {NAMES_MAX}"):
        new_leaf(fresh, "node", [f"n{number}" for number in range(NAMES_MAX + 1)], 10)


@pytest.mark.parametrize("names", [[], ["a", "b"]])
def test_a_client_has_one_name(fresh: Path, names: list[str]) -> None:
    with pytest.raises(UsageError, match="one name"):
        new_leaf(fresh, "client", names, 10)


@pytest.mark.parametrize("label", ["x" * 65, "ü" * 33])
def test_a_label_that_a_certificate_cannot_hold_is_refused(fresh: Path, label: str) -> None:
    with pytest.raises(UsageError, match="64 bytes"):
        new_leaf(fresh, "client", [label], 10)
    with pytest.raises(UsageError, match="64 bytes"):
        new_ca(fresh / "other", label, 10)
    new_leaf(fresh, "client", [label[:-1]], 10)


@pytest.mark.parametrize("days", [0, -1, DAYS_MAX + 1, 10**12])
def test_days_that_cannot_be(fresh: Path, days: int) -> None:
    with pytest.raises(UsageError, match=f"give 1 to {DAYS_MAX}"):
        new_ca(fresh / "other", "CA", days)
    with pytest.raises(UsageError, match=f"give 1 to {DAYS_MAX}"):
        new_leaf(fresh, "node", ["n"], days)


@pytest.mark.parametrize("days", [1, DAYS_MAX])
def test_days_are_counted_from_now(tmp_path: Path, days: int) -> None:
    now = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
    new_ca(tmp_path, "CA", days, now=now)
    files = new_leaf(tmp_path, "node", ["n"], days, now=now)
    end = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC) + days * DAY
    assert parsed(tmp_path / "ca.pem").not_valid_after_utc == end
    assert parsed(files[0]).not_valid_after_utc == end


def test_a_leaf_does_not_outlive_its_ca(tmp_path: Path) -> None:
    now = datetime(2026, 2, 3, tzinfo=UTC)
    new_ca(tmp_path, "CA", 30, now=now)
    with pytest.raises(UsageError, match=r"31 days .*until 2026-03-05; give at most 30, or make another"):
        new_leaf(tmp_path, "node", ["n"], 31, now=now)
    with pytest.raises(UsageError, match="give at most 1, "):
        new_leaf(tmp_path, "node", ["n"], 2, now=now + timedelta(days=29, seconds=1))
    assert set(snapshot(tmp_path)) == {"ca.pem", "ca-key.pem"}


@pytest.mark.parametrize(("days", "later"), [(30, 0), (30, 1), (30, 3600), (1, 30 * 86400 - 1)])
def test_a_leaf_may_be_valid_for_the_days_its_ca_has(tmp_path: Path, days: int, later: int) -> None:
    """Although time has passed since that was made; they end together."""
    now = datetime(2026, 2, 3, tzinfo=UTC)
    new_ca(tmp_path, "CA", 30, now=now)
    made = new_leaf(tmp_path, "node", ["n"], days, now=now + timedelta(seconds=later))
    assert parsed(made[0]).not_valid_after_utc == parsed(tmp_path / "ca.pem").not_valid_after_utc


def test_a_leaf_is_not_older_than_its_ca(tmp_path: Path) -> None:
    now = datetime(2026, 2, 3, tzinfo=UTC)
    new_ca(tmp_path, "CA", 30, now=now)
    made = new_leaf(tmp_path, "node", ["n"], 10, now=now - timedelta(hours=2))
    assert parsed(made[0]).not_valid_before_utc == parsed(tmp_path / "ca.pem").not_valid_before_utc


def test_an_expired_ca_signs_nothing_more(tmp_path: Path) -> None:
    now = datetime(2026, 2, 3, tzinfo=UTC)
    new_ca(tmp_path, "CA", 30, now=now)
    with pytest.raises(UsageError, match="expired on 2026-03-05; make another"):
        new_leaf(tmp_path, "node", ["n"], 1, now=now + 30 * DAY)
