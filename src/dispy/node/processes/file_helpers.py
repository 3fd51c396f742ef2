"""File helpers, at the node's end: processes that work with files as the accounts of jobs (``files.file_helper``).

A node that runs jobs as its own user needs none, and works with files itself. One that runs them as other accounts
lends a helper of the account the descriptor of a directory, and asks (``LentTree``). If a helper has died, the next
question starts another one. One that does not answer in time, as a job may have led it to a file system of its own
that stands still, is killed: what was asked fails, and nothing else waits for it.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any

import msgspec

from dispy.files import helper_channel
from dispy.files.untrusted_directory import COPY_MAX, FindMissing, Linker, Tree
from dispy.node.machine.accounts import Account
from dispy.node.processes.spared import Spared
from dispy.protocol import file_helper as protocol
from dispy.protocol.files import FileEntry, check_path
from dispy.system.processes import MARK

logger = logging.getLogger("dispy.node")

CALL_S = 60.0
"""Seconds that a helper has to answer. The longest work of one request is ``COPY_MAX`` bytes or ``EMPTY_S``."""

LOOK_S = 600.0
"""Seconds that a helper has to compare files that are there with those of a program: it hashes all of them."""

EMPTY_S = 5.0
"""Seconds for which a helper removes files for one request; then it is asked again, ``EMPTIES_MAX`` times."""

EMPTIES_MAX = 60
"""Requests to empty one directory. After that its files stay: something makes new ones all the time."""

CHANNELS = 4
"""Sockets of a helper, and threads in it: as many threads of the node as work with files at once."""

_PUT_MAX = 64
"""Files that a helper is asked to put into a directory at once; with the directory, half of ``DESCRIPTORS_MAX``."""


class FileHelper:
    """The helper of one account. Any thread may call the methods; each call takes one of the sockets for itself.

    Args:
        ids: User and group of the account.
        groups: Its other groups.
        mark: Path of the node's directory, for the environment of the helper (``processes.MARK``).
        spared: Gets the pid of the process.
    """

    def __init__(self, ids: tuple[int, int], groups: Sequence[int], mark: str, spared: Spared) -> None:
        self._ids = ids
        self._groups = groups
        self._mark = mark
        self._spared = spared
        self._changed = threading.Condition()
        """Guards the fields below; notified when a socket is free again."""
        self._process: subprocess.Popen[bytes] | None = None
        """The process; None: none was started, or the last one was found dead or was killed."""
        self._free: list[socket.socket] = []
        """Sockets of the process that no thread uses."""
        self._is_closed = False

    def call(
        self, request: Any, descriptors: Sequence[int] = (), limit_s: float = CALL_S
    ) -> tuple[Any, list[int]]:
        """Ask the helper; returns the value of its answer, and descriptors that came with it, which are the caller's.

        Raises:
            OSError: What was asked cannot be done, the helper has died twice, or it does not answer: then it is
                killed.
        """
        for is_last in (False, True):
            process, channel = self._take()
            try:
                channel.settimeout(limit_s)
                helper_channel.send(channel, request, list(descriptors))
                received = helper_channel.receive(channel)
                if received is None:
                    raise ConnectionError("it ended")
            except TimeoutError:
                self._end(process, channel)
                raise OSError(
                    errno.ETIMEDOUT,
                    f"the file helper of user {self._ids[0]} has not answered for {limit_s:g} s, and was killed",
                ) from None
            except OSError as error:
                self._end(process, channel)
                if is_last:
                    raise OSError(
                        errno.EIO, f"the file helper of user {self._ids[0]} cannot be asked: {error}"
                    ) from error
                continue
            with self._changed:
                self._free.append(channel)
                self._changed.notify()
            return self._take_answer(request, *received)
        raise AssertionError

    def start(self) -> None:
        """Start the process, so that the first question need not wait for its imports.

        Raises:
            OSError: It cannot be started.
        """
        with self._changed:
            if self._process is None and not self._is_closed:
                self._process = self._start()

    def _take_answer(self, request: Any, body: bytes, opened: list[int]) -> tuple[Any, list[int]]:
        """Returns value and descriptors of an answer; raises the ``OSError`` that it tells of."""
        try:
            answer = protocol.answer_decoder.decode(body)
            if answer.errno:
                raise OSError(
                    max(answer.errno, errno.EIO) if answer.errno < 0 else answer.errno, answer.text
                )
            kind = protocol.ANSWERS.get(type(request))
            return (msgspec.msgpack.decode(answer.value, type=kind) if kind else None), opened
        except BaseException as error:
            helper_channel.close_all(opened)
            if isinstance(error, msgspec.DecodeError):
                raise OSError(errno.EBADMSG, f"the file helper's answer is none: {error}") from error
            raise

    def _take(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """Returns the process and a socket for one call; starts the process if there is none, and waits for a socket
        if all are in use.

        Raises:
            OSError: It cannot be started, or the node ends.
        """
        with self._changed:
            while True:
                if self._is_closed:
                    raise OSError(errno.ESHUTDOWN, "the node ends")
                if self._process is None:
                    self._process = self._start()
                if self._free:
                    return self._process, self._free.pop()
                self._changed.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the process, and put the node's ends of its sockets into ``_free``. The caller holds the lock."""
        pairs = [socket.socketpair() for _ in range(CHANNELS)]
        theirs = [pair[1].fileno() for pair in pairs]
        groups = ",".join(map(str, self._groups))
        try:
            with self._spared.starting:
                process = subprocess.Popen(
                    [
                        sys.executable, "-P", "-c", "from dispy.files.file_helper import main; main()",
                        *map(str, self._ids), groups, *map(str, theirs),
                    ],
                    pass_fds=theirs,
                    env={**os.environ, MARK: self._mark},
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    # Ctrl-C at the node's terminal is for the node alone.
                    start_new_session=True,
                )  # fmt: skip
                self._spared.pids.add(process.pid)
        except BaseException:
            for ours, _ in pairs:
                ours.close()
            raise
        finally:
            for _, other in pairs:
                other.close()
        self._free = [ours for ours, _ in pairs]
        return process

    def _end(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        """Kill a process that is of no use any more; other calls under way to it fail, and try a new one."""
        channel.close()
        with self._changed:
            if self._process is process:
                for other in self._free:
                    other.close()
                self._free = []
                self._process = None
            self._changed.notify_all()
        process.kill()
        process.wait()
        self._spared.pids.discard(process.pid)

    def close(self) -> None:
        """End the process. Calls under way fail. Safe to repeat."""
        with self._changed:
            self._is_closed = True
            process, self._process = self._process, None
            for channel in self._free:
                channel.close()
            self._free = []
            self._changed.notify_all()
        if process is not None:
            process.kill()
            process.wait()
            self._spared.pids.discard(process.pid)


class LentTree:
    """A directory of an account, with the methods of ``Tree``; its helper does the work. One thread at a time.

    The caller must close it, or use it as a context manager.

    Args:
        helper: The helper of the account.
        directory: Descriptor of the directory, which stays the caller's.
    """

    can_link = False
    """False: the account cannot link files of the store, which are the node's; they are copied."""

    def __init__(self, helper: FileHelper, directory: int) -> None:
        self._helper = helper
        self._root = os.dup(directory)
        self._waiting: list[tuple[FileEntry, int]] = []
        """Files that ``put`` has taken and ``flush`` is to send, each with a descriptor of its content."""
        self._size = 0
        """Bytes of the files in ``_waiting``."""

    def close(self) -> None:
        """Close all descriptors. To be called once. Files that were not flushed are not put there."""
        helper_channel.close_all([source for _, source in self._waiting])
        self._waiting = []
        os.close(self._root)

    def __enter__(self) -> LentTree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: Any, *descriptors: int, limit_s: float = CALL_S) -> Any:
        """Returns the value of the helper's answer about the directory; ``descriptors``: those beside it."""
        value, opened = self._helper.call(request, [self._root, *descriptors], limit_s)
        helper_channel.close_all(opened)
        return value

    def _open(self, request: Any) -> int:
        """Returns the one descriptor that comes with the helper's answer."""
        _, opened = self._helper.call(request, [self._root])
        if len(opened) != 1:
            helper_channel.close_all(opened)
            raise OSError(errno.EBADMSG, "the file helper has not opened what it was asked for")
        return opened[0]

    def holds_all(self, entries: list[FileEntry]) -> list[bool]:
        """Returns for each file whether the directory has it already."""
        found: list[bool] = self._ask(protocol.HoldsAll(entries), limit_s=LOOK_S)
        if len(found) != len(entries):
            raise OSError(errno.EBADMSG, "the file helper's answer is none")
        return found

    def find_missing(
        self,
        find_missing: FindMissing,
        entries: list[FileEntry],
        search_path: Sequence[str],
        is_wanted: Callable[[], bool],
    ) -> list[FileEntry]:
        """Returns the files to send (``Installed.missing``): the helper compares what the account can read.

        ``find_missing`` is not called.
        """
        asked = protocol.FindMissing(entries, list(search_path))
        return [entries[place] for place in self._ask(asked, limit_s=LOOK_S) if 0 <= place < len(entries)]

    def put(
        self,
        entry: FileEntry,
        source: int,
        link: Linker | None = None,
        is_wanted: Callable[[], bool] = lambda: True,
        is_unchanged: Callable[[], bool] = lambda: True,
    ) -> None:
        """Put a copy of an open file into the directory, perhaps not before ``flush``.

        ``link`` must be None. ``is_unchanged`` is not asked: nobody is lent files of a store for another account, so
        they do not change.

        Raises:
            OSError: A file cannot be put there: this one, or one before.
            ValueError: The path leads out of the directory.
        """
        check_path(entry.path)
        if entry.size > COPY_MAX:
            self.flush()
            self._put_large(entry, source, is_wanted)
            return
        self._waiting.append((entry, os.dup(source)))
        self._size += entry.size
        if len(self._waiting) >= _PUT_MAX or self._size >= COPY_MAX:
            self.flush()

    def _put_large(self, entry: FileEntry, source: int, is_wanted: Callable[[], bool]) -> None:
        """Copy a large file in steps, between which ``is_wanted`` is asked."""
        try:
            made = self.nameless()
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            self._waiting.append((entry, os.dup(source)))  # no files without names on this file system
            self.flush()
            return
        try:
            self.copy_range(source, made, 0, entry.size, is_wanted)
            self.finish(made, entry)
        finally:
            os.close(made)

    def flush(self) -> None:
        """Put the files there that ``put`` has taken.

        Raises:
            OSError: One of them cannot be put there.
        """
        waiting, self._waiting, self._size = self._waiting, [], 0
        if not waiting:
            return
        sources = [source for _, source in waiting]
        try:
            reasons = self._ask(protocol.Put([entry for entry, _ in waiting]), *sources)
        finally:
            helper_channel.close_all(sources)
        for reason in reasons:
            if reason:
                raise OSError(reason)

    def nameless(self) -> int:
        """Make an empty file without a name in the directory; returns its descriptor, which the caller closes."""
        return self._open(protocol.Nameless())

    def copy_range(
        self, source: int, target: int, start: int, end: int, is_wanted: Callable[[], bool]
    ) -> None:
        """Copy bytes of an open file to the same offsets of a file of ``nameless``.

        Raises:
            OSError: There is no room, the source is shorter, or ``is_wanted`` has returned False.
        """
        for step in range(start, end, COPY_MAX):
            if not is_wanted():
                raise OSError(errno.ECANCELED, "it is not wanted any more")
            self._helper.call(protocol.Copy(step, min(end, step + COPY_MAX)), [source, target])

    def finish(self, made: int, entry: FileEntry) -> None:
        """Put a file of ``nameless``, which has its whole content, into the directory."""
        check_path(entry.path)
        self._ask(protocol.Finish(entry), made)

    def reserve(self, files: list[tuple[str, int]]) -> list[list[str]]:
        """Make way for files that are to be there for a while (``Tree.reserve``)."""
        found: list[list[str]] = self._ask(protocol.Reserve(files))
        return found

    def release(self, files: list[tuple[str, int, list[str]]], *, was_put: bool = True) -> None:
        """Remove files, and give those that ``reserve`` has moved aside their names back (``Tree.release``)."""
        self._ask(protocol.Release(files, was_put))

    def open_below(self, names: tuple[str, ...], *, make: bool = True) -> int:
        """Returns the descriptor of a directory below, which the caller closes; ``make``: missing ones are made."""
        return self._open(protocol.Descend(names, make))

    def remove_directory(self, path: str) -> None:
        """Remove a directory with its content, and then those above it, below this one, that are empty.

        Errors are ignored.
        """
        with suppress(OSError):
            below = self.open_below(check_path(path), make=False)
            try:
                with LentTree(self._helper, below) as tree:
                    tree.empty()
            finally:
                os.close(below)
            self._ask(protocol.RemoveDirectory(path))

    def empty(self) -> None:
        """Remove all that is in the directory; what cannot be removed stays.

        Raises:
            OSError: The helper does not answer.
        """
        for _ in range(EMPTIES_MAX):
            if self._ask(protocol.Empty(EMPTY_S)):
                return


