"""What a hostile program may say to a shared scheduler, kind by kind: nobody else is harmed, and the log names it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from dispy.core import scheduling as core
from dispy.core.scheduling.ids import ClientId
from dispy.errors import RemoteProtocolError
from dispy.protocol import node, shared
from dispy.protocol.files import FileEntry
from dispy.protocol.node import Compute, Ended, Job, JobsEnded
from dispy.scheduler.daemon import windows
from tests.models.hub import GONE, NODE, FakeConnection, Stage


def opening(number: int = 1, **options: Any) -> shared.OpenCluster:
    return shared.OpenCluster(0, number, Compute(number, "f", b"code", **options), False, [])


LARGE = [shared.Large(0, 0, 1)]
LONG = [FileEntry(f"{'x' * 200}/{n}", bytes(32), 1, 0o644, 0) for n in range(18_000)]
"""A list of files with more bytes than nodes take."""

KINDS: dict[str, list[Any]] = {
    "out of order": [shared.CloseCluster(7, 1)],
    "a second Attach": [shared.Attach(b"h" * 16, "hostile", "mallory", "")],
    "Attach as another": [shared.Attach(b"v" * 16, "hostile", "mallory", "")],
    "news that was never sent": [shared.Received(1 << 62)],
    "a stream that is not there": [shared.Blob(1, stream=9)],
    "a payload without a place": [shared.Submit(0, 1, [], large=LARGE)],
    "a payload twice": [shared.Submit(0, 1, [Job(1, 0, b"")], large=LARGE * 2)],
    "a payload of two": [shared.Submit(0, 1, [Job(n, 0, b"")], large=LARGE) for n in (1, 2)],
    "cluster 0": [opening(0)],
    "a cluster twice": [opening(), opening()],
    "a cluster of two numbers": [shared.OpenCluster(0, 1, Compute(2, "f", b""), False, [])],
    "a job twice": [opening(), shared.Submit(0, 1, [Job(1, 0, b"")] * 2)],
    "another's arguments": [opening(), shared.Submit(0, 1, [Job(1, 0, b"", node.Segment(1))])],
    "another's file": [opening(), shared.Submit(0, 1, [Job(1, 0, b"", node.Given(1))])],
    "another's stream": [opening(), shared.Submit(0, 1, [Job(1, 0, b"", node.Streamed(1))])],
    "an attempt": [opening(), shared.Submit(0, 1, [Job(1, 1, b"")])],
    "files of no job": [
        opening(), shared.Submit(0, 1, [Job(1, 0, b"")], files=[node.JobFiles(2, [])]),
    ],
    "an object twice": [opening(), *[shared.PutObject(0, 1, node.PutObject(1, 1, b"x")) for _ in "ab"]],
    "files of a cluster": [opening(files=LONG)],
    "files of a job": [opening(), shared.Submit(0, 1, [Job(1, 0, b"")], files=[node.JobFiles(1, LONG)])],
    "files for a node": [opening(), shared.Allocate(0, 1, NODE, 1, files=LONG)],
    "files sent later": [opening(), shared.PlaceFiles(0, 1, NODE, node.PlaceFiles(1, 1, LONG))],
    "a node by what is no address": [
        shared.OpenCluster(0, 1, Compute(1, "f", b"code"), False, [shared.Wish("h", "a name")]),
    ],
    "a node by a name that no certificate has": [
        opening(), shared.Discover(0, 1, [shared.Wish("x" * 64, "192.0.2.1")]),
    ],
    "a node to dial now by a name that no certificate has": [
        opening(),
        shared.Discover(0, 1, [shared.Wish("h", "192.0.2.1")], [shared.Wish("..", "192.0.2.1")]),
    ],
    "more nodes than may be named": [
        opening(),
        *[shared.Discover(0, 1, [shared.Wish("h", "192.0.2.1", 9)] * 9000)],
    ],
}  # fmt: skip
"""What ends a program, by what is wrong with it. In a cluster of its own it would be right, or it is no message of an
honest program at all."""


@pytest.mark.parametrize("kind", KINDS)
def test_who_breaks_the_rules_is_thrown_out_by_name(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        stage = Stage()
        said = [msgspec.structs.replace(message) for message in KINDS[kind]]
        for message in said[:-1]:
            stage.say(message)
        stage.check(is_out=False)
        with pytest.raises(RemoteProtocolError):
            stage.say(said[-1])
        stage.check(is_out=True)
        assert "program hostile of mallory is thrown out: " in caplog.text

    asyncio.run(play())


NOT_ITS_OWN: dict[str, list[Any]] = {
    "a cluster": [
        shared.CloseCluster(0, 1), shared.Submit(0, 1, [Job(1, 0, b"x")]), shared.CancelJobs(0, 1, [1, 2, 3]),
    ],
    "jobs": [opening(), shared.CancelJobs(0, 1, [1, 2, 3, 1, 1 << 62]), shared.CancelJobs(0, 1, [3])],
    "closed twice": [opening(), shared.CloseCluster(0, 1), shared.CloseCluster(0, 1), opening()],
    "objects": [opening(), shared.DropObjects(0, 1, [1, 1 << 62])],
    "values": [
        opening(), shared.AnswerValue(0, 1, NODE, node.AcknowledgeProvisional(1, 1, 0, 1)),
        shared.AnswerPrinted(0, 1, NODE, 1),
    ],
    "files": [
        opening(),
        shared.SendFiles(
            0, 1, NODE, [node.FilePiece(bytes(32), 0, b"x")], [node.FileUnreadable(1, bytes(32), "")]
        ),
    ],
    "nodes": [
        opening(), *[shared.Allocate(0, 1, where, 1 << 31) for where in (b"", bytes(16), bytes(GONE))],
        shared.LimitNode(0, 1, GONE, 0), shared.Vacate(0, 1, GONE, True, True),
    ],
    "a message again": [opening(), shared.CloseCluster(1, 1)],
    "questions": [shared.Ask(1, shared.Question(1, 1)), shared.Ask(1, shared.Question(1, 0, bytes(GONE)))],
    "large numbers": [
        opening(1 << 62), shared.Submit(0, 1 << 62, [Job(1 << 62, 0, b"x")]),
        shared.CancelJobs(0, 1 << 62, [1 << 62]),
    ],
    "a limit": [opening(), shared.LimitNode(0, 1, NODE, 0)],
}  # fmt: skip
"""What names something that is not its own, or was: nothing comes of it."""


@pytest.mark.parametrize("kind", NOT_ITS_OWN)
def test_what_is_not_its_own_it_does_not_reach(kind: str) -> None:
    async def play() -> None:
        stage = Stage()
        before = len(stage.program(b"v" * 16).channel._sent.kept)
        for message in NOT_ITS_OWN[kind]:
            stage.say(msgspec.structs.replace(message))
        stage.check(is_out=False)
        assert len(stage.program(b"v" * 16).channel._sent.kept) == before, "the victim was told something"
        wire = stage.hub.service.state.computations[ClientId(1), 1].wire
        ended = [Ended(number, 0, node.FINISHED, 0.0, 0.0, b"r") for number in (1, 2, 3)]
        stage.hub.service.handle(core.FromNodeEvent(NODE, JobsEnded(1, wire, ended)))
        assert not stage.program(b"v" * 16).clusters[1].open

    asyncio.run(play())


@pytest.mark.parametrize("message", [
    shared.Allocate(0, 1, GONE, 1), shared.Submit(0, 1, [Job(1, 0, b"")], GONE),
])  # fmt: skip
def test_who_does_not_take_his_news_is_thrown_out(message: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each news would be kept. Who acknowledges them may go on."""
    monkeypatch.setattr(windows, "UNHEARD_MAX", 50)

    async def play() -> None:
        stage = Stage()
        program = stage.program(b"h" * 16)
        stage.say(opening())
        for _ in range(200):
            stage.say(msgspec.structs.replace(message, batch=0))
            stage.say(shared.Received(program.channel._sent.last))
        stage.check(is_out=False)
        with pytest.raises(RemoteProtocolError, match="does not take"):
            _repeat(stage, message, 60)
        stage.check(is_out=True)

    asyncio.run(play())


