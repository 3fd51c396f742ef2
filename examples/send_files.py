"""Jobs send files to the program while they run; each appears whole or not at all."""

import os
import tempfile
from pathlib import Path

import dispy
from dispy.job import send_file


def write(n: int) -> int:
    path = f"results/{n}.txt"
    os.makedirs("results", exist_ok=True)
    with open(path, "w") as file:
        file.writelines(f"{line}\n" for line in range(n))
    return send_file(path)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)  # where the program makes its first cluster, files arrive
        with dispy.JobCluster(write) as cluster:
            jobs = [cluster.submit(n * 10) for n in range(1, 6)]
            for n, job in enumerate(jobs, 1):
                assert job() == 0, job.exception
                lines = Path("results", f"{n * 10}.txt").read_text().splitlines()
                print(f"{n * 10}.txt has {len(lines)} lines")
                assert len(lines) == n * 10
        os.chdir("/")
