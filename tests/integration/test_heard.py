"""What a program is told of its jobs that failed, and of what its end waits for."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy.errors import JobError, RemoteTraceback, UsageError

from .conftest import MakeCluster, RunProgram
from .helpers import PYTHON, Place, Program, wait_for
from .jobs import until
from .test_program import NOTICE

# At the end of programs.

HEAD = """
import dispy


def compute(n):
    if n:
        raise ValueError(f"bad {n}")


def never(n):
    import time
    time.sleep(600)


cluster = dispy.JobCluster(compute)
jobs = [cluster.submit(n) for n in (1, 2, 0, 3)]
"""

SAID = "dispy: 3 of 4 jobs of compute failed and nobody looked at why; the first: ValueError: bad [123]\n"

SILENT: dict[str, str] = {
    "exception": "cluster.wait(); print([job.exception for job in jobs])",
    "exception after the end": "cluster.close(); print(jobs[1].exception)",
    "one of a kind": "[job() for job in jobs]; print(jobs[0].exception)",
    "error": "[job() for job in jobs]; print(jobs[0].error)",
    "status": "cluster.wait(); print([job.result for job in jobs if job.status == dispy.DispyJob.Finished])",
    "get": """
try:
    jobs[0].get()
except ValueError as error:
    print(error)
cluster.wait()
""",
    "frame": "cluster.wait(); print(dispy.frame(jobs).status.to_list())",
    "print_status": "cluster.wait(); cluster.print_status()",
    "in a callback": """
with dispy.JobCluster(compute, job_status=lambda job: print(job.exception)) as other:
    other.submit(1)
print([job() for job in jobs], jobs[0].exception)
""",
    "at exit": "import atexit; atexit.register(lambda: [job.exception for job in jobs]); cluster.wait()",
    "cancelled": """
cluster.wait()
print(jobs[0].exception)
other = dispy.JobCluster(never)
job = other.submit(1)
waits = other.submit(2), other.submit(3), other.submit(4)
while job.status < dispy.DispyJob.Running:
    pass
other.cancel(job)
other.cancel(waits)
""",
    "terminated": """
cluster.wait()
print(jobs[0].exception)
with dispy.JobCluster(never) as other:
    others = [other.submit(n) for n in range(10)]
    other.close(terminate=True)
""",
}

TOLD: dict[str, tuple[str, str]] = {
    "result": ("print([job.result for job in jobs])", SAID),
    "wait": ("cluster.wait(); print(len(dispy.wait(jobs, return_when=dispy.FIRST_EXCEPTION).done))", SAID),
    "as_completed": ("print([job() for job in dispy.as_completed(jobs)])", SAID),
    "closed": ("cluster.close()", SAID),
    "shut down": ("cluster.shutdown()", SAID),
    "nothing": ("", SAID),
    "repr": ("cluster.wait(); print(jobs, cluster, cluster.status())", SAID),
    "table": ("cluster.wait(); print(jobs[0]._repr_html_(), cluster._repr_html_())", SAID),
    "progress": (
        "print([job.result for job in dispy.progress(jobs, quiet=True)])\n"
        "with dispy.progress(cluster, quiet=True): cluster.wait()",
        SAID,
    ),
    "callback": (
        "cluster.wait(); print(jobs[0].exception)\n"
        "with dispy.JobCluster(compute, job_status=lambda job: print(job.result)) as other: other.submit(7)",
        "dispy: 1 of 1 job of compute failed and nobody looked at why: ValueError: bad 7\n",
    ),
    "several clusters": (
        "for n in range(3):\n    with dispy.JobCluster(compute) as other: other.submit(7)",
        re.sub("3 of 4", "6 of 7", SAID).replace("[123]", "[1237]"),
    ),
    "exit": ("import sys; cluster.wait(); sys.exit(3)", SAID),
    "error": (
        "cluster.wait(); a, b = jobs[0]()",
        r"Traceback (?:.*\n)+TypeError: cannot unpack non-iterable NoneType object\n" + SAID,
    ),
    "logging": (
        "import logging; logging.basicConfig(format='%(levelname)s %(message)s')",
        r"(INFO (node|cluster) .*\n)*"
        r"INFO jobs of cluster compute fail; the first: ValueError: bad [123]\n"
        + re.sub("dispy: ", "WARNING ", SAID),
    ),
}


@pytest.mark.parametrize("body", SILENT.values(), ids=SILENT)
def test_whoever_looks_is_told_nothing(run_program: RunProgram, body: str) -> None:
    program = run_program(HEAD + body)
    assert program.wait(15) == 0, program.stderr
    assert re.fullmatch(NOTICE, program.stderr), program.stderr


@pytest.mark.parametrize(("body", "expected"), TOLD.values(), ids=TOLD)
def test_whoever_does_not_look_is_told(run_program: RunProgram, body: str, expected: str) -> None:
    program = run_program(HEAD + body)
    code = program.wait(15)
    assert code == {"error": 1, "exit": 3}.get(next(name for name in TOLD if TOLD[name][0] == body), 0)
    said = re.sub("^INFO no dispynode", "dispy: no dispynode", program.stderr)
    assert re.fullmatch(NOTICE + expected, said), program.stderr


def test_nobody_reads_what_is_said(run_program: RunProgram) -> None:
    for end in ("sys.stderr.close()", "sys.stderr = None"):
        program = run_program(HEAD + f"cluster.wait(); import sys; {end}")
        assert program.wait(15) == 0, program.stderr
        assert program.stdout == ""


def test_a_lost_node_and_killed_jobs_are_failures(run_program: RunProgram) -> None:
    source = """
