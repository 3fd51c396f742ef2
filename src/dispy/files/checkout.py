"""Puts files of the store into directories, where jobs find them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from dispy.files.copy_in_progress import Following
from dispy.files.store import Store
from dispy.files.untrusted_directory import ChangedError, Linker
from dispy.protocol.files import FileEntry

TRIES_MAX = 5
"""Attempts to put one file into a directory while the file changes in the store each time. After the last one it
counts as missing from the store."""

BATCH = 64
"""Files that a directory is asked for at once: with one question for each, a process that does the work for us would
spend more time on questions than on small files."""


class Directory(Protocol):
    """The directory that files are put into: an ``untrusted_directory.Tree``, in this process or another one.

    ``put`` may wait with its work until ``flush``, which then raises the errors. With ``can_link`` False, ``put``
    takes no ``link``.
    """

    can_link: bool

    def holds_all(self, entries: list[FileEntry]) -> list[bool]: ...

    def put(
        self,
        entry: FileEntry,
        source: int,
        link: Linker | None = None,
        is_wanted: Callable[[], bool] = ...,
        is_unchanged: Callable[[], bool] = ...,
    ) -> None: ...

    def flush(self) -> None: ...

    def nameless(self) -> int: ...

    def copy_range(
        self, source: int, target: int, start: int, end: int, is_wanted: Callable[[], bool]
    ) -> None: ...

    def finish(self, made: int, entry: FileEntry) -> None: ...


def put_files(
    store: Store,
    entries: Iterable[FileEntry],
    directory: Directory,
    is_wanted: Callable[[], bool] = lambda: True,
    begun: dict[bytes, Following | None] | None = None,
) -> dict[bytes, int]:
    """Put files that are in the store into a directory, unless they are there already.

    Args:
        store: Where the files are.
        entries: The files, with their paths below the directory.
        directory: The directory.
        is_wanted: Called between files and between steps of copies; returns False to end the work: between files
            without an error, in a copy with OSError.
        begun: Early copies of these files (``copy_in_progress``), by digest; None as a value: no early copy could be
            made. Those that are tried are taken out of the dictionary and closed.

    Returns:
        Sizes (bytes) of files that are not in the store, by digest, for the caller to fetch. The other files are
        in the directory, unless ``is_wanted`` has ended the work.

    Raises:
        OSError: A file cannot be put there; files after it may not have been tried.
        ValueError: A path leads out of the directory.
    """
    missing: dict[bytes, int] = {}
    left = iter(entries)
    while batch := list(itertools.islice(left, BATCH)):
        for entry, is_held in zip(batch, directory.holds_all(batch), strict=True):
            if not is_wanted():
                return missing
            if entry.digest in missing or is_held:
                continue
            early = begun.pop(entry.digest, None) if begun else None
            try:
                if not _put_file(store, entry, directory, is_wanted, early):
                    missing[entry.digest] = entry.size
            finally:
                if early is not None:
                    early.close()
        directory.flush()
    return missing


def _put_file(
    store: Store,
    entry: FileEntry,
    directory: Directory,
    is_wanted: Callable[[], bool],
    early: Following | None,
) -> bool:
    """Put one file into a directory; returns False if it is not in the store, or changed there ``TRIES_MAX`` times.

    The ways are tried in this order: complete the early copy (``early``), link the file in the store, copy it. The
    early copy comes first, since the node that has received the file may have been lent it, and one link is all.

    Raises:
        OSError: The file cannot be put there. The text begins with the file's path below the directory.
    """
    for _ in range(TRIES_MAX):
        source = store.find(entry.digest, entry.size)
        if source is None:
            return False
        try:
            is_unchanged = partial(store.is_unchanged, entry.digest, source)
            if early is not None and early.finish(entry, source, is_wanted, is_unchanged):
                return True
            link = store.linker(entry, source) if directory.can_link else None
            directory.put(entry, source, link, is_wanted, is_unchanged)
            return True
        except ChangedError:
            # The file was lent or given back meanwhile, or the job that it was lent to has written to it.
            continue
        except OSError as error:
            raise OSError(error.errno, f"{entry.path}: {error.strerror or error}") from None
        finally:
            os.close(source)
    return False
