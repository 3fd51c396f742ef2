"""Links on one machine: Unix sockets of the same user, and TLS over loopback for what was not found by the list."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil
import pytest

import dispy
from dispy.net import loopback
from dispy.net.discovery import Listing, Lookout

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import RANDOM, Node, Place, free_base_port, outer_address, wait_for
from .jobs import name_and
from .others import account, public_directory, run_as_other
from .proxy import clean, proxy


def listed() -> Listing:
    """The only node in the list."""
    (found,) = Lookout().running()
    return found


def sockets(place: Place) -> list[Path]:
    """Unix sockets of nodes, hidden ones too."""
    return [path for path in sorted(place.root.glob("**/nodes/*/*")) if path.is_socket()]


def established(node: Node) -> int:
    """Number of TCP connections that a node has."""
    found = psutil.Process(node.pid).net_connections("inet")
    return len([each for each in found if each.status == psutil.CONN_ESTABLISHED])


def has_made_certificate(node: Node) -> bool:
    """True if the node has loaded what makes certificates."""
    return "cryptography" in Path(f"/proc/{node.pid}/maps").read_text()


def who(path: str = "") -> tuple[str, str, str]:
    return dispy_node_name, dispy_node_ip_addr, os.getcwd()


# The Unix socket.


def test_a_node_in_the_list_is_reached_by_its_socket(
    start_node: StartNode, make_own_cluster: MakeCluster, place: Place
) -> None:
    """Jobs see what they see over TCP, and no certificate is made."""
    node = start_node("--name", "here")
    cluster = make_own_cluster(who, dest_path="kept")
    job = cluster.submit()
    name, address, directory = job()
    assert (name, address, job.ip_addr) == ("here", "127.0.0.1", "127.0.0.1")
    assert directory.endswith("/kept")
    (shown,) = cluster.status().nodes
    assert shown.ip_addr == "127.0.0.1"
    assert established(node) == 0
    assert not has_made_certificate(node)
    (path,) = sockets(place)
    assert path.is_relative_to(place.runtime)
    assert node.stop() == 0
    assert sockets(place) == []


@pytest.mark.parametrize("nodes", [["localhost"], ["127.0.0.1"], ["*"], ["127.0.0.*"]], ids=str)
def test_however_the_machine_is_named(
    start_node: StartNode, make_cluster: MakeCluster, nodes: list[str]
) -> None:
    node = start_node()
    job = make_cluster(name_and, nodes=nodes).submit(1)
    assert job() == (node.name, 1)
    assert job.ip_addr == "127.0.0.1"
    assert established(node) == 0


def test_a_node_on_all_addresses_has_a_socket_too(start_node: StartNode, make_cluster: MakeCluster) -> None:
    node = start_node("--host", "0.0.0.0", "--secret", RANDOM)
    job = make_cluster(name_and, secret=RANDOM).submit(1)
    assert job() == (node.name, 1)
    assert job.ip_addr == "127.0.0.1"
    assert established(node) == 0


@pytest.mark.parametrize("size", [1000, 300_000, 3_000_000])
def test_large_data_goes_both_ways(
    start_node: StartNode, make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Without shared memory, so that it goes through the socket."""
    monkeypatch.setattr(dispy.config, "SharedMemory", False)
    node = start_node()
    cluster = make_cluster(lambda data: data[::-1])
    data = os.urandom(size)
    assert [job() for job in [cluster.submit(data) for _ in range(5)]] == [data[::-1]] * 5
    assert established(node) == 0


def test_the_private_node_of_a_program_has_a_socket(place: Place, make_own_cluster: MakeCluster) -> None:
    cluster = make_own_cluster(name_and)
    job = cluster.submit(1)
    assert job()[1] == 1
    assert job.ip_addr == "127.0.0.1"
    assert len(sockets(place)) == 1
    ends = [each for each in psutil.Process().net_connections("inet") if each.status == "ESTABLISHED"]
    assert ends == []


def test_a_path_that_is_too_long_for_an_address(
    place: Place, run_program: RunProgram, start_node: StartNode
) -> None:
    """Programs and nodes of a user whose directories have long names reach each other as others do."""
    runtime = place.runtime / ("long" * 40)
    runtime.mkdir(mode=0o700)
    environment = {**place.environment, "XDG_RUNTIME_DIR": str(runtime)}
    node = start_node("--name", "deep", env=environment)
    program = run_program(WHO, env=environment)
    assert program.wait() == 0, program.stderr
    assert program.stdout == "deep 127.0.0.1\n"
    assert established(node) == 0
    assert program.stderr == node.complaints == ""
    (path,) = sockets(place)
    assert len(str(path)) > 108


