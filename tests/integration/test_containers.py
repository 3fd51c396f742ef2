"""As in a container: little or no memory file system, nothing else to write to, no home, process number 1, few CPUs.

What is mounted is seen by the programs of a test only. Where nothing can be mounted, these tests are skipped.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress

import psutil
import pytest

from .conftest import MakeCluster, RunProgram
from .helpers import PYTHON, Place, Program, wait_for

SMALL = "mount -t tmpfs -o size=64m,mode=1777 tmpfs /dev/shm"
"""What Docker gives a container."""

SMALLER = "mount -t tmpfs -o size=16m,mode=1777 tmpfs /dev/shm"
FULL = f"{SMALLER} && head -c 16M /dev/zero >/dev/shm/of-another"
READ_ONLY = "mount -t tmpfs -o size=64m,ro tmpfs /dev/shm"
NONE = "mount --bind /proc/sys /dev/shm"
"""Nothing that can be written to."""

NO_EXEC = "mount -t tmpfs -o size=64m,mode=1777,noexec,nosuid,nodev tmpfs /dev/shm"
NO_NUMBERS = "mount -t tmpfs -o size=64m,mode=1777,nr_inodes=4 tmpfs /dev/shm"

PROGRAM = """
import json, sys
import dispy, dispy.config

import beside

MB = int(sys.argv[3])
dispy.config.SharedMemory = sys.argv[1] == "shared"
dispy.config.LocalNode = sys.argv[2] == "private"
parts = []

