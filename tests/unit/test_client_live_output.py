"""Who follows what a job prints: what was told twice comes once, and what is missing is said."""

from __future__ import annotations

import re
import threading
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dispy.client.engine.callback_thread import Caller
from dispy.client.job import DispyJob
from dispy.client.session.live_output import PENDING_MAX, Follower, Watching
from dispy.protocol.node import CANCELLED, FINISHED, Ended, Printed
from dispy.protocol.output import CUT_MARK
from dispy.protocol.output_reader import RESTART_MARK, Final, Output, Reader

TEXT = "größer ≥ 日本 🎈\n".encode() + b"\xff\xc3(\xe2\x82"


def printed(at: int, text: bytes, attempt: int = 0, begins: bool = False, err: bytes = b"") -> Printed:
    return Printed(1, attempt, begins, at, text, 0, err)


def ended(stdout: bytes = b"", attempt: int = 0, number: int = 1, ran: bool = True) -> Ended:
    return Ended(number, attempt, FINISHED, 1.0, 2.0, b"", stdout=stdout, ran=ran)


def text_of(outputs: list[Output], stream: str = "stdout") -> str:
    return "".join(output.text for output in outputs if output.stream == stream)


@given(st.lists(st.tuples(st.integers(0, len(TEXT)), st.integers(0, len(TEXT))), max_size=12))
def test_pieces_in_order_make_up_the_whole_however_they_are_cut(cuts: list[tuple[int, int]]) -> None:
    """Pieces may overlap and repeat; characters may be cut in two; the rest comes with the end."""
    reader, seen, end = Reader(), [], 0
    for start, stop in cuts:
        seen += reader.take(printed(min(start, end), TEXT[min(start, end) : stop]))
        end = max(end, stop)
    seen += reader.finish(Final(0, (TEXT, b"")))
    assert text_of(seen) == TEXT.decode("utf-8", "backslashreplace")


@given(st.integers(0, 40), st.integers(1, 40))
def test_what_is_missing_is_said(before: int, missing: int) -> None:
    """A character of which a part is missing is missing as a whole."""
    text = "ä🎈b".encode() * 20
    reader = Reader()
    seen = reader.take(printed(0, text[:before])) + reader.take(
        printed(before + missing, text[before + missing :])
    )
    found = re.search(re.escape(CUT_MARK).replace("%d", r"(\d+)"), text_of(seen))
    assert found is not None
    head, tail = text_of(seen)[: found.start()], text_of(seen)[found.end() :]
    assert head == text[:before].decode("utf-8", "backslashreplace")
    assert missing <= int(found[1]) <= missing + 3
    assert text.endswith(tail.encode())
    assert len(tail.encode()) == len(text) - before - int(found[1])


def test_the_two_streams_are_told_apart() -> None:
    reader = Reader()
    assert reader.take(printed(0, b"out", err=b"err")) == [("stdout", "out"), ("stderr", "err")]
    assert reader.finish(Final(0, (b"out", b"error"))) == [("stderr", "or")]


def test_of_output_that_was_cut_the_rest_is_what_is_left_of_it() -> None:
    """Its end, if that has not come; and nothing that has."""
    half = 512 * 1024
    kept = b"a" * half + (CUT_MARK % 1000).encode() + b"b" * half
    for seen, rest in [
        (0, "a" * half + CUT_MARK % 1000 + "b" * half),
        (half + 500, CUT_MARK % 500 + "b" * half),
        (half + 1000 + half - 3, "bbb"),
    ]:
        reader = Reader()
        reader.take(printed(0, b"x" * seen))
        assert text_of(reader.finish(Final(0, (kept, b"")))) == rest


def test_a_second_attempt_begins_anew_and_says_so() -> None:
    reader = Reader()
    reader.take(printed(0, b"one\xe2", attempt=3))
    assert reader.take(printed(0, b"one", attempt=5)) == [("stdout", f"\\xe2{RESTART_MARK}one")]
    assert reader.finish(Final(7, (b"1", b"2"))) == [("stdout", f"{RESTART_MARK}1"), ("stderr", "2")]
    # An attempt that never ran has printed nothing.
    assert reader.finish(Final(None, (b"", b""))) == []


def test_a_follower_waits_for_the_beginning() -> None:
    """What is under way for somebody else when he asks is not the beginning."""
    follower = Follower()
    follower.on_printed(printed(500, b"for others"))
    assert not follower.has_news()
    follower.on_printed(printed(0, b"", begins=True))
    follower.on_printed(printed(0, b"from now on"))
    assert [follower.take().stdout, follower.take().stdout] == [b"", b"from now on"]


