"""Files on their way to a node, one step after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from dispy.core.execution.state import ClientId
from dispy.files.store import Store
from dispy.node.staging import Seams, Stage, Stager
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
