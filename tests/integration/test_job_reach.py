"""What a job finds where it runs: no secret, no variable, no descriptor and no memory of the node."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from dispy.security.key_text import generate, stretch

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import Node, Place, opened, wait_for
from .others import (
    as_other,
    environment_of_other,
    needs_root,
    public_directory,
    public_place,
    run_as_other,
)

TYPED = "four words somebody typed"

VARIABLES = {
    "DISPY_SECRET": TYPED,
    "DISPY_TOKEN": "ours",
    "DISPY_": "empty name",
    "DISPY_NODE": "/somewhere/else",
    "OTHER": "theirs",
}


def found(gate: str = "") -> dict[str, Any]:
    """All that a job can see of itself and its surroundings."""
    import contextlib
    import socket

    def read(path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    descriptors = {}
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            number = int(entry)
            target = os.readlink(f"/proc/self/fd/{entry}")
            if target.startswith("socket:"):
                with socket.socket(fileno=os.dup(number)) as opened:
                    kind = opened.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
                    listens = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                    target = f"{opened.family.name} {socket.SocketKind(kind).name} {listens}"
            descriptors[number] = target
    if gate:
        with open(f"{gate}.{os.getpid()}", "w"):
            pass
        while not os.path.exists(gate):
            time.sleep(0.005)
    return {
        "environment": dict(os.environ),
        "initial": [read(f"/proc/{pid}/environ").split(b"\0") for pid in (os.getpid(), os.getppid())],
        "descriptors": descriptors,
        "arguments": [sys.argv, read("/proc/self/cmdline"), read(f"/proc/{os.getppid()}/cmdline")],
        "path": dispy_job_path,
    }


# The environment.


@pytest.mark.parametrize("isolate", [False, True])
def test_no_variables_of_ours(
    start_node: StartNode, make_cluster: MakeCluster, place: Place, isolate: bool
) -> None:
    """But for the mark by which processes left behind are found, which is this node's."""
    start_node(env=place.environment | VARIABLES)
    job = make_cluster(found, secret=TYPED, isolate=isolate).submit()
    seen = job()
    assert job.exception is None, job.exception
    environment = seen["environment"]
    assert [name for name in environment if name.startswith("DISPY_")] == ["DISPY_NODE"]
    (incarnation,) = place.incarnations()
    assert environment["DISPY_NODE"] == f"/dev/shm/dispy-{os.getuid()}/{incarnation}"
    assert environment["OTHER"] == "theirs"
    for initial in seen["initial"]:
        ours = [entry for entry in initial if entry.startswith(b"DISPY_")]
        assert ours == [f"DISPY_NODE={environment['DISPY_NODE']}".encode()]
    assert TYPED not in str(seen)


ENVIRONMENT = """
import json
import dispy

def compute():
    with open("/proc/self/environ") as file:
        return dict(os.environ), file.read()

print(json.dumps(dispy.JobCluster(compute).submit()()))
"""


def test_no_variables_of_ours_on_the_programs_own_node(run_program: RunProgram, place: Place) -> None:
    program = run_program(ENVIRONMENT, env=place.environment | VARIABLES)
    assert program.wait(15) == 0, program.stderr
    environment, initial = json.loads(program.stdout)
    assert [name for name in environment if name.startswith("DISPY_")] == ["DISPY_NODE"]
    assert initial.count("DISPY_") == 1
    assert environment["OTHER"] == "theirs"
    assert TYPED not in program.stdout


# Descriptors.


