"""What jobs print, given to whoever follows them while they run.

Nodes tell pieces with their places in all that the job printed. Whoever reads them has a ``Reader``, which
knows how far he has come: what he has had already is dropped, what is missing is said, and when the job has
ended the rest comes out of its complete output. So nothing has to be kept for those who are slow.
"""

from __future__ import annotations

import codecs
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dispy.client.job import CREATED, DispyJob
from dispy.client.session.callbacks import Caller, call_now
from dispy.client.wakeup import Signal
from dispy.core import scheduling as core
from dispy.protocol.limits import MIB
from dispy.protocol.node import Ended, Printed
from dispy.protocol.output import CUT_MARK, split_cut

if TYPE_CHECKING:
    from dispy.client.session.state import ClusterState

RESTART_MARK = "\n... [dispy: the job was started again; its output begins anew] ...\n"
"""Stands between what two attempts of a job printed."""

PENDING_MAX = 4 * MIB
"""Bytes kept for somebody who does not take them as fast as they come; what comes then is skipped, and told
when the job ends if the job's output still has it."""

ANSWER_S = 1.0
"""How long ``follow=False`` waits for the node of a running job (seconds)."""

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


class Follower:
    """Takes what one job prints from the engine's thread to another."""

    __slots__ = ("_has_begun", "_size_in", "_size_out", "final", "is_ended", "pending", "signal")

    def __init__(self) -> None:
        self.pending: deque[Printed] = deque()
        self.signal = Signal()
        self.is_ended = False
        """Set after all else that there will be."""
        self.final: Final | None = None
        self._has_begun = False
        # Each of them is changed by one thread only.
        self._size_in = 0
        self._size_out = 0

    def on_printed(self, printed: Printed) -> None:
        """A piece has come; on the engine's thread."""
        # What was under way for others when we began to follow comes again, from the beginning.
        if not (self._has_begun or printed.begins):
            return
        self._has_begun = True
        size = len(printed.stdout) + len(printed.stderr)
        if self._size_in - self._size_out + size <= PENDING_MAX:
            self._size_in += size
            self.pending.append(printed)
            self.signal.wake()

    def on_ended(self, job: DispyJob) -> None:
        """The job has ended; on the engine's threads."""
        self.is_ended = True
        self.signal.wake()

    def take(self) -> Printed:
        """The oldest piece of those pending."""
        printed = self.pending.popleft()
        self._size_out += len(printed.stdout) + len(printed.stderr)
        return printed

    def has_news(self) -> bool:
        """Whether something is pending, or nothing will be any more."""
        return bool(self.pending) or self.is_ended


