"""Messages, events and actions in one short line, for logs: names and numbers, and of all that users own its size.

Nothing that a user or a job has made is shown: of arguments, results, output, code and files the bytes are counted,
of reasons that have several lines (tracebacks quote code and values) the lines. Bytes that name somebody are shown
by their first eight digits.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec
from msgspec import Struct

from dispy.system.wording import counted

TEXT_MAX = 120
"""Characters shown of a text."""

ITEMS_MAX = 4
"""Elements shown of a list; of the others the number."""

DEPTH_MAX = 4

STATUSES = {8: "cancelled", 9: "terminated", 10: "abandoned", 11: "finished"}

_IDENTITY_SIZE = 16
_IDENTITIES = frozenset(("client", "node", "key", "before", "gone"))
"""Fields whose bytes name a program or a node."""

_PRIVATE = frozenset(
    (
        "Ended",
        "ComputationFailed",
        "ComputationReady",
        "HostFailed",
        "HostReady",
        "LoadFailed",
        "Loaded",
        "TellNode",
    )
)
"""Structs whose reasons may quote what a user wrote."""

_NUMBERED = frozenset(("Job", "Attempt", "Started"))
"""Structs that are known by number and attempt alone."""

_fields_by_type: dict[type, list[tuple[str, Any]]] = {}


def describe(message: Struct) -> str:
    """A message, an event or an action by its type and those fields that are not as usual."""
    return _struct(message, 0)


def _struct(message: Struct, depth: int) -> str:
    name = type(message).__name__
    if name in _NUMBERED:
        return _attempt(message)
    if name == "Ended":
        return _ended(message)
    shown = []
    for field, usual in _fields_of(type(message)):
        value = getattr(message, field)
        if value != usual:
            shown.append(f"{field}={_value(field, value, name, depth + 1)}")
    return f"{name}({', '.join(shown)})" if depth else " ".join([name, *shown])


def _fields_of(kind: type) -> list[tuple[str, Any]]:
    """Names and default values of a struct's fields."""
    found = _fields_by_type.get(kind)
    if found is None:
        found = _fields_by_type[kind] = [(f.name, _usual(f)) for f in msgspec.structs.fields(kind)]
    return found


def _usual(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return None if field.default is msgspec.NODEFAULT else field.default


def _value(field: str, value: Any, owner: str, depth: int) -> str:
    match value:
        case bool() | int():
            return str(value)
        case Enum():
            return value.name
        case float():
            return f"{value:.6g}"
        case str():
            return _text(value, is_private=owner in _PRIVATE)
        case bytes() | bytearray() | memoryview():
            if field in _IDENTITIES and len(value) == _IDENTITY_SIZE:
                return bytes(value[:4]).hex()
            return f"<{counted(len(value), 'byte', zero='no')}>"
        case _ if depth > DEPTH_MAX:
            return "…"
        case Struct():
            return _struct(value, depth)
        case tuple():
            return "/".join([_value(field, item, owner, depth + 1) for item in value])
        case list() | dict():
            return _items(field, value, owner, depth)
    return f"<{type(value).__name__}>"


def _items(field: str, values: list[Any] | dict[Any, Any], owner: str, depth: int) -> str:
    """The first elements of a list, or keys of a dictionary, and how many there are besides."""
    some = list(values)[:ITEMS_MAX] if len(values) > ITEMS_MAX else values
    shown = [_value(field, value, owner, depth + 1) for value in some]
    if len(values) > len(shown):
        shown.append(f"and {len(values) - len(shown)} more")
    return f"[{', '.join(shown)}]"


def _text(text: str, *, is_private: bool) -> str:
    """A text, if it is a name or a sentence of ours; its size, if it may be anything."""
    if "\n" in text:
        return f"<{counted(text.count(chr(10)) + 1, 'line')}>"
    if is_private and text:
        return f"<{counted(len(text), 'character', zero='no')}>"
    return repr(text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…")


def _attempt(item: Any) -> str:
    """A job as ``7``; in its second attempt as ``7.1``; with the bytes of its arguments, if they are here."""
    name = f"{item.number}.{item.attempt}" if item.attempt else f"{item.number}"
    size = len(getattr(item, "payload", b""))
    return f"{name} ({counted(size, 'byte')})" if size else name


def _ended(item: Any) -> str:
    size = len(item.payload) if item.payload is not None else 0
    name = f"{item.number}.{item.attempt}" if item.attempt else f"{item.number}"
    took = f" in {item.end - item.start:.3g} s" if item.ran else ""
    return f"{name} {STATUSES[item.status]}{took}" + (f" ({counted(size, 'byte')})" if size else "")
