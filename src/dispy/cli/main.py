"""The ``dispy`` command: runs programs, and makes secrets and certificates for the machines that work together."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from dispy import __version__
from dispy.cli.derived_keys import derive, revoke
from dispy.cli.doctor.command import doctor
from dispy.cli.options import Underscores, UserPath
from dispy.cli.run import run
from dispy.errors import DispyError, UsageError
from dispy.security import certificates, key_text, new_files, secrets
from dispy.security.identities import when
from dispy.system.addresses import is_loopback
from dispy.system.directories import state_directory

SECRET = "dispy.secret"
"""Name of the file with the shared secret in the directory of the certificates. Only used in the printed advice: no
command here makes that file by itself."""

C = TypeVar("C", bound=Callable[..., Any])


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="dispy")
def command() -> None:
    """Run a program on many CPUs; make what dispy's machines need to trust each other.

    'dispynode' runs jobs; Python programs use dispy.JobCluster.
    """


command.add_command(run)
command.add_command(doctor)


@command.command("recoverable", cls=Underscores)
def list_recoverable() -> None:
    """List programs of this user that have died, and whose jobs dispy.recover_jobs may fetch.

    A line each: its name and process id, when it began and wrote its last note, its clusters and nodes, how many jobs
    it had if that is known, and its journals. The one that began last comes first.
    """
    from dispy.client.recovery.dead_programs import recoverable

    programs = recoverable()
    for program in programs:
        click.echo(str(program))
    if not programs:
        click.echo("no program has died and left jobs", err=True)


@command.group()
def secret() -> None:
    """The secret that clients and nodes share, and keys that open a part of what it opens."""


secret.add_command(derive)
secret.add_command(revoke)


@secret.command("new", cls=Underscores)
@click.argument("file", required=False, type=UserPath(path_type=Path))
def new_secret(file: Path | None) -> None:
    """Make a secret of 256 bits, and print it or write it to FILE (mode 0600), which must not exist."""
    text = key_text.generate().encode()
    if file is None:
        click.echo(text)
        return
    new = new_files.NewFile(file, text + b"\n", 0o600)
    new_files.write_new([new], hint="use it as it is, or give another name")
    shown = _shown(file)
    click.echo(
        f"{shown} holds a new secret: copy it to the other machines over a safe way (scp), there "
        f"'dispynode --secret_file {shlex.quote(shown)}', in programs JobCluster(..., secret_file={shown!r})"
    )


@secret.command("show", cls=Underscores)
@click.option("--secret_file", type=UserPath(), default=None, help="File with the secret, mode 0600.")
def show_secret(secret_file: str | None) -> None:
    """Print the secret that programs use which are started like this command.

    That is the one of the file, of the environment variable DISPY_SECRET, or this user's own, which is made if it
    is missing. On stderr: which of them it is, and its fingerprint, which is equal where the secret is equal.
    """
    typed = os.environ.get(secrets.VARIABLE, "")
    if not secret_file and not _is_text(typed):
        raise UsageError(f"{secrets.VARIABLE} is not text", hint="'dispy secret new' makes a secret")
    chosen = secrets.choose(secret_file=secret_file)
    if secret_file:
        text, source = _text(Path(secret_file)), f"the secret of {_shown(secret_file)}"
    elif chosen.is_own:
        text, source = _text(_own_path()), f"this user's own secret, in {_own_path()}"
    else:
        text, source = typed, f"the secret of the environment variable {secrets.VARIABLE}"
    click.echo(text.encode())
    identity = chosen.keys.identity
    opens = "" if identity is None else f", which is a key of {identity}"
    if identity is not None and identity.until is not None:
        opens += f", not valid from {when(identity.until)} on"
    click.echo(f"{source}{opens}; fingerprint {chosen.fingerprint()}", err=True)


@secret.command("path", cls=Underscores)
def path_of_secret() -> None:
    """Print where this user's own secret is. It is used where no other is given, and never leaves the machine."""
    click.echo(os.fsencode(_own_path()))


@command.group()
def cert() -> None:
    """Certificates of nodes and clients, signed by an authority (CA) of your own."""


@cert.group("new")
def new_cert() -> None:
    """Make a certificate and its key: of a CA first, then of each node and client.

    Nodes and clients believe those whose certificate the CA has signed.
    """


def _where_and_how_long(days: int) -> Callable[[C], C]:
    """Returns a decorator of a command that makes a certificate: it adds the options ``--days`` and ``--dir``.

    Args:
        days: Default of ``--days``: for how many days the certificate is valid.
    """

    def decorate(function: C) -> C:
        function = click.option(
            "--days", type=click.IntRange(1, certificates.DAYS_MAX), default=days, show_default=True,
            help="How long it is valid.",
        )(function)  # fmt: skip
        return click.option(
            "--dir", "directory", type=UserPath(file_okay=False, path_type=Path), default=None,
            help="Directory of the CA.  [default: 'certificates' in this user's state directory]",
        )(function)  # fmt: skip

    return decorate


