"""The terminal of a node: commands that an administrator types where ``dispynode`` runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dispy.errors import UsageError
from dispy.node.reporting import usage
from dispy.system.escaping import line
from dispy.system.wording import counted, of_error

if TYPE_CHECKING:
    from dispy.node.service import NodeService

HELP = """\
commands: status   who uses this node (so does an empty line)
          cpus     how many CPUs are offered
          cpus N   offer N from now on; -1: all but one; all; 0: no new jobs
          stop     no new jobs begin; those that run go on
          start    offer as many CPUs as before 'stop' or 'exit'
          exit     no new jobs begin; end when those that run have ended ('exit' again: now)
          quit     end now, with all that runs (so does Ctrl-C)"""
"""Text that lists the commands of the terminal: answer to 'help' and '?'."""

HINT = "type 'help' to see what can be typed here"
"""Text that points to 'help'; printed when a node starts at a terminal, and after an unknown command."""

END_OF_FILE = "dispynode goes on; type 'exit' to end when no job runs, 'quit' to end now, 'help' for more"
"""Answer to Ctrl-D, which does not end the node: text that names the commands that do."""


class Prompt:
    """Performs commands that an administrator types at the terminal (``HELP``).

    Args:
        service: The node.
    """

    def __init__(self, service: NodeService) -> None:
        self._service = service
        self._before = service.cpus
        """Number of CPUs that were offered before 'stop' made it 0; 'start' offers as many again."""

    def answer(self, typed: str) -> str:
        """Perform a line that was typed.

        Args:
            typed: The line; empty: 'status'.

        Returns:
            Text to print.
        """
        try:
            return self._perform(typed)
        except Exception as error:
            self._service.contain(None, error)
            return f"that has failed: {of_error(error)}; the log has more"

    def _perform(self, typed: str) -> str:
        """Perform a line that was typed, as ``answer``; an exception is a fault of this program."""
        word, *rest = typed.lower().split() or ["status"]
        if word == "cpus" and len(rest) <= 1:
            return self._cpus(*rest)
        command = _COMMANDS.get(word)
        if command is None or rest:
            return f"'{line(typed)[:100]}' is no command here; {HINT}"
        return command(self)

    def status(self) -> str:
        return usage(self._service)

    def _cpus(self, text: str = "") -> str:
        """Offer the CPUs that ``text`` means (``parse_cpus``); empty: change nothing.

        Returns:
            Line for the terminal: how many CPUs are offered now, or why ``text`` is refused.
        """
        service = self._service
        if text:
            try:
                service.set_cpus(parse_cpus(text, service.cpus_most))
            except UsageError as error:
                return str(error)
        more = "" if text else f"; 'cpus N' offers N, from {1 - service.cpus_most} to {service.cpus_most}"
        return f"{service.cpus} of {counted(service.cpus_most, 'CPU')} offered{more}"

    def stop(self) -> str:
        self._offer_none()
        return f"no new jobs begin; {_jobs(self._busy)} here; 'start' offers {counted(self._before, 'CPU')} again"

    def start(self) -> str:
        if self._is_draining or not self._service.cpus:
            self._service.set_cpus(self._service.cpus or self._before)
        return self._cpus("")

    def exit(self) -> str:
        if self._is_draining or not self._busy:
            return self._end("exit")
        self._service.drain("'exit' at the terminal")
        return (
            f"no new jobs begin; dispynode ends when none runs: {_jobs(self._busy)} here; "
            "'quit' ends it now, 'start' has it go on"
        )

    def quit(self) -> str:
        return self._end("quit")

    def _end(self, word: str) -> str:
        """End the node now; returns a line for the terminal that says how many jobs end with the node.

        ``word`` is the command that was typed, for the log.
        """
        self._service.stop(f"{word!r} at the terminal")
        return f"dispynode ends now: {_jobs(self._busy)} here"

    def release(self) -> str:
        """Returns the answer to 'release', a command of dispy 4 that does nothing now: programs share a node, and a
        silent one loses its CPUs by itself."""
        silence_s = self._service.settings.silence_s
        return (
            "there is nothing to release: any number of programs use this node, and CPUs of one that says nothing "
            f"for {silence_s:g} s are the others'"
        )

    def help(self) -> str:
        return HELP

    @property
    def _is_draining(self) -> bool:
        return self._service.machine.state.is_draining

    @property
    def _busy(self) -> int:
        return self._service.machine.state.busy

    def _offer_none(self) -> None:
        """Offer 0 CPUs, so that no new jobs begin, and note in ``_before`` how many were offered."""
        if self._service.cpus:
            self._before = self._service.cpus
            self._service.set_cpus(0)


_COMMANDS: dict[str, Callable[[Prompt], str]] = {
    "status": Prompt.status,
    "stop": Prompt.stop,
    "start": Prompt.start,
    "exit": Prompt.exit,
    "quit": Prompt.quit,
    "release": Prompt.release,
    "help": Prompt.help,
    "?": Prompt.help,
}
"""Methods that perform a command without arguments and return the answer, by the word that is typed. 'cpus', which
takes a number, is not among them."""


def _jobs(count: int) -> str:
    return "no job runs" if not count else "1 job runs" if count == 1 else f"{count} jobs run"


def parse_cpus(text: str, most: int) -> int:
    """Returns the number of CPUs that a text means.

    Args:
        text: A number from 0; ``all``; or a negative number, for all but that many.
        most: CPUs that can be offered.

    Raises:
        UsageError: The text is no number, or one that cannot be offered.
    """
    hint = f"give a number from {1 - most} (all but so many) to {most}, 0 for no new jobs, or 'all'"
    try:
        wanted = most if text == "all" else int(text)
    except ValueError:
        raise UsageError(f"{line(text)!r} is not a number of CPUs", hint=hint) from None
    cpus = wanted if wanted >= 0 else most + wanted
    if not (0 <= cpus <= most) or (wanted < 0 and cpus == 0):
        raise UsageError(f"{counted(wanted, 'CPU')} cannot be offered: {most} can", hint=hint)
    return cpus
