"""What becomes of honest messages on their way through a fuzzer.

Faults come on three levels, since each alone is soon refused by the one below it: in the *values* of a
message (MessagePack), in its *frame* (kind, stream, length), and in the *bytes* of the whole. Everything is drawn
from one random source, so a seed gives the same inputs again.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from dispy.protocol import frames, limits, node, worker
from dispy.protocol.handshake import MAGIC, Challenge, Hello, Proof, Refused

T = TypeVar("T")

encode = msgspec.msgpack.Encoder().encode

HEADER = struct.Struct(">B3sIQ")
"""The header of a frame, its padding included."""

KINDS = (*range(10), 0x7F, 0x80, 0xFF)
STREAMS = (0, 1, 2, 3, 255, 4096, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
LENGTHS = (
    *(0, 1, 7, 8, 9, 15, 16, 17, 255, 256),
    *(limit + by for limit in (limits.HANDSHAKE_FRAME_MAX, 1024, 1 << 16) for by in (-1, 0, 1)),
    *(
        limit + by
        for limit in (limits.CHUNK_MAX, limits.CONTROL_FRAME_MAX, limits.PAYLOAD_MAX)
        for by in (0, 1)
    ),
    *(
        value + by
        for value in (1 << 31, 1 << 32, 1 << 63, 1 << 64)
        for by in (-1, 0)
        if value + by < 1 << 64
    ),
)
"""Declared lengths of frames: around every limit of ours and of the machine's."""

_NUMBERS = (
    *(0, 1, -1, 4, 8, 11, 12, 32, 33, 42, 127, 128, 255, 256, 4096, 4097, 32767, 65535, 65536, 1_000_001),
    *(value + by for value in (1 << 31, 1 << 32, 1 << 62, 1 << 63) for by in (-1, 0, 1)),
    *((1 << 64) - 1, -(1 << 31), -(1 << 63), 0.0, -0.0, 1e308, float("nan"), float("inf"), float("-inf")),
)
_TEXTS = (
    "",
    "client",
    "node",
    "scheduler",
    MAGIC,
    "x" * 17,
    "x" * 513,
    "\0",
    "a\nb",
    "\x1b[2J",
    "\u202e",
    "\ufeff",
)
_BYTES = (b"", bytes(15), bytes(16), bytes(31), bytes(32), bytes(33), b"\xff" * 300, bytes(65), bytes(2000))

_INVALID_TEXTS = (
    b"\xff" * 5,
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\xf0\x9f\x98",
    b"\xf5\x80\x80\x80",
    b"cli\xe9t",
    b"\x80",
)
"""Not UTF-8: never used bytes, a surrogate, overlong, cut, beyond Unicode, Latin-1, a continuation alone."""

_LENGTH_FORMATS = (
    *((0xD9, ">B"), (0xDA, ">H"), (0xDB, ">I")),  # text
    *((0xC4, ">B"), (0xC5, ">H"), (0xC6, ">I")),  # bytes
    *((0xDC, ">H"), (0xDD, ">I")),  # arrays
    *((0xDE, ">H"), (0xDF, ">I")),  # maps
)
_EXTENSION_FORMATS = ((0xC7, ">Bb"), (0xC8, ">Hb"), (0xC9, ">Ib"))
_DECLARED = (0, 1, 255, (1 << 16) - 1, 1 << 16, 1 << 31, (1 << 32) - 1)
_BITS = {"B": 8, "H": 16, "I": 32}


def _declared_lengths() -> list[bytes]:
    """Values that say they are of any length, with nothing or little behind."""
    found = []
    for tag, form in _LENGTH_FORMATS:
        found += [bytes([tag]) + struct.pack(form, n) for n in _DECLARED if n < 1 << _BITS[form[1]]]
    for tag, form in _EXTENSION_FORMATS:
        for kind in (-128, -1, 0, 127):
            found += [
                bytes([tag]) + struct.pack(form, n, kind) for n in _DECLARED if n < 1 << _BITS[form[1]]
            ]
    return [*found, *(value + b"\x01\x02\x03\x04" for value in found)]


