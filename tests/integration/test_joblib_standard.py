"""joblib's own tests of ``Parallel`` that take a backend, run with ours.

They are imported from the installed package, and never copied: of each test that is parametrized by a backend there
is one here with "dispy" in that place, and all its other parameters as they are.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import StartNode

joblib = pytest.importorskip("joblib", reason="joblib is not installed: pip install joblib")

from dispy.integrations.joblib_backend import DispyBackend  # noqa: E402  # needs joblib
from dispy.integrations.joblib_calls import NAME  # noqa: E402  # likewise

pytestmark = [
    # They warn, and fork processes beside threads, for managers.
    pytest.mark.filterwarnings("default::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def _take_key(key: bytes) -> None:
    """Have a worker take the key of the program, without which it cannot talk to a manager; forked pools have it."""
    multiprocessing.current_process().authkey = key


class WithKey(DispyBackend):
    """Our backend, whose workers have the key of the program."""

    def __init__(self, **parameters: Any) -> None:
        key = bytes(multiprocessing.current_process().authkey)
        super().__init__(initializer=_take_key, initargs=(key,), **parameters)


joblib.register_parallel_backend(NAME, WithKey)  # before their list of backends is made

from joblib.test import test_parallel as theirs  # noqa: E402

PLACES = ("backend", "child_backend", "parent_backend", "outer_backend", "inner_backend")
"""Names of parameters of their tests that are backends."""

_NESTED = "it expects threads in calls, where ours has them one after another"
_PROXY = (
    "it gives a proxy to initializer or calls, which needs the key of the program there; see test_joblib"
)
_MEMMAP = "it looks for memmap objects: arrays lie in shared memory here, and are plain ones"

EXCEPTIONS = {
    "test_auto_memmap_on_arrays_from_generator": _MEMMAP,
    "test_memmapping_leaks": _MEMMAP,
    "test_nested_backend_context_manager": _NESTED,
    "test_nested_parallelism_limit": _NESTED,
    "test_background_thread_parallelism": "it does not use its backend, but the default one",
    "test_error_capture": "it expects new workers after an error: ours go on",
    "test_dispatch_multiprocessing": _PROXY,
    "test_initializer_context": _PROXY,
    "test_initializer_parallel": _PROXY,
    "test_parallel_thread_limit": "it needs a helper that is not compiled in wheels, as with other backends",
}
"""Tests that are not run, with the reason."""

LEFT_OUT = {
    ("test_nested_backend_in_sequential", "n_jobs"): None,
}
"""Values of parameters that are not run, by test and parameter. Without ``n_jobs`` ours uses all CPUs, not one."""

COUNT = 29
"""Tests that are run, of joblib 1.6, not counting their parameters."""


def _ours(test: str, mark: pytest.Mark) -> pytest.Mark:
    """Returns a mark of one of their tests, with our backend alone where it gave others."""
    if mark.name == "parametrize" and mark.args[0] in PLACES:
        return pytest.mark.parametrize(mark.args[0], ["dispy"]).mark
    if mark.name == "parametrize" and (test, mark.args[0]) in LEFT_OUT:
        kept = [value for value in mark.args[1] if value != LEFT_OUT[test, mark.args[0]]]
        return pytest.mark.parametrize(mark.args[0], kept).mark
    return mark


def _takes_backend(test: Any) -> bool:
    """True if a test is parametrized by a backend."""
    return any(
        mark.name == "parametrize" and mark.args[0] in PLACES for mark in getattr(test, "pytestmark", ())
    )


def _make() -> dict[str, Any]:
    """Returns tests with our backend, by name."""
    made = {}
    for name, test in vars(theirs).items():
        if not name.startswith("test_") or not _takes_backend(test):
            continue
        copy: Any = types.FunctionType(
            test.__code__, test.__globals__, name, test.__defaults__, test.__closure__
        )
        copy.pytestmark = [_ours(name, mark) for mark in test.pytestmark]
        if name in EXCEPTIONS:
            copy.pytestmark.append(pytest.mark.skip(EXCEPTIONS[name]).mark)
        made[name] = copy
    return made


MADE = _make()
globals().update(MADE)


@pytest.fixture(autouse=True)
def _node(start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A node; scripts that are started find our backend registered; a directory with a short path, for sockets."""
    start_node("--cpus", "2")
    (tmp_path / "sitecustomize.py").write_text("import dispy\n\ndispy.register_joblib()\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        yield


def test_they_are_all_run() -> None:
    """Nothing is left out but the exceptions, and these are still there."""
    assert set(MADE) >= set(EXCEPTIONS)
    assert len(set(MADE) - set(EXCEPTIONS)) >= COUNT, sorted(MADE)
