"""Who looks at the output of running jobs, in tests."""

from __future__ import annotations

import threading

import dispy

from .helpers import wait_for


class Seen:
    """A ``job_output`` callback: keeps what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[dispy.DispyJob, str, str]] = []
        self.threads: set[str] = set()

    def __call__(self, job: dispy.DispyJob, stream: str, text: str) -> None:
        self.calls.append((job, stream, text))
        self.threads.add(threading.current_thread().name)

    def of(self, job: dispy.DispyJob, stream: str = "stdout") -> str:
        """All that was told of a job so far."""
        return "".join(text for told, at, text in self.calls if told is job and at == stream)


class Following:
    """``job.output(follow=True)`` on a thread of its own."""

    def __init__(self, job: dispy.DispyJob) -> None:
        self.pieces: list[tuple[str, str]] = []
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(job,), name="following")
        self.thread.start()

    def _run(self, job: dispy.DispyJob) -> None:
        try:
            for piece in job.output(follow=True):
                self.pieces.append(piece)
        except BaseException as error:
            self.error = error

    def text(self, stream: str = "stdout") -> str:
        return "".join(text for at, text in self.pieces if at == stream)

    def wait_text(self, text: str, stream: str = "stdout") -> str:
        """Wait until that was printed; returns all."""
        return wait_for(lambda: self.text(stream), lambda seen: text in seen, what=f"{text!r} is seen")

    def end(self) -> str:
        """Wait for the end of the job's output; returns what came on stdout."""
        self.thread.join(8)
        assert not self.thread.is_alive(), "the iterator does not end"
        assert self.error is None
        return self.text()


def wait_running(job: dispy.DispyJob) -> None:
    """Wait until a job is known to run."""
    wait_for(lambda: job.status, lambda status: status == dispy.DispyJob.Running, what="the job runs")
