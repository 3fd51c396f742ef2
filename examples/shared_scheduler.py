"""One scheduler for many programs: two of them, each with jobs of its own, on the CPUs of one node.

Usually an administrator has started both daemons, and this program would be its second half alone.
"""

import re
import subprocess
import sys

import dispy


def start(module, *options):
    """Start a daemon of dispy; returns the process, and the port that it listens on."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--daemon", "--listen_port", "0", *options], stdout=-1
    )
    port = int(re.search(rb":(\d+) ", process.stdout.readline())[1])
    return process, port


def square(n):
    return n * n


def cube(n):
    return n**3


if __name__ == "__main__":
    node, node_port = start("dispy.dispynode", "--cpus", "2")
    scheduler, port = start("dispy.dispyscheduler", "--node", f"127.0.0.1:{node_port}")
    try:
        where = {"scheduler_host": "127.0.0.1", "scheduler_port": port}
        with dispy.SharedJobCluster(square, **where) as one, dispy.SharedJobCluster(cube, **where) as two:
            squares = [one.submit(n) for n in range(100)]
            cubes = list(two.map(range(100)))
            assert [job() for job in squares] == [n**2 for n in range(100)]
            assert cubes == [n**3 for n in range(100)]
            print(f"both clusters are done; the nodes: {one.status().nodes}")
    finally:
        for process in (scheduler, node):
            process.terminate()
            process.wait()
            process.stdout.close()
