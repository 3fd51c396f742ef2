"""Commands that an administrator types where ``dispyscheduler`` runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dispy.system.escaping import line
from dispy.system.wording import counted

if TYPE_CHECKING:
    from dispy.scheduler.daemon.hub import Hub

HELP = """\
commands: status   nodes, and the programs with their clusters (so does an empty line)
          exit     no new clusters are taken; ends when those that are open have been closed ('exit' again: now)
          quit     end now: nodes end the jobs of all programs (so does Ctrl-C)"""
"""Text that lists the commands: answer to 'help' and '?'."""

HINT = "type 'help' to see what can be typed here"
"""Text that points to 'help'."""

END_OF_FILE = "dispyscheduler goes on; type 'exit' to end when no cluster is open, 'quit' to end now"
"""Answer to Ctrl-D."""


class Prompt:
    """Performs commands that are typed.

    Args:
        hub: The scheduler.
        stop: Ends the program, with a reason for the log.
    """

    def __init__(self, hub: Hub, stop: Callable[[str], None]) -> None:
        self._hub = hub
        self._stop = stop

    def answer(self, typed: str) -> str:
        """Perform a line that was typed; returns the text to print."""
        word = typed.lower() or "status"
        if word == "status":
            return self._hub.status()
        if word in ("help", "?"):
            return HELP
        if word == "quit" or (word == "exit" and (self._hub.is_closing or not self._hub.count_clusters())):
            self._stop(f"'{word}' was typed")
            return "it ends"
        if word == "exit":
            self._hub.is_closing = True
            left = self._hub.count_clusters()
            return f"no new clusters are taken; it ends when {counted(left, 'cluster is', 'clusters are')} closed"
        return f"'{line(typed)[:100]}' is no command here; {HINT}"
