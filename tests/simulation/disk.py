"""The disk of a node: its spool, the real one, in a directory of the memory file system and without a thread.

What was not written when a node dies is gone. What was, stays, unless its machine loses its power: then only that
is left which was synced, see ``Synced``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dispy.core.execution.actions import NoteOpen, Store
from dispy.node.results import spool
from dispy.node.results.spool import END_S, RETRY_S

from .files import no_space
from .turns import Turns

if TYPE_CHECKING:
    from .computer import Computer

Result = tuple[bytes, int, int, int]
"""A client, a computation of it, the number of a job and its attempt."""

CUT = 0.3
"""Share of deaths in the middle of writing a file."""


class Synced:
    """What of a directory is on the disk itself: contents of files, and names in directories, as of the last time
    that each of them was synced. All else is lost when the power fails."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        """Numbers of files by name, by the number of their directory."""
        self.returned: set[str] = set()
        """Names of files that had been removed, and are there again."""

    def note(self, descriptor: int) -> None:
        """A file or directory is synced."""
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if self._root in (path, *path.parents):
            number = os.fstat(descriptor).st_ino
            if path.is_dir():
                self._names[number] = {entry.name: entry.inode() for entry in os.scandir(path)}
            else:
                self._contents[number] = path.read_bytes()

    def lose(self, directory: Path) -> list[str]:
        """The power fails; returns what is not as it was."""
        lost = []
        wanted = self._names.get(directory.stat().st_ino, {})
        for path in sorted(directory.iterdir()):
            number = path.stat().st_ino
            is_moved = wanted.get(path.name) != number
            if path.is_dir():
                lost += self.lose(path)
                if is_moved:
                    lost.append(str(path))
                    shutil.rmtree(path)
            elif is_moved:
                lost.append(path.name)
                path.unlink()
            elif path.read_bytes() != self._contents.get(number, b""):
                lost.append(path.name)
                path.write_bytes(self._contents.get(number, b""))
        for name, number in sorted(wanted.items()):
            path = directory / name
            if not path.exists() and number in self._contents:
                # It was removed, and that is not on the disk either.
                lost.append(name)
                self.returned.add(name)
                path.write_bytes(self._contents[number])
                path.chmod(0o600)
                wanted[name] = path.stat().st_ino
                self._contents[wanted[name]] = self._contents[number]
        return lost


@contextmanager
def watching(disks: list[Disk]) -> Iterator[None]:
    """See to what the kernel is asked to sync."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        for disk in disks:
            disk.synced.note(descriptor)

    os.fsync = fsync  # type: ignore[assignment]
    try:
        yield
    finally:
        os.fsync = real


class Disk:
    """What a computer keeps over the death of its nodes.

    Args:
        root: A directory for all of it.
        write_s: How long it takes to write a file, at most (seconds).
        bytes_max: As of ``--spool_max``.
    """

    def __init__(self, root: Path, write_s: float, bytes_max: int) -> None:
        self.root = root
        self.base = root / "spool"
        self.segments = root / "segments"
        self.segments.mkdir(parents=True)
        self.synced = Synced(root)
        self.write_s = write_s
        self.bytes_max = bytes_max
        self.is_full = False
        self.results: dict[Path, list[Result]] = {}
        """What is in the files of results that are whole."""
        self.forgotten: set[tuple[bytes, bytes]] = set()
        """Nodes, and clients whose lease has ended there."""
        self.damaged: set[bytes] = set()
        """Clients of which something was damaged."""
        self.taken_over = 0
        """Results that nodes have taken over from those before them."""

    def holds(self, result: Result) -> bool:
        """Whether a result is there, undamaged."""
        return result[0] not in self.damaged and any(result in there for there in self.results.values())

    def files_of(self, client: bytes) -> list[str]:
        """Names of all files that are kept for a client."""
        found = self.base.glob(f"[!.]*/{client.hex()}*") if self.base.is_dir() else iter(())
        return sorted(path.name for path in found)

    def is_back(self, client: bytes) -> bool:
        """Whether something of a client was removed, and is there again after a failure of the power."""
        return any(name.startswith(client.hex()) for name in self.synced.returned)

    def files(self) -> list[Path]:
        """All files that hold something of clients."""
        return sorted(self.base.glob("[!.]*/*.results")) + sorted(self.base.glob("[!.]*/*.open"))

    def lose_power(self) -> list[str]:
        """What was not synced is lost; returns what."""
        if not self.base.is_dir():
            return []
        # What it is in was there long before.
        return self.synced.lose(self.base)

    def damage(self, path: Path, chance: float) -> None:
        """Some bytes at the end, or in the middle, are not what they were."""
        self.damaged.add(bytes.fromhex(path.stem.partition("-")[0]))
        data = path.read_bytes()
        place = int(chance * len(data))
        path.write_bytes(data[:place] if place % 2 else data[:place] + b"\xc1" * 8 + data[place + 8 :])


