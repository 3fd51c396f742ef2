"""Values that programs may assign before they create anything; read when a cluster or node starts.

``DispyPort`` is the base port; ``NodePort`` and the others follow from it unless assigned.
"""

from __future__ import annotations

DispyPort = 9700
"""Base port of all programs of one installation."""

IPv4MulticastGroup = "239.255.61.59"
IPv6MulticastGroup = "ff05::b409:3171:9705:5134:6159"

MsgTimeout = 10
"""Seconds that ``dispy_provisional_result`` waits by default."""

MaxFileSize = 0
"""Largest file transferred (bytes); 0 is unlimited."""

Java = "/usr/bin/java"
"""What runs computations that are ``.java`` files, on the nodes; where it is not there, ``java`` in ``PATH``."""

LocalNode = True
"""Whether a cluster may start a node of its own where none runs on this machine."""

SharedMemory = True
"""Whether large data goes to nodes of this machine, and comes from them, by shared memory."""

Journal = True
"""Whether programs note which nodes they use, in the user's state directory, so that ``recover_jobs`` finds the
results of one that dies."""

CancelGrace = 5.0
"""Seconds between the interrupt of a cancelled job and its end by force."""


def node_port() -> int:
    """Where nodes listen by default: the base port + 1."""
    return DispyPort + 1
