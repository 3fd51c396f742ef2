"""Puts files of the store where jobs find them."""

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
"""So often a file is put there that changes under us."""


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
        store: Where they are.
        entries: Which, and where to.
        work: The directory.
        owner: User and group that they are given to.
        is_wanted: Asked between files and between pieces of them; ends this.
        begun: Copies that were begun, by digest; those that are used are taken out.

    Returns:
        Sizes of those that are not in the store, by digest.

    Raises:
        OSError: One cannot be put there.
        ValueError: A path that leads elsewhere.
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
    """False if the file is not in the store."""
    for _ in range(TRIES_MAX):
        source = store.find(entry.digest, entry.size)
        if source is None:
            return False
        try:
            is_unchanged = partial(store.is_unchanged, entry.digest, source)
            link = store.linker(entry, source, owner[1] if owner is not None else None)
            if early is not None:
                # First: who has received it cannot be lent it as well.
                link = _first_of(early.linker(entry, source, owner, is_wanted, is_unchanged), link)
            tree.put(entry, source, link, is_wanted, is_unchanged)
            return True
        except ChangedError:
            # It was lent or given back meanwhile; or the job that it was lent to has written to it.
            continue
        except OSError as error:
            raise OSError(error.errno, f"{entry.path}: {error.strerror or error}") from None
        finally:
            os.close(source)
    return False


def _first_of(first: Linker, second: Linker | None) -> Linker:
    def link(directory: int, name: str) -> bool:
        return first(directory, name) or (second is not None and second(directory, name))

    return link
