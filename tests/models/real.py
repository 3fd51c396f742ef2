"""A real host and its real workers, driven by hand, with jobs that do what they are told over a socket.

The node's ends are those of a node: ``HostProcess`` and ``WorkerHandle``. A job connects to the *gate* when it
begins, and obeys one order after another (``work``), so that whatever a test does to its worker happens while it
runs. Jobs also move the clock of their worker: no test depends on how long anything takes.
"""

from __future__ import annotations

import pickle
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dispy import payload
from dispy.core.execution.ids import WorkerId
from dispy.node.processes.hosts import HostProcess
from dispy.node.processes.worker_channels import WorkerHandle
from dispy.protocol.worker import FromHost, Load, WorkerStarted

SOON_S = 30.0
"""How long anything may take before a test fails (seconds)."""


def make_job(gate: str) -> Callable[[], bytes]:
    """The function of the computation. Defined here, so that it goes by value."""

    def work() -> bytes:
        import os
        import pickle
        import signal
        import socket
        import threading

        from dispy.worker import arena, loop

        class Clock:
            now = 0.0

            def __call__(self) -> float:
                return self.now

        if type(loop._clock).__name__ != "Clock":
            loop._clock = arena._clock = Clock()
        is_deaf = False
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as orders:
            orders.connect("\0" + gate)
            while True:
                try:
                    order, value = pickle.loads(orders.recv(4096))
                    answer = None
                    if order == "return":
                        return bytes(value)
                    if order == "raise":
                        raise ZeroDivisionError
                    if order == "leave":
                        threading.Thread(target=threading.Event().wait, daemon=True).start()
                    elif order == "die":
                        os.kill(os.getpid(), signal.SIGSEGV)
                    elif order == "spend":
                        loop._clock.now += value
                    elif order == "print":
                        print(value, end="")
                    elif order == "deaf":
                        is_deaf = True
                    elif order == "value":
                        answer = dispy_provisional_result(*value)
                    orders.send(pickle.dumps((order, answer)))
                except KeyboardInterrupt:
                    if not is_deaf:
                        raise
                    orders.send(pickle.dumps(("interrupted", None)))

    return work


class Gate:
    """Where running jobs wait for orders."""

    def __init__(self, name: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.settimeout(SOON_S)
        self._listener.bind("\0" + name)
        self._listener.listen()
        self._job: socket.socket | None = None

    def accept(self) -> None:
        """Wait until a job runs."""
        self.close_job()
        self._job, _ = self._listener.accept()
        self._job.settimeout(SOON_S)

    def order(self, order: str, value: Any = None) -> None:
        """Have the job do something."""
        assert self._job is not None
        self._job.send(pickle.dumps((order, value)))

    def answer(self) -> tuple[str, Any]:
        """What the job says when it has done that."""
        assert self._job is not None
        said: tuple[str, Any] = pickle.loads(self._job.recv(4096))
        return said

    def close_job(self) -> None:
        """Speak no more to the job of before."""
        if self._job is not None:
            self._job.close()
            self._job = None

    def forget_others(self) -> None:
        """Forget jobs that wait, of workers that are dead by now."""
        while select.select([self._listener], [], [], 0)[0]:
            self._listener.accept()[0].close()

    def close(self) -> None:
        """Listen no more."""
        self.close_job()
        self._listener.close()


class RealHost:
    """A host process, at the node's end.

    Args:
        directory: Where it finds its code, and works.
        code: The pickled code of its computation.
        slots_max: Workers that may exist at once.
    """

    def __init__(self, directory: Path, code: bytes, slots_max: int = 4) -> None:
        self._directory = directory
        for name in ("work", "segments"):
            (directory / name).mkdir()
        (directory / "code").write_bytes(code)
        # A directory without a lock would be that of a dead node, whose processes other nodes kill; one that is not
        # there tells nothing.
        mark = str(directory / "none")
        self.process = HostProcess(slots_max, mark, None, is_private=True)
        self._said: list[FromHost] = []
        self._workers = 0

    def load(self, **options: Any) -> Load:
        """Have it load the computation; returns what it was told."""
        place = self._directory
        segments = str(place / "segments")
        load = Load(
            "c", str(place / "code"), str(place / "work"), segments, "node", "127.0.0.1", False,
            disk_path=segments, **options,
        )  # fmt: skip
        self.process.tell(load)
        return load

    def heard(self) -> FromHost:
        """The next message from it."""
        while not self._said:
            assert select.select([self.process.control], [], [], SOON_S)[0], "the host says nothing"
            if not self.process.read(self._said.append) and not self._said:
                while self.process.read_output() is not None:
                    pass
                raise AssertionError(self.process.last_words())
        return self._said.pop(0)

    def fork(self) -> WorkerHandle:
        """Have a worker started; the answer is still to be heard."""
        self._workers += 1
        return self.process.fork(WorkerId(self._workers))

    def start_worker(self) -> WorkerHandle:
        """A worker that lives."""
        handle = self.fork()
        said = self.heard()
        assert isinstance(said, WorkerStarted), said
        handle.pid = said.pid
        return handle

    def close(self) -> None:
        """End it, with all that it has started."""
        self.process.end()
        self.process.process.wait(SOON_S)
        self.process.close()


def receive(handle: WorkerHandle, wait_s: float = SOON_S) -> bytes:
    """The next packet of a worker; empty if none comes in that time (seconds), or none will ever."""
    if not select.select([handle.replies], [], [], wait_s)[0]:
        return b""
    return handle.replies.recv(1 << 20)


@contextmanager
def real_host(directory: Path, function: Callable[..., Any], setup: Any = None) -> Iterator[RealHost]:
    """A host that is to load a function."""
    host = RealHost(directory, bytes(payload.dump_code(function, [], setup).data))
    try:
        yield host
    finally:
        host.close()
