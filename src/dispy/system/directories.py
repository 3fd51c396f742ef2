"""The user's own directories: state that stays (the secret), what describes running processes, and large data.

All are 0700 and must belong to the user; a directory or link that somebody else could have put
there is refused, not repaired. In containers there may be no home, nothing but memory to write to, or no memory file
system: each has others in its place, and what that means is said once.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from dispy.errors import StateDirectoryError

logger = logging.getLogger("dispy.net")

MEMORY = Path("/dev/shm")
"""Where the memory file system of a machine is."""


def state_directory() -> Path:
    """``$XDG_STATE_HOME/dispy`` or ``~/.local/state/dispy``, made if it is missing.

    Where there is no home, or none that can be written, it is in the temporary directory.
    """
    base = os.environ.get("XDG_STATE_HOME")
    if base:
        return private_directory(Path(base) / "dispy")
    home = _home()
    reason = "there is no home directory"
    if home is not None:
        try:
            return private_directory(home / ".local" / "state" / "dispy")
        except StateDirectoryError as error:
            if not cannot_be(error):
                raise
            reason = str(error.__cause__)
    path = private_directory(temporary_directory() / f"dispy-state-{os.getuid()}")
    _say_once(
        logging.INFO,
        f"the secret of this user and journals are kept in {path} ({reason}): programs and nodes with another home "
        "or temporary directory do not find each other; set XDG_STATE_HOME to a directory that they share and that "
        "stays, or give a secret",
    )
    return path


def _home() -> Path | None:
    """The home directory, whether it is there or not; None if nobody knows one, as for an account without a name."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_absolute() else None


def state_path() -> Path:
    """Where the state directory is, unless nothing can be written there; it may be missing.

    Raises:
        StateDirectoryError: There is no home directory.
    """
    base = os.environ.get("XDG_STATE_HOME")
    if base:
        return Path(base) / "dispy"
    home = _home()
    if home is None:
        raise StateDirectoryError(
            "there is no home directory", hint="set HOME, or XDG_STATE_HOME to a directory of your own"
        )
    return home / ".local" / "state" / "dispy"


def runtime_path() -> Path:
    """``$XDG_RUNTIME_DIR/dispy`` or ``dispy-UID`` in the temporary directory, which may be missing.

    A variable that ``su`` has kept names another user's directory, and is passed over.

    Raises:
        StateDirectoryError: There is no temporary directory.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    with suppress(OSError):
        if base and os.path.isdir(base) and os.stat(base).st_uid == os.getuid():
            return Path(base) / "dispy"
    return temporary_directory() / f"dispy-{os.getuid()}"


def temporary_directory() -> Path:
    """The temporary directory, as of ``tempfile``, but never the current one, which is the user's.

    Where none can be written, such as in a container whose root file system is read-only, another one that is not
    meant to stay, or memory.

    Raises:
        StateDirectoryError: There is nothing of all these.
    """
    tried = [os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")] + [
        "/tmp",
        "/var/tmp",
        "/usr/tmp",
    ]
    tried = [os.path.abspath(path) for path in tried if path]
    is_chosen = tempfile.tempdir is not None
    try:
        found = tempfile.gettempdir()
    except FileNotFoundError:
        found = ""
    if found and (is_chosen or found in tried):
        return Path(found)
    if not is_chosen:
        tempfile.tempdir = None  # not the current directory for others, either
    home = _home()
    others = [os.environ.get(name, "") for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME")]
    others += [str(home / ".local" / "state") if home is not None else "", str(MEMORY)]
    others = [path for path in others if os.path.isabs(path)]
    for path in others:
        if os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK):
            _say_once(
                logging.WARNING,
                f"files go to {path}, since no temporary directory can be written (tried {', '.join(tried)}); set "
                "TMPDIR to one on disk, such as a volume of the container",
            )
            return Path(path)
    raise StateDirectoryError(
        f"no directory for temporary files can be written (tried {', '.join([*tried, *others])})",
        hint="set TMPDIR to one that can, such as a volume or memory: docker run --tmpfs /tmp",
    )


_said: set[str] = set()


def _say_once(level: int, text: str) -> None:
    if text not in _said:
        _said.add(text)
        logger.log(level, "%s", text)


def shared_memory() -> Path | None:
    """A directory on the memory file system (``/dev/shm``); None where there is none, or none to write to."""
    if not (MEMORY.is_dir() and os.access(MEMORY, os.W_OK | os.X_OK)):
        return None
    try:
        return private_directory(MEMORY / f"dispy-{os.getuid()}")
    except StateDirectoryError as error:
        if not cannot_be(error):
            raise
        return None


def memory_directory() -> Path:
    """A directory for large data: on the memory file system where there is one, else on disk."""
    return shared_memory() or disk_directory()


def disk_directory() -> Path:
    """A directory for large data where there is no memory file system."""
    return private_directory(temporary_directory() / f"dispy-memory-{os.getuid()}")


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
    path = MEMORY / f"dispy-{os.getuid()}" / node.hex()
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


def cannot_be(error: StateDirectoryError) -> bool:
    """Whether a directory cannot be made there, and another place will do; False if something is in its place, which
    somebody else may have put there.
    """
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno != errno.EEXIST


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


def make_directories(path: str, mode: int) -> None:
    """Make a directory and those missing above it, whatever the umask; one that is there stays as it is.

    Raises:
        OSError: One cannot be made.
    """
    with suppress(FileNotFoundError):
        os.stat(
            path
        )  # a path that is too long is refused before its first two thousand directories are made
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for each in reversed(missing):
        try:
            os.mkdir(each, 0o700)
        except FileExistsError:  # somebody else has just made it
            if not os.path.isdir(each):
                raise
        else:
            os.chmod(each, mode)


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
