"""What goes wrong: one kind of fault after the other, at random, each undone after a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .world import Handle, World

if TYPE_CHECKING:
    from .computer import Computer
    from .network import End, Network
    from .program import Program
    from .recovery import Estate
    from .shared_scheduler import SharedScheduler

Undo = Callable[[], None]


class Faults:
    """Chance that is against everybody.

    Args:
        world: Where it strikes.
        network: What it cuts.
        computers: Whom it may hit.
        programs: Whom it may hit, also those that start later.
        estates: Those of dead programs, with whoever recovers them.
        weights: How often each kind comes, by its name; the others never.
        pause_s: Mean time from one fault to the next (seconds).
        longest_s: The longest that one lasts (seconds).
        scheduler: The shared scheduler, through which programs reach nodes; None: each reaches them itself.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        computers: list[Computer],
        programs: list[Program],
        estates: list[Estate],
        weights: dict[str, float],
        pause_s: float,
        longest_s: float,
        scheduler: SharedScheduler | None = None,
    ) -> None:
        self.counts: dict[str, int] = {}
        self.is_on = True
        self._world = world
        self._network = network
        self._computers = computers
        self._programs = programs
        self._estates = estates
        self._scheduler = scheduler
        self._names = list(weights)
        self._weights = list(weights.values())
        self._pause_s = pause_s
        self._longest_s = longest_s
        self._undos: dict[int, tuple[Undo, Handle]] = {}
        self._next_undo = 1
        self.kinds: dict[str, Callable[[], bool]] = {
            "reset": self._reset,
            "half open": self._half_open,
            "black hole": self._black_hole,
            "partition": self._partition,
            "one way": self._one_way,
            "slow path": self._slow_path,
            "loss": self._loss,
            "node killed": self._kill_node,
            "node stopped": self._stop_node,
            "power": self._power,
            "node stands still": self._freeze_node,
            "program stands still": self._freeze_program,
            "program crashes": self._crash_program,
            "host killed": self._kill_host,
            "host stands still": self._freeze_host,
            "worker killed": self._kill_worker,
            "worker stands still": self._freeze_worker,
            "slow node": self._slow_node,
            "loads fail": self._loads_fail,
            "forks fail": self._forks_fail,
            "memory full": self._memory_full,
            "cpus": self._change_cpus,
            "clock jumps": self._jump,
            "recovery killed": self._kill_recovery,
            "disk full": self._disk_full,
            "disk damaged": self._damage_disk,
            "setups hang": self._setups_hang,
            "file changes": self._change_file,
            "file unreadable": self._hide_file,
            "store full": self._fill_store,
            "store trimmed": self._trim_store,
            "file received by another": self._receive_elsewhere,
            "slow disk": self._slow_disk,
            "scheduler killed": self._kill_scheduler,
            "scheduler stands still": self._freeze_scheduler,
            "beacons repeated": self._repeat_beacons,
            "air bad": self._spoil_air,
        }
        if self._names:
            self._schedule()

    def _schedule(self) -> None:
        delay = self._world.random.expovariate(1.0 / self._pause_s)
        self._world.after(delay, self._world.nature, self._strike)

    def _strike(self) -> None:
        if not self.is_on:
            return
        self._schedule()
        name = self._world.random.choices(self._names, self._weights)[0]
        if self.kinds[name]():
            self.counts[name] = self.counts.get(name, 0) + 1

    def stop(self) -> None:
        """No more faults; those that last are undone."""
        self.is_on = False
        for undo, handle in list(self._undos.values()):
            handle.cancel()
            undo()
        self._undos.clear()
        for computer in self._computers:
            computer.power_on()
            computer.start()
        if self._scheduler is not None:
            self._scheduler.start()

    # Choosing.

    def _seconds(self) -> float:
        """How long a fault lasts: short ones are as frequent as long ones."""
        shortest = 0.002
        return shortest * (self._longest_s / shortest) ** self._world.chance()

    def _for_a_while(self, undo: Undo, seconds: float | None = None) -> None:
        key = self._next_undo
        self._next_undo += 1

        def end() -> None:
            if self._undos.pop(key, None) is not None:
                undo()

        seconds = self._seconds() if seconds is None else seconds
        self._undos[key] = (undo, self._world.after(seconds, self._world.nature, end))

    def _note(self, text: str) -> None:
        self._world.note("fault", text)

    def _computer(self) -> Computer:
        return self._world.random.choice(self._computers)

    def _program(self) -> Program | None:
        alive = [program for program in self._programs if program.is_alive]
        return self._world.random.choice(alive) if alive else None

    def _end(self) -> End | None:
        ends = self._network.ends()
        return self._world.random.choice(ends) if ends else None

    # The network.

    def _reset(self) -> bool:
        """Somebody on the way ends a connection; both sides are told."""
        end = self._end()
        if end is None:
            return False
        self._note(f"connection {end.machine.host} - {end.peer.machine.host} is reset")
        for side in (end, end.peer):
            if not side.is_gone:
                self._world.arrive(self._world.now + side.path.delay_s, side.party, side.reset)
        return True

    def _half_open(self) -> bool:
        """One side is told that the connection is gone; what the other says vanishes."""
        end = self._end()
        if end is None:
            return False
        self._note(f"connection {end.machine.host} - {end.peer.machine.host} is half open")
        end.is_deaf = end.peer.is_deaf = True
        self._world.arrive(self._world.now, end.party, end.reset)
        return True

    def _black_hole(self) -> bool:
        """What is said vanishes, in one direction or in both; nobody is told."""
        end = self._end()
        if end is None:
            return False
        self._note(f"connection {end.machine.host} - {end.peer.machine.host} is a black hole")
        end.is_deaf = True
        end.peer.is_deaf = self._world.chance() < 0.6
        return True

    def _pair(self) -> tuple[str, str] | None:
        program = self._program()
        if program is None:
            return None
        if self._scheduler is None:
            return program.host, self._computer().host
        hub = self._scheduler.host
        return (program.host, hub) if self._world.chance() < 0.5 else (hub, self._computer().host)

    def _partition(self) -> bool:
        """A program and a node cannot reach each other; or one of them can reach nobody."""
        pair = self._pair()
        if pair is None:
            return False
        program, computer = pair
        pairs = [pair]
        if self._world.chance() < 0.3:
            if self._scheduler is not None:
                pairs = [(other.host, self._scheduler.host) for other in self._programs]
            elif self._world.chance() < 0.5:
                pairs = [(program, other.host) for other in self._computers]
            else:
                pairs = [(other.host, computer) for other in self._programs]
        both = [(a, b) for a, b in pairs] + [(b, a) for a, b in pairs]
        both = [(a, b) for a, b in both if not self._network.path(a, b).is_cut]
        return self._cut(both)

    def _one_way(self) -> bool:
        """What one says to the other does not arrive."""
        pair = self._pair()
        if pair is None:
            return False
        a, b = pair if self._world.chance() < 0.5 else (pair[1], pair[0])
        return not self._network.path(a, b).is_cut and self._cut([(a, b)])

    def _cut(self, pairs: list[tuple[str, str]]) -> bool:
        if not pairs:
            return False
        self._note(f"cut: {', '.join(f'{a} > {b}' for a, b in pairs)}")
        for a, b in pairs:
            self._network.cut(a, b)

        def mend() -> None:
            self._note(f"mended: {', '.join(f'{a} > {b}' for a, b in pairs)}")
            for a, b in pairs:
                self._network.mend(a, b)

        self._for_a_while(mend)
        return True

    def _slow_path(self) -> bool:
        """A path is slow for a while."""
        pair = self._pair()
        if pair is None:
            return False
        path = self._network.path(*pair)
        delay_s, per_byte_s = path.delay_s, path.per_byte_s
        if delay_s > 0.05:
            return False
        path.delay_s += 0.6 * self._world.chance()
        path.per_byte_s = 1e-6

        def undo() -> None:
            path.delay_s, path.per_byte_s = delay_s, per_byte_s

        self._for_a_while(undo)
        return True

    def _loss(self) -> bool:
        """Packets are lost, in both directions, for a while."""
        pair = self._pair()
        if pair is None:
            return False
        paths = [self._network.path(*pair), self._network.path(*reversed(pair))]
        if any(path.loss for path in paths):
            return False
        loss = 0.5 * self._world.chance() ** 2
        self._note(f"packets are lost: {pair[0]} - {pair[1]}, {loss:.0%}")
        for path in paths:
            path.loss = loss

        def undo() -> None:
            for path in paths:
                path.loss = 0.0

        self._for_a_while(undo)
        return True

    def _repeat_beacons(self) -> bool:
        """Somebody sends beacons again, true copies and changed ones, from any address."""
        return self._network.air.attack()

    def _spoil_air(self) -> bool:
        """Most datagrams are lost for a while, and the others copied or late."""
        air = self._network.air
        before = air.loss, air.copies, air.lateness
        if air.loss > 0.5:
            return False
        air.loss, air.copies, air.lateness = 0.6 + 0.4 * self._world.chance(), 0.5, 0.5

        def undo() -> None:
            air.loss, air.copies, air.lateness = before

        self._for_a_while(undo)
        return True

    # Nodes and their machines.

    def _kill_node(self) -> bool:
        """A node is killed; another is started there after a while."""
        computer = self._computer()
        if computer.service is None:
            return False
        self._note(f"{computer.name} is killed")
        computer.kill_node("reset" if self._world.chance() < 0.5 else "end")
        self._for_a_while(computer.start)
        return True

    def _stop_node(self) -> bool:
        """A node is stopped in good order."""
        computer = self._computer()
        if computer.service is None:
            return False
        self._note(f"{computer.name} is stopped")
        computer.stop_node()
        self._for_a_while(computer.start, 0.5 + self._seconds())
        return True

    def _power(self) -> bool:
        """A machine loses its power."""
        computer = self._computer()
        if not computer.machine.is_up:
            return False
        self._note(f"{computer.name} has no power")
        computer.power_off()

        def undo() -> None:
            computer.power_on()
            computer.start()

        self._for_a_while(undo)
        return True

    def _freeze(self, party: object, name: str) -> bool:
        from .world import Party

        assert isinstance(party, Party)
        if not party.is_running:
            return False
        self._note(f"{name} stands still")
        party.stop()

        def undo() -> None:
            self._note(f"{name} goes on")
            party.go_on()

        self._for_a_while(undo)
        return True

    def _freeze_node(self) -> bool:
        computer = self._computer()
        return computer.party is not None and self._freeze(computer.party, computer.name)

    def _freeze_program(self) -> bool:
        program = self._program()
        return program is not None and self._freeze(program.party, program.name)

    def _freeze_host(self) -> bool:
        hosts = list(self._computer().hosts)
        host = self._world.random.choice(hosts) if hosts else None
        return host is not None and self._freeze(host.party, host.party.name)

    def _freeze_worker(self) -> bool:
        workers = [worker for host in self._computer().hosts for worker in host.processes.values()]
        worker = self._world.random.choice(workers) if workers else None
        return worker is not None and self._freeze(worker.party, worker.party.name)

    def _kill_host(self) -> bool:
        """A computation's host, or a spare one, is killed."""
        computer = self._computer()
        hosts = list(computer.hosts)
        if not hosts:
            return False
        host = self._world.random.choice(hosts)
        self._note(f"{host.party.name} of {computer.name} is killed")
        host.die(-9)
        return True

    def _kill_worker(self) -> bool:
        """A worker is killed."""
        computer = self._computer()
        workers = [worker for host in computer.hosts for worker in host.processes.values()]
        if not workers:
            return False
        worker = self._world.random.choice(workers)
        self._note(f"worker {worker.id} of {computer.name} is killed")
        worker.die(-9)
        return True

    def _slow_node(self) -> bool:
        """Everything on a machine takes longer."""
        computer = self._computer()
        if computer.slowness > 1.0:
            return False
        computer.slowness = 2.0 + 50.0 * self._world.chance() ** 3

        def undo() -> None:
            computer.slowness = 1.0

        self._for_a_while(undo)
        return True

    def _loads_fail(self) -> bool:
        """Computations cannot be loaded."""
        computer = self._computer()
        computer.loads_fail = True

        def undo() -> None:
            computer.loads_fail = False

        self._for_a_while(undo)
        return True

    def _forks_fail(self) -> bool:
        """No processes can be started."""
        computer = self._computer()
        computer.forks_fail = True

        def undo() -> None:
            computer.forks_fail = False

        self._for_a_while(undo)
        return True

    def _setups_hang(self) -> bool:
        """``setup`` waits for something that does not come."""
        computer = self._computer()
        computer.setups_hang = True

        def undo() -> None:
            computer.setups_hang = False

        self._for_a_while(undo)
        return True

    def _memory_full(self) -> bool:
        """The memory file system, and the disk, are full."""
        computer = self._computer()
        files = computer.files
        if files.is_full:
            return False
        self._note(f"{computer.name} has no room")
        computer.note_refusal()
        files.is_full = True

        def undo() -> None:
            files.is_full = False

        self._for_a_while(undo)
        return True

    def _change_cpus(self) -> bool:
        """A node offers another number of CPUs."""
        computer = self._computer()
        if computer.service is None:
            return False
        computer.set_cpus(int(self._world.chance() * (computer.cpus + 1)))
        self._for_a_while(lambda: computer.set_cpus(computer.cpus))
        return True

    def _jump(self) -> bool:
        """Somebody sets the clocks, which no decision depends on."""
        self._world.shift_s += (self._world.chance() - 0.5) * 10.0 ** (6.0 * self._world.chance())
        self._note(f"clocks are {self._world.shift_s:+.3f} s off")
        return True

    # The shared scheduler.

    def _kill_scheduler(self) -> bool:
        """The shared scheduler is killed, or its machine loses its power; another one is started after a while."""
        scheduler = self._scheduler
        if scheduler is None or scheduler.hub is None:
            return False
        self._note("the scheduler is killed")
        scheduler.kill(self._world.random.choice(["reset", "end", "silent"]))
        self._for_a_while(scheduler.start)
        return True

    def _freeze_scheduler(self) -> bool:
        scheduler = self._scheduler
        return (
            scheduler is not None
            and scheduler.party is not None
            and self._freeze(scheduler.party, "scheduler")
        )

    # Programs.

    def _crash_program(self) -> bool:
        """A program is killed, or its machine loses its power; it does not come back."""
        program = self._program()
        if program is None or program.is_resuming:
            return False
        program.crash(self._world.random.choice(["reset", "end", "silent"]))
        return True

    # What is left of dead programs.

    def _kill_recovery(self) -> bool:
        """Somebody who recovers is killed, or his machine loses its power."""
        alive = [estate.recovery for estate in self._estates if estate.recovery is not None]
        if not alive:
            return False
        recovery = self._world.random.choice(alive)
        recovery.kill(self._world.random.choice(["reset", "end", "silent"]))
        return True

    def _disk_full(self) -> bool:
        """Nothing can be written to a node's spool."""
        disk = self._computer().disk
        if disk is None or disk.is_full:
            return False
        disk.is_full = True

        def undo() -> None:
            disk.is_full = False

        self._for_a_while(undo)
        return True

    def _damage_disk(self) -> bool:
        """A file of a spool is not what it was."""
        computer = self._computer()
        files = computer.disk.files() if computer.disk is not None else []
        if computer.disk is None or not files:
            return False
        path = self._world.random.choice(files)
        self._note(f"{path.name} of {computer.name} is damaged")
        self._world.has_damage = True
        computer.disk.damage(path, self._world.chance())
        computer.deaths += 1
        return True

    # Files.

    def _change_file(self) -> bool:
        """A file of a program changes after that has looked at it; that shows by its time, or not."""
        program = self._program()
        digest = program.shipped.choose() if program is not None else None
        if program is None or digest is None:
            return False
        shows = self._world.chance() < 0.5
        self._note(
            f"a file of {program.name} changes, {digest[:3].hex()}{'' if shows else ', which does not show'}"
        )
        program.shipped.troubled.add(digest)
        (program.shipped.changed if shows else program.shipped.lies).add(digest)
        return True

    def _hide_file(self) -> bool:
        """A file of a program cannot be read for a while."""
        program = self._program()
        digest = program.shipped.choose() if program is not None else None
        if program is None or digest is None:
            return False
        shipped = program.shipped
        self._note(f"a file of {program.name} cannot be read, {digest[:3].hex()}")
        shipped.troubled.add(digest)
        shipped.unreadable.add(digest)
        self._for_a_while(lambda: shipped.unreadable.discard(digest))
        return True

    def _fill_store(self) -> bool:
        """The disk with a computer's store and working directories is full."""
        computer = self._computer()
        if computer.kept.is_full:
            return False
        self._note(f"the disk of {computer.name} is full")
        self._world.has_disk_trouble = True
        computer.kept.is_full = True

        def undo() -> None:
            computer.kept.is_full = False

        self._for_a_while(undo)
        return True

    def _trim_store(self) -> bool:
        """Other nodes of a computer have removed some files from the store, or all of its disk was damaged."""
        computer = self._computer()
        is_cut = self._world.chance() < 0.7
        self._note(f"files of {computer.name} are removed from its store")
        if is_cut:
            computer.kept.cut()
        else:
            computer.kept.lose()
        return True

    def _receive_elsewhere(self) -> bool:
        """Another node of a computer receives a file that programs have here; with luck it comes to an end."""
        computer = self._computer()
        program = self._program()
        digest = program.shipped.choose() if program is not None else None
        other = computer.kept.begin_other(digest) if digest is not None else None
        if digest is None or other is None:
            return False
        self._note(f"another node of {computer.name} receives {digest[:3].hex()}")
        kept, chance = computer.kept, self._world.chance
        seconds = self._seconds()
        for part in range(int(chance() * 5)):
            self._world.after(seconds * part / 5, self._world.nature, kept.go_on_other, digest, other)
        is_whole = chance() < 0.7
        self._for_a_while(lambda: kept.end_other(digest, other, is_whole=is_whole), seconds)
        return True

    def _slow_disk(self) -> bool:
        """Whatever a computer does with files takes longer."""
        computer = self._computer()
        if computer.delay > 1.0:
            return False
        computer.delay = 2.0 + 1000.0 * self._world.chance() ** 3
        self._note(f"the disk of {computer.name} is {computer.delay:.0f} times as slow")

        def undo() -> None:
            computer.delay = 1.0

        self._for_a_while(undo)
        return True
