"""What callers pass, checked first: errors name the parameter, what it is, and what it may be."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from types import FrameType
from typing import Any

from dispy.errors import UsageError
from dispy.settings import PULSE_MAX_S
from dispy.system.addresses import resolve


def describe(value: Any) -> str:
    """A value in a message: of a foreign ``repr`` no more than fits on a line."""
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 100 else f"{text[:97]}..."


def warn(text: str) -> None:
    """Warn of something at the line of the program that has led here, however deep in dispy that is."""
    level = 1
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "dispy":
        frame = frame.f_back
        level += 1
    warnings.warn(text, stacklevel=level)


def check_timeout(value: Any, name: str = "timeout") -> float | None:
    """Seconds, or None for as long as it takes.

    Returns:
        The same as locks take it, of which some refuse what is endless or negative, or take it for something else:
        None for infinity, and for more than a lock can count (292 years on Linux); 0 for negative ones.

    Raises:
        UsageError: Something else; NaN is no number of seconds either.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise UsageError(
            f"{name} must be a number of seconds, not {describe(value)}",
            hint="leave it out to wait without limit",
        )
    return None if value >= threading.TIMEOUT_MAX else float(max(0, value))


def deadline(timeout: Any, name: str = "timeout") -> float | None:
    """When a wait that begins now has to end (monotonic seconds); None for never.

    Raises:
        UsageError: Something else than seconds or None.
    """
    seconds = check_timeout(timeout, name)
    return None if seconds is None else time.monotonic() + seconds


_PATCHERS = (
    ("gevent.monkey", "is_module_patched", "threading"),
    ("eventlet.patcher", "is_monkey_patched", "thread"),
)
"""Modules that make greenlets of threads; a function of theirs, and what it is asked."""


def check_threads() -> None:
    """Check that threads are threads. As a greenlet dispy's own would let no other run, and all would stand still.

    Raises:
        UsageError: They have been patched.
    """
    for name, asked, what in _PATCHERS:
        is_patched = getattr(sys.modules.get(name), asked, None)
        if is_patched is not None and is_patched(what):
            package = name.partition(".")[0]
            raise UsageError(
                f"{package} has patched threading, and dispy needs real threads",
                hint=f"{package}.monkey.patch_all(thread=False)"
                if package == "gevent"
                else f"{package}.monkey_patch(thread=False)",
            )


def check_flag(name: str, value: Any) -> bool:
    """True or False, and nothing that counts as one of them.

    Raises:
        UsageError: Something else.
    """
    if not isinstance(value, bool):
        raise UsageError(
            f"{name} must be True or False, not {describe(value)}", hint=f"{name}=True, or leave it out"
        )
    return value


def check_text(name: str, value: Any, hint: str) -> None:
    """A text.

    Raises:
        UsageError: Something else.
    """
    if not isinstance(value, str):
        raise UsageError(f"{name} must be a text, not {describe(value)}", hint=hint)


def check_path(name: str, value: Any) -> None:
    """A path, or None.

    Raises:
        UsageError: Something else.
    """
    if value is not None and not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{name} must be a path, not {describe(value)}", hint=f"{name}='path/of/the/file'")


def check_hosts(name: str, hosts: Any) -> None:
    """Names or addresses; None or an empty text, as in dispy 4, for none.

    Raises:
        UsageError: Something else, or a name that cannot be resolved.
    """
    if hosts == "":
        return
    if hosts is not None and not isinstance(hosts, (str, list, tuple)):
        hosts = [hosts]
    for address in [hosts] if isinstance(hosts, str) else hosts or []:
        if not isinstance(address, str):
            raise UsageError(
                f"{name} must be a name or an address, or a list of them, not {describe(address)}",
                hint="leave it out: clients listen nowhere",
            )
        resolve(address)


def check_port(name: str, port: Any) -> None:
    """A port with room for those after it, or None.

    Raises:
        UsageError: Something else.
    """
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65000):
        raise UsageError(
            f"{name} must be a port number from 1 to 64999, not {describe(port)}",
            hint="leave it out for the usual one",
        )


def check_interval(name: str, value: Any, least: float) -> None:
    """Seconds from ``least`` on, or None.

    Raises:
        UsageError: Something else.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= PULSE_MAX_S:
        raise UsageError(
            f"{name} must be from {least:g} to {PULSE_MAX_S:g} seconds, not {describe(value)}",
            hint="leave it out for the usual one",
        )
