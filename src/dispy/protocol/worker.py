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

import re
import struct
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from dispy.protocol import limits
from dispy.protocol.node import Ended, FilePart, Job, Name, Number, Reason

# A slot: eight 64-bit words, then the arena. These are the words' indices.
SLOT_CLAIM = 0
"""Index of the slot's word with the position of the job that the worker runs, or ran last: ``claim(record, index)``.
Written by the worker before each job; the daemon reads it to know which job is running."""
SLOT_LIMIT = 1
"""Index of the slot's word with the position of the first job of a record that the worker must not start: the worker
ends the record there, and the daemon places the other jobs anew. Written by the daemon; a position of another record
has no effect."""
SLOT_INTERRUPT = 2
"""Index of the slot's word with the position of the only job that SIGINT is meant for: at any other position the
worker ignores the signal. Written by the daemon, set to 0 by the worker when it raises KeyboardInterrupt in that
job."""
SLOT_COMMITTED = 3
"""Index of the slot's word with the end of the results in the arena that no packet has carried yet (bytes from the
arena's start). Written by the worker after each job, so that the daemon can read these results if the worker dies."""
SLOT_COUNT = 4
"""Index of the slot's word with the number of results in the arena that no packet has carried yet. Written by the
worker before ``SLOT_COMMITTED``: a reader that sees the new end sees the new count."""
SLOT_START = 5
"""Index of the slot's word with the start of the current job (seconds since the epoch, as a double). Written by the
worker; the daemon reports it to the client (``Started``)."""
SLOT_DROPS = 6
"""Index of the slot's word with the number of times that shared objects were dropped. Written by the daemon; when it
has changed, the worker lets go of objects whose files are gone, before its next record."""
SLOT_UNBUFFER = 7
"""Index of the slot's word with the position of the only job that SIGURG is meant for: from then to the end of its
record the worker does not buffer output, as a client watches it. Written by the daemon; at any other position the
signal is ignored."""
SLOT_WORDS = 8
SLOT_HEADER = SLOT_WORDS * 8  # bytes of the words; the arena begins behind them
ARENA_SIZE = 256 * limits.KIB
ARENA_FLUSH = 96 * limits.KIB
"""Bytes of results in the arena above which the worker sends them to the daemon at once, as one packet. Low enough
that a result of any size still fits into the arena behind this number of bytes."""
SLOT_SIZE = SLOT_HEADER + ARENA_SIZE
"""Bytes of a slot: its words and its arena."""

PACKET_MAX = ARENA_SIZE + 4 * limits.KIB
"""Bytes of the largest packet on the jobs and replies channels: the size of its reader's buffer. The kernel would cut
off the rest of a longer one."""
RECORD_BYTES_MAX = 96 * limits.KIB
"""Bytes of arguments in one record of several jobs; the next job goes into another record. More than the largest job
(``INLINE_MAX``), which is a record by itself if need be."""
RECORD_JOBS_MAX = 256
"""Most jobs in one record; further jobs go into another record."""

_INDEX_BITS = 16  # of a position, for the index of a job in its record; the record's number is above them


def claim(record: int, index: int) -> int:
    """Returns the position of job ``index`` (from 0) of a record, as one number.

    Positions grow over the life of a worker, as its records are numbered upward.
    """
    return (record << _INDEX_BITS) | index


def split_claim(value: int) -> tuple[int, int]:
    """Returns record number and index of a position: the inverse of ``claim``."""
    return value >> _INDEX_BITS, value & ((1 << _INDEX_BITS) - 1)


class Record(Struct, array_like=True):
    """Jobs that one worker runs one after another, in this order. An empty record only wakes the worker, so that it
    looks at its slot.

    ``record`` is the record's number, unique on its worker. ``live`` is True if a client wants the output of some of
    these jobs while they run: Python must not buffer it.
    """

    record: Number
    jobs: Annotated[list[Job], Meta(max_length=RECORD_JOBS_MAX)]
    live: bool = False


# Daemon to host.


