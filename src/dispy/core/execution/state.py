"""The state of a node's execution core: clients, their computations, and the workers of these.

A job that has not ended is in ``Computation.open``, and in exactly one other place: in ``ready``, in ``staging``, or
in one record of one worker. A worker without a record is in ``Computation.idle`` unless it is being killed, one with
one record in ``single``; none has more than two.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import NamedTuple

from dispy.core.execution.ids import ClientId, Key, Seconds, WorkerId
from dispy.core.run_times import RunTimes
from dispy.core.turns import Turns
from dispy.protocol.batches import Sent
from dispy.protocol.node import (
    Compute,
    Ended,
    HeldJobs,
    Job,
    JobsEnded,
    JobsPrinted,
)
from dispy.protocol.worker import Record

UNTOLD = (-1, -1, "")
"""Value of ``Computation.credit`` (slots, backlog, reason) before the client was told any credit, or if the credit is
to be told again: differs from every credit, zero included."""

RECORD_US = 4000
"""Expected run time of all jobs of one record (batch) together (microseconds), if they are known to be short: the
time that one of them may wait behind the others, and forty times what a packet costs in all."""

UNLIMITED = 1 << 31
"""Value of ``Client.cpus_max`` if the client has set no limit: more than the CPUs of any node."""


class Status(Enum):
    """Status of a computation on this node. The table of its changes is in ``computations``."""

    LOADING = "loading"
    """Files are fetched, or the host (the process that loads the computation) is started: jobs wait, no worker
    starts."""
    READY = "ready"
    """The host has loaded the computation: it forks workers, which run jobs."""


class Client:
    """A scheduler that uses this node, over all its connections. The table of its states is in ``clients``.

    Attributes:
        id: Identity of the client, the same over all its connections.
        name: Name of the client, for texts that people read.
    """

    __slots__ = (
        "active_at", "before", "busy", "computations", "cpus_max", "grant", "has_gaps", "id",
        "is_connected", "is_dead", "is_recovering", "level", "lost", "name", "sent", "silent_since", "stored", "told",
        "turns", "vtime", "was_away",
    )  # fmt: skip

    def __init__(self, client: ClientId, name: str) -> None:
        self.id = client
        self.name = name
        self.computations: dict[int, Computation] = {}
        """Computations of the client that are in ``State.computations``, by the client's number for each."""
        self.is_connected = True
        """True while a connection to the client stands."""
        self.silent_since: Seconds = 0.0
        """Time when the client was last heard (seconds, monotonic); only valid while it is not connected. Silence
        limit and lease count from it."""
        self.is_dead = False
        """True if the client has been silent for longer than ``State.silence_s``: it has no share of the CPUs any
        more, and its results go to disk. It may still come back."""
        self.cpus_max = UNLIMITED
        """Largest number of jobs that the client lets run here at once (``LimitCpus``); further ones wait. 0: no job
        may start, and waiting ones go back. ``UNLIMITED`` until the client sets a limit."""
        self.busy = 0
        """Number of CPUs in use for the client: workers of its computations with at least one record."""
        self.vtime = 0.0
        """Virtual time of the client in the fair queue: CPU seconds of all its computations together. Of clients with
        equally many CPUs in use, the one with the smallest virtual time gets the next CPU."""
        self.turns: Turns[Computation] = Turns(_computation_turn)
        """Computations of the client that may have ready jobs, the one first whose turn it is next. Those without are
        taken out when they come to the front."""
        self.grant = Grant(0, 0, "")
        """Fair share of the client as of the last ``share_out``: of all its computations together."""
        self.told: Grant | None = None
        """Fair share as the client was last told (``NodeCredit``); None: not yet, or it is to be told again."""
        self.level = 0.0
        """Virtual time (CPU seconds) at which a computation of this client starts that had no jobs before: the
        highest of its computations that have used a CPU, so that idle time is no claim for CPUs."""
        self.active_at: Seconds = -1e9
        """Time when the client was last seen with jobs here (seconds, monotonic). Until ``fair_shares.ACTIVE_S``
        after that the client counts when the CPUs are divided among clients."""
        self.sent: Sent[JobsEnded] = Sent()
        """Batches of results, kept until they are acknowledged; one count for all computations of the client. Those
        on disk have no values here, only the names, status and times of their attempts."""
        self.stored: set[int] = set()
        """Numbers of batches kept in ``sent`` that are on disk, from where they are sent and must be erased."""
        self.was_away = False
        """True if the list of jobs that were open when the client went away may be on disk, to be deleted when the
        client is back or forgotten."""
        self.is_recovering = False
        """True if the connection is that of a recovery, which fetches the results of the client, a dead program. Then
        a computation that is closed loses its results, too."""
        self.lost: list[HeldJobs] = []
        """Attempts that were open when an earlier incarnation of the node ended, and are lost with it; an item for
        those of one computation. Told to a recovery; forgotten when the client itself is back."""
        self.has_gaps = False
        """True if an earlier incarnation of the node did not write down which jobs were open when it ended, so that
        ``lost`` is not complete: a recovery is told that, and cannot rule out that other jobs were started."""
        self.before: list[bytes] = []
        """Identities of earlier incarnations of the node whose results for the client are here (16 bytes each): the
        ``Welcome`` to the client names them."""


