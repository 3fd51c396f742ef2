"""Several programs behind one scheduler, with real nodes in simulated time: shares, newcomers, limits, reasons."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest

from dispy.core import scheduling
from dispy.core.scheduling import Policy
from dispy.core.scheduling.explain import why_open
from dispy.core.scheduling.ids import EMBEDDED, ClientId, NodeId
from dispy.core.scheduling.lines.clients import room_in_queue
from dispy.protocol import node
from dispy.protocol.node import FINISHED, Compute, Ended, Job
from tests.models.shared_cluster import Program, SharedCluster

NODE = NodeId(b"n" * 16)


@pytest.mark.parametrize("job_s", [(0.002,) * 3, (0.01,) * 3, (0.1,) * 3, (0.01, 0.03, 0.002)])
def test_users_have_their_shares_in_any_two_seconds(job_s: tuple[float, ...]) -> None:
    """Whatever time their jobs take; and no CPU is idle for it."""
    weights = {"a": 1.0, "b": 2.0, "c": 1.0}
    programs = [Program(i, user, job_s[i - 1]) for i, user in enumerate(weights, start=1)]
    cluster = SharedCluster(programs, [4], weights=weights)
    cluster.run(4.5)
    for begin in range(1, 10):
        shares = cluster.shares(begin / 4, begin / 4 + 2)
        assert shares == pytest.approx({"a": 0.25, "b": 0.5, "c": 0.25}, abs=0.03)
    used = sum(min(end, 4.5) - begin for program in programs for begin, end in program.ran)
    assert used > 0.97 * 4 * 4.5


def test_long_jobs_leave_short_ones_their_cpus() -> None:
    """CPUs in use count first: jobs of half a second do not take what short ones leave for a moment."""
    programs = [Program(1, "a", 0.5), Program(2, "b", 0.01)]
    cluster = SharedCluster(programs, [4])
    cluster.run(8.0)
    # At first the long ones had all CPUs.
    for begin in (3.0, 4.0, 5.0):
        assert cluster.shares(begin, begin + 2)["a"] == pytest.approx(0.5, abs=0.06)


def test_a_user_with_more_programs_has_no_more() -> None:
    programs = [Program(1, "a", 0.01), Program(2, "a", 0.01), Program(3, "a", 0.01), Program(4, "b", 0.01)]
    cluster = SharedCluster(programs, [2, 2])
    cluster.run(3.0)
    assert cluster.shares(0.5, 3.0)["a"] == pytest.approx(0.5, abs=0.02)
    had = [len(program.ran) for program in programs]
    assert max(had[:3]) - min(had[:3]) < 0.05 * max(had)


@pytest.mark.parametrize(("job_s", "within"), [(0.01, 0.03), (0.4, 0.1)])
def test_who_wanted_nothing_has_no_claim_for_that_time(job_s: float, within: float) -> None:
    """Nor does the other one owe for what it had alone."""
    cluster = SharedCluster([Program(1, "a", job_s), Program(2, "b", job_s, begin=4.0)], [2, 2])
    cluster.run(9.0)
    assert cluster.shares(5.0, 8.0)["a"] == pytest.approx(0.5, abs=within)


@pytest.mark.parametrize("job_s", [0.001, 0.01, 0.1, 0.2])
def test_a_newcomer_has_its_first_result_soon(job_s: float) -> None:
    """Beside a million queued jobs, half a second after it came.

    Where jobs take longer than that, it waits for the second one to end on a CPU: the first makes room for it.
    """
    old, new = Program(1, "a", job_s), Program(2, "b", 0.01, begin=1.0, count=3)
    cluster = SharedCluster([old, new], [2, 2])
    jobs = [Job(number, 0, b"") for number in range(1_000_000, 2_000_000)]
    cluster.run(0.5)
    old.queued += len(jobs)
    cluster.handle(scheduling.SubmitJobs(ClientId(1), 1, jobs))
    cluster.run(3.0)
    assert new.told[0] - 1.0 <= 0.5
    assert len(new.told) == 3


@pytest.mark.parametrize(("policy", "shares"), [
    (Policy.FAIR, (0.25, 0.25, 0.5)),
    (Policy.ROUND_ROBIN, (1 / 3, 1 / 3, 1 / 3)),
])  # fmt: skip
def test_parts_of_programs(policy: Policy, shares: tuple[float, ...]) -> None:
    """Users count with ``fair``, with ``round-robin`` they do not."""
    programs = [Program(1, "a", 0.01), Program(2, "a", 0.01), Program(3, "b", 0.01)]
    SharedCluster(programs, [4], policy).run(3.0)
    total = sum(len(program.ran) for program in programs)
    assert [len(program.ran) / total for program in programs] == pytest.approx(shares, abs=0.03)


def test_the_cluster_that_was_opened_first_has_all() -> None:
    programs = [Program(1, "a", 0.01, count=400), Program(2, "a", 0.01, begin=0.1, count=100)]
    SharedCluster(programs, [4], Policy.EARLY).run(3.0)
    # The last ones of the first do not use all CPUs.
    assert max(programs[0].told) - 0.07 < min(programs[1].told)


def test_an_exclusive_computation_waits_for_its_turn_and_has_all() -> None:
    programs = [
        Program(1, "a", 0.01),
        Program(2, "b", 0.01, begin=0.2, exclusive=True),
        Program(3, "c", 0.01, begin=0.3),
    ]
    cluster = SharedCluster(programs, [2])
    cluster.run(0.6)
    assert not programs[1].ran
    assert not programs[2].ran
    assert _why(cluster, 2) == "it waits: node n0: 1 cluster has to be closed before it is used exclusively"
    assert _why(cluster, 3) == "it waits: node n0: used exclusively by cluster f2 of b"
    cluster.handle(scheduling.CloseComputation(ClientId(1), 1))
    cluster.run(0.9)
    assert programs[1].ran
    assert not programs[2].ran
    cluster.handle(scheduling.RemoveClient(ClientId(2)))
    cluster.run(1.2)
    assert programs[2].ran


def test_a_limited_user_has_so_many_cpus() -> None:
    programs = [Program(1, "a", 0.02), Program(2, "a", 0.02), Program(3, "b", 0.02)]
    cluster = SharedCluster(programs, [4, 4])
    cluster.handle(scheduling.LimitUser("a", 1.0, cpus_max=2, queued_max=5000))
    cluster.run(2.0)
    # Jobs ahead of need might run at once with those before, so none are sent: some time passes between two.
    assert 0.1 < cluster.shares(0.5, 2.0)["a"] < 0.26
    assert _why(cluster, 1).startswith("it waits: node n0: a may use 2 CPUs at once; node n1: ")
    assert (
        room_in_queue(cluster.machine.state, ClientId(1)) == 5000 - programs[0].queued - programs[1].queued
    )
    assert room_in_queue(cluster.machine.state, ClientId(3)) is None
    cluster.handle(scheduling.LimitUser("a"))
    cluster.run(4.0)
    assert cluster.shares(2.5, 4.0)["a"] == pytest.approx(0.5, abs=0.03)


def test_whose_jobs_are_before() -> None:
    programs = [Program(client, "alice", 0.01) for client in (1, 2, 3)] + [Program(4, "bob", 0.01)]
    cluster = SharedCluster(programs, [2])
    cluster.run(1.0)
    said = {_why(cluster, client) for client in (1, 2, 3, 4)}
    assert any("of alice" in why and "before it" in why for why in said), said


def test_many_computations_put_no_more_on_a_node_than_one() -> None:
    """Before, each had the CPUs of the node and a backlog."""
    programs = [Program(client, "a", 0.001) for client in range(1, 101)]
    cluster = SharedCluster(programs, [2])
    most = 0
    while cluster.now < 0.7:
        cluster.run(cluster.now + 0.01)
        known = next(iter(cluster.machine.state.nodes.values()))
        most = max(most, known.assigned)
    # 50 ms of work for each of two CPUs, what runs, and one turn more than that.
    assert most <= 2 * 50 + 2 + 8 + 100 // 8


def test_an_embedded_scheduler_keeps_no_accounts() -> None:
    machine = scheduling.Machine()
    machine.handle(scheduling.AddComputation(EMBEDDED, 1, Compute(1, "f", b"")), 0.0)
    first = machine.state.computations[EMBEDDED, 1]
    assert first.party is None
    machine.handle(scheduling.NodeUp(NODE, "n", 2, False), 0.0)
    machine.handle(scheduling.Allocate(EMBEDDED, 1, NODE, 2), 0.0)
    for message in (node.ComputationReady(1), node.NodeCredit(2), node.Credit(1, 2, 4)):
        machine.handle(scheduling.FromNodeEvent(NODE, message), 0.0)
    machine.handle(scheduling.SubmitJobs(EMBEDDED, 1, [Job(n, 0, b"") for n in range(1, 5)]), 0.0)
    known = machine.state.nodes[NODE]
    assert (known.assigned, len(first.placements[NODE].assigned)) == (0, 4)
    machine.handle(scheduling.AddComputation(EMBEDDED, 2, Compute(2, "g", b"")), 0.0)
    assert known.assigned == 4, "from the second one on they are kept, of the first one, too"


def _why(cluster: SharedCluster, client: int) -> str:
    """Why the last job of a program waits."""
    computation = cluster.machine.state.computations[ClientId(client), 1]
    return why_open(computation, computation.queue[-1].number)


def _lines_of_an_end(count: int) -> int:
    """Lines of the scheduler that run when a job ends, while so many clusters of its program wait for a limit."""
    machine = scheduling.Machine()
    machine.handle(scheduling.NodeUp(NODE, "n", 4, False), 0.0)
    machine.handle(scheduling.AddClient(ClientId(1), "a"), 0.0)
    machine.handle(scheduling.FromNodeEvent(NODE, node.NodeCredit(4)), 0.0)
    for number in range(1, count + 1):
        machine.handle(scheduling.AddComputation(ClientId(1), number, Compute(number, "f", b"")), 0.0)
        machine.handle(scheduling.Allocate(ClientId(1), number, NODE, 4), 0.0)
        for message in (node.ComputationReady(number), node.Credit(number, 4, 8, "", 10_000)):
            machine.handle(scheduling.FromNodeEvent(NODE, message), 0.0)
    machine.handle(scheduling.LimitClient(ClientId(1), NODE, 2), 0.0)
    for number in range(1, count + 1):
        jobs = [Job(job, 0, b"") for job in range(1, 100)]
        machine.handle(scheduling.SubmitJobs(ClientId(1), number, jobs), 0.0)
    quota = machine.state.lines.programs[ClientId(1)].quotas[NODE]
    assert (quota.assigned, len(quota.held)) == (2, count)
    lines = 0

    def trace(frame: FrameType, what: str, _: Any) -> Any:
        nonlocal lines
        lines += what == "line"
        return trace

    ended = [Ended(1, 0, FINISHED, 0.0, 0.01, b"")]
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        machine.handle(scheduling.FromNodeEvent(NODE, node.JobsEnded(1, 1, ended)), 1.0)
    finally:
        sys.settrace(before)
    assert quota.assigned == 2
    return lines


def test_a_limit_of_a_program_costs_no_more_with_more_clusters() -> None:
    assert _lines_of_an_end(200) <= _lines_of_an_end(5) + 20
