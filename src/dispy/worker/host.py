"""A computation host: a process that loads one computation and forks workers that run its jobs.

Theory of operation. The host has one thread, so that forking is safe. Its loop waits for messages of the node, over
one stream socket (descriptor ``argv[1]``), and for signals, by a wake-up pipe. The slots of its workers are memory
that it shares with the node through a memory file (``argv[2]``).

Event | Action of the host | Message to the node
--- | --- | ---
``Load`` | load the computation, call ``setup`` (``computation``) | ``SettingUp``, then ``Loaded`` or ``LoadFailed``
``Fork`` | fork a worker (``worker_process``) | ``WorkerStarted``, or ``WorkerExited`` if the fork fails
``Interrupt``, ``Kill``, ``Unbuffer`` | send SIGINT, SIGKILL, SIGURG to a worker | none
SIGCHLD | reap workers; kill the processes that each has left behind | ``WorkerExited``
0.5 s without an event | free the middle of long output of running jobs | none
end of the socket | call ``cleanup``, kill all descendants, end | none
SIGTERM | kill all descendants, end | none
"""

from __future__ import annotations

import errno
import gc
import logging
import mmap
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn, assert_never

import msgspec

from dispy.protocol import worker as protocol
from dispy.protocol.worker import (
    LENGTH,
    FromHost,
    Loaded,
    LoadFailed,
    SettingUp,
    WorkerExited,
    WorkerStarted,
)
from dispy.system import processes
from dispy.system.free_space import memory_max
from dispy.worker import node_log, output_capture, signals
from dispy.worker.between_jobs.state_restore import Restorer
from dispy.worker.computation import Computation, load_failed
from dispy.worker.job_api.job_calls import JobCalls
from dispy.worker.job_api.random_numbers import Randomness
from dispy.worker.worker_process import Channels, WorkerProcess

_CLEANUP_S = 4.5
"""Longest wait for workers to call ``cleanup`` and end (seconds); the host kills those that are late. The node kills
the host half a second later."""

_TRIM_EVERY_MS = 500
"""Time without an event after which the host frees the middle of long output of running jobs (milliseconds): a job
that prints without end would otherwise fill the memory."""