@pytest.mark.parametrize("isolate", [False, True])
def test_no_descriptors_of_ours(
    start_node: StartNode, make_cluster: MakeCluster, place: Place, gate: Path, isolate: bool
) -> None:
    """Input from nowhere, output into memory, two channels, the working directory, and where the node's log goes."""
    node = start_node()
    cluster = make_cluster(found, isolate=isolate)
    jobs = [cluster.submit(str(gate)) for _ in range(node.cpus)]
    wait_for(
        lambda: list(gate.parent.glob("gate.*")), lambda those: len(those) == node.cpus, what="all run at once"
    )  # fmt: skip
    gate.touch()
    for job in jobs:
        seen = job()
        assert job.exception is None, job.exception
        descriptors: dict[int, str] = seen["descriptors"]
        shown = str(descriptors)
        assert descriptors.pop(0) == "/dev/null"
        for number, name in ((1, "stdout"), (2, "stderr")):
            assert f"memfd:dispy-{name}" in descriptors.pop(number), shown
        others = sorted(descriptors.values())
        channels = [target for target in others if target.startswith("AF_")]
        assert channels == ["AF_UNIX SOCK_SEQPACKET 0"] * 2, shown
        files = [target for target in others if target.startswith("/") and "memfd:" not in target]
        assert files == [seen["path"]], shown
        memory = [target for target in others if "memfd:" in target]
        assert [re.sub(r".*memfd:([\w-]+).*", r"\1", target) for target in memory] == [
            "dispy-slots",
            "dispy-stderr",
            "dispy-stdout",
        ], shown
        pipes = [target for target in others if target not in channels + files + memory]
        assert all(target.startswith(("pipe:", "anon_inode:")) for target in pipes), shown
        assert len(pipes) <= 4, shown


def test_a_jobs_descriptors_reach_no_file_of_ours(
    start_node: StartNode, make_cluster: MakeCluster, place: Place, gate: Path
) -> None:
    """Nor do those of its host; as seen from outside."""
    node = start_node("--tls")
    cluster = make_cluster(found)
    job = cluster.submit(str(gate))
    wait_for(lambda: list(gate.parent.glob("gate.*")), what="the job runs")
    below = psutil.Process(node.pid).children(recursive=True)
    assert len(below) >= 2
    for process in below:
        targets = opened(process.pid)
        assert len(targets) > 2
        for directory in (place.state, place.runtime):
            assert [target for target in targets if target.startswith(str(directory))] == []
        assert [target for target in targets if target.endswith("/lock")] == []
        assert process.net_connections("inet") == []
    gate.touch()
    assert job()


# Memory.


def holds(pid: int, needles: list[bytes]) -> list[bytes]:
    """Which of some bytes are anywhere in the memory of a process."""
    there = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            bounds, access = line.split(maxsplit=2)[:2]
            if not access.startswith("r") or line.rstrip().endswith(
                ("[vvar]", "[vsyscall]", "[vvar_vclock]")
            ):
                continue
            start, end = (int(part, 16) for part in bounds.split("-"))
            memory.seek(start)
            try:
                data = memory.read(end - start)
            except OSError:
                continue
            there += [needle for needle in needles if needle in data]
    return there


def _own(place: Place, _: Path) -> tuple[list[str], dict[str, str], dict[str, Any], str]:
    return [], {}, {}, ""


def _from_file(place: Place, path: Path) -> tuple[list[str], dict[str, str], dict[str, Any], str]:
    text = generate()
    path.write_text(text)
    path.chmod(0o600)
    return ["--secret_file", str(path)], {}, {"secret_file": str(path)}, text


def _from_environment(place: Place, _: Path) -> tuple[list[str], dict[str, str], dict[str, Any], str]:
    return [], {"DISPY_SECRET": TYPED}, {"secret": TYPED}, TYPED


def _from_command_line(place: Place, _: Path) -> tuple[list[str], dict[str, str], dict[str, Any], str]:
    return ["--secret", TYPED], {}, {"secret": TYPED}, TYPED


@pytest.mark.parametrize("way", [_own, _from_file, _from_environment, _from_command_line])
def test_no_secret_in_memory(
    start_node: StartNode, make_own_cluster: MakeCluster, place: Place, gate: Path, way: Any
) -> None:
    """Neither the words nor the key made of them; in the node they are found, which checks the test."""
    arguments, variables, parameters, text = way(place, place.root / "secret.txt")
    node = start_node("--tls", *arguments, env=place.environment | variables)
    job = make_own_cluster(found, **parameters).submit(str(gate))
    wait_for(lambda: list(gate.parent.glob("gate.*")), what="the job runs")
    text = text or place.secret_file.read_text().strip()
    needles = [text.encode(), stretch(text), text.removeprefix("dispy1-").encode()]
    try:
        assert stretch(text) in holds(node.pid, needles)
    except PermissionError:
        pass  # as it should be, where we are not root
    below = node.descendants()
    assert len(below) >= 2
    for pid in below:
        assert holds(pid, needles) == [], Path(f"/proc/{pid}/cmdline").read_text()
    gate.touch()
    assert text not in str(job())


