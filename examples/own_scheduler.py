"""Scheduling of one's own: each node has one job at a time, with a file that is there for that job only."""

import hashlib
import tempfile
import threading
from pathlib import Path

import dispy


def digest(path: str) -> tuple[str, str]:
    """Executed on nodes: the file is in the working directory, under its own name."""
    import hashlib
    import os

    with open(os.path.basename(path), "rb") as file:
        return path, hashlib.sha256(file.read()).hexdigest()


def on_cluster(status: int, node: dispy.DispyNode | None, job: dispy.DispyJob | None) -> None:
    """A node is there, or its job has ended: it gets the next; called by a thread of dispy's."""
    if status == dispy.DispyJob.Finished and job is not None:
        path, result = job.result
        print(f"{Path(path).name} on {job.ip_addr}: {result[:16]}…")
        digests[path] = result
    elif status == dispy.DispyJob.Terminated and job is not None:
        print(f"failed: {job.exception}")
    elif status != dispy.DispyNode.Initialized:
        return
    if paths:
        path = paths.pop()
        cluster.submit_node(node, path, dispy_job_depends=[path])
    elif len(digests) == FILES:
        is_done.set()


FILES = 6

if __name__ == "__main__":
    digests: dict[str, str] = {}
    is_done = threading.Event()
    with tempfile.TemporaryDirectory() as directory:
        paths = []
        for number in range(FILES):
            path = Path(directory, f"data{number:03}")
            path.write_text(f"{number} " * 1000)
            paths.append(str(path))
        expected = {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}
        cluster = dispy.JobCluster(digest, cluster_status=on_cluster)
        assert is_done.wait(20), cluster.status()
        cluster.close()
    assert digests == expected
