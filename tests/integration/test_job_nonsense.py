"""A job that writes nonsense to the channels of its worker: it harms itself, and neither the node nor other jobs.

A job is any code, so it finds the sockets of its process. With ``--user`` the node's account is closed to it; what it
says to the node must be read with the same care as what strangers say.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import dispy

from .conftest import MakeCluster, StartNode
from .helpers import wait_for
from .jobs import name_and, until


def say_nonsense(kind: str) -> int:
    """Sends packets to whoever reads this worker's results; returns to how many."""
    import os
    import socket
    import stat
    import struct

    import msgspec

    from dispy.protocol import node, worker

    nan, infinite = float("nan"), float("inf")
    head = struct.Struct("<BBHIQ")
    mine = [node.Ended(n, a, 11, nan, infinite, b"x") for n in range(1, 60) for a in range(3)]
    packets = {
        "short": [b"R", b"R" * 15, b"P", b"X"],
        "nested": [head.pack(worker.RAN, 0, 1, 1, 1) + b"\x91" * 50_000, b"P" + b"\x91" * 50_000],
        "declared": [head.pack(worker.RAN, 0, 1, 1, 1) + b"\xdd\xff\xff\xff\xff", b"P\xc6\xff\xff\xff\xff"],
        "times": [head.pack(worker.RAN, 0, 1, len(mine), 1) + msgspec.msgpack.encode(mine)],
        "positions": [
            head.pack(worker.RAN, 3, 65535, 0, record) + b"\x90" for record in (0, 1, 2, (1 << 64) - 1)
        ],
        "values": [b"P" + msgspec.msgpack.encode([1 << 62, 1 << 62, 0, b"", 1 << 62])],
    }[kind]
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as channel:
                if channel.type == socket.SOCK_SEQPACKET:
                    for packet in packets:
                        channel.send(packet, socket.MSG_DONTWAIT)
                    count += 1
        except OSError:
            continue
    time.sleep(0.1)
    return count


def write_nonsense(word: int, *, is_float: bool = False) -> None:
    """Overwrites the words of all slots that this process has mapped, again and again."""
    import os
    import struct
    import time

    from dispy.protocol import worker

    words = struct.pack("8d", *[float("nan")] * 8) if is_float else struct.pack("8q", *[word] * 8)
    memory = os.open("/proc/self/mem", os.O_RDWR)
    with open("/proc/self/maps") as maps:
        areas = [line.split()[0].split("-") for line in maps if "dispy-slots" in line]
    assert areas, "no slots here"
    for _ in range(20):
        for start, end in areas:
            for slot in range(int(start, 16), int(end, 16), worker.SLOT_SIZE):
                os.pwrite(memory, words, slot)
        time.sleep(0.02)


@pytest.mark.parametrize("word", [-1, 1, 70_000, (1 << 48) + 5, (1 << 63) - 1, -(1 << 63)])
def test_slots_are_read_with_care(start_node: StartNode, make_cluster: MakeCluster, word: int) -> None:
    node = start_node("--cpus", "2", "--name", "sane")
    at = [("127.0.0.1", node.port)]
    cluster = make_cluster(write_nonsense, nodes=at)
    for is_float in (False, True):
        job = cluster.submit(word, is_float=is_float)
        assert job.wait(8), "a job whose slot holds nonsense never ends"
        assert "no slots" not in str(job.exception)
    assert make_cluster(name_and, nodes=at).submit(1)() == ("sane", 1)
    assert node.process.poll() is None, node.stderr


@pytest.mark.parametrize("kind", ["short", "nested", "declared", "times", "positions", "values"])
def test_the_node_goes_on(start_node: StartNode, make_cluster: MakeCluster, gate: Path, kind: str) -> None:
    node = start_node("--cpus", "2", "--name", "sane")
    at = [("127.0.0.1", node.port)]
    others = make_cluster(until, nodes=at)
    running = others.submit(str(gate))
    wait_for(lambda: running.status, lambda status: status == dispy.DispyJob.Running, what="a job runs")
    bad = make_cluster(say_nonsense, nodes=at).submit(kind)
    assert bad.wait(8), "the job that talks nonsense never ends"
    assert make_cluster(name_and, nodes=at).submit(1)() == ("sane", 1)
    assert running.status == dispy.DispyJob.Running
    gate.touch()
    assert running() == "sane"
    assert node.process.poll() is None, node.stderr
