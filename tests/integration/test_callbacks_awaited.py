"""Callbacks are never dropped in silence: whoever waits for jobs waits for their callbacks, and says what for."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import dispy
from dispy import DispyJob
from dispy.client.engine.callback_thread import Patience

from .conftest import MakeCluster, RunProgram
from .helpers import wait_for
from .jobs import name_and

SOON = Patience(warn_s=0.1, say_s=0.1)


class Gate:
    """A callback that stands there until it is let go, and counts; of any kind."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.seen: list[Any] = []

    def on_job(self, job: DispyJob) -> None:
        self.is_open.wait(20)
        self.seen.append(job.result)

    def on_status(self, status: int, node: Any, job: DispyJob | None) -> None:
        if job is not None and status == DispyJob.Finished:
            self.on_job(job)

    def on_output(self, job: DispyJob, stream: str, text: str) -> None:
        self.on_job(job)


@pytest.fixture
def gate(make_cluster: MakeCluster) -> Iterator[Gate]:
    """Open in the end, before clusters are closed, so that nothing hangs."""
    opened = Gate()
    yield opened
    opened.is_open.set()


KINDS = {"job_status": Gate.on_job, "cluster_status": Gate.on_status, "job_output": Gate.on_output}


def leave(cluster: dispy.JobCluster) -> None:
    with cluster:
        pass


def leave_after_an_error(cluster: dispy.JobCluster) -> None:
    with pytest.raises(ZeroDivisionError), cluster:
        raise ZeroDivisionError


ENDS: dict[str, Callable[[dispy.JobCluster], Any]] = {
    "wait": lambda cluster: cluster.wait(),
    "wait in time": lambda cluster: cluster.wait(20),
    "call": lambda cluster: cluster(),
    "close": lambda cluster: cluster.close(),
    "close in time": lambda cluster: cluster.close(20),
    "terminate": lambda cluster: cluster.close(terminate=True),
    "terminate later": lambda cluster: cluster.close(20, terminate=True),
    "with": leave,
    "with, after an error": leave_after_an_error,
    "shutdown": lambda cluster: cluster.shutdown(),
}


