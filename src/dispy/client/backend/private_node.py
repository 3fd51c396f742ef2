"""A private node: the program starts it for itself if no other node of this machine can be used."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dispy.client.logger import notice
from dispy.errors import NoNodesError
from dispy.net.discovery import where_looked
from dispy.system.processes import shortage

if TYPE_CHECKING:
    from dispy.protocol.views import NodeId
    from dispy.security.secrets import Secret

logger = logging.getLogger("dispy.client")

AGAIN_S = 2.0
"""Seconds after the start of a private node during which it is not replaced if it ends: one that always fails is not
started again and again."""

END_S = 4.0
"""Seconds that a private node has to end after SIGTERM; then it is killed (SIGKILL)."""


class PrivateNode:
    """A node that this program started for itself.

    The node watches our process and ends with it, however the program ends. The node has a session (``setsid``) of
    its own, so that the terminal's Ctrl-C, which is meant for the program, does not reach it.

    Args:
        secret: Secret that the node shares with the program.
        others: Number of this user's nodes on this machine that have another secret, for the message about the start.

    Attributes:
        secret: As given; the node serves clusters with this secret.
        address: Host and port at which the node listens; None until the node has said that, then it is dialed.
        socket: Path of its Unix socket; empty until then, or if it has none.
        node: Identity of the node, as it has told it over the link; None until then.
        is_draining: True while another node of this machine is listed: clusters that use another node give this one
            no new jobs.
        drained: Numbers of computations that give the node no new jobs, as they use another one. ``Discovery.drain``
            adds and removes them.

    Raises:
        NoNodesError: The node cannot be started.
    """

    def __init__(self, secret: Secret, others: int) -> None:
        self.secret = secret
        self._others = others
        self.address: tuple[str, int] | None = None
        self.socket = ""
        self.node: NodeId | None = None
        self.is_draining = False
        self.drained: set[int] = set()
        environment = dict(os.environ)
        source = str(Path(str(sys.modules["dispy"].__file__)).resolve().parents[1])
        if "site-packages" not in source:
            before = environment.get("PYTHONPATH")
            environment["PYTHONPATH"] = source + (os.pathsep + before if before else "")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dispy.node"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise NoNodesError(
                f"no node runs on this machine, and none can be started for this program: {error}",
                hint=shortage(error) or "start 'dispynode'",
            ) from error
        settings: dict[str, Any] = {"listen_port": 0, "owner": os.getpid()}
        if not secret.is_own:
            settings["secret"] = secret.text()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(settings).encode())
        self._process.stdin.close()
        self._output = b""
        """Bytes that the node has written to its standard output so far. Its first line has host, port, number of
        CPUs and path of the Unix socket, separated by spaces: ``watch`` sets ``address`` and ``socket`` by that."""
        self._started = time.monotonic()
        """Time of the start (monotonic seconds), from which ``has_ended`` counts ``AGAIN_S``."""

    def watch(self, on_ready: Callable[[PrivateNode], None]) -> None:
        """Have ``on_ready`` called with this object when the node has said at which address it listens. On the loop.

        ``address`` is set by then, and the user is told of the node. If the node ends before that, a warning is
        logged and ``on_ready`` is never called.
        """
        stdout = self._process.stdout
        assert stdout is not None
        loop = asyncio.get_running_loop()
        os.set_blocking(stdout.fileno(), False)

        def on_readable() -> None:
            data = os.read(stdout.fileno(), 4096)
            self._output += data
            if b"\n" in self._output:
                host, port, cpus, path = self._output.partition(b"\n")[0].split(b" ", 3)
                self.address = (host.decode(), int(port))
                self.socket = os.fsdecode(path)
                notice(self._describe(int(cpus)))
                on_ready(self)
            elif data:
                return
            else:
                logger.warning(
                    "the node that was started for this program ended at once; see its message above"
                )
            loop.remove_reader(stdout.fileno())

        loop.add_reader(stdout.fileno(), on_readable)

    def _describe(self, cpus: int) -> str:
        """Returns the line for the user: why the node was started, with how many CPUs, and how to prevent it."""
        if self._others:
            what = "no dispynode with this program's secret runs on this machine, and {}".format(
                "one with another secret" if self._others == 1 else f"{self._others} with other secrets"
            )
        else:
            what = "no dispynode runs on this machine"
        return (
            f"{what}; started one with {cpus} {'CPU' if cpus == 1 else 'CPUs'} for this program "
            f"(looked in {where_looked()}; dispy.config.LocalNode = False prevents that)"
        )

    def has_ended(self) -> bool:
        """True if the node's process has ended, and was started more than ``AGAIN_S`` ago: it may be replaced."""
        return self._process.poll() is not None and time.monotonic() - self._started > AGAIN_S

    def set_draining(self, is_draining: bool) -> None:
        """Store whether another node of this machine is listed, to be used instead (``Discovery.drain``)."""
        self.is_draining = is_draining

    def stop(self) -> None:
        """Tell the node to end (SIGTERM). Does not wait; ``wait`` must follow. Does nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def wait(self) -> None:
        """Wait until the node's process has ended; kill it after ``END_S`` seconds. Call ``stop`` first."""
        deadline = time.monotonic() + END_S
        while True:
            try:
                self._process.wait(0.2)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    self._process.kill()
                elif self.address is None:
                    # If this program ignores SIGTERM, so does the node until it has its own handlers: tell it again.
                    self.stop()
        if self._process.stdout is not None:
            self._process.stdout.close()
