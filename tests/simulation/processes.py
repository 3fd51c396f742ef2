"""Computation hosts and workers: the other ends of ``node.processes.hosts``, and what ``worker`` does behind them.

A worker does what ``dispy.worker.loop`` does in the order in which others can see it: take a record, write
the claim, read the limit, run, keep the result in the arena, send a packet. Everything said between a node and
its processes is encoded and decoded as it is in earnest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from dispy.core.execution.ids import WorkerId
from dispy.protocol import limits
from dispy.protocol import worker as protocol
from dispy.protocol.node import FINISHED, TERMINATED, Ended, Job
from dispy.protocol.worker import FromHost, ToHost

from .jobs import Entry, Kind, Task, decode, encode_result, said_by
from .loop import Readable
from .world import Handle

if TYPE_CHECKING:
    from .computer import Computer

_encode = msgspec.msgpack.Encoder().encode

FLUSH_AFTER_S = 0.002
VALUE_TIMEOUT_S = 10.0
JOB_OVERHEAD_S = 4e-6
SIGKILL, SIGSEGV = -9, -11
NO_PROCESS = 71
SETUP_FAILED = 78


class Channel(Readable):
    """The node's end of a channel on which packets arrive."""

    __slots__ = ("is_closed", "packets")

    def __init__(self) -> None:
        super().__init__()
        self.packets: deque[bytes] = deque()
        self.is_closed = False
        """Whoever wrote to it is gone."""

    def is_readable(self) -> bool:
        return bool(self.packets) or self.is_closed

    def arrive(self, packet: bytes) -> None:
        """The other side has sent something."""
        self.packets.append(packet)
        self.notify()

    def end(self) -> None:
        """The other side is gone."""
        self.is_closed = True
        self.notify()


class Output(Channel):
    """The node's end of what a host prints, which is nothing."""

    __slots__ = ()

    def __ge__(self, other: int) -> bool:
        """As the number of a descriptor that is open."""
        return True


class Replies(Channel):
    """The node's end of a worker's replies."""

    __slots__ = ("_handle",)

    def __init__(self, handle: WorkerHandle) -> None:
        super().__init__()
        self._handle = handle

    def recv_into(self, buffer: bytearray) -> int:
        """As of sockets."""
        if not self.packets:
            if self.is_closed:
                return 0
            raise BlockingIOError
        packet = self.packets.popleft()
        buffer[: len(packet)] = packet
        return len(packet)

    def send(self, packet: bytes) -> None:
        """As of sockets: an acknowledgement for the worker."""
        worker = self._handle.process
        if worker is not None and not worker.party.is_dead:
            answer = protocol.acknowledged_decoder.decode(packet)
            worker.host.computer.reach(worker.party, worker.on_acknowledged, answer)


class Jobs:
    """The node's end of a worker's records, and the kernel's queue."""

    __slots__ = ("_handle", "packets")

    def __init__(self, handle: WorkerHandle) -> None:
        self._handle = handle
        self.packets: deque[bytes] = deque()

    def send(self, packet: bytes, flags: int = 0) -> None:
        """As of sockets."""
        self.packets.append(packet)
        if len(self.packets) > 64:
            self._handle.host.computer.world.fail("records pile up in a worker's socket")
        worker = self._handle.process
        if worker is not None and worker.phase is Phase.WAITING:
            worker.host.computer.reach(worker.party, worker.wake)


