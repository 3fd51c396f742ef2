"""The jobs of the programs, and the marks that they leave. Imported by programs; nodes get it by value."""

from __future__ import annotations


def work(number: int, seconds: float, marks: str, data: bytes = b"") -> tuple[int, bytes]:
    """Leaves a mark when it starts and when it has come to its end; returns what can be checked."""
    import os
    import time

    descriptor = os.open(
        f"{marks}/{os.getuid()}-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
    )
    try:
        os.write(descriptor, b"s %d\n" % number)
        time.sleep(seconds)
        os.write(descriptor, b"e %d\n" % number)
    finally:
        os.close(descriptor)
    return number * 3 + 1, data[::-1]


def is_right(number: int, data: bytes, result: object) -> bool:
    """Whether a job returned what it should."""
    return result == (number * 3 + 1, data[::-1])
