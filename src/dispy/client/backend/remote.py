"""A shared scheduler, as a ``Backend``: commands go there over a link, and its news comes back."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from dispy import config
from dispy.client.backend.remote_journal import RemoteJournal
from dispy.client.backend.remote_news import RemoteNews
from dispy.client.backend.remote_views import RemoteViews
from dispy.client.backend.scheduler_link import Address, SchedulerLink
from dispy.client.nodes import NodeAllocate
from dispy.errors import DispyError, NoSchedulerError
from dispy.protocol import node as of_node
from dispy.protocol import shared
from dispy.protocol.limits import BATCH_MAX, INLINE_MAX
from dispy.protocol.message_sizes import cut
from dispy.protocol.shared import Wish
from dispy.protocol.views import NodeId, PlacementStatus
from dispy.system.addresses import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dispy.client.backend.backend import Access, ClusterSpec, Listener, Wishes
    from dispy.client.backend.payload_memory import PayloadMemory
    from dispy.client.engine.threads import Threads
    from dispy.journal.writer import Journal
    from dispy.protocol.files import FileEntry
    from dispy.protocol.node import (
        AcknowledgeProvisional,
        FilePiece,
        FileUnreadable,
        Job,
        PlaceFiles,
        PutObject,
    )

logger = logging.getLogger("dispy.client")

LINGER_S = 1.0
"""Seconds for which a link stays without an open cluster: a program may make the next one."""

CPUS_MAX = (1 << 31) - 1
"""Most CPUs of a node in a message."""

ATTACH_S = 10.0
"""Seconds that a new cluster waits for its scheduler's answer; then it fails."""


