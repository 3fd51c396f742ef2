"""What became of the jobs of a dead program, by what its nodes say."""

from __future__ import annotations

import pytest

from dispy.core.recovery import Fate, Judge, PlaceStatus, Recovery
from dispy.protocol.batches import Arrived
from dispy.protocol.limits import BATCH_MAX
from dispy.protocol.node import (
    ABANDONED,
    FINISHED,
    Attempt,
    CancelJobs,
    Detach,
    Ended,
    Held,
    HeldJobs,
    JobsEnded,
    JobsReturned,
    Recover,
    Welcome,
)

A, B, OTHER = b"a" * 16, b"b" * 16, b"o" * 16
C = 7
"""The computation."""


def welcome(node: bytes, *, known: bool = True, before: list[bytes] | None = None) -> Welcome:
    return Welcome(node, "node", 1, "Linux", known, before=before or [])


def ended(number: int, attempt: int = 0) -> Ended:
    return Ended(number, attempt, FINISHED, 1.0, 2.0, b"result")


def held(open_jobs: list[int], batches: list[int], lost: list[int] = [], *, gaps: bool = False) -> Held:  # noqa: B006
    def jobs(numbers: list[int]) -> list[HeldJobs]:
        return [HeldJobs(C, [Attempt(number, 0) for number in numbers])] if numbers else []

    return Held(jobs(open_jobs), batches, jobs(lost), gaps)


def came(*batches: int) -> Arrived:
    """Batches that have arrived before the node said what it holds."""
    arrived = Arrived()
    for batch in batches:
        arrived.arrive(batch)
    return arrived


def judge(recovery: Recovery, number: int, *, sent_max: int | None = None, reentrant: bool = False) -> Fate:
    judged = Judge(recovery, sent_max=sent_max, is_reentrant=reentrant, is_last_word=False)
    return judged.fate((C, number))


def test_a_recovery_is_over_when_all_have_told_and_all_has_ended() -> None:
    recovery = Recovery([C], [A, B])
    assert recovery.on_welcome("a", welcome(A)) == [Recover([C])]
    recovery.on_ended("a", JobsEnded(1, C, [ended(1)]), "here")
    recovery.on_held("a", held([2], [1]), came(1))
    assert not recovery.is_told()
    assert recovery.sought() == [B]
    recovery.on_welcome("b", welcome(B))
    recovery.on_held("b", held([], [4]), came())
    assert not recovery.is_told(), "a batch is missing"
    recovery.on_ended("b", JobsEnded(4, C, [ended(3)]), "there")
    assert recovery.is_told()
    assert recovery.is_certain()
    assert not recovery.is_over()
    assert recovery.open_jobs() == {(C, 2)}
    assert recovery.cancels() == [("a", CancelJobs(C, [Attempt(2, 0)]))]
    recovery.on_ended("a", JobsEnded(2, C, [ended(2)]), "here")
    assert recovery.is_over()
    assert recovery.is_whole()
    assert {key[1]: result.ip_addr for key, result in recovery.results.items()} == {
        1: "here",
        2: "here",
        3: "there",
    }


def test_what_nobody_has_may_have_ended_where_the_journal_has_gaps() -> None:
    """The program was told results that it could not note, and the nodes have forgotten them."""
    recovery = Recovery([C], [A])
    recovery.on_welcome("a", welcome(A))
    recovery.on_held("a", held([], []), came())
    judged = Judge(recovery, sent_max=4, has_gaps=True, is_reentrant=False, is_last_word=False)
    assert judged.fate((C, 5)).is_unstarted, "above all that was sent"
    assert judged.fate((C, 4)).status == ABANDONED
    assert "could not write to its journal" in judged.fate((C, 4)).reason


def test_what_nobody_has_was_never_started_once_all_have_told() -> None:
    recovery = Recovery([C], [A])
    assert judge(recovery, 5, sent_max=4) == Fate(None, is_unstarted=True), "above all that was sent"
    assert not judge(recovery, 4, sent_max=4).is_unstarted
    assert not judge(recovery, 5).is_unstarted, "the mark is not there"
    recovery.on_welcome("a", welcome(A))
    recovery.on_held("a", held([3], []), came())
    assert judge(recovery, 4) == Fate(None, is_unstarted=True)
    assert judge(recovery, 3) == Fate(None), "it runs"


@pytest.mark.parametrize("status", [PlaceStatus.GONE, PlaceStatus.SILENT])
def test_what_may_have_run_where_nobody_can_tell_is_not_run_again(status: PlaceStatus) -> None:
    recovery = Recovery([C], [A])
    recovery.give_up(A, status, "it is away")
    fate = judge(recovery, 1)
    assert not fate.is_unstarted
    assert "it is away" in fate.reason
    assert fate.status == (ABANDONED if status is PlaceStatus.GONE else None)
    assert judge(recovery, 1, reentrant=True).is_unstarted
    assert recovery.is_whole() == (status is PlaceStatus.GONE)
    assert not recovery.is_certain()


