"""What the machines decide about files: nothing runs before its files are there, and nothing waits for ever."""

from __future__ import annotations

import pytest
from msgspec import structs

from dispy.core import execution as execution
from dispy.core import scheduling as core
from dispy.core.execution import Machine as NodeMachine
from dispy.core.execution.ids import ClientId
from dispy.core.scheduling import Machine
from dispy.core.scheduling.explain import why_full
from dispy.core.scheduling.ids import NodeId
from dispy.protocol import node
from dispy.protocol.files import FileEntry
from dispy.protocol.limits import FILES_MAX, JOB_FILES_MAX
from dispy.protocol.node import CANCELLED, FINISHED, TERMINATED, Attempt, Compute, Ended, Job, JobFiles

CLIENT = ClientId(b"c" * 16)
KEY = (CLIENT, 1)
NODE, OTHER = NodeId(b"n" * 16), NodeId(b"o" * 16)
ENTRY = FileEntry("a", bytes(32), 1, 0o644, 0)


def at(path: str) -> FileEntry:
    return structs.replace(ENTRY, path=path)


# On a node.


def started(files: list[FileEntry], life: int = 0) -> tuple[NodeMachine, list[execution.Action]]:
    machine = NodeMachine(2)
    machine.handle(execution.ClientAttached(CLIENT, "client", 0), 0.0)
    return machine, say(machine, Compute(1, "f", b"", files=files, life=life))


def ready() -> NodeMachine:
    machine, _ = started([])
    machine.handle(execution.HostReady(KEY), 0.0)
    return machine


def say(machine: NodeMachine, message: node.ToNode) -> list[execution.Action]:
    return machine.handle(execution.FromClient(CLIENT, message), 0.0)


def kinds(actions: list[execution.Action]) -> list[str]:
    return [type(action).__name__ for action in actions]


def told(actions: list[execution.Action]) -> list[node.FromNode]:
    return [action.message for action in actions if isinstance(action, execution.Tell)]


def unstaged(actions: list[execution.Action]) -> list[list[int]]:
    return [action.numbers for action in actions if isinstance(action, execution.UnstageJobs)]


def offered(actions: list[execution.Action]) -> list[list[int]]:
    return [[job.number for job in a.record.jobs] for a in actions if isinstance(a, execution.Offer)]


def test_a_host_starts_when_the_files_are_there() -> None:
    machine, actions = started([ENTRY])
    assert "StageFiles" in kinds(actions)
    assert "StartHost" not in kinds(actions)
    assert "StartHost" in kinds(machine.handle(execution.FilesReady(KEY, 0), 0.0))
    _, actions = started([])
    assert "StartHost" in kinds(actions)


def test_files_that_cannot_be_had_end_a_computation() -> None:
    machine, _ = started([ENTRY])
    (failed,) = told(machine.handle(execution.FilesFailed(KEY, 0, "no room"), 0.0))
    assert isinstance(failed, node.ComputationFailed)
    assert failed.reason == "no room"
    assert not machine.state.computations


def test_files_of_a_former_stay_mean_nothing() -> None:
    machine, _ = started([ENTRY], life=1)
    assert machine.handle(execution.FilesReady(KEY, 0), 0.0) == []
    assert machine.handle(execution.FilesFailed(KEY, 0, "no room"), 0.0) == []
    assert machine.handle(execution.FilesReady((CLIENT, 2), 0), 0.0) == []
    assert "StartHost" in kinds(machine.handle(execution.FilesReady(KEY, 1), 0.0))


def test_a_job_waits_for_its_files_and_is_alone_in_its_record() -> None:
    machine = ready()
    jobs = [Job(number, 0, b"") for number in range(1, 5)]
    actions = say(machine, node.RunJobs(1, jobs, [], [JobFiles(2, [ENTRY])]))
    assert offered(actions) == [[1], [3]]
    assert [a.number for a in actions if isinstance(a, execution.StageJob)] == [2]
    assert offered(machine.handle(execution.JobFilesReady(KEY, 2, 1), 0.0)) == []  # of another attempt
    assert offered(machine.handle(execution.JobFilesReady(KEY, 2, 0), 0.0)) == []
    worker = next(iter(machine.state.workers.values()))
    ended = [Ended(1, 0, FINISHED, 0.0, 1e-6, b"")]
    record = worker.records[0].record
    assert offered(machine.handle(execution.Ran(worker.id, record, 1, True, False, ended), 0.0)) == [[4]]
    other = next(w for w in machine.state.workers.values() if w is not worker)
    ended = [Ended(3, 0, FINISHED, 0.0, 1e-6, b"")]
    actions = machine.handle(execution.Ran(other.id, other.records[0].record, 1, True, False, ended), 0.0)
    assert offered(actions) == [[2]]