class Remote:
    """A shared scheduler. Made on the loop.

    Args:
        thread: The thread with the loop.
        listener: The object that is told what happens.
        identity: 16 random bytes that name the program.
        name: Name of the program, for people.
        user: Login name of the user.
        origin: User and machine of the program, for logs.
        address: Where the scheduler is.
        memory: Large payloads of the program in shared memory, for a scheduler of this machine.
        chance: Returns a random number from 0 to 1, for pauses between dials.
    """

    def __init__(
        self,
        thread: Threads,
        listener: Listener,
        identity: bytes,
        name: str,
        user: str,
        origin: str,
        address: Address,
        memory: PayloadMemory,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._thread = thread
        self._listener = listener
        self._specs: dict[int, ClusterSpec] = {}
        """Open clusters, by number."""
        self._objects: dict[int, dict[int, PutObject]] = {}
        """Objects that were put, by cluster and number: a scheduler that was started anew gets them again."""
        self.journal = RemoteJournal(address, self._specs, identity, name, thread.post)
        """Notes about the scheduler in journals."""
        self.noted = self.journal.noted
        self._news = RemoteNews(listener, self._specs, self._send_open)
        attach = shared.Attach(identity, name, user, origin)
        if config.SharedMemory and is_loopback(address.host):
            memory.share()
        if memory.is_shared:
            attach.memory = memory.name
        self.link = SchedulerLink(
            address,
            attach,
            self._news.take,
            self._news.on_forgotten,
            self._news.on_leaving,
            lambda: bool(self._specs),
            memory.exchange,
            thread.clock,
            chance,
            self.journal.on_welcome,
            self.journal.rename,
            self.journal.after_note,
        )
        self.views = RemoteViews(self.link)
        """Nodes and jobs, to be read."""
        self._news.begin(self.link, self.views)

    @property
    def identity(self) -> bytes:
        """Identity of the program at the scheduler: another one after a fault of the link."""
        return self.journal.identity

    @property
    def is_usable(self) -> bool:
        """False if the program has left the scheduler, or was not let in: the next cluster needs another object."""
        attached = self.link.attached
        return not self.link.is_closed and (not attached.done() or attached.exception() is None)

    # Clusters.

    def prepare(self, access: Access, wishes: Wishes, journal: Journal | None) -> None:
        """Connect to the scheduler, and wait until it has answered, and is noted in the journal.

        Raises:
            NoSchedulerError: It does not answer, or does not let the program in.
            DispyError: The journal cannot be written to.
        """
        address = self.link.address
        try:
            self.link.attached.result(ATTACH_S)
        except TimeoutError:
            raise NoSchedulerError(
                f"scheduler at {address}: no answer for {ATTACH_S:g} s",
                hint="check its address and port, and the firewalls on the way",
            ) from None
        except DispyError as error:
            raise NoSchedulerError(
                f"scheduler at {address}: {str(error).removesuffix(f'; {error.hint}')}", hint=error.hint
            ) from error
        except OSError as error:
            raise NoSchedulerError(
                f"no scheduler at {address}: {error.strerror or error}",
                hint="start 'dispyscheduler' there, or give another scheduler_host",
            ) from error

        if journal is not None:
            self.journal.prepare(journal)

    def warn_blind(self, access: Access, nodes: list[NodeAllocate]) -> None:
        """Warn of nothing: any node of the scheduler may come to match a pattern."""

    def open(self, spec: ClusterSpec) -> None:
        number = spec.compute.computation
        self._specs[number] = spec
        self._objects[number] = {}
        self.journal.open(spec)
        self.views.open(number)
        self._send_open(spec)

    def _send_open(self, spec: ClusterSpec) -> None:
        compute = msgspec.structs.replace(spec.compute)
        wishes = [_wish(each) for each in spec.wishes.allocations]
        self._send(shared.OpenCluster(0, compute.computation, compute, spec.is_reentrant, wishes))
        for message in self._objects[compute.computation].values():
            self._send(_put_command(message))

    def close(self, number: int) -> None:
        self._objects.pop(number, None)
        if self._specs.pop(number, None) is not None:
            self.link.channel.forget_cluster(number)
            self._send(shared.CloseCluster(0, number))
            self.journal.forget(number)
        self.views.close(number)
        self._listener.on_closed(number)
        if not self._specs:
            self.link.linger(LINGER_S)

    def _send(self, message: Any) -> None:
        self.link.channel.send(message)

    # Jobs.

    def submit(
        self, number: int, jobs: list[Job], node: NodeId | None = None, files: list[FileEntry] | None = None
    ) -> None:
        journal = self._specs[number].journal if number in self._specs else None
        if journal is not None and journal.mark is not None:
            journal.mark.note_jobs(jobs)
        brought = [] if files is None else [of_node.JobFiles(jobs[0].number, files)]
        sizes = [len(job.payload) for job in jobs]
        if max(sizes) >= INLINE_MAX:
            for job in jobs:
                if len(job.payload) >= INLINE_MAX:
                    self._send(shared.Submit(0, number, [job], node or b"", brought))
            jobs = [job for job in jobs if 0 < len(job.payload) < INLINE_MAX]
            sizes = [len(job.payload) for job in jobs]
        for part in cut(jobs, sizes):
            self._send(shared.Submit(0, number, part, node or b"", brought))
        self.link.flush()

    def try_submit(self, number: int, job: Job) -> bool:
        if len(job.payload) >= INLINE_MAX:
            return False
        return self.link.channel.try_send_now(shared.Submit(0, number, [job]))

    def cancel(self, number: int, jobs: list[int]) -> None:
        for part in _parts(jobs):
            self._send(shared.CancelJobs(0, number, part))

    def watch(self, number: int, jobs: list[int], is_wanted: bool) -> None:
        for part in _parts(jobs):
            self._send(shared.WatchJobs(0, number, part, is_wanted))

    def answer(self, node: NodeId, message: AcknowledgeProvisional) -> None:
        self._send(shared.AnswerValue(0, message.computation, node, message))

    def answer_printed(self, number: int, node: NodeId, serial: int) -> None:
        self._send(shared.AnswerPrinted(0, number, node, serial))

    # Objects and files.

    def put(self, message: PutObject) -> None:
        objects = self._objects.get(message.computation)
        if objects is not None:
            objects[message.number] = message
            self._send(_put_command(message))

    def drop(self, number: int, objects: list[int]) -> None:
        for each in objects:
            self._objects.get(number, {}).pop(each, None)
        for part in _parts(objects):
            self._send(shared.DropObjects(0, number, part))

    def place_files(self, node: NodeId, message: PlaceFiles) -> None:
        self._send(shared.PlaceFiles(0, message.computation, node, message))

    def send_files(
        self, node: NodeId, number: int, pieces: list[FilePiece], unreadable: list[FileUnreadable]
    ) -> None:
        for message in file_messages(number, node, pieces, unreadable):
            self._send(message)

    # Nodes.

    def discover(self, number: int, nodes: list[NodeAllocate]) -> None:
        spec = self._specs.get(number)
        if spec is not None:
            wishes = [_wish(each) for each in spec.wishes.allocations]
            self._send(shared.Discover(0, number, wishes, [_wish(each) for each in nodes]))

    def allocate(
        self,
        number: int,
        node: NodeId,
        cpus: int,
        *,
        code: bytes = b"",
        files: list[FileEntry] | None = None,
        is_draining: bool = False,
    ) -> None:
        view = self.views.view(number).get(node)
        command = shared.Allocate(0, number, node, max(cpus, 0), code, files, is_draining)
        self._send(command)
        if cpus > 0 or is_draining:
            is_new = view is None or view.status is PlacementStatus.LEFT
            status = PlacementStatus.LOADING if view is None or is_new else view.status
            if status is not PlacementStatus.LEAVING and not (view is None and is_draining):
                self.views.assume(
                    number, node, command.batch, status, cpus_max=max(cpus, 0), is_open=cpus > 0
                )
        elif view is not None:
            self.views.assume(number, node, command.batch, PlacementStatus.GONE)

    def vacate(self, number: int, node: NodeId, *, terminate: bool = False, returns: bool = False) -> None:
        command = shared.Vacate(0, number, node, terminate, returns)
        self._send(command)
        view = self.views.view(number).get(node)
        if view is not None and view.status is not PlacementStatus.LEFT:
            self.views.assume(
                number, node, command.batch, PlacementStatus.LEAVING, returns=returns, is_open=returns
            )

    def limit(self, node: NodeId, cpus: int) -> None:
        self.views.limits[node] = cpus
        numbers = list(self._specs)
        if numbers:
            self._send(shared.LimitNode(0, numbers[0], node, cpus))
        info = self.views.find(node)
        if info is not None:
            for number in numbers:
                self._listener.on_changed(number, info)

    # The end.

    def keep_results(self) -> None:
        self.journal.hold()

    def stop(self, *, is_leaving: bool) -> None:
        """End the link. ``is_leaving``: the scheduler keeps jobs and results."""
        self.link.close(forget=not is_leaving)


def _put_command(message: PutObject) -> shared.PutObject:
    # The payload is taken out of the copy.
    return shared.PutObject(0, message.computation, msgspec.structs.replace(message))


def _wish(item: NodeAllocate) -> Wish:
    cpus = max(min(item.cpus, CPUS_MAX), -CPUS_MAX)
    is_asked = type(item) is not NodeAllocate or bool(item.depends or item.setup_args)
    return Wish(item.host, item.ip_addr or "", item.port or 0, cpus, is_asked)


def file_messages(
    number: int, node: bytes, pieces: list[FilePiece], unreadable: list[FileUnreadable]
) -> Iterator[shared.SendFiles]:
    """Yields the messages that answer a node which has asked for pieces of files of a cluster: large ones alone."""
    small = [piece for piece in pieces if len(piece.data) < INLINE_MAX]
    for part in cut(small, [len(piece.data) for piece in small]):
        yield shared.SendFiles(0, number, node, part)
    for piece in pieces:
        if len(piece.data) >= INLINE_MAX:
            yield shared.SendFiles(0, number, node, [piece])
    if unreadable:
        yield shared.SendFiles(0, number, node, [], unreadable)


def _parts(numbers: list[int]) -> list[list[int]]:
    """Returns a list of numbers cut into lists that fit into a message each."""
    return [numbers[start : start + BATCH_MAX] for start in range(0, len(numbers), BATCH_MAX)]
