"""Secret that a client and its nodes must share: chosen, read from files, and turned into a key.

There always is one: no node takes jobs of a client that does not know its secret.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import secrets
import shlex
import stat
from pathlib import Path

from msgspec import Struct

from dispy.errors import StateDirectoryError, UsageError
from dispy.system.directories import state_directory, write_private_once

KEY_SIZE = 32
"""Bytes of a key, to which each secret is turned: handshakes prove that both sides have it."""

_GENERATED = "dispy1-"
"""Prefix of generated secrets: the key follows as 64 hexadecimal digits. 256 random bits need no stretching."""

_STRETCHED = f"{_GENERATED}typed-"
"""Prefix of the texts of keys that were stretched from typed secrets, followed by 64 hexadecimal digits: our own
processes hand such keys on (``Secret.text``), and know of them that they were typed."""

_SALT = b"dispy 5 secret typed by a person"
"""Salt for typed secrets. It is fixed, since both sides must derive the same key from the words alone. So typed
secrets can be guessed offline, at 45 ms per guess; generated ones cannot."""

VARIABLE = "DISPY_SECRET"
"""Name of the environment variable whose secret is used if neither a secret nor a file is given. If its value is
empty, the user's own secret is used."""


class Secret(Struct, frozen=True):
    """A key, and its origin: given by the user, or made by dispy.

    Attributes:
        key: 32 bytes, derived from the secret.
        is_own: True for the user's own secret, made by dispy: links beyond this machine are refused with it, since
            no other machine has it.
        is_typed: True if people made the secret up: whoever gets a proof of it can try words until one fits. False if
            it is random.
        weakness: Why a typed secret is too easy to guess for listeners beyond loopback; empty if it is not.
    """

    key: bytes
    is_own: bool
    is_typed: bool = False
    weakness: str = ""

    def text(self) -> str:
        """Returns a text of which ``choose`` makes this key, typed or not, without stretching it once more."""
        return (_STRETCHED if self.is_typed else _GENERATED) + self.key.hex()

    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits by which two secrets are compared without showing anything else of them.

        Nodes list themselves with it, and journals have it, so that a program finds nodes with its secret.
        """
        return hmac.digest(self.key, b"dispy fingerprint", "sha256")[:8].hex()


def choose(secret: str = "", secret_file: str | None = None) -> Secret:
    """Returns the secret to use: the given one, else that of the file, else of ``DISPY_SECRET``, else the user's own.

    The user's own secret is made on first use.

    Raises:
        UsageError: Secret and file are both given; or the file cannot be read, is empty or not UTF-8, or is readable
            by others.
        StateDirectoryError: The user's own secret cannot be read or made.
    """
    if secret and secret_file:
        raise UsageError("both a secret and a secret file are given", hint="give one of them")
    if secret_file:
        secret = _read_file(Path(secret_file))
    secret = secret or os.environ.get(VARIABLE, "")
    if not secret:
        return own()
    if _read_key(secret, _GENERATED):
        return Secret(stretch(secret), is_own=False)
    from dispy.security.strength import estimate  # 1 ms, which programs with other secrets do not need

    strength = estimate(secret)
    return Secret(
        stretch(secret), is_own=False, is_typed=True, weakness="" if strength.is_strong else strength.reason
    )


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
    """True if a file looks made to hold a secret: it is ours, small, and has one line, unlike root's ``/etc/passwd``.

    Only then may an error advise to change its mode (``chmod 600``): for a file of the system that would do harm.
    """
    if (
        status.st_uid != os.geteuid()
        or not stat.S_ISREG(status.st_mode)
        or status.st_size > SECRET_FILE_MAX
    ):
        return False
    return path.read_bytes().strip().count(b"\n") == 0


@functools.cache
def stretch(secret: str) -> bytes:
    """Returns the key (32 bytes) of a secret: its own bits if it was generated; by scrypt (45 ms) if it was typed.

    Keys are remembered as long as the process lives.
    """
    return (
        _read_key(secret, _GENERATED)
        or _read_key(secret, _STRETCHED)
        or hashlib.scrypt(
            secret.encode("utf-8", "surrogateescape"), salt=_SALT, n=1 << 14, r=8, p=1, dklen=KEY_SIZE
        )
    )


def _read_key(secret: str, prefix: str) -> bytes:
    """Returns the key (32 bytes) that follows a prefix in hexadecimal digits; empty if the text has another form."""
    try:
        key = bytes.fromhex(secret.removeprefix(prefix)) if secret.startswith(prefix) else b""
    except ValueError:
        return b""
    return key if len(key) == KEY_SIZE else b""


def generate() -> str:
    """Returns a new secret of 256 random bits, as text: "dispy1-" and 64 hexadecimal digits."""
    return _GENERATED + secrets.token_hex(KEY_SIZE)


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
    return Secret(stretch(text), is_own=True)


def _make_own(path: Path) -> None:
    """Make the file (0600) of the user's own secret, unless another program has made it by now.

    Raises:
        StateDirectoryError: The file cannot be written.
    """
    try:
        write_private_once(path, generate().encode() + b"\n")
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
