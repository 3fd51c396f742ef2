"""Run times: a high quantile that is never too low, and that follows what changes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispy.core.run_times import RunTimes

SECOND_US = 1_000_000
DAY_US = 86400 * SECOND_US


def after(*durations: list[int]) -> RunTimes:
    times = RunTimes()
    for batch in durations:
        times.add(batch)
    return times


def test_without_samples_it_is_zero() -> None:
    assert RunTimes().high_us() == 0
    assert after([]).high_us() == 0


@settings(deadline=None, max_examples=200)
@given(st.lists(st.one_of(st.integers(0, 5000), st.integers(0, 30 * DAY_US)), min_size=1, max_size=1000))
def test_at_most_one_job_in_a_hundred_runs_longer(durations: list[int]) -> None:
    high = after(durations).high_us()
    assert sum(duration > high for duration in durations) <= len(durations) / 100


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 30 * DAY_US), min_size=1, max_size=1000))
def test_it_is_at_most_twice_the_longest_job(durations: list[int]) -> None:
    assert after(durations).high_us() <= 2 * max(durations)


@pytest.mark.parametrize("duration", [1, 2, 3, 1000, 1023, 1024, SECOND_US, DAY_US])
def test_a_single_job_is_not_longer_than_it(duration: int) -> None:
    assert duration <= after([duration]).high_us() <= 2 * duration


def test_it_is_not_lowered_by_many_short_jobs_as_long_as_two_in_a_hundred_are_long() -> None:
    assert after([1] * 980 + [SECOND_US] * 20).high_us() >= SECOND_US


def test_one_long_job_in_two_hundred_does_not_count() -> None:
    assert after([1] * 199 + [SECOND_US]).high_us() < 10


def test_the_order_of_durations_does_not_matter() -> None:
    durations = [1] * 90 + [SECOND_US] * 10
    assert after(durations).high_us() == after(durations[::-1]).high_us()
    assert after(durations).high_us() == after(*[[duration] for duration in durations]).high_us()


def test_samples_are_counted() -> None:
    assert after([1, 2], [3]).samples == 3


def test_negative_durations_count_as_none() -> None:
    times = after([-1, -DAY_US, 0])
    assert times.samples == 3
    assert times.high_us() <= 1


def test_samples_stay_bounded() -> None:
    times = RunTimes()
    for _ in range(100):
        times.add([5] * 1000)
        assert times.samples <= 3100


def test_halving_keeps_the_quantile() -> None:
    times = after([10] * 950 + [SECOND_US] * 50, [10] * 950 + [SECOND_US] * 50)
    before = times.high_us()
    times.add([10] * 95 + [SECOND_US] * 5)
    assert times.samples < 2000
    assert times.high_us() == before


def test_a_function_that_turns_slow_is_noticed_soon() -> None:
    times = RunTimes()
    for _ in range(20):
        times.add([10] * 1000)
    times.add([SECOND_US] * 50)
    assert times.high_us() >= SECOND_US


def test_a_function_that_turns_fast_is_noticed() -> None:
    times = after([SECOND_US] * 2000)
    for _ in range(20):
        times.add([10] * 1000)
    assert times.high_us() < 100


def test_a_clock_that_was_set_forward_does_no_harm() -> None:
    times = after([1] * 10)
    times.add([56 * 365 * DAY_US])  # from the epoch, where clocks without a battery start, to the present
    assert times.samples == 11


def test_the_mean_counts_where_few_jobs_are_long() -> None:
    assert after([100] * 995 + [5000] * 5).expected_us(most_us=4000) == (995 * 100 + 5 * 5000) // 1000


def test_the_high_quantile_counts_where_more_are_long() -> None:
    times = after([100] * 980 + [5000] * 20)
    assert times.expected_us(most_us=4000) == times.high_us() >= 5000


def test_something_is_expected_without_samples_and_of_jobs_that_take_no_time() -> None:
    assert RunTimes().expected_us(4000) == 1
    assert after([0, 0]).expected_us(4000) == 1


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(st.integers(-5, 3000), max_size=500), max_size=30))
def test_the_mean_stays_between_the_shortest_and_the_longest(batches: list[list[int]]) -> None:
    times = after(*batches)
    everything = [max(0, duration) for batch in batches for duration in batch] or [0]
    assert max(1, min(everything)) - 1 <= times.expected_us(10**9) <= max(1, max(everything))
