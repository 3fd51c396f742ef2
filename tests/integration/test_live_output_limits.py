"""What becomes of the output of running jobs when jobs die, links break, and too much is printed."""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psutil
import pytest

import dispy
from dispy.protocol.output import CUT_MARK
from dispy.protocol.output_reader import RESTART_MARK

from .conftest import MakeCluster, StartNode
from .following import Following, Seen, wait_running
from .helpers import RANDOM, Place, outer_address, wait_for
from .proxy import RESET, Direction, Fault, Piece, Proxy, proxy

CANCELLED, TERMINATED = dispy.DispyJob.Cancelled, dispy.DispyJob.Terminated

Between = Callable[..., Proxy]


@pytest.fixture
def between() -> Iterator[Between]:
    """Starts proxies. Is asked for before ``make_cluster``, so that they end after the clusters."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(proxy(*args, **kwargs))


@pytest.mark.parametrize("how", ["exits", "killed", "host killed"])
def test_what_a_job_printed_before_it_was_killed_is_told(
    make_cluster: MakeCluster, start_node: StartNode, how: str
) -> None:
    """Its result does not bring it, since the worker is dead."""

    def compute(how: str) -> None:
        time.sleep(0.3)
        print("last words")
        if how == "exits":
            os._exit(3)
        os.kill(os.getppid() if how == "host killed" else os.getpid(), 9)
        time.sleep(60)

    start_node("--cpus", "1")
    told = Seen()
    cluster = make_cluster(compute, job_output=told)
    job = cluster.submit(how)
    # A line end is a write of its own.
    assert "".join(text for stream, text in job.output(follow=True) if stream == "stdout") == "last words\n"
    assert job.status == TERMINATED
    cluster.shutdown()
    assert told.of(job) == "last words\n"


def test_cancelled_job(make_cluster: MakeCluster, start_node: StartNode) -> None:
    """The rest of its output comes first. What is cancelled before it ran has none."""

    def compute(number: int) -> None:
        try:
            print("begin", number)
            time.sleep(60)
        except KeyboardInterrupt:
            print("interrupted")
            raise

    start_node("--cpus", "1")
    told = Seen()
    cluster = make_cluster(compute, job_output=told)
    jobs = [cluster.submit(number) for number in range(2)]
    followed = [Following(job) for job in jobs]
    followed[0].wait_text("begin 0\n")
    for job in reversed(jobs):
        cluster.cancel(job)
    assert [following.end() for following in followed] == ["begin 0\ninterrupted\n", ""]
    assert [job.status for job in jobs] == [TERMINATED, CANCELLED]
    cluster.shutdown()
    assert [told.of(job) for job in jobs] == ["begin 0\ninterrupted\n", ""]


@pytest.mark.usefixtures("a_node")
def test_close_while_somebody_follows(make_cluster: MakeCluster) -> None:
    def compute() -> None:
        for number in itertools.count():
            print(number)
            time.sleep(0.01)

    cluster = make_cluster(compute)
    followed = [Following(cluster.submit()) for _ in range(5)]
    wait_for(lambda: [f for f in followed if "5\n" in f.text()], what="some run")
    cluster.close(terminate=True)
    for following in followed:
        following.end()
    cluster.shutdown()


def test_a_job_that_is_run_again_begins_anew(
    make_cluster: MakeCluster, start_node: StartNode, place: Place, gate: Path
) -> None:
    """When its node is lost; this is said."""

    def compute(gate: str) -> None:
        print("on", dispy_node_name)
        while not os.path.exists(gate):
            time.sleep(0.005)

    nodes = [start_node("--name", name, "--cpus", "1") for name in ("one", "two")]
    told = Seen()
    cluster = make_cluster(compute, reentrant=True, job_output=told)
    job = cluster.submit(str(gate))
    following = Following(job)
    first = following.wait_text("\n").split()[1]
    (lost,) = [node for node in nodes if node.name == first]
    (other,) = [node for node in nodes if node.name != first]
    place.is_swept = True
    lost.send(signal.SIGKILL)
    following.wait_text(f"on {other.name}\n")
    gate.touch()
    expected = f"on {first}\n{RESTART_MARK}on {other.name}\n"
    assert following.end() == expected
    assert job.stdout == f"on {other.name}\n"
    cluster.shutdown()
    assert told.of(job) == expected


def plain_way(start_node: StartNode, between: Between, fault: Fault) -> tuple[dict[str, Any], Proxy]:
    """A node and somebody in between who can read what is said: beyond loopback, where plain links can be passed on.

    Returns the options of a cluster that goes there, and the proxy.
    """
    host = outer_address()
    node = start_node("--cpus", "2", "--host", host, "--no_tls", "--secret", RANDOM)
    passing = between(node.port, lambda _: fault, host=host)
    return {"nodes": [(host, passing.port)], "tls": False, "secret": RANDOM}, passing


def test_a_broken_link_loses_nothing(
    start_node: StartNode, between: Between, make_cluster: MakeCluster, gate: Path
) -> None:
    """Jobs print on; after the reconnect all comes that was printed meanwhile, or was lost on its way."""

    def compute(gate: str) -> None:
        line = 0
        while not os.path.exists(gate):
            line += 1
            print("line", line)
            time.sleep(0.002)

    breaks = threading.Event()

    def fault(direction: Direction, before: int, data: bytes) -> list[Piece]:
        # In the midst of what is told.
        if breaks.is_set() and b"line" in data and direction == "to client":
            breaks.clear()
            return [data[: len(data) // 2], RESET]
        return [data]

    options, passing = plain_way(start_node, between, fault)
    told = Seen()
    always = make_cluster(compute, job_output=told, **options)
    asked = make_cluster(compute, **options)
    jobs = [always.submit(str(gate)), asked.submit(str(gate))]
    followed = [Following(job) for job in jobs]
    for following in followed:
        following.wait_text("line 3\n")
    for count in (2, 3):
        breaks.set()
        wait_for(lambda: passing.connections, lambda seen: seen >= count, what="a new connection")  # noqa: B023
        sizes = [len(following.text()) for following in followed]
        wait_for(
            lambda: [len(following.text()) for following in followed],
            lambda seen: all(now > then for now, then in zip(seen, sizes, strict=True)),  # noqa: B023
            what="more is told",
        )
    gate.touch()
    for job, following in zip(jobs, followed, strict=True):
        assert following.end() == job.stdout
    always.shutdown()
    assert told.of(jobs[0]) == jobs[0].stdout


def test_a_job_that_prints_without_end_harms_nobody(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    """What cannot be told in time is skipped, and how much that was is said: the sum is right to the byte."""

    def compute(size: int) -> int:
        chunk = b"x" * 999_999 + b"\n"
        for _ in range(size // 1_000_000):
            os.write(1, chunk)
        print("end")
        return size

    node = start_node("--cpus", "2")
    told = Seen()
    cluster = make_cluster(compute, job_output=told)
    cluster.submit(1)()
    memory = psutil.Process(node.pid).memory_info().rss
    size = 100_000_000
    job = cluster.submit(size)
    following = Following(job)
    quick = cluster.submit(0)
    assert quick.wait(5), "another job waits for it"
    assert job() == size, job.exception
    marks = re.escape(CUT_MARK).replace("%d", r"(\d+)")
    following.end()
    cluster.shutdown()
    for text in (following.text(), told.of(job)):
        assert text.endswith("end\n")
        missing = [int(found) for found in re.findall(marks, text)]
        assert missing
        assert len(re.sub(marks, "", text)) + sum(missing) == size + len("end\n")
        assert len(text) < size / 4
    assert psutil.Process(node.pid).memory_info().rss < memory + 40_000_000


@pytest.mark.usefixtures("a_node")
def test_what_the_job_keeps_is_not_skipped(make_cluster: MakeCluster, gate: Path) -> None:
    """A job that prints much at once, but not more than its ``stdout`` holds: it comes whole."""

    def compute(gate: str) -> None:
        sys.stdout.write("".join(f"{number:>9}\n" for number in range(100_000)))
        while not os.path.exists(gate):
            time.sleep(0.005)

    following = Following(make_cluster(compute).submit(str(gate)))
    following.wait_text("    99999\n")
    gate.touch()
    assert following.end() == "".join(f"{number:>9}\n" for number in range(100_000))


def test_what_nobody_wants_to_see_is_not_sent(
    start_node: StartNode, between: Between, make_cluster: MakeCluster, gate: Path
) -> None:
    """Neither before somebody follows, nor after; and for nobody else."""

    def compute(gate: str) -> None:
        while gate and not os.path.exists(gate):
            print("needle", flush=True)
            time.sleep(0.01)
        if not gate:
            time.sleep(0.3)  # three looks of the node

    heard = bytearray()

    def listen_in(direction: Direction, before: int, data: bytes) -> list[Piece]:
        if direction == "to client":
            heard.extend(data)
        return [data]

    options, _ = plain_way(start_node, between, listen_in)
    cluster = make_cluster(compute, **options)
    job = cluster.submit(str(gate))
    wait_running(job)
    cluster.submit("")()
    assert b"needle" not in heard
    with closing(job.output(follow=True)) as pieces:
        assert "needle" in next(pieces).text
    assert b"needle" in heard
    cluster.submit("")()
    # What was under way when the iterator was closed has arrived.
    heard.clear()
    cluster.submit("")()
    assert heard
    assert b"needle" not in heard
    gate.touch()
    job()
    assert b"needle" in heard
