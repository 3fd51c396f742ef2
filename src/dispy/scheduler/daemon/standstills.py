"""Standstills: jobs of a cluster that do not move though they could, told to its program, which warns its user."""

from __future__ import annotations

from collections.abc import Iterable

from dispy.core.scheduling.explain import find_stall
from dispy.protocol import shared
from dispy.scheduler.daemon.programs import Program, SharedCluster
from dispy.scheduler.service import SchedulerService

LOOK_S = 0.5
"""Seconds between two looks. A program warns when the same words have stood for ten seconds."""


def tell_standstills(service: SchedulerService, programs: Iterable[Program]) -> None:
    """Tell programs which jobs of each cluster stand still, in words, where that has changed since they were told.

    Programs that are away are told nothing: by the time that they come back the words are old.
    """
    for program in programs:
        if program.connection is None:
            continue
        for cluster in program.clusters.values():
            found = _find(service, program, cluster) if cluster.open else ""
            if found != cluster.standstill:
                cluster.standstill = found
                program.channel.send(shared.Standstill(0, cluster.number, found))


def _find(service: SchedulerService, program: Program, cluster: SharedCluster) -> str:
    """Returns in words which jobs of a cluster stand still; empty, too, while a large payload is on its way to one of
    its nodes: that is no standstill."""
    computation = service.state.computations[program.client, cluster.number]
    found = find_stall(computation)
    return "" if found and any(map(service.links.is_sending, computation.placements)) else found
