"""Files of a computation: a large one to two nodes, many small ones, and a second run that sends nothing.

The large one is compared with the least that has to be done: the program hashes the file once and sends it to
two processes over TCP, which hash what they get and keep nothing; and with the same where they write it to a new file
each, which is most of the price on a machine that has to get memory from its host first. Ours also puts it into
two working directories, starts two processes for the computation and runs a job on each. The file is new each time.
The nodes have one store, as those of one user on one machine do; and then one each, as on two machines.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import ROOT, Row, at_least, at_most, median_row
from dispy import JobCluster

MANY = 2000
SMALL = 4096


def run(quick: bool) -> list[Row]:
    """Measure all."""
    size, repeats = (20_000_000, 1) if quick else (200_000_000, 7)
    return [
        *_large(size, repeats, is_shared=True),
        *_large(size, repeats, is_shared=False),
        *_many(MANY // 10 if quick else MANY, repeats),
    ]


def _large(size: int, repeats: int, *, is_shared: bool) -> list[Row]:
    with harness.sandbox() as place, ExitStack() as stack:
        os.chdir(place)
        nodes = [stack.enter_context(_node(place, number, is_shared)) for number in range(2)]
        ports = [stack.enter_context(receiver(size)) for _ in range(2)]
        keeping = [stack.enter_context(receiver(size, place / f"kept-{number}")) for number in range(2)]
        path = place / "large"
        _load(place, nodes, None)
        arms = {
            "ours": lambda: _load(place, nodes, path),
            "bare": lambda: _send_raw(path, ports),
            "kept": lambda: _send_raw(path, keeping),
        }
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        again = 0
        for number in range(repeats):
            path.write_bytes(os.urandom(size))
            time.sleep(0.2)
            for name in sorted(arms, reverse=bool(number % 2)):
                seconds[name].append(harness.timed(arms[name]))
            again = _load(place, nodes, path)
            for store in place.glob("**/store/*/??/*"):
                store.unlink()
    how = "nodes of one user on one machine" if is_shared else "nodes with a store each"
    name = f"{size / 1e6:.0f} MB to two {how}"
    return [
        median_row(
            f"{name}: speed, ratio to bare transfer and hash",
            harness.ratios(list(zip(seconds["bare"], seconds["ours"], strict=True))),
            "x",
            at_least(0.7),
            at_least(1),
        ),
        median_row(
            "  ratio to bare transfer, hash and a file for each",
            harness.ratios(list(zip(seconds["kept"], seconds["ours"], strict=True))),
            "x",
        ),
        median_row(f"  {name}", seconds["ours"], "s"),
        median_row("  bare transfer and hash", seconds["bare"], "s"),
        median_row("  bare transfer, hash and a file for each", seconds["kept"], "s"),
        Row(f"{name}: sent in a second run", again / 1e3, "kB", at_most(100), at_most(50)),
    ]


def _many(count: int, repeats: int) -> list[Row]:
    samples = []
    again = 0.0
    with harness.sandbox() as place, _node(place, 0, True) as node:
        os.chdir(place)
        _load(place, [node], None)
        for repeat in range(repeats):
            # Left there: where many files were removed, ext4 takes 0.3 ms longer to make one, for some minutes.
            directory = place / f"many-{repeat}"
            directory.mkdir()
            for number in range(count):
                (directory / str(number)).write_bytes(os.urandom(SMALL))
            load = partial(_load, place, [node], directory)
            samples.append(count / harness.timed(load))
            again = harness.timed(load)
    return [
        median_row(
            f"{count} files of 4 KB: from the cluster to the first job",
            samples,
            "files/s",
            at_least(2000),
            at_least(4000),
        ),
        Row(f"  {count} files of 4 KB that are there already", count / again, "files/s"),
    ]


def _load(place: Path, nodes: list[int], path: Path | None) -> int:
    """Make a cluster with a file, and run a job on each node; returns the bytes that were sent to them."""
    cluster = JobCluster(
        _size,
        nodes=[("127.0.0.1", port) for port in nodes],
        tls=False,  # as what is sent in bare
        depends=[str(path)] if path else [],
        cluster_status=_note,
    )
    _ready.clear()
    try:
        for port in nodes:
            while port not in _ready:
                _is_ready.wait(10)
                _is_ready.clear()
        wanted = len(nodes)
        shown = {node.ip_addr + str(node.port): node for node in cluster.status().nodes}
        jobs = [
            cluster.submit_node(node, path.name if path else ".") for node in list(shown.values())[:wanted]
        ]
        for job in jobs:
            if job is None or job() is None:
                raise RuntimeError(f"no file: {job.exception if job is not None else 'no node'}")
        return sum(node.tx for node in cluster.status().nodes)
    finally:
        cluster.shutdown()


_ready: set[int] = set()
_is_ready = threading.Event()


def _note(status: int, node: object, job: object) -> None:
    from dispy import DispyNode

    if status == DispyNode.Initialized and isinstance(node, DispyNode):
        _ready.add(node.port)
        _is_ready.set()


def _size(path: str) -> int:
    return os.stat(path).st_size


@contextmanager
def _node(place: Path, number: int, is_shared: bool) -> Iterator[int]:
    """A node, with the user's state directory or a copy of it; yields its port."""
    before = os.environ["XDG_STATE_HOME"]
    if not is_shared:
        from dispy.security.secrets import choose

        choose("", None)
        state = place / f"state-{number}"
        shutil.copytree(before, state)
        os.environ["XDG_STATE_HOME"] = str(state)
    try:
        with harness.listening_node(1, "--no_tls", "--dest_path_prefix", str(place)) as (_, port):
            os.environ["XDG_STATE_HOME"] = before
            yield port
    finally:
        os.environ["XDG_STATE_HOME"] = before


@contextmanager
def receiver(size: int, path: Path | None = None) -> Iterator[int]:
    """Hashes what it gets; keeps it in a file if there is one. Yields its port."""
    arguments = [str(size)] if path is None else [str(size), str(path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.programs.receive_file", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        harness.end(process)


def _send_raw(path: Path, ports: list[int]) -> None:
    with open(path, "rb") as file:
        expected = hashlib.file_digest(file, "sha256").digest()

    def send(port: int) -> None:
        with open(path, "rb") as file, socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendfile(file)
            if connection.recv(32) != expected:
                raise RuntimeError("something else arrived")

    threads = [threading.Thread(target=send, args=(port,)) for port in ports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
