"""Import of modules that were sent, where jobs run: they are found before any other module of the name.

Files of the modules lie in a directory of the host, for processes that jobs start, and for code that reads or
inspects them. Tracebacks name the files of the program.
"""

from __future__ import annotations

import importlib
import importlib.util
import marshal
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, SourceFileLoader

from dispy.payload import versions
from dispy.payload.by_value import bytecode, scopes
from dispy.payload.modules import changed_globals
from dispy.payload.modules.sent_modules import TEXT, Module, root_of

Note = Callable[[types.ModuleType], None]
"""Called with each module of the user's that was just imported, before the code that imports it goes on.

The worker then gives the module the documented names, and its random generators streams of their own.
"""


class Finder:
    """Finds the modules of a computation; stands first in ``sys.meta_path``.

    Args:
        directory: Path of the directory for files of modules; made when it is needed.
        work: Path of the working directory, with files that were sent by name, among them packages with their data:
            those are preferred.
        on_imported: Called with each module that was imported (``Note``).

    Attributes:
        directory: Path of the directory for files of modules.
        on_imported: Called with each module that was imported (``Note``).
        pending: Modules whose globals are set when no top level is running any more, in the order of their imports,
            each with the values that the program has (``changed_globals``).
        depth: Number of modules whose top level is running, each imported by the one before; 0: no import is running.
        warnings: Sentences for the program: modules that cannot be imported here, globals that cannot be set, and
            packages of other versions. The host reports them when it has loaded the computation.
    """

    def __init__(self, directory: str, work: str, on_imported: Note) -> None:
        self.directory = directory
        self._work = work
        self._modules: dict[str, Module] = {}
        """Modules that were sent, by name, without those that ``forget`` has dropped."""
        self.on_imported = on_imported
        self.pending: list[tuple[types.ModuleType, bytes]] = []
        self.depth = 0
        self.warnings: list[str] = []

    def add(self, modules: Iterable[Module]) -> None:
        """Have imports find modules from now on, and write their files.

        A module whose name the finder has already is left out. If this process has loaded another module under the
        name of one that comes with its code, that is dropped from ``sys.modules``: imports then find the sent one.
        """
        added = [module for module in modules if module.name not in self._modules]
        for module in added:
            self._modules[module.name] = module
            self._write(module)
            known = sys.modules.get(module.name)
            if known is not None and module.code and not is_sent(known):
                # Python has a module of this name, and the program one of its own: import that.
                del sys.modules[module.name]
        if added and self.directory not in sys.path:
            sys.path.insert(0, self.directory)
            importlib.invalidate_caches()

    @contextmanager
    def importing(self, directory: str) -> Iterator[None]:
        """Count the block as the running top level of a module (``depth``), and run it in a directory.

        Afterwards the current directory is the one before. ``directory``: its path; empty: the current one.
        """
        self.depth += 1
        before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if directory else -1
        try:
            if directory:
                os.chdir(directory)
            yield
        finally:
            self.depth -= 1
            if before >= 0:
                os.fchdir(before)
                os.close(before)

    def settle(self) -> None:
        """Set globals of ``pending`` modules as they are in the program.

        Does nothing while a top level is running: modules that import each other are not complete then.
        """
        while self.pending and not self.depth:
            module, data = self.pending.pop(0)
            changed_globals.settle(module, data, self.warnings.append)

    def names(self) -> list[str]:
        """Returns the names of the modules that this finder finds."""
        return list(self._modules)

    def forget(self, tops: set[str]) -> None:
        """Have imports not find modules of these top names (``a`` of ``a.b``) any more: a job has brought others."""
        self._modules = {
            name: module for name, module in self._modules.items() if name.partition(".")[0] not in tops
        }
        if self.directory in sys.path:
            # The files of the modules are still there: look into the directory last.
            sys.path.remove(self.directory)
            sys.path.append(self.directory)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the specification of a sent module; part of the protocol of ``sys.meta_path``.

        None for any other module, and for one without Python code: the finders after this one look for it.
        """
        module = self._modules.get(name)
        if module is None or not module.path or (module.source is None and not module.code):
            return None
        place = self._place(module)
        loader = Loader(name, place, module, self)
        if not module.is_package:
            return importlib.util.spec_from_file_location(name, place, loader=loader)
        relative = name.replace(".", "/")
        places = [os.path.dirname(place), f"{self.directory}/{relative}", f"{self._work}/{relative}"]
        below = [each for each in dict.fromkeys(places) if os.path.isdir(each)]
        return importlib.util.spec_from_file_location(
            name, place, loader=loader, submodule_search_locations=below
        )

    def _place(self, module: Module) -> str:
        """Returns the path that a module gets as its file here, the first of these that exists.

        A file sent by name in the working directory; the program's own file, if this machine has it; one written by
        ``_write``, which is returned without a look.
        """
        relative = self._relative(module)
        staged = f"{self._work}/{relative}"
        if os.path.isfile(staged):
            return staged
        if module.source is not None and has_content(module.path, module.source):
            return module.path
        return f"{self.directory}/{relative}"

    def _relative(self, module: Module) -> str:
        """Returns the path of a module's source relative to the directory from which it is imported (``a/b.py``)."""
        path = module.name.replace(".", "/")
        return f"{path}/__init__.py" if module.is_package else f"{path}.py"

    def _write(self, module: Module) -> None:
        """Write the file of a module below ``directory``, and the files that it may read.

        Nothing is written for a module without a file, nor for a compiled one, which travels as a file of its own.
        """
        if not module.path or module.path.endswith(tuple(EXTENSION_SUFFIXES)):
            return
        path = f"{self.directory}/{self._relative(module)}"
        if module.source is None:
            path += "c"  # the module has compiled code and no source
        write(path, _as_file(module.code) if module.source is None else module.source)
        for relative, data in module.files.items():
            write(f"{self.directory}/{relative}", data)


