"""What nodes keep of files: sent once, gone on with after breaks, looked through before they are used again."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import dispy

from .conftest import MakeCluster, StartNode
from .filing import fill, listing, named, stored
from .helpers import Place, free_base_port, wait_for
from .proxy import At, Direction, Hold, Proxy, clean, proxy, reset
from .schedulers import IS_SHARED

TERMINATED = dispy.DispyJob.Terminated
MB = 1_000_000

Between = Callable[..., Proxy]


@pytest.fixture
def between() -> Iterator[Between]:
    """Starts proxies. Is asked for before ``make_cluster``, so that they end after the clusters."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(proxy(*args, **kwargs))


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def sent(cluster: dispy.JobCluster) -> int:
    """Bytes that have gone to its only node, over all clusters of this program."""
    (node,) = cluster.status().nodes
    return node.tx


def test_a_file_is_sent_once(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, place: Place
) -> None:
    """To a node, to its successor, to another node of the same user, under another name, for several clusters."""
    data = fill(here / "data", 3 * MB)
    fill(here / "small", 4000)
    node = start_node("--cpus", "1")
    expected = hashlib.sha256(data).hexdigest()
    first = make_cluster(digest, depends=["data", "small"], nodes=[("127.0.0.1", node.port)])
    assert first.submit("data")() == expected
    before = sent(first)
    assert before > 3 * MB
    os.rename(here / "data", here / "other")
    second = make_cluster(digest, depends=["other"], nodes=[("127.0.0.1", node.port)])
    assert second.submit("other")() == expected
    assert sent(second) - before < MB / 10
    third = start_node("--cpus", "1")
    node.stop()
    cluster = make_cluster(digest, depends=["other"], nodes=[("127.0.0.1", third.port)])
    assert cluster.submit("other")() == expected
    assert cluster.status().nodes[0].tx < MB / 10
    # Those that were lent have the mode that they had there.
    assert {stat.S_IMODE(path.stat().st_mode) for path in stored(place)} <= {0o400, 0o644}


class Counted:
    """A fault that counts the bytes to the node."""

    def __init__(self, fault: Any = clean) -> None:
        self.fault = fault
        self.bytes = 0

    def __call__(self, direction: Direction, before: int, data: bytes) -> Any:
        self.bytes += len(data) if direction == "to node" else 0
        return self.fault(direction, before, data)


def test_after_a_break_it_goes_on_where_it_was(
    between: Between, make_cluster: MakeCluster, start_node: StartNode, here: Path
) -> None:
    data = fill(here / "data", 20 * MB)
    node = start_node("--cpus", "1")
    made: list[Counted] = []

    def fault(number: int) -> Counted:
        made.append(Counted(At("to node", 12 * MB, reset) if number == 0 else clean))
        return made[-1]

    line = between(node.port, fault)
    cluster = make_cluster(digest, depends=["data"], nodes=[("127.0.0.1", line.port)])
    assert cluster.submit("data")() == hashlib.sha256(data).hexdigest()
    assert line.connections == 2
    assert made[1].bytes < 16 * MB


def test_one_of_several_nodes_of_a_machine_fetches_a_file(
    make_cluster: MakeCluster, start_node: StartNode, here: Path
) -> None:
    """The others wait for it, and have it then."""
    data = fill(here / "data", 20 * MB)
    nodes = [start_node("--cpus", "1", "--name", name) for name in "ab"]
    cluster = make_cluster(digest, depends=["data"], nodes=[("127.0.0.1", node.port) for node in nodes])
    shown = wait_for(
        lambda: [node for node in cluster.status().nodes if node.cpus],
        lambda nodes: len(nodes) == 2,
        what="both are used",
    )
    jobs = [cluster.submit_node(node, "data") for node in shown]
    assert [job() for job in jobs if job is not None] == [hashlib.sha256(data).hexdigest()] * 2
    assert 20 * MB < sum(node.tx for node in cluster.status().nodes) < 25 * MB


