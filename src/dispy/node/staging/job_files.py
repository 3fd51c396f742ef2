"""Files that jobs bring: they are in the working directory while their job runs, and at no other time.

All jobs of a computation on a node share one working directory, so two jobs cannot have different files of one name
at once: the second job waits until the first has ended. A file with the same content serves both. A file that lay
there under such a name before is moved aside, and back when no job needs that name any more. Files that are sent
meanwhile and are to stay (``put``) wait, too: otherwise they would be removed with the job that has their names.

The way of a job that brings files:

=========  ======================================  ==================================================================
state      event                                   next, and what is done
=========  ======================================  ==================================================================
noted      ``offer``: a worker is to run it        waiting
waiting    no other content has its names          placing: names are reserved, the stager puts the files there
placing    files are there                         placed: the record is given to the worker
placing    files cannot be put there               gone: names are released, the record fails
waiting    ``release`` or ``withdraw``             gone
placing    ``release`` or ``withdraw``             gone: names are released once no thread puts files there
placed     ``release``: job or worker has ended    gone: names are released
=========  ======================================  ==================================================================
"""

from __future__ import annotations

import os
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
    """A file that is in the working directory for jobs, or is being put there.

    Args:
        entry: Description of the file.
        aside: Number under which a file that had its name was moved aside (``Tree.set_aside``); 0: there was none.
        directories: Paths of directories that are made for the file, the deepest first. They are removed with it if
            they are empty then.
    """

    __slots__ = ("aside", "directories", "entry", "users")

    def __init__(self, entry: FileEntry, aside: int, directories: list[str]) -> None:
        self.entry = entry
        self.aside = aside
        self.directories = directories
        self.users = 0
        """Number of jobs that need the file; at 0 it is removed."""


class _Offered:
    """A record whose job brings files: a worker is to run it once they are there, or runs it.

    Args:
        record: The record, with one job.
        entries: Descriptions of the files of the job.
    """

    __slots__ = ("entries", "is_placed", "record", "stage")

    def __init__(self, record: Record, entries: list[FileEntry]) -> None:
        self.record = record
        self.entries = entries
        self.stage: Stage | None = None
        """Task of the stager that puts the files there; None while the record waits for names that other files
        have."""
        self.is_placed = False
        """True once ``stage`` has ended: the worker has the record, or the record has failed."""


class _Put:
    """Files that were sent later and are to stay in the working directory, whatever jobs bring.

    Args:
        entries: Descriptions of the files.
        done: Called with the reason why they are not there, empty if they are.
    """

    __slots__ = ("done", "entries", "stage")

    def __init__(self, entries: list[FileEntry], done: Callable[[str], None]) -> None:
        self.entries = entries
        self.done = done
        self.stage: Stage | None = None
        """Task of the stager that puts the files there; None while they wait for names that files of jobs have."""


