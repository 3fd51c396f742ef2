"""Nodes of other machines are found without being named: network namespaces, real nodes, real programs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from .conftest import RunProgram, StartNode
from .helpers import RANDOM, Node, Place, Program, wait_for
from .lan import Lan, Machine, new_secret

MakeLan = Callable[..., Lan]
StartProgram = Callable[..., Program]


@pytest.fixture
def make_lan(place: Place) -> Iterator[MakeLan]:
    """Makes networks, which are gone after the test."""
    made: list[Lan] = []

    def make(count: int, networks: int = 1, *, is_6: bool = False) -> Lan:
        made.append(Lan(place, count, networks, is_6=is_6))
        return made[-1]

    yield make
    for lan in made:
        lan.close()


PROGRAM = """
import json, sys, time
import dispy

dispy.config.LocalNode = False

def compute():
    return dispy_node_name

def status(status, node, job):
    if status == dispy.DispyNode.Initialized:
        print("uses", node.name, node.ip_addr, round(time.monotonic() - begin, 2), flush=True)
    if status == dispy.DispyNode.Closed:
        print("lost", node.name, flush=True)

begin = time.monotonic()
cluster = dispy.JobCluster(compute, cluster_status=status, pulse_interval=0.3, **json.loads(sys.argv[1]))
print("open", flush=True)
for line in sys.stdin:
    if line == "nodes\\n":
        print("nodes", *sorted(node.name for node in cluster.status().nodes), flush=True)
    elif line == "seek\\n":
        print("sought", cluster.discover_nodes(["*"]), flush=True)
    else:
        print("ran on", cluster.submit()(), flush=True)
cluster.close()
"""
"""A program whose cluster has the parameters of its argument, and which says which nodes it uses and loses."""


@pytest.fixture
def start_program(run_program: RunProgram) -> Iterator[StartProgram]:
    """Starts ``PROGRAM`` on a machine, with parameters of its cluster; it ends when its input does."""
    started: list[Program] = []

    def start(machine: Machine, **parameters: object) -> Program:
        program = run_program(PROGRAM, json.dumps(parameters), stdin=subprocess.PIPE, **machine.node)
        started.append(program)
        program.wait_line("^open$")
        return program

    yield start
    for program in started:
        assert program.process.stdin is not None
        with suppress(OSError):
            program.process.stdin.close()


def tell(program: Program, line: str) -> None:
    """Give a program a line of input."""
    assert program.process.stdin is not None
    program.process.stdin.write(f"{line}\n".encode())
    program.process.stdin.flush()


StartThere = Callable[..., Node]


@pytest.fixture
def start_there(start_node: StartNode) -> StartThere:
    """Starts a node on a machine, at the usual port."""

    def start(
        machine: Machine, name: str, secret: Path | str, *options: str, host: str = "0.0.0.0"
    ) -> Node:
        kind = "--secret" if isinstance(secret, str) else "--secret_file"
        given = ["--host", host, kind, str(secret), "--name", name, *options]
        return start_node(*given, port=None, **machine.node)

    return start


LISTEN = """
import socket, sys

made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
made.bind(("::", int(sys.argv[1])))
print("listens", flush=True)
while True:
    data, source = made.recvfrom(2000)
    print("heard", len(data), source[0], data.hex(), flush=True)
"""
"""Says what it hears at a port: somebody else's eyes on the network."""


def test_all_nodes_of_the_secret_are_found_also_one_that_comes_later(
    make_lan: MakeLan, place: Place, start_there: StartThere, start_program: StartProgram
) -> None:
    """Within a second. A node with another secret is neither used nor dialed."""
    lan = make_lan(4)
    secret = new_secret(place)
    first, other, client, later = lan.machines
    start_there(first, "first", secret)
    stranger = start_there(other, "other", RANDOM)
    program = start_program(client, secret_file=str(secret))
    found = program.wait_line(r"^uses first 10\.9\.0\.1 (\S+)$")
    assert float(found[1]) < 1
    start_there(later, "later", secret)
    program.wait_line(r"^uses later 10\.9\.0\.4", deadline_s=1)
    tell(program, "run")
    assert program.wait_line(r"^ran on (\S+)$")[1] in ("first", "later")
    assert "other" not in program.stdout + program.stderr
    assert "10.9.0.3" not in stranger.stderr


