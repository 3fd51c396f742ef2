"""Callbacks: checked when they are given, called in order on a thread of their own."""

from __future__ import annotations

import functools
import logging
import re
import threading
from typing import Any

import pytest

from dispy.client.arguments import check_callback
from dispy.client.engine.callback_thread import Caller
from dispy.errors import UsageError


class Receiver:
    def on_job(self, job: Any) -> None:
        """A method takes the object by itself."""

    def __call__(self, status: Any, node: Any, job: Any) -> None:
        """An object that can be called."""


JOB = ("job",)
STATUS = ("status", "node", "job")


def three(status: Any, node: Any, job: Any) -> None:
    """What a cluster's status is told to."""


@pytest.mark.parametrize(
    ("callback", "parameters"),
    [
        (None, JOB),
        (lambda _job: None, JOB),
        (lambda _job, _more=None: None, JOB),
        (lambda *_arguments: None, JOB),
        (lambda *_arguments: None, STATUS),
        (Receiver().on_job, JOB),
        (Receiver(), STATUS),
        (three, STATUS),
        (functools.partial(three, 1, 2), JOB),
        (print, JOB),
        (dict.get, STATUS),
        (list.append, ("job", "text")),
    ],
)
def test_what_can_be_called_that_way_is_accepted(callback: Any, parameters: tuple[str, ...]) -> None:
    check_callback(callback, "job_status", parameters)


@pytest.mark.parametrize(
    ("callback", "parameters"),
    [
        (lambda: None, JOB),
        (lambda _a, _b: None, JOB),
        (lambda _job, *, _more: None, JOB),
        (lambda **_more: None, JOB),
        (Receiver.on_job, JOB),
        (lambda _job: None, STATUS),
        (Receiver().on_job, STATUS),
        (functools.partial(three, 1), JOB),
    ],
)
def test_what_cannot_be_called_that_way_is_refused(callback: Any, parameters: tuple[str, ...]) -> None:
    wanted = re.escape(", ".join(parameters))
    with pytest.raises(UsageError, match=rf"job_status cannot be called with \({wanted}\)"):
        check_callback(callback, "job_status", parameters)


@pytest.mark.parametrize("callback", [7, "print", [], True])
def test_what_cannot_be_called_at_all_is_refused(callback: Any) -> None:
    with pytest.raises(UsageError, match="cluster_status must be callable"):
        check_callback(callback, "cluster_status", STATUS)


def test_calls_come_one_after_another_in_their_order() -> None:
    caller, seen = Caller("callbacks"), []
    for number in range(100):
        caller.call(seen.append, [(2 * number,), (2 * number + 1,)])
    caller.drain(60)
    caller.stop()
    assert seen == list(range(200))


def test_calls_are_made_on_a_thread_of_that_name() -> None:
    caller, names = Caller("callbacks of a test"), []
    caller.call(lambda: names.append((threading.current_thread().name, caller.is_current())), [()])
    caller.drain(60)
    caller.stop()
    assert names == [("callbacks of a test", True)]
    assert not caller.is_current()


def test_a_call_that_fails_is_logged_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caller, seen = Caller("callbacks"), []

    def fail(value: int) -> None:
        if value != 2:
            raise SystemExit(f"failed at {value}")
        seen.append(value)

    with caplog.at_level(logging.ERROR, "dispy.client"):
        caller.call(fail, [(1,), (2,)])
        caller.call(seen.append, [(3,)])
        caller.drain(60)
        caller.stop()
    assert seen == [2, 3]
    assert "failed at 1" in caplog.text


def test_a_callback_may_wait_for_all_others_without_blocking_itself() -> None:
    caller, seen = Caller("callbacks"), []
    caller.call(lambda: (caller.drain(60), seen.append("drained")), [()])
    caller.call(seen.append, [("next",)])
    caller.drain(60)
    caller.stop()
    assert seen == ["drained", "next"]


def test_draining_before_any_call_returns_at_once() -> None:
    Caller("callbacks").drain(60)


def test_nothing_is_called_while_the_calls_are_held() -> None:
    """By several threads, of which one may be a callback; then all comes in its order."""
    caller, seen = Caller("callbacks"), []
    done = threading.Event()
    first = threading.Event()

    def hold() -> None:
        with caller.held():
            caller.call(seen.append, [("third",)])
            seen.append("second")
            caller.call(done.set, [()])

    with caller.held():
        caller.call(first.set, [()])
        caller.call(seen.append, [("first",)])
        with caller.held():
            assert not first.wait(0.05)
        assert not first.wait(0.05)
        caller.call(hold, [()])
    assert first.wait(5)
    assert done.wait(5)
    caller.stop()
    assert seen == ["first", "second", "third"]
