"""News of the core and its nodes, for the programs that they are about. On the loop.

Nothing is told of clusters that are closed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import msgspec

from dispy.core import scheduling as core
from dispy.core.scheduling.ids import ClientId, NodeId
from dispy.errors import DispyError
from dispy.net.dialing import Target
from dispy.protocol import node, shared
from dispy.protocol.limits import BATCH_MAX, INLINE_MAX
from dispy.protocol.views import NodeInfo, PlacementStatus, PlacementView
from dispy.scheduler.daemon import absence, windows
from dispy.scheduler.daemon.needed_files import note_needed
from dispy.scheduler.daemon.node_search import NodeSearch
from dispy.scheduler.daemon.programs import Program, SharedCluster
from dispy.scheduler.service import SchedulerService

logger = logging.getLogger("dispy.scheduler")


ASKED_MAX = 10_000
"""Questions that were passed on to nodes and not answered yet."""


class News:
    """The observer of a shared scheduler (``scheduler.observer.Observer``).

    Args:
        programs: Programs by number; shared with the hub, which changes it.
    """

    service: SchedulerService
    search: NodeSearch

    def __init__(self, programs: dict[ClientId, Program]) -> None:
        self._programs = programs
        self._asked: dict[int, tuple[Program, int]] = {}
        """Program and serial of questions that were passed on to nodes, by our own serial."""
        self._last_asked = 0

    def begin(self, service: SchedulerService, search: NodeSearch) -> None:
        """Take the service and the search, which are made after this. No news comes before that."""
        self.service = service
        self.search = search

    # Questions.

    def expect(self, program: Program, serial: int) -> int:
        """Returns our serial for a question of a program that is passed on to a node.

        Nodes that are lost answer no more: the oldest questions are forgotten beyond ``ASKED_MAX``.
        """
        self._last_asked += 1
        self._asked[self._last_asked] = program, serial
        if len(self._asked) > ASKED_MAX:
            del self._asked[next(iter(self._asked))]
        return self._last_asked

    def on_jobs_listed(self, found: NodeInfo, message: node.JobsListed) -> None:
        program, serial = self._asked.pop(message.serial, (None, 0))
        if program is not None and program.connection is not None:
            jobs = [attempt.number for attempt in message.attempts]
            program.connection.send(shared.Answer(serial, jobs=jobs))

    # Nodes (``scheduler.observer.Observer``).

    def offer_all(self, program: Program, cluster: SharedCluster) -> None:
        """Offer all nodes to a new cluster."""
        for info in self.service.links.nodes():
            program.channel.send(shared.Offer(0, 0, [cluster.number], info))

    def on_node_known(self, found: NodeInfo) -> None:
        for program, numbers in self._with_clusters():
            program.channel.send(shared.Offer(0, 0, numbers, found))
            absence.use(self.service, program, found)

    def on_node_gone(self, found: NodeInfo, reason: str) -> None:
        self.search.forget(self.service.links.target_of(found.node))
        logger.warning("%s", reason)
        for program, _ in self._with_clusters():
            program.channel.send(shared.NodeGone(0, 0, found.node, reason))
        for program in self._programs.values():
            program.files.on_node_gone(found.node)
            for cluster in program.clusters.values():
                cluster.needed = {key: end for key, end in cluster.needed.items() if key[0] != found.node}
                cluster.allocated.pop(found.node, None)
                cluster.answered.discard(found.node)

    def on_unreachable(self, target: Target, error: Exception) -> None:
        address = f"{target.host}:{target.port}"
        logger.debug("no node at %s: %s", address, error)
        is_refusal = isinstance(error, DispyError)
        for program, clusters in self.search.interested(target):
            if program.is_there:  # told again and again: it would pile up
                told = shared.Unreachable(0, 0, clusters, address, str(error), is_refusal)
                program.channel.send(told)

    def on_usable(self, action: core.TellNode, found: NodeInfo) -> None:
        self._tell(
            action.client,
            shared.Usable(
                0, action.computation, found.node, action.is_usable, action.reason, found.is_gone
            ),
        )

    def tell_view(self, program: Program, number: int, found: NodeId) -> None:
        """Tell a program how a cluster of it is on a node now; GONE if it is not there."""
        view = self.service.view(program.client, number).get(found) or PlacementView(PlacementStatus.GONE)
        channel = program.channel
        channel.send(
            shared.Placed(0, number, found, msgspec.structs.replace(view), channel.releases.received)
        )

    def on_vacated(self, action: core.TellVacated, found: NodeInfo) -> None:
        program = self._programs.get(action.client)
        if (
            program is not None
        ):  # it chooses by the view whether the computation is to be opened there again
            self.tell_view(program, action.computation, found.node)
        self._tell(action.client, shared.Offer(0, 0, [action.computation], found))

    def on_placement(self, action: core.TellPlacement, found: NodeInfo) -> None:
        program = self._programs.get(action.client)
        if program is not None:
            view = msgspec.structs.replace(action.view)
            seen = program.channel.releases.received
            self._tell(action.client, shared.Placed(0, action.computation, found.node, view, seen))

    def on_cpus(self, found: NodeInfo) -> None:
        for program, numbers in self._with_clusters():
            program.channel.send(shared.NodeChanged(0, 0, numbers, found, True))
            absence.use(self.service, program, found)

    def on_available(self, found: NodeInfo) -> None:
        if found.available is None:
            return
        for program, _ in self._with_clusters():
            # For one that is away they would be kept by the thousand; the next ones tell it as much.
            if program.is_there:
                program.channel.send(
                    shared.Available(
                        0, 0, found.node, found.available, found.bytes_sent, found.bytes_received
                    )
                )

    # Jobs.

    def on_ended(self, action: core.TellEnded, found: NodeInfo) -> None:
        cluster = self._cluster(action.client, action.computation)
        if cluster is None:
            return
        program = self._programs[action.client]
        numbers = [ended.number for ended in action.ended]
        windows.free(program, cluster, numbers, self._programs.values())
        _forget_running(cluster, numbers)
        program.files.on_ended(cluster.number, numbers)
        absence.keep(self.service, program, action.ended)
        channel = program.channel
        large = [ended for ended in action.ended if is_large(ended)]
        small = [ended for ended in action.ended if not is_large(ended)] if large else action.ended
        if small:
            channel.send(shared.Ended(0, cluster.number, found.node, small, ip_addr=found.ip_addr))
        for ended in large:
            channel.send(shared.Ended(0, cluster.number, found.node, [ended], ip_addr=found.ip_addr))

    def on_ended_here(self, action: core.TellEndedHere) -> None:
        cluster = self._cluster(action.client, action.computation)
        if cluster is None:
            return
        program = self._programs[action.client]
        windows.free(program, cluster, action.numbers, self._programs.values())
        _forget_running(cluster, action.numbers)
        program.files.on_ended(cluster.number, action.numbers)
        channel = program.channel
        for part in chunks(action.numbers):
            channel.send(shared.EndedHere(0, cluster.number, part, action.status, action.reason))

    def on_started(self, action: core.TellStarted, found: NodeInfo) -> None:
        cluster = self._cluster(action.client, action.computation)
        if cluster is not None:
            for each in action.started:
                cluster.running[each.number] = shared.RunningJob(each.number, each.start, found.ip_addr)
            started = shared.Started(0, cluster.number, found.node, action.started, found.ip_addr)
            self._programs[action.client].channel.send(started)

    def on_requeued(self, action: core.TellRequeued) -> None:
        cluster = self._cluster(action.client, action.computation)
        if cluster is not None:
            _forget_running(cluster, action.numbers)
            for part in chunks(action.numbers):
                self._programs[action.client].channel.send(shared.Requeued(0, cluster.number, part))

    def on_value(self, action: core.TellValue, found: NodeInfo) -> None:
        action.value.stream = action.value.segment = 0
        self._tell(action.client, shared.Value(0, action.computation, found.node, action.value))

    def on_printed(self, action: core.TellPrinted) -> None:
        self._tell(
            action.client,
            shared.PrintedOutput(0, action.computation, action.node, action.printed, action.serial),
        )

    # Files.

    def on_files_needed(self, client: ClientId, message: node.NeedFiles, found: NodeInfo) -> None:
        program = self._programs.get(client)
        cluster = self._cluster(client, message.computation)
        if program is not None and cluster is not None:
            note_needed(cluster, found.node, message.pieces)
            program.files.need(message.computation, found.node, message.pieces)

    def on_files(self, action: core.TellFiles) -> None:
        self._tell(
            action.client,
            shared.FilesPlaced(0, action.computation, action.node, action.request, action.reason),
        )

    # Programs.

    def _cluster(self, client: ClientId, number: int) -> SharedCluster | None:
        program = self._programs.get(client)
        return program.clusters.get(number) if program is not None else None

    def _tell(self, client: ClientId, message: Any) -> None:
        """Send a program news of one of its clusters; drop it if the cluster is closed."""
        program = self._programs.get(client)
        if program is not None and (message.cluster in program.clusters or not message.cluster):
            program.channel.send(message)

    def _with_clusters(self) -> Iterable[tuple[Program, list[int]]]:
        """Yields the programs that have open clusters, with the numbers of these."""
        for program in list(self._programs.values()):
            if program.clusters:
                yield program, list(program.clusters)


def _forget_running(cluster: SharedCluster, numbers: list[int]) -> None:
    """Note that jobs, by number, do not run any more."""
    if cluster.running:
        for number in numbers:
            cluster.running.pop(number, None)


def is_large(ended: node.Ended) -> bool:
    """True if a part of a result travels as a blob: it is sent alone, so that others do not wait for it. Also resets
    what says how the result came from its node, which is nothing to the program."""
    ended.stream = ended.segment = ended.output_stream = ended.checksum = 0
    return (
        len(ended.payload) >= INLINE_MAX
        or len(ended.stdout) >= INLINE_MAX
        or len(ended.stderr) >= INLINE_MAX
    )


def chunks(numbers: list[int]) -> list[list[int]]:
    """Returns a list of numbers cut into lists that fit into a message each."""
    return [numbers[start : start + BATCH_MAX] for start in range(0, len(numbers), BATCH_MAX)]