class WorkerHandle:
    """The node's ends of a worker: its channels and its slot, which outlives it."""

    def __init__(self, host: HostProcess, worker: WorkerId, slot: int) -> None:
        self.host = host
        self.id = worker
        self.slot = slot
        self.pid = 0
        self.last_position = 0
        self.is_set_up = False
        self.failure = ""
        self.words = [0] * protocol.SLOT_WORDS
        self.start = 0.0
        self.arena: list[bytes] = []
        self.printed = b""
        """What the job at which it is has printed."""
        self.replies = Replies(self)
        self.jobs = Jobs(self)
        self.process: Worker | None = None

    def started(self) -> float:
        """When its job started (seconds since the epoch)."""
        return self.start

    def untaken(self) -> list[int]:
        """Take back all records that the worker has not taken; returns their numbers."""
        records = [protocol.record_decoder.decode(packet) for packet in self.jobs.packets]
        self.jobs.packets.clear()
        return [record.record for record in records if record.jobs]

    def drop_objects(self) -> None:
        """Have the worker let go of objects."""
        self.words[protocol.SLOT_DROPS] += 1
        self.jobs.send(_encode(protocol.Record(0, [])))

    def committed(self) -> memoryview:
        """A packet of the results that no packet has carried."""
        if not self.arena:
            return memoryview(b"")
        return memoryview(pack(self.arena, 0, 0, 0))

    def end(self) -> None:
        """The worker ends when it has run all that it was sent."""
        worker = self.process
        if worker is not None and not worker.party.is_dead:
            worker.host.computer.reach(worker.party, worker.on_closed)

    def close(self) -> None:
        """Release the channels: a worker that waits for records ends."""
        self.replies.ignore()
        worker = self.process
        if worker is not None and not worker.party.is_dead:
            worker.host.computer.reach(worker.party, worker.on_closed)


def pack(arena: list[bytes], flags: int, executed: int, record: int) -> bytes:
    """A packet of results."""
    head = bytearray(protocol.ARENA_HEAD)
    protocol.pack_ran(head, 0, flags, executed, record, len(arena))
    return b"".join([bytes(head), *arena])


class Process:
    """A host as ``subprocess`` shows it."""

    __slots__ = ("_host", "pid", "returncode")

    def __init__(self, host: HostProcess, pid: int) -> None:
        self._host = host
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        return self.returncode

    def wait(self) -> int:
        """Its exit code; nobody waits for one that goes on."""
        if self.returncode is None:
            self._host.computer.world.fail("a node waits for a process that goes on")
            return 0
        return self.returncode

    def kill(self) -> None:
        """SIGKILL."""
        self._host.die(SIGKILL)


