"""Streams: large payloads in chunks, as far as the receiver grants, complete before they are used."""

from __future__ import annotations

import pytest

from dispy.errors import RemoteProtocolError
from dispy.protocol import limits
from dispy.protocol.streams import Group, IncomingStreams, MemorySource, OutgoingStream


def chunk(data: bytes) -> memoryview:
    return memoryview(data)


def test_a_stream_is_put_together_from_its_chunks() -> None:
    streams = IncomingStreams()
    streams.open(1, 5)
    streams.chunk(1, chunk(b"he"))
    streams.chunk(1, chunk(b"llo"))
    assert streams.take(1).data == b"hello"


class Slots:
    """A sink of a known size that chunks can be received in."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self._at = 0

    def room(self, size: int) -> memoryview | None:
        self._at += size
        return memoryview(self.data)[self._at - size : self._at]

    def write(self, body: memoryview) -> None:
        room = self.room(len(body))
        assert room is not None
        room[:] = body

    def discard(self) -> None:
        self.data.clear()


def test_chunks_may_be_received_in_their_room() -> None:
    streams = IncomingStreams(Slots)
    streams.open(1, 9)
    streams.chunk(1, chunk(b"abc"))
    room = streams.room(1, 4)
    assert room is not None
    room[:] = b"defg"
    with pytest.raises(RemoteProtocolError, match="not complete"):
        streams.take(1)
    streams.placed(1, 4)
    streams.chunk(1, chunk(b"hi"))
    assert streams.take(1).data == b"abcdefghi"


def test_a_sink_that_grows_has_no_room() -> None:
    streams = IncomingStreams()
    streams.open(1, 9)
    assert streams.room(1, 4) is None


def test_there_is_no_room_beyond_the_announced_size_or_without_a_stream() -> None:
    streams = IncomingStreams(Slots)
    streams.open(1, 4)
    with pytest.raises(RemoteProtocolError, match="did not announce"):
        streams.room(1, 5)
    with pytest.raises(RemoteProtocolError, match="stream 2"):
        streams.room(2, 1)


def test_streams_that_interleave_stay_apart() -> None:
    streams = IncomingStreams()
    streams.open(1, 2)
    streams.open(2, 2)
    for number, data in ((1, b"a"), (2, b"x"), (1, b"b"), (2, b"y")):
        streams.chunk(number, chunk(data))
    assert (streams.take(1).data, streams.take(2).data) == (b"ab", b"xy")


def test_an_empty_stream_is_complete_at_once() -> None:
    streams = IncomingStreams()
    streams.open(1, 0)
    assert streams.take(1).data == b""


def test_a_taken_payload_belongs_to_the_caller() -> None:
    streams = IncomingStreams()
    streams.open(1, 1)
    streams.chunk(1, chunk(b"a"))
    data = streams.take(1).data
    data += b"more"
    streams.open(1, 1)
    streams.chunk(1, chunk(b"b"))
    assert streams.take(1).data == b"b"


def test_a_chunk_beyond_the_announced_size_is_refused() -> None:
    streams = IncomingStreams()
    streams.open(1, 3)
    streams.chunk(1, chunk(b"ab"))
    with pytest.raises(RemoteProtocolError, match="did not announce"):
        streams.chunk(1, chunk(b"cd"))


def test_a_chunk_of_a_stream_that_was_not_opened_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="stream 1"):
        IncomingStreams().chunk(1, chunk(b"a"))


@pytest.mark.parametrize("sent", [b"", b"a"])
def test_a_message_cannot_refer_to_an_incomplete_stream(sent: bytes) -> None:
    streams = IncomingStreams()
    streams.open(1, 2)
    streams.chunk(1, chunk(sent))
    with pytest.raises(RemoteProtocolError, match="not complete"):
        streams.take(1)


def test_a_message_cannot_refer_to_an_unknown_stream() -> None:
    with pytest.raises(RemoteProtocolError, match="stream 9"):
        IncomingStreams().take(9)


def test_a_payload_can_be_taken_once() -> None:
    streams = IncomingStreams()
    streams.open(1, 0)
    streams.take(1)
    with pytest.raises(RemoteProtocolError):
        streams.take(1)


def test_stream_zero_means_no_stream_and_cannot_be_opened() -> None:
    with pytest.raises(RemoteProtocolError, match="stream 0"):
        IncomingStreams().open(0, 1)


def test_a_stream_cannot_be_opened_twice() -> None:
    streams = IncomingStreams()
    streams.open(1, 1)
    with pytest.raises(RemoteProtocolError, match="stream 1"):
        streams.open(1, 1)


def test_a_payload_beyond_the_limit_is_refused_when_announced() -> None:
    streams = IncomingStreams(payload_max=10)
    streams.open(1, 10)
    with pytest.raises(RemoteProtocolError, match="11 bytes; 10"):
        streams.open(2, 11)


def test_so_many_streams_are_open_at_once_and_no_more() -> None:
    streams = IncomingStreams()
    for number in range(1, limits.STREAMS_MAX + 1):
        streams.open(number, 1)
    with pytest.raises(RemoteProtocolError):
        streams.open(limits.STREAMS_MAX + 1, 1)
    streams.abort(1)
    streams.open(limits.STREAMS_MAX + 1, 1)


def test_an_aborted_stream_is_forgotten_and_its_number_is_free() -> None:
    streams = IncomingStreams()
    streams.open(1, 2)
    streams.chunk(1, chunk(b"a"))
    streams.abort(1)
    with pytest.raises(RemoteProtocolError):
        streams.chunk(1, chunk(b"b"))
    streams.open(1, 1)
    streams.chunk(1, chunk(b"c"))
    assert streams.take(1).data == b"c"


def test_aborting_an_unknown_stream_is_no_fault() -> None:
    streams = IncomingStreams()
    streams.abort(5)
    streams.open(5, 0)
    assert streams.take(5).data == b""


def outgoing(size: int) -> OutgoingStream:
    return OutgoingStream(1, MemorySource(bytes(size)), Group([1], b""))


def test_chunks_are_as_large_as_allowed_and_end_with_the_payload() -> None:
    stream = outgoing(2 * limits.CHUNK_MAX + 5)
    sizes = []
    while stream.is_ready():
        sizes.append(len(stream.next_chunk()))
    assert sizes == [limits.CHUNK_MAX, limits.CHUNK_MAX, 5]
    assert stream.is_done()


def test_a_chunk_can_be_made_smaller() -> None:
    stream = outgoing(100)
    assert [len(stream.next_chunk(40)) for _ in range(3)] == [40, 40, 20]
    assert (stream.left(), stream.is_done()) == (0, True)


def test_chunks_together_are_the_payload() -> None:
    data = bytes(range(256)) * 8192
    stream = OutgoingStream(1, MemorySource(data), Group([1], b""))
    parts = []
    while not stream.is_done():
        parts.append(bytes(stream.next_chunk()))
    assert b"".join(parts) == data


def test_without_grant_no_more_than_a_window_goes_out() -> None:
    stream = outgoing(limits.STREAM_WINDOW + limits.CHUNK_MAX)
    sent = 0
    while stream.is_ready():
        sent += len(stream.next_chunk())
    assert sent == limits.STREAM_WINDOW
    assert not stream.is_done()
    assert len(stream.next_chunk()) == 0


def test_a_grant_lets_as_much_go_out() -> None:
    stream = outgoing(limits.STREAM_WINDOW + 100)
    while stream.is_ready():
        stream.next_chunk()
    stream.window += 30
    assert stream.is_ready()
    assert len(stream.next_chunk()) == 30
    assert not stream.is_ready()


def test_an_empty_payload_is_done_without_a_chunk() -> None:
    stream = outgoing(0)
    assert stream.is_done()
    assert not stream.is_ready()


def test_the_message_goes_with_the_stream_that_ends_last() -> None:
    group = Group([1, 2, 3], b"message")
    assert [group.stream_done() for _ in range(2)] == [None, None]
    assert not group.is_over()
    assert group.stream_done() == b"message"
    assert group.is_over()


def test_streams_that_are_given_up_are_over() -> None:
    group = Group([1, 2], b"message")
    group.give_up()
    assert group.is_over()
