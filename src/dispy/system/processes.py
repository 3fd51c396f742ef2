"""Processes and their descendants: death signals, sub-reapers, children, and marks of nodes.

The mark of a node names its directory: as an environment variable, and as an argument of its hosts. All that a node
starts inherits the variable, and forks of a host the argument, too. What a dead node has left running is found by
either, and killed. The kernel shows the environment of a process whose memory is hidden to root alone, its arguments
to all.

Death signals, sub-reapers and the search for marks need Linux. On other systems they are left out, and psutil finds
the children.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys
import time
from collections.abc import Callable

# Options of ``prctl`` (``include/uapi/linux/prctl.h``).
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PF_EXITING = 0x4
"""Flag that the kernel shows of a process that is ending (``include/linux/sched.h``): its exit code is fixed."""

_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_ROUNDS_MAX = 1000
"""Rounds of ``kill_strays``, which then gives up. Processes that fork faster than we kill are a fork bomb, and left
to the limits that the system sets them."""

_AS_IN_PYTHON = ("SIGPIPE", "SIGXFSZ")
"""Names of signals that Python ignores in every program, and that ``reset_signals`` leaves so: system calls fail with
errors instead."""

_LOOKS_MAX = 20
"""Attempts to list children while threads of their parent end one by one; then ``psutil`` is asked, as on kernels
that list no children at all."""


# Opened once: in a forked worker that would take a quarter of a millisecond.
_library = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
"""C library of this process; None on other systems than Linux."""


def _prctl(option: int, value: int) -> None:
    """Set a property of this process: number of a ``prctl`` option, and its value.

    Errors are ignored. Does nothing on other systems than Linux.
    """
    if _library is not None:
        _library.prctl(option, value, 0, 0, 0)


def set_death_signal(number: int, parent: int) -> None:
    """Have the kernel send this process a signal when the thread that started it ends.

    Args:
        number: Number of the signal.
        parent: PID of the process that started this one. If it has ended already, the signal is sent at once.
    """
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def reset_signals(*kept: int) -> None:
    """Give signals the effect that they have in a program started from a terminal: none is blocked, none ignored.

    Child processes inherit both. A program that awaits signals in a thread blocks them everywhere, one that
    wants no zombies ignores SIGCHLD, and a shell ignores SIGINT for programs in the background.

    Args:
        kept: Signals that stay ignored if they are.
    """
    kept = (*kept, *(getattr(signal, name) for name in _AS_IN_PYTHON if hasattr(signal, name)))
    for number in signal.valid_signals():
        if number not in kept and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    # Unblock last: signals that have come meanwhile find the handlers of the caller.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def hide_memory() -> None:
    """Keep other processes of this user from our memory, environment and descriptors, and have no core written.

    Processes that are forked later are hidden, too. One that starts another program (``exec``) can be read again.
    """
    _prctl(_PR_SET_DUMPABLE, 0)


def drop_privileges(uid: int, gid: int, groups: list[int], shield: int) -> None:
    """Become an account for all that concerns files, for good, with no capabilities and no way to get any.

    Processes of the account could signal and trace this one if it had the account's user id only. So the real and the
    saved user are ``shield``, except where the system knows no such user, as in a container with few user ids.

    Args:
        uid, gid, groups: Ids of the account, and of its other groups.
        shield: User id that no account has.

    Raises:
        OSError: This process is not root.
    """
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    try:
        os.setresuid(shield, uid, shield)
    except OSError:
        os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)


def fill_standard_descriptors() -> None:
    """Open descriptors 0, 1 and 2 on ``/dev/null`` if the process that started us has closed them.

    To be called before sockets are made. Otherwise a socket would get such a number, code that prints would write to
    it, and libuv aborts when it closes one.
    """
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        os.set_inheritable(descriptor, True)
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


def is_ending(pid: int) -> bool:
    """True if a process has ended or is ending, so that its exit code is fixed: killing it changes nothing any more.

    False if that cannot be told.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            flags = int(file.read().rpartition(b")")[2].split()[6])
    except FileNotFoundError:
        return sys.platform == "linux" and not _exists(pid)
    except (OSError, ValueError, IndexError):
        return False
    return bool(flags & _PF_EXITING)


