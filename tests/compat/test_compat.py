"""Programs in the interface of dispy 4, as its users have written them: they run unchanged.

One for each thing that the manual of dispy 4 shows, and some for names that older releases had. They check
themselves.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import RunProgram, StartNode
from tests.integration.helpers import Place

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.py"))
PARTS = {"script"}
"""Programs that others start."""
WARNINGS = ("error", "default::DeprecationWarning", "ignore::ResourceWarning")
"""Old names are warned of; files that are left to the collector are the program's own affair."""


@pytest.mark.parametrize(
    "path", [path for path in PROGRAMS if path.stem not in PARTS], ids=lambda path: path.stem
)
def test_program_of_dispy_4(
    path: Path, place: Place, start_node: StartNode, run_program: RunProgram
) -> None:
    start_node("--cpus", "2")
    directory = place.root / "programs"
    directory.mkdir()
    for other in PROGRAMS:
        (directory / other.name).write_bytes(other.read_bytes())
    program = run_program(path.read_text(), name=path.name, cwd=directory, warnings=WARNINGS)
    code = program.wait(25)
    assert code == 0, program.stdout + program.stderr
    assert "Traceback" not in program.stderr


def test_all_programs_are_here() -> None:
    """The list above is not empty by mistake."""
    assert len(PROGRAMS) > 15