class Brought:
    """The files that jobs of one computation bring to a node. All methods are called on the event loop.

    Args:
        work: The working directory.
        owner: User and group that directories and files are given to; None: they stay ours.
        stage: Has the stager put files into the working directory; returns the task (``Stage``). Its second argument
            is called later, with the reason why the files cannot be there, empty if they are.
        drop: Gives a task that ``stage`` has returned up, and calls a function (None: none) when no thread puts files
            of that task there any more.
        give: Hands a record to its worker.
        fail: Called for a record that was not given to its worker, with the reason.
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
        """Files of jobs that are on the node and bring files, by number of the job. Jobs without files are not
        there."""
        self.count = 0
        """Number of files in all lists of ``entries``. It counts towards ``NodeSettings.listed_max``, above which new
        lists of a client are refused."""
        self._placed: dict[str, _Placed] = {}
        """Files that jobs have in the working directory, or that are being put there, by path relative to it."""
        self._offered: dict[WorkerId, _Offered] = {}
        """Records of jobs with files, by the worker that is to run them or runs them: one for each worker."""
        self._puts: list[_Put] = []
        """Files that are to stay, and wait or are being put there, in the order of ``put``. They go before files of
        jobs."""

    def note(self, number: int, entries: list[FileEntry]) -> None:
        """Note the files that a job brings, when the job has come to the node; ``offer`` looks them up.

        Files of an earlier attempt of the job (``number``) are replaced.
        """
        self.forget(number)
        self.entries[number] = entries
        self.count += len(entries)

    def forget(self, number: int) -> None:
        """Forget the files of a job that is not on the node any more. A job without files is fine."""
        self.count -= len(self.entries.pop(number, ()))

    def offer(self, worker: WorkerId, record: Record) -> bool:
        """Take over a record for a worker if its job brings files.

        ``give`` is called when the files are in the working directory, ``fail`` if they cannot be put there.

        Returns:
            True if the job brings files. False otherwise: then the caller gives the record to the worker.
        """
        entries = self.entries.get(record.jobs[0].number) if record.jobs else None
        if not entries:
            return False
        self._offered[worker] = _Offered(record, entries)
        self._place_waiting()
        return True

    def put(self, entries: list[FileEntry], done: Callable[[str], None]) -> None:
        """Put files into the working directory, to stay there, once no file of a job has their names.

        Jobs that bring files of these names, and whose files are not there yet, wait until these are.

        Args:
            entries: The files, which are in the store.
            done: Called with the reason why the files are not there, empty if they are. Not called after ``close``.
        """
        self._puts.append(_Put(entries, done))
        self._place_waiting()

    def withdraw(self, worker: WorkerId, untaken: list[int]) -> list[int]:
        """Take back the record of a worker, unless the worker has begun with it.

        Args:
            worker: The worker.
            untaken: Numbers of records that were taken back from the worker's channel.

        Returns:
            ``untaken``, and the number of the worker's record if it was not given to the worker yet. This worker runs
            none of these records.
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
        """Remove the files of a worker's job: the job or the worker has ended. A job without files is fine."""
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
        """Release the files of one job: those that no other job needs are removed, and files that waited are placed.

        Called when the job has ended, or its files cannot be put into the working directory.
        """
        with suppress(OSError), Tree(self._work, self._owner) as tree:
            for entry in entries:
                self._remove(tree, entry.path)
        self._place_waiting()

    def close(self) -> None:
        """Give up all files that wait or are being put into the working directory: the computation leaves this node.

        Files of jobs are removed, and files that were moved aside come back. ``give``, ``fail`` and the ``done`` of
        ``put`` are not called any more.
        """
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
        """Start putting files whose names are free into the working directory: first those that stay, then jobs'.

        Called whenever names may have become free, or files have come that wait for names.
        """
        for put in list(self._puts):
            if put.stage is None and not self._is_in_use(put):
                self._begin(put)
        for worker, offered in list(self._offered.items()):
            if offered.stage is None and not any(self._is_taken(entry) for entry in offered.entries):
                self._place(worker, offered)

    def _is_in_use(self, put: _Put) -> bool:
        """True if files that stay must wait: files of jobs, or files that stay and came before, have their names."""
        before = self._puts[: self._puts.index(put)]
        names = [*self._placed, *(entry.path for other in before for entry in other.entries)]
        return any(_clash(entry.path, name) for entry in put.entries for name in names)

    def _begin(self, put: _Put) -> None:
        """Start putting files into the working directory that stay there.

        At the end ``put.done`` is called, and files are placed that waited for their names.
        """

        def done(reason: str) -> None:
            if put in self._puts:
                self._puts.remove(put)
                put.done(reason)
                self._place_waiting()

        put.stage = self._stage(put.entries, done)

    def _is_taken(self, entry: FileEntry) -> bool:
        """True if a job has to wait for the name of its file, as another file has or reserves it.

        Jobs can share a file with the same content.
        """
        if any(_clash(entry.path, other.path) for put in self._puts for other in put.entries):
            return True
        placed = self._placed.get(entry.path)
        if placed is not None:
            return placed.entry.digest != entry.digest
        return any(_clash(entry.path, path) for path in self._placed)

    def _place(self, worker: WorkerId, offered: _Offered) -> None:
        """Reserve the names of a job's files and put them there; then the record is given to the worker, or fails."""
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
        """Reserve the name of a file for one more job. A file of that name that no job has brought is moved aside."""
        placed = self._placed.get(entry.path)
        if placed is None:
            # Computations with one ``dest_path``, and nodes, share the directory: a count of ours is not enough.
            number = int.from_bytes(os.urandom(8), "big") | 1
            directories = tree.missing_directories(entry.path)
            aside = number if tree.set_aside(entry.path, number) else 0
            placed = self._placed[entry.path] = _Placed(entry, aside, directories)
        placed.users += 1

    def _remove(self, tree: Tree, path: str) -> None:
        """Release the name of a file for one job. When no job needs the file it is removed, and a file that was moved
        aside comes back."""
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
    """True if two files cannot be there at once: their paths are equal, or one is a directory of the other."""
    return path == other or path.startswith(other + "/") or other.startswith(path + "/")