def test_the_next_node_speaks_for_the_one_before_it() -> None:
    recovery = Recovery([C], [A])
    recovery.on_welcome("b", welcome(B, before=[A]))
    recovery.on_held("b", held([], [1], lost=[2]), came())
    assert not recovery.is_told()
    recovery.on_ended("b", JobsEnded(1, C, [ended(1)]), "here")
    assert recovery.places[A].status is PlaceStatus.RESTORED
    assert judge(recovery, 2) == Fate(ABANDONED, "its node ended before the job did")
    assert judge(recovery, 2, reentrant=True).is_unstarted
    assert judge(recovery, 3).is_unstarted


def test_gaps_are_no_certainty() -> None:
    recovery = Recovery([C], [A])
    recovery.on_welcome("b", welcome(B, before=[A]))
    recovery.on_held("b", held([], [], gaps=True), came())
    assert recovery.places[A].status is PlaceStatus.GONE
    assert judge(recovery, 3).status == ABANDONED


def test_a_node_that_has_forgotten_us_or_was_given_up_is_left() -> None:
    recovery = Recovery([C], [A, B], given_up=[OTHER])
    assert recovery.on_welcome("a", welcome(A, known=False)) == [Detach()]
    assert recovery.places[A].status is PlaceStatus.GONE
    assert recovery.on_welcome("o", welcome(OTHER)) == [Detach()]
    recovery.on_ended("o", JobsEnded(1, C, [ended(1)]), "there")
    assert recovery.results == {}, "it was told as lost, and a result comes too late"
    assert recovery.sought() == [B]


def test_a_connection_that_breaks_is_asked_anew() -> None:
    recovery = Recovery([C], [A])
    recovery.on_welcome("a", welcome(A))
    recovery.on_held("a", held([1], []), came())
    assert recovery.is_told()
    recovery.on_broken("a")
    recovery.on_broken("a")
    assert recovery.sought() == [A]
    recovery.on_ended("a", JobsEnded(1, C, [ended(1)]), "here")
    recovery.on_held("a", held([], []), came())
    assert not recovery.is_told(), "nobody has introduced itself"
    recovery.on_welcome("a", welcome(A))
    recovery.on_held("a", held([], [1]), came())
    recovery.on_ended("a", JobsEnded(1, C, [ended(1)]), "here")
    assert recovery.is_whole()


def test_a_later_attempt_counts_more_and_chunks_count_nothing() -> None:
    recovery = Recovery([C], [A], jobs_below=100)
    recovery.on_welcome("a", welcome(A))
    recovery.on_ended("a", JobsEnded(1, C, [ended(1, 2)]), "here")
    recovery.on_ended("a", JobsEnded(2, C, [ended(1, 1), ended(100)]), "here")
    recovery.on_ended("a", JobsEnded(3, C + 1, [ended(2)]), "here")
    recovery.on_held("a", held([100], [1, 2], lost=[101]), came(1, 2, 3))
    assert {key: result.ended.attempt for key, result in recovery.results.items()} == {(C, 1): 2}
    assert recovery.is_over()
    assert recovery.lost == {}


def test_jobs_that_come_back_unstarted_are_not_waited_for() -> None:
    recovery = Recovery([C], [A])
    recovery.on_welcome("a", welcome(A))
    recovery.on_held("a", held([1, 2], []), came())
    recovery.on_returned("a", JobsReturned(C, [Attempt(1, 0), Attempt(2, 5)]))
    assert recovery.open_jobs() == {(C, 2)}, "another attempt"
    assert judge(recovery, 1).is_unstarted
    recovery.on_returned("x", JobsReturned(C, [Attempt(2, 0)]))
    assert recovery.open_jobs() == {(C, 2)}


def test_a_job_that_runs_again_has_not_ended() -> None:
    """Its process died, and its program had started it anew: what it returns then is what counts."""
    recovery = Recovery([C], [A])
    recovery.on_welcome("a", welcome(A))
    recovery.on_ended("a", JobsEnded(1, C, [ended(1), ended(2)]), "here")
    again = [HeldJobs(C, [Attempt(1, 1)])]
    recovery.on_held("a", Held(again, [1], []), came(1))
    assert [number for _, number in recovery.final_results()] == [2]
    assert recovery.open_jobs() == {(C, 1)}
    recovery.on_ended("a", JobsEnded(2, C, [ended(1, 1)]), "here")
    assert {n: one.ended.attempt for (_, n), one in recovery.final_results().items()} == {1: 1, 2: 0}


def test_cancels_keep_to_the_limit() -> None:
    """A node would refuse more in one message."""
    recovery = Recovery([C], [A])
    recovery.on_welcome("a", welcome(A))
    recovery.on_held("a", held(list(range(BATCH_MAX + 1)), []), came())
    cancels = [message for _, message in recovery.cancels()]
    assert [len(message.attempts) for message in cancels] == [BATCH_MAX, 1]
