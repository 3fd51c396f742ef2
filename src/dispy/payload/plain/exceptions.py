"""Exceptions of jobs whose makers are not trusted: those of Python and of dispy, made anew from plain arguments."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from functools import partial
from typing import Any

from dispy import errors
from dispy.payload.blocks import Buffer
from dispy.payload.plain.decoder import Maker, load_plain

_UNUSED = (SyntaxError,)
"""Classes that are left out, with their subclasses: Python shows the line at fault by numbers that nobody checks."""

_ATTRIBUTES = {
    ImportError: ("name", "path", "name_from"),
    NameError: ("name",),
    AttributeError: ("name",),
}
"""Attributes that classes keep beside their arguments, texts or None."""


def load_plain_exception(payload: Buffer) -> BaseException | None:
    """Returns the exception in a payload; None if it is none of Python's or dispy's, or the payload is damaged."""
    try:
        error = load_plain(payload, _MAKERS)
    except errors.NotPlainError:
        return None
    return error if isinstance(error, BaseException) else None


def _make_builtin(
    kind: Callable[..., BaseException], arguments: tuple[Any, ...], state: Any
) -> BaseException:
    """Returns an exception of Python's, with its notes and the attributes that the job has given it.

    Args:
        kind: Its class.
        arguments: Its arguments, made already.
        state: Its attributes, by name; None: none.
    """
    error = kind(*arguments)
    if isinstance(error, UnicodeError) and type(error) is not UnicodeError:
        _check_place(error)
    if state is None:
        return error
    for name, value in dict(state).items():
        if name == "__notes__":
            for note in value:
                error.add_note(str(note))
        elif any(isinstance(error, owner) and name in names for owner, names in _ATTRIBUTES.items()):
            if value is None or type(value) is str:
                setattr(error, name, value)
        elif type(name) is str and not name.startswith("_") and not hasattr(error, name):
            vars(error)[name] = value
    return error


def _check_place(error: Any) -> None:
    """Refuse (ValueError) an error of encoding whose place is outside of its text: Python reads there unchecked."""
    if not 0 <= error.start <= error.end <= len(error.object):
        raise ValueError("a place outside of the text")


def _make_own(kind: type[errors.DispyError], arguments: tuple[Any, ...], state: Any) -> errors.DispyError:
    """Returns an error of dispy's: class, text, and ``hint``, which is a part of the text already."""
    (message,) = arguments
    error = kind(str(message))
    hint = dict(state or {}).get("hint")
    error.hint = hint if type(hint) is str else ""
    return error


_MAKERS: dict[str, Maker] = {
    f"builtins.{name}": partial(_make_builtin, kind)
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException) and not issubclass(kind, _UNUSED)
}
"""Makers of exceptions, by the names that pickles use."""

_MAKERS |= {
    f"dispy.errors.{kind.__name__}": partial(_make_own, kind)
    for kind in (errors.JobError, errors.PicklingError, errors.ProgramError, errors.UsageError)
}
