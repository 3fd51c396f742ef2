"""Frames: cut out of a byte stream whole and in order, or refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import pytest

from dispy.errors import RemoteProtocolError
from dispy.protocol import frames, limits
from dispy.protocol.frames import FrameReader

Frame = tuple[int, int, bytes]

EVERY_KIND: list[Frame] = [
    (frames.CONTROL, 0, b"message"),
    (frames.OPEN, 7, (1 << 40).to_bytes(8, "big")),
    (frames.CHUNK, 7, bytes(range(256))),
    (frames.GRANT, 7, (1 << 20).to_bytes(8, "big") + (1 << 50).to_bytes(8, "big")),
    (frames.ABORT, 7, b""),
    (frames.PING, 0, b""),
]
KINDS = ["control", "open", "chunk", "grant", "abort", "ping"]


def encode(frame: Frame) -> bytes:
    kind, stream, body = frame
    return frames.header(kind, len(body), stream) + body


def frames_of(reader: FrameReader) -> Iterator[Frame]:
    """All frames that are complete."""
    while (frame := reader.next_frame()) is not None:
        kind, stream, body = frame
        yield kind, stream, bytes(body)


class Collector:
    """A reader that remembers what it was handed."""

    def __init__(self, control_max: int = limits.CONTROL_FRAME_MAX) -> None:
        self.frames: list[Frame] = []
        self.reader = FrameReader(control_max)

    def feed(self, data: bytes) -> None:
        """Hand over all of ``data``, in as many steps as the reader's buffer takes."""
        view = memoryview(data)
        while view:
            space = self.reader.writable()
            count = min(len(space), len(view))
            space[:count] = view[:count]
            view = view[count:]
            self.reader.received(count)
            self.frames += frames_of(self.reader)

    def feed_each(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            self.feed(part)


@pytest.mark.parametrize("frame", EVERY_KIND, ids=KINDS)
def test_a_whole_frame_is_handed_on(frame: Frame) -> None:
    collector = Collector()
    collector.feed(encode(frame))
    assert collector.frames == [frame]


@pytest.mark.parametrize("frame", EVERY_KIND, ids=KINDS)
def test_a_frame_that_comes_byte_by_byte_is_handed_on_with_its_last_byte(frame: Frame) -> None:
    collector = Collector()
    data = encode(frame)
    for index in range(len(data)):
        assert collector.frames == []
        collector.feed(data[index : index + 1])
    assert collector.frames == [frame]


@pytest.mark.parametrize("frame", EVERY_KIND, ids=KINDS)
def test_a_truncated_frame_is_never_handed_on(frame: Frame) -> None:
    collector = Collector()
    collector.feed(encode(frame)[:-1])
    assert collector.frames == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_frames_that_arrive_together_are_handed_on_in_order(order: tuple[int, ...]) -> None:
    collector = Collector()
    wanted = [EVERY_KIND[index] for index in order]
    collector.feed(b"".join(map(encode, wanted)))
    assert collector.frames == wanted


@pytest.mark.parametrize("kind", [0, 7, 8, 127, 255])
def test_an_unknown_kind_is_refused_before_its_body(kind: int) -> None:
    collector = Collector()
    with pytest.raises(RemoteProtocolError, match=f"kind {kind}"):
        collector.feed(frames.header(kind, 1))


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        (frames.CONTROL, limits.CONTROL_FRAME_MAX),
        (frames.CHUNK, limits.CHUNK_MAX),
        (frames.OPEN, 8),
        (frames.GRANT, 16),
        (frames.ABORT, 0),
        (frames.PING, 0),
    ],
    ids=["control", "chunk", "open", "grant", "abort", "ping"],
)
@pytest.mark.parametrize("excess", [1, (1 << 64) - 1])
def test_an_oversized_frame_is_refused_by_its_header(kind: int, limit: int, excess: int) -> None:
    collector = Collector()
    with pytest.raises(RemoteProtocolError, match="bytes"):
        collector.feed(frames.header(kind, min(limit + excess, (1 << 64) - 1)))


