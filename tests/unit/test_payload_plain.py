"""Payloads whose makers are not trusted: plain data comes whole, nothing else comes at all, and nothing runs."""

from __future__ import annotations

import copyreg
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dispy import errors, payload
from dispy.errors import JobError, NotPlainError, PicklingError, RemoteTraceback
from dispy.payload.blocks import Ready
from fuzz import pickles

numpy = pytest.importorskip("numpy")


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


class OwnError(Exception):
    pass


def back(value: Any) -> Any:
    """A value as it comes to a program that takes plain data only."""
    return payload.load(payload.PlainOnly(payload.whole(payload.dump(value))))


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, numpy.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


VALUES = [
    value
    for value in pickles.honest()
    if "Error" not in repr(value) and "ItemFailed" not in repr(value) and "object" not in repr(value)
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40].replace("\n", " "))
def test_plain_values_come_whole(value: Any) -> None:
    assert same(back(value), value)
    assert same(back([(value,), value]), [(value,), value])


def test_arrays_of_all_plain_types_come_whole() -> None:
    letters = "?bhilqpBHILQPefdgFDG"
    arrays = [numpy.ones((3, 2), letter) for letter in letters]
    arrays += [
        numpy.zeros(3, kind) for kind in ("S4", ">U3", "V5", "M8[ns]", "m8[2h]", "M8", ">i4", "U0", "<c16")
    ]
    for array in arrays:
        for seen in (array, array[::2], array.T, array[:0], numpy.broadcast_to(array, (2, *array.shape))):
            assert same(back(seen), seen), array.dtype


@pytest.mark.parametrize("shape", [(300, 300), (3, 30_000)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_are_views_of_their_payload(shape: tuple[int, ...], order: Any) -> None:
    array = numpy.arange(numpy.prod(shape), dtype=float).reshape(shape, order=order)
    block = payload.whole(payload.dump({"a": [array, array]}))
    found = payload.load(payload.PlainOnly(block))["a"]
    assert found[0] is found[1]
    assert same(found[0], array)
    assert numpy.shares_memory(found[0], numpy.frombuffer(block, numpy.uint8))
    assert found[0].flags.writeable


def test_large_bytes_come_whole() -> None:
    data = bytes(range(256)) * 1000
    assert back(data) == data
    assert back(bytearray(data)) == bytearray(data)
    assert payload.load(payload.PlainOnly(Ready(data))) is data


def test_what_is_shared_stays_shared() -> None:
    shared = [numpy.float64(1)]
    found = back({"a": shared, "b": (shared,)})
    assert found["a"] is found["b"][0]
    cycle: list[Any] = [numpy.float64(1)]
    cycle.append({"again": cycle})
    found = back(cycle)
    assert found[1]["again"] is found


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Point(1), "an object .*Point"),
        (Point, "Point"),
        ([{"deep": (Point(1),)}], "Point"),
        (len, "builtins.len"),
        (lambda: 1, "a function or class of the program"),
        (ValueError("x"), "builtins.ValueError"),
        (slice(1), "builtins.slice"),
        (numpy.array([1, None], object), r"an array of objects \(dtype object\)"),
        (numpy.zeros(1, [("a", "i4"), ("b", object)]), r"an array of objects \(dtype object\)"),
        (numpy.ma.masked_array([1], [0]), "numpy.ma"),
        (numpy.zeros(2).view(numpy.recarray), "an array of the class numpy.*recarray|numpy.rec.*recarray"),
        (numpy.random.default_rng(1), "numpy.random"),
        (payload.Rest(), "dispy.payload.calls.Rest"),
        (payload.ItemFailed(b"", "", ""), "dispy.payload.calls.ItemFailed"),
    ],
    ids=lambda value: repr(value)[:30].split(" at ")[0],
)
def test_all_else_is_refused_by_name(value: Any, words: str) -> None:
    with pytest.raises(NotPlainError, match=rf'{words}.* is not plain data, .*results="plain"'):
        back(value)


# Exceptions.


