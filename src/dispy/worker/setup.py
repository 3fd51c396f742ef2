"""``setup`` and ``cleanup``: functions of the user's, called before and after all jobs, in host or worker."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from dispy import payload
from dispy.system.wording import of_error
from dispy.worker import output_capture
from dispy.worker.between_jobs import forked_processes, native_threads
from dispy.worker.job_api.job_namespace import note_missing

_set_handler = getattr(signal.signal, "__wrapped__", signal.signal)
"""Function in C behind ``signal.signal``: not watched by ``Restorer``, so that our handler is no change to be put
back."""

_OUR_FRAMES = 2
"""Number of frames of ours that the traceback of an error in ``setup`` leaves out, so that it begins in the user's
code: ``set_up`` here, and ``forked_processes.call``."""


def set_up(code: payload.Code, limit_s: float, node_name: str, directory: str) -> str:
    """Call the user's ``setup``. It has succeeded if it returns None, 0, 1 or 2.

    Args:
        code: Code of the computation, with the function and its arguments.
        limit_s: Time limit (seconds), after which TimeoutError is raised in ``setup``; 0: none.
        node_name: Name of this node, for the note on a file or module that is missing.
        directory: The working directory, for the same note.

    Returns:
        Why ``setup`` failed, with the last 16 KiB of its output; empty if it succeeded, or there is none.
    """
    if code.setup is None:
        return ""
    said: list[str] = []
    is_late: list[str] = []
    try:
        with output_capture.overheard(said), _limited(limit_s, is_late), code.sharing(code.setup):
            result = forked_processes.call(code.setup, code.setup_args)
    except BaseException as error:
        note_missing(error, node_name, directory)
        frames = error.__traceback__
        for _ in range(_OUR_FRAMES):
            frames = frames.tb_next if frames is not None else None
        said_there = "".join(traceback.format_exception(type(error), error, frames))
        reason = f"{of_error(error)}\n{said_there}"
    else:
        if is_late:  # it has caught the TimeoutError
            reason = is_late[0]
        elif result is None or (isinstance(result, int) and result in (0, 1, 2)):
            return ""
        else:
            reason = f"it returned {result!r:.200}, and not 0, 1, 2 or None"
    return reason + (f"\nIt printed:\n{said[0]}" if said[0] else "")


@contextmanager
def _limited(limit_s: float, is_late: list[str]) -> Iterator[None]:
    """Raise TimeoutError in the block after a time, by SIGALRM. The node kills the process if that does not help.

    Args:
        limit_s: Time limit (seconds); 0: none.
        is_late: A list to which the reason is appended when the time is over, so that a ``setup`` that catches the
            TimeoutError is known to be late.
    """
    if not limit_s:
        yield
        return

    def on_alarm(number: int, frame: FrameType | None) -> None:
        is_late.append(f"it took longer than setup_timeout, {limit_s:g} s")
        raise TimeoutError(is_late[0])

    before = _set_handler(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if signal.getsignal(signal.SIGALRM) is on_alarm:  # and not a handler that the block has set
            _set_handler(signal.SIGALRM, before)


def clean_up(code: payload.Code, name: str, logger: logging.Logger) -> None:
    """Call ``cleanup``, if there is one; an exception of it is logged, with the line that has raised it.

    Args:
        code: Code of the computation.
        name: Name of the computation.
        logger: Logger for errors.
    """
    if code.cleanup is None:
        return
    try:
        forked_processes.call(code.cleanup, code.setup_args)
    except BaseException as error:
        where = "".join(traceback.format_tb(error.__traceback__)[-1:]).strip()
        logger.error("cleanup of %s failed: %s; %s", name, of_error(error), where)
    with suppress(ValueError, OSError):
        sys.stdout.flush()


def threads_left(started_by: str) -> str:
    """Returns a warning that names threads of this process, which jobs will lack; empty if there are none.

    Args:
        started_by: Code of the user's that may have started the threads, in words.
    """
    is_resting = native_threads.rest()
    names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    libraries = native_threads.libraries_left(is_resting=is_resting)
    if not names and not libraries:
        return ""
    whose = ", ".join([*names, *[f"threads of {library}" for library in libraries]])
    return (
        f"{started_by} has started threads ({whose}): jobs do not have them, and may wait for them for ever; "
        "JobCluster(setup_per='worker') calls setup, and imports your modules, in each worker"
    )
