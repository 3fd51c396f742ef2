"""Code between minor versions of Python: a reference into its source, compiled where it arrives.

Bytecode is of one minor version. A program and a node of different ones send a function as the text of the top-level
statement that it stands in, its line and its name; the receiver compiles that statement and takes the code from it.
The sender first compiles the statement itself: if the result is not the code that runs, the function is refused, as
when its file was edited since. Code of Python and of installed packages is looked up in the receiver's own.

Several lambdas may stand on one line: the column of each tells them apart. Python 3.12 and later compile
comprehensions into the code around them, so their names are left out of qualified names.
"""

from __future__ import annotations
import __future__

import ast
import functools
import importlib
import linecache
import re
import sys
import types
import warnings
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

from dispy.errors import PicklingError
from dispy.payload.by_value import bytecode
from dispy.payload.modules.origins import lies_with_packages
from dispy.payload.versions import HERE, Version, text_of

# References.


class Statement(NamedTuple):
    """A top-level statement of a file, or several that share a line.

    Attributes:
        text: Its lines, without secrets.
        line: Number of its first line in the file, from 1.
        filename: Name of the file.
        flags: Flags of ``from __future__`` imports that hold for it.
        optimize: Level of optimization (``python -O``) that it was compiled with.
        imported: Words in it that the file's top level imports: the compiler makes other instructions for these.
    """

    text: str
    line: int
    filename: str
    flags: int
    optimize: int
    imported: tuple[str, ...]

    def whole(self) -> str:
        """Returns a text that compiles to the same code as the statement does in its file."""
        imports = f"\nimport {', '.join(self.imported)}\n" if self.imported else ""
        return "\n" * (self.line - 1) + self.text + imports


Place = tuple[int, int]
"""Where a lambda begins: line, and column (bytes of UTF-8, from 0)."""

_FUTURES = functools.reduce(
    lambda flags, name: flags | getattr(__future__, name).compiler_flag, __future__.all_feature_names, 0
)
"""Flags of all ``from __future__`` imports."""

_ITERABLE_COROUTINE = 0x100
"""Flag that ``types.coroutine`` sets in a copy of a generator's code."""

_COMPREHENSIONS = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>"})
"""Names of code that only versions before 3.12 have."""


def plain_name(qualname: str) -> str:
    """Returns a qualified name of code without the comprehensions in it, which not all versions name."""
    if "comp>" not in qualname:
        return qualname
    parts = qualname.split(".")
    kept = [
        part
        for place, part in enumerate(parts)
        if part not in _COMPREHENSIONS and not (part == "<locals>" and parts[place - 1] in _COMPREHENSIONS)
    ]
    return ".".join(kept)


def reduce_code(code: types.CodeType) -> tuple[Any, tuple[Any, ...]]:
    """Returns how a code object is pickled in portable form: a call of ``code_at`` or ``installed_code``.

    Raises:
        PicklingError: Its source cannot be read, or is not what runs. Names function, file and line.
    """
    known = _references.get(id(code))
    if known is not None and known[0]() is code:
        return known[1]
    found = _installed_reference(code) or _reference(code)
    _keep(code, found)
    return found


_references: dict[int, tuple[weakref.ref[types.CodeType], tuple[Any, tuple[Any, ...]]]] = {}
"""Answers of ``reduce_code``, by address of the code; each goes with its code object."""


def _keep(code: types.CodeType, reference: tuple[Any, tuple[Any, ...]]) -> None:
    """Note how a code object is pickled, for as long as it lives."""
    address = id(code)

    def forget(_: object) -> None:
        _references.pop(address, None)

    _references[address] = weakref.ref(code, forget), reference


