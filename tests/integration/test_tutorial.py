"""The tutorial, and recipes for several machines, as a reader works through them on three machines.

Machines are network namespaces with the addresses of the pages. All commands are those of the pages, but for the one
block that installs dispy: it needs a network, and tests run without one. ``scp`` and ``ssh`` are stand-ins
(``ThreeMachines``).
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .helpers import Place
from .page_reader import work_through
from .pages import DOCS, Step, steps
from .test_how_to import OF_ONE_MACHINE, RECIPES
from .three_machines import ADDRESSES, ThreeMachines, three_machines

LESSONS = sorted((DOCS / "tutorial").glob("[0-9]*.md"))
OF_SEVERAL_MACHINES = [path for path in RECIPES if path not in OF_ONE_MACHINE]

LAST_S = 120
"""All lessons together take 25 s on an idle machine."""

_numbers = itertools.count()


@pytest.fixture
def machines(place: Place) -> Iterator[ThreeMachines]:
    """Machines a, b and c; the test may take as long as a reader of quick fingers."""
    signal.alarm(LAST_S)
    with three_machines(place, f"dispy-page-{os.getpid()}-{next(_numbers)}") as made:
        yield made


def read(*pages: Path) -> list[Step]:
    return [step for page in pages for step in steps(page.read_text())]


def test_the_tutorial(machines: ThreeMachines) -> None:
    """The lessons one after another: nodes of the second one are still running in the third one."""
    assert len(LESSONS) == 3
    todo = read(*LESSONS)
    (install,) = [step for step in todo if step.machine == "each"]
    assert "pip install" in install.text
    todo.remove(install)
    assert {step.machine for step in todo} == set(ADDRESSES)
    work_through(todo, machines.start, machines.directory)


@pytest.mark.parametrize("path", OF_SEVERAL_MACHINES, ids=lambda path: path.stem)
def test_recipe_for_several_machines(path: Path, machines: ThreeMachines) -> None:
    work_through(read(path), machines.start, machines.directory)


def test_there_are_recipes_for_several_machines() -> None:
    """The list above is not empty by mistake."""
    assert OF_SEVERAL_MACHINES
