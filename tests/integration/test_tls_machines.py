"""Nodes and programs on different machines: what is asked for, and what they have without asking."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

import dispy
from dispy.errors import UsageError
from dispy.security import key_text
from dispy.security.certificates import Kind, new_ca, new_leaf

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import Node, Place, Program
from .pem import Files, options

RANDOM = key_text.generate()
"""A secret that serves beyond loopback."""


def where() -> str:
    return dispy_node_name


def test_own_secret_is_refused_beyond_loopback(place: Place) -> None:
    """With two commands that change it."""
    node = Node(place, "--listen_port", "0", "--host", "0.0.0.0")
    try:
        assert node.wait() == 2
        said = node.stderr
    finally:
        node.end()
    with pytest.raises(UsageError) as caught:
        dispy.JobCluster(where, nodes=["192.0.2.1"])
    for text in (said, str(caught.value)):
        assert "'dispy secret new dispy.secret'" in text
        assert "'dispynode --host ADDRESS --secret_file dispy.secret'" in text
        assert "Traceback" not in text
    assert place.processes() == []


@pytest.mark.parametrize(
    ("arguments", "is_warned"),
    [
        (["--host", "0.0.0.0", "--no_tls"], True),
        (["--host", "0.0.0.0"], False),
        (["--host", "127.0.0.1", "--no_tls"], False),
        (["--host", "127.0.0.1"], False),
    ],
    ids=str,
)
def test_links_that_are_not_encrypted_are_warned_about_at_the_start(
    start_node: StartNode, arguments: list[str], is_warned: bool
) -> None:
    node = start_node("--secret", RANDOM, *arguments)
    assert node.uses_tls == ("--no_tls" not in arguments)
    if is_warned:
        node.wait_line("0.0.0.0.*not encrypted|not encrypted.*0.0.0.0", stream="stderr")
    else:
        assert node.stop() == 0
        assert "not encrypted" not in node.stderr
    assert RANDOM not in node.stderr


@pytest.mark.parametrize("tls", [None, True, False])
def test_cluster_warns_of_links_that_are_not_encrypted(
    make_own_cluster: MakeCluster, caplog: pytest.LogCaptureFixture, tls: bool | None
) -> None:
    for _ in range(2):
        with caplog.at_level(logging.WARNING, "dispy"):
            make_own_cluster(where, nodes=["192.0.2.1"], secret=RANDOM, tls=tls)
        assert ("192.0.2.1 are not encrypted" in caplog.text) == (tls is False)
        caplog.clear()


def test_node_on_all_addresses_is_reached_on_this_machine(
    start_node: StartNode, make_cluster: MakeCluster
) -> None:
    """It listens with TLS on loopback, too, and programs here find that out by themselves; typed secrets will do."""
    words = "one of many words that nobody tries"
    node = start_node("--host", "0.0.0.0", "--secret", words, "--name", "open")
    assert node.uses_tls
    assert make_cluster(where, secret=words).submit()() == "open"
    node.wait_line(
        "programs on other machines do not dial 0.0.0.0, as the secret was typed", stream="stderr"
    )


def test_weak_secret_is_refused_beyond_loopback_unless_forced(place: Place, start_node: StartNode) -> None:
    """Whichever way it was given; the refusal names both ways out."""
    environment = place.environment | {"DISPY_SECRET": "a"}
    refused = Node(place, "--listen_port", "0", "--host", "0.0.0.0", env=environment)
    try:
        assert refused.wait() == 2
        assert refused.stdout == ""
        assert "it counts 5 bits, and 60 are needed" in refused.stderr
        assert "'dispy secret new dispy.secret'" in refused.stderr
        assert "--force_weak_secret" in refused.stderr
        assert "Traceback" not in refused.stderr
    finally:
        refused.end()
    for option in ("--force_weak_secret", "--force-weak-secret"):
        assert start_node("--host", "0.0.0.0", option, env=environment).stop() == 0
    assert start_node("--host", "127.0.0.1", env=environment).stop() == 0


@pytest.mark.parametrize("secret", ["abc", "correct horse battery staple orbit"])
def test_typed_secret_is_not_proved_to_strangers(
    make_own_cluster: MakeCluster, files: Files, monkeypatch: pytest.MonkeyPatch, place: Place, secret: str
) -> None:
    """However strong it seems, and whichever way nodes are named; the program is told what else it can do."""
    monkeypatch.setattr(dispy.config, "LocalNode", False)
    refused = pytest.raises(
        UsageError, match=r"192\.0\.2\.1 .*typed.*'dispy secret new .*'dispy cert new client"
    )
    for tls in (None, True, False):
        with refused:
            dispy.JobCluster(where, nodes=["192.0.2.1"], secret=secret, tls=tls)
    assert place.processes() == []
    cluster = make_own_cluster(where, secret=secret)
    for call in (cluster.allocate_node, cluster.discover_nodes):
        with refused:
            call("192.0.2.1")
    for certificates in (files.parameters("self-signed"), files.parameters("client", "ours")):
        make_own_cluster(where, nodes=["192.0.2.1"], secret=secret, **certificates)


_numbers = itertools.count()


@pytest.fixture
def network() -> Iterator[tuple[str, str]]:
    """Two network namespaces, 198.51.100.1 in the first one and 198.51.100.2 in the second one."""
    if shutil.which("ip") is None:
        pytest.skip("there is no command 'ip'")
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    names = [f"dispy-test-{os.getpid()}-{next(_numbers)}" for _ in range(2)]

    def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)

    try:
        made = [ip("netns", "add", name) for name in names]
        made.append(
            ip("-n", names[0], "link", "add", "d0", "type", "veth", "peer", "d0", "netns", names[1])
        )
        for number, name in enumerate(names, 1):
            made.append(ip("-n", name, "address", "add", f"198.51.100.{number}/24", "dev", "d0"))
            made.append(ip("-n", name, "link", "set", "d0", "up"))
        failed = [done.stderr.strip() for done in made if done.returncode]
        if failed:
            pytest.skip(f"network namespaces cannot be made: {failed[0]}")
        yield names[0], names[1]
    finally:
        for name in names:
            ip("netns", "delete", name)


CLIENT = """
import json, sys
import dispy

