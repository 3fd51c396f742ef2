"""What jobs left behind, compared with what programs were told: whatever was promised must be true.

Everything here is plain data, so that tests can break each promise on purpose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from dispy import DispyJob

FINAL = {DispyJob.Cancelled, DispyJob.Terminated, DispyJob.Abandoned, DispyJob.Finished}


@dataclass(slots=True)
class Story:
    """All that is known at the end.

    Attributes:
        submitted: For each job, by number, whether it may run again ("reentrant").
        cancelled: Jobs that their program cancelled.
        told: Final statuses as programs were told them, and whether the result was right.
        started: Jobs whose function began, once for each time.
        finished: Jobs whose function came to its end, once for each time.
        lost: Jobs of programs that were killed: nobody is left to be told of them.
        forgotten: Jobs told as abandoned since the shared scheduler, which was killed, was started anew.
    """

    submitted: dict[int, bool] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)
    told: list[tuple[int, int, bool]] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    forgotten: set[int] = field(default_factory=set)


def check(story: Story) -> dict[str, list[int]]:
    """Promises that were broken, and the jobs concerned; empty if none was."""
    broken: dict[str, list[int]] = {}

    def note(what: str, number: int) -> None:
        broken.setdefault(what, []).append(number)

    endings = Counter(number for number, _, _ in story.told)
    starts = Counter(story.started)
    finished = set(story.finished)
    for number, is_reentrant in story.submitted.items():
        if not endings[number] and number not in story.lost:
            note("a job has no final status", number)
        if endings[number] > 1:
            note("a final status is told twice", number)
        if starts[number] > 1 and not is_reentrant:
            note("a job that must not is run twice", number)
    for number, status, is_right in story.told:
        if number not in story.submitted:
            note("an end is told of a job that nobody submitted", number)
            continue
        for what in _faults_of_end(story, number, status, is_right, number in finished):
            note(what, number)
    for number in starts:
        if number not in story.submitted:
            note("a job runs that nobody submitted", number)
    return broken


def _faults_of_end(
    story: Story, number: int, status: int, is_right: bool, has_finished: bool
) -> Iterable[str]:
    if status not in FINAL:
        yield "a job's last status is not final"
    if status == DispyJob.Finished and not is_right:
        yield "a result is wrong"
    if status == DispyJob.Finished and not has_finished:
        yield "a job is told as finished and is not"
    if status == DispyJob.Cancelled and number not in story.cancelled:
        yield "a job is told as cancelled, and nobody asked"
    is_excused = number in story.cancelled or (number in story.forgotten and status == DispyJob.Abandoned)
    if story.submitted[number] and not is_excused and status != DispyJob.Finished:
        yield "a job that may run again is given up"
