"""What a node has on disk for clients that are away, read by the one after it."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from dispy.core.execution.actions import NoteOpen, Store
from dispy.core.execution.events import Restored
from dispy.core.execution.ids import ClientId
from dispy.node.results.spool import Spool, _grouped, _Task
from dispy.protocol.limits import BATCH_MAX
from dispy.protocol.node import FINISHED, Attempt, Ended, HeldJobs, JobsEnded

CLIENT = ClientId(b"c" * 16)


def open_segment(directory: Path, name: int) -> int:
    """The segment is a file of that name."""
    return os.open(directory / str(name), os.O_RDONLY)


def spool(base: Path, incarnation: bytes) -> Spool:
    return Spool(base, incarnation, "node", "fingerprint", 1 << 20, lambda *_: None, open_segment)


def leave(base: Path) -> None:
    """A node stores a result and notes a job that has not ended, and ends."""
    node = spool(base, b"a" * 16)
    node.note(NoteOpen(CLIENT, "client", [HeldJobs(7, [Attempt(2, 0)])], 2))
    batch = JobsEnded(1, 7, [Ended(1, 0, FINISHED, 1.0, 2.0, b"result")])
    node.store(Store(CLIENT, "client", batch), None)
    node.close()


def take_over(base: Path) -> list[Restored]:
    """The next one starts."""
    node = spool(base, b"b" * 16)
    restored = node.restore(51348)
    node.close()
    return restored


def test_what_was_open_is_known_to_the_next_node(tmp_path: Path) -> None:
    leave(tmp_path / "spool")
    (found,) = take_over(tmp_path / "spool")
    assert [e.number for batch in found.batches for e in batch.ended] == [1]
    assert [attempt.number for jobs in found.lost for attempt in jobs.attempts] == [2]
    assert not found.has_gaps


def test_many_batches_are_readable_for_the_next_node(tmp_path: Path) -> None:
    """A large result is a batch of its own, and the list of batches at the head of a file has its limit, too."""
    node = spool(tmp_path / "spool", b"a" * 16)
    batches = [JobsEnded(number, 7, []) for number in range(1, BATCH_MAX + 2)]
    # As the thread does when it finds them all waiting.
    for group in _grouped([_Task(store=Store(CLIENT, "client", batch)) for batch in batches]):
        node._do(group)
    node.close()
    (found,) = take_over(tmp_path / "spool")
    assert found.batches == batches


@pytest.mark.parametrize("wrong", [b"\xc1", b"\x00"])
def test_a_note_of_which_a_byte_is_wrong_is_not_used(
    tmp_path: Path, wrong: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever it is: to believe in it would be to take jobs for never started that were. The node starts."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # which takes most of the time
    base = tmp_path / "spool"
    leave(base)
    (note,) = base.glob("*/*.open")
    data = note.read_bytes()
    for place in range(len(data)):
        if data[place : place + 1] == wrong:
            continue
        for damaged in note.parent.glob("*.damaged"):
            damaged.unlink()
        note.write_bytes(data[:place] + wrong + data[place + 1 :])
        (found,) = take_over(base)
        assert found.has_gaps, place
        assert not found.lost, place


def test_a_result_that_is_damaged_leaves_a_gap_also_if_nothing_else_is_kept(tmp_path: Path) -> None:
    """The note does not have its job, which was on disk: nobody must take that for one that was never started."""
    base = tmp_path / "spool"
    leave(base)
    node = spool(base, b"d" * 16)
    node.restore(51348)
    node.note(NoteOpen(CLIENT, "client", [], 2))
    node.close()
    (results,) = base.glob("*/*.results")
    results.write_bytes(results.read_bytes()[:-3])
    for _ in range(2):
        (found,) = take_over(base)
        assert found.has_gaps
        assert found.batches == []


def test_what_is_damaged_does_not_stay_for_ever(tmp_path: Path) -> None:
    """It goes when nothing else is there of its client: who asks is told that nothing is known."""
    base = tmp_path / "spool"
    leave(base)
    for path in [*base.glob("*/*.open"), *base.glob("*/*.results")]:
        path.write_bytes(b"damaged")
    assert take_over(base) == []
    assert list(base.iterdir()) == []


def test_what_is_stored_survives_the_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are synced, and so is all by which they are found: names, directories, whose room it is."""
    synced = set()
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.add(os.fstat(descriptor).st_ino))
    base = tmp_path / "spool"
    leave(base)
    (room,) = base.iterdir()
    kept = [base.parent, base, room, *(path for path in room.iterdir() if path.name != "lock")]
    assert len(kept) == 6
    assert [path.name for path in kept if path.stat().st_ino not in synced] == []


def test_a_room_that_is_removed_while_it_is_looked_at_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node that had it has ended in order just now, and needs nobody to take over."""
    base = tmp_path / "spool"
    leave(base)
    (room,) = base.iterdir()
    flock = fcntl.flock

    def remove_before(descriptor: int, operation: int) -> None:
        shutil.rmtree(room)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_before)
    assert take_over(base) == []


def test_a_room_that_somebody_removes_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not taken for a segment that is gone: what was to be written is tried again, and is said to be late."""
    node = spool(tmp_path / "spool", b"a" * 16)
    tasks = [_Task(store=Store(CLIENT, "client", JobsEnded(number, 7, []))) for number in (1, 2)]
    node._do(tasks[:1])
    (room,) = [path for path in (tmp_path / "spool").iterdir() if path.is_dir()]
    shutil.rmtree(room)
    node._do(tasks[1:])
    assert "cannot be written to" in caplog.text
    for group in node._groups([]):  # as the thread does when it tries again
        node._do(group)
    node.close()
    (found,) = take_over(tmp_path / "spool")
    assert [batch.batch for batch in found.batches] == [2]


def test_a_fault_for_the_results_of_one_client_keeps_none_of_another_from_the_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread goes on; what could not be written stays in memory, and is said to be lost at the end."""

    def find(directory: Path, _: int) -> int:
        raise RuntimeError(f"a fault at {directory}")

    told: list[ClientId] = []
    node = Spool(
        tmp_path / "spool", b"a" * 16, "node", "fingerprint", 1 << 20,
        lambda stored, _: told.append(stored.client), find,
    )  # fmt: skip
    large = JobsEnded(1, 7, [Ended(1, 0, FINISHED, 1.0, 2.0, b"", stream=1)])
    node.store(Store(CLIENT, "client", large), tmp_path)
    other = ClientId(b"o" * 16)
    for number in (1, 2):
        node.store(Store(other, "other", JobsEnded(number, 7, [])), None)
    node.close()
    assert set(told) == {other}
    assert "please report this" in caplog.text
    assert "are lost" in caplog.text
    assert {found.client for found in take_over(tmp_path / "spool")} == {other}
