"""Functions in the forms in which libraries and decorators leave them."""

import asyncio
import contextlib
import dataclasses
import functools
import inspect
import operator
import pickle
import sys
import traceback
import typing
import warnings
from collections.abc import Callable
from typing import NewType, ParamSpec, TypeVar

import harness

P = ParamSpec("P")
R = TypeVar("R")
UserId = NewType("UserId", int)
Nested = NewType("Nested", UserId)
DEFAULT = 5
TABLE = {"a": [1]}
counter = 0


@functools.singledispatch
def show(x):
    return "any"


@show.register
def _(x: int):
    return "int"


@show.register(list)
def show_list(x):
    return "list of " + ", ".join(map(show, x))


class Visitor:
    @functools.singledispatchmethod
    def visit(self, node):
        return "any"

    @visit.register
    def _(self, node: str):
        return "str"


@contextlib.contextmanager
def entered(name="x"):
    LOG.append(f"in {name}")
    yield name
    LOG.append(f"out {name}")


LOG = []


@entered("decorating")
def decorated_by_manager():
    return LOG[-1]


@contextlib.asynccontextmanager
async def entered_async():
    yield 7


@functools.lru_cache(maxsize=3)
def cached(x):
    return x * DEFAULT


@functools.cache
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def wrapping(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return inner


def plainly(function):
    def inner(*args):
        return "plain", function(*args)

    return inner


def with_arguments(n, *, m=1):
    def decorate(function):
        @functools.wraps(function)
        def inner(*args):
            inner.calls += 1
            return function(*args) * n * m

        inner.calls = 0
        return inner

    return decorate


@wrapping
def wrapped(x: int) -> int:
    "Wrapped."
    return x + DEFAULT


@plainly
def bare(x):
    return x


@with_arguments(2, m=3)
@wrapping
def both(x):
    return x


class Decorator:
    def __init__(self, function):
        functools.update_wrapper(self, function)
        self.function = function
        self.count = 0

    def __call__(self, *args):
        self.count += 1
        return self.function(*args), self.count


@Decorator
def by_object(x):
    return x + 1


def recursive(n):
    return 1 if n == 0 else n * recursive(n - 1)


def even(n):
    return True if n == 0 else odd(n - 1)


def odd(n):
    return False if n == 0 else even(n - 1)


def defaults(a, b=DEFAULT, *args, c=TABLE, d=lambda: DEFAULT, **kwargs):
    return a, b, args, c, d(), kwargs


def generator(n):
    yield from range(n)


async def coroutine(x):
    await asyncio.sleep(0)
    return x


def closure():
    n = 0

    def increase():
        nonlocal n
        n += 1
        return n

    return increase


increase = closure()
late = [lambda i=i: i for i in range(3)]
not_late = [lambda: i for i in range(3)]
add_three = functools.partial(operator.add, 3)
partial_of_own = functools.partial(defaults, 1, c=2)


def annotated(user: UserId, other: "Nested", f: Callable[P, R]) -> "dict[UserId, list[Nested]]":
    return user


def with_type_variable(x: R) -> R:
    return x


def counting():
    global counter
    counter += 1
    return counter


def local_class():
    @dataclasses.dataclass
    class Row:
        n: int = DEFAULT
        table: dict = dataclasses.field(default_factory=lambda: dict(TABLE))

    class Record(typing.NamedTuple):
        a: int = DEFAULT

    class WithConstant:
        first, second = DEFAULT, TABLE["a"]
        third = [DEFAULT for _ in range(2)]
        kind: "UserId" = DEFAULT
        from_module = operator.add(DEFAULT, 1)

        @wrapping
        def method(self):
            return DEFAULT

        class Inner:
            deep = DEFAULT

    return (
        Row(),
        Record(),
        WithConstant.first,
        WithConstant.third,
        WithConstant().method(),
        WithConstant.Inner.deep,
    )


def check_singledispatch():
    return show(1.5), show(1), show([1, "a"]), int in show.registry, show.__name__, show_list([])


def check_singledispatch_is_extended_in_job():
    @show.register
    def _(x: complex):
        return "complex"

    return show(1j)


def check_singledispatchmethod():
    return Visitor().visit(1), Visitor().visit("a")


def check_context_managers():
    with entered("block") as name:
        return name, LOG[-1]


def check_context_manager_decorates():
    return decorated_by_manager(), decorated_by_manager()


def check_async_context_manager():
    async def main():
        async with entered_async() as value:
            return value

    return asyncio.run(main())


def check_caches():
    cached.cache_clear()
    return (
        cached(2),
        cached(2),
        cached.cache_info().hits,
        cached.cache_parameters(),
        fibonacci(30),
        cached.__name__,
    )


def check_decorators():
    return (
        wrapped(1),
        wrapped.__doc__,
        wrapped.__name__,
        bare(1),
        both(2),
        by_object(1)[0],
        by_object.__name__,
    )


def check_wrapped_attribute():
    return wrapped.__wrapped__(2), both.__wrapped__(2), inspect.signature(wrapped), both.calls >= 0


def check_recursion():
    return recursive(5), even(10), odd(7)


def check_defaults():
    return defaults(1), defaults(1, 2, 3, c=4, e=5), defaults.__kwdefaults__["c"] is TABLE


def check_generators_and_coroutines():
    return list(generator(3)), asyncio.run(coroutine(4))


def check_closures():
    return [f() for f in late], [f() for f in not_late], add_three(4), partial_of_own(2)


def check_new_types():
    return UserId(3), UserId.__name__, Nested.__supertype__ is UserId, annotated(UserId(1), None, None)


def check_type_hints():
    return [
        sorted(map(str, typing.get_type_hints(f).items())) for f in (annotated, with_type_variable, wrapped)
    ]


def check_type_variables():
    return (
        with_type_variable.__annotations__["x"] is R,
        P.__name__,
        R.__name__,
        typing.get_type_hints(annotated)["f"],
    )


def check_class_bodies():
    return local_class()


def check_global_statement():
    global counter
    counter = 10
    return counting(), counting()


def check_metadata():
    return [
        (
            f.__module__,
            f.__qualname__,
            f.__doc__,
            f.__defaults__ and len(f.__defaults__),
            f.__code__.co_firstlineno,
        )
        for f in (recursive, wrapped, defaults, local_class, closure)
    ]


def check_traceback():
    try:
        recursive("x")
    except TypeError as error:
        frames = traceback.extract_tb(error.__traceback__)
        return [(frame.filename, frame.lineno, frame.line, frame.name) for frame in frames[1:]]


def check_get_source():
    return (
        inspect.getsource(recursive),
        inspect.getsource(Visitor),
        inspect.getsourcefile(even),
        inspect.getsource(late[0]),
    )


def check_warnings():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn()
    return [(w.filename, w.lineno, str(w.message)) for w in caught]


def warn():
    warnings.warn("careful", stacklevel=1)


def check_pickled_in_the_job():
    items = [recursive, even, wrapped, Visitor, cached, UserId, both]
    return [pickle.loads(pickle.dumps(item)) is item for item in items]


def check_module():
    module = sys.modules["__main__"]
    return (
        module.recursive is recursive,
        module.__name__,
        recursive.__globals__ is vars(module),
        module.__doc__,
    )


def check_eval():
    assert recursive(1) == DEFAULT - 4  # what stands in texts alone is not seen
    return eval("recursive(3) + DEFAULT"), [x for x in (1, 2) if x < DEFAULT], eval("lambda: DEFAULT")()


def check_profile():
    import cProfile
    import pstats

    with cProfile.Profile() as profile:
        recursive(3)
    return sorted(key for key in pstats.Stats(profile).stats if "recursive" in key[2])


def check_by_processes():
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    found = []
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        with context.Pool(1) as pool:
            found.append(pool.map(recursive, [3, 4]))
        with ProcessPoolExecutor(1, mp_context=context) as executor:
            found.append(list(executor.map(wrapped, [3, 4])))
    return found


def call(check):
    return check()


def by_name(name):
    return globals()[name]()


if __name__ == "__main__":
    harness.main(globals(), call, by_name)
