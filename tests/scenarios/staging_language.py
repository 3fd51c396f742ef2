"""The language of scenarios of the staging machine.

Names stand for themselves: suppliers, stores and directories any word, stages ``s1``, computations ``c1``. A file is
a name with its size, ``f:9``; it is one content wherever it is named. A piece is ``f@4``: from its fourth byte on. A
small file has up to 2 bytes, a piece 4; a supplier is asked for 12 at once, and 2 of its parts are open::

    connect SUPPLIER              lose SUPPLIER               tick SECONDS
    want STAGE SUPPLIER FILES... [of=C] [in=DIRECTORY] [store=STORE] [packaged]
    drop STAGE                    leave DIRECTORY
    searched STAGE [FILES...]     files that are not installed here
    placed STAGE [FILES...] [fault=WORD]                      files that are not in the store
    opened PART [AT]              busy PART SIZE              needless PART
    failed PART REASON...         finished PART right|wrong   broken STAGE REASON...
    sent SUPPLIER C PIECES...     unreadable SUPPLIER C FILE [passing]
    wrote WRITE [OUTCOMES...]     without outcomes all goes well
    trimmed
"""

from __future__ import annotations

from typing import Any

from scenario_language import Player, Words, number_of

from dispy.core import staging as core
from dispy.protocol import node
from dispy.protocol.files import FileEntry

BOUNDS = core.Limits(file_max=50, small_max=2, piece_max=4, pieces_max=12, parts_max=2)


def digest_of(name: str) -> bytes:
    """A digest from which the name can be read."""
    return name.encode().ljust(32, b".")


def name_of(digest: bytes) -> str:
    return digest.decode().rstrip(".")


def show_message(message: Any) -> str:
    """What a supplier is told."""
    if isinstance(message, node.FilesProgress):
        files, size = f"{message.files} of {message.files_max}", f"{message.size} of {message.size_max}"
        return f"FilesProgress c{message.computation}: {files} files, {size} bytes"
    pieces = " ".join(f"{name_of(p.digest)}@{p.offset}+{p.size}" for p in message.pieces)
    return f"NeedFiles c{message.computation}: {pieces}"


class Staging(Player):
    """Plays scenarios of the staging machine."""

    def __init__(self) -> None:
        self.machine = core.Machine(BOUNDS)
        self.writes: dict[int, core.Write] = {}

    def handle(self, event: Any) -> list[Any]:
        return list(self.machine.handle(event, self.now))

    def show(self, action: Any) -> str:
        match action:
            case core.Tell(supplier, message):
                return f"{supplier.decode()} <- {show_message(message)}"
            case core.Ended(stage, reason):
                return f"s{stage}: ended" + (f" ({reason})" if reason else "")
            case core.Dropped(stage):
                return f"s{stage}: dropped"
            case core.Left(directory):
                return f"{directory}: left"
            case core.Search(stage) | core.Look(stage) | core.Place(stage):
                return f"s{stage}: {type(action).__name__.lower()}"
            case core.Open(part, store, digest, size, is_apart, stage):
                early = "" if stage is None else f", early for s{stage}"
                return f"p{part}: open {store}/{name_of(digest)}:{size}" + " apart" * is_apart + early
            case core.Finish(part) | core.Close(part):
                return f"p{part}: {type(action).__name__.lower()}"
            case core.Write(write, _, pieces):
                self.writes[write] = action
                return f"w{write}: write {' '.join(f'{piece.data}+{piece.size}' for piece in pieces)}"
            case core.Discard(data):
                return f"discard {' '.join(map(str, data))}"
            case core.Trim():
                return "trim"
            case core.Wake(at):
                return f"wake at {at:g} s"
        raise AssertionError(action)

    def supplier(self, words: Words) -> core.SupplierId:
        return core.SupplierId(words.take().encode())

    def stage(self, words: Words) -> core.StageId:
        return core.StageId(words.number())

    def part(self, words: Words) -> core.PartId:
        return core.PartId(words.number())

    def entries(self, words: Words, package: int = 0) -> list[FileEntry]:
        pairs = [word.split(":") for word in words.plain]
        return [FileEntry(name, digest_of(name), int(size), 0o644, 0, package) for name, size in pairs]

    def do_connect(self, words: Words) -> core.Connected:
        return core.Connected(self.supplier(words))

    def do_lose(self, words: Words) -> core.Lost:
        return core.Lost(self.supplier(words))

    def do_tick(self, words: Words) -> core.Tick:
        self.now = round(self.now + float(words.take()), 6)
        return core.Tick()

    def do_want(self, words: Words) -> core.Want:
        package = int(words.flag("packaged"))
        stage, supplier = self.stage(words), self.supplier(words)
        computation = number_of(words.named["of"]) if "of" in words.named else stage
        store = core.StoreName(words.named.get("store", "mine"))
        directory = core.DirectoryName(words.named["in"]) if "in" in words.named else None
        return core.Want(stage, store, supplier, computation, self.entries(words, package), directory)

    def do_drop(self, words: Words) -> core.Drop:
        return core.Drop(self.stage(words))

    def do_leave(self, words: Words) -> core.Leave:
        return core.Leave(core.DirectoryName(words.take()))

    def do_searched(self, words: Words) -> core.Searched:
        return core.Searched(self.stage(words), self.entries(words))

    def do_placed(self, words: Words) -> core.Placed:
        stage = self.stage(words)
        missing = {entry.digest: entry.size for entry in self.entries(words)}
        return core.Placed(stage, missing, words.named.get("fault", ""))

    def do_broken(self, words: Words) -> core.StageFailed:
        return core.StageFailed(self.stage(words), " ".join(words.plain))

    def do_opened(self, words: Words) -> core.PartOpened:
        return core.PartOpened(self.part(words), int(words.take()) if words.plain else 0)

    def do_busy(self, words: Words) -> core.PartBusy:
        return core.PartBusy(self.part(words), int(words.take()))

    def do_needless(self, words: Words) -> core.PartNeedless:
        return core.PartNeedless(self.part(words))

    def do_failed(self, words: Words) -> core.PartFailed:
        return core.PartFailed(self.part(words), " ".join(words.plain))

    def do_finished(self, words: Words) -> core.PartFinished:
        return core.PartFinished(self.part(words), words.take() == "right")

    def do_sent(self, words: Words) -> core.Arrived:
        supplier, computation = self.supplier(words), words.number()
        pieces = []
        for word in words.plain:
            name, offset = word.split("@")
            pieces.append(core.Sent(digest_of(name), int(offset), word))
        return core.Arrived(supplier, computation, pieces)

    def do_unreadable(self, words: Words) -> core.Unreadable:
        is_passing = words.flag("passing")
        supplier, computation = self.supplier(words), words.number()
        return core.Unreadable(supplier, computation, digest_of(words.take()), "it is gone", is_passing)

    def do_wrote(self, words: Words) -> core.Written:
        write = self.writes.pop(words.number())
        outcomes = [core.Outcome(word) for word in words.plain] or [
            core.Outcome.WHOLE if piece.offset + piece.size >= piece.file_size else core.Outcome.MORE
            for piece in write.pieces
        ]
        results = []
        for piece, outcome in zip(write.pieces, outcomes, strict=True):
            reason = "the disk is full" if outcome is core.Outcome.FAILED else ""
            results.append(core.Wrote(piece.part, piece.size, outcome, reason))
        return core.Written(write.write, results)

    def do_trimmed(self, words: Words) -> core.Trimmed:
        return core.Trimmed()
