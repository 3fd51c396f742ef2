"""Small worlds without chance in what is done: a program, a node, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dispy.core.scheduling.ids import EMBEDDED
from dispy.protocol.files import FileEntry
from dispy.protocol.node import FINISHED
from dispy.protocol.views import PlacementStatus as Status
from dispy.protocol.views import PlacementView

from .computer import Computer
from .contents import MTIME_NS, make
from .jobs import Account
from .kept import Kept
from .network import Network
from .program import Cluster, Program
from .simulation import _listening
from .world import World


def file(path: str, number: int = 1, size: int = 1000) -> FileEntry:
    """A file with a content that has this number."""
    digest = make(1000 + number, size)
    return FileEntry(path, digest, size, 0o644, MTIME_NS)


class Place:
    """A program, a node, and nobody else."""

    def __init__(self, root: Path) -> None:
        world = self.world = World(1)
        network = Network(world, lambda: 1e-4)
        ledger: dict[bytes, Account] = {}
        self.computer = Computer(world, network, ledger, 1, 2, 100.0, 5.0, None)
        self.computer.root = root
        self.computer.kept = Kept(world, 1 << 30)
        self.computer.start()
        self.program = Program(world, network, ledger, 1, [self.computer])

    def open(
        self, files: list[FileEntry] | None = None, *, is_live: bool = False, **options: Any
    ) -> Cluster:
        """A computation; the program finds the node within a moment."""
        return self.program.open_cluster(
            False, [self.computer], 0.5, 100, is_live=is_live, files=files, **options
        )

    def call(self, what: Any, *arguments: Any) -> None:
        """Have the program do something."""
        self.world.soon(self.program.party, what, *arguments)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.world.run(self.world.now + seconds)

    def view(self, cluster: Cluster) -> PlacementView:
        """A computation on the node, as the program knows it."""
        (view,) = self.program.service.view(EMBEDDED, cluster.number).values()
        return view

    def status(self, cluster: Cluster) -> Status:
        """How far a computation is on the node."""
        return self.view(cluster).status

    def reset(self) -> None:
        """The connection breaks."""
        for end in self.computer.network.ends():
            self.world.arrive(self.world.now, end.party, end.reset)

    def check_all_finished(self) -> None:
        """All jobs have ended, as they should."""
        statuses = self.program.account.statuses
        assert not self.program.open_jobs()
        assert {status for status, count in statuses.items() if count} <= {FINISHED}, statuses


@contextmanager
def small(root: Path) -> Iterator[Place]:
    """Such a world, with directories here."""
    place = Place(root)
    with _listening(place.world):
        try:
            yield place
        finally:
            place.world.end()
