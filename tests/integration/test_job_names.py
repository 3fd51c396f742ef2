"""Names of ``dispy.job`` in jobs: right in whatever way code travels."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest

import dispy
import dispy.job as here
from dispy.client.session import received_files
from dispy.job import job_id, job_path, node_ip_addr, node_logger, node_name, provisional_result, send_file

from .conftest import MakeCluster, RunProgram, StartNode

ALIAS = node_name
KEPT = {"names": [node_name, node_ip_addr]}


def names() -> Any:
    """All, however they were imported."""
    import dispy.job
    from dispy import job as module
    from dispy.job import node_name as within

    return (
        {node_name, ALIAS, here.node_name, module.node_name, dispy.job.node_name, within, KEPT["names"][0]},
        {node_ip_addr, here.node_ip_addr, KEPT["names"][1]},
        {job_path, here.job_path},
        {type(node_name), type(node_ip_addr), type(job_path)},
        (dispy_node_name, dispy_node_ip_addr, dispy_job_path),
    )


def check(seen: Any) -> None:
    each, addresses, paths, types, old = seen
    assert (each, addresses, paths) == ({"one"}, {"127.0.0.1"}, {old[2]})
    assert types == {str}
    assert old[:2] == ("one", "127.0.0.1")


@pytest.fixture(autouse=True)
def _node(start_node: StartNode) -> None:
    start_node("--name", "one", "--cpus", "1")


@pytest.mark.parametrize("options", [{}, {"isolate": True}, {"setup_per": "worker"}])
def test_globals_of_a_function(make_cluster: MakeCluster, options: dict[str, Any]) -> None:
    cluster = make_cluster(names, **options)
    check(cluster.submit()())
    check(cluster.submit()())


class Tool:
    where = node_name

    def __init__(self, name: str = node_name) -> None:
        self.name = name

    def look(self) -> Any:
        return self.where, self.name, node_name, job_id()

    @staticmethod
    def fixed() -> str:
        return node_name


def test_defaults_closures_classes_partials_and_arguments(make_cluster: MakeCluster) -> None:
    def default(given: Any, name: str = node_name, *, path: str = job_path) -> Any:
        return given, name, path

    there = node_name

    def closed(given: Any) -> Any:
        return there

    assert make_cluster(default).submit(1)()[:2] == (1, "one")
    assert make_cluster(default).submit(1, path=node_name)() == (1, "one", "one")
    assert make_cluster(closed).submit(1)() == "one"
    assert make_cluster(functools.partial(default, node_name)).submit()()[0] == "one"
    assert make_cluster(lambda given: given).submit([node_name])() == ["one"]
    cluster = make_cluster(lambda given: (given.look(), Tool().look()[:3], Tool.fixed()))
    job = cluster.submit(Tool())
    assert job() == (("one", "one", "one", job.id), ("one", "one", "one"), "one")
    assert make_cluster(Tool().look).submit()()[:3] == ("one", "one", "one")
    held = cluster.put({"name": node_name})
    assert make_cluster(lambda given: given["name"]).submit({"name": node_name})() == "one"
    del held


def test_ids_are_those_of_the_running_job(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(lambda: (job_id(), here.job_id(), dispy_job_id))
    for job in [cluster.submit(), cluster.submit_job_id("mine"), cluster.submit_job_id((1, 2))]:
        assert job() == (job.id,) * 3, job.exception
    assert list(make_cluster(lambda _: job_id()).map(range(2))) == [None, None]


def set_up() -> int:
    global seen
    seen = names()
    return 0


def test_setup(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(lambda: seen, setup=set_up)
    check(cluster.submit()())


def send(path: str) -> Any:
    Path(path).write_text("whole")
    node_logger.warning("of the job on %s", node_name)
    return provisional_result({"at": node_name}), provisional_result(2, timeout=5.0), send_file(path)


def test_functions_do_what_they_say(
    make_cluster: MakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received_files, "_root", str(tmp_path))
    told: list[Any] = []
    cluster = make_cluster(send, job_status=lambda job: told.append((job.status, job.result)))
    job = cluster.submit("sent.txt")
    assert job() == (0, 0, 0), job.exception
    cluster.wait()
    assert (tmp_path / "sent.txt").read_text() == "whole"
    assert told[:2] == [
        (dispy.DispyJob.ProvisionalResult, {"at": "one"}), (dispy.DispyJob.ProvisionalResult, 2)
    ]  # fmt: skip
    assert job.stdout == b"" or "of the job" not in str(job.stdout)


def test_modules_and_scripts(run_program: RunProgram, tmp_path: Path) -> None:
    """A script's globals go by value, and a module of the user's is imported on the node."""
    (tmp_path / "tools.py").write_text(
        "from dispy.job import node_name, job_id\n"
        "import dispy.job as here\n"
        "def look():\n"
        "    return node_name, here.node_name, job_id()\n"
    )
    program = run_program(
        """
import dispy, sys
sys.path.insert(0, PLACE)
import tools
from dispy.job import job_id, node_name

def compute():
    return tools.look(), node_name, job_id()

if __name__ == "__main__":
    print(tools.look(), repr(node_name))
    for options in ({}, {"depends": [tools]}, {"isolate": True}):
        with dispy.JobCluster(compute, **options) as cluster:
            job = cluster.submit()
            seen, name, number = job()
            print(job.exception, seen[:2], name, seen[2] == number == job.id, flush=True)
""".replace("PLACE", repr(str(tmp_path)))
    )
    program.wait_line(r"\('', '', None\) ''")
    for _ in range(3):
        program.wait_line(r"^None \('one', 'one'\) one True$")
    assert program.wait() == 0


def test_processes_that_jobs_fork(make_cluster: MakeCluster) -> None:
    def forked() -> Any:
        import multiprocessing

        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=lambda: theirs.send(names()))
        process.start()
        seen = ours.recv()
        process.join()
        return seen

    job = make_cluster(forked).submit()
    check(job() or job.exception)


def test_a_program_written_in_python(make_cluster: MakeCluster, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(
        f"#!{sys.executable}\n"
        "from dispy.job import job_id, job_path, node_name\n"
        "import os\n"
        "print(node_name, job_id(), os.path.samefile(job_path, '.'))\n"
    )
    path.chmod(0o755)
    job = make_cluster(str(path)).submit()
    assert job() == 0, job.stderr
    assert job.stdout.decode().split() == ["one", str(job.id), "True"]
