"""The journals of a machine: the real ones, on databases in memory and without threads.

What was not written when a program dies is gone; what was, stays, also when its machine loses its power. Only the
marks, which are written to memory that the kernel keeps, go with that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dispy.journal import mark as marks
from dispy.journal import schema, thread, writer

from .turns import Turns
from .world import Party, World

T = TypeVar("T")

POST_S = 20e-6


class Volume:
    """A journal on disk."""

    def __init__(self, name: str, is_full: bool) -> None:
        self.name = name
        self.db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.marks: dict[int, Mark] = {}
        self.owner: Journal | None = None
        """Who has the lock."""
        schema.make_tables(self.db, is_full=is_full)

    def is_empty(self) -> bool:
        """Its program died before it had said who it was."""
        return self.db.execute("SELECT 1 FROM session").fetchone() is None


class Shelf:
    """The directory with the journals of a program.

    Args:
        world: Where it is.
        name: Of the program.
        write_s: How long the disk takes to write something, at most (seconds).
    """

    def __init__(self, world: World, name: str, write_s: float) -> None:
        self.world = world
        self.name = name
        self.write_s = write_s
        self.boot = 1
        """Counts how often the machine was started."""
        self.volumes: dict[str, Volume] = {}
        self.lost = 0
        """Journals that have lost their tails."""
        self._next = 1
        world.at_end.append(self._close)

    def _close(self) -> None:
        for volume in self.volumes.values():
            volume.db.close()
        self.volumes.clear()

    def make(self, party: Party, is_full: bool) -> Journal:
        """Make a journal."""
        volume = Volume(f"{self.name}-{self._next}", is_full)
        self._next += 1
        self.volumes[volume.name] = volume
        return Journal(self, volume, party)

    def crash(self, how: str) -> None:
        """The program that has them is killed, or its machine loses its power ("silent")."""
        if how == "silent":
            self.boot += 1
        for volume in self.volumes.values():
            if volume.owner is not None:
                self.lost += any(write is not None for write, _, _ in volume.owner.thread.unwritten())
                volume.owner = None

    def remove(self, volume: Volume) -> None:
        """Remove a journal with all that belongs to it."""
        del self.volumes[volume.name]
        volume.db.close()


class Mark(marks.Mark):
    """A mark that is nobody's file."""

    def __init__(self) -> None:
        self._mapped: Any = bytearray(16)
        self._highest = 0

    def close(self) -> None:
        """It stays."""

    def read(self) -> marks.Marked | None:
        """What can be read there."""
        return marks.read_mark(bytes(self._mapped))


class Thread(thread.JournalThread):
    """What writes a journal, in turns of the world.

    Args:
        shelf: Where the journal is.
        volume: What is on disk of it.
        party: Who has it.
    """

    def __init__(self, shelf: Shelf, volume: Volume, party: Party) -> None:
        super().__init__(Path(volume.name), lambda _: volume.db, self._post_soon)
        self._shelf = shelf
        self._party = party
        self._volume = volume

    def _post_soon(self, function: Callable[[], object]) -> None:
        self._shelf.world.after(POST_S, self._party, function)

    def start(
        self, look: Callable[[sqlite3.Connection], None], on_broken: Callable[[], None], *, wait: bool
    ) -> None:
        """As of threads: nothing can fail."""
        self._on_broken = on_broken
        look(self._volume.db)
        self._queue: Any = Turns(self._shelf.world, self._party, self._take_turn, self._pause)

    def _pause(self) -> float:
        return self.gather_s + self._shelf.write_s * self._shelf.world.chance()

    def unwritten(self) -> list[thread.Entry]:
        """What waits."""
        return list(self._queue.entries)

    def _take_turn(self) -> None:
        """What the thread does."""
        entries = []
        end = None
        while not self._queue.empty() and end is None:
            entry = self._queue.get()
            if entry[0] in thread.ENDS:
                end = entry[0]
            else:
                entries.append(entry)
        self._write(self._volume.db, entries)
        if self._is_broken:
            self._shelf.world.fail(f"journal {self.path} cannot be written to")
        if end is not None:
            self._volume.owner = None
            if end is thread.REMOVE:
                self._shelf.remove(self._volume)

    def ask(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """As of threads: nobody waits for one."""
        self._take_turn()
        db = self._volume.db
        db.execute("BEGIN IMMEDIATE")
        answer = function(db)
        db.execute("COMMIT")
        return answer

    def join(self) -> None:
        """As of threads."""
        self._take_turn()


class Journal(writer.Journal):
    """The journal of a process.

    Args:
        shelf: Where it is.
        volume: What is on disk of it.
        party: Who has it.
    """

    thread: Thread

    def __init__(self, shelf: Shelf, volume: Volume, party: Party) -> None:
        self._shelf = shelf
        self.volume = volume
        if volume.owner is not None:
            shelf.world.fail(f"journal {volume.name} is opened twice")
        volume.owner = self
        super().__init__(Thread(shelf, volume, party), is_full=False, wait=True)

    def _make_mark(self) -> Mark:
        mark = self.volume.marks[self.session] = Mark()
        return mark

    def _boot_id(self) -> str:
        return f"boot {self._shelf.boot}"

    def marked(self, session: int, boot: str) -> marks.Marked | None:
        """As of journals."""
        mark = self.volume.marks.get(session)
        return mark.read() if mark is not None and boot == self._boot_id() else None