@pytest.mark.parametrize("stream", [0, 7])
def test_a_job_whose_files_cannot_be_had_ends(stream: int) -> None:
    machine = ready()
    say(
        machine,
        node.RunJobs(
            1, [Job(1, 0, b"", node.Segment(stream) if stream else None)], [], [JobFiles(1, [ENTRY])]
        ),
    )
    actions = machine.handle(execution.JobFilesReady(KEY, 1, 0, "it has changed"), 0.0)
    (batch,) = [message for message in told(actions) if isinstance(message, node.JobsEnded)]
    assert [(e.number, e.status, e.reason, e.ran) for e in batch.ended] == [
        (1, TERMINATED, "it has changed", False)
    ]
    assert [a.segments for a in actions if isinstance(a, execution.Release)] == [[7]] * bool(stream)
    assert not machine.state.computations[KEY].open


def test_a_job_that_waits_for_its_files_can_be_cancelled() -> None:
    machine = ready()
    say(machine, node.RunJobs(1, [Job(1, 0, b"")], [], [JobFiles(1, [ENTRY])]))
    (batch,) = told(say(machine, node.CancelJobs(1, [Attempt(1, 0)])))
    assert isinstance(batch, node.JobsEnded)
    assert [(e.number, e.status) for e in batch.ended] == [(1, CANCELLED)]
    assert machine.handle(execution.JobFilesReady(KEY, 1, 0), 0.0) == []


def test_after_a_reconnect_a_job_that_waits_is_known_or_dropped() -> None:
    machine = ready()
    files = [JobFiles(1, [ENTRY]), JobFiles(2, [ENTRY])]
    say(machine, node.RunJobs(1, [Job(1, 0, b""), Job(2, 0, b"")], [], files))
    answer = told(say(machine, node.Reconcile([node.HeldJobs(1, [Attempt(2, 0)])], {1: 0})))[-1]
    assert answer == node.Reconciled([], [])
    assert machine.handle(execution.JobFilesReady(KEY, 1, 0), 0.0) == []
    assert offered(machine.handle(execution.JobFilesReady(KEY, 2, 0), 0.0)) == [[2]]


def test_who_recovers_a_dead_program_does_not_wait_for_its_files() -> None:
    machine = ready()
    say(machine, node.RunJobs(1, [Job(1, 0, b"")], [], [JobFiles(1, [ENTRY])]))
    actions = told(say(machine, node.Recover([1])))
    (batch,) = [message for message in actions if isinstance(message, node.JobsEnded)]
    assert [(e.number, e.status) for e in batch.ended] == [(1, TERMINATED)]
    (held,) = [message for message in actions if isinstance(message, node.Held)]
    assert held.open == []


@pytest.mark.parametrize(
    "event",
    [
        execution.FromClient(CLIENT, node.CancelJobs(1, [Attempt(n, 0) for n in (1, 2, 4)])),
        execution.FromClient(CLIENT, node.Reconcile([node.HeldJobs(1, [Attempt(3, 0)])], {1: 0})),
        execution.FromClient(CLIENT, node.Recover([1])),
    ],
    ids=["cancelled", "not known after a reconnect", "recovered"],
)
def test_files_of_jobs_that_leave_are_given_up(event: execution.Event) -> None:
    machine = ready()
    jobs = [Job(number, 0, b"") for number in range(1, 5)]
    files = [JobFiles(number, [ENTRY]) for number in range(1, 4)]
    say(machine, node.RunJobs(1, jobs, [], files))
    machine.handle(execution.JobFilesReady(KEY, 3, 0), 0.0)
    assert unstaged(machine.handle(event, 0.0)) == [[1, 2]], "those of job 3 are here, and job 4 has none"
    assert not machine.state.computations[KEY].staging
    assert unstaged(machine.handle(event, 0.0)) == []


# With a scheduler.


def scheduler(is_ready: bool = True) -> Machine:
    machine = Machine()
    machine.handle(core.AddComputation(core.EMBEDDED, 1, Compute(1, "f", b"", files=[ENTRY]), True), 0.0)
    machine.handle(core.NodeUp(NODE, "n", 2, False), 0.0)
    machine.handle(core.Allocate(core.EMBEDDED, 1, NODE, 2), 0.0)
    if is_ready:
        machine.handle(core.FromNodeEvent(NODE, node.ComputationReady(1)), 0.0)
        machine.handle(core.FromNodeEvent(NODE, node.Credit(1, 2, 8)), 0.0)
    return machine


