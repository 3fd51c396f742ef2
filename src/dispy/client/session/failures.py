"""Failures of jobs: counted for each cluster, logged at the program's end if the program has seen none of their kind.

A kind is the type of the exception, or the beginning of another reason why jobs ended: a program that has seen one
``ValueError`` knows that there are some, and a million failed jobs take no more memory than one. The program looks at
a failure by what shows it: ``exception``, ``error`` or ``status`` of a failed job, ``get()``, ``dispy.frame``, and
the reason that ``print_status`` prints. A callback with the job is no look at its failure, nor is a wait for it:
progress bars and savers of results do that. Nor is its ``repr``: debuggers, logs and notebooks ask for that of all
that they meet.
"""

from __future__ import annotations

import logging
import re
import sys
from collections import deque
from collections.abc import Iterable

from dispy.client.logger import notice
from dispy.protocol.node import ABANDONED
from dispy.system.escaping import line

logger = logging.getLogger("dispy.client")

SUMMARY_MAX = 200
"""Characters of a failure's reason that are shown in one line; the rest is cut off."""

KINDS_MAX = 64
"""Kinds of failures that are told apart in a cluster: a bound on memory. Failures of all further kinds are counted
together, as one kind with an empty name."""

KIND_LENGTH = 80
"""Characters of the name of a kind; the rest is cut off. Failures with the same cut name are one kind."""

CLOSED_MAX = 1000
"""Closed clusters with unreported failures that are remembered for the end of the program. Of more clusters the
oldest are forgotten, and never reported."""

SAID_MAX = 20
"""Computations that have a line of their own in the report at the end of the program; further ones share one."""

_HEADER = re.compile(
    r"^( *?)(?:  \+ Exception Group )?Traceback \(most recent call last\):\n", re.MULTILINE
)
"""First line of a traceback, which may be indented as a whole; group 1 is the indent (spaces). For an exception group
the line begins with "  + Exception Group". ``summary`` takes the exception behind the last such line of a reason."""

_PLAIN = "Traceback (most recent call last):\n"
"""First line of a traceback that is not indented: the most frequent form, which ``summary`` tries first."""

_RAISED = r"(?:  \| )?([^\s|+].*)"
"""Pattern (after the indent) of the line behind the frames of a traceback. Group 1 is the exception with its message,
which ``summary`` returns."""


class Kind:
    """Failures of one kind in one cluster, as of all jobs that raised ``ValueError``.

    Attributes:
        count: Number of failed jobs of this kind.
        first: Reason why the first of them failed, in one line.
        is_heard: True once the program has looked at one of them: none is reported at the end then.
    """

    __slots__ = ("count", "first", "is_heard")

    def __init__(self, first: str) -> None:
        self.count = 0
        self.first = first
        self.is_heard = False


