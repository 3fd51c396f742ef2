"""What the doctor says of measured facts. The hops are tested with real nodes in test_doctor."""

from __future__ import annotations

from typing import Any

import pytest

from dispy.cli.doctor.findings import Verdict, bad, ok, shown
from dispy.cli.doctor.machine_checks import check_machine

WELL: dict[str, Any] = {
    "time": 1e9, "python": "3.11.7", "dispy": "5.0", "host": "h", "files_max": 65536, "processes_max": -1,
    "memory_size": 1 << 32, "disks": {"/tmp": 1 << 40},
}  # fmt: skip


def test_a_machine_with_which_all_is_well() -> None:
    for found in (*check_machine(WELL), *check_machine(WELL, WELL)):
        assert found.verdict is Verdict.OK, found
        assert found.fix == ""


@pytest.mark.parametrize(
    ("changed", "verdict", "says", "fix"),
    [
        ({"time": 1e9 + 7200}, Verdict.BAD, "the clock there is 2.0 hours fast", "chrony"),
        ({"time": 1e9 - 7200}, Verdict.BAD, "the clock there is 2.0 hours slow", "chrony"),
        ({"time": 1e9 + 600}, Verdict.NOTE, "the clock there is 10 minutes fast", "chrony"),
        ({"python": "3.13.0"}, Verdict.NOTE, "Python 3.13.0 there, 3.11.7 here", "with Python 3.11"),
        ({"dispy": "4.9"}, Verdict.BAD, "dispy 4.9 there, 5.0 here", "install the same dispy"),
        ({"files_max": 64}, Verdict.BAD, "64 open files", "ulimit -n"),
        ({"files_max": 512}, Verdict.NOTE, "512 open files", "ulimit -n"),
        ({"processes_max": 20}, Verdict.BAD, "20 processes", "ulimit -u"),
        ({"memory_size": 64 << 20}, Verdict.NOTE, "has 64 MiB only", "--shm-size"),
        ({"memory_size": 0}, Verdict.NOTE, "no memory file system", "tmpfs"),
        ({"disks": {"/tmp": 4096}}, Verdict.BAD, "4 KiB free in /tmp", "make room"),
        ({"disks": {"/tmp": 500 << 20}}, Verdict.NOTE, "500 MiB free in /tmp", "make room"),
    ],
    ids=str,
)
def test_each_trouble_is_named_and_nothing_else(
    changed: dict[str, Any], verdict: Verdict, says: str, fix: str
) -> None:
    troubles = [found for found in check_machine(WELL | changed, WELL) if found.verdict is not Verdict.OK]
    assert [found.verdict for found in troubles] == [verdict]
    assert says in troubles[0].text
    assert fix in troubles[0].fix


def test_time_that_the_question_took_is_no_difference_of_clocks() -> None:
    found = check_machine(WELL | {"time": 1e9 + 62}, WELL, took_s=5)
    assert all(each.verdict is Verdict.OK for each in found)


def test_texts_of_others_cannot_move_the_cursor() -> None:
    assert "\x1b" not in shown([bad("name \x1b[2J", "do \x1b]0;x\x07")])
    assert shown([ok("fine")]) == "  ok    fine"
