"""User objects to bytes and back: the only module that unpickles. Used by client and worker alone.

Most arguments and results consist of numbers, strings and containers, or of objects of installed
libraries. The C pickler takes those without calling back into Python. Everything that refers to
code of the user's own (``__main__``, a script beside the program, closures) goes through
``_Pickler``, which sends such code by value. A class is sent with an identity, so that an instance
that comes back is one of the very class that it left as.
"""

from __future__ import annotations

import contextlib
import dis
import enum
import functools
import importlib
import io
import os
import pickle
import struct
import sys
import threading
import types
from collections.abc import Callable, Iterable
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as _by_value

from dispy.buffers import copy, pool
from dispy.errors import PicklingError, RemoteTraceback

PROTOCOL = 5
_STACK_GLOBAL = b"\x93"
"""The opcode by which protocol 4 and later name any class or function. Its absence proves that a
pickle consists of built-in values; in its presence (or that of a byte that looks so) we look closer."""

_STRINGS = (b"\x8c", b"X", b"\x8d")
"""The opcodes for strings."""

OUT_OF_BAND = 64 * 1024
"""Buffers (of arrays, mostly) of so many bytes are not copied into the pickle, but lie beside it."""

_ALIGNMENT = 64
_BLOCK = struct.Struct("<8sQQ")
_MAGIC = b"\x01dispyB\x00"  # a pickle begins with 0x80
_LENGTH = struct.Struct("<Q")

Buffer = bytes | bytearray | memoryview

take: Callable[[int], memoryview] = pool.take
"""Where large payloads are kept; a program that has nodes on its machine sets another place."""


class Reference:
    """Stands for an object that was put, by its number; in a job there is the object in its place."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        _used.append((threading.get_ident(), self))
        return stored, (self._number,)


def stored(number: int) -> Any:
    """What a reference is unpickled to."""
    return find_object(number)


def _find_nothing(number: int) -> Any:
    raise LookupError(f"object {number} is not here: references are for the arguments of jobs")


find_object: Callable[[int], Any] = _find_nothing
"""Finds what was put under a number, for whom is set here: a worker gets the object, a client its reference."""

reference_type: type[Reference] = Reference
"""The class of references here."""

_used: list[tuple[int, Reference]] = []
"""References that were pickled and not yet asked for by ``take_used``, with the thread that did so."""


def has_used() -> bool:
    """Whether some thread has pickled references."""
    return bool(_used)


def take_used() -> list[Any]:
    """The references that this thread has pickled since the last call."""
    this = threading.get_ident()
    if len(_used) == 1 and _used[0][0] == this:
        # Nobody else takes what is ours.
        return [_used.pop(0)[1]]
    taken = [entry for entry in list(_used) if entry[0] == this]
    for entry in taken:
        _used.remove(entry)
    return [reference for _, reference in taken]


_dumps = pickle.dumps

Namespace = dict[str, Any]

STANDARD_MODULES = frozenset({
    "argparse", "copy", "errno", "glob", "hashlib", "io", "marshal", "multiprocessing", "os", "pickle",
    "platform", "re", "shutil", "signal", "socket", "stat", "struct", "subprocess", "sys", "tempfile",
    "threading", "time", "traceback",
})  # fmt: skip
"""What code may use without importing it; a node imports those of them that code names."""


class Parts:
    """A pickle and the buffers beside it, still where they were: to be copied by whoever keeps them.

    As a block: magic, number of buffers, length of the pickle; the length of each buffer; the pickle; the
    buffers, each at a multiple of 64 bytes.

    Args:
        data: The pickle.
        buffers: What it refers to, in order.
    """

    __slots__ = ("pieces", "size")

    def __init__(self, data: bytes, buffers: list[memoryview]) -> None:
        head = [_BLOCK.pack(_MAGIC, len(buffers), len(data))]
        head += [_LENGTH.pack(buffer.nbytes) for buffer in buffers]
        self.pieces: list[Buffer] = [b"".join(head), data]
        self.size = _BLOCK.size + _LENGTH.size * len(buffers) + len(data)
        for buffer in buffers:
            gap = -self.size % _ALIGNMENT
            self.pieces += [bytes(gap), buffer]
            self.size += gap + buffer.nbytes

    def copy(self) -> memoryview:
        """All of it in one block, as it is now."""
        block = take(self.size)
        position = 0
        for piece in self.pieces:
            end = position + len(piece)
            copy(piece, block[position:end])
            position = end
        return block


def whole(dumped: bytes | Parts) -> Buffer:
    """What ``dump`` made, in one piece and as it is now."""
    if isinstance(dumped, Parts):
        return dumped.copy()
    if len(dumped) < OUT_OF_BAND:
        return dumped
    block = take(len(dumped))
    copy(dumped, block)
    return block


def _open_block(block: memoryview) -> tuple[memoryview, list[memoryview]]:
    _, count, length = _BLOCK.unpack_from(block)
    start = _BLOCK.size + _LENGTH.size * count
    sizes = [_LENGTH.unpack_from(block, _BLOCK.size + _LENGTH.size * place)[0] for place in range(count)]
    data = block[start : start + length]
    position = start + length
    buffers = []
    for size in sizes:
        position += -position % _ALIGNMENT
        buffers.append(block[position : position + size])
        position += size
    return data, buffers


class _Collector(list[memoryview]):
    """Takes the buffers that are worth it out of the pickle."""

    __slots__ = ()

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether the pickler has to take it in."""
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND:
            return True
        self.append(raw)
        return False


