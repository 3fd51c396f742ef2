"""Where the Python of jobs looks for modules."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dispy.node.processes.python_path import SearchPath
from dispy.node.processes.spared import Spared


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that hosts look into."""
    found = tmp_path / "modules"
    found.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(found))
    return found


def test_it_is_that_of_hosts(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With our variables, and without where we were started."""
    monkeypatch.chdir(directory.parent)
    paths = SearchPath(None, Spared())()
    assert paths[0] == str(directory)
    assert str(directory.parent) not in paths
    assert os.path.dirname(os.__file__) in paths


def test_it_is_asked_again_when_something_was_installed(directory: Path) -> None:
    search_path = SearchPath(None, Spared())
    first = search_path()
    assert search_path() is first
    (directory / "new").mkdir()
    os.utime(directory, ns=(1, 1))
    assert search_path() is not first


def test_what_python_prints_at_its_start_is_no_path(directory: Path) -> None:
    (directory / "sitecustomize.py").write_text(
        "print('/hello')\nimport sys\nsys.path.append('/appended')\n"
    )
    paths = SearchPath(None, Spared())()
    assert "/appended" in paths
    assert not any("hello" in path for path in paths)


def test_paths_that_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\nx")
    os.mkdir(odd)
    monkeypatch.setenv("PYTHONPATH", odd)
    assert odd in SearchPath(None, Spared())()


def test_a_python_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything is sent then, as if nothing were installed."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert SearchPath(None, Spared())() == []
    assert "/nowhere/python cannot be asked" in caplog.text
