"""What is always true of the staging core's state between two events."""

from __future__ import annotations

from collections import Counter

from dispy.core.staging.state import Due, Fetch, Phase, State, Supplier
from dispy.core.staging.thread_turns import threads


def check(state: State) -> None:
    """Assert that the state is what its docstrings say."""
    check_stages(state)
    check_threads(state)
    for fetch in state.fetches.values():
        check_fetch(state, fetch)
    for name, supplier in state.suppliers.items():
        theirs = [fetch for fetch in state.fetches.values() if fetch.supplier == name]
        check_supplier(state, supplier, theirs)
        asked = supplier.size + state.writing.get(name, 0)
        assert asked < state.bounds.pieces_max + state.bounds.piece_max, "too much is asked for"
    writing: Counter[bytes] = Counter()
    for name, size in state.writes.values():
        writing[name] += size
    assert {name: size for name, size in writing.items() if size} == state.writing
    looks = sum(due is Due.LOOK for _, _, due, _ in state.timers)
    assert state.held == looks >= sum(fetch.phase is Phase.HELD for fetch in state.fetches.values())
    assert not state.ask_now
    assert not state.timers or state.wake_at <= state.timers[0][0], "nobody wakes us"
    assert not state.ask_later or any(due is Due.ASK for _, _, due, _ in state.timers)


def check_stages(state: State) -> None:
    """Each stage has what leads on, and one of them only."""
    for stage in state.stages.values():
        leads = [
            stage.id in state.stage_work,
            bool(stage.missing),
            stage.id in state.faults
            and any(d is Due.FAIL and n == stage.id for _, _, d, n in state.timers),
        ]
        assert sum(leads) == 1, f"stage {stage.id}: {leads}"
        for digest, size in stage.missing.items():
            assert state.fetches[stage.store, digest, size].stages[stage.id] is stage
        if stage.missing:
            whole = stage.size_max - sum(stage.missing.values())
            coming = sum(state.fetches[stage.store, d, s].written for d, s in stage.missing.items())
            assert stage.size == whole + coming <= stage.size_max, "progress is wrong"
            assert stage.files + len(stage.missing) == stage.files_max


def check_threads(state: State) -> None:
    """Threads that have no work, and work that no thread has, do not meet."""
    begun: Counter[object] = Counter()
    works = [*state.stage_work.values(), *state.part_work.values()]
    works += [state.trim_work] if state.trim_work is not None else []
    for work in works:
        if work.has_begun:
            begun[work.pool] += 1
        else:
            assert work in state.queues[work.pool][work.supplier]
    queued = sum(len(queue) for queues in state.queues.values() for queue in queues.values())
    assert queued == sum(not work.has_begun for work in works), "work is queued that nobody wants"
    for pool, count in threads().items():
        assert state.free[pool] + begun[pool] == count
        assert not (state.free[pool] and state.queues[pool]), "a thread is idle, and work waits"


def check_fetch(state: State, fetch: Fetch) -> None:
    """A file is asked of somebody if it can be, and something leads on."""
    assert fetch.stages, "nobody lacks it"
    assert state.parts[fetch.part] is fetch
    for stage in fetch.stages.values():
        assert state.stages[stage.id] is stage
        assert stage.missing[fetch.digest] == fetch.size
    connected = [stage for stage in fetch.stages.values() if stage.supplier in state.suppliers]
    assert (fetch.supplier is None) == (not connected)
    assert fetch.supplier is None or any(stage.supplier == fetch.supplier for stage in connected)
    assert fetch.written <= fetch.handed <= fetch.asked <= fetch.size
    assert all(fetch.handed < offset < fetch.asked for offset in fetch.early)
    in_flight = sum(fetch.offsets.values()) + sum(piece.size for piece in fetch.early.values())
    assert fetch.asked - fetch.handed == in_flight
    if fetch.offsets:
        names = [stage.computation for stage in connected if stage.supplier == fetch.supplier]
        assert fetch.computation in names, "asked for in the name of one that has left"
    has_work = fetch.part in state.part_work
    assert has_work == (fetch.phase in (Phase.OPENING, Phase.CHECKING))
    if fetch.phase is Phase.HELD:
        assert any(due is Due.LOOK and number == fetch.part for _, _, due, number in state.timers)
    is_small = fetch.size <= state.bounds.small_max
    assert not is_small or fetch.phase is Phase.RECEIVING
    if fetch.supplier is None:
        assert not any([fetch.ticket, fetch.offsets, fetch.early])
        assert fetch.blocked_by is None


def check_supplier(state: State, supplier: Supplier, fetches: list[Fetch]) -> None:
    """What is counted is there, and what is to be asked for is in one place."""
    asked = {(fetch.computation, fetch.digest): fetch for fetch in fetches if fetch.offsets}
    assert supplier.asked == asked
    early = sum(piece.size for fetch in fetches for piece in fetch.early.values())
    assert supplier.size == early + sum(sum(fetch.offsets.values()) for fetch in fetches)
    large = [fetch for fetch in fetches if fetch.size > state.bounds.small_max]
    assert supplier.parts == sum(fetch.phase is not Phase.CLOSED for fetch in large)
    assert set(supplier.blocked) <= set(asked)
    for fetch in fetches:
        order = supplier.closed if fetch.phase is Phase.CLOSED else supplier.ready
        is_ordered = any(entry[2] == fetch.ticket and entry[3] is fetch for entry in order)
        key = (fetch.blocked_by or 0, fetch.digest)
        is_blocked = fetch.blocked_by is not None and fetch in supplier.blocked[key]
        is_due = fetch.phase in (Phase.CLOSED, Phase.RECEIVING) and not fetch.is_asked
        assert is_ordered + is_blocked == is_due, f"{is_ordered} {is_blocked} {is_due}"
        assert bool(fetch.ticket) == is_ordered
