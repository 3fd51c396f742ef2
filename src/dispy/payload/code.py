"""A computation on its way: functions and classes, and the modules of the user's own that they need.

The client pickles a computation once (``dump_code``) and adds the arguments of ``setup`` for each cluster that uses
it (``with_setup_args``). A host, or each worker with ``setup_per='worker'``, rebuilds it (``load_code``): modules
first, which are not imported before something names them, then the functions.
"""

from __future__ import annotations

import functools
import importlib
import io
import marshal
import operator
import os
import pickle
import sys
import types
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Any, NamedTuple

from dispy.errors import PicklingError
from dispy.payload import known_parts as known_module
from dispy.payload import versions
from dispy.payload.blocks import PROTOCOL
from dispy.payload.by_value import bytecode, scopes
from dispy.payload.by_value.bytecode import Namespace
from dispy.payload.by_value.change_stamps import Sink
from dispy.payload.by_value.namespaces import functions_of, is_global
from dispy.payload.by_value.pickler import Pickler
from dispy.payload.forms import Twin, loads, portable_twin
from dispy.payload.known_parts import Known
from dispy.payload.modules import changed_globals, importer, loaded_code
from dispy.payload.modules.fallbacks import dump_fallbacks
from dispy.payload.modules.origins import Origin, library_paths, origin_of
from dispy.payload.modules.package_versions import differing, versions_used
from dispy.payload.modules.sent_modules import Module, as_text, gather, imported_besides
from dispy.payload.object_references import take_used
from dispy.payload.random_generators import UNSEEDED, Seeding
from dispy.payload.unsendable import find_culprit
from dispy.payload.versions import HERE

STANDARD_MODULES = frozenset({
    "argparse", "copy", "errno", "glob", "hashlib", "io", "marshal", "multiprocessing", "os", "pickle",
    "platform", "re", "shutil", "signal", "socket", "stat", "struct", "subprocess", "sys", "tempfile",
    "threading", "time", "traceback",
})  # fmt: skip
"""Standard modules that code may use without importing them; a node imports those that code names."""

CALLED_FIRST = "init_depends"
"""Name of a function in ``depends`` that is called where it arrives, before what comes after it is defined."""

SCRIPT_CLASS_MAX = 64 * 1024
"""Size (bytes, pickled) up to which a class of the script, with all that its methods use, is sent with each
computation. A larger one is sent with each pickle that holds objects of it."""

SCRIPT_CLASSES_MAX = 100
"""Largest number of classes of the script that are sent with each computation; others are sent with their objects."""


class Code:
    """A computation, rebuilt where it runs.

    Attributes:
        function: The function that jobs call.
        namespace: Globals of the function, by name; workers put the documented names such as ``dispy_job_id`` there.
        modules: Names of standard modules that the code uses without importing them: workers import them into
            ``namespace``.
        setup: Function that is called before any job; None for none.
        cleanup: Function that is called after all jobs; None for none.
        setup_args: Positional arguments of ``setup`` and of ``cleanup``.
        seeding: How random generators of jobs are seeded.
    """

    __slots__ = ("cleanup", "function", "modules", "namespace", "seeding", "setup", "setup_args")

    def __init__(
        self,
        function: Callable[..., Any],
        namespace: Namespace,
        modules: list[str],
        setup: Callable[..., Any] | None,
        cleanup: Callable[..., Any] | None,
        setup_args: tuple[Any, ...],
        seeding: Seeding = UNSEEDED,
    ) -> None:
        self.function = function
        self.namespace = namespace
        self.modules = modules
        self.setup = setup
        self.cleanup = cleanup
        self.setup_args = setup_args
        self.seeding = seeding

    @contextmanager
    def sharing(self, function: Callable[..., Any]) -> Iterator[None]:
        """Context manager around a call of a function, such as ``setup``: jobs find globals that it newly defines.

        After the block these are copied from the function's own module to ``namespace``, unless that has the name.
        """
        with sharing(function, self.namespace):
            yield


class Dumped(NamedTuple):
    """A computation on its way, as ``dump_code`` returns it.

    Attributes:
        data: The computation, pickled, for ``load_code``.
        known: Parts of the program that a node has with it, which need not go along with arguments.
        extensions: Compiled modules of the user's own, which travel as files: path of each here, and its path on
            nodes relative to the working directory.
        portable: The computation, pickled, for nodes of other minor versions of Python. One that they cannot run
            tells them why: ``load_code`` raises the reason.
    """

    data: bytes
    known: Known
    extensions: list[tuple[str, str]]
    portable: bytes = b""


