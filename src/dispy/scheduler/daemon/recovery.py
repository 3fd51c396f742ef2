"""Recovery of a program that has died: another one attaches in its name, and fetches what is kept for it.

The recovery gets all news that the program had not released, and those that come; it releases nothing, so that a
further recovery finds the same. What it asks for is here; it ends by closing the clusters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispy.protocol import shared
from dispy.scheduler.daemon import commands
from dispy.scheduler.daemon.news import chunks
from dispy.scheduler.daemon.programs import Program

if TYPE_CHECKING:
    from dispy.net.connection import Connection
    from dispy.scheduler.daemon.commands import Hub


def begin(hub: Hub, program: Program) -> None:
    """Take a program for dead. What it had begun to send, and never will, is dropped; clusters that it has closed are
    closed."""
    program.is_dead = True
    for message in program.channel.drop_waiting():
        if type(message) is shared.CloseCluster:
            commands.perform(hub, program, message)


def answer(connection: Connection, program: Program, question: shared.Recover) -> None:
    """Tell a recovery which jobs of clusters are open, and which of them run."""
    for number in question.clusters:
        cluster = program.clusters.get(number)
        if cluster is None:
            continue
        for part in chunks(list(cluster.open)) or [[]]:
            running = [cluster.running[job] for job in part if job in cluster.running]
            connection.send(shared.Held(number, part, running))
    connection.send(shared.Held(0, is_last=True))
