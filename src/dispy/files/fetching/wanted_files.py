"""Records that the stager is given: files that something waits for, and functions by which it acts on the world.

Records are changed on the event loop only, except ``Stage.begun``, which the thread of a stage fills.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

from dispy.core.staging import StageId, SupplierId
from dispy.files import checkout, copy_in_progress
from dispy.files.copy_in_progress import Following
from dispy.files.store import Store
from dispy.files.untrusted_directory import FindMissing
from dispy.protocol import limits, node
from dispy.protocol.files import FileEntry


class Landed(Protocol):
    """Data of a piece that arrived as a stream: a ``node.payloads.payload_files.Incoming``.

    Either ``view`` and then ``let_go`` are called, or ``discard``.
    """

    def view(self) -> bytes | memoryview:
        """Returns all bytes of the piece; valid until ``let_go``.

        Raises:
            OSError: There was no room for the data.
        """
        ...

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
        small_max, piece_max, pieces_max: As of ``core.staging.Limits``.
        search_path: Returns the directories in which the Python of jobs looks for modules, given their working
            directory; called on a thread.
        clock: Returns the time (seconds, monotonic).
    """

    send: Callable[[SupplierId, node.FromNode], bool]
    post: Callable[..., object]
    later: Callable[..., object]
    open_directory: Callable[[Path], WorkingDirectory]
    threads: Callable[[int, str], Executor] = ThreadPoolExecutor
    small_max: int = limits.SMALL_FILE_MAX
    piece_max: int = limits.PIECE_MAX
    pieces_max: int = limits.PIECES_SIZE_MAX
    search_path: Callable[[Path], Sequence[str]] = lambda _: ()
    clock: Callable[[], float] = time.monotonic


class Stage:
    """A set of files that a computation, a job or a request on the node waits for.

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
        "after", "around", "begun", "computation", "done", "entries", "is_dropped", "number", "store", "supplier",
        "work",
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
        self.number = StageId(0)
        """Number of the stage in the core; 0 until ``Stager.stage``."""
        self.begun: dict[bytes, Following | None] = {}
        """Early copies of files that another node receives, by digest. None as a value: no early copy can be made,
        and the file is copied when it is complete."""
        self.is_dropped = False
        """True once the stage has ended or was dropped. Threads that work for the stage see it, and stop."""
        self.after: list[Callable[[], None]] = []
        """Functions given to ``Stager.drop``, to be called once no thread works for the dropped stage."""


def close_begun(stage: Stage) -> None:
    """Close the early copies of a stage that has ended or was dropped: the bytes copied so far are gone.

    Safe to repeat.
    """
    for begun in list(stage.begun.values()):
        if begun is not None:
            begun.close()
    stage.begun.clear()
