"""Two clusters of one program, whose jobs have the same numbers: nothing of one's jobs goes to those of the other."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy import config
from dispy.client.session import received_files

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import Node, Place, wait_for
from .recovering import journals, wait_journal

COUNT = 6
"""Jobs of each cluster."""


def both(make: MakeCluster, *functions: Callable[..., Any], **options: Any) -> list[dispy.JobCluster]:
    return [make(function, **options) for function in functions]


def check_numbers(*jobs: list[dispy.DispyJob]) -> None:
    """The jobs of each cluster are numbered from 1, and no two of the program have the same id."""
    for each in jobs:
        assert [job.number for job in each] == list(range(1, len(each) + 1))
    assert len({job.id for each in jobs for job in each}) == sum(map(len, jobs))


def tell(word: str, size: int) -> tuple[str, bytes, int, int]:
    dispy_provisional_result((word, word.encode() * size))
    print("printed by", word)
    return word, word.encode() * size, dispy_job_id, dispy_job_seed()


def tell_too(word: str, size: int) -> tuple[str, bytes, int, int]:
    return tell(word, size)


@pytest.mark.parametrize("size", [1, 1 << 21], ids=["small", "large"])
def test_results_values_ids_and_seeds(make_cluster: MakeCluster, a_node: Node, size: int) -> None:
    """Large ones pass through shared memory, and so do large arguments."""
    values: list[tuple[int, str, int]] = []

    def on_job(job: dispy.DispyJob) -> None:
        if job.status == job.ProvisionalResult:
            values.append((job.id, job.result[0], len(job.result[1])))

    clusters = both(make_cluster, tell, tell_too, seed=7, job_status=on_job)
    jobs: list[list[dispy.DispyJob]] = [[], []]
    for n in range(COUNT):
        for which, cluster in enumerate(clusters):
            jobs[which].append(cluster.submit(f"{'ab'[which]}{n}", size))
    check_numbers(*jobs)
    seeds = []
    for which, mine in enumerate(jobs):
        told = [job() for job in mine]
        words = [f"{'ab'[which]}{n}" for n in range(COUNT)]
        assert [(word, data) for word, data, _, _ in told] == [(w, w.encode() * size) for w in words]
        assert [number for _, _, number, _ in told] == [job.id for job in mine]
        assert [job.stdout for job in mine] == [f"printed by {word}\n" for word in words]
        seeds.append([seed for _, _, _, seed in told])
    assert seeds[0] == seeds[1], (
        "a seed depends on the place of the job in its cluster, and on nothing else"
    )
    for cluster in clusters:
        cluster.wait()
    assert sorted(values) == sorted(
        (job.id, f"{'ab'[which]}{n}", 2 * size) for which in (0, 1) for n, job in enumerate(jobs[which])
    )


def measure(data: bytes) -> bytes:
    return data[:1] + str(len(data)).encode()


def test_large_arguments_and_maps(make_cluster: MakeCluster, a_node: Node) -> None:
    first, second = both(make_cluster, measure, measure)
    jobs = [
        [cluster.submit(word * (1 << 20)) for _ in range(3)]
        for cluster, word in ((first, b"a"), (second, b"b"))
    ]
    maps = [
        cluster.map([word * n for n in range(1, 200)]) for cluster, word in ((first, b"c"), (second, b"d"))
    ]
    check_numbers(*jobs)
    for mine, word in zip(jobs, (b"a", b"b"), strict=True):
        assert [job() for job in mine] == [word + b"1048576"] * 3
    for results, word in zip(maps, (b"c", b"d"), strict=True):
        assert list(results) == [word + str(n).encode() for n in range(1, 200)]


def send(word: str) -> str:
    with open("brought") as file:
        content = file.read()
    with open(f"sent-{word}", "w") as file:
        file.write(f"{word} {content}")
    dispy_send_file(f"sent-{word}")
    return content


def test_files_of_jobs(
    make_cluster: MakeCluster, a_node: Node, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs bring files of one name and different content, and send some."""
    monkeypatch.setattr(received_files, "_root", str(here))
    clusters = both(make_cluster, send, send)
    jobs: list[list[dispy.DispyJob]] = [[], []]
    for n in range(COUNT):
        for which, cluster in enumerate(clusters):
            (here / "brought").write_text(f"file {which} {n}")
            jobs[which].append(cluster.submit(f"{which}-{n}", dispy_job_depends=["brought"]))
            jobs[which][-1].wait()
    check_numbers(*jobs)
    for which in (0, 1):
        for n, job in enumerate(jobs[which]):
            assert job() == f"file {which} {n}"
            assert (here / f"sent-{which}-{n}").read_text() == f"{which}-{n} file {which} {n}"


