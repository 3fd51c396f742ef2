"""Host processes, at the node's end: each loads the code of one computation and forks its workers.

A host is started ahead as a spare, without a computation. ``Load`` makes it the host of one computation. When it is
told to end, it ends with all its workers; when it dies, its workers become children of the node, which is a
sub-reaper.
"""

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
from dispy.system.processes import MARK, children, is_ending, mark_argument

_encode = msgspec.msgpack.encode

# Not -m: with it __main__ would have the host's names, and the user's __main__ would meet them.
_RUN = "import gc; gc.disable(); {}from dispy.worker.host import main; main()"
"""Code that the Python of a host runs. The braces stand for ``_HIDE`` or nothing."""

_HIDE = "from dispy.system.processes import hide_memory; hide_memory(); "
"""First step of a host that may run code of one of several programs: no process of another one can look into it."""

_WORDS_MAX = 4000
"""Characters of a host's last output that are kept, to tell the client why the host died; older ones are dropped."""

_WORDS_LINES = 10
"""Number of last lines of a dead host's output that the client is told if there is no traceback in it."""

_TRACEBACK = "Traceback (most recent call last):\n"
"""First line of a Python traceback: a client is told a dead host's output from the last such line on."""


class HostProcess:
    """A host process: first a spare one that does its imports, then that of one computation.

    Args:
        slots_max: Largest number of workers that may exist at once: slots of shared memory are made for them.
        mark: Path of the node's directory. It is in the environment of the host and of all that it starts, so that
            the next node finds and kills them if this one dies.
        account: Account that the host runs as; None: that of this process.
        is_private: True if the node serves one program alone, which is of the same user: debuggers can attach to the
            host and its workers. False: jobs of another program on this node cannot read their memory.

    Attributes:
        process: The process.
        control: Socket for messages to and from the host; readable, too, when the host is gone.
        output: Descriptor of the pipe that is its stdout and stderr, and that of ``setup``; -1 when it is closed. The
            node passes the text on, so that code of clients does not reach the node's terminal.
        account: Account that the host runs as; None: that of this process.
        workers: Workers that live or whose end is not handled yet, by number.
        is_dead: True once the process has ended and was reaped; set by the owner of this object. No worker can be
            started then.

    Raises:
        OSError: There is no process, descriptor or memory to be had.
    """

    def __init__(self, slots_max: int, mark: str, account: Account | None, is_private: bool) -> None:
        with ExitStack() as undo:
            self._start(slots_max, mark, account, is_private, undo)
            undo.pop_all()
        self.control.setblocking(False)
        self.account = account
        self.workers: dict[WorkerId, WorkerHandle] = {}
        self._free_slots = list(range(slots_max - 1, -1, -1))
        """Indexes of slots (areas of shared memory) without a worker; the next worker gets the last one."""
        self._input = bytearray()
        """Bytes from ``control`` that are not a whole message yet; ``read`` appends the rest to them."""
        self._said = b""
        """Bytes of a line that the host has printed without a line end yet; returned when it is whole."""
        self._words = ""
        """Last whole lines that the host has printed, up to ``_WORDS_MAX`` characters; for ``last_words``."""
        self.is_dead = False

    def _start(
        self, slots_max: int, mark: str, account: Account | None, is_private: bool, undo: ExitStack
    ) -> None:
        """Make slots and channels, and start the process. ``undo`` closes what was made if a later step fails."""
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
        os.set_blocking(self.output, False)
        self.process = subprocess.Popen(
            [
                sys.executable, "-P", "-c", _RUN.format("" if is_private else _HIDE),
                str(theirs.fileno()), str(descriptor), str(os.getpid()), mark_argument(mark),
            ],
            pass_fds=(theirs.fileno(), descriptor),
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            # Ctrl-C at the node's terminal is for the node alone, and no job is to read what is typed there.
            start_new_session=True,
            **started,
        )  # fmt: skip
        theirs.close()
        os.close(descriptor)
        os.close(written)

    def tell(self, message: ToHost, descriptors: tuple[int, ...] = ()) -> None:
        """Send a message to the host, and copies of open descriptors with it (the worker's channels, for ``Fork``).

        A host that takes no message is killed; ``read`` then returns False, by which the node learns of its end.
        """
        body = _encode(message)
        try:
            socket.send_fds(self.control, [LENGTH.pack(len(body)) + body], descriptors)
        except OSError:
            self.kill()

    def read(self, on_message: Callable[[FromHost], None]) -> bool:
        """Pass each message that has arrived to ``on_message``.

        Returns:
            True if more messages may come; False if the host is gone, or has sent something that is no message.
        """
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
        """Returns whole lines that the host has printed, from one read of the pipe; None when it will print no more.

        The text is empty if no line is whole yet. A line of more than 65,536 bytes is returned in parts.
        """
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
        """Returns the last output of a host that has died, to tell its client why.

        The text begins with the last traceback; without one it is the last ``_WORDS_LINES`` lines.
        """
        words = self._words + self._said.decode("utf-8", "replace")
        begin = words.rfind(_TRACEBACK)
        if begin >= 0:
            return words[begin:].strip()
        return "\n".join(words.strip().splitlines()[-_WORDS_LINES:])

    def fork(self, worker: WorkerId) -> WorkerHandle:
        """Have a worker started by the host. Records of jobs can be sent to it at once.

        The host answers with ``WorkerStarted``, or with ``WorkerExited`` if it could not start the process.

        Returns:
            The node's ends of the worker's channels; ``forget`` closes them.

        Raises:
            OSError: There is no descriptor or memory to be had.
        """
        handle = WorkerHandle(worker, self._free_slots[-1], self._view)
        self._free_slots.pop()
        self.workers[worker] = handle
        descriptors = (handle.jobs_copy.fileno(), handle.their_replies.fileno(), *handle.output)
        self.tell(protocol.Fork(worker, handle.slot), descriptors)
        handle.their_replies.close()
        return handle

    def forget(self, handle: WorkerHandle) -> None:
        """Close the channels of a worker that is gone, and let its slot be used by a new worker."""
        self.workers.pop(handle.id, None)
        self._free_slots.append(handle.slot)
        handle.close()

    def kill(self) -> bool:
        """Kill the host by SIGKILL; its workers end with it. ``process`` has to be waited for afterwards.

        Returns:
            True if this call ended it; False if it had ended, or was ending by itself, so that its exit code tells
            why.
        """
        if self.process.poll() is not None:
            return False
        is_alive = not is_ending(self.process.pid)
        with suppress(ProcessLookupError):
            self.process.kill()
        return is_alive

    def end(self) -> None:
        """Tell the host and its workers to end, in good order, with all that they started. Does not wait for that.

        They are told by shutting down the node's side of their sockets. The caller kills a host that takes too long.
        """
        for handle in self.workers.values():
            handle.end()
        with suppress(OSError):
            self.control.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the channels of a host that has ended, and of its workers."""
        for handle in list(self.workers.values()):
            self.forget(handle)
        self.control.close()
        if self.output >= 0:
            os.close(self.output)
            self.output = -1

    def kill_workers(self) -> None:
        """Kill the workers of a host that is dead. They are children of this process now, so a pid that is not one is
        spared: a job may have made it up."""
        mine = set(children(os.getpid()))
        for handle in self.workers.values():
            if handle.pid in mine:
                with suppress(ProcessLookupError):
                    os.kill(handle.pid, signal.SIGKILL)
