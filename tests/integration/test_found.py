"""Nodes and programs of one user on one machine find each other, however each was started; others do not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import dispy
from dispy.client.backend.private_node import PrivateNode
from dispy.security import key_text

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import PYTHON, Node, Place, Program, free_base_port, opened, wait_for

RANDOM = key_text.generate()
"""A secret that serves beyond loopback."""

ASKS = """
import dispy, sys


def where():
    return dispy_node_name


with dispy.JobCluster(where, **eval(sys.argv[1] if len(sys.argv) > 1 else '{}')) as cluster:
    print(cluster.submit()())
"""


def name_of_node() -> str:
    return dispy_node_name


def without(place: Place, *names: str, **more: str) -> dict[str, str]:
    """The environment of a place without some variables, and with others."""
    return {name: value for name, value in place.environment.items() if name not in names} | more


def check_found(program: Program, name: str) -> None:
    """Check that a program has used the node of that name, and started none."""
    assert program.wait(15) == 0, program.stderr
    assert (program.stdout, program.stderr) == (f"{name}\n", "")


def check_not_found(program: Program, where: Path) -> None:
    """Check that a program has started a node, and says truly where it has looked."""
    assert program.wait(15) == 0, program.stderr
    assert "no dispynode" in program.stderr
    assert f"(looked in {where}/dispy/nodes/" in program.stderr


# What the environment says.


@pytest.mark.parametrize("who", ["node", "program"])
@pytest.mark.parametrize("how", ["no runtime directory", "another temporary directory", "cron", "su"])
def test_they_find_each_other_whatever_was_done_to_the_environment(
    start_node: StartNode, run_program: RunProgram, place: Place, who: str, how: str
) -> None:
    other = place.root / "other"
    other.mkdir(mode=0o700)
    environment = {
        "no runtime directory": without(place, "XDG_RUNTIME_DIR"),
        "another temporary directory": without(place, TMPDIR=str(other)),
        "cron": {name: place.environment[name] for name in ("PATH", "XDG_STATE_HOME", "TMPDIR")},
        "su": without(place, XDG_RUNTIME_DIR="/run/user/12345"),
    }[how]
    start_node("--name", "found", **({"env": environment} if who == "node" else {}))
    check_found(run_program(ASKS, **({"env": environment} if who == "program" else {})), "found")


def test_a_home_directory_is_enough(start_node: StartNode, run_program: RunProgram, place: Place) -> None:
    home = place.root / "home"
    environment = without(place, "XDG_STATE_HOME", "XDG_RUNTIME_DIR", HOME=str(home))
    start_node("--name", "found", env=environment)
    assert len(list((home / ".local/state/dispy/nodes").glob("*/*.json"))) == 1
    check_found(run_program(ASKS, env=environment), "found")


def test_with_a_secret_of_a_file_as_with_the_own_one(
    start_node: StartNode, run_program: RunProgram, place: Place
) -> None:
    path = place.root / "secret file"
    path.write_text("shared by hand")
    path.chmod(0o600)
    start_node("--name", "found", "--secret_file", str(path), env=without(place, "XDG_RUNTIME_DIR"))
    check_found(run_program(ASKS, f"dict(secret_file={str(path)!r})"), "found")


def test_a_node_with_another_secret_is_said_to_be_there(
    start_node: StartNode, run_program: RunProgram, place: Place
) -> None:
    start_node("--secret", "another")
    program = run_program(ASKS)
    check_not_found(program, place.state)
    assert (
        "no dispynode with this program's secret runs on this machine, and one with another"
        in program.stderr
    )


def test_a_program_that_waits_says_where_it_has_looked(
    make_own_cluster: MakeCluster, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispy.config, "LocalNode", False)
    cluster = make_own_cluster(name_of_node)
    why = cluster.why(cluster.submit())
    assert why.startswith(
        "1 job of cluster name_of_node waits: no node of nodes=* can be used. No dispynode of"
    )
    assert f" is listed in {place.state}/dispy/nodes/" in why
    assert why.endswith("Start 'dispynode' on this machine, with the same secret.")


def test_a_node_that_was_killed_is_not_waited_for(
    start_node: StartNode, run_program: RunProgram, place: Place
) -> None:
    node = start_node("--name", "killed")
    place.is_swept = True
    node.send(signal.SIGKILL)
    node.wait()
    check_not_found(run_program(ASKS), place.state)
    assert list((place.state / "dispy" / "nodes").glob("*/*.json")) == []


def test_a_node_started_later_is_found_at_once(
    make_cluster: MakeCluster, start_node: StartNode, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispy.config, "LocalNode", False)
    job = make_cluster(name_of_node).submit()
    start_node("--name", "late", env=without(place, "XDG_RUNTIME_DIR"))
    assert job() == "late"


def test_a_list_that_cannot_be_read_for_long_holds_up_no_job(
    make_own_cluster: MakeCluster, start_node: StartNode, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file server that does not answer."""
    start_node("--name", "found")
    cluster = make_own_cluster(name_of_node)
    assert cluster.submit()() == "found"
    hangs = place.root / "hangs"
    os.mkfifo(hangs)
    waiting: list[str] = []

    def running() -> list[object]:
        waiting.append("")
        with hangs.open() as file:
            return list(file)

    monkeypatch.setattr(cluster._session.backend.discovery.listed._lookout, "running", running)
    wait_for(lambda: waiting, what="the list is being read")
    assert [cluster.submit()() for _ in range(20)] == ["found"] * 20
    assert len(waiting) == 1
    with hangs.open("w"):
        pass


