"""Code that computations and single jobs bring along: ``depends``, ``init_depends``, ``dispy_job_depends``."""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any

import pytest

from dispy import config
from dispy.errors import PicklingError, UsageError

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import wait_for


class Base:
    def __init__(self, value: int = 3) -> None:
        self.value = value

    def doubled(self) -> int:
        return 2 * self.value


class Derived(Base):
    def doubled(self) -> int:
        return super().doubled() + offset


def init_depends() -> None:
    global offset, started_in, maths
    import math as maths

    offset = 100
    started_in = os.getpid()


def triple(x: int) -> int:
    return 3 * x + offset


def look(name: str, *args: Any) -> Any:
    """Calls what is there under a name."""
    return globals()[name](*args)


def use_all(x: int) -> tuple[Any, ...]:
    return Derived(x).doubled(), triple(x), maths.sqrt(4), started_in, os.getppid()


def test_functions_classes_instances_and_partials_are_found_by_name(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    """And ``init_depends`` was called before them, once, in the host, with modules that it does not import."""
    start_node("--cpus", "2")
    depends = [triple, Derived(7), functools.partial(int, "3"), init_depends]
    cluster = make_cluster(use_all, depends=depends)
    found = [cluster.submit(n)() for n in range(6)]
    assert [value[:3] for value in found] == [(2 * n + 100, 3 * n + 100, 2.0) for n in range(6)]
    assert len({value[3:] for value in found}) == 1
    assert found[0][3] == found[0][4]


def fail_first() -> None:
    raise LookupError("nothing to begin with")


def test_a_node_where_it_fails_is_not_used(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "1")
    broken = fail_first
    broken.__name__ = "init_depends"
    job = make_cluster(look, depends=[broken]).submit("abs", 1)
    assert job.wait(20)
    assert job.status == job.Terminated
    assert "LookupError: nothing to begin with" in job.exception


def first(x: int) -> tuple[str, int, int]:
    return "first", x + shared, os.getpid()


def second(x: int) -> tuple[str, int, int]:
    helped = Base(x).doubled()
    return "second", helped + shared, os.getpid()


def prepare() -> None:
    global shared
    shared = 1000


def names() -> list[str]:
    return [name for name in ("first", "second", "Base", "offset") if name in globals()]


def test_code_of_a_job_is_there_for_that_job_only(make_cluster: MakeCluster, start_node: StartNode) -> None:
    """In the namespace of the computation, in a process of its own, before and after jobs without."""
    start_node("--cpus", "1")
    cluster = make_cluster(look, setup=prepare, depends=[names])
    jobs = []
    for n in range(4):
        jobs.append(cluster.submit("names"))
        depends = [first] if n % 2 else [second, Base, init_depends]
        jobs.append(cluster.submit(("second", "first")[n % 2], n, dispy_job_depends=depends))
    found = [job() for job in jobs]
    assert all(job.status == job.Finished for job in jobs), [job.exception for job in jobs]
    assert found[::2] == [[]] * 4
    assert [value[:2] for value in found[1::2]] == [
        ("second", 1000), ("first", 1001), ("second", 1004), ("first", 1003)
    ]  # fmt: skip
    assert len({pid for *_, pid in found[1::2]}) == 4
    missing = cluster.submit("first", 1)
    assert missing() is None
    assert "KeyError: 'first'" in missing.exception


def measure(data: Any, ref: Any, thing: Any) -> tuple[int, int, int]:
    return len(data), sum(ref), thing.doubled()


def shout() -> None:
    print("heard")


def make(value: int) -> Any:
    return Base(value)


def test_large_arguments_references_ids_and_results_of_such_jobs(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster(look)
    ref = cluster.put([1, 2, 3])
    for size in (10, 1_000_000):
        job = cluster.submit_job_id(
            ("an", "id"), "measure", bytes(size), ref, Base(4), dispy_job_depends=[measure]
        )
        assert (job(), job.id) == ((size, 6, 8), ("an", "id")), job.exception
    job = cluster.submit("make", 5, dispy_job_depends=(make, Base))
    assert isinstance(job(), Base)
    job = cluster.submit("shout", dispy_job_depends=[shout])
    assert (job(), job.stdout) == (None, "heard\n")


def end_here(number: int) -> None:
    os.kill(os.getpid(), number)


def sleep_on() -> None:
    import time

    dispy_provisional_result("begun")
    time.sleep(1000)


def test_such_jobs_die_and_are_cancelled_as_others(
    make_cluster: MakeCluster, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "CancelGrace", 5)
    start_node("--cpus", "1")
    cluster = make_cluster(look)
    dead = cluster.submit("end_here", 9, dispy_job_depends=[end_here])
    dead.wait(20)
    assert "SIGKILL" in dead.exception
    slow = cluster.submit("sleep_on", dispy_job_depends=[sleep_on])
    wait_for(lambda: slow.result, what="it runs")
    cluster.cancel(slow)
    assert slow.wait(20)
    assert (slow.status, slow.exception) == (slow.Terminated, "cancelled")


def test_what_cannot_be_brought(
    make_cluster: MakeCluster, start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster(look)
    job = cluster.submit("first", 1, dispy_job_depends=[7, first, None])
    assert job.wait(20)
    assert "NameError: name 'shared'" in job.exception
    assert caplog.text.count("it is left out") == 2
    with pytest.raises(UsageError, match="dispy_job_depends must be a list, not function"):
        cluster.submit("first", 1, dispy_job_depends=first)
    with pytest.raises(UsageError, match="file 'file' cannot be sent"):
        cluster.submit("first", 1, dispy_job_depends=["file"])
    held = os.scandir(".")

    def refuse() -> Any:
        return held

    with pytest.raises(PicklingError, match=r"dispy_job_depends cannot be sent: .*'held'"):
        cluster.submit("first", 1, dispy_job_depends=[refuse])
    with pytest.raises(PicklingError, match="argument 2"):
        cluster.submit("first", held, dispy_job_depends=[first])
    held.close()
    program = make_cluster("/bin/echo")
    echo = program.submit("x", dispy_job_depends=[first])
    assert (echo(), echo.stdout) == (0, b"x\n")
    assert "/bin/echo is a program, and finds no functions" in caplog.text


DELEGATE = """
import dispy

def delegate(function_name, *args):
    return globals()[function_name](*args)

def add(a, b):
    return dispy_node_name, a + b

def multiply(a, b):
    import math
    return dispy_node_name, math.prod((a, b))

if __name__ == "__main__":
    cluster = dispy.JobCluster(delegate)
    jobs = [
        cluster.submit(function.__name__, n, 10, dispy_job_depends=[function])
        for n in range(4) for function in (add, multiply)
    ]
    print([job()[1] for job in jobs])
    print(cluster.submit("add", 1, 2)())
"""


def test_a_program_in_one_file(run_program: RunProgram, start_node: StartNode) -> None:
    start_node("--cpus", "1")
    program = run_program(DELEGATE)
    assert program.wait(20) == 0, program.stderr
    assert program.stdout.splitlines() == [
        str([value for n in range(4) for value in (n + 10, 10 * n)]),
        "None",
    ]


@pytest.mark.parametrize("where", ["job", "map", "setup"])
def test_a_module_that_the_node_does_not_have_is_named_with_what_to_do(
    make_cluster: MakeCluster, start_node: StartNode, where: str
) -> None:
    node = start_node("--cpus", "1")

    def use(n: int) -> None:
        importlib.import_module("not_there.inside")

    advice = f"node {node.name} has no module 'not_there': list it in depends, or install it there"
    if where == "map":
        with pytest.raises(ModuleNotFoundError) as caught:
            list(make_cluster(use).map([1]))
        assert any(advice in note for note in caught.value.__notes__)
    else:
        cluster = make_cluster(use, setup=(lambda: use(1)) if where == "setup" else None)
        job = cluster.submit(1)
        assert job() is None
        assert "No module named 'not_there'" in job.exception
        assert advice in job.exception
