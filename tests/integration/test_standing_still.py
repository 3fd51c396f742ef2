"""A program that does not run for longer than silence is allowed is not mistaken, and does not mistake others."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from .conftest import RunProgram, StartNode
from .helpers import Program, wait_for

PULSE_S = 0.1

STILL_S = 15 * PULSE_S
"""Three times the silence after which a party is dead."""

PROGRAM = """
import ctypes, sys, time
import dispy

def mark(directory, number):
    with open(f"{directory}/{number}", "a") as file:
        file.write("x")
    time.sleep(0.02)
    return number

cluster = dispy.JobCluster(mark, pulse_interval=float(sys.argv[2]))
jobs = [cluster.submit(sys.argv[1], number) for number in range(100)]
jobs[3]()
print("begun", flush=True)
if sys.argv[3] == "lock":
    ctypes.PyDLL(None).usleep(int(float(sys.argv[4]) * 1e6))
print("finished", sum(job() == number for number, job in enumerate(jobs)), flush=True)
"""


def stand_still(program: Program) -> None:
    """Stop a process for longer than its peers wait for it."""
    program.send(signal.SIGSTOP)
    begin = time.monotonic()
    try:
        wait_for(lambda: time.monotonic() - begin, lambda passed: passed > STILL_S, what="a while")
    finally:
        program.send(signal.SIGCONT)


@pytest.mark.parametrize("way", ["lock", "stopped"])
def test_all_jobs_end_once(
    run_program: RunProgram, start_node: StartNode, tmp_path: Path, way: str
) -> None:
    """It holds the interpreter lock in C, or is stopped; to the node it is gone meanwhile."""
    marks = tmp_path / "marks"
    marks.mkdir()
    start_node("--cpus", "2")
    program = run_program(PROGRAM, str(marks), str(PULSE_S), way, str(STILL_S))
    program.wait_line("^begun$")
    if way == "stopped":
        stand_still(program)
    program.wait_line("^finished 100$", deadline_s=20)
    assert program.wait() == 0
    assert "lost" not in program.stderr
    assert [path.read_text() for path in marks.iterdir()] == ["x"] * 100
