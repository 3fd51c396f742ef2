"""The node's shell: sockets and processes in, events to the execution core, its actions out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from dispy.clock import Clock
from dispy.core.execution import Machine
from dispy.core.execution import state as core
from dispy.core.execution.clients import segments_held
from dispy.core.execution.explain import find_stall
from dispy.core.execution.offers import workers_max
from dispy.core.execution.state import ClientId, Key, WorkerId
from dispy.errors import RemoteProtocolError, SilenceError, UsageError
from dispy.files.store import Store
from dispy.net.addresses import is_loopback, local, outward
from dispy.net.connection import Connection
from dispy.net.directories import given_prefix
from dispy.net.discovery import Entry, Listing
from dispy.net.listener import Listener
from dispy.net.secrets import Secret
from dispy.net.tls import ListenerTls
from dispy.node.accounts import Account
from dispy.node.brought import Brought
from dispy.node.console import HELP, parse_cpus
from dispy.node.hosts import HostProcess, WorkerHandle
from dispy.node.printed import read_printed
from dispy.node.segments import Segments, WorkSpace
from dispy.node.spool import Damaged, Spool
from dispy.node.staging import Seams, Stage, Stager
from dispy.processes import describe_exit, kill_strays
from dispy.protocol import limits, node
from dispy.protocol import worker as worker_protocol
from dispy.protocol.frames import Group, Source
from dispy.settings import PULSE_S, SILENT_PULSES, NodeSettings
from dispy.stall import Stall
from dispy.text import block, line, lines

logger = logging.getLogger("dispy.node")

TICK_S = 0.01
"""How often a busy node looks where its workers are: what a long job delays those behind it."""

CLEANUP_S = 5.0
"""Time for a host to end by itself, ``cleanup`` included, when its computation is closed."""

REAP_S = 0.05
"""How often it is looked whether it has ended."""

SETUP_GRACE_S = 1.0
"""Time for ``setup`` to heed that its time is over, and to say where it was."""

STOP_S = 1.5
"""Time for hosts to end by themselves when the node stops."""

FAREWELL_S = 0.5
"""Time for clients to take what is on its way, and to say so."""

FORK_S = 0.2
"""How long after a worker could not be started its jobs are free for the next one."""

SPARE_S = 0.25
"""How long after a computation has begun the host of the next one is started."""

TRIM_PULSES = 10
"""Seconds without any computation after which the node holds no memory for the next one."""

AVAILABLE_S = 5.0
"""How often clients are told what there is to spare that have not asked for another pulse."""

_COUNT = worker_protocol.SLOT_COUNT

_encode = msgspec.msgpack.Encoder().encode


class Loaded:
    """A computation's host and places."""

    __slots__ = (
        "brought", "client", "failure", "host", "is_loaded", "is_shared", "key", "limit_s", "objects", "per_worker",
        "segments", "sending", "stages", "values", "was_set_up", "work",
    )  # fmt: skip

    def __init__(
        self, key: Key, host: HostProcess, work: Path, segments: Path, compute: node.Compute
    ) -> None:
        self.key = key
        self.per_worker = compute.setup_per_worker
        self.limit_s = compute.setup_timeout_s
        self.is_loaded = False
        self.was_set_up = False
        """Some worker has called ``setup`` with success."""
        self.failure = ""
        """Why the computation is to be given up when its host, which was killed for that, is dead."""
        self.client = key[0]
        self.host = host
        self.work = work
        self.segments = segments
        self.objects: set[int] = set()
        """Numbers of what was put there."""
        self.sending: list[tuple[Connection, Group, node.JobsEnded]] = []
        """Results that may still be on their way as streams."""
        self.values: dict[tuple[int, int, int], int] = {}
        """Segments with provisional results that have been told, by number, attempt and serial."""
        self.is_shared = False
        """The client was told of results by the names of their files."""
        self.brought: Brought | None = None
        """Files that its jobs bring."""
        self.stages: dict[int, Stage] = {}
        """Files on their way for jobs that wait for them, by the job's number, and for requests, by less than 0."""


@dataclass(slots=True)
class Prepared:
    """A working directory whose computation has no host yet."""

    work: Path
    stage: Stage


@dataclass(frozen=True, slots=True)
class NodeParts:
    """What a node is made of before its loop runs.

    Attributes:
        secret: Shared with clients.
        tls: For its listener; None: without.
        account: Whom jobs run as; None: as the node.
        cpus: Jobs that may run at once.
        cpus_present: What could be offered at most.
        spare: A host that is starting already.
        incarnation: 16 bytes that name this run of the node.
        segments: Its place for large payloads, and what marks its processes.
        spool: Where results go on disk whose clients are away; None: nowhere.
        workspace: Its place for working directories.
        store: Where it keeps files that were sent to it.
        clock: What it goes by.
        read_available: Says what the machine has to spare; None: nobody does.
    """

    secret: Secret
    tls: ListenerTls | None
    account: Account | None
    cpus: int
    cpus_present: int
    spare: HostProcess
    incarnation: bytes
    segments: Segments
    spool: Path | None
    workspace: WorkSpace
    store: Store
    clock: Clock = time
    read_available: Callable[[], node.Available] | None = None


