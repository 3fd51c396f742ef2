"""Rows of a journal that the writer and the reader share: computations with their options, and nodes."""

from __future__ import annotations

import msgspec

from dispy.files.manifest import Signature
from dispy.protocol.files import FileEntry

# States of a node.
USED = 1
"""State of a node that the program uses or has used: jobs and results may be there, so a recovery asks it."""
GIVEN_UP = 2
"""State of a node whose jobs were told to the program as lost: a recovery ignores results that it still has."""
PRIVATE = 3
"""State of a node that the program started for itself, and that ended with the program. No recovery asks it."""
SCHEDULER = 4
"""State of a row that is no node but a shared scheduler: it has all jobs of the program, and a recovery asks it."""


class Options(msgspec.Struct):
    """Options of a computation: a successor reaches its nodes by them, and runs its jobs in the same way.

    Stored in the journal as a MessagePack map. The secret is not among them, only its fingerprint.
    """

    fingerprint: str = ""
    """Fingerprint of the secret that the cluster shares with its nodes: 16 hexadecimal digits, to recognize it."""
    secret_file: str = ""
    """Path of the file with that secret; empty if the program gave none."""
    certfile: str = ""
    """Path of the certificate (PEM) that was given to ``JobCluster``; empty if none was."""
    keyfile: str = ""
    """Path of the certificate's key (PEM); empty: none was given, so the key is in ``certfile``."""
    cafile: str = ""
    """Path of the certificate of the authority that signs those of nodes; empty if none was given."""
    tls: bool | None = None
    """True: always TLS. False: never. None: with a certificate, or if the node is on another machine."""
    isolate: bool = False
    """True if each job runs in a fresh process."""
    reentrant: bool = False
    """True if jobs may run again elsewhere when their node is lost: a successor then runs jobs that may have run."""
    exclusive: bool = False
    """True if the cluster keeps other clusters off its nodes."""
    program: bool = False
    """True if the computation is a program and not a function: the output of its jobs is bytes."""
    results: str = "any"
    """Results that the program takes: "any", or "plain" for those that need no code here."""
    setup_per: str = "node"
    """Place where setup runs: once on each "node", or in each process of jobs ("worker")."""
    setup_timeout: float | None = None
    """Limit for a setup (seconds); None: no limit."""
    pulse_s: float | None = None
    """Interval of heartbeats (seconds); None: the default one."""
    nodes: list[tuple[str, int, int]] = []
    """Elements of ``JobCluster(nodes=...)``, in order: host or pattern, TCP port (0: the default one) and number of
    CPUs (0: all)."""
    dest_path: str = ""
    """Name of the working directory of jobs on the nodes; empty: a directory of the cluster's own."""
    keeps_files: bool = False
    """True if nodes keep the working directory when the cluster ends (``cleanup=False`` or None)."""
    files: list[FileEntry] = []
    """Files that each node gets before the first job of the computation."""
    sources: list[tuple[bytes, str, Signature]] = []
    """Places of the bytes of ``files`` on the client's disk: of each file the SHA-256 digest, the path, and the
    signature that the file had (device, inode, size, two times). A file with another one now is not sent."""


class NodeRow(msgspec.Struct, frozen=True):
    """A node that a program used, or a shared scheduler: how a successor reaches it, and whether it asks for jobs."""

    incarnation: bytes
    """Identity of the node's run: a node that is started again has another one, and no jobs in memory."""
    host: str
    """Host name or IP address at which the program reached the node."""
    port: int
    """TCP port at which the program reached the node."""
    name: str
    """Name by which the program reached the node: the node's certificate must be for it."""
    label: str
    """Name that the node gives itself."""
    tls: bool
    """True if the program reached the node over TLS."""
    fingerprint: str
    """Fingerprint of the secret that is used with the node: 16 hexadecimal digits."""
    state: int = USED
    """Relation of the program to the node: ``USED``, ``GIVEN_UP``, ``PRIVATE`` or ``SCHEDULER``. The first and the
    last are asked."""
