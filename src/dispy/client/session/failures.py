"""Failures of jobs: counted per cluster, and told at the program's end if it has looked at none of their kind.

A kind is the type of the exception, or the beginning of what else ended the job: a program that has seen one
``ValueError`` knows that there are some, and a million failed jobs take no more memory than one. Looking is what
shows the failure to somebody: reading ``exception``, ``error`` or ``status`` of a job that has failed, ``get()``, its
``repr``, and the reason that ``print_status`` prints. Being called with a job is not, nor is waiting for it: progress
bars and savers of results do that.
"""

from __future__ import annotations

import logging
import re
import sys
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dispy.client.logger import notice
from dispy.client.session.missing_files import explain
from dispy.protocol.node import ABANDONED, CANCELLED
from dispy.system.escaping import line

if TYPE_CHECKING:
    from dispy.client.job import DispyJob

logger = logging.getLogger("dispy.client")

SUMMARY_MAX = 200
"""Characters of a reason where it has to fit into a line."""

KINDS_MAX = 64
"""Kinds of failures that are told apart; all others are one more."""

KIND_LENGTH = 80

CLOSED_MAX = 1000
"""Closed clusters that are remembered until the program ends."""

SAID_MAX = 20
"""Computations that have a line of their own at the end."""

_HEADER = re.compile(
    r"^( *?)(?:  \+ Exception Group )?Traceback \(most recent call last\):\n", re.MULTILINE
)
"""The beginning of a traceback, which may be indented as a whole; those of exception groups are drawn in a margin."""

_PLAIN = "Traceback (most recent call last):\n"

_RAISED = r"(?:  \| )?([^\s|+].*)"
"""The line behind its frames."""


class Kind:
    """Failures of one kind."""

    __slots__ = ("count", "first", "is_heard")

    def __init__(self, first: str) -> None:
        self.count = 0
        self.first = first
        """The reason of the first one, in a line."""
        self.is_heard = False


