"""The terminal of a node: what is typed where ``dispynode`` runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from dispy.errors import UsageError
from dispy.text import counted, line

if TYPE_CHECKING:
    from dispy.node.service import NodeService
    from dispy.node.state import NodeState

BACKGROUND_S = 1.0
"""How often a node in the background looks whether the terminal is its own again."""

LINE_MAX = 4096
"""Bytes of a line that a terminal passes on."""

HELP = "commands: 'cpus' and 'cpus N'; an empty line shows who uses this node; Ctrl-C stops it"


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
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        for typed in data.decode("utf-8", "replace").splitlines():
            with contextlib.suppress(OSError):
                print(self._answer(typed.strip()), flush=True)

    def close(self) -> None:
        """Read no more."""
        self._loop.remove_reader(self._descriptor)
        if self._timer is not None:
            self._timer.cancel()


def answer(service: NodeService, typed: str) -> str:
    """Do what an administrator types at the terminal; returns what to say."""
    words = typed.split()
    if not words:
        return usage(service)
    if words[0] != "cpus" or len(words) > 2:
        return HELP
    if len(words) == 2:
        try:
            service.set_cpus(parse_cpus(words[1], service.cpus_most))
        except UsageError as error:
            return str(error)
    return f"{service.cpus} of {counted(service.cpus_most, 'CPU')} offered"


def usage(service: NodeState) -> str:
    """Who uses this node, in a line for each client."""
    state = service._machine.state
    said = [f"CPUs: {service.cpus} offered, {state.busy} in use"]
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
