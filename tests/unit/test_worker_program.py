"""Programs as workers start them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dispy.errors import ProgramError
from dispy.worker import program
from dispy.worker.program import Program


@pytest.fixture
def script(tmp_path: Path) -> Program:
    path = tmp_path / "script"
    path.write_text("#!/bin/sh\nexit 7\n")
    path.chmod(0o700)
    made = Program("script", "java")
    made.arrive(str(tmp_path), "node")
    made.begin({}, bool)
    return made


def test_a_file_that_somebody_has_just_written_is_waited_for(
    script: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is being started may hold it open for a moment."""
    descriptor = os.open(tmp_path / "script", os.O_WRONLY)
    monkeypatch.setattr(time, "sleep", lambda _: os.close(descriptor))
    assert script() == 7


def test_but_not_for_ever(script: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_BUSY_S", 0)
    descriptor = os.open(tmp_path / "script", os.O_WRONLY)
    with pytest.raises(ProgramError, match=r"cannot be started on node node: .*busy"):
        script()
    os.close(descriptor)
