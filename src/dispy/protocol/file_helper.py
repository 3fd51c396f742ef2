"""Conversation of a node with a file helper: a process that has become an account, and works in its directories.

Each request has one answer, in order, on one of several sockets. Descriptors travel beside a message
(``SCM_RIGHTS``): those that the request names, first of all the directory it is about; the answer to a request that
opens something has one.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from dispy.protocol.files import FileEntry

DESCRIPTORS_MAX = 128
"""Largest number of descriptors beside one message. The kernel takes up to 253."""


class HoldsAll(Struct, tag=True, array_like=True):
    """Asks which files a directory has already. Answer: a list of bool. Descriptor: the directory."""

    entries: list[FileEntry]


class Put(Struct, tag=True, array_like=True):
    """Asks to copy open files into a directory. Descriptors: the directory, and a source for each file.

    Answer: a list with the reason for each file why it is not there; empty if it is.
    """

    entries: list[FileEntry]


class Nameless(Struct, tag=True, array_like=True):
    """Asks for an empty file without a name. Descriptor: the directory. The answer has the descriptor of the file."""


class Copy(Struct, tag=True, array_like=True):
    """Asks to copy bytes between two open files, at equal offsets. Descriptors: source, target."""

    start: int
    end: int


class Finish(Struct, tag=True, array_like=True):
    """Asks to give a nameless file its name. Descriptors: the directory, the file."""

    entry: FileEntry


class Reserve(Struct, tag=True, array_like=True):
    """Asks to make way for files: path and number of each. Answer: for each the directories that are missing.
    Descriptor: the directory."""

    files: list[tuple[str, int]]


class Release(Struct, tag=True, array_like=True):
    """Asks to remove files, and to give back what they have displaced: path, number and made directories of each.
    Descriptor: the directory."""

    files: list[tuple[str, int, list[str]]]
    was_put: bool


class Descend(Struct, tag=True, array_like=True):
    """Asks to make and open a directory below another one. Descriptor: the other one. The answer has the descriptor
    of the directory."""

    names: tuple[str, ...]
    make: bool


class RemoveDirectory(Struct, tag=True, array_like=True):
    """Asks to remove a directory, and the empty ones above it. Descriptor: the directory that ``path`` is below."""

    path: str


class Empty(Struct, tag=True, array_like=True):
    """Asks to remove what is in a directory, for up to ``limit_s`` seconds. Answer: True if nothing is left to do.
    Descriptor: the directory."""

    limit_s: float


class FindMissing(Struct, tag=True, array_like=True):
    """Asks which files to send, as their packages are not installed here. Answer: their places in ``entries``.

    Attributes:
        entries: All files that are to be in a working directory.
        search_path: Directories in which the Python of jobs looks for modules.

    Descriptor: the working directory.
    """

    entries: list[FileEntry]
    search_path: list[str]


TreeRequest = HoldsAll | Put | Nameless | Finish | Reserve | Release | Descend | RemoveDirectory
"""Requests about what is in a directory, by names below it."""

Request = TreeRequest | Copy | Empty | FindMissing
"""All requests. Any other message is refused while it is decoded."""

ANSWERS: dict[type, Any] = {
    HoldsAll: list[bool],
    Put: list[str],
    Reserve: list[list[str]],
    Empty: bool,
    FindMissing: list[int],
}
"""Type of the value of the answer, by the type of the request; None for all others."""


class Answer(Struct, array_like=True):
    """Answer of the helper: an error, or a value.

    Attributes:
        errno: Number of the ``OSError`` with which the request failed; 0: it did not. -1: a fault of the helper.
        text: Words of the error.
        value: The answer (``ANSWERS``), encoded.
    """

    errno: int
    text: str
    value: msgspec.Raw


request_decoder = msgspec.msgpack.Decoder(Request)
answer_decoder = msgspec.msgpack.Decoder(Answer)
encode = msgspec.msgpack.Encoder().encode
