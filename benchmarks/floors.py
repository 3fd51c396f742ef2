"""What no program of this kind can go below on this machine: the price of the smallest steps.

Each is the best of several rounds of a loop around the step, in microseconds.
"""

from __future__ import annotations

import os
import pickle
import socket
import timeit
from collections.abc import Callable

import msgspec

from benchmarks.harness import Row
from dispy.protocol.node import Job


def run(quick: bool) -> list[Row]:
    """Measure all floors."""
    count = 200 if quick else 20_000
    arguments = ((7, "name"),)
    encode = msgspec.msgpack.Encoder().encode
    decode = msgspec.msgpack.Decoder(Job).decode
    job = Job(12345, 0, pickle.dumps(arguments, 5))
    return [
        _row("pickle small arguments, and back", count, lambda: pickle.loads(pickle.dumps(arguments, 5))),
        _row("encode a job with msgspec, and back", count, lambda: decode(encode(job))),
        _row("one system call", count, os.getppid),
        _round_trip(max(200, count // 10)),
    ]


def _row(claim: str, count: int, step: Callable[[], object]) -> Row:
    samples = [seconds / count * 1e6 for seconds in timeit.repeat(step, number=count, repeat=5)]
    return Row(claim, min(samples), "us", samples=samples)


def _round_trip(count: int) -> Row:
    """One byte to another process and back, over a socket pair."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        while data := theirs.recv(1):
            theirs.send(data)
        os._exit(0)
    theirs.close()

    def step() -> None:
        ours.send(b"x")
        ours.recv(1)

    try:
        return _row("socket pair, to another process and back", count, step)
    finally:
        ours.close()
        os.waitpid(child, 0)