class Tally:
    """Counts of how the jobs of a cluster ended, and the kinds of their failures. Outlives the cluster.

    Args:
        name: Name of the cluster, for messages. At the end failures of clusters with the same name share a line.
    """

    __slots__ = (
        "_last",
        "_last_kind",
        "abandoned",
        "cancelled",
        "ended",
        "failed",
        "items",
        "kinds",
        "name",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.ended = 0
        """Number of jobs that have ended, in whatever way; chunks of maps are not counted."""
        self.items = 0
        """Number of items of maps that have a result, and of failed chunks of maps."""
        self.failed = 0
        """Number of jobs that ended without a result and were not cancelled, and of failed chunks of maps."""
        self.abandoned = 0
        """Number of failed jobs (a part of ``failed``) whose status is ``Abandoned``: their node was lost and they
        could not run again, or the cluster was closed."""
        self.cancelled = 0
        """Number of jobs that were cancelled, also after they had begun, and ended without a result."""
        self.kinds: dict[str, Kind] = {}
        """Kinds of failures by the kind's name, as ``"ValueError"``, in the order in which the first failure of each
        came. Failures caused by closing the cluster are in no kind."""
        # Whole reason of the last failure, and its kind: a million jobs often fail with the same reason, and finding
        # the kind of a reason is slow.
        self._last: str | None = None
        self._last_kind: Kind | None = None

    def add(self, status: int, reason: str, *, is_wanted: bool) -> None:
        """Count a failed job. The first failure of a cluster is logged.

        Args:
            status: Final status of the job.
            reason: Why it failed: a traceback or a sentence.
            is_wanted: True if the program is ending its jobs: counted only, and not reported later.
        """
        self.failed += 1
        self.abandoned += status == ABANDONED
        if is_wanted:
            return
        if reason != self._last or self._last_kind is None:
            self._last, self._last_kind = reason, self._kind(reason)
        self._last_kind.count += 1

    def _kind(self, reason: str) -> Kind:
        """Returns the kind to which a failure with this reason belongs; makes and stores a new one if there is none.

        The first kind of the cluster is logged (``info``).
        """
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
        """Note that the program has looked at a failure with this reason: its kind is not reported at the end."""
        kind = self.kinds.get(_name(summary(reason))) or self.kinds.get("")
        if kind is not None:
            kind.is_heard = True

    def hear_all(self) -> None:
        """Note that all failures until now were shown: none of their kinds is reported."""
        for kind in list(self.kinds.values()):
            kind.is_heard = True

    def unheard(self) -> list[Kind]:
        """Returns the kinds of failures that the program has not looked at, oldest first: they are to be reported."""
        return [kind for kind in list(self.kinds.values()) if not kind.is_heard]

    def done(self) -> int:
        """Returns the number of jobs and items of maps that have a result."""
        return max(0, self.ended + self.items - self.failed - self.cancelled)

    def first(self) -> str:
        """Returns why the first job failed, in one line; empty if none failed, except those that ``close`` ended."""
        return next(iter([kind.first for kind in list(self.kinds.values())]), "")


def _name(said: str) -> str:
    """Returns the name of a kind, by a reason in one line: the text before the first colon."""
    return said.partition(":")[0][:KIND_LENGTH]


def summary(reason: str) -> str:
    """Returns the reason of a failure in one line of at most ``SUMMARY_MAX`` characters.

    From a traceback the line with the last exception is taken; from another text the first line, and if that ends
    with a colon also the next line or, if a traceback follows, its exception.
    """
    if reason.startswith(_PLAIN):
        # The most frequent form, five times as fast as the code below.
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
    """Returns a text as one line, with control characters escaped; cut to ``SUMMARY_MAX`` characters with " ..."."""
    said = line(text.strip())
    return said if len(said) <= SUMMARY_MAX else f"{said[: SUMMARY_MAX - 4]} ..."


# Reports of failures that the program has not looked at.

_closed: list[Tally] = []
"""Tallies of closed clusters with failures that the program has not looked at yet, in the order of closing. The
program may still look at them: jobs outlive their cluster. ``say_all`` reports and empties the list."""


def leave(tally: Tally) -> None:
    """Report the failures of a closed cluster that the program has not looked at.

    At an interactive prompt they are reported now, otherwise at the end of the program (``say_all``).
    """
    if not tally.unheard():
        return
    if hasattr(sys, "ps1"):
        _say([tally])
        return
    _closed.append(tally)
    if len(_closed) > CLOSED_MAX:
        _closed[:] = [tally for tally in _closed if tally.unheard()][-CLOSED_MAX:]


def say_all() -> None:
    """Report the failures of closed clusters that the program has not looked at. At the end of the program.

    Each name of a computation has a line, at most ``SAID_MAX``; the rest share one.
    """
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
    """Log one line with the number of failures that the program has not looked at, and the reason of the first.

    Without handlers of the program the line goes to stderr. The failures count as looked at after that.

    Args:
        tallies: Tallies of clusters with the same name, with at least one such failure.
    """
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
    """Returns "1 job", "2 jobs" …, for a message."""
    return f"{count} job" if count == 1 else f"{count} jobs"
