"""Jobs of one program while another sends several large files to the same node.

Files cost CPU, which the jobs do not have then: both sides hash them, the kernel copies them over a socket and into
the file system. So what is left for jobs is compared with what is left beside the least that has to be
done, a bare transfer of as many bytes, hashed on both sides and written to a file, by programs that know nothing
of each other. Once with many jobs at a time, for how many are done; once with one after the other, for how long each
takes.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import harness
from benchmarks.files import receiver
from benchmarks.harness import ROOT, Row, at_least, at_most, median_row, quantile
from dispy import JobCluster

FILES = 4
BATCH = 500
"""Jobs that are submitted at once."""


def run(quick: bool) -> list[Row]:
    """Measure with 400 MB, or with little."""
    size, repeats = (5_000_000, 1) if quick else (100_000_000, 5)
    rates: dict[str, list[float]] = {how: [] for how in ("alone", "dispy", "bare")}
    spans: dict[str, list[float]] = {how: [] for how in rates}
    seconds: dict[str, list[float]] = {how: [] for how in rates}
    took: dict[str, list[float]] = {how: [] for how in rates}
    with harness.sandbox() as place, ExitStack() as stack:
        node = stack.enter_context(
            harness.listening_node(2, "--dest_path_prefix", str(place), "--store_max", "1g")
        )[1]
        ports = {"dispy": node, "bare": stack.enter_context(receiver(FILES * size, place / "kept"))}
        tell = stack.enter_context(_sender())
        cluster = stack.enter_context(harness.cluster(harness.noop, warm=2000))
        paths = [place / f"file-{number}" for number in range(FILES)]
        for path in paths:
            path.write_bytes(os.urandom(size))
        for number in range(repeats):
            for how in sorted(rates, reverse=bool(number % 2)):
                for is_many in (True, False):
                    # What a node has it does not ask for.
                    for path in paths:
                        _change(path)
                    time.sleep(0.2)
                    over = threading.Event()
                    thread = threading.Thread(
                        target=_beside, args=(tell, how, ports.get(how, 0), paths, over)
                    )
                    thread.start()
                    start = time.perf_counter()
                    if is_many:
                        count = _many(cluster, over)
                        spans[how].append(time.perf_counter() - start)
                        rates[how].append(count / spans[how][-1])
                    else:
                        took[how] += _one_by_one(cluster, over)
                        seconds[how].append(time.perf_counter() - start)
                    thread.join()
    name = f"beside {FILES} files of {size / 1e6:.0f} MB"
    rows = [
        median_row(
            f"no-op jobs {name} of another program: ratio to beside a bare transfer",
            harness.ratios(list(zip(rates["dispy"], rates["bare"], strict=True))),
            "x",
            at_least(0.8),
            at_least(1),
        ),
        median_row(f"  {name}", rates["dispy"], "jobs/s"),
        median_row("  beside a bare transfer, hash and file", rates["bare"], "jobs/s"),
        median_row("  alone", rates["alone"], "jobs/s"),
        *_costs(name, rates, spans),
        median_row(f"  one after the other, {name}: the files take", seconds["dispy"], "s"),
        median_row("  the bare transfer takes", seconds["bare"], "s"),
    ]
    for share, bar in ((0.5, at_most(2)), (0.99, at_most(3))):
        mine, other = quantile(took["dispy"], share), quantile(took["bare"], share)
        rows += [
            Row(f"a job after another, {name}, p{100 * share:.0f}: ratio to beside a bare transfer",
                mine / other, "x", bar),
            Row(f"  {name}", mine * 1e3, "ms"),
            Row("  beside a bare transfer", other * 1e3, "ms"),
            Row("  alone", quantile(took["alone"], share) * 1e3, "ms"),
        ]  # fmt: skip
    return rows


def _costs(name: str, rates: dict[str, list[float]], spans: dict[str, list[float]]) -> list[Row]:
    """How long jobs would have taken alone that were not done meanwhile."""
    alone = statistics.median(rates["alone"])
    costs = {
        how: [span * max(0, 1 - rate / alone) for span, rate in zip(spans[how], rates[how], strict=True)]
        for how in ("dispy", "bare")
    }
    return [
        median_row(f"  time for jobs that is lost {name}", costs["dispy"], "s"),
        median_row("  beside a bare transfer", costs["bare"], "s"),
    ]


def _change(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(32))


def _beside(
    tell: Callable[[str], None], how: str, port: int, paths: list[Path], over: threading.Event
) -> None:
    try:
        if how == "alone":
            time.sleep(1)
        else:
            tell(f"{how} {port} {' '.join(map(str, paths))}")
    finally:
        over.set()


def _many(cluster: JobCluster, over: threading.Event) -> int:
    """Run jobs until that is over; returns how many."""
    count = 0
    while not over.is_set():
        harness.run_jobs(cluster, BATCH)
        count += BATCH
    return count


def _one_by_one(cluster: JobCluster, over: threading.Event) -> list[float]:
    """The same one after the other; returns how long each took (seconds)."""
    seconds = []
    while not over.is_set():
        seconds.append(harness.timed(lambda: cluster.submit(0)()))
    return seconds


@contextmanager
def _sender() -> Iterator[Callable[[str], None]]:
    """The other program; yields what tells it to send something, and waits until it has."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.programs.send_files"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    reading, writing = process.stdout, process.stdin
    assert reading is not None
    assert writing is not None
    reading.readline()

    def tell(line: str) -> None:
        writing.write(line + "\n")
        writing.flush()
        if reading.readline() != "sent\n":
            raise RuntimeError("the files were not sent")

    try:
        yield tell
    finally:
        writing.close()
        harness.end(process)
