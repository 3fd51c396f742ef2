"""What the shell of the scheduling core does with many links."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from dispy.core import scheduling as core
from dispy.net.dialing import Target
from dispy.net.links.streams_under_way import StreamsUnderWay
from dispy.protocol import limits, node
from dispy.protocol.views import NodeInfo
from dispy.scheduler.service import SchedulerService
from dispy.security.keys import alone


class Observer:
    """Somebody who takes all news, and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def link(number: int, said: list[tuple[int, str]]) -> Any:
    """A link to a node that notes what is sent, and when it leaves."""
    connection = SimpleNamespace(
        send=lambda message: said.append((number, type(message).__name__)),
        flush=lambda: said.append((number, "flush")),
    )
    info = NodeInfo(core.NodeId(bytes([number]) * 16), "n", "127.0.0.1", 9701, 1, "")
    return SimpleNamespace(
        info=info,
        target=Target("127.0.0.1", number, alone(b"")),
        link=SimpleNamespace(connection=connection, is_closed=False),
        batches=SimpleNamespace(send_due=lambda: None),
    )


def test_submitted_jobs_leave_at_once_and_other_links_are_left_alone() -> None:
    """With hundreds of nodes it would cost more than the jobs to look at each."""
    said: list[tuple[int, str]] = []

    async def play() -> None:
        service = SchedulerService(bytes(16), "p", Observer())
        service.handle(core.AddComputation(core.EMBEDDED, 1, node.Compute(1, "f", b"")))
        links = [link(number, said) for number in range(1, 6)]
        for each in links:
            service.links.link_welcome(each, False)
        for each in links[1:3]:
            service.handle(core.Allocate(core.EMBEDDED, 1, each.info.node, 1))
            service.links.link_message(each, node.ComputationReady(1))
            service.links.link_message(each, node.Credit(1, 1, 0))
        said.clear()
        service.submit(core.SubmitJobs(core.EMBEDDED, 1, [node.Job(n, 0, b"") for n in range(1, 4)]))
        service.submit(core.SubmitJobs(core.EMBEDDED, 1, [node.Job(4, 0, b"")]))
        service.close()

    asyncio.run(play())
    assert sorted(said) == [(2, "RunJobs"), (2, "flush"), (3, "RunJobs"), (3, "flush")]


def test_code_that_is_under_way_when_its_computation_is_closed_never_arrives() -> None:
    """The close overtakes it: the node would load what nobody closes any more."""
    said: list[tuple[int, str]] = []
    given_up: list[str] = []

    async def play() -> None:
        service = SchedulerService(bytes(16), "p", Observer())
        one = link(1, said)
        one.large_arguments, one.large_code = StreamsUnderWay(), StreamsUnderWay()
        one.link.connection.send_streamed = lambda _, message: f"code of {message.computation}"
        one.link.connection.give_up = lambda group: given_up.append(group) or True
        service.links.link_welcome(one, False)
        for number in (1, 2):
            code = bytes(limits.INLINE_MAX)
            service.handle(core.AddComputation(core.EMBEDDED, number, node.Compute(number, "f", code)))
            service.handle(core.Allocate(core.EMBEDDED, number, one.info.node, 1))
        service.handle(core.CloseComputation(core.EMBEDDED, 1))
        service.close()

    asyncio.run(play())
    assert given_up == ["code of 1"]
    assert (1, "CloseComputation") in said