@pytest.mark.parametrize(
    ("is_6", "parameters"),
    [
        (False, {"nodes": "*"}),
        (False, {"nodes": ["10.9.0.*"]}),
        (False, {"nodes": [["10.9.*", 9701]]}),
        (False, {"ipv4_udp_multicast": True}),
        (True, {}),
        (True, {"nodes": ["fd09:*"]}),
    ],
    ids=str,
)
def test_on_every_kind_of_network_and_by_every_pattern(
    make_lan: MakeLan, place: Place, start_there: StartThere, start_program: StartProgram,
    is_6: bool, parameters: dict[str, Any],
) -> None:  # fmt: skip
    """IPv6 only; by broadcast and by multicast, of which the node needs to know nothing."""
    lan = make_lan(2, is_6=is_6)
    secret = new_secret(place)
    start_there(lan.machines[0], "far", secret, host="::" if is_6 else "0.0.0.0")
    program = start_program(lan.machines[1], secret_file=str(secret), **parameters)
    assert program.wait_line(r"^uses far (\S+)")[1] == lan.address(0)


def test_a_node_that_listens_at_one_address_is_found_there(
    make_lan: MakeLan, place: Place, start_there: StartThere, start_program: StartProgram
) -> None:
    """It has two networks, and is on one of them only; a program of the other finds nothing."""
    lan = make_lan(2, networks=2)
    secret = new_secret(place)
    start_there(lan.machines[0], "far", secret, host=lan.address(0, 1))
    program = start_program(lan.machines[1], secret_file=str(secret), nodes="10.9.*")
    assert program.wait_line(r"^uses far (\S+)")[1] == lan.address(0, 1)


def test_patterns_leave_out_other_networks(
    make_lan: MakeLan, place: Place, start_there: StartThere, start_program: StartProgram
) -> None:
    lan = make_lan(3, networks=2)
    secret = new_secret(place)
    start_there(lan.machines[0], "left", secret, host=lan.address(0, 0))
    start_there(lan.machines[1], "right", secret, host=lan.address(1, 1))
    program = start_program(lan.machines[2], secret_file=str(secret), nodes=["10.9.1.*"])
    program.wait_line("^uses right 10.9.1.2")
    tell(program, "seek")
    program.wait_line("^sought 0$")
    tell(program, "nodes")
    assert program.wait_line(r"^nodes (.*)$")[1] == "right"


def test_a_node_with_several_addresses_is_used_once(
    make_lan: MakeLan, place: Place, start_there: StartThere, start_program: StartProgram
) -> None:
    lan = make_lan(2, networks=3)
    secret = new_secret(place)
    start_there(lan.machines[0], "far", secret, "--cpus", "1")
    program = start_program(lan.machines[1], secret_file=str(secret))
    program.wait_line("^uses far ")
    for _ in range(3):
        tell(program, "run")
    wait_for(lambda: program.stdout.count("ran on far"), lambda count: count == 3, what="three jobs ran")
    assert program.stdout.count("uses far") == 1


def test_nodes_with_one_name_and_nodes_of_one_machine_are_all_used(
    make_lan: MakeLan, place: Place, start_node: StartNode, start_there: StartThere, start_program: StartProgram
) -> None:  # fmt: skip
    """The second one of a machine listens at a port of its own, and says so."""
    lan = make_lan(3)
    secret = new_secret(place)
    start_there(lan.machines[0], "twin", secret)
    start_there(lan.machines[1], "twin", secret)
    start_there(lan.machines[1], "beside", secret, "--listen_port", "9800")
    program = start_program(lan.machines[2], secret_file=str(secret))
    for text in ("twin 10.9.0.1", "twin 10.9.0.2", "beside 10.9.0.2"):
        program.wait_line(f"^uses {text} ")


