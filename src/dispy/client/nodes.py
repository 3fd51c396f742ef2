"""Nodes as a program names them (``NodeAllocate``, ``NodeNames``) and as it is shown them (``DispyNode``)."""

from __future__ import annotations

import os
import re
import time
import types
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from dispy.client.arguments import describe, warn
from dispy.client.job import CREATED
from dispy.client.shown.overview import NAME_MAX, clean, node_line
from dispy.errors import UsageError
from dispy.files.manifest import is_file_item
from dispy.system import current_directory
from dispy.system.addresses import LOOPBACK, is_loopback, resolve

if TYPE_CHECKING:
    from dispy.protocol.views import NodeInfo


class DispyNodeAvailInfo(NamedTuple):
    """Resources that a node has to spare.

    Attributes:
        cpu: Free CPU time of all CPUs together (percent).
        memory: Usable memory (bytes).
        disk: Free space where the node's files go (bytes).
        swap: Free swap (percent).
    """

    cpu: float
    memory: int
    disk: int
    swap: float


class DispyNode:
    """A node as one cluster sees it.

    Attributes:
        ip_addr: Address of the node.
        name: Name of the node.
        cpus: Number of CPUs used for this cluster.
        avail_cpus: Number of CPUs that the node offers.
        busy: Number of jobs of this cluster that run there.
        jobs_done: Number of jobs of this cluster that ended ``Finished`` or ``Terminated`` there.
        jobs_failed: Number of jobs of this cluster that failed there: they raised something, exited or were killed.
            Cancelled jobs do not count; a chunk of a ``map`` counts as one.
        cpu_time: Sum of the run times of the jobs in ``jobs_done`` (wall clock, seconds).
        tx: Bytes sent to the node.
        rx: Bytes received from the node.
        update_time: When the node was last seen to change (seconds since the epoch, by our clock); 0: never.
        avail_info: Resources that the node has to spare, or None if it has not told them.
        reason: Why the node runs no jobs of this cluster, or fewer than it has CPUs: other programs use it, or setup
            failed there, say. Empty if nothing stands in the way.
        node_id: Identity of the node's process, by which methods of the cluster find the node. A node that is started
            anew has another one. Empty: not known.
        port: TCP port of the node; 0: not known.
    """

    Initialized: ClassVar[int] = CREATED - 1
    """Status for ``cluster_status``: the cluster can use the node from now on."""
    Closed: ClassVar[int] = 16
    """Status for ``cluster_status``: the cluster does not use the node any more."""
    AvailInfo: ClassVar[int] = 17
    """Status for ``cluster_status``: CPUs, ``reason`` or ``avail_info`` of the node have changed."""

    __slots__ = (
        "avail_cpus", "avail_info", "busy", "cpu_time", "cpus", "ip_addr", "jobs_done", "jobs_failed", "name",
        "node_id", "port", "reason", "rx", "tx", "update_time",
    )  # fmt: skip

    def __init__(self, ip_addr: str, name: str, cpus: int, node_id: bytes = b"", port: int = 0) -> None:
        self.ip_addr = ip_addr
        self.name = name
        self.cpus = cpus
        self.avail_cpus = cpus
        self.busy = 0
        self.jobs_done = 0
        self.jobs_failed = 0
        self.cpu_time = 0.0
        self.tx = 0
        self.rx = 0
        self.update_time = 0.0
        self.avail_info: DispyNodeAvailInfo | None = None
        self.reason = ""
        self.node_id = node_id
        self.port = port

    def touch(self) -> None:
        """Set ``update_time`` to now. Called after a change of the node; a refresh for ``status()`` is none."""
        self.update_time = time.time()

    def __repr__(self) -> str:
        return f"<DispyNode {node_line(self)}>"

    def _repr_html_(self) -> str:
        """Returns the node as a table of one row, for notebooks."""
        from dispy.client.shown.tables import nodes_html

        return nodes_html([self])


class NodeList(list[DispyNode]):
    """Nodes of a cluster, as ``JobCluster.status`` returns them: a list that notebooks show as a table."""

    def _repr_html_(self) -> str:
        """Returns the nodes as a table, for notebooks."""
        from dispy.client.shown.tables import nodes_html

        return nodes_html(self)


