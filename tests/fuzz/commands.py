"""What a program may say to a shared scheduler without being thrown out: what was drawn becomes that, mostly.

A program that breaks a rule is out at once, with all that it has. So a fuzzer that only draws would never get behind
the first checks: here it keeps count of what it has open, and of the numbers that it has used.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any, get_args

import msgspec

from dispy.protocol import node, shared
from dispy.protocol.node import CANCELLED

from .messages import Generator

MESSAGES: tuple[type[msgspec.Struct], ...] = get_args(shared.ToScheduler)
"""All that a program may say to a shared scheduler."""

LIVELY = (
    shared.OpenCluster,
    shared.Submit,
    shared.Submit,
    shared.Allocate,
    shared.Allocate,
    shared.CancelJobs,
    shared.PutObject,
    shared.SendFiles,
    shared.CloseCluster,
)
"""Messages that do most, said more often than others."""

CLUSTERS = 3
"""Clusters of a program at once: each is a host on the node, which takes a fraction of a second to start."""

ANNOUNCED = 0.15
"""Share of messages with payloads of which some travel as blobs."""

NONSENSE = 0.03
"""Share of clusters that name nodes by anything: such a program is thrown out, which is rarely reached otherwise."""

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.3.2.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::1%x")
"""Addresses of nodes that a program may name: of this machine, so that nothing leaves it."""

NO_ADDRESSES = ("256.1.1.1", "x" * 255, "é" * 200, "\0", "..", "127.0.0.1\n", "::1%\0", "::1%" + "x" * 80)
"""Texts in the place of addresses. None would be looked up by name."""

USERS = ("", "limited", "heavy", "limited\n", "x" * 512, "\x1b[2J", "root")
"""Login names that are claimed: the first two others have limits (``schedulers.USERS``)."""

MEMORIES = ("", "", "client-fuzz", "client-../x", "client-" + "a" * 400, "scheduler-x", "/", "\0")
"""Names of directories on the memory file system that a program says are its own, besides one that is."""

_PLACES: dict[type[Any], tuple[str, str]] = {
    shared.OpenCluster: ("compute", "code"),
    shared.Submit: ("jobs", "payload"),
    shared.PutObject: ("put", "payload"),
    shared.SendFiles: ("pieces", "data"),
    shared.Allocate: ("", "code"),
}
"""Where payloads are in a message: the attribute with the items that have them, and that of the payload."""


def new_generator(
    chance: random.Random, codes: list[bytes], calls: list[bytes], nodes: list[bytes], memory: str = ""
) -> Generator:
    """A generator of messages to a scheduler.

    Args:
        chance: Where all chance is from.
        codes: As for ``Generator``.
        calls: As for ``Generator``.
        nodes: Identities of nodes, which may become more later.
        memory: Name of the program's own directory on the memory file system.
    """

    def large() -> list[shared.Large]:
        if chance.random() < 0.9:
            return []
        return [shared.Large(chance.choice([0, 0, 1, 1 << 31]), chance.randrange(3), chance.randrange(9))]

    return Generator(
        chance,
        codes,
        calls,
        MESSAGES,
        {
            "batch": lambda: 0,
            "cluster": lambda: chance.choice([*range(CLUSTERS + 3), 1 << 40, 1 << 62]),
            "node": lambda: chance.choice([*nodes * 6, b"", bytes(16), b"short"]),
            "large": large,
            "ip_addr": lambda: chance.choice([*ADDRESSES, *NO_ADDRESSES, ""]),
            "port": lambda: chance.choice([0, 1, 9, 65535]),
            "user": lambda: chance.choice(USERS),
            "memory": lambda: chance.choice([*MEMORIES, *[memory] * len(MEMORIES)]),
        },
    )


def is_honest(wish: shared.Wish) -> bool:
    """True if a node is named by an address that there may be, and a name that can stand in a certificate."""
    return not wish.ip_addr or (wish.ip_addr in ADDRESSES and wish.host in ("a", "name", "con"))


class Manners:
    """What one identity has open at the scheduler, as far as it knows, and the numbers that it has used.

    Attributes:
        open: Clusters that are open.
        owed: Blobs, by number, that were announced and not sent.
    """

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.owed: list[int] = []
        self._last = 0
        self._jobs: deque[int] = deque([1], maxlen=100)

    def forget(self) -> None:
        """The scheduler does not know the identity: nothing is open."""
        self.open.clear()
        self.owed.clear()

    def next_number(self) -> int:
        """A number that was never used for a job, object or blob."""
        self._last += 1
        return self._last

    def take_cluster(self) -> int | None:
        """Have a cluster open from now on; returns its number, or None if there are enough."""
        free = [number for number in range(1, CLUSTERS + 1) if number not in self.open]
        if not free:
            return None
        self.open.add(free[0])
        return free[0]

    def tame(self, message: Any, chance: random.Random, codes: list[bytes], calls: list[bytes]) -> Any:
        """Make of a message one that breaks no rule, if that can be; returns it, or another one in its place."""
        if type(message) is shared.OpenCluster:
            return self._tame_opening(message, chance, codes)
        if self.open and hasattr(message, "cluster") and chance.random() < 0.9:
            message.cluster = chance.choice(sorted(self.open))
        if type(message) is shared.CloseCluster:
            self.open.discard(message.cluster)
        elif type(message) is shared.Submit:
            self._tame_jobs(message, chance, calls)
        elif type(message) is shared.PutObject:
            message.put.number = self.next_number()
        elif type(message) is shared.Allocate:
            message.cpus = chance.randrange(4)
            message.code = chance.choice([b"", b"", *codes])
            message.files = None if chance.random() < 0.9 else message.files
        elif type(message) in (shared.CancelJobs, shared.WatchJobs, shared.DropObjects):
            message.numbers += chance.choices(self._jobs, k=3)
        elif type(message) is shared.Discover:
            message.wishes = [wish for wish in message.wishes[:3] if is_honest(wish)]
            message.now = [wish for wish in message.now[:3] if is_honest(wish)]
        elif type(message) is shared.Ask:
            message.question.cluster = chance.choice([*self.open, message.question.cluster])
            message.question.job = chance.choice([*self._jobs, 0])
            message.question.node = message.question.node if chance.random() < 0.5 else b""
        if type(message) in _PLACES:
            message.large = []
            self._announce(message, chance)
        return message

    def _tame_opening(self, message: shared.OpenCluster, chance: random.Random, codes: list[bytes]) -> Any:
        number = self.take_cluster()
        if number is None:
            number = chance.choice(sorted(self.open))
            self.open.discard(number)
            return shared.CloseCluster(0, number)
        message.cluster = message.compute.computation = number
        message.compute.code = chance.choice(codes)
        message.compute.files = message.compute.files if chance.random() < 0.1 else []
        message.compute.keep = False  # it would stay, as it should
        if chance.random() >= NONSENSE:
            message.wishes = [wish for wish in message.wishes[:2] if is_honest(wish)]
        message.large = []
        self._announce(message, chance)
        return message

    def _tame_jobs(self, message: shared.Submit, chance: random.Random, calls: list[bytes]) -> None:
        for job in message.jobs:
            job.number, job.attempt, job.where = self.next_number(), 0, None
            job.payload = chance.choice(calls)
            self._jobs.append(job.number)
        if chance.random() < 0.8:
            message.node = b""
        message.files = message.files[: len(message.jobs)] if chance.random() < 0.1 else []
        for files, job in zip(message.files, message.jobs, strict=False):
            files.number = job.number

    def _announce(self, message: Any, chance: random.Random, share: float = ANNOUNCED) -> None:
        """Have some payloads of a message travel as blobs, which are owed then."""
        where, name = _PLACES[type(message)]
        items = getattr(message, where) if where else message
        items = items if isinstance(items, list) else [items]
        if not items or chance.random() > share:
            return
        for index in sorted(chance.sample(range(len(items)), min(len(items), chance.randrange(1, 4)))):
            setattr(items[index], name, b"")
            message.large.append(shared.Large(index, 0, self.next_number()))
            self.owed.append(message.large[-1].blob)

    def answer(self, news: Any, chance: random.Random, contents: dict[bytes, bytes]) -> Any:
        """The command that news ask for, honest or not; None if they ask for none.

        Args:
            news: What the scheduler has said.
            chance: Of the answer.
            contents: Files, by digest.
        """
        number = news.cluster
        if type(news) is shared.Refused:
            self.open.discard(number)
        elif type(news) is shared.Value:
            value = news.value
            serial = value.serial if chance.random() < 0.9 else 1 << 31
            delivered = node.AcknowledgeProvisional(
                number, value.number, value.attempt, serial, chance.random() < 0.7
            )
            return shared.AnswerValue(0, number, news.node, delivered)
        elif type(news) is shared.PrintedOutput:
            return shared.AnswerPrinted(0, number, news.node, news.serial)
        elif type(news) is shared.FilesNeeded:
            return self._send_files(news, chance, contents)
        elif type(news) is shared.EndedHere and news.status == CANCELLED and chance.random() < 0.1:
            return shared.CancelJobs(0, number, news.numbers)
        return None

    def _send_files(self, news: Any, chance: random.Random, contents: dict[bytes, bytes]) -> Any:
        sent = shared.SendFiles(0, news.cluster, news.node, [])
        for piece in news.need.pieces:
            way, content = chance.random(), contents.get(piece.digest)
            if content is None or way < 0.1:
                sent.unreadable.append(node.FileUnreadable(news.cluster, piece.digest, "gone"))
            elif way < 0.9:
                data = content[piece.offset : piece.offset + piece.size]
                sent.pieces.append(node.FilePiece(piece.digest, piece.offset, data[: 60 * 1024]))
        self._announce(sent, chance)
        return sent
