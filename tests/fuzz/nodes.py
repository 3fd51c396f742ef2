"""A node for a fuzzer, in a place of its own, and what must be true of it all the time."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dispy.security.key_text import generate
from tests.integration.helpers import Node, Place, Program

ROOT = Path(__file__).resolve().parents[2]

RSS_MAX_KB = 400 * 1024
"""Resident memory of a node: it starts with 40 MB, and holds what clients have under way."""

DESCRIPTORS_MAX = 1500
"""Descriptors of a node: for itself, each connection, host, worker, and each file that arrives."""

OF_THE_NODE = (
    "    Traceback (most recent call last)",
    "has a fault",
    "please report",
    "Segmentation fault",
)
"""Words of a node that has met what must not happen. What it logs itself is indented below its line."""

OF_ALL = (*OF_THE_NODE, "Traceback (most recent call last)", "Exception ignored")
"""Those of its hosts and workers, too, whose output it passes on."""

TEXT_MAX = 100_000
"""Characters of a node's log that are kept: it says some lines for each connection, of which there are many."""


class Short(Program):
    """A daemon of which the last words are kept, and the first of what must not happen."""

    fault = ""
    words: tuple[str, ...] = OF_ALL

    def _collect(self, name: str) -> None:
        stream = getattr(self.process, name)
        while data := os.read(stream.fileno(), 65536):
            text = self._texts[name] + data.decode("utf-8", "replace")
            if name == "stderr" and not self.fault:
                places = [at for at in (text.find(words) for words in self.words) if at >= 0]
                if places:
                    text = text[max(0, min(places) - 800) :]
                    self.fault = text
                    # All that belongs to it has to come first.
                    self._texts[name] = text
                    continue
            self._texts[name] = text[-TEXT_MAX:] if len(text) > 2 * TEXT_MAX else text


class ShortNode(Short, Node):
    """A node with a short log."""


class FuzzDaemon:
    """A daemon that is fuzzed, and what must be true of it all the time.

    Args:
        name: What it is, for people: "node".
        rss_allowed_kb: Resident memory beyond which it has a fault.
        descriptors_allowed: Descriptors beyond which it has a fault.

    Attributes:
        rss_max_kb: Most resident memory that was seen.
        descriptors_max: Most descriptors that were seen.
    """

    def __init__(self, name: str, rss_allowed_kb: int, descriptors_allowed: int) -> None:
        self._name = name
        self._rss_allowed_kb = rss_allowed_kb
        self._descriptors_allowed = descriptors_allowed
        self._process: Any = None
        self.rss_max_kb = 0
        self.descriptors_max = 0

    @property
    def has_started(self) -> bool:
        """True once it was started."""
        return self._process is not None

    @property
    def process(self) -> Any:
        """The daemon that runs (``Short``, with ``stop``)."""
        assert self._process is not None
        return self._process

    def peak(self) -> str:
        """Most memory and descriptors that were seen, in words."""
        return f"RSS of the {self._name} at most {self.rss_max_kb:,} kB, {self.descriptors_max} descriptors"

    def faults(self) -> list[str]:
        """What is wrong with the daemon now, in words."""
        name, process = self._name, self.process
        code = process.process.poll()
        if code is not None:
            return [f"the {name} has ended with exit code {code}:\n{process.stderr[-6000:]}"]
        found = []
        with suppress(OSError, IndexError):
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            rss_kb = pages * os.sysconf("SC_PAGE_SIZE") // 1024
            self.rss_max_kb = max(self.rss_max_kb, rss_kb)
            if rss_kb > self._rss_allowed_kb:
                allowed = f"{self._rss_allowed_kb:,} are allowed"
                found.append(f"the {name} has {rss_kb:,} kB of memory; {allowed}")
        with suppress(OSError):
            count = len(os.listdir(f"/proc/{process.pid}/fd"))
            self.descriptors_max = max(self.descriptors_max, count)
            if count > self._descriptors_allowed:
                allowed = f"{self._descriptors_allowed} are allowed"
                found.append(f"the {name} has {count} descriptors; {allowed}")
        return found + self.said()

    def said(self) -> list[str]:
        """Words in the daemon's log of what must not happen."""
        return [f"the {self._name} says:\n{self.process.stderr[:8000]}"] if self.process.fault else []

    def stop(self) -> list[str]:
        """End the daemon in order; returns what is wrong with that."""
        found, process = self.faults(), self.process
        if process.process.poll() is None:
            try:
                code = process.stop()
                if code:
                    found.append(f"the {self._name} ends with exit code {code}:\n{process.stderr[-4000:]}")
                found += self.said()
            except AssertionError as error:
                found.append(str(error)[-4000:])
        process.end()
        return found


