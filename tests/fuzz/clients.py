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
import random
import time
from typing import Any

import msgspec

from dispy import payload
from dispy.net.connection import Connection
from dispy.net.discovery import running_nodes
from dispy.protocol import limits, node
from dispy.protocol.files import FileEntry
from dispy.protocol.node import from_node_decoder
from dispy.protocol.streams import MemorySink
from dispy.security.secrets import choose
from dispy.security.tls import Tls, dialer_tls
from tests.integration.helpers import Place, Program, wait_for

from .campaign import TALKERS, Campaign, Outcome, load_codes
from .messages import BY_DIGEST, CONTENTS, Generator
from .nodes import FuzzNode
from .raw_talk import RawTalk

OF_ANOTHER = 0.1
"""Share of talks in the name of another talker's client: they replace each other's connections."""

NEW = 0.1
"""Share of talks by a client that never came before, and leaves for good afterwards."""

PATIENT = 0.4
"""Share of talks that first open a computation, and wait until its jobs run: most others are closed before."""

MUST_HEAR = ("ComputationReady", "JobsEnded", "NeedFiles", "ObjectStored", "JobsReturned")
"""What the node must have said after a while."""

MESSAGES_MAX = 120
"""Messages of a talk."""

LIVELY = (
    node.RunJobs,
    node.Compute,
    node.CancelJobs,
    node.PutObject,
    node.PlaceFiles,
    node.CloseComputation,
)
"""Messages that do most, said more often than others."""


class Talk(RawTalk):
    """One connection, from its dial to its end.

    Args:
        fuzzer: Whose.
        number: Of the talk.
    """

    def __init__(self, fuzzer: HostileClients, number: int) -> None:
        super().__init__(fuzzer.outcome, random.Random(f"{fuzzer.seed}/{number}"))
        self._fuzzer = fuzzer
        self._answers = random.Random(f"{fuzzer.seed}/{number}/answers")
        self._generator = Generator(self.chance, fuzzer.codes, fuzzer.calls)
        self._number = number
        self.identity = self._draw_identity()

    def _draw_identity(self) -> bytes:
        way = self.chance.random()
        if way < NEW:
            return self.chance.randbytes(16)
        index = self.chance.randrange(TALKERS) if way < NEW + OF_ANOTHER else self._number % TALKERS
        return self._fuzzer.known[index]

    def answer(self, connection: Connection, message: Any) -> None:
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
            stream, data = self.send_stream(data), b""
        connection.send(
            node.FileData(computation, [node.FilePiece(piece.digest, piece.offset, data, stream)])
        )

    # What is said.

    async def run(self) -> None:
        """Dial, say everything, leave in one of several ways."""
        if not await self.dial(self._fuzzer.connect):
            return
        connection, chance = self.connection, self.chance
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
            await self.wait_written()
        await self.leave(node.Detach(), is_known=self.identity in self._fuzzer.known)

    async def _run_jobs(self, connection: Connection) -> None:
        """Open a computation that can be loaded, and run some of its jobs to their end, whatever that is."""
        chance = self.chance
        compute = self._generator.make(node.Compute)
        compute.code, compute.computation, compute.stream = (
            chance.choice(self._fuzzer.codes),
            chance.randrange(1, 4),
            0,
        )
        compute.files = compute.files if chance.random() < 0.1 else []
        self.send(compute)
        await self.wait_heard("ComputationReady", "ComputationFailed")
        if chance.random() < 0.5:
            self.send(node.PutObject(compute.computation, chance.randrange(5), b"object"))
            self.send(node.PlaceFiles(compute.computation, self._number, [self._generator.make(FileEntry)]))
        jobs = [
            node.Job(100 * self._number + n + 1, 0, chance.choice(self._fuzzer.calls[:2]))
            for n in range(chance.randrange(1, 5))
        ]
        self.send(node.RunJobs(compute.computation, jobs, [jobs[0].number]))
        await self.wait_heard("JobsEnded", "JobsReturned", "ComputationFailed")

    def _say(self) -> None:
        chance = self.chance
        way = chance.random()
        if way < 0.03:
            self.play_with_streams()
            return
        message = self._generator.message(LIVELY) if way < 0.5 else self._generator.message()
        if isinstance(message, node.Detach | node.Attach) and chance.random() < 0.7:
            return
        if isinstance(message, node.Compute | node.PutObject) and chance.random() < 0.2:
            message.stream = self.send_stream(self._stream_content(message))
            if isinstance(message, node.Compute):
                message.code = b""
            else:
                message.payload, message.given = b"", 0
        if isinstance(message, node.RunJobs):
            for job in message.jobs:
                if chance.random() < 0.05:
                    job.payload = b""
                    job.where = node.Streamed(self.send_stream(chance.choice(self._fuzzer.calls)))
        self.write_message(message, is_damaged=way > 0.997)

    def _stream_content(self, message: msgspec.Struct) -> bytes:
        if isinstance(message, node.Compute):
            return self.chance.choice([*self._fuzzer.codes, b"", bytes(100_000)])
        return self.chance.choice(CONTENTS)


