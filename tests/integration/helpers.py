"""Places, programs and nodes for tests with real processes, and waiting without sleeping."""

from __future__ import annotations

import ctypes
import glob
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

from dispy.system.directories import FREE, GIVEN, memory_directory
from dispy.system.processes import children

from .node_template import ForkedProcess, NodeTemplate

T = TypeVar("T")

SOON_S = 8.0
"""What is expected to happen does so within this time, also on a busy machine."""

STOP_S = 2.0
"""A node and all its children end within this time after a signal."""

RANDOM = "dispy1-" + "5a" * 32
"""A secret as ``dispy secret new`` makes them: nodes listen beyond loopback with it."""

PYTHON = (sys.executable,)
"""Command that programs run on."""

NODE_PYTHON = (os.environ.get("DISPY_TEST_NODE_PYTHON") or sys.executable,)
"""Command that nodes run on: another minor version of Python than programs, where the environment says so."""

_POLL_S = 0.005


def wait_for(
    look: Callable[[], T], is_done: Callable[[T], object] = bool, *, what: str, deadline_s: float = SOON_S
) -> T:
    """Look again and again until what is seen is what is wanted; returns it.

    Raises:
        AssertionError: It was not within ``deadline_s``; says what was seen last.
    """
    deadline = time.monotonic() + deadline_s
    while True:
        is_last = time.monotonic() > deadline
        seen = look()
        if is_done(seen):
            return seen
        if is_last:
            raise AssertionError(f"after {deadline_s:g} s not: {what}; last seen: {seen!r}")
        time.sleep(_POLL_S)


def below(directory: Path, pattern: str) -> list[Path]:
    """What a directory has that matches, hidden or not; ``**`` are all below it.

    Others change it meanwhile: what goes while it is looked at is not there, where ``Path.glob`` raises an error
    (before Python 3.13).
    """
    found = glob.glob(pattern, root_dir=directory, recursive=True, include_hidden=True)
    return sorted(directory / name for name in found if name)


def opened(pid: int) -> list[str]:
    """What the descriptors of a process refer to; without those that it closes while we look."""
    found = []
    with suppress(FileNotFoundError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_gone(
    pids: Iterable[int], *, what: str = "all processes are gone", deadline_s: float = SOON_S
) -> None:
    """Wait until none of these processes lives."""
    pids = list(pids)
    wait_for(
        lambda: [describe(pid) for pid in pids if is_alive(pid)],
        lambda left: not left,
        what=what,
        deadline_s=deadline_s,
    )


def descendants(pid: int) -> list[int]:
    """Pids of all processes below one, zombies too; without a look at all others, which psutil takes."""
    found = children(pid)
    for child in found:
        found += children(child)
    return found


def describe(pid: int) -> str:
    """A process in a few words."""
    try:
        process = psutil.Process(pid)
        return f"{pid} ({process.status()}) {' '.join(process.cmdline())[-120:]}"
    except psutil.Error:
        return f"{pid} (gone)"


_idle: list[int] = []
"""Descriptors for ``Watch`` that were used by places before: to close one takes 10 ms."""


class Watch:
    """Names of all that is ever made in a directory, by inotify.

    Args:
        directory: Which.
        is_kept: Whether its descriptor stays open, for the next one.
    """

    def __init__(self, directory: Path, *, is_kept: bool = False) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._is_kept = is_kept
        if is_kept and _idle:
            self._descriptor = _idle.pop()
        else:
            self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        in_create, in_moved_to = 0x100, 0x80
        mask = in_create | in_moved_to
        self._number = self._libc.inotify_add_watch(self._descriptor, os.fsencode(directory), mask)
        assert self._number >= 0, directory
        self._names: list[str] = []

    def names(self) -> list[str]:
        """What has been made so far."""
        with suppress(BlockingIOError):
            while data := os.read(self._descriptor, 65536):
                offset = 0
                while offset < len(data):
                    size = struct.unpack_from("iIII", data, offset)[3]
                    name = data[offset + 16 : offset + 16 + size].rstrip(b"\0")
                    self._names.append(os.fsdecode(name))
                    offset += 16 + size
        return self._names

    def close(self) -> None:
        """Stop watching."""
        if not self._is_kept:
            os.close(self._descriptor)
            return
        self._libc.inotify_rm_watch(self._descriptor, self._number)
        self.names()  # what has not been read is not for the next one
        _idle.append(self._descriptor)


class Place:
    """Directories of its own for a test: nothing outside is found, nothing inside may stay.

    Attributes:
        environment: For programs that run there.
        runtime: Where nodes are listed that cannot write to the state directory.
        state: The state directory is in it, where nodes are listed.
        temporary: The temporary directory.
        secret_file: The user's own secret, once something has made it.
        template: Process that forks nodes; None: each is a new interpreter.
    """

    def __init__(self, root: Path, template: NodeTemplate | None = None) -> None:
        self.root = root
        self.template = template
        self.runtime = root / "run"
        self.state = root / "state"
        self.temporary = root / "tmp"
        for directory in (self.runtime, self.state, self.temporary):
            directory.mkdir(mode=0o700)
        self.secret_file = self.state / "dispy" / "secret"
        self.variables = {
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_STATE_HOME": str(self.state),
            "TMPDIR": str(self.temporary),
        }
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if name == "PYTHONPATH" or not name.startswith(("DISPY_", "PYTHON"))
        } | self.variables
        work = self.temporary / f"dispy-node-{os.getuid()}"
        work.mkdir(mode=0o700)
        self._watch = Watch(work, is_kept=True)
        self.is_swept = False
        """A node was killed: what it left is removed by the next one."""

    def processes(self) -> list[int]:
        """Living processes that carry this place in their environment, besides this one."""
        # Those of another account have the temporary directory only.
        marks = {f"XDG_RUNTIME_DIR={self.runtime}".encode(), f"TMPDIR={self.temporary}".encode()}
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                with suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
                    if marks.intersection(file.read().split(b"\0")) and is_alive(int(entry)):
                        found.append(int(entry))
        return found

    def files(self) -> list[str]:
        """What nodes and programs have left: listings, work, segments."""
        listings = below(self.state / "dispy" / "nodes", "**/*")
        left = [path for path in [*below(self.runtime, "**/*"), *listings] if not path.is_dir()]
        work = self.temporary / f"dispy-node-{os.getuid()}"
        left += [path for path in below(self.temporary, "**/*") if path != work]
        memory = Path(f"/dev/shm/dispy-{os.getuid()}")
        left += [memory / name for name in self._watch.names() if (memory / name).exists()]
        return sorted(map(str, left))

    def incarnations(self) -> list[str]:
        """Names of the nodes that ever ran here."""
        return [name for name in self._watch.names() if not name.startswith(".")]  # renamed when locked

    def close(self) -> None:
        """No longer needed."""
        self._watch.close()


