"""Something that is done once on each node, whatever its CPUs: here a script that would install what it needs."""

import tempfile
import threading
from pathlib import Path

import dispy

SCRIPT = """import platform, sys
print(f"{platform.node()} has {sys.argv[1]} now, with Python {platform.python_version()}")
"""


def on_cluster(status: int, node: dispy.DispyNode | None, job: dispy.DispyJob | None) -> None:
    """A node is there; called by a thread of dispy's."""
    if status == dispy.DispyNode.Initialized and node is not None:
        job = cluster.submit_node(node, "version 2")
        if job is not None:
            job.id = node.name
            jobs.append(job)
            is_there.set()


if __name__ == "__main__":
    jobs: list[dispy.DispyJob] = []
    is_there = threading.Event()
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory, "update.py")
        script.write_text(SCRIPT)
        cluster = dispy.JobCluster(str(script), cluster_status=on_cluster)
        while not is_there.wait(1):
            cluster.discover_nodes(["*"])
        cluster.wait()
        cluster.close()
    for job in jobs:
        print(f"{job.id}: {(job.stdout or job.stderr).decode().strip()}")
        assert job.result == 0
        assert b"has version 2 now" in job.stdout