class NodeAllocate:
    """An element of ``nodes``: nodes that a cluster may use, and how many CPUs of each.

    Override ``allocate`` in a class of your own to decide freely.

    Args:
        host: Name, address, or pattern with ``*`` for addresses of nodes of this machine.
        port: Port of the node, if it is not the default one.
        cpus: Most CPUs to use of a node; 0: all; negative: all but that many, or all where that would leave none.
        depends: Files, directories and modules for these nodes only; they are there before ``setup`` is called.
        setup_args: Arguments of ``setup`` and ``cleanup`` there.

    Raises:
        UsageError: A value of the wrong type.
    """

    def __init__(
        self,
        host: str,
        port: int | None = None,
        cpus: int = 0,
        depends: Iterable[Any] = (),
        setup_args: tuple[Any, ...] = (),
    ) -> None:
        if not isinstance(host, str) or not host:
            raise UsageError(
                f"host of a node must be a name, an address or a pattern, not {host!r:.100}",
                hint="'192.168.1.20', 'big' or '*'",
            )
        if port is not None and (not isinstance(port, int) or not 0 < port < 65536):
            warn(f"port {port!r} of node {host} is not a port number; the default is used")
            port = None
        if not isinstance(cpus, int):
            warn(f"cpus {cpus!r} of node {host} is not a number; all are used")
            cpus = 0
        if not isinstance(setup_args, tuple):
            raise UsageError(
                f"setup_args of node {host} must be a tuple, not {setup_args!r:.100}",
                hint="setup_args=(value,) for one argument",
            )
        if isinstance(depends, (str, bytes)) or not isinstance(depends, (list, tuple, set, frozenset)):
            raise UsageError(
                f"depends of node {host} must be a list of files, not {depends!r:.100}",
                hint="depends=['data.csv'] for one file",
            )
        depends = list(depends)
        for item in depends:
            if not is_file_item(item):
                raise UsageError(
                    f"depends of node {host} must be files, not {item!r:.100}",
                    hint="functions and classes belong into depends of the cluster",
                )
            if not isinstance(item, types.ModuleType) and not os.path.exists(item):
                current_directory.absolute(os.fsdecode(item), f"depends of node {host}: file")
                raise UsageError(
                    f"depends of node {host}: there is no file {item!r}", hint="check the current directory"
                )
        self.host = host
        self.port = port
        self.cpus = cpus
        self.depends = depends
        self.setup_args = setup_args
        self.ip_addr: str | None = None
        """Address of ``host`` as text; None if that is a pattern or cannot be resolved."""
        if _port_hint(host):
            warn(f"node {host!r} is not used: its port is given beside its host; {_port_hint(host)}")
        elif "*" not in host:
            try:
                self.ip_addr = resolve(host)
            except UsageError as error:
                warn(f"node {host!r} is not used: {error}")
        pattern = host if self.ip_addr is None else self.ip_addr
        self._pattern = re.compile("".join(".*" if c == "*" else re.escape(c) for c in pattern))
        """Regular expression that the whole address of a node has to match: ``ip_addr``, or ``host`` with any text in
        the place of each ``*``."""

    def __repr__(self) -> str:
        """Returns what is asked for, and whether it can be had; also before ``__init__`` was called."""
        host, cpus = getattr(self, "host", None), getattr(self, "cpus", 0)
        if not isinstance(host, str):
            return (
                f"<{type(self).__name__} without a host: its __init__ has to call super().__init__(host)>"
            )
        parts = [
            clean(host, NAME_MAX) + (f" port {self.port}" if getattr(self, "port", None) else ""),
            ("all CPUs" if not cpus else f"at most {cpus} CPUs" if cpus > 0 else f"all but {-cpus} CPUs")
            if isinstance(cpus, int)
            else "",
            "" if hasattr(self, "_pattern") and self.is_usable else "not used: the host cannot be resolved",
        ]
        return f"<{type(self).__name__} {', '.join(filter(None, parts))}>"

    @property
    def is_usable(self) -> bool:
        """True if the host is a pattern or could be resolved. False: ``find_nodes`` leaves this element out."""
        return self.ip_addr is not None or ("*" in self.host and not _port_hint(self.host))

    @property
    def is_plain(self) -> bool:
        """True if this says nothing but a host and port: no CPUs, files or arguments, no class of the program's own.

        ``allocate_node`` ignores such an element if another one covers it.
        """
        return type(self) is NodeAllocate and not (self.cpus or self.depends or self.setup_args)

    def covers(self, other: NodeAllocate) -> bool:
        """True if this element names all nodes that ``other`` names; ``allocate_node`` then ignores a plain one.

        Only an equal pattern covers a pattern.
        """
        if self.port is not None and self.port != other.port:
            return False
        return self.matches(other.ip_addr) if other.ip_addr is not None else self.host == other.host

    def matches(self, ip_addr: str) -> bool:
        """True if this element names a node at this address, by its own address or pattern; ports do not count.

        All loopback addresses stand for each other, unless the host is a pattern.
        """
        if self._pattern.fullmatch(ip_addr):
            return True
        return self.ip_addr is not None and is_loopback(self.ip_addr) and is_loopback(ip_addr)

    def allocate(
        self,
        cluster: Any,
        ip_addr: str,
        name: str,
        cpus: int,
        avail_info: DispyNodeAvailInfo | None = None,
        platform: str = "",
    ) -> int:
        """Returns how many CPUs of a node to use; 0 or less leaves the node to the next element of ``nodes``.

        Called on a thread of its own, one call after the other, when a node is found, and again when the node offers
        another number of CPUs. Values above the offer are capped. If this raises, the error is logged,
        and the node is not used.

        Args:
            cluster: The cluster that asks.
            ip_addr: The node's address.
            name: The node's name.
            cpus: CPUs that the node offers.
            avail_info: Resources that the node has to spare; None if it has not told them.
            platform: ``platform.platform()`` of the node.
        """
        if not self.matches(ip_addr):
            return 0
        if self.cpus > 0:
            return min(self.cpus, cpus)
        left = cpus + self.cpus
        return left if left > 0 else cpus

    def limit_cpus(self, node: bytes, cpus: int, connected: Callable[[], Iterable[bytes]]) -> int:
        """Returns how many of the CPUs that ``allocate`` wants are used: all. A limit over several nodes has fewer.

        Args:
            node: Identity of the node.
            cpus: CPUs that are wanted, at most those that the node offers.
            connected: Returns the identities of all nodes that are connected. Not to be called on the engine's loop.
        """
        return cpus


