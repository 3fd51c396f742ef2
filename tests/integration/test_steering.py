"""Nodes that a program chooses and steers while its jobs run: set up again, closed, deallocated, added, asked."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import dispy
from dispy import DispyJob, DispyNode, NodeAllocate
from dispy.errors import PicklingError, SilenceError, UsageError
from dispy.system.directories import state_directory

from .conftest import MakeCluster, StartNode
from .helpers import wait_for
from .jobs import name_and, until


@pytest.fixture(autouse=True)
def _no_own_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispy.config, "LocalNode", False)


class Events:
    """What ``cluster_status`` was told of nodes."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str]] = []

    def __call__(self, status: int, node: DispyNode | None, job: DispyJob | None) -> None:
        if node is not None and job is None:
            self.seen.append((status, node.name))

    def wait(self, status: int, count: int = 1, name: str | None = None) -> None:
        wait_for(
            lambda: [seen for seen in self.seen if seen[0] == status and name in (None, seen[1])],
            lambda found: len(found) >= count,
            what=f"{count} events {status}",
        )


def prepare(log: str, value: int) -> int:
    global data
    data = value
    with open(log, "a") as file:
        file.write(f"setup {value}\n")
    return 0 if value >= 0 else -1


def forget(log: str, value: int) -> None:
    time.sleep(0.05)
    with open(log, "a") as file:
        file.write(f"cleanup {value}, {data}\n")


def look(path: str = "/") -> tuple[str, int]:
    while not os.path.exists(path):
        time.sleep(0.005)
    return dispy_node_name, data


def is_running(job: DispyJob) -> None:
    wait_for(lambda: job.status, lambda status: status == DispyJob.Running, what="the job runs")


class Counting(NodeAllocate):
    """Each time that it is asked ``setup`` gets another value."""

    def __init__(self, log: Path) -> None:
        super().__init__("*")
        self.log = str(log)
        self.asked = 0

    def allocate(
        self, cluster: Any, ip_addr: str, name: str, cpus: int, avail_info: Any = None, platform: str = ""
    ) -> int:
        self.asked += 1
        self.setup_args = (self.log, self.asked)
        return cpus


def test_a_node_is_set_up_again(
    make_cluster: MakeCluster, start_node: StartNode, gate: Path, tmp_path: Path
) -> None:
    """What runs ends first; cleanup has the old arguments, ``allocate`` chooses new ones; what waits sees these."""
    start_node("--name", "one", "--cpus", "1")
    log = tmp_path / "log"
    events = Events()
    cluster = make_cluster(look, [Counting(log)], setup=prepare, cleanup=forget, cluster_status=events)
    events.wait(DispyNode.Initialized)
    running = cluster.submit(str(gate))
    is_running(running)
    waiting = [cluster.submit(), cluster.submit_node("one")]
    assert cluster.resetup_node("one") == 0
    waiting.append(cluster.submit_node(cluster.status().nodes[0]))
    assert "it is set up again" in cluster.why(waiting[1])
    gate.touch()
    assert running() == ("one", 1)
    assert [job() for job in waiting] == [("one", 2)] * 3
    events.wait(DispyNode.Initialized, 2)
    assert (DispyNode.Closed, "one") not in events.seen
    assert log.read_text().splitlines() == ["setup 1", "cleanup 1, 1", "setup 2"]
    assert [node.name for node in cluster.status().nodes] == ["one"]
    cluster.close()
    assert log.read_text().splitlines()[3:] in ([], ["cleanup 2, 2"])


def test_a_node_is_set_up_again_at_once(
    make_cluster: MakeCluster, start_node: StartNode, gate: Path, tmp_path: Path
) -> None:
    """With arguments that are given; what runs is ended, what has not begun is not."""
    start_node("--name", "one", "--cpus", "1")
    log = str(tmp_path / "log")
    cluster = make_cluster(look, [NodeAllocate("*", setup_args=(log, 1))], setup=prepare, cleanup=forget)
    running = cluster.submit(str(gate))
    is_running(running)
    waiting = cluster.submit_node("one")
    assert cluster.resetup_node("one", terminate_pending=True, setup_args=(log, 5)) == 0
    assert waiting() == ("one", 5)
    assert (running(), running.status) == (None, DispyJob.Terminated)
    assert "KeyboardInterrupt" in running.exception or "cancelled" in running.exception
    assert cluster.resetup_node("one") == 0
    assert cluster.submit_node("one")() == ("one", 1)


