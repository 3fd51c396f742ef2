"""Threads of the stager: they look at the store, copy, hash and write while the event loop goes on.

Each pool is made on first use. Work runs on a thread without the interpreter lock for most of its time; its result
comes back to the event loop, which alone changes the records of ``wanted_files``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from dispy.files.fetching.wanted_files import Seams
from dispy.system.wording import of_error

PLACERS = 2
"""Number of threads that copy files into directories, open parts and trim the store. With two, one large file does
not delay all others."""

LOOKERS = 1
"""Number of threads that look whether files of later jobs are in the store. They are not the placers, so that a CPU
that waits for the files of its job does not wait for these looks."""

WRITERS = 2
"""Number of threads that hash and write pieces that arrive, 1.1 GB/s each. All pieces of a file go to one thread, by
the first byte of the digest, so that they are written in order."""

logger = logging.getLogger("dispy.node")


class ThreadPools:
    """The pools of one stager. Methods are called on the event loop, except ``hasher``.

    Args:
        seams: Makes the pools (``threads``) and brings results to the event loop (``post``).

    Attributes:
        is_closed: True after ``close``: results of threads are ignored from then on.
        placers: Pool of the threads that copy files, open parts and trim the store; None until it is first used.
    """

    def __init__(self, seams: Seams) -> None:
        self._seams = seams
        self.is_closed = False
        self.placers: Executor | None = None
        self._lookers: Executor | None = None
        """Pool of the threads that look for files of later jobs; None until it is first used."""
        self._writers: list[Executor] = []
        """Pools of one thread each, by number of the writer; made on first use."""
        self._hashers: Executor | None = None
        """Pool of the threads that hash large pieces; None until it is first used."""

    def run(
        self,
        pool: Executor,
        work: Callable[..., Any],
        arguments: tuple[Any, ...],
        then: Callable[..., None],
        known: tuple[Any, ...],
        failed: Callable[..., None],
    ) -> Future[Any]:
        """Call ``work(*arguments)`` on a thread of the pool, and then ``then(*known, result)`` on the event loop.

        ``known`` are values that the caller passes on to ``then`` itself. ``then`` is not called if the returned
        future (of the work) is cancelled, or after ``close``. Nor is it if the work raises an exception, or no
        thread can be started: ``failed(*known, reason)`` is called then, and also if ``then`` raises one, so that
        whatever waits for the work ends with the reason.
        """

        def finish(future: Future[Any]) -> None:
            if not future.cancelled():
                self._seams.post(self._finish, then, known, failed, future)

        try:
            task = pool.submit(work, *arguments)
        except RuntimeError as error:  # no thread can be started
            task = Future()
            task.set_exception(error)
        task.add_done_callback(finish)
        return task

    def do(self, pool: Executor, work: Callable[..., object], *arguments: Any) -> Future[Any]:
        """Call ``work(*arguments)`` on a thread of the pool. Nothing waits for it: an exception is only logged."""
        return self.run(pool, work, arguments, _ignore, (), _ignore)

    def _finish(
        self,
        then: Callable[..., None],
        known: tuple[Any, ...],
        failed: Callable[..., None],
        future: Future[Any],
    ) -> None:
        """Call ``then(*known, result)`` with the result of a thread, unless the pools are closed; on the event loop.

        An exception of the thread, or of ``then``, is a fault of this program: it is logged, and ``failed`` is called
        with the reason.
        """
        if self.is_closed:
            return
        try:
            then(*known, future.result())
        except Exception as error:
            logger.error("files are not there by a fault; please report this", exc_info=error)
            failed(*known, f"this node has a fault: {of_error(error)}")

    def placer(self) -> Executor:
        """Returns the pool that copies files into directories, opens parts and trims the store."""
        if self.placers is None:
            self.placers = self._seams.threads(PLACERS, "dispy places")
        return self.placers

    def looker(self) -> Executor:
        """Returns the pool that looks whether files of later jobs are in the store."""
        if self._lookers is None:
            self._lookers = self._seams.threads(LOOKERS, "dispy looks")
        return self._lookers

    def writer(self, number: int) -> Executor:
        """Returns the pool of the one thread that is writer ``number``, from 0 to ``WRITERS`` - 1."""
        while len(self._writers) <= number:
            self._writers.append(self._seams.threads(1, "dispy writes"))
        return self._writers[number]

    def hasher(self) -> Executor:
        """Returns the pool that hashes large pieces while a writer writes them. Called on a writer's thread, too."""
        if self._hashers is None:
            self._hashers = self._seams.threads(WRITERS, "dispy hashes")
        return self._hashers

    def close(self) -> None:
        """End all pools: cancel queued work, and wait for work that runs. Its results are ignored."""
        self.is_closed = True
        for pool in [self.placers, self._lookers, *self._writers, self._hashers]:
            if pool is not None:
                pool.shutdown(cancel_futures=True)


def _ignore(*_: object) -> None:
    """Take the result of work that nothing waits for."""
