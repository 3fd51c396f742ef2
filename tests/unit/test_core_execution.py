"""The execution machine where numbers matter: sizes of records and messages, places for workers, kept data."""

from __future__ import annotations

import pytest

from dispy.core import execution as core
from dispy.core.execution import Machine
from dispy.core.execution.dispatch import STILLBORN_MAX, workers_max
from dispy.core.execution.fair_shares import BACKLOG_MAX, BACKLOGS_MAX
from dispy.core.execution.ids import ClientId, WorkerId
from dispy.core.execution.retention import segments_held
from dispy.core.execution.workers import LONG_WAIT_S
from dispy.protocol import node
from dispy.protocol.limits import BATCH_MAX, BATCH_SIZE_MAX, REASON_MAX
from dispy.protocol.node import FINISHED, Compute, Ended, Job
from dispy.protocol.worker import RECORD_BYTES_MAX, RECORD_JOBS_MAX, claim

CLIENT = ClientId(b"c" * 16)
KEY = (CLIENT, 1)


def machine_with_computation(cpus: int) -> Machine:
    """A machine with computation 1 ready."""
    machine = Machine(cpus)
    machine.handle(core.ClientAttached(CLIENT, "client", 0), 0.0)
    say(machine, Compute(1, "f", b""))
    machine.handle(core.HostReady(KEY), 0.0)
    return machine


def say(machine: Machine, message: node.ToNode, now: float = 0.0) -> list[core.Action]:
    return machine.handle(core.FromClient(CLIENT, message), now)


def run(machine: Machine, numbers: range, payload: bytes = b"", stream: int = 0) -> list[core.Action]:
    return say(
        machine,
        node.RunJobs(
            1, [Job(number, 0, payload, node.Segment(number) if stream else None) for number in numbers]
        ),
    )


def offers(actions: list[core.Action]) -> list[core.Offer]:
    return [action for action in actions if isinstance(action, core.Offer)]


def told(actions: list[core.Action]) -> list[node.FromNode]:
    return [action.message for action in actions if isinstance(action, core.Tell)]


def finish(
    machine: Machine, offer: core.Offer, seconds: float = 1e-6, is_retiring: bool = False
) -> list[core.Action]:
    """A worker runs a whole record."""
    jobs = offer.record.jobs
    ended = [Ended(job.number, job.attempt, FINISHED, 0.0, seconds, b"") for job in jobs]
    return machine.handle(
        core.Ran(offer.worker, offer.record.record, len(jobs), True, is_retiring, ended), 0.0
    )


def warm_up(machine: Machine, count: int) -> None:
    """Run so many short jobs."""
    waiting = offers(run(machine, range(1_000_000, 1_000_000 + count)))
    while waiting:
        waiting += offers(finish(machine, waiting.pop(0)))
    machine.handle(core.Flush(), 0.0)


def test_records_hold_no_more_jobs_than_fit() -> None:
    """However short the jobs and long the queue."""
    machine = machine_with_computation(1)
    warm_up(machine, 400)
    assert [len(offer.record.jobs) for offer in offers(run(machine, range(5000)))] == [RECORD_JOBS_MAX] * 2


