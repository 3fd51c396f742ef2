"""Code between minor versions of Python, tried within one: references into sources, recipes for classes, forms."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import importlib.util
import linecache
import marshal
import pickle
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from dispy import payload
from dispy.errors import PicklingError
from dispy.payload import forms, values, versions
from dispy.payload.by_value import bytecode, change_stamps, classes, portable, scopes, version_parts
from dispy.payload.by_value.pickler import dump_by_value
from dispy.payload.code import dump_code, load_code, with_setup_args
from dispy.payload.known_parts import Known
from dispy.payload.sent_functions import dump_function, load_function

OTHER = (3, 99)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions that a test meets are forgotten after it."""
    monkeypatch.setattr(versions, "others", set())


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Any]:
    """Makes a module of a text, whose code goes by value."""
    made: list[types.ModuleType] = []

    def make(text: str, name: str = "portable_script") -> Any:
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        cloudpickle.register_pickle_by_value(module)
        spec.loader.exec_module(module)
        made.append(module)
        return module

    yield make
    for module in made:
        cloudpickle.unregister_pickle_by_value(module)
        sys.modules.pop(module.__name__, None)


def there_and_back(value: Any) -> Any:
    with versions.wanted():
        data = dump_by_value(value)
    assert b"load_code_py" not in data
    return pickle.loads(data)


# References.


@pytest.mark.parametrize(
    "line",
    [
        "both = (lambda x: x + 1), (lambda x: x * 2)",
        "both = (lambda x: 1), (lambda x: 2), (lambda x: 1)",
        "both = [(lambda x: i) for i in range(2)] + [lambda x: x, (lambda x: lambda: x)(3)]",
        "both = (lambda x: 'äöü'), (lambda x: 'ä'), ((lambda x: x) if True else None)",
        "both = (lambda x: [lambda: x, (lambda: x * 2), lambda: (lambda: x)()])(4)",
        "both = (lambda x: [y for y in range(x)]), (lambda x: {y for y in range(x)}); other = lambda x: 3",
    ],
)
def test_each_of_several_lambdas_of_a_line_stays_itself(script: Any, line: str) -> None:
    functions = script(line).both
    for function in functions:
        copy = there_and_back(function)
        args = (5,) if function.__code__.co_argcount else ()
        assert copy(*args) == function(*args)


def test_code_is_what_the_whole_file_gives(script: Any) -> None:
    """The compiler makes other instructions for names that another statement imports."""
    module = script("import os, sys as system\nif True:\n    from json import loads\n\ndef f():\n"
                    "    return os.getpid(), system.getsizeof(1), loads('1')\n")  # fmt: skip
    copy = there_and_back(module.f)
    assert copy.__code__ == module.f.__code__
    assert [*copy.__code__.co_positions()] == [*module.f.__code__.co_positions()]


def test_flags_of_future_imports_and_of_coroutines_stay(script: Any) -> None:
    module = script(
        "from __future__ import annotations\nimport types\n@types.coroutine\ndef f(x: int):\n    yield x\n"
    )
    copy = there_and_back(module.f)
    assert copy.__code__.co_flags == module.f.__code__.co_flags
    assert copy.__annotations__ == {"x": "int"}


def test_a_cell_is_found_by_its_name() -> None:
    def outer(a: int, b: int) -> Any:
        return lambda: (b, a)

    code = outer(1, 2).__code__
    made = portable.make_function(code, {}, "f", ("more", "b", "a"), tuple(map(types.CellType, (0, 2, 1))))
    assert made() == (2, 1)
    with pytest.raises(PicklingError, match="'a' was not sent"):
        portable.make_function(code, {}, "f", ("b",), (types.CellType(2),))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("x + 1", "x + 2"), "is not what runs"),
        (lambda text: "\n" + text, "is not what runs"),
        (lambda _: "def (", "cannot be read"),
        (lambda _: "", "cannot be read"),
    ],
    ids=["edited", "moved", "no Python", "gone"],
)
def test_a_source_that_is_not_what_runs_is_refused_by_name(script: Any, change: Any, reason: str) -> None:
    function = script("def f(x):\n    return x + 1\n").f
    name = function.__code__.co_filename
    text = change("def f(x):\n    return x + 1\n")
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    with versions.wanted(), pytest.raises(PicklingError, match=reason) as raised:
        dump_by_value(function)
    assert "function f " in str(raised.value)
    assert ".".join(map(str, sys.version_info[:2])) in str(raised.value)
    assert pickle.loads(dump_by_value(function))(1) == 2  # for this version nothing has changed


