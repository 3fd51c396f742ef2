"""Guarantees broken on purpose, one at a time, to see that a simulation notices.

Each of them is a machine, or what stands for one, that now and then does something else than the real one: a
decision left out, taken twice, or taken about the wrong job. ``python -m tests.simulation --mutations`` plays
worlds with each of them until one fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from dispy.client.backend.network_search import NetworkSearch
from dispy.client.backend.program_journal import ProgramJournal
from dispy.client.backend.remote import Remote
from dispy.client.engine.news import News
from dispy.client.job import DispyJob
from dispy.client.session import completion
from dispy.client.session.state import Session
from dispy.core import execution as execution
from dispy.core import scheduling as scheduling
from dispy.core import staging as staging
from dispy.core.execution import Machine as ExecutionMachine
from dispy.core.execution.ids import ClientId
from dispy.core.recovery import Fate, Judge, Recovery
from dispy.core.scheduling import Machine as SchedulingMachine
from dispy.core.scheduling.lines import accounts
from dispy.core.scheduling.placement import note_room
from dispy.core.staging import Machine as StagingMachine
from dispy.core.staging import SupplierId
from dispy.core.staging.thread_turns import queue_work
from dispy.files.fetching.stager import Stager
from dispy.files.fetching.wanted_files import Stage
from dispy.net.links.channel import Channel
from dispy.node.staging.job_files import Brought
from dispy.protocol import node
from dispy.protocol.files import FileEntry
from dispy.protocol.node import Attempt
from dispy.scheduler.daemon.hub import Hub
from dispy.scheduler.daemon.news import News as SharedNews

from .simulation import Outcome, run_seed

WORLDS_MAX = 60
"""Within so many worlds each has to be found."""

Decide = Callable[[Any, float], list[Any]]
"""What the real machine does with an event."""


@dataclass(frozen=True)
class Mutation:
    """A guarantee that is broken.

    Attributes:
        name: What is wrong.
        kind: Whose machine it is, or the module of a function of sessions.
        handle: What it does instead, with the help of the real machine.
        finds: What the failure must say, one of these.
        first: A world in which it shows, unless these have changed meanwhile.
        climate: That of the worlds; empty: any.
        method: What is another one.
    """

    name: str
    kind: Any
    handle: Callable[..., Any]
    finds: tuple[str, ...]
    first: int = 0
    climate: str = ""
    method: str = "handle"


def forget_results(machine: ExecutionMachine, decide: Decide, event: Any, now: float) -> list[Any]:
    """A node forgets results that were on their way when a connection broke: their jobs are sent to it again."""
    if type(event) is execution.ClientAttached and event.client in machine.state.clients:
        machine.state.clients[event.client].sent.kept.clear()
    return decide(event, now)


def tell_again(machine: SchedulingMachine, decide: Decide, event: Any, now: float) -> list[Any]:
    """The end of a job that meets a cancel on its way is told for both."""
    again: list[node.Ended] = []
    if type(event) is scheduling.FromNodeEvent and type(event.message) is node.JobsEnded:
        computation = machine.state.computations.get((scheduling.EMBEDDED, event.message.computation))
        known = computation is not None and computation.placements.get(event.node)
        if known:
            again = [ended for ended in event.message.ended if ended.number in known.cancelling]
    actions = decide(event, now)
    if again:
        number = event.message.computation
        actions.append(scheduling.TellEnded(scheduling.EMBEDDED, number, event.node, again))
    return actions


def leak_slot(machine: ExecutionMachine, decide: Decide, event: Any, now: float) -> list[Any]:
    """A CPU stays busy for ever when a worker dies in a job."""
    state = machine.state
    worker = state.workers.get(event.worker) if type(event) is execution.WorkerExited else None
    is_busy = worker is not None and bool(worker.records)
    actions = decide(event, now)
    if is_busy:
        state.running[event.worker] = worker
    return actions


def never_release(machine: ExecutionMachine, decide: Decide, event: Any, now: float) -> list[Any]:
    """Results are kept though they have arrived."""
    if type(event) is execution.FromClient and type(event.message) is node.Acknowledge:
        return []
    return decide(event, now)


def lose_results(machine: ExecutionMachine, decide: Decide, event: Any, now: float) -> list[Any]:
    """Results that were on their way when a connection broke are not repeated."""
    actions = decide(event, now)
    if type(event) is execution.ClientAttached:
        return [
            a for a in actions if type(a) is not execution.Tell or type(a.message) is not node.JobsEnded
        ]
    return actions


def run_again(machine: SchedulingMachine, decide: Decide, event: Any, now: float) -> list[Any]:
    """All jobs of a lost node are run again, whether they may be or not."""
    if type(event) is not scheduling.NodeLost:
        return decide(event, now)
    before = {number: c.reentrant for number, c in machine.state.computations.items()}
    for computation in machine.state.computations.values():
        computation.reentrant = True
    actions = decide(event, now)
    for number, computation in machine.state.computations.items():
        computation.reentrant = before[number]
    return actions


def send_once(machine: SchedulingMachine, decide: Decide, event: Any, now: float) -> list[Any]:
    """Jobs that were on their way when a connection broke are not sent again."""
    actions = decide(event, now)
    if type(event) is scheduling.FromNodeEvent and type(event.message) is node.Reconciled:
        missing = {(a.number, a.attempt) for jobs in event.message.attempts for a in jobs.attempts}
        return [action for action in actions if not _sends(action, missing)]
    return actions


def _sends(action: Any, attempts: set[tuple[int, int]]) -> bool:
    if type(action) is not scheduling.Send or type(action.message) is not node.RunJobs:
        return False
    return any((job.number, job.attempt) in attempts for job in action.message.jobs)


def give_away(machine: ExecutionMachine, decide: Decide, event: Any, now: float) -> list[Any]:
    """A job that a worker has is given back."""
    actions = decide(event, now)
    if type(event) is execution.FromClient and type(event.message) is node.TakeBack:
        computation = machine.state.computations.get((event.client, event.message.computation))
        for worker in computation.workers.values() if computation is not None else ():
            for job in worker.records[0].jobs[:1] if worker.records else ():
                if computation is not None and computation.open.pop(job.number, None) is not None:
                    returned = node.JobsReturned(
                        event.message.computation, [Attempt(job.number, job.attempt)]
                    )
                    return [*actions, execution.Tell(event.client, returned)]
    return actions


def use_no_more(machine: SchedulingMachine, decide: Decide, event: Any, now: float) -> list[Any]:
    """A node gets no new jobs any more when its connection was broken once."""
    actions = decide(event, now)
    if type(event) is scheduling.FromNodeEvent and type(event.message) is node.Reconciled:
        known = machine.state.nodes[event.node]
        known.is_comparing = True
        for placement in known.placements.values():
            note_room(placement)
    return actions


def tell_values_late(machine: SchedulingMachine, decide: Decide, event: Any, now: float) -> list[Any]:
    """A provisional result is told with the next end of a job."""
    actions = decide(event, now)
    late = machine.__dict__.setdefault("late", [])
    values = [action for action in actions if type(action) is scheduling.TellValue]
    kept = [action for action in actions if type(action) is not scheduling.TellValue]
    if late and any(type(action) is scheduling.TellEnded for action in kept):
        kept += [action for action in late if action.node in machine.state.nodes]
        late.clear()
    late += values
    return kept


def forget_cancel(machine: SchedulingMachine, decide: Decide, event: Any, now: float) -> list[Any]:
    """A job that was cancelled is run elsewhere when its node is lost."""
    if type(event) is scheduling.NodeLost and event.node in machine.state.nodes:
        for placement in machine.state.nodes[event.node].placements.values():
            placement.cancelling.clear()
    return decide(event, now)


def note_nothing(machine: ExecutionMachine, decide: Decide, event: Any, now: float) -> list[Any]:
    """A node does not say what else was open when it ended."""
    return [
        execution.NoteOpen(action.client, action.name, [], action.next_batch)
        if type(action) is execution.NoteOpen
        else action
        for action in decide(event, now)
    ]


def acknowledge_at_once(
    journal: ProgramJournal, real: Callable[[Callable[[], None]], None], told: Callable[[], None]
) -> None:
    """Nodes may forget results before the journal has them."""
    told()


def run_all(judge: Judge, real: Callable[[tuple[int, int]], Fate], key: tuple[int, int]) -> Fate:
    """What may have been started is resumed."""
    fate = real(key)
    return Fate(None, is_unstarted=True) if fate.status == node.ABANDONED else fate


def start_without_files(
    machine: ExecutionMachine, decide: Decide, event: Any, now: float
) -> list[execution.Action]:
    """Jobs start without the files that they bring."""
    actions = decide(event, now)
    for action in [action for action in actions if type(action) is execution.StageJob]:
        actions.remove(action)
        actions += decide(execution.JobFilesReady(action.key, action.number, action.attempt), now)
    return actions


def load_without_files(
    machine: ExecutionMachine, decide: Decide, event: Any, now: float
) -> list[execution.Action]:
    """Computations are loaded before their files are there."""
    early = machine.__dict__.setdefault("early", set())
    if type(event) is execution.FilesReady and (event.key, event.life) in early:
        return []
    actions = decide(event, now)
    for action in [action for action in actions if type(action) is execution.StageFiles]:
        early.add((action.key, action.compute.life))
        actions += decide(execution.FilesReady(action.key, action.compute.life), now)
    return actions


def keep_fetching(stager: Stager, real: Callable[..., None], stage: Stage, then: Any = None) -> None:
    """Files are fetched that nobody waits for any more."""
    if then is not None:
        then()


def leave_queued(machine: StagingMachine, decide: Decide, event: Any, now: float) -> list[staging.Action]:
    """What a thread has not begun with is not taken back when nobody wants it any more."""
    state = machine.state
    work = state.stage_work.get(event.stage) if type(event) is staging.Drop else None
    actions = decide(event, now)
    if work is not None and not work.has_begun:
        queue_work(state, work)
        state.stage_work[event.stage] = work
        actions.remove(staging.Dropped(event.stage))
    return actions


def stage_on(machine: ExecutionMachine, decide: Decide, event: Any, now: float) -> list[execution.Action]:
    """The files of jobs that have left before these were here are got all the same."""
    return [action for action in decide(event, now) if type(action) is not execution.UnstageJobs]


def forget_writing(stager: Stager, real: Callable[[ClientId], None], client: ClientId) -> None:
    """What a thread has still to put away does not count any more when its connection is broken."""
    state = stager.machine.state
    state.writing.pop(SupplierId(client), None)
    for write, (supplier, _) in list(state.writes.items()):
        if supplier == client:
            del state.writes[write]
    real(client)


def put_at_once(
    brought: Brought, real: Callable[..., None], entries: list[FileEntry], done: Callable[[str], None]
) -> None:
    """Files that are sent take the place of those that a running job brought."""
    brought._stage(entries, done)


def call_some(session: Session, real: Callable[..., None], done: list[DispyJob], shown: Any) -> None:
    """Of several jobs that end at once the last one is not told to the user's callbacks."""
    real(done[:-1] if len(done) > 1 else done, shown)


