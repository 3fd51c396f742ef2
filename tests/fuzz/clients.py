"""An authenticated client that says anything the types allow, to a real node, while honest jobs run there.

What is said comes in *talks*: one connection each, with a random source of its own, so that a talk depends on the
seed and its number alone (answers to what the node asks have another source). Most talks are of a few identities,
which come back, are replaced by themselves, and open, close and reopen the same computations.

All the time: the node lives, its log has no fault, its memory and descriptors are bounded, and an honest program's
jobs go on and give right results. At the end nothing is left.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from dispy import payload
from dispy.net.connection import Connection
from dispy.net.discovery import running_nodes
from dispy.protocol import frames, limits, node
from dispy.protocol.files import FileEntry
from dispy.protocol.node import from_node_decoder
from dispy.protocol.streams import MemorySink
from dispy.security.secrets import choose
from dispy.security.tls import Tls, dialer_tls
from tests.integration.helpers import Place, Program, wait_for

from .messages import BY_DIGEST, CONTENTS, Generator
from .nodes import FuzzNode

TALKERS = 8
"""Connections at once, beside those of a talk that are replaced."""

OF_ANOTHER = 0.1
"""Share of talks in the name of another talker's client: they replace each other's connections."""

NEW = 0.1
"""Share of talks by a client that never came before, and leaves for good afterwards."""

PATIENT = 0.4
"""Share of talks that first open a computation, and wait until its jobs run: most others are closed before."""

PATIENCE_S = 5.0
"""How long such a talk waits for each of both."""

MUST_HEAR = ("ComputationReady", "JobsEnded", "NeedFiles", "ObjectStored", "JobsReturned")
"""What the node must have said after a while: else nothing that was said got as far as it should."""

MUST_HEAR_S = 15.0
"""After this time."""

MESSAGES_MAX = 120
"""Messages of a talk."""

STALL_S = 30.0
"""The honest program's jobs have to go on within this time: on a busy machine hosts take seconds to start."""

PROGRAM = Path(__file__).with_name("steady_program.py")
"""The honest program."""

JOBS = Path(__file__).with_name("client_jobs.py")
"""Computations of the hostile clients."""

_encode = msgspec.msgpack.Encoder().encode

LIVELY = (
    node.RunJobs,
    node.Compute,
    node.CancelJobs,
    node.PutObject,
    node.PlaceFiles,
    node.CloseComputation,
)
"""Messages that do most, said more often than others."""


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    seconds: float = 0.0
    messages: int = 0
    talks: int = 0
    honest: int = 0
    by_type: Counter[str] = field(default_factory=Counter)
    heard: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    rss_max_kb: int = 0
    descriptors_max: int = 0

    def __str__(self) -> str:
        return (
            f"{self.messages:,} inputs in {self.talks:,} talks, {self.seconds:.1f} s "
            f"({self.messages / max(self.seconds, 1e-9):,.0f}/s), {self.honest:,} honest jobs beside, RSS of "
            f"the node at most {self.rss_max_kb:,} kB, {self.descriptors_max} descriptors, "
            f"{len(self.faults)} faults\n"
            f"  said: {dict(self.by_type.most_common())}\n  heard: {dict(self.heard.most_common())}"
        )


def _codes(place: Place) -> list[bytes]:
    """Pickled computations, made by a script of its own: a fuzzer's modules would go to nodes with its functions."""
    done = subprocess.run(
        [sys.executable, JOBS],
        env=place.environment,
        cwd=place.root,
        capture_output=True,
        text=True,
        check=True,
    )
    codes = [bytes.fromhex(line) for line in done.stdout.split()]
    assert codes
    assert max(map(len, codes)) < limits.INLINE_MAX, "they would have to be streams"
    return codes


