"""Another user of the same machine gets in nowhere: ports, directories, segments, sockets, processes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import Node, Place, below, opened, wait_for
from .others import (
    NAME,
    account,
    as_other,
    environment_of_other,
    give,
    needs_root,
    public_directory,
    public_place,
    reachable,
    remove,
    run_as_other,
)

pytestmark = needs_root


@pytest.fixture
def place_root() -> Iterator[Path]:
    with public_directory() as directory:
        yield directory


@pytest.fixture(autouse=True)
def _public(place: Place) -> Iterator[None]:
    with public_place(place):
        yield


def careless(gate: str) -> tuple[str, str]:
    """Leaves files that all may read wherever it can, and waits."""
    os.umask(0)
    segments = os.path.join(os.environ["DISPY_NODE"], os.path.basename(dispy_job_path))
    for directory in (segments, dispy_job_path):
        with open(os.path.join(directory, "for everybody"), "w") as file:
            file.write("of the job")
    open(gate + ".begun", "w").close()
    while not os.path.exists(gate):
        time.sleep(0.005)
    return segments, dispy_job_path


@pytest.fixture
def busy(start_node: StartNode, make_own_cluster: MakeCluster, gate: Path) -> Node:
    """A node with a careless job that runs."""
    node = start_node()
    make_own_cluster(careless).submit(str(gate))
    wait_for(gate.with_name("gate.begun").exists, what="the job runs")
    return node


# Directories.


def test_directories_are_closed(busy: Node, place: Place) -> None:
    memory = Path(f"/dev/shm/dispy-{os.getuid()}")
    (incarnation,) = place.incarnations()
    bases = [place.state / "dispy", place.temporary / f"dispy-node-{os.getuid()}"]
    bases += [memory, memory / incarnation]
    paths = [path for base in bases for path in (base, *(below(base, "**/*") if base != memory else ()))]
    names = {path.name for path in paths}
    assert {"secret", "nodes", "lock", "for everybody", f"{incarnation}.json"} <= names
    assert reachable([place.state, place.runtime, place.temporary]) != [], (
        "nothing can be reached by it at all"
    )
    assert reachable(paths) == []
    for base in bases[:2]:
        assert stat.S_IMODE(base.stat().st_mode) == 0o700
        moved = run_as_other("mv", str(base), str(base.with_name("moved")))
        assert moved.returncode != 0
        assert base.exists()


def test_secrets_and_listings_are_files_of_the_user_alone(busy: Node, place: Place) -> None:
    """Also by themselves: were a directory opened by mistake, they would still be closed."""
    for path in [place.secret_file, *(place.state / "dispy" / "nodes").glob("*/*")]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


# Processes and sockets.


def test_processes_are_closed(busy: Node) -> None:
    pids = [busy.pid, *busy.descendants()]
    assert len(pids) >= 3
    for pid in pids:
        for name in ("environ", "mem", "maps", "auxv", "syscall"):
            read = run_as_other("cat", f"/proc/{pid}/{name}")
            assert read.returncode != 0, f"{name} of {pid}"
            assert read.stdout == ""
        for name in ("fd", "cwd", "exe", "root", "map_files"):
            assert run_as_other("ls", f"/proc/{pid}/{name}/").returncode != 0, f"{name} of {pid}"
        assert run_as_other("kill", "-0", str(pid)).returncode != 0


PRY = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
attach, getfd = 16, 438
for pid in map(int, sys.argv[1:]):
    assert libc.ptrace(attach, pid, 0, 0) == -1, "traced"
    descriptor = os.pidfd_open(pid)
    assert libc.syscall(getfd, descriptor, 0, 0) == -1, "took a descriptor"
    buffer = ctypes.create_string_buffer(16)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 16)
    assert libc.process_vm_readv(pid, vector, 1, vector, 1, 0) == -1, "read memory"
print("nothing")
"""


def test_processes_cannot_be_traced(
    busy: Node, run_program: RunProgram, place: Place, python_for_all: str
) -> None:
    pids = [str(pid) for pid in (busy.pid, *busy.descendants())]
    program = run_program(
        PRY, *pids, python=[python_for_all], env=environment_of_other(place), cwd="/", **as_other()
    )
    assert program.wait() == 0, program.stderr
    assert program.stdout == "nothing\n"


