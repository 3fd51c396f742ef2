"""A shared scheduler and its programs: found, used by several at once, refused, lost, come back."""

from __future__ import annotations

import os
import re
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy.errors import AuthenticationError, NoSchedulerError, UsageError

from .conftest import RunProgram, StartNode
from .helpers import Place, Scheduler, wait_for
from .proxy import At, proxy, reset
from .schedulers import Schedulers

WHO = """
import os, sys, time, dispy

def who(gate):
    while gate and not os.path.exists(gate): time.sleep(0.01)
    return os.getcwd()
"""


@pytest.fixture
def shared_cluster(schedulers: Schedulers, start_node: StartNode) -> Any:
    """Makes clusters of a scheduler, which is found without an address."""
    made: list[dispy.JobCluster] = []

    def make(*args: Any, **kwargs: Any) -> dispy.JobCluster:
        made.append(dispy.SharedJobCluster(*args, **kwargs))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close(terminate=True)
    for cluster in made:
        cluster.shutdown()


def double(x: int) -> int:
    return 2 * x


def until(gate: str) -> str:
    import os
    import time

    while not os.path.exists(gate):
        time.sleep(0.01)
    return gate


def test_found_without_an_address(
    shared_cluster: Any, schedulers: Schedulers, start_node: StartNode
) -> None:
    start_node("--cpus", "2")
    schedulers.start()
    cluster = shared_cluster(double)
    assert isinstance(cluster, dispy.JobCluster)
    assert [job() for job in [cluster.submit(n) for n in range(20)]] == list(range(0, 40, 2))
    assert list(cluster.map(range(1000))) == list(range(0, 2000, 2))
    (node,) = cluster.status().nodes
    assert node.cpus == 2
    job = cluster.submit(1)
    assert job() == 2
    assert cluster.why(job) == "it has ended: Finished"


@pytest.mark.parametrize("named", ["host and port", "old names"])
def test_named(shared_cluster: Any, schedulers: Schedulers, start_node: StartNode, named: str) -> None:
    start_node()
    scheduler = schedulers.start()
    if named == "host and port":
        cluster = shared_cluster(
            double, scheduler_host=scheduler.host, scheduler_port=scheduler.port, client_port=0
        )
    else:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cluster = shared_cluster(
                double, scheduler_node=scheduler.host, scheduler_port=scheduler.port, port=0
            )
        assert sorted(str(each.message) for each in caught) == [
            "port is now called client_port",
            "scheduler_node is now called scheduler_host",
        ]
    assert cluster.submit(4)() == 8


def test_no_scheduler_there(place: Place) -> None:
    with pytest.raises(
        NoSchedulerError, match=r"no scheduler at 127\.0\.0\.1:64001: Connection refused; start"
    ):
        dispy.SharedJobCluster(double, scheduler_host="127.0.0.1", scheduler_port=64001)
    with pytest.raises(UsageError, match="cannot be resolved"):
        dispy.SharedJobCluster(double, scheduler_host="no.such.host.example")


def test_a_node_is_no_scheduler(start_node: StartNode) -> None:
    node = start_node()
    with pytest.raises(NoSchedulerError):
        dispy.SharedJobCluster(double, scheduler_host="127.0.0.1", scheduler_port=node.port)


def test_another_secret(schedulers: Schedulers, start_node: StartNode) -> None:
    start_node()
    scheduler = schedulers.start("--cluster_secret", "one of programs that is long")
    with pytest.raises(NoSchedulerError, match="same secret") as caught:
        dispy.SharedJobCluster(double, scheduler_host=scheduler.host, scheduler_port=scheduler.port)
    assert isinstance(caught.value.__cause__, AuthenticationError)
    with dispy.SharedJobCluster(
        double, scheduler_host=scheduler.host, scheduler_port=scheduler.port,
        secret="one of programs that is long",
    ) as cluster:  # fmt: skip
        assert cluster.submit(3)() == 6


