"""Files that nodes ask a program for which is away: another program of the same owner is asked, if it has them.

A node keeps one copy of a file for all programs of an owner, and asks one of them for it, by its computation. Without
this the others would wait until that one is back, or its lease is over. The node itself knows which computations lack
the file, and whether it has come meanwhile; it is told only that this one cannot be asked now, at each look: another
one may have come to need the file.
"""

from __future__ import annotations

from collections.abc import Iterable

from dispy.core.scheduling.ids import NodeId
from dispy.protocol import node
from dispy.scheduler.daemon.programs import Program, SharedCluster
from dispy.scheduler.service import SchedulerService

AT_ONCE = 256
"""Files of a cluster that are passed on at one look: nodes ask for some megabytes at once."""


def note_needed(cluster: SharedCluster, found: NodeId, pieces: list[node.Piece]) -> None:
    """Note which files a node asks for, and up to where."""
    for piece in pieces:
        cluster.needed[found, piece.digest] = piece.offset + piece.size


def note_sent(cluster: SharedCluster, found: NodeId, pieces: list[node.FilePiece]) -> None:
    """Forget files that were sent up to where the node has asked."""
    for piece in pieces:
        end = cluster.needed.get((found, piece.digest))
        if end is not None and piece.offset + len(piece.data) >= end:
            del cluster.needed[found, piece.digest]


def pass_on(service: SchedulerService, programs: Iterable[Program]) -> None:
    """Have nodes ask others for the files that they have asked programs for which are away. Call now and then."""
    programs = list(programs)
    away = [program for program in programs if program.connection is None]
    if not any(cluster.needed for program in away for cluster in program.clusters.values()):
        return
    there = [program for program in programs if program.connection is not None]
    owners = {_owner(service, program, number) for program in there for number in program.clusters}
    for program in away:
        for cluster in program.clusters.values():
            if cluster.needed and _owner(service, program, cluster.number) in owners:
                for found, digest in list(cluster.needed)[:AT_ONCE]:
                    # It may have come from elsewhere; the others have their turns before.
                    cluster.needed[found, digest] = cluster.needed.pop((found, digest))
                    message = node.FileUnreadable(cluster.number, digest, "its program is away", True)
                    service.send_unreadable(found, program.client, message)


def _owner(service: SchedulerService, program: Program, number: int) -> bytes:
    """Returns the owner of the files of a cluster."""
    return service.state.computations[program.client, number].compute.owner