def call_twice(session: Session, real: Callable[..., None], done: list[DispyJob], shown: Any) -> None:
    """The user's callbacks are told an end twice."""
    real([*done, *done[:1]], shown)


def swap_results(session: Session, real: Callable[..., None], ended: list[node.Ended], info: Any) -> None:
    """Of two jobs that end at once each gets the other's result."""
    if len(ended) > 1 and ended[0].status == ended[1].status == node.FINISHED:
        first, second = ended[:2]
        first.payload, second.payload = second.payload, first.payload
    real(ended, info)


def hold_on(session: Session, real: Callable[..., None], ended: list[node.Ended], info: Any) -> None:
    """What jobs have needed is not let go when they have ended."""
    before = dict(session.held)
    real(ended, info)
    session.held.update(before)


def tell_another(
    news: News, real: Callable[..., None], number: int, ended: list[node.Ended], found: Any
) -> None:
    """An end goes to a job that has the same number in another cluster."""
    for other, session in news.sessions.items():
        if other != number and ended[0].number in session.jobs:
            number = other
            break
    real(number, ended, found)


def wait_for_none(recovery: Recovery, real: Callable[[], bool]) -> bool:
    """Nodes are told to forget while jobs are running there."""
    return recovery.is_told()


def charge_nothing(accounts: Any, decide: Callable[..., Any], *arguments: Any) -> None:
    """Jobs are not charged to their computations."""