def test_one_that_stands_still_is_not_waited_for(
    between: Between, make_cluster: MakeCluster, start_node: StartNode, here: Path, place: Place
) -> None:
    data = fill(here / "data", 6 * MB)
    nodes = [start_node("--cpus", "1") for _ in range(2)]
    line = between(nodes[0].port, lambda _: Hold(4 * MB))
    make_cluster(digest, depends=["data"], nodes=[("127.0.0.1", line.port)])
    (part,) = wait_for(lambda: stored(place), what="a part")
    wait_for(lambda: part.stat().st_size > 2 * MB, what="2 MB of it")
    nodes[0].send(signal.SIGSTOP)
    try:
        second = make_cluster(digest, depends=["data"], nodes=[("127.0.0.1", nodes[1].port)])
        assert second.submit("data")() == hashlib.sha256(data).hexdigest()
    finally:
        nodes[0].send(signal.SIGCONT)


def test_a_killed_node_has_left_its_successor_something(
    between: Between, make_cluster: MakeCluster, start_node: StartNode, here: Path, place: Place
) -> None:
    data = fill(here / "data", 12 * MB)
    nodes = [start_node("--cpus", "1") for _ in range(2)]
    lines = [between(nodes[0].port, lambda _: Hold(8 * MB)), between(nodes[1].port)]
    first = make_cluster(digest, depends=["data"], nodes=[("127.0.0.1", lines[0].port)])
    (part,) = wait_for(lambda: stored(place), what="a part")
    wait_for(lambda: part.stat().st_size > 4 * MB, what="4 MB of it")
    nodes[0].process.kill()
    nodes[0].wait()
    first.close(terminate=True)
    place.is_swept = True
    second = make_cluster(digest, depends=["data"], nodes=[("127.0.0.1", lines[1].port)])
    assert second.submit("data")() == hashlib.sha256(data).hexdigest()
    assert second.status().nodes[0].tx < 9 * MB
    assert not part.exists()


def test_who_waits_for_files_is_told_how_far_they_are(
    between: Between, make_cluster: MakeCluster, start_node: StartNode, here: Path
) -> None:
    fill(here / "data", 7 * MB)
    fill(here / "small", 100)
    node = start_node("--cpus", "1", "--name", "slow")
    fault = Hold(5 * MB)
    line = between(node.port, lambda _: fault)
    cluster = make_cluster(digest, depends=["data", "small"], nodes=[("127.0.0.1", line.port)])
    job = cluster.submit("small")
    wait_for(
        lambda: cluster.why(job),
        lambda why: re.search(r"node slow: it is receiving files: 1 of 2, [2-6] of 8 MB", why),
        what="how much has come",
    )
    (shown,) = cluster.status().nodes
    assert shown.cpus == 0
    assert "receiving files" in shown.reason
    fault.let_go.set()
    assert job() == digest("small")
    assert cluster.status().nodes[0].reason == ""


# Files that change.


@pytest.mark.parametrize("way", ["new time", "same time", "removed", "replaced"])
def test_a_file_that_has_changed_is_not_passed_off_as_what_it_was(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, way: str
) -> None:
    """The node cannot be used, and since it is the only one the job ends and says why."""
    fill(here / "data", MB)
    before, original = (here / "data").stat(), hashlib.sha256((here / "data").read_bytes()).hexdigest()
    port = free_base_port()
    cluster = make_cluster(digest, depends=["data"], nodes=[("127.0.0.1", port + 1)])
    job = cluster.submit("data")
    if way == "removed":
        os.unlink(here / "data")
    elif way == "replaced":
        fill(here / "new", MB)
        os.rename(here / "new", here / "data")
    else:
        with open(here / "data", "r+b") as file:
            file.write(b"changed")
        # A clock of files goes in steps of some milliseconds: what is quick is done in one of them.
        later_ns = 0 if way == "same time" else 1_000_000_000
        os.utime(here / "data", ns=(before.st_atime_ns, before.st_mtime_ns + later_ns))
    start_node("--cpus", "1", port=str(port + 1))
    found = job()
    if IS_SHARED and found is not None:
        assert found == original, "the scheduler has asked for it before it changed"
        return
    assert found is None
    assert job.status == TERMINATED
    said = {"same time": "has changed meanwhile", "removed": "cannot be read any more"}
    assert said.get(way, "has changed since") in job.exception
    assert "'data'" in job.exception
    # One that is sent now is what it is now.
    if way != "removed":
        assert make_cluster(digest, depends=["data"], nodes=[("127.0.0.1", port + 1)]).submit(
            "data"
        )() == digest("data")


# The store.


