"""What no program of this kind can go below on this machine: the price of the smallest steps.

Each is the best of several rounds of a loop around the step, in microseconds. Those of large data take 1 MB.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import tempfile
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
        *_large(max(20, count // 100)),
    ]


SIZE = 1_000_000


def _large(count: int) -> list[Row]:
    data = bytes(SIZE)
    # Where memory begins counts: to read to 16 bytes behind the border of a page takes five times as long.
    target = memoryview(mmap.mmap(-1, SIZE))

    def copy() -> None:
        target[:] = data

    def touch() -> None:
        with mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as fresh:
            fresh[:] = data

    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        descriptor = file.fileno()

        def write() -> None:
            os.pwrite(descriptor, data, 0)

        def read() -> None:
            os.preadv(descriptor, [target], 0)

        def map_file() -> None:
            mmap.mmap(descriptor, SIZE, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE).close()

        return [
            _row("copy 1 MB", count, copy),
            _row("copy 1 MB to memory that was never used", count, touch),
            _row("write 1 MB to a file in memory that was used before", count, write),
            _row("read 1 MB of it", count, read),
            _row("map 1 MB of it, every page, and unmap it", count, map_file),
            _stream(count),
        ]


def _stream(count: int) -> Row:
    """To another process, which drops what comes."""
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    child = os.fork()
    if child == 0:
        ours.close()
        buffer = bytearray(SIZE)
        while theirs.recv_into(buffer):
            pass
        os._exit(0)
    theirs.close()
    listener.close()
    data = bytes(SIZE)
    try:
        return _row("send 1 MB over TCP to another process", count, lambda: ours.sendall(data))
    finally:
        ours.close()
        os.waitpid(child, 0)


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
