"""The canonical program, run as users run it: a script in a process of its own."""

from __future__ import annotations

import os
import re

import pytest

from .conftest import RunProgram, StartNode
from .helpers import PYTHON, SOON_S, Place, Program, free_base_port, wait_for

CANONICAL = """
import random
import sys

import dispy


def compute(n):
    import time, socket
    time.sleep(n)
    host = socket.gethostname()
    return (host, n, dispy_node_name)


if __name__ == '__main__':
    cluster = dispy.JobCluster(compute%s)
    jobs = []
    for i in range(10):
        job = cluster.submit(random.uniform(0.02, 0.05))
        job.id = i
        jobs.append(job)
    for job in jobs:
        host, n, node = job()
        print('%%s executed job %%s at %%s with %%s on %%s' %% (host, job.id, job.start_time, n, node))
        print(job.exception, job.stdout, job.stderr, job.id, job.ip_addr, job.start_time, job.end_time)
    cluster.print_status()
"""

RESULT = re.compile(r"^\S+ executed job (\d+) at \d+\.\d+ with 0\.\d+ on (\S+)$", re.MULTILINE)
ROW = re.compile(r"^127\.0\.0\.1 \((\S+)\)\s*\|\s*(\d+) \|\s*(\d+) \|", re.MULTILINE)


NOTICE = r"dispy: no dispynode runs on this machine; started one with \d+ CPUs? for this program .*\n"
"""What a program says that starts a node of its own: one line."""

WAITS = r"(dispy: waiting for \d+ jobs? of \w+; Ctrl-C cancels them\n)?"
"""What it may say at its end: on a busy machine jobs that are short may take longer than a second."""


def check_canonical(
    program: Program, *, has_own_node: bool = False
) -> tuple[set[str], dict[str, tuple[int, int]]]:
    """Check what the canonical program prints; returns nodes of the jobs, and the table: CPUs, jobs by node."""
    code = program.wait(15)
    text = program.stdout
    assert code == 0, program.stderr
    assert re.fullmatch(NOTICE if has_own_node else "", program.stderr), program.stderr
    results = RESULT.findall(text)
    assert [int(number) for number, _ in results] == list(range(10)), text
    assert len(re.findall(r"^None   \d 127\.0\.0\.1 \d+\.\d+ \d+\.\d+$", text, re.MULTILINE)) == 10, text
    assert re.search(
        r"^Node +\| CPUs \| Jobs \| Sec/Job \| Node Time Sec \| +Sent \| +Rcvd$", text, re.MULTILINE
    )
    assert re.search(
        r"^Total job time: \d+\.\d+ sec, wall time: \d+\.\d+ sec, speedup: \d+\.\d+$", text, re.M
    )
    assert "Jobs pending" not in text
    table = {name: (int(cpus), int(jobs)) for name, cpus, jobs in ROW.findall(text)}
    assert sum(jobs for _, jobs in table.values()) == 10, text
    return {node for _, node in results}, table


def test_without_any_node(run_program: RunProgram, place: Place) -> None:
    program = run_program(CANONICAL % "")
    nodes, table = check_canonical(program, has_own_node=True)
    assert len(nodes) == len(table) == 1
    assert place.processes() == [], "its node outlives it"


def test_its_own_node_finds_the_same_dispy_and_nothing_of_ours_by_other_names(
    run_program: RunProgram,
) -> None:
    """A checkout is on the node's path as the package dispy, not as modules called config, node or files."""
    program = run_program(
        "import os, dispy\n"
        "def found():\n"
        "    import importlib.util\n"
        "    names = ['dispy', 'config', 'settings', 'journal', 'scheduler']\n"
        "    return os.environ.get('PYTHONPATH'), [n for n in names if importlib.util.find_spec(n) is not None]\n"
        "print(*dispy.JobCluster(found).submit()())\n"
    )
    assert program.wait() == 0, program.stderr
    path, names = program.stdout.strip().split(" ", 1)
    assert names == "['dispy']", path


def test_with_a_running_node(run_program: RunProgram, start_node: StartNode, place: Place) -> None:
    start_node("--name", "by-hand")
    nodes, table = check_canonical(run_program(CANONICAL % ""))
    assert nodes == {"by-hand"}
    assert list(table) == ["by-hand"]
    assert len(place.incarnations()) == 1, "it started a node although one was running"


MEET = """
    import os
    open(f'{directory}/{dispy_node_name}', 'w').close()
    while len(os.listdir('{directory}')) < 2:
        time.sleep(0.005)
"""
"""In a job: one node alone does not run them all, however late the other is."""


def test_with_two_running_nodes(run_program: RunProgram, start_node: StartNode, place: Place) -> None:
    start_node("--name", "left", "--cpus", "1")
    start_node("--name", "right", "--cpus", "1")
    directory = place.root / "met"
    directory.mkdir()
    meet = MEET.replace("{directory}", str(directory))
    program = run_program((CANONICAL % "").replace("    time.sleep(n)\n", "    time.sleep(n)" + meet))
    nodes, table = check_canonical(program)
    assert nodes == {"left", "right"}
    assert {name: cpus for name, (cpus, _) in table.items()} == {"left": 1, "right": 1}
    assert len(place.incarnations()) == 2


def test_node_given_by_address(run_program: RunProgram, start_node: StartNode) -> None:
    start_node("--name", "found")
    nodes, _ = check_canonical(run_program(CANONICAL % ", nodes=['127.0.0.1']"))
    assert nodes == {"found"}


