"""Results on disk: what a node keeps for clients that are away, over its own end.

A *room* is a directory of one run of a node, which holds a lock in it. A file in it has batches of results of
one client, with the large payloads behind them, or notes what of a client was open. Files are written by a
thread, whole or not at all, and synced, since the power may fail, too: it costs milliseconds, at a time when
nobody waits. A node that starts takes over the rooms of dead nodes of its name or its port that had its secret.
It leaves them where they are, so that it may die at any moment of that.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from dispy.core.execution.actions import NoteOpen, Store
from dispy.core.execution.events import Restored, Stored
from dispy.core.execution.ids import ClientId
from dispy.errors import StateDirectoryError
from dispy.node.payloads.payload_files import Outgoing
from dispy.node.results.spool_files import (
    CRC,
    UNDECODABLE,
    Damaged,
    Header,
    Note,
    pack_header,
    pack_note,
    read_header,
    read_note,
    write,
)
from dispy.protocol.limits import BATCH_MAX, MIB
from dispy.protocol.node import Ended, HeldJobs, JobsEnded
from dispy.system.directories import private_directory, sync_directory, write_private
from dispy.system.run_directory import remove_tree

logger = logging.getLogger("dispy.node")

FILE_BYTES = 16 * MIB
"""Batches are put together into files up to this size: what is synced together costs little more than one."""

RETRY_S = 10.0
"""What could not be written is tried again so often."""

END_S = 10.0
"""Time to write what is left when the node stops."""

DAMAGED = ".damaged"

LEFT_S = 30 * 86400.0
"""A room that no node has taken over for so long is removed."""

LoadedBatch = tuple[JobsEnded, list[Outgoing]]


class _Names(Struct):
    """By what a room is recognised: the nodes that had it, oldest first."""

    nodes: list[str]
    names: list[str]
    ports: list[int]
    fingerprint: str


class Room:
    """A directory that is ours by its lock."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def close(self) -> None:
        """Leave it, with what is in it; one that is empty is removed."""
        with suppress(OSError):
            if not any(_is_kept(name) for name in os.listdir(self.path)):
                remove_tree(self.path)
        os.close(self._lock)


def _is_kept(name: str) -> bool:
    return name.endswith((".results", ".open", DAMAGED))


def _lock(path: Path, *, make: bool = False) -> int | None:
    """The lock of a room; None if somebody has it, or it is none."""
    try:
        descriptor = os.open(
            path / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600
        )
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    if not os.fstat(descriptor).st_nlink:
        # Whoever had it has removed the room since we opened it.
        os.close(descriptor)
        return None
    return descriptor


class _Task(Struct):
    """Something for the thread."""

    store: Store | None = None
    directory: Path | None = None
    note: NoteOpen | None = None
    drop_note: ClientId | None = None
    erase: list[Path] = []


class _File:
    """A file of results that is there."""

    __slots__ = ("batches", "path")

    def __init__(self, path: Path, batches: set[int]) -> None:
        self.path = path
        self.batches = batches


