"""Files on their way to a node, one step after the other."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dispy.core.execution.ids import ClientId, WorkerId
from dispy.core.staging import PLACERS
from dispy.files.fetching.stager import Stager
from dispy.files.fetching.wanted_files import Seams, Stage
from dispy.files.part import Part
from dispy.files.store import FOLLOWED_MIN, Store
from dispy.files.stores import Stores
from dispy.node.staging.job_files import Brought, Work
from dispy.protocol import node
from dispy.protocol.files import FileEntry
from dispy.protocol.limits import SMALL_FILE_MAX
from dispy.protocol.node import Job
from dispy.protocol.worker import Record
from tests.trees import open_tree

CLIENT = ClientId(b"c" * 16)
POOLS = ["dispy places", "dispy looks", "dispy writes", "dispy writes", "dispy hashes"]
"""Threads of a stager, by the names of their pools."""

EMPTY = FileEntry("empty", hashlib.sha256(b"").digest(), 0, 0o644, 10**18)


class Threads(Executor):
    """They do what they are given when they are told to."""

    def __init__(self, left: list[Callable[[], Any]]) -> None:
        self._left = left

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def do() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work(*arguments))
                except Exception as error:
                    future.set_exception(error)

        self._left.append(do)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """There are none."""


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

    seams = Seams(
        lambda *_: True, lambda call, *rest: call(*rest), later, open_tree, lambda *_: Threads(left)
    )
    stager = Stager(Stores(tmp_path / "store", 1 << 30, b"key"), seams)
    stager.on_connected(CLIENT)
    store = Store(tmp_path / "store" / "owner")
    other = Store(tmp_path / "store" / "owner")
    part = other.begin(entry.digest, size)
    part.write(0, content[: size // 2])
    ended: list[str] = []
    before = len(os.listdir("/proc/self/fd"))
    stages: list[Stage] = []
    for name in ("dropped", "kept"):
        (tmp_path / name).mkdir()
        stages.append(
            stager.stage(Stage(store, CLIENT, len(stages), [entry], tmp_path / name, ended.append))
        )
    for _ in range(5):
        run()
    assert list(stages[0].begun) == [entry.digest]
    assert len(os.listdir("/proc/self/fd")) == before + 3
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
        lambda *_: True,
        lambda call, *rest: call(*rest),
        lambda *_: None,
        open_tree,
        lambda *_: Threads(left),
    )
    stager = Stager(Stores(tmp_path / "store", 1 << 30, b"key"), seams)
    stager.on_connected(CLIENT)
    store = Store(tmp_path / "store" / "owner")
    part = Store(tmp_path / "store" / "owner").begin(entry.digest, size)
    before = len(os.listdir("/proc/self/fd"))
    stage = stager.stage(Stage(store, CLIENT, 1, [entry], tmp_path, lambda _: None))
    while left:
        left.pop(0)()
    assert len(os.listdir("/proc/self/fd")) == before + 3
    stager.close()
    assert not stage.begun
    assert len(os.listdir("/proc/self/fd")) == before
    part.close()


class Noted(Store):
    """A store that notes what it is asked."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: list[str] = []
        self.on_asked: Callable[[], None] = lambda: None

    def _on_asked(self, what: str) -> None:
        self.asked.append(what)
        self.on_asked()

    def has(self, digest: bytes, size: int) -> bool:
        self._on_asked("has")
        return super().has(digest, size)

    def find(self, digest: bytes, size: int) -> int | None:
        self._on_asked("find")
        return super().find(digest, size)

    def begin(self, digest: bytes, size: int, *, apart: bool = False) -> Part:
        self._on_asked("begin")
        return super().begin(digest, size, apart=apart)

    def trim(self) -> None:
        """Of all stores."""
        self._on_asked("trim")


