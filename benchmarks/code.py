"""What it costs that a user's code travels: modules of a program's own, and classes in arguments and results.

Every measured program is a fresh process, a script of its own directory, and so is the node, which runs
before. With a second source tree (``--against``) each has a node of its own, the programs of both run in
turns, and the ratio of the two is taken pair by pair; which dispy a process has, ``PYTHONPATH`` says.

Until its first result a program costs: wall time from the start of the interpreter; CPU time of program,
node, host and workers by the kernel's clock of each process (a host that the node starts ahead of need is
left out); bytes that the program has sent, by the kernel's count for its TCP connections. They hold all
that travels. The length of the computation's code is said beside them, where the cluster has it: modules
that a job's function imports may travel as files beside the code. Memory is that of the host and its
workers then, from ``smaps_rollup``.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import psutil

from benchmarks import harness, own_code
from benchmarks.harness import PROGRAMS, ROOT, START_S, STOP_S, Row, median_row

TIMES = 5
TIMES_AGAINST = 15
"""Alternations, unless told."""

STILL_S = 0.1
STILL_CPU_S = 0.005
"""A node whose processes have used no more CPU in that time waits for work."""

RESAMPLED = 4_000
"""For an interval; its ends then move by a hundredth of its width from seed to seed."""

FORMS = {
    "none": "no modules",
    "global": "20 modules of the script",
    "inside": "20 modules of the job",
}
JOBS = {
    "noop": "no-op jobs",
    "script argument": "argument, class of the script",
    "module argument": "argument, class of a module",
    "script result": "result, class of the script",
    "module result": "result, class of a module",
}
IMPORTS = ("import dispy", "from dispy import JobCluster")

Figures = dict[str, tuple[float, str]]
"""Values with their units by what was measured."""


class Side(NamedTuple):
    """One of the source trees that are compared, with a node that runs it."""

    environment: dict[str, str]
    """For programs that are to find this node."""
    node: int
    """Its pid."""


Measure = Callable[[Side], Figures]


def run(quick: bool, against: str | None = None, times: int | None = None) -> list[Row]:
    """Measure this tree, or this and another in turns.

    Args:
        quick: Everything once and small.
        against: Directory of another checkout, which counts as the one before.
        times: Measurements of everything, on each side.
    """
    times = times or (1 if quick else TIMES_AGAINST if against else TIMES)
    trees = [Path(against).resolve(), ROOT] if against else [ROOT]
    kinds = _kinds(quick)
    taken: dict[str, list[list[Figures]]] = {name: [[] for _ in trees] for name in kinds}
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(_side(tree)) for tree in trees]
        for side in sides:
            first_result(side, "inside", "before all")  # compiles what has not run before
        for turn in range(times):
            order = list(range(len(sides)))[:: -1 if turn % 2 else 1]
            for name, measure in kinds.items():
                if name in FORMS.values():
                    # Before the pair, not between: a host started ahead of need comes two seconds after a program.
                    for side in sides:
                        _wait_ready(side.node)
                for which in order:
                    taken[name][which].append(measure(sides[which]))
            print(f"{turn + 1} of {times}", flush=True)
    return [row for name in kinds for row in _rows(name, taken[name])]


def _kinds(quick: bool) -> dict[str, Measure]:
    """What is measured, in the order of a turn."""
    runs = iter(range(sys.maxsize))

    def first(form: own_code.Form) -> Measure:
        return lambda side: first_result(side, form, f"{os.getpid()} {next(runs)}")

    def jobs(kind: str) -> Measure:
        count = 200 if quick else 20_000 if kind == "noop" else 10_000
        return lambda side: many_jobs(side, kind, count)

    def importing(code: str) -> Measure:
        return lambda side: interpreter(side, code)

    kinds = {FORMS[form]: first(form) for form in get_args(own_code.Form)}
    kinds |= {JOBS[kind]: jobs(kind) for kind in JOBS}
    kinds |= {code: importing(code) for code in IMPORTS}
    return kinds


# What is measured.


def first_result(side: Side, form: own_code.Form, run: str) -> Figures:
    """A fresh program, from its start to its first result, with modules that the node has not seen."""
    with tempfile.TemporaryDirectory(prefix="dispy-bench-") as directory:
        script = own_code.write(Path(directory), form, run)
        before = _cpu_s([side.node, *_below(side.node)])
        start = time.monotonic()
        with _running(side, script) as program:
            said = program.mark()
            host = _busy_host(side.node)
            places = [host, *_below(host)]
            cpu_s = said["cpu_s"] + _cpu_s([side.node, *places]) - before
            memory = [_memory_mib(pid) for pid in places]
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(host).wait(STOP_S)
    return {
        "wall time to the first result": ((said["when"] - start) * 1e3, "ms"),
        "CPU, all processes": (cpu_s * 1e3, "ms"),
        "CPU, the program": (said["cpu_s"] * 1e3, "ms"),
        "bytes sent until then": (said["sent"], "B"),
        "code of the computation": (said["code_bytes"], "B"),
        "host, PSS": (memory[0]["Pss"], "MiB"),
        "host, private": (memory[0]["Private_Clean"] + memory[0]["Private_Dirty"], "MiB"),
        "host and workers, PSS": (sum(each["Pss"] for each in memory), "MiB"),
    }


def many_jobs(side: Side, kind: str, count: int) -> Figures:
    """So many jobs, by a program that has run some before."""
    with _running(side, PROGRAMS / "code_jobs.py", kind, str(count)) as program:
        before = program.mark()
        host = _busy_host(side.node)
        cpu_s = _cpu_s([side.node, host, *_below(host)])
        program.go_on()
        after = program.mark()
        cpu_s = _cpu_s([side.node, host, *_below(host)]) - cpu_s + after["cpu_s"] - before["cpu_s"]
    return {
        "rate": (count / after["seconds"], "jobs/s"),
        "CPU per job, all processes": (cpu_s / count * 1e6, "us"),
        "CPU per job, the program": ((after["cpu_s"] - before["cpu_s"]) / count * 1e6, "us"),
        "bytes sent per job": ((after["sent"] - before["sent"]) / count, "B"),
        "bytes received per job": ((after["received"] - before["received"]) / count, "B"),
    }


def interpreter(side: Side, code: str) -> Figures:
    """A fresh interpreter that runs a line and ends."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=side.environment, check=True)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall time, with the interpreter": (seconds * 1e3, "ms"), "CPU": (cpu_s * 1e3, "ms")}


