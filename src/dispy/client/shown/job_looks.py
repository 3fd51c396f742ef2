"""Jobs as people see them: ``repr``, and a table in notebooks. To look is no look at a failure.

Debuggers, logs and the panes of notebooks ask for the ``repr`` of all that they come across; a failure that was shown
to nobody but them is still reported at the end of the program.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from dispy.client.jobs.state import STATUS_NAMES
from dispy.client.session.failures import summary
from dispy.client.shown.overview import IDLE_S, clean, span
from dispy.system.wording import short_repr

ID_MAX = 80
"""Characters of a job's id that are shown; the rest is cut off."""


class JobLooks:
    """The methods of ``DispyJob`` that show it."""

    __slots__ = ()

    if TYPE_CHECKING:
        id: Any
        submit_time: float
        start_time: float | None
        end_time: float | None
        ip_addr: str | None
        _status: int
        _is_final: bool
        _exception: str | None
        _session: Any

        Created: ClassVar[int]
        Cancelled: ClassVar[int]
        Finished: ClassVar[int]

    def __repr__(self) -> str:
        return f"<DispyJob id={self._shown_id()} status={self._shown_state()}>"

    def _repr_html_(self) -> str:
        """Returns the job as a table of one row, for notebooks."""
        from dispy.client.shown.tables import table

        of = getattr(self._session, "name", "")
        return table(["job", "of", "status"], [[self._shown_id(), of, self._shown_state()]])

    def _shown_id(self) -> str:
        """Returns the id in one line; an id whose ``repr`` fails is named by its type."""
        return clean(short_repr(self.id), ID_MAX)

    def _shown_state(self) -> str:
        """Returns the status with what one asks next: where and how long it runs, why it failed, or since when it
        waits."""
        status = self._status
        name = STATUS_NAMES.get(status) or short_repr(status)
        if self._is_final:
            if status != self.Finished:
                return f"{name}: {summary(str(self._exception))}" if self._exception else name
            return f"{name}{self._shown_run(self.start_time, self.end_time)}"
        if status >= self.Cancelled:
            return f"{name}, and has not ended yet"
        if status > self.Created:
            return f"{name}{self._shown_run(self.start_time, time.time())}"
        session = self._session
        if session is None or not self.submit_time:
            return name
        if session.is_closed:
            return f"{name}, and its cluster is closed"
        waited_s = time.time() - self.submit_time
        since = f"{name}, waits for {span(waited_s)}"
        is_idle = not session.dispy_nodes and waited_s > IDLE_S
        return f"{since}: no node is in use, and cluster.why(job) says why" if is_idle else since

    def _shown_run(self, start: float | None, end: float | None) -> str:
        """Returns where the job runs or ran, and how long, in words; empty if that is not known.

        Args:
            start: When its run began (seconds since the epoch).
            end: When its run ended, or now (seconds since the epoch).
        """
        where = f" on {clean(self.ip_addr, ID_MAX)}" if self.ip_addr else ""
        return f"{where} for {span(end - start)}" if start is not None and end is not None else where
