"""``results="plain"``: whatever a node sends in the place of data, nothing of it runs in the program.

Jobs are the hostile node: what they return, raise and print, and what their workers pickle, is theirs to choose.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy.errors import JobError, NotPlainError, UsageError

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import Place, wait_for

FINISHED, TERMINATED = dispy.DispyJob.Finished, dispy.DispyJob.Terminated
PROVISIONAL = dispy.DispyJob.ProvisionalResult


def code(path: str) -> str:
    """What makes a directory in a program, and nothing on a node, which unpickles exceptions to see that it can."""
    return f"'DISPY_NODE' in __import__('os').environ or __import__('os').mkdir({path!r})"


class Bomb:
    """Unpickled, it makes a directory."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return eval, (code(self.path),)


class Burst(Exception):
    """An exception whose pickle makes a directory."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __reduce__(self) -> Any:
        return eval, (code(self.path),)


def crafted(path: str) -> Callable[..., bytes]:
    """A pickler that knows only one pickle, of an old protocol."""
    return lambda *_: f"cbuiltins\neval\n(V{code(path)}\ntR.".encode()


def throw(path: str, how: str) -> Any:
    """Return a bomb in one way or another."""
    bomb = Bomb(path)
    if how == "nested":
        return [1, {"a": (bomb,)}]
    if how == "array":
        import numpy

        return numpy.array([bomb, 1], object)
    if how == "beside":
        return [bomb, bytearray(200_000)]
    if how == "crafted":
        import dispy.payload

        dispy.payload.dump = crafted(path)  # type: ignore[assignment]
    if how == "raised":
        raise ValueError(bomb)
    if how == "burst":
        raise Burst(path)
    if how == "crafted raised":
        import dispy.payload

        dispy.payload.dump_exception = crafted(path)
        raise KeyError(1)
    if how == "cause":
        error = KeyError("k")
        error.add_note("note")
        error.extra = bomb  # type: ignore[attr-defined]
        raise error
    if how == "provisional":
        dispy_provisional_result(bomb)  # type: ignore[name-defined]
        return "done"
    return bomb


@pytest.fixture
def trace(place: Place) -> Path:
    """Made by a bomb that goes off."""
    return place.root / "trace"


@pytest.mark.parametrize("how", ["bare", "nested", "array", "beside", "crafted"])
@pytest.mark.parametrize("isolate", [False, True])
def test_results(
    make_cluster: MakeCluster, start_node: StartNode, trace: Path, how: str, isolate: bool
) -> None:
    start_node()
    ended = []
    cluster = make_cluster(throw, results="plain", isolate=isolate, job_status=ended.append)
    job = cluster.submit(str(trace), how)
    with pytest.raises(
        JobError, match=r"the job's result is not taken: .* is not plain data, .*results=\"plain\""
    ):
        job.get(20)
    assert job.status == TERMINATED
    assert job.result is None
    assert cluster.wait()
    assert ended == [job]
    assert not trace.exists()


@pytest.mark.parametrize("how", ["bare", "crafted"])
def test_without_it_they_run(make_cluster: MakeCluster, trace: Path, how: str) -> None:
    """So these are attacks."""
    make_cluster(throw).submit(str(trace), how).get(20)
    assert trace.exists()


@pytest.mark.parametrize("how", ["raised", "burst", "crafted raised", "cause"])
def test_exceptions(make_cluster: MakeCluster, trace: Path, how: str) -> None:
    job = make_cluster(throw, results="plain").submit(str(trace), how)
    assert job.wait(20)
    assert isinstance(job.error, JobError)
    assert "Traceback" in str(job.error)
    assert job.exception in str(job.error)
    with pytest.raises(JobError):
        job.get()
    assert not trace.exists()


def divide(number: int) -> float:
    return 1 / number


def test_errors_of_python_are_raised_as_usual(make_cluster: MakeCluster) -> None:
    job = make_cluster(divide, results="plain").submit(0)
    with pytest.raises(ZeroDivisionError) as caught:
        job.get(20)
    assert "divide" in str(caught.value.__cause__)


def test_provisional_results(
    make_cluster: MakeCluster, trace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []
    cluster = make_cluster(
        throw, results="plain", job_status=lambda job: seen.append((job.status, job.result))
    )
    with caplog.at_level(logging.WARNING):
        assert cluster.submit(str(trace), "provisional").get(20) == "done"
        assert cluster.wait()
    assert seen == [(FINISHED, "done")]
    assert "a provisional result of job" in caplog.text
    assert "builtins.eval is not plain data" in caplog.text
    assert not trace.exists()


def values(size: int) -> Any:
    import datetime

    import numpy

    dispy_provisional_result({"array": numpy.arange(size)})  # type: ignore[name-defined]
    return [numpy.arange(size), datetime.date(2026, 11, 30), {"a": {1.5, None}}, 1j, b"x" * size]


@pytest.mark.parametrize("size", [3, 300_000])
def test_plain_values_come_whole(make_cluster: MakeCluster, start_node: StartNode, size: int) -> None:
    start_node()
    provisional = []
    cluster = make_cluster(
        values,
        results="plain",
        job_status=lambda job: provisional.append(job.result) if job.status == PROVISIONAL else None,
    )
    array, date, rest, number, data = cluster.submit(size).get(20)
    assert array.tolist() == list(range(size))
    assert (date.isoformat(), rest, number, data) == ("2026-11-30", {"a": {1.5, None}}, 1j, b"x" * size)
    assert cluster.wait()
    assert provisional[0]["array"].tolist() == list(range(size))
    # The memory of arrays is shared with the node, and the cluster keeps the list.
    provisional.clear()


# Maps.


def one_of(path: str) -> Any:
    """For a map: the items are paths, or how a bomb is thrown and where."""
    how, _, where = path.partition(":")
    return throw(where, how) if where else len(path)


@pytest.mark.parametrize("how", ["bare", "nested", "crafted", "raised", "burst", "crafted raised"])
@pytest.mark.parametrize("keeps", [False, True])
def test_maps(make_cluster: MakeCluster, trace: Path, how: str, keeps: bool) -> None:
    cluster = make_cluster(one_of, results="plain")
    items = ["a", "bb", f"{how}:{trace}", "dddd"]
    found: list[Any] = []
    try:
        found += cluster.map(items, return_exceptions=keeps, chunksize=2, timeout=20)
    except JobError as error:
        found.append(error)
    assert any(isinstance(item, JobError) for item in found), found
    if keeps:
        assert len(found) == 4
    assert found[:2] == [1, 2]
    assert not trace.exists()


def test_a_map_of_plain_values(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(divide, results="plain")
    assert list(cluster.map(range(1, 1000))) == [1 / number for number in range(1, 1000)]
    found = list(cluster.map([1, 0, 2], return_exceptions=True))
    assert [type(item) for item in found] == [float, ZeroDivisionError, float]
    with pytest.raises(ZeroDivisionError):
        list(cluster.map([1, 2, 0, 4], chunksize=3))


# Files.


def send(name: str) -> int:
    with open(name, "w") as file:
        file.write("print('runs when it is imported')")
    return int(dispy_send_file(name))  # type: ignore[name-defined]


def test_files_of_jobs_are_refused(
    make_cluster: MakeCluster, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They may be code that the program imports next."""
    with caplog.at_level(logging.WARNING):
        assert make_cluster(send, results="plain").submit("json.py").get(20) == -1
    assert "file json.py of a job of cluster send is refused" in caplog.text
    assert list(here.iterdir()) == []


