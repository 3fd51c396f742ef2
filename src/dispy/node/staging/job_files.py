"""Files that jobs bring: in the working directory while their job runs, and at no other time.

All jobs of a computation on a node have one working directory, so two jobs cannot have different files of
one name at once: the second waits until the first has ended. The same file is there for both. What lay there
under such a name before is moved aside, and back when no job needs its own any more. Files that are sent meanwhile
and are to stay wait likewise, or they would be gone with the job that has theirs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from dispy.core.execution.ids import WorkerId
from dispy.files.fetching.wanted_files import Stage
from dispy.files.untrusted_directory import Tree
from dispy.protocol.files import FileEntry
from dispy.protocol.worker import Record


class _Placed:
    """A file that is there for jobs that run."""

    __slots__ = ("aside", "directories", "entry", "users")

    def __init__(self, entry: FileEntry, aside: int, directories: list[str]) -> None:
        self.entry = entry
        self.aside = aside
        """Where that is which lay there before, 0: nothing did."""
        self.directories = directories
        """Those that were made for it."""
        self.users = 0


class _Offered:
    """A record whose job brings files, from the moment when a worker is to have it."""

    __slots__ = ("entries", "is_placed", "record", "stage")

    def __init__(self, record: Record, entries: list[FileEntry]) -> None:
        self.record = record
        self.entries = entries
        self.stage: Stage | None = None
        self.is_placed = False


class _Put:
    """Files that are to stay, whatever jobs bring."""

    __slots__ = ("done", "entries", "stage")

    def __init__(self, entries: list[FileEntry], done: Callable[[str], None]) -> None:
        self.entries = entries
        self.done = done
        self.stage: Stage | None = None


class Brought:
    """The files that jobs of one computation bring to a node.

    Args:
        work: The working directory.
        owner: User and group that directories and files are given to.
        stage: Puts files there, and calls a function with the reason why not.
        drop: Gives that up, and calls a function when nothing is put there any more.
        give: Hands a record to its worker.
        fail: Tells that a record was not given to its worker, and why.
    """

    def __init__(
        self,
        work: Path,
        owner: tuple[int, int] | None,
        stage: Callable[[list[FileEntry], Callable[[str], None]], Stage],
        drop: Callable[[Stage, Callable[[], None] | None], None],
        give: Callable[[WorkerId, Record], None],
        fail: Callable[[WorkerId, Record, str], None],
    ) -> None:
        self._work = work
        self._owner = owner
        self._stage = stage
        self._drop = drop
        self._give = give
        self._fail = fail
        self.entries: dict[int, list[FileEntry]] = {}
        """Of jobs that are here, by number."""
        self.count = 0
        """How many these are together."""
        self._placed: dict[str, _Placed] = {}
        self._offered: dict[WorkerId, _Offered] = {}
        self._puts: list[_Put] = []
        self._numbers = itertools.count(1)

    def note(self, number: int, entries: list[FileEntry]) -> None:
        """A job is here that brings files."""
        self.forget(number)
        self.entries[number] = entries
        self.count += len(entries)

    def forget(self, number: int) -> None:
        """It is not any more."""
        self.count -= len(self.entries.pop(number, ()))

    def offer(self, worker: WorkerId, record: Record) -> bool:
        """A worker is to run a record: if its job brings files it gets it when they are there.

        Returns:
            Whether it does.
        """
        entries = self.entries.get(record.jobs[0].number) if record.jobs else None
        if not entries:
            return False
        self._offered[worker] = _Offered(record, entries)
        self._place_waiting()
        return True

    def put(self, entries: list[FileEntry], done: Callable[[str], None]) -> None:
        """Put files there that stay: when no job has its own under their names, before jobs that come later.

        Args:
            entries: Which; they are on this machine.
            done: Called with the reason why not, empty if they are there; not called after ``close``.
        """
        self._puts.append(_Put(entries, done))
        self._place_waiting()

    def withdraw(self, worker: WorkerId, untaken: list[int]) -> list[int]:
        """A worker is not to have its record, unless it has taken it.

        Args:
            worker: Which.
            untaken: Numbers of records that were taken back from its channel.

        Returns:
            These, and the number of a record that had not been given to it yet.
        """
        offered = self._offered.get(worker)
        if offered is None:
            return untaken
        number = offered.record.record
        if offered.is_placed and number not in untaken:
            return untaken
        self.release(worker)
        return untaken if number in untaken else [*untaken, number]

    def release(self, worker: WorkerId) -> None:
        """The job of a worker has ended, or the worker has."""
        offered = self._offered.pop(worker, None)
        if offered is None:
            return
        if offered.stage is None:
            self._place_waiting()
        elif offered.is_placed:
            self._clear(offered.entries)
        else:
            self._drop(offered.stage, partial(self._clear, offered.entries))

    def _clear(self, entries: list[FileEntry]) -> None:
        with suppress(OSError), Tree(self._work, self._owner) as tree:
            for entry in entries:
                self._remove(tree, entry.path)
        self._place_waiting()

    def close(self) -> None:
        """No job runs here any more: what lay there before comes back."""
        for offered in self._offered.values():
            if offered.stage is not None and not offered.is_placed:
                self._drop(offered.stage, None)
        self._offered.clear()
        for put in self._puts:
            if put.stage is not None:
                self._drop(put.stage, None)
        self._puts.clear()
        if self._placed:
            with suppress(OSError), Tree(self._work, self._owner) as tree:
                for placed in list(self._placed.values()):
                    placed.users = 1
                    self._remove(tree, placed.entry.path)

    def _place_waiting(self) -> None:
        for put in list(self._puts):
            if put.stage is None and not self._is_in_use(put):
                self._begin(put)
        for worker, offered in list(self._offered.items()):
            if offered.stage is None and not any(self._is_taken(entry) for entry in offered.entries):
                self._place(worker, offered)

    def _is_in_use(self, put: _Put) -> bool:
        """Whether jobs have files of such names, or others of them are to be put there before."""
        before = self._puts[: self._puts.index(put)]
        names = [*self._placed, *(entry.path for other in before for entry in other.entries)]
        return any(_clash(entry.path, name) for entry in put.entries for name in names)

    def _begin(self, put: _Put) -> None:
        def done(reason: str) -> None:
            if put in self._puts:
                self._puts.remove(put)
                put.done(reason)
                self._place_waiting()

        put.stage = self._stage(put.entries, done)

    def _is_taken(self, entry: FileEntry) -> bool:
        if any(_clash(entry.path, other.path) for put in self._puts for other in put.entries):
            return True
        placed = self._placed.get(entry.path)
        if placed is not None:
            return placed.entry.digest != entry.digest
        return any(_clash(entry.path, path) for path in self._placed)

    def _place(self, worker: WorkerId, offered: _Offered) -> None:
        reserved = []
        try:
            with Tree(self._work, self._owner) as tree:
                for entry in offered.entries:
                    self._reserve(tree, entry)
                    reserved.append(entry)
        except (OSError, ValueError) as error:
            del self._offered[worker]
            self._clear(reserved)
            self._fail(
                worker,
                offered.record,
                f"files of the job cannot be put into the working directory: {error}",
            )
            return

        def done(reason: str) -> None:
            if self._offered.get(worker) is not offered:
                return
            offered.is_placed = True
            if reason:
                self.release(worker)
                self._fail(worker, offered.record, reason)
            else:
                self._give(worker, offered.record)

        offered.stage = self._stage(offered.entries, done)

    def _reserve(self, tree: Tree, entry: FileEntry) -> None:
        placed = self._placed.get(entry.path)
        if placed is None:
            number = next(self._numbers)
            directories = tree.missing_directories(entry.path)
            aside = number if tree.set_aside(entry.path, number) else 0
            placed = self._placed[entry.path] = _Placed(entry, aside, directories)
        placed.users += 1

    def _remove(self, tree: Tree, path: str) -> None:
        placed = self._placed.get(path)
        if placed is None:
            return
        placed.users -= 1
        if placed.users:
            return
        del self._placed[path]
        tree.remove(path)
        if placed.aside:
            tree.put_back(path, placed.aside)
        tree.remove_empty(placed.directories)


def _clash(path: str, other: str) -> bool:
    """Whether two files cannot be there at once: one has the name of the other, or of a directory that this is in."""
    return path == other or path.startswith(other + "/") or other.startswith(path + "/")
