"""Compiled code: the names that it looks up, the modules that it imports, and how it travels with its source.

A code object travels as it runs, between equal minor versions of Python, with its file name in the program; between
others as ``portable`` says. The text of its file goes beside it, so that tracebacks, ``inspect.getsource``, warnings
and profilers show lines on nodes.
"""

from __future__ import annotations
import __future__

import dis
import linecache
import marshal
import re
import sys
import weakref
from collections.abc import Iterable, Iterator
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from dispy.errors import PicklingError

# Opcodes.

_GLOBAL = frozenset(
    dis.opmap[name]
    for name in ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")
    if name in dis.opmap
)
"""Opcodes of functions that look up, set or delete a global."""

_LOAD_NAME = dis.opmap["LOAD_NAME"]
_STORE_NAME = dis.opmap["STORE_NAME"]
_LOAD_GLOBAL = dis.opmap["LOAD_GLOBAL"]
_IMPORT_NAME = dis.opmap["IMPORT_NAME"]
_IMPORT_FROM = dis.opmap["IMPORT_FROM"]
_STORES = frozenset({_STORE_NAME, dis.opmap["STORE_GLOBAL"]})
"""Opcodes by which the top level of a module sets a global."""

_RAISE = dis.opmap["RAISE_VARARGS"]
_LOAD_CONST = dis.opmap["LOAD_CONST"]
_LOAD_SMALL_INT = dis.opmap.get("LOAD_SMALL_INT", -1)  # Python 3.14
_EXTENDED_ARG = dis.EXTENDED_ARG

_IDENTIFIER = re.compile(r"[^\W\d]\w*")
"""Pattern of one name in the text of an annotation."""

Namespace = dict[str, Any]
"""Globals of functions: values by name."""


class Imported(NamedTuple):
    """One import statement.

    Attributes:
        module: Absolute name of the module; empty if the package it is relative to is unknown.
        names: Names that are taken from the module, which may be submodules; empty for ``import module``.
    """

    module: str
    names: tuple[str, ...]


def _instructions(code: CodeType) -> Iterator[tuple[int, int]]:
    """Yields opcode and argument of each instruction, in a tenth of the time of ``dis.get_instructions``."""
    extended = 0
    raw = code.co_code
    for place in range(0, len(raw), 2):
        op, arg = raw[place], raw[place + 1] | extended
        extended = arg << 8 if op == _EXTENDED_ARG else 0
        if op != _EXTENDED_ARG:
            yield op, arg


_names: weakref.WeakKeyDictionary[CodeType, frozenset[str]] = weakref.WeakKeyDictionary()
"""Answers of ``global_names``, by code object: every pickle of a function asks for one."""


def global_names(code: CodeType) -> frozenset[str]:
    """Returns the names of globals that a function and the code within it look up, set or delete.

    Names of attributes are not among them. A function that goes by value brings the globals of these names.
    """
    known = _names.get(code)
    if known is None:
        found: set[str] = set()
        stored: set[int] = set()
        for op, arg in _instructions(code):
            if op in _GLOBAL:
                found.add(code.co_names[arg >> 1 if op == _LOAD_GLOBAL else arg])
            elif op == _STORE_NAME:
                stored.add(arg)
            elif op == _LOAD_NAME and arg not in stored:
                # In the body of a class: an attribute of the class if the body has set it before, else a global.
                found.add(code.co_names[arg])
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                found |= global_names(constant)
        known = _names[code] = frozenset(found)
    return known


