"""What a job finds where it runs: names, modules, directory, helper modules, provisional results."""

from __future__ import annotations

import inspect
import logging
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import dispy

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import SOON_S, Place, wait_for


def documented_names() -> tuple[str, str, str, Any]:
    return dispy_node_name, dispy_node_ip_addr, dispy_job_path, dispy_job_id


def test_documented_names(make_cluster: MakeCluster, start_node: StartNode, place: Place) -> None:
    node = start_node("--name", "machine 7")
    cluster = make_cluster(documented_names)
    name, address, path, number = cluster.submit_job_id("mine")()
    assert (name, address, number) == ("machine 7", "127.0.0.1", "mine")
    assert path.startswith(str(place.temporary)), path
    assert node.name == "machine 7"


@pytest.mark.usefixtures("a_node")
def test_documented_names_in_functions_that_were_sent_along(make_cluster: MakeCluster) -> None:
    def outer() -> tuple[Any, ...]:
        return globals()["documented_names"]()

    assert make_cluster(outer, depends=[documented_names]).submit_job_id(3)()[3] == 3


@pytest.mark.usefixtures("a_node")
def test_job_id_follows_the_job(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(lambda: dispy_job_id)
    jobs = [cluster.submit() for _ in range(100)]
    assert [job() for job in jobs] == [job.id for job in jobs]
    for job_id in (0, "", "text", (1, "x"), 10**30, -1, False):
        job = cluster.submit_job_id(job_id)
        result = job()
        assert (result, type(result)) == (job_id, type(job_id)), job.exception


def standard_modules() -> list[str]:
    return [
        module.__name__
        for module in (
            os, sys, time, stat, socket, multiprocessing, threading, subprocess, traceback, marshal, tempfile,
            shutil, glob, pickle, io, signal, platform, copy, struct, hashlib, re, errno, argparse,
        )
    ]  # fmt: skip


def test_standard_modules_are_there_without_import(run_program: RunProgram) -> None:
    """From a module that does not import them itself."""
    source = inspect.getsource(standard_modules)
    program = run_program(
        f"import dispy\n{source}\nif __name__ == '__main__':\n"
        "    job = dispy.JobCluster(standard_modules).submit()\n    print(*job() or [job.exception])\n"
    )
    assert program.wait(15) == 0, program.stderr
    assert program.stdout.split() == [
        "os", "sys", "time", "stat", "socket", "multiprocessing", "threading", "subprocess", "traceback", "marshal",
        "tempfile", "shutil", "glob", "pickle", "io", "signal", "platform", "copy", "struct", "hashlib", "re",
        "errno", "argparse",
    ]  # fmt: skip


@pytest.mark.usefixtures("a_node")
def test_own_names_win_over_standard_modules(make_cluster: MakeCluster) -> None:
    assert make_cluster(shadowing).submit()() == "mine"


def shadowing() -> str:
    return copy


copy = "mine"


@pytest.mark.usefixtures("a_node")
def test_working_directory(make_cluster: MakeCluster, place: Place) -> None:
    """Its own, below the node's, first on the path, shared by the jobs of a computation, gone afterwards."""

    def look(name: str) -> tuple[str, str, list[str], str]:
        Path(name).write_text("x")
        return os.getcwd(), dispy_job_path, sorted(os.listdir(".")), sys.path[0]

    cluster = make_cluster(look)
    first, second = cluster.submit("a")(), cluster.submit("b")()
    directory = first[0]
    assert directory == first[1] == second[0] == first[3]
    assert second[2] == ["a", "b"]
    assert directory.startswith(str(place.temporary))
    assert make_cluster(look).submit("c")()[2] == ["c"], "two computations share a directory"
    cluster.close()
    wait_for(lambda: os.path.exists(directory), lambda exists: not exists, what="the directory is removed")


def test_secrets_are_not_passed_on(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--secret", "open sesame", "--name", "guarded")
    cluster = make_cluster(lambda: (dict(os.environ), dispy_node_name), secret="open sesame")
    environment, name = cluster.submit()()
    assert name == "guarded"
    assert "sesame" not in str(environment)


def test_logger_of_the_node(make_cluster: MakeCluster, start_node: StartNode) -> None:
    node = start_node()
    cluster = make_cluster(lambda: dispynode_logger.warning("from job %s", dispy_job_id))
    job = cluster.submit_job_id("seven")
    job()
    assert job.exception is None, job.exception
    node.wait_line("from job seven", stream="stderr")
    assert (job.stdout, job.stderr) == ("", "")


# Helper modules.


HELPER = """
import dispy_sibling_other as other
LIMIT = 5

class Thing:
    def __init__(self, n):
        self.n = n
    def value(self):
        return other.double(self.n) + LIMIT

def help(n):
    return Thing(n)
"""

PACKAGE = {
    "dispy_sibling.py": HELPER,
    "dispy_sibling_other.py": "def double(n):\n    return base(n) * 2\n\n\ndef base(n):\n    return n\n",
    "dispy_package/__init__.py": "from dispy_package.inner import deep\n",
    "dispy_package/inner.py": "import os\nWHERE = 'inner'\n\n\ndef deep(n):\n    return [WHERE, n, os.sep]\n",
}


@pytest.mark.parametrize(
    "how",
    [
        "import dispy_sibling\n\n\ndef compute(n):\n    return dispy_sibling.help(n).value()\n",
        "from dispy_sibling import Thing, help as h\n\n\ndef compute(n):\n    return h(n).value()\n",
        "import dispy_sibling as s\nclass C(s.Thing):\n    pass\n\n\ndef compute(n):\n    return C(n).value()\n",
        "from dispy_sibling import Thing\n\n\ndef compute(n):\n"
        "    return (n if type(n) is Thing else Thing(n)).value()\n",
    ],
    ids=["module", "names", "base class", "class"],
)
def test_helper_modules_beside_the_program(run_program: RunProgram, place: Place, how: str) -> None:
    write_package(place)
    program = run_program(
        "import dispy\nimport dispy_sibling\n" + how + "\n\nif __name__ == '__main__':\n"
        "    cluster = dispy.JobCluster(compute)\n"
        "    job = cluster.submit(2)\n    print(job(), job.exception)\n"
        + ("    print(cluster.submit(dispy_sibling.Thing(3))())\n" if "type(n)" in how else "")
    )
    assert program.wait(15) == 0, program.stderr
    assert program.stdout.splitlines()[0] == "9 None"
    assert program.stdout.splitlines()[1:] in ([], ["11"])


def test_package_beside_the_program(run_program: RunProgram, place: Place) -> None:
    write_package(place)
    program = run_program("""
import dispy
import dispy_package.inner


def compute(n):
    return dispy_package.inner.deep(n), dispy_package.deep(n + 1)


if __name__ == '__main__':
    job = dispy.JobCluster(compute).submit(1)
    print(job(), job.exception)
""")
    assert program.wait(15) == 0, program.stderr
    assert program.stdout.strip() == "(['inner', 1, '/'], ['inner', 2, '/']) None"


def test_result_of_a_class_in_a_helper_module_is_that_class(run_program: RunProgram, place: Place) -> None:
    write_package(place)
    program = run_program("""
import dispy, dispy_sibling

if __name__ == '__main__':
    job = dispy.JobCluster(dispy_sibling.help).submit(4)
    print(type(job()) is dispy_sibling.Thing, job.exception)
""")
    assert program.wait(15) == 0, program.stderr
    assert program.stdout.strip() == "True None"


def write_package(place: Place) -> None:
    for name, text in PACKAGE.items():
        path = place.root / "programs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# Provisional results.


def report(values: list[Any]) -> list[Any]:
    return [dispy_provisional_result(value) for value in values]


@pytest.mark.usefixtures("a_node")
def test_provisional_results_arrive_in_order_before_the_final_one(make_cluster: MakeCluster) -> None:
    seen: list[tuple[int, int, Any, bool]] = []

    def on_status(job: dispy.DispyJob) -> None:
        seen.append((job.id, job.status, job.result, job.finish.is_set()))

    cluster = make_cluster(report, job_status=on_status)
    values = [[1, 2, 3], "x" * 200_000, {"a": (1,)}, None]
    jobs = [cluster.submit_job_id(n, [*values, n]) for n in range(4)]
    for job in jobs:
        assert job() == [0] * 5, job.exception
        assert job.status == dispy.DispyJob.Finished
    cluster.shutdown()
    for n in range(4):
        mine = [item for item in seen if item[0] == n]
        assert [status for _, status, _, _ in mine] == [dispy.DispyJob.ProvisionalResult] * 5 + [
            dispy.DispyJob.Finished
        ]
        assert [result for _, _, result, _ in mine] == [*values, n, [0] * 5]
        assert mine[-1][3], "finish is not set before the callback"


@pytest.mark.usefixtures("a_node")
def test_many_provisional_results(make_cluster: MakeCluster) -> None:
    seen = []
    cluster = make_cluster(report, job_status=lambda job: seen.append(job.result))
    assert cluster.submit(list(range(1000)))() == [0] * 1000
    cluster.shutdown()
    assert seen[:-1] == list(range(1000))


@pytest.mark.usefixtures("a_node")
def test_provisional_result_is_seen_on_the_job_and_wakes_nobody(
    make_cluster: MakeCluster, place: Place
) -> None:
    def compute(gate: str) -> str:
        dispy_provisional_result("first")
        while not os.path.exists(gate):
            time.sleep(0.005)
        return "last"

    gate = place.root / "gate"
    cluster = make_cluster(compute)
    job = cluster.submit(str(gate))
    wait_for(
        lambda: (job.status, job.result), lambda seen: seen == (7, "first"), what="the provisional result"
    )
    assert not job.finish.is_set()
    assert not job.wait(0.05)
    assert job.ip_addr == "127.0.0.1"
    gate.touch()
    assert job() == "last"
    assert job.status == dispy.DispyJob.Finished


@pytest.mark.usefixtures("a_node")
def test_provisional_results_of_the_programs_classes(make_cluster: MakeCluster) -> None:
    class Best:
        def __init__(self, n: int) -> None:
            self.n = n

    def compute() -> Any:
        for n in range(5):
            dispy_provisional_result(Best(n))
        return Best(5)

    seen: list[Any] = []
    cluster = make_cluster(compute, job_status=lambda job: seen.append(job.result))
    assert cluster.submit()().n == 5
    cluster.shutdown()
    assert [item.n for item in seen] == [0, 1, 2, 3, 4, 5]
    assert all(type(item) is Best for item in seen)


@pytest.mark.usefixtures("a_node")
def test_provisional_results_from_threads(make_cluster: MakeCluster) -> None:
    def compute() -> list[int]:
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda n=n: answers.append(dispy_provisional_result(n)))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    seen: list[Any] = []
    cluster = make_cluster(compute, job_status=lambda job: seen.append(job.result))
    job = cluster.submit()
    assert job() == [0] * 8, job.exception
    cluster.shutdown()
    assert sorted(seen[:-1]) == list(range(8))


@pytest.mark.usefixtures("a_node")
def test_provisional_result_that_cannot_be_sent(make_cluster: MakeCluster) -> None:
    def compute() -> str:
        try:
            dispy_provisional_result(threading.Lock())
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "no error"

    job = make_cluster(compute).submit()
    assert re.search("(?i)lock", job()), job.result


@pytest.mark.usefixtures("a_node")
def test_provisional_result_that_cannot_be_rebuilt_stops_nothing(
    make_cluster: MakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad:
        def __reduce__(self) -> Any:
            return int, ("not a number",)

    def compute() -> int:
        dispy_provisional_result(Bad())
        dispy_provisional_result(1)
        return 2

    seen: list[Any] = []
    cluster = make_cluster(compute, job_status=lambda job: seen.append(job.result))
    with caplog.at_level(logging.WARNING, "dispy"):
        job = cluster.submit()
        assert job.wait(5), "the job does not end"
        assert job.result == 2
    cluster.shutdown()
    assert seen == [1, 2]
    assert "not a number" in caplog.text


def send_timed(gate: str, given: tuple[Any, ...]) -> tuple[int, float]:
    while not os.path.exists(gate):
        time.sleep(0.005)
    started = time.monotonic()
    returned = dispy_provisional_result("x", *given)
    took_s = time.monotonic() - started
    open(gate + ".sent", "w").close()
    return returned, took_s


@pytest.mark.usefixtures("a_node")
@pytest.mark.parametrize(("given", "default_s", "least"), [((), 0.2, 0.19), ((False, 0.05), 60, 0.04)])
def test_a_provisional_result_waits_as_long_as_the_program_says(
    make_cluster: MakeCluster,
    gate: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: Any,
    default_s: float,
    least: float,
) -> None:
    """``config.MsgTimeout`` of the program is what jobs wait by default for a client that does not answer."""
    monkeypatch.setattr(dispy.config, "MsgTimeout", default_s)
    cluster = make_cluster(send_timed)
    job = cluster.submit(str(gate), given)
    wait_for(lambda: job.status, lambda status: status == dispy.DispyJob.Running, what="the job runs")
    stands_still, goes_on = threading.Event(), threading.Event()
    cluster._session.engine.post(stands_still.set)
    cluster._session.engine.post(goes_on.wait, SOON_S)
    stands_still.wait()
    gate.touch()
    try:
        wait_for(gate.with_name("gate.sent").exists, what="the job does not wait any more")
    finally:
        goes_on.set()
    returned, took_s = job()
    assert returned == -1
    assert took_s >= least