def test_no_key_of_a_certificate_in_memory(
    start_node: StartNode, make_cluster: MakeCluster, place: Place, gate: Path, files: Any
) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    node = start_node(*[f"--{name}={value}" for name, value in files.parameters("node", "ours").items()])
    make_cluster(found, nodes=[("127.0.0.1", node.port)], **files.parameters("client", "ours")).submit(
        str(gate)
    )
    wait_for(lambda: list(gate.parent.glob("gate.*")), what="the job runs")
    pem = Path(files.pairs["node"].keyfile).read_bytes()
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, EllipticCurvePrivateKey)
    number = key.private_numbers().private_value
    needles = [pem.splitlines()[1], number.to_bytes(32, "big"), number.to_bytes(32, "little")]
    for pid in node.descendants():
        assert holds(pid, needles) == []


# The node, from processes of the same user.


@contextmanager
def node_of_other(place: Place, python: str) -> Iterator[tuple[Node, dict[str, str]]]:
    """A node that is not root's, for whom every file of /proc is open."""
    environment = environment_of_other(place)
    node = Node(
        place, "--listen_port", "0", python=[python], env=environment | VARIABLES, cwd="/", **as_other()
    )
    try:
        yield node.wait_listens(), environment
        assert node.stop() == 0
    finally:
        node.end()


@pytest.fixture
def place_root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if "python_for_all" not in request.fixturenames:
        yield tmp_path
        return
    with public_directory() as directory:
        yield directory


@pytest.fixture
def public(place: Place) -> Iterator[None]:
    with public_place(place):
        yield


CLOSED = ("environ", "mem", "maps", "auxv", "syscall", "fd/0", "cwd/x", "root/etc/hostname")

PEEK = """
import json, os, sys
import dispy

def peek(pids, names):
    open_ = []
    for pid in pids:
        for name in names:
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    open_.append((pid, name, len(file.read(1))))
            except OSError:
                pass
        try:
            open_.append((pid, "fd", os.listdir(f"/proc/{pid}/fd")))
        except OSError:
            pass
    import ctypes
    libc = ctypes.CDLL(None)
    for pid in pids:
        if libc.ptrace(16, pid, 0, 0) == 0:
            open_.append((pid, "ptrace", 0))
    return open_

cluster = dispy.JobCluster(peek, **json.loads(sys.argv[1]))
pids, names = json.loads(sys.argv[2]), json.loads(sys.argv[3])
print(json.dumps([peek(pids, names), cluster.submit(pids, names)()]))
"""


@needs_root
def test_node_is_closed_to_processes_of_its_user(
    public: None, place: Place, python_for_all: str, run_program: RunProgram
) -> None:
    """Programs of this user, and jobs, which are such: neither memory nor environment, and no core is written."""
    with node_of_other(place, python_for_all) as (node, environment):
        program = run_program(
            PEEK, json.dumps({"secret": TYPED}), json.dumps([node.pid]), json.dumps(CLOSED),
            python=[python_for_all], env=environment, cwd="/", **as_other(),
        )  # fmt: skip
        assert program.wait(15) == 0, program.stderr
        assert json.loads(program.stdout) == [[], []]
        assert os.stat(f"/proc/{node.pid}/mem").st_uid == 0, (
            "the files of one that can be dumped are its user's"
        )
        control = run_as_other(
            "sh", "-c", "cat /proc/$$/environ >/dev/null && sleep 0 && cat /proc/self/maps"
        )
        assert control.returncode == 0, "not even what is its own"


@needs_root
def test_programs_own_node_is_closed_to_its_jobs(
    public: None, place: Place, python_for_all: str, run_program: RunProgram
) -> None:
    source = PEEK.replace(
        "cluster.submit(pids, names)()",
        "cluster.submit([int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1]) for pid in"
        " [dispy.JobCluster(lambda: os.getppid()).submit()()]], names)()",
    )
    program = run_program(
        source, "{}", "[]", json.dumps(CLOSED),
        python=[python_for_all], env=environment_of_other(place), cwd="/", **as_other(),
    )  # fmt: skip
    assert program.wait(15) == 0, program.stderr
    assert json.loads(program.stdout) == [[], []]