def test_after_a_pulled_cable_the_node_is_found_again(
    make_lan: MakeLan, place: Place, start_there: StartThere, start_program: StartProgram
) -> None:
    """Nobody is restarted; whichever side's cable it was."""
    lan = make_lan(2)
    secret = new_secret(place)
    start_there(lan.machines[0], "far", secret)
    program = start_program(lan.machines[1], secret_file=str(secret))
    program.wait_line("^uses far ")
    for count, side in enumerate((0, 1), 1):
        lan.cut(side)
        wait_for(lambda: program.stdout.count("lost far"), lambda n, c=count: n == c, what="it is lost")
        lan.mend(side)
        wait_for(
            lambda: program.stdout.count("uses far"), lambda n, c=count: n == c + 1, what="it is used again"
        )
    tell(program, "run")
    program.wait_line("^ran on far$")


def test_a_network_that_comes_later_is_used(
    make_lan: MakeLan, place: Place, start_there: StartThere, start_program: StartProgram
) -> None:
    lan = make_lan(2, networks=0)
    secret = new_secret(place)
    start_there(lan.machines[0], "far", secret)
    program = start_program(lan.machines[1], secret_file=str(secret))
    lan.add_network()
    for index in (0, 1):
        lan.plug(index)
    program.wait_line(r"^uses far 10\.9\.0\.1")


def test_a_node_that_drains_is_not_found(
    make_lan: MakeLan, place: Place, start_there: StartThere, start_program: StartProgram
) -> None:
    import signal

    lan = make_lan(2)
    secret = new_secret(place)
    start_there(lan.machines[1], "other", secret)
    draining = start_there(lan.machines[0], "drains", secret)
    busy = start_program(lan.machines[1], secret_file=str(secret))
    busy.wait_line("^uses drains ")
    draining.process.send_signal(signal.SIGUSR1)
    draining.wait_line("takes no new jobs", stream="stderr")
    program = start_program(lan.machines[1], secret_file=str(secret), nodes=["10.9.0.1*", "10.9.0.2"])
    program.wait_line("^uses other ")
    tell(program, "nodes")
    assert program.wait_line(r"^nodes (.*)$")[1] == "other"


# What goes over the network.


def test_nothing_is_sent_with_secrets_that_must_not_be_on_the_air(
    make_lan: MakeLan, place: Place, start_there: StartThere, start_program: StartProgram, run_program: RunProgram
) -> None:  # fmt: skip
    """A typed one, from a program or a node, and the user's own. Both sides say what to do instead."""
    lan = make_lan(3)
    eyes = [run_program(LISTEN, port, **lan.machines[2].node) for port in ("9700", "9701")]
    for program in eyes:
        program.wait_line("^listens$")
    typed = "orbit staple horse battery correct"
    node = start_there(lan.machines[0], "typed", typed)
    node.wait_line("programs on other machines do not dial 0.0.0.0", stream="stderr")
    told = run_program(
        PROGRAM, json.dumps({"secret": typed, "nodes": ["10.9.0.*"]}), **lan.machines[1].node
    )
    told.wait_line("unless the secret is one of 'dispy secret new'", stream="stderr")
    start_program(lan.machines[1], secret=typed)
    start_program(lan.machines[1])
    # The last one may send, and is heard.
    start_program(lan.machines[1], secret=RANDOM)
    heard = eyes[1].wait_line(r"^heard 91 ::ffff:10\.9\.0\.2 (\S+)$")
    assert eyes[1].stdout.count("heard") <= 3, eyes[1].stdout
    assert eyes[0].stdout == "listens\n"
    assert "5a" * 32 not in heard[1]


def test_a_node_at_rest_is_silent(
    make_lan: MakeLan, place: Place, start_there: StartThere, run_program: RunProgram
) -> None:
    """After the first second it sends nothing: the beacons that are heard are the three of its start."""
    lan = make_lan(2)
    eye = run_program(LISTEN, "9700", **lan.machines[1].node)
    eye.wait_line("^listens$")
    start_there(lan.machines[0], "far", RANDOM)
    wait_for(lambda: eye.stdout.count("::ffff:10.9.0.1"), lambda count: count == 3, what="three beacons")
    start_there(lan.machines[1], "near", RANDOM)
    wait_for(lambda: eye.stdout.count("::ffff:10.9.0.2"), lambda count: count == 3, what="three more")
    assert eye.stdout.count("::ffff:10.9.0.1") == 3


