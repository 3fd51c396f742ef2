"""Files that jobs bring: a job does not wait for a CPU before its files are here. See ``jobs`` for its states."""

from __future__ import annotations

from dispy.core.execution.actions import Outbox, UnstageJobs
from dispy.core.execution.events import JobFilesReady
from dispy.core.execution.fair_shares import wait
from dispy.core.execution.ids import Seconds
from dispy.core.execution.jobs import close, release, segments_of, tell_ended
from dispy.core.execution.state import Client, State
from dispy.protocol.node import TERMINATED, Ended


def on_job_files_ready(state: State, out: Outbox, event: JobFilesReady, now: Seconds) -> None:
    """The files of a job are here: the job goes to the end of ``ready``. If they cannot be had (the event has a
    reason), the job ends as ``TERMINATED``. Ignored if the attempt does not wait for files any more."""
    computation = state.computations.get(event.key)
    job = computation.staging.get(event.number) if computation is not None else None
    if computation is None or job is None or job.attempt != event.attempt:
        return
    del computation.staging[event.number]
    if not event.reason:
        computation.ready.append(job)
        wait(state, computation)
        return
    close(computation, [event.number])
    release(out, event.key, segments_of([job]))
    ended = Ended(job.number, job.attempt, TERMINATED, 0.0, 0.0, b"", reason=event.reason, ran=False)
    tell_ended(out, computation, [ended])


def give_up_staging(state: State, out: Outbox, client: Client, now: Seconds) -> None:
    """End the jobs of a client that wait for files as ``TERMINATED``, as the program that had the files is dead.

    Called when a recovery asks for the jobs of the client, and for dead clients while the node drains.
    """
    reason = "its files had not arrived when the program that had them ended"
    for computation in [c for c in client.computations.values() if c.staging]:
        out.append(UnstageJobs(computation.key, list(computation.staging)))
        for job in list(computation.staging.values()):
            event = JobFilesReady(computation.key, job.number, job.attempt, reason)
            on_job_files_ready(state, out, event, now)