def _as_file(code: bytes) -> bytes:
    """Returns the content of a ``.pyc`` file with some code (``code``: marshalled), for a module without source."""
    return importlib.util.MAGIC_NUMBER + bytes(12) + code


def write(path: str, data: bytes) -> None:
    """Write a file, and make the directories above it; an older file of the path is replaced. OSError passes."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def has_content(path: str, data: bytes) -> bool:
    """True if this machine has a file of this path and content, as in a shared directory: no copy is needed."""
    try:
        if os.stat(path).st_size != len(data):
            return False
        with open(path, "rb") as file:
            return file.read() == data
    except (OSError, ValueError):
        return False


class Loader(SourceFileLoader):
    """Runs the code of a module that was sent.

    Args:
        name: Name of the module.
        path: Path of its file here, which becomes its ``__file__``.
        module: The module as it was sent.
        finder: Finder of the computation: it is told of the import, and gets warnings.
    """

    def __init__(self, name: str, path: str, module: Module, finder: Finder) -> None:
        super().__init__(name, path)
        self._module = module
        self._finder = finder

    def _root(self) -> str:
        """Returns the path of the directory on this machine from which the module is imported."""
        sent = self._module
        return root_of(sent._replace(path=self.path))

    def get_source(self, fullname: str) -> str | None:
        """Returns the text of the module, as it was in the program; None if there is none."""
        source = self._module.source
        return None if source is None else importlib.util.decode_source(source)

    def get_code(self, fullname: str) -> types.CodeType:
        """Returns the code of the module: as it ran in the program, or compiled now.

        Raises:
            ImportError: It uses syntax that this version of Python does not have.
            SyntaxError: Its text is not Python in any version: that of a module that the program has not imported.
        """
        module = self._module
        if module.code and module.code != TEXT:
            code: types.CodeType = marshal.loads(module.code)
            return code
        assert module.source is not None
        try:
            compiled: types.CodeType = compile(module.source, module.path, "exec", dont_inherit=True)
        except SyntaxError as error:
            if not module.code:
                raise
            raise ImportError(
                f"module {module.name} uses syntax that Python {versions.text_of(versions.HERE)} does not have "
                f"({module.path}, line {error.lineno}: {error.msg}); the program runs on a later version"
            ) from None
        return compiled

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the top level of the module; if that fails, fill it with the part that the program has sent by value.

        Raises:
            Exception: The top level has raised it, and the program has sent no part by value. Also SystemExit.
        """
        sent = self._module
        source = self.get_source(sent.name)
        if source:
            bytecode.show_source(sent.path, source)
        before = dict(vars(module))
        try:
            with self._finder.importing(self._root() if sent.home else ""):
                exec(self.get_code(sent.name), vars(module))
        except (Exception, SystemExit) as error:
            if not sent.by_value:
                raise
            self._finder.warnings.append(
                f"module {sent.name} cannot be imported: {type(error).__name__}: {error}; "
                "what the computation uses of it was taken from the program"
            )
            vars(module).clear()
            vars(module).update(before)
            scopes.fill_from_value(module, lambda: pickle.loads(sent.by_value))
        else:
            if sent.globals:
                self._finder.pending.append((module, sent.globals))
        self._finder.on_imported(module)
        self._finder.settle()


