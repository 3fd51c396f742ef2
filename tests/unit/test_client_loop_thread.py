"""A thread with an event loop: no other thread waits for one that has ended, or never began."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future

import pytest

from dispy.client.engine import loop_thread
from dispy.client.engine.loop_thread import LoopThread
from dispy.errors import UsageError


class Idle(LoopThread):
    """A loop that does nothing of its own."""

    async def _main(self) -> None:
        self._ready.set_result(None)
        await self._stopping.wait()


class Failing(LoopThread):
    """A loop that ends by an error as soon as it is told to."""

    async def _main(self) -> None:
        self._ready.set_result(None)
        self._told = asyncio.Event()
        await self._told.wait()
        self._failure = OSError("a certificate cannot be read")

    def fail(self) -> None:
        """Have the loop end by the error."""
        self._told.set()


class Broken(LoopThread):
    """A loop that fails at once."""

    async def _main(self) -> None:
        raise OSError("no descriptor is left")


@pytest.fixture(autouse=True)
def _look_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_thread, "LOOK_S", 0.01)


def test_results_and_errors_of_functions_come_back() -> None:
    thread = Idle("idle")
    thread.start()
    assert thread.result(thread.request(threading.current_thread)).name == "idle"
    with pytest.raises(TimeoutError):
        thread.result(thread.request(_time_out))
    assert thread.result(thread.request(time.sleep, 0.05)) is None
    thread.stop_loop()


def _time_out() -> None:
    raise TimeoutError


def test_who_waits_for_a_loop_that_has_ended_is_told() -> None:
    thread = Idle("idle")
    thread.start()
    thread.stop_loop()
    with pytest.raises(UsageError, match="shut down"):
        thread.result(thread.request(time.monotonic))


def test_who_waits_for_a_loop_that_has_failed_gets_its_error() -> None:
    """Whether the loop fails while they wait, or has before."""
    thread = Failing("failing")
    thread.start()
    thread.post(thread.fail)
    with pytest.raises(OSError, match="a certificate cannot be read"):
        thread.result(Future())
    with pytest.raises(OSError, match="a certificate cannot be read"):
        thread.result(thread.request(time.monotonic))


def test_a_loop_that_cannot_begin_says_why() -> None:
    with pytest.raises(OSError, match="no descriptor is left"):
        Broken("broken").start()