class Grant(NamedTuple):
    """Fair share of a client on this node, from which its credit is made.

    Attributes:
        slots: Number of the client's jobs that would start at once: CPUs of its share that no long jobs of other
            clients use.
        share: Number of CPUs that the client is to have. As many of its jobs should be here: those above ``slots``
            wait until jobs of other clients end.
        reason: Reason why the client does not get all CPUs of the node, in words, for the client; empty if it does.
    """

    slots: int
    share: int
    reason: str


class Computation:
    """A computation on this node and its jobs.

    Attributes:
        key: Identity of the client, and the computation's number at that client.
        client: The client that opened the computation.
        spec: Message that opened the computation, with its code, files and options.
        status: LOADING, or READY to run jobs.
    """

    __slots__ = (
        "busy", "cancelling", "client", "crashes", "credit", "double", "filed", "finished", "idle", "key", "obstacle",
        "open", "ready", "runtimes", "sampled", "sending", "shortage", "single", "spec", "staging", "status",
        "stillborn", "unseen", "untold", "used_s", "vtime", "watched", "workers",
    )  # fmt: skip

    obstacle: str
    """Reason why the computation may not start jobs now, though its client may, in words: its credit is 0 then.
    Empty if nothing keeps it from that. As of the last ``fair_shares.recredit``."""
    used_s: Seconds
    """Time for which CPUs were used for the computation (seconds, summed over CPUs) since the last batch of
    results, which the next one tells the client."""

    def __init__(self, key: Key, client: Client, spec: Compute) -> None:
        self.key = key
        self.client = client
        self.spec = spec
        self.status = Status.LOADING
        self.ready: deque[Job] = deque()
        """Jobs that wait for a CPU and are in no record, in the order in which they are to start."""
        self.open: dict[int, Job] = {}
        """All jobs that have not ended, by number: waiting, in records or running."""
        self.workers: dict[WorkerId, Worker] = {}
        """All workers of the computation, by number, also those that are being killed."""
        self.idle: dict[WorkerId, Worker] = {}
        """Workers without a record that are not being killed, by number: the next jobs go to them."""
        self.single: dict[WorkerId, Worker] = {}
        """Workers with exactly one record, by number: they would be idle after it, and may get a second one."""
        self.double: dict[WorkerId, Worker] = {}
        """Workers whose second record may be recalled, by number. Missing are those that have taken theirs
        (``Worker.kept``)."""
        self.cancelling: set[tuple[int, int]] = set()
        """Attempts (number, attempt) in records that are not wanted any more: cancelled by the client and still open,
        or obsolete and no longer open. A subset of the attempts in records."""
        self.sending: dict[tuple[int, int], tuple[Worker, int]] = {}
        """Provisional results without acknowledgement, for which a job waits: worker and serial number, by number and
        attempt of the job. Each attempt has at most one."""
        self.untold: list[Ended] = []
        """Results of jobs that wait, at most ``workers.LONG_WAIT_S``, to share a message to the client with others;
        oldest first. Their jobs are no longer open."""
        self.runtimes = RunTimes()
        """Run times of its jobs, from which follow the jobs in a record, the backlog, and how long results wait."""
        self.sampled = 0
        """Number of jobs that ran and have ended so far. Bounds the jobs in a record and the backlog until run times
        are well known. While this is 0 a record has one job, and no worker gets a second record."""
        self.finished = 0
        """Number of jobs that returned a value, for reports to people; the others counted in ``sampled`` failed."""
        self.busy = 0
        """Number of CPUs in use for the computation: its workers with at least one record."""
        self.shortage = ""
        """Reason why the large data of the computation (arguments, results) finds no room on this node, in words; its
        credit is 0 then. Empty if there is room."""
        self.obstacle = ""
        self.credit: tuple[int, int, str] = UNTOLD
        """Slots, backlog (jobs) and reason as the client was last told, or ``UNTOLD``. Only changes are told."""
        self.used_s = 0.0
        self.crashes = 0
        """Number of deaths of the host in a row, reset when a job ends. At the 4th the computation is given up."""
        self.stillborn = 0
        """Number of workers in a row that ended before they began a job, reset when a job ends. Above
        ``dispatch.STILLBORN_MAX`` no worker is forked, and the computation is given up."""
        self.vtime = 0.0
        """Virtual time in the fair queue of the client (CPU seconds). Of its computations with equally many CPUs in
        use, the one with the smallest virtual time gets the client's next CPU."""
        self.staging: dict[int, Job] = {}
        """Jobs that wait for the files that they bring, by number; then they move to the end of ``ready``."""
        self.filed: set[int] = set()
        """Numbers of open jobs that bring files; each is alone in its record."""
        self.watched: set[int] = set()
        """Numbers of open jobs whose output the client wants while they run."""
        self.unseen: deque[JobsPrinted] = deque()
        """Messages with output of watched jobs that are not acknowledged, oldest first. While there is one, no
        further output is read; after a reconnect all are sent again."""


