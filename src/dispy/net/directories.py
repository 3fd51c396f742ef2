"""The user's own directories: state that stays (the secret) and what describes running processes.

Both are 0700 and must belong to the user; a directory or link that somebody else could have put
there is refused, not repaired.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from dispy.errors import StateDirectoryError


def state_path() -> Path:
    """``$XDG_STATE_HOME/dispy`` or ``~/.local/state/dispy``, which may be missing.

    Raises:
        StateDirectoryError: There is no home directory.
    """
    base = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".local" / "state") / "dispy"
    except RuntimeError as error:
        raise StateDirectoryError(
            "there is no home directory", hint="set HOME, or XDG_STATE_HOME to a directory of your own"
        ) from error


def state_directory() -> Path:
    """The same, made if it is missing."""
    return private_directory(state_path())


def runtime_path() -> Path:
    """``$XDG_RUNTIME_DIR/dispy`` or ``dispy-UID`` in the temporary directory, which may be missing.

    A variable that ``su`` has kept names another user's directory, and is passed over.

    Raises:
        StateDirectoryError: There is no temporary directory.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    try:
        if base and os.path.isdir(base) and os.stat(base).st_uid == os.getuid():
            return Path(base) / "dispy"
        return Path(tempfile.gettempdir()) / f"dispy-{os.getuid()}"
    except OSError as error:
        raise StateDirectoryError(
            "there is no temporary directory that can be written to", hint="set TMPDIR or XDG_RUNTIME_DIR"
        ) from error


def runtime_directory() -> Path:
    """The same, made if it is missing."""
    return private_directory(runtime_path())


def memory_directory() -> Path:
    """A directory on a memory file system (``/dev/shm``) where there is one, else the runtime directory."""
    shared = Path("/dev/shm")
    if shared.is_dir() and os.access(shared, os.W_OK):
        return private_directory(shared / f"dispy-{os.getuid()}")
    return runtime_directory()


FREE = "free"
GIVEN = "given"
"""In a node's directory there: files that can be used again, and those that clients have just linked."""


GIVEN_BITS = 32
"""Of a name there that count; those above tell whose it is."""


def given_prefix(client: bytes) -> int:
    """The upper bits of the names that a client gives."""
    return int.from_bytes(client[:3])


def shared_with(node: bytes) -> str:
    """The directory on this machine's memory file system of the node with this identity; empty if we cannot see it.

    It is looked for under our own user's, and the node's name is random: what we find is the node's.
    """
    path = Path("/dev/shm") / f"dispy-{os.getuid()}" / node.hex()
    try:
        status = (path / GIVEN).lstat()
    except OSError:
        return ""
    return str(path) if _is_ours(status, 0o700) else ""


def is_private(path: Path) -> bool:
    """Whether this is a directory that is this user's alone; nothing is made."""
    try:
        return _is_ours(path.lstat(), 0o700)
    except OSError:
        return False


def _is_ours(status: os.stat_result, mode: int) -> bool:
    is_closed = not status.st_mode & 0o777 & ~mode
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and is_closed


def private_directory(path: Path, mode: int = 0o700) -> Path:
    """Make a directory that is this user's alone, or check that it is one.

    Args:
        path: Where; directories above it are made as usual.
        mode: 0o711 lets others pass through, to what is theirs below.

    Raises:
        StateDirectoryError: It cannot be made, is a link, or is open to others.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=mode, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise StateDirectoryError(
            f"directory {path} cannot be made: {error.strerror}",
            hint="make it, or point XDG_STATE_HOME and XDG_RUNTIME_DIR to places you can write to",
        ) from error
    if not _is_ours(status, mode):
        raise StateDirectoryError(
            f"{path} is not a directory of this user alone",
            hint=f"look at it with 'ls -ld {path}' and remove it, or 'chmod 700' it if it is yours",
        )
    return path


def write_private(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write a file whole or not at all, readable by this user only.

    Args:
        path: The file.
        data: All of it.
        sync: Down to the disk, with its name: it is there when the power fails.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    if sync:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Have the names in a directory on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