def dump_code(
    function: Callable[..., Any],
    depends: Iterable[Any],
    setup: Callable[..., Any] | None = None,
    cleanup: Callable[..., Any] | None = None,
    names: Iterable[str] = (),
    seeding: Seeding = UNSEEDED,
) -> Dumped:
    """Pickle a function and the functions and classes it depends on, with the modules that they need: in two forms.

    Both are made now, as the program may change before a node of another version of Python is there.

    Args:
        function: Any callable.
        depends: Functions and classes that the function finds by name. A function named ``init_depends`` is called
            before all else is defined.
        setup: Function that is called before any job; None for none.
        cleanup: Function that is called after all jobs; None for none.
        names: Names of modules that are sent in any case, if they are the user's own.
        seeding: How random generators of jobs are seeded.

    Raises:
        PicklingError: The text names the global, closure variable or default that cannot be sent.
    """
    loaded_code.look_again()
    depends, names = list(depends), list(names)
    made = _dump_form(function, depends, setup, cleanup, names, seeding)
    twin = portable_twin(lambda: _dump_form(function, depends, setup, cleanup, names, seeding).data)
    take_used()
    if twin.refusal:
        twin = Twin(pickle.dumps((twin.refusal, [], b"", (*HERE, _REFUSED), ()), PROTOCOL), "")
    return made._replace(portable=twin.made)


def _dump_form(
    function: Callable[..., Any],
    depends: list[Any],
    setup: Callable[..., Any] | None,
    cleanup: Callable[..., Any] | None,
    names: Iterable[str],
    seeding: Seeding,
) -> Dumped:
    """Pickle a computation in the form that this thread is making; arguments and errors as of ``dump_code``."""
    around = [item.func if isinstance(item, functools.partial) else item for item in (setup, cleanup)]
    explicit = [function, *depends, *[item for item in around if item is not None]]
    stream = io.BytesIO()
    pickler = Pickler(stream, is_inline=True)
    scope = pickler.scope_of(_globals_of(function))
    firsts, by_name = definitions(depends, scope)
    take_used()
    try:
        pickler.dump((scope, firsts, function, by_name, setup, cleanup, _classes_of_script()))
        if take_used():
            raise PicklingError("it refers to an object that was put")
    except Exception as error:
        label = getattr(function, "__qualname__", repr(function))
        culprit = next(filter(None, (find_culprit(item, describe(item)) for item in explicit)), str(error))
        raise PicklingError(
            f"computation {label!r} cannot be sent: {culprit}",
            hint="import or create it inside the function, or pass it as an argument",
        ) from error
    named = pickler.names.union(
        *[bytecode.all_names(found.__code__) for item in explicit for found in functions_of(item)]
    )
    standard = sorted(named & STANDARD_MODULES)
    sent, extensions = sent_modules(pickler, names)
    besides = imported_besides(pickler.modules, {module.name for module in sent})
    # Functions that are sent later have code, too: nodes with another Python are to refuse at once.
    version = HERE if pickler.has_code or sent or function is operator.call else ()
    packed = pack_modules(sent, pickler.sources) if version else b""
    used = versions_used([stream.getvalue(), *(module.code or module.source or b"" for module in sent)])
    parts = (packed, besides, tuple(seeding), used)
    form: tuple[Any, ...] = (*HERE, _PORTABLE) if pickler.is_portable else version
    data = pickle.dumps((stream.getvalue(), standard, b"", form, parts), PROTOCOL)
    globals_sent = filter(is_global, pickler.sent.values())
    known = Known([module.name for module in sent], globals_sent, pickler.watch)
    return Dumped(data, known, extensions)


_PORTABLE = "portable"
"""Third part of the version that a computation is marked with: any minor version of Python can load it."""

_REFUSED = "refused"
"""Third part of the version of a computation that other minor versions cannot run: its data is the reason."""


def _classes_of_script() -> list[type]:
    """Returns classes that the script defines, to be sent with the computation, in the order of the script's globals.

    Nodes have them then, so that arguments and results that hold objects of them name the class and do not bring it.
    Classes that cannot be sent or are large are left out; they come with their objects, if there are any.
    """
    found = []
    for value in list(vars(sys.modules["__main__"]).values()):
        if isinstance(value, type) and value.__module__ == "__main__" and is_global(value):
            try:
                Pickler(Sink(SCRIPT_CLASS_MAX), is_inline=True).dump(value)
            except Exception:
                continue
            found.append(value)
            if len(found) == SCRIPT_CLASSES_MAX:
                break
    take_used()
    return found


def _globals_of(function: Any) -> Namespace:
    """Returns the globals of a computation, by name: those of the first function in it that is the user's.

    New ones, of a module ``__main__``, if all its functions are those of a library.
    """
    for found in functions_of(function):
        if origin_of(found.__module__) is not Origin.INSTALLED:
            return found.__globals__
    return {"__name__": "__main__"}


