"""A slow line with hiccups: passes bytes on at a rate, in pieces of any size, and stands still now and then.

python -m benchmarks.programs.slow_link PORT RATE         prints its own port; RATE in bytes per second
"""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
import time

PIECE_MAX = 64 * 1024
HICCUP_S = 0.005
HICCUP_SHARE = 0.002


def pass_on(source: socket.socket, target: socket.socket, rate: float, chance: random.Random) -> None:
    """One direction of a connection, to its end."""
    buffer = memoryview(bytearray(PIECE_MAX))
    free_at = time.monotonic()
    try:
        while count := source.recv_into(buffer[: chance.randrange(PIECE_MAX // 4, PIECE_MAX)]):
            now = time.monotonic()
            # A sleep that was too long is made up for, up to a point.
            free_at = max(free_at, now - 0.002) + count / rate
            if chance.random() < HICCUP_SHARE:
                free_at += HICCUP_S
            target.sendall(buffer[:count])
            if free_at > now:
                time.sleep(free_at - now)
    except OSError:
        pass
    for side in (source, target):
        try:
            side.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def main(port: int, rate: float) -> None:
    """Serve until ended."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        ours, _ = listener.accept()
        theirs = socket.create_connection(("127.0.0.1", port))
        for side in (ours, theirs):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, (source, target) in enumerate([(ours, theirs), (theirs, ours)]):
            arguments = (source, target, rate, random.Random(number))
            threading.Thread(target=pass_on, args=arguments, daemon=True).start()


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), float(sys.argv[2]))
    except KeyboardInterrupt:
        os._exit(1)