class Spool:
    """The rooms of a node.

    Args:
        base: Where they are; private; made when there is something to store.
        incarnation: Of the node.
        name: Of the node.
        fingerprint: Of its secret.
        bytes_max: What all files may take together.
        owner: User id of those who write the segments.
        tell: Told of batches that are stored; called from the thread.
        find: Where a segment of a computation is.
    """

    def __init__(
        self,
        base: Path,
        incarnation: bytes,
        name: str,
        fingerprint: str,
        bytes_max: int,
        owner: int,
        tell: Callable[[Stored, Path], None],
        find: Callable[[Path, int], Path] = lambda directory, name: directory / str(name),
    ) -> None:
        self._base = base
        self._incarnation = incarnation
        self._names = _Names([incarnation.hex()], [name], [], fingerprint)
        self._bytes_max = bytes_max
        self._owner = owner
        self._tell = tell
        self._find = find
        self._rooms: list[Room] = []
        self._own: Room | None = None
        """The one that we write to; made by the thread."""
        self._files: dict[tuple[ClientId, int], tuple[_File, int]] = {}
        """Where a batch is: the file, and its number there."""
        self._pending: set[tuple[ClientId, int]] = set()
        """Batches on their way to the disk."""
        self._queue: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_stopping = False
        # The thread's own.
        self._used = 0
        self._next = 1
        self._failed: list[_Task] = []
        self._has_warned = False

    # What earlier nodes have left.

    def restore(self, port: int) -> list[Restored]:
        """Take over what dead nodes have left; once, before all else.

        Args:
            port: That we listen on: results of the node that had it keep the numbers of their batches, which
                its clients know.
        """
        self._names.ports.append(port)
        if not self._base.is_dir():
            return []
        found = []
        for path in sorted(self._base.glob("[!.]*")):
            descriptor = _lock(path)
            if descriptor is None:
                continue
            names = self._read_names(path)
            if names is None or not self._is_ours(names):
                if time.time() - path.stat().st_mtime > LEFT_S:
                    remove_tree(path)
                os.close(descriptor)
                continue
            found.append((port not in names.ports, path, descriptor, names))
        restored: dict[ClientId, Restored] = {}
        for _, path, descriptor, names in sorted(found, key=lambda entry: entry[:2]):
            room = Room(path, descriptor)
            self._rooms.append(room)
            self._take_over(room, names, restored)
        self._drop_damaged({client.hex() for client in restored})
        return list(restored.values())

    def _drop_damaged(self, known: set[str]) -> None:
        """Of clients of which nothing else is here nobody needs to know that something was damaged: they are told
        that we do not know them. Nor would anybody remove it."""
        for room in self._rooms:
            for path in room.path.glob(f"*{DAMAGED}"):
                if _client_of(path) not in known:
                    path.unlink(missing_ok=True)

    def _is_ours(self, names: _Names) -> bool:
        if names.fingerprint != self._names.fingerprint:
            return False
        return self._names.names[0] in names.names or self._names.ports[0] in names.ports

    @staticmethod
    def _read_names(path: Path) -> _Names | None:
        try:
            return msgspec.json.decode((path / "node.json").read_bytes(), type=_Names)
        except (OSError, *UNDECODABLE):
            return None

    def _take_over(self, room: Room, names: _Names, restored: dict[ClientId, Restored]) -> None:
        before = [bytes.fromhex(node) for node in names.nodes]
        with suppress(OSError):
            # So that whoever takes over after us recognises it.
            together = _Names(
                names.nodes + self._names.nodes,
                names.names + self._names.names,
                names.ports + self._names.ports,
                names.fingerprint,
            )
            write_private(room.path / "node.json", msgspec.json.encode(together), sync=True)
        shift: dict[ClientId, int] = {client: one.next_batch - 1 for client, one in restored.items()}
        notes = []
        damaged: set[str] = set()
        for path in sorted(room.path.iterdir()):
            try:
                if path.name.startswith("."):
                    path.unlink()  # one that was not finished
                elif path.suffix == ".results":
                    with open(path, "rb") as file:
                        header, _ = read_header(file.fileno())
                    self._used += path.stat().st_size
                    self._restore_batches(path, header, before, shift, restored)
                elif path.suffix == ".open":
                    notes.append(read_note(path))
                elif path.suffix == DAMAGED:
                    damaged.add(_client_of(path))
            except (OSError, Damaged) as error:
                logger.error("%s is damaged, what it held is lost: %s", path, error)
                damaged.add(_client_of(path))
                with suppress(OSError):
                    # So that the next node knows of it, too.
                    path.rename(path.with_suffix(DAMAGED))
        for note in notes:
            one = _entry(restored, ClientId(note.client), note.name, before)
            one.next_batch = max(one.next_batch, note.next_batch + shift.get(one.client, 0))
            stored = {
                (batch.computation, e.number, e.attempt) for batch in one.batches for e in batch.ended
            }
            for jobs in note.open:
                attempts = [
                    a for a in jobs.attempts if (jobs.computation, a.number, a.attempt) not in stored
                ]
                if attempts:
                    one.lost.append(HeldJobs(jobs.computation, attempts))
        # Also of those of whom nothing is left but a note.
        noted = {ClientId(note.client) for note in notes}
        for client, one in restored.items():
            is_here = bool(set(before) & set(one.before))
            one.has_gaps |= is_here and (client not in noted or client.hex() in damaged)

    def _restore_batches(
        self,
        path: Path,
        header: Header,
        before: list[bytes],
        shift: dict[ClientId, int],
        restored: dict[ClientId, Restored],
    ) -> None:
        client = ClientId(header.client)
        one = _entry(restored, client, header.name, before)
        file = _File(path, set())
        for place, batch in enumerate(header.batches):
            batch.batch += shift.get(client, 0)
            if (client, batch.batch) in self._files:
                continue
            batch.ended = [Ended(e.number, e.attempt, e.status, e.start, e.end, b"") for e in batch.ended]
            one.batches.append(batch)
            one.next_batch = max(one.next_batch, batch.batch + 1)
            file.batches.add(batch.batch)
            self._files[client, batch.batch] = (file, place)
        one.batches.sort(key=lambda batch: batch.batch)

    # What the node does.

    def store(self, action: Store, directory: Path | None) -> None:
        """Write a batch; ``directory`` is where its large payloads lie."""
        key = (action.client, action.batch.batch)
        if key in self._pending or key in self._files:
            return
        self._pending.add(key)
        self._put(_Task(store=action, directory=directory))

    def note(self, action: NoteOpen) -> None:
        """Note what is open, in place of what was noted before."""
        self._put(_Task(note=action))

    def drop_note(self, client: ClientId) -> None:
        """What was noted is not true any more."""
        if self._thread is not None or self._rooms:
            self._put(_Task(drop_note=client))

    def on_stored(self, told: Stored, path: Path) -> None:
        """The thread has written batches; on the loop."""
        file = _File(path, set(told.batches))
        for place, batch in enumerate(told.batches):
            self._pending.discard((told.client, batch))
            self._files[told.client, batch] = (file, place)

    def erase(self, client: ClientId, batches: list[int]) -> None:
        """Forget batches."""
        done = []
        for batch in batches:
            file, _ = self._files.pop((client, batch), (None, 0))
            if file is not None:
                file.batches.discard(batch)
                if not file.batches:
                    done.append(file.path)
        if done:
            self._put(_Task(erase=done))

    def forget(self, client: ClientId) -> None:
        """Forget all of a client."""
        self.erase(client, [batch for who, batch in self._files if who == client])
        self.drop_note(client)

    def load(self, client: ClientId, batch: int) -> LoadedBatch:
        """A batch as it was stored. The streams of its results number the parts, from 1; whoever sends
        those closes them.

        Raises:
            OSError, Damaged: It cannot be read.
        """
        if (client, batch) not in self._files:
            raise Damaged("it is not there")
        file, place = self._files[client, batch]
        with open(file.path, "rb") as opened:
            header, parts = read_header(opened.fileno())
            found = header.batches[place]
            found.batch = batch
            wanted = [n for e in found.ended for n in (e.stream, e.output_stream) if n]
            if any(n > len(parts) for n in wanted):
                raise Damaged("parts are missing")
            if wanted:
                crcs = os.pread(opened.fileno(), CRC.size * len(parts), sum(parts[-1]))
                for ended in found.ended:
                    last = ended.output_stream or ended.stream
                    if last:
                        (ended.checksum,) = CRC.unpack_from(crcs, CRC.size * (last - 1))
            data = [
                Outgoing(os.dup(opened.fileno()), size, start)
                for start, size in (parts[n - 1] for n in wanted)
            ]
        place = 0
        for ended in found.ended:
            for attribute in ("stream", "output_stream"):
                if getattr(ended, attribute):
                    place += 1
                    setattr(ended, attribute, place)
        return found, data

    def close(self) -> None:
        """Write what is left, for a while; leave the rooms to the next node."""
        if self._thread is not None:
            self._is_stopping = True
            self._queue.put(None)
            self._thread.join(END_S)
            if self._thread.is_alive():
                logger.error("%d batches of results were not written in time", len(self._pending))
                return
        for room in self._rooms:
            room.close()

    def _put(self, task: _Task) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="dispy spool", daemon=True)
            self._thread.start()
        self._queue.put(task)

    # The thread.

    def _run(self) -> None:
        is_ending = False
        while not is_ending:
            try:
                first = self._queue.get(timeout=RETRY_S if self._failed else None)
                tasks = [first]
                while not self._queue.empty():
                    tasks.append(self._queue.get())
            except queue.Empty:
                tasks = []
            is_ending = None in tasks
            for group in self._groups([task for task in tasks if task is not None]):
                self._do(group)
        if self._failed:
            logger.error(
                "results of clients that are away are lost: they could not be written to %s", self._base
            )

    def _groups(self, tasks: list[_Task]) -> Iterator[list[_Task]]:
        """What is to be done, new tasks after those that have failed."""
        todo, self._failed = self._failed, []
        return _grouped(todo + tasks)

    def _do(self, group: list[_Task]) -> None:
        try:
            for path in group[0].erase:
                self._unlink(path)
            if group[0].drop_note is not None:
                self._drop_note(group[0].drop_note)
            if any(_client(task) == _client(group[0]) for task in self._failed):
                # In their order: without the note, results would be taken for all that there was.
                self._failed += group
                return
            if group[0].note is not None:
                self._write_note(group[0].note)
            if group[0].store is not None:
                self._write_results(group)
        except FileNotFoundError as error:
            # Its segment was let go of: the client has come back, and has the result.
            logger.debug("a result is not there to be stored any more: %s", error)
            if len(group) > 1:
                for task in group:
                    self._do([task])
        except (OSError, StateDirectoryError) as error:
            self._failed += group
            if not self._has_warned:
                self._has_warned = True
                logger.warning(
                    "results of clients that are away stay in memory, and end with this node: %s cannot be "
                    "written to: %s; make room there, or give --spool_max",
                    self._base,
                    error,
                )
        else:
            if self._has_warned and group[0].store is not None:
                self._has_warned = False
                logger.warning("results of clients that are away are written to %s again", self._base)

    def _unlink(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            self._used -= size

    def _room(self) -> Room:
        """Our own, made if it is missing: it appears under its name with the lock held."""
        if self._own is None:
            private_directory(self._base)
            fresh = private_directory(self._base / f".{self._names.nodes[0]}")
            descriptor = _lock(fresh, make=True)
            if descriptor is None:
                raise OSError(f"{fresh} cannot be locked")
            try:
                write_private(fresh / "node.json", msgspec.json.encode(self._names), sync=True)
                path = self._base / self._names.nodes[0]
                os.rename(fresh, path)
                # Or the files in it, synced as they are, would be nowhere.
                sync_directory(self._base)
                sync_directory(self._base.parent)
            except OSError:
                os.close(descriptor)
                raise
            self._own = Room(path, descriptor)
            self._rooms.append(self._own)
        return self._own

    def _write_note(self, note: NoteOpen) -> None:
        content = Note(note.client, note.name, note.open, note.next_batch)
        write(self._room().path, f"{note.client.hex()}.open", pack_note(content), [])

    def _drop_note(self, client: ClientId) -> None:
        self._failed = [task for task in self._failed if task.note is None or task.note.client != client]
        for room in self._rooms:
            for path in [room.path / f"{client.hex()}.open", *room.path.glob(f"{client.hex()}*{DAMAGED}")]:
                path.unlink(missing_ok=True)

    def _write_results(self, group: list[_Task]) -> None:
        """Write batches of one client into one file."""
        batches: list[JobsEnded] = []
        paths: list[Path] = []
        seconds: set[int] = set()
        """Parts that go with the one before them."""
        for task in group:
            assert task.store is not None
            batch = task.store.batch
            ended = []
            for result in batch.ended:
                if result.stream or result.output_stream:
                    result = msgspec.structs.replace(result, segment=0)
                    for attribute in ("stream", "output_stream"):
                        segment = getattr(result, attribute)
                        if segment:
                            if task.directory is None:
                                raise FileNotFoundError("its computation is gone")
                            paths.append(self._find(task.directory, segment))
                            setattr(result, attribute, len(paths))
                    if result.stream and result.output_stream:
                        seconds.add(result.output_stream)
                ended.append(result)
            batches.append(JobsEnded(batch.batch, batch.computation, ended))
        first = group[0].store
        assert first is not None
        sizes = [self._size(path) for path in paths]
        head = pack_header(Header(first.client, first.name, batches), sizes)
        size = len(head) + sum(sizes) + CRC.size * len(sizes)
        if self._used + size > self._bytes_max:
            raise OSError(f"{self._bytes_max} bytes are allowed, {self._used} are used")
        room = self._room()
        name = f"{first.client.hex()}-{self._next:08}.results"
        self._next += 1
        parts = [
            (path, size, number in seconds)
            for number, (path, size) in enumerate(zip(paths, sizes, strict=True), 1)
        ]
        path = write(room.path, name, head, parts)
        self._used += size
        self._tell(Stored(first.client, [batch.batch for batch in batches]), path)

    def _size(self, path: Path) -> int:
        """Bytes of a segment. Whoever wrote it may have put something else in its place."""
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_uid != self._owner:
            raise FileNotFoundError(f"{path} is not what a worker writes")
        return status.st_size


def _entry(
    restored: dict[ClientId, Restored], client: ClientId, name: str, before: list[bytes]
) -> Restored:
    one = restored.get(client)
    if one is None:
        one = restored[client] = Restored(client, name, [], 1, [], [])
    one.before += [node for node in before if node not in one.before]
    return one


def _client_of(path: Path) -> str:
    """Whose results or note is in a file, in hexadecimal."""
    return path.stem.partition("-")[0]


def _client(task: _Task) -> ClientId | None:
    """Whose results or note a task is about to write."""
    action = task.store or task.note
    return action.client if action is not None else None


def _grouped(tasks: list[_Task]) -> Iterator[list[_Task]]:
    """Batches of one client together, up to a size and a number that ``Header`` may have; all in order."""
    group: list[_Task] = []
    size = 0
    for task in tasks:
        if task.store is None:
            if group:
                yield group
                group = []
            yield [task]
            continue
        own = sum(
            len(e.payload) + len(e.stdout) + len(e.stderr) + len(e.reason) + 64
            for e in task.store.batch.ended
        )
        first = group[0].store if group else None
        is_full = size + own > FILE_BYTES or len(group) == BATCH_MAX
        if first is not None and (first.client != task.store.client or is_full):
            yield group
            group = []
        if not group:
            size = 0
        group.append(task)
        size += own
    if group:
        yield group