class _Large:
    """Bytes that need not be copied into a pickle: the pickler takes them for a buffer."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = data

    def __reduce__(self) -> tuple[type, tuple[pickle.PickleBuffer]]:
        return type(self._data), (pickle.PickleBuffer(self._data),)


def _pickled(kind: type) -> bytes:
    return pickle.dumps(_Large(kind()), PROTOCOL, buffer_callback=lambda _: False)


_LARGE = {_pickled(kind): kind for kind in (bytes, bytearray)}
"""The pickle beside large bytes: always the same, for nothing of them is in it."""

_LARGE_HEAD = _BLOCK.size + _LENGTH.size + max(map(len, _LARGE))


class Ready:
    """A large payload that has become its value already; passes where a payload does.

    Args:
        value: What ``load`` gives.
    """

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value

    def __len__(self) -> int:
        return len(self.value)


def _large_bytes(block: Buffer) -> tuple[type, int, int] | None:
    """Of a block, or of its head, that holds nothing but large bytes: their type, where they are, how many."""
    if block[: len(_MAGIC)] != _MAGIC or len(block) < _BLOCK.size + _LENGTH.size:
        return None
    _, count, length = _BLOCK.unpack_from(block)
    start = _BLOCK.size + _LENGTH.size
    kind = _LARGE.get(bytes(block[start : start + length])) if count == 1 else None
    if kind is None:
        return None
    end = start + length
    return kind, end + -end % _ALIGNMENT, _LENGTH.unpack_from(block, _BLOCK.size)[0]


def read_bytes(descriptor: int) -> Ready | None:
    """Read a file with a block, if that is nothing but large ``bytes``; else None.

    The only copy is the kernel's, and other threads run meanwhile. To read the block, and then to unpickle it,
    takes twice the time in a program that has much to do.

    Raises:
        OSError: It cannot be read.
    """
    found = _large_bytes(os.pread(descriptor, _LARGE_HEAD, 0))
    if found is None or found[0] is not bytes:
        return None
    _, start, size = found
    value = os.pread(descriptor, size, start)
    return Ready(value) if len(value) == size else None


def _out_of_band(value: Any) -> Any:
    """A value, or what stands for it if it is large and no buffer to the pickler."""
    return _Large(value) if type(value) in (bytes, bytearray) and len(value) >= OUT_OF_BAND else value


def dump_call(args: tuple[Any, ...], kwargs: dict[str, Any], job_id: Any = None) -> Buffer:
    """Pickle a job's arguments as they are now, and its id if that is not its number.

    Raises:
        PicklingError: Names the argument, and what in it cannot be sent.
    """
    if _used:
        take_used()  # what was pickled by others, or for a job that could not be sent
    references = False
    for value in args:
        kind = type(value)
        if kind is bytes and len(value) >= OUT_OF_BAND:
            args = tuple([_out_of_band(value) for value in args])
            break
        if kind is reference_type:
            references = True
    call: tuple[Any, ...] = (args,)
    if references:
        call = _without_references(args, kwargs, job_id)
    elif kwargs or job_id is not None:
        call = (args, kwargs) if job_id is None else (args, kwargs, job_id)
    try:
        # The common case without another call: it is on the path of every job.
        buffers = _Collector()
        data = _dumps(call, PROTOCOL, buffer_callback=buffers.take)
        if _STACK_GLOBAL not in data or not _names_local(data):
            return whole(Parts(data, buffers) if buffers else data)
    except Exception:
        pass
    try:
        return whole(dump(call))
    except Exception as error:
        raise _blame(args, kwargs, job_id, error) from error


def _without_references(args: tuple[Any, ...], kwargs: dict[str, Any], job_id: Any) -> tuple[Any, ...]:
    """A call with the numbers of references beside its arguments: 1 us, where pickling each takes 5."""
    this = threading.get_ident()
    numbers = {}
    bare = list(args)
    for place, value in enumerate(args):
        if type(value) is reference_type:
            _used.append((this, value))
            numbers[place] = value._number
            bare[place] = None
    return tuple(bare), kwargs, job_id, None, numbers


def _with_objects(call: tuple[Any, ...]) -> tuple[Any, ...]:
    args, kwargs, job_id, _, numbers = call
    full = list(args)
    for place, number in numbers.items():
        full[place] = find_object(number)
    return tuple(full), kwargs, job_id


def _blame(args: tuple[Any, ...], kwargs: dict[str, Any], job_id: Any, error: Exception) -> PicklingError:
    parts = [(value, f"argument {place}") for place, value in enumerate(args, 1)]
    parts += [(value, f"argument {name!r}") for name, value in kwargs.items()]
    for value, where in [*parts, (job_id, "the job's id")]:
        culprit = find_culprit(value, where)
        if culprit:
            return PicklingError(
                f"a job cannot be sent: {culprit}",
                hint="pass plain data, or create the object in the job",
            )
    return PicklingError(f"a job cannot be sent: {error}")


CHUNK_PARTS = 4
"""Length of the tuple of a chunk, by which it is told from a call; that of a call with references is longer."""


def dump_chunk(items: list[Any], is_starred: bool, long_s: float) -> Buffer:
    """Pickle the items of a chunk of a ``map`` in one go: what they share is sent once, and stays shared.

    Args:
        items: Arguments of the calls.
        is_starred: Whether each is a tuple of arguments.
        long_s: How long the chunk may run before what is left of it is given back.

    Raises:
        Exception: One of the items cannot be pickled; see ``find_unsendable``.
    """
    take_used()
    return whole(dump((items, is_starred, None, long_s)))


def find_unsendable(items: list[Any], first: int) -> tuple[int, PicklingError] | None:
    """The first item that cannot be pickled, and the error that says why; None if all can be.

    Args:
        items: The items of a chunk.
        first: Number of the first one in the ``map``.
    """
    for place, item in enumerate(items):
        culprit = find_culprit(item, f"item {first + place}")
        if culprit:
            hint = "map over plain data, or create the object in the function"
            return place, PicklingError(f"an item of a map cannot be sent: {culprit}", hint=hint)
    return None


def load_items(payload: Buffer) -> list[Any]:
    """The items of a chunk."""
    items: list[Any] = load(payload)[0]
    return items


def dump_failure(results: list[Any], error: bytes) -> bytes:
    """Pickle what a chunk says when one of its items failed: the results before it, and the exception."""
    return pickle.dumps((bytes(whole(dump(results))), error), PROTOCOL)


def load_failure(payload: Buffer) -> tuple[list[Any], bytes] | None:
    """Results before the item that failed, and its pickled exception (empty where there is none).

    None if it was the chunk that failed and not one of its items.
    """
    failure = load(payload)
    return (load(failure[0]), failure[1]) if type(failure) is tuple else None


def load_call(payload: Buffer) -> tuple[Any, ...]:
    """``(args,)``, ``(args, kwargs)`` or ``(args, kwargs, job_id)``; or a chunk: see ``dump_chunk``.

    Arrays in it lie where the payload lies.

    Raises:
        Apart: It brings code, and this is not the process for that.
    """
    call: tuple[Any, ...] = load(payload)
    if len(call) <= CHUNK_PARTS:
        return call
    return _with_objects(call) if len(call) == CHUNK_PARTS + 1 else _with_code(call)


# Code that a job brings.


class Apart(Exception):
    """A job brings code, which is for a process of its own: nothing of it has been loaded.

    Args:
        job_id: Of the job, if that is not its number.
    """

    def __init__(self, job_id: Any) -> None:
        super().__init__("the job brings code, which is for a process of its own")
        self.job_id = job_id


_job_namespace: Namespace | None = None
"""Where code that a job brings belongs; None where none does."""


def accept_code(namespace: Namespace) -> None:
    """This process is for one job: code that it brings is defined here."""
    global _job_namespace
    _job_namespace = namespace


class _Gate:
    """Stands before code in a pickle. What follows is not loaded where it does not belong."""

    def __init__(self, job_id: Any, paths: list[str]) -> None:
        self._job_id = job_id
        self._paths = paths

    def __reduce__(self) -> tuple[Any, tuple[Any, list[str]]]:
        return _pass_gate, (self._job_id, self._paths)


def _pass_gate(job_id: Any, paths: list[str]) -> None:
    if _job_namespace is None:
        raise Apart(job_id)
    if paths:
        _forget_modules(paths)


def _forget_modules(paths: list[str]) -> None:
    """Files of modules are new here: what was imported, found and compiled of others in their places is not used.

    Compiled code is known by the time and size of its source, which another file of that name may have, too.
    """
    import importlib.util

    tops = {path.partition("/")[0].partition(".")[0] for path in paths}
    directory = os.getcwd() + "/"
    for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
        file = getattr(sys.modules[name], "__file__", None)
        if file is None or os.path.realpath(file).startswith(directory):
            del sys.modules[name]
    importlib.invalidate_caches()
    sys.dont_write_bytecode = True
    for path in paths:
        if path.endswith(".py"):
            with contextlib.suppress(OSError):
                os.unlink(importlib.util.cache_from_source(path))


class _There(dict[str, Any]):
    """Stands for the namespace of the computation, where a job is run."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _find_namespace, ()


