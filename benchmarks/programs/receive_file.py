"""Receives files over TCP and hashes them, keeping nothing: what a node does at the least.

Prints its port; for each connection one file of the size given as argument, answered by its SHA-256.
"""

from __future__ import annotations

import hashlib
import socket
import sys


def main() -> None:
    """Serve until the standard input ends."""
    size = int(sys.argv[1])
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            with connection:
                found = hashlib.sha256()
                left = size
                while left and (count := connection.recv_into(buffer)):
                    found.update(view[:count])
                    left -= count
                connection.sendall(found.digest())


if __name__ == "__main__":
    main()
