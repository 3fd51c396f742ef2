"""Classes of the user: their instances come back as instances of the very class they were."""

from __future__ import annotations

import dataclasses
import enum
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from conftest import Elsewhere


class Point:
    created = 0

    def __init__(self, x: int, y: int) -> None:
        self.x = x
        self.y = y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    def __hash__(self) -> int:
        return hash((self.x, self.y))

    def moved(self, by: int) -> Point:
        return Point(self.x + by, self.y + by)


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Flags(enum.IntFlag):
    A = 1
    B = 2


@dataclasses.dataclass(frozen=True)
class Order:
    number: int
    tags: list[str] = dataclasses.field(default_factory=list)


class Pair(NamedTuple):
    left: int
    right: str


class Husband:
    def spouse(self) -> Wife:
        return Wife()


class Wife:
    def spouse(self) -> Husband:
        return Husband()


class Node:
    def __init__(self, *children: Node) -> None:
        self.children = children

    def depth(self) -> int:
        return 1 + max((child.depth() for child in self.children), default=0)


class Special(dict[str, int]):
    pass


def kind_of(value: Any) -> str:
    return type(value).__name__


OF_THE_USER = [
    Point(1, 2), Colour.GREEN, Flags.A | Flags.B, Order(1, ["x"]), Pair(1, "b"), Special(a=1),
    [Point(1, 2), {"c": Colour.RED}],
]  # fmt: skip


@pytest.mark.parametrize("value", OF_THE_USER, ids=kind_of)
def test_a_value_comes_back_from_another_process_as_what_it_was(elsewhere: Elsewhere, value: Any) -> None:
    back = elsewhere.back(value)
    assert back == value
    assert type(back) is type(value)


def test_members_of_enums_are_the_same_when_they_come_back(elsewhere: Elsewhere) -> None:
    assert elsewhere.back([Colour.RED, Colour.GREEN]) == [Colour.RED, Colour.GREEN]
    assert elsewhere.back(Colour.RED) is Colour.RED


def test_a_class_comes_back_as_itself(elsewhere: Elsewhere) -> None:
    class Local:
        pass

    assert elsewhere.back(Point) is Point
    assert elsewhere.back(Local) is Local


def test_an_instance_of_a_local_class_comes_back_as_one_of_it(elsewhere: Elsewhere) -> None:
    class Local:
        def __init__(self) -> None:
            self.value = 1

    back = elsewhere.back(Local())
    assert type(back) is Local
    assert back.value == 1


def test_slots_travel(elsewhere: Elsewhere) -> None:
    back = elsewhere.back(Slotted(5))
    assert type(back) is Slotted
    assert back.value == 5


def test_dataclasses_with_slots_travel(elsewhere: Elsewhere) -> None:
    @dataclasses.dataclass(slots=True)
    class Record:
        number: int
        text: str = ""

    back = elsewhere.back(Record(1, "a"))
    assert type(back) is Record
    assert back == Record(1, "a")


