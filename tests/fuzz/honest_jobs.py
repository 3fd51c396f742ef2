"""Functions that honest programs of the fuzzers run on nodes. Nodes get this module by value."""

from __future__ import annotations

from collections.abc import Callable


def answer(number: int, data: bytes = b"") -> tuple[int, bytes]:
    """A result that can be checked."""
    return number * 3 + 1, data[::-1]


def look_around(number: int, value: object, names: list[str], size: int) -> tuple[int, bytes, list[bytes]]:
    """Use every way by which a node takes files and data from a job.

    Args:
        number: For the result.
        value: An object that was put, or data.
        names: Files to read, and to send to the program.
        size: Bytes of the provisional value, and of the result.
    """
    found = []
    for name in names:
        try:
            with open(name, "rb") as file:
                found.append(file.read(200))
        except OSError as error:
            found.append(repr(error).encode())
    try:
        dispy_provisional_result((number, b"p" * size))
        for name in names[:1]:
            dispy_send_file(name, timeout=1)
    except Exception:
        pass  # others of the same account are at work here: what fails is theirs
    return number, b"r" * size, found


def be_hostile(python: str, script: str, settings: str, seed: str, role: str) -> Callable[[], int]:
    """Returns a ``setup`` that starts an attacker: a process below the host, which needs no CPU of the node."""

    def start() -> int:
        import subprocess

        subprocess.Popen([python, "-I", script, settings, f"{seed}/job", role], stdin=subprocess.DEVNULL)
        return 0

    return start


def set_up() -> int:
    """Leave a file in the working directory before any job runs."""
    with open("made by setup", "w") as file:
        file.write("here")
    return 0
