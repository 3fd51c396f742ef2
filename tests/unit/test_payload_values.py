"""Arguments and results: what goes and comes back is what it was, and of the class it was."""

from __future__ import annotations

import array
import asyncio
import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import pickle
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy
import pytest

from dispy import payload
from dispy.errors import PicklingError

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


PLAIN = [
    None, True, 7, -(1 << 80), 1.5, "text", "\N{SNOWMAN}", b"bytes", (1, (2,)), [1, [2]], {"a": {1: 2}}, {1, 2},
    frozenset({1}),
]  # fmt: skip

OF_LIBRARIES = [
    datetime.datetime(2024, 5, 6, 7, 8), 2j, range(3), slice(1, 2), bytearray(b"x"),
    decimal.Decimal("1.10"), collections.OrderedDict(a=1),
    collections.Counter("aab"), array.array("d", [1.0]), Path("/a/b"), ValueError, len, int,
]  # fmt: skip

OF_THE_USER = [
    Point(1, 2), Colour.GREEN, Flags.A | Flags.B, Order(1, ["x"]), Pair(1, "b"), Special(a=1),
    [Point(1, 2), {"c": Colour.RED}],
]  # fmt: skip


@pytest.mark.parametrize("value", [*PLAIN, *OF_LIBRARIES, *OF_THE_USER], ids=kind_of)
def test_a_value_is_loaded_as_what_was_dumped(value: Any) -> None:
    loaded = payload.load(payload.dump(value))
    assert loaded == value
    assert type(loaded) is type(value)


@contextlib.contextmanager
def opened(value: int) -> Iterator[int]:
    yield value


@contextlib.asynccontextmanager
async def opened_later(value: int) -> AsyncIterator[int]:
    yield value


def test_context_managers_travel_before_they_are_entered() -> None:
    with payload.load(payload.whole(payload.dump(opened(1)))) as value:
        assert value == 1

    async def enter(manager: Any) -> int:
        async with manager as inner:
            with pytest.raises(PicklingError):
                payload.dump(manager)
            return inner

    assert asyncio.run(enter(payload.load(payload.whole(payload.dump(opened_later(2)))))) == 2
    ended = opened(3)
    with ended, pytest.raises(PicklingError):
        payload.dump(ended)


def test_arrays_travel(elsewhere: Elsewhere) -> None:
    given = numpy.arange(6.0).reshape(2, 3)
    back = elsewhere.back(given)
    assert (back == given).all()
    assert back.dtype == given.dtype


def test_arrays_inside_of_instances_travel(elsewhere: Elsewhere) -> None:
    back = elsewhere.back(Pair(numpy.arange(3), "x"))  # type: ignore[arg-type]
    assert type(back) is Pair
    assert back.left.tolist() == [0, 1, 2]  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", PLAIN, ids=kind_of)
def test_builtin_values_are_plain(value: Any) -> None:
    assert payload.is_plain(payload.dump(value))


@pytest.mark.parametrize("value", [datetime.date(2024, 1, 1), ValueError, len, *OF_THE_USER], ids=kind_of)
def test_what_runs_code_when_it_is_loaded_is_not_plain(value: Any) -> None:
    assert not payload.is_plain(payload.dump(value))


def test_values_of_libraries_are_as_small_as_plain_pickle_makes_them() -> None:
    value = [decimal.Decimal(1), datetime.date(2024, 1, 1)]
    assert payload.dump(value) == pickle.dumps(value, payload.PROTOCOL)


def test_the_name_of_a_module_of_the_user_in_a_text_does_no_harm() -> None:
    value = [f"{__name__}.Point \x93 __main__", decimal.Decimal(1)]
    assert payload.load(payload.dump(value)) == value


def test_arguments_have_the_value_they_had_when_dumped() -> None:
    value = [1]
    data = payload.dump_call((value,), {})
    value.append(2)
    assert payload.load_call(data) == (([1],),)


@pytest.mark.parametrize(
    ("args", "kwargs", "job_id", "loaded"),
    [
        ((), {}, None, ((),)),
        ((1,), {}, None, ((1,),)),
        ((1,), {"a": 2}, None, ((1,), {"a": 2})),
        ((1,), {}, "id", ((1,), {}, "id")),
        ((), {}, 0, ((), {}, 0)),
    ],
)
def test_a_call_carries_no_more_than_it_needs(
    args: tuple[Any, ...], kwargs: dict[str, Any], job_id: Any, loaded: tuple[Any, ...]
) -> None:
    assert payload.load_call(memoryview(payload.dump_call(args, kwargs, job_id))) == loaded
