"""Stages: sets of files that something waits for, from ``Want`` to ``Ended`` or ``Dropped``.

===========  =======================================  ===============================================================
state        event                                    next, and what is sent
===========  =======================================  ===============================================================
none         Want: files of installed packages        searching: Search
none         Want                                     placing: Look, or Place into a directory
none         Want: too large, or no directory can     ending
             have files of these paths
searching    Searched                                 placing: Look or Place; or none: Ended, if one is too large
placing      Placed: all are there                    none: Ended
placing      Placed: files are missing                fetching: FilesProgress; NeedFiles, or Open first (``requests``)
placing      Placed: missing for the sixth time       none: Ended with the reason
placing      Placed: a fault                          none: Ended with the reason
fetching     the last file is stored                  placing again, as the store may have been trimmed; without a
                                                      directory none: Ended
fetching     a file fails                             none: Ended with the reason
ending       Tick                                     none: Ended with the reason
any          StageFailed                              none: Ended with the reason
any          Drop                                     none: Dropped; later, if a thread works for it
===========  =======================================  ===============================================================

A thread that works for a stage gets to its end though the stage is dropped; then nobody else may remove the directory
that it puts files into.
"""

from __future__ import annotations

from collections.abc import Iterable

from dispy.core.staging.actions import Dropped, Ended, Left, Look, Outbox, Place, Search, Trim
from dispy.core.staging.events import Drop, Leave, Placed, Searched, StageFailed, Trimmed, Want
from dispy.core.staging.fetches import join, part_with, remove
from dispy.core.staging.ids import DirectoryName, Seconds, StageId
from dispy.core.staging.progress import credit, tell_end, tell_progress
from dispy.core.staging.state import Due, Fetch, Pool, Stage, State, Work
from dispy.core.staging.thread_turns import end_work, queue_work
from dispy.core.staging.timers import add_timer
from dispy.protocol.files import FileEntry, check_entries

REFETCHES_MAX = 5
"""Number of times that files of one stage are fetched because they are not in the store; at one more the stage
fails."""


def on_want(state: State, out: Outbox, event: Want, now: Seconds) -> None:
    """Begin with a stage; if its files can be had by nobody, it ends at the next tick."""
    stage = Stage(
        event.stage, event.store, event.supplier, event.computation, event.entries, event.directory
    )
    state.stages[stage.id] = stage
    fault = _misplaced(stage.entries)
    if not fault and any(entry.package for entry in stage.entries):
        pool = Pool.LOOKERS if stage.directory is None else Pool.PLACERS
        _queue(state, stage, Work(pool, stage.supplier, Search(stage.id), stage.directory))
        return
    fault = fault or _too_large(state, stage.entries)
    if fault:
        state.faults[stage.id] = fault
        add_timer(state, now, Due.FAIL, stage.id)
    else:
        _place(state, stage)


def _misplaced(entries: list[FileEntry]) -> str:
    """Returns why files cannot lie in one directory by their paths, the reason to fail a stage; empty if they can."""
    try:
        check_entries(entries)
    except ValueError as error:
        return f"files cannot be put there: {error}"
    return ""


def _too_large(state: State, entries: list[FileEntry]) -> str:
    """Returns why a stage fails before its files are asked for: one is above ``file_max``. Empty if none is."""
    file_max = state.bounds.file_max
    for entry in entries if file_max else ():
        if entry.size > file_max:
            return (
                f"file {entry.path!r} has {entry.size} bytes, and it takes files of up to {file_max}; start it with "
                "another --max_file_size, or leave it out of nodes"
            )
    return ""


def on_fail_due(state: State, out: Outbox, number: StageId) -> None:
    """End a stage whose files can be had by nobody, unless it was dropped."""
    reason = state.faults.pop(number, "")
    stage = state.stages.get(number)
    if stage is not None and reason:
        end_stage(state, out, stage, reason)


def on_searched(state: State, out: Outbox, event: Searched, now: Seconds) -> None:
    """Go on with the files of a stage that are not installed here."""
    stage = _answered(state, out, event.stage)
    if stage is None:
        return
    stage.entries = event.missing
    fault = _too_large(state, stage.entries)
    if fault:
        end_stage(state, out, stage, fault)
    else:
        _place(state, stage)


def _place(state: State, stage: Stage) -> None:
    """Have a thread put the files of a stage into its directory if all are in the store, or look whether they are."""
    if stage.directory is None:
        _queue(state, stage, Work(Pool.LOOKERS, stage.supplier, Look(stage.id)))
    else:
        _queue(state, stage, Work(Pool.PLACERS, stage.supplier, Place(stage.id), stage.directory))


def _queue(state: State, stage: Stage, work: Work) -> None:
    """Queue work for a stage, which has no other."""
    state.stage_work[stage.id] = work
    queue_work(state, work)


