"""The pickler of code: functions and classes that can be imported go by name, others of the user's own by value.

Theory of operation. Every function has a *scope*, the dictionary of its globals. Three kinds:

- of a module that can be imported (installed, or the user's own, whose source is sent): the other side uses the
  dictionary of that module, and nothing of it is in the pickle;
- of a module that cannot be imported, such as the script: a worker has one module object under its name, in
  ``sys.modules``, however many pickles bring parts of it. Each global travels with a *stamp*, which changes when the
  program changes the global: a global that arrives with the stamp that it has already is left alone, with all that
  ``setup`` or jobs have made of it;
- of code that belongs to no module (``exec`` with a dictionary of its own): one dictionary for each pickle.

Results never change the modules of the program that loads them: there each pickle has a scope of its own.

How a kind of object is pickled stands in ``functions``, ``classes``, ``module_objects``, ``annotation_types`` and
``special_objects``, which see the pickler as a ``code_pickler.CodePickler``.
"""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Iterable
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as _cloud

from dispy.payload import versions
from dispy.payload.blocks import PROTOCOL, Collector
from dispy.payload.by_value import (
    bytecode,
    change_stamps,
    classes,
    definitions,
    functions,
    module_objects,
    portable,
    scopes,
    special_objects,
)
from dispy.payload.by_value.bytecode import Imported, Namespace, global_names
from dispy.payload.by_value.change_stamps import Watch
from dispy.payload.by_value.code_pickler import Scope, Stamped
from dispy.payload.by_value.functions import PARTS, Later, content_of, fill_function, make_function
from dispy.payload.by_value.namespaces import about, is_global, module_of, package_of
from dispy.payload.by_value.scopes import (
    attribute_of,
    fresh_scope,
    global_value,
    import_module,
    lone_module,
    module_of_value,
    scope_of_module,
    scope_of_value,
)
from dispy.payload.known_parts import Known
from dispy.payload.modules import loaded_code
from dispy.payload.modules.origins import Origin, modules_below, origin_of


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # untyped base
    """Pickles any value, and collects what the other side, the process that loads the pickle, needs for that.

    Args:
        file: File that the pickle is written to.
        buffers: Takes large buffers; None: they go into the pickle.
        is_inline: True: definitions of classes go into this pickle, so that objects that they share with the rest
            stay shared. False: each is a pickle within the pickle, which is not opened where the class is known.
        known: Parts of the program that the other side has already; None for nothing.
        only: A module of the user's own whose objects go by value here, though it can be imported; empty for none.

    Attributes:
        names: Names of globals and attributes that functions of the user's in the pickle use.
        imports: Import statements of functions that go by value: the modules that they name are to be sent, too.
        modules: Names of the user's own modules that the other side has to import.
        used: Names that are used of each of these modules, by name of the module, as far as that is known.
        sources: Texts of the files of code that goes by value, by file name; empty for a file without a text.
        sent: Functions and classes that go by value, by address.
        has_code: True once a function or class goes by value: other minor versions need the portable form.
        is_portable: True if code goes as a reference into its source, for other minor versions of Python.
        watch: Parts of the program that must not change for this pickle to stay right.
    """

    def __init__(
        self,
        file: io.BytesIO | change_stamps.Sink,
        *,
        buffers: Collector | None = None,
        is_inline: bool = False,
        known: Known | None = None,
        only: str = "",
    ) -> None:
        super().__init__(
            file, protocol=PROTOCOL, buffer_callback=buffers.take if buffers is not None else None
        )
        self.names: set[str] = set()
        self.imports: set[Imported] = set()
        self.modules: set[str] = set()
        self.used: dict[str, set[str]] = {}
        self.sources: dict[str, str] = {}
        self.sent: dict[int, Any] = {}
        self.has_code = False
        self.is_portable = versions.is_wanted()
        self.watch = Watch()
        self._is_inline = is_inline
        self._known = known
        self._is_known_same: bool | None = None
        """True if the parts that the other side has are unchanged; None until that is asked, once for each pickle."""
        self._only = only
        self._scopes: dict[int, Scope] = {}
        """Stand-ins for dictionaries of globals (``scope_of``), by address of the dictionary."""
        self._globals: dict[tuple[int, str], Scope] = {}
        """Stand-ins for globals that functions or classes hold as well, by address of the dictionary and name of the
        global: in a cell, a default or an attribute (``_in_scope``)."""
        self._kept: list[Any] = []
        """Objects held so that no address in the memo of the pickle is used again."""
        self._late: set[int] = set()
        """Addresses of functions of classes (``later``): pickled without state, which their ``Later`` brings."""
        self._cells: set[int] = set()
        """Addresses of cells of functions that go by value: a cell is filled together with a function."""
        self._filled: set[int] = set()
        """Addresses of cells whose contents are in the pickle: they are not pickled a second time."""
        self._bare: dict[int, tuple[str, str]] | None = None
        """Sentinel objects (``find_bare``), by address, with module and name; None until they are looked for."""

    def reducer_override(self, obj: Any) -> Any:
        """Returns how an object is pickled; NotImplemented for the usual way. Part of the protocol of ``pickle``."""
        if isinstance(obj, types.FunctionType):
            return self._reduce_function(obj)
        if isinstance(obj, type):
            return self._reduce_class(obj)
        kind = type(obj)
        if kind is types.CodeType:
            return self._reduce_code(obj)
        if kind is types.CellType:
            return self._reduce_cell(obj)
        if isinstance(obj, types.ModuleType):
            return self._reduce_module(obj)
        reduce = special_objects.REDUCERS.get(kind)
        if reduce is not None:
            return reduce(self, obj)
        if isinstance(kind, classes.EnumType) and self.is_by_value(kind):
            return classes.reduce_member(obj)
        return self._reduce_object(obj, kind)

    def _reduce_object(self, obj: Any, kind: Any) -> Any:
        """Returns how an instance is pickled: sentinels by name, objects that delegate attributes part by part."""
        if kind.__module__ == "sys":  # such as sys.version_info
            return special_objects.named, ("sys", kind.__name__.rpartition(".")[2])
        if not _is_reduced_plainly(kind):
            return (
                special_objects.reduce_named(self, obj)
                if self.origin(kind.__module__) is Origin.VALUE
                else NotImplemented
            )
        if special_objects.is_bare(obj, kind):
            if self._bare is None:
                self._bare = special_objects.find_bare()
            found = self._bare.get(id(obj))
            if found is not None and self.origin(found[0]) is not Origin.VALUE:
                return self.by_name(*found)
            if found is not None:
                return special_objects.singleton, (*found, kind)
        if special_objects.is_delegating(kind):
            return special_objects.reduce_delegating(obj)
        return NotImplemented

    def _reduce_cell(self, cell: types.CellType) -> Any:
        """Returns how a cell is pickled: empty if a function fills it (``state_of``), else with its value."""
        if id(cell) in self._cells:
            return functions.make_cell, ()
        self._filled.add(id(cell))
        self._kept.append(cell)
        return functions.make_cell, (), content_of(cell), None, None, functions.fill_cell

    # Modules.

    def origin(self, name: str | None) -> Origin:
        """Returns the origin of a module, which decides how its objects travel in this pickle.

        A module of the user's own is ``Origin.VALUE`` here if its code is unknown, or it is the one of ``only``.
        """
        origin = origin_of(name)
        if origin is Origin.OWN and (name == self._only or not loaded_code.can_be_sent(name)):
            return Origin.VALUE
        return origin

    def is_by_value(self, obj: Any) -> bool:
        """True if a function, class or the like goes by value: there is no name under which it is found.

        If one of the user's own modules goes by name, the module is noted as needed.
        """
        name = str(getattr(obj, "__qualname__", None) or getattr(obj, "__name__", ""))
        module = str(getattr(obj, "__module__", None) or "")
        origin = self.origin(module)
        if origin is Origin.VALUE or attribute_of(sys.modules.get(module), name) is not obj:
            return True
        if origin is Origin.OWN:
            self._use(module, name)
        return False

    def _use(self, module: str, name: str) -> None:
        """Note that the pickle needs a module of the user's own, and uses a name of it (``A`` of ``A.method``)."""
        self.modules.add(module)
        self.used.setdefault(module, set()).add(name.partition(".")[0])

    def by_name(self, module: str, name: str) -> Any:
        """Returns how an attribute of a module is pickled: as both names. Notes a module of the user's as needed."""
        if self.origin(module) is Origin.OWN:
            self._use(module, name)
        return special_objects.named, (module, name)

    def _reduce_module(self, module: types.ModuleType) -> Any:
        """Returns how a module object is pickled: by name; or by value, with all globals that can be sent."""
        name = module.__name__
        origin = self.origin(name) if sys.modules.get(name) is module else Origin.VALUE
        if origin is Origin.VALUE:
            values = {
                key: value for key, value in vars(module).items() if key not in module_objects.PRIVATE
            }
            sendable, reasons = module_objects.sendable_part(values, f"module {name}", _try_to_pickle)
            state = [(key, change_stamps.of(value), value) for key, value in sendable.items()], reasons
            # Another module may have taken the place of this one in ``sys.modules``.
            make = module_of_value if sys.modules.get(name) in (module, None) else lone_module
            return make, (name, about(vars(module))), state, None, None, module_objects.fill_module
        if origin is Origin.OWN:
            self.modules.add(name)
        return import_module, (name,)

    # Functions.

    def is_known(self, obj: Any) -> bool:
        """True if the other side has a function or class of the script, as it is now: then it goes by name."""
        if self._known is None or not self._known.has(obj):
            return False
        if self._is_known_same is None:
            self._is_known_same = self._known.watch.is_same()
        return self._is_known_same

    def _reduce_function(self, function: types.FunctionType) -> Any:
        """Returns how a function is pickled: by name if the other side finds it, else by value."""
        if not self.is_by_value(function):
            return NotImplemented
        if self.is_known(function):
            return special_objects.named, (function.__module__, function.__qualname__)
        other = self._other_name(function)
        if other is not None:
            return self.by_name(*other)
        if scopes.is_worker and not self._is_inline and is_global(function):
            data = definitions.function_data(function, _pickle_inline)
            return functions.resolve_function, (function.__module__, function.__qualname__, data)
        if self.is_portable and (owner := functions.owner_of_generated(function)) is not None:
            return getattr, (owner, function.__name__)
        generic = functions.reduce_generic_function(function)
        if generic is not None:
            return generic
        self.has_code = True
        self.sent[id(function)] = function
        code = function.__code__
        if self.origin(function.__module__) is not Origin.INSTALLED:
            self.names |= bytecode.all_names(code)
        self.imports.update(bytecode.imports(code, package_of(function.__globals__)))
        scope = self.scope_of(function.__globals__)
        home = module_of(function.__globals__)
        if home is not None and self.origin(home) is Origin.OWN:
            for name in global_names(code):
                self._use(home, name)
        closure = function.__closure__
        self._cells.update(map(id, closure or ()))
        made: tuple[Any, ...] = make_function, (code, scope, function.__name__, closure)
        if self.is_portable:
            made = portable.make_function, (code, scope, function.__name__, code.co_freevars, closure or ())
        return (
            made
            if id(function) in self._late
            else (*made, self.state_of(function), None, None, fill_function)
        )

    def later(self, functions: list[types.FunctionType]) -> list[Later]:
        """Have functions of a class pickled unfilled; returns stand-ins, in order, that fill one each when loaded."""
        self._kept += functions
        self._late.update(map(id, functions))
        return [Later(self, function) for function in functions]

    def _other_name(self, obj: Any) -> tuple[str, str] | None:
        """Returns another name under which a module of the user's holds a function or class of its own; or None."""
        module = str(getattr(obj, "__module__", None) or "")
        if self.origin(module) is not Origin.OWN:
            return None
        for name, value in vars(sys.modules[module]).items():
            if value is obj:
                return module, name
        return None

    def state_of(self, function: types.FunctionType) -> tuple[Any, ...]:
        """Returns the second half of a pickled function: the parts that may refer to the function again.

        These are attributes of ``PARTS`` and others, by name; pairs of a cell and its value; globals with their
        stamps; and names of modules to import first.
        """
        given = {name: getattr(function, name, None) for name in PARTS}
        about = {name: value for name, value in given.items() if value not in (None, (), {})}
        namespace = function.__globals__
        values: list[Stamped] = []
        submodules: list[str] = []
        self.watch.add_function(function)
        if self.goes_along(namespace):
            names = [name for name in sorted(global_names(function.__code__)) if name in namespace]
            names += [
                name for name in bytecode.names_in_texts(function.__code__, namespace) if name not in names
            ]
            if namespace.get(function.__name__) is function and function.__name__ not in names:
                names.append(function.__name__)  # ordinary pickles find it by its name
            values = self.stamped(
                namespace, [*names, *bytecode.named_in(function.__annotations__, namespace, names)]
            )
            closed = [content_of(cell) for cell in function.__closure__ or ()]
            submodules = self._submodules(function.__code__, [*(value for *_, value in values), *closed])
        for name in ("__defaults__", "__kwdefaults__"):
            if name in about:
                about[name] = self.shared_in(namespace, about[name])
        cells = []
        for cell in function.__closure__ or ():
            if id(cell) not in self._filled:
                self._filled.add(id(cell))
                cells.append((cell, self.shared(namespace, content_of(cell))))
        return about, dict(vars(function)), cells, values, submodules

    def stamped(self, namespace: Namespace, names: Iterable[str]) -> list[Stamped]:
        """Returns globals of a scope that goes by value, in the order of ``names``; adds them to ``watch``."""
        found = []
        for name in names:
            value = namespace[name]
            reference = self._in_other_module(value)
            stamp = change_stamps.of(value)
            self.watch.add_global(namespace, name, value)
            found.append((name, stamp, value if reference is None else reference))
        return found

    def shared(self, namespace: Namespace, value: Any) -> Any:
        """Returns a value that code holds; its stand-in if a global holds it, too, so that it stays one object."""
        reference = self._in_other_module(value)
        if reference is None and not isinstance(value, loaded_code.PLAIN) and self.goes_along(namespace):
            reference = self._in_scope(namespace, value)
        return value if reference is None else reference

    def shared_in(self, namespace: Namespace, values: Any) -> Any:
        """Returns a tuple or dictionary in which ``shared`` has replaced the values that must stay one object."""
        if isinstance(values, dict):
            return {name: self.shared(namespace, value) for name, value in values.items()}
        return tuple([self.shared(namespace, value) for value in values])

    def _in_scope(self, namespace: Namespace, value: Any) -> Scope | None:
        """Returns the stand-in for a value if it is a global of a scope that belongs to a module; else None."""
        for name, other in namespace.items():
            if other is value and not name.startswith("__"):
                break
        else:
            return None
        if module_of(namespace) is None:
            return None
        key = id(namespace), name
        if key not in self._globals:
            stamp = change_stamps.of(value)
            self._globals[key] = Scope(global_value, self.scope_of(namespace), name, stamp, value)
        return self._globals[key]

    def _in_other_module(self, value: Any) -> Scope | None:
        """Returns the stand-in for a value that is a global of an importable module of the user's; else None.

        Pickles name it, so that it stays the object of that module.
        """
        found = loaded_code.find_home(value)
        if found is None or self.origin(found[0]) is not Origin.OWN:
            return None
        reference = Scope(*self.by_name(*found)[:1], *found)
        self._kept.append(reference)
        return reference

    def _submodules(self, code: types.CodeType, values: Iterable[Any]) -> list[str]:
        """Returns the names of modules that a function finds as attributes of packages (``import xml.dom``).

        ``values``: its globals and the contents of its cells, among which the packages are.
        """
        found = []
        for value in values:
            if not isinstance(value, types.ModuleType) or not hasattr(value, "__path__"):
                continue
            prefix = f"{value.__name__}."
            names = set(bytecode.all_names(code))
            for name in modules_below(value.__name__):
                if names.issuperset(name[len(prefix) :].split(".")):
                    origin = self.origin(name)
                    if origin is Origin.OWN:
                        self.modules.add(name)
                    if origin is not Origin.VALUE:
                        found.append(name)
        return found

    def goes_along(self, namespace: Namespace) -> bool:
        """True if the pickle brings the globals of a scope; False: the other side imports their module."""
        module = module_of(namespace)
        return module is None or self.origin(module) is Origin.VALUE

    def scope_of(self, namespace: Namespace) -> Scope:
        """Returns the stand-in for a dictionary of globals: one object for each dictionary, pickled only once."""
        scope = self._scopes.get(id(namespace))
        if scope is None:
            origin = Origin.VALUE if (name := module_of(namespace)) is None else self.origin(name)
            if name is None:
                scope = Scope(fresh_scope, about(namespace))
            elif origin is Origin.VALUE:
                scope = Scope(scope_of_value, name, about(namespace))
            else:
                if origin is Origin.OWN:
                    self.modules.add(name)
                scope = Scope(scope_of_module, name)
            self._scopes[id(namespace)] = scope
            self._kept.append(namespace)
        return scope

    def _reduce_code(self, code: types.CodeType) -> Any:
        """Returns how compiled code is pickled, and notes the text of its file in ``sources``.

        NotImplemented, which leaves it to cloudpickle, if a constant is not one that a compiler makes.
        """
        filename = code.co_filename
        if filename not in self.sources:
            self.sources[filename] = bytecode.source_of(filename, {})
        if self.is_portable:
            return portable.reduce_code(code)
        try:
            return bytecode.reduce_code(code)
        except ValueError:
            return NotImplemented

    # Classes.

    def _reduce_class(self, cls: type) -> Any:
        """Returns how a class is pickled: by name if the other side finds it, else by its definition."""
        if cls in _BUILT_IN:
            return super().reducer_override(cls)
        if not self.is_by_value(cls):
            return NotImplemented
        if self.is_known(cls):
            return special_objects.named, (cls.__module__, cls.__qualname__)
        other = self._other_name(cls)
        if other is not None:
            return self.by_name(*other)
        self.has_code = True
        if self._is_inline:
            self.sent[id(cls)] = cls
            self.watch.add_class(cls)
            return classes.reduce_definition(self, cls)
        definition = definitions.definition_of(cls, _pickle_inline)
        self.modules |= definition.modules
        self.imports |= definition.imports
        self.sources.update(definition.sources)
        self.watch.add_part(definition.watch)
        return classes.resolve, (
            change_stamps.identity_of(cls), definition.digest, cls.__module__, cls.__qualname__, definition.data
        )  # fmt: skip


