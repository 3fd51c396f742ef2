"""Scenarios: commands to a machine and everything that it decides, in files that are read as stories.

A file holds scenarios, each from a line ``== title`` to the next. A scenario is a comment, then steps:
commands, a line ``----``, the expected trace, an empty line. ``pytest --record-scenarios`` writes the
traces anew. The commands are those of ``scenario_language``, and of ``staging_language`` for staging.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from scenario_language import Execution, Scheduling
from staging_language import Staging

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.glob("*.txt"))
MACHINES: dict[str, type[Execution | Scheduling | Staging]] = {
    "execution": Execution,
    "scheduling": Scheduling,
    "staging": Staging,
}


@dataclass
class Step:
    """Some commands and what follows from them."""

    commands: list[str]
    trace: list[str]


@dataclass
class Scenario:
    """A story that begins with a new machine."""

    title: str
    comment: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def play(self, machine: str) -> list[Step]:
        """The steps with the traces as they are."""
        player = MACHINES[machine]()
        return [Step(step.commands, player.play(step.commands)) for step in self.steps]


def parse(text: str) -> list[Scenario]:
    """Read a file of scenarios."""
    scenarios: list[Scenario] = []
    for part in text.split("\n\n"):
        lines = part.strip("\n").split("\n")
        if lines[0].startswith("== "):
            scenarios.append(Scenario(lines[0][3:], [line for line in lines[1:] if line.startswith("#")]))
            lines = [line for line in lines[1:] if not line.startswith("#")]
        if any(lines):
            cut = lines.index("----") if "----" in lines else len(lines)
            scenarios[-1].steps.append(Step(lines[:cut], lines[cut + 1 :]))
    return scenarios


def render(scenarios: list[Scenario]) -> str:
    """Write a file of scenarios."""
    parts = []
    for scenario in scenarios:
        head = [f"== {scenario.title}", *scenario.comment]
        for index, step in enumerate(scenario.steps):
            parts.append("\n".join([*(head if index == 0 else []), *step.commands, "----", *step.trace]))
    return "\n\n".join(parts) + "\n"


def cases() -> list[tuple[Path, int]]:
    return [(path, index) for path in FILES for index in range(len(parse(path.read_text())))]


def name_of(case: object) -> str:
    return case.stem if isinstance(case, Path) else f"{case}"


@pytest.mark.parametrize(("path", "index"), cases(), ids=name_of)
def test_scenario(path: Path, index: int, request: pytest.FixtureRequest) -> None:
    """The machine does what the file says, to the last action."""
    scenarios = parse(path.read_text())
    scenario = scenarios[index]
    machine = path.stem.split("_")[0]
    played = scenario.play(machine)
    if request.config.getoption("--record-scenarios"):
        scenario.steps = played
        path.write_text(render(scenarios))
        return
    for expected, actual in zip(scenario.steps, played, strict=True):
        assert expected.trace == actual.trace, f"{scenario.title}: after {expected.commands}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_written_as_recorded(path: Path) -> None:
    """Recording changes nothing but traces, and every scenario says what it shows."""
    scenarios = parse(path.read_text())
    assert render(scenarios) == path.read_text()
    assert all(scenario.comment and scenario.steps for scenario in scenarios)


def test_a_wrong_trace_is_seen() -> None:
    """A difference in one action is a difference."""
    scenario = parse("== x\n# y\nnode a cpus=1\ncomputation c1\nallocate c1 a 1\n----\nwrong\n")[0]
    assert scenario.play("scheduling")[0].trace == ["a <- Compute c1"]


def test_an_unknown_command_is_refused() -> None:
    """A misspelt command does not pass for one without effect."""
    with pytest.raises(ValueError, match="no command 'nod'"):
        Scheduling().play(["nod a cpus=1"])
