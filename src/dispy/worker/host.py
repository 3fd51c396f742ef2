"""A computation host: loads a computation once and forks workers that run its jobs.

Single-threaded, so that forking is safe. It talks to the daemon over one stream socket (descriptor
``argv[1]``), shares the workers' slots with it through a memory file (``argv[2]``), and is the one
who knows when a worker has died: it kills what that left behind, then tells.
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
import traceback
from contextlib import suppress
from types import FrameType, ModuleType
from typing import Any, NoReturn

import msgspec

from dispy import payload
from dispy.errors import DispyError
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
from dispy.system.escaping import Formatter, sendable
from dispy.system.free_space import Room, fits_in_memory, memory_max
from dispy.worker import job_namespace, loop, output_capture, setup
from dispy.worker.program import Program
from dispy.worker.random_numbers import Randomness
from dispy.worker.segments import Segments
from dispy.worker.state_restore import Restorer

_CLEANUP_S = 4.5
"""Time for workers to call ``cleanup``: the node gives us a little more."""

_TRIM_EVERY_MS = 500
"""How often the output of running jobs is kept from growing without end."""


_REASON_MAX = 60_000
"""Characters of a reason; the beginning of a longer traceback is left out."""

AS_CONFIGURED = float("nan")
"""Stands for ``dispy.config.MsgTimeout`` of the program."""


class Host:
    """The state of a host process."""

    def __init__(self, control: socket.socket, slots: mmap.mmap) -> None:
        self._control = control
        self._slots = slots
        self._descriptors: list[int] = []
        self._input = bytearray()
        self._workers: dict[int, tuple[int, tuple[int, int]]] = {}
        """Worker and its output files, by pid."""
        self._pids: dict[int, int] = {}
        self._load: protocol.Load | None = None
        self._code: payload.Code | None = None
        self._data = b""
        """The computation, as it arrived."""
        self._names: dict[str, Any] = {}
        self._finder: payload.Finder
        self._current: loop.Worker | None = None
        self._kept: set[int] = set()
        """Processes that ``setup`` has started: they stay until we go."""
        # Made before user code is loaded, which may import the functions by which changes are noticed.
        self._restorer = Restorer()
        self._streams = output_capture.new_streams()
        self._randomness = Randomness()
        self._logger = logging.getLogger("dispynode")

    def serve(self) -> None:
        """Do what the daemon says until it is gone."""
        wake, self._woken = os.pipe()
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
        """Have signals reach us: at the start, and when user code was loaded, which may have changed that."""
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, _woken)
        signal.signal(signal.SIGTERM, self._on_term)
        # Ignored by whoever does not know it, such as programs that jobs start. System calls are interrupted by it,
        # or a job that waits in one would not notice; Python takes them up again.
        signal.signal(signal.SIGURG, self._on_unbuffer)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    # The daemon.

    def _read_control(self) -> bool:
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

    def _tell(self, message: FromHost) -> None:
        body = msgspec.msgpack.encode(message)
        try:
            self._control.sendall(LENGTH.pack(len(body)) + body)
        except OSError as error:
            if error.errno == errno.EBADF:  # code of the user's has closed it
                raise
            self.leave()

    # Loading.

    def _try_load(self, message: protocol.Load) -> FromHost:
        """Load a computation and set it up; what goes wrong with that is the reason, whoever has raised it."""
        try:
            return self._load_code(message)
        except Exception as error:
            return LoadFailed(_load_failed(message, error))

    def _load_code(self, message: protocol.Load) -> FromHost:
        self._load = message
        try:
            os.chdir(message.work_path)
            sys.path.insert(0, message.work_path)
            with open(message.code_path, "rb") as file:
                self._data = file.read()
            os.unlink(message.code_path)
            self._offer_names(message)
        except OSError as error:
            return LoadFailed(f"the computation cannot be loaded on {message.node_name}: {error}")
        warning = ""
        if not message.setup_per_worker:
            reason = self._import_code(message)
            if reason:
                return LoadFailed(reason)
            assert self._code is not None
            code = self._code
            said = [*self._finder.warnings]
            started_by = "importing your modules"
            if code.setup is not None:
                started_by = "setup"
                if message.setup_timeout_s:
                    self._tell(SettingUp())
                reason = setup.set_up(code, message.setup_timeout_s, message.node_name, message.work_path)
                if reason:
                    return LoadFailed(_setup_failed(message, reason))
            said.append(setup.threads_left(started_by))
            said.append(self._randomness.take(code.seeding, message.isolate))
            warning = "; ".join(filter(None, said))
        self._kept = set(processes.children(os.getpid()))
        self._set_signals()
        if not message.setup_per_worker:
            self._restorer.note(message.work_path)
        output_capture.unbuffer_c_streams()
        gc.collect()
        gc.freeze()
        return Loaded(warning)

    def _offer_names(self, message: protocol.Load) -> None:
        """Have code find the documented names, and modules that come with it."""
        self._names = job_namespace.offer(
            node_name=message.node_name,
            node_ip_addr=message.node_ip_addr,
            job_path=message.work_path,
            provisional_result=self._provisional_result,
            send_file=self._send_file,
            job_seed=self._job_seed,
            node_logger=self._logger,
        )
        self._finder = payload.begin_worker(
            f"{_place_of_modules(message)}/modules-{os.getpid()}",
            message.work_path,
            self._on_imported,
        )

    def _on_imported(self, module: ModuleType) -> None:
        job_namespace.replace(module, self._names)
        self._randomness.imported(module)

    def _import_code(self, message: protocol.Load) -> str:
        """Load the computation, and import the modules that it needs; returns why that failed, if it did."""
        try:
            code = payload.load_code(self._data)
            if isinstance(code.function, Program):
                code.function.arrive(message.work_path, message.node_name)
            job_namespace.inject(code.namespace, code.modules, self._names)
        except DispyError as error:
            return f"the computation cannot be loaded on {message.node_name}: {error}"[:60_000]
        except BaseException as error:
            job_namespace.note_missing(error, message.node_name, message.work_path)
            return _load_failed(message, error)
        self._code = code
        return ""

    def _provisional_result(
        self, result: Any, relay: bool = False, timeout: float | None = AS_CONFIGURED
    ) -> int:
        """Send a value to the client while the job goes on; see ``Worker.provisional_result``."""
        if timeout is AS_CONFIGURED:
            timeout = self._load.message_timeout_s if self._load is not None else None
        return self._current.provisional_result(result, relay, timeout) if self._current else -1

    def _send_file(self, path: Any, relay: bool = False, timeout: float | None = AS_CONFIGURED) -> int:
        """Send a file to the client while the job goes on; see ``Worker.send_file``."""
        if self._current is None or self._load is None:
            return -1
        if timeout is AS_CONFIGURED:
            timeout = self._load.message_timeout_s
        reason = self._current.send_file(path, self._load.work_path, timeout, self._load.file_max)
        if reason:
            self._logger.warning("file %r of a job of %s is not sent: %s", path, self._load.name, reason)
        return -1 if reason else 0

    def _job_seed(self) -> int:
        """The seed of the running job; see ``Worker.job_seed``."""
        if self._current is None:
            raise RuntimeError("dispy_job_seed() is for jobs, and none is running here")
        return self._current.job_seed()

    # Workers.

    def _fork(self, message: protocol.Fork) -> None:
        jobs, replies, stdout, stderr = self._descriptors[:4]
        del self._descriptors[:4]
        files = (stdout, stderr)
        try:
            sys.stdout.flush()
            sys.stderr.flush()
            parent = os.getpid()
            pid = os.fork()
        except OSError as error:
            for descriptor in (jobs, replies, *files):
                os.close(descriptor)
            code = 71  # EX_OSERR
            self._tell(WorkerExited(message.worker, code, f"no process can be started for jobs: {error}"))
            return
        if pid == 0:
            self._become_worker(parent, jobs, replies, message.slot, files)
        os.close(jobs)
        os.close(replies)
        self._workers[pid] = (message.worker, files)
        self._pids[message.worker] = pid
        self._tell(WorkerStarted(message.worker, pid))

    def _become_worker(
        self, parent: int, jobs: int, replies: int, slot: int, files: tuple[int, int]
    ) -> NoReturn:
        code = 70  # EX_SOFTWARE: what follows never ends by itself
        answers: socket.socket | None = None
        try:
            answers = socket.socket(fileno=replies)
            signal.set_wakeup_fd(-1)
            processes.set_death_signal(signal.SIGKILL, parent)
            processes.set_subreaper()
            self._control.close()
            for _, other in self._workers.values():
                for descriptor in other:
                    os.close(descriptor)
            loop.set_handlers(self._on_interrupt, self._on_unbuffer)
            assert self._load is not None
            if self._load.setup_per_worker:
                self._set_up_worker(self._load, answers)
            if not self._load.isolate:
                self._randomness.begin_process()
            assert self._code is not None
            capture = output_capture.Capture(*files, self._load.output_max, self._streams)
            if isinstance(self._code.function, Program):
                self._code.function.begin(self._code.namespace, lambda: capture.is_live)
            start = slot * protocol.SLOT_SIZE
            worker = loop.Worker(
                self._code.function,
                self._code.namespace,
                socket.socket(fileno=jobs),
                answers,
                memoryview(self._slots)[start : start + protocol.SLOT_SIZE],
                capture,
                self._restorer,
                self._randomness,
                Segments(_room(self._load), self._load.free_path),
                self._load.isolate,
            )
            self._restorer.begin(capture)
            if self._load.setup_per_worker:
                worker.keep_what_is_there()
            self._current = worker
            self._restorer.context.run(worker.serve)
            self._current = None
            if self._load.setup_per_worker:
                os.chdir(self._load.work_path)
                setup.clean_up(self._code, self._load.name, self._logger)
            code = 0
        except BaseException:
            text = _say_error()
            with suppress(BaseException):
                if answers is not None:
                    reason = (
                        f"the job's process ended with exit code {code}, by an error outside of the job:\n"
                    )
                    answers.send(protocol.pack_broken(reason + text[-_REASON_MAX:]), socket.MSG_DONTWAIT)
        finally:
            os._exit(code)

    def _set_up_worker(self, load: protocol.Load, answers: socket.socket) -> None:
        """Import the code and call ``setup`` in a worker, before any job there, and say how that went."""
        reason = self._import_code(load)
        if not reason:
            assert self._code is not None
            reason = setup.set_up(self._code, load.setup_timeout_s, load.node_name, load.work_path)
            reason = _setup_failed(load, reason) if reason else ""
        if self._code is not None:
            said = self._randomness.take(self._code.seeding, False)
            if said:
                self._logger.warning("%s: %s", load.name, said)
        answers.send(protocol.pack_set_up(reason))
        if reason:
            loop.leave(78)  # EX_CONFIG
        # What it changed is what jobs find, but for what we need ourselves.
        loop.set_handlers(self._on_interrupt, self._on_unbuffer)
        self._restorer.note(load.work_path)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._current is not None:
            self._current.on_interrupt(number, frame)

    def _on_unbuffer(self, number: int, frame: FrameType | None) -> None:
        """SIGURG: somebody wants to see what the running job prints."""
        if self._current is not None:
            self._current.on_unbuffer()

    def _reap(self) -> None:
        """Find out which workers have ended; nothing that they started stays."""
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
        assert self._load is not None
        for _, files in self._workers.values():
            for descriptor in files:
                output_capture.trim(descriptor, self._load.output_max)

    def _on_term(self, number: int, frame: FrameType | None) -> None:
        self.leave()

    def finish(self) -> NoReturn:
        """End in good order: jobs have ended, ``cleanup`` is called."""
        if self._load is not None and self._load.setup_per_worker:
            self._await_workers()
        processes.kill_strays(self._kept)
        if self._code is not None and self._load is not None and not self._load.setup_per_worker:
            with suppress(OSError):
                os.chdir(self._load.work_path)
            setup.clean_up(self._code, self._load.name, self._logger)
        self.leave()

    def _await_workers(self) -> None:
        """Let workers end, which have nothing to do any more and call ``cleanup``. Not one that runs a job."""
        deadline = time.monotonic() + _CLEANUP_S
        while self._workers and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.002)

    def leave(self) -> NoReturn:
        """End with all descendants."""
        processes.kill_strays(set())
        os._exit(0)


_node_stderr = 2


def _load_failed(load: protocol.Load, error: BaseException) -> str:
    text = sendable("".join(traceback.format_exception(error)))
    return f"the computation cannot be loaded on {load.node_name}:\n{text[-_REASON_MAX:]}"


_MODULES_SIZE = 8 * 1024 * 1024
"""Bytes that the files of modules may have for which there is to be room: they are written as they are imported."""


def _place_of_modules(load: protocol.Load) -> str:
    is_small = load.disk_path and not fits_in_memory(load.segment_path, _MODULES_SIZE)
    return load.disk_path if is_small else load.segment_path


def _room(load: protocol.Load) -> Room:
    """Where large payloads are."""
    is_on_disk = load.segment_path == load.disk_path
    return Room("" if is_on_disk else load.segment_path, load.disk_path)


def _setup_failed(load: protocol.Load, reason: str) -> str:
    return f"setup failed on {load.node_name}: {sendable(reason)}"[:60_000]


def _say_error() -> str:
    """Say the exception that is being handled to whoever watches the node; returns its traceback."""
    text = f"{sys.exc_info()[0]}\n"  # if there is no memory to say more
    with suppress(BaseException):
        text = sendable(traceback.format_exc())
    with suppress(BaseException):
        os.write(_node_stderr, text.encode())
    return text


def _woken(number: int, frame: object) -> None:
    """SIGCHLD: the wake-up descriptor tells the loop. SIGINT and SIGHUP, which are not for us, only wake it.

    Not ignored, which the programs that ``setup`` starts would inherit.
    """


def main() -> None:
    """Entry of a host: ``argv`` names the control socket, the slots' memory file and the daemon's pid."""
    global _node_stderr
    # Whoever starts us has turned it off: what is loaded stays, and is not to be looked through again and again.
    gc.freeze()
    gc.enable()
    control_fd, slots_fd, parent = map(int, sys.argv[1:4])
    sys.argv[:] = ["dispy"]
    processes.reset_signals()
    signal.signal(signal.SIGINT, _woken)
    processes.set_subreaper()
    _node_stderr = os.dup(2)
    handler = logging.StreamHandler(os.fdopen(os.dup(2), "w", buffering=1))
    # What jobs log is the text of strangers to whoever watches the node.
    handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s - %(message)s"))
    for name in ("dispynode", "dispy"):
        # Theirs alone: what user code logs by loggers of its own, however it has set them up, is its output.
        ours = logging.getLogger(name)
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
        ours.propagate = False
    control = socket.socket(fileno=control_fd)
    slots = mmap.mmap(slots_fd, 0)
    os.close(slots_fd)
    host = Host(control, slots)
    memory_max()  # so that workers know
    processes.set_death_signal(signal.SIGTERM, parent)
    try:
        host.serve()
        host.finish()
    except BaseException:
        # At once: if the node saw our socket close before we have ended it would kill us, and not know why we did.
        _say_error()
        os._exit(70)  # EX_SOFTWARE
