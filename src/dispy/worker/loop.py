"""A worker: takes records of jobs, runs them one after another, sends what became of them.

The path of every job goes through ``run_record``. On the reference machine a no-op job costs about
6 µs there, most of it unpickling, pickling, the look at the output and the two calls that restore
directory and umask. Each result is written to the slot's arena at once and leaves in one packet
with its neighbours, at the end of the record or after two milliseconds.
"""

from __future__ import annotations

import _thread
import builtins
import mmap
import os
import select
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import msgspec

from dispy import payload
from dispy.errors import DispyError, PicklingError, ProgramError
from dispy.protocol import limits
from dispy.protocol import worker as protocol
from dispy.protocol.node import FINISHED, TERMINATED, Ended, FilePart, Job
from dispy.protocol.output import cut_reason
from dispy.protocol.worker import Record
from dispy.system.escaping import sendable
from dispy.system.free_space import NoRoomError
from dispy.system.processes import children, describe_exit, kill_strays, set_death_signal
from dispy.system.wording import of_error
from dispy.worker import forked_processes, native_threads
from dispy.worker.job_namespace import note_missing
from dispy.worker.map_chunk import Chunk
from dispy.worker.output_capture import Capture
from dispy.worker.random_numbers import Randomness
from dispy.worker.segments import Segments
from dispy.worker.send_file import SendPart, send_file
from dispy.worker.state_restore import Restorer

ID_MAX = 1024
"""Bytes of a job's id that travels with its result."""

_ANSWER_MAX = 8192
"""Bytes of an acknowledgement: its reason has no more than 1,000 characters."""

_FLUSH_AFTER_S = 0.002
"""Results wait at most so long for company."""

_LAST_AFTER_S = 0.01
"""After a record that took no longer, its last results wait until what the last job changed is put right (some
0.1 ms), and go with the word that the record is done: one message less."""

# Bound here, as jobs may replace them in the module. Durations are taken from the clock that nobody sets.
_wall = time.time
_clock = time.perf_counter

# What is flushed at ARENA_FLUSH leaves room for the largest result: one payload, and output or a reason.
assert protocol.ARENA_FLUSH + 2 * limits.INLINE_MAX + limits.KIB <= protocol.ARENA_SIZE

_set_handler = getattr(signal.signal, "__wrapped__", signal.signal)
"""Without the conversion to enumerations, which costs a fresh process 0.1 ms."""

_encode = msgspec.msgpack.Encoder().encode

_changes = payload.scopes.changes
"""Undo list of the running job: see ``payload.scopes.changes``."""


