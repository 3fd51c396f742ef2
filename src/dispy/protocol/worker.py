"""The messages between the processes of a node: daemon, computation host, worker.

The daemon starts one host per computation; the host loads the code and forks workers, which run the jobs. They have
three channels:

- *control* (stream socket, daemon ↔ host): ``ToHost`` and ``FromHost`` messages, each with its length in front.
- *jobs* (SOCK_SEQPACKET, daemon → worker): one ``Record`` of jobs per packet. The daemon keeps a copy of the reading
  end, so it can take a record back. The kernel decides, atomically, whether worker or daemon gets it.
- *replies* (SOCK_SEQPACKET, worker ↔ daemon): packets of results (``pack_ran``) and provisional values; back comes
  the acknowledgement of each provisional value.

Beside them each worker has a *slot* in memory shared with the daemon (``SLOT_…``). It says which job the worker runs,
which job the daemon wants to interrupt, and where the daemon has cut the record. Its *arena* holds each result from
the moment it exists, so a worker that dies loses no result of a job that had ended.

A *position* names one job of one record (``claim``). Interrupts name the position that they are meant for, so that an
interrupt that comes late does not hit the next job.
"""

from __future__ import annotations

import struct
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from dispy.protocol import limits
from dispy.protocol.node import Ended, FilePart, Job, Name, Number, Reason

# A slot: eight 64-bit words, then the arena. These are the words' indices.
SLOT_CLAIM = 0
"""Position of the job that the worker runs: ``claim(record, index)``. Written by the worker before each job."""
SLOT_LIMIT = 1
"""Position before which the worker stops its record. Written by the daemon."""
SLOT_INTERRUPT = 2
"""Position of the only job that SIGINT is meant for. Written by the daemon, cleared by the worker."""
SLOT_COMMITTED = 3
"""End of the results in the arena that no packet has carried yet (bytes from the arena's start)."""
SLOT_COUNT = 4
"""Number of results in the arena that no packet has carried yet."""
SLOT_START = 5
"""Start of the current job (seconds since the epoch, as a double)."""
SLOT_DROPS = 6
"""Count of drops of objects: when it changes, the worker looks which ones are gone. Written by the daemon."""
SLOT_UNBUFFER = 7
"""Position of the only job that SIGURG is meant for: its output must not wait in a buffer. Written by the daemon."""
SLOT_WORDS = 8
SLOT_HEADER = SLOT_WORDS * 8
ARENA_SIZE = 256 * limits.KIB
ARENA_FLUSH = 96 * limits.KIB
"""Bytes from which a packet of results is sent: with one more inline result it still fits into a packet."""
SLOT_SIZE = SLOT_HEADER + ARENA_SIZE
"""Bytes of a slot."""

PACKET_MAX = ARENA_SIZE + 4 * limits.KIB
"""Largest packet on the jobs and replies channels (bytes)."""
RECORD_BYTES_MAX = 96 * limits.KIB
"""Bytes of arguments in one record."""
RECORD_JOBS_MAX = 256
"""Jobs in one record."""

_INDEX_BITS = 16


def claim(record: int, index: int) -> int:
    """Returns the position of job ``index`` of a record, as one number. Positions grow over the life of a worker."""
    return (record << _INDEX_BITS) | index


def split_claim(value: int) -> tuple[int, int]:
    """Returns record number and index of a position."""
    return value >> _INDEX_BITS, value & ((1 << _INDEX_BITS) - 1)


class Record(Struct, array_like=True):
    """Jobs that one worker runs one after another; an empty record only wakes the worker.

    ``live`` is True if a client wants the output of some of these jobs while they run: Python must not buffer it.
    """

    record: Number
    jobs: Annotated[list[Job], Meta(max_length=RECORD_JOBS_MAX)]
    live: bool = False


# Daemon to host.