def wait_gate(gate: str, word: str) -> str:
    import time

    dispy_provisional_result("runs")
    while not os.path.exists(gate):
        time.sleep(0.005)
    return word


def test_a_cancelled_job_is_that_of_its_cluster(
    make_cluster: MakeCluster, start_node: StartNode, gate: Path
) -> None:
    """Running or waiting: the one with the same number goes on."""
    for name in ("one", "two"):
        start_node("--cpus", "2", "--name", name)
    first, second = both(make_cluster, wait_gate, wait_gate)
    jobs: list[list[dispy.DispyJob]] = [[], []]
    for n in range(COUNT):
        for which, cluster in enumerate((first, second)):
            job = cluster.submit(str(gate), f"{'ab'[which]}{n}")
            jobs[which].append(job)
            if n == 0:  # before the CPUs are all taken by the other cluster
                wait_for(lambda job=job: job.result == "runs", what="the first job runs")  # type: ignore[misc]
    check_numbers(*jobs)
    assert second.cancel(jobs[0][0]) == -1
    assert first.cancel(jobs[0][0]) == 0
    assert first.cancel(jobs[0][-1]) == 0
    for job in (jobs[0][0], jobs[0][-1]):
        assert job.wait(5)
        assert job.status in (job.Cancelled, job.Terminated)
        assert "cancelled" in job.exception
    assert not jobs[1][0].wait(0.05)
    gate.touch()
    assert [job() for job in jobs[1]] == [f"b{n}" for n in range(COUNT)]
    assert [job() for job in jobs[0][1:-1]] == [f"a{n}" for n in range(1, COUNT - 1)]


DYING = """
import os, sys, time
import dispy
dispy.config.LocalNode = False
gate, is_durable, count = sys.argv[1], sys.argv[2] == "True", int(sys.argv[3])


def run(gate, word):
    import os, time
    with open(f"{gate}-{word}", "a") as file:
        file.write("run")
    while not os.path.exists(gate):
        time.sleep(0.005)
    return word, word.encode() * 50_000


def run_too(gate, word):
    return run(gate, word)


clusters = [dispy.JobCluster(run, durable=is_durable), dispy.JobCluster(run_too, durable=is_durable)]
jobs = [[], []]
for n in range(count):
    for which, cluster in enumerate(clusters):
        jobs[which].append(cluster.submit(gate, f"{'ab'[which]}{n}"))
        while n == 0 and jobs[which][0].status != dispy.DispyJob.Running:
            time.sleep(0.005)
assert [[job.number for job in mine] for mine in jobs] == [list(range(1, count + 1))] * 2
for cluster in clusters:
    if cluster._session.journal is not None:
        cluster.status()
        cluster._session.journal.thread.ask(lambda db: None)
print([[job.id for job in mine] for mine in jobs], flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("is_durable", [False, True], ids=["short", "resumed"])
def test_a_recovery_tells_the_jobs_of_two_clusters_apart(
    start_node: StartNode, run_program: RunProgram, place: Place, gate: Path, is_durable: bool
) -> None:
    """By short journals jobs that nodes have; by full ones all, and those that never started are run once."""
    config.LocalNode = False
    for name in ("one", "two"):
        start_node("--cpus", "2", "--name", name)
    count = 40 if is_durable else 4
    program = run_program(DYING, str(gate), str(is_durable), str(count))
    ids = json.loads(program.wait_line(r"^\[\[.*$").group())
    if not is_durable:
        wait_journal(place, program)
    program.send(signal.SIGKILL)
    program.wait()
    gate.touch()
    jobs = dispy.recover_jobs(resume=is_durable)
    found = {job.result[0]: job for job in jobs}
    assert len(found) == len(jobs)
    wanted = {f"{'ab'[which]}{n}": ids[which][n] for which in (0, 1) for n in range(count)}
    if is_durable:
        assert found.keys() == wanted.keys()
    else:
        assert {"a", "b"} == {word[0] for word in found}
    for word, job in found.items():
        assert (job.id, job.number) == (wanted[word], int(word[1:]) + 1)
        assert job.result[1] == word.encode() * 50_000
        assert Path(f"{gate}-{word}").read_text() == "run", "once"
    assert journals(place) == []
