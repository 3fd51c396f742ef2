"""A worker: takes records of jobs, runs the jobs one after another, and sends their results.

The path of every job is ``Worker.run_record``. On the reference machine a no-op job costs about 6 µs there, most of
it for unpickling, pickling and the look at the output; directory and umask are restored once per record. Each
result is written to the arena of the worker's slot at once, and leaves in one packet with its neighbours (``arena``).

A job is run in this process, unless its computation is isolated or the job brings code: ``own_process``. A job is
cancelled by SIGINT: the node writes the position of the job to the slot before it sends the signal, and the handler
raises ``KeyboardInterrupt`` only if the worker is at this position (``on_interrupt``).
"""

from __future__ import annotations

import _thread
import builtins
import mmap
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from dispy import payload
from dispy.errors import ProgramError
from dispy.protocol import limits
from dispy.protocol import worker as protocol
from dispy.protocol.node import FINISHED, TERMINATED, Ended, Job
from dispy.protocol.worker import Record
from dispy.system.free_space import NoRoomError
from dispy.system.processes import children
from dispy.worker import job_errors
from dispy.worker.arena import Arena
from dispy.worker.between_jobs import forked_processes
from dispy.worker.between_jobs.state_restore import Restorer
from dispy.worker.job_api.provisional_values import ProvisionalValues
from dispy.worker.job_api.random_numbers import Randomness
from dispy.worker.map_chunk import Chunk
from dispy.worker.output_capture import Capture
from dispy.worker.own_process import OwnProcess
from dispy.worker.results import add_words, ids_of
from dispy.worker.segments import Segments

_LAST_AFTER_S = 0.01
"""Age of results (seconds) up to which the last ones of a record wait until the state of the worker is restored (some
0.1 ms): they leave in the packet that says that the record is done, which saves a packet."""

# Bound here, as jobs may replace them in the module. Durations are taken from a clock that cannot be set.
_wall = time.time
_clock = time.perf_counter

_changes = payload.scopes.changes
"""Undo list: functions that undo what the arguments of the running job have changed in the computation. The list of
``payload.scopes``, not a copy: looking whether it is empty costs a job no call."""


