"""Classes of ``msgspec.Struct`` by value: made with their fields, as they cannot be made empty and filled."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec


def is_struct(cls: type) -> bool:
    """True if a class is a ``msgspec.Struct``."""
    return issubclass(cls, msgspec.Struct)


def restore_defaults(namespace: dict[str, Any]) -> None:
    """Put msgspec's own objects in the place of each ``FactoryField`` of a class that has arrived.

    ``namespace``: attributes that it is made with, by name; changed in place.
    """
    for key, value in namespace.items():
        if isinstance(value, FactoryField):
            namespace[key] = msgspec.field(default_factory=value.factory)


def parts_of(
    cls: type, attributes: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Split the attributes of a ``msgspec.Struct``, which cannot be made empty and get its fields afterwards.
    Returns:
        Annotations and defaults that the class is made with, by name; attributes to set afterwards, by name; and
        keywords of the definition, such as ``frozen``.
    """
    struct: Any = cls
    own = vars(cls).get("__annotations__", {})
    fields: dict[str, Any] = {"__annotations__": own}
    defaults = struct.__struct_defaults__
    for name, default in zip(
        struct.__struct_fields__[-len(defaults) :] if defaults else (), defaults, strict=True
    ):
        if name in own and isinstance(default, _FACTORY):
            fields[name] = FactoryField(default.factory)
        elif name in own and default is not msgspec.NODEFAULT:
            fields[name] = default
    keywords = {name: getattr(struct.__struct_config__, name) for name in _STRUCT_OPTIONS}
    if own and not any(name in struct.__match_args__ for name in own):
        keywords["kw_only"] = True
    encoded = dict(zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True))
    rename = {name: other for name, other in encoded.items() if name != other}
    if rename:
        keywords["rename"] = rename
    rest = {
        name: value
        for name, value in attributes.items()
        if not name.startswith("__struct_")
        and name not in (*own, "__match_args__", "__annotations__", "__slots__")
    }
    return fields, rest, keywords


_STRUCT_OPTIONS = (
    "frozen", "eq", "order", "array_like", "gc", "repr_omit_defaults", "omit_defaults", "forbid_unknown_fields",
    "weakref", "dict", "cache_hash", "tag", "tag_field",
)  # fmt: skip
"""Options of a ``msgspec.Struct`` that are keywords of its definition under the same names."""


class FactoryField(NamedTuple):
    """A default of a ``msgspec.Struct`` that is made by a call: msgspec's own object for it cannot be sent.

    Attributes:
        factory: Called without arguments for each new object; returns the default.
    """

    factory: Any


_FACTORY = type(
    msgspec.defstruct("Probe", [("a", list, msgspec.field(default_factory=list))]).__struct_defaults__[0]
)
"""Class of msgspec's own objects for defaults that are made by a call; msgspec does not export it."""
