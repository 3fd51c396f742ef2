"""Which process this is, without the system call: it is asked for every job, and a call costs as much as pickling."""

import os

pid = os.getpid()


def _after_fork() -> None:
    global pid
    pid = os.getpid()


os.register_at_fork(after_in_child=_after_fork)