def _reference(code: types.CodeType) -> tuple[Any, tuple[Any, ...]]:
    """Returns how a code object of the user's is pickled; raises PicklingError if its source is not what runs."""
    text, source = _source_of(code)
    if not text:
        raise _refused(code, "its source cannot be read", "put it into a file")
    name = plain_name(code.co_qualname)
    added = code.co_flags & _ITERABLE_COROUTINE
    bare = code.replace(co_flags=code.co_flags & ~_ITERABLE_COROUTINE) if added else code
    span = next((each for each in source.spans if each[0] <= code.co_firstlineno <= each[1]), (0, 0))
    # IPython compiles each statement of a cell by itself, without the imports of others.
    for imported in (source.imported, frozenset[str]()):
        statement = _statement(text, *span, code.co_filename, code.co_flags & _FUTURES, imported)
        alike = source.codes.get((code.co_firstlineno, name), [])
        if alike and not imported:
            alike = _candidates(_codes(statement), code.co_firstlineno, name)
        same = [each for each in alike if _is_same(each, bare)]
        if same:
            break
    else:
        if (
            code.co_filename == "<string>"
        ):  # as all that is given to eval and exec; from 3.13 on -c is kept under it
            raise _refused(code, "its source cannot be read", "put it into a file")
        raise _refused(
            code, "its source is not what runs", "start the program again, so that it is read anew"
        )
    places = _places(statement, code.co_firstlineno) if code.co_name == "<lambda>" else []
    # Equal lambdas of one line are one code object in Python 3.11: always name the first of them.
    fit = [
        place
        for place in (places if len(places) > 1 else ())
        if [_content(each) for each in _candidates(_codes_at(statement, place), code.co_firstlineno, name)]
        == [_content(same[0])]
    ]
    return code_at, (tuple(statement), code.co_firstlineno, name, fit[0] if fit else None, added, HERE)


def _is_same(one: types.CodeType, other: types.CodeType) -> bool:
    """True if two code objects are equal, down to flags and the columns of their instructions."""
    return (
        one == other and one.co_flags == other.co_flags and [*one.co_positions()] == [*other.co_positions()]
    )


def lines_of(code: types.CodeType, qualname: str) -> list[int]:
    """Returns the first lines of code with a qualified name, such as a class, in the file that some code is of.

    Empty if the source cannot be read.
    """
    return [line for line, name in _source_of(code)[1].codes if name == plain_name(qualname)]


def _content(code: types.CodeType) -> tuple[Any, ...]:
    """Returns what tells a function from another one of its line and name, wherever on the line they stand."""
    return (
        code.co_code, code.co_consts, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars,
        code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags,
    )  # fmt: skip


def _refused(code: types.CodeType, reason: str, what_to_do: str) -> PicklingError:
    """Returns the error for code that cannot go to another minor version."""
    return PicklingError(
        f"function {code.co_qualname} ({code.co_filename}, line {code.co_firstlineno}) runs on Python "
        f"{text_of(HERE)} alone: {reason}",
        hint=f"{what_to_do}, or use Python {text_of(HERE)} on all machines",
    )


@functools.lru_cache(1024)
def _statement(
    text: str, first: int, last: int, filename: str, flags: int, imported: frozenset[str]
) -> Statement:
    """Returns lines of a file as a statement. Kept, so that functions of one statement share one text in a pickle."""
    own = "\n".join(text.split("\n")[first - 1 : last]) + "\n"
    named = tuple(sorted(imported.intersection(_WORD.findall(own))))
    return Statement(own, first, filename, flags, sys.flags.optimize, named)


_WORD = re.compile(r"[^\W\d]\w*")
"""Pattern of a name."""


class _Source(NamedTuple):
    """A text, compiled as a whole: the compiler makes other code of a name if another statement imports it.

    Attributes:
        spans: First and last line of each top-level statement; of several that share a line, those of all together.
        imported: Names that import statements outside of functions and classes bind.
        codes: Code objects by first line and plain name, in the order of the source.
    """

    spans: list[tuple[int, int]]
    imported: frozenset[str]
    codes: dict[tuple[int, str], list[types.CodeType]]


def _source_of(code: types.CodeType) -> tuple[str, _Source]:
    """Returns the text of the file that code is of, without secrets, and the same compiled; empty if unreadable."""
    try:
        text = bytecode.without_secrets("".join(linecache.getlines(code.co_filename)))
        return text, _source(text, code.co_filename, code.co_flags & _FUTURES)
    except Exception:  # no text of this name, or one that is no longer Python
        return "", _Source([], frozenset(), {})


