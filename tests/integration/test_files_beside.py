"""Jobs of one program while the files of another are on their way to the same node."""

from __future__ import annotations

from pathlib import Path

from .conftest import MakeCluster, RunProgram, StartNode
from .filing import fill
from .helpers import wait_for
from .proxy import Hold, proxy

MB = 1_000_000

SENDER = """
import os, sys
import dispy

def look():
    return sum(os.path.getsize(name) for name in os.listdir("."))

if __name__ == "__main__":
    with dispy.JobCluster(look, nodes=[("127.0.0.1", int(sys.argv[1]))], depends=sys.argv[2:]) as cluster:
        print(cluster.submit()())
"""


def test_jobs_do_not_wait_for_files_of_others(
    make_cluster: MakeCluster, run_program: RunProgram, start_node: StartNode, tmp_path: Path
) -> None:
    """Not at the node, and not behind several that are half there; those come whole afterwards."""
    node = start_node("--cpus", "2")
    paths = [tmp_path / f"file-{number}" for number in range(3)]
    for path in paths:
        fill(path, 3 * MB)
    cluster = make_cluster(abs, nodes=[("127.0.0.1", node.port)])
    assert cluster.submit(-1)() == 1
    fault = Hold(5 * MB)
    with proxy(node.port, lambda _: fault) as line:
        program = run_program(SENDER, str(line.port), *map(str, paths))
        try:
            wait_for(fault.holds.is_set, what="the files are under way")
            assert [cluster.submit(-number)() for number in range(50)] == list(range(50))
            jobs = [cluster.submit(-number) for number in range(500)]
            assert [job() for job in jobs] == list(range(500))
            assert (program.stdout, program.process.poll()) == ("", None)
        finally:
            fault.let_go.set()
        assert program.wait() == 0, program.stderr
    assert program.stdout == f"{9 * MB}\n"
