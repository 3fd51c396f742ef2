"""The ``dispynode`` command."""

from __future__ import annotations

import gc
import math
import sys
from typing import Any

import click

from dispy import __version__, config
from dispy.cli.options import Size, Underscores, ZombieInterval
from dispy.settings import NodeSettings


@click.command(
    cls=Underscores, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="dispynode")
@click.option(
    "-c", "--cpus", type=int, default=0, show_default=True,
    help="Jobs to run at once; 0: one for each CPU this process may use; negative: leave so many unused.",
)  # fmt: skip
@click.option("-i", "--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "-p", "--dispy_port", type=click.IntRange(1, 65000), default=config.DispyPort, show_default=True,
    help="Base port. The node listens on the next one. If that is taken: with --host on loopback on any free one.",
)  # fmt: skip
@click.option(
    "--listen_port",
    type=click.IntRange(0, 65535),
    default=None,
    help="The very port to listen on; 0: any free one.",
)
@click.option("--name", default="", help="Name shown to clients.  [default: the host's name]")
@click.option(
    "-s", "--secret", default="",
    help="Secret shared with clients. Others on this machine can see it here: a file or the environment variable "
    "DISPY_SECRET keep it to you.  [default: this user's own]",
)  # fmt: skip
@click.option(
    "--secret_file", type=click.Path(dir_okay=False), default=None, help="File with the secret, mode 0600."
)
@click.option("--certfile", type=click.Path(dir_okay=False), help="Certificate shown to clients, PEM.")
@click.option("--keyfile", type=click.Path(dir_okay=False), help="Its key, if that is not in certfile.")
@click.option(
    "--cafile",
    type=click.Path(dir_okay=False),
    help="Authority that must have signed the certificates of clients.",
)
@click.option(
    "--tls/--no_tls", default=None, help="Encrypt links.  [default: unless --host is on loopback]"
)
@click.option("--user", default="", help="Account that jobs run as; only root may give one.")
@click.option(
    "--dest_path_prefix",
    default="",
    help="Directory for files of computations.  [default: the temporary directory]",
)
@click.option(
    "--zombie_interval", type=ZombieInterval(), default=60.0, show_default=True,
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
@click.option("-d", "--debug", is_flag=True, help="Log what happens in detail.")
@click.option("--daemon", is_flag=True, help="Do not use the terminal, and run on when it is closed.")
def command(**options: Any) -> None:
    """Run jobs of dispy clients on this machine.

    Clients of the same user on this machine find the node by themselves. SIGINT (Ctrl-C) and SIGTERM end it with
    everything that runs on it.
    """
    gc.disable()  # until all is loaded; see ``daemon.main``
    from dispy.node import daemon

    minutes = options.pop("zombie_interval")
    daemon.main(NodeSettings(lease_s=minutes * 60 if minutes else math.inf, **options))


def main() -> None:
    """Entry of ``dispynode``."""
    try:
        command(prog_name="dispynode")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
