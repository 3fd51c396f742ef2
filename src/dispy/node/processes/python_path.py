"""Search path of the Python that jobs run on: the directories in which it looks for modules.

The node needs it to know which packages are installed for jobs: programs need not send these.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading

from dispy.node.machine.accounts import Account, starts_as
from dispy.node.processes.spared import Spared

logger = logging.getLogger("dispy.node")

_BEGIN = b"\0\0"
"""Two zero bytes that the asked Python prints before its search path. All before them is skipped: code that runs at
the start of Python may print something."""

_SAY = r"import os, sys; os.write(1, b'\0\0' + b'\0'.join(map(os.fsencode, sys.path)))"
"""Code that the asked Python runs: it prints ``_BEGIN`` and its search path, with a zero byte between directories."""

_ASK_S = 30.0
"""Seconds that a Python process has to print its search path; then it is killed, and a warning is logged. The path is
empty in that case, and programs send all packages that their jobs need."""


class SearchPath:
    """Finds the directories in which jobs look for modules, besides their own. A call, on any thread, returns them.

    Hosts have another path than this process: they may run as another account, with other environment variables, and
    do not start in this directory. The path is therefore asked of a process that is started like a host.

    Args:
        account: Account that hosts run as; None: that of this process.
        spared: Has the pid of a Python process while that is asked.
    """

    def __init__(self, account: Account | None, spared: Spared) -> None:
        self._account = account
        self._spared = spared
        self._paths: list[str] = []
        """Directories of the last answer, in the order of the search; empty: there is none, so Python is asked."""
        self._seen: list[tuple[str, int]] = []
        """Each directory of ``_paths``, and when it was last changed, as of the answer (nanoseconds since the epoch;
        0: it is missing). When one has changed, a package may have come, and Python is asked again."""
        self._guard = threading.Lock()
        """Held while ``_paths`` and ``_seen`` are read or renewed: of several threads that call, one asks Python."""

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
        """Ask a new Python process for its search path.

        Returns:
            The absolute paths in it, in their order. Empty if the process cannot be started, or does not answer
            within ``_ASK_S``; a warning is logged then.
        """
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
        """Run a new Python process with ``_SAY``, and return all that it prints on stdout.

        Raises:
            OSError, subprocess.SubprocessError: It cannot be started, or has not ended after ``_ASK_S``.
        """
        with self._spared.starting:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _SAY],
                **starts_as(self._account),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
            self._spared.pids.add(process.pid)
        with process:
            try:
                said: bytes = process.communicate(timeout=_ASK_S)[0]  # pyright: ignore[reportAssignmentType]  # not text
                return said
            finally:
                process.kill()
                self._spared.pids.discard(process.pid)


def _seen(paths: list[str]) -> list[tuple[str, int]]:
    """Returns each directory of ``paths``, and when it was last changed (nanoseconds since the epoch; 0: it is
    missing). A difference to an earlier result means that packages may have come or gone."""
    found = []
    for path in paths:
        try:
            found.append((path, os.stat(path).st_mtime_ns))
        except OSError:
            found.append((path, 0))
    return found