WHO = """
import dispy, sys

def compute():
    return dispy_node_name

cluster = dispy.JobCluster(compute, nodes=sys.argv[1:] or None)
job = cluster.submit()
print(job(), job.ip_addr)
cluster.shutdown()
"""


def test_without_a_socket_there_is_tls(
    place: Place, start_node: StartNode, make_cluster: MakeCluster
) -> None:
    """Something lies in its place: that costs a warning, and programs come by TCP."""
    port = free_base_port() + 1
    planted = []
    for base in (place.runtime, place.state):
        directory = base
        for name in ("dispy", "nodes", loopback.here(), f"127.0.0.1-{port}.sock", "in the way"):
            directory /= name
            directory.mkdir(mode=0o700)
            planted.append(directory)
    node = start_node(port=str(port))
    node.wait_line(
        "WARNING .*programs of this machine come by TCP, as this node can have no socket: none can be made in "
        f"{place.runtime}.*none can be made in {place.state}",
        stream="stderr",
    )
    assert listed().socket == ""
    job = make_cluster(name_and).submit(1)
    assert job() == (node.name, 1)
    assert established(node) == 1
    for directory in reversed(planted):
        if directory.name in ("in the way", f"127.0.0.1-{port}.sock"):
            directory.rmdir()


def test_a_socket_that_is_gone_costs_nothing_but_tls(
    start_node: StartNode, make_cluster: MakeCluster, place: Place
) -> None:
    """As at a logout, which removes the runtime directory under a node that stays."""
    node = start_node()
    for path in sockets(place):
        path.unlink()
    job = make_cluster(name_and).submit(1)
    assert job() == (node.name, 1)
    assert job.ip_addr == "127.0.0.1"
    assert established(node) == 1


def test_what_a_killed_node_leaves_is_tidied(start_node: StartNode, place: Place) -> None:
    killed = start_node()
    (left,) = sockets(place)
    killed.process.kill()
    killed.wait()
    assert sockets(place) == [left]
    place.is_swept = True
    start_node()
    wait_for(
        lambda: sockets(place), lambda found: left not in found and len(found) == 1, what="it is removed"
    )


def test_a_node_that_is_asked_for_tls_has_no_socket(
    start_node: StartNode, make_cluster: MakeCluster, place: Place
) -> None:
    node = start_node("--tls")
    assert sockets(place) == []
    assert listed().socket == ""
    assert make_cluster(name_and).submit(1)() == (node.name, 1)
    assert established(node) == 1


STRANGER = """
import socket, sys

with socket.socket(socket.AF_UNIX) as link:
    link.settimeout(8)
    link.connect(sys.argv[1])
    try:
        link.sendall(b"\\1" + bytes(14) + b"\\5hello")
        print(link.recv(100))
    except (BrokenPipeError, ConnectionResetError):
        print(b"")
"""


def test_another_user_is_refused_at_the_socket(
    start_node: StartNode, make_cluster: MakeCluster, python_for_all: str
) -> None:
    """Even where all modes would let him in: the kernel tells the node who he is."""
    node = start_node()
    with public_directory() as directory:
        there = directory / "link"
        os.link(listed().socket, there)
        there.chmod(0o666)
        done = run_as_other(python_for_all, "-c", STRANGER, str(there))
    assert done.stdout == "b''\n", done.stderr
    node.wait_line(
        rf"refused a connection to .*\.sock: it is by user {account().pw_uid}, and this node is of user",
        stream="stderr",
    )
    assert make_cluster(name_and).submit(1)() == (node.name, 1)


def test_a_program_of_the_user_without_the_secret_is_refused(start_node: StartNode) -> None:
    """The same user is not enough."""
    node = start_node()
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(8)
        directory = os.open(Path(listed().socket).parent, os.O_PATH)
        link.connect(f"/proc/self/fd/{directory}/{Path(listed().socket).name}")
        os.close(directory)
        link.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert len(link.recv(100)) == 21, "the constant refusal"
        assert link.recv(100) == b""
    node.wait_line(r"refused a connection to .*\.sock: HTTP before the proof", stream="stderr")


