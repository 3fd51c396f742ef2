"""Every example, as users run it: where nothing runs, and beside a node. They check their own outcome."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import RunProgram, StartNode
from .helpers import Place
from .test_program import NOTICE

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
LAST_S = 25
"""No example takes so long, however busy the machine."""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("has_node", [False, True], ids=["alone", "node"])
def test_example(
    path: Path, has_node: bool, place: Place, start_node: StartNode, run_program: RunProgram
) -> None:
    if has_node:
        start_node("--cpus", "2")
    place.is_swept = path.stem == "recovery"
    directory = place.root / "programs"
    directory.mkdir()
    for other in EXAMPLES:
        (directory / other.name).write_bytes(other.read_bytes())
    program = run_program(path.read_text(), name=path.name, cwd=directory)
    code = program.wait(LAST_S)
    assert code == 0, program.stdout + program.stderr
    assert program.stdout.strip(), "it says nothing"
    assert "Traceback" not in program.stderr
    if has_node:
        assert not re.search(NOTICE, program.stderr), "it did not find the node"


def test_all_examples_are_here() -> None:
    """The list above is not empty by mistake."""
    assert len(EXAMPLES) > 10
