"""``dispynode --user``: jobs run as that account and nothing else; what is the node's is out of their reach."""

from __future__ import annotations

import hashlib
import os
import pty
import pwd
import re
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy.security.key_text import generate

from .conftest import MakeCluster, StartNode
from .filing import stored
from .helpers import PYTHON, Node, Place, below, wait_for, wait_gone
from .others import (
    NAME,
    account,
    as_other,
    environment_of_other,
    needs_root,
    public_directory,
    public_place,
)

pytestmark = needs_root

FINISHED, TERMINATED = dispy.DispyJob.Finished, dispy.DispyJob.Terminated
LARGE = 3 << 20


@pytest.fixture
def place_root() -> Iterator[Path]:
    with public_directory() as directory:
        yield directory


@pytest.fixture(autouse=True)
def _public(place: Place) -> Iterator[None]:
    with public_place(place):
        yield


@pytest.fixture
def secret(place: Place) -> Path:
    """A file with a secret, as root would keep it."""
    path = place.root / "node.secret"
    path.write_text(generate())
    path.chmod(0o600)
    return path


@pytest.fixture
def node(start_node: StartNode, python_for_all: str, secret: Path) -> Node:
    """A node of root's whose jobs are another account's."""
    return start_node(
        "--user", NAME, "--secret_file", str(secret), "--name", "guarded", python=[python_for_all]
    )


# What jobs are.


def identity() -> dict[str, Any]:
    return {
        "uids": os.getresuid(),
        "gids": os.getresgid(),
        "groups": sorted(os.getgroups()),
        "parent's": os.stat(f"/proc/{os.getppid()}").st_uid,
        "capabilities": [line for line in open("/proc/self/status") if line.startswith("Cap")][:4],
        "environment": dict(os.environ),
        "directory": (os.getcwd(), os.stat(".").st_uid, stat.S_IMODE(os.stat(".").st_mode)),
        "umask": os.umask(0o22),
        "home": os.path.expanduser("~"),
    }


@pytest.mark.parametrize("isolate", [False, True])
def test_identity(node: Node, make_cluster: MakeCluster, place: Place, secret: Path, isolate: bool) -> None:
    job = make_cluster(identity, secret_file=str(secret), isolate=isolate).submit()
    found = job()
    assert job.exception is None, job.exception
    entry = account()
    assert found["uids"] == (entry.pw_uid,) * 3
    assert found["gids"] == (entry.pw_gid,) * 3
    assert found["groups"] == sorted(os.getgrouplist(NAME, entry.pw_gid))
    assert found["parent's"] == entry.pw_uid
    assert [int(line.split()[1], 16) for line in found["capabilities"][:3]] == [0, 0, 0]
    assert found["home"] == entry.pw_dir
    environment = found["environment"]
    assert [environment[name] for name in ("HOME", "USER", "LOGNAME", "SHELL")] == [
        entry.pw_dir,
        NAME,
        NAME,
        entry.pw_shell,
    ]
    assert {name for name in environment if name.startswith(("DISPY_", "XDG_", "SUDO_"))} == {"DISPY_NODE"}
    path, owner, mode = found["directory"]
    assert (owner, mode) == (entry.pw_uid, 0o700)
    assert path.startswith(f"{place.temporary}/dispy-node-{os.getuid()}-accounts/")


# What works as always.


def busy(data: bytes, path: str) -> tuple[str, str, bytes]:
    print("out" * 50_000, flush=True)
    print("err", file=sys.stderr)
    with open(path, "w") as file:
        file.write("content of " + path)
    subprocess.run(["sh", "-c", "echo shell"], check=True)
    dispy_provisional_result(data[::-1])
    with open(path) as file:
        return file.read(), hashlib.sha256(data).hexdigest(), data


@pytest.mark.parametrize("isolate", [False, True])
def test_large_values_output_and_files(
    node: Node, make_cluster: MakeCluster, secret: Path, isolate: bool
) -> None:
    values: list[bytes] = []

    def note(job: dispy.DispyJob) -> None:
        if job.status == dispy.DispyJob.ProvisionalResult:
            values.append(job.result)

    cluster = make_cluster(busy, secret_file=str(secret), isolate=isolate, job_status=note)
    given = [os.urandom(size) for size in (10, 70_000, LARGE)]
    jobs = [cluster.submit(data, f"path {len(data)}") for data in given]
    for data, job in zip(given, jobs, strict=True):
        assert job() == (f"content of path {len(data)}", hashlib.sha256(data).hexdigest(), data), (
            job.exception
        )
        assert job.stdout == "out" * 50_000 + "\nshell\n"
        assert job.stderr == "err\n"
    wait_for(lambda: len(values), lambda count: count == 3, what="all provisional results are told")
    assert sorted(values) == sorted(data[::-1] for data in given)
    node.stop()
    assert "Traceback" not in node.stderr