def _fixed_extensions() -> list[bytes]:
    """Extensions of fixed size, timestamps that there cannot be among them."""
    found = []
    for tag, size in ((0xD4, 1), (0xD5, 2), (0xD6, 4), (0xD7, 8), (0xD8, 16)):
        for kind in (b"\xff", b"\x00", b"\x7f", b"\x80"):
            found += [bytes([tag]) + kind + fill * size for fill in (b"\0", b"\xff")]
    return [*found, b"\xc7\x0c\xff" + b"\xff" * 12, b"\xc7\x0c\xff" + bytes(12)]


def _nested(depth: int) -> list[bytes]:
    """Arrays and maps in each other, closed and not."""
    return [
        b"\x91" * depth,
        b"\x91" * depth + b"\x01",
        b"\x81\xa1a" * (depth // 3) + b"\x01",
        b"\x81" * depth,
        b"\xdd\x00\x00\x00\x01" * (depth // 5) + b"\xc0",
        b"\xdd\xff\xff\xff\xff" * (depth // 5),
    ]


_OTHERS: tuple[object, ...] = (None, True, False, [], {}, [[]], {"a": 1}, [1] * 17)

ODD_VALUES: list[bytes] = [
    *(encode(value) for value in (*_NUMBERS, *_TEXTS, *_BYTES, *_OTHERS)),
    *(bytes([0xA0 | len(text)]) + text for text in _INVALID_TEXTS),
    *_declared_lengths(),
    *_fixed_extensions(),
    *(value for depth in (3, 40, 200, 460) for value in _nested(depth)),
    b"\xc1",  # never used in MessagePack
    b"\x81\x91\x01\x01",  # a key that cannot be hashed
    b"\x82\xa1a\x01\xa1a\x01",
]
"""What may stand where an honest value stood."""

HUGE_VALUES: list[bytes] = [value for depth in (5_000, 100_000) for value in _nested(depth)]
"""The same, too large for any frame before the proof; rare, since they take their time."""

OPENINGS: list[bytes] = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /api HTTP/1.1\r\nContent-Length: 4294967295\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    b"CONNECT example.org:443 HTTP/1.1\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2,
    b"\x15\x03\x03\x00\x02\x02\x28",
    b"PROXY TCP4 10.0.0.1 10.0.0.2 5000 51348\r\n",
    b"\x0d\x0a\x0d\x0a\x00\x0d\x0aQUIT\x0a\x21\x11\x00\x0c",
    b"*1\r\n$4\r\nPING\r\n",
    b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
    b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
    b"\x80\x05\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    b"cposix\nsystem\n(S'true'\ntR.",
    b"\x00" * 64,
    b"\xff" * 64,
    b"\r\n" * 20,
    b"0123456789abcdef" * 100,
]
"""How others begin, pickles among them."""


CLIENT_HELLO = bytes.fromhex(
    "16030100e9010000e50303d06e117a1ede5d777b3c235e8a5c159333a2fe4c97e0c370ba9b823993e40e6120901dbb7a"
    "8a54f44f84c3f683a360c40137ad439e976d7bbb151675a6f9beee49000813021303130100ff01000094000000090007"
    "0000046e6f6465000b000403000102000a00160014001d0017001e001900180100010101020103010400230000001600"
    "0000170000000d001e001c040305030603080708080809080a080b080408050806040105010601002b0003020304002d"
    "00020101003300260024001d00201a5a0b2af434872f41832804833bcb915a21dcfa1458aed3b6470b0671d3a275"
)
"""How a client of TLS 1.3 begins."""

SERVER_HELLO = bytes.fromhex(
    "160303007a020000760303362c1ca1cde5f3d42268382d1100dcd732eb03c49a7539f0be9d527cdab67df520901dbb7a"
    "8a54f44f84c3f683a360c40137ad439e976d7bbb151675a6f9beee49130200002e002b0002030400330024001d0020e7"
    "fc71cb2c4551a2f05495dd20ea52e979bd2985d70bd903bd2ddc87992dc3601403030001011703030017283943468c41"
    "cf737cbe7921934281cf37b04200b73236"
)
"""What a listener answered to it; of no use to any other client."""


@dataclass(frozen=True, slots=True)
class Message:
    """An honest message.

    Attributes:
        data: Encoded.
        spans: Where each value in it begins and ends, containers included.
    """

    data: bytes
    spans: list[tuple[int, int]] = field(repr=False)

    @classmethod
    def of(cls, value: Any) -> Message:
        """Of an object of the protocol."""
        data = encode(value)
        spans: list[tuple[int, int]] = []
        assert _walk(data, 0, spans) == len(data)
        return cls(data, spans)


def _walk(data: bytes, start: int, spans: list[tuple[int, int]]) -> int:
    """Note the span of the value at ``start`` and of all in it; returns its end."""
    tag = data[start]
    at = start + 1
    if tag <= 0x7F or tag >= 0xE0 or tag in (0xC0, 0xC2, 0xC3):
        pass
    elif 0xA0 <= tag <= 0xBF:
        at += tag & 0x1F
    elif tag in (0xC4, 0xD9):
        at += 1 + data[at]
    elif tag in (0xC5, 0xDA):
        at += 2 + int.from_bytes(data[at : at + 2])
    elif tag in (0xCA, 0xCB):
        at += 4 if tag == 0xCA else 8
    elif 0xCC <= tag <= 0xD3:
        at += 1 << ((tag - 0xCC) & 3)
    else:
        assert 0x80 <= tag <= 0x9F or tag == 0xDC, f"tag {tag:#x} in no honest message here"
        count = (tag & 0x0F) * (2 if tag <= 0x8F else 1)
        if tag == 0xDC:
            count = int.from_bytes(data[at : at + 2])
            at += 2
        for _ in range(count):
            at = _walk(data, at, spans)
    spans.append((start, at))
    return at


_ID = bytes(range(16))
_ATTEMPTS = [node.Attempt(7, 1), node.Attempt(1 << 40, 2)]
_ENDED = node.Ended(7, 1, node.FINISHED, 1e9, 1e9 + 1, b"\x80\x05N.", 0, "", b"out", b"err", 0, 0, True)

HELLO = Hello(MAGIC, [limits.VERSION], "client", bytes(32))
HANDSHAKE = [
    Message.of(m)
    for m in (
        HELLO,
        Hello(MAGIC, [limits.VERSION], "client", bytes(32), "user:x:serial=2:key=0123456789abcdef"),
        Challenge(1, bytes(32)),
        Challenge(limits.VERSION, bytes(32), ["node:x:key=0123456789abcdef"]),
        Proof(bytes(32)),
        Refused([1]),
        Refused([77], True),
    )
]
TO_NODE = [
    Message.of(message)
    for message in (
        node.Attach(_ID, "program (17)", 3),
        node.Reconcile([node.HeldJobs(1, _ATTEMPTS)], {1: 1, 2: 3}),
        node.Compute(1, "compute", b"\x80\x05N.", 0, False, 5.0, ""),
        node.Compute(1, "compute", b"", 5, True, 0.5, "sub"),
        node.RunJobs(1, [node.Job(7, 1, b"\x80\x05N."), node.Job(8, 1, b"", node.Streamed(3))]),
        node.CancelJobs(1, _ATTEMPTS),
        node.TakeBack(1, 4),
        node.CloseComputation(1),
        node.Acknowledge(9),
        node.AcknowledgeProvisional(1, 7, 1, 1),
        node.Detach(),
        node.ShareMemory(),
        node.RunJobs(1, [node.Job(7, 1, b"", node.Given(5))]),
        node.PutObject(1, 2, b"\x80\x05N.", 3, 4),
        node.DropObjects(1, [2, 3]),
        node.RunJobs(1, [node.Job(7, 1, b"", node.Segment(5))], [7]),
        node.WatchJobs(1, [7, 8]),
        node.AcknowledgePrinted(1),
        node.Recover([1, 2]),
        node.ListJobs(1, 2),
    )
]
FROM_NODE = [
    Message.of(message)
    for message in (
        node.Welcome(_ID, "there", 4, "Linux", True),
        node.Welcome(_ID, "there", 4, "Linux", True, 9, [3, 9], [_ID]),
        node.Held([node.HeldJobs(1, _ATTEMPTS)], [3, 9], [node.HeldJobs(2, _ATTEMPTS)]),
        node.ComputationReady(1),
        node.ComputationFailed(1, "SyntaxError"),
        node.Credit(1, 4, 100),
        node.JobsStarted(1, [node.Started(7, 1, 1e9)]),
        node.JobsEnded(
            1, 1, [_ENDED, node.Ended(8, 1, node.ABANDONED, 0.0, 0.0, b"", 3, "gone", segment=4)]
        ),
        node.JobsReturned(1, _ATTEMPTS, "why"),
        node.Provisional(1, 7, 1, 1, b"\x80\x05N.", 0),
        node.Provisional(1, 7, 1, 1, b"part", 0, 0, node.FilePart(1, "a/b", 4, 0o644, 5, 6, 0)),
        node.Reconciled([node.HeldJobs(1, _ATTEMPTS)], [1]),
        node.Leaving("stopped"),
        node.NodeCpus(2),
        node.ObjectStored(1, 2, "no room"),
        node.JobsListed(1, 2, _ATTEMPTS),
        node.Available(99.5, 1 << 33, 1 << 40, 100.0),
        node.JobsPrinted(1, [node.Printed(7, 1, True, 0, b"out", 0, b"err")]),
    )
]
ON_NODE: list[tuple[Callable[[bytes], Any], Message]] = [
    (decoder.decode, Message.of(message))
    for decoder, message in (
        (worker.ended_decoder, [_ENDED, _ENDED]),
        (worker.record_decoder, worker.Record(3, [node.Job(7, 1, b"\x80\x05N.")])),
        (worker.provisional_decoder, worker.ProvisionalValue(7, 1, 1, b"\x80\x05N.")),
        (worker.acknowledged_decoder, worker.SentAcknowledged(7, 1, 1)),
        (worker.to_host_decoder, worker.Load("f", "/c", "/w", "/s", "here", "127.0.0.1", False)),
        (worker.to_host_decoder, worker.Fork(1, 0)),
        (worker.to_host_decoder, worker.Interrupt(1)),
        (worker.to_host_decoder, worker.Kill(1)),
        (worker.to_host_decoder, worker.Unbuffer(1)),
        (worker.from_host_decoder, worker.Loaded("hm")),
        (worker.from_host_decoder, worker.LoadFailed("no")),
        (worker.from_host_decoder, worker.WorkerStarted(1, 4711)),
        (worker.from_host_decoder, worker.WorkerExited(1, -9)),
    )
]
"""What daemon, host and worker say to each other, with who reads it."""

EVERYTHING = [*HANDSHAKE, *TO_NODE, *FROM_NODE, *(message for _, message in ON_NODE)]


class Mutator:
    """Makes inputs.

    Args:
        source: Where all chance is from.
    """

    def __init__(self, source: random.Random) -> None:
        self.chance = source.random
        """Uniform in [0, 1)."""

    def below(self, limit: int) -> int:
        """A number below ``limit``, which is at least 1."""
        return int(self.chance() * limit)

    def pick(self, items: Sequence[T]) -> T:
        """One of them."""
        return items[int(self.chance() * len(items))]

    def body(self, message: Message) -> bytes:
        """A message with one of its values replaced, taken from another message, doubled or left out."""
        start, end = self.pick(message.spans)
        data = message.data
        way = self.chance()
        if way < 0.65:
            odd = self.pick(HUGE_VALUES) if way < 0.001 else self.pick(ODD_VALUES)
            return data[:start] + odd + data[end:]
        if way < 0.8:
            other = self.pick(EVERYTHING)
            first, last = self.pick(other.spans)
            return data[:start] + other.data[first:last] + data[end:]
        if way < 0.9:
            return data[:end] + data[start:end] * (1 + self.below(3)) + data[end:]
        return data[:start] + data[end:]

    def frame(self, body: bytes, kind: int = frames.CONTROL) -> bytes:
        """A body in its frame, whose header may be wrong."""
        way = self.chance()
        if way < 0.8:
            return HEADER.pack(kind, b"\0\0\0", 0, len(body)) + body
        length = len(body)
        stream = 0
        padding = b"\0\0\0"
        if way < 0.85:
            kind = self.pick(KINDS)
        elif way < 0.95:
            length = self.pick(LENGTHS)
        elif way < 0.97:
            stream = self.pick(STREAMS)
        elif way < 0.98:
            padding = b"\x80\0\xff"
        else:
            kind, stream, length = self.pick(KINDS), self.pick(STREAMS), self.pick(LENGTHS)
        return HEADER.pack(kind, padding, stream, length) + body

    def damage(self, data: bytes) -> bytes:
        """What a bad line does: bits flipped, bytes lost, doubled, moved or put in."""
        if not data:
            return b"\0"
        way = self.chance()
        at = self.below(len(data))
        if way < 0.4:
            changed = bytearray(data)
            changed[at] ^= 1 << self.below(8)
            if way < 0.1:
                changed[self.below(len(changed))] = self.below(256)
            return bytes(changed)
        if way < 0.6:
            return data[:at]
        end = at + 1 + self.below(16)
        if way < 0.7:
            return data[:at] + data[end:]
        if way < 0.8:
            return data[:end] + data[at:]
        if way < 0.9:
            return data[:at] + self.pick(ODD_VALUES) + data[at:]
        other = self.below(len(data))
        return data[:at] + data[other : other + 16] + data[end:]

    def blob(self, corpus: Sequence[Message]) -> bytes:
        """What a stranger may say without waiting for an answer: some frames, or another protocol."""
        way = self.chance()
        if way < 0.1:
            data = self.pick(OPENINGS)
        else:
            data = self.frame(self.body(self.pick(corpus)))
            while self.chance() < 0.25:
                data += self.frame(self.body(self.pick(corpus)))
        return self.damage(data) if self.chance() < 0.4 else data

    def step(self, size: int) -> int:
        """How many bytes of so many come at once: mostly all, sometimes a few, rarely single ones."""
        way = self.chance()
        if way < 0.8:
            return size
        if way < 0.99 or size > 200:
            return 1 + size // 8 + self.below(size)
        return 1

    def tls(self, record: bytes) -> bytes:
        """The beginning of TLS with a fault in it, or in pieces that are too small or too large."""
        way = self.chance()
        if way < 0.4:
            return self.damage(record)
        at = self.below(len(record) - 3)
        if way < 0.6:
            # Somewhere there is a length.
            return (
                record[:at] + self.pick((b"\0\0", b"\xff\xff", b"\x3f\xff", b"\x40\x01")) + record[at + 2 :]
            )
        if way < 0.7:
            return record[:5] + self.damage(record[5:])
        if way < 0.8:
            head, step = record[:3], 1 + self.below(8)
            parts = [record[5 + n : 5 + n + step] for n in range(0, len(record) - 5, step)]
            return b"".join(head + len(part).to_bytes(2, "big") + part for part in parts)
        if way < 0.9:
            return record + self.pick(
                (b"\x14\x03\x03\0\x01\x01", b"\x15\x03\x03\0\x02\x01\0", b"\x17\x03\x03\0\0")
            ) * (1 + self.below(100))
        # A handshake message that is never complete, in full records.
        start = b"\x16\x03\x03\x40\0"
        return (start + b"\x01\xff\xff\xff" + bytes(16380)) + (start + bytes(16384)) * self.below(10)
