"""Holders of ports of this machine, as far as they can be seen without root's rights: for "port is taken" errors."""

from __future__ import annotations

import os
import pwd
from contextlib import suppress

from dispy.net.discovery import Lookout
from dispy.system.addresses import local

_LISTENS = b"0A"
"""Code of the state LISTEN in the fourth column of ``/proc/net/tcp`` (``include/net/tcp_states.h``), hexadecimal.
Rows with other states are connections, and do not hold the port."""


def holder(host: str, port: int) -> str:
    """Returns words for the program that listens on a port of an address, for an error text: one of the user's nodes,
    a program of some user, or "another program" if that cannot be seen."""
    for listing in Lookout().running():
        is_same = listing.is_everywhere or local(host) != host or listing.host == host
        if is_same and listing.port == port:
            return f"your dispynode {listing.name!r} (process {listing.process.pid})"
    users = _users(port)
    if not users:
        return "another program"
    user = min(users)
    if user == os.getuid():
        return "another program of yours"
    try:
        return f"a program of user {pwd.getpwuid(user).pw_name!r}"
    except KeyError:
        return f"a program of user {user}"


def _users(port: int) -> set[int]:
    """Returns the numeric ids of the users whose programs listen on a TCP port, on any address of this machine; empty
    if that cannot be seen."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError, ValueError, IndexError), open(table, "rb") as file:
            for row in list(file)[1:]:
                fields = row.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(b":")[2], 16) == port:
                    found.add(int(fields[7]))
    return found
