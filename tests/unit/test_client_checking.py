"""What is checked before a cluster is made: seconds."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from dispy.client.checking import check_timeout, deadline
from dispy.errors import UsageError


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, None),
        (5, 5.0),
        (0.25, 0.25),
        (0, 0.0),
        (-1, 0.0),
        (-math.inf, 0.0),
        (math.inf, None),
        (1e300, None),
        (10**400, None),
        (-(10**400), 0.0),
        (threading.TIMEOUT_MAX, None),
        (threading.TIMEOUT_MAX / 2, threading.TIMEOUT_MAX / 2),
    ],
)
def test_seconds_are_such_as_locks_take(given: Any, seconds: float | None) -> None:
    assert check_timeout(given) == seconds
    assert (deadline(given) is None) == (seconds is None)
    assert threading.Lock().acquire(True, -1 if seconds is None else seconds)


@pytest.mark.parametrize("given", [math.nan, "5", True, 1j, [5]])
def test_what_is_no_number_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match="grace must be a number of seconds, not"):
        check_timeout(given, "grace")