def compute(data):
    print(len(data))
    return data[::-1], dispy_node_name, dispy_node_ip_addr

cluster = dispy.JobCluster(compute, nodes=[("198.51.100.1", int(sys.argv[1]))], **json.loads(sys.argv[2]))
for size in (1, 3_000_000):
    job = cluster.submit(bytes(size - 1) + b"x")
    value, name, address = job()
    assert value == b"x" + bytes(size - 1)
    print(size, name, address, job.ip_addr, job.stdout.strip())
jobs = [cluster.submit(bytes([n % 256])) for n in range(1000)]
print(sum(job()[0][0] for job in jobs))
cluster.print_status()
"""

LOOK = """
import socket, ssl, sys

context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
with socket.create_connection(("198.51.100.1", int(sys.argv[1])), 8) as link:
    with context.wrap_socket(link) as secured:
        print(secured.version())
"""


class Elsewhere:
    """A machine that has only the network, and files that were copied to it, in common with the other.

    Args:
        place: Its processes are watched there.
        namespace: Its network.
    """

    def __init__(self, place: Place, namespace: str) -> None:
        self.python = ["ip", "netns", "exec", namespace, sys.executable]
        self.directory = place.root / namespace
        self.environment = dict(place.environment)
        for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
            (self.directory / name).mkdir(mode=0o700, parents=True)
            self.environment[name] = str(self.directory / name)


def test_from_one_machine_to_another(
    network: tuple[str, str], start_node: StartNode, run_program: RunProgram, place: Place
) -> None:
    """A secret in a file is all there is; the link is TLS."""
    secret = place.root / "dispy.secret"
    made = [sys.executable, "-m", "dispy.cli.main", "secret", "new", str(secret)]
    subprocess.run(made, env=place.environment, capture_output=True, check=True)
    node = start_node(
        "--host", "198.51.100.1", "--secret_file", str(secret), "--name", "far away",
        python=["ip", "netns", "exec", network[0], sys.executable],
    )  # fmt: skip
    assert (node.host, node.uses_tls) == ("198.51.100.1", True)
    there = Elsewhere(place, network[1])
    parameters = f'{{"secret_file": "{secret}"}}'
    client = run_in(there, run_program, CLIENT, str(node.port), parameters)
    assert client.wait(20) == 0, client.stderr
    shown = client.stdout.splitlines()
    assert shown[:3] == [
        "1 far away 198.51.100.1 198.51.100.1 1",
        "3000000 far away 198.51.100.1 198.51.100.1 3000000",
        str(sum(n % 256 for n in range(1000))),
    ]
    assert "not encrypted" not in client.stderr + node.stderr
    look = run_in(there, run_program, LOOK, str(node.port))
    assert look.wait(8) == 0, look.stderr
    assert look.stdout == "TLSv1.3\n"


WAIT = """
import sys, threading, time
import dispy