def _open_segment(directory: Path, name: int) -> int:
    """Open a file that ``Spool._bring`` has brought."""
    return os.open(directory / str(name), os.O_RDONLY)


class Spool(spool.Spool):
    """The spool of a node.

    Args:
        computer: Where it runs.
        incarnation: Of the node.
        fingerprint: Of its secret.
        tell: As of the real one.
    """

    def __init__(self, computer: Computer, incarnation: bytes, fingerprint: str, tell: Any) -> None:
        assert computer.disk is not None
        assert computer.party is not None
        self._computer = computer
        self._disk = disk = computer.disk
        super().__init__(
            disk.base, incarnation, computer.name, fingerprint, disk.bytes_max, tell, _open_segment
        )
        self._queue: Any = Turns(computer.world, computer.party, self._take_turn, self._pause)
        self._thread: Any = self
        self._due: list[list[Any]] = []
        """Groups of tasks, of which the first is being done."""

    # As of a thread.

    def join(self, timeout: float) -> None:
        """Do all that is left."""
        assert timeout == END_S
        while self._queue.entries or self._due:
            self._take_turn()

    def is_alive(self) -> bool:
        """It has done all."""
        return False

    def _pause(self) -> float:
        return self._disk.write_s * self._computer.world.chance() * self._computer.slowness

    def _take_turn(self) -> None:
        if not self._due:
            tasks = [task for task in self._queue.entries if task is not None]
            self._queue.entries.clear()
            self._due = list(self._groups(tasks))
        if self._due:
            self._do(self._due.pop(0))
        if self._due or self._queue.entries:
            self._queue.wake(self._pause())
        elif self._failed:
            self._queue.wake(RETRY_S)

    def kill(self) -> None:
        """Its node is dead: its locks are free, and what it was writing is not whole."""
        due = [task for group in self._due for task in group] + list(self._queue.entries)
        for room in self._rooms:
            if due and room is self._own and self._computer.world.chance() < CUT:
                (room.path / f".{'0' * 32}-00000001.results").write_bytes(b"dispy")
            os.close(room._lock)

    # What it writes.

    def _do(self, group: list[Any]) -> None:
        directories = [task.directory for task in group]
        for task in group:
            if task.directory not in (None, self._disk.segments):
                task.directory = self._bring(task.directory, task.store)
        super()._do(group)
        for task, directory in zip(group, directories, strict=True):
            task.directory = directory

    def _bring(self, directory: Any, store: Store) -> Path:
        """Have segments, which are nowhere, where files are."""
        there = self._computer.files.contents.get(directory, {})
        for ended in store.batch.ended:
            for segment in (ended.stream, ended.output_stream):
                path = self._disk.segments / str(segment)
                if str(segment) in there:
                    path.write_bytes(there[str(segment)])
                else:
                    path.unlink(missing_ok=True)
        return self._disk.segments

    def _check_disk(self) -> None:
        if self._disk.is_full:
            raise no_space()

    def _write_note(self, note: NoteOpen) -> None:
        self._check_disk()
        super()._write_note(note)

    def _write_results(self, group: list[Any]) -> None:
        self._check_disk()
        before = self._next
        super()._write_results(group)
        if self._next > before and self._own is not None:
            client = group[0].store.client
            path = self._own.path / f"{client.hex()}-{before:08}.results"
            self._disk.results[path] = [
                (client, task.store.batch.computation, ended.number, ended.attempt)
                for task in group
                for ended in task.store.batch.ended
            ]

    def _unlink(self, path: Path) -> None:
        super()._unlink(path)
        self._disk.results.pop(path, None)