class Host:
    """The state of a host process.

    Args:
        control: Socket to the node.
        slots: Memory shared with the node: one slot for each worker.
    """

    def __init__(self, control: socket.socket, slots: mmap.mmap) -> None:
        self._control = control
        self._slots = slots
        self._descriptors: list[int] = []
        """Descriptors that have arrived over the socket, four for each ``Fork`` that has not been read yet, in the
        order of ``Channels``."""
        self._input = bytearray()
        """Bytes of messages that are not complete yet, from the length of the first one on (``protocol.LENGTH``)."""
        self._workers: dict[int, tuple[int, tuple[int, int]]] = {}
        """Number of each living worker, and descriptors of the files that its stdout and stderr go to, by its pid."""
        self._pids: dict[int, int] = {}
        """Pid of each living worker, by its number: messages of the node name a worker by its number."""
        self._computation: Computation | None = None
        """The computation; None until the message ``Load`` has come."""
        self._kept: set[int] = set()
        """Pids of the processes that ``setup`` has started, which stay until the host ends."""
        # Made before user code is loaded, which may import the functions at which changes are noticed.
        self._restorer = Restorer()
        self._streams = output_capture.new_streams()
        self._randomness = Randomness()
        self._logger = logging.getLogger("dispynode")
        self._calls = JobCalls(self._logger)

    def serve(self) -> None:
        """Do what the node says until it closes the socket."""
        wake, self._woken = os.pipe()
        """Pipe that wakes the loop: each signal writes a byte to ``_woken``."""
        os.set_blocking(self._woken, False)
        os.set_blocking(wake, False)
        self._set_signals()
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(wake, select.POLLIN)
        while True:
            ready = poller.poll(_TRIM_EVERY_MS if self._workers else None)
            if not ready:
                self._trim()
            for descriptor, _ in ready:
                if descriptor == wake:
                    with suppress(BlockingIOError):
                        os.read(wake, 4096)
                    self._reap()
                elif not self._read_control():
                    return

    def _set_signals(self) -> None:
        """Set the host's signal handlers: at its start, and when user code was loaded, which may have set others."""
        signals.set_host_handlers(self._on_term, self._calls.on_unbuffer, self._woken)

    # The node.

    def _read_control(self) -> bool:
        """Read from the node, and do what each complete message says; False if the node has closed the socket."""
        data, descriptors, _, _ = socket.recv_fds(self._control, 65536, 64, socket.MSG_CMSG_CLOEXEC)
        self._descriptors += descriptors
        if not data:
            return False
        self._input += data
        while len(self._input) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._input)
            if len(self._input) < LENGTH.size + size:
                break
            body = bytes(self._input[LENGTH.size : LENGTH.size + size])
            del self._input[: LENGTH.size + size]
            self._do(protocol.to_host_decoder.decode(body))
        return True

    def _do(self, message: protocol.ToHost) -> None:
        """Do what a message of the node says. A signal for a worker that has ended is dropped."""
        match message:
            case protocol.Load():
                self._tell(self._try_load(message))
            case protocol.Fork():
                self._fork(message)
            case protocol.Interrupt(worker):
                if worker in self._pids:
                    os.kill(self._pids[worker], signal.SIGINT)
            case protocol.Kill(worker):
                if worker in self._pids:
                    os.kill(self._pids[worker], signal.SIGKILL)
            case protocol.Unbuffer(worker):
                if worker in self._pids:
                    os.kill(self._pids[worker], signal.SIGURG)
            case _:
                assert_never(message)

    def _tell(self, message: FromHost) -> None:
        """Send a message to the node; if the node is gone, kill all descendants and end this process.

        Raises:
            OSError: Code of the user's has closed the socket (EBADF).
        """
        body = msgspec.msgpack.encode(message)
        try:
            self._control.sendall(LENGTH.pack(len(body)) + body)
        except OSError as error:
            if error.errno == errno.EBADF:  # code of the user's has closed the socket
                raise
            self.leave()

    # Loading.

    def _try_load(self, message: protocol.Load) -> FromHost:
        """Load a computation and set it up; any exception becomes the reason of a ``LoadFailed``."""
        try:
            return self._load(message)
        except Exception as error:
            return LoadFailed(load_failed(message, error))

    def _load(self, message: protocol.Load) -> FromHost:
        """Load a computation, and take the state of now as that in which jobs begin; returns the answer to the node.

        What is loaded is frozen for the collector, which therefore does not look through it in workers.
        """
        self._calls.load = message
        self._computation = Computation(message, self._randomness, self._calls, self._logger)
        answer = self._computation.begin(lambda: self._tell(SettingUp()))
        if isinstance(answer, Loaded):
            self._kept = set(processes.children(os.getpid()))
            self._set_signals()
            if not message.setup_per_worker:
                self._restorer.note(message.work_path)
            output_capture.unbuffer_c_streams()
            gc.collect()
            gc.freeze()
        return answer

    # Workers.

    def _fork(self, message: protocol.Fork) -> None:
        """Fork a worker, which never returns from here, and tell the node its pid.

        If the fork fails, the node is told that the worker has ended, with exit code 71 and the reason.
        """
        channels = Channels(*self._descriptors[:4])
        del self._descriptors[:4]
        try:
            sys.stdout.flush()
            sys.stderr.flush()
            parent = os.getpid()
            pid = os.fork()
        except OSError as error:
            for descriptor in channels:
                os.close(descriptor)
            code = 71  # EX_OSERR
            self._tell(WorkerExited(message.worker, code, f"no process can be started for jobs: {error}"))
            return
        if pid == 0:
            self._become_worker(parent, channels, message.slot)
        os.close(channels.jobs)
        os.close(channels.replies)
        self._workers[pid] = (message.worker, (channels.stdout, channels.stderr))
        self._pids[message.worker] = pid
        self._tell(WorkerStarted(message.worker, pid))

    def _become_worker(self, parent: int, channels: Channels, slot: int) -> NoReturn:
        """Run a worker in this process, which was just forked; never returns. ``parent`` is the host's pid, ``slot``
        the index of the worker's slot."""
        try:
            assert self._computation is not None
            start = slot * protocol.SLOT_SIZE
            process = WorkerProcess(
                self._computation, self._calls, self._restorer, self._randomness, self._streams
            )
            memory = memoryview(self._slots)[start : start + protocol.SLOT_SIZE]
            process.run(parent, channels, memory, self._close_inherited)
        finally:
            os._exit(70)  # EX_SOFTWARE

    def _close_inherited(self) -> None:
        """Close the control socket and the output files of other workers, in the process of a new worker.

        Otherwise the node would not see the end of a host whose worker still lives, and user code could write there.
        """
        self._control.close()
        for _, files in self._workers.values():
            for descriptor in files:
                os.close(descriptor)

    def _reap(self) -> None:
        """Find out which workers have ended, kill processes that they have left behind, then tell the node. Called
        after every signal, and while the host waits for workers to end."""
        ended = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid in self._workers:
                ended.append((pid, os.waitstatus_to_exitcode(status)))
        for pid, code in ended:
            worker, files = self._workers.pop(pid)
            del self._pids[worker]
            for descriptor in files:
                os.close(descriptor)
            processes.kill_strays({*self._workers, *self._kept})
            self._tell(WorkerExited(worker, code))

    def _trim(self) -> None:
        """Free the middle of output of running jobs of which more than twice ``output_max`` bytes are there."""
        assert self._computation is not None
        for _, files in self._workers.values():
            for descriptor in files:
                output_capture.trim(descriptor, self._computation.load.output_max)

    def _on_term(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM: kill all descendants and end, without ``cleanup``."""
        self.leave()

    def finish(self) -> NoReturn:
        """Call ``cleanup`` here, or let workers call it; then kill all descendants and end this process.

        Called when the node has closed the socket. Workers that still run after ``_CLEANUP_S`` are killed; if
        ``cleanup`` is called here, they are killed before it.
        """
        computation = self._computation
        if computation is not None and computation.load.setup_per_worker:
            self._await_workers()
        processes.kill_strays(self._kept)
        if (
            computation is not None
            and not computation.load.setup_per_worker
            and computation.code is not None
        ):
            with suppress(OSError):
                os.chdir(computation.load.work_path)
            computation.clean_up()
        self.leave()

    def _await_workers(self) -> None:
        """Wait up to ``_CLEANUP_S`` until all workers have ended: without a job, each calls ``cleanup`` and ends."""
        deadline = time.monotonic() + _CLEANUP_S
        while self._workers and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.002)

    def leave(self) -> NoReturn:
        """Kill all descendants and end this process with exit code 0, without ``cleanup``."""
        processes.kill_strays(set())
        os._exit(0)


def main() -> None:
    """Run a host.

    ``argv`` has the descriptors of the control socket and of the slots' memory file, the node's pid, and the node's
    mark, which is there for ``processes.kill_marked`` alone.
    """
    # The node has started Python with the collector off. What is loaded stays: do not look through it at each
    # collection.
    gc.freeze()
    gc.enable()
    control_fd, slots_fd, parent = map(int, sys.argv[1:4])
    sys.argv[:] = ["dispy"]
    processes.reset_signals()
    signal.signal(signal.SIGINT, signals.on_woken)
    processes.set_subreaper()
    node_log.begin()
    control = socket.socket(fileno=control_fd)
    slots = mmap.mmap(slots_fd, 0)
    os.close(slots_fd)
    host = Host(control, slots)
    memory_max()  # found out once here, for all workers
    processes.set_death_signal(signal.SIGTERM, parent)
    try:
        host.serve()
        host.finish()
    except BaseException:
        # At once: if the node saw the socket close before this process has ended, it would kill it, and not know why
        # it ended.
        node_log.say_error()
        os._exit(70)  # EX_SOFTWARE
