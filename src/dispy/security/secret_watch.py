"""A secret file that is read again when it changes: new lines count, and keys are revoked, without a restart."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress

from dispy.errors import DispyError, UsageError
from dispy.security import secrets
from dispy.security.secrets import Secret

LOOK_S = 2.0
"""Seconds between two looks at the file."""

logger = logging.getLogger("dispy.net")


class SecretWatch:
    """Watches the file of a secret of a daemon.

    A file that is gone, cannot be read or holds no secret that may be used here is warned of, once, and the secret
    stays what it was: nobody must lose all links because he edits a file.

    Args:
        path: Path of the file; None: the secret is not in a file, and stays what it is.
        secret: The secret, as it was read.
        check: Returns why another secret must not be used; None if it may.
        on_changed: Called on the loop with the secret, each time that it has become another one.
    """

    def __init__(
        self,
        path: str | None,
        secret: Secret,
        check: Callable[[Secret], UsageError | None],
        on_changed: Callable[[Secret], None],
    ) -> None:
        self._path = path
        self._secret = secret
        self._check = check
        self._on_changed = on_changed
        self._seen: tuple[int, int, int] | None = None
        """Inode, time of change (ns) and size of the file when it was last read; None: not since the start."""
        self._fault = ""
        """Last error about the file that was told; empty after a file without one."""
        self._is_closed = threading.Event()

    def begin(self) -> None:
        """Look at the file from now on, for the loop that runs.

        On a thread that nobody waits for: the file may lie on a file server that does not answer any more.
        """
        if self._path is not None:
            arguments = asyncio.get_running_loop(), self._path
            threading.Thread(
                target=self._run, args=arguments, name="dispy reads secrets", daemon=True
            ).start()

    def close(self) -> None:
        """Look no more."""
        self._is_closed.set()

    def _run(self, loop: asyncio.AbstractEventLoop, path: str) -> None:
        while not self._is_closed.wait(LOOK_S):
            found = self.look(path)
            if found is not None:
                self._secret = found
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(self._tell, path, found)

    def _tell(self, path: str, found: Secret) -> None:
        if not self._is_closed.is_set():
            logger.info("%s was read again: %s", path, describe(found))
            self._on_changed(found)

    def look(self, path: str) -> Secret | None:
        """Returns the secret in a file if the file has changed and holds another one that may be used; else None."""
        try:
            status = os.stat(path)
            seen = status.st_ino, status.st_mtime_ns, status.st_size
            if seen == self._seen:
                return None
            self._seen = seen
            found = secrets.choose(secret_file=path)
            if fault := self._check(found):
                raise fault
        except (OSError, DispyError) as error:
            if str(error) != self._fault:
                self._fault = str(error)
                logger.warning("the secret stays what it was, as its file cannot be used: %s", error)
            return None
        self._fault = ""
        return found if found != self._secret else None


def describe(secret: Secret) -> str:
    """Returns how many keys a secret has and how many entries revoke keys, for the log."""
    return f"keys: {len(secret.keys.lines)}, lines that revoke keys: {len(secret.keys.revoked)}"
