"""The checker sees each promise that is broken on purpose; and a short storm breaks none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dispy import DispyJob

from .checker import Story, check

FINISHED, TERMINATED, CANCELLED = DispyJob.Finished, DispyJob.Terminated, DispyJob.Cancelled


def good() -> Story:
    """Jobs 1 (may run again) and 2 finish, 3 is cancelled, 4 belonged to a program that was killed."""
    return Story(
        submitted={1: True, 2: False, 3: False, 4: False, 5: False},
        cancelled={3},
        told=[(1, FINISHED, True), (2, FINISHED, True), (3, CANCELLED, True), (5, TERMINATED, True)],
        started=[1, 1, 2, 4, 5],
        finished=[1, 1, 2],
        lost={4},
    )


def test_nothing_is_wrong() -> None:
    assert not check(good())


@pytest.mark.parametrize(("change", "what"), [
    (lambda story: story.told.remove((2, FINISHED, True)), "a job has no final status"),
    (lambda story: story.lost.remove(4), "a job has no final status"),
    (lambda story: story.told.append((2, FINISHED, True)), "a final status is told twice"),
    (lambda story: story.started.append(2), "a job that must not is run twice"),
    (lambda story: story.told.append((9, FINISHED, True)), "an end is told of a job that nobody submitted"),
    (lambda story: story.started.append(9), "a job runs that nobody submitted"),
    (lambda story: story.told.__setitem__(1, (2, FINISHED, False)), "a result is wrong"),
    (lambda story: story.finished.remove(2), "a job is told as finished and is not"),
    (lambda story: story.told.__setitem__(1, (2, CANCELLED, True)), "a job is told as cancelled, and nobody asked"),
    (lambda story: story.told.__setitem__(1, (2, DispyJob.Running, True)), "a job's last status is not final"),
    (lambda story: story.told.__setitem__(0, (1, TERMINATED, True)), "a job that may run again is given up"),
])  # fmt: skip
def test_each_broken_promise_is_seen(change: Callable[[Story], object], what: str) -> None:
    story = good()
    change(story)
    assert {found: len(numbers) for found, numbers in check(story).items()} == {what: 1}


def test_a_short_storm(tmp_path: Path) -> None:
    # Imported here: it takes the helpers of the integration tests, and those are many.
    from .storm import run

    # So many faults, however slow the machine is.
    outcome = run(tmp_path, seed=5, seconds=20, faults=10, nodes=2, programs=1)
    assert outcome.faults.total() > 3
    assert outcome.jobs > 20
    assert not outcome.broken, outcome.notes
