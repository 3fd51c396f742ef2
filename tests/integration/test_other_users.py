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
def busy(start_node: StartNode, make_cluster: MakeCluster, gate: Path) -> Node:
    """A node with a careless job that runs."""
    node = start_node()
    make_cluster(careless).submit(str(gate))
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


def _at(place: Place, what: str) -> Path:
    return {
        "state": place.temporary / "dispy",
        "work": place.temporary / "prefix" / f"dispy-node-{os.getuid()}",
        "work of account": place.temporary / "prefix" / f"dispy-node-{os.getuid()}-{NAME}",
    }[what]


@pytest.mark.parametrize(
    ("what", "plant"),
    [("state", plant) for plant in PLANTS]
    + [("work", _directory), ("work", _link_to_ours)]
    + [("work of account", _directory), ("work of account", _link_to_ours)],
)
def test_what_others_have_planted_is_refused(
    request: pytest.FixtureRequest, place: Place, what: str, plant: Callable[[Path, Path], None]
) -> None:
    """With a word about it; nothing is written there."""
    options: dict[str, Any] = {}
    if what == "work of account":
        options["python"] = [request.getfixturevalue("python_for_all")]
    path = _at(place, what)
    path.parent.mkdir(exist_ok=True)
    elsewhere = place.root / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    plant(path, elsewhere)
    before = path.lstat()
    environment = dict(place.environment)
    arguments = []
    if what == "state":
        environment["XDG_STATE_HOME"] = str(place.temporary)
    else:
        arguments += ["--dest_path_prefix", str(path.parent)]
    if what == "work of account":
        arguments += ["--user", NAME]
    node = Node(place, "--listen_port", "0", *arguments, env=environment, **options)
    try:
        assert node.wait() == 2, (node.stdout, node.stderr)
        assert str(path) in node.stderr
        assert "not a directory of this user alone" in node.stderr or "cannot be made" in node.stderr
        assert "Traceback" not in node.stderr
        assert node.stdout == ""
        after = path.lstat()
        assert (after.st_ino, after.st_mode, after.st_uid) == (before.st_ino, before.st_mode, before.st_uid)
        assert not path.is_dir() or list(path.iterdir()) == []
        assert list(elsewhere.iterdir()) == []
    finally:
        node.end()
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        if path.parent != place.temporary:
            path.parent.rmdir()


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("has_state", [True, False], ids=["state", "no state"])
def test_what_others_have_planted_in_the_temporary_directory_keeps_no_node_from_running(
    start_node: StartNode,
    run_program: RunProgram,
    place: Place,
    plant: Callable[[Path, Path], None],
    has_state: bool,
) -> None:
    """Nodes are listed beside the secret. Where that is impossible, they say that nobody finds them; programs do not
    believe what lies there."""
    path = place.temporary / MINE
    elsewhere = place.root / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    plant(path, elsewhere)
    before = path.lstat()
    environment = dict(place.environment)
    del environment["XDG_RUNTIME_DIR"]
    if not has_state:
        (place.state / "dispy").mkdir(mode=0o700)
        (place.state / "dispy" / "nodes").touch()
    try:
        node = start_node("--name", "mine", env=environment)
        program = run_program(ALONE, env=environment)
        assert program.wait(15) == 0, program.stderr
        assert ("mine" in program.stdout) is has_state
        assert node.stop() == 0
        assert ("this node cannot be listed" in node.stderr) is not has_state
        assert (str(path) in node.stderr) is not has_state
        after = path.lstat()
        assert (after.st_ino, after.st_mode, after.st_uid) == (before.st_ino, before.st_mode, before.st_uid)
        assert not path.is_dir() or list(path.iterdir()) == []
        assert list(elsewhere.iterdir()) == []
    finally:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        if not has_state:
            (place.state / "dispy" / "nodes").unlink()


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


@pytest.mark.parametrize("plant", ["directory", "link", "file"])
@pytest.mark.parametrize("user", ["", NAME])
def test_what_others_have_planted_in_memory_is_refused(
    place: Place, python_for_all: str, plant: str, user: str
) -> None:
    name = f"{MINE}-{user}" if user else MINE
    alone = ["unshare", "--mount", "sh", "-c", ALONE_WITH_MEMORY, "sh", plant, name, NAME, python_for_all]
    node = Node(place, "--listen_port", "0", *(["--user", user] if user else []), python=alone)
    try:
        if node.wait() == 99 or "unshare" in node.stderr:
            pytest.skip(f"file systems cannot be mounted: {node.stderr}")
        assert node.process.returncode == 2, (node.stdout, node.stderr)
        assert f"/dev/shm/{name}" in node.stderr
        assert "not a directory of this user alone" in node.stderr or "cannot be made" in node.stderr
        assert "Traceback" not in node.stderr
    finally:
        node.end()
