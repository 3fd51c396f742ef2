"""Backend of joblib: the batches of ``joblib.Parallel`` are calls of a ``dispy.Executor``.

Theory of operation. ``parallel_config(backend="dispy", ...)`` makes one ``DispyBackend``, which all ``Parallel`` in
its block share; ``Parallel(backend="dispy")`` makes one for itself. Each running ``Parallel`` needs a backend of its
own, so that several, as with generators, do not cancel each other's batches: ``configure`` has joblib "fall back" to
a copy if there is another one. A backend and its copies share a ``Pool``, which holds the executor: the cluster stays
from one ``Parallel`` to the next, and is closed when the block is left and the last ``Parallel`` is gone.

If the cluster has more CPUs than ``n_jobs``, batches wait here, so that no more of them run. Large arguments that
come again within a ``Parallel`` are put (``shared_arguments``). A ``Parallel`` in a call is sequential: the CPUs of
the cluster have work already.
"""

# pyright: reportIncompatibleMethodOverride=false
# joblib has no hints: its methods that return nothing yet, or a constant, are read as if all had to.
from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from joblib.parallel import AutoBatchingMixin, ParallelBackendBase, SequentialBackend
from joblib.parallel import FallbackToBackend as InsteadOf

from dispy.errors import UsageError
from dispy.integrations import joblib_calls, worker_start
from dispy.integrations.executor import Executor
from dispy.integrations.futures import JobFuture
from dispy.integrations.joblib_calls import Call
from dispy.integrations.shared_arguments import SharedArguments

NOT_OURS = frozenset({"context", "mmap_mode", "prefer", "require", "temp_folder", "verbose"})
"""Parameters that ``Parallel`` gives to every backend, and that mean nothing here."""

PRELOADED = ("joblib", "sklearn")
"""Modules that are imported once on each node, and not in each worker, if the program has imported them."""

PUT_BYTES = 65536
"""Size from which on arguments that come again are put (bytes), unless joblib has a smaller one."""


class Pool:
    """The executor of a backend and its copies, made when it is first needed.

    Args:
        parameters: What ``Executor`` takes, but for ``max_workers``.
    """

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.parameters = parameters
        self._guard = threading.Lock()
        self._executor: Executor | None = None

    def executor(self, threads: int | None) -> Executor:
        """Returns the executor; a new one if its initializer has failed.

        Args:
            threads: Threads that numerical libraries may use in each call; None: what environment variables of the
                program say, else one.

        Raises:
            UsageError: Parameters cannot be used; says which and why.
        """
        with self._guard:
            if self._executor is None or self._executor.why_broken() is not None:
                self._executor = Executor(**_with_threads(self.parameters, threads))
            return self._executor


def _with_threads(parameters: dict[str, Any], threads: int | None) -> dict[str, Any]:
    """Returns the parameters of an executor with which numerical libraries use so many threads in each call.

    They read environment variables when they are loaded, so these are set in the host process of the computation
    before anything else. A ``setup`` of the user's, and a cluster of his, are left as they are.

    Raises:
        UsageError: ``threads`` is given beside a ``setup`` or a cluster.
    """
    if parameters.get("setup") is not None or parameters.get("cluster") is not None:
        if threads is not None:
            raise UsageError(
                "inner_max_num_threads cannot be used with a setup, or a cluster of the program",
                hint="set OMP_NUM_THREADS and its relatives in the setup, before numpy is imported",
            )
        return parameters
    names = ParallelBackendBase.MAX_NUM_THREADS_VARS
    values = {name: str(threads or os.environ.get(name, 1)) for name in names}
    if parameters.get("initializer") is None:
        modules = tuple([name for name in PRELOADED if name in sys.modules])
        return {**parameters, "setup": partial(worker_start.start_node, values, modules)}
    called = (values, parameters["initializer"], *parameters.get("initargs", ()))
    return {**parameters, "initializer": worker_start.start_worker, "initargs": called}


