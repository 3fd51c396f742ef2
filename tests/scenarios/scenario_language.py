"""The language of scenarios: one command a line in, one action a line out.

Names stand for themselves: computations ``c1``, workers ``w1``, records ``r1``; nodes and clients any
word. A job is its number, ``7``, or ``7.1`` for its second attempt (the first is ``7.0``, written ``7``);
``3-6`` are four jobs. A position is record and index: ``r2/0``. Of several clients, numbers from 0, ``c1@7`` is
computation 1 of client 7, and ``c1`` that of client 0. Nodes know it as ``c1``, or as it is named by ``as=``.

Scheduling::

    node NODE cpus=N              back NODE [forgotten]       silent NODE      lost NODE
    computation C [reentrant] [as=C]                          allocate C NODE CPUS [draining]
    close C
    vacate C NODE [terminate] [returns]
    submit C JOBS... [on=NODE]    cancel C JOBS...            tick SECONDS
    ready NODE C [life=N]         failed NODE C [REASON...]   credit NODE C SLOTS+BACKLOG
    started NODE C JOBS...        ended NODE C JOBS... [status=WORD]           cpus NODE N
    returned NODE C [JOBS...] [because=WORD]                  value NODE C JOB
    reconciled NODE [C:JOBS...] [missing=C]
    watch C JOBS...               unwatch C JOBS...           printed NODE C JOBS...
    files NODE C HERE/ALL         noroom NODE C OBJECT        put C OBJECT     limit NODE CPUS
    taken C NODE JOB              seen C NODE SERIAL          shortage NODE C REASON...
    views: from here on the trace has what clients are told of placements, too

Execution::

    attach CLIENT [received=N]    silent CLIENT               detach CLIENT    cpus N    drain
    compute CLIENT C [exclusive] [live] [per_worker]          close CLIENT C      ack CLIENT BATCH
    limit CLIENT N
    loaded CLIENT C               unloadable CLIENT C         dead CLIENT C [WORKER@POSITION...]
    run CLIENT C JOBS... [watched=JOBS]                       takeback CLIENT C COUNT
    cancel CLIENT C JOBS...
    refused CLIENT C JOB REASON   reconcile CLIENT [C:JOBS...] [of=C,C]
    ran WORKER RECORD JOBS... [took=SECONDS] [more] [retiring] [upto=N]
    recalled WORKER [RECORDS...]  exited WORKER POSITION      tick SECONDS [WORKER@POSITION...]
    value WORKER JOB              passed CLIENT C JOB         flush
    stored CLIENT BATCHES...      recover CLIENT C...         stopping [CLIENTS...]
    restored CLIENT C [JOBS...] [lost=JOBS|?] [from=N]        ended jobs, a batch each, from batch N on
    watch CLIENT C JOBS...        unwatch CLIENT C JOBS...    seen CLIENT C
    looked CLIENT C [WORKER@POSITION:AT+SIZE...]              dying WORKER POSITION
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dispy.core import execution as execution
from dispy.core import scheduling as scheduling
from dispy.core.execution import Machine as ExecutionMachine
from dispy.core.execution.ids import WorkerId
from dispy.core.scheduling import Machine as SchedulingMachine
from dispy.core.scheduling.ids import NodeId
from dispy.protocol import node
from dispy.protocol.node import Attempt, Compute, Ended, Job, Started
from dispy.protocol.views import PlacementView
from dispy.protocol.worker import claim, split_claim

STATUSES = {8: "cancelled", 9: "terminated", 10: "abandoned", 11: "finished"}
STATUS_BY_NAME = {name: number for number, name in STATUSES.items()}


class Words:
    """The words of a command: plain ones in order, ``name=value`` ones by name."""

    def __init__(self, words: list[str]) -> None:
        self.plain = [word for word in words if "=" not in word]
        self.named = dict(word.split("=", 1) for word in words if "=" in word)

    def take(self) -> str:
        return self.plain.pop(0)

    def flag(self, name: str) -> bool:
        if name in self.plain:
            self.plain.remove(name)
            return True
        return False

    def number(self) -> int:
        return number_of(self.take())

    def key(self) -> scheduling.Key:
        """``c1`` is computation 1 of client 0, ``c1@7`` that of client 7."""
        name, _, client = self.take().partition("@")
        return scheduling.ClientId(int(client or 0)), number_of(name)

    def attempts(self) -> list[Attempt]:
        found = []
        for word in self.plain:
            number, _, attempt = word.partition(".")
            first, _, last = number.partition("-")
            found += [Attempt(n, int(attempt or 0)) for n in range(int(first), int(last or first) + 1)]
        return found

    def held(self) -> list[node.HeldJobs]:
        """``c2:3`` is job 3 of computation 2, ``3`` that of computation 1."""
        found: dict[int, list[Attempt]] = {}
        for word in self.plain:
            name, _, job = word.rpartition(":")
            found.setdefault(number_of(name or "c1"), []).extend(Words([job]).attempts())
        return [node.HeldJobs(number, attempts) for number, attempts in found.items()]

    def jobs(self) -> list[Job]:
        return [Job(attempt.number, attempt.attempt, b"x") for attempt in self.attempts()]


def number_of(name: str) -> int:
    """``c3``, ``w3`` and ``r3`` are 3."""
    return int(name[1:])


def position_of(text: str) -> int:
    """``r2/0`` as a claim; ``-`` is none."""
    if text == "-":
        return 0
    record, index = text.split("/")
    return claim(number_of(record), int(index))


def show_position(position: int) -> str:
    """A claim as ``r2/0``."""
    record, index = split_claim(position)
    return f"r{record}/{index}"


def show(attempts: list[Any]) -> str:
    """Jobs or attempts by their names."""
    return " ".join(f"{a.number}.{a.attempt}" if a.attempt else f"{a.number}" for a in attempts)


def show_ended(ended: list[Ended]) -> str:
    """Results; the reason of the first stands for all."""
    text = ", ".join(f"{show([e])} {STATUSES[e.status]}" for e in ended)
    return text + (f" ({ended[0].reason})" if ended[0].reason else "")


def show_to_node(message: Any) -> str:
    """What a scheduler says."""
    match message:
        case node.RunJobs(number, jobs, watched):
            asked = f", watched {' '.join(map(str, watched))}" if watched else ""
            return f"RunJobs c{number}: {show(jobs)}{asked}"
        case node.WatchJobs(number, jobs, is_wanted):
            return f"WatchJobs c{number}: {' '.join(map(str, jobs))}" + (
                "" if is_wanted else ", not any more"
            )
        case node.CancelJobs(number, attempts):
            return f"CancelJobs c{number}: {show(attempts)}"
        case node.TakeBack(number, count):
            return f"TakeBack c{number}: {count}"
        case node.Acknowledge(batch):
            return f"Acknowledge {batch}"
        case node.AcknowledgeProvisional(number, job, attempt, serial):
            return f"AcknowledgeProvisional c{number}: {show([Attempt(job, attempt)])} #{serial}"
        case node.LimitCpus(cpus):
            return f"LimitCpus {cpus}"
        case node.Reconcile(attempts, computations):
            return f"Reconcile {show_held(attempts)} of {show_computations(computations)}"
        case _:
            return f"{type(message).__name__} c{message.computation}"


def show_from_node(message: Any) -> str:
    """What a node says."""
    match message:
        case node.Credit(number, slots, backlog, reason):
            return f"Credit c{number}: {slots}+{backlog}" + (f" ({reason})" if reason else "")
        case node.NodeCredit(slots, waiting, reason):
            return f"NodeCredit {slots}+{waiting}" + (f" ({reason})" if reason else "")
        case node.JobsStarted(number, started):
            return f"JobsStarted c{number}: {show(started)}"
        case node.JobsEnded(batch, number, ended):
            return f"JobsEnded #{batch} c{number}: {show_ended(ended)}"
        case node.JobsReturned(number, attempts, reason):
            return f"JobsReturned c{number}: {show(attempts) or '-'}" + (f" ({reason})" if reason else "")
        case node.Provisional(number, job, attempt, serial):
            return f"Provisional c{number}: {show([Attempt(job, attempt)])} #{serial}"
        case node.Reconciled(attempts, computations):
            return f"Reconciled unknown {show_held(attempts)}, missing {show_computations(computations)}"
        case node.Held(held, batches, lost, has_gaps):
            more = ", perhaps more" if has_gaps else ""
            return f"Held open {show_held(held)}, batches {batches}, lost {show_held(lost)}{more}"
        case node.ComputationFailed(number, reason):
            return f"ComputationFailed c{number} ({reason})"
        case node.NodeCpus(cpus, reason):
            return f"NodeCpus {cpus}" + (f" ({reason})" if reason else "")
        case node.JobsPrinted(number, printed):
            return f"JobsPrinted c{number}: {', '.join(map(show_printed, printed))}"
        case _:
            return f"{type(message).__name__} c{message.computation}"


def show_printed(printed: node.Printed) -> str:
    """What of a job's output is told."""
    begins = " begins" if printed.begins else ""
    return f"{show([printed])}{begins} {printed.stdout_at}+{len(printed.stdout)}"


