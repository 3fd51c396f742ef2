"""Suppliers come and go: what those that are gone were asked for, others are asked for, as far as they have it.

=========  =========  =========  ============================================================================
state      event      next       what is sent
=========  =========  =========  ============================================================================
gone       Connected  connected  requests for files of its stages that nobody is asked for, and its progress
connected  Connected  connected  the same, after what follows from ``Lost``
connected  Lost       gone       pieces that wait for others are discarded; others are asked for its files
=========  =========  =========  ============================================================================
"""

from __future__ import annotations

from dispy.core.staging.actions import Outbox
from dispy.core.staging.events import Connected, Lost
from dispy.core.staging.fetches import assign, unask
from dispy.core.staging.ids import Seconds, SupplierId
from dispy.core.staging.progress import tell_all
from dispy.core.staging.state import State, Supplier


def on_lost(state: State, out: Outbox, event: Lost, now: Seconds) -> None:
    """Forget the requests to a supplier, and ask others for its files. Those that no other has wait for it."""
    _lose(state, out, event.supplier)


def _lose(state: State, out: Outbox, name: SupplierId) -> None:
    """Take a supplier out of the connected ones; one that is not connected is fine."""
    if name not in state.suppliers:
        return
    orphans = [fetch for fetch in state.fetches.values() if fetch.supplier == name]
    for fetch in orphans:
        unask(state, out, fetch)
    del state.suppliers[name]
    for fetch in orphans:
        assign(state, fetch)


def on_connected(state: State, out: Outbox, event: Connected, now: Seconds) -> None:
    """Ask a supplier for files of its stages that no other is asked for; what it was asked before is forgotten.

    Its stages have their ranks by what is left of them: with the connection, the count of bytes begins anew.
    """
    name = event.supplier
    _lose(state, out, name)
    state.suppliers[name] = Supplier()
    for stage in state.stages.values():
        if stage.supplier == name and stage.missing:
            stage.rank = stage.size_max - stage.size
    for fetch in state.fetches.values():
        if fetch.supplier is None:
            assign(state, fetch)
    tell_all(state, out, name, now)
