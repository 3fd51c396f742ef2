"""Enumerations whose members are more than a value."""

import enum
import pickle
from dataclasses import dataclass
from datetime import date
from enum import auto

import harness


class Planet(enum.Enum):
    EARTH = (5.976e24, 6.37814e6)
    MARS = (6.421e23, 3.3972e6)

    def __init__(self, mass, radius):
        self.mass, self.radius = mass, radius

    @property
    def gravity(self):
        return round(self.mass / self.radius**2 * 6.67e-11, 3)


class Coordinate(bytes, enum.Enum):
    def __new__(cls, value, label, unit):
        obj = bytes.__new__(cls, [value])
        obj._value_ = value
        obj.label, obj.unit = label, unit
        return obj

    PX = (0, "P.X", "km")
    PY = (1, "P.Y", "km")


class Ordered(enum.Enum):
    def __new__(cls, label):
        obj = object.__new__(cls)
        obj._value_ = len(cls.__members__) + 1
        obj.label = label
        return obj

    LOW = "low"
    HIGH = "high"

    def __lt__(self, other):
        return self._value_ < other._value_


class Status(enum.Enum):
    OK = 1
    FINE = 1
    BAD = 2


class Colour(enum.Flag):
    R = auto()
    G = auto()
    B = auto()
    WHITE = R | G | B


class Permission(enum.IntFlag):
    R = 4
    W = 2
    X = 1
    RW = R | W
    RWX = 7


class Mask(enum.Flag):
    BOTH = 3


class Keeping(enum.IntFlag, boundary=enum.KEEP):
    A = 1


class Level(enum.IntEnum):
    LOW = 10
    HIGH = 20


class Word(enum.StrEnum):
    ONE = auto()
    TWO = "zwei"


class Generated(enum.Enum):
    @staticmethod
    def _generate_next_value_(name, start, count, last_values):
        return name.lower() * 2

    A = auto()
    B = auto()


class Missing(enum.Enum):
    A = 1

    @classmethod
    def _missing_(cls, value):
        return cls.A if value == "one" else None


class Functions(enum.Enum):
    @enum.member
    def run(x):
        return x + 1

    TEN = enum.member(10)
    helper = enum.nonmember(5)

    def method(self):
        return self.name


class Dated(date, enum.Enum):
    NEW = 2024, 1, 1
    OLD = 1999, 12, 31


@dataclass
class Point:
    x: int = 0


class Data(Point, enum.Enum):
    A = 1
    B = 2


class Base(enum.Enum):
    def describe(self):
        return f"{type(self).__name__} {self.value}"


class Derived(Base):
    ONE = [1]
    TWO = {"a": 2}


class Ignored(enum.Enum):
    _ignore_ = ["n"]
    for n in range(2):
        locals()[f"N{n}"] = n


@enum.unique
class Unique(enum.Enum):
    A = 1
    B = 2


Dynamic = enum.Enum("Dynamic", ["X", "Y"])
ByDict = enum.Enum("ByDict", {"P": 1, "Q": "q"})
ALL = [
    Planet, Coordinate, Ordered, Status, Colour, Permission, Mask, Keeping, Level, Word, Generated, Missing,
    Functions, Dated, Data, Derived, Ignored, Unique, Dynamic, ByDict,
]  # fmt: skip


def check_attributes():
    return Planet.EARTH.mass, Planet.MARS.gravity, Planet.EARTH.value


def check_new():
    return (
        Coordinate.PX.name,
        Coordinate.PY.label,
        Coordinate(1).unit,
        Ordered.LOW < Ordered.HIGH,
        Ordered(2).label,
    )


def check_aliases():
    return Status.FINE is Status.OK, list(Status.__members__), Status["FINE"].name, len(Status)


def check_flags():
    return Colour.WHITE, Colour.R | Colour.G, Colour(7) is Colour.WHITE, list(Colour.WHITE), ~Colour.R


def check_int_flags():
    return (
        Permission.RW.name,
        Permission(6) is Permission.RW,
        Permission.R | 1,
        Permission.RWX & ~Permission.W,
    )


def check_flag_of_bits_only():
    return Mask.BOTH, Mask(3) is Mask.BOTH, Keeping(9), Keeping.A | 8


def check_mixins():
    return Level.HIGH > 15, Word.ONE, Word.TWO.upper(), Level(10).name, f"{Word.TWO}"


def check_generated():
    return [member.value for member in Generated]


def check_missing():
    return Missing("one") is Missing.A


def check_member_and_nonmember():
    return (
        Functions.TEN.value,
        Functions.helper,
        Functions.run.value(1),
        Functions.TEN.method(),
        len(Functions),
    )


def check_dates():
    return Dated.NEW.year, Dated.OLD < Dated.NEW, Dated(date(1999, 12, 31)) if False else Dated.OLD.name


def check_data():
    return Data.A.x, Data.B.name


def check_derived():
    return Derived.ONE.describe(), Derived.TWO.value["a"]


def check_unusual():
    return Ignored.N1.value, Unique.B.name, Dynamic.Y, ByDict.Q.value, Unique["A"]


def check_order_and_names():
    return [
        [(member.name, repr(member._value_)[:20] if cls is not Functions else "") for member in cls]
        for cls in ALL
    ]


def check_members():
    return [list(cls.__members__) for cls in ALL]


def check_pickled_in_the_job():
    return [
        pickle.loads(pickle.dumps(member)) is member
        for cls in (Planet, Status, Level, Word)
        for member in cls
    ]


def check_as_keys_and_in_containers():
    table = {Planet.EARTH: 1, Status.OK: 2}
    return table[Planet((5.976e24, 6.37814e6))], Status.BAD in {Status.BAD}, isinstance(Level.LOW, int)


def check_match():
    match Status.FINE:
        case Status.OK:
            return "ok"


def call(check):
    return check()


def by_name(name):
    return globals()[name]()


def same(member, name, cls):
    return member is getattr(cls, name), member


if __name__ == "__main__":
    import dispy

    harness.main(globals(), call, by_name)
    with dispy.JobCluster(same) as cluster:
        for cls in ALL:
            for name, member in list(cls.__members__.items()):
                for value in (member, [member]):
                    job = cluster.submit(member, name, cls)
                    found = job()
                    if found is None or found[0] is not True or found[1] is not member:
                        print(f"DIFFERS {cls.__name__}.{name}: {found} {job.exception}")
        for flag in (Colour.R | Colour.B, Permission.R | Permission.X, Keeping(9)):
            job = (
                cluster.submit(flag, "R", type(flag))
                if flag.__class__ is not Keeping
                else cluster.submit(flag, "A", Keeping)
            )
            if job() is None or job()[1] is not flag:
                print("DIFFERS", flag, job.exception)
