"""Two ends of a channel over a line that breaks: nothing is lost, comes twice or out of its order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dispy.net.links.channel import PASSED, Channel
from dispy.protocol import limits, node, shared
from dispy.protocol.streams import Group

LARGE = b"x" * limits.INLINE_MAX


class Sink:
    """A payload that has arrived as a stream."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def discard(self) -> None: ...


class Wire:
    """A connection in memory: what is sent waits until ``deliver``; streams leave when ``drain`` says so."""

    def __init__(self) -> None:
        self.queue: deque[tuple[bytes, dict[int, bytes]]] = deque()
        self.streams: deque[tuple[int, bytes, Any]] = deque()
        self.last = 0
        self.is_ready = True
        self.arrived: dict[int, bytes] = {}

    def send(self, message: Any) -> None:
        self.queue.append((msgspec.msgpack.encode(message), {}))

    def send_streamed(self, parts: list[tuple[Any, str, Any]], message: Any) -> Group:
        ((holder, name, source),) = parts
        self.last += 1
        setattr(holder, name, self.last)
        self.streams.append(
            (self.last, bytes(source.read(0, source.size)), msgspec.msgpack.encode(message))
        )
        return Group(range(self.last, self.last + 1), b"")

    def give_up(self, group: Group) -> bool:
        kept = [each for each in self.streams if each[0] not in group.numbers]
        is_given_up = len(kept) < len(self.streams)
        self.streams = deque(kept)
        return is_given_up

    def try_send_now(self, messages: list[Any]) -> bool:
        if self.queue:
            return False
        for message in messages:
            self.send(message)
        return True

    def drain(self) -> None:
        """The oldest stream has left: its message follows."""
        if self.streams:
            number, data, message = self.streams.popleft()
            self.queue.append((message, {number: data}))

    def take_stream(self, number: int) -> Sink:
        return Sink(self.arrived.pop(number))


class End:
    """One end, with what it has been told to do."""

    def __init__(
        self, decoder: Any, after_note: Callable[[Callable[[], None]], object] | None = None
    ) -> None:
        self.done: list[Any] = []
        self.timers: list[Callable[[], None]] = []
        self.channel = Channel(self.done.append, lambda _, call: self.timers.append(call), after_note)
        self.decoder = decoder
        self.out = Wire()
        """What this end sends."""


