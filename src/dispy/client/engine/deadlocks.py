"""Deadlock detection: does a thread that is waited for work, or stand at a lock that may never be released?

Theory of operation. A thread that waits for callbacks may hold a lock that one of them wants: then neither goes on. A
callback may also just be slow, and has to be waited for. Python does not say which thread holds a lock, or which will
set an event. What can be seen, by looking at the stacks of all threads again and again:

- A thread is *at a lock* if its innermost frame is in ``threading`` (conditions, events, queues, futures, joins), at
  ``with lock:`` or at a call of ``acquire``. A thread that sleeps, reads, writes, computes or runs native code is not
  at a lock. Neither is one in a wait of dispy itself, as for another job: the engine ends that wait.
- A thread is *still* if it is in the same frame at the same instruction at each look. A callback that takes one lock
  after another, or asks again and again with a timeout, is not still.
- A thread is *alone* if each other thread of the program, but for dispy's own, is at a lock, too: no thread is left
  to release its lock.

What cannot be seen: native threads that would set an event, which lock it is, and whether a callback is in
``SimpleQueue.get`` or in other native code. So no callback is given up at once (``callback_thread.Patience``).
"""

from __future__ import annotations

import dis
import functools
import os
import sys
import threading
from collections.abc import Collection
from types import CodeType, FrameType

_PASSED_ON = frozenset({"threading", "queue", "concurrent.futures._base"})
"""Names of modules whose frames are skipped to find the code that waits: they wait on behalf of their callers."""

_OWN = "dispy."
"""Prefix of the names of dispy's own modules. Their waits are ended by the engine, so they are no deadlock."""


class Standing:
    """Record of where one thread stands, and for how long, by successive calls of ``look``.

    Args:
        thread: Thread that is waited for.
        outermost: Code object of dispy's function that calls the user's (``call_now``): the frame that this function
            has called is the user's function.
    """

    def __init__(self, thread: threading.Thread, outermost: CodeType) -> None:
        self._thread = thread
        self._outermost = outermost
        self._frame: FrameType | None = None
        """Innermost frame of the thread at the last look; None before the first, or if the thread has none."""
        self._instruction = -1
        """Offset of the instruction in that frame (bytes), to be compared at the next look; -1 without a frame."""
        self.since: float | None = None
        """Time since which the thread has been still and at a lock (monotonic seconds); None if it is not."""
        self.alone_since: float | None = None
        """Time since which the thread has been still, at a lock and alone (monotonic seconds); None if it is not, or
        another thread was at work at the last look."""
        self.where = ""
        """File name and line in the user's function at the last look, as "job.py:12", for messages; empty before the
        first look, between calls, and if the function is not written in Python."""

    def look(self, now: float) -> None:
        """Look at the stacks of all threads, and set ``since``, ``alone_since`` and ``where``.

        Args:
            now: Time of the look (monotonic seconds).
        """
        frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]  # the only way to frames of threads
        del frames[
            threading.get_ident()
        ]  # our own frame holds the dictionary: a cycle, which would keep all frames alive
        frame = frames.pop(self._thread.ident or 0, None)
        instruction = -1 if frame is None else frame.f_lasti
        if frame is not self._frame or instruction != self._instruction:
            self._frame, self._instruction = frame, instruction
            self.since = now if frame is not None and _is_at_foreign_lock(frame) else None
            self.alone_since = None
        self.where = _line(frame, self._outermost)
        ours = {thread.ident for thread in threading.enumerate() if thread.name.startswith("dispy ")}
        if self.since is None or _is_anybody_at_work(frames, ours):
            self.alone_since = None
        elif self.alone_since is None:
            self.alone_since = now

    def mark(self) -> tuple[int, int]:
        """Returns the identity of the frame and the instruction in it at the last look.

        Two equal marks mean the same place only while the same call goes on: a later frame may get the same identity.
        """
        return id(self._frame), self._instruction


