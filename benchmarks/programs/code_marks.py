"""Where a measured program has got to: a line to the one that measures, which answers when it has looked."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import time

TCP_INFO_BYTES = 256
RECEIVED_AT = 128
SENT_AT = 200
"""Offsets in the kernel's ``struct tcp_info`` (``include/uapi/linux/tcp.h``, since Linux 4.19)."""


def mark(**said: float) -> None:
    """Say what was measured so far, and wait for the answer."""
    cpu_s = time.process_time()
    sent, received = _tcp_bytes()
    print(json.dumps({"cpu_s": cpu_s, "sent": sent, "received": received} | said), flush=True)
    sys.stdin.readline()


def _tcp_bytes() -> tuple[int, int]:
    """Bytes that this process has sent and received on its open TCP connections, by the kernel's count."""
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            # Several descriptors may be of one socket, which its number tells.
            descriptors[os.readlink(f"/proc/self/fd/{name}")] = int(name)
    sent = received = 0
    for target, descriptor in descriptors.items():
        if target.startswith("socket:"):
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
                sent += struct.unpack_from("Q", info, SENT_AT)[0]
                received += struct.unpack_from("Q", info, RECEIVED_AT)[0]
    return sent, received