class ChannelMachine(RuleBasedStateMachine):
    """A program sends commands to a scheduler, which sends acknowledgements back."""

    def __init__(self) -> None:
        super().__init__()
        self.program = End(shared.from_scheduler_decoder)
        self.scheduler = End(shared.to_scheduler_decoder)
        self.sent: list[tuple[int, int, bool, str]] = []
        """Cluster, tag, whether it is large, and type, of each command in order."""
        self.closed: set[int] = set()
        self.tag = 0
        self.connect()

    def connect(self) -> None:
        for end in (self.program, self.scheduler):
            end.out = Wire()
        self.program.channel.resume(self.program.out, self.scheduler.channel.releases.attach())
        self.scheduler.channel.resume(self.scheduler.out, self.program.channel.releases.attach())

    @rule(cluster=st.integers(1, 2), is_large=st.booleans())
    def submit(self, cluster: int, is_large: bool) -> None:
        self.tag += 1
        payload = LARGE + str(self.tag).encode() if is_large else str(self.tag).encode()
        job = node.Job(self.tag, 0, payload)
        self.program.channel.send(shared.Submit(0, cluster, [job]))
        self.sent.append((cluster, self.tag, is_large, "Submit"))

    @rule(cluster=st.integers(1, 2), is_large=st.booleans())
    def put(self, cluster: int, is_large: bool) -> None:
        self.tag += 1
        payload = LARGE + str(self.tag).encode() if is_large else str(self.tag).encode()
        self.program.channel.send(shared.PutObject(0, cluster, node.PutObject(cluster, self.tag, payload)))
        self.sent.append((cluster, self.tag, is_large, "PutObject"))

    @rule(cluster=st.integers(1, 2))
    def submit_from_a_thread(self, cluster: int) -> None:
        job = node.Job(self.tag + 1, 0, str(self.tag + 1).encode())
        if self.program.channel.try_send_now(shared.Submit(0, cluster, [job])):
            self.tag += 1
            self.sent.append((cluster, self.tag, False, "Submit"))

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        for _ in range(count):
            for sender, receiver in (
                (self.program, self.scheduler),
                (self.scheduler, self.program),
            ):
                if sender.out.queue:
                    data, streams = sender.out.queue.popleft()
                    receiver.out.arrived |= streams
                    message = receiver.decoder.decode(data)
                    assert receiver.channel.on_message(receiver.out, message)

    @rule()
    def drain(self) -> None:
        self.program.out.drain()

    @rule()
    def time_passes(self) -> None:
        for end in (self.program, self.scheduler):
            timers, end.timers = end.timers, []
            for call in timers:
                call()

    @rule()
    def line_breaks(self) -> None:
        for end in (self.program, self.scheduler):
            end.channel.suspend()
        self.connect()

    @precondition(lambda self: self.tag)
    @rule(cluster=st.integers(1, 2))
    def settle(self, cluster: int) -> None:
        """All that was sent arrives in the end."""
        self._run_dry()
        expected = [(each[0], each[1]) for each in self.sent]
        assert sorted(map(_name, self.scheduler.done)) == sorted(expected)
        self.time_passes()
        self._run_dry()
        assert not self.program.channel.kept

    def _run_dry(self) -> None:
        while self.program.out.queue or self.scheduler.out.queue or self.program.out.streams:
            self.deliver(1)
            self.drain()

    @invariant()
    def done_is_right(self) -> None:
        names = [_name(message) for message in self.scheduler.done]
        assert len(set(names)) == len(names), "one came twice"
        for message in self.scheduler.done:
            tag = str(_name(message)[1]).encode()
            payload = message.put.payload if type(message) is shared.PutObject else message.jobs[0].payload
            assert bytes(payload) in (tag, LARGE + tag), "another's payload"
        for cluster in (1, 2):
            self._check_order(cluster)

    def _check_order(self, cluster: int) -> None:
        """Of a cluster, only large submits come later than what was sent behind them."""
        done = [_name(message)[1] for message in self.scheduler.done if message.cluster == cluster]
        in_order = [
            tag
            for number, tag, is_large, kind in self.sent
            if number == cluster and not (is_large and kind == "Submit") and tag in done
        ]
        assert [tag for tag in done if tag in set(in_order)] == in_order
        for number, tag, is_large, kind in self.sent:
            if number == cluster and tag in done and is_large and kind == "Submit":
                puts = [t for n, t, _, k in self.sent if n == cluster and k == "PutObject" and t < tag]
                assert all(put in done and done.index(put) < done.index(tag) for put in puts)


