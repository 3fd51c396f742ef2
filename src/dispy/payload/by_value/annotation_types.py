"""How types for annotations travel: ``typing.NewType``, type parameters and type aliases.

Each stays one object where it arrives, however many pickles bring it, since such types are compared by identity.
"""

from __future__ import annotations

import contextlib
import sys
import typing
import weakref
from typing import Any

from dispy.payload.by_value import change_stamps, scopes
from dispy.payload.by_value.code_pickler import CodePickler, Reducer
from dispy.payload.modules.origins import Origin, origin_of


def _reduce_new_type(pickler: CodePickler, kind: Any) -> Any:
    """Returns how a ``typing.NewType`` is pickled; NotImplemented if it goes by name."""
    if not pickler.is_by_value(kind):
        return NotImplemented
    return _new_type, (kind.__name__, kind.__qualname__, kind.__module__, kind.__supertype__)


def _new_type(name: str, qualname: str, module: str, supertype: Any) -> Any:
    """Returns a ``typing.NewType``: the one of this name in the module that is loaded here, or a new one.

    Pickles call this. ``qualname``: its name in ``module``, with dots; ``supertype``: the type that it is made of.
    """
    known = _existing(module, qualname, typing.NewType)
    if known is not None:
        return known
    make: Any = typing.NewType
    kind = make(name, supertype)
    kind.__module__, kind.__qualname__ = module, qualname
    return kind


def _existing(module: str, name: str, kind: Any) -> Any:
    """Returns an object of a module of the user's that is loaded here; None if there is none of this name and kind.

    The caller uses it in place of the arriving object of the same name, of which it then makes no copy.

    Args:
        module: Name of the module.
        name: Name of the object in the module, which may have dots.
        kind: Class that the object must be of.
    """
    found = scopes.attribute_of(sys.modules.get(module), name)
    return found if isinstance(found, kind) and origin_of(module) is not Origin.INSTALLED else None


def _reduce_type_parameter(pickler: CodePickler, parameter: Any) -> Any:
    """Returns how a ``TypeVar`` or the like is pickled: by name if its module can be imported.

    Else it is made anew where it arrives, once: all pickles of this program that hold it give the same object there.
    """
    module = getattr(parameter, "__module__", None)
    name = parameter.__name__
    home = sys.modules.get(module) if module else None
    origin = pickler.origin(module)
    if origin is not Origin.VALUE and home is not None and getattr(home, name, None) is parameter:
        return pickler.by_name(str(module), name)
    options = {
        key: getattr(parameter, f"__{key}__")
        for key in ("bound", "covariant", "contravariant", "infer_variance")
        if getattr(parameter, f"__{key}__", None)
    }
    if sys.version_info >= (3, 13) and parameter.has_default():
        options["default"] = parameter.__default__
    constraints = getattr(parameter, "__constraints__", ())
    identity = change_stamps.identity_of(parameter)
    _parameters[identity] = parameter
    return _type_parameter, (
        identity,
        type(parameter),
        name,
        constraints,
        options,
        module,
    )


_parameters: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
"""Type parameters that were sent or have arrived, by identity (``change_stamps.identity_of``), while in use.

A parameter that was sent and comes back is the same object again, and not a copy.
"""


def _type_parameter(
    identity: str, kind: Any, name: str, constraints: Any, options: dict[str, Any], module: str | None
) -> Any:
    """Returns the type parameter of an identity: the one that is here, or a new one; pickles call this.

    ``kind``: its class, such as ``TypeVar``; ``constraints`` and ``options``: arguments and keywords (such as
    ``bound``) that the class is called with after ``name``.
    """
    parameter = _parameters.get(identity)
    if parameter is None:
        parameter = _parameters[identity] = kind(name, *constraints, **options)
        change_stamps.give_identity(parameter, identity)
        with contextlib.suppress(AttributeError):
            parameter.__module__ = module
    return parameter


def _reduce_alias(pickler: CodePickler, alias: Any) -> Any:
    """Returns how a type alias (``type A = …``) is pickled; NotImplemented if it goes by name."""
    if not pickler.is_by_value(alias):
        return NotImplemented
    make = _alias, (alias.__name__, alias.__type_params__, alias.__module__)
    return *make, alias.__value__, None, None, _fill_alias


_values: dict[int, Any] = {}
"""Pairs of a type alias made here and its value, by address of the alias; kept for the life of the process.

The alias looks its value up here when its ``__value__`` is asked for, as the value may name the alias again.
"""


def _alias(name: str, parameters: tuple[Any, ...], module: str) -> Any:
    """Returns a type alias: the one of this name in the module that is loaded here, or a new one without a value.

    Pickles call this, and then ``_fill_alias``. ``parameters``: its type parameters, in order.
    """
    known = _existing(module, name, typing.TypeAliasType)  # type: ignore[attr-defined,unused-ignore]
    if known is not None:
        return known
    # The value may name the alias again, so it is looked up when it is asked for.
    scope: dict[str, Any] = {"__name__": module, "value_of": lambda: _values[id(scope[name])][1]}
    listed = f"[{', '.join(map(str, parameters))}]" if parameters else ""
    exec(f"type {name}{listed} = value_of()", scope)
    return scope[name]


def _fill_alias(alias: Any, value: Any) -> Any:
    """Give a type alias its value, unless it has one from an earlier pickle; returns the alias. Pickles call this."""
    _values.setdefault(id(alias), (alias, value))
    return alias


def _reduce_forward(pickler: CodePickler, reference: Any) -> Any:
    """Returns how a ``typing.ForwardRef`` is pickled for another version of Python: it holds compiled code.

    NotImplemented for the same version.
    """
    if not pickler.is_portable:
        return NotImplemented
    return _forward, (
        reference.__forward_arg__, reference.__forward_module__, getattr(reference, "__forward_is_class__", False)
    )  # fmt: skip


def _forward(text: str, module: str | None, is_class: bool) -> typing.ForwardRef:
    """Returns a ``typing.ForwardRef`` of this version. Pickles call this.

    Args:
        text: The annotation.
        module: Name of the module in which it is looked up; None if that is not said.
        is_class: True if it may be of an attribute of a class, such as ``ClassVar``.
    """
    return typing.ForwardRef(text, module=module, is_class=is_class)


REDUCERS: dict[type, Reducer] = {
    typing.ForwardRef: _reduce_forward,
    typing.NewType: _reduce_new_type,
    typing.TypeVar: _reduce_type_parameter,
    typing.ParamSpec: _reduce_type_parameter,
    typing.TypeVarTuple: _reduce_type_parameter,
}
"""By type: the function that returns how its instances are pickled. Instances of subclasses are not looked up."""

if sys.version_info >= (3, 12):
    REDUCERS[typing.TypeAliasType] = _reduce_alias
