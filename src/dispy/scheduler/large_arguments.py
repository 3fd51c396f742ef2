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
        self._groups: dict[tuple[int, int], tuple[int, Group]] = {}
        """Number of the computation, and streams, by job number and attempt."""

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
        bare = node.Job(job.number, job.attempt, b"")
        parts: list[tuple[Any, str, Source]] = [(bare, "stream", MemorySource(job.payload))]
        group = connection.send_streamed(parts, node.RunJobs(computation, [bare], watched, files))
        if len(self._groups) >= ENTRIES_MAX:
            self._groups = {key: entry for key, entry in self._groups.items() if not entry[1].is_over()}
        self._groups[job.number, job.attempt] = computation, group

    def give_up(self, connection: Connection, message: node.CancelJobs) -> list[node.Attempt]:
        """Stop sending the arguments of the jobs in a cancel.

        Returns:
            The attempts that the node will never hear of: they need no cancel.
        """
        given_up = []
        for attempt in message.attempts if self._groups else ():
            _, group = self._groups.pop((attempt.number, attempt.attempt), (0, None))
            if group is not None and connection.give_up(group):
                given_up.append(attempt)
        return given_up

    def give_up_all(self, connection: Connection, computation: int) -> None:
        """Stop sending the arguments of all jobs of a computation, as it is being closed on the node."""
        for key, (other, group) in list(self._groups.items()):
            if other == computation:
                connection.give_up(group)
                del self._groups[key]

    def clear(self) -> None:
        """Forget all: the connection is gone."""
        self._groups.clear()

    def under_way(self) -> list[tuple[int, int]]:
        """Returns the jobs (number, attempt) whose arguments have not left completely."""
        return [key for key, (_, group) in self._groups.items() if not group.is_over()]
