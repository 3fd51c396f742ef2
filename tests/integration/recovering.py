"""Programs that die, and what can be had of them, for tests of recovery."""

from __future__ import annotations

import os
import shlex
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

import dispy

from .conftest import RunProgram
from .helpers import Node, Place, Program, below, wait_for

CREATED, RUNNING = dispy.DispyJob.Created, dispy.DispyJob.Running
CANCELLED, TERMINATED = dispy.DispyJob.Cancelled, dispy.DispyJob.Terminated
ABANDONED, FINISHED = dispy.DispyJob.Abandoned, dispy.DispyJob.Finished

DYING = """
import os, signal, sys, time
import dispy
dispy.config.LocalNode = False
dispy.config.CancelGrace = 0.5
directory, count, options = sys.argv[1], int(sys.argv[2]), eval(sys.argv[3])


def run(directory, name, size=0):
    import os, time
    with open(f'{directory}/runs-{name}', 'a') as file:
        file.write(dispy_node_name + '\\n')
    print('printed by', name)
    if name % 4 == 0 and name < FREE:
        time.sleep(0.02)  # or the node would take many more ahead
    if name % 5 == 4:
        raise ValueError(f'job {name} fails')
    while name >= FREE and not os.path.exists(f'{directory}/gate') and not os.path.exists(f'{directory}/gate-{name}'):
        time.sleep(0.005)
    return name, b'y' * size


FREE = options.pop('free', 0)
size = options.pop('size', 0)
nodes = options.pop('wait_nodes', 1)
ids = options.pop('ids', False)
make = dispy.SharedJobCluster if options.pop('shared', False) else dispy.JobCluster
cluster = make(run, **options)
while len(cluster.status().nodes) < nodes:
    time.sleep(0.005)
jobs = [
    cluster.submit_job_id(f'id {n}' if ids else None, directory, n, size if n % 3 == 0 else 0) for n in range(count)
]
if cluster._session.journal is not None:
    # What was submitted in the last moment before a death is not in it.
    cluster.status()
    cluster._session.journal.thread.ask(lambda db: None)
print('submitted', flush=True)
for line in sys.stdin if False else open(f'{directory}/orders'):
    exec(line)
time.sleep(60)
"""
"""Submits jobs that note their runs and wait for a gate; then does what it is told, line by line."""


class Dying:
    """A program that will be killed, and its jobs.

    Args:
        run_program: The fixture.
        place: Where.
        count: Of jobs.
        options: Of the cluster; and ``free``: jobs below it do not wait for the gate; ``size``: bytes that every
            third one returns; ``wait_nodes``: so many are waited for; ``ids``: whether jobs are given ids;
            ``shared``: whether it is a cluster of a shared scheduler.
    """

    def __init__(self, run_program: RunProgram, place: Place, count: int, **options: Any) -> None:
        self.place = place
        self.count = count
        self.directory = place.root / "jobs"
        self.directory.mkdir(exist_ok=True)
        orders = self.directory / "orders"
        if not orders.exists():
            os.mkfifo(orders)
        self.program: Program = run_program(DYING, str(self.directory), str(count), repr(options))
        self.orders = os.open(orders, os.O_RDWR | os.O_CLOEXEC)
        self.program.wait_line("^submitted$")
        if not options.keys() & {"durable", "recover_file"}:
            wait_journal(place, self.program)

    def order(self, line: str) -> None:
        """Have it do something."""
        os.write(self.orders, line.encode() + b"\n")

    def runs(self, name: int) -> list[str]:
        """Nodes on which a job was started."""
        path = self.directory / f"runs-{name}"
        return path.read_text().split() if path.exists() else []

    def started(self) -> list[int]:
        """Jobs that were started."""
        return [name for name in range(self.count) if self.runs(name)]

    def wait_started(self, names: int | list[int]) -> None:
        """Wait until so many jobs, or these, have been started."""
        if isinstance(names, int):
            wait_for(self.started, lambda seen: len(seen) >= names, what=f"{names} jobs run")
        else:
            wait_for(self.started, lambda seen: set(names) <= set(seen), what=f"jobs {names} run")

    def release(self, *names: int) -> None:
        """Let all jobs end, or these."""
        for name in names:
            (self.directory / f"gate-{name}").touch()
        if not names:
            (self.directory / "gate").touch()

    def kill(self) -> None:
        """It dies."""
        self.program.send(signal.SIGKILL)
        assert self.program.wait() == -signal.SIGKILL

    def close(self) -> None:
        """Let go of it."""
        self.release()
        os.close(self.orders)

    def check(self, job: dispy.DispyJob, size: int = 0) -> int:
        """A job ended as it should; returns its name."""
        assert job.status in (FINISHED, TERMINATED), (job, job.exception)
        name: int
        if job.status == TERMINATED:
            name = int(job.exception.split("ValueError: job ")[1].split()[0])
            assert isinstance(job.error, ValueError)
            assert job.result is None
        else:
            name, data = job.result
            assert data == (b"y" * size if name % 3 == 0 else b"")
            assert job.exception is None
        assert job.stdout == f"printed by {name}\n"
        assert job.stderr == ""
        assert job.ip_addr == "127.0.0.1"
        assert job.start_time <= job.end_time
        assert job.finish.is_set()
        assert len(self.runs(name)) == 1, "it was started more than once"
        return name