def examine(names: list[str]) -> dict[str, tuple[int, int, str]]:
    """Owner, links, and whether it can be written to and made writable, of files."""
    found = {}
    for name in names:
        status = os.stat(name)
        try:
            os.chmod(name, status.st_mode | 0o200)
            with open(name, "ab") as file:
                file.write(b"!")
            access = "ours"
        except PermissionError:
            access = "to be read"
            with open(name, "rb") as file:
                file.read()
        found[name] = (status.st_uid, status.st_nlink, access)
    return found


def test_files_are_the_accounts_own(
    node: Node, make_cluster: MakeCluster, secret: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that nobody was to write to: no job has a name for what the node keeps."""
    uid = account().pw_uid
    here = place.root / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    large = os.urandom(1 << 20)
    (here / "deep").mkdir()
    for name, data, mode in (
        ("small", b"small", 0o644),
        ("large", large[::-1], 0o600),
        ("deep/fixed", large, 0o444),
        ("brought", b"brought", 0o640),
    ):
        (here / name).write_bytes(data)
        (here / name).chmod(mode)
    names = ["small", "large", "deep/fixed"]
    for _ in range(2):
        cluster = make_cluster(examine, depends=names, secret_file=str(secret), dest_path="a/b")
        job = cluster.submit([*names, "brought"], dispy_job_depends=["brought"])
        found = job()
        assert job.exception is None, job.exception
        assert found == {
            "small": (uid, 1, "ours"),
            "large": (uid, 1, "ours"),
            "deep/fixed": (uid, 1, "ours"),
            "brought": (uid, 1, "ours"),
        }
        assert cluster.send_file("brought") == 0
        assert cluster.submit(["brought"])() == {"brought": (uid, 1, "ours")}
        cluster.close()
    (kept,) = [path for path in stored(place) if path.name == hashlib.sha256(large).hexdigest()]
    assert kept.read_bytes() == large
    kept_modes = {(path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) for path in stored(place)}
    assert kept_modes == {(os.getuid(), 0o400)}


def test_many_small_jobs(node: Node, make_cluster: MakeCluster, secret: Path) -> None:
    cluster = make_cluster(lambda n: n + 1, secret_file=str(secret))
    jobs = [cluster.submit(n) for n in range(2000)]
    assert [job() for job in jobs] == list(range(1, 2001))


def stubborn(is_stubborn: bool, path: str) -> int:
    """Goes on until it is interrupted, or killed; has a child in a session of its own."""
    if is_stubborn:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(["setsid", "sleep", "600"])
    with open(path + ".new", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    os.rename(path + ".new", path)
    while True:
        time.sleep(0.01)


def pids_in(path: Path) -> list[int]:
    """Pids that a job noted."""
    wait_for(path.exists, what="the job runs")
    return [int(word) for word in path.read_text().split()]


@pytest.mark.parametrize("is_stubborn", [False, True])
def test_cancel_and_kill(
    node: Node, make_cluster: MakeCluster, secret: Path, place: Place, is_stubborn: bool
) -> None:
    cluster = make_cluster(stubborn, secret_file=str(secret))
    path = place.temporary / "pids"
    job = cluster.submit(is_stubborn, str(path))
    pids = pids_in(path)
    assert cluster.cancel(job) == 0
    assert job.wait(4)
    assert job.status == TERMINATED
    wait_gone(pids[1:] if not is_stubborn else pids, what="the job's processes are gone")
    assert make_cluster(lambda: 1, secret_file=str(secret)).submit()() == 1
    path.unlink()


def kill_host(kill: bool) -> bool:
    if kill:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return kill


def test_a_job_that_kills_its_host_stops_no_node(
    node: Node, make_cluster: MakeCluster, secret: Path
) -> None:
    """The host is restarted in the directories that it had, which are the account's by now; others go on."""
    other = make_cluster(os.getpid, secret_file=str(secret))
    assert isinstance(other.submit()(), int)
    cluster = make_cluster(kill_host, secret_file=str(secret))
    for _ in range(2):
        killed = cluster.submit(True)
        killed()
        assert killed.status == TERMINATED
        assert cluster.submit(False)() is False
    assert isinstance(other.submit()(), int)
    assert node.process.poll() is None


def test_what_jobs_leave_behind_is_killed(node: Node, make_cluster: MakeCluster, secret: Path) -> None:
    def compute() -> int:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            while True:
                time.sleep(1)
        return pid

    job = make_cluster(compute, secret_file=str(secret)).submit()
    pid = job()
    assert job.status == FINISHED
    wait_gone([pid])


def test_killed_node_takes_all_with_it(
    node: Node,
    start_node: StartNode,
    make_cluster: MakeCluster,
    secret: Path,
    place: Place,
    python_for_all: str,
) -> None:
    """Its processes end, although they are another account's, and the next node removes its files."""
    path = place.temporary / "pids"
    make_cluster(stubborn, secret_file=str(secret)).submit(True, str(path))
    pids = [*pids_in(path), *node.descendants()]
    work = place.temporary / f"dispy-node-{os.getuid()}-accounts"
    assert list(work.iterdir())
    place.is_swept = True
    node.send(signal.SIGKILL)
    node.wait()
    wait_gone(pids, what="all processes of the node are gone")
    path.unlink()
    start_node("--user", NAME, "--secret_file", str(secret), python=[python_for_all]).stop()
    assert list(work.iterdir()) == []


# What jobs cannot reach.


def pry(paths: list[str]) -> list[str]:
    """Tries all that may be tried; returns what worked."""
    import ctypes
    from contextlib import suppress

    worked = []

    def attempt(what: str, function: Any, *arguments: Any) -> None:
        with suppress(OSError):
            worked.append(f"{what} {arguments}: {function(*arguments)!r}"[:300])

    def read(path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read(1)

    for path in paths:
        attempt("list", os.listdir, path)
        attempt("read", read, path)
        attempt("open to write", os.open, path, os.O_WRONLY)
        attempt("make", os.mkdir, f"{path}/new")
        attempt("rename", os.rename, path, f"{path}.x")
        attempt("link", os.link, path, "link")
        attempt("open to all", os.chmod, path, 0o777)
    with open(f"/proc/{os.getppid()}/stat") as file:
        daemon = int(file.read().rpartition(")")[2].split()[1])
    for name in ("environ", "mem", "maps", "fd/0", "fd/1", "cwd/x", "root/x"):
        attempt("read of the node", read, f"/proc/{daemon}/{name}")
    attempt("list", os.listdir, f"/proc/{daemon}/fd")
    for number in (0, signal.SIGTERM, signal.SIGSTOP):
        attempt("send to the node", os.kill, daemon, number)
    if ctypes.CDLL(None).ptrace(16, daemon, 0, 0) == 0:
        worked.append("trace the node")
    for function in (os.setuid, os.setgid, os.seteuid):
        attempt(function.__name__, function, 0)
    attempt("setgroups", os.setgroups, [0])
    return worked


def test_nothing_of_the_nodes_can_be_reached(
    node: Node, start_node: StartNode, make_cluster: MakeCluster, secret: Path, place: Place
) -> None:
    """Neither of this node's nor of another one of root's, where a job runs at that time."""
    start_node("--secret", "another")
    other = make_cluster(identity, secret="another").submit()()
    bases = [place.state, place.runtime, place.temporary / f"dispy-node-{os.getuid()}"]
    paths = [path for base in bases for path in below(base, "**/*")]
    (incarnation,) = place.incarnations()
    ours = Path("/dev/shm", f"dispy-{os.getuid()}")
    paths += [
        secret,
        ours,
        ours / incarnation,
        *below(ours / incarnation, "**/*"),
        Path(other["directory"][0]),
    ]
    theirs = [
        f"/dev/shm/dispy-{os.getuid()}-accounts",
        f"{place.temporary}/dispy-node-{os.getuid()}-accounts",
    ]
    cluster = make_cluster(pry, secret_file=str(secret))
    job = cluster.submit([str(path) for path in paths] + theirs)
    assert job() == [], job.exception
    assert len(paths) > 8
    place_of_node = cluster_places(make_cluster, secret)
    job = cluster.submit([str(path.parent) for path in place_of_node])
    assert job() == [], job.exception
    assert node.process.poll() is None


def places() -> tuple[str, str]:
    return os.environ["DISPY_NODE"] + "/" + os.path.basename(dispy_job_path), dispy_job_path


def cluster_places(make_cluster: MakeCluster, secret: Path) -> list[Path]:
    """The segments' and the working directory of a computation."""
    found = [Path(path) for path in make_cluster(places, secret_file=str(secret)).submit()()]
    assert all(path.is_dir() and path.stat().st_uid == account().pw_uid for path in found), found
    return found


def test_directories_of_the_account_are_closed_to_others(
    node: Node, make_cluster: MakeCluster, secret: Path
) -> None:
    for path in cluster_places(make_cluster, secret):
        assert [oct(found.stat().st_mode & 0o777) for found in (path, path.parent, path.parent.parent)] == [
            "0o700",
            "0o711",
            "0o711",
        ]
        assert (path.parent.stat().st_uid, path.parent.parent.stat().st_uid) == (0, 0)


# Segments that are not what they should be.


def deceive(kind: str, target: str) -> bytes:
    """From now on this worker puts something else in the place of each large result."""
    import socket

    import dispy.worker.segments

    def put(segments: Any, *_: Any) -> int:
        name = (os.getpid() << 24) | len(os.listdir(segments._room.memory)) + 1000
        path = f"{segments._room.memory}/{name}"
        if kind == "link":
            os.symlink(target, path)
        elif kind == "link to a directory":
            os.symlink(os.path.dirname(target), path)
        elif kind == "link to own":
            with open("own", "wb") as file:
                file.write(bytes(LARGE))
            os.symlink(os.path.abspath("own"), path)
        elif kind == "hard link":
            with open(path + ".own", "wb") as file:
                file.write(bytes(LARGE))
            os.link(path + ".own", path)
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "directory":
            os.mkdir(path)
        elif kind == "socket":
            os.chdir(segments._room.memory)
            socket.socket(socket.AF_UNIX).bind(str(name))
        elif kind == "sparse":
            with open(path, "wb") as file:
                file.truncate(1 << 50)  # more than any process can have
        return name

    dispy.worker.segments.Segments.put = put  # type: ignore[method-assign]
    if kind == "hidden":
        os.rename(os.environ["DISPY_NODE"] + "/" + os.path.basename(dispy_job_path), "moved")
    return bytes(LARGE)


KINDS = [
    "link", "link to a directory", "link to own", "hard link", "pipe", "directory", "socket", "sparse", "nothing",
]  # fmt: skip


def test_what_is_no_result_is_not_sent(node: Node, make_cluster: MakeCluster, secret: Path) -> None:
    """The job ends with the reason; the node and what others run there go on."""
    honest = make_cluster(lambda data: data, secret_file=str(secret))
    for kind in KINDS:
        cluster = make_cluster(deceive, secret_file=str(secret))
        job = cluster.submit(kind, str(secret))
        assert job.wait(8), f"{kind}: the job does not end"
        assert job.status == TERMINATED, (kind, job.status, len(job.result or ""))
        assert "result was lost" in job.exception, (kind, job.exception)
        assert job.result is None
        assert secret.read_text() not in job.exception
        assert honest.submit(b"x" * LARGE)() == b"x" * LARGE, kind
        assert node.process.poll() is None
        cluster.shutdown()
    assert "Traceback" not in node.stderr
    assert secret.read_text() not in node.stderr


def deceive_otherwise(target: str, how: str) -> Any:
    """The same for provisional results and for output."""
    import dispy.worker.segments

    def put(segments: Any, *_: Any) -> int:
        name = (os.getpid() << 24) | 77
        os.symlink(target, f"{segments._room.memory}/{name}")
        return name

    dispy.worker.segments.Segments.put = put  # type: ignore[method-assign]
    if how == "output":
        print("x" * LARGE)
        return None
    return dispy_provisional_result(bytes(LARGE), timeout=0.2)


def test_what_is_no_output_or_provisional_result_is_not_sent(
    node: Node, make_cluster: MakeCluster, secret: Path
) -> None:
    seen: list[Any] = []
    cluster = make_cluster(
        deceive_otherwise,
        secret_file=str(secret),
        job_status=lambda job: seen.append((job.status, job.result)),
    )
    output = cluster.submit(str(secret), "output")
    output()
    assert output.status == TERMINATED
    assert secret.read_text() not in str(output.stdout)
    other = make_cluster(
        deceive_otherwise,
        secret_file=str(secret),
        job_status=lambda job: seen.append((job.status, job.result)),
    )
    provisional = other.submit(str(secret), "provisional")
    assert provisional() == -1, provisional.exception
    other.shutdown()
    assert sorted(status for status, _ in seen) == [TERMINATED, FINISHED], seen
    assert make_cluster(lambda: 1, secret_file=str(secret)).submit()() == 1
    assert "Traceback" not in node.stderr


def litter(target: str) -> None:
    """Makes what is hard to remove, in both of its directories."""
    for directory in (".", os.environ["DISPY_NODE"] + "/" + os.path.basename(dispy_job_path)):
        os.chdir(directory)
        os.mkdir("closed", 0o000)
        os.symlink("/", "root")
        os.symlink(os.path.dirname(target), "home")
        os.mkfifo("pipe")
        for _ in range(1500):
            os.mkdir("deep")
            os.chdir("deep")


def test_whatever_jobs_leave_is_removed_and_nothing_else(
    node: Node, make_cluster: MakeCluster, secret: Path, place: Place
) -> None:
    cluster = make_cluster(litter, secret_file=str(secret))
    job = cluster.submit(str(secret))
    job()
    assert job.exception is None, job.exception
    cluster.shutdown()
    assert make_cluster(places, secret_file=str(secret)).submit()() is not None
    assert node.stop() == 0, node.stderr
    assert "Traceback" not in node.stderr
    assert secret.exists()
    assert list((place.temporary / f"dispy-node-{os.getuid()}-accounts").iterdir()) == []


# The terminal.


def find_terminal() -> list[str]:
    """Terminals that a job has, or can open, and whether it can type there."""
    import fcntl
    import termios

    found = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):
            if os.isatty(descriptor):
                found.append(os.ttyname(descriptor))
    with suppress(OSError):
        descriptor = os.open("/dev/tty", os.O_RDWR)
        found.append("/dev/tty")
        fcntl.ioctl(descriptor, termios.TIOCSTI, b"x")
        found.append("typed")
    return found


def test_the_nodes_terminal_is_out_of_reach(
    start_node: StartNode, make_cluster: MakeCluster, python_for_all: str
) -> None:
    """Who can type into the terminal of root is root."""
    master, terminal = pty.openpty()
    try:
        command = f'exec "$@" <{os.ttyname(terminal)} 2>{os.ttyname(terminal)}'  # by which it is theirs
        start_node("--user", NAME, python=["sh", "-c", command, "sh", python_for_all])
        job = make_cluster(find_terminal).submit()
        assert job() == [], job.exception
    finally:
        os.close(master)
        os.close(terminal)


def find_package() -> tuple[str, list[str]]:
    import click

    return click.__file__, os.listdir(".")


def test_a_package_that_the_account_has_is_not_sent(
    node: Node, make_cluster: MakeCluster, place: Place, secret: Path
) -> None:
    """It is looked for where that account's Python would find it."""
    import click

    job = make_cluster(find_package, secret_file=str(secret), depends=[click]).submit()
    assert job() == (click.__file__, []), job.exception
    assert stored(place) == []


# What cannot be.


def refused(place: Place, name: str, python: str, **options: Any) -> str:
    """What a node says that does not start."""
    node = Node(place, "--listen_port", "0", "--user", name, python=[python], **options)
    try:
        assert node.wait() == 2, (node.stdout, node.stderr)
        assert "Traceback" not in node.stderr
        assert node.stdout == ""
        return node.stderr
    finally:
        node.end()


def test_unknown_account(place: Place) -> None:
    said = refused(place, "no-such-account", *PYTHON)
    assert re.search(r"user: there is no account 'no-such-account'.*getent passwd", said), said


def test_account_of_root(place: Place) -> None:
    assert "must not run as root" in refused(place, "root", *PYTHON)


def test_account_name_with_controls(place: Place) -> None:
    assert "\x1b" not in refused(place, "x\x1b[31m", *PYTHON)


@pytest.mark.parametrize("user", [NAME, "root", "daemon"])
def test_only_root_may_choose(place: Place, python_for_all: str, user: str) -> None:
    said = refused(place, user, python_for_all, env=environment_of_other(place), cwd="/", **as_other())
    assert re.search(rf"user: only root may run jobs as '{user}'.*start dispynode as '{user}'", said), said


def test_account_that_cannot_run_python(place: Place, python_for_all: str) -> None:
    """It is tried at the start, not when the first job comes."""
    hidden = place.root / "hidden"
    subprocess.run([python_for_all, "-m", "venv", "--without-pip", hidden], check=True)
    for packages in hidden.glob("lib/python3*/site-packages"):
        mine = Path(python_for_all).parents[1].glob("lib/python3*/site-packages/*.pth")
        (packages / "x.pth").write_text("".join(path.read_text() for path in mine))
    hidden.chmod(0o700)
    said = refused(place, NAME, str(hidden / "bin" / "python"))
    assert re.search(rf"user: '{NAME}' cannot run .*hidden.*install both where that account", said), said


# Where files go.


def directory() -> str:
    return os.getcwd()


def test_a_prefix_that_was_made_is_open_to_the_account(
    start_node: StartNode, make_cluster: MakeCluster, place: Place, python_for_all: str, secret: Path
) -> None:
    prefix = place.root / "made" / "here"
    start_node(
        "--user", NAME, "--secret_file", str(secret), "--dest_path_prefix", str(prefix),
        python=[python_for_all], umask=0o077,
    )  # fmt: skip
    job = make_cluster(directory, secret_file=str(secret)).submit()
    found = job()
    assert job.exception is None
    assert found.startswith(str(prefix))
    assert [stat.S_IMODE(path.stat().st_mode) for path in (prefix, prefix.parent)] == [0o711] * 2


def test_a_prefix_that_the_account_cannot_enter(place: Place, python_for_all: str) -> None:
    closed = place.root / "closed"
    closed.mkdir(0o700)
    prefix = closed / "x"
    node = Node(
        place,
        "--listen_port",
        "0",
        "--user",
        NAME,
        "--dest_path_prefix",
        str(prefix),
        python=[python_for_all],
    )
    try:
        assert node.wait() == 2
        assert f"account '{NAME}', which runs jobs, cannot enter '{prefix}'; 'chmod a+x' it" in node.stderr
    finally:
        node.end()


@pytest.mark.parametrize("below", ["", "x"])
def test_a_prefix_that_is_not_writable(place: Place, python_for_all: str, below: str) -> None:
    """For a node of another account than root."""
    prefix = place.root / "of root"
    prefix.mkdir(0o755)
    node = Node(
        place, "--dest_path_prefix", str(prefix / below), python=[python_for_all],
        **{**as_other(), "env": environment_of_other(place), "cwd": "/"},
    )  # fmt: skip
    try:
        assert node.wait() == 2
        assert "dest_path_prefix: " in node.stderr
        assert f"'{prefix}' cannot be written to by this user; see " in node.stderr
    finally:
        node.end()


# Several accounts.


IN_TURN = """
import os, sys
import dispy

def who():
    with open("mine", "w") as file:
        file.write("of this user")
    return os.getuid(), os.path.abspath("mine")

uids = []
for dest_path in (None, "a/b/c"):
    with dispy.JobCluster(who, secret_file=sys.argv[1], dest_path=dest_path) as cluster:
        uid, path = cluster.submit()()
        uids.append(uid)
print(*uids, path)
"""


def test_owners_get_accounts_in_turn(
    start_node: StartNode, run_program: RunProgram, python_for_all: str, secret: Path, place: Place
) -> None:
    """Two accounts, three owners: each keeps its account, and the third shares that of the first."""
    node = start_node("--user", f"{NAME},daemon", "--secret_file", str(secret), python=[python_for_all])
    found = []
    kept = place.state / "dispy" / "owner"
    keys = [bytes([number]) * 32 for number in (1, 2, 3, 2)]
    for key in keys:
        kept.unlink(missing_ok=True)
        kept.touch(mode=0o600)
        kept.write_bytes(key)
        program = run_program(IN_TURN, str(secret))
        assert program.wait(20) == 0, program.stderr
        *uids, path = program.stdout.split()
        found.append([int(uid) for uid in uids])
        wait_for(partial(os.path.exists, path), lambda there: not there, what="its removal")
    nobody, daemon = account().pw_uid, pwd.getpwnam("daemon").pw_uid
    assert found == [[nobody] * 2, [daemon] * 2, [nobody] * 2, [daemon] * 2]
    assert node.stop() == 0, node.stderr
    assert "Traceback" not in node.stderr