def send_nothing_again(channel: Any, decide: Callable[..., Any], line: Any, received: int) -> None:
    """What was sent before does not count as lost."""
    kept = list(channel._sent.kept)
    channel._sent.kept.clear()
    decide(line, received)
    channel._sent.kept.extend(kept)


def number_by_program(hub: Any, decide: Callable[..., Any]) -> int:
    """Each program numbers its computations on nodes from 1."""
    return max(len(program.clusters) for program in hub.programs.values()) + 1


def tell_another_program(news: Any, decide: Callable[..., Any], action: Any, found: Any) -> None:
    """Ends are told to the program that came last and has a cluster of that number."""
    others = [each for each, known in news._programs.items() if action.computation in known.clusters]
    action.client = others[-1] if others else action.client
    decide(action, found)


def forget_nothing(hub: Any, decide: Callable[..., Any], program: Any, why: str) -> None:
    """A program whose lease is over stays."""
    if program.connection is not None or why != "its lease is over":
        decide(program, why)


def seek_once(search: Any, decide: Callable[..., Any], cluster: Any) -> None:
    """Only the first beacon of a search is sent."""
    decide(cluster)
    if search._seekers is not None and search._seekers._timer is not None:
        search._seekers._timer.cancel()


def reopen_without_objects(remote: Any, decide: Callable[..., Any], spec: Any) -> None:
    """Objects are not put again."""
    objects, remote._objects = remote._objects, {key: {} for key in remote._objects}
    decide(spec)
    remote._objects = objects


