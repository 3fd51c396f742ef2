"""Versions of Python: of this process, and of those that it exchanges pickles with.

Code in a pickle is of one minor version, unless the thread that makes the pickle wants it for others (``wanted``).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from dispy.errors import PicklingError

Version = tuple[int, int]
"""Minor version of Python, such as ``(3, 12)``."""

HERE: Version = sys.version_info[:2]
"""Version of Python in this process."""

MANY = 20
"""Versions of other processes that are kept: enough for any cluster, few enough to print."""

others: set[Version] = set()
"""Versions, other than ``HERE``, of the processes that this one exchanges pickles with; at most ``MANY``."""

is_program_other = False
"""True in a worker whose program runs on another minor version: all that it sends is in portable form."""

_is_wanted: ContextVar[bool] = ContextVar("is_wanted", default=False)
"""True while this thread makes a pickle in portable form (``wanted``)."""


def is_wanted() -> bool:
    """True if pickles that are made now, on this thread, are for other minor versions of Python."""
    return is_program_other or _is_wanted.get()


@contextmanager
def wanted() -> Iterator[None]:
    """Context manager: pickles that this thread makes in the block are in portable form."""
    token = _is_wanted.set(True)
    try:
        yield
    finally:
        _is_wanted.reset(token)


def text_of(version: Version) -> str:
    """Returns a version as people write it, such as "3.12"."""
    return ".".join(map(str, version))


def version_of(text: str) -> Version | None:
    """Returns the version of a text such as "3.12"; None if it is no such text."""
    major, _, minor = text.partition(".")
    if major.isascii() and minor.isascii() and major.isdecimal() and minor.isdecimal():
        return int(major[:4]), int(minor[:4])
    return None


def meet(version: Version) -> None:
    """Note that another process runs on a version of Python; errors of pickles that come from there name it."""
    if version != HERE and len(others) < MANY:
        others.add(version)
        if HERE < (3, 13):
            # Python 3.13 pickles paths as objects of ``pathlib._local``.
            sys.modules.setdefault("pathlib._local", importlib.import_module("pathlib"))


def explained(error: Exception) -> Exception:
    """Returns what to raise for an exception of ``pickle.loads``: with both versions, if those may be its reason.

    An error of an import, or of a name that is missing, gets a note; a PicklingError a text that names versions.
    Every other error is returned as it is, and so is each while no process of another version is known.
    """
    if not others or not isinstance(error, (ImportError, AttributeError, TypeError, PicklingError)):
        return error
    names = " and ".join(text_of(version) for version in sorted(others))
    versions = f"this process runs on Python {text_of(HERE)}, the other side on {names}"
    if "Python" in str(error):
        return error  # it says so
    if isinstance(error, PicklingError):
        return PicklingError(f"{error} ({versions})")
    if not any("the other side on" in note for note in getattr(error, "__notes__", ())):
        error.add_note(
            f"{versions}: modules of Python and installed packages differ between versions. "
            "Use names that all of them have, or one version."
        )
    return error


def serve(version: Version) -> None:
    """Note, in a worker, the version of Python of its program: from now on it sends code in a form for that."""
    global is_program_other
    is_program_other = version != HERE
    meet(version)
