"""Events of the staging core: requests of the shell, news of suppliers, answers of threads, and the clock.

In all of them ``stage`` is the number of a stage, ``supplier`` the name of a supplier, and ``part`` the number of an
attempt to receive a file. Events about stages, suppliers or parts that are not known any more are ignored, but for
what follows from a thread being free again.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from msgspec import Struct

from dispy.core.staging.ids import DirectoryName, PartId, StageId, StoreName, SupplierId
from dispy.protocol.files import FileEntry


class Want(Struct):
    """Files are wanted: all of them in a directory, or for now in the store only.

    Answered once: by ``Ended``, never within this event, or by ``Dropped`` if ``Drop`` comes before.

    Attributes:
        stage: Number of the new stage.
        store: Store of the owner of the files. Files of other owners do not serve.
        supplier: Who has the files.
        computation: Number in whose name the supplier is asked.
        entries: Descriptions of the files. Files of installed packages are looked for first (``Search``).
        directory: Directory that the files are put into; None: they are only fetched into the store.
    """

    stage: StageId
    store: StoreName
    supplier: SupplierId
    computation: int
    entries: list[FileEntry]
    directory: DirectoryName | None = None


class Drop(Struct):
    """A stage is not wanted any more; answered by ``Dropped`` once no thread works for it. One that has ended is
    ignored."""

    stage: StageId


class Leave(Struct):
    """A directory is to be removed; answered by ``Left`` once no thread puts files there, one answer for all who ask
    meanwhile."""

    directory: DirectoryName


class Connected(Struct):
    """A supplier can be asked, from now on or again. What it was asked before is lost, and asked anew."""

    supplier: SupplierId


class Lost(Struct):
    """The connection to a supplier is lost. Others who have its files are asked; the rest waits for ``Connected``."""

    supplier: SupplierId


class Sent(NamedTuple):
    """A piece of a file that a supplier has sent.

    Attributes:
        digest: SHA-256 of the file.
        offset: Where the piece begins in the file (bytes).
        data: The bytes, or what holds them. The core passes it on unread, in ``Write`` or ``Discard``.
    """

    digest: bytes
    offset: int
    data: object


class Arrived(Struct):
    """A supplier has sent pieces, in the name of a computation; those that it was not asked for are discarded."""

    supplier: SupplierId
    computation: int
    pieces: list[Sent]


class Unreadable(Struct):
    """A supplier cannot send a file that it was asked for, and says why: its stages that need the file fail.

    ``is_passing`` True: it cannot in the name of this computation now. No stage fails.
    """

    supplier: SupplierId
    computation: int
    digest: bytes
    reason: str
    is_passing: bool = False


class Searched(Struct):
    """Answer to ``Search``: the files of the stage that are not installed here."""

    stage: StageId
    missing: list[FileEntry]


class Placed(Struct):
    """Answer to ``Look`` and ``Place``.

    Attributes:
        stage: Number of the stage.
        missing: Sizes (bytes) of files that are not in the store, by digest. With none all files are where they are
            wanted.
        fault: Why the files cannot be put there; empty: they can.
    """

    stage: StageId
    missing: dict[bytes, int]
    fault: str = ""


class StageFailed(Struct):
    """Nothing comes any more of what a stage waits for, by a fault of this program: it ends with the reason."""

    stage: StageId
    reason: str


class PartOpened(Struct):
    """Answer to ``Open``: the part is open and has the first ``offset`` bytes of the file from an earlier time."""

    part: PartId
    offset: int


class PartBusy(Struct):
    """Answer to ``Open``: another process receives the file, and has ``size`` bytes so far."""

    part: PartId
    size: int


class PartNeedless(Struct):
    """Answer to ``Open``: the file is in the store by now. No part is open."""

    part: PartId


class PartFinished(Struct):
    """Answer to ``Finish``: with the right content the file is in the store, otherwise nothing is left of it."""

    part: PartId
    is_right: bool


class PartFailed(Struct):
    """A part cannot be opened or finished, or nothing comes any more of what was to be done with it. All stages that
    wait for the file end with the reason."""

    part: PartId
    reason: str


class Outcome(Enum):
    """Result of writing a piece."""

    MORE = "more"
    """The piece is written, and more are to come."""
    WHOLE = "whole"
    """The file is whole, right, and in the store; its part is closed."""
    WRONG = "wrong"
    """The content is not that of the digest, or the piece has not the size that was asked for."""
    FAILED = "failed"
    """The piece cannot be stored."""


class Wrote(NamedTuple):
    """Result of writing one piece: number of its part, bytes that were asked for, and the reason of a failure."""

    part: PartId
    size: int
    outcome: Outcome
    reason: str = ""


class Written(Struct):
    """Answer to the ``Write`` with this number: the results of its pieces, in their order."""

    write: int
    results: list[Wrote]


class Trimmed(Struct):
    """Answer to ``Trim``."""


class Tick(Struct):
    """The time of a ``Wake`` has come."""


Event = (
    Want
    | Drop
    | Leave
    | Connected
    | Lost
    | Arrived
    | Unreadable
    | Searched
    | Placed
    | StageFailed
    | PartOpened
    | PartBusy
    | PartNeedless
    | PartFinished
    | PartFailed
    | Written
    | Trimmed
    | Tick
)
