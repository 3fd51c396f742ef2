"""Records of the stager: files that something waits for, files that are fetched, and the suppliers that are asked.

Records are changed on the event loop only, except ``Stage.begun``, which the thread of a stage fills.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NewType, Protocol

from dispy.files import checkout, copy_in_progress
from dispy.files.copy_in_progress import Following
from dispy.files.part import Part
from dispy.files.store import Store
from dispy.files.untrusted_directory import FindMissing
from dispy.protocol import limits, node
from dispy.protocol.files import FileEntry

SupplierId = NewType("SupplierId", bytes)
"""Name of a supplier (bytes): a client of the node that has files. The node converts its own ``ClientId``."""


class Landed(Protocol):
    """Data of a piece that arrived as a stream: a ``node.payloads.payload_files.Incoming``.

    Either ``view`` and then ``let_go`` are called, or ``discard``.
    """

    def view(self) -> bytes | memoryview:
        """Returns all bytes of the piece; valid until ``let_go``.

        Raises:
            OSError: There was no room for the data.
        """

    def let_go(self) -> None:
        """Give the memory of the data back after ``view``."""

    def discard(self) -> None:
        """Drop the data unread, and give its memory back."""


class WorkingDirectory(checkout.Directory, copy_in_progress.Directory, Protocol):
    """A working directory that files are put into: a ``Tree``, or a ``node.processes.file_helpers.LentTree``."""

    def find_missing(
        self,
        find_missing: FindMissing,
        entries: list[FileEntry],
        search_path: Sequence[str],
        is_wanted: Callable[[], bool],
    ) -> list[FileEntry]: ...

    def __enter__(self) -> WorkingDirectory: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Seams(NamedTuple):
    """Functions by which the stager acts on the world around it, and limits.

    Attributes:
        send: Sends a message to a supplier; returns False if that is not connected.
        post: Has a function called with arguments on the event loop; may be called from any thread.
        later: Has a function called with arguments after some seconds (first argument); called on the event loop.
        open_directory: Opens a working directory by its path, for one use; called on a thread.
        threads: Makes a pool of threads: number of threads, and prefix of their names.
        piece_max: Bytes of the largest piece that is asked for; a larger file is asked for in several pieces.
        pieces_max: Bytes of pieces that a supplier is asked for at once; more are asked for as these are written.
        search_path: Returns the directories in which the Python of jobs looks for modules, given their working
            directory; called on a thread.
    """

    send: Callable[[SupplierId, node.FromNode], bool]
    post: Callable[..., object]
    later: Callable[..., object]
    open_directory: Callable[[Path], WorkingDirectory]
    threads: Callable[[int, str], Executor] = ThreadPoolExecutor
    piece_max: int = limits.PIECE_MAX
    pieces_max: int = limits.PIECES_SIZE_MAX
    search_path: Callable[[Path], Sequence[str]] = lambda _: ()


class Stage:
    """A set of files that a computation, a job or a request on the node waits for, and how far they have come.

    Args:
        store: The store of the owner of the files. Only his clients are asked for them, and only his files serve.
        supplier: The client that has the files.
        computation: Number of the computation of that client that the files belong to.
        entries: Descriptions of the files. Files of packages that are installed here are taken out before anything
            else is done.
        work: The directory that the files are put into; None: they are only fetched into the store, for now.
        done: Called on the event loop when the stage ends, with the reason why the files are not there; empty if
            they are.
        around: The working directory that the files are meant for later, if they are only fetched; its modules hide
            installed packages of their names. None: ``work``.
    """

    __slots__ = (
        "after", "around", "begun", "computation", "done", "entries", "files", "files_max", "is_dropped",
        "is_told", "missing", "size", "size_max", "store", "supplier", "task", "tries", "work",
    )  # fmt: skip

    def __init__(
        self,
        store: Store,
        supplier: SupplierId,
        computation: int,
        entries: list[FileEntry],
        work: Path | None,
        done: Callable[[str], None],
        around: Path | None = None,
    ) -> None:
        self.around = around or work
        self.store = store
        self.supplier = supplier
        self.computation = computation
        self.entries = entries
        self.work = work
        self.done = done
        self.missing: dict[bytes, int] = {}
        """Sizes (bytes) of files of this stage that are being fetched, by digest. When the last one is stored, all
        files are put into ``work``; without ``work`` the stage ends."""
        self.begun: dict[bytes, Following | None] = {}
        """Early copies of files that another node receives, by digest. None as a value: no early copy can be made,
        and the file is copied when it is complete."""
        self.is_dropped = False
        """True once the stage has ended or was dropped. Threads that work for the stage see it, and stop."""
        self.task: Future[Any] | None = None
        """Future of the work of a thread for this stage, running or queued: looking for files, or placing them. None:
        there is no such work. A stage that is dropped cancels it."""
        self.after: Callable[[], None] | None = None
        """Function given to ``Stager.drop``, to be called once no thread works for the dropped stage; None: none was
        given."""
        self.tries = 0
        """Number of times that files were found missing in the store. Above ``REFETCHES_MAX`` the stage fails."""
        self.files = self.files_max = self.size = self.size_max = 0
        """Progress since files were last found missing: number of files and of bytes that have come (``files``,
        ``size``), and that were missing (``files_max``, ``size_max``). The client shows it to its user."""
        self.is_told = False
        """True for ``PROGRESS_S`` after the client was told how much has come: it is not told again meanwhile."""

    @property
    def is_placing(self) -> bool:
        """True if a thread looks for files or places them, or has that queued."""
        return self.task is not None


FetchKey = tuple[str, bytes, int]
"""Name of a fetch: that of the store, digest and size (bytes). Stages that say another size wait for another fetch:
one of them is wrong, and its client alone is to fail."""


def fetch_key(store: Store, digest: bytes, size: int) -> FetchKey:
    """Returns the name of the fetch of a file into a store; ``size``: bytes that the file is said to have."""
    return (store.name, digest, size)


class Fetch:
    """A file that is wanted and not in its store yet.

    Args:
        store: The store that the file is to be in.
        digest: SHA-256 of the content.
        size: Bytes of the content, as the stages that wait for it say.
    """

    __slots__ = (
        "asked", "digest", "early", "handed", "is_apart", "is_mixed", "key", "opening", "origin", "part", "seen",
        "size", "stages", "store", "supplier",
    )  # fmt: skip

    def __init__(self, store: Store, digest: bytes, size: int) -> None:
        self.key = fetch_key(store, digest, size)
        self.store = store
        self.digest = digest
        self.size = size
        self.stages: list[Stage] = []
        """Stages that wait for the file, in the order in which they missed it. Without any, the fetch is given up."""
        self.part: Part | None = None
        """The open part: the file in the store that receives the content. None while no part is open, and for a file
        of up to ``SMALL`` bytes, which has none."""
        self.opening: Future[Any] | None = None
        """Future of the work of a thread that opens the part, running or queued; None: there is no such work."""
        self.is_apart = False
        """True if the node receives the file in a part of its own, since another node holds the part that all nodes
        share, and makes no progress."""
        self.seen = (0, 0.0)
        """Bytes that another node had of the file at the last look, and for how many seconds it has had no more than
        these. After ``STUCK_S`` this node no longer waits for the other."""
        self.supplier: SupplierId | None = None
        """Supplier that is asked for the file, one at a time; None: no supplier is asked."""
        self.asked = 0
        """Offset in the file (bytes) of the next piece to ask for."""
        self.handed = 0
        """Offset in the file (bytes) up to which all pieces were given to the writer's thread; pieces after a gap
        wait in ``early``."""
        self.origin: SupplierId | None = None
        """Supplier that sent the last piece given to the writer; None: no piece was given. A piece of another
        supplier makes the file mixed (``is_mixed``)."""
        self.is_mixed = False
        """True if pieces are of several suppliers or from an earlier time. If the content is wrong then, no supplier
        is to blame, and the whole file is fetched again."""
        self.early: dict[int, Arrived] = {}
        """Pieces that have overtaken pieces before them, by offset in the file (bytes). They wait here until the
        gap is closed."""


class Asked(NamedTuple):
    """A piece that a supplier was asked for and has not sent: the fetch of its file, and its size (bytes)."""

    fetch: Fetch
    size: int


class Supplier:
    """Pieces that one supplier was asked for and has not sent, and files that it is to be asked for."""

    __slots__ = ("asked", "order", "size")

    def __init__(self) -> None:
        self.asked: dict[tuple[int, bytes, int], Asked] = {}
        """Pieces that were asked for and have not arrived, by number of the computation in whose name they were asked
        for, digest of their file and offset (bytes). A computation has one owner, so these name one store."""
        self.size = 0
        """Number of bytes that were asked for and were not given to a writer's thread yet. At ``Seams.pieces_max``,
        with the bytes that are being written, nothing more is asked for."""
        self.order: list[tuple[int, int, Fetch]] = []
        """Heap of files to ask for: bytes left, a serial number, the fetch. The fewest bytes left come first. Files
        that the supplier is not to be asked for any more are skipped when they come first."""


class Arrived(NamedTuple):
    """A piece that has arrived, on its way to a writer's thread.

    Attributes:
        fetch: The fetch of its file.
        part: The part of the file when the piece arrived; None for a small file.
        offset: Where the piece begins in the file (bytes).
        data: The bytes, or the stream that holds them.
        size: Bytes that were asked for. Data of another length counts as wrong content.
    """

    fetch: Fetch
    part: Part | None
    offset: int
    data: bytes | Landed
    size: int


def close_begun(stage: Stage) -> None:
    """Close the early copies of a stage that has ended or was dropped: the bytes copied so far are gone.

    Safe to repeat.
    """
    for begun in list(stage.begun.values()):
        if begun is not None:
            begun.close()
    stage.begun.clear()