def _find_namespace() -> Namespace:
    assert _job_namespace is not None
    return _job_namespace


def imports_of(depends: list[Any]) -> set[str]:
    """Names of the modules that functions and classes import when they run; none of what cannot be sent."""
    pickler = _Pickler(io.BytesIO(), shared={}, explicit=depends)
    with contextlib.suppress(Exception):  # ``dump_call_with`` says why
        pickler.dump(depends)
    take_used()
    return pickler.imports


def dump_call_with(
    depends: list[Any],
    paths: list[str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    job_id: Any = None,
) -> Buffer:
    """``dump_call`` for a job that brings functions and classes, which it finds by name, or modules.

    Args:
        depends: Functions and classes.
        paths: Where the files of modules lie on the node, relative to the working directory.
        args: Of the job.
        kwargs: Of the job.
        job_id: Of the job, if that is not its number.

    Raises:
        PicklingError: Names the argument, or the dependency, and what in it cannot be sent.
    """
    take_used()
    there = _There()
    buffers = _Collector()
    stream = io.BytesIO()
    try:
        pickler = _Pickler(stream, shared=there, explicit=depends, buffers=buffers)
        firsts, names = _definitions(depends)
        args = tuple([_out_of_band(value) for value in args])
        pickler.dump((_Gate(job_id, paths), there, firsts, names, args, kwargs, job_id))
    except Exception as error:
        for item in depends:
            culprit = find_culprit(item, _describe(item))
            if culprit:
                hint = "import or create it inside the function, or pass it as an argument"
                raise PicklingError(f"dispy_job_depends cannot be sent: {culprit}", hint=hint) from error
        raise _blame(args, kwargs, job_id, error) from error
    data = stream.getvalue()
    return whole(Parts(data, buffers) if buffers else data)


def _with_code(call: tuple[Any, ...]) -> tuple[Any, ...]:
    _, namespace, _, names, args, kwargs, job_id = call
    for name, item in names.items():
        namespace[name] = item
        for function in _functions_of(item):
            _import_named(function)
    return args, kwargs, job_id


def _definitions(depends: Iterable[Any]) -> tuple[list[_Call], dict[str, Any]]:
    """What is to be called first of dependencies, and the others by name."""
    firsts: list[_Call] = []
    names = {}
    for item in depends:
        if isinstance(item, types.FunctionType) and item.__name__ == CALLED_FIRST:
            firsts.append(_Call(item))
        else:
            names[_name_of(item)] = item
    return firsts, names


CALLED_FIRST = "init_depends"
"""A dependency of this name is called where it arrives, before anything that comes after it is defined."""


class _Call:
    """A call of a function, made where it is unpickled."""

    def __init__(self, function: types.FunctionType) -> None:
        self._function = function

    def __reduce__(self) -> tuple[Any, tuple[types.FunctionType]]:
        return _call_first, (self._function,)


def _call_first(function: types.FunctionType) -> None:
    _import_named(function)
    function()


def _import_named(function: types.FunctionType) -> None:
    """Have a function find the standard modules that it names without importing them."""
    for name in _code_names(function.__code__) & STANDARD_MODULES:
        if name not in function.__globals__:
            function.__globals__[name] = importlib.import_module(name)


def dump_object(value: Any) -> Buffer:
    """Pickle what many jobs will read, as it is now.

    Raises:
        PicklingError: Names what in it cannot be sent.
    """
    take_used()
    try:
        return whole(dump(value))
    except Exception as error:
        culprit = find_culprit(value, "the object") or str(error)
        raise PicklingError(f"an object cannot be put: {culprit}", hint="put plain data") from error


def dump(value: Any) -> bytes | Parts:
    """Pickle any value; code of the user's own goes by value."""
    value = _out_of_band(value)
    buffers = _Collector()
    try:
        data = pickle.dumps(value, PROTOCOL, buffer_callback=buffers.take)
        is_whole = not _names_local(data)
    except Exception:
        # A lambda, a local class, a class that was itself received by value, …
        is_whole = False
    if not is_whole:
        buffers.clear()
        data = _dump_by_value(value, buffers)
    return Parts(data, buffers) if buffers else data


def _names_local(data: bytes) -> bool:
    """Whether a pickle may name code of the user's own."""
    return _STACK_GLOBAL in data and any(name in data for name in _local_modules())


def load(payload: Buffer | Ready) -> Any:
    """Unpickle what ``dump`` made. Arrays in it lie where the payload lies, and are writable if that is."""
    if isinstance(payload, Ready):
        return payload.value
    if payload[:1] != _MAGIC[:1]:
        return pickle.loads(payload)
    data, buffers = _open_block(memoryview(payload))
    return pickle.loads(data, buffers=buffers)


def is_plain(payload: Buffer | Ready) -> bool:
    """Whether unpickling it runs nobody's code and takes no time: it holds built-in values only."""
    if len(payload) >= OUT_OF_BAND:
        # Bytes are only copied, by whoever asks for them.
        return isinstance(payload, Ready) or _large_bytes(payload) is not None
    assert not isinstance(payload, Ready)
    # The byte may be part of a number; a name that the opcode takes is a string, which has an opcode, too.
    return _STACK_GLOBAL not in payload or not any(opcode in payload for opcode in _STRINGS)


def dump_exception(error: BaseException, text: str) -> bytes:
    """Pickle an exception for the client; empty if it cannot be pickled or not be rebuilt."""
    try:
        bare = error.with_traceback(None)
        bare.__cause__ = bare.__context__ = None
        data = bytes(whole(dump(bare)))
        load(data)
    except Exception:
        return b""
    return data


def load_exception(payload: bytes, text: str) -> BaseException | None:
    """The exception that a job raised, with the remote traceback as its cause; None if it cannot be had."""
    try:
        error = load(payload)
    except Exception:
        return None
    if not isinstance(error, BaseException):
        return None
    error.__cause__ = RemoteTraceback(text)
    return error


# Code.


class Code:
    """What a computation consists of, as it arrives where it runs.

    Attributes:
        function: The computation.
        namespace: The globals that it shares with setup, cleanup and the explicit dependencies.
        modules: Names of standard modules that the code uses without importing them.
        setup: Called before any job; None for nothing.
        cleanup: Called after all jobs; None for nothing.
        setup_args: What both are called with, pickled; they are loaded in the namespace of the user's code.
    """

    __slots__ = ("cleanup", "function", "modules", "namespace", "setup", "setup_args")

    def __init__(
        self,
        function: Callable[..., Any],
        namespace: Namespace,
        modules: list[str],
        setup: Callable[..., Any] | None,
        cleanup: Callable[..., Any] | None,
        setup_args: tuple[Any, ...],
    ) -> None:
        self.function = function
        self.namespace = namespace
        self.modules = modules
        self.setup = setup
        self.cleanup = cleanup
        self.setup_args = setup_args


def dump_code(
    function: Callable[..., Any],
    depends: Iterable[Any],
    setup: Callable[..., Any] | None = None,
    cleanup: Callable[..., Any] | None = None,
    imports: set[str] | None = None,
) -> bytes:
    """Pickle a function and the functions and classes it depends on, by value.

    All of them share one namespace on the other side; helpers that they refer to in other modules
    of the user's own keep one per module.

    Args:
        function: Any callable.
        depends: Functions and classes that the function finds by name. One called ``init_depends`` is called before
            all else is defined.
        setup: Called before any job, in the namespace of the computation: jobs see the globals that it sets.
        cleanup: Called after all jobs.
        imports: Takes the names of modules that the code imports when it runs.

    Raises:
        PicklingError: Names the global, closure variable or default that cannot be sent.
    """
    depends = list(depends)
    around = [item.func if isinstance(item, functools.partial) else item for item in (setup, cleanup)]
    explicit = [function, *depends, *[item for item in around if item is not None]]
    shared: Namespace = {}
    stream = io.BytesIO()
    pickler = _Pickler(stream, shared=shared, explicit=explicit)
    firsts, names = _definitions(depends)
    take_used()
    try:
        pickler.dump((shared, firsts, function, names, setup, cleanup))
        if take_used():
            raise PicklingError("it refers to an object that was put")
    except Exception as error:
        label = getattr(function, "__qualname__", repr(function))
        culprit = next(filter(None, (find_culprit(item, _describe(item)) for item in explicit)), str(error))
        raise PicklingError(
            f"computation {label!r} cannot be sent: {culprit}",
            hint="import or create it inside the function, or pass it as an argument",
        ) from error
    modules = sorted(pickler.global_names & STANDARD_MODULES)
    version = _VERSION if pickler.has_code else ()
    if imports is not None:
        imports |= pickler.imports
    return pickle.dumps((stream.getvalue(), modules, b"", version), PROTOCOL)


def with_setup_args(code: bytes, args: tuple[Any, ...]) -> bytes:
    """What ``dump_code`` made, with arguments for setup and cleanup.

    Raises:
        PicklingError: An argument that cannot be sent.
    """
    data, modules, _, version = pickle.loads(code)
    stream = io.BytesIO()
    try:
        _Pickler(stream).dump(args)
    except Exception as error:
        raise PicklingError(
            f"setup_args cannot be sent: {find_culprit(args, 'setup_args') or error}"
        ) from error
    return pickle.dumps((data, modules, stream.getvalue(), version), PROTOCOL)


def load_code(payload: bytes) -> Code:
    """Rebuild what ``dump_code`` made.

    Raises:
        PicklingError: It was made by another version of Python.
    """
    data, modules, args, version = pickle.loads(payload)
    if version and version != _VERSION:
        theirs, ours = (".".join(map(str, each)) for each in (version, _VERSION))
        raise PicklingError(
            f"the program runs on Python {theirs}, and this node on Python {ours}; functions travel compiled, and "
            "no version runs what another has compiled",
            hint=f"start dispynode with Python {theirs}, or the program with Python {ours}",
        )
    shared, _, function, names, setup, cleanup = pickle.loads(data)
    for name, item in names.items():
        shared.setdefault(name, item)
    name = getattr(function, "__name__", "")
    if name.isidentifier():
        shared.setdefault(name, function)
    return Code(function, shared, modules, setup, cleanup, pickle.loads(args) if args else ())


def _name_of(item: Any) -> str:
    name: str = getattr(item, "__name__", "")
    return name


def _describe(item: Any) -> str:
    return f"{'class' if isinstance(item, type) else 'function'} {getattr(item, '__qualname__', item)!r}"


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # untyped base
    """cloudpickle that takes code of the user's own modules by value, and classes with an identity.

    Args:
        file: Where the pickle goes.
        shared: Namespace for the functions of ``explicit`` and all that is defined beside them.
        explicit: The computation and its dependencies.
        buffers: Takes large buffers; without it they go into the pickle.
    """

    def __init__(
        self,
        file: io.BytesIO,
        *,
        shared: Namespace | None = None,
        explicit: Iterable[Any] = (),
        buffers: _Collector | None = None,
    ) -> None:
        super().__init__(
            file, protocol=PROTOCOL, buffer_callback=buffers.take if buffers is not None else None
        )
        self.global_names: set[str] = set()
        self.imports: set[str] = set()
        """Names of modules that functions import when they run."""
        self.has_code = False
        """There is something in it that was compiled."""
        self._explicit = {id(item) for item in explicit}
        self._is_definition = False
        if shared is not None:
            for item in explicit:
                for function in _functions_of(item):
                    if not _is_installed(function.__module__):
                        self.globals_ref[id(function.__globals__)] = shared
                        shared.setdefault("__name__", function.__globals__.get("__name__", "__main__"))
            shared.setdefault("__name__", "__main__")

    def _dynamic_function_reduce(self, func: Any) -> Any:
        self.has_code = True
        self.imports |= _imports(func.__code__, func.__globals__)
        return super()._dynamic_function_reduce(func)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, types.FunctionType):
            if not _is_installed(obj.__module__):
                self.global_names |= _code_names(obj.__code__)
                return self._dynamic_function_reduce(obj)
        elif isinstance(obj, type):
            if not _is_installed(obj.__module__) or obj in _by_value._DYNAMIC_CLASS_TRACKER_BY_CLASS:
                self.has_code = True
                if self._is_definition or id(obj) in self._explicit:
                    return _reduce_definition(obj)
                reduced, imports = _reduce_class(obj)
                self.imports |= imports
                return reduced
        elif isinstance(obj, functools._lru_cache_wrapper) and not _is_installed(obj.__module__):
            attributes = {name: value for name, value in vars(obj).items() if name != "__wrapped__"}
            return _cached, (obj.__wrapped__, obj.cache_parameters()), attributes
        elif isinstance(obj, types.ModuleType) and not _is_installed(obj.__name__):
            state = {name: value for name, value in vars(obj).items() if name not in _MODULE_PRIVATE}
            return types.ModuleType, (obj.__name__,), state
        return super().reducer_override(obj)


