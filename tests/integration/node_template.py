"""A process that has imported all that a node needs, and forks nodes: each starts in a tenth of the CPU time.

Half of the CPU time of a test with a node was what the node imports. ``NodeTemplate.start`` returns an object with
the part of ``subprocess.Popen`` that tests use. The process runs this module as a program; it has one thread.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

_REQUEST_MAX = 1 << 20


class ForkedProcess:
    """A node that the template has forked; with methods and attributes as of ``subprocess.Popen``.

    Args:
        pid: Of the process.
        arguments: For people who read what went wrong.
        status: Descriptor of a pipe: the template writes the exit code to it when it has reaped the process.
        stdout: Reading end of its standard output.
        stderr: Reading end of its standard error.
    """

    stdin = None

    def __init__(
        self, pid: int, arguments: Sequence[str], status: int, stdout: IO[bytes], stderr: IO[bytes]
    ) -> None:
        self.pid = pid
        self.args = arguments
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; returns the exit code.

        Raises:
            subprocess.TimeoutExpired: It still runs after ``timeout`` seconds.
        """
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0.0)
            told = os.read(self._status, 16)
            os.close(self._status)
            self.returncode = int(told) if told else -signal.SIGKILL  # without a word: the template is gone
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class NodeTemplate:
    """The process that forks nodes, seen from the tests."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The path of the package comes as for nodes that are started in the usual way: by PYTHONPATH.
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(Path(__file__)), str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()

    def start(
        self, arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, program: str = "dispynode"
    ) -> ForkedProcess:
        """Start ``dispynode`` or ``dispyscheduler`` with arguments, in a session of its own, with nothing to read."""
        status, status_end = os.pipe()
        stdout, stdout_end = os.pipe()
        stderr, stderr_end = os.pipe()
        request = {
            "arguments": list(arguments), "environment": dict(env), "cwd": str(cwd), "program": program,
        }  # fmt: skip
        ends = [stdout_end, stderr_end, status_end]
        socket.send_fds(self._socket, [json.dumps(request).encode()], ends)
        for end in ends:
            os.close(end)
        pid = int(self._socket.recv(16))
        name = [program, *arguments]
        return ForkedProcess(pid, name, status, os.fdopen(stdout, "rb", 0), os.fdopen(stderr, "rb", 0))

    def close(self) -> None:
        """End the process, with all that it has forked."""
        self._socket.close()
        self._process.wait()


# The process.


def _serve(control: socket.socket) -> None:
    """Fork nodes until the other end of the socket is closed; then kill those that still run."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    statuses: dict[int, int] = {}
    while True:
        ready = select.select([control, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            _reap(statuses)
        if control not in ready:
            continue
        data, ends, _, _ = socket.recv_fds(control, _REQUEST_MAX, 3)
        if not data:
            break
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (control.fileno(), woken, wake, *statuses.values()):
                os.close(descriptor)
            _become_node(ends, **json.loads(data))
        statuses[pid] = ends.pop()
        for end in ends:
            os.close(end)
        control.send(str(pid).encode())
    for pid in statuses:
        os.kill(pid, signal.SIGKILL)


def _reap(statuses: dict[int, int]) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, code = ended[0], os.waitstatus_to_exitcode(ended[1])
            with suppress(BrokenPipeError):
                os.write(statuses[pid], str(code).encode())
            os.close(statuses.pop(pid))


def _become_node(
    ends: list[int], arguments: list[str], environment: dict[str, str], cwd: str, program: str
) -> None:
    """Be what ``python -m dispy.cli.node`` is after its imports, or ``dispy.cli.scheduler``."""
    if program == "dispynode":
        from dispy.cli.node import main
    else:
        from dispy.cli.scheduler import main

    os.setsid()
    os.chdir(cwd)
    stdout, stderr, status = ends
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for end in ends:
        os.close(end)
    del status
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = cwd
    sys.argv = [program, *arguments]
    code = 1
    try:
        main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    import gc

    import uvloop  # noqa: F401

    import dispy.cli.node
    import dispy.cli.scheduler
    import dispy.node.daemon
    import dispy.scheduler.daemon.process  # noqa: F401

    gc.collect()
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