def test_code_without_a_source_is_refused_by_name() -> None:
    namespace: dict[str, Any] = {"__name__": "nowhere"}
    exec(compile("def made():\n    return 1\n", "<nowhere>", "exec"), namespace)
    with (
        versions.wanted(),
        pytest.raises(PicklingError, match=r"function made .*its source cannot be read"),
    ):
        dump_by_value(namespace["made"])


def test_a_secret_in_a_function_is_not_sent_as_text(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function without it, of the same file, is; one that has it is not what the text without it gives."""
    monkeypatch.setattr(bytecode, "_hidden", {"the-secret"})
    module = script("def has():\n    return 'the-secret'\n\ndef f():\n    return 1  # the-secret\n")
    with versions.wanted():
        data = dump_by_value(module.f)
    assert b"the-secret" not in data
    assert pickle.loads(data)() == 1
    with versions.wanted(), pytest.raises(PicklingError, match="is not what runs"):
        dump_by_value(module.has)


def test_syntax_that_is_not_of_this_version_is_refused_by_name() -> None:
    statement = ("def newer():\n    return 1 +++ \n", 7, "file.py", 0, 0, ())
    with pytest.raises(
        PicklingError, match=r"function newer \(file.py, line 7\) uses syntax .*line 8.*Python 3.99"
    ):
        portable.code_at(statement, 7, "newer", None, 0, OTHER)


def test_code_that_is_not_in_its_statement_is_refused() -> None:
    statement = ("def f(): pass\n", 1, "file.py", 0, 0, ())
    with pytest.raises(PicklingError, match=r"function g .* cannot be told"):
        portable.code_at(statement, 1, "g", None, 0, OTHER)


def test_code_of_installed_modules_is_that_of_the_receiver() -> None:
    import contextlib

    @contextlib.contextmanager
    def manager() -> Iterator[int]:
        yield 1

    code = manager.__code__
    function, args = portable.reduce_code(code)
    assert (function, args[0]) == (portable.installed_code, "contextlib")
    assert function(*args) == code
    with pytest.raises(PicklingError, match=r"module contextlib has another gone .* than in Python 3.99"):
        portable.installed_code("contextlib", "gone", 0, 1, OTHER)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("f", "f"),
        ("f.<locals>.<listcomp>.<locals>.<lambda>", "f.<locals>.<lambda>"),
        ("<setcomp>.<locals>.<dictcomp>.<locals>.<lambda>", "<lambda>"),
        ("f.<locals>.<genexpr>", "f.<locals>.<genexpr>"),
    ],
)
def test_comprehensions_are_left_out_of_names(name: str, plain: str) -> None:
    assert portable.plain_name(name) == plain


# Compiled code.


def test_compiled_code_of_another_version_is_refused() -> None:
    code = (lambda: 1).__code__
    name = f"load_code_py{sys.version_info[0]}_{sys.version_info[1]}"
    data = pickle.dumps(bytecode.reduce_code(code)[0]), marshal.dumps(code)
    assert name.encode() in data[0]
    foreign = data[0].replace(name.encode(), b"load_code_py9_99"[: len(name)].ljust(len(name), b"9"))
    with pytest.raises(PicklingError, match=r"compiled by Python 9.99.*this is Python 3"):
        pickle.loads(foreign)
    with pytest.raises(AttributeError):
        _ = bytecode.load_code  # type: ignore[attr-defined]


def test_between_equal_versions_nothing_of_a_source_goes_along(script: Any) -> None:
    """Pickles for nodes of this version alone have compiled code, as short as the name of its loader allows."""
    module = script("def f(x):\n    return x + 1\n")
    known = Known(())
    known.is_one_version = True
    data = payload.dump_call((module.f,), {}, None, known)
    assert known.has_compiled_alone
    assert marshal.dumps(module.f.__code__) in data
    assert b"return x + 1" not in data
    assert b"portable" not in bytes(data).replace(b"portable_script", b"")
    assert len(bytecode.reduce_code(module.f.__code__)[0].__name__) == len("load_code_object")
    assert payload.load_call(data)[0][0](1) == 2


# Forms.


@pytest.mark.parametrize("is_other", [False, True])
def test_a_call_is_opened_in_the_form_that_can_be(
    script: Any, monkeypatch: pytest.MonkeyPatch, is_other: bool
) -> None:
    module = script("class C:\n    def f(self):\n        return 5\n")
    numbers = bytes(200_000)
    call = payload.dump_call((module.C(), lambda: 3, numbers), {}, None, Known(()))
    assert len(call) < 250_000  # the large buffer is there once
    if is_other:
        monkeypatch.setattr(forms, "HERE", OTHER)
    (one, two, three), *_ = payload.load_call(call)
    assert (one.f(), two(), three) == (5, 3, numbers)


def test_a_form_that_cannot_be_made_tells_why_only_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    function = eval("lambda: 4")
    call = payload.dump_call((function,), {}, None, Known(()))
    assert payload.load_call(call)[0][0]() == 4
    monkeypatch.setattr(forms, "HERE", OTHER)
    with pytest.raises(
        PicklingError, match=r"function <lambda> .*its source cannot be read.*this is Python 3.99"
    ):
        payload.load_call(call)


@pytest.mark.parametrize("is_other", [False, True])
def test_a_function_of_an_executor_has_two_forms(
    script: Any, monkeypatch: pytest.MonkeyPatch, is_other: bool
) -> None:
    module = script("N = 3\ndef f(x):\n    return x + N\n")
    dumped = dump_function(module.f, Known(()))
    assert dumped is not None
    if is_other:
        monkeypatch.setattr(forms, "HERE", OTHER)
    assert load_function(dumped[0])(1) == 4


def test_a_computation_has_two_forms(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("def f(x):\n    return x + 1\n")
    dumped = dump_code(module.f, [])
    args = with_setup_args(dumped.portable, (module.f,))
    monkeypatch.setattr(scopes, "is_worker", False)
    assert load_code(dumped.data).function(1) == 2
    assert load_code(args).setup_args[0](2) == 3
    monkeypatch.setattr("dispy.payload.code.HERE", OTHER)
    with pytest.raises(PicklingError, match=r"program runs on Python 3.* this node on Python 3.99"):
        load_code(dumped.data)
    assert load_code(dumped.portable).function(1) == 2


def test_a_computation_that_others_cannot_run_tells_them_why() -> None:
    dumped = dump_code(eval("lambda: 1"), [])
    assert load_code(dumped.data).function() == 1
    for code in (dumped.portable, with_setup_args(dumped.portable, (1,))):
        with pytest.raises(PicklingError, match=r"function <lambda> .*its source cannot be read"):
            load_code(code)


def test_what_a_journal_keeps() -> None:
    noted = forms.Noted(OTHER, b"code", b"portable")
    assert forms.unpack_code(forms.pack_code(noted)) == noted
    assert forms.unpack_code(b"").code == b""


# Errors.


def test_errors_name_versions_once_another_is_known() -> None:
    error = ModuleNotFoundError("No module named 'gone'")
    assert versions.explained(error) is error
    assert not hasattr(error, "__notes__")
    versions.meet(OTHER)
    for _ in range(2):
        versions.explained(error)
    (note,) = error.__notes__
    assert "3.99" in note
    assert versions.text_of(versions.HERE) in note
    told = versions.explained(PicklingError("module x has no 'y' here"))
    assert "3.99" in str(told)
    other = ValueError("mine")
    assert versions.explained(other) is other
    with pytest.raises(ModuleNotFoundError, match="no_such_module") as raised:
        values.load(b"\x80\x05\x8c\x0eno_such_module\x8c\x01x\x93.")
    assert "3.99" in raised.value.__notes__[0]


@pytest.mark.parametrize(
    ("text", "version"),
    [("3.12", (3, 12)), ("", None), ("3", None), ("3.x", None), ("³.1", None), ("3.12.1", None)],
)
def test_what_a_node_says_of_its_version(text: str, version: Any) -> None:
    assert versions.version_of(text) == version


# Classes.


@dataclasses.dataclass(order=True)
class Item:
    """Documented."""

    n: int
    more: list[int] = dataclasses.field(default_factory=list, metadata={"unit": "s"}, repr=False)
    kind: typing.ClassVar[str] = "item"
    start: dataclasses.InitVar[int] = 0
    _: dataclasses.KW_ONLY
    last: str = "z"

    def __post_init__(self, start: int) -> None:
        self.n += start


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Slotted:
    a: int = 3


@dataclasses.dataclass(unsafe_hash=True, init=False)
class Own:
    a: int

    def __init__(self) -> None:
        self.a = 7

    def __repr__(self) -> str:
        return "own"


Pair = collections.namedtuple("Pair", "left right class_", defaults=[1])


class Typed(typing.NamedTuple):
    a: int
    b: str = "x"

    def both(self) -> str:
        return self.b * self.a


class Color(enum.Enum):
    RED = 1
    ALIAS = 1
    LIST = [2]


class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2


class Data(Item, enum.Enum):
    ONE = (1,)


class Holder:
    @functools.cached_property
    def cached(self) -> int:
        return 8


@typing.runtime_checkable
class Proto(typing.Protocol):
    def both(self) -> str: ...


CHECKS: dict[str, Any] = {
    "dataclass": (Item, lambda cls: (repr(cls(1, start=2)), cls(1) < cls(2), cls(1).last, cls.kind, cls.__doc__,
                                     [(f.name, f.type, f.repr, dict(f.metadata)) for f in dataclasses.fields(cls)],
                                     repr(dataclasses.replace(cls(1), n=5, start=0)), cls.__match_args__)),
    "slots": (Slotted, lambda cls: (repr(cls()), cls.__slots__, cls() == cls(), cls(4).a)),
    "own methods": (Own, lambda cls: (repr(cls()), hash(cls()) == hash((7,)), cls() == cls())),
    "namedtuple": (Pair, lambda cls: (repr(cls(1, 2)), cls._fields, cls(1, 2)._replace(left=3), cls(1, 2)._asdict())),
    "NamedTuple": (Typed, lambda cls: (cls(2).both(), cls._make([1, "y"]), cls.__new__.__annotations__)),
    "enum": (Color, lambda cls: (cls.ALIAS is cls.RED, cls([2]).name, [m.value for m in cls], cls["RED"].value)),
    "flag": (Rights, lambda cls: (int(cls.READ | cls.WRITE), repr(cls(3)), [m.name for m in cls(3)])),
    "enum of data": (Data, lambda cls: (cls.ONE.n, cls.ONE.name, repr(cls.ONE))),
    "cached property": (Holder, lambda cls: cls().cached),
    "protocol": (Proto, lambda cls: (isinstance(Typed(1), cls), isinstance(1, cls))),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
def test_a_class_is_made_with_the_parts_of_this_version(
    script: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Sent without what its version has made; the receiver makes that anew."""
    cls, look = CHECKS[name]
    module = script(
        Path(__file__).read_text().partition("# Classes.\n")[0].partition("OTHER")[0] + sent_text()
    )
    theirs = getattr(module, cls.__name__)
    kept, recipes = version_parts.split(theirs, dict(vars(theirs)))
    assert "__static_attributes__" not in kept
    assert not [value for value in kept.values() if getattr(value, "__code__", None) is not None
                and value.__code__.co_filename == "<string>"]  # fmt: skip
    assert recipes
    expected = look(theirs)
    with versions.wanted():
        data = dump_by_value(theirs)
    # As in a process that has neither the module nor the class.
    classes._by_identity.pop(change_stamps.identity_of(theirs), None)
    monkeypatch.delitem(sys.modules, module.__name__)
    copy = pickle.loads(data)
    assert copy is not theirs
    assert repr(look(copy)) == repr(expected)


def sent_text() -> str:
    """The classes above, as a text of their own."""
    text = Path(__file__).read_text().partition("# Classes.\n")[2]
    return text.partition("CHECKS: dict")[0]