_MODULE_PRIVATE = frozenset({"__builtins__", "__loader__", "__spec__", "__cached__"})


def _dump_by_value(value: Any, buffers: _Collector | None = None) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, buffers=buffers).dump(value)
    return stream.getvalue()


_VERSION = sys.version_info[:2]
"""Bytecode is another in each minor version of Python, and running that of another ends in a crash at best."""

_class_blobs: dict[str, tuple[type, bytes, set[str]]] = {}


def _reduce_class(cls: type) -> tuple[Any, set[str]]:
    """A class of the user's own: its identity, its definition for those who do not know it, and what it imports."""
    identity = _by_value._get_or_create_tracker_id(cls)
    known = _class_blobs.get(identity)
    if known is None:
        stream = io.BytesIO()
        pickler = _Pickler(stream, explicit=(cls,))
        pickler._is_definition = True
        pickler.dump(cls)
        known = _class_blobs[identity] = (cls, stream.getvalue(), pickler.imports)
    return (_resolve_class, (identity, cls.__module__, cls.__qualname__, known[1])), known[2]


_unfilled: set[type] = set()
"""Classes that a definition being loaded has made and not filled yet."""


def _reduce_definition(cls: type) -> Any:
    """A class by value; where it is known already its definition changes nothing."""
    make, args, state, *_ = _by_value._dynamic_class_reduce(cls)
    attributes = state[0]
    if attributes.get("__slots__") and not issubclass(cls, enum.Enum):
        # Slots have to be there when the class is made; their descriptors come with them.
        args[3]["__slots__"] = attributes.pop("__slots__")
        for name in [n for n, value in attributes.items() if isinstance(value, types.MemberDescriptorType)]:
            del attributes[name]
    return _make_class, (make, args), state, None, None, _fill_class


