"""Files that travel between programs and nodes: their descriptions, and the rules for their paths.

A file is identified by the SHA-256 of its content (its digest). Its path is relative to a directory that the receiver
chooses, with ``/`` between the names. A path that could lead out of that directory, or mean different things on two
machines, is refused by the sender, and again by the receiver, which does not trust the sender.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from dispy.protocol import limits

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""SHA-256 of a file's content, 32 bytes: files with the same digest count as the same content everywhere."""
FilePath = Annotated[str, Meta(min_length=1, max_length=limits.PATH_MAX)]
"""Path of a file relative to a directory of the receiver. Decoding checks the length of the path only; call
``check_path`` before a file is opened there."""
Size = Annotated[int, Meta(ge=0, le=1 << 50)]
"""Size of a file, or position in it (bytes)."""

MODE_BITS = 0o777
"""Mask of the permission bits of a file that travel. Set-uid, set-gid and sticky bits do not: they would turn one
user's file into a tool against another user."""

RESERVED = ".dispy-"
"""Prefix of the names under which a receiver writes files that are incomplete. ``check_path`` refuses such names in
paths, so that no file that travels can take the place of one."""


class FileEntry(Struct, array_like=True, gc=False, frozen=True):
    """Description of a file that travels: path, digest of the content, size (bytes), permission bits, time of change.

    ``mtime_ns`` is the time of the last change (nanoseconds since the epoch).

    ``package`` is 0, or a number shared by all files of one installed package. A node whose own Python finds that
    package with the same content does not fetch these files.
    """

    path: FilePath
    digest: Digest
    size: Size
    mode: Annotated[int, Meta(ge=0, le=MODE_BITS)]
    mtime_ns: Annotated[int, Meta(ge=0, le=1 << 62)]
    package: Annotated[int, Meta(ge=0, lt=1 << 32)] = 0


def check_path(path: str) -> tuple[str, ...]:
    """Returns the names in a relative path, from the top directory down, if the path is safe.

    Raises:
        ValueError: The path could lead out of the receiver's directory, or has a name that is not valid on all
            machines. The text names the path and the fault.
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
    """Returns why a name in a path is refused, as words for the error of ``check_path``; empty if it is allowed."""
    if name in ("", ".", ".."):
        return f"{name!r} is not a name"
    if "\\" in name:
        return "a backslash separates names elsewhere"
    if not name.isprintable():
        # Control characters, line ends, marks that reverse the direction of writing, lone surrogates.
        return f"{name!a} has characters that cannot be printed"
    if len(name.encode()) > limits.FILE_NAME_MAX:
        return f"a name of more than {limits.FILE_NAME_MAX} bytes"
    if name.startswith(RESERVED):
        return f"names that begin with {RESERVED!r} are ours"
    return ""


def check_entries(entries: Iterable[FileEntry], known: Mapping[str, FileEntry] | None = None) -> None:
    """Check the paths of files, each by itself and all together with the ``known`` files that are there already.

    Args:
        entries: The files that are to be put into one directory.
        known: Files that are in that directory already, by path; they were checked before. None: there are none.

    Raises:
        ValueError: A path is refused by ``check_path``, belongs to two files of different content, or is a file's
            path and another file's directory.
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
    """Returns the list of files of a directory after ``newer`` files were put there, the newer ones last.

    An older file of ``entries`` is left out if its path equals a newer file's path, is a directory of a newer file,
    or lies below one.
    """
    paths = {entry.path for entry in newer}
    above = {path[:at] for path in paths for at, letter in enumerate(path) if letter == "/"}

    def stays(path: str) -> bool:
        if path in paths or path in above:
            return False
        return not any(path[:at] in paths for at, letter in enumerate(path) if letter == "/")

    return [entry for entry in entries if stays(entry.path)] + list(newer)


def check_number(entries: Sequence[FileEntry]) -> None:
    """Check that a list of files, of a computation or a job, fits into one message.

    Raises:
        ValueError: The files are more than ``FILES_MAX``, or the list has more than ``MANIFEST_MAX`` bytes encoded.
    """
    if len(entries) > limits.FILES_MAX:
        raise ValueError(f"{len(entries)} files; {limits.FILES_MAX} are allowed")
    # A shorter list fits even with the longest paths: no need to add up their lengths.
    if len(entries) > limits.MANIFEST_MAX // limits.ENTRY_MAX:
        size = sum(len(entry.path.encode()) + limits.ENTRY_BARE_MAX for entry in entries)
        if size > limits.MANIFEST_MAX:
            raise ValueError(f"the names of {len(entries)} files are too long together")
