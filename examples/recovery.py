"""A program that dies loses nothing: another one has its jobs, runs those that never started, and goes on.

Started with the name of a journal it is the program that dies; started without, it starts that one, ends it in the
middle, and recovers.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import dispy


def compute(n: int) -> int:
    import time

    time.sleep(0.1)
    return n * 10


def die_in_the_middle(journal: str) -> None:
    """Submit jobs, and be killed when three of them have ended."""
    # reentrant: where a node dies, too, as one does that was started for this program only, its jobs may run again.
    cluster = dispy.JobCluster(compute, recover_file=journal, reentrant=True)
    jobs = [cluster.submit(n) for n in range(12)]
    dispy.wait(jobs[:3])
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        die_in_the_middle(sys.argv[1])
    with tempfile.TemporaryDirectory() as directory:
        journal = Path(directory, "jobs")
        ended = subprocess.run([sys.executable, __file__, str(journal)], check=False)
        assert ended.returncode == -signal.SIGKILL
        jobs = dispy.recover_jobs(journal, resume=True)
        results = []
        for job in jobs:
            job.wait()
            print(f"job {job.id} returned {job.result}")
            results.append(job.result)
        print(f"{len(jobs)} jobs of a program that was killed")
        assert sorted(results) == [n * 10 for n in range(12)]