MUTATIONS = [
    Mutation(
        "a job is run twice after a reconnect",
        ExecutionMachine,
        forget_results,
        ("started twice",),
        first=1,
    ),
    Mutation("a final status is told twice", SchedulingMachine, tell_again, ("is told twice",)),
    Mutation("a slot is leaked", ExecutionMachine, leak_slot, ("CPUs are said to be busy",), first=2),
    Mutation("results are never released", ExecutionMachine, never_release, ("keeps", "hold on")),
    Mutation(
        "a result is lost with its connection",
        ExecutionMachine,
        lose_results,
        ("do not end", "batches"),
        first=7,
    ),
    Mutation(
        "what must not run twice is run elsewhere",
        SchedulingMachine,
        run_again,
        ("started twice",),
        first=10,
    ),
    Mutation(
        "a job is lost with its connection",
        SchedulingMachine,
        send_once,
        ("do not end", "wait for"),
        first=1,
    ),
    Mutation(
        "a running job is given back", ExecutionMachine, give_away, ("started twice", "are there"), first=1
    ),
    Mutation(
        "a job waits while a CPU is free",
        SchedulingMachine,
        use_no_more,
        ("while a CPU is idle", "do not end"),
    ),
    Mutation(
        "a value is told after the end",
        SchedulingMachine,
        tell_values_late,
        ("provisional result", "not seen"),
    ),
    Mutation(
        "a cancelled job is run elsewhere",
        SchedulingMachine,
        forget_cancel,
        ("was cancelled",),
        first=2,
        climate="deaths",
    ),
    Mutation(
        "results are acknowledged before the journal has them",
        ProgramJournal,
        acknowledge_at_once,
        ("as never started, and it was", "started twice", "is returned as", "is not returned"),
        first=27,
        climate="recoveries",
        method="_after_note",
    ),
    Mutation(
        "what may have been started is resumed",
        Judge,
        run_all,
        ("as never started, and it was", "started twice"),
        first=1,
        climate="recoveries",
        method="fate",
    ),
    Mutation(
        "what was lost with a node is not noted",
        ExecutionMachine,
        note_nothing,
        ("as never started, and it was", "started twice"),
        first=32,
        climate="recoveries",
    ),
    Mutation(
        "a recovery does not wait for jobs that run",
        Recovery,
        wait_for_none,
        ("nobody cancelled it", "is killed for another", "is not returned", "is returned as"),
        first=2,
        climate="recoveries",
        method="is_over",
    ),
    Mutation(
        "a job starts without its files",
        ExecutionMachine,
        start_without_files,
        ("of its files",),
        climate="files",
    ),
    Mutation(
        "a computation is loaded without its files",
        ExecutionMachine,
        load_without_files,
        ("of the files of its computation",),
        climate="files",
    ),
    Mutation(
        "files are fetched for what has left",
        Stager,
        keep_fetching,
        ("hold on", "keeps", "do not end"),
        first=3,
        climate="files",
        method="drop",
    ),
    Mutation(
        "threads look for files of what has left",
        StagingMachine,
        leave_queued,
        ("that nobody wants",),
        first=8,
        climate="files",
    ),
    Mutation(
        "files are fetched for jobs that have left",
        ExecutionMachine,
        stage_on,
        ("which does not wait for them",),
        first=2,
        climate="files",
    ),
    Mutation(
        "after a reconnect too much of files is asked for",
        Stager,
        forget_writing,
        ("bytes of pieces",),
        first=14,
        climate="files",
        method="on_lost",
    ),
    Mutation(
        "a file that is sent replaces that of a job",
        Brought,
        put_at_once,
        ("of its files", "of the files of its computation", "keeps"),
        first=22,
        climate="files",
        method="put",
    ),
]

