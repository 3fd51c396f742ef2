"""Large payloads of programs at a shared scheduler: in memory up to a limit, beyond that on disk without a name."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispy.protocol import node, shared
from dispy.protocol.limits import INLINE_MAX
from dispy.protocol.node import FINISHED, Ended, Job
from dispy.scheduler.daemon.disk_memory import DiskMemory
from dispy.scheduler.daemon.payload_rooms import PayloadRoom
from tests.models.hub import FakeConnection, Stage

SIZE = 300_000


def on_disk(directory: Path) -> int:
    """Number of maps of files that were made below a directory and have no names."""
    with open("/proc/self/maps") as file:
        return sum(str(directory) in line for line in file)


def play(test: Callable[[PayloadRoom], Awaitable[None]], directory: Path, memory_max: int) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            room = PayloadRoom(memory_max, DiskMemory(directory), executor, lambda then, kept: then(kept))
            await test(room)

    asyncio.run(run())


async def keep(room: PayloadRoom, payload: Any) -> Any:
    """What stands for a payload."""
    kept: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    room.keep(payload, kept.set_result)
    return await kept


@pytest.mark.parametrize("has_unnamed", [True, False])
def test_what_arrives_lies_in_memory_up_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_unnamed: bool
) -> None:
    """And counts until nobody refers to it, a part of it included."""
    if not has_unnamed:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)

    async def test(room: PayloadRoom) -> None:
        buffers = [room.take(SIZE) for _ in range(4)]
        assert room.in_memory == 2 * SIZE
        assert on_disk(tmp_path) == 2
        assert os.listdir(tmp_path) == []
        for number, buffer in enumerate(buffers):
            buffer[:] = bytes([number]) * SIZE
        assert [bytes(buffer[-2:]) for buffer in buffers] == [bytes([number]) * 2 for number in range(4)]
        del buffers[0], buffer
        gc.collect()
        assert room.in_memory == SIZE
        buffers.append(room.take(SIZE))
        assert room.in_memory == 2 * SIZE
        buffers.clear()
        assert room.in_memory == 0
        assert on_disk(tmp_path) == 0

    play(test, tmp_path, 2 * SIZE)


def test_what_is_kept_is_copied_beyond_the_limit(tmp_path: Path) -> None:
    async def test(room: PayloadRoom) -> None:
        first, second = memoryview(b"a" * SIZE), b"b" * SIZE
        assert await keep(room, first) is first
        kept = await keep(room, second)
        assert bytes(kept) == second
        assert room.in_memory == SIZE
        assert on_disk(tmp_path) == 1
        del first, kept
        assert room.in_memory == 0
        while on_disk(tmp_path):  # the thread that has copied it lets go of it a moment later
            await asyncio.sleep(0)

    play(test, tmp_path, SIZE)


def test_without_room_on_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What arrives is refused, what is here stays where it is; the log says so."""

    async def test(room: PayloadRoom) -> None:
        with pytest.raises(MemoryError, match=r"no room for 300000 bytes in .*gone: No such file"):
            room.take(SIZE)
        payload = memoryview(b"a" * SIZE)
        assert await keep(room, payload) is payload
        assert room.in_memory == SIZE
        assert "large data stays in memory: no room for 300000 bytes" in caplog.text

    play(test, tmp_path / "gone", 10)


def test_results_that_nobody_takes_go_to_disk(tmp_path: Path) -> None:
    """A message waits for the copy; one of a cluster that is closed meanwhile is dropped."""

    async def run() -> None:
        stage = Stage()
        stage.hub._payload_memory = INLINE_MAX
        stage.hub.spill(tmp_path)
        connection = FakeConnection()
        streamed: list[Any] = []
        connection.send_streamed = lambda _, message: streamed.append(message)  # type: ignore[attr-defined]
        stage.batch = 0
        stage.say(shared.Attach(b"w" * 16, "w", "w", ""), connection)
        program = stage.program(b"w" * 16)
        ended = [Ended(n, 0, FINISHED, 0.0, 0.0, memoryview(bytes([n]) * INLINE_MAX)) for n in (1, 2)]  # type: ignore[arg-type]
        for cluster, each in zip((1, 2), ended, strict=True):
            program.channel.send(shared.Ended(0, cluster, b"", [each]))
        assert [message.number for message in streamed] == [1]
        assert program.room.in_memory == INLINE_MAX
        while len(streamed) < 2:
            await asyncio.sleep(0)
        assert on_disk(tmp_path) == 1
        stage.say(shared.Received(program.channel.kept[-1].batch), connection)
        assert program.room.in_memory == 0
        program.channel.send(
            shared.Ended(0, 3, b"", [Ended(3, 0, FINISHED, 0.0, 0.0, memoryview(bytes(2 * INLINE_MAX)))])  # type: ignore[arg-type]
        )
        program.channel.forget_cluster(3)
        stage.hub._copier.shutdown()  # type: ignore[union-attr]
        await asyncio.sleep(0.01)
        assert len(streamed) == 2

    asyncio.run(run())


def test_arguments_that_come_as_files_wait_for_their_copy(tmp_path: Path) -> None:
    """A cancel finds them meanwhile."""

    async def run() -> None:
        stage = Stage()
        stage.hub._payload_memory = 10
        stage.hub.spill(tmp_path)
        stage.say(shared.Attach(b"w" * 16, "w", "w", ""), connection := FakeConnection())
        program = stage.program(b"w" * 16)
        program.channel.files.take = lambda number: memoryview(bytes([number]) * SIZE)  # type: ignore[method-assign]
        stage.batch = 0
        stage.say(shared.OpenCluster(0, 1, node.Compute(1, "f", b"code"), False, []), connection)
        for number in (1, 2):
            message = shared.Submit(0, 1, [Job(number, 0, b"")], large=[shared.Large(0, 0, number)])
            stage.say(msgspec.structs.replace(message), connection)
            stage.say(shared.Blob(number, given=number), connection)
        assert program.clusters[1].open == {}
        stage.say(shared.CancelJobs(0, 1, [2]), connection)
        while 1 not in program.clusters[1].open:
            await asyncio.sleep(0)
        stage.hub._copier.shutdown()  # type: ignore[union-attr]
        await asyncio.sleep(0.01)
        assert program.clusters[1].open == {1: SIZE}
        (job,) = stage.hub.service.state.computations[program.client, 1].queue
        assert bytes(job.payload) == b"\1" * SIZE
        assert (program.channel.count_waiting, program.channel.size_waiting) == (0, 0)
        assert on_disk(tmp_path) == 1

    asyncio.run(run())
