"""Advice about files that a job did not find on its node, and that exist on the program's machine.

A job has a working directory of its own on its node, with the files of ``depends``. Only the program knows which
other files lie beside it. So when the program looks at a failure, files that the exception names are looked for here,
and the reason gets a last line that says how jobs find them.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dispy.system import current_directory
from dispy.system.addresses import is_loopback

if TYPE_CHECKING:
    from dispy.client.session.state import ClusterState

_SIGN = "dispy: this program has "
"""Beginning of the line that is added to a reason."""

_TOLD = "dispy: node "
_HAS_NO = " has no "
_THERE = " in the working directory of its jobs"
"""Parts of the note that a worker adds to an exception: see ``dispy.worker.job_api.job_namespace``."""

_RAISED = re.compile(r"^.*?(?:FileNotFoundError|NotADirectoryError): (.*)$", re.MULTILINE)
_QUOTED = re.compile(r"b?'(?:[^'\\]|\\.)*'|b?\"(?:[^\"\\]|\\.)*\"")
_COMMAND = re.compile(
    r"^subprocess\.CalledProcessError: Command '(.*)' returned non-zero exit status (?:1|2|126|127)\.$",
    re.MULTILINE,
)
"""Command that failed as interpreters and shells do that do not find a script: with exit code 1, 2, 126 or 127."""

NAMES_MAX = 20
"""Names in one exception that are looked for; further ones are ignored."""

LENGTH_MAX = 8192
"""Characters of a line that are searched for names: a path has at most 4096 bytes."""

LISTED_MAX = 1000
"""Files of ``depends`` that are searched for a path; further ones are ignored."""


def explain(reason: str, cluster: ClusterState, ip_addr: str | None) -> str:
    """Returns a reason with a line of advice, if it names a file that is missing there and exists here.

    A reason that has such a line already is returned as it is. Looks into the file system.

    Args:
        reason: Why a job, or a node's ``setup``, failed.
        cluster: Cluster of the job or node.
        ip_addr: Address of the node; None if that is not known.
    """
    if _SIGN in reason:
        return reason
    for name in _names(reason):
        with suppress(OSError, ValueError):
            advice = _advice(name, cluster, ip_addr)
            if advice:
                return f"{reason.rstrip()}\n{advice}\n"
    return reason


def advice_in(reason: str) -> str:
    """Returns the advice that ``explain`` added to a reason; empty if it added none."""
    begin = reason.rfind(f"\n{_SIGN}")
    return reason[begin:].strip() if begin >= 0 else ""


def _names(reason: str) -> Iterator[str]:
    """Yields the paths in a reason that were not found, as the job has written them."""
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
    """Returns the names that a message like "data.csv not found" may mean: all before, and the last word of that."""
    name, found, _ = text.partition(" not found")
    name = name.removesuffix(" was")
    return list(dict.fromkeys([name, *name.split()[-1:]])) if found else []


def _words(command: str) -> list[str]:
    """Returns the words of a command, which was given as a list or as a text for the shell; at most ``NAMES_MAX``."""
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        words = ast.literal_eval(command) if command.startswith("[") else shlex.split(command)
        return [word for word in words[:NAMES_MAX] if isinstance(word, str)]
    return []


def _evaluated(quoted: list[str]) -> Iterator[str]:
    """Yields the values of string literals; those that are none are skipped."""
    for text in quoted:
        with suppress(ValueError, SyntaxError):
            yield os.fsdecode(ast.literal_eval(text))


def _advice(name: str, cluster: ClusterState, ip_addr: str | None) -> str:
    """Returns how jobs can find a path; empty if the path does not exist here, or is sent to the jobs already."""
    if not name or name in (".", ".."):
        return ""
    base = cluster._shipped.base
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
    if _is_sent(placed, cluster):
        return f"{_SIGN}{found!r}, and jobs find it as {placed!r}" if is_renamed else ""
    where = f", and jobs find it as {placed!r}" if is_renamed else ""
    return (
        f"{_SIGN}{found!r}: list it in depends (for a single job in dispy_job_depends){where}; or {shared}"
    )


def _places(name: str, base: Path | None) -> Iterator[str]:
    """Yields the places that a relative path may mean: below the files' base, the current directory, the script's."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    beside = os.path.dirname(script) if isinstance(script, str) and os.path.isabs(script) else None
    for directory in dict.fromkeys(map(str, filter(None, (base, current_directory.directory(), beside)))):
        yield os.path.normpath(os.path.join(directory, name))


def _is_sent(placed: str, cluster: ClusterState) -> bool:
    """True if nodes get a file at this path, or one below it, with the computation."""
    below = f"{placed}/"
    return any(
        entry.path == placed or entry.path.startswith(below) for entry in cluster._files[:LISTED_MAX]
    )
