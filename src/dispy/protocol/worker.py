"""The conversation on a node: daemon, computation host, worker.

Three channels, all between processes of one node:

- *control* (stream, daemon ↔ host): length-prefixed ``ToHost``/``FromHost`` messages.
- *jobs* (SOCK_SEQPACKET, daemon → worker): one ``Record`` of jobs per packet. The daemon keeps a
  copy of the reading end, so the kernel decides, atomically, whether a record was taken by the
  worker or taken back.
- *replies* (SOCK_SEQPACKET, worker ↔ daemon): packets of results, see ``pack_ran``; provisional
  values, and the acknowledgement of each back.

Beside them every worker has a *slot* in memory shared with the daemon (``SLOT_…``): which job it is
at, which job is to be interrupted, where the daemon cut its record, and an arena that holds each
result from the moment it exists, so that a worker that dies loses nothing it had finished.
"""

from __future__ import annotations

import struct
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from dispy.protocol import limits
from dispy.protocol.node import Ended, FilePart, Job, Name, Number, Reason

# A slot: eight 64-bit words, then the arena.
SLOT_CLAIM = 0
"""Which job the worker is at: ``claim(record, index)``. Written by the worker before each job."""
SLOT_LIMIT = 1
"""The worker stops its record before this position. Written by the daemon."""
SLOT_INTERRUPT = 2
"""SIGINT is meant for this position only. Written by the daemon, cleared by the worker."""
SLOT_COMMITTED = 3
"""End of the results in the arena that no packet has carried yet (bytes, absolute)."""
SLOT_COUNT = 4
"""Number of those results."""
SLOT_START = 5
"""When the current job began (seconds since the epoch, as a double)."""
SLOT_DROPS = 6
"""Counts how often objects were dropped. Written by the daemon."""
SLOT_UNBUFFER = 7
"""SIGURG is meant for this position only: what it prints is not to wait in a buffer. Written by the daemon."""
SLOT_WORDS = 8
SLOT_HEADER = SLOT_WORDS * 8
ARENA_SIZE = 256 * limits.KIB
ARENA_FLUSH = 96 * limits.KIB
"""A packet of results goes out when it has this size: with one more inline result it fits a packet."""
SLOT_SIZE = SLOT_HEADER + ARENA_SIZE

PACKET_MAX = ARENA_SIZE + 4 * limits.KIB
"""Largest packet on the jobs and replies channels (bytes)."""
RECORD_BYTES_MAX = 96 * limits.KIB
RECORD_JOBS_MAX = 256

_INDEX_BITS = 16


def claim(record: int, index: int) -> int:
    """Position ``index`` of a record as one number, growing over the life of a worker."""
    return (record << _INDEX_BITS) | index


def split_claim(value: int) -> tuple[int, int]:
    """Record and index of a position."""
    return value >> _INDEX_BITS, value & ((1 << _INDEX_BITS) - 1)


class Record(Struct, array_like=True):
    """Jobs that one worker runs one after another; none, just to wake it.

    ``live``: somebody wants to see what some of them print while they run, so nothing waits in a buffer.
    """

    record: Number
    jobs: Annotated[list[Job], Meta(max_length=RECORD_JOBS_MAX)]
    live: bool = False


# Daemon to host.


class Load(Struct, array_like=True, tag=1):
    """The computation this host is for: sent once, first. ``code_path`` is a file with its code."""

    name: Name
    code_path: Name
    work_path: Name
    segment_path: Name
    node_name: Name
    node_ip_addr: Name
    isolate: bool
    output_max: Number = limits.OUTPUT_MAX
    free_path: str = ""
    """Where segments lie that can be used again; empty for none."""
    message_timeout_s: float = 10.0
    """How long jobs wait by default for the client to have what they send."""
    setup_per_worker: bool = False
    """``setup`` is called in each worker and not in the host."""
    setup_timeout_s: float = 0.0
    """It is to take no longer (seconds); 0: as long as it takes."""
    file_max: Number = 0
    """Bytes of the largest file that jobs may send; 0: no limit."""
    disk_path: str = ""
    """Where segments lie for which there is no room in ``segment_path``; the same, if that is on disk itself."""


class Fork(Struct, array_like=True, tag=2):
    """Start a worker; ``slot`` is its place.

    Descriptors come along: its jobs and replies sockets, and the memory files that become its stdout and stderr.
    """

    worker: Number
    slot: Number


class Interrupt(Struct, array_like=True, tag=3):
    """Send SIGINT to a worker; what it is meant for stands in its slot."""

    worker: Number


class Kill(Struct, array_like=True, tag=4):
    """End a worker and everything it started."""

    worker: Number


class Unbuffer(Struct, array_like=True, tag=5):
    """Send SIGURG to a worker; what it is meant for stands in its slot."""

    worker: Number


# Host to daemon.


