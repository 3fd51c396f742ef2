"""An authenticated program that says anything the types allow, to a real shared scheduler, beside an honest program.

What is said comes in *talks*, as those of a node's clients (``clients``). Most are of a few identities, which come
back, are replaced by themselves, leave for good, are thrown out, and open, close and reopen the same clusters.

All the time: scheduler and node live, their logs have no fault, memory and descriptors are bounded, and the honest
program's jobs go on and give right results. At the end the scheduler has no program, and the node no computation;
both end in order, and nothing is left.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dispy import payload
from dispy.net.connection import Connection
from dispy.protocol import node, shared
from dispy.protocol.files import FileEntry
from dispy.protocol.shared import from_scheduler_decoder
from dispy.protocol.streams import MemorySink
from dispy.security.secrets import choose
from dispy.security.tls import Tls, dialer_tls
from dispy.system import run_directory
from dispy.system.directories import GIVEN, shared_memory
from tests.integration.helpers import Place, Program, wait_for

from .campaign import TALKERS, Campaign, Outcome, load_codes
from .commands import LIVELY, Manners, new_generator
from .messages import BY_DIGEST
from .nodes import FuzzNode
from .raw_talk import RawTalk
from .schedulers import FuzzScheduler

OF_ANOTHER = 0.1
"""Share of talks in the name of another talker's program: they replace each other's connections."""

NEW = 0.1
"""Share of talks by a program that never came before, and leaves for good afterwards."""

PATIENT = 0.4
"""Share of talks that first open a cluster, and wait until its jobs have ended."""

WILD = (0.0, 0.02, 0.1)
"""Share of messages that are said as they are drawn: one of these in each talk. The first that breaks a rule is the
last of its talk."""

DAMAGED = 0.002
"""Share of messages with other bytes at their end."""

MISNUMBERED = 0.002
"""Share of numbered messages with another number than the next: they end the talk."""

MUST_HEAR = (
    *("Welcome", "Received", "Leaving", "Answer", "Blob", "Offer", "Usable", "Placed"),
    *("Ended", "EndedHere", "Started", "Value", "FilesNeeded", "FilesPlaced"),
)
"""What the scheduler must have said after a while."""

MESSAGES_MAX = 120
"""Messages of a talk."""


class Talk(RawTalk):
    """One connection, from its dial to its end.

    Args:
        fuzzer: Whose.
        number: Of the talk.
    """

    def __init__(self, fuzzer: HostilePrograms, number: int) -> None:
        super().__init__(fuzzer.outcome, random.Random(f"{fuzzer.seed}/{number}"))
        self._fuzzer = fuzzer
        self._answers = random.Random(f"{fuzzer.seed}/{number}/answers")
        self._generator = new_generator(
            self.chance, fuzzer.codes, fuzzer.calls, fuzzer.nodes, fuzzer.memory.name
        )
        self._number = number
        self._wild = self.chance.choice(WILD)
        self._batch = 0
        """Number of our last numbered message that the scheduler has, or will have."""
        self._heard_batch = 0
        """Number of the last news."""
        self._memory = ""
        """Name of the scheduler's directory in memory; empty: it takes no payloads by name."""
        self.identity = self._draw_identity()
        self._manners = fuzzer.manners.setdefault(self.identity, Manners())

    def _draw_identity(self) -> bytes:
        way = self.chance.random()
        if way < NEW:
            return self.chance.randbytes(16)
        index = self.chance.randrange(TALKERS) if way < NEW + OF_ANOTHER else self._number % TALKERS
        return self._fuzzer.known[index]

    # What is answered.

    def answer(self, connection: Connection, message: Any) -> None:
        chance = self._answers
        if isinstance(message, shared.Welcome):
            self._batch, self._memory = message.received, message.memory
            if not message.is_known:
                self._manners.forget()
        elif isinstance(message, shared.Blob):
            if message.stream:
                connection.take_stream(message.stream)
            elif chance.random() < 0.9:
                (self._fuzzer.memory / GIVEN / str(message.given)).unlink(missing_ok=True)
        elif hasattr(message, "batch") and not isinstance(message, shared.Received):
            self._answer_news(message, chance)

    def _answer_news(self, message: Any, chance: random.Random) -> None:
        self._heard_batch = message.batch
        if isinstance(message, shared.Offer) and message.info.node not in self._fuzzer.nodes:
            self._fuzzer.nodes.append(message.info.node)
        if chance.random() < 0.7:
            self.write_message(shared.Received(message.batch))
        answer = self._manners.answer(message, chance, BY_DIGEST)
        if answer is not None and chance.random() < 0.9:
            self._tell(answer)
            if chance.random() < 0.1:
                self._tell(answer)

    # What is said.

    async def run(self) -> None:
        """Dial, say everything, leave in one of several ways."""
        if not await self.dial(self._fuzzer.connect):
            return
        chance = self.chance
        if chance.random() < 0.97:
            self._introduce()
            await self.wait_heard("Welcome", "Leaving")
        if chance.random() < PATIENT:
            await self._run_jobs()
        for _ in range(chance.randrange(1, MESSAGES_MAX)):
            if self.is_over:
                return
            self._say()
            if chance.random() < 0.2:
                await asyncio.sleep(chance.choice([0, 0, 0.001, 0.02]))
            await self.wait_written()
        if not self.is_over:
            await self.leave(shared.Detach(), is_known=self.identity in self._fuzzer.known)

    def _introduce(self) -> None:
        attach = self._generator.make(shared.Attach)
        attach.client = self.identity
        if self.identity in self._fuzzer.known and self.chance.random() < 0.95:
            attach.received = self._fuzzer.acknowledged.get(self.identity, 0)
        self.write_message(attach)

    async def _run_jobs(self) -> None:
        """Open a cluster whose code can be loaded, and run some of its jobs to their end, whatever that is."""
        chance, fuzzer = self.chance, self._fuzzer
        opening = self._tame(self._generator.make(shared.OpenCluster))
        self._tell(opening)
        if not isinstance(opening, shared.OpenCluster):
            return
        self._pay(1.0)
        await self.wait_heard("Offer", "Refused", "Leaving")
        if not fuzzer.nodes or self.is_over:
            return
        number, where = opening.cluster, fuzzer.nodes[-1]
        self._tell(shared.Allocate(0, number, where, 2))
        if chance.random() < 0.5:
            data = node.PutObject(number, self._manners.next_number(), b"object")
            self._tell(shared.PutObject(0, number, data))
            entries = [self._generator.make(FileEntry)]
            self._tell(shared.PlaceFiles(0, number, where, node.PlaceFiles(number, self._number, entries)))
        numbers = [self._manners.next_number() for _ in range(chance.randrange(1, 5))]
        jobs = [node.Job(n, 0, chance.choice(fuzzer.calls[:2])) for n in numbers]
        self._tell(shared.Submit(0, number, jobs))
        if chance.random() < 0.5:
            self._tell(shared.WatchJobs(0, number, numbers[:2], True))
        for name in ("Ended", "EndedHere", "Refused"):
            self.heard[name] = 0
        await self.wait_heard("Ended", "EndedHere", "Refused", "Leaving")

    def _say(self) -> None:
        chance = self.chance
        way = chance.random()
        if way < 0.02:
            self.play_with_streams()
            return
        if way < 0.06:
            self._play_with_blobs()
            return
        if way < 0.075:
            self._close_at_once()
            return
        message = self._generator.message(LIVELY) if way < 0.5 else self._generator.message()
        if isinstance(message, shared.Detach | shared.Attach) and chance.random() < 0.97:
            return
        if chance.random() >= self._wild:
            message = self._tame(message)
        if isinstance(message, shared.Attach):
            self.write_message(message)
            return
        if self._manners.owed and chance.random() < 0.05:
            self._send_blob(self._manners.owed[-1])  # before it is announced
        self._tell(message)
        self._pay(chance.choice([0.2, 0.8, 1.0, 1.0]))

    def _close_at_once(self) -> None:
        """Close a cluster whose large code is on its way to the node, where it would wait for a file for ever."""
        number = self._manners.take_cluster()
        if number is None or not self._fuzzer.nodes:
            return
        blob = self._manners.next_number()
        entry = FileEntry("f", self.chance.randbytes(32), 10, 0o644, 0)
        compute = node.Compute(number, "closed", b"", files=[entry])
        self._tell(shared.OpenCluster(0, number, compute, False, [], [shared.Large(0, 0, blob)]))
        self.write_message(shared.Blob(blob, self.send_stream(bytes(1 << 20))))
        self._tell(shared.Allocate(0, number, self._fuzzer.nodes[-1], 1))
        self._tell(shared.CloseCluster(0, number))
        self._manners.open.discard(number)

    def _tame(self, message: Any) -> Any:
        chance = self.chance
        if isinstance(message, shared.Received):
            message.batch = max(0, self._heard_batch - chance.choice([0, 0, 1, 5]))
        elif isinstance(message, shared.Blob):
            return shared.Blob(message.number, self.send_stream(b"nobody's"))
        return self._manners.tame(message, chance, self._fuzzer.codes, self._fuzzer.calls)

    def _tell(self, message: Any) -> None:
        """Write a message, with the next number if it has one; rarely with another one."""
        if self.is_over:
            return
        if hasattr(message, "batch") and not isinstance(message, shared.Received):
            if self.chance.random() < MISNUMBERED:
                message.batch = self.chance.choice([0, self._batch, self._batch + 2, 1 << 62])
            else:
                self._batch += 1
                message.batch = self._batch
        self.write_message(message, is_damaged=self.chance.random() < DAMAGED)

    # Blobs.

    def _pay(self, share: float) -> None:
        """Send most of the blobs that are owed; others are sent later, or never."""
        owed = self._manners.owed
        for number in list(owed):
            if self.chance.random() < share:
                owed.remove(number)
                self._send_blob(number)
        del owed[:-20]

    def _play_with_blobs(self) -> None:
        """Blobs that nobody has announced, that come twice, and that are not where they should be."""
        chance = self.chance
        way = chance.random()
        number = chance.choice(self._manners.owed or [chance.randrange(9)])
        if way < 0.5:
            self._send_blob(number)
            self._send_blob(number)
        elif way < 0.95:
            self._send_blob(self._manners.next_number() + 1000)
        else:
            self.write_message(shared.Blob(number, chance.choice([0, 99, 1 << 62]), chance.choice([0, 7])))

    def _send_blob(self, number: int) -> None:
        """Send a blob, as a stream or as a file in memory."""
        chance = self.chance
        data = chance.choice([*self._fuzzer.codes, *self._fuzzer.calls, b"", bytes(70_000), bytes(1 << 20)])
        if self._memory and chance.random() < 0.5:
            given = chance.randrange(1, 1 << 62)
            if chance.random() < 0.8:
                with suppress(OSError):
                    self._fuzzer.given(self._memory, given).write_bytes(data)
            self.write_message(shared.Blob(number, given=given))
        else:
            self.write_message(shared.Blob(number, self.send_stream(data)))

    def forget_or_note(self) -> None:
        """Note up to where news were acknowledged, for the next talk of this identity; new ones have none."""
        if self.identity in self._fuzzer.known:
            self._fuzzer.acknowledged[self.identity] = self._heard_batch
        else:
            self._fuzzer.manners.pop(self.identity, None)