class FileHelpers:
    """The helpers of a node, one for each account, and a thread that asks them for what the loop cannot wait for.

    Args:
        spared: Gets the pids of the helpers.

    Attributes:
        mark: Path of the node's directory (``processes.MARK``), for helpers that are started from now on.
    """

    def __init__(self, spared: Spared) -> None:
        self.mark = ""
        self._spared = spared
        self._guard = threading.Lock()
        """Guards ``_helpers``."""
        self._helpers: dict[int, FileHelper] = {}
        """Helpers by user id; made at first use."""
        self._keeper: ThreadPoolExecutor | None = None
        """The thread; made at first use. With one thread, work is done in the order in which it was given."""

    def of(self, ids: tuple[int, int], groups: Sequence[int] = ()) -> FileHelper:
        """Returns the helper of a user and group; its process is started with the first question."""
        with self._guard:
            helper = self._helpers.get(ids[0])
            if helper is None:
                helper = self._helpers[ids[0]] = FileHelper(ids, groups, self.mark, self._spared)
            return helper

    def tree(self, directory: int, account: Account | None) -> Tree | LentTree:
        """Returns the files of a directory: worked with by this process, or as ``account``.

        Args:
            directory: Descriptor of the directory, which stays the caller's.
            account: Account whose directory it is; None: it is ours.
        """
        if account is None:
            return Tree(directory)
        return LentTree(self.of((account.uid, account.gid), account.groups), directory)

    def run(
        self, work: Callable[[], Any], then: Callable[[Any], None], post: Callable[..., object]
    ) -> None:
        """Have a thread do some work with files, and then call ``then`` with its result, or its exception.

        Args:
            work: The work. What is given first is done first.
            then: Called on the event loop, by ``post``.
            post: Has a function called on the event loop; called by the thread.
        """
        if self._keeper is None:
            self._keeper = ThreadPoolExecutor(1, "dispy keeps")
        self._keeper.submit(lambda: post(then, attempt(work)))

    def finish(self) -> None:
        """Wait for the work that was given to ``run``. Its results are not told any more."""
        if self._keeper is not None:
            self._keeper.shutdown()
            self._keeper = None

    def close(self) -> None:
        """End the helpers, after the work that was given. Safe to repeat."""
        self.finish()
        for helper in self._helpers.values():
            helper.close()


def attempt(work: Callable[[], Any]) -> Any:
    """Returns the result of some work, or the exception that it has raised."""
    try:
        return work()
    except Exception as error:
        return error
