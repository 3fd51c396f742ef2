"""Random generators that many processes have a copy of: found, named, and given a stream of its own in each process.

A forked process has the generators of its parent in the same state, and so has each process that unpickles the same
bytes: all would draw the same numbers. ``found`` looks through all objects that the garbage collector knows, so that
it finds a generator wherever it is held. ``reseed`` gives each generator a new state in place, made of its old state
and a key. Equal generators stay equal in one process, and the same seed and key give the same numbers again.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from dispy.payload.digest import blake2b
from dispy.payload.modules.origins import MAINS, Origin, origin_of

logger = logging.getLogger("dispy.payload")

NAMED_MAX = 5
"""Largest number of generators whose places a message names. It ends with the number of the others ("3 more")."""

_CHAIN_MAX = 8
"""Largest number of containers between a generator and the global, variable or attribute that names it.

A generator further away is named by its library at most.
"""

_HELD_MAX = 100_000
"""Largest number of objects that are looked at in one value: this takes 20 ms.

Generators beyond it are not found: each copy of the value draws the same numbers.
"""

_PLAIN = frozenset((int, float, complex, bool, str, bytes, types.NoneType))
"""Classes of objects that hold no others, and that large values consist of: they are skipped."""

_KINDS = (("numpy.random", "BitGenerator"), ("numpy.random", "RandomState"), ("torch", "Generator"))
"""Module and name of the classes of generators besides ``random.Random``. All generators of numpy draw from a
``BitGenerator``."""


def _kinds() -> tuple[type, ...]:
    """Returns the classes of generators of Python, and of numpy and torch if these are loaded."""
    kinds = [getattr(sys.modules.get(module), name, None) for module, name in _KINDS]
    return (random.Random, *[kind for kind in kinds if isinstance(kind, type)])


def _of_kind(objects: list[Any]) -> list[Any]:
    """Returns the generators among some objects, in the order of the objects.

    Those that draw from the system are left out: they have no state to set.
    """
    kinds = _kinds()
    wanted = {
        kind
        for kind in set(map(type, objects))  # at the speed of C: of many objects few are of another class
        if issubclass(kind, kinds) and not issubclass(kind, random.SystemRandom)
    }
    return [item for item in objects if type(item) in wanted] if wanted else []


def found() -> list[Any]:
    """Returns all generators of this process that the garbage collector sees, each once.

    It does not see those of frozen objects (``gc.freeze``). The generators that ``random``, ``numpy.random`` and
    ``torch`` share among all their users are left out: ``reseed_shared`` sets those.
    """
    shared = {id(getattr(random, "_inst", None))}
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        usual = numpy_random.mtrand._rand
        shared |= {id(usual), id(usual._bit_generator)}
    torch = sys.modules.get("torch")
    if torch is not None:
        shared.add(id(getattr(torch, "default_generator", None)))
    objects = gc.get_objects()
    if torch is not None:
        objects += gc.get_referents(*objects)  # the collector knows what refers to torch's alone
    unlike = {id(item): item for item in _of_kind(objects) if id(item) not in shared}
    return list(unlike.values())


def held_by(value: Any, module: str = "") -> list[Any]:
    """Returns the generators that a value holds: those that would be pickled with it, each once.

    At most about ``_HELD_MAX`` objects are looked at; generators beyond these are missed.

    Args:
        value: Anything.
        module: Name of a module whose functions and classes are looked into, too; empty for none.
    """
    passed = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.FrameType)
    seen = {id(value)}
    frontier = [value]
    generators: list[Any] = []
    while frontier and len(seen) < _HELD_MAX:
        generators += _of_kind(frontier)
        # Dictionaries and tuples that hold nothing but arrays are not tracked either.
        known = [item for item in frontier if gc.is_tracked(item) or type(item) in (dict, tuple)]
        reached = gc.get_referents(*known)
        reached += _in_arrays(frontier)
        frontier = []
        for item in [item for item in reached if type(item) not in _PLAIN]:
            if id(item) in seen:
                continue
            if isinstance(item, passed) and not (module and getattr(item, "__module__", None) == module):
                continue
            seen.add(id(item))
            frontier.append(item)
    return generators


def _in_arrays(objects: list[Any]) -> list[Any]:
    """Returns the objects that arrays of numpy among some objects hold: the collector does not know them.

    Of each array at most ``_HELD_MAX`` are returned.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return []
    kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, numpy.ndarray)}
    held: list[Any] = []
    for item in objects if kinds else ():
        if type(item) in kinds and item.dtype.hasobject:
            held += item.ravel(order="K")[:_HELD_MAX].tolist()
    return held


