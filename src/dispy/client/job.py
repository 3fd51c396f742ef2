"""A job as its program sees it.

Theory of operation. The engine's thread ends a job: it sets the result and ``_status``, then ``_is_final``; then it
looks at ``_waiter``, and calls ``_wake`` if that is set. A thread that waits goes the other way round: it sets
``_waiter`` first, then looks at ``_is_final``. So one of the two sees the other, and no thread sleeps for ever.

``_waiter`` is None, one waiter, or ``Several``. A waiter is a bare lock (``wait`` of one thread), an Event
(``finish``), or an object with ``on_ended`` (``client.waiting``, ``client.awaiting``). ``guard`` guards it.
"""

from __future__ import annotations

import _thread
import itertools
import threading
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import msgspec

from dispy import payload
from dispy.client.arguments import check_timeout
from dispy.client.awaiting import wait_in_loop
from dispy.client.job_waiters import Several, guard, pack, release, waiters_in
from dispy.client.session.missing_files import advice_in, explain
from dispy.client.shown.job_looks import STATUS_NAMES as STATUS_NAMES
from dispy.client.shown.job_looks import JobLooks
from dispy.errors import JobError, UsageError
from dispy.protocol.output_reader import Final, Reader
from dispy.system import process_identity
from dispy.system.wording import of_error

if TYPE_CHECKING:
    from dispy.protocol.node import Ended
    from dispy.protocol.output_reader import Output

CREATED = 5
RUNNING = 6
PROVISIONAL_RESULT = 7
CANCELLED = 8
TERMINATED = 9
ABANDONED = 10
FINISHED = 11


