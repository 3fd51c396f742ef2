"""Surveys: the overview of a cluster, or of some jobs and their clusters, as of now.

A survey of a cluster is taken on the engine's loop, where nodes and jobs stand still, and costs some microseconds a
node, however many jobs wait. One of jobs looks at each that has not ended: 50 ns a job.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dispy.client.allocation import node_views
from dispy.client.job import CANCELLED, CREATED, FINISHED, DispyJob
from dispy.client.session import explain
from dispy.client.session.failures import summary
from dispy.client.shown.overview import Overview
from dispy.system import process_identity

if TYPE_CHECKING:
    from dispy.client.nodes import DispyNode
    from dispy.client.session.state import Session

ANSWER_S = 0.1
"""Seconds that a survey waits for the engine's loop; then it has what was known last. ``repr`` must not block."""

NAMES_MAX = 3
"""Names of computations in the overview of jobs of several clusters; further ones are only counted."""


def survey(session: Session) -> Overview:
    """Returns the overview of a cluster, on any thread, also of a closed cluster or in a fork. Never raises.

    Nodes are as they are now if the engine's loop answers within ``ANSWER_S`` seconds, else as they were last.
    """
    if session.pid != process_identity.pid or session.is_closed or session.engine.is_stopped:
        return _last(session)
    try:
        if session.engine.is_loop():
            return _now(session)
        return session.engine.request(_now, session).result(ANSWER_S)
    except Exception:  # too busy, or the cluster is closed this moment: a look must not fail for that
        return _last(session)


def _now(session: Session) -> Overview:
    """Returns the overview of an open cluster; on the loop."""
    shown = node_views.refresh(session)
    return _count(session, shown)._replace(why=explain.why_idle(session))


def _last(session: Session) -> Overview:
    """Returns the overview of a cluster with nodes as they were last known; on any thread."""
    state = "open"
    if session.pid != process_identity.pid:
        state = "of another process"
    elif session.is_closed or session.engine.is_stopped:
        state = "closed"
    return _count(session, node_views.last(session))._replace(state=state)


def _count(session: Session, nodes: list[DispyNode]) -> Overview:
    """Returns the overview of a cluster but for ``why`` and ``state``, by its counts and nodes."""
    tally = session.tally
    running = sum([node.busy for node in nodes]) if session.jobs else 0
    left = len(session.jobs)
    is_endless = False
    for mapping in list(session.maps):
        chunks, items, is_known = mapping.left()
        left += items - chunks
        is_endless = is_endless or not is_known
    waiting = max(0, left - running)
    failure = tally.first()
    return Overview(
        session.name, tally.done(), tally.failed, tally.cancelled, running, waiting, is_endless, nodes, "", failure
    )  # fmt: skip


class JobSurvey:
    """Surveys of some jobs, one after another: jobs that were seen to have ended are not looked at again.

    Args:
        jobs: The jobs, each once.

    Attributes:
        sessions: The clusters of the jobs that had not ended, each once.
    """

    def __init__(self, jobs: Iterable[DispyJob]) -> None:
        self._open = list(jobs)
        """Jobs that had not ended when they were looked at last."""
        self._guard = threading.Lock()
        """Held while the jobs are looked at: two threads would count an end twice."""
        self._failure = ""
        """Why the first of them that was seen to fail has failed, in one line."""
        self._ended = {"done": 0, "failed": 0, "cancelled": 0}
        """Number of the other jobs by how they ended, as fields of ``Overview``."""
        found = {id(job._session): job._session for job in self._open if job._session is not None}  # pyright: ignore[reportPrivateUsage]  # not for programs
        self.sessions: list[Session] = list(found.values())

    def take(self) -> Overview:
        """Returns the overview of the jobs, with the nodes of their clusters; on any thread."""
        with self._guard:
            left, running = self._look()
            done, failed, cancelled = self._ended.values()
        views = [survey(session) for session in self.sessions]
        names = list(dict.fromkeys([view.name for view in views]))
        more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
        return Overview(
            ", ".join(names[:NAMES_MAX]) + more or "jobs",
            done,
            failed,
            cancelled,
            running=running,
            waiting=left - running,
            is_endless=False,
            nodes=[node for view in views for node in view.nodes],
            why="; ".join([view.why for view in views if view.why]) if left and not running else "",
            failure=self._failure,
        )

    def _look(self) -> tuple[int, int]:
        """Count the jobs that have ended since the last look. Returns how many are left, and how many run."""
        left = []
        running = 0
        ended = self._ended
        for job in self._open:
            status = job._status  # pyright: ignore[reportPrivateUsage]  # ``status`` counts as a look
            if not job._is_final:  # pyright: ignore[reportPrivateUsage]
                left.append(job)
                running += CREATED < status < CANCELLED
            elif job._status == FINISHED:  # pyright: ignore[reportPrivateUsage]  # read again: it may have ended since
                ended["done"] += 1
            elif job._status == CANCELLED:  # pyright: ignore[reportPrivateUsage]
                ended["cancelled"] += 1
            else:
                ended["failed"] += 1
                self._failure = self._failure or summary(job._exception or "")  # pyright: ignore[reportPrivateUsage]
        self._open = left
        return len(left), running
