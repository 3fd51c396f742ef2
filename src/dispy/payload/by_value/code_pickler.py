"""Interface of the pickler of code for the modules that say how single kinds of objects are pickled.

These modules (``functions``, ``classes``, …) need not import ``pickler.Pickler``, which imports them.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from dispy.payload.by_value.bytecode import Imported, Namespace
from dispy.payload.by_value.change_stamps import Watch
from dispy.payload.modules.origins import Origin

Stamped = tuple[str, Any, Any]
"""A global: name, stamp (``change_stamps.of``; None: it counts as changed) and value."""


class Scope:
    """Stand-in for the globals of functions in a pickle, or for a value that a module holds.

    There is one for each dictionary: functions that share their globals share them where the pickle is loaded, too.

    Args:
        function: Called where the pickle is loaded; returns the globals, or the value, there.
        args: Arguments of the call.
    """

    __slots__ = ("_reduced",)

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._reduced = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._reduced


class CodePickler(Protocol):
    """One pickle in the making: tells how modules and globals travel in it, and notes what the other side needs.

    ``pickler.Pickler`` implements it; the modules that reduce objects see this much of it.
    """

    modules: set[str]
    """Names of the user's own modules that are to be imported where the pickle is loaded."""
    imports: set[Imported]
    """Import statements of functions that go by value: the modules that they name are to be sent, too."""
    sources: dict[str, str]
    """Texts of the files of code that goes by value, by file name, for tracebacks; empty for none."""
    watch: Watch
    """Parts of the program that must not change for this pickle to stay right."""

    def origin(self, name: str | None) -> Origin:
        """Returns the origin of a module, by its name, for this pickle: it decides how its objects travel."""

    def is_by_value(self, obj: Any) -> bool:
        """True if a function, class or the like goes by value: there is no name under which it is found."""

    def by_name(self, module: str, name: str) -> Any:
        """Returns how an attribute of a module is pickled: by both names. Notes the module as needed."""

    def scope_of(self, namespace: Namespace) -> Scope:
        """Returns the stand-in for the globals of functions: always the same one for the same dictionary."""

    def goes_along(self, namespace: Namespace) -> bool:
        """True if globals of a scope are in the pickle, and not in a module where it is loaded."""

    def stamped(self, namespace: Namespace, names: Iterable[str]) -> list[Stamped]:
        """Returns globals of a scope that goes by value, in order, with stamps; adds them to ``watch``."""

    def shared_in(self, namespace: Namespace, values: Any) -> Any:
        """Returns a tuple or dictionary with stand-ins for values that a module holds as well: each stays one object.

        ``namespace``: globals of the module that the tuple or dictionary belongs to.
        """

    def later(self, functions: list[types.FunctionType]) -> list[Any]:
        """Have functions of a class made where they are met first, and filled when all of them exist.

        Returns a stand-in (``functions.Later``) for each, in order: where it is unpickled, its function is filled.
        """

    def state_of(self, function: types.FunctionType) -> tuple[Any, ...]:
        """Returns the state that ``functions.fill_function`` gives a function: parts that may refer to it again."""


Reducer = Callable[[CodePickler, Any], Any]
"""Returns how an object is pickled (as ``__reduce__`` does); NotImplemented leaves it to the pickler."""
