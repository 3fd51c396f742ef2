"""Packages that are installed on the node as in the program, so that they need not be sent.

A package counts as installed if each of its files has the content that it has in the program, at the path from which
jobs would import it. Versions are not compared: they do not show what a user has changed, and files that are all
equal need no other proof.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import PathFinder

from dispy.files.distributions import LIBRARIES, METADATA
from dispy.files.untrusted_directory import digest_of
from dispy.protocol.files import FileEntry

FRESH_S = 2.0
"""Seconds after the last change of a file during which its digest is not remembered, but computed each time: the
clock of the file system is coarse, so the file may change again without a new time."""

_DIGESTS_MAX = 100_000
"""Largest number of digests of installed files that are remembered. Before one more is added, all are forgotten;
files are then hashed again."""

Signature = tuple[int, int, int, int, int]
"""Device, inode, size (bytes), time of writing and time of change (ns) of a file. With an equal signature a file is
taken to have the same content, and is not hashed again."""


class Installed:
    """Packages that the Python of jobs finds without our sending them. Several threads may call the methods.

    Only files that this process can read count as installed. So it has to run as the user of the jobs.
    """

    def __init__(self) -> None:
        self._digests: dict[Signature, bytes] = {}
        """SHA-256 of each installed file that was hashed, by its signature."""
        self._guard = threading.Lock()
        """Guards changes of ``_digests`` between the threads that call ``missing``."""

    def missing(
        self,
        entries: list[FileEntry],
        search_path: Sequence[str],
        has_names: Callable[[list[str]], list[bool]],
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> list[FileEntry]:
        """Returns the files to send: all but those of packages that are installed here as in the program.

        They keep the order of ``entries``.

        Args:
            entries: All files that are to be in a working directory.
            search_path: Directories in which the Python of jobs looks for modules, in order.
            has_names: Returns for each name whether the working directory, whose modules are imported first, has an
                entry of that name.
            is_wanted: Called between files; returns False to end the work. Then packages that were not compared
                count as missing.
        """
        packages: dict[int, list[FileEntry]] = {}
        for entry in entries:
            if entry.package:
                packages.setdefault(entry.package, []).append(entry)
        if not packages:
            return entries
        PathFinder.invalidate_caches()  # something may have been installed since the last look
        own = {_top(entry.path) for entry in entries if not entry.package}
        tops = list({_top(entry.path) for entry in entries if entry.package})
        own.update(top for top, is_there in zip(tops, has_names(tops), strict=True) if is_there)
        here = {
            number
            for number, files in packages.items()
            if is_wanted() and self._has(files, search_path, own, is_wanted)
        }
        return [entry for entry in entries if entry.package not in here]

    def _has(
        self,
        files: list[FileEntry],
        paths: Sequence[str],
        hidden: set[str],
        is_wanted: Callable[[], bool],
    ) -> bool:
        """True if a package is installed here, whole and with the same content, and jobs would import it.

        Args:
            files: All files of the package.
            paths: Directories in which modules are looked for, in order.
            hidden: Names of modules and packages that the user's own files have: these would be imported in place of
                the package, or mix with it.
            is_wanted: Called before each file; returns False to end the comparison, with False as the answer.
        """
        tops = dict.fromkeys(_top(entry.path) for entry in files)
        code = [top for top in tops if not top.endswith((LIBRARIES, *METADATA))]
        if not code or not hidden.isdisjoint(code):
            return False
        roots = {_root_of(top, files, paths) for top in code}
        root = roots.pop()
        if roots or not root:
            return False
        # Metadata may differ by the installer.
        needed = [entry for entry in files if not _top(entry.path).endswith(METADATA)]
        # Sizes first: another version has files of other sizes, so no file of it is read.
        return all(self._may_be(f"{root}/{entry.path}", entry) for entry in needed) and all(
            is_wanted() and self._is(f"{root}/{entry.path}", entry) for entry in needed
        )

    def _may_be(self, path: str, entry: FileEntry) -> bool:
        """True if there is a regular file at a path, of the size in ``entry``. The content is not read."""
        try:
            status = os.stat(path)
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == entry.size

    def _is(self, path: str, entry: FileEntry) -> bool:
        """True if the file at a path has the digest of ``entry``; False if it is unreadable or changes meanwhile."""
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
    """Returns the first name in a relative path, which is what an import finds: a package's directory or a file."""
    return path.partition("/")[0]


def _signature(status: os.stat_result) -> Signature:
    """Returns the signature of a file that has this status."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _root_of(top: str, files: Iterable[FileEntry], paths: Sequence[str]) -> str:
    """Returns the directory from which a module or package is imported here; empty if there is none of that name.

    Args:
        top: Name of the package's directory, or of the module's file.
        files: Files of the package. A namespace may have several directories: the one that has the first of these
            files below ``top`` counts.
        paths: Directories in which modules are looked for, in order.
    """
    try:
        spec = PathFinder.find_spec(top.partition(".")[0], paths)
    except Exception:  # an entry of the path that cannot be searched
        return ""
    if spec is None:
        return ""
    if spec.has_location and spec.origin:
        directory = os.path.dirname(spec.origin)
        return os.path.dirname(directory) if spec.submodule_search_locations else directory
    # A namespace package: take the first of its directories that has the wanted part.
    wanted = next(entry.path for entry in files if _top(entry.path) == top)
    roots = [os.path.dirname(place) for place in spec.submodule_search_locations or ()]
    return next((root for root in roots if os.path.lexists(f"{root}/{wanted}")), "")
