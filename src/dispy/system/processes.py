"""Processes and their descendants, as Linux lets us hold them: death signals, sub-reapers, children.

Elsewhere the calls do nothing and psutil finds the children.
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

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PF_EXITING = 0x4
"""In the flags of a process (``include/linux/sched.h``)."""
_PR_SET_CHILD_SUBREAPER = 36
_ROUNDS_MAX = 1000  # a process that forks faster than we kill is a fork bomb; leave it to its limits
_AS_IN_PYTHON = ("SIGPIPE", "SIGXFSZ")
"""Python ignores these in every program, and gives errors instead."""

_LOOKS_MAX = 20  # threads of a process end one by one; some kernels do not tell children at all


# Opened once: in a forked worker it would cost a quarter of a millisecond.
_library = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _prctl(option: int, value: int) -> None:
    if _library is not None:
        _library.prctl(option, value, 0, 0, 0)


def set_death_signal(number: int, parent: int) -> None:
    """Be sent ``number`` when the thread that started us ends; at once if ``parent`` is gone already."""
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def reset_signals(*kept: int) -> None:
    """Have signals do what they do in a program that is started from a terminal: none is blocked, none ignored.

    Both are inherited by whatever a program starts. A program that awaits signals in a thread blocks them everywhere,
    one that wants no zombies ignores SIGCHLD, a shell ignores SIGINT for what runs in the background.

    Args:
        kept: Signals that stay ignored if they are.
    """
    kept = (*kept, *(getattr(signal, name) for name in _AS_IN_PYTHON if hasattr(signal, name)))
    for number in signal.valid_signals():
        if number not in kept and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    # Last: what has come meanwhile finds the handlers of the caller.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def hide_memory() -> None:
    """Let no other process of this user look into this one, and write no core of it: it holds a secret."""
    _prctl(_PR_SET_DUMPABLE, 0)


def fill_standard_descriptors() -> None:
    """Open descriptors 0, 1 and 2 where whoever started us has closed them.

    Before sockets are made: these would get such numbers, be written to by whoever means a terminal, and libuv
    aborts when it is to close one.
    """
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        os.set_inheritable(descriptor, True)
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


def is_ending(pid: int) -> bool:
    """Whether a process has ended or is about to, so that its exit code is fixed. False if nobody can say."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            flags = int(file.read().rpartition(b")")[2].split()[6])
    except FileNotFoundError:
        return sys.platform == "linux"
    except (OSError, ValueError, IndexError):
        return False
    return bool(flags & _PF_EXITING)


def set_subreaper() -> None:
    """Become the parent of orphaned descendants, so that none is lost from sight."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children(pid: int) -> list[int]:
    """Pids of the living and unreaped children of a process."""
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
            # One of its threads has ended meanwhile, and another has its children now.
            continue
        except OSError:
            break
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def _children_of(pid: int, tasks: list[str]) -> list[int]:
    found: list[int] = []
    for task in tasks:
        with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
            found += map(int, file.read().split())
    return found


def kill_strays(keep: set[int]) -> int:
    """Kill and reap every descendant that is not in or below ``keep``; returns how many there were.

    As a sub-reaper we inherit the children of what we kill, so this repeats until nobody is left.
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
    """Whether a child has ended; it is gone then."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _reap(pid: int, wait_s: float = 1.0) -> bool:
    """Wait for a process that was killed; False if it is not our child or does not die in time."""
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
"""Environment variable of everything that runs below a node: the directory that the node keeps locked."""

_MARKED = f"\0{MARK}=".encode()


def kill_marked(is_dead: Callable[[str], bool]) -> int:
    """Kill what nodes that are dead have left behind, where all who should have seen to it are dead, too.

    Args:
        is_dead: Whether the node with this mark is dead for sure.

    Returns:
        The number of processes killed.
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
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = b"\0" + file.read()
    except OSError:  # gone, or somebody else's
        return ""
    _, _, rest = variables.partition(_MARKED)
    return rest.partition(b"\0")[0].decode("ascii", "replace")


_SHORT_OF = {
    errno.EAGAIN: "processes: see 'ulimit -u', and --pids-limit of a container",
    errno.EMFILE: "descriptors: see 'ulimit -n'",
    errno.ENFILE: "descriptors: the machine has no more",
    errno.ENOMEM: "memory: see --memory of a container",
    errno.ENOSPC: "disk: see 'df' and 'df -i'",
    errno.EDQUOT: "disk: see 'quota'",
}


def shortage(error: OSError) -> str:
    """A hint for errors: the resource that was short, and where to look; empty if it was something else."""
    what = _SHORT_OF.get(error.errno or 0)
    return f"it needs more {what}" if what else ""


def describe_exit(code: int) -> str:
    """An exit code in words; negative ones are signals, as in ``subprocess``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"


def boot_id() -> str:
    """Names this run of the machine's kernel; empty where there is no such name."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