class DispyJob(JobLooks, msgspec.Struct, gc=False, eq=False):
    """One call of a computation. Made by ``submit``, never by the program itself.

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

    id: Any
    number: int = 0
    _session: Any = None
    """Session of the cluster in which the job can end. None in a recovered job, and in chunks of maps."""
    submit_time: float = 0.0
    _status: int = CREATED
    """Status as set by the engine. ``status`` returns it, and notes a failure as seen, not to be reported."""
    start_time: float | None = None
    end_time: float | None = None
    ip_addr: str | None = None
    _exception: str | None = None
    """Why the job failed: a traceback or a sentence, to which ``exception`` adds advice. None: no failure."""
    _stdout: Any = None
    """Output (bytes) as the node reported it; ``stdout`` decodes it unless the job is a program. None: no report."""
    _stderr: Any = None
    """Error output (bytes) as the node reported it, to be decoded by ``stderr``. None: no report."""
    _value: Any = None
    """Result, or its pickle while ``_is_encoded``: then ``result`` unpickles it on the thread that asks for it."""
    _is_encoded: bool = False
    """True if ``_value`` is a pickle that ``result`` has to load."""
    _error: Any = None
    """Pickled exception of a failed job, from which ``error`` makes one; None or empty: there is none."""
    _waiter: Any = None
    """Waiters to wake when the job has ended: None, one, or ``Several``; see the theory of operation above."""
    _is_final: bool = False
    """True once the job has ended and all other attributes are set; set last, as other threads look at it first."""

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
    def result(self) -> Any:
        """Value that the job returned; before that its latest provisional value; None if it failed."""
        if self._is_encoded:
            self._value = payload.load(self._value)
            self._is_encoded = False
        return self._value

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

    @property
    def finish(self) -> threading.Event:
        """Event that is set when the job has ended, however it ended."""
        event = self._waiter
        if isinstance(event, threading.Event):
            return event
        made: threading.Event = self._add_waiter(threading.Event())
        return made

    def _add_waiter(self, waiter: Any) -> Any:
        """Have a waiter told once when the job has ended: by the engine's thread, or here if it has ended already.

        Args:
            waiter: An event, or an object whose ``on_ended`` is called with the job.

        Returns:
            The waiter; the event that the job has already if another one is given, as a job has only one event.
        """
        with guard:
            before = waiters_in(self._waiter)
            if isinstance(waiter, threading.Event):
                for other in before:
                    if isinstance(other, threading.Event):
                        return other
            self._waiter = Several([*before, waiter]) if before else waiter
        if self._is_final:
            self._wake()
        return waiter

    def _drop_waiter(self, waiter: Any) -> None:
        """Remove a waiter that does not wait any more; nothing happens if it is not among the waiters."""
        with guard:
            self._waiter = pack([other for other in waiters_in(self._waiter) if other is not waiter])

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended. Returns False if it has not after ``timeout`` seconds (None: no limit)."""
        if timeout is not None:
            timeout = check_timeout(timeout)
        if self._is_final:
            return True
        self._check_process()
        with guard:
            lock = self._waiter
            is_first = lock is None
            if is_first:
                # A bare lock costs a tenth of an Event, and this is the most common wait of all.
                lock = _thread.allocate_lock()
                lock.acquire()
                self._waiter = lock
        if not is_first:
            return self.finish.wait(timeout)
        if not self._is_final:
            if lock.acquire(True, -1 if timeout is None else timeout):
                lock.release()
        return self._is_final

    def __call__(self, clear: bool = False) -> Any:
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

    def get(self, timeout: float | None = None) -> Any:
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
        error = self.error
        if error is None:
            return self.result
        if not isinstance(error, Exception):
            raise self._as_job_error(of_error(error)) from error
        try:
            raise error
        finally:
            del error  # it refers to this frame: a cycle, which would keep the job

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait in a coroutine: ``await job`` gives the result, None if the job failed, and blocks no thread.

        After it ``job.get()`` does not wait any more: it raises what the job has raised.
        """
        if not self._is_final:
            self._check_process()
            yield from wait_in_loop(self)
        return self.result

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

    def _check_process(self) -> None:
        """Check that the job can end in this process: a job of a parent process, or a recovered one, never does.

        Raises:
            UsageError: The job has not ended, and nothing here would tell its end.
        """
        if self._is_final:
            return
        if self._session is None:
            raise UsageError(
                "this job had not ended when recover_jobs returned, and nobody waits for it now",
                hint="call recover_jobs again",
            )
        if self._session.pid != process_identity.pid:
            self._session.check_open()

    def _wake(self) -> None:
        """Wake all waiters of the job. Set status, result and ``_is_final`` first: woken threads read these."""
        waiter = self._waiter
        if type(waiter) is _thread.LockType:
            release(waiter)
            return
        with guard:
            told = waiters_in(self._waiter)
            # The event stays with the job, as ``finish``; all others are told once.
            self._waiter = pack([other for other in told if isinstance(other, threading.Event)])
        for waiter in told:
            if type(waiter) is _thread.LockType:
                release(waiter)
            elif isinstance(waiter, threading.Event):
                waiter.set()
            else:
                waiter.on_ended(self)

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

    # What the engine tells the job.

    def _begin(self, start: float, ip_addr: str) -> bool:
        """Note that the job runs. True if it was ``Created`` until now. The caller holds the lock for statuses."""
        self.ip_addr = ip_addr
        self.start_time = start
        if self._status != CREATED:
            return False
        self._status = RUNNING
        return True

    def _requeue(self) -> None:
        """Note that the job waits again. The caller holds the lock for statuses."""
        if self._status < CANCELLED:
            self._status = CREATED
        self.ip_addr = self.start_time = None

    def _cancel(self) -> None:
        """Note that the program has cancelled the job. The caller holds the lock for statuses."""
        if self._status < CANCELLED:
            self._status = CANCELLED

    def _take_end(
        self, ended: Ended, ip_addr: str, *, is_program: bool = False, is_plain: bool = False
    ) -> bool:
        """Set all but the result by the report of the job's end. The caller makes it final (``_finish``).

        Address, times and output of a job that did not run stay as they are. The caller holds the lock for statuses.

        Args:
            ended: The report.
            ip_addr: Address of the node that has sent it.
            is_program: True: output is shown as bytes.
            is_plain: True: nothing in the report may run code here.

        Returns:
            True if the job has no result because it was cancelled, by its program or on its node.
        """
        if ended.status == FINISHED:
            self.ip_addr = ip_addr
            self.start_time = ended.start
            self.end_time = ended.end
            self._stdout = Raw(ended.stdout) if is_program else ended.stdout
            self._stderr = Raw(ended.stderr) if is_program else ended.stderr
            self._value = ended.payload
            self._is_encoded = True
            self._status = FINISHED
            return False
        is_cancelled = CANCELLED in (self._status, ended.status) or ended.reason == "cancelled"
        self._status = ended.status
        if ended.ran:
            self.ip_addr = ip_addr
            self.start_time = ended.start
            self.end_time = ended.end
            if ended.reason != "cancelled":
                self._stdout = Raw(ended.stdout) if is_program else ended.stdout
                self._stderr = Raw(ended.stderr) if is_program else ended.stderr
        self._fail(ended.reason, payload.PlainOnly(ended.payload) if is_plain else ended.payload)
        return is_cancelled

    def _end_here(self, status: int, reason: str) -> bool:
        """End the job without the report of a node, as ``_take_end`` does. True if it was cancelled."""
        is_cancelled = CANCELLED in (status, self._status)
        self._status = status
        self._fail(reason, b"")
        return is_cancelled

    def _fail(self, reason: str, error: Any) -> None:
        """Set why the job has no result: a reason in words, and its exception, pickled."""
        self._value = None
        self._is_encoded = False
        self._exception = reason or None
        self._error = error

    def _finish(self) -> None:
        """Make the job final, and wake all that wait for it. Its attributes are set before."""
        self._is_final = True
        if self._waiter is not None:
            self._wake()

    def _provide(self, result: Any) -> DispyJob:
        """Take a provisional result. Returns a copy of the job, for callbacks: later events do not change it.

        The caller holds the lock for statuses.
        """
        if self._status < CANCELLED:
            self._status = PROVISIONAL_RESULT
        self.result = result
        shot = msgspec.structs.replace(self)
        shot._status = PROVISIONAL_RESULT
        return shot


class Raw(NamedTuple):
    """Output of a program, which is shown as bytes; that of a function is decoded."""

    data: bytes


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
