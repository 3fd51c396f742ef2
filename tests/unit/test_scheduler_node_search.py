"""Nodes that a shared scheduler dials as programs name them: few at once, each in its turn, nobody else's later."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from dispy.net.dialing import Target
from dispy.protocol import shared
from dispy.protocol.node import Compute
from dispy.scheduler.daemon import node_search
from tests.models.hub import Stage


def test_one_program_does_not_take_all_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its addresses that do not answer so many are dialed at once; in the end all had a turn."""
    monkeypatch.setattr(node_search, "DIALS_MAX", 3)

    async def play() -> None:
        stage = Stage()
        links, now = stage.hub.service.links, 100.0
        stage.hub.service.clock = SimpleNamespace(monotonic=lambda: now)  # type: ignore[assignment]
        dialed: list[str] = []

        def reach(target: Target) -> None:
            dialed.append(target.host)
            links.by_target[target] = SimpleNamespace(info=None)  # type: ignore[assignment]

        monkeypatch.setattr(links, "reach", reach)
        wishes = [shared.Wish(f"192.0.2.{n}", f"192.0.2.{n}", 9) for n in range(10)]
        stage.say(shared.OpenCluster(0, 1, Compute(1, "f", b""), False, wishes[:6]))
        stage.say(shared.OpenCluster(0, 2, Compute(2, "f", b""), False, wishes[6:]))
        stage.say(shared.Discover(0, 2, wishes[6:], wishes[8:]))
        assert dialed == [f"192.0.2.{n}" for n in range(3)]
        other = stage.program(b"v" * 16)
        other.clusters[1].wishes = [shared.Wish("192.0.2.99", "192.0.2.99", 9)]
        stage.hub.search.look(other)
        assert dialed[3:] == ["192.0.2.99"]
        for _ in range(3):
            links.by_target.clear()  # all have failed
            now += 0.1
            stage.hub.search.look(stage.program(b"h" * 16))
        assert sorted(dialed) == sorted([*(f"192.0.2.{n}" for n in range(10)), "192.0.2.99"])
        links.by_target.clear()
        dialed.clear()
        stage.say(shared.Discover(0, 2, wishes[6:], wishes[8:]))
        assert dialed == [f"192.0.2.{n}" for n in (8, 9, 0)], "what is asked for now comes first"

    asyncio.run(play())