def parse_nodes(nodes: Any) -> list[NodeAllocate]:
    """Parse a ``nodes`` argument in any of its forms; None or empty stands for all nodes of this machine.

    Elements that cannot be used are left out with a warning.

    Returns:
        At least one element, the most specific first.

    Raises:
        UsageError: The value is neither a list nor a text, or nothing in it can be used.
    """
    if _is_empty(nodes):
        return [NodeAllocate("*")]
    found = find_nodes(nodes)
    if not found:
        texts = [nodes] if isinstance(nodes, str) else nodes if isinstance(nodes, (list, tuple)) else []
        hints = [_port_hint(text) for text in texts if isinstance(text, str)]
        raise UsageError(
            f"none of nodes={nodes!r} can be used",
            hint=next(filter(None, hints), "check the names, or leave nodes out"),
        )
    return found


def _port_hint(host: str) -> str:
    """Returns a hint how to write a host and port if a text has both (``host:9701``), for errors; else empty."""
    found = re.fullmatch(r"(?:\[([^\]]*)\]|([^:\[\]]+)):(\d{1,5})", host)
    return f"write nodes=[({found[1] or found[2]!r}, {int(found[3])})]" if found else ""


_ADDRESS_PATTERN = r"[0-9a-fA-F:.*]+"
"""Regular expression for patterns that are compared with addresses in vain only if there is no such node."""


def say_blind(pattern: str, is_possible: bool) -> str:
    """Returns a message, for a warning and for ``JobCluster.why``, about a pattern that no known node matches.

    Says what patterns find, and what to do instead.

    Args:
        pattern: Host of an element of ``nodes``.
        is_possible: True if an address of this machine matches the pattern: then only no node runs there. False: the
            message says that this machine has no such address.
    """
    only = "patterns find nodes of this machine only, unless the secret is one of 'dispy secret new'"
    if not re.fullmatch(_ADDRESS_PATTERN, pattern):
        why = f": patterns are compared with addresses and not with names, and {only[9:]}"
    elif is_possible:
        why = f" that runs now: {only}"
    else:
        why = f": {only}, and it has no such address"
    return f"{pattern!r} in nodes matches no node{why}; name the others: nodes=[{_example(pattern)!r}]"


def _example(pattern: str) -> str:
    """Returns a host as an example for the advice: one that the pattern may have meant, else 192.168.1.20."""
    parts = pattern.split(".")
    if parts[-1] == "*" and 1 < len(parts) <= 4 and all(part.isdecimal() for part in parts[:-1]):
        return ".".join([*parts[:-1], *["0"] * (4 - len(parts)), "2"])
    return pattern.replace("*", "1") if pattern[0].isalpha() and ":" not in pattern else "192.168.1.20"


def _is_empty(nodes: Any) -> bool:
    """True if a ``nodes`` argument names no node: None, or an empty text, list or tuple."""
    return nodes is None or (isinstance(nodes, (str, list, tuple)) and not nodes)


