"""``dispy_send_file``: files that running jobs send, which appear at the program whole or not at all."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from dispy import config
from dispy.client.session import received_files
from dispy.protocol.limits import FILE_PART

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import SOON_S, below, wait_for
from .proxy import At, proxy, reset

WHEN = 1_500_000_000


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files land: the current directory of the program when it made its first cluster."""
    path = tmp_path / "program"
    path.mkdir()
    monkeypatch.setattr(received_files, "_root", str(path))
    return path


def send(files: dict[str, bytes], mode: int = 0o640, before: str = "") -> dict[str, int]:
    """Writes files and sends each; returns what that returned."""
    answers = {}
    for name, content in files.items():
        if os.path.dirname(name):
            os.makedirs(os.path.dirname(name), exist_ok=True)
        with open(name, "wb") as file:
            file.write(content)
        os.chmod(name, mode)
        os.utime(name, (1_400_000_000, 1_500_000_000))
        answers[name] = dispy_send_file(name)
    return answers


def tree(root: Path) -> dict[str, bytes]:
    """All files below a directory, by path."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in below(root, "**/*") if path.is_file()
    }


def test_files_land_as_below_the_working_directory_or_by_their_names(
    make_cluster: MakeCluster, start_node: StartNode, root: Path, tmp_path: Path
) -> None:
    """Before the job ends, with times and permission bits; again in place of what is there."""
    start_node("--cpus", "1")
    large = os.urandom(2 * FILE_PART + 12345)
    outside = str(tmp_path / "elsewhere" / "outside.dat")
    files = {
        "plain": b"1",
        "empty": b"",
        "a/b c/ü": b"23",
        outside: b"45",
        "large": large,
        "whole": large[:FILE_PART],
    }
    cluster = make_cluster(send)
    job = cluster.submit(files)
    assert job() == dict.fromkeys(files, 0), job.exception
    landed = {(name if name != outside else "outside.dat"): content for name, content in files.items()}
    # Before they are read: that changes the time of the last access.
    for name in landed:
        state = (root / name).stat()
        assert (stat.S_IMODE(state.st_mode), state.st_mtime, state.st_atime) == (0o640, WHEN, 1_400_000_000)
    assert tree(root) == landed
    (root / "empty").unlink()
    (root / "empty").symlink_to(root / "plain")
    job = cluster.submit({"plain": b"new", "empty": b"not there", "large": b""}, 0o7777)
    assert set(job().values()) == {0}
    # A link is replaced, and not written through. No set-uid bit travels.
    assert tree(root) == {**landed, "plain": b"new", "empty": b"not there", "large": b""}
    assert not (root / "empty").is_symlink()
    assert stat.S_IMODE((root / "plain").stat().st_mode) == 0o777


def try_all() -> dict[str, int]:
    os.mkdir("directory")
    os.mkfifo("pipe")
    open("secret", "w").close()
    os.mkdir("linked")
    for name in ("line\nend", ".dispy-ours", "linked/file", "taken", "fine"):
        with open(name, "w") as file:
            file.write("12345678")
    with open("too large", "w") as file:
        file.write("123456789")
    names = [*os.listdir("."), "missing", "linked/file", "/dev/null", "..", "/"]
    return {name: dispy_send_file(name) for name in names}


def test_what_is_not_sent_is_not_there_and_the_node_says_why(
    make_cluster: MakeCluster,
    start_node: StartNode,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(config, "MaxFileSize", 8)
    node = start_node("--cpus", "1")
    (root / "taken").mkdir()
    away = tmp_path / "away"
    away.mkdir()
    (root / "linked").symlink_to(away)
    answers = make_cluster(try_all).submit()()
    assert {name for name, answer in answers.items() if answer == 0} == {"secret", "fine"}
    assert tree(root) == {"secret": b"", "fine": b"12345678"}
    assert not list(away.iterdir())
    for reason in (
        "'missing' of a job of try_all is not sent: .*No such file",
        "'pipe' of a job of try_all is not sent: .*not an ordinary file",
        "'directory' .*not an ordinary file",
        "'too large' .*dispy.config.MaxFileSize is 8",
        "'linked/file' .*Not a directory|'linked/file' .*Too many levels",
        "'taken' .*Is a directory",
        "cannot be printed",
        "are ours",
    ):
        node.wait_line(reason, stream="stderr")
    assert "file too large of a job of cluster try_all is refused: it has 9 bytes" in caplog.text


def changing() -> int:
    """Grows while it is sent: what is read second is another file."""
    with open("log", "wb") as file:
        file.truncate(9 << 20)
    before = os.preadv

    def grow(descriptor: int, buffers: Any, offset: int) -> int:
        if offset:
            with open("log", "ab") as file:
                file.write(b"more")
        return before(descriptor, buffers, offset)

    os.preadv = grow
    return dispy_send_file("log")


def test_a_file_that_changes_while_it_is_sent_is_not_sent(
    make_cluster: MakeCluster, start_node: StartNode, root: Path
) -> None:
    node = start_node("--cpus", "1")
    assert make_cluster(changing).submit()() == -1
    node.wait_line(
        "'log' of a job of changing is not sent: it was changed while it was sent", stream="stderr"
    )
    assert tree(root) == {}


class Held:
    """Has parts of files wait before they are written, from the second one on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_reached = threading.Event()
        self.go_on = threading.Event()
        write = received_files._Arriving.write

        def held(self_: Any, offset: int, data: bytes) -> None:
            if offset:
                self.is_reached.set()
                self.go_on.wait(SOON_S)
            write(self_, offset, data)

        monkeypatch.setattr(received_files._Arriving, "write", held)