def _make_class(make: Callable[..., type], args: tuple[Any, ...]) -> type:
    known: type | None = _by_value._DYNAMIC_CLASS_TRACKER_BY_ID.get(args[-2])
    if known is not None:
        return known
    cls = make(*args)
    _unfilled.add(cls)
    return cls


def _fill_class(cls: type, state: Any) -> type:
    if cls in _unfilled:
        _unfilled.discard(cls)
        _by_value._class_setstate(cls, state)
    return cls


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """A function with a cache of its own, as empty as a fresh one."""
    return functools.lru_cache(**parameters)(function)


def _resolve_class(identity: str, module: str, qualname: str, definition: bytes) -> Any:
    known = _by_value._DYNAMIC_CLASS_TRACKER_BY_ID.get(identity)
    if known is not None:
        return known
    if module == "__main__":
        # A program that was started anew finds its own class again in what an earlier run left.
        found: Any = sys.modules.get(module)
        for part in qualname.split("."):
            found = getattr(found, part, None)
        if isinstance(found, type):
            return found
    return pickle.loads(definition)


def _functions_of(item: Any) -> Iterable[types.FunctionType]:
    """The functions whose globals a computation or dependency brings along."""
    if isinstance(item, types.MethodType):
        item = item.__func__
    if isinstance(item, types.FunctionType):
        yield item
        wrapped = getattr(item, "__wrapped__", None)
        if isinstance(wrapped, types.FunctionType):
            yield wrapped
    elif isinstance(item, type):
        for value in vars(item).values():
            if isinstance(value, types.FunctionType):
                yield value
    elif hasattr(item, "func") and isinstance(item.func, types.FunctionType):
        yield item.func


