"""Tracebacks of errors that the caller can mend end at the caller's line, without the frames of dispy below it.

``python -X dev`` shows all frames.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

import cloudpickle

from dispy.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")

_OURS = (
    os.path.dirname(os.path.dirname(__file__)) + os.sep,
    os.path.dirname(str(cloudpickle.__file__)) + os.sep,
    "<frozen ",
)
"""Beginnings of the file names of code that users cannot change: dispy, cloudpickle, and Python's frozen modules.
The traceback of an error's cause is shown from the first frame on that is in no such file."""
_STANDARD = os.path.dirname(os.__file__) + os.sep
"""Beginning of the file names of Python's standard library, whose frames are left out, too. Installed packages may
lie below it: they are told by "site-packages" in their paths."""


def brief(error: UsageError) -> UsageError:
    """Returns ``error`` itself, without its traceback, to be raised in the public function that was called.

    With ``python -X dev`` the error is left as it is.

    If code of the user's raised the error's cause (a ``__reduce__``, say), the cause stays, with its traceback from
    the first frame of such code on. Otherwise the error has no cause any more.
    """
    if sys.flags.dev_mode:
        return error
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    theirs = _beyond_ours(cause.__traceback__) if cause is not None else None
    error.__cause__ = cause.with_traceback(theirs) if cause is not None and theirs is not None else None
    return error.with_traceback(None)


def briefly(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator of a public function: a ``UsageError`` is raised without the frames below it (see ``brief``)."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except UsageError as error:
            raise brief(error) from error.__cause__

    return call


def _beyond_ours(trace: TracebackType | None) -> TracebackType | None:
    """Returns the rest of a traceback from the first frame in code of the user's or of a package that is not dispy's.

    None if all frames are in dispy, cloudpickle or the standard library, or ``trace`` is None.
    """
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        is_standard = filename.startswith(_STANDARD) and "site-packages" not in filename
        if not is_standard and not filename.startswith(_OURS):
            break
        trace = trace.tb_next
    return trace
