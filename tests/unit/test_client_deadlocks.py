"""Waiting for callbacks: for slow ones as long as they take, not for ever for those that only we could let go on."""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import pytest

from dispy.client.engine.deadlocks import Standing

lock = threading.Lock()
again = threading.RLock()
event = threading.Event()


def in_with() -> None:
    with lock:
        pass


def in_with_of_several() -> None:
    with ExitStack(), lock:
        pass


def in_acquire() -> None:
    lock.acquire(
        True,
        float("300"),
    )
    lock.release()


def in_acquire_of_an_expression() -> None:
    print([lock][0].acquire(timeout=300), end="")
    lock.release()


def in_rlock() -> None:
    with again:
        pass


def in_get() -> None:
    items: queue.Queue[int] = queue.Queue()
    threading.Thread(target=lambda: event.wait() and items.put(1)).start()
    items.get()


def in_result() -> None:
    future: Future[int] = Future()
    threading.Thread(target=lambda: event.wait() and future.set_result(1)).start()
    future.result()


def in_join() -> None:
    thread = threading.Thread(target=event.wait)
    thread.start()
    thread.join()


def call_outermost(function: Callable[[], object]) -> None:
    function()


AT_A_LOCK = [
    in_with,
    in_with_of_several,
    in_acquire,
    in_acquire_of_an_expression,
    in_rlock,
    event.wait,
    in_get,
    in_result,
    in_join,
]


@pytest.mark.parametrize("function", AT_A_LOCK, ids=lambda function: function.__name__)
def test_a_thread_at_a_lock_is_seen_there(function: Callable[[], object]) -> None:
    with lock, again:
        thread = threading.Thread(target=call_outermost, args=(function,), daemon=True)
        thread.start()
        standing = Standing(thread, call_outermost.__code__)
        until = time.monotonic() + 10
        now = 1.0
        while standing.since is None or now - standing.since < 5:
            assert time.monotonic() < until, standing.where
            standing.look(now)
            now += 1.0
            time.sleep(0.001)
        assert standing.where.startswith(("test_client_deadlocks.py:", "threading.py:"))
    event.set()
    thread.join(10)
    event.clear()
    standing.look(now)
    assert (standing.since, standing.alone_since, standing.where) == (None, None, "")


def in_sleep() -> None:
    time.sleep(0.3)


def in_recv() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(0.3)
        with pytest.raises(TimeoutError):
            near.recv(1)


def in_a_child() -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)


def in_many_locks() -> None:
    for _ in range(300):
        event.wait(0.001)


def in_other_methods() -> None:
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        sorted(range(50_000), reverse=True).index(0)


@pytest.mark.parametrize("function", [in_sleep, in_recv, in_a_child, in_many_locks, in_other_methods])
def test_a_thread_at_work_is_not_at_a_lock(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=call_outermost, args=(function,), daemon=True)
    standing = Standing(thread, call_outermost.__code__)
    thread.start()
    seen = []
    while thread.is_alive():
        standing.look(now := time.monotonic())
        seen.append(0.0 if standing.since is None else now - standing.since)
        time.sleep(0.005)
    assert max(seen) < 0.2, seen


SCRIPT = """
import concurrent.futures, queue, socket, sys, threading, time
from dispy.client.engine import deadlocks as standing
from dispy.client.engine.callback_thread import Caller, Patience

lock, again, event = threading.Lock(), threading.RLock(), threading.Event()
full = queue.Queue(1)
full.put(0)
pool = concurrent.futures.ThreadPoolExecutor(3)
waiting = threading.current_thread()


def plain_lock():
    with lock:
        pass


def one_of_its_own():
    again.acquire()


def an_event():
    event.wait()


def a_full_queue():
    full.put(1)


def the_waiting_thread():
    waiting.join()


def a_slow_query():
    pool.submit(time.sleep, 1).result()


def sleep():
    time.sleep(1)


def release():
    time.sleep(1)
    event.set()


def main():
    caller = Caller("dispy callbacks", Patience(0.2, 0.3, 0.6, float(sys.argv[3])))
    lock.acquire()
    again.acquire()
    caller.call(globals()[sys.argv[1]], [()])
    caller.call(print, [("next",), ("last",)])
    waited = caller.wait_called(None, "the test")
    print(waited.name, caller.count_left(), flush=True)
    lock.release()
    again.release()
    event.set()
    full.get()
    if sys.argv[1] == "the_waiting_thread":
        return caller
    print(caller.drain(10))


if __name__ == "__main__":
    [f.result() for f in [pool.submit(time.sleep, 0) for _ in range(3)]]  # its threads are there, and idle
    if sys.argv[2] == "another sleeps":
        threading.Thread(target=time.sleep, args=(300,), daemon=True).start()
    if sys.argv[2] == "another releases":
        threading.Thread(target=release, daemon=True).start()
    if sys.argv[1] == "the_waiting_thread":
        with concurrent.futures.ThreadPoolExecutor(1) as one:
            def waits():
                global waiting
                waiting = threading.current_thread()
                return main()
            result = one.submit(waits)
            result.result()
        print(result.result().drain(10))
    else:
        main()
"""

