"""The overview of a cluster or of some jobs: counts, nodes, and why nothing runs, as plain data and in words.

All displays draw an ``Overview``: ``repr``, tables in notebooks, progress on a terminal and in a log. Texts in it
come from users and peers, and are as these wrote them: whoever draws one escapes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dispy.system.escaping import line
from dispy.system.wording import brief, counted

NAME_MAX = 60
"""Characters of a name that are shown in a line; the rest is cut off."""

WHY_MAX = 240
"""Characters of a reason that are shown in a line; the rest is cut off."""

IDLE_S = 0.6
"""Seconds that jobs wait before displays say why: nodes need some tenths to be found and to load the computation."""

RATE_S = 15.0
"""Time over which the rate of a progress display is measured (seconds): long enough to be calm, short enough to show
that a node has gone."""


class ShownNode(Protocol):
    """A node, as displays read it: a ``DispyNode``, which says what the attributes are."""

    name: str
    ip_addr: str
    cpus: int
    busy: int
    jobs_done: int
    jobs_failed: int
    cpu_time: float
    tx: int
    rx: int
    reason: str


class Display(Protocol):
    """A display of a cluster that goes on by itself, as its session sees it (``Session.displays``)."""

    def finish(self) -> None:
        """The cluster is closed: show its last state, and end. Must not raise."""


class Overview(NamedTuple):
    """Counts of jobs, nodes and reasons at one moment, of a cluster or of some jobs.

    Attributes:
        name: Name of the computation; of several: their names.
        done: Number of jobs and items of maps that have a result.
        failed: Number of jobs and chunks of maps that ended without a result and were not cancelled.
        cancelled: Number of jobs that were cancelled.
        running: Number of jobs and chunks of maps that run.
        waiting: Number of jobs, and of items of maps that are known, that neither run nor have ended.
        is_endless: True if a map reads items whose number nobody knows: more than ``waiting`` may come.
        nodes: Nodes that were used, past ones first, and those that receive files.
        why: Why no job runs although some wait, in words; empty if one runs or none waits.
        failure: Why the first job failed, in one line; empty if none did.
        state: ``"open"``, ``"closed"``, or ``"of another process"``: nothing is known but what was so at the fork.
        rate: Jobs and items that end in a second; None: not measured.
        age_s: Time since the display began (seconds); None: there is none.
    """

    name: str
    done: int
    failed: int
    cancelled: int
    running: int
    waiting: int
    is_endless: bool
    nodes: Sequence[ShownNode]
    why: str
    failure: str
    state: str = "open"
    rate: float | None = None
    age_s: float | None = None

    @property
    def ended(self) -> int:
        """Number of jobs and items that have ended, in whatever way."""
        return self.done + self.failed + self.cancelled

    @property
    def total(self) -> int | None:
        """Number of all jobs and items; None if nobody knows how many come."""
        return None if self.is_endless else self.ended + self.running + self.waiting

    @property
    def left_s(self) -> float | None:
        """Time in which the rest ends at the present rate (seconds); None if that cannot be said."""
        if self.is_endless or not self.rate:
            return None
        return (self.running + self.waiting) / self.rate


def cluster_line(kind: str, shown: Overview) -> str:
    """Returns the ``repr`` of a cluster: state, counts, nodes, and what it waits for, in one line.

    Args:
        kind: Name of the class.
        shown: The cluster now.
    """
    parts = [counts(shown), used(shown.nodes)] if shown.state == "open" else [shown.state, counts(shown)]
    if shown.why:
        parts.append(clean(shown.why, WHY_MAX))
    elif shown.failure:
        parts.append(f"the first failure: {clean(shown.failure, WHY_MAX)}")
    return f"<{kind} {clean(shown.name, NAME_MAX)}: {'; '.join(parts)}>"


def counts(shown: Overview) -> str:
    """Returns the counts in words: "3 running, 5 waiting, 12 done, 1 failed". Those that are 0 are left out, but for
    ``done``."""
    more = "+" if shown.is_endless else ""
    found = [
        f"{shown.running} running" if shown.running else "",
        f"{shown.waiting}{more} waiting" if shown.waiting or more else "",
        f"{shown.done} done",
        f"{shown.failed} failed" if shown.failed else "",
        f"{shown.cancelled} cancelled" if shown.cancelled else "",
    ]
    return ", ".join(filter(None, found))


def used(nodes: Sequence[ShownNode]) -> str:
    """Returns the number of nodes with CPUs for the cluster, and of these CPUs, in words: "2 nodes, 8 CPUs"."""
    usable = [node for node in nodes if node.cpus]
    if not usable:
        return "no node"
    cpus = sum([node.cpus for node in usable])
    return f"{counted(len(usable), 'node')}, {counted(cpus, 'CPU')}"


def progress_line(shown: Overview) -> str:
    """Returns the progress of a cluster or of jobs in one line, for a log or a plain terminal."""
    parts = [_of_total(shown), used(shown.nodes)]
    if shown.rate:
        parts.append(f"{rate(shown.rate)}/s")
    if shown.left_s:
        parts.append(f"{span(shown.left_s)} left")
    if shown.why:
        parts.append(clean(shown.why, 2 * WHY_MAX))
    return f"{clean(shown.name, NAME_MAX)}: {'; '.join(parts)}"


def _of_total(shown: Overview) -> str:
    """Returns how many of how many have ended, with the other counts, in words."""
    total = f" of {shown.total}" if shown.total is not None else ""
    found = [
        f"{shown.done}{total} done",
        f"{shown.running} running" if shown.running else "",
        f"{shown.waiting} waiting" if shown.waiting else "",
        f"{shown.failed} failed" if shown.failed else "",
        f"{shown.cancelled} cancelled" if shown.cancelled else "",
    ]
    return ", ".join(filter(None, found))


def node_line(node: ShownNode) -> str:
    """Returns a node in one line: name, address, busy CPUs, counts, and why it runs nothing."""
    name = clean(node.name, NAME_MAX)
    address = clean(node.ip_addr, NAME_MAX)
    parts = [
        f"{node.busy} of {counted(node.cpus, 'CPU')} busy" if node.cpus else "no CPU in use",
        f"{node.jobs_done} done",
        f"{node.jobs_failed} failed" if node.jobs_failed else "",
        clean(node.reason, WHY_MAX) if node.reason else "",
    ]
    return f"{name if name == address else f'{name} {address}'}: {', '.join(filter(None, parts))}"


def span(seconds: float) -> str:
    """Returns a time in words that fit it: "0.3 s", "42 s", "3:05", "2:03:05"."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(min(seconds, 1e9))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rate(per_s: float) -> str:
    """Returns a rate with three significant digits: "0.25", "12.5", "12346"."""
    return f"{per_s:.3g}" if per_s < 1000 else f"{per_s:.0f}"


