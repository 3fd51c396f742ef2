"""Progress of stages, which suppliers show to users: files and bytes that have come, of those that were missing."""

from __future__ import annotations

from dispy.core.staging.actions import Outbox, Tell
from dispy.core.staging.ids import Seconds, SupplierId
from dispy.core.staging.state import Due, Fetch, Stage, State
from dispy.core.staging.timers import add_timer
from dispy.protocol.node import FilesProgress

PROGRESS_S = 0.1
"""Minimum interval (seconds) between two messages that tell a supplier how much has come for a stage. One that begins
the fetching of files is sent at once."""


def credit(state: State, out: Outbox, fetch: Fetch, size: int, now: Seconds) -> None:
    """Count ``size`` more bytes of a file as there, for all stages that lack it; fewer, if the file begins anew."""
    if not size:
        return
    fetch.written += size
    for stage in fetch.stages.values():
        stage.size += size
        if now >= stage.tell_at:
            tell_progress(state, out, stage, now)


def tell_progress(state: State, out: Outbox, stage: Stage, now: Seconds) -> None:
    """Tell the supplier of a stage how much has come, if it is connected, and again ``PROGRESS_S`` later."""
    if stage.supplier not in state.suppliers:
        return
    stage.tell_at = now + PROGRESS_S
    add_timer(state, stage.tell_at, Due.PROGRESS, stage.id)
    message = FilesProgress(stage.computation, stage.files, stage.files_max, stage.size, stage.size_max)
    out.append(Tell(stage.supplier, message))


def tell_again(state: State, out: Outbox, stage: Stage, now: Seconds) -> None:
    """Tell how much has come if files are still missing, and ``PROGRESS_S`` have passed since it was told last."""
    if stage.missing and now >= stage.tell_at:
        tell_progress(state, out, stage, now)


def tell_end(state: State, out: Outbox, stage: Stage) -> None:
    """Tell the supplier of a stage that nothing is on its way any more, or it would show for ever that we wait."""
    if stage.files_max and stage.supplier in state.suppliers:
        out.append(Tell(stage.supplier, FilesProgress(stage.computation, 0, 0, 0, 0)))


def tell_all(state: State, out: Outbox, supplier: SupplierId, now: Seconds) -> None:
    """Tell a supplier that is back how much has come for each of its stages."""
    for stage in state.stages.values():
        if stage.supplier == supplier and stage.missing and now >= stage.tell_at:
            tell_progress(state, out, stage, now)
