"""Files that jobs bring: there while their job runs, and at no other time."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy.errors import UsageError

from .conftest import MakeCluster, StartNode
from .filing import fill, listing, write
from .helpers import Place, wait_for

CANCELLED = dispy.DispyJob.Cancelled
TERMINATED = dispy.DispyJob.Terminated


def read(path: str, gate: str = "") -> tuple[str, list[str], float, float]:
    """A file's content, all files, and when it looked at them."""
    start = time.time()
    while gate and not os.path.exists(gate):
        time.sleep(0.005)
    with open(path) as file:
        content = file.read()
    if not gate:
        time.sleep(0.05)
    return content, [name for name, _ in listing()], start, time.time()


@pytest.fixture(params=[False, True], ids=["shared", "isolated"])
def reader(request: Any, make_cluster: MakeCluster) -> Any:
    """Makes a cluster of ``read``, with its jobs in one process or each in one of its own."""
    return lambda **options: make_cluster(read, depends=[listing], isolate=request.param, **options)


def test_a_file_is_there_while_its_job_runs(reader: Any, start_node: StartNode, here: Path) -> None:
    """Neither the job before it nor the one after it sees it; it lies where it lies here."""
    start_node("--cpus", "1")
    write(here, "a", "deep/er/b")
    cluster = reader()
    gate = str(here / "gate")
    jobs = [
        cluster.submit("/dev/null", gate),
        cluster.submit("a", dispy_job_depends=["a"]),
        cluster.submit("/dev/null"),
        cluster.submit("deep/er/b", dispy_job_depends=["deep/er/b", "a"]),
        cluster.submit("/dev/null"),
    ]
    Path(gate).touch()
    found = [job()[:2] if job() else job.exception for job in jobs]
    assert found == [
        ("", []),
        ("a", ["a"]),
        ("", []),
        ("deep/er/b", ["a", "deep/er/b"]),
        ("", []),
    ]


def test_it_goes_although_files_stay(make_cluster: MakeCluster, start_node: StartNode, here: Path) -> None:
    """Also directories that were made for it, and what lay there before comes back."""
    start_node("--cpus", "1")
    write(here, "a", "own/b")

    def look(writes: bool = False) -> tuple[list[tuple[str, str]], list[str]]:
        found = listing()
        if writes:
            with open("a", "w") as file:
                file.write("spoiled")
        return found, sorted(name for name in os.listdir(".") if not name.startswith("."))

    cluster = make_cluster(look, depends=["a", listing], cleanup=False, dest_path="kept")
    assert cluster.submit()() == ([("a", "a")], ["a"])
    (here / "a").write_text("another")
    job = cluster.submit(True, dispy_job_depends=["a", "own/b"])
    assert job() == ([("a", "another"), ("own/b", "own/b")], ["a", "own"])
    assert cluster.submit()() == ([("a", "a")], ["a"])
    make_cluster(listing, dest_path="kept").submit()()


def test_different_files_of_one_name_are_not_there_at_once(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, tmp_path: Path
) -> None:
    """The second job waits; the same file serves several at once."""
    start_node("--cpus", "2")
    write(tmp_path, "x/input", "y/input")
    cluster = make_cluster(read, depends=[listing])
    paths = [str(tmp_path / name / "input") for name in "xyxxyy"]
    jobs = [cluster.submit("input", dispy_job_depends=[path]) for path in paths]
    results = [job() for job in jobs]
    assert [job.exception for job in jobs] == [None] * 6
    assert [result[0] for result in results] == [f"{name}/input" for name in "xyxxyy"]
    spans = {name: [r[2:] for r in results if r[0].startswith(name)] for name in "xy"}
    for start, end in spans["x"]:
        for other_start, other_end in spans["y"]:
            assert end <= other_start or other_end <= start, "two files of one name were there at once"
    gate = str(here / "gate")
    same = [cluster.submit("input", gate, dispy_job_depends=[paths[0]]) for _ in range(2)]
    wait_for(
        lambda: [job.status for job in same],
        lambda seen: seen == [dispy.DispyJob.Running] * 2,
        what="those with the same file run at once",
    )
    Path(gate).touch()
    assert [job()[0] for job in same] == ["x/input"] * 2


def use() -> str:
    import brought_module  # type: ignore[import-not-found]

    value: str = brought_module.VALUE
    return value


@pytest.mark.parametrize("isolate", [False, True], ids=["shared", "isolated"])
def test_a_job_imports_the_module_that_it_brings(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, tmp_path: Path, isolate: bool
) -> None:
    """Not another one of its name, size and time: of another job, or of the computation."""
    start_node("--cpus", "1")
    paths = {name: tmp_path / name / "brought_module.py" for name in "xyz"}
    for name, path in paths.items():
        path.parent.mkdir()
        path.write_text(f"VALUE = {name!r}\n")
        os.utime(path, (1_500_000_000, 1_500_000_000))
    cluster = make_cluster(use, isolate=isolate)
    jobs = [cluster.submit(dispy_job_depends=[paths[name]]) for name in "xyyx"]
    last = cluster.submit()
    assert [job() for job in jobs] == ["x", "y", "y", "x"]
    assert last() is None
    assert "has no module 'brought_module'" in last.exception
    cluster = make_cluster(use, isolate=isolate, depends=[paths["z"]])
    jobs = [cluster.submit(dispy_job_depends=[paths[name]] if name != "z" else []) for name in "zxzyxz"]
    assert [job() for job in jobs] == ["z", "x", "z", "y", "x", "z"]


