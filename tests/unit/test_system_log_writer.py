"""Log lines on a thread of their own: handlers that block or raise, floods, and lines that are counted."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dispy.system import log_writer
from dispy.system.log_writer import LINES_MAX, LogLimit, Outlet


def record(text: str, level: int = logging.DEBUG, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("dispy.test", level, __file__, 1, text, arguments, None)


@pytest.fixture
def opened() -> Iterator[Callable[[Callable[[logging.LogRecord], object]], Outlet]]:
    """Makes outlets, and ends their threads."""
    made: list[Outlet] = []
    before = set(threading.enumerate())  # the client's own outlet may be at work for tests before

    def make(deliver: Callable[[logging.LogRecord], object]) -> Outlet:
        made.append(Outlet(deliver))
        return made[-1]

    yield make
    for outlet in made:
        outlet.close(5)
    assert not [t for t in set(threading.enumerate()) - before if t.name == "dispy log"]


def test_records_arrive_in_order_with_the_values_that_they_had(opened: Any) -> None:
    seen: list[str] = []
    outlet = opened(lambda r: seen.append(r.getMessage()))
    values = [1]
    for n in range(100):
        outlet.put(record("%d %s", logging.DEBUG, n, values))
    values.append(2)
    outlet.close(5)
    assert seen == [f"{n} [1]" for n in range(100)]


def test_a_warning_has_been_delivered_when_it_has_been_logged(opened: Any) -> None:
    seen: list[str] = []
    outlet = opened(lambda r: seen.append(r.getMessage()))
    for n in range(50):
        outlet.put(record(f"{n}", logging.WARNING))
        assert seen[-1] == f"{n}"


def test_a_handler_that_blocks_delays_once_and_loses_counted_lines(opened: Any) -> None:
    gate = threading.Event()
    seen: list[str] = []

    def deliver(item: logging.LogRecord) -> None:
        gate.wait()
        seen.append(item.getMessage())

    outlet = opened(deliver)
    started = time.monotonic()
    for n in range(LINES_MAX + 500):
        outlet.put(record(f"{n}", logging.WARNING))
    assert time.monotonic() - started < 5, "each line has waited for a handler that blocks"
    gate.set()
    outlet.close(10)
    assert seen[:3] == ["0", "1", "2"]
    (count,) = [text for text in seen if "left out" in text]
    assert 490 <= int(count.split()[0]) <= 510
    assert len(seen) + int(count.split()[0]) == LINES_MAX + 501


def test_a_handler_that_blocks_for_ever_keeps_nobody_from_ending() -> None:
    gate = threading.Event()
    outlet = Outlet(lambda _: gate.wait())
    outlet.put(record("x"))
    started = time.monotonic()
    outlet.close(0.1)
    assert time.monotonic() - started < 2
    gate.set()


def test_a_handler_that_raises_is_mentioned_once(opened: Any, capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    def deliver(item: logging.LogRecord) -> None:
        seen.append(item)
        raise RuntimeError("broken")

    outlet = opened(deliver)
    for _ in range(5):
        outlet.put(record("x"))
    outlet.close(5)
    assert len(seen) == 5
    assert (
        capsys.readouterr().err
        == "dispy: a logging handler fails, which is said once: RuntimeError: broken\n"
    )


def test_a_handler_may_log(opened: Any) -> None:
    seen: list[str] = []

    def deliver(item: logging.LogRecord) -> None:
        seen.append(item.getMessage())
        if len(seen) < 3:
            outlet.put(record("more", logging.WARNING))

    outlet = opened(deliver)
    outlet.put(record("first", logging.WARNING))
    outlet.flush(5)
    outlet.flush(5)
    outlet.close(5)
    assert seen == ["first", "more", "more"]


def test_it_begins_again_after_its_end(opened: Any) -> None:
    seen: list[str] = []
    outlet = opened(lambda r: seen.append(r.getMessage()))
    for n in range(3):
        outlet.put(record(f"{n}"))
        outlet.close(5)
    assert seen == ["0", "1", "2"]


def test_where_no_thread_can_be_started_lines_are_delivered_at_once(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of the interpreter; a handler that logs then has its own lines delivered, too."""
    seen: list[str] = []

    def deliver(item: logging.LogRecord) -> None:
        seen.append(item.getMessage())

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    outlet = opened(deliver)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    outlet.put(record("x", logging.WARNING))
    outlet.flush(1)
    assert seen == ["x"]


def test_an_idle_thread_ends_and_another_one_begins(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "IDLE_S", 0.01)
    seen: list[str] = []
    outlet = opened(lambda r: seen.append(r.getMessage()))
    for n in range(3):
        outlet.put(record(f"{n}"))
        deadline = time.monotonic() + 5
        while [t for t in threading.enumerate() if t.name == "dispy log"]:
            assert time.monotonic() < deadline, "an idle thread stays"
    assert seen == ["0", "1", "2"]


def test_without_stderr_nothing_is_lost_but_the_complaint(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)

    def deliver(item: logging.LogRecord) -> None:
        raise RuntimeError("broken")

    outlet = opened(deliver)
    outlet.put(record("x"))
    outlet.put(record("y"))
    outlet.close(5)


class Clock:
    """Calls what is due when it is told to."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def later(self, after_s: float, function: Callable[[], None]) -> None:
        self.timers.append((after_s, function))

    def ring(self) -> None:
        timers, self.timers = self.timers, []
        for _, function in timers:
            function()


def test_lines_of_a_kind_are_limited_and_counted() -> None:
    said: list[str] = []
    clock = Clock()
    limit = LogLimit(60.0, 3, lambda text, *a: said.append(text % a), clock.later)
    for n in range(10):
        limit.line("strangers that came", f"address {n}", "stranger %d", n)
        limit.line("strangers that came", "address 0", "stranger again")
        limit.line("others that came", f"address {n}", "other %d", n)
    assert said == ["stranger 0", "other 0", "stranger 1", "other 1", "stranger 2", "other 2"]
    assert [after_s for after_s, _ in clock.timers] == [60.0]
    said.clear()
    clock.ring()
    assert said == [
        "strangers that came: 17 more within 60 s, without a line each,"
        " 7 of them of others than those named",
        "others that came: 7 more within 60 s, without a line each, 7 of them of others than those named",
    ]
    said.clear()
    limit.line("strangers that came", "address 0", "stranger %d", 0)
    assert said == ["stranger 0"]
    clock.ring()
    assert said == ["stranger 0"], "nothing was left out"
    assert not clock.timers


def test_times_are_as_a_clock_on_the_wall_shows_them() -> None:
    assert len(log_writer.local_time(60)) == len("2026-01-01 00:00:00")
