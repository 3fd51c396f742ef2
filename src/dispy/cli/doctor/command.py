"""The command ``dispy doctor``: its options. The work is in ``examination``, which takes longer to load."""

from __future__ import annotations

import sys

import click

from dispy.cli.options import Underscores, UserPath


@click.command("doctor", cls=Underscores)
@click.argument("hosts", nargs=-1, metavar="[HOST[:PORT]]...")
@click.option(
    "--secret", default="", help="Secret shared with the nodes; others on this machine can see it here."
)
@click.option("--secret_file", type=UserPath(), help="File with the secret, mode 0600.")
@click.option("--certfile", type=UserPath(), help="Certificate of this program, PEM.")
@click.option("--keyfile", type=UserPath(), help="Its key, if that is not in certfile.")
@click.option("--cafile", type=UserPath(), help="Authority that must have signed nodes' certificates, PEM.")
@click.option("--tls/--no_tls", default=None, help="Links are encrypted.  [default: those over TCP]")
@click.option("--ipv4_udp_multicast", is_flag=True, help="Seek nodes by multicast, not broadcast.")
def doctor(
    hosts: tuple[str, ...],
    secret: str,
    secret_file: str | None,
    certfile: str | None,
    keyfile: str | None,
    cafile: str | None,
    tls: bool | None,
    ipv4_udp_multicast: bool,
) -> None:
    """Find out why machines do not work together, and what to do about it.

    Looks at this machine, seeks nodes on its networks, and follows the way to each node that answers and to each HOST
    step by step: name, port, TLS, secret, one job. Exit code 0 if all is well, 1 if something is bad.
    """
    from dispy.cli.doctor.examination import examine
    from dispy.security.tls import Tls
    from dispy.system import current_directory

    paths = {"secret_file": secret_file, "certfile": certfile, "keyfile": keyfile, "cafile": cafile}
    files = {name: current_directory.own_file(path, name) for name, path in paths.items()}
    given = Tls(files["certfile"], files["keyfile"], files["cafile"], tls)
    sys.exit(
        0 if examine(hosts, secret, files["secret_file"], given, uses_multicast=ipv4_udp_multicast) else 1
    )
