"""Options of dispy 4's programs that have no effect any more (accepted), or none yet (refused)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import click

from dispy.cli.options import Number
from dispy.errors import NotYetError
from dispy.not_yet import NODE_OPTIONS, SCHEDULER_OPTIONS, Later, not_yet

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

_PING = {"type": Number("a number of seconds from 10, or 0 for none", 10, 1e9, or_zero=True)}
_SECONDS = {"type": Number("a number of seconds above 0", 1e-3, 1e9)}


class OldOptions(NamedTuple):
    """The old options of a program.

    Attributes:
        no_effect: Options that are accepted and have no effect, by name without the hyphens. A line says so.
        later: Options that are not available yet, by name.
        how: Keyword arguments of ``click.option`` for options in ``later``; those that are missing take a text.
        not_wanted: Values with which an option in ``later`` is accepted all the same, as they ask for nothing; where
            they are missing they are None, False and the empty text.
    """

    no_effect: Mapping[str, Done]
    later: Mapping[str, Later]
    how: Mapping[str, Mapping[str, Any]]
    not_wanted: Mapping[str, tuple[Any, ...]]

    def add(self, command: F) -> F:
        """Decorator of a command: adds all old options to it, hidden from its help, for ``take_out`` to judge."""
        for name, done in self.no_effect.items():
            command = click.option(f"--{name}", hidden=True, **done.how)(command)
        for name in self.later:
            command = click.option(f"--{name}", hidden=True, **self.how.get(name, {}))(command)
        return command

    def take_out(self, given: dict[str, Any]) -> list[str]:
        """Remove the old options from ``given``: refuse those that are to come, report those without effect.

        Args:
            given: Values by option name, as click gives them: all options, with defaults. Changed.

        Returns:
            Lines for the user about options that were given and have no effect.

        Raises:
            NotYetError: Options were given that are not available yet. The text has a line for each of them.
        """
        wanted = {name: given.pop(name) for name in (*self.no_effect, *self.later)}
        refused = [
            str(not_yet(f"--{name}", later))
            for name, later in self.later.items()
            if wanted[name] not in self.not_wanted.get(name, (None, False, ""))
        ]
        if refused:
            raise NotYetError("\n".join(refused))
        return [
            f"--{name} has no effect: {done.says}"
            for name, done in self.no_effect.items()
            if wanted[name] not in (None, False, ())
        ]


NODE = OldOptions(
    no_effect={
        "clean": Done("whatever an earlier dispynode has left is removed at every start", _FLAG),
        "unsafe_setup": Done(
            "setup and cleanup run in a process of their computation, not in dispynode; jobs see what setup defines",
            _FLAG,
        ),
        "ext_host": Done(
            "dispynode tells nobody its address; programs name the one that leads to it: "
            "JobCluster(..., nodes=['HOST'])",
            _HOST,
        ),
        "ping_interval": Done(
            "programs look for nodes all the time",
            _PING,
        ),
        "msg_timeout": Done(
            "connections have limits of their own; dispy.config.MsgTimeout of a program is how long its jobs wait",
            _SECONDS,
        ),
    },
    later=NODE_OPTIONS,
    how={
        "client_shutdown": _FLAG,
        "serve": {"type": Number("a number of computations, or -1 for no end", -1, 1 << 31, whole=True)},
    },
    not_wanted={"serve": (None, -1)},
)
"""Old options of ``dispynode``."""

SCHEDULER = OldOptions(
    no_effect={
        "clean": Done("whatever an earlier dispyscheduler has left is removed at every start", _FLAG),
        "ext_host": Done(
            "dispyscheduler tells nobody its address; programs name the one that leads to it: scheduler_host",
            _HOST,
        ),
        "ping_interval": Done("nodes are looked for all the time", _PING),
        "msg_timeout": Done("connections have limits of their own", _SECONDS),
        "dest_path_prefix": Done("files of programs go from them to the nodes, and are kept there", {}),
        "max_file_size": Done("nodes have that limit: dispynode --max_file_size", {}),
    },
    later=SCHEDULER_OPTIONS,
    how={"httpd": _FLAG},
    not_wanted={},
)
"""Old options of ``dispyscheduler``."""
