"""The state of the staging core: stages, the files that they lack, and the suppliers that are asked for them.

What is always so between two events:

- A stage has work for a thread in ``State.stage_work``, or lacks files (``Stage.missing``), or ends at the next tick.
- A file is in ``State.fetches`` as long as a stage lacks it, and has that stage in ``Fetch.stages``.
- A file is asked of one supplier at a time, which is connected and has a stage that lacks the file. None is asked
  only if none of these suppliers is connected.
- A file whose supplier is still to be asked for bytes is in one place that leads on: in an order of the supplier, in
  ``Supplier.blocked``, with a thread, or with a timer.
- The bytes that a supplier was asked for and that are not written are fewer than ``Limits.pieces_max`` plus a piece.
"""

from __future__ import annotations

import itertools
import math
from enum import Enum
from typing import NamedTuple

from dispy.core.staging.actions import Piece, Task
from dispy.core.staging.ids import DirectoryName, PartId, Seconds, StageId, StoreName, SupplierId
from dispy.protocol import limits
from dispy.protocol.files import FileEntry


class Limits(NamedTuple):
    """Limits of the staging core.

    Attributes:
        file_max: Bytes of the largest file that is taken; a stage with a larger one fails. 0: no limit.
        small_max: Bytes of the largest file that has no part: its only piece is stored at once.
        piece_max: Bytes of the largest piece that is asked for. Not below ``small_max``.
        pieces_max: Bytes that a supplier is asked for at once; more as these are written.
        parts_max: Number of parts that are open, or being opened, for files of one supplier.
    """

    file_max: int = 0
    small_max: int = limits.SMALL_FILE_MAX
    piece_max: int = limits.PIECE_MAX
    pieces_max: int = limits.PIECES_SIZE_MAX
    # Files of 64 KiB fill what may be asked for at once. Each part is a descriptor: of 1,024, as is usual, a program
    # with many files must leave some to others.
    parts_max: int = 256


class Stage:
    """A set of files that something waits for, and how far they have come. The table is in ``stages``.

    Attributes:
        id: Number of the stage.
        store: Store of the owner of the files. Only his suppliers are asked for them, and only his files serve.
        supplier: Who has the files.
        computation: Number in whose name the supplier is asked.
        entries: Descriptions of the files. Those that are installed here are taken out first.
        directory: Directory that the files are put into; None: they are only fetched into the store.
    """

    __slots__ = (
        "computation", "directory", "entries", "files", "files_max", "id", "missing", "rank", "size",
        "size_max", "store", "supplier", "tell_at", "tries",
    )  # fmt: skip

    def __init__(
        self,
        number: StageId,
        store: StoreName,
        supplier: SupplierId,
        computation: int,
        entries: list[FileEntry],
        directory: DirectoryName | None,
    ) -> None:
        self.id = number
        self.store = store
        self.supplier = supplier
        self.computation = computation
        self.entries = entries
        self.directory = directory
        self.missing: dict[bytes, int] = {}
        """Sizes (bytes) of files that are being fetched for this stage, by digest."""
        self.rank = 0
        """Place of the files in the order in which the supplier is asked: the smallest comes first. Bytes that the
        supplier had been asked for when the files were found missing, and the bytes of these files."""
        self.tries = 0
        """Number of times that files were found missing in the store. Above ``REFETCHES_MAX`` the stage fails."""
        self.files = self.files_max = self.size = self.size_max = 0
        """Progress since files were last found missing: number of files and of bytes that have come (``files``,
        ``size``), and that were missing (``files_max``, ``size_max``). The supplier shows it to its user."""
        self.tell_at: Seconds = 0.0
        """Time (monotonic) from which the supplier may be told again how much has come."""


FetchKey = tuple[StoreName, bytes, int]
"""Name of a file that is fetched: store, digest and size (bytes). Stages that say another size wait for another one:
one of them is wrong, and its supplier alone is to fail."""


class Phase(Enum):
    """How far the part of a file is. The table of its changes is in ``parts``."""

    CLOSED = "closed"
    """No part is open: it is opened when the file is the next to be asked for."""
    OPENING = "opening"
    """A thread opens the part, or will as soon as it is free."""
    HELD = "held"
    """Another process holds the part and receives the file; a timer has us look again."""
    RECEIVING = "receiving"
    """The part is open for pieces. A small file, which has no part, is always in this phase."""
    CHECKING = "checking"
    """The part was whole when it was opened: a thread gives it its name in the store, or will as soon as it is
    free."""


