"""What jobs print, by whatever means, arrives with the job that printed it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

import dispy

from .conftest import MakeCluster, StartNode


def prints(what: str) -> None:
    if what == "print":
        print("line 1")
        print("error 1", file=sys.stderr)
        print("line 2", end="")
    elif what == "part of a line":
        sys.stderr.write("error without end")
        print("also", file=sys.stderr, end="")
    elif what == "unicode":
        print("größer ≥ 日本", flush=True)
        sys.stdout.buffer.write(b"\xff\n")
    elif what == "child":
        print("before")
        sys.stdout.flush()
        subprocess.run(["sh", "-c", "echo out; echo err >&2"], check=True)
        print("after")
    elif what == "c":
        libc = ctypes.CDLL(None)
        libc.printf(b"number %d\n", 5)
        libc.puts(b"puts")
        libc.fflush(None)
    elif what == "c without flush":
        ctypes.CDLL(None).printf(b"no newline, no flush")
    elif what == "descriptor":
        os.write(1, b"one\n")
        os.write(2, b"two\n")
    elif what == "system":
        os.system("echo from system")
    elif what == "fails":
        print("before the end")
        raise ValueError("end")
    elif what == "os._exit":
        os.write(1, b"written\n")
        os._exit(1)


OUTPUTS = {
    "nothing": ("", ""),
    "print": ("line 1\nline 2", "error 1\n"),
    "part of a line": ("", "error without endalso"),
    "unicode": ("größer ≥ 日本\n\\xff\n", ""),
    "child": ("before\nout\nafter\n", "err\n"),
    "c": ("number 5\nputs\n", ""),
    "c without flush": ("no newline, no flush", ""),
    "descriptor": ("one\n", "two\n"),
    "system": ("from system\n", ""),
    "fails": ("before the end\n", ""),
}


def test_output_arrives_with_its_job(make_cluster: MakeCluster, start_node: StartNode) -> None:
    node = start_node("--cpus", "1")
    cluster = make_cluster(prints)
    jobs = [(what, cluster.submit(what)) for what in OUTPUTS for what in ("nothing", what, what, "nothing")]
    for what, job in jobs:
        job()
        assert (job.stdout, job.stderr) == OUTPUTS[what], what
    cluster.shutdown()
    node.stop()
    assert node.stdout.count("\n") == 1, f"output of jobs at the node's terminal: {node.stdout!r}"


def test_what_a_job_logs_is_its_output(make_cluster: MakeCluster, start_node: StartNode) -> None:
    """As in any program: of its own loggers, set up or not. ``dispynode_logger`` is the node's."""

    def compute(n: int) -> int:
        import logging

        if n:
            logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
        logging.getLogger("model").info("step %d", n)
        logging.getLogger("model").warning("loss %d", n)
        dispynode_logger.info("for the node %d", n)
        return n

    node = start_node("--cpus", "1")
    cluster = make_cluster(compute)
    jobs = [cluster.submit(n) for n in range(3)]
    assert [job() for job in jobs] == [0, 1, 2]
    assert [job.stderr for job in jobs] == [
        "loss 0\n",
        "INFO: step 1\nWARNING: loss 1\n",
        "INFO: step 2\nWARNING: loss 2\n",
    ]
    cluster.shutdown()
    node.stop()
    assert "loss" not in node.stdout + node.stderr
    assert all(f"for the node {n}" in node.stderr for n in range(3))


@pytest.mark.usefixtures("a_node")
def test_output_of_a_job_that_was_killed_is_not_anybody_elses(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(prints)
    for _ in range(3):
        cluster.submit("os._exit")()
    assert cluster.submit("nothing").wait(5)
    job = cluster.submit("print")
    job()
    assert job.stdout == "line 1\nline 2"


@pytest.mark.usefixtures("a_node")
@pytest.mark.parametrize("how", ["print", "child"])
def test_much_output_is_cut_and_says_so(make_cluster: MakeCluster, how: str) -> None:
    def compute(how: str, size: int) -> int:
        if how == "print":
            for n in range(size // 1000):
                print(f"{n:>999}")
            print("error", file=sys.stderr)
        else:
            subprocess.run(["sh", "-c", f"yes 12345678 | head -c {size}; echo; echo end"], check=True)
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    cluster = make_cluster(compute)
    size = 100_000_000
    job = cluster.submit(how, size)
    memory = job()
    assert job.status == dispy.DispyJob.Finished, job.exception
    assert 1_000_000 < len(job.stdout) < 3_000_000
    assert "cut" in job.stdout
    assert job.stdout.splitlines()[0] in (f"{0:>999}", "12345678"), "the beginning is missing"
    assert job.stdout.splitlines()[-1] in (f"{size // 1000 - 1:>999}", "end"), "the end is missing"
    assert job.stderr == ("error\n" if how == "print" else "")
    assert memory < 200_000_000
    after = cluster.submit(how, 2000)
    after()
    assert "cut" not in after.stdout


@pytest.mark.usefixtures("a_node")
def test_large_output_is_whole(make_cluster: MakeCluster) -> None:
    def compute(size: int) -> None:
        sys.stdout.write("o" * size)
        sys.stderr.write("e" * (size // 2))

    cluster = make_cluster(compute)
    jobs = [(size, cluster.submit(size)) for size in (60_000, 65_536, 1_000_000)]
    for size, job in jobs:
        job()
        assert job.stdout == "o" * size
        assert job.stderr == "e" * (size // 2)
