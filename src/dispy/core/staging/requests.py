"""Requests for pieces of files: in which order a supplier is asked for them, and for how many bytes at once.

A file is asked of one supplier at a time, piece by piece, in order.

Back-pressure: the bytes that a supplier was asked for and has not sent, and the bytes that wait to be written, are
together fewer than ``Limits.pieces_max`` (16 MiB) plus one piece. So a slow disk fills no memory, and a broken
connection costs a few pieces. Bytes that are still to be written count after a reconnect, too: otherwise a slow disk
and a bad line together would fill the memory. Each supplier has a window of its own; they share no other queue than
that of the threads that write, in which none can have more than its window.

Order: the stage with the fewest bytes left comes first, and of its files the smallest: what a job brings passes what
a computation of a gigabyte needs (shortest remaining processing time). So that it cannot be passed for ever, a stage
ages with the bytes that the supplier is asked for: its rank is the count of these bytes when its files were found
missing, plus the bytes that were missing then. One of n bytes is passed by none that is wanted after n more bytes
were asked for.

Parts: of a large file the part is opened before the first piece is asked for. At most ``Limits.parts_max`` parts are
open or being opened for one supplier; until one is closed, only small files and those that are open are asked for.
"""

from __future__ import annotations

import heapq

from dispy.core.staging.actions import Open, Outbox, Tell
from dispy.core.staging.ids import SupplierId
from dispy.core.staging.state import Fetch, Phase, Pool, State, Supplier, Work
from dispy.core.staging.thread_turns import queue_work
from dispy.protocol import limits, node


def queue_fetch(state: State, fetch: Fetch) -> None:
    """Put a file into the order of its supplier, at the place that its stages give it now."""
    name = fetch.supplier
    assert name is not None
    supplier = state.suppliers[name]
    fetch.ticket = next(state.serials)
    fetch.rank = min(stage.rank for stage in fetch.stages.values() if stage.supplier == name)
    order = supplier.closed if fetch.phase is Phase.CLOSED else supplier.ready
    heapq.heappush(order, (fetch.rank, fetch.size, fetch.ticket, fetch))
    state.ask_now[name] = None


def set_phase(state: State, fetch: Fetch, phase: Phase) -> None:
    """Note how far the part of a file is, and count the parts of its supplier."""
    was_counted = _has_part(state, fetch)
    fetch.phase = phase
    if fetch.supplier is not None and _has_part(state, fetch) != was_counted:
        _count_part(state, fetch.supplier, -1 if was_counted else 1)


def set_supplier(state: State, fetch: Fetch, supplier: SupplierId | None) -> None:
    """Note who is asked for a file from now on, and count the parts of suppliers."""
    if _has_part(state, fetch):
        for name, change in ((fetch.supplier, -1), (supplier, 1)):
            if name is not None:
                _count_part(state, name, change)
    fetch.supplier = supplier


def _has_part(state: State, fetch: Fetch) -> bool:
    """True if a part of the file is open, or is being opened, by us or another process."""
    return fetch.phase is not Phase.CLOSED and fetch.size > state.bounds.small_max


def _count_part(state: State, name: SupplierId, change: int) -> None:
    """Count parts of a supplier; where one is less another may be opened."""
    supplier = state.suppliers.get(name)
    if supplier is not None:
        supplier.parts += change
        if change < 0:
            state.ask_now[name] = None


def ask(state: State, out: Outbox, name: SupplierId) -> None:
    """Ask a supplier for as many bytes as back-pressure allows. The rest follows as pieces are written.

    Parts are opened for files that are next. One that is not connected is asked for nothing.
    """
    supplier = state.suppliers.get(name)
    if supplier is None:
        return
    pieces: dict[int, list[node.Piece]] = {}
    while supplier.size + state.writing.get(name, 0) < state.bounds.pieces_max:
        fetch = _next_of(state, supplier)
        if fetch is None:
            break
        if fetch.phase is Phase.CLOSED:
            open_part(state, fetch)
            continue
        if fetch.offsets or _choose_name(supplier, name, fetch):
            piece = _take_piece(state, supplier, fetch)
            pieces.setdefault(fetch.computation, []).append(piece)
            if not fetch.is_asked:
                continue
        fetch.ticket = 0
        heapq.heappop(supplier.ready)
    for computation, wanted in pieces.items():
        for start in range(0, len(wanted), limits.PIECES_MAX):
            message = node.NeedFiles(computation, wanted[start : start + limits.PIECES_MAX])
            out.append(Tell(name, message))


def _next_of(state: State, supplier: Supplier) -> Fetch | None:
    """Returns the file that a supplier is to be asked for next, the first of an order; None if there is none.

    One whose part is to be opened is taken out of its order; one of ``ready`` stays.
    """
    for order in (supplier.ready, supplier.closed):
        while order and order[0][2] != order[0][3].ticket:
            heapq.heappop(order)
    ready, closed = supplier.ready, supplier.closed
    if closed and supplier.parts < state.bounds.parts_max and (not ready or closed[0] < ready[0]):
        fetch = heapq.heappop(closed)[3]
        fetch.ticket = 0
        return fetch
    return ready[0][3] if ready else None


def _choose_name(supplier: Supplier, name: SupplierId, fetch: Fetch) -> bool:
    """Choose the computation in whose name a file is asked for: that of the first stage of the supplier.

    A name that is taken by another fetch of the same digest will not do: of the answers nobody could tell which file
    they are of. If all are taken, the file is blocked until that of the first stage is free.

    Returns:
        False if the file is blocked.
    """
    numbers = [stage.computation for stage in fetch.stages.values() if stage.supplier == name]
    for number in numbers:
        if (number, fetch.digest) not in supplier.asked:
            fetch.computation = number
            return True
    fetch.blocked_by = numbers[0]
    supplier.blocked.setdefault((numbers[0], fetch.digest), []).append(fetch)
    return False


def _take_piece(state: State, supplier: Supplier, fetch: Fetch) -> node.Piece:
    """Returns the next piece of a file, which counts as asked for."""
    size = min(state.bounds.piece_max, fetch.size - fetch.asked)
    piece = node.Piece(fetch.digest, fetch.asked, size)
    fetch.offsets[fetch.asked] = size
    fetch.asked += size
    supplier.asked[fetch.computation, fetch.digest] = fetch
    supplier.size += size
    supplier.total += size
    return piece


def free_name(state: State, name: SupplierId, fetch: Fetch) -> None:
    """Free the name under which pieces of a file were asked for: all have come, or count no more.

    A file that was blocked by it is in the order again.
    """
    supplier = state.suppliers[name]
    key = (fetch.computation, fetch.digest)
    del supplier.asked[key]
    for other in supplier.blocked.pop(key, ()):
        if other.supplier == name and other.blocked_by == fetch.computation:
            other.blocked_by = None
            queue_fetch(state, other)


def open_part(state: State, fetch: Fetch) -> None:
    """Have a thread open the part of a file, in the turn of the supplier that is asked for it."""
    first = next(iter(fetch.stages.values()))
    early = next((stage.id for stage in fetch.stages.values() if stage.directory is not None), None)
    task = Open(fetch.part, fetch.store, fetch.digest, fetch.size, fetch.is_apart, early)
    work = Work(Pool.PLACERS, fetch.supplier or first.supplier, task)
    set_phase(state, fetch, Phase.OPENING)
    state.part_work[fetch.part] = work
    queue_work(state, work)