def test_questions_of_one_that_does_not_read_are_not_answered() -> None:
    async def play() -> None:
        stage = Stage()
        stage.say(shared.Ask(1, shared.Question(1, 1)))
        assert type(stage.hostile.said[-1]) is shared.Answer
        count = len(stage.hostile.said)
        stage.hostile.unsent = 1 << 30
        stage.say(shared.Ask(2, shared.Question(1, 1)))
        assert len(stage.hostile.said) == count

    asyncio.run(play())


def test_what_waits_for_payloads_that_never_come_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In number and in bytes: first it is told to wait, then thrown out."""
    monkeypatch.setattr(windows, "SIZE_MAX", 1000)

    async def play() -> None:
        stage = Stage()
        channel = stage.program(b"h" * 16).channel
        stage.say(opening())
        stage.say(shared.PutObject(0, 1, node.PutObject(1, 1, b""), LARGE))
        _submit(stage, range(5))
        assert [each.is_open for each in channel._sent.kept if type(each) is shared.Window] == [False]
        assert (channel.count_waiting, channel.size_waiting) == (7, 1500)
        with pytest.raises(RemoteProtocolError, match="without end"):
            _submit(stage, range(5, 50))
        stage.check(is_out=True)
        assert (channel.count_waiting, channel.size_waiting) == (0, 0)

    asyncio.run(play())


def test_a_cluster_is_closed_though_payloads_of_it_never_come() -> None:
    """Its program has stopped sending them; the number is free."""

    async def play() -> None:
        stage = Stage()
        program = stage.program(b"h" * 16)
        for number, message in enumerate([
            shared.PutObject(0, 1, node.PutObject(1, 1, b""), LARGE),
            shared.OpenCluster(0, 2, Compute(2, "f", b""), False, [], [shared.Large(0, 0, 2)]),
        ], start=1):  # fmt: skip
            if number == 1:
                stage.say(opening())
            stage.say(message)
            stage.say(shared.CancelJobs(0, number, [1]))
            stage.say(shared.CloseCluster(0, number))
            assert program.clusters == {}
            assert program.channel.count_waiting == 0
            stage.say(opening(number))
            assert program.clusters.keys() == {number}
            stage.say(shared.CloseCluster(0, number))
        stage.check(is_out=False)

    asyncio.run(play())


def test_more_than_may_be_held_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters by number, their code and objects by bytes; what is dropped counts no more."""
    monkeypatch.setattr(windows, "HELD_MAX", 100)
    monkeypatch.setattr(windows, "CLUSTERS_MAX", 2)

    async def play() -> None:
        stage = Stage()
        program = stage.program(b"h" * 16)

        def refused() -> list[int]:
            return [each.cluster for each in program.channel._sent.kept if type(each) is shared.Refused]

        def put(cluster: int, number: int, size: int) -> None:
            stage.say(shared.PutObject(0, cluster, node.PutObject(cluster, number, bytes(size))))

        for number in (1, 2, 3):
            stage.say(opening(number))
        assert refused() == [3]
        put(1, 1, 80)
        stage.say(shared.DropObjects(0, 1, [1]))
        put(2, 1, 80)
        assert program.held == 88
        put(1, 2, 80)
        assert refused() == [3, 1]
        assert program.clusters.keys() == {2}
        assert program.held == 84
        stage.say(shared.CloseCluster(0, 2))
        assert program.held == 0
        stage.check(is_out=False)

    asyncio.run(play())


