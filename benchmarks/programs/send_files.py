"""Another program that sends files, each time it is told to: with a cluster, or over a bare connection.

Reads lines: ``dispy PORT PATH...`` makes a cluster with these files on the listed node and runs a job;
``bare PORT PATH...`` hashes them and sends them over one connection to ``receive_file``. Prints a line when that is
done.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys

from dispy import JobCluster


def sizes() -> int:
    """The job: bytes in the working directory."""
    import os

    return sum(entry.stat().st_size for entry in os.scandir("."))


def send(_: int, paths: list[str]) -> None:
    """As a cluster does, on the node that is listed."""
    cluster = JobCluster(sizes, depends=paths)
    try:
        job = cluster.submit()
        if job() != sum(os.stat(path).st_size for path in paths):
            raise RuntimeError(f"not what was sent: {job.exception}")
    finally:
        cluster.close()


def send_bare(port: int, paths: list[str]) -> None:
    """The least that there is to do."""
    whole = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while data := file.read(1 << 20):
                whole.update(data)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for path in paths:
            with open(path, "rb") as file:
                connection.sendfile(file)
        if connection.recv(32) != whole.digest():
            raise RuntimeError("something else arrived")


def main() -> None:
    """Serve until the standard input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        how, port, *paths = line.split()
        (send if how == "dispy" else send_bare)(int(port), paths)
        print("sent", flush=True)


if __name__ == "__main__":
    main()