def find_nodes(nodes: Any) -> list[NodeAllocate]:
    """Parse nodes in any form that ``nodes`` may have; elements that cannot be used are left out with a warning.

    Returns:
        The elements, the most specific first; empty if none can be used, which ``parse_nodes`` refuses.

    Raises:
        UsageError: The value is neither a list nor a text, or an element has a form that cannot name a node.
    """
    if _is_empty(nodes):
        return []
    if isinstance(nodes, (str, NodeAllocate, dict, DispyNode)):
        nodes = [nodes]
    if not isinstance(nodes, (list, tuple)):
        raise UsageError(
            f"nodes must be a list of hosts, not {type(nodes).__name__}", hint="nodes=['192.168.1.20']"
        )
    return sort_nodes(
        [parsed for parsed in map(_parse_node, nodes) if parsed is not None and parsed.is_usable]
    )


def covers_loopback(item: NodeAllocate) -> bool:
    """True if an element of ``nodes`` covers a loopback address, so that it may name a node of this machine."""
    return item.matches(LOOPBACK) or item.matches("::1")


def covers_beyond(item: NodeAllocate) -> bool:
    """True if an element of ``nodes`` is a pattern of addresses that other machines may have."""
    return (
        item.ip_addr is None
        and re.fullmatch(_ADDRESS_PATTERN, item.host) is not None
        and not item.host.startswith("127.")
    )


def sort_nodes(nodes: list[NodeAllocate]) -> list[NodeAllocate]:
    """Returns elements of ``nodes`` sorted, the most specific first: the first element that wants a node gets it.

    Hosts come before patterns; among hosts, and among patterns, longer texts come before shorter ones.
    """
    return sorted(nodes, key=lambda item: ("*" in item.host, -len(item.host)))


def _parse_node(node: Any) -> NodeAllocate | None:
    """Returns one element of ``nodes``, given in any form, as ``NodeAllocate``; None, with a warning, for any other.

    Raises:
        UsageError: The form is right, but an element has an unknown key, too many parts, or a value of a wrong type.
    """
    if isinstance(node, NodeAllocate):
        if not hasattr(node, "_pattern"):
            raise UsageError(
                f"nodes: {type(node).__name__} was made without NodeAllocate.__init__",
                hint="its own __init__ has to call super().__init__(host)",
            )
        return node
    if isinstance(node, str):
        return NodeAllocate(node)
    if isinstance(node, DispyNode):
        return NodeAllocate(node.ip_addr, port=node.port or None)
    if isinstance(node, (tuple, list)) and node:
        if len(node) > 5:
            raise UsageError(
                f"nodes: {node!r:.100} has more than host, port, cpus, depends and setup_args",
                hint="a list of nodes is a list of such tuples",
            )
        return NodeAllocate(*node)
    if isinstance(node, dict):
        unknown = set(node) - {"host", "port", "cpus", "depends", "setup_args"}
        if unknown:
            raise UsageError(
                f"nodes: unknown key {sorted(map(str, unknown))[0]!r} in {node!r:.100}",
                hint="host, port, cpus, depends and setup_args are known",
            )
        return NodeAllocate(**{"host": "*", **node})
    warn(f"{describe(node)} in nodes is ignored: it names no node")
    return None


class NodeNames:
    """The names by which a program means one node, given as ``DispyNode``, address or host name.

    Made on the thread of the program: a name that no connected node has is resolved, which may take seconds.

    Args:
        node: The value that the program gives.
        known: Returns the nodes that are connected: their names and addresses need not be resolved, which spares
            the question to the DNS where there is no network.

    Attributes:
        id: Identity of the node (bytes), if a ``DispyNode`` was given; else empty, and ``names`` counts.
        names: Names and addresses that mean the node, if a text was given: one match is enough. Else empty.
        text: The node's name and address, or the text that was given, for messages.

    Raises:
        UsageError: The value is neither a ``DispyNode`` nor a text.
    """

    __slots__ = ("id", "names", "text")

    def __init__(self, node: Any, known: Callable[[], list[NodeInfo]]) -> None:
        self.id = b""
        self.names: set[str] = set()
        self.text = ""
        if isinstance(node, DispyNode):
            self.id = node.node_id
            self.text = f"{node.name} ({node.ip_addr})"
            return
        if not isinstance(node, str) or not node:
            raise UsageError(
                f"a node is named by DispyNode, address or host name, not by {describe(node)}",
                hint="cluster.status().nodes has those in use",
            )
        self.text = node
        self.names.add(node)
        if any(node in (info.name, *info.addresses()) for info in known()):
            return
        try:
            self.names.add(resolve(node))
        except UsageError:  # a node may have a name that only it knows
            pass
