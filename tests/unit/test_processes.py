"""Processes below one are seen, whatever its threads do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from dispy.processes import children


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
