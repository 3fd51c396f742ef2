"""A program that says what it likes to a shared scheduler: it harms nobody else, and no fault of ours comes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispy.core import scheduling as core
from dispy.core.scheduling.ids import ClientId
from dispy.errors import RemoteProtocolError
from dispy.protocol import node, shared
from dispy.protocol.node import Compute, Ended, Job, JobsEnded
from dispy.scheduler.daemon import commands, windows
from tests.models.hub import GONE, NODE, add_node, add_program, load, new_hub

numbers = st.integers(0, 4)
nodes = st.sampled_from([b"", bytes(NODE), bytes(GONE)])
jobs = st.builds(Job, numbers, st.integers(0, 2), st.sampled_from([b"", b"x", None]))
attempts = st.builds(node.AcknowledgeProvisional, numbers, numbers, numbers, numbers)
commands_said = st.one_of(
    st.builds(
        lambda number, code, exclusive: shared.OpenCluster(
            0, number, Compute(number, "f", code, exclusive=exclusive), False, [shared.Wish("*")]
        ),
        numbers, st.sampled_from([b"", b"code", None]), st.booleans(),
    ),
    st.builds(shared.CloseCluster, st.just(0), numbers),
    st.builds(shared.Submit, st.just(0), numbers, st.lists(jobs, max_size=4), nodes),
    st.builds(shared.CancelJobs, st.just(0), numbers, st.lists(numbers)),
    st.builds(shared.WatchJobs, st.just(0), numbers, st.lists(numbers), st.booleans()),
    st.builds(shared.AnswerValue, st.just(0), numbers, nodes, attempts),
    st.builds(shared.AnswerPrinted, st.just(0), numbers, nodes, numbers),
    st.builds(
        lambda cluster, number, payload: shared.PutObject(0, cluster, node.PutObject(cluster, number, payload)),
        numbers, numbers, st.sampled_from([b"x", None]),
    ),
    st.builds(shared.DropObjects, st.just(0), numbers, st.lists(numbers)),
    st.builds(
        lambda cluster, where, request: shared.PlaceFiles(
            0, cluster, where, node.PlaceFiles(cluster, request, [])
        ),
        numbers, nodes, numbers,
    ),
    st.builds(
        lambda cluster, where, data: shared.SendFiles(
            0, cluster, where, [node.FilePiece(bytes(32), 0, data)], [node.FileUnreadable(9, bytes(32), "no")]
        ),
        numbers, nodes, st.sampled_from([b"x", None]),
    ),
    st.builds(shared.Discover, st.just(0), numbers, st.just([shared.Wish("no", "192.0.2.1", 9)])),
    st.builds(shared.Allocate, st.just(0), numbers, nodes, st.integers(0, 3), is_draining=st.booleans()),
    st.builds(shared.Vacate, st.just(0), numbers, nodes, st.booleans(), st.booleans()),
    st.builds(shared.LimitNode, st.just(0), numbers, nodes, st.integers(0, 3)),
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(st.lists(commands_said, max_size=40))
def test_it_harms_nobody_else(said: list[Any]) -> None:
    async def play() -> None:
        hub = new_hub()
        add_node(hub)
        victim, hostile = add_program(hub, b"v" * 16), add_program(hub, b"h" * 16)
        commands.perform(hub, victim, shared.OpenCluster(0, 1, Compute(1, "f", b"code"), False, []))
        commands.perform(hub, victim, shared.Allocate(0, 1, NODE, 2))
        load(hub)
        commands.perform(
            hub, victim, shared.Submit(0, 1, [Job(1, 0, b"a"), Job(2, 0, b"b"), Job(3, 0, b"c")])
        )
        for message in said:
            try:
                commands.perform(hub, hostile, message)
            except RemoteProtocolError:
                hub._forget(hostile, "it breaks the rules")
                hostile = add_program(hub, b"h" * 16)
            load(hub)
        computation = hub.service.state.computations[ClientId(1), 1]
        assert computation.open == 3
        assert victim.clusters[1].open.keys() == {1, 2, 3}
        wire = computation.wire
        ended = [Ended(number, 0, node.FINISHED, 0.0, 0.0, b"r") for number in (1, 2, 3)]
        hub.service.handle(core.FromNodeEvent(NODE, JobsEnded(1, wire, ended)))
        told = [
            each.number
            for message in victim.channel._sent.kept
            if type(message) is shared.Ended
            for each in message.ended
        ]
        left = hub.service.state.computations[ClientId(1), 1]
        assert sorted([*told, *(job.number for job in left.queue), *left.pinned]) == [1, 2, 3]
        for program in (victim, hostile):
            for message in program.channel._sent.kept:
                assert not isinstance(message, shared.Ended) or program is victim

    asyncio.run(play())


@pytest.mark.parametrize("number", [1, 2])
def test_a_number_that_comes_twice_ends_the_connection(number: int) -> None:
    async def play() -> None:
        hub = new_hub()
        program = add_program(hub, b"h" * 16)
        commands.perform(hub, program, shared.OpenCluster(0, 1, Compute(1, "f", b"code"), False, []))
        commands.perform(hub, program, shared.Submit(0, 1, [Job(1, 0, b"a")]))
        jobs = [Job(1, 0, b"a")] if number == 1 else [Job(2, 0, b"a"), Job(2, 0, b"b")]
        with pytest.raises(RemoteProtocolError, match="twice"):
            commands.perform(hub, program, shared.Submit(0, 1, jobs))

    asyncio.run(play())


def test_a_program_that_does_not_wait_is_told_to_and_then_thrown_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The window opens again when half of the jobs have ended."""
    monkeypatch.setattr(windows, "JOBS_MAX", 10)

    async def play() -> None:
        hub = new_hub()
        program = add_program(hub, b"h" * 16)

        def said() -> list[bool]:
            return [each.is_open for each in program.channel._sent.kept if type(each) is shared.Window]

        commands.perform(hub, program, shared.OpenCluster(0, 1, Compute(1, "f", b"code"), False, []))
        commands.perform(hub, program, shared.Submit(0, 1, [Job(n, 0, b"a") for n in range(10)]))
        assert said() == []
        commands.perform(hub, program, shared.Submit(0, 1, [Job(10, 0, b"a"), Job(11, 0, b"a")]))
        assert said() == [False]
        commands.perform(hub, program, shared.CancelJobs(0, 1, list(range(6))))
        assert said() == [False]
        commands.perform(hub, program, shared.CancelJobs(0, 1, [6]))
        assert said() == [False, True]
        assert (program.jobs, program.size) == (5, 5)
        commands.perform(hub, program, shared.Submit(0, 1, [Job(n, 0, b"a") for n in range(20, 30)]))
        assert said() == [False, True, False]
        with pytest.raises(RemoteProtocolError, match="without end"):
            commands.perform(hub, program, shared.Submit(0, 1, [Job(n, 0, b"a") for n in range(30, 60)]))
        commands.perform(hub, program, shared.CloseCluster(0, 1))
        assert (program.jobs, program.size) == (0, 0)

    asyncio.run(play())