def compute():
    import time
    time.sleep(3600)

gone = threading.Event()
begun = threading.Event()

def status(status, node, job):
    if status == dispy.DispyNode.Closed:
        gone.set()
    if status == dispy.DispyJob.Running:
        begun.set()

cluster = dispy.JobCluster(
    compute, nodes=["198.51.100.1"], dispy_port=int(sys.argv[1]), secret="of both", pulse_interval=0.4,
    cluster_status=status,
)
job = cluster.submit()
assert begun.wait(10)
print("runs", job.ip_addr, flush=True)
sys.stdin.readline()
start = time.monotonic()
assert gone.wait(20), "it is not noticed"
assert job.wait(5)
print("lost after", time.monotonic() - start, job.status, flush=True)
"""


def test_a_cable_that_is_cut_is_noticed_also_by_who_shares_the_nodes_directories(
    network: tuple[str, str], start_node: StartNode, run_program: RunProgram, place: Place
) -> None:
    """Two containers of one user with his directories: the node's socket is in sight, and not used."""
    start_node(
        "--host", "198.51.100.1", "--secret", RANDOM, "--dispy_port", "9800", port=None,
        python=["ip", "netns", "exec", network[0], sys.executable],
    )  # fmt: skip
    (listing,) = (place.state / "dispy" / "nodes").glob("*/*.json")
    path = json.loads(listing.read_text())["socket"]
    assert os.path.exists(path)
    python = ["ip", "netns", "exec", network[1], sys.executable]
    program = run_program(WAIT.replace("of both", RANDOM), "9800", python=python, stdin=subprocess.PIPE)
    program.wait_line("^runs 198.51.100.1$")
    subprocess.run(["ip", "-n", network[0], "link", "set", "d0", "down"], check=True)
    assert program.process.stdin is not None
    program.process.stdin.write(b"cut\n")
    program.process.stdin.close()
    lost = program.wait_line(r"^lost after (\S+) (\d+)$", deadline_s=15)
    # Five intervals, half a one between two looks, and a busy machine.
    assert float(lost[1]) < 5 * 0.4 + 2
    assert int(lost[2]) == dispy.DispyJob.Abandoned


def run_in(there: Elsewhere, run_program: RunProgram, source: str, *arguments: str) -> Program:
    """Run a program there."""
    return run_program(source, *arguments, python=there.python, env=there.environment)


def test_certificates_from_one_machine_to_another(
    network: tuple[str, str], start_node: StartNode, run_program: RunProgram, place: Place
) -> None:
    """Mutual TLS; a client whose certificate is of another authority gets nowhere, although it has the secret.

    The secret is a typed one, as programs for dispy 4 have, and is forced at the node.
    """
    secret = place.root / "dispy.secret"
    secret.write_text("of both machines")
    secret.chmod(0o600)
    files: dict[str, dict[str, str]] = {}
    for authority in ("ours", "theirs"):
        directory = place.root / authority
        new_ca(directory, authority, 30)
        names: dict[Kind, str] = {"node": "198.51.100.1", "client": "laptop"}
        for kind, name in names.items():
            certificate, key = new_leaf(directory, kind, [name], 30)
            pair = {"certfile": str(certificate), "keyfile": str(key)}
            files[f"{kind} of {authority}"] = {"cafile": str(place.root / "ours" / "ca.pem"), **pair}
    node = start_node(
        "--host", "198.51.100.1", "--secret_file", str(secret), "--name", "far away", "--force_weak_secret",
        *options(files["node of ours"]),
        python=["ip", "netns", "exec", network[0], sys.executable],
    )  # fmt: skip
    there = Elsewhere(place, network[1])
    right = json.dumps({"secret_file": str(secret), **files["client of ours"]})
    client = run_in(there, run_program, CLIENT, str(node.port), right)
    assert client.wait(20) == 0, client.stderr
    assert "far away" in client.stdout
    wrong = json.dumps({"secret_file": str(secret), **files["client of theirs"]})
    refused = run_in(there, run_program, CLIENT, str(node.port), wrong)
    refused.wait_line("does not believe our certificate", stream="stderr")
    assert refused.stdout == ""