FLOOD = """
import os, socket, sys, time

made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
kinds = [os.urandom(91), b"dspy\\1\\1" + os.urandom(85), b"", b"x" * 1400, bytes.fromhex(sys.argv[1])]
print("floods", flush=True)
while True:
    for data in kinds:
        for port in (9700, 9701):
            try:
                made.sendto(data, ("10.9.0.255", port))
            except OSError:
                pass
    time.sleep(0.005)
"""
"""Sends a thousand datagrams a second to programs, and to nodes: most of what they read."""


def test_nodes_are_found_while_somebody_floods_the_network(
    make_lan: MakeLan, place: Place, start_there: StartThere, start_program: StartProgram, run_program: RunProgram
) -> None:  # fmt: skip
    """With noise, what looks like beacons, and a copy of a real one. The copy leads nobody to the sender."""
    lan = make_lan(3)
    secret = new_secret(place)
    eye = run_program(LISTEN, "9700", **lan.machines[2].node)
    eye.wait_line("^listens$")
    node = start_there(lan.machines[0], "far", secret)
    recorded = eye.wait_line(r"^heard 91 ::ffff:10\.9\.0\.1 (\S+)$")[1]
    flood = run_program(FLOOD, recorded, **lan.machines[2].node)
    flood.wait_line("^floods$")
    program = start_program(lan.machines[1], secret_file=str(secret))
    program.wait_line("^uses far 10.9.0.1")
    tell(program, "run")
    program.wait_line("^ran on far$")
    assert "10.9.0.3" not in program.stderr + node.stderr


# Shared scheduler.


SCHEDULED = """
import sys
import dispy

def compute():
    return dispy_node_name

with dispy.SharedJobCluster(compute, scheduler_host="127.0.0.1", secret_file=sys.argv[1]) as cluster:
    print("ran on", cluster.submit()(), flush=True)
"""


def test_a_shared_scheduler_finds_nodes_too(
    make_lan: MakeLan, place: Place, start_there: StartThere, run_program: RunProgram
) -> None:
    lan = make_lan(2)
    secret = new_secret(place)
    start_there(lan.machines[0], "far", secret)
    command = [*lan.machines[1].python, "-m", "dispy.cli.scheduler", "--daemon"]
    command += ["--node_secret_file", str(secret), "--cluster_secret_file", str(secret)]
    with subprocess.Popen(command, env=lan.machines[1].environment, stdout=subprocess.PIPE) as scheduler:
        try:
            assert scheduler.stdout is not None
            assert b"listens" in scheduler.stdout.readline()
            program = run_program(SCHEDULED, str(secret), **lan.machines[1].node)
            assert program.wait(20) == 0, program.stderr
            assert program.stdout == "ran on far\n"
        finally:
            scheduler.terminate()


# Names.


def test_a_node_at_a_name_that_only_this_machine_reaches_says_so(
    make_lan: MakeLan, place: Place, start_program: StartProgram
) -> None:
    """As Debian's /etc/hosts has it: the host's name is 127.0.1.1."""
    lan = make_lan(1)
    secret = new_secret(place)
    machine = lan.machines[0]
    hosts = place.root / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.1.1 workhorse\n")
    script = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    inside = ["ip", "netns", "exec", machine.name, "unshare", "--mount", "sh", "-c", script, "sh"]
    node = Node(
        place, "--host", "workhorse", "--secret_file", str(secret),
        python=[*inside, sys.executable], env=machine.environment,
    )  # fmt: skip
    try:
        node.wait_line(
            r"workhorse is 127\.0\.1\.1 here.*only programs of this machine.*--host 10\.9\.0\.1",
            stream="stderr",
        )
        assert node.stop() == 0
    finally:
        node.end()
