"""The reading side of live output: pieces of what a job printed are joined again, and gaps are named.

Theory of operation. A node tells each piece with its position (bytes) in all that the job printed on that stream. A
``Reader`` knows the position that its owner has reached: bytes before it are dropped as duplicates, a gap is replaced
by a mark that says how many bytes are missing, and the end of the job brings the rest out of the complete output.
So nothing has to be kept for a slow reader.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any, NamedTuple

from dispy.protocol.node import Ended, Printed
from dispy.protocol.output import CUT_MARK, split_cut

RESTART_MARK = "\n... [dispy: the job was started again; its output begins anew] ...\n"
"""Stands between what two attempts of a job printed."""

_STREAMS = ("stdout", "stderr")


class Output(NamedTuple):
    """A piece of what a job printed; its ends are anywhere, not at the ends of lines.

    Attributes:
        stream: ``"stdout"`` or ``"stderr"``.
        text: What was printed there, decoded as ``job.stdout`` is; of a program, as bytes.
    """

    stream: str
    text: Any


class Final(NamedTuple):
    """What an ended job printed.

    Attributes:
        attempt: Which attempt ended; None if none did that we know of.
        texts: Stdout and stderr as they were kept.
    """

    attempt: int | None
    texts: tuple[bytes, bytes]


def final_of(ended: Ended) -> Final:
    """What the end of a job says about its output."""
    return Final(ended.attempt if ended.ran else None, (bytes(ended.stdout), bytes(ended.stderr)))


class Reader:
    """How far somebody has come in what a job printed.

    Args:
        is_binary: He wants it as bytes.
    """

    __slots__ = ("_attempt", "_make", "_streams")

    def __init__(self, is_binary: bool = False) -> None:
        self._attempt = -1
        self._make = _Bytes if is_binary else _Text
        self._streams = (_Stream(self._make()), _Stream(self._make()))

    def take(self, printed: Printed) -> list[Output]:
        """What is new in a piece that a node told."""
        marks = self._begin(printed.attempt)
        pieces = ((printed.stdout_at, printed.stdout), (printed.stderr_at, printed.stderr))
        return _outputs(
            mark + stream.take(at, data) if mark else stream.take(at, data)
            for mark, stream, (at, data) in zip(marks, self._streams, pieces, strict=True)
        )

    def finish(self, final: Final) -> list[Output]:
        """What is left when the job has ended."""
        marks = ("", "") if final.attempt is None else self._begin(final.attempt)
        return _outputs(
            mark + stream.finish(kept) if mark else stream.finish(kept)
            for mark, stream, kept in zip(marks, self._streams, final.texts, strict=True)
        )

    def _begin(self, attempt: int) -> tuple[Any, Any]:
        """What is to be said on each stream before something of this attempt."""
        if attempt == self._attempt:
            return "", ""
        self._attempt = attempt
        before, self._streams = self._streams, (_Stream(self._make()), _Stream(self._make()))
        first, second = (stream.restart() for stream in before)
        return first, second


def _outputs(texts: Iterator[Any]) -> list[Output]:
    return [Output(name, text) for name, text in zip(_STREAMS, texts, strict=True) if text]


class _Text:
    """Makes text of bytes. Characters may be cut in two between pieces."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def decode(self, data: bytes) -> Any:
        """What is whole by now."""
        return self._decoder.decode(data)

    def end(self) -> Any:
        """What is left when nothing follows."""
        text = self._decoder.decode(b"", True)
        self._decoder.reset()
        return text

    @staticmethod
    def whole(data: bytes) -> bytes:
        """Without the rest of a character whose beginning is missing."""
        return data[:3].lstrip(_CONTINUATION) + data[3:]

    @staticmethod
    def say(text: str) -> Any:
        """Something of ours."""
        return text


class _Bytes:
    """Leaves bytes as they are."""

    __slots__ = ()

    def decode(self, data: bytes) -> Any:
        """Likewise."""
        return data

    def end(self) -> Any:
        """Likewise."""
        return b""

    @staticmethod
    def whole(data: bytes) -> bytes:
        """Likewise."""
        return data

    @staticmethod
    def say(text: str) -> Any:
        """Likewise."""
        return text.encode()


class _Stream:
    """One of a job's two streams."""

    __slots__ = ("_decoder", "_position")

    def __init__(self, decoder: _Text | _Bytes) -> None:
        self._position = 0
        self._decoder = decoder

    def take(self, at: int, data: bytes) -> Any:
        end = at + len(data)
        text = self._decoder.say("")
        if end <= self._position:
            return text
        if at <= self._position:
            data = data[self._position - at :]
        else:
            missing = at - self._position
            whole = self._decoder.whole(data)
            mark = CUT_MARK % (missing + len(data) - len(whole))
            text = self._decoder.end() + self._decoder.say(mark)
            data = whole
        self._position = end
        return text + self._decoder.decode(data)

    def finish(self, kept: bytes) -> Any:
        head, cut, tail = split_cut(kept)
        return self.take(0, head) + self.take(len(head) + cut, tail) + self._decoder.end()

    def restart(self) -> Any:
        """What is said when it begins anew."""
        return self._decoder.end() + self._decoder.say(RESTART_MARK) if self._position else ""


_CONTINUATION = bytes(range(0x80, 0xC0))
