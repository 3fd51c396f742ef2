"""A computer with a node on it: the real service, over processes, files and a network that are played."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dispy.core import execution as core
from dispy.core import staging
from dispy.core.execution.dispatch import workers_max
from dispy.core.execution.ids import ClientId
from dispy.errors import RemoteProtocolError
from dispy.files.fetching import stager, wanted_files
from dispy.net.connection import Connection
from dispy.node.guard import Owner
from dispy.node.processes.file_helpers import attempt
from dispy.node.results import delivery
from dispy.node.service import NodeService
from dispy.node.staging import working_directories
from dispy.node.state import NodeParts
from dispy.protocol import node
from dispy.protocol.connection.stranger import HANDSHAKE_S
from dispy.protocol.node import Available, Job
from dispy.protocol.worker import SLOT_CLAIM
from dispy.security.keys import alone
from dispy.security.secrets import Secret
from dispy.settings import NodeSettings

from . import checks
from .contents import PIECE_MAX, PIECES_MAX
from .disk import Disk, Spool
from .files import Files
from .kept import Kept
from .loop import Loop
from .processes import HostProcess
from .show import show_event
from .turns import Pool
from .work import WorkSpace, find_wrong_among, find_wrong_of
from .world import Party, World

if TYPE_CHECKING:
    from dispy.protocol.files import FileEntry

    from .jobs import Account, Entry
    from .network import End, Network

SECRET = Secret(alone(b"k" * 32), is_own=False)
PORT = 51348

PUT_MAX_S = 2.0
"""What a thread does with a file takes no longer than twice that."""


class Listener:
    """Accepts the connections that arrive at a computer; everybody who dials there is honest."""

    def __init__(
        self, make: Callable[[Callable[[Connection], None]], Connection], computer: Computer
    ) -> None:
        self._make = make
        self._computer = computer
        self._half_open: dict[Connection, asyncio.TimerHandle] = {}

    def listen(self, host: str, port: int) -> tuple[str, int]:
        """Begin."""
        assert self._computer.party is not None
        self._computer.machine.listener = (self._computer.party, self._on_accept)
        return self._computer.host, PORT

    def close(self) -> None:
        """Stop listening; who has proved himself stays."""
        self._computer.machine.listener = None
        for connection in list(self._half_open):
            self._drop(connection)

    def _on_accept(self, end: End) -> None:
        if end.is_gone or self._computer.machine.listener is None:
            end.abort()
            return
        connection = self._make(self._on_settled)
        loop = asyncio.get_running_loop()
        self._half_open[connection] = loop.call_later(HANDSHAKE_S, self._drop, connection)
        end.begin(connection)

    def _on_settled(self, connection: Connection) -> None:
        self._half_open.pop(connection).cancel()

    def _drop(self, connection: Connection) -> None:
        connection.refuse(RemoteProtocolError("no proof in time"))


class Stager(stager.Stager):
    """The node's stager, with threads that are played."""

    def __init__(self, service: Service) -> None:
        self._service = service
        computer = self._computer = service.computer
        party = computer.party
        assert party is not None

        def pause() -> float:
            seconds = computer.put_s * computer.world.chance() * computer.slowness * computer.delay
            return min(seconds, PUT_MAX_S)

        def threads(count: int, _: str) -> Pool:
            self.pools.append(pool := Pool(computer.world, party, count, pause))
            return pool

        self.pools: list[Pool] = []
        self.unwritten: dict[int, tuple[bytes, int]] = {}
        """Whose pieces threads are to put away, and how many bytes, by number of the write."""
        super().__init__(
            computer.kept,  # type: ignore[arg-type]
            wanted_files.Seams(
                self._send,
                service._post,
                service.loop.call_later,
                service.workspace.tree,
                threads,
                piece_max=PIECE_MAX,
                pieces_max=PIECES_MAX,
                clock=computer.world.monotonic,
            ),
        )

    def _send(self, client: bytes, message: node.FromNode) -> bool:
        if type(message) is node.NeedFiles:
            self.check()
        return delivery.send_to(self._service, ClientId(client), message)

    def handle(self, event: staging.Event, at: float = 0.0) -> None:
        """Count what is put away, without the help of the core."""
        if type(event) is staging.Written:
            self.unwritten.pop(event.write, None)
        super().handle(event, at)

    def _note_write(self, action: staging.Write) -> None:
        size = sum(piece.size for piece in action.pieces)
        self.unwritten[action.write] = (self.machine.state.writes[action.write][0], size)
        self._write(action)

    perform_by_type = {**stager.Stager.perform_by_type, staging.Write: _note_write}

    def stage(self, stage: wanted_files.Stage) -> wanted_files.Stage:
        """Note when files are said to be there that were sent."""
        computer, done, work = self._computer, stage.done, stage.work
        sent = self._service.placing.get(id(stage.entries))
        if sent is stage.entries and work is not None:
            del self._service.placing[id(sent)]

            def note(reason: str) -> None:
                if not reason and computer.work is not None:
                    computer.work.on_placed(work, sent)
                done(reason)

            stage.done = note
        return super().stage(stage)

    def writing(self) -> Counter[bytes]:
        """Bytes of each client that threads are to put away."""
        found: Counter[bytes] = Counter()
        for client, size in self.unwritten.values():
            found[client] += size
        return found

    def check(self) -> None:
        """No more is asked for at once than may be."""
        state = self.machine.state
        writing = self.writing()
        for client in state.suppliers:
            fetches = [fetch for fetch in state.fetches.values() if fetch.supplier == client]
            asked = sum(sum(fetch.offsets.values()) for fetch in fetches)
            early = sum(piece.size for fetch in fetches for piece in fetch.early.values())
            size = asked + early + writing[client]
            if size >= PIECES_MAX + PIECE_MAX:
                self._computer.world.fail(
                    f"{self._computer.name} has {size} bytes of pieces of a client asked for and not put away"
                )

    def misses(self, client: bytes, computation: int) -> bool:
        """Whether files of a computation, or of its jobs, are not here."""
        return any(
            stage.missing and stage.supplier == client and stage.computation == computation
            for stage in self.machine.state.stages.values()
        )

    def find_unwanted(self) -> str | None:
        """What a thread is to do though nobody wants it."""
        state = self.machine.state
        for queues in state.queues.values():
            for task in [work.task for queue in queues.values() for work in queue]:
                if isinstance(task, (staging.Search, staging.Look, staging.Place)):
                    if task.stage not in state.stages:
                        return "a thread is to look for files that nobody wants"
                elif isinstance(task, staging.Open) and task.part not in state.parts:
                    return "a thread is to open the part of a file that nobody wants"
        return None

    def held(self) -> list[tuple[str, int]]:
        """What it holds, counted."""
        state = self.machine.state
        return [
            ("stages", len(state.stages) + len(self._stages)),
            ("files that are fetched", len(state.fetches) + len(state.parts)),
            ("pieces that were asked for", sum(len(fetch.offsets) for fetch in state.fetches.values())),
            ("bytes of pieces", sum(known.size for known in state.suppliers.values())),
            ("parts that are open", sum(known.parts for known in state.suppliers.values())),
            ("work for threads", len(state.stage_work) + len(state.part_work) + len(state.writes)),
            ("threads at work", sum(not pool.is_idle() for pool in self.pools)),
        ]


