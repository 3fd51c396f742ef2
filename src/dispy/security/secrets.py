"""Secret that a client and its nodes must share: chosen, read from files, and turned into a key.

There always is one: no node takes jobs of a client that does not know its secret.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from msgspec import Struct

from dispy.errors import StateDirectoryError, UsageError
from dispy.security import key_text
from dispy.security.keys import Keys
from dispy.system.directories import state_directory, write_private_once

VARIABLE = "DISPY_SECRET"
"""Name of the environment variable whose secret is used if neither a secret nor a file is given. If its value is
empty, the user's own secret is used."""


class Secret(Struct, frozen=True):
    """The keys of a secret, and their origin: given by the user, or made by dispy.

    Attributes:
        keys: The keys: masters, or keys derived for one role and name.
        is_own: True for the user's own secret, made by dispy: links beyond this machine are refused with it, since
            no other machine has it.
        is_typed: True if people made a key up: whoever gets a proof of it can try words until one fits. False if
            all are random.
        weakness: Why a typed secret is too easy to guess for listeners beyond loopback; empty if it is not.
    """

    keys: Keys
    is_own: bool
    is_typed: bool = False
    weakness: str = ""

    @property
    def key(self) -> bytes:
        """The key that is used (32 bytes)."""
        return self.keys.first.key

    def text(self) -> str:
        """Returns a text of which ``choose`` makes this secret, typed or not, without stretching it once more."""
        revoked = map(key_text.write_revoked, self.keys.revoked)
        return "\n".join([*map(key_text.write, self.keys.lines), *revoked])

    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits by which two secrets are compared without showing anything else of them.

        Keys derived from a secret have its fingerprint. Nodes list themselves with it, and journals have it, so that
        a program finds nodes with its secret.
        """
        return self.keys.fingerprint


def choose(secret: str = "", secret_file: str | None = None) -> Secret:
    """Returns the secret to use: the given one, else that of the file, else of ``DISPY_SECRET``, else the user's own.

    The user's own secret is made on first use.

    Raises:
        UsageError: Secret and file are both given; the file cannot be read, is empty or not UTF-8, or is readable
            by others; or the secret is a derived key that is damaged, or has lines that do not belong together.
        StateDirectoryError: The user's own secret cannot be read or made.
    """
    if secret and secret_file:
        raise UsageError("both a secret and a secret file are given", hint="give one of them")
    if secret_file:
        secret = _read_file(Path(secret_file))
    secret = secret or os.environ.get(VARIABLE, "")
    if not secret:
        return own()
    return _given(secret)


def _given(text: str) -> Secret:
    keys = key_text.read(text)
    if not any(line.is_typed for line in keys.lines):
        return Secret(keys, is_own=False)
    from dispy.security.strength import estimate  # 1 ms, which programs with other secrets do not need

    typed = [line for line in key_text.split(text)[0] if not key_text.is_generated(line)]
    weak = [strength.reason for line in typed if not (strength := estimate(line)).is_strong]
    return Secret(keys, is_own=False, is_typed=True, weakness=weak[0] if weak else "")


SECRET_FILE_MAX = 4096
"""Bytes of the largest file that may be one with a secret. For a larger one that others can read, the error does not
advise ``chmod``, as it may be a file of the system. Its size does not matter otherwise."""


def _read_file(path: Path) -> str:
    """Returns the secret in a file: its text without white space at the ends.

    Raises:
        UsageError: The file cannot be read, is empty or not UTF-8, or other users can read it.
    """
    another = "give another file, or make one: 'dispy secret new NEW_FILE'"
    try:
        status = path.stat()
        if stat.S_IMODE(status.st_mode) & 0o077 and not stat.S_ISDIR(status.st_mode):
            hint = f"run 'chmod 600 {shlex.quote(str(path))}'" if _may_be_secret(path, status) else another
            raise UsageError(f"secret file {path} can be read by others", hint=hint)
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError as error:
        raise UsageError(
            f"secret file {path} cannot be read: {error.strerror}",
            hint=f"make one with 'dispy secret new {shlex.quote(str(path))}'",
        ) from error
    except OSError as error:
        raise UsageError(f"secret file {path} cannot be read: {error.strerror}", hint=another) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"secret file {path} is not text", hint=another) from error
    if not text:
        raise UsageError(f"secret file {path} is empty", hint=another)
    return text


def _may_be_secret(path: Path, status: os.stat_result) -> bool:
    """True if a file looks made to hold a secret: it is ours, small, and has one line or begins with a key.

    Only then may an error advise to change its mode (``chmod 600``): for a file of the system that would do harm.
    """
    if (
        status.st_uid != os.geteuid()
        or not stat.S_ISREG(status.st_mode)
        or status.st_size > SECRET_FILE_MAX
    ):
        return False
    lines = path.read_bytes().split(b"\n")
    return sum(map(bool, map(bytes.strip, lines))) < 2 or lines[0].startswith(b"dispy1-")


def own() -> Secret:
    """Returns the user's own secret, which is made on first use.

    It lets one user's programs on one machine find each other, and keeps other users out.

    Raises:
        StateDirectoryError: The file of the secret cannot be made or read, or is not of this user alone.
    """
    path = state_directory() / "secret"
    try:
        text = _read_own(path)
    except FileNotFoundError:
        _make_own(path)
        text = _read_own(path)
    return Secret(key_text.read(text), is_own=True)


def _make_own(path: Path) -> None:
    """Make the file (0600) of the user's own secret, unless another program has made it by now.

    Raises:
        StateDirectoryError: The file cannot be written.
    """
    try:
        write_private_once(path, key_text.generate().encode() + b"\n")
    except OSError as error:
        raise StateDirectoryError(
            f"this user's own secret cannot be written to {path}: {error.strerror}",
            hint=f"make room there, point XDG_STATE_HOME elsewhere, or give a secret by the variable {VARIABLE}",
        ) from error


def _read_own(path: Path) -> str:
    """Returns the user's own secret from its file.

    Raises:
        FileNotFoundError: There is no such file; the caller makes one.
        StateDirectoryError: The file cannot be read, has no secret, is a link, or is not of this user alone.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StateDirectoryError(
            f"{path} cannot be read: {error.strerror}", hint="remove it; a new one is made"
        ) from error
    with os.fdopen(descriptor, encoding="ascii", errors="replace") as file:
        status = os.fstat(descriptor)
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise StateDirectoryError(
                f"{path} is not a file of this user alone", hint="remove it; a new one is made"
            )
        text = file.read().strip()
    if not text or not text.isascii():
        raise StateDirectoryError(f"{path} holds no secret", hint="remove it; a new one is made")
    return text
