"""Messages about files: pieces that a node asks for, and files to be put into working directories."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from dispy.protocol import limits
from dispy.protocol.files import Digest, Size
from dispy.protocol.node.fields import Count, Files, Inline, Number, Reason


class FilePiece(Struct, array_like=True, gc=False):
    """A piece of a file, as it was asked for. ``data`` is empty where ``stream`` has it."""

    digest: Digest
    offset: Size
    data: Inline
    stream: Number = 0


class FileData(Struct, array_like=True, tag=70):
    """Answer to ``NeedFiles``, or to some of it."""

    computation: Number
    pieces: Annotated[list[FilePiece], Meta(max_length=limits.PIECES_MAX)]


class FileUnreadable(Struct, array_like=True, tag=71):
    """A file that was asked for cannot be sent, and why: what needs it fails."""

    computation: Number
    digest: Digest
    reason: Reason


class PlaceFiles(Struct, array_like=True, tag=72):
    """Put files into the working directory of a computation now; answered by ``FilesPlaced``.

    Sent again after a reconnect if there was no answer: files that are there already are left alone.
    """

    computation: Number
    request: Number
    files: Files


class Piece(Struct, array_like=True, gc=False):
    """Bytes of a file that are wanted."""

    digest: Digest
    offset: Size
    size: Annotated[int, Meta(ge=0, le=limits.PIECE_MAX)]


class NeedFiles(Struct, array_like=True, tag=80):
    """Pieces of files of a computation or its jobs that the node does not have.

    It asks for no more than it can put away, and again for what has not come when its connection broke; so the
    client remembers nothing.
    """

    computation: Number
    pieces: Annotated[list[Piece], Meta(max_length=limits.PIECES_MAX)]


class FilesProgress(Struct, array_like=True, tag=81):
    """How much of what a computation, or a job of it, waits for has come: files and bytes, of so many.

    0 of 0: nothing is on its way any more.
    """

    computation: Number
    files: Count
    files_max: Count
    size: Size
    size_max: Size


class FilesPlaced(Struct, array_like=True, tag=82):
    """What ``PlaceFiles`` has asked for is done; with a reason it is not, and will not be."""

    computation: Number
    request: Number
    reason: Reason = ""
