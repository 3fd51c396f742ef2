"""Data in memory: each node gets a file of its own, reads it once, and all jobs there compute with what it read."""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import dispy


class FileEach(dispy.NodeAllocate):
    """Gives each node the next file."""

    def allocate(
        self, cluster: Any, ip_addr: str, name: str, cpus: int, avail_info: Any = None, platform: str = ""
    ) -> int:
        path = files[len(given) % len(files)]
        given.append(path)
        print(f"node {name} gets {Path(path).name}")
        self.depends = [path]
        self.setup_args = (Path(path).name,)
        return cpus


def setup(name: str) -> int:
    """Once on each node, before any job there."""
    import os

    global data, algorithms, where
    with open(name, "rb") as file:
        data = file.read()
    os.remove(name)  # jobs do not need it
    algorithms = ["md5", "sha1", "sha256"]
    where = name
    return 0


def cleanup(name: str) -> None:
    """Once on each node, after all jobs there."""
    global data
    del data


def digest(number: int) -> tuple[str, str, str, str]:
    import hashlib

    algorithm = algorithms[number % len(algorithms)]
    return dispy_node_name, where, algorithm, hashlib.new(algorithm, data).hexdigest()  # noqa: F821


if __name__ == "__main__":
    given: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        files = []
        for number in range(3):
            path = Path(directory, f"part{number}")
            path.write_bytes(bytes([number]) * 100_000)
            files.append(str(path))
        cluster = dispy.JobCluster(digest, nodes=[FileEach("*")], setup=setup, cleanup=cleanup)
        jobs = [cluster.submit(number) for number in range(10)]
        by_node: dict[str, set[str]] = {}
        for job in jobs:
            node, name, algorithm, result = job.get()
            print(f"{node}: {name} {algorithm} {result[:16]}…")
            by_node.setdefault(node, set()).add(name)
            assert result == hashlib.new(algorithm, Path(directory, name).read_bytes()).hexdigest()
        assert all(len(names) == 1 for names in by_node.values())
        cluster.close()