def raised(error: BaseException) -> BaseException | None:
    return payload.load_exception(payload.PlainOnly(payload.dump_exception(error)), "the traceback")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x", [1, {"a": 2}]),
        KeyError("k"),
        FileNotFoundError(2, "No such file or directory", "f"),
        UnicodeDecodeError("utf8", b"abc", 1, 2, "bad"),
        ExceptionGroup("some", [ValueError(1), OSError(2, "no")]),
        ZeroDivisionError(),
        SystemExit(3),
    ],
    ids=repr,
)
def test_errors_of_python_come_as_they_are(error: BaseException) -> None:
    error.add_note("a note")
    found = raised(error)
    assert type(found) is type(error)
    assert repr(found) == repr(error)
    assert str(found) == str(error)
    assert found.__notes__ == ["a note"]
    assert isinstance(found.__cause__, RemoteTraceback)


def test_errors_of_dispy_come_as_they_are() -> None:
    found = raised(PicklingError("no", hint="do"))
    assert type(found) is PicklingError
    assert (str(found), found.hint) == ("no; do", "do")
    assert isinstance(raised(JobError("x")), JobError)


def test_attributes_of_errors_come_but_none_that_python_looks_at() -> None:
    error = ValueError("x")
    error.code = 5  # type: ignore[attr-defined]
    error.__suppress_context__ = True
    found = raised(error)
    assert found is not None
    assert vars(found)["code"] == 5
    state = {"__class__": "x", "args": "x", "__cause__": 1, "own": [1], 5: 6}
    again = crafted_error(ValueError, "x", state=state)
    assert again is not None
    assert again.args == ("x",)
    assert vars(again) == {"own": [1]}


def crafted_error(kind: type[BaseException], *arguments: Any, state: Any = None) -> BaseException | None:
    """An exception as a hostile node may describe it."""
    data = pickle.dumps(pickles.Call(kind, *arguments, state=state), 5)
    return payload.load_exception(payload.PlainOnly(data), "the traceback")


@pytest.mark.parametrize(
    "error", [OwnError("x"), ValueError(Point(1)), SyntaxError("x", ("f", 1, 1 << 40, "t"))]
)
def test_other_errors_are_not_rebuilt(error: Exception) -> None:
    assert raised(error) is None


def test_places_of_encoding_errors_lie_in_their_text() -> None:
    assert crafted_error(UnicodeDecodeError, "utf8", b"abc", 0, 1, "bad") is not None
    for start, end in ((-1000, 1), (2, 1), (0, 1000)):
        assert crafted_error(UnicodeDecodeError, "utf8", b"abc", start, end, "bad") is None
        assert crafted_error(UnicodeEncodeError, "utf8", "abc", start, end, "bad") is None


# Maps.


def test_results_of_a_map() -> None:
    failed = payload.ItemFailed(payload.dump_exception(ValueError("x")), "text", "item")
    data = payload.whole(payload.dump([1, failed, numpy.float64(2), payload.Rest()]))
    one, error, two, rest = payload.load_results(payload.PlainOnly(data))
    assert (one, two, error.text, error.item, type(rest)) == (1, 2.0, "text", "item", payload.Rest)
    assert isinstance(payload.load_exception(error.error, "text"), ValueError)


def test_a_map_that_failed() -> None:
    data = payload.dump_failure([1, numpy.float64(2)], payload.dump_exception(KeyError("k")))
    found = payload.load_failure(payload.PlainOnly(data))
    assert found is not None
    assert found[0] == [1, 2.0]
    assert isinstance(payload.load_exception(found[1], "text"), KeyError)
    assert payload.load_failure(payload.PlainOnly(payload.dump_exception(ValueError()))) is None


@pytest.mark.parametrize("value", [1, (1, 2), (b"", b""), {}, "text", ([1], b"")])
def test_no_results_of_a_map(value: Any) -> None:
    doubted = payload.PlainOnly(payload.whole(payload.dump(value)))
    with pytest.raises(NotPlainError):
        payload.load_results(doubted)
    try:
        assert payload.load_failure(doubted) is None
    except NotPlainError:
        assert type(value) is tuple


# Attacks.


@pytest.fixture(scope="module", autouse=True)
def _listening() -> None:
    pickles.listen()


