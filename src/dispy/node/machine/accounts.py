"""The account that jobs run as, where that is not the node's own."""

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
"""Variables that are meant for us begin so; jobs do not see them."""

_KEPT = ("PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR")


class Account(Struct, frozen=True):
    """Whom hosts and workers become before they run any code of others."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str

    def environment(self) -> dict[str, str]:
        """What its processes start with: what belongs to it, and nothing of ours."""
        kept = {
            name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("LC_")
        }
        return {**kept, "HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}


def starts_as(account: Account | None) -> dict[str, Any]:
    """How processes are started that run code of others: arguments of ``subprocess.Popen``.

    Args:
        account: Whom they run as; None: as we do.
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


def find(name: str) -> Account | None:
    """The account of this name; None for an empty one.

    Raises:
        UsageError: There is none, we must not become it, or it cannot run our Python.
    """
    if not name:
        return None
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


def prepare_prefix(prefix: str, account: Account | None) -> None:
    """Make the directory for the node's files if it is missing, so that whoever runs jobs gets there.

    Args:
        prefix: An absolute path; empty for the temporary directory, which is there.
        account: Whom jobs run as; None: as we are.

    Raises:
        UsageError: It cannot be made, or the account cannot pass through it.
    """
    if not prefix:
        return
    try:
        directories.make_directories(prefix, 0o700 if account is None else 0o711)
    except OSError as error:
        raise UsageError(
            f"dest_path_prefix: {prefix!r} cannot be made: {error.strerror}", hint="give another directory"
        ) from error
    if account is not None:
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
    """Try whether the account can read the Python that hosts run on."""
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
