"""Many jobs whose arguments or results are instances of the user's classes: ``code_jobs.py KIND COUNT``.

A script, so that its class is one of ``__main__``.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

from code_points import ModulePoint  # type: ignore[import-not-found]  # it lies beside this script

from benchmarks import harness
from benchmarks.programs.code_marks import mark

WINDOW = 500
"""Jobs with instances at once: by value each is 7 kB, and jobs of one message must be less than 8 MiB together."""


@dataclasses.dataclass
class ScriptPoint:
    """A small value."""

    x: int
    y: float
    name: str = "point"


def noop(value: int) -> int:
    """The job that does nothing."""
    return value


def take(point: Any) -> int:
    """A job that is given an instance."""
    return point.x  # type: ignore[no-any-return]


def make_script(value: int) -> ScriptPoint:
    """A job that returns an instance of the script's class."""
    return ScriptPoint(value, value / 2)


def make_module(value: int) -> Any:
    """A job that returns an instance of the module's class."""
    return ModulePoint(value, value / 2)


def main() -> None:
    """Run some jobs, then all that are measured, with a mark before and behind."""
    kind, count = sys.argv[1], int(sys.argv[2])
    numbers = list(range(count))
    script = [ScriptPoint(number, number / 2) for number in numbers]
    module = [ModulePoint(number, number / 2) for number in numbers]
    kinds: dict[str, tuple[Callable[[Any], Any], list[Any], list[Any]]] = {
        "noop": (noop, numbers, numbers),
        "script argument": (take, script, numbers),
        "module argument": (take, module, numbers),
        "script result": (make_script, numbers, script),
        "module result": (make_module, numbers, module),
    }
    function, values, expected = kinds[kind]
    window = count if kind == "noop" else WINDOW
    with harness.cluster(function) as cluster:
        harness.run_values(cluster, values[:WINDOW], expected[:WINDOW])
        mark()
        seconds = 0.0
        for start in range(0, count, window):
            end = start + window
            seconds += harness.run_values(cluster, values[start:end], expected[start:end])
        mark(seconds=seconds)


if __name__ == "__main__":
    main()