def memory_of(place: Place) -> Path:
    """The directory of the only node on the memory file system."""
    (name,) = [name for name in place.incarnations() if (memory_directory() / name / GIVEN).exists()]
    return memory_directory() / name


def in_use(directory: Path) -> list[str]:
    """Files of a node for large data that are not just kept to be used again."""
    found = []
    for parent, _, names in os.walk(directory):
        if Path(parent).name != FREE:
            found += [f"{parent}/{name}" for name in names if name not in ("lock", "code")]
    return found


class Program:
    """A process with its output collected; in a session and group of its own, as a shell would start it.

    Args:
        arguments: The command.
        place: Where it runs.
        process: The process, if it runs already.
        options: Of ``subprocess.Popen``.
    """

    def __init__(
        self, arguments: list[str], place: Place, process: ForkedProcess | None = None, **options: object
    ) -> None:
        self._place = place
        defaults = {"env": place.environment, "cwd": place.root, "stdin": subprocess.DEVNULL}
        self.process = process or subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **{**defaults, **options},
        )
        self.pid: int = self.process.pid
        self._texts = {"stdout": "", "stderr": ""}
        self._threads = []
        for name in self._texts:
            thread = threading.Thread(target=self._collect, args=(name,), name=f"{name} of {self.pid}")
            thread.start()
            self._threads.append(thread)

    def _collect(self, name: str) -> None:
        stream = getattr(self.process, name)
        while data := os.read(stream.fileno(), 65536):
            self._texts[name] += data.decode("utf-8", "replace")

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._texts["stdout"]

    @property
    def stderr(self) -> str:
        """Likewise."""
        return self._texts["stderr"]

    def wait_line(
        self, pattern: str, *, stream: str = "stdout", deadline_s: float = SOON_S
    ) -> re.Match[str]:
        """Wait until it has printed something; returns the match."""
        is_whole = pattern.endswith("$")

        def look() -> tuple[re.Match[str] | None, str, str, int | None]:
            code = self.process.poll()
            text = self.stdout if stream == "stdout" else self.stderr
            if is_whole:
                # A long line comes in parts.
                text = text[: text.rfind("\n") + 1]
            return re.search(pattern, text, re.MULTILINE), self.stdout, self.stderr, code

        found, _, _, _ = wait_for(
            look, lambda seen: seen[0], what=f"{pattern!r} on its {stream}", deadline_s=deadline_s
        )
        assert found is not None
        return found

    def wait(self, deadline_s: float = SOON_S) -> int:
        """Wait for its end; returns the exit code, negative for a signal."""
        try:
            code = self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.process.args!r} still runs after {deadline_s:g} s; "
                f"stdout: {self.stdout!r}; stderr: {self.stderr!r}"
            ) from None
        for thread in self._threads:
            thread.join(1)
        return code

    def descendants(self) -> list[int]:
        """Pids of all processes below it."""
        return descendants(self.pid)

    def send(self, number: int) -> None:
        """Send a signal to the process alone."""
        self.process.send_signal(number)

    def interrupt_group(self) -> None:
        """What Ctrl-C at a terminal does."""
        os.killpg(self.pid, signal.SIGINT)

    def end(self) -> None:
        """Be rid of it, whatever it does."""
        if self.process.poll() is None:
            below = self.descendants()
            self.process.kill()
            self.process.wait()
            with suppress(AssertionError):
                wait_gone(below, deadline_s=4)
            for pid in below:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for thread in self._threads:
            thread.join(5)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None and not any(thread.is_alive() for thread in self._threads):
                stream.close()


