"""The machine of a connection: two of them in one thread, without sockets, clocks or loops."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from dispy.errors import InternalError, RemoteProtocolError, SilenceError
from dispy.protocol import frames, limits, node
from dispy.protocol.connection.faults import is_of_peer
from dispy.protocol.connection.heartbeat import SILENT_TICKS
from dispy.protocol.connection.machine import ConnectionMachine
from dispy.protocol.connection.states import HANDLED, PROVEN, State
from dispy.protocol.connection.stranger import BYTES_MAX
from dispy.protocol.handshake import REFUSAL
from dispy.protocol.streams import Group, MemorySource
from dispy.security.keys import alone
from dispy.security.tls import Tls, dialer_tls, listener_tls

KEY = alone(bytes(32))

LISTENS = listener_tls(Tls(wanted=True))
DIALS = dialer_tls(Tls(wanted=True))


class Source(MemorySource):
    """A payload that says how often it was let go."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Side:
    """A machine with what it was told; it takes the payloads of messages at once."""

    def __init__(self, machine: ConnectionMachine) -> None:
        self.machine = machine
        self.events: list[Any] = []
        self.payloads: dict[int, bytes] = {}
        """Payloads that have arrived with jobs, by the job's number."""
        self.now = 0.0

    @property
    def messages(self) -> list[Any]:
        assert not self.events or self.events[0] is PROVEN
        return self.events[1:]

    def give(self, data: bytes, step: int = 1 << 30) -> None:
        """Bytes arrive, in pieces of so many at most."""
        view = memoryview(data)
        while view:
            room = self.machine.writable()
            count = min(step, len(view), len(room))
            room[:count] = view[:count]
            view = view[count:]
            self.machine.received(count)
            self.handle()

    def handle(self) -> None:
        try:
            while (event := self.machine.next_event(self.now)) is not None:
                if event is not HANDLED:
                    self.events.append(event)
                for job in getattr(event, "jobs", ()):
                    if type(job.where) is node.Streamed:
                        sink = self.machine.incoming.take(job.where.stream)
                        self.payloads[job.number] = bytes(sink.data)
        except Exception as error:
            if not is_of_peer(error):
                raise
            self.machine.refuse(error)

    def said(self, chunks: int = 1 << 30) -> bytes:
        """All that it has to say now, with so many chunks at most."""
        said: list[bytes | memoryview] = [self.machine.data_to_send()]
        while chunks and (parts := self.machine.next_chunk(self.now)):
            said += parts
            chunks -= 1
        return b"".join(said)

    def send(self, number: int, *sources: MemorySource) -> Group:
        """Send jobs with payloads as one message."""
        jobs = [node.Job(number + at, 0, b"", node.Streamed(0)) for at in range(len(sources))]
        parts = [(job.where, "stream", source) for job, source in zip(jobs, sources, strict=True)]
        return self.machine.send_streamed(parts, node.RunJobs(1, jobs))


def client(**options: Any) -> Side:
    """A client that dials, started."""
    side = Side(ConnectionMachine(node.from_node_decoder, KEY, "client", "node", is_dialer=True, **options))
    side.machine.start(bytes([1]) * 32, 0.0)
    return side


def server(**options: Any) -> Side:
    """A node that listens, started."""
    side = Side(
        ConnectionMachine(
            node.to_node_decoder, KEY, "node", "client", is_dialer=False,
            farewell=lambda error: node.Leaving(str(error)), **options,
        )
    )  # fmt: skip
    side.machine.start(bytes([2]) * 32, 0.0)
    return side


def pump(one: Side, other: Side, step: int = 1 << 30) -> None:
    """Carry bytes both ways until nobody says anything."""
    while True:
        there, back = one.said(), other.said()
        if not there and not back:
            return
        other.give(there, step)
        one.give(back, step)


