"""``Executor``: the executor of ``concurrent.futures``, over the CPUs of a cluster.

Theory of operation. An executor has one cluster, whose computation calls its first argument (``payload.CALL``). A
call is a job, and its future a view of the job (``futures``). Functions are pickled once, not for each call
(``functions``). The cluster is closed when the executor is shut down and the last call has ended.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent import futures
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from dispy import payload
from dispy.client.arguments import describe
from dispy.client.cluster import JobCluster
from dispy.client.job import CREATED, DispyJob
from dispy.client.job_numbers import oldest
from dispy.client.jobs.state import JobState
from dispy.client.map.entry import make_map
from dispy.client.map.options import Options
from dispy.client.session import objects
from dispy.client.shared import SharedJobCluster
from dispy.client.shown.overview import WHY_MAX, clean, counts, used
from dispy.client.shown.survey import survey
from dispy.errors import PicklingError, UsageError
from dispy.integrations import outcomes
from dispy.integrations.eager_map import EagerMap
from dispy.integrations.functions import Functions
from dispy.integrations.futures import FailedFuture, JobFuture
from dispy.integrations.node_limits import limited
from dispy.integrations.outcomes import SendingError, WorkerDied

if TYPE_CHECKING:
    from dispy.client.session.objects import Ref
    from dispy.client.session.state import Session

__all__ = ["Executor", "WorkerDied"]

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("concurrent.futures")
"""Logger of the library's own pools, where programs expect the error of an initializer."""

FIRST_S = 10.0
"""Longest time that is waited for the first nodes (seconds), by those who ask how many CPUs there are."""

STILL_S = 0.03
"""Time without a new node (seconds) after which the first ones have come."""

SCHEDULER = frozenset({"scheduler_host", "scheduler_node", "scheduler_port"})
"""Parameters that only ``SharedJobCluster`` has: with one of them the executor uses a shared scheduler."""