def _exists(pid: int) -> bool:
    """True if there is a process of this PID, a zombie too, although ``/proc`` may not show it.

    Where ``/proc`` is mounted with hidepid, it does not show processes whose memory is hidden.
    """
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def set_subreaper() -> None:
    """Become the parent of orphaned descendants, so that ``children`` lists them and ``kill_strays`` reaches them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children(pid: int) -> list[int]:
    """Returns the PIDs of the children of a process, living ones and zombies; empty if there is no such process."""
    for _ in range(_LOOKS_MAX):
        try:
            tasks = os.listdir(f"/proc/{pid}/task")
        except FileNotFoundError:
            if sys.platform == "linux":
                return []
            break
        try:
            return _children_of(pid, tasks)
        except (FileNotFoundError, ProcessLookupError):
            # A thread of the process has ended meanwhile, and another one has its children now.
            continue
        except OSError:
            break
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def _children_of(pid: int, tasks: list[str]) -> list[int]:
    """Returns the PIDs of the children that threads of process ``pid`` have started; ``tasks`` are the threads' ids.

    Raises:
        OSError: A thread has ended, or the kernel lists no children.
    """
    found: list[int] = []
    for task in tasks:
        with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
            found += map(int, file.read().split())
    return found


def kill_strays(keep: set[int]) -> int:
    """Kill and reap every descendant that is not in or below ``keep`` (PIDs); returns how many were reaped.

    As a sub-reaper we inherit the children of processes that we kill, so this repeats until none is left, at most
    ``_ROUNDS_MAX`` times. Waits up to a second for each killed process to end.
    """
    killed = 0
    for _ in range(_ROUNDS_MAX):
        strays = [pid for pid in children(os.getpid()) if pid not in keep]
        if not strays:
            break
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in strays:
            killed += _reap(pid)
    return killed


def reap(pid: int) -> bool:
    """True if a child has ended; then it is reaped, and its PID is free. False if the child runs. Does not wait.

    True, too, if the process is no child of ours (any more).
    """
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _reap(pid: int, wait_s: float = 1.0) -> bool:
    """Wait for a killed process and reap it: returns True then.

    Returns False if the process is not our child, or does not end in ``wait_s`` seconds.
    """
    deadline = time.monotonic() + wait_s
    pause = 0.0002
    while True:
        try:
            done, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return False
        if done:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


MARK = "DISPY_NODE"
"""Name of the environment variable that marks all processes below a node. Its value is the path of the directory that
the node keeps locked: when that is unlocked, the node is dead, and the next node kills the processes."""

_MARKED = f"\0{MARK}=".encode()
"""Beginning of the mark in the environment of a process, and in its arguments: a null character precedes each."""


def mark_argument(mark: str) -> str:
    """Returns the last argument of a host, by which ``kill_marked`` finds the host and its forks, hidden or not.

    ``mark`` is the path of the node's directory.
    """
    return f"{MARK}={mark}"


def kill_marked(is_dead: Callable[[str], bool]) -> int:
    """Kill processes of this user that dead nodes have left behind, in case their hosts were killed, too. Linux only.

    Root kills those of other users as well, which are the accounts of ``--user``.

    Args:
        is_dead: Returns True if the node with this mark is certainly dead.

    Returns:
        Number of processes that were killed.
    """
    killed = 0
    for entry in os.listdir("/proc") if sys.platform == "linux" else ():
        if entry.isdigit():
            mark = _mark_of(entry)
            if mark and is_dead(mark):
                with contextlib.suppress(OSError):
                    os.kill(int(entry), signal.SIGKILL)
                    killed += 1
    return killed


def _mark_of(pid: str) -> str:
    """Returns the mark of the node that a process runs below; empty if there is none, or it cannot be read.

    Processes of other users are passed over unless we are root: their arguments can be read, and may name any path.
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            found = _mark_in(file.read())
        if found:
            return found
    except OSError:  # the process has ended, is hidden, or belongs to another user
        pass
    try:
        # The owner of this directory is the user of the process, also if that is hidden.
        if os.geteuid() not in (0, os.stat(f"/proc/{pid}").st_uid):
            return ""
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return _mark_in(file.read())
    except OSError:
        return ""


def _mark_in(strings: bytes) -> str:
    """Returns the mark in the environment or the arguments of a process, as ``/proc`` has them; empty without one."""
    _, _, rest = (b"\0" + strings).partition(_MARKED)
    return rest.partition(b"\0")[0].decode("ascii", "replace")


_SHORT_OF = {
    errno.EAGAIN: "processes: see 'ulimit -u', and --pids-limit of a container",
    errno.EMFILE: "descriptors: see 'ulimit -n'",
    errno.ENFILE: "descriptors: the machine has no more",
    errno.ENOMEM: "memory: see --memory of a container",
    errno.ENOSPC: "disk: see 'df' and 'df -i'",
    errno.EDQUOT: "disk: see 'quota'",
}
"""Words for a hint, by error number: the resource that was short, and where to look."""


def shortage(error: OSError) -> str:
    """Returns a hint for an error: the resource that was short, and where to look; empty if the cause is another."""
    what = _SHORT_OF.get(error.errno or 0)
    return f"it needs more {what}" if what else ""


def describe_exit(code: int) -> str:
    """Returns an exit code, as ``subprocess`` has it, in words: "exit code 1", or for -9 "signal 9 (SIGKILL)"."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"


def boot_id() -> str:
    """Returns the name of this boot of the machine, a random UUID; empty where the kernel has none.

    What was noted under another name, such as PIDs, is of a boot that is over.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
