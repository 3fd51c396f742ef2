"""Files on their way to a node, over connections that break: all arrive as they were, or it is said why not.

The stager is the real one, with its threads, a store on disk and files of some kilobytes; clients are played, and
answer when and in what order chance has it. What the core decides is tried in ``test_staging``, without threads.
"""

from __future__ import annotations

import hashlib
import queue
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from staging_rules import check

from dispy.core.staging import SupplierId
from dispy.files.fetching.stager import Stager
from dispy.files.fetching.wanted_files import Seams, Stage
from dispy.files.stores import Stores
from dispy.protocol import limits, node
from dispy.protocol.files import FileEntry
from tests.trees import open_tree

CLIENTS = [SupplierId(bytes([n]) * 16) for n in range(2)]
SMALL, PIECE, WINDOW = 1000, 4000, 16_000
LARGE = 3 * PIECE
CONTENTS = [
    b"",
    b"small",
    b"s" * SMALL,
    bytes(range(256)) * (LARGE // 256) + b"tail",
    b"x" * (LARGE + 1),
    b"y" * 1500,
]
DIGESTS = [hashlib.sha256(content).digest() for content in CONTENTS]
BY_DIGEST = dict(zip(DIGESTS, CONTENTS, strict=True))

Action = tuple[str, int, int]


class Landed:
    """A piece that came as a stream."""

    alive = 0

    def __init__(self, data: bytes) -> None:
        self._data = data
        Landed.alive += 1

    def view(self) -> bytes:
        return self._data

    def let_go(self) -> None:
        Landed.alive -= 1

    discard = let_go


class World:
    """A stager and its clients."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.calls: queue.SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] = queue.SimpleQueue()
        self.connected = dict.fromkeys(CLIENTS, True)
        self.asked: dict[SupplierId, list[tuple[int, node.Piece]]] = {client: [] for client in CLIENTS}
        self.ended: dict[Stage, str] = {}
        self.stores = Stores(base / "store", 1 << 30, b"key")
        self.now = 0.0
        seams = Seams(
            self._send, self._post, self._later, open_tree,
            small_max=SMALL, piece_max=PIECE, pieces_max=WINDOW, clock=lambda: self.now,
        )  # fmt: skip
        self.stager = Stager(self.stores, seams)
        for client in CLIENTS:
            self.stager.on_connected(client)
        self.stages: list[Stage] = []
        self.liars: set[SupplierId] = set()
        self.due: list[tuple[Any, ...]] = []

    def _post(self, function: Callable[..., object], *arguments: Any) -> None:
        self.calls.put((function, arguments))

    def _later(self, delay_s: float, *call: Any) -> None:
        """Time passes when nothing else happens: ``settle``."""
        self.due.append((self.now + delay_s, *call))

    def _send(self, client: SupplierId, message: node.FromNode) -> bool:
        assert self.connected[client]
        if isinstance(message, node.NeedFiles):
            assert len(message.pieces) <= limits.PIECES_MAX
            stage = self.stages[message.computation]
            assert stage.supplier == client, "somebody is asked for files of another"
            assert {piece.digest for piece in message.pieces} <= {entry.digest for entry in stage.entries}
            self.asked[client] += [(message.computation, piece) for piece in message.pieces]
            under_way = sum(piece.size for _, piece in self.asked[client])
            assert under_way < WINDOW + PIECE, "too much is asked for at once"
        return True

    def pump(self, wait_s: float = 0.0) -> bool:
        """Do what threads have told; False if there was nothing."""
        try:
            function, arguments = self.calls.get(timeout=wait_s) if wait_s else self.calls.get_nowait()
        except queue.Empty:
            return False
        function(*arguments)
        check(self.stager.machine.state)
        return True

    def want(self, client: SupplierId, which: list[int], owner: int = 0, excess: int = 0) -> None:
        """Files of an owner are needed; the client says that each has more bytes than it has, by ``excess``."""
        work = self.base / f"work{len(self.stages)}"
        work.mkdir()
        entries = [
            FileEntry(f"f{n}", DIGESTS[n], max(0, len(CONTENTS[n]) + excess), 0o644, 10**18)
            for n in sorted(set(which))
        ]
        store = self.stores.of(client, bytes([owner]) * 32)
        number = len(self.stages)
        stage = Stage(
            store, client, number, entries, work, lambda reason: self.ended.update({stage: reason})
        )
        self.stages.append(stage)
        self.stager.stage(stage)

    def answer(self, client: SupplierId, place: int, *, twice: bool = False) -> None:
        """A client sends one of the pieces that it was asked for, whichever."""
        if not self.connected[client] or not self.asked[client]:
            return
        computation, piece = self.asked[client].pop(place % len(self.asked[client]))
        if self.stages[computation].is_dropped and place % 3:
            return  # the client does not know that computation any more
        content = BY_DIGEST[piece.digest][piece.offset : piece.offset + piece.size]
        if client in self.liars and content:
            content = bytes([content[0] ^ 1]) + content[1:]
        for _ in range(1 + twice):
            bare = node.FilePiece(piece.digest, piece.offset, b"")
            if len(content) < SMALL:
                bare.data = content
                self.stager.on_data(client, computation, [(bare, None)])
            else:
                self.stager.on_data(client, computation, [(bare, Landed(content))])

    def set_connected(self, client: SupplierId, is_connected: bool) -> None:
        """A connection breaks, and what was on it is gone, or there is a new one."""
        if self.connected[client] and not is_connected:
            self.asked[client].clear()
            self.connected[client] = False
            self.stager.on_lost(client)
        elif is_connected:
            self.connected[client] = True
            self.asked[client].clear()
            self.stager.on_connected(client)

    def is_busy(self) -> bool:
        """Whether a thread will tell something."""
        state = self.stager.machine.state
        return bool(state.stage_work or state.part_work or state.writes or state.trim_work)

    def pass_time(self) -> None:
        """What is due next is done."""
        self.due.sort(key=lambda call: call[0])
        self.now, function, *arguments = self.due.pop(0)
        function(*arguments)

    def settle(self) -> None:
        """All are connected and answer, to the end."""
        for client in CLIENTS:
            if not self.connected[client]:
                self.set_connected(client, True)
        while (
            any(stage not in self.ended and not stage.is_dropped for stage in self.stages) or self.is_busy()
        ):
            for client in CLIENTS:
                while self.asked[client]:
                    self.answer(client, 0)
            if self.is_busy():
                assert self.pump(10), "no thread says anything"
            else:
                self.pass_time()


@contextmanager
def world() -> Iterator[World]:
    base = Path(tempfile.mkdtemp())
    made = World(base)
    Landed.alive = 0
    try:
        yield made
    finally:
        made.stager.close()
        shutil.rmtree(base)


def check_whole(stage: Stage) -> None:
    """The files of a stage are where they are wanted, as they were."""
    assert stage.work is not None
    for entry in stage.entries:
        assert (stage.work / entry.path).read_bytes() == BY_DIGEST[entry.digest]


steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["want", "answer", "answer", "answer", "twice", "pump", "pump", "break", "return", "drop"]
        ),
        st.integers(0, 1),
        st.integers(0, 100),
    ),
    max_size=40,
)
some = settings(max_examples=settings.default.max_examples // 5)
"""Each example makes a store, directories and threads."""


@some
@given(st.lists(st.lists(st.integers(0, len(CONTENTS) - 1), min_size=1), min_size=1, max_size=4), steps)
def test_files_arrive_as_they_were(wanted: list[list[int]], played: list[Action]) -> None:
    with world() as w:
        left = list(wanted)
        w.want(CLIENTS[0], left.pop())
        for what, who, number in played:
            client = CLIENTS[who]
            if what == "want" and left:
                w.want(client, left.pop(), number % 2)
            elif what in ("answer", "twice"):
                w.answer(client, number, twice=what == "twice")
            elif what == "pump":
                w.pump(0.001)
            elif what in ("break", "return"):
                w.set_connected(client, what == "return")
            elif what == "drop":
                w.stager.drop(w.stages[number % len(w.stages)])
        w.settle()
        for stage in w.stages:
            if not stage.is_dropped or stage in w.ended:
                assert w.ended.get(stage, "") == ""
                check_whole(stage)
        assert Landed.alive == 0, "pieces are left on the memory file system"


@some
@given(st.integers(0, len(CONTENTS) - 1), st.booleans(), st.integers(0, 3))
def test_who_sends_something_else_harms_nobody_else(which: int, liar_first: bool, answers: int) -> None:
    with world() as w:
        liar, honest = CLIENTS if liar_first else CLIENTS[::-1]
        w.liars = {liar}
        for client in CLIENTS:
            w.want(client, [which, (which + 1) % len(CONTENTS)])
        for _ in range(answers):
            w.pump(0.001)
            w.answer(liar, 0)
        w.settle()
        for stage in w.stages:
            if stage.supplier == honest:
                assert w.ended[stage] == ""
                check_whole(stage)
            else:
                assert w.ended[stage] == "" or "its content is not what it was said to be" in w.ended[stage]


@some
@given(
    st.integers(0, len(CONTENTS) - 1), st.sampled_from([-LARGE, -1, 1, LARGE]), st.booleans(), st.booleans()
)
def test_who_says_a_wrong_size_harms_nobody_else(
    which: int, excess: int, is_first: bool, is_one_client: bool
) -> None:
    """On disk, too: two sizes of one digest have one part, of which one waits for the other."""
    with world() as w:
        liar = 0 if is_first else 1
        for number in range(2):
            client = CLIENTS[0] if number == liar or is_one_client else CLIENTS[1]
            w.want(client, [which], excess=excess if number == liar else 0)
        w.settle()
        is_lie = excess > 0 or CONTENTS[which] != b""
        assert ("its content is not what it was said to be" in w.ended[w.stages[liar]]) == is_lie
        assert w.ended[w.stages[1 - liar]] == ""
        check_whole(w.stages[1 - liar])
