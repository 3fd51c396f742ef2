"""The table of ``print_status``: digits that say something."""

from __future__ import annotations

import pytest

from dispy.client.session.status_table import seconds, speedup


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.000"), (1234.5678, "1234.568"), (1.0, "1.000"), (0.1, "0.100"), (0.0999, "0.0999"),
        (0.012345, "0.0123"), (0.000123456, "0.000123"), (1.5e-6, "0.00000150"), (1e-12, "0.000000000"),
    ],
)  # fmt: skip
def test_seconds(value: float, shown: str) -> None:
    assert seconds(value) == shown


@pytest.mark.parametrize(
    ("job_s", "wall_s", "shown"),
    [(2.0, 1.0, "2.000"), (0.1, 1.0, "0.100"), (0.0, 1.0, "0.000"), (1.0, 0.0, "0.000")],
)
def test_speedup(job_s: float, wall_s: float, shown: str) -> None:
    assert speedup(job_s, wall_s) == shown


def test_a_speedup_of_jobs_that_take_no_time() -> None:
    assert speedup(0.002, 1.0) == "below 0.1 (most of that time no job ran)"
