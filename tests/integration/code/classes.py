"""Classes whose making has a say: hooks, metaclasses, slots, and what libraries make of them."""

from __future__ import annotations

import abc
import collections
import dataclasses
import functools
import pickle
import typing
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypedDict, TypeVar

import msgspec

import harness

T = TypeVar("T")
LOG: list[str] = []


class Base:
    def __init_subclass__(cls, tag, **keywords):
        super().__init_subclass__(**keywords)
        cls.tag = tag
        LOG.append(f"subclass {cls.__name__}")


class A(Base, tag="a"):
    pass


class B(A, tag="b"):
    pass


class Plugin:
    registry: ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls):
        Plugin.registry[cls.__name__] = cls


class First(Plugin):
    pass


class Second(Plugin):
    pass


REGISTRY = {}


def register(cls):
    REGISTRY[cls.__name__] = cls
    return cls


@register
class Registered:
    pass


class Meta(type):
    def __new__(mcs, name, bases, namespace, *, size):
        cls = super().__new__(mcs, name, bases, namespace)
        cls.size = size
        LOG.append(f"meta {name}")
        return cls

    def __init__(cls, name, bases, namespace, *, size):
        super().__init__(name, bases, namespace)

    def __len__(cls):
        return cls.size


class Measured(metaclass=Meta, size=7):
    pass


class Singleton(type):
    instances: ClassVar[dict] = {}

    def __call__(cls, *args):
        if cls not in cls.instances:
            cls.instances[cls] = super().__call__(*args)
        return cls.instances[cls]


class Only(metaclass=Singleton):
    pass


class Descriptor:
    def __set_name__(self, owner, name):
        LOG.append(f"named {name}")
        self.name = name

    def __get__(self, obj, owner):
        return self if obj is None else obj.__dict__.get(self.name, self.name)


class Described:
    one = Descriptor()
    two = Descriptor()


class Parent:
    version = 2
    items: ClassVar[list] = []

    def who(self):
        return "parent"


class Child(Parent):
    version = 2

    def who(self):
        return "child of " + super().who()


class Slotted:
    __slots__ = ("__private", "a")

    def __init__(self):
        self.a = 1
        self.__private = 2

    def get(self):
        return self.a, self.__private


class SlottedChild(Slotted):
    __slots__ = ("__weakref__", "b")


class Abstract(abc.ABC):
    @abc.abstractmethod
    def do(self):
        pass


class Concrete(Abstract):
    def do(self):
        return "done"


class Virtual:
    pass


Abstract.register(Virtual)


class Stack(Generic[T]):
    def __init__(self):
        self.items: list[T] = []


class IntStack(Stack[int]):
    pass


@typing.runtime_checkable
class Sized(Protocol):
    size: int

    def grow(self) -> int: ...


class Grows:
    size = 1

    def grow(self):
        return 2


class Row(NamedTuple):
    x: int
    y: str = "y"

    def both(self):
        return self.x, self.y


Pair = collections.namedtuple("Pair", "left right", defaults=[9])


class Movie(TypedDict, total=False):
    name: str


@dataclass
class Plain:
    x: int
    y: list = field(default_factory=list)
    z: ClassVar[int] = 3
    w: dataclasses.InitVar[int] = 5

    def __post_init__(self, w):
        self.x += w


@dataclass(frozen=True, order=True, slots=True, kw_only=True)
class Strict:
    a: int
    b: str = "b"


@dataclass(eq=False, repr=False)
class Loose(Plain):
    extra: Plain | None = None


@dataclass
class Tree:
    children: list[Tree] = field(default_factory=list, metadata={"unit": "m"})


class Struct(msgspec.Struct, frozen=True, tag="s"):
    a: int
    b: list = msgspec.field(default_factory=list)
    c: str = "c"

    def double(self):
        return 2 * self.a


class Renamed(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True):
    first_name: str
    last_name: str = ""


class Sub(Struct, frozen=True):
    d: int = 4


class Money(float):
    unit = "EUR"


class Table(dict):
    def __missing__(self, key):
        return key * 2


class Problem(Exception):
    def __init__(self, code, *, hint="h"):
        super().__init__(code)
        self.code, self.hint = code, hint


