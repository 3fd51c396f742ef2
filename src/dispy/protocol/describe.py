"""Descriptions of messages, events and actions for the log: one short line with names, numbers and sizes.

Nothing that a user or a job has made is shown. Arguments, results, output, code and files appear as a number of
bytes; reasons of several lines appear as a number of lines, since tracebacks quote code and values. Bytes that name a
client or a node appear as their first eight hexadecimal digits.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec
from msgspec import Struct

from dispy.system.wording import counted

TEXT_MAX = 120
"""Characters of a text (name, reason) that the log line shows; the rest is replaced by "…"."""

ITEMS_MAX = 4
"""Elements of a list that the log line shows; the others appear as a number ("and 12 more")."""

DEPTH_MAX = 4
"""Levels of nested structs and lists that are shown; deeper values appear as "…"."""

STATUSES = {8: "cancelled", 9: "terminated", 10: "abandoned", 11: "finished"}  # words for ``Ended.status``

_IDENTITY_SIZE = 16  # bytes
_IDENTITIES = frozenset(("client", "node", "key", "before", "gone"))
"""Names of fields whose value, if it has 16 bytes, names a client or a node: shown as its first 8 hexadecimal digits.
Of bytes in other fields only the number is shown."""

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
"""Names of struct types whose texts may quote a user's code or values: only the number of characters (or lines) is
shown."""

_NUMBERED = frozenset(("Job", "Attempt", "Started"))
"""Names of struct types that are shown as job number and attempt, with the size of the arguments."""

_fields_by_type: dict[type, list[tuple[str, Any]]] = {}
"""Cache of ``_fields_of``: names and default values of the fields, in their order, by struct type."""


def describe(message: Struct) -> str:
    """Returns one line, for a debug log, with the type of a message, event or action, and the fields that differ from
    their defaults."""
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
    """Returns names and default values of a struct type's fields, in their order; None for a field without default.
    ``describe`` leaves out fields that have their default. Worked out once per type, and kept."""
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
    """Returns text with the first ``ITEMS_MAX`` elements of a list, or keys of a dictionary, and the number of the
    others."""
    some = list(values)[:ITEMS_MAX] if len(values) > ITEMS_MAX else values
    shown = [_value(field, value, owner, depth + 1) for value in some]
    if len(values) > len(shown):
        shown.append(f"and {len(values) - len(shown)} more")
    return f"[{', '.join(shown)}]"


def _text(text: str, *, is_private: bool) -> str:
    """Returns a text in quotes if it is a name or a sentence of dispy's own; else its size in lines or characters.

    A text of several lines always counts as a user's. A text of one line does if ``is_private`` is True: it is in a
    struct whose texts may quote the user (``_PRIVATE``).
    """
    if "\n" in text:
        return f"<{counted(text.count(chr(10)) + 1, 'line')}>"
    if is_private and text:
        return f"<{counted(len(text), 'character', zero='no')}>"
    return repr(text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…")


def _attempt(item: Any) -> str:
    """Returns text for an attempt: job 7 is ``7``, in its second attempt ``7.1``; with the bytes of its arguments, if
    they are in the struct."""
    name = f"{item.number}.{item.attempt}" if item.attempt else f"{item.number}"
    size = len(getattr(item, "payload", b""))
    return f"{name} ({counted(size, 'byte')})" if size else name


def _ended(item: Any) -> str:
    size = len(item.payload) if item.payload is not None else 0
    name = f"{item.number}.{item.attempt}" if item.attempt else f"{item.number}"
    took = f" in {item.end - item.start:.3g} s" if item.ran else ""
    return f"{name} {STATUSES[item.status]}{took}" + (f" ({counted(size, 'byte')})" if size else "")
