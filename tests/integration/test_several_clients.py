"""Several clients of one scheduler, which number their computations and jobs alike, on a real node."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dispy import payload
from dispy.client.code.computation import Computation
from dispy.core import scheduling as core
from dispy.net.dialing import Target
from dispy.protocol.node import Compute, Job
from dispy.protocol.views import NodeInfo
from dispy.scheduler.service import SchedulerService
from dispy.security import secrets
from dispy.security.tls import Tls, dialer_tls

from .conftest import StartNode
from .helpers import SOON_S

FIRST, SECOND = core.ClientId(1), core.ClientId(2)


def say(word: str, path: str) -> str:
    while path and not os.path.exists(path):
        time.sleep(0.01)
    return word


class Clients:
    """Both clients: each has computation 1 on every node, and keeps the values of its jobs."""

    def __init__(self) -> None:
        self.service = SchedulerService(os.urandom(16), "two clients", self)  # type: ignore[arg-type]
        self.usable: set[core.ClientId] = set()
        self.started: set[core.ClientId] = set()
        self.values: dict[core.ClientId, dict[int, Any]] = {FIRST: {}, SECOND: {}}
        self.computation = Computation(say, ())
        for client, wire in ((FIRST, 1), (SECOND, 2)):
            compute = Compute(wire, "say", self.computation.code)
            self.service.handle(core.AddComputation(client, 1, compute))

    def submit(self, client: core.ClientId, number: int, *args: str) -> None:
        data = payload.dump_call(args, {}, None, self.computation.known)
        self.service.submit(core.SubmitJobs(client, 1, [Job(number, 0, bytes(data))]))

    async def wait(self, is_done: Callable[[], object]) -> None:
        async with asyncio.timeout(SOON_S):
            while not is_done():
                await asyncio.sleep(0.01)

    # What the scheduler tells.

    def on_node_known(self, found: NodeInfo) -> None:
        for client in (FIRST, SECOND):
            self.service.handle(core.Allocate(client, 1, found.node, 2))

    def on_usable(self, action: core.TellNode, found: NodeInfo) -> None:
        self.usable.add(action.client)

    def on_started(self, action: core.TellStarted, found: NodeInfo) -> None:
        self.started.add(action.client)

    def on_ended(self, action: core.TellEnded, found: NodeInfo) -> None:
        for ended in action.ended:
            assert ended.number not in self.values[action.client]
            self.values[action.client][ended.number] = payload.load(ended.payload)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def test_jobs_of_the_same_number_are_told_apart_after_a_reconnect(
    start_node: StartNode, tmp_path: Path
) -> None:
    """Job 1 of one client runs on the node; job 1 of the other was lost on its way, and is sent again."""
    node = start_node("--cpus", "2")
    signal = tmp_path / "signal"

    async def play() -> None:
        clients = Clients()
        target = Target(node.host, node.port, secrets.own().keys, tls=partial(dialer_tls, Tls()))
        clients.service.links.reach(target)
        await clients.wait(lambda: clients.usable == {FIRST, SECOND})
        clients.submit(FIRST, 1, "first", str(signal))
        await clients.wait(lambda: clients.started == {FIRST})
        connection = clients.service.links.by_target[target].link.connection
        assert connection is not None
        connection.abort(ConnectionError("cut"))
        clients.submit(SECOND, 1, "second", "")
        await clients.wait(lambda: clients.values[SECOND])
        assert clients.values == {FIRST: {}, SECOND: {1: "second"}}
        signal.touch()
        await clients.wait(lambda: clients.values[FIRST])
        assert clients.values == {FIRST: {1: "first"}, SECOND: {1: "second"}}
        clients.service.close()
        await asyncio.sleep(0)

    asyncio.run(play())