def _code_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _code_names(constant)
    return names


def _imports(code: types.CodeType, namespace: Namespace) -> set[str]:
    """Names of the modules that a function imports when it runs, and those within it."""
    found = set()
    if _IMPORT_NAME in code.co_code[::2]:
        before: list[Any] = [None, None]  # level and names, pushed before each import
        for instruction in dis.get_instructions(code):
            if instruction.opname == "IMPORT_NAME":
                package = namespace.get("__package__") or namespace.get("__name__") or ""
                found.add(package if before[0] else instruction.argval)
            before = [before[1], instruction.argval]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _imports(constant, namespace)
    return found


_IMPORT_NAME = dis.opmap["IMPORT_NAME"]

# Which modules the other side can import.


@functools.cache
def _package_directories() -> tuple[str, ...]:
    """Where Python and packages keep their modules. Not asked before it is needed: it takes 8 ms."""
    import sysconfig

    paths = sysconfig.get_paths()
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple(os.path.realpath(paths[name]) + os.sep for name in names if name in paths)


_installed: dict[str, bool] = {"__main__": False, "__mp_main__": False, "builtins": True, "dispy": True}
_names_of_local: tuple[int, tuple[bytes, ...]] = (0, ())


def _is_installed(module: str | None) -> bool:
    """Whether a module comes with Python or a package, so that a node has it too."""
    if module is None:
        return False
    answer = _installed.get(module)
    if answer is None:
        top = module.partition(".")[0]
        answer = _installed.get(top)
        if answer is None:
            answer = _lies_with_packages(sys.modules.get(top))
            if top in sys.modules:
                _installed[top] = answer
    return answer


