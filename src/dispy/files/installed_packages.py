"""Packages that the Python of jobs has already: they need not be sent.

A package is the same if each of its files has the same content where an import of it would lead. Versions are not
compared: they tell nothing of what somebody has changed, and what differs in no file needs no other proof.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from dispy.files.distributions import LIBRARIES, METADATA
from dispy.files.untrusted_directory import digest_of
from dispy.protocol.files import FileEntry

FRESH_S = 2.0
"""A file that was changed so short a time ago may change again without its time telling."""

_DIGESTS_MAX = 100_000

Signature = tuple[int, int, int, int, int]


class Installed:
    """Packages that the Python of jobs finds by itself. Used by several threads.

    Args:
        search_path: Asked for the directories in which it looks for modules, in their order.
        is_ours: Whether jobs run as our own account, and can read what we can read.
    """

    def __init__(self, search_path: Callable[[], Sequence[str]], *, is_ours: bool = True) -> None:
        self._search_path = search_path
        self._is_ours = is_ours
        self._digests: dict[Signature, bytes] = {}
        self._guard = threading.Lock()

    def missing(
        self,
        entries: list[FileEntry],
        work: Path | None,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> list[FileEntry]:
        """The files to send: all but those of packages that are here as they are in the program.

        Args:
            entries: All files that are to be in a working directory.
            work: That directory: what lies there is imported first. None: it is empty.
            is_wanted: Asked between files; ends this.
        """
        packages: dict[int, list[FileEntry]] = {}
        for entry in entries:
            if entry.package:
                packages.setdefault(entry.package, []).append(entry)
        if not packages:
            return entries
        paths = self._search_path()
        PathFinder.invalidate_caches()  # something may have been installed since the last look
        own = {_top(entry.path) for entry in entries if not entry.package}
        here = {
            number
            for number, files in packages.items()
            if is_wanted()
            and self._has(files, paths, lambda top: top in own or _lies_in(work, top), is_wanted)
        }
        return [entry for entry in entries if entry.package not in here]

    def _has(
        self,
        files: list[FileEntry],
        paths: Sequence[str],
        is_hidden: Callable[[str], bool],
        is_wanted: Callable[[], bool],
    ) -> bool:
        """Whether a package is here, whole and with the same content.

        Args:
            files: Of it.
            paths: Where modules are looked for.
            is_hidden: Whether something of the user's own has a name, and is imported in its place or mixes with it.
            is_wanted: As above.
        """
        tops = dict.fromkeys(_top(entry.path) for entry in files)
        code = [top for top in tops if not top.endswith((LIBRARIES, *METADATA))]
        if not code or any(map(is_hidden, code)):
            return False
        roots = {_root_of(top, files, paths) for top in code}
        root = roots.pop()
        if roots or not root:
            return False
        # What was read from metadata may differ by who has installed it.
        needed = [entry for entry in files if not _top(entry.path).endswith(METADATA)]
        # Another version has files of other sizes: so nothing is read for it.
        return all(self._may_be(f"{root}/{entry.path}", entry) for entry in needed) and all(
            is_wanted() and self._is(f"{root}/{entry.path}", entry) for entry in needed
        )

    def _may_be(self, path: str, entry: FileEntry) -> bool:
        try:
            status = os.stat(path)
        except OSError:
            return False
        can_read = self._is_ours or status.st_mode & stat.S_IROTH
        return bool(stat.S_ISREG(status.st_mode) and status.st_size == entry.size and can_read)

    def _is(self, path: str, entry: FileEntry) -> bool:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            status = os.fstat(descriptor)
            signature = _signature(status)
            digest = self._digests.get(signature)
            if digest is None:
                digest = digest_of(descriptor)
                if _signature(os.fstat(descriptor)) != signature:
                    return False
                if time.time() - status.st_mtime > FRESH_S:
                    with self._guard:
                        if len(self._digests) >= _DIGESTS_MAX:
                            self._digests.clear()
                        self._digests[signature] = digest
            return digest == entry.digest
        except OSError:
            return False
        finally:
            os.close(descriptor)


def _top(path: str) -> str:
    return path.partition("/")[0]


def _signature(status: os.stat_result) -> Signature:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _lies_in(work: Path | None, top: str) -> bool:
    return work is not None and os.path.lexists(work / top)


def _root_of(top: str, files: Iterable[FileEntry], paths: Sequence[str]) -> str:
    """The directory from which a module or package is imported here; empty if there is none of that name."""
    try:
        spec = PathFinder.find_spec(top.partition(".")[0], paths)
    except Exception:  # a path with something that cannot be looked into
        return ""
    if spec is None:
        return ""
    if spec.has_location and spec.origin:
        directory = os.path.dirname(spec.origin)
        return os.path.dirname(directory) if spec.submodule_search_locations else directory
    # A namespace: the first of its directories that has the part that is wanted.
    wanted = next(entry.path for entry in files if _top(entry.path) == top)
    roots = [os.path.dirname(place) for place in spec.submodule_search_locations or ()]
    return next((root for root in roots if os.path.lexists(f"{root}/{wanted}")), "")
