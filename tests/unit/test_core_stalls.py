"""What stands still is found, and what only takes its time is not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dispy.core import execution as on_node
from dispy.core import scheduling as core
from dispy.core.execution import Machine as NodeMachine
from dispy.core.execution.explain import find_stall as find_stall_on_node
from dispy.core.scheduling import Machine
from dispy.core.scheduling.explain import find_stall
from dispy.protocol import node, shared
from dispy.protocol.files import FileEntry
from dispy.protocol.node import Compute, Job
from dispy.protocol.worker import claim
from dispy.scheduler.daemon.standstills import tell_standstills
from dispy.system.watchdog import Stall
from tests.models.hub import NODE as THERE
from tests.models.hub import Stage

CLIENT = on_node.ClientId(b"c" * 16)
NODE = core.NodeId(b"n" * 16)


def test_what_stands_still_is_said_once_and_again_after_it_has_moved() -> None:
    stall = Stall(10.0)
    found = ["a"] * 12 + ["b"] * 11 + [""] * 7 + ["b"] * 12
    assert [at for at, text in enumerate(found) if stall.look(text, at)] == [10, 22, 40]


def test_who_stood_still_itself_has_seen_nothing() -> None:
    stall = Stall(10.0)
    looks = [*range(5), *range(30, 50)]
    assert [at for at in looks if stall.look("a", at)] == [40]
    assert not any(stall.look("a", at) for at in range(70, 90)), "it has been said"


ENTRY = FileEntry("data.bin", b"d" * 32, 10, 0o644, 0)


def busy_node(files: list[node.JobFiles] | None = None) -> tuple[NodeMachine, on_node.Offer]:
    """A node of one CPU with one job running and one behind it."""
    machine = NodeMachine(1)
    machine.handle(on_node.ClientAttached(CLIENT, "program", 0), 0.0)
    machine.handle(on_node.FromClient(CLIENT, Compute(1, "f", b"")), 0.0)
    machine.handle(on_node.HostReady((CLIENT, 1)), 0.0)
    jobs = node.RunJobs(1, [Job(1, 0, b""), Job(2, 0, b"")], files=files or [])
    actions = machine.handle(on_node.FromClient(CLIENT, jobs), 0.0)
    if files:
        actions = machine.handle(on_node.JobFilesReady((CLIENT, 1), 1, 0), 0.0)
    return machine, next(action for action in actions if isinstance(action, on_node.Offer))


def test_a_worker_that_does_not_begin() -> None:
    machine, offer = busy_node()
    found = find_stall_on_node(machine.state)
    assert found == "a process for f of program was given job 1 and has not begun it"
    machine.handle(on_node.Tick({offer.worker: (claim(offer.record.record, 0), 1.0)}), 1.0)
    assert find_stall_on_node(machine.state) == ""


def test_a_worker_that_waits_for_files_of_its_job() -> None:
    """They may have the names of files that the job of another worker has, as long as that runs."""
    machine, offer = busy_node([node.JobFiles(number, [ENTRY]) for number in (1, 2)])
    assert [job.number for job in offer.record.jobs] == [1]
    assert find_stall_on_node(machine.state) == ""


def test_jobs_that_wait_beside_a_free_cpu() -> None:
    """It takes a fault to get there: here, CPUs that nobody was told of."""
    machine, offer = busy_node()
    machine.handle(on_node.Tick({offer.worker: (claim(offer.record.record, 0), 1.0)}), 1.0)
    assert find_stall_on_node(machine.state) == ""
    machine.state.cpus = 3
    assert find_stall_on_node(machine.state) == (
        "1 job of f of program waits, from number 2, and 2 of 3 CPUs free"
    )


def scheduler(**granted: Any) -> Machine:
    """Two computations, a node of two CPUs, three jobs of the first one."""
    machine = Machine()
    machine.handle(core.NodeUp(NODE, "node", 2, False), 0.0)
    for number in (1, 2):
        machine.handle(core.AddComputation(core.EMBEDDED, number, Compute(number, "f", b""), False), 0.0)
        machine.handle(core.Allocate(core.EMBEDDED, number, NODE, 2), 0.0)
        machine.handle(core.FromNodeEvent(NODE, node.ComputationReady(number)), 0.0)
        machine.handle(core.FromNodeEvent(NODE, node.Credit(number, **granted)), 0.0)
    machine.handle(core.SubmitJobs(core.EMBEDDED, 1, [Job(n, 0, b"") for n in (1, 2, 3)]), 0.0)
    return machine


def stalled(machine: Machine, number: int = 1) -> str:
    return find_stall(machine.state.computations[core.EMBEDDED, number])


def test_a_node_that_begins_nothing() -> None:
    machine = scheduler(slots=2, backlog=0)
    assert stalled(machine) == "node node has 2 jobs, from number 1, and has begun none of them"
    assert stalled(machine, 2) == ""
    machine.handle(core.FromNodeEvent(NODE, node.JobsStarted(1, [node.Started(1, 0, 1.0)])), 1.0)
    assert stalled(machine) == ""


def test_jobs_that_are_not_sent() -> None:
    machine = scheduler(slots=2, backlog=0)
    computation = machine.state.computations[core.EMBEDDED, 1]
    placement = computation.placements[NODE]
    computation.free[NODE] = placement  # type: ignore[index]
    placement.slots = 3
    assert stalled(machine) == "1 job waits, and node node has room"


@pytest.mark.parametrize("case", ["of this program", "of another", "link", "files"])
def test_cpus_that_are_used_by_others_are_a_reason(case: str) -> None:
    machine = scheduler(slots=2, backlog=0)
    if case == "of this program":
        machine.handle(core.SubmitJobs(core.EMBEDDED, 2, [Job(9, 0, b"")]), 0.0)
        machine.handle(core.FromNodeEvent(NODE, node.JobsStarted(2, [node.Started(9, 0, 1.0)])), 1.0)
    elif case == "files":
        machine.state.computations[core.EMBEDDED, 1].files[2] = [ENTRY]
    elif case == "of another":
        machine.handle(core.FromNodeEvent(NODE, node.Credit(1, 2, 0, "shared with another")), 0.0)
    else:
        machine.handle(core.NodeSilent(NODE), 0.0)
    assert stalled(machine) == ""


def test_a_shared_scheduler_tells_programs_once_what_stands_still() -> None:
    """And when it has moved; those that are away hear nothing."""

    async def play() -> None:
        stage = Stage()
        program = stage.program(b"v" * 16)

        def look() -> list[str]:
            for _ in range(3):
                tell_standstills(stage.hub.service, [program])
            kept = program.channel._sent.kept
            return [message.reason for message in kept if type(message) is shared.Standstill]

        said = "node n has 3 jobs, from number 1, and has begun none of them"
        assert look() == [said]
        wire = stage.hub.service.state.computations[core.ClientId(1), 1].wire
        started = node.JobsStarted(wire, [node.Started(1, 0, 1.0)])
        stage.hub.service.handle(core.FromNodeEvent(THERE, started))
        assert look() == [said, ""]
        program.connection = None
        stage.hub.service.state.computations[core.ClientId(1), 1].placements[THERE].started.clear()
        assert look() == [said, ""]

    asyncio.run(play())