WANTS = ["plain_lock", "one_of_its_own", "an_event", "a_full_queue", "the_waiting_thread"]


def run(*arguments: str) -> tuple[list[str], str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.split("\n"), done.stderr


@pytest.mark.parametrize("wanted", WANTS)
def test_a_callback_that_only_the_waiting_thread_could_let_go_on_is_given_up(wanted: str) -> None:
    """With a warning before; it goes on later, and those after it are called then. Idle threads do not count."""
    out, err = run(wanted, "nobody else", "1000")
    assert out[0] == "STUCK 3", (out, err)
    assert sorted(out[1:4]) == ["True", "last", "next"]
    assert out.index("next") < out.index("last")
    warned, given_up = err.splitlines()
    assert warned.startswith(f"the test waits for a callback that waits for a lock: {wanted} (<string>:"), (
        err
    )
    assert warned.endswith("; 3 callbacks are left")
    assert f"does not wait for callbacks any longer: {wanted} (<string>:" in given_up
    assert "and no other thread of the program is at work; 3 callbacks are left" in given_up


def test_while_others_are_at_work_a_callback_is_given_up_later() -> None:
    out, err = run("plain_lock", "another sleeps", "1.2")
    assert out[0] == "STUCK 3", (out, err)
    assert "waited for a lock for 1 s; 3 callbacks are left" in err


@pytest.mark.parametrize(
    ("what", "others", "said"),
    [
        ("a_slow_query", "nobody else", "a_slow_query"),
        ("an_event", "another releases", "an_event"),
        ("sleep", "nobody else", "sleep"),
    ],
)
def test_a_callback_that_is_slow_is_waited_for(what: str, others: str, said: str) -> None:
    """Also at a lock, if another thread is at work that may release it."""
    out, err = run(what, others, "1000")
    assert out[:4] == ["next", "last", "CALLED 0", "True"], (out, err)
    (line,) = err.splitlines()
    is_at_lock = what != "sleep"
    words = "a callback that waits for a lock: %s (" if is_at_lock else "the test waits for callbacks: %s ("
    assert words % said in line, line


def test_what_was_given_up_once_is_given_up_sooner_the_next_time() -> None:
    source = SCRIPT.replace(
        "    print(waited.name, caller.count_left(), flush=True)\n",
        "    begun = time.monotonic()\n"
        "    waited = waited.name, caller.wait_called(None, 'another').name\n"
        "    print(*waited, time.monotonic() - begun < 0.6, flush=True)\n",
    )
    assert source != SCRIPT
    done = subprocess.run(
        [sys.executable, "-c", source, "plain_lock", "nobody else", "1000"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.split("\n")[0] == "STUCK STUCK True", (done.stdout, done.stderr)


def test_the_frames_of_a_thread_are_let_go() -> None:
    """What a callback has in its variables does not live on in whoever has looked at it."""

    class Large:
        pass

    kept: list[Any] = []

    def work() -> None:
        large = Large()
        kept.append(weakref.ref(large))
        event.wait()

    thread = threading.Thread(target=call_outermost, args=(work,), daemon=True)
    thread.start()
    standing = Standing(thread, call_outermost.__code__)
    while standing.since is None:
        standing.look(time.monotonic())
    event.set()
    thread.join(10)
    event.clear()
    standing.look(time.monotonic())
    assert kept[0]() is None
