"""Advice about files that a job did not find on its node, and that exist on the program's machine.

A job has a working directory of its own on its node, with the files of ``depends``. Only the program knows which
other files lie beside it. So when the program looks at a failure, files that the exception names are looked for here,
and the reason gets a last line that says how jobs find them.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dispy.system import current_directory
from dispy.system.addresses import is_loopback

if TYPE_CHECKING:
    from dispy.protocol.files import FileEntry

_SIGN = "dispy: this program has "
"""Beginning of the line of advice that is added to a reason. A reason that has it already gets no second one."""

_TOLD = "dispy: node "
_HAS_NO = " has no "
_THERE = " in the working directory of its jobs"
"""``_TOLD``, ``_HAS_NO``, ``_THERE``: parts of the note that a worker adds to an exception; the node's name and the
missing path stand in between. They must be as in ``dispy.worker.job_api.job_namespace``: otherwise ``_names`` does
not find the path."""

_RAISED = re.compile(r"^.*?(?:FileNotFoundError|NotADirectoryError): (.*)$", re.MULTILINE)
"""Line of a traceback with an exception about a missing file; group 1 is its message, which may name the file."""
_QUOTED = re.compile(r"b?'(?:[^'\\]|\\.)*'|b?\"(?:[^\"\\]|\\.)*\"")
"""String literal in the message of an exception about a missing file: the file's name, as ``repr`` writes it."""
_COMMAND = re.compile(
    r"^subprocess\.CalledProcessError: Command '(.*)' returned non-zero exit status (?:1|2|126|127)\.$",
    re.MULTILINE,
)
"""Line of a traceback with a failed command (group 1). Only with exit codes 1, 2, 126 and 127: those of interpreters
and shells that do not find a script."""

NAMES_MAX = 20
"""File names in one exception that are looked for on this machine's disks; further ones are ignored."""

LENGTH_MAX = 8192
"""Characters of an exception's message that are searched for file names; the rest is ignored. A path has at most 4096
bytes."""

LISTED_MAX = 1000
"""Files that go to all nodes that are compared with a missing path, to see whether jobs have it; further ones are
ignored, so the advice may be to list a file that is listed."""


def explain(reason: str, base: Path | None, files: list[FileEntry], ip_addr: str | None) -> str:
    """Returns ``reason``, with a line of advice added if it names a file that a node lacks and this machine has.

    A reason that has a line of advice already is returned as it is. Looks into this machine's file system.

    Args:
        reason: Why a job, or a node's ``setup``, failed.
        base: Directory that sent files are relative to; None: none.
        files: Descriptions of the files that all nodes get.
        ip_addr: Address of the node; None if that is not known.
    """
    if _SIGN in reason:
        return reason
    for name in _names(reason):
        with suppress(OSError, ValueError):
            advice = _advice(name, base, files, ip_addr)
            if advice:
                return f"{reason.rstrip()}\n{advice}\n"
    return reason


def advice_in(reason: str) -> str:
    """Returns the line of advice that ``explain`` added to a reason, for a note on the exception; empty if none."""
    begin = reason.rfind(f"\n{_SIGN}")
    return reason[begin:].strip() if begin >= 0 else ""


def _names(reason: str) -> Iterator[str]:
    """Yields paths that the job did not find, as the job has written them, out of the reason of its failure.

    Sources, of which the first that is there counts: the worker's note, the last exception about a missing file, a
    failed command. Some of the yielded texts may be no paths.
    """
    if "Error: " not in reason:
        return
    told = [line for line in map(str.strip, reason.splitlines()) if line.startswith(_TOLD)]
    if told:  # the worker has said which file is missing
        name, _, end = told[-1].partition(_HAS_NO)[2].rpartition(_THERE)
        yield from [] if end else _evaluated([name])
        return
    raised = _RAISED.findall(reason)
    if raised:
        text = raised[-1][:LENGTH_MAX]
        quoted = _QUOTED.findall(text)[:NAMES_MAX]
        yield from _evaluated(quoted) if quoted else _unquoted(text)
        return
    command = _COMMAND.search(reason)
    if command is not None:
        yield from _words(command[1][:LENGTH_MAX])


def _unquoted(text: str) -> list[str]:
    """Returns the names that a message like "file data.csv not found" may mean; empty for other messages.

    These are the text before " not found", and the last word of it.
    """
    name, found, _ = text.partition(" not found")
    name = name.removesuffix(" was")
    return list(dict.fromkeys([name, *name.split()[-1:]])) if found else []


def _words(command: str) -> list[str]:
    """Returns the words of a command, which was given as a list or as a text for the shell; at most ``NAMES_MAX``."""
    import shlex  # rare, and each program would load it

    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        words = ast.literal_eval(command) if command.startswith("[") else shlex.split(command)
        return [word for word in words[:NAMES_MAX] if isinstance(word, str)]
    return []


def _evaluated(quoted: list[str]) -> Iterator[str]:
    """Yields the values of string literals, bytes decoded as file names; texts that are no literal are skipped."""
    for text in quoted:
        with suppress(ValueError, SyntaxError):
            yield os.fsdecode(ast.literal_eval(text))


def _advice(name: str, base: Path | None, files: list[FileEntry], ip_addr: str | None) -> str:
    """Returns a line that says how jobs can find a path; empty if there is nothing to advise.

    There is none if the path does not exist on this machine, if jobs have it under this name already, or if it is
    absolute and the node is this machine or not known.

    Args:
        name: Path as the job has written it.
        base: Directory that sent files are relative to; None: none.
        files: Descriptions of the files that all nodes get.
        ip_addr: Address of the node; None if that is not known.
    """
    if not name or name in (".", ".."):
        return ""
    if os.path.isabs(name):
        if ip_addr is None or is_loopback(ip_addr) or not os.path.exists(name):
            return ""
        found = name
        shared = "put it on a file system that the node shares"
    else:
        found = next((path for path in _places(name, base) if os.path.exists(path)), "")
        if not found:
            return ""
        shared = "give jobs its absolute path, if nodes share that file system"
    inside = base is not None and found.startswith(f"{base}{os.sep}")
    placed = os.path.relpath(found, base) if inside else os.path.basename(found)
    is_renamed = placed != os.path.normpath(name)
    if _is_sent(placed, files):
        return f"{_SIGN}{found!r}, and jobs find it as {placed!r}" if is_renamed else ""
    where = f", and jobs find it as {placed!r}" if is_renamed else ""
    return (
        f"{_SIGN}{found!r}: list it in depends (for a single job in dispy_job_depends){where}; or {shared}"
    )


def _places(name: str, base: Path | None) -> Iterator[str]:
    """Yields the absolute paths on this machine that a job may mean by a relative path, the likeliest first.

    In this order: below ``base`` (the directory that sent files are relative to; None: none), below the current
    directory, beside the program's script.
    """
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    beside = os.path.dirname(script) if isinstance(script, str) and os.path.isabs(script) else None
    for directory in dict.fromkeys(map(str, filter(None, (base, current_directory.directory(), beside)))):
        yield os.path.normpath(os.path.join(directory, name))


def _is_sent(placed: str, files: list[FileEntry]) -> bool:
    """True if all nodes get a file at this path of the working directory, or one below it, with the computation."""
    below = f"{placed}/"
    return any(entry.path == placed or entry.path.startswith(below) for entry in files[:LISTED_MAX])
