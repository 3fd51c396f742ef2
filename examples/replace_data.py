"""Data in memory is replaced while the cluster lives: ``resetup_node`` runs ``cleanup``, then ``setup`` anew."""

import tempfile
from pathlib import Path
from typing import Any

import dispy


class NextFile(dispy.NodeAllocate):
    """Gives a node the next file each time it is asked."""

    def allocate(
        self, cluster: Any, ip_addr: str, name: str, cpus: int, avail_info: Any = None, platform: str = ""
    ) -> int:
        path = files.pop(0)
        self.depends = [path]
        self.setup_args = (Path(path).name, 3 - len(files))
        return min(2, cpus)


def setup(name: str, number: int) -> int:
    global text, count
    with open(name) as file:
        text = file.read()
    count = number
    return 0


def cleanup(name: str, number: int) -> None:
    """Gets the arguments that ``setup`` had."""
    global text
    assert count == number
    del text


def read(n: int) -> tuple[str, int]:
    return text, count


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        files = []
        for word in ("spring", "summer", "autumn", "winter"):
            path = Path(directory, f"{word}.txt")
            path.write_text(f"it is {word}")
            files.append(str(path))
        expected = [Path(path).read_text() for path in files]
        cluster = dispy.JobCluster(read, nodes=[NextFile("*")], setup=setup, cleanup=cleanup)
        for season in range(3):
            results = {job.get() for job in [cluster.submit(n) for n in range(6)]}
            print(results)
            assert results == {(expected[season], season)}
            for node in cluster.status().nodes:
                if node.cpus and season < 2:
                    assert cluster.resetup_node(node) == 0
        cluster.close()
