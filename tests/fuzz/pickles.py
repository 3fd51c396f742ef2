"""Hostile pickles, and a fuzzer of them: whatever a node says as a result, nothing runs and only plain data comes.

    python -m tests.fuzz.pickles --seconds 60

Inputs are made on two levels: opcodes in random order, whose arguments are names, numbers and bytes that matter; and
honest pickles, of which bytes are changed, cut out, doubled and put together. While one is read an audit hook looks
on: an import, a file, code that is run or compiled, a process. Each input is read as a result, as an exception, as
the results of a map and as a failed map.
"""

from __future__ import annotations

import argparse
import builtins
import datetime
import decimal
import os
import pickle
import random
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from dispy import payload
from dispy.errors import NotPlainError
from dispy.payload import Known, versions
from dispy.payload.by_value.pickler import dump_by_value

HEARD: list[str] = []
"""Events of the interpreter while an input was read that must not be."""

_is_listening = False

EVENTS = (
    "import", "exec", "compile", "open", "os.", "subprocess.", "socket.", "shutil.", "pickle.", "marshal.", "code.",
    "ctypes.", "function.", "object.__setattr__", "sys.", "builtins.input", "mmap.", "signal.", "urllib.", "cpython.",
)  # fmt: skip
"""Beginnings of the names of such events: code is loaded or run, files are opened, functions changed."""


def listen() -> None:
    """Have the interpreter tell of what happens in ``reading``. Once for each process: hooks cannot be removed."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        # CPython before 3.14 tells of a bytearray that there was no memory for in this way, and goes on.
        is_known = event == "sys.excepthook" and isinstance(arguments[2], SystemError)
        if _is_listening and event.startswith(EVENTS) and not is_known:
            HEARD.append(f"{event}{arguments!r:.200}")

    sys.addaudithook(hook)
    sys.excepthook = _hide_known


def _hide_known(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Show an exception that nobody has caught, but for the one of ``listen``."""
    if "deallocated bytearray" not in str(error):
        sys.__excepthook__(kind, error, trace)


NAMES = (
    ("posix", "system"), ("os", "system"), ("builtins", "eval"), ("builtins", "exec"), ("builtins", "getattr"),
    ("builtins", "__import__"), ("builtins", "type"), ("builtins", "object"), ("builtins", "print"),
    ("subprocess", "Popen"), ("functools", "partial"), ("operator", "attrgetter"), ("types", "CodeType"),
    ("types", "FunctionType"), ("pickle", "loads"), ("copyreg", "_reconstructor"), ("copyreg", "__newobj__"),
    ("collections", "OrderedDict"), ("dispy.payload.values", "_load_carried"),
    ("dispy.payload.object_references", "stored"), ("dispy.payload.by_value.classes", "resolve"),
    ("dispy.payload.by_value.bytecode", "load_code_py3_11"),
    ("dispy.payload.by_value.bytecode", "load_code_py9_99"),
    ("dispy.payload.by_value.portable", "code_at"), ("dispy.payload.by_value.portable", "installed_code"),
    ("dispy.payload.by_value.portable", "make_function"), ("dispy.payload.by_value.version_parts", "make"),
    ("dispy.payload.by_value.classes", "remake_first"), ("dispy.payload.by_value.classes", "fill_portable_class"),
    ("dispy.payload.forms", "_open"), ("dispy.payload.job_code", "_open_form"),
    ("dispy.payload.by_value.scopes", "import_module"),
    ("dispy.payload.by_value.special_objects", "named"), ("dispy.payload.calls", "ItemFailed"),
    ("dispy.payload.calls", "Rest"), ("numpy", "load"), ("numpy", "ndarray"), ("numpy", "dtype"),
    ("numpy", "memmap"), ("numpy", "fromfile"), ("numpy.ma.core", "_mareconstruct"),
    ("numpy._core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"), ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.testing._private.utils", "runstring"), ("datetime", "datetime"), ("datetime", "timezone"),
    ("datetime", "timedelta"), ("datetime", "date"), ("datetime", "time"), ("decimal", "Decimal"),
    ("builtins", "bytes"), ("builtins", "bytearray"), ("builtins", "complex"), ("builtins", "range"),
    ("builtins", "ValueError"), ("builtins", "OSError"), ("builtins", "UnicodeDecodeError"),
    ("builtins", "ExceptionGroup"), ("builtins", "SyntaxError"), ("dispy.errors", "JobError"),
    ("numpy", "dtype.__setstate__"), ("", "numpy.dtype"), ("__main__", "Anything"),
)  # fmt: skip
"""Names that hostile pickles use: of what runs code, of what is on our lists, and of what lies between."""

