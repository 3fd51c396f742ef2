"""The scheduling machine where numbers matter: limits of messages, shares, clean ends."""

from __future__ import annotations

import pytest

from dispy.core import scheduling as core
from dispy.core.scheduling import Machine
from dispy.core.scheduling.explain import why_open
from dispy.core.scheduling.ids import ClientId, NodeId
from dispy.protocol import node
from dispy.protocol.limits import BATCH_MAX, BATCH_SIZE_MAX, INLINE_MAX, OBJECTS_MAX
from dispy.protocol.node import Attempt, Compute, Ended, Job

NODE = NodeId(b"n" * 16)


def machine_with_node(slots: int, backlog: int = 0, is_reentrant: bool = False) -> Machine:
    """A machine with computation 1 ready on one node."""
    machine = Machine()
    machine.handle(core.AddComputation(core.EMBEDDED, 1, Compute(1, "f", b""), is_reentrant), 0.0)
    machine.handle(core.NodeUp(NODE, "n", slots, False), 0.0)
    machine.handle(core.Allocate(core.EMBEDDED, 1, NODE, slots), 0.0)
    machine.handle(core.FromNodeEvent(NODE, node.ComputationReady(1)), 0.0)
    machine.handle(core.FromNodeEvent(NODE, node.Credit(1, slots, backlog)), 0.0)
    return machine


def jobs(count: int, first: int = 1) -> list[Job]:
    return [Job(number, 0, b"") for number in range(first, first + count)]


def sent(actions: list[core.Action], kind: type[node.ToNode]) -> list[node.ToNode]:
    return [a.message for a in actions if isinstance(a, core.Send) and isinstance(a.message, kind)]


@pytest.mark.parametrize(("count", "sizes"), [
    (BATCH_MAX, [BATCH_MAX]),
    (BATCH_MAX + 1, [BATCH_MAX, 1]),
    (2 * BATCH_MAX, [BATCH_MAX, BATCH_MAX]),
])  # fmt: skip
def test_messages_of_jobs_keep_to_the_limit(count: int, sizes: list[int]) -> None:
    """What is sent, sent again, or cancelled is cut into messages that a node accepts."""
    machine = machine_with_node(count)
    batches = sent(machine.handle(core.SubmitJobs(core.EMBEDDED, 1, jobs(count)), 0.0), node.RunJobs)
    assert [len(batch.jobs) for batch in batches if isinstance(batch, node.RunJobs)] == sizes
    cancels = sent(
        machine.handle(core.CancelJobs(core.EMBEDDED, 1, list(range(1, count + 1))), 0.0), node.CancelJobs
    )
    assert [len(m.attempts) for m in cancels if isinstance(m, node.CancelJobs)] == sizes


@pytest.mark.parametrize("kind", [node.RunJobs, node.CancelJobs])
def test_a_reconnect_keeps_to_the_limit(kind: type[node.ToNode]) -> None:
    """After a reconnect, jobs that did not arrive and cancels that were lost are sent in parts."""
    count = BATCH_MAX + 5
    machine = machine_with_node(count)
    machine.handle(core.SubmitJobs(core.EMBEDDED, 1, jobs(count)), 0.0)
    machine.handle(core.NodeSilent(NODE), 0.0)
    missing = [Attempt(number, 0) for number in range(1, count + 1)]
    if kind is node.CancelJobs:
        machine.handle(core.CancelJobs(core.EMBEDDED, 1, [a.number for a in missing]), 0.0)
        missing = []
    machine.handle(core.NodeUp(NODE, "n", count, True), 0.0)
    messages = sent(
        machine.handle(core.FromNodeEvent(NODE, node.Reconciled([node.HeldJobs(1, missing)], [])), 0.0),
        kind,
    )
    sizes = [len(m.jobs if isinstance(m, node.RunJobs) else m.attempts) for m in messages]  # type: ignore[union-attr]  # one of the two
    assert sizes == [BATCH_MAX, 5]