@functools.lru_cache(64)
def _source(text: str, filename: str, flags: int) -> _Source:
    """Returns a file, compiled; raises SyntaxError or ValueError if the text is not Python."""
    tree = _parsed(text, flags)
    spans: list[tuple[int, int]] = []
    for node in tree.body:
        first = min([node.lineno, *[each.lineno for each in getattr(node, "decorator_list", ())]])
        last = node.end_lineno or first
        if spans and first <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(last, spans[-1][1]))
        else:
            spans.append((first, last))
    codes: dict[tuple[int, str], list[types.CodeType]] = {}
    for code in bytecode.nested(_compile(tree, filename, flags, sys.flags.optimize)):
        codes.setdefault((code.co_firstlineno, plain_name(code.co_qualname)), []).append(code)
    return _Source(spans, frozenset(_imported(tree)), codes)


def _imported(node: ast.AST) -> Iterator[str]:
    """Yields the names that import statements of a syntax tree bind, outside of functions and classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield from (
                each.asname or each.name.partition(".")[0] for each in child.names if each.name != "*"
            )
        elif not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.expr)):
            yield from _imported(child)


def _parsed(text: str, flags: int = 0) -> Any:
    """Returns the syntax tree of a text, in which ``await`` may stand at the top, as in a notebook's cell."""
    return _compile(text, "<parsed>", flags | ast.PyCF_ONLY_AST, -1)


def _compile(text: Any, filename: str, flags: int, optimize: int) -> Any:
    """Compile a text or a syntax tree without warnings, which its first compilation gave.

    Raises:
        SyntaxError, ValueError: The text is not Python of this version.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return compile(text, filename, "exec", flags, True, optimize)
        except SyntaxError:
            return compile(text, filename, "exec", flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, True, optimize)


@functools.lru_cache(256)
def _codes(statement: Statement) -> list[types.CodeType]:
    """Returns all code objects of a statement, compiled at its place in the file.

    Raises:
        SyntaxError, ValueError: The statement is not Python of this version.
    """
    flags = statement.flags & _FUTURES
    return [*bytecode.nested(_compile(statement.whole(), statement.filename, flags, statement.optimize))]


def _candidates(codes: list[types.CodeType], line: int, name: str) -> list[types.CodeType]:
    """Returns those code objects that begin at a line and have a plain name."""
    return [code for code in codes if (code.co_firstlineno, plain_name(code.co_qualname)) == (line, name)]


def _places(statement: Statement, line: int) -> list[Place]:
    """Returns the places of the lambdas that begin on a line, in the order of the source."""
    tree = _parsed(statement.whole(), statement.flags & _FUTURES)
    return sorted(
        _place(node) for node in ast.walk(tree) if isinstance(node, ast.Lambda) and node.lineno == line
    )


def _place(node: ast.Lambda) -> Place:
    """Returns where a lambda begins."""
    return node.lineno, node.col_offset


@functools.lru_cache(256)
def _codes_at(statement: Statement, place: Place) -> list[types.CodeType]:
    """Returns the code objects of a statement in which all other lambdas of a line are moved to other lines.

    Lambdas within the one at ``place`` stay. The instructions of a lambda do not always tell its column, so that it
    could not be found among others by its code.
    """
    flags = statement.flags & _FUTURES
    tree = _parsed(statement.whole(), flags)
    lambdas = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
    wanted = {id(inner) for node in lambdas if _place(node) == place for inner in ast.walk(node)}
    for number, node in enumerate(lambdas):
        if node.lineno == place[0] and id(node) not in wanted:
            node.lineno = node.end_lineno = _FAR + number
    return [*bytecode.nested(_compile(tree, statement.filename, flags, statement.optimize))]


_FAR = 10_000_000
"""Number of a line behind the end of any file."""


# Called by pickles that are loaded.


def code_at(
    statement: tuple[Any, ...], line: int, qualname: str, place: Place | None, added: int, version: Version
) -> types.CodeType:
    """Returns the code object of a reference, compiled here. Pickles call this.

    Args:
        statement: Parts of the ``Statement`` that it stands in.
        line: Number of its first line.
        qualname: Its qualified name (``plain_name``).
        place: Place of a lambda that is not alone on its line; None for other code.
        added: Flags that it has besides those that the compiler gives it.
        version: Version of Python that the reference comes from.

    Raises:
        PicklingError: The statement uses syntax that this version of Python does not have, or makes no such code.
    """
    whole = Statement(*statement)
    where = f"function {qualname} ({whole.filename}, line {line})"
    both = f"it comes from Python {text_of(version)}, and this is Python {text_of(HERE)}"
    try:
        codes = _codes(whole) if place is None else _codes_at(whole, place)
        found = _candidates(codes, line, qualname)
    except SyntaxError as error:
        raise PicklingError(
            f"{where} uses syntax that Python {text_of(HERE)} does not have "
            f"(line {error.lineno}: {error.msg}): {both}",
            hint=f"write it without that, or use Python {text_of(version)} or later on all machines",
        ) from None
    if len(found) != 1:
        raise PicklingError(
            f"{where} cannot be told from others of its line: {both}", hint="put it on a line of its own"
        )
    code = found[0]
    if added & _ITERABLE_COROUTINE:
        code = code.replace(co_flags=code.co_flags | _ITERABLE_COROUTINE)
    _keep(code, (code_at, (whole, line, qualname, place, added, version)))
    return code


def make_function(
    code: types.CodeType,
    scope: bytecode.Namespace,
    name: str,
    names: tuple[str, ...],
    cells: tuple[types.CellType, ...],
) -> types.FunctionType:
    """Returns a function without the parts that may refer to it again, as ``functions.make_function`` does.

    Cells are matched by name, as versions order them differently. Pickles call this.

    Args:
        code: Code of the function.
        scope: Globals of the function, by name; this dictionary itself is used.
        name: Name of the function.
        names: Names of the variables that it shares with other functions.
        cells: Their cells, in the order of ``names``.

    Raises:
        PicklingError: The code shares a variable that is not among them.
    """
    by_name = dict(zip(names, cells, strict=True))
    missing = [each for each in code.co_freevars if each not in by_name]
    if missing:
        raise PicklingError(
            f"function {code.co_qualname} ({code.co_filename}) has other variables in Python {text_of(HERE)}: "
            f"{missing[0]!r} was not sent",
            hint="use one version of Python, or write the function without a closure",
        )
    closure = tuple([by_name[each] for each in code.co_freevars]) or None
    return types.FunctionType(code, scope, name, None, closure)


# Code of Python and of installed packages.


def _installed_reference(code: types.CodeType) -> tuple[Any, tuple[Any, ...]] | None:
    """Returns how code of an installed module is pickled: by its name there; None for code of the user's."""
    name = _installed_module(code.co_filename)
    if not name:
        return None
    named = _named_codes(name, plain_name(code.co_qualname))
    lines = [each.co_firstlineno for each in named]
    if code.co_firstlineno not in lines:
        return None
    place = lines.index(code.co_firstlineno)
    return installed_code, (name, plain_name(code.co_qualname), place, len(lines), HERE)