@pytest.mark.parametrize("name", [
    "../client-1", "client-/../x", "client-", "", "client-1/given", "scheduler-73", NODE.hex(), "client-\u0661",
])  # fmt: skip
def test_a_directory_in_memory_that_is_none_of_a_programs(name: str, tmp_path: Path) -> None:
    """Nodes and schedulers have theirs beside it, and their names are told."""

    async def play() -> None:
        stage = Stage()
        stage.hub.share(tmp_path)
        connection = FakeConnection()
        stage.say(shared.Attach(b"m" * 16, "m", "mallory", "", 0, name), connection)
        (welcome,) = connection.said
        assert welcome.memory == ""
        assert not stage.program(b"m" * 16).channel.files.is_possible

    asyncio.run(play())


def test_the_window_opens_when_what_waited_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if no job of the program is there that could end."""
    monkeypatch.setattr(windows, "SIZE_MAX", 1000)

    async def play() -> None:
        stage = Stage()
        program = stage.program(b"h" * 16)
        stage.say(opening())
        stage.say(shared.PutObject(0, 1, node.PutObject(1, 1, b""), LARGE))
        stage.say(shared.PutObject(0, 1, node.PutObject(1, 2, bytes(1200))))
        assert program.is_full
        stage.hostile.take_stream = lambda _: SimpleNamespace(data=bytes(10))  # type: ignore[method-assign]
        stage.say(shared.Blob(1, stream=1))
        assert not program.is_full
        assert program.clusters[1].objects == {1: 10, 2: 1200}
        assert [each.is_open for each in program.channel._sent.kept if type(each) is shared.Window] == [
            False,
            True,
        ]

    asyncio.run(play())


def _repeat(stage: Stage, message: Any, count: int) -> None:
    for _ in range(count):
        stage.say(msgspec.structs.replace(message, batch=0))


def _submit(stage: Stage, numbers: range) -> None:
    """Jobs of 300 bytes each."""
    for number in numbers:
        stage.say(shared.Submit(0, 1, [Job(number, 0, bytes(300))]))