class Load(Struct, array_like=True, tag=1):
    """The computation that this host is for: the first message, sent once.

    ``code_path`` is a file with the pickled code, ``work_path`` the working directory, ``segment_path`` the directory
    for large payloads. ``name`` is the computation's. ``node_name`` and ``node_ip_addr`` are told to jobs.
    ``isolate`` True: each job runs in a process of its own, forked by the worker. ``output_max``: bytes kept of
    stdout, and as many of stderr, of each job; the middle of more is cut.
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
    """Directory of free segments: files whose memory is used again for results, as making new memory costs more;
    empty: there is none."""
    message_timeout_s: float = 10.0
    """Seconds that a job which sends a value or a file waits for the acknowledgement, unless the call says
    otherwise. The call then fails."""
    setup_per_worker: bool = False
    """True if ``setup`` is called in each worker, after its fork; False: once, in the host, before workers are
    forked."""
    setup_timeout_s: float = 0.0
    """Seconds that ``setup`` may take; after that it counts as failed. 0: no limit."""
    file_max: Number = 0
    """Bytes of the largest file that jobs may send to their program; sending a larger one fails in the job. 0: no
    limit."""
    disk_path: str = ""
    """Directory for segments that do not fit into ``segment_path``, which is memory; equal to ``segment_path`` if
    that is on disk already."""


class Fork(Struct, array_like=True, tag=2):
    """Start a worker; ``WorkerStarted`` answers, or ``WorkerExited`` with a reason.

    ``worker`` is its number, by which all later messages name it. ``slot`` is the index of its slot in the shared
    memory. Four descriptors come with the message: the worker's jobs and replies sockets, and the memory files that
    become its stdout and stderr.
    """

    worker: Number
    slot: Number


class Interrupt(Struct, array_like=True, tag=3):
    """Send SIGINT to a worker: a job was cancelled. ``SLOT_INTERRUPT`` in its slot has that job's position."""

    worker: Number


class Kill(Struct, array_like=True, tag=4):
    """Kill a worker, and all processes that it started. ``WorkerExited`` follows."""

    worker: Number


class Unbuffer(Struct, array_like=True, tag=5):
    """Send SIGURG to a worker: a client watches a running job. ``SLOT_UNBUFFER`` in its slot has that job's
    position."""

    worker: Number


# Host to daemon.


class Loaded(Struct, array_like=True, tag=32):
    """The computation is loaded, and workers can be forked. ``warning`` is a text for the client about code that may
    fail here, or about what ``setup`` left running; empty if there is none."""

    warning: Reason = ""


class LoadFailed(Struct, array_like=True, tag=33):
    """The computation cannot be loaded on this node, or its ``setup`` failed; ``reason`` says why. The daemon reports
    the computation as failed."""

    reason: Reason


class WorkerStarted(Struct, array_like=True, tag=34):
    """A worker process exists: answer to ``Fork``. ``pid`` is its process id."""

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
    """``setup`` begins now, in the host. The daemon ends the host if ``setup`` takes longer than
    ``Load.setup_timeout_s``. Sent only if there is such a limit."""


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
"""Bytes at the start of the arena that ``pack_ran`` fills in when a packet goes out; results begin behind them."""

LAST_OF_RECORD = 1
"""Flag of a packet of results: the worker is done with the record, and wants the next one."""
RETIRING = 2
"""Flag of a packet of results: the worker exits now, as its last job left threads or processes behind."""