def say(value: int) -> int:
    print(value)
    return value


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What dispy says."""
    with caplog.at_level(logging.INFO, "dispy"):
        yield caplog


def wait_in_thread(end: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    returned: list[Any] = []
    thread = threading.Thread(target=lambda: returned.append(end()))
    thread.start()
    return thread, returned


@pytest.mark.parametrize(
    ("kind", "end"), [("job_status", end) for end in ENDS] + [(kind, "close") for kind in KINDS][1:]
)
def test_callbacks_of_ended_jobs_are_waited_for(
    make_cluster: MakeCluster, said: pytest.LogCaptureFixture, kind: str, end: str, gate: Gate
) -> None:
    cluster = make_cluster(say, **{kind: KINDS[kind].__get__(gate)})
    cluster._session.engine.callbacks.patience = SOON
    jobs = [cluster.submit(n) for n in range(5)]
    assert [job() for job in jobs] == list(range(5)), "who waits for a job does not wait for its callback"
    thread, returned = wait_in_thread(lambda: ENDS[end](cluster))
    wait_for(
        lambda: said.text,
        lambda text: "wait for a" in text or "waits for a callback" in text,
        what="a word",
    )
    assert "Gate.on_" in said.text
    assert "test_callbacks_awaited.py:" in said.text
    # A cluster's status has other events, too.
    assert re.search(rf"; {'[0-9]+' if kind == 'cluster_status' else '5'} callbacks are left", said.text)
    assert not returned
    assert not gate.seen
    gate.is_open.set()
    thread.join(10)
    assert returned in ([True], [None])
    assert sorted(gate.seen) == list(range(5))


def test_time_is_for_jobs_and_callbacks(make_cluster: MakeCluster, gate: Gate) -> None:
    cluster = make_cluster(name_and, job_status=gate.on_job)
    cluster.submit(1)()
    assert cluster.wait(0) is False
    assert cluster.wait(0.01) is False
    assert cluster.close(0.01) is False
    assert cluster.submit(2)()[1] == 2, "nothing has changed"
    gate.is_open.set()
    assert cluster.wait(20) is True
    assert len(gate.seen) == 2
    assert cluster.wait(0) is True
    assert cluster.close(0) is True


def test_a_cluster_without_callbacks_waits_for_none(make_cluster: MakeCluster, gate: Gate) -> None:
    """Callbacks of others have the same thread."""
    other, cluster = make_cluster(name_and, job_status=gate.on_job), make_cluster(name_and)
    other.submit(1)()
    cluster.submit(1)
    assert cluster.wait(20) is True
    assert cluster.close(20) is True
    assert not gate.seen
    gate.is_open.set()
    assert other.close() is True
    assert len(gate.seen) == 1


def test_clusters_with_callbacks_wait_for_each_other(make_cluster: MakeCluster, gate: Gate) -> None:
    clusters = [make_cluster(name_and, job_status=gate.on_job) for _ in range(3)]
    for cluster in clusters:
        cluster.submit(1)()
    ends = [wait_in_thread(cluster.close) for cluster in clusters]
    gate.is_open.set()
    for thread, returned in ends:
        thread.join(10)
        assert returned == [True]
    assert len(gate.seen) == 3


@pytest.mark.parametrize("end", ["wait", "close"])
def test_jobs_that_callbacks_submit_are_waited_for(make_cluster: MakeCluster, end: str) -> None:
    """And their callbacks, and the jobs of these."""
    seen = []

    def on_job(job: DispyJob) -> None:
        seen.append(job.result[1])
        if job.result[1] < 30:
            cluster.submit(job.result[1] + 1)

    cluster = make_cluster(name_and, job_status=on_job)
    cluster.submit(0)
    assert ENDS[end](cluster) is True
    assert seen == list(range(31))


def test_jobs_that_callbacks_submit_when_jobs_are_terminated_are_refused(
    make_cluster: MakeCluster, said: pytest.LogCaptureFixture
) -> None:
    """Or a callback that submits what has failed anew would go on for ever."""
    seen = []

    def on_job(job: DispyJob) -> None:
        if len(seen) < 1000:
            seen.append(cluster.submit(2, 600))

    cluster = make_cluster(name_and, job_status=on_job)
    cluster.submit(1, 600)
    assert cluster.close(terminate=True) is True
    assert seen == []
    assert "cluster name_and is being closed" in said.text or "cluster name_and is closed" in said.text


def test_callbacks_that_fail_are_waited_for(
    make_cluster: MakeCluster, said: pytest.LogCaptureFixture, gate: Gate
) -> None:

    def on_job(job: DispyJob) -> None:
        gate.on_job(job)
        raise ValueError(f"no good {len(gate.seen)}")

    cluster = make_cluster(name_and, job_status=on_job)
    for n in range(3):
        cluster.submit(n)()
    thread, returned = wait_in_thread(cluster.close)
    assert not returned
    gate.is_open.set()
    thread.join(10)
    assert returned == [True]
    assert "no good 3" in said.text


@pytest.mark.parametrize("first", ["wait", "close", "close in time", "terminate", "shutdown"])
def test_a_callback_does_not_wait_for_callbacks(make_cluster: MakeCluster, first: str) -> None:
    """And who waits outside at the same time waits for that one."""
    seen: list[Any] = []

    def on_job(job: DispyJob) -> None:
        seen.append(ENDS[first](cluster) if not seen else job.status)

    cluster = make_cluster(name_and, job_status=on_job)
    for n in range(5):
        cluster.submit(n)
    assert cluster.close() in (True, None)
    assert len(seen) == 5, seen
    assert seen[0] in (True, None)


class Loading:
    """What loading a result waits for, on the thread that loads results."""

    has_begun = threading.Event()
    goes_on = threading.Event()

    @classmethod
    def load(cls) -> str:
        cls.has_begun.set()
        cls.goes_on.wait(20)
        return "loaded"


def return_slow(module: str) -> Any:
    """Something that is loaded by ``Loading``."""

    class Far:
        def __reduce__(self) -> Any:
            return eval, (f"__import__('sys').modules[{module!r}].Loading.load()",)

    return Far()


def test_results_that_are_being_loaded_have_their_callbacks_called(make_cluster: MakeCluster) -> None:
    seen: list[Any] = []
    cluster = make_cluster(return_slow, job_status=lambda job: seen.append(job.result))
    cluster.submit(__name__)
    assert Loading.has_begun.wait(8)
    thread, returned = wait_in_thread(cluster.close)
    assert not returned
    Loading.goes_on.set()
    thread.join(10)
    assert (returned, seen) == ([True], ["loaded"])


def test_a_callback_that_wants_what_is_held_where_it_is_waited_for(
    make_cluster: MakeCluster, said: pytest.LogCaptureFixture
) -> None:
    """Whoever closes goes on after a while, and the callbacks are called then."""
    lock = threading.Lock()
    seen = []

    def on_job(job: DispyJob) -> None:
        with lock:
            seen.append(job.result[1])

    cluster = make_cluster(name_and, job_status=on_job)
    cluster._session.engine.callbacks.patience = Patience(0.1, 0.1, 0.3, 0.5)
    for n in range(5):
        cluster.submit(n)
    with lock:
        assert cluster.wait() is False
        assert "waits for a callback that waits for a lock" in said.text
        assert "does not wait for callbacks any longer" in said.text
        assert "5 callbacks are left" in said.text
        assert cluster.close() is True
        assert seen == []
    assert cluster.close() is None, "waits for the rest"
    assert sorted(seen) == list(range(5))


# Programs and their end.

HEAD = """
import sys, threading, time