class Worker:
    """A process that runs jobs of one computation. The table of its records is in ``workers``.

    A *position* is a job in a record, as one number that grows over the life of the worker
    (``protocol.worker.claim``); 0: no job yet.
    """

    __slots__ = (
        "computation",
        "cut",
        "deadline",
        "id",
        "interrupted",
        "is_killed",
        "kept",
        "moved",
        "owed",
        "position",
        "records",
        "seen",
        "seen_at",
        "since",
        "told",
        "unbuffered",
    )

    def __init__(self, worker: WorkerId, computation: Computation) -> None:
        self.id = worker
        self.computation = computation
        self.records: deque[Record] = deque()
        """The record that the worker runs, and at most one more behind it. The worker uses a CPU while there is
        one."""
        self.position = 0
        """Position (a job in a record) where the worker was at the last tick; 0: none. A worker that is at the same
        position at the next tick runs a job that is not short."""
        self.moved: Seconds = 0.0
        """Time (seconds, monotonic) when the worker was first seen at this position, or was given a record when it
        had none. After ``fair_shares.LONG_S`` its job counts as long."""
        self.since: Seconds = 0.0
        """Time (seconds, monotonic) up to which the CPU that the worker uses has been charged to the virtual times of
        its computation and client. While the worker has no record: time since which it has none."""
        self.told = 0
        """Position of the last job that the client was told as started; 0: none, or tell the present one again."""
        self.cut = 0
        """Position before which the worker was told to end its record (``Cut``); 0: none. The jobs from there on are
        taken back at the next tick, and queued again."""
        self.interrupted = 0
        """Position of the job that was interrupted because it is cancelled; 0: none. It is not interrupted twice."""
        self.kept = 0
        """Number of the second record that could not be recalled because the worker has taken it; 0: none. No other
        ``Recall`` is sent for it."""
        self.owed = 0
        """Number of jobs, at most, that go back to the scheduler once the record behind the running one has been
        recalled, as it asked for more than waited (``TakeBack``). 0: none."""
        self.deadline: Seconds = 0.0
        """Time (seconds, monotonic) from which on the worker is killed if it is still at the job ``interrupted``: its
        interrupt and the grace time. Valid only while ``interrupted`` is not 0."""
        self.is_killed = False
        """True if the worker is being killed (its cancelled job ignored the interrupt), retires by itself or is told
        to end, as it was idle: it gets no further record, and is not stillborn."""
        self.seen_at = 0
        """Position of the job whose output the client was told last; 0: none. ``seen`` is valid for this job only: of
        another one output is read from its first byte."""
        self.seen: tuple[int, int] = (0, 0)
        """Bytes of stdout and of stderr, of the job at ``seen_at``, that the client was told: the next look goes on
        behind them."""
        self.unbuffered = 0
        """Position of the last job that was made to print without a buffer (``Unbuffer``), so that it is done once;
        0: none."""


def _client_turn(client: Client) -> tuple[int, float]:
    """Returns the key by which a free CPU goes to one of the waiting clients: CPUs that it uses, virtual time."""
    return client.busy, client.vtime


def _computation_turn(computation: Computation) -> tuple[int, float]:
    """Returns the key by which a CPU of a client goes to one of its computations: CPUs that it uses, virtual time."""
    return computation.busy, computation.vtime


class Line:
    """Computations that wait for CPUs, as they have ready jobs and are READY. ``fair_shares`` says whose turn it is.

    Attributes:
        computations: Computations that may wait, by client and number; all that do are among them.
        clients: Clients of these, the one first whose turn it is next.
    """

    __slots__ = ("clients", "computations")

    def __init__(self) -> None:
        self.computations: dict[Key, Computation] = {}
        self.clients: Turns[Client] = Turns(_client_turn)