def test_a_node_on_another_address_of_this_machine_keeps_that_address(
    start_node: StartNode, make_cluster: MakeCluster
) -> None:
    """Programs of this machine come by the socket, and jobs have the address that the list names."""
    host = outer_address()
    node = start_node("--host", host, "--secret", RANDOM)
    for nodes in (None, [host]):
        job = make_cluster(name_and, secret=RANDOM, nodes=nodes).submit(1)
        assert job() == (node.name, 1)
        assert job.ip_addr == host
    assert established(node) == 0


# TCP on loopback.


def test_where_no_certificate_can_be_made_that_is_told_once(
    start_node: StartNode, make_own_cluster: MakeCluster, place: Place
) -> None:
    """Here the temporary directory is away for a moment; then all goes well."""
    node = start_node()
    moved = place.temporary.with_name("moved")
    place.temporary.rename(moved)
    cluster = make_own_cluster(name_and, nodes=[("127.0.0.1", node.port)])
    job = cluster.submit(1)
    node.wait_line("ERROR .*connections over TCP are refused: no certificate can be made", stream="stderr")
    moved.rename(place.temporary)
    assert job() == (node.name, 1)
    assert node.stderr.count("no certificate can be made") == 1


def test_an_explicit_port_is_dialed_as_given_with_tls(
    start_node: StartNode, make_own_cluster: MakeCluster
) -> None:
    """The node makes its certificate for the first that comes."""
    node = start_node()
    assert node.uses_tls
    assert not has_made_certificate(node)
    job = make_own_cluster(name_and, nodes=[("127.0.0.1", node.port)]).submit(1)
    assert job() == (node.name, 1)
    assert established(node) == 1
    assert has_made_certificate(node)


def test_a_machine_that_is_not_in_the_list_is_dialed_with_tls(
    start_node: StartNode, run_program: RunProgram, place: Place
) -> None:
    """The program has another state directory, as under cron or ``su``, and the same secret by another way."""
    port = free_base_port()
    node = start_node("--dispy_port", str(port), "--secret", "of both", "--name", "theirs", port=None)
    other = place.root / "other"
    other.mkdir(mode=0o700)
    environment = {**place.environment, "XDG_STATE_HOME": str(other), "DISPY_SECRET": "of both"}
    script = WHO.replace("nodes=sys.argv[1:]", f"dispy_port={port}, nodes=sys.argv[1:]")
    program = run_program(script, "localhost", env=environment)
    assert program.wait() == 0, program.stderr
    assert program.stdout == "theirs 127.0.0.1\n"
    assert has_made_certificate(node)


def test_a_forwarder_needs_no_option(start_node: StartNode, make_own_cluster: MakeCluster) -> None:
    """As ``ssh -L``: bytes are passed on, and the link is TLS from end to end."""
    node = start_node()
    with proxy(node.port, lambda _: clean) as passing:
        cluster = make_own_cluster(name_and, nodes=[("127.0.0.1", passing.port)])
        assert cluster.submit(1)() == (node.name, 1)
        assert passing.connections == 1
        cluster.shutdown()


def test_plain_links_are_to_be_asked_for(start_node: StartNode, make_own_cluster: MakeCluster) -> None:
    node = start_node("--no_tls")
    assert not node.uses_tls
    job = make_own_cluster(name_and, nodes=[("127.0.0.1", node.port)], tls=False).submit(1)
    assert job() == (node.name, 1)
    assert job.ip_addr == "127.0.0.1"
    assert established(node) == 1


def test_a_node_says_which_port_it_takes_instead_of_the_usual_one(
    start_node: StartNode, make_cluster: MakeCluster
) -> None:
    """With who holds it: whoever dials the usual port reaches that one."""
    port = free_base_port()
    with socket.create_server(("127.0.0.1", port + 1)):
        node = start_node("--dispy_port", str(port), port=None)
        assert node.port != port + 1
        node.wait_line(
            rf"WARNING .*port {port + 1} of 127\.0\.0\.1 is in use by another program of yours: this node listens on "
            rf"port {node.port}; .*nodes=\[\('127\.0\.0\.1', {node.port}\)\]",
            stream="stderr",
        )
        assert make_cluster(name_and).submit(1)() == (node.name, 1)
    second = start_node("--dispy_port", str(node.port - 1), port=None)
    second.wait_line(rf"port {node.port} of 127\.0\.0\.1 is in use by your dispynode", stream="stderr")
