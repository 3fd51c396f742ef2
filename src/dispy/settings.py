"""Settings of the node, made once from the command line, checked as a whole and frozen; and heartbeat intervals.

A private node gets its settings from its program, as JSON on standard input.
"""

from __future__ import annotations

import os
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from dispy import config
from dispy.errors import UsageError
from dispy.system import current_directory
from dispy.system.watchdog import STALL_S

PULSE_S = 1.0
"""Heartbeat interval (seconds): the longest time between two signs of life on a connection, unless a program asks for
another one (``JobCluster(pulse_interval=...)``). Nodes also do their periodic work in this interval."""

SILENT_PULSES = 5
"""Number of heartbeat intervals without a byte from a peer after which the connection ends."""

IDLE_S = 10.0
"""Time for which superfluous processes of jobs may be idle on a node (seconds): longer than the pauses in which a
program looks at results and submits again, so that these do not cost it the start of processes (some 3 ms each)."""

PULSE_MIN_S = 0.1
"""Smallest heartbeat interval that a program may ask for (seconds); less raises ``UsageError``."""
PULSE_MAX_S = 1000.0
"""Largest heartbeat interval that a program may ask for (seconds); more raises ``UsageError``."""

Port = Annotated[int, Meta(ge=0, le=65535)]
"""Number of a TCP port; 0 means any free port, where that is allowed."""


class NodeSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a node; most are options of ``dispynode`` of the same name. Decoding an unknown one is an error."""

    cpus: int = 0
    """Number of CPUs to offer, and so of jobs at once. 0: all CPUs that this process may use; -N: N fewer."""
    host: str = "127.0.0.1"
    """Host name or IP address to listen on; other machines reach the node only if it is not loopback."""
    dispy_port: Port = config.DispyPort
    """Base port; the node listens on the next one. If that is taken, a node on loopback warns and takes any free
    port, others do not start."""
    listen_port: Port | None = None
    """Exact port to listen on; 0: any free port; None: as ``dispy_port`` says."""
    name: str = ""
    """Name of the node in the logs and tables of its clients; empty: the host's name."""
    secret: str = ""
    """Secret shared with clients. If neither this nor ``secret_file`` is given: that of ``DISPY_SECRET``, else the
    user's own."""
    secret_file: str | None = None
    """Path of the file with the secret; None: not used."""
    force_weak_secret: bool = False
    """True: listen beyond loopback also with a typed secret that is easy to guess. False: the node does not start."""
    certfile: str | None = None
    """Path of the PEM file with the certificate that clients get, and its key unless that is in ``keyfile``; None: a
    certificate is made for this run."""
    keyfile: str | None = None
    """Path of the PEM file with the key of ``certfile``; None: the key is in ``certfile``."""
    cafile: str | None = None
    """Path of the PEM file of the authority that must have signed the certificates of clients; None: clients need
    none."""
    tls: bool | None = None
    """False: TCP without TLS, and a Unix socket for programs of this user and machine. True: TLS, and no Unix socket.
    None: TLS, and a Unix socket unless there is a ``certfile``; on loopback TLS is made at the first connection."""
    user: str = ""
    """Name of the account that jobs run as (only root can give another one); empty: the node's own. Several names,
    separated by commas: clients get them in turn."""
    dest_path_prefix: str = ""
    """Directory in which the node keeps working directories, created if missing; empty: the temporary directory."""
    ipv4_udp_multicast: bool = False
    """True: programs on other machines are told by multicast that the node is there; False: by broadcast."""
    debug: bool = False
    """True: log each message and decision, for finding faults."""
    daemon: bool = False
    """True: do not read commands from the terminal, and run on when it is closed (SIGHUP is ignored)."""
    owner: int = 0
    """Pid of the program whose private node this is: the node ends with it, is not listed, and logs warnings only.
    0: not private."""
    lease_s: Annotated[float, Meta(gt=0)] = 3600.0
    """Lease: seconds for which jobs and results of a silent client are kept. After that its jobs are killed, and its
    results dropped. Infinite: they are kept until they are fetched."""
    silence_s: Annotated[float, Meta(gt=0)] = PULSE_S * SILENT_PULSES
    """Seconds for which a silent client keeps its share of the CPUs, and its exclusive use of the node. After that it
    counts as dead: others get its CPUs, and its results go to disk. It may come back until its lease ends."""
    idle_s: Annotated[float, Meta(gt=0)] = IDLE_S
    """Seconds for which a process of jobs may be idle while its cluster is open, if more than twice as many as CPUs
    and 8 more are idle on the node. After that it ends; when jobs come again, another one is started."""
    spool_max: Annotated[int, Meta(ge=0)] = 1 << 30
    """Bytes of results on disk for clients that are dead; 0: none. Results above the limit stay in memory. 1 GiB fits
    on any machine of today, and holds the results of an hour for jobs that return a page of text."""
    store_max: Annotated[int, Meta(ge=0)] = 8 << 30
    """Bytes of clients' files that are kept on disk to be used again. Above that the files used longest ago are
    removed. 0: none are kept. 8 GiB are a tenth of a small disk of today."""
    max_file_size: Annotated[int, Meta(ge=0)] = 0
    """Bytes of the largest file that is taken from a client, or sent to one; larger ones are refused, with an error
    for the computation or job. 0: no limit."""
    listed_max: Annotated[int, Meta(gt=0)] = 1_000_000
    """Largest number of files in all lists of one client's computations and jobs together; a list that would exceed
    it is refused. 1 million take 330 MB of memory."""
    force_cleanup: bool = False
    """True: remove each working directory when its computation is closed, even if the client wants to keep it."""
    stall_s: Annotated[float, Meta(gt=0)] = STALL_S
    """Seconds for which jobs that could go on may stand still. After that the node logs an error, once for each
    standstill, which names the jobs or the worker. Nothing is ended."""


