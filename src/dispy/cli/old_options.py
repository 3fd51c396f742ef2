"""Options of the old ``dispynode`` that have no effect any more, or none yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import click

from dispy.cli.options import Number
from dispy.errors import NotYetError
from dispy.not_yet import NODE_OPTIONS, not_yet

F = TypeVar("F", bound=Callable[..., Any])


class Done(NamedTuple):
    """An option that is taken and has no effect.

    Attributes:
        says: How things are now.
        how: How click reads it.
    """

    says: str
    how: Mapping[str, Any]


_FLAG = {"is_flag": True}
_HOST = {"multiple": True, "metavar": "HOST"}

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
"""Options by name."""

_HOW: dict[str, Mapping[str, Any]] = {
    "client_shutdown": _FLAG,
    "ipv4_udp_multicast": _FLAG,
    "serve": {"type": Number("a number of computations, or -1 for no end", -1, 1 << 31, whole=True)},
}
"""How click reads the options that are to come; all others are texts."""


def old_options(command: F) -> F:
    """Have a command take these options, too, without a line in its help."""
    for name, done in NO_EFFECT.items():
        command = click.option(f"--{name}", hidden=True, **done.how)(command)
    for name in NODE_OPTIONS:
        command = click.option(f"--{name}", hidden=True, **_HOW.get(name, {}))(command)
    return command


def take_out(given: dict[str, Any]) -> list[str]:
    """Take the old options out of those that were given.

    Returns:
        Lines to say about those that have no effect.

    Raises:
        NotYetError: Options are wanted that are to come; names all of them, a line each.
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
"""Values that ask for nothing but what is so anyhow, where these are not the usual ones."""