def test_the_largest_frames_allowed_are_accepted() -> None:
    collector = Collector()
    control = (frames.CONTROL, 0, bytes(limits.CONTROL_FRAME_MAX))
    chunk = (frames.CHUNK, 1, bytes(limits.CHUNK_MAX))
    collector.feed(encode(control) + encode(chunk))
    assert collector.frames == [control, chunk]


def test_frames_before_a_refused_one_are_handed_on() -> None:
    collector = Collector()
    with pytest.raises(RemoteProtocolError):
        collector.feed(encode(EVERY_KIND[0]) + frames.header(99, 0))
    assert collector.frames == [EVERY_KIND[0]]


def test_a_reader_with_a_smaller_limit_refuses_what_is_beyond_it() -> None:
    collector = Collector(control_max=512)
    collector.feed(encode((frames.CONTROL, 0, bytes(512))))
    with pytest.raises(RemoteProtocolError, match="513"):
        collector.feed(frames.header(frames.CONTROL, 513))


def test_a_reader_that_is_widened_takes_large_frames_and_streams() -> None:
    collector = Collector(control_max=512)
    assert len(collector.reader.writable()) <= 1024
    collector.feed(encode((frames.CONTROL, 0, b"a")))
    collector.reader.widen()
    collector.feed(encode((frames.CONTROL, 0, bytes(100_000))) + encode((frames.CHUNK, 1, bytes(70_000))))
    assert [len(body) for _, _, body in collector.frames] == [1, 100_000, 70_000]
    assert len(collector.reader.writable()) > 64 * 1024


def test_a_limit_raised_by_a_frame_holds_for_one_that_came_with_it() -> None:
    seen = []
    reader = FrameReader(512)
    data = encode((frames.CONTROL, 0, b"a")) + encode((frames.CONTROL, 0, bytes(600)))
    reader.writable()[: len(data)] = data
    reader.received(len(data))
    for _, _, body in frames_of(reader):
        seen.append(len(body))
        reader.widen()
    assert seen == [1, 600]


@pytest.mark.parametrize("frame", EVERY_KIND[1:], ids=KINDS[1:])
def test_before_the_proof_only_control_frames_are_accepted(frame: Frame) -> None:
    collector = Collector()
    collector.reader.streams_allowed = False
    collector.feed(encode(EVERY_KIND[0]))
    with pytest.raises(RemoteProtocolError, match="kind"):
        collector.feed(encode(frame))
    assert collector.frames == [EVERY_KIND[0]]


def test_the_buffer_grows_for_a_large_frame_and_shrinks_after_it() -> None:
    collector = Collector()
    usual = len(collector.reader.writable())
    size = 4 * usual
    collector.feed(frames.header(frames.CONTROL, size) + bytes(size - 1))
    assert len(collector.reader.writable()) > 0
    collector.feed(b"\1")
    assert collector.frames == [(frames.CONTROL, 0, bytes(size - 1) + b"\1")]
    assert len(collector.reader.writable()) == usual


def test_there_is_always_room_for_more() -> None:
    collector = Collector()
    body = bytes(1000)
    data = encode((frames.CHUNK, 1, body)) * 600
    for start in range(0, len(data), 777):
        assert len(collector.reader.writable()) > 0
        collector.feed(data[start : start + 777])
    assert collector.frames == [(frames.CHUNK, 1, body)] * 600


def test_a_body_is_a_view_of_the_buffer_and_no_copy() -> None:
    reader = FrameReader()
    data = encode((frames.CONTROL, 0, b"before"))
    space = reader.writable()
    space[: len(data)] = data
    reader.received(len(data))
    frame = reader.next_frame()
    assert frame is not None
    space[frames.HEADER_SIZE : len(data)] = b"after!"
    assert bytes(frame[2]) == b"after!"


@pytest.mark.parametrize("value", [0, 1, limits.PAYLOAD_MAX, (1 << 64) - 1])
def test_an_open_frame_carries_a_length_and_a_grant_two_numbers(value: int) -> None:
    collector = Collector()
    collector.feed(frames.open_frame(3, value) + frames.grant_frame(4, value, 7))
    (kind, stream, body), (other_kind, other_stream, other_body) = collector.frames
    assert (kind, stream, frames.read_open(memoryview(body))) == (frames.OPEN, 3, value)
    assert (other_kind, other_stream) == (frames.GRANT, 4)
    assert frames.read_grant(memoryview(other_body)) == (value, 7)