def ways(data: bytes) -> list[bytes]:
    """A pickle in all places in which one may stand."""
    nested = pickle.dumps((data, data))
    return [data, nested, pickle.dumps([payload.ItemFailed(data, "", "")]), pickle.dumps((nested, nested))]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_runs(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "ran"
    wraps: list[Callable[[Any], Any]] = [
        lambda bomb: bomb,
        lambda bomb: [1, {"a": (bomb,)}],
        lambda bomb: {"key": [bomb]},
        lambda bomb: numpy.array([bomb], object),
        lambda bomb: numpy.array([(1, bomb)], [("a", "i4"), ("b", object)]),
        lambda bomb: payload.ItemFailed(pickle.dumps(bomb), bomb, bomb),
        lambda bomb: pickles.Call(ValueError, bomb),
    ]
    for bomb in pickles.bombs(str(trace)):
        for wrap in wraps:
            data = pickle.dumps(wrap(bomb), protocol)
            for placed in ways(data):
                assert pickles.read(placed) == []
    assert not trace.exists()
    with pytest.raises(NotPlainError):
        payload.load(payload.PlainOnly(data))


def test_the_attacks_are_attacks(tmp_path: Path) -> None:
    """Unpickled as usual, they run."""
    trace = tmp_path / "ran"
    count = 0
    for bomb in pickles.bombs(str(trace)):
        try:
            payload.load(pickle.dumps(bomb))
        except Exception:
            pass
        if trace.exists():
            count += 1
            os.rmdir(trace) if trace.is_dir() else trace.unlink()
    assert count >= 8


def test_crafted_bytes_run_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    for data in pickles.crafted(str(trace)):
        for placed in ways(data):
            assert pickles.read(placed) == [], placed[:100]
    assert not trace.exists()


def test_extension_codes_are_not_taken_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine of the standard library would take what is there without asking."""
    monkeypatch.setitem(copyreg._extension_cache, 7, os.getcwd)  # type: ignore[attr-defined]
    data = b"\x80\x05\x82\x07)R."
    assert pickle.loads(data) == os.getcwd()
    with pytest.raises(NotPlainError):
        payload.load(payload.PlainOnly(data))


def test_a_few_bytes_do_not_take_all_memory() -> None:
    code = """
from pathlib import Path
from dispy import payload
from dispy.errors import NotPlainError

number, size = (1 << 24).to_bytes(4, "little"), (1 << 40).to_bytes(8, "little")
for data in (b"\\x80\\x05Nr" + number + b".", b"\\x80\\x05\\x96" + size + b"."):
    try:
        payload.load(payload.PlainOnly(data))
    except NotPlainError:
        print("refused")
peak_kb = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
print(peak_kb < 150_000 or peak_kb)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("refused\nrefused\nTrue\n", "")


def test_no_mutation_gets_through() -> None:
    """More of them: ``python -m tests.fuzz.pickles``."""
    fuzzer = pickles.Fuzzer(random.Random("plain"))
    for _ in range(1500):
        data = fuzzer.draw()
        assert pickles.read(data) == [], data


def test_what_does_not_fit_is_refused() -> None:
    """Truth values that are neither, and characters that do not exist, also in fields."""
    for kind, content in (
        ("?", b"\x02"),
        ("U1", b"\xff\xff\xff\x7f"),
        ([("a", "?"), ("b", "i1")], b"\x02\x01"),
    ):
        array = numpy.frombuffer(content, numpy.uint8).view(kind)
        with pytest.raises(NotPlainError):
            back(array)


def test_every_error_of_the_list_is_an_error() -> None:
    for name in ("JobError", "PicklingError", "ProgramError", "UsageError"):
        kind = getattr(errors, name)
        found = raised(kind("text"))
        assert type(found) is kind
        assert str(found) == "text"


def test_code_is_refused_in_each_of_its_forms() -> None:
    """Compiled, by its source, or both: a node that is not trusted with code cannot have any compiled here."""
    pickles_with_code = list(pickles.with_code())
    assert len(pickles_with_code) == 12
    for data in pickles_with_code:
        with pytest.raises(NotPlainError):
            payload.load(payload.PlainOnly(data))
        assert pickles.read(data) == []