def test_a_job_that_waits_for_a_name_can_be_cancelled(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, tmp_path: Path
) -> None:
    start_node("--cpus", "2")
    write(tmp_path, "x/input", "y/input")
    gate = here / "gate"
    cluster = make_cluster(read, depends=[listing])
    first = cluster.submit("input", str(gate), dispy_job_depends=[str(tmp_path / "x/input")])
    wait_for(lambda: first.status, lambda status: status == dispy.DispyJob.Running, what="it runs")
    second = cluster.submit("input", dispy_job_depends=[str(tmp_path / "y/input")])
    third = cluster.submit("input", dispy_job_depends=[str(tmp_path / "y/input")])
    assert cluster.cancel(second) == 0
    assert second.wait(4), cluster.why(second)
    assert second.status == CANCELLED
    gate.touch()
    assert first()[0] == "x/input"
    assert third()[0] == "y/input"


def test_it_goes_when_its_job_dies(make_cluster: MakeCluster, start_node: StartNode, here: Path) -> None:
    start_node("--cpus", "1")
    write(here, "a")

    def die(is_dying: bool) -> list[str]:
        if is_dying:
            os.kill(os.getpid(), 9)
        return sorted(os.listdir("."))

    cluster = make_cluster(die)
    job = cluster.submit(True, dispy_job_depends=["a"])
    assert job() is None
    assert job.status == TERMINATED
    assert cluster.submit(False)() == []


def test_with_large_arguments_and_on_one_node(
    make_cluster: MakeCluster, start_node: StartNode, here: Path
) -> None:
    """Files of a megabyte, arguments that travel apart, jobs for one node, and those that are submitted by number."""
    start_node("--cpus", "2")
    contents = [fill(here / f"file-{number}", 1_000_000) for number in range(4)]

    def check(path: str, data: bytes) -> bool:
        with open(path, "rb") as file:
            return file.read() == data

    cluster = make_cluster(check)
    wait_for(lambda: cluster.status().nodes, what="the node is used")
    (node,) = cluster.status().nodes
    paths = [f"file-{number}" for number in range(4)]
    jobs = [
        cluster.submit_job_id_node(7, node, path, data, dispy_job_depends=[path])
        for path, data in zip(paths, contents, strict=True)
    ]
    assert [job() for job in jobs if job is not None] == [True] * 4


def test_a_file_that_is_gone_ends_its_job_alone(
    make_cluster: MakeCluster, start_node: StartNode, here: Path
) -> None:
    start_node("--cpus", "1")
    write(here, "a", "b")
    cluster = make_cluster(read, depends=[listing])
    gate = here / "gate"
    first = cluster.submit("/dev/null", str(gate))
    blocked = [cluster.submit("/dev/null", str(gate)) for _ in range(20)]
    gone = cluster.submit("a", dispy_job_depends=["a"])
    last = cluster.submit("b", dispy_job_depends=["b"])
    os.unlink(here / "a")
    gate.touch()
    assert [job()[0] for job in [first, *blocked]] == [""] * 21
    assert last()[0] == "b"
    assert gone() is None or gone()[0] == "a", "it may have been fetched before"
    with pytest.raises(UsageError, match="'a' cannot be sent"):
        cluster.submit("a", dispy_job_depends=["a"])
    with pytest.raises(UsageError, match="must be a list"):
        cluster.submit("a", dispy_job_depends="a")


def test_jobs_of_a_lost_node_bring_their_files_along(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, place: Place
) -> None:
    nodes = [start_node("--cpus", "1") for _ in range(2)]
    write(here, "a")
    gate = here / "gate"
    cluster = make_cluster(
        read, depends=[listing], nodes=[("127.0.0.1", node.port) for node in nodes], reentrant=True
    )
    jobs = [cluster.submit("a", str(gate), dispy_job_depends=["a"]) for _ in range(6)]
    wait_for(
        lambda: [job.status for job in jobs].count(dispy.DispyJob.Running),
        lambda count: count == 2,
        what="one runs on each node",
    )
    nodes[0].process.kill()
    nodes[0].wait()
    place.is_swept = True
    gate.touch()
    assert [job()[:2] for job in jobs] == [("a", ["a"])] * 6


def test_there_may_be_none(make_cluster: MakeCluster, start_node: StartNode, here: Path) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster(listing)
    assert cluster.submit(dispy_job_depends=[])() == []