def connected(tls: bool = False, **options: Any) -> tuple[Side, Side]:
    """Two sides that have proved themselves; ``options`` are the node's."""
    ours = client(tls=DIALS, peer_name="node") if tls else client()
    theirs = server(tls=LISTENS, **options) if tls else server(**options)
    pump(ours, theirs)
    assert ours.events == theirs.events == [PROVEN]
    return ours, theirs


def kinds(data: bytes) -> list[tuple[int, int]]:
    """Kind and stream number of each frame."""
    reader = frames.FrameReader()
    found = []
    while data:
        room = reader.writable()
        count = min(len(room), len(data))
        room[:count] = data[:count]
        data = data[count:]
        reader.received(count)
        while (frame := reader.next_frame()) is not None:
            found.append(frame[:2])
    return found


def of_kind(kind: int, data: bytes) -> list[int]:
    """Stream numbers of the frames of one kind."""
    return [stream for found, stream in kinds(data) if found == kind]


# From the start to the end.


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("step", [1, 7, 1 << 30])
def test_what_is_sent_arrives_however_it_is_split(tls: bool, step: int) -> None:
    ours = client(tls=DIALS, peer_name="node") if tls else client()
    theirs = server(tls=LISTENS) if tls else server()
    assert ours.machine.state is (State.TLS if tls else State.PROOF)
    pump(ours, theirs, step)
    assert ours.machine.state is theirs.machine.state is State.READY
    ours.machine.send(node.Acknowledge(1))
    payload = bytes(range(256)) * 20
    ours.send(7, Source(payload))
    ours.machine.send(node.Acknowledge(2))
    theirs.machine.send(node.ComputationReady(3))
    pump(ours, theirs, step)
    # A message behind the stream's does not wait for it.
    assert [type(message) for message in theirs.messages] == [
        node.Acknowledge,
        node.Acknowledge,
        node.RunJobs,
    ]
    assert theirs.payloads == {7: payload}
    assert ours.messages == [node.ComputationReady(3)]
    for one, other in ((ours, theirs), (theirs, ours)):
        assert one.machine.bytes_sent == other.machine.bytes_received > 0


def test_nothing_is_sent_before_the_proof_or_after_the_end() -> None:
    ours, theirs = client(), server()
    for side in (ours, theirs):
        side.machine.send(node.Detach())
        assert side.machine.data_now([node.Detach()]) is None
        source = Source(b"x")
        assert side.send(1, source).is_over()
        assert source.closed == 1
    pump(ours, theirs)
    ours.machine.close()
    ours.machine.send(node.Detach())
    source = Source(b"x")
    assert ours.send(1, source).is_over()
    assert source.closed == 1
    assert not ours.said()
    assert ours.machine.data_now([node.Detach()]) is None
    assert ours.machine.error is None
    assert theirs.messages == []


def test_a_machine_that_was_ended_before_it_had_a_socket_does_not_start() -> None:
    machine = ConnectionMachine(node.from_node_decoder, KEY, "client", "node", is_dialer=True)
    machine.refuse(ConnectionError("not wanted any more"))
    machine.start(bytes(32), 0.0)
    assert machine.is_over
    assert not machine.data_to_send()