class HostProcess:
    """A host: the node's end of it, and the process.

    Args:
        computer: Where it runs.
        slots_max: Workers that may exist at once.
    """

    def __init__(self, computer: Computer, slots_max: int) -> None:
        self.account = None
        self.computer = computer
        self.incarnation = computer.incarnation
        """Of the node that started it."""
        pid = computer.new_pid()
        self.party = computer.world.party(f"host{pid}")
        self.process = Process(self, pid)
        self.control = Channel()
        self._output = Output()
        self.output: Output | int = self._output
        self.workers: dict[WorkerId, WorkerHandle] = {}
        self.is_dead = False
        self.is_ending = False
        self._free_slots = list(range(slots_max - 1, -1, -1))
        self.processes: dict[int, Worker] = {}
        """Workers that live, by number."""
        self._load: protocol.Load | None = None
        self.client = b""
        self.began = 0.0
        """When it was told to load."""
        computer.hosts[self] = None

    # The node's side.

    def tell(self, message: ToHost, descriptors: tuple[int, ...] = ()) -> None:
        """Send a message."""
        body = _encode(message)
        if type(message) is protocol.Load:
            self.client = self.computer.client_of(self)
        if not self.party.is_dead:
            self.computer.reach(self.party, self._do, protocol.to_host_decoder.decode(body))

    def read(self, on_message: Callable[[FromHost], None]) -> bool:
        """Hand on what has arrived; False if the host is gone."""
        packets = self.control.packets
        if not packets:
            return not self.control.is_closed
        while packets:
            on_message(protocol.from_host_decoder.decode(packets.popleft()))
        return True

    def read_output(self) -> str | None:
        """It prints nothing."""
        return None if self.party.is_dead else ""

    def last_words(self) -> str:
        """Nor has it."""
        return ""

    def fork(self, worker: WorkerId) -> WorkerHandle:
        """Have a worker started."""
        handle = WorkerHandle(self, worker, self._free_slots.pop())
        self.workers[worker] = handle
        self.tell(protocol.Fork(worker, handle.slot))
        return handle

    def forget(self, handle: WorkerHandle) -> None:
        """A worker is gone; its slot can be used again."""
        self.workers.pop(handle.id, None)
        self._free_slots.append(handle.slot)
        handle.close()

    def kill(self) -> bool:
        """End it at once, with its workers; whether it was alive."""
        was_alive = not self.party.is_dead
        self.computer.check_failure(self)
        self.die(SIGKILL)
        return was_alive

    def end(self) -> None:
        """Let it end with all that it started."""
        self.is_ending = True
        if not self.party.is_dead:
            self.computer.reach(self.party, self.die, 0)

    def close(self) -> None:
        """Release the channels."""
        for handle in list(self.workers.values()):
            self.forget(handle)
        self.control.ignore()
        self._output.ignore()
        self.output = -1

    def kill_workers(self) -> None:
        """After its death: its workers have a death signal."""
        for worker in list(self.processes.values()):
            worker.die(SIGKILL)

    # The process.

    def die(self, code: int) -> None:
        """It ends, and its workers with it."""
        if self.party.is_dead:
            return
        self.party.kill()
        self.process.returncode = code
        self.kill_workers()
        self.computer.hosts.pop(self, None)
        self.control.end()
        self._output.end()

    def _tell(self, message: FromHost) -> None:
        self.control.arrive(_encode(message))

    def _do(self, message: ToHost) -> None:
        computer = self.computer
        match message:
            case protocol.Load():
                self._load = message
                self.began = computer.world.now
                if message.setup_timeout_s and not message.setup_per_worker:
                    self._tell(protocol.SettingUp())
                if not self.hangs(in_worker=False):
                    computer.world.after(self.setup_s(), self.party, self._on_loaded, message)
            case protocol.Fork(worker, _):
                seconds = 0.002 * (0.2 + computer.world.chance()) * computer.slowness
                computer.world.after(seconds, self.party, self._fork, WorkerId(worker))
            case protocol.Interrupt(worker):
                if worker in self.processes:
                    process = self.processes[worker]
                    computer.reach(process.party, process.on_interrupt)
            case protocol.Kill(worker):
                if worker in self.processes:
                    self.processes[worker].execute()
            case protocol.Unbuffer():
                pass  # nothing waits in a buffer

    def _on_loaded(self, message: protocol.Load) -> None:
        path = PurePosixPath(message.code_path)
        try:
            self.computer.files.take(path)
            self.computer.files.let_go(path)
        except OSError as error:
            self._tell(protocol.LoadFailed(str(error)))
            return
        if self.computer.loads_fail and not message.setup_per_worker:
            self.computer.note_refusal()
            self._tell(protocol.LoadFailed("no module named x"))
            return
        self._tell(protocol.Loaded())

    def hangs(self, *, in_worker: bool) -> bool:
        """Whether ``setup`` goes on until its time is over."""
        load = self._load
        assert load is not None
        return self.computer.setups_hang and load.setup_timeout_s > 0 and load.setup_per_worker is in_worker

    def setup_s(self) -> float:
        """How long loading takes, or ``setup`` in a worker (seconds)."""
        computer = self.computer
        return computer.load_s * (0.2 + computer.world.chance()) * computer.slowness

    def _fork(self, worker: WorkerId) -> None:
        handle = self.workers.get(worker)
        if handle is None:
            # The node has forgotten it meanwhile.
            return
        if self.computer.forks_fail:
            self.computer.note_refusal()
            self._tell(protocol.WorkerExited(worker, NO_PROCESS, "no process can be started for jobs"))
            return
        assert self._load is not None
        process = Worker(self, handle, self._load)
        self.processes[worker] = process
        self._tell(protocol.WorkerStarted(worker, process.pid))
        process.begin()

    def on_child(self, worker: Worker, code: int) -> None:
        """SIGCHLD: a worker has ended."""
        if self.processes.get(worker.id) is worker:
            del self.processes[worker.id]
            self._tell(protocol.WorkerExited(worker.id, code))


