"""Recipes of the docs: the programs on their pages run, alone and beside a node, and show what the pages show.

Pages of ``docs/how-to`` whose programs have names are recipes; the others there explain in fragments. Recipes for
several machines are in ``test_tutorial.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import StartNode
from .helpers import Place, Program
from .page_reader import Start, end, work_through
from .pages import DOCS, steps
from .typed_commands import commands_on_path

SECTIONS = ["Why it works", "What goes wrong", "See also"]
"""Headings of each recipe, after its program."""

LINES_MAX = 36
"""Lines of a recipe's first program: it is read at a glance."""

LEFT_BY_KILLED = ("machine-dies", "program-dies")
"""Recipes that kill nodes: what those leave is removed by the next node."""


def is_recipe(path: Path) -> bool:
    return re.search(r"^```python\n# \w+\.py", path.read_text(), flags=re.MULTILINE) is not None


RECIPES = sorted(path for path in (DOCS / "how-to").glob("*.md") if is_recipe(path))
OF_ONE_MACHINE = [path for path in RECIPES if not any(step.machine for step in steps(path.read_text()))]


def test_the_recipes_are_here() -> None:
    """The lists above are not empty by mistake."""
    assert len(RECIPES) >= 25
    assert len(OF_ONE_MACHINE) >= 24


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_has_the_parts_that_readers_look_for(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == SECTIONS
    assert any(step.shown for step in steps(text))
    program = next(step for step in steps(text) if step.kind == "file")
    assert len(program.text.splitlines()) <= LINES_MAX


@pytest.fixture
def start(place: Place, start_node: StartNode) -> Iterator[Start]:
    """Starts commands in a directory of their own; asks for ``start_node`` so that nodes end after them."""
    started: list[Program] = []
    (place.root / "programs").mkdir()
    environment = place.environment | {"PATH": commands_on_path(place.root), "PYTHONUNBUFFERED": "1"}

    def start(machine: str, command: str) -> Program:
        program = Program(["bash", "-c", command], place, cwd=place.root / "programs", env=environment)
        started.append(program)
        return program

    yield start
    end(started)


@pytest.mark.parametrize("has_node", [False, True], ids=["alone", "node"])
@pytest.mark.parametrize("path", OF_ONE_MACHINE, ids=lambda path: path.stem)
def test_recipe(path: Path, has_node: bool, place: Place, start_node: StartNode, start: Start) -> None:
    if has_node:
        start_node("--cpus", "2")
    place.is_swept = path.stem in LEFT_BY_KILLED
    work_through(steps(path.read_text()), start, lambda _: place.root / "programs")