# Programs and nodes.


@contextlib.contextmanager
def _side(tree: Path) -> Iterator[Side]:
    """A node that runs the sources of a tree, in a sandbox of its own.

    Processes find the sources by a link. By their own path, where one of the trees is installed for
    development, that one would have a directory less to be searched: an import that fails, as does that of
    a module that workers do not have, was a fifth cheaper.
    """
    if not (tree / "src" / "dispy").is_dir():
        raise FileNotFoundError(f"there is no src/dispy in {tree}")
    path = os.environ.get("PYTHONPATH")
    with harness.sandbox() as directory:
        sources = directory / "src"
        sources.symlink_to(tree / "src")
        os.environ["PYTHONPATH"] = str(sources)
        try:
            with harness.running_node() as node:
                # The measured programs use what is in ``benchmarks`` of this tree, and the node does not.
                yield Side({**os.environ, "PYTHONPATH": f"{sources}{os.pathsep}{ROOT}"}, node)
        finally:
            if path is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = path


class _Program:
    """A measured program, which stops at marks (``code_marks.py``)."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def mark(self) -> dict[str, float]:
        """What it says at its next mark, where it waits until it may go on."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        said: dict[str, float] = json.loads(line)
        return said

    def go_on(self) -> None:
        """Let it go on from its mark."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()


@contextlib.contextmanager
def _running(side: Side, script: Path, *arguments: str) -> Iterator[_Program]:
    """A program that is let go on from its last mark at the end, and ends by itself."""
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        cwd=script.parent, env=side.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        program = _Program(process)
        yield program
        program.go_on()
        if code := process.wait(START_S):
            raise RuntimeError(f"{process.args!r} ended with {code}")
    finally:
        if process.poll() is None:
            harness.end(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _wait_ready(node: int) -> None:
    """Wait until a node has the host that it starts ahead of need, and does nothing."""
    deadline = time.monotonic() + START_S
    before = 0.0
    while time.monotonic() < deadline:
        below = _below(node)
        with contextlib.suppress(OSError):
            now = _cpu_s([node, *below])
            if len(below) == 1 and 0 <= now - before < STILL_CPU_S:
                return
            before = now
        time.sleep(STILL_S)
    raise RuntimeError(f"the node has not come to rest; below it are {_below(node)}")


# What the kernel says of processes.


def _below(pid: int) -> list[int]:
    """Processes that it has started, and those that they have."""
    return [process.pid for process in psutil.Process(pid).children(recursive=True)]


def _busy_host(node: int) -> int:
    """The host with workers; one that is started ahead of need has none."""
    found: list[int] = [process.pid for process in psutil.Process(node).children() if process.children()]
    if len(found) != 1:
        raise RuntimeError(f"not one host with workers, but {found}")
    return found[0]


def _cpu_s(pids: Sequence[int]) -> float:
    """CPU time of processes that live, with that of their threads that have ended.

    By the clock that the kernel has for each process (``clock_getcpuclockid``), in nanoseconds;
    ``/proc/PID/stat`` counts hundredths of a second.
    """
    return sum([time.clock_gettime((~pid << 3) | 2) for pid in pids])


def _memory_mib(pid: int) -> dict[str, float]:
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        found[name] = int(value.split()[0]) / 1024
    return found


# Rows.


def _rows(name: str, taken: Sequence[Sequence[Figures]]) -> list[Row]:
    """Rows of one kind; of two sides first the ratio of now to before, with its interval of 95 %, then both."""
    rows = []
    for what, (_, unit) in taken[0][0].items():
        samples = [[figures[what][0] for figures in side] for side in taken]
        claim = f"{name}: {what}"
        if len(samples) == 1:
            rows.append(median_row(claim, samples[0], unit))
            continue
        before, now = samples
        if all(before):
            paired = harness.ratios(list(zip(now, before, strict=True)))
            low, high = interval(paired)
            claim += f", ratio ({low:.3f} to {high:.3f})"
            rows.append(Row(claim, statistics.median(paired), "x", samples=paired))
        else:
            rows.append(Row(claim, float("nan"), "x"))
        rows += [median_row("  before", before, unit), median_row("  now", now, unit)]
    return rows


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median lies with 95 % probability: a bootstrap, which is the same in every run."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(RESAMPLED))
    return medians[int(0.025 * RESAMPLED)], medians[int(0.975 * RESAMPLED) - 1]
