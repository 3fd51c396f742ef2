"""The terminal of a node: what is typed where ``dispynode`` runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import termios
from collections.abc import Callable
from typing import TYPE_CHECKING

from dispy.errors import UsageError
from dispy.system.escaping import line
from dispy.system.wording import counted

if TYPE_CHECKING:
    from dispy.node.service import NodeService
    from dispy.node.state import NodeState

BACKGROUND_S = 1.0
"""How often a node in the background looks whether the terminal is its own again."""

LINE_MAX = 4096
"""Bytes of a line that a terminal passes on."""

EOF_S = 0.1
"""Pause after an end of file, so that a terminal that has nothing but these costs nothing."""

HELP = """\
commands: status   who uses this node (so does an empty line)
          cpus     how many CPUs are offered
          cpus N   offer N from now on; -1: all but one; all; 0: no new jobs
          stop     no new jobs begin; those that run go on
          start    offer as many CPUs as before 'stop' or 'exit'
          exit     no new jobs begin; end when those that run have ended ('exit' again: now)
          quit     end now, with all that runs (so does Ctrl-C)"""

HINT = "type 'help' to see what can be typed here"
"""Said when a node starts at a terminal."""

_END_OF_FILE = "dispynode goes on; type 'exit' to end when no job runs, 'quit' to end now, 'help' for more"
"""Said to Ctrl-D."""


class Console:
    """Reads lines from a terminal, and says what is answered, until the terminal is gone.

    The terminal is read only while we are in its foreground: whoever reads it from the background is stopped
    by the kernel, and what is typed there is meant for others.

    Args:
        descriptor: Of the terminal; stays the caller's.
        answer: Gives the answer to a line.
    """

    def __init__(self, descriptor: int, answer: Callable[[str], str]) -> None:
        self._descriptor = descriptor
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._listen()

    def _listen(self) -> None:
        self._timer = None
        if self._is_foreground():
            self._loop.add_reader(self._descriptor, self._on_readable)
        else:
            self._timer = self._loop.call_later(BACKGROUND_S, self._listen)

    def _is_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:  # not the terminal of our session
            return False

    def _on_readable(self) -> None:
        if not self._is_foreground():
            self._loop.remove_reader(self._descriptor)
            self._listen()
            return
        try:
            data = os.read(self._descriptor, LINE_MAX)
            if not data:
                termios.tcgetattr(self._descriptor)  # fails where the terminal is gone
        except (OSError, termios.error):
            self.close()
            return
        if not data:
            self._loop.remove_reader(self._descriptor)
            self._timer = self._loop.call_later(EOF_S, self._listen)
            self._say(_END_OF_FILE)
        for typed in data.decode("utf-8", "replace").splitlines():
            self._say(self._answer(typed.strip()))

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            print(text, flush=True)

    def close(self) -> None:
        """Read no more."""
        self._loop.remove_reader(self._descriptor)
        if self._timer is not None:
            self._timer.cancel()


class Prompt:
    """Commands that an administrator types at the terminal.

    Args:
        service: The node.
    """

    def __init__(self, service: NodeService) -> None:
        self._service = service
        self._before = service.cpus
        """CPUs offered before 'stop' or 'exit'."""

    def answer(self, typed: str) -> str:
        """Do what was typed; returns what to say."""
        word, *rest = typed.lower().split() or ["status"]
        if word == "cpus" and len(rest) <= 1:
            return self._cpus(*rest)
        command = _COMMANDS.get(word)
        if command is None or rest:
            return f"'{line(typed)[:100]}' is no command here; {HINT}"
        return command(self)

    def _status(self) -> str:
        return usage(self._service)

    def _cpus(self, text: str = "") -> str:
        service = self._service
        if text:
            try:
                service.set_cpus(parse_cpus(text, service.cpus_most))
            except UsageError as error:
                return str(error)
        more = "" if text else f"; 'cpus N' offers N, from {1 - service.cpus_most} to {service.cpus_most}"
        return f"{service.cpus} of {counted(service.cpus_most, 'CPU')} offered{more}"

    def _stop(self) -> str:
        self._offer_none()
        return f"no new jobs begin; {_jobs(self._busy)} here; 'start' offers {counted(self._before, 'CPU')} again"

    def _start(self) -> str:
        if self._is_draining or not self._service.cpus:
            self._service.set_cpus(self._service.cpus or self._before)
        return self._cpus("")

    def _exit(self) -> str:
        if self._is_draining or not self._busy:
            return self._end("exit")
        self._service.drain("'exit' at the terminal")
        return (
            f"no new jobs begin; dispynode ends when none runs: {_jobs(self._busy)} here; "
            "'quit' ends it now, 'start' has it go on"
        )

    def _quit(self) -> str:
        return self._end("quit")

    def _end(self, word: str) -> str:
        self._service.stop(f"{word!r} at the terminal")
        return f"dispynode ends now: {_jobs(self._busy)} here"

    def _release(self) -> str:
        silence_s = self._service.settings.silence_s
        return (
            "there is nothing to release: any number of programs use this node, and CPUs of one that says nothing "
            f"for {silence_s:g} s are the others'"
        )

    def _help(self) -> str:
        return HELP

    @property
    def _is_draining(self) -> bool:
        return self._service._machine.state.is_draining

    @property
    def _busy(self) -> int:
        return self._service._machine.state.busy

    def _offer_none(self) -> None:
        if self._service.cpus:
            self._before = self._service.cpus
            self._service.set_cpus(0)


_COMMANDS: dict[str, Callable[[Prompt], str]] = {
    "status": Prompt._status,
    "stop": Prompt._stop,
    "start": Prompt._start,
    "exit": Prompt._exit,
    "quit": Prompt._quit,
    "release": Prompt._release,
    "help": Prompt._help,
    "?": Prompt._help,
}


def _jobs(count: int) -> str:
    return "no job runs" if not count else "1 job runs" if count == 1 else f"{count} jobs run"


def usage(service: NodeState) -> str:
    """Who uses this node, in a line for each client."""
    state = service._machine.state
    offered = "none offered, as the node is drained" if state.is_draining else f"{service.cpus} offered"
    said = [f"CPUs: {offered}, {state.busy} in use"]
    for client in state.clients.values():
        its = [c for c in state.computations.values() if c.client is client]
        jobs = sum(len(c.open) for c in its)
        names = ", ".join(line(c.spec.name) + (" (exclusive)" if c.spec.exclusive else "") for c in its)
        where = "" if client.is_connected else ", gone"
        its_jobs = f"jobs here: {jobs} of {names or 'nothing'}"
        said.append(f"  {client.name}{where}: {client.busy} in use, {its_jobs}")
    return "\n".join(said)


def parse_cpus(text: str, most: int) -> int:
    """A number of CPUs as it is typed: so many, ``all``, or a negative number: all but so many.

    Raises:
        UsageError: It is none that can be offered.
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