_PATHS = ("secret_file", "certfile", "keyfile", "cafile", "dest_path_prefix")
"""Names of the settings that are paths: ``check_node`` makes them absolute."""


def check_node(settings: NodeSettings, cpus_present: int) -> NodeSettings:
    """Check settings as a whole, before anything is made.

    Args:
        settings: The settings as given.
        cpus_present: Number of CPUs that this process may use.

    Returns:
        The settings with absolute paths, since host processes have other current directories.

    Raises:
        UsageError: Settings are wrong; the text names all faults at once.
    """
    faults = []
    paths: dict[str, str | None] = {}
    for name in _PATHS:
        try:
            paths[name] = current_directory.own_file(getattr(settings, name), name)
        except UsageError as error:
            faults.append(str(error))
    prefix = paths.get("dest_path_prefix")
    fault = _prefix_fault(prefix) if prefix else ""
    if fault:
        faults.append(f"dest_path_prefix: {fault}")
    if settings.cpus > cpus_present:
        faults.append(f"cpus: {settings.cpus} are asked for, {cpus_present} are usable")
    if settings.cpus <= -cpus_present:
        faults.append(f"cpus: leaving {-settings.cpus} of {cpus_present} unused leaves none")
    if settings.secret and settings.secret_file:
        faults.append("secret and secret_file: give one of them")
    if settings.dispy_port > 65000:
        faults.append(f"dispy_port: {settings.dispy_port} leaves no room for the ports after it")
    if not settings.name.isprintable() or len(settings.name) > 255:
        faults.append("name: up to 255 printable characters")
    if faults:
        raise UsageError("; ".join(faults), hint="see 'dispynode --help'")
    changed = {name: path for name, path in paths.items() if path and path != getattr(settings, name)}
    return msgspec.structs.replace(settings, **changed) if changed else settings


def _prefix_fault(path: str) -> str:
    """Returns why a directory (absolute path) can be neither used nor created, as a text; empty if it can."""
    above = path
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    subject = repr(path) if above == path else f"{path!r} cannot be made, as {above!r}"
    if not os.path.isdir(above):
        return f"{subject} is not a directory"
    if not os.access(above, os.W_OK | os.X_OK):
        return f"{subject} cannot be written to by this user"
    return ""


def effective_cpus(wanted: int, present: int) -> int:
    """Returns the number of CPUs that the node offers: ``wanted`` if positive; ``present`` for 0; N fewer for -N.

    At least 1, as ``check_node`` has refused other settings.
    """
    return wanted if wanted > 0 else present + wanted


settings_decoder = msgspec.json.Decoder(NodeSettings)
"""Decodes the settings of a private node, which its program sends as JSON; raises ``msgspec.ValidationError``."""


class UserSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Part and limits of a user of a shared scheduler, with all programs together."""

    weight: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    """Part of the CPUs, relative to other users, while all of them have jobs waiting."""
    cpus_max: Annotated[int, Meta(ge=1)] | None = None
    """Number of jobs that may be on nodes at once; None: no limit."""
    queued_max: Annotated[int, Meta(ge=1)] | None = None
    """Number of jobs that may have been submitted and not ended; ``submit`` waits then. None: no limit."""


POLICIES = ("fair", "fifo", "round-robin", "early", "exclusive")
"""Orders in which clusters have their turns at a shared scheduler. ``exclusive`` is ``fair``, and a cluster with
``exclusive=True`` is alone with all nodes, from when those before it are closed."""


PAYLOAD_MEMORY = 256 << 20
"""Bytes of large data of one program in a shared scheduler's memory: as much as is under way to a few nodes. For what
waits for longer a disk is good enough."""


class SchedulerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a shared scheduler; most are options of ``dispyscheduler`` of the same name."""

    hosts: tuple[str, ...] = ("127.0.0.1",)
    """Host names or IP addresses to listen on for programs."""
    port: Port = config.DispyPort
    """Base port: programs come to ``port`` + 2, or to this one."""
    listen_port: Port | None = None
    """Exact port for programs; 0: any free port; None: as ``port`` says."""
    nodes: tuple[str, ...] = ()
    """Nodes to use, as "HOST" or "HOST:PORT"; empty or "*": those of this machine, and of its networks."""
    ipv4_udp_multicast: bool = False
    """True: nodes of other machines are sought by multicast; False: by broadcast."""
    name: str = ""
    """Name of the scheduler for people; empty: the host's name."""
    node_secret: str = ""
    """Secret shared with nodes; with neither this nor the file: that of ``DISPY_SECRET``, else the user's own."""
    node_secret_file: str | None = None
    """Path of the file with the secret for nodes."""
    node_certfile: str | None = None
    """Path of the PEM file with the certificate shown to nodes."""
    node_keyfile: str | None = None
    """Path of the PEM file with its key; None: it is in ``node_certfile``."""
    node_cafile: str | None = None
    """Path of the PEM file of the authority that must have signed the certificates of nodes."""
    cluster_secret: str = ""
    """Secret shared with programs; with neither this nor the file: that of ``DISPY_SECRET``, else the user's own."""
    cluster_secret_file: str | None = None
    """Path of the file with the secret for programs."""
    cluster_certfile: str | None = None
    """Path of the PEM file with the certificate shown to programs."""
    cluster_keyfile: str | None = None
    """Path of the PEM file with its key; None: it is in ``cluster_certfile``."""
    cluster_cafile: str | None = None
    """Path of the PEM file of the authority that must have signed the certificates of programs."""
    tls: bool | None = None
    """False: no TLS. True: TLS on all links. None: TLS over TCP; none on Unix sockets."""
    force_weak_secret: bool = False
    """True: listen beyond loopback also with a typed secret that is easy to guess."""
    lease_s: Annotated[float, Meta(gt=0)] = 3600.0
    """Seconds for which jobs and results of a program that is away are kept; infinite: for ever."""
    pulse_s: Annotated[float, Meta(ge=PULSE_MIN_S, le=PULSE_MAX_S)] = PULSE_S
    """Heartbeat interval of nodes (seconds): one that is silent for five of them is dead."""
    policy: str = "fair"
    """One of ``POLICIES``."""
    users: dict[str, UserSettings] = {}
    """Parts and limits of users, by login name; others have the usual values."""
    known_users: bool = False
    """True: programs of users that are not in ``users`` are refused."""
    cooperative: bool = False
    """True: each program may change the number of CPUs of nodes for all."""
    payload_memory: Annotated[int, Meta(ge=0)] = PAYLOAD_MEMORY
    """Bytes of large data that each program may have in the scheduler's memory. More of it lies on disk."""
    cleanup_nodes: bool = False
    """True: working directories are removed from nodes when a cluster closes, whatever its program wants."""
    debug: bool = False
    """True: log each message and decision."""
    daemon: bool = False
    """True: do not read commands from the terminal, and run on when it is closed."""


_SCHEDULER_PATHS = (
    "node_secret_file", "node_certfile", "node_keyfile", "node_cafile",
    "cluster_secret_file", "cluster_certfile", "cluster_keyfile", "cluster_cafile",
)  # fmt: skip
"""Names of the settings that are paths."""


def check_scheduler(settings: SchedulerSettings) -> SchedulerSettings:
    """Check settings as a whole, before anything is made; returns them with absolute paths.

    Raises:
        UsageError: Settings are wrong; the text names all faults at once.
    """
    faults = []
    paths: dict[str, str | None] = {}
    for name in _SCHEDULER_PATHS:
        try:
            paths[name] = current_directory.own_file(getattr(settings, name), name)
        except UsageError as error:
            faults.append(str(error))
    for side in ("node", "cluster"):
        if getattr(settings, f"{side}_secret") and getattr(settings, f"{side}_secret_file"):
            faults.append(f"{side}_secret and {side}_secret_file: give one of them")
    if settings.port > 65000:
        faults.append(f"port: {settings.port} leaves no room for the ports after it")
    if not settings.name.isprintable() or len(settings.name) > 255:
        faults.append("name: up to 255 printable characters")
    if settings.known_users and not settings.users:
        faults.append("known_users: there are none; give --users FILE")
    if faults:
        raise UsageError("; ".join(faults), hint="see 'dispyscheduler --help'")
    return msgspec.structs.replace(settings, **{name: path for name, path in paths.items() if path})
