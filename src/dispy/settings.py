"""Settings of each program: made once, checked as a whole, frozen."""

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
"""A sign of life is sent at least so often, unless a program asks for another interval."""

SILENT_PULSES = 5
"""Who says nothing for so many intervals is dead."""

PULSE_MIN_S = 0.1
PULSE_MAX_S = 1000.0

Port = Annotated[int, Meta(ge=0, le=65535)]


class NodeSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a node runs."""

    cpus: int = 0
    """Jobs at once; 0: all CPUs this process may use; negative: all but so many."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    dispy_port: Port = config.DispyPort
    """Base port: the node listens on the next one. On loopback, on any other if that is taken."""
    listen_port: Port | None = None
    """The very port to listen on; 0 takes any free one."""
    name: str = ""
    """Shown to clients; the host's name if not given."""
    secret: str = ""
    """Shared with clients; the user's own if neither this nor a file is given."""
    secret_file: str | None = None
    certfile: str | None = None
    """Certificate shown to clients, PEM; with its key unless that is in ``keyfile``."""
    keyfile: str | None = None
    cafile: str | None = None
    """Authority that must have signed the certificates of clients."""
    tls: bool | None = None
    """Whether to listen with TLS; None: unless on loopback and without ``certfile``."""
    user: str = ""
    """Account that jobs run as; our own if not given."""
    dest_path_prefix: str = ""
    """Directory for the node's files, made if it is missing; the temporary directory if not given."""
    debug: bool = False
    daemon: bool = False
    """Run on when the terminal is closed."""
    owner: int = 0
    """Process whose private node this is: it ends with it and is not listed; 0: nobody's."""
    lease_s: Annotated[float, Meta(gt=0)] = 3600.0
    """How long results of a silent client are kept; infinite: until somebody fetches them."""
    silence_s: Annotated[float, Meta(gt=0)] = PULSE_S * SILENT_PULSES
    """How long a silent client keeps its share of the CPUs, and a node that it uses exclusively. After that it counts
    as gone: its results go to disk."""
    spool_max: Annotated[int, Meta(ge=0)] = 1 << 30
    """Bytes of results on disk, for clients that are gone; 0: none. As much as fits beside anything on a machine
    of today, and the results of an hour for jobs that return what fits on a page; what does not fit stays
    in memory."""
    store_max: Annotated[int, Meta(ge=0)] = 8 << 30
    """Bytes of files kept that clients have sent, to be used again; 0: none. A tenth of a small disk of today."""
    max_file_size: Annotated[int, Meta(ge=0)] = 0
    """Bytes of the largest file that is taken from a client, or sent to one; 0: no limit."""
    listed_max: Annotated[int, Meta(gt=0)] = 1_000_000
    """Files of which lists are kept for one client, of its computations and jobs together: 330 MB."""
    force_cleanup: bool = False
    """No working directory stays when its computation is closed, whatever its client wants."""
    stall_s: Annotated[float, Meta(gt=0)] = STALL_S
    """After what time it is said that work stands still which could go on."""


_PATHS = ("secret_file", "certfile", "keyfile", "cafile", "dest_path_prefix")


def check_node(settings: NodeSettings, cpus_present: int) -> NodeSettings:
    """Check settings as a whole.

    Returns:
        The same with absolute paths: hosts have other current directories.

    Raises:
        UsageError: Names all faults at once.
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
    """Why a directory, an absolute path, can be neither used nor made; empty if nothing speaks against it."""
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
    """CPUs to offer: the number wanted, all for 0, all but so many for a negative number."""
    return wanted if wanted > 0 else present + wanted


settings_decoder = msgspec.json.Decoder(NodeSettings)