TEXTS = (
    "touch exploded", "__import__('os').system('touch exploded')", "f8", "O8", "O", "V16", "V8", "U3", "i4", "b1",
    "M8", "<", "|", ">", "C", "F", "a", "b", "", "__setstate__", "__class__", "__dict__", "__notes__", "name",
    "utf8", "1e999999999", "NaN",
)  # fmt: skip

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 16, 24, 63, 64, 255, 256, 65535, -1, -2, 1 << 31, 1 << 62, 1 << 63, 1 << 70)


def text(value: str) -> bytes:
    """The opcode that puts a text onto the stack."""
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data


def name(module: str, what: str) -> bytes:
    """The opcodes that put what a name stands for onto the stack."""
    return text(module) + text(what) + b"\x93"


def number(value: int) -> bytes:
    """The opcodes that put a number onto the stack."""
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


class Call:
    """Pickled, it is a call of anything with any arguments, and state that is set afterwards."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self._reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self._reduced


def bombs(path: str) -> Iterator[Any]:
    """Objects whose pickles run something that makes a file at ``path``."""
    yield Call(os.system, f"touch {path}")
    yield Call(eval, f"open({path!r}, 'w').close()")
    yield Call(exec, f"open({path!r}, 'w').close()")
    yield Call(os.close, Call(os.open, path, os.O_CREAT | os.O_WRONLY))
    yield Call(os.mkdir, path)
    yield Call(builtins.getattr, Call(__import__, "os"), "system")
    yield Call(list, Call(os.system, f"touch {path}"))
    yield Call(bytes, Call(os.system, f"touch {path}"))
    yield Call(payload.load, pickle.dumps(Call(os.system, f"touch {path}")))
    yield Call(dict, state={"a": Call(os.system, f"touch {path}")})
    yield Call(ValueError, Call(os.system, f"touch {path}"))
    yield Call(ValueError, "x", state={"__notes__": [Call(os.system, f"touch {path}")]})
    yield Call(datetime.datetime, b"0" * 10, Call(os.system, f"touch {path}"))


def crafted(path: str) -> Iterator[bytes]:
    """Pickles that no pickler makes, which run something, or break memory, where they are unpickled as usual."""
    command = f"touch {path}"
    yield f"cposix\nsystem\n(S'{command}'\ntR.".encode()
    yield f"(S'{command}'\niposix\nsystem\n.".encode()
    yield f"(cposix\nsystem\nS'{command}'\no.".encode()
    yield b"\x80\x05" + name("posix", "system") + text(command) + b"\x85R."
    yield b"\x80\x05" + name("builtins", "object") + b")\x81."
    yield b"\x80\x05" + name("builtins", "object") + b")}\x92."
    yield b"\x82\x01." + b"\x83\x01\x00." + b"\x84\x01\x00\x00\x00."
    yield b"Pid\n."
    yield b"\x80\x05]" + text("id") + b"Q."
    # A list whose items are set by what is no number, a set that adds itself, a text that is built.
    yield b"\x80\x05](" + name("posix", "system") + name("posix", "system") + b"u."
    yield b"\x80\x05" + text("x") + b"}" + text("__class__") + name("builtins", "object") + b"sb."
    yield b"\x80\x05" + name("datetime", "date") + b"N}" + text("x") + number(1) + b"s\x86b."
    yield b"\x80\x05" + name("numpy", "dtype") + b"}" + text("x") + number(1) + b"sb."
    # A view of bytes, bare and as the content of an array.
    yield b"\x80\x05\x96" + struct.pack("<Q", 8) + bytes(8) + b"\x98."
    yield b"\x80\x05\x96" + struct.pack("<Q", 8) + bytes(8) + b"\x98\x85\x94."
    yield b"\x80\x05\x97."
    # A data type of eight bytes with a field of objects in it: the bytes of the array would be pointers.
    objects = name("numpy", "dtype") + text("O8") + b"\x89\x88\x87R"
    fields = b"}" + text("a") + objects + number(0) + b"\x86s"
    state = (
        b"("
        + number(3)
        + text("|")
        + b"N"
        + text("a")
        + b"\x85"
        + fields
        + number(8)
        + number(1)
        + number(0)
    )
    kind = name("numpy", "dtype") + text("V8") + b"\x89\x88\x87R" + state + b"tb"
    content = b"\x96" + struct.pack("<Q", 8) + b"AAAAAAAA"
    array = b"(" + content + kind + number(1) + b"\x85" + text("C") + b"t"
    yield b"\x80\x05" + name("numpy._core.numeric", "_frombuffer") + array + b"R."
    # More elements than bytes, a shape below zero, one that is no shape.
    for shape in (number(1 << 40), number(-1), text("x"), b"N", name("builtins", "range")):
        plain = name("numpy", "dtype") + text("f8") + b"\x89\x88\x87R"
        array = b"(" + content + plain + shape + b"\x85" + text("C") + b"t"
        yield b"\x80\x05" + name("numpy._core.numeric", "_frombuffer") + array + b"R."
    # Lists in lists in lists, around a name.
    yield (
        b"\x80\x05"
        + b"](" * 100_000
        + name("builtins", "range")
        + number(1)
        + b"\x85R"
        + b"e" * 100_000
        + b"."
    )


_BARE = tuple(b"().012NRQabdelosut\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98]}I")
"""Opcodes without an argument, or whose argument may be anything."""


class Fuzzer:
    """Draws hostile inputs.

    Args:
        source: Of chance; a seed gives the same inputs again.
    """

    def __init__(self, source: random.Random) -> None:
        self._source = source
        self._seeds = [bytes(pickle.dumps(value, 5)) for value in honest()]
        self._seeds += list(crafted("exploded"))[:-1]
        self._seeds += with_code()

    def draw(self) -> bytes:
        """The next input: a pickle, or a block."""
        choice = self._source.random()
        data = self._opcodes() if choice < 0.5 else self._mutated()
        if self._source.random() < 0.1:
            data = self._block(data)
        return data

    def _opcodes(self) -> bytes:
        """Opcodes in random order, which leave something on the stack more often than not."""
        source = self._source
        data = bytearray(b"\x80\x05" if source.random() < 0.9 else b"")
        for _ in range(source.randrange(1, 25)):
            choice = source.random()
            if choice < 0.2:
                data += name(*source.choice(NAMES))
            elif choice < 0.4:
                data += text(source.choice(TEXTS))
            elif choice < 0.5:
                data += number(source.choice(NUMBERS))
            elif choice < 0.55:
                content = source.randbytes(source.choice((0, 1, 4, 8, 10, 16)))
                data += b"\x96" + struct.pack("<Q", len(content)) + content
            elif choice < 0.6:
                content = source.randbytes(source.choice((0, 1, 4, 8, 10, 16)))
                data += b"C" + bytes([len(content)]) + content
            elif choice < 0.65:
                data += b"h" + bytes([source.randrange(4)])
            elif choice < 0.75:
                # A whole call, with the right number of arguments by chance.
                data += name(*source.choice(NAMES)) + b"("
                for _ in range(source.randrange(5)):
                    data += (
                        text(source.choice(TEXTS))
                        if source.random() < 0.5
                        else number(source.choice(NUMBERS))
                    )
                data += b"tR"
            else:
                data.append(source.choice(_BARE))
        return bytes(data) + b"."

    def _mutated(self) -> bytes:
        """A pickle of the seeds, changed at some places."""
        source = self._source
        data = bytearray(source.choice(self._seeds))
        for _ in range(source.randrange(1, 5)):
            place = source.randrange(len(data) + 1)
            choice = source.random()
            if choice < 0.4 and place < len(data):
                data[place] = source.choice(_BARE) if source.random() < 0.5 else source.randrange(256)
            elif choice < 0.6:
                del data[place : place + source.randrange(8)]
            elif choice < 0.8:
                other = source.choice(self._seeds)
                start = source.randrange(len(other))
                data[place:place] = other[start : start + source.randrange(40)]
            else:
                data[place:place] = name(*source.choice(NAMES))
        return bytes(data)

    def _block(self, data: bytes) -> bytes:
        """The pickle in a block with buffers, whose head may not be true."""
        source = self._source
        sizes = [source.choice((0, 8, 16, 64, 1 << 40)) for _ in range(source.randrange(3))]
        head = struct.pack("<8sQQ", payload.blocks.MAGIC, len(sizes), len(data))
        if source.random() < 0.2:
            head = struct.pack("<8sQQ", payload.blocks.MAGIC, source.choice((0, 1, 1 << 60)), 1 << 50)
        return head + b"".join(struct.pack("<Q", size) for size in sizes) + data + bytes(160)


def honest() -> Iterator[Any]:
    """Plain values of all kinds."""
    zone = datetime.timezone(datetime.timedelta(hours=1), "there")
    yield from (None, True, 1, -(1 << 80), 1.5, 1j, "text", b"bytes", bytearray(b"bytes"), range(1, 9, 2))
    yield [1, (2, {3, frozenset([4])}), {"a": [None], ("b", 2): 5.0}]
    yield datetime.datetime(2026, 11, 30, 12, 1, 2, 3, zone, fold=1)
    yield [datetime.date(1, 2, 3), datetime.time(4, 5, 6, 7), datetime.timedelta(-1, 2, 3), zone]
    yield {decimal.Decimal("1.5"): decimal.Decimal("NaN")}
    yield [ValueError("x", 1), OSError(2, "no such", "f"), UnicodeDecodeError("utf8", b"a", 0, 1, "bad")]
    yield [payload.ItemFailed(b"x", "text", "item"), 1, payload.Rest()]
    yield (pickle.dumps([1, 2]), pickle.dumps(ValueError("x")))
    try:
        import numpy
    except ImportError:
        return
    array = numpy.arange(6.0).reshape(2, 3)
    yield from (
        array,
        array.T,
        array[:, ::2],
        numpy.array(["ab", "c"]),
        numpy.zeros(0),
        numpy.array([True]),
    )
    yield numpy.zeros(2, [("a", "i4"), ("b", "U3", (2,)), ("c", [("d", ">f8")])])
    yield [numpy.float64(1.5), numpy.datetime64("2026-11-30"), numpy.zeros(3, "m8[25s]"), numpy.bool_(True)]
    yield [numpy.array([1, None], object), array.dtype]


def with_code() -> Iterator[bytes]:
    """Pickles with functions and classes by value: compiled, by their source, and in both forms."""

    class Local:
        def method(self) -> int:
            return 1

    known = Known(())
    for value in (lambda: 1, Local, Local(), [Local().method]):
        yield dump_by_value(value)
        with versions.wanted():
            yield dump_by_value(value)
        yield bytes(payload.dump_object(value, known))


_SCALARS = (type(None), bool, int, float, complex, str, bytes, bytearray, range, decimal.Decimal)
_TIMES = (datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone)
_OWN = (payload.ItemFailed, payload.Rest, payload.PlainOnly)


def strange(value: Any) -> list[str]:
    """The classes of all parts of a value that are not plain."""
    found = []
    seen: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        kind = type(one)
        if kind in (list, tuple, set, frozenset):
            waiting += one
        elif kind is dict:
            waiting += [*one, *one.values()]
        elif isinstance(one, BaseException):
            waiting += [
                *one.args,
                *vars(one).values(),
                *(value for value in (one.__cause__, one.__context__) if value),
            ]
        elif kind.__module__ == "numpy" or kind.__module__.startswith("numpy.dtypes"):
            kind_of = one if hasattr(one, "hasobject") else one.dtype
            if kind_of.hasobject:
                found.append("objects in an array")
        elif kind not in (*_SCALARS, *_TIMES, *_OWN) and kind.__module__ != "dispy.errors":
            found.append(f"{kind.__module__}.{kind.__qualname__}")
    return found


def read(data: bytes) -> list[str]:
    """Read an input in all ways, while the hook listens; returns what must not be, in words."""
    global _is_listening
    faults: list[str] = []
    doubted = payload.PlainOnly(data)
    ways: list[Callable[[], Any]] = [
        lambda: payload.load(doubted),
        lambda: payload.load_results(doubted),
        lambda: payload.load_failure(doubted),
        lambda: payload.load_exception(doubted, "text"),
    ]
    for way in ways:
        HEARD.clear()
        value: Any = None
        _is_listening = True
        try:
            value = way()
        except NotPlainError:
            pass
        except BaseException as error:
            faults.append(f"raises {error!r}")
        finally:
            _is_listening = False
        faults += HEARD
        faults += [f"gives {kind}" for kind in strange(value)]
        # What is done with a result first: it is shown.
        try:
            repr(value)
            str(value)
        except (RecursionError, ValueError, UnicodeError, OverflowError):
            pass
    return faults


def main() -> None:
    """Read inputs for a time; ends with exit code 1 at the first that is more than plain data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    # A pickle can ask for any amount of memory: as a MemoryError it is one more refusal.
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    listen()
    for value in honest():
        read(pickle.dumps(value, 5))  # imports numpy
    fuzzer = Fuzzer(random.Random(options.seed))
    count = taken = 0
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        data = fuzzer.draw()
        faults = read(data)
        count += 1
        if faults:
            print(f"seed {options.seed}, input {count}: {data!r}\n" + "\n".join(faults))
            sys.exit(1)
        try:
            payload.load(payload.PlainOnly(data))
            taken += 1
        except NotPlainError:
            pass
    print(f"seed {options.seed}: {count} inputs, {taken} of them plain data, nothing ran")


if __name__ == "__main__":
    main()
