"""TLS: three sources of certificates, one way of using them; and what a link looks like from outside."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy import config

from .conftest import MakeCluster, StartNode
from .helpers import RANDOM, Node, Place, outer_address, wait_for
from .pem import Files, options

MIB = 1 << 20
CANCELLED = dispy.DispyJob.Cancelled


@pytest.fixture(autouse=True)
def _no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """All goes over the link, as between machines."""
    monkeypatch.setattr(config, "SharedMemory", False)


@pytest.fixture(params=["secret", "certfile", "cafile"])
def way(request: pytest.FixtureRequest, files: Files) -> tuple[dict[str, Any], dict[str, Any]]:
    """Each source of certificates: parameters of the node, parameters of the client."""
    ways: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "secret": ({"tls": True}, {"tls": True}),
        "certfile": (files.parameters("self-signed"), files.parameters("self-signed")),
        "cafile": (files.parameters("node", "ours"), files.parameters("client", "ours")),
    }
    return ways[request.param]


def at(node: Node, host: str = "127.0.0.1") -> list[tuple[str, int]]:
    """This node and no other, reached over the network."""
    return [(host, node.port)]


def where(*_: Any) -> str:
    return dispy_node_name


def both_ways(data: bytes) -> tuple[bytes, str]:
    return data[::-1], hashlib.sha256(data).hexdigest()


def test_small_and_large_jobs(
    start_node: StartNode,
    make_own_cluster: MakeCluster,
    way: tuple[dict[str, Any], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispy.config, "SharedMemory", False)
    node = start_node("--name", "guarded", *options(way[0]))
    assert node.uses_tls
    cluster = make_own_cluster(both_ways, nodes=at(node), **way[1])
    single = [cluster.submit(bytes([n]))()[0] for n in range(20)]
    assert single == [bytes([n]) for n in range(20)]
    many = [cluster.submit(n.to_bytes(4, "big")) for n in range(3000)]
    large = [os.urandom(size) for size in (5 * MIB, 65536, 65535, 3 * MIB + 1, 8 * MIB)]
    jobs = [cluster.submit(data) for data in large]
    for data, job in zip(large, jobs, strict=True):
        assert job() == (data[::-1], hashlib.sha256(data).hexdigest()), job.exception
    assert [job()[0] for job in many] == [n.to_bytes(4, "big")[::-1] for n in range(3000)]
    assert [shown.name for shown in cluster.status().nodes] == ["guarded"]
    assert cluster.status().nodes[0].rx > sum(map(len, large))


def lasting(path: str) -> None:
    with open(path, "w"):
        pass
    while True:
        time.sleep(0.01)


def test_cancel(
    start_node: StartNode,
    make_cluster: MakeCluster,
    place: Place,
    way: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    node = start_node("--cpus", "1", *options(way[0]))
    cluster = make_cluster(lasting, nodes=at(node), **way[1])
    running, waiting = (cluster.submit(str(place.root / name)) for name in ("first", "second"))
    wait_for((place.root / "first").exists, what="the first job runs")
    for job, status in ((waiting, CANCELLED), (running, dispy.DispyJob.Terminated)):
        assert cluster.cancel(job) == 0
        assert job.wait(2)
        assert job.status == status
    assert not (place.root / "second").exists()


def test_output_errors_and_provisional_results(start_node: StartNode, make_cluster: MakeCluster) -> None:
    def compute() -> str:
        print("out")
        dispy_provisional_result(bytes(3 << 20))
        raise ValueError("mine")

    seen: list[tuple[int, int]] = []
    node = start_node("--tls")
    cluster = make_cluster(
        compute,
        nodes=at(node),
        tls=True,
        job_status=lambda job: seen.append((job.status, len(job.result or b""))),
    )
    job = cluster.submit()
    assert job() is None
    assert isinstance(job.error, ValueError)
    assert job.stdout == "out\n"
    wait_for(lambda: seen, lambda them: len(them) == 2, what="both statuses are told")
    assert seen == [(dispy.DispyJob.ProvisionalResult, 3 << 20), (dispy.DispyJob.Terminated, 0)]


def test_the_private_key_may_lie_in_certfile(
    start_node: StartNode, make_cluster: MakeCluster, files: Files, place: Place
) -> None:
    pair = files.pairs["self-signed"]
    both = place.root / "both.pem"
    both.write_bytes(Path(pair.keyfile).read_bytes() + Path(pair.certfile).read_bytes())
    node = start_node(f"--certfile={both}")
    assert make_cluster(where, nodes=at(node), certfile=str(both)).submit()() == node.name


def test_found_by_itself_with_tls(start_node: StartNode, make_cluster: MakeCluster, files: Files) -> None:
    """A node of this machine tells whether it wants TLS; nothing has to be said in the program."""
    start_node("--name", "guarded", "--tls")
    assert make_cluster(where).submit()() == "guarded"
    assert make_cluster(where, nodes=["127.0.0.1"]).submit()() == "guarded"


def test_names_are_those_of_nodes(start_node: StartNode, make_cluster: MakeCluster, files: Files) -> None:
    """The certificate names 127.0.0.1 and localhost; the node is asked for as either."""
    node = start_node("--name", "guarded", *options(files.parameters("node", "ours")))
    for host in ("127.0.0.1", "localhost"):
        cluster = make_cluster(where, nodes=at(node, host), **files.parameters("client", "ours"))
        assert cluster.submit()() == "guarded"


def test_a_node_certificate_of_older_versions_still_serves(
    start_node: StartNode, make_cluster: MakeCluster, files: Files
) -> None:
    """It is good for both ends, as it says itself."""
    node = start_node(*options(files.parameters("old node", "ours")))
    for name in ("client", "old node"):
        cluster = make_cluster(where, nodes=at(node), **files.parameters(name, "ours"))
        assert cluster.submit()() == node.name


def test_certificates_made_by_command(
    start_node: StartNode, make_cluster: MakeCluster, place: Place
) -> None:
    """From nothing to a job, by the commands that are shown to users."""
    directory = place.root / "made here"

    def dispy_cert(*arguments: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "dispy.cli.main", "cert", "new", *arguments, "--dir", str(directory)],
            env=place.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    cafile, _ = dispy_cert("ca")
    node_files = dispy_cert("node", "localhost", "127.0.0.1", "::1")
    client_files = dispy_cert("client", "my laptop")
    node = start_node(
        *options(dict(zip(("certfile", "keyfile", "cafile"), [*node_files, cafile], strict=True)))
    )
    mine = dict(zip(("certfile", "keyfile", "cafile"), [*client_files, cafile], strict=True))
    assert make_cluster(where, nodes=at(node), **mine).submit()() == node.name


# The link itself.


def context_of(files: Files, parameters: dict[str, Any]) -> ssl.SSLContext:
    """A TLS client that believes anything, with a certificate if one is needed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if "cafile" in parameters:
        context.load_cert_chain(*files.pairs["client"])
    return context