class HostilePrograms(Campaign):
    """All talks with a shared scheduler that has one node.

    Args:
        place: Where everything runs.
        python: Interpreter of the node.
        seed: Of all chance.

    Attributes:
        known: Programs that come back, one of each talker.
        memory: Directory of the hostile programs on the memory file system.
        nodes: Identities of nodes that were offered.
        manners: What identities have open.
        acknowledged: Number of the last news that identities have had.
    """

    def __init__(self, place: Place, python: str, seed: int) -> None:
        self._node = FuzzNode(place, python, "")
        self._scheduler = FuzzScheduler(place, self._node.secret_file)
        super().__init__(place, seed, [self._scheduler, self._node], MUST_HEAR)
        self._secret = choose(secret_file=str(self._scheduler.secret_file))
        self.known = [hashlib.sha256(f"{seed} {n}".encode()).digest()[:16] for n in range(TALKERS)]
        base = shared_memory()
        assert base is not None, "this fuzzer needs a memory file system"
        self._own = run_directory.Place(base, f"client-{os.urandom(16).hex()}")
        self.memory = self._own.root
        (self.memory / GIVEN).mkdir(mode=0o700)
        self.nodes: list[bytes] = []
        self.manners: dict[bytes, Manners] = {}
        self.acknowledged: dict[bytes, int] = {}
        self.codes = load_codes(place)
        self.calls = [bytes(payload.dump_call((n,), {})) for n in (0, 1)] + [b"\x80\x05N.", b"garbage"]

    def given(self, memory: str, number: int) -> Path:
        """Path of a payload that is given by name to the scheduler with this directory."""
        return self.memory.parent / memory / GIVEN / str(number)

    async def connect(self, talk: RawTalk) -> None:
        """Dial the scheduler."""
        host, port = self._scheduler.address
        await asyncio.get_running_loop().create_connection(
            lambda: Connection(
                talk, from_scheduler_decoder, self._secret.keys, "client", "scheduler", is_dialer=True,
                tls=dialer_tls(Tls(wanted=True)), peer_name=host, make_sink=MemorySink,
            ),
            host,
            port,
        )  # fmt: skip

    def run(self, seconds: float, inputs: int) -> Outcome:
        """Talk until the time is up, so many messages were said, or there is a fault."""
        program = None
        self._node.start()
        try:
            self._scheduler.start()
            settings = {"secret_file": str(self._scheduler.secret_file), "shared": True}
            program = self.start_program(settings)
            asyncio.run(self.talk_until(program, time.monotonic() + seconds, inputs))
        finally:
            self._end(program)
        return self.outcome

    async def talk(self, number: int) -> None:
        made = Talk(self, number)
        await made.run()
        if made.identity not in self.known:
            # It may not have said so before its connection ended, and the scheduler keeps what it has for an hour.
            await self._detach(made.identity)
        made.forget_or_note()

    async def detach_all(self) -> None:
        for identity in self.known:
            await self._detach(identity)

    async def _detach(self, identity: bytes) -> None:
        talk = Talk(self, -1)
        if await talk.dial(self.connect):
            talk.send(shared.Attach(identity, "fuzz", "", "", is_recovery=True))
            talk.send(shared.Detach())
            await talk.wait_over()

    def _end(self, program: Program | None) -> None:
        """The honest program ends: nothing is held. Then scheduler and node end: nothing is left."""
        if program is not None:
            self.end_program(program)
        if program is not None and not self.outcome.faults:
            self._await(
                "the scheduler has no program", self._scheduler.status, lambda said: "no programs" in said
            )
            self._await(
                "the node has no computation", self._usage, lambda said: said and "computations" not in said
            )
        for daemon in self.daemons:
            if daemon.has_started:
                for fault in daemon.stop():
                    self.report(fault)
        self._own.close()
        self._await("nothing is left behind", self._left, lambda left: not left)
        self.end()

    def _await(self, what: str, look: Callable[[], Any], is_fine: Callable[[Any], bool]) -> None:
        try:
            wait_for(look, is_fine, what=what)
        except AssertionError as error:
            self.report(str(error)[:3000])

    def _usage(self) -> str:
        """Last statistics in the node's log, which may be of an earlier call; empty if there are none."""
        self._node.node.send(signal.SIGUSR2)
        text = self._node.node.stderr
        return text[text.rindex("statistics: ") :] if "statistics: " in text else ""

    def _left(self) -> list[str]:
        return self._node.left() + self._scheduler.left()
