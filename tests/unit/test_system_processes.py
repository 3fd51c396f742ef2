"""Processes below one are seen, whatever its threads do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading

import pytest

from dispy.system.processes import children, reap, shortage


@pytest.mark.skipif(sys.platform != "linux", reason="lists of children are Linux's")
def test_children_are_seen_while_threads_end() -> None:
    """Each thread of a process has a list of its own, which is gone with it."""
    is_over = threading.Event()

    def churn() -> None:
        while not is_over.is_set():
            threads = [threading.Thread(target=int) for _ in range(5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    churning = threading.Thread(target=churn)
    with subprocess.Popen(["sleep", "600"]) as child:
        churning.start()
        try:
            missed = sum(child.pid not in children(os.getpid()) for _ in range(1000))
        finally:
            is_over.set()
            churning.join()
            child.kill()
    assert missed == 0
    assert children(child.pid) == [], "it has gone"


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.EAGAIN, "--pids-limit"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOMEM, "--memory"),
        (errno.ENOSPC, "df -i"),
    ],
)
def test_an_error_for_want_of_something_has_a_hint(number: int, word: str) -> None:
    assert word in shortage(OSError(number, "x"))


def test_other_errors_have_none() -> None:
    assert shortage(OSError(errno.EACCES, "x")) == ""
    assert shortage(OSError("x")) == ""


def test_a_child_is_reaped_when_it_has_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not reap(child.pid)
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert reap(child.pid)
    assert reap(child.pid), "it is gone"
    child.wait()