def sent_modules(pickler: Pickler, names: Iterable[str] = ()) -> tuple[list[Module], list[tuple[str, str]]]:
    """Returns the user's own modules that a pickle needs, as they are sent, and the files of compiled ones.

    Args:
        pickler: Pickler that has made the pickle.
        names: Names of modules that are sent in any case, if they are the user's own.

    Returns:
        Modules; and for each compiled one its path here, and its path on nodes relative to the working directory.
    """
    roots = {name for name in names if origin_of(name) is Origin.OWN} | pickler.modules
    package = getattr(sys.modules.get("__main__"), "__package__", None)
    if package and origin_of(package) is Origin.OWN:
        roots.add(package)
    _add_used_by_script(roots)
    statements = set(pickler.imports)
    values: dict[str, changed_globals.Configured] = {}
    while True:
        found = gather(roots, statements)
        loaded = [module.name for module in found if module.name in sys.modules and module.code]
        more = False
        for name in loaded:
            if name not in values:
                values[name] = changed_globals.dump_globals(name)
                more |= not values[name].modules <= roots or not values[name].imports <= statements
                roots |= values[name].modules
                statements |= values[name].imports
        if not more:
            break
    fallbacks = dump_fallbacks(pickler, [module.name for module in found])
    sent, extensions = [], []
    for module in found:
        if module.path.endswith(tuple(EXTENSION_SUFFIXES)):
            directory = module.name.rpartition(".")[0].replace(".", "/")
            name = module.path.rpartition("/")[2]
            extensions.append((module.path, f"{directory}/{name}" if directory else name))
            continue
        if module.name in values:
            module = module._replace(
                globals=values[module.name].data, by_value=fallbacks.get(module.name, b"")
            )
        sent.append(as_text(module) if pickler.is_portable else module)
    return sent, extensions


def _add_used_by_script(roots: set[str]) -> None:
    """Add to ``roots`` names of the user's own modules that the script holds, or holds functions or classes of.

    ``roots``: names of modules to be sent, with which the search starts. Jobs may get objects of the added modules
    as arguments.
    """
    for value in list(vars(sys.modules["__main__"]).values()):
        name = value.__name__ if isinstance(value, types.ModuleType) else None
        if isinstance(value, (types.FunctionType, type)):
            name = value.__module__
        if name is not None and origin_of(name) is Origin.OWN:
            roots.add(name)


def pack_modules(sent: list[Module], sources: dict[str, str]) -> bytes:
    """Returns modules as they travel, compressed, for ``add_modules``.

    With them go the program's command line, without secrets, and its directories of libraries.

    Args:
        sent: The modules.
        sources: Texts of files of code that goes by value, by file name; empty ones are left out.
    """
    texts = {name: text for name, text in sources.items() if text}
    words = [bytecode.without_secrets(str(word)) for word in sys.argv]
    plain = [tuple(module) for module in sent], texts, words, library_paths()
    return zlib.compress(marshal.dumps(plain), 1)


def add_modules(packed: bytes) -> dict[str, str]:
    """Make modules that have arrived (packed by ``pack_modules``; empty: none) importable, if this is a worker.

    Nothing is imported yet. A worker also takes over the program's command line (``sys.argv``), and adds those of the
    program's directories of libraries that exist here to ``sys.path``.

    Returns:
        Texts of files of code, by file name; tracebacks show them from now on.
    """
    if not packed:
        return {}
    sent, sources, words, paths = marshal.loads(zlib.decompress(packed))
    if scopes.is_worker:
        sys.argv[:] = words  # modules may look at the command line when they are imported
        # Libraries with compiled parts are not sent; this machine may have the same directories as the program.
        sys.path += [path for path in paths if path not in sys.path and os.path.isdir(path)]
    importer.add([Module(*parts) for parts in sent])
    for name, text in sources.items():
        bytecode.show_source(name, text)
    return sources  # type: ignore[no-any-return]


def with_setup_args(code: bytes, args: tuple[Any, ...]) -> bytes:
    """Returns a computation of ``dump_code``, pickled anew for ``load_code`` with arguments for setup and cleanup.

    Raises:
        PicklingError: An argument cannot be sent; the text names it.
    """
    data, standard, _, version, packed = pickle.loads(code)
    if _REFUSED in version:
        return code
    stream = io.BytesIO()
    try:
        with versions.wanted() if _PORTABLE in version else nullcontext():
            Pickler(stream).dump(args)
    except Exception as error:
        raise PicklingError(
            f"setup_args cannot be sent: {find_culprit(args, 'setup_args') or error}"
        ) from error
    return pickle.dumps((data, standard, stream.getvalue(), version, packed), PROTOCOL)


