"""Gets files from clients into stores, and from there into the directories where jobs find them.

A *stage* is a set of files that something on the node waits for; a *fetch* is one file that is not in the store of
its owner yet, and may serve several stages of this owner. A stage goes through these steps, each on a thread, with
the result on the event loop:

1. Files of packages that are installed on this node as in the program are taken out (``installed_packages``).
2. All other files that are in the store are put into the directory, if all of them are there. Then the stage ends.
3. Files that are missing are fetched (``requests``, ``parts``). When the last one is stored, step 2 is repeated: the
   store may have been trimmed meanwhile. After ``REFETCHES_MAX`` repetitions the stage fails.

A stage that is dropped takes its work back from the queue of the threads, since wanted work may be behind it. A fetch
without stages is forgotten; what is there of its part stays on disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from dispy.files.checkout import put_files
from dispy.files.fetching.parts import Outcomes, Parts
from dispy.files.fetching.thread_pools import ThreadPools
from dispy.files.fetching.wanted_files import (
    Fetch,
    FetchKey,
    Landed,
    Seams,
    Stage,
    SupplierId,
    close_begun,
    fetch_key,
)
from dispy.files.installed_packages import Installed
from dispy.files.stores import Stores
from dispy.protocol import node
from dispy.protocol.files import FileEntry, check_entries
from dispy.system.wording import counted

PROGRESS_S = 0.1
"""Minimum interval (seconds) between two messages that tell a client how much has come for a stage. One that begins
the fetching of files is sent at once."""

REFETCHES_MAX = 5
"""Number of times that files of one stage are fetched because they are not in the store; at one more the stage
fails."""


logger = logging.getLogger("dispy.node")


def _misplaced(entries: list[FileEntry]) -> str:
    """Returns why files cannot lie in one directory by their paths, the reason to fail a stage; empty if they can."""
    try:
        check_entries(entries)
    except ValueError as error:
        return f"files cannot be put there: {error}"
    return ""


class Stager:
    """Stages of one node. Methods are called on the event loop unless they say otherwise.

    Args:
        stores: The stores of files by content, which other nodes of the user share; here only to be trimmed.
        seams: Functions of the node for messages, timers and threads, and limits.
        file_max: Bytes of the largest file that is taken; a stage with a larger one fails at once. 0: no limit.
    """

    def __init__(self, stores: Stores, seams: Seams, file_max: int = 0) -> None:
        self._stores = stores
        self._seams = seams
        self._installed = Installed()
        self._file_max = file_max
        self._stages: set[Stage] = set()
        """Stages that have neither ended nor been dropped."""
        self._placing: set[Stage] = set()
        """Stages, also dropped ones, for which a thread looks for files or puts them into a directory, or has that
        queued. As long as one is here, functions given to ``leave`` for its directory wait."""
        self._left: dict[Path, list[Callable[[], None]]] = {}
        """Functions given to ``leave``, to be called when no thread puts files into a directory any more, by path of
        the directory. Called once, then removed."""
        self._fetches: dict[FetchKey, Fetch] = {}
        """Files that are wanted and not stored. Shared with ``_parts``."""
        self._threads = ThreadPools(seams)
        outcomes = Outcomes(self._on_received, self._on_stored, self._fail_stages)
        self._parts = Parts(seams, self._threads, self._fetches, outcomes)
        self._trimming: Future[None] | None = None
        """Future of the last trimming of the stores, queued, running or done; None: there was none yet. While it is
        queued, no second one is begun."""

    # Requests of the service.

    def stage(self, stage: Stage) -> Stage:
        """Begin to fetch the files of a stage, and to put them into its directory if it has one; returns the stage.

        ``stage.done`` is called later, never at once, unless the stage is dropped before.
        """
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

    def drop(self, stage: Stage, then: Callable[[], None] | None = None) -> None:
        """Give up a stage: its ``done`` is not called any more, and files that only it needs are not fetched.

        Args:
            stage: The stage; one that has ended is fine.
            then: Called when no thread puts files into the stage's directory for it any more; perhaps at once.
        """
        if then is not None and stage.is_placing:
            stage.after = then
            then = None
        self._leave(stage)
        if then is not None:
            then()

    def leave(self, work: Path, then: Callable[[], None]) -> None:
        """Call ``then`` when no thread puts files into the directory ``work`` any more, so that it can be removed.

        The call may come at once.
        """
        self._left.setdefault(work, []).append(then)
        self._look_at_left(work)

    def on_lost(self, supplier: SupplierId) -> None:
        """Forget the requests to a client: its connection is lost.

        Files that other clients have, too, are asked of these; stages with other files wait until the client is back.
        """
        self._parts.requests.on_lost(supplier)

    def on_connected(self, supplier: SupplierId) -> None:
        """Ask a client that has connected, perhaps again, for files of its stages that no other is asked for."""
        self._parts.requests.on_connected(supplier)

    def on_data(
        self,
        supplier: SupplierId,
        computation: int,
        pieces: Iterable[tuple[node.FilePiece, Landed | None]],
    ) -> None:
        """Take pieces that a client has sent. Pieces that it was not asked for are dropped.

        Args:
            supplier: The client.
            computation: Number of the computation in whose name it says that it was asked.
            pieces: Each piece with the stream that holds its data; None if the data is in the piece itself.
        """
        self._parts.on_data(supplier, computation, pieces)

    def on_unreadable(self, supplier: SupplierId, computation: int, digest: bytes, reason: str) -> None:
        """Fail the stages of a client that need a file: the client says that it cannot send the file, and why."""
        self._parts.on_unreadable(supplier, computation, digest, reason)

    def close(self) -> None:
        """End all threads, waiting for work that runs. No stage is told anything any more."""
        for stage in self._stages:
            stage.is_dropped = True
        self._threads.close()
        for stage in self._stages:
            close_begun(stage)
        self._parts.close()

    # Files that are installed here, and files that are too large.

    def _find_missing(self, stage: Stage) -> list[FileEntry]:
        """Returns the files of a stage, without those of packages that are installed here with equal content.

        Called on a thread.
        """
        assert stage.around is not None
        paths = self._seams.search_path(stage.around)
        try:
            with self._seams.open_directory(stage.around) as directory:
                return directory.find_missing(
                    self._installed.missing, stage.entries, paths, lambda: not stage.is_dropped
                )
        except OSError as error:
            # The computation leaves, or the directory cannot be looked at: then nothing counts as installed.
            logger.debug("installed packages were not looked for: %s", error)
            return stage.entries

    def _on_missing(self, stage: Stage, missing: list[FileEntry]) -> None:
        """Leave out the files of a stage that are installed here, and go on with ``missing``, the others."""
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
        """Returns why a stage fails before its files are asked for: one is above ``file_max``. Empty if none is."""
        for entry in entries:
            if self._file_max and entry.size > self._file_max:
                return (
                    f"file {entry.path!r} has {counted(entry.size, 'byte')}, and it takes files of up to "
                    f"{self._file_max}; start it with another --max_file_size, or leave it out of nodes"
                )
        return ""

    # Looking and placing.

    def _place(self, stage: Stage) -> None:
        """Put the files of a stage into its directory if all are in the store; otherwise fetch what is missing."""
        self._run_for(stage, self._put, self._on_put)

    def _run_for(self, stage: Stage, work: Callable[[Stage], Any], then: Callable[..., None]) -> None:
        """Call ``work(stage)`` on a thread, and then ``then(stage, result)`` on the event loop.

        Stages without a directory have a thread of their own, so that jobs about to start do not wait for them.
        """
        self._placing.add(stage)
        threads = self._threads
        pool = threads.looker() if stage.work is None else threads.placer()
        stage.task = threads.run(pool, work, (stage,), then, (stage,), self._on_fault)

    def _on_fault(self, stage: Stage, reason: str) -> None:
        """End a stage whose work on a thread, or what was to follow, has failed by a fault of this program."""
        self._on_idle(stage)
        self._end(stage, reason)

    def _put(self, stage: Stage) -> tuple[dict[bytes, int], str]:
        """Put files into the directory of a stage if all are in the store, on a thread.

        Returns:
            Sizes (bytes) of files that are not in the store, by digest; and why the files cannot be put there,
            empty if they can.
        """
        missing: dict[bytes, int] = {}
        try:
            if stage.work is None:
                missing = {
                    entry.digest: entry.size
                    for entry in stage.entries
                    if not stage.is_dropped and not stage.store.has(entry.digest, entry.size)
                }
            else:
                with self._seams.open_directory(stage.work) as directory:
                    missing = put_files(
                        stage.store, stage.entries, directory, lambda: not stage.is_dropped, stage.begun
                    )
        except (OSError, ValueError) as error:
            return {}, f"files cannot be put into the working directory: {error}"
        return missing, ""

    def _on_put(self, stage: Stage, result: tuple[dict[bytes, int], str]) -> None:
        """Take the result of ``_put``: end the stage, or fetch the files that are missing."""
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
        requests = self._parts.requests
        for digest, size in missing.items():
            key = fetch_key(stage.store, digest, size)
            fetch = self._fetches.get(key)
            if fetch is None:
                fetch = self._fetches[key] = Fetch(stage.store, digest, size)
            fetch.stages.append(stage)
            if fetch.supplier is None:
                requests.want(stage.supplier, fetch)
        self._tell(stage)
        requests.ask(stage.supplier)

    def _on_idle(self, stage: Stage) -> None:
        """Note that no thread works for a stage any more, and call functions that wait for this: ``Stage.after``, and
        those given to ``leave`` for its directory.

        Called with the result of each work of a thread, and when work was taken back from the queue.
        """
        if self._threads.is_closed:
            return
        stage.task = None
        self._placing.discard(stage)
        if stage.after is not None:
            stage.after()
        if stage.work is not None:
            self._look_at_left(stage.work)

    def _look_at_left(self, work: Path) -> None:
        """Call the functions that wait until no thread puts files into a directory, if none does."""
        if work in self._left and not any(stage.work == work for stage in self._placing):
            for then in self._left.pop(work):
                then()

    # The end of stages.

    def _end(self, stage: Stage, reason: str) -> None:
        """End a stage, unless it has ended or was dropped; ``done`` gets the reason, empty if all files are there."""
        if stage in self._stages:
            self._leave(stage)
            stage.done(reason)

    def _leave(self, stage: Stage) -> None:
        """Take a stage out of the stager: threads stop working for it, and fetches for it alone are given up."""
        if stage not in self._stages:
            return
        self._stages.discard(stage)
        stage.is_dropped = True
        if stage.task is not None and stage.task.cancel():
            # No thread has begun with it.
            self._seams.post(self._on_idle, stage)
        if stage.begun and not self._threads.is_closed:
            self._threads.do(self._threads.placer(), close_begun, stage)
        if stage.files_max:
            # Or the client would show for ever that this node waits for files.
            self._seams.send(stage.supplier, node.FilesProgress(stage.computation, 0, 0, 0, 0))
        requests = self._parts.requests
        is_unasked = False
        for digest, size in stage.missing.items():
            fetch = self._fetches.get(fetch_key(stage.store, digest, size))
            if fetch is None:
                continue
            fetch.stages.remove(stage)
            if fetch.supplier == stage.supplier:
                # The file was asked for in the name of this stage: the client may not know that any more.
                requests.unask(fetch)
                is_unasked = True
            if not fetch.stages:
                self._parts.forget(fetch)
            elif fetch.supplier is None:
                requests.want_again(fetch)
        if is_unasked:
            # There is room for other requests, even if nothing else is under way. Posted, so that when several stages
            # are dropped in a row, files of the next ones are not asked for in between.
            self._seams.post(requests.ask, stage.supplier)
        self._trim_if_idle()

    def _trim_if_idle(self) -> None:
        """Have a thread trim the stores if no stage is left, so that no file is removed that a stage waits for."""
        if self._stages or self._threads.placers is None or self._threads.is_closed:
            return
        due = self._trimming
        # A trimming that has not begun serves for all.
        if due is None or due.running() or due.done():
            self._trimming = self._threads.do(self._threads.placers, self._stores.trim)

    # Outcomes of fetches.

    def _on_received(self, fetch: Fetch, size: int) -> None:
        """Add ``size`` bytes that have come of a file to the stages that wait for it, and tell their clients."""
        for stage in fetch.stages:
            stage.size += size
            if not stage.is_told:
                self._tell(stage)

    def _on_stored(self, fetch: Fetch) -> None:
        """Take a stored file off the stages that wait for it. A stage with all files puts them there, or ends."""
        for stage in fetch.stages:
            stage.missing.pop(fetch.digest, None)
            stage.files += 1
            if stage.missing or stage not in self._stages:
                continue
            if stage.work is None:
                self._end(stage, "")
            else:
                self._place(stage)

    def _fail_stages(self, fetch: Fetch, stages: list[Stage], reason: str) -> None:
        """End stages that cannot have a file. The reason that they are told begins with the file's path."""
        for stage in stages:
            path = next(entry.path for entry in stage.entries if entry.digest == fetch.digest)
            self._end(stage, f"file {path!r} cannot be had: {reason}")

    # Progress.

    def _tell(self, stage: Stage) -> None:
        """Tell the client of a stage how much has come (``FilesProgress``); set ``is_told`` for ``PROGRESS_S``."""
        stage.is_told = True
        self._seams.later(PROGRESS_S, self._untell, stage)
        self._seams.send(
            stage.supplier,
            node.FilesProgress(stage.computation, stage.files, stage.files_max, stage.size, stage.size_max),
        )

    def _untell(self, stage: Stage) -> None:
        """Tell the client of a stage again how much has come, if files are still missing.

        Called by a timer, ``PROGRESS_S`` after it was told last.
        """
        stage.is_told = False
        if stage in self._stages and stage.missing:
            self._tell(stage)