def sent(actions: list[core.Action], kind: type[node.ToNode]) -> list[node.ToNode]:
    return [a.message for a in actions if isinstance(a, core.Send) and isinstance(a.message, kind)]


def heard(actions: list[core.Action]) -> list[tuple[int, str]]:
    return [(a.request, a.reason) for a in actions if isinstance(a, core.TellFiles)]


def test_a_node_may_have_files_of_its_own() -> None:
    machine = scheduler()
    machine.handle(core.NodeUp(OTHER, "o", 2, False), 0.0)
    own = FileEntry("b", bytes(32), 1, 0o644, 0)
    (compute,) = sent(
        machine.handle(core.Allocate(core.EMBEDDED, 1, OTHER, 2, files=[ENTRY, own]), 0.0), Compute
    )
    assert isinstance(compute, Compute)
    assert compute.files == [ENTRY, own]


def test_jobs_carry_their_files_wherever_they_go() -> None:
    """In messages of their own; also when they run again, and no longer when they have ended."""
    machine = scheduler()
    jobs = [Job(number, 0, b"") for number in range(1, 5)]
    batches = sent(
        machine.handle(core.SubmitJobs(core.EMBEDDED, 1, jobs, None, {2: [ENTRY], 3: [ENTRY]}), 0.0),
        node.RunJobs,
    )
    found = [
        ([j.number for j in m.jobs], [f.number for f in m.files])
        for m in batches
        if isinstance(m, node.RunJobs)
    ]
    assert found == [([1], []), ([2], [2]), ([3], [3]), ([4], [])]
    machine.handle(core.FromNodeEvent(NODE, node.JobsEnded(1, 1, [Ended(2, 0, FINISHED, 0, 0, b"")])), 0.0)
    assert list(machine.state.computations[core.EMBEDDED, 1].files) == [3]
    machine.handle(core.NodeLost(NODE, "gone"), 0.0)
    machine.handle(core.NodeUp(OTHER, "o", 2, False), 0.0)
    machine.handle(core.Allocate(core.EMBEDDED, 1, OTHER, 2), 0.0)
    machine.handle(core.FromNodeEvent(OTHER, node.ComputationReady(1)), 0.0)
    batches = sent(machine.handle(core.FromNodeEvent(OTHER, node.Credit(1, 2, 8)), 0.0), node.RunJobs)
    found = [
        ([j.number for j in m.jobs], [f.number for f in m.files])
        for m in batches
        if isinstance(m, node.RunJobs)
    ]
    assert found == [([1], []), ([3], [3]), ([4], [])]
    machine.handle(core.CancelJobs(core.EMBEDDED, 1, [3]), 0.0)
    machine.handle(core.FromNodeEvent(OTHER, node.JobsReturned(1, [Attempt(3, 1)])), 0.0)
    assert not machine.state.computations[core.EMBEDDED, 1].files


def test_files_are_sent_when_there_is_a_place_for_them() -> None:
    machine = scheduler(is_ready=False)
    message = node.PlaceFiles(1, 5, [ENTRY])
    assert machine.handle(core.SendFiles(core.EMBEDDED, NODE, message), 0.0) == []
    assert sent(
        machine.handle(core.FromNodeEvent(NODE, node.ComputationReady(1)), 0.0), node.PlaceFiles
    ) == [message]
    machine.handle(core.NodeSilent(NODE), 0.0)
    machine.handle(core.NodeUp(NODE, "n", 2, True), 0.0)
    actions = machine.handle(core.FromNodeEvent(NODE, node.Reconciled([], [])), 0.0)
    assert sent(actions, node.PlaceFiles) == [message]
    assert heard(machine.handle(core.FromNodeEvent(NODE, node.FilesPlaced(1, 5, "no room")), 0.0)) == [
        (5, "no room")
    ]
    assert heard(machine.handle(core.FromNodeEvent(NODE, node.FilesPlaced(1, 5)), 0.0)) == []


def test_files_that_were_sent_come_with_the_computation_when_it_is_loaded_again() -> None:
    """In place of those whose paths they have; not those that could not be put there."""
    machine = scheduler()
    newer = FileEntry("a", b"\1" * 32, 2, 0o644, 0)
    for request, entry, reason in ((5, ENTRY, ""), (6, newer, ""), (7, at("b"), "no room")):
        machine.handle(core.SendFiles(core.EMBEDDED, NODE, node.PlaceFiles(1, request, [entry])), 0.0)
        machine.handle(core.FromNodeEvent(NODE, node.FilesPlaced(1, request, reason)), 0.0)
    late = node.PlaceFiles(1, 8, [at("c")])
    machine.handle(core.SendFiles(core.EMBEDDED, NODE, late), 0.0)
    machine.handle(core.SubmitJobs(core.EMBEDDED, 1, [Job(1, 0, b"")]), 0.0)
    back = node.JobsReturned(1, [Attempt(1, 0)], "computation not known here")
    (compute,) = sent(machine.handle(core.FromNodeEvent(NODE, back), 0.0), Compute)
    assert compute.files == [newer]
    assert machine.state.computations[core.EMBEDDED, 1].compute.files == [ENTRY], (
        "other nodes get them, too"
    )
    ready = machine.handle(core.FromNodeEvent(NODE, node.ComputationReady(1)), 0.0)
    assert sent(ready, node.PlaceFiles) == [late], "what was not there yet is not put there again"