def test_a_node_whose_setup_has_failed_is_tried_again(
    make_cluster: MakeCluster, start_node: StartNode, tmp_path: Path, caplog: Any
) -> None:
    start_node("--name", "one", "--cpus", "1")
    log = str(tmp_path / "log")
    events = Events()
    allocation = NodeAllocate("*", setup_args=(log, 1))
    cluster = make_cluster(look, [allocation], setup=prepare, cluster_status=events)
    assert cluster.submit()() == ("one", 1)
    cluster.resetup_node("one", setup_args=(log, -7))
    events.wait(DispyNode.Closed)
    assert "it returned -1" in caplog.text
    assert cluster.submit_node("one") is None
    assert cluster.resetup_node("one", setup_args=(log, 3)) == 0
    assert cluster.submit()() == ("one", 3)
    assert [node.jobs_done for node in cluster.status().nodes] == [2]


def test_arguments_of_resetup_are_checked_at_once(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--name", "one", "--cpus", "1")
    cluster = make_cluster(name_and)
    wait_for(lambda: cluster.status().nodes, bool, what="the node")
    with pytest.raises(UsageError, match=r"setup_args must be a tuple, not \[1\]; setup_args=\(value,\)"):
        cluster.resetup_node("one", setup_args=[1])  # type: ignore[arg-type]
    with pytest.raises(PicklingError, match="lock"):
        cluster.resetup_node("one", setup_args=(__import__("threading").Lock(),))
    assert cluster.submit(1)() == ("one", 1)


def test_a_node_is_closed(
    make_cluster: MakeCluster, start_node: StartNode, gate: Path, tmp_path: Path
) -> None:
    """What runs there ends, what waits there runs elsewhere; what may run nowhere else is cancelled."""
    start_node("--name", "one", "--cpus", "1")
    log = str(tmp_path / "log")
    events = Events()
    cluster = make_cluster(
        look, [NodeAllocate("*", setup_args=(log, 1))], setup=prepare, cleanup=forget, cluster_status=events
    )
    jobs = [cluster.submit(str(gate))]
    is_running(jobs[0])
    jobs += [cluster.submit_node("one"), cluster.submit()]
    assert cluster.close_node("one") == 0
    jobs[1].wait(5)
    assert (jobs[1].status, jobs[1].exception) == (
        DispyJob.Cancelled,
        "the node was closed for this computation",
    )
    assert cluster.submit_node("one") is None
    start_node("--name", "two", "--cpus", "1")
    assert jobs[2]() == ("two", 1)
    gate.touch()
    assert jobs[0]() == ("one", 1)
    events.wait(DispyNode.Closed, name="one")
    wait_for(lambda: Path(log).read_text(), lambda text: "cleanup 1" in text, what="cleanup")
    status = cluster.status()
    assert {node.name: node.cpus for node in status.nodes} == {"one": 0, "two": 1}
    assert cluster.close_node("one") == -1
    assert cluster.submit_node("one") is None
    # Another offer of CPUs is no reason to use it again; to ask for it is.
    assert cluster.allocate_node("*") == 0
    events.wait(DispyNode.Initialized, 2, name="one")
    assert cluster.submit_node("one")() == ("one", 1)
    assert sorted(node.name for node in cluster.status().nodes) == ["one", "two"]


def test_a_node_is_closed_at_once(make_cluster: MakeCluster, start_node: StartNode, gate: Path) -> None:
    start_node("--name", "one", "--cpus", "2")
    events = Events()
    cluster = make_cluster(until, cluster_status=events)
    jobs = [cluster.submit(str(gate)) for _ in range(2)]
    for job in jobs:
        is_running(job)
    assert cluster.close_node(cluster.status().nodes[0], terminate_pending=True) == 0
    assert [job() for job in jobs] == [None, None]
    assert [job.status for job in jobs] == [DispyJob.Terminated] * 2
    events.wait(DispyNode.Closed)


def test_a_node_that_is_being_closed_can_stay(
    make_cluster: MakeCluster, start_node: StartNode, gate: Path
) -> None:
    start_node("--name", "one", "--cpus", "1")
    events = Events()
    cluster = make_cluster(until, cluster_status=events)
    running = cluster.submit(str(gate))
    is_running(running)
    cluster.close_node("one")
    assert cluster.allocate_node("127.0.0.1") == 0
    waiting = cluster.submit_node("one", "/")
    gate.touch()
    assert (running(), waiting()) == ("one", "one")
    assert (DispyNode.Closed, "one") not in events.seen


def test_a_deallocated_node_keeps_its_data(
    make_cluster: MakeCluster, start_node: StartNode, gate: Path, tmp_path: Path
) -> None:
    start_node("--name", "one", "--cpus", "1")
    log = str(tmp_path / "log")
    cluster = make_cluster(look, [NodeAllocate("*", setup_args=(log, 1))], setup=prepare)
    running = cluster.submit(str(gate))
    is_running(running)
    waiting, pinned = cluster.submit(), cluster.submit_node("one")
    assert pinned is not None
    assert cluster.deallocate_node("one") == 0
    pinned.wait(5)
    assert pinned.status == DispyJob.Cancelled
    (node,) = cluster.status().nodes
    assert (node.cpus, node.avail_cpus, node.busy) == (0, 1, 1)
    assert cluster.submit_node("one") is None
    assert "it is not to be used any more" in cluster.why(waiting)
    gate.touch()
    assert running() == ("one", 1)
    assert waiting.status == DispyJob.Created
    assert cluster.allocate_node(node) == 0
    assert waiting() == ("one", 1)
    assert Path(log).read_text() == "setup 1\n"


def test_nodes_are_added(make_cluster: MakeCluster, start_node: StartNode) -> None:
    """Also such as the cluster was not made for, with CPUs and all else that an element of ``nodes`` may say."""
    one = start_node("--name", "one", "--cpus", "2")
    two = start_node("--name", "two", "--cpus", "2")
    cluster = make_cluster(name_and, [("127.0.0.1", one.port)])
    assert cluster.submit(1)() == ("one", 1)
    assert cluster.allocate_node({"host": "127.0.0.1", "port": two.port, "cpus": 1}) == 0
    wait_for(lambda: cluster.status().nodes, lambda nodes: len(nodes) == 2, what="both nodes")
    assert {node.name: node.cpus for node in cluster.status().nodes} == {"one": 2, "two": 1}
    assert cluster.allocate_node([("127.0.0.1", two.port, 2), ("127.0.0.1", one.port, 1)]) == 0
    assert {node.name: node.cpus for node in cluster.status().nodes} == {"one": 1, "two": 2}
    assert cluster.allocate_node([]) == -1
    with pytest.warns(UserWarning, match="no-such-host"):
        assert cluster.allocate_node("no-such-host.invalid") == -1


def test_nodes_are_looked_for_if_they_match(make_own_cluster: MakeCluster, start_node: StartNode) -> None:
    """A node on a port of its own is not found by a pattern, unless somebody names it."""
    one = start_node("--name", "one", "--cpus", "1", "--host", "127.0.0.2")
    for listing in (state_directory() / "nodes").glob("*/*.json"):
        listing.unlink()
    cluster = make_own_cluster(name_and, ["127.0.0.*"])
    with pytest.warns(UserWarning, match="patterns find nodes of this machine only"):
        other = make_own_cluster(name_and, ["192.0.2.*"])
    for each in (cluster, other):
        assert each.discover_nodes([("127.0.0.2", one.port)]) == 0
    assert cluster.submit(1)() == ("one", 1)
    assert other.status().nodes == []


@pytest.mark.parametrize(
    "name", ["close_node", "deallocate_node", "resetup_node", "submit_node", "set_node_cpus", "node_jobs"]
)
def test_a_node_that_is_not_in_use_is_said_so(
    make_cluster: MakeCluster, start_node: StartNode, caplog: Any, name: str
) -> None:
    start_node("--name", "one", "--cpus", "1")
    cluster = make_cluster(name_and)
    wait_for(lambda: cluster.status().nodes, bool, what="the node")
    caplog.set_level(logging.WARNING, "dispy")
    arguments = (1,) if name in ("submit_node", "set_node_cpus") else ()
    result = getattr(cluster, name)("192.0.2.1", *arguments)
    assert result == (None if name == "submit_node" else -1)
    assert f"{name}: node 192.0.2.1 is not in use by cluster name_and" in caplog.text
    assert cluster.send_file(__file__, "192.0.2.1") == -1
    assert "send_file: node 192.0.2.1 is not in use by cluster name_and" in caplog.text


def test_a_node_says_what_runs_there(
    make_cluster: MakeCluster, start_node: StartNode, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start_node("--name", "one", "--cpus", "2")
    cluster = make_cluster(until)
    jobs = [cluster.submit(str(gate)) for _ in range(4)]
    found = wait_for(
        lambda: cluster.node_jobs("one", from_node=True),
        lambda found: isinstance(found, list) and len(found) == 2,
        what="the node has two jobs",
    )
    assert set(found) == set(jobs[:2])
    assert cluster.node_jobs("192.0.2.1", from_node=True) == -1
    monkeypatch.setattr(dispy.config, "MsgTimeout", 0.1)
    node.send(signal.SIGSTOP)
    stopped = psutil.Process(node.process.pid)
    wait_for(stopped.status, lambda status: status == psutil.STATUS_STOPPED, what="the node stands still")
    try:
        with pytest.raises(
            SilenceError, match=r"node one has not said within 0\.1 s what runs there; try again"
        ):
            cluster.node_jobs("one", from_node=True)
    finally:
        node.send(signal.SIGCONT)
    gate.touch()
    cluster.wait()
    monkeypatch.setattr(dispy.config, "MsgTimeout", 10)
    assert cluster.node_jobs("one", from_node=True) == []


class Judging(NodeAllocate):
    """Remembers what it was told, and does with it what it is to do."""

    def __init__(self, host: str, answer: Any) -> None:
        super().__init__(host)
        self.answer = answer
        self.told: list[Any] = []

    def allocate(
        self, cluster: Any, ip_addr: str, name: str, cpus: int, avail_info: Any = None, platform: str = ""
    ) -> Any:
        self.told.append((cluster.name, ip_addr, name, cpus, avail_info, platform))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_allocate_is_told_all_about_a_node(make_cluster: MakeCluster, start_node: StartNode) -> None:
    """What it has to spare, too. Who does not want it leaves it to the next; nobody gets more than there is."""
    start_node("--name", "one", "--cpus", "2")
    first, second = Judging("127.0.0.1", 0), Judging("*", 7)
    cluster = make_cluster(name_and, [second, first])
    assert cluster.submit(1)() == ("one", 1)
    (node,) = cluster.status().nodes
    assert node.cpus == 2
    assert len(first.told) == len(second.told) == 1
    name, ip_addr, label, cpus, spare, platform = second.told[0]
    assert (name, ip_addr, label, cpus) == ("name_and", "127.0.0.1", "one", 2)
    assert "Linux" in platform
    for info in (spare, node.avail_info):
        assert isinstance(info, dispy.DispyNodeAvailInfo)
        assert 0 <= info.cpu <= 100
        assert 0 <= info.swap <= 100
        assert 1 << 20 < info.memory < 1 << 50
        assert 0 < info.disk < 1 << 60


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ValueError("no idea"), "ValueError: no idea"),
        ("2", "allocate must return a number of CPUs, not '2'"),
        (float("nan"), "ValueError"),
    ],
)
def test_an_allocate_that_fails_skips_the_node(
    make_cluster: MakeCluster, start_node: StartNode, caplog: Any, answer: Any, said: str
) -> None:
    start_node("--name", "one", "--cpus", "1")
    judging = Judging("*", answer)
    cluster = make_cluster(name_and, [judging])
    wait_for(lambda: judging.told, bool, what="it is asked")
    job = cluster.submit(1)
    wait_for(lambda: caplog.text, lambda text: said in text, what="it is said")
    assert "allocate for node one failed; the node is not used" in caplog.text
    assert cluster.status().nodes == []
    wait_for(
        lambda: cluster.why(job).replace("TypeError: ", ""),
        lambda why: f"one: allocate failed: {said}" in why,
        what="why",
    )
    judging.answer = 1
    assert cluster.allocate_node(judging) == 0
    assert job() == ("one", 1)


