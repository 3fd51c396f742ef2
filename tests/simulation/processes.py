"""Computation hosts and workers, over ``models.host`` and ``models.worker``: the other ends of ``node.processes``.

The models say what a host answers and what a worker does next; here are when that is, what jobs do meanwhile, and
what becomes of their files. Everything said between a node and its processes is encoded and decoded as it is in
earnest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from dispy.core.execution.ids import WorkerId
from dispy.protocol import limits
from dispy.protocol import worker as protocol
from dispy.protocol.node import FINISHED, TERMINATED, Job, Segment
from dispy.protocol.worker import FromHost, ToHost
from tests.models import host as models
from tests.models.worker import CANCELLED_REASON, Channels, Phase, Ran
from tests.models.worker import Worker as WorkerModel

from .jobs import Entry, Kind, Task, decode, encode_result, said_by
from .loop import Readable
from .world import Handle

if TYPE_CHECKING:
    from .computer import Computer

_encode = msgspec.msgpack.Encoder().encode

VALUE_TIMEOUT_S = 10.0
JOB_OVERHEAD_S = 4e-6
EXIT_S = 1e-4
"""How long a worker takes to end that has nothing more to do."""
SIGKILL, SIGSEGV = -9, -11


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
    """The node's end of a worker's records."""

    __slots__ = ("_handle",)

    def __init__(self, handle: WorkerHandle) -> None:
        self._handle = handle

    def send(self, packet: bytes, flags: int = 0) -> None:
        """As of sockets."""
        records = self._handle.records
        records.append(protocol.record_decoder.decode(packet))
        if len(records) > 64:
            self._handle.host.computer.world.fail("records pile up in a worker's socket")
        worker = self._handle.process
        if worker is not None and worker.model.phase is Phase.WAITING:
            worker.host.computer.reach(worker.party, worker.wake)


class WorkerHandle(Channels):
    """The node's ends of a worker."""

    def __init__(self, host: HostProcess, worker: WorkerId, slot: int) -> None:
        super().__init__()
        self.host = host
        self.id = worker
        self.slot = slot
        self.pid = 0
        self.last_position = 0
        self.is_set_up = False
        self.failure = ""
        self.replies = Replies(self)
        self.jobs = Jobs(self)
        self.process: Worker | None = None

    def started(self) -> float:
        """When its job started (seconds since the epoch)."""
        return self.start

    def drop_objects(self) -> None:
        """Have the worker let go of objects."""
        self.words[protocol.SLOT_DROPS] += 1
        self.jobs.send(_encode(protocol.Record(0, [])))

    def committed(self) -> memoryview:
        """A packet of the results that no packet has carried."""
        ran = self.unsent()
        return memoryview(pack(ran) if ran is not None else b"")

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


def pack(ran: Ran) -> bytes:
    """A packet of results."""
    flags = protocol.LAST_OF_RECORD * ran.is_last | protocol.RETIRING * ran.is_retiring
    head = bytearray(protocol.ARENA_HEAD)
    protocol.pack_ran(head, 0, flags, ran.executed, ran.record, len(ran.ended))
    return b"".join([head, *map(_encode, ran.ended)])


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
        self.model: models.Host[Worker] = models.Host()
        self.processes = self.model.workers
        self.client, self.computation = b"", 0
        self.began = 0.0
        """When it was told to load."""
        computer.hosts[self] = None

    # The node's side.

    def tell(self, message: ToHost, descriptors: tuple[int, ...] = ()) -> None:
        """Send a message."""
        body = _encode(message)
        if type(message) is protocol.Load:
            self.client, self.computation = self.computer.key_of(self)
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
                self.began = computer.world.now
                said = self.model.begin_load(message, self._read_code(message))
                if not self.model.is_setting_up:
                    computer.world.after(self.setup_s(), self.party, self._tell, said)
                    return
                if said is not None:
                    self._tell(said)
                if not self.hangs(in_worker=False):
                    computer.world.after(self.setup_s(), self.party, self._on_set_up)
            case protocol.Fork(worker, _):
                seconds = 0.002 * (0.2 + computer.world.chance()) * computer.slowness
                computer.world.after(seconds, self.party, self._fork, WorkerId(worker))
            case _:
                process = self.model.find(message.worker)
                if process is not None:
                    process.signal(message)

    def _read_code(self, message: protocol.Load) -> str:
        """Why the code cannot be had; empty if it can."""
        path = PurePosixPath(message.code_path)
        try:
            self.computer.files.take(path)
            self.computer.files.let_go(path)
        except OSError as error:
            return str(error)
        return ""

    def _on_set_up(self) -> None:
        reason = ""
        if self.computer.loads_fail:
            self.computer.note_refusal()
            reason = "no module named x"
        self._tell(self.model.end_setup(reason))

    def hangs(self, *, in_worker: bool) -> bool:
        """Whether ``setup`` goes on until its time is over."""
        load = self.model.load
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
            self._tell(self.model.refuse_fork(worker, "no process can be started for jobs"))
            return
        assert self.model.load is not None
        process = Worker(self, handle, self.model.load)
        self._tell(self.model.fork(worker, process, process.pid))
        process.begin()

    def on_child(self, worker: Worker, code: int) -> None:
        """SIGCHLD: a worker has ended."""
        said = self.model.reap(worker.id, code)
        if said is not None:
            self._tell(said)