def test_node_on_the_default_port_that_is_not_listed(
    run_program: RunProgram, start_node: StartNode, place: Place
) -> None:
    """Another state directory, the same secret: what remains is the port."""
    other = place.root / "other"
    other.mkdir(mode=0o700)
    port = free_base_port()
    environment = place.environment | {"XDG_STATE_HOME": str(other)}
    secret = ("--secret", "shared")
    node = start_node("--dispy_port", str(port), "--name", "unlisted", *secret, port=None, env=environment)
    assert node.port == port + 1
    arguments = f", nodes=['127.0.0.1'], dispy_port={port}, secret='shared'"
    nodes, _ = check_canonical(run_program(CANONICAL % arguments))
    assert nodes == {"unlisted"}


@pytest.mark.parametrize(
    "form", ["('127.0.0.1', {port}, 1)", "dispy.NodeAllocate('localhost', port={port}, cpus=1)"]
)
def test_node_given_by_host_port_and_cpus(
    run_program: RunProgram, start_node: StartNode, form: str
) -> None:
    start_node("--name", "other", "--cpus", "1")
    node = start_node("--name", "wanted", "--cpus", "2")
    nodes, table = check_canonical(run_program(CANONICAL % f", nodes=[{form.format(port=node.port)}]"))
    assert nodes == {"wanted"}
    assert table == {"wanted": (1, 10)}


def test_given_address_starts_no_node_of_its_own(run_program: RunProgram, place: Place) -> None:
    port = free_base_port()
    program = run_program(CANONICAL % f", nodes=['127.0.0.1'], dispy_port={port}")
    found = program.wait_line(r"10 jobs of cluster compute wait: .*", stream="stderr", deadline_s=12)
    assert f"127.0.0.1:{port + 1}" in found[0], "the message does not say what was tried"
    assert "dispynode" in found[0], "the message does not say what to do"
    assert place.incarnations() == []


def test_node_started_later_is_used(run_program: RunProgram, start_node: StartNode) -> None:
    program = run_program(CANONICAL % ", nodes=['127.0.0.1']", "--unused")
    start_node("--name", "late")
    nodes, _ = check_canonical(program)
    assert nodes == {"late"}


WAITS_AT_EXIT = """
import dispy


def compute(n):
    import time
    time.sleep(n)
    return n


def on_end(job):
    print('ended', job.id, job.result, flush=True)


if __name__ == '__main__':
    cluster = dispy.JobCluster(compute, job_status=on_end)
    for n in range(6):
        cluster.submit_job_id(n, n / 20)
    print('submitted', flush=True)
"""


def test_interpreter_waits_for_jobs_at_exit(run_program: RunProgram) -> None:
    program = run_program(WAITS_AT_EXIT)
    assert program.wait(15) == 0, program.stderr
    lines = program.stdout.splitlines()
    assert lines[0] == "submitted"
    assert sorted(lines[1:]) == [f"ended {n} {n / 20}" for n in range(6)]
    assert re.fullmatch(WAITS + NOTICE + WAITS, program.stderr), program.stderr


def test_main_is_not_run_on_the_node(run_program: RunProgram) -> None:
    """A script without the usual guard works, too: nothing imports it again."""
    source = "import dispy\nprint('start')\ncluster = dispy.JobCluster(lambda n: n + 1)\nprint(cluster.submit(1)())\n"
    program = run_program(source)
    assert program.wait(15) == 0, program.stderr
    assert program.stdout.split() == ["start", "2"]


def test_many_programs_at_once_share_one_node(
    run_program: RunProgram, start_node: StartNode, place: Place
) -> None:
    start_node("--name", "one", "--cpus", "2")
    programs = [run_program(CANONICAL % "", name=f"program{n}.py") for n in range(3)]
    for program in programs:
        assert check_canonical(program)[0] == {"one"}
    assert len(place.incarnations()) == 1


def test_unhandled_exception_is_told_after_the_jobs(run_program: RunProgram) -> None:
    """The exit code and traceback are the program's own; its jobs are waited for."""
    program = run_program(WAITS_AT_EXIT + "    raise ValueError('mine')\n")
    assert program.wait(15) == 1
    assert "ValueError: mine" in program.stderr
    assert program.stdout.count("ended") == 6


def test_silent_by_default(run_program: RunProgram, start_node: StartNode) -> None:
    start_node()
    program = run_program("import dispy\nc = dispy.JobCluster(lambda: 1)\nc.submit()()\nc.shutdown()\n")
    assert program.wait(15) == 0
    assert (program.stdout, program.stderr) == ("", "")


def test_import_works_without_a_writable_home(run_program: RunProgram, place: Place) -> None:
    program = run_program(
        "import dispy\nprint(dispy.__version__)\n", env=place.environment | {"HOME": os.devnull}
    )
    assert program.wait(SOON_S) == 0, program.stderr
    assert program.stdout.strip()
    assert wait_for(place.processes, lambda found: not found, what="no process") == []


@pytest.mark.parametrize("node", ["own", "other"])
def test_closed_standard_descriptors(run_program: RunProgram, start_node: StartNode, node: str) -> None:
    """As some launchers leave them: neither sockets nor the output of jobs take their places."""
    closing = ("sh", "-c", 'exec "$0" "$@" <&- >&-')
    if node == "other":
        start_node("--cpus", "1", "--name", "shared")
    source = (
        "import dispy, os, sys\n"
        "job = dispy.JobCluster(lambda: (os.write(1, b'out'), os.system('echo said'))).submit()\n"
        "job()\n"
        "print(repr(job.stdout), os.readlink('/proc/self/fd/0'), file=sys.stderr)\n"
    )
    program = run_program(source, python=(*closing, *PYTHON))
    assert program.wait(15) == 0, program.stderr
    assert "'outsaid\\n' /dev/null" in program.stderr
