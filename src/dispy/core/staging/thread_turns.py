"""Turns of suppliers at the threads: whose work the next free thread begins with.

Each supplier has a queue, first in, first out, and the queues take turns: one that has wanted a thousand things
delays another by one of them. No work is given out before a thread is free, so work that is not wanted any more is
taken back without asking anybody. Kinds of threads: placers put files into directories, open parts and trim the
store; lookers see whether files of later jobs are there, so that a CPU whose job waits for its files does not wait
for these looks. Pieces that arrive go to writers at once.
"""

from __future__ import annotations

from dispy.core.staging.actions import Outbox
from dispy.core.staging.state import Pool, State, Work

PLACERS = 2
"""Number of threads that copy files into directories, open parts and trim the store. With two, one large file does
not delay all others."""

LOOKERS = 1
"""Number of threads that look whether files of later jobs are in the store."""


WRITERS = 2
"""Number of threads that hash and write pieces that arrive, 1.1 GB/s each. All that concerns one file is for one of
them, by the first byte of the digest, so that it is done in order. Their work is not queued here: no supplier can
have more of it than its window, and a writer that waited for us between two pieces would stand still."""


def writer_of(digest: bytes) -> int:
    """Returns the number of the thread that writes a file, from 0."""
    return digest[0] % WRITERS


def threads() -> dict[Pool, int]:
    """Returns the number of threads of each pool."""
    return {Pool.LOOKERS: LOOKERS, Pool.PLACERS: PLACERS}


def queue_work(state: State, work: Work) -> None:
    """Queue work for its pool; ``begin_work`` gives it out."""
    state.queues[work.pool].setdefault(work.supplier, {})[work] = None


def begin_work(state: State, out: Outbox) -> None:
    """Give each free thread the oldest work of the supplier whose turn it is."""
    for pool, queues in state.queues.items():
        while queues and state.free[pool]:
            supplier = next(iter(queues))
            queue = queues.pop(supplier)
            work = next(iter(queue))
            del queue[work]
            if queue:
                queues[supplier] = queue  # behind the others
            work.has_begun = True
            state.free[pool] -= 1
            out.append(work.task)


def take_back(state: State, work: Work) -> None:
    """Take work out of its queue, with which no thread has begun."""
    queues = state.queues[work.pool]
    queue = queues[work.supplier]
    del queue[work]
    if not queue:
        del queues[work.supplier]


def end_work(state: State, work: Work) -> None:
    """Count a thread as free again, or take the work back if none has begun with it."""
    if work.has_begun:
        state.free[work.pool] += 1
    else:
        take_back(state, work)
