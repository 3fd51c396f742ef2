"""``dispy run``: runs a program once for each set of arguments, on all CPUs found. Formerly ``dispy_cmd.py``."""

from __future__ import annotations

import logging
import shlex
import sys
import warnings
from contextlib import suppress
from functools import partial

import click

import dispy
from dispy.cli.options import Underscores, UserPath
from dispy.errors import DispyError, UsageError

FAILED = 1
"""Exit code if the command itself worked, but a run failed or ended with another exit code than 0."""


@click.command("run", cls=Underscores)
@click.option(
    "-a", "args", multiple=True, metavar="ARGUMENTS",
    help="Arguments of one run, as in a shell: -a \"12 'two words'\"; repeat for more runs.",
)  # fmt: skip
@click.option(
    "-f", "files", multiple=True, metavar="FILE",
    help="File or directory that the program needs in its working directory; repeat for more.",
)  # fmt: skip
@click.option(
    "-n",
    "--nodes",
    multiple=True,
    metavar="NODE",
    help="Node to use: name, address or pattern; repeat for more.  [default: all of this user here]",
)
@click.option("-c", "keeps_files", is_flag=True, help="Leave the files on the nodes.")
@click.option("-d", "--debug", is_flag=True, help="Log what happens in detail.")
@click.option("--ip_addr", default=None, help="Accepted; clients listen nowhere.")
@click.option(
    "--secret", default="", help="Secret shared with the nodes; others on this machine can see it here."
)
@click.option("--secret_file", type=UserPath(), help="File with the secret, mode 0600.")
@click.option("--certfile", type=UserPath(), help="Certificate that nodes must show, too, PEM.")
@click.option("--keyfile", type=UserPath(), help="Its key, if that is not in certfile.")
@click.option(
    "--scheduler_node", default=None, metavar="HOST",
    help="Use the shared scheduler there (dispyscheduler); secret and certificate are then for it.",
)  # fmt: skip
@click.argument("computation")
def run(
    computation: str,
    args: tuple[str, ...],
    files: tuple[str, ...],
    nodes: tuple[str, ...],
    keeps_files: bool,
    debug: bool,
    ip_addr: str | None,
    secret: str,
    secret_file: str | None,
    certfile: str | None,
    keyfile: str | None,
    scheduler_node: str | None,
) -> None:
    """Run the program COMPUTATION once for each -a, at the same time where CPUs are free, and print what it prints.

    It is a path, or a name in PATH. Without -a it runs once, without arguments. What a run has printed follows a line
    with its number and arguments when it has ended; a table of the nodes comes last. The exit code is 0 if
    that of all runs was, else 1; 2 if it could not begin.
    """
    runs = [_split(text) for text in args] or [[]]
    warnings.showwarning = _warn  # type: ignore[assignment]  # the rest of its arguments is of no interest
    kind = dispy.JobCluster
    if scheduler_node is not None:
        kind = partial(dispy.SharedJobCluster, scheduler_host=scheduler_node)  # type: ignore[assignment]
    cluster = kind(
        computation,
        nodes=list(nodes) or None,
        depends=list(files),
        cleanup=not keeps_files,
        loglevel=logging.DEBUG if debug else logging.WARNING,
        host=ip_addr,
        secret=secret,
        secret_file=secret_file,
        certfile=certfile,
        keyfile=keyfile,
    )
    is_well = True
    with cluster:
        jobs = []
        for number, arguments in enumerate(runs, 1):
            job = cluster.submit(*arguments)
            job.id = number
            jobs.append(job)
        for job in dispy.as_completed(jobs):
            is_well &= _tell(job, runs[job.id - 1])
        cluster.print_status()
    if not is_well:
        sys.exit(FAILED)


def _warn(message: Warning | str, *_: object) -> None:
    """Print a warning on stderr without its place in the code: the user has typed a command, not code.

    Takes the place of ``warnings.showwarning``.
    """
    click.echo(f"dispy: {message}", err=True)


def _split(text: str) -> list[str]:
    """Returns the arguments of one run, split as a shell does.

    Raises:
        UsageError: A quote is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"-a {text!r}: {error}", hint='quote as in a shell: -a "it\\\'s one"') from error


def _tell(job: dispy.DispyJob, arguments: list[str]) -> bool:
    """Print the outcome of a run, and its output on stdout and stderr; True if it has ended with exit code 0."""
    name = f"run {job.id} ({shlex.join(arguments)})" if arguments else f"run {job.id}"
    if job.status != dispy.DispyJob.Finished:
        outcome = f"failed: {job.error or job.exception}".rstrip()
    elif job.result:
        outcome = f"ended with exit code {job.result}"
    else:
        outcome = "has ended"
    click.echo(f"{name} {outcome}")
    sys.stdout.flush()
    for stream, data in ((sys.stdout, job.stdout), (sys.stderr, job.stderr)):
        if data:
            stream.buffer.write(data if isinstance(data, bytes) else str(data).encode())
            stream.flush()
    return job.status == dispy.DispyJob.Finished and not job.result


def main() -> None:
    """Entry point of ``dispy_cmd.py``, the old name. Exit code 1 if a run has failed, 2 after other errors."""
    try:
        run(prog_name="dispy_cmd.py")
    except KeyboardInterrupt:
        sys.exit(130)
    except DispyError as error:
        with suppress(OSError):
            click.echo(f"dispy: {error}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
