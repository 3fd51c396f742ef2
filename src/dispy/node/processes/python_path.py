"""Search path of the Python that jobs run on: the directories in which it looks for modules."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading

from dispy.node.machine.accounts import Account, starts_as

logger = logging.getLogger("dispy.node")

_BEGIN = b"\0\0"
"""Marks the begin of the answer: code that runs at the start of Python may print something before it."""

_SAY = r"import os, sys; os.write(1, b'\0\0' + b'\0'.join(map(os.fsencode, sys.path)))"

_ASK_S = 30.0
"""Seconds after which a Python that has not answered is killed."""


class SearchPath:
    """Directories in which jobs look for modules, besides their own. May be called on any thread.

    Hosts have another path than this process: they may run as another account, with other environment variables, and
    do not start in this directory. The path is therefore asked of a process that is started like a host.

    Args:
        account: Account that hosts run as; None: that of this process.
    """

    def __init__(self, account: Account | None) -> None:
        self._account = account
        self._paths: list[str] = []
        self._seen: list[tuple[str, int]] = []
        """Each directory, and when it was last changed at the time of the answer (nanoseconds; 0: it is missing)."""
        self._guard = threading.Lock()
        """Held while the path is looked up."""
        self.starting = threading.Lock()
        """Held while a process is started and put into ``asked``. Hold it to kill or reap all children but those."""
        self.asked: set[int] = set()
        """Pids of processes that are being asked."""

    def __call__(self) -> list[str]:
        """Returns the directories, in the order of the search; empty if Python does not answer.

        A process is asked, which takes some 20 ms, unless no directory has changed since the last answer.
        """
        with self._guard:
            if not self._paths or self._seen != _seen(self._paths):
                self._paths = self._ask()
                self._seen = _seen(self._paths)
            return self._paths

    def _ask(self) -> list[str]:
        """Returns the absolute paths of the answer; empty, with a warning, if there is none."""
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
        """Run Python and return what it prints.

        Raises:
            OSError, subprocess.SubprocessError: It cannot be started, or has not ended after ``_ASK_S``.
        """
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
    """Returns each directory and when it was last changed (nanoseconds; 0: it is missing)."""
    found = []
    for path in paths:
        try:
            found.append((path, os.stat(path).st_mtime_ns))
        except OSError:
            found.append((path, 0))
    return found