class Executor(futures.Executor):
    """A ``concurrent.futures.Executor`` that runs calls on all CPUs that can be found.

    All is as with ``ProcessPoolExecutor``, but a process that dies fails only its own call, with ``WorkerDied``, and
    the executor goes on. In a ``with`` statement it is shut down at the end of the block.

    Args:
        max_workers: CPUs to use at most, over all nodes; there may be fewer. None: all.
        initializer: Called in each process before its first call. If it raises in the first process of a node, all
            calls fail with ``BrokenProcessPool``, and nothing can be submitted any more.
        initargs: Arguments of ``initializer``.
        cluster: A cluster of the program, to be used instead of one of the executor's own: a
            ``JobCluster(operator.call)`` or ``SharedJobCluster(operator.call)``. ``shutdown`` leaves it open.
        parameters: What ``JobCluster`` takes, such as ``nodes``, ``depends`` and ``reentrant``. With
            ``scheduler_host`` (None: the scheduler of this user on this machine) what ``SharedJobCluster`` takes.

    Raises:
        ValueError: ``max_workers`` is less than 1.
        TypeError: ``initializer`` cannot be called.
        UsageError: Parameters cannot be used, or not together; says which and why.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        cluster: JobCluster | None = None,
        **parameters: Any,
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._given_workers = max_workers
        self._broken: str | bool = False
        """Why calls fail, in words; False: they do not. Named as in the pool."""
        self._is_shut_down = False
        self._guard = threading.Lock()
        """Held to begin a map, and to note that the executor is shut down: no map begins after that."""
        self._is_counted = False
        """True once the first nodes have come, and no other for ``STILL_S``."""
        self._maps: set[EagerMap] = set()
        """Maps that are running."""
        self._owns_cluster = cluster is None
        if cluster is None:
            cluster = _make_cluster(max_workers, initializer, initargs, parameters)
        elif parameters or initializer is not None or max_workers is not None:
            raise UsageError(
                "an executor over a cluster of the program has the parameters of that",
                hint="give them to the cluster, or leave the cluster out",
            )
        self._cluster = cluster
        self._session = _session_of(cluster)
        self._functions = Functions(self._session)
        if initializer is not None:
            self._session.on_unusable = partial(_on_unusable, weakref.ref(self))
        self._close_later = weakref.finalize(self, _close_later, cluster) if self._owns_cluster else None
        """Closes the cluster if the program drops the executor without a shutdown; None for one of the program's."""
        if self._close_later is not None:
            self._close_later.atexit = False  # the engine closes all clusters then
        _executors.add(self)

    @property
    def _max_workers(self) -> int:
        """CPUs that are used, as the pool calls them. Libraries cut their work by it: it waits for nodes."""
        return self._given_workers or max(1, self.wait_cpus())

    def _used(self) -> int:
        """Returns how many calls run at once, at most, with the nodes of now."""
        return self._given_workers or max(1, self.cpus())

    def cpus(self) -> int:
        """Returns the number of CPUs that are used now, over all nodes; 0 without a node."""
        return self._session.cpus()

    def wait_cpus(self) -> int:
        """Returns the number of CPUs, once nodes have come: at first it waits for one, and a moment for the others.

        0 if none comes within ``FIRST_S``, or the executor is shut down: calls wait for nodes then, as always.
        """
        end = time.monotonic() + FIRST_S
        while not self._is_counted and not self._session.is_closed and time.monotonic() < end:
            before = self.cpus()
            time.sleep(STILL_S)
            self._is_counted = 0 < before == self.cpus()
        return self.cpus()

    def put(self, value: Any) -> Ref:
        """Send an object to all nodes, once; calls that get the ``Ref`` as argument see the object as it is now.

        Raises:
            PicklingError: The object cannot be sent; says what in it.
            UsageError: The executor is shut down.
        """
        return objects.put(self._session, value)

    # Submitting.

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[T]:
        """Call ``fn(*args, **kwargs)`` on some node. Function and arguments are sent as they are now.

        What cannot be sent is an exception of the future, as with the pool.

        Raises:
            RuntimeError: The executor is shut down.
            BrokenProcessPool: The initializer has failed.
        """
        if self._is_shut_down or self._broken:
            self._check_open()
        try:
            session = self._session
            called = self._functions.stand_in(fn)
            job = session.submit(session, next(DispyJob.id_iter), None, (called, *args), kwargs)
        except UsageError as error:
            if not isinstance(error, PicklingError):
                self._check_open()
                raise
            return _not_sent(error)
        except Exception as error:
            return _not_sent(error)
        return JobFuture(job, self)

    def _check_open(self) -> None:
        """Check that calls can be submitted.

        Raises:
            RuntimeError: The executor is shut down, or the program ends.
            BrokenProcessPool: The initializer has failed.
        """
        broken = self.why_broken()
        if broken is not None:
            raise broken
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self._session.is_closed:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call a function with each item of the iterables; results come in the order of the items.

        Args:
            fn: The function.
            iterables: One for each argument; the shortest ends the map. They are read at once, unless ``buffersize``
                is given.
            timeout: Seconds for all results, from this call; None: no limit.
            chunksize: Items that are sent together; None: as many as take 20 ms.
            buffersize: Items that are called before their results are taken, at most; then iterables may be endless.
                None: all.

        Raises:
            ValueError: ``chunksize`` or ``buffersize`` is less than 1.
            TimeoutError: From the iterator: the next result has not come in time.
            BaseException: From the iterator: what a call has raised; the others are cancelled.
        """
        if chunksize is not None and chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        self._check_open()
        if buffersize is not None:
            calls = zip(*iterables, strict=False)
            return self._map_lazily(fn, calls, buffersize * (chunksize or 1), timeout)
        sent = self._functions.stand_in(fn)
        function = sent if type(sent) is payload.SentFunction else None
        if function is None:  # a bound method, partial or class, which goes along with each item
            iterables = (repeat(fn), *iterables)
        is_single = len(iterables) == 1
        items = list(iterables[0]) if is_single else list(zip(*iterables, strict=False))
        options = Options(is_starred=not is_single, function=function)
        with self._guard:
            self._check_open()
            mapping = make_map(self._session, (items,), options, None, chunksize)
            running = EagerMap(mapping, self.why_broken, self._maps.discard)
            self._maps.add(running)
            running.start()
        return running.results(timeout)

    def _map_lazily(
        self, fn: Callable[..., T], calls: Iterator[tuple[Any, ...]], ahead: int, timeout: float | None
    ) -> Iterator[T]:
        """Returns an iterator over results that submits a call for each one taken, ``ahead`` of them at first."""
        until = None if timeout is None else time.monotonic() + timeout
        waiting = deque(self.submit(fn, *args) for args in islice(calls, ahead))

        def results() -> Generator[T, None, None]:
            try:
                while waiting:
                    if (args := next(calls, None)) is not None:
                        waiting.append(self.submit(fn, *args))
                    first = waiting.popleft()
                    try:
                        result = first.result(None if until is None else until - time.monotonic())
                    finally:
                        first.cancel()
                    del first
                    yield result
            finally:
                for future in waiting:
                    future.cancel()

        return results()

    # Ending.

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and let go of the nodes when the last one has ended.

        Args:
            wait: True: wait for that. False: return at once; calls go on.
            cancel_futures: True: cancel the calls that have not begun.
        """
        with self._guard:
            was_shut_down, self._is_shut_down = self._is_shut_down, True
        if cancel_futures and not self._session.is_closed:
            self.stop_maps()
            begun = oldest(self._session.jobs, self._used() + 1)
            self._cluster.cancel([job for job in self._waiting() if job.number not in begun])
        if not wait:
            if not was_shut_down:
                threading.Thread(target=self._finish, name="dispy shutdown", daemon=True).start()
            return
        self._finish()

    def _finish(self) -> None:
        """Wait for all calls; close the cluster, unless it is the program's."""
        self.wait_maps()
        if self._close_later is not None:
            self._close_later.detach()
            self._cluster.close()
        else:
            self._cluster.wait()
        self._functions.forget()

    def wait_maps(self) -> None:
        """Wait for all calls of maps."""
        for running in list(self._maps):
            running.wait()

    def stop_maps(self) -> None:
        """Cancel all calls of maps; their iterators raise ``CancelledError``. Does not wait."""
        for running in list(self._maps):
            running.stop(is_cancelled=True)

    def _waiting(self) -> list[DispyJob]:
        """Returns the jobs that have not begun, as far as is known, in the order of submission."""
        jobs = list(self._session.jobs.values())
        return [job for job in jobs if type(job) is DispyJob and job._status == CREATED]  # pyright: ignore[reportPrivateUsage]  # ``status`` counts as a look

    # For futures.

    def cancel_job(self, job: JobState) -> bool:
        """Cancel a job unless it may have begun; True if it is cancelled."""
        if self._session.is_closed or job.number in oldest(self._session.jobs, self._used() + 1):
            return False
        return self._session.cancel(job) == 0

    def kill_job(self, job: JobState) -> bool:
        """Cancel a job, which may run; False if it has ended."""
        return not self._session.is_closed and self._session.cancel(job) == 0

    def call_back(self, job: JobState, function: Callable[[], None]) -> None:
        """Have a function called on the thread of callbacks."""
        self._session.engine.callbacks.call(function, [()])

    def is_calling_back(self, job: JobState) -> bool:
        """True if the caller is on the thread of callbacks."""
        return self._session.engine.callbacks.is_current()

    def outcome(self, job: JobState) -> tuple[Any, BaseException | None]:
        """Returns result and exception of an ended job; of a cancelled one the reason if the executor is broken."""
        assert isinstance(job, DispyJob)
        result, error = outcomes.of_job(job)
        if isinstance(error, CancelledError):
            error = self.why_broken() or error
        return result, error

    def why_broken(self) -> BaseException | None:
        """Returns a new exception if the initializer has failed; else None."""
        if not self._broken:
            return None
        return BrokenProcessPool(
            f"A child process terminated abruptly, the process pool is not usable anymore: {self._broken}"
        )

    def break_down(self, reason: str) -> None:
        """Fail all calls, now and from now on, as the initializer has failed; on the thread of callbacks."""
        if self._broken or (self._is_shut_down and not self._session.jobs):
            return
        logger.critical("Exception in initializer: %s", reason)
        self._broken = reason
        self.stop_maps()
        self._cluster.cancel([job for job in list(self._session.jobs.values()) if type(job) is DispyJob])

    def __repr__(self) -> str:
        state = "broken" if self._broken else "shut down" if self._is_shut_down else "open"
        shown = survey(self._session)
        why = f"; {clean(shown.why, WHY_MAX)}" if shown.why else ""
        return f"<dispy.Executor {state}: {counts(shown)}; {used(shown.nodes)}{why}>"


