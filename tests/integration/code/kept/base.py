"""What other modules, and the script, extend and patch."""

import abc
import collections
import enum
import functools

import numpy as np

registry = {}
DATA = None
TABLE = np.zeros(3)
od = collections.OrderedDict(a=1)
counts = collections.Counter()
known = []


def register(function):
    registry[function.__name__] = function
    return function


def call(name, *args):
    return registry[name](*args)


@functools.singledispatch
def show(x):
    return "default"


class Shape(abc.ABC):
    pass


class Point:
    def __init__(self, x=1):
        self.x = x

    def who(self):
        return "original"

    @property
    def size(self):
        return 1

    @staticmethod
    def made():
        return "original"


class Base:
    subclasses = {}
    handler = None

    class Inner:
        url = "here"

    def __init_subclass__(cls, **keywords):
        Base.subclasses[cls.__name__] = cls


class Model:
    def __init__(self):
        self.w = np.ones(2)
        self.n = 1
        self.hook = None


class Cfg(dict):
    pass


class Names(list):
    pass


class Work(enum.Enum):
    ADD = functools.partial(max, 1)
    NAN = float("nan")


class Once:
    def __getattr__(self, name):
        return getattr(self.target, name)


def decorated(cls):
    class Wrapped(cls):
        extra = 1

    return Wrapped


@decorated
class Deco:
    pass


Pair = collections.namedtuple("OtherName", "x y")
MODEL = Model()
cfg = Cfg(level=1)
names = Names()
proxy = Once()
proxy.__dict__["target"] = "abc"


def load():
    global DATA
    DATA = np.arange(3)


def original():
    return "original"


def use():
    return (
        sorted(registry), show(Point()), isinstance(Point(), Shape), Point().who(), Point().size, Point.made(),
        sorted(Base.subclasses), Base.handler and Base.handler(), Base.Inner.url, str(DATA), str(TABLE), str(MODEL.w),
        MODEL.n, MODEL.hook and MODEL.hook(), dict(od), dict(counts), dict(cfg), list(names), original(), len(known),
        [w.name for w in Work],
    )  # fmt: skip
