"""Messages that the types of the protocol allow, at random: valid types, hostile values.

Everything is drawn from the types themselves (``msgspec.inspect``), so a new message or field is said from the day
it is there. Values are taken from small pools most of the time: a message about computation 3 means something only
if others name it, too. Bounds of the types are kept, except for a few messages, which are answered by closing.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from functools import cache
from typing import Any, get_args

import msgspec
from msgspec import inspect as types

from dispy.protocol import files, limits, node

MESSAGES: tuple[type[msgspec.Struct], ...] = get_args(node.ToNode)
"""All that a client may say to a node."""

CONTENTS = (b"", b"small", bytes(100_000), random.Random(0).randbytes(70_000), bytes(3 << 20))
"""Files whose content the fuzzer has, and sends when the node asks for it."""

BY_DIGEST = {hashlib.sha256(content).digest(): content for content in CONTENTS}

NUMBERS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 1 << 40, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 62) - 1, 1 << 62)
"""Of computations, jobs, streams, batches, objects and sizes; those that fit the field."""

TEXTS = (
    *(
        "",
        "a",
        "name",
        "a/b",
        "a/b/etc",
        "w/x/y/z",
        "..",
        "../../x",
        "/etc",
        "/",
        ".",
        "a//b",
        ".dispy-1",
        "a/.dispy-x",
    ),
    *(
        "code",
        "lock",
        "object-1",
        "x" * 240,
        "x" * 255,
        "é" * 200,
        "\0",
        "a\nb",
        "\x1b[2J",
        "\u202e",
        "\U0010ffff",
    ),
    *(
        "/".join("d" * 64),
        "/".join(["y" * 100] * 9),
        "a\\b",
        "kept-x",
        "in-1",
        "1",
        "con",
        " ",
        "-rf",
        "~",
        "$HOME",
    ),
)
"""Names, paths and reasons; those that fit the field."""

FLOATS = (0.0, 0.01, 0.1, 0.5, 1.0, 5.0, 1e6, 86400.0, 3600.0, 1e9)

LONG_LIST = 0.02
"""Share of lists that are long."""


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[types.Field, ...]:
    """Fields of a message, which take milliseconds to look up."""
    found = types.type_info(kind)
    assert isinstance(found, types.StructType)
    return found.fields


class Generator:
    """Draws messages.

    Args:
        chance: Where all chance is from.
        codes: Pickled computations that nodes can load, besides garbage.
        calls: Pickled calls of them.
        kinds: Types of messages that are drawn from.
        values: Functions that draw the value of a field, of whatever type, by the field's name.
    """

    def __init__(
        self,
        chance: random.Random,
        codes: list[bytes],
        calls: list[bytes],
        kinds: tuple[type[msgspec.Struct], ...] = MESSAGES,
        values: dict[str, Callable[[], Any]] | None = None,
    ) -> None:
        self._chance = chance
        self._kinds = kinds
        self._values = values or {}
        self._codes = codes
        self._calls = calls
        self._by_name: dict[str, Callable[[], Any]] = {
            "computation": lambda: self._chance.choice([1, 1, 2, 3, self._number()]),
            "computations": lambda: {
                n: self._chance.randrange(3) for n in range(self._chance.randrange(5))
            },
            "number": lambda: self._chance.choice([*range(8), self._number()]),
            "attempt": lambda: self._chance.choice([0, 0, 1, 2, self._number() & 0x7FFFFFFF]),
            "code": lambda: self._chance.choice(
                [*self._codes, b"", b"\x80\x05N.", self._bytes(limits.INLINE_MAX)]
            ),
            "stream": lambda: 0,
            "given": lambda: self._chance.choice([0, 0, 0, 0, 0, 5, self._number()]),
            "where": lambda: self._chance.choice([*[None] * 40, *self._places()]),
            "life": lambda: self._chance.choice([0, 0, 1, 2, self._number()]),
            "exclusive": lambda: False,
            "grace_s": lambda: self._chance.choice([0.0, 0.01, 0.1]),
            "setup_timeout_s": lambda: self._chance.choice([0.0, 0.01, 1.0]),
            "pulse_s": lambda: self._chance.choice([0.1, 1.0, 3600.0]),
            "dest_path": lambda: self._chance.choice(["", self._text(limits.NAME_MAX)]),
            "package": lambda: self._chance.choice([0, 0, 1, (1 << 32) - 1]),
        }

    def message(self, kinds: tuple[type[msgspec.Struct], ...] = ()) -> msgspec.Struct:
        """One message of a kind drawn from ``kinds``; by default from all."""
        return self.make(self._chance.choice(kinds or self._kinds))

    def make(self, kind: type[msgspec.Struct]) -> Any:
        """A message of this kind. Lists and texts are within what the decoder takes."""
        if kind is files.FileEntry:
            return self._entry()
        if kind is node.Job:
            payload = self._chance.choice([*self._calls, b"", self._bytes(1000)])
            return node.Job(
                self._by_name["number"](), self._by_name["attempt"](), payload, self._by_name["where"]()
            )
        given = {}
        for field in _fields(kind):
            if field.name in self._values:
                given[field.name] = self._values[field.name]()
                continue
            named = self._by_name.get(field.name)
            is_number = isinstance(
                field.type, types.IntType | types.FloatType | types.StrType | types.BoolType
            )
            is_named = named is not None and (is_number or field.name in ("computations", "code"))
            if field.name == "computations" and isinstance(field.type, types.ListType):
                is_named = False
            given[field.name] = named() if is_named and named is not None else self._value(field.type)
        return kind(**given)

    def _entry(self) -> files.FileEntry:
        """A file: one whose content there is, or one that nobody has; its size may be a lie."""
        digest = self._chance.choice([*BY_DIGEST, self._chance.randbytes(32)])
        size = len(BY_DIGEST.get(digest, b"x" * 10))
        if self._chance.random() < 0.03:
            size = min(self._number(), 1 << 50)
        path = self._chance.choice(["f", "g", "d/f", "d/e/f", self._text(limits.PATH_MAX) or "f"])
        mode = self._chance.choice([0o644, 0o444, 0o555, 0, 0o777])
        return files.FileEntry(path, digest, size, mode, self._number(), self._by_name["package"]())

    def _places(self) -> list[node.Where]:
        """Places of arguments, of which a client may not name the last."""
        number = self._number()
        return [*[node.Given(5), node.Given(number)] * 3, node.Segment(number)]

    def _number(self) -> int:
        return self._chance.choice(NUMBERS)

    def _text(self, size_max: int) -> str:
        return self._chance.choice([text for text in TEXTS if len(text) <= size_max])

    def _bytes(self, size_max: int) -> bytes:
        size = self._chance.choice([0, 1, 16, 100, 1000, size_max])
        return self._chance.randbytes(min(size, size_max))

    def _value(self, kind: types.Type) -> Any:
        """A value of a type, within its bounds."""
        if isinstance(kind, types.IntType):
            low, high = kind.ge or 0, (kind.lt - 1) if kind.lt is not None else kind.le
            fitting = [n for n in NUMBERS if low <= n <= (high if high is not None else n)]
            return self._chance.choice(fitting or [low])
        if isinstance(kind, types.FloatType):
            return self._chance.choice([n for n in FLOATS if (kind.ge or 0) <= n <= (kind.le or 1e300)])
        if isinstance(kind, types.BoolType):
            return self._chance.random() < 0.5
        if isinstance(kind, types.StrType):
            return self._text(kind.max_length or 1000)
        if isinstance(kind, types.BytesType):
            if kind.min_length:
                return self._chance.choice([*BY_DIGEST, bytes(32)])[: kind.min_length]
            return self._bytes(kind.max_length or 1000)
        if isinstance(kind, types.ListType):
            most = min(kind.max_length or 100, 200)
            count = self._chance.choice([0, 1, 1, 2, 3]) if self._chance.random() > LONG_LIST else most
            return [self._value(kind.item_type) for _ in range(min(count, most))]
        if isinstance(kind, types.DictType):
            return {self._value(kind.key_type): self._value(kind.value_type) for _ in range(3)}
        if isinstance(kind, types.StructType):
            return self.make(kind.cls)
        if isinstance(kind, types.UnionType):
            return self._value(self._chance.choice(kind.types))
        assert isinstance(kind, types.NoneType), kind
        return None