def show_held(held: list[node.HeldJobs]) -> str:
    """Jobs by computation."""
    return ", ".join(f"c{jobs.computation} {show(jobs.attempts)}" for jobs in held) or "-"


def show_computations(numbers: Iterable[int]) -> str:
    """Computations by their names."""
    return ",".join(f"c{number}" for number in numbers) or "-"


def show_view(view: PlacementView) -> str:
    """What a client is told of a placement."""
    limit = f" (limit {view.node_cpus_max})" if view.node_cpus_max is not None else ""
    said = [view.status.value, f"CPUs {view.cpus_max}{limit}", f"slots {view.slots}"]
    said += (
        ["open"] * view.is_open + ["returns"] * view.returns + ["not connected"] * (not view.is_connected)
    )
    said += [text for text in (view.reason, view.shortage, view.progress) if text]
    return ", ".join(said)


def show_client(client: scheduling.ClientId) -> str:
    """A client by its number; the first has none."""
    return f"client {client}" if client else "client"


class Player:
    """Gives commands to a machine; its methods ``do_<command>`` return events."""

    now = 0.0
    shows_views = False
    """Whether the trace has what clients are told of placements: stories about jobs are shorter without."""

    def play(self, commands: list[str]) -> list[str]:
        """Do some commands; returns the trace."""
        trace = []
        for command in commands:
            name, *words = command.split("#")[0].split()
            handler = getattr(self, f"do_{name}", None)
            if handler is None:
                raise ValueError(f"no command {name!r}")
            event = handler(Words(words))
            actions = self.handle(event) if event is not None else []
            trace += [text for text in map(self.show, actions) if text]
        return trace

    def handle(self, event: Any) -> list[Any]:
        raise NotImplementedError

    def show(self, action: Any) -> str:
        raise NotImplementedError


