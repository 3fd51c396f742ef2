"""``dispy run`` and its old name ``dispy_cmd.py``: a program, once for each set of arguments."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from .conftest import StartNode
from .helpers import Place, Program

MODULES = {"dispy run": ["dispy.cli.main", "run"], "dispy_cmd.py": ["dispy.cli.run"]}


@pytest.fixture(params=list(MODULES))
def command(request: pytest.FixtureRequest, place: Place, start_node: StartNode) -> list[str]:
    """The command, under both of its names, with a node to run on."""
    start_node("--cpus", "2")
    return [sys.executable, "-W", "error", "-m", *MODULES[request.param]]


@pytest.fixture
def program(place: Place) -> Path:
    """A program that tells its arguments and ends as the first one says."""
    path = place.root / "tell"
    path.write_text(
        '#!/bin/sh\necho "$# arguments: $*"\necho warned >&2\nkill -$2 $$ 2>/dev/null\nexit $1\n'
    )
    path.chmod(0o755)
    return path


def run(place: Place, command: list[str], *arguments: str) -> tuple[int, str, str]:
    """Run it until it ends: exit code, what it prints, what it warns of."""
    ran = Program([*command, *arguments], place)
    try:
        code = ran.wait(20)
        return code, ran.stdout, ran.stderr
    finally:
        ran.end()


def test_a_run_for_each_set_of_arguments(command: list[str], place: Place, program: Path) -> None:
    code, text, warned = run(place, command, "-a", "0 'two words'", "-a", "0 more here", str(program))
    assert code == 0, warned
    assert "run 1 (0 'two words') has ended\n2 arguments: 0 two words\n" in text
    assert "run 2 (0 more here) has ended\n3 arguments: 0 more here\n" in text
    assert warned == "warned\nwarned\n"
    assert re.search(r"^127\.0\.0\.1 .*\|\s+2 \|\s+2 \|", text, re.MULTILINE), "no table at the end"


def test_runs_that_fail_are_told_and_counted(command: list[str], place: Place, program: Path) -> None:
    code, text, _ = run(place, command, "-a", "3", "-a", "0 KILL", "-a", "0", str(program))
    assert code == 1
    assert "run 1 (3) ended with exit code 3\n1 arguments: 3\n" in text
    assert re.search(r"^run 2 \(0 KILL\) failed: .*SIGKILL", text, re.MULTILINE), text
    assert "run 3 (0) has ended\n" in text


def test_without_arguments_it_runs_once(command: list[str], place: Place) -> None:
    code, text, _ = run(place, command, "true")
    assert code == 0
    assert text.startswith("run 1 has ended\n")


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["./nowhere"], "nowhere"),
        (["-a", "it's", "true"], "it's"),
        (["-n", "", "true"], "host of a node"),
        (["--scheduler_node", "no.such.host.example", "true"], "cannot be resolved"),
        (["--secret_file", "nofile", "true"], "nofile"),
    ],
)
def test_what_cannot_begin_says_why(place: Place, arguments: list[str], culprit: str) -> None:
    code, text, warned = run(place, [sys.executable, "-m", "dispy.cli.main", "run"], *arguments)
    assert (code, text) == (2, "")
    assert culprit in warned
    assert warned.startswith("dispy: ")
    assert len(warned.splitlines()) == 1
