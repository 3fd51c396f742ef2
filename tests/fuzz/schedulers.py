"""A shared scheduler for a fuzzer, and what must be true of it all the time."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.integration.helpers import Place, Scheduler

from .nodes import OF_ALL, FuzzDaemon, Short, new_secret

RSS_MAX_KB = 300 * 1024
"""Resident memory of a scheduler. Measured: 58 MB with an honest program alone, 150 MB with all that the fuzzer has
under way, of which 70 MB are free and stay with the C library (``malloc_trim`` gives them back). As much again is for
longer runs, and for objects and payloads of a megabyte each that a seed has waiting by chance."""

DESCRIPTORS_MAX = 300
"""Descriptors of a scheduler. Measured: 19 with a node and no program, 95 with all that the fuzzer has under way.
Each talk has one, those that were replaced or thrown out up to a second longer, each payload that came as a file one;
and each program may have 64 dials to addresses that it names."""

USERS = """\
[limited]
cpus_max = 1
queued_max = 20
[heavy]
weight = 3
"""
"""Users with limits; others are as all."""

OF_SCHEDULERS = (*OF_ALL, "fault of dispy", "a fault of the scheduler", "never retrieved")
"""Words of a scheduler that has met what must not happen. What it says of programs that break the rules has none."""


class ShortScheduler(Short, Scheduler):
    """A scheduler with a short log."""

    words = OF_SCHEDULERS


class FuzzScheduler(FuzzDaemon):
    """A scheduler with the nodes of this place.

    Args:
        place: Where it runs.
        node_secret_file: Secret shared with the nodes.
    """

    def __init__(self, place: Place, node_secret_file: Path) -> None:
        super().__init__("scheduler", RSS_MAX_KB, DESCRIPTORS_MAX)
        self._place = place
        self._node_secret_file = node_secret_file
        self.secret_file = new_secret(place, "people")
        self._users_file = place.root / "users.toml"
        self._users_file.write_text(USERS)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = ShortScheduler(
            self._place,
            *("--listen_port", "0", "--daemon", "--name", "fuzzed"),
            *("--node_secret_file", str(self._node_secret_file)),
            *("--cluster_secret_file", str(self.secret_file)),
            *("--users", str(self._users_file)),
        )
        self._process.wait_listens()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, with TLS."""
        return self.process.host, self.process.port

    def status(self) -> str:
        """Have it log what it has; returns the last such part of its log, which may be of an earlier call."""
        self.process.send(signal.SIGUSR2)
        text = self.process.stderr
        return text[max(0, text.rfind(" CPU")) :]

    def left(self) -> list[str]:
        """Files and directories of schedulers that are left, once none runs."""
        place = self._place
        bases = [
            place.runtime,
            place.state / "dispy" / "schedulers",
            *place.temporary.glob("dispy-memory-*"),
        ]
        return [
            str(path) for base in bases if base.is_dir() for path in base.glob("**/*") if not path.is_dir()
        ]
