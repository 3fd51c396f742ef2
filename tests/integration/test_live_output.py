"""What a running job prints, by whatever means, is seen while it runs."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy import config
from dispy.errors import UsageError

from .conftest import MakeCluster, StartNode
from .following import Following, Seen, wait_running
from .helpers import wait_for
from .jobs import until


def say(how: str) -> None:
    """Print the word."""
    if how == "print":
        print(how)
    elif how == "part":
        sys.stdout.write("pa")
        print("rt", end="")
    elif how == "bytes":
        sys.stdout.buffer.write(b"bytes")
    elif how == "error":
        sys.stderr.write("error")
    elif how == "descriptor":
        os.write(1, b"descriptor")
    elif how == "libc":
        ctypes.CDLL(None).printf(b"libc")
    elif how == "child":
        subprocess.run(["echo", "child"], check=True)
    elif how == "thread":
        thread = threading.Thread(target=print, args=("thread",))
        thread.start()
        thread.join()
    elif how == "logging":
        handler = logging.StreamHandler(sys.stdout)
        logging.getLogger("say").addHandler(handler)
        logging.getLogger("say").error("logging")
        logging.getLogger("say").removeHandler(handler)


WAYS = ["logging", "descriptor", "libc", "child", "error", "thread", "print", "bytes", "part"]
"""What flushes comes first, so that it does not hide what others leave in a buffer."""


@pytest.mark.usefixtures("a_node")
@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("when", ["before it runs", "while it runs", "always"])
def test_output_is_seen_while_the_job_runs(
    make_cluster: MakeCluster, gate: Path, isolate: bool, when: str
) -> None:
    """Also what Python keeps in a buffer; whether somebody asks before the job runs, or when it runs already."""

    def compute(ways: list[str], gate: str) -> None:
        for way in ways:
            say(way)
        while not os.path.exists(gate):
            time.sleep(0.005)

    told = Seen()
    cluster = make_cluster(
        compute, depends=[say], isolate=isolate, job_output=told if when == "always" else None
    )
    job = cluster.submit(WAYS, str(gate))
    if when == "while it runs":
        wait_running(job)
    following = Following(job) if when != "always" else None

    def printed() -> str:
        if following is not None:
            return following.text() + following.text("stderr")
        return told.of(job) + told.of(job, "stderr")

    wait_for(
        lambda: [way for way in WAYS if way not in printed()], lambda left: not left, what="all is seen"
    )
    assert not job.finish.is_set()
    gate.touch()
    job()
    if following is not None:
        following.end()
    cluster.shutdown()
    assert printed() == job.stdout + job.stderr
    assert job.stderr == "error"
    if following is None:
        assert told.threads == {"dispy callbacks"}


@pytest.mark.usefixtures("a_node")
def test_output_comes_within_a_second(make_cluster: MakeCluster) -> None:
    """Of most lines; on a machine that has other things to do one or the other may take longer."""

    def compute(count: int) -> None:
        for _ in range(count):
            print(time.time())
            time.sleep(0.15)

    delays = [
        time.time() - float(line)
        for _, text in make_cluster(compute).submit(5).output(follow=True)
        for line in text.split()
    ]
    assert len(delays) == 5
    assert sorted(delays)[2] < 1, delays


@pytest.mark.parametrize("tls", [False, True])
def test_several_jobs_print_at_once(
    make_cluster: MakeCluster, start_node: StartNode, gate: Path, tls: bool
) -> None:
    """On several nodes; each gets its own, on both streams, in order, and whole."""

    def compute(name: int, gate: str) -> None:
        line = 0
        while line < 40 or not os.path.exists(gate):
            print(f"{name} says line {line} größer ≥ 日本")
            print(f"{name} complains of line {line}", file=sys.stderr)
            line += 1
            time.sleep(0.005)

    nodes = [start_node("--cpus", "2", "--tls" if tls else "--no_tls") for _ in range(2)]
    told = Seen()
    finals: list[tuple[dispy.DispyJob, int]] = []
    cluster = make_cluster(
        compute,
        nodes=[("127.0.0.1", node.port) for node in nodes],
        tls=tls,
        job_output=told,
        job_status=lambda job: finals.append((job, len(told.calls))),
    )
    jobs = [cluster.submit(number, str(gate)) for number in range(4)]
    followed = [Following(job) for job in jobs]
    for job, following in zip(jobs, followed, strict=True):
        following.wait_text("line 3 ")
        wait_for(lambda: told.of(job), lambda text: "line 3 " in text, what="the callback is told")  # noqa: B023
    assert not any(job.finish.is_set() for job in jobs)
    gate.touch()
    for job, following in zip(jobs, followed, strict=True):
        assert following.end() == job.stdout
        assert following.text("stderr") == job.stderr
    cluster.shutdown()
    for job, calls in finals:
        assert (told.of(job), told.of(job, "stderr")) == (job.stdout, job.stderr)
        assert job not in [call[0] for call in told.calls[calls:]], "it prints after its end"
    assert len(finals) == 4


@pytest.mark.usefixtures("a_node")
def test_output_of_jobs_that_end_at_once_is_told_before_their_ends(make_cluster: MakeCluster) -> None:
    """There is no time to look at them while they run."""
    events: list[tuple[Any, ...]] = []
    cluster = make_cluster(
        print,
        job_output=lambda job, stream, text: events.append((job.id, stream, text)),
        job_status=lambda job: events.append((job.id, "ended")),
    )
    for number in range(50):
        cluster.submit_job_id(number, "this is", number)
    cluster.shutdown()
    assert sorted(events, key=lambda event: int(event[0])) == [
        event
        for number in range(50)
        for event in ((number, "stdout", f"this is {number}\n"), (number, "ended"))
    ]


@pytest.mark.usefixtures("a_node")
def test_characters_are_not_cut_in_two(make_cluster: MakeCluster, gate: Path) -> None:
    def compute(gate: str) -> None:
        data = "a🎈b".encode()
        os.write(1, data[:3])
        while not os.path.exists(gate):
            time.sleep(0.005)
        os.write(1, data[3:])

    following = Following(make_cluster(compute).submit(str(gate)))
    assert following.wait_text("a") == "a"
    gate.touch()
    assert following.end() == "a🎈b"


@pytest.mark.usefixtures("a_node")
@pytest.mark.parametrize("shares", [False, True])
def test_large_arguments_and_code_make_no_difference(
    make_cluster: MakeCluster, gate: Path, monkeypatch: pytest.MonkeyPatch, shares: bool
) -> None:
    """They travel apart from what is said about them, on the link or in memory."""
    monkeypatch.setattr(config, "SharedMemory", shares)
    ballast = os.urandom(200_000)

    def compute(data: bytes, gate: str) -> None:
        print(len(data + ballast))
        while not os.path.exists(gate):
            time.sleep(0.005)

    told = Seen()
    always = make_cluster(compute, job_output=told).submit(bytes(100_000), str(gate))
    following = Following(make_cluster(compute).submit(bytes(200_000), str(gate)))
    following.wait_text("400000\n")
    wait_for(lambda: told.of(always), lambda text: text == "300000\n", what="the callback is told")
    gate.touch()
    assert following.end() == "400000\n"


@pytest.mark.usefixtures("a_node")
def test_what_was_printed_so_far(make_cluster: MakeCluster, gate: Path) -> None:
    """Without following: of a job that waits nothing, of one that has ended all."""

    def compute(gate: str) -> None:
        print("so far")
        sys.stderr.write("!")
        while not os.path.exists(gate):
            time.sleep(0.005)
        print("so good")

    cluster = make_cluster(compute, nodes=[("127.0.0.1", 1)])
    assert list(cluster.submit(str(gate)).output()) == []
    cluster.close(terminate=True)
    job = make_cluster(compute).submit(str(gate))
    wait_running(job)
    expected = [("stdout", "so far\n"), ("stderr", "!")]
    for _ in range(2):
        # It runs, and may not have printed yet; nor has it emptied its buffer when the node looks for the first time.
        wait_for(lambda: list(job.output()), lambda seen: seen == expected, what="what was printed so far")
    gate.touch()
    job()
    for follow in (False, True):
        assert list(job.output(follow)) == [("stdout", "so far\nso good\n"), ("stderr", "!")]


def test_following_disturbs_no_job(make_cluster: MakeCluster, start_node: StartNode, gate: Path) -> None:
    """Neither one that handles the signals it knows, nor its system calls, nor its children."""

    def compute(gate: str) -> Any:
        interrupts = []
        signal.signal(signal.SIGINT, lambda *_: interrupts.append("SIGINT"))
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        print("begin")
        start = time.monotonic()
        time.sleep(0.4)
        slept = time.monotonic() - start
        while not os.path.exists(gate):
            time.sleep(0.005)
        output, _ = child.communicate(b"still there")
        return interrupts, output, slept >= 0.4

    start_node("--cpus", "1")
    cluster = make_cluster(compute)
    job = cluster.submit(str(gate))
    wait_running(job)
    following = Following(job)
    following.wait_text("begin\n")
    gate.touch()
    assert job() == ([], b"still there", True), job.exception
    assert following.end() == "begin\n"


def test_afterwards_jobs_print_into_their_buffer_again(
    make_cluster: MakeCluster, start_node: StartNode, gate: Path
) -> None:
    """What was done for one job does not cost the next ones anything."""

    def compute(gate: str) -> bool:
        print("begin")
        if gate:
            while not os.path.exists(gate):
                time.sleep(0.005)
        return os.fstat(1).st_size == 0

    start_node("--cpus", "1")
    cluster = make_cluster(compute)
    assert cluster.submit("")(), "not into a buffer"
    job = cluster.submit(str(gate))
    wait_running(job)
    following = Following(job)
    following.wait_text("begin\n")
    gate.touch()
    assert job() is False
    assert cluster.submit("")()
    assert [j.stdout for j in [cluster.submit("") for _ in range(20)] if j() is not None] == [
        "begin\n"
    ] * 20


def test_a_job_that_tampers_with_its_streams(make_cluster: MakeCluster, start_node: StartNode) -> None:
    """It may lose its own output, and harms nobody."""

    def compute(how: str) -> None:
        print("begin")
        if how == "close":
            sys.stdout.close()
        elif how == "detach":
            sys.stdout.detach()
        elif how == "other":
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        elif how == "truncate":
            os.ftruncate(1, 1 << 60)
        elif how == "descriptor":
            os.close(1)
        time.sleep(0.15)
        os.write(2, b"end")

    start_node("--cpus", "1")
    told = Seen()
    cluster = make_cluster(compute, job_output=told)
    for how in ("close", "detach", "other", "truncate", "descriptor", "nothing"):
        job = cluster.submit(how)
        job()
        assert job.status == dispy.DispyJob.Finished, (how, job.exception)
    cluster.shutdown()
    assert told.of(job) == "begin\n"
    assert told.of(job, "stderr") == "end"


@pytest.mark.usefixtures("a_node")
def test_a_callback_that_fails_is_called_again(
    make_cluster: MakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def on_output(job: dispy.DispyJob, stream: str, text: str) -> None:
        seen.append(text)
        raise ValueError("no good callback")

    cluster = make_cluster(print, job_output=on_output)
    for number in range(3):
        cluster.submit(number)()
    cluster.shutdown()
    assert seen == ["0\n", "1\n", "2\n"]
    assert "no good callback" in caplog.text
    assert "on_output" in caplog.text


@pytest.mark.usefixtures("a_node")
def test_items_of_a_map_are_no_jobs(make_cluster: MakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    """What they print is written to the program's own streams, once."""
    told = Seen()
    cluster = make_cluster(print, job_output=told)
    assert list(cluster.map(["one", "two"])) == [None, None]
    cluster.shutdown()
    assert told.calls == []
    assert capsys.readouterr().out == "one\ntwo\n"


@pytest.mark.usefixtures("a_node")
def test_a_callback_that_cannot_be_called_is_refused(make_cluster: MakeCluster) -> None:
    with pytest.raises(UsageError, match=r"job_output cannot be called with \(job, stream, text\)"):
        make_cluster(until, job_output=lambda _job, _text: None)
    cluster = make_cluster(until, job_output=print)
    assert cluster.job_output is print
    with pytest.raises(AttributeError):
        cluster.job_output = None