class Worker:
    """A worker process."""

    def __init__(self, host: HostProcess, handle: WorkerHandle, load: protocol.Load) -> None:
        self.host = host
        self.handle = handle
        self.id = handle.id
        self.pid = host.computer.new_pid()
        self.party = host.computer.world.party(f"worker{self.pid}")
        self.model = WorkerModel(handle, load.setup_per_worker)
        self._segments = PurePosixPath(load.segment_path)
        self._work = Path(load.work_path)
        self._entry: Entry | None = None
        """The account of the job that it is at; None between jobs."""
        self._task: Task | None = None
        self._timer: Handle | None = None
        self._values_left = 0
        handle.process = self

    def begin(self) -> None:
        """Call ``setup``, if that is for workers to do; then take jobs."""
        if self.model.phase is not Phase.SETTING_UP:
            self.wake()
        elif not self.host.hangs(in_worker=True):
            self.host.computer.world.after(self.host.setup_s(), self.party, self._on_set_up)

    def _on_set_up(self) -> None:
        fails = self.host.computer.loads_fail
        if fails:
            self.host.computer.note_refusal()
        self.handle.replies.arrive(self.model.set_up("setup failed: no module named x" if fails else ""))
        self._go_on()

    # Records.

    def wake(self) -> None:
        """There may be a record."""
        if self.model.phase is Phase.WAITING:
            self._go_on()

    def on_closed(self) -> None:
        """The node has closed its ends."""
        self.model.is_closed = True
        self.wake()

    def _go_on(self) -> None:
        """Do all that needs no time."""
        model, world = self.model, self.host.computer.world
        while model.can_step():
            before = model.phase
            packet = model.step(world.now, world.time())
            if packet is not None:
                self.handle.replies.arrive(pack(packet))
            if model.phase is Phase.CLAIMED and world.chance() < 0.03:
                # Others may do something just between the claim and the look at the limit.
                world.after(2e-6 * world.chance(), self.party, self._go_on)
                return
            if model.phase is Phase.STARTED:
                self._load(model.job)
            elif model.phase is Phase.RUNNING:
                self._run()
            elif model.phase is Phase.KEPT and before is Phase.STARTED:
                self._note_end(TERMINATED)
        if model.exit_code is not None:
            world.after(EXIT_S, self.party, self.die, model.exit_code)

    # Jobs.

    def _load(self, job: Job) -> None:
        """Find the arguments of a job that begins."""
        computer = self.host.computer
        world = computer.world
        account, computation = computer.ledger[self.host.client].of(self.host.computation)
        self._entry = entry = account.on_start(computation, job.number, job.attempt)
        try:
            data = job.payload
            if type(job.where) is Segment:
                data = computer.files.take(self._segments / str(job.where.number))
            number, task = decode(data)
        except OSError as error:
            self._task = Task(0)
            self._keep(TERMINATED, f"the job's arguments cannot be rebuilt on the node: {error}")
            return
        if number != entry.mark or task.kind is not entry.task.kind:
            world.fail(f"job {job.number} has the arguments of job {number}")
        self._task = task
        self._values_left = task.values
        self._check_files(entry)
        if world.chance() < 0.5:
            self.model.print(said_by(job.number, job.attempt))
        if task.object and task.object not in self.model.objects:
            try:
                computer.files.take(self._segments / protocol.object_name(task.object))
            except OSError as error:
                if self.host.is_ending:  # the computation has been closed, and nobody is told how this ends
                    self._keep(TERMINATED, f"an object has gone: {error}")
                    return
                world.fail(f"job {job.number} does not find object {task.object} on {computer.name}")
            self.model.objects.add(task.object)

    def _run(self) -> None:
        """Run to the next value or to the end."""
        task = self._task
        assert task is not None
        computer = self.host.computer
        self._stop_timer()
        if task.kind in (Kind.HANGS, Kind.DEAF) and not self._values_left:
            return
        seconds = task.duration_us * 1e-6 * computer.slowness / (task.values + 1) + JOB_OVERHEAD_S
        what = self._send_value if self._values_left else self._end
        self._timer = computer.world.after(seconds, self.party, what)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        """The job has done what it does."""
        task = self._task
        assert task is not None
        if task.kind is Kind.DIES:
            self.die(SIGSEGV)
        elif task.kind is Kind.RAISES:
            self._finish(TERMINATED, "Traceback: ZeroDivisionError")
        else:
            assert self._entry is not None
            self._check_files(self._entry)
            self._finish(FINISHED, "", leaves=task.kind is Kind.LEAVES)

    def _check_files(self, entry: Entry) -> None:
        """Its files are there, and nothing else under their names."""
        computer = self.host.computer
        if computer.has_files:
            wrong = computer.find_wrong_file(self.host, self._work, entry)
            if wrong is not None:
                computer.world.fail(f"job {entry.number} runs on {computer.name}, and {wrong}")

    def _finish(self, status: int, reason: str, leaves: bool = False) -> None:
        """End the job, and go on to the next one."""
        self._stop_timer()
        self._keep(status, reason, leaves)
        self._go_on()

    def _keep(self, status: int, reason: str, leaves: bool = False) -> None:
        """Keep the result safe."""
        job, task = self.model.job, self._task
        assert task is not None
        computer = self.host.computer
        payload, stream = b"", 0
        if status == FINISHED:
            payload = encode_result(self._mark(), job.attempt, task.result_size)
            if len(payload) >= limits.INLINE_MAX:
                try:
                    stream = computer.files.put(self._segments, payload, self.party)
                except OSError as error:
                    computer.note_refusal()
                    status, reason = TERMINATED, f"the result does not fit: {error}"
                payload = b""
        self.model.end_job(computer.world.now, status, payload, stream, reason, leaves)
        self._note_end(status)

    def _mark(self) -> int:
        """What its job has in its result."""
        assert self._entry is not None
        return self._entry.mark

    def _note_end(self, status: int) -> None:
        """Let go of the arguments of a job that has ended, and note how."""
        job, entry = self.model.job, self._entry
        assert entry is not None
        if type(job.where) is Segment:
            self.host.computer.files.let_go(self._segments / str(job.where.number))
        entry.ended[job.attempt] = status
        entry.places[job.attempt] = self.host.incarnation
        self._entry = self._task = None

    # Signals.

    def signal(self, message: ToHost) -> None:
        """The host was told to send one."""
        reach = self.host.computer.reach
        match message:
            case protocol.Interrupt():
                reach(self.party, self._on_interrupt)
            case protocol.Unbuffer():
                reach(self.party, self.model.unbuffer)
            case protocol.Kill():
                self._execute()

    def _on_interrupt(self) -> None:
        is_sending = self.model.phase is Phase.SENDING
        if not self.model.interrupt():
            return
        if self._task is None or self._task.kind is not Kind.DEAF:
            self._finish(TERMINATED, CANCELLED_REASON)
        elif is_sending:
            self._run()

    # Provisional results.

    def _send_value(self) -> None:
        task = self._task
        assert task is not None
        self._values_left -= 1
        job = self.model.job
        payload, stream = encode_result(self._mark(), job.attempt, 0), 0
        if task.is_large():
            try:
                stream = self.host.computer.files.put(
                    self._segments, encode_result(self._mark(), job.attempt, task.result_size), self.party
                )
            except OSError:
                self.host.computer.note_refusal()
                self._finish(TERMINATED, "Traceback: no room for the value")
                return
            payload = b""
        value = self.model.send_value(payload, stream)
        self._timer = self.host.computer.world.after(
            VALUE_TIMEOUT_S, self.party, self.on_acknowledged, None
        )
        self.handle.replies.arrive(bytes((protocol.PROVISIONAL,)) + _encode(value))

    def on_acknowledged(self, answer: protocol.SentAcknowledged | None) -> None:
        """A value has arrived, or never will."""
        if not self.model.acknowledge(answer):
            return
        assert self._entry is not None
        if answer is not None and answer.delivered:
            self._entry.acknowledged[answer.attempt] = answer.serial
        self._run()

    # The end.

    def _execute(self) -> None:
        """It is killed because the node wants that; no job that is wanted must die with it."""
        entry = self._entry
        if entry is not None:
            is_wanted = self.host.computer.is_wanted(self.host, self.model.job)
            if is_wanted and not entry.is_ended_by_us and not entry.is_given_up:
                self.host.computer.world.fail(f"job {entry.number} is killed for another")
        self.die(SIGKILL)

    def die(self, code: int) -> None:
        """It ends where it is."""
        if self.party.is_dead:
            return
        if self._entry is not None:
            self._entry.died.add(self.model.job.attempt)
        self.party.kill()
        self.model.die()
        self.handle.replies.end()
        host = self.host
        if host.party.is_dead:
            host.processes.pop(self.id, None)
        else:
            host.computer.reach(host.party, host.on_child, self, code)
