"""What machines say when they find their own state impossible, and what their shells make of that."""

from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import traceback
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import Struct

from dispy.core import execution, scheduling, staging
from dispy.core.execution.ids import ClientId, WorkerId
from dispy.core.recovery import Recovery
from dispy.core.scheduling.ids import NodeId
from dispy.errors import InternalError
from dispy.node.state import NodeState
from dispy.protocol import node
from dispy.protocol.connection.faults import is_of_peer
from dispy.protocol.connection.machine import ConnectionMachine
from dispy.protocol.history import EVENT_MAX, EVENTS_MAX, History, subject_of
from dispy.protocol.streams import MemorySource
from dispy.scheduler.service import SchedulerService
from dispy.security.keys import alone
from dispy.system.wording import say_fault

SECRET = b"what the user has sent"
NODE = NodeId(b"n" * 16)
CLIENT = ClientId(b"c" * 16)


class Broken:
    """A piece of state that should not be there: whatever is asked of it fails."""

    def __getattr__(self, name: str) -> Any:
        raise LookupError(f"no {name} here")


def _fail(*_: Any) -> None:
    raise LookupError("no such thing here")


def scheduling_fails() -> None:
    machine = scheduling.Machine()
    machine.handle(scheduling.NodeUp(NODE, "n", 1, False), 1.0)
    machine.handle(scheduling.AddComputation(scheduling.EMBEDDED, 7, node.Compute(7, "f", SECRET)), 2.0)
    machine.state.computations[scheduling.EMBEDDED, 7] = Broken()  # type: ignore[assignment]
    machine.handle(scheduling.SubmitJobs(scheduling.EMBEDDED, 7, [node.Job(5, 0, SECRET)]), 3.5)


def scheduling_fails_at_a_message() -> None:
    machine = scheduling.Machine()
    machine.handle(scheduling.NodeUp(NODE, "n", 1, False), 1.0)
    machine.state.nodes[NODE] = Broken()  # type: ignore[assignment]
    ended = node.Ended(5, 0, node.FINISHED, 1.0, 2.0, SECRET, stdout=SECRET)
    machine.handle(scheduling.FromNodeEvent(NODE, node.JobsEnded(1, 7, [ended])), 3.5)


def execution_fails() -> None:
    machine = execution.Machine(2)
    machine.handle(execution.ClientAttached(CLIENT, "p", 0), 1.0)
    machine.handle(execution.FromClient(CLIENT, node.Compute(7, "f", SECRET)), 2.0)
    machine.state.computations[CLIENT, 7] = Broken()  # type: ignore[assignment]
    machine.handle(execution.FromClient(CLIENT, node.RunJobs(7, [node.Job(5, 0, SECRET)])), 3.5)


def execution_fails_at_an_event() -> None:
    machine = execution.Machine(2)
    machine.handle(execution.ClientAttached(CLIENT, "p", 0), 1.0)
    machine.state.workers[WorkerId(3)] = Broken()  # type: ignore[assignment]
    ended = node.Ended(5, 0, node.FINISHED, 1.0, 2.0, SECRET)
    machine.handle(execution.Ran(WorkerId(3), 1, 1, True, False, [ended]), 3.5)


def staging_fails() -> None:
    machine = staging.Machine()
    supplier = staging.SupplierId(b"s" * 16)
    machine.handle(staging.Connected(supplier), 1.0)
    machine.state.stages = Broken()  # type: ignore[assignment]
    entries: list[Any] = []
    machine.handle(
        staging.Want(staging.StageId(4), staging.StoreName("s"), supplier, 7, entries, None), 3.5
    )


def recovery_fails() -> None:
    recovery = Recovery([7], [NODE])
    recovery.on_welcome("host:1", node.Welcome(NODE, "n", 1, "Linux", True))
    recovery.results = Broken()  # type: ignore[assignment]
    ended = node.Ended(5, 0, node.FINISHED, 1.0, 2.0, SECRET)
    recovery.on_ended("host:1", node.JobsEnded(1, 7, [ended]), "127.0.0.1")


def give(side: ConnectionMachine, data: bytes) -> None:
    """Bytes of the peer arrive."""
    side.writable()[: len(data)] = data
    side.received(len(data))
    while side.next_event(3.5) is not None:
        pass


def connected() -> tuple[ConnectionMachine, ConnectionMachine]:
    """Both sides of a connection that have proved themselves."""
    key = alone(bytes(32))
    ours = ConnectionMachine(node.from_node_decoder, key, "client", "node", is_dialer=True)
    theirs = ConnectionMachine(node.to_node_decoder, key, "node", "client", is_dialer=False)
    ours.start(bytes([1]) * 32, 0.0)
    theirs.start(bytes([2]) * 32, 0.0)
    while said := ours.data_to_send():
        give(theirs, said)
        answer = theirs.data_to_send()
        if answer:
            give(ours, answer)
    assert ours.is_ready
    return ours, theirs


def connection_fails() -> None:
    ours, theirs = connected()
    theirs.send(node.JobsReturned(7, [], "why"))
    value = node.Provisional(7, 5, 0, 1, b"")
    theirs.send_streamed([(value, "stream", MemorySource(SECRET))], value)
    ours.incoming.open = _fail  # type: ignore[method-assign]
    give(ours, theirs.data_to_send() + b"".join(theirs.next_chunk(1.0)))


def connection_fails_to_decrypt() -> None:
    ours, theirs = connected()
    theirs.send(node.JobsReturned(7, [], "why"))
    ours.cipher = Broken()  # type: ignore[assignment]
    give(ours, theirs.data_to_send())