def all_names(code: CodeType) -> set[str]:
    """Returns the names of globals, attributes and imported modules in a function's instructions and code within."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= all_names(constant)
    return names


def names_in_texts(code: CodeType, namespace: Namespace) -> list[str]:
    """Returns the names, sorted, of globals (types, modules) that annotations of classes within a function use.

    With ``from __future__ import annotations`` these are texts, and no instruction names their types. Without it
    instructions name them (``global_names``), and the list is empty. ``namespace``: globals of the function, by name.
    """
    if not code.co_flags & _FUTURE_ANNOTATIONS:
        return []
    words = {word for text in _class_texts(code) for word in _IDENTIFIER.findall(text)}
    return [word for word in sorted(words) if _is_annotation(namespace.get(word))]


def _class_texts(code: CodeType) -> Iterator[str]:
    """Yields the constant texts in the bodies of classes with annotations: the annotations are among them."""
    if "__annotations__" in code.co_names:
        yield from (constant for constant in code.co_consts if isinstance(constant, str))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _class_texts(constant)


_FUTURE_ANNOTATIONS = __future__.annotations.compiler_flag
"""Flag of code that was compiled with ``from __future__ import annotations``: its annotations are texts."""


def _is_annotation(value: Any) -> bool:
    """True if an annotation may name this value: a class, a module or an object of ``typing``."""
    return isinstance(value, (type, ModuleType)) or type(value).__module__ == "typing"


def named_in(annotations: Any, namespace: Namespace, besides: Iterable[str] = ()) -> list[str]:
    """Returns the names of globals that annotations in the form of text use: ``typing.get_type_hints`` looks them up.

    In the order of the annotations, each name once.
    Args:
        annotations: Annotations by name; anything but a dictionary has none.
        namespace: The globals, by name.
        besides: Names that are left out.
    """
    if not isinstance(annotations, dict):
        return []
    texts = [name for value in annotations.values() for name in _texts(value)]
    known = set(besides)
    return [name for name in dict.fromkeys(texts) if name in namespace and name not in known]


def _texts(annotation: Any) -> Iterator[str]:
    """Yields the names in the texts of an annotation, and of the parts of a generic one such as ``list["Model"]``."""
    if isinstance(annotation, str):
        yield from _IDENTIFIER.findall(annotation)
    else:
        forward = getattr(annotation, "__forward_arg__", None)
        if isinstance(forward, str):
            yield from _IDENTIFIER.findall(forward)
        for part in getattr(annotation, "__args__", ()) or ():
            if part is not annotation:
                yield from _texts(part)


def imports(code: CodeType, package: str) -> Iterator[Imported]:
    """Yields the import statements of some code and the code within it.

    Args:
        code: Code of a function or module.
        package: Name of the package that relative imports start from.
    """
    if _IMPORT_NAME in code.co_code[::2]:
        before = [0, 0]  # the two instructions before: level and names, as pushed
        consts: list[Any] = [None, None]
        for op, arg in _instructions(code):
            if op == _IMPORT_NAME:
                level, names = consts if before[1] == _LOAD_CONST else (0, None)
                module = code.co_names[arg >> 2 if sys.version_info >= (3, 15) else arg]
                yield _absolute(module, level or 0, names or (), package)
            before = [before[1], op]
            value = arg if op == _LOAD_SMALL_INT else code.co_consts[arg] if op == _LOAD_CONST else None
            consts = [consts[1], value]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from imports(constant, package)


def _absolute(module: str, level: int, names: tuple[str, ...], package: str) -> Imported:
    """Returns an import statement with the absolute name of its module.

    Args:
        module: Name in the statement; empty for ``from . import a``.
        level: Number of dots before the name; 0: it is absolute.
        names: Names that are taken from the module.
        package: Name of the package that relative imports start from.
    """
    if not level:
        return Imported(module, names)
    base = package.rsplit(".", level - 1)[0] if package.count(".") >= level - 1 else ""
    return Imported(f"{base}.{module}" if base and module else base, names)


def names_used(code: CodeType) -> set[str]:
    """Returns the names that the top level of a module looks up, including names that it has set itself.
    ``modules.fallbacks`` looks among them for modules that depend on the machine.
    """
    return {code.co_names[arg] for op, arg in _instructions(code) if op == _LOAD_NAME}


def raises(code: CodeType) -> bool:
    """True if a raise statement stands at the top level of a module: importing it may fail elsewhere."""
    return _RAISE in code.co_code[::2]


def bound_by_import(code: CodeType, package: str) -> dict[str, tuple[str, str]]:
    """Returns the globals that import statements at the top level of a module bind: importing it gives them anew.

    Args:
        code: Code of the module.
        package: Name of the package that relative imports start from.

    Returns:
        By name of the global: name of the imported module, and name that is taken from it (empty: the module itself).
    """
    found: dict[str, tuple[str, str]] = {}
    before: list[Any] = [None, None]
    module, attribute = "", ""
    for op, arg in _instructions(code):
        if op == _IMPORT_NAME:
            module = _absolute(code.co_names[arg], before[0] or 0, (), package).module
            attribute = ""
        elif op == _IMPORT_FROM:
            attribute = code.co_names[arg]
        elif op == _STORE_NAME and module:
            name = code.co_names[arg]
            found[name] = (module, attribute)
            if not attribute:
                module = ""
        elif op not in _WHILE_IMPORTING:
            module = ""
        value = arg if op == _LOAD_SMALL_INT else code.co_consts[arg] if op == _LOAD_CONST else None
        before = [before[1], value]
    return found


_WHILE_IMPORTING = frozenset(
    dis.opmap[name]
    for name in ("LOAD_CONST", "POP_TOP", "CACHE", "SWAP", "COPY", "NOP")
    if name in dis.opmap
)
"""Opcodes that may stand within an import statement; any other ends it."""


def nested(code: CodeType) -> Iterator[CodeType]:
    """Yields a code object, and those within it at any depth: of functions, classes and the like."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def constants(code: CodeType) -> Iterator[str]:
    """Yields the texts that are constants of some code and the code within it: paths of files may be among them."""
    for constant in code.co_consts:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple):
            yield from (item for item in constant if isinstance(item, str))
        elif isinstance(constant, CodeType):
            yield from constants(constant)


