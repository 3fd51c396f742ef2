"""The shell of the staging core, played: threads, a disk, suppliers and a clock, in any order that chance has.

Contents are numbers of bytes, right or wrong. Everything that the core does is compared with what it may do.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from staging_rules import check

from dispy.core import staging as core
from dispy.core.staging import DirectoryName, Limits, Machine, PartId, Phase, StageId, StoreName, SupplierId
from dispy.core.staging.state import Work
from dispy.core.staging.thread_turns import LOOKERS, PLACERS, WRITERS
from dispy.protocol import limits, node
from dispy.protocol.files import FileEntry

BOUNDS = Limits(file_max=50, small_max=2, piece_max=4, pieces_max=12, parts_max=3)

SIZES = [0, 1, 2, 3, 4, 9, 12, 17, 30]
"""Bytes of the content of each digest."""

DIGESTS = [bytes([number]) * 32 for number in range(len(SIZES))]


def real_size(digest: bytes) -> int:
    return SIZES[digest[0]]


@dataclass
class Wanted:
    """A stage as its shell knows it."""

    event: core.Want
    answers: list[str] = field(default_factory=list)
    is_dropped: bool = False
    may_fail: bool = False
    """Somebody has lied to it, or the disk was full, or files were removed under it."""


@dataclass(eq=False)
class Data:
    """The bytes of a piece."""

    size: int
    is_right: bool


@dataclass
class OpenPart:
    """A part that is open: what has come, as bytes and whether they are right."""

    key: tuple[StoreName, bytes]
    size: int
    is_right: bool
    is_apart: bool


@dataclass
class Peer:
    """A supplier."""

    is_connected: bool = True
    asked: deque[tuple[int, node.Piece]] = field(default_factory=deque)
    """Computation and piece of each request that has not been answered."""
    lies: set[bytes] = field(default_factory=set)
    unreadable: set[bytes] = field(default_factory=set)
    total: int = 0
    """Bytes that it was asked for since it is connected."""


class SimulatedStaging:
    """A machine with a world around it."""

    def __init__(self) -> None:
        self.machine = Machine(BOUNDS)
        self.now = 0.0
        self.wakes: list[float] = []
        self.peers = {SupplierId(name): Peer() for name in (b"a", b"b", b"c")}
        self.wanted: dict[StageId, Wanted] = {}
        self.stored: set[tuple[StoreName, bytes]] = set()
        self.partly: dict[tuple[StoreName, bytes], tuple[int, bool]] = {}
        """Parts on disk: bytes, and whether they are right."""
        self.holders: dict[tuple[StoreName, bytes], PartId | None] = {}
        """Who receives a file: a part of ours, or another process (None)."""
        self.open_parts: dict[PartId, OpenPart] = {}
        self.tasks: list[core.Action] = []
        """What threads are at."""
        self.writers: list[deque[core.Write | core.Close]] = [deque() for _ in range(WRITERS)]
        self.alive: set[Data] = set()
        """Data of pieces that nobody has let go of."""
        self.leaving: set[DirectoryName] = set()
        self.is_full = False
        self.ranks: dict[StageId, int] = {}
        self.passed: dict[Work, Counter[Any]] = {}
        """How often work of each supplier was begun while the next work of another waits."""
        for name in self.peers:
            self.handle(core.Connected(name))

    # The core.

    def handle(self, event: core.Event) -> None:
        """Give the core an event; look at what it does, and do it."""
        before = self.outstanding()
        if isinstance(event, (core.Lost, core.Connected)):
            before = {asked for asked in before if asked[0] != event.supplier}
        fetching = {number for number, stage in self.machine.state.stages.items() if stage.missing}
        heads = self.heads()
        closed = {part for part, fetch in self.machine.state.parts.items() if fetch.phase is Phase.CLOSED}
        actions = self.machine.handle(event, self.now)
        check(self.machine.state)
        for number, stage in self.machine.state.stages.items():
            if stage.missing and number not in fetching:
                peer = self.peers[stage.supplier]
                self.ranks[number] = stage.size_max + (peer.total if peer.is_connected else 0)
        told: list[tuple[SupplierId, int, bytes, int]] = []
        begun: list[Any] = []
        for action in actions:
            if isinstance(action, core.Tell):
                told += self.tell(action)
            else:
                if isinstance(
                    action, (core.Search, core.Look, core.Place, core.Open, core.Finish, core.Trim)
                ):
                    begun.append(action)
                getattr(self, f"do_{type(action).__name__.lower()}")(action)
        assert not (told and isinstance(event, core.Drop)), "more may be dropped in a row"
        self.check_asked(before, told)
        self.check_turns(heads, begun)
        self.check_parts(closed)
        self.check_data()

    def outstanding(self) -> set[tuple[SupplierId, int, bytes, int, PartId]]:
        """What is asked for, by the core's own account."""
        return {
            (fetch.supplier, fetch.computation, fetch.digest, offset, fetch.part)
            for fetch in self.machine.state.fetches.values()
            for offset in fetch.offsets
            if fetch.supplier is not None
        }

    def check_asked(self, before: Any, told: list[tuple[SupplierId, int, bytes, int]]) -> None:
        """Nothing is asked for that is asked for already, and what comes first in the order is asked for first."""
        state = self.machine.state
        assert len(set(told)) == len(told), "asked for twice in one breath"
        for supplier, computation, digest, offset in told:
            fetch = state.suppliers[supplier].asked[computation, digest]
            assert (supplier, computation, digest, offset, fetch.part) not in before, (
                "asked for twice at once"
            )
            assert offset in fetch.offsets
            stage = next(s for s in fetch.stages.values() if s.computation == computation)
            assert stage.supplier == supplier, "somebody is asked for files of another"
            mine = (self.rank(supplier, fetch), fetch.size)
            for other in state.fetches.values():
                is_ready = other.supplier == supplier and other.phase is Phase.RECEIVING
                if is_ready and not other.is_asked and other.blocked_by is None:
                    assert mine <= (self.rank(supplier, other), other.size), "passed by one that is behind"

    def rank(self, supplier: SupplierId, fetch: Any) -> int:
        return min(self.ranks[stage.id] for stage in fetch.stages.values() if stage.supplier == supplier)

    def heads(self) -> set[Work]:
        """The work of each supplier that is its next, and that no thread has."""
        state = self.machine.state
        return {next(iter(queue)) for queues in state.queues.values() for queue in queues.values()}

    def check_turns(self, before: set[Work], begun: list[Any]) -> None:
        """While the next work of a supplier waits, work of each other is begun once at most."""
        heads = self.heads()
        self.passed = {work: count for work, count in self.passed.items() if work in heads}
        state = self.machine.state
        works = [*state.stage_work.values(), *state.part_work.values()]
        works += [state.trim_work] if state.trim_work is not None else []
        for task in begun:
            work = next(work for work in works if work.task is task)
            for other in before & heads:
                if other.pool is work.pool:
                    count = self.passed.setdefault(other, Counter())
                    count[work.supplier] += 1
                    assert count[work.supplier] <= 1, f"{other.supplier!r} is passed by {work.supplier!r}"

    def check_parts(self, closed: set[PartId]) -> None:
        """No part is opened beyond the limit. There may be more if a supplier has taken them over from another."""
        state = self.machine.state
        for part in closed & state.parts.keys():
            fetch = state.parts[part]
            if fetch.phase is not Phase.CLOSED and fetch.supplier is not None:
                assert state.suppliers[fetch.supplier].parts <= BOUNDS.parts_max, "too many parts"

    def check_data(self) -> None:
        """No piece is held but by one that waits for those before it, or for the disk."""
        held = {
            piece.data for fetch in self.machine.state.fetches.values() for piece in fetch.early.values()
        }
        for queue in self.writers:
            held |= {
                piece.data for write in queue if isinstance(write, core.Write) for piece in write.pieces
            }
        assert self.alive == held

    # Actions.

    def tell(self, action: core.Tell) -> list[tuple[SupplierId, int, bytes, int]]:
        peer = self.peers[action.supplier]
        assert peer.is_connected
        message = action.message
        if isinstance(message, node.FilesProgress):
            assert 0 <= message.size <= message.size_max
            assert 0 <= message.files <= message.files_max
            return []
        assert 0 < len(message.pieces) <= limits.PIECES_MAX
        for piece in message.pieces:
            peer.asked.append((message.computation, piece))
            peer.total += piece.size
        return [(action.supplier, message.computation, p.digest, p.offset) for p in message.pieces]

    def do_ended(self, action: core.Ended) -> None:
        wanted = self.wanted[action.stage]
        assert not wanted.answers
        assert not wanted.is_dropped
        wanted.answers.append(action.reason)
        assert not any(getattr(task, "stage", None) == action.stage for task in self.stage_tasks())
        if action.reason:
            assert wanted.may_fail, f"stage {action.stage} fails: {action.reason}"
        else:
            for entry in wanted.event.entries:
                assert entry.package or (wanted.event.store, entry.digest) in self.stored or wanted.may_fail

    def do_dropped(self, action: core.Dropped) -> None:
        wanted = self.wanted[action.stage]
        assert wanted.is_dropped
        assert not wanted.answers
        wanted.answers.append("dropped")
        assert not any(task.stage == action.stage for task in self.stage_tasks())

    def do_left(self, action: core.Left) -> None:
        self.leaving.remove(action.directory)
        for task in self.stage_tasks():
            assert self.wanted[task.stage].event.directory != action.directory, "a thread is at it"

    def stage_tasks(self) -> list[Any]:
        return [task for task in self.tasks if isinstance(task, (core.Search, core.Look, core.Place))]

    def begin(self, action: Any) -> None:
        """A thread has it at once."""
        self.tasks.append(action)
        looks = [task for task in self.stage_tasks() if self.wanted[task.stage].event.directory is None]
        assert len(looks) <= LOOKERS
        assert len(self.tasks) - len(looks) <= PLACERS

    def begin_stage(self, action: Any) -> None:
        wanted = self.wanted[action.stage]
        assert not wanted.answers
        assert not wanted.is_dropped, "a thread begins with what nobody wants"
        self.begin(action)

    do_search = do_look = do_place = begin_stage

    def do_open(self, action: core.Open) -> None:
        assert action.part in self.machine.state.parts, "nobody wants it"
        self.begin(action)

    do_finish = do_trim = begin

    def do_write(self, action: core.Write) -> None:
        self.writers[action.writer].append(action)

    def do_close(self, action: core.Close) -> None:
        for task in self.tasks:
            assert getattr(task, "part", None) != action.part, "two threads are to close a part"
        self.writers[action.writer].append(action)

    def do_discard(self, action: core.Discard) -> None:
        for data in action.data:
            assert isinstance(data, Data)
            self.alive.remove(data)

    def do_wake(self, action: core.Wake) -> None:
        assert action.at >= self.now
        heapq.heappush(self.wakes, action.at)

    # Requests.

    def want(
        self, supplier: SupplierId, which: list[int], *, excess: int = 0, directory: str = "", store: str = "s",
        computation: int | None = None, package: int = 0,
    ) -> StageId:  # fmt: skip
        """Want some files; the supplier says that each has ``excess`` bytes more than it has."""
        number = StageId(len(self.wanted) + 1)
        entries = [
            FileEntry(f"f{n}", DIGESTS[n], max(0, SIZES[n] + excess), 0o644, 0, package)
            for n in sorted(set(which))
        ]
        event = core.Want(
            number, StoreName(store), supplier, number if computation is None else computation, entries,
            DirectoryName(directory) if directory else None,
        )  # fmt: skip
        wanted = self.wanted[number] = Wanted(event)
        lies = any(entry.size != real_size(entry.digest) for entry in entries)
        wanted.may_fail = lies or any(entry.size > BOUNDS.file_max for entry in entries)
        self.trouble()
        self.handle(event)
        assert not wanted.answers, "answered within the want"
        return number

    def trouble(self) -> None:
        """Note for which stages something may fail."""
        for wanted in self.wanted.values():
            peer = self.peers[wanted.event.supplier]
            digests = {entry.digest for entry in wanted.event.entries}
            if not wanted.answers and (self.is_full or digests & (peer.lies | peer.unreadable)):
                wanted.may_fail = True

    def drop(self, number: StageId) -> None:
        wanted = self.wanted[number]
        wanted.is_dropped = wanted.is_dropped or not wanted.answers
        self.handle(core.Drop(number))

    def leave(self, directory: str) -> None:
        self.leaving.add(DirectoryName(directory))
        self.handle(core.Leave(DirectoryName(directory)))

    # Suppliers.

    def set_connected(self, name: SupplierId, is_connected: bool) -> None:
        """A connection breaks, and what was on it is gone; or there is a new one."""
        peer = self.peers[name]
        peer.asked.clear()
        peer.total = 0
        if is_connected:
            peer.is_connected = True
            for number, stage in self.machine.state.stages.items():
                if stage.supplier == name and stage.missing:
                    self.ranks[number] = stage.size_max - stage.size
            self.handle(core.Connected(name))
        elif peer.is_connected:
            peer.is_connected = False
            self.handle(core.Lost(name))

    def answer(self, name: SupplierId, place: int, count: int = 1) -> None:
        """A supplier sends some pieces that it was asked for, in one message, or says that it cannot."""
        peer = self.peers[name]
        sent: list[core.Sent] = []
        computation = None
        for _ in range(count):
            if not peer.is_connected or not peer.asked:
                break
            peer.asked.rotate(-(place % len(peer.asked)))
            number, piece = peer.asked[0]
            if computation not in (None, number) or (sent and piece.digest in peer.unreadable):
                break
            peer.asked.popleft()
            computation = number
            if place % 5 == 4:
                # Not in this name, now: what was asked so far may come all the same, as an answer that is late.
                self.handle(core.Unreadable(name, number, piece.digest, "it is away", True))
                peer.asked.append((number, piece))
                continue
            if piece.digest in peer.unreadable:
                self.handle(core.Unreadable(name, number, piece.digest, "it is gone"))
                continue
            size = max(0, min(piece.size, real_size(piece.digest) - piece.offset))
            data = Data(size, piece.digest not in peer.lies)
            self.alive.add(data)
            sent.append(core.Sent(piece.digest, piece.offset, data))
        if computation is not None and sent:
            self.handle(core.Arrived(name, computation, sent))

    # Threads.

    def run_task(self, place: int) -> None:
        """A thread ends what it is at."""
        if self.tasks:
            task = self.tasks.pop(place % len(self.tasks))
            self.handle(getattr(self, f"run_{type(task).__name__.lower()}")(task))

    def run_search(self, task: core.Search) -> core.Event:
        entries = self.wanted[task.stage].event.entries
        return core.Searched(task.stage, [entry for entry in entries if not entry.package])

    def run_look(self, task: core.Look | core.Place) -> core.Event:
        wanted = self.wanted[task.stage]
        store = wanted.event.store
        if self.is_full and isinstance(task, core.Place):
            return core.Placed(task.stage, {}, "no space left on device")
        entries = [entry for entry in wanted.event.entries if not entry.package]
        there = {
            e.digest for e in entries if (store, e.digest) in self.stored and e.size == real_size(e.digest)
        }
        return core.Placed(task.stage, {e.digest: e.size for e in entries if e.digest not in there})

    run_place = run_look

    def run_open(self, task: core.Open) -> core.Event:
        key = (task.store, task.digest)
        if self.is_full:
            return core.PartFailed(task.part, "no space left on device")
        if not task.is_apart and key in self.holders:
            return core.PartBusy(task.part, self.partly.get(key, (0, True))[0])
        size, is_right = self.partly.get(key, (0, True))
        is_apart = task.is_apart or size > task.size
        if is_apart:
            size, is_right = 0, True
        if not size and key in self.stored and task.size == real_size(task.digest):
            return core.PartNeedless(task.part)
        if not is_apart:
            self.holders[key] = task.part
        self.open_parts[task.part] = OpenPart(key, size, is_right, is_apart)
        return core.PartOpened(task.part, size)

    def run_finish(self, task: core.Finish) -> core.Event:
        if self.is_full:
            self.close_part(task.part)
            return core.PartFailed(task.part, "no space left on device")
        return core.PartFinished(task.part, self.finish_part(task.part))

    def run_trim(self, task: core.Trim) -> core.Event:
        return core.Trimmed()

    def finish_part(self, number: PartId) -> bool:
        """Whether the content is right; then the file is in the store, else nothing is left of it."""
        part = self.open_parts[number]
        is_right = part.is_right and part.size == real_size(part.key[1])
        self.close_part(number)
        if not part.is_apart:
            self.partly.pop(part.key, None)
        if is_right:
            self.stored.add(part.key)
        return is_right

    def close_part(self, number: PartId) -> None:
        """Close a part; it stays on disk. One that is closed is fine."""
        part = self.open_parts.pop(number, None)
        if part is not None and not part.is_apart:
            del self.holders[part.key]
            self.partly[part.key] = (part.size, part.is_right)

    def run_writer(self, number: int) -> None:
        """A writer does the next thing that it was given."""
        if not self.writers[number]:
            return
        action = self.writers[number].popleft()
        if isinstance(action, core.Close):
            self.close_part(action.part)
            return
        results = []
        for piece in action.pieces:
            assert isinstance(piece.data, Data)
            results.append(core.Wrote(piece.part, piece.size, *self.write(piece, piece.data)))
            self.alive.remove(piece.data)
        self.handle(core.Written(action.write, results))

    def write(self, piece: core.Piece, data: Data) -> tuple[core.Outcome, str]:
        if data.size != piece.size:
            return core.Outcome.WRONG, ""
        if self.is_full:
            return core.Outcome.FAILED, "no space left on device"
        if piece.file_size <= BOUNDS.small_max:
            if not data.is_right or data.size != real_size(piece.digest):
                return core.Outcome.WRONG, ""
            self.stored.add((piece.store, piece.digest))
            return core.Outcome.WHOLE, ""
        part = self.open_parts.get(piece.part)
        if part is None or part.size != piece.offset:
            return core.Outcome.FAILED, "what comes before it was not written"
        part.size += data.size
        part.is_right &= data.is_right
        if part.size < piece.file_size:
            return core.Outcome.MORE, ""
        return (core.Outcome.WHOLE if self.finish_part(piece.part) else core.Outcome.WRONG), ""

    # Another process, and time.

    def begin_other(self, store: str, which: int) -> None:
        """Another process receives a file, or goes on."""
        key = (StoreName(store), DIGESTS[which])
        if key not in self.holders and key not in self.stored:
            self.holders[key] = None
            self.partly.setdefault(key, (0, True))
        elif self.holders.get(key, PartId(0)) is None:
            size, is_right = self.partly[key]
            self.partly[key] = (min(size + 3, SIZES[which]), is_right)

    def leave_part(self, which: int, *, is_right: bool) -> None:
        """A process that is dead has left a part of a file that was whole."""
        key = (StoreName("s"), DIGESTS[which])
        if key not in self.holders and key not in self.stored and SIZES[which] > BOUNDS.small_max:
            self.partly[key] = (SIZES[which], is_right)

    def end_others(self, *, is_whole: bool) -> None:
        """Other processes have received what they receive, or receive no more."""
        for key in [key for key, holder in self.holders.items() if holder is None]:
            del self.holders[key]
            if is_whole and self.partly[key][1]:
                self.stored.add(key)
                del self.partly[key]

    def tick(self, seconds: float) -> None:
        """Time passes; who is to be woken is."""
        until = self.now + seconds
        while self.wakes and self.wakes[0] <= until:
            self.now = max(self.now, heapq.heappop(self.wakes))
            self.handle(core.Tick())
        self.now = until

    def settle(self) -> None:
        """All goes well from now on, until nothing is left to do. Other processes stand still where they are."""
        self.is_full = False
        for name, peer in self.peers.items():
            if not peer.is_connected:
                self.set_connected(name, True)
        for _ in range(3000):
            while any(peer.asked for peer in self.peers.values()) or self.tasks or any(self.writers):
                self.go_on()
            if all(wanted.answers for wanted in self.wanted.values()):
                break
            self.tick(0.01)
        self.tick(1.0)
        self.check_end()

    def go_on(self) -> None:
        """One step of everybody."""
        for name in self.peers:
            self.answer(name, 0, 5)
        self.run_task(0)
        for number in range(WRITERS):
            self.run_writer(number)

    def check_end(self) -> None:
        """Every want is answered once, and nothing is left of it."""
        state = self.machine.state
        for number, wanted in self.wanted.items():
            assert len(wanted.answers) == 1, f"stage {number}: {wanted}"
        held = [
            state.stages, state.fetches, state.parts, state.stage_work, state.part_work, state.writes, state.writing,
            self.open_parts, set(self.holders.values()) - {None}, self.alive, self.leaving,
        ]  # fmt: skip
        assert not any(held), held
        assert not any(supplier.size or supplier.parts for supplier in state.suppliers.values())