def test_jobs_of_middling_size_are_sent_in_several_messages() -> None:
    """By the bytes that are in the messages: a large payload is not, wherever it stands in the queue."""
    machine = machine_with_node(5000)
    small, large = bytes(6800), bytes(INLINE_MAX)
    submitted = [Job(number, 0, large if number % 10 == 0 else small) for number in range(1, 3001)]
    batches = sent(machine.handle(core.SubmitJobs(core.EMBEDDED, 1, submitted), 0.0), node.RunJobs)
    runs = [batch.jobs for batch in batches if isinstance(batch, node.RunJobs)]
    assert [job for run in runs for job in run] == submitted
    sizes = [sum(len(job.payload) for job in run if job.payload is small) for run in runs]
    assert len(runs) == -(-sum(sizes) // (BATCH_SIZE_MAX // 6800 * 6800))
    assert max(sizes) <= BATCH_SIZE_MAX


def test_more_objects_than_a_node_can_have_are_dropped_in_parts() -> None:
    """After a reconnect, drops that may have been lost are told again with those of objects that came since."""
    machine = machine_with_node(1)
    machine.state.computations[core.EMBEDDED, 1].placements[NODE].stored.update(range(1, OBJECTS_MAX + 2))
    drops = sent(machine.handle(core.DropObjects(core.EMBEDDED, 1, [1]), 0.0), node.DropObjects)
    assert [len(drop.numbers) for drop in drops if isinstance(drop, node.DropObjects)] == [OBJECTS_MAX, 1]


def test_a_node_back_with_other_cpus_is_known_so() -> None:
    """What a node offered while the link was broken is in its welcome."""
    machine = machine_with_node(2)
    machine.handle(core.NodeSilent(NODE), 0.0)
    machine.handle(core.NodeUp(NODE, "n", 7, True), 0.0)
    assert machine.state.nodes[NODE].cpus == 7


def test_a_silent_node_is_sent_nothing() -> None:
    """A computation that it should have gets there with the comparison after the reconnect."""
    machine = machine_with_node(2)
    machine.handle(core.NodeSilent(NODE), 0.0)
    machine.handle(core.AddComputation(core.EMBEDDED, 2, Compute(2, "g", b"")), 0.0)
    actions = machine.handle(core.Allocate(core.EMBEDDED, 2, NODE, 2), 0.0)
    assert [type(action) for action in actions] == [core.TellPlacement]
    up = machine.handle(core.NodeUp(NODE, "n", 2, True), 0.0)
    assert sent(up, node.Reconcile) == [node.Reconcile([], {1: 0, 2: 0})]


def test_a_closed_computation_leaves_silent_nodes_without_a_word() -> None:
    """They learn of it when they compare what they hold."""
    machine = machine_with_node(2)
    machine.handle(core.NodeSilent(NODE), 0.0)
    assert machine.handle(core.CloseComputation(core.EMBEDDED, 1), 0.0) == []
    up = machine.handle(core.NodeUp(NODE, "n", 2, True), 0.0)
    assert sent(up, node.Reconcile) == [node.Reconcile([], {})]


def test_cancelled_jobs_do_not_stay_in_the_queue() -> None:
    """Where one is left that waits long: they leave it when they are half of it."""
    machine = machine_with_node(1)
    machine.handle(core.SubmitJobs(core.EMBEDDED, 1, jobs(1001)), 0.0)
    computation = machine.state.computations[core.EMBEDDED, 1]
    for number in range(2, 1001):
        machine.handle(core.CancelJobs(core.EMBEDDED, 1, [number]), 0.0)
        assert len(computation.cancelled) <= len(computation.queue) / 2
    assert len(computation.queue) <= 2
    assert computation.queue[-1].number == 1001
    assert computation.open == 2


def test_cancelled_jobs_are_not_remembered_for_ever() -> None:
    """Their numbers leave with the queue they lie in."""
    machine = machine_with_node(1)
    machine.handle(core.SubmitJobs(core.EMBEDDED, 1, jobs(5)), 0.0)
    computation = machine.state.computations[core.EMBEDDED, 1]
    machine.handle(core.CancelJobs(core.EMBEDDED, 1, [3, 5]), 0.0)
    assert computation.cancelled == {3, 5}
    machine.handle(core.CancelJobs(core.EMBEDDED, 1, [2, 4]), 0.0)
    assert not computation.cancelled
    assert not computation.queue


def test_unknown_messages_and_nodes_are_passed_over() -> None:
    """A machine may be older than the node, and the node older than its last message."""
    machine = machine_with_node(1)
    assert machine.handle(core.FromNodeEvent(NODE, node.Leaving("bye")), 0.0) == []
    assert machine.handle(core.FromNodeEvent(NodeId(b"x" * 16), node.NodeCpus(1)), 0.0) == []


def test_placing_costs_the_same_whatever_waits() -> None:
    """A result moves one job, not the queue: the actions of an event do not grow with the jobs waiting."""
    machine = machine_with_node(1)
    machine.handle(core.SubmitJobs(core.EMBEDDED, 1, jobs(50_000)), 0.0)
    ended = node.Ended(1, 0, node.FINISHED, 0.0, 0.0, b"")
    actions = machine.handle(core.FromNodeEvent(NODE, node.JobsEnded(1, 1, [ended])), 0.0)
    runs = sent(actions, node.RunJobs)
    assert [job.number for run in runs if isinstance(run, node.RunJobs) for job in run.jobs] == [2]


# Objects.


def put(number: int) -> core.PutObject:
    return core.PutObject(core.EMBEDDED, node.PutObject(1, number, b"data"))


def stored(number: int, reason: str = "") -> core.FromNodeEvent:
    return core.FromNodeEvent(NODE, node.ObjectStored(1, number, reason))


def test_jobs_go_after_the_objects_that_they_may_read() -> None:
    machine = machine_with_node(2)
    assert sent(machine.handle(put(1), 0.0), node.PutObject) == [put(1).message]
    assert not sent(machine.handle(core.SubmitJobs(core.EMBEDDED, 1, jobs(2)), 0.0), node.RunJobs)
    machine.handle(put(2), 0.0)
    assert not sent(machine.handle(stored(1), 0.0), node.RunJobs)
    assert len(sent(machine.handle(stored(2), 0.0), node.RunJobs)) == 1


def test_an_object_that_finds_no_room_is_sent_again_with_the_credit_and_jobs_wait() -> None:
    machine = machine_with_node(2)
    machine.handle(put(1), 0.0)
    machine.handle(core.FromNodeEvent(NODE, node.Credit(1, 0, 0, "it is full")), 0.0)
    refused = node.ObjectStored(1, 1, "it is full", again=True)
    assert not sent(machine.handle(core.FromNodeEvent(NODE, refused), 0.0), node.PutObject)
    actions = machine.handle(core.SubmitJobs(core.EMBEDDED, 1, jobs(2)), 0.0)
    assert not sent(actions, node.RunJobs)
    assert "it is full" in why_open(machine.state.computations[core.EMBEDDED, 1], 1)
    actions = machine.handle(core.FromNodeEvent(NODE, node.Credit(1, 2, 0)), 0.0)
    assert sent(actions, node.PutObject) == [put(1).message]
    assert not sent(actions, node.RunJobs)
    assert not sent(machine.handle(core.FromNodeEvent(NODE, node.Credit(1, 2, 1)), 0.0), node.PutObject)
    assert len(sent(machine.handle(stored(1), 0.0), node.RunJobs)) == 1


def test_an_object_that_found_no_room_and_is_dropped_is_not_sent_again() -> None:
    machine = machine_with_node(1)
    machine.handle(put(1), 0.0)
    machine.handle(core.FromNodeEvent(NODE, node.ObjectStored(1, 1, "full", again=True)), 0.0)
    machine.handle(core.DropObjects(core.EMBEDDED, 1, [1]), 0.0)
    actions = machine.handle(core.FromNodeEvent(NODE, node.Credit(1, 1, 0)), 0.0)
    assert [type(action) for action in actions] == [core.TellPlacement]


def test_a_node_that_comes_gets_all_objects() -> None:
    machine = machine_with_node(1)
    other = NodeId(b"o" * 16)
    for event in (put(1), stored(1), put(2), stored(2), core.DropObjects(core.EMBEDDED, 1, [1])):
        machine.handle(event, 0.0)
    machine.handle(core.NodeUp(other, "o", 1, False), 0.0)
    machine.handle(core.Allocate(core.EMBEDDED, 1, other, 1), 0.0)
    actions = machine.handle(core.FromNodeEvent(other, node.ComputationReady(1)), 0.0)
    assert sent(actions, node.PutObject) == [put(2).message]


def test_an_object_that_is_dropped_on_its_way_is_dropped_when_it_has_arrived() -> None:
    machine = machine_with_node(1)
    machine.handle(put(1), 0.0)
    assert not machine.handle(core.DropObjects(core.EMBEDDED, 1, [1]), 0.0)
    assert sent(machine.handle(stored(1), 0.0), node.DropObjects) == [node.DropObjects(1, [1])]
    assert not sent(machine.handle(stored(1), 0.0), node.DropObjects)


def test_a_reconnect_sends_what_may_have_been_lost() -> None:
    machine = machine_with_node(1)
    for event in (put(1), stored(1), put(2), put(3), core.NodeSilent(NODE)):
        machine.handle(event, 0.0)
    assert not machine.handle(core.DropObjects(core.EMBEDDED, 1, [1, 3]), 0.0)
    machine.handle(core.NodeUp(NODE, "n", 1, True), 0.0)
    actions = machine.handle(core.FromNodeEvent(NODE, node.Reconciled([], [])), 0.0)
    assert sent(actions, node.PutObject) == [put(2).message]
    assert sent(actions, node.DropObjects) == [node.DropObjects(1, [1, 3])], "3 may have arrived"


def test_a_node_that_forgot_the_computation_gets_its_objects_again() -> None:
    machine = machine_with_node(1)
    for event in (put(1), stored(1), core.NodeSilent(NODE), core.NodeUp(NODE, "n", 1, True)):
        machine.handle(event, 0.0)
    machine.handle(core.FromNodeEvent(NODE, node.Reconciled([], [1])), 0.0)
    actions = machine.handle(core.FromNodeEvent(NODE, node.ComputationReady(1)), 0.0)
    assert sent(actions, node.PutObject) == [put(1).message]


def test_a_node_without_room_keeps_what_runs_and_gets_nothing_new() -> None:
    machine = machine_with_node(1, backlog=8)
    machine.handle(core.SubmitJobs(core.EMBEDDED, 1, jobs(3)), 0.0)
    started = node.JobsStarted(1, [node.Started(1, 0, 1.0)])
    machine.handle(core.FromNodeEvent(NODE, started), 0.0)
    machine.handle(put(1), 0.0)
    actions = machine.handle(stored(1, "no room"), 0.0)
    assert sent(actions, node.TakeBack) == [node.TakeBack(1, 2)]
    assert core.TellNode(ClientId(0), 1, NODE, False, "no room") in actions
    returned = node.JobsReturned(1, [Attempt(2, 0), Attempt(3, 0)])
    actions = machine.handle(core.FromNodeEvent(NODE, returned), 0.0)
    (told,) = [action for action in actions if isinstance(action, core.TellEndedHere)]
    assert sorted(told.numbers) == [2, 3]
    assert told.reason == "no node can run this computation: no room"
    result = node.JobsEnded(1, 1, [node.Ended(1, 0, node.FINISHED, 1.0, 2.0, b"")])
    actions = machine.handle(core.FromNodeEvent(NODE, result), 0.0)
    assert [e.number for a in actions if isinstance(a, core.TellEnded) for e in a.ended] == [1]


# Deaths.


def died(number: int, attempt: int) -> core.FromNodeEvent:
    ended = node.Ended(number, attempt, node.TERMINATED, 1.0, 2.0, b"", reason="killed", died=True)
    return core.FromNodeEvent(NODE, node.JobsEnded(1, 1, [ended]))


def test_a_job_that_may_run_again_does_when_its_process_died_until_it_is_at_fault_itself() -> None:
    machine = machine_with_node(1, is_reentrant=True)
    machine.handle(core.SubmitJobs(core.EMBEDDED, 1, jobs(2)), 0.0)
    for attempt in (0, 1):
        actions = machine.handle(died(1, attempt), 0.0)
        assert core.TellRequeued(ClientId(0), 1, [1]) in actions
        again = sent(actions, node.RunJobs)
        assert [(job.number, job.attempt) for job in again[0].jobs] == [(1, attempt + 1)]  # type: ignore[union-attr]
    actions = machine.handle(died(1, 2), 0.0)
    (told,) = [action for action in actions if isinstance(action, core.TellEnded)]
    assert [(e.number, e.status) for e in told.ended] == [(1, node.TERMINATED)]
    assert told.ended[0].reason == "killed; it was started 3 times and died each time"
    assert machine.state.computations[core.EMBEDDED, 1].open == 1


@pytest.mark.parametrize("case", ["not reentrant", "cancelled", "late"])
def test_a_death_that_is_the_end(case: str) -> None:
    machine = machine_with_node(1, is_reentrant=case != "not reentrant")
    machine.handle(core.SubmitJobs(core.EMBEDDED, 1, jobs(1)), 0.0)
    if case == "cancelled":
        machine.handle(core.CancelJobs(core.EMBEDDED, 1, [1]), 0.0)
    actions = machine.handle(died(1, 1 if case == "late" else 0), 0.0)
    told = [e.number for a in actions if isinstance(a, core.TellEnded) for e in a.ended]
    assert told == ([] if case == "late" else [1])
    assert not sent(actions, node.RunJobs)


@pytest.mark.parametrize("end", ["cancelled", "finished", "abandoned"])
def test_deaths_are_forgotten_with_their_job(end: str) -> None:
    """A job whose process has died once ends in another way than by dying: nothing of it is kept."""
    machine = machine_with_node(1, is_reentrant=True)
    machine.handle(core.SubmitJobs(core.EMBEDDED, 1, jobs(1)), 0.0)
    died = Ended(1, 0, node.TERMINATED, 0.0, 0.0, b"", reason="killed", died=True)
    machine.handle(core.FromNodeEvent(NODE, node.JobsEnded(1, 1, [died])), 0.0)
    assert machine.state.computations[core.EMBEDDED, 1].deaths == {1: 1}
    if end == "cancelled":
        machine.handle(core.NodeSilent(NODE), 0.0)
        machine.handle(core.CancelJobs(core.EMBEDDED, 1, [1]), 0.0)
        machine.handle(core.NodeLost(NODE, "gone"), 0.0)
    elif end == "finished":
        result = Ended(1, 1, node.FINISHED, 0.0, 0.0, b"x")
        machine.handle(core.FromNodeEvent(NODE, node.JobsEnded(2, 1, [result])), 0.0)
    else:
        machine.handle(core.FromNodeEvent(NODE, node.ComputationFailed(1, "no")), 0.0)
        machine.handle(core.FromNodeEvent(NODE, node.JobsReturned(1, [Attempt(1, 1)], "no")), 0.0)
    assert machine.state.computations[core.EMBEDDED, 1].open == 0
    assert not machine.state.computations[core.EMBEDDED, 1].deaths


def test_a_drop_that_may_be_lost_is_told_again_after_a_reconnect() -> None:
    """Until something is known to have arrived that was sent later."""
    machine = machine_with_node(1)

    def put(number: int) -> None:
        machine.handle(core.PutObject(core.EMBEDDED, node.PutObject(1, number, b"x")), 0.0)

    def stored(number: int) -> None:
        machine.handle(core.FromNodeEvent(NODE, node.ObjectStored(1, number)), 0.0)

    def reconnect() -> list[node.ToNode]:
        machine.handle(core.NodeSilent(NODE), 0.0)
        machine.handle(core.NodeUp(NODE, "n", 1, True), 0.0)
        return sent(
            machine.handle(core.FromNodeEvent(NODE, node.Reconciled([], [])), 0.0), node.DropObjects
        )

    put(1)
    put(2)
    stored(1)
    assert sent(machine.handle(core.DropObjects(core.EMBEDDED, 1, [1]), 0.0), node.DropObjects) == [
        node.DropObjects(1, [1])
    ]
    stored(2)
    assert reconnect() == [node.DropObjects(1, [1])]
    put(3)
    stored(3)
    assert reconnect() == []
    put(4)
    machine.handle(core.NodeSilent(NODE), 0.0)
    machine.handle(core.DropObjects(core.EMBEDDED, 1, [4]), 0.0)
    assert reconnect() == [node.DropObjects(1, [4])], "it may have arrived"


def test_a_limit_of_cpus_outlives_the_loss_of_its_node() -> None:
    """The node remembers it, and so do we; a node that is lost can be limited for the time when it is back."""
    machine = machine_with_node(2)
    machine.handle(core.LimitNode(NODE, 0), 0.0)
    machine.handle(core.NodeLost(NODE, "silent"), 0.0)
    actions = machine.handle(core.NodeUp(NODE, "n", 2, True), 0.0)
    assert sent(actions, node.LimitCpus) == [node.LimitCpus(0)]
    assert machine.state.nodes[NODE].cpus_max == 0
    machine.handle(core.NodeLost(NODE, "silent"), 0.0)
    machine.handle(core.LimitNode(NODE, 1), 0.0)
    actions = machine.handle(core.NodeUp(NODE, "n", 2, True), 0.0)
    assert sent(actions, node.LimitCpus) == [node.LimitCpus(1)]


@pytest.mark.parametrize("is_known", [False, True])
def test_a_node_that_was_given_up_is_told_its_limit_again(is_known: bool) -> None:
    """It has forgotten this scheduler after a long silence, or this scheduler has given it up."""
    machine = machine_with_node(4)
    machine.handle(core.LimitNode(NODE, 2), 0.0)
    machine.handle(core.NodeSilent(NODE), 0.0)
    if is_known:
        machine.handle(core.NodeLost(NODE, "silent"), 1.0)
    actions = machine.handle(core.NodeUp(NODE, "n", 4, is_known), 2.0)
    assert sent(actions, node.LimitCpus) == [node.LimitCpus(2)]


def test_counts_of_a_view_are_of_the_time_of_the_question() -> None:
    """Jobs change no view that was told; whoever asks gets the counts of now."""
    machine = machine_with_node(2)
    actions = machine.handle(core.SubmitJobs(core.EMBEDDED, 1, jobs(3)), 0.0)
    actions += machine.handle(core.FromNodeEvent(NODE, node.JobsStarted(1, [node.Started(1, 0, 0.0)])), 0.0)
    assert not [action for action in actions if isinstance(action, core.TellPlacement)]
    view = core.refresh(machine.state.computations[core.EMBEDDED, 1].placements[NODE])
    assert (view.assigned, view.started) == (2, 1)


def test_messages_of_a_client_are_sent_with_the_number_that_nodes_know() -> None:
    """Objects, files and answers to values; and what nodes say of them comes with the client's own number."""
    client = ClientId(7)
    machine = machine_with_node(2)
    machine.handle(core.AddComputation(client, 1, Compute(9, "g", b"")), 0.0)
    machine.handle(core.Allocate(client, 1, NODE, 2), 0.0)
    for message in (node.ComputationReady(9), node.Credit(9, 2, 0)):
        machine.handle(core.FromNodeEvent(NODE, message), 0.0)
    actions = machine.handle(core.PutObject(client, node.PutObject(1, 5, b"data")), 0.0)
    assert sent(actions, node.PutObject) == [node.PutObject(9, 5, b"data")]
    machine.handle(core.FromNodeEvent(NODE, node.ObjectStored(9, 5)), 0.0)
    actions = machine.handle(core.SendFiles(client, NODE, node.PlaceFiles(1, 3, [])), 0.0)
    assert sent(actions, node.PlaceFiles) == [node.PlaceFiles(9, 3, [])]
    placed = machine.handle(core.FromNodeEvent(NODE, node.FilesPlaced(9, 3)), 0.0)
    assert placed == [core.TellFiles(client, 1, NODE, 3, "")]
    machine.handle(core.SubmitJobs(client, 1, jobs(1)), 0.0)
    value = node.Provisional(9, 1, 0, 1, b"v")
    (told,) = [
        action
        for action in machine.handle(core.FromNodeEvent(NODE, value), 0.0)
        if isinstance(action, core.TellValue)
    ]
    assert (told.client, told.computation, told.value.computation) == (client, 1, 1)
    answer = node.AcknowledgeProvisional(1, 1, 0, 1)
    actions = machine.handle(core.AnswerValue(client, NODE, answer), 0.0)
    assert sent(actions, node.AcknowledgeProvisional) == [node.AcknowledgeProvisional(9, 1, 0, 1)]
