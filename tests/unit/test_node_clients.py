"""What a node makes of clients whose connections end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dispy.core import execution as core
from dispy.core.execution import Machine
from dispy.core.execution.ids import ClientId
from dispy.errors import InternalError
from dispy.node.clients import on_closed

CLIENT = ClientId(b"c" * 16)


def end(machine: Machine, error: Exception | None) -> None:
    """The client's connection ends."""
    connection: Any = SimpleNamespace(pulse_s=1.0)
    service: Any = SimpleNamespace(
        connections=SimpleNamespace(pop=lambda *_: CLIENT),
        told_available={},
        clients={CLIENT: connection},
        sharing=set(),
        loaded={},
        reports=SimpleNamespace(guests={}),
        stager=SimpleNamespace(on_lost=lambda _: None),
        machine=machine,
        handle=lambda event: machine.handle(event, 0.0),
    )
    on_closed(service, connection, error)


@pytest.mark.parametrize("was_away", [False, True])
def test_a_client_to_whom_something_cannot_be_said_is_forgotten(was_away: bool) -> None:
    """Kept results would end its next connection, too. Results of a client that was away stay: perhaps somebody
    recovers them."""
    machine = Machine(1)
    machine.handle(core.ClientAttached(CLIENT, "client", 0), 0.0)
    machine.state.clients[CLIENT].was_away = was_away
    end(machine, ConnectionResetError())
    assert CLIENT in machine.state.clients
    machine.handle(core.ClientAttached(CLIENT, "client", 0), 0.0)
    end(machine, InternalError("a JobsEnded of 9000000 bytes was to be sent"))
    assert (CLIENT in machine.state.clients) == was_away