@pytest.mark.parametrize("size", [0, 1, 7, 9, 15])
def test_a_length_or_a_grant_of_another_size_is_refused(size: int) -> None:
    for read in (frames.read_open, frames.read_grant):
        with pytest.raises(RemoteProtocolError, match=f"{size} bytes"):
            read(memoryview(bytes(size)))


class Rooms:
    """A reader that receives chunks of stream 1 where they belong; others, and small ones, it copies."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.memory = memoryview(bytearray(2 * limits.CHUNK_MAX))
        self.taken = 0
        self.reader = FrameReader(find_room=self._find_room)

    def _find_room(self, stream: int, length: int) -> memoryview | None:
        if stream != 1:
            return None
        self.taken += length
        return self.memory[self.taken - length : self.taken]

    def feed(self, data: bytes, step: int) -> None:
        view = memoryview(data)
        while view:
            space = self.reader.writable()
            count = min(len(space), len(view), step)
            space[:count] = view[:count]
            view = view[count:]
            self.reader.received(count)
            self.frames += frames_of(self.reader)


BODY = bytes(range(256)) * 400


@pytest.mark.parametrize("step", [1000, 65_536, 1 << 20])
def test_a_large_chunk_is_received_where_it_belongs(step: int) -> None:
    rooms = Rooms()
    message = (frames.CONTROL, 0, b"message")
    rooms.feed(encode((frames.CHUNK, 1, BODY)) + encode(message) + encode((frames.CHUNK, 1, BODY)), step)
    kinds = [(kind, stream) for kind, stream, _ in rooms.frames if kind != frames.CONTROL]
    # One that was there whole when its header was read needs no room.
    assert kinds == [(frames.CHUNK if step > len(BODY) else frames.PLACED, 1)] * 2 or step == 1 << 20
    assert [body for kind, _, body in rooms.frames if kind != frames.CONTROL] == [BODY, BODY]
    assert rooms.frames[1] == message
    placed = sum(kind == frames.PLACED for kind, _, _ in rooms.frames)
    assert bytes(rooms.memory[: rooms.taken]) == BODY * placed


def test_a_chunk_without_room_or_with_little_missing_is_copied() -> None:
    rooms = Rooms()
    rooms.feed(encode((frames.CHUNK, 2, BODY)) + encode((frames.CHUNK, 1, BODY[:30_000])), 1000)
    assert rooms.frames == [(frames.CHUNK, 2, BODY), (frames.CHUNK, 1, BODY[:30_000])]
    assert rooms.taken == 0


def test_after_a_chunk_that_was_placed_little_is_read_that_would_have_to_be_copied() -> None:
    rooms = Rooms()
    usual = len(rooms.reader.writable())
    rooms.feed(encode((frames.CHUNK, 1, BODY)), 50_000)
    assert len(rooms.reader.writable()) < usual / 8
    rooms.feed(encode((frames.CONTROL, 0, b"message")), 50_000)
    assert len(rooms.reader.writable()) == usual


def test_a_reader_that_is_closed_lets_go_of_memory_that_is_not_its_own() -> None:
    memory = bytearray(len(BODY))
    reader = FrameReader(find_room=lambda _stream, length: memoryview(memory)[:length])
    data = encode((frames.CHUNK, 1, BODY))[:100]
    reader.writable()[: len(data)] = data
    reader.received(len(data))
    assert reader.next_frame() is None
    with pytest.raises(BufferError):
        memory.append(0)
    reader.close()
    memory.append(0)


def test_a_ping_is_a_header_and_nothing_else() -> None:
    collector = Collector()
    collector.feed(frames.PING_FRAME)
    assert collector.frames == [(frames.PING, 0, b"")]
    assert len(frames.PING_FRAME) == frames.HEADER_SIZE
