"""Programs that have died, by the journals that they left in the usual place: listed, and which comes first."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dispy.client.logger import logger
from dispy.errors import DispyError
from dispy.journal import files
from dispy.journal.files import BusyError, EmptyError
from dispy.journal.writer import USED
from dispy.net.discovery import running_nodes
from dispy.system.addresses import is_loopback
from dispy.system.wording import counted

if TYPE_CHECKING:
    import sqlite3

PROBE_S = 1.0
"""After so long a node's machine is taken to be away, when it is decided whom to ask first."""

PROBES_MAX = 32

_SHOWN_MAX = 30
"""Programs that a message lists."""


class Reached(NamedTuple):
    """How a node of a dead program was reached."""

    label: str
    """Its own name."""
    host: str
    port: int
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.label} ({self.host}:{self.port})"


class DeadProgram(NamedTuple):
    """A program that has died, and what it has left.

    Attributes:
        program: Its name, with its process id.
        started: When it made its first journal (seconds since the epoch).
        noted: When it wrote there last. It died later, and nobody knows when.
        paths: Of its journals.
        clusters: Their names.
        nodes: Those that may have jobs of it.
        jobs: How many were submitted; None: only its nodes know, as for all clusters without a full journal.
        asked: When ``recover_jobs`` took it and could not fetch all; 0: it never did.
    """

    program: str
    started: float
    noted: float
    paths: list[Path]
    clusters: list[str]
    nodes: list[Reached]
    jobs: int | None
    asked: float

    def __str__(self) -> str:
        parts = [f"started {_shown(self.started)}", f"last note {_shown(self.noted)}"]
        if self.clusters:
            parts.append(
                f"{'cluster' if len(self.clusters) == 1 else 'clusters'} {', '.join(self.clusters)}"
            )
        if self.jobs is not None:
            parts.append(counted(self.jobs, "job"))
        if self.nodes:
            names = ", ".join(map(str, self.nodes[:3])) + (", …" if len(self.nodes) > 3 else "")
            parts.append(f"{'node' if len(self.nodes) == 1 else 'nodes'} {names}")
        return f"{self.program}: {'; '.join(parts)}; {' '.join(str(path) for path in self.paths)}"


def listed(programs: list[DeadProgram]) -> str:
    """Programs for a message, a line each."""
    lines = [f"\n  {program}" for program in programs[:_SHOWN_MAX]]
    if len(programs) > _SHOWN_MAX:
        lines.append(f"\n  … and {len(programs) - _SHOWN_MAX} more: dispy.recoverable() returns all")
    return "".join(lines)


def _shown(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def recoverable() -> list[DeadProgram]:
    """The programs that have died and left jobs which ``recover_jobs`` may fetch.

    The one that began last comes first.

    Nothing is fetched and nobody is asked: what a program left may turn out to be gone. Only journals in the usual
    place are found, and not those of ``recover_file``.
    """
    found: dict[str, list[_Peek]] = {}
    for path in files.left_behind():
        try:
            peek = _peek(path)
            found.setdefault(files.program_of(path), []).append(peek)
        except EmptyError:
            files.remove_empty(path)
        except BusyError:
            pass
        except DispyError as error:
            logger.warning("%s", error)
    return [_together(peeks) for peeks in found.values()]


class _Peek(NamedTuple):
    """The contents of one journal."""

    path: Path
    program: str
    started: float
    noted: float
    clusters: list[str]
    nodes: list[Reached]
    jobs: int | None
    asked: float


def _peek(path: Path) -> _Peek:
    """Look into the journal of a dead program, and leave it as it is.

    Raises:
        DispyError: Its program lives, it is empty, or damaged.
    """
    with files.looked_at(path) as (db, noted):
        sessions = db.execute("SELECT program, started FROM session ORDER BY id").fetchall()
        nodes = db.execute(
            "SELECT label, host, port, fingerprint FROM node WHERE state = ?", (USED,)
        ).fetchall()
        clusters = db.execute("SELECT DISTINCT name FROM computation ORDER BY number").fetchall()
        return _Peek(
            path,
            str(sessions[-1][0]),
            float(sessions[0][1]),
            noted,
            [str(name) for (name,) in clusters],
            [Reached(str(label), str(host), int(port), str(print_)) for label, host, port, print_ in nodes],
            _count(db),
            files.last_asked(db),
        )


def _count(db: sqlite3.Connection) -> int | None:
    """Jobs that were submitted; None where that is not noted."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    if "submitted" not in tables:
        return None
    # The head of an array of MessagePack says how many are in it.
    return sum(_length(head) for (head,) in db.execute("SELECT substr(jobs, 1, 5) FROM submitted"))


def _length(head: Any) -> int:
    data = bytes(head)
    if data[:1] == b"\xdc":
        return int.from_bytes(data[1:3], "big")
    if data[:1] == b"\xdd":
        return int.from_bytes(data[1:5], "big")
    return data[0] & 0x0F if data and data[0] & 0xF0 == 0x90 else 0


def _together(peeks: list[_Peek]) -> DeadProgram:
    counts = [peek.jobs for peek in peeks if peek.jobs is not None]
    return DeadProgram(
        peeks[0].program,
        min(peek.started for peek in peeks),
        max(peek.noted for peek in peeks),
        [peek.path for peek in peeks],
        list(dict.fromkeys(name for peek in peeks for name in peek.clusters)),
        list(dict.fromkeys(node for peek in peeks for node in peek.nodes)),
        sum(counts) if counts else None,
        max(peek.asked for peek in peeks),
    )


# Which comes first.


def in_turn(programs: list[DeadProgram]) -> list[DeadProgram]:
    """Programs in the order in which they are to be recovered: until one has jobs.

    First those that can have some now, as a node answers or their journal has jobs: of these the ones that were
    never asked, then those that wait longest since they were; newer ones first. Of the others only one: each
    costs the time that its nodes have to answer.
    """
    programs = sorted(programs, key=lambda program: (program.asked, -program.started))
    if len(programs) < 2:
        return programs
    answering = _answering({node for program in programs for node in program.nodes})
    likely = [
        program
        for program in programs
        if program.jobs or not program.nodes or not answering.isdisjoint(program.nodes)
    ]
    return likely + [program for program in programs if program not in likely][:1]


def _answering(nodes: Iterable[Reached]) -> set[Reached]:
    """Nodes at whose place something listens, and those of this machine that were started anew elsewhere on it."""
    found = {
        node
        for node in nodes
        if is_loopback(node.host)
        and any(listing.name == node.label for listing in running_nodes(node.fingerprint))
    }
    places = {(node.host, node.port) for node in nodes if node not in found}
    if places:
        with ThreadPoolExecutor(min(len(places), PROBES_MAX), "dispy probes") as pool:
            listens = dict(zip(places, pool.map(_listens, places), strict=True))
        found |= {node for node in nodes if listens.get((node.host, node.port))}
    return found


def _listens(place: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError, UnicodeError):
        socket.create_connection(place, PROBE_S).close()
        return True
    return False
