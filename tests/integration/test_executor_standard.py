"""The interpreter's own tests of executors, run with ours: all that does not reach into the insides of the pool.

They are imported from the standard library of the interpreter that runs this, or from Debian's package of its
tests, and never copied: ``test.test_concurrent_futures`` is a package from Python 3.12 on, a single module before.
Each class is mixed with ``Standard`` here.
"""

from __future__ import annotations

import importlib
import multiprocessing
import sys
import tempfile
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dispy

from .conftest import StartNode

NAME = "test.test_concurrent_futures"

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

DEBIAN = Path(f"/usr/lib/python{VERSION}/test")
"""Directory of the tests in Debian's package, which other builds of the same minor version can use."""

INSTALL = f"no {NAME} in this Python: apt-get install libpython{VERSION}-testsuite, or take another build"

pytestmark = [
    # Their tests fork processes beside threads, for managers.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

CLASSES = {
    "executor": ["ExecutorTest"],
    "test_wait": ["WaitTests"],
    "test_as_completed": ["AsCompletedTests"],
    "test_init": ["InitializerMixin", "FailingInitializerMixin"],
    "test_shutdown": ["ExecutorShutdownTest"],
    "test_deadlock": ["ExecutorDeadlockTest"],
    "test_process_pool": ["ProcessPoolExecutorTest"],
}
"""Classes of tests, by their module."""

_SCRIPT = "it runs a script that imports the class from concurrent.futures by name; see test_executor"
_PROCESSES = "it looks at the pool's own processes"
_PER_CHILD = "it is about max_tasks_per_child, a parameter of the pool"

EXCEPTIONS = {
    "test_interpreter_shutdown": _SCRIPT,
    "test_submit_after_interpreter_shutdown": _SCRIPT,
    "test_hang_gh83386": _SCRIPT,
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": "it replaces the pool's wake-up pipe",
    "test_killed_child": "a process that dies fails its own call alone: the one wanted difference",
    "test_max_workers_too_large": "it is about Windows",
    "test_saturation": _PROCESSES,
    "test_idle_process_reuse_one": _PROCESSES,
    "test_idle_process_reuse_multiple": _PROCESSES,
    "test_max_tasks_per_child": _PER_CHILD,
    "test_max_tasks_per_child_defaults_to_spawn_context": _PER_CHILD,
    "test_max_tasks_early_shutdown": _PER_CHILD,
    "test_python_finalization_error": "it has the threads of the pool fail to start",
}
"""Tests that are not run, with the reason."""

COUNT = 46 if sys.version_info >= (3, 12) else 44
"""Tests that are run, at least: those of Python 3.13, and of 3.11."""


class _Ended:
    """Stand-in for the thread of a pool, which tests wait for."""

    def join(self) -> None:
        """Return at once."""


class Standard(dispy.Executor):
    """Our executor as the tests make it: with the pool's ``mp_context``, which is ignored."""

    _executor_manager_thread = _Ended()

    def __init__(self, *args: Any, mp_context: object = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


def _take_key(key: bytes) -> None:
    """Have a worker take the key of the program, without which it cannot talk to a manager; forked pools have it."""
    multiprocessing.current_process().authkey = key


def _theirs() -> dict[str, Any]:
    """Returns the modules of the interpreter's tests, by name; empty if there are none.

    The modules have one name each from Python 3.12 on; before, all names stand for the same one.
    """
    names = ["util", *CLASSES]
    try:
        package = importlib.import_module("test")
        if DEBIAN.is_dir() and str(DEBIAN) not in package.__path__:
            # Behind the interpreter's own, whose test.support is of the same version.
            package.__path__.append(str(DEBIAN))
        whole = importlib.import_module(NAME)
        if not hasattr(whole, "__path__"):
            return dict.fromkeys(names, whole)
        return {name: importlib.import_module(f"{NAME}.{name}") for name in names}
    except ImportError:
        return {}


def _make() -> dict[str, type[unittest.TestCase]]:
    """Returns a class of tests with our executor for each of ``CLASSES``, by name."""
    modules = _theirs()
    if not modules:
        return {}
    mixin = modules["util"].ExecutorMixin
    made = {}
    for module, names in CLASSES.items():
        for name in names:
            theirs = getattr(modules[module], name)
            left_out = {
                test: unittest.skip(reason)(lambda _: None)
                for test, reason in EXCEPTIONS.items()
                if hasattr(theirs, test)
            }
            if module == "test_process_pool":  # those of its base have run
                base = modules["executor"].ExecutorTest
                left_out |= dict.fromkeys([test for test in dir(base) if test.startswith("test")])
            body = {
                "executor_type": Standard,
                "get_context": lambda _: multiprocessing.get_context("fork"),
                "__module__": __name__,
                **left_out,
            }
            if module == "test_process_pool":
                key = bytes(multiprocessing.current_process().authkey)
                body["executor_kwargs"] = {"initializer": _take_key, "initargs": (key,)}
            made[f"Test{name}"] = type(f"Test{name}", (theirs, mixin, unittest.TestCase), body)
    return made


MADE = _make()
globals().update(MADE)


@pytest.fixture(autouse=True)
def _node(start_node: StartNode, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A node; the tests ask for five workers, and have two. And a directory with a short path, for sockets."""
    start_node("--cpus", "2")
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        yield


def test_they_are_all_run() -> None:
    """Nothing is left out but the exceptions: the number is that of the interpreter that the table was made with."""
    if not MADE:
        pytest.skip(INSTALL)
    found = [
        test
        for kind in MADE.values()
        for test in dir(kind)
        if test.startswith("test") and getattr(kind, test) is not None and test not in EXCEPTIONS
    ]
    assert len(found) >= COUNT, found