def test_sockets_that_have_names_are_out_of_reach(busy: Node, place: Place) -> None:
    """The port on loopback is the only way for other users to talk to a node: its Unix socket is in a closed room."""
    inodes = set()
    for pid in (busy.pid, *busy.descendants()):
        inodes.update(target[8:-1] for target in opened(pid) if target.startswith("socket:["))
    named = []
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split(None, 7)
        if fields[6] in inodes and len(fields) > 7:
            named.append(fields[7])
    assert len(inodes) > 4
    (room,) = {Path(path).parent for path in named}
    assert room.is_relative_to(place.runtime / "dispy")
    (listed,) = room.iterdir()
    for path, mode in ((listed, 0o600), (room, 0o700), (place.runtime / "dispy", 0o700)):
        assert path.stat().st_mode & 0o777 == mode
        assert path.stat().st_uid == os.getuid()
    listening = [
        connection.laddr
        for pid in (busy.pid, *busy.descendants())
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == [("127.0.0.1", busy.port)]


# The port.


KNOCK = """
import os, sys
import dispy

def compute(path):
    open(path, "w").close()

cluster = dispy.JobCluster(compute, nodes=[("127.0.0.1", int(sys.argv[1]))], **eval(sys.argv[3]))
job = cluster.submit(sys.argv[2])
print(job.wait(600))
"""


@pytest.mark.parametrize("parameters", ["{}", "{'tls': False}", "{'secret': 'guessed'}"])
def test_another_users_secret_opens_nothing(
    start_node: StartNode, run_program: RunProgram, place: Place, python_for_all: str, parameters: str
) -> None:
    node = start_node(*(["--no_tls"] if "tls" in parameters else []))
    trace = place.temporary / "has run"
    program = run_program(
        KNOCK, str(node.port), str(trace), parameters,
        python=[python_for_all], env=environment_of_other(place), cwd="/", **as_other(),
    )  # fmt: skip
    program.wait_line(rf"node at 127\.0\.0\.1:{node.port}: .*secret", stream="stderr")
    node.wait_line(r"refused a connection from 127\.0\.0\.1", stream="stderr")
    assert program.stdout == ""
    assert not trace.exists()
    program.end()


ALONE = """
import os
import dispy

cluster = dispy.JobCluster(lambda: (os.getuid(), dispy_node_name))
jobs = [cluster.submit() for _ in range(20)]
print(sorted({job() for job in jobs}))
cluster.close()
"""


def test_users_do_not_see_each_others_nodes(
    start_node: StartNode,
    make_cluster: MakeCluster,
    run_program: RunProgram,
    place: Place,
    python_for_all: str,
) -> None:
    """Both as on a machine without ``XDG_RUNTIME_DIR``, with one directory for temporary files."""
    mine = {**place.environment, "HOME": str(place.root / "home")}
    theirs = environment_of_other(place)
    for environment in (mine, theirs):
        del environment["XDG_RUNTIME_DIR"], environment["XDG_STATE_HOME"]
    (place.root / "home").mkdir(mode=0o700)
    node = start_node("--name", "of root", env=mine)
    program = run_program(ALONE, python=[python_for_all], env=theirs, cwd="/", **as_other())
    other = run_program(ALONE, name="mine.py", env=mine)
    assert program.wait(15) == 0, program.stderr
    assert other.wait(15) == 0, other.stderr
    assert "of root" not in program.stdout
    assert program.stdout.startswith(f"[({account().pw_uid}, ")
    assert other.stdout == "[(0, 'of root')]\n"
    assert node.stop() == 0
    for uid in (os.getuid(), account().pw_uid):
        assert not (place.temporary / f"dispy-{uid}").exists(), (
            "nothing lies where others could have been first"
        )


# Planted directories.


def _directory(path: Path, _: Path) -> None:
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    give(path)


def _link_to_theirs(path: Path, elsewhere: Path) -> None:
    path.symlink_to(give(elsewhere))
    give(path)


def _link_to_ours(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere)
    give(path)


def _file(path: Path, _: Path) -> None:
    path.touch(0o600)
    give(path)


def _pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)
    give(path)