class DyingMachine(RuleBasedStateMachine):
    """A scheduler tells a program of results, which the program notes; the program dies, and others succeed it."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = End(shared.to_scheduler_decoder)
        self.sent: dict[int, bytes] = {}
        """Payload of each result, by its tag."""
        self.noted: set[int] = set()
        """Tags that the program has noted before it died."""
        self.waiting: list[Callable[[], None]] = []
        """Functions that the program's journal is to call once what is performed is noted."""
        self.is_first = True
        self.program = End(shared.from_scheduler_decoder, self.waiting.append)
        self.connect()

    def connect(self) -> None:
        for end in (self.program, self.scheduler):
            end.out = Wire()
        named = self.program.channel.releases.attach()
        known = self.scheduler.channel.releases.attach()
        self.scheduler.channel.resume(self.scheduler.out, named)
        self.program.channel.resume(self.program.out, known)

    @rule(is_large=st.booleans(), cluster=st.integers(1, 2))
    def end(self, is_large: bool, cluster: int) -> None:
        tag = len(self.sent) + 1
        self.sent[tag] = (LARGE if is_large else b"") + str(tag).encode()
        ended = node.Ended(tag, 0, node.FINISHED, 0.0, 0.0, self.sent[tag])
        self.scheduler.channel.send(shared.Ended(0, cluster, b"n" * 16, [ended]))

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        for _ in range(count):
            for sender, receiver in ((self.program, self.scheduler), (self.scheduler, self.program)):
                if sender.out.queue:
                    data, streams = sender.out.queue.popleft()
                    receiver.out.arrived |= streams
                    assert receiver.channel.on_message(receiver.out, receiver.decoder.decode(data))

    @rule()
    def drain(self) -> None:
        self.scheduler.out.drain()

    @rule()
    def time_passes(self) -> None:
        for end in (self.program, self.scheduler):
            timers, end.timers = end.timers, []
            for call in timers:
                call()

    @rule()
    def note(self) -> None:
        """The journal of the program has all that was performed."""
        if self.is_first:
            self.noted |= {message.ended[0].number for message in self.program.done}
            calls, self.waiting[:] = list(self.waiting), []
            for call in calls:
                call()

    @rule()
    def line_breaks(self) -> None:
        for end in (self.program, self.scheduler):
            end.channel.suspend()
        self.connect()

    @rule()
    def dies(self) -> None:
        """Another program goes on in its name, and notes nothing: it may die as well."""
        self.is_first = False
        self.scheduler.channel.suspend()
        self.scheduler.channel.drop_waiting()
        self.program = End(shared.from_scheduler_decoder)
        self.program.channel.succeed(self.scheduler.channel.releases.received)
        self.connect()

    @rule()
    def say(self) -> None:
        """Commands of the program, or of its successor, are numbered on."""
        before = self.scheduler.channel.releases.received
        self.program.channel.send(shared.CancelJobs(0, 1, [1]))
        while self.program.out.queue:
            self.deliver(1)
        assert self.scheduler.channel.releases.received > before

    @invariant()
    def nothing_is_forgotten_early(self) -> None:
        """What is in no journal is kept at the scheduler: a further successor would get it."""
        kept = {message.ended[0].number for message in self.scheduler.channel.kept}
        assert kept | self.noted == set(self.sent)

    @rule()
    def settle(self) -> None:
        """In the end all results are there, each once and whole: noted by the program, or here."""
        while self.scheduler.out.queue or self.scheduler.out.streams or self.program.out.queue:
            self.deliver(1)
            self.drain()
        assert not self.program.channel.releases.waiting()
        here = [message.ended[0] for message in self.program.done]
        assert len({ended.number for ended in here}) == len(here), "one came twice"
        assert all(bytes(ended.payload) == self.sent[ended.number] for ended in here)
        assert {ended.number for ended in here} | self.noted == set(self.sent)


TestDying = DyingMachine.TestCase
TestDying.settings = settings(deadline=None, stateful_step_count=50)


def test_blobs_of_a_closed_cluster_are_not_waited_for() -> None:
    """The sender forgets the cluster while a blob is on its way: its message is done all the same."""
    here, there = End(shared.from_scheduler_decoder), End(shared.to_scheduler_decoder)
    for end, other in ((here, there), (there, here)):
        end.channel.resume(end.out, other.channel.releases.attach())
    here.channel.send(shared.PutObject(0, 1, node.PutObject(1, 1, LARGE)))
    here.channel.forget_cluster(1)
    here.channel.send(shared.CloseCluster(0, 1))
    while here.out.queue or here.out.streams:
        if here.out.queue:
            there.channel.on_message(there.out, there.decoder.decode(here.out.queue.popleft()[0]))
        here.out.drain()
    put, closed = there.done
    assert put.put.payload is None
    assert type(closed) is shared.CloseCluster


def _name(message: Any) -> tuple[int, int]:
    number = message.put.number if type(message) is shared.PutObject else message.jobs[0].number
    return message.cluster, number


TestChannel = ChannelMachine.TestCase
TestChannel.settings = settings(deadline=None, stateful_step_count=60)


def test_what_may_be_passed_is_what_stands_alone() -> None:
    """Whatever changes how nodes and objects are seen keeps its order."""
    assert {kind.__name__ for kind in PASSED} == {"Submit", "SendFiles", "Ended", "Value"}
