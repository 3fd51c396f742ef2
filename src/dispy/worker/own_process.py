"""A process for one job alone: for each job of an isolated computation, and for a job that brings code with it.

The process is forked from the worker and not from the host, so that what a worker needs is set up once and not for
every job: 2.9 ms instead of 6. The process writes the result into the worker's arena and ends. Meanwhile the worker
waits and passes signals on; afterwards it kills what the job has left behind. If there is no result in the arena, the
worker writes one that reports the death of the process.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from dispy.protocol import worker as protocol
from dispy.protocol.node import TERMINATED, Ended, Job
from dispy.system.processes import describe_exit, kill_strays, set_death_signal
from dispy.worker.arena import Arena
from dispy.worker.between_jobs import native_threads
from dispy.worker.output_capture import Capture
from dispy.worker.results import add_words
from dispy.worker.segments import Segments

# Bound here, as jobs may replace them in the module. Durations are taken from a clock that cannot be set.
_wall = time.time
_clock = time.perf_counter


class OwnProcess:
    """Runs jobs in processes of their own, one at a time.

    Args:
        words: Header of the worker's slot (see ``protocol.worker``).
        arena: Takes results.
        segments: Large payloads.
        capture: The output of jobs.

    Attributes:
        pid: Pid of the process that runs a job, to which the worker passes SIGINT and SIGURG on; 0 if there is none.
        kept: Pids of the processes that ``setup`` has started: they are not killed after a job.
    """

    def __init__(self, words: memoryview, arena: Arena, segments: Segments, capture: Capture) -> None:
        self._words = words
        self._arena = arena
        self._segments = segments
        self._capture = capture
        self.pid = 0
        self.kept: set[int] = set()

    def run(self, job: Job, become: Callable[[Job], None], has_run_jobs: bool) -> None:
        """Run a job in a process of its own and wait for its end; its result is in the arena then.

        Args:
            job: The job.
            become: Called in the new process: runs the job and writes its result to the arena.
            has_run_jobs: True if this process may have run jobs, which may have started threads of OpenMP: they are
                ended before the fork, as the job would otherwise wait for them for ever.
        """
        words = self._words
        parent = os.getpid()
        start = _wall()
        began = _clock()
        if has_run_jobs:
            native_threads.rest()
        try:
            pid = os.fork()
        except OSError as error:
            self._report_death(job, start, start, f"no process can be started for the job: {error}")
            return
        if pid == 0:
            code = 70  # EX_SOFTWARE
            try:
                set_death_signal(signal.SIGKILL, parent)
                become(job)
                code = 0
            finally:
                os._exit(code)
        self.pid = pid
        self._segments.skip()
        if words[protocol.SLOT_INTERRUPT] == words[protocol.SLOT_CLAIM]:
            os.kill(pid, signal.SIGINT)  # it came before the pid was known
        if words[protocol.SLOT_UNBUFFER] == words[protocol.SLOT_CLAIM]:
            os.kill(pid, signal.SIGURG)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self.pid = 0  # before the pid is free to be another's
        _, status = os.waitpid(pid, 0)
        self._kill_leftovers()
        if self._arena.adopt():
            self._capture.take()  # drop what leftovers printed
        else:
            reason = f"the job's process ended with {describe_exit(os.waitstatus_to_exitcode(status))}"
            self._report_death(job, start, start + (_clock() - began), reason)

    def _report_death(self, job: Job, start: float, end: float, reason: str) -> None:
        """Write the result of a job whose process has died, or could not be started, to the arena.

        ``Ended.died`` is set, with which the job may run again, unless the job was cancelled.

        Args:
            job: The job.
            start: Start of the job (seconds since the epoch).
            end: End of the job (seconds since the epoch).
            reason: Sentence that says how the process ended.
        """
        self._segments.remove(job)
        stdout, stderr = self._capture.take()
        ended = Ended(job.number, job.attempt, TERMINATED, start, end, b"")
        add_words(ended, reason, stdout, stderr, self._segments)
        words = self._words
        ended.died = words[protocol.SLOT_INTERRUPT] != words[protocol.SLOT_CLAIM]
        self._arena.keep(ended)

    def _kill_leftovers(self) -> None:
        """Kill descendants that the job has left behind, except those of ``setup``."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        kill_strays(self.kept)
