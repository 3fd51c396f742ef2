"""Events, actions and messages in words, for those who read a trace."""

from __future__ import annotations

from typing import Any

import msgspec

_LONG = 24


def show(value: Any) -> str:
    """A struct by its name and fields; long lists and bytes are cut."""
    if isinstance(value, msgspec.Struct):
        fields = [
            show(item)
            for name, item in zip(value.__struct_fields__, msgspec.structs.astuple(value), strict=True)
            if item not in (b"", "", [], 0, None) or name in ("computation", "number", "attempt")
        ]
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)}>" if len(value) != 16 else bytes(value[:3]).hex()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return repr(value[:80])
    if isinstance(value, (list, tuple)):
        items = [show(item) for item in value[:_LONG]]
        if len(value) > _LONG:
            items.append(f"... {len(value)}")
        return f"[{' '.join(items)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{show(k)}: {show(v)}' for k, v in list(value.items())[:_LONG])}}}"
    return str(value)


def show_event(event: Any, actions: list[Any]) -> str:
    """An event and what follows from it."""
    return f"{show(event)} -> {'; '.join(show(action) for action in actions) or 'nothing'}"
