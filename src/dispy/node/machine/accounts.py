"""The accounts that jobs run as if it is not the node's own (``dispynode --user``)."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from typing import Any

from msgspec import Struct

from dispy.errors import UsageError
from dispy.system import directories

_OURS = "DISPY_"
"""Prefix of environment variables that are meant for the node, such as its secret. Jobs do not see them."""

_KEPT = ("PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR")
"""Names of the environment variables that processes of another account get from the node, besides all ``LC_…``."""


class Account(Struct, frozen=True):
    """Account that hosts and workers take on before they run any code of clients.

    Attributes:
        name: Login name.
        uid: User id.
        gid: Id of its main group.
        groups: Ids of all its groups.
        home: Home directory.
        shell: Login shell.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str

    def environment(self) -> dict[str, str]:
        """Returns the environment of the account's processes, by name of the variable.

        It has HOME, USER, LOGNAME and SHELL of the account, and ``_KEPT`` and ``LC_…`` of the node.
        """
        kept = {
            name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("LC_")
        }
        return {**kept, "HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}


KEPT = 4096
"""Owners whose account is remembered, the last that have come."""


class AccountTurns:
    """Accounts given to owners of computations in turn: a new owner gets the next one, and keeps it.

    An owner that comes again finds the directories that it has left.

    Args:
        accounts: The accounts; none: all jobs run as this process.
    """

    def __init__(self, accounts: tuple[Account, ...]) -> None:
        self._accounts = accounts
        self._by_owner: dict[bytes, Account] = {}
        """Accounts of the last ``KEPT`` owners that were asked for."""
        self._turn = 0
        """Number of times that an account was given to a new owner."""

    def of(self, owner: bytes) -> Account | None:
        """Returns the account of an owner, named by any bytes; None: its jobs run as this process."""
        account = self._by_owner.pop(owner, None)
        if account is None:
            account = self.next()
            if account is None:
                return None
            self._turn += 1
        self._by_owner[owner] = account
        if len(self._by_owner) > KEPT:
            del self._by_owner[next(iter(self._by_owner))]
        return account

    def next(self) -> Account | None:
        """Returns the account that the next new owner gets; None: its jobs run as this process."""
        return self._accounts[self._turn % len(self._accounts)] if self._accounts else None


def starts_as(account: Account | None) -> dict[str, Any]:
    """Returns keyword arguments of ``subprocess.Popen`` for a process that runs code of clients.

    The arguments set its environment, which has none of the node's own variables (``_OURS``); for another account
    also its user, its groups and ``/`` as its directory.

    Args:
        account: Account that it runs as; None: that of this process.
    """
    if account is None:
        return {"env": {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}}
    return {
        "env": account.environment(),
        "cwd": "/",
        "user": account.uid,
        "group": account.gid,
        "extra_groups": account.groups,
    }


def find(names: str) -> tuple[Account, ...]:
    """Returns the accounts with these login names (separated by commas), checked to be able to run jobs.

    Raises:
        UsageError: There is no such account, it is root or is named twice, this process is not root and so cannot
            take it on, or the account cannot run this Python.
    """
    found = tuple(_find(name.strip()) for name in names.split(",")) if names else ()
    if len({account.uid for account in found}) < len(found):
        raise UsageError(
            f"user: {names!r} has an account twice", hint="each account once: clients get them in turn"
        )
    return found


def _find(name: str) -> Account:
    """Returns the account with a login name, checked to be able to run jobs.

    Raises:
        UsageError: See ``find``.
    """
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise UsageError(f"user: there is no account {name!r} here", hint="see 'getent passwd'") from None
    if os.geteuid() != 0:
        raise UsageError(
            f"user: only root may run jobs as {name!r}", hint=f"start dispynode as {name!r}, or as root"
        )
    if entry.pw_uid == 0:
        raise UsageError("user: jobs of others must not run as root", hint="make an account for them")
    account = Account(
        name,
        entry.pw_uid,
        entry.pw_gid,
        tuple(os.getgrouplist(name, entry.pw_gid)),
        entry.pw_dir,
        entry.pw_shell,
    )
    _probe(account)
    return account


def prepare_prefix(prefix: str, accounts: tuple[Account, ...]) -> None:
    """Make the directory for the node's files if it is missing, and check that jobs can enter it.

    Args:
        prefix: Absolute path; empty for the temporary directory, which exists.
        accounts: Accounts that jobs run as; none: that of this process.

    Raises:
        UsageError: The directory cannot be made, or the account cannot enter it.
    """
    if not prefix:
        return
    try:
        directories.make_directories(prefix, 0o711 if accounts else 0o700)
    except OSError as error:
        raise UsageError(
            f"dest_path_prefix: {prefix!r} cannot be made: {error.strerror}", hint="give another directory"
        ) from error
    for account in accounts:
        enter = subprocess.run(
            ["/bin/sh", "-c", 'cd -- "$1"', "sh", prefix],
            user=account.uid,
            group=account.gid,
            extra_groups=account.groups,
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if enter.returncode:
            raise UsageError(
                f"dest_path_prefix: account {account.name!r}, which runs jobs, cannot enter {prefix!r}",
                hint="'chmod a+x' it and the directories above it, or give another one",
            )


def _probe(account: Account) -> None:
    """Check that the account can run the Python that hosts run on, with dispy: else each computation would fail.

    Raises:
        UsageError: The account cannot, or takes more than 60 s.
    """
    try:
        result = subprocess.run(
            [sys.executable, "-P", "-c", "import dispy.worker.host"],
            **starts_as(account),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        problem = result.stderr.strip().splitlines()[-1:] if result.returncode else []
    except (OSError, subprocess.SubprocessError) as error:
        problem = [str(error)]
    if problem:
        raise UsageError(
            f"user: {account.name!r} cannot run {sys.executable} with dispy: {problem[0]}",
            hint="install both where that account can read them",
        )
