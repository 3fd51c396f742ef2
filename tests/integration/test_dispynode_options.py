"""Options of the ``dispynode`` command, and what it says."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from pathlib import Path

import pytest

import dispy

from .conftest import MakeCluster, StartNode
from .helpers import PYTHON, Node, Place, Program, free_base_port

CPUS = len(os.sched_getaffinity(0))

BEYOND = r" is beyond this machine.*'dispy secret new .*'dispynode --host .*--secret_file"
"""What is said of an address that the user's own secret is of no use for: two commands that change it."""


@pytest.mark.parametrize(
    ("arguments", "cpus"),
    [
        ([], CPUS),
        (["--cpus", "0"], CPUS),
        (["--cpus", "1"], 1),
        (["-c", "1"], 1),
        (["--cpus=1"], 1),
        pytest.param(["--cpus", "-1"], CPUS - 1, marks=pytest.mark.skipif(CPUS < 2, reason="one CPU only")),
        pytest.param(["--cpus=-1"], CPUS - 1, marks=pytest.mark.skipif(CPUS < 2, reason="one CPU only")),
    ],
)
def test_cpus(start_node: StartNode, make_cluster: MakeCluster, arguments: list[str], cpus: int) -> None:
    node = start_node(*arguments)
    assert node.cpus == cpus
    cluster = make_cluster(lambda: None)
    cluster.submit()()
    assert [shown.cpus for shown in cluster.status().nodes] == [cpus]


def test_cpus_respect_affinity(start_node: StartNode) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        node = start_node(is_forked=False)  # it inherits what this process has
    finally:
        os.sched_setaffinity(0, allowed)
    assert node.cpus == 1


def refused(place: Place, *arguments: str, code: int = 2) -> str:
    """What a node says that does not start."""
    node = Node(place, *arguments, is_forked=True)
    try:
        assert node.wait() == code, (node.stdout, node.stderr)
        assert node.stdout == ""
        assert "Traceback" not in node.stderr
        assert "Warning" not in node.stderr, node.stderr
        return node.stderr
    finally:
        node.end()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cpus", "100000"], r"100000.*asked for, \d+.*usable"),
        (["--cpus", "-100000"], r"100000.*leaves none"),
        (["--cpus", "many"], r"'many' is not a number of CPUs: 0 for all, or -1 for all but one"),
        (["--cpus", "1.5"], r"'1\.5' is not a number of CPUs"),
        (["--host", "0.0.0.0"], r"0\.0\.0\.0" + BEYOND),
        (["--host", "192.0.2.1"], r"192\.0\.2\.1" + BEYOND),
        (["--host", "::"], r"::" + BEYOND),
        (
            ["--host", "192.0.2.1", "--secret", "open sesame"],
            r"192\.0\.2\.1.*31 bits, and 60.*--force_weak_secret",
        ),
        (["--host", "no.such.host.invalid"], r"no\.such\.host\.invalid.*cannot be resolved"),
        (["--listen_port", "70000"], r"'70000' is not a port number, or 0 for any free one"),
        (["--dispy_port", "0"], r"dispy_port.*'0' is not a port number from 1 to 65000"),
        (["-p", "x"], r"dispy_port.*'x' is not a port number from 1 to 65000"),
        (["--zombie_interval", "nan"], r"'nan' is not a number of minutes from 1, or 0"),
        (["--max_file_size", "10mb"], r"'10mb' is no size: digits, and k, m, g or t, as in 500m"),
        (["--ping_interval", "3"], r"'3' is not a number of seconds from 10, or 0 for none"),
        (["--msg_timeout", "no"], r"'no' is not a number of seconds above 0"),
        (["--serve", "-2"], r"'-2' is not a number of computations, or -1 for no end"),
        (
            ["-i", "127.0.0.1", "-i", "127.0.0.2"],
            r"--host more than once.*127.0.0.1, 127.0.0.2.*--host 0\.0\.0\.0",
        ),
        (["--secret_file="], r"secret_file.*the path is empty"),
        (["--certfile=~nobody.here/x"], r"certfile.*'~nobody\.here' is not known here"),
        (["--secret_file", "/no/such/file"], r"/no/such/file.*cannot be read"),
        (["--secret", "a", "--secret_file", "b"], r"secret.*one of them"),
        (
            ["--dest_path_prefix", "/dev/null/x/y"],
            r"'/dev/null/x/y' cannot be made, as '/dev/null' is not a dir",
        ),
        (["--dest_path_prefix", "/dev/null"], r"'/dev/null' is not a directory"),
        (
            ["--dest_path_prefix", "/proc/x"],
            r"'/proc/x' cannot be made",
        ),
        (["--name", "x" * 300], r"name.*255"),
        (["--name", "a\nb"], r"name.*printable"),
        (["--bogus"], r"(?i)no such option.*--bogus"),
        (["--secrt_file", "x"], r"(?i)no such option.*--secrt_file.*--secret_file"),
        (["argument"], r"(?i)unexpected.*argument"),
    ],
)
def test_options_that_cannot_be(place: Place, arguments: list[str], message: str) -> None:
    said = refused(place, *arguments)
    assert re.search(message, said, re.DOTALL), said


def test_all_faults_are_told_at_once(place: Place) -> None:
    said = refused(place, "--cpus", "100000", "--dest_path_prefix", "/dev/null/x")
    assert "100000" in said
    assert "/dev/null/x" in said