# State of generators.


class Seeding(NamedTuple):
    """How the random numbers of a cluster's jobs come about.

    Attributes:
        seed: Seed of the cluster; the seeds of its jobs and items are made of it (``seed_of``).
        first: Number of the cluster's first job, which is subtracted from a job's number: 1. Journals of dispy before
            5.0 was released may have others, as programs numbered the jobs of all clusters together.
        is_on: True if generators that jobs have copies of are given streams of their own; False: dispy leaves them
            as they are.
    """

    seed: int
    first: int
    is_on: bool


UNSEEDED = Seeding(0, 0, False)
"""Seeding of a computation whose generators dispy leaves as they are."""


def new_seed() -> int:
    """Returns a random seed for a cluster: 48 bits, short enough to be copied from a log."""
    return int.from_bytes(os.urandom(6))


def seed_of(seed: int, index: int, group: int = 0) -> int:
    """Returns the seed of a job or item: 32 bits, as every library takes; no two of a group have the same one.

    Args:
        seed: Seed of the cluster.
        index: Number of the job less that of the cluster's first (``Seeding.first``), or of the item in its map.
        group: 0 for jobs; the number of the map for items; -1 for chunks of maps: each group is mixed differently.
    """
    base = blake2b(b"%d %d" % (seed, group), digest_size=4, person=b"dispy job seed").digest()
    mixed = (int.from_bytes(base) + index) & 0xFFFFFFFF
    # The last steps of MurmurHash3: each number of 32 bits becomes another one, and neighbours look unlike.
    mixed = ((mixed ^ mixed >> 16) * 0x85EBCA6B) & 0xFFFFFFFF
    mixed = ((mixed ^ mixed >> 13) * 0xC2B2AE35) & 0xFFFFFFFF
    return mixed ^ mixed >> 16


def reseed(generators: Iterable[Any], key: bytes) -> None:
    """Give generators other streams, in place, each by the means of its library.

    Args:
        generators: Generators of ``found`` or ``held_by``.
        key: Any bytes, other ones for each process or job that is to have streams of its own. The new state is made
            of the key and the old state.
    """
    for generator in generators:
        if isinstance(generator, random.Random):
            generator.seed(_number(_state_of_python(generator), key))
        elif hasattr(generator, "manual_seed"):  # torch
            generator.manual_seed(_number(generator.get_state().tolist(), key) >> 193)  # it takes 63 bits
        elif hasattr(generator, "set_state"):  # numpy's older class, whose bit generator is found, too
            state = generator.get_state(legacy=False)
            generator.set_state({**state, "has_gauss": 0, "gauss": 0.0})
        else:
            # The seed sequence as well, if there is one: ``spawn`` derives new generators from it.
            seeds = sys.modules["numpy.random"].SeedSequence(_number(generator.state, key))
            generator.__setstate__(type(generator)(seeds).__reduce__()[2])


def _number(state: Any, key: bytes) -> int:
    """Returns a seed of 256 bits for ``reseed``, made of a generator's state, which may hold arrays, and a key."""
    import hashlib  # not above: it loads OpenSSL, which each host would do
    import json

    text = json.dumps(state, sort_keys=True, default=lambda value: value.tolist())
    return int.from_bytes(hashlib.sha256(key + text.encode()).digest())


def _state_of_python(generator: random.Random) -> Any:
    """Returns the state of a ``random.Random``, for ``_number``; None if a class of the user's has no such state."""
    import json

    try:
        state = generator.getstate()
        json.dumps(state)
    except Exception:  # a class of the user's, without a state, or with one of its own
        return None
    return state