import os, signal
import dispy

dispy.config.CancelGrace = 0.5

def die(n):
    os.kill(os.getpid(), signal.SIGKILL)

def host(n):
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGSTOP)

for function in die, host:
    with dispy.JobCluster(function) as cluster:
        job = cluster.submit(1)
"""
    program = run_program(source)
    assert program.wait(20) == 0, program.stderr
    lines = program.stderr.splitlines()
    assert len(lines) == 3, lines
    assert lines[1].startswith(
        "dispy: 1 of 1 job of die failed and nobody looked at why: the job's process ended"
    )
    assert lines[2].startswith("dispy: 1 of 1 job of host failed and nobody looked at why: ")


def test_at_a_prompt(place: Place) -> None:
    """What is closed there is told of at once; the rest when the prompt ends."""
    lines = """
    import dispy
    def compute(n): return 1 / n

    one = dispy.JobCluster(compute)
    jobs = [one.submit(0) for n in range(3)]
    one.close()
    jobs[0]
    print('closed', file=__import__('sys').stderr)
    two = dispy.JobCluster(compute, loglevel=dispy.logger.WARNING)
    job = two.submit(0)
    exit()
    """
    import subprocess

    done = subprocess.run(
        [*PYTHON, "-i", "-q"],
        input="\n".join(line.removeprefix("    ") for line in lines.splitlines()),
        capture_output=True, text=True, env=place.environment, cwd=place.root, timeout=20,
    )  # fmt: skip
    said = re.findall(r"dispy: (?!no dispynode).*|closed", done.stderr)
    assert said == [
        "dispy: 3 of 3 jobs of compute failed and nobody looked at why; the first: "
        "ZeroDivisionError: division by zero",
        "closed",
        "dispy: 1 of 1 job of compute failed and nobody looked at why: ZeroDivisionError: division by zero",
    ], done.stderr
    assert "<DispyJob id=1 status=Terminated: ZeroDivisionError: division by zero>" in done.stdout


WAITING = """
import sys
import dispy

def until(path):
    import os, time
    while not os.path.exists(path):
        time.sleep(0.005)

def other(path):
    return until(path)

