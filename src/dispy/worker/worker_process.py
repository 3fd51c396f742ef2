"""The process of a worker, from the fork to its end: what it drops of its host, what it sets up, what it reports."""

from __future__ import annotations

import io
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, NoReturn

from dispy.protocol import worker as protocol
from dispy.system import processes
from dispy.worker import node_log, signals
from dispy.worker.between_jobs.state_restore import Restorer
from dispy.worker.computation import REASON_MAX, Computation
from dispy.worker.job_api.job_calls import JobCalls
from dispy.worker.job_api.random_numbers import Randomness
from dispy.worker.loop import Worker
from dispy.worker.output_capture import Capture
from dispy.worker.program import Program
from dispy.worker.replies import leave
from dispy.worker.segments import Segments


class Channels(NamedTuple):
    """File descriptors of a new worker, in the order in which the node sends them.

    Attributes:
        jobs: Socket that records come from.
        replies: Socket that results go to, and acknowledgements come from.
        stdout: Memory file that becomes descriptor 1.
        stderr: Memory file that becomes descriptor 2.
    """

    jobs: int
    replies: int
    stdout: int
    stderr: int


class WorkerProcess:
    """A worker in the making, from the fork to its end: what it takes over from its host, and runs with.

    Args:
        computation: The computation that it runs.
        calls: Functions that jobs find; they work once they know the worker.
        restorer: State to put back between jobs.
        randomness: Random generators of this process.
        streams: Python streams for the output of jobs.
    """

    def __init__(
        self,
        computation: Computation,
        calls: JobCalls,
        restorer: Restorer,
        randomness: Randomness,
        streams: tuple[io.TextIOWrapper, io.TextIOWrapper],
    ) -> None:
        self._computation = computation
        self._calls = calls
        self._restorer = restorer
        self._randomness = randomness
        self._streams = streams

    def run(
        self, parent: int, channels: Channels, slot: memoryview, close_inherited: Callable[[], None]
    ) -> NoReturn:
        """Run jobs until the node closes the jobs socket, and end this process.

        The exit code is 0; 70 after an error outside of jobs, which the node is told; 78 if ``setup`` fails here.

        Args:
            parent: Pid of the host, with whose end this process is killed.
            channels: Descriptors of this worker.
            slot: Memory shared with the node.
            close_inherited: Closes descriptors of the host and of other workers.
        """
        code = 70  # EX_SOFTWARE: what follows never ends by itself
        answers: socket.socket | None = None
        try:
            answers = socket.socket(fileno=channels.replies)
            signal.set_wakeup_fd(-1)
            processes.set_death_signal(signal.SIGKILL, parent)
            processes.set_subreaper()
            close_inherited()
            signals.set_worker_handlers(self._calls.on_interrupt, self._calls.on_unbuffer)
            if self._computation.load.setup_per_worker:
                self._set_up(answers)
            worker = self._make_worker(channels, answers, slot)
            self._calls.worker = worker
            self._restorer.context.run(worker.serve)
            self._calls.worker = None
            if self._computation.load.setup_per_worker:
                with suppress(FileNotFoundError):  # a job may have removed it
                    os.chdir(self._computation.load.work_path)
                self._computation.clean_up()
            code = 0
        except BaseException:
            text = node_log.say_error()
            with suppress(BaseException):
                if answers is not None:
                    reason = (
                        f"the job's process ended with exit code {code}, by an error outside of the job:\n"
                    )
                    answers.send(protocol.pack_broken(reason + text[-REASON_MAX:]), socket.MSG_DONTWAIT)
        finally:
            os._exit(code)

    def _set_up(self, answers: socket.socket) -> None:
        """Import the code and call ``setup`` in this worker, before any job here, and tell the node by a packet on
        ``answers`` how that went.

        If that fails, this process ends with exit code 78.
        """
        load = self._computation.load
        reason = self._computation.import_code() or self._computation.set_up()
        if self._computation.code is not None:
            said = self._randomness.take(self._computation.code.seeding, False)
            if said:
                self._computation.logger.warning("%s: %s", load.name, said)
        try:
            answers.send(protocol.pack_set_up(reason))
        except OSError:
            leave(78)  # the computation was closed meanwhile, and the node reads no more of this worker
        if reason:
            leave(78)  # EX_CONFIG
        # Jobs find the state as ``setup`` has left it, but for the signal handlers, which the worker needs.
        signals.set_worker_handlers(self._calls.on_interrupt, self._calls.on_unbuffer)
        self._restorer.note(load.work_path)

    def _make_worker(self, channels: Channels, answers: socket.socket, slot: memoryview) -> Worker:
        """Returns the worker that runs jobs, over the output and the random numbers of this process."""
        load, code = self._computation.load, self._computation.code
        if not load.isolate:
            self._randomness.begin_process()
        assert code is not None
        capture = Capture(channels.stdout, channels.stderr, load.output_max, self._streams)
        if isinstance(code.function, Program):
            code.function.begin(code.namespace, lambda: capture.is_live)
        worker = Worker(
            code.function,
            code.namespace,
            socket.socket(fileno=channels.jobs),
            answers,
            slot,
            capture,
            self._restorer,
            self._randomness,
            Segments(self._computation.room(), load.free_path),
            load.isolate,
        )
        self._restorer.begin(capture)
        if load.setup_per_worker:
            worker.keep_what_is_there()
        return worker
