"""The user's own directories: for state that stays (secret, journals), for running processes, and for large data.

All have mode 0700 and must belong to the user. A directory or link that another user could have put there is not
used, and not repaired. Where other users can put things (temporary directory, memory file system), a directory
beside it takes its place, with a random name that nobody could know before (``own_directory``): the log says so once.
Programs and nodes of the user find it by its name and owner, since nobody else can make a directory that belongs to
him. In containers there may be no home directory, nothing but memory to write to, or no memory file system: then
another directory serves, and the log says once what follows from that.
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
"""Mount point of the machine's memory file system, which may be missing."""


def state_directory() -> Path:
    """Returns the directory for state that stays: ``$XDG_STATE_HOME/dispy`` or ``~/.local/state/dispy``.

    The directory is made if it is missing. Where there is no home directory, or it cannot be written to, the state
    directory is in the temporary directory.

    Raises:
        StateDirectoryError: The directory cannot be made, or is open to others.
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
    path = own_directory(temporary_directory() / f"dispy-state-{os.getuid()}")
    _say_once(
        logging.INFO,
        f"the secret of this user and journals are kept in {path} ({reason}): programs and nodes with another home "
        "or temporary directory do not find each other; set XDG_STATE_HOME to a directory that they share and that "
        "stays, or give a secret",
    )
    return path


def _home() -> Path | None:
    """Returns the home directory, which may be missing; None if none is known, as for an account without a name."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_absolute() else None


def state_path() -> Path:
    """Returns the usual path of the state directory, which may be missing. Nothing is made.

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
    """Returns the path for files of running processes; the directory may be missing.

    The path is ``$XDG_RUNTIME_DIR/dispy``, or else ``dispy-UID`` in the temporary directory, or that of the directory
    that takes its place (``own_directory``). After ``su`` the variable may name another user's directory, and is
    ignored.

    Raises:
        StateDirectoryError: There is no temporary directory.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    with suppress(OSError):
        if base and os.path.isdir(base) and os.stat(base).st_uid == os.getuid():
            return find_own(Path(base) / "dispy")
    return find_own(temporary_directory() / f"dispy-{os.getuid()}")


def temporary_directory() -> Path:
    """Returns the temporary directory, as ``tempfile`` does, but never the current directory, which is the user's.

    Where none can be written to, as in a container whose root file system is read-only, another directory serves:
    one for run-time files or state, or memory. The log says so once.

    Raises:
        StateDirectoryError: None of these can be written to.
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
        tempfile.tempdir = None  # other users of tempfile are not to get the current directory, either
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
"""Texts that ``_say_once`` has logged in this process."""


def _say_once(level: int, text: str) -> None:
    """Log a text, unless this process has logged it before: directories are asked for many times."""
    if text not in _said:
        _said.add(text)
        logger.log(level, "%s", text)


def shared_memory() -> Path | None:
    """Returns this user's directory on the memory file system (``/dev/shm``); None if none can be written there.

    The directory is made if it is missing. Large data goes to disk if there is none.
    """
    if not (MEMORY.is_dir() and os.access(MEMORY, os.W_OK | os.X_OK)):
        return None
    try:
        return own_directory(MEMORY / f"dispy-{os.getuid()}")
    except StateDirectoryError:
        return None


def memory_directory() -> Path:
    """Returns a directory for large data, made if it is missing: in memory if one can be written there, else on disk.

    Raises:
        StateDirectoryError: Neither can be made.
    """
    return shared_memory() or disk_directory()


def disk_directory() -> Path:
    """Returns a directory for large data on disk, for machines without a memory file system; made if it is missing.

    Raises:
        StateDirectoryError: The directory cannot be made.
    """
    return own_directory(temporary_directory() / f"dispy-memory-{os.getuid()}")


FREE = "free"
"""Name of the subdirectory, in a node's directory in memory, of files whose payload is not needed any more. The node,
its workers and its clients write new payloads into them: that costs less than new files, whose pages would have to be
made."""

GIVEN = "given"
"""Name of the subdirectory, in a node's directory in memory, of payloads that clients of this machine have linked
there, each named by a number, until the node takes them."""

GIVEN_BITS = 32
"""How many lower bits of the number of a file in ``GIVEN`` count the files of one client. The bits above tell which
client it is (``given_prefix``), so that the node can remove the files of a client that has died."""


def given_prefix(client: bytes) -> int:
    """Returns the upper bits of the numbers of files that a client links to nodes (see ``GIVEN_BITS``).

    Args:
        client: Random identity of the client, of which the first three bytes count.
    """
    return int.from_bytes(client[:3])


def shared_with(node: bytes) -> str:
    """Returns the path of a node's directory in memory, by the node's identity; empty if it is not here, or not ours.

    If there is one, program and node exchange payloads as files there, without a copy. The directory is looked for
    below our own user's, and the identity is random: so a directory that is found is the node's.
    """
    return shared_place(node.hex())


def shared_place(name: str) -> str:
    """Returns the path of a directory in memory in which another process of this user takes files (``GIVEN``).

    Empty if it is not here, or not ours. ``name``: its name, which has random bytes of its owner in it.
    """
    usual = MEMORY / f"dispy-{os.getuid()}"
    if is_private(usual / name / GIVEN):
        return str(usual / name)
    for base in _substitutes(usual, 0o700):
        if is_private(base / name / GIVEN):
            return str(base / name)
    return ""


def is_private(path: Path) -> bool:
    """True if a path is a directory of this user alone. Nothing is made."""
    try:
        return _is_ours(path.lstat(), 0o700)
    except OSError:
        return False


def _is_ours(status: os.stat_result, mode: int) -> bool:
    """True if a status is that of a directory (no link) of this user, with no permissions beyond ``mode``."""
    is_closed = not status.st_mode & 0o777 & ~mode
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and is_closed


def cannot_be(error: StateDirectoryError) -> bool:
    """True if an error of ``private_directory`` means that the directory cannot be made: another place may serve.

    False if something is in its place, which another user may have put there: then no other place is tried.
    """
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno != errno.EEXIST


def private_directory(path: Path, mode: int = 0o700) -> Path:
    """Make a directory that is this user's alone, or check one that is there; returns ``path``.

    Args:
        path: Path of the directory. Directories above it are made with the usual mode.
        mode: Permission bits of a new directory, and the most that one that is there may have. 0o711 lets other users
            pass through, to files below that are theirs.

    Raises:
        StateDirectoryError: The directory cannot be made, is a link, or is open to others.
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


