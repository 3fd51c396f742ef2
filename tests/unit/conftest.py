"""What unit tests share: directories of one's own, and another process to send objects to."""

from __future__ import annotations

import marshal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from dispy import payload

CHILD = """
import importlib, marshal, os, sys, traceback
from dispy import payload

def answer(code, calls):
    payload.begin_worker("modules", ".")
    loaded = payload.load_code(code)
    for name in loaded.modules:
        loaded.namespace.setdefault(name, importlib.import_module(name))
    replies = []
    for call in calls:
        args, kwargs = (*payload.load_call(call), {})[:2]
        try:
            replies.append((True, payload.dump(loaded.function(*args, **kwargs))))
        except Exception as error:
            replies.append((False, payload.dump_exception(error) or repr(error).encode()))
    return replies

def say(what):
    sys.stdout.buffer.write(marshal.dumps(what))
    sys.stdout.buffer.flush()

while True:
    try:
        directory, code, calls = marshal.load(sys.stdin.buffer)
    except EOFError:
        break
    if not os.fork():
        os.chdir(directory)
        try:
            say(answer(code, calls))
        except BaseException:
            say(traceback.format_exc())
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.wait()[1])
    if ended:
        say(f"it ended with {ended}")
"""
"""Stands for workers: forks one for each task, which loads a computation and its calls, and sends the results back.
It can import dispy and what is installed, nothing of the tests."""


class Raised:
    """What a call in the other process raised, pickled; or its text, where it could not be pickled."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class Elsewhere:
    """Another process, as a worker would be.

    Args:
        directory: Its current directory.
        host: Process that runs ``CHILD``, which forks it.
    """

    def __init__(self, directory: Path, host: subprocess.Popen[bytes]) -> None:
        self._directory = directory
        self._host = host

    def run(
        self, function: Callable[..., Any], *calls: tuple[Any, ...], depends: Iterable[Any] = ()
    ) -> list[Any]:
        """Results of calls that one and the same process runs, one after another."""
        sent = payload.dump_code(function, list(depends))
        calls_sent = [payload.dump_call(args, {}, None, sent.known) for args in calls]
        assert self._host.stdin is not None
        assert self._host.stdout is not None
        self._host.stdin.write(marshal.dumps((str(self._directory), sent.data, calls_sent)))
        self._host.stdin.flush()
        replies = marshal.load(self._host.stdout)
        assert isinstance(replies, list), replies
        return [payload.load(data) if ok else Raised(data) for ok, data in replies]

    def call(self, function: Callable[..., Any], *args: Any, depends: Iterable[Any] = ()) -> Any:
        """The result of one call; fails if the call raised something."""
        (result,) = self.run(function, args, depends=depends)
        assert not isinstance(result, Raised), result.data
        return result

    def back(self, value: Any) -> Any:
        """A value as it comes back from there."""
        return self.call(lambda given: given, value)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Have the modules of tests go by value: another process would import pytest with each (0.2 s)."""
    if isinstance(item, pytest.Function) and item.module.__name__ not in registered:
        registered.add(item.module.__name__)
        cloudpickle.register_pickle_by_value(item.module)


registered: set[str] = set()


@pytest.fixture(scope="session")
def elsewhere_host() -> Iterator[subprocess.Popen[bytes]]:
    """Process that has the imports of a worker; started once, since they take 0.2 s."""
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as host:
        yield host
        assert host.stdin is not None
        host.stdin.close()


@pytest.fixture
def elsewhere(tmp_path: Path, elsewhere_host: subprocess.Popen[bytes]) -> Elsewhere:
    """Another process to send functions and values to."""
    return Elsewhere(tmp_path, elsewhere_host)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """State and runtime directories of this test alone: ``state`` and ``run`` below the path given."""
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("DISPY_SECRET", raising=False)
    return tmp_path


class SecondLook:
    """An ``is_wanted`` that does something when it is asked for the second time: before a file is copied.

    Attributes:
        looks: How often it was asked.
    """

    def __init__(self, change: Callable[[], object]) -> None:
        self.looks = 0
        self._change = change

    def __call__(self) -> bool:
        self.looks += 1
        if self.looks == 2:
            self._change()
        return True


@pytest.fixture
def at_second_look() -> type[SecondLook]:
    """Makes such."""
    return SecondLook
