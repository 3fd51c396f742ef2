"""A terminal that remembers what it shows, for programs that draw on one."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from contextlib import suppress
from typing import Any

from .helpers import PYTHON, Place, wait_for

_TOKEN = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|([\r\n])|([^\x00-\x1f\x7f-\x9f]+)|(.)", re.DOTALL)


class Screen:
    """What a terminal shows after some output: lines, which may be moved over and erased. Lines are not wrapped.

    Attributes:
        lines: The lines, from the first one that was ever written.
        shows_cursor: Whether the cursor is shown.
        odd: All control characters that are none of those that drawing needs.
    """

    def __init__(self) -> None:
        self.lines = [""]
        self.row = self.column = 0
        self.shows_cursor = True
        self.odd: list[str] = []

    def take(self, text: str) -> None:
        """Obey some output."""
        for token in _TOKEN.finditer(text):
            argument, command, ends, shown, other = token.groups()
            if shown is not None:
                self._write(shown)
            elif ends == "\r":
                self.column = 0
            elif ends == "\n":
                self.row += 1
                if self.row == len(self.lines):
                    self.lines.append("")
            elif command == "A":
                self.row = max(0, self.row - int(argument or 1))
            elif command == "K":
                self.lines[self.row] = ""
            elif command in ("l", "h") and argument == "?25":
                self.shows_cursor = command == "h"
            elif command != "m":
                self.odd.append(other or f"{argument}{command}")

    def _write(self, text: str) -> None:
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + text + line[self.column + len(text) :]
        self.column += len(text)

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)


class OnTerminal:
    """A program on a terminal of its own.

    Args:
        source: The program.
        place: Where it runs.
        columns: Width of the terminal.
        others: Variables of its environment.
        options: Of ``subprocess.Popen``, such as another ``stdout``.
    """

    def __init__(
        self,
        source: str,
        place: Place,
        columns: int = 100,
        others: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.ours, theirs = pty.openpty()
        self.resize(columns)
        environment = {**place.environment, "TERM": "xterm", **(others or {})}
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
            environment.pop(name, None)
        given = {"stdin": theirs, "stdout": theirs, "stderr": theirs, **options}
        self.process = subprocess.Popen(
            [*PYTHON, "-W", "error", "-c",
             "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n" + source],
            start_new_session=True, cwd=place.root, env=environment, **given,
        )  # fmt: skip
        os.close(theirs)
        os.set_blocking(self.ours, False)
        self.screen = Screen()
        self.raw = ""

    def resize(self, columns: int) -> None:
        """Change the width of the terminal, which tells its programs."""
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))

    def read(self) -> Screen:
        """What the terminal shows now."""
        with suppress(OSError):
            while self.ours >= 0 and (data := os.read(self.ours, 65536)):
                text = data.decode("utf-8", "replace")
                self.raw += text
                self.screen.take(text)
        return self.screen

    def wait_shown(self, pattern: str, deadline_s: float = 10) -> str:
        """Wait until the terminal shows something."""
        return wait_for(
            lambda: self.read().text,
            lambda text: re.search(pattern, text),
            what=pattern,
            deadline_s=deadline_s,
        )

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self.ours, keys.encode())

    def wait(self, deadline_s: float = 15) -> int:
        """Wait for the end of the program; returns its exit code."""
        wait_for(lambda: (self.read().text, self.process.poll())[1], lambda code: code is not None,
                 what="the program ends", deadline_s=deadline_s)  # fmt: skip
        self.read()
        return self.process.returncode

    def hang_up(self) -> None:
        """Close the terminal."""
        if self.ours >= 0:
            self.read()
            os.close(self.ours)
            self.ours = -1

    def end(self) -> None:
        """Be rid of it."""
        self.hang_up()
        self.process.kill()
        self.process.wait()
