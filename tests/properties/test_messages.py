"""What both machines say of jobs fits the frames of a connection, whatever the jobs bring and return."""

from __future__ import annotations

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dispy.core import execution as execution
from dispy.core import scheduling as scheduling
from dispy.core.execution import Machine as Execution
from dispy.core.scheduling import Machine as Scheduling
from dispy.protocol import node
from dispy.protocol.limits import CONTROL_FRAME_MAX, INLINE_MAX
from dispy.protocol.node import FINISHED, Attempt, Compute, Ended, Job

CLIENT = b"c" * 16
NODE = scheduling.NodeId(b"n" * 16)
encode = msgspec.msgpack.Encoder().encode

Sizes = list[tuple[int, int]]
"""Bytes, and how many jobs in a row have so many."""

sizes = st.lists(
    st.tuples(st.sampled_from([0, 40, 6800, INLINE_MAX - 1, INLINE_MAX]), st.integers(1, 300)), max_size=8
)


def spread(runs: Sizes) -> list[bytes]:
    made = {size: bytes(size) for size, _ in runs}
    return [made[size] for size, count in runs for _ in range(count)]


@settings(max_examples=20)
@given(sizes, st.booleans())
@example([(6800, 2191)], False)
@example([(6800, 2191)], True)
def test_a_scheduler_says_nothing_that_a_node_refuses(runs: Sizes, is_again: bool) -> None:
    """What is sent at once, and what is sent again after a reconnect."""
    machine = Scheduling()
    payloads = spread(runs)
    room = max(1, len(payloads))
    machine.handle(scheduling.AddComputation(scheduling.EMBEDDED, 1, Compute(1, "f", b""), False), 0.0)
    machine.handle(scheduling.NodeUp(NODE, "n", room, False), 0.0)
    machine.handle(scheduling.Allocate(scheduling.EMBEDDED, 1, NODE, room), 0.0)
    machine.handle(scheduling.FromNodeEvent(NODE, node.ComputationReady(1)), 0.0)
    machine.handle(scheduling.FromNodeEvent(NODE, node.Credit(1, room, 0)), 0.0)
    jobs = [Job(number, 0, payload) for number, payload in enumerate(payloads)]
    actions = machine.handle(scheduling.SubmitJobs(scheduling.EMBEDDED, 1, jobs), 0.0)
    if is_again:
        machine.handle(scheduling.NodeSilent(NODE), 0.0)
        machine.handle(scheduling.NodeUp(NODE, "n", room, True), 0.0)
        missing = [Attempt(job.number, 0) for job in jobs]
        actions = machine.handle(
            scheduling.FromNodeEvent(NODE, node.Reconciled([node.HeldJobs(1, missing)], [])), 0.0
        )
    sent = [action.message for action in actions if isinstance(action, scheduling.Send)]
    runs_said = [message for message in sent if isinstance(message, node.RunJobs)]
    assert [job for message in runs_said for job in message.jobs] == jobs
    for message in runs_said:
        # Larger payloads travel as streams, beside it.
        small = [job for job in message.jobs if len(job.payload) < INLINE_MAX]
        assert len(encode(node.RunJobs(1, small, message.watched))) <= CONTROL_FRAME_MAX


@settings(max_examples=20)
@given(sizes, st.sampled_from(["payload", "stdout", "stderr", "reason"]))
@example([(6800, 2191)], "payload")
@example([(6800, 2191)], "reason")
def test_a_node_says_nothing_that_a_scheduler_refuses(runs: Sizes, field: str) -> None:
    """Results of many jobs that come at once."""
    machine = Execution(1)
    key = (execution.ClientId(CLIENT), 1)
    machine.handle(execution.ClientAttached(key[0], "client", 0), 0.0)
    machine.handle(execution.FromClient(key[0], Compute(1, "f", b"")), 0.0)
    machine.handle(execution.HostReady(key), 0.0)
    contents = [data for data in spread(runs) if len(data) < INLINE_MAX]
    jobs = [Job(number, 0, b"") for number in range(1, len(contents) + 2)]
    actions = machine.handle(execution.FromClient(key[0], node.RunJobs(1, jobs)), 0.0)
    (offer,) = [action for action in actions if isinstance(action, execution.Offer)]
    ended = [Ended(job.number, 0, FINISHED, 1.0, 2.0, b"") for job in jobs]
    for result, data in zip(ended, contents, strict=False):
        setattr(result, field, data.decode() if field == "reason" else data)
    actions = machine.handle(
        execution.Ran(offer.worker, offer.record.record, 1, True, False, ended), 0.0
    ) + machine.handle(execution.Flush(), 0.0)
    told = [action.message for action in actions if isinstance(action, execution.Tell)]
    batches = [message for message in told if isinstance(message, node.JobsEnded)]
    assert [result for batch in batches for result in batch.ended] == ended
    assert [batch.batch for batch in batches] == list(range(1, len(batches) + 1))
    assert all(len(encode(batch)) <= CONTROL_FRAME_MAX for batch in batches)