def test_why_tells_of_nodes_that_are_there_and_not_used(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    """Whoever reads it does not start more nodes, of which there are enough."""
    start_node("--name", "one", "--cpus", "1")
    judging = Judging("*", 0)
    cluster = make_cluster(name_and, [judging])
    job = cluster.submit(1)
    wait_for(lambda: cluster.why(job), lambda why: "one: allocate returned 0" in why, what="why")
    assert "dispynode" not in cluster.why(job)
    judging.answer = 0.5
    assert cluster.allocate_node(judging) == 0
    assert job() == ("one", 1)
    (node,) = cluster.status().nodes
    assert node.cpus == 1
    cluster.close_node(node)
    later = cluster.submit(2)
    wait_for(lambda: cluster.why(later), lambda why: "one: close_node was called for it" in why, what="why")
    judging = Judging("*", 1)
    judging.depends = ["missing.csv"]
    cluster = make_cluster(name_and, [judging])
    job = cluster.submit(1)
    wait_for(
        lambda: cluster.why(job), lambda why: "one: file 'missing.csv' cannot be sent" in why, what="why"
    )


def test_nodes_say_what_they_have_to_spare(make_cluster: MakeCluster, start_node: StartNode) -> None:
    """With each sign of life that the program has asked for."""
    start_node("--name", "one", "--cpus", "1")
    told: list[Any] = []

    def on_status(status: int, node: DispyNode | None, job: DispyJob | None) -> None:
        if status == DispyNode.AvailInfo and node is not None:
            told.append((node.name, node.avail_info, job))

    cluster = make_cluster(name_and, cluster_status=on_status, pulse_interval=0.5)
    wait_for(lambda: told, lambda seen: len(seen) >= 2, what="two of them")
    name, info, job = told[-1]
    assert (name, job) == ("one", None)
    assert isinstance(info, dispy.DispyNodeAvailInfo)
    assert cluster.status().nodes[0].avail_info is not None