def size(count: float) -> str:
    """Returns a number of bytes as text in B, K, M, G or T (powers of 1024): "1.5 M"."""
    if count < 1024:
        return f"{count:g} B"
    for unit in ("K", "M", "G"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} T"


def clean(text: object, most: int) -> str:
    """Returns a text of a user or peer for a display: one line, control characters escaped, cut to ``most``."""
    return brief(line(str(text)[: most + 1]), most)


class Meter:
    """Measures how many jobs end in a second, over the last ``RATE_S`` seconds."""

    def __init__(self, ended: int, now: float) -> None:
        self._first = ended
        """Number of jobs that had ended when this was made."""
        self._seen: deque[tuple[float, int]] = deque([(now, ended)])
        """Times (seconds) and numbers of ended jobs, the oldest first; the first is some ``RATE_S`` old."""

    def rate(self, ended: int, now: float) -> float | None:
        """Returns the rate (1/s) after noting that ``ended`` jobs have ended by ``now``; None: too early to say."""
        seen = self._seen
        seen.append((now, ended))
        while len(seen) > 2 and now - seen[1][0] >= RATE_S:
            seen.popleft()
        since, before = seen[0]
        return (ended - before) / (now - since) if now > since else None

    def mean(self, ended: int, age_s: float) -> float:
        """Returns the rate (1/s) over the ``age_s`` seconds since this was made."""
        return (ended - self._first) / age_s
