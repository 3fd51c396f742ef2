"""Programs as workers start them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

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
    made.begin({"dispy_job_seed": int}, bool)
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


def test_an_interrupt_at_the_moment_in_which_it_has_started_is_passed_on(
    script: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends in good order, as it does if the interrupt comes later."""
    start = os.posix_spawn
    os.mkfifo(tmp_path / "ready")
    (tmp_path / "script").write_text(
        "#!/bin/sh\ntrap 'exit 0' INT\necho > ready\nwhile :; do sleep 0.01; done\n"
    )

    def start_and_be_interrupted(*args: Any, **kwargs: Any) -> int:
        pid = start(*args, **kwargs)
        (tmp_path / "ready").read_text()
        signal.raise_signal(signal.SIGINT)  # for this thread, as a worker has no other
        return pid

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "posix_spawn", start_and_be_interrupted)
    assert script() == 0
