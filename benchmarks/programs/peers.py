"""Measures one library at what all of them do: it starts two processes, and runs calls in them.

    python -m benchmarks.programs.peers NAME SCALE      prints the figures as JSON

Each library is used as its first pages show it, with two processes on this machine. One that is not installed prints
``null``.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import msgspec
import psutil

from benchmarks.programs import peer_calls

CPUS = 2

PAUSES, PAUSE_S = 80, 0.025
"""Calls that only wait, and how long: two processes need one second for them."""

ARRAY_BYTES, ARRAY_CALLS = 64 << 20, 8
"""Size of an array that several calls read, and how many do."""


PROGRAM, PROGRAMS = "/bin/true", 1_500
"""A program that does nothing, and how often it is run."""


class Peer(NamedTuple):
    """A library that runs.

    Attributes:
        run: Runs a function once for each value, all submitted before the first is waited for; returns the results.
        share: Makes what is given to calls of a function in place of a large array: a handle, or the array itself.
        calls: How many empty calls are measured; fewer of those that take long.
        run_programs: Runs ``PROGRAM`` so many times and waits for all; None for a library that calls functions alone.
        returns: False for a library whose calls return nothing to the program.
    """

    run: Callable[[Callable[..., Any], Sequence[Any]], list[Any]]
    share: Callable[[Callable[..., Any], Any], Any]
    calls: int = 5_000
    run_programs: Callable[[int], object] | None = None
    returns: bool = True


class Figures(msgspec.Struct):
    """What was measured of a library.

    Attributes:
        version: Its version.
        first_s: Seconds from before it is imported to the first result.
        rate: Empty calls per second, all submitted at once.
        latency_ms: Milliseconds from submitting one call to its result, the median of calls one after another.
        pauses_s: Seconds for ``PAUSES`` calls of ``PAUSE_S``; two processes need one at least.
        array_s: Seconds for ``ARRAY_CALLS`` calls that read one array of ``ARRAY_BYTES``; 0: not measured.
        programs: Runs of ``PROGRAM`` per second; 0: not measured.
        memory_mb: Memory of all processes that the library has started, shared pages counted once (MB).
    """

    version: str
    first_s: float
    rate: float
    latency_ms: float
    pauses_s: float
    array_s: float
    programs: float
    memory_mb: float


def _library(name: str) -> Any:
    """Returns a module that need not be installed, and of whose types nothing is known here."""
    return importlib.import_module(name)


def _same(function: Callable[..., Any], array: Any) -> Any:
    return array


@contextlib.contextmanager
def dispy() -> Iterator[Peer]:
    """A cluster per function, over the node that the program starts for itself."""
    from dispy import JobCluster

    with contextlib.ExitStack() as stack:
        clusters: dict[Callable[..., Any], Any] = {}

        def of(function: Callable[..., Any]) -> Any:
            if function not in clusters:
                clusters[function] = stack.enter_context(JobCluster(function))
            return clusters[function]

        def run(function: Callable[..., Any], values: Sequence[Any]) -> list[Any]:
            submit = of(function).submit
            return [job.get() for job in [submit(value) for value in values]]

        def run_programs(count: int) -> None:
            cluster = stack.enter_context(JobCluster(PROGRAM))
            for job in [cluster.submit() for _ in range(count)]:
                job.get()

        yield Peer(run, lambda function, array: of(function).put(array), run_programs=run_programs)


@contextlib.contextmanager
def dispy_map() -> Iterator[Peer]:
    """The same by ``map``, which sends items in chunks, as joblib does."""
    with dispy() as by_job:
        from dispy import JobCluster

        with JobCluster(peer_calls.noop) as cluster:

            def run(function: Callable[..., Any], values: Sequence[Any]) -> list[Any]:
                is_empty = function is peer_calls.noop
                return list(cluster.map(values)) if is_empty else by_job.run(function, values)

            yield Peer(run, by_job.share)


@contextlib.contextmanager
def pool() -> Iterator[Peer]:
    """The pool of the standard library."""
    with ProcessPoolExecutor(CPUS) as made:
        yield Peer(
            lambda function, values: [
                each.result() for each in [made.submit(function, value) for value in values]
            ],
            _same,
        )


@contextlib.contextmanager
def joblib() -> Iterator[Peer]:
    """Joblib with its usual backend, which maps arrays into memory and sends small calls in batches."""
    library = _library("joblib")
    delayed = library.delayed
    with library.Parallel(n_jobs=CPUS) as made:
        yield Peer(lambda function, values: list(made(delayed(function)(value) for value in values)), _same)


@contextlib.contextmanager
def distributed() -> Iterator[Peer]:
    """Dask's scheduler with workers of one thread."""
    library = _library("distributed")
    with (
        library.LocalCluster(n_workers=CPUS, threads_per_worker=1, dashboard_address=None) as made,
        library.Client(made) as client,
    ):
        yield Peer(
            lambda function, values: client.gather(
                [client.submit(function, value, pure=False) for value in values]
            ),
            lambda _, array: client.scatter(array, broadcast=True),
            calls=2_000,
        )


