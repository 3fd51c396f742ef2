"""Threads of compiled libraries: which come back after a fork, which are let go, which are warned about."""

from __future__ import annotations

import ctypes.util
import subprocess
import sys

import pytest

USE_OPENMP = """
import ctypes, ctypes.util, os, signal, sys
library = ctypes.CDLL(ctypes.util.find_library("gomp"))
call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
compute = lambda: library.GOMP_parallel(call, None, 4, 0)
compute()
from dispy.worker.between_jobs import native_threads
print(native_threads.libraries_left(is_resting=False))
"""

FORK = """
pid = os.fork()
if not pid:
    signal.alarm(10)
    compute()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

NUMPY = """
import os, signal, numpy
compute = lambda: numpy.ones((400, 400)) @ numpy.ones((400, 400))
compute()
from dispy.worker.between_jobs import native_threads
print(native_threads.libraries_left(is_resting=False))
native_threads.rest()
"""

needs_openmp = pytest.mark.skipif(
    not ctypes.util.find_library("gomp"), reason="the OpenMP of GCC is not installed here"
)


def run(code: str) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=40, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()


@needs_openmp
def test_the_openmp_of_gcc_is_named_and_lets_its_threads_go() -> None:
    code = f"{USE_OPENMP}\nprint(native_threads.libraries_left(is_resting=native_threads.rest()))\n{FORK}"
    before, after, child = run(code)
    assert "libgomp" in before
    assert after == "[]"
    assert child == "0", "a forked process computes with threads of its own"


@needs_openmp
def test_it_computes_again_after_that() -> None:
    lines = run(
        f"{USE_OPENMP}\nnative_threads.rest()\ncompute()\nprint(native_threads.libraries_left(is_resting=False))\n"
    )
    assert "libgomp" in lines[1]


def test_threads_of_linear_algebra_come_back_by_themselves() -> None:
    assert run(f"{NUMPY}\n{FORK}") == ["[]", "0"]


def test_threads_of_python_are_not_a_librarys() -> None:
    code = (
        "import threading\nfrom dispy.worker.between_jobs import native_threads\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "print(native_threads.libraries_left(is_resting=False))\n"
        "import os\nos._exit(0) if print(end='', flush=True) is None else 0\n"
    )
    assert run(code) == ["[]"]


def test_nor_are_those_that_wait_in_compiled_code() -> None:
    code = (
        "import os\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "from dispy.worker import setup\nfrom dispy.worker.between_jobs import native_threads\n"
        "pool = ThreadPoolExecutor(1, 'mine')\npool.submit(int).result()\n"
        "left = native_threads.libraries_left(is_resting=False)\n"
        "print(left, '_queue' in setup.threads_left('setup'), flush=True)\n"
        "os._exit(0)\n"
    )
    assert run(code) == ["[] False"]


HIDDEN = """
import ctypes, os, threading
from dispy.system.processes import hide_memory
from dispy.worker.between_jobs import native_threads
library = ctypes.CDLL(None)
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
hide_memory()
before = set(os.listdir("/proc/self/task"))
for name in ("polars-7", "jemalloc_bg_thd", None):
    thread = ctypes.c_ulong()
    assert library.pthread_create(ctypes.byref(thread), None, ctypes.cast(library.pause, ctypes.c_void_p), None) == 0
    (task,) = set(os.listdir("/proc/self/task")) - before
    before.add(task)
    if name:
        with open(f"/proc/self/task/{task}/comm", "w") as file:
            file.write(name)
print(native_threads.libraries_left(is_resting=False))
os._exit(0) if print(end="", flush=True) is None else 0
"""


def test_where_memory_is_hidden_threads_are_known_by_their_names() -> None:
    assert run(HIDDEN) == ["['polars']"]
