"""Large arguments of jobs on their way to a node, as streams, so that a cancel can stop them."""

from __future__ import annotations

from typing import Any

from dispy.net.connection import Connection
from dispy.protocol import node
from dispy.protocol.streams import Group, MemorySource, Source

ENTRIES_MAX = 64
"""Entries of ``LargeArguments`` at which those that have left are removed: to look at each job would cost more."""


class LargeArguments:
    """Large arguments that may still be under way on one connection to a node."""

    def __init__(self) -> None:
        self._groups: dict[tuple[int, int, int], Group] = {}
        """Streams by computation, job number and attempt."""

    def send(
        self,
        connection: Connection,
        computation: int,
        job: node.Job,
        watched: list[int],
        files: list[node.JobFiles],
    ) -> None:
        """Send a job with its large arguments as a stream; messages that are sent meanwhile overtake it.

        ``watched`` and ``files`` are the fields of its ``RunJobs``.
        """
        where = node.Streamed(0)
        bare = node.Job(job.number, job.attempt, b"", where)
        parts: list[tuple[Any, str, Source]] = [(where, "stream", MemorySource(job.payload))]
        group = connection.send_streamed(parts, node.RunJobs(computation, [bare], watched, files))
        if len(self._groups) >= ENTRIES_MAX:
            self._groups = {key: other for key, other in self._groups.items() if not other.is_over()}
        self._groups[computation, job.number, job.attempt] = group

    def give_up(self, connection: Connection, message: node.CancelJobs) -> list[node.Attempt]:
        """Stop sending the arguments of the jobs in a cancel.

        Returns:
            The attempts that the node will never hear of: they need no cancel.
        """
        given_up = []
        for attempt in message.attempts if self._groups else ():
            group = self._groups.pop((message.computation, attempt.number, attempt.attempt), None)
            if group is not None and connection.give_up(group):
                given_up.append(attempt)
        return given_up

    def give_up_all(self, connection: Connection, computation: int) -> None:
        """Stop sending the arguments of all jobs of a computation, as it is being closed on the node."""
        for key, group in list(self._groups.items()):
            if key[0] == computation:
                connection.give_up(group)
                del self._groups[key]

    def clear(self) -> None:
        """Forget all: the connection is gone."""
        self._groups.clear()

    def under_way(self) -> list[tuple[int, int, int]]:
        """Returns the jobs (computation, number, attempt) whose arguments have not left completely."""
        return [key for key, group in self._groups.items() if not group.is_over()]