class Worker:
    """One worker process: takes records of jobs, runs the jobs one after another, and sends their results.

    Args:
        function: The function of the computation, which is called for each job.
        namespace: Globals of the function, with the documented names (``dispy_job_id`` …).
        jobs: Socket that records come from.
        replies: Socket that results go to, and acknowledgements come from.
        slot: Memory shared with the node (see ``protocol.worker``).
        capture: The output of jobs.
        restorer: State to put back between jobs.
        randomness: Random generators of this process.
        segments: Large payloads.
        is_isolated: True if every job runs in a process of its own, forked from this one.
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
        """The node's name and the working directory, which texts of errors have. Taken here, before any job: jobs may
        change what they find under these names."""
        self._builtins = vars(builtins)
        """Built-in names of this process. ``dispy_job_id`` is set there for each job, so that all modules find it."""
        self._jobs = jobs
        self._words = slot[: protocol.SLOT_HEADER].cast("q")
        """Header of the slot as eight 64-bit integers, by index (``protocol.SLOT_…``): positions that node and worker
        tell each other."""
        self._starts = slot[: protocol.SLOT_HEADER].cast("d")
        """Header of the slot as doubles: only ``SLOT_START`` is one, the running job's start (s since the epoch)."""
        self._arena = Arena(slot, replies)
        self._capture = capture
        self._restorer = restorer
        self._randomness = randomness
        self._segments = segments
        self._is_isolated = is_isolated
        """True if every job runs in a process of its own. True also in such a process, which ends with its job, so
        that ``Segments.let_go`` keeps no file for later."""
        self._running: Job | None = None
        """The job whose function runs or whose result waits for room: an interrupt raises KeyboardInterrupt there.
        None otherwise: an interrupt does nothing, and ``send_file``, ``job_seed`` … refuse."""
        self._chunk: Chunk | None = None
        """Chunk of a ``map`` that runs, from which ``job_seed`` takes the number of the item; None for other jobs."""
        self._is_cancelled = False
        """True if ``on_interrupt`` has raised KeyboardInterrupt in the running job: it was cancelled. False for a
        KeyboardInterrupt that the function has raised itself. Reset before each job."""
        self._died = False
        """True if the program that the last job had started was killed by a signal. The result says so
        (``Ended.died``): the job counts as if its process had died, and may run again. Reset before each job."""
        self._own_process = OwnProcess(self._words, self._arena, segments, capture)
        """Runs jobs that need a process of their own, one at a time; has its pid, to which signals are passed on."""
        self._values = ProvisionalValues(replies, segments, capture)
        """Sends provisional results and files of the running job to the client."""
        self._is_copy = False
        """True in a process that a job has forked. It ends when the function returns, as it would otherwise send a
        second result of the job, and take jobs of its own."""
        os.register_at_fork(after_in_child=self._on_forked)
        self._threads = 0
        """Number of threads between jobs, besides the main thread. If there are more after a job, the worker takes no
        other job and ends: the job's thread would go on beside it."""
        self._drops = self._words[protocol.SLOT_DROPS]
        """Value of ``SLOT_DROPS`` at the last look: the number of times that the node has removed objects that were
        put (``cluster.put``). When it has changed, the worker forgets such objects before the next record."""
        payload.object_references.find_object = segments.load_object

    def keep_what_is_there(self) -> None:
        """Take the threads and processes that exist now as those of ``setup``: they are not leftovers of a job.

        Called once, before the first job, if ``setup`` was called in this worker.
        """
        self._threads = _thread._count()  # pyright: ignore[reportPrivateUsage]  # threading counts its own alone
        self._own_process.kept = set(children(os.getpid()))

    def serve(self) -> None:
        """Run records until the node closes the jobs socket, or a job has left this worker unfit for others.

        The caller then ends the process. The node starts another worker if it needs one.
        """
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
                # The node closed its end before it had read all from this worker.
                return
            if self._words[protocol.SLOT_DROPS] != self._drops:
                self._drops = self._words[protocol.SLOT_DROPS]
                self._segments.drop_objects()
            if record.jobs and not self.run_record(record):
                return

    def run_record(self, record: Record) -> bool:
        """Run the jobs of a record one after another, and send their results; False if this worker must end.

        The node may set a limit meanwhile (the position of a job, in ``SLOT_LIMIT``): jobs from there on are not run
        here, and the node places them anew. A worker must end if the last job has left something behind
        (``_has_leftovers``).
        """
        words = self._words
        first = protocol.claim(record.record, 0)
        executed = 0
        is_retiring = False
        count = len(record.jobs)
        restorer = self._restorer
        restore = restorer.restore
        arena = self._arena
        arena.flushed = _clock()
        if self._capture.is_live is not record.live:
            self._capture.set_live(record.live)
        for job in record.jobs:
            position = first + executed
            words[protocol.SLOT_CLAIM] = position
            if first <= words[protocol.SLOT_LIMIT] <= position:
                break
            executed += 1
            if self._is_isolated:
                self._own_process.run(job, self._run_here, False)
                arena.flush_if_due(executed, record.record)
                continue
            ended = restorer.run(self._run, job) if restorer.is_context_changed else self._run(job)
            if ended is None:
                # The job brings code, which no other job may find.
                self._own_process.run(job, self._run_here, True)
                arena.flush_if_due(executed, record.record)
                continue
            arena.keep(ended)
            is_last = executed == count
            if not is_last or _clock() - arena.flushed > _LAST_AFTER_S:
                arena.flush_if_due(executed, record.record)
            restore(is_last)
            if self._has_leftovers(is_last):
                is_retiring = True
                break
        flags = protocol.LAST_OF_RECORD | (protocol.RETIRING if is_retiring else 0)
        arena.flush(flags, executed, record.record)
        return not is_retiring

    def _run(self, job: Job) -> Ended | None:
        """Run a job and return its result; None if the job brings code and has to run in a process of its own."""
        self._values.serial = 0
        self._is_cancelled = self._died = False
        start = self._starts[protocol.SLOT_START] = _wall()
        began = _clock()
        value: Any = None
        chunk: Chunk | None = None
        reason = None
        tag = b""
        status = FINISHED
        step = "arguments"
        try:
            call: Any = payload.load_call(
                job.payload if job.where is None else self._segments.take(job.where)
            )
            job_id: Any = job.number
            if len(call) >= payload.CHUNK_PARTS - 1:
                job_id, tag = ids_of(call, job.number)
            self._namespace["dispy_job_id"] = self._builtins["dispy_job_id"] = job_id  # pyright: ignore[reportIndexIssue]
            step = ""
            self._running = job
            if self._words[protocol.SLOT_INTERRUPT] == self._words[protocol.SLOT_CLAIM]:
                self.on_interrupt()  # cancelled before there was anything to interrupt
            if len(call) == 1:
                value = self._function(*call[0])
            elif len(call) < payload.CHUNK_PARTS:
                value = self._function(*call[0], **call[1])
            else:
                chunk = self._chunk = Chunk(call[0], call[1], *call[3])
                value = chunk.results
                reason = None if chunk.run(self._function, self.is_cancelled) else str(len(value))
            if self._is_copy:
                forked_processes.end()
            self._running = self._chunk = None
            step = "result"
            data = payload.dump(value)
        except payload.Apart:
            self._segments.leave_there()
            return None
        except BaseException as error:
            if self._is_copy:
                forked_processes.end(error)
            self._running = self._chunk = None  # before any call, which would raise an interrupt
            status = TERMINATED
            data, reason = self._describe(error, step, value, chunk)
        end = start + (_clock() - began)
        large = 0
        if type(data) is not bytes or len(data) >= limits.INLINE_MAX:
            large, data, status, reason = self._store(job, data, status, reason)
        value = call = chunk = None  # freed now: the next job may need the memory
        if _changes:
            payload.scopes.put_back()
        if job.where is not None:
            self._segments.let_go(self._is_isolated)
        stdout, stderr = self._capture.take()
        ended = Ended(job.number, job.attempt, status, start, end, data, large, died=self._died, job_id=tag)
        if reason is not None or stdout or stderr:
            add_words(ended, reason or "", stdout, stderr, self._segments)
        return ended

    def _describe(
        self, error: BaseException, step: str, value: Any, chunk: Chunk | None
    ) -> tuple[bytes, str]:
        """Returns the exception of a job, pickled (empty if it cannot be) and as text; sets ``_died``.

        For a cancelled job nothing is pickled, and the text is "cancelled".

        Args:
            error: Exception that was raised, with the frame of ``_run`` as the outermost one.
            step: Step at which it was raised: "arguments", "result", or empty for the job itself.
            value: Result of the job, if there is one.
            chunk: Chunk that was run, if the job is one.
        """
        if isinstance(error, KeyboardInterrupt) and self._is_cancelled:
            return b"", "cancelled"
        if chunk is not None:
            return job_errors.describe_in_chunk(error, step, chunk, self._where)
        self._died = not step and isinstance(error, ProgramError) and error.died
        return job_errors.describe(error, step, value, self._where)

    def _store(
        self, job: Job, data: bytes | payload.Parts, status: int, reason: str | None
    ) -> tuple[int, bytes, int, str | None]:
        """Write a result of ``INLINE_MAX`` bytes or more to a segment. It may wait up to ``ROOM_S`` seconds for room.

        Meanwhile the job can be cancelled. If there is no room then, or it is cancelled, its status is
        ``TERMINATED``.

        Returns:
            Name of the segment (0 if it could not be written), what is left to send inline (nothing), and the status
            and reason that the job has now.
        """
        try:
            try:
                return self._segments.put(data, 0.0), b"", status, reason
            except NoRoomError:
                self._running = job  # it may be cancelled while it waits
                return self._segments.put(data), b"", status, reason
            finally:
                self._running = None
        except KeyboardInterrupt:
            return 0, b"", TERMINATED, "cancelled"
        except OSError as error:
            reason = f"the result cannot be held on this node: {error}"
            return 0, b"", TERMINATED, reason

    def _run_here(self, job: Job) -> None:
        """Run a job and write its result to the arena: called in the process that was forked for this job alone."""
        self._randomness.begin_job(job.number)
        # Signals that came before the fork was complete are lost. ``_run`` looks for an interrupt itself.
        self.on_unbuffer()
        self._is_isolated = True
        self._is_copy = False
        payload.accept_code(self._namespace)
        ended = self._run(job)
        assert ended is not None
        self._arena.keep(ended)

    def _on_forked(self) -> None:
        """Mark this process as a copy of the worker, which takes no jobs (``_is_copy``): called in every process
        forked from here. ``_run_here`` removes the mark in the process of one job."""
        self._is_copy = True
        self._values.renumber()

    def _has_leftovers(self, is_last: bool) -> bool:
        """True if a thread or process of the last job still lives, or the job has changed what cannot be put back.

        The worker then takes no other job and ends.
        Processes are looked for after a job that has started one, and once for each record, as C code may start some.
        """
        if _thread._count() > self._threads or self._restorer.is_spoiled:  # pyright: ignore[reportPrivateUsage]  # threading counts its own alone
            return True
        if not (is_last or self._restorer.has_spawned):
            return False
        self._restorer.has_spawned = False
        if self._own_process.kept:
            return self._has_other_children()
        try:
            while True:
                child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
                if child is None:
                    return True
        except ChildProcessError:
            return False

    def _has_other_children(self) -> bool:
        """True if there are children besides the processes of ``setup``; reaps those that have ended."""
        others = [pid for pid in children(os.getpid()) if pid not in self._own_process.kept]
        for pid in others:
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    return True
        return False

    # Functions for jobs.

    def provisional_result(self, result: Any, relay: bool, timeout: float | None) -> int:
        """Send a value to the client while the job goes on, and wait for the acknowledgement.

        Args:
            result: Any value that can be pickled.
            relay: Accepted for compatibility; values take the way that results take.
            timeout: Longest wait for the acknowledgement (seconds); None: for ever.

        Returns:
            0 if the client has the value, -1 if not (yet).
        """
        job = self._running
        if job is None:
            return -1
        return self._values.send_result(job, result, timeout)

    def send_file(self, path: Any, directory: str, timeout: float | None, size_max: int) -> str:
        """Send a file to the client while the job goes on, and wait until the client has all of it.

        Args:
            path: Path of the file. Below ``directory`` the file keeps its place there; otherwise only its name
                counts.
            directory: The working directory.
            timeout: Time without an acknowledgement after which the file is given up (seconds); None: never.
            size_max: Largest size of the file (bytes); 0: any size.

        Returns:
            Why the client does not have the file; empty if it has.
        """
        job = self._running
        if job is None:
            return "no job is running"
        return self._values.send_file(job, path, directory, timeout, size_max)

    def job_seed(self) -> int:
        """Returns the seed of the running job, or of the running item of a map: 32 bits, for any random generator.

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
        """True if the running job was interrupted because it was cancelled: a chunk of a ``map`` then runs no further
        item."""
        return self._is_cancelled

    def on_interrupt(self, number: int = signal.SIGINT, frame: FrameType | None = None) -> None:
        """SIGINT: raise KeyboardInterrupt in the job that it is meant for, or pass it on to the job's own process.

        A signal that comes late finds another position in the slot, or no job, and does nothing.
        """
        words = self._words
        if words[protocol.SLOT_INTERRUPT] != words[protocol.SLOT_CLAIM]:
            return
        if self._own_process.pid:
            os.kill(self._own_process.pid, signal.SIGINT)
        elif self._running is not None:
            words[protocol.SLOT_INTERRUPT] = 0
            self._is_cancelled = True
            raise KeyboardInterrupt

    def on_unbuffer(self) -> None:
        """SIGURG: if it is for the running job, print past the buffer of ``sys.stdout`` to the end of the record.

        The signal is passed on to the job's own process, if there is one.
        """
        words = self._words
        if words[protocol.SLOT_UNBUFFER] == words[protocol.SLOT_CLAIM]:
            self._capture.set_live(True)
            if self._own_process.pid:
                os.kill(self._own_process.pid, signal.SIGURG)