@functools.total_ordering
class Ordered:
    def __init__(self, n):
        self.n = n

    def __eq__(self, other):
        return self.n == other.n

    def __lt__(self, other):
        return self.n < other.n


class Outer:
    class Inner:
        value = 1

        class Deep:
            value = 2

    @classmethod
    def make(cls):
        return cls.Inner.Deep()

    @staticmethod
    def static():
        return Outer.__name__

    @property
    def prop(self):
        return __class__.__name__

    @functools.cached_property
    def cached(self):
        return [1]

    @functools.singledispatchmethod
    def show(self, arg):
        return "any"

    @show.register
    def _(self, arg: int):
        return "int"

    @functools.lru_cache
    def remembered(self):
        return 5

    partial = functools.partialmethod(lambda self, n: n + 1, 3)


OUTER = Outer()


class Equal(type):
    def __eq__(cls, other):
        return isinstance(other, Equal)

    def __hash__(cls):
        return 1


class EqualOne(metaclass=Equal):
    n = 1


class EqualTwo(metaclass=Equal):
    n = 2


class Callable:
    def __init__(self, n):
        self.n = n

    def __call__(self, x):
        return self.n * x

    def __class_getitem__(cls, item):
        return f"{cls.__name__}[{item}]"


class WithDel:
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return f"no {name}"


Made = type("Made", (Parent,), {"x": 1, "f": lambda self: self.x})


def check_init_subclass():
    return A.tag, B.tag, LOG.count("subclass A"), LOG.count("subclass B")


def check_new_subclass_in_job():
    class C(A, tag="c"):
        pass

    return C.tag, A.tag


def check_registries():
    return (
        sorted(Plugin.registry),
        Plugin.registry["First"] is First,
        REGISTRY,
        REGISTRY["Registered"] is Registered,
    )


def check_metaclass():
    return (
        len(Measured),
        Measured.size,
        LOG.count("meta Measured"),
        type(Measured) is Meta,
        Only() is Only(),
    )


def check_set_name():
    return Described.one.name, Described().two, LOG.count("named one")


def check_override_by_equal_value():
    return "version" in vars(Child), Child.version, Child().who()


def check_change_of_parent():
    before = Parent.version
    Parent.version = 50
    try:
        return Child.version
    finally:
        Parent.version = before


def check_slots():
    return Slotted().get(), hasattr(Slotted(), "__dict__"), Slotted.__slots__, SlottedChild.__slots__


def check_slots_are_made():
    child = SlottedChild()
    child.b = 3
    return child.b, child.get()


def check_abstract():
    try:
        Abstract()
    except TypeError:
        return (
            Concrete().do(),
            issubclass(Virtual, Abstract),
            isinstance(Virtual(), Abstract),
            isinstance(3, Abstract),
        )


def check_generic():
    return Stack[int]().items, IntStack.__orig_bases__, typing.get_args(Stack[str]), Stack.__parameters__


def check_protocol():
    return isinstance(Grows(), Sized), isinstance(3, Sized)


def check_named_tuples():
    return (
        Row(1),
        Row(1).both(),
        Row._fields,
        Row(1)._replace(y="z"),
        Pair(1),
        Pair._field_defaults,
        Row(2)._asdict(),
    )


def check_typed_dict():
    return Movie(name="x"), Movie.__total__, Movie.__optional_keys__, typing.get_type_hints(Movie)


def check_dataclasses():
    return (
        Plain(1),
        Plain(1, w=0) == Plain(1, w=0),
        dataclasses.asdict(Plain(2)),
        dataclasses.replace(Strict(a=1), b="q"),
    )


def check_dataclass_fields():
    return [
        (f.name, f.default is dataclasses.MISSING, f.default_factory is dataclasses.MISSING, f.kw_only)
        for cls in (Plain, Strict, Loose, Tree) for f in dataclasses.fields(cls)
    ]  # fmt: skip


def check_dataclass_made_in_job():
    @dataclass
    class Local(Plain):
        q: int = LIMIT

    return Local(1).q, [f.name for f in dataclasses.fields(Local)]


