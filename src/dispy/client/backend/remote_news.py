"""News of a shared scheduler, brought to the program as plain arguments. On the loop.

The scheduler has its texts from nodes and other programs: control characters in them are escaped here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dispy.protocol import shared
from dispy.protocol.node import TERMINATED
from dispy.protocol.views import NodeId, NodeInfo
from dispy.system.escaping import block, line, lines

if TYPE_CHECKING:
    from dispy.client.backend.backend import ClusterSpec, Listener
    from dispy.client.backend.remote_views import RemoteViews
    from dispy.client.backend.scheduler_link import SchedulerLink

logger = logging.getLogger("dispy.client")


class RemoteNews:
    """Notes in the views what a shared scheduler tells, and passes it on. News of closed clusters is dropped.

    Args:
        listener: The program.
        specs: Open clusters by number; shared with the backend, which changes it.
        reopen: Opens a cluster anew at a scheduler that does not know it.
    """

    _link: SchedulerLink
    _views: RemoteViews

    def __init__(
        self,
        listener: Listener,
        specs: dict[int, ClusterSpec],
        reopen: Callable[[ClusterSpec], None],
    ) -> None:
        self._listener = listener
        self._specs = specs
        self._reopen = reopen
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            shared.Refused: self._on_refused,
            shared.Offer: self._on_offer,
            shared.NodeChanged: self._on_node_changed,
            shared.NodeGone: self._on_node_gone,
            shared.Usable: self._on_usable,
            shared.Placed: self._on_placed,
            shared.Ended: self._on_ended,
            shared.EndedHere: self._on_ended_here,
            shared.Started: self._on_started,
            shared.Requeued: self._on_requeued,
            shared.Value: self._on_value,
            shared.PrintedOutput: self._on_printed,
            shared.FilesPlaced: self._on_files_placed,
            shared.FilesNeeded: self._on_files_needed,
            shared.Unreachable: self._on_unreachable,
            shared.Available: self._on_available,
            shared.Window: self._on_window,
            shared.Standstill: lambda news: self._views.stand_still(news.cluster, line(news.reason)),
        }
        """Function that takes a piece of news, by its type."""

    def begin(self, link: SchedulerLink, views: RemoteViews) -> None:
        """Take the link and the views, which are made after this. No news comes before that."""
        self._link = link
        self._views = views

    def take(self, news: Any) -> None:
        """Take a piece of news."""
        if not news.cluster or news.cluster in self._specs:
            self._handlers[type(news)](news)

    def _node(self, node: bytes) -> NodeInfo | None:
        return self._views.find(NodeId(node))

    def _open_of(self, numbers: list[int]) -> list[int]:
        return [number for number in numbers if number in self._specs]

    def _on_refused(self, news: shared.Refused) -> None:
        """Take a refused cluster as one without nodes: the reason is logged, and shown by ``why``."""
        reason = block(news.reason)
        logger.error(
            "scheduler %s refuses cluster %s: %s", self._link.name, self._specs[news.cluster].name, reason
        )
        self._listener.on_unreachable([news.cluster], str(self._link.address), reason, False)

    def _on_offer(self, news: shared.Offer) -> None:
        info = self._views.take(_escaped(news.info))
        for number in self._open_of(news.clusters):
            self._listener.on_offer(number, info)

    def _on_node_changed(self, news: shared.NodeChanged) -> None:
        info = self._views.take(_escaped(news.info))
        for number in self._open_of(news.clusters):
            if news.is_cpus:
                self._listener.on_cpus(number, info)
            else:
                self._listener.on_changed(number, info)

    def _on_node_gone(self, news: shared.NodeGone) -> None:
        info = self._views.drop(NodeId(news.node))
        if info is not None:
            self._listener.on_node_gone(info, block(news.reason))

    def _on_usable(self, news: shared.Usable) -> None:
        info = self._node(news.node)
        if info is not None:
            info.is_gone = info.is_gone or news.is_gone
            self._listener.on_usable(news.cluster, info, news.is_usable, block(news.reason))

    def _on_placed(self, news: shared.Placed) -> None:
        view = news.view
        view.reason, view.shortage, view.progress = (
            block(view.reason), line(view.shortage), line(view.progress),
        )  # fmt: skip
        self._views.place(news.cluster, NodeId(news.node), view, news.seen)
        info = self._node(news.node)
        if info is not None:
            self._listener.on_changed(news.cluster, info)

    def _on_ended(self, news: shared.Ended) -> None:
        for ended in news.ended:
            if ended.reason:
                ended.reason = lines(ended.reason)
            if ended.payload is None:
                ended.payload, ended.status = b"", TERMINATED
                ended.reason = "there is not enough memory here for the job's result"
        if news.large:
            for ended in news.ended:
                ended.stdout, ended.stderr = bytes(ended.stdout or b""), bytes(ended.stderr or b"")
        self._views.end(news.cluster, [ended.number for ended in news.ended])
        info = self._node(news.node)
        if info is not None:
            self._listener.on_ended(news.cluster, news.ended, info)
        else:
            self._listener.on_ended_here(
                news.cluster, [ended.number for ended in news.ended], TERMINATED, "its node is not known"
            )

    def _on_ended_here(self, news: shared.EndedHere) -> None:
        self._views.end(news.cluster, news.numbers)
        self._listener.on_ended_here(news.cluster, news.numbers, news.status, block(news.reason))

    def _on_started(self, news: shared.Started) -> None:
        info = self._node(news.node)
        if info is not None:
            self._views.start(news.cluster, info.node, [each.number for each in news.started])
            self._listener.on_started(news.cluster, news.started, info)

    def _on_requeued(self, news: shared.Requeued) -> None:
        self._views.end(news.cluster, news.numbers)
        self._listener.on_requeued(news.cluster, news.numbers)

    def _on_value(self, news: shared.Value) -> None:
        info = self._node(news.node)
        if info is not None and news.value.payload is not None:
            news.value.computation = news.cluster
            self._listener.on_value(news.cluster, news.value, info)

    def _on_printed(self, news: shared.PrintedOutput) -> None:
        self._listener.on_printed(news.cluster, news.printed, NodeId(news.node), news.serial)

    def _on_files_placed(self, news: shared.FilesPlaced) -> None:
        self._listener.on_files(news.cluster, NodeId(news.node), news.request, block(news.reason))

    def _on_files_needed(self, news: shared.FilesNeeded) -> None:
        news.need.computation = news.cluster
        self._listener.on_files_needed(news.cluster, news.need, NodeId(news.node))

    def _on_unreachable(self, news: shared.Unreachable) -> None:
        numbers = self._open_of(news.clusters)
        self._listener.on_unreachable(numbers, line(news.address), block(news.reason), news.is_refusal)

    def _on_available(self, news: shared.Available) -> None:
        info = self._node(news.node)
        if info is not None:
            info.available = news.available
            info.bytes_sent, info.bytes_received = news.bytes_sent, news.bytes_received
            self._listener.on_available(info)

    def _on_window(self, news: shared.Window) -> None:
        reason = "" if news.is_open else f"scheduler {self._link.name} is full: {block(news.reason)}"
        for number in self._specs:
            self._listener.on_window(number, reason)

    def on_leaving(self, reason: str) -> None:
        """Tell the user that the scheduler ends; it is nothing to a program without an open cluster."""
        level = logging.WARNING if self._specs else logging.DEBUG
        logger.log(level, "scheduler %s at %s leaves: %s", self._link.name, self._link.address, reason)

    def on_forgotten(self, reason: str) -> None:
        """End all jobs, and open all clusters again: the scheduler was started anew."""
        for info in self._views.forget_all():
            for number in self._specs:
                self._listener.on_usable(number, info, False, "the scheduler was started anew")
        for number, spec in list(self._specs.items()):
            self._views.open(number)
            self._listener.on_forgotten(number, reason)
            self._reopen(spec)


def _escaped(info: NodeInfo) -> NodeInfo:
    """Returns a node's description whose texts are fit for a terminal: the scheduler has them from others."""
    info.name, info.platform, info.shortage = line(info.name), line(info.platform), line(info.shortage)
    info.python = line(info.python)
    return info
