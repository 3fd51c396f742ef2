"""The state of a job: what its engine sets, and who waits for its end. ``DispyJob`` adds what programs see.

Theory of operation. The engine's thread ends a job: it sets the result and ``_status``, then ``_is_final``; then it
looks at ``_waiter``, and calls ``_wake`` if that is set. A thread that waits goes the other way round: it sets
``_waiter`` first, then looks at ``_is_final``. So one of the two sees the other, and no thread sleeps for ever.

``_waiter`` is None, one waiter, or ``Several``. A waiter is a bare lock (``wait`` of one thread), an Event
(``finish``), or an object with ``on_ended`` (``client.waiting``, ``client.in_asyncio``). ``guard`` guards it.
"""

from __future__ import annotations

import _thread
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from dispy import payload
from dispy.client.arguments import check_timeout
from dispy.client.job_waiters import Several, guard, pack, release, waiters_in
from dispy.errors import UsageError
from dispy.system import process_identity

if TYPE_CHECKING:
    from dispy.protocol.node import Ended


CREATED = 5
RUNNING = 6
PROVISIONAL_RESULT = 7
CANCELLED = 8
TERMINATED = 9
ABANDONED = 10
FINISHED = 11

STATUS_NAMES = {
    CREATED: "Created",
    RUNNING: "Running",
    PROVISIONAL_RESULT: "ProvisionalResult",
    CANCELLED: "Cancelled",
    TERMINATED: "Terminated",
    ABANDONED: "Abandoned",
    FINISHED: "Finished",
}
"""Names of the statuses of jobs, for messages, by the number that is the status."""


class JobState(msgspec.Struct, gc=False, eq=False):
    """The attributes of a job, those who wait for its end, and what the engine tells it.

    A class of its own, as what programs see of a job (``DispyJob``) fills a module. Not tracked by the garbage
    collector, so that a million queued jobs cost it nothing.

    Attributes:
        id: Any object; a number that is unique in the process if none is given.
        number: Number of the job among those of its cluster, on the way to nodes and back.
        submit_time: When the job was submitted (seconds since the epoch).
        start_time: When its run began (seconds since the epoch, by the node's clock); None before.
        end_time: When its run ended (seconds since the epoch, by the node's clock); None before.
        ip_addr: Address of the node that runs or ran the job; None before.
    """

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
            if before and isinstance(waiter, threading.Event):
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

    def _was_cancelled(self) -> bool:
        """True if the ended job has no result because it was cancelled, by its program or on its node."""
        return self._status == CANCELLED or (self._status != FINISHED and self._exception == "cancelled")

    def _provide(self, result: Any) -> Self:
        """Take a provisional result. Returns a copy of the job, for callbacks: later events do not change it.

        The caller holds the lock for statuses.
        """
        if self._status < CANCELLED:
            self._status = PROVISIONAL_RESULT
        self._value = result
        self._is_encoded = False
        shot = msgspec.structs.replace(self)
        shot._status = PROVISIONAL_RESULT
        return shot


class Raw(NamedTuple):
    """Output of a program, which is shown as bytes; that of a function is decoded."""

    data: bytes
