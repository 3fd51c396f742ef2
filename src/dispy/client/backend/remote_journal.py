"""The journals of clusters at a shared scheduler: they say which scheduler has the jobs, so that a recovery asks it.

A cluster with a full journal of its own notes the scheduler there. The others are in a short journal of the program,
which is made with the first of them and removed with the last one. On the loop, if nothing else is said.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from dispy.client.backend.program_journal import make_journal, never
from dispy.journal.rows import SCHEDULER, NodeRow

if TYPE_CHECKING:
    from dispy.client.backend.backend import ClusterSpec
    from dispy.client.backend.scheduler_link import Address
    from dispy.journal.writer import Journal


class RemoteJournal:
    """Notes about one scheduler in the journals of the clusters that use it.

    Args:
        address: Where the scheduler is.
        specs: Open clusters by number; shared with the backend, which changes it.
        identity: Identity of the program at the scheduler: 16 bytes.
        name: Name of the program, with its process id.
        post: Calls a function on the loop; on any thread.

    Attributes:
        identity: As the parameter; ``rename`` sets another one.
        noted: Numbers of the clusters that are in the program's journal.
    """

    def __init__(
        self,
        address: Address,
        specs: dict[int, ClusterSpec],
        identity: bytes,
        name: str,
        post: Callable[..., None],
    ) -> None:
        self._address = address
        self._specs = specs
        self._make = partial(make_journal, name=name, post=post)
        self.identity = identity
        self._row: NodeRow | None = None
        """Row of the scheduler; None before it has introduced itself."""
        self._journal: Journal | None = None
        """The program's journal; None while no cluster needs it."""
        self._has_failed = False
        """True if it could not be made; not tried again: only clusters with their own are recovered."""
        self._is_holding = False
        """True if the program has failed and releases no more results: the scheduler keeps them for a recovery."""
        self._ended: list[Journal] = []
        """Journals that were told to end and may still write to disk; ``close`` waits for their threads."""
        self.noted: set[int] = set()

    def _journals(self) -> list[Journal]:
        """Returns the program's journal, if there is one, and those of open clusters."""
        own = [spec.journal for spec in self._specs.values()]
        return [journal for journal in [*own, self._journal] if journal is not None]

    def prepare(self, journal: Journal) -> None:
        """Note the scheduler in the full journal of a new cluster, and wait until that is on disk: a recovery has to
        know it before the scheduler may get a job. On a program's thread, once the scheduler has introduced itself.

        Raises:
            DispyError: The journal cannot be written to.
        """
        assert self._row is not None
        journal.add_node(self._row)
        journal.thread.ask(lambda _: None)

    def open(self, spec: ClusterSpec) -> None:
        """Note a cluster without a full journal in the program's, which is made for the first one. Does not wait."""
        if spec.journal is not None or self._has_failed:
            return
        if self._journal is None:
            self._journal = self._make(self.identity)
            if self._journal is None:
                self._has_failed = True
                return
            if self._row is not None:
                self._journal.add_node(self._row)
        self.noted.add(spec.compute.computation)
        spec.note(self._journal)

    def forget(self, number: int) -> None:
        """Note that a cluster has ended. With the last cluster in it the program's journal is removed."""
        if self._journal is not None and number in self.noted:
            self.noted.discard(number)
            if self.noted:
                self._journal.drop_computation(number)
            else:
                self._journal.end(remove=True)
                self._ended = [ended for ended in self._ended if not ended.thread.is_over]
                self._ended.append(self._journal)
                self._journal = None

    def on_welcome(self, identity: bytes, name: str, then: Callable[[], None]) -> None:
        """Note which scheduler it is, and call ``then`` once that is on disk in all full journals.

        A scheduler that was started anew is another one. What the one before it had was told as lost.

        Args:
            identity: Identity of the scheduler: 16 bytes.
            name: Its name.
            then: Sends what waits for the scheduler.
        """
        before, address = self._row, self._address
        if before is not None and before.incarnation == identity:
            then()
            return
        fingerprint = address.keys.fingerprint
        has_tls = address.tls is not None
        self._row = NodeRow(
            identity, address.host, address.port, address.host, name, has_tls, fingerprint, SCHEDULER
        )
        for journal in self._journals():
            if before is not None:
                journal.drop_node(before.incarnation)
            journal.add_node(self._row)
        self._call_noted(then)

    def rename(self, identity: bytes) -> None:
        """Note that the program comes back to the scheduler as another one."""
        self.identity = identity
        for journal in self._journals():
            journal.rename(identity)

    def after_note(self, told: Callable[[], None]) -> None:
        """Call ``told`` once the results that came until now are on disk in all open full journals; at once if no
        cluster has one. Never, once the program has failed."""
        if self._is_holding:
            never(told)
        else:
            self._call_noted(told)

    def _call_noted(self, told: Callable[[], None]) -> None:
        for spec in self._specs.values():
            if spec.journal is not None:
                told = partial(spec.journal.thread.after_note, told)
        told()

    def hold(self) -> None:
        """Release no more results, as the program has failed: the scheduler keeps them for a recovery."""
        self._is_holding = True

    @property
    def is_written(self) -> bool:
        """True if no journal is open, or still being written: ``close`` has nothing to wait for."""
        return self._journal is None and all(journal.thread.is_over for journal in self._ended)

    def close(self, *, is_leaving: bool) -> None:
        """End the program's journal; its file stays if ``is_leaving``. Waits for the disk. On any thread."""
        if self._journal is not None:
            self._journal.close(remove=not is_leaving)
        for journal in self._ended:
            journal.close(remove=True)