def on_placed(state: State, out: Outbox, event: Placed, now: Seconds) -> None:
    """End a stage whose files are there, or cannot be put there; otherwise fetch those that are missing."""
    stage = _answered(state, out, event.stage)
    if stage is None:
        return
    if event.fault or not event.missing:
        end_stage(state, out, stage, event.fault)
        return
    stage.tries += 1
    if stage.tries > REFETCHES_MAX:
        reason = "files are removed from the store before they can be used; the store is too small"
        end_stage(state, out, stage, reason)
        return
    stage.missing = event.missing
    stage.files_max = len(stage.missing)
    stage.size_max = sum(stage.missing.values())
    stage.files = stage.size = 0
    supplier = state.suppliers.get(stage.supplier)
    stage.rank = stage.size_max + (supplier.total if supplier is not None else 0)
    for digest, size in stage.missing.items():
        join(state, stage, digest, size)
    tell_progress(state, out, stage, now)


def _answered(state: State, out: Outbox, number: StageId) -> Stage | None:
    """Count the thread as free that worked for a stage; returns the stage, None if it was dropped meanwhile.

    Whoever waits for the thread is told: that the stage was dropped, or that its directory can be removed.
    """
    work = state.stage_work.pop(number, None)
    if work is None:
        return None
    end_work(state, work)
    stage = state.stages.get(number)
    if stage is None:
        out.append(Dropped(number))
    if work.directory is not None:
        _look_at_leaving(state, out, work.directory)
    return stage


def on_stage_failed(state: State, out: Outbox, event: StageFailed, now: Seconds) -> None:
    """End a stage for which nothing comes any more, by a fault of this program."""
    _answered(state, out, event.stage)
    stage = state.stages.get(event.stage)
    if stage is not None:
        end_stage(state, out, stage, event.reason)


def on_drop(state: State, out: Outbox, event: Drop, now: Seconds) -> None:
    """Give up a stage: files that only it lacks are not fetched, and work that no thread has begun is taken back.

    Suppliers are asked for more at the next tick only: when several stages are dropped in a row, files of the next
    ones are not asked for in between.
    """
    stage = state.stages.pop(event.stage, None)
    if stage is None:
        return
    state.faults.pop(stage.id, None)
    _take_off(state, out, stage)
    work = state.stage_work.get(stage.id)
    if work is None:
        out.append(Dropped(stage.id))
    elif not work.has_begun:
        _answered(state, out, stage.id)
    if state.ask_now:
        if not state.ask_later:
            add_timer(state, now, Due.ASK)
        state.ask_later.update(state.ask_now)
        state.ask_now.clear()
    _trim_if_idle(state)


def end_stage(state: State, out: Outbox, stage: Stage, reason: str) -> None:
    """End a stage that no thread works for, with the reason why its files are not there, empty if they are."""
    del state.stages[stage.id]
    _take_off(state, out, stage)
    out.append(Ended(stage.id, reason))
    _trim_if_idle(state)


def _take_off(state: State, out: Outbox, stage: Stage) -> None:
    """Have a stage that has ended or was dropped wait for no file any more."""
    tell_end(state, out, stage)
    missing, stage.missing = stage.missing, {}
    for digest, size in missing.items():
        part_with(state, out, state.fetches[stage.store, digest, size], stage)


def on_stored(state: State, out: Outbox, fetch: Fetch, now: Seconds) -> None:
    """Take a stored file off the stages that lack it. A stage with all files puts them where they are wanted."""
    credit(state, out, fetch, fetch.size - fetch.written, now)
    remove(state, out, fetch)
    state.has_grown = True
    for stage in fetch.stages.values():
        del stage.missing[fetch.digest]
        stage.files += 1
        if stage.missing:
            continue
        if stage.directory is None:
            end_stage(state, out, stage, "")
        else:
            _place(state, stage)


def fail_stages(state: State, out: Outbox, fetch: Fetch, stages: Iterable[Stage], reason: str) -> None:
    """End stages that cannot have a file. The reason that they are told begins with the file's path."""
    for stage in list(stages):
        path = next(entry.path for entry in stage.entries if entry.digest == fetch.digest)
        end_stage(state, out, stage, f"file {path!r} cannot be had: {reason}")


# Directories, and the store.


def on_leave(state: State, out: Outbox, event: Leave, now: Seconds) -> None:
    """Say when no thread puts files into a directory any more, perhaps at once."""
    state.leaving[event.directory] = None
    _look_at_leaving(state, out, event.directory)


def _look_at_leaving(state: State, out: Outbox, directory: DirectoryName) -> None:
    """Say that a directory can be removed, if that was asked and no work puts files there, begun or queued."""
    if directory in state.leaving and not any(
        work.directory == directory for work in state.stage_work.values()
    ):
        del state.leaving[directory]
        out.append(Left(directory))


def _trim_if_idle(state: State) -> None:
    """Have a thread trim the stores if no stage is left, so that no file is removed that a stage waits for."""
    if not state.stages and state.has_grown and state.trim_work is None:
        state.trim_work = Work(Pool.PLACERS, None, Trim())
        queue_work(state, state.trim_work)
        state.has_grown = False


def on_trimmed(state: State, out: Outbox, event: Trimmed, now: Seconds) -> None:
    """Trim again if files were stored meanwhile, and nothing waits for files."""
    if state.trim_work is not None:
        end_work(state, state.trim_work)
    state.trim_work = None
    _trim_if_idle(state)