MUTATIONS += [
    Mutation(
        "an end is not told to callbacks",
        completion,
        call_some,
        ("not told its end", "not shown its end"),
        method="_call_back",
    ),
    Mutation(
        "an end is told twice to callbacks",
        completion,
        call_twice,
        ("is told after its end", "after Finished"),
        method="_call_back",
    ),
    Mutation(
        "a job has the result of another one",
        completion,
        swap_results,
        ("not its own",),
        method="on_ended",
    ),
    Mutation(
        "files of jobs that have ended are held",
        completion,
        hold_on,
        ("holders of what jobs need",),
        first=2,
        climate="files",
        method="on_ended",
    ),
    Mutation(
        "an end is told to a job of another cluster",
        News,
        tell_another,
        ("its cluster was told nothing", "jobs in its session", "not its own"),
        method="on_ended",
    ),
    Mutation(
        "CPU time is not charged",
        accounts,
        charge_nothing,
        ("is counted wrong",),
        climate="tenants",
        method="charge",
    ),
    Mutation(
        "news that is lost with a connection is not sent again",
        Channel,
        send_nothing_again,
        ("jobs do not end", "in its session", "came after", "wait for", "keeps"),
        climate="scheduler",
        method="resume",
    ),
    Mutation(
        "computations of two programs have one number on nodes",
        Hub,
        number_by_program,
        ("two computations have the number",),
        climate="tenants",
        method="new_wire",
    ),
    Mutation(
        "news goes to another program",
        SharedNews,
        tell_another_program,
        (
            "KeyError",
            "not its own",
            "never begun",
            "jobs do not end",
            "in its session",
            "twice",
            "finished",
        ),
        climate="tenants",
        method="on_ended",
    ),
    Mutation(
        "a program seeks nodes once",
        NetworkSearch,
        seek_once,
        ("jobs do not end", "wait for"),
        climate="seeking",
        method="seek",
    ),
    Mutation(
        "what belongs to a program is kept when its lease is over",
        Hub,
        forget_nothing,
        ("holds on to", "wait for", "jobs do not end"),
        climate="tenants",
        method="_forget",
    ),
    Mutation(
        "a scheduler that was started anew does not have objects",
        Remote,
        reopen_without_objects,
        ("does not find object",),
        climate="scheduler",
        method="_send_open",
    ),
]


@contextmanager
def applied(mutation: Mutation) -> Iterator[None]:
    """Machines made now are the broken ones."""
    kind = mutation.kind
    real = getattr(kind, mutation.method)

    def handle(machine: Any, *arguments: Any) -> Any:
        return mutation.handle(machine, partial(real, machine), *arguments)

    setattr(kind, mutation.method, handle)
    try:
        yield
    finally:
        setattr(kind, mutation.method, real)


def find(mutation: Mutation, worlds_max: int = WORLDS_MAX) -> tuple[int, Outcome | None]:
    """Play worlds until one fails; returns how many, and what came of that one (None: they are all well)."""
    seeds = [mutation.first, *(seed for seed in range(worlds_max - 1) if seed != mutation.first)]
    with applied(mutation):
        for count, seed in enumerate(seeds, 1):
            outcome = run_seed(seed, climate=mutation.climate)
            if outcome.failure is not None:
                return count, outcome
    return len(seeds), None


def is_named(mutation: Mutation, outcome: Outcome) -> bool:
    """Whether what failed is what is broken."""
    return any(text in (outcome.failure or "") for text in mutation.finds)
