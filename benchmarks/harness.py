"""What all benchmarks share: rows, a node of their own, interleaved pairs, CPU time of processes.

Everything runs in a *sandbox*: temporary state and runtime directories, so that clusters and nodes
find each other and nothing else. What was started in a sandbox is ended with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil

from dispy import DispyJob, JobCluster

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PROGRAMS = ROOT / "benchmarks" / "programs"

USER = "BENCHMARK_USER"
"""Environment variable with the account that jobs of the nodes run as (``dispynode --user``), set by
``python -m benchmarks --user NAME``; it must be able to run this Python."""

STATISTICS = "BENCHMARK_STATISTICS"
"""Environment variable, set by ``python -m benchmarks --statistics``: programs and nodes say their numbers at their
end."""

SAYS_STATISTICS = "statistics: "
"""Words before these numbers."""

START_S = 20.0
"""Time for a node to say that it listens."""

STOP_S = 10.0
"""Time for a process to end by itself before it is killed."""

# Rows.


class Bound(msgspec.Struct, frozen=True):
    """A value that a measurement must not exceed, or not fall below."""

    kind: Literal["<=", ">="]
    limit: float

    def is_met(self, value: float) -> bool:
        """Whether a value keeps to it."""
        return value <= self.limit if self.kind == "<=" else value >= self.limit


def at_most(limit: float) -> Bound:
    """The value may be so large."""
    return Bound("<=", limit)


def at_least(limit: float) -> Bound:
    """The value must be so large."""
    return Bound(">=", limit)


class Row(msgspec.Struct):
    """One measured figure.

    ``bar`` is what must be reached, ``aim`` what we want; rows without them are there for
    information. ``samples`` are the values that ``value`` was made of.
    """

    claim: str
    value: float
    unit: str = ""
    bar: Bound | None = None
    aim: Bound | None = None
    samples: list[float] = []
    met_bar: bool | None = None
    met_aim: bool | None = None

    def __post_init__(self) -> None:
        self.met_bar = self.bar.is_met(self.value) if self.bar else None
        self.met_aim = self.aim.is_met(self.value) if self.aim else None


class Result(msgspec.Struct):
    """What a benchmark leaves in ``results/NAME.json``."""

    name: str
    is_quick: bool
    python: str
    cpus: int
    load: float
    """Load average of the minute before: above one or two, absolute figures say little."""
    seconds: float
    rows: list[Row]


def median_row(
    claim: str, samples: Sequence[float], unit: str = "", bar: Bound | None = None, aim: Bound | None = None
) -> Row:
    """A row whose value is the median of its samples."""
    return Row(claim, statistics.median(samples), unit, bar, aim, list(samples))


def ratios(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """The first of each pair divided by the second."""
    return [first / second for first, second in pairs]


def interleave(
    count: int, first: Callable[[], float], second: Callable[[], float]
) -> list[tuple[float, float]]:
    """Measure two things in turns, so that what else the machine does meets both alike.

    The order changes with every pair. Returns (first, second) of each.
    """
    pairs = []
    for number in range(count):
        if number % 2:
            right = second()
            pairs.append((first(), right))
        else:
            left = first()
            pairs.append((left, second()))
    return pairs


def timed(function: Callable[[], object]) -> float:
    """Seconds (wall clock) that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


# Processes.


