"""What a program sends: files, modules and packages, where they are to lie, and where their bytes are now."""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
import types
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from dispy.errors import UsageError
from dispy.files.directory_listing import place_of, walk
from dispy.files.modules import Part, parts_of
from dispy.files.untrusted_directory import digest_of
from dispy.protocol import limits
from dispy.protocol.files import MODE_BITS, FileEntry, check_entries, check_number, check_path
from dispy.system.memory import pool

logger = logging.getLogger("dispy.files")

FRESH_S = 2.0
"""A file that was changed so short a time ago may change again without its time telling: its content is looked at
each time."""

_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

Signature = tuple[int, int, int, int, int]
"""Of a file: device, inode, size, times of the last change of its content and of what is known about it."""


class Source(NamedTuple):
    """Where the content of a file is: if its signature is another, it is not that content any more."""

    path: str
    signature: Signature


@dataclass(slots=True)
class Manifest:
    """Files to be sent.

    Attributes:
        entries: By the path where each is to lie.
        sources: Where their bytes are, by digest.
        size_max: Bytes that each of them may have; 0: any number.
    """

    entries: dict[str, FileEntry] = field(default_factory=dict)
    sources: dict[bytes, Source] = field(default_factory=dict)
    size_max: int = 0

    def add(self, path: str, target: str, package: int = 0) -> None:
        """Take a file up, as it is now.

        Args:
            path: Of the file.
            target: Where it is to lie.
            package: Of which installed package it is a part (``FileEntry.package``).

        Raises:
            UsageError: It cannot be read, is no ordinary file, is too large, or must not lie there.
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
        """All files, in the order of their paths.

        Args:
            before: Files that are there already: these must not lie on them.

        Raises:
            UsageError: They do, or there are too many to be listed in one message.
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
    """Whether an element of ``depends`` stands for files: a path or a module."""
    return isinstance(item, (str, bytes, os.PathLike, types.ModuleType))


def collect(
    items: Iterable[object],
    base: Path | None,
    size_max: int = 0,
    program: str = "",
    modules: Iterable[tuple[str, str]] = (),
) -> Manifest:
    """What paths and modules stand for.

    Args:
        items: Paths of files and directories, and modules.
        base: What lies below it keeps its place relative to it; None: nothing does.
        size_max: Bytes that each of them may have; 0: any number.
        program: A file that is to be run; lies at the top by its last name, wherever it is here.
        modules: Files that nobody has named, and where they are to lie: those that cannot be sent are left out.

    Raises:
        UsageError: One of them cannot be sent, and why.
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
        # One that only root may read here is read by its interpreter there.
        entry = manifest.entries[name]
        manifest.entries[name] = structs.replace(entry, mode=entry.mode | stat.S_IRUSR)
    _add_unnamed(manifest, rest, "a file of an installed package")
    named = [Part(path, target) for path, target in modules]
    _add_unnamed(manifest, named, "a module that the computation imports")
    return manifest


def _add_unnamed(manifest: Manifest, parts: Iterable[Part], what: str) -> None:
    """Take up files that nobody has named: those that cannot be sent are left out."""
    for part in parts:
        if part.target not in manifest.entries:
            try:
                manifest.add(part.path, part.target, part.package)
            except UsageError as error:
                logger.warning("%s is left out: %s", what, error)


def _add_path(manifest: Manifest, path: str, base: Path | None) -> None:
    if os.path.isdir(path):
        target = place_of(path, base)
        for found, below in walk(path):
            manifest.add(found, f"{target}/{below}" if target else below)
    else:
        manifest.add(path, place_of(path, base) or os.path.basename(path))


# Content.

_digests: dict[Signature, bytes] = {}
"""Of files that were looked at; one that is changed has another signature."""

_DIGESTS_MAX = 100_000
_guard = threading.Lock()


def _signature(status: os.stat_result) -> Signature:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _look(path: str, size_max: int) -> tuple[bytes, Source, int]:
    """Digest, source and mode of a file.

    Raises:
        UsageError: It cannot be read, is no ordinary file, is too large, or is being written to.
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
    """A piece of a file that is to be as it was; a large one in memory that is used again.

    Raises:
        OSError: It cannot be read, or has changed since; the text says which file.
    """
    try:
        descriptor = os.open(source.path, _OPEN)
    except OSError as error:
        raise OSError(f"file {source.path} cannot be read any more: {error.strerror}") from error
    try:
        data = _read(descriptor, offset, size)
        # Its node or links may be another's business: ctime does not count.
        if _signature(os.fstat(descriptor))[:4] != source.signature[:4] or len(data) != size:
            raise OSError(
                f"file {source.path} has changed since it was given to dispy, and cannot be sent any more"
            )
        return data
    finally:
        os.close(descriptor)


def _read(descriptor: int, offset: int, size: int) -> bytes | memoryview:
    if size < _POOLED_MIN:
        return os.pread(descriptor, size, offset)
    data = pool.take(size)
    count = 0
    while count < size and (more := os.preadv(descriptor, [data[count:]], offset + count)):
        count += more
    return data[:count]


_POOLED_MIN = 256 << 10
"""Bytes from which fresh memory costs more than memory that is used again."""
