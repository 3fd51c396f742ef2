"""A program as computation: sent to nodes, started for each job; its output is bytes, its result the exit code."""

import os
import tempfile
from pathlib import Path

import dispy

SCRIPT = """#!/bin/sh
echo "$dispy_node_name works on $1"
test "$1" -ne 3  # which fails for one of them
"""

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "work.sh")
        program.write_text(SCRIPT)
        os.chmod(program, 0o755)
        cluster = dispy.JobCluster(str(program))
        jobs = [cluster.submit(n) for n in range(6)]
        for n, job in enumerate(jobs):
            code = job.get()
            print(f"{job.stdout.decode().strip()}: exit code {code}")
            assert job.stdout.endswith(f"works on {n}\n".encode())
            assert code == (1 if n == 3 else 0)
            assert job.status == dispy.DispyJob.Finished, "any exit code is an end"
        cluster.close()
