"""Name of this process: its PID, and the user and machine that run it."""

import os
import platform

from dispy.system.escaping import sendable

pid = os.getpid()
"""PID of this process, also after a fork. Needed for each job: a system call would cost as much as pickling."""


def user_and_host() -> str:
    """Returns user and machine of this program, for the logs of nodes: "alice@ws7"."""
    import getpass  # which loads what asks for passwords: not for processes that never say who they are

    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in containers
        user = str(os.getuid())
    return sendable(f"{user}@{platform.node()}")


def _after_fork() -> None:
    """Set ``pid`` in a process that was just forked."""
    global pid
    pid = os.getpid()


os.register_at_fork(after_in_child=_after_fork)
