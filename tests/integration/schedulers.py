"""Shared schedulers for tests: started as clusters need them, each with the secret and certificates of its nodes."""

from __future__ import annotations

import inspect
import os
from typing import Any

import dispy
from dispy import config
from dispy.net.discovery import Lookout

from .helpers import Node, Place, Scheduler

IS_SHARED = os.environ.get("DISPY_TEST_BACKEND") == "shared"
"""Whether clusters of ``make_cluster`` are those of a shared scheduler."""

_BYTES = "it counts the bytes between a program and its nodes; a scheduler stands between"
_NAMES = "nodes name the scheduler to their administrator, not its programs"

EXCEPTIONS = {
    "test_a_file_is_sent_once": _BYTES,
    "test_a_line_that_breaks_in_the_middle_of_large_data": _BYTES,
    "test_a_wrong_size_is_the_fault_of_who_says_it": _BYTES,
    "test_it_travels_once_and_is_unpickled_once_by_a_worker": _BYTES,
    "test_one_of_several_nodes_of_a_machine_fetches_a_file": _BYTES,
    "test_two_programs_of_one_name_can_be_told_apart": _NAMES,
    "test_what_can_be_typed": _NAMES,
    "test_a_node_keeps_no_more_lists_than_it_may": "a node counts lists of files by client: here the scheduler",
    "test_a_file_for_setup": "the program's own node says what to do; here the scheduler's does",
    "test_what_a_killed_node_left_is_removed_by_the_next_one_and_its_client": "the scheduler is a client that stays",
}
"""Test functions that are skipped over a shared scheduler, with the reason: at most ``EXCEPTIONS_MAX``."""

EXCEPTIONS_MAX = 10

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
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._own: list[Node] = []
        """Nodes where a program would have started its own."""
        self._running: dict[tuple[str, ...], Scheduler] = {}

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
        if given.get("nodes") is None and config.LocalNode and not Lookout().running():
            self._own.append(Node(self._place, "--listen_port", "0", is_forked=True).wait_listens())
        named = given.get("nodes") or []
        if isinstance(named, list) and all(map(_is_address, named)):
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
        for node in self._own:
            node.stop()
            node.end()
        assert not faults, "\n".join(faults)


def _is_address(node: Any) -> bool:
    """True if an element of ``nodes`` names a node by address and port."""
    return isinstance(node, tuple) and len(node) > 1 and "*" not in node[0] and 0 < node[1] < 65536