def _lies_with_packages(module: types.ModuleType | None) -> bool:
    if module is None:
        return False
    origin = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if origin is None:
        return getattr(module, "__spec__", None) is not None
    return lies_with_packages(origin)


def lies_with_packages(path: str) -> bool:
    """Whether it is where Python or packages keep their modules."""
    path = os.path.realpath(path)
    return path.startswith(_package_directories()) or f"{os.sep}site-packages{os.sep}" in path


def _local_modules() -> tuple[bytes, ...]:
    """Names of the loaded modules that are the user's own, as they would stand in a pickle."""
    global _names_of_local
    count, names = _names_of_local
    if count != len(sys.modules):
        count = len(sys.modules)
        tops = {name.partition(".")[0] for name in list(sys.modules)}
        names = tuple(top.encode() for top in sorted(tops) if not _is_installed(top))
        _names_of_local = (count, names)
    return names


# What is at fault.


def find_culprit(value: Any, where: str, depth: int = 0, seen: set[int] | None = None) -> str:
    """Say which part of a value cannot be pickled ("" if all can): the innermost one that is at fault."""
    seen = seen if seen is not None else set()
    if id(value) in seen or depth > 8:
        return ""
    seen.add(id(value))
    try:
        _dump_by_value(value)
        return ""
    except RecursionError:
        return f"{where} is nested too deeply"
    except Exception as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, PicklingError) and "__reduce__" in vars(type(value)):
            return f"{where}: {reason}"  # it says itself why not
    for part, name in _parts(value, where):
        inner = find_culprit(part, name, depth + 1, seen)
        if inner:
            return inner
    return f"{where} (of type {type(value).__module__}.{type(value).__qualname__}): {reason}"


def _parts(value: Any, where: str) -> Iterable[tuple[Any, str]]:
    if isinstance(value, types.MethodType):
        yield value.__func__, where
        yield value.__self__, f"the object of {where}"
    elif isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
            try:
                yield cell.cell_contents, f"variable {name!r} that {where} closes over"
            except ValueError:
                continue
        for name in sorted(_code_names(value.__code__)):
            if name in value.__globals__:
                yield value.__globals__[name], f"global {name!r} that {where} uses"
        for default in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
            yield default, f"a default of {where}"
        if hasattr(value, "__wrapped__"):
            yield value.__wrapped__, where
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key, f"key {key!r:.60} of {where}"
            yield item, f"item {key!r:.60} of {where}"
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(value):
            yield item, f"item {index} of {where}"
    elif isinstance(value, type):
        for name, item in vars(value).items():
            if not (name.startswith("__") and name.endswith("__")) or name == "__init__":
                yield item, f"attribute {name!r} of {where}"
    elif hasattr(value, "__dict__"):
        for name, item in vars(value).items():
            yield item, f"attribute {name!r} of {where}"