class Place:
    """A stager whose threads, loop and clock go on when they are told to."""

    def __init__(self, root: Path, kind: type[Threads] = Threads) -> None:
        self.store = Noted(root / "store")
        self.threads: list[Callable[[], object]] = []
        self.calls: list[Callable[[], object]] = []
        self.timers: list[Callable[[], object]] = []
        self.sent: list[node.FromNode] = []
        self.ended: list[str] = []
        self.kind = kind
        self.made: list[str] = []
        """Names of the pools that were made."""
        seams = Seams(self._send, self._post, self._later, open_tree, self._make)
        self.stager = Stager(self.store, seams)  # type: ignore[arg-type]  # it trims only
        self.stager.on_connected(CLIENT)

    def _make(self, _: int, name: str) -> Pool:
        self.made.append(name)
        return Pool(self)

    def _send(self, client: ClientId, message: node.FromNode) -> bool:
        self.sent.append(message)
        return True

    def _post(self, call: Callable[..., object], *rest: Any) -> None:
        self.calls.append(lambda: call(*rest))

    def _later(self, _: float, call: Callable[..., object], *rest: Any) -> None:
        self.timers.append(lambda: call(*rest))

    def stage(self, entries: list[FileEntry], work: Path | None = None) -> Stage:
        return self.stager.stage(Stage(self.store, CLIENT, 1, entries, work, self.ended.append))

    def run(self, *what: list[Callable[[], object]]) -> None:
        """Do what is due, and what comes of it."""
        while any(what):
            for due in what:
                while due:
                    due.pop(0)()


class Pool(Executor):
    """Threads of the kind that a place has now."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        return self._place.kind(self._place.threads).submit(work, *arguments, **options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """There are none."""


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    made = Place(tmp_path, getattr(request, "param", Threads))
    yield made
    made.stager.close()


def test_no_thread_looks_for_files_that_nobody_wants_any_more(place: Place) -> None:
    """A program cancels many jobs; what another waits for is looked at next."""
    stages = [place.stage([EMPTY]) for _ in range(100)]
    for stage in stages:
        place.stager.drop(stage)
    place.run(place.calls, place.threads)
    assert "has" not in place.store.asked
    assert not place.stager.machine.state.stage_work
    place.stage([EMPTY])
    place.run(place.threads, place.calls)
    assert place.store.asked.count("has") == 1


def test_a_thread_that_looks_stops_after_the_file_that_it_is_at(place: Place) -> None:
    stage = place.stage([replace(EMPTY, path=f"{n}", digest=bytes([n] * 32), size=9) for n in range(50)])
    place.store.on_asked = lambda: place.stager.drop(stage)
    place.run(place.threads, place.calls)
    assert place.store.asked[0] == "has"
    assert "has" not in place.store.asked[1:]
    assert not place.stager.machine.state.stage_work
    assert not place.ended
    assert not any(type(message) is node.NeedFiles for message in place.sent)


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_directory_is_left_when_what_was_to_be_put_there_is_dropped(
    place: Place, tmp_path: Path, has_begun: bool
) -> None:
    """Without waiting for a thread that others have; never while one is at it."""
    done: list[str] = []
    for number in range(0 if has_begun else PLACERS):
        place.stage([EMPTY], tmp_path / f"other{number}")
    stage = place.stage([EMPTY], tmp_path)
    place.stager.leave(tmp_path, lambda: done.append("left"))
    assert done == []
    place.stager.drop(stage, lambda: done.append("dropped"))
    assert done == ([] if has_begun else ["dropped", "left"])
    place.run(place.threads, place.calls)
    assert done == ["dropped", "left"]
    assert not place.ended or not has_begun


def test_the_store_is_trimmed_when_something_was_stored(place: Place, tmp_path: Path) -> None:
    """Once for all that has ended; before the first time nobody knows what was stored."""
    for _ in range(10):
        place.stager.drop(place.stage([EMPTY], tmp_path))
    place.run(place.threads, place.calls)
    assert place.store.asked == ["trim"]
    place.stager.drop(place.stage([EMPTY], tmp_path))
    place.run(place.threads, place.calls)
    assert place.store.asked == ["trim"]
    place.stage([EMPTY])
    place.run(place.threads, place.calls)
    place.stager.on_data(CLIENT, 1, [(node.FilePiece(EMPTY.digest, 0, b""), None)])
    place.run(place.threads, place.calls)
    assert place.ended == [""]
    assert place.store.asked.count("trim") == 2


def test_a_whole_part_that_cannot_get_its_name_fails_with_the_reason(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node was killed before it could rename the part; the disk is full when the next one does."""
    content = os.urandom(SMALL_FILE_MAX + 1)
    entry = FileEntry("a", hashlib.sha256(content).digest(), len(content), 0o600, 0)
    part = place.store.begin(entry.digest, entry.size)
    part.write(0, content)
    part.close()

    def finish(self: Part) -> bool:
        self.close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Part, "finish", finish)
    place.stage([entry], tmp_path)
    place.run(place.threads, place.calls)
    (reason,) = place.ended
    assert "No space left on device" in reason


