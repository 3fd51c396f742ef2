"""Files and directories that no job can reach and no node may touch: what is done to them shows.

They lie in directories that everybody may pass through, so that a link leads to them. Each has the names that nodes
put, send and remove in working directories and beside large data: a node that is led there finds what it looks for.
Two ways see what happens. A *snapshot* is all that the file system knows of them, the time of change included, which
nobody can set. A *watch* (fanotify) sees who opens those that only root and their owner can open.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import pwd
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

MARKER = "-".join(("CANARY", "SECRET", ""))
"""In each file that the account of the jobs must never read: whatever shows it has read one. This text itself goes to
nodes, so it has no marker in it."""

OTHER_ACCOUNT = "daemon"
"""Owner of half of the canaries; the others are root's. Jobs run as neither."""

FILES = ("passwd", "tool.sh", "large.bin", "data.txt", "code", "object-1", "1", "lock", "module.py")
"""Names of the files in each directory."""

DIRECTORIES = ("", "etc", "w2/etc", "w3/etc", "w2/w3/etc", "w2/w3", "sub", "sub/deeper", "etc/sub/deeper")
"""Directories of each canary tree: what is left of a path below a component that a link has replaced."""

MODES = (0o600, 0o640, 0o755)
"""Of the files, in turn. Others may read those of the last one, which have no marker."""

_FAN_CLOEXEC, _FAN_NONBLOCK, _FAN_MARK_ADD = 0x1, 0x2, 0x1
_FAN_MODIFY, _FAN_OPEN, _FAN_ONDIR = 0x2, 0x20, 0x40000000
_AT_FDCWD = -100
_EVENT = struct.Struct("IBBHQii")
"""Of ``fanotify``: length, version, reserved, length of this part, what happened, descriptor, pid."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All that the file system knows of one file or directory; ``content`` is a digest, a link's target, or names."""

    owner: tuple[int, int]
    mode: int
    size: int
    links: int
    mtime_ns: int
    ctime_ns: int
    content: str


