"""Draining: a node takes no new jobs, waits for the running ones, and leaves when it has none.

Jobs that have not started go back to their programs. A dead program cannot take its jobs back: they run to their ends
here, since recovery promises their results. A program whose connection is broken has the silence limit
(``State.silence_s``) to come back in; until then none of its jobs is started, given back or dropped.
"""

from __future__ import annotations

from dispy.core.execution.actions import Outbox, Tell
from dispy.core.execution.dispatch import recall_ahead
from dispy.core.execution.events import Drain
from dispy.core.execution.fair_shares import restrict, share_out
from dispy.core.execution.ids import Seconds
from dispy.core.execution.job_files import give_up_staging
from dispy.core.execution.state import State
from dispy.protocol.node import DRAINING, NodeCpus


def on_drain(state: State, out: Outbox, event: Drain, now: Seconds) -> None:
    """Take no new jobs from now on, and tell all clients so. ``CpusChanged`` with more than 0 CPUs ends draining.

    Jobs that have not started are given back (``dispatch``); jobs of dead clients that wait for files end as
    ``TERMINATED``. ``dispatch`` issues ``Drained`` once the node is empty.
    """
    if state.is_draining:
        return
    state.is_draining = True
    out.extend(Tell(client.id, NodeCpus(0, DRAINING)) for client in state.clients.values())
    restrict(state)
    recall_ahead(state, out)
    share_out(state, out, now)
    for client in list(state.clients.values()):
        if client.is_dead:
            give_up_staging(state, out, client, now)
