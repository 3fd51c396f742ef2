"""A job as its program sees it. How it ends and wakes those who wait is in ``client.jobs.state``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, ClassVar, Generic, cast

from dispy import payload
from dispy.client.arguments import check_timeout
from dispy.client.in_asyncio.awaiting import wait_at_most, wait_in_loop
from dispy.client.job_numbers import oldest
from dispy.client.jobs.done_callbacks import call_when_done
from dispy.client.jobs.future import JobFuture
from dispy.client.jobs.state import ABANDONED as ABANDONED
from dispy.client.jobs.state import CANCELLED as CANCELLED
from dispy.client.jobs.state import CREATED as CREATED
from dispy.client.jobs.state import FINISHED as FINISHED
from dispy.client.jobs.state import PROVISIONAL_RESULT as PROVISIONAL_RESULT
from dispy.client.jobs.state import RUNNING as RUNNING
from dispy.client.jobs.state import STATUS_NAMES as STATUS_NAMES
from dispy.client.jobs.state import TERMINATED as TERMINATED
from dispy.client.jobs.state import JobState, Raw
from dispy.client.jobs.type_parameters import R_co
from dispy.client.session.missing_files import advice_in, explain
from dispy.client.shown.job_looks import JobLooks
from dispy.errors import JobError
from dispy.protocol.output_reader import Final, Reader
from dispy.system.wording import of_error

if TYPE_CHECKING:
    from dispy.protocol.output_reader import Output


class DispyJob(JobLooks, JobState, Generic[R_co], gc=False, eq=False):
    """One call of a computation. Made by ``submit``, never by the program itself.

    For type checkers a ``DispyJob[int]`` is a job whose function returns an ``int``. A failed job has the result None
    all the same.

    Of its attributes only ``id`` and ``result`` may be assigned.

    Attributes:
        id: Any object; a number that is unique in the process if none is given.
        number: Number of the job on the way to nodes and back, as in logs, whatever ``id`` is. Each cluster numbers
            its jobs 1, 2, 3, … in the order of submission, so jobs of two clusters have the same numbers.
        status: ``Created`` … ``Finished``; ``Cancelled`` and greater are final once ``finish`` is set.
        submit_time: When the job was submitted (seconds since the epoch).
        start_time: When its run began (seconds since the epoch, by the node's clock); None before.
        end_time: When its run ended (seconds since the epoch, by the node's clock); None before.
        ip_addr: Address of the node that runs or ran the job; None before.
        exception: Traceback, or what else ended the job, as text; None on success. If a file is missing that the
            program has, the text ends with what to do about it.
        stdout: Output of the ended job, decoded as UTF-8; of a program, as bytes; None before, or if its end was
            never reported.
        stderr: Error output of the ended job, in the form of ``stdout``.

    Not tracked by the garbage collector, so that a million queued jobs cost it nothing. A cycle of
    references through a job (a result that holds its own job, say) is therefore never collected.
    """

    Created: ClassVar[int] = CREATED
    Running: ClassVar[int] = RUNNING
    ProvisionalResult: ClassVar[int] = PROVISIONAL_RESULT
    Cancelled: ClassVar[int] = CANCELLED
    Terminated: ClassVar[int] = TERMINATED
    Abandoned: ClassVar[int] = ABANDONED
    Finished: ClassVar[int] = FINISHED

    id_iter: ClassVar[Iterator[Any]] = itertools.count(start=1)
    """Iterator over ids for jobs that are submitted without one; the program may replace it."""

    @property
    def status(self) -> int:
        """State of the job: ``Created``, ``Running``, ``ProvisionalResult``, or how it has ended."""
        if self._is_final and self._status != FINISHED:
            self._look()  # a failure that the program sees is not reported at its end
        return self._status

    @status.setter
    def status(self, value: int) -> None:
        self._status = value

    @property
    def exception(self) -> str | None:
        """Traceback, or what else ended the job, as text; None on success."""
        return self._look() if self._is_final else self._exception

    @exception.setter
    def exception(self, value: str | None) -> None:
        self._exception = value

    @property
    def result(self) -> R_co:
        """Value that the job returned; before that its latest provisional value; None if it failed."""
        if self._is_encoded:
            self._value = payload.load(self._value)
            self._is_encoded = False
        return cast(R_co, self._value)

    @result.setter
    def result(self, value: Any) -> None:
        self._value = value
        self._is_encoded = False

    @property
    def stdout(self) -> Any:
        """Output of an ended job: a text, of a program bytes; of more than 1 MiB the middle is cut out and marked.

        None while the job has not ended (``output`` reads it then), and if its end was never reported.
        """
        return _shown(self._stdout)

    @stdout.setter
    def stdout(self, value: Any) -> None:
        self._stdout = value

    @property
    def stderr(self) -> Any:
        """Error output of an ended job: text or bytes, cut like ``stdout``. None while the job has not ended."""
        return _shown(self._stderr)

    @stderr.setter
    def stderr(self, value: Any) -> None:
        self._stderr = value

    @property
    def error(self) -> BaseException | None:
        """Exception that says why the job has no result; None if it has not ended or has a result.

        The job's own exception, with the remote traceback as cause; a ``JobError`` if that cannot be rebuilt here.
        Made anew each time: a raised exception refers to the frames that it went through, and these to the job.
        """
        if not self._is_final or self._status == FINISHED:
            return None
        reason = self.exception or ""
        rebuilt = payload.load_exception(self._error, reason) if self._error else None
        if rebuilt is None:
            return self._as_job_error(reason or "no reason given")
        advice = advice_in(reason)
        if advice:
            rebuilt.add_note(advice)
        return rebuilt

    def _as_job_error(self, reason: str) -> JobError:
        """Returns a ``JobError``, for ``error`` and ``get``, whose text is the job's id, status and ``reason``."""
        return JobError(f"job {self.id!r} is {STATUS_NAMES[self._status]}: {reason}")

    def __call__(self, clear: bool = False) -> R_co:
        """Wait until the job has ended, and return its result (None if it failed).

        Args:
            clear: Clear ``finish`` after the wait, as in dispy 4. Nothing sets it again: a ``finish.wait()`` would
                hang. Later calls of the job, ``wait`` and ``get`` return at once all the same.
        """
        if not self._is_final:
            self.wait()
        if clear:
            self.finish.clear()
        return self.result

    def get(self, timeout: float | None = None) -> R_co:
        """Wait until the job has ended, and return its result; raise what the job has raised if it failed.

        Args:
            timeout: Seconds to wait at most; None: no limit.

        Raises:
            TimeoutError: The job has not ended in time. It goes on.
            JobError: The job was cancelled, killed or lost; or it raised an exception that would end this program or
                task, too, such as ``SystemExit``, which is the cause then. Any other exception of the job is raised
                as it is, with the remote traceback as cause.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"job {self.id!r} has not ended after {timeout:g} s")
        error = self._failure()
        if error is None:
            return self.result
        try:
            raise error
        finally:
            del error  # it refers to this frame: a cycle, which would keep the job

    def _failure(self) -> Exception | None:
        """Returns what ``get`` raises for the ended job, made anew; None if it has a result."""
        error = self.error
        if error is None or isinstance(error, Exception):
            return error
        wrapped = self._as_job_error(of_error(error))
        wrapped.__cause__ = error
        return wrapped

    def done(self) -> bool:
        """True once the job has ended, however it ended."""
        return self._is_final

    def add_done_callback(self, function: Callable[[DispyJob[R_co]], object]) -> None:
        """Have a function called once with the job when it has ended, however it ended.

        The call comes on dispy's thread of callbacks, before ``job_status`` of the job, and ``close`` of the cluster
        waits for it. If the job has ended already the function is called here and now. What it raises is logged.

        Args:
            function: Called with the job. Functions of one job are called in the order in which they were added.

        Raises:
            UsageError: The function cannot be called; or the job has not ended, and its end is never told here: it
                was submitted in another process, or ``recover_jobs`` returned it unfinished.
        """
        call_when_done(self, function)

    def as_future(self) -> JobFuture[R_co]:
        """Returns a new ``concurrent.futures.Future`` that ends as the job does.

        ``concurrent.futures.wait`` and ``as_completed``, ``asyncio.wrap_future``, and libraries that take futures
        take it. Its result and exception are those of ``get``; if the job was cancelled it is cancelled, too.

        ``cancel`` of the future cancels a job that has not begun, and returns False for one that has, or may have:
        the oldest jobs of the cluster, one more than it has CPUs. ``kill`` cancels a job that runs, too. Its
        callbacks are called on dispy's thread of callbacks; on the caller's if the job has ended.

        Raises:
            UsageError: From the future: the job has not ended, and its end is never told here.
        """
        return JobFuture(self, _OWNER)

    def __await__(self) -> Generator[Any, None, R_co]:
        """Wait in a coroutine: ``await job`` gives the result, None if the job failed, and blocks no thread.

        If the task is cancelled the job goes on. ``aget`` raises what the job has raised, and can cancel it.
        """
        if not self._is_final:
            self._check_process()
            yield from wait_in_loop(self)
        return self.result

    async def aget(self, timeout: float | None = None, *, cancel: bool = False) -> R_co:
        """``get`` for coroutines: wait without blocking the loop, and return the result or raise the job's exception.

        Args:
            timeout: Seconds to wait at most; None: no limit.
            cancel: True: the job is cancelled, too, if the time is over or the waiting task is cancelled. False: it
                goes on.

        Raises:
            TimeoutError: The job has not ended in time.
            JobError: As ``get``; any other exception of the job is raised as it is.
            UsageError: The job has not ended, and its end is never told here.
        """
        limit = check_timeout(timeout)
        try:
            if not self._is_final:
                self._check_process()
                await wait_at_most(self, limit)
        finally:
            if cancel and not self._is_final:
                _OWNER.kill_job(self)
        if not self._is_final:
            raise TimeoutError(f"job {self.id!r} has not ended after {timeout:g} s")
        return self.get()

    def output(self, follow: bool = False) -> Iterator[Output]:
        """Yield the output of the job in pieces (stream, text), from the beginning.

        ``stream`` is "stdout" or "stderr"; ``text`` is bytes if the job runs a program. Pieces are no lines. Those of
        one stream come in order; what the job printed to the other stream at the same time may come a moment earlier
        or later. If the job prints faster than its output can be sent, or pieces are not taken in time, output is
        dropped, and a line says how much is missing; ``stdout`` has such a line, too, at another place. If the job
        has to be started again on another node, a line says so, and its output begins anew.

        Args:
            follow: True: go on until the job has ended; pieces come some tenths of a second after it prints. False:
                yield what it has printed so far; nothing if its node does not tell that within a second.

        Raises:
            UsageError: The job has not ended, and was submitted in another process.
        """
        self._check_process()
        if self._is_final:
            return iter(Reader(_is_raw(self._stdout)).finish(self._kept()))
        pieces: Iterator[Output] = self._session.watching.follow(self, follow)
        return pieces

    def _look(self) -> str | None:
        """Returns why the ended job failed, and notes that the program has looked at it; None if it did not fail.

        The reason is a traceback or a sentence. Advice about a missing file is added to it, and stored in the job
        (``missing_files``). Failures of cancelled and recovered jobs are returned as they are.
        """
        reason, session = self._exception, self._session
        if reason is not None and session is not None and self._status != CANCELLED:
            session.tally.hear(reason)
            base, files = session.shipped.base, session.options.files
            reason = self._exception = explain(reason, base, files, self.ip_addr)
        return reason

    def _kept(self) -> Final:
        """Returns the complete output of an ended job.

        The attempt in it is None, as the job does not keep that number: a reader takes the output as that of the
        attempt which it was reading.
        """
        return Final(None, (_bytes(self._stdout), _bytes(self._stderr)))


class _Owner:
    """Cancels jobs for the futures of ``as_future``, and says how they have ended."""

    def cancel_job(self, job: JobState) -> bool:
        """Cancel a job unless it may have begun or has ended; True if it is cancelled."""
        session: Any = job._session  # pyright: ignore[reportPrivateUsage]  # its own class
        if session is not None and not session.is_closed:
            cpus = session.cpus()
            if cpus and job.number in oldest(session.jobs, cpus + 1):
                return False
        return self.kill_job(job)

    def kill_job(self, job: JobState) -> bool:
        """Cancel a job, which may run; False if it has ended, or its cluster is closed."""
        session: Any = job._session  # pyright: ignore[reportPrivateUsage]  # its own class
        return session is not None and not session.is_closed and session.cancel(job) == 0

    def call_back(self, job: JobState, function: Callable[[], None]) -> None:
        """Have a function called on the thread of callbacks."""
        job._session.engine.callbacks.call(function, [()])  # pyright: ignore[reportPrivateUsage]  # its own class

    def is_calling_back(self, job: JobState) -> bool:
        """True if the caller is on the thread of callbacks."""
        session: Any = job._session  # pyright: ignore[reportPrivateUsage]  # its own class
        return session is not None and bool(session.engine.callbacks.is_current())

    def outcome(self, job: JobState) -> tuple[Any, BaseException | None]:
        """Returns result and exception of an ended job, as ``get`` has them; ``CancelledError`` if cancelled."""
        assert isinstance(job, DispyJob)
        if job._was_cancelled():  # pyright: ignore[reportPrivateUsage]  # its own class
            return None, CancelledError()
        error = job._failure()  # pyright: ignore[reportPrivateUsage]  # its own class
        return (job.result if error is None else None), error


_OWNER = _Owner()


def _shown(captured: Any) -> Any:
    """Returns captured output as ``stdout`` and ``stderr`` give it: text, of a program bytes; None as it is."""
    if type(captured) is Raw:
        return captured.data
    return captured.decode("utf-8", "backslashreplace") if isinstance(captured, bytes) else captured


def _is_raw(captured: Any) -> bool:
    """True if output is shown as bytes."""
    return type(captured) is Raw


def _bytes(captured: Any) -> bytes:
    """Returns captured output as bytes; empty for None."""
    if type(captured) is Raw:
        return captured.data
    # Only bytes come from nodes, but the program may have assigned a text.
    return (
        captured if isinstance(captured, bytes) else str(captured).encode() if captured is not None else b""
    )
