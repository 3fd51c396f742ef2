"""What is checked before a cluster is made: seconds, and that threads are threads."""

from __future__ import annotations

import math
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

import dispy
from dispy.client.arguments import check_threads, check_timeout, deadline
from dispy.errors import UsageError


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, None),
        (5, 5.0),
        (0.25, 0.25),
        (0, 0.0),
        (-1, 0.0),
        (-math.inf, 0.0),
        (math.inf, None),
        (1e300, None),
        (10**400, None),
        (-(10**400), 0.0),
        (threading.TIMEOUT_MAX, None),
        (threading.TIMEOUT_MAX / 2, threading.TIMEOUT_MAX / 2),
    ],
)
def test_seconds_are_such_as_locks_take(given: Any, seconds: float | None) -> None:
    assert check_timeout(given) == seconds
    assert (deadline(given) is None) == (seconds is None)
    assert threading.Lock().acquire(True, -1 if seconds is None else seconds)


@pytest.mark.parametrize("given", [math.nan, "5", True, 1j, [5]])
def test_what_is_no_number_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match="grace must be a number of seconds, not"):
        check_timeout(given, "grace")


PATCHED = {
    "gevent": (
        "gevent.monkey",
        "is_module_patched",
        "threading",
        r"gevent.monkey.patch_all\(thread=False\)",
    ),
    "eventlet": (
        "eventlet.patcher",
        "is_monkey_patched",
        "thread",
        r"eventlet.monkey_patch\(thread=False\)",
    ),
}


@pytest.mark.parametrize("package", PATCHED)
def test_threads_that_are_none_are_refused(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: the engine's would never let its maker go on."""
    module, function, name, hint = PATCHED[package]
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{function: lambda asked: asked == name}))  # type: ignore[arg-type]
    for make in (lambda: dispy.JobCluster(len), dispy.recover_jobs):
        with pytest.raises(UsageError, match=f"{package} has patched threading") as caught:
            make()
        assert caught.match(hint)


@pytest.mark.parametrize("package", PATCHED)
def test_threads_that_are_some_are_accepted(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded, and has patched nothing, or something else."""
    module, function, name, _ = PATCHED[package]
    for known in ({function: lambda asked: asked != name}, {}):
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(**known))  # type: ignore[arg-type]
        check_threads()