class Fetch:
    """A file that a stage lacks.

    Attributes:
        part: Number of the present attempt to receive the file.
        key: Name of the fetch.
        store: Store that the file is to be in.
        digest: SHA-256 of the content.
        size: Bytes of the content, as the stages say that lack it.
    """

    __slots__ = (
        "asked", "blocked_by", "computation", "digest", "early", "handed", "held_since", "held_size", "is_apart",
        "is_mixed", "key", "offsets", "origin", "part", "phase", "rank", "size", "stages", "store", "supplier",
        "ticket", "written",
    )  # fmt: skip

    def __init__(self, part: PartId, key: FetchKey, phase: Phase) -> None:
        self.part = part
        self.key = key
        self.store, self.digest, self.size = key
        self.stages: dict[StageId, Stage] = {}
        """Stages that lack the file, in the order in which they missed it. Without any, the fetch is given up."""
        self.phase = phase
        """How far the part is."""
        self.is_apart = False
        """True if we receive the file in a part of our own, since another process holds the part that all share, and
        makes no progress."""
        self.held_size = -1
        """Bytes that another process had of the file at the last look; -1: there was no look yet."""
        self.held_since: Seconds = 0.0
        """Time (monotonic) since when another process has had no more than ``held_size`` bytes. ``STUCK_S`` later we
        no longer wait for it."""
        self.supplier: SupplierId | None = None
        """Supplier that is asked for the file, one at a time; None: none of its suppliers is connected."""
        self.ticket = 0
        """Number of the entry of this file in an order of the supplier; other entries are out of date. 0: there is
        none."""
        self.rank = 0
        """Rank of that entry: the smallest of the supplier's stages that lack the file."""
        self.computation = 0
        """Number in whose name the pieces of ``offsets`` were asked for."""
        self.blocked_by: int | None = None
        """Number of a computation in whose name the supplier is asked for another fetch of the same digest: until
        these pieces have come, pieces of this file could not be told from them. None: nothing is in the way."""
        self.offsets: dict[int, int] = {}
        """Sizes (bytes) of pieces that were asked for and have not come, by offset."""
        self.asked = 0
        """Offset (bytes) of the next piece to ask for."""
        self.handed = 0
        """Offset (bytes) up to which all pieces were given to be written; pieces after a gap wait in ``early``."""
        self.written = 0
        """Bytes that are written, as far as stages were credited with them."""
        self.origin: SupplierId | None = None
        """Supplier that sent the last piece given to be written; None: no piece was given. A piece of another
        supplier makes the file mixed (``is_mixed``)."""
        self.is_mixed = False
        """True if pieces are of several suppliers or from an earlier time. If the content is wrong then, no supplier
        is to blame, and the whole file is fetched again."""
        self.early: dict[int, Piece] = {}
        """Pieces that have overtaken pieces before them, by offset (bytes), until the gap is closed."""

    @property
    def is_asked(self) -> bool:
        """True if all pieces were asked for. An empty file has one piece, which is with a thread if there is an
        origin."""
        return self.asked >= self.size and (self.size > 0 or bool(self.offsets) or self.origin is not None)


class Supplier:
    """A connected supplier: what it was asked for and has not sent, and what it is to be asked for."""

    __slots__ = ("asked", "blocked", "closed", "parts", "ready", "size", "total")

    def __init__(self) -> None:
        self.asked: dict[tuple[int, bytes], Fetch] = {}
        """Files of which pieces were asked for and have not come, by the number of the computation in whose name, and
        by digest."""
        self.blocked: dict[tuple[int, bytes], list[Fetch]] = {}
        """Files that are not asked for as long as a name in ``asked`` is taken by another one (two sizes of one
        digest), by that name."""
        self.size = 0
        """Bytes that were asked for and are not given to be written yet."""
        self.total = 0
        """Bytes that were asked for since the connection stands: the clock by which stages age."""
        self.ready: list[tuple[int, int, int, Fetch]] = []
        """Heap of files in phase RECEIVING to ask for: rank, size (bytes), ticket, the fetch. Entries with another
        ticket than their fetch are out of date."""
        self.closed: list[tuple[int, int, int, Fetch]] = []
        """Heap of files in phase CLOSED to ask for, whose parts have to be opened first; like ``ready``."""
        self.parts = 0
        """Number of parts that are open, or being opened, for files that this supplier is asked for."""


