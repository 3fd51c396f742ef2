"""Where the time of a job goes, process by process: the figures of ``docs/explanation/performance.md``.

CPU time of each thread, from the kernel's accounting in nanoseconds; wake-ups are the voluntary context switches.
The program has two threads: its own, which submits and gathers, and the engine's. What the smallest steps cost on
this machine ``floors`` says, which is part of every run. System calls are counted in a run of their own, where there
is ``strace`` and it may look at the processes; it makes them slow, so that more jobs share a call.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import psutil

from benchmarks import harness, large_bytes, large_tcp
from benchmarks.harness import Row, median_row, noop
from dispy import JobCluster, config

CALLS_SHOWN = 4


class Spent(NamedTuple):
    """Of one place."""

    cpu_us: float = 0.0
    wakes: float = 0
    faults: float = 0


def run(quick: bool) -> list[Row]:
    """Measure small jobs and large ones, the latter by name and by stream."""
    count, repeats = (1_000, 1) if quick else (100_000, 5)
    data = os.urandom(1_000_000)
    array = numpy.arange((1_000_000 if quick else 10_000_000) // 8, dtype="float64")
    rows = []
    with harness.node() as node, harness.cluster(noop, warm=count // 10) as cluster:
        places = Places(node)
        rows += stage("no-op", places, count, repeats, lambda: harness.run_jobs(cluster, count))
        count //= 5
        rows += calls("no-op", places, count, lambda: harness.run_jobs(cluster, count))
    for name, shares in (("by name", True), ("by stream", False))[: 1 if quick else 2]:
        config.SharedMemory = shares
        rows += large(
            f"1 MB of bytes {name}", large_bytes.back, large_bytes.echo, data, 20 if quick else 200
        )
        rows += large(f"10 MB array {name}", large_tcp.back, large_tcp.echo, array, 4 if quick else 40)
    return rows


def large(
    name: str,
    function: Callable[..., Any],
    echo: Callable[[JobCluster, Any, int], None],
    data: Any,
    count: int,
) -> list[Row]:
    """Rows of jobs that take and return something large."""
    with harness.node() as node, harness.cluster(function) as cluster:
        echo(cluster, data, count)
        return stage(name, Places(node), count, 3, lambda: echo(cluster, data, count))


def stage(name: str, places: Places, count: int, repeats: int, work: Callable[[], object]) -> list[Row]:
    """Rows with what a job costs in each place.

    Args:
        name: Of the kind of job.
        places: The processes.
        count: Jobs that ``work`` runs.
        repeats: Times to run it.
        work: Runs them.
    """
    samples: list[dict[str, Spent]] = []
    for _ in range(repeats):
        before = places.spent()
        work()
        after = places.spent()
        samples.append({
            place: Spent(*(new - old for new, old in zip(after[place], before[place], strict=True)))
            for place in PLACES
        })  # fmt: skip
    rows = []
    for place in PLACES:
        spent = [sample[place] for sample in samples]
        rows.append(median_row(f"{name}: CPU, {place}", [each.cpu_us / count for each in spent], "us"))
        wakes = [each.wakes / count * 1e3 for each in spent]
        rows.append(median_row("  wake-ups", wakes, "per 1,000 jobs"))
        faults = [each.faults / count for each in spent]
        if max(faults) >= 1:
            rows.append(median_row("  page faults", faults, "per job"))
    return rows


PLACES: tuple[str, ...] = ("program", "engine", "node", "workers")


class Places:
    """The threads and processes that a job passes.

    Args:
        node: Pid of the node.
    """

    def __init__(self, node: int) -> None:
        self._node = node

    def pids(self) -> dict[str, list[int]]:
        """Processes by place; the first two are one."""
        below = psutil.Process(self._node).children(recursive=True)
        return {"node": [self._node], "workers": [each.pid for each in below], "program": [os.getpid()]}

    def spent(self) -> dict[str, Spent]:
        """What was spent so far."""
        total = dict.fromkeys(PLACES, Spent())
        for place, pids in self.pids().items():
            for pid in pids:
                for task in Path(f"/proc/{pid}/task").iterdir():
                    is_engine = place == "program" and int(task.name) != threading.main_thread().native_id
                    where = "engine" if is_engine else place
                    with contextlib.suppress(OSError):
                        total[where] = Spent(*map(sum, zip(total[where], _spent(task), strict=True)))
        return total


def _spent(task: Path) -> Spent:
    fields = (task / "stat").read_text().rpartition(")")[2].split()
    switches = (task / "status").read_text().partition("\nvoluntary_ctxt_switches:")[2].split()
    nanoseconds = int((task / "schedstat").read_text().split()[0])
    return Spent(nanoseconds / 1e3, int(switches[0]), int(fields[7]))


# System calls.


def calls(name: str, places: Places, count: int, work: Callable[[], object]) -> list[Row]:
    """Rows with the system calls of each process; none if they cannot be counted.

    The program is the last to be looked at, or what it starts to look at others were counted, too.
    """
    rows = []
    with contextlib.ExitStack() as stack:
        try:
            counted = {
                place: [stack.enter_context(_counted(pid)) for pid in pids]
                for place, pids in places.pids().items()
            }
        except OSError as error:
            print(f"system calls are not counted: {error}")
            return []
        work()
    for place, tables in counted.items():
        found: dict[str, int] = {}
        for table in tables:
            for call, times in table.items():
                found[call] = found.get(call, 0) + times
        most = sorted(found, key=lambda call: -found[call])[:CALLS_SHOWN]
        listed = ", ".join(f"{call} {found[call] / count * 1e3:.0f}" for call in most)
        where = "program and engine" if place == "program" else place
        total = sum(found.values()) / count * 1e3
        rows.append(Row(f"{name}: system calls, {where} ({listed})", total, "per 1,000 jobs"))
    return rows


@contextlib.contextmanager
def _counted(pid: int) -> Iterator[dict[str, int]]:
    """Counts the system calls of a process; the table is filled at the end.

    Raises:
        OSError: They cannot be counted.
    """
    if not (strace := shutil.which("strace")):
        raise FileNotFoundError("there is no strace")
    table: dict[str, int] = {}
    with tempfile.NamedTemporaryFile("r") as file:
        command = [strace, "-f", "-c", "-U", "calls,name", "-o", file.name, "-p", str(pid)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        said = ""
        try:
            while "attached" not in said:
                line = process.stderr.readline()
                if not line:
                    raise PermissionError(said.strip())
                said += line
            yield table
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()
        for line in file:
            times, _, call = line.strip().partition(" ")
            if times.isdecimal() and call.strip() != "total":
                table[call.strip()] = int(times)