# Namespaces.


def apart(option: str, prepare: str = "true") -> list[str]:
    """Python in a namespace of its own."""
    script = f'{prepare} || exit 99; exec "$0" "$@"'
    return ["unshare", option, "sh", "-c", script, sys.executable]


NETWORK = apart("--net", "ip link set lo up")
"""As in a container: 127.0.0.1 is another one."""

PROCESSES = apart("--pid", "mount --make-rprivate / && mount -t proc proc /proc")
PROCESSES[1:1] = ["--mount", "--fork"]
"""As in a container that shares the network of its machine."""

FILES = apart("--mount", 'mount --make-rprivate / && mount -t tmpfs tmpfs "$TMPDIR"')
"""As with PrivateTmp of systemd."""


@pytest.fixture
def needs_namespaces() -> None:
    """Skip where nobody may make namespaces."""
    for python in (NETWORK, PROCESSES, FILES):
        done = subprocess.run(
            [*python, "-c", ""], env={**os.environ, "TMPDIR": "/mnt"}, capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"namespaces: {done.stderr.decode()}")


@pytest.mark.usefixtures("needs_namespaces")
@pytest.mark.parametrize("who", ["node", "program"])
@pytest.mark.parametrize("python", [PROCESSES, FILES], ids=["processes", "files"])
def test_they_find_each_other_from_a_container_in_the_same_network(
    start_node: StartNode, run_program: RunProgram, python: list[str], who: str
) -> None:
    node = start_node("--name", "found", python=python if who == "node" else PYTHON)
    program = run_program(ASKS, python=python if who == "program" else PYTHON)
    try:
        check_found(program, "found")
    finally:
        if who == "node" and python is PROCESSES:
            end_inside(node, signal.SIGTERM)


@pytest.mark.usefixtures("needs_namespaces")
@pytest.mark.parametrize("who", ["node", "program"])
def test_a_node_in_another_network_is_none_of_this_machine(
    start_node: StartNode, run_program: RunProgram, place: Place, who: str
) -> None:
    start_node("--name", "beyond", python=NETWORK if who == "node" else PYTHON)
    program = run_program(ASKS, python=NETWORK if who == "program" else PYTHON)
    check_not_found(program, place.state)
    assert len(list((place.state / "dispy" / "nodes").glob("*/*.json"))) == 1


def end_inside(node: Node, number: int) -> None:
    """Send a signal to a node that runs in a namespace of PIDs of its own, and wait for its end."""
    os.kill(node.descendants()[0], number)
    node.wait()