class DispyBackend(AutoBatchingMixin, ParallelBackendBase):
    """A backend of joblib: for one ``Parallel`` at a time.

    Args:
        nesting_level: Depth of ``Parallel`` in ``Parallel``; None: joblib finds it out.
        inner_max_num_threads: Threads that numerical libraries may use in each call; None: what environment variables
            of the program say, else one, as a call has one CPU.
        pool: Executor of the backend that this is a copy of; None: one of its own.
        parameters: What ``Executor`` takes, but for ``max_workers``, which is ``n_jobs``.

    Raises:
        UsageError: ``max_workers`` is given.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        pool: Pool | None = None,
        **parameters: Any,
    ) -> None:
        if "max_workers" in parameters:
            raise UsageError(
                "max_workers is n_jobs in joblib", hint="parallel_config(backend='dispy', n_jobs=2)"
            )
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._shared = pool or Pool(parameters)
        self._workers: Executor | None = None
        """The executor, while a ``Parallel`` needs it; named as in joblib's own backend."""
        self._owner: weakref.ref[Any] | None = None
        """The ``Parallel`` that this backend works for, which refers to the backend; None: there was none yet."""
        self._running_max: int | None = None
        """Batches that may run at once; None: as many as there are CPUs."""
        self._guard = threading.Lock()
        """Guards ``_running`` and ``_waiting``."""
        self._running: dict[JobFuture[Any], None] = {}
        """Batches that are sent and have not ended, in the order of submission."""
        self._waiting: deque[tuple[list[Call], Callable[[Any], object]]] = deque()
        """Batches that are not sent yet, with what is to be called at their end."""
        self._put_bytes: int | None = None
        """Size from which on arguments that come again are put (bytes); None: they never are."""
        self._arguments: SharedArguments | None = None
        """Large arguments of the call of ``Parallel`` that is running; None: between calls."""

    @property
    def parallel(self) -> Any:
        """The ``Parallel`` that this backend works for, where joblib looks for it; None: it is gone."""
        return self._owner() if self._owner is not None else None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Returns how many calls run at once: CPUs of the cluster for -1, one less for -2, and so on.

        At least 2 for negative numbers: joblib makes all calls in the program when it is told 1.

        Raises:
            ValueError: ``n_jobs`` is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None or joblib_calls.is_in_batch:
            return 1
        if n_jobs < 0:
            return max(2, self._shared.executor(self.inner_max_num_threads).wait_cpus() + 1 + n_jobs)
        return n_jobs

    def configure(
        self, n_jobs: int | None = 1, parallel: Any = None, max_nbytes: int | None = None, **parameters: Any
    ) -> int:
        """Get ready for a ``Parallel``; returns how many of its calls run at once.

        Args:
            n_jobs: What the ``Parallel`` was given; see ``effective_n_jobs``.
            parallel: The ``Parallel``.
            max_nbytes: Size from which on arguments that come again are put (bytes); None: they never are.
            parameters: What all backends are given, and parameters of ``Executor`` for this ``Parallel`` alone.

        Raises:
            FallbackToBackend: Another backend does it: a sequential one for 1, a copy if this one has a ``Parallel``.
            UsageError: Parameters cannot be used; says which and why.
        """
        if n_jobs == 1 or n_jobs is None or joblib_calls.is_in_batch:
            raise InsteadOf(SequentialBackend(nesting_level=self.nesting_level))
        if self.parallel is not parallel:
            if self.parallel is not None:
                raise InsteadOf(DispyBackend(self.nesting_level, self.inner_max_num_threads, self._shared))
            self._owner = weakref.ref(parallel)
        own = {name: value for name, value in parameters.items() if name not in NOT_OURS}
        if not own.items() <= self._shared.parameters.items():
            self._shared = Pool({**self._shared.parameters, **own})
        wanted = self.effective_n_jobs(n_jobs)
        self._running_max = None if n_jobs == -1 else wanted
        self._put_bytes = None if max_nbytes is None else min(max_nbytes, PUT_BYTES)
        self._workers = self._shared.executor(self.inner_max_num_threads)
        return wanted

    def terminate(self) -> None:
        """Note that the ``Parallel`` needs its executor no more. The cluster stays for the next one."""
        self._workers = None
        self._arguments = None
        self.reset_batch_stats()

    def start_call(self) -> None:
        """Begin a call of ``Parallel``: arguments are looked at anew, as they may have changed since the last one."""
        if self._put_bytes is not None and self._workers is not None:
            self._arguments = SharedArguments(self._workers.put, self._put_bytes)

    def stop_call(self) -> None:
        """End a call of ``Parallel``: what was put for it is freed when the last batch has ended."""
        self._arguments = None

    # Batches.

    def submit(self, func: Any, callback: Callable[[Any], object] | None = None) -> None:
        """Send a batch of calls, now or when fewer run.

        What cannot be sent is an error of the batch: joblib calls this on a thread where nobody sees an exception.

        Args:
            func: A batch of joblib's.
            callback: Called with the future of the batch when it has ended.
        """
        with self._guard:
            self._waiting.append((func.items, callback or _do_nothing))
        self._send()

    def _send(self) -> None:
        """Send the batches that wait, unless as many run as may."""
        executor = self._workers
        if executor is None:
            return
        while True:
            with self._guard:
                limit = self._running_max
                is_full = limit is not None and len(self._running) >= limit
                if not self._waiting or (is_full and not 0 < executor.cpus() <= (limit or 0)):
                    return
                calls, callback = self._waiting.popleft()
                future = self._sent(executor, calls)
                self._running[future] = None
            future.add_done_callback(partial(self._on_ended, callback))

    def _sent(self, executor: Executor, calls: list[Call]) -> Any:
        """Returns the future of a batch, which has failed already if it cannot be sent."""
        try:
            if self._arguments is not None:
                calls = self._arguments.replace(calls)
            return executor.submit(joblib_calls.run_batch, calls, (self.nesting_level or 0) + 1)
        except Exception as error:
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def _on_ended(self, callback: Callable[[Any], object], future: Any) -> None:
        """Send the next batch, and tell joblib that one has ended."""
        with self._guard:
            self._running.pop(future, None)
        self._send()
        callback(future)

    def retrieve_result_callback(self, out: Any) -> Any:
        """Returns the results of an ended batch; raises the exception of the call that has raised one."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel all batches of the ``Parallel``; those that run are interrupted. The cluster stays."""
        with self._guard:
            self._waiting.clear()
            running = list(self._running)
        for future in running:
            future.kill()

    def get_nested_backend(self) -> tuple[Any, int | None]:
        """Returns the backend of ``Parallel`` in calls: a sequential one."""
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None


def _do_nothing(_: Any) -> None:
    """Do nothing at the end of a batch for which joblib has given no callback."""
