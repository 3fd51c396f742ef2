"""Live output of running jobs, on its way to the ``job_output`` callback and to ``DispyJob.output``.

Theory of operation. Nodes are asked for the output of one job when a follower comes, or of all jobs if there is a
callback. Pieces come on the engine's loop. ``Watching`` passes them on: to the callback through the callbacks'
thread, and to each ``Follower``, whose owner reads on its own thread. Callback and followers have a ``Reader`` for
each job, which drops bytes that came twice and puts a mark with the number of missing bytes where some were skipped.
For a reader that is slower than the output ``PENDING_MAX`` bytes are kept; pieces beyond are skipped, and the end of
the job brings them if the job's complete output still has them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from dispy.client.engine.callback_thread import call_now
from dispy.client.job import CREATED, DispyJob
from dispy.client.wakeup import Signal
from dispy.protocol.limits import MIB
from dispy.protocol.node import Ended, Printed
from dispy.protocol.output_reader import Final, Output, Reader, final_of

if TYPE_CHECKING:
    from dispy.client.engine.threads import Threads

PENDING_MAX = 4 * MIB
"""Bytes of output that are kept for one reader that is slower: one follower, or the callback with all jobs together.
Pieces beyond are skipped, and come when the job ends if the job's complete output still has them."""

ANSWER_S = 1.0
"""Seconds that ``output(follow=False)`` waits for the node of a running job. After that the iteration ends with what
has come, mostly nothing; no error is raised."""


class Follower:
    """Queue of what one job prints, from the engine's thread to the one thread that reads.

    Attributes:
        pending: Pieces of output that were not taken yet, oldest first; ``PENDING_MAX`` bytes at most.
        signal: Wakes the reading thread when a piece was queued, or the job has ended.
        is_ended: True once the job has ended: set after everything else, so no piece comes after it.
        final: Complete output in the report of the job's end. None before that, and if the follower was added after
            the end: the output is taken from the job's own attributes then.
    """

    __slots__ = ("_has_begun", "_size_in", "_size_out", "final", "is_ended", "pending", "signal")

    def __init__(self) -> None:
        self.pending: deque[Printed] = deque()
        self.signal = Signal()
        self.is_ended = False
        self.final: Final | None = None
        self._has_begun = False
        """True once a piece has come that was sent for this follower. Pieces that the node sent before it knew of the
        follower are dropped: it sends the output again from its first byte."""
        # Bytes put in and taken out: two counters, as each is changed by one thread only and needs no lock.
        self._size_in = 0
        self._size_out = 0

    def on_printed(self, printed: Printed) -> None:
        """Queue a piece of output, or skip it if ``PENDING_MAX`` bytes would be exceeded; on the engine's thread."""
        # Pieces that were under way when this follower came are dropped: the node sends all of it again.
        if not (self._has_begun or printed.begins):
            return
        self._has_begun = True
        size = len(printed.stdout) + len(printed.stderr)
        if self._size_in - self._size_out + size <= PENDING_MAX:
            self._size_in += size
            self.pending.append(printed)
            self.signal.wake()

    def on_ended(self, job: DispyJob) -> None:
        """Note that the job has ended, and wake the reader. Called by the job, on the engine's threads.

        ``Watching.follow`` adds this object to the job's waiters for that.
        """
        self.is_ended = True
        self.signal.wake()

    def take(self) -> Printed:
        """Remove and return the oldest pending piece, on the reading thread. IndexError if there is none."""
        printed = self.pending.popleft()
        self._size_out += len(printed.stdout) + len(printed.stderr)
        return printed

    def has_news(self) -> bool:
        """True if a piece is pending, or the job has ended so that none will come any more: do not sleep then."""
        return bool(self.pending) or self.is_ended


