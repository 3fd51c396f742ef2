"""What a node makes of clients whose connections end."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from dispy.core import execution as core
from dispy.core.execution import Machine
from dispy.core.execution.ids import ClientId
from dispy.errors import InternalError, RemoteProtocolError
from dispy.node.clients import on_closed, on_message
from dispy.protocol import node

CLIENT = ClientId(b"c" * 16)


def end(machine: Machine, error: Exception | None) -> None:
    """The client's connection ends."""
    connection: Any = SimpleNamespace(heartbeat=SimpleNamespace(pulse_s=1.0))
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


WITH_PAYLOADS: list[tuple[Any, set[int]]] = [
    (
        node.RunJobs(
            1,
            [
                node.Job(1, 0, b"", node.Streamed(3)),
                node.Job(2, 0, b"small"),
                node.Job(3, 0, b"", node.Streamed(4)),
                node.Job(4, 0, b"", node.Given(9)),
            ],
        ),
        {3, 4},
    ),
    (node.FileData(1, [node.FilePiece(bytes(32), 0, b"", stream=5)]), {5}),
    (node.PutObject(1, 1, b"", stream=6), {6}),
    (node.Compute(1, "f", b"", stream=7), {7}),
    (node.Acknowledge(1), set()),
]
"""Messages, and the streams that they refer to."""


@pytest.mark.parametrize(("message", "streams"), WITH_PAYLOADS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("is_stopping", [False, True])
def test_payloads_of_what_is_not_handled_do_not_stay_open(
    message: Any, streams: set[int], is_stopping: bool
) -> None:
    """Of a client that a fault has ended, or while the node stops: it would be refused for 4,096 of them."""
    discarded = set()
    connection: Any = SimpleNamespace(
        take_stream=lambda number: SimpleNamespace(discard=lambda: discarded.add(number)),
        send=lambda _: None,
    )
    stopped = threading.Event()
    if is_stopping:
        stopped.set()
    service: Any = SimpleNamespace(
        connections=SimpleNamespace(get=lambda _: CLIENT),
        given_up={} if is_stopping else {CLIENT: "a fault"},
        stopped=stopped,
        handle=lambda _: None,
    )
    on_message(service, connection, message)
    assert discarded == streams


def test_a_client_that_names_a_file_of_the_node_is_refused() -> None:
    """It might be one with arguments or results of another client."""
    service: Any = SimpleNamespace(
        connections=SimpleNamespace(get=lambda _: CLIENT), given_up={}, stopped=threading.Event(), loaded={}
    )
    connection: Any = SimpleNamespace(send=lambda _: None)
    message = node.RunJobs(1, [node.Job(1, 0, b""), node.Job(2, 0, b"", node.Segment(5))])
    with pytest.raises(RemoteProtocolError, match="a file of the node"):
        on_message(service, connection, message)
