"""A node that is drained: SIGUSR1 has it take no new jobs, let those end that run, and end itself."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import dispy
from dispy import DispyJob
from dispy.net.discovery import running_nodes

from . import jobs
from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import STOP_S, Node, Place, wait_for

RUNNING = DispyJob.Running


@pytest.fixture(autouse=True)
def _no_own_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispy.config, "LocalNode", False)


@pytest.fixture
def gates(gate: Path) -> Iterator[list[Path]]:
    """Files that let one job each end."""
    found = [gate.with_name(f"gate{number}") for number in range(8)]
    yield found
    for path in found:
        path.touch()


def submit_each(cluster: dispy.JobCluster, gates: list[Path], running: int) -> list[DispyJob]:
    """A job for each gate; waits until so many run."""
    submitted = [cluster.submit(str(gate)) for gate in gates]
    wait_for(
        lambda: [job.status for job in submitted].count(RUNNING),
        lambda count: count == running,
        what=f"{running} jobs run",
    )
    return submitted


def drain(node: Node) -> None:
    node.send(signal.SIGUSR1)
    node.wait_line("takes no new jobs", stream="stderr")


def test_jobs_that_run_end_and_the_others_run_elsewhere(
    make_cluster: MakeCluster, start_node: StartNode, gates: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    old = start_node("--name", "old", "--cpus", "1")
    cluster = make_cluster(jobs.until)
    submitted = submit_each(cluster, gates[:6], 1)
    drain(old)
    wait_for(lambda: cluster.why(submitted[1]), lambda said: "drained" in said, what="it is told why")
    assert "takes no new jobs" in cluster.why(submitted[1])
    new = start_node("--name", "new", "--cpus", "1")
    for path in gates[1:6]:
        path.touch()
    assert [job() for job in submitted[1:]] == ["new"] * 5
    assert submitted[0].status == RUNNING
    assert old.process.poll() is None
    gates[0].touch()
    assert submitted[0]() == "old"
    assert old.wait(STOP_S) == 0
    assert "drained: the node ends" in old.stderr
    assert old.complaints == ""
    assert cluster.submit(str(gates[0]))() == "new"
    assert new.process.poll() is None
    wait_for(
        lambda: [record.getMessage() for record in caplog.records if record.levelname == "WARNING"],
        lambda warned: warned == ["node old left: dispynode was drained"],
        what="it is said once",
    )
    used = {node.name: node for node in cluster.status().nodes}
    assert used["old"].tx > 0, "what it was sent is shown on"
    assert used["old"].rx > 0


def test_a_program_with_this_node_alone_is_told_and_goes_on_with_another(
    make_cluster: MakeCluster, start_node: StartNode, gates: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    node = start_node("--cpus", "1")
    cluster = make_cluster(jobs.until)
    submitted = submit_each(cluster, gates[:2], 1)
    drain(node)
    gates[1].touch()
    wait_for(lambda: cluster.why(submitted[1]), lambda said: "drained" in said, what="it is told why")
    (shown,) = cluster.status().nodes
    wait_for(lambda: shown.reason, lambda reason: "drained" in reason, what="the node shows it")
    gates[0].touch()
    assert submitted[0]()
    assert node.wait(STOP_S) == 0
    wait_for(lambda: caplog.text, lambda text: "dispynode was drained" in text, what="its end is told")
    assert submitted[1].status == DispyJob.Created
    start_node("--name", "next")
    assert submitted[1]() == "next"


def test_a_program_that_comes_while_it_drains_does_not_use_it(
    make_cluster: MakeCluster, start_node: StartNode, gates: list[Path], place: Place
) -> None:
    node = start_node("--cpus", "1")
    first = make_cluster(jobs.until)
    submit_each(first, gates[:1], 1)
    drain(node)
    assert running_nodes("") == [] == list((place.state / "dispy" / "nodes").glob("*/*.json"))
    second = make_cluster(jobs.name_and, nodes=[("127.0.0.1", node.port)])
    job = second.submit(1)
    wait_for(lambda: second.why(job), lambda said: "drained" in said, what="it is told why")
    assert "allocate returned" not in second.why(job)
    gates[0].touch()
    assert node.wait(STOP_S) == 0
    assert job.status == DispyJob.Created


def test_an_idle_node_ends_at_once(start_node: StartNode, make_cluster: MakeCluster) -> None:
    node = start_node()
    assert make_cluster(jobs.name_and).submit(1)()[1] == 1
    started = time.monotonic()
    node.send(signal.SIGUSR1)
    assert node.wait(STOP_S) == 0
    assert time.monotonic() - started < STOP_S


def test_a_second_signal_says_what_it_waits_for(
    start_node: StartNode, make_cluster: MakeCluster, gates: list[Path]
) -> None:
    node = start_node("--cpus", "1")
    cluster = make_cluster(jobs.until)
    submit_each(cluster, gates[:1], 1)
    drain(node)
    node.send(signal.SIGUSR1)
    waits = r"waits for 1 job of 1 program \(1 running, 0 waiting\): 1 of until of "
    wait_for(
        lambda: node.stderr,
        lambda text: text.count("is being drained, and waits for") == 2,
        what="said twice",
    )
    node.wait_line(waits, stream="stderr")
    node.send(signal.SIGTERM)
    assert node.wait(STOP_S) == 0
    assert "SIGTERM: the node ends, and with it 1 job of 1 program" in node.stderr
    assert "SIGUSR1 would let them end first" not in node.stderr  # it has been told


def test_sigusr2_says_who_uses_it_and_changes_nothing(
    start_node: StartNode, make_cluster: MakeCluster, gates: list[Path]
) -> None:
    node = start_node("--cpus", "1")
    cluster = make_cluster(jobs.until)
    (job,) = submit_each(cluster, gates[:1], 1)
    node.send(signal.SIGUSR2)
    node.wait_line("SIGUSR2: .*1 in use", stream="stderr")
    gates[0].touch()
    assert job() == node.name
    assert cluster.submit(str(gates[0]))() == node.name


def signals_itself() -> str:
    """Uses SIGUSR1 and SIGUSR2 for itself; without a handler they do what they always do."""
    import subprocess

    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)
    assert before == (signal.SIG_DFL, signal.SIG_DFL), before
    assert subprocess.run(["sh", "-c", "kill -USR1 $$"], check=False).returncode == -signal.SIGUSR1
    seen = []
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: seen.append(number))
        os.kill(os.getpid(), number)
        signal.signal(number, signal.SIG_DFL)
    return str([int(number) for number in seen])


@pytest.mark.parametrize("how", ["pid", "group"])
def test_the_signal_is_for_the_daemon_alone(
    start_node: StartNode, make_cluster: MakeCluster, gates: list[Path], how: str
) -> None:
    """Also to its process group: what runs below it has sessions of its own, and jobs may use the signal."""
    node = start_node("--cpus", "1")
    cluster = make_cluster(jobs.until)
    assert make_cluster(signals_itself).submit()() == "[10, 12]"
    (job,) = submit_each(cluster, gates[:1], 1)
    below = set(node.descendants())
    if how == "pid":
        node.send(signal.SIGUSR1)
    else:
        os.killpg(node.pid, signal.SIGUSR1)
    node.wait_line("takes no new jobs", stream="stderr")
    assert below <= set(node.descendants())
    gates[0].touch()
    assert job() == node.name
    assert node.wait(STOP_S) == 0


def test_a_signal_while_the_command_is_loaded_waits_for_the_node(place: Place, tmp_path: Path) -> None:
    """``systemctl reload`` right after the start drains the node, and does not kill it."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        loads, go = tmp_path / f"loads{number}", tmp_path / f"go{number}"
        program = f"""if True:
            import pathlib, sys, time
            class Slow:
                def find_spec(self, name, path=None, target=None):
                    if name == "dispy.node.daemon":
                        pathlib.Path({str(loads)!r}).touch()
                        while not pathlib.Path({str(go)!r}).exists():
                            time.sleep(0.01)
            sys.meta_path.insert(0, Slow())
            from dispy.cli.node import main
            main()
            """
        node = Node(place, "--listen_port", "0", command=(sys.executable, "-c", program))
        try:
            wait_for(loads.exists, bool, what="the node is being loaded")
            node.send(number)
            go.touch()
            if number == signal.SIGUSR2:
                node.wait_listens()
                node.send(signal.SIGTERM)
            assert node.wait(STOP_S + 2) == 0, node.stderr
        finally:
            node.end()