class NodeService:
    """A running node.

    Args:
        settings: Checked.
        parts: What it is made of.
    """

    def __init__(self, settings: NodeSettings, parts: NodeParts) -> None:
        self.settings = settings
        self.cpus = parts.cpus
        self.cpus_most = max(parts.cpus, parts.cpus_present)
        """What ``set_cpus`` may offer: hosts have places for workers of so many."""
        self.name = settings.name or platform.node() or "localhost"
        self.incarnation = parts.incarnation
        self.address: tuple[str, int] = (settings.host, 0)
        self._secret = parts.secret
        self._tls = parts.tls
        self._account = parts.account
        self._machine = Machine(parts.cpus, settings.lease_s, settings.silence_s)
        self._stall_s = settings.stall_s
        self._stall = Stall(settings.stall_s)
        self._loop = asyncio.get_running_loop()
        self._clients: dict[ClientId, Connection] = {}
        self._connections: dict[Connection, ClientId | None] = {}
        self._sharing: set[ClientId] = set()
        """Clients that see our directory on the memory file system."""
        self._loaded: dict[Key, Loaded] = {}
        self._prepared: dict[Key, Prepared] = {}
        self._leaving: dict[Key, Loaded] = {}
        """Those whose hosts are ending."""
        self._waiting: dict[Key, core.StartHost | core.StageFiles] = {}
        """Those that came back and wait for that: ``cleanup`` of one stay is over before the next begins."""
        self._owners: dict[WorkerId, tuple[Loaded, WorkerHandle]] = {}
        self._spare: HostProcess | None = parts.spare
        self._ending: list[HostProcess] = []
        self._workspace = parts.workspace
        self._clock = parts.clock
        self._read_available = parts.read_available
        self._told_available: dict[Connection, float] = {}
        """When clients were told last what there is to spare."""
        self._segments = parts.segments
        self._entry: Entry | None = None
        self._stager = Stager(
            parts.store,
            Seams(
                self._send_to,
                self._post,
                self._loop.call_later,
                None if parts.account is None else (parts.account.uid, parts.account.gid),
            ),
        )
        self._bringing: dict[WorkerId, Brought] = {}
        """Workers whose job brings files, or brought some."""
        self._listener = Listener(self._new_connection, tls=parts.tls is not None)
        self._tick: asyncio.TimerHandle | None = None
        self._pulse: asyncio.TimerHandle | None = None
        self._stopped = asyncio.Event()
        self._idle_pulses = 0
        self._gone: set[ClientId] = set()
        """Clients that said farewell while we stop."""
        self.failed = False
        """Whether it stopped because of a fault of ours."""
        self._events: deque[core.Event] = deque()
        """What the core was not told yet."""
        self._is_handling = False
        self._looks: list[core.Look] = []
        self._packet = bytearray(worker_protocol.PACKET_MAX)
        self._packet_view = memoryview(self._packet)
        self._perform_by_type: dict[type[core.Action], Callable[[Any], None]] = {
            core.Tell: self._tell,
            core.Offer: self._offer,
            core.ForkWorker: self._fork,
            core.Recall: self._recall,
            core.Cut: self._cut,
            core.InterruptWorker: self._interrupt,
            core.KillWorker: self._kill,
            core.Pass: self._pass,
            core.StartHost: self._start_host,
            core.StopHost: self._stop_host,
            core.StageFiles: self._stage_files,
            core.StageJob: self._stage_job,
            core.Release: self._release,
            core.FlushSoon: self._flush_soon,
            core.Look: self._looks.append,
            core.Unbuffer: self._unbuffer,
            core.Store: self._store,
            core.NoteOpen: self._note_open,
            core.DropNote: self._drop_note,
            core.TellStored: self._tell_stored,
            core.Erase: self._erase,
        }
        self._spool: Spool | None = None
        if parts.spool is not None:
            owner = os.getuid() if parts.account is None else parts.account.uid
            fingerprint = parts.secret.fingerprint()
            self._spool = Spool(
                parts.spool, self.incarnation, self.name, fingerprint, settings.spool_max, owner,
                self._tell_written,
            )  # fmt: skip

    @property
    def uses_tls(self) -> bool:
        """Whether links are encrypted."""
        return self._tls is not None

    # Life.

    def start(self) -> None:
        """Listen, and be found.

        Raises:
            OSError: The address cannot be used.
        """
        port = self.settings.listen_port
        wanted = self.settings.dispy_port + 1 if port is None else port
        try:
            self.address = self._listener.listen(self.settings.host, wanted)
        except OSError:
            if port is not None:
                raise
            self.address = self._listener.listen(self.settings.host, 0)
        if self._spool is not None:
            for restored in self._spool.restore(self.address[1]):
                self._handle(restored)
        if not self.settings.owner:
            self._entry = Entry(self.listing())
        self._watch_spare()
        self._on_pulse()

    def listing(self) -> Listing:
        """What others on this machine need to reach us."""
        host, port = self.address
        return Listing(
            self.incarnation.hex(),
            local(host),
            port,
            self._tls is not None,
            self.name,
            self.cpus,
            os.getpid(),
            self._secret.fingerprint(),
        )

    def _new_connection(self, on_settled: Callable[[Connection], None]) -> Connection:
        return Connection(
            self,
            node.to_node_decoder,
            self._secret.key,
            "node",
            "client",
            is_dialer=False,
            tls=self._tls,
            on_settled=on_settled,
            make_sink=self._segments.incoming,
            clock=self._clock,
        )

    def set_cpus(self, cpus: int) -> None:
        """Offer another number of CPUs, from 0 to ``cpus_most``; what runs above it goes on."""
        self.cpus = cpus
        self._handle(core.CpusChanged(cpus))
        if self._entry is not None:
            self._entry.update(self.listing())

    def usage(self) -> str:
        """Who uses this node, in a line for each client."""
        state = self._machine.state
        said = [f"CPUs: {self.cpus} offered, {state.busy} in use"]
        for client in state.clients.values():
            its = [c for c in state.computations.values() if c.client is client]
            jobs = sum(len(c.open) for c in its)
            names = ", ".join(line(c.spec.name) + (" (exclusive)" if c.spec.exclusive else "") for c in its)
            where = "" if client.is_connected else ", gone"
            its_jobs = f"jobs here: {jobs} of {names or 'nothing'}"
            said.append(f"  {client.name}{where}: {client.busy} in use, {its_jobs}")
        return "\n".join(said)

    def answer(self, typed: str) -> str:
        """Do what an administrator types at the terminal; returns what to say."""
        words = typed.split()
        if not words:
            return self.usage()
        if words[0] != "cpus" or len(words) > 2:
            return HELP
        if len(words) == 2:
            try:
                self.set_cpus(parse_cpus(words[1], self.cpus_most))
            except UsageError as error:
                return str(error)
        return f"{self.cpus} of {self.cpus_most} CPUs are offered"

    def stop(self) -> None:
        """Have ``run`` return."""
        self._stopped.set()

    async def run(self) -> None:
        """Serve until stopped, then end everything that was started."""
        try:
            await self._stopped.wait()
        finally:
            await self._end()

    async def _end(self) -> None:
        if self._entry is not None:
            self._entry.close()
        self._listener.close()
        for timer in (self._tick, self._pulse):
            if timer is not None:
                timer.cancel()
        self._handle(core.Flush())
        hosts = self._hosts() + self._ending
        if self._spare is not None:
            hosts.append(self._spare)
        for host in hosts:
            self._loop.remove_reader(host.control)
            for handle in host.workers.values():
                self._loop.remove_reader(handle.replies)
            host.end()
        deadline = self._clock.monotonic() + STOP_S
        await self._say_farewell(min(deadline, self._clock.monotonic() + FAREWELL_S))
        while any(host.process.poll() is None for host in hosts) and self._clock.monotonic() < deadline:
            await asyncio.sleep(0.005)
        for connection in list(self._connections):
            connection.close()
        for host in hosts:
            host.kill()
        for host in hosts:
            host.process.wait()
        self._kill_strays(set())
        for host in hosts:
            self._close_host(host)
        for loaded in self._loaded.values():
            if loaded.brought is not None:
                loaded.brought.close()
        self._stager.close()
        if self._spool is not None:
            self._handle(core.Stopping(list(self._gone)))
            self._spool.close()
        self._segments.close()
        self._workspace.close()

    async def _say_farewell(self, deadline: float) -> None:
        """Tell clients that we leave, after the last byte of results; those who have all say so, and go."""
        untold = {connection for connection, client in self._connections.items() if client is not None}
        while any(client is not None for client in self._connections.values()):
            for connection in list(untold):
                if not connection.is_sending:
                    untold.discard(connection)
                    connection.send(node.Leaving("dispynode was stopped"))
            if self._clock.monotonic() > deadline:
                break
            await asyncio.sleep(0.005)

    # Time.

    def _schedule_tick(self) -> None:
        if self._tick is None:
            self._tick = self._loop.call_later(TICK_S, self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        positions = {}
        for worker, (_, handle) in self._owners.items():
            positions[worker] = (
                handle.words[worker_protocol.SLOT_CLAIM],
                handle.started(),
            )
        for worker, (position, _) in positions.items():
            owner = self._owners.get(worker)
            if owner is not None and owner[1].last_position == position and owner[1].words[_COUNT]:
                self._take_waiting(owner[1], position)
            if owner is not None:
                owner[1].last_position = position
        self._handle_and_look(core.Tick(positions))
        if self._machine.state.busy:
            self._schedule_tick()

    def _take_waiting(self, handle: WorkerHandle, position: int) -> None:
        """Take results that wait in the arena behind a long job of the same record.

        The worker sends them again with its record; the core knows by then that those jobs have ended.
        """
        packet = handle.committed()
        # A worker writes to the arena only after it has moved on from where it was.
        if packet and handle.words[worker_protocol.SLOT_CLAIM] == position:
            with contextlib.suppress(*worker_protocol.NONSENSE):
                _, _, _, ended = worker_protocol.unpack_ran(packet)
                self._handle(core.Ran(handle.id, 0, 0, False, False, ended))

    def _on_pulse(self) -> None:
        self._pulse = self._loop.call_later(PULSE_S, self._on_pulse)
        if not self._machine.state.busy:
            self._handle(core.Tick({}))
        stalled = self._stall.look(find_stall(self._machine.state), self._clock.monotonic())
        if stalled:
            logger.error("nothing has moved for %g s: %s", self._stall_s, stalled)
        self._tell_available()
        self._idle_pulses = 0 if self._loaded else self._idle_pulses + 1
        if self._idle_pulses == TRIM_PULSES:
            self._segments.trim()

    def _tell_available(self) -> None:
        """Tell clients what there is to spare: with each sign of life that they have asked for, or now and then."""
        read, now = self._read_available, self._clock.monotonic()
        if read is None:
            return
        for connection, told in self._told_available.items():
            every_s = AVAILABLE_S if connection.pulse_s == PULSE_S else connection.pulse_s
            if now - told >= every_s - PULSE_S / 2 and connection.is_ready:
                self._told_available[connection] = now
                connection.send(read())

    # Clients.

    def on_ready(self, connection: Connection) -> None:
        """A peer has proved itself; ``Attach`` will say who it is."""
        self._connections[connection] = None
        connection.set_pulse(PULSE_S)

    def on_message(self, connection: Connection, message: Any) -> None:
        """A client said something."""
        client = self._connections.get(connection)
        if client is None:
            if type(message) is not node.Attach:
                raise RemoteProtocolError(f"{type(message).__name__} before Attach")
            self._attach(connection, message)
            return
        if self._stopped.is_set():
            self._take_farewell(client, message)
            return
        if type(message) is node.Compute:
            if message.stream and not self._take_code(connection, message):
                return
        elif type(message) is node.AcknowledgeProvisional:
            self._release_value((client, message.computation), message)
        elif type(message) is node.CancelJobs:
            self._cancel_results(client, message)
        elif type(message) is node.CloseComputation:
            self._give_up_results((client, message.computation))
        elif type(message) is node.ShareMemory:
            self._sharing.add(client)
            return
        elif type(message) is node.SetPulse:
            connection.set_pulse(message.pulse_s)
            return
        elif type(message) is node.PutObject:
            self._put_object(connection, client, message)
            return
        elif type(message) is node.DropObjects:
            self._drop_objects((client, message.computation), message.numbers)
            return
        elif type(message) is node.FileData:
            self._stager.on_data(
                client,
                [(p, connection.take_stream(p.stream) if p.stream else None) for p in message.pieces],
            )
            return
        elif type(message) is node.FileUnreadable:
            self._stager.on_unreadable(client, message.digest, message.reason)
            return
        elif type(message) is node.PlaceFiles:
            self._place_files(client, message)
            return
        elif type(message) is node.RunJobs and any(job.stream or job.given for job in message.jobs):
            self._store_arguments(connection, client, message)
        self._handle(core.FromClient(client, message))
        if type(message) is node.Reconcile:
            self._stager.on_connected(client)
        elif type(message) is node.CancelJobs:
            self._forget_brought((client, message.computation))

    def _take_farewell(self, client: ClientId, message: node.ToNode) -> None:
        """What clients say while we stop: that they have results, or that they go as well."""
        if type(message) is node.Detach:
            self._gone.add(client)
        elif type(message) is node.Acknowledge:
            self._handle(core.FromClient(client, message))

    def _take_code(self, connection: Connection, message: node.Compute) -> bool:
        """Put the code that came as a stream where it belongs; False if there was no room for it."""
        try:
            message.code = connection.take_stream(message.stream).read()
        except OSError as error:
            reason = f"the computation does not fit the memory file system of node {self.name}: {error}"
            connection.send(node.ComputationFailed(message.computation, reason, message.life))
            return False
        return True

    def _attach(self, connection: Connection, message: node.Attach) -> None:
        client = ClientId(message.client)
        before = self._clients.get(client)
        if before is not None:
            self._connections[before] = None
            before.abort(RemoteProtocolError("replaced by a newer connection"))
            self._lose(client, 0.0)
        known = self._machine.state.clients.get(client)
        self._clients[client] = connection
        self._connections[connection] = client
        welcome = node.Welcome(self.incarnation, self.name, self.cpus, platform.platform())
        if self._read_available is not None:
            welcome.available = self._read_available()
            self._told_available[connection] = self._clock.monotonic()
        if known is not None:
            welcome.known = True
            welcome.last = known.next_batch - 1
            welcome.kept = [batch.batch for batch in known.batches if batch.batch > message.received]
            welcome.before = known.before
        connection.send(welcome)
        name = line(message.name)
        if not is_loopback(connection.peer_address):
            name = f"{name} at {connection.peer_address}"
        self._handle(core.ClientAttached(client, name, message.received))

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """A client is gone, perhaps to come back."""
        client = self._connections.pop(connection, None)
        self._told_available.pop(connection, None)
        if client is not None and self._clients.get(client) is connection:
            self._lose(
                client, connection.pulse_s * SILENT_PULSES if isinstance(error, SilenceError) else 0.0
            )

    def _lose(self, client: ClientId, since_s: float) -> None:
        """The connection of a client is lost, and all that was on its way on it."""
        del self._clients[client]
        if client in self._sharing:
            self._sharing.discard(client)
            self._segments.drop_given(given_prefix(client))
            # Should it be dead, it has let go of its lock by then.
            self._segments.sweep()
            self._loop.call_later(PULSE_S, self._segments.sweep)
        for key, loaded in self._loaded.items():
            if key[0] == client:
                for segment in loaded.values.values():
                    self._segments.remove(loaded.segments, segment, was_shared=loaded.is_shared)
                loaded.values.clear()
        self._stager.on_lost(client)
        self._handle(core.ClientSilent(client, since_s))

    def _store_arguments(self, connection: Connection, client: ClientId, message: node.RunJobs) -> None:
        key = (client, message.computation)
        loaded = self._loaded.get(key)
        kept = []
        for job in message.jobs:
            if job.given and loaded is None:
                self._segments.remove_given(job.given)
                self._give_back(connection, message.computation, job)
                continue
            if job.given and loaded is not None:
                try:
                    job.stream = self._segments.adopt_given(loaded.segments, job.given)
                except OSError as error:
                    reason = f"the arguments have not arrived on node {self.name}: {error}"
                    self._handle(core.JobRefused(key, job.number, job.attempt, reason))
                    continue
            elif job.stream:
                incoming = connection.take_stream(job.stream)
                if loaded is None:
                    # The computation is not there, and the job goes back.
                    incoming.discard()
                    self._give_back(connection, message.computation, job)
                    continue
                try:
                    job.stream = self._segments.adopt(loaded.segments, incoming)
                except OSError as error:
                    reason = f"the arguments do not fit the memory file system of node {self.name}: {error}"
                    self._handle(core.JobRefused(key, job.number, job.attempt, reason))
                    continue
            kept.append(job)
        message.jobs = kept

    @staticmethod
    def _give_back(connection: Connection, computation: int, job: node.Job) -> None:
        attempt = node.Attempt(job.number, job.attempt)
        connection.send(node.JobsReturned(computation, [attempt], "computation not known here"))

    def _put_object(self, connection: Connection, client: ClientId, message: node.PutObject) -> None:
        """Store what jobs of a computation read. One that is there already stays as it is."""
        loaded = self._loaded.get((client, message.computation))
        incoming = connection.take_stream(message.stream) if message.stream else None
        reason = ""
        if loaded is None:
            # The computation is not there any more, or not yet again: it is sent once more if it is wanted.
            if incoming is not None:
                incoming.discard()
            return
        try:
            if len(loaded.objects) >= limits.OBJECTS_MAX:
                raise OSError(f"{limits.OBJECTS_MAX} objects are there")
            self._segments.put_object(loaded.segments, message, incoming)
            loaded.objects.add(message.number)
        except OSError as error:
            reason = f"what was put does not fit the memory file system of node {self.name}: {error}"
        connection.send(node.ObjectStored(message.computation, message.number, reason))

    def _drop_objects(self, key: Key, numbers: list[int]) -> None:
        """Remove objects; workers let go of them, now if they wait for jobs."""
        loaded = self._loaded.get(key)
        if loaded is None:
            return
        for number in numbers:
            loaded.objects.discard(number)
            self._segments.drop_object(loaded.segments, number)
        for handle in loaded.host.workers.values():
            handle.drop_objects()

    # Doing what the core decides.

    def _handle(self, event: core.Event) -> None:
        """Tell the core something and do what it decides; what comes of that is told when all of it is done."""
        self._events.append(event)
        if self._is_handling:
            return
        self._is_handling = True
        perform = self._perform_by_type
        try:
            while self._events:
                for action in self._machine.handle(self._events.popleft(), self._clock.monotonic()):
                    perform[type(action)](action)
        except Exception:
            # What was decided and what was done differ now. Clients that are told that we are gone are
            # better off than those of a node that only seems to work.
            logger.exception("this node has a fault and stops; please report it")
            self.failed = True
            self._events.clear()
            self.stop()
        finally:
            self._is_handling = False

    def _tell(self, action: core.Tell) -> None:
        connection = self._clients.get(action.client)
        message = action.message
        if connection is None or not connection.is_ready:
            if type(message) is node.Provisional and message.stream:
                # Not kept: its job will hear nothing of it.
                self._release(core.Release((action.client, message.computation), [message.stream]))
            return
        if type(message) is node.JobsEnded and _is_large(message.ended[0]):
            self._send_large(connection, action.client, message)
        elif type(message) is node.Provisional and message.stream:
            self._send_value(connection, action.client, message)
        else:
            connection.send(message)

    def _send_value(self, connection: Connection, client: ClientId, message: node.Provisional) -> None:
        """Send a provisional result that lies in a segment; that stays until the client has it."""
        loaded = self._loaded.get((client, message.computation))
        if loaded is None:
            return
        loaded.values[message.number, message.attempt, message.serial] = message.stream
        # Not a part of a file: what reads results by name would look into it.
        if client in self._sharing and message.file is None:
            loaded.is_shared = True
            message.segment, message.stream = message.stream, 0
            connection.send(message)
            return
        try:
            source = self._segments.outgoing(loaded.segments, message.stream)
        except OSError as error:
            logger.error("a provisional result of job %d is lost: %s", message.number, error)
            return
        connection.send_streamed([(message, "stream", source)], message)

    def _release_value(self, key: Key, message: node.AcknowledgeProvisional) -> None:
        loaded = self._loaded.get(key)
        if loaded is not None:
            segment = loaded.values.pop((message.number, message.attempt, message.serial), 0)
            if segment:
                self._segments.remove(loaded.segments, segment, was_shared=loaded.is_shared)

    def _send_large(self, connection: Connection, client: ClientId, batch: node.JobsEnded) -> None:
        """Send a result whose payloads lie in segments; the batch itself is kept as it is."""
        loaded = self._loaded.get((client, batch.computation))
        result = msgspec.structs.replace(batch.ended[0])
        if loaded is None:
            # Closed, which its client knows, or given up here. No batch is left out: the next would wait for it.
            result.stream = result.output_stream = 0
            result.status, result.died = node.TERMINATED, True
            result.reason = f"the job's result was lost on node {self.name} with its computation"
            connection.send(node.JobsEnded(batch.batch, batch.computation, [result]))
            return
        if client in self._sharing:
            loaded.is_shared = True
            result.segment, result.stream = result.stream, 0
        parts: list[tuple[Any, str, Source]] = []
        for attribute in ("stream", "output_stream"):
            segment = getattr(result, attribute)
            if segment:
                try:
                    parts.append((result, attribute, self._segments.outgoing(loaded.segments, segment)))
                except OSError as error:
                    setattr(result, attribute, 0)
                    result.status = node.TERMINATED
                    result.reason = f"the job's result was lost on node {self.name}: {error}"
                    result.died = True
        message = node.JobsEnded(batch.batch, batch.computation, [result])
        if parts:
            group = connection.send_streamed(parts, message)
            loaded.sending = [entry for entry in loaded.sending if not entry[1].is_over()]
            loaded.sending.append((connection, group, message))
        else:
            connection.send(message)

    def _cancel_results(self, client: ClientId, message: node.CancelJobs) -> None:
        """A cancel overtakes the result of its job: what is left of that is not sent, just that it has ended."""
        loaded = self._loaded.get((client, message.computation))
        if loaded is None or not loaded.sending:
            return
        cancelled = {(attempt.number, attempt.attempt) for attempt in message.attempts}
        for connection, group, batch in loaded.sending:
            result = batch.ended[0]
            if (result.number, result.attempt) in cancelled and connection.give_up(group):
                ended = node.Ended(
                    result.number,
                    result.attempt,
                    node.TERMINATED,
                    result.start,
                    result.end,
                    b"",
                    reason="cancelled",
                )
                connection.send(node.JobsEnded(batch.batch, batch.computation, [ended]))
        loaded.sending = [entry for entry in loaded.sending if not entry[1].is_over()]

    def _give_up_results(self, key: Key) -> None:
        """Do not send what is left of the results of a computation that its client has closed."""
        loaded = self._loaded.get(key)
        for connection, group, batch in loaded.sending if loaded is not None else ():
            if connection.give_up(group):
                # Its number is told all the same, or none after it would be known to have arrived.
                connection.send(node.JobsEnded(batch.batch, batch.computation, []))

    def _flush_soon(self, action: core.FlushSoon) -> None:
        self._loop.call_later(action.after, self._handle, core.Flush())

    def _release(self, action: core.Release) -> None:
        loaded = self._loaded.get(action.key)
        if loaded is not None:
            for name in action.segments:
                self._segments.remove(loaded.segments, name, was_shared=loaded.is_shared)

    # Results on disk.

    def _store(self, action: core.Store) -> None:
        if self._spool is not None:
            loaded = self._loaded.get((action.client, action.batch.computation))
            self._spool.store(action, loaded.segments if loaded is not None else None)

    def _note_open(self, action: core.NoteOpen) -> None:
        if self._spool is not None:
            self._spool.note(action)

    def _drop_note(self, action: core.DropNote) -> None:
        if self._spool is not None:
            self._spool.drop_note(action.client)

    def _tell_written(self, told: core.Stored, path: Path) -> None:
        """The spool's thread has written something."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._on_written, told, path)

    def _on_written(self, told: core.Stored, path: Path) -> None:
        assert self._spool is not None
        self._spool.on_stored(told, path)
        self._handle(told)

    def _tell_stored(self, action: core.TellStored) -> None:
        connection = self._clients.get(action.client)
        if connection is None or not connection.is_ready:
            return
        assert self._spool is not None
        try:
            message, data = self._spool.load(action.client, action.batch.batch)
        except (OSError, Damaged) as error:
            logger.error("results on disk cannot be read: %s", error)
            reason = f"the job's result was lost on node {self.name}: it cannot be read from disk: {error}"
            lost = [
                node.Ended(
                    e.number, e.attempt, node.TERMINATED, e.start, e.end, b"", reason=reason, died=True
                )
                for e in action.batch.ended
            ]
            message, data = node.JobsEnded(action.batch.batch, action.batch.computation, lost), []
        parts: list[tuple[Any, str, Source]] = []
        for ended in message.ended:
            for attribute in ("stream", "output_stream"):
                place = getattr(ended, attribute)
                if place:
                    parts.append((ended, attribute, data[place - 1]))
        if parts:
            connection.send_streamed(parts, message)
        else:
            connection.send(message)

    def _erase(self, action: core.Erase) -> None:
        if self._spool is None:
            return
        if action.gone:
            self._spool.forget(action.client)
        else:
            self._spool.erase(action.client, action.batches)

    # Hosts.

    def _start_host(self, action: core.StartHost) -> None:
        if action.delay_s:
            self._loop.call_later(action.delay_s, self._restart_host, action)
        else:
            self._load(action)

    def _restart_host(self, action: core.StartHost) -> None:
        computation = self._machine.state.computations.get(action.key)
        if computation is not None and computation.spec is action.compute and not self._stopped.is_set():
            self._load(action)

    def _open_work(self, key: Key, compute: node.Compute) -> Path:
        """The working directory of a computation: the one that it has, or a new one."""
        before = self._loaded.get(key)
        if before is not None:
            return before.work
        prepared = self._prepared.get(key)
        if prepared is not None:
            return prepared.work
        name = _place_name(key)
        if not compute.dest_path and not compute.keep:
            return self._workspace.open(name)
        connection = self._clients.get(key[0])
        address = connection.peer_address if connection is not None else ""
        return self._workspace.open_named(address, compute.dest_path or name, is_kept=compute.keep)

    def _drop_work(self, work: Path) -> None:
        if not self._workspace.leave(work):
            self._segments.drop(work)

    def _load(self, action: core.StartHost) -> None:
        if action.key in self._leaving:
            # The directory is needed, too, and empty.
            self._waiting[action.key] = action
            return
        name = _place_name(action.key)
        spare, self._spare = self._spare, None
        if spare is not None:
            self._loop.remove_reader(spare.control)
            self._loop.remove_reader(spare.output)
        host = spare if spare is not None and not spare.is_dead else None
        try:
            if host is None:
                host = self._new_host()
            work = self._open_work(action.key, action.compute)
            loaded = Loaded(action.key, host, work, self._segments.open(name), action.compute)
            code_path = self._segments.put_code(loaded.segments, action.compute.code)
        except (OSError, ValueError) as error:
            if host is not None:
                host.kill()
                host.process.wait()
                self._close_host(host)
            reason = f"node {self.name} cannot start a process for the computation: {error}"
            # What is short now may be there again in a moment.
            self._loop.call_soon(self._on_host_failed, core.HostFailed(action.key, reason, has_died=True))
            self._loop.call_later(SPARE_S, self._start_spare)
            return
        before = self._loaded.get(action.key)
        if before is not None:
            loaded.brought, loaded.stages = before.brought, before.stages
        self._loaded[action.key] = loaded
        self._prepared.pop(action.key, None)
        self._loop.add_reader(host.output, self._on_output, host)
        self._loop.add_reader(host.control, self._on_host_readable, action.key, loaded)
        host.tell(
            worker_protocol.Load(
                name=action.compute.name,
                code_path=str(code_path),
                work_path=str(loaded.work),
                segment_path=str(loaded.segments),
                node_name=self.name,
                node_ip_addr=outward(self.address[0]),
                isolate=action.compute.isolate,
                free_path=self._segments.free,
                message_timeout_s=action.compute.message_timeout_s,
                setup_per_worker=loaded.per_worker,
                setup_timeout_s=loaded.limit_s,
            )
        )
        # The next computation finds a host that has done its imports already.
        self._loop.call_later(SPARE_S, self._start_spare)

    def _new_host(self) -> HostProcess:
        return HostProcess(workers_max(self.cpus_most), str(self._segments.root), self._account)

    def _start_spare(self) -> None:
        if self._spare is not None or self._stopped.is_set():
            return
        try:
            self._spare = self._new_host()
        except OSError as error:
            # The next computation tries again, and says so if that fails.
            logger.warning("no process can be started ahead: %s", error)
            return
        self._watch_spare()

    def _watch_spare(self) -> None:
        spare = self._spare
        if spare is not None:
            self._loop.add_reader(spare.control, self._on_spare_readable, spare)
            self._loop.add_reader(spare.output, self._on_output, spare)

    def _on_output(self, host: HostProcess) -> None:
        """A host, or code that it loads, has printed something."""
        said = host.read_output()
        if said is None:
            self._loop.remove_reader(host.output)
        elif said:
            with contextlib.suppress(OSError):  # nobody reads what we say
                sys.stderr.write(lines(said))
                sys.stderr.flush()

    def _close_host(self, host: HostProcess) -> None:
        if host.output >= 0:
            self._on_output(host)
            self._loop.remove_reader(host.output)
        host.close()

    def _on_spare_readable(self, spare: HostProcess) -> None:
        """A spare host has nothing to say: it has died."""
        self._loop.remove_reader(spare.control)
        spare.is_dead = True
        spare.kill()
        spare.process.wait()
        self._close_host(spare)
        if self._spare is spare:
            self._spare = None
        logger.warning("a spare host ended with %s", describe_exit(spare.process.returncode))

    def _on_host_readable(self, key: Key, loaded: Loaded) -> None:
        if loaded.host.read(partial(self._on_host_message, key, loaded)):
            return
        self._loop.remove_reader(loaded.host.control)
        self._on_host_dead(key, loaded)

    def _on_host_message(self, key: Key, loaded: Loaded, message: worker_protocol.FromHost) -> None:
        match message:
            case worker_protocol.SettingUp():
                self._loop.call_later(loaded.limit_s + SETUP_GRACE_S, self._end_late_setup, loaded)
            case worker_protocol.Loaded(warning):
                loaded.is_loaded = True
                if warning:
                    logger.warning("%s", block(warning))
                self._handle(core.HostReady(key))
            case worker_protocol.LoadFailed(reason):
                self._handle(core.HostFailed(key, reason))
                self._stop_host(core.StopHost(key))
            case worker_protocol.WorkerStarted(worker, pid):
                if worker in loaded.host.workers:
                    loaded.host.workers[WorkerId(worker)].pid = pid
            case worker_protocol.WorkerExited(worker, code, reason):
                # Of its own workers only: jobs can make their host say anything.
                if worker in loaded.host.workers:
                    failure = loaded.host.workers[WorkerId(worker)].failure
                    reason = failure or reason or f"the job's process ended with {describe_exit(code)}"
                    self._on_worker_exited(WorkerId(worker), reason)

    def _end_late_setup(self, loaded: Loaded) -> None:
        """``setup`` takes too long and has not heeded what its host raised in it."""
        if not loaded.is_loaded:
            self._fail_setup(loaded, self._late(loaded))

    def _late(self, loaded: Loaded) -> str:
        return f"setup failed on {self.name}: it took longer than setup_timeout, {loaded.limit_s:g} s"

    def _fail_setup(self, loaded: Loaded, reason: str) -> None:
        """Give a computation up: its host is killed, with all that ``setup`` has started."""
        loaded.failure = reason
        loaded.host.kill()

    def _end_late_worker(self, handle: WorkerHandle) -> None:
        """The same in a worker."""
        if handle.id in self._owners and not handle.is_set_up:
            self._on_set_up(handle, self._late(self._owners[handle.id][0]))
            self._kill(core.KillWorker(handle.id))

    def _on_set_up(self, handle: WorkerHandle, reason: str) -> None:
        """A worker has called ``setup``, or has failed to.

        If none of this host has ever succeeded the computation is given up. Otherwise the worker ends and others
        go on; should there be no more to be had, it is given up with this reason.
        """
        loaded, _ = self._owners[handle.id]
        handle.is_set_up = True
        handle.failure = reason
        if not reason:
            loaded.was_set_up = True
        elif not loaded.was_set_up:
            self._fail_setup(loaded, reason)

    def _on_host_dead(self, key: Key, loaded: Loaded) -> None:
        """The process that holds a computation is gone: so are its workers, and what they started."""
        loaded.host.kill()
        loaded.host.process.wait()
        loaded.host.kill_workers()
        self._kill_strays(self._own_children())
        reason = f"the computation's host ended with {describe_exit(loaded.host.process.returncode)}"
        for handle in list(loaded.host.workers.values()):
            self._drain(handle)
            self._handle_and_look(core.WorkerDying(handle.id, handle.words[worker_protocol.SLOT_CLAIM]))
        exits = [self._bury(handle, reason) for handle in list(loaded.host.workers.values())]
        self._close_host(loaded.host)
        loaded.host.is_dead = True
        failed = core.HostFailed(key, loaded.failure or reason, exits, has_died=not loaded.failure)
        self._on_host_failed(failed)
        if key in self._loaded:
            self._collect(loaded)

    def _on_host_failed(self, event: core.HostFailed) -> None:
        self._handle(event)
        loaded = self._loaded.get(event.key)
        # Its directories stay if another host is started in its place, also after a while: what lies there
        # belongs to jobs that wait.
        is_over = event.key not in self._machine.state.computations
        if is_over:
            self._drop_prepared(event.key)
        if loaded is not None and loaded.host.is_dead and is_over:
            self._drop_places(event.key)

    def _kill_strays(self, keep: set[int]) -> None:
        kill_strays(keep)

    def _hosts(self) -> list[HostProcess]:
        return [loaded.host for loaded in self._loaded.values() if not loaded.host.is_dead]

    def _own_children(self) -> set[int]:
        hosts = self._hosts() + self._ending
        if self._spare is not None:
            hosts.append(self._spare)
        return {host.process.pid for host in hosts}

    def _stop_host(self, action: core.StopHost) -> None:
        self._waiting.pop(action.key, None)
        self._drop_prepared(action.key)
        loaded = self._loaded.get(action.key)
        if loaded is None:
            return
        self._drop_brought(loaded)
        host = loaded.host
        if host.is_dead:
            self._drop_places(action.key)
            return
        self._loop.remove_reader(host.control)
        for handle in list(host.workers.values()):
            self._loop.remove_reader(handle.replies)
            self._owners.pop(handle.id, None)
            host.forget(handle)
        host.end()
        self._ending.append(host)
        self._segments.drop(loaded.segments)
        # Its directory goes when it has gone: ``cleanup`` may still want what is there.
        self._leaving[action.key] = self._loaded.pop(action.key)
        deadline = self._clock.monotonic() + CLEANUP_S
        self._loop.call_later(REAP_S, self._reap_host, host, deadline, action.key)

    def _reap_host(self, host: HostProcess, deadline: float, key: Key) -> None:
        if host.process.poll() is None:
            if self._clock.monotonic() > deadline:
                host.kill()
            self._loop.call_later(REAP_S, self._reap_host, host, deadline, key)
            return
        leaving = self._leaving.get(key)
        if leaving is not None and leaving.host is host:
            del self._leaving[key]
            self._drop_work(leaving.work)
        if host in self._ending:
            self._ending.remove(host)
        self._close_host(host)
        self._kill_strays(self._own_children())
        waiting = self._waiting.pop(key, None)
        if waiting is not None and not self._stopped.is_set():
            self._perform_by_type[type(waiting)](waiting)

    def _drop_places(self, key: Key) -> None:
        loaded = self._loaded.pop(key, None)
        if loaded is not None:
            self._drop_brought(loaded)
            self._segments.drop(loaded.segments)
            self._drop_work(loaded.work)

    # Files.

    def _send_to(self, client: ClientId, message: node.FromNode) -> bool:
        connection = self._clients.get(client)
        if connection is None or not connection.is_ready:
            return False
        connection.send(message)
        return True

    def _post(self, function: Callable[..., object], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)

    def _stage_files(self, action: core.StageFiles) -> None:
        """Have the files of a computation in its working directory."""
        key, compute = action.key, action.compute
        if key in self._leaving:
            self._waiting[key] = action
            return
        try:
            work = self._open_work(key, compute)
        except (OSError, ValueError) as error:
            reason = f"node {self.name} has no working directory for the computation: {error}"
            self._loop.call_soon(self._handle, core.FilesFailed(key, compute.life, reason))
            return
        done = partial(self._on_staged, key, compute.life)
        stage = Stage(key[0], key[1], compute.files, work, done)
        self._prepared[key] = Prepared(work, stage)
        self._stager.stage(stage)

    def _on_staged(self, key: Key, life: int, reason: str) -> None:
        if not reason:
            self._handle(core.FilesReady(key, life))
            return
        self._drop_prepared(key)
        self._handle(core.FilesFailed(key, life, f"node {self.name}: {reason}"))

    def _drop_prepared(self, key: Key) -> None:
        prepared = self._prepared.pop(key, None)
        if prepared is not None:
            self._stager.drop(prepared.stage, partial(self._drop_work, prepared.work))

    def _stage_job(self, action: core.StageJob) -> None:
        """Have the files of a job here; they are put where it finds them when it starts."""
        key, number = action.key, action.number
        loaded = self._loaded.get(key)
        if loaded is None:
            reason = "its computation is not here any more"
            self._loop.call_soon(self._handle, core.JobFilesReady(key, number, action.attempt, reason))
            return
        if loaded.brought is None:
            loaded.brought = Brought(
                loaded.work,
                self._stager.owner,
                lambda files, done: self._stager.stage(Stage(key[0], key[1], files, loaded.work, done)),
                self._stager.drop,
                self._give,
                self._fail_offer,
            )
        self._forget_brought(key)
        loaded.brought.entries[number] = action.files

        def done(reason: str) -> None:
            loaded.stages.pop(number, None)
            if reason:
                reason = f"node {self.name}: {reason}"
            self._handle(core.JobFilesReady(key, number, action.attempt, reason))

        loaded.stages[number] = self._stager.stage(Stage(key[0], key[1], action.files, None, done))

    def _forget_brought(self, key: Key) -> None:
        """Files of jobs that have left are not needed."""
        loaded = self._loaded.get(key)
        computation = self._machine.state.computations.get(key)
        if loaded is None or loaded.brought is None or computation is None:
            return
        for number in [number for number in loaded.brought.entries if number not in computation.open]:
            del loaded.brought.entries[number]
            stage = loaded.stages.pop(number, None)
            if stage is not None:
                self._stager.drop(stage)

    def _drop_brought(self, loaded: Loaded) -> None:
        """A computation leaves: nothing is on its way for it any more."""
        for stage in loaded.stages.values():
            self._stager.drop(stage)
        loaded.stages.clear()
        brought, loaded.brought = loaded.brought, None
        if brought is not None:
            brought.close()
            self._bringing = {worker: b for worker, b in self._bringing.items() if b is not brought}

    def _place_files(self, client: ClientId, message: node.PlaceFiles) -> None:
        """Put files into a working directory in which jobs may be at work."""
        loaded = self._loaded.get((client, message.computation))
        # A computation that is not here is sent again if it is wanted, and this after it.
        if loaded is None or -message.request in loaded.stages:
            return

        def done(reason: str) -> None:
            loaded.stages.pop(-message.request, None)
            self._send_to(client, node.FilesPlaced(message.computation, message.request, reason))

        stage = Stage(client, message.computation, message.files, loaded.work, done)
        loaded.stages[-message.request] = self._stager.stage(stage)

    def _fail_offer(self, worker: WorkerId, record: worker_protocol.Record, reason: str) -> None:
        """A worker was not given its record: its job, which is the only one, ends."""
        job = record.jobs[0]
        now = self._clock.time()
        ended = node.Ended(
            job.number, job.attempt, node.TERMINATED, now, now, b"", reason=reason, ran=False
        )
        owner = self._owners.get(worker)
        if owner is not None and job.stream:
            self._release(core.Release(owner[0].key, [job.stream]))
        self._handle(core.Ran(worker, record.record, 1, True, False, [ended]))

    # Workers.

    def _fork(self, action: core.ForkWorker) -> None:
        loaded = self._loaded[action.key]
        try:
            handle = loaded.host.fork(action.worker)
        except OSError as error:
            # It has its jobs for a moment, so that we do not try without a pause.
            logger.warning("no worker can be started: %s", error)
            self._loop.call_later(FORK_S, self._fail_fork, action, f"it cannot be started: {error}")
            return
        self._owners[action.worker] = (loaded, handle)
        self._loop.add_reader(handle.replies, self._on_replies, handle)
        if loaded.per_worker and loaded.limit_s:
            self._loop.call_later(loaded.limit_s + SETUP_GRACE_S, self._end_late_worker, handle)

    def _fail_fork(self, action: core.ForkWorker, reason: str) -> None:
        self._handle(core.WorkerExited(action.worker, reason, 0, 0.0, 0.0, []))

    def _offer(self, action: core.Offer) -> None:
        owner = self._owners.get(action.worker)
        if owner is None:
            return  # it could not be started; its end is about to be told
        brought = owner[0].brought
        if brought is not None and brought.offer(action.worker, action.record):
            self._bringing[action.worker] = brought
        else:
            self._give(action.worker, action.record)
        self._schedule_tick()

    def _give(self, worker: WorkerId, record: worker_protocol.Record) -> None:
        """Put a record where its worker finds it."""
        owner = self._owners.get(worker)
        if owner is None:
            return
        try:
            owner[1].jobs.send(_encode(record))
        except OSError as error:
            # Two records always fit, so the worker or its host is broken; its end brings the jobs back.
            logger.error("worker %d takes no jobs: %s", worker, error)
            self._kill(core.KillWorker(worker))

    def _end_bringing(self, worker: WorkerId) -> None:
        """The job that a worker was at has ended: what it brought goes."""
        brought = self._bringing.pop(worker, None)
        if brought is not None:
            brought.release(worker)

    def _recall(self, action: core.Recall) -> None:
        owner = self._owners.get(action.worker)
        if owner is not None:
            untaken = owner[1].untaken()
            brought = self._bringing.get(action.worker)
            withheld = brought.withdraw(action.worker) if brought is not None else None
            if withheld is not None:
                untaken.append(withheld.record)
            self._handle(core.Recalled(action.worker, untaken))

    def _cut(self, action: core.Cut) -> None:
        owner = self._owners.get(action.worker)
        if owner is not None:
            owner[1].words[worker_protocol.SLOT_LIMIT] = action.position

    def _interrupt(self, action: core.InterruptWorker) -> None:
        owner = self._owners.get(action.worker)
        if owner is not None:
            owner[1].words[worker_protocol.SLOT_INTERRUPT] = action.position
            owner[0].host.tell(worker_protocol.Interrupt(action.worker))

    def _kill(self, action: core.KillWorker) -> None:
        owner = self._owners.get(action.worker)
        if owner is not None:
            owner[0].host.tell(worker_protocol.Kill(action.worker))

    def _unbuffer(self, action: core.Unbuffer) -> None:
        owner = self._owners.get(action.worker)
        if owner is not None:
            owner[1].words[worker_protocol.SLOT_UNBUFFER] = action.position
            owner[0].host.tell(worker_protocol.Unbuffer(action.worker))

    def _handle_and_look(self, event: core.Event) -> None:
        """Handle an event; when all is done that it brings, read the output that the core wants to see."""
        self._handle(event)
        while self._looks:
            action = self._looks.pop()
            workers = []
            for place in action.places:
                owner = self._owners.get(place.worker)
                if owner is not None:
                    workers.append((place, owner[1].words, owner[1].output))
            self._handle(core.Looked(action.key, read_printed(workers, action.size_max)))

    def _pass(self, action: core.Pass) -> None:
        owner = self._owners.get(action.worker)
        if owner is not None:
            with contextlib.suppress(OSError):
                owner[1].replies.send(_encode(action.message))

    def _on_replies(self, handle: WorkerHandle) -> None:
        if not self._read_reply(handle):
            self._loop.remove_reader(handle.replies)
        owner = self._owners.get(handle.id)
        connection = self._clients.get(owner[0].client) if owner is not None else None
        if connection is not None:
            connection.flush()

    def _read_reply(self, handle: WorkerHandle) -> bool:
        """Take in one packet of a worker; False if there is none or will be none."""
        try:
            size = handle.replies.recv_into(self._packet)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not size:
            return False
        packet = self._packet_view[:size]
        try:
            if packet[0] == worker_protocol.RAN:
                flags, executed, record, ended = worker_protocol.unpack_ran(packet)
                if self._bringing:
                    self._end_bringing(handle.id)
                self._handle(
                    core.Ran(
                        handle.id,
                        record,
                        executed,
                        bool(flags & worker_protocol.LAST_OF_RECORD),
                        bool(flags & worker_protocol.RETIRING),
                        ended,
                    )
                )
            elif packet[0] == worker_protocol.SET_UP:
                if handle.id in self._owners:
                    self._on_set_up(handle, worker_protocol.unpack_set_up(packet))
            else:
                value = worker_protocol.provisional_decoder.decode(packet[1:])
                self._handle(
                    core.ValueSent(
                        handle.id,
                        value.number,
                        value.attempt,
                        value.serial,
                        value.payload,
                        value.stream,
                        value.file,
                    )
                )
        except worker_protocol.NONSENSE as error:
            logger.error("worker %d sent nonsense and is ended: %s", handle.id, error)
            self._kill(core.KillWorker(handle.id))
        return True

    def _on_worker_exited(self, worker: WorkerId, reason: str) -> None:
        owner = self._owners.get(worker)
        if owner is None:
            return
        _, handle = owner
        self._drain(handle)
        self._handle_and_look(core.WorkerDying(worker, handle.words[worker_protocol.SLOT_CLAIM]))
        loaded, _ = self._owners[worker]
        self._handle(self._bury(handle, reason))
        self._collect(loaded)

    def _collect(self, loaded: Loaded) -> None:
        """Remove what dead processes of a computation have left."""
        held = segments_held(self._machine.state, loaded.key) | set(loaded.values.values())
        self._segments.collect(loaded.segments, held)

    def _drain(self, handle: WorkerHandle) -> None:
        """Take in what a dead worker left: packets on their way, and results in its arena."""
        self._loop.remove_reader(handle.replies)
        while self._has_reply(handle):
            if not self._read_reply(handle):
                break
        packet = handle.committed()
        if packet:
            with contextlib.suppress(*worker_protocol.NONSENSE):
                _, _, _, ended = worker_protocol.unpack_ran(packet)
                self._handle(core.Ran(handle.id, 0, 0, False, True, ended))

    def _bury(self, handle: WorkerHandle, reason: str) -> core.WorkerExited:
        """Forget a drained worker; what the core offered it until now is found untaken."""
        loaded, _ = self._owners.pop(handle.id)
        self._end_bringing(handle.id)
        exited = core.WorkerExited(
            handle.id,
            reason,
            handle.words[worker_protocol.SLOT_CLAIM],
            handle.started(),
            self._clock.time(),
            handle.untaken(),
        )
        loaded.host.forget(handle)
        return exited

    def _has_reply(self, handle: WorkerHandle) -> bool:
        import select

        poller = select.poll()
        poller.register(handle.replies, select.POLLIN)
        return any(event & select.POLLIN for _, event in poller.poll(0))


def _place_name(key: Key) -> str:
    """Of the directories of a computation; clients know it."""
    return f"{key[0].hex()[:8]}-{key[1]}"


def _is_large(result: node.Ended) -> bool:
    """Whether it lies in segments; it is then the only one of its batch."""
    return bool(result.stream or result.output_stream)


assert limits.INLINE_MAX < worker_protocol.RECORD_BYTES_MAX
