"""Runs a program with poisoned unpicklers: each call is written to a file, and raises.

    python poison.py RECORD ARMED [-W ...] -m MODULE ARGUMENT...
    python poison.py RECORD ARMED FILE ARGUMENT...

Python itself needs ``exec``, ``eval`` and ``marshal`` to import modules. So everything works as usual until the file
ARMED exists, and what the import system does is let through afterwards, too. SIGRTMIN calls each of the
poisoned functions: a process in which nothing was recorded can be shown to have been poisoned.
"""

from __future__ import annotations

import _pickle
import builtins
import marshal
import os
import pickle
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

POISONED: list[tuple[Any, str]] = [
    *((module, name) for module in (_pickle, pickle) for name in ("load", "loads", "Unpickler")),
    *((pickle, name) for name in ("_load", "_loads", "_Unpickler")),
    *((marshal, name) for name in ("load", "loads")),
    *((builtins, name) for name in ("eval", "exec", "compile")),
]
LOADERS = ("load", "load_call", "load_code", "load_exception")
"""Of ``dispy.payload``, where that is imported."""

_RECORD, _ARMED = "", ""


class Poisoned(Exception):
    """What a poisoned function raises."""


def main() -> None:
    """Poison everything, and run the program."""
    global _RECORD, _ARMED
    _RECORD, _ARMED, *rest = sys.argv[1:]
    for owner, name in POISONED:
        setattr(owner, name, poison(f"{owner.__name__}.{name}", getattr(owner, name)))
    import cloudpickle

    for name in ("load", "loads"):
        setattr(cloudpickle, name, poison(f"cloudpickle.{name}", getattr(cloudpickle, name)))
    if rest[0] == "-W":
        rest = rest[2:]
    signal.signal(signal.SIGRTMIN, prove)
    if rest[0] == "-m":
        sys.argv = rest[1:]
        runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
    else:
        poison_payload()
        sys.argv = rest
        runpy.run_path(rest[0], run_name="__main__")


def poison_payload() -> None:
    """The loaders of a client."""
    from dispy import payload

    for name in LOADERS:
        setattr(payload, name, poison(f"payload.{name}", getattr(payload, name)))


def poison(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """A function that does the same until it is armed, and then records its calls and raises."""

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        if not is_armed() or is_import():
            return original(*args, **kwargs)
        record(name)
        raise Poisoned(name)

    if not isinstance(original, type):
        return poisoned

    def begin(self: Any, *args: Any, **kwargs: Any) -> None:
        """Check as ``poisoned`` does; a class stays one, of which others may be derived."""
        if is_armed() and not is_import():
            record(name)
            raise Poisoned(name)
        original.__init__(self, *args, **kwargs)

    return type(original.__name__, (original,), {"__init__": begin})


def is_armed() -> bool:
    """Whether the program has started."""
    return os.access(_ARMED, os.F_OK)


def is_import() -> bool:
    """Whether the import system asks: it reads files, and no sockets."""
    frame = sys._getframe(2)
    return frame is not None and "importlib._bootstrap" in frame.f_code.co_filename


def record(text: str) -> None:
    """Write down what happened, and how it came to that."""
    descriptor = os.open(_RECORD, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, (f"{text}\n" + "".join(traceback.format_stack(limit=6))).encode())
    finally:
        os.close(descriptor)


def prove(number: int, frame: object) -> None:
    """Call everything that is poisoned, and tell whether payloads can be loaded here at all."""
    calls: list[tuple[Any, str]] = [*POISONED, (sys.modules["cloudpickle"], "loads")]
    for owner, name in calls:
        try:
            getattr(owner, name)(b"N.")
        except Poisoned:
            continue
        record(f"NOT POISONED: {name}")
    record("dispy.payload is " + ("loaded" if "dispy.payload" in sys.modules else "not loaded"))


if __name__ == "__main__":
    main()
