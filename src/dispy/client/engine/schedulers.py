"""The shared schedulers that clusters of a program use: one link to each. On the engine's loop."""

from __future__ import annotations

import random
import secrets as randomness
from typing import TYPE_CHECKING

from dispy.client.backend.remote import ATTACH_S, Remote
from dispy.system.process_identity import user_and_host

if TYPE_CHECKING:
    from dispy.client.backend.backend import Listener
    from dispy.client.backend.embedded import Embedded
    from dispy.client.backend.scheduler_link import Address
    from dispy.client.engine.threads import Threads


class Schedulers:
    """Links to shared schedulers.

    Args:
        threads: The threads of the engine.
        listener: The object that is told what happens.
        embedded: The scheduler in this process, with whose name and memory the program shows itself.
    """

    def __init__(self, threads: Threads, listener: Listener, embedded: Embedded) -> None:
        self._threads = threads
        self._listener = listener
        self._embedded = embedded
        self._remotes: dict[tuple[str, int, bytes], Remote] = {}
        """Schedulers by address and key."""
        self._left: list[Remote] = []
        """Schedulers that the program has left, whose journals may still be written."""

    def new_identity(self) -> bytes:
        """Return 16 random bytes, by which the program names itself to one scheduler."""
        return randomness.token_bytes(16)

    def chance(self) -> float:
        """Return a random number from 0 to 1."""
        return random.random()

    def at(self, address: Address) -> Remote:
        """Returns the scheduler at an address; begins to dial it if no cluster uses it yet."""
        place = address.host, address.port, address.keys.first.key
        remote = self._remotes.get(place)
        if remote is None or not remote.is_usable:
            self._left = [left for left in self._left if not left.journal.is_written]
            if remote is not None:
                self._left.append(remote)
            origin = user_and_host()[:200]
            remote = self._remotes[place] = Remote(
                self._threads, self._listener, self.new_identity(), self._embedded.name,
                origin.partition("@")[0], origin, address, self._embedded.memory, self.chance,
            )  # fmt: skip
        remote.link.linger(2 * ATTACH_S)
        return remote

    def stop(self, *, is_leaving: bool) -> None:
        """End all links. ``is_leaving``: the schedulers keep jobs and results."""
        for remote in self._remotes.values():
            remote.stop(is_leaving=is_leaving)

    def wait(self, *, is_leaving: bool) -> None:
        """Wait for the journals of all, when the loop has ended. On a thread of the program."""
        for remote in [*self._remotes.values(), *self._left]:
            remote.journal.close(is_leaving=is_leaving)
