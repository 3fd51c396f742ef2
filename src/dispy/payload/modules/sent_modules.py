"""The user's own modules, as they are sent: code as it runs, source, files that importing needs, changed globals.

The search (``gather``) starts at the modules that pickles name and follows the import statements of code, and the
modules that globals hold. A package is taken as a whole. Nothing is imported that the program has not imported.
"""

from __future__ import annotations

import logging
import marshal
import os
import sys
import types
from collections.abc import Iterable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from itertools import islice
from typing import Any, NamedTuple

from dispy.payload.by_value import bytecode
from dispy.payload.by_value.bytecode import Imported
from dispy.payload.modules.loaded_code import can_be_sent, code_of, imported_by, is_changed, started_ns
from dispy.payload.modules.origins import (
    Origin,
    is_library,
    lies_with_packages,
    modules_below,
    origin_of,
)

logger = logging.getLogger("dispy.client")

PACKAGE_FILES_MAX = 1000
"""Largest package that is sent as a whole (modules); of a larger one only modules in use are sent.

Also the largest number of data files that are sent with a package: others are left out.
"""

BESIDE_MAX = 8 * 1024 * 1024
"""Largest size of all files together that are sent with a module, as it may read them when it is imported (bytes).

A file that would exceed it is left out.
"""

_CODE = (".py", ".pyc", *EXTENSION_SUFFIXES)
"""Endings of the names of files of code: such a file is a module of a package, and not one of its data files."""


class Module(NamedTuple):
    """One module on its way.

    Attributes:
        name: Name by which the module is imported.
        is_package: True if it has modules below it.
        path: Path of its file in the program, which tracebacks show; empty for a namespace package.
        source: Text of the module, as in its file; None if there is none.
        code: Code of the module as it runs in the program; empty if the program has not imported it: then the node
            compiles the text.
        globals: Values of its globals in the program, pickled (``changed_globals``); empty for none.
        by_value: Used part of the module, pickled, for a node that cannot import it (``fallbacks``); empty for none.
        files: Contents of files that it may read, by path relative to the directory from which it is imported.
        home: True if the directory from which it is imported is the program's current directory, where its relative
            paths start: a node makes the corresponding directory current while the top level runs.
    """

    name: str
    is_package: bool
    path: str
    source: bytes | None
    code: bytes
    globals: bytes = b""
    by_value: bytes = b""
    files: dict[str, bytes] = {}
    home: bool = False


