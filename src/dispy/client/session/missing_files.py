"""Files that a job did not find where it ran, and that are here: what can be done so that it does.

A job has a working directory of its own on its node, in which the files of ``depends`` lie. Only the program knows
what else lies beside it. So files that an exception names are looked for here, when somebody looks at the failure.
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
"""How the lines begin that are added here."""

_TOLD = "dispy: node "
_HAS_NO = " has no "
_THERE = " in the working directory of its jobs"
"""Parts of what a worker adds to an exception: see ``dispy.worker.job_namespace``."""

_RAISED = re.compile(r"^.*?(?:FileNotFoundError|NotADirectoryError): (.*)$", re.MULTILINE)
_QUOTED = re.compile(r"b?'(?:[^'\\]|\\.)*'|b?\"(?:[^\"\\]|\\.)*\"")
_COMMAND = re.compile(
    r"^subprocess\.CalledProcessError: Command '(.*)' returned non-zero exit status (?:1|2|126|127)\.$",
    re.MULTILINE,
)
"""An interpreter that does not find its script says so by its exit code, which is 1, 2 or 127."""

NAMES_MAX = 20
"""Names in one exception that are looked for."""

LENGTH_MAX = 8192
"""Characters of a line that are looked at: a path has at most 4096 bytes."""

LISTED_MAX = 1000
"""Files of ``depends`` that are looked through; of more only the first."""


def explain(reason: str, cluster: ClusterState, ip_addr: str | None) -> str:
    """Add to a reason, if a file is missing there that is here, what can be done.

    Args:
        reason: Why a job, or a node's ``setup``, has failed.
        cluster: Of both.
        ip_addr: Of the node; None if that is not known.
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
    """The advice that was added to a reason; empty if none was."""
    begin = reason.rfind(f"\n{_SIGN}")
    return reason[begin:].strip() if begin >= 0 else ""


def _names(reason: str) -> Iterator[str]:
    """Paths in a reason that were not found, as the job has written them; each once."""
    if "Error: " not in reason:
        return
    told = [line for line in map(str.strip, reason.splitlines()) if line.startswith(_TOLD)]
    if told:  # it has said what is missing
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
    """Names that a message may mean which ends like "data.csv not found"."""
    name, found, _ = text.partition(" not found")
    name = name.removesuffix(" was")
    return list(dict.fromkeys([name, *name.split()[-1:]])) if found else []


def _words(command: str) -> list[str]:
    """The words of a command, which was given as a list or as a text for the shell."""
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        words = ast.literal_eval(command) if command.startswith("[") else shlex.split(command)
        return [word for word in words[:NAMES_MAX] if isinstance(word, str)]
    return []


def _evaluated(quoted: list[str]) -> Iterator[str]:
    for text in quoted:
        with suppress(ValueError, SyntaxError):
            yield os.fsdecode(ast.literal_eval(text))


def _advice(name: str, cluster: ClusterState, ip_addr: str | None) -> str:
    """Advice how jobs find a path; empty if the path is not here, or lies with the jobs already."""
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
    """Where a relative path may be meant to lead."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    beside = os.path.dirname(script) if isinstance(script, str) and os.path.isabs(script) else None
    for directory in dict.fromkeys(map(str, filter(None, (base, current_directory.directory(), beside)))):
        yield os.path.normpath(os.path.join(directory, name))


def _is_sent(placed: str, cluster: ClusterState) -> bool:
    below = f"{placed}/"
    return any(
        entry.path == placed or entry.path.startswith(below) for entry in cluster._files[:LISTED_MAX]
    )