def test_computations_with_one_directory_do_not_overwrite_what_was_moved_aside(tmp_path: Path) -> None:
    def run(work: Work, then: Callable[[Any], None]) -> None:
        with open_tree(tmp_path) as tree:
            result = work(tree)
        then(result)

    def stage(files: list[FileEntry], done: Callable[[str], None]) -> Any:
        """No thread ever comes to it."""

    both = [Brought(run, stage, *[lambda *_: None] * 3) for _ in range(2)]  # type: ignore[list-item]
    entries = [FileEntry(name, bytes(32), 1, 0o600, 0) for name in ("a", "b")]
    for entry in entries:
        (tmp_path / entry.path).write_text(f"own {entry.path}")
    for brought, entry in zip(both, entries, strict=True):
        brought.note(1, [entry])
        assert brought.offer(WorkerId(1), Record(1, [Job(1, 0, b"")]))
    assert not any((tmp_path / entry.path).exists() for entry in entries)
    for brought in both:
        brought.close()
    assert [(tmp_path / entry.path).read_text() for entry in entries] == ["own a", "own b"]


@pytest.mark.parametrize("what", ["has", "find", "begin"])
def test_a_fault_on_a_thread_fails_what_waits_for_it(place: Place, tmp_path: Path, what: str) -> None:
    """With the reason; nothing waits for ever, and the next stage is served."""

    def fail() -> None:
        if place.store.asked[-1] == what:
            raise RuntimeError("a fault")

    place.store.on_asked = fail
    work = tmp_path / "work"
    work.mkdir()
    entry = replace(EMPTY, digest=b"d" * 32, size=1 << 20)
    place.stage([entry], work if what == "find" else None)
    place.run(place.threads, place.calls)
    (reason,) = place.ended
    assert "this node has a fault: RuntimeError: a fault" in reason
    assert not place.stager.machine.state.stage_work
    assert not place.stager.machine.state.part_work
    done: list[str] = []
    place.stager.leave(work, lambda: done.append("left"))
    assert done == ["left"]
    place.store.on_asked = lambda: None
    place.ended.clear()
    digest = hashlib.sha256(b"there").digest()
    assert place.store.add(digest, b"there")
    place.stage([replace(EMPTY, digest=digest, size=5)])
    place.run(place.threads, place.calls)
    assert place.ended == [""]


class Exhausted(Threads):
    """No thread can be started; what was to be done is kept, as by ``ThreadPoolExecutor``."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        super().submit(work, *arguments, **options)
        raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("place", [Exhausted], indirect=True)
def test_where_no_thread_can_be_started_a_stage_fails(place: Place) -> None:
    place.stage([EMPTY])
    place.run(place.calls)
    (reason,) = place.ended
    assert "can't start new thread" in reason
    assert not place.stager.machine.state.stage_work
    place.run(place.threads, place.calls)
    assert len(place.ended) == 1


class Landed:
    """A piece that has come as a stream."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.is_let_go = False

    def view(self) -> bytes:
        return self.data

    def let_go(self) -> None:
        assert not self.is_let_go
        self.is_let_go = True

    discard = let_go


LARGE = os.urandom(3 * SMALL_FILE_MAX)
ENTRY = FileEntry("large", hashlib.sha256(LARGE).digest(), len(LARGE), 0o644, 10**18)


