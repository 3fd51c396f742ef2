"""Receives files over TCP and hashes them: what a node does at the least.

Prints its port; for each connection one file of the size given as argument, answered by its SHA-256. It is written to
the file that the second argument names, anew each time; without one nothing is kept.
"""

from __future__ import annotations

import hashlib
import socket
import sys
from contextlib import nullcontext


def main() -> None:
    """Serve until the standard input ends."""
    size = int(sys.argv[1])
    path = sys.argv[2] if len(sys.argv) > 2 else ""
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            with connection, open(path, "wb", buffering=0) if path else nullcontext() as file:
                found = hashlib.sha256()
                left = size
                while left and (count := connection.recv_into(buffer)):
                    found.update(view[:count])
                    if file is not None:
                        file.write(view[:count])
                    left -= count
                connection.sendall(found.digest())


if __name__ == "__main__":
    main()
