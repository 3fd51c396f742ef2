"""Manifest of the files that a program sends: their paths in the working directory, digests, and paths here."""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
import types
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct, structs

from dispy.errors import UsageError
from dispy.files.directory_listing import place_of, walk
from dispy.files.modules import Part, parts_of
from dispy.files.untrusted_directory import digest_of
from dispy.protocol import limits
from dispy.protocol.files import MODE_BITS, FileEntry, check_entries, check_number, check_path
from dispy.system.memory import pool

logger = logging.getLogger("dispy.files")

FRESH_S = 2.0
"""Seconds after the last change of a file during which its digest is not remembered, but computed each time: the
clock of the file system is coarse, so the file may change again without a new time."""

_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags to open a file that is to be sent. Non-blocking, so that a named pipe does not stop the program."""

Signature = tuple[int, int, int, int, int]
"""Device, inode, size (bytes), time of writing and time of change (ns) of a file. With an equal signature a file is
taken to have the same content, and is not hashed again."""


class Source(NamedTuple):
    """Path of a file on this machine, and its signature when it was hashed.

    ``read`` refuses the file once the signature is another one, apart from the time of change.
    """

    path: str
    signature: Signature


class Manifest(Struct):
    """Files that a program is going to send.

    Attributes:
        entries: Descriptions of the files, by their path relative to the working directory.
        sources: Path on this machine of each file, with its signature, by digest. Of several files with equal content
            the one added last is read.
        size_max: Bytes of the largest file that may be sent; ``add`` raises UsageError for a larger one. 0: no limit.
    """

    entries: dict[str, FileEntry] = {}
    sources: dict[bytes, Source] = {}
    size_max: int = 0

    def add(self, path: str, target: str, package: int = 0) -> None:
        """Add a file to ``entries`` and ``sources``, with its present content, which is hashed.

        Args:
            path: Path of the file on this machine.
            target: Path relative to the working directory.
            package: Number of the installed package that the file is a part of (``FileEntry.package``); 0: none.

        Raises:
            UsageError: The file cannot be read, is no ordinary file, is too large, or cannot lie there; a file with
                other content has that target; or there are now more than ``limits.FILES_MAX`` files.
        """
        digest, source, mode = _look(path, self.size_max)
        size, mtime_ns = source.signature[2], max(0, source.signature[3])
        try:
            check_path(target)
        except ValueError as error:
            raise UsageError(f"file {path!r} cannot be sent: {error}", hint="rename it") from None
        entry = FileEntry(target, digest, size, mode, mtime_ns, package)
        known = self.entries.get(target)
        if known is not None and known.digest != digest:
            raise UsageError(
                f"files {self.sources[known.digest].path!r} and {path!r} would both be {target!r} on the node",
                hint="files outside the current directory land there by their last name; rename one of them",
            )
        self.entries[target] = entry
        self.sources[digest] = source
        if len(self.entries) > limits.FILES_MAX:
            raise UsageError(
                f"more than {limits.FILES_MAX} files", hint="put them into an archive that setup unpacks"
            )

    def listed(self, before: Iterable[FileEntry] = ()) -> list[FileEntry]:
        """Returns the descriptions of all files, in the alphabetical order of their paths.

        Args:
            before: Files that are in the working directory already, with which these must not clash.

        Raises:
            UsageError: Files clash, or there are too many to be listed in one message.
        """
        entries = [self.entries[path] for path in sorted(self.entries)]
        try:
            check_entries(entries, {entry.path: entry for entry in before})
        except ValueError as error:
            raise UsageError(f"depends: {error}", hint="rename one of the files") from None
        try:
            check_number(entries)
        except ValueError as error:
            raise UsageError(str(error), hint="put them into an archive that setup unpacks") from None
        return entries


def is_file_item(item: object) -> bool:
    """True if an element of ``depends`` stands for files: a path or a module."""
    return isinstance(item, (str, bytes, os.PathLike, types.ModuleType))


def collect(
    items: Iterable[object],
    base: Path | None,
    size_max: int = 0,
    program: str = "",
    modules: Iterable[tuple[str, str]] = (),
) -> Manifest:
    """Returns the manifest of the files that paths and modules stand for.

    Args:
        items: Paths of files and directories, and modules.
        base: Files below it keep their place relative to it, others land by their last name. None: all do.
        size_max: Bytes of the largest file that may be sent; 0: no limit.
        program: A file that is to be run; lands at the top by its last name, wherever it is here. Empty: none.
        modules: Files of modules that the computation imports and the user has not named: path on this machine, and
            target in the working directory. Those that cannot be sent are left out, with a warning in the log.

    Raises:
        UsageError: An item or the program cannot be sent, and why.
    """
    manifest = Manifest(size_max=size_max)
    rest: list[Part] = []
    for item in items:
        if isinstance(item, types.ModuleType):
            for part in parts_of(item, base):
                if part.is_beside:
                    rest.append(part)
                else:
                    manifest.add(part.path, part.target, part.package)
        else:
            path = os.fsdecode(os.fspath(item))  # type: ignore[call-overload]  # they are paths, see is_file_item
            if "\0" in path:
                raise UsageError(
                    f"{path!r} is no path of a file: it has a null character",
                    hint="give its path, relative to the current directory or absolute",
                )
            _add_path(manifest, path, base)
    if program:
        name = os.path.basename(program)
        manifest.add(program, name)
        # The interpreter on the node has to read the program, even if only root may read it here.
        entry = manifest.entries[name]
        manifest.entries[name] = structs.replace(entry, mode=entry.mode | stat.S_IRUSR)
    _add_unnamed(manifest, rest, "a file of an installed package")
    named = [Part(path, target) for path, target in modules]
    _add_unnamed(manifest, named, "a module that the computation imports")
    return manifest


def _add_unnamed(manifest: Manifest, parts: Iterable[Part], what: str) -> None:
    """Add files that the user has not named, unless a file of the manifest has their target already.

    Files that cannot be sent are left out, each with a warning in the log. ``what`` is the noun for such a file at
    the beginning of the warning, such as "a file of an installed package".
    """
    for part in parts:
        if part.target not in manifest.entries:
            try:
                manifest.add(part.path, part.target, part.package)
            except UsageError as error:
                logger.warning("%s is left out: %s", what, error)


def _add_path(manifest: Manifest, path: str, base: Path | None) -> None:
    """Add a file, or all files below a directory. Their targets are paths relative to ``base`` (``place_of``).

    Raises:
        UsageError: A file or directory cannot be sent.
    """
    if os.path.isdir(path):
        target = place_of(path, base)
        for found, below in walk(path):
            manifest.add(found, f"{target}/{below}" if target else below)
    else:
        manifest.add(path, place_of(path, base) or os.path.basename(path))


# Content.

_digests: dict[Signature, bytes] = {}
"""SHA-256 of files that this process has hashed, by their signature. A file that is changed has another signature."""

_DIGESTS_MAX = 100_000
"""Largest number of digests in ``_digests``. Before one more is added, all are forgotten, and files hashed again."""
_guard = threading.Lock()
"""Guards changes of ``_digests`` between threads of the program that make manifests."""


def _signature(status: os.stat_result) -> Signature:
    """Returns device, inode, size and times of a file: if they are equal later, its content was not changed."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _look(path: str, size_max: int) -> tuple[bytes, Source, int]:
    """Returns digest (SHA-256), source and permission bits of a file. Hashes it unless its digest is remembered.

    Raises:
        UsageError: The file cannot be read, is no ordinary file, is too large, or is being written to.
    """
    try:
        descriptor = os.open(path, _OPEN)
    except OSError as error:
        raise UsageError(
            f"file {path!r} cannot be sent: {error.strerror}",
            hint="check its name and the current directory",
        ) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(
                f"{path!r} is not an ordinary file", hint="only files and directories can be sent"
            )
        if size_max and status.st_size > size_max:
            raise UsageError(
                f"file {path!r} has {status.st_size} bytes, and dispy.config.MaxFileSize is {size_max}",
                hint="raise it before the cluster is made, or send less",
            )
        signature = _signature(status)
        digest = _digests.get(signature)
        if digest is None:
            digest = digest_of(descriptor)
            after = os.fstat(descriptor)
            if _signature(after) != signature:
                raise UsageError(
                    f"file {path!r} was changed while it was read",
                    hint="make the cluster when it is complete",
                )
            if time.time() - status.st_mtime > FRESH_S:
                with _guard:
                    if len(_digests) >= _DIGESTS_MAX:
                        _digests.clear()
                    _digests[signature] = digest
    except OSError as error:
        raise UsageError(f"file {path!r} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return digest, Source(os.path.abspath(path), signature), stat.S_IMODE(status.st_mode) & MODE_BITS


def read(source: Source, offset: int, size: int) -> bytes | memoryview:
    """Returns a piece of a file that must not have changed since it was hashed. Large pieces are in pooled memory.

    Args:
        source: The file.
        offset: Where the piece begins (bytes).
        size: Bytes of the piece.

    Raises:
        OSError: The file cannot be read, or has changed; the text says which file.
    """
    try:
        descriptor = os.open(source.path, _OPEN)
    except OSError as error:
        raise OSError(f"file {source.path} cannot be read any more: {error.strerror}") from error
    try:
        data = _read(descriptor, offset, size)
        # Mode or links of the file may have been changed for other reasons: the time of change does not count.
        if _signature(os.fstat(descriptor))[:4] != source.signature[:4] or len(data) != size:
            raise OSError(
                f"file {source.path} has changed since it was given to dispy, and cannot be sent any more"
            )
        return data
    finally:
        os.close(descriptor)


def _read(descriptor: int, offset: int, size: int) -> bytes | memoryview:
    """Returns ``size`` bytes of an open file from ``offset`` on; fewer if the file ends before.

    From ``_POOLED_MIN`` bytes on they are in pooled memory (``system.memory``).
    """
    if size < _POOLED_MIN:
        return os.pread(descriptor, size, offset)
    data = pool.take(size)
    count = 0
    while count < size and (more := os.preadv(descriptor, [data[count:]], offset + count)):
        count += more
    return data[:count]


_POOLED_MIN = 256 << 10
"""Smallest piece of a file (bytes) that is read into pooled memory, which is used again: new memory for a piece this
large costs more. Smaller pieces are read into new memory."""