@contextlib.contextmanager
def ray() -> Iterator[Peer]:
    """Ray on this machine."""
    library = _library("ray")
    library.init(num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    remotes: dict[Callable[..., Any], Any] = {}

    def run(function: Callable[..., Any], values: Sequence[Any]) -> list[Any]:
        if function not in remotes:
            remotes[function] = library.remote(function)
        submit = remotes[function].remote
        results: list[Any] = library.get([submit(value) for value in values])
        return results

    try:
        yield Peer(run, lambda _, array: library.put(array))
    finally:
        library.shutdown()


@contextlib.contextmanager
def parsl() -> Iterator[Peer]:
    """Parsl with its executor for many short calls."""
    library = _library("parsl")
    with tempfile.TemporaryDirectory(prefix="dispy-bench-parsl-") as directory:
        executor = _library("parsl.executors").HighThroughputExecutor(
            max_workers_per_node=CPUS, address="127.0.0.1"
        )
        settings = library.Config(executors=[executor], run_dir=directory, initialize_logging=False)
        apps: dict[Callable[..., Any], Any] = {}
        with library.load(settings) as kernel:

            def run(function: Callable[..., Any], values: Sequence[Any]) -> list[Any]:
                if function not in apps:
                    apps[function] = library.python_app(function, data_flow_kernel=kernel)
                return [each.result() for each in [apps[function](value) for value in values]]

            yield Peer(run, _same, calls=2_000)


@contextlib.contextmanager
def hyperqueue() -> Iterator[Peer]:
    """HyperQueue by its Python interface: a process per call, and nothing comes back but that it has ended."""
    make_job, library = _library("hyperqueue").Job, _library("hyperqueue.cluster")
    with tempfile.TemporaryDirectory(prefix="dispy-bench-hq-") as directory, library.LocalCluster() as made:
        made.start_worker(library.WorkerConfig(cores=CPUS))
        client = made.client()

        def run(function: Callable[..., Any], values: Sequence[Any]) -> list[Any]:
            job = make_job(default_workdir=directory)
            for value in values:
                job.function(function, args=(value,), stdout=None, stderr=None)
            client.wait_for_jobs([client.submit(job)])
            return []

        def run_programs(count: int) -> None:
            job = make_job(default_workdir=directory)
            for _ in range(count):
                job.program([PROGRAM], stdout=None, stderr=None)
            client.wait_for_jobs([client.submit(job)])

        yield Peer(run, _same, calls=40, run_programs=run_programs, returns=False)


PEERS: dict[str, tuple[str, Callable[[], contextlib.AbstractContextManager[Peer]]]] = {
    "dispy": ("dispy", dispy),
    "dispy map": ("dispy", dispy_map),
    "ProcessPoolExecutor": ("", pool),
    "joblib": ("joblib", joblib),
    "Dask": ("distributed", distributed),
    "Ray": ("ray", ray),
    "Parsl": ("parsl", parsl),
    "HyperQueue": ("hyperqueue", hyperqueue),
}
"""Packages (empty: part of Python) and how they are used, by the library's name."""


def measure(name: str, scale: float) -> Figures | None:
    """Returns the figures of a library; None if it is not installed.

    Args:
        name: One of ``PEERS``.
        scale: Part of the calls that are made; 1: all of them.
    """
    package, start = PEERS[name]
    try:
        installed = version(package) if package else sys.version.split()[0]
    except PackageNotFoundError:
        return None
    began = time.perf_counter()
    with start() as peer:
        _check(peer, peer.run(peer_calls.noop, [1]), [1])
        first_s = time.perf_counter() - began
        count = max(int(peer.calls * scale), 10)
        _run(peer, count // 5)  # processes and connections that are made when they are needed are there now
        rate = count / _run(peer, count)
        trips = sorted(_run(peer, 1) for _ in range(max(count // 50, 5)))
        pauses = max(int(PAUSES * scale), 2 * CPUS)
        peer.run(peer_calls.pause, [0.0] * CPUS)
        start_s = time.perf_counter()
        peer.run(peer_calls.pause, [PAUSE_S] * pauses)
        pauses_s = time.perf_counter() - start_s
        array_s = _measure_array(peer, scale) if peer.returns else 0.0
        memory_mb = _memory_mb()
        programs = 0.0
        if peer.run_programs is not None:
            number = max(int(PROGRAMS * scale), 10)
            start_s = time.perf_counter()
            peer.run_programs(number)
            programs = number / (time.perf_counter() - start_s)
    latency_ms = trips[len(trips) // 2] * 1e3
    return Figures(installed, first_s, rate, latency_ms, pauses_s, array_s, programs, memory_mb)


def _run(peer: Peer, count: int) -> float:
    """Returns the seconds for so many empty calls."""
    start = time.perf_counter()
    results = peer.run(peer_calls.noop, range(count))
    seconds = time.perf_counter() - start
    _check(peer, results, list(range(count)))
    return seconds


def _measure_array(peer: Peer, scale: float) -> float:
    """Returns the seconds for calls that read one large array, from when the program has it."""
    import numpy

    array = numpy.ones(max(int(ARRAY_BYTES * scale), 1 << 20) // 8)
    expected = peer_calls.total(array)
    peer.run(peer_calls.total, [array[:8]] * CPUS)
    start = time.perf_counter()
    shared = peer.share(peer_calls.total, array)
    results = peer.run(peer_calls.total, [shared] * ARRAY_CALLS)
    seconds = time.perf_counter() - start
    _check(peer, results, [expected] * ARRAY_CALLS)
    return seconds


def _check(peer: Peer, results: list[Any], expected: list[Any]) -> None:
    if peer.returns and results != expected:
        raise RuntimeError("calls returned something else than they should")


def _memory_mb() -> float:
    """Returns the memory of all processes below this one (MB); pages that several share count once."""
    found = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += process.memory_full_info().pss
    return found / 1e6


def main() -> None:
    """Print the figures of the library that the first argument names."""
    name, scale = sys.argv[1], float(sys.argv[2])
    # Libraries start programs that were installed beside this Python.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent to anybody
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print is not ours
    figures = measure(name, scale)
    os.write(out, msgspec.json.encode(figures))


if __name__ == "__main__":
    main()