RECOVER = """
import sys, time
import dispy
dispy.config.LocalNode = False
dispy.config.CancelGrace = 0.5
print('recovering', flush=True)
jobs = dispy.recover_jobs(**eval(sys.argv[1]))
print('recovered', [(job.id, job.status, job.result and job.result[0]) for job in jobs], flush=True)
"""


def journals(place: Place) -> list[Path]:
    """Files in the usual place of journals."""
    return below(place.state / "dispy" / "journals", "*")


def wait_journal(place: Place, program: Program) -> Path:
    """Wait until a living program has noted a node; returns its short journal.

    Its lock would be lost if we opened the file itself by ``open``, were we that program; its log is not locked.
    """

    def look() -> Path | None:
        for path in journals(place):
            data = path.read_bytes() if path.name.endswith(".journal-wal") else b""
            if b"127.0.0.1" in data and f"({program.pid})".encode() in data:
                return path.with_name(path.name.removesuffix("-wal"))
        return None

    found = wait_for(look, what="there is a journal with a node")
    assert found is not None
    return found


def spooled(place: Place) -> list[Path]:
    """Files with results on disk."""
    return below(place.state / "dispy" / "spool", "*/[!.]*.results")


def noted(place: Place) -> list[Path]:
    """Files that tell what was open."""
    return below(place.state / "dispy" / "spool", "*/[!.]*.open")


def rows(path: Path, query: str) -> list[Any]:
    """What a journal of a dead program has, read without changing it."""
    db = sqlite3.connect(path)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


class QuickNode(Node):
    """A ``dispynode`` that takes clients for gone soon: with settings that have no option."""

    def __init__(self, place: Place, **settings: Any) -> None:
        import sys

        from .helpers import Program

        path = place.root / f"settings-{settings.get('name', 'node')}.json"
        path.write_bytes(msgspec.json.encode({"listen_port": 0, "silence_s": 0.1, **settings}))
        command = f"exec {shlex.quote(sys.executable)} -W error -m dispy.node < {shlex.quote(str(path))}"
        Program.__init__(self, ["sh", "-c", command], place)
        self.name, self.host, self.port, self.cpus, self.uses_tls = "", "", 0, 0, False


StartDying = Callable[..., Dying]


@contextmanager
def dying_programs(run_program: RunProgram, place: Place) -> Iterator[StartDying]:
    """Starts programs that will die, and ends those that have not."""
    made = []

    def start(count: int, **options: Any) -> Dying:
        dying = Dying(run_program, place, count, **options)
        made.append(dying)
        return dying

    yield start
    for dying in made:
        dying.close()
