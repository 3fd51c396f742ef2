"""What the jobs of a simulation do, how that is written into their arguments, and what must come of it.

The account of every job is kept here, by one who sees everything: what a program was promised and told, and
what workers did. It is slow and obvious on purpose, and looks into no machine.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from dispy import payload
from dispy.core.scheduling.withdrawal import CLOSED
from dispy.protocol.files import FileEntry
from dispy.protocol.limits import INLINE_MAX
from dispy.protocol.node import ABANDONED, CANCELLED, FINISHED, TERMINATED, Ended, Job, Provisional

from .contents import Shipped
from .world import World

_ARGUMENTS = struct.Struct("<QIBBHII")
RESULT_HEAD = struct.Struct("<QII")  # number, attempt, size
_RESULT = struct.Struct("<3sIQII")  # the head of a pickle of bytes, their length; number, attempt, size
_PICKLE_HEAD, _PICKLE_END = b"\x80\x04B", b"."


class Kind(IntEnum):
    """How a job behaves."""

    PLAIN = 0
    RAISES = 1
    DIES = 2
    """Its process ends."""
    HANGS = 3
    """It goes on until it is cancelled."""
    DEAF = 4
    """It goes on until it is killed."""
    LEAVES = 5
    """It leaves something behind, so its worker is not used again."""


class Task:
    """What a job is to do.

    Attributes:
        duration_us: How long it takes.
        kind: How it ends.
        values: Provisional results that it sends.
        object: What was put that it reads; 0: nothing.
        result_size: Bytes of its result.
        arguments_size: Bytes of its arguments beyond what it needs.
    """

    __slots__ = ("arguments_size", "duration_us", "kind", "object", "result_size", "values")

    def __init__(
        self,
        duration_us: int,
        kind: Kind = Kind.PLAIN,
        values: int = 0,
        object_: int = 0,
        result_size: int = 0,
        arguments_size: int = 0,
    ) -> None:
        self.duration_us = duration_us
        self.kind = kind
        self.values = values
        self.object = object_
        self.result_size = result_size
        self.arguments_size = arguments_size

    def is_large(self) -> bool:
        """Whether its result travels as a stream."""
        return self.result_size + _RESULT.size + len(_PICKLE_END) >= INLINE_MAX

    def encode(self, number: int) -> bytes:
        """The argument of the job that does it."""
        head = _ARGUMENTS.pack(
            number,
            self.duration_us,
            self.kind,
            self.values,
            self.object,
            self.result_size,
            self.arguments_size,
        )
        return head + bytes((number & 0xFF,)) * self.arguments_size


def decode(call: bytes) -> tuple[int, Task]:
    """Number and task of a job, from its pickled call."""
    data = payload.load_call(call)[0][0]
    number, duration_us, kind, values, object_, result_size, size = _ARGUMENTS.unpack_from(data)
    if data[_ARGUMENTS.size :] != bytes((number & 0xFF,)) * size:
        raise ValueError("the arguments have changed on their way")
    return number, Task(duration_us, Kind(kind), values, object_, result_size, size)


def encode_result(number: int, attempt: int, size: int) -> bytes:
    """What a job returns: a pickle of bytes."""
    body = bytes((number & 0xFF,)) * size + _PICKLE_END
    return _RESULT.pack(_PICKLE_HEAD, 16 + size, number, attempt, size) + body


def result_of(number: int, attempt: int, size: int) -> bytes:
    """What is unpickled of that."""
    return encode_result(number, attempt, size)[7:-1]


def attempt_of(value: bytes) -> int:
    """Which attempt has returned what was unpickled."""
    return int.from_bytes(value[8:12], "little")


def is_result(data: bytes | bytearray | memoryview, number: int, attempt: int, size: int) -> bool:
    """Whether this is what the job returned."""
    return bytes(data) == encode_result(number, attempt, size)


def said_by(number: int, attempt: int) -> bytes:
    """What a job prints."""
    return f"{number}.{attempt};".encode() * 4


class Entry:
    """What is known of a job."""

    __slots__ = (
        "acknowledged", "asked_to_end", "attempt", "computation", "died", "ended", "files", "is_cancelled",
        "is_ended_by_us", "is_given_up", "is_reentrant", "mark", "node", "number", "pinned", "places", "reason",
        "recovered", "runs", "serials", "starts", "status", "task",
    )  # fmt: skip

    def __init__(
        self, number: int, computation: int, task: Task, is_reentrant: bool, pinned: bytes | None
    ) -> None:
        self.number = number
        self.computation = computation
        self.task = task
        self.is_reentrant = is_reentrant
        self.pinned = pinned
        self.mark = number
        """Number in its arguments and results, another one for each program of a shared scheduler."""
        self.files: list[FileEntry] = []
        """What it brings."""
        self.attempt = -1
        """The last one that was sent to a node."""
        self.node = b""
        """Which node that was."""
        self.starts: list[int] = []
        """Attempts that a worker has begun."""
        self.runs: list[tuple[str, int]] = []
        """All runs, those of programs that resumed it among them: the program, and its attempt."""
        self.ended: dict[int, int] = {}
        """How runs have ended, by attempt."""
        self.places: dict[int, bytes] = {}
        """On which incarnations of nodes that was."""
        self.recovered: tuple[int, bytes, int] | None = None
        """How it was said to have ended by the first recovery that said so, what it returned, and how often nodes
        had died when it began."""
        self.died: set[int] = set()
        """Attempts whose worker died under them."""
        self.serials: dict[int, int] = {}
        """The last provisional result that the program was told, by attempt."""
        self.acknowledged: dict[int, int] = {}
        """The last one that the job was told to have arrived, by attempt."""
        self.asked_to_end = False
        """Its program wants it cancelled; a shared scheduler may end it before the core knows it."""
        self.is_cancelled = False
        self.is_ended_by_us = False
        """A node was asked to end it: it was cancelled, or its computation leaves that node."""
        self.is_given_up = False
        """Its cluster was closed before it had ended."""
        self.status = 0
        """Final status; 0: none yet."""
        self.reason = ""
        """Why it has no result."""


class Account:
    """All jobs of one program.

    Args:
        world: Where it runs.
        name: Of the program.
    """

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self.name = name
        self.entries: dict[tuple[int, int], Entry] = {}
        """By computation and number: each computation numbers its jobs from 1."""
        self.origins: dict[int, int] = {}
        """Of a program that runs jobs of another one: that one's computation, by its own."""
        self.open: dict[int, dict[int, Entry]] = {}
        """Jobs that have not ended, by computation and number."""
        self.statuses = {CANCELLED: 0, TERMINATED: 0, ABANDONED: 0, FINISHED: 0}
        self.runs = 0
        """How often a worker has begun a job."""
        self.last_start: dict[int, float] = {}
        """When that was last, by computation."""
        self.tag = 0
        """Upper bits of the marks of its jobs."""
        self.has_losses = False
        """Whether a node was lost to it or taken away by it."""
        self.has_lost_scheduler = False
        """Whether its shared scheduler has forgotten it: all jobs were abandoned then."""
        self.shipped = Shipped(world, name)
        """What it has in its files."""
        self.files: dict[int, list[FileEntry]] = {}
        """All files that there ever were of a computation, by its number."""
        self.sent: dict[tuple[int, str], dict[str, set[bytes]]] = {}
        """What jobs of a computation find at an address because it was sent there, as the program knows, also after
        the node was lost: one content by name, or several while another one is on its way."""

    def fail(self, text: str) -> None:
        """A guarantee is broken."""
        self._world.fail(f"{self.name}: {text}")

    # What the program does.

    def of(self, computation: int) -> tuple[Account, int]:
        """The account that a computation is in, as nodes number it, and its number there."""
        return self, computation

    def submit(self, entry: Entry) -> None:
        """A job is accepted."""
        entry.mark = self.tag << 40 | entry.number
        self.entries[entry.computation, entry.number] = entry
        self.open[entry.computation][entry.number] = entry

    def give_up(self, entry: Entry) -> None:
        """The program ends a job by itself when it closes a cluster."""
        entry.is_given_up = True
        del self.open[entry.computation][entry.number]

    # What the scheduler does.

    def on_sent(self, computation: int, node: bytes, job: Job) -> None:
        """A job goes to a node."""
        entry = self.entries[computation, job.number]
        is_again = entry.attempt == job.attempt
        if job.attempt < entry.attempt:
            self.fail(f"job {job.number}: attempt {job.attempt} is sent after attempt {entry.attempt}")
        if is_again and node != entry.node:
            self.fail(f"job {job.number} is sent to two nodes as attempt {job.attempt}")
        if entry.status:
            self.fail(f"job {job.number} is sent after its end")
        if entry.is_cancelled and not is_again:
            self.fail(f"job {job.number} is sent though it was cancelled")
        if entry.pinned is not None and entry.pinned != node:
            self.fail(f"job {job.number} is sent where it must not run")
        entry.attempt = job.attempt
        entry.node = node

    # What workers do.

    def on_start(self, computation: int, number: int, attempt: int) -> Entry:
        """A worker begins a job."""
        entry = self.entries[computation, number]
        self.runs += 1
        self.last_start[entry.computation] = self._world.now
        if attempt in entry.starts:
            self.fail(f"attempt {attempt} of job {number} is started twice")
        if entry.runs and not entry.is_reentrant:
            before = ", ".join(f"{other} of {name}" for name, other in entry.runs)
            self.fail(f"job {number} is started twice, as attempts {before} and {attempt}")
        entry.starts.append(attempt)
        entry.runs.append((self.name, attempt))
        return entry

    # What the program is told.

    def on_told_started(self, computation: int, number: int, attempt: int) -> None:
        """A job is told to be running."""
        entry = self.entries[computation, number]
        if attempt not in entry.starts:
            self.fail(f"job {number} is told as running, and attempt {attempt} was never begun")
        if entry.status:
            self.fail(f"job {number} is told as running after its end")

    def on_told_value(self, value: Provisional) -> None:
        """A provisional result is told."""
        entry = self.entries[value.computation, value.number]
        if entry.status:
            self.fail(f"job {value.number}: a provisional result is told after its end")
        last = entry.serials.get(value.attempt, 0)
        if value.serial <= last:
            self.fail(f"job {value.number}: provisional result {value.serial} is told after {last}")
        entry.serials[value.attempt] = value.serial

    def on_told_ended(self, computation: int, ended: Ended) -> Entry:
        """The final status of a job is told."""
        entry = self.entries[computation, ended.number]
        if entry.status:
            self.fail(
                f"job {ended.number} is told twice: {entry.status} and {ended.status} ({ended.reason!r})"
            )
        entry.status = ended.status
        entry.reason = ended.reason
        if entry.is_given_up:
            return entry
        del self.open[entry.computation][entry.number]
        self.statuses[ended.status] += 1
        if ended.status == FINISHED:
            self._check_finished(entry, ended)
        elif not ended.reason:
            self.fail(f"job {ended.number} ends with status {ended.status} and no reason")
        elif ended.status == TERMINATED:
            self._check_terminated(entry, ended)
        elif ended.status == CANCELLED:
            if (
                not entry.is_ended_by_us
                and not entry.is_cancelled
                and not entry.asked_to_end
                and (entry.pinned is None or ended.reason != CLOSED)
            ):
                self.fail(f"job {ended.number} ends as cancelled and nobody cancelled it")
        elif entry.is_reentrant and entry.pinned is None and not self.has_lost_scheduler:
            self.fail(f"job {ended.number} may run again and is abandoned: {ended.reason}")
        elif not self._is_for_files(entry, ended.reason) and not self.has_losses:
            if not self._world.has_refusals:
                self.fail(f"job {ended.number} is abandoned and no node was lost: {ended.reason}")
        return entry

    def _check_finished(self, entry: Entry, ended: Ended) -> None:
        number, attempt = ended.number, ended.attempt
        if attempt not in entry.starts or entry.ended.get(attempt) != FINISHED:
            self.fail(f"job {number} is told as finished, and its attempt {attempt} has not finished")
        if attempt != entry.attempt:
            self.fail(f"job {number} ends with the result of an old attempt")
        if not is_result(ended.payload, entry.mark, attempt, entry.task.result_size):
            self.fail(f"job {number} is told with a result that is not its own")
        arrived = entry.acknowledged.get(attempt, 0)
        if arrived > entry.serials.get(attempt, 0):
            self.fail(
                f"job {number} was told that value {arrived} has arrived, and the program has not seen it"
            )

    def _check_terminated(self, entry: Entry, ended: Ended) -> None:
        number, attempt = ended.number, ended.attempt
        if not ended.ran:
            if not self._is_for_files(entry, ended.reason) and not self._world.has_refusals:
                self.fail(f"job {number} ends without having run: {ended.reason}")
            return
        if attempt != entry.attempt:
            self.fail(f"job {number} ends with the end of an old attempt")
        if attempt not in entry.starts:
            self.fail(f"job {number} is told as terminated, and its attempt {attempt} was never begun")
        is_own = entry.ended.get(attempt) == TERMINATED
        # A cancel that meets the result of its job has the rest of that given up, if it is a large one.
        is_given_up = ended.reason == "cancelled" and entry.is_ended_by_us and entry.task.is_large()
        if not is_own and not is_given_up and attempt not in entry.died and not self._world.has_refusals:
            self.fail(f"job {number} is told as terminated, and it was not: {ended.reason}")

    def _is_for_files(self, entry: Entry, reason: str) -> bool:
        """Whether a job has not run because its files, or those of its computation, could not be had; it is then
        said which, and something was wrong with it."""
        if "file '" not in reason and "files " not in reason:
            return False
        files = [*entry.files, *self.files.get(entry.computation, ())]
        named = {file.digest for file in files if file.path in reason}
        if not named:
            self.fail(f"job {entry.number} has not run for want of a file, and is not told which: {reason}")
        if named & self.shipped.troubled or self._world.has_disk_trouble or self._world.has_refusals:
            return True
        self.fail(
            f"job {entry.number} has not run for want of a file with which nothing is wrong: {reason}"
        )
        return False


class Tenants(Account):
    """All jobs that a shared scheduler has sent to nodes: each is in the account of its program."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.by_wire: dict[int, tuple[Account, int]] = {}
        """Account of the program, and its own number, by the number by which nodes know a computation."""

    def of(self, computation: int) -> tuple[Account, int]:
        """As of accounts."""
        return self.by_wire[computation]