def test_two_programs_of_equal_names_and_numbers(
    schedulers: Schedulers, start_node: StartNode, run_program: RunProgram, tmp_path: Path
) -> None:
    """Equal names of files and functions, equal numbers of jobs: each has its own."""
    start_node("--cpus", "2")
    schedulers.start()
    source = (
        "import sys, dispy\n"
        "def say():\n"
        "    return open('data').read()\n"
        "with dispy.SharedJobCluster(say, depends=['data'], dest_path=sys.argv[2]) as cluster:\n"
        "    print(*{job() for job in [cluster.submit() for _ in range(50)]})\n"
    )
    programs = []
    for name in ("one", "two"):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "data").write_text(name)
        programs.append(run_program(source, name, name, name=f"{name}.py", cwd=directory))
    for name, program in zip(("one", "two"), programs, strict=True):
        assert program.wait() == 0, program.stderr
        assert program.stdout.split() == [name]


def test_a_newcomer_is_served_beside_a_long_queue(
    shared_cluster: Any, schedulers: Schedulers, start_node: StartNode, run_program: RunProgram
) -> None:
    start_node("--cpus", "2")
    schedulers.start()
    busy = shared_cluster(time.sleep)
    jobs = [busy.submit(0.01) for _ in range(5000)]
    jobs[0]()
    program = run_program(
        "import time, dispy\n"
        "with dispy.SharedJobCluster(abs) as cluster:\n"
        "    cluster.submit(-1)()\n"
        "    start = time.monotonic()\n"
        "    cluster.submit(-1)()\n"
        "    print(time.monotonic() - start)\n"
    )
    assert program.wait() == 0, program.stderr
    assert float(program.stdout) < 2
    assert not jobs[-1].finish.is_set()


def test_a_program_that_is_killed(
    schedulers: Schedulers, start_node: StartNode, run_program: RunProgram, gate: Path, place: Place
) -> None:
    """Its jobs go on, its files stay; others do not wait for it."""
    start_node("--cpus", "1")
    scheduler = schedulers.start()
    program = run_program(
        WHO + "cluster = dispy.SharedJobCluster(who)\n"
        "job = cluster.submit(sys.argv[1])\n"
        "while job.status != job.Running: time.sleep(0.01)\n"
        "print('running', flush=True)\n"
        "time.sleep(60)\n",
        str(gate),
    )
    program.wait_line("^running$")
    program.send(signal.SIGKILL)
    program.wait()
    wait_for(lambda: scheduler.stderr, lambda text: "is away" in text, what="it is away")
    scheduler.send(signal.SIGUSR2)
    wait_for(lambda: scheduler.stderr, lambda text: "1 open job, away" in text, what="its job goes on")
    gate.touch()
    with dispy.SharedJobCluster(double) as cluster:
        assert cluster.submit(1)() == 2


