"""The ``dispynode`` command: options become ``NodeSettings``, and ``node.daemon`` runs the node."""

from __future__ import annotations

import gc
import math
import signal
import sys
from contextlib import suppress
from typing import Any

import click

from dispy import __version__, config
from dispy.cli import old_options
from dispy.cli.options import Number, Size, Underscores, UserPath, say
from dispy.errors import DispyError, NotYetError
from dispy.settings import NodeSettings


def _one_host(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> str:
    """Returns the one host of ``--host``, given once or repeated; click calls this with all values of the option.

    Raises:
        NotYetError: There are several different ones, which dispy 4 accepts.
    """
    hosts = list(dict.fromkeys(value))
    if len(hosts) > 1:
        raise NotYetError(
            f"--host more than once is not available yet: {', '.join(hosts)}",
            hint="use --host 0.0.0.0 for all addresses, or start one dispynode for each, with a part of the CPUs",
        )
    return hosts[0]


@click.command(
    cls=Underscores,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="All options of dispy 4 are known: docs/how-to/coming-from-dispy-4.md says what each does now.",
)
@click.version_option(__version__, prog_name="dispynode")
@click.option(
    "-c", "--cpus", type=Number("a number of CPUs: 0 for all, or -1 for all but one", -1e9, 1e9, whole=True),
    default=0, show_default=True,
    help="Jobs to run at once; 0: one for each CPU this process may use; negative: leave so many unused.",
)  # fmt: skip
@click.option(
    "-i", "--host", multiple=True, default=["127.0.0.1"], show_default="127.0.0.1", callback=_one_host,
    help="Address to listen on.",
)  # fmt: skip
@click.option(
    "-p", "--dispy_port", type=Number("a port number from 1 to 65000", 1, 65000, whole=True),
    default=config.DispyPort, show_default=True,
    help="Base port. The node listens on the next one. If that is taken: with --host on loopback on any free one.",
)  # fmt: skip
@click.option(
    "--listen_port",
    type=Number("a port number, or 0 for any free one", 0, 65535, whole=True),
    default=None,
    help="The very port to listen on; 0: any free one.",
)
@click.option("--name", default="", help="Name shown to clients.  [default: the host's name]")
@click.option(
    "-s", "--secret", default="",
    help="Secret shared with clients. Others on this machine can see it here: a file or the environment variable "
    "DISPY_SECRET keep it to you.  [default: this user's own]",
)  # fmt: skip
@click.option("--secret_file", type=UserPath(), default=None, help="File with the secret, mode 0600.")
@click.option(
    "--force_weak_secret",
    is_flag=True,
    help="Serve other machines also with a typed secret that is easy to guess.",
)
@click.option("--certfile", type=UserPath(), help="Certificate shown to clients, PEM.")
@click.option("--keyfile", type=UserPath(), help="Its key, if that is not in certfile.")
@click.option(
    "--cafile",
    type=UserPath(),
    help="Authority that must have signed the certificates of clients.",
)
@click.option(
    "--tls/--no_tls",
    default=None,
    help="Encrypt links.  [default: all over TCP; programs of this machine and user come by a Unix socket]",
)
@click.option(
    "--user",
    default="",
    metavar="NAME[,NAME…]",
    help="Account that jobs run as; only root may give one. Of several, clients get one each, in turn.",
)
@click.option(
    "--dest_path_prefix",
    type=UserPath(or_none=True),
    default="",
    help="Directory for files of computations, made if it is missing.  [default: the temporary directory]",
)
@click.option(
    "--zombie_interval", type=Number("a number of minutes from 1, or 0", 1, 1e6, or_zero=True),
    default=60.0, show_default=True,
    help="Minutes for which results of a client that is gone are kept, for it to come back or for "
    "dispy.recover_jobs(); 0: for ever.",
)  # fmt: skip
@click.option(
    "--spool_max",
    type=Size(),
    default="1g",
    show_default=True,
    help="Disk space for such results, in bytes or with k, m, g, t; 0: none, they end with the node.",
)
@click.option(
    "--store_max",
    type=Size(),
    default="8g",
    show_default=True,
    help="Disk space for files that clients have sent, kept to be used again; 0: none.",
)
@click.option(
    "--max_file_size",
    type=Size(),
    default="0",
    show_default=True,
    help="Largest file that clients may send here, and jobs may send to them; 0: no limit.",
)
@click.option(
    "--force_cleanup", is_flag=True, help="Remove working directories also of clusters with cleanup=False."
)
@click.option(
    "--ipv4_udp_multicast",
    is_flag=True,
    help="Tell programs by multicast, not broadcast, that the node is there.",
)
@click.option(
    "-d", "--debug", is_flag=True, help="Log each message and decision, to find out why nothing happens."
)
@click.option("--daemon", is_flag=True, help="Do not use the terminal, and run on when it is closed.")
@old_options.NODE.add
def command(**options: Any) -> None:
    """Run jobs of dispy clients on this machine.

    Clients of the same user on this machine find the node by themselves. SIGINT (Ctrl-C) and SIGTERM end it with
    everything that runs on it; SIGUSR1 has it take no new jobs, and end when those that run have ended.
    """
    for text in old_options.NODE.take_out(options):
        say(click.get_current_context(), text)
    gc.disable()  # until all modules are loaded; see ``daemon.main``
    from dispy.node import daemon

    minutes = options.pop("zombie_interval")
    daemon.main(NodeSettings(lease_s=minutes * 60 if minutes else math.inf, **options))


def main() -> None:
    """Entry point of ``dispynode``. Exit code 2 after an error that is not a bug, 130 after Ctrl-C."""
    # Block signals until the node has its handlers: a ``systemctl reload`` while modules load would kill it.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2))
    try:
        command(prog_name="dispynode")
    except KeyboardInterrupt:
        sys.exit(130)
    except DispyError as error:
        for line in str(error).splitlines():
            with suppress(OSError):
                click.echo(f"dispynode: {line}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
