"""dispy beside the other libraries that run Python functions in processes: each on this machine, with two processes.

Libraries take turns, each in a program of its own, and the order changes with every round. Figures of others are rows
for information; what dispy promises is measured elsewhere. A library that is not installed is left out, and said so:
``pip install -e '.[peers]'`` brings all. Nodes of dispy on this machine are not used: the program's own is.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

import msgspec

from benchmarks import harness
from benchmarks.harness import Row
from benchmarks.programs.peers import ARRAY_BYTES, ARRAY_CALLS, PAUSE_S, PAUSES, PEERS, Figures

ROUNDS = 3

LIMIT_S = 100.0
"""Seconds after which a library is taken to hang in this environment; it is left out, and said so."""

MEASURED = {
    "first_s": ("import to first result", "s"),
    "rate": ("empty calls, all submitted at once", "calls/s"),
    "latency_ms": ("one call after another, submit to result, p50", "ms"),
    "pauses_s": (f"{PAUSES} calls that wait {PAUSE_S * 1e3:g} ms; 1 s at best", "s"),
    "array_s": (f"{ARRAY_CALLS} calls that read one array of {ARRAY_BYTES >> 20} MiB", "s"),
    "programs": ("programs that do nothing", "runs/s"),
    "memory_mb": ("memory of the processes it has started", "MB"),
}
"""What is measured, and its unit, by the field of ``Figures``."""


def run(quick: bool) -> list[Row]:
    """Measure each library that is installed; rows are sorted by what is measured."""
    found: dict[str, list[Figures]] = {name: [] for name in PEERS}
    names = ["dispy", "ProcessPoolExecutor", "joblib"] if quick else list(PEERS)
    for number in range(1 if quick else ROUNDS):
        for place in range(len(names)):
            name = names[(place + number) % len(names)]
            figures = _measured(name, 0.02 if quick else 1.0)
            if figures is not None:
                found[name].append(figures)
    rows = [Row(f"{name} is not installed, or has failed", 0) for name in names if not found[name]]
    for field, (words, unit) in MEASURED.items():
        for name in names:
            values = [getattr(figures, field) for figures in found[name]]
            if values and any(values):
                version = found[name][0].version
                rows.append(
                    Row(f"{words}: {name} {version}", statistics.median(values), unit, samples=values)
                )
    return rows


def _measured(name: str, scale: float) -> Figures | None:
    """Returns the figures of one round of a library; None if it is not installed, or fails, as the log says."""
    command = [sys.executable, "-m", "benchmarks.programs.peers", name, str(scale)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(harness.ROOT), *_python_path()])}
    with harness.sandbox() as directory:
        environment.update({key: os.environ[key] for key in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR")})
        environment["TMPDIR"] = str(directory)
        process = subprocess.Popen(command, cwd=harness.ROOT, env=environment, stdout=subprocess.PIPE)
        try:
            said, _ = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            print(f"{name} has not ended after {LIMIT_S:g} s", file=sys.stderr)
            said = b""
        finally:
            harness.end_tree(process)
    if process.returncode:
        print(f"{name} has failed with exit code {process.returncode}", file=sys.stderr)
        return None
    return msgspec.json.decode(said or b"null", type=Figures | None)


def _python_path() -> list[str]:
    return [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
