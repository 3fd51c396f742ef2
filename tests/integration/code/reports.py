"""Programs after reports about other systems: what they define, extend and patch arrives."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import time
from dataclasses import dataclass
from sys import version_info
from typing import ClassVar, TypeVar

import pydantic
from kept import base

import harness

plugin = importlib.import_module("kept.plugin")


class Mine(base.Base):
    pass


@base.show.register
def _(x: Mine):
    return "mine"


base.Shape.register(Mine)
base.Point.who = lambda self: "patched by the script"
base.Point.size = property(lambda self: 2)
base.Point.made = staticmethod(lambda: "patched")
base.Point.added = lambda self: "added"
base.Base.handler = staticmethod(lambda: "handled")
base.Base.Inner.url = "there"
base.load()
base.TABLE[:] = 7
base.MODEL.w[:] = 5
base.MODEL.n = 2
base.MODEL.hook = lambda: "hooked"
base.od["b"] = 2
base.counts["x"] += 1
base.cfg["level"] = 9
base.names.append("n")
base.original = plugin.replaced


@dataclass(frozen=True)
class Key:
    x: int

    def price(self):
        return PRICES.get(self)


PRICES = {Key(1): 10, Key(2): 20}


@dataclass(frozen=True, slots=True)
class Place:
    x: int

    def relative(self):
        return self.x - ORIGIN.x


ORIGIN = Place(5)


class Flyweight:
    pool: ClassVar[dict] = {}

    def __new__(cls, n):
        if n not in cls.pool:
            cls.pool[n] = super().__new__(cls)
        return cls.pool[n]

    def __init__(self, n):
        self.n = n


Flyweight.pool[1] = Flyweight(1)


def adder():
    total = 0

    def add(x):
        nonlocal total
        total += x

    def get():
        return total

    return add, get


add, get = adder()


def counted(function):
    calls = 0

    @functools.wraps(function)
    def inner(*args):
        nonlocal calls
        calls += 1
        return function(*args)

    inner.calls = lambda: calls
    return inner


@counted
def counted_one(x):
    return x


def even(n):
    return n % 2 == 0


REGISTRY = {even: "even", Key: "key"}
T = TypeVar("T")


class Stack:
    item = T


class Proxy:
    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)


PROXY = Proxy("abc")


class Named:
    def __reduce__(self):
        return "NAMED"


NAMED = Named()


@pydantic.validate_call
def validated(a: int, b: int = 1):
    return a + b


class User(pydantic.BaseModel):
    name: str
    friends: list[User] = []

    @pydantic.field_validator("name")
    @classmethod
    def short(cls, value):
        return value.strip()

    @pydantic.computed_field
    @property
    def count(self) -> int:
        return len(self.friends)


def check_modules_of_mine():
    return (
        base.use(),
        base.show(Mine()),
        base.call("plugged", 3),
        isinstance(Mine(), base.Shape),
        base.Point().added(),
    )


def check_keys_of_their_own_class():
    return Key(1).price(), Key(2).price(), Key(3).price(), Place(7).relative()


def check_flyweight():
    return Flyweight(1) is Flyweight.pool[1], Flyweight(1).n


def check_closures_share():
    before = get()
    for n in range(4):
        add(n)
    return get() - before


def check_counting_decorator():
    before = counted_one.calls()
    counted_one(1)
    return counted_one.calls() - before, counted_one(5)


def check_functions_as_keys():
    return REGISTRY[even], REGISTRY[Key], REGISTRY.get(check_proxy)


def check_proxy():
    return PROXY.upper(), Proxy([1]).copy(), base.proxy.upper()


def check_names():
    return NAMED is NAMED, version_info >= (3, 11), Stack.item is T


def check_annotations_in_the_job():
    @dataclass
    class A:
        n: ClassVar[int] = 3
        key: Key = None
        x: int = 1

    return A(None, 5).x, [f.name for f in dataclasses.fields(A)]


def check_pydantic():
    user = User(name=" a ", friends=[User(name="b")])
    return (
        user.model_dump(),
        User.model_json_schema()["title"],
        validated("3"),
        User.model_validate_json('{"name":"z"}'),
    )


def check_validation_error():
    try:
        User(name=[1])
    except pydantic.ValidationError as error:
        return error.error_count()


def check_decorated_classes():
    return base.Deco.extra, isinstance(base.Deco(), base.Deco), base.Pair(1, 2).x


def call(check):
    return check()


def by_name(name):
    return globals()[name]()


def is_one(obj, cls):
    return isinstance(obj, cls)


def find(function):
    return REGISTRY.get(function), function is even, function


def fail():
    raise Problem("a", 3)


class Problem(Exception):
    def __init__(self, path, code):
        super().__init__(f"{path}: {code}")
        self.path, self.code = path, code


def timed(task):
    return task.run()


LOOKUP = {i: str(i) for i in range(200_000)}


class Task:
    def __init__(self, i):
        self.i = i

    def run(self):
        return LOOKUP[self.i]


def with_task():
    return Task(1).run()


def many(objects):
    return len(objects)


class Leaf:
    pass


if __name__ == "__main__":
    import dispy

    harness.main(globals(), call, by_name)
    with dispy.JobCluster(is_one) as cluster:
        for obj, cls in (
            (base.Deco(), base.Deco),
            (base.Pair(1, 2), base.Pair),
            (Key(1), Key),
            (User(name="a"), User),
        ):
            job = cluster.submit(obj, cls)
            harness.expect(f"isinstance {cls}", job() or job.exception, True)
    with dispy.JobCluster(find) as cluster:
        harness.expect("a function as a key", cluster.submit(even)(), ("even", True, even))
    with dispy.JobCluster(lambda: T) as cluster:
        harness.expect("a type variable comes back", cluster.submit()() is T, True)
    with dispy.JobCluster(fail) as cluster:
        job = cluster.submit()
        job()
        harness.expect(
            "an exception with its own arguments", (type(job.error), job.error.code), (Problem, 3)
        )
    with dispy.JobCluster(timed, depends=[with_task]) as cluster:
        cluster.submit(Task(0))()
        began = time.perf_counter()
        jobs = [cluster.submit(Task(i)) for i in range(20)]
        took = (time.perf_counter() - began) / 20
        harness.expect("what is large is not sent again", took < 0.05, True)
        harness.expect("tasks", [job() for job in jobs], [str(i) for i in range(20)])
    with dispy.JobCluster(many) as cluster:
        began = time.perf_counter()
        harness.expect(
            "objects without attributes", cluster.submit([Leaf() for _ in range(20_000)])(), 20_000
        )
        harness.expect("in time", time.perf_counter() - began < 10, True)
