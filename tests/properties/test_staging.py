"""Files on their way to a node, over connections that break: all arrive as they were, or it is said why not.

The stager is the real one with its threads; clients are played, and answer when and in what order chance has it.
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

from dispy.core.execution.ids import ClientId
from dispy.files.fetching.stager import Stager
from dispy.files.fetching.wanted_files import Seams, Stage
from dispy.files.part import SMALL
from dispy.files.stores import Stores
from dispy.protocol import limits, node
from dispy.protocol.files import FileEntry
from tests.trees import open_tree

CLIENTS = [ClientId(bytes([n]) * 16) for n in range(2)]
LARGE = 3 * limits.PIECE_MAX
CONTENTS = [
    b"",
    b"small",
    b"s" * SMALL,
    bytes(range(256)) * (LARGE // 256) + b"tail",
    b"x" * (LARGE + 1),
    b"y" * 100_000,
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
        self.asked: dict[ClientId, list[tuple[int, node.Piece]]] = {client: [] for client in CLIENTS}
        self.ended: dict[Stage, str] = {}
        self.stores = Stores(base / "store", 1 << 30, b"key")
        seams = Seams(self._send, self._post, self._later, open_tree)
        self.stager = Stager(self.stores, seams)
        self.stages: list[Stage] = []
        self.liars: set[ClientId] = set()
        self.due: list[tuple[Any, ...]] = []
        self.sent = dict.fromkeys(CLIENTS, 0)
        """Pieces that each client was asked for, over all time."""

    def _post(self, function: Callable[..., object], *arguments: Any) -> None:
        self.calls.put((function, arguments))

    def _later(self, delay_s: float, *call: Any) -> None:
        """Time passes when nothing else happens: ``settle``."""
        self.due.append(call)

    def _send(self, client: ClientId, message: node.FromNode) -> bool:
        if not self.connected[client]:
            return False
        if isinstance(message, node.NeedFiles):
            assert len(message.pieces) <= limits.PIECES_MAX
            stage = self.stages[message.computation]
            assert stage.supplier == client, "somebody is asked for files of another"
            assert {piece.digest for piece in message.pieces} <= {entry.digest for entry in stage.entries}
            self.asked[client] += [(message.computation, piece) for piece in message.pieces]
            self.sent[client] += len(message.pieces)
            under_way = sum(piece.size for _, piece in self.asked[client])
            assert under_way < limits.PIECES_SIZE_MAX + limits.PIECE_MAX, "too much is asked for at once"
        return True

    def pump(self, wait_s: float = 0.0) -> bool:
        """Do what threads have told; False if there was nothing."""
        try:
            function, arguments = self.calls.get(timeout=wait_s) if wait_s else self.calls.get_nowait()
        except queue.Empty:
            return False
        function(*arguments)
        return True

    def want(self, client: ClientId, which: list[int], owner: int = 0, excess: int = 0) -> None:
        """Files of an owner are needed; the client says that each has more bytes than it has, by ``excess``."""
        work = self.base / f"work{len(self.stages)}"
        work.mkdir()
        entries = [
            FileEntry(f"f{n}", DIGESTS[n], max(0, len(CONTENTS[n]) + excess), 0o644, 10**18)
            for n in sorted(set(which))
        ]
        store = self.stores.of(client, bytes([owner]) * 32)
        stage = Stage(
            store,
            client,
            len(self.stages),
            entries,
            work,
            lambda reason: self.ended.update({stage: reason}),
        )
        self.stages.append(self.stager.stage(stage))

    def answer(self, client: ClientId, place: int, *, twice: bool = False) -> None:
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
            if len(content) < limits.INLINE_MAX:
                bare.data = content
                self.stager.on_data(client, computation, [(bare, None)])
            else:
                self.stager.on_data(client, computation, [(bare, Landed(content))])

    def set_connected(self, client: ClientId, is_connected: bool) -> None:
        """A connection breaks, and what was on it is gone, or there is a new one."""
        if self.connected[client] and not is_connected:
            self.asked[client].clear()
            self.connected[client] = False
            self.stager.on_lost(client)
        elif is_connected:
            self.connected[client] = True
            self.asked[client].clear()
            self.stager.on_connected(client)

    def settle(self) -> None:
        """All are connected and answer, to the end."""
        for client in CLIENTS:
            if not self.connected[client]:
                self.set_connected(client, True)
        quiet = 0
        while any(stage not in self.ended and not stage.is_dropped for stage in self.stages):
            for client in CLIENTS:
                while self.asked[client]:
                    self.answer(client, 0)
            quiet = 0 if self.pump(0.2) else quiet + 1
            if quiet:
                due, self.due = self.due, []
                for function, *arguments in due:
                    function(*arguments)
            assert quiet < 25, f"nothing moves: {[s.entries for s in self.stages if s not in self.ended]}"


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
"""Each example hashes and copies some megabytes."""


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
                w.pump(0.01)
            elif what in ("break", "return"):
                w.set_connected(client, what == "return")
            elif what == "drop":
                w.stager.drop(w.stages[number % len(w.stages)])
        w.settle()
        for stage in w.stages:
            if not stage.is_dropped or stage in w.ended:
                assert w.ended.get(stage, "") == ""
                for entry in stage.entries:
                    assert stage.work is not None
                    assert (stage.work / entry.path).read_bytes() == BY_DIGEST[entry.digest]
        while w.pump(0.05):
            pass
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
            w.pump(0.02)
            w.answer(liar, 0)
        w.settle()
        for stage in w.stages:
            if stage.supplier == honest:
                assert w.ended[stage] == ""
                for entry in stage.entries:
                    assert stage.work is not None
                    assert (stage.work / entry.path).read_bytes() == BY_DIGEST[entry.digest]
            else:
                assert w.ended[stage] == "" or "its content is not what it was said to be" in w.ended[stage]


@some
@given(
    st.integers(0, len(CONTENTS) - 1),
    st.sampled_from([-LARGE, -1, 1, LARGE]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_who_says_a_wrong_size_harms_nobody_else(
    which: int, excess: int, is_first: bool, is_one_client: bool, is_there: bool
) -> None:
    """Not a file that is there, nor one that is on its way, nor other computations of the same client."""
    with world() as w:
        if is_there:
            w.want(CLIENTS[1], [which])
            w.settle()
        liar = len(w.stages) if is_first else len(w.stages) + 1
        for number in range(len(w.stages), len(w.stages) + 2):
            client = CLIENTS[0] if number == liar or is_one_client else CLIENTS[1]
            w.want(client, [which], excess=excess if number == liar else 0)
        w.settle()
        reasons = [w.ended[stage] for stage in w.stages]
        is_lie = excess > 0 or CONTENTS[which] != b""
        assert ("its content is not what it was said to be" in reasons.pop(liar)) == is_lie
        assert not any(reasons)
        asked_before = sum(w.sent.values())
        w.want(CLIENTS[1], [which])
        w.settle()
        assert sum(w.sent.values()) == asked_before, "it was dropped from the store"


def test_a_client_that_says_two_sizes_in_one_computation_is_refused() -> None:
    """Its answers could not be told apart; it does not wait for ever."""
    with world() as w:
        for excess in (0, 1):
            w.want(CLIENTS[0], [1], excess=excess)
            w.stages[-1].computation = 0
        while len(w.asked[CLIENTS[0]]) < 1 or len(w.ended) < 1:
            assert w.pump(5)
        (reason,) = w.ended.values()
        assert "different sizes" in reason
        w.settle()
        assert sorted(w.ended.values())[0] == ""