def _installed_module(filename: str) -> str:
    """Returns the name of the installed module whose file has this name; empty if there is none."""
    if filename.startswith("<frozen "):
        return filename[len("<frozen ") : -1]
    if filename.startswith("<") or not lies_with_packages(filename):
        return ""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == filename and name != "__main__":
            return name
    return ""


@functools.lru_cache(256)
def _named_codes(module: str, qualname: str) -> list[types.CodeType]:
    """Returns the code objects of an installed module that have a qualified name, in the order of the source."""
    found = importlib.import_module(module)
    get_code = getattr(getattr(found.__spec__, "loader", None), "get_code", None)
    whole = get_code(module) if get_code is not None else None
    if whole is None:
        return []
    return [code for code in bytecode.nested(whole) if plain_name(code.co_qualname) == qualname]


def installed_code(module: str, qualname: str, place: int, count: int, version: Version) -> types.CodeType:
    """Returns code of an installed module as it is here. Pickles call this.

    Args:
        module: Name of the module.
        qualname: Qualified name of the code in it.
        place: Which of the codes of this name it is, from 0.
        count: How many of this name the module has in the other process.
        version: Version of Python there.

    Raises:
        PicklingError: The module has no such code here.
        Exception: The import of the module has raised it.
    """
    found = _named_codes(module, qualname)
    if len(found) != count:
        raise PicklingError(
            f"module {module} has another {qualname} in Python {text_of(HERE)} than in Python {text_of(version)}",
            hint="use one version of Python, or do without this function",
        )
    code = found[place]
    _keep(code, (installed_code, (module, qualname, place, count, version)))
    return code
