"""Puts files of the store into directories, where jobs find them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from dispy.files.copy_in_progress import Following
from dispy.files.store import Store
from dispy.files.untrusted_directory import ChangedError, Linker, Tree
from dispy.protocol.files import FileEntry

TRIES_MAX = 5
"""Attempts to put one file into a directory while the file changes in the store each time. After the last one it
counts as missing from the store."""


def put_files(
    store: Store,
    entries: Iterable[FileEntry],
    work: Path,
    owner: tuple[int, int] | None,
    is_wanted: Callable[[], bool] = lambda: True,
    begun: dict[bytes, Following | None] | None = None,
) -> dict[bytes, int]:
    """Put files that are in the store into a directory, unless they are there already.

    Args:
        store: Where the files are.
        entries: The files, with their paths below the directory.
        work: The directory.
        owner: User and group that the files are given to; None: they keep the node's.
        is_wanted: Called between files and between steps of copies; returns False to end the work: between files
            without an error, in a copy with OSError.
        begun: Early copies of these files (``copy_in_progress``), by digest; None as a value: no early copy could be
            made. Those that are tried are taken out of the dictionary and closed.

    Returns:
        Sizes (bytes) of files that are not in the store, by digest, for the caller to fetch. The other files are
        in the directory, unless ``is_wanted`` has ended the work.

    Raises:
        OSError: A file cannot be put there; files after it were not tried.
        ValueError: A path leads out of the directory.
    """
    missing: dict[bytes, int] = {}
    with Tree(work, owner) as tree:
        for entry in entries:
            if not is_wanted():
                break
            if entry.digest in missing or tree.holds(entry):
                continue
            early = begun.pop(entry.digest, None) if begun else None
            try:
                if not _put_file(store, entry, tree, owner, is_wanted, early):
                    missing[entry.digest] = entry.size
            finally:
                if early is not None:
                    early.close()
    return missing


def _put_file(
    store: Store,
    entry: FileEntry,
    tree: Tree,
    owner: tuple[int, int] | None,
    is_wanted: Callable[[], bool],
    early: Following | None,
) -> bool:
    """Put one file into a directory; returns False if it is not in the store, or changed there ``TRIES_MAX`` times.

    The ways are tried in this order: complete the early copy (``early``), link the file in the store, copy it.

    Raises:
        OSError: The file cannot be put there. The text begins with the file's path below the directory.
    """
    for _ in range(TRIES_MAX):
        source = store.find(entry.digest, entry.size)
        if source is None:
            return False
        try:
            is_unchanged = partial(store.is_unchanged, entry.digest, source)
            link = store.linker(entry, source) if owner is None else None
            if early is not None:
                # The early copy first: the node that has received the file may have been lent it, and one link is
                # all.
                link = _first_of(early.linker(entry, source, owner, is_wanted, is_unchanged), link)
            tree.put(entry, source, link, is_wanted, is_unchanged)
            return True
        except ChangedError:
            # The file was lent or given back meanwhile, or the job that it was lent to has written to it.
            continue
        except OSError as error:
            raise OSError(error.errno, f"{entry.path}: {error.strerror or error}") from None
        finally:
            os.close(source)
    return False


def _first_of(first: Linker, second: Linker | None) -> Linker:
    """Returns a ``Linker`` that calls ``first``, and then ``second`` (if not None) if ``first`` returns False.

    Used to prefer an early copy of a file to a link to the file in the store.
    """

    def link(directory: int, name: str) -> bool:
        return first(directory, name) or (second is not None and second(directory, name))

    return link
