"""Keys as text: what stands in a secret file, or is given as a secret.

One line is one key; further lines, up to ``LINES_MAX`` in all, are other keys of the same secret:

    dispy1-<64 hexadecimal digits>                  a master of ``dispy secret new``
    dispy1-<identity>:<64 hexadecimal digits>       a key of ``dispy secret derive`` (``security.identities``)
    any other text                                  a master that people made up, stretched by scrypt
    revoked ROLE NAME [SERIAL]                      derived keys that are not taken, up to that serial number

A single line that begins with "revoked" is a secret like any other.
"""

from __future__ import annotations

import functools
import hashlib
import re
import secrets as randomness
from typing import cast

from dispy.errors import UsageError
from dispy.security import identities, keys
from dispy.security.identities import NAME, ROLES, Revoked, Role
from dispy.security.keys import SIZE, Key, Keys

LINES_MAX = 8
"""Most keys of one secret. A longer file is none with a secret, but something else."""

DERIVED_MAX = 2
"""Most derived keys of one secret: a listener says all their identities in a frame of 512 bytes."""

_GENERATED = "dispy1-"
"""Prefix of generated secrets: the key follows as 64 hexadecimal digits. 256 random bits need no stretching."""

_STRETCHED = f"{_GENERATED}typed-"
"""Prefix of the texts of keys that were stretched from typed secrets, followed by 64 hexadecimal digits: our own
processes hand such keys on (``secrets.Secret.text``), and know of them that they were typed."""

_SALT = b"dispy 5 secret typed by a person"
"""Salt for typed secrets. It is fixed, since both sides must derive the same key from the words alone. So typed
secrets can be guessed offline, at 45 ms per guess; generated ones cannot."""

_DERIVED = re.compile(rf"{_GENERATED}((?:{'|'.join(ROLES)}):.*)", re.ASCII)
_REVOKED = re.compile(rf"revoked +({'|'.join(ROLES)}) +({NAME})(?: +(\d{{1,4}}))?", re.ASCII)


def generate() -> str:
    """Returns a new master of 256 random bits, as text: "dispy1-" and 64 hexadecimal digits."""
    return _GENERATED + randomness.token_hex(SIZE)


def is_generated(line: str) -> bool:
    """True if a line is a master of ``dispy secret new``: random, so that nobody can guess it."""
    return bool(_read_key(line, _GENERATED))


@functools.cache
def stretch(secret: str) -> bytes:
    """Returns the key (32 bytes) of a master: its own bits if it was generated; by scrypt (45 ms) if it was typed.

    Keys are remembered as long as the process lives.
    """
    return (
        _read_key(secret, _GENERATED)
        or _read_key(secret, _STRETCHED)
        or hashlib.scrypt(
            secret.encode("utf-8", "surrogateescape"), salt=_SALT, n=1 << 14, r=8, p=1, dklen=SIZE
        )
    )


def _read_key(secret: str, prefix: str) -> bytes:
    """Returns the key (32 bytes) that follows a prefix in hexadecimal digits; empty if the text has another form."""
    try:
        key = bytes.fromhex(secret.removeprefix(prefix)) if secret.startswith(prefix) else b""
    except ValueError:
        return b""
    return key if len(key) == SIZE else b""


def split(text: str) -> tuple[list[str], list[Revoked]]:
    """Returns the keys of a secret, as text, and the derived keys that are revoked."""
    lines = [line for each in text.split("\n") if (line := each.strip())]
    if len(lines) < 2:
        return [text], []
    matches = [(line, _REVOKED.fullmatch(line)) for line in lines]
    revoked = [
        Revoked(cast("Role", found[1]), found[2], None if found[3] is None else int(found[3]))
        for _, found in matches
        if found
    ]
    return [line for line, found in matches if not found], revoked


def read(text: str) -> Keys:
    """Returns the keys that a text holds.

    Raises:
        UsageError: A derived key is damaged; or there are too many keys, or such that do not belong together.
    """
    texts, revoked = split(text)
    for number, line in enumerate(texts, 1):
        if line.startswith("revoked ") and len(texts) + len(revoked) > 1:
            raise UsageError(
                f"line {number} of the secret revokes keys, and cannot be read",
                hint="write 'revoked ROLE NAME' or 'revoked ROLE NAME SERIAL'; roles are "
                + ", ".join(ROLES),
            )
    if not texts or len(texts) > LINES_MAX:
        raise UsageError(
            f"the secret has {len(texts)} keys, each on a line of its own; 1 to {LINES_MAX} are possible",
            hint="is it another file? 'dispy secret new' makes one with a secret",
        )
    lines = tuple(map(_read_line, texts))
    owners = {None if each.identity is None else (each.identity.role, each.identity.name) for each in lines}
    if len(owners) > 1:
        raise UsageError(
            "the lines of the secret do not belong together",
            hint="they must all be secrets, or all be keys derived for the same role and name",
        )
    if owners != {None} and len(lines) > DERIVED_MAX:
        raise UsageError(
            f"the secret has {len(lines)} derived keys; {DERIVED_MAX} are possible",
            hint="remove the oldest",
        )
    return Keys(lines, tuple(revoked))


def _read_line(line: str) -> Key:
    """Returns the key of a line.

    Raises:
        UsageError: It is a derived key, and damaged: it must not be taken for a typed secret.
    """
    match = _DERIVED.fullmatch(line)
    if match is None:
        return keys.master(stretch(line), is_typed=not is_generated(line))
    said, _, digits = match[1].rpartition(":")
    identity, key = identities.parse(said), _read_key(digits, "")
    if identity is None or not key:
        raise UsageError(
            "the secret is a key of 'dispy secret derive', and damaged",
            hint="copy the file again, or have it made again",
        )
    return Key(key, identity.master, identity)


def write(line: Key) -> str:
    """Returns the text of which ``read`` makes a key: a typed secret is not stretched once more."""
    digits = line.key.hex()
    if line.identity is not None:
        return f"{_GENERATED}{line.identity.text()}:{digits}"
    return (_STRETCHED if line.is_typed else _GENERATED) + digits


def write_revoked(revoked: Revoked) -> str:
    """Returns the line that revokes keys."""
    serial = "" if revoked.serial is None else f" {revoked.serial}"
    return f"revoked {revoked.role} {revoked.name}{serial}"
