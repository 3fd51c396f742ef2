"""Rows of a journal that the writer and the reader share: computations with their options, and nodes."""

from __future__ import annotations

import msgspec

from dispy.files.manifest import Signature
from dispy.protocol.files import FileEntry

# States of a node.
USED = 1
"""The program uses the node, or has used it: jobs and results may be there."""
GIVEN_UP = 2
"""The node's jobs were told to the program as lost: results that the node may still have come too late."""
PRIVATE = 3
"""The node was started by the program for itself, and ended with the program."""


class Options(msgspec.Struct):
    """Options of a computation: what a successor needs to reach its nodes and to run it again. Holds no secret."""

    fingerprint: str = ""
    """Fingerprint of the secret that the cluster shares with its nodes."""
    secret_file: str = ""
    """Path of the file with that secret; empty if the program gave none."""
    certfile: str = ""
    """Path of the certificate (PEM) of ``JobCluster``; empty if none was given."""
    keyfile: str = ""
    """Path of the certificate's key; empty if none was given."""
    cafile: str = ""
    """Path of the authority's certificate; empty if none was given."""
    tls: bool | None = None
    """True: always TLS. False: never. None: with a certificate, or if the node is on another machine."""
    isolate: bool = False
    """True if each job runs in a fresh process."""
    reentrant: bool = False
    """True if jobs may run again elsewhere when their node is lost."""
    exclusive: bool = False
    """True if the cluster keeps other clusters off its nodes."""
    program: bool = False
    """True if the computation is a program and not a function."""
    setup_per: str = "node"
    """Place where setup runs: once on each "node", or in each process of jobs ("worker")."""
    setup_timeout: float | None = None
    """Limit for a setup (seconds); None: no limit."""
    pulse_s: float | None = None
    """Interval of heartbeats (seconds); None: the default one."""
    nodes: list[tuple[str, int, int]] = []
    """Elements of ``nodes``: host or pattern, port (0: the default one) and number of CPUs (0: all)."""
    dest_path: str = ""
    """Name of the working directory on the nodes; empty: one of the cluster's own."""
    keeps_files: bool = False
    """True if nodes keep the working directory when the cluster ends (``cleanup=False`` or None)."""
    files: list[FileEntry] = []
    """Files that each node gets before the first job."""
    sources: list[tuple[bytes, str, Signature]] = []
    """Places of the bytes of ``files`` on the client's disk: digest, path, and the signature that the file had."""


class NodeRow(msgspec.Struct, frozen=True):
    """A node of a program."""

    incarnation: bytes
    """Identity of the node's run: a node that is started again has another one."""
    host: str
    port: int
    name: str
    """Name by which the program reached the node: the node's certificate must be for it."""
    label: str
    """Name that the node gives itself."""
    tls: bool
    """True if the program reached the node over TLS."""
    fingerprint: str
    """Fingerprint of the secret that is used with the node."""
    state: int = USED
    """One of ``USED``, ``GIVEN_UP`` and ``PRIVATE``."""