def test_nothing_but_tls_1_3(
    start_node: StartNode, files: Files, way: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    node = start_node(*options(way[0]))
    context = context_of(files, way[0])
    with (
        socket.create_connection((node.host, node.port), timeout=8) as link,
        context.wrap_socket(link) as secured,
    ):
        assert secured.version() == "TLSv1.3"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection((node.host, node.port), timeout=8) as link,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        context.wrap_socket(link)
    with socket.create_connection((node.host, node.port), timeout=8) as link:
        link.sendall(b"GET / HTTP/1.1\r\n\r\n")
        answer = b""
        with suppress(ConnectionResetError):
            while part := link.recv(4096):
                answer += part
    assert len(answer) < 64
    assert node.name.encode() not in answer


@contextmanager
def recording(host: str, port: int) -> Iterator[tuple[int, bytearray]]:
    """Passes on and records what is said on links to a port; yields the port to be used instead, and the record."""
    record = bytearray()
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server((host, 0)))
        threads: list[threading.Thread] = []

        def start(function: Callable[..., None], *arguments: Any) -> None:
            threads.append(threading.Thread(target=function, args=arguments))
            threads[-1].start()

        def accept() -> None:
            with suppress(OSError):
                while True:
                    accepted, _ = server.accept()
                    link = socket.create_connection((host, port))
                    stack.callback(accepted.close)
                    stack.callback(link.close)
                    start(pass_on, accepted, link)
                    start(pass_on, link, accepted)

        def pass_on(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while data := source.recv(65536):
                    record.extend(data)
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        start(accept)
        yield server.getsockname()[1], record
        server.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(8)


@pytest.mark.parametrize("tls", [True, False])
def test_who_listens_in_reads_nothing(
    start_node: StartNode, make_own_cluster: MakeCluster, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither code, arguments, results, output nor the node's name; without TLS all of it, which checks the test.

    That part is beyond loopback, as plain links on it cannot be passed on.
    """

    def compute(given: bytes, path: str) -> bytes:
        print("what was " + "printed")
        return given.upper() + b"local name of the code"[:0]

    monkeypatch.setattr(dispy.config, "SharedMemory", False)
    host = "127.0.0.1" if tls else outer_address()
    node = start_node(
        "--name", "name of the node", "--tls" if tls else "--no_tls", "--host", host, "--secret", RANDOM
    )
    with recording(host, node.port) as (port, record):
        cluster = make_own_cluster(compute, nodes=[(host, port)], tls=tls, secret=RANDOM)
        job = cluster.submit(b"the argument " * 10_000, "small")
        assert job() == b"THE ARGUMENT " * 10_000, job.exception
        assert cluster.submit(b"the argument ", "small")() == b"THE ARGUMENT "
        cluster.shutdown()
    said = [
        b"the argument",
        b"THE ARGUMENT",
        b"what was printed",
        b"name of the node",
        b"local name of the code",
    ]
    assert [words for words in said if words in record] == ([] if tls else said)
    assert len(record) > 260_000
