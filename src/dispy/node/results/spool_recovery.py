"""Recovery of results: a node that starts takes over the rooms that dead nodes have left.

Theory of operation. The starting node takes a room if it can be locked (its owner is dead), and if its ``node.json``
has this node's secret (by fingerprint), and its name or its port. For each client the files of all such rooms are put
together into one ``Restored`` for the execution core: batches of results, the jobs that were open and are lost, and
whether jobs may be missing from that list (``has_gaps``).

Files stay in their rooms, so this process may die at any moment of the recovery: the next node starts again from the
files. Only three changes are made on disk: this node is added to ``node.json``, files that were not finished are
removed, and damaged files are renamed, so that the next node knows of the damage, too.

Clients acknowledge batches of results by number, and know the numbers of the node that had this port. Rooms of this
port therefore come first: the first room of a client keeps its numbers, batches of later rooms are renumbered to
follow them.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from dispy.core.execution.events import Restored
from dispy.core.execution.ids import ClientId
from dispy.node.results.spool_files import (
    DAMAGED,
    Damaged,
    Header,
    Note,
    ResultsFile,
    client_of,
    read_header,
    read_note,
)
from dispy.node.results.spool_rooms import Room, RoomNames, lock_room, read_names, write_names
from dispy.protocol.node import Ended, HeldJobs
from dispy.system.run_directory import remove_tree

logger = logging.getLogger("dispy.node")

LEFT_S = 30 * 86400.0
"""Seconds (30 days) since the last change of a room after which a node that may not take it over removes it, with all
results in it: no node that may has been started in that time."""


class Recovery:
    """Takes over the rooms of dead nodes; used once, by ``run``.

    Args:
        base: Directory of all rooms.
        names: Incarnation, name, port (one each) and fingerprint of the secret of the node that starts.

    Attributes:
        rooms: Rooms that were taken over, locked. The caller has to close them.
        files: For each batch, by client and new number: its file, and its index in the file's list of batches.
        used: Bytes of all files of results in these rooms; they count for the spool's limit.
        restored: For each client, by identity: its batches without values, and its lost jobs, for the core.
    """

    def __init__(self, base: Path, names: RoomNames) -> None:
        self._base = base
        self._names = names
        self.rooms: list[Room] = []
        self.files: dict[tuple[ClientId, int], tuple[ResultsFile, int]] = {}
        self.used = 0
        self.restored: dict[ClientId, Restored] = {}

    def run(self) -> None:
        """Take over all rooms that this node may take, and fill ``rooms``, ``files``, ``used`` and ``restored``.

        Rooms of dead nodes that it may not take are removed if they are older than ``LEFT_S``.
        """
        port = self._names.ports[0]
        found = []
        for path in sorted(self._base.glob("[!.]*")):
            descriptor = lock_room(path)
            if descriptor is None:
                continue
            names = read_names(path)
            if names is None or not self._is_ours(names):
                if time.time() - path.stat().st_mtime > LEFT_S:
                    remove_tree(path)
                os.close(descriptor)
                continue
            found.append((port not in names.ports, path, descriptor, names))
        for _, path, descriptor, names in sorted(found, key=lambda entry: entry[:2]):
            room = Room(path, descriptor)
            self.rooms.append(room)
            self._take_over(room, names)
        self._drop_damaged({client.hex() for client in self.restored})

    def _is_ours(self, names: RoomNames) -> bool:
        """True if this node may take a room over: the room has its secret, and its name or its port."""
        if names.fingerprint != self._names.fingerprint:
            return False
        return self._names.names[0] in names.names or self._names.ports[0] in names.ports

    def _drop_damaged(self, known: set[str]) -> None:
        """Remove damaged files of clients of which nothing else is here.

        Such a client is told that this node does not know it, so the damage need not be reported. No later event
        would remove the file.

        Args:
            known: Identities (hexadecimal) of clients of which batches or a note are here: their damaged files stay.
        """
        for room in self.rooms:
            for path in room.path.glob(f"*{DAMAGED}"):
                if client_of(path) not in known:
                    path.unlink(missing_ok=True)

    def _take_over(self, room: Room, names: RoomNames) -> None:
        """Read all files of a room into ``restored`` and ``files``. A damaged file is logged and renamed."""
        before = [bytes.fromhex(node) for node in names.nodes]
        with suppress(OSError):
            # The next node recognises the room by this node's name or port as well.
            together = RoomNames(
                names.nodes + self._names.nodes,
                names.names + self._names.names,
                names.ports + self._names.ports,
                names.fingerprint,
            )
            write_names(room.path, together)
        shift: dict[ClientId, int] = {client: one.next_batch - 1 for client, one in self.restored.items()}
        notes = []
        damaged: set[str] = set()
        for path in sorted(room.path.iterdir()):
            try:
                if path.name.startswith("."):
                    path.unlink()  # a file that its writer has not finished
                elif path.suffix == ".results":
                    with open(path, "rb") as file:
                        header, _ = read_header(file.fileno())
                    self.used += path.stat().st_size
                    self._restore_batches(path, header, before, shift)
                elif path.suffix == ".open":
                    notes.append(read_note(path))
                elif path.suffix == DAMAGED:
                    damaged.add(client_of(path))
            except (OSError, Damaged) as error:
                logger.error("%s is damaged, what it held is lost: %s", path, error)
                damaged.add(client_of(path))
                with suppress(OSError):
                    # The next node has to know of the damage, too.
                    path.rename(path.with_suffix(DAMAGED))
        for note in notes:
            self._restore_note(note, before, shift)
        # Clients of which only a note is left are in ``restored`` by now, too.
        noted = {ClientId(note.client) for note in notes}
        for client, one in self.restored.items():
            is_here = bool(set(before) & set(one.before))
            one.has_gaps |= is_here and (client not in noted or client.hex() in damaged)

    def _restore_batches(
        self, path: Path, header: Header, before: list[bytes], shift: dict[ClientId, int]
    ) -> None:
        """Add the batches of a file to ``restored`` and ``files``. Their payloads are read when they are sent.

        Args:
            path: The file.
            header: Header of the file.
            before: Incarnations (16 bytes each) of the nodes that had the room, oldest first.
            shift: For each client: number to add to the numbers of its batches of this room; absent: 0.
        """
        client = ClientId(header.client)
        one = self._entry(client, header.name, before)
        file = ResultsFile(path, set())
        for place, batch in enumerate(header.batches):
            batch.batch += shift.get(client, 0)
            if (client, batch.batch) in self.files:
                continue
            batch.ended = [Ended(e.number, e.attempt, e.status, e.start, e.end, b"") for e in batch.ended]
            one.batches.append(batch)
            one.next_batch = max(one.next_batch, batch.batch + 1)
            file.batches.add(batch.batch)
            self.files[client, batch.batch] = (file, place)
        one.batches.sort(key=lambda batch: batch.batch)

    def _restore_note(self, note: Note, before: list[bytes], shift: dict[ClientId, int]) -> None:
        """Add the jobs of a note to ``restored`` as lost, except those whose results are on disk.

        Call it after ``_restore_batches`` for all files of the room.

        Args:
            note: Content of the file with the client's open jobs.
            before: Incarnations (16 bytes each) of the nodes that had the room, oldest first.
            shift: For each client: number to add to the numbers of its batches of this room; absent: 0.
        """
        one = self._entry(ClientId(note.client), note.name, before)
        one.next_batch = max(one.next_batch, note.next_batch + shift.get(one.client, 0))
        stored = {(batch.computation, e.number, e.attempt) for batch in one.batches for e in batch.ended}
        for jobs in note.open:
            attempts = [a for a in jobs.attempts if (jobs.computation, a.number, a.attempt) not in stored]
            if attempts:
                one.lost.append(HeldJobs(jobs.computation, attempts))

    def _entry(self, client: ClientId, name: str, before: list[bytes]) -> Restored:
        """Returns the entry of a client in ``restored``, made if it is missing; adds the incarnations ``before``.

        The client is told these in ``Welcome``, and so learns that their results are here.
        """
        one = self.restored.get(client)
        if one is None:
            one = self.restored[client] = Restored(client, name, [], 1, [], [])
        one.before += [node for node in before if node not in one.before]
        return one