class Pool(Enum):
    """Kind of threads that work for stages. The number of each is in ``thread_turns``."""

    LOOKERS = "lookers"
    PLACERS = "placers"


class Work:
    """Work for a thread: queued, or begun and not answered.

    Attributes:
        pool: Threads that it is for.
        supplier: Supplier in whose turn it is done; None: it is for nobody in particular.
        task: Action that has a thread do it.
        directory: Directory that the thread may put files into; None: into none.
    """

    __slots__ = ("directory", "has_begun", "pool", "supplier", "task")

    def __init__(
        self, pool: Pool, supplier: SupplierId | None, task: Task, directory: DirectoryName | None = None
    ) -> None:
        self.pool = pool
        self.supplier = supplier
        self.task = task
        self.directory = directory
        self.has_begun = False
        """True once a thread has it. Until then it can be taken back."""


class Due(Enum):
    """Purpose of a timer, which has the number of a stage or of a part."""

    FAIL = "fail"
    """A stage ends that could not be had from the start; its reason is in ``State.faults``."""
    PROGRESS = "progress"
    """The supplier of a stage is told again how much has come."""
    LOOK = "look"
    """A part that another process holds is looked at again."""
    ASK = "ask"
    """The suppliers in ``State.ask_later`` are asked for more."""


class State:
    """Stages, fetches, suppliers and threads of one staging core.

    Args:
        bounds: Limits, which do not change.
    """

    __slots__ = (
        "ask_later", "ask_now", "bounds", "faults", "fetches", "free", "has_grown", "held", "leaving", "part_numbers",
        "part_work", "parts", "queues", "serials", "stage_work", "stages", "suppliers", "timers", "trim_work",
        "wake_at", "write_numbers", "writes", "writing",
    )  # fmt: skip

    def __init__(self, bounds: Limits, free: dict[Pool, int]) -> None:
        self.bounds = bounds
        self.part_numbers = itertools.count(1)
        """Numbers of attempts to receive files."""
        self.write_numbers = itertools.count(1)
        """Numbers of writes."""
        self.serials = itertools.count(1)
        """Numbers of tickets and timers, in the order in which they are made."""
        self.stages: dict[StageId, Stage] = {}
        """Stages that have neither ended nor been dropped, in the order in which they were wanted."""
        self.fetches: dict[FetchKey, Fetch] = {}
        """Files that stages lack, by name."""
        self.parts: dict[PartId, Fetch] = {}
        """Files of ``fetches``, by the number of the present attempt."""
        self.held = 0
        """Number of timers that wait for parts which other processes hold."""
        self.suppliers: dict[SupplierId, Supplier] = {}
        """Suppliers that are connected."""
        self.writes: dict[int, tuple[SupplierId, int]] = {}
        """Writes that are not answered, by their number: who has sent the pieces, and how many bytes they have."""
        self.writing: dict[SupplierId, int] = {}
        """Bytes of ``writes`` together, by the supplier that has sent them, connected or not: a slow
        disk and a bad line together must not fill the memory."""
        self.free = free
        """Number of threads of each pool that have no work."""
        self.queues: dict[Pool, dict[SupplierId | None, dict[Work, None]]] = {pool: {} for pool in free}
        """Work that no thread has, by pool and supplier; in each the oldest first. The first supplier is the next."""
        self.stage_work: dict[StageId, Work] = {}
        """Work for stages, also for dropped ones that a thread is at."""
        self.part_work: dict[PartId, Work] = {}
        """Work for parts, also for those that are not wanted any more and that a thread is at."""
        self.trim_work: Work | None = None
        """Trimming of the stores that is queued or done; None: there is none."""
        self.has_grown = True
        """True if files were stored since the stores were last trimmed, or may have been before."""
        self.leaving: dict[DirectoryName, None] = {}
        """Directories that are to be removed once no thread puts files there."""
        self.faults: dict[StageId, str] = {}
        """Why stages end at the next tick."""
        self.ask_now: dict[SupplierId, None] = {}
        """Suppliers that may be asked for more at the end of this event."""
        self.ask_later: dict[SupplierId, None] = {}
        """Suppliers that may be asked for more at the next tick."""
        self.timers: list[tuple[Seconds, int, Due, int]] = []
        """Heap of what is to be done later: time, a serial number, what, and the number of its stage or part."""
        self.wake_at: Seconds = math.inf
        """Time of the ``Wake`` that is to be answered; infinite: there is none."""
