"""Files that computations and jobs bring: nothing runs before its files are here."""

from __future__ import annotations

from dispy.core.execution.actions import Outbox, StageFiles, StartHost, UnstageJobs
from dispy.core.execution.events import FilesFailed, FilesReady, JobFilesReady
from dispy.core.execution.ids import Key, Seconds
from dispy.core.execution.jobs import release, tell_ended
from dispy.core.execution.state import Client, Computation, State, Status
from dispy.core.execution.workers import give_up
from dispy.protocol.node import TERMINATED, Ended


def load(out: Outbox, computation: Computation) -> None:
    """Have a computation loaded, after its files if it has some."""
    if computation.spec.files:
        out.append(StageFiles(computation.key, computation.spec))
    else:
        out.append(StartHost(computation.key, computation.spec))


def on_files_ready(state: State, out: Outbox, event: FilesReady, now: Seconds) -> None:
    """The files of a computation lie in its working directory: it can be loaded."""
    computation = _staged(state, event.key, event.life)
    if computation is not None:
        out.append(StartHost(event.key, computation.spec))


def on_files_failed(state: State, out: Outbox, event: FilesFailed, now: Seconds) -> None:
    """They cannot be had, or put there: the computation does not run here."""
    computation = _staged(state, event.key, event.life)
    if computation is not None:
        give_up(state, out, computation, event.reason, now)


def _staged(state: State, key: Key, life: int) -> Computation | None:
    computation = state.computations.get(key)
    if computation is None or computation.status is not Status.LOADING or computation.spec.life != life:
        return None
    return computation


def on_job_files_ready(state: State, out: Outbox, event: JobFilesReady, now: Seconds) -> None:
    """The files of a job are here: it can start. Or they cannot be had, and it ends."""
    computation = state.computations.get(event.key)
    job = computation.staging.get(event.number) if computation is not None else None
    if computation is None or job is None or job.attempt != event.attempt:
        return
    del computation.staging[event.number]
    if not event.reason:
        computation.ready.append(job)
        return
    del computation.open[event.number]
    release(out, event.key, [job.stream])
    ended = Ended(job.number, job.attempt, TERMINATED, 0.0, 0.0, b"", reason=event.reason, ran=False)
    tell_ended(out, computation, [ended])


def give_up_staging(state: State, out: Outbox, client: Client, now: Seconds) -> None:
    """The program that had the files is dead: what still waits for some will not get them."""
    reason = "its files had not arrived when the program that had them ended"
    for computation in [c for c in state.computations.values() if c.client is client and c.staging]:
        out.append(UnstageJobs(computation.key, list(computation.staging)))
        for job in list(computation.staging.values()):
            event = JobFilesReady(computation.key, job.number, job.attempt, reason)
            on_job_files_ready(state, out, event, now)