class Talk:
    """One connection, from its dial to its end.

    Args:
        fuzzer: Whose.
        number: Of the talk.
    """

    def __init__(self, fuzzer: HostileClients, number: int) -> None:
        self._fuzzer = fuzzer
        self._chance = random.Random(f"{fuzzer.seed}/{number}")
        self._answers = random.Random(f"{fuzzer.seed}/{number}/answers")
        self._generator = Generator(self._chance, fuzzer.codes, fuzzer.calls)
        self._ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._streams = 1
        self._number = number
        self._heard: Counter[str] = Counter()
        self.is_over = False
        self.connection: Connection | None = None
        self.identity = self._draw_identity()

    def _draw_identity(self) -> bytes:
        way = self._chance.random()
        if way < NEW:
            return self._chance.randbytes(16)
        index = self._chance.randrange(TALKERS) if way < NEW + OF_ANOTHER else self._number % TALKERS
        return self._fuzzer.known[index]

    # Called by the connection.

    def on_ready(self, connection: Connection) -> None:
        self.connection = connection
        if not self._ready.done():
            self._ready.set_result(True)

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        self.is_over = True
        if not self._ready.done():
            self._ready.set_result(False)

    def on_message(self, connection: Connection, message: Any) -> None:
        """Answer some of what the node asks, honestly or not."""
        self._fuzzer.outcome.heard[type(message).__name__] += 1
        self._heard[type(message).__name__] += 1
        chance = self._answers.random()
        if isinstance(message, node.NeedFiles):
            for piece in message.pieces:
                self._answer_piece(message.computation, piece)
        elif isinstance(message, node.JobsEnded) and chance < 0.7:
            connection.send(node.Acknowledge(message.batch))
        elif isinstance(message, node.Provisional) and chance < 0.7:
            words = (message.computation, message.number, message.attempt, message.serial)
            connection.send(node.AcknowledgeProvisional(*words, self._answers.random() < 0.7))
        elif isinstance(message, node.JobsPrinted) and chance < 0.7:
            connection.send(node.AcknowledgePrinted(message.computation))

    def _answer_piece(self, computation: int, piece: node.Piece) -> None:
        connection, chance = self.connection, self._answers.random()
        if connection is None or self.is_over or chance < 0.1:
            return
        content = BY_DIGEST.get(piece.digest)
        if content is None or chance < 0.15:
            connection.send(node.FileUnreadable(computation, piece.digest, "gone"))
            return
        data = content[piece.offset : piece.offset + piece.size]
        if chance < 0.25:
            data = bytes([data[0] ^ 1]) + data[1:] if data else b"x"
        stream = 0
        if len(data) >= limits.INLINE_MAX:
            stream, data = self._send_stream(data), b""
        connection.send(
            node.FileData(computation, [node.FilePiece(piece.digest, piece.offset, data, stream)])
        )

    # What is said.

    async def run(self) -> None:
        """Dial, say everything, leave in one of several ways."""
        if not await self.dial():
            return
        connection, chance = self.connection, self._chance
        assert connection is not None
        if chance.random() < 0.97:
            # After the largest number a client's results have none that it can read: not those that come back.
            received = 1 << 62 if self.identity not in self._fuzzer.known else chance.choice([0, 0, 1, 100])
            connection.send(node.Attach(self.identity, "fuzz", received, "x@y"))
        if chance.random() < PATIENT:
            await self._run_jobs(connection)
        for _ in range(chance.randrange(1, MESSAGES_MAX)):
            if self.is_over:
                break
            self._say()
            if chance.random() < 0.2:
                await asyncio.sleep(chance.choice([0, 0, 0.001, 0.02]))
            while connection._sender._is_paused and not self.is_over:
                await asyncio.sleep(0.001)
        await self._leave(connection)

    async def _run_jobs(self, connection: Connection) -> None:
        """Open a computation that can be loaded, and run some of its jobs to their end, whatever that is."""
        chance = self._chance
        compute = self._generator.make(node.Compute)
        compute.code, compute.computation, compute.stream = (
            chance.choice(self._fuzzer.codes),
            chance.randrange(1, 4),
            0,
        )
        compute.files = compute.files if chance.random() < 0.1 else []
        self._send(compute)
        await self._wait_heard("ComputationReady", "ComputationFailed")
        if chance.random() < 0.5:
            self._send(node.PutObject(compute.computation, chance.randrange(5), b"object"))
            self._send(
                node.PlaceFiles(compute.computation, self._number, [self._generator.make(FileEntry)])
            )
        jobs = [
            node.Job(100 * self._number + n + 1, 0, chance.choice(self._fuzzer.calls[:2]))
            for n in range(chance.randrange(1, 5))
        ]
        self._send(node.RunJobs(compute.computation, jobs, [jobs[0].number]))
        await self._wait_heard("JobsEnded", "JobsReturned", "ComputationFailed")

    async def _wait_heard(self, *names: str) -> None:
        until = time.monotonic() + PATIENCE_S
        while not (self.is_over or any(self._heard[name] for name in names) or time.monotonic() > until):
            await asyncio.sleep(0.005)

    def _send(self, message: msgspec.Struct) -> None:
        if self.connection is not None and not self.is_over:
            self.connection.send(message)
            self._fuzzer.outcome.messages += 1
            self._fuzzer.outcome.by_type[type(message).__name__] += 1

    async def dial(self) -> bool:
        """Connect; returns whether both sides have proved themselves."""
        with suppress(OSError):
            await self._fuzzer.dial(self)
            with suppress(TimeoutError):
                async with asyncio.timeout(20):
                    return await self._ready
        return False

    def _say(self) -> None:
        connection, chance = self.connection, self._chance
        assert connection is not None
        way = chance.random()
        if way < 0.03:
            self._play_with_streams()
            return
        message = self._generator.message(LIVELY) if way < 0.5 else self._generator.message()
        if isinstance(message, node.Detach | node.Attach) and chance.random() < 0.7:
            return
        if isinstance(message, node.Compute | node.PutObject) and chance.random() < 0.2:
            message.stream = self._send_stream(self._stream_content(message))
            if isinstance(message, node.Compute):
                message.code = b""
            else:
                message.payload, message.given = b"", 0
        if isinstance(message, node.RunJobs):
            for job in message.jobs:
                if chance.random() < 0.05:
                    job.payload = b""
                    job.where = node.Streamed(self._send_stream(chance.choice(self._fuzzer.calls)))
        body = _encode(message)
        if len(body) > limits.CONTROL_FRAME_MAX:
            return
        if way > 0.997:
            body = body[: chance.randrange(len(body))] + chance.randbytes(3)
        self._write(frames.header(frames.CONTROL, len(body)), body)
        self._fuzzer.outcome.messages += 1
        self._fuzzer.outcome.by_type[type(message).__name__] += 1

    def _write(self, *parts: bytes) -> None:
        """Write frames as they are, past all that the machine allows."""
        assert self.connection is not None
        self.connection.machine._out.extend(parts)
        self.connection.flush()

    def _stream_content(self, message: msgspec.Struct) -> bytes:
        if isinstance(message, node.Compute):
            return self._chance.choice([*self._fuzzer.codes, b"", bytes(100_000)])
        return self._chance.choice(CONTENTS)

    def _send_stream(self, data: bytes) -> int:
        """Send a whole stream; returns its number."""
        connection = self.connection
        assert connection is not None
        number, self._streams = self._streams, self._streams + 1
        self._write(frames.open_frame(number, len(data)))
        for start in range(0, len(data), limits.CHUNK_MAX):
            part = data[start : start + limits.CHUNK_MAX]
            self._write(frames.header(frames.CHUNK, len(part), number) + part)
        self._fuzzer.outcome.by_type["stream"] += 1
        return number

    def _play_with_streams(self) -> None:
        """Streams that are opened and aborted, announced and not sent, or used by nobody."""
        connection, chance = self.connection, self._chance
        assert connection is not None
        number, self._streams = self._streams, self._streams + 1
        size = chance.choice([0, 1, 1000, 100_000, limits.PAYLOAD_MAX])
        self._write(frames.open_frame(number, size))
        if size and chance.random() < 0.6:
            part = bytes(min(size, chance.choice([1, 100, 50_000])))
            self._write(frames.header(frames.CHUNK, len(part), number) + part)
        way = chance.random()
        if way < 0.6:
            self._write(frames.header(frames.ABORT, 0, number))
        elif way < 0.62:
            self._write(frames.header(frames.CHUNK, 5, number + 7) + b"wrong")
        elif way < 0.8:
            self._write(
                frames.grant_frame(number, chance.choice([0, 1, 1 << 63]), chance.choice([0, 1 << 63]))
            )
        self._fuzzer.outcome.messages += 1
        self._fuzzer.outcome.by_type["streams opened and aborted"] += 1

    async def _leave(self, connection: Connection) -> None:
        """Say goodbye, or not; close in order, or break off. New identities say goodbye, or they would pile up."""
        way = self._chance.random()
        is_known = self.identity in self._fuzzer.known
        if not is_known or way < 0.2:
            connection.send(node.Detach())
        await asyncio.sleep(0)
        if self.is_over:
            return
        if way > 0.8 and is_known:
            connection.abort(OSError("enough"))
        else:
            connection.close()
        for _ in range(2000):
            if self.is_over:
                return
            await asyncio.sleep(0.001)
        connection.abort(OSError("enough"))


