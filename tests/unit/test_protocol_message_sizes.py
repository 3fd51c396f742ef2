"""Lists of jobs and results in messages: by number and by bytes, whatever each of them has."""

from __future__ import annotations

from itertools import pairwise

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from dispy.protocol.limits import BATCH_MAX, BATCH_SIZE_MAX, CONTROL_FRAME_MAX, INLINE_MAX, REASON_MAX
from dispy.protocol.message_sizes import cut, sizes_of
from dispy.protocol.node import TERMINATED, Ended, Job, JobsEnded, RunJobs, Segment

encode = msgspec.msgpack.Encoder().encode

MOST = 1 << 62
FIXED_MAX = 128
"""Bytes of a job in a message besides those that vary, as ``BATCH_SIZE_MAX`` says."""


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 50, 6800, INLINE_MAX - 1, 1 << 40]), st.integers(0, 5000)))
)
@example([(0, BATCH_MAX), (1, 1)])
@example([(INLINE_MAX, BATCH_SIZE_MAX // INLINE_MAX), (1, 1)])
@example([(1 << 40, 2)])
def test_parts_are_whole_in_order_and_no_larger_than_they_may_be(runs: list[tuple[int, int]]) -> None:
    sizes = [size for size, count in runs for _ in range(count)]
    items = list(range(len(sizes)))
    parts = cut(items, sizes)
    assert [item for part in parts for item in part] == items
    for part in parts:
        assert 0 < len(part) <= BATCH_MAX
        assert len(part) == 1 or sum(sizes[item] for item in part) <= BATCH_SIZE_MAX
    for part, following in pairwise(parts):
        is_full = sum(sizes[item] for item in part) + sizes[following[0]] > BATCH_SIZE_MAX
        assert len(part) == BATCH_MAX or is_full, "one message would have done"


def test_a_message_of_the_largest_parts_fits_a_frame() -> None:
    """With the highest numbers that there can be."""
    job = Job(MOST, 1 << 31, b"x", Segment(MOST, True))
    assert len(encode(job)) + len(encode(MOST)) <= 1 + FIXED_MAX
    ended = Ended(
        MOST, 1 << 31, TERMINATED, 1e9, 1e9, b"x", MOST, "😀", b"x", b"x", MOST, MOST, False, MOST, True
    )
    ended.job_id, ended.checksum = b"x", (1 << 32) - 1
    assert len(encode(ended)) <= sizes_of([ended])[0] + FIXED_MAX
    assert BATCH_SIZE_MAX + BATCH_MAX * FIXED_MAX + 100 <= CONTROL_FRAME_MAX
    single = Ended(
        1,
        0,
        TERMINATED,
        1.0,
        2.0,
        bytes(INLINE_MAX),
        0,
        "😀" * REASON_MAX,
        bytes(INLINE_MAX),
        bytes(INLINE_MAX),
    )
    assert len(encode(JobsEnded(1, 1, [single]))) <= CONTROL_FRAME_MAX
    assert (
        len(encode(RunJobs(1, [job] * BATCH_MAX, [MOST] * BATCH_MAX))) <= BATCH_MAX * (1 + FIXED_MAX) + 100
    )
