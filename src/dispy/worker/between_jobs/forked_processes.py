"""Processes that user code has forked and that return from it: each ends as it would at the end of a program.

An example is ``if os.fork() == 0: …; sys.exit()``. If the new process went on, it would be a second worker (or host)
with the channels and memory of the first: it would answer for the job of its parent, and take jobs of its own.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn


def call(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Call a function of the user's and return its result. A process that the function has forked ends here when the
    function returns or raises in it; only this process goes on.

    Exceptions of the function pass through in this process.
    """
    pid = os.getpid()
    try:
        result = function(*args)
    except BaseException as error:
        if os.getpid() != pid:
            end(error)
        raise
    if os.getpid() != pid:
        end()
    return result


def end(error: BaseException | None = None) -> NoReturn:
    """End this process, with the exit code that Python would give it.

    Args:
        error: Exception that the function has raised; None if it has returned. ``SystemExit`` gives the exit code;
            any other exception is printed, and the exit code is 1.
    """
    code = 0
    with suppress(BaseException):
        code = 0 if error is None else _code_of(error)
        sys.stdout.flush()
    os._exit(code)


def _code_of(error: BaseException) -> int:
    """Returns the exit code for an exception, and prints the exception, as Python does at the end of a program."""
    if isinstance(error, SystemExit):
        if error.code is None:
            return 0
        if isinstance(error.code, int):
            return error.code & 0xFF
        sys.stderr.write(f"{error.code}\n")
    else:
        with suppress(Exception):
            traceback.print_exception(error)
    return 1
