"""Some worlds of each climate, and that a seed replays its world."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .__main__ import describe
from .simulation import CLIMATES, SEEKING_CLIMATES, SHARED_CLIMATES, Simulation, run_seed

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", range(12))
def test_a_world_is_well(seed: int) -> None:
    """Whatever goes wrong in it."""
    outcome = run_seed(seed, 1500)
    assert outcome.failure is None, (
        f"{describe(outcome)}; python -m tests.simulation --seed {seed} --steps 1500"
    )
    assert outcome.jobs > 0


@pytest.mark.parametrize("climate", ["scheduler", "tenants"])
@pytest.mark.parametrize("seed", range(5))
def test_a_world_with_a_shared_scheduler_is_well(climate: str, seed: int) -> None:
    """Whatever goes wrong in it."""
    outcome = run_seed(seed, 1500, climate=climate)
    assert outcome.failure is None, (
        f"{describe(outcome)}; python -m tests.simulation --seed {seed} --steps 1500 --climate {climate}"
    )
    assert outcome.jobs > 0


def test_what_dead_programs_leave_is_recovered() -> None:
    """Whatever happens to those who do it."""
    total: Counter[str] = Counter()
    for seed in range(10):
        outcome = run_seed(seed, 1000, climate="recoveries")
        assert outcome.failure is None, (
            f"{describe(outcome)}; python -m tests.simulation --seed {seed} --steps 1000 --climate recoveries"
        )
        total.update(outcome.recovered)
    assert all(
        total[what] > 0 for what in ("programs recovered", "recoveries", "jobs returned", "jobs resumed")
    )


@pytest.mark.parametrize("climate", ["", "recoveries", "files", "scheduler", "tenants"])
def test_a_seed_replays_its_world(climate: str) -> None:
    """In other processes, after other worlds, under other hash seeds; and another seed is another world."""
    here = [run_seed(seed, 1000, climate=climate).digest & (1 << 64) - 1 for seed in (3, 4)]
    assert here[0] != here[1]
    for hash_seed in ("1", "2"):
        program = (
            "import sys; from tests.simulation.simulation import run_seed; "
            f"print(run_seed(4, 1000, climate={climate!r}).digest)"
        )
        environment = {
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        }
        there = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(there.stdout) & (1 << 64) - 1 == here[1]


def test_every_fault_strikes_in_some_climate() -> None:
    """None is left out by mistake."""
    simulation = Simulation(0)
    assert {
        name for _, weights in CLIMATES + SHARED_CLIMATES + SEEKING_CLIMATES for name in weights
    } == set(simulation.faults.kinds)
    assert simulation.run().failure is None