# Recovery.

DYING = """
import os, signal, sys, time
import dispy

dispy.config.LocalNode = False


def throw(path, gate, how):
    import os, time

    code = f"'DISPY_NODE' in __import__('os').environ or __import__('os').mkdir({path!r})"

    class Bomb:
        def __reduce__(self):
            return eval, (code,)

    class Burst(Exception):
        def __reduce__(self):
            return eval, (code,)

    open(gate + how, 'w').close()
    while not os.path.exists(gate):
        time.sleep(0.005)
    if how == 'crafted':
        import dispy.payload
        import dispy.worker.results
        dispy.payload.dump = lambda value, known=None: f"cbuiltins\\neval\\n(V{code}\\ntR.".encode()
    if how == 'burst':
        raise Burst()
    return {'plain': 'good', 'crafted': 1}.get(how) or [Bomb()]


trace, gate, ways, options = sys.argv[1], sys.argv[2], sys.argv[3].split(), eval(sys.argv[4])
cluster = dispy.JobCluster(throw, **options)
jobs = [cluster.submit_job_id(f'id {how}', trace, gate, how) for how in ways]
while not all(os.path.exists(gate + how) for how in ways):
    time.sleep(0.005)
os.kill(os.getpid(), signal.SIGKILL)
"""

WAYS = "plain nested crafted burst"


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("said_by", ["cluster", "recovery"])
def test_recovery(
    start_node: StartNode,
    run_program: RunProgram,
    place: Place,
    trace: Path,
    durable: bool,
    said_by: str,
) -> None:
    start_node("--cpus", "2")
    start_node("--cpus", "2")
    gate = place.root / "gate"
    options: dict[str, Any] = {"durable": durable}
    if said_by == "cluster":
        options["results"] = "plain"
    program = run_program(DYING, str(trace), str(gate), WAYS, repr(options))
    assert program.wait(20) == -signal.SIGKILL, program.stderr
    gate.touch()
    how = {} if said_by == "cluster" else {"results": "plain"}
    jobs = dispy.recover_jobs(timeout=20, **how)
    assert len(jobs) == 4
    (good,) = [job for job in jobs if job.status == FINISHED]
    assert (good.result, good.id) == ("good", "id plain")
    bad = [job for job in jobs if job.status == TERMINATED]
    assert len(bad) == 3
    assert sum("is not taken" in job.exception for job in bad) == 2
    for job in bad:
        assert isinstance(job.error, JobError)
        assert job.result is None
    assert not trace.exists()
    assert dispy.recover_jobs() == [], "nothing is left"


# The option.


@pytest.mark.parametrize("value", ["Plain", None, True, ""])
def test_other_values_are_refused(make_cluster: MakeCluster, value: Any) -> None:
    with pytest.raises(UsageError, match="results must be 'any' or 'plain'"):
        make_cluster(divide, results=value)
    if value is not None:
        with pytest.raises(UsageError, match="results must be 'any' or 'plain'"):
            dispy.recover_jobs(results=value)


def test_several_clusters_of_a_program_differ(make_cluster: MakeCluster, trace: Path) -> None:
    plain, other = make_cluster(throw, results="plain"), make_cluster(throw)
    refused = plain.submit(str(trace), "bare")
    with pytest.raises(JobError):
        refused.get(20)
    assert not trace.exists()
    other.submit(str(trace), "bare").get(20)
    wait_for(trace.exists, what="the other one trusts its nodes")
    assert issubclass(NotPlainError, dispy.DispyError)
