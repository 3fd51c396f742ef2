"""The programs of the README run as they are printed there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import RunProgram, StartNode

README = (Path(__file__).parents[2] / "README.md").read_text()
PROGRAMS = [
    text for text in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if "import dispy" in text
]


def test_the_first_program_does_what_it_says(run_program: RunProgram) -> None:
    program = run_program(PROGRAMS[0])
    said = re.search(r"# (\d+) primes", PROGRAMS[0])
    assert said is not None
    assert program.wait(60) == 0, program.stderr
    assert program.stdout.strip() == said[1]


def test_the_first_program_is_five_lines_without_the_empty_ones() -> None:
    assert len([line for line in PROGRAMS[0].splitlines() if line.strip()]) == 5


@pytest.mark.parametrize("number", range(1, len(PROGRAMS)))
def test_the_other_programs_run(number: int, run_program: RunProgram, start_node: StartNode) -> None:
    start_node("--cpus", "2", "--name", "here")
    program = run_program(PROGRAMS[number])
    assert program.wait(60) == 0, program.stderr
    assert "failed" not in program.stdout.splitlines()[0]
    assert sum(line.startswith("here ") for line in program.stdout.splitlines()) >= 10
