"""Large payloads of a program in shared memory, where nodes of this machine take them by name, without a copy."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from dispy import payload
from dispy.errors import DispyError
from dispy.net.links.file_exchange import FileExchange
from dispy.system.directories import GIVEN, memory_directory, shared_memory
from dispy.system.memory import pool
from dispy.system.run_directory import Place, sweep
from dispy.system.shared_memory import SharedPool

if TYPE_CHECKING:
    from dispy.scheduler.node_links import NodeLinks

logger = logging.getLogger("dispy.client")

_guard = threading.Lock()
"""Held while a program gets its directory: two clusters that are made at once must not make two."""


class PayloadMemory:
    """The directory of a program's large payloads, once one of its clusters may use nodes of this machine.

    Args:
        links: The scheduler's links to nodes, into whose directories it links payloads from there.

    Attributes:
        is_shared: True once the directory is there.
        name: Name of the directory below that of all of this user.
    """

    def __init__(self, links: NodeLinks) -> None:
        self._links = links
        self.name = f"client-{links.identity.hex()}"
        self._place: Place | None = None
        self._take_before: Callable[[int], memoryview] = pool.take
        """Allocator of large payloads (size in bytes → memory) before ``share``; ``close`` puts it back."""

    @property
    def is_shared(self) -> bool:
        return self._place is not None

    def share(self) -> None:
        """Make large payloads in shared memory from now on. On any thread; does nothing the second time.

        Without such a file system payloads are copied. Other errors are logged (``info``).
        """
        with _guard:
            if self._place is not None:
                return
            try:
                memory = shared_memory()
                if memory is None:
                    return
                self._place = Place(memory, self.name)
                (self._place.root / GIVEN).mkdir(mode=0o700)
            except (OSError, DispyError) as error:
                logger.info("large data is copied to nodes of this machine: %s", error)
                return
            shared = self._links.memory = SharedPool(str(self._place.root), payload.read_bytes)
        self._take_before = payload.blocks.take
        payload.blocks.take = shared.take

    def exchange(self, theirs: str) -> FileExchange:
        """Returns the exchange of payloads with a scheduler of this machine, by the name of its directory."""
        if self._place is None or not theirs:
            return FileExchange()
        return FileExchange(self._links.memory, str(self._place.root), theirs)

    def sweep(self) -> None:
        """Remove files that dead nodes of this machine have left in shared memory; on a new thread: it may block."""
        threading.Thread(target=sweep, args=(memory_directory(),), name="dispy sweeps", daemon=True).start()

    def close(self) -> None:
        """Remove the directory. The allocator is again what it was before."""
        if self._place is not None:
            payload.blocks.take = self._take_before
            if self._links.memory is not None:
                self._links.memory.close()
            self._place.close()
            sweep(memory_directory())