def reseed_shared(seed: int | None = None) -> None:
    """Seed the generators that ``random``, ``numpy.random`` and ``torch`` share among all their users.

    Libraries that are not loaded are left out.

    Args:
        seed: Seed of 32 bits; None: a random one of the system for each library.
    """
    random.seed(seed)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(seed)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "manual_seed"):
        torch.manual_seed(random.SystemRandom().getrandbits(63) if seed is None else seed)


# Objects that each job, or each process, has a copy of.


class Shared:
    """Stand-in for a value that unpickles to the value, with its generators reseeded.

    Without it, all places where the value arrives would draw the same numbers from their copies.
    """

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Callable[[Any], Any], tuple[Any]]:
        return arrive, (self._value,)


def shared(value: Any, who: str) -> Any:
    """Returns a value that many get a copy of: as a ``Shared``, with a warning in the log, if it holds generators.

    Args:
        value: Anything.
        who: Those who get a copy, in words, for the log, such as "workers".
    """
    generators = held_by(value)
    if not generators:
        return value
    logger.warning(
        "%s have a copy of random generators each, with a stream of its own: %s",
        who,
        describe(generators, value) or f"in a {type(value).__name__}",
    )
    return Shared(value)


def arrive(value: Any) -> Any:
    """Returns the value of a ``Shared``, with its generators reseeded in place; pickles call this."""
    reseed(held_by(value), key_here())
    return value


def _no_key() -> bytes:
    """Returns an empty key, the default of ``key_here``: outside of workers all processes reseed generators alike."""
    return b""


key_here: Callable[[], bytes] = _no_key
"""Returns a key for ``reseed`` of generators that arrive in this process.

``worker.job_api.random_numbers`` sets a function that returns another key at each call.
"""


def _no_matter(values: list[Any]) -> None:
    """Do nothing, the default of ``globals_arrived``: outside of workers generators in globals keep their state."""


globals_arrived: Callable[[list[Any]], None] = _no_matter
"""Called with the values of globals that arrive with a job, and reseeds the generators among them.

``worker.job_api.random_numbers`` sets it; until then it does nothing.
"""


# Names of generators.


def describe(generators: list[Any], within: Any = None) -> str:
    """Returns words that say where the user's code holds generators, for messages; empty if none is the user's.

    Args:
        generators: Generators of ``found`` or ``held_by``.
        within: The value that holds them, if it is known; else None.
    """
    names = sorted(set(filter(None, _names(generators, within).values())))
    if len(names) > NAMED_MAX:
        names[NAMED_MAX:] = [f"{len(names) - NAMED_MAX} more"]
    return ", ".join(names)


def _names(generators: list[Any], within: Any) -> dict[int, str]:
    """Returns words for the place of each generator ("rng of Model"), by its address; empty for those of libraries.

    The search goes from all generators up to the objects that refer to them, one step for all of them at a time: a
    single look for referrers passes over all objects of the process.
    """
    namespaces = {
        id(vars(module)): name
        for name, module in reversed(list(sys.modules.items()))  # a module's first name is its own
        if hasattr(module, "__dict__")
    }
    named: dict[int, str] = {}
    paths: dict[int, tuple[int, str]] = {id(item): (id(item), "") for item in generators}
    generator_ids = set(paths)
    frontier = list(generators)
    ours = {id(frontier), id(generators), id(paths), id(namespaces)}
    for _ in range(_CHAIN_MAX):
        if not frontier:
            break
        above = gc.get_referrers(*frontier)
        ours |= {id(above), id(frontier)}
        reached: list[Any] = []
        for holder in above:
            if id(holder) in ours or isinstance(holder, types.FrameType):
                continue
            for item in frontier:
                key = _key_in(holder, item)
                if key is None:
                    continue
                generator, path = paths[id(item)]
                if generator in named:
                    continue
                if id(holder) in generator_ids:
                    named[generator] = ""  # the generator that holds it is named
                    continue
                module = namespaces.get(id(holder))
                if module is not None:
                    named[generator] = _global_name(module, key + path)
                elif isinstance(holder, (types.FunctionType, type)):
                    named[generator] = _name_in_code(holder, item, key + path)
                elif holder is within:
                    named[generator] = _name_in(holder, key + path)
                elif _is_of_dispy(holder):
                    named[generator] = _name_in(item, path)  # the computation itself, which is an object
                elif id(holder) not in paths:
                    paths[id(holder)] = generator, key + path
                    reached.append(holder)
        frontier = [item for item in reached if paths[id(item)][0] not in named]
        ours.add(id(reached))
    # If the value that holds them is known, the caller names that.
    held = set() if within is not None else {generator for generator, path in paths.values() if path}
    return {
        id(item): named.get(id(item), _unknown(item) if id(item) in held else "") for item in generators
    }