class Phase(Enum):
    """Where a worker is."""

    SETTING_UP = "in setup"
    WAITING = "waiting for a record"
    BETWEEN = "between two jobs"
    RUNNING = "in the job"
    SENDING = "in the job, which waits for the acknowledgement of a value"
    GONE = "dead"


class Worker:
    """A worker process."""

    def __init__(self, host: HostProcess, handle: WorkerHandle, load: protocol.Load) -> None:
        self.host = host
        self.handle = handle
        self.id = handle.id
        self.pid = host.computer.new_pid()
        self.party = host.computer.world.party(f"worker{self.pid}")
        self.phase = Phase.WAITING
        self._load = load
        self._segments = PurePosixPath(load.segment_path)
        self._work = Path(load.work_path)
        self._record: protocol.Record | None = None
        self._executed = 0
        self._flushed = 0.0
        self._size = 0
        self._job: Job | None = None
        self._entry: Entry | None = None
        self._task: Task | None = None
        self._timer: Handle | None = None
        self._serial = 0
        self._values_left = 0
        self._is_retiring = False
        self._is_closed = False
        self._drops = 0
        self._objects: set[int] = set()
        handle.process = self

    def begin(self) -> None:
        """Call ``setup``, if that is for workers to do; then take jobs."""
        computer = self.host.computer
        if not self._load.setup_per_worker:
            self.wake()
            return
        self.phase = Phase.SETTING_UP
        if not self.host.hangs(in_worker=True):
            computer.world.after(self.host.setup_s(), self.party, self._on_set_up)

    def _on_set_up(self) -> None:
        fails = self.host.computer.loads_fail
        self.handle.replies.arrive(protocol.pack_set_up("setup failed: no module named x" if fails else ""))
        if fails:
            self.host.computer.note_refusal()
            self.die(SETUP_FAILED)
            return
        self.phase = Phase.WAITING
        self.wake()

    # Records.

    def wake(self) -> None:
        """There may be a record."""
        if self.phase is not Phase.WAITING:
            return
        handle = self.handle
        while handle.jobs.packets:
            record = protocol.record_decoder.decode(handle.jobs.packets.popleft())
            if handle.words[protocol.SLOT_DROPS] != self._drops:
                self._drops = handle.words[protocol.SLOT_DROPS]
                self._objects.clear()
            if record.jobs:
                self._record = record
                self._executed = 0
                self._flushed = self.host.computer.world.now
                self.phase = Phase.BETWEEN
                self._next()
                return
        if self._is_closed:
            self.die(0)

    def on_closed(self) -> None:
        """The node has closed its ends."""
        self._is_closed = True
        self.wake()

    def _next(self) -> None:
        """Write the claim of the next job."""
        record = self._record
        assert record is not None
        if self._is_retiring or self._executed == len(record.jobs):
            self._end_record()
            return
        self.handle.words[protocol.SLOT_CLAIM] = protocol.claim(record.record, self._executed)
        world = self.host.computer.world
        if world.chance() < 0.03:
            # Others may do something just between the claim and the look at the limit.
            world.after(2e-6 * world.chance(), self.party, self._check_limit)
        else:
            self._check_limit()

    def _check_limit(self) -> None:
        record = self._record
        assert record is not None
        first = protocol.claim(record.record, 0)
        words = self.handle.words
        if first <= words[protocol.SLOT_LIMIT] <= words[protocol.SLOT_CLAIM]:
            self._end_record()
            return
        job = record.jobs[self._executed]
        self._executed += 1
        self._start(job)

    def _end_record(self) -> None:
        flags = protocol.LAST_OF_RECORD | (protocol.RETIRING if self._is_retiring else 0)
        self._flush(flags)
        self._record = None
        if self._is_retiring:
            self.phase = Phase.GONE
            self.host.computer.world.after(1e-4, self.party, self.die, 0)
            return
        self.phase = Phase.WAITING
        if self.handle.jobs.packets or self._is_closed:
            self.wake()

    def _flush(self, flags: int) -> None:
        handle = self.handle
        record = self._record
        assert record is not None
        if not handle.arena and not flags:
            return
        packet = pack(handle.arena, flags, self._executed, record.record)
        handle.arena.clear()
        handle.words[protocol.SLOT_COUNT] = 0
        self._size = 0
        self._flushed = self.host.computer.world.now
        handle.replies.arrive(packet)

    # Jobs.

    def _start(self, job: Job) -> None:
        computer = self.host.computer
        world = computer.world
        handle = self.handle
        account = computer.ledger[self.host.client]
        self._job = job
        self._entry = entry = account.on_start(job.number, job.attempt)
        handle.start = world.time()
        handle.printed = said_by(job.number, job.attempt) if world.chance() < 0.5 else b""
        self._serial = 0
        self.phase = Phase.RUNNING
        try:
            data = job.payload
            if job.stream:
                data = computer.files.take(self._segments / str(job.stream))
            number, task = decode(data)
        except OSError as error:
            self._task = Task(0)
            self._keep(TERMINATED, f"the job's arguments cannot be rebuilt on the node: {error}")
            return
        if number != job.number or task.kind is not entry.task.kind:
            world.fail(f"job {job.number} has the arguments of job {number}")
        self._task = task
        self._values_left = task.values
        self._check_files(entry)
        if task.object and task.object not in self._objects:
            try:
                computer.files.take(self._segments / protocol.object_name(task.object))
            except OSError as error:
                if self.host.is_ending:  # the computation has been closed, and nobody is told how this ends
                    self._keep(TERMINATED, f"an object has gone: {error}")
                    return
                world.fail(f"job {job.number} does not find object {task.object} on {computer.name}")
            self._objects.add(task.object)
        words = handle.words
        if words[protocol.SLOT_INTERRUPT] == words[protocol.SLOT_CLAIM]:
            self.on_interrupt()
            if self.phase is not Phase.RUNNING:
                return
        self._go_on()

    def _go_on(self) -> None:
        """Run to the next value or to the end."""
        task = self._task
        assert task is not None
        computer = self.host.computer
        self.phase = Phase.RUNNING
        if task.kind in (Kind.HANGS, Kind.DEAF) and not self._values_left:
            self._timer = None
            return
        seconds = task.duration_us * 1e-6 * computer.slowness / (task.values + 1) + JOB_OVERHEAD_S
        what = self._send_value if self._values_left else self._end
        self._timer = computer.world.after(seconds, self.party, what)

    def _end(self) -> None:
        """The job has done what it does."""
        task = self._task
        assert task is not None
        if task.kind is Kind.DIES:
            self.die(SIGSEGV)
        elif task.kind is Kind.RAISES:
            self._keep(TERMINATED, "Traceback: ZeroDivisionError")
        else:
            self._is_retiring = task.kind is Kind.LEAVES
            assert self._entry is not None
            self._check_files(self._entry)
            self._keep(FINISHED, "")

    def _check_files(self, entry: Entry) -> None:
        """Its files are there, and nothing else under their names."""
        computer = self.host.computer
        if computer.has_files:
            wrong = computer.find_wrong_file(self.host, self._work, entry)
            if wrong is not None:
                computer.world.fail(f"job {entry.number} runs on {computer.name}, and {wrong}")

    def _keep(self, status: int, reason: str) -> None:
        """Keep the result safe, and go on to the next job."""
        job, task, entry = self._job, self._task, self._entry
        assert job is not None
        assert task is not None
        assert entry is not None
        computer = self.host.computer
        payload, stream = b"", 0
        if status == FINISHED:
            payload = encode_result(job.number, job.attempt, task.result_size)
            if len(payload) >= limits.INLINE_MAX:
                try:
                    stream = computer.files.put(self._segments, payload, self.party)
                except OSError as error:
                    computer.note_refusal()
                    status, reason = TERMINATED, f"the result does not fit: {error}"
                payload = b""
        if job.stream:
            computer.files.let_go(self._segments / str(job.stream))
        entry.ended[job.attempt] = status
        entry.places[job.attempt] = self.host.incarnation
        end = computer.world.time()
        ended = Ended(
            job.number, job.attempt, status, self.handle.start, end, payload, stream, reason=reason
        )
        data = _encode(ended)
        self.handle.arena.append(data)
        self._size += len(data)
        self.handle.words[protocol.SLOT_COUNT] += 1
        self._job = self._entry = self._task = None
        self.handle.printed = b""
        self.phase = Phase.BETWEEN
        if self._size > protocol.ARENA_FLUSH or computer.world.now - self._flushed > FLUSH_AFTER_S:
            self._flush(0)
        self._next()

    def on_interrupt(self) -> None:
        """SIGINT: for the job at the position that stands in the slot, if it is still there."""
        words = self.handle.words
        if words[protocol.SLOT_INTERRUPT] != words[protocol.SLOT_CLAIM]:
            return
        task = self._task
        if self.phase in (Phase.RUNNING, Phase.SENDING) and task is not None:
            words[protocol.SLOT_INTERRUPT] = 0
            if task.kind is not Kind.DEAF:
                if self._timer is not None:
                    self._timer.cancel()
                self._keep(TERMINATED, "cancelled")

    # Provisional results.

    def _send_value(self) -> None:
        job = self._job
        assert job is not None
        self._values_left -= 1
        self._serial += 1
        value = protocol.ProvisionalValue(job.number, job.attempt, self._serial, b"v")
        if self._task is not None and self._task.is_large():
            try:
                value.stream = self.host.computer.files.put(
                    self._segments, b"v" * self._task.result_size, self.party
                )
            except OSError:
                self.host.computer.note_refusal()
                self._keep(TERMINATED, "Traceback: no room for the value")
                return
            value.payload = b""
        self.phase = Phase.SENDING
        self._timer = self.host.computer.world.after(VALUE_TIMEOUT_S, self.party, self._go_on)
        self.handle.replies.arrive(bytes((protocol.PROVISIONAL,)) + _encode(value))

    def on_acknowledged(self, answer: protocol.SentAcknowledged) -> None:
        """A value has arrived, or never will."""
        job = self._job
        if (
            self.phase is not Phase.SENDING
            or job is None
            or (answer.number, answer.attempt, answer.serial) != (job.number, job.attempt, self._serial)
        ):
            return
        assert self._entry is not None
        if answer.delivered:
            self._entry.acknowledged[job.attempt] = answer.serial
        if self._timer is not None:
            self._timer.cancel()
        self._go_on()

    # The end.

    def execute(self) -> None:
        """It is killed because the node wants that; no job that is wanted must die with it."""
        job, entry = self._job, self._entry
        if job is not None and entry is not None:
            is_wanted = self.host.computer.is_wanted(self.host, job)
            if is_wanted and not entry.is_ended_by_us and not entry.is_given_up:
                self.host.computer.world.fail(f"job {job.number} is killed for another")
        self.die(SIGKILL)

    def die(self, code: int) -> None:
        """It ends where it is."""
        if self.party.is_dead:
            return
        if self._job is not None and self._entry is not None:
            self._entry.died.add(self._job.attempt)
        self.party.kill()
        self.phase = Phase.GONE
        self.handle.replies.end()
        host = self.host
        if host.party.is_dead:
            host.processes.pop(self.id, None)
        else:
            host.computer.reach(host.party, host.on_child, self, code)
