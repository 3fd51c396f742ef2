"""Jobs of several programs on one node, as one account: none reads the memory of another's processes.

They are tried with ``--user``, since root reads everything. A node of a program's own is left open for debuggers.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispy.system.processes import children

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import Node, Place, below, wait_for
from .others import NAME, as_other, environment_of_other, needs_root, public_directory, public_place

WORD = b"the password of another program"

GET_DUMPABLE = 3


@pytest.fixture
def place_root() -> Iterator[Path]:
    with public_directory() as directory:
        yield directory


@pytest.fixture
def public(place: Place) -> Iterator[None]:
    with public_place(place):
        yield


@pytest.fixture
def shared(public: None, start_node: StartNode, python_for_all: str) -> Node:
    """A node for several programs, with another account for its jobs."""
    return start_node("--user", NAME, python=[python_for_all])


def keep(word: bytes) -> tuple[int, int]:
    """Leave a word in the memory of this worker; returns its pid, and where the word is."""
    kept = globals()["KEPT"] = ctypes.create_string_buffer(word)
    return os.getpid(), ctypes.addressof(kept)


def spy(pid: int, address: int, size: int) -> dict[str, Any]:
    """Try all ways into the memory and the descriptors of a process of the same user; returns what each gave."""
    libc = ctypes.CDLL(None, use_errno=True)
    found: dict[str, Any] = {}

    def attempt(name: str, function: Any) -> None:
        try:
            found[name] = function()
        except OSError as error:
            found[name] = error.strerror

    def from_mem() -> bytes:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
            file.seek(address)
            return file.read(size)

    def from_readv() -> bytes:
        buffer = ctypes.create_string_buffer(size)
        mine, theirs = ((ctypes.c_void_p * 2)(at, size) for at in (ctypes.addressof(buffer), address))
        if libc.process_vm_readv(pid, mine, 1, theirs, 1, 0) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return buffer.raw

    def traced() -> str:
        seize, detach = 0x4206, 17
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        if libc.ptrace(seize, pid, None, None) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        libc.ptrace(detach, pid, None, None)
        return "attached"

    def descriptor() -> str:
        pidfd = os.pidfd_open(pid)
        try:
            taken = libc.syscall(438, pidfd, 1, 0)
            if taken < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            os.close(taken)
            return "taken"
        finally:
            os.close(pidfd)

    attempt("mem", from_mem)
    attempt("readv", from_readv)
    attempt("ptrace", traced)
    attempt("pidfd", descriptor)
    attempt("environ", lambda: len(Path(f"/proc/{pid}/environ").read_bytes()))
    attempt("descriptors", lambda: len(os.listdir(f"/proc/{pid}/fd")))
    attempt("maps", lambda: len(Path(f"/proc/{pid}/maps").read_bytes()))
    return found


REFUSED = {"Permission denied", "Operation not permitted"}


@needs_root
@pytest.mark.parametrize("isolate", [False, True])
def test_jobs_cannot_read_other_programs(shared: Node, make_cluster: MakeCluster, isolate: bool) -> None:
    """Neither the worker of another computation, nor any host, their own and the spare one too."""
    victim = make_cluster(keep)
    pid, address = victim.submit(WORD).get()
    attacker = make_cluster(spy, isolate=isolate)
    seen = attacker.submit(pid, address, len(WORD)).get()
    assert set(seen.values()) <= REFUSED, seen
    assert len(seen) == 7
    # Root sees which are hidden: their files in /proc are root's. A spare host hides itself as its Python begins.
    hosts = children(shared.pid)
    assert len(hosts) >= 2
    for host in hosts:
        wait_for(
            lambda host=host: os.stat(f"/proc/{host}/environ").st_uid == 0, what=f"host {host} is hidden"
        )
        looked = attacker.submit(host, address, 1).get()
        assert set(looked.values()) <= REFUSED, looked


@needs_root
def test_a_job_works_as_in_a_script_but_for_what_is_said(shared: Node, make_cluster: MakeCluster) -> None:
    """The list of ``docs/explanation/security.md``, and what is not on it."""

    def look() -> dict[str, str]:
        import faulthandler
        import multiprocessing
        import multiprocessing.shared_memory
        import subprocess
        import tempfile
        from functools import partial

        import psutil

        found: dict[str, str] = {}

        def attempt(name: str, function: Any) -> None:
            try:
                function()
                found[name] = "works"
            except (OSError, psutil.AccessDenied):
                found[name] = "refused"

        def peek(name: str, mode: str, size: int) -> None:
            with open(f"/proc/self/{name}", mode) as file:
                if mode == "w":
                    file.write("500")
                else:
                    file.read(size)

        for name in (
            "environ",
            "io",
            "auxv",
            "pagemap",
            "syscall",
            "maps",
            "smaps",
            "status",
            "limits",
            "cgroup",
        ):
            attempt(name, partial(peek, name, "rb", 1))
        attempt("mem", partial(peek, "mem", "rb", 0))
        for name in ("comm", "oom_score_adj"):
            attempt(f"write {name}", partial(peek, name, "w", 0))
        attempt("list fd", lambda: os.listdir("/proc/self/fd"))
        me = psutil.Process()
        for name in ("environ", "io_counters", "memory_full_info", "open_files", "cpu_times", "num_fds"):
            attempt(f"psutil {name}", getattr(me, name))
        with tempfile.TemporaryFile() as file:
            attempt("reopen", partial(peek, f"fd/{file.fileno()}", "rb", 1))
            attempt("faulthandler", lambda: faulthandler.dump_traceback(file))
        with multiprocessing.get_context("fork").Pool(2) as pool:
            attempt("multiprocessing", lambda: pool.map(abs, range(8)))
        memory = multiprocessing.shared_memory.SharedMemory(create=True, size=64)
        memory.close()
        memory.unlink()
        text = subprocess.check_output(["/bin/sh", "-c", "wc -c < /proc/$$/environ"], text=True)
        found["environ of a program"] = "works" if int(text) else "refused"
        return found

    pytest.importorskip("psutil")
    job = make_cluster(look).submit()
    found = job()
    assert job.exception is None, job.exception
    refused = {name for name, how in found.items() if how == "refused"}
    assert refused == {
        "environ", "io", "mem", "auxv", "pagemap", "syscall", "write comm", "write oom_score_adj",
        "psutil environ", "psutil io_counters",
    }  # fmt: skip


# Who is hidden.


def dumpable() -> tuple[int, int]:
    """Whether this worker can be read by others of its user: 1, or 0; and its host's pid."""
    return ctypes.CDLL(None).prctl(GET_DUMPABLE, 0, 0, 0, 0), os.getppid()


