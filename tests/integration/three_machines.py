"""The machines of the tutorial: network namespaces on one switch, with the addresses that its pages name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .helpers import Place, Program
from .page_reader import end
from .typed_commands import commands_on_path, write_command

ADDRESSES = {"a": "192.168.1.10", "b": "192.168.1.20", "c": "192.168.1.30"}
"""Addresses by the names of the machines. They are the pages' own: nobody else is in these networks."""

TUNNEL = """
import socket, subprocess, sys, threading

port, host, there, *command = sys.argv[1:]
relay = '''
import socket, sys, threading
mine, far = socket.socket(fileno=0), socket.create_connection((sys.argv[1], int(sys.argv[2])))
def copy(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)
thread = threading.Thread(target=copy, args=(mine, far))
thread.start()
copy(far, mine)
thread.join()
'''
try:
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        while True:
            link, _ = listener.accept()
            with link:
                subprocess.Popen([*command, sys.executable, "-c", relay, host, there], stdin=link, stderr=-3)
except KeyboardInterrupt:
    pass
"""
"""Passes connections to a port of this machine on to a port of another one, as ``ssh -L`` does: called with both
ports, the host between them, and what goes before a command to run it there."""


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"network namespaces cannot be made: {done.stderr.strip()}")


class ThreeMachines:
    """Machines a, b and c. Each has a network namespace, a directory and a home; all have the commands of dispy.

    ``scp FILE MACHINE:`` and ``ssh -N -L PORT:HOST:PORT MACHINE`` are stand-ins that do the same without a server for
    ssh, which would need accounts and keys of the machine that runs the tests.

    Args:
        place: Its processes are watched there.
        mark: Text that begins the names of the namespaces.
    """

    def __init__(self, place: Place, mark: str) -> None:
        self._place = place
        self._mark = mark
        self._started: list[Program] = []
        path = commands_on_path(place.root)
        self._write_stand_ins(place.root / "bin")
        self._environments: dict[str, dict[str, str]] = {}
        for name in ADDRESSES:
            directory = self.directory(name)
            variables = {"HOME": str(directory), "PATH": path, "PYTHONUNBUFFERED": "1"}
            for variable in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
                (directory / variable).mkdir(mode=0o700, parents=True)
                variables[variable] = str(directory / variable)
            self._environments[name] = place.environment | variables

    def _write_stand_ins(self, directory: Path) -> None:
        tunnel = directory / "tunnel.py"
        tunnel.write_text(TUNNEL)
        write_command(directory / "scp", f'cp -p "$1" "{self._place.root}/machine-${{2%:}}/"\n')
        write_command(
            directory / "ssh",
            f'IFS=: read -r port host there <<END\n$3\nEND\nexec "{sys.executable}" "{tunnel}" '
            f'"$port" "$host" "$there" ip netns exec "{self._mark}-$4"\n',
        )

    def directory(self, machine: str) -> Path:
        """Directory in which commands run on a machine."""
        return self._place.root / f"machine-{machine}"

    def start(self, machine: str, command: str) -> Program:
        """Start a command in a shell on a machine."""
        words = ["ip", "netns", "exec", f"{self._mark}-{machine}", "bash", "-c", command]
        program = Program(words, self._place, cwd=self.directory(machine), env=self._environments[machine])
        self._started.append(program)
        return program

    def close(self) -> None:
        """End what still runs."""
        end(self._started)


@contextmanager
def three_machines(place: Place, mark: str) -> Iterator[ThreeMachines]:
    """Three machines on a switch, as long as the block lasts. Skips the test where they cannot be made.

    Args:
        place: Its processes are watched there.
        mark: Text that no other test on this machine has.
    """
    if shutil.which("ip") is None:
        pytest.skip("there is no command 'ip'")
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    switch = f"{mark}-switch"
    made: list[str] = []
    try:
        for name in (switch, *(f"{mark}-{machine}" for machine in ADDRESSES)):
            _ip("netns", "add", name)
            made.append(name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for machine, address in ADDRESSES.items():
            name = f"{mark}-{machine}"
            _ip("-n", switch, "link", "add", f"to-{machine}", "type", "veth", "peer", "d0", "netns", name)
            _ip("-n", switch, "link", "set", f"to-{machine}", "master", "bridge", "up")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "d0")
            _ip("-n", name, "link", "set", "d0", "up")
        machines = ThreeMachines(place, mark)
        try:
            yield machines
        finally:
            machines.close()
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
