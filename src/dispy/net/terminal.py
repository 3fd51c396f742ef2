"""A terminal at which an administrator types commands for a program that runs there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
from collections.abc import Callable

BACKGROUND_S = 1.0
"""Seconds between two checks whether a program in the background is in the foreground again, and may read."""

LINE_MAX = 4096
"""Largest number of bytes read from the terminal at once: the kernel's limit for one line, which so comes whole."""

EOF_S = 0.1
"""Seconds for which the terminal is not read after an end of file (Ctrl-D). A terminal that delivers nothing else
would be read without pause, and cost a CPU."""


class Console:
    """Reads lines from a terminal and prints the answers, until the terminal is gone or ``close`` is called.

    The terminal is read only while this process is in its foreground: the kernel stops a background process that
    reads it, and what is typed then is meant for another program.

    Args:
        descriptor: Descriptor of the terminal. The caller closes it.
        answer: Returns the answer to a line; called on the event loop.
        at_end: Answer to Ctrl-D, which ends nothing: text that names the commands that do.
    """

    def __init__(self, descriptor: int, answer: Callable[[str], str], at_end: str) -> None:
        self._descriptor = descriptor
        self._answer = answer
        self._at_end = at_end
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        """Timer of the next ``_listen``, while the terminal is not read; None while it is."""
        self._listen()

    def _listen(self) -> None:
        """Read the terminal if this process is in its foreground; otherwise check again after ``BACKGROUND_S``."""
        self._timer = None
        if self._is_foreground():
            self._loop.add_reader(self._descriptor, self._on_readable)
        else:
            self._timer = self._loop.call_later(BACKGROUND_S, self._listen)

    def _is_foreground(self) -> bool:
        """True if this process is in the terminal's foreground, so that what is typed is meant for it."""
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:  # it is not the terminal of this process's session
            return False

    def _on_readable(self) -> None:
        """Read what was typed, and print the answer to each line.

        Reading stops for good if the terminal is gone; after Ctrl-D for ``EOF_S``; and while this process is in the
        background, until ``_listen`` finds it in the foreground again.
        """
        if not self._is_foreground():
            self._loop.remove_reader(self._descriptor)
            self._listen()
            return
        try:
            data = os.read(self._descriptor, LINE_MAX)
            if not data:
                termios.tcgetattr(self._descriptor)  # fails if the terminal is gone
        except (OSError, termios.error):
            self.close()
            return
        if not data:
            self._loop.remove_reader(self._descriptor)
            self._timer = self._loop.call_later(EOF_S, self._listen)
            self._say(self._at_end)
        for typed in data.decode("utf-8", "replace").splitlines():
            self._say(self._answer(typed.strip()))

    def _say(self, text: str) -> None:
        """Print a text on stdout; a stdout that is closed changes nothing."""
        with contextlib.suppress(OSError):
            print(text, flush=True)

    def close(self) -> None:
        """Stop reading the terminal, for good. The descriptor stays open: it is the caller's."""
        self._loop.remove_reader(self._descriptor)
        if self._timer is not None:
            self._timer.cancel()


def has_terminal() -> bool:
    """True if standard input is a terminal, so that an administrator can type commands."""
    try:
        return sys.stdin is not None and sys.stdin.isatty()
    except ValueError:  # closed
        return False
