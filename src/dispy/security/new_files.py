"""Files that are written whole or not at all: certificates, keys and secrets. New ones never go over another file.

All contents are written to temporary files first, and synced to disk. Then each gets its name by a hard link, which
fails if the name exists, unlike a rename. If one link fails the others are removed again.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dispy.errors import UsageError


class NewFile(NamedTuple):
    """A file to be written: its path, which must not exist, its content, and its permissions (such as 0o600)."""

    path: Path
    data: bytes
    mode: int


def write_new(files: Sequence[NewFile], *, hint: str) -> list[Path]:
    """Write all files, or none. No file is overwritten. Each has its mode from the first moment, whatever the umask.

    Args:
        files: The files. Their directories must exist.
        hint: Advice to the user in the error if one of the files exists.

    Returns:
        The paths, in the order given.

    Raises:
        UsageError: A file exists or cannot be written. Files made until then are removed again.
    """
    for file in files:
        if os.path.lexists(file.path):
            raise UsageError(f"{file.path} exists already", hint=hint)
    temporaries: list[str] = []
    made: list[Path] = []
    try:
        for file in files:
            try:
                temporaries.append(_write_temporary(file))
            except OSError as error:
                raise UsageError(f"{file.path} cannot be written: {error.strerror}") from error
        for temporary, file in zip(temporaries, files, strict=True):
            try:
                os.link(temporary, file.path)  # unlike a rename, it fails if another process was faster
            except FileExistsError:
                raise UsageError(f"{file.path} exists already", hint=hint) from None
            except OSError as error:
                raise UsageError(f"{file.path} cannot be written: {error.strerror}") from error
            made.append(file.path)
    except BaseException:
        for path in made:
            path.unlink()
        raise
    finally:
        for temporary in temporaries:
            os.unlink(temporary)
    return made


def replace(path: Path, data: bytes) -> None:
    """Replace the content of a file, at once: a reader sees the old one or the new one. Owner and mode stay.

    Raises:
        UsageError: The file cannot be written.
    """
    target = path.resolve()  # what a link points to is replaced, not the link
    try:
        status = target.stat()
        temporary = _write_temporary(NewFile(target, data, stat.S_IMODE(status.st_mode)))
        try:
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(temporary, status.st_uid, status.st_gid)
            os.rename(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def _write_temporary(file: NewFile) -> str:
    """Write a file beside its path under a temporary name, with its mode, synced to disk; returns that name's path.

    The caller links it to its name, and removes it.

    Raises:
        OSError: The file cannot be written; nothing is left of it.
    """
    descriptor, temporary = tempfile.mkstemp(dir=file.path.parent, prefix=".dispy-new.")  # 0600
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(file.data)
            stream.flush()
            os.fchmod(descriptor, file.mode)
            os.fsync(descriptor)
    except BaseException:
        os.unlink(temporary)
        raise
    return temporary
