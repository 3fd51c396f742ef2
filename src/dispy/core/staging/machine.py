"""The entry of the staging core: maps each event to the function that handles it.

After each of them suppliers are asked for what there is room for, and free threads are given work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

from dispy.core.staging import parts, stages, suppliers
from dispy.core.staging.actions import Action, Outbox
from dispy.core.staging.events import (
    Arrived,
    Connected,
    Drop,
    Event,
    Leave,
    Lost,
    PartBusy,
    PartFailed,
    PartFinished,
    PartNeedless,
    PartOpened,
    Placed,
    Searched,
    StageFailed,
    Tick,
    Trimmed,
    Unreadable,
    Want,
    Written,
)
from dispy.core.staging.ids import PartId, Seconds, StageId
from dispy.core.staging.progress import tell_again
from dispy.core.staging.requests import ask
from dispy.core.staging.state import Due, Limits, State
from dispy.core.staging.thread_turns import begin_work, threads
from dispy.core.staging.timers import take_due, wake
from dispy.protocol.history import History, subject_of

Handler = Callable[[State, Outbox, Any, Seconds], None]
"""Function that changes the state as an event demands, and appends actions to the outbox. Its third argument has the
type of the event that it is for, the fourth is the present."""


def _on_tick(state: State, out: Outbox, event: Tick, now: Seconds) -> None:
    """Do what timers are due for."""
    for due, number in take_due(state, now):
        match due:
            case Due.FAIL:
                stages.on_fail_due(state, out, StageId(number))
            case Due.LOOK:
                parts.on_look_due(state, PartId(number))
            case Due.ASK:
                state.ask_now.update(state.ask_later)
                state.ask_later.clear()
            case Due.PROGRESS:
                stage = state.stages.get(StageId(number))
                if stage is not None:
                    tell_again(state, out, stage, now)
            case _:
                assert_never(due)


_HANDLERS: dict[type[Event], Handler] = {
    Want: stages.on_want,
    Drop: stages.on_drop,
    Leave: stages.on_leave,
    Searched: stages.on_searched,
    Placed: stages.on_placed,
    StageFailed: stages.on_stage_failed,
    Trimmed: stages.on_trimmed,
    Connected: suppliers.on_connected,
    Lost: suppliers.on_lost,
    PartOpened: parts.on_part_opened,
    PartBusy: parts.on_part_busy,
    PartNeedless: parts.on_part_needless,
    PartFinished: parts.on_part_finished,
    PartFailed: parts.on_part_failed,
    Arrived: parts.on_arrived,
    Written: parts.on_written,
    Unreadable: parts.on_unreadable,
    Tick: _on_tick,
}


class Machine:
    """The decisions of one stager: an event goes in, actions come out. Calls must not overlap.

    Args:
        bounds: Limits of sizes and counts.

    Attributes:
        state: Stages, and the files that they lack. Only ``handle`` changes it; others may read it between two calls.
    """

    def __init__(self, bounds: Limits | None = None) -> None:
        self.state = State(bounds or Limits(), threads())
        self._history = History("the staging core")

    def handle(self, event: Event, now: Seconds) -> list[Action]:
        """Change the state as an event demands; returns the actions for the shell, to be done in this order.

        Args:
            event: A request of the shell, news of a supplier, the answer of a thread, or a tick of the clock.
            now: The present (seconds, monotonic).

        Raises:
            InternalError: Handling the event has failed: the state may be changed in part. The error names the event
                and the last ones before it.
        """
        out: Outbox = []
        state = self.state
        self._history.notes.append((type(event), subject_of(event), now))
        try:
            _HANDLERS[type(event)](state, out, event, now)
            while state.ask_now:
                supplier = next(iter(state.ask_now))
                del state.ask_now[supplier]
                ask(state, out, supplier)
            begin_work(state, out)
            wake(state, out)
        except Exception as error:
            raise self._history.fault(event, now) from error
        return out
