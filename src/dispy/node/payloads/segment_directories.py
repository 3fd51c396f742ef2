"""Directories of a node's large payloads: one for each computation, in memory, and another one on disk.

Where there is a memory file system there are two directories of the same name for a computation: one in memory, and
one on disk for data that finds no room in memory.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from dispy.errors import StateDirectoryError
from dispy.node.machine.accounts import Account
from dispy.node.processes.file_helpers import FileHelpers
from dispy.node.staging.job_directories import JobDirectories
from dispy.node.staging.workspace import WorkSpace
from dispy.system.directories import (
    cannot_be,
    disk_directory,
    own_directory_for,
    private_directory,
    shared_memory,
)
from dispy.system.free_space import Room

logger = logging.getLogger("dispy.node")

_LARGE = "large"
"""Name of the directory for segments on disk, inside the node's own directory of working directories."""


class SegmentDirectories:
    """The directories of one node in which large payloads are.

    Args:
        incarnation: Name of this run of the node.
        helpers: Processes that work as the accounts of jobs; None: all jobs run as this user.

    Raises:
        StateDirectoryError: The directory is not safe to use.

    Attributes:
        is_in_memory: True if there is a memory file system, which is tried before the disk. False: all is on disk.
        root: The node's own directory around those of computations: in memory if ``is_in_memory``. Its path is also
            the mark that all processes of the node carry in their environment.
    """

    def __init__(self, incarnation: str, helpers: FileHelpers | None) -> None:
        self._mode = 0o700 if helpers is None else 0o711
        self._disk: Path | None = None
        """Directory for segments on disk that find no room in memory; None before ``use_disk``, and if nothing is in
        memory."""
        made: JobDirectories | None = None
        memory = shared_memory()
        if memory is not None:
            try:
                made = JobDirectories(_base(memory, helpers), incarnation, helpers)
            except (OSError, StateDirectoryError) as error:
                if isinstance(error, StateDirectoryError) and not cannot_be(error):
                    raise
                logger.warning(
                    "large data goes to disk, since %s cannot be used: %s", memory, error.__cause__ or error
                )
        self.is_in_memory = made is not None
        if made is None:
            made = JobDirectories(_base(disk_directory(), helpers), incarnation, helpers)
        self._held = made
        """The directories of computations, in memory and on disk, by path."""
        self.root = self._held.root
        self.sweep = self._held.sweep
        """Removes what killed programs and nodes have left beside ours (``JobDirectories.sweep``)."""
        self.close = self._held.close
        """Gives all directories up (``JobDirectories.close``)."""

    def use_disk(self, workspace: WorkSpace) -> None:
        """Put data that finds no room in memory on disk, in ``workspace``'s directory. Called before ``open``."""
        if self.is_in_memory:
            self._disk = private_directory(workspace.root / _LARGE, self._mode)
            self._disk.chmod(self._mode)  # whatever the umask

    def open(self, name: str, account: Account | None = None) -> Path:
        """Make the directories for a computation's segments, called ``name`` (``place_name``), for an account.

        Returns:
            The directory in memory, or that on disk if nothing is in memory. Others are asked for by it.

        Raises:
            OSError: They cannot be made.
        """
        directory = self._held.open(name, account)
        if self._disk is not None:
            self._held.hold(self._disk / name, account)
        return directory

    def room(self, directory: Path) -> Room:
        """Returns the two directories in which files of a computation may be, in memory and on disk.

        Of one that there is not the path is empty.

        Args:
            directory: Directory of the computation, as ``open`` has returned it.
        """
        if not self.is_in_memory:
            return Room("", str(directory))
        return Room(str(directory), "" if self._disk is None else f"{self._disk}/{directory.name}")

    def disk_path(self, directory: Path) -> str:
        """Returns the path of a computation's directory on disk, which its host is told; empty if there is none."""
        return self.room(directory).disk

    def own_room(self) -> Room:
        """Returns the two directories for files that arrive before their computation is known, in memory and on disk.

        Of one that there is not the path is empty.
        """
        if not self.is_in_memory:
            return Room("", str(self.root))
        return Room(str(self.root), "" if self._disk is None else str(self._disk))

    def descriptors(self, directory: Path) -> list[int]:
        """Returns the descriptors of the directories in which files of a computation may be, that in memory first.

        Raises:
            FileNotFoundError: The directory was given up.
        """
        places = [self._held.at(directory).descriptor]
        if self._disk is not None:
            places.append(self._held.at(self._disk / directory.name).descriptor)
        return places

    def find(self, directory: Path, name: str) -> tuple[int, os.stat_result]:
        """Returns the descriptor of the directory that has a file of a computation, and the status of the file.

        Raises:
            FileNotFoundError: There is no file of that name.
        """
        for place in self.descriptors(directory):
            with suppress(FileNotFoundError):
                return place, os.stat(name, dir_fd=place, follow_symlinks=False)
        raise FileNotFoundError(f"segment {name} is not there")

    def account_at(self, directory: Path) -> Account | None:
        """Returns the account that a computation's files belong to; None: this user.

        Raises:
            FileNotFoundError: The directory was given up.
        """
        return self._held.at(directory).account

    def open_file(self, directory: Path, name: str) -> tuple[int, Account | None]:
        """Open a file of a computation to read it, whatever it is; any thread may call this.

        Returns:
            The descriptor, which the caller closes, and the account that the directory belongs to; None: this user.

        Raises:
            OSError: The file is not there, or cannot be opened.
        """
        with self._held.guard:
            account = self._held.at(directory).account
            place, _ = self.find(directory, name)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            return os.open(name, flags, dir_fd=place), account

    def drop(self, path: Path) -> None:
        """Give the directories with a computation's segments up, and remove them (``JobDirectories.drop``)."""
        self._held.drop(path)
        if self._disk is not None:
            self._held.drop(self._disk / path.name)


def _base(ours: Path, helpers: FileHelpers | None) -> Path:
    """Returns the directory in which the node makes its own: one beside ours, which lets nobody pass, if jobs run as
    other accounts."""
    return ours if helpers is None else own_directory_for(ours, "accounts")
