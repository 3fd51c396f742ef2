"""Errors that the caller can mend, without our own frames: the caller's line, and what to do.

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
_STANDARD = os.path.dirname(os.__file__) + os.sep


def brief(error: UsageError) -> UsageError:
    """The error to raise in its place: the same one, with nothing of where it was raised.

    Its cause stays if that was raised by code of the user's, such as a ``__reduce__``.
    """
    if sys.flags.dev_mode:
        return error
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    theirs = _beyond_ours(cause.__traceback__) if cause is not None else None
    error.__cause__ = cause.with_traceback(theirs) if cause is not None and theirs is not None else None
    return error.with_traceback(None)


def briefly(function: Callable[P, T]) -> Callable[P, T]:
    """Have a public function raise errors that the caller can mend without the frames below it."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except UsageError as error:
            raise brief(error) from error.__cause__

    return call


def _beyond_ours(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        is_standard = filename.startswith(_STANDARD) and "site-packages" not in filename
        if not is_standard and not filename.startswith(_OURS):
            break
        trace = trace.tb_next
    return trace