def test_workers_of_a_node_for_several_programs_are_hidden(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    start_node()
    assert make_cluster(dumpable).submit().get()[0] == 0


def test_debuggers_can_attach_on_a_programs_own_node(make_own_cluster: MakeCluster) -> None:
    assert make_own_cluster(dumpable).submit().get()[0] == 1
    assert make_own_cluster(dumpable, isolate=True).submit().get()[0] == 1


# Those that dead nodes leave.

LEFT = """
import os, subprocess, sys, time
from dispy.system.processes import MARK, kill_marked, mark_argument

mark = sys.argv[1]
run = "from dispy.system.processes import hide_memory; hide_memory(); print(flush=True); input()"
environment = {**os.environ, MARK: mark}
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
hidden = subprocess.Popen([sys.executable, "-P", "-c", run, mark_argument(mark)], env=environment, **pipes)
hidden.stdout.readline()
try:
    open(f"/proc/{hidden.pid}/environ").close()
except PermissionError:
    print("hidden")
started = subprocess.Popen(["sleep", "600"], env=environment)
other = subprocess.Popen([sys.executable, "-P", "-c", run, mark_argument(mark + "0")], **pipes)
other.stdout.readline()
while True:
    with open(f"/proc/{started.pid}/cmdline") as file:
        if "sleep" in file.read():
            break
    time.sleep(0.001)
killed = kill_marked(lambda found: found == mark)
print(killed, hidden.wait(), started.wait(), other.poll())
other.stdin.close()
other.kill()
other.wait()
"""


@needs_root
def test_hidden_processes_of_dead_nodes_are_found(
    run_program: RunProgram, place: Place, python_for_all: str
) -> None:
    """By their arguments, as their environment cannot be read; programs that they started, by their environment."""
    program = run_program(
        LEFT, str(place.root / "mark"),
        python=[python_for_all, "-W", "ignore"], env=environment_of_other(place), cwd="/", **as_other(),
    )  # fmt: skip
    assert program.wait() == 0, program.stderr
    assert program.stdout == "hidden\n2 -9 -9 None\n"


FORGED = """
import sys
from dispy.system import processes

asked = []
assert processes.kill_marked(lambda mark: asked.append(mark)) == 0
print([mark for mark in asked if mark == sys.argv[1]])
"""


@needs_root
def test_paths_in_arguments_of_other_users_are_not_looked_at(
    run_program: RunProgram, place: Place, python_for_all: str
) -> None:
    """They may name a pipe, and opening it would wait for ever."""
    path = str(place.root / "forged")
    run = "import signal; print(flush=True); signal.pause()"
    victim = run_program(run, f"DISPY_NODE={path}", name="forger.py", python=[sys.executable, "-u"])
    victim.wait_line("^$")
    program = run_program(
        FORGED, path, python=[python_for_all], env=environment_of_other(place), cwd="/", **as_other()
    )
    assert program.wait() == 0, program.stderr
    assert program.stdout == "[]\n"
    assert below(place.root, "forged") == []
