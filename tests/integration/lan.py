"""Machines on one network: namespaces whose cables end in a switch (a bridge in a namespace of its own)."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .helpers import Place

_numbers = itertools.count()


class Machine:
    """A machine that has only the network, and files that were copied to it, in common with the others.

    Args:
        name: Name of the namespace.
        place: Its processes are watched there.

    Attributes:
        python: Command that runs Python there.
        environment: Environment of programs there: a home and runtime directory of its own.
    """

    def __init__(self, name: str, place: Place) -> None:
        self.name = name
        self.python = ["ip", "netns", "exec", name, sys.executable]
        self.environment = dict(place.environment)
        for variable in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
            directory = place.root / name / variable
            directory.mkdir(mode=0o700, parents=True)
            self.environment[variable] = str(directory)

    @property
    def node(self) -> dict[str, Any]:
        """Keywords of ``start_node`` and ``run_program`` that run something there."""
        return {"python": self.python, "env": self.environment}

    def ip(self, *arguments: str) -> None:
        """Run the command ``ip`` there."""
        _ip("-n", self.name, *arguments)

    def packets(self) -> int:
        """Packets that it has sent on its cable ``eth0``."""
        path = "/sys/class/net/eth0/statistics/tx_packets"
        command = ["ip", "netns", "exec", self.name, "cat", path]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


class Lan:
    """So many machines on one network, and perhaps on further ones. Needs root.

    Machine N (from 0) has 10.9.0.N+1 on ``eth0``, on the next network 10.9.1.N+1 on ``eth1``, and so on. With
    ``is_6`` they have fd09:1::N+1 and so on instead.

    Args:
        place: Directory of the test.
        count: Number of machines.
        networks: Number of networks.
        is_6: True: IPv6 addresses, and no others.
    """

    def __init__(self, place: Place, count: int, networks: int = 1, *, is_6: bool = False) -> None:
        if shutil.which("ip") is None:
            pytest.skip("there is no command 'ip': install iproute2")
        if os.geteuid() != 0:
            pytest.skip("only root can make network namespaces")
        number = next(_numbers)
        self._switch = f"dispy-lan-{os.getpid()}-{number}"
        self._is_6 = is_6
        names = [f"{self._switch}-{index}" for index in range(count)]
        self._made: list[str] = []
        self.machines: list[Machine] = []
        try:
            for name in (self._switch, *names):
                _ip("netns", "add", name)
                self._made.append(name)
                _ip("-n", name, "link", "set", "lo", "up")
            for network in range(networks):
                self.add_network(network)
            self.machines = [Machine(name, place) for name in names]
            for network in range(networks):
                for index in range(count):
                    self.plug(index, network)
        except subprocess.CalledProcessError as error:
            self.close()
            pytest.skip(f"network namespaces cannot be made: {error.stderr.strip()}")
        except BaseException:
            self.close()
            raise

    def address(self, index: int, network: int = 0) -> str:
        """Address of a machine on a network."""
        return f"fd09:{network + 1}::{index + 1}" if self._is_6 else f"10.9.{network}.{index + 1}"

    def add_network(self, network: int = 0) -> None:
        """Add a network that nobody is plugged into yet."""
        _ip("-n", self._switch, "link", "add", f"br{network}", "type", "bridge")
        _ip("-n", self._switch, "link", "set", f"br{network}", "up")

    def plug(self, index: int, network: int = 0) -> None:
        """Give a machine a cable to a network, with an address there."""
        machine, card, port = self.machines[index], f"eth{network}", f"p{network}-{index}"
        _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", card, "netns", machine.name)
        _ip("-n", self._switch, "link", "set", port, "master", f"br{network}", "up")
        if self._is_6:
            machine.ip("address", "add", f"{self.address(index, network)}/64", "dev", card, "nodad")
        else:
            machine.ip("address", "add", f"{self.address(index, network)}/24", "dev", card)
            machine.ip("link", "set", card, "addrgenmode", "none")  # no address that comes a second later
        machine.ip("link", "set", card, "up")

    def cut(self, index: int, network: int = 0) -> None:
        """Pull a machine's cable at the switch."""
        _ip("-n", self._switch, "link", "set", f"p{network}-{index}", "down")

    def mend(self, index: int, network: int = 0) -> None:
        """Put the cable back."""
        _ip("-n", self._switch, "link", "set", f"p{network}-{index}", "up")

    def close(self) -> None:
        """Remove all namespaces."""
        for name in self._made:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def new_secret(place: Place) -> Path:
    """Make a file with a random secret, as ``dispy secret new`` does, for all machines."""
    path = place.root / "dispy.secret"
    command = [sys.executable, "-m", "dispy.cli.main", "secret", "new", str(path)]
    subprocess.run(command, env=place.environment, capture_output=True, check=True)
    return path


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
