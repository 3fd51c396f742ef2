"""Sixty constructs of Python, in a script whose nodes may run another minor version: equal here and there."""

from __future__ import annotations

import abc
import asyncio
import collections
import contextlib
import dataclasses
import enum
import functools
import itertools
import operator
import sys
import types
import typing
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import dispy

LIMIT = 7
TABLE = {"a": 1}
pair = (lambda x: x + 1), (lambda x: x * 10), (lambda x: x + 1), (lambda x: -x), (lambda x: 7), (lambda x: 8)  # fmt: skip
late = [lambda: i for i in range(3)]
early = [lambda i=i: i for i in range(3)]
nested = [[lambda: (i, j) for i in range(2)] for j in range(2)]
by_key = {key: (lambda x, key=key: (key, x)) for key in "ab"}
fmt = lambda value, width=5: f"{value:>{width}}|{value!r}"


def adder(n):
    total = 0

    def add(x):
        nonlocal total
        total += n + x
        return total

    return add


def twice(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs) * 2

    return wrapper


def parametrized(*, times):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args):
            return [function(*args)] * times

        return wrapper

    return decorate


@twice
def doubled(x: int) -> int:
    """Documented."""
    return x + LIMIT


@parametrized(times=2)
@twice
def stacked(x):
    return x


@functools.lru_cache(maxsize=8)
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


@functools.singledispatch
def show(value):
    return "any"


@show.register
def _(value: int):
    return "int"


@contextlib.contextmanager
def entered(log):
    log.append("in")
    try:
        yield 5
    finally:
        log.append("out")


@types.coroutine
def old_coroutine():
    yield from asyncio.sleep(0).__await__()
    return 3


class Base(abc.ABC):
    made: typing.ClassVar[list[str]] = []

    def __init_subclass__(cls, **keywords):
        super().__init_subclass__(**keywords)
        Base.made.append(cls.__name__)

    @abc.abstractmethod
    def area(self): ...

    def name(self):
        return type(self).__name__


class Square(Base):
    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side**2

    def name(self):
        return "a " + super().name() + [super(Square, self).name() for _ in range(1)][0]

    @property
    def half(self):
        return self.side / 2

    @half.setter
    def half(self, value):
        self.side = value * 2

    @functools.cached_property
    def cached(self):
        return self.side + 100

    @staticmethod
    def static(x):
        return x + 1

    @classmethod
    def make(cls, side):
        return cls(side)

    @functools.singledispatchmethod
    def visit(self, node):
        return "any"

    @visit.register
    def _(self, node: str):
        return "text"

    add = functools.partialmethod(static.__func__ and (lambda self, a, b: self.side + a + b), 1)

    class Inner:
        def whose(self):
            return __class__.__qualname__

    def __mangled(self):
        return "private"

    def call_mangled(self):
        return self.__mangled()

    def __eq__(self, other):
        return type(other) is type(self) and other.side == self.side

    def __hash__(self):
        return hash(self.side)


class Descriptor:
    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, obj, owner=None):
        return self.name if obj is None else (self.name, obj.value)


class Meta(type):
    def __call__(cls, *args):
        made = super().__call__(*args)
        made.by_meta = True
        return made


class WithMeta(metaclass=Meta):
    field = Descriptor()
    value = 3


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self):
        self.a, self.b = 1, 2


@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: list = dataclasses.field(default_factory=list, compare=False, metadata={"unit": "m"})
    kind: typing.ClassVar[str] = "point"
    scale: dataclasses.InitVar[int] = 1

    def __post_init__(self, scale):
        self.x *= scale


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: int = 3
    _: dataclasses.KW_ONLY
    c: int = 1


@dataclasses.dataclass
class Derived(Point):
    z: int = 9

    def __repr__(self):
        return f"<{self.x} {self.z}>"


Pair = collections.namedtuple("Pair", "left right", defaults=[1])


class Typed(typing.NamedTuple):
    a: int
    b: str = "x"

    def repeated(self):
        return self.b * self.a


class Color(enum.Enum):
    RED = 1
    ALIAS = 1
    LISTED = [2]

    @property
    def twice(self):
        return self.value * 2

    @classmethod
    def _missing_(cls, value):
        return cls.RED


