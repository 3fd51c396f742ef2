"""Waiters for the end of one job: the values that ``DispyJob._waiter`` may have.

None, one waiter, or ``Several``. A waiter is a bare lock (``wait`` of one thread), an Event (``finish``), or an
object with ``on_ended`` (``client.waiting``, ``client.in_asyncio``).
"""

from __future__ import annotations

import threading
from typing import Any


class Several(list[Any]):
    """List of two or more waiters of one job. Never changed, but replaced: a thread may be going through it."""


guard = threading.Lock()
"""Guards changes of ``DispyJob._waiter`` between threads that wait and threads of the engine, which end jobs.

One lock for all jobs, held only while the new value is made."""


def waiters_in(waiter: Any) -> list[Any]:
    """Returns the waiters in the value of a ``_waiter``, oldest first. The caller must not change the list."""
    if waiter is None:
        return []
    return waiter if type(waiter) is Several else [waiter]


def pack(waiters: list[Any]) -> Any:
    """Returns the value of ``_waiter`` that stands for these waiters: None, the only one, or ``Several``."""
    return Several(waiters) if len(waiters) > 1 else waiters[0] if waiters else None


def release(lock: Any) -> None:
    """Release the lock that a thread sleeps on in ``wait``, which wakes it. A lock that is free stays so."""
    try:
        lock.release()
    except RuntimeError:  # another thread has released it already
        pass
