"""What the dead have left is removed, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dispy.system.run_directory import MAKING_S, Place, sweep


def leave_file(place: Place) -> None:
    """Something lies in a subdirectory."""
    (place.root / "sub").mkdir()
    (place.root / "sub" / "file").touch()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "base"


def test_a_place_of_the_living_stays_and_one_of_the_dead_goes(base: Path) -> None:
    living, dead = Place(base, "living"), Place(base, "dead")
    leave_file(dead)
    os.close(dead._lock)  # as the kernel does at the end of a process
    sweep(base)
    assert [path.name for path in base.iterdir()] == ["living"]
    living.close()
    assert not list(base.iterdir())


def test_whoever_tidied_up_was_killed_at_it(base: Path) -> None:
    dead = Place(base, "dead")
    leave_file(dead)
    (dead.root / "lock").unlink()
    sweep(base)
    assert not list(base.iterdir())
    os.close(dead._lock)


@pytest.mark.parametrize("age_s", [0, MAKING_S + 1])
def test_a_directory_that_is_being_made_stays_for_a_while(base: Path, age_s: float) -> None:
    Place(base, "other").close()
    fresh = base / ".fresh"
    fresh.mkdir()
    then = fresh.stat().st_mtime - age_s
    os.utime(fresh, (then, then))
    sweep(base)
    assert fresh.exists() == (age_s == 0)


def test_what_is_no_directory_is_left_alone(base: Path) -> None:
    Place(base, "other").close()
    (base / "file").touch()
    sweep(base)
    assert (base / "file").exists()
