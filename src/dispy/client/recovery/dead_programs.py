"""Programs that have died, by the journals that they left in the usual directory: listed for the user, and ordered.

The order says which program ``recover_jobs`` tries first when the user names none.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from dispy.client.logger import logger
from dispy.errors import DispyError
from dispy.journal import files, reader
from dispy.journal.files import BusyError, EmptyError
from dispy.net.discovery import running_nodes
from dispy.system.addresses import is_loopback
from dispy.system.wording import counted

PROBE_S = 1.0
"""Seconds that a node's address has to accept a TCP connection when programs are put in order. After that the node
counts as away. Programs that have only such nodes, and no jobs in a journal, come last (``in_turn``)."""

PROBES_MAX = 32
"""Addresses (host and port) that are probed at a time, each on a thread of its own; others wait for their turn."""

_SHOWN_MAX = 30
"""Number of programs that a message to the user lists, a line each; of the others the message gives the number."""


class Reached(NamedTuple):
    """A node that may have jobs of a dead program: its name, and how the program reached it."""

    label: str
    """Name that the node gives itself."""
    host: str
    """Host name or IP address at which the program reached the node."""
    port: int
    """TCP port at which the program reached the node."""
    fingerprint: str
    """Fingerprint of the secret that is used with the node: 16 hexadecimal digits."""

    def __str__(self) -> str:
        return f"{self.label} ({self.host}:{self.port})"


class DeadProgram(NamedTuple):
    """A program that has died, and what it has left.

    Attributes:
        program: Name of the program, with its process id.
        started: When the program made its first journal (seconds since the epoch).
        noted: When the program wrote to a journal last (seconds since the epoch). It died later; when is not known.
        paths: Paths of the program's journals in the usual directory, at least one, the newest first.
        clusters: Names of the program's clusters that had not ended, each once.
        nodes: Nodes that may have jobs of the program, each once.
        jobs: Number of jobs that were submitted, without those of clusters that have no full journal; None if no
            cluster has one: only the nodes know then.
        asked: When ``recover_jobs`` took the program last and could not fetch all (seconds since the epoch);
            0: never.
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
    """Return a text for a message to the user: a line for each program, each after a line break, in the order given.

    After ``_SHOWN_MAX`` programs one line says how many more there are.
    """
    lines = [f"\n  {program}" for program in programs[:_SHOWN_MAX]]
    if len(programs) > _SHOWN_MAX:
        lines.append(f"\n  … and {len(programs) - _SHOWN_MAX} more: dispy.recoverable() returns all")
    return "".join(lines)


def _shown(seconds: float) -> str:
    """Return a time (seconds since the epoch) as local date and time, such as "2025-01-31 09:05:00"."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def recoverable() -> list[DeadProgram]:
    """Return the programs that have died and left jobs which ``recover_jobs`` may fetch, the newest first.

    Nothing is fetched and no node is asked: what a program left may turn out to be gone. Only journals in the usual
    directory are found, and not those of ``recover_file``. Left out are journals in use (the program lives, or
    another recovery has it), empty ones, which are removed, and those that cannot be read, with a warning.
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
    """Contents of one journal that the list of dead programs shows; its fields mean what those of ``DeadProgram`` do.

    ``_together`` makes one ``DeadProgram`` of the contents of all journals of a program.
    """

    path: Path
    program: str
    started: float
    noted: float
    clusters: list[str]
    nodes: list[Reached]
    jobs: int | None
    asked: float


def _peek(path: Path) -> _Peek:
    """Return the contents of a dead program's journal. The file keeps its time of last change, and is unlocked again.

    Raises:
        BusyError: The program lives, or a recovery has the journal.
        EmptyError: The journal is empty.
        DispyError: The file is no journal, or damaged.
    """
    with files.looked_at(path) as (db, noted):
        found = reader.summary(db)
        return _Peek(
            path,
            found.program,
            found.started,
            noted,
            found.clusters,
            [Reached(*node) for node in found.nodes],
            found.jobs,
            files.last_asked(db),
        )


def _together(peeks: list[_Peek]) -> DeadProgram:
    """Return the program that has these journals (at least one, the newest first).

    Numbers of jobs are added up, and clusters and nodes are listed once. ``started`` is the earliest time of the
    journals, ``noted`` and ``asked`` are the latest ones.
    """
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


# Which program is recovered first.


def in_turn(programs: list[DeadProgram]) -> list[DeadProgram]:
    """Return programs in the order in which they are to be recovered; the caller stops at the first one with jobs.

    First come programs that can have jobs now: a node answers, the journal has jobs, or there is no node to wait for.
    Among these, programs that no recovery took come first (newer ones first), then the others, the one first that was
    taken longest ago. Of the remaining programs only one follows; the others are left out, as each costs the time
    that its nodes have to answer. Nodes are probed only if there are two programs or more.
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
    """Return the nodes that may answer now, so that recovering their programs is worth the time.

    A node of this machine is returned if the list of nodes that run here has its name: its port may be another one
    now. Any other node is returned if something accepts a TCP connection at its host and port. All are probed at
    once, for at most about ``PROBE_S`` (seconds); more than ``PROBES_MAX`` addresses take longer.
    """
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
    """True if a TCP connection to a host and port is accepted within ``PROBE_S``; False after errors."""
    with contextlib.suppress(OSError, UnicodeError):
        socket.create_connection(place, PROBE_S).close()
        return True
    return False