def test_what_a_job_does_to_a_file_is_its_own_affair(
    make_cluster: MakeCluster, start_node: StartNode, here: Path
) -> None:
    """It may write to it, also to one that is read-only: the next cluster has it as it was sent."""
    data = fill(here / "data", MB)
    os.chmod(here / "data", 0o444)
    start_node("--cpus", "1")

    def spoil() -> str:
        os.chmod("data", 0o600)
        with open("data", "r+b") as file:
            file.write(b"spoiled")
        return digest("data")

    expected = hashlib.sha256(data).hexdigest()
    spoiling = make_cluster(spoil, depends=["data", digest])
    assert spoiling.submit()() != expected
    assert make_cluster(digest, depends=["data"]).submit("data")() == expected


@pytest.mark.parametrize("how", ["cut", "other bytes", "a link"])
def test_a_spoiled_store_is_noticed(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, place: Place, how: str
) -> None:
    data = fill(here / "data", MB)
    node = start_node("--cpus", "1")
    cluster = make_cluster(digest, depends=["data"])
    expected = hashlib.sha256(data).hexdigest()
    assert cluster.submit("data")() == expected
    cluster.close()
    node.stop()
    (path,) = stored(place)
    os.chmod(path, 0o600)
    if how == "cut":
        os.truncate(path, MB // 2)
    elif how == "other bytes":
        path.write_bytes(bytes(MB))
    else:
        os.rename(path, here / "elsewhere")
        path.symlink_to(here / "elsewhere")
    start_node("--cpus", "1")
    assert make_cluster(digest, depends=["data"]).submit("data")() == expected
    assert hashlib.sha256(path.read_bytes()).hexdigest() == expected
    assert not path.is_symlink()


def test_the_store_keeps_no_more_than_it_may(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, place: Place
) -> None:
    """What was used last stays; a file that is larger than all that may be kept comes all the same."""
    start_node("--cpus", "1", "--store_max", "2500k")
    names = ["a", "b", "c"]
    for name in names:
        data = fill(here / name, MB)
        assert make_cluster(digest, depends=[name]).submit(name)() == hashlib.sha256(data).hexdigest()
    kept = {hashlib.sha256((here / name).read_bytes()).hexdigest() for name in names[1:]}
    wait_for(
        lambda: {path.name for path in stored(place)},
        lambda found: found == kept,
        what="two files are kept",
    )
    data = fill(here / "large", 4 * MB)
    assert make_cluster(digest, depends=["large"]).submit("large")() == hashlib.sha256(data).hexdigest()
    wait_for(lambda: stored(place), lambda found: not found, what="none is kept")


def test_many_small_files_come_whole(make_cluster: MakeCluster, start_node: StartNode, here: Path) -> None:
    """Also empty ones, and the same content under several names."""
    start_node("--cpus", "1")
    for number in range(300):
        path = here / f"d{number % 7}" / f"f{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text("" if number % 50 == 0 else str(number % 100))
    expected = [(f"d{n % 7}/f{n}", "" if n % 50 == 0 else str(n % 100)) for n in range(300)]
    cluster = make_cluster(listing, depends=[f"d{n}" for n in range(7)])
    assert cluster.submit()() == sorted(expected)


DYING = """
import os
import time

import dispy


def look(gate):
    while not os.path.exists(gate):
        time.sleep(0.005)
    with open("data") as file:
        return file.read(), os.getcwd()


cluster = dispy.JobCluster(look, depends=["data"], recover_file="jobs.journal", dest_path="a/b")
jobs = [cluster.submit("{gate}") for _ in range(20)]
while jobs[0].status != dispy.DispyJob.Running:
    time.sleep(0.005)
cluster.status()
cluster._session.journal.thread.ask(lambda db: None)  # what was submitted just before a death is not in it
print("running", flush=True)
time.sleep(60)
"""


def test_jobs_that_are_resumed_find_the_files_of_their_cluster(
    run_program: RunProgram, start_node: StartNode, place: Place
) -> None:
    node = start_node("--cpus", "1")
    (place.root / "data").write_text("content")
    gate = place.root / "gate"
    program = run_program(DYING.format(gate=gate))
    program.wait_line("running")
    program.process.kill()
    program.wait()
    place.is_swept = True
    node.process.kill()
    node.wait()
    start_node("--cpus", "1")
    gate.touch()
    jobs = dispy.recover_jobs(place.root / "jobs.journal", resume=True)
    found = [job() for job in jobs if job.status == dispy.DispyJob.Finished]
    assert len(found) > 10
    assert {text for text, _ in found} == {"content"}
    assert {where for _, where in found} == {str(named(place) / "a/b")}