class Worker:
    """The state of one worker process.

    Args:
        function: The computation.
        namespace: Its globals.
        jobs: Where records come from.
        replies: Where results go, and acknowledgements come from.
        slot: Memory shared with the daemon (see ``protocol.worker``).
        capture: The output.
        restorer: What to put back between jobs.
        randomness: Of generators.
        segments: Large payloads.
        is_isolated: Run every job in a process of its own, forked from this one.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        namespace: dict[str, Any],
        jobs: socket.socket,
        replies: socket.socket,
        slot: memoryview,
        capture: Capture,
        restorer: Restorer,
        randomness: Randomness,
        segments: Segments,
        is_isolated: bool,
    ) -> None:
        self._function = function
        self._namespace = namespace
        self._where: tuple[str, str] = namespace["dispy_node_name"], namespace["dispy_job_path"]
        """The node's name, and the working directory. Jobs may change what they find under these names."""
        self._builtins = vars(builtins)
        self._jobs = jobs
        self._replies = replies
        self._words = slot[: protocol.SLOT_HEADER].cast("q")
        self._starts = slot[: protocol.SLOT_HEADER].cast("d")
        self._arena = slot[protocol.SLOT_HEADER : protocol.SLOT_SIZE]
        self._end = protocol.ARENA_HEAD
        self._count = 0
        self._flushed = 0.0
        self._capture = capture
        self._restorer = restorer
        self._randomness = randomness
        self._segments = segments
        self._is_isolated = is_isolated
        self._running: Job | None = None
        self._chunk: Chunk | None = None
        self._is_cancelled = False
        self._has_died = False
        """What the last job had started for itself was killed: it counts as if its own process had been."""
        self._child = 0
        """Pid of the process that runs the job, where that is another."""
        self._is_copy = False
        """This process was forked by a job: it has nothing to do here."""
        os.register_at_fork(after_in_child=self._on_forked)
        self._threads = 0
        """How many there are between jobs, besides this one."""
        self._kept: set[int] = set()
        """Processes that are there between jobs."""
        self._serial = 0
        self._transfers = 0
        self._values = threading.Lock()
        """One provisional result of a job at a time, from any of its threads; and processes, see there."""
        self._words[protocol.SLOT_COMMITTED] = self._end
        self._drops = self._words[protocol.SLOT_DROPS]
        payload.object_references.find_object = segments.load_object

    def keep_what_is_there(self) -> None:
        """Take threads and processes that are there now, made by ``setup``, for no job's."""
        self._threads = _thread._count()
        self._kept = set(children(os.getpid()))

    def serve(self) -> None:
        """Run records until there is nobody to send any."""
        # Not a bytearray: writing zeros into pages that are never used costs a fresh process 0.15 ms.
        packet = mmap.mmap(-1, protocol.PACKET_MAX)
        view = memoryview(packet)
        while True:
            try:
                size = self._jobs.recv_into(packet)
                if not size:
                    return
                record = protocol.record_decoder.decode(view[:size])
            except KeyboardInterrupt:
                continue
            except ConnectionError:
                # The node closed its end with something of this job's unread.
                return
            if self._words[protocol.SLOT_DROPS] != self._drops:
                self._drops = self._words[protocol.SLOT_DROPS]
                self._segments.drop_objects()
            if record.jobs and not self.run_record(record):
                return

    def run_record(self, record: Record) -> bool:
        """Run the jobs of a record; False if this worker has to end."""
        words = self._words
        first = protocol.claim(record.record, 0)
        executed = 0
        is_retiring = False
        count = len(record.jobs)
        restorer = self._restorer
        restore = restorer.restore
        self._flushed = _clock()
        if self._capture.is_live is not record.live:
            self._capture.set_live(record.live)
        for job in record.jobs:
            position = first + executed
            words[protocol.SLOT_CLAIM] = position
            if first <= words[protocol.SLOT_LIMIT] <= position:
                break
            executed += 1
            if self._is_isolated:
                self._run_apart(job)
                self._flush_if_due(executed, record.record)
                continue
            ended = restorer.run(self._run, job) if restorer.is_context_changed else self._run(job)
            if ended is None:
                # It brings code, which no other job is to find.
                self._run_apart(job)
                self._flush_if_due(executed, record.record)
                continue
            self._keep(ended)
            is_last = executed == count
            if not is_last or _clock() - self._flushed > _LAST_AFTER_S:
                self._flush_if_due(executed, record.record)
            restore(is_last)
            if self._has_leftovers(is_last):
                is_retiring = True
                break
        flags = protocol.LAST_OF_RECORD | (protocol.RETIRING if is_retiring else 0)
        self._flush(flags, executed, record.record)
        return not is_retiring

    def _run(self, job: Job) -> Ended | None:
        """Run a job; None if that is to be done in a process of its own."""
        namespace = self._namespace
        self._serial = 0
        self._is_cancelled = False
        starts = self._starts
        start = starts[protocol.SLOT_START] = _wall()
        began = _clock()
        value: Any = None
        call: Any = None
        chunk: Chunk | None = None
        reason = None
        job_id = b""
        status = FINISHED
        step = "arguments"
        words = self._words
        try:
            call = payload.load_call(
                self._segments.take(job.stream, job.given > 0) if job.stream else job.payload
            )
            given_id: Any = job.number
            if len(call) >= payload.CHUNK_PARTS - 1:
                if call[2] is not None:
                    given_id = call[2]
                    job_id = _dump_id(given_id)
                elif len(call) >= payload.CHUNK_PARTS:
                    given_id = None
            namespace["dispy_job_id"] = self._builtins["dispy_job_id"] = given_id
            step = ""
            self._running = job
            if words[protocol.SLOT_INTERRUPT] == words[protocol.SLOT_CLAIM]:
                # Cancelled before there was anything to interrupt.
                self.on_interrupt()
            if len(call) == 1:
                value = self._function(*call[0])
            elif len(call) < payload.CHUNK_PARTS:
                value = self._function(*call[0], **call[1])
            else:
                chunk = self._chunk = Chunk(call[0], call[1], *call[3])
                value = chunk.results
                try:
                    if not chunk.run(self._function, self.is_cancelled):
                        reason = str(len(value))
                finally:
                    self._chunk = None
            if self._is_copy:
                forked_processes.end()
            self._running = None
            step = "result"
            data = payload.dump(value)
        except payload.Apart:
            self._segments.leave_there()
            return None
        except BaseException as error:
            if self._is_copy:
                forked_processes.end(error)
            self._running = None
            status = TERMINATED
            if chunk is not None and step == "result":
                value = chunk.cut_at_unsendable()
            data, reason = self._describe(error, step, value, 1 if chunk is None else 2)
            if chunk is not None and reason != "cancelled":
                data, reason = self._with_results(chunk, data, reason)
        end = start + (_clock() - began)
        stream = 0
        if type(data) is not bytes or len(data) >= limits.INLINE_MAX:
            stream, status, reason = self._store(job, data, status, reason)
            data = b""
        # Freed now: the next job may need the memory.
        value = call = chunk = None
        if _changes:
            payload.scopes.put_back()
        if job.stream:
            self._segments.let_go(self._is_isolated)
        stdout, stderr = self._capture.take()
        if reason is None and not stdout and not stderr:
            ended = Ended(job.number, job.attempt, FINISHED, start, end, data, stream)
        else:
            ended = self._large(job, status, start, end, data, stream, reason or "", stdout, stderr)
            ended.died, self._has_died = self._has_died, False
        if job_id:
            ended.job_id = job_id
        return ended

    def _on_forked(self) -> None:
        self._is_copy = True
        # It may still send values and files, under numbers (of 31 bits) of its own: a late answer to another must
        # not pass for one to it, and its files are not theirs. A thread that it does not have may hold the lock.
        self._serial = self._transfers = (os.getpid() % 1000 + 1) << 20
        self._values = threading.Lock()

    def _store(
        self, job: Job, data: bytes | payload.Parts, status: int, reason: str | None
    ) -> tuple[int, int, str | None]:
        """Write a large result; returns its name, and the status and reason that the job has now."""
        try:
            try:
                return self._segments.put(data, 0.0), status, reason
            except NoRoomError:
                self._running = job  # it may be cancelled while it waits
                return self._segments.put(data), status, reason
            finally:
                self._running = None
        except KeyboardInterrupt:
            return 0, TERMINATED, "cancelled"
        except OSError as error:
            reason = f"the result cannot be held on this node: {error}"
            return 0, TERMINATED, reason

    def _run_apart(self, job: Job) -> None:
        """Run a job in a process of its own, which writes the result into the arena and ends.

        Forked from here and not from the host, so that what a worker needs is set up once and not for
        every job: 2.9 ms instead of 6.
        """
        words = self._words
        parent = os.getpid()
        start = _wall()
        began = _clock()
        if not self._is_isolated:
            native_threads.rest()  # jobs have run here
        try:
            pid = os.fork()
        except OSError as error:
            self._keep(self._died(job, start, start, f"no process can be started for the job: {error}"))
            return
        if pid == 0:
            code = 70  # EX_SOFTWARE
            try:
                set_death_signal(signal.SIGKILL, parent)
                self._randomness.begin_job(job.number)
                # Signals that came before the fork was complete were forgotten; of an interrupt the job itself knows.
                self.on_unbuffer()
                self._is_isolated = True
                self._is_copy = False
                payload.accept_code(self._namespace)
                ended = self._run(job)
                assert ended is not None
                self._keep(ended)
                code = 0
            finally:
                os._exit(code)
        self._child = pid
        self._segments.skip()
        if words[protocol.SLOT_INTERRUPT] == words[protocol.SLOT_CLAIM]:
            os.kill(pid, signal.SIGINT)  # it came before we knew whom to pass it to
        if words[protocol.SLOT_UNBUFFER] == words[protocol.SLOT_CLAIM]:
            os.kill(pid, signal.SIGURG)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._child = 0  # before the pid is free to be another's
        _, status = os.waitpid(pid, 0)
        self._kill_leftovers()
        if words[protocol.SLOT_COUNT] == self._count:
            reason = f"the job's process ended with {describe_exit(os.waitstatus_to_exitcode(status))}"
            self._keep(self._died(job, start, start + (_clock() - began), reason))
        else:
            self._count = words[protocol.SLOT_COUNT]
            self._end = words[protocol.SLOT_COMMITTED]
            self._capture.take()  # what leftovers printed

    def _died(self, job: Job, start: float, end: float, reason: str) -> Ended:
        self._segments.remove(job)
        stdout, stderr = self._capture.take()
        ended = self._large(job, TERMINATED, start, end, b"", 0, reason, stdout, stderr)
        words = self._words
        ended.died = words[protocol.SLOT_INTERRUPT] != words[protocol.SLOT_CLAIM]
        return ended

    def _kill_leftovers(self) -> None:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        kill_strays(self._kept)

    def _large(
        self,
        job: Job,
        status: int,
        start: float,
        end: float,
        data: bytes,
        stream: int,
        reason: str,
        stdout: bytes,
        stderr: bytes,
    ) -> Ended:
        """A result with output or with a reason."""
        ended = Ended(
            job.number,
            job.attempt,
            status,
            start,
            end,
            data,
            stream,
            reason=reason,
            stdout_size=len(stdout),
        )
        try:
            if len(stdout) + len(stderr) + len(reason) * 4 < limits.INLINE_MAX:
                ended.stdout, ended.stderr = stdout, stderr
            else:
                ended.output_stream = self._segments.put(stdout + stderr)
        except OSError as error:
            ended.status = TERMINATED
            ended.payload = b""
            ended.stream = 0
            ended.reason = f"the job's output cannot be held on this node: {error}"
        return ended

    def _describe(self, error: BaseException, step: str, value: Any, depth: int) -> tuple[bytes, str]:
        """The exception of a job: pickled where possible, and as text.

        Args:
            error: What was raised.
            step: What we were handling then ("arguments", "result"); empty in the job itself.
            value: What the job returned, if it did.
            depth: Frames of ours above those of the job.
        """
        if isinstance(error, KeyboardInterrupt) and self._is_cancelled:
            return b"", "cancelled"
        if step == "result":
            culprit = payload.find_culprit(value, "the result") or of_error(error)
            return _describe_ours(PicklingError(f"the job's result cannot be sent: {culprit}"))
        if step == "arguments":
            note_missing(error, *self._where)
            cause = "; ".join([of_error(error), *getattr(error, "__notes__", ())])
            return _describe_ours(
                PicklingError(f"the job's arguments cannot be rebuilt on the node: {cause}")
            )
        if isinstance(error, ProgramError):
            self._has_died = error.died and depth == 1
            return _describe_ours(error)
        note_missing(error, *self._where)
        frames = error.__traceback__
        for _ in range(depth):
            frames = frames.tb_next if frames else None
        lines = traceback.format_exception(type(error), error, frames)
        text = cut_reason(sendable("".join(lines)))
        data = payload.dump_exception(error, text)
        return (data if len(data) < limits.INLINE_MAX else b""), text

    def _with_results(self, chunk: Chunk, data: bytes, reason: str) -> tuple[bytes, str]:
        """The exception of an item, together with the results of those before it."""
        try:
            return payload.dump_failure(chunk.results, data), reason
        except Exception as error:
            # What comes first is told first: a result that cannot be sent.
            data, reason = self._describe(error, "result", chunk.cut_at_unsendable(), 0)
            return payload.dump_failure(chunk.results, data), reason

    def _keep(self, ended: Ended) -> None:
        """Keep a result safe in the arena."""
        data = _encode(ended)
        end = self._end + len(data)
        self._arena[self._end : end] = data
        self._end = end
        self._count += 1
        words = self._words
        # The count first: a reader that sees the new end sees the new count, too.
        words[protocol.SLOT_COUNT] = self._count
        words[protocol.SLOT_COMMITTED] = end

    def _flush_if_due(self, executed: int, record: int) -> None:
        """Send what is in the arena when it is much or old."""
        if self._end > protocol.ARENA_FLUSH or _clock() - self._flushed > _FLUSH_AFTER_S:
            self._flush(0, executed, record)

    def _flush(self, flags: int, executed: int, record: int) -> None:
        if not self._count and not flags:
            return
        protocol.pack_ran(self._arena, 0, flags, executed, record, self._count)
        send_whole(self._replies, self._arena[: self._end])
        self._end = protocol.ARENA_HEAD
        self._count = 0
        self._words[protocol.SLOT_COUNT] = 0
        self._words[protocol.SLOT_COMMITTED] = self._end
        self._flushed = _clock()

    def _has_leftovers(self, is_last: bool) -> bool:
        """Whether something of the last job still lives: then this process cannot be used again.

        Asked after a job that started a process, and once per record, for those started from C.
        """
        if _thread._count() > self._threads or self._restorer.is_spoiled:
            return True
        if not (is_last or self._restorer.has_spawned):
            return False
        self._restorer.has_spawned = False
        if self._kept:
            return self._has_other_children()
        try:
            while True:
                child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
                if child is None:
                    return True
        except ChildProcessError:
            return False

    def _has_other_children(self) -> bool:
        """The same where ``setup`` has started processes that stay."""
        others = [pid for pid in children(os.getpid()) if pid not in self._kept]
        for pid in others:
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    return True
        return False

    # What a job can call.

    def provisional_result(self, result: Any, relay: bool, timeout: float | None) -> int:
        """Send a value to the client while the job goes on; waits until it has arrived.

        Args:
            result: Any value that can be pickled.
            relay: Accepted for compatibility; values take the way results take.
            timeout: Seconds to wait for the acknowledgement; None waits as long as it takes.

        Returns:
            0 if the client has it, -1 if not (yet).
        """
        job = self._running
        if job is None:
            return -1
        answer = self._send_value(job, payload.dump(result), None, timeout)
        return 0 if answer is not None and answer.delivered else -1

    def send_file(self, path: Any, directory: str, timeout: float | None, size_max: int) -> str:
        """Send a file to the client while the job goes on; waits until it is there, whole.

        Args:
            path: Of the file. Below ``directory`` it keeps its place there; of others the name counts.
            directory: The working directory.
            timeout: Seconds in which nothing of it arrives after which it is given up; None: as long as it takes.
            size_max: Bytes that it may have; 0: any number.

        Returns:
            Why it is not there; empty if it is.
        """
        job = self._running
        if job is None:
            return "no job is running"
        self._transfers += 1
        send_part: SendPart = lambda data, part, left: self._send_value(job, data, part, left)  # noqa: E731
        return send_file(os.fsdecode(path), directory, self._transfers, send_part, timeout, size_max)

    def _send_value(
        self,
        job: Job,
        data: payload.Buffer | payload.Parts,
        part: FilePart | None,
        timeout: float | None,
    ) -> protocol.SentAcknowledged | None:
        with self._values, self._capture.one_process_at_a_time():
            self._serial += 1
            value = protocol.ProvisionalValue(job.number, job.attempt, self._serial, b"", 0, part)
            if not isinstance(data, payload.Parts) and len(data) < limits.INLINE_MAX:
                value.payload = bytes(data)
            else:
                try:
                    value.stream = self._segments.put(data, float("inf") if timeout is None else timeout)
                except NoRoomError as error:
                    if error.is_passing:
                        return None
                    raise
            send_whole(self._replies, bytes((protocol.PROVISIONAL,)) + _encode(value))
            return self._wait_acknowledged(value, timeout)

    def _wait_acknowledged(
        self, value: protocol.ProvisionalValue, timeout: float | None
    ) -> protocol.SentAcknowledged | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        poller = select.poll()
        poller.register(self._replies, select.POLLIN)
        while True:
            left_ms = None if deadline is None else max(0, int((deadline - time.monotonic()) * 1000))
            if not poller.poll(left_ms):
                return None
            packet = self._replies.recv(_ANSWER_MAX)
            if not packet:
                return None
            answer = protocol.acknowledged_decoder.decode(packet)
            if (answer.number, answer.attempt, answer.serial) == (
                value.number,
                value.attempt,
                value.serial,
            ):
                return answer

    def job_seed(self) -> int:
        """The seed of the running job.

        Raises:
            RuntimeError: No job is running.
        """
        job = self._running
        if job is None:
            raise RuntimeError("dispy_job_seed() is for jobs, and none is running here")
        if self._chunk is not None:
            return self._randomness.item_seed(self._chunk.mapping, self._chunk.item())
        return self._randomness.job_seed(job.number)

    def is_cancelled(self) -> bool:
        """Whether the running job was interrupted because it was cancelled."""
        return self._is_cancelled

    def on_interrupt(self, number: int = signal.SIGINT, frame: FrameType | None = None) -> None:
        """SIGINT: raise in the job that it is meant for. A late one finds another position, or no job."""
        words = self._words
        if words[protocol.SLOT_INTERRUPT] != words[protocol.SLOT_CLAIM]:
            return
        if self._child:
            os.kill(self._child, signal.SIGINT)
        elif self._running is not None:
            words[protocol.SLOT_INTERRUPT] = 0
            self._is_cancelled = True
            raise KeyboardInterrupt

    def on_unbuffer(self) -> None:
        """SIGURG: what the running job prints is not to wait in a buffer, from now to the end of the record."""
        words = self._words
        if words[protocol.SLOT_UNBUFFER] == words[protocol.SLOT_CLAIM]:
            self._capture.set_live(True)
            if self._child:
                os.kill(self._child, signal.SIGURG)


