"""The ``dispyscheduler`` command: options become ``SchedulerSettings``, and ``scheduler.daemon.process`` runs it."""

from __future__ import annotations

import gc
import math
import sys
from contextlib import suppress
from typing import Any

import click

from dispy import __version__
from dispy import config as usual_config
from dispy.cli import config_file, old_options, users_file
from dispy.cli.options import Number, Size, Underscores, UserPath, say
from dispy.errors import DispyError
from dispy.settings import POLICIES, PULSE_MAX_S, PULSE_MIN_S, PULSE_S, SchedulerSettings

_KEYS = {"pulse_s": "pulse_interval"}
"""Keys of options in a file that have another name there."""


@click.command(
    cls=Underscores,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="dispyscheduler")
@click.option(
    "-n", "--node", "nodes", multiple=True, metavar="HOST[:PORT]",
    help="Node to use, repeatable; '*' for those of this machine.  [default: *]",
)  # fmt: skip
@click.option(
    "-i", "--host", "hosts", multiple=True, default=["127.0.0.1"], show_default="127.0.0.1",
    help="Address to listen on for programs, repeatable.",
)  # fmt: skip
@click.option(
    "-p", "--port", type=Number("a port number from 1 to 65000", 1, 65000, whole=True),
    default=usual_config.DispyPort, show_default=True,
    help="Base port: nodes listen on the next one, programs come to the one after that.",
)  # fmt: skip
@click.option(
    "--listen_port", type=Number("a port number, or 0 for any free one", 0, 65535, whole=True), default=None,
    help="The very port for programs; 0: any free one.",
)  # fmt: skip
@click.option("--name", default="", help="Name shown to people.  [default: the host's name]")
@click.option("--node_secret", default="", help="Secret shared with nodes.  [default: this user's own]")
@click.option(
    "--node_secret_file", type=UserPath(), help="File with the secret shared with nodes, mode 0600."
)
@click.option("--node_certfile", type=UserPath(), help="Certificate shown to nodes, PEM.")
@click.option("--node_keyfile", type=UserPath(), help="Its key, if that is not in node_certfile.")
@click.option("--node_cafile", type=UserPath(), help="Authority that must have signed nodes' certificates.")
@click.option(
    "--cluster_secret", default="", help="Secret shared with programs.  [default: this user's own]"
)
@click.option(
    "--cluster_secret_file", type=UserPath(), help="File with the secret shared with programs, mode 0600."
)
@click.option("--cluster_certfile", type=UserPath(), help="Certificate shown to programs, PEM.")
@click.option("--cluster_keyfile", type=UserPath(), help="Its key, if that is not in cluster_certfile.")
@click.option(
    "--cluster_cafile", type=UserPath(), help="Authority that must have signed programs' certificates."
)
@click.option(
    "--tls/--no_tls", default=None,
    help="Encrypt links.  [default: all over TCP; programs of this machine and user come by a Unix socket]",
)  # fmt: skip
@click.option(
    "--force_weak_secret", is_flag=True,
    help="Serve other machines also with a typed secret that is easy to guess.",
)  # fmt: skip
@click.option(
    "--pulse_interval", "pulse_s",
    type=Number(f"a number of seconds from {PULSE_MIN_S} to {PULSE_MAX_S:g}", PULSE_MIN_S, PULSE_MAX_S),
    default=PULSE_S, show_default=True,
    help="Heartbeat of nodes, seconds: one that is silent for five such times is dead.",
)  # fmt: skip
@click.option(
    "--zombie_interval", type=Number("a number of minutes from 1, or 0", 1, 1e6, or_zero=True),
    default=60.0, show_default=True,
    help="Minutes for which jobs and results of a program that is gone are kept; 0: for ever.",
)  # fmt: skip
@click.option(
    "--policy", type=click.Choice(POLICIES), default="fair", show_default=True,
    help="Whose jobs are next: equal parts for users, programs and clusters; the job that came first; clusters in "
    "turn; the cluster that was opened first; or fair, and exclusive clusters one after another, alone.",
)  # fmt: skip
@click.option("--fair_cluster_scheduler", is_flag=True, help="The same as --policy round-robin.")
@click.option("--early_cluster_scheduler", is_flag=True, help="The same as --policy early.")
@click.option("--users", type=UserPath(), help="TOML file with weights and limits of users.")
@click.option("--known_users", is_flag=True, help="Refuse programs of users that are not in that file.")
@click.option(
    "--cooperative", is_flag=True, help="Each program may change the number of CPUs of nodes for all."
)
@click.option(
    "--payload_memory", type=Size(), default="256m", show_default=True,
    help="Memory for large data of each program; more of it lies on disk, in a temporary directory.",
)  # fmt: skip
@click.option(
    "--cleanup_nodes",
    is_flag=True,
    help="Remove working directories from nodes, also of clusters with cleanup=False.",
)
@click.option("--config", type=UserPath(), help="File with options, in place of all others.")
@click.option("--save_config", type=UserPath(), help="Write the options into a new file, and exit.")
@click.option(
    "--ipv4_udp_multicast", is_flag=True, help="Seek nodes of other machines by multicast, not broadcast."
)
@click.option("-d", "--debug", is_flag=True, help="Log each message and decision.")
@click.option("--daemon", is_flag=True, help="Do not use the terminal, and run on when it is closed.")
@old_options.SCHEDULER.add
def command(config: str | None, save_config: str | None, **options: Any) -> None:
    """Share nodes among many programs, which use SharedJobCluster.

    Programs of the same user on this machine find the scheduler by themselves. SIGINT (Ctrl-C) and SIGTERM end it.
    """
    context = click.get_current_context()
    usual = context.command.make_context("dispyscheduler", []).params
    if config is not None:
        loaded = config_file.load(config, context.command, _KEYS)
        options = {name: loaded.get(name, usual[name]) for name in options}
    for text in old_options.SCHEDULER.take_out(options):
        say(context, text)
    if save_config is not None:
        config_file.save(save_config, options, usual, _KEYS)
        return
    gc.disable()
    from dispy.scheduler.daemon import process

    gc.freeze()
    gc.enable()
    minutes = options.pop("zombie_interval")
    for name, policy in (("fair_cluster_scheduler", "round-robin"), ("early_cluster_scheduler", "early")):
        if options.pop(name):
            options["policy"] = policy
    options["users"] = users_file.load(options["users"]) if options["users"] else {}
    options["nodes"], options["hosts"] = tuple(options["nodes"]), tuple(options["hosts"])
    sys.exit(process.run(SchedulerSettings(lease_s=minutes * 60 if minutes else math.inf, **options)))


def main() -> None:
    """Entry point of ``dispyscheduler``. Exit code 2 after an error that is not a bug, 130 after Ctrl-C."""
    try:
        command(prog_name="dispyscheduler")
    except KeyboardInterrupt:
        sys.exit(130)
    except DispyError as error:
        for line in str(error).splitlines():
            with suppress(OSError):
                click.echo(f"dispyscheduler: {line}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
