"""As in a container: little or no memory file system, nothing else to write to, no home, process number 1, few CPUs.

What is mounted is seen by the programs of a test only. Where nothing can be mounted, these tests are skipped.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator

import pytest

from .helpers import PYTHON, Place, Program

SMALL = "mount -t tmpfs -o size=64m,mode=1777 tmpfs /dev/shm"
"""What Docker gives a container."""

FULL = f"{SMALL} && head -c 64M /dev/zero >/dev/shm/of-another"
READ_ONLY = "mount -t tmpfs -o size=64m,ro tmpfs /dev/shm"
NONE = "mount --bind /proc/sys /dev/shm"
"""Nothing that can be written to."""

NO_EXEC = "mount -t tmpfs -o size=64m,mode=1777,noexec,nosuid,nodev tmpfs /dev/shm"
NO_NUMBERS = "mount -t tmpfs -o size=64m,mode=1777,nr_inodes=4 tmpfs /dev/shm"

PROGRAM = """
import json, sys
import dispy, dispy.config

MB = 1_000_000
dispy.config.SharedMemory = sys.argv[1] == "shared"
dispy.config.LocalNode = sys.argv[2] == "private"
parts = []

def work(how, data, size):
    if how == "provisional":
        return dispy_provisional_result(bytes(size), timeout=20)
    if how == "length":
        return len(data)
    return bytes(size) if data is None else data

def take_part(job):
    if job.status == job.ProvisionalResult:
        parts.append(len(job.result) // MB)

def ended(*jobs):
    for job in jobs:
        if not job.wait(20) or job.status != job.Finished:
            raise SystemExit(f"{job.args[0]} {job.args[2]}: {job.status} {job.exception}")
    return [job.result if type(job.result) is int else len(job.result) // MB for job in jobs]

said = {}
if sys.argv[3] == "one":
    cluster = dispy.JobCluster(work)
    said["at once"] = ended(*[cluster.submit("data", bytes(30 * MB), 0) for _ in range(4)])
    cluster.shutdown()
    print(json.dumps(said))
    sys.exit()
with dispy.JobCluster(work, job_status=take_part) as cluster:
    said["argument"] = ended(cluster.submit("length", bytes(100 * MB), 0))
    said["result"] = ended(cluster.submit("data", None, 100 * MB))
    reference = cluster.put(bytes(100 * MB))
    said["put"] = ended(cluster.submit("length", reference, 0))
    del reference
    said["at once"] = ended(*[cluster.submit("data", bytes(30 * MB), 0) for _ in range(4)])
    said["map"] = [len(data) // MB for data in cluster.map(["data"] * 4, [bytes(20 * MB)] * 4, [0] * 4)]
    said["delivered"] = ended(*[cluster.submit("provisional", None, size * MB) for size in (100, 30)])
said["provisional"] = sorted(parts)
print(json.dumps(said))
"""

EXPECTED = {
    "argument": [100_000_000],
    "result": [100],
    "put": [100_000_000],
    "at once": [30] * 4,
    "map": [20] * 4,
    "delivered": [0, 0],
    "provisional": [30, 100],
}

RunAlone = Callable[..., Program]

mounting = pytest.mark.skipif(
    os.getuid() != 0
    or subprocess.run(["unshare", "--mount", "sh", "-c", SMALL], capture_output=True).returncode != 0,
    reason="nothing can be mounted here",
)


@pytest.fixture
def alone(place: Place) -> Iterator[RunAlone]:
    """Runs a shell script in a mount namespace of its own; ``$PYTHON`` is ours."""
    started: list[Program] = []

    def run(script: str, *, unshare: tuple[str, ...] = ("--mount",), **variables: str | None) -> Program:
        environment = {**place.environment, **variables, "PYTHON": shlex.join(PYTHON)}
        environment = {name: value for name, value in environment.items() if value is not None}
        program = Program(["unshare", *unshare, "sh", "-c", script], place, env=environment)
        started.append(program)
        return program

    yield run
    for program in started:
        program.end()


def write(place: Place, source: str, name: str = "program.py") -> str:
    path = place.root / name
    path.write_text(source)
    return shlex.quote(str(path))


def with_node(command: str) -> str:
    """A script that runs a command beside a node, and ends that."""
    return (
        "$PYTHON -W error -m dispy.cli.node --listen_port 0 >node.out & node=$!\n"
        "until grep -q listens node.out; do kill -0 $node || exit 1; done\n"
        f"{command}; code=$?; kill -TERM $node; wait $node && (exit $code)"
    )


def run_beside(alone: RunAlone, memory: str, command: str, node: str) -> Program:
    """Run a command, and say what it leaves in memory or instead of it."""
    command = with_node(command) if node == "dispynode" else command
    left = "ls -A /dev/shm/dispy-* 2>/dev/null; ls -A $TMPDIR/dispy-memory-* 2>/dev/null"
    done = "rmdir $TMPDIR/dispy-memory-* 2>/dev/null"
    return alone(f"{memory} && {{ {command}; code=$?; {left}; {done}; exit $code; }}")


@mounting
@pytest.mark.parametrize(
    ("memory", "shared", "node"),
    [(SMALL, "shared", "private"), (SMALL, "streamed", "dispynode"), (FULL, "shared", "dispynode")],
    ids=["small", "small, streamed", "full"],
)
def test_large_data_that_memory_has_no_room_for(
    alone: RunAlone, place: Place, memory: str, shared: str, node: str
) -> None:
    """Goes to disk: arguments, results, provisional ones, what is put, and what a map sends. No job ends for it."""
    program = run_beside(alone, memory, f"$PYTHON {write(place, PROGRAM)} {shared} {node} all", node)
    assert program.wait(25) == 0, program.stderr
    assert json.loads(program.stdout) == EXPECTED, "and nothing is left in memory"
    assert "Traceback" not in program.stderr


@mounting
@pytest.mark.parametrize(
    ("memory", "node"),
    [(READ_ONLY, "private"), (NONE, "dispynode"), (NO_EXEC, "private"), (NO_NUMBERS, "private")],
    ids=["read-only", "none", "noexec", "no inodes"],
)
def test_a_memory_file_system_that_cannot_be_used(
    alone: RunAlone, place: Place, memory: str, node: str
) -> None:
    program = run_beside(alone, memory, f"$PYTHON {write(place, PROGRAM)} shared {node} one", node)
    assert program.wait(25) == 0, program.stderr
    assert json.loads(program.stdout) == {"at once": [30] * 4}
    assert "Traceback" not in program.stderr
