"""Runs benchmarks, each in a process of its own, and prints a table.

    python -m benchmarks              all of them
    python -m benchmarks NAME...      some
    python -m benchmarks --quick      everything small: does it run?
    python -m benchmarks --statistics NAME    with the numbers of programs and nodes at their end
    python -m benchmarks --user NAME files put large_shared    with jobs that run as another account (by root)
    python -m benchmarks code --against PATH    with another checkout, in turns: the ratios

Results are kept in ``benchmarks/results/NAME.json``, what a benchmark had to say in ``NAME.log``.
The exit code tells whether all ran; no figure is asserted.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import os
import platform
import signal
import subprocess
import sys
import time
from typing import NoReturn

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import CLAIMS
from benchmarks.harness import (
    RESULTS,
    ROOT,
    SAYS_STATISTICS,
    STATISTICS,
    USER,
    Bound,
    Result,
    Row,
    end_tree,
)

QUICK_S = 20.0
FULL_S = 400.0
"""A benchmark that takes longer hangs."""

TURN_S = 120.0
"""Time for each turn of a comparison, on top of that."""


def main() -> None:
    """Entry of ``python -m benchmarks``."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure what dispy claims.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(CLAIMS)}")
    parser.add_argument("--quick", action="store_true", help="everything small; figures mean nothing")
    parser.add_argument("--user", metavar="NAME", help="account that jobs of the nodes run as")
    parser.add_argument(
        "--statistics", action="store_true", help="print numbers of programs and nodes, too"
    )
    parser.add_argument("--against", metavar="PATH", help="compare with another checkout (code only)")
    parser.add_argument("--times", type=int, help="measurements of everything (code only)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in options.names:
        if name not in CLAIMS:
            parser.error(f"no benchmark {name!r}; there are {', '.join(CLAIMS)}")
    if (options.against or options.times) and options.names != ["code"]:
        parser.error("--against and --times belong to code: python -m benchmarks code --against PATH")
    if options.user:
        os.environ[USER] = options.user
    if options.statistics:
        os.environ[STATISTICS] = "1"
    if options.here:
        run_here(options.names[0], options.quick, options.against, options.times)
        return
    # The floors belong to every run: they say how fast the machine was just then.
    names = [name for name in CLAIMS if name == "floors" or name in options.names or not options.names]
    load = os.getloadavg()[0]
    RESULTS.mkdir(exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 140)
    failures = {}
    for place, name in enumerate(names, 1):
        if not console.is_terminal:  # where no line can be drawn anew, each is printed once
            print(f"{place}/{len(names)} {name}", flush=True)
        with console.status(name):
            if name == "code":
                reason = run_apart(name, options.quick, options.against, options.times)
            else:
                reason = run_apart(name, options.quick)
        if reason:
            failures[name] = reason
    console.print(_table([name for name in names if name not in failures], load, options.quick))
    for name in names if options.statistics else ():
        _say_statistics(name)
    for name, reason in failures.items():
        console.print(f"{name}: {reason}; see {(RESULTS / name).relative_to(ROOT)}.log", style="red")
    sys.exit(1 if failures else 0)


def run_here(name: str, is_quick: bool, against: str | None = None, times: int | None = None) -> None:
    """Run one benchmark in this process and write its result."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGTERM, _leave)
    load = os.getloadavg()[0]
    start = time.perf_counter()
    module = importlib.import_module(f"benchmarks.{name}")
    rows = module.run(is_quick, against, times) if name == "code" else module.run(is_quick)
    seconds = time.perf_counter() - start
    cpus = os.cpu_count() or 1
    result = Result(name, is_quick, platform.python_version(), cpus, load, seconds, rows)
    (RESULTS / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(result)))


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def run_apart(name: str, is_quick: bool, against: str | None = None, times: int | None = None) -> str:
    """Run one benchmark in a process of its own; returns what went wrong.

    Args:
        name: Of the benchmark.
        is_quick: Everything small.
        against: Another checkout to compare with.
        times: How often to measure everything.
    """
    (RESULTS / f"{name}.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks", "--here", *(["--quick"] if is_quick else []), name]
    limit_s = QUICK_S if is_quick else FULL_S
    if against:
        command += ["--against", os.path.abspath(against)]
    if times:
        command += ["--times", str(times)]
    if against or times:
        limit_s += TURN_S * (times or 15)
    # Unbuffered output or unwritten bytecode, say, are not what users have.
    environment = {
        key: value
        for key, value in os.environ.items()
        if key == "PYTHONPATH" or not key.startswith("PYTHON")
    }
    with open(RESULTS / f"{name}.log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGUSR1)  # where it hangs goes to the log
            time.sleep(0.2)
            end_tree(process)
            return "did not end in time"
        except BaseException:
            end_tree(process)
            raise
    if code:
        return f"failed with exit code {code}"
    return ""


def _say_statistics(name: str) -> None:
    """Print what the last program and the last node of a benchmark have said of themselves."""
    said = {}
    for line in (RESULTS / f"{name}.log").read_text(errors="replace").splitlines():
        before, words, numbers = line.partition(SAYS_STATISTICS)
        if words:
            said["program" if before == "this program: " else "node"] = numbers
    for who, numbers in said.items():
        print(f"{name}, {who}: {numbers}")


# The table.


def _table(names: list[str], load: float, is_quick: bool) -> Table:
    title = f"dispy benchmarks, load average {load:.1f} before" + (
        " (quick: the figures mean nothing)" if is_quick else ""
    )
    table = Table(title=title)
    for heading in ("benchmark", "claim"):
        table.add_column(heading, overflow="fold")
    for heading in ("value", "bar", "aim"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("bar?", justify="center")
    table.add_column("aim?", justify="center")
    for name in names:
        result = msgspec.json.decode((RESULTS / f"{name}.json").read_bytes(), type=Result)
        for number, row in enumerate(result.rows):
            table.add_row(*_cells("" if number else name, row), end_section=row is result.rows[-1])
    return table


def _cells(name: str, row: Row) -> tuple[str, ...]:
    value = f"{_number(row.value)} {row.unit}".rstrip()
    return (
        name,
        row.claim,
        value,
        _bound(row.bar),
        _bound(row.aim),
        _mark(row.met_bar),
        _mark(row.met_aim),
    )


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _bound(bound: Bound | None) -> str:
    return f"{bound.kind} {_number(bound.limit)}" if bound else ""


def _mark(is_met: bool | None) -> str:
    return "" if is_met is None else "[green]yes[/]" if is_met else "[red]no[/]"


if __name__ == "__main__":
    main()
