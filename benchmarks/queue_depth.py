"""Throughput with a million jobs queued against an empty queue, beside a large heap of the user's.

Three clients, each with a node of its own: one with the queue, one without, and, for information, one
without queue and heap. They run windows of jobs in turns (see ``programs/queue_windows.py``). The
long queue is filled while no node is there, and its node is stopped while others have their turn. The
heap is two million small objects; the garbage collector is on.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import psutil

from benchmarks import harness
from benchmarks.harness import ROOT, Row, at_least, median_row


class Client:
    """A client process and its node, which runs only while the client has its turn.

    Args:
        process: Of the client.
        node: Pid of its node.
    """

    def __init__(self, process: subprocess.Popen[str], node: int) -> None:
        self._process = process
        self._node = psutil.Process(node)
        self._each("suspend")

    def window(self, count: int) -> float:
        """Run a window of so many jobs; returns jobs per second."""
        self._each("resume")
        try:
            return float(ask(self._process, str(count)))
        finally:
            self._each("suspend")

    def _each(self, action: str) -> None:
        for process in [self._node, *self._node.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, action)()

    def release(self) -> None:
        """Let the node run, so that it can end."""
        self._each("resume")


def run(quick: bool) -> list[Row]:
    """Measure the share of the rate that is left with a deep queue."""
    # A window is short: a node that is stopped for 5 s is taken for dead.
    depth, count, heap, repeats = (50_000, 500, 2_000, 1) if quick else (1_000_000, 50_000, 2_000_000, 7)
    with client(depth, heap) as deep, client(0, heap) as empty, client(0, 0) as bare:
        clients = (deep, empty, bare)
        for each in clients:
            each.window(count // 2)
        rates = [tuple(each.window(count) for each in clients) for _ in range(repeats)]
    claim = f"rate with {depth:,} jobs queued, as share of that with none"
    shares = [with_queue / without for with_queue, without, _ in rates]
    return [
        median_row(claim, shares, "", at_least(0.85), at_least(0.95)),
        median_row(f"  with {depth:,} queued", [rate[0] for rate in rates], "jobs/s"),
        median_row("  with none queued", [rate[1] for rate in rates], "jobs/s"),
        median_row("  with none queued and no heap", [rate[2] for rate in rates], "jobs/s"),
    ]


@contextlib.contextmanager
def client(depth: int, heap: int) -> Iterator[Client]:
    """A client with a filled queue and its node, in a sandbox of their own."""
    command = [sys.executable, "-m", "benchmarks.programs.queue_windows", str(depth), str(heap)]
    with harness.sandbox():
        process = subprocess.Popen(
            command, cwd=ROOT, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            ask(process)
            with harness.running_node() as node:
                made = Client(process, node)
                try:
                    yield made
                finally:
                    made.release()
                    _finish(process)
        finally:
            harness.end(process)


def ask(process: subprocess.Popen[str], line: str = "") -> str:
    """Write a line to a client, if one is given, and wait for its answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    if line:
        process.stdin.write(line + "\n")
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError(f"the client ended with exit code {process.wait(harness.STOP_S)}")
    return answer


def _finish(process: subprocess.Popen[str]) -> None:
    """Let a client cancel what is left and end by itself."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(30)