def test_a_node_is_not_sent_more_files_than_it_could_be_told_of_again() -> None:
    machine = scheduler()
    for request in (1, 2):
        files = [at(f"{request}/{number}") for number in range(FILES_MAX // 2 - (request - 1))]
        machine.handle(core.SendFiles(core.EMBEDDED, NODE, node.PlaceFiles(1, request, files)), 0.0)
        if request == 1:
            machine.handle(core.FromNodeEvent(NODE, node.FilesPlaced(1, request)), 0.0)
    refused = machine.handle(core.SendFiles(core.EMBEDDED, NODE, node.PlaceFiles(1, 3, [at("more")])), 0.0)
    assert heard(refused) == [
        (3, f"with these the computation would have {FILES_MAX + 1} files; {FILES_MAX} are allowed")
    ]
    again = node.PlaceFiles(1, 4, files[:1])
    assert sent(machine.handle(core.SendFiles(core.EMBEDDED, NODE, again), 0.0), node.PlaceFiles) == [again]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (core.NodeLost(NODE, "gone"), "gone"),
        (core.CloseComputation(core.EMBEDDED, 1), "the cluster was closed"),
        (core.FromNodeEvent(NODE, node.ComputationFailed(1, "broken")), "broken"),
        (core.Allocate(core.EMBEDDED, 1, NODE, 0), "the node was closed for this computation"),
    ],
)
def test_who_waits_for_files_to_be_sent_is_told(event: core.Event, reason: str) -> None:
    machine = scheduler()
    machine.handle(core.SendFiles(core.EMBEDDED, NODE, node.PlaceFiles(1, 5, [ENTRY])), 0.0)
    assert heard(machine.handle(event, 0.0)) == [(5, reason)]
    again = heard(machine.handle(core.SendFiles(core.EMBEDDED, NODE, node.PlaceFiles(1, 6, [ENTRY])), 0.0))
    assert [request for request, _ in again] == [6]
    assert again[0][1]


def test_a_node_has_no_more_jobs_than_it_can_list_the_files_of() -> None:
    """The others wait here, and go there as those end. Jobs that bring few files are not concerned."""
    machine = scheduler()
    machine.handle(core.FromNodeEvent(NODE, node.Credit(1, 8, 100)), 0.0)

    def submit(numbers: range, files: list[FileEntry]) -> int:
        jobs = [Job(number, 0, b"") for number in numbers]
        event = core.SubmitJobs(core.EMBEDDED, 1, jobs, None, dict.fromkeys(numbers, files))
        return len(sent(machine.handle(event, 0.0), node.RunJobs))

    assert submit(range(1, 51), [ENTRY]) == 50
    most = JOB_FILES_MAX // FILES_MAX
    assert submit(range(101, 161), [ENTRY] * FILES_MAX) == 0
    assigned = machine.state.nodes[NODE].placements[1].assigned
    for number in range(1, 51):
        ended = [Ended(number, 0, FINISHED, 0.0, 0.0, b"")]
        machine.handle(core.FromNodeEvent(NODE, node.JobsEnded(number, 1, ended)), 0.0)
        assert len(assigned) <= max(most, 50 - number)
    assert len(assigned) >= most - most // 8, "room is filled by eighths"


def test_what_a_node_waits_for_is_said() -> None:
    machine = scheduler(is_ready=False)
    placement = machine.state.nodes[NODE].placements[1]
    assert why_full(placement) == "it is loading the computation, or runs its setup"
    for progress, words in (
        (node.FilesProgress(1, 3, 10, 12_400_000, 200_000_001), "3 of 10, 12 of 201 MB"),
        (node.FilesProgress(1, 0, 1, 0, 300), "0 of 1, 0 of 1 kB"),
    ):
        machine.handle(core.FromNodeEvent(NODE, progress), 0.0)
        assert why_full(placement) == f"it is receiving files: {words}"
    machine.handle(core.FromNodeEvent(NODE, node.ComputationReady(1)), 0.0)
    assert "files" not in why_full(placement)