_APART = "~"
"""Text between the usual name of a directory and the random part of the name of one that takes its place. No name of
an account has it: with one, the usual name ends."""


def own_directory(path: Path, mode: int = 0o700) -> Path:
    """Make or check a directory of this user, as ``private_directory``, where other users may have been first.

    If something that may be another user's is in its place, a directory beside it, with a random name, is used, now
    and by later calls, and the log says so once. The directory around it must be one in which nobody can rename what
    is another's, such as ``/tmp``.

    Args:
        path: Usual path of the directory.
        mode: Permission bits of a new directory, and the most that one that is there may have.

    Returns:
        ``path``, or the path of the directory that takes its place.

    Raises:
        StateDirectoryError: No directory can be made there.
    """
    try:
        return private_directory(path, mode)
    except StateDirectoryError as error:
        if cannot_be(error):
            raise
        found = _substitutes(path, mode)
        try:
            other = (
                found[0]
                if found
                else Path(tempfile.mkdtemp(prefix=f"{path.name}{_APART}", dir=path.parent))
            )
            if not found:
                os.chmod(
                    other, mode
                )  # the directory itself: its name is random, and nobody else can change it
        except OSError as failure:
            raise StateDirectoryError(
                f"{path} is not a directory of this user alone, and none can be made beside it: "
                f"{failure.strerror}",
                hint=f"look at it with 'ls -ld {path}' and have it removed",
            ) from failure
    _say_once(
        logging.WARNING,
        f"{path} is not a directory of this user alone, so {other} is used in its place; somebody else may have put "
        f"it there: look at it with 'ls -ld {path}', and have its owner or root remove it",
    )
    return other


def find_own(path: Path, mode: int = 0o700) -> Path:
    """Returns the path that ``own_directory`` would return, but makes nothing: it may be missing."""
    try:
        if _is_ours(path.lstat(), mode):
            return path
    except OSError:
        return path
    found = _substitutes(path, mode)
    return found[0] if found else path


def own_directory_for(base: Path, whom: str) -> Path:
    """Make or check the directory beside ``base`` that processes of other accounts may pass through.

    Args:
        base: A directory of this user, as ``own_directory`` has returned it.
        whom: Last part of its name, which says for whom it is.

    Returns:
        The path of the directory, as ``own_directory`` returns it. Its mode is at most 0711.

    Raises:
        StateDirectoryError: No directory can be made there.
    """
    usual = base.name.partition(_APART)[0]
    return own_directory(base.with_name(f"{usual}-{whom}"), 0o711)


def _substitutes(path: Path, mode: int) -> list[Path]:
    """Returns this user's directories that may take the place of ``path``, sorted by name. Nothing is made."""
    found = []
    try:
        with os.scandir(path.parent) as entries:
            for entry in entries:
                if entry.name.startswith(f"{path.name}{_APART}"):
                    with suppress(OSError):  # removed meanwhile
                        if _is_ours(entry.stat(follow_symlinks=False), mode):
                            found.append(entry.name)
    except OSError:
        return []
    return [path.with_name(name) for name in sorted(found)]


def reopen_private(path: Path, mode: int = 0o700) -> None:
    """Make or check a directory as ``private_directory`` does, for callers that handle OSError only.

    Raises:
        OSError: As ``StateDirectoryError`` of ``private_directory``, with its words: an operation on files failed,
            and the node goes on.
    """
    try:
        private_directory(path, mode)
    except StateDirectoryError as error:
        raise OSError(str(error)) from error


def make_directories(path: str, mode: int) -> None:
    """Make a directory and those missing above it, with this mode whatever the umask.

    Directories that are there stay as they are.

    Raises:
        OSError: A directory cannot be made.
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
        except FileExistsError:  # another process has just made it
            if not os.path.isdir(each):
                raise
        else:
            os.chmod(each, mode)


def write_private(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write a file whole or not at all, with mode 0600. A file that is there is replaced.

    Args:
        path: Path of the file.
        data: The whole content.
        sync: Wait until content and name are on disk, so that the file survives a power failure.

    Raises:
        OSError: The file cannot be written.
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


def write_private_once(path: Path, data: bytes) -> None:
    """Write a file with mode 0600, unless something has its name: of several programs at once the first one wins.

    The file has its name only when all of it is on disk. The caller reads it back: it may be another program's.

    Raises:
        OSError: The file cannot be written.
    """
    candidate = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    write_private(candidate, data, sync=True)
    try:
        with suppress(FileExistsError):
            os.link(candidate, path)
    finally:
        candidate.unlink()


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on disk, so that files made there survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