def test_slots_are_slots_elsewhere_too(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(lambda value: hasattr(value, "__dict__"), Slotted(5)) is False


def test_a_tree_of_instances_travels(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(lambda tree: tree.depth(), Node(Node(), Node(Node()))) == 3
    assert type(elsewhere.back(Node(Node())).children[0]) is Node


def test_a_subclass_that_calls_super_travels(elsewhere: Elsewhere) -> None:
    class Base:
        def name(self) -> str:
            return "base"

    class Derived(Base):
        def name(self) -> str:
            return super().name() + " derived"

    assert elsewhere.call(lambda item: item.name(), Derived()) == "base derived"
    back = elsewhere.back([Base(), Derived()])
    assert [type(item) for item in back] == [Base, Derived]
    assert isinstance(back[1], Base)


def test_methods_work_elsewhere_and_make_instances_of_the_class_here(elsewhere: Elsewhere) -> None:
    back = elsewhere.call(lambda point: point.moved(1), Point(1, 2))
    assert type(back) is Point
    assert back == Point(2, 3)


def test_an_instance_made_by_the_computation_is_of_the_class_here(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(lambda: Point(3, 4)) == Point(3, 4)


def test_an_instance_made_of_a_dependency_is_of_the_class_here(elsewhere: Elsewhere) -> None:
    def compute() -> Any:
        return globals()["Point"](3, 4)

    assert elsewhere.call(compute, depends=[Point]) == Point(3, 4)


def test_arguments_are_of_the_class_that_the_computation_uses(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(lambda point: type(point) is Point, Point(1, 2)) is True
    assert elsewhere.call(lambda colour: colour is Colour.RED, Colour.RED) is True


def test_arguments_are_of_the_class_that_is_a_dependency(elsewhere: Elsewhere) -> None:
    def compute(point: Any) -> bool:
        return type(point) is globals()["Point"]

    assert elsewhere.call(compute, Point(1, 2), depends=[Point]) is True


def test_jobs_of_one_worker_see_one_class(elsewhere: Elsewhere) -> None:
    seen: list[type] = []

    def compute(point: Any) -> int:
        seen.append(type(point))
        return len(set(seen))

    assert elsewhere.run(compute, (Point(1, 2),), (Point(3, 4),)) == [1, 1]


def test_class_attributes_here_are_not_reset_by_an_instance_that_comes_back(elsewhere: Elsewhere) -> None:
    class Counted:
        created = 0

    value = Counted()
    Counted.created = 1

    def compute(given: Any) -> Any:
        type(given).created = 50
        return given

    data_before = elsewhere.call(compute, value)
    Counted.created = 2
    back = elsewhere.call(compute, value)
    assert type(data_before) is type(back) is Counted
    assert Counted.created == 2


def test_class_attributes_elsewhere_are_not_reset_by_the_next_argument(elsewhere: Elsewhere) -> None:
    def compute(given: Any) -> int:
        type(given).created += 1
        return type(given).created  # type: ignore[no-any-return]

    assert elsewhere.run(compute, (Point(1, 2),), (Point(1, 2),)) == [1, 2]
    assert Point.created == 0


def test_classes_that_refer_to_each_other_travel_and_come_back(elsewhere: Elsewhere) -> None:
    back = elsewhere.call(lambda item: [item, item.spouse(), item.spouse().spouse()], Husband())
    assert [type(item) for item in back] == [Husband, Wife, Husband]


def test_local_classes_that_refer_to_each_other_travel_and_come_back(elsewhere: Elsewhere) -> None:
    class Egg:
        def grow(self) -> Any:
            return Hen()

    class Hen:
        def lay(self) -> Any:
            return Egg()

    back = elsewhere.call(lambda item: [item, item.grow(), item.grow().lay()], Egg())
    assert [type(item) for item in back] == [Egg, Hen, Egg]


def test_a_local_class_that_refers_to_itself_travels_and_comes_back(elsewhere: Elsewhere) -> None:
    class Chain:
        def next(self) -> Any:
            return Chain()

    assert type(elsewhere.call(lambda item: item.next(), Chain())) is Chain


def test_a_class_that_a_job_defines_can_be_its_result(elsewhere: Elsewhere) -> None:
    def compute() -> Any:
        class There:
            value = 7

            def double(self) -> int:
                return 2 * self.value

        return There()

    assert elsewhere.call(compute).double() == 14


def test_a_function_can_be_an_argument_and_a_result(elsewhere: Elsewhere) -> None:
    add = elsewhere.call(lambda function, n: lambda x: function(x) + n, lambda x: 2 * x, 1)
    assert add(5) == 11


WORKER = """
import sys
from dispy import payload

value = payload.load(sys.stdin.buffer.read())
value.x += 1
sys.stdout.buffer.write(payload.dump([value, value.moved()]))
"""

PROGRAM = """
import subprocess, sys
from dispy import payload

class Point:
    count = 0

    def __init__(self, x):
        self.x = x

    def moved(self):
        return Point(self.x + 10)

def main(worker, kept):
    data = payload.dump(Point(1))
    back = subprocess.run([sys.executable, worker], input=data, capture_output=True)
    assert back.returncode == 0, back.stderr.decode()
    with open(kept, "wb") as file:
        file.write(back.stdout)
    Point.count = 3
    check(kept)

def check(kept):
    with open(kept, "rb") as file:
        points = payload.load(file.read())
    assert [type(point) is Point for point in points] == [True, True], points
    assert [point.x for point in points] == [2, 12]
    print(Point.count)

if len(sys.argv) > 2:
    main(*sys.argv[1:])
else:
    check(sys.argv[1])
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program whose main module has a class of its own, and a worker that does not know it."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "worker.py").write_text(WORKER)
    return tmp_path


def run_program(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "program.py", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_classes_of_a_program_keep_their_identity_and_attributes(program: Path) -> None:
    assert run_program(program, "worker.py", "kept") == "3"


def test_a_program_that_is_started_anew_finds_its_own_class_in_what_an_earlier_run_left(
    program: Path,
) -> None:
    run_program(program, "worker.py", "kept")
    assert run_program(program, "kept") == "0"