def _global_name(module: str, path: str) -> str:
    """Returns words for a global, such as "rng (a global of the script)"; empty if its module is not the user's.

    ``path``: name of the global and what follows it, such as ``.models[0]``.
    """
    where = "the script" if module in MAINS else module
    return f"{path.lstrip('.')} (a global of {where})" if _is_own(module) else ""


def _name_in_code(holder: Any, item: Any, path: str) -> str:
    """Returns words for an attribute of a class, or a variable or default of a function; empty if not the user's.

    Args:
        holder: The class or function.
        item: Object that the holder refers to and that leads to the generator, such as its closure or defaults.
        path: The way from the holder to the generator, such as ``.rng`` or ``[0]``.
    """
    if not _is_own(holder.__module__ or "__main__"):
        return ""
    names: tuple[str, ...] = ()
    if isinstance(holder, types.FunctionType):
        code = holder.__code__
        if item is holder.__closure__:
            names = code.co_freevars
        elif item is holder.__defaults__ and isinstance(item, tuple):
            names = code.co_varnames[code.co_argcount - len(item) : code.co_argcount]
    place, _, rest = path.removeprefix("[").partition("]")
    path = f"{names[int(place)]}{rest}" if names else path.lstrip(".")
    return f"{path} of {holder.__qualname__}"


def _name_in(value: Any, path: str) -> str:
    """Returns words for a place in a value, such as "rng of a Model"; ``path``: the way to it, empty for itself."""
    kind = type(value).__name__
    return f"{path.lstrip('.')} of a {kind}" if path else f"a {kind}"


def _is_of_dispy(holder: Any) -> bool:
    """True if an object is of a class of dispy, such as the computation that holds the user's function."""
    return str(getattr(type(holder), "__module__", "")).startswith("dispy.")


def _unknown(item: Any) -> str:
    """Returns words for a generator whose place was not found: "one of numpy"."""
    return f"one of {type(item).__module__.partition('.')[0]}"


def _is_own(module: str) -> bool:
    """True if a module is the user's: messages name its generators, and none of those that libraries hold."""
    return origin_of(module) is not Origin.INSTALLED


def _key_in(holder: Any, item: Any) -> str | None:
    """Returns how an object (``holder``) refers to another: ``.name`` or ``[0]``; None if it does not refer to it.

    Empty if the reference has no name of its own, such as that of a function to its closure.
    """
    if isinstance(holder, dict):
        for key, value in list(holder.items()):
            if value is item:
                if isinstance(key, str) and key.isidentifier():
                    return f".{key}"
                # Other keys may be anything: in the dictionaries of ``threading.local`` they are weak references.
                return f"[{key!r:.40}]" if isinstance(key, (str, int, float, tuple)) else ""
        return None
    if isinstance(holder, (list, tuple)):
        return next((f"[{place}]" for place, value in enumerate(holder) if value is item), None)
    if isinstance(holder, types.CellType):
        return "" if holder.cell_contents is item else None
    if isinstance(holder, types.FunctionType):
        parts = (
            holder.__defaults__,
            holder.__closure__,
            holder.__kwdefaults__,
            holder.__globals__,
            vars(holder),
        )
        return "" if any(part is item for part in parts) else None
    attributes = getattr(holder, "__dict__", None)
    if attributes is item:
        return ""
    if isinstance(attributes, dict):
        for key, value in list(attributes.items()):
            if value is item:
                return f".{key}"
    return "" if any(value is item for value in gc.get_referents(holder)) else None
