"""The functions that jobs find under documented names, and handlers of the signals for jobs: each call and signal is
passed on to the ``Worker`` of this process.

The functions are made once, in the host, since user code that is loaded there may keep them. They do their work in
workers, which are forked from the host.
"""

from __future__ import annotations

import logging
from types import FrameType
from typing import Any

from dispy.protocol.worker import Load
from dispy.worker.loop import Worker

AS_CONFIGURED = float("nan")
"""Default of ``timeout`` in the functions of jobs: stands for ``dispy.config.MsgTimeout`` of the program (seconds).
Recognized by identity, as None and all numbers have a meaning of their own."""


class JobCalls:
    """The functions that jobs can call, and handlers of signals for jobs.

    Attributes:
        worker: The worker that this process is; None in the host and during ``cleanup``, where nothing can be sent.
        load: Message that the computation came with, for limits and times; None before it has come.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self.worker: Worker | None = None
        self.load: Load | None = None

    def provisional_result(
        self, result: Any, relay: bool = False, timeout: float | None = AS_CONFIGURED
    ) -> int:
        """Send a value to the client while the job goes on; see ``Worker.provisional_result``.

        Returns:
            0 if the client has it; -1 if not within ``timeout`` seconds, or if no job is running here.
        """
        if timeout is AS_CONFIGURED:
            timeout = self.load.message_timeout_s if self.load is not None else None
        return self.worker.provisional_result(result, relay, timeout) if self.worker else -1

    def send_file(self, path: Any, relay: bool = False, timeout: float | None = AS_CONFIGURED) -> int:
        """Send a file to the client while the job goes on; see ``Worker.send_file``.

        Returns:
            0 if the client has it; -1 if not, and the reason is logged.
        """
        if self.worker is None or self.load is None:
            return -1
        if timeout is AS_CONFIGURED:
            timeout = self.load.message_timeout_s
        reason = self.worker.send_file(path, self.load.work_path, timeout, self.load.file_max)
        if reason:
            self._logger.warning("file %r of a job of %s is not sent: %s", path, self.load.name, reason)
        return -1 if reason else 0

    def job_seed(self) -> int:
        """Returns the seed of the running job, 32 bits; see ``Worker.job_seed``.

        Raises:
            RuntimeError: No job is running here.
        """
        if self.worker is None:
            raise RuntimeError("dispy_job_seed() is for jobs, and none is running here")
        return self.worker.job_seed()

    def on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """SIGINT: raise KeyboardInterrupt in the running job if the signal is meant for it; otherwise do nothing."""
        if self.worker is not None:
            self.worker.on_interrupt(number, frame)

    def on_unbuffer(self, number: int, frame: FrameType | None) -> None:
        """SIGURG: have output of the running job appear at once, as a program follows it."""
        if self.worker is not None:
            self.worker.on_unbuffer()
