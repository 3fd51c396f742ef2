"""Type checkers refuse each wrong use in ``tests/typed/refused.py``, and nothing else in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dispy
from dispy import DispyJob, JobCluster, SharedJobCluster

ROOT = Path(__file__).parents[2]
REFUSED = ROOT / "tests" / "typed" / "refused.py"
IGNORE = re.compile(r"  # type: ignore\[[\w,-]+\]")


def refused(text: str) -> set[int]:
    """Lines of wrong uses."""
    return {number for number, line in enumerate(text.splitlines(), 1) if "# refused: " in line}


def test_each_wrong_use_is_ignored_by_its_code() -> None:
    """As the checkers of CI say which of these comments are not needed."""
    text = REFUSED.read_text()
    assert len(refused(text)) > 20
    ignored = {number for number, line in enumerate(text.splitlines(), 1) if IGNORE.search(line)}
    assert ignored == refused(text)
    assert "# pyright: reportUnnecessaryTypeIgnoreComment=true" in text


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_checker_refuses_what_is_wrong(checker: str, tmp_path: Path) -> None:
    command = shutil.which(checker, path=str(Path(sys.executable).parent)) or shutil.which(checker)
    if command is None:
        pytest.skip(f"{checker} is not installed")
    bare = tmp_path / "refused_bare.py"
    bare.write_text(IGNORE.sub("", REFUSED.read_text()))
    if checker == "mypy":
        options = [
            "--strict",
            "--cache-dir",
            str(tmp_path / "cache"),
            "--config-file",
            str(ROOT / "pyproject.toml"),
        ]
        said = subprocess.run(
            [command, *options, str(bare)], capture_output=True, text=True, cwd=ROOT, check=False
        ).stdout
        found = {int(line) for line in re.findall(r"refused_bare\.py:(\d+): error:", said)}
    else:
        (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT / "src")]}))
        said = subprocess.run(
            [command, "--pythonpath", sys.executable, "--outputjson", "-p", str(tmp_path)],
            capture_output=True, text=True, cwd=tmp_path, check=False,
        ).stdout  # fmt: skip
        found = {
            each["range"]["start"]["line"] + 1
            for each in json.loads(said)["generalDiagnostics"]
            if each["severity"] == "error"
        }
    assert found == refused(bare.read_text()), said


def test_parameters_of_classes_at_run_time() -> None:
    assert DispyJob[int] is not None
    assert JobCluster[[int, str], float] is not None
    assert JobCluster[..., int] is not None
    assert SharedJobCluster[[int], str] is not None
    assert dispy.DoneAndNotDone[int] is not None
    job: DispyJob[int] = DispyJob[int](7)
    assert type(job) is DispyJob
    assert not hasattr(job, "__dict__")
