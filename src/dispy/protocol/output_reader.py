"""The reading side of live output: pieces of what a job printed are joined again, and gaps are named.

Theory of operation. A node tells each piece with its position (bytes) in all that the job printed on that stream. A
``Reader`` knows the position that its owner has reached: bytes before it are dropped as duplicates, a gap is replaced
by a mark that says how many bytes are missing, and the end of the job brings the rest out of the complete output.
So pieces may be dropped on the way to a slow reader.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any, NamedTuple

from dispy.protocol.node import Ended, Printed
from dispy.protocol.output import CUT_MARK, split_cut

RESTART_MARK = "\n... [dispy: the job was started again; its output begins anew] ...\n"
"""Text that a reader gets between the outputs of two attempts of a job, on each stream that had printed something."""

_STREAMS = ("stdout", "stderr")  # the order of all pairs here


class Output(NamedTuple):
    """A piece of what a job printed. It may begin and end anywhere, not only at the ends of lines.

    Attributes:
        stream: ``"stdout"`` or ``"stderr"``.
        text: Text that was printed there, decoded as ``job.stdout`` is; bytes, if the job runs a program.
    """

    stream: str
    text: Any


class Final(NamedTuple):
    """Complete output of an ended job.

    Attributes:
        attempt: Number of the attempt that ended; None if no attempt is known to have ended: the texts then continue
            those of the attempt that was read last.
        texts: Bytes of stdout and of stderr as they were kept: cut in the middle if they were too long
            (``protocol.output``).
    """

    attempt: int | None
    texts: tuple[bytes, bytes]


def final_of(ended: Ended) -> Final:
    """Returns the complete output in a node's report of a job's end, for ``Reader.finish``. If the job did not run,
    ``attempt`` is None."""
    return Final(ended.attempt if ended.ran else None, (bytes(ended.stdout), bytes(ended.stderr)))


class Reader:
    """Position in the output of one job, on both streams; makes ``Output`` of what is new.

    Give it each piece that arrives (``take``), and the job's end (``finish``). Duplicates are dropped, and gaps
    marked.

    Args:
        is_binary: True: texts of outputs are bytes. False: they are str.
    """

    __slots__ = ("_attempt", "_make", "_streams")

    def __init__(self, is_binary: bool = False) -> None:
        self._attempt = -1
        """Number of the attempt whose output was read last, from 0; -1: none. When another attempt prints, positions
        count from 0 again."""
        self._make = _Bytes if is_binary else _Text
        """Class of the decoders: each of the two streams of each attempt has one."""
        self._streams = (_Stream(self._make()), _Stream(self._make()))
        """Positions in stdout and in stderr of attempt ``_attempt``."""

    def take(self, printed: Printed) -> list[Output]:
        """Returns the text of a piece of live output that is new, stdout first; empty if all of it was read before.

        A piece of another attempt than before begins with ``RESTART_MARK``.
        """
        marks = self._begin(printed.attempt)
        pieces = ((printed.stdout_at, printed.stdout), (printed.stderr_at, printed.stderr))
        return _outputs(
            mark + stream.take(at, data) if mark else stream.take(at, data)
            for mark, stream, (at, data) in zip(marks, self._streams, pieces, strict=True)
        )

    def finish(self, final: Final) -> list[Output]:
        """Returns the output of an ended job that no piece has brought, stdout first; empty if there is none.

        Call this last, and once.
        """
        marks = ("", "") if final.attempt is None else self._begin(final.attempt)
        return _outputs(
            mark + stream.finish(kept) if mark else stream.finish(kept)
            for mark, stream, kept in zip(marks, self._streams, final.texts, strict=True)
        )

    def _begin(self, attempt: int) -> tuple[Any, Any]:
        """Begin to read another attempt, whose positions count from 0; does nothing if this one is being read
        already.

        Returns:
            The text or bytes that must precede the attempt's output, on stdout and on stderr: ``RESTART_MARK`` where
            an attempt before has printed something, else empty.
        """
        if attempt == self._attempt:
            return "", ""
        self._attempt = attempt
        before, self._streams = self._streams, (_Stream(self._make()), _Stream(self._make()))
        first, second = (stream.restart() for stream in before)
        return first, second


def _outputs(texts: Iterator[Any]) -> list[Output]:
    """Returns an ``Output`` for each text that is not empty; the first text is of stdout, the second of stderr."""
    return [Output(name, text) for name, text in zip(_STREAMS, texts, strict=True) if text]


class _Text:
    """Decoder of UTF-8 in pieces: characters may be cut in two between them. A byte that is not valid becomes a
    backslash escape, such as ``\\xff``."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def decode(self, data: bytes) -> Any:
        """Returns the characters that are complete by now; up to 3 last bytes of ``data`` wait for the next piece."""
        return self._decoder.decode(data)

    def end(self) -> Any:
        """Returns the bytes of an incomplete character as escapes, and forgets them: a gap or the end follows."""
        text = self._decoder.decode(b"", True)
        self._decoder.reset()
        return text

    @staticmethod
    def whole(data: bytes) -> bytes:
        """Returns data behind a gap without the rest of a character whose beginning is missing: up to 3 bytes."""
        return data[:3].lstrip(_CONTINUATION) + data[3:]

    @staticmethod
    def say(text: str) -> Any:
        """Returns a mark of dispy's own (``CUT_MARK``, ``RESTART_MARK``) in the reader's type: as text."""
        return text


class _Bytes:
    """Decoder that leaves bytes as they are, for jobs that run a program; same methods as ``_Text``."""

    __slots__ = ()

    def decode(self, data: bytes) -> Any:
        """Returns the data itself."""
        return data

    def end(self) -> Any:
        """Returns empty bytes: bytes that are not decoded are never incomplete."""
        return b""

    @staticmethod
    def whole(data: bytes) -> bytes:
        """Returns the data itself: there are no characters to be cut."""
        return data

    @staticmethod
    def say(text: str) -> Any:
        """Returns a mark of dispy's own (``CUT_MARK``, ``RESTART_MARK``) in the reader's type: as bytes."""
        return text.encode()


class _Stream:
    """Position (bytes) up to which one of a job's two streams was read, in one attempt.

    Args:
        decoder: Decoder of this stream, for this stream only.
    """

    __slots__ = ("_decoder", "_position")

    def __init__(self, decoder: _Text | _Bytes) -> None:
        self._position = 0
        self._decoder = decoder

    def take(self, at: int, data: bytes) -> Any:
        """Returns what is new in a piece that begins at position ``at`` (bytes), decoded; empty if nothing is.

        If bytes before it are missing, ``CUT_MARK`` with their number comes first.
        """
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
        """Returns what was not read yet of a stream's complete output ``kept`` (maybe cut in the middle), decoded."""
        head, cut, tail = split_cut(kept)
        return self.take(0, head) + self.take(len(head) + cut, tail) + self._decoder.end()

    def restart(self) -> Any:
        """Returns the text to put before the output of the next attempt: bytes of an incomplete character, and
        ``RESTART_MARK``; empty if this attempt has printed nothing."""
        return self._decoder.end() + self._decoder.say(RESTART_MARK) if self._position else ""


_CONTINUATION = bytes(range(0x80, 0xC0))
"""All bytes (0x80 to 0xBF) that are never the first of a character in UTF-8: up to three of them are dropped from the
beginning of output behind a gap."""