def test_the_scheduler_is_killed_and_started_anew(
    shared_cluster: Any, start_node: StartNode, place: Place, gate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Jobs that it had end with that reason; the cluster goes on with new ones."""
    start_node("--cpus", "1")
    scheduler = Scheduler(place, "--listen_port", "0").wait_listens()
    cluster = shared_cluster(until, scheduler_host=scheduler.host, scheduler_port=scheduler.port)
    job = cluster.submit(str(gate))
    wait_for(lambda: job.status, lambda status: status == job.Running, what="it runs")
    scheduler.send(signal.SIGKILL)
    scheduler.wait()
    wait_for(lambda: cluster.why(job), lambda why: "has not been reached" in why, what="why says it")
    waiting = cluster.submit("/")
    again = Scheduler(place, "--listen_port", str(scheduler.port)).wait_listens()
    try:
        assert job.wait(10)
        assert job.status == job.Abandoned
        assert re.search(
            "scheduler .* was started anew, or has given this program up: the job is lost",
            job.exception or "",
        )
        assert waiting.wait(10)
        gate.touch()
        assert cluster.submit("/")() == "/"
    finally:
        cluster.close(terminate=True)
        again.stop()
        again.end()
        scheduler.end()


@pytest.mark.parametrize("direction", ["to node", "to client"])
def test_a_link_that_breaks_loses_nothing(
    shared_cluster: Any,
    schedulers: Schedulers,
    start_node: StartNode,
    monkeypatch: pytest.MonkeyPatch,
    direction: Any,
) -> None:
    """Small and large jobs and results, while the line breaks each time that a megabyte has gone over it."""
    monkeypatch.setattr(dispy.config, "SharedMemory", False)
    start_node("--cpus", "2")
    scheduler = schedulers.start()
    with proxy(scheduler.port, lambda _: At(direction, 1_000_000, reset)) as between:
        cluster = shared_cluster(lambda data: data, scheduler_host="127.0.0.1", scheduler_port=between.port)
        sizes = (10, 200_000, 7) * 20
        jobs = [cluster.submit(bytes(size)) for size in sizes]
        assert [len(job()) for job in jobs] == list(sizes)
        assert between.connections > 3
        cluster.close()


def test_it_ends_in_order(
    schedulers: Schedulers, shared_cluster: Any, start_node: StartNode, gate: Path,
    caplog: pytest.LogCaptureFixture, place: Place,
) -> None:  # fmt: skip
    """SIGTERM: its programs are told, nodes end their jobs, nothing is left."""
    node = start_node("--cpus", "1")
    scheduler = Scheduler(place, "--listen_port", "0").wait_listens()
    cluster = shared_cluster(until, scheduler_host=scheduler.host, scheduler_port=scheduler.port)
    job = cluster.submit(str(gate))
    wait_for(lambda: job.status, lambda status: status == job.Running, what="it runs")
    assert scheduler.stop() == 0
    assert "the scheduler ends: SIGTERM" in scheduler.stderr
    assert "Traceback" not in scheduler.stderr
    wait_for(lambda: caplog.text, lambda text: "leaves: the scheduler ends" in text, what="it is told")
    wait_for(lambda: node.descendants(), lambda pids: len(pids) <= 2, what="the job is ended")
    scheduler.end()


def test_nobody_reaches_anothers_jobs(schedulers: Schedulers, start_node: StartNode) -> None:
    """Numbers are the program's own: the job of another one with the same number goes on."""
    start_node("--cpus", "2")
    schedulers.start()
    pid = os.getpid()
    with dispy.SharedJobCluster(double) as one, dispy.SharedJobCluster(double) as two:
        jobs = [one.submit(1), two.submit(1)]
        assert one.cancel(two.submit(2)) == -1 or pid
        assert [job() for job in jobs] == [2, 2]


def test_users_have_parts_and_limits(
    schedulers: Schedulers, start_node: StartNode, run_program: RunProgram, tmp_path: Path
) -> None:
    """Who is not in the file is refused; who is has no more jobs on nodes than he may."""
    import getpass

    start_node("--cpus", "2")
    file = tmp_path / "users.toml"
    file.write_text(f"[{getpass.getuser()}]\nweight = 2\ncpus_max = 1\nqueued_max = 3\n")
    schedulers.start("--users", str(file), "--known_users")
    program = run_program(
        "import time, dispy\n"
        "def at(n):\n"
        "    start = time.time(); time.sleep(0.1); return start, time.time()\n"
        "with dispy.SharedJobCluster(at) as cluster:\n"
        "    spans = sorted(job() for job in [cluster.submit(n) for n in range(6)])\n"
        "    assert all(end <= start + 0.01 for (_, end), (start, _) in zip(spans, spans[1:])), spans\n"
        "print('one at a time')\n"
    )
    assert program.wait(20) == 0, program.stderr
    assert program.stdout == "one at a time\n"
    assert "submit of cluster at waits: scheduler" in program.stderr
    file = tmp_path / "others.toml"
    file.write_text("[somebody]\nweight = 1\n")
    other = schedulers.start("--users", str(file), "--known_users")
    with pytest.raises(NoSchedulerError, match="is not known here; ask its administrator"):
        dispy.SharedJobCluster(double, scheduler_host="127.0.0.1", scheduler_port=other.port)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[alice]\nweight = -1\n", "Expected `float` > 0"),
        ("[alice]\nwhat = 1\n", "unknown field `what`"),
        ("alice", "Expected '='"),
    ],
)
def test_what_is_wrong_with_users_is_said(place: Place, tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "users.toml"
    file.write_text(text)
    scheduler = Scheduler(place, "--users", str(file))
    assert scheduler.wait() == 2
    assert says in scheduler.stderr
    assert "hint" not in scheduler.stderr
    assert "Traceback" not in scheduler.stderr
    scheduler.end()