def test_records_hold_no_more_bytes_than_fit() -> None:
    """A job that alone is larger than a record should be is alone."""
    machine = machine_with_computation(1)
    warm_up(machine, 400)
    records = [offer.record for offer in offers(run(machine, range(100), bytes(RECORD_BYTES_MAX // 3)))]
    assert [len(record.jobs) for record in records] == [2, 2]
    machine = machine_with_computation(1)
    warm_up(machine, 400)
    records = [offer.record for offer in offers(run(machine, range(100), bytes(RECORD_BYTES_MAX)))]
    assert [len(record.jobs) for record in records] == [1, 1]


def test_workers_that_retire_keep_their_places_to_their_end() -> None:
    """A host has places for so many; a job waits for one, however fast workers retire."""
    machine = machine_with_computation(2)
    waiting = offers(run(machine, range(100)))
    alive: set[WorkerId] = set()
    while waiting:
        offer = waiting.pop(0)
        waiting += offers(finish(machine, offer, is_retiring=True))
        alive = set(machine.state.workers)
        assert len(alive) <= workers_max(2)
    assert len(alive) == workers_max(2)
    first = min(alive)
    assert offers(machine.handle(core.WorkerExited(first, "", 0, 0.0, 0.0, []), 0.0))


def test_one_computation_without_places_leaves_the_cpus_to_others() -> None:
    """The other is served though it has had more time."""
    machine = machine_with_computation(1)
    say(machine, Compute(2, "g", b""))
    machine.handle(core.HostReady((CLIENT, 2)), 0.0)
    waiting = offers(run(machine, range(100)))
    while waiting:
        waiting += offers(finish(machine, waiting.pop(0), is_retiring=True))
    assert machine.state.busy == 0
    machine.state.computations[CLIENT, 2].vtime = 1e6
    assert len(offers(say(machine, node.RunJobs(2, [Job(500, 0, b"")])))) == 1


def test_messages_keep_to_the_limit() -> None:
    """What a dead host leaves, or is asked back, comes in parts that a scheduler accepts."""
    machine = machine_with_computation(1)
    for start in range(0, 3 * BATCH_MAX, BATCH_MAX):
        run(machine, range(start, start + BATCH_MAX))
    (back,) = told(say(machine, node.TakeBack(1, 2 * BATCH_MAX)))
    assert isinstance(back, node.JobsReturned)
    assert len(back.attempts) == BATCH_MAX
    left = told(machine.handle(core.HostFailed(KEY, "died"), 0.0))
    returned = [m for m in left if isinstance(m, node.JobsReturned)]
    assert [len(m.attempts) for m in returned] == [BATCH_MAX, BATCH_MAX]


def test_a_batch_of_results_has_no_more_bytes_than_fit() -> None:
    """Many results that leave together are several batches, which are kept as they are told."""
    machine = machine_with_computation(1)
    (offer,) = offers(run(machine, range(200)))
    ended = [
        Ended(number, 0, FINISHED, 0.0, 1e-6, bytes(30_000), stdout=bytes(30_000)) for number in range(200)
    ]
    actions = machine.handle(core.Ran(offer.worker, offer.record.record, 1, True, False, ended), 0.0)
    batches = [
        m for m in told(actions + machine.handle(core.Flush(), 0.0)) if isinstance(m, node.JobsEnded)
    ]
    assert [result.number for batch in batches for result in batch.ended] == list(range(200))
    most = BATCH_SIZE_MAX // 60_000
    assert [len(batch.ended) for batch in batches] == [most] * (200 // most) + [200 % most]
    assert list(machine.state.clients[CLIENT].sent.kept) == batches


def test_many_clients_together_have_a_bounded_backlog() -> None:
    """However many there are, their jobs find room in the memory of the node."""
    machine = machine_with_computation(1)
    warm_up(machine, 2000)

    def credit() -> int:
        told_ = told(machine.handle(core.CpusChanged(2), 0.0)) + told(
            machine.handle(core.CpusChanged(1), 0.0)
        )
        return max(m.backlog for m in told_ if isinstance(m, node.Credit) and m.computation == 1)

    assert credit() == BACKLOG_MAX
    for number in range(2, 101):
        machine.handle(core.ClientAttached(ClientId(bytes([number]) * 15 + b"x"), "another", 0), 0.0)
    assert credit() == BACKLOGS_MAX // 100


def test_segments_are_let_go_of() -> None:
    """Arguments of jobs that never start, and results that have arrived."""
    machine = machine_with_computation(1)
    run(machine, range(1, 6), stream=1)
    released = [a.segments for a in say(machine, node.TakeBack(1, 1)) if isinstance(a, core.Release)]
    cancel = say(machine, node.CancelJobs(1, [node.Attempt(4, 0), node.Attempt(3, 0)]))
    released += [a.segments for a in cancel if isinstance(a, core.Release)]
    ended = Ended(1, 0, FINISHED, 0.0, 1.0, b"", stream=77, output_stream=78)
    machine.handle(core.Ran(WorkerId(1), 1, 1, True, False, [ended]), 0.0)
    released += [a.segments for a in say(machine, node.Acknowledge(9)) if isinstance(a, core.Release)]
    assert released == [[5], [3, 4], [77, 78]]


def test_unwanted_jobs_let_go_of_their_segments() -> None:
    """After a reconnect they are dropped where they wait."""
    machine = machine_with_computation(1)
    run(machine, range(1, 4), stream=1)
    actions = say(machine, node.Reconcile([node.HeldJobs(1, [node.Attempt(1, 0)])], {1: 0}))
    assert core.Release(KEY, [2, 3]) in actions


def test_a_worker_is_not_where_it_is_not_known_to_be() -> None:
    """Positions in records that are over, or past their end, say nothing about the present one."""
    machine = machine_with_computation(1)
    run(machine, range(1, 3))
    for position in (claim(9, 0), claim(1, 1)):
        for _ in range(3):
            assert machine.handle(core.Tick({WorkerId(1): (position, 1.0)}), 0.0) == []


def test_a_long_job_is_told_as_started_once() -> None:
    """Not at every tick."""
    machine = machine_with_computation(1)
    run(machine, range(1, 2))
    ticks = [told(machine.handle(core.Tick({WorkerId(1): (claim(1, 0), 5.0)}), 0.0)) for _ in range(4)]
    assert ticks == [[], [node.JobsStarted(1, [node.Started(1, 0, 5.0)])], [], []]


def test_an_interrupt_is_sent_once() -> None:
    """Cancelling again, or another tick, does not shorten the grace period."""
    machine = machine_with_computation(1)
    run(machine, range(1, 2))
    tick = core.Tick({WorkerId(1): (claim(1, 0), 5.0)})
    machine.handle(tick, 0.0)
    cancel = node.CancelJobs(1, [node.Attempt(1, 0)])
    assert core.InterruptWorker(WorkerId(1), claim(1, 0)) in say(machine, cancel, 1.0)
    assert say(machine, cancel, 2.0) == []
    assert core.KillWorker(WorkerId(1)) not in machine.handle(tick, 5.9)
    assert machine.handle(tick, 6.0) == [core.KillWorker(WorkerId(1))]
    assert machine.handle(tick, 7.0) == []


def test_a_worker_whose_record_could_not_be_recalled_is_asked_once() -> None:
    """The kernel has said that the worker has it; the next record is another matter."""
    machine = machine_with_computation(2)
    run(machine, range(1, 5))
    ended = [Ended(1, 0, FINISHED, 0.0, 1.0, b"")]
    machine.handle(core.Ran(WorkerId(1), 1, 1, True, False, ended), 0.0)
    ended = [Ended(3, 0, FINISHED, 0.0, 1.0, b"")]
    actions = machine.handle(core.Ran(WorkerId(1), 3, 1, True, False, ended), 0.0)
    assert core.Recall(WorkerId(2)) in actions
    assert machine.handle(core.Recalled(WorkerId(2), []), 0.0) == []
    assert machine.handle(core.Tick({}), 0.0) == []


def test_unknown_messages_are_passed_over() -> None:
    """A node may be older than its client."""
    machine = machine_with_computation(1)
    assert say(machine, node.Attach(CLIENT, "again")) == []


def test_results_do_not_wait_for_company_for_ever() -> None:
    """They go out when there are many, and with whatever is told next."""
    machine = machine_with_computation(1)
    warm_up(machine, 400)
    waiting = offers(run(machine, range(2000)))
    messages: list[node.FromNode] = []
    flushes = 0
    while waiting:
        actions = finish(machine, waiting.pop(0))
        waiting += offers(actions)
        messages += told(actions)
        flushes += sum(isinstance(action, core.FlushSoon) for action in actions)
    numbers = [e.number for m in messages if isinstance(m, node.JobsEnded) for e in m.ended]
    assert numbers == list(range(2000))
    assert flushes == 1
    assert max(len(m.ended) for m in messages if isinstance(m, node.JobsEnded)) >= 256
    machine.handle(core.Flush(), 0.0)
    assert not machine.state.is_flushing


@pytest.mark.parametrize(("seconds", "is_alone"), [(0.0021, False), (0.004, True)])
def test_results_of_longer_jobs_wait_where_others_come_soon(seconds: float, is_alone: bool) -> None:
    """And while there is work enough that nobody is kept idle; the last ones do not."""
    machine = machine_with_computation(1)
    waiting = offers(run(machine, range(100)))
    sizes: list[int] = []
    while waiting:
        actions = finish(machine, waiting.pop(0), seconds)
        soon = [action.after for action in actions if isinstance(action, core.FlushSoon)]
        assert soon in ([], [LONG_WAIT_S])
        waiting += offers(actions)
        if len(machine.state.computations[KEY].untold) == 2:
            actions += machine.handle(core.Flush(), 0.0)
        sizes += [len(m.ended) for m in told(actions) if isinstance(m, node.JobsEnded)]
    assert sum(sizes) == 100
    assert (max(sizes) == 1) is is_alone
    assert sizes[-9:] == [1] * 9  # 20 ms of work


def test_a_large_result_is_told_apart_from_small_ones() -> None:
    """On a slow line they would wait for its bytes."""
    machine = machine_with_computation(1)
    warm_up(machine, 400)
    offer = offers(run(machine, range(1000)))[0]
    ended = [Ended(job.number, job.attempt, FINISHED, 0.0, 1e-6, b"") for job in offer.record.jobs]
    ended[1].stream = 7
    ended[3].output_stream = 8
    actions = machine.handle(
        core.Ran(offer.worker, offer.record.record, len(ended), True, False, ended), 0.0
    ) + machine.handle(core.Flush(), 0.0)
    batches = [message for message in told(actions) if isinstance(message, node.JobsEnded)]
    assert [[result.number for result in batch.ended] for batch in batches] == [
        [0, 2, *range(4, len(ended))],
        [1],
        [3],
    ]
    assert [batch.batch - batches[0].batch for batch in batches] == [0, 1, 2]


def released(actions: list[core.Action]) -> list[int]:
    return [
        segment for action in actions if isinstance(action, core.Release) for segment in action.segments
    ]


def test_a_dead_worker_had_let_go_of_nothing() -> None:
    machine = machine_with_computation(1)
    (offer,) = offers(run(machine, range(1, 4), stream=1))
    actions = machine.handle(died(offer, claim(offer.record.record, 0)), 0.0)
    assert released(actions) == [1]
    assert [job.number for again in offers(actions) for job in again.record.jobs] == [2, 3]


def test_arguments_that_come_twice_are_kept_once() -> None:
    machine = machine_with_computation(1)
    run(machine, range(1, 4), stream=1)
    actions = say(
        machine, node.RunJobs(1, [Job(2, 0, b"", node.Segment(20)), Job(9, 0, b"", node.Segment(21))])
    )
    assert released(actions) == [20]


def test_what_nobody_wants_any_more_is_let_go_of() -> None:
    """After a reconnect: arguments of what had not started, and the result of what had."""
    machine = machine_with_computation(1)
    warm_up(machine, 400)
    first, second = offers(run(machine, range(1, 1001), stream=1))
    assert len(first.record.jobs) > 2
    at_first = core.Tick({first.worker: (claim(first.record.record, 0), 0.0)})
    machine.handle(at_first, 0.0)
    actions = say(machine, node.Reconcile([], {1: 0}))
    actions += machine.handle(core.Recalled(first.worker, [second.record.record]), 0.0)
    for _ in range(3):
        actions += machine.handle(at_first, 0.0)
    assert sorted(released(actions)) == list(range(2, 1001))
    result = Ended(1, 0, FINISHED, 0.0, 1.0, b"", stream=77)
    ran = core.Ran(first.worker, first.record.record, 1, True, False, [result])
    assert released(machine.handle(ran, 0.0)) == [77]
    assert released(machine.handle(ran, 0.0)) == [], "sent twice"


def test_a_result_that_is_sent_twice_is_not_let_go_of() -> None:
    """By a worker that did not know that it had been taken from its arena."""
    machine = machine_with_computation(1)
    (offer,) = offers(run(machine, range(1, 2)))
    result = Ended(1, 0, FINISHED, 0.0, 1.0, b"", stream=77)
    machine.handle(core.Ran(offer.worker, 0, 0, False, False, [result]), 0.0)
    actions = machine.handle(core.Ran(offer.worker, offer.record.record, 1, True, False, [result]), 0.0)
    assert released(actions) == []
    assert segments_held(machine.state, KEY) == {77, 0}
    assert released(say(machine, node.Acknowledge(1))) == [77]
    assert segments_held(machine.state, KEY) == set()


def passed(actions: list[core.Action]) -> list[tuple[int, int, bool]]:
    found = [action.message for action in actions if isinstance(action, core.Pass)]
    return [(each.number, each.serial, each.delivered) for each in found]


def test_no_job_waits_for_a_client_that_is_away() -> None:
    machine = machine_with_computation(1)
    (offer,) = offers(run(machine, range(1, 2)))
    sent = [core.ValueSent(offer.worker, 1, 0, serial, b"", 70 + serial) for serial in (1, 2, 3)]
    assert passed(machine.handle(sent[0], 0.0)) == []
    assert passed(machine.handle(core.ClientSilent(CLIENT), 0.0)) == [(1, 1, False)]
    actions = machine.handle(sent[1], 0.0)
    assert passed(actions) == [(1, 2, False)]
    assert released(actions) == [72]
    machine.handle(core.ClientAttached(CLIENT, "client", 0), 0.0)
    assert told(machine.handle(sent[2], 0.0)) == [node.Provisional(1, 1, 0, 3, b"", 73)]
    assert passed(say(machine, node.AcknowledgeProvisional(1, 1, 0, 3))) == [(1, 3, True)]


def test_a_job_waits_for_the_value_that_it_has_sent_last() -> None:
    """What it has given up waiting for is acknowledged all the same, and must not be taken for that."""
    machine = machine_with_computation(1)
    (offer,) = offers(run(machine, range(1, 2)))
    part = node.FilePart(1, "a", 10, 0o644, 1, 2, 0)
    for serial in (1, 2):
        actions = machine.handle(core.ValueSent(offer.worker, 1, 0, serial, b"v", 0, part), 0.0)
        assert told(actions) == [node.Provisional(1, 1, 0, serial, b"v", 0, 0, part)]
    assert passed(say(machine, node.AcknowledgeProvisional(1, 1, 0, 1))) == []
    refused = node.AcknowledgeProvisional(1, 1, 0, 2, False, "no room " * 1000)
    (answer,) = [action.message for action in say(machine, refused) if isinstance(action, core.Pass)]
    assert (answer.serial, answer.delivered, len(answer.reason)) == (2, False, 1000)
    assert passed(say(machine, refused)) == []


def test_workers_that_never_begin_end_the_computation_here_with_the_reason() -> None:
    """Jobs go back; a job that ends in between starts the count again."""
    machine = machine_with_computation(1)
    waiting = offers(run(machine, range(5)))
    for _ in range(STILLBORN_MAX):
        waiting = offers(machine.handle(died(waiting[0], position=0), 0.0))
    waiting = offers(finish(machine, waiting[0]))
    for _ in range(STILLBORN_MAX):
        waiting = offers(machine.handle(died(waiting[0], position=0), 0.0))
    actions = machine.handle(died(waiting[0], position=0), 0.0)
    failed, back = told(actions)
    assert isinstance(failed, node.ComputationFailed)
    assert "no memory" in failed.reason
    assert isinstance(back, node.JobsReturned)
    assert [attempt.number for attempt in back.attempts] == [1, 2, 3, 4]
    assert core.StopHost(KEY) in actions
    assert not machine.state.workers
    assert machine.state.busy == 0


@pytest.mark.parametrize("has_died", [True, False])
def test_workers_that_end_with_their_host_are_not_counted(has_died: bool) -> None:
    """Of many CPUs: a host that dies while all its workers are new is restarted, or given up, once."""
    cpus = STILLBORN_MAX + 2
    machine = machine_with_computation(cpus)
    waiting = offers(run(machine, range(cpus)))
    exits = [died(offer, position=0, reason="the host died") for offer in waiting]
    actions = machine.handle(core.HostFailed(KEY, "the host died", exits, has_died), 0.0)
    failed = [m for m in told(actions) if isinstance(m, node.ComputationFailed)]
    starts = [action for action in actions if isinstance(action, core.StartHost)]
    assert (len(failed), len(starts)) == ((0, 1) if has_died else (1, 0))
    assert not [action for action in actions if isinstance(action, core.StopHost)]
    assert (KEY in machine.state.computations) is has_died


def died(offer: core.Offer, position: int, reason: str = "no memory") -> core.WorkerExited:
    return core.WorkerExited(offer.worker, reason, position, 0.0, 0.0, [])


def test_a_reason_is_no_longer_than_a_scheduler_takes() -> None:
    """A host may say as much of its worker, and the node puts words of its own in front of that."""
    machine = machine_with_computation(1)
    waiting = offers(run(machine, range(5)))
    for _ in range(STILLBORN_MAX):
        waiting = offers(machine.handle(died(waiting[0], position=0), 0.0))
    failed, back = told(machine.handle(died(waiting[0], position=0, reason="x" * REASON_MAX), 0.0))
    assert isinstance(failed, node.ComputationFailed)
    assert isinstance(back, node.JobsReturned)
    assert len(failed.reason) == len(back.reason) == REASON_MAX


def test_more_jobs_than_a_message_names_begin_at_once() -> None:
    """On as many CPUs."""
    cpus = BATCH_MAX + 1
    machine = machine_with_computation(cpus)
    waiting = offers(run(machine, range(1, cpus + 1)))
    positions = {offer.worker: (claim(offer.record.record, 0), 5.0) for offer in waiting}
    machine.handle(core.Tick(positions), 0.01)
    started = told(machine.handle(core.Tick(positions), 0.02))
    assert [len(message.started) for message in started if isinstance(message, node.JobsStarted)] == [
        BATCH_MAX,
        1,
    ]


def test_a_job_that_waits_for_no_acknowledgement_any_more_is_forgotten() -> None:
    """It has ended without, or died."""
    for is_dying in (False, True):
        machine = machine_with_computation(1)
        (offer,) = offers(run(machine, range(1, 2)))
        machine.handle(core.ValueSent(offer.worker, 1, 0, 1, b"v", 0), 0.5)
        assert machine.state.computations[KEY].sending
        if is_dying:
            place = claim(offer.record.record, 0)
            machine.handle(core.WorkerExited(offer.worker, "killed", place, 0.0, 1.0, []), 1.0)
        else:
            finish(machine, offer)
        assert not machine.state.computations[KEY].sending


def test_jobs_are_listed_that_workers_are_at() -> None:
    """The one that each worker was at when it was looked last, of this computation; not what waits."""
    machine = machine_with_computation(2)
    assert told(say(machine, node.ListJobs(1, 7))) == [node.JobsListed(1, 7, [])]
    assert told(say(machine, node.ListJobs(99, 8))) == [node.JobsListed(99, 8, [])]
    sent = offers(run(machine, range(10, 15)))
    workers = [offer.worker for offer in sent]
    at = {offer.worker: (claim(offer.record.record, 0), 1.0) for offer in sent}
    machine.handle(core.Tick(at), 0.01)
    first = [offer.record.jobs[0].number for offer in sent]
    assert len(workers) == 2
    (listed,) = told(say(machine, node.ListJobs(1, 9)))
    assert isinstance(listed, node.JobsListed)
    assert sorted(listed.attempts, key=lambda attempt: attempt.number) == [
        node.Attempt(number, 0) for number in sorted(first)
    ]
    finish(machine, sent[0])
    (listed,) = told(say(machine, node.ListJobs(1, 10)))
    assert isinstance(listed, node.JobsListed)
    assert first[0] not in [attempt.number for attempt in listed.attempts]
    assert first[1] in [attempt.number for attempt in listed.attempts]


# Room for large data.


def test_a_job_that_finds_no_room_goes_back_and_no_more_are_taken_until_there_is_some() -> None:
    machine = machine_with_computation(2)
    say(machine, Compute(2, "other", b""))
    machine.handle(core.HostReady((CLIENT, 2)), 0.0)
    actions = machine.handle(core.ShortOfRoom(KEY, "it is full", (7, 1)), 0.0)
    # In this order: it is not to be sent again at once. Other computations go on.
    assert told(actions) == [
        node.Credit(1, 0, 0, "it is full"),
        node.JobsReturned(1, [node.Attempt(7, 1)]),
    ]
    actions = machine.handle(core.ShortOfRoom(KEY, "it is full", (8, 1)), 0.0)
    assert told(actions) == [node.JobsReturned(1, [node.Attempt(8, 1)])]
    (credit,) = told(machine.handle(core.ShortOfRoom(KEY, ""), 0.0))
    assert isinstance(credit, node.Credit)
    assert (credit.slots, credit.reason) == (2, "")


def test_a_job_that_is_here_is_not_given_back_when_it_comes_again_and_finds_no_room() -> None:
    machine = machine_with_computation(1)
    run(machine, range(7, 8))
    actions = machine.handle(core.ShortOfRoom(KEY, "it is full", (7, 0)), 0.0)
    assert not [message for message in told(actions) if isinstance(message, node.JobsReturned)]


def test_what_finds_no_room_for_a_computation_that_is_gone_is_no_matter() -> None:
    machine = machine_with_computation(1)
    say(machine, node.CloseComputation(1))
    assert machine.handle(core.ShortOfRoom(KEY, "it is full", (7, 0)), 0.0) == []


def test_a_dead_client_gets_the_cpu_that_a_limited_one_may_not_use() -> None:
    """The limited one has jobs that wait; the CPU was idle before, until one of these clients left."""
    dead = ClientId(b"d" * 16)
    machine = machine_with_computation(2)
    machine.handle(core.ClientAttached(dead, "dead", 0), 0.0)
    machine.handle(core.FromClient(dead, Compute(1, "f", b"")), 0.0)
    machine.handle(core.HostReady((dead, 1)), 0.0)
    jobs = node.RunJobs(1, [Job(number, 0, b"") for number in range(4)])
    first, second = offers(machine.handle(core.FromClient(dead, jobs), 0.0))
    machine.handle(core.ClientSilent(dead), 0.0)
    machine.handle(core.Tick({}), 6.0)
    assert machine.state.clients[dead].is_dead
    say(machine, node.LimitCpus(1), 6.0)
    assert not offers(run(machine, range(10, 15)))
    (offered,) = offers(finish(machine, first))
    assert machine.state.workers[offered.worker].computation.key == KEY
    (offered,) = offers(finish(machine, second))
    assert machine.state.workers[offered.worker].computation.key == (dead, 1)
