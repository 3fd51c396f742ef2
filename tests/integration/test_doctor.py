"""``dispy doctor`` names what is wrong, planted one at a time on two machines (network namespaces)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import RunProgram, StartNode
from .helpers import RANDOM, Node, Place
from .lan import Lan, new_secret


class Pair:
    """A machine with a node, and one with the doctor."""

    def __init__(self, place: Place, start_node: StartNode) -> None:
        self._place = place
        self._start_node = start_node
        self.lan = Lan(place, 2)
        self.there, self.here = self.lan.machines
        self.secret = new_secret(place)

    def start_node(self, *options: str, wrapper: str = "", **environment: str) -> Node:
        """Start a node there; ``wrapper``: shell commands before it, in a mount namespace of its own."""
        python = self.there.python
        if wrapper:
            inside = ["unshare", "--mount", "sh", "-c", f'{wrapper}; exec "$@"', "sh"]
            python = [*python[:-1], *inside, python[-1]]
        given = ["--host", "0.0.0.0", "--secret_file", str(self.secret), *options]
        env = self.there.environment | environment
        return self._start_node(*given, port=None, python=python, env=env)

    def examine(self, *arguments: str, secret: Path | None = None, wrapper: str = "") -> tuple[int, str]:
        """Have the doctor examine; returns exit code and what it says."""
        python = self.here.python
        if wrapper:
            inside = ["unshare", "--mount", "sh", "-c", f'{wrapper}; exec "$@"', "sh"]
            python = [*python[:-1], *inside, python[-1]]
        command = [*python, "-W", "error", "-m", "dispy.cli.main", "doctor", *arguments]
        command += ["--secret_file", str(secret or self.secret)]
        done = subprocess.run(
            command, env=self.here.environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def pair(place: Place, start_node: StartNode) -> Iterator[Pair]:
    made = Pair(place, start_node)
    yield made
    made.lan.close()


NODE = "10.9.0.1"


def bad_lines(said: str) -> list[str]:
    """Returns what is bad, with what to do about it."""
    lines = said.splitlines()
    return [
        f"{line.strip()} {lines[n + 1].strip()}" for n, line in enumerate(lines) if line.startswith("  BAD")
    ]


def test_all_is_well(pair: Pair) -> None:
    """The node is found by its beacons, and every step is shown."""
    pair.start_node()
    code, said = pair.examine()
    assert code == 0, said
    assert bad_lines(said) == []
    for text in (
        "beacons are sent at 10.9.0.2 (eth0) to 10.9.0.255",
        f"nodes that answer: {NODE}:9701",
        f"{NODE} port 9701",
        "TLS, both sides have proved the secret",
        "a job ran there",
        "clocks agree",
    ):
        assert text in said
    assert pair.secret.read_text().strip() not in said


def test_another_secret(pair: Pair, place: Place) -> None:
    pair.start_node()
    other = place.root / "other.secret"
    other.write_text(RANDOM)
    other.chmod(0o600)
    code, said = pair.examine(NODE, secret=other)
    (line,) = bad_lines(said)
    assert code == 1
    assert "another secret there" in line
    assert "the fingerprints must be equal" in line
    assert "no node answers" in said


def test_nothing_listens(pair: Pair) -> None:
    code, said = pair.examine(NODE)
    (line,) = bad_lines(said)
    assert code == 1
    assert f"nothing listens at {NODE} port 9701" in line
    assert "dispynode --host 0.0.0.0" in line


def test_a_port_that_is_filtered_silently(pair: Pair) -> None:
    """What comes back is dropped there; nobody is told."""
    pair.start_node()
    pair.there.ip("route", "add", "blackhole", "10.9.0.2/32")
    _, said = pair.examine(NODE)
    (line,) = bad_lines(said)
    assert f"{NODE} port 9701 does not answer: the machine is off, or a firewall drops what comes" in line
    assert "open TCP port 9701" in line


def test_another_program_on_the_port_there(pair: Pair, run_program: RunProgram) -> None:
    """One that says nothing, and one that says something else."""
    for answer, says in (
        (b"", "no proof within 5 s"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "another program"),
    ):
        source = (
            "import socket, time\n"
            "made = socket.create_server(('0.0.0.0', 9701))\n"
            "print('listens', flush=True)\n"
            "kept = []\n"
            "while True:\n"
            f"    kept.append(made.accept()[0]); kept[-1].sendall({answer!r})\n"
        )
        program = run_program(source, **pair.there.node)
        program.wait_line("^listens$")
        _, said = pair.examine(NODE)
        (line,) = bad_lines(said)
        assert says in line
        assert "ss -ltnp" in line
        program.process.kill()
        program.process.wait()


def test_another_program_on_the_port_here(pair: Pair, run_program: RunProgram) -> None:
    listens = "import socket, time\nmade = socket.create_server(('0.0.0.0', 9701))\nprint('listens', flush=True)\n"
    program = run_program(listens + "time.sleep(60)\n", **pair.here.node)
    program.wait_line("^listens$")
    pair.start_node()
    code, said = pair.examine()
    (line,) = bad_lines(said)
    assert code == 1
    assert "port 9701, where nodes are expected, is in use here by another program of yours" in line
    assert "--dispy_port" in line
    program.process.kill()


@pytest.mark.parametrize(("node", "doctor"), [("--no_tls", "--tls"), ("--tls", "--no_tls")])
def test_tls_on_one_side(pair: Pair, node: str, doctor: str) -> None:
    pair.start_node(node)
    _, said = pair.examine(NODE, doctor)
    (line,) = {text for text in bad_lines(said) if NODE in text or "TLS" in text}
    assert "TLS" in line
    assert "--no_tls" in line or "tls=True" in line or "--tls" in line


def test_a_clock_that_is_two_hours_off(pair: Pair, place: Place) -> None:
    """Beacons of that node are not believed, so it is named; a job there tells its time."""
    directory = place.root / "clock"
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(
        "import time\n_real = time.time\ntime.time = lambda: _real() + 7200\n"
    )
    path = f"{directory}:{pair.there.environment.get('PYTHONPATH', '')}"
    pair.start_node(PYTHONPATH=path)
    _, said = pair.examine(NODE)
    assert "no node answers" in said
    (line,) = bad_lines(said)
    assert "the clock there is 2.0 hours fast" in line
    assert "chrony" in line


def test_a_name_that_is_this_machine(pair: Pair, place: Place) -> None:
    hosts = place.root / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.1.1 workhorse\n")
    _, said = pair.examine("workhorse", wrapper=f"mount --bind {hosts} /etc/hosts")
    line = bad_lines(said)[0]
    assert "workhorse is 127.0.1.1 here, which is this machine itself" in line
    assert "/etc/hosts" in line


def test_a_name_that_is_unknown(pair: Pair) -> None:
    _, said = pair.examine("no-such-host.invalid")
    (line,) = bad_lines(said)
    assert "cannot be resolved" in line
    assert "check the spelling" in line


def test_a_memory_file_system_of_64_mb(pair: Pair) -> None:
    """As in a container: no fault, and said."""
    pair.start_node(wrapper="mount -t tmpfs -o size=64m tmpfs /dev/shm")
    code, said = pair.examine(NODE)
    assert code == 0, said
    assert "the memory file system has 64 MiB only" in said
    assert "--shm-size" in said


def test_64_descriptors(pair: Pair) -> None:
    pair.start_node(wrapper="ulimit -n 64")
    _, said = pair.examine(NODE)
    assert any("64 open files" in line and "ulimit -n" in line for line in bad_lines(said)), said
    _, said = pair.examine(wrapper="ulimit -n 64")
    assert any("64 open files" in line for line in bad_lines(said)), said


def test_a_full_disk(pair: Pair, place: Place) -> None:
    small = place.root / "small"
    small.mkdir()
    fill = f"mount -t tmpfs -o size=1m tmpfs {small}; head -c 900k /dev/zero > {small}/filler"
    pair.start_node(wrapper=fill, TMPDIR=str(small))
    _, said = pair.examine(NODE)
    assert any("free in" in line and "make room there" in line for line in bad_lines(said)), said


def test_nobody_is_asked_with_a_typed_secret(pair: Pair, place: Place) -> None:
    words = place.root / "words.secret"
    words.write_text("orbit staple horse battery correct")
    words.chmod(0o600)
    _, said = pair.examine(NODE, secret=words)
    assert "nodes of other machines are not sought, as the secret is typed" in said
    assert "'dispy secret new'" in said


def test_bad_input(pair: Pair) -> None:
    """A file that is not there; each ends with what to do."""
    code, said = pair.examine(secret=Path("/nonexistent/secret"))
    assert code == 2
    assert "dispy secret new" in said