def work(how, data, size):
    assert beside.CONTENT == "sent"
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
    return [(job.result if type(job.result) is int else len(job.result)) // MB for job in jobs]

said = {}
if sys.argv[4:]:
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
    "argument": [100],
    "result": [100],
    "put": [100],
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


def run_beside(alone: RunAlone, place: Place, memory: str, *arguments: str) -> Program:
    """Run the program, which has a module of its own, and say what it leaves in memory or instead of it."""
    write(place, "CONTENT = 'sent'", "beside.py")
    command = f"$PYTHON {write(place, PROGRAM)} {' '.join(arguments)}"
    node = arguments[1]
    command = with_node(command) if node == "dispynode" else command
    left = "ls -A /dev/shm/dispy-* 2>/dev/null; ls -A $TMPDIR/dispy-memory-* 2>/dev/null"
    done = "rmdir $TMPDIR/dispy-memory-* 2>/dev/null"
    return alone(f"{memory} && {{ {command}; code=$?; {left}; {done}; exit $code; }}")


@mounting
@pytest.mark.parametrize(
    ("memory", "shared", "node", "unit"),
    [
        (SMALL, "shared", "private", 1_000_000),
        (SMALLER, "streamed", "dispynode", 250_000),
        (FULL, "shared", "dispynode", 250_000),
    ],
    ids=["small", "small, streamed", "full"],
)
def test_large_data_that_memory_has_no_room_for(
    alone: RunAlone, place: Place, memory: str, shared: str, node: str, unit: int
) -> None:
    """Goes to disk: arguments, results, provisional ones, what is put, and what a map sends. No job ends for it."""
    program = run_beside(alone, place, memory, shared, node, str(unit))
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
    program = run_beside(alone, place, memory, "shared", node, "250000", "short")
    assert program.wait(25) == 0, program.stderr
    assert json.loads(program.stdout) == {"at once": [30] * 4}
    assert "Traceback" not in program.stderr


TINY = "mount -t tmpfs -o size=1m,mode=1777 tmpfs /dev/shm && mount -t tmpfs -o size=8m tmpfs $TMPDIR"
"""Memory and disk, together too little for what a program has at once."""

WAITING = """
import os, sys, time
import dispy, dispy.config

MB = 1_000_000
dispy.config.SharedMemory = sys.argv[1] == "shared"
other = os.environ["TMPDIR"] + "/of-another"

def work(data, size):
    return bytes(size) if data is None else len(data)

def send(size):
    return dispy_provisional_result(bytes(size), timeout=0.2), dispy_provisional_result(bytes(size), timeout=20)

def ended(*jobs):
    for job in jobs:
        assert job.wait(20) and job.status == job.Finished, job.exception
    return [job.result if type(job.result) in (int, tuple) else len(job.result) for job in jobs]

def refused(job):
    assert job.wait(10) and job.status == job.Terminated, job.status
    assert "there is no room for 19 MiB on the memory file system /dev/shm (" in job.exception, job.exception
    assert "docker run --shm-size=2g" in job.exception

def wait_until(is_so):
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)

def fill():
    wait_until(lambda: os.statvfs(os.path.dirname(other)).f_bavail * 4096 > 8 * MB)
    with open(other, "wb") as file:
        file.write(bytes(4 * MB))

with dispy.JobCluster(work) as cluster:
    ended(cluster.submit(b"", 0))
    assert ended(*[cluster.submit(bytes(5 * MB), 0) for _ in range(3)]) == [5 * MB] * 3
    assert ended(*[cluster.submit(None, 5 * MB) for _ in range(3)]) == [5 * MB] * 3
    refused(cluster.submit(bytes(20 * MB), 0))
    refused(cluster.submit(None, 20 * MB))
    fill()
    reference = cluster.put(bytes(5 * MB))
    waiting = cluster.submit(reference, 0)
    wait_until(lambda: "no room for 5 MiB" in cluster.why(waiting))
    os.unlink(other)
    assert ended(waiting) == [5 * MB]
    del reference, waiting
    fill()
    cancelled = cluster.submit(None, 5 * MB)
    wait_until(lambda: cancelled.status == cancelled.Running)
    cluster.cancel(cancelled)
    assert cancelled.wait(2) and cancelled.exception == "cancelled", cancelled.exception
sender = dispy.JobCluster(send, job_status=lambda job: job.status == job.ProvisionalResult and os.path.exists(other))
job = sender.submit(5 * MB)
wait_until(lambda: job.status == job.Running)
time.sleep(0.5)
os.unlink(other)
print(ended(job))
sender.shutdown()
"""


@mounting
def test_where_disk_is_full_too_large_data_waits_until_there_is_room(alone: RunAlone, place: Place) -> None:
    """What jobs of the same program or others hold comes back. What is larger than all there is ends, and says so."""
    program = alone(f"{TINY} && exec $PYTHON {write(place, WAITING)} shared")
    assert program.wait(28) == 0, program.stderr
    assert program.stdout == "[(-1, 0)]\n"
    assert "Traceback" not in program.stderr


# Nothing to write to, and no home.

SQUARES = """
import os, dispy

def square(n):
    return n * n

with dispy.JobCluster(square) as cluster:
    print([job() for job in [cluster.submit(n) for n in range(4)]], os.listdir("."))
"""

NO_TEMPORARY = "mount -t tmpfs -o ro,mode=555 nothing /var/tmp && mount -o remount,ro,bind /"
"""The root file system with all temporary directories, as of ``docker run --read-only``."""

NOBODY = "unshare --user --map-user=12345 --map-group=12345"
"""An account without a name, as of ``docker run --user 12345``."""

BARE: dict[str, str | None] = dict.fromkeys(["HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "TMPDIR"])


@mounting
@pytest.mark.parametrize("home", [None, "/", "/root", "/dev/null"])
def test_an_account_without_a_name_on_a_file_system_that_cannot_be_written(
    alone: RunAlone, place: Place, home: str | None
) -> None:
    """There is memory: all is there, which is said. Nothing goes to the current directory."""
    inner = f"cd {place.root}/here && $PYTHON {write(place, SQUARES)}"
    (place.root / "here").mkdir()
    program = alone(
        f"{SMALL} && {NO_TEMPORARY} && exec {NOBODY} sh -c {shlex.quote(inner)}", **{**BARE, "HOME": home}
    )
    code = program.wait(20)
    if "unshare" in program.stderr:
        pytest.skip(f"there are no accounts without a name here: {program.stderr}")
    assert code == 0, program.stderr
    assert program.stdout == "[0, 1, 4, 9] []\n"
    assert "files go to /dev/shm" in program.stderr
    assert "set TMPDIR" in program.stderr
    assert "Traceback" not in program.stderr


@mounting
@pytest.mark.parametrize("secret", ["", "DISPY_SECRET=words "])
def test_a_node_that_can_write_nowhere_says_where_it_tried_and_what_to_do(
    alone: RunAlone, place: Place, secret: str
) -> None:
    command = f"cd / && {secret}exec $PYTHON -m dispy.cli.node --listen_port 0"
    node = alone(f"{READ_ONLY} && {NO_TEMPORARY} && {command}", **BARE)
    assert node.wait(20) == 2, node.stdout
    assert node.stderr.startswith(
        "dispynode: no directory for temporary files can be written (tried /tmp, /var/tmp,"
    )
    assert "set TMPDIR" in node.stderr
    assert "Traceback" not in node.stderr


# The first process of a container.


def children_of(pid: int) -> dict[int, str]:
    found = {}
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            found[child.pid] = str(child.status())
    return found


@mounting
def test_a_node_that_is_the_first_process(alone: RunAlone, make_cluster: MakeCluster) -> None:
    """What its script had started stays, and is buried when it ends; a signal ends all."""
    script = "sleep 600 & sleep 0.01 & exec $PYTHON -W error -m dispy.cli.node --listen_port 0 --cpus 1"
    above = alone(script, unshare=("--mount", "--pid", "--fork", "--mount-proc", "--kill-child"))
    above.wait_line("listens on")
    (node,) = children_of(above.pid)
    (beside,) = (pid for pid in children_of(node) if "600" in psutil.Process(pid).cmdline())
    cluster = make_cluster(lambda: __import__("os").getpid())
    assert cluster.submit()() < 1000, "it runs there"
    hosts = set(children_of(node)) - {beside}
    cluster.shutdown()
    wait_for(lambda: children_of(node), lambda found: not hosts & set(found), what="its host has ended")
    wait_for(
        lambda: children_of(node),
        lambda found: psutil.STATUS_ZOMBIE not in found.values(),
        what="none is dead",
    )
    assert beside in children_of(node)
    os.kill(node, signal.SIGTERM)
    assert above.wait() == 0, above.stderr
    assert "Traceback" not in above.stderr


def test_a_program_with_few_descriptors(place: Place, run_program: RunProgram) -> None:
    """Large data does not take those that the program needs itself."""
    source = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import dispy
cluster = dispy.JobCluster(lambda data: data)
held = [cluster.submit(bytes(300_000)) for _ in range(100)]
print(sum(len(job()) for job in held))
own = [open("/dev/null") for _ in range(20)]
for file in own:
    file.close()
cluster.shutdown()
"""
    program = run_program(source)
    assert program.wait(20) == 0, program.stderr
    assert program.stdout == "30000000\n"


@mounting
@pytest.mark.parametrize(("most", "said"), [(1, "no thread can be started"), (2, "none can be started")])
def test_a_program_that_may_start_nothing_says_why(
    alone: RunAlone, place: Place, python_for_all: str, most: int, said: str
) -> None:
    """Processes of an account that has no others; root may have any number."""
    as_other = f"setpriv --reuid 4242{most} --regid 4242{most} --clear-groups prlimit --nproc={most}"
    copied = f"cat {write(place, SQUARES)} >/dev/shm/program.py"
    program = alone(
        f"{SMALL} && {copied} && exec {as_other} {python_for_all} /dev/shm/program.py",
        XDG_STATE_HOME="/dev/shm",
        XDG_RUNTIME_DIR="/dev/shm",
    )
    assert program.wait(20) == 1
    assert said in program.stderr
    assert "it needs more processes: see 'ulimit -u', and --pids-limit" in program.stderr
