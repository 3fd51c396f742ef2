"""What the stager knows: files that something waits for, those that come, and whom they are asked of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from dispy.core.execution.ids import ClientId
from dispy.files.copy_in_progress import Following
from dispy.files.store import Part
from dispy.protocol import limits, node
from dispy.protocol.files import FileEntry


class Landed(Protocol):
    """A payload that arrived as a stream (``segments.Incoming``)."""

    def view(self) -> bytes | memoryview:
        """All of it, until ``let_go``.

        Raises:
            OSError: There was no room for it.
        """

    def let_go(self) -> None:
        """It was looked at."""

    def discard(self) -> None:
        """It is not wanted."""


class Seams(NamedTuple):
    """What the stager does to the world around it.

    Attributes:
        send: Tell a client something; False if it is not connected.
        post: Have a function called on the loop; from any thread.
        later: Likewise after some seconds; on the loop.
        owner: User and group that files are given to; None: they are ours.
        threads: Makes so many of a name.
        piece_max: Bytes of a piece.
        pieces_max: Bytes of pieces that a client is asked for at once.
        search_path: Where the Python of jobs looks for modules; asked on a thread.
    """

    send: Callable[[ClientId, node.FromNode], bool]
    post: Callable[..., object]
    later: Callable[..., object]
    owner: tuple[int, int] | None
    threads: Callable[[int, str], Executor] = ThreadPoolExecutor
    piece_max: int = limits.PIECE_MAX
    pieces_max: int = limits.PIECES_SIZE_MAX
    search_path: Callable[[], Sequence[str]] = tuple


class Stage:
    """Files that something waits for.

    Args:
        client: Who has them.
        computation: Which of its computations they are of.
        entries: The files. Those of packages that are installed here are taken out before anything else is done.
        work: Where they are put; None: they are only fetched, for now.
        done: Called on the loop with the reason why not, empty if they are there.
        around: The working directory that they are meant for, if they are only fetched.
    """

    __slots__ = (
        "after", "around", "begun", "client", "computation", "done", "entries", "files", "files_max", "is_dropped",
        "is_told", "missing", "size", "size_max", "task", "tries", "work",
    )  # fmt: skip

    def __init__(
        self,
        client: ClientId,
        computation: int,
        entries: list[FileEntry],
        work: Path | None,
        done: Callable[[str], None],
        around: Path | None = None,
    ) -> None:
        self.around = around or work
        self.client = client
        self.computation = computation
        self.entries = entries
        self.work = work
        self.done = done
        self.missing: dict[bytes, int] = {}
        """Sizes of what is not here, by digest."""
        self.begun: dict[bytes, Following | None] = {}
        """Copies of what another node receives, by digest; None: it is copied when it is there."""
        self.is_dropped = False
        self.task: Future[Any] | None = None
        """The work of a thread for this stage, running or queued: looking for files, or placing them."""
        self.after: Callable[[], None] | None = None
        """Called when the thread has noticed that nobody wants the stage any more."""
        self.tries = 0
        self.files = self.files_max = self.size = self.size_max = 0
        """How much has come, of how much."""
        self.is_told = False
        """Whether its client was told how much that is, and a moment has not passed since."""

    @property
    def is_placing(self) -> bool:
        """Whether a thread looks for files or puts them there, or is to."""
        return self.task is not None


class Fetch:
    """A file that is not here yet."""

    __slots__ = (
        "asked", "asker", "digest", "early", "handed", "is_apart", "is_mixed", "opening", "origin", "part", "seen",
        "size", "stages",
    )  # fmt: skip

    def __init__(self, digest: bytes, size: int) -> None:
        self.digest = digest
        self.size = size
        self.stages: list[Stage] = []
        self.part: Part | None = None
        self.opening: Future[Any] | None = None
        """A thread opens the part, or is to."""
        self.is_apart = False
        self.seen = (0, 0.0)
        """How much another node had of it when we looked, and for how long no more than that (seconds)."""
        self.asker: ClientId | None = None
        """Who is being asked for it."""
        self.asked = 0
        """Where the next piece begins that is to be asked for."""
        self.handed = 0
        """Up to where all has been given to the thread that writes."""
        self.origin: ClientId | None = None
        """Whose pieces those were."""
        self.is_mixed = False
        """They were of several clients, or of an earlier time: should it be something else, nobody is to blame."""
        self.early: dict[int, Arrived] = {}
        """Pieces that have overtaken others, by where they begin."""


class Asked(NamedTuple):
    fetch: Fetch
    size: int


class Supplier:
    """What a client has been asked for and has not sent."""

    __slots__ = ("asked", "order", "size")

    def __init__(self) -> None:
        self.asked: dict[tuple[bytes, int], Asked] = {}
        self.size = 0
        """Bytes that were asked for and that no thread has been given."""
        self.order: list[tuple[int, int, Fetch]] = []
        """A heap of what is to be asked for: what has least left comes first."""


class Arrived(NamedTuple):
    fetch: Fetch
    part: Part | None
    offset: int
    data: bytes | Landed
    size: int


def close_begun(stage: Stage) -> None:
    """What was copied early is not needed."""
    for begun in list(stage.begun.values()):
        if begun is not None:
            begun.close()
    stage.begun.clear()
