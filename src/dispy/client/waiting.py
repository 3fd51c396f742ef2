"""Waiting for many jobs at once: ``as_completed`` and ``wait``.

Theory of operation. A job has one place for its waiters (``DispyJob._waiter``). Each waiter is told once, on the
engine's thread, when the job has ended. The waiter only appends the job to a queue, and wakes its own thread if that
sleeps. So a batch of ended jobs costs one wake-up per thread that waits, and no wait needs a thread of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator
from concurrent.futures import ALL_COMPLETED as ALL_COMPLETED
from concurrent.futures import FIRST_COMPLETED as FIRST_COMPLETED
from concurrent.futures import FIRST_EXCEPTION as FIRST_EXCEPTION
from typing import Generic, NamedTuple

from dispy.client.arguments import deadline, describe
from dispy.client.job import FINISHED, DispyJob
from dispy.client.jobs.type_parameters import R
from dispy.client.wakeup import Signal, Wakes
from dispy.errors import UsageError
from dispy.system.wording import counted


class DoneAndNotDone(NamedTuple, Generic[R]):
    """The jobs that ``wait`` was given, in two sets.

    Attributes:
        done: Jobs that have ended.
        not_done: Jobs that have not ended.
    """

    done: set[DispyJob[R]]
    not_done: set[DispyJob[R]]


def as_completed(jobs: Iterable[DispyJob[R]], timeout: float | None = None) -> Iterator[DispyJob[R]]:
    """Yield jobs in the order in which they end, however they end; first those that have ended already.

    Args:
        jobs: Jobs of one cluster or several; a job that is given twice comes once.
        timeout: Seconds for all of them, from this call; None: no limit.

    Raises:
        TimeoutError: From the iterator: the next job has not ended in time; says how many are left.
        UsageError: The argument is not several jobs, or one of them belongs to a parent process.
    """
    return _as_completed(check_jobs(jobs, "as_completed"), deadline(timeout))


def _as_completed(jobs: dict[DispyJob[R], None], until: float | None) -> Generator[DispyJob[R], None, None]:
    """Yield jobs as they end; each is removed from ``jobs`` before it is yielded.

    Args:
        jobs: The jobs as keys, in their order; changed.
        until: When the wait ends in any case (monotonic seconds); None: never.

    Raises:
        TimeoutError: The next job has not ended at ``until``.
    """
    signal = Signal()
    watch: Watch[R] = Watch(signal)
    steps = ended_jobs(jobs, watch)
    try:
        for ended in steps:
            if ended is not None:
                yield from ended
            elif not signal.wait(watch.ended.__len__, until):
                raise late(jobs)
    finally:
        steps.close()


def ended_jobs(
    jobs: dict[DispyJob[R], None], watch: Watch[R]
) -> Generator[Iterator[DispyJob[R]] | None, None, None]:
    """Yield iterators over jobs that have ended, or None when the caller has to wait for the signal of ``watch``.

    Args:
        jobs: The jobs as keys, in their order; each is removed before its iterator gives it.
        watch: Queue of the jobs that end.
    """
    ended = watch.ended

    def taken() -> Iterator[DispyJob[R]]:
        while ended:
            job = ended.popleft()
            del jobs[job]
            yield job

    before = [job for job in jobs if job._is_final]  # pyright: ignore[reportPrivateUsage]  # not for programs
    for job in before:
        del jobs[job]
    try:
        # Before the first job is handed out: from here on all others are queued in the order in which they end.
        for job in jobs:
            job._add_waiter(watch)  # pyright: ignore[reportPrivateUsage]  # not for programs
        yield iter(before)
        while jobs:
            yield taken() if ended else None
    finally:
        for job in jobs:
            job._drop_waiter(watch)  # pyright: ignore[reportPrivateUsage]  # not for programs


def late(jobs: Collection[DispyJob]) -> TimeoutError:
    """Returns the error for a wait whose time is over while these jobs have not ended."""
    return TimeoutError(f"{counted(len(jobs), 'job has', 'jobs have')} not ended in time")


def wait(
    jobs: Iterable[DispyJob[R]], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> DoneAndNotDone[R]:
    """Wait for jobs, as ``concurrent.futures.wait`` does for futures.

    Args:
        jobs: Jobs of one cluster or several.
        timeout: Seconds to wait at most; None: no limit.
        return_when: ``ALL_COMPLETED``: all jobs have ended; ``FIRST_COMPLETED``: a job has ended;
            ``FIRST_EXCEPTION``: a job has ended without a result, or all have ended.

    Returns:
        The jobs that have ended, and the others, also when ``timeout`` is over: that is no error.

    Raises:
        UsageError: The argument is not several jobs, one of them belongs to a parent process, or ``return_when`` has
            another value.
    """
    left = check_jobs(jobs, "wait")
    if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        raise UsageError(
            f"return_when={return_when!r} is unknown",
            hint="use dispy.ALL_COMPLETED, FIRST_COMPLETED or FIRST_EXCEPTION",
        )
    until = deadline(timeout)
    done = set()
    try:
        for job in _as_completed(left.copy(), until):
            done.add(job)
            del left[job]
            if return_when == FIRST_COMPLETED or (
                return_when == FIRST_EXCEPTION and job._status != FINISHED  # pyright: ignore[reportPrivateUsage]  # ``status`` counts as a look
            ):
                break
    except TimeoutError:
        pass
    # Jobs that have ended meanwhile are done, too.
    done.update([job for job in left if job._is_final])  # pyright: ignore[reportPrivateUsage]  # not for programs
    return DoneAndNotDone(done, set(left) - done)


def several_jobs(
    jobs: Iterable[DispyJob], name: str, hint: str = "jobs are what submit returns"
) -> dict[DispyJob, None]:
    """Returns jobs without repetitions, in order, as the keys of a dictionary.

    Args:
        jobs: What the program has given.
        name: Name of the public function that was called, for errors.
        hint: What to give it, for errors.

    Raises:
        UsageError: The value is not several jobs.
    """
    if isinstance(jobs, DispyJob):
        raise UsageError(f"{name} takes several jobs", hint="put the job into a list")
    if not isinstance(jobs, Iterable) or isinstance(jobs, (str, bytes)):
        raise UsageError(f"{name} takes several jobs, not {describe(jobs)}", hint=hint)
    several = list(jobs)
    for job in several:
        if not isinstance(job, DispyJob):
            raise UsageError(f"{name} takes jobs, not {describe(job)}", hint=hint)
    return dict.fromkeys(several)


def check_jobs(
    jobs: Iterable[DispyJob], name: str, hint: str = "jobs are what submit returns"
) -> dict[DispyJob, None]:
    """Returns ``several_jobs`` that can be waited for; arguments are the same.

    Raises:
        UsageError: The value is not several jobs; or a job that has not ended belongs to a parent process.
    """
    found = several_jobs(jobs, name, hint)
    for job in found:
        job._check_process()  # pyright: ignore[reportPrivateUsage]  # not for programs
    return found


class Watch(Generic[R]):
    """Queue of ended jobs for one who waits for many. The engine fills it, as a waiter of each job.

    Args:
        signal: Wakes the one who waits when a job is appended to ``ended``.
    """

    __slots__ = ("_signal", "ended")

    def __init__(self, signal: Wakes) -> None:
        self.ended: deque[DispyJob[R]] = deque()
        """Jobs that have ended and were not taken yet, in the order in which they ended."""
        self._signal = signal

    def on_ended(self, job: DispyJob[R]) -> None:
        """Queue a job that has ended, and wake the one who waits; on the engine's threads."""
        self.ended.append(job)
        self._signal.wake()