def load_code(payload: bytes) -> Code:
    """Rebuild a computation of ``dump_code``, before its jobs run.

    Its modules are imported as its functions need them. From then on, changes that arguments of a job make to
    globals and classes are undone after the job (``scopes.end_loading``).

    Raises:
        PicklingError: The program runs on another minor version of Python.
        Exception: The code cannot be unpickled: a module of the user's may raise anything when it is imported.
    """
    data, standard, args, version, packed = pickle.loads(payload)
    if version:
        if _REFUSED in version:
            raise PicklingError(f"{data} (this node runs on Python {versions.text_of(HERE)})")
        if version[:2] != HERE and _PORTABLE not in version:
            theirs, ours = versions.text_of(version), versions.text_of(HERE)
            raise PicklingError(
                f"the program runs on Python {theirs}, and this node on Python {ours}; the code came compiled, as "
                "the program is not connected or did not know this node's version",
                hint=f"start dispynode with Python {theirs}, or the program with Python {ours}",
            )
        if scopes.is_worker:
            versions.serve(version[:2])
    sent, besides, seeding, used = packed
    sources = add_modules(sent)
    if scopes.is_worker:
        scopes.find_file = partial(importer.place_script, sources=sources)
    scope, _, function, names, setup, cleanup, _ = loads(data)
    if scopes.is_worker:
        importer.import_besides(besides)
        importer.warn(differing(used))
    for name, item in names.items():
        scope.setdefault(name, item)
    name = getattr(function, "__name__", "")
    if name.isidentifier():
        scope.setdefault(name, function)
    if scopes.is_worker:
        known_module.here = Known(importer.names())
    setup_args = loads(args) if args else ()
    code = Code(function, scope, standard, setup, cleanup, setup_args, Seeding(*seeding))
    scopes.end_loading()
    return code


def _name_of(item: Any) -> str:
    """Returns the name by which the computation finds a dependency; empty for an object without a name."""
    name: str = getattr(item, "__name__", "")
    return name


def describe(item: Any) -> str:
    """Returns words for a function or class, for texts of errors, such as "function 'work'"."""
    return f"{'class' if isinstance(item, type) else 'function'} {getattr(item, '__qualname__', item)!r}"


def definitions(depends: Iterable[Any], scope: Any) -> tuple[list[_Call], dict[str, Any]]:
    """Split dependencies into functions named ``init_depends`` and all others.

    Args:
        depends: Functions and classes.
        scope: Stand-in for the globals of the computation.

    Returns:
        Stand-ins for the calls of functions named ``init_depends``, in order; and the other dependencies by name, of
        which a later one of the same name counts.
    """
    firsts: list[_Call] = []
    names = {}
    for item in depends:
        if isinstance(item, types.FunctionType) and item.__name__ == CALLED_FIRST:
            firsts.append(_Call(item, scope))
        else:
            names[_name_of(item)] = item
    return firsts, names


class _Call:
    """Stand-in for a call of a function named ``init_depends``, which is made where the stand-in is unpickled.

    Args:
        function: The function; it is called without arguments.
        scope: Stand-in for the globals of the computation, which get the globals that the call newly defines.
    """

    def __init__(self, function: types.FunctionType, scope: Any) -> None:
        self._function = function
        self._scope = scope

    def __reduce__(self) -> tuple[Any, tuple[types.FunctionType, Any]]:
        return _call_first, (self._function, self._scope)


def _call_first(function: types.FunctionType, scope: Namespace) -> None:
    """Call a function named ``init_depends`` where it has arrived; pickles call this. Its exceptions pass through."""
    import_named(function)
    with sharing(function, scope):
        function()


@contextmanager
def sharing(function: Any, namespace: Namespace) -> Iterator[None]:
    """Copy globals to a namespace after the block: those that a function has newly defined in its own module.

    Names that the namespace has already are left alone. An exception in the block keeps nothing from being copied.
    """
    theirs = next((found.__globals__ for found in functions_of(function)), namespace)
    before = set(theirs)
    try:
        yield
    finally:
        if theirs is not namespace:
            for name in theirs.keys() - before:
                namespace.setdefault(name, theirs[name])


def import_named(function: types.FunctionType) -> None:
    """Import the ``STANDARD_MODULES`` that a function names and its globals lack, and add them to the globals.

    Call this on the node, before the function runs.
    """
    for name in bytecode.all_names(function.__code__) & STANDARD_MODULES:
        if name not in function.__globals__:
            function.__globals__[name] = importlib.import_module(name)
