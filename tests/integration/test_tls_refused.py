"""TLS: what is not believed and what cannot be used is refused, and told; no job runs."""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

import dispy
from dispy.errors import UsageError

from .conftest import MakeCluster, StartNode
from .helpers import Node, Place, wait_for
from .pem import Files, options

LATE_S = 4.0
"""A client is told within two seconds why it is refused; a busy machine may add to it."""


def where() -> str:
    return dispy_node_name


def lasting(path: str) -> None:
    with open(path, "w"):
        pass
    while True:
        time.sleep(0.01)


NODE, CLIENT = ("node", "ours"), ("client", "ours")

THEIRS = r"certificate is not believed.*dispy cert new "
OURS = r"does not believe our certificate.*dispy cert new "


@pytest.mark.parametrize(
    ("node_has", "client_has", "told", "logged"),
    [
        (("self-signed",), ("another",), r"not the one in certfile.*cafile", ""),
        ((), ("self-signed",), r"not the one in certfile", ""),
        (("node of theirs", "ours"), CLIENT, THEIRS + "node", OURS + "node"),
        (NODE, ("client of theirs", "ours"), OURS + "client", THEIRS + "client"),
        (NODE, ("client", "theirs"), THEIRS + "node", OURS + "node"),
        (NODE, (), OURS + "client", r"no certificate.*dispy cert new client"),
        (NODE, ("self-signed",), r"not the one in certfile.*cafile", THEIRS + "client"),
        (("node elsewhere", "ours"), CLIENT, r"127\.0\.0\.1.*dispy cert new node", OURS + "node"),
        (("expired node", "ours"), CLIENT, r"expired.*dispy cert new node", OURS + "node"),
        (NODE, ("expired client", "ours"), OURS + "client", r"expired.*dispy cert new client"),
        (CLIENT, CLIENT, r"purpose.*dispy cert new node", OURS + "node"),
        (NODE, NODE, OURS + "client", r"purpose.*dispy cert new client"),
        (None, (), r"does not speak TLS.*tls=False", r"127\.0\.0\.1: TLS before the proof"),
        ((), None, r"speaks TLS only.*tls=True", r"127\.0\.0\.1: dispy's protocol instead of TLS"),
        (NODE, None, r"speaks TLS only.*tls=True", r"127\.0\.0\.1: dispy's protocol instead of TLS"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_believed(
    start_node: StartNode,
    make_own_cluster: MakeCluster,
    place: Place,
    files: Files,
    caplog: pytest.LogCaptureFixture,
    node_has: tuple[str, ...] | None,
    client_has: tuple[str, ...] | None,
    told: str,
    logged: str,
) -> None:
    """One warning on each side that notices says what to do; no job runs.

    ``()`` stands for TLS with a secret alone, None for none.
    """

    def parameters(has: tuple[str, ...] | None) -> dict[str, Any]:
        return {"tls": False} if has is None else files.parameters(*has) if has else {"tls": True}

    node = start_node(*options(parameters(node_has)))
    nodes = [("127.0.0.1", node.port)]
    with caplog.at_level(logging.WARNING, "dispy"):
        cluster = make_own_cluster(lasting, nodes=nodes, **parameters(client_has))
        job = cluster.submit(str(place.root / "has run"))
        wait_for(lambda: caplog.messages, bool, what="the client is told", deadline_s=LATE_S)
    assert f"127.0.0.1:{node.port}" in caplog.messages[0]
    assert re.search(told, caplog.messages[0]), caplog.messages
    assert cluster.status().nodes == []
    assert cluster.cancel(job) == 0
    assert job.wait(2)
    assert job.status == dispy.DispyJob.Cancelled
    cluster.shutdown()
    assert node.process.poll() is None
    assert not (place.root / "has run").exists()
    if logged:
        node.wait_line("refused a connection from 127.0.0.1: ", stream="stderr")
        node.wait_line(logged, stream="stderr")
    assert "Traceback" not in node.stderr


def test_the_right_certificate_without_the_secret(
    start_node: StartNode, make_cluster: MakeCluster, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    node = start_node("--secret", "right", *options(files.parameters("node", "ours")))
    with caplog.at_level(logging.WARNING, "dispy"):
        cluster = make_cluster(
            where, nodes=[("127.0.0.1", node.port)], secret="wrong", **files.parameters("client", "ours")
        )
        job = cluster.submit()
        wait_for(lambda: caplog.text, lambda text: "same secret" in text, what="told", deadline_s=LATE_S)
    assert not job.finish.is_set()
    assert cluster.cancel(job) == 0


@pytest.mark.parametrize(
    ("client_has", "hears"),
    [((), True), (("self-signed",), False), (("client", "ours"), False)],
    ids=["secret", "certfile", "cafile"],
)
def test_an_impostor_hears_nothing_where_certificates_are_checked(
    make_cluster: MakeCluster, files: Files, client_has: tuple[str, ...], hears: bool
) -> None:
    """Not even the beginning of a handshake, at whose end it would have a proof to guess on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files.pairs["another"])
    parameters = files.parameters(*client_has) if client_has else {"tls": True}
    heard = b""
    with socket.create_server(("127.0.0.1", 0)) as impostor:
        make_cluster(where, nodes=[impostor.getsockname()], secret="abc", **parameters)
        impostor.settimeout(LATE_S)
        link, _ = impostor.accept()
        link.settimeout(LATE_S)
        with (
            link,
            suppress(ssl.SSLError, ConnectionError),
            context.wrap_socket(link, server_side=True) as secured,
        ):
            heard = secured.recv(1)
    assert bool(heard) == hears


# Files that cannot be used.


@pytest.fixture(scope="module")
def bad(files: Files) -> dict[str, str]:
    """Files by what is wrong with them."""
    encrypted = files.root / "encrypted-key.pem"
    key = serialization.load_pem_private_key(Path(files.pairs["self-signed"].keyfile).read_bytes(), None)
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    nonsense = files.root / "nonsense.pem"
    nonsense.write_bytes(os.urandom(2000))
    empty = files.root / "empty.pem"
    empty.write_bytes(b"")
    return {
        "missing": str(files.root / "no such file.pem"),
        "directory": str(files.root),
        "nonsense": str(nonsense),
        "empty": str(empty),
        "encrypted": str(encrypted),
        "certificate": files.pairs["self-signed"].certfile,
        "key": files.pairs["self-signed"].keyfile,
        "other key": files.pairs["another"].keyfile,
    }


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"certfile": "missing"}, r"no such file\.pem cannot be used: No such file"),
        ({"certfile": "directory"}, r"[Ii]s a directory"),
        ({"certfile": "nonsense"}, r"nonsense\.pem cannot be used"),
        ({"certfile": "empty"}, r"empty\.pem cannot be used"),
        ({"certfile": "key"}, r"self-signed-key\.pem cannot be used"),
        ({"certfile": "certificate"}, r"self-signed\.pem cannot be used"),
        ({"certfile": "certificate", "keyfile": "missing"}, r"no such file\.pem cannot be used: No such file"),
        ({"certfile": "certificate", "keyfile": "directory"}, r"cannot be used|is a directory"),
        ({"certfile": "certificate", "keyfile": "nonsense"}, r"nonsense\.pem cannot be used"),
        ({"certfile": "certificate", "keyfile": "encrypted"}, r"encrypted-key\.pem cannot be used: .*encrypted"),
        ({"certfile": "certificate", "keyfile": "other key"}, r"another-key\.pem cannot be used: .*mismatch"),
        ({"certfile": "certificate", "keyfile": "key", "cafile": "missing"}, r"cafile .*cannot be used: No such"),
        ({"certfile": "certificate", "keyfile": "key", "cafile": "directory"}, r"cafile.* (cannot|is a direc)"),
        ({"certfile": "certificate", "keyfile": "key", "cafile": "nonsense"}, r"cafile .*cannot be used"),
        ({"certfile": "certificate", "keyfile": "key", "cafile": "empty"}, r"cafile .*cannot be used"),
        ({"cafile": "certificate"}, r"cafile is given without certfile.*dispy cert new"),
        ({"keyfile": "key"}, r"keyfile is given without certfile"),
        ({"certfile": "certificate", "keyfile": "key", "tls": False}, r"certfile is given, and TLS is turned off"),
    ],
    ids=str,
)  # fmt: skip
def test_files_that_cannot_be_used(
    place: Place, bad: dict[str, str], given: dict[str, Any], told: str
) -> None:
    parameters = {name: bad.get(value, value) for name, value in given.items()}
    with pytest.raises(UsageError, match=told) as caught:
        dispy.JobCluster(where, **parameters)
    assert caught.value.hint
    assert place.processes() == [], "a node was started for a cluster that was refused"
    node = Node(
        place, "--listen_port", "0", *["--no_tls" if v is False else f"--{n}={v}" for n, v in parameters.items()]
    )  # fmt: skip
    try:
        assert node.wait() == 2, (node.stdout, node.stderr)
        assert "Traceback" not in node.stderr
        assert node.stdout == ""
        assert re.search(told, node.stderr), node.stderr
        assert "PRIVATE KEY" not in node.stderr
    finally:
        node.end()