class Rights(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
    BOTH = READ | WRITE


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    A = enum.auto()


class Data(Point, enum.Enum):
    ORIGIN = (0,)


@typing.runtime_checkable
class Sized(typing.Protocol):
    size: int

    def area(self): ...


class Options(typing.TypedDict, total=False):
    level: int


T = typing.TypeVar("T", bound=int)


class Box(typing.Generic[T]):
    def __init__(self, item: T) -> None:
        self.item = item


class Failure(Exception):
    def __init__(self, what, code):
        super().__init__(what)
        self.code = code


def squares(n) -> Iterator[int]:
    received = yield 0
    yield from (x * x for x in range(n))
    return received


async def numbers(n) -> AsyncIterator[int]:
    for x in range(n):
        await asyncio.sleep(0)
        yield x


def matched(value):
    match value:
        case {"kind": str(kind), **rest}:
            return kind, rest
        case [first, *others] if first:
            return first, others
        case Point(x=1) | Pair(1):
            return "one"
        case Color.RED:
            return "red"
        case _:
            return None


def groups():
    caught = []
    try:
        raise ExceptionGroup("all", [ValueError(1), KeyError("k"), TypeError()])
    except* ValueError as group:
        caught.append(("value", len(group.exceptions)))
    except* (KeyError, TypeError) as group:
        caught.append(("others", len(group.exceptions)))
    return caught


def comprehensions():
    x = "outer"
    rows = [[x * y for x in range(3)] for y in range(3)]
    found = {x: [y for y in range(x) if (last := y) or True] for x in range(3)}
    functions = [lambda: x for x in range(2)]
    return (
        rows,
        found,
        last,
        x,
        [f() for f in functions],
        sorted({c for c in "aab"}),
        sum(x for x in range(4)),
    )


class Scoped:
    names = ["a", "b"]
    upper = [name.upper() for name in names]
    size = len(names)
    methods = [lambda self, name=name: name for name in names]


async def gathered():
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(int)
        return [x async for x in numbers(3)] + list(await asyncio.gather(asyncio.sleep(0, 7), old()))


async def old():
    return await old_coroutine()


def annotated(a: int, /, b: Point | None = None, *c: str, d: Color = Color.RED, **e) -> Box[int]:
    return a, b, c, d.name, e


def finally_order():
    log = []
    for i in range(3):
        try:
            if i == 1:
                continue
            log.append(i)
        finally:
            log.append("f")
    else:
        log.append("else")
    return log


def deleted():
    a, *b, c = range(5)
    del a
    with contextlib.suppress(NameError):
        return a
    return b, c


def globals_used():
    global LIMIT
    before = LIMIT
    LIMIT = 8
    after = LIMIT
    LIMIT = before
    return before, after, TABLE["a"]


def square_parts():
    square = Square.make(3)
    square.half = 4
    return (
        square.area(), square.name(), square.half, square.cached, square.static(1), square.visit("a"),
        square.visit(1), square.add(2), square.Inner().whose(), square.call_mangled(), sorted(Base.made),
    )  # fmt: skip


def hooked():
    raised = []
    for call in (lambda: Base(), lambda: dataclasses.replace(Frozen(), a=1, q=2), lambda: Rights("x")):
        try:
            call()
        except (TypeError, ValueError) as error:
            raised.append(type(error).__name__)
    return raised


def local_class():
    @dataclasses.dataclass
    class Local:
        a: int = 1

        def get(self):
            return self.a, __class__.__name__

    return Local(2).get(), repr(Local()).rpartition(".")[2]


def walrus():
    return [y := 1, y**2, (z := y + 1)], [w for w in range(5) if (half := w // 2) > 1], half, z


CONSTRUCTS = {
    "two lambdas of one line": lambda: [f(5) for f in pair],
    "lambdas that bind late": lambda: [f() for f in late],
    "lambdas that bind early": lambda: [f() for f in early],
    "lambdas in two comprehensions": lambda: [[f() for f in row] for row in nested],
    "lambdas in a dictionary": lambda: [by_key[key](1) for key in by_key],
    "a lambda with a nested format": lambda: fmt(3, width=4),
    "a lambda that makes one": lambda: (lambda x: lambda y: x - y)(5)(3),
    "a closure": lambda: [adder(2)(3), adder(1)(1)],
    "a decorator": lambda: (doubled(1), doubled.__doc__, doubled.__name__, doubled.__wrapped__(1)),
    "stacked decorators": lambda: stacked(4),
    "a cache": lambda: fibonacci(20),
    "single dispatch": lambda: (show(1), show("a")),
    "a context manager": lambda: (log := [], entered(log).__enter__(), log)[1:],
    "a partial": lambda: functools.partial(operator.mul, 3)(4),
    "a class of many parts": square_parts,
    "an abstract class": lambda: (Square(2).area(), Base.__abstractmethods__),
    "a metaclass": lambda: (WithMeta().by_meta, WithMeta().field, WithMeta.field),
    "slots": lambda: (Slotted().a, hasattr(Slotted(), "__dict__")),
    "a data class": lambda: (Point(1, scale=2), Point(1) < Point(2), Point(1) == Point(1, [2]), Point.kind),
    "fields of a data class": lambda: [
        (f.name, f.type, dict(f.metadata)) for f in dataclasses.fields(Point)
    ],
    "a data class replaced": lambda: dataclasses.replace(Frozen(), a=5),
    "a frozen data class": lambda: ({Frozen(): 1}[Frozen()], Frozen(4, c=2), dataclasses.asdict(Frozen())),
    "a derived data class": lambda: (Derived(1), Derived(1, z=3).z, dataclasses.astuple(Derived(2))),
    "a named tuple": lambda: (Pair(3), Pair(1)._replace(left=2), Pair._make([1, 2]), Pair(1)._asdict()),
    "a typed named tuple": lambda: (Typed(2).repeated(), Typed(1), Typed._field_defaults),
    "an enumeration": lambda: (Color.RED.twice, Color([2]), Color.ALIAS, Color(99), list(Color)),
    "flags": lambda: (
        Rights.READ | Rights.WRITE,
        Rights(3) is Rights.BOTH,
        list(Rights.BOTH),
        ~Rights.READ,
    ),
    "an enumeration of numbers": lambda: (Level.LOW < Level.HIGH, Level(2) + 1, max(Level)),
    "an enumeration of texts": lambda: (Word.A + "b", Word("a")),
    "an enumeration of data": lambda: (Data.ORIGIN.x, Data.ORIGIN.name),
    "a protocol": lambda: (isinstance(Square(1), Sized), isinstance(3, Sized)),
    "a typed dictionary": lambda: (Options(level=1), sorted(Options.__optional_keys__)),
    "a generic class": lambda: (Box(3).item, Box[int](4).item, Box.__parameters__ == (T,)),
    "a generator": lambda: list(squares(4)),
    "a generator that receives": lambda: (g := squares(2), next(g), g.send(5), list(g))[1:],
    "generators composed": lambda: list(itertools.islice((x for x in itertools.count() if x % 2), 3)),
    "asynchronous generators": lambda: asyncio.run(gathered()),
    "match of a mapping": lambda: matched({"kind": "a", "b": 1}),
    "match of a sequence": lambda: matched([1, 2, 3]),
    "match of classes": lambda: (
        matched(Point(1)),
        matched(Pair(1)),
        matched(Color.RED),
        matched(object()),
    ),
    "groups of exceptions": groups,
    "comprehensions": comprehensions,
    "comprehensions in a class": lambda: (Scoped.upper, Scoped.size, [m(None) for m in Scoped.methods]),
    "annotations": lambda: annotated(1, None, "c", d=Color([2]), e=5),
    "annotations as texts": lambda: dict(annotated.__annotations__),
    "hints of annotations": lambda: [str(v) for v in typing.get_type_hints(Typed).values()],
    "finally in a loop": finally_order,
    "unpacking and deletion": deleted,
    "globals that are set": globals_used,
    "errors of hooks": hooked,
    "a class in a function": local_class,
    "assignment expressions": walrus,
    "a chained comparison": lambda: [1 < x < 4 for x in range(5)],
    "a conditional lambda": lambda: (lambda x: "a" if x else "b")(0),
    "star arguments": lambda: (lambda *a, k=1, **kw: (a, k, kw))(*[1, 2], k=3, **{"z": 4}),
    "positional only": lambda: (lambda a, /, b: (a, b))(1, b=2),
    "formatted texts": lambda: f"{LIMIT=} {'quoted'!r:>10} {3.14159:.2f} {TABLE['a']:03}",
    "bytes and numbers": lambda: (b"\x00\xff", 1_000, 0x1F, 1e300 * 10, 3 + 4j, "\N{BULLET}"),
    "slices": lambda: list(range(10))[slice(1, 8, 3)] + list("abc"[::-1]),
    "an exception with a cause": lambda: str(caused()),
    "a path": lambda: Path("a") / "b.txt",
    "an attribute of a function": lambda: (marked.note, marked()),
}


def marked():
    return marked.note


marked.note = "noted"


def caused():
    try:
        try:
            raise Failure("inner", 3)
        except Failure as error:
            raise RuntimeError("outer") from error
    except RuntimeError as error:
        return error.__cause__.code, type(error).__name__


def call(function):
    return function()


def version():
    return sys.version_info[:2]


def main():
    cluster = dispy.JobCluster(call)
    there = cluster.submit(version).get(20)
    jobs = {name: cluster.submit(construct) for name, construct in CONSTRUCTS.items()}
    different = 0
    for name, job in jobs.items():
        job.wait()
        here = CONSTRUCTS[name]()
        if job.exception or repr(job.result) != repr(here) or not is_same(job.result, here):
            different += 1
            print(f"DIFFERS {name}: here {here!r}, there {job.exception or repr(job.result)}")
    cluster.close()
    print(f"{len(jobs)} constructs, {different} differ, {version()} {there}")


def is_same(one, other):
    return type(one) is type(other) and (one == other or repr(one) == repr(other))


if __name__ == "__main__":
    main()