_executors: weakref.WeakSet[Executor] = weakref.WeakSet()
"""Executors that have not been collected: the end of the program waits for their calls."""


def _make_cluster(
    max_workers: int | None,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    parameters: dict[str, Any],
) -> JobCluster:
    """Returns the cluster of an executor; arguments are those of ``Executor``.

    Raises:
        UsageError: Parameters cannot be used, or not together.
    """
    if initializer is not None:
        if parameters.get("setup") is not None:
            raise UsageError(
                "an executor has either an initializer or a setup",
                hint="setup is called once on each node, an initializer in each process",
            )
        parameters["setup"] = partial(payload.initialize, initializer, tuple(initargs))
        if not parameters.get("isolate"):
            parameters["setup_per"] = "worker"
    if max_workers is not None:
        parameters["nodes"] = limited(parameters.get("nodes"), max_workers)
    is_shared = not SCHEDULER.isdisjoint(parameters)
    return (
        SharedJobCluster(payload.CALL, **parameters)
        if is_shared
        else JobCluster(payload.CALL, **parameters)
    )


def _not_sent(error: Exception) -> JobFuture[Any]:
    """Returns a future for a call that cannot be sent."""
    said = SendingError(str(error))
    said.__cause__ = error.__cause__ if isinstance(error, PicklingError) else error
    return FailedFuture(said)