class Loaded(Struct, array_like=True, tag=32):
    """The computation is ready; ``warning`` names what will go wrong with it."""

    warning: Reason = ""


class LoadFailed(Struct, array_like=True, tag=33):
    """The computation cannot be loaded here."""

    reason: Reason


class WorkerStarted(Struct, array_like=True, tag=34):
    """A worker exists."""

    worker: Number
    pid: Number


class WorkerExited(Struct, array_like=True, tag=35):
    """A worker is gone, with all it started. ``code`` as of subprocess: negative for a signal."""

    worker: Number
    code: int
    reason: Annotated[str, Meta(max_length=limits.REASON_MAX)] = ""
    """Why there was no process at all."""


class SettingUp(Struct, array_like=True, tag=36):
    """``setup`` is called now, and is to end in time."""


ToHost = Load | Fork | Interrupt | Kill | Unbuffer
FromHost = Loaded | LoadFailed | WorkerStarted | WorkerExited | SettingUp

# Replies. The first byte of a packet tells what it is.
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
    """Write the head of a packet of ``count`` results, encoded one behind the other after it.

    Together they are a msgpack array: results are encoded once, where they are made, and the
    packet is decoded in one go.
    """
    _RAN.pack_into(buffer, offset, RAN, flags, executed, count, record)
    _ARRAY32.pack_into(buffer, offset + RAN_HEADER, 0xDD, count)


def pack_set_up(reason: str) -> bytes:
    """A worker has called ``setup``, and goes with a reason if that failed."""
    return bytes((SET_UP,)) + reason.encode("utf-8", "replace")[: limits.REASON_MAX]


def pack_broken(reason: str) -> bytes:
    """A worker ends by an error that is not a job's."""
    return bytes((BROKEN,)) + reason.encode("utf-8", "replace")[: limits.REASON_MAX]


def unpack_set_up(packet: memoryview) -> str:
    """Why the worker's ``setup`` failed, or the worker itself; empty if neither did."""
    return bytes(packet[1:]).decode("utf-8", "replace")


def unpack_ran(packet: memoryview) -> tuple[int, int, int, list[Ended]]:
    """Flags, jobs executed of the record so far, record number, results.

    Raises:
        ValueError, msgspec.DecodeError, RecursionError: Not such a packet.
    """
    if len(packet) < RAN_HEADER:
        raise ValueError(f"{len(packet)} bytes are no packet of results")
    _, flags, executed, _, record = _RAN.unpack_from(packet)
    return flags, executed, record, ended_decoder.decode(packet[RAN_HEADER:])


class ProvisionalValue(Struct, array_like=True):
    """A provisional result, from the worker."""

    number: Number
    attempt: Number
    serial: Number
    payload: Annotated[bytes, Meta(max_length=limits.INLINE_MAX)]
    stream: Number = 0
    file: FilePart | None = None
    """It is a part of this file."""


class SentAcknowledged(Struct, array_like=True):
    """The client has the provisional value ``serial`` of this attempt (or never will).

    ``reason``: why it does not want this one.
    """

    number: Number
    attempt: Number
    serial: Number
    delivered: bool = True
    reason: Reason = ""


def object_name(number: int) -> str:
    """The file with an object that was put, in the directory of its computation."""
    return f"object-{number}"


_NAME_BITS = 40
"""Of the name of a result that count; a pid has 22, and 62 make a ``Number``."""


def result_name(pid: int, number: int) -> int:
    """The file with a result, there: it tells whose it is, should the worker die before it does."""
    return pid << _NAME_BITS | number


def kept_name(pid: int, number: int) -> str:
    """The file with arguments that a worker needs after the job."""
    return f"kept-{pid}-{number}"


def writer(name: str) -> int:
    """Pid of the worker whose file this is; 0 for files of the node and of clients."""
    if name.startswith("kept-"):
        return int(name.split("-")[1])
    return int(name) >> _NAME_BITS if name.isdecimal() else 0


LENGTH = struct.Struct(">I")
"""Prefix of a message on the control channel."""

CONTROL_MAX = 1 * limits.MIB

NONSENSE = (msgspec.DecodeError, ValueError, RecursionError)
"""What decoding raises when a job wrote to its worker's or host's channels."""

ended_decoder: msgspec.msgpack.Decoder[list[Ended]] = msgspec.msgpack.Decoder(list[Ended])
record_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)
provisional_decoder: msgspec.msgpack.Decoder[ProvisionalValue] = msgspec.msgpack.Decoder(ProvisionalValue)
acknowledged_decoder: msgspec.msgpack.Decoder[SentAcknowledged] = msgspec.msgpack.Decoder(SentAcknowledged)
to_host_decoder: msgspec.msgpack.Decoder[ToHost] = msgspec.msgpack.Decoder(ToHost)
from_host_decoder: msgspec.msgpack.Decoder[FromHost] = msgspec.msgpack.Decoder(FromHost)
