"""Messages about files: a node pulls pieces of files that it lacks; a client has files put into working directories.

The node asks (``NeedFiles``), as only the node knows which files it has already. It asks again after a reconnect, so
the client keeps no state.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from dispy.protocol import limits
from dispy.protocol.files import Digest, Size
from dispy.protocol.node.fields import Count, Files, Inline, Number, Reason


class FilePiece(Struct, array_like=True, gc=False):
    """A piece of the file with this digest: its bytes from position ``offset`` on, an element of ``FileData``.

    ``data`` is empty if they are ``INLINE_MAX`` bytes or more: they travel as stream ``stream`` of the connection (0:
    they are in ``data``).
    """

    digest: Digest
    offset: Size
    data: Inline
    stream: Number = 0


class FileData(Struct, array_like=True, tag=70):
    """Pieces of files, for which the node has asked by ``NeedFiles``. A message may bring only some of them; the
    others follow in later ones."""

    computation: Number
    pieces: Annotated[list[FilePiece], Meta(max_length=limits.PIECES_MAX)]


class FileUnreadable(Struct, array_like=True, tag=71):
    """The file with this digest, which the node has asked for, cannot be sent; ``reason`` says why. Jobs that need
    the file fail, or the whole computation does if it needs the file.

    ``is_passing`` True: not now, as the program of this computation is away. The node asks for the file in the name
    of another computation of this client that needs it; without one it waits.
    """

    computation: Number
    digest: Digest
    reason: Reason
    is_passing: bool = False


class PlaceFiles(Struct, array_like=True, tag=72):
    """Put files into the working directory of a computation now; ``FilesPlaced`` answers with the same ``request``, a
    number that the client chooses.

    The node asks for those files that it lacks (``NeedFiles``). Idempotent: it is sent again after a reconnect if
    there was no answer, and files that are there already stay as they are.
    """

    computation: Number
    request: Number
    files: Files


class Piece(Struct, array_like=True, gc=False):
    """A piece of a file that the node lacks: ``size`` bytes of the file with this digest, from position ``offset``
    on."""

    digest: Digest
    offset: Size
    size: Annotated[int, Meta(ge=0, le=limits.PIECE_MAX)]


class NeedFiles(Struct, array_like=True, tag=80):
    """Pieces of files that the node lacks for a computation or its jobs; ``FileData`` or ``FileUnreadable`` answers.

    The node asks for at most ``limits.PIECES_SIZE_MAX`` bytes at once, for more as they arrive, and anew after a
    reconnect; the client remembers nothing.
    """

    computation: Number
    pieces: Annotated[list[Piece], Meta(max_length=limits.PIECES_MAX)]


class FilesProgress(Struct, array_like=True, tag=81):
    """How many files and bytes have arrived, of those that a computation or its jobs wait for: for the user.

    ``files`` of ``files_max`` files, and ``size`` of ``size_max`` bytes. All 0: no more files are on their way.
    """

    computation: Number
    files: Count
    files_max: Count
    size: Size
    size_max: Size


class FilesPlaced(Struct, array_like=True, tag=82):
    """The files of the ``PlaceFiles`` with this ``request`` are in place; with a ``reason`` they are not, and never
    will be."""

    computation: Number
    request: Number
    reason: Reason = ""