def begin(place: Place) -> None:
    """A large file is asked for."""
    place.stage([ENTRY])
    place.run(place.threads, place.calls)
    assert [type(message) for message in place.sent] == [node.FilesProgress, node.NeedFiles]


def test_what_no_thread_comes_to_write_is_let_go(place: Place) -> None:
    """And a thread that is there later after all leaves it alone."""
    begin(place)
    landed = Landed(LARGE)
    place.kind = Exhausted
    place.stager.on_data(CLIENT, 1, [(node.FilePiece(ENTRY.digest, 0, b""), landed)])
    place.kind = Threads
    place.run(place.calls)
    (reason,) = place.ended
    assert "can't start new thread" in reason
    assert landed.is_let_go
    place.run(place.threads, place.calls)
    assert not place.stager.machine.state.writing


def test_a_part_that_no_thread_came_to_open_is_not_opened_later(place: Place) -> None:
    """Nobody would close it, and other nodes would wait for it."""
    place.stage([ENTRY])
    place.threads.pop(0)()
    place.kind = Exhausted
    place.run(place.calls)
    place.kind = Threads
    place.run(place.threads, place.calls)
    assert len(place.ended) == 1
    assert "begin" not in place.store.asked


def test_the_part_of_a_file_that_came_too_short_is_closed(place: Place) -> None:
    """Else it would be locked for as long as this node is there, for itself, too."""
    before = len(os.listdir("/proc/self/fd"))
    begin(place)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    landed = Landed(LARGE[:-1])
    place.stager.on_data(CLIENT, 1, [(node.FilePiece(ENTRY.digest, 0, b""), landed)])
    place.run(place.threads, place.calls)
    (reason,) = place.ended
    assert "'large' cannot be had: its content is not what it was said to be" in reason
    assert landed.is_let_go
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_part_that_was_opened_as_the_node_ended_is_closed(place: Place) -> None:
    """The thread has opened it, and nobody has heard of that yet."""
    place.stage([ENTRY])
    place.threads.pop(0)()
    place.run(place.calls)
    before = len(os.listdir("/proc/self/fd"))
    place.threads.pop(0)()
    assert len(os.listdir("/proc/self/fd")) == before + 1
    place.stager.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_error_of_one_who_waits_does_not_keep_the_others_waiting(place: Place) -> None:
    """Nor does one who asks for more while he is told."""

    def fail(_: str) -> None:
        place.stage([EMPTY])
        raise RuntimeError("a fault")

    assert place.store.add(EMPTY.digest, b"")
    done: list[str] = []
    for each in (fail, done.append):
        place.stager.stage(Stage(place.store, CLIENT, 1, [ENTRY], None, each))
    place.run(place.threads, place.calls)
    place.stager.on_data(CLIENT, 1, [(node.FilePiece(ENTRY.digest, 0, b""), Landed(LARGE))])
    place.run(place.threads, place.calls)
    assert done == [""]
    assert place.ended == [""]


def test_a_stage_that_is_dropped_while_its_end_is_told_to_another_is_told_nothing(place: Place) -> None:
    done: list[str] = []
    stages: list[Stage] = []

    def drop(_: str) -> None:
        place.stager.drop(stages[1], lambda: done.append("dropped"))

    for each in (drop, done.append):
        stages.append(place.stager.stage(Stage(place.store, CLIENT, 1, [ENTRY], None, each)))
    place.run(place.threads, place.calls)
    place.stager.on_unreadable(CLIENT, 1, ENTRY.digest, "it is gone", False)
    assert done == ["dropped"]


def test_pools_are_made_before_two_threads_can_make_one(place: Place) -> None:
    """Writers hash large pieces on other threads, and come to the first of them at once."""
    assert place.made == POOLS
    begin(place)
    place.stager.on_data(CLIENT, 1, [(node.FilePiece(ENTRY.digest, 0, b""), Landed(LARGE))])
    place.run(place.threads, place.calls)
    assert place.made == POOLS