def test_signals_while_starting_and_ending_do_no_harm(place: Place) -> None:
    """Those that come before it listens count; none ends it with the code of a signal."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        node = Node(place, "--listen_port", "0")
        try:
            wait_for(node.descendants, what="its first child")
            node.send(number)
            if number == signal.SIGUSR2:
                node.wait_listens()
                node.send(signal.SIGTERM)
                for _ in range(200):
                    node.send(signal.SIGUSR1)
                    node.send(signal.SIGUSR2)
                    if node.process.poll() is not None:
                        break
            assert node.wait(STOP_S + 2) == 0, node.stderr
            assert node.complaints == ""
        finally:
            node.end()


def test_results_of_a_program_that_is_gone_go_to_disk(
    start_node: StartNode, run_program: RunProgram, gates: list[Path], place: Place
) -> None:
    """It is killed while its job runs; that ends, and the next node has the result."""
    node = start_node("--cpus", "1")
    program = run_program(
        "import sys\n"
        "import dispy\n"
        "def until(path):\n"
        "    import os, time\n"
        "    while not os.path.exists(path): time.sleep(0.005)\n"
        "    return dispy_node_name\n"
        "dispy.config.LocalNode = False\n"
        "cluster = dispy.JobCluster(until, recover_file=sys.argv[1])\n"
        "jobs = [cluster.submit(path) for path in sys.argv[2:]]\n"
        "import time\n"
        "while jobs[0].status != dispy.DispyJob.Running: time.sleep(0.01)\n"
        "print('runs', flush=True)\n"
        "time.sleep(60)\n",
        str(place.root / "journal"),
        str(gates[0]),
    )
    program.wait_line("runs")
    program.send(signal.SIGKILL)
    program.wait()
    node.wait_line("has lost its connection", stream="stderr")
    drain(node)
    assert node.process.poll() is None
    gates[0].touch()
    assert node.wait(STOP_S + 8) == 0
    start_node("--cpus", "1", port=str(node.port))
    found = dispy.recover_jobs(str(place.root / "journal"))
    assert [job.status for job in found] == [DispyJob.Finished], [job.exception for job in found]
    assert [job.result for job in found] == [node.name]


def test_cpus_at_the_terminal_keep_it(
    make_cluster: MakeCluster, gates: list[Path], place: Place, start_node: StartNode
) -> None:
    """Whoever drains by mistake types ``cpus all``."""
    from .test_cpus_change import Terminal

    terminal = Terminal(start_node, "--cpus", "1")
    try:
        cluster = make_cluster(jobs.until)
        submitted = submit_each(cluster, gates[:2], 1)
        drain(terminal.node)
        assert "CPUs offered" in terminal.type("cpus 1")
        gates[0].touch()
        gates[1].touch()
        assert [job() for job in submitted] == [terminal.node.name] * 2
        assert len(list((place.state / "dispy" / "nodes").glob("*/*.json"))) == 1
        assert terminal.node.process.poll() is None
    finally:
        terminal.close()


def test_a_program_s_own_node_is_not_drained(
    monkeypatch: pytest.MonkeyPatch, make_own_cluster: MakeCluster
) -> None:
    """It ends with its program, and would be started anew."""
    import psutil

    monkeypatch.setattr(dispy.config, "LocalNode", True)
    cluster = make_own_cluster(jobs.name_and)
    assert cluster.submit(1)()[1] == 1
    (pid,) = [p.pid for p in psutil.Process().children() if "dispy.node" in " ".join(p.cmdline())]
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        os.kill(pid, number)
    for n in range(20):
        assert cluster.submit(n)()[1] == n
    assert psutil.pid_exists(pid)