def test_an_option_that_is_given_twice(start_node: StartNode, make_cluster: MakeCluster) -> None:
    """The last one counts, as start scripts rely on, and a line says so without its value; flags do no harm."""
    node = start_node(
        "--cpus", "1000", "-s", "first", "--secret", "second", "--cpus=1", "--tls", "--no_tls", "-d", "--debug",
        "-i", "127.0.0.1", "-i", "127.0.0.1",
    )  # fmt: skip
    assert node.cpus == 1
    assert not node.uses_tls
    assert make_cluster(lambda: 1, secret="second").submit()() == 1
    said = [line for line in node.stderr.splitlines() if " is given " in line]
    assert said == [
        f"dispynode: {name} is given 2 times; the last one counts"
        for name in ("-c/--cpus", "-s/--secret", "--tls/--no_tls")
    ]


def test_a_start_script_of_dispy_4(start_node: StartNode, make_cluster: MakeCluster, place: Place) -> None:
    """All options that are taken, as it gives them; nobody reads what is said about them."""
    start_node(
        "--clean", "--daemon", "-d", "--cpus", "1", "-i", "127.0.0.1", "--ext_host", "192.0.2.1", "--name", "old",
        "--dest_path_prefix", str(place.root / "scratch" / "me"), "--max_file_size", "10m",
        "--zombie_interval", "5", "--ping_interval", "60", "--msg_timeout", "20", "--force_cleanup",
        "--unsafe_setup", "--serve", "-1", "--secret", "open sesame", "--admin_secret", "", "--init", "",
        "--scheduler_host", "",
        command=["sh", "-c", 'exec "$@" 2>/dev/full', "sh", *PYTHON, "-m", "dispy.cli.node"],
    )  # fmt: skip
    assert make_cluster(lambda: dispy_node_name, secret="open sesame").submit()() == "old"


def test_busy_listen_port(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        said = refused(place, "--listen_port", str(port), code=1)
    assert str(port) in said
    assert "in use" in said
    assert "--listen_port" in said, "it does not say what to do"


def test_listen_port_and_name(start_node: StartNode) -> None:
    port = free_base_port() + 1
    node = start_node("--name", "Bürgeramt 3", port=str(port))
    assert (node.name, node.host, node.port) == ("Bürgeramt 3", "127.0.0.1", port)
    assert node.stdout.count("\n") == 1


def test_busy_default_port_takes_another(start_node: StartNode) -> None:
    base = free_base_port()
    first = start_node("--dispy_port", str(base), port=None)
    second = start_node("--dispy_port", str(base), port=None)
    assert first.port == base + 1
    assert second.port not in (0, first.port)


@pytest.mark.parametrize("spelling", ["--listen-port", "--listen_port"])
def test_hyphens_and_underscores(place: Place, start_node: StartNode, spelling: str) -> None:
    prefix = place.root / "with-hyphen_and_underscore"
    prefix.mkdir()
    node = start_node(spelling + "=0", f"--dest-path-prefix={prefix}", "--name=a_b-c", port=None)
    assert node.name == "a_b-c"
    assert [path.name for path in prefix.iterdir()] == [f"dispy-node-{os.getuid()}"]
    assert node.stop() == 0
    assert not list((prefix / f"dispy-node-{os.getuid()}").iterdir())


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(place: Place, option: str) -> None:
    node = Node(place, option)
    try:
        assert node.wait() == 0
        for name in ("cpus", "host", "dispy_port", "listen_port", "name", "secret", "secret_file",
                     "force_weak_secret", "certfile",
                     "keyfile", "cafile", "tls", "no_tls", "user", "dest_path_prefix", "debug", "daemon",
                     "help"):  # fmt: skip
            assert f"--{name}" in node.stdout
        assert place.incarnations() == []
    finally:
        node.end()


def test_installed_command(place: Place) -> None:
    """``dispynode`` beside the interpreter is the same program."""
    command = Path(sys.executable).with_name("dispynode")
    if not command.exists():
        pytest.skip("dispy is not installed here")
    program = Program([str(command), "--version"], place)
    assert program.wait() == 0, program.stderr
    assert dispy.__version__ in program.stdout
    program.end()


def test_debug_shows_messages_and_no_secrets(start_node: StartNode, make_cluster: MakeCluster) -> None:
    node = start_node("--debug", "--secret", "open sesame")
    make_cluster(lambda: "payload-of-the-job", secret="open sesame").submit()()
    node.stop()
    assert "sesame" not in node.stderr
    assert "payload-of-the-job" not in node.stderr


def test_two_nodes_are_both_used(start_node: StartNode, make_cluster: MakeCluster, place: Place) -> None:
    start_node("--name", "left", "--cpus", "1")
    start_node("--name", "right", "--cpus", "1")
    cluster = make_cluster(meet)
    jobs = [cluster.submit(str(place.root), name) for name in ("a", "b")]
    assert {job() for job in jobs} == {"left", "right"}
    assert {node.name for node in cluster.status().nodes} == {"left", "right"}


def meet(directory: str, name: str) -> str:
    """Ends when two run at the same time."""
    Path(directory, f"meet-{name}").touch()
    while len([entry for entry in os.listdir(directory) if entry.startswith("meet-")]) < 2:
        time.sleep(0.005)
    return dispy_node_name
