"""Actions of the staging core, which its shell carries out in this order.

In all of them ``stage`` is the number of a stage, ``supplier`` the name of a supplier, and ``part`` the number of an
attempt to receive a file. Work for threads is given out as threads are free (``thread_turns``), so the shell begins
with it at once; ``Write`` and ``Close`` are for writers, each of which is one thread that does what it is given in
the order of the actions.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from dispy.core.staging.ids import DirectoryName, PartId, Seconds, StageId, StoreName, SupplierId
from dispy.protocol.node import FilesProgress, NeedFiles


class Tell(Struct):
    """Send a message to a supplier, which is connected."""

    supplier: SupplierId
    message: NeedFiles | FilesProgress


class Ended(Struct):
    """A stage has ended: its files are where they are wanted, or the reason says why not."""

    stage: StageId
    reason: str


class Dropped(Struct):
    """No thread works for a stage that was dropped, and none will."""

    stage: StageId


class Left(Struct):
    """No thread puts files into a directory that is to be removed."""

    directory: DirectoryName


class Search(Struct):
    """Find the files of a stage that are not installed here with their package; answered by ``Searched``."""

    stage: StageId


class Look(Struct):
    """Look which files of a stage are in the store; answered by ``Placed``."""

    stage: StageId


class Place(Struct):
    """Put the files of a stage that are in the store into its directory; answered by ``Placed``."""

    stage: StageId


class Open(Struct):
    """Open the part of a file, to be received from where the part ends.

    Answered by ``PartOpened``, ``PartBusy``, ``PartNeedless`` or ``PartFailed``.

    Attributes:
        part: Number of the attempt.
        store: Store that the file is to be in.
        digest: SHA-256 of the file.
        size: Bytes of the file.
        is_apart: Receive it in a part of our own: another process holds the common one, and makes no progress.
        stage: Stage whose directory may get bytes early that another process has received; None: there is none.
    """

    part: PartId
    store: StoreName
    digest: bytes
    size: int
    is_apart: bool
    stage: StageId | None


class Finish(Struct):
    """Check a part that was whole when it was opened, and make it a file of the store.

    The part is closed in any case. Answered by ``PartFinished`` or ``PartFailed``.
    """

    part: PartId


class Piece(NamedTuple):
    """A piece of a file to be written.

    Attributes:
        part: Number of the attempt that it belongs to. A small file has no part: its only piece is stored at once.
        store: Store that the file is to be in.
        digest: SHA-256 of the file.
        file_size: Bytes of the file.
        offset: Where the piece begins in the file (bytes).
        size: Bytes that were asked for. Data of another length counts as wrong content.
        data: What ``Sent.data`` was. The shell lets go of it after this.
    """

    part: PartId
    store: StoreName
    digest: bytes
    file_size: int
    offset: int
    size: int
    data: object


class Write(Struct):
    """Write pieces that a supplier has sent, in this order; answered by ``Written``.

    Attributes:
        write: Number of this action.
        writer: Number of the thread that does it, from 0. All that concerns one file is for one thread.
        pieces: The pieces.
    """

    write: int
    writer: int
    pieces: list[Piece]


class Close(Struct):
    """Close a part that is open, on its ``writer``, after all that is to be written; what it has stays for the next
    attempt."""

    part: PartId
    writer: int


class Discard(Struct):
    """Let go of the data of pieces that are not wanted (``Sent.data``)."""

    data: list[object]


class Trim(Struct):
    """Remove files that were used longest ago, as far as the stores are too large; answered by ``Trimmed``."""


class Wake(Struct):
    """Handle ``Tick`` at this time or a little later, perhaps at once, but never within this event."""

    at: Seconds


Task = Search | Look | Place | Open | Finish | Trim
"""Action that takes a thread until it is answered."""

Action = Tell | Ended | Dropped | Left | Task | Write | Close | Discard | Wake

Outbox = list[Action]
"""Actions that handlers append to, in the order in which they are to be carried out."""