import dispy
from dispy.client.engine import engine
from dispy.client.engine.callback_thread import Patience

seen = []


def compute(n):
    return n


def save(job):
    time.sleep(SECONDS)
    seen.append(job.result)
    sys.stderr.write(f'saved {len(seen)}\\n')


if __name__ == '__main__':
    cluster = dispy.JobCluster(compute, job_status=save)
    cluster._session.engine.callbacks.patience = Patience(0.1, 0.2, 0.5, 1.0)
    jobs = [cluster.submit(n) for n in range(COUNT)]
"""

EXITS = {
    "without close": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "an exception": ("jobs[-1]()\n    raise ZeroDivisionError", 1),
    "in with": ("with cluster: raise ZeroDivisionError", 1),
    "shutdown": ("cluster.shutdown()", 0),
    "shutdown in a callback": (
        "cluster.cluster_status = lambda status, node, job: status == 11 and cluster.shutdown()\n"
        "    cluster.submit(0)()",
        0,
    ),
}


@pytest.mark.parametrize("end", EXITS)
def test_a_program_ends_after_all_callbacks(run_program: RunProgram, end: str) -> None:
    """However long they take; here longer than what was once waited for at a ``close``."""
    source, code = EXITS[end]
    if end == "in with":
        source = "jobs[-1]()\n    cluster.wait(0)\n    " + source
    program = run_program(HEAD.replace("SECONDS", "0.3").replace("COUNT", "12") + "    " + source)
    assert program.wait(15) == code, program.stderr
    saved = program.stderr.count("saved ")
    assert saved >= 12 if "callback" in end else saved == 12, program.stderr
    assert "waits for callbacks: save (program.py:" in program.stderr


def test_interrupt_while_callbacks_are_waited_for(run_program: RunProgram) -> None:
    """The first one ends the wait, and the program has a moment; what is not called then is counted."""
    program = run_program(HEAD.replace("SECONDS", "600").replace("COUNT", "4") + "    cluster.close()")
    program.wait_line("waits for callbacks", stream="stderr")
    program.interrupt_group()
    program.wait_line("^dispy: interrupted: .* 4 callbacks are left$", stream="stderr")
    assert program.wait(8) in (1, 130, -2), program.stderr
    assert "KeyboardInterrupt" in program.stderr
    assert (
        "dispy: the program ends, and 4 callbacks are left: not called, or not to the end\n"
        in program.stderr
    )


def test_two_interrupts_end_a_program_at_once(run_program: RunProgram) -> None:
    program = run_program(
        HEAD.replace("SECONDS", "600").replace("COUNT", "4")
        + """
    from dispy.client.session import shutdown as closing
    closing.CLOSE_S = 600
    cluster.close()
"""
    )
    program.wait_line("waits for callbacks", stream="stderr")
    program.interrupt_group()
    program.wait_line("^KeyboardInterrupt$", stream="stderr")
    wait_for(
        lambda: program.interrupt_group() or "the program ends, and 4" in program.stderr,
        what="the second one, when the program is at its end, has ended it",
    )
    assert program.wait(8) in (1, 130, -2), program.stderr


def test_interrupt_at_the_end_of_a_program(run_program: RunProgram) -> None:
    program = run_program(HEAD.replace("SECONDS", "600").replace("COUNT", "4"))
    program.wait_line("waits for callbacks", stream="stderr")
    program.interrupt_group()
    assert program.wait(8) == 0, program.stderr
    assert "Traceback" not in program.stderr
    assert "the program ends, and 4 callbacks are left: not called, or not to the end\n" in program.stderr


def test_a_program_ends_although_a_callback_never_does(run_program: RunProgram) -> None:
    """It wants a lock that is never released; how many were not called is said."""
    source = HEAD.replace("time.sleep(SECONDS)", "lock.acquire()").replace("COUNT", "4")
    program = run_program(source.replace("seen = []", "lock = threading.Lock()\nlock.acquire()\nseen = []"))
    assert program.wait(15) == 0, program.stderr
    assert "does not wait for callbacks any longer: save (program.py:" in program.stderr
    assert "the program ends, and 4 callbacks are left" in program.stderr
