"""Programs whose current directory was removed: it is missed only where something is relative to it."""

from __future__ import annotations

from pathlib import Path

from .conftest import RunProgram, StartNode

PROGRAM = """
import os, sys
os.rmdir(os.getcwd())
import dispy
from dispy.errors import UsageError

def read(path=None):
    return path and open(path).read()

def refused(call):
    try:
        call()
    except UsageError as error:
        print(f"refused: {error}")
    else:
        print("not refused")

if __name__ == "__main__":
    with dispy.JobCluster(read, depends=[sys.argv[1]]) as cluster:
        print(cluster.submit(os.path.basename(sys.argv[1]))())
        refused(lambda: cluster.send_file("sent"))
        refused(lambda: cluster.submit(dispy_job_depends=["brought"]))
        print(list(cluster.map([None])), cluster.send_file(sys.argv[1]))
    refused(lambda: dispy.JobCluster(read, depends=["listed"]))
    refused(lambda: dispy.JobCluster(read, recover_file="noted"))
    refused(lambda: dispy.NodeAllocate("*", depends=["its own"]))
    refused(lambda: dispy.recover_jobs("noted"))
"""


def test_only_what_is_relative_is_refused(
    run_program: RunProgram, start_node: StartNode, tmp_path: Path
) -> None:
    """The text says what it is relative to, and what to do."""
    start_node("--cpus", "1")
    (tmp_path / "far").write_text("content")
    (tmp_path / "gone").mkdir()
    program = run_program(PROGRAM, str(tmp_path / "far"), cwd=tmp_path / "gone")
    assert program.wait() == 0, program.stderr

    def said(what: str) -> str:
        why = "is relative to the current directory, and that was removed"
        return f"refused: {what} {why}; give an absolute path, or go to a directory that is there with os.chdir"

    assert program.stdout.splitlines() == [
        "content",
        said("file 'sent'"),
        said("file 'brought'"),
        "[None] 0",
        said("file 'listed'"),
        said("recover_file 'noted'"),
        said("depends of node *: file 'its own'"),
        said("recover_file 'noted'"),
    ]
