"""Files on their way to a node, one step after the other."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from dispy.core.execution.state import ClientId
from dispy.files.store import FOLLOWED_MIN, Store
from dispy.node.stages import Seams, Stage
from dispy.node.staging import Stager
from dispy.protocol import node
from dispy.protocol.files import FileEntry

CLIENT = ClientId(b"c" * 16)
EMPTY = FileEntry("empty", hashlib.sha256(b"").digest(), 0, 0o644, 10**18)


class Threads(Executor):
    """They do what they are given when they are told to."""

    def __init__(self, left: list[Callable[[], None]]) -> None:
        self._left = left

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._left.append(lambda: future.set_result(work(*arguments)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """There are none."""


def test_an_empty_file_is_asked_for_once(tmp_path: Path) -> None:
    """Also when one of those who want it leaves while it is put away: the second answer might never come."""
    left: list[Callable[[], None]] = []
    sent: list[node.FromNode] = []

    def send(client: ClientId, message: node.FromNode) -> bool:
        sent.append(message)
        return True

    def run() -> None:
        due = left[:]
        left.clear()
        for task in due:
            task()

    seams = Seams(send, lambda call, *rest: call(*rest), lambda *_: None, None, lambda *_: Threads(left))
    stager = Stager(Store(tmp_path / "store", 1 << 20), seams)
    ended: list[str] = []
    stages = [stager.stage(Stage(CLIENT, number, [EMPTY], None, ended.append)) for number in (1, 2)]
    run()
    stager.on_data(CLIENT, [(node.FilePiece(EMPTY.digest, 0, b""), None)])
    stager.drop(stages[0])
    run()
    run()
    assert ended == [""]
    assert sum(type(message) is node.NeedFiles for message in sent) == 1
    stager.close()


def test_what_was_copied_early_is_let_go_when_nobody_wants_it(tmp_path: Path) -> None:
    """Another node receives the file meanwhile; it is put there by that copy, or the copy is gone."""
    size = FOLLOWED_MIN
    content = bytes(size)
    entry = FileEntry("zeros", hashlib.sha256(content).digest(), size, 0o644, 10**18)
    left: list[Callable[[], None]] = []
    due: list[Callable[[], None]] = []

    def run() -> None:
        tasks = left + due
        left.clear()
        due.clear()
        for task in tasks:
            task()

    def later(_: float, call: Callable[..., None], *rest: Any) -> None:
        due.append(lambda: call(*rest))

    seams = Seams(lambda *_: True, lambda call, *rest: call(*rest), later, None, lambda *_: Threads(left))
    stager = Stager(Store(tmp_path / "store", 1 << 30), seams)
    other = Store(tmp_path / "store", 1 << 30)
    part = other.begin(entry.digest, size)
    part.write(0, content[: size // 2])
    ended: list[str] = []
    before = len(os.listdir("/proc/self/fd"))
    stages: list[Stage] = []
    for name in ("dropped", "kept"):
        (tmp_path / name).mkdir()
        stages.append(stager.stage(Stage(CLIENT, len(stages), [entry], tmp_path / name, ended.append)))
    for _ in range(5):
        run()
    assert list(stages[0].begun) == [entry.digest]
    assert len(os.listdir("/proc/self/fd")) == before + 2
    stager.drop(stages[0])
    for _ in range(3):
        run()
    assert not stages[0].begun
    assert list(stages[1].begun) == [entry.digest]
    copy = stages[1].begun[entry.digest]
    assert copy is not None
    inode = os.fstat(copy._made).st_ino
    part.write(size // 2, content[size // 2 :])
    assert part.finish()
    for _ in range(5):
        run()
    assert ended == [""]
    assert (tmp_path / "kept" / "zeros").stat().st_ino == inode
    assert (tmp_path / "kept" / "zeros").read_bytes() == content
    assert not (tmp_path / "dropped" / "zeros").exists()
    # The part was closed as well.
    assert len(os.listdir("/proc/self/fd")) == before - 1
    stager.close()


def test_a_node_that_ends_lets_go_of_what_it_copied(tmp_path: Path) -> None:
    size = FOLLOWED_MIN
    entry = FileEntry("zeros", hashlib.sha256(bytes(size)).digest(), size, 0o644, 10**18)
    left: list[Callable[[], None]] = []
    seams = Seams(
        lambda *_: True, lambda call, *rest: call(*rest), lambda *_: None, None, lambda *_: Threads(left)
    )
    stager = Stager(Store(tmp_path / "store", 1 << 30), seams)
    part = Store(tmp_path / "store", 1 << 30).begin(entry.digest, size)
    before = len(os.listdir("/proc/self/fd"))
    stage = stager.stage(Stage(CLIENT, 1, [entry], tmp_path, lambda _: None))
    while left:
        left.pop(0)()
    assert len(os.listdir("/proc/self/fd")) == before + 2
    stager.close()
    assert not stage.begun
    assert len(os.listdir("/proc/self/fd")) == before
    part.close()