class _Search:
    """State of one search for the user's own modules (``gather``): import statements of a found one lead to more."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        """Path of the file of each module, by name; empty for a module without a file."""
        self.left: list[str] = []
        """Names of modules that were found and whose import statements are still to be followed."""
        self.along: dict[str, str] = {}
        """Paths of the modules in packages that were found, by name: sent even if no statement imports them.

        Code may load them by name.
        """
        self._tops: dict[str, ModuleSpec | None] = {}
        """Answers of ``_find_top``, by top name of a module that is not loaded; None for a name that is not found."""

    def want(self, name: str) -> None:
        """Add a module to ``found``, if it is the user's own, with the packages above it.

        The rest of its package goes to ``along``.
        """
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            self._take(".".join(parts[:count]))

    def _take(self, name: str) -> None:
        """Add one module to ``found``, if it is the user's own and new.

        Of a top package all modules below go to ``along``, unless they are more than ``PACKAGE_FILES_MAX``.
        """
        if name in self.found or name in ("", "__main__", "dispy"):
            return
        module = sys.modules.get(name)
        if module is not None:
            if origin_of(name) is not Origin.OWN or not can_be_sent(name):
                return
            path = getattr(module, "__file__", None) or ""
            places = list(getattr(module, "__path__", ()))
        else:
            spec = self._find(name)
            if spec is None:
                return
            path = spec.origin if spec.has_location and spec.origin else ""
            places = list(spec.submodule_search_locations or ())
        self.found[name] = path
        self.left.append(name)
        if "." not in name:
            below = [
                entry for place in places for entry in islice(_below(place, name), PACKAGE_FILES_MAX + 1)
            ]
            if len(below) > PACKAGE_FILES_MAX:
                logger.info(
                    "package %s has more than %d modules: those in use are sent", name, PACKAGE_FILES_MAX
                )
            else:
                self.along.update(below)

    def _find(self, name: str) -> ModuleSpec | None:
        """Returns the specification of a module that is not loaded; None if it is not the user's own, or not found.

        Nothing is imported: of a package that is not loaded only the package itself is found.
        """
        top, dot, _ = name.partition(".")
        if dot:
            parent = sys.modules.get(name.rpartition(".")[0])
            places = list(getattr(parent, "__path__", ()))
            if not places:
                return None
            spec = PathFinder.find_spec(name, places)
        else:
            if top not in self._tops:
                self._tops[top] = _find_top(top)
            spec = self._tops[top]
        return spec if spec is not None and _is_own(spec) else None


def _find_top(name: str) -> ModuleSpec | None:
    """Returns the specification of a module by its top name, of the first finder that has it; None for none.

    A finder that raises an exception counts as one that has not.
    """
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        try:
            spec = find(name, None) if find is not None else None
        except Exception:  # raised by a finder of the user's
            spec = None
        if spec is not None:
            return spec  # type: ignore[no-any-return]
    return None


def _is_own(spec: ModuleSpec) -> bool:
    """True if a module that is not loaded is the user's own: not built in, and not of an installed package."""
    places = (
        [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    )
    if not places or any(lies_with_packages(place) for place in places):
        return False
    return not is_library(spec.name, places[0])


def _below(place: str, top: str) -> Iterator[tuple[str, str]]:
    """Yields name and path of each module below a directory of a package, which may be in an archive.

    Args:
        place: Path of the directory; nothing is yielded if it lies with installed packages.
        top: Name of the package.
    """
    if lies_with_packages(place):
        return
    if os.path.isdir(place):
        for directory, names, files in os.walk(place):
            names[:] = sorted(name for name in names if name.isidentifier() and name != "__pycache__")
            below = os.path.relpath(directory, place)
            parts = [] if below == "." else below.split(os.sep)
            for name in sorted(files):
                yield from _module_at(f"{directory}/{name}", [top, *parts], name)
        return
    archive, inside = _in_archive(place)
    if archive:
        with _opened(archive) as file:
            for entry in file.namelist():
                if entry.startswith(f"{inside}/"):
                    *parts, name = entry[len(inside) + 1 :].split("/")
                    yield from _module_at(f"{archive}/{entry}", [top, *parts], name)


def _module_at(path: str, parts: list[str], name: str) -> Iterator[tuple[str, str]]:
    """Yields name and path of the module in a file; nothing if the file's name is not that of a module.

    Args:
        path: Path of the file.
        parts: Names of the packages above the module, from the top package down, without dots.
        name: Name of the file, such as ``b.py`` or ``__init__.py``.
    """
    stem, dot, ending = name.partition(".")
    if dot and f".{ending}" in _CODE and (stem.isidentifier() or stem == "__init__"):
        yield ".".join(parts if stem == "__init__" else [*parts, stem]), path


def _in_archive(path: str) -> tuple[str, str]:
    """Returns the path of the archive that a path leads into, and the path within it; both empty if there is none."""
    archive = path
    while archive and not os.path.exists(archive):
        archive = os.path.dirname(archive)
    if os.path.isfile(archive) and archive != path:
        return archive, path[len(archive) + 1 :]
    return "", ""


def _opened(archive: str) -> Any:
    """Returns an archive, opened for reading (``zipfile.ZipFile``); the caller closes it."""
    import zipfile  # here: it costs 6 ms, and few programs need it

    return zipfile.ZipFile(archive)


_texts: dict[str, tuple[tuple[int, int], bytes]] = {}
"""By path of a file of code: time of change (nanoseconds) and size (bytes) of the file, and its content.

Contents are kept since all clusters of a program send the same files. A changed file is read again.
"""


def _read(path: str) -> bytes:
    """Returns the content of a file, which may be in an archive; empty if it cannot be read."""
    try:
        if os.path.isfile(path):
            found = os.stat(path)
            signature = found.st_mtime_ns, found.st_size
            known = _texts.get(path)
            if known is not None and known[0] == signature and signature[0] < started_ns():
                return known[1]
            with open(path, "rb") as file:
                data = file.read()
            if path.endswith(_CODE):
                _texts[path] = signature, data
            return data
        archive, inside = _in_archive(path)
        if archive:
            with _opened(archive) as opened:
                return bytes(opened.read(inside))
    except Exception:  # the file is no archive, or has no such file
        pass
    return b""


def gather(names: Iterable[str], statements: Iterable[Imported]) -> list[Module]:
    """Returns the user's own modules of some names, and those that they and some code import.

    The other modules of their packages come last. A module that cannot be sent as it runs is left out.

    Args:
        names: Names of loaded modules.
        statements: Import statements of code that goes by value.
    """
    search = _Search()
    for name in sorted(names):
        search.want(name)
    _follow(search, statements)
    modules = []
    while search.left:
        name = search.left.pop()
        module, code = _describe(name, search.found[name])
        if module is None:
            continue
        modules.append(module)
        loaded = sys.modules.get(name)
        if code is not None:
            _follow(search, bytecode.imports(code, name if module.is_package else name.rpartition(".")[0]))
        if loaded is not None:
            _follow_values(search, loaded)
    for name, path in search.along.items():
        if name not in search.found:
            modules.append(_describe_unused(name, path))
    return modules


TEXT = b"text"
"""Stands for the code of a module that the program has loaded, where its text is to be compiled: for other minor
versions of Python."""


def as_text(module: Module) -> Module:
    """Returns a module for other minor versions of Python: without compiled code.

    One whose source is missing, or is not what runs, raises ImportError where it is imported; the text says why.
    """
    if not module.path or module.path.endswith(tuple(EXTENSION_SUFFIXES)):
        return module
    reason = ""
    if module.source is None:
        reason = "its source is missing"
    elif module.code and is_changed(module.path):
        code = _compiled_text(module.source, module.path)
        if code is None or code != marshal.loads(module.code):
            reason = "its file has changed since the program has imported it"
    source = module.source
    if reason:
        version = ".".join(map(str, sys.version_info[:2]))
        told = f"module {module.name} runs on Python {version} alone: {reason} ({module.path})"
        source = f"raise ImportError({told!r})\n".encode()
    return module._replace(source=source, code=TEXT if module.code else b"")


def _describe_unused(name: str, path: str) -> Module:
    """Returns a module of a package that no import statement names; a node compiles its text if it imports it."""
    is_package = os.path.basename(path).startswith("__init__.")
    if path.endswith(".py"):
        return Module(name, is_package, path, _read(path), b"")
    code = _read(path)[16:] if path.endswith(".pyc") else b""
    return Module(name, is_package, path, None, code)


def imported_besides(needed: set[str], names: set[str]) -> list[str]:
    """Returns loaded modules that may have changed the needed ones, in the order in which the program loaded them.

    Such a module imports a needed one, as plug-ins do that register something; or it is below a package by whose name
    a needed module uses it.

    Args:
        needed: Names of modules that the code of the computation needs.
        names: Names of all modules that are sent: others are not looked at as importers.
    """
    statements = {
        name: imported_by(name) for name in names if name in sys.modules and code_of(name) is not None
    }
    reached: set[str] = set()
    left = [name for name in needed if name in statements]
    while left:
        name = left.pop()
        if name not in reached:
            reached.add(name)
            left += [other for other in statements[name] if other in statements]
    found = {name for name, others in statements.items() if name not in reached and others & reached}
    for name in reached:
        code = code_of(name)
        for value in list(vars(sys.modules[name]).values()) if code is not None else ():
            if isinstance(value, types.ModuleType) and hasattr(value, "__path__"):
                words = bytecode.all_names(code)  # type: ignore[arg-type]
                prefix = f"{value.__name__}."
                found |= {
                    below
                    for below in modules_below(value.__name__)
                    if below not in reached
                    and origin_of(below) is not Origin.VALUE
                    and words.issuperset(below[len(prefix) :].split("."))
                }
    return [name for name in list(sys.modules) if name in found]


def _follow(search: _Search, statements: Iterable[Imported]) -> None:
    """Add to a search the modules that import statements name.

    For ``from a import b`` these are ``a``, and ``a.b`` if that is a module.
    """
    for module, names in statements:
        if module:
            search.want(module)
            for name in names:
                if f"{module}.{name}" in sys.modules or module in search.found:
                    search.want(f"{module}.{name}")


def _follow_values(search: _Search, module: types.ModuleType) -> None:
    """Add to a search the modules whose objects a module holds, also if no import statement names them."""
    for value in list(vars(module).values()):
        if isinstance(value, types.ModuleType):
            search.want(value.__name__)
        elif isinstance(value, (types.FunctionType, type)):
            search.want(value.__module__ or "")


def _describe(name: str, path: str) -> tuple[Module | None, types.CodeType | None]:
    """Returns a module as it is sent, and its code.

    Instead of the module None, if it cannot be sent as it runs; instead of the code None, if there is none to follow.

    Args:
        name: Name of the module.
        path: Path of its file; empty for a namespace package.
    """
    loaded = name in sys.modules
    code = code_of(name) if loaded else None
    is_package = path == "" or os.path.basename(path).startswith("__init__.")
    if path.endswith(tuple(EXTENSION_SUFFIXES)):
        return Module(name, is_package, path, None, b""), None
    if path.endswith(".pyc"):
        data = _read(path)
        code = code or marshal.loads(data[16:])
        return Module(name, is_package, path, None, marshal.dumps(code)), code
    source = _read(path) if path else None
    if loaded and code is None:
        return None, None
    compiled = marshal.dumps(code) if code is not None else b""
    if code is None and source is not None:
        code = _compiled_text(source, path)
    if not path or code is None:
        return Module(name, is_package, path, source, compiled), code
    module = Module(name, is_package, path, source, compiled)
    module = module._replace(home=os.path.realpath(root_of(module)) == _current())
    return module._replace(files=_files_beside(module, code)), code


def root_of(module: Module) -> str:
    """Returns the path of the directory from which a module is imported: the one above its top package."""
    path = module.path
    for _ in range(module.name.count(".") + 1 + module.is_package):
        path = os.path.dirname(path)
    return path


def _current() -> str:
    """Returns the path of the current directory; empty if it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _compiled_text(source: bytes, path: str) -> types.CodeType | None:
    """Compiles the source of a module that is not loaded, in which callers look for imports and names of files.

    Returns None if it cannot be compiled. Nothing of it is run.
    """
    try:
        return compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None


def _files_beside(module: Module, code: types.CodeType) -> dict[str, bytes]:
    """Returns files that a module may read when it is imported: data of its package, and files that its code names.

    Constant texts of the code count as paths, relative to the module's directory, and also to the current directory
    if the module is imported from there. Files that would exceed ``BESIDE_MAX`` are left out.

    Returns:
        Contents, by path relative to the directory from which the module is imported.
    """
    root, directory = root_of(module), os.path.dirname(module.path)
    if not os.path.isdir(directory):
        return {}
    named = {text for text in bytecode.constants(code) if 0 < len(text) < 200 and "\0" not in text}
    wanted: list[str] = []
    for base in {directory, root} if module.home else {directory}:
        for text in named:
            path = f"{base}/{text}"
            if os.path.isfile(path):
                wanted.append(path)
            elif text not in (".", "..", "/") and os.path.isdir(path):
                wanted += [f"{path}/{other}" for other in named if os.path.isfile(f"{path}/{other}")]
    if module.is_package and "." not in module.name:
        wanted += [f"{directory}/{path}" for path in islice(_data_below(directory), PACKAGE_FILES_MAX)]
    found: dict[str, bytes] = {}
    left = BESIDE_MAX
    for path in dict.fromkeys(map(os.path.normpath, sorted(wanted))):
        if not path.startswith(f"{root}/") or path.endswith(_CODE) or os.path.getsize(path) > left:
            continue
        data = found[path[len(root) + 1 :]] = _read(path)
        left -= len(data)
    return found


def _data_below(directory: str) -> Iterator[str]:
    """Yields the paths of files below a directory, relative to it, without code and hidden directories."""
    for place, names, files in os.walk(directory):
        names[:] = sorted(name for name in names if name != "__pycache__" and not name.startswith("."))
        for name in sorted(files):
            if not name.endswith(_CODE) and os.path.isfile(f"{place}/{name}"):
                yield os.path.relpath(f"{place}/{name}", directory)