@pytest.mark.usefixtures("needs_namespaces")
@pytest.mark.parametrize("squatter", ["nobody", "stranger", "silent"])
def test_a_node_that_was_killed_in_a_container_is_not_waited_for(
    start_node: StartNode, run_program: RunProgram, place: Place, squatter: str
) -> None:
    """Nobody outside sees that it is dead, but who listens in its place has not the secret."""
    node = start_node("--name", "killed", python=PROCESSES)
    place.is_swept = True
    end_inside(node, signal.SIGKILL)
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if squatter != "nobody":
            server.bind(("127.0.0.1", node.port))
            server.listen()
        program = run_program(ASKS)
        if squatter == "stranger":
            server.settimeout(0.05)
            while program.process.poll() is None:
                with suppress(OSError), server.accept()[0] as connection:
                    connection.sendall(b"220 another service\r\n")
        assert program.wait(15) == 0, program.stderr
    assert program.stdout != "killed\n"
    assert "no dispynode runs on this machine; started one" in program.stderr


# The port.


def listening(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Somebody else's listener."""
    return socket.create_server((host, port))


def test_a_node_for_other_machines_takes_no_other_port(place: Place) -> None:
    base = free_base_port()
    with listening(port=base + 1):
        node = Node(place, "--host", "0.0.0.0", "--secret", RANDOM, "--dispy_port", str(base))
        assert node.wait() == 1
    assert node.stdout == ""
    for part in (
        f"port {base + 1} of 0.0.0.0 is in use by another program of yours",
        "--listen_port 0",
        "--dispy_port",
    ):
        assert part in node.stderr
    assert "Traceback" not in node.stderr
    node.end()


def test_a_node_says_which_other_node_has_its_port(start_node: StartNode, place: Place) -> None:
    base = free_base_port()
    first = start_node("--name", "first", "--dispy_port", str(base), port=None)
    node = Node(place, "--host", "0.0.0.0", "--secret", RANDOM, "--dispy_port", str(base))
    assert node.wait() == 1
    assert f"in use by your dispynode 'first' (process {first.pid})" in node.stderr
    node.end()


def test_a_node_waits_for_the_port_of_one_that_ends(place: Place) -> None:
    """As on a restart, where nobody waits between the two."""
    base = free_base_port()
    before = listening(port=base + 1)
    node = Node(place, "--host", "0.0.0.0", "--secret", RANDOM, "--dispy_port", str(base))
    wait_for(lambda: "anon_inode:[eventpoll]" in opened(node.pid), what="its loop runs")
    begun = psutil.Process(node.pid).num_ctx_switches().voluntary
    wait_for(
        lambda: psutil.Process(node.pid).num_ctx_switches().voluntary,
        lambda count: count > begun + 3,
        what="it has tried several times",
    )
    before.close()
    try:
        assert node.wait_listens().port == base + 1
        assert node.stop() == 0
    finally:
        node.end()


def test_an_address_that_is_not_of_this_machine_is_refused_at_once(place: Place) -> None:
    node = Node(place, "--host", "192.0.2.1", "--secret", RANDOM)
    assert node.wait() == 1
    assert "cannot listen on 192.0.2.1 port 9701" in node.stderr
    assert "an address of this machine" in node.stderr
    node.end()


# Patterns.


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ("10.77.0.*", "and it has no such address; name the others: nodes=['10.77.0.2']"),
        (["10.77.*", "127.0.0.1"], "nodes=['10.77.0.2']"),
        ([("192.0.2.*", 9701, 2)], "nodes=['192.0.2.2']"),
        ("2001:db8:*", "name the others"),
        ("node*", "compared with addresses and not with names"),
        (["*.example.com"], "compared with addresses and not with names"),
        (["10.77.0.*:9701", "127.0.0.1"], "write nodes=[('10.77.0.*', 9701)]"),
    ],
)
def test_a_pattern_that_no_node_matches_is_warned_about_at_once(
    make_own_cluster: MakeCluster, nodes: object, said: str
) -> None:
    """At the line that made the cluster."""
    with pytest.warns(UserWarning, match="in nodes|not used") as caught:
        make_own_cluster(name_of_node, nodes=nodes)
    (warning,) = caught
    assert said in str(warning.message)
    assert warning.filename.endswith("conftest.py")


