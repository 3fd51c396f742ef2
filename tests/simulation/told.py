"""What the sessions of a program told its user, compared with what the scheduler told them.

The account of jobs says what must come of each; here it is seen that callbacks, statuses and results of jobs say the
same: each end once, after all provisional results, with the result or the reason that was reported.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dispy.client.job import (
    ABANDONED,
    CANCELLED,
    CREATED,
    FINISHED,
    PROVISIONAL_RESULT,
    RUNNING,
    STATUS_NAMES,
    DispyJob,
)

from .jobs import RESULT_HEAD, result_of, said_by

if TYPE_CHECKING:
    from dispy.client.nodes import DispyNode

    from .jobs import Account, Entry

_NOTICE = re.compile(r"\n\.\.\. \[dispy: [^]]*\] \.\.\.\n")
"""Words of dispy's own between what a job prints."""

CLOSED = "the cluster was closed"
"""Reason of jobs that a cluster ends without waiting for their nodes."""


class Told:
    """What one cluster told its user.

    Args:
        account: What is known of its jobs.
        computation: Number of the cluster.
    """

    def __init__(self, account: Account, computation: int) -> None:
        self._account = account
        self._computation = computation
        self.jobs: dict[int, DispyJob] = {}
        """All jobs that were submitted, by number."""
        self._ended: set[int] = set()
        """Jobs whose end ``job_status`` was told."""
        self._shown: dict[int, int] = {}
        """What ``cluster_status`` was told last of each job."""

    def _fail(self, job: DispyJob, text: str) -> None:
        self._account.fail(
            f"job {job.number} of computation {self._computation}, which is {STATUS_NAMES[job._status]}: {text}"
        )

    def _entry(self, job: DispyJob) -> Entry:
        return self._account.entries[self._computation, job.number]

    # Callbacks.

    def on_job(self, job: DispyJob) -> None:
        """What ``job_status`` is told."""
        number = job.number
        if number in self._ended:
            self._fail(job, "the user is told after its end")
        if job._status == PROVISIONAL_RESULT:
            if not self._entry(job).serials:
                self._fail(job, "the user is told a provisional result that never came")
            if job.result[:8] != self._entry(job).mark.to_bytes(8, "little"):
                self._fail(job, "the user is told the provisional result of another job")
            return
        self._ended.add(number)
        self._check_end(job)

    def on_cluster(self, status: int, node: DispyNode | None, job: DispyJob | None) -> None:
        """What ``cluster_status`` is told."""
        if job is None:
            return
        before = self._shown.get(job.number)
        if before is None and status != CREATED:
            self._fail(
                job, f"the user is told {STATUS_NAMES[status]} before it is told that there is such a job"
            )
        if before is not None and before not in (CREATED, RUNNING, PROVISIONAL_RESULT):
            self._fail(job, f"the user is told {STATUS_NAMES[status]} after {STATUS_NAMES[before]}")
        if status not in (CREATED, RUNNING, PROVISIONAL_RESULT):
            if status != ABANDONED and job.number not in self._ended:
                self._fail(job, "one callback is told its end, and the other is not")
            if status == ABANDONED:
                self._check_end(job)
        self._shown[job.number] = status

    def on_output(self, job: DispyJob, stream: str, text: str) -> None:
        """What ``job_output`` is told: something that the job has printed."""
        said = _NOTICE.sub("", text)
        if said and not any(
            said in said_by(job.number, attempt).decode() for attempt in self._entry(job).starts
        ):
            self._fail(job, f"the user is told that it has printed {text!r}")

    # Ends.

    def _check_end(self, job: DispyJob) -> None:
        """Compare an ended job with the end that its cluster was told."""
        if not job._is_final:
            self._fail(job, "the user is told an end that is none")
        if job._status == ABANDONED and job._exception == CLOSED:
            return
        entry = self._entry(job)
        if entry.status != job._status:
            self._fail(job, f"its cluster was told {STATUS_NAMES.get(entry.status, 'nothing')}")
        if job._status != FINISHED:
            if job._exception != entry.reason:
                self._fail(job, f"the user is told {job._exception!r} and not {entry.reason!r}")
            return
        value = job.result
        if value != result_of(entry.mark, entry.attempt, entry.task.result_size):
            self._fail(job, f"its result is not its own: {value[: RESULT_HEAD.size]!r}")

    def check_closed(self) -> None:
        """The cluster is closed, and has waited for its callbacks: all was told."""
        for number, job in self.jobs.items():
            if not job._is_final:
                self._fail(job, "its cluster is closed, and it has no end")
            is_told = number in self._ended
            if is_told == (job._status == ABANDONED):
                self._fail(job, f"the user was {'' if is_told else 'not '}told its end")
            if self._shown.get(number) != job._status:
                self._fail(job, "the user was not shown its end")
            if job._status == CANCELLED and job._value is not None:
                self._fail(job, "it has a result")
