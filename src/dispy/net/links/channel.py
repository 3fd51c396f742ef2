"""A channel: numbered messages and blobs between a program and a shared scheduler, over connections that break.

Theory of operation. Both ends have a ``Channel``. Each numbers its messages from 1, keeps them until the other end
lets go of them, and sends those again that were lost with a connection (``protocol.batches.Sent``). Messages of one
end arrive in the order in which they were sent; one that arrives again is dropped.

A payload of ``limits.INLINE_MAX`` bytes and more is taken out of its message and follows as a *blob*, in chunks
between which other messages pass. A blob is kept as long as its message.

A message that has arrived:

    state      event                                    next
    arrived    it announces no blob                     done, or behind the lane
    arrived    it announces blobs                       waiting; later messages of its cluster form a lane behind it
    waiting    its last blob has arrived                done, then the lane as far as it is complete
    waiting    ``forget_cluster``, ``take_waiting``     done: it is dropped, and its blobs are when they come
    done       all before it are done, and noted        released: the other end is told to forget it

So whatever is not performed and noted here when this process dies is still kept at the other end: a successor
(``succeed``) gets it. One number stands for all before it, so a message whose blobs are missing holds up the release
of those behind it.

``CloseCluster`` waits for nothing: the blobs that messages before it announce may never come.

Messages of the types in ``PASSED`` form no lane: jobs and results with large payloads wait alone, and the others of
their cluster pass them. So an object that is put is there before the jobs that were submitted later, and a small job
does not wait for the arguments of a large one.

All calls are made on the loop, except ``try_send_now``.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from dispy.errors import RemoteProtocolError
from dispy.net.links.file_exchange import FileExchange
from dispy.net.links.releases import Releases, Waiting
from dispy.protocol import limits, shared
from dispy.protocol.batches import Sent
from dispy.protocol.streams import Group, MemorySource

_LARGE: dict[type[Any], tuple[str, tuple[str, ...]]] = {
    shared.OpenCluster: ("compute", ("code",)),
    shared.Submit: ("jobs", ("payload",)),
    shared.PutObject: ("put", ("payload",)),
    shared.SendFiles: ("pieces", ("data",)),
    shared.Allocate: ("", ("code",)),
    shared.Ended: ("ended", ("payload", "stdout", "stderr")),
    shared.Value: ("value", ("payload",)),
}
"""By type of the messages with payloads: the attribute with the items that have them (a list or one item; empty: the
message itself), and the attributes of an item that may be large, in the order of ``Large.field``."""

PASSED = (shared.Submit, shared.SendFiles, shared.Ended, shared.Value)
"""Types of messages that may be passed by later ones of their cluster while they wait for their blobs."""


class Line(Protocol):
    """A connection, as a channel uses it (``net.connection.Connection``)."""

    @property
    def is_ready(self) -> bool: ...
    def send(self, message: Any) -> None: ...
    def send_streamed(self, parts: list[tuple[Any, str, Any]], message: Any) -> Group: ...
    def give_up(self, group: Group) -> bool: ...
    def try_send_now(self, messages: list[Any]) -> bool: ...


class _Ours:
    """A blob that we send, as long as its message is kept. ``payload`` None: its cluster is closed, nothing comes."""

    __slots__ = ("cluster", "group", "is_kept", "payload")

    def __init__(self, cluster: int, payload: Any) -> None:
        self.cluster = cluster
        self.payload = payload
        self.is_kept = False
        """True once the payload lies where it stays until it has left."""
        self.group: Group | None = None


class Channel:
    """One end of a channel. The module says what it does.

    Args:
        perform: Called with each numbered message of the other end, whole and, by cluster, in order. A payload for
            which there was no memory is None.
        call_later: Calls a function after some seconds (``loop.call_later``).
        after_note: Calls a function as soon as all that was performed so far is noted where a successor finds it;
            None: at once.
        keep: Called with each large payload that we send, or that has come as a file, and with a function, which it
            calls now or later with what is to stand for the payload: the same bytes elsewhere.

    Attributes:
        releases: Which messages of the other end have arrived, are done, and need not be kept there.
        line: The connection that stands; None: there is none, and what is sent is kept.
        files: Exchange of payloads as files, where both ends are on one machine.
        acknowledged: Number of the last message of ours that the other end has; 0: none.
        size_waiting: Bytes of payloads in messages of the other end that wait for further payloads.
    """

    def __init__(
        self,
        perform: Callable[[Any], None],
        call_later: Callable[[float, Callable[[], None]], object],
        after_note: Callable[[Callable[[], None]], object] | None = None,
        keep: Callable[[Any, Callable[[Any], None]], None] = lambda payload, then: then(payload),
    ) -> None:
        self._perform = perform
        self._keep = keep
        self.releases = Releases(self._tell, call_later, after_note)
        self.line: Line | None = None
        self.files = FileExchange()
        self.acknowledged = 0
        self.size_waiting = 0
        self._count = 0
        """Number of messages of the other end that wait for payloads, or behind such a message."""
        self._sent: Sent[Any] = Sent()
        self._guard = threading.Lock()
        """Held while a message gets its number and is queued: a thread in ``try_send_now`` must not come between."""
        self._is_successor = False
        """True until the first message of the other end has arrived, if it may have any number."""
        self._ours: dict[int, _Ours] = {}
        """Our blobs, by number, of messages that are kept."""
        self._last_blob = 0
        self._expected: dict[int, tuple[Waiting, Any, str]] = {}
        """Blobs to come, by number: the message that waits, and the object and attribute for the payload."""
        self._alone: dict[int, list[Waiting]] = {}
        """Messages that wait alone, oldest first, by cluster."""
        self._lanes: dict[int, deque[Waiting]] = {}
        """Messages in order, the first of which waits for a blob, by cluster."""

    # Sending.

    def send(self, message: Any) -> None:
        """Send a numbered message, now or over the next connection. Large payloads are taken out of it."""
        large = _LARGE.get(type(message))
        blobs = self._take_out(message, *large) if large is not None else []
        with self._guard:
            self._sent.add(message)
            line = self.line
            if line is not None:
                line.send(message)
        for number in blobs:
            self._keep(self._ours[number].payload, partial(self._on_ours_kept, number))

    def _on_ours_kept(self, number: int, payload: Any) -> None:
        """Send a blob of ours, whose bytes lie where they stay now."""
        ours = self._ours.get(number)
        if ours is None or ours.payload is None:
            return  # it is not wanted any more
        ours.payload, ours.is_kept = payload, True
        if self.line is not None:
            self._send_blob(self.line, number)

    def try_send_now(self, message: Any) -> bool:
        """Send a message without large payloads from any thread, if it can leave this moment.

        Returns:
            False, and nothing is done, if it cannot: the caller sends it on the loop.
        """
        if not self._guard.acquire(blocking=False):
            return False
        try:
            line = self.line
            if line is None:
                return False
            message.batch = self._sent.last + 1
            if not line.try_send_now([message]):
                return False
            self._sent.add(message)
            return True
        finally:
            self._guard.release()

    def _take_out(self, message: Any, where: str, fields: tuple[str, ...]) -> list[int]:
        """Take large payloads out of a message, and name them there; returns the numbers of their blobs."""
        items = getattr(message, where) if where else message
        blobs: list[int] = []
        for index, item in enumerate(items if isinstance(items, list) else (items,)):
            for field, name in enumerate(fields):
                payload = getattr(item, name)
                if len(payload) >= limits.INLINE_MAX:
                    setattr(item, name, b"")
                    self._last_blob += 1
                    self._ours[self._last_blob] = _Ours(message.cluster, payload)
                    if not blobs:
                        message.large = []
                    message.large.append(shared.Large(index, field, self._last_blob))
                    blobs.append(self._last_blob)
        return blobs

    def _send_blob(self, line: Line, number: int) -> None:
        blob = shared.Blob(number)
        ours = self._ours[number]
        if ours.payload is None:
            line.send(blob)
            return
        blob.given = self.files.give(ours.payload)
        if blob.given:
            line.send(blob)
            return
        ours.group = line.send_streamed([(blob, "stream", MemorySource(ours.payload))], blob)

    @property
    def kept(self) -> Sequence[Any]:
        """Our messages that the other end has not released, oldest first. Read only."""
        return self._sent.kept

    @property
    def count_waiting(self) -> int:
        """Number of messages of the other end that wait here, and of the payloads for which they wait."""
        return self._count + len(self._expected)

    # Connections.

    def succeed(self, sent: int) -> None:
        """Go on in the place of a process that has died. Call it before ``resume``.

        The other end sends whatever that process had not released, which may begin with any number. Nothing is
        released here: a further successor gets the same again.

        Args:
            sent: Number of the last message of that process that has arrived at the other end.
        """
        self._sent = Sent((), sent)
        self._is_successor = True
        self.releases.stop()

    def resume(self, line: Line, received: int) -> None:
        """A new connection stands: send again what the other end, which has named ``received``, does not have."""
        with self._guard:
            self._let_go(received)
            self.line = line
            for message in self._sent.kept:
                line.send(message)
        for number in [number for number, ours in self._ours.items() if ours.is_kept]:
            self._send_blob(line, number)
        self.releases.soon()

    def _let_go(self, number: int) -> None:
        """Forget our messages up to a number, and their blobs: the other end does not need them any more."""
        if number > self._sent.last:
            raise RemoteProtocolError(f"message {number} was acknowledged; {self._sent.last} were sent")
        for message in self._sent.acknowledge(number):
            self.acknowledged = number
            for each in getattr(message, "large", ()):
                self._ours.pop(each.blob, None)

    def _tell(self, number: int) -> bool:
        """Have the other end forget its messages up to a number; False if there is no connection."""
        if self.line is None:
            return False
        self.line.send(shared.Received(number))
        return True

    def suspend(self) -> None:
        """The connection is gone: what is sent is kept for the next one."""
        with self._guard:
            self.line = None
        for ours in self._ours.values():
            ours.group = None

    # Receiving.

    def on_message(self, connection: Any, message: Any) -> bool:
        """Take a message that has arrived on the present connection; performs it, or has it wait.

        Returns:
            False if it is none of a channel's: the caller handles it.

        Raises:
            RemoteProtocolError: The other end breaks the rules; the connection must end.
        """
        kind = type(message)
        if kind is shared.Blob:
            self._on_blob(connection, message)
        elif kind is shared.Received:
            self._let_go(message.batch)
        elif hasattr(message, "batch"):
            self._on_numbered(message)
        else:
            return False
        return True

    def _on_numbered(self, message: Any) -> None:
        if self._is_successor:
            self._is_successor = False
            self.releases.received = message.batch - 1
        received = self.releases.received
        if message.batch <= received:
            return  # it was not released when the connection broke
        if message.batch != received + 1:
            raise RemoteProtocolError(f"message {message.batch} came after {received}")
        self.releases.received = message.batch
        large = getattr(message, "large", None)
        lane = self._lanes.get(message.cluster)
        if (not large and lane is None) or type(message) is shared.CloseCluster:
            # A cluster that is closed gets none of the payloads that it waits for.
            self._perform(message)
            self.releases.soon()
            return
        waiting = Waiting(message, len(large) if large else 0)
        self.releases.unfinished.append(waiting)
        for each in large or ():
            if each.blob in self._expected:
                raise RemoteProtocolError(f"payload {each.blob} is announced twice")
            item, name = _place(message, each)
            self._expected[each.blob] = waiting, item, name
        self._count += 1
        self._grow(waiting, _size(message))
        if lane is not None:
            lane.append(waiting)
        elif type(message) in PASSED:
            self._alone.setdefault(message.cluster, []).append(waiting)
        else:
            self._lanes[message.cluster] = deque([waiting])

    def _on_blob(self, connection: Any, message: shared.Blob) -> None:
        expected = self._expected.pop(message.number, None)
        payload: Any = None
        if message.given:
            payload = self.files.take(message.given)
        elif message.stream:
            sink = connection.take_stream(message.stream)
            payload = sink.data
            if expected is None:
                sink.discard()
        if expected is None:
            return  # its message is not wanted any more, or was done when the connection broke
        then = partial(self._on_theirs_kept, *expected)
        if message.given and payload is not None:
            self._keep(payload, then)
        else:
            then(payload)

    def _on_theirs_kept(self, waiting: Waiting, item: Any, name: str, payload: Any) -> None:
        """Put a payload that has arrived into its message, which is performed if it was the last one."""
        if waiting.is_done:
            return
        setattr(item, name, payload)
        self._grow(waiting, len(payload) if payload is not None else 0)
        waiting.missing -= 1
        if not waiting.missing:
            self._on_complete(waiting)
            self.releases.now()

    def _on_complete(self, waiting: Waiting) -> None:
        """Perform a message whose last blob has arrived, and what has waited behind it."""
        cluster = waiting.message.cluster
        alone = self._alone.get(cluster)
        if alone is not None and waiting in alone:
            alone.remove(waiting)
            if not alone:
                del self._alone[cluster]
            self._finish(waiting)
            return
        lane = self._lanes.get(cluster)
        while lane and (not lane[0].missing or type(lane[0].message) in PASSED):
            first = lane.popleft()
            if first.missing:
                self._alone.setdefault(cluster, []).append(first)
                continue
            self._finish(first)
            if self._lanes.get(cluster) is not lane:
                return  # the cluster was forgotten
        if lane is not None and not lane:
            del self._lanes[cluster]

    def _finish(self, waiting: Waiting) -> None:
        self._leave(waiting)
        waiting.is_done = True
        self._perform(waiting.message)

    # What is not wanted any more.

    def take_waiting(self, cluster: int, is_wanted: Callable[[Any], bool]) -> list[Any]:
        """Take out messages of a cluster that wait alone for blobs; returns them. Their blobs are discarded later."""
        found = [waiting for waiting in self._alone.get(cluster, ()) if is_wanted(waiting.message)]
        for waiting in found:
            self._alone[cluster].remove(waiting)
            self._forget(waiting)
        if found and not self._alone[cluster]:
            del self._alone[cluster]
        return [waiting.message for waiting in found]

    def forget_cluster(self, cluster: int) -> None:
        """Forget what waits for blobs of a cluster, and stop sending its blobs: it is closed.

        The other end is told that these blobs do not come: it may wait for them.
        """
        for waiting in [*self._alone.pop(cluster, ()), *self._lanes.pop(cluster, ())]:
            self._forget(waiting)
        for number, ours in self._ours.items():
            if ours.cluster == cluster and ours.payload is not None:
                ours.payload, ours.is_kept = None, True
                if self.line is not None and (ours.group is None or self.line.give_up(ours.group)):
                    self._send_blob(self.line, number)

    def drop_waiting(self) -> list[Any]:
        """Forget all that waits here, as the other end has died: blobs that are missing never come.

        Returns:
            The messages, oldest first by cluster.
        """
        found = [each for lane in [*self._alone.values(), *self._lanes.values()] for each in lane]
        self._alone.clear()
        self._lanes.clear()
        for waiting in found:
            self._forget(waiting)
        self.releases.now()
        return [waiting.message for waiting in found]

    def _forget(self, waiting: Waiting) -> None:
        self._leave(waiting)
        waiting.is_done = True
        for each in getattr(waiting.message, "large", ()):
            self._expected.pop(each.blob, None)

    def _leave(self, waiting: Waiting) -> None:
        """Count a message that does not wait any more."""
        self._count -= 1
        self.size_waiting -= waiting.size

    def _grow(self, waiting: Waiting, size: int) -> None:
        """Count bytes of payloads of a message that waits."""
        waiting.size += size
        self.size_waiting += size


def _size(message: Any) -> int:
    """Returns the bytes of the payloads that are in a message."""
    if type(message) not in _LARGE:
        return 0
    where, fields = _LARGE[type(message)]
    items = getattr(message, where) if where else message
    items = items if isinstance(items, list) else [items]
    return sum([len(getattr(item, name)) for item in items for name in fields])


def _place(message: Any, large: shared.Large) -> tuple[Any, str]:
    """Returns the object and the name of its attribute that a blob is for.

    Raises:
        RemoteProtocolError: There is no such place in the message.
    """
    where, fields = _LARGE[type(message)]
    items = getattr(message, where) if where else message
    items = items if isinstance(items, list) else [items]
    if large.index >= len(items) or large.field >= len(fields):
        raise RemoteProtocolError(f"{type(message).__name__} announces a payload that has no place in it")
    return items[large.index], fields[large.field]
