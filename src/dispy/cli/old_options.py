"""Options of dispy 4's ``dispynode`` that have no effect any more (accepted), or none yet (refused)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import click

from dispy.cli.options import Number
from dispy.errors import NotYetError
from dispy.not_yet import NODE_OPTIONS, not_yet

F = TypeVar("F", bound=Callable[..., Any])


class Done(NamedTuple):
    """An option of dispy 4 that is accepted and has no effect.

    Attributes:
        says: Sentence for the user, printed if the option is given: what happens today instead.
        how: Keyword arguments of ``click.option`` that define the option.
    """

    says: str
    how: Mapping[str, Any]


_FLAG = {"is_flag": True}
"""Keyword arguments of ``click.option`` for an option without a value."""
_HOST = {"multiple": True, "metavar": "HOST"}
"""Keyword arguments of ``click.option`` for a host that may be given several times."""

NO_EFFECT = {
    "clean": Done("whatever an earlier dispynode has left is removed at every start", _FLAG),
    "unsafe_setup": Done(
        "setup and cleanup run in a process of their computation, never in dispynode; jobs see what setup defines",
        _FLAG,
    ),
    "ext_host": Done(
        "dispynode tells nobody its address; programs name the one that leads to it: "
        "JobCluster(..., nodes=['HOST'])",
        _HOST,
    ),
    "ping_interval": Done(
        "programs look for nodes all the time",
        {"type": Number("a number of seconds from 10, or 0 for none", 10, 1e9, or_zero=True)},
    ),
    "msg_timeout": Done(
        "connections have limits of their own; dispy.config.MsgTimeout of a program is how long its jobs wait",
        {"type": Number("a number of seconds above 0", 1e-3, 1e9)},
    ),
}
"""Options of dispy 4 that are accepted and have no effect, by name without the hyphens. A line on stderr says so."""

_HOW: dict[str, Mapping[str, Any]] = {
    "client_shutdown": _FLAG,
    "ipv4_udp_multicast": _FLAG,
    "serve": {"type": Number("a number of computations, or -1 for no end", -1, 1 << 31, whole=True)},
}
"""Keyword arguments of ``click.option`` for options in ``NODE_OPTIONS``, which are not available yet, by option name.
Options that are missing here take a text."""


def old_options(command: F) -> F:
    """Decorator of a command: adds all old options to it, hidden from its help, for ``take_out`` to judge."""
    for name, done in NO_EFFECT.items():
        command = click.option(f"--{name}", hidden=True, **done.how)(command)
    for name in NODE_OPTIONS:
        command = click.option(f"--{name}", hidden=True, **_HOW.get(name, {}))(command)
    return command


def take_out(given: dict[str, Any]) -> list[str]:
    """Remove the old options from ``given``: refuse those that are not available yet, report those without effect.

    Args:
        given: Values by option name, as click gives them: all options, with defaults. Changed.

    Returns:
        Lines for the user about options that were given and have no effect.

    Raises:
        NotYetError: Options were given that are not available yet. The text has a line for each of them.
    """
    wanted = {name: given.pop(name) for name in (*NO_EFFECT, *NODE_OPTIONS)}
    refused = [
        str(not_yet(f"--{name}", later))
        for name, later in NODE_OPTIONS.items()
        if wanted[name] not in _NOT_WANTED.get(name, (None, False, ""))
    ]
    if refused:
        raise NotYetError("\n".join(refused))
    return [
        f"--{name} has no effect: {done.says}"
        for name, done in NO_EFFECT.items()
        if wanted[name] not in (None, False, ())
    ]


_NOT_WANTED = {"serve": (None, -1)}
"""Values with which an option that is not available yet is accepted all the same, as they ask for nothing; by option
name. For options that are missing here these values are None, False and the empty text."""