class FuzzNode(FuzzDaemon):
    """One node after the other, all with the same options and places.

    Args:
        place: Where they run.
        python: Interpreter that the account of the jobs can run.
        user: Account of the jobs; empty: that of the node.
        is_sabotaged: Whether jobs spoil what hosts and workers need: then these may fail as they like.
    """

    def __init__(self, place: Place, python: str, user: str, *, is_sabotaged: bool = False) -> None:
        super().__init__("node", RSS_MAX_KB, DESCRIPTORS_MAX)
        self._place = place
        self.python = python
        self._user = user
        self._words = OF_THE_NODE if is_sabotaged else OF_ALL
        self.secret_file = new_secret(place, "node")
        self.starts = 0

    def start(self) -> None:
        """Start a node, and wait until it listens."""
        options = ["--secret_file", str(self.secret_file), "--name", "fuzzed"]
        if self._user:
            options += ["--user", self._user]
        self._process = ShortNode(
            self._place, "--listen_port", "0", *options, python=[self.python], warnings=""
        )
        self._process.words = self._words
        self._process.wait_line(Node.LINE, deadline_s=20)
        self._process.wait_listens()
        self.starts += 1

    @property
    def node(self) -> ShortNode:
        """The node that runs."""
        return self.process

    def kill(self) -> None:
        """Kill the node as the machine would; what it leaves is for the next one."""
        self.node.process.kill()
        self.node.wait()
        self.node.end()

    def left(self) -> list[str]:
        """Processes and directories of nodes that are left, once none runs; named directories may stay."""
        found = [f"process {pid}" for pid in self._place.processes()]
        for base in (*self._place.temporary.glob("dispy-node-*"), *Path("/dev/shm").glob("dispy-*")):
            ours = base.parent == self._place.temporary or str(base) in self._memory()
            found += [str(path) for path in base.iterdir()] if ours and base.is_dir() else []
        return found

    def _memory(self) -> list[str]:
        names = [f"dispy-{os.getuid()}"] if not self._user else [f"dispy-{os.getuid()}-{self._user}"]
        return [f"/dev/shm/{name}" for name in names]


def new_secret(place: Place, name: str) -> Path:
    """A file with a new secret; returns its path."""
    path = place.root / f"{name}.secret"
    path.write_text(generate())
    path.chmod(0o600)
    return path


def public_root() -> Path:
    """A new directory that everybody can look into; the caller removes it."""
    path = Path(tempfile.mkdtemp(prefix="dispy-fuzz-"))
    path.chmod(0o755)
    return path


def remove(path: Path) -> None:
    """Remove a tree, however deep it is."""
    subprocess.run(["rm", "-rf", "--", path], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def open_place(root: Path) -> Iterator[Place]:
    """A place as the system's own directories are: the account of jobs can pass through, and has its own there."""
    directory = root / "place"
    directory.mkdir(mode=0o755)
    place = Place(directory)
    place.temporary.chmod(0o1777)
    place.runtime.chmod(0o755)
    place.state.chmod(0o755)
    place.environment["PYTHONPATH"] = os.pathsep.join([_source(), str(ROOT)])
    try:
        yield place
    finally:
        place.close()


def _source() -> str:
    """Directory of the tested package: this tree's, or the changed copy that a mutation runs in."""
    import dispy

    return str(Path(dispy.__file__).parents[1])


def copy_source(target: Path) -> None:
    """Copy the package that is tested to ``target``, readable for all."""
    shutil.copytree(
        Path(_source()) / "dispy", target / "dispy", ignore=shutil.ignore_patterns("__pycache__")
    )
