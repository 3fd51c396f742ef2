"""Machines of their own for nodes: network namespaces, each with a cable to that of the programs."""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import suppress


class Machines:
    """Namespaces for so many nodes, and one for the programs. Needs root.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self._hub = f"dispy-{os.getpid()}-hub"
        self._names = [f"dispy-{os.getpid()}-{index}" for index in range(count)]
        self._timers: list[threading.Timer] = []
        try:
            for name in (self._hub, *self._names):
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "lo", "up")
            for index, name in enumerate(self._names):
                cable = f"d{index}"
                _ip("-n", self._hub, "link", "add", cable, "type", "veth", "peer", "uplink", "netns", name)
                _ip("-n", self._hub, "address", "add", f"10.77.{index}.1/24", "dev", cable)
                _ip("-n", name, "address", "add", f"10.77.{index}.2/24", "dev", "uplink")
                _ip("-n", name, "link", "set", "uplink", "up")
                _ip("-n", self._hub, "link", "set", cable, "up")
        except BaseException:
            self.close()
            raise

    def address(self, index: int) -> str:
        """Where the node listens."""
        return f"10.77.{index}.2"

    def on(self, index: int) -> list[str]:
        """What goes before a command to run it on a node's machine."""
        return ["ip", "netns", "exec", self._names[index]]

    @property
    def on_hub(self) -> list[str]:
        """What goes before a command to run it on the programs' machine."""
        return ["ip", "netns", "exec", self._hub]

    def cut(self, index: int, seconds: float) -> None:
        """Pull a cable, and put it back after a while. Nobody is told."""
        self._set(index, "down")
        timer = threading.Timer(seconds, self._set, [index, "up"])
        timer.start()
        self._timers.append(timer)

    def _set(self, index: int, state: str) -> None:
        _ip("-n", self._hub, "link", "set", f"d{index}", state)

    def mend(self) -> None:
        """Wait until all cables are in."""
        for timer in self._timers:
            timer.join()

    def close(self) -> None:
        """Take the namespaces away."""
        self.mend()
        for name in (self._hub, *self._names):
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