class Tally:
    """How the jobs of a cluster have ended."""

    __slots__ = ("_last", "_last_kind", "abandoned", "cancelled", "ended", "failed", "kinds", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.ended = 0
        """All that have ended."""
        self.failed = 0
        """Number of jobs without a result that were not cancelled."""
        self.abandoned = 0
        """Number of failed jobs whose node was lost, and that could not run again."""
        self.cancelled = 0
        """Number of jobs that were cancelled, also after they had begun, and ended without a result."""
        self.kinds: dict[str, Kind] = {}
        """Failures that nobody had asked for, in the order in which the first of each kind came."""
        self._last: str | None = None
        self._last_kind: Kind | None = None

    def add(self, status: int, reason: str, *, is_wanted: bool) -> None:
        """A job has failed.

        Args:
            status: How it has ended.
            reason: Why.
            is_wanted: The program is ending its jobs.
        """
        self.failed += 1
        self.abandoned += status == ABANDONED
        if is_wanted:
            return
        if reason != self._last or self._last_kind is None:
            self._last, self._last_kind = reason, self._kind(reason)
        self._last_kind.count += 1

    def _kind(self, reason: str) -> Kind:
        said = summary(reason)
        name = _name(said)
        if name not in self.kinds and len(self.kinds) >= KINDS_MAX:
            name = ""
        kind = self.kinds.get(name)
        if kind is None:
            if not self.kinds:
                logger.info("jobs of cluster %s fail; the first: %s", self.name, said)
            kind = self.kinds[name] = Kind(said)
        return kind

    def hear(self, reason: str) -> None:
        """Somebody has looked at a failure with this reason."""
        kind = self.kinds.get(_name(summary(reason))) or self.kinds.get("")
        if kind is not None:
            kind.is_heard = True

    def hear_all(self) -> None:
        """Somebody was told of all failures until now."""
        for kind in list(self.kinds.values()):
            kind.is_heard = True

    def unheard(self) -> list[Kind]:
        """Failures that nobody has looked at."""
        return [kind for kind in list(self.kinds.values()) if not kind.is_heard]

    def first(self) -> str:
        """Why the first one has failed, in a line; empty if none has."""
        return next(iter([kind.first for kind in list(self.kinds.values())]), "")


def _name(said: str) -> str:
    return said.partition(":")[0][:KIND_LENGTH]


def summary(reason: str) -> str:
    """A reason in a line: of a traceback what was raised."""
    if reason.startswith(_PLAIN):
        # The most frequent one, five times as fast as what follows.
        begin = reason.rfind(f"\n{_PLAIN}")
        for said in reason[len(_PLAIN) + max(begin + 1, 0) :].split("\n"):
            if said and not said.startswith(" "):
                return _cut(said)
    head = reason.partition("\n")[0]
    last = deque(_HEADER.finditer(reason), maxlen=1)
    raised = None
    if last:
        raised = re.compile(f"^{last[0][1]}{_RAISED}", re.MULTILINE).search(reason, last[0].end())
    if raised is not None and _HEADER.match(reason):
        head = raised[1]
    elif head.endswith(":"):
        more = reason[len(head) :].strip().partition("\n")[0] if raised is None else raised[1]
        head = f"{head} {more}"
    return _cut(head)


def _cut(text: str) -> str:
    said = line(text.strip())
    return said if len(said) <= SUMMARY_MAX else f"{said[: SUMMARY_MAX - 4]} ..."


def look(job: DispyJob) -> str | None:
    """Somebody looks at why a job that has ended has failed; returns that, with what can be done about it."""
    reason = job._exception
    if reason is None:
        return None
    tally: Tally | None = getattr(job._cluster, "_tally", None)
    if tally is not None and job._status != CANCELLED:
        tally.hear(reason)
        reason = job._exception = explain(reason, job._cluster, job.ip_addr)
    return reason


# What is said of them.

_closed: list[Tally] = []
"""Of closed clusters, with failures that nobody has looked at yet: jobs outlive their cluster."""


def leave(tally: Tally) -> None:
    """A cluster is closed: who works at a prompt is told now, others at the end of the program."""
    if not tally.unheard():
        return
    if hasattr(sys, "ps1"):
        _say([tally])
        return
    _closed.append(tally)
    if len(_closed) > CLOSED_MAX:
        _closed[:] = [tally for tally in _closed if tally.unheard()][-CLOSED_MAX:]


def say_all() -> None:
    """The program ends: a line for each computation of which jobs have failed without anybody having looked."""
    by_name: dict[str, list[Tally]] = {}
    for tally in _closed:
        if tally.unheard():
            by_name.setdefault(tally.name, []).append(tally)
    _closed.clear()
    groups = list(by_name.values())
    for group in groups[:SAID_MAX]:
        _say(group)
    if len(groups) > SAID_MAX:
        left = sum(
            [kind.count for group in groups[SAID_MAX:] for tally in group for kind in tally.unheard()]
        )
        notice(
            f"{_jobs(left)} of {len(groups) - SAID_MAX} more computations failed, too, and nobody looked at why",
            logging.WARNING,
        )


def _say(tallies: Iterable[Tally]) -> None:
    """Say what has failed in clusters of one computation, and that nobody has looked."""
    tallies = list(tallies)
    kinds = [kind for tally in tallies for kind in tally.unheard()]
    count = sum([kind.count for kind in kinds])
    ended = sum([tally.ended for tally in tallies])
    why = f": {kinds[0].first}" if count == 1 else f"; the first: {kinds[0].first}"
    notice(
        f"{count} of {_jobs(ended)} of {line(tallies[0].name)} failed and nobody looked at why{why}",
        logging.WARNING,
    )
    for tally in tallies:
        tally.hear_all()


def _jobs(count: int) -> str:
    return f"{count} job" if count == 1 else f"{count} jobs"
