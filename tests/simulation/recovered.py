"""What must hold of what a recovery returns, by all that has happened to those jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispy.client.job import DispyJob
from dispy.client.recovery.dead_program import Dead, PastSession
from dispy.core.execution.ids import ClientId
from dispy.core.scheduling.withdrawal import CLOSED
from dispy.journal.rows import GIVEN_UP
from dispy.protocol.node import ABANDONED, CANCELLED, FINISHED, TERMINATED

from .jobs import Entry, Kind, attempt_of

if TYPE_CHECKING:
    from .computer import Computer
    from .recovery import Recovery


Key = tuple[int, int]
"""A job: the computation, by the number that the dead program gave it, and its own."""


def check(recovery: Recovery, jobs: list[DispyJob]) -> None:
    """Compare what a recovery has returned with what has happened."""
    truth = Truth(recovery)
    by_key: dict[Key, DispyJob] = {}
    for one in recovery.found:
        for (computation, number), job in one.jobs.items():
            key = (computation or origin_of(one), number)
            if key in by_key:
                truth.fail(f"job {key} is returned twice")
            if job.number != number:
                truth.fail(f"job {key} is returned as job {job.number}")
            by_key[key] = job
            truth.check_job(key, job)
    if sorted(map(id, by_key.values())) != sorted(map(id, jobs)):
        truth.fail("other jobs are returned than were found")
    for one in recovery.found:
        for number in one.submitted:
            if (origin_of(one), number) not in by_key:
                truth.fail(f"job {number} is in the journal and is not returned")
        is_whole = all(session.recovery.is_whole() for session in one.sessions)
        for session in one.sessions:
            if is_whole:
                truth.check_complete(one, session, by_key)
        if one.is_done and not recovery.is_terminating:
            left = [n for n in one.submitted if not by_key[origin_of(one), n]._is_final]
            if left:
                truth.fail(f"the journal of jobs {left} is given up, and they have not ended")


def origin_of(one: Dead) -> int:
    """The computation of a full journal, by the number that its first program gave it; 0 if it has none."""
    return next(iter(one.sessions[0].computations), 0)


def _origin(one: Dead, computation: int) -> int:
    """That of a session of a journal, by the number that the first program gave it."""
    return origin_of(one) if one.journal.is_full else computation


class Truth:
    """All that has happened to the jobs of a program.

    Args:
        recovery: Who has recovered it.
    """

    def __init__(self, recovery: Recovery) -> None:
        self._recovery = recovery
        self._estate = recovery.estate
        self._world = recovery.estate.world
        self._open = {
            (_origin(one, computation), number)
            for one in recovery.found
            for session in one.sessions
            for computation, number in session.recovery.open_jobs()
        }
        self._resumed = recovery.resumed_now
        self._told = {
            (origin_of(one), number): result
            for one in recovery.found
            for number, result in one.told.items()
        }
        self._accounts = self._estate.accounts

    def fail(self, text: str) -> None:
        """A guarantee is broken."""
        self._world.fail(f"{self._recovery.party.name}: {text}")

    def _lives(self, key: Key) -> list[Entry]:
        """What is known of a job by the program that submitted it, and by those that resumed it."""
        first, *others = self._accounts
        found = [first.entries.get(key)]
        for account in others:
            found += [
                account.entries.get((own, key[1]))
                for own, origin in account.origins.items()
                if origin == key[0]
            ]
        return [entry for entry in found if entry is not None]

    def check_job(self, key: Key, job: DispyJob) -> None:
        """One job."""
        number = job.number
        lives = self._lives(key)
        if not lives:
            self.fail(f"job {number} is returned, and nobody submitted it")
        if job._is_final:
            self._check_final(key, job, lives)
        elif (
            job.status == DispyJob.Created
            and not job.exception
            and key not in self._open
            and key not in self._resumed
            and lives[0].runs
            and not lives[0].is_reentrant
        ):
            self.fail(f"job {number} is returned as never started, and it was: {lives[0].runs}")

    def _check_final(self, key: Key, job: DispyJob, lives: list[Entry]) -> None:
        number, status = job.number, job.status
        value = b""
        if status == FINISHED:
            value = job.result
            self._check_result(number, value, lives)
        elif not job.exception:
            self.fail(f"job {number} ends with status {status} and no reason")
        elif status == CANCELLED:
            is_wanted = self._recovery.is_terminating or any(
                life.is_cancelled
                or life.is_ended_by_us
                or (life.pinned is not None and job.exception == CLOSED)
                for life in lives
            )
            if not is_wanted:
                self.fail(f"job {number} ends as cancelled and nobody cancelled it: {job.exception}")
        elif status == TERMINATED:
            self._check_terminated(job, lives)
        elif status != ABANDONED:
            self.fail(f"job {number} is final with status {status}")
        first = lives[0]
        if first.is_reentrant:
            value = (
                b""  # more than one run may have come to its end, on nodes that answer at different times
            )
        if key in self._told and self._told[key].ended.status != status:
            self.fail(
                f"job {number} was told as {self._told[key].ended.status} and is returned as {status}"
            )
        if first.recovered is None:
            first.recovered = status, value, self._recovery.deaths
        elif first.recovered[:2] != (status, value) and (
            first.recovered[2] == self._estate.deaths() or (self._is_noted(key) and value)
        ):
            self.fail(f"job {number} was returned as {first.recovered[0]} before, and as {status} now")

    def _is_noted(self, key: Key) -> bool:
        """Whether a journal has all that was ever returned of a job."""
        return any(key[1] in one.submitted and origin_of(one) == key[0] for one in self._recovery.found)

    def _check_result(self, number: int, value: bytes, lives: list[Entry]) -> None:
        attempt = attempt_of(value)
        if not any(life.ended.get(attempt) == FINISHED for life in lives):
            self.fail(f"job {number} is returned as finished, and its attempt {attempt} has not finished")
        if len(value) != 16 + lives[0].task.result_size or value[:8] != number.to_bytes(8, "little"):
            self.fail(f"job {number} is returned with a result that is not its own")

    def _check_terminated(self, job: DispyJob, lives: list[Entry]) -> None:
        is_own = any(TERMINATED in life.ended.values() or life.died for life in lives)
        is_excused = self._world.has_refusals or any(
            computer.disk is not None and computer.disk.damaged for computer in self._estate.computers
        )
        # A cancel that meets the result of its job has the rest of that given up, if it is a large one.
        is_given_up = job.exception == "cancelled" and any(
            life.is_ended_by_us and life.task.is_large() for life in lives
        )
        if not (is_own or is_excused or is_given_up or self._recovery.is_terminating):
            self.fail(f"job {job.number} is returned as terminated, and it was not: {job.exception}")

    def check_complete(self, one: Dead, session: PastSession, returned: dict[Key, DispyJob]) -> None:
        """What a node has produced is there, if nothing has happened to it since."""
        if one.journal.path in self._estate.short_released:
            return
        account = self._estate.ledger[session.identity]
        used = {row.incarnation for row in session.nodes if row.state != GIVEN_UP}
        for entry in account.entries.values():
            if entry.computation not in session.computations or entry.status or entry.is_given_up:
                continue
            status = entry.ended.get(entry.attempt)
            place = entry.places.get(entry.attempt, b"")
            if status is None or entry.is_ended_by_us or entry.is_cancelled or place not in used:
                continue
            if not self._is_safe(session.identity, entry, place):
                continue
            job = returned.get((_origin(one, entry.computation), entry.number))
            if job is None:
                self.fail(f"job {entry.number} has ended as {status}, and is not returned")
            elif job.status != status and not self._world.has_refusals:
                self.fail(
                    f"job {entry.number} has ended as {status}, and is returned as {job.status}: {job.exception}"
                )

    def _is_safe(self, client: bytes, entry: Entry, place: bytes) -> bool:
        """Whether a result is still where it was produced, or on a disk that lives."""
        key = (client, entry.computation, entry.number, entry.attempt)
        for computer in self._estate.computers:
            disk = computer.disk
            if disk is None or client in disk.damaged or any(who == client for _, who in disk.forgotten):
                continue
            if computer.service is not None and computer.incarnation == place:
                return True
            if disk.holds(key):
                return True
        return False


def find_unended(recovery: Recovery) -> list[int]:
    """Jobs that a recovery with enough time, which resumed what was never started, should have brought to an end."""
    waits: list[int] = []
    if any(
        _is_endless(entry)
        for account in recovery.estate.ledger.values()
        for entry in account.entries.values()
    ):
        # It may hold a CPU that others wait for.
        return waits
    for one in recovery.found:
        for (_, number), job in one.jobs.items():
            submitted = one.submitted.get(number)
            if not job._is_final and not (submitted is not None and submitted.is_pinned):
                waits.append(number)
    return waits


def _is_endless(entry: Entry) -> bool:
    """Whether a job runs, or will, until somebody cancels it."""
    return entry.task.kind in (Kind.HANGS, Kind.DEAF) and not entry.status and not entry.is_given_up


def find_kept(computer: Computer, session: PastSession, given_up: set[bytes]) -> str | None:
    """What a node keeps for a program of which all was recovered or given up; those are not asked that the
    program itself had given up."""
    if computer.service is None or computer.disk is None:
        return None
    if computer.disk.is_back(session.identity):
        return None  # nobody syncs what is removed: its lease will end
    client = computer.service.machine.state.clients.get(ClientId(session.identity))
    if client is not None and given_up & {computer.incarnation, *client.before}:
        return None  # nobody has asked it: its lease will end
    if client is not None:
        for number in session.computations:
            if (client.id, number) in computer.service.machine.state.computations:
                return f"computation {number}"
            if any(batch.computation == number for batch in client.sent.kept):
                return f"results of computation {number}"
            if any(jobs.computation == number for jobs in client.lost):
                return f"a list of what was lost of computation {number}"
        return None
    files = computer.disk.files_of(session.identity)
    return f"the files {files}" if files else None