def test_what_comes_behind_a_broken_frame_is_not_handled() -> None:
    ours, theirs = connected()
    ours.machine.send(node.Acknowledge(1))
    broken = frames.header(99, 0)
    ours.machine.send(node.Acknowledge(2))
    said = ours.said()
    theirs.give(said[: len(said) // 2] + broken + said[len(said) // 2 :])
    assert theirs.messages == [node.Acknowledge(1)]
    assert isinstance(theirs.machine.error, RemoteProtocolError)
    before = theirs.machine.error
    theirs.give(said)
    assert theirs.messages == [node.Acknowledge(1)]
    assert theirs.machine.error is before
    assert not theirs.said(), "a peer that has proved itself gets no refusal"


def test_what_the_owner_refuses_ends_between_two_messages() -> None:
    ours, theirs = connected()
    for number in (1, 2):
        ours.machine.send(node.Acknowledge(number))
    data = ours.said()
    theirs.machine.writable()[: len(data)] = data
    theirs.machine.received(len(data))
    assert theirs.machine.next_event(0.0) == node.Acknowledge(1)
    theirs.machine.refuse(RemoteProtocolError("not that"))
    assert theirs.machine.next_event(0.0) is None


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_stranger_is_told_one_refusal_and_a_listener_nothing(tls: bool) -> None:
    theirs = server(tls=LISTENS) if tls else server()
    theirs.give(b"GET / HTTP/1.1\r\n\r\n")
    assert theirs.machine.is_over
    if not tls:
        assert theirs.said() == frames.header(frames.CONTROL, len(REFUSAL)) + REFUSAL
        assert str(theirs.machine.error) == "HTTP before the proof: a frame of kind 71"
    ours = client(tls=DIALS, peer_name="node") if tls else client()
    hello = ours.said()
    ours.give(b"HTTP/1.1 400 Bad Request\r\n")
    assert ours.machine.is_over
    assert hello
    if not tls:
        assert not ours.said()


def test_a_stranger_may_say_so_much() -> None:
    theirs = server(tls=LISTENS)
    theirs.give(b"\x16\x03\x01\x40\0\x01\x01\xf0\0" + bytes(16380))
    while not theirs.machine.is_over:
        theirs.give(b"\x16\x03\x01\x40\0" + bytes(16384))
    assert BYTES_MAX < theirs.machine.bytes_received < BYTES_MAX + 10_000
    assert str(theirs.machine.error) == "too much before the proof"


def test_a_peer_that_hangs_up_before_its_proof_is_known_by_what_it_said() -> None:
    ours = client()
    ours.machine.writable()[:4] = b"SSH-"
    ours.machine.received(4)
    ours.machine.closed()
    assert "speaks SSH and is no node of dispy" in str(ours.machine.error)
    silent = client()
    silent.machine.closed()
    assert silent.machine.error is None


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_message_that_is_too_large_ends_the_connection_at_its_sender(tls: bool) -> None:
    ours, theirs = connected(tls)
    large = node.JobsEnded(1, 1, [node.Ended(1, 0, node.FINISHED, 1.0, 2.0, bytes(65_000))] * 130)
    theirs.machine.send(node.ComputationReady(1))
    theirs.machine.send(large)
    assert isinstance(theirs.machine.error, InternalError)
    assert theirs.machine.is_over
    theirs.machine.send(large)
    ours.give(theirs.said())
    first, last = ours.messages
    assert first == node.ComputationReady(1)
    assert isinstance(last, node.Leaving)
    assert "a JobsEnded of 8" in last.reason


def test_what_any_thread_sends_at_once_does_not_pass_anything() -> None:
    ours, theirs = connected()
    theirs.give(ours.machine.data_now([node.Acknowledge(1), node.Acknowledge(2)]) or b"")
    assert theirs.messages == [node.Acknowledge(1), node.Acknowledge(2)]
    ours.machine.send(node.Acknowledge(3))
    assert ours.machine.data_now([node.Acknowledge(4)]) is None, "3 is queued"
    theirs.give(ours.said())
    source = Source(bytes(limits.STREAM_WINDOW + 1))
    ours.send(1, source)
    theirs.give(ours.said(chunks=1))
    assert ours.machine.data_now([node.Acknowledge(4)]) is None, "a payload is leaving"
    pump(ours, theirs)
    large = node.RunJobs(1, [node.Job(number, 0, bytes(limits.INLINE_MAX - 1)) for number in range(130)])
    assert ours.machine.data_now([large]) is None
    assert ours.machine.is_ready


# Heartbeat.


def test_who_says_nothing_sends_a_ping_every_second_look() -> None:
    ours, _ = connected()
    pings = []
    for _ in range(8):
        ours.machine.heartbeat.has_received = True
        assert ours.machine.look()
        pings.append(kinds(ours.said()) == [(frames.PING, 0)])
    # The handshake was said before the first look.
    assert pings == [False, True] * 4


def test_a_silent_peer_is_given_up_and_any_byte_is_a_sign_of_life() -> None:
    ours, _ = connected()
    machine = ours.machine
    machine.heartbeat.pulse_s = 2.0
    assert machine.heartbeat.tick_s == 1.0
    for byte in frames.PING_FRAME:
        ours.give(bytes([byte]))
        assert machine.look()
    for looks in range(1, SILENT_TICKS):
        assert machine.look()
        assert machine.heartbeat.silent_s == looks
    machine.send(node.Detach())
    assert not machine.look()
    assert machine.is_over
    assert str(machine.error) == "silent for 10 s"
    assert isinstance(machine.error, SilenceError)
    assert not ours.said(), "it would not be taken"


def test_a_peer_that_does_not_take_the_last_bytes_is_silent_too() -> None:
    ours, _ = connected()
    ours.machine.refuse(RemoteProtocolError("not that"))
    looks = [ours.machine.look() for _ in range(SILENT_TICKS + 1)]
    assert looks.index(False) in (SILENT_TICKS - 1, SILENT_TICKS)
    assert str(ours.machine.error) == "not that"


# Streams.


def opened(side: Side) -> tuple[bytes, list[int]]:
    """What a side says before the first chunk, and the streams that it opens."""
    data = side.said(chunks=0)
    return data, of_kind(frames.OPEN, data)


def fill(side: Side, count: int = limits.STREAMS_MAX) -> list[Group]:
    """Have so many streams announced."""
    return [side.send(number, Source(b"data")) for number in range(count)]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_more_streams_than_may_be_open_arrive_nevertheless(tls: bool) -> None:
    """Once 4,097 at a time ended the connection, and again after each reconnect."""
    ours, theirs = connected(tls)
    count = 2 * limits.STREAMS_MAX + 10
    sources = [Source(number.to_bytes(2, "big") * 20) for number in range(count)]
    for number, source in enumerate(sources):
        ours.send(number, source)
    ours.machine.send(node.Acknowledge(1))
    pump(ours, theirs)
    assert theirs.machine.error is None
    assert theirs.payloads == {number: number.to_bytes(2, "big") * 20 for number in range(count)}
    assert theirs.messages[0] == node.Acknowledge(1), "it passes them"
    assert not ours.machine.outgoing.is_sending
    assert {source.closed for source in sources} == {1}


def test_no_more_streams_are_announced_than_the_receiver_takes() -> None:
    ours, theirs = connected()
    count = limits.STREAMS_MAX + 300
    fill(ours, count)
    data, streams = opened(ours)
    assert streams == list(range(1, limits.STREAMS_MAX + 1))
    while ours.machine.outgoing.is_sending:
        theirs.give(data)
        assert theirs.machine.error is None
        data = ours.said(chunks=100)
        more = of_kind(frames.OPEN, data)
        # One for each that has ended, and no more.
        assert len(more) <= len(of_kind(frames.CONTROL, data)) <= 100
        streams += more
        ours.give(theirs.said())
    theirs.give(data)
    assert streams == list(range(1, count + 1))
    assert len(theirs.payloads) == count


def test_a_group_that_waits_is_not_passed_and_not_torn() -> None:
    ours, _ = connected()
    groups = fill(ours, limits.STREAMS_MAX - 1)
    pair, single = (Source(b"a"), Source(b"b")), Source(b"c")
    ours.send(10_000, *pair)
    ours.send(10_002, single)
    _, streams = opened(ours)
    assert streams == list(range(1, limits.STREAMS_MAX)), (
        "there is room for one of two, and for what comes behind"
    )
    assert ours.machine.give_up(groups[7])
    data, streams = opened(ours)
    assert streams == [limits.STREAMS_MAX, limits.STREAMS_MAX + 1]
    assert of_kind(frames.ABORT, data) == [8]


def test_what_is_given_up_while_it_waits_is_never_announced() -> None:
    ours, theirs = connected()
    groups = fill(ours)
    sources = [Source(b"x"), Source(b"y"), Source(b"z")]
    waiting = [ours.send(10_000 + at, source) for at, source in enumerate(sources)]
    theirs.give(ours.said(chunks=0))
    assert ours.machine.give_up(waiting[1])
    assert not ours.machine.give_up(waiting[1])
    assert sources[1].closed == 1
    assert not ours.said(chunks=0), "the receiver has never heard of it"
    for group in groups:
        ours.machine.give_up(group)
    pump(ours, theirs)
    assert theirs.payloads == {10_000: b"x", 10_002: b"z"}
    assert [source.closed for source in sources] == [1, 1, 1]


def test_streams_that_are_given_up_make_room_for_those_that_wait() -> None:
    ours, theirs = connected()
    groups = fill(ours)
    ours.send(10_000, Source(b"x"))
    theirs.give(ours.said(chunks=0))
    assert ours.machine.give_up(groups[0])
    pump(ours, theirs)
    assert theirs.machine.error is None
    assert sorted(theirs.payloads) == [*range(1, limits.STREAMS_MAX), 10_000]


def test_payloads_without_a_byte_wait_for_room_as_well() -> None:
    ours, theirs = connected()
    groups = fill(ours)
    for number in range(5_000):
        ours.send(10_000 + number, Source(b""))
    data, streams = opened(ours)
    assert len(streams) == limits.STREAMS_MAX
    theirs.give(data)
    ours.machine.give_up(groups[0])
    pump(ours, theirs)
    assert theirs.machine.error is None
    assert len(theirs.payloads) == limits.STREAMS_MAX - 1 + 5_000


def test_a_message_with_more_payloads_than_may_be_open_is_too_large() -> None:
    ours, _ = connected()
    sources = [Source(b"x") for _ in range(limits.STREAMS_MAX + 1)]
    assert ours.send(1, *sources).is_over()
    assert isinstance(ours.machine.error, InternalError)
    assert {source.closed for source in sources} == {1}


def test_a_connection_that_is_gone_lets_go_of_all_payloads() -> None:
    ours, _ = connected()
    sources = [Source(bytes(10)) for _ in range(limits.STREAMS_MAX + 5)]
    groups = [ours.send(number, source) for number, source in enumerate(sources)]
    ours.machine.closed()
    assert {source.closed for source in sources} == {1}
    assert all(group.is_over() for group in groups)
    assert not ours.machine.give_up(groups[0])
    assert not ours.machine.outgoing.is_sending


def slow_turns(sizes: list[int]) -> Iterable[int]:
    """Streams in the order of their chunks, by the rule in its plainest form. Sizes are in chunks."""
    left = dict(enumerate(sizes, 1))
    is_oldest_due = True
    while left:
        oldest, smallest = min(left), min(left, key=lambda number: left[number])
        number = oldest
        if oldest != smallest:
            is_oldest_due = not is_oldest_due
            number = oldest if is_oldest_due else smallest
        yield number
        left[number] -= 1
        if not left[number]:
            del left[number]


@pytest.mark.parametrize("sizes", [[5, 3, 8, 1, 9, 1, 7], [9, 8, 7, 6, 5, 4, 3, 2, 1], [4] * 9, [1]])
def test_the_oldest_and_the_smallest_stream_take_turns(sizes: list[int]) -> None:
    chunk = 64 * limits.KIB
    ours, _ = connected()
    for number, size in enumerate(sizes):
        ours.send(number, Source(bytes(size * chunk)))
    turns = of_kind(frames.CHUNK, ours.said())
    assert turns == list(slow_turns(sizes))[: len(turns)]
    assert len(turns) == min(8, sum(sizes)), "so much may leave before the first answer"
