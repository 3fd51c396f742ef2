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

    A pickle has one stand-in for each dictionary of globals: functions that share their globals share them where the
    pickle is loaded, too.

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
    """One pickle in the making: tells how modules and globals travel in it, and notes what loading it needs.
    ``pickler.Pickler`` implements it; the modules that reduce objects see this much of it.
    """

    modules: set[str]
    """Names of the user's own modules that are to be imported where the pickle is loaded."""
    imports: set[Imported]
    """Import statements of functions that go by value: the modules that they name are to be sent, too."""
    sources: dict[str, str]
    """Texts of the files of code that goes by value, by file name, for tracebacks; a text is empty if unknown."""
    is_portable: bool
    """True if the pickle is for other minor versions of Python: nothing of this version alone goes into it."""
    watch: Watch
    """Parts of the program that must not change for this pickle to stay right."""

    def origin(self, name: str | None) -> Origin:
        """Returns the origin of a module, by its name, for this pickle: it decides how its objects travel."""
        ...

    def is_by_value(self, obj: Any) -> bool:
        """True if a function, class or the like goes by value: there is no name under which it is found."""
        ...

    def by_name(self, module: str, name: str) -> Any:
        """Returns how an attribute of a module is pickled: as the name of the module and its name there.

        If the module is the user's own, it is added to ``modules``, so that it is sent.
        """

    def scope_of(self, namespace: Namespace) -> Scope:
        """Returns the stand-in that a pickle holds for a dictionary of globals: a call that returns them there.

        Asked again for the same dictionary, it returns the same object: the pickle then holds it once, and functions
        that share globals here share one dictionary there.
        """
        ...

    def goes_along(self, namespace: Namespace) -> bool:
        """True if the pickle brings the globals that functions use of this dictionary, as no import gives them."""
        ...

    def stamped(self, namespace: Namespace, names: Iterable[str]) -> list[Stamped]:
        """Returns globals of a dictionary that goes by value, in the order of ``names``; adds them to ``watch``.

        KeyError if it lacks a name.
        """
        ...

    def shared_in(self, namespace: Namespace, values: Any) -> Any:
        """Returns a tuple or dictionary with stand-ins for values that a module holds as well: each stays one object.

        ``namespace``: globals of the module that the tuple or dictionary belongs to.
        """

    def later(self, functions: list[types.FunctionType]) -> list[Any]:
        """Have functions of a class pickled unfilled, wherever the pickle meets them; returns their stand-ins.

        The stand-ins (``functions.Later``), in the order of the functions, go into the pickle of the class: where
        one is unpickled, its function is filled. The functions that it refers to need not be filled yet.
        """
        ...

    def state_of(self, function: types.FunctionType) -> tuple[Any, ...]:
        """Returns the state that ``functions.fill_function`` gives a function: parts that may refer to it again.

        A tuple: attributes of ``functions.PARTS``, by name; other attributes, by name; pairs of a cell and its value;
        globals (``Stamped``); names of modules to import first.
        """
        ...


Reducer = Callable[[CodePickler, Any], Any]
"""Returns how an object is pickled (as ``__reduce__`` does); NotImplemented leaves it to the pickler."""