class Scheduling(Player):
    """Plays scenarios of the scheduling machine."""

    def __init__(self) -> None:
        self.machine = SchedulingMachine()
        self.batch = 0

    def handle(self, event: Any) -> list[Any]:
        return list(self.machine.handle(event, self.now))

    def show(self, action: Any) -> str:
        match action:
            case scheduling.Send(known, message):
                return f"{known.decode()} <- {show_to_node(message)}"
            case scheduling.TellEnded(client, number, known, ended):
                return f"{show_client(client)}: ended c{number} on {known.decode()}: {show_ended(ended)}"
            case scheduling.TellEndedHere(client, number, numbers, status, reason):
                what = ", ".join(f"{job} {STATUSES[status]}" for job in numbers)
                return f"{show_client(client)}: ended c{number}: {what} ({reason})"
            case scheduling.TellPlacement(client, number, known, view):
                return (
                    f"{show_client(client)}: c{number} on {known.decode()}: {show_view(view)}"
                    * self.shows_views
                )
            case scheduling.TellStarted(client, number, known, started):
                return f"{show_client(client)}: started c{number} on {known.decode()}: {show(started)}"
            case scheduling.TellRequeued(client, number, numbers):
                return f"{show_client(client)}: requeued c{number}: {' '.join(map(str, numbers))}"
            case scheduling.TellValue(client, number, known, value):
                return f"{show_client(client)}: value c{number} on {known.decode()}: {show([value])} #{value.serial}"
            case scheduling.TellPrinted(client, number, known, printed, serial):
                what = ", ".join(map(show_printed, printed))
                return f"{show_client(client)}: printed c{number} on {known.decode()}: {what} (#{serial})"
            case scheduling.TellNode(client, number, known, is_usable, reason):
                state = "usable" if is_usable else f"not usable ({reason})" if reason else "closed"
                return f"{show_client(client)}: {known.decode()} is {state} for c{number}"
            case scheduling.TellVacated(client, number, known):
                return f"{show_client(client)}: {known.decode()} is vacated by c{number}"
        raise AssertionError(action)

    def said(self, name: str, message: node.FromNode) -> scheduling.FromNodeEvent:
        return scheduling.FromNodeEvent(NodeId(name.encode()), message)

    def do_node(self, words: Words) -> scheduling.NodeUp:
        name = words.take()
        return scheduling.NodeUp(NodeId(name.encode()), name, int(words.named["cpus"]), False)

    def do_back(self, words: Words) -> scheduling.NodeUp:
        name = words.take()
        return scheduling.NodeUp(NodeId(name.encode()), name, 1, not words.flag("forgotten"))

    def do_silent(self, words: Words) -> scheduling.NodeSilent:
        return scheduling.NodeSilent(NodeId(words.take().encode()))

    def do_lost(self, words: Words) -> scheduling.NodeLost:
        return scheduling.NodeLost(NodeId(words.take().encode()), "node lost")

    def do_computation(self, words: Words) -> scheduling.AddComputation:
        is_reentrant = words.flag("reentrant")
        client, number = words.key()
        wire = number_of(words.named["as"]) if "as" in words.named else number
        is_exclusive = words.flag("exclusive")
        return scheduling.AddComputation(
            client, number, Compute(wire, "f", b""), is_reentrant, is_exclusive
        )

    def do_policy(self, words: Words) -> None:
        self.machine = SchedulingMachine(scheduling.Policy(words.take()))

    def do_client(self, words: Words) -> scheduling.AddClient:
        return scheduling.AddClient(scheduling.ClientId(int(words.take())), words.named.get("user", ""))

    def do_leaves(self, words: Words) -> scheduling.RemoveClient:
        return scheduling.RemoveClient(scheduling.ClientId(int(words.take())))

    def do_user(self, words: Words) -> scheduling.LimitUser:
        cpus = words.named.get("cpus")
        weight = float(words.named.get("weight", "1"))
        return scheduling.LimitUser(words.take(), weight, int(cpus) if cpus else None)

    def do_quota(self, words: Words) -> scheduling.LimitClient:
        client, name, cpus = words.take(), words.take(), words.take()
        return scheduling.LimitClient(scheduling.ClientId(int(client)), NodeId(name.encode()), int(cpus))

    def do_close(self, words: Words) -> scheduling.CloseComputation:
        return scheduling.CloseComputation(*words.key())

    def do_allocate(self, words: Words) -> scheduling.Allocate:
        is_draining = words.flag("draining")
        key, name, cpus = words.key(), words.take(), int(words.take())
        return scheduling.Allocate(*key, NodeId(name.encode()), cpus, is_draining)

    def do_vacate(self, words: Words) -> scheduling.Vacate:
        terminate, returns = words.flag("terminate"), words.flag("returns")
        return scheduling.Vacate(*words.key(), NodeId(words.take().encode()), terminate, returns)

    def do_submit(self, words: Words) -> scheduling.SubmitJobs:
        where = words.named.get("on")
        key = words.key()
        return scheduling.SubmitJobs(*key, words.jobs(), NodeId(where.encode()) if where else None)

    def do_cancel(self, words: Words) -> scheduling.CancelJobs:
        key = words.key()
        return scheduling.CancelJobs(*key, [attempt.number for attempt in words.attempts()])

    def do_tick(self, words: Words) -> scheduling.Tick:
        self.now += float(words.take())
        return scheduling.Tick()

    def do_ready(self, words: Words) -> scheduling.FromNodeEvent:
        life = int(words.named.get("life", "0"))
        return self.said(words.take(), node.ComputationReady(words.number(), life))

    def do_failed(self, words: Words) -> scheduling.FromNodeEvent:
        name, number = words.take(), words.number()
        return self.said(name, node.ComputationFailed(number, " ".join(words.plain) or "cannot load"))

    def do_credit(self, words: Words) -> scheduling.FromNodeEvent:
        name, number = words.take(), words.number()
        slots, backlog = words.take().split("+")
        expected_us = int(words.named.get("us", "0"))
        return self.said(name, node.Credit(number, int(slots), int(backlog), "", expected_us))

    def do_slots(self, words: Words) -> scheduling.FromNodeEvent:
        name = words.take()
        slots, waiting = words.take().split("+")
        return self.said(name, node.NodeCredit(int(slots), int(waiting), " ".join(words.plain)))

    def do_started(self, words: Words) -> scheduling.FromNodeEvent:
        name, number = words.take(), words.number()
        started = [Started(attempt.number, attempt.attempt, 0.0) for attempt in words.attempts()]
        return self.said(name, node.JobsStarted(number, started))

    def do_ended(self, words: Words) -> scheduling.FromNodeEvent:
        name, number = words.take(), words.number()
        status = STATUS_BY_NAME[words.named.get("status", "finished")]
        ended = [
            Ended(attempt.number, attempt.attempt, status, 0.0, 0.0, b"") for attempt in words.attempts()
        ]
        self.batch += 1
        return self.said(name, node.JobsEnded(self.batch, number, ended))

    def do_returned(self, words: Words) -> scheduling.FromNodeEvent:
        name, number = words.take(), words.number()
        message = node.JobsReturned(number, words.attempts(), words.named.get("because", ""))
        return self.said(name, message)

    def do_value(self, words: Words) -> scheduling.FromNodeEvent:
        name, number = words.take(), words.number()
        job = words.attempts()[0]
        return self.said(name, node.Provisional(number, job.number, job.attempt, 1, b"v"))

    def do_watch(self, words: Words) -> scheduling.WatchJobs:
        key = words.key()
        return scheduling.WatchJobs(*key, [attempt.number for attempt in words.attempts()])

    def do_unwatch(self, words: Words) -> scheduling.WatchJobs:
        event = self.do_watch(words)
        event.is_wanted = False
        return event

    def do_views(self, words: Words) -> None:
        self.shows_views = True

    def do_limit(self, words: Words) -> scheduling.LimitNode:
        return scheduling.LimitNode(NodeId(words.take().encode()), int(words.take()))

    def do_shortage(self, words: Words) -> scheduling.FromNodeEvent:
        name, number = words.take(), words.number()
        return self.said(name, node.Credit(number, 0, 0, " ".join(words.plain)))

    def do_files(self, words: Words) -> scheduling.FromNodeEvent:
        name, number = words.take(), words.number()
        here, most = map(int, words.take().split("/"))
        return self.said(name, node.FilesProgress(number, here, most, here * 1000, most * 1000))

    def do_put(self, words: Words) -> scheduling.PutObject:
        client, number = words.key()
        return scheduling.PutObject(client, node.PutObject(number, int(words.take()), b"x"))

    def do_noroom(self, words: Words) -> scheduling.FromNodeEvent:
        name, number = words.take(), words.number()
        return self.said(name, node.ObjectStored(number, int(words.take()), "no room", again=True))

    def do_printed(self, words: Words) -> scheduling.FromNodeEvent:
        name, number = words.take(), words.number()
        printed = [node.Printed(a.number, a.attempt, False, 0, b"text", 0, b"") for a in words.attempts()]
        return self.said(name, node.JobsPrinted(number, printed))

    def do_taken(self, words: Words) -> scheduling.AnswerValue:
        client, number = words.key()
        name = NodeId(words.take().encode())
        job = words.attempts()[0]
        told = node.AcknowledgeProvisional(number, job.number, job.attempt, 1)
        return scheduling.AnswerValue(client, name, told)

    def do_seen(self, words: Words) -> scheduling.AnswerPrinted:
        return scheduling.AnswerPrinted(*words.key(), NodeId(words.take().encode()), int(words.take()))

    def do_reconciled(self, words: Words) -> scheduling.FromNodeEvent:
        name = words.take()
        missing = [number_of(c) for c in words.named.get("missing", "").split(",") if c]
        return self.said(name, node.Reconciled(words.held(), missing))

    def do_cpus(self, words: Words) -> scheduling.FromNodeEvent:
        return self.said(words.take(), node.NodeCpus(int(words.take())))


