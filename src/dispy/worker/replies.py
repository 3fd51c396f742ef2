"""The socket from a worker to its node: packets, and the end of the worker when the node is gone."""

from __future__ import annotations

import os
import socket

from dispy.system.processes import kill_strays


def send_whole(replies: socket.socket, packet: bytes | memoryview) -> None:
    """Send one packet; ends this process with exit code 1 if the node is gone."""
    try:
        replies.send(packet)
    except (BrokenPipeError, ConnectionResetError):
        leave(1)


def leave(code: int) -> None:
    """Kill all descendants and end this process with an exit code, without calling what was registered for its exit
    (``atexit``)."""
    kill_strays(set())
    os._exit(code)