class Watching:
    """Distributor of the live output of a cluster's jobs to the callback and to followers. For the engine's thread.

    Args:
        callback: The user's ``job_output``, called with (job, stream, text) for all jobs; None: there is none.
        threads: Threads of the engine, one of which runs the callback.
        jobs: Unfinished jobs of the cluster, by number.
        ask: Has the node of a job (by number) send its output, from the first byte on, or (False) no more.
        is_binary: True if callback and followers get bytes instead of text.
    """

    def __init__(
        self,
        callback: Callable[[DispyJob, str, str], object] | None,
        threads: Threads,
        jobs: Mapping[int, object],
        ask: Callable[[int, bool], None],
        is_binary: bool = False,
    ) -> None:
        self._threads = threads
        self._jobs = jobs
        self._ask = ask
        self._is_binary = is_binary
        self.callback = callback
        self.is_active = callback is not None
        """True if there is a callback or a follower. Ends of jobs must be passed to ``on_ended`` only then, which
        spares the path of every job a call."""
        self._caller = threads.callbacks
        self._followers: dict[int, list[Follower]] = {}
        """Followers of unfinished jobs, by the job's number; jobs without a follower have no entry."""
        self._readers: dict[int, Reader] = {}
        """Readers of the callback for running jobs that have printed, by the job's number. Each knows how many bytes
        of each stream the callback has got. The loop adds and removes readers; the callbacks' thread uses them."""
        # Bytes queued for the callback and given to it: two counters, as each is changed by one thread only.
        self._size_in = 0
        self._size_out = 0

    def add(self, number: int, follower: Follower) -> None:
        """Have a follower get the output of the unfinished job ``number``. The caller must then ask the job's node to
        send the output."""
        self._followers.setdefault(number, []).append(follower)
        self.is_active = True

    def drop(self, number: int, follower: Follower) -> bool:
        """Remove a follower of the job with this number.

        Returns:
            True if this was the last follower of an unfinished job: tell its node to send the output no more. False
            if there are others, or the job has ended, or the follower is not known.
        """
        followers = self._followers.get(number, [])
        if follower not in followers:
            return False
        followers.remove(follower)
        if followers:
            return False
        del self._followers[number]
        self.is_active = self.callback is not None or bool(self._followers)
        return True

    def on_printed(self, printed: list[Printed]) -> None:
        """Pass on pieces of output that nodes have sent: to followers, and to the callback unless it lags behind.

        Args:
            printed: The pieces, in the order in which they came. Those of jobs that have ended are dropped.
        """
        for item in printed:
            job = self._jobs.get(item.number)
            if job is None or type(job) is not DispyJob:
                continue
            for follower in self._followers.get(item.number, ()):
                follower.on_printed(item)
            size = len(item.stdout) + len(item.stderr)
            if self.callback is not None and size and self._size_in - self._size_out <= PENDING_MAX:
                self._size_in += size
                reader = self._readers.setdefault(item.number, Reader(self._is_binary))
                self._caller.call(self._tell, [(job, reader, item)], self.callback)

    def on_ended(self, ended: list[Ended]) -> None:
        """Pass on the rest of the output of jobs that end, and forget the jobs. Call it before they are made final.

        Args:
            ended: Reports of the ends, each with the complete output.
        """
        calls = []
        for item in ended:
            for follower in self._followers.pop(item.number, ()):
                follower.final = final_of(item)
            if self.callback is None:
                continue
            reader = self._readers.pop(item.number, None)
            job = self._jobs.get(item.number)
            if type(job) is DispyJob and (reader is not None or item.stdout or item.stderr):
                calls.append((job, reader or Reader(self._is_binary), final_of(item)))
        if calls:
            self._caller.call(self._tell_rest, calls, self.callback)
        self.is_active = self.callback is not None or bool(self._followers)

    # Followers.

    def follow(self, job: DispyJob, is_following: bool) -> Iterator[Output]:
        """Yields (stream, text) pieces of a job's output: the work of ``DispyJob.output`` for a job that runs.

        ``stream`` is ``"stdout"`` or ``"stderr"``; ``text`` is a str, or bytes if the job runs a program; stdout
        first where both come at once. Only one thread may use the iterator. Yields nothing for a job that waits in
        the queue if ``is_following`` is False.

        Args:
            job: The job.
            is_following: True: outputs come until the job has ended, and the iterator waits for them. False: only
                what the job has printed by now; waits at most ``ANSWER_S`` for the job's node.
        """
        reader = Reader(self._is_binary)
        if not is_following and job.status == CREATED:
            return
        until = None if is_following else time.monotonic() + ANSWER_S
        follower = Follower()
        job._add_waiter(follower)  # pyright: ignore[reportPrivateUsage]  # not for programs
        try:
            self._threads.call(self._watch, job, follower)
            while True:
                is_last = follower.is_ended  # asked first: then nothing comes after what is pending
                has_answer = bool(follower.pending)
                while follower.pending:
                    yield from reader.take(follower.take())
                if is_last:
                    yield from reader.finish(follower.final or job._kept())  # pyright: ignore[reportPrivateUsage]  # same
                    return
                if not is_following and has_answer:
                    return
                if not follower.signal.wait(follower.has_news, until):
                    return
        finally:
            job._drop_waiter(follower)  # pyright: ignore[reportPrivateUsage]  # same
            self._threads.post(self._unwatch, job, follower)

    def _watch(self, job: DispyJob, follower: Follower) -> None:
        """Add a follower of a job, and have its node send the output from its first byte on. On the loop.

        Does nothing if the job has ended: the follower is woken as a waiter of the job.
        """
        if self._jobs.get(job.number) is job:
            self.add(job.number, follower)
            self._ask(job.number, True)

    def _unwatch(self, job: DispyJob, follower: Follower) -> None:
        """Remove a follower of a job; after the last one have the node send no more of its output. On the loop."""
        if self.drop(job.number, follower):
            self._ask(job.number, False)

    # On the callbacks' thread.

    def _tell(self, job: DispyJob, reader: Reader, printed: Printed) -> None:
        """Call the callback with the part of a piece of output that it has not got yet, as ``reader`` tells."""
        self._size_out += len(printed.stdout) + len(printed.stderr)
        self._call(job, reader.take(printed))

    def _tell_rest(self, job: DispyJob, reader: Reader, final: Final) -> None:
        """Call the callback with the output that it has not got when a job has ended; ``final`` has all of it."""
        self._call(job, reader.finish(final))

    def _call(self, job: DispyJob, outputs: list[Output]) -> None:
        """Call the user's callback with (job, stream, text) once for each output; what it raises is logged."""
        assert self.callback is not None
        for output in outputs:
            call_now(self.callback, (job, *output))
