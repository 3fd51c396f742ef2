"""Frames under every split, and under bytes that nobody honest would send."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from dispy.errors import RemoteProtocolError
from dispy.protocol import frames, limits
from dispy.protocol.frames import FrameReader
from dispy.protocol.streams import IncomingStreams

Frame = tuple[int, int, bytes]

BUFFER_MAX = limits.CONTROL_FRAME_MAX + limits.MIB
"""Beyond the largest frame a reader needs some room to read ahead, not more."""

sizes = st.one_of(
    st.integers(0, 64),
    st.integers(60_000, 70_000),
    st.integers(250 * limits.KIB, 260 * limits.KIB),
    st.just(limits.CHUNK_MAX),
)
streams = st.integers(0, (1 << 32) - 1)


def body(size: int, fill: int) -> bytes:
    """A body that is not the same read from another offset."""
    return (bytes([fill]) + bytes(range(251)) * (size // 251 + 1))[:size]


any_frame = st.one_of(
    st.builds(
        lambda kind, stream, size, fill: (kind, stream, body(size, fill)),
        st.sampled_from([frames.CONTROL, frames.CHUNK]),
        streams,
        sizes,
        st.integers(0, 255),
    ),
    st.tuples(st.just(frames.OPEN), streams, st.binary(min_size=8, max_size=8)),
    st.tuples(st.just(frames.GRANT), streams, st.binary(min_size=16, max_size=16)),
    st.tuples(st.sampled_from([frames.ABORT, frames.PING]), streams, st.just(b"")),
)


def feed(reader: FrameReader, data: memoryview) -> Iterator[Frame]:
    """Hand over all of ``data``; yields the frames that are complete by then."""
    while data:
        space = reader.writable()
        assert 0 < len(space) <= BUFFER_MAX
        count = min(len(space), len(data))
        space[:count] = data[:count]
        data = data[count:]
        reader.received(count)
        while (frame := reader.next_frame()) is not None:
            kind, stream, body = frame
            yield kind, stream, bytes(body)


@settings(deadline=None, max_examples=60)
@given(sent=st.lists(any_frame, max_size=8), data=st.data())
def test_frames_are_the_same_however_their_bytes_are_split(sent: list[Frame], data: st.DataObject) -> None:
    whole = b"".join(frames.header(kind, len(body), stream) + body for kind, stream, body in sent)
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=20).map(sorted), label="cuts")
    seen: list[Frame] = []
    reader = FrameReader()
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        seen += feed(reader, memoryview(whole)[start:end])
    assert seen == sent


@settings(deadline=None, max_examples=60)
@given(sent=st.lists(any_frame, max_size=8), data=st.data())
def test_chunks_are_the_same_wherever_they_are_received(sent: list[Frame], data: st.DataObject) -> None:
    """Those of even streams in memory of their own, if that is worth it."""
    whole = b"".join(frames.header(kind, len(body), stream) + body for kind, stream, body in sent)
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=20).map(sorted), label="cuts")
    seen: list[Frame] = []

    def find_room(stream: int, length: int) -> memoryview | None:
        return None if stream % 2 else memoryview(bytearray(length))

    reader = FrameReader(find_room=find_room)
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        for kind, stream, body in feed(reader, memoryview(whole)[start:end]):
            assert kind != frames.PLACED or stream % 2 == 0
            seen.append((frames.CHUNK if kind == frames.PLACED else kind, stream, body))
    assert seen == sent


near_headers = st.builds(
    lambda kind, padding, stream, length: struct.pack(">B3sIQ", kind, padding, stream, length),
    st.integers(0, 8),
    st.binary(min_size=3, max_size=3),
    streams,
    st.one_of(st.integers(0, 40), st.integers(0, (1 << 64) - 1)),
)


@settings(deadline=None, max_examples=200)
@given(parts=st.lists(st.one_of(st.binary(max_size=64), near_headers), max_size=20))
def test_whatever_arrives_is_frames_within_their_limits_or_refused(parts: list[bytes]) -> None:
    handed_on = 0
    reader = FrameReader()
    try:
        for part in parts:
            for kind, _stream, body in feed(reader, memoryview(part)):
                handed_on += frames.HEADER_SIZE + len(body)
                assert kind in range(frames.CONTROL, frames.PING + 1)
                assert len(body) <= limits.CONTROL_FRAME_MAX
    except RemoteProtocolError:
        pass
    assert handed_on <= sum(map(len, parts))


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=2000))
def test_a_stranger_makes_a_reader_hold_no_more_than_a_small_frame(data: bytes) -> None:
    reader = FrameReader(limits.HANDSHAKE_FRAME_MAX)
    reader.streams_allowed = False
    usual = len(reader.writable())
    try:
        list(feed(reader, memoryview(data)))
    except RemoteProtocolError:
        return
    assert len(reader.writable()) <= usual


steps = st.one_of(
    st.tuples(st.just("open"), st.integers(0, 3), st.integers(0, 120)),
    st.tuples(st.just("chunk"), st.integers(0, 3), st.integers(0, 60)),
    st.tuples(st.just("abort"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("take"), st.integers(0, 3), st.just(0)),
)


@settings(deadline=None, max_examples=200)
@given(done=st.lists(steps, max_size=40))
def test_streams_hand_out_what_was_sent_and_refuse_the_rest(done: list[tuple[str, int, int]]) -> None:
    incoming = IncomingStreams(payload_max=100)
    announced: dict[int, int] = {}
    sent: dict[int, bytes] = {}
    for index, (step, number, size) in enumerate(done):
        data = body(size, index)
        try:
            if step == "open":
                allowed = number != 0 and number not in announced and size <= 100
                incoming.open(number, size)
                announced[number], sent[number] = size, b""
            elif step == "chunk":
                allowed = number in announced and len(sent[number]) + size <= announced[number]
                incoming.chunk(number, memoryview(data))
                sent[number] += data
            elif step == "abort":
                allowed = True
                incoming.abort(number)
                announced.pop(number, None)
            else:
                allowed = number in announced and len(sent[number]) == announced[number]
                assert incoming.take(number).data == sent[number]
                del announced[number]
        except RemoteProtocolError:
            assert not allowed
        else:
            assert allowed