def _stage_files(service: Any, action: core.StageFiles) -> None:
    working_directories.stage_files(service, action)
    prepared = service.prepared.get(action.key)
    if prepared is not None and service.computer.work is not None:
        service.computer.work.on_stage(prepared.work, action.compute.files)


class Strays:
    """What jobs leave: nothing. Workers have no children, and hosts are looked after one by one."""

    def kill(self, keep: set[int]) -> None:
        """Kill nobody."""

    def reap(self, own: set[int]) -> None:
        """Reap nobody."""


class Service(NodeService):
    """The node's service; only what touches the machine below is another."""

    perform_by_type = {**NodeService.perform_by_type, core.StageFiles: _stage_files}

    def __init__(self, computer: Computer, settings: NodeSettings, parts: NodeParts) -> None:
        super().__init__(settings, parts)
        self.computer = computer
        self._asked: deque[tuple[Callable[[], Any], Callable[[Any], None]]] = deque()
        """What another process is to do with files, and who is told."""
        self.placing: dict[int, list[FileEntry]] = {}
        """What it was told to put into directories, by itself."""
        entrance: Any = self.entrance
        entrance._listener = Listener(entrance._new_connection, computer)
        self.strays = Strays()  # type: ignore[assignment]
        self.stager = Stager(self)
        if computer.disk is not None:
            tell = self._tell_written
            self.spool = Spool(computer, self.incarnation, SECRET.fingerprint(), tell)
        checks.watch_node(computer, self.machine)

    def contain(self, owner: Owner, error: Exception) -> None:
        """Fail the world: an exception in the node, whatever it came for."""
        self.computer.world.fail(f"{self.computer.name} has a fault for {owner!r}: {error!r}")

    def with_files(self, account: Any, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """In every second world another process does it, one thing after the other, and takes its time."""
        if self.computer.world.seed % 2 or self.computer.work is None or self.stopped.is_set():
            super().with_files(None, work, then)
            return
        self._asked.append((work, then))
        if len(self._asked) == 1:
            self._answer_later()

    def _answer_later(self) -> None:
        computer = self.computer
        assert computer.party is not None
        pause = min(computer.put_s * computer.world.chance() * computer.slowness, PUT_MAX_S)
        computer.world.after(pause, computer.party, self._answer)

    def _answer(self) -> None:
        if not self._asked:
            return  # done when the node began to end
        work, then = self._asked[0]
        result = attempt(work)
        self._asked.popleft()
        if self._asked:
            self._answer_later()
        then(result)

    async def _end(self) -> None:
        while self._asked:
            attempt(self._asked.popleft()[0])
        await super()._end()

    def new_host(self, account: Any) -> Any:
        if self.computer.forks_fail:
            self.computer.note_refusal()
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return HostProcess(self.computer, workers_max(self.cpus))

    def handle(self, event: core.Event) -> None:
        if type(event) is core.Restored and self.computer.disk is not None:
            self.computer.disk.taken_over += sum(len(batch.ended) for batch in event.batches)
        super().handle(event)

    def on_message(self, connection: Connection, message: Any) -> None:
        """Files that are to be put somewhere are noted."""
        client = self.connections.get(connection)
        work = self.computer.work
        if type(message) is node.PlaceFiles and client is not None and work is not None:
            loaded = self.loaded.get((client, message.computation))
            if loaded is not None and message.request not in loaded.requests:
                work.on_place(loaded.work, message.files)
                self.placing[id(message.files)] = message.files
        super().on_message(connection, message)

    def find_unwanted(self) -> str | None:
        """What is done about files though nobody wants it."""
        for key, loaded in self.loaded.items():
            computation = self.machine.state.computations.get(key)
            for number in loaded.stages:
                # Those of files that are sent are negative.
                if number > 0 and (computation is None or number not in computation.staging):
                    return f"files are on their way for job {number}, which does not wait for them"
        return self.stager.find_unwanted()

    def kill_spool(self) -> None:
        """The node is dead."""
        if isinstance(self.spool, Spool):
            self.spool.kill()

    @property
    def is_ending(self) -> bool:
        """Whether it is about to stop."""
        return self.stopped.is_set()

    def handle_and_look(self, event: core.Event) -> None:
        self.handle(event)
        while self.looks:
            action = self.looks.pop()
            glimpses = []
            for place in action.places:
                owner = self.owners.get(place.worker)
                handle: Any = owner[1] if owner is not None else None
                if handle is not None and handle.words[SLOT_CLAIM] == place.position:
                    said = handle.printed[place.stdout_at :]
                    glimpses.append(
                        core.Glimpse(place.worker, place.position, place.stdout_at, said, 0, b"")
                    )
            self.handle(core.Looked(action.key, glimpses))

    def has_reply(self, handle: Any) -> bool:
        return bool(handle.replies.packets)


class Computer:
    """A machine with one node.

    Args:
        world: Where it is.
        network: What it is connected to.
        ledger: The accounts of all programs, by identity.
        number: Its number.
        cpus: Of the node.
        lease_s: Of the node.
        silence_s: After so long a client counts as gone.
        disk: What its nodes leave to those after them; None: they have no spool.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        ledger: dict[bytes, Account],
        number: int,
        cpus: int,
        lease_s: float,
        silence_s: float,
        disk: Disk | None,
    ) -> None:
        self.world = world
        self.network = network
        self.ledger = ledger
        self.name = f"node{number}"
        self.host = f"10.0.0.{number}"
        self.machine = network.machine(self.host)
        self.cpus = cpus
        self.lease_s = lease_s
        self.silence_s = silence_s
        self.disk = disk
        self.deaths = 0
        """How often something was lost here that nodes had."""
        self.incarnation = b""
        """Of the node, or of the last one."""
        self.slowness = 1.0
        self.load_s = 0.02
        self.loads_fail = False
        self.forks_fail = False
        self.setups_hang = False
        self.put_s = 0.0001
        """How long half of it takes at most to look for files, put them away, or place them (seconds)."""
        self.delay = 1.0
        """How much longer that takes now."""
        self.kept = Kept(world, 1 << 30)
        """What nodes keep of files."""
        self.root: Path | None = None
        """A directory on the memory file system; None: computations have no files."""
        self.work: WorkSpace | None = None
        """Working directories of the node, if computations have files."""
        self.files = Files()
        self.hosts: dict[HostProcess, None] = {}
        """Host processes that live, of this node or of one that is dead."""
        self.party: Party | None = None
        self.service: Service | None = None
        """The node, if one runs."""
        self._is_stopping = False
        """The node was told to stop."""
        self._starts_again = False
        """A node is to be started when the one that is about to stop has."""
        self._pids = 0
        self._starts = 0

    # For processes.

    def new_pid(self) -> int:
        """A number for a process."""
        self._pids += 1
        return self._pids

    def reach(self, party: Party, what: Callable[..., object], *arguments: Any) -> None:
        """Have something reach a process of this computer, a wake-up later."""
        world = self.world
        delay = (10e-6 + 60e-6 * world.chance()) * self.slowness
        world.arrive(world.now + delay, party, what, *arguments)

    def note_refusal(self) -> None:
        """Jobs or computations may be refused."""
        self.world.has_refusals = True

    def check_failure(self, host: HostProcess) -> None:
        """A host is killed by its node, perhaps because of its ``setup``."""
        for loaded in self.service.loaded.values() if self.service is not None else ():
            if loaded.host is host and loaded.failure:  # type: ignore[comparison-overlap]
                self.note_refusal()
                if "longer than" in loaded.failure and self.world.now - host.began < loaded.limit_s:
                    self.world.fail(f"{self.name}: setup is given up before its time is over")

    def key_of(self, host: HostProcess) -> tuple[bytes, int]:
        """Whose computation a host is given, and which."""
        assert self.service is not None
        return next(key for key, loaded in self.service.loaded.items() if loaded.host is host)  # type: ignore[comparison-overlap]

    def is_wanted(self, host: HostProcess, job: Job) -> bool:
        """Whether somebody still waits for this attempt of a job."""
        service = self.service
        if service is None:
            return False
        for key, loaded in service.loaded.items():
            if loaded.host is host:
                computation = service.machine.state.computations.get(key)
                current = computation.open.get(job.number) if computation is not None else None
                return current is not None and current.attempt == job.attempt
        return False

    @property
    def has_files(self) -> bool:
        """Whether computations have files."""
        return self.work is not None

    def find_wrong_file(self, host: HostProcess, work: Path, entry: Entry) -> str | None:
        """What is wrong in a working directory in which a job runs; what a dead node has left is nobody's."""
        service = self.service
        if service is None or self.work is None or host.incarnation != self.incarnation:
            return None
        if entry.files:
            wrong = find_wrong_of(work, entry.files)
            if wrong is not None:
                return f"of its files {wrong}"
        loaded = next((loaded for loaded in service.loaded.values() if loaded.host is host), None)
        if loaded is None:
            return None  # the computation has been closed
        brought = loaded.brought._placed if loaded.brought is not None else {}
        wrong = self.work.find_wrong(work, brought)
        if wrong is not None:
            return f"of the files of its computation {wrong}"
        account, number = self.ledger[host.client].of(host.computation)
        sent = account.sent.get((number, self.host), {})
        wrong = find_wrong_among(
            work, {path: digests for path, digests in sent.items() if path not in brought}
        )
        return None if wrong is None else f"of the files that were sent {wrong}"

    # The node.

    def start(self) -> None:
        """Start a node, unless one runs; it kills what an earlier one has left behind."""
        if self.service is not None or not self.machine.is_up:
            self._starts_again = self._is_stopping
            return
        for host in list(self.hosts):
            host.die(-9)
        self._starts += 1
        world = self.world
        self.files = Files()
        if self.root is not None:
            self.work = WorkSpace(self.root / "work")
        self.party = world.party(f"{self.name}.{self._starts}")
        self.world.note(self.party.name, f"starts with {self.cpus} CPUs")
        loop = Loop(world, self.party, self.network, self.host)
        settings = NodeSettings(
            cpus=self.cpus, name=self.name, owner=1, lease_s=self.lease_s, silence_s=self.silence_s
        )
        incarnation = self.incarnation = world.random.randbytes(16)
        spare = HostProcess(self, workers_max(self.cpus))
        files: Any = self.files
        work: Any = self.files if self.work is None else self.work
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(loop)
        try:
            cpus = self.cpus
            parts = NodeParts(
                SECRET, None, (), cpus, cpus, spare, incarnation, files, None, work, self.kept, clock=world,  # type: ignore[arg-type]
                read_available=lambda: Available(50.0, 1 << 30, 1 << 40, 100.0),
                new_network=self.network.air.of(self.party, self.host),
            )  # fmt: skip
            self.service = Service(self, settings, parts)
            self.service.start()
        finally:
            asyncio._set_running_loop(before)

    def _on_ended(self, task: asyncio.Task[None]) -> None:
        """The service has returned in good order."""
        if task.exception() is not None:
            self.world.fail(f"{self.name} ends with {task.exception()!r}")
        if self.service is not None and self.service.failed:
            self.world.fail(f"{self.name} stops because of a fault of its own")
        if self.hosts:
            self.world.fail(f"{self.name} ends and leaves {len(self.hosts)} hosts behind")
        self._gone("end", is_closed=True)
        if self._starts_again:
            self._starts_again = False
            self.world.soon(self.world.nature, self.start)

    def stop_node(self) -> None:
        """SIGTERM: the node ends in good order."""
        if self.service is not None and self.party is not None and not self._is_stopping:
            self._is_stopping = True
            self.world.soon(self.party, self._stop, self.service)

    def _stop(self, service: Service) -> None:
        service.stop()
        # Not before: a coroutine that never ends would do so when memory is freed, and not in virtual time.
        task = asyncio.get_running_loop().create_task(service.run())
        task.add_done_callback(lambda task: self._on_ended(task))

    def kill_node(self, how: str = "reset") -> None:
        """SIGKILL: its connections end, its hosts have a death signal."""
        if self.service is None:
            return
        self._gone(how)
        for host in list(self.hosts):
            # SIGTERM, which a host that is stopped does not see.
            self.reach(host.party, host.die, 0)

    def _gone(self, how: str, *, is_closed: bool = False) -> None:
        party = self.party
        assert party is not None
        party.kill()
        self.deaths += 1
        if self.service is not None and not is_closed:
            self.service.kill_spool()
        self.kept.close()
        self.machine.listener = None
        self.network.drop(party, how)
        self.service = None
        self.party = None
        self._is_stopping = False

    def power_off(self) -> None:
        """Everything on it is gone at once, and nobody is told."""
        self.machine.is_up = False
        if self.service is not None:
            self._gone("silent")
        for host in list(self.hosts):
            host.die(-9)
        self.kept.lose()
        lost = self.disk.lose_power() if self.disk is not None else []
        if lost:
            self.world.note(self.name, f"has lost what was not synced: {lost}")

    def power_on(self) -> None:
        """It is there again, without a node."""
        self.machine.is_up = True

    def set_cpus(self, cpus: int) -> None:
        """The node offers another number of CPUs, up to what it was started with."""
        service = self.service
        if service is not None and self.party is not None:
            self.world.soon(self.party, service.set_cpus, min(cpus, service.cpus_most))

    def show(self, event: core.Event, actions: list[core.Action]) -> None:
        """Tell who reads the trace."""
        with contextlib.suppress(AttributeError):
            self.world.note(self.party.name if self.party else self.name, show_event(event, actions))
