"""Stand-in of a shared scheduler for a program that is away: nodes are taken into use, and results are bounded.

A program answers each offer of a node itself. While it is away, perhaps for ever, its clusters use new nodes by the
elements of ``nodes`` that they have named. Where the program has to be asked (a class of its own, files or code for
some nodes), a new node waits for it.

Results are kept in memory until the program or a recovery has them. Beyond a bound the program's jobs start no more:
those that run end, the others wait.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from dispy.core import scheduling as core
from dispy.protocol.limits import MIB
from dispy.protocol.node import Ended
from dispy.protocol.shared import Wish
from dispy.protocol.views import NodeInfo
from dispy.scheduler.daemon.programs import Program, SharedCluster
from dispy.system.addresses import is_loopback
from dispy.system.wording import counted

if TYPE_CHECKING:
    from dispy.scheduler.service import SchedulerService

logger = logging.getLogger("dispy.scheduler")

KEPT_MAX = 1_000_000
"""Results that are kept of a program that is away: some 300 MB beside their payloads."""

KEPT_SIZE_MAX = 1024 * MIB
"""Bytes of results and output that are kept of a program that is away."""


# Nodes.


def cpus_of(wishes: list[Wish], info: NodeInfo) -> int:
    """Returns how many CPUs of a node a cluster uses, by the first element of ``nodes`` that names it; 0: none, or
    the program has to be asked."""
    for wish in wishes:
        if _matches(wish, info):
            if wish.is_asked:
                return 0
            if wish.cpus > 0:
                return min(wish.cpus, info.cpus)
            return info.cpus + wish.cpus if info.cpus + wish.cpus > 0 else info.cpus
    return 0


def _matches(wish: Wish, info: NodeInfo) -> bool:
    """True if an element of ``nodes`` names a node, as ``client.nodes.NodeAllocate.matches`` says."""
    if wish.port and wish.port != info.port:
        return False
    text = wish.ip_addr or wish.host
    pattern = re.compile("".join(".*" if c == "*" else re.escape(c) for c in text))
    return any(
        pattern.fullmatch(address) is not None
        or (bool(wish.ip_addr) and is_loopback(wish.ip_addr) and is_loopback(address))
        for address in info.addresses()
    )


def use(service: SchedulerService, program: Program, info: NodeInfo) -> None:
    """Use a node for clusters of a program that is away, unless the program has said how it wants it."""
    if program.is_there or program.is_held:
        return
    for cluster in program.clusters.values():
        if info.node not in cluster.answered and not cluster.allocated.get(info.node):
            cpus = cpus_of(cluster.wishes, info)
            if cpus:
                cluster.allocated[info.node] = cpus
                _allocate(service, program, cluster, info, cpus)


def begin(service: SchedulerService, program: Program) -> None:
    """A program is away from now on: use the nodes that it was offered and has not answered."""
    for info in service.links.nodes():
        use(service, program, info)
    hold(service, program)


def _allocate(
    service: SchedulerService, program: Program, cluster: SharedCluster, info: NodeInfo, cpus: int
) -> None:
    service.handle(core.Allocate(program.client, cluster.number, info.node, cpus, not cpus))


# Results.


def keep(service: SchedulerService, program: Program, ended: list[Ended]) -> None:
    """Count results of a program that is away, and hold its jobs if they are too many."""
    if program.is_there:
        return
    program.kept += len(ended)
    program.kept_size += sum([len(each.payload) + len(each.stdout) + len(each.stderr) for each in ended])
    hold(service, program)


def hold(service: SchedulerService, program: Program) -> None:
    """Hold the jobs of a program that is away if too many results are kept. A recovery that is here takes them."""
    if program.connection is not None or program.is_held:
        return
    if program.kept > KEPT_MAX or program.kept_size > KEPT_SIZE_MAX:
        program.is_held = True
        kept = f"{counted(program.kept, 'result')} of {program.kept_size // MIB} MiB"
        logger.warning("program %s is away, and %s are kept for it: its jobs wait", program.name, kept)
        _limit(service, program, is_held=True)


def end(service: SchedulerService, program: Program) -> None:
    """Let jobs of a program start again that were held: it, or a recovery, takes the results from now on."""
    if program.is_there:
        program.kept = program.kept_size = 0
    if program.is_held:
        program.is_held = False
        _limit(service, program, is_held=False)


def _limit(service: SchedulerService, program: Program, *, is_held: bool) -> None:
    """Have the clusters of a program use no CPUs of any node; or those that they have again."""
    for info in service.links.nodes():
        for cluster in program.clusters.values():
            wanted = cluster.allocated.get(info.node)
            if wanted:
                _allocate(service, program, cluster, info, 0 if is_held else wanted)
