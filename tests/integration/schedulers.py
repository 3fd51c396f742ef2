"""Shared schedulers for tests: started as clusters need them, each with the secret and certificates of its nodes."""

from __future__ import annotations

import inspect
import os
from typing import Any

import dispy
from dispy import config

from .helpers import Place, Scheduler

IS_SHARED = os.environ.get("DISPY_TEST_BACKEND") == "shared"
"""Whether clusters of ``make_cluster`` are those of a shared scheduler."""

EXCEPTIONS: dict[str, str] = {}
"""Test functions that are skipped over a shared scheduler, with the reason."""

_PARAMETERS = list(inspect.signature(dispy.JobCluster.__init__).parameters)[1:]

_OF_NODES = {
    "secret": "--node_secret", "secret_file": "--node_secret_file", "certfile": "--node_certfile",
    "keyfile": "--node_keyfile", "cafile": "--node_cafile", "pulse_interval": "--pulse_interval",
}  # fmt: skip
"""Parameters of ``JobCluster`` that are options of its scheduler."""


class Schedulers:
    """The schedulers of a test.

    Args:
        place: Where they run.
        start_node: Starts a node where a program would start its own.
    """

    def __init__(self, place: Place, start_node: Any) -> None:
        self._place = place
        self._start_node = start_node
        self._running: dict[tuple[str, ...], Scheduler] = {}
        self._has_node = False

    def start(self, *arguments: str) -> Scheduler:
        """Returns a scheduler with these options, which is started if the test has none."""
        running = self._running.get(arguments)
        if running is None or running.process.poll() is not None:
            running = Scheduler(self._place, "--listen_port", "0", *arguments).wait_listens()
            self._running[arguments] = running
        return running

    def make_cluster(self, *args: Any, **kwargs: Any) -> dispy.JobCluster:
        """Make a cluster as ``JobCluster`` would, at a scheduler with its secret, certificates and heartbeat."""
        given = dict(zip(_PARAMETERS, args, strict=False)) | kwargs
        options = []
        for name, option in _OF_NODES.items():
            value = given.pop(name, None)
            if value:
                options += [option, str(value)]
        tls = given.pop("tls", None)
        if tls is not None:
            options.append("--tls" if tls else "--no_tls")
        for name in ("ping_interval", "ipv4_udp_multicast", "node_port"):
            given.pop(name, None)
        if given.get("nodes") is None and config.LocalNode and not self._start_node.started:
            self._start_node()
        named = given.get("nodes") or []
        if isinstance(named, list) and all(isinstance(each, tuple) and len(each) > 1 for each in named):
            for host, port, *_ in named:  # not beside them those that the list of this machine has
                options += ["--node", f"{host}:{port}"]
        scheduler = self.start(*options)
        return dispy.SharedJobCluster(
            scheduler_host=scheduler.host, scheduler_port=scheduler.port, tls=tls, **given
        )

    def close(self) -> None:
        """End them all, and fail if one complains."""
        faults = []
        for scheduler in self._running.values():
            scheduler.stop()
            if "Traceback" in scheduler.stderr:
                faults.append(f"the scheduler complains: {scheduler.stderr}")
            scheduler.end()
        assert not faults, "\n".join(faults)