@dataclass(slots=True)
class Canaries:
    """Two trees below ``root``: of root, and of another account.

    Attributes:
        root: Where they lie; everybody can pass through and read names here.
        trees: Directories that links lead to: each has all of ``DIRECTORIES``. Others cannot list every second one.
        secrets: Files that only their owners can read; each has the marker.
    """

    root: Path
    trees: list[Path] = field(default_factory=list)
    secrets: list[Path] = field(default_factory=list)
    _descriptor: int = -1

    def make(self) -> None:
        """Make all files and directories, and begin to watch."""
        other = pwd.getpwnam(OTHER_ACCOUNT)
        self.root.mkdir(mode=0o755)
        serial = 0
        for name, ids in (("root", (0, 0)), ("other", (other.pw_uid, other.pw_gid))):
            for mode in (0o755, 0o711):
                tree = self.root / f"{name}-{mode:o}"
                tree.mkdir()
                self.trees.append(tree)
                for below in DIRECTORIES:
                    (tree / below).mkdir(parents=True, exist_ok=True)
                    for file in FILES:
                        serial = self._make_file(tree / below / file, serial, ids)
                for directory in (tree, *sorted(path for path in tree.rglob("*") if path.is_dir())):
                    os.chown(directory, *ids)
                    directory.chmod(mode)
        self._watch()

    def _make_file(self, path: Path, serial: int, ids: tuple[int, int]) -> int:
        if path.exists():
            return serial
        mode = MODES[serial % len(MODES)]
        secret = "nothing" if mode & 0o004 else MARKER + hashlib.sha256(str(path).encode()).hexdigest()[:16]
        path.write_text(f"{path.name}: {secret}\n")
        if not mode & 0o004:
            self.secrets.append(path)
        os.chown(path, *ids)
        path.chmod(mode)
        return serial + 1

    # What has changed.

    def snapshot(self) -> dict[str, Seen]:
        """All that is there now, by path."""
        found = {}
        for path in _walk(str(self.root)):
            status = os.lstat(path)
            found[path] = Seen(
                (status.st_uid, status.st_gid),
                status.st_mode,
                status.st_size,
                status.st_nlink,
                status.st_mtime_ns,
                status.st_ctime_ns,
                _content(path, status),
            )
        return found

    def glance(self) -> dict[str, tuple[int, ...]]:
        """The same without contents, which may be looked at every moment."""
        found = {}
        for path in _walk(str(self.root)):
            with suppress(FileNotFoundError):
                status = os.lstat(path)
                found[path] = (
                    status.st_uid,
                    status.st_mode,
                    status.st_size,
                    status.st_nlink,
                    status.st_ctime_ns,
                )
        return found

    def _watch(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.fanotify_init(_FAN_CLOEXEC | _FAN_NONBLOCK, os.O_RDONLY | os.O_CLOEXEC)
        if self._descriptor < 0:
            print(f"who opens canaries is not seen: {os.strerror(ctypes.get_errno())}", flush=True)
            return
        mask = ctypes.c_uint64(_FAN_OPEN | _FAN_MODIFY | _FAN_ONDIR)
        for path in _walk(str(self.root)):
            if not os.lstat(path).st_mode & 0o004:
                name = os.fsencode(path)
                if libc.fanotify_mark(self._descriptor, _FAN_MARK_ADD, mask, _AT_FDCWD, name) != 0:
                    raise OSError(ctypes.get_errno(), "fanotify_mark", path)

    def opened(self) -> list[str]:
        """Who, besides this process, has opened what since the last look, though only root and the owner can."""
        found: dict[str, None] = {}
        with suppress(BlockingIOError):
            while self._descriptor >= 0 and (data := os.read(self._descriptor, 65536)):
                at = 0
                while at < len(data):
                    size, _, _, _, _, descriptor, pid = _EVENT.unpack_from(data, at)
                    at += size
                    if pid != os.getpid():
                        found[f"{os.readlink(f'/proc/self/fd/{descriptor}')} by {_describe(pid)}"] = None
                    os.close(descriptor)
        return list(found)

    def close(self) -> None:
        """Stop watching."""
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _describe(pid: int) -> str:
    """A process by its pid and command, if it still runs."""
    with suppress(OSError):
        return f"{pid} ({Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ').decode()[:200]})"
    return f"{pid} (gone)"


def _walk(top: str) -> Iterator[str]:
    """A directory and all below it, as far as paths may be long; links are not followed."""
    waiting = [top]
    while waiting:
        path = waiting.pop()
        yield path
        with suppress(OSError), os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    yield entry.path


def _content(path: str, status: os.stat_result) -> str:
    if stat.S_ISREG(status.st_mode):
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    return " ".join(sorted(os.listdir(path))) if stat.S_ISDIR(status.st_mode) else ""


def differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """What is in one and not the same in the other, in words."""
    found = [f"removed: {path}" for path in before.keys() - after.keys()]
    found += [f"made: {path}: {after[path]}" for path in after.keys() - before.keys()]
    found += [
        f"changed: {path}: {before[path]} -> {after[path]}"
        for path in before.keys() & after.keys()
        if before[path] != after[path]
    ]
    return sorted(found)


def find_marker(tops: list[str], uid: int) -> list[str]:
    """Files below directories that an account owns, or that others may read, with a marker in them.

    Args:
        tops: Directories.
        uid: The account.
    """
    found = []
    marker = MARKER.encode()
    for top in tops:
        for path in _walk(top):
            with suppress(OSError):
                status = os.lstat(path)
                is_open = status.st_uid == uid or status.st_mode & 0o004
                if stat.S_ISREG(status.st_mode) and is_open and status.st_blocks:
                    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                    try:
                        if marker in os.read(descriptor, 1 << 20):
                            found.append(path)
                    finally:
                        os.close(descriptor)
    return found