def send_large(path: str) -> int:
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    with open("large", "wb") as file:
        file.truncate(12 << 20)
    return dispy_send_file("large", timeout=None)


@pytest.mark.parametrize("victim", ["job", "node"])
@pytest.mark.parametrize("has_unnamed", [True, False], ids=["unnamed", "named"])
def test_nothing_is_seen_of_a_file_whose_job_or_node_is_killed_midway(
    make_cluster: MakeCluster,
    start_node: StartNode,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    victim: str,
    has_unnamed: bool,
    place: Any,
) -> None:
    if not has_unnamed:
        monkeypatch.delattr(os, "O_TMPFILE")
    held = Held(monkeypatch)
    node = start_node("--cpus", "1")
    cluster = make_cluster(send_large)
    job = cluster.submit(str(tmp_path / "pid"))
    assert held.is_reached.wait(SOON_S)
    assert [name.startswith(".dispy-") for name in os.listdir(root)] == ([] if has_unnamed else [True])
    os.kill(int((tmp_path / "pid").read_text()) if victim == "job" else node.pid, signal.SIGKILL)
    assert job.wait(SOON_S)
    place.is_swept = victim == "node"
    held.go_on.set()
    wait_for(lambda: os.listdir(root), lambda left: not left, what="nothing is there")
    assert cluster._session.engine.news.arrivals is not None
    arrivals = cluster._session.engine.news.arrivals
    wait_for(lambda: dict(arrivals._arriving), lambda left: not left, what="nothing is held")
    if victim == "job":
        held.go_on.set()
        assert cluster.submit(str(tmp_path / "pid"))() == 0
        assert (root / "large").stat().st_size == 12 << 20


def send_twice(gate: str) -> tuple[int, int, int]:
    import time

    with open("large", "wb") as file:
        file.truncate(6 << 20)
    began = time.monotonic()
    first = dispy_send_file("large", timeout=0.2)
    took = time.monotonic() - began
    open(gate, "w").close()
    return first, dispy_send_file("large", timeout=None), dispy_provisional_result(took)


def test_a_job_gives_up_waiting_and_may_try_again(
    make_cluster: MakeCluster,
    start_node: StartNode,
    root: Path,
    gate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is acknowledged late is not taken for what it waits for then."""
    held = Held(monkeypatch)
    start_node("--cpus", "1")
    seen: list[Any] = []
    cluster = make_cluster(send_twice, job_status=lambda job: seen.append(job.result))
    job = cluster.submit(str(gate))
    wait_for(gate.exists, what="it has given up")
    assert os.listdir(root) == []
    held.go_on.set()
    assert job() == (-1, 0, 0)
    assert (root / "large").stat().st_size == 6 << 20
    cluster.shutdown()
    assert 0.2 <= seen[0] < 2


def send_digest() -> tuple[int, str]:
    data = os.urandom(20 << 20)
    with open("through", "wb") as file:
        file.write(data)
    answer = dispy_send_file("through")
    return answer, hashlib.sha256(data).hexdigest()


def test_a_broken_link_delays_a_file(start_node: StartNode, make_cluster: MakeCluster, root: Path) -> None:
    """Part of it is sent again; it arrives as it was."""
    node = start_node("--cpus", "1")
    faults = [At("to client", 6 << 20, reset), At("to client", 9 << 20, reset)]
    with proxy(
        node.port, lambda number: faults[number] if number < 2 else lambda *given: [given[2]]
    ) as line:
        cluster = make_cluster(send_digest, nodes=[("127.0.0.1", line.port)])
        job = cluster.submit()
        assert job.wait(20), cluster.why(job)
        answer, digest = job()
        assert all(fault.has_happened for fault in faults)
        assert answer == 0
        assert hashlib.sha256((root / "through").read_bytes()).hexdigest() == digest
        cluster.shutdown()


def send_one(index: int) -> int:
    with open(f"result {index}", "w") as file:
        file.write(str(index))
    return dispy_send_file(f"result {index}", relay=True, timeout=5)


@pytest.mark.parametrize("isolate", [False, True])
def test_items_of_a_map_and_isolated_jobs_send_files_too(
    make_cluster: MakeCluster, start_node: StartNode, root: Path, isolate: bool
) -> None:
    start_node("--cpus", "2")
    cluster = make_cluster(send_one, isolate=isolate)
    assert set(cluster.map(range(20))) == {0}
    assert tree(root) == {f"result {index}": str(index).encode() for index in range(20)}
    cluster.close()


PROGRAM = """
import os
import dispy

def write(n):
    name = f"{n}.dat"
    with open(name, "w") as file:
        file.write(str(n))
    return dispy_send_file(name)

if __name__ == "__main__":
    cluster = dispy.JobCluster(write)
    os.chdir("/")
    second = dispy.JobCluster(write)
    jobs = [made.submit(n) for n, made in enumerate((cluster, second, cluster))]
    print([job() for job in jobs])
"""


def test_they_land_where_the_program_made_its_first_cluster(
    run_program: RunProgram, start_node: StartNode, tmp_path: Path
) -> None:
    start_node("--cpus", "1")
    where = tmp_path / "started here"
    where.mkdir()
    program = run_program(PROGRAM, cwd=where)
    assert program.wait(20) == 0, program.stderr
    assert program.stdout.splitlines()[-1] == "[0, 0, 0]"
    assert tree(where) == {f"{n}.dat": str(n).encode() for n in range(3)}
