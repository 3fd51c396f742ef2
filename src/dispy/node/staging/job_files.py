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
waiting    no other content has its names          reserving: its names are taken, and what has them is moved aside
reserving  all is moved aside                      placing: the stager puts the files there
placing    files are there                         placed: the record is given to the worker
reserving  it cannot be moved aside                gone: names are released, the record fails
placing    files cannot be put there               gone: names are released, the record fails
waiting    ``release`` or ``withdraw``             gone
reserving  ``release`` or ``withdraw``             gone: names are released once all is moved aside
placing    ``release`` or ``withdraw``             gone: names are released once no thread puts files there
placed     ``release``: job or worker has ended    gone: names are released
=========  ======================================  ==================================================================

A name that is released is free when the file is removed and what was moved aside is back. That may take a while, as
another process does it where jobs run as another account.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from dispy.core.execution.ids import WorkerId
from dispy.files.fetching.wanted_files import Stage
from dispy.protocol.files import FileEntry
from dispy.protocol.worker import Record


class Directory(Protocol):
    """The working directory: an ``untrusted_directory.Tree``, or one that is like it."""

    def reserve(self, files: list[tuple[str, int]]) -> list[list[str]]: ...

    def release(self, files: list[tuple[str, int, list[str]]], *, was_put: bool = True) -> None: ...


Work = Callable[[Directory], Any]
"""Something to do in the working directory; the result is passed on."""


class _Placed:
    """A file that is in the working directory for jobs, is being put there, or is being removed.

    Args:
        entry: Description of the file.
        aside: Number under which a file that had its name is moved aside (``Tree.reserve``).
    """

    __slots__ = ("aside", "directories", "entry", "is_free", "users")

    def __init__(self, entry: FileEntry, aside: int) -> None:
        self.entry = entry
        self.aside = aside
        self.directories: list[str] = []
        """Paths of directories that are made for the file, the deepest first. They are removed with it if they are
        empty then."""
        self.is_free = False
        """True once what had the name is moved aside: files can be put there."""
        self.users = 1
        """Number of jobs that need the file. At 0 it is being removed, and no job can share it any more."""


