"""The pulse of a node: what is due once a second."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from dispy.core import execution as core
from dispy.core.execution.explain import find_stall
from dispy.node import guard, reporting
from dispy.node.processes.computations import own_children
from dispy.node.results import delivery
from dispy.node.state import NodeState
from dispy.settings import PULSE_S
from dispy.system.watchdog import Stall

logger = logging.getLogger("dispy.node")

TRIM_PULSES = 10
"""Pulses (1 s each) in a row without any computation after which the node removes the files in memory that it keeps
to use again for large payloads."""


class Pulse:
    """The pulse of one node. Call ``beat`` once; it goes on by itself until ``close``.

    Args:
        service: The node.
    """

    def __init__(self, service: NodeState) -> None:
        self._service = service
        self._timer: asyncio.TimerHandle | None = None
        """Timer of the next ``beat``; None before the first one."""
        self._idle_pulses = 0
        """Pulses in a row without any computation here; at ``TRIM_PULSES`` memory is given back."""
        self._stall = Stall(service.settings.stall_s)
        """Watchdog: finds when jobs that could go on have stood still for ``stall_s`` seconds. That is logged as an
        error, once for each standstill; no job is ended."""

    def beat(self) -> None:
        """Do what is due once a second (``PULSE_S``): run the watchdog, tell clients what the machine has to spare,
        reap dead children, write log lines that are due, trim unused memory, check the entry in the list of nodes.

        While no worker is busy it also tells the core the time (``Tick``), which is else done every 10 ms.
        """
        service = self._service
        self._timer = guard.later(service, PULSE_S, None, self.beat)
        for step in (
            self._on_second,
            partial(delivery.tell_available, service),
            lambda: service.strays.reap(own_children(service)),
            partial(reporting.on_pulse, service),
            self._trim_if_idle,
            service.entrance.keep_listed,
        ):
            guard.run(service, None, step)

    def _on_second(self) -> None:
        """Tell the core the time while no worker is busy, and log a standstill that the watchdog finds."""
        if not self._service.machine.state.busy:
            self._service.handle(core.Tick({}))
        stalled = self._stall.look(find_stall(self._service.machine.state), self._service.clock.monotonic())
        if stalled:
            logger.error("nothing has moved for %g s: %s", self._stall.limit_s, stalled)

    def _trim_if_idle(self) -> None:
        """Give unused memory back once there was no computation for ``TRIM_PULSES``."""
        self._idle_pulses = 0 if self._service.loaded else self._idle_pulses + 1
        if self._idle_pulses == TRIM_PULSES:
            self._service.segments.trim()

    def close(self) -> None:
        """End it."""
        if self._timer is not None:
            self._timer.cancel()