class Load(Struct, array_like=True, tag=1):
    """The computation that this host is for: the first message, sent once.

    ``code_path`` is a file with the pickled code, ``work_path`` the working directory, ``segment_path`` the directory
    for large payloads. ``output_max``: bytes kept of stdout, and as many of stderr, of each job.
    """

    name: Name
    code_path: Name
    work_path: Name
    segment_path: Name
    node_name: Name
    node_ip_addr: Name
    isolate: bool
    output_max: Number = limits.OUTPUT_MAX
    free_path: str = ""
    """Directory of free segments, which can be used again; empty: none."""
    message_timeout_s: float = 10.0
    """Seconds that a job which sends a value or a file waits for the acknowledgement, unless the call says
    otherwise."""
    setup_per_worker: bool = False
    """True if ``setup`` is called in each worker; False: once, in the host."""
    setup_timeout_s: float = 0.0
    """Seconds that ``setup`` may take; 0: no limit."""
    file_max: Number = 0
    """Bytes of the largest file that jobs may send; 0: no limit."""
    disk_path: str = ""
    """Directory for segments that do not fit into ``segment_path``; equal to it if that is on disk already."""


class Fork(Struct, array_like=True, tag=2):
    """Start a worker; ``slot`` is the index of its slot in the shared memory.

    Four descriptors come with the message: the worker's jobs and replies sockets, and the memory files that become
    its stdout and stderr.
    """

    worker: Number
    slot: Number


class Interrupt(Struct, array_like=True, tag=3):
    """Send SIGINT to a worker. ``SLOT_INTERRUPT`` in its slot has the position that it is meant for."""

    worker: Number


class Kill(Struct, array_like=True, tag=4):
    """End a worker and everything it started."""

    worker: Number


class Unbuffer(Struct, array_like=True, tag=5):
    """Send SIGURG to a worker. ``SLOT_UNBUFFER`` in its slot has the position that it is meant for."""

    worker: Number


# Host to daemon.


class Loaded(Struct, array_like=True, tag=32):
    """The computation is ready; ``warning`` names parts of it that will fail, or is empty."""

    warning: Reason = ""


class LoadFailed(Struct, array_like=True, tag=33):
    """The computation cannot be loaded on this node; ``reason`` says why."""

    reason: Reason


class WorkerStarted(Struct, array_like=True, tag=34):
    """A worker process exists."""

    worker: Number
    pid: Number


class WorkerExited(Struct, array_like=True, tag=35):
    """A worker is gone, with all processes that it started. ``code`` is its exit code; minus N if signal N killed
    it."""

    worker: Number
    code: int
    reason: Annotated[str, Meta(max_length=limits.REASON_MAX)] = ""
    """Why the worker's process could not be started; empty if it was started."""


class SettingUp(Struct, array_like=True, tag=36):
    """``setup`` begins now. The daemon ends the host if it takes longer than ``Load.setup_timeout_s``."""


ToHost = Load | Fork | Interrupt | Kill | Unbuffer
FromHost = Loaded | LoadFailed | WorkerStarted | WorkerExited | SettingUp

# Replies. The first byte of a packet is its kind: results, a provisional value, the end of ``setup``, a broken
# worker.
RAN = 0x52
PROVISIONAL = 0x50
SET_UP = 0x53
BROKEN = 0x42

_RAN = struct.Struct("<BBHIQ")
RAN_HEADER = _RAN.size
_ARRAY32 = struct.Struct(">BI")
ARENA_HEAD = RAN_HEADER + _ARRAY32.size
"""Bytes at the start of the arena that ``pack_ran`` fills in when a packet goes out."""

LAST_OF_RECORD = 1
RETIRING = 2


def pack_ran(
    buffer: bytearray | memoryview, offset: int, flags: int, executed: int, record: int, count: int
) -> None:
    """Write the head of a packet of ``count`` results, which stand behind it, each encoded by itself.

    Head and results together are a msgpack array. So results are encoded once, in place, when they are made, and the
    packet is decoded in one call.

    Args:
        buffer: Memory of the packet.
        offset: Position of the head (bytes).
        flags: ``LAST_OF_RECORD`` if the record is done, ``RETIRING`` if the worker exits now.
        executed: Jobs of the record that have been run so far.
        record: Number of the record.
        count: Results in the packet.
    """
    _RAN.pack_into(buffer, offset, RAN, flags, executed, count, record)
    _ARRAY32.pack_into(buffer, offset + RAN_HEADER, 0xDD, count)