FAULTS = [
    (scheduling_fails, "the scheduling core has failed at SubmitJobs", "-2.500 s NodeUp", "SubmitJobs"),
    (
        scheduling_fails_at_a_message,
        "the scheduling core has failed at FromNodeEvent",
        "NodeUp",
        "JobsEnded 6e6e",
    ),
    (
        execution_fails,
        "the execution core has failed at FromClient",
        "Compute 63636363",
        "RunJobs 63636363",
    ),
    (execution_fails_at_an_event, "the execution core has failed at Ran worker=3", "ClientAttached", "Ran"),
    (staging_fails, "the staging core has failed at Want stage=4", "-2.500 s Connected 73737373", "Want 4"),
    (recovery_fails, "the recovery has failed at JobsEnded", "Welcome host:1", "JobsEnded host:1"),
    (connection_fails, "a connection has failed at open of stream 1", "JobsReturned", "open 1"),
    (connection_fails_to_decrypt, " bytes in state READY", "control frame", "control frame"),
]
"""What fails; what the error says, and what its lines of events begin and end with."""


@pytest.mark.parametrize(
    ("fail", "text", "first", "last"), FAULTS, ids=lambda each: getattr(each, "__name__", "")
)
def test_a_machine_that_fails_names_the_event_and_those_before(
    fail: Callable[[], None], text: str, first: str, last: str
) -> None:
    with pytest.raises(InternalError) as caught:
        fail()
    error = caught.value
    assert text in str(error)
    assert "please report it" in str(error)
    assert isinstance(error.__cause__, (LookupError, TypeError))
    assert first in "".join(error.events)
    assert last in error.events[-1]
    shown = "".join(traceback.format_exception(error))
    assert "The last events up to it" in shown
    assert all(line in shown for line in error.events)
    assert SECRET.decode() not in shown
    assert not is_of_peer(error)


def test_a_history_is_bounded_and_says_equal_events_once() -> None:
    history = History("a machine")
    for number in range(1000):
        history.notes.append((scheduling.NodeUp, number, float(number)))
    for at in range(10):
        history.notes.append((scheduling.Tick, None, 2000.0 + at))
    error = history.fault(scheduling.NodeLost(NODE, "x" * 5000), 2010.0)
    assert len(error.events) == EVENTS_MAX - 10 + 1
    assert error.events[-1] == "-1.000 s Tick (10 times)"
    assert error.events[0] == "-1064.000 s NodeUp 946"
    assert len(history.fault("x" * 5000).args[0]) < EVENT_MAX + 100
    assert max(map(len, error.events)) < 100


def test_an_event_that_cannot_be_described_is_named_all_the_same() -> None:
    class Odd(Struct):
        part: Any

    class Rude:
        def __eq__(self, other: object) -> bool:
            raise LookupError

    assert "has failed at Odd;" in str(History("it").fault(Odd(Rude())))


def test_an_event_is_about_its_first_field_if_that_is_a_name_or_a_number() -> None:
    assert subject_of(scheduling.NodeLost(NODE, "")) == NODE
    assert subject_of(scheduling.Tick()) is None
    assert subject_of(execution.HostReady((CLIENT, 7))) is None


def test_events_do_not_stay_in_memory() -> None:
    """64 batches with arguments would be half a gigabyte."""

    class Payload(bytearray):
        """Bytes that can be watched."""

    machine = scheduling.Machine()
    machine.handle(scheduling.AddComputation(scheduling.EMBEDDED, 7, node.Compute(7, "f", b"")), 1.0)
    job = node.Job(5, 0, Payload(b"x" * 1000))  # type: ignore[arg-type]
    seen = weakref.ref(job.payload)
    machine.handle(scheduling.SubmitJobs(scheduling.EMBEDDED, 7, [job]), 2.0)
    machine.handle(scheduling.CancelJobs(scheduling.EMBEDDED, 7, [5]), 3.0)
    del job
    gc.collect()
    assert seen() is None


def test_an_internal_error_can_be_pickled_with_its_events() -> None:
    with pytest.raises(InternalError) as caught:
        scheduling_fails()
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.events) == (str(caught.value), caught.value.events)


# The shells.


class _Observer:
    """Somebody who takes all news, and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_a_scheduler_logs_a_fault_once_and_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        service = SchedulerService(bytes(16), "p", _Observer())
        service.handle(scheduling.AddComputation(scheduling.EMBEDDED, 1, node.Compute(1, "f", b"")))
        service.state.computations[scheduling.EMBEDDED, 1] = Broken()  # type: ignore[assignment]
        with pytest.raises(InternalError) as caught:
            service.handle(scheduling.CloseComputation(scheduling.EMBEDDED, 1))
        say_fault(logging.getLogger("dispy.net"), "once more", error=caught.value)
        service.close()

    asyncio.run(play())
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "end the program, run again what is missing, and please report this" in record.message
    assert "AddComputation" in caplog.text
    assert "has failed at CloseComputation" in caplog.text


def test_a_node_logs_a_fault_of_its_core_once_and_stops(caplog: pytest.LogCaptureFixture) -> None:
    machine = execution.Machine(1)
    machine.state.clients = Broken()  # type: ignore[assignment]
    service: Any = SimpleNamespace(
        machine=machine, clock=SimpleNamespace(monotonic=lambda: 1.0), perform_by_type={}, failed=False,
        _events=deque(), _is_handling=False, stopped=asyncio.Event(),
    )  # fmt: skip
    service._stop_faulty = partial(NodeState._stop_faulty, service)
    NodeState.handle(service, execution.ClientAttached(CLIENT, "p", 0))
    assert service.failed
    assert service.stopped.is_set()
    (record,) = caplog.records
    assert "start dispynode again, and please report this" in record.message
    assert "has failed at ClientAttached" in caplog.text
