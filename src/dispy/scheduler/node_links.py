"""The links of a scheduler to its nodes: which there are, under which addresses, and what their news mean.

News of a link become events of the scheduling core, and calls of the observer. Everything runs on the scheduler's
loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from dispy.core import scheduling as core
from dispy.core.scheduling.ids import NodeId
from dispy.errors import AuthenticationError, SilenceError
from dispy.net.connection import Connection
from dispy.net.dialing import Target
from dispy.net.links.link import SLOW_S
from dispy.protocol import node
from dispy.protocol.views import NodeInfo
from dispy.scheduler.node_link import NodeLink, Trace
from dispy.scheduler.observer import Observer
from dispy.settings import PULSE_S
from dispy.system.clock import Clock
from dispy.system.escaping import line
from dispy.system.wording import counted

if TYPE_CHECKING:
    from dispy.net.links.acknowledging import AfterNote
    from dispy.security.identities import Identity
    from dispy.security.keys import Keys
    from dispy.system.shared_memory import SharedPool

logger = logging.getLogger("dispy.scheduler")


class NodeLinks:
    """All links of one scheduler, and what they have in common (``node_link.Owner``).

    Args:
        identity: 16 random bytes that name the scheduler to nodes, new for each scheduler.
        name: The program's name, as nodes show it.
        clock: Source of the time (monotonic seconds).
        state: State of the scheduling core, to be read.
        handle: Gives the core an event, and performs what it decides.
        observer: Object that is told what happens to nodes.
        on_up: Called when a node has become usable, after core and observer were told.
    """

    def __init__(
        self,
        identity: bytes,
        name: str,
        clock: Clock,
        state: core.State,
        handle: Callable[[core.Event], object],
        observer: Observer,
        on_up: Callable[[], None],
    ) -> None:
        self.identity = identity
        self.name = name
        self.origin = ""
        """User and machine of this program, for the logs of nodes; empty: not told."""
        self.clock = clock
        self.pulse_s = PULSE_S
        """Heartbeat interval of all links (seconds); change it by ``set_pulse``."""
        self.tracer: Callable[[NodeLink], Trace] | None = None
        """Makes the function that logs the messages of a link; None while nothing is logged (``tracing``)."""
        self.memory: SharedPool | None = None
        """Files in memory with large payloads, which nodes of this machine take by name; None: all are sent."""
        self.after_note: AfterNote | None = None
        """Calls a function as soon as the results so far are written to the journal; None: there is no journal.
        Results are acknowledged only then, as nodes forget acknowledged results."""
        self.by_target: dict[Target, NodeLink] = {}
        """Links by ``Target`` (address and secret), connected or not. A node with several addresses has one link
        under all."""
        self.by_node: dict[NodeId, NodeLink] = {}
        """Links to nodes that have introduced themselves and are not lost, by the node's id."""
        self._state = state
        self._handle = handle
        self._observer = observer
        self._on_up = on_up

    # What the scheduler and its backend ask.

    def reach(self, target: Target) -> None:
        """Begin to connect to a node, unless there is a link to this address.

        The observer is told the outcome by ``on_node_known`` or ``on_unreachable``.
        """
        if target not in self.by_target:
            node_link = self.by_target[target] = NodeLink(self, target)
            node_link.link.dial()

    @property
    def is_traced(self) -> bool:
        """True if messages and decisions are logged (``tracing``)."""
        return self.tracer is not None

    def set_pulse(self, pulse_s: float) -> None:
        """Change the heartbeat interval of all links (seconds). A node that is silent for five intervals is lost."""
        if pulse_s != self.pulse_s:
            self.pulse_s = pulse_s
            for node_link in self.by_target.values():
                node_link.set_pulse()

    def ready(self, node_id: NodeId) -> Connection | None:
        """Returns the connection to a node, if there is one that both sides have proved themselves on."""
        node_link = self.by_node.get(node_id)
        connection = node_link.link.connection if node_link is not None else None
        return connection if connection is not None and connection.is_ready else None

    def is_sending(self, node_id: NodeId) -> bool:
        """True if large payloads, sent as streams, are on their way to a node: jobs may wait for them."""
        connection = self.ready(node_id)
        return connection is not None and connection.is_sending

    def silent_s(self, node_id: NodeId) -> float:
        """Returns the seconds since a node's last byte, in steps of half a heartbeat interval; 0.0 if not
        connected. Used to tell the user why a cluster stands still."""
        connection = self.ready(node_id)
        return connection.heartbeat.silent_s if connection is not None else 0.0

    def nodes(self) -> list[NodeInfo]:
        """Returns all nodes that have introduced themselves and are not lost, with traffic counts (bytes) of now."""
        found = []
        for node_link in self.by_node.values():
            if node_link.info is not None:
                node_link.info.bytes_sent, node_link.info.bytes_received = node_link.link.traffic()
                found.append(node_link.info)
        return found

    def is_opened_by(self, node_id: NodeId, keys: Keys) -> bool:
        """True if a node has proved one of these keys, on its link or on a second one that was closed for it.

        Valid in ``Observer.on_node_gone``, too.
        """
        node_link = self.by_node[node_id]
        if node_link.target.keys.overlap(keys):
            return True
        return any(
            target.keys.overlap(keys) for target, other in self.by_target.items() if other is node_link
        )

    def target_of(self, node_id: NodeId) -> Target:
        """Returns the address and secret by which a node is reached. Valid in ``Observer.on_node_gone``, too."""
        return self.by_node[node_id].target

    def info_of(self, node_id: NodeId) -> NodeInfo:
        """Returns the description of a node that is not lost."""
        info = self.by_node[node_id].info
        assert info is not None
        return info

    def close(self, *, forget: bool) -> None:
        """End all links (``NodeLink.close``)."""
        for node_link in list(self.by_target.values()):
            node_link.close(forget=forget)

    def drop(self, is_refused: Callable[[Identity], bool], reason: str) -> None:
        """End the links to nodes whose derived keys are refused from now on: they count as lost."""
        for node_link in list(self.by_node.values()):
            if node_link.identity is not None and is_refused(node_link.identity):
                logger.warning("%s is not used any more: %s", node_link.identity, reason)
                self.by_target.pop(node_link.target, None)
                node_link.close()
                self._lose(node_link, f"{node_link.identity} is not used any more: {reason}")

    # News of links.

    def link_failed(self, node_link: NodeLink, error: Exception) -> None:
        """Forget a node that cannot be reached or is lost, and tell the observer."""
        target = node_link.target
        self.by_target.pop(target, None)
        if node_link.info is None:
            self._observer.on_unreachable(target, error)
            return
        self._lose(node_link, f"node {node_link.info.name} ({target.host}:{target.port}) is lost: {error}")

    def link_slow(self, node_link: NodeLink) -> None:
        """Tell the observer that a node has not answered for ``SLOW_S``: the user may have given a wrong address."""
        error = SilenceError(
            f"no answer for {SLOW_S:g} s",
            hint="check its address and port, and the firewalls on the way",
        )
        self._observer.on_unreachable(node_link.target, error)

    def link_replaced(self, node_link: NodeLink) -> None:
        """Count the old incarnation of a node as lost: another one answers at its address."""
        assert node_link.info is not None
        self._lose(node_link, f"node {node_link.info.name} was started anew")

    def link_silent(self, node_link: NodeLink) -> None:
        """Tell the core that a node's connection broke: it sends nothing there until the link is up again."""
        assert node_link.info is not None
        self._handle(core.NodeSilent(node_link.info.node))

    def link_welcome(self, node_link: NodeLink, known: bool) -> None:
        """Tell core and observer about a node that has introduced itself. A second link to one node is closed."""
        info = node_link.info
        assert info is not None
        other = self.by_node.get(info.node)
        if other is not None and other is not node_link:
            self._join(node_link, info, other)
            return
        is_new = other is None
        self.by_node[info.node] = node_link
        if is_new or not known:
            where = f"{node_link.target.host}:{node_link.target.port}"
            logger.info(
                "node %s at %s is there, with %s (%s)",
                info.name,
                where,
                counted(info.cpus, "CPU", zero="no"),
                info.platform,
            )
        self._handle(core.NodeUp(info.node, info.name, info.cpus, known))
        if is_new or not known:
            self._observer.on_node_known(info)
        else:
            self._observer.on_cpus(info)
        self._on_up()

    def _join(self, node_link: NodeLink, info: NodeInfo, other: NodeLink) -> None:
        """Close a link to a node that is linked already, as ``other``, under another of its addresses.

        Raises:
            AuthenticationError: It has proved another name: it is another node, whatever it says.
        """
        names = [each.identity.name if each.identity is not None else "" for each in (node_link, other)]
        if names[0] != names[1]:
            raise AuthenticationError(
                f"{names[0] or info.name} says that it is the same node as {names[1] or 'another one'}, "
                "and its key is not that node's",
                hint="one of the two keys may be stolen: 'dispy secret revoke node NAME'",
            )
        self.by_target[node_link.target] = other
        node_link.info = None
        node_link.close(forget=False)
        if other.info is not None:
            if info.ip_addr not in other.info.addresses():
                other.info.aliases.append(info.ip_addr)
            self._observer.on_node_known(
                other.info
            )  # its other address or key may be one that a cluster waits for

    def link_message(self, node_link: NodeLink, message: node.FromNode) -> None:
        """Pass a node's message to the core; to the observer if it is about free resources, files or lists of jobs.

        ``Leaving`` ends the link: the node counts as lost.
        """
        info = node_link.info
        assert info is not None
        if type(message) is node.Leaving:
            self.by_target.pop(node_link.target, None)
            node_link.close()
            self._lose(node_link, f"node {info.name} left: {message.reason}")
            return
        if type(message) is node.Available:
            info.available = message
            self._observer.on_available(info)
            return
        if type(message) is node.NeedFiles:
            self._pass_files_needed(info, message)
            return
        if type(message) is node.JobsListed:
            self._observer.on_jobs_listed(info, message)
            return
        if type(message) is node.NodeCpus:
            info.cpus = message.cpus
            info.shortage = line(message.reason)
        self._handle(core.FromNodeEvent(info.node, message))
        if type(message) is node.NodeCpus:
            self._observer.on_cpus(info)

    def _pass_files_needed(self, info: NodeInfo, message: node.NeedFiles) -> None:
        """Tell the observer which files a node asks for; not if the computation is not on the node any more."""
        known = self._state.nodes.get(info.node)
        placement = known.placements.get(message.computation) if known is not None else None
        if placement is not None:
            message.computation = placement.computation.number
            self._observer.on_files_needed(placement.computation.client, message, info)

    def _lose(self, node_link: NodeLink, reason: str) -> None:
        info = node_link.info
        assert info is not None
        # Its other addresses are dialed anew if somebody asks for them: another node may answer there now.
        for target in [
            target
            for target, other in self.by_target.items()
            if other is node_link and (other.link.is_closed or target != node_link.target)
        ]:
            del self.by_target[target]
        info.is_gone = True
        self._handle(core.NodeLost(info.node, reason))
        self._observer.on_node_gone(info, reason)
        self.by_node.pop(info.node, None)