cluster = dispy.JobCluster(until)
"""


def test_the_end_of_a_program_says_what_it_waits_for(run_program: RunProgram, gate: Path) -> None:
    source = f"{WAITING}jobs = [cluster.submit({str(gate)!r}) for n in range(4)]\n"
    program = run_program(
        source + f"second = dispy.JobCluster(other)\nothers = second.submit({str(gate)!r})\n"
        f"third = dispy.JobCluster(until)\nresults = third.map([{str(gate)!r}])\n"
    )
    said = r"^dispy: waiting for 4 jobs of until, 1 job of other, a map of until; Ctrl-C cancels them$"
    program.wait_line(said, stream="stderr")
    gate.touch()
    assert program.wait(15) == 0, program.stderr
    assert program.stderr.count("waiting") == 1


def test_interrupt_of_that(run_program: RunProgram, gate: Path) -> None:
    program = run_program(f"{WAITING}jobs = [cluster.submit({str(gate)!r}) for n in range(4)]\n")
    program.wait_line("waiting for 4 jobs of until; Ctrl-C cancels them", stream="stderr")
    program.interrupt_group()
    program.wait(5)
    assert "4 are cancelled" in program.stderr
    assert "failed" not in program.stderr, "they were cancelled"


@pytest.mark.parametrize("end", ["jobs[0]()", "cluster.wait()", "cluster.close()"])
def test_a_quick_end_says_nothing(run_program: RunProgram, gate: Path, end: str) -> None:
    gate.touch()
    program = run_program(f"{WAITING}jobs = [cluster.submit({str(gate)!r}) for n in range(4)]\n{end}")
    assert program.wait(15) == 0
    assert re.fullmatch(NOTICE, program.stderr), program.stderr


# Seen in the program.


def divides(n: int) -> float:
    return 1 / n


def raises(error: BaseException) -> None:
    raise error


def test_get(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(divides)
    assert cluster.submit(4).get() == cluster.submit(4).get(timeout=20) == 0.25
    job = cluster.submit(0)
    with pytest.raises(ZeroDivisionError) as caught:
        job.get()
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in divides" in caught.value.__cause__.text
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.index("in divides") < shown.index("job.get()")
    with pytest.raises(ZeroDivisionError) as again:
        job.get()
    assert len(traceback.extract_tb(again.value.__traceback__)) == 2, "they do not grow"


def test_get_in_time(make_cluster: MakeCluster, gate: Path) -> None:
    cluster = make_cluster(until)
    job = cluster.submit(str(gate))
    with pytest.raises(TimeoutError, match=r"^job \d+ has not ended after 0\.01 s$"):
        job.get(timeout=0.01)
    with pytest.raises(TimeoutError):
        job.get(0)
    with pytest.raises(UsageError, match="timeout"):
        job.get("soon")  # type: ignore[arg-type]
    gate.touch()
    assert job.get(20)


def test_get_of_a_cancelled_job(make_cluster: MakeCluster, gate: Path) -> None:
    cluster = make_cluster(until)
    job = cluster.submit(str(gate))
    cluster.cancel(job)
    with pytest.raises(JobError, match="cancelled"):
        job.get(20)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_get_ends_no_program(make_cluster: MakeCluster, error: BaseException) -> None:
    job = make_cluster(raises).submit(error)
    with pytest.raises(JobError, match=rf"Terminated: {type(error).__name__}") as caught:
        job.get(20)
    assert type(caught.value.__cause__) is type(error)


def test_what_get_raises_keeps_no_job_alive(make_cluster: MakeCluster) -> None:
    """Jobs are not seen by the collector of garbage: a cycle through one would stay for ever."""
    import weakref

    class Id:
        """An id that can be watched."""

    cluster = make_cluster(divides)
    job = cluster.submit_job_id(watched := Id(), 0)
    alive = weakref.ref(watched)
    for _ in range(2):
        try:
            job.get()
        except ZeroDivisionError:
            pass
        with pytest.raises(ZeroDivisionError):
            raise job.error
    del job, watched
    import gc

    wait_for(lambda: [gc.collect(), alive()][1], lambda left: left is None, what="the job is gone")


def test_awaiting_a_job_that_fails(make_cluster: MakeCluster) -> None:
    import asyncio

    cluster = make_cluster(divides)

    async def run() -> None:
        job = cluster.submit(0)
        assert await job is None
        with pytest.raises(ZeroDivisionError):
            job.get()

    asyncio.run(run())


def test_counts(make_cluster: MakeCluster, capsys: Any) -> None:
    cluster = make_cluster(divides)
    for job in [cluster.submit(n) for n in (0, 1, 2, 0)]:
        job()
    with pytest.raises(ZeroDivisionError):
        list(cluster.map([1, 0]))
    cluster.wait()
    (node,) = cluster.status().nodes
    assert node.jobs_failed == 3
    cluster.print_status()
    out = capsys.readouterr().out
    assert re.search(r"^Node +\| CPUs \| Jobs \| Failed \| +Sec/Job \|", out, re.MULTILINE), out
    assert re.search(r"\) *\| +\d+ \| +\d+ \| +3 \|", out), out
    assert "Jobs failed: 3; the first: ZeroDivisionError: division by zero" in out


# Files that are not there.


def reads(path: str) -> str:
    with open(path) as file:
        return file.read()


def prepares(path: str) -> None:
    reads(path)


def nothing() -> None:
    pass


ADVICE = "list it in depends (for a single job in dispy_job_depends)"


def test_a_file_of_the_program(make_cluster: MakeCluster, here: Path) -> None:
    (here / "data.csv").write_text("1,2")
    cluster = make_cluster(reads)
    job = cluster.submit("data.csv")
    with pytest.raises(FileNotFoundError) as caught:
        job.get(20)
    assert ADVICE in job.exception
    assert str(here / "data.csv") in job.exception
    assert any(ADVICE in note for note in caught.value.__notes__)
    assert caught.value.filename == "data.csv"
    with pytest.raises(FileNotFoundError) as caught:
        list(cluster.map(["data.csv"]))
    assert any(ADVICE in note for note in caught.value.__notes__)
    assert cluster.submit("data.csv", dispy_job_depends=["data.csv"]).get(20) == "1,2"
    job = cluster.submit("nowhere.csv")
    job()
    assert "in the working directory of its jobs" in job.exception
    assert "depends" not in job.exception


def test_a_file_for_setup(make_cluster: MakeCluster, here: Path, caplog: Any) -> None:
    (here / "data.csv").write_text("1,2")
    nodes = [dispy.NodeAllocate("*", setup_args=("data.csv",))]
    cluster = make_cluster(nothing, nodes=nodes, setup=prepares)
    job = cluster.submit()
    wait_for(lambda: ADVICE in caplog.text, what="the warning says what to do")
    assert job() is None
    assert ADVICE in job.exception


def test_the_example_of_setup(run_program: RunProgram) -> None:
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "setup.md").read_text()
    (example,) = re.findall(r"```python\n(import .*?)```", text, re.DOTALL)[:1]
    program = run_program(example, warnings=())
    assert program.wait(20) == 0, program.stderr
    assert program.stdout == "[6.0, 22.0, 38.0]\n"


# Where it was.


SOURCES: dict[str, tuple[str, list[str]]] = {
    "script": ("def compute(n):\n    return 1 / n", ["program.py", "return 1 / n"]),
    "module": (
        "import sys; sys.path.insert(0, '.'); import helpful\ndef compute(n):\n    return helpful.divide(n)",
        ["program.py", "return helpful.divide(n)", "helpful.py", "line 3, in divide", "return 1 / n"],
    ),
    "lambda": ("compute = lambda n: 1 / n", ["program.py", "compute = lambda n: 1 / n"]),
    "method": (
        "class Counter:\n    def divide(self, n):\n        return 1 / n\ncompute = Counter().divide",
        ["program.py", "in divide", "return 1 / n"],
    ),
    "cell": (
        "import linecache\ntext = 'def compute(n):\\n    return 1 / n\\n'\nname = '/tmp/ipykernel_1/12.py'\n"
        "linecache.cache[name] = len(text), None, text.splitlines(True), name\n"
        "exec(compile(text, name, 'exec'))",
        ["/tmp/ipykernel_1/12.py", "line 2, in compute", "return 1 / n"],
    ),
}


@pytest.mark.parametrize(("source", "expected"), SOURCES.values(), ids=SOURCES)
def test_tracebacks_name_files_and_show_lines(
    run_program: RunProgram, place: Place, source: str, expected: list[str]
) -> None:
    (place.root / "helpful.py").write_text("# Divides.\ndef divide(n):\n    return 1 / n\n")
    body = "\nwith dispy.JobCluster(compute) as cluster:\n    print(cluster.submit(0).error or '')\n"
    body += "    job = cluster.submit(0); job(); print(job.exception)\n"
    program = run_program(f"import dispy\n{source}{body}")
    assert program.wait(15) == 0, program.stderr
    assert "dynamic-code" not in program.stdout
    for words in [*expected, "~~^~~"]:
        assert words in program.stdout, program.stdout


def test_traceback_of_a_command(place: Place) -> None:
    source = "import dispy\ndef compute(n):\n    return 1 / n\nc = dispy.JobCluster(compute)\njob = c.submit(0)\n"
    program = Program([*PYTHON, "-c", source + "job()\nprint(job.exception)"], place)
    try:
        assert program.wait(15) == 0, program.stderr
        assert 'File "<string>", line 3, in compute' in program.stdout
    finally:
        program.end()