def pack_set_up(reason: str) -> bytes:
    """Returns the packet that says a worker has called ``setup``. A non-empty reason: it failed, and the worker
    exits."""
    return bytes((SET_UP,)) + reason.encode("utf-8", "replace")[: limits.REASON_MAX]


def pack_broken(reason: str) -> bytes:
    """Returns the packet that says a worker exits because of an error that is not a job's."""
    return bytes((BROKEN,)) + reason.encode("utf-8", "replace")[: limits.REASON_MAX]


def unpack_set_up(packet: memoryview) -> str:
    """Returns the reason in a packet of ``pack_set_up`` or ``pack_broken``; empty if nothing failed."""
    return bytes(packet[1:]).decode("utf-8", "replace")


def unpack_ran(packet: memoryview) -> tuple[int, int, int, list[Ended]]:
    """Returns flags, number of jobs run of the record so far, record number, and results of a packet.

    Raises:
        ValueError, msgspec.DecodeError, RecursionError: The packet is not one of results (see ``NONSENSE``).
    """
    if len(packet) < RAN_HEADER:
        raise ValueError(f"{len(packet)} bytes are no packet of results")
    _, flags, executed, _, record = _RAN.unpack_from(packet)
    return flags, executed, record, ended_decoder.decode(packet[RAN_HEADER:])


class ProvisionalValue(Struct, array_like=True):
    """A provisional result of a running job, or one part of a file that it sends."""

    number: Number
    attempt: Number
    serial: Number
    payload: Annotated[bytes, Meta(max_length=limits.INLINE_MAX)]
    stream: Number = 0
    file: FilePart | None = None
    """Which file and position the payload belongs to; None for a provisional result."""


class SentAcknowledged(Struct, array_like=True):
    """The answer to the ``ProvisionalValue`` with this ``serial``: the client has it, or (``delivered`` False) never
    will.

    ``reason`` says why the client refuses it; empty if there is none.
    """

    number: Number
    attempt: Number
    serial: Number
    delivered: bool = True
    reason: Reason = ""


def object_name(number: int) -> str:
    """Returns the name of the file with a shared object, in the segment directory of its computation."""
    return f"object-{number}"


_NAME_BITS = 40
"""Bits of a result's number in its file's name. A pid takes 22 more; together they are the 62 bits of a
``Number``."""


def result_name(pid: int, number: int) -> int:
    """Returns the name of the file with a large result. It holds the worker's pid, so that the node can remove the
    file if the worker dies before it has reported it."""
    return pid << _NAME_BITS | number


def kept_name(pid: int, number: int) -> str:
    """Returns the name of the file with arguments that a worker still uses after the job."""
    return f"kept-{pid}-{number}"


def writer(name: str) -> int:
    """Returns the pid of the worker that wrote a file, by the file's name; 0 for files of the node and of clients."""
    if name.startswith("kept-"):
        return int(name.split("-")[1])
    return int(name) >> _NAME_BITS if name.isdecimal() else 0


LENGTH = struct.Struct(">I")
"""Length of a message on the control channel (4 bytes, big endian), in front of it."""

CONTROL_MAX = 1 * limits.MIB
"""Bytes of the largest message on the control channel."""

NONSENSE = (msgspec.DecodeError, ValueError, RecursionError)
"""Errors that decoding raises if a job has written to the channels of its worker or host."""

ended_decoder: msgspec.msgpack.Decoder[list[Ended]] = msgspec.msgpack.Decoder(list[Ended])
record_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)
provisional_decoder: msgspec.msgpack.Decoder[ProvisionalValue] = msgspec.msgpack.Decoder(ProvisionalValue)
acknowledged_decoder: msgspec.msgpack.Decoder[SentAcknowledged] = msgspec.msgpack.Decoder(SentAcknowledged)
to_host_decoder: msgspec.msgpack.Decoder[ToHost] = msgspec.msgpack.Decoder(ToHost)
from_host_decoder: msgspec.msgpack.Decoder[FromHost] = msgspec.msgpack.Decoder(FromHost)
