"""Files of programs that a shared scheduler keeps: asked for, received in any order, refused, served, removed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dispy.protocol.files import FileEntry
from dispy.protocol.node import FilePiece, FileUnreadable, NeedFiles, Piece
from dispy.protocol.shared import Wish
from dispy.protocol.views import NodeId, NodeInfo
from dispy.scheduler.daemon import files
from dispy.scheduler.daemon.absence import cpus_of
from dispy.scheduler.daemon.files import PIECE, FileKeeper, ProgramFiles

NODE = b"n" * 16
BIG = bytes(range(256)) * (3 * PIECE // 256) + b"end"


def entry(data: bytes, package: int = 0) -> FileEntry:
    return FileEntry("name", hashlib.sha256(data).digest(), len(data), 0o600, 0, package)


class Played:
    """A program with files, its scheduler's store, and what is said to both sides."""

    def __init__(self, root: Path) -> None:
        self.keeper = FileKeeper(root)
        self.asked: list[tuple[int, bytes, NeedFiles]] = []
        self.sent: list[tuple[int, bytes, list[FilePiece]]] = []
        self.files = ProgramFiles(
            self.keeper,
            "program-1",
            lambda *question: self.asked.append(question),
            lambda *answer: self.sent.append(answer),
        )
        self.root = root / "program-1"

    def answer(self, *contents: bytes, reverse: bool = False) -> None:
        """The program answers all that the scheduler itself has asked for, until it asks no more."""
        known = {hashlib.sha256(data).digest(): data for data in contents}
        while any(not node for _, node, _ in self.asked):
            asked, self.asked = self.asked, [each for each in self.asked if each[1]]
            pieces = [piece for _, node, need in asked if not node for piece in need.pieces]
            for piece in reversed(pieces) if reverse else pieces:
                data = known[piece.digest][piece.offset : piece.offset + piece.size]
                self.files.on_pieces([FilePiece(piece.digest, piece.offset, data)])

    async def settle(self) -> None:
        """The thread has done all that it was told, and the loop knows."""
        done = asyncio.Event()
        self.keeper.call(lambda: None, lambda *_: done.set())
        await done.wait()

    def kept(self) -> list[bytes]:
        return [path.read_bytes() for path in self.root.glob("*/*")]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[Callable[[Played], Any]], None]]:
    """Runs a coroutine with a ``Played``."""
    made: list[Played] = []

    def call(play: Callable[[Played], Any]) -> None:
        async def main() -> None:
            made.append(Played(tmp_path))
            await play(made[-1])

        asyncio.run(main())

    yield call
    for each in made:
        each.keeper.close()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("data", [b"", b"small", BIG], ids=["empty", "small", "large"])
def test_a_file_is_fetched_and_served(run: Any, data: bytes, reverse: bool) -> None:
    async def play(played: Played) -> None:
        played.files.want(1, [entry(data)])
        digest = hashlib.sha256(data).digest()
        # A node that asks before it is there waits.
        played.files.need(1, NODE, [Piece(digest, 0, len(data))])
        assert not played.sent
        assert played.files.count_missing() == 1
        played.answer(data, reverse=reverse)
        await played.settle()
        await played.settle()
        ((cluster, node, (piece,)),) = played.sent
        assert (cluster, node, piece.digest, bytes(piece.data)) == (1, NODE, digest, data)
        assert played.kept() == [data]
        assert played.files.count_missing() == 0
        assert not played.asked
        played.files.on_closed(1)
        await played.settle()
        assert played.kept() == []
        assert played.keeper.size == 0

    run(play)


def test_not_too_much_is_under_way(run: Any) -> None:
    async def play(played: Played) -> None:
        contents = [bytes([n]) * (8 * PIECE) for n in range(4)]
        played.files.want(1, [entry(data) for data in contents])
        asked = sum(piece.size for _, _, need in played.asked for piece in need.pieces)
        assert asked == 16 * PIECE
        played.answer(*contents)
        await played.settle()
        assert sorted(played.kept()) == contents

    run(play)


def test_wrong_content_is_not_kept(run: Any) -> None:
    """A node that waits for it asks the program, as if there were no store."""

    async def play(played: Played) -> None:
        right = entry(b"right")
        played.files.want(1, [right])
        played.files.need(1, NODE, [Piece(right.digest, 0, 5)])
        played.asked.clear()
        played.files.on_pieces([FilePiece(right.digest, 0, b"wrong")])
        await played.settle()
        assert [(cluster, node) for cluster, node, _ in played.asked] == [(1, NODE)]
        await played.settle()
        assert played.kept() == []
        assert played.keeper.size == 0

    run(play)


