"""What daemon, host and worker of a node say to each other."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispy.protocol import limits, worker
from dispy.protocol.node import FINISHED, TERMINATED, Ended, FilePart, Job, Segment
from dispy.protocol.worker import claim, pack_ran, split_claim, unpack_ran

encode = msgspec.msgpack.Encoder().encode

LOAD = worker.Load("compute", "/code", "/work", "/segments", "host", "127.0.0.1", True, 5)
TO_HOST: list[Any] = [LOAD, worker.Fork(1, 2), worker.Interrupt(1), worker.Kill(1), worker.Unbuffer(1)]
FROM_HOST: list[Any] = [
    worker.Loaded("a thread is alive"),
    worker.LoadFailed("no such module"),
    worker.WorkerStarted(1, 4711),
    worker.WorkerExited(1, -9),
    worker.SettingUp(),
]
RESULTS = [
    Ended(1, 0, FINISHED, 1.0, 2.0, b"value"),
    Ended(2, 1, TERMINATED, 2.0, 3.0, b"error", 0, "ZeroDivisionError", b"out", b"err"),
    Ended(3, 0, FINISHED, 3.0, 3.0, b"", 8),
]


def packet(results: list[Ended], flags: int = 0, executed: int = 0, record: int = 0) -> bytearray:
    """A packet as a worker makes it: results one behind the other, the head filled in at last."""
    buffer = bytearray(worker.ARENA_HEAD)
    for result in results:
        buffer += encode(result)
    pack_ran(buffer, 0, flags, executed, record, len(results))
    return buffer


@pytest.mark.parametrize("message", TO_HOST, ids=lambda message: type(message).__name__)
def test_a_message_to_a_host_arrives_as_it_was_sent(message: Any) -> None:
    assert worker.to_host_decoder.decode(encode(message)) == message


@pytest.mark.parametrize("message", FROM_HOST, ids=lambda message: type(message).__name__)
def test_a_message_from_a_host_arrives_as_it_was_sent(message: Any) -> None:
    assert worker.from_host_decoder.decode(encode(message)) == message


def test_every_message_is_among_these_examples() -> None:
    assert {*map(type, TO_HOST)} == {*get_args(worker.ToHost)}
    assert {*map(type, FROM_HOST)} == {*get_args(worker.FromHost)}


def test_a_record_arrives_as_it_was_sent() -> None:
    record = worker.Record(3, [Job(1, 0, b"call"), Job(2, 1, b"", Segment(7))], True)
    assert worker.record_decoder.decode(encode(record)) == record


@pytest.mark.parametrize("reason", ["", "LookupError: \xe4", "\udc80", "x" * (limits.REASON_MAX + 10)])
def test_how_the_setup_of_a_worker_went_arrives(reason: str) -> None:
    packet = worker.pack_set_up(reason)
    assert packet[0] == worker.SET_UP
    broken = worker.pack_broken(reason)
    assert broken[0] == worker.BROKEN
    assert broken[1:] == packet[1:]
    assert len(packet) < worker.PACKET_MAX
    assert worker.unpack_set_up(memoryview(packet)) == reason[: limits.REASON_MAX].replace("\udc80", "?")


def test_a_provisional_value_and_its_acknowledgement_arrive_as_they_were_sent() -> None:
    value = worker.ProvisionalValue(1, 2, 3, b"value", 4)
    assert worker.provisional_decoder.decode(encode(value)) == value
    part = worker.ProvisionalValue(1, 2, 3, b"part", 4, FilePart(6, "a/b", 7, 0o644, 8, 9, 10))
    assert worker.provisional_decoder.decode(encode(part)) == part
    acknowledged = worker.SentAcknowledged(1, 2, 3, False, "the disk is full")
    assert worker.acknowledged_decoder.decode(encode(acknowledged)) == acknowledged


@pytest.mark.parametrize(
    ("decoder", "raw"),
    [
        (worker.record_decoder, [1, [[0, 0, b""]] * (worker.RECORD_JOBS_MAX + 1)]),
        (worker.record_decoder, [-1, []]),
        (worker.record_decoder, [1, [[0, 0, bytes(limits.INLINE_MAX + 1)]]]),
        (worker.provisional_decoder, [1, 2, 3, bytes(limits.INLINE_MAX + 1)]),
        (worker.provisional_decoder, [1, 2, -3, b""]),
        (worker.acknowledged_decoder, [1, 2]),
        (worker.to_host_decoder, [2, -1, 0]),
        (worker.to_host_decoder, [32, ""]),
        (worker.from_host_decoder, [34, 1, -1]),
        (worker.from_host_decoder, [33, "r" * (limits.REASON_MAX + 1)]),
        (worker.from_host_decoder, [2, 1, 1]),
        (worker.ended_decoder, [[1, 0, 7, 0.0, 0.0, b""]]),
    ],
    ids=[
        "too many jobs", "record negative", "call too large", "value too large", "serial negative",
        "too few fields", "worker negative", "said by hosts only", "pid negative", "reason too long",
        "said by daemons only", "status not final",
    ],
)  # fmt: skip
def test_what_is_beyond_its_limits_is_refused(decoder: msgspec.msgpack.Decoder[Any], raw: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(encode(raw))


@pytest.mark.parametrize("results", [[], RESULTS[:1], RESULTS], ids=["none", "one", "several"])
def test_results_packed_one_behind_the_other_are_unpacked_as_a_list(results: list[Ended]) -> None:
    data = packet(results, worker.LAST_OF_RECORD | worker.RETIRING, 17, (1 << 62) - 1)
    assert unpack_ran(memoryview(data)) == (3, 17, (1 << 62) - 1, results)


def test_a_packet_of_results_says_what_it_is() -> None:
    assert packet(RESULTS)[0] == worker.RAN
    assert worker.RAN != worker.PROVISIONAL


def test_the_head_of_a_packet_can_be_filled_in_where_it_lies() -> None:
    data = packet(RESULTS)
    arena = bytearray(100) + data
    arena[100 : 100 + worker.ARENA_HEAD] = bytes(worker.ARENA_HEAD)
    pack_ran(arena, 100, 0, 2, 9, len(RESULTS))
    assert unpack_ran(memoryview(arena)[100:]) == (0, 2, 9, RESULTS)
    assert arena[:100] == bytes(100)


def test_a_count_that_is_not_that_of_the_results_is_refused() -> None:
    for count in (len(RESULTS) - 1, len(RESULTS) + 1):
        data = packet(RESULTS)
        pack_ran(data, 0, 0, 0, 0, count)
        with pytest.raises(msgspec.DecodeError):
            unpack_ran(memoryview(data))


def test_every_job_of_the_largest_record_has_room_in_the_executed_count() -> None:
    data = packet([], executed=worker.RECORD_JOBS_MAX)
    assert unpack_ran(memoryview(data))[1] == worker.RECORD_JOBS_MAX


@given(record=st.integers(0, (1 << 47) - 1), index=st.integers(0, (1 << 16) - 1))
def test_a_claim_is_split_into_what_it_was_made_of(record: int, index: int) -> None:
    assert split_claim(claim(record, index)) == (record, index)
    assert claim(record, index) < 1 << 63


@given(
    st.tuples(st.integers(0, 1 << 40), st.integers(0, worker.RECORD_JOBS_MAX)),
    st.tuples(st.integers(0, 1 << 40), st.integers(0, worker.RECORD_JOBS_MAX)),
)
def test_claims_grow_with_record_and_index(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (claim(*one) < claim(*other)) == (one < other)


def test_a_slot_holds_its_words_and_its_arena() -> None:
    words = [
        worker.SLOT_CLAIM, worker.SLOT_LIMIT, worker.SLOT_INTERRUPT, worker.SLOT_COMMITTED, worker.SLOT_COUNT,
        worker.SLOT_START,
    ]  # fmt: skip
    assert len(set(words)) == len(words)
    assert max(words) < worker.SLOT_WORDS
    assert worker.SLOT_SIZE == worker.SLOT_WORDS * 8 + worker.ARENA_SIZE


def test_a_packet_about_to_go_out_has_room_for_one_more_inline_result() -> None:
    largest = Ended(
        1 << 62,
        1 << 31,
        FINISHED,
        0.0,
        0.0,
        bytes(limits.INLINE_MAX),
        1 << 62,
        "",
        b"",
        b"",
        1 << 62,
        1 << 62,
    )
    assert worker.ARENA_FLUSH + len(encode(largest)) + worker.ARENA_HEAD <= worker.PACKET_MAX


def test_the_largest_record_fits_a_packet() -> None:
    record = worker.Record(
        1 << 62, [Job(1 << 62, 1 << 31, b"", Segment(1 << 62, True))] * worker.RECORD_JOBS_MAX
    )
    assert len(encode(record)) + worker.RECORD_BYTES_MAX <= worker.PACKET_MAX
