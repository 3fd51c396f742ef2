"""Where a thread stands that is waited for: at work, or at a lock that may never be released.

Whoever waits for callbacks may hold what one of them wants, and then neither goes on. A callback may also just be
slow, and has to be waited for. Python does not say who holds a lock, or who will set an event. What can be seen:

- *At a lock* is a thread whose innermost frame is in ``threading`` (conditions, events, queues, futures, joins), at
  ``with lock:`` or at a call of ``acquire``. Sleeping, reading, writing, computing and native code are not. Nor is
  a wait of dispy itself, as for another job: the engine ends that.
- *Still* is one that is in the same frame at the same instruction at each look. A callback that takes one lock after
  another, or asks again and again with a timeout, is not.
- *Alone* it is if each other thread of the program, but dispy's own, is at a lock, too: nobody is left to release it.

Not seen are native threads that would set an event, and which lock it is; so nobody is given up at once
(``callbacks``). Nor is a ``SimpleQueue.get`` of a callback told from other native code.
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
"""Modules whose waits are those of their callers."""

_OWN = "dispy."


class Standing:
    """Successive looks at one thread: where it stands, and for how long.

    Args:
        thread: That is waited for.
        outermost: Code of ours that calls the user's function, to tell where in it the thread is.
    """

    def __init__(self, thread: threading.Thread, outermost: CodeType) -> None:
        self._thread = thread
        self._outermost = outermost
        self._frame: FrameType | None = None
        self._instruction = -1
        self.since: float | None = None
        """Since when it has been still and at a lock (monotonic seconds); None if it is not."""
        self.alone_since: float | None = None
        """Since when nobody else has been seen at work meanwhile; None if somebody was, at the last look."""
        self.where = ""
        """File and line in the user's function, at the last look; empty for one that is not written in Python."""

    def look(self, now: float) -> None:
        """Look at all threads of the program."""
        frames = sys._current_frames()
        del frames[threading.get_ident()]  # in whose variables they are: a cycle, which would keep them all
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
        """The frame and its instruction, as numbers: to know them again while the same call goes on."""
        return id(self._frame), self._instruction


def _is_anybody_at_work(frames: dict[int, FrameType], without: Collection[int | None]) -> bool:
    return any(ident not in without and not _stands(frame) for ident, frame in frames.items())


def _stands(frame: FrameType) -> bool:
    """Whether a thread is at a lock, or waits for callbacks as we do."""
    if not _is_at_lock(frame):
        return False
    waiting = _waiting(frame)
    return not _module(waiting).startswith(_OWN) or waiting.f_code.co_qualname == "Caller.wait_called"


def _is_at_foreign_lock(frame: FrameType) -> bool:
    return _is_at_lock(frame) and not _module(_waiting(frame)).startswith(_OWN)


def _waiting(frame: FrameType) -> FrameType:
    """The frame for which a lock is waited for: the first outside of the modules that pass waits on."""
    while _module(frame) in _PASSED_ON and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_at_lock(frame: FrameType) -> bool:
    name = _module(frame)
    if name == "threading":
        return frame.f_code.co_name != "run"  # where the thread's function may be one that has no frame
    if name == "concurrent.futures.thread":
        return frame.f_code.co_name == "_worker"  # waits for work, by native code
    return _acquires(frame.f_code, frame.f_lasti)


@functools.lru_cache(200)
def _acquires(code: CodeType, at: int) -> bool:
    """Whether an instruction is ``with lock:`` or ``lock.acquire()``: of something that has no frame of its own."""
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
    positions = instruction.positions
    return (None, None) if positions is None else (positions.lineno, positions.col_offset)


def _line(frame: FrameType | None, outermost: CodeType) -> str:
    """File and line of the frame that a piece of code of ours has called."""
    inner = None
    while frame is not None and frame.f_code is not outermost:
        inner, frame = frame, frame.f_back
    if frame is None or inner is None:
        return ""
    return f"{os.path.basename(inner.f_code.co_filename)}:{inner.f_lineno}"