@contextlib.contextmanager
def sandbox() -> Iterator[Path]:
    """Temporary state and runtime directories in the environment; ends what is left in them at the end."""
    names = ("XDG_STATE_HOME", "XDG_RUNTIME_DIR")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(prefix="dispy-bench-") as directory:
        os.chmod(directory, 0o711)  # jobs of another account find their directories below
        for name in names:
            path = Path(directory) / name.lower()
            path.mkdir(mode=0o700)
            os.environ[name] = str(path)
        try:
            yield Path(directory)
        finally:
            _end_leftovers(os.environ["XDG_RUNTIME_DIR"])
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _end_leftovers(runtime: str) -> None:
    """Kill what was started in a sandbox and still lives after a moment; say so, for it is a bug."""
    deadline = time.monotonic() + 2
    while (left := _started_in(runtime)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in left:
        with contextlib.suppress(psutil.Error):
            print(f"left behind: {process.pid} {' '.join(process.cmdline())}", file=sys.stderr)
            process.kill()
    psutil.wait_procs(left, timeout=STOP_S)


def _started_in(runtime: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_ours = process.pid != os.getpid() and process.environ().get("XDG_RUNTIME_DIR") == runtime
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextlib.contextmanager
def running_node(cpus: int = 2) -> Iterator[int]:
    """A ``dispynode`` in the sandbox, on a free loopback port; yields its pid once it listens."""
    with listening_node(cpus) as (pid, _):
        yield pid


@contextlib.contextmanager
def listening_node(
    cpus: int = 2, *options: str, module: str = "dispy.cli.node"
) -> Iterator[tuple[int, int]]:
    """A daemon with more options, perhaps another one (``cpus`` 0: it has none); yields its pid and port."""
    command = [sys.executable, "-m", module, "--listen_port", "0", *options]
    if cpus:
        command += ["--cpus", str(cpus)]
    if cpus and os.environ.get(USER):
        command += ["--user", os.environ[USER]]
    # Its log goes where ours goes.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        yield process.pid, _wait_listening(process)
    finally:
        if os.environ.get(STATISTICS) and process.poll() is None:
            process.send_signal(signal.SIGUSR2)  # it comes before SIGTERM, and in this order
        end(process)


def _wait_listening(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    said = b""
    deadline = time.monotonic() + START_S
    while b"listens on" not in said:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"dispynode does not listen: exit code {process.poll()}, said {said!r}")
        said += process.stdout.read() or b""
        time.sleep(0.005)
    return int(said.split(b"listens on ")[1].split()[0].rpartition(b":")[2])


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that we started, by force if it takes too long."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        print(f"killed after {STOP_S:g} s: {process.args!r}", file=sys.stderr)
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process and all below it: by request, then by force."""
    below = []
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


@contextlib.contextmanager
def node() -> Iterator[int]:
    """A node with two CPUs in a sandbox of its own; yields its pid."""
    with sandbox(), running_node() as pid:
        yield pid


@contextlib.contextmanager
def cluster(function: Callable[..., Any] | str, warm: int = 0, **options: Any) -> Iterator[JobCluster]:
    """A cluster that is gone afterwards, thread and connections included.

    Args:
        function: The computation.
        warm: Jobs ``function(number)`` to run before, so that it is loaded and its workers run.
        options: Of ``JobCluster``.
    """
    made = JobCluster(function, **options)
    try:
        gather([made.submit(number) for number in range(warm)])
        yield made
        if os.environ.get(STATISTICS):
            _say_statistics()
    except BaseException:
        made.close(terminate=True)
        raise
    finally:
        made.shutdown()


@contextlib.contextmanager
def pool() -> Iterator[ProcessPoolExecutor]:
    """A ``ProcessPoolExecutor`` with two forked workers that have both run something."""
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, mp_context=context) as made:
        list(made.map(time.sleep, [0.02] * 4))
        yield made


def _say_statistics() -> None:
    """Say the numbers of this program. The imports are here: other checkouts that are measured may not have them."""
    from dispy.client.engine.engine import engine
    from dispy.system.wording import facts

    print(f"this program: {SAYS_STATISTICS}{facts(engine().statistics())}", file=sys.stderr)


# Running jobs.


def span(job: DispyJob) -> tuple[float, float]:
    """When a job that has ended began and ended (seconds since the epoch)."""
    assert job.start_time is not None
    assert job.end_time is not None
    return job.start_time, job.end_time


def noop(value: int) -> int:
    """The job that does nothing."""
    return value


def gather(jobs: Sequence[Any]) -> None:
    """Wait for all jobs in order; raises what one of them raised."""
    for job in jobs:
        job()
        if job.status != job.Finished:
            raise RuntimeError(f"{job!r} failed: {job.exception}")


def run_jobs(made: JobCluster, count: int) -> float:
    """Submit so many jobs one by one, then gather all results; returns seconds."""
    return run_values(made, range(count), range(count))


def run_values(made: JobCluster, values: Sequence[Any], expected: Sequence[Any]) -> float:
    """Submit a job for each value, then gather all results; returns seconds.

    Args:
        made: The cluster.
        values: An argument for each job.
        expected: What the jobs return.
    """
    submit = made.submit
    start = time.perf_counter()
    jobs = [submit(value) for value in values]
    results = [job() for job in jobs]
    seconds = time.perf_counter() - start
    if results != list(expected):
        gather(jobs)
        raise RuntimeError("jobs returned something else than they should")
    return seconds


def run_futures(made: Executor, function: Callable[[int], int], count: int) -> float:
    """The same with futures; returns seconds."""
    submit = made.submit
    start = time.perf_counter()
    futures = [submit(function, number) for number in range(count)]
    for future in futures:
        future.result()
    return time.perf_counter() - start


def cpu_s_by_pid() -> dict[int, float]:
    """CPU time (seconds, user and system) of this process and of everything below it.

    A process that ends in between is not lost: its time goes to the parent that waited for it.
    """
    found = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            found[process.pid] = sum(process.cpu_times()[:4])
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """The value that so large a share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
