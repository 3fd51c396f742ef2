"""``dispy secret derive`` and ``dispy secret revoke``: keys that open one role for one name, and no more."""

from __future__ import annotations

import re
import shlex
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import click

from dispy.cli.options import Underscores, UserPath
from dispy.errors import UsageError
from dispy.security import identities, key_text, keys, new_files, secrets
from dispy.security.identities import NAME, ROLES, SERIAL_MAX, Identity, Revoked, Role

_USES = {
    "user": "SharedJobCluster(..., secret_file={file!r})",
    "node": "dispynode --secret_file {quoted}",
    "scheduler": "dispyscheduler --node_secret_file {quoted}",
    "admin": "nothing takes it yet",
    "relay": "nothing takes it yet",
}
"""How a key is used, by role."""


def _name(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(NAME, value, re.ASCII):
        raise click.BadParameter("up to 64 letters, digits and _ . @ -, the first one a letter, digit or _")
    return value


def _until(ctx: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Returns the first second (since the epoch) at which a key is not valid any more; None: it does not expire."""
    if value is None:
        return None
    for form, length in (("%Y-%m-%d", timedelta(days=1)), ("%Y-%m-%dT%H:%M", timedelta())):
        try:
            end = datetime.strptime(value, form).replace(tzinfo=UTC) + length
        except (ValueError, OverflowError):
            continue
        if end.timestamp() <= time.time():
            raise click.BadParameter(f"{value} is over: the key would open nothing")
        return int(end.timestamp())
    raise click.BadParameter(
        "a day as 2027-01-31, which counts whole, or a moment as 2027-01-31T18:00; both in UTC"
    )


_ROLE = click.Choice(ROLES)
_SERIAL = click.IntRange(0, SERIAL_MAX)


@click.command("derive", cls=Underscores)
@click.argument("role", type=_ROLE)
@click.argument("name", callback=_name)
@click.argument("masterfile", required=False, type=UserPath())
@click.option(
    "--until",
    callback=_until,
    metavar="DATE",
    help="Last day, or first minute after it; UTC.  [default: none]",
)
@click.option(
    "--direct", is_flag=True, help="The user may also use nodes without a scheduler (JobCluster)."
)
@click.option("--serial", type=_SERIAL, help="Serial number.  [default: the first that is not revoked]")
@click.option(
    "-o",
    "--output",
    type=UserPath(path_type=Path),
    help="New file for the key, mode 0600.  [default: print it]",
)
def derive(
    role: Role,
    name: str,
    masterfile: str | None,
    until: int | None,
    direct: bool,
    serial: int | None,
    output: Path | None,
) -> None:
    """Make a key for one ROLE and one NAME from the secret in MASTERFILE.

    \b
    user       uses a shared scheduler, as that user
    node       is a node, of that name
    scheduler  uses nodes
    admin, relay: for later; nothing takes them yet

    The secret stays with those who decide; it opens everything, and is needed where such keys are checked. Nothing is
    stored: the same command makes the same key again. Without MASTERFILE the secret is that of DISPY_SECRET, or this
    user's own.
    """
    if direct and role != "user":
        raise UsageError(f"--direct is for users; a key of role {role} has no such choice")
    secret = secrets.choose(secret_file=masterfile)
    master = secret.keys.first
    if master.identity is not None:
        raise UsageError(
            f"that is a key of {master.identity}: no other key is derived from it",
            hint="give the file with the secret that it was derived from",
        )
    if master.is_typed:
        raise UsageError(
            "no key is derived from a secret that was typed: who has a key could try words until one gives it, "
            "45 ms each, and would have the secret that opens everything",
            hint="make a random one: 'dispy secret new NEW_FILE', and give it to all who have the typed one",
        )
    if serial is None:
        serial = _next_serial(secret.keys.revoked, role, name)
    identity = Identity(role, name, master.fingerprint, until, serial, direct)
    if secret.keys.is_revoked(identity):
        raise UsageError(
            f"keys of {identity} with the serial number {serial} are revoked",
            hint="give a higher --serial, or take the line with 'revoked' out of the file",
        )
    text = key_text.write(keys.derived(master, identity)).encode()
    ends = "" if until is None else f", not valid from {identities.when(until)} on"
    if output is None:
        click.echo(text)
        click.echo(f"the key of {identity}{ends}", err=True)
        return
    new_files.write_new(
        [new_files.NewFile(output, text + b"\n", 0o600)], hint="use it as it is, or give another name"
    )
    shown = click.format_filename(output)
    use = _USES[role].format(file=shown, quoted=shlex.quote(shown))
    click.echo(f"{shown} holds the key of {identity}{ends}; copy it over a safe way (scp): {use}")


@click.command("revoke", cls=Underscores)
@click.argument("role", type=_ROLE)
@click.argument("name", callback=_name)
@click.argument("masterfile", type=UserPath())
@click.option(
    "--serial",
    type=_SERIAL,
    help="Last serial number to revoke.  [default: that of 'derive' without --serial]",
)
@click.option("--all", "is_all", is_flag=True, help="Revoke all serial numbers, for good.")
def revoke(role: Role, name: str, masterfile: str, serial: int | None, is_all: bool) -> None:
    """Revoke the keys of one ROLE and one NAME that were derived from the secret in MASTERFILE.

    A line in MASTERFILE says so. It counts wherever that file is used: copy it there. The next 'derive' for the name
    makes a key with a higher serial number, which is valid.
    """
    secret = secrets.choose(secret_file=masterfile)
    if secret.keys.identity is not None:
        raise UsageError(
            f"that is a key of {secret.keys.identity}, which revokes nothing",
            hint="give the file with the secret that it was derived from",
        )
    last = None if is_all else _next_serial(secret.keys.revoked, role, name) if serial is None else serial
    new = Revoked(role, name, last)
    if any(_is_wider(old, new) for old in secret.keys.revoked):
        raise UsageError(f"these keys of {role} {name} are revoked already")
    text = Path(masterfile).read_text(encoding="utf-8").rstrip("\n")
    new_files.replace(Path(masterfile), f"{text}\n{key_text.write_revoked(new)}\n".encode())
    upto = "" if last is None else f" with serial numbers up to {last}"
    click.echo(
        f"keys of {role} {name}{upto} are revoked: copy {click.format_filename(masterfile)} to all who use it; "
        "a dispyscheduler or dispynode that runs reads it within seconds"
    )


def _next_serial(revoked: tuple[Revoked, ...], role: Role, name: str) -> int:
    """Returns the first serial number of a role and name that is not revoked.

    Raises:
        UsageError: All are.
    """
    serials = [each.serial for each in revoked if (each.role, each.name) == (role, name)]
    if None in serials:
        raise UsageError(
            f"all keys of {role} {name} are revoked, for good",
            hint=f"use another name, or take the line 'revoked {role} {name}' out of the file",
        )
    return max(cast("list[int]", serials), default=-1) + 1


def _is_wider(old: Revoked, new: Revoked) -> bool:
    """True if all keys that ``new`` revokes are revoked by ``old``."""
    is_same = (old.role, old.name) == (new.role, new.name)
    return is_same and (old.serial is None or (new.serial is not None and new.serial <= old.serial))
