"""Children of a process are found whatever its threads do."""

from __future__ import annotations

import os
import subprocess
import threading

from dispy.processes import children


def test_children_are_found_while_threads_end() -> None:
    """Linux lists them by thread, and a thread may be gone between two looks."""
    is_over = threading.Event()

    def come_and_go() -> None:
        while not is_over.is_set():
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    child = subprocess.Popen(["sleep", "1000"])
    try:
        for thread in threads:
            thread.start()
        looks = [child.pid in children(os.getpid()) for _ in range(300)]
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
        child.kill()
        child.wait()
    assert all(looks)
    assert children(child.pid) == []