def _open(path: Path, _: Path) -> None:
    """Our own, in which others can exchange files."""
    path.mkdir()
    path.chmod(0o777)


PLANTS = [_directory, _link_to_theirs, _link_to_ours, _file, _pipe, _open]

MINE = f"dispy-{os.getuid()}"


@pytest.mark.parametrize("plant", PLANTS)
def test_what_others_have_planted_in_a_state_directory_of_ones_choice_is_refused(
    place: Place, plant: Callable[[Path, Path], None]
) -> None:
    """Secrets lie there, and the user has named the place: with a word about it; nothing is written there."""
    path = place.temporary / "dispy"
    elsewhere = place.root / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    plant(path, elsewhere)
    before = path.lstat()
    environment = {**place.environment, "XDG_STATE_HOME": str(place.temporary)}
    node = Node(place, "--listen_port", "0", env=environment)
    try:
        assert node.wait() == 2, (node.stdout, node.stderr)
        assert str(path) in node.stderr
        assert "not a directory of this user alone" in node.stderr or "cannot be made" in node.stderr
        assert "Traceback" not in node.stderr
        assert node.stdout == ""
        assert is_untouched(path, before, elsewhere)
    finally:
        node.end()
        remove(path)


def is_untouched(path: Path, before: os.stat_result, elsewhere: Path) -> bool:
    """True if what was planted is as it was, and nothing was written there, or where a link leads."""
    after = path.lstat()
    is_same = (after.st_ino, after.st_mode, after.st_uid) == (before.st_ino, before.st_mode, before.st_uid)
    has_entries = path.is_dir() and not path.is_symlink() and any(path.iterdir())
    return is_same and not has_entries and not any(elsewhere.iterdir())


BUSY = """
import os, sys
import dispy

def compute(data):
    with open("mark", "w") as file:
        file.write("x")
    return data, os.getcwd()

with open(sys.argv[1], "w") as file:
    file.write("of the program")
cluster = dispy.JobCluster(compute, depends=[sys.argv[1]], dest_path="a/b/named")
for _ in range(2):
    data, directory = cluster.submit(bytes(1 << 20)).get(12)
    assert len(data) == 1 << 20
print(directory)
cluster.close()
"""

PLACES = {
    "runtime": ("dispy-{}", ""),
    "work": ("dispy-node-{}", ""),
    "named": ("dispy-files-{}", ""),
    "state": ("dispy-state-{}", ""),
    "work of account": ("dispy-node-{}-accounts", NAME),
    "named of account": ("dispy-files-{}-" + NAME, NAME),
}
"""Directories below the temporary one, by what they are for: the name, and the account of the jobs."""


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("what", PLACES)
def test_what_others_have_planted_costs_a_warning_and_another_place(
    start_node: StartNode,
    run_program: RunProgram,
    place: Place,
    python_for_all: str,
    what: str,
    plant: Callable[[Path, Path], None],
) -> None:
    """Nodes and programs go on, find each other, and find the other place again; the plant is left alone."""
    name, user = PLACES[what]
    common = place.root / "common"
    common.mkdir()
    common.chmod(0o1777)
    path = common / name.format(os.getuid())
    elsewhere = place.root / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    plant(path, elsewhere)
    before = path.lstat()
    environment = {**place.environment, "TMPDIR": str(common)}
    if what == "runtime":
        # Nodes are listed there if the state directory cannot be written to.
        del environment["XDG_RUNTIME_DIR"]
        (place.state / "dispy").mkdir(mode=0o700)
        (place.state / "dispy" / "nodes").touch()
    if what == "state":
        del environment["XDG_STATE_HOME"]
        environment["HOME"] = "/dev/null/there is none"
    options: dict[str, Any] = {"python": [python_for_all]} if user else {}
    arguments = ["--user", user] if user else []
    for turn in range(2):
        node = start_node("--name", "mine", *arguments, env=environment, **options)
        program = run_program(BUSY, str(place.root / "of program"), env=environment)
        assert program.wait(20) == 0, (program.stderr, node.stderr)
        assert node.stop() == 0
        assert "private" not in program.stderr
        assert "mine" in node.stdout
        assert str(path) in node.stderr + program.stderr, (node.stderr, program.stderr)
        assert "Traceback" not in node.stderr + program.stderr
        assert is_untouched(path, before, elsewhere)
        others = [other.name for other in common.iterdir() if other.name.startswith(f"{path.name}~")]
        # That of named directories goes with the last of them.
        assert len(others) == (0 if what.startswith("named") else 1), (turn, others)
        assert all(stat.S_IMODE((common / other).stat().st_mode) & ~0o711 == 0 for other in others)
    if what == "runtime":
        (place.state / "dispy" / "nodes").unlink()
    remove(common)