_finder: Finder | None = None
"""The finder of this process; None in a program."""


def begin_worker(directory: str, work: str, on_imported: Note = lambda _: None) -> Finder:
    """Make this process a worker: imports find modules that were sent, modules that come by value are registered.

    Args:
        directory: Path of the directory for files of modules; made when it is needed.
        work: Path of the working directory.
        on_imported: Called with each module of the user's that was imported (``Note``).

    Returns:
        The finder, whose ``warnings`` are for the program.
    """
    global _finder
    _finder = Finder(directory, work, on_imported)
    sys.meta_path.insert(0, _finder)
    scopes.is_worker = True
    return _finder


def add(modules: Iterable[Module]) -> None:
    """Have imports in this worker find modules that have arrived (``Finder.add``); does nothing in a program."""
    if _finder is not None:
        _finder.add(modules)


def names() -> list[str]:
    """Returns the names of the modules that were sent here; none in a program."""
    return [] if _finder is None else _finder.names()


def import_besides(names: Iterable[str]) -> None:
    """Import modules that the program has loaded and that may have changed the needed ones, as plug-ins do.

    A failure becomes a warning for the program. ``names``: their names, in the order of loading in the program.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            if _finder is not None:
                _finder.warnings.append(
                    f"module {name}, which the program has imported, cannot be imported: "
                    f"{type(error).__name__}: {error}"
                )


def warn(text: str) -> None:
    """Add a sentence to the ``warnings`` of the finder, which the host reports; does nothing in a program.

    An empty ``text`` is ignored.
    """
    if text and _finder is not None:
        _finder.warnings.append(text)


def is_importing() -> bool:
    """True if the top level of a module that was sent is running in this process.

    Making a cluster then is a UsageError: each node that imports the module would make one.
    """
    return _finder is not None and _finder.depth > 0


def is_sent(module: types.ModuleType) -> bool:
    """True if a module of this process was imported from code that the program has sent (by a ``Loader``)."""
    return isinstance(getattr(module, "__loader__", None), Loader)


def forget(tops: set[str]) -> None:
    """Have imports not find sent modules of these top names (``a`` of ``a.b``) any more; nothing in a program."""
    if _finder is not None:
        _finder.forget(tops)


def place_script(path: str, sources: dict[str, str]) -> str:
    """Returns the path of the user's script here: ``path`` if this machine has it there, or that of a new file.

    Args:
        path: Path of the script in the program.
        sources: Texts of files of code, by path in the program. Without that of the script, ``path`` is returned,
            even if no file is there.
    """
    source = sources.get(path, "").encode()
    if not source or has_content(path, source) or _finder is None:
        return path
    place = f"{_finder.directory}/__main__/{os.path.basename(path)}"
    write(place, source)
    return place
