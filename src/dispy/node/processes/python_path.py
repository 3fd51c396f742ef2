"""The Python that jobs run on: where it looks for modules."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading

from dispy.node.machine.accounts import Account, starts_as

logger = logging.getLogger("dispy.node")

_BEGIN = b"\0\0"
"""Comes before the answer: what runs at the start of Python may print something, too."""

_SAY = r"import os, sys; os.write(1, b'\0\0' + b'\0'.join(map(os.fsencode, sys.path)))"

_ASK_S = 30.0
"""A Python that does not start within so long is not waited for."""


class SearchPath:
    """The directories in which jobs look for modules, besides their own. Used by several threads.

    Hosts have another path than this process: they may run as another account, with other variables, and do not start
    where we did. So a process that is started like a host is asked.

    Args:
        account: Whom hosts run as; None: as we do.
    """

    def __init__(self, account: Account | None) -> None:
        self._account = account
        self._paths: list[str] = []
        self._seen: list[tuple[str, int]] = []
        """When each directory was changed last (ns) at the time of the answer."""
        self._guard = threading.Lock()
        self.starting = threading.Lock()
        """Held while a process is started, and by whoever ends all children but ``asked``."""
        self.asked: set[int] = set()
        """Pids of the processes that are being asked."""

    def __call__(self) -> list[str]:
        """Ask, unless nothing was installed since the last time; may take some 20 ms."""
        with self._guard:
            if not self._paths or self._seen != _seen(self._paths):
                self._paths = self._ask()
                self._seen = _seen(self._paths)
            return self._paths

    def _ask(self) -> list[str]:
        reason = "it says nothing"
        try:
            _, begin, said = self._run().rpartition(_BEGIN)
            if begin:
                return [path for path in os.fsdecode(said).split("\0") if os.path.isabs(path)]
        except (OSError, subprocess.SubprocessError) as error:
            reason = str(error)
        logger.warning(
            "programs send all packages of their depends, since %s cannot be asked for the installed ones: %s",
            sys.executable, reason,
        )  # fmt: skip
        return []

    def _run(self) -> bytes:
        with self.starting:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _SAY],
                **starts_as(self._account),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
            self.asked.add(process.pid)
        with process:
            try:
                said: bytes = process.communicate(timeout=_ASK_S)[0]
                return said
            finally:
                process.kill()
                self.asked.discard(process.pid)


def _seen(paths: list[str]) -> list[tuple[str, int]]:
    found = []
    for path in paths:
        try:
            found.append((path, os.stat(path).st_mtime_ns))
        except OSError:
            found.append((path, 0))
    return found