ALONE_WITH_MEMORY = """
mount -t tmpfs -o mode=1777 tmpfs /dev/shm || exit 99
case "$1" in
    directory) mkdir "/dev/shm/$2" ;;
    link) mkdir -m 700 /dev/shm/elsewhere; ln -s elsewhere "/dev/shm/$2" ;;
    file) : >"/dev/shm/$2" ;;
esac
chown -h "$3" "/dev/shm/$2"
shift 3
exec "$@"
"""
"""A machine whose memory file system is empty but for what another user has put there."""


WITH_MEMORY = """
import glob, os, sys
import dispy

def compute(data):
    return data

cluster = dispy.JobCluster(compute)
job = cluster.submit(bytes(8 << 20))
assert job.get(12) == bytes(8 << 20)
print(*sorted(os.path.basename(path) for path in glob.glob("/dev/shm/*")))
print(*sorted(os.path.basename(path)[:7] for path in glob.glob("/dev/shm/*~*/*")))
cluster.close()
"""


def _alone_with_memory(plant: str, name: str, python: str) -> list[str]:
    return ["unshare", "--mount", "sh", "-c", ALONE_WITH_MEMORY, "sh", plant, name, NAME, python]


@pytest.mark.parametrize("plant", ["directory", "link", "file"])
def test_what_others_have_planted_in_memory_costs_a_program_a_warning_and_another_place(
    run_program: RunProgram, place: Place, python_for_all: str, plant: str
) -> None:
    """The program and its node find each other there: large data goes by name, as ever."""
    program = run_program(WITH_MEMORY, python=_alone_with_memory(plant, MINE, python_for_all))
    if program.wait(20) == 99 or "unshare" in program.stderr:
        pytest.skip(f"file systems cannot be mounted: {program.stderr}")
    assert program.process.returncode == 0, program.stderr
    names, below = program.stdout.splitlines()
    assert MINE in names.split()
    assert len([name for name in names.split() if name.startswith(f"{MINE}~")]) == 1
    assert "client-" in below.split()
    assert len(below.split()) == 2, "the program's directory, and the node's"
    assert f"/dev/shm/{MINE} is not a directory of this user alone" in program.stderr


@pytest.mark.parametrize("plant", ["directory", "link", "file"])
@pytest.mark.parametrize("runs_as", ["", NAME])
def test_what_others_have_planted_in_memory_costs_a_node_a_warning_and_another_place(
    run_program: RunProgram, place: Place, python_for_all: str, plant: str, runs_as: str
) -> None:
    name = f"{MINE}-accounts" if runs_as else MINE
    alone = _alone_with_memory(plant, name, python_for_all)
    node = Node(place, "--listen_port", "0", *(["--user", runs_as] if runs_as else []), python=alone)
    try:
        wait_for(lambda: node.process.poll() is not None or "listens" in node.stdout, what="it has begun")
        if node.process.poll() == 99 or "unshare" in node.stderr:
            pytest.skip(f"file systems cannot be mounted: {node.stderr}")
        node.wait_listens()
        program = run_program(WITH_MEMORY)
        assert program.wait(20) == 0, program.stderr
        assert f"/dev/shm/{name} is not a directory of this user alone" in node.stderr
        assert "Traceback" not in node.stderr
        assert node.stop() == 0
    finally:
        node.end()
