"""Arguments and results: instances of the program's own classes, and data of all sizes."""

from __future__ import annotations

import collections
import dataclasses
import enum
import os
from typing import Any

import numpy
import pytest

import dispy
from dispy import config

from .conftest import MakeCluster
from .helpers import Place, in_use, memory_of, wait_for


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0

    def moved(self, dx: int) -> Point:
        return Point(self.x + dx, self.y)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


Pair = collections.namedtuple("Pair", ["left", "right"])


@pytest.mark.usefixtures("a_node")
def test_instances_keep_their_class(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(lambda point: point.moved(2))
    result = cluster.submit(Point(1))()
    assert result == Point(3)
    assert type(result) is Point


@pytest.mark.usefixtures("a_node")
def test_class_known_to_the_computation_and_the_argument_is_one(make_cluster: MakeCluster) -> None:
    def check(value: Any) -> tuple[bool, bool, type]:
        return isinstance(value, Point), type(value) is Point, Point

    is_instance, is_same, cls = make_cluster(check).submit(Point(1))()
    assert is_instance
    assert is_same
    assert cls is Point


@pytest.mark.usefixtures("a_node")
def test_class_in_depends_and_the_argument_is_one(make_cluster: MakeCluster) -> None:
    def check(value: Any) -> tuple[bool, Any]:
        cls = globals()["Point"]
        return isinstance(value, cls), cls(5)

    assert make_cluster(check, depends=[Point]).submit(Point(1))() == (True, Point(5))


@pytest.mark.usefixtures("a_node")
def test_members_of_enumerations_stay_themselves(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(lambda colour: (colour is Colour.RED, Colour.BLUE, type(colour) is Colour))
    assert cluster.submit(Colour.RED)() == (True, Colour.BLUE, True)
    assert cluster.submit(Colour.RED)()[1] is Colour.BLUE


@pytest.mark.usefixtures("a_node")
def test_exception_classes_keep_their_base(make_cluster: MakeCluster) -> None:
    class Mine(LookupError):
        pass

    def fail() -> None:
        raise Mine("here", 5)

    job = make_cluster(fail).submit()
    assert job() is None
    assert type(job.error) is Mine
    assert job.error.args == ("here", 5)


@pytest.mark.usefixtures("a_node")
def test_local_classes_go_and_come_back(make_cluster: MakeCluster) -> None:
    class Node:
        def __init__(self, value: int, below: list[Any]) -> None:
            self.value = value
            self.below = below

        def doubled(self) -> Node:
            return Node(self.value * 2, [item.doubled() for item in self.below])

    cluster = make_cluster(lambda node: node.doubled())
    first = cluster.submit(Node(1, [Node(2, [])]))()
    second = cluster.submit(first)()
    assert type(second) is Node
    assert second.value == 4
    assert second.below[0].value == 8


@pytest.mark.usefixtures("a_node")
def test_class_made_by_the_job_arrives(make_cluster: MakeCluster) -> None:
    def make() -> Any:
        class Fresh:
            number = 5

        return Fresh()

    assert make_cluster(make).submit()().number == 5


@pytest.mark.usefixtures("a_node")
def test_values_arrive_as_they_left(make_cluster: MakeCluster) -> None:
    values = [
        Pair(1, 2), {Pair(1, "x"): {3, 4}}, 1 << 5000, float("inf"), b"\x93\x00" * 10, None, "\ud800", [[]], range(3),
        (), True, 1.5j, frozenset({1}), bytearray(b"x"), slice(1, 2), ..., int, Pair, ValueError, numpy.float32(1.5),
    ]  # fmt: skip
    cluster = make_cluster(lambda value: value)
    jobs = [cluster.submit(value) for value in values]
    for value, job in zip(values, jobs, strict=True):
        assert job() == value, job.exception
        assert type(job.result) is type(value)


@pytest.mark.usefixtures("a_node")
def test_values_refer_to_each_other_as_before(make_cluster: MakeCluster) -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    result = make_cluster(lambda one, two: (one, two, one is two)).submit(cycle, cycle)()
    assert result[2]
    assert result[0] is result[1] is result[0][0]


@pytest.mark.usefixtures("a_node")
def test_arguments_have_the_value_of_submit(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(lambda array, items: (int(array.sum()), len(items), array.flags.writeable))
    array, items = numpy.zeros(100_000), [1]
    jobs = []
    for n in range(5):
        array[:] = n
        items.append(n)
        jobs.append(cluster.submit(array, items))
    array[:] = 99
    items.clear()
    assert [job() for job in jobs] == [(n * 100_000, n + 2, True) for n in range(5)]


@pytest.mark.usefixtures("a_node")
def test_large_arguments_and_results(make_cluster: MakeCluster) -> None:
    """Around the size from which they travel in another way, and 10 MB."""
    cluster = make_cluster(lambda array, text: (array[::-1].copy(), text * 2))
    for size in (65_000, 65_536, 200_000, 10_000_000):
        array = numpy.arange(size, dtype=numpy.uint8)
        jobs = [cluster.submit(array, str(n) * (size // 10)) for n in range(3)]
        for n, job in enumerate(jobs):
            back, text = job()
            assert numpy.array_equal(back, array[::-1])
            assert text == str(n) * (size // 10) * 2


@pytest.mark.usefixtures("a_node")
def test_large_values_leave_the_node(make_cluster: MakeCluster) -> None:
    """Segments of payloads are removed once they are taken."""
    cluster = make_cluster(lambda data: data)
    for _ in range(5):
        assert len(cluster.submit(bytes(1_000_000))()) == 1_000_000

    def segments() -> int:
        import glob

        return len(
            glob.glob(f"/dev/shm/dispy-{os.getuid()}/{os.path.basename(os.path.dirname(os.getcwd()))}/*/*")
        )

    second = make_cluster(segments)
    wait_for(lambda: second.submit()(), lambda count: count <= 1, what="segments are gone")


@pytest.mark.usefixtures("a_node")
@pytest.mark.parametrize("shares", [True, False], ids=["by name", "by stream"])
def test_tables_of_pandas_and_arrow(
    make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch, shares: bool
) -> None:
    """A job writes to the frame that it was given, and returns it; the program's own stays as it is."""
    import pandas
    import pyarrow as arrow

    monkeypatch.setattr(config, "SharedMemory", shares)
    values = numpy.linspace(0, 1, 300_000)

    def work(frame: Any, table: Any) -> tuple[Any, Any]:
        frame["y"] = frame["x"] * 2
        frame.loc[0, "x"] = -1.0
        return frame, table.append_column("z", table["x"])

    frame, table = pandas.DataFrame({"x": values}), arrow.table({"x": values})
    job = make_cluster(work).submit(frame, table)
    changed, longer = job()
    assert job.status == job.Finished, job.exception
    assert list(frame.columns) == ["x"]
    assert frame["x"][0] == 0.0
    assert changed["x"][0] == -1.0
    assert numpy.array_equal(changed["y"], values * 2)
    changed.loc[1, "y"] = 5.0
    assert longer["z"].equals(table["x"])


@pytest.mark.usefixtures("a_node")
@pytest.mark.parametrize("shares", [True, False], ids=["by name", "by stream"])
def test_large_provisional_results_travel_as_large_results_do(
    make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch, place: Place, shares: bool
) -> None:
    """Each is what it was when it was sent, can be written to, and leaves nothing on the node."""
    monkeypatch.setattr(config, "SharedMemory", shares)

    def grow(values: Any) -> bytes:
        for _ in range(3):
            values += 1
            assert dispy_provisional_result(values) == 0
            assert dispy_provisional_result(bytes(300_000)) == 0
        return bytes(400_000)

    seen = []
    cluster = make_cluster(grow, job_status=lambda job: seen.append((job.status, job.result)))
    assert cluster.submit(numpy.zeros(700_000))() == bytes(400_000)
    wait_for(lambda: len(seen), lambda count: count == 7, what="all have been told")
    assert [status for status, _ in seen] == [dispy.DispyJob.ProvisionalResult] * 6 + [
        dispy.DispyJob.Finished
    ]
    for number in range(3):
        array, text = seen[2 * number][1], seen[2 * number + 1][1]
        assert text == bytes(300_000)
        assert (array == number + 1).all()
        array[:] = 0
    wait_for(lambda: in_use(memory_of(place)), lambda left: not left, what="nothing is left on the node")
    seen.clear()  # the cluster lives a little longer, and what was seen lies in files
