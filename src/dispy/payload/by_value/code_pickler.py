"""The pickler of code, as those parts of it see it that say how single kinds of objects are pickled."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from dispy.payload.by_value.bytecode import Imported, Namespace
from dispy.payload.by_value.change_stamps import Watch
from dispy.payload.modules.origins import Origin

Stamped = tuple[str, Any, Any]
"""A global: name, stamp (None: unknown) and value."""


class Scope:
    """Stand-in for the globals of functions in a pickle; one object for each dictionary, so that it stays one.

    Args:
        function: Called where the pickle is loaded; returns the globals there.
        args: Arguments of the call.
    """

    __slots__ = ("_reduced",)

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._reduced = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._reduced


class CodePickler(Protocol):
    """One pickle in the making: where things come from, what goes along, and what has to be there."""

    modules: set[str]
    """The user's own modules that are to be imported where the pickle is loaded."""
    imports: set[Imported]
    """Import statements of functions that go by value."""
    sources: dict[str, str]
    """Texts of the files of code that goes by value, by file name."""
    watch: Watch
    """Parts of the program that must not change for this pickle to stay right."""

    def origin(self, name: str | None) -> Origin:
        """Returns where a module comes from, as far as this pickle is concerned."""

    def is_by_value(self, obj: Any) -> bool:
        """True if a function, class or the like goes by value: there is no name under which it is found."""

    def by_name(self, module: str, name: str) -> Any:
        """Returns how an attribute of a module is pickled."""

    def scope_of(self, namespace: Namespace) -> Scope:
        """Returns the stand-in for the globals of functions."""

    def goes_along(self, namespace: Namespace) -> bool:
        """True if globals of a scope are in the pickle, and not in a module where it is loaded."""

    def stamped(self, namespace: Namespace, names: Iterable[str]) -> list[Stamped]:
        """Returns globals of a scope that goes by value, with their stamps."""

    def shared_in(self, namespace: Namespace, values: Any) -> Any:
        """Returns a tuple or dictionary with stand-ins for values that a module holds as well."""

    def later(self, functions: list[types.FunctionType]) -> list[Any]:
        """Have functions made where they are met first, and filled where what is returned here is pickled."""

    def state_of(self, function: types.FunctionType) -> tuple[Any, ...]:
        """Returns the second half of a pickled function: what may refer to the function again."""


Reducer = Callable[[CodePickler, Any], Any]
"""Returns how an object is pickled (as ``__reduce__`` does); NotImplemented leaves it to the pickler."""