def test_a_refusal_reaches_the_nodes_that_wait(run: Any) -> None:
    """The question goes to the program, and again to a recovery of it; an answer ends that."""

    async def play(played: Played) -> None:
        lost = entry(b"lost")
        piece = Piece(lost.digest, 0, 4)
        played.files.want(1, [lost])
        played.files.need(1, NODE, [piece])
        played.asked.clear()
        played.files.on_unreadable([FileUnreadable(1, lost.digest, "it has changed")])
        assert played.asked == [(1, NODE, NeedFiles(1, [piece]))]
        assert played.files.count_missing() == 1
        played.files.ask_again()
        assert played.asked == [(1, NODE, NeedFiles(1, [piece]))] * 2
        played.files.on_answered(1, NODE, [], [FileUnreadable(1, lost.digest, "it has changed")])
        played.files.ask_again()
        assert len(played.asked) == 2

    run(play)


def test_a_recovery_is_asked_for_what_is_missing(run: Any) -> None:
    """What has come is not asked for again."""

    async def play(played: Played) -> None:
        big = entry(BIG)
        played.files.want(1, [big])
        played.files.on_pieces([FilePiece(big.digest, 0, BIG[:PIECE])])
        played.asked.clear()
        played.files.ask_again()
        assert [piece.offset for _, _, need in played.asked for piece in need.pieces] == [
            PIECE, 2 * PIECE, 3 * PIECE,
        ]  # fmt: skip
        played.answer(BIG)
        await played.settle()
        assert played.kept() == [BIG]

    run(play)


def test_files_of_jobs_go_with_the_last_one(run: Any) -> None:
    async def play(played: Played) -> None:
        for job in (1, 2):
            played.files.want(1, [entry(b"of jobs")], job)
        played.answer(b"of jobs")
        await played.settle()
        played.files.on_ended(1, [1])
        await played.settle()
        assert played.kept() == [b"of jobs"]
        played.files.on_ended(1, [2])
        await played.settle()
        assert played.kept() == []

    run(play)


def test_a_file_that_another_cluster_needs_is_asked_in_its_name(run: Any) -> None:
    """The program answers nothing about a cluster that it has closed."""

    async def play(played: Played) -> None:
        for cluster in (1, 2):
            played.files.want(cluster, [entry(b"data")])
        assert [cluster for cluster, _, _ in played.asked] == [1]
        played.files.on_closed(1)
        assert [cluster for cluster, _, _ in played.asked] == [1, 2]
        played.answer(b"data")
        await played.settle()
        assert played.kept() == [b"data"]

    run(play)


def test_files_of_installed_packages_come_when_a_node_asks(run: Any) -> None:
    async def play(played: Played) -> None:
        installed = entry(b"code", package=1)
        played.files.want(1, [installed])
        assert not played.asked
        played.files.need(1, NODE, [Piece(installed.digest, 0, 4)])
        played.answer(b"code")
        await played.settle()
        await played.settle()
        assert [bytes(piece.data) for _, _, pieces in played.sent for piece in pieces] == [b"code"]

    run(play)


def test_beyond_the_bound_nodes_ask_the_program(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PROGRAM_MAX", 10)

    async def play(played: Played) -> None:
        played.files.want(1, [entry(b"12345678"), entry(b"abcd")])
        assert len(played.asked) == 1
        piece = Piece(entry(b"abcd").digest, 0, 4)
        played.files.need(1, NODE, [piece])
        assert played.asked[1:] == [(1, NODE, NeedFiles(1, [piece]))]
        played.answer(b"12345678")
        await played.settle()
        played.files.close()
        await played.settle()
        assert not played.root.exists()
        assert played.keeper.size == 0

    run(play)


@pytest.mark.parametrize(
    ("wishes", "cpus"),
    [
        ([Wish("*")], 4),
        ([Wish("10.0.*", cpus=3)], 3),
        ([Wish("10.0.*", cpus=-1)], 3),
        ([Wish("10.0.*", cpus=-4)], 4),
        ([Wish("10.1.*")], 0),
        ([Wish("big", "10.0.0.7", 9701)], 4),
        ([Wish("big", "10.0.0.7", 9702)], 0),
        ([Wish("10.0.0.7", "10.0.0.7", is_asked=True), Wish("*")], 0),
        ([], 0),
    ],
)
def test_which_nodes_a_program_that_is_away_uses(wishes: list[Wish], cpus: int) -> None:
    info = NodeInfo(NodeId(NODE), "big", "10.0.0.7", 9701, 4, "Linux")
    assert cpus_of(wishes, info) == cpus