class HostileClients:
    """All talks.

    Args:
        place: Where everything runs.
        python: Interpreter that the account of the jobs can run.
        seed: Of all chance.
        user: Account of the jobs; empty: that of the node.
    """

    def __init__(self, place: Place, python: str, seed: int, user: str) -> None:
        self._place = place
        self.seed = seed
        self.outcome = Outcome()
        self._node = FuzzNode(place, python, user)
        self._secret = choose(secret_file=str(self._node.secret_file))
        self.known = [hashlib.sha256(f"{seed} {n}".encode()).digest()[:16] for n in range(TALKERS)]
        """Clients that come back, one of each talker."""
        self.codes = _codes(place)
        self.calls = [bytes(payload.dump_call((n,), {})) for n in (0, 1)] + [b"\x80\x05N.", b"garbage"]
        self._listing: Any = None
        self._begun = 0.0

    async def dial(self, talk: Talk) -> None:
        """Dial the node as its listing says."""
        listing = self._listing
        tls = dialer_tls(Tls(wanted=True)) if listing.tls else None
        await asyncio.get_running_loop().create_connection(
            lambda: Connection(
                talk, from_node_decoder, self._secret.key, "client", "node", is_dialer=True, tls=tls,
                peer_name=listing.host, make_sink=MemorySink,
            ),
            listing.host,
            listing.port,
        )  # fmt: skip

    def run(self, seconds: float, inputs: int) -> Outcome:
        """Talk until the time is up, so many messages were said, or there is a fault."""
        outcome = self.outcome
        self._begun = time.monotonic()
        self._node.start()
        (self._listing,) = running_nodes(self._secret.fingerprint())
        settings = {"secret_file": str(self._node.secret_file)}
        program = Program(
            [sys.executable, str(PROGRAM), json.dumps(settings)], self._place, cwd=self._place.root
        )
        try:
            program.wait_line("^1 ", deadline_s=STALL_S)
            asyncio.run(self._talk(program, time.monotonic() + seconds, inputs))
        finally:
            self._end(program)
            outcome.seconds = time.monotonic() - self._begun
            outcome.rss_max_kb, outcome.descriptors_max = self._node.rss_max_kb, self._node.descriptors_max
        return outcome

    def _break(self, what: str) -> None:
        if what[:200] not in {fault[:200] for fault in self.outcome.faults}:
            self.outcome.faults.append(what)

    async def _talk(self, program: Program, until: float, inputs: int) -> None:
        def is_over() -> bool:
            enough = self.outcome.messages >= inputs or time.monotonic() > until
            return enough or bool(self.outcome.faults)

        async def talk(number: int) -> None:
            while not is_over():
                made = Talk(self, number)
                await made.run()
                if made.identity not in self.known:
                    # Its connection may have ended before it said so, and the node keeps what it has for an hour.
                    await self._detach(made.identity)
                self.outcome.talks += 1
                number += TALKERS

        watch = asyncio.create_task(self._watch(program, is_over))
        await asyncio.gather(*[talk(number) for number in range(TALKERS)])
        await watch
        if not self.outcome.faults:
            await self._detach_all()
            unheard = [name for name in MUST_HEAR if not self.outcome.heard[name]]
            if unheard and time.monotonic() - self._begun > MUST_HEAR_S:
                self._break(f"the node has never said {unheard}: this fuzzer does not reach it")

    async def _watch(self, program: Program, is_over: Any) -> None:
        """Look all the time at what must be true."""
        counted, since = 0, time.monotonic()
        while not is_over():
            for fault in self._node.faults():
                self._break(fault)
            text = program.stdout
            if len(text) != counted:
                if "WRONG" in text[counted:]:
                    self._break(f"the honest program: {text[text.index('WRONG') :][:3000]}")
                counted, since = len(text), time.monotonic()
            if program.process.poll() is not None:
                self._break(f"the honest program has ended: {program.stderr[-3000:]}")
            if time.monotonic() - since > STALL_S:
                self._break(
                    f"no honest job has ended for {STALL_S:g} s; the node says {self._node.node.stderr[-2000:]}"
                )
            await asyncio.sleep(0.2)

    async def _detach_all(self) -> None:
        """All identities leave for good."""
        for identity in self.known:
            await self._detach(identity)

    async def _detach(self, identity: bytes) -> None:
        talk = Talk(self, -1)
        if await talk.dial():
            connection = talk.connection
            assert connection is not None
            connection.send(node.Attach(identity, "fuzz"))
            connection.send(node.Detach())
            await asyncio.sleep(0.01)
            if not talk.is_over:
                connection.close()

    def _end(self, program: Program) -> None:
        """The honest program ends, then the node: nothing is left."""
        lines = program.stdout.splitlines()
        self.outcome.honest = sum(int(line.split()[1]) for line in lines if line[:1].isdigit())
        program.process.terminate()
        with suppress(AssertionError):
            program.wait(10)
        program.end()
        for fault in self._node.stop():
            self._break(fault)
        try:
            wait_for(self._node.left, lambda left: not left, what="nothing is left behind")
        except AssertionError as error:
            self._break(str(error)[:3000])
