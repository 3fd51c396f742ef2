"""``JobCluster.put``: data that many jobs read goes to each node once, and away when nobody needs it."""

from __future__ import annotations

import gc
import os
import resource
import signal
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy
import psutil
import pytest

import dispy
from dispy.errors import PicklingError, UsageError

from .conftest import MakeCluster, StartNode
from .helpers import Node, Place, below, wait_for
from .jobs import until

MIB = 1024 * 1024


@pytest.fixture(params=[True, False], ids=["by name", "by stream"])
def shares(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Whether program and node share memory."""
    monkeypatch.setattr(dispy.config, "SharedMemory", request.param)
    yield request.param
    gc.collect()


def at(*nodes: Node) -> list[tuple[str, int]]:
    return [("127.0.0.1", node.port) for node in nodes]


def objects(node: Node) -> list[str]:
    """Files of the node with what was put."""
    # Named by the incarnation, which is not known: by the node's mark in its hosts.
    marks = {mark_of(child) for child in psutil.Process(node.pid).children(recursive=True)}
    return [str(path) for mark in marks if mark for path in below(Path(mark), "**/object-*")]


def mark_of(process: psutil.Process) -> str:
    try:
        return process.environ().get("DISPY_NODE", "")
    except psutil.Error:
        return ""


def mapped(node: Node) -> list[str]:
    """Objects that processes of the node have mapped, whether their file is there or not."""
    found = []
    for child in psutil.Process(node.pid).children(recursive=True):
        try:
            lines = Path(f"/proc/{child.pid}/maps").read_text().splitlines()
        except OSError:
            continue
        found += [line for line in lines if "/object-" in line]
    return found


def first_of(value: Any) -> Any:
    return value[0]


@pytest.mark.usefixtures("a_node")
def test_jobs_get_the_object_as_it_was(make_cluster: MakeCluster, shares: bool) -> None:
    def look(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    cluster = make_cluster(look)
    data = [1, {"a": "b"}]
    ref = cluster.put(data)
    large = cluster.put(bytes(range(256)) * 2048)
    data.append(2)
    assert large.size >= 512 * 1024
    as_argument = cluster.submit(ref, 5, large)
    inside = cluster.submit({"deep": [ref, ref]}, key=ref)
    both = cluster.submit(bytes(70_000), ref)
    assert as_argument() == (([1, {"a": "b"}], 5, bytes(range(256)) * 2048), {})
    assert inside() == (({"deep": [[1, {"a": "b"}]] * 2},), {"key": [1, {"a": "b"}]})
    assert both() == ((bytes(70_000), [1, {"a": "b"}]), {})


def test_job_ids_and_pinned_jobs(make_cluster: MakeCluster, start_node: StartNode) -> None:
    def look(value: Any) -> Any:
        return value, dispy_job_id  # type: ignore[name-defined]

    node = start_node("--name", "one")
    cluster = make_cluster(look, nodes=at(node))
    ref = cluster.put("data")
    assert cluster.submit_job_id("mine", ref)() == ("data", "mine")
    job = cluster.submit_node("127.0.0.1", ref)
    assert job is not None
    assert job()[0] == "data"


def test_arrays_are_mapped_by_all_workers_and_cannot_be_written(
    make_cluster: MakeCluster, start_node: StartNode, shares: bool
) -> None:
    def look(array: Any, path: str) -> Any:
        import os
        import time

        open(f"{path}-{os.getpid()}", "w").close()
        while not os.path.exists(path):
            time.sleep(0.001)
        with open("/proc/self/maps") as maps:
            areas = [line.split() for line in maps if "/object-" in line]
        return os.getpid(), float(array.sum()), array.flags.writeable, areas

    node = start_node("--cpus", "2")
    cluster = make_cluster(look, nodes=at(node))
    array = numpy.arange(MIB, dtype="float64")
    ref = cluster.put(array)
    gate = Path(os.environ["TMPDIR"]).parent / "go"
    jobs = [cluster.submit(ref, str(gate)) for _ in range(2)]
    wait_for(
        lambda: list(gate.parent.glob("go-*")),
        lambda found: len(found) == 2,
        what="two workers look at it",
    )
    gate.touch()
    results = [job() for job in jobs]
    assert len({pid for pid, *_ in results}) == 2, "two workers"
    assert {total for _, total, _, _ in results} == {float(array.sum())}
    assert not any(is_writeable for _, _, is_writeable, _ in results)
    inodes = {area[4] for *_, areas in results for area in areas}
    assert len(inodes) == 1, "one file for all"
    assert {area[1][:2] for *_, areas in results for area in areas} == {"r-"}


def test_it_travels_once_and_is_unpickled_once_by_a_worker(
    make_cluster: MakeCluster, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispy.config, "SharedMemory", False)

    class Counted:
        """Notes where it is unpickled."""

        def __init__(self) -> None:
            self.data = numpy.zeros(MIB)

        def __setstate__(self, state: dict[str, Any]) -> None:
            import os

            self.__dict__ |= state
            self.places = [*getattr(self, "places", ()), os.getpid()]
            self.token = os.urandom(8)

    def look(counted: Any) -> Any:
        import os

        return os.getpid(), counted.token, len(counted.data)

    node = start_node("--cpus", "2")
    cluster = make_cluster(look, nodes=at(node))
    ref = cluster.put(Counted())
    results = [job() for job in [cluster.submit(ref) for _ in range(200)]]
    tokens: dict[int, set[bytes]] = {}
    for pid, token, size in results:
        assert size == MIB
        tokens.setdefault(pid, set()).add(token)
    assert all(len(seen) == 1 for seen in tokens.values())
    sent = cluster.status().nodes[0].tx
    assert ref.size < sent < 1.1 * ref.size


@pytest.mark.usefixtures("a_node")
def test_map(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(lambda table, item: table[item % 3])
    ref = cluster.put(["a", "b", "c"])
    assert list(cluster.map(repeat(ref), range(300))) == ["a", "b", "c"] * 100


@pytest.mark.usefixtures("a_node")
def test_references_in_what_is_put(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(lambda both: both["inner"][1])
    outer = cluster.put({"inner": cluster.put([1, 2])})
    gc.collect()
    assert [job() for job in [cluster.submit(outer) for _ in range(5)]] == [2] * 5


def test_it_is_freed_when_the_last_reference_is_gone(
    make_cluster: MakeCluster, start_node: StartNode, shares: bool
) -> None:
    node = start_node("--cpus", "2")
    cluster = make_cluster(first_of, nodes=at(node))
    ref, other = cluster.put(numpy.ones(MIB)), cluster.put([7])
    jobs = [cluster.submit(ref) for _ in range(20)] + [cluster.submit(other) for _ in range(20)]
    assert [job() for job in jobs] == [1.0] * 20 + [7] * 20
    assert len(objects(node)) == 2
    assert mapped(node)
    del ref, jobs
    gc.collect()
    wait_for(lambda: len(objects(node)), lambda count: count == 1, what="the file is gone")
    # Workers that wait for jobs let go as well; the memory is free.
    wait_for(
        lambda: [area for area in mapped(node) if "(deleted)" in area],
        lambda left: not left,
        what="no worker holds on to it",
    )
    assert cluster.submit(other)() == 7


def test_jobs_that_wait_keep_it(make_cluster: MakeCluster, start_node: StartNode, gate: Path) -> None:
    def wait_and_look(path: str, value: Any) -> Any:
        import os
        import time

        while not os.path.exists(path):
            time.sleep(0.001)
        return value[0]

    node = start_node("--cpus", "1")
    cluster = make_cluster(wait_and_look, nodes=at(node))
    ref = cluster.put([5])
    jobs = [cluster.submit(str(gate), ref) for _ in range(500)]
    cancelled = jobs.pop()
    cluster.cancel(cancelled)
    del ref
    gc.collect()
    gate.touch()
    assert [job() for job in jobs] == [5] * 499
    wait_for(lambda: objects(node), lambda left: not left, what="the file is gone with the last job")


def test_a_node_that_comes_later_has_it_first(
    make_cluster: MakeCluster, start_node: StartNode, shares: bool
) -> None:
    first = start_node("--cpus", "1", "--name", "first")
    cluster = make_cluster(lambda value: (dispy_node_name, len(value)), nodes=["127.0.0.1"])  # type: ignore[name-defined]
    ref = cluster.put(bytes(MIB))
    assert cluster.submit(ref)() == ("first", MIB)
    start_node("--cpus", "1", "--name", "second")
    wait_for(lambda: len(cluster.status().nodes), lambda count: count == 2, what="two nodes")
    names = set()
    while names != {"first", "second"}:
        names |= {job()[0] for job in [cluster.submit(ref) for _ in range(20)]}
    assert objects(first)


def test_nodes_die_and_jobs_find_it_elsewhere(
    make_cluster: MakeCluster, start_node: StartNode, place: Place, gate: Path, shares: bool
) -> None:
    def wait_and_look(path: str, value: Any) -> Any:
        import os
        import time

        while not os.path.exists(path):
            time.sleep(0.001)
        return len(value)

    nodes = [start_node("--cpus", "2", "--name", name) for name in ("one", "two")]
    cluster = make_cluster(wait_and_look, nodes=at(*nodes), reentrant=True)
    ref = cluster.put(bytes(3 * MIB))
    jobs = [cluster.submit(str(gate), ref) for _ in range(40)]
    wait_for(
        lambda: jobs[3].status, lambda status: status == dispy.DispyJob.Running, what="all CPUs are busy"
    )
    nodes[0].send(signal.SIGKILL)
    place.is_swept = True
    gate.touch()
    assert [job() for job in jobs] == [3 * MIB] * 40


def test_no_room_on_a_node(
    make_cluster: MakeCluster, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a node is not used any more; where there is no other the jobs say why."""
    monkeypatch.setattr(dispy.config, "SharedMemory", False)
    small, large = (start_node("--name", name, "--cpus", "1") for name in ("small", "large"))
    cluster = make_cluster(lambda value: (dispy_node_name, len(value)), nodes=at(small, large))  # type: ignore[name-defined]
    alone = make_cluster(len, nodes=at(small))
    wait_for(lambda: len(cluster.status().nodes), lambda count: count == 2, what="two nodes")
    assert alone.submit(b"")() == 0
    resource.prlimit(small.pid, resource.RLIMIT_FSIZE, (MIB, MIB))
    refs = [cluster.put(bytes(2 * MIB)), alone.put(bytes(2 * MIB))]
    assert {job() for job in [cluster.submit(refs[0]) for _ in range(10)]} == {("large", 2 * MIB)}
    job = alone.submit(refs[1])
    assert job() is None
    assert "what was put cannot be held on node small: a file of 2 MiB is larger than allowed" in str(
        job.exception
    )


@pytest.mark.usefixtures("a_node")
def test_what_cannot_be(make_cluster: MakeCluster) -> None:
    cluster, other = make_cluster(first_of), make_cluster(until)
    ref = cluster.put([1])
    with pytest.raises(UsageError, match="put the object into the cluster whose jobs read it"):
        other.submit(ref)
    with pytest.raises(UsageError, match="put the object into the cluster"):
        other.put([ref])
    with pytest.raises(PicklingError, match=r"cannot be put: item 1 of the object"):
        cluster.put([1, (n for n in range(3))])
    with pytest.raises(PicklingError, match="refers to an object that was put"):
        make_cluster(lambda: ref)
    assert "cluster first_of" in repr(ref)
    cluster.close()
    with pytest.raises(UsageError, match="is closed"):
        cluster.put(1)
    del ref
    gc.collect()


@pytest.mark.usefixtures("a_node")
def test_isolated_jobs(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(lambda array, at: float(array[at]), isolate=True)
    ref = cluster.put(numpy.arange(100_000.0))
    assert [job() for job in [cluster.submit(ref, n) for n in range(10)]] == [float(n) for n in range(10)]


def test_a_job_that_imports_the_client_finds_it(make_cluster: MakeCluster, a_node: Node) -> None:
    """The client sets where references lead in programs; not in a worker, where objects are."""

    def imports(value: list[int]) -> list[int]:
        import dispy.client.cluster  # noqa: F401

        return value

    cluster = make_cluster(imports)
    for number in range(3):
        assert cluster.submit([cluster.put(number)])() == [number]