class Watching:
    """What the jobs of a cluster print, on its way to the callback and to followers. For the engine's thread.

    Args:
        callback: Of the user, for all jobs; None for none.
        caller: What runs callbacks.
        is_binary: The callback gets bytes.
    """

    def __init__(
        self,
        callback: Callable[[DispyJob, str, str], object] | None,
        caller: Caller,
        is_binary: bool = False,
    ) -> None:
        self._is_binary = is_binary
        self.callback = callback
        self.is_active = callback is not None
        """Whether anybody wants to see anything."""
        self._caller = caller
        self._followers: dict[int, list[Follower]] = {}
        """By number of their job."""
        self._readers: dict[int, Reader] = {}
        """What the callback has had of running jobs, by number. Read on the callbacks' thread only."""
        # Bytes on their way to the callback: each of them is changed by one thread only.
        self._size_in = 0
        self._size_out = 0

    def add(self, number: int, follower: Follower) -> None:
        """Somebody follows a job."""
        self._followers.setdefault(number, []).append(follower)
        self.is_active = True

    def drop(self, number: int, follower: Follower) -> bool:
        """Somebody follows a job no more; True if now nobody does, and the job has not ended."""
        followers = self._followers.get(number, [])
        if follower not in followers:
            return False
        followers.remove(follower)
        if followers:
            return False
        del self._followers[number]
        self.is_active = self.callback is not None or bool(self._followers)
        return True

    def on_printed(self, jobs: Mapping[int, DispyJob], printed: list[Printed]) -> None:
        """Nodes told what running jobs have printed.

        Args:
            jobs: That have not ended, by number.
            printed: Of these and others.
        """
        for item in printed:
            job = jobs.get(item.number)
            if job is None or type(job) is not DispyJob:
                continue
            for follower in self._followers.get(item.number, ()):
                follower.on_printed(item)
            size = len(item.stdout) + len(item.stderr)
            if self.callback is not None and size and self._size_in - self._size_out <= PENDING_MAX:
                self._size_in += size
                reader = self._readers.setdefault(item.number, Reader(self._is_binary))
                self._caller.call(self._tell, [(job, reader, item)], self.callback)

    def on_ended(self, jobs: Mapping[int, DispyJob], ended: list[Ended]) -> None:
        """Jobs are about to end: the rest of what they printed."""
        calls = []
        for item in ended:
            for follower in self._followers.pop(item.number, ()):
                follower.final = final_of(item)
            if self.callback is None:
                continue
            reader = self._readers.pop(item.number, None)
            job = jobs.get(item.number)
            if type(job) is DispyJob and (reader is not None or item.stdout or item.stderr):
                calls.append((job, reader or Reader(self._is_binary), final_of(item)))
        if calls:
            self._caller.call(self._tell_rest, calls, self.callback)
        self.is_active = self.callback is not None or bool(self._followers)

    # On the callbacks' thread.

    def _tell(self, job: DispyJob, reader: Reader, printed: Printed) -> None:
        self._size_out += len(printed.stdout) + len(printed.stderr)
        self._call(job, reader.take(printed))

    def _tell_rest(self, job: DispyJob, reader: Reader, final: Final) -> None:
        self._call(job, reader.finish(final))

    def _call(self, job: DispyJob, outputs: list[Output]) -> None:
        assert self.callback is not None
        for output in outputs:
            call_now(self.callback, (job, *output))


def follow(job: DispyJob, is_following: bool) -> Iterator[Output]:
    """What ``DispyJob.output`` returns."""
    job._check_process()
    return _follow(job, is_following)


def _follow(job: DispyJob, is_following: bool) -> Iterator[Output]:
    reader = Reader(getattr(job._cluster, "_gives_bytes", False))
    if job._is_final:
        yield from reader.finish(_kept(job))
        return
    if not is_following and job._status == CREATED:
        return
    until = None if is_following else time.monotonic() + ANSWER_S
    cluster = job._cluster
    follower = Follower()
    job._add_waiter(follower)
    try:
        cluster._engine.call(_watch, cluster, job, follower)
        while True:
            is_last = follower.is_ended  # asked first: then nothing comes after what is pending
            has_answer = bool(follower.pending)
            while follower.pending:
                yield from reader.take(follower.take())
            if is_last:
                yield from reader.finish(follower.final or _kept(job))
                return
            if not is_following and has_answer:
                return
            if not follower.signal.wait(follower.has_news, until):
                return
    finally:
        job._drop_waiter(follower)
        cluster._engine.post(_unwatch, cluster, job, follower)


def _watch(cluster: ClusterState, job: DispyJob, follower: Follower) -> None:
    """Somebody wants to see what a job prints."""
    if cluster._jobs.get(job._number) is job:
        cluster._watching.add(job._number, follower)
        cluster._engine.service.handle(core.WatchJobs(cluster._number, [job._number]))


def _unwatch(cluster: ClusterState, job: DispyJob, follower: Follower) -> None:
    if cluster._watching.drop(job._number, follower):
        cluster._engine.service.handle(core.WatchJobs(cluster._number, [job._number], False))


def _kept(job: DispyJob) -> Final:
    """What an ended job itself has of its output."""
    return Final(None, (_bytes(job._stdout), _bytes(job._stderr)))


def _bytes(kept: object) -> bytes:
    # The program may have put a text there.
    return kept if isinstance(kept, bytes) else str(kept).encode() if kept is not None else b""