_NOTHING = object()
"""Stands for any value that is no constant, while ``constant_assignments`` follows what globals are set to."""


def constant_assignments(code: CodeType) -> dict[str, Any]:
    """Returns the constants that globals are set to by the top level of a module, by name of the global.

    Globals that it sets more than once, or to something else, are left out. ``modules.changed_globals`` does not send
    a global that still has the value of its constant: importing the module gives it.
    """
    found: dict[str, Any] = {}
    spoiled: set[str] = set()
    value: Any = _NOTHING
    for op, arg in _instructions(code):
        if op in _STORES:  # STORE_GLOBAL where a function declares the name global
            name = code.co_names[arg]
            if value is _NOTHING or name in found:
                spoiled.add(name)
            found[name] = value
        value = arg if op == _LOAD_SMALL_INT else code.co_consts[arg] if op == _LOAD_CONST else _NOTHING
    return {name: value for name, value in found.items() if name not in spoiled}


def assigned(code: CodeType) -> set[str]:
    """Returns the names that the top level of a module, or a function's own code, sets or deletes as globals.

    Code within it is not looked into.
    """
    return {code.co_names[arg] for op, arg in _instructions(code) if op == _STORE_NAME} | {
        code.co_names[arg] for op, arg in _instructions(code) if op in _GLOBAL and op != _LOAD_GLOBAL
    }


# Sources.


_hidden: set[str] = set()
"""Secrets of clusters, which may stand in the script: stars replace them in source texts and the command line that
are sent (``hide``)."""


def hide(secret: str) -> None:
    """Have stars take the place of a secret in the text of source files and the command line, if they are sent later.

    Compiled code keeps its constants, as it would do something else without them. An empty secret is ignored.
    """
    if secret:
        _hidden.add(secret)


def source_of(filename: str, namespace: Namespace) -> str:
    """Returns the text of a file of code, a notebook's cell or a file in an archive; empty if there is none.

    Secrets in it are replaced (``hide``).

    Args:
        filename: Name of the file, as code objects have it.
        namespace: Globals of the code, whose loader may know the text; may be empty.
    """
    if filename in ("<string>", "<stdin>") and sys.version_info < (3, 13):
        return ""  # code of ``exec`` or typed at a prompt, which has no text before Python 3.13
    try:
        text = "".join(linecache.getlines(filename, namespace))
    except Exception:  # a loader of the user's own
        return ""
    return without_secrets(text)


def without_secrets(text: str) -> str:
    """Returns a text with stars in place of the secrets of ``hide``: as many as a secret has characters."""
    for secret in _hidden:
        text = text.replace(secret, "*" * len(secret))
    return text


def show_source(filename: str, text: str) -> None:
    """Have tracebacks and ``inspect`` find this text for a file, even if the machine has another file of the name."""
    # Without a time of change: ``linecache`` keeps such entries when it looks at files again.
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)


# Code objects.

_PREFIX = "load_code_py"
"""Beginning of the names by which pickles call the loader of compiled code; the minor version follows (``3_12``)."""


def reduce_code(code: CodeType) -> tuple[Any, tuple[bytes]]:
    """Returns how a code object is pickled for the same minor version: marshalled, as in ``.pyc`` files.

    The name of the function that loads it tells the version: another one refuses it (``__getattr__``), as running the
    bytecode of another version ends in a crash at best.

    Raises:
        ValueError: A constant of the code is not one that a compiler makes.
    """
    return _load_code, (marshal.dumps(code),)


def _load_code(data: bytes) -> CodeType:
    """Returns the code object that ``reduce_code`` has pickled; pickles call this under a name with the version."""
    code: CodeType = marshal.loads(data)
    return code


_load_code.__name__ = _load_code.__qualname__ = f"{_PREFIX}{sys.version_info[0]}_{sys.version_info[1]}"
globals()[_load_code.__name__] = _load_code


def __getattr__(name: str) -> Any:
    """Refuse code that another minor version has compiled; pickles of it name a function that is not here.

    Raises:
        PicklingError: The name is that of another version's loader.
        AttributeError: Any other name.
    """
    version = name.removeprefix(_PREFIX)
    if version == name:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    theirs, here = version.replace("_", "."), f"{sys.version_info[0]}.{sys.version_info[1]}"
    raise PicklingError(
        f"a function was compiled by Python {theirs}, and this is Python {here}: no version runs what another has "
        "compiled",
        hint="submit the job again, now that the cluster knows a node of another version, "
        f"or use Python {theirs} on all machines",
    )
