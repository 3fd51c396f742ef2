"""Computation hosts as the node sees them: started ahead, loaded, asked to fork, watched, ended."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress

import msgspec

from dispy.core.execution.ids import WorkerId
from dispy.node.machine.accounts import Account, starts_as
from dispy.node.processes.worker_channels import WorkerHandle
from dispy.protocol import worker as protocol
from dispy.protocol.worker import LENGTH, FromHost, ToHost
from dispy.system.processes import MARK, children, is_ending

_encode = msgspec.msgpack.encode

_WORDS_MAX = 4000
"""Characters of what a host has printed last that are remembered, for the reason of its death."""

_WORDS_LINES = 10
"""Lines of that which are told, where there is no traceback."""

_TRACEBACK = "Traceback (most recent call last):\n"


class HostProcess:
    """A host process: first a spare one, warmed up, then that of one computation.

    Args:
        slots_max: Workers that may exist at once.
        mark: The node's directory, to know by it whose processes are whose.
        account: Whom it runs as; None: as we do.

    Raises:
        OSError: There is no process, descriptor or memory to be had.
    """

    def __init__(self, slots_max: int, mark: str, account: Account | None) -> None:
        with ExitStack() as undo:
            self._start(slots_max, mark, account, undo)
            undo.pop_all()
        self.control.setblocking(False)
        self.workers: dict[WorkerId, WorkerHandle] = {}
        self._free_slots = list(range(slots_max - 1, -1, -1))
        self._input = bytearray()
        self._said = b""
        self._words = ""
        """The last lines that the host has printed."""
        self.is_dead = False

    def _start(self, slots_max: int, mark: str, account: Account | None, undo: ExitStack) -> None:
        self.control, theirs = map(undo.enter_context, socket.socketpair())
        descriptor = os.memfd_create("dispy-slots", os.MFD_CLOEXEC)
        undo.callback(os.close, descriptor)
        os.ftruncate(descriptor, slots_max * protocol.SLOT_SIZE)
        self._memory = mmap.mmap(descriptor, 0)
        self._view = memoryview(self._memory)
        started = starts_as(account)
        started["env"][MARK] = mark
        self.output, written = os.pipe()
        undo.callback(os.close, self.output)
        undo.callback(os.close, written)
        """What it and code that is loaded print: the node passes it on, so that nobody reaches its terminal."""
        os.set_blocking(self.output, False)
        self.process = subprocess.Popen(
            [
                # Not -m: the user's own __main__ must not meet the host's names.
                sys.executable, "-P", "-c", "import gc; gc.disable(); from dispy.worker.host import main; main()",
                str(theirs.fileno()), str(descriptor), str(os.getpid()),
            ],
            pass_fds=(theirs.fileno(), descriptor),
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            # A Ctrl-C at our terminal is ours to handle, and nobody else is to type there.
            start_new_session=True,
            **started,
        )  # fmt: skip
        theirs.close()
        os.close(descriptor)
        os.close(written)

    def tell(self, message: ToHost, descriptors: tuple[int, ...] = ()) -> None:
        """Send a message; a host that does not read any more is ended."""
        body = _encode(message)
        try:
            socket.send_fds(self.control, [LENGTH.pack(len(body)) + body], descriptors)
        except OSError:
            self.kill()

    def read(self, on_message: Callable[[FromHost], None]) -> bool:
        """Hand on the messages that have arrived; False if the host is gone or does not speak as one."""
        try:
            data = self.control.recv(65536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._input += data
        while len(self._input) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._input)
            if size > protocol.CONTROL_MAX:
                return False
            if len(self._input) < LENGTH.size + size:
                break
            body = bytes(self._input[LENGTH.size : LENGTH.size + size])
            del self._input[: LENGTH.size + size]
            try:
                message = protocol.from_host_decoder.decode(body)
            except protocol.NONSENSE:
                return False
            on_message(message)
        return bool(data)

    def read_output(self) -> str | None:
        """What the host has printed in whole lines since the last call; None when it will print no more."""
        try:
            data = os.read(self.output, 65536)
        except BlockingIOError:
            return ""
        except OSError:
            data = b""
        self._said += data
        end = len(self._said) if not data or len(self._said) > 65536 else self._said.rfind(b"\n") + 1
        said, self._said = self._said[:end], self._said[end:]
        if not data and not said:
            return None
        text = said.decode("utf-8", "replace")
        self._words = (self._words + text)[-_WORDS_MAX:]
        return text

    def last_words(self) -> str:
        """The last words of a host that has died: a traceback, or some lines."""
        words = self._words + self._said.decode("utf-8", "replace")
        begin = words.rfind(_TRACEBACK)
        if begin >= 0:
            return words[begin:].strip()
        return "\n".join(words.strip().splitlines()[-_WORDS_LINES:])

    def fork(self, worker: WorkerId) -> WorkerHandle:
        """Have a worker started. Its channels and slot can be used at once."""
        handle = WorkerHandle(worker, self._free_slots[-1], self._view)
        self._free_slots.pop()
        self.workers[worker] = handle
        descriptors = (handle.jobs_copy.fileno(), handle.their_replies.fileno(), *handle.output)
        self.tell(protocol.Fork(worker, handle.slot), descriptors)
        handle.their_replies.close()
        return handle

    def forget(self, handle: WorkerHandle) -> None:
        """A worker is gone; its slot can be used again."""
        self.workers.pop(handle.id, None)
        self._free_slots.append(handle.slot)
        handle.close()

    def kill(self) -> bool:
        """End the host at once; its workers follow it. Whether that ends it: it may be ending by itself."""
        if self.process.poll() is not None:
            return False
        is_alive = not is_ending(self.process.pid)
        with suppress(ProcessLookupError):
            self.process.kill()
        return is_alive

    def end(self) -> None:
        """Let the host end with all that it and its workers started."""
        for handle in self.workers.values():
            with suppress(OSError):
                handle.jobs.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            self.control.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Release the channels of a host that has ended."""
        for handle in list(self.workers.values()):
            self.forget(handle)
        self.control.close()
        if self.output >= 0:
            os.close(self.output)
            self.output = -1

    def kill_workers(self) -> None:
        """After the host's death: kill its workers, which are our children now."""
        mine = set(children(os.getpid()))
        for handle in self.workers.values():
            if handle.pid in mine:
                with suppress(ProcessLookupError):
                    os.kill(handle.pid, signal.SIGKILL)
