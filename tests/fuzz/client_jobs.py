"""Computations of the hostile client: they are short, and some of them end what they run in.

    python client_jobs.py

prints each as nodes get it, pickled, in a line of hexadecimal digits.
"""

from __future__ import annotations

from collections.abc import Callable


def quick(number: int = 0) -> int:
    return number


def slow(number: int = 0) -> int:
    import time

    time.sleep(0.05)
    return number


def loud(number: int = 0) -> bytes:
    print("x" * 100_000, flush=True)
    return b"r" * 200_000


def raising(number: int = 0) -> int:
    raise ValueError("\x1b[2J" + "x" * 100)


def ending_worker(number: int = 0) -> None:
    import os

    os._exit(7)


def ending_host(number: int = 0) -> None:
    import os
    import signal

    os.kill(os.getppid(), signal.SIGKILL)


def sending(number: int = 0) -> None:
    dispy_provisional_result("x" * (100_000 * number))
    with open("sent", "w") as file:
        file.write("x")
    dispy_send_file("sent", timeout=0.1)


def leaving_children(number: int = 0) -> None:
    import subprocess

    subprocess.Popen(["sleep", "5"], start_new_session=True)


JOBS: list[Callable[..., object]] = [
    quick,
    slow,
    loud,
    raising,
    ending_worker,
    ending_host,
    sending,
    leaving_children,
]

if __name__ == "__main__":
    from dispy.client.code.computation import Computation

    for job in JOBS:
        print(Computation(job, []).code.hex())
