"""The methods of a cluster for coroutines, which never block the loop: ``async with``, ``asubmit``, ``amap``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from collections.abc import Mapping as MappingType
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Never, Self, overload

from dispy.client.in_asyncio.iterator import LoopIterator
from dispy.client.in_asyncio.signal import LoopSignal
from dispy.client.in_asyncio.submission import submit_in_turn
from dispy.client.in_asyncio.threads import in_thread
from dispy.client.job import DispyJob
from dispy.client.jobs.type_parameters import P, R
from dispy.client.map.entry import checked_map
from dispy.client.session import shutdown
from dispy.client.session.submission import submit_nowait
from dispy.client.tracebacks import brief, briefly
from dispy.errors import UsageError

if TYPE_CHECKING:
    from dispy.client.session.state import Session


class ClusterInLoop(Generic[P, R]):
    """The methods of ``JobCluster`` for coroutines."""

    _session: Session
    """The record of the cluster."""

    @overload
    async def asubmit(self, /, *args: P.args, **kwargs: P.kwargs) -> DispyJob[R]: ...
    @overload
    async def asubmit(
        self, /, *args: Any, dispy_job_depends: Iterable[Any], **kwargs: Any
    ) -> DispyJob[R]: ...
    async def asubmit(self, /, *args: Any, **kwargs: Any) -> DispyJob[R]:
        """``submit`` for coroutines: where that would wait for room (``max_queued``), this blocks no loop.

        Calls that wait come to their turn in order. Arguments are copied when the job is submitted, that is before
        this returns. If the waiting task is cancelled no job is left: one that was just submitted is cancelled.

        Returns:
            The job; ``await`` it, or ``aget()``, for its result.

        Raises:
            PicklingError: An argument cannot be sent; says which, and what in it.
            UsageError: The cluster is closed, or is being closed; or it was made by a parent process.
        """
        session = self._session
        if not session.waiting_calls and "dispy_job_depends" not in kwargs:
            try:
                job = submit_nowait(session, args, kwargs)
            except UsageError as error:
                raise brief(error) from error.__cause__
            if job is not None:
                return job
        return await submit_in_turn(session, args, kwargs)

    @overload
    def amap(
        self,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        return_exceptions: Literal[False] = False,
        constants: MappingType[str, Any] | None = None,
        chunksize: int | None = None,
    ) -> LoopIterator[R]: ...
    @overload
    def amap(
        self,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        return_exceptions: bool,
        constants: MappingType[str, Any] | None = None,
        chunksize: int | None = None,
    ) -> LoopIterator[R | Exception]: ...
    @briefly
    def amap(
        self,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        return_exceptions: bool = False,
        constants: MappingType[str, Any] | None = None,
        chunksize: int | None = None,
        **others: Never,
    ) -> LoopIterator[Any]:
        """``map`` for ``async for``: results come in the order of the items, and waiting for them blocks no loop.

        Options, results and errors are those of ``map``. Iterables are read on the loop, as results are taken: they
        must not block. Leaving the loop, or cancelling its task, cancels the items that are left.

        Raises:
            TimeoutError: From the iterator: the next result has not come in time.
            UsageError: The cluster is closed, or an argument cannot be used.
        """
        mapping = checked_map(
            "amap", self._session, iterables, timeout, return_exceptions, constants, chunksize, others
        )
        signal = LoopSignal()
        steps = mapping.steps(signal)
        next(steps)  # the first chunks are sent
        return LoopIterator(steps, signal, mapping.has_news, mapping.until, mapping.late)

    async def __aenter__(self) -> Self:
        self._session.check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the cluster as ``__exit__`` does, without blocking the loop.

        After an exception, also that of a cancelled task, the jobs that have not ended are cancelled. So they are if
        the task is cancelled while this waits for them.
        """
        session = self._session
        # In a loop that runs in a callback: another thread would wait for that callback.
        if session.engine.is_current():
            shutdown.leave_block(session, kind)
            return
        try:
            await in_thread("dispy close", shutdown.leave_block, session, kind)
        except asyncio.CancelledError:
            if kind is None:  # the other thread still waits for the jobs, which are ended now
                await in_thread("dispy close", shutdown.leave_block, session, asyncio.CancelledError)
            raise