class HostileClients(Campaign):
    """All talks with a node.

    Args:
        place: Where everything runs.
        python: Interpreter that the account of the jobs can run.
        seed: Of all chance.
        user: Account of the jobs; empty: that of the node.
    """

    def __init__(self, place: Place, python: str, seed: int, user: str) -> None:
        self._node = FuzzNode(place, python, user)
        super().__init__(place, seed, [self._node], MUST_HEAR)
        self._secret = choose(secret_file=str(self._node.secret_file))
        self.known = [hashlib.sha256(f"{seed} {n}".encode()).digest()[:16] for n in range(TALKERS)]
        """Clients that come back, one of each talker."""
        self.codes = load_codes(place)
        self.calls = [bytes(payload.dump_call((n,), {})) for n in (0, 1)] + [b"\x80\x05N.", b"garbage"]
        self._listing: Any = None

    async def connect(self, talk: RawTalk) -> None:
        """Dial the node as its listing says."""
        listing = self._listing
        tls = dialer_tls(Tls(wanted=True)) if listing.tls else None
        await asyncio.get_running_loop().create_connection(
            lambda: Connection(
                talk, from_node_decoder, self._secret.keys, "client", "node", is_dialer=True, tls=tls,
                peer_name=listing.host, make_sink=MemorySink,
            ),
            listing.host,
            listing.port,
        )  # fmt: skip

    def run(self, seconds: float, inputs: int) -> Outcome:
        """Talk until the time is up, so many messages were said, or there is a fault."""
        self._node.start()
        (self._listing,) = running_nodes(self._secret.fingerprint())
        program = None
        try:
            program = self.start_program({"secret_file": str(self._node.secret_file)})
            asyncio.run(self.talk_until(program, time.monotonic() + seconds, inputs))
        finally:
            self._end(program)
        return self.outcome

    async def talk(self, number: int) -> None:
        made = Talk(self, number)
        await made.run()
        if made.identity not in self.known:
            # Its connection may have ended before it said so, and the node keeps what it has for an hour.
            await self._detach(made.identity)

    async def detach_all(self) -> None:
        for identity in self.known:
            await self._detach(identity)

    async def _detach(self, identity: bytes) -> None:
        talk = Talk(self, -1)
        if await talk.dial(self.connect):
            connection = talk.connection
            assert connection is not None
            connection.send(node.Attach(identity, "fuzz"))
            connection.send(node.Detach())
            await asyncio.sleep(0.01)
            if not talk.is_over:
                connection.close()

    def _end(self, program: Program | None) -> None:
        """The honest program ends, then the node: nothing is left."""
        if program is not None:
            self.end_program(program)
        for fault in self._node.stop():
            self.report(fault)
        try:
            wait_for(self._node.left, lambda left: not left, what="nothing is left behind")
        except AssertionError as error:
            self.report(str(error)[:3000])
        self.end()