def pack_ran(
    buffer: bytearray | memoryview, offset: int, flags: int, executed: int, record: int, count: int
) -> None:
    """Write the head of a packet of ``count`` results, which stand behind it, each encoded by itself.

    Head and results together are a msgpack array. So results are encoded once, in place, when they are made, and the
    packet is decoded in one call.

    Args:
        buffer: Memory of the packet.
        offset: Position (bytes) in ``buffer`` that the head is written to; the results begin ``ARENA_HEAD`` behind.
        flags: ``LAST_OF_RECORD`` if the record is done, ``RETIRING`` if the worker exits now.
        executed: Number of the record's jobs that have been run so far.
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
    """Returns the last packet of a worker that exits by an error outside of a job; the node reports ``reason``."""
    return bytes((BROKEN,)) + reason.encode("utf-8", "replace")[: limits.REASON_MAX]


def unpack_set_up(packet: memoryview) -> str:
    """Returns the reason in a packet of ``pack_set_up`` or ``pack_broken``; empty if nothing failed."""
    return bytes(packet[1:]).decode("utf-8", "replace")


def unpack_ran(packet: memoryview) -> tuple[int, int, int, list[Ended]]:
    """Returns flags, number of jobs run of the record so far, record number, and results of a packet.

    Raises:
        ValueError, msgspec.DecodeError, RecursionError: The packet is not one of results (see ``NONSENSE``): a job
            wrote to the channel of its worker, which is ended then.
    """
    if len(packet) < RAN_HEADER:
        raise ValueError(f"{len(packet)} bytes are no packet of results")
    _, flags, executed, _, record = _RAN.unpack_from(packet)
    return flags, executed, record, ended_decoder.decode(packet[RAN_HEADER:])


class ProvisionalValue(Struct, array_like=True):
    """A provisional result of a running job, or one part of a file that it sends; answered by ``SentAcknowledged``.

    ``number`` and ``attempt`` name the job. ``serial`` counts what the attempt sends, from 1. ``payload`` is the
    pickled value or the part's bytes; if they are large, it is empty and ``stream`` is the number of a segment.
    """

    number: Number
    attempt: Number
    serial: Number
    payload: Annotated[bytes, Meta(max_length=limits.INLINE_MAX)]
    stream: Number = 0
    file: FilePart | None = None
    """Which file and position the payload belongs to; None for a provisional result."""


class SentAcknowledged(Struct, array_like=True):
    """The answer to the ``ProvisionalValue`` with this ``serial``: the client has it, or (``delivered`` False) will
    not get it. The job that waits for it goes on.

    ``reason`` says why the client refuses it; empty if it does not, or the connection broke.
    """

    number: Number
    attempt: Number
    serial: Number
    delivered: bool = True
    reason: Reason = ""


def object_name(number: int) -> str:
    """Returns the name of the file with shared object ``number``, in the segment directory of its computation.

    Workers that need the object map this file. When it is gone, the object was dropped.
    """
    return f"object-{number}"


_NAME_BITS = 40
"""Bits of a result's number in its file's name; the worker's pid is above them. A pid takes 22 bits; together they
are the 62 bits of a ``Number``."""


_KEPT = re.compile(r"kept-([0-9]+)-[0-9]+")
"""Form of the name that ``kept_name`` makes: the pid, and the number of the file."""


def result_name(pid: int, number: int) -> int:
    """Returns the name of the file (a decimal number) with a large result: ``number`` counts the worker's files.

    The name holds the worker's pid, so that the node can remove the file if the worker dies before it has reported
    it.
    """
    return pid << _NAME_BITS | number


def kept_name(pid: int, number: int) -> str:
    """Returns the new name of a file with arguments that something in the worker still refers to after the job.

    A client's file is renamed, not removed: the link that stays tells the client not to use the file again. The node
    removes it when the process with this pid is dead. ``number`` counts the worker's files.
    """
    return f"kept-{pid}-{number}"


def writer(name: str) -> int:
    """Returns the pid of the worker that wrote or kept a segment, by the file's name; 0 for files of the node and of
    clients, and for any name that jobs have made up. The node removes files whose worker is dead."""
    kept = _KEPT.fullmatch(name)
    if kept is not None:
        return int(kept[1])
    return int(name) >> _NAME_BITS if name.isdecimal() else 0


LENGTH = struct.Struct(">I")
"""Form of the length of a message on the control channel, in front of it: 4 bytes, big endian; value in bytes."""

CONTROL_MAX = 1 * limits.MIB
"""Bytes of the largest message on the control channel. The daemon ends a host that announces a larger one: a job has
written to the channel."""

NONSENSE = (msgspec.DecodeError, ValueError, RecursionError)
"""Errors that decoding raises if a job has written to the channels of its worker or host. The daemon then ends that
worker or host."""

ended_decoder: msgspec.msgpack.Decoder[list[Ended]] = msgspec.msgpack.Decoder(list[Ended])
record_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)
provisional_decoder: msgspec.msgpack.Decoder[ProvisionalValue] = msgspec.msgpack.Decoder(ProvisionalValue)
acknowledged_decoder: msgspec.msgpack.Decoder[SentAcknowledged] = msgspec.msgpack.Decoder(SentAcknowledged)
to_host_decoder: msgspec.msgpack.Decoder[ToHost] = msgspec.msgpack.Decoder(ToHost)
from_host_decoder: msgspec.msgpack.Decoder[FromHost] = msgspec.msgpack.Decoder(FromHost)
