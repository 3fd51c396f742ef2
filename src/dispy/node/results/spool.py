"""Results on disk: what a node keeps for clients that are away, beyond the node's own end.

Theory of operation. A *room* is a directory of one run of a node, which holds a lock in it (``spool_rooms``). A file
in a room has batches of results of one client, with the large payloads behind them (``.results``), or a note of the
client's jobs that were open (``.open``). A node that starts takes over the rooms of dead nodes (``spool_recovery``).

The event loop calls the methods of ``Spool``: ``restore`` and ``load`` read at once, the others put tasks into a
queue. One thread, started by the first task, writes files whole or not at all, and syncs them, since the power may
fail, too. That costs milliseconds, at a time when no client waits. The thread reports batches that are on disk by
``tell``.

Order: a client's note is written before its results. Results without a note would be taken for all that the client
had here. When a write fails, later writes for the same client therefore wait behind it; all of them are tried again
with the next task, or after ``RETRY_S``.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
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
    DAMAGED,
    Damaged,
    Header,
    Note,
    ResultsFile,
    pack_header,
    pack_note,
    read_header,
    write,
)
from dispy.node.results.spool_recovery import Recovery
from dispy.node.results.spool_rooms import Room, RoomNames, make_room
from dispy.protocol.limits import BATCH_MAX, MIB
from dispy.protocol.node import JobsEnded

logger = logging.getLogger("dispy.node")

FILE_BYTES = 16 * MIB
"""Bytes of batches, without large payloads, that are put together into one file; a larger batch gets one of its own.
One sync of all costs little more than of one."""

RETRY_S = 10.0
"""Seconds after which a write that failed is tried again, if no other task for the thread comes before."""

END_S = 10.0
"""Seconds that a stopping node waits until the thread has written what is left. Results not written by then are lost,
which is logged."""

LoadedBatch = tuple[JobsEnded, list[Outgoing]]
"""A batch from disk, and the large payloads of its results: payload ``n`` of the batch (``stream``,
``output_stream``) is at index ``n - 1``. Each holds a descriptor until it is sent or closed."""


class _Task(Struct):
    """A task for the thread; exactly one of ``store``, ``note``, ``drop_note`` and ``erase`` is set (not None or []).

    Attributes:
        store: A batch of results to write.
        directory: Directory of the segments with the large payloads of ``store``; None if the computation is gone.
        note: List of a client's open jobs to write, in place of an earlier one.
        drop_note: Client whose note and damaged files are to be removed.
        erase: Files of results to remove.
    """

    store: Store | None = None
    directory: Path | None = None
    note: NoteOpen | None = None
    drop_note: ClientId | None = None
    erase: list[Path] = []


class Spool:
    """The rooms of a node: its own, and those that it took over.

    Args:
        base: Directory of all rooms; private to this user. Made when there is something to store.
        incarnation: 16 bytes that name this run of the node.
        name: Name of the node.
        fingerprint: Fingerprint of its secret. Rooms of dead nodes with another secret are not taken over.
        bytes_max: Bytes that all files of results may take together. A batch above it stays in memory, and is tried
            again when there may be room.
        tell: Called from the thread with batches that are on disk, and their file.
        open_segment: Opens a segment to read it, given the directory of its computation and its number; returns the
            descriptor, or raises FileNotFoundError. Called from the thread.
    """

    def __init__(
        self,
        base: Path,
        incarnation: bytes,
        name: str,
        fingerprint: str,
        bytes_max: int,
        tell: Callable[[Stored, Path], None],
        open_segment: Callable[[Path, int], int],
    ) -> None:
        self._base = base
        self._names = RoomNames([incarnation.hex()], [name], [], fingerprint)
        """Names of this node, for its own room and to recognise rooms of dead nodes; ``restore`` adds its port."""
        self._bytes_max = bytes_max
        self._tell = tell
        self._open_segment = open_segment
        self._rooms: list[Room] = []
        """Rooms that this process has locked: those that it took over, and its own once there is one."""
        self._own: Room | None = None
        """Room for new files; made by the thread with the first file, None until then."""
        self._files: dict[tuple[ClientId, int], tuple[ResultsFile, int]] = {}
        """For each batch on disk, by client and number: its file, and its index in the file's list of batches."""
        self._pending: set[tuple[ClientId, int]] = set()
        """Client and number of each batch that was given to the thread and is not on disk yet. Such a batch is not
        given to it again."""
        self._queue: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        """Tasks for the thread, oldest first; None: end, after all tasks before it."""
        self._thread: threading.Thread | None = None
        """The thread that writes, removes and syncs files; None until the first task."""
        # Once the thread runs, only the thread changes these.
        self._used = 0
        """Bytes that all files of results take on disk; they may not exceed ``bytes_max``."""
        self._next = 1
        """Number in the name of the next file of results, so that names differ."""
        self._failed: list[_Task] = []
        """Tasks whose write has failed, and later ones of the same clients, in their order. They are tried again with
        the next task, or after ``RETRY_S``."""
        self._has_warned = False
        """True if the log has warned that nothing can be written, and nothing was written since: no new warning."""

    def restore(self, port: int) -> list[Restored]:
        """Take over the rooms of dead nodes. Called once, before all other methods.

        Args:
            port: Port that this node listens on. Results of a node that had it keep the numbers of their batches,
                which its clients know.

        Returns:
            One event for the execution core for each client of which something is on disk.
        """
        self._names.ports.append(port)
        if not self._base.is_dir():
            return []
        recovery = Recovery(self._base, self._names)
        # Before ``run``: ``close`` has to unlock what was locked if it fails.
        self._rooms, self._files = recovery.rooms, recovery.files
        recovery.run()
        self._used = recovery.used
        return list(recovery.restored.values())

    # Called on the event loop.

    def store(self, action: Store, directory: Path | None) -> None:
        """Have the thread write a batch of results. When the batch is on disk ``tell`` is called on the thread.

        Args:
            action: The batch. One that is on disk, or on its way there, is not written again.
            directory: Directory of the segments with its large payloads; None if its computation is gone.
        """
        key = (action.client, action.batch.batch)
        if key in self._pending or key in self._files:
            return
        self._pending.add(key)
        self._put(_Task(store=action, directory=directory))

    def note(self, action: NoteOpen) -> None:
        """Have the thread write the list of a client's open jobs, in place of an earlier one.

        If this node dies, the next one tells the client, or ``dispy.recover_jobs``, that these jobs are lost.
        """
        self._put(_Task(note=action))

    def drop_note(self, client: ClientId) -> None:
        """Have the thread remove a client's list of open jobs, and its damaged files.

        The client is back and has compared its jobs with those on this node, or is forgotten. With the old list the
        next node would call jobs lost that have ended since it was written.
        """
        if self._thread is not None or self._rooms:
            self._put(_Task(drop_note=client))

    def on_stored(self, told: Stored, path: Path) -> None:
        """Record that batches are on disk, in the file ``path``. Call it on the loop, for each call of ``tell``."""
        file = ResultsFile(path, set(told.batches))
        for place, batch in enumerate(told.batches):
            self._pending.discard((told.client, batch))
            self._files[told.client, batch] = (file, place)

    def erase(self, client: ClientId, batches: list[int]) -> None:
        """Forget batches of a client, by number, that need not be kept any more: it has them, or does not want them.

        A file is removed, by the thread, when all its batches are forgotten.
        """
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
        """Forget all batches of a client, and its list of open jobs: it has left for good, or its lease is over."""
        self.erase(client, [batch for who, batch in self._files if who == client])
        self.drop_note(client)

    def load(self, client: ClientId, batch: int) -> LoadedBatch:
        """Read a batch from disk, to send it.

        Returns:
            The batch and its large payloads. ``stream`` and ``output_stream`` of its results number the payloads,
            from 1; 0: none. The caller has to send or close the payloads: each holds a descriptor.

        Raises:
            OSError, Damaged: The batch cannot be read.
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

    def statistics(self) -> dict[str, int]:
        """Returns numbers of batches on disk and on their way there, and the bytes of all files of results."""
        return {"batches": len(self._files), "batches_waiting": len(self._pending), "bytes": self._used}

    def close(self) -> None:
        """Write what is left, for at most ``END_S``, and unlock the rooms, for the next node to take over.

        If the time is not enough, the rooms are unlocked by the end of the process.
        """
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(END_S)
            if self._thread.is_alive():
                logger.error("%d batches of results were not written in time", len(self._pending))
                return
        for room in self._rooms:
            room.close()

    def _put(self, task: _Task) -> None:
        """Give a task to the thread; the first one starts the thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="dispy spool", daemon=True)
            self._thread.start()
        self._queue.put(task)

    # Called on the thread.

    def _run(self) -> None:
        """Do tasks until ``close``, and failed ones again. If some fail to the end, log that results are lost."""
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
        """Returns groups of tasks for ``_do``, in their order: those in ``_failed``, which is emptied, then the new
        ones."""
        todo, self._failed = self._failed, []
        return _grouped(todo + tasks)

    def _do(self, group: list[_Task]) -> None:
        """Do a group of tasks: one of any kind, or batches of one client, for one file.

        The group goes to ``_failed``, to be tried again, if it fails, or an earlier task of its client has failed.
        A batch is left out if a segment of it is gone: the client has come back, and has the result.
        """
        try:
            for path in group[0].erase:
                self._unlink(path)
            if group[0].drop_note is not None:
                self._drop_note(group[0].drop_note)
            if any(_client(task) == _client(group[0]) for task in self._failed):
                # Keep the order: results without the note before them would be taken for all that there was.
                self._failed += group
                return
            if group[0].note is not None:
                self._write_note(group[0].note)
            if group[0].store is not None:
                self._write_results(group)
        except (OSError, StateDirectoryError) as error:
            if isinstance(error, FileNotFoundError) and not self._has_lost_room():
                # The segment was released meanwhile: the client has come back, and has the result.
                logger.debug("a result is not there to be stored any more: %s", error)
                if len(group) > 1:
                    for task in group:
                        self._do([task])
                return
            self._failed += group
            if not self._has_warned:
                self._has_warned = True
                logger.warning(
                    "results of clients that are away stay in memory, and end with this node: %s cannot be "
                    "written to: %s; make room there, or give --spool_max",
                    self._base,
                    error,
                )
        except Exception:
            # What is done for the results of one client must not end the thread, which writes those of all.
            self._failed += group
            if not self._has_warned:
                self._has_warned = True
                logger.exception(
                    "results stay in memory by a fault, and are tried again; please report this"
                )
        else:
            if self._has_warned and group[0].store is not None:
                self._has_warned = False
                logger.warning("results of clients that are away are written to %s again", self._base)

    def _unlink(self, path: Path) -> None:
        """Remove a file of results, and take its bytes off ``_used``. A file that is gone is fine."""
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            self._used -= size

    def _room(self) -> Room:
        """Returns the room for new files; made by the first call.

        Raises:
            OSError, StateDirectoryError: The room cannot be made.
        """
        if self._own is None:
            self._own = make_room(self._base, self._names)
            self._rooms.append(self._own)
        return self._own

    def _has_lost_room(self) -> bool:
        """True if somebody has removed the room for new files: the next call of ``_room`` makes another one."""
        if self._own is None or self._own.path.is_dir():
            return False
        self._rooms.remove(self._own)
        self._own.close()
        self._own = None
        return True

    def _write_note(self, note: NoteOpen) -> None:
        """Write the list of a client's open jobs into a file named after the client, in place of an earlier one."""
        content = Note(note.client, note.name, note.open, note.next_batch)
        write(self._room().path, f"{note.client.hex()}.open", pack_note(content), [])

    def _drop_note(self, client: ClientId) -> None:
        """Remove a client's list of open jobs and damaged files from all rooms, and the list from ``_failed``."""
        self._failed = [task for task in self._failed if task.note is None or task.note.client != client]
        for room in self._rooms:
            for path in [room.path / f"{client.hex()}.open", *room.path.glob(f"{client.hex()}*{DAMAGED}")]:
                path.unlink(missing_ok=True)

    def _write_results(self, group: list[_Task]) -> None:
        """Write batches of one client, with their large payloads, into one file, and report them by ``tell``.

        Raises:
            FileNotFoundError: A segment with a payload is gone.
            OSError: There is no room, or the disk fails.
        """
        batches: list[JobsEnded] = []
        opens: list[Callable[[], int]] = []
        seconds: set[int] = set()
        """Numbers (from 1) of payloads that are the second of their result: their CRC goes on from the first's."""
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
                            opens.append(partial(self._open_segment, task.directory, segment))
                            setattr(result, attribute, len(opens))
                    if result.stream and result.output_stream:
                        seconds.add(result.output_stream)
                ended.append(result)
            batches.append(JobsEnded(batch.batch, batch.computation, ended))
        first = group[0].store
        assert first is not None
        sizes = [_size(open_part) for open_part in opens]
        head = pack_header(Header(first.client, first.name, batches), sizes)
        size = len(head) + sum(sizes) + CRC.size * len(sizes)
        if self._used + size > self._bytes_max:
            raise OSError(f"{self._bytes_max} bytes are allowed, {self._used} are used")
        room = self._room()
        name = f"{first.client.hex()}-{self._next:08}.results"
        self._next += 1
        parts = [
            (open_part, size, number in seconds)
            for number, (open_part, size) in enumerate(zip(opens, sizes, strict=True), 1)
        ]
        path = write(room.path, name, head, parts)
        self._used += size
        self._tell(Stored(first.client, [batch.batch for batch in batches]), path)


def _size(open_part: Callable[[], int]) -> int:
    """Returns the size (bytes) of a segment, given what opens it; raises FileNotFoundError if it is gone."""
    descriptor = open_part()
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _client(task: _Task) -> ClientId | None:
    """Returns the client whose results or note a task writes; None for a task that removes files.

    Tasks of one client that write must keep their order, also when one of them fails.
    """
    action = task.store or task.note
    return action.client if action is not None else None


def _grouped(tasks: list[_Task]) -> Iterator[list[_Task]]:
    """Returns groups of tasks for ``Spool._do``, in the order of the tasks.

    Batches of one client that follow each other make a group, of up to ``FILE_BYTES`` and ``BATCH_MAX`` batches,
    the most that a ``Header`` may have. Any other task is a group of its own.
    """
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
