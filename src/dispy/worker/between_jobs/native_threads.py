"""Threads that compiled libraries have started in this process: which library, and whether a fork loses them.

A forked process has the calling thread alone. OpenBLAS and others notice that and start their threads again. The
OpenMP of GCC does not: scikit-learn and torch would wait for ever in jobs once ``setup`` has computed with them.
GCC's OpenMP can be told to end its threads (``rest``), and starts new ones when it next needs some. For threads of
other libraries that are left there is only a warning (``libraries_left``).
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
import time
from contextlib import suppress
from typing import NamedTuple

_GCC_OPENMP = re.compile(r"/libgomp[-.]")
"""Matches paths of GCC's OpenMP, whose threads ``rest`` ends. Packages bring copies of their own, so one process may
have several."""

_PAUSE_HARD = 2
"""Argument of ``omp_pause_resource_all`` (``omp_pause_hard`` of OpenMP 5): end the threads, and lose their
thread-local data."""

_SURVIVE = re.compile(r"openblas|/libmkl_|/libiomp5|/libomp|/libblis|/libarrow|/numexpr/|jemalloc_bg_thd")
"""Matches paths of libraries, or names of their threads, that survive a fork by themselves, so that there is no
warning. Each was tried: what ``setup`` has used works in jobs."""

_PLAIN = re.compile(
    r"/(libc|libm|ld-linux[^/]*|libpthread|libstdc\+\+|libgcc_s|libpython[^/]*)[-.]|/python[^/]*$|/numpy/"
)
"""Matches paths of files with code that threads of any library run, such as the C library: ``_owner`` passes over
addresses in them, as they do not tell whose thread it is."""

_STACK_MAX = 64 * 1024
"""Bytes of a thread's stack that are searched for its library, from the innermost frame: stacks of idle threads are
shorter."""

_BUSY_S = 0.2
"""Longest wait of ``libraries_left`` for threads to become idle (seconds); the warning leaves out a thread that still
runs then. Threads that have just computed spin for some 30 ms, to be quicker at the next call."""

_ENDING_S = 5.0
"""Longest wait for threads that were told to end (seconds). They take a millisecond, and longer while others have the
CPUs."""


class _Code(NamedTuple):
    """Mapped code of the file at ``path``, a library or program: addresses from ``start`` to before ``end``."""

    start: int
    end: int
    path: str


def rest() -> bool:
    """Have all loaded copies of GCC's OpenMP end their threads. Call this before a fork whose child may use them.

    Returns:
        True if all copies have been told; False if there is none, or one that is too old to do so (before OpenMP 5)
        and keeps its threads.
    """
    if len(_tasks()) < 2:
        return False
    copies = sorted({code.path for code in _executable() if _GCC_OPENMP.search(code.path)})
    told = 0
    for path in copies:
        with suppress(OSError, AttributeError):  # too old for that
            told += not ctypes.CDLL(path).omp_pause_resource_all(_PAUSE_HARD)
    return 0 < told == len(copies)


def libraries_left(*, is_resting: bool) -> list[str]:
    """Returns file names of libraries whose threads run here and are not known to come back after a fork, sorted.

    The user is warned of them, as jobs that need such threads may wait for ever. Threads that Python has started are
    left out; the caller names those. Takes up to 0.2 s, longer if threads that are told to end do not.

    Args:
        is_resting: True if all threads of GCC's OpenMP have been told to end (``rest``).
    """
    start = time.monotonic()
    own = {str(os.getpid()), *[str(thread.native_id) for thread in threading.enumerate()]}
    tasks = [task for task in _tasks() if task not in own]
    if not tasks:
        return []
    code = _executable()
    # Threads that were told to end may have left their addresses on a stack that another library's thread has now.
    others = [each for each in code if not _GCC_OPENMP.search(each.path)] if is_resting else code
    left = set()
    for task in tasks:
        while True:
            owner = _owner(task, code)
            is_openmp = bool(owner and _GCC_OPENMP.search(owner))
            if is_openmp:
                owner = _owner(task, others) or owner
                is_openmp = bool(owner and _GCC_OPENMP.search(owner))
            wait_s = _ENDING_S if is_openmp and is_resting else _BUSY_S
            if (owner is not None and not is_openmp) or time.monotonic() - start > wait_s:
                break
            time.sleep(0.005)
        if owner and not _SURVIVE.search(owner):
            left.add(os.path.basename(owner))
    return sorted(left)


def _tasks() -> list[str]:
    """Returns the numbers of all threads of this process, in decimal digits; empty on a system that does not tell."""
    try:
        return os.listdir("/proc/self/task")
    except OSError:
        return []


def _executable() -> list[_Code]:
    """Returns the mapped code of all libraries and programs here; empty on a system that does not tell."""
    found = []
    with suppress(OSError), open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        for line in file:
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/"):
                start, end = (int(number, 16) for number in fields[0].split("-"))
                found.append(_Code(start, end, fields[5].rstrip()))
    return found


def _owner(task: str, code: list[_Code]) -> str | None:
    """Returns the path of the library that has started a thread, or the thread's name if that tells the library.

    The innermost address on its stack that belongs to code other than the C library's tells: an idle thread is where
    its pool waits, and the memory above the frames is storage of all libraries.

    Args:
        task: Number of the thread, in decimal digits.
        code: Mapped code of all libraries, from ``_executable``.

    Returns:
        Path or name; empty for a thread that is Python's, has ended or cannot be looked at; None for one that is
        running now. Where the memory of this process is hidden, its stacks are, too, and only a name that the library
        has given the thread tells.
    """
    name = ""
    try:
        with open(f"/proc/self/task/{task}/comm", encoding="utf-8", errors="replace") as file:
            name = file.read().strip()
        with open(f"/proc/self/task/{task}/syscall", encoding="ascii") as file:
            fields = file.read().split()
        if fields[0] == "running":
            return None
        stack = _stack(int(fields[-2], 16))
    except PermissionError:
        return _given_name(name)
    except (OSError, ValueError, IndexError):
        return ""
    if _SURVIVE.search(name):
        return name
    for place in range(0, len(stack) - 7, 8):
        address = int.from_bytes(stack[place : place + 8], "little")
        for library in code:
            if library.start <= address < library.end and not _PLAIN.search(library.path):
                return library.path
    return ""


def _given_name(name: str) -> str:
    """Returns the name of a thread without its number, as "polars" of "polars-3"; empty if nobody has named it."""
    with suppress(OSError), open("/proc/self/comm", encoding="utf-8", errors="replace") as file:
        if file.read().strip() != name:
            return name.rstrip("0123456789").rstrip("-_:#/ ")
    return ""


def _stack(pointer: int) -> bytes:
    """Returns a thread's stack from ``pointer`` to its base, at most ``_STACK_MAX`` bytes; empty if none is there.

    Raises:
        OSError: The memory cannot be read.
    """
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        for line in file:
            start, end = (int(number, 16) for number in line.split(maxsplit=1)[0].split("-"))
            if start <= pointer < end:
                break
        else:
            return b""
    pointer &= ~7
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        memory.seek(pointer)
        return memory.read(min(end - pointer, _STACK_MAX))