class Execution(Player):
    """Plays scenarios of the execution machine, of a node with two CPUs."""

    def __init__(self) -> None:
        self.machine = ExecutionMachine(2, lease_s=100.0)

    def handle(self, event: Any) -> list[Any]:
        return list(self.machine.handle(event, self.now))

    def show(self, action: Any) -> str:
        match action:
            case execution.Tell(client, message):
                return f"{client.decode()} <- {show_from_node(message)}"
            case execution.StartHost((client, number), _, delay_s):
                return f"{client.decode()}/c{number}: start host" + f" in {delay_s:g} s" * (delay_s > 0)
            case execution.StopHost((client, number)):
                return f"{client.decode()}/c{number}: stop host"
            case execution.Release((client, number), segments):
                return f"{client.decode()}/c{number}: release {segments}"
            case execution.ForkWorker((client, number), worker):
                return f"w{worker}: fork for {client.decode()}/c{number}"
            case execution.Offer(worker, record):
                return f"w{worker}: offer r{record.record}: {show(record.jobs)}" + " (live)" * record.live
            case execution.Recall(worker):
                return f"w{worker}: recall"
            case execution.Cut(worker, position):
                return f"w{worker}: cut before {show_position(position)}"
            case execution.InterruptWorker(worker, position):
                return f"w{worker}: interrupt {show_position(position)}"
            case execution.KillWorker(worker):
                return f"w{worker}: kill"
            case execution.EndWorker(worker):
                return f"w{worker}: end"
            case execution.Look((client, number), places):
                at = [f"w{p.worker}@{show_position(p.position)}:{p.stdout_at}" for p in places]
                return f"{client.decode()}/c{number}: look at {' '.join(at)}"
            case execution.Unbuffer(worker, position):
                return f"w{worker}: unbuffer {show_position(position)}"
            case execution.FlushSoon():
                return "flush soon"
            case execution.Drained():
                return "drained"
            case execution.Store(client, _, batch):
                return f"store {client.decode()} {show_from_node(batch)}"
            case execution.NoteOpen(client, _, jobs, _):
                return f"note open {client.decode()}: {show_held(jobs)}"
            case execution.DropNote(client):
                return f"drop note {client.decode()}"
            case execution.TellStored(client, batch):
                return f"{client.decode()} <- stored #{batch.batch}"
            case execution.Erase(client, batches, gone):
                return f"erase {client.decode()}: {'all' if gone else batches}"
            case execution.Pass(worker, message):
                word = "delivered" if message.delivered else "dropped"
                return f"w{worker}: value #{message.serial} of {show([message])} {word}"
        raise AssertionError(action)

    def client(self, words: Words) -> execution.ClientId:
        return execution.ClientId(words.take().encode())

    def key(self, words: Words) -> execution.Key:
        return (self.client(words), words.number())

    def do_attach(self, words: Words) -> execution.ClientAttached:
        client = self.client(words)
        received = int(words.named.get("received", 0))
        return execution.ClientAttached(client, f"{client.decode()}.py", received)

    def do_silent(self, words: Words) -> execution.ClientSilent:
        return execution.ClientSilent(self.client(words))

    def do_detach(self, words: Words) -> execution.FromClient:
        return execution.FromClient(self.client(words), node.Detach())

    def do_cpus(self, words: Words) -> execution.CpusChanged:
        return execution.CpusChanged(int(words.take()))

    def do_drain(self, words: Words) -> execution.Drain:
        return execution.Drain()

    def do_compute(self, words: Words) -> execution.FromClient:
        is_exclusive = words.flag("exclusive")
        is_live = words.flag("live")
        per_worker = words.flag("per_worker")
        client, number = self.key(words)
        message = Compute(
            number, "f", b"", grace_s=5.0, exclusive=is_exclusive, live=is_live, setup_per_worker=per_worker
        )
        return execution.FromClient(client, message)

    def do_limit(self, words: Words) -> execution.FromClient:
        return execution.FromClient(self.client(words), node.LimitCpus(int(words.take())))

    def do_close(self, words: Words) -> execution.FromClient:
        client, number = self.key(words)
        return execution.FromClient(client, node.CloseComputation(number))

    def do_ack(self, words: Words) -> execution.FromClient:
        return execution.FromClient(self.client(words), node.Acknowledge(int(words.take())))

    def do_loaded(self, words: Words) -> execution.HostReady:
        return execution.HostReady(self.key(words))

    def do_unloadable(self, words: Words) -> execution.HostFailed:
        return execution.HostFailed(self.key(words), "no module named x")

    def do_dead(self, words: Words) -> execution.HostFailed:
        key = self.key(words)
        exits = [self.exit(word) for word in words.plain]
        return execution.HostFailed(key, "the host died", exits, has_died=True)

    def exit(self, word: str) -> execution.WorkerExited:
        worker, position = word.split("@")
        return execution.WorkerExited(
            WorkerId(number_of(worker)), "the worker died", position_of(position), 1.0, 2.0, []
        )

    def do_exited(self, words: Words) -> execution.WorkerExited:
        return self.exit(f"{words.take()}@{words.take()}")

    def do_run(self, words: Words) -> execution.FromClient:
        client, number = self.key(words)
        watched = [int(job) for job in words.named.get("watched", "").split(",") if job]
        return execution.FromClient(client, node.RunJobs(number, words.jobs(), watched))

    def do_cancel(self, words: Words) -> execution.FromClient:
        client, number = self.key(words)
        return execution.FromClient(client, node.CancelJobs(number, words.attempts()))

    def do_takeback(self, words: Words) -> execution.FromClient:
        client, number = self.key(words)
        return execution.FromClient(client, node.TakeBack(number, int(words.take())))

    def do_refused(self, words: Words) -> execution.JobRefused:
        return execution.JobRefused(self.key(words), int(words.take()), 0, " ".join(words.plain))

    def do_reconcile(self, words: Words) -> execution.FromClient:
        client = self.client(words)
        known = [number_of(c) for c in words.named.get("of", "").split(",") if c]
        return execution.FromClient(client, node.Reconcile(words.held(), dict.fromkeys(known, 0)))

    def do_stored(self, words: Words) -> execution.Stored:
        client = self.client(words)
        return execution.Stored(client, [int(word) for word in words.plain])

    def do_recover(self, words: Words) -> execution.FromClient:
        client = self.client(words)
        return execution.FromClient(client, node.Recover([number_of(word) for word in words.plain]))

    def do_stopping(self, words: Words) -> execution.Stopping:
        return execution.Stopping([execution.ClientId(word.encode()) for word in words.plain])

    def do_restored(self, words: Words) -> execution.Restored:
        client, number = self.key(words)
        batch = int(words.named.get("from", 1))
        batches = []
        for attempt in words.attempts():
            ended = Ended(attempt.number, attempt.attempt, node.FINISHED, 0.0, 0.0, b"")
            batches.append(node.JobsEnded(batch, number, [ended]))
            batch += 1
        lost = Words([words.named["lost"]]).attempts() if words.named.get("lost", "?") != "?" else []
        held = [node.HeldJobs(number, lost)] if lost else []
        has_gaps = words.named.get("lost") == "?"
        return execution.Restored(client, "client", batches, batch, held, [b"before"], has_gaps)

    def do_ran(self, words: Words) -> execution.Ran:
        is_last, is_retiring = not words.flag("more"), words.flag("retiring")
        worker, record = words.number(), words.number()
        took = float(words.named.get("took", 1.0))
        attempts = words.attempts()
        executed = int(words.named.get("upto", len(attempts)))
        ended = [Ended(a.number, a.attempt, node.FINISHED, 0.0, took, b"") for a in attempts]
        return execution.Ran(WorkerId(worker), record, executed, is_last, is_retiring, ended)

    def do_recalled(self, words: Words) -> execution.Recalled:
        worker = WorkerId(words.number())
        return execution.Recalled(worker, [number_of(record) for record in words.plain])

    def do_tick(self, words: Words) -> execution.Tick:
        self.now += float(words.take())
        places = [word.split("@") for word in words.plain]
        return execution.Tick({WorkerId(number_of(w)): (position_of(at), 1.0) for w, at in places})

    def do_watch(self, words: Words) -> execution.FromClient:
        client, number = self.key(words)
        numbers = [attempt.number for attempt in words.attempts()]
        return execution.FromClient(client, node.WatchJobs(number, numbers))

    def do_unwatch(self, words: Words) -> execution.FromClient:
        event = self.do_watch(words)
        event.message.is_wanted = False  # type: ignore[union-attr]
        return event

    def do_seen(self, words: Words) -> execution.FromClient:
        client, number = self.key(words)
        return execution.FromClient(client, node.AcknowledgePrinted(number))

    def do_looked(self, words: Words) -> execution.Looked:
        key = self.key(words)
        glimpses = []
        for word in words.plain:
            worker, place = word.split("@")
            position, text = place.split(":")
            at, size = map(int, text.split("+"))
            glimpse = (WorkerId(number_of(worker)), position_of(position), at, b"x" * size, 0, b"")
            glimpses.append(execution.Glimpse(*glimpse))
        return execution.Looked(key, glimpses)

    def do_dying(self, words: Words) -> execution.WorkerDying:
        return execution.WorkerDying(WorkerId(words.number()), position_of(words.take()))

    def do_flush(self, words: Words) -> execution.Flush:
        return execution.Flush()

    def do_value(self, words: Words) -> execution.ValueSent:
        worker = WorkerId(words.number())
        job = words.attempts()[0]
        return execution.ValueSent(worker, job.number, job.attempt, 1, b"v", 0)

    def do_passed(self, words: Words) -> execution.FromClient:
        client, number = self.key(words)
        job = words.attempts()[0]
        return execution.FromClient(client, node.AcknowledgeProvisional(number, job.number, job.attempt, 1))