_BUILT_IN = frozenset({type(None), type(Ellipsis), type(NotImplemented), *_cloud._BUILTIN_TYPE_NAMES})  # pyright: ignore[reportPrivateUsage]  # no public name
"""Classes of the interpreter, such as ``NoneType``, that are found under no name: cloudpickle reduces them."""


def _pickle_inline(value: Any) -> tuple[bytes, Pickler]:
    """Returns the pickle of a value, with definitions of its classes in it, and the pickler that made it."""
    pickler = Pickler(stream := io.BytesIO(), is_inline=True)
    pickler.dump(value)
    return stream.getvalue(), pickler


def _try_to_pickle(value: Any) -> None:
    """Pickle a value and drop the pickle; raises what pickling it raises. Tells which globals can be sent."""
    Pickler(change_stamps.Sink(sys.maxsize)).dump(value)


def dump_by_value(value: Any, buffers: Collector | None = None) -> bytes:
    """Returns the pickle of a value with the code that it needs.

    Args:
        value: Anything.
        buffers: Collects buffers of 64 KiB and more, which stay out of the pickle; None: they go into it.

    Raises:
        Exception: The value cannot be pickled.
    """
    Pickler(stream := io.BytesIO(), buffers=buffers).dump(value)
    return stream.getvalue()


def _is_reduced_plainly(kind: Any) -> bool:
    """True if a class leaves it to ``object`` how its objects are pickled."""
    return kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__