LIMIT = 44


def check_frozen():
    try:
        Strict(a=1).a = 2
    except dataclasses.FrozenInstanceError:
        return Strict(a=1) < Strict(a=2), hash(Strict(a=1)) == hash(Strict(a=1))


def check_type_hints():
    return [
        sorted((k, str(v)) for k, v in typing.get_type_hints(cls).items())
        for cls in (Plain, Tree, Loose, Strict, Row)
    ]


def check_structs():
    data = msgspec.json.encode([Struct(1), Sub(2), Renamed(first_name="x")])
    return (
        data,
        Struct(1).double(),
        msgspec.json.decode(b'{"type":"s","a":5}', type=Struct),
        Sub(1).double(),
    )


def check_struct_is_frozen():
    try:
        Struct(1).a = 3
    except AttributeError:
        return Struct(1) == Struct(1), Struct.__struct_fields__, Renamed.__struct_encode_fields__


def check_convert():
    return msgspec.convert({"children": []}, Tree), msgspec.convert([1, "b"], Row)


def check_builtin_bases():
    return Money(2.5) + 1, Money.unit, Table()["ab"], isinstance(Table(), dict)


def check_exceptions():
    try:
        raise Problem(5, hint="z")
    except Problem as error:
        return error.code, error.hint, str(error)


def check_total_ordering():
    return Ordered(1) <= Ordered(2), Ordered(3) > Ordered(2)


def check_nested():
    return Outer.Inner.Deep.value, type(Outer.make()).__qualname__, Outer.static(), Outer().prop


def check_members_of_functools():
    outer = Outer()
    return outer.cached, outer.show(1), outer.show("x"), outer.remembered(), outer.partial(), OUTER.cached


def check_equal_metaclass():
    return EqualOne.n, EqualTwo.n, {EqualOne: 1}[EqualTwo]


def check_callable_objects():
    return Callable(3)(4), Callable["x"], WithDel().anything


def check_made_by_type():
    return Made().f(), Made.__name__, Made().who()


def check_pickled_in_the_job():
    values = [
        Row(1),
        Plain(1),
        Strict(a=2),
        Money(1),
        Table(a=1),
        Outer.make(),
        Struct(3),
        Pair(1, 2),
        Tree([Tree()]),
    ]
    return [
        pickle.loads(pickle.dumps(value)) == value
        for value in values
        if not isinstance(value, Outer.Inner.Deep)
    ]


def check_names():
    return [
        (cls.__module__, cls.__qualname__, cls.__doc__, [base.__name__ for base in cls.__mro__])
        for cls in (A, Measured, Slotted, Concrete, IntStack, Row, Strict, Struct, Outer.Inner.Deep)
    ]


def check_dir():
    left_out = {"__slotnames__", "__msgspec_cache__"}
    return [
        sorted(vars(cls).keys() - left_out)
        for cls in (A, Child, Measured, Described, Outer, Concrete, Plain, Strict, Row, Tree)
    ]


def call(check):
    return check()


def by_name(name):
    return globals()[name]()


def identity(value, cls):
    return type(value) is cls, value


if __name__ == "__main__":
    import dispy

    harness.main(globals(), call, by_name)
    values: list[Any] = [
        A(), Measured(), Only(), Described(), Child(), SlottedChild(), Concrete(), Stack(), IntStack(), Row(1), Pair(1),
        Plain(1), Strict(a=1), Loose(1), Tree([Tree()]), Struct(1), Renamed(first_name="f"), Sub(3), Money(1), Table(a=1),
        Problem(1), Ordered(1), Outer(), Outer.Inner.Deep(), EqualOne(), Callable(1), Made(), Registered(), First(),
    ]  # fmt: skip
    with dispy.JobCluster(identity) as cluster:
        for value in values:
            job = cluster.submit(value, type(value))
            found = job()
            if found is None or found[0] is not True or type(found[1]) is not type(value):
                print("DIFFERS", value, found, (job.exception or "").splitlines()[-1:])
    if LOG.count("subclass A") != 1 or len(Plugin.registry) != 2:
        print("DIFFERS here", LOG, Plugin.registry)