def _is_anybody_at_work(frames: dict[int, FrameType], without: Collection[int | None]) -> bool:
    """True if a thread is at work, so that it may release a lock.

    Args:
        frames: Innermost frames of threads, by the identifier of the thread.
        without: Identifiers of threads that do not count: dispy's own.
    """
    return any(ident not in without and not _stands(frame) for ident, frame in frames.items())


def _stands(frame: FrameType) -> bool:
    """True if the thread with this innermost frame cannot release a lock now.

    That is so if it is at a lock of the program, or waits for callbacks (``Caller.wait_called``).
    """
    if not _is_at_lock(frame):
        return False
    waiting = _waiting(frame)
    return not _module(waiting).startswith(_OWN) or waiting.f_code.co_qualname == "Caller.wait_called"


def _is_at_foreign_lock(frame: FrameType) -> bool:
    """True if a thread, by its innermost frame, is at a lock, and not in a wait of dispy, which the engine ends."""
    return _is_at_lock(frame) and not _module(_waiting(frame)).startswith(_OWN)


def _waiting(frame: FrameType) -> FrameType:
    """Returns the frame of the code that waits, from the innermost frame: the first one outside of ``_PASSED_ON``."""
    while _module(frame) in _PASSED_ON and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _module(frame: FrameType) -> str:
    """Returns the name of the module whose code a frame runs, as "queue"; empty if the module has none."""
    return str(frame.f_globals.get("__name__", ""))


def _is_at_lock(frame: FrameType) -> bool:
    """True if a thread, by its innermost frame, waits at a lock, a condition, an event, a queue or a join."""
    name = _module(frame)
    if name == "threading":
        return (
            frame.f_code.co_name != "run"
        )  # in ``run`` the thread's function may be native code, which has no frame
    if name == "concurrent.futures.thread":
        return (
            frame.f_code.co_name == "_worker"
        )  # an executor's idle thread: it waits for work in native code
    return _acquires(frame.f_code, frame.f_lasti)


@functools.lru_cache(200)
def _acquires(code: CodeType, at: int) -> bool:
    """True if the instruction of ``code`` at offset ``at`` (bytes) is ``with …:`` or ``….acquire()``.

    A native lock has no frame, so only its caller's instruction tells. The answer is cached, as a thread that waits
    is looked at each ``LOOK_S``.
    """
    before: list[dis.Instruction] = []
    for instruction in dis.get_instructions(code):
        if instruction.offset == at:
            break
        before.append(instruction)
    else:
        return False
    if instruction.opname == "BEFORE_WITH":
        return True
    if not instruction.opname.startswith("CALL"):
        return False
    if before and before[-1].opname == "LOAD_SPECIAL":  # Python 3.14
        return "__enter__" in before[-1].argrepr
    for loaded in reversed(before):
        if loaded.opname in ("LOAD_METHOD", "LOAD_ATTR") and _start(loaded) == _start(instruction):
            return bool(loaded.argval == "acquire")
    return False


def _start(instruction: dis.Instruction) -> tuple[int | None, int | None]:
    """Returns line and column where an instruction's expression begins; (None, None) if they are not known.

    A call and the loading of the attribute that it calls begin at one place: so ``_acquires`` finds the name of the
    method.
    """
    positions = instruction.positions
    return (None, None) if positions is None else (positions.lineno, positions.col_offset)


def _line(frame: FrameType | None, outermost: CodeType) -> str:
    """Returns where the user's function is, as "job.py:12": in the frame that code ``outermost`` has called.

    Empty if ``outermost`` is not running, or has called no Python function. ``frame`` is the innermost frame of the
    thread; None: the thread has none.
    """
    inner = None
    while frame is not None and frame.f_code is not outermost:
        inner, frame = frame, frame.f_back
    if frame is None or inner is None:
        return ""
    return f"{os.path.basename(inner.f_code.co_filename)}:{inner.f_lineno}"