@pytest.mark.parametrize("nodes", ["*", "127.*", "127.0.0.*", "::*", ["*", "127.0.0.1"], ""])
def test_patterns_that_nodes_of_this_machine_may_match_are_not_warned_about(
    make_cluster: MakeCluster, nodes: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispy.config, "LocalNode", False)
    make_cluster(name_of_node, nodes=nodes)


def test_patterns_are_warned_about_wherever_they_are_given(
    make_own_cluster: MakeCluster, start_node: StartNode
) -> None:
    start_node()
    cluster = make_own_cluster(name_of_node)
    for call in (cluster.allocate_node, cluster.discover_nodes):
        with pytest.warns(UserWarning, match="patterns find nodes of this machine only") as caught:
            call("10.77.0.*")
        assert caught[0].filename == __file__


def test_jobs_that_wait_for_a_pattern_are_not_told_to_start_a_node_here(
    make_own_cluster: MakeCluster,
) -> None:
    with pytest.warns(UserWarning, match="10\\.77"):
        cluster = make_own_cluster(name_of_node, nodes="10.77.0.*")
    why = cluster.why(cluster.submit())
    assert "name the others: nodes=['10.77.0.2']" in why
    assert "Start" not in why


def test_jobs_that_wait_for_a_node_elsewhere_are_told_how_to_start_it_there(
    make_own_cluster: MakeCluster,
) -> None:
    cluster = make_own_cluster(name_of_node, nodes=["192.0.2.1"], secret=RANDOM)
    assert "Start 'dispynode --host 192.0.2.1' there, with the same secret." in cluster.why(
        cluster.submit()
    )


def test_a_pattern_with_a_port_finds_the_node_there(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    start_node("--name", "other")
    wanted = start_node("--name", "wanted")
    cluster = make_cluster(name_of_node, nodes=[("127.0.0.*", wanted.port)])
    assert {cluster.submit()() for _ in range(10)} == {"wanted"}


SEVERAL_NAMES = """
import subprocess, sys
import dispy

secret = sys.argv[1]


def where():
    return dispy_node_name


def start(name):
    command = [sys.executable, '-m', 'dispy.cli.node', '--host', '0.0.0.0', '--secret', secret, '--name', name]
    node = subprocess.Popen(command, stdout=subprocess.PIPE)
    node.stdout.readline()
    return node


node = start('found')
loopback, pattern, named = clusters = [
    dispy.JobCluster(where, nodes=nodes, secret=secret) for nodes in ('127.*', '10.77.*', ['10.77.0.1'])
]
print([cluster.submit()() for cluster in clusters], pattern.submit_node('10.77.0.1')())
node.kill()
node.communicate()
node = start('anew')
print([cluster.submit()() for cluster in clusters])
for cluster in clusters:
    cluster.close()
node.terminate()
node.communicate()
"""


@pytest.mark.usefixtures("needs_namespaces")
def test_a_node_on_all_addresses_is_covered_by_patterns_of_any(
    place: Place, run_program: RunProgram, start_node: StartNode
) -> None:
    """Also while it is in use under another of its addresses, and after it was started anew."""
    python = apart("--net", "ip link set lo up && ip addr add 10.77.0.1/24 dev lo")
    place.is_swept = True
    program = run_program(SEVERAL_NAMES, RANDOM, python=python)
    assert program.wait(20) == 0, program.stderr
    assert program.stdout.splitlines() == ["['found', 'found', 'found'] found", "['anew', 'anew', 'anew']"]


# Names and hosts.


@pytest.mark.parametrize("empty", ["host", "ip_addr", "ext_host"])
@pytest.mark.filterwarnings("ignore:ip_addr is now called host:DeprecationWarning")
def test_an_empty_host_is_none(make_cluster: MakeCluster, start_node: StartNode, empty: str) -> None:
    start_node("--name", "found")
    assert make_cluster(name_of_node, **{empty: ""}).submit()() == "found"


def test_what_a_program_says_of_its_own_node_counts_right() -> None:
    one = PrivateNode.__new__(PrivateNode)
    one._others = 0
    assert "started one with 1 CPU for" in one._describe(1)
    one._others = 2
    assert "and 2 with other secrets; started one with 3 CPUs for" in one._describe(3)
