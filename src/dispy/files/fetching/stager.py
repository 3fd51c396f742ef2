"""Gets files from clients into the store, and from there to where jobs find them.

The node asks, piece by piece, for what it does not have, and for no more at once than it can put away: so a
disk that is slow fills no memory, a broken connection costs a few pieces, and a client keeps no account. What
is small comes first: it passes what is large, as everywhere on a link. Hashing, writing and copying are
done by threads, during which the interpreter is free; what they found comes back to the loop. What nobody wants
any more before a thread has begun with it is taken back from the queue: what is wanted may be behind it.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from dispy.core.execution.ids import ClientId
from dispy.files.checkout import put_files
from dispy.files.fetching.wanted_files import (
    Arrived,
    Asked,
    Fetch,
    Landed,
    Seams,
    Stage,
    Supplier,
    close_begun,
)
from dispy.files.installed_packages import Installed
from dispy.files.store import SMALL, BusyError, Part, Store
from dispy.protocol import limits, node
from dispy.protocol.files import FileEntry, check_entries
from dispy.system.escaping import counted

PLACERS = 2
"""Threads that copy, and open parts: one large file does not keep all others waiting."""

LOOKERS = 1
"""Those that look what is here of the files of jobs to come: a CPU that waits for its job's files does not wait for
them."""

WRITERS = 2
"""Threads that hash and write what arrives, each file always by the same one: 1.1 GB/s each."""

LOOK_AGAIN_S = 0.01
"""How often we look whether another node has received a file, and copy what has come of it."""

STUCK_S = 1.0
"""One that has received nothing more for so long is not waited for."""

PROGRESS_S = 0.1
"""How often a client is told how much has come."""

REFETCHES_MAX = 5
"""So often a file is fetched that is gone from the store before it was used."""

CHANGED = "its content is not what it was said to be: it has changed meanwhile"


logger = logging.getLogger("dispy.node")


def _misplaced(entries: list[FileEntry]) -> str:
    """Why files cannot lie where they are to; empty if they can."""
    try:
        check_entries(entries)
    except ValueError as error:
        return f"files cannot be put there: {error}"
    return ""


class Stager:
    """Files on their way to a node.

    Args:
        store: Where they are kept.
        seams: The world around.
        file_max: Bytes of the largest file that is taken; 0: no limit.
    """

    def __init__(self, store: Store, seams: Seams, file_max: int = 0) -> None:
        self._store = store
        self._seams = seams
        self._installed = Installed(seams.search_path, is_ours=seams.owner is None)
        self._file_max = file_max
        self._stages: set[Stage] = set()
        self._placing: set[Stage] = set()
        """Stages for which a thread looks or copies, or has that queued."""
        self._left: dict[Path, list[Callable[[], None]]] = {}
        """What is to be done when no thread puts anything into a directory any more."""
        self._fetches: dict[bytes, Fetch] = {}
        self._clients: dict[ClientId, Supplier] = {}
        self._writing: dict[ClientId, int] = {}
        """Bytes of clients that threads are to put away; also of connections that are broken."""
        self._numbers = itertools.count()
        self._placers: Executor | None = None
        self._lookers: Executor | None = None
        self._writers: list[Executor] = []
        self._hashers: Executor | None = None
        self._trimming: Future[None] | None = None
        """The last time that the store was to be trimmed."""
        self._is_closed = False

    @property
    def owner(self) -> tuple[int, int] | None:
        """User and group that files are given to; None: they are ours."""
        return self._seams.owner

    # What the service asks for.

    def stage(self, stage: Stage) -> Stage:
        """Get files, and put them where they belong; ``stage.done`` is called later."""
        self._stages.add(stage)
        fault = _misplaced(stage.entries)
        if not fault and any(entry.package for entry in stage.entries):
            self._run_for(stage, self._find_missing, self._on_missing)
            return stage
        fault = fault or self._too_large(stage.entries)
        if fault:
            self._seams.post(self._end, stage, fault)
        else:
            self._place(stage)
        return stage

    def _find_missing(self, stage: Stage) -> list[FileEntry]:
        """On a thread: what is not installed here as it is in the program."""
        return self._installed.missing(stage.entries, stage.around, lambda: not stage.is_dropped)

    def _on_missing(self, stage: Stage, missing: list[FileEntry]) -> None:
        self._on_idle(stage)
        if stage not in self._stages:
            return
        count = len(stage.entries) - len(missing)
        if count:
            logger.debug(
                "%d files of packages are not sent: they are installed here as in the program", count
            )
        stage.entries = missing
        fault = self._too_large(missing)
        if fault:
            self._end(stage, fault)
        else:
            self._place(stage)

    def _too_large(self, entries: list[FileEntry]) -> str:
        """Why files are not even asked for; empty if they are."""
        for entry in entries:
            if self._file_max and entry.size > self._file_max:
                return (
                    f"file {entry.path!r} has {counted(entry.size, 'byte')}, and it takes files of up to "
                    f"{self._file_max}; start it with another --max_file_size, or leave it out of nodes"
                )
        return ""

    def drop(self, stage: Stage, then: Callable[[], None] | None = None) -> None:
        """Files are not wanted any more; ``done`` is not called.

        Args:
            stage: Which.
            then: Called when nothing is put there any more; perhaps at once.
        """
        if then is not None and stage.is_placing:
            stage.after = then
            then = None
        self._leave(stage)
        if then is not None:
            then()

    def leave(self, work: Path, then: Callable[[], None]) -> None:
        """Call a function when no thread puts anything into a directory any more; perhaps at once."""
        self._left.setdefault(work, []).append(then)
        self._look_at_left(work)

    def _look_at_left(self, work: Path) -> None:
        if work in self._left and not any(stage.work == work for stage in self._placing):
            for then in self._left.pop(work):
                then()

    def _leave(self, stage: Stage) -> None:
        if stage not in self._stages:
            return
        self._stages.discard(stage)
        stage.is_dropped = True
        if stage.task is not None and stage.task.cancel():
            # No thread has begun with it.
            self._seams.post(self._on_idle, stage)
        if stage.begun and not self._is_closed:
            self._placer().submit(close_begun, stage)
        if stage.files_max:
            # Or it would seem to wait for them for ever.
            self._seams.send(stage.client, node.FilesProgress(stage.computation, 0, 0, 0, 0))
        is_unasked = False
        for digest in stage.missing:
            fetch = self._fetches.get(digest)
            if fetch is None:
                continue
            fetch.stages.remove(stage)
            if fetch.asker == stage.client:
                # Asked for in its name: the client may not know it any more.
                self._unask(fetch)
                is_unasked = True
            if not fetch.stages:
                self._forget(fetch)
            elif fetch.asker is None:
                self._want_again(fetch)
        if is_unasked:
            # There is room for others, also if nothing else is under way. When all is dropped that is to be.
            self._seams.post(self._ask, stage.client)
        self._trim_if_idle()

    def _unask(self, fetch: Fetch) -> None:
        """Whoever was asked for a file need not answer."""
        known = self._clients.get(fetch.asker) if fetch.asker is not None else None
        fetch.asker = None
        for item in fetch.early.values():
            self._discard(item)
            if known is not None:
                known.size -= item.size
        fetch.early.clear()
        if known is not None:
            for key in [key for key, asked in known.asked.items() if asked.fetch is fetch]:
                known.size -= known.asked.pop(key).size

    @staticmethod
    def _discard(item: Arrived) -> None:
        if not isinstance(item.data, bytes):
            item.data.discard()

    def _want_again(self, fetch: Fetch) -> None:
        """Somebody else is asked for a file."""
        client = fetch.stages[0].client
        self._want(client, fetch)
        self._ask(client)

    def on_lost(self, client: ClientId) -> None:
        """What a client was asked for was lost with its connection."""
        orphans = [fetch for fetch in self._fetches.values() if fetch.asker == client]
        for fetch in orphans:
            self._unask(fetch)
        self._clients.pop(client, None)
        for fetch in orphans:
            other = next((stage.client for stage in fetch.stages if stage.client != client), None)
            if other is not None:
                self._want(other, fetch)
                self._ask(other)

    def on_connected(self, client: ClientId) -> None:
        """A client is back: it is asked again."""
        self.on_lost(client)
        for fetch in self._fetches.values():
            if fetch.asker is None and any(stage.client == client for stage in fetch.stages):
                self._want(client, fetch)
        self._ask(client)

    def on_data(self, client: ClientId, pieces: Iterable[tuple[node.FilePiece, Landed | None]]) -> None:
        """A client has sent some of what it was asked for; the rest of it is dropped.

        Args:
            client: Who.
            pieces: With the streams that they refer to.
        """
        known = self._clients.get(client)
        arrived: list[Arrived] = []
        for piece, landed in pieces:
            asked = known.asked.pop((piece.digest, piece.offset), None) if known is not None else None
            if asked is None or known is None:
                if landed is not None:
                    landed.discard()
                continue
            fetch = asked.fetch
            item = Arrived(fetch, fetch.part, piece.offset, landed or piece.data, asked.size)
            fetch.early[piece.offset] = item
            while fetch.handed in fetch.early:
                item = fetch.early.pop(fetch.handed)
                fetch.handed += item.size
                known.size -= item.size
                self._writing[client] = self._writing.get(client, 0) + item.size
                fetch.is_mixed |= fetch.origin not in (None, client)
                fetch.origin = client
                arrived.append(item)
                if fetch.handed >= fetch.size:
                    break
        for number in range(WRITERS):
            mine = [item for item in arrived if item.fetch.digest[0] % WRITERS == number]
            if mine:
                self._run(self._writer(number), self._write, (mine,), self._on_written, (client, mine))

    def on_unreadable(self, client: ClientId, digest: bytes, reason: str) -> None:
        """A client cannot send a file."""
        fetch = self._fetches.get(digest)
        if fetch is not None and fetch.asker == client:
            self._fail(fetch, client, reason)

    def close(self) -> None:
        """Nobody waits for anything any more."""
        self._is_closed = True
        for stage in self._stages:
            stage.is_dropped = True
        for pool in [self._placers, self._lookers, *self._writers, self._hashers]:
            if pool is not None:
                pool.shutdown(cancel_futures=True)
        for stage in self._stages:
            close_begun(stage)
        for fetch in self._fetches.values():
            if fetch.part is not None:
                fetch.part.close()
        self._fetches.clear()

    # Threads.

    def _run(
        self,
        pool: Executor,
        work: Callable[..., Any],
        arguments: tuple[Any, ...],
        then: Callable[..., None],
        known: tuple[Any, ...],
    ) -> Future[Any]:
        """Do something on a thread, and then call ``then(*known, result)`` on the loop, unless it is cancelled."""

        def finish(future: Future[Any]) -> None:
            if not future.cancelled():
                self._seams.post(self._finish, then, known, future)

        task = pool.submit(work, *arguments)
        task.add_done_callback(finish)
        return task

    def _finish(self, then: Callable[..., None], known: tuple[Any, ...], future: Future[Any]) -> None:
        if not self._is_closed:
            then(*known, future.result())

    def _placer(self) -> Executor:
        if self._placers is None:
            self._placers = self._seams.threads(PLACERS, "dispy places")
        return self._placers

    def _looker(self) -> Executor:
        if self._lookers is None:
            self._lookers = self._seams.threads(LOOKERS, "dispy looks")
        return self._lookers

    def _writer(self, number: int) -> Executor:
        while len(self._writers) <= number:
            self._writers.append(self._seams.threads(1, "dispy writes"))
        return self._writers[number]

    def _hasher(self) -> Executor:
        if self._hashers is None:
            self._hashers = self._seams.threads(WRITERS, "dispy hashes")
        return self._hashers

    # Looking and placing.

    def _place(self, stage: Stage) -> None:
        """Put all there that is here; what is not is fetched."""
        self._run_for(stage, self._put, self._on_put)

    def _run_for(self, stage: Stage, work: Callable[[Stage], Any], then: Callable[..., None]) -> None:
        """Have a thread do something for a stage, and then call ``then(stage, result)`` on the loop."""
        self._placing.add(stage)
        pool = self._looker() if stage.work is None else self._placer()
        stage.task = self._run(pool, work, (stage,), then, (stage,))

    def _put(self, stage: Stage) -> tuple[dict[bytes, int], str]:
        """On a thread: what is missing, with sizes; if nothing is, all is put there. And why that failed."""
        missing: dict[bytes, int] = {}
        try:
            if stage.work is None:
                missing = {
                    entry.digest: entry.size
                    for entry in stage.entries
                    if not stage.is_dropped and not self._store.has(entry.digest, entry.size)
                }
            else:
                missing = put_files(
                    self._store,
                    stage.entries,
                    stage.work,
                    self._seams.owner,
                    lambda: not stage.is_dropped,
                    stage.begun,
                )
        except (OSError, ValueError) as error:
            return {}, f"files cannot be put into the working directory: {error}"
        return missing, ""

    def _on_put(self, stage: Stage, result: tuple[dict[bytes, int], str]) -> None:
        missing, reason = result
        self._on_idle(stage)
        if stage not in self._stages:
            return
        if reason or not missing:
            self._end(stage, reason)
            return
        stage.tries += 1
        if stage.tries > REFETCHES_MAX:
            self._end(
                stage, "files are removed from the node's store before they can be used; it is too small"
            )
            return
        stage.missing = missing
        stage.files_max = len(missing)
        stage.size_max = sum(missing.values())
        stage.files = stage.size = 0
        for digest, size in missing.items():
            fetch = self._fetches.get(digest)
            if fetch is None:
                fetch = self._fetches[digest] = Fetch(digest, size)
            fetch.stages.append(stage)
            if fetch.asker is None:
                self._want(stage.client, fetch)
        self._tell(stage)
        self._ask(stage.client)

    def _on_idle(self, stage: Stage) -> None:
        """No thread does anything for a stage any more, or is to."""
        if self._is_closed:
            return
        stage.task = None
        self._placing.discard(stage)
        if stage.after is not None:
            stage.after()
        if stage.work is not None:
            self._look_at_left(stage.work)

    def _end(self, stage: Stage, reason: str) -> None:
        if stage in self._stages:
            self._leave(stage)
            stage.done(reason)

    def _trim_if_idle(self) -> None:
        if self._stages or self._placers is None or self._is_closed:
            return
        due = self._trimming
        # One that has not begun does for all.
        if due is None or due.running() or due.done():
            self._trimming = self._placers.submit(self._store.trim)

    # Asking.

    def _want(self, client: ClientId, fetch: Fetch) -> None:
        """A file is to be asked for, of this client."""
        known = self._clients.get(client)
        if known is None:
            known = self._clients[client] = Supplier()
        fetch.asker = client
        fetch.asked = fetch.handed
        heapq.heappush(known.order, (fetch.size - fetch.asked, next(self._numbers), fetch))

    def _ask(self, client: ClientId) -> None:
        """Ask for as much as may be under way."""
        known = self._clients.get(client)
        if known is None:
            return
        pieces: dict[int, list[node.Piece]] = {}
        count = 0
        while known.order and known.size + self._writing.get(client, 0) < self._seams.pieces_max:
            _, number, fetch = known.order[0]
            stage = next((stage for stage in fetch.stages if stage.client == client), None)
            if stage is None or fetch.asker != client or self._fetches.get(fetch.digest) is not fetch:
                heapq.heappop(known.order)
                continue
            is_asked = (fetch.digest, fetch.asked) in known.asked
            # Of an empty file it shows by this that a thread has what has come.
            is_given = fetch.asked >= fetch.size and (fetch.size or fetch.origin is not None)
            if is_asked or is_given:
                heapq.heappop(known.order)
                continue
            if fetch.size > SMALL and fetch.part is None:
                # It comes back into the order when its part is open.
                heapq.heappop(known.order)
                self._open(fetch)
                continue
            size = min(self._seams.piece_max, fetch.size - fetch.asked)
            pieces.setdefault(stage.computation, []).append(node.Piece(fetch.digest, fetch.asked, size))
            known.asked[fetch.digest, fetch.asked] = Asked(fetch, size)
            known.size += size
            fetch.asked += size
            count += 1
            if fetch.asked >= fetch.size:
                heapq.heappop(known.order)
            else:
                heapq.heapreplace(known.order, (fetch.size - fetch.asked, number, fetch))
        for computation, wanted in pieces.items():
            for start in range(0, len(wanted), limits.PIECES_MAX):
                message = node.NeedFiles(computation, wanted[start : start + limits.PIECES_MAX])
                self._seams.send(client, message)

    def _open(self, fetch: Fetch) -> None:
        """Have the part of a file opened, unless nobody wants it any more."""
        if fetch.opening is None and self._fetches.get(fetch.digest) is fetch:
            stage = next((stage for stage in fetch.stages if stage.work is not None), None)
            fetch.opening = self._run(
                self._placer(),
                self._begin,
                (fetch.digest, fetch.size, fetch.is_apart, stage),
                self._on_open,
                (fetch,),
            )

    def _begin(
        self, digest: bytes, size: int, is_apart: bool, stage: Stage | None
    ) -> Part | OSError | None:
        """On a thread: the part of a file; None if it is here by now."""
        try:
            part = self._store.begin(digest, size, apart=is_apart)
            if part.offset == 0 and self._store.has(digest, size):
                # Another node was faster.
                part.abandon()
                return None
        except BusyError as error:
            if stage is not None and stage.work is not None:
                self._follow(stage, stage.work, digest)
            return error
        except OSError as error:
            return error
        return part

    def _follow(self, stage: Stage, work: Path, digest: bytes) -> None:
        """On a thread: copy what another node has received by now."""
        begun = stage.begun.get(digest)
        if begun is None and digest not in stage.begun:
            entry = next(entry for entry in stage.entries if entry.digest == digest)
            group = self._seams.owner[1] if self._seams.owner is not None else None
            begun = stage.begun[digest] = self._store.follow(entry, work, group)
        if begun is None:
            return
        try:
            begun.advance(lambda: not stage.is_dropped)
        except OSError:
            # What is to be said of it is said when it is put there.
            stage.begun[digest] = None
            begun.close()
        if stage.is_dropped:
            close_begun(stage)

    def _on_open(self, fetch: Fetch, result: Part | OSError | None) -> None:
        fetch.opening = None
        if self._fetches.get(fetch.digest) is not fetch:
            if isinstance(result, Part):
                result.close()
            return
        if result is None:
            self._on_stored(fetch)
        elif isinstance(result, BusyError):
            size, waited_s = fetch.seen
            fetch.seen = (result.size, waited_s + LOOK_AGAIN_S if result.size == size else 0.0)
            fetch.is_apart = fetch.seen[1] >= STUCK_S
            self._seams.later(LOOK_AGAIN_S, self._open, fetch)
        elif isinstance(result, OSError):
            self._fail_all(fetch, f"there is no room for it in the store: {result}")
        else:
            fetch.part = result
            self._add(fetch, result.offset)
            fetch.handed = result.offset
            fetch.is_mixed = result.offset > 0
            if fetch.handed >= fetch.size:
                # It was whole, but for its name.
                self._run(self._placer(), result.finish, (), self._on_finished, (fetch,))
                return
            self._want_again(fetch)

    def _on_finished(self, fetch: Fetch, is_whole: bool) -> None:
        if self._fetches.get(fetch.digest) is not fetch:
            return
        fetch.part = None
        if is_whole:
            self._on_stored(fetch)
            return
        self._begin_anew(fetch)

    # What arrives.

    def _write(self, arrived: list[Arrived]) -> list[bool | str | None]:
        """On a thread: put pieces away. For each whether its file is whole now, or is not what it should be (None),
        or why it cannot be stored.
        """
        results: list[bool | str | None] = []
        for fetch, part, offset, landed, size in arrived:
            try:
                data = landed if isinstance(landed, bytes) else landed.view()
                results.append(self._put_away(fetch, part, offset, data, size))
            except (OSError, ValueError) as error:
                results.append(f"there is no room for it in the store: {error}")
            data = b""
            if not isinstance(landed, bytes):
                landed.let_go()
        return results

    def _put_away(
        self, fetch: Fetch, part: Part | None, offset: int, data: bytes | memoryview, size: int
    ) -> bool | None:
        if len(data) != size:
            return None
        if part is None:
            return True if self._store.add(fetch.digest, data) else None
        part.write(offset, data, self._hasher())
        if part.offset < fetch.size:
            return False
        return True if part.finish() else None

    def _on_written(
        self, client: ClientId, arrived: list[Arrived], results: list[bool | str | None]
    ) -> None:
        left = self._writing.pop(client, 0) - sum(item.size for item in arrived)
        if left:
            self._writing[client] = left
        for (fetch, part, _, _, size), result in zip(arrived, results, strict=True):
            if self._fetches.get(fetch.digest) is not fetch or fetch.part is not part:
                continue
            if result is True:
                fetch.part = None
                self._add(fetch, size)
                self._on_stored(fetch)
            elif result is False:
                self._add(fetch, size)
            elif result is None:
                fetch.part = None
                if fetch.is_mixed:
                    self._begin_anew(fetch)
                else:
                    self._fail(fetch, client, CHANGED)
            else:
                self._fail_all(fetch, result)
        self._ask(client)

    def _add(self, fetch: Fetch, size: int) -> None:
        for stage in fetch.stages:
            stage.size += size
            if not stage.is_told:
                self._tell(stage)

    def _on_stored(self, fetch: Fetch) -> None:
        """A file is here."""
        del self._fetches[fetch.digest]
        for stage in fetch.stages:
            stage.missing.pop(fetch.digest, None)
            stage.files += 1
            if stage.missing or stage not in self._stages:
                continue
            if stage.work is None:
                self._end(stage, "")
            else:
                self._place(stage)

    def _fail(self, fetch: Fetch, client: ClientId, reason: str) -> None:
        """A client cannot send what it said it has; others may."""
        self._fail_stages(fetch, [stage for stage in fetch.stages if stage.client == client], reason)
        if self._fetches.get(fetch.digest) is fetch:
            self._begin_anew(fetch)

    def _begin_anew(self, fetch: Fetch) -> None:
        """Forget what has come of a file, and ask for all of it."""
        self._unask(fetch)
        if fetch.part is not None:
            self._close_part(fetch)
        fetch.handed = 0
        fetch.origin = None
        fetch.is_mixed = False
        self._want_again(fetch)

    def _fail_all(self, fetch: Fetch, reason: str) -> None:
        self._fail_stages(fetch, list(fetch.stages), reason)

    def _fail_stages(self, fetch: Fetch, stages: list[Stage], reason: str) -> None:
        for stage in stages:
            path = next(entry.path for entry in stage.entries if entry.digest == fetch.digest)
            self._end(stage, f"file {path!r} cannot be had: {reason}")

    def _forget(self, fetch: Fetch) -> None:
        """Nobody wants a file any more. What is there of it stays for the next one."""
        self._fetches.pop(fetch.digest, None)
        if fetch.opening is not None:
            fetch.opening.cancel()
        if fetch.part is not None:
            self._close_part(fetch)

    def _close_part(self, fetch: Fetch) -> None:
        """Not before what was given to its thread has been written."""
        if fetch.part is not None and not self._is_closed:
            self._writer(fetch.digest[0] % WRITERS).submit(fetch.part.close)
        fetch.part = None

    # Saying how far it is.

    def _tell(self, stage: Stage) -> None:
        """Tell the client how much has come, ten times a second at most."""
        stage.is_told = True
        self._seams.later(PROGRESS_S, self._untell, stage)
        self._seams.send(
            stage.client,
            node.FilesProgress(stage.computation, stage.files, stage.files_max, stage.size, stage.size_max),
        )

    def _untell(self, stage: Stage) -> None:
        stage.is_told = False
        if stage in self._stages and stage.missing:
            self._tell(stage)