class State:
    """Clients, computations and workers of a node; what ``Machine.handle`` reads and changes.

    *Indexes* spare an event the walk over all clients, computations or workers. ``running``, ``silent`` and
    ``barred`` have those that they are for. ``living``, ``orphans``, ``active``, ``ahead``, ``unflushed`` and
    ``returning`` may have some that they are for no longer: whoever meets these takes them out.
    """

    running: dict[WorkerId, Worker]
    """Workers with at least one record, by number, in the order in which they got one: the CPUs in use. More than
    ``cpus`` only after that was lowered."""
    silent: dict[ClientId, Client]
    """Clients that are not connected, by identity."""
    barred: set[ClientId]
    """Clients whose limit of CPUs is 0: none of their jobs may start."""
    living: Line
    """Index of computations that wait for CPUs, of clients that are not dead."""
    orphans: Line
    """Index of computations of dead clients that wait for CPUs: they get those that no living client wants."""
    active: dict[Key, Computation]
    """Index of computations with open jobs."""
    ahead: dict[Key, Computation]
    """Index of computations with second records that may be recalled (``Computation.double``)."""
    unflushed: dict[Key, Computation]
    """Index of computations with results that wait to share a message (``Computation.untold``)."""
    returning: dict[Key, Computation]
    """Index of computations that jobs came to since the last event, while ``is_restricted``: if they may not start
    here they go back."""

    lease_s: Seconds
    """Lease: time (seconds since a silent client was last heard) after which its jobs are ended and its results
    deleted."""
    silence_s: Seconds
    """Time (seconds since a silent client was last heard) after which the client counts as dead: it has no share of
    the CPUs any more, and its results go to disk."""
    idle_s: Seconds
    """Time (seconds) for which a worker may be idle, if more than ``dispatch.workers_max`` are, before it ends."""

    def __init__(self, cpus: int, lease_s: Seconds, silence_s: Seconds, idle_s: Seconds) -> None:
        self.cpus = cpus
        """Number of CPUs that the node offers now: of jobs that may run at once. 0: no job may start."""
        self.is_draining = False
        """True if the node takes no new jobs, gives back those that have not started, and ends when it has none."""
        self.lease_s = lease_s
        self.silence_s = silence_s
        self.idle_s = idle_s
        self.clients: dict[ClientId, Client] = {}
        """Clients that have not left and whose lease has not ended, by identity, connected or not."""
        self.computations: dict[Key, Computation] = {}
        """Computations that were not closed or given up, by client and number. The client of each is in
        ``clients``."""
        self.workers: dict[WorkerId, Worker] = {}
        """Workers of all computations, by number, also those that are being killed."""
        self.running = {}
        self.silent = {}
        self.barred = set()
        self.living, self.orphans = Line(), Line()
        self.active = {}
        self.ahead = {}
        self.unflushed = {}
        self.returning = {}
        self.level = 0.0
        """Virtual time (CPU seconds) at which a client starts that had no jobs before: the highest of clients that
        have used a CPU, so that idle time is no claim for CPUs."""
        self.exclusive: list[Computation] = []
        """Computations that want the node exclusively, in the order in which they came; the first has its turn."""
        self.has_node = False
        """True if the first of ``exclusive`` has the node: the jobs that others ran have ended. Then no other
        computation is busy."""
        self.is_restricted = False
        """True if there may be a computation that may not start any job now, so that ``dispatch`` gives back what
        comes for it. False: all may start jobs. Set by ``fair_shares.restrict``."""
        self.restriction: tuple[Computation | None, bool, bool, bool, int] = (None, False, False, False, 0)
        """Reasons for which computations may not start jobs, as of the last ``fair_shares.restrict``: the first of
        ``exclusive``, ``has_node``, ``is_draining``, no CPUs, number of clients that are ``barred``."""
        self.is_swept = True
        """False if ``dispatch`` has to look at all computations for jobs to give back, as something that keeps jobs
        from starting has changed, or a client has come back that can take its jobs."""
        self.shares_differ = False
        """True if something kept computations from starting jobs at the last ``share_out``: then the next one looks
        whether that is still so for each of them."""
        self.share_at: Seconds = -1e9
        """Time when ``share_out`` was last done (seconds, monotonic). With several clients ticks do it again after
        ``fair_shares.SHARE_S``."""
        self.look_at: Seconds = 0.0
        """Time of the next look at the output of watched jobs (seconds, monotonic)."""
        self.idle_at: Seconds = 0.0
        """Time of the next look for workers that have been idle for too long (seconds, monotonic)."""
        self.is_flushing = False
        """True from ``FlushSoon`` until its answer ``Flush``: no other ``FlushSoon`` is issued, as all results that
        wait are sent then."""
        self.next_worker = 1
        """Number that the next worker gets."""
        self.next_record = 1
        """Number that the next record gets; one count for all workers of the node."""

    @property
    def busy(self) -> int:
        """Number of CPUs in use: of workers with at least one record."""
        return len(self.running)
