"""Files that travel: what is said of one, and which names may be given to it.

A file is known by the SHA-256 of its content. Where it is to lie is a path relative to a directory of the
receiver's choice, with ``/`` between its names. Whatever could lead out of that directory, or be one thing
here and another there, is refused by whoever sends it and again by whoever receives it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from dispy.protocol import limits

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
FilePath = Annotated[str, Meta(min_length=1, max_length=limits.PATH_MAX)]
Size = Annotated[int, Meta(ge=0, le=1 << 50)]

MODE_BITS = 0o777
"""What of a file's mode travels: no set-uid, set-gid or sticky bit, which would make a file of one user a tool
against another."""

RESERVED = ".dispy-"
"""Names that begin so are those of files that are not whole yet."""


class FileEntry(Struct, array_like=True, gc=False, frozen=True):
    """A file: where it is to lie, what is in it, and what else there is to know of it.

    ``mtime_ns`` is the time of its last change since the epoch.

    ``package`` is not 0 for a file of an installed package, and the same number for all of them. A node whose own
    Python finds that package, with the same content, does not put any of them there.
    """

    path: FilePath
    digest: Digest
    size: Size
    mode: Annotated[int, Meta(ge=0, le=MODE_BITS)]
    mtime_ns: Annotated[int, Meta(ge=0, le=1 << 62)]
    package: Annotated[int, Meta(ge=0, lt=1 << 32)] = 0


def check_path(path: str) -> tuple[str, ...]:
    """The names of which a relative path consists.

    Raises:
        ValueError: It could lead out of the directory that it is meant for, or has a name that is not one
            everywhere. The text names the path and what is wrong with it.
    """
    shown = ascii(path) if len(path) <= 200 else f"{path[:200]!a}…"
    if not path or len(path) > limits.PATH_MAX:
        raise ValueError(
            f"path {shown} has {len(path)} characters; from 1 to {limits.PATH_MAX} are allowed"
        )
    if path.startswith("/"):
        raise ValueError(f"path {shown} is absolute")
    names = tuple(path.split("/"))
    if len(names) > limits.DEPTH_MAX:
        raise ValueError(f"path {shown} has {len(names)} levels; {limits.DEPTH_MAX} are allowed")
    for name in names:
        fault = _fault_of(name)
        if fault:
            raise ValueError(f"path {shown}: {fault}")
    return names


def _fault_of(name: str) -> str:
    """Why this cannot be the name of a file or directory; empty if it can."""
    if name in ("", ".", ".."):
        return f"{name!r} is not a name"
    if "\\" in name:
        return "a backslash separates names elsewhere"
    if not name.isprintable():
        # Control characters, line ends, what turns the direction of writing, halves of characters.
        return f"{name!a} has characters that cannot be printed"
    if len(name.encode()) > limits.FILE_NAME_MAX:
        return f"a name of more than {limits.FILE_NAME_MAX} bytes"
    if name.startswith(RESERVED):
        return f"names that begin with {RESERVED!r} are ours"
    return ""


def check_entries(entries: Iterable[FileEntry], known: Mapping[str, FileEntry] | None = None) -> None:
    """Check where files are to lie, each and all of them together.

    Raises:
        ValueError: A path that ``check_path`` refuses, that two different files have, or that one has as a file
            and another as a directory.
    """
    by_path: dict[str, FileEntry] = dict(known or {})
    directories: set[str] = set()
    for entry in entries:
        names = check_path(entry.path)
        other = by_path.get(entry.path)
        if other is not None and other.digest != entry.digest:
            raise ValueError(f"two different files are to be {entry.path!r}")
        by_path[entry.path] = entry
        for depth in range(1, len(names)):
            directories.add("/".join(names[:depth]))
    for path in by_path.keys() & directories:
        raise ValueError(f"{path!r} is to be a file and a directory")


def replace_entries(entries: Iterable[FileEntry], newer: Sequence[FileEntry]) -> list[FileEntry]:
    """What lies in a directory after more has been put there: what had a path that is needed gives way."""
    paths = {entry.path for entry in newer}
    above = {path[:at] for path in paths for at, letter in enumerate(path) if letter == "/"}

    def stays(path: str) -> bool:
        if path in paths or path in above:
            return False
        return not any(path[:at] in paths for at, letter in enumerate(path) if letter == "/")

    return [entry for entry in entries if stays(entry.path)] + list(newer)


def check_number(entries: Sequence[FileEntry]) -> None:
    """Check that a list of files fits a message.

    Raises:
        ValueError: There are too many, or their names are too long together.
    """
    if len(entries) > limits.FILES_MAX:
        raise ValueError(f"{len(entries)} files; {limits.FILES_MAX} are allowed")
    # A list that is shorter fits with the longest names.
    if len(entries) > limits.MANIFEST_MAX // limits.ENTRY_MAX:
        size = sum(len(entry.path.encode()) + limits.ENTRY_BARE_MAX for entry in entries)
        if size > limits.MANIFEST_MAX:
            raise ValueError(f"the names of {len(entries)} files are too long together")