def _dump_id(value: Any) -> bytes:
    """The id that a program gave a job, for whoever recovers its result; nothing if it is much."""
    try:
        data = bytes(payload.whole(payload.dump(value)))
    except Exception:
        return b""
    return data if len(data) <= ID_MAX else b""


def _describe_ours(error: DispyError) -> tuple[bytes, str]:
    """An error of ours in the form of a job's own."""
    message = sendable(str(error))[: limits.REASON_MAX // 8]
    text = f"Traceback (most recent call last):\ndispy.errors.{type(error).__name__}: {message}\n"
    return payload.dump_exception(type(error)(message), text), text


def send_whole(replies: socket.socket, packet: bytes | memoryview) -> None:
    """Send one packet; a daemon that is gone ends this process."""
    try:
        replies.send(packet)
    except (BrokenPipeError, ConnectionResetError):
        leave(1)


def leave(code: int) -> None:
    """End this process without running anything that was registered for its exit."""
    kill_strays(set())
    os._exit(code)


Handler = Callable[[int, FrameType | None], None]


def set_handlers(on_interrupt: Handler, on_unbuffer: Handler) -> None:
    """Handlers as a fresh program has them, where the host had its own; and ours. No signal is blocked."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        _set_handler(number, signal.SIG_DFL)
    _set_handler(signal.SIGINT, on_interrupt)
    _set_handler(signal.SIGURG, on_unbuffer)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