def test_a_follower_who_takes_nothing_keeps_a_bounded_amount() -> None:
    follower = Follower()
    piece = bytes(100_000)
    for number in range(3 * PENDING_MAX // len(piece)):
        follower.on_printed(printed(number * len(piece), piece, begins=True))
    kept = [follower.take() for _ in range(len(follower.pending))]
    assert PENDING_MAX - len(piece) < sum(len(item.stdout) for item in kept) <= PENDING_MAX
    follower.on_printed(printed(4 * PENDING_MAX, b"later"))
    assert follower.take().stdout == b"later"


def asked(job: int, is_wanted: bool) -> None:
    """Nobody is asked for output here."""


class Called:
    """A callback, with the thread that calls it held until it is released."""

    def __init__(self) -> None:
        self.calls: list[tuple[DispyJob, str, str]] = []
        self.caller = Caller("callbacks")
        self.gate = threading.Event()
        self.caller.call(self.gate.wait, [()])
        self.jobs: dict[int, DispyJob] = {}
        threads: Any = SimpleNamespace(callbacks=self.caller)
        self.watching = Watching(lambda *call: self.calls.append(call), threads, self.jobs, asked)

    def release(self) -> list[tuple[str, str]]:
        self.gate.set()
        self.caller.drain(5)
        self.caller.stop()
        return [(stream, text) for _, stream, text in self.calls]


def test_a_callback_gets_all_of_every_job() -> None:
    called = Called()
    job, short = DispyJob(1, 1), DispyJob(2, 2)
    called.jobs.update({1: job, 2: short})
    called.watching.on_printed([printed(0, b"one "), Printed(7, 0, True, 0, b"of no job", 0, b"")])
    called.watching.on_ended([ended(b"one two"), ended(b"short", number=2), ended(number=3)])
    called.watching.on_ended([ended(ran=False)])
    assert called.release() == [("stdout", "one "), ("stdout", "two"), ("stdout", "short")]
    assert [call[0] for call in called.calls] == [job, job, short]


def test_a_callback_that_is_slow_misses_what_cannot_be_kept() -> None:
    """What is not missing in the output of the ended job comes then all the same."""
    called = Called()
    called.jobs.update({1: DispyJob(1, 1), 2: DispyJob(2, 2)})
    piece = b"x" * 100_000
    count = 3 * PENDING_MAX // len(piece)
    for number in range(count):
        called.watching.on_printed([printed(number * len(piece), piece)])
    called.watching.on_printed([Printed(2, 0, True, 0, b"first", 0, b"")])
    called.watching.on_ended([ended(b"first, second", number=2)])
    called.watching.on_ended([Ended(1, 0, CANCELLED, 0.0, 0.0, b"")])
    told = called.release()
    assert sum(len(text) for _, text in told) <= PENDING_MAX + 2 * len(piece)
    assert told[-1] == ("stdout", "first, second")


def test_nothing_is_done_for_jobs_that_nobody_follows() -> None:
    caller = Caller("callbacks")
    jobs: dict[int, DispyJob] = {}
    threads: Any = SimpleNamespace(callbacks=caller)
    watching = Watching(None, threads, jobs, asked)
    assert not watching.is_active
    first, second = Follower(), Follower()
    watching.add(1, first)
    watching.add(1, second)
    assert watching.is_active
    assert not watching.drop(1, first), "there is another one"
    assert not watching.drop(1, first), "he has gone before"
    assert watching.drop(1, second)
    assert not watching.is_active
    watching.add(1, first)
    jobs[1] = DispyJob(1, 1)
    watching.on_ended([ended(b"all")])
    assert first.final == (0, (b"all", b""))
    assert not watching.is_active
    assert not watching.drop(1, first), "the job has ended"


def test_a_reader_of_bytes_changes_nothing_and_says_what_is_missing_in_bytes() -> None:
    reader = Reader(is_binary=True)
    assert reader.take(Printed(1, 0, True, 0, b"\xff\xc3", 0, b"")) == [("stdout", b"\xff\xc3")]
    assert reader.take(Printed(1, 0, False, 4, b"\xa4b", 0, b"")) == [
        ("stdout", (CUT_MARK % 2).encode() + b"\xa4b")
    ]
    again = reader.take(Printed(1, 1, True, 0, b"c", 0, b""))
    assert again == [("stdout", RESTART_MARK.encode() + b"c")]
    assert reader.finish(Final(1, (b"cd", b"\xfe"))) == [("stdout", b"d"), ("stderr", b"\xfe")]
