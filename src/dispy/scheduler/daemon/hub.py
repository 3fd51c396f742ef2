"""The hub of a shared scheduler: programs on one side, the core with its nodes on the other.

What programs say goes to the core by ``commands``; what the core tells comes here, as to any observer of a scheduler,
and goes to the program that it is for. Nothing is told of clusters that are closed.

The life of a program here:

    state      event                                             next
    none       ``Attach`` of an unknown identity                 attached
    attached   the connection is gone                            away: its jobs go on, results are kept
    away       ``Attach`` of its identity                        attached: what it lacks is sent again
    away       the lease is over                                 none: its clusters are closed
    attached   ``Detach``                                        none: its clusters are closed
    attached   it breaks the rules                               none: it is told so, its clusters are closed
    any        ``Attach`` of a recovery, in its name             dead: as away or attached, but for the recovery
    dead       its last cluster is closed, and the recovery gone none

Everything runs on the loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from msgspec import DecodeError

from dispy.core import scheduling as core
from dispy.core.scheduling.explain import why_open
from dispy.core.scheduling.ids import ClientId, NodeId
from dispy.errors import AuthenticationError, InternalError, RemoteProtocolError, SilenceError
from dispy.net.connection import Connection
from dispy.net.links.channel import Channel
from dispy.net.links.file_exchange import FileExchange
from dispy.net.stream_sinks import PoolSink
from dispy.protocol import node, shared
from dispy.protocol.limits import MIB
from dispy.protocol.views import NodeInfo
from dispy.scheduler.daemon import absence, commands, recovery, windows
from dispy.scheduler.daemon.disk_memory import DiskMemory
from dispy.scheduler.daemon.files import FileKeeper, ProgramFiles
from dispy.scheduler.daemon.needed_files import note_sent, pass_on
from dispy.scheduler.daemon.news import News
from dispy.scheduler.daemon.node_search import NodeAccess, NodeSearch
from dispy.scheduler.daemon.payload_rooms import PayloadRoom
from dispy.scheduler.daemon.programs import Program
from dispy.scheduler.daemon.standstills import LOOK_S, tell_standstills
from dispy.scheduler.service import SchedulerService
from dispy.security.identities import Identity
from dispy.settings import PAYLOAD_MEMORY, PULSE_S, UserSettings
from dispy.system.addresses import is_loopback
from dispy.system.clock import Clock
from dispy.system.escaping import line
from dispy.system.shared_memory import SHARED_MIN, SharedPool
from dispy.system.wording import counted

logger = logging.getLogger("dispy.scheduler")

FAREWELL_S = 1.0
"""Seconds that a program which is thrown out has to read why."""

UNREAD_MAX = MIB
"""Bytes that a program has not read beyond which its questions are not answered."""

FILES_MAX = 4096
"""Most payloads that are held as files in memory at once; further ones are copied."""


class Hub:
    """Programs and nodes of one shared scheduler.

    Args:
        identity: 16 bytes that name the scheduler to nodes and programs.
        name: Name of the scheduler, for people.
        access: How nodes are dialed.
        lease_s: Seconds for which jobs and results of a program that is away are kept; infinite: for ever.
        policy: One of ``settings.POLICIES``.
        users: What users get, by login name; None: all alike.
        is_closed_to_others: True if programs of users that are not in ``users`` are refused.
        is_cooperative: True if each program may limit the CPUs of nodes for all.
        cleans_nodes: True if working directories are removed from nodes whatever programs want.
        clock: Source of the time (monotonic seconds).
        payload_memory: Bytes of large payloads that each program may have in memory here.

    Attributes:
        service: The core, with the links to nodes.
        search: The search for nodes.
        keeper: Where files of programs are kept; None: nowhere.
        memory_name: Name of the scheduler's directory in memory; empty: it has none.
        is_strict: True if an exclusive cluster is alone with all nodes, in the order in which clusters were opened.
        is_closing: True once the scheduler ends: it takes no new clusters.
        on_last_closed: Called when the last cluster is closed while the scheduler ends; None: nothing is.
        programs: Programs by their number in the core.
    """

    def __init__(
        self,
        identity: bytes,
        name: str,
        access: NodeAccess,
        *,
        lease_s: float = math.inf,
        policy: str = "fair",
        users: dict[str, UserSettings] | None = None,
        is_closed_to_others: bool = False,
        is_cooperative: bool = False,
        cleans_nodes: bool = False,
        clock: Clock = time,
        payload_memory: int = PAYLOAD_MEMORY,
    ) -> None:
        self.name = name
        self.epoch = 1
        self.is_cooperative = is_cooperative
        self.cleans_nodes = cleans_nodes
        self.is_closing = False
        self.memory_name = ""
        self._memory_path = ""
        self._payload_memory = payload_memory
        self._disk: DiskMemory | None = None
        self._copier: ThreadPoolExecutor | None = None
        """Thread that copies payloads to disk."""
        self.keeper: FileKeeper | None = None
        self.on_last_closed: Callable[[], None] | None = None
        self._lease_s = lease_s
        self.programs: dict[ClientId, Program] = {}
        self.news = News(self.programs)
        self.is_strict = policy == "exclusive"
        order = core.Policy.FAIR if self.is_strict else core.Policy(policy)
        self.service = SchedulerService(identity, name, self.news, clock, order)
        self._users = users or {}
        self._is_closed_to_others = is_closed_to_others
        for user, gets in self._users.items():
            self.service.handle(core.LimitUser(user, gets.weight, gets.cpus_max, gets.queued_max))
        self.search = NodeSearch(self.service, access, self.programs, self.news.on_unreachable)
        self.news.begin(self.service, self.search)
        self._by_identity: dict[bytes, Program] = {}
        self._by_connection: dict[Connection, Program] = {}
        self._timer: asyncio.TimerHandle | None = None
        """Timer of the next look for jobs that stand still."""
        self._last_client = 0
        """Number of the last program; 0 is that of an embedded scheduler."""
        self._last_wire = 0
        """Number by which nodes know the last computation; never used twice."""

    def begin(self) -> None:
        """Look for nodes, for jobs that stand still, and for files of programs that are away, from now on."""
        self.search.begin()
        self._look()

    def _look(self) -> None:
        if self.service.links.memory is not None:
            self.service.links.memory.give_back()
        tell_standstills(self.service, self.programs.values())
        pass_on(self.service, self.programs.values())
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def new_wire(self) -> int:
        """Returns the number by which nodes know a new computation."""
        self._last_wire += 1
        return self._last_wire

    def share(self, root: Path) -> None:
        """Exchange payloads by name, with nodes and programs of this machine, in a directory in memory."""
        pool = SharedPool(str(root), adopted_min=SHARED_MIN, files_max=FILES_MAX)
        self.service.links.memory = pool
        self.memory_name, self._memory_path = root.name, str(root)

    def spill(self, root: Path) -> None:
        """Put large payloads on disk that are more than a program may have in memory, below a directory."""
        self._disk = DiskMemory(root)
        self._copier = ThreadPoolExecutor(1, "dispy copies")

    def find(self, node_id: NodeId) -> NodeInfo | None:
        """Returns the description of a node; None if it is not there."""
        return next((info for info in self.service.links.nodes() if info.node == node_id), None)

    # Connections of programs (``net.connection.Owner``).

    def on_ready(self, connection: Connection) -> None:
        """The program has proved itself; its ``Attach`` follows."""
        connection.set_pulse(PULSE_S)

    def on_message(self, connection: Connection, message: Any) -> None:
        """Handle a message of a program.

        Raises:
            RemoteProtocolError: The program breaks the rules: its connection ends.
        """
        program = self._by_connection.get(connection)
        if program is None:
            if type(message) is not shared.Attach:
                raise RemoteProtocolError(f"{type(message).__name__} before Attach")
            self._attach(connection, message)
        else:
            try:
                self._take(program, connection, message)
            except RemoteProtocolError as error:
                self._throw_out(program, connection, error)
                raise

    def _take(self, program: Program, connection: Connection, message: Any) -> None:
        """Handle a message of a program that has introduced itself."""
        if program.channel.on_message(connection, message):
            if program.channel.count_waiting or program.is_stuffed:
                windows.check_waiting(program)
        elif type(message) is shared.Ask:
            # One that does not read its answers gets none.
            if connection.count_unsent() < UNREAD_MAX:
                self._answer(program, message)
        elif type(message) is node.SetPulse:
            connection.set_pulse(message.pulse_s)
        elif type(message) is shared.Recover and program.is_dead:
            recovery.answer(connection, program, message)
        elif type(message) is shared.Detach:
            self._forget(program, "it has left")
        else:
            raise RemoteProtocolError(f"{type(message).__name__} after Attach")

    def _perform_later(self, program: Program, then: Callable[[Any], None], payload: Any) -> None:
        """Go on with a message of a program, or to one, when its large payload is on disk."""
        if self.programs.get(program.client) is not program:
            return
        try:
            then(payload)
        except RemoteProtocolError as error:
            if program.connection is not None:
                connection = program.connection
                self._throw_out(program, connection, error)
                connection.refuse(error)
            else:
                self._forget(program, f"it breaks the rules: {error}")

    def make_sink(self, connection: Connection, size: int) -> PoolSink:
        """Returns the sink for a payload that arrives from a program."""
        program = self._by_connection.get(connection)
        return PoolSink(size, program.room.take) if program is not None else PoolSink(size)

    def _throw_out(self, program: Program, connection: Connection, error: RemoteProtocolError) -> None:
        """Forget a program that breaks the rules, and end its connection, soon also if it does not read."""
        logger.warning("program %s of %s is thrown out: %s", program.name, program.user or "nobody", error)
        if connection.is_ready:
            connection.send(shared.Leaving(f"this program breaks the rules: {error}"))
        program.connection = None
        program.channel.suspend()
        self._by_connection.pop(connection, None)
        self._forget(program, "it breaks the rules")
        asyncio.get_running_loop().call_later(FAREWELL_S, connection.abort, error)

    def on_closed(self, connection: Connection, error: Exception | None) -> None:
        """The connection is gone: the program's jobs go on, and its lease begins."""
        program = self._by_connection.pop(connection, None)
        if program is None or program.connection is not connection:
            return
        program.connection = None
        program.channel.suspend()
        if isinstance(error, (RemoteProtocolError, DecodeError)):
            # What cannot be read may be damage on the line, so the program may come back.
            logger.warning("program %s of %s: %s", program.name, program.user or "nobody", error)
        if not program.clusters:
            self._forget(program, "it has no cluster")
            return
        if isinstance(error, InternalError):
            # What could not be said or done would fail again when it comes back. It was told that we leave it.
            logger.error("program %s is given up: %s", program.name, error)
            self._forget(program, "a fault of the scheduler")
            return
        why = f": {error}" if error is not None else ""
        who = "recovery of program" if program.is_dead else "program"
        logger.info("%s %s is away%s; its jobs go on", who, program.name, why)
        absence.begin(self.service, program)
        if not math.isinf(self._lease_s):
            loop = asyncio.get_running_loop()
            program.lease = loop.call_later(self._lease_s, self._forget, program, "its lease is over")

    def _attach(self, connection: Connection, message: shared.Attach) -> None:
        program = self._by_identity.get(message.client)
        if connection.peer is not None:
            message.user = connection.peer.name  # proved by its key, whatever it claims
            if program is not None and program.user != message.user:
                logger.warning("%s asks for a program of %s", connection.peer, program.user or "nobody")
                connection.send(shared.Leaving("that program is another user's"))
                connection.close()
                return
        if self._is_closed_to_others and message.user not in self._users:
            connection.send(shared.Leaving(f"user {line(message.user)!r} is not known here"))
            connection.close()
            return
        is_known = program is not None
        if program is None and message.is_recovery:
            # It closes the connection.
            connection.send(shared.Welcome(self.service.links.identity, self.epoch, self.name))
            return
        if program is not None and program.is_dead and not message.is_recovery:
            connection.send(shared.Leaving("another program recovers its jobs"))
            connection.close()
            return
        if program is None:
            program = self._add(message)
        elif program.connection is not None:
            old, program.connection = program.connection, None
            self._by_connection.pop(old, None)
            program.channel.suspend()
            old.abort(RemoteProtocolError("replaced by a newer connection"))
        if program.lease is not None:
            program.lease.cancel()
            program.lease = None
        program.connection, program.proved = connection, connection.peer
        self._by_connection[connection] = program
        if message.is_recovery:
            logger.info("program %s is recovered by %s", program.name, line(message.origin) or "nobody")
            recovery.begin(self, program)
        else:
            who = connection.peer or line(message.origin) or "nobody"
            logger.info("program %s of %s is there", program.name, who)
        received = program.channel.releases.attach()
        welcome = shared.Welcome(self.service.links.identity, self.epoch, self.name, received, is_known)
        program.channel.files = FileExchange()
        if message.memory and self.memory_name and is_loopback(connection.peer_address):
            files = FileExchange(self.service.links.memory, self._memory_path, _file_name(message.memory))
            if files.is_possible:
                program.channel.files = files
                welcome.memory = self.memory_name
        connection.send(welcome)
        # One that we do not know has news of a scheduler that was here before.
        program.channel.resume(connection, message.received if is_known else 0)
        absence.end(self.service, program)
        if message.is_recovery:  # what the program was asked for it may not have sent
            program.files.ask_again()

    def _add(self, message: shared.Attach) -> Program:
        self._last_client += 1
        client = ClientId(self._last_client)

        def perform(command: Any) -> None:
            commands.perform(self, program, command)

        def later(then: Callable[[Any], None], payload: Any) -> None:
            self._perform_later(program, then, payload)

        room = PayloadRoom(self._payload_memory, self._disk, self._copier, later)
        channel = Channel(perform, asyncio.get_running_loop().call_later, keep=room.keep)

        def ask(cluster: int, node_id: bytes, need: node.NeedFiles) -> None:
            channel.send(shared.FilesNeeded(0, cluster, node_id, need))

        def send(cluster: int, node_id: bytes, pieces: list[node.FilePiece]) -> None:
            if cluster in program.clusters:
                note_sent(program.clusters[cluster], NodeId(node_id), pieces)
            self.service.send_pieces(NodeId(node_id), client, cluster, pieces)

        files = ProgramFiles(self.keeper, f"program-{client}", ask, send)
        user, name = line(message.user), line(message.name)
        program = Program(client, message.client, name, user, channel, room, files)
        self.programs[client] = self._by_identity[message.client] = program
        self.service.handle(core.AddClient(client, message.user, program.name))
        return program

    def _forget(self, program: Program, why: str) -> None:
        """Close all clusters of a program, and forget it."""
        logger.info("program %s is gone: %s", program.name, why)
        for cluster in list(program.clusters.values()):
            commands.close(self, program, cluster)
        self.service.handle(core.RemoveClient(program.client))
        program.files.close()
        self.programs.pop(program.client, None)
        self._by_identity.pop(program.identity, None)
        if program.lease is not None:
            program.lease.cancel()
        if program.connection is not None:
            self._by_connection.pop(program.connection, None)
            program.connection.close()
            program.connection = None

    def revoke(self, is_revoked: Callable[[Identity], bool]) -> None:
        """Throw out the programs whose keys are revoked, also those that are away: their jobs end."""
        error = AuthenticationError("its key is revoked")
        for program in list(self.programs.values()):
            if program.proved is not None and is_revoked(program.proved):
                logger.warning("program %s of %s is thrown out: %s", program.name, program.proved, error)
                connection = program.connection
                if connection is not None:
                    connection.send(shared.Leaving(str(error)))
                self._forget(program, str(error))

    def close(self, reason: str) -> None:
        """End all links. Nodes end the jobs of programs, which are told that the scheduler leaves."""
        self.is_closing = True
        for program in list(self.programs.values()):
            if program.connection is not None:
                program.connection.send(shared.Leaving(reason))
                program.connection.close()
        self.search.close()
        if self._timer is not None:
            self._timer.cancel()
        self.service.close()
        if self._copier is not None:
            self._copier.shutdown(wait=False, cancel_futures=True)
        if self.keeper is not None:
            self.keeper.close()

    # Questions.

    def _answer(self, program: Program, ask: shared.Ask) -> None:
        question, answer = ask.question, shared.Answer(ask.serial)
        computation = self.service.state.computations.get((program.client, question.cluster))
        if computation is None:
            answer.error = "the scheduler does not know the cluster"
        elif question.node:
            try:
                serial = self.news.expect(program, ask.serial)
                self.service.ask_jobs(NodeId(question.node), program.client, question.cluster, serial)
            except SilenceError as error:
                answer.error = str(error)
            else:
                return
        elif question.job in program.clusters[question.cluster].open:
            answer.where = why_open(computation, question.job)
            for info in self.service.links.nodes():
                silent_s = self.service.links.silent_s(info.node)
                if info.node in computation.placements and silent_s > 2 * self.service.links.pulse_s:
                    answer.silent.append(f"node {info.name} has said nothing for {silent_s:g} s")
        else:
            answer.where = "it is on its way to the scheduler, or its result on the way back"
        if program.connection is not None:
            program.connection.send(answer)

    def count_clusters(self) -> int:
        """Returns the number of open clusters of all programs."""
        return sum([len(program.clusters) for program in self.programs.values()])

    def status(self) -> str:
        """Returns what the scheduler has, in words, a line for each node and program."""
        infos = self.service.links.nodes()
        cpus = sum([info.cpus for info in infos])
        said = [f"{counted(len(infos), 'node', zero='no')}, {counted(cpus, 'CPU', zero='no')}"]
        said += [
            f"  {info.name} at {info.ip_addr}:{info.port}, {counted(info.cpus, 'CPU')}" for info in infos
        ]
        said.append(counted(len(self.programs), "program", zero="no"))
        for program in self.programs.values():
            waits = sum([len(cluster.open) for cluster in program.clusters.values()])
            names = ", ".join([cluster.name for cluster in program.clusters.values()]) or "no cluster"
            away = "" if program.is_there else ", away"
            missing = program.files.count_missing() if away else 0
            if program.is_held:
                away += f", jobs held: {counted(program.kept, 'result')} kept for it"
            if missing:
                away += f", {counted(missing, 'file')} not here that only the program has"
            said.append(
                f"  {program.name} of {program.user or 'nobody'}: {names}, {counted(waits, 'open job')}{away}"
            )
        return "\n".join(said)


def _file_name(text: str) -> str:
    """Returns a name that a program has given for its directory; empty if it is none of a program's.

    Those of nodes are told to programs, which are not to reach them by it.
    """
    prefix, _, identity = text.partition("-")
    return text if prefix == "client" and identity.isascii() and identity.isalnum() else ""
