"""The owner key: random bytes by which a user's programs say to nodes that files are his.

Nodes keep files that were sent to them, and use them again for the same owner only. The key lies in the state
directory of the user, so that all programs of his find what nodes have of his files. Whoever knows the key is the
owner; nobody who knows the secret alone is.
"""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path

from dispy.errors import StateDirectoryError
from dispy.system.directories import state_directory, write_private_once

SIZE = 32
"""Bytes of a key: nobody can guess it."""

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags to read the file: a link in its place is an error, and a pipe does not block."""

logger = logging.getLogger("dispy.client")


def owner_key() -> bytes:
    """Returns this user's owner key (32 bytes), which is made on first use.

    Without a usable state directory the key is new in each program: then nodes get files again that earlier programs
    have sent. The log says so once.
    """
    try:
        path = state_directory() / "owner"
        try:
            return _read(path)
        except FileNotFoundError:
            write_private_once(path, os.urandom(SIZE))
            return _read(path)
    except (StateDirectoryError, OSError) as error:
        if _key_of_this_program.cache_info().currsize == 0:
            logger.warning(
                "nodes do not use files again that earlier programs of this user have sent: the owner key that "
                "stands for this user cannot be read or kept: %s",
                error,
            )
        return _key_of_this_program()


@functools.cache
def _key_of_this_program() -> bytes:
    """Returns a key for a program that can keep none; the same one until the program ends."""
    return os.urandom(SIZE)


def _read(path: Path) -> bytes:
    """Returns the key in a file.

    Raises:
        FileNotFoundError: There is no such file; the caller makes one.
        OSError: The file cannot be read, or is a link.
        StateDirectoryError: The file holds no key, or is not of this user alone.
    """
    descriptor = os.open(path, _READ)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise StateDirectoryError(
                f"{path} is not a file of this user alone", hint="remove it; a new one is made"
            )
        key = os.read(descriptor, SIZE + 1)
    finally:
        os.close(descriptor)
    if len(key) != SIZE:
        raise StateDirectoryError(f"{path} holds no owner key", hint="remove it; a new one is made")
    return key