class _Offered:
    """A record whose job brings files: a worker is to run it once they are there, or runs it.

    Args:
        record: The record, with one job.
        entries: Descriptions of the files of the job.
    """

    __slots__ = ("entries", "has_names", "is_placed", "record", "stage")

    def __init__(self, record: Record, entries: list[FileEntry]) -> None:
        self.record = record
        self.entries = entries
        self.has_names = False
        """True once the names of the files are taken for this record."""
        self.stage: Stage | None = None
        """Task of the stager that puts the files there; None while the record waits for names that other files
        have, or while these files are moved aside."""
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
        run: Has something done in the working directory, and then calls a function (second argument) with the
            result, or with the exception: at once, or later on the loop. What is given first is done first.
        stage: Has the stager put files into the working directory; returns the task (``Stage``). Its second argument
            is called later, with the reason why the files cannot be there, empty if they are.
        drop: Gives a task that ``stage`` has returned up, and calls a function (None: none) when no thread puts files
            of that task there any more.
        give: Hands a record to its worker.
        fail: Called for a record that was not given to its worker, with the reason.
    """

    def __init__(
        self,
        run: Callable[[Work, Callable[[Any], None]], None],
        stage: Callable[[list[FileEntry], Callable[[str], None]], Stage],
        drop: Callable[[Stage, Callable[[], None] | None], None],
        give: Callable[[WorkerId, Record], None],
        fail: Callable[[WorkerId, Record, str], None],
    ) -> None:
        self._run = run
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
            # If its names are taken, ``_on_reserved`` releases them.
            self._place_waiting()
        elif offered.is_placed:
            self._clear(offered.entries)
        else:
            self._drop(offered.stage, partial(self._clear, offered.entries))

    def _clear(self, entries: list[FileEntry], *, was_put: bool = True) -> None:
        """Release the files of one job: those that no other job needs are removed, and files that waited are placed.

        Called when the job has ended, or its files cannot be put into the working directory.

        Args:
            entries: The files.
            was_put: False: no file was put there, as ``Tree.reserve`` has failed.
        """
        unused = []
        for entry in entries:
            placed = self._placed.get(entry.path)
            if placed is not None and placed.users:
                placed.users -= 1
                if not placed.users:
                    unused.append(placed)
        if unused:
            files = [(placed.entry.path, placed.aside, placed.directories) for placed in unused]
            self._run(partial(_release, files, was_put), partial(self._on_cleared, unused))
        else:
            self._place_waiting()

    def _on_cleared(self, unused: list[_Placed], _: object) -> None:
        """Free the names of files that were removed, and place files that waited for them."""
        for placed in unused:
            if self._placed.get(placed.entry.path) is placed:
                del self._placed[placed.entry.path]
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
        placed, self._placed = list(self._placed.values()), {}
        for was_put in (True, False):
            files = [(p.entry.path, p.aside, p.directories) for p in placed if p.is_free == was_put]
            if files:
                self._run(partial(_release, files, was_put), lambda _: None)

    def _place_waiting(self) -> None:
        """Start putting files whose names are free into the working directory: first those that stay, then jobs'.

        Called whenever names may have become free, or files have come that wait for names.
        """
        for put in list(self._puts):
            if put.stage is None and not self._is_in_use(put):
                self._begin(put)
        for worker, offered in list(self._offered.items()):
            is_waiting = offered.stage is None and not offered.has_names
            is_waiting &= self._offered.get(worker) is offered
            if is_waiting and not any(self._is_taken(entry) for entry in offered.entries):
                self._reserve(worker, offered)

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
            return placed.entry.digest != entry.digest or not placed.is_free or not placed.users
        return any(_clash(entry.path, path) for path in self._placed)

    def _reserve(self, worker: WorkerId, offered: _Offered) -> None:
        """Take the names of a job's files, and have files moved aside that no job has brought and that have them."""
        offered.has_names = True
        new = []
        for entry in offered.entries:
            placed = self._placed.get(entry.path)
            if placed is None:
                # Computations with one ``dest_path``, and nodes, share the directory: a count of ours is not enough.
                number = int.from_bytes(os.urandom(8), "big") >> 1
                placed = self._placed[entry.path] = _Placed(entry, number)
                new.append(placed)
            else:
                placed.users += 1
        if not new:
            self._place(worker, offered)
            return
        files = [(placed.entry.path, placed.aside) for placed in new]
        self._run(
            lambda directory: directory.reserve(files), partial(self._on_reserved, worker, offered, new)
        )

    def _on_reserved(self, worker: WorkerId, offered: _Offered, new: list[_Placed], result: Any) -> None:
        """Put a job's files there once all is moved aside; if that has failed, the record fails.

        Args:
            worker: The worker.
            offered: Its record; released meanwhile, perhaps.
            new: The files that had to be made way for.
            result: For each of them the directories that are missing; or the exception.
        """
        if not isinstance(result, Exception):
            for placed, directories in zip(new, result, strict=True):
                placed.directories, placed.is_free = directories, True
        if self._offered.get(worker) is not offered:
            self._clear(offered.entries, was_put=False)
        elif isinstance(result, Exception):
            del self._offered[worker]
            self._clear(offered.entries, was_put=False)
            self._fail(
                worker,
                offered.record,
                f"files of the job cannot be put into the working directory: {result}",
            )
        else:
            self._place(worker, offered)
            self._place_waiting()  # jobs that share a file wait until its name is free

    def _place(self, worker: WorkerId, offered: _Offered) -> None:
        """Have the stager put a job's files there; then the record is given to the worker, or fails."""

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


def _release(files: list[tuple[str, int, list[str]]], was_put: bool, directory: Directory) -> None:
    """Have a directory release files (``Tree.release``)."""
    directory.release(files, was_put=was_put)


def _clash(path: str, other: str) -> bool:
    """True if two files cannot be there at once: their paths are equal, or one is a directory of the other."""
    return path == other or path.startswith(other + "/") or other.startswith(path + "/")