class Node(Program):
    """A ``dispynode`` command.

    Args:
        place: Where it runs.
        arguments: Its options.
        warnings: What Python does about warnings.
        python: What it runs on, with what goes before it.
        command: What to run instead of the command.
        is_forked: Whether it is forked by the place's template, which saves its imports, and not a new interpreter.
        options: Of ``subprocess.Popen``.
    """

    LINE = r"^dispynode '(.*)' listens on (\S+):(\d+) with (\d+) CPUs?(, TLS)?$"

    def __init__(
        self,
        place: Place,
        *arguments: str,
        warnings: str = "error",
        python: Sequence[str] = PYTHON,
        command: Sequence[str] = (),
        is_forked: bool = False,
        **options: Any,
    ) -> None:
        forked = None
        if is_forked:
            assert place.template is not None
            forked = place.template.start(
                arguments, **{"env": place.environment, "cwd": place.root, **options}
            )
        options_of_python = ["-W", warnings] if warnings else []
        command = command or [*python, *options_of_python, "-m", "dispy.cli.node"]
        super().__init__([*command, *arguments], place, forked, **options)
        self.name = ""
        self.host = ""
        self.port = 0
        self.cpus = 0
        self.uses_tls = False

    def wait_listens(self) -> Node:
        """Wait for the line that says where."""
        found = self.wait_line(self.LINE)
        self.name, self.host = found[1], found[2]
        self.port, self.cpus = int(found[3]), int(found[4])
        self.uses_tls = found[5] is not None
        return self

    @property
    def complaints(self) -> str:
        """What it has logged that is worse than who comes and goes."""
        lines = self.stderr.splitlines(keepends=True)
        return "".join([line for line in lines if not re.match(r"[-\d]+ [:,\d]+ (INFO|DEBUG) ", line)])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it in order; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait(STOP_S + 3)


class Scheduler(Program):
    """A ``dispyscheduler`` command, forked by the place's template if it has one.

    Args:
        place: Where it runs.
        arguments: Its options.
        python: Command that it runs on.
    """

    LINE = r"^dispyscheduler '(.*)' listens on (\S+):(\d+) for programs(, TLS)?$"

    def __init__(self, place: Place, *arguments: str, python: Sequence[str] = PYTHON) -> None:
        forked = None
        if place.template is not None and python == PYTHON:
            forked = place.template.start(
                arguments, env=place.environment, cwd=place.root, program="dispyscheduler"
            )
        super().__init__([*python, "-m", "dispy.cli.scheduler", *arguments], place, forked)
        self.host = ""
        self.port = 0

    def wait_listens(self) -> Scheduler:
        """Wait for the line that says where."""
        found = self.wait_line(self.LINE)
        self.host, self.port = found[2], int(found[3])
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it in order; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait(STOP_S + 3)


def free_base_port() -> int:
    """A base port whose next one, where nodes listen, is free."""
    import random
    import socket

    for _ in range(100):
        port = random.randrange(20000, 30000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port + 1))
            return port
    raise AssertionError("no free port between 20000 and 30000")


def outer_address() -> str:
    """An IPv4 address of this machine that is not loopback; skips the test if there is none."""
    import socket

    import pytest

    from dispy.system.addresses import is_loopback, own

    found = [address for address in own(socket.AF_INET) if not is_loopback(address)]
    if not found:
        pytest.skip("this machine has no address but loopback")
    return found[0]