@new_cert.command("ca", cls=Underscores)
@click.option("--name", default="dispy CA", show_default=True, help="Name of the CA, shown to people.")
@_where_and_how_long(certificates.CA_DAYS)
def new_ca(name: str, directory: Path | None, days: int) -> None:
    """Make a CA of your own: ca.pem and ca-key.pem.

    Who has ca-key.pem can make certificates that all your nodes and clients believe. It stays where it is.
    """
    made = certificates.new_ca(directory or _usual_directory(), name, days)
    where = f" --dir {shlex.quote(_shown(directory))}" if directory else ""
    _tell(
        made,
        f"keep {_shown(made[1])} to yourself; next, for each node and client:",
        f"dispy cert new node{where} NAME...  (host names and addresses by which clients reach it)",
        f"dispy cert new client{where} NAME",
    )


@new_cert.command("node", cls=Underscores)
@click.argument("names", nargs=-1, required=True)
@_where_and_how_long(certificates.LEAF_DAYS)
def new_node(names: tuple[str, ...], directory: Path | None, days: int) -> None:
    """Make a certificate for a node, signed by the CA.

    NAMES are the host names and addresses by which clients reach it. The first one names the files.
    """
    directory = directory or _usual_directory()
    made = certificates.new_leaf(directory, "node", list(names), days)
    certfile, keyfile, cafile = [shlex.quote(_shown(path)) for path in [*made, directory / "ca.pem"]]
    options = f"--certfile {certfile} --keyfile {keyfile} --cafile {cafile}"
    if all(name == "localhost" or is_loopback(name) for name in names):
        _tell(made, "start the node with them:", f"dispynode {options}")
        return
    secret = directory / SECRET
    shown = shlex.quote(_shown(secret))
    host = "::" if ":" in names[0] else "0.0.0.0"
    _tell(
        made,
        f"copy these, ca.pem and {SECRET}, which all nodes and programs share, to the node over a safe way (scp), "
        "and start it with them:",
        *([] if secret.exists() else [f"dispy secret new {shown}  # once, here"]),
        f"dispynode --host {host} --secret_file {shown} {options}",
    )


@new_cert.command("client", cls=Underscores)
@click.argument("name")
@_where_and_how_long(certificates.LEAF_DAYS)
def new_client(name: str, directory: Path | None, days: int) -> None:
    """Make a certificate for programs that use nodes, signed by the CA.

    NAME is any label; it names the files.
    """
    directory = directory or _usual_directory()
    made = certificates.new_leaf(directory, "client", [name], days)
    certfile, keyfile, cafile = [_shown(path) for path in [*made, directory / "ca.pem"]]
    secret = f"secret_file={_shown(directory / SECRET)!r}, " if (directory / SECRET).exists() else ""
    _tell(
        made,
        f"copy these{',' if secret else ' and'} ca.pem{f' and {SECRET}' if secret else ''} to where the program runs "
        "over a safe way (scp), and use them there:",
        f"JobCluster(..., {secret}certfile={certfile!r}, keyfile={keyfile!r}, cafile={cafile!r})",
    )


def _own_path() -> Path:
    """Returns the path of this user's own secret; the file may be missing."""
    return state_directory() / "secret"


def _text(path: Path) -> str:
    """Returns the secret in a file, without white space around it, to print it; ``secrets.choose`` has read it."""
    return path.read_text(encoding="utf-8").strip()


def _usual_directory() -> Path:
    """Returns the directory for CA and certificates if there is no ``--dir``: in the user's state; may be missing."""
    return state_directory() / "certificates"


def _tell(made: list[Path], advice: str, *commands: str) -> None:
    """Print the paths of new files on stdout, a line each, for scripts; advice and commands on stderr, for people."""
    click.echo(b"\n".join(os.fsencode(path) for path in made))
    click.echo("\n  ".join([advice, *commands]), err=True)


def _shown(path: str | Path) -> str:
    """Returns a path as text that can be printed, even if its bytes are not valid text."""
    return click.format_filename(path)


def _is_text(value: str) -> bool:
    """True if a value of the environment is valid text: Python turns other bytes into lone surrogates.

    ``dispy secret show`` refuses a secret with such bytes.
    """
    return not any("\ud800" <= character <= "\udfff" for character in value)


def main() -> None:
    """Entry point of ``dispy``. Exit code 2 after an error that is not a bug, 130 after Ctrl-C."""
    try:
        command(prog_name="dispy")
    except KeyboardInterrupt:
        sys.exit(130)
    except DispyError as error:
        _say(str(error))
    except OSError as error:
        reason = error.strerror or str(error)
        _say(f"{error.filename}: {reason}" if error.filename else reason)
        # Point stdout elsewhere: at exit Python would try to print the rest again, and print an error of its own.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(2)


def _say(message: str) -> None:
    """Print an error on stderr, after "dispy: ". A closed stderr is no error."""
    with suppress(OSError):
        click.echo(f"dispy: {message}", err=True)


if __name__ == "__main__":
    main()
