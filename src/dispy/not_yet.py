"""Parts of dispy 4 that this version does not have yet: for each a description, and what to do instead.

Using one raises an error with both, so that a program of dispy 4 does not go wrong in silence.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import NamedTuple, NoReturn

from dispy.errors import MissingModuleError, NotYetError


class Later(NamedTuple):
    """A part of dispy 4 that is not available yet.

    Attributes:
        what: Description of the part, which stands in brackets in the error's text.
        instead: Advice what to do meanwhile; the hint of the error.
    """

    what: str
    instead: str


MODULES = {
    "dispy.httpd": Later(
        "the web page that shows clusters",
        "use cluster.print_status(), cluster.status(), or JobCluster(..., cluster_status=FUNCTION)",
    ),
    "dispy.dispynetrelay": Later(
        "what finds nodes of other networks",
        "name these nodes in programs: JobCluster(..., nodes=['HOST'], secret_file='FILE')",
    ),
    "dispy.dispyadmin": Later(
        "the web page to administer nodes",
        "type commands where dispynode runs: 'cpus N', 'stop', 'start', 'exit'",
    ),
}
"""Modules that are not available yet, by their full names: importing one raises ``MissingModuleError``. Run as a
program, it says so and exits with code 2."""

_ON_COMMAND_LINE = "give each option on the command line"
"""Advice in the errors of ``--config`` and ``--save_config``, as no file with options is read or written."""

NODE_OPTIONS = {
    "config": Later("reading options from a file", _ON_COMMAND_LINE),
    "save_config": Later("writing options to a file", _ON_COMMAND_LINE),
    "service_start": Later(
        "hours of service",
        "start dispynode at that time, with cron or a systemd timer",
    ),
    "service_stop": Later(
        "hours of service",
        "type 'stop' at its terminal at that time: jobs that run go on, nothing new begins",
    ),
    "service_end": Later(
        "hours of service",
        "end it at that time with 'kill PID', or start it with 'timeout 8h dispynode ...'",
    ),
    "serve": Later(
        "ending after so many computations",
        "leave it out; --serve -1, without end, is taken",
    ),
    "init": Later(
        "code of the node's own for all computations",
        "give programs a setup function: JobCluster(..., setup=FUNCTION)",
    ),
    "client_shutdown": Later(
        "nodes that programs may end",
        "leave it out, and end dispynode with 'kill PID', or 'quit' at its terminal",
    ),
    "admin_secret": Later(
        "administration from elsewhere",
        "leave it out, and type commands at the terminal of dispynode ('help' shows them)",
    ),
    "scheduler_host": Later(
        "nodes that announce themselves",
        "leave it out, and name this node in programs: JobCluster(..., nodes=['HOST'], secret_file='FILE')",
    ),
}
"""Options of ``dispynode`` that are not available yet, by name without dashes: with one, no node is started."""

SCHEDULER_OPTIONS = {
    "httpd": Later("the web page that shows clusters", "leave it out; 'status' at its terminal shows them"),
}
"""Options of ``dispyscheduler`` that are not available yet, by name without dashes: with one, none is started."""


def not_yet(name: str, later: Later) -> NotYetError:
    """Returns the error for the use of a part of dispy 4 that is not available yet; the caller raises it.

    Args:
        name: Subject of the text, as the user wrote it: a name, parameter or option.
        later: The part.
    """
    return NotYetError(f"{name} is not available yet ({later.what})", hint=later.instead)


def refuse_module(name: str, run_as: str) -> NoReturn:
    """Refuse a module that is not available yet, and say what to do instead.

    Args:
        name: Name of the module, a key of ``MODULES``.
        run_as: The module's ``__name__``: its import name, or ``__main__`` if it is run as a program.

    Raises:
        MissingModuleError: The module is imported.
        SystemExit: The module is run: exit code 2, after a line on stderr.
    """
    later = MODULES[name]
    if run_as == "__main__":
        with suppress(OSError, AttributeError):  # stderr is closed, or there is none
            sys.stderr.write(f"{name.rpartition('.')[2]}: {not_yet('it', later)}\n")
        sys.exit(2)
    raise MissingModuleError(f"{name} is not available yet ({later.what})", hint=later.instead)


def dispynetrelay() -> NoReturn:
    """Entry point of ``dispynetrelay.py``: says that it is not available yet, and exits with code 2."""
    refuse_module("dispy.dispynetrelay", "__main__")