def _session_of(cluster: JobCluster) -> Session:
    """Returns the session of a cluster whose jobs are calls.

    Raises:
        UsageError: It is none, or its computation is another function.
    """
    if not isinstance(cluster, JobCluster):
        raise UsageError(f"cluster must be a JobCluster, not {describe(cluster)}")
    session: Session = cluster._session  # pyright: ignore[reportPrivateUsage]  # the record of a cluster, not for programs
    if not session.computation.is_call:
        raise UsageError(
            f"cluster {cluster.name} runs its own function",
            hint="JobCluster(operator.call) runs any: give that to the executor",
        )
    return session


def _on_unusable(owner: weakref.ref[Executor], reason: str) -> None:
    """Note that a node cannot be used; an executor is broken if its initializer is the reason."""
    executor = owner()
    if executor is not None and "setup failed on" in reason:
        executor.break_down(reason)


def _close_later(cluster: JobCluster) -> None:
    """Close a cluster when its last job has ended, on a thread of its own: the program has dropped the executor."""
    with suppress(RuntimeError):  # the program ends, and the engine closes the cluster
        threading.Thread(target=_close, args=(cluster,), name="dispy shutdown", daemon=True).start()


def _close(cluster: JobCluster) -> None:
    """Close a cluster, unless the end of the program has done so meanwhile."""
    with suppress(UsageError):
        cluster.close()


def _at_exit() -> None:
    """Wait for the calls of maps at the end of the program; after Ctrl-C cancel them. The engine closes clusters."""
    for executor in list(_executors):
        try:
            if getattr(sys, "last_type", None) is not KeyboardInterrupt:
                executor.wait_maps()
        finally:
            executor.stop_maps()


atexit.register(_at_exit)
